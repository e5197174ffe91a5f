"""Sentence encoders: an encoder whose answer to a text is one vector, pooled from its last hidden states.

The folder format is that of sentence-transformers, read and written without it: ``modules.json`` names the parts, ``1_Pooling``
says how tokens become one vector, ``2_Dense`` holds a linear map, ``Normalize`` makes vectors unit length. The encoder itself is
an ordinary checkpoint, which plain transformers loads from the same folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import cached_file

from tutelage import anatomy
from tutelage.data.config import Pooling
from tutelage.errors import TutelageError

SPACE = "teacher_space"
"""The folder beside a student's parts with the map into the teacher's space; it is no module of sentence-transformers."""
POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
}
"""Values of ``pooling_mode``, and the flags that older versions write in its place."""
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh}


def plain_settings(pooling: Pooling | None = None) -> dict[str, Any]:
    """The head of an encoder whose folder says nothing about one: mean pooling, unit length."""
    return {
        "pooling": pooling or "mean",
        "normalize": True,
        "width": None,
        "projection": "dense",
        "dense": False,
        "bias": False,
        "activation": "Identity",
    }


def read_settings(name: str, config: Any, pooling: Pooling | None = None) -> dict[str, Any]:
    """The head of a sentence encoder: pooling, normalisation, and the form of its linear map.

    Args:
        name: A folder or a hub id.
        config: Its configuration; that of a store's teacher holds the head, since a store keeps no modules.
        pooling: For a folder that names none.

    Raises:
        TutelageError: the folder names a part that is not supported here, or another pooling.
    """
    modules = _read(name, "modules.json")
    said = getattr(config, "sentence", None) if modules is None else _of_modules(name, modules)
    found: dict[str, Any] = said or plain_settings(pooling)
    if pooling is not None and found["pooling"] != pooling:
        raise TutelageError(
            f"data.pooling={pooling} contradicts {name!r}, which says {found['pooling']}; leave out data.pooling"
        )
    return found


def _of_modules(name: str, modules: Any) -> dict[str, Any]:
    found = plain_settings() | {"normalize": False}
    order = []
    for module in modules:
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        order.append(kind)
        if kind == "Pooling":
            found["pooling"] = _pooling(name, _read(name, f"{path}/config.json") or {})
        elif kind == "Dense":
            found |= _dense(name, path)
        elif kind == "Normalize":
            found["normalize"] = True
    wanted = [kind for kind in ("Transformer", "Pooling", "Dense", "Normalize") if kind in order]
    if order != wanted or order[:2] != ["Transformer", "Pooling"]:
        raise TutelageError(
            f"{name!r} is made of {', '.join(order) or 'nothing'}; supported are Transformer, Pooling, at most one Dense, "
            "and Normalize, in this order"
        )
    prompt = (_read(name, "config_sentence_transformers.json") or {}).get("default_prompt_name")
    if prompt:
        raise TutelageError(
            f"{name!r} puts its prompt {prompt!r} before every text; put it into the texts and set default_prompt_name to "
            "null in config_sentence_transformers.json"
        )
    return found


def _pooling(name: str, config: dict[str, Any]) -> Pooling:
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or [])
    modes += [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise TutelageError(
            f"{name!r} pools by {', '.join(modes) or 'nothing'}; supported are the mean of all tokens and the first token"
        )
    return POOLINGS[modes[0]]


def _dense(name: str, path: str) -> dict[str, Any]:
    config = _read(name, f"{path}/config.json") or {}
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    weights = _file(name, f"{path}/model.safetensors")
    if weights is None or activation not in ACTIVATIONS:
        raise TutelageError(
            f"{name!r} has a Dense with activation {activation} and "
            f"{'no ' if weights is None else ''}safetensors; supported are Identity and Tanh in model.safetensors"
        )
    return {
        "dense": True,
        "width": int(config["out_features"]),
        "bias": bool(config.get("bias", True)),
        "activation": activation,
        # The weights of a teacher are named by its main file and this configuration.
        "digest": hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16],
    }


def _file(name: str, path: str) -> str | None:
    found: str | None = cached_file(
        name,
        path,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _read(name: str, path: str) -> Any:
    found = _file(name, path)
    if found is None:
        return None
    try:
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError as error:
        raise TutelageError(f"{found} is no JSON ({error}); correct it") from None


def width_of(config: Any) -> int:
    """The size of a sentence encoder's vectors."""
    return int(getattr(config, "sentence", {}).get("width") or anatomy.hidden_of(config))


class SentenceEncoder(nn.Module):
    """An encoder with pooling: texts in, one vector each.

    ``config.sentence`` describes the head (see :func:`plain_settings`). Where ``width`` is not the encoder's, a linear map
    follows the pooling: ``dense``, a part of the model; or ``space``, an isometry into the wider space of a teacher
    (``projection="pca"``). An isometry changes no cosine, so the saved model comes without it, at its own width.
    """

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        if getattr(encoder.config, "sentence", None) is None:
            encoder.config.sentence = plain_settings()
        head, hidden = encoder.config.sentence, anatomy.hidden_of(encoder.config)
        width = head["width"] or hidden
        self.dense: nn.Linear | None = None
        self.space: nn.Linear | None = None
        if head["projection"] == "pca" and hidden < width:
            self.space = nn.Linear(hidden, width, bias=False).requires_grad_(False)
        elif head["dense"] or hidden != width:
            self.dense = nn.Linear(hidden, width, bias=head["bias"])
        self.activation = ACTIVATIONS[head["activation"]]()

    @property
    def config(self) -> Any:
        """The configuration of the encoder, with the head as ``sentence``."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        device: torch.device = self.encoder.device
        return device

    def set_attn_implementation(self, name: Any) -> None:
        self.encoder.set_attn_implementation(name)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """Vectors ``(B, width)`` float32 of tokens ``(B, n)``; padding counts for nothing. Without a mask, or with one that is
        none of tokens, all tokens are real."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs)[0].float()
        head = self.config.sentence
        if head["pooling"] == "first":
            vectors = hidden[:, 0]
        elif attention_mask is None or attention_mask.ndim > 2:
            vectors = hidden.mean(dim=1)
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        if self.dense is not None:
            vectors = self.activation(self.dense(vectors))
        if self.space is not None:
            vectors = self.space(vectors)
        vectors = vectors.float()
        return F.normalize(vectors, dim=-1) if head["normalize"] else vectors

    def fit_space(self, vectors: Tensor) -> float:
        """Turn ``space`` to the principal directions of a teacher's vectors ``(n, width)``; returns their share of the square.

        The vectors are not centred: cosines are about the origin. Signs are fixed, so the result depends on the vectors alone.
        """
        assert self.space is not None
        rows = vectors.double()
        values, directions = torch.linalg.eigh(rows.T @ rows)
        kept = directions[:, -self.space.in_features :].flip(1)
        largest = kept.abs().argmax(dim=0)
        kept = kept * kept[largest, torch.arange(kept.shape[1])].sign()
        with torch.no_grad():
            self.space.weight.copy_(kept)
        return float(values[-self.space.in_features :].sum() / values.sum())

    def align_space(self, ours: Tensor, theirs: Tensor) -> None:
        """Turn ``space``, within its directions, so that the student's vectors of some texts, ``ours`` ``(n, width)`` through
        ``space`` as it is, come nearest to the teacher's ``theirs`` (orthogonal Procrustes problem, Schoenemann 1966).

        A student with pretrained weights has a space of its own. Without this it would have to learn the turn, and lose in doing so
        what it knows; no cosine between its vectors depends on it.
        """
        assert self.space is not None
        basis = self.space.weight.double().cpu()
        mine, wanted = (F.normalize(rows.double(), dim=-1) @ basis for rows in (ours, theirs))
        left, _, right = torch.linalg.svd(wanted.T @ mine)
        with torch.no_grad():
            self.space.weight.copy_(basis @ left @ right)

    def placed_settings(self) -> tuple[dict[str, Any], str]:
        """The head of an encoder that is narrower than this one, which has no linear map, and the name of the weight that maps its
        vectors to this one's."""
        head = self.config.sentence
        projection = "pca" if head["width"] is None else head["projection"]
        settings = {**head, "width": width_of(self.config), "projection": projection}
        return settings, "space.weight" if projection == "pca" else "dense.weight"

    @classmethod
    def from_config(cls, config: Any, **more: Any) -> SentenceEncoder:
        """Random weights, as ``AutoModel.from_config``."""
        return cls(AutoModel.from_config(config, **more)).eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        config: Any = None,
        output_loading_info: bool = False,
        **more: Any,
    ) -> Any:
        """Load a folder or hub id, as ``AutoModel.from_pretrained``; ``config.sentence`` gives the encoder another head.

        Weights of ``dense`` that the folder does not have in this form are among the missing ones.
        """
        head = getattr(config, "sentence", None)
        encoder, info = AutoModel.from_pretrained(name, config=config, output_loading_info=True, **more)
        encoder.config.sentence = read_settings(name, encoder.config) if head is None else head
        model = cls(encoder)
        within = f"{cls.base_model_prefix}."
        info["missing_keys"] = {within + key for key in info["missing_keys"]}
        info["mismatched_keys"] = {(within + key, given, wanted) for key, given, wanted in info["mismatched_keys"]}
        info["missing_keys"] |= model._load("dense", name, "2_Dense/model.safetensors")
        model._load("space", name, f"{SPACE}/model.safetensors")  # which is fitted to a teacher in any case
        model.eval()
        return (model, info) if output_loading_info else model

    def _load(self, part: str, name: str, path: str) -> set[str]:
        """The weights of a linear map, where the folder has them in this form; returns the names of those that it lacks."""
        linear, found = getattr(self, part), _file(name, path)
        if linear is None:
            return set()
        weights = {} if found is None else {key.removeprefix("linear."): x for key, x in load_file(found).items()}
        ours = linear.state_dict()
        if {key: x.shape for key, x in weights.items()} != {key: x.shape for key, x in ours.items()}:
            return {f"{part}.{key}" for key in ours}
        linear.load_state_dict(weights)
        return set()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the encoder as a checkpoint of transformers, and the parts that sentence-transformers reads beside it."""
        place, head = Path(folder), self.config.sentence
        del self.config.sentence
        try:
            self.encoder.save_pretrained(place)
        finally:
            self.config.sentence = head
        hidden = anatomy.hidden_of(self.config)
        parts: list[tuple[str, str]] = [("Transformer", ""), ("Pooling", "1_Pooling")]
        flags = {key: POOLINGS[key] == head["pooling"] for key in POOLINGS if key.startswith("pooling_mode_")}
        _write(place / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **flags})
        if self.dense is not None:
            parts.append(("Dense", "2_Dense"))
            _write_linear(place / "2_Dense", self.dense, self.activation)
        if head["normalize"]:
            parts.append(("Normalize", f"{len(parts)}_Normalize"))
            _write(place / parts[-1][1] / "config.json", {})
        modules = [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (kind, path) in enumerate(parts)
        ]
        _write(place / "modules.json", modules)
        _write(place / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
        if self.space is not None:
            _write_linear(place / SPACE, self.space, nn.Identity())


def _write(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _write_linear(folder: Path, linear: nn.Linear, activation: nn.Module) -> None:
    """A linear map in the format of sentence-transformers' Dense."""
    kind = type(activation)
    about = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__qualname__}",
    }
    _write(folder / "config.json", about)
    weights = {f"linear.{name}": x.detach().cpu().contiguous() for name, x in linear.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
