"""What a search for the smallest knowledge found, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydantic import BaseModel

from tutelage.report.numbers import bytes_text
from tutelage.report.templates import render
from tutelage.report.words import words


class Candidate(BaseModel):
    """A configuration: how much is kept (as in :class:`HiddenKnowledge`), up to which teacher layer, and what it weighs."""

    keep: str
    top: int
    bytes_per_example: float
    """Of the smallest store that serves it, mean over the examples; the teacher's predictions are in it."""

    @property
    def name(self) -> str:
        return f"{self.keep}, top {self.top}"


class SearchTrial(Candidate):
    """A configuration and the scores of students that learnt from it, in its longest runs; they are of the task's first metric."""

    rung: int
    """The rung it came to, from 1."""
    score: float
    """On the selection data, mean over the seeds."""
    scores: dict[int, float]
    """The same by seed."""
    dev_score: float
    """On dev, mean over the seeds; nothing was chosen by it."""

    @property
    def rank(self) -> tuple[float, ...]:
        """Lower is better: first who came further, of equal scores the smaller."""
        return (-self.rung, -self.score, self.bytes_per_example)


class Rung(BaseModel):
    """How many configurations were trained for how many epochs of each stage, with how many seeds."""

    epochs: dict[str, int]
    trials: int
    seeds: int


class Search(BaseModel):
    """What a search found; ``search.json`` is this."""

    task: str
    kind: str
    metric: str
    teacher: str
    rungs: list[Rung]
    trials: list[SearchTrial]
    """All configurations, the smallest first. Scores compare within a rung only: later ones train longer."""
    front: list[SearchTrial]
    """Of the last rung those that no other beats in score without being larger, the smallest first."""
    under: float | None = None
    """The budget in bytes per example that was asked about."""

    @property
    def chosen(self) -> SearchTrial | None:
        """The best configuration within the budget; None without a budget, and when all that were tried are larger."""
        return None if self.under is None else self.best_under(self.under)

    @property
    def passed(self) -> bool:
        """Whether a configuration is within the budget, if there is one."""
        return self.under is None or self.chosen is not None

    def best_under(self, budget: float) -> SearchTrial | None:
        """The best configuration of at most ``budget`` bytes per example; None when all that were tried are larger."""
        fitting = (trial for trial in self.trials if trial.bytes_per_example <= budget)
        return min(fitting, key=lambda trial: trial.rank, default=None)


LEFT, RIGHT, TOP, BOTTOM = 56.0, 844.0, 58.0, 420.0


Label = tuple[float, float, str]


def picture(search: Search) -> str:
    """Score against bytes per example (log axis) as an SVG that needs nothing but itself: the last rung, and its front."""
    others = [trial for trial in search.trials if trial.rung == len(search.rungs) and trial not in search.front]
    last = [*search.front, *others]
    scores = [score for trial in last for score in trial.scores.values()]
    sizes = [trial.bytes_per_example for trial in search.trials]
    # Wide enough that one of 1, 2, 5 times a power of ten is among them.
    x_low, x_high = math.log10(min(sizes) / 1.6), math.log10(max(sizes) * 1.6)
    step = next(size for size in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if np.ptp(scores) <= 6 * size)
    y_low, y_high = math.floor(min(scores) / step + 1e-9), math.ceil(max(scores) / step - 1e-9)
    y_high = max(y_high, y_low + 1)

    def x_of(size: float) -> float:
        return round(LEFT + (math.log10(size) - x_low) / (x_high - x_low) * (RIGHT - LEFT), 1)

    def y_of(score: float) -> float:
        return round(BOTTOM - (score / step - y_low) / (y_high - y_low) * (BOTTOM - TOP), 1)

    front = [(x_of(trial.bytes_per_example), y_of(trial.score)) for trial in search.front]
    stairs = [place for (x, y), (to, _) in pairwise([*front, (RIGHT, 0.0)]) for place in ((x, y), (to, y))]
    factors = (1, 2, 5) if x_high - x_low < 3 else (1,)
    amounts = [factor * 10.0**power for power in range(math.floor(x_low), math.ceil(x_high)) for factor in factors]
    points = [(x_of(trial.bytes_per_example), y_of(trial.score)) for trial in last]
    return render(
        "search.svg.jinja",
        search=search,
        metric=words(search.metric),
        marks=list(zip(last, points, _labels(points, [trial.name for trial in last]), strict=True)),
        stairs=" ".join(f"{x},{y}" for x, y in stairs),
        x_ticks=[(x_of(size), bytes_text(size)) for size in amounts if x_low <= math.log10(size) <= x_high],
        y_ticks=[(y_of(i * step), f"{i * step:.{3 if step < 0.01 else 2}f}") for i in range(y_low, y_high + 1)],
        x_of=x_of,
        y_of=y_of,
        frame={"left": LEFT, "right": RIGHT, "bottom": BOTTOM},
    )


def _labels(points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Label]:
    """Where each name stands (x, y, anchor): near its point, over no other name or point as far as there is room."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    labels: list[Label] = []
    for (x, y), name in zip(points, names, strict=True):
        width = 6.4 * len(name)
        found = (math.inf, taken[0], (x, y, "start"))
        for shift in (-10, 11, -23, 24, -36, 37, -49, 50, 0):
            for left, at, anchor in (
                (x + 9, x + 9, "start"),
                (x - 9 - width, x - 9, "end"),
                (x - width / 2, x, "middle"),
            ):
                box = (left, y + shift - 6, left + width, y + shift + 6)
                covered = sum(b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3] for b in taken)
                outside = box[0] < LEFT or box[2] > RIGHT or box[1] < TOP - 12 or box[3] > BOTTOM - 10
                if covered + 2 * outside < found[0]:
                    found = (covered + 2 * outside, box, (at, y + shift + 4, anchor))
        taken.append(found[1])
        labels.append(found[2])
    return labels
