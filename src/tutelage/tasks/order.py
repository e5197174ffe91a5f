"""The order of a model's classes, told by its predictions for labelled texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from torch import Tensor

GAIN = 0.1
"""How much more of the texts another order has to be right about."""
DRAWS = 50


@dataclass(frozen=True)
class Order:
    """An order of the classes under which a model's predictions fit the labels far better."""

    classes: tuple[int, ...]
    """For each output of the model the class that it stands for."""
    now: float
    """Share of right predictions if output ``i`` stands for class ``i``."""
    then: float
    """The same in this order."""


def better_order(counts: npt.NDArray[np.int64]) -> Order | None:
    """The order that scores far higher than the one assumed, if there is one.

    The best of all orders fits somewhat better even where predictions have nothing to do with labels. It counts only if it is
    better, by :data:`GAIN`, than the one assumed and than all best orders of predictions that were shuffled.

    Args:
        counts: ``(classes, classes)``: how many texts of each class (rows) got each output (columns).
    """
    total = int(counts.sum())
    if total == 0:
        return None
    classes, then = _assigned(counts)
    now = float(np.trace(counts)) / total
    if then - now < GAIN:
        return None
    labels, outputs = (np.repeat(place, counts.ravel()) for place in np.indices(counts.shape).reshape(2, -1))
    generator = np.random.default_rng(0)
    for _ in range(DRAWS):
        shuffled = np.zeros_like(counts)
        np.add.at(shuffled, (labels, generator.permutation(outputs)), 1)
        if then - _assigned(shuffled)[1] < GAIN:
            return None
    return Order(tuple(classes), now, then)


def counted(labels: npt.NDArray[Any], logits: Tensor, classes: int) -> npt.NDArray[np.int64]:
    """How many answers of each class (rows) were predicted as each (columns).

    Args:
        labels: ``(n,)`` classes; negative where unknown.
        logits: ``(n, classes)``.
    """
    known = np.flatnonzero(np.asarray(labels) >= 0)
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels)[known], logits.argmax(dim=1).numpy()[known]), 1)
    return counts


def _assigned(counts: npt.NDArray[np.int64]) -> tuple[list[int], float]:
    """For each output the class, one to one, that makes most predictions right, and the share of these."""
    # Where two orders are as good, outputs keep their own class.
    weights = counts + 1e-6 * np.eye(len(counts))
    rows, columns = linear_sum_assignment(weights, maximize=True)
    classes = [int(row) for _, row in sorted(zip(columns, rows, strict=True))]
    return classes, float(counts[rows, columns].sum()) / int(counts.sum())
