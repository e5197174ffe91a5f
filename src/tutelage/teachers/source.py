"""Where a teacher comes from: a fine-tuned checkpoint whose weights are loaded when somebody asks for them."""

from __future__ import annotations

import copy
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head, auto_class
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError
from tutelage.sentence import Pooling, read_settings
from tutelage.students.load import fitted_config, load_config, load_model, resolve

HEADS = {
    "classes": "classification head",
    "tokens": "head for tokens",
    "spans": "head for questions",
    "vectors": "encoder that fits its configuration",
    "masked_lm": "masked-language-model head",
    "causal_lm": "language-model head",
    "none": "encoder that fits its configuration",
}
"""What a head is called."""


class Source:
    """A teacher by name: a folder, a hub id, or the ``teacher/`` folder of a store (which has no weights).

    ``head`` says what it is to answer; ``none`` takes it without a head. ``pooling`` is that of an encoder whose folder names none.

    Raises:
        TutelageError: when its configuration or tokenizer cannot be loaded, or its family is unknown.
    """

    def __init__(self, name: str, head: Head = "classes", pooling: Pooling | None = None) -> None:
        self.name, self._path, self._head = name, resolve(name), head
        self.config = load_config(self._path)
        self._settings: dict[str, Any] = {}
        if head == "vectors":
            self.config.sentence = read_settings(self._path, self.config, pooling)
            self._settings = {"sentence": self.config.sentence}
        self.tokenizer = load_tokenizer(self._path)
        self._model: PreTrainedModel | None = None
        self._no_pooler = False

    @property
    def shape(self) -> anatomy.Shape:
        return anatomy.shape_of(self.config)

    @property
    def outputs(self) -> int:
        """How many numbers it answers with."""
        return anatomy.outputs_of(self.config, self._head)

    @property
    def model(self) -> PreTrainedModel:
        """The teacher with its weights, loaded when first asked for.

        Raises:
            TutelageError: when there are none, or none for the classification head.
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
                    f"the teacher {self.name!r} has no {HEADS[self._head]} (its weights lack {missing[0]}); "
                    + (
                        f"train one first: tutelage pretrain --model {self.name} ..."
                        if self._head in ("masked_lm", "causal_lm")
                        else f"fine-tune it first: tutelage finetune --model {self.name} ..."
                    )
                )
            self._model = model
        return self._model

    def check_pooler(self) -> None:
        """See that there is a pooler to learn from.

        Raises:
            TutelageError: when the model has none, or its weights lack it.
        """
        anatomy.pooler_of(self.model)
        if self._no_pooler:
            raise TutelageError(
                f"the weights of {self.name!r} lack the pooler, which the objective pooled compares; leave it out"
            )

    @property
    def has_weights(self) -> bool:
        """Whether there are any to load: a store keeps none."""
        folder = Path(self._path)
        return not folder.is_dir() or bool(_weight_files(folder)) or not _manifest_of(folder).exists()

    @property
    def without_weights(self) -> str:
        """What to say when they are missed."""
        return (
            f"{self.name!r} is what a store kept of its teacher, without weights, but this run needs them; give the teacher "
            "itself with --teacher"
        )

    @property
    def loaded(self) -> bool:
        return self._model is not None

    def release(self) -> None:
        """Let the weights go; they are loaded again if somebody asks."""
        self._model = None

    @cached_property
    def outline(self) -> PreTrainedModel:
        """The same network without memory for its weights (on the device ``meta``): for counting and for sizes."""
        with torch.device("meta"):
            return self._untrained()

    def network(self) -> PreTrainedModel:
        """The network for measuring its speed, which does not depend on its weights: untrained unless they are loaded."""
        return self._model or self._untrained()

    def _untrained(self) -> PreTrainedModel:
        # from_config writes into the configuration that it is given
        config = fitted_config(copy.deepcopy(self.config), self._head)
        model: PreTrainedModel = auto_class(self._head).from_config(config, dtype=torch.float32)
        return model.eval()

    @cached_property
    def fingerprint(self) -> str:
        """A name for the weights: of the files in a folder, of a hub id its commit; of a store's teacher the one it had."""
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
