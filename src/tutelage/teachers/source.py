"""A teacher by name: a fine-tuned checkpoint whose weights are loaded on first use."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import cached_file

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.anatomy.checkpoints import resolve
from tutelage.data.config import Pooling
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.students.load import load_config, load_model, untrained
from tutelage.tasks.sentence import read_settings, width_of

HEADS = {
    "classes": "classification head",
    "tokens": "head for tokens",
    "spans": "head for questions",
    "vectors": "encoder that fits its configuration",
    "masked_lm": "masked-language-model head",
    "causal_lm": "language-model head",
    "none": "encoder that fits its configuration",
}
"""Names of heads in messages."""


class Source:
    """A teacher by name: a folder, a hub id, or the ``teacher/`` folder of a store (which has no weights).

    ``head`` is the kind of output; ``none`` loads it without a head. ``role`` is what messages call it. ``pooling`` is that of an
    encoder whose folder names none.

    Raises:
        TutelageError: when its configuration or tokenizer cannot be loaded, or its family is unknown.
    """

    def __init__(
        self, name: str, head: Head = "classes", role: str = "teacher", pooling: Pooling | None = None
    ) -> None:
        self.name, self._path, self._head, self.role = name, resolve(name), head, role
        self.config = load_config(self._path)
        self._settings: dict[str, Any] = {}
        if head == "vectors":
            self.config.sentence = read_settings(self._path, self.config, pooling)
            self._settings = {"sentence": self.config.sentence}
        self.tokenizer = load_tokenizer(self._path)
        # One that knows no limit is given the model's, so that the student's can be the same tokenizer.
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, anatomy.max_length(self.config))
        self._model: PreTrainedModel | None = None
        self._no_pooler = False

    @property
    def shape(self) -> anatomy.Shape:
        return anatomy.shape_of(self.config)

    @property
    def outputs(self) -> int:
        """How many numbers it answers with: the size of a vector, or its labels."""
        return width_of(self.config) if self._head == "vectors" else int(self.config.num_labels)

    @property
    def model(self) -> PreTrainedModel:
        """The teacher with its weights, loaded on first use.

        Raises:
            TutelageError: if there are no weights, or none for the head.
        """
        if self._model is None:
            if not self.has_weights:
                raise TutelageError(self.without_weights)
            model, missing = load_model(self._path, self._head, **self._settings)
            made_up = [name for name in missing if "pooler" in name] if self._head in ("none", "vectors") else []
            self._no_pooler = bool(made_up)
            missing = [name for name in missing if name not in made_up]
            if missing:
                raise TutelageError(
                    f"the {self.role} {self.name!r} has no {HEADS[self._head]} (its weights lack {missing[0]}); "
                    + (
                        f"train one first: `tutelage pretrain --head-only --model {self.name} ...`"
                        if self._head in ("masked_lm", "causal_lm")
                        else f"fine-tune it first: `tutelage finetune --model {self.name} ...`"
                    )
                )
            self._model = model
        return self._model

    def become(self, model: PreTrainedModel) -> None:
        """Take another network, which was made of this one, in its place."""
        self._model, self.config = model, model.config

    def check_pooler(self) -> None:
        """Check that the teacher has a pooler.

        Raises:
            TutelageError: if the model has none, or its weights lack it.
        """
        anatomy.pooler_of(self.model)
        if self._no_pooler:
            raise TutelageError(
                f"the weights of {self.name!r} lack the pooler, which the objective pooled compares; leave it out"
            )

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to load. A store keeps none."""
        folder = Path(self._path)
        return not folder.is_dir() or bool(_weight_files(folder)) or not _manifest_of(folder).exists()

    @property
    def bytes(self) -> int | None:
        """Size of the weights on disk; None where there are none."""
        folder = Path(self._path)
        if not folder.is_dir():
            folder = Path(str(cached_file(self._path, "config.json"))).parent
        return sum(path.stat().st_size for path in _weight_files(folder)) or None

    @property
    def without_weights(self) -> str:
        """The error message if they are needed."""
        return (
            f"{self.name!r} is a store's teacher folder, which has no weights, but this run needs them; give the teacher "
            f"itself with {option('teacher')}"
        )

    @property
    def loaded(self) -> bool:
        return self._model is not None

    def release(self) -> None:
        """Free the weights. They are loaded again on the next use."""
        self._model = None

    @cached_property
    def outline(self) -> PreTrainedModel:
        """The network without allocated weights (device ``meta``), for counting and sizes."""
        with torch.device("meta"):
            return self._untrained()

    def network(self) -> PreTrainedModel:
        """The network for measuring its speed, which does not depend on its weights: untrained unless they are loaded."""
        return self._model or self._untrained()

    def _untrained(self) -> PreTrainedModel:
        return untrained(self.name, self.config, self._head)

    @cached_property
    def fingerprint(self) -> str:
        """An identifier of the weights: a hash of a folder's files, the commit of a hub id, or what the store recorded."""
        folder = Path(self._path)
        if not folder.is_dir():
            return f"{self.name}@{self.config._commit_hash}"
        if not self.has_weights:
            return str(json.loads(_manifest_of(folder).read_text(encoding="utf-8")).get("teacher_fingerprint"))
        files = _weight_files(folder)
        digest = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        settings = self.config.to_dict()
        for name in ("transformers_version", "_name_or_path", "dtype"):
            settings.pop(name, None)
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]

    def save_without_weights(self, folder: Path) -> None:
        """Configuration and tokenizer into ``folder``."""
        self.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _manifest_of(folder: Path) -> Path:
    """The manifest of the store to which a ``teacher/`` folder belongs."""
    return folder.parent / "manifest.json"
