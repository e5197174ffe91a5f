"""Confidence intervals over examples, and what they show of many comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Metric = Callable[[npt.NDArray[np.int64]], float]
"""A score as a function of the examples that count, by number; one may count several times."""

RESAMPLES = 1000

AT_ONCE = 2**20
"""Numbers of examples that are drawn at once, about."""

Scores = npt.NDArray[np.float64]

ROUNDING = 1e-12
"""Scores that differ by less are equal: sums in another order."""


def drawn(count: int, most: int) -> list[int]:
    """Numbers of ``most`` of ``count`` examples, drawn with seed 0 in pairs of neighbours: those of sentence pairs for similarity
    stand together. All of them, where there are no more."""
    if count <= most:
        return list(range(count))
    pairs = np.sort(np.random.default_rng(0).permutation(count // 2)[: max(most // 2, 1)])
    return [int(row) for pair in pairs for row in (2 * pair, 2 * pair + 1)]


def resampled(metric: Metric, examples: int, *, resamples: int | None = None, seed: int = 0) -> Scores:
    """``(resamples,)``: the metric on as many examples, drawn with replacement (bootstrap, Efron 1979).

    Equal ``examples`` and ``seed`` draw the same examples for every metric: the difference of two results is paired.
    """
    found = stats.bootstrap(
        (np.arange(examples),),
        metric,
        vectorized=False,
        n_resamples=resamples or RESAMPLES,
        batch=max(1, min(100, AT_ONCE // examples)),  # all draws at once would be resamples x examples numbers
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.bootstrap_distribution)


def percentiles(differences: Scores) -> tuple[float, float]:
    """The 95 % interval of resampled values: their percentiles."""
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


Gap = tuple[float, float | None, float | None]
"""A difference, and the ends of its 95 % interval; None where there are fewer than two examples."""


def paired_difference(ours: Metric, theirs: Metric, examples: int, *, seed: int = 0) -> Gap:
    """How much ``ours`` is above ``theirs`` on the same examples, and a 95 % interval: paired bootstrap over examples."""
    every = np.arange(examples)
    value = ours(every) - theirs(every)
    if examples < 2:
        return value, None, None
    return value, *percentiles(resampled(lambda rows: ours(rows) - theirs(rows), examples, seed=seed))


def paired_shares(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_], *, seed: int = 0) -> Gap:
    """As :func:`paired_difference`, of the shares of examples that ``ours`` and ``theirs`` hold for, both ``(n,)``
    with n of at least 1.

    To draw n examples is to draw how many of them each has alone, so a resample costs no pass over the examples.
    """
    count, mine, other = len(ours), int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    value = (mine - other) / count
    if count < 2:
        return value, None, None
    parts = [mine / count, other / count, (count - mine - other) / count]
    drawn = np.random.default_rng(seed).multinomial(count, parts, size=RESAMPLES)
    return value, *percentiles((drawn[:, 0] - drawn[:, 1]) / count)


def least_share(successes: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided lower bound of a proportion (Clopper and Pearson 1934): exact, 0 without trials or successes."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(1 - confidence, successes, trials - successes + 1))


def most_share(successes: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a proportion (Clopper and Pearson 1934): exact, 1 without trials or failures."""
    return 1 - least_share(trials - successes, trials, confidence)


def fewest_rows(share: float, error: float) -> int:
    """Rows from which on a success in all of them shows the rate ``share``, in (0, 1): the least n with ``share^n <= error``."""
    return math.ceil(math.log(error) / math.log(share) - 1e-9)


def p_of_resamples(differences: Scores) -> float:
    """The two-sided p-value of no difference: twice the share of resampled differences on the other side of 0, or at 0.

    At least ``2 / (resamples + 1)`` (Davison and Hinkley 1997, section 4.2.3).
    """
    other = min((differences <= ROUNDING).sum(), (differences >= -ROUNDING).sum())
    return min(1.0, 2 * (int(other) + 1) / (len(differences) + 1))


def all_equal(values: Sequence[float]) -> bool:
    """Whether values differ by no more than rounding."""
    return float(np.ptp(values)) < ROUNDING


def p_of_seeds(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of Student's paired t-test; None for fewer than two differences.

    The test divides by their spread. Of n equal differences it is the p-value of the exact test by changes of sign, which needs no
    spread (Fisher 1935): ``2 / 2^n``, or 1 if they are 0.
    """
    if len(differences) < 2:
        return None
    if all_equal(differences):
        return 1.0 if abs(differences[0]) < ROUNDING else 2.0 ** (1 - len(differences))
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, by Holm's step-down method (1979): each is the smallest level of the whole family at
    which its own hypothesis is rejected."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
