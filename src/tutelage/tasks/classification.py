"""One class for each text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data
from tutelage.data.labels import Labels
from tutelage.data.readers.files import shown
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.tasks import cells
from tutelage.tasks.kind import TextKind
from tutelage.tasks.order import counted


class Classification(TextKind):
    """One class for each text. Labels are ``(n,)`` int64, -1 where unknown."""

    name = "classification"
    metrics = ("accuracy", "macro_f1")
    known_metrics = ("accuracy", "f1", "macro_f1", "micro_f1", "mcc")
    single_label = True
    ptp = True

    def fits(self, values: Sequence[Any]) -> bool:
        if any(isinstance(value, list) for value in values):
            return False
        numbers = cells.numbers(values)
        return numbers is None or all(number.is_integer() for number in numbers)

    def classes_in(self, path: Path, values: Sequence[Any]) -> tuple[str, ...]:
        return cells.sorted_classes(path, (name for (name,) in self._names(path, values)))

    def labels_in(self, path: Path, values: Sequence[Any], names: tuple[str, ...], origin: str) -> Labels:
        rows = cells.class_numbers(path, self._names(path, values), names, origin)
        return np.array([number for (number,) in rows], dtype=np.int64)

    def _names(self, path: Path, values: Sequence[Any]) -> list[list[str]]:
        found = []
        for row, value in enumerate(values, 1):
            if isinstance(value, list):
                raise TutelageError(f"{path}: row {row} has a list as its label ({shown(value)}); use kind multilabel")
            found.append([cells.one_name(path, row, value)])
        return found

    def label_settings(self, data: Data) -> dict[str, Any]:
        return {**super().label_settings(data), "problem_type": "single_label_classification"}

    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.asarray(logits.argmax(axis=1))

    def confusion(self, logits: Tensor, texts: Texts, classes: int) -> npt.NDArray[np.int64]:
        return counted(texts.examples.labels, logits, classes)

    def constant(self, name: str, labels: Labels, positive: int = 1) -> npt.NDArray[np.int64]:
        """The most frequent class, for ``f1`` the class ``positive``."""
        return np.asarray(positive if name == "f1" else np.bincount(labels).argmax())

    def judged(
        self, logits: npt.NDArray[np.float32], labels: Labels
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Confidence is the largest probability."""
        scores = logits.astype(np.float64)
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores.argmax(axis=1) == labels, exponents.max(axis=1) / exponents.sum(axis=1)
