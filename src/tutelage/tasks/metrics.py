"""Scores of predictions against labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tutelage.errors import TutelageError


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
    # By counts, not by scikit-learn, which takes milliseconds to check its arguments: a bootstrap asks thousands of times.
    predictions, labels = predictions.astype(np.int64), labels.astype(np.int64)
    if name == "accuracy":
        same = predictions == labels
        return float((same.all(axis=1) if same.ndim == 2 else same).mean())
    right, predicted, wanted = _counts(predictions, labels)
    if name == "mcc":
        return _correlation(right, predicted, wanted)
    if name == "f1":
        if len(right) > 2:
            raise TutelageError("metric f1 is for two classes, the data has more: choose macro_f1 or micro_f1")
        return float(_f1(right, predicted, wanted)[positive]) if positive < len(right) else 0.0
    if name == "micro_f1":
        return float(_f1(right.sum(), predicted.sum(), wanted.sum()))
    counted = predicted + wanted > 0 if labels.ndim == 1 else np.full(len(right), True)
    return float(_f1(right, predicted, wanted)[counted].mean())


def _counts(predictions: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """By class, ``(classes,)``: how many are right, predicted and wanted."""
    if labels.ndim == 2:
        return (predictions * labels).sum(axis=0), predictions.sum(axis=0), labels.sum(axis=0)
    classes = max(predictions.max(), labels.max()) + 1
    found = [np.bincount(one, minlength=classes) for one in (labels[predictions == labels], predictions, labels)]
    return found[0], found[1], found[2]


def _f1(right: Any, predicted: Any, wanted: Any) -> Any:
    """F1 of counts; 0 where nothing is predicted or wanted."""
    return 2 * right / np.maximum(predicted + wanted, 1)


def _correlation(right: Any, predicted: Any, wanted: Any) -> float:
    """Matthews' correlation of classes (Gorodkin 2004, equation 8); 0 where one side is constant."""
    total, expected = int(wanted.sum()), int(predicted @ wanted)
    spread = (total**2 - int(predicted @ predicted)) * (total**2 - int(wanted @ wanted))
    return float((int(right.sum()) * total - expected) / math.sqrt(spread)) if spread else 0.0


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
