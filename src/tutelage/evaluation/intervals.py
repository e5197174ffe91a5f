"""Confidence intervals over examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

Metric = Callable[[npt.NDArray[np.int64]], float]
"""A score as a function of the examples that count, by number; one may count several times."""


def drawn(count: int, most: int) -> list[int]:
    """Numbers of ``most`` of ``count`` examples, drawn with seed 0 in pairs of neighbours: those of sentence pairs for similarity
    stand together."""
    pairs = np.sort(np.random.default_rng(0).permutation(count // 2)[: max(most // 2, 1)])
    return [int(row) for pair in pairs for row in (2 * pair, 2 * pair + 1)]


def paired_difference(
    ours: Metric, theirs: Metric, examples: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """How much ``ours`` is above ``theirs`` on the same examples, and a 95 % interval: paired bootstrap over examples.

    The interval has the percentiles of the differences on resampled examples (Efron 1979).
    """
    every = np.arange(examples)

    def difference(rows: npt.NDArray[np.int64]) -> float:
        return ours(rows) - theirs(rows)

    if examples < 2:
        return difference(every), float("-inf"), float("inf")
    found = stats.bootstrap(
        (every,),
        difference,
        vectorized=False,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = found.confidence_interval
    return difference(every), float(interval.low), float(interval.high)
