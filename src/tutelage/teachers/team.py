"""A team of teachers: one drawn at each step, or all of them averaged; and the distribution from which they are drawn.

The outline (one teacher a step, a distribution that is learnt in two phases with a selection between them, only the drawn
teacher's weight updated) is that of AutoSKDBERT (OpenReview csARsNPKgVi) and, with a distribution that is given, of SKDBERT
(AAAI 2023, arXiv:2211.14466). Estimator, schedule and constants of the learning are ours: the papers' are not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.data.draws import uniform
from tutelage.data.examples import Encoded, Kind
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.team import Team
from tutelage.teachers.teacher import LiveTeacher, Teacher

Numbers = npt.NDArray[np.float64]


DISTRIBUTION = "distribution.json"
"""In the folder of a run: what each stage has found out about its team."""


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


class TeamTeacher:
    """Teachers as one; the step's teacher, where one is drawn, is the only one that is asked.

    ``key`` (the run's seed and a number for the stage's name) says which draws; ``temperature`` is that of the soft labels,
    at which probabilities are averaged.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        how: Team,
        weights: Weights,
        kind: Kind,
        key: tuple[int, int],
        temperature: float = 1.0,
    ) -> None:
        self.members, self.weights = members, weights
        self._how, self._kind, self._key, self._temperature = how, kind, key, temperature

    def drawn(self, step: int) -> int:
        """The teacher of an optimiser step."""
        return int(draw(self.weights.probabilities(), *self._key, step)[0])

    def signals(self, batch: Batch) -> Signals:
        how = self._how
        if how.combine == "sample" and how.granularity == "step":
            return self.members[self.drawn(batch.step)].signals(batch)
        q = self.weights.probabilities()
        if how.combine == "sample":
            who = torch.from_numpy(draw(q, *self._key, batch.step, batch.rows.numpy()))
            asked = [self.members[k].signals(batch).logits if bool((who == k).any()) else None for k in range(len(q))]
            known = next(logits for logits in asked if logits is not None)
            table = torch.stack([torch.zeros_like(known) if logits is None else logits for logits in asked])
            return Signals(logits=table[who.to(known.device), torch.arange(len(who), device=known.device)])
        found = [member.signals(batch).logits for member, p in zip(self.members, q, strict=True) if p > 0]
        table = torch.stack([logits for logits in found if logits is not None])
        shares = torch.from_numpy(q[q > 0]).to(table)[:, None]
        if how.combine == "average":
            return Signals(logits=mixture(table, shares, self._temperature, self._kind, how.average))
        labels = batch.labels.to(table.device).repeat(len(table))
        errors = F.cross_entropy(table.flatten(0, 1).float(), labels, ignore_index=-1, reduction="none")
        trust = shares * len(table) / (1 + errors.view(table.shape[:2]))
        total = trust.sum(dim=0)
        mixed = mixture(table, trust / total, self._temperature, self._kind, how.average)
        return Signals(logits=mixed, trust=total)

    def close(self) -> None:
        for member in self.members:
            member.close()


class Resident:
    """A member that runs when it is drawn. ``room`` holds those that are on the device, ``most`` of them at most."""

    def __init__(
        self,
        model: PreTrainedModel,
        needs: Needs,
        encoded: Encoded | None,
        accelerator: Accelerator,
        room: list[Resident],
        most: int,
    ) -> None:
        self.model, self._room, self._most, self._device = model, room, most, accelerator.device
        self._live = LiveTeacher(model, needs, encoded, accelerator)

    def signals(self, batch: Batch) -> Signals:
        if self in self._room:
            self._room.remove(self)
        self._room.append(self)
        while len(self._room) > self._most:  # who has waited longest
            self._room.pop(0).model.to("cpu")
        self.model.to(self._device)
        return self._live.signals(batch)

    def close(self) -> None:
        self._live.close()


def mixture(
    logits: Tensor, shares: Tensor, temperature: float, kind: Kind, average: Literal["probabilities", "logits"]
) -> Tensor:
    """Logits ``(answers, classes)`` that say what a team says: of ``(n, answers, classes)`` by ``(n, 1 or answers)``.

    At the ``temperature`` their probabilities are the weighted mean of the team's; or they are the mean of its logits.
    """
    logits, shares = logits.float(), shares.float()[..., None]
    if average == "logits" or kind == "regression":
        return (shares * logits).sum(dim=0)
    soft = logits / temperature
    if kind == "multilabel":
        likely, unlikely = ((shares * (sign * soft).sigmoid()).sum(dim=0) for sign in (1, -1))
        return temperature * (likely.log() - unlikely.log())
    return temperature * (shares.log() + soft.log_softmax(dim=-1)).logsumexp(dim=0)


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
