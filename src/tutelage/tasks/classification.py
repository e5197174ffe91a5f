"""One class for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data
from tutelage.data.labels import Labels
from tutelage.data.readers.table import is_missing, shown
from tutelage.data.texts import Texts
from tutelage.errors import option
from tutelage.tasks import cells
from tutelage.tasks.kind import TextKind
from tutelage.tasks.order import counted


class Classification(TextKind):
    """One class for each text. Labels are ``(n,)`` int64, -1 where unknown."""

    name = "classification"
    metrics = ("accuracy", "macro_f1")
    known_metrics = ("accuracy", "f1", "macro_f1", "micro_f1", "mcc")
    single_label = True
    problem_type = "single_label_classification"
    ptp = True

    def describes(self, config: Any) -> bool:
        return config.problem_type in (None, self.problem_type) and config.num_labels > 1

    def fits(self, values: Sequence[Any]) -> bool:
        return not any(isinstance(value, list) for value in values) and not cells.measured(values)

    def prepared(self, values: Sequence[Any], separator: str | None = None) -> tuple[list[Any], list[str]]:
        """Lists of one class each (one-hot lists among them) are classes."""
        if values and all(isinstance(value, list) and len(value) == 1 for value in values if not is_missing(value)):
            return [None if is_missing(value) else value[0] for value in values], []
        return list(values), []

    def answer(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, list):
            raise cells.Unreadable(f"has a list as its label ({shown(value)}; use {option('kind')} multilabel)")
        return (cells.one_name(value),)

    def labels_of(self, answers: Sequence[Any], count: int) -> Labels:
        return np.array([number for (number,) in answers], dtype=np.int64)

    def other_kinds(self, data: Data, outputs: int) -> dict[str, str]:
        numbers = outputs == 1 and all(cells.number(label) is not None for label in data.labels)
        return {"multi_label_classification": "multilabel"} | ({"regression": "regression"} if numbers else {})

    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.asarray(logits.argmax(axis=1))

    def members(self, answers: npt.NDArray[Any], classes: int) -> npt.NDArray[np.bool_]:
        return np.asarray(answers[:, None] == np.arange(classes))

    def confusion(self, logits: Tensor, texts: Texts, classes: int) -> npt.NDArray[np.int64]:
        return counted(texts.examples.labels, logits, classes)

    def constant(self, name: str, labels: Labels, positive: int = 1) -> npt.NDArray[np.int64]:
        """The most frequent class, for ``f1`` the class ``positive``."""
        return np.asarray(positive if name == "f1" else np.bincount(labels).argmax())

    def chance(self, name: str, labels: Labels, positive: int = 1) -> float:
        """The metric of the best constant answer. Macro F1 of guesses is more: where they are as frequent as the classes, one over
        the number of classes."""
        found = super().chance(name, labels, positive)
        return max(found, 1 / len(np.unique(labels))) if name == "macro_f1" else found

    def judged(
        self, logits: npt.NDArray[np.float32], labels: Labels
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Confidence is the largest probability."""
        scores = logits.astype(np.float64)
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores.argmax(axis=1) == labels, exponents.max(axis=1) / exponents.sum(axis=1)
