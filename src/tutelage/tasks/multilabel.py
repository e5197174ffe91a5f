"""Any number of classes for each text."""

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
from tutelage.objectives import losses
from tutelage.objectives.losses import Count, SoftLossOptions
from tutelage.tasks import cells
from tutelage.tasks.kind import LEAST, TextKind
from tutelage.tasks.prediction_columns import PredictionColumns
from tutelage.tasks.prediction_forms import PredictedValues, Values, classes_in
from tutelage.tasks.reply import MOST, Reply, by_share


class Multilabel(TextKind):
    """Any number of classes for each text. Labels are ``(n, classes)`` float32, 0 or 1, ``nan`` where unknown. A class is
    predicted where its logit is above 0."""

    name = "multilabel"
    metrics = ("micro_f1", "macro_f1")
    known_metrics = ("accuracy", "macro_f1", "micro_f1")
    served_as = "classes"
    several = True
    problem_type = "multi_label_classification"

    def describes(self, config: Any) -> bool:
        return bool(config.problem_type == self.problem_type)

    def fits(self, values: Sequence[Any]) -> bool:
        return any(isinstance(value, list) for value in values)

    def prepared(self, values: Sequence[Any], separator: str | None = None) -> tuple[list[Any], list[str]]:
        """Strings are split at the separator; an empty cell among them is an example with none of the labels. Among lists, where
        that is an empty list, it is a gap."""
        none: Any = None if any(isinstance(value, list) for value in values) else []
        found = cells.split([none if is_missing(value) else value for value in values], separator)
        split = separator is not None and any(isinstance(value, str) and separator in value for value in values)
        return found, [f"labels are split at {separator!r}"] if split else []

    def answer(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            return (cells.one_name(value),)
        if any(is_missing(item) for item in value):
            raise cells.Unreadable("has an empty label in its list")
        if any(isinstance(item, list) for item in value):
            raise cells.Unreadable(f"has label {shown(value)}, a list in a list")
        return tuple(cells.one_name(item) for item in value)

    def labels_of(self, answers: Sequence[Any], count: int) -> Labels:
        result = np.zeros((len(answers), count), dtype=np.float32)
        for row, numbers in enumerate(answers):
            result[row, list(numbers)] = 1
        return result

    def about(self, data: Data) -> str:
        mean = float(np.nansum(data.train.labels) / max(len(data.train), 1))
        return f"{super().about(data)}; {mean:.1f} a text"

    def other_kinds(self, data: Data, outputs: int) -> dict[str, str]:
        parts = (data.train, *data.dev.values())
        single = all((part.labels[part.labelled].sum(axis=1) == 1).all() for part in parts)
        return {"single_label_classification": "classification"} if single else {}

    def read_predictions(self, table: PredictionColumns, labels: Sequence[str]) -> PredictedValues:
        """Any number of labels, or a probability for each label by itself."""
        return classes_in(table, labels, several=True)

    def logits_of(self, values: Values) -> npt.NDArray[np.float32]:
        inside = np.clip(values, LEAST, 1 - LEAST)
        return (np.log(inside) - np.log1p(-inside)).astype(np.float32)

    def as_outputs(self, labels: Labels, outputs: int) -> Values:
        return labels.astype(np.float64)

    def likeliest(self, values: Values) -> Labels:
        return (values > 0.5).astype(np.float32)

    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return (logits > 0).astype(np.int64)

    def members(self, answers: npt.NDArray[Any], classes: int) -> npt.NDArray[np.bool_]:
        return np.asarray(answers > 0)

    def replies(self, logits: Tensor, texts: Texts, labels: Sequence[str], temperature: float = 1.0) -> list[Reply]:
        """All classes with a probability above 0.5."""
        found = []
        for row in (logits / temperature).sigmoid().tolist():
            ranked = by_share(labels, row)
            chosen = [name for name, share in ranked if share > 0.5]
            found.append(Reply(", ".join(sorted(chosen)) or "no class", ranked[: max(MOST, len(chosen))]))
        return found

    def agreement(self, ours: Tensor, theirs: Tensor) -> float | None:
        """Share of texts with the same set of classes."""
        return float(((ours > 0) == (theirs > 0)).all(dim=1).float().mean())

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
