"""What the name of a model stands for: a folder whose files are looked at before any library opens them, or a Hub id.

Reads names, listings and the first bytes of files; torch and transformers are not loaded here.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

from tutelage.artifacts import check_seal
from tutelage.errors import TutelageError, option

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9_][\w.\-]*)?")
"""``name`` or ``owner/name``, as the Hub allows them."""

VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model",
    "sentencepiece.model", "bpe.codes", "merges.txt",
)  # fmt: skip
"""Files one of which every tokenizer of the supported families has."""

COMPANIONS = (
    "config.json", *VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    # the parts of a sentence encoder
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json",
    "2_Dense/config.json", "2_Dense/model.safetensors", "[23]_Normalize/config.json",
)  # fmt: skip
"""Files of a model beside its weights, as patterns."""

POINTER = b"version https://git-lfs"
"""The first bytes of what git-lfs leaves in place of a file that was not fetched."""

PACKED = "packed.safetensors"
"""The weights of a packed model (:mod:`tutelage.students.coded`)."""
FOREIGN = {
    "*.gguf": "GGUF weights, made for llama.cpp",
    "*.onnx": "an ONNX graph, which cannot be trained",
    "onnx/*.onnx": "an ONNX graph, which cannot be trained",
    "tf_model*.h5": "TensorFlow weights",
    "*.ckpt.index": "TensorFlow weights",
    "saved_model.pb": "TensorFlow weights",
    "flax_model*.msgpack": "Flax weights",
    "rust_model.ot": "weights for Rust",
    "*.ckpt": "a checkpoint of PyTorch Lightning",
    "*.pt": "weights under another name than model.safetensors",
    "*.pth": "weights under another name than model.safetensors",
}
"""Weights of other programs: file names, and what they are."""

SAFE = (
    "load it where it was made and write it with save_pretrained(FOLDER), which gives config.json and model.safetensors"
)


def resolve(name: str) -> str:
    """The folder of a model, or its Hub id as it is given.

    Of the folder of a run this is ``student/`` in it. What looks like a path is never looked up on the Hub.

    Raises:
        TutelageError: for a path that does not exist, a file, or a folder without a checkpoint; it says what is there instead.
    """
    path = _expanded(name)
    if path.is_dir():
        return _in_folder(name, path)
    if path.exists():
        raise TutelageError(f"the model {name!r} is a file; name the folder that holds it, with its config.json")
    if looks_like_path(name):
        raise TutelageError(f"there is no folder {name!r}{near(path)}")
    return name


def resolve_tokenizer(name: str) -> str:
    """The folder or Hub id of a tokenizer, which may lie alone in its folder; else as :func:`resolve`."""
    path = _expanded(name)
    alone = path.is_dir() and any((path / one).is_file() for one in VOCABULARIES)
    return str(path) if alone else resolve(name)


def looks_like_path(name: str) -> bool:
    """Whether a name can be no Hub id, or begins with a folder of this machine."""
    first = name.replace("\\", "/").partition("/")[0]
    ending = name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".ckpt"))
    return not HUB_ID.fullmatch(name) or ending or ("/" in name and Path(first).exists())


def _expanded(name: str) -> Path:
    if not name.strip() or "\0" in name:
        raise TutelageError(f"{name!r} names no model; give a folder or a Hub id")
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, or a name that is too long
        reason = getattr(error, "strerror", None) or error
        raise TutelageError(f"{name[:80]!r} is no path ({reason}); give a folder or a Hub id") from None
    return path


def near(path: Path) -> str:
    """``; X holds a, b: correct the path``."""
    found = similar(path)
    return f"{found}: correct the path" if found else "; correct the path"


def similar(path: Path) -> str:
    """``; X holds a, b``: names like the first part of a path that does not exist; empty without any."""
    parent, missing = path.parent, path.name
    while not os.path.isdir(parent) and parent != parent.parent:
        parent, missing = parent.parent, parent.name
    try:
        there = sorted(one.name for one in parent.iterdir() if one.is_dir())
    except OSError:
        return ""
    close = difflib.get_close_matches(missing, there, n=3, cutoff=0.6)
    return f"; {str(parent)!r} holds {', '.join(map(repr, close))}" if close else ""


# ------------------------------------------------------------------------------------------------------ what a folder holds


def _in_folder(name: str, path: Path) -> str:
    config, inside = path / "config.json", path / "student"
    if config.is_file() and not _is_adapter(path):
        return str(path)
    if (inside / "config.json").is_file():
        return str(inside)
    raise TutelageError(f"the model {name!r} {_other_folder(path)}")


def _is_adapter(path: Path) -> bool:
    return (path / "adapter_config.json").is_file()


def _other_folder(path: Path) -> str:
    """What a folder is that is no checkpoint, with the remedy."""
    if _is_adapter(path):
        base = _json(path / "adapter_config.json").get("base_model_name_or_path")
        beside = (
            "; if its weights are merged already, or are to be used without the adapter, move adapter_config.json away"
        )
        return (
            f"holds a LoRA adapter of {base!r}, not a whole model; merge it first: in Python peft's "
            f"AutoPeftModelForSequenceClassification.from_pretrained({str(path)!r}).merge_and_unload().save_pretrained(FOLDER), "
            f"with the tokenizer beside it{beside if weight_files(path) else ''}"
        )
    if (steps := _steps(path)) and (best := _best_step(path, steps)):
        return f"is the output folder of a Trainer; name one of its {len(steps)} checkpoints: {best}"
    for module in _modules(path):
        if (path / module / "config.json").is_file():
            return f"is a folder of sentence-transformers; name the model in it: {str(path / module)!r}"
    snapshots = sorted(path.glob("snapshots/*/config.json"), key=os.path.getmtime)
    if snapshots:
        return f"is a folder of the Hub's cache; name the snapshot in it: {str(snapshots[-1].parent)!r}"
    if (path / "teacher" / "config.json").is_file() and (path / "manifest.json").is_file():
        return f"is a store of a teacher's knowledge, not a model; give it with {option('teacher_store')} {path}"
    for pattern, what in FOREIGN.items():
        if (found := _first(path, pattern)) is not None:
            return f"holds {what} ({found}), and no config.json; {SAFE}"
    if weight_files(path):
        return f"holds weights ({weight_files(path)[0].name}), but no config.json; {SAFE}"
    within = sorted(one.parent.name for one in path.glob("*/config.json"))
    if within:
        return f"holds no config.json; name one of the folders in it: {', '.join(map(repr, within[:4]))}"
    return "holds no config.json, so it is no checkpoint; name a folder that save_pretrained has written"


def _steps(path: Path) -> list[Path]:
    """The checkpoints in the output folder of a Trainer, in order of training."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", one.name), one) for one in path.iterdir() if one.is_dir()]
    numbered = sorted((int(match[1]), one) for match, one in found if match and (one / "config.json").is_file())
    return [one for _, one in numbered]


def _best_step(path: Path, steps: list[Path]) -> str:
    """The checkpoint that the Trainer calls the best, or the last."""
    state = _json(steps[-1] / "trainer_state.json") or _json(path / "trainer_state.json")
    best = Path(str(state.get("best_model_checkpoint"))).name
    if best in [one.name for one in steps]:
        return f"{str(path / best)!r}, the best by its trainer_state.json"
    return f"{str(steps[-1])!r}, the last"


def _modules(path: Path) -> list[str]:
    """The folders of the modules of a sentence-transformers model."""
    return [one for one in _named(path, "path") if one]


def pools(path: Path) -> bool:
    """Whether a folder is that of a sentence encoder, which pools its tokens."""
    return any(one.rpartition(".")[2] == "Pooling" for one in _named(path, "type"))


def _named(path: Path, key: str) -> list[str]:
    """A field of the modules of a sentence-transformers model."""
    tree = _read(path / "modules.json")
    found = [one.get(key) for one in tree if isinstance(one, dict)] if isinstance(tree, list) else []
    return [one for one in found if isinstance(one, str)]


def _json(path: Path) -> dict[str, Any]:
    tree = _read(path)
    return tree if isinstance(tree, dict) else {}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _first(path: Path, pattern: str) -> str | None:
    found = sorted(path.glob(pattern))
    return str(found[0].relative_to(path)) if found else None


# ----------------------------------------------------------------------------------------------------------- files by kind


def weight_files(path: Path) -> list[Path]:
    """The files with a model's weights in its folder: safetensors, or else pickled state dicts."""
    return sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))


def check_weights(name: str, path: Path) -> None:
    """See that a folder's weights are there, and whole as far as their names and first bytes tell.

    Raises:
        TutelageError: when they are not.
    """
    files = weight_files(path)
    if not files and (path / PACKED).is_file():
        raise TutelageError(
            f"the model {name!r} is packed; make a plain one of it: `tutelage unpack {name} --out FOLDER`"
        )
    if not files and _first(path, "*.onnx") and (made_of := _json(path / "export.json").get("model")):
        raise TutelageError(
            f"{name!r} is an export of the model {made_of!r}, without weights to load; name that model; the scores of the exported "
            "files are in export.json"
        )
    if not files:
        for pattern, what in FOREIGN.items():
            if (found := _first(path, pattern)) is not None:
                raise TutelageError(f"the model {name!r} holds {what} ({found}); {SAFE}")
        raise TutelageError(f"the model {name!r} holds no weights (model.safetensors); {SAFE}")
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        places = _json(path / index).get("weight_map")
        whole = (path / index.removesuffix(".index.json")).is_file()
        wanted = {str(one) for one in places.values()} if isinstance(places, dict) and not whole else set[str]()
        if missing := sorted(one for one in wanted if not (path / one).is_file()):
            raise TutelageError(
                f"the model {name!r} lacks {missing[0]}, one of {len(wanted)} files that {index} names; fetch the model again"
            )
    for one in files:
        check_fetched(name, one)
        with one.open("rb") as opened:
            start = opened.read(2)
        if one.suffix == ".safetensors":
            try:
                check_seal(one)
            except ValueError:
                raise TutelageError(
                    f"{one.name} of the model {name!r} is not as it was written; copy or fetch it again, or repeat the run that "
                    "made it"
                ) from None
        # A state dict is a zip file, or (before PyTorch 1.6) a pickle.
        if one.suffix == ".bin" and not (start == b"\x80\x02" or (start == b"PK" and zipfile.is_zipfile(one))):
            raise TutelageError(
                f"{one.name} of the model {name!r} is no whole file of PyTorch's weights; fetch the model again"
            )


def check_fetched(name: str, file: Path) -> None:
    """See that a file holds something, and that it is not what git-lfs leaves in its place.

    Raises:
        TutelageError: when it does not, or is.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
    except OSError as error:
        raise TutelageError(f"{file.name} of the model {name!r} cannot be read: {error.strerror}") from None
    if start == POINTER:
        raise TutelageError(
            f"{file.name} of the model {name!r} is a pointer of git-lfs, not the file; run `git lfs pull` in its folder"
        )
    if not start:
        raise TutelageError(f"{file.name} of the model {name!r} is empty; fetch the model again")
