"""When a student's answer can stand for its teacher's: a threshold on its confidence, chosen with a guarantee."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tutelage.evaluation.intervals import fewest_rows, least_share

Confidences = npt.NDArray[np.float64]
Agrees = npt.NDArray[np.bool_]

CANDIDATES = 20
STARTS = 3


@dataclass(frozen=True)
class Choice:
    """The threshold that was chosen, and the rows that are above it."""

    threshold: float | None
    """The student answers where its confidence is above; None: nowhere."""
    answered: int
    agree: int
    """Of these, rows on which student and teacher agree."""
    bound: float
    """Lower bound of the agreement, at the confidence at which this candidate was tested."""


def candidates(rows: int, agreement: float, error: float) -> dict[int, float]:
    """The numbers of answered rows that are tested, fewest first, each with its own part of the error; empty for too few rows.

    They follow from the number of rows alone. The first could be shown if student and teacher agreed on all its rows; the last is
    all rows. The first, the one at a quarter and the one at half of the way have a third of the error each.
    """
    first = fewest_rows(agreement, error / STARTS)
    if rows < first:
        return {rows: error} if rows >= fewest_rows(agreement, error) else {}
    counts = sorted({int(k) for k in np.linspace(first, rows, CANDIDATES).round()})
    starts = {0, len(counts) // 4, len(counts) // 2}
    return {count: error / len(starts) if place in starts else 0.0 for place, count in enumerate(counts)}


def choose(confidences: Confidences, agrees: Agrees, agreement: float, confidence: float = 0.95) -> Choice:
    """The lowest threshold above which student and teacher agree at the rate ``agreement``, with probability ``confidence``.

    "Above which they agree" is about new rows of the same distribution: ``P(agree | confidence > threshold) >= agreement``. The
    probability that the chosen threshold breaks this is at most ``1 - confidence`` over draws of the rows. The rows must be ones
    that neither model was trained on.

    Each candidate threshold is the confidence of the (k + 1)-th surest row, for numbers k that are fixed before any row is looked
    at. The rows above it are then independent draws from the distribution above it, so the number of agreements is binomial and the
    Clopper-Pearson bound is exact. Testing several candidates on the same rows and keeping the best would break the promise more
    often than one test does. So they are tested in a fixed order, the strictest first, and testing goes on only while candidates
    pass: fixed-sequence testing, which needs no correction. By itself it ends where the strictest candidates, which have few rows,
    fail by chance; so it starts at three places with a third of the error each, and a sequence that passes the next start adds that
    start's share to its own (the fallback procedure of Wiens, Pharmaceutical Statistics 2003; several starts as in Angelopoulos et
    al., "Learn then Test", arXiv:2110.01052). Of the candidates that pass, the one with most rows is taken.

    The guarantee assumes that a student is no worse where it is surer: the agreement above a threshold does not rise as the
    threshold falls.

    Args:
        confidences: ``(n,)``, of the student in its prediction.
        agrees: ``(n,)``, whether the teacher predicts the same.
        agreement: The promised rate, between 0 and 1.
        confidence: Of the promise.
    """
    rows, error = len(confidences), 1 - confidence
    falling = np.sort(confidences)[::-1]
    chosen, handed = Choice(None, 0, 0, 0.0), 0.0
    for count, own in candidates(rows, agreement, error).items():
        level, found = handed + own, _above(confidences, agrees, falling, count)
        bound = least_share(found.agree, found.answered, 1 - level) if level else 0.0
        handed = level if bound >= agreement else 0.0
        if handed:
            chosen = replace(found, bound=bound)
    return chosen


def _above(confidences: Confidences, agrees: Agrees, falling: Confidences, count: int) -> Choice:
    """The threshold that ``count`` rows are above (fewer with ties; 0 for all rows), with its own 95 % bound."""
    threshold = float(falling[count]) if count < len(falling) else 0.0
    above = confidences > threshold
    answered, agree = int(above.sum()), int((above & agrees).sum())
    return Choice(threshold, answered, agree, least_share(agree, answered))


def curve(confidences: Confidences, agrees: Agrees, points: int = 50) -> list[Choice]:
    """Thresholds by the share of rows that the student answers, from few to all, each with its own 95 % lower bound.

    For looking at, not for choosing: the bounds do not hold together.
    """
    rows, falling = len(confidences), np.sort(confidences)[::-1]
    counts = sorted({int(k) for k in np.linspace(rows / points, rows, points).round() if k >= 1})
    found = [_above(confidences, agrees, falling, count) for count in counts]
    return list({one.answered: one for one in found if one.answered}.values())
