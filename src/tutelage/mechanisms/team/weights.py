"""The distribution over the teachers of a team, and how it is updated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor

from tutelage.data.draws import uniform
from tutelage.data.examples import Encoded, Rows
from tutelage.errors import TutelageError
from tutelage.knowledge.store.reading import Store
from tutelage.mechanisms.team.settings import Learning, Team

Numbers = npt.NDArray[np.float64]


MEMORY = 0.98
"""Decay of the running moments of the rewards."""


BOUND = 3.0
"""Largest absolute advantage, in standard deviations."""


RARE = 4.0
"""Upper bound on the weight of an update of a rarely sampled teacher, relative to a uniform team."""


class Weights:
    """A categorical distribution over ``n`` teachers as log-weights, and its updates from rewards.

    ``probabilities`` ``(n,)`` is the initial distribution. A teacher with probability 0 is never sampled and keeps 0.
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
        """``(n,)``: which teachers can be sampled."""
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
        """The single-weight strategy: only the sampled teacher's log-weight changes, apart from shrinkage and centring.

        Its expectation over samples is the natural gradient of the expected reward, however rarely a teacher is sampled.
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
        """A control that fails: add the reward to the sampled teacher, without a baseline."""
        advantage = self._advantage(reward, reward, reward**2, over=0.0)
        if self._count <= watch:
            return
        self.logs[drawn] += rate * advantage
        self.logs[self.live] -= self.logs[self.live].mean()

    def update_all(self, rewards: Numbers, rate: float, *, shrink: float = 0.6, watch: int = 20) -> None:
        """The joint counterpart: every teacher's reward ``(n,)`` is known. The update equals the expectation of the single-weight
        update."""
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
        """Standardised reward: ``(reward - baseline) / std``, clipped; the baseline is the running mean, or ``over``. ``mean``
        and ``square`` update the running moments."""
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


def selected(probabilities: Numbers, how: Learning) -> Numbers:
    """The distribution ``(n,)`` without the teachers that are dropped: those below ``keep / n``, or all but the ``top_m`` most
    probable (of equals the first). The others get their weight. The best teacher always stays."""
    if how.top_m is not None:
        kept = np.zeros(len(probabilities), dtype=np.bool_)
        kept[np.argsort(-probabilities, kind="stable")[: how.top_m]] = True
    elif how.keep is not None:
        kept = probabilities >= how.keep / len(probabilities)
        kept[probabilities.argmax()] = True
    else:
        return probabilities
    kept &= probabilities > 0  # what an earlier stage dropped stays out
    freed = probabilities[~kept].sum()
    share = probabilities / (1 - freed) if how.handed_on == "proportional" else probabilities + freed / kept.sum()
    left = np.where(kept, share, 0.0)
    return np.asarray(left / left.sum())


def by_rank(scores: Sequence[float]) -> Numbers:
    """``(n,)``: weights linear in the rank of the scores, the best score's the largest; equal scores get equal weights."""
    places = rankdata(scores)  # the worst is 1
    return np.asarray(places / places.sum())


def by_softmax(scores: Sequence[float], beta: float) -> Numbers:
    """``(n,)``: weights proportional to ``exp(beta * score)``."""
    return np.asarray(softmax(beta * np.asarray(scores, dtype=np.float64)))


def draw(probabilities: Numbers, *key: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sample a teacher for each combination of keys (integers from 0, or arrays of them). Equal keys give equal samples.

    The random numbers are hashes of the keys, so resuming, the number of processes and the size of pieces change nothing.
    """
    live = np.flatnonzero(probabilities > 0)
    edges = np.cumsum(probabilities[live])
    places = np.searchsorted(edges, uniform(*key), side="right")
    return np.asarray(live[np.minimum(places, len(live) - 1)])


@dataclass
class Members:
    """The teachers of a team, with their predictions and scores."""

    names: list[str]
    """Short names for display, each different."""
    folders: list[str]
    shapes: list[str]
    parameters: list[int]
    logits: dict[str, Tensor] = field(default_factory=dict)
    """``(n, answers, classes)`` by part of the data, columns in the order of its labels."""
    scores: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Each teacher's metrics by part: ``held_out`` (for the weights) and the parts of the evaluation set."""
    rows: dict[str, Rows] = field(default_factory=dict)
    """By part of the data, its rows among all texts."""
    read: dict[int, Encoded] = field(default_factory=dict)
    """By number, all texts as a teacher reads them whose layers are compared."""
    stores: dict[int, tuple[Store, Rows]] = field(default_factory=dict)
    """By number, the store of such a teacher, with its rows of all texts."""
    constant: dict[str, float] = field(default_factory=dict)
    """The scores of the best constant prediction on ``held_out``."""

    def lines(self, metric: str, part: str) -> list[str]:
        """A line for each teacher: its size, and its scores on held-out training examples and on a part of the evaluation set."""
        held, dev = self.scores["held_out"], self.scores[part]
        return [
            f"{name}: {self.shapes[i]}, {self.parameters[i] / 1e6:.1f} M parameters, {metric} {held[i][metric]:.4f} on held-out "
            f"train, {dev[i][metric]:.4f} on {part}"
            for i, name in enumerate(self.names)
        ]


def start_of(how: Team, members: Members, metric: str, found: Sequence[float] | None) -> Numbers:
    """The distribution at the start of a stage.

    Raises:
        TutelageError: if there is not one number per teacher.
    """
    count = len(members.names)
    if how.weights == "found":
        if found is None:
            raise TutelageError("team.weights=found, but no earlier stage learns weights; add one with team.learning")
        start: Sequence[float] | Numbers = found
    elif how.weights == "uniform":
        start = [1.0] * count
    elif isinstance(how.weights, tuple):
        start = how.weights
    else:
        scores = [one[metric] for one in members.scores["held_out"]] if how.judges else how.scores or ()
        start = by_softmax(scores, how.beta) if how.weights == "score_softmax" else by_rank(scores)
    if len(start) != count:
        raise TutelageError(f"team.weights has {len(start)} numbers for a team of {count}; give one for each teacher")
    array = np.asarray(start, dtype=np.float64)
    return np.asarray(array / array.sum())
