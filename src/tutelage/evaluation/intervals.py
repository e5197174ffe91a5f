"""Confidence intervals over examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

Metric = Callable[[npt.NDArray[np.int64]], float]
"""A score as a function of the examples that count, by number; one may count several times."""

RESAMPLES = 1000


def drawn(count: int, most: int) -> list[int]:
    """Numbers of ``most`` of ``count`` examples, drawn with seed 0 in pairs of neighbours: those of sentence pairs for similarity
    stand together."""
    pairs = np.sort(np.random.default_rng(0).permutation(count // 2)[: max(most // 2, 1)])
    return [int(row) for pair in pairs for row in (2 * pair, 2 * pair + 1)]


def paired_difference(ours: Metric, theirs: Metric, examples: int, *, seed: int = 0) -> tuple[float, float, float]:
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
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = found.confidence_interval
    return difference(every), float(interval.low), float(interval.high)


def paired_shares(
    ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_], *, seed: int = 0
) -> tuple[float, float, float]:
    """As :func:`paired_difference`, of the shares of examples that ``ours`` and ``theirs`` hold for, both ``(n,)``.

    To draw n examples is to draw how many of them each has alone, so a resample costs no pass over the examples.
    """
    count, mine, other = len(ours), int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    value = (mine - other) / count if count else float("nan")
    if count < 2:
        return value, float("-inf"), float("inf")
    parts = [mine / count, other / count, (count - mine - other) / count]
    drawn = np.random.default_rng(seed).multinomial(count, parts, size=RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / count, [2.5, 97.5])
    return value, float(low), float(high)


def least_share(successes: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided lower bound of a proportion (Clopper and Pearson 1934): exact, 0 without trials or successes."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(1 - confidence, successes, trials - successes + 1))
