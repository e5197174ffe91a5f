"""A number for each text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data
from tutelage.data.labels import Labels
from tutelage.data.readers.table import is_missing, shown
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError, option
from tutelage.objectives import losses
from tutelage.objectives.losses import Count, SoftLossOptions
from tutelage.tasks import cells
from tutelage.tasks.kind import TextKind
from tutelage.tasks.prediction_columns import PredictionColumns
from tutelage.tasks.prediction_forms import PredictedValues, Values, numbers_in
from tutelage.tasks.reply import Reply

LARGEST = 1e30
"""Larger scores have squares beyond float32."""


class Regression(TextKind):
    """A number for each text. Labels are ``(n,)`` float32, ``nan`` where unknown; models have one output."""

    name = "regression"
    metrics = ("pearson", "spearman")
    known_metrics = ("pearson", "spearman")
    named = False
    probabilities = False
    served_as = "number"
    problem_type = "regression"
    ptp = True

    def describes(self, config: Any) -> bool:
        return bool(config.problem_type == self.problem_type or config.num_labels == 1)

    def fits(self, values: Sequence[Any]) -> bool:
        return not any(isinstance(value, list) for value in values) and cells.measured(values)

    def prepared(self, values: Sequence[Any], separator: str | None = None) -> tuple[list[Any], list[str]]:
        found, commas = cells.with_commas(values) or (list(values), "")
        return found, [f"labels are numbers with {commas}"] if commas else []

    def answer(self, value: Any) -> float:
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            raise cells.Unreadable("has no label")
        number = cells.number(value)
        if isinstance(value, str) and cells.THOUSANDS.fullmatch(value):
            raise cells.Unreadable(
                f"has label {shown(value)}, which may be {cells.both(value)} (write it without a comma)"
            )
        if number is None or abs(number) > LARGEST or not math.isfinite(number):
            raise cells.Unreadable(
                f"has label {shown(value)}, which is not a number (classes are {option('kind')} classification)"
            )
        return number

    def labels_of(self, answers: Sequence[Any], count: int) -> Labels:
        return np.array(answers, dtype=np.float32)

    def about(self, data: Data) -> str:
        known = data.train.labels[data.train.labelled]
        if not len(known):
            return self.name
        return f"{self.name}, scores from {known.min():g} to {known.max():g}, {known.mean():.3g} on average"

    def label_settings(self, data: Data) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": self.problem_type}

    def match(self, data: Data, config: Any, name: str, role: str = "teacher") -> tuple[Data, list[str]]:
        if config.num_labels != 1:
            raise TutelageError(
                f"the task {data.task!r} is a regression, but the {role} {name!r} has {config.num_labels} labels; "
                "fine-tune it here"
            )
        self.check_problem(data, config, name, role)
        return data, []

    def columns(self, data: Data, config: Any, name: str, given: tuple[str, ...]) -> list[int]:
        if config.num_labels != 1:
            raise TutelageError(f"the task is a regression, but the teacher {name!r} has {config.num_labels} labels")
        self.check_problem(data, config, name)
        return [0]

    def read_predictions(self, table: PredictionColumns, labels: Sequence[str]) -> PredictedValues:
        return numbers_in(table)

    def logits_of(self, values: Values) -> npt.NDArray[np.float32]:
        return values.astype(np.float32)

    def as_outputs(self, labels: Labels, outputs: int) -> Values:
        return labels[:, None].astype(np.float64)

    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return logits.reshape(len(logits))

    def replies(self, logits: Tensor, texts: Texts, labels: Sequence[str], temperature: float = 1.0) -> list[Reply]:
        return [Reply(f"{value:.3f}") for value in logits[:, 0].tolist()]

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

    def soft_loss(self, student: Tensor, teacher: Tensor, how: SoftLossOptions) -> Tensor:
        """Squared error against the teacher's output: there is nothing to soften."""
        return losses.logits_mse(student, teacher, count=how.count)

    def mix(self, logits: Tensor, shares: Tensor, temperature: float) -> Tensor:
        """The weighted mean of the teachers' outputs."""
        return (shares * logits).sum(dim=0)

    def usage(self, model: str) -> str:
        return super().usage(f'{model}, function_to_apply="none"')
