"""How far the probabilities of a classifier can be trusted, and the temperature that mends them.

Shapes everywhere: ``logits`` and ``probabilities`` ``(n, classes)``, ``labels`` ``(n,)`` from 0, all known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, rel_entr, softmax

Array = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]

BINS = 15
"""Bins of confidence, of equal width: as in Guo et al., ICML 2017, arXiv:1706.04599."""
COLDEST, HOTTEST = 0.05, 20.0
AT_ONCE = 2**20
"""Probabilities at once: those of all rows in float64 take several times the memory of the logits."""


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence."""

    count: int
    confidence: float
    """Mean."""
    accuracy: float


def probabilities(logits: npt.NDArray[np.floating], temperature: float = 1.0) -> Array:
    """``softmax(z / T)`` in float64."""
    return np.asarray(softmax(logits.astype(np.float64) / temperature, axis=1))


def blocks(rows: int, classes: int) -> Iterator[slice]:
    """Slices of rows that have about ``AT_ONCE`` probabilities each."""
    step = max(1, AT_ONCE // max(classes, 1))
    return (slice(start, start + step) for start in range(0, rows, step))


def confidences(logits: npt.NDArray[np.floating], temperature: float = 1.0) -> Array:
    """``(n,)``: the largest probability of each row."""
    parts = [probabilities(logits[rows], temperature).max(axis=1) for rows in blocks(*logits.shape)]
    return np.concatenate([np.empty(0), *parts])


def fitted_temperature(logits: npt.NDArray[np.floating], labels: Classes) -> float | None:
    """The temperature that minimises ``-mean log softmax(z / T)[y]``, between 0.05 and 20 (Guo et al. 2017).

    None where all rows are right (or there are none): the minimum lies at temperature 0 and says nothing.
    """
    if (logits.argmax(axis=1) == labels).all():
        return None
    own = logits[np.arange(len(labels)), labels].astype(np.float64)

    def loss(log_temperature: float) -> float:
        cold = np.exp(-log_temperature)
        parts = (logsumexp(logits[rows].astype(np.float64) * cold, axis=1) for rows in blocks(*logits.shape))
        return float((np.concatenate(list(parts)) - own * cold).mean())

    # In 1 / T the loss is convex, so in log T it has one minimum.
    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def reliability(sure: Array, right: npt.NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """The predictions by confidence: bins of equal width ``(a, b]``, empty ones left out.

    Args:
        sure: ``(n,)``, the largest probability of each row.
        right: ``(n,)``, whether it is that of the label.
        bins: How many.
    """
    place = np.clip(np.ceil(sure * bins).astype(int), 1, bins) - 1
    return [
        Bin(int(inside.sum()), float(sure[inside].mean()), float(right[inside].mean()))
        for inside in (place == number for number in range(bins))
        if inside.any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error (ECE): mean over predictions of the ``|accuracy - confidence|`` of their bin."""
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / sum(b.count for b in bins)


def brier(shares: Array, labels: Classes) -> float:
    """Brier score: ``mean_i sum_c (p_ic - [y_i = c])^2``, 0 to 2 (Brier 1950)."""
    return float(((shares - np.eye(shares.shape[1])[labels]) ** 2).sum(axis=1).mean())


def divergence(teacher: Array, student: Array) -> float:
    """``KL(teacher || student)``, mean over rows, in nats."""
    return float(rel_entr(teacher, np.maximum(student, np.finfo(np.float64).tiny)).sum(axis=1).mean())
