"""A number for each text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data
from tutelage.data.labels import Labels
from tutelage.data.readers.files import shown
from tutelage.errors import TutelageError
from tutelage.objectives import losses
from tutelage.objectives.losses import Count
from tutelage.tasks import cells
from tutelage.tasks.kind import TextKind


class Regression(TextKind):
    """A number for each text. Labels are ``(n,)`` float32, ``nan`` where unknown; models have one output."""

    name = "regression"
    metrics = ("pearson", "spearman")
    known_metrics = ("pearson", "spearman")
    named = False
    probabilities = False
    ptp = True

    def fits(self, values: Sequence[Any]) -> bool:
        numbers = cells.numbers(values)
        return numbers is not None and not all(number.is_integer() for number in numbers)

    def classes_in(self, path: Path, values: Sequence[Any]) -> tuple[str, ...]:
        return ()

    def labels_in(self, path: Path, values: Sequence[Any], names: tuple[str, ...], origin: str) -> Labels:
        return np.array([_score(path, row, value) for row, value in enumerate(values, 1)], dtype=np.float32)

    def label_settings(self, data: Data) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def match(self, data: Data, config: Any, name: str, role: str = "teacher") -> tuple[Data, list[str]]:
        if config.num_labels != 1:
            raise TutelageError(
                f"the task {data.task!r} is a regression, but the {role} {name!r} has {config.num_labels} labels; "
                "fine-tune it here"
            )
        return data, []

    def columns(self, data: Data, config: Any, name: str, given: tuple[str, ...]) -> list[int]:
        if config.num_labels != 1:
            raise TutelageError(
                f"the task is a regression, but the teacher {name!r} of the team has {config.num_labels} labels"
            )
        return [0]

    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return logits.reshape(len(logits))

    def constant(self, name: str, labels: Labels, positive: int = 1) -> npt.NDArray[Any]:
        """Any number: correlations of a constant are 0."""
        return np.zeros(())

    def judged(
        self, logits: npt.NDArray[np.float32], labels: Labels
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Right is an error of at most the median; confidence is the distance from the median prediction (our extension: the paper
        has classes only)."""
        predicted = logits[:, 0].astype(np.float64)
        error = np.abs(predicted - labels)
        return error <= np.median(error), np.abs(predicted - np.median(predicted))

    def hard_loss(self, logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
        return losses.squared_error(logits, labels, count)

    def soft_loss(
        self,
        student: Tensor,
        teacher: Tensor,
        temperature: float = 1.0,
        *,
        scale: bool = True,
        reduction: Literal["batchmean", "mean"] = "batchmean",
        count: Count = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Squared error against the teacher's output: there is nothing to soften."""
        return losses.logits_mse(student, teacher, count=count)

    def mix(self, logits: Tensor, shares: Tensor, temperature: float) -> Tensor:
        """The weighted mean of the teachers' outputs."""
        return (shares * logits).sum(dim=0)

    def usage(self, model: str) -> str:
        return super().usage(f'{model}, function_to_apply="none"')


def _score(path: Path, row: int, value: Any) -> float:
    if value is None or value == "":
        raise TutelageError(f"{path}: row {row} has no label; give it one, or move it to the unlabelled file")
    number = cells.number(value)
    if number is None or not math.isfinite(number):
        raise TutelageError(
            f"{path}: row {row} has label {shown(value)}, which is not a number; correct it, or use kind classification"
        )
    return number
