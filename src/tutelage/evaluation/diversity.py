"""How much the predictions of several teachers differ."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score


def diversity(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], classes: bool) -> dict[str, Any]:
    """How much teachers differ: of ``logits`` ``(n, examples, classes)``.

    ``agreement`` ``(n, n)`` is the share of examples that two answer alike, for regression and multi-label tasks the
    correlation of their outputs; ``disagreement`` the mean of what is missing to 1. With classes also ``kappa`` ``(n, n)``
    (Cohen's: agreement beyond chance), ``one_right`` and ``all_right`` (the share of examples that at least one, or every
    teacher answers rightly) and ``ensemble`` (the accuracy of the mean probabilities).
    """
    count = len(logits)
    agreement = np.eye(count)
    kappa = np.eye(count)
    answers = logits.argmax(axis=2)
    for i, j in combinations(range(count), 2):
        if classes:
            same = float((answers[i] == answers[j]).mean())
            # Of two that always say the same one thing it is 0/0.
            kappa[i, j] = kappa[j, i] = cohen_kappa_score(answers[i], answers[j]) if same < 1 else 1.0
        else:
            same = float(np.corrcoef(logits[i].ravel(), logits[j].ravel())[0, 1])
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
