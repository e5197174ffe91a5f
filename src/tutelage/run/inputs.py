"""Objects given in place of paths. They are written to ``OUT/inputs/``, so that a run's config.yaml can repeat it.

File names contain a checksum of the content. Equal objects have equal paths, so a run resumed with equal objects has the same
configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tutelage.data.config import DataConfig, DataOptions, FilePath, Frame, Table
from tutelage.errors import TutelageError
from tutelage.tasks import kind_of

Model = FilePath | tuple[Any, Any]
"""A model: a folder, a hub id, or ``(model, tokenizer)``."""

Splits = Mapping[str, Table]
"""Tables by the name of their split, as in a ``datasets.DatasetDict``."""

FOLDER = "inputs"
EVALUATION = ("dev", "validation", "test")
"""Names of the split to evaluate on; the first that exists is used."""


class Inputs:
    """The objects of one call, written below ``out``. Without ``out`` they go to a folder that is removed at the end. A
    context manager.
    """

    def __init__(self, out: FilePath | None = None) -> None:
        self._out = None if out is None else Path(os.path.expanduser(out))
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Inputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def model(self, given: Model, name: str) -> str:
        """The path of a model; ``(model, tokenizer)`` is written as a checkpoint.

        Raises:
            TutelageError: for an object that is no model with its tokenizer; or for another than that of the run in ``out``.
        """
        if isinstance(given, str | os.PathLike):
            return os.path.expanduser(os.fspath(given))
        if not isinstance(given, tuple) or len(given) != 2 or not all(hasattr(one, "save_pretrained") for one in given):
            raise TutelageError(
                f"{name}={type(given).__name__} is not a model; give a folder, a hub id or (model, tokenizer)"
            )
        model, tokenizer = given
        digest = hashlib.sha256(_settings_of(model.config).encode())
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
        for key, value in model.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(_bytes()).numpy().tobytes())
        place = self._place(f"{name}-{digest.hexdigest()[:12]}", name)
        if not place.exists():
            partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            if place.exists():  # another process of the same run was faster
                shutil.rmtree(partial)
            else:
                partial.rename(place)
        return str(place)

    def data(self, data: DataConfig | Splits | None, options: DataOptions) -> dict[str, Any]:
        """The settings of :class:`DataConfig`; tables in memory are written as JSON lines, with the columns that are used.

        Raises:
            TutelageError: for a table without these columns, or another than that of the run in ``out``.
        """
        tree: dict[str, Any] = dict(options)
        if isinstance(data, DataConfig):
            tree = data.model_dump(exclude_unset=True) | tree
        elif data is not None:
            tree = _split(data) | tree
        columns = {
            "text": tree.get("text", "text"),
            "text_pair": tree.get("text_pair"),
            "label": tree.get("label", "label"),
        }
        labelled = tree.get("kind") is None or kind_of(tree["kind"]).learns_labels
        optional = () if labelled else (columns["text_pair"], columns["label"])
        for part in ("train", "dev", "unlabeled"):
            given = tree.get(part)
            if given is not None and not isinstance(given, str | os.PathLike):
                if tree.get("kind") in ("tokens", "spans"):
                    raise TutelageError(f"{part}: data of kind {tree['kind']} are read from files; give a path")
                wanted = [name for role, name in columns.items() if name and (role != "label" or part != "unlabeled")]
                tree[part] = self._table(given, part, wanted, columns["text"], columns["label"], optional)
        return tree

    def predictions(
        self, given: FilePath | Table | None, prior: str | Sequence[float] | None, data: DataConfig | Splits | None
    ) -> dict[str, Any] | None:
        """The settings of a file of predictions; a table in memory is written as JSON lines.

        Raises:
            TutelageError: as :meth:`data`; or a prior without predictions.
        """
        before = data.predictions if isinstance(data, DataConfig) else None
        tree: dict[str, Any] = {} if before is None else before.model_dump(exclude_unset=True)
        if given is None and before is None:
            if prior is not None:
                raise TutelageError("--prior corrects predictions; give them with --teacher-predictions FILE")
            return None
        if given is not None:
            if isinstance(given, str | os.PathLike):
                tree["file"] = given
            else:
                tree["file"] = self._table(
                    given, "predictions", list(_columns(given, "text", "label")), "text", "label"
                )
        return tree if prior is None else tree | {"prior": prior}

    def _table(self, given: Table, part: str, wanted: Sequence[str], text: str, label: str, optional: Any = ()) -> str:
        columns = _columns(given, text, label)
        wanted = [name for name in wanted if name in columns or name not in optional]
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise TutelageError(
                f"{part} has no column {missing[0]!r}; its columns are {', '.join(map(repr, columns))}: set text, "
                "text_pair or label"
            )
        rows = zip(*(columns[name] for name in wanted), strict=True)
        try:
            lines = [json.dumps(dict(zip(wanted, row, strict=True)), ensure_ascii=False) for row in rows]
        except (TypeError, ValueError) as error:
            raise TutelageError(f"{part} cannot be written as a table ({error}); give texts and plain labels") from None
        content = "".join(f"{line}\n" for line in lines)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        place = self._place(f"{part}-{digest}.jsonl", part)
        if not place.exists():
            partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
            partial.write_text(content, encoding="utf-8")
            os.replace(partial, place)
        return str(place)

    def _place(self, name: str, what: str) -> Path:
        """Where something is written; the folder exists."""
        if self._out is None:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="tutelage-")
            return Path(self._temporary.name) / name
        place = self._out / FOLDER / name
        if (self._out / "config.yaml").exists() and not place.exists():
            raise TutelageError(f"{str(self._out)!r} holds a run with another {what}; give another --out")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TutelageError(
                f"--out {str(self._out)!r} cannot be written ({error.strerror}); name another folder"
            ) from None
        return place


def _bytes() -> Any:
    import torch

    return torch.uint8


def _settings_of(config: Any) -> str:
    """A configuration without the fields that depend on where it was loaded from."""
    tree = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    return json.dumps(tree, sort_keys=True, default=str)


def _split(splits: Splits) -> dict[str, Any]:
    """Tables by the names that :class:`DataConfig` has for them."""
    evaluation = next((name for name in EVALUATION if name in splits), None)
    if "train" not in splits and evaluation is None:
        raise TutelageError(
            f"data has no split 'train', nor one to evaluate on ({', '.join(EVALUATION)}); it has {', '.join(map(repr, splits))}"
        )
    found = {"train": splits["train"]} if "train" in splits else {}
    if evaluation is not None:
        found["dev"] = splits[evaluation]
    if "unlabeled" in splits:
        found["unlabeled"] = splits["unlabeled"]
    return found


def _columns(given: Table, text: str, label: str) -> dict[str, list[Any]]:
    """A table's columns as plain lists; the classes of a ``ClassLabel`` by their names."""
    if isinstance(given, Mapping):
        columns = {name: _plain(values) for name, values in given.items()}
    elif isinstance(given, tuple) and len(given) == 2:
        columns = {text: _plain(given[0]), label: _plain(given[1])}
    elif hasattr(given, "to_parquet"):
        columns = _of_frame(given)
    elif given and all(isinstance(row, Mapping) for row in given):
        names = dict.fromkeys(name for row in given for name in row)
        columns = {str(name): [row.get(name) for row in given] for name in names}  # type: ignore[union-attr]
    else:
        columns = {text: _plain(given)}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TutelageError(f"the columns of a table have different lengths: {lengths}")
    return columns


def _of_frame(frame: Frame) -> dict[str, list[Any]]:
    features = getattr(frame, "features", None)
    if features is None:  # pandas
        return {str(name): _plain(values) for name, values in frame.items()}  # type: ignore[attr-defined]
    columns = {name: list(frame[name]) for name in features}  # type: ignore[index]
    for name, feature in features.items():
        if hasattr(feature, "int2str"):
            columns[name] = [None if v is None or v < 0 else feature.int2str(v) for v in columns[name]]
    return columns


def _plain(values: Any) -> list[Any]:
    """A column as a list of Python's own values, gaps as None, arrays as lists."""
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    return [None if isinstance(v, float) and v != v else v.tolist() if hasattr(v, "tolist") else v for v in found]
