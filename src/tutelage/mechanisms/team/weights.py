"""The distribution over the teachers of a team, and how it is updated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor

from tutelage.data.draws import uniform
from tutelage.errors import TutelageError
from tutelage.mechanisms.team.settings import Team

Numbers = npt.NDArray[np.float64]


MEMORY = 0.98
"""How much of the running mean of rewards is kept at each update."""


BOUND = 3.0
"""Largest advantage, in standard deviations."""


RARE = 4.0
"""How much more than in a uniform team an update of a teacher that is rarely drawn may count."""


class Weights:
    """A categorical distribution over ``n`` teachers, held as logarithms, and how rewards change it. No model is involved.

    ``probabilities`` ``(n,)`` is where it starts; a teacher with none is never drawn and never gets any.
    """

    def __init__(self, probabilities: Sequence[float] | Numbers) -> None:
        start = np.asarray(probabilities, dtype=np.float64)
        with np.errstate(divide="ignore"):
            self.logs: Numbers = np.log(start / start.sum())
        self.logs[self.live] -= self.logs[self.live].mean()
        self._mean = self._square = 0.0
        self._count = 0

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """``(n,)``: who can be drawn."""
        return np.isfinite(self.logs)

    def probabilities(self) -> Numbers:
        """``(n,)``, float64, summing to 1."""
        return np.asarray(softmax(self.logs))

    def update(
        self,
        drawn: int,
        reward: float,
        rate: float,
        *,
        shrink: float = 0.6,
        watch: int = 20,
    ) -> None:
        """The single-weight strategy: only the drawn teacher's log-weight moves (but for what is common to all).

        Its expectation over draws is the natural gradient of the expected reward: what a teacher earns over the mean,
        however rarely it is drawn.
        """
        p, live = self.probabilities()[drawn], self.live
        advantage = self._advantage(reward, reward, reward**2)
        if self._count <= watch:
            return
        m = int(live.sum())
        rarity = min(1 / p, RARE * m) / m
        self.logs[live] *= 1 - rate * shrink / m
        self.logs[drawn] += rate * rarity * advantage
        self.logs[live] -= self.logs[live].mean()

    def reinforce(self, drawn: int, reward: float, rate: float, *, shrink: float = 0.6, watch: int = 20) -> None:
        """The policy gradient: all log-weights move, ``rate * advantage * (e_k - q)``."""
        q, live = self.probabilities(), self.live
        advantage = self._advantage(reward, reward, reward**2)
        if self._count <= watch:
            return
        self.logs[live] *= 1 - rate * shrink / int(live.sum())
        self.logs[live] -= rate * advantage * q[live]
        self.logs[drawn] += rate * advantage
        self.logs[live] -= self.logs[live].mean()

    def naive(self, drawn: int, reward: float, rate: float, *, watch: int = 20) -> None:
        """What seems natural and fails: the drawn teacher gets its reward, whatever the others would have got."""
        advantage = self._advantage(reward, reward, reward**2, over=0.0)
        if self._count <= watch:
            return
        self.logs[drawn] += rate * advantage
        self.logs[self.live] -= self.logs[self.live].mean()

    def update_all(self, rewards: Numbers, rate: float, *, shrink: float = 0.6, watch: int = 20) -> None:
        """The joint counterpart: every teacher's reward ``(n,)`` is known, and counts as the single one does on average."""
        q, live = self.probabilities(), self.live
        mean = float(q[live] @ rewards[live])
        advantages = self._advantage(rewards[live], mean, float(q[live] @ rewards[live] ** 2), over=mean)
        if self._count <= watch:
            return
        m = int(live.sum())
        self.logs[live] = self.logs[live] * (1 - rate * shrink / m) + rate * advantages / m
        self.logs[live] -= self.logs[live].mean()

    def _advantage(
        self, reward: float | Numbers, mean: float, square: float, *, over: float | None = None
    ) -> float | Numbers:
        """How much a reward exceeds the usual one (or ``over``), in standard deviations, of which ``mean`` and ``square``
        are news."""
        self._count += 1
        self._mean = MEMORY * self._mean + (1 - MEMORY) * mean
        self._square = MEMORY * self._square + (1 - MEMORY) * square
        seen = 1 - MEMORY**self._count
        usual = self._mean / seen
        deviation = max(self._square / seen - usual**2, 1e-12) ** 0.5 + 1e-8
        limited = np.clip((reward - (usual if over is None else over)) / deviation, -BOUND, BOUND)
        return float(limited) if isinstance(reward, float) else np.asarray(limited)

    def state(self) -> Numbers:
        return np.concatenate([self.logs, [self._mean, self._square, self._count]])

    def restore(self, state: Numbers) -> None:
        self.logs, (self._mean, self._square) = state[:-3].copy(), state[-3:-1].tolist()
        self._count = int(state[-1])


def selected(
    probabilities: Numbers, keep: float, handed_on: Literal["proportional", "equal"] = "proportional"
) -> Numbers:
    """The distribution ``(n,)`` without those below ``keep / n``, whose weight goes to the others; the best always stays."""
    kept = probabilities >= keep / len(probabilities)
    kept[probabilities.argmax()] = True
    freed = probabilities[~kept].sum()
    share = probabilities / (1 - freed) if handed_on == "proportional" else probabilities + freed / kept.sum()
    left = np.where(kept, share, 0.0)
    return np.asarray(left / left.sum())


def by_rank(scores: Sequence[float]) -> Numbers:
    """``(n,)``: weights in linear steps, the best score's the largest; equal scores share theirs."""
    places = rankdata(scores)  # the worst is 1
    return np.asarray(places / places.sum())


def draw(probabilities: Numbers, *key: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which teacher, for each combination of keys (integers from 0, or arrays of them): the same for the same keys.

    Numbers are hashes of their place, so that resuming, the number of processes and the size of pieces change nothing.
    """
    live = np.flatnonzero(probabilities > 0)
    edges = np.cumsum(probabilities[live])
    places = np.searchsorted(edges, uniform(*key), side="right")
    return np.asarray(live[np.minimum(places, len(live) - 1)])


@dataclass
class Members:
    """A team that has been asked: who they are and what they say."""

    names: list[str]
    """As people read them: each different."""
    folders: list[str]
    shapes: list[str]
    parameters: list[int]
    logits: dict[str, Tensor] = field(default_factory=dict)
    """``(n, answers, classes)`` by part of the data, columns in the order of its labels."""
    scores: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Each teacher's metrics, by part that is scored: ``held`` (for the weights) and those of dev."""
    constant: dict[str, float] = field(default_factory=dict)
    """What the same answer to everything scores on ``held``."""

    def lines(self, metric: str, part: str) -> list[str]:
        """A line for each: what it is, and its scores on held-out training examples and on a part of dev."""
        held, dev = self.scores["held"], self.scores[part]
        return [
            f"{name}: {self.shapes[i]}, {self.parameters[i] / 1e6:.1f} M parameters, {metric} {held[i][metric]:.4f} on held-out "
            f"train, {dev[i][metric]:.4f} on {part}"
            for i, name in enumerate(self.names)
        ]


def start_of(how: Team, members: Members, metric: str, found: Sequence[float] | None) -> Numbers:
    """The distribution with which a stage begins.

    Raises:
        TutelageError: when there is not one number for each teacher.
    """
    count = len(members.names)
    if how.weights == "found":
        if found is None:
            raise TutelageError(
                "team.weights=found, but no earlier stage has learnt any; give it a stage with team.learning"
            )
        start: Sequence[float] | Numbers = found
    elif how.weights == "uniform":
        start = [1.0] * count
    elif how.weights == "teacher_rank":
        start = by_rank([scores[metric] for scores in members.scores["held"]])
    else:
        start = by_rank(how.scores or ()) if how.weights == "student_rank" else how.weights
    if len(start) != count:
        raise TutelageError(f"team.weights has {len(start)} numbers for a team of {count}; give one for each teacher")
    array = np.asarray(start, dtype=np.float64)
    return np.asarray(array / array.sum())
