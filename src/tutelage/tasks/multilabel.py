"""Any number of classes for each text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data
from tutelage.data.labels import Labels
from tutelage.data.readers.files import is_missing
from tutelage.errors import TutelageError
from tutelage.objectives import losses
from tutelage.objectives.losses import Count, SoftLossOptions
from tutelage.tasks import cells
from tutelage.tasks.kind import TextKind


class Multilabel(TextKind):
    """Any number of classes for each text. Labels are ``(n, classes)`` float32, 0 or 1, ``nan`` where unknown. A class is
    predicted where its logit is above 0."""

    name = "multilabel"
    metrics = ("micro_f1", "macro_f1")
    known_metrics = ("accuracy", "macro_f1", "micro_f1")

    def fits(self, values: Sequence[Any]) -> bool:
        return any(isinstance(value, list) for value in values)

    def classes_in(self, path: Path, values: Sequence[Any]) -> tuple[str, ...]:
        return cells.sorted_classes(
            path, (name for row, value in enumerate(values, 1) for name in _names(path, row, value))
        )

    def labels_in(self, path: Path, values: Sequence[Any], names: tuple[str, ...], origin: str) -> Labels:
        rows = (_names(path, row, value) for row, value in enumerate(values, 1))
        result = np.zeros((len(values), len(names)), dtype=np.float32)
        for row, numbers in enumerate(cells.class_numbers(path, rows, names, origin)):
            result[row, numbers] = 1
        return result

    def label_settings(self, data: Data) -> dict[str, Any]:
        return {**super().label_settings(data), "problem_type": "multi_label_classification"}

    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return (logits > 0).astype(np.int64)

    def constant(self, name: str, labels: Labels, positive: int = 1) -> npt.NDArray[np.int64]:
        """The classes of more than half of the texts."""
        return np.asarray(labels.mean(axis=0) > 0.5).astype(np.int64)

    def hard_loss(self, logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
        return losses.binary_cross_entropy(logits, labels, count)

    def soft_loss(self, student: Tensor, teacher: Tensor, how: SoftLossOptions) -> Tensor:
        """Always the mean over classes."""
        return losses.soft_binary_cross_entropy(student, teacher, how.temperature, scale=how.scale, count=how.count)

    def mix(self, logits: Tensor, shares: Tensor, temperature: float) -> Tensor:
        soft = logits / temperature
        likely, unlikely = ((shares * (sign * soft).sigmoid()).sum(dim=0) for sign in (1, -1))
        return temperature * (likely.log() - unlikely.log())

    def usage(self, model: str) -> str:
        return super().usage(f"{model}, top_k=None")


def _names(path: Path, row: int, value: Any) -> list[str]:
    """The classes of a row: a list, or a string split at ``|``."""
    if isinstance(value, list):
        names = [cells.class_name(item) for item in value if not is_missing(item)]
        if len(names) < len(value):
            raise TutelageError(f"{path}: row {row} has an empty label in its list; correct or delete the row")
        return names
    if isinstance(value, str):
        return [name.strip() for name in value.split("|") if name.strip()]
    return [cells.one_name(path, row, value)]
