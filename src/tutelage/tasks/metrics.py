"""Scores of predictions against labels, and the scores that are had for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tutelage.data.examples import Kind
from tutelage.errors import TutelageError

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "micro_f1", "mcc"),
    "regression": ("pearson", "spearman"),
    "multilabel": ("accuracy", "macro_f1", "micro_f1"),
}
"""The metrics that exist for each kind of data."""


def score(
    names: Sequence[str], logits: npt.NDArray[Any], labels: npt.NDArray[Any], kind: Kind, positive: int = 1
) -> dict[str, float]:
    """The metrics ``names`` of the predictions.

    ``logits`` is ``(n, classes)``, or ``(n, 1)`` or ``(n,)`` for regression; ``labels`` are as in ``Examples``, all
    of them present. A label of multi-label data is predicted where its logit is above 0, and its accuracy asks for
    the whole set. ``f1`` is that of class ``positive`` of two. Values are fractions, 0 to 1; ``mcc`` and the correlations are
    -1 to 1, and 0 where the predictions or the labels are all the same.

    Raises:
        TutelageError: a metric does not exist for ``kind``, or ``f1`` is asked of more than two classes.
    """
    if kind == "regression":
        predictions = logits.reshape(len(labels))
    elif kind == "multilabel":
        predictions = (logits > 0).astype(np.int64)
    else:
        predictions = logits.argmax(axis=1)
    return {name: _score(name, predictions, labels, kind, positive) for name in names}


def chance(name: str, labels: npt.NDArray[Any], kind: Kind, positive: int = 1) -> float:
    """The score of metric ``name`` when the same is predicted for every example.

    That is the most frequent class, for ``f1`` class ``positive``, and for multi-label data the labels that more than half of
    the examples have. Correlations and ``mcc`` are 0.

    Raises:
        TutelageError: as :func:`score`.
    """
    if kind == "regression":
        constant = np.zeros(())
    elif kind == "multilabel":
        constant = (labels.mean(axis=0) > 0.5).astype(np.int64)
    else:
        constant = np.asarray(positive if name == "f1" else np.bincount(labels).argmax())
    return _score(name, np.broadcast_to(constant, labels.shape), labels, kind, positive)


def _score(name: str, predictions: npt.NDArray[Any], labels: npt.NDArray[Any], kind: Kind, positive: int) -> float:
    if name not in METRICS[kind]:
        raise TutelageError(f"metric {name} does not exist for {kind}: choose from {', '.join(METRICS[kind])}")
    if kind != "regression":
        labels = labels.astype(np.int64)
    if name == "accuracy":
        return float(accuracy_score(labels, predictions))
    if name == "f1":
        if max(labels.max(), predictions.max()) > 1:
            raise TutelageError("metric f1 is for two classes, the data has more: choose macro_f1 or micro_f1")
        return float(f1_score(labels, predictions, pos_label=positive, zero_division=0))
    if name in ("macro_f1", "micro_f1"):
        return float(f1_score(labels, predictions, average=name.removesuffix("_f1"), zero_division=0))
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    if name == "mcc":
        return float(matthews_corrcoef(labels, predictions))
    if name == "pearson":
        return float(stats.pearsonr(predictions.astype(np.float64), labels.astype(np.float64)).statistic)
    return float(stats.spearmanr(predictions, labels).statistic)
