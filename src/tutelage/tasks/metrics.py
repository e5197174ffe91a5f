"""Scores of predictions against labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tutelage.errors import TutelageError
from tutelage.evaluation.intervals import Metric


def value_of(name: str, predictions: npt.NDArray[Any], labels: npt.NDArray[Any], positive: int = 1) -> float:
    """The metric ``name`` of the predictions.

    Both are ``(n,)`` classes, ``(n, classes)`` sets of classes (0 or 1), for which accuracy asks for the whole set, or for
    ``pearson`` and ``spearman`` ``(n,)`` numbers. ``f1`` is that of class ``positive`` of two. Values are fractions, 0 to 1;
    ``mcc`` and the correlations are -1 to 1, and 0 where the predictions or the labels are all the same.

    Raises:
        TutelageError: ``f1`` with more than two classes.
    """
    if name in ("pearson", "spearman"):
        if _constant(predictions) or _constant(labels):
            return 0.0
        if name == "pearson":
            return float(stats.pearsonr(predictions.astype(np.float64), labels.astype(np.float64)).statistic)
        return float(stats.spearmanr(predictions, labels).statistic)
    labels = labels.astype(np.int64)
    if name == "accuracy":
        return float(accuracy_score(labels, predictions))
    if name == "mcc":
        return 0.0 if _constant(predictions) or _constant(labels) else float(matthews_corrcoef(labels, predictions))
    if name == "f1":
        if max(labels.max(), predictions.max()) > 1:
            raise TutelageError("metric f1 is for two classes, the data has more: choose macro_f1 or micro_f1")
        return float(f1_score(labels, predictions, pos_label=positive, zero_division=0))
    return float(f1_score(labels, predictions, average=name.removesuffix("_f1"), zero_division=0))


def of_rows(name: str, predictions: npt.NDArray[Any], labels: npt.NDArray[Any], positive: int = 1) -> Metric:
    """:func:`value_of` as a function of the examples that count: counting alone, for thousands of resamples."""
    if name in ("pearson", "spearman"):
        return lambda rows: value_of(name, predictions[rows], labels[rows], positive)
    labels = labels.astype(np.int64)
    if name == "accuracy":
        right = predictions == labels if labels.ndim == 1 else (predictions == labels).all(axis=1)
        return lambda rows: float(right[rows].mean())
    if labels.ndim == 2:
        both, either = predictions * labels, predictions + labels
        return lambda rows: _f1(name, both[rows].sum(axis=0), either[rows].sum(axis=0), np.ones(labels.shape[1], bool))
    classes = int(max(labels.max(), predictions.max(), positive)) + 1
    cells = labels * classes + predictions

    def metric(rows: npt.NDArray[np.int64]) -> float:
        counts = np.bincount(cells[rows], minlength=classes**2).reshape(classes, classes)
        right, wanted, given = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        if name == "mcc":
            total = len(rows)
            spread = (total**2 - (given**2).sum()) * (total**2 - (wanted**2).sum())
            return float((right.sum() * total - (wanted * given).sum()) / math.sqrt(spread)) if spread else 0.0
        if name == "f1":
            return _share(2 * right[positive], wanted[positive] + given[positive])
        return _f1(name, right, wanted + given, wanted + given > 0)

    return metric


def _f1(name: str, both: npt.NDArray[Any], either: npt.NDArray[Any], present: npt.NDArray[np.bool_]) -> float:
    """Micro or macro F1 of classes: their right answers, answers plus labels, and which classes there are."""
    if name == "micro_f1":
        return _share(2 * both.sum(), either.sum())
    return float(np.mean(2 * both[present] / np.maximum(either[present], 1)))


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def standard_error(texts: int) -> float:
    """The standard error of a proportion of so many texts, at most."""
    return 0.5 / math.sqrt(max(texts, 1))


def no_better(scores: Mapping[str, float], constant: Mapping[str, float], texts: int) -> bool:
    """Whether scores on so many texts are no better than those of a constant answer, in all metrics of ``constant``.

    A score within one standard error of a constant answer's shows nothing. A metric without a score counts as 0.
    """
    return not any(scores.get(name, 0.0) > value + standard_error(texts) for name, value in constant.items())


def _constant(values: npt.NDArray[Any]) -> bool:
    return bool(np.ptp(values) == 0)
