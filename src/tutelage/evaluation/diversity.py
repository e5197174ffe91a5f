"""Measure how much the predictions of several teachers differ."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score


def diversity(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], classes: bool) -> dict[str, Any]:
    """Diversity of n teachers.

    Args:
        logits: ``(n, examples, classes)``.
        labels: ``(examples,)``; negative where unknown.
        classes: whether the task has classes (not regression or multi-label).

    Returns:
        * ``agreement`` ``(n, n)``: share of equal predictions; for regression and multi-label tasks, correlation of outputs.
        * ``disagreement``: mean of ``1 - agreement`` over pairs of teachers.

        With classes also:

        * ``kappa`` ``(n, n)``: Cohen's kappa (agreement beyond chance).
        * ``one_right``, ``all_right``: share of examples that at least one teacher, or every teacher, predicts correctly.
        * ``ensemble``: accuracy of the mean probabilities.
    """
    count = len(logits)
    agreement = np.eye(count)
    kappa = np.eye(count)
    answers = logits.argmax(axis=2)
    for i, j in combinations(range(count), 2):
        if classes:
            same = float((answers[i] == answers[j]).mean())
            # kappa is 0/0 if both always predict one and the same class.
            kappa[i, j] = kappa[j, i] = cohen_kappa_score(answers[i], answers[j]) if same < 1 else 1.0
        else:
            constant = min(np.ptp(logits[i]), np.ptp(logits[j])) == 0  # goes along with nothing
            same = 0.0 if constant else float(np.corrcoef(logits[i].ravel(), logits[j].ravel())[0, 1])
        agreement[i, j] = agreement[j, i] = same
    upper = agreement[np.triu_indices(count, 1)]
    found: dict[str, Any] = {"agreement": agreement.tolist(), "disagreement": float(1 - upper.mean())}
    if classes:
        mean = softmax(logits, axis=2).mean(axis=0)
        known = labels >= 0
        right = (answers == labels)[:, known]
        found |= {
            "kappa": kappa.tolist(),
            "one_right": float(right.any(axis=0).mean()),
            "all_right": float(right.all(axis=0).mean()),
            "ensemble": float((mean.argmax(axis=1) == labels)[known].mean()),
        }
    return found
