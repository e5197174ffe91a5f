"""A team of teachers as one teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.data.examples import Encoded
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.team.settings import Team
from tutelage.mechanisms.team.weights import Numbers, Weights, draw
from tutelage.tasks.kind import Kind
from tutelage.teachers.teacher import LiveTeacher, Teacher


class TeamTeacher:
    """Teachers as one; if one is drawn for the step, only that one runs.

    ``key`` (the run's seed and a number for the stage's name) seeds the draws. Probabilities are averaged at ``temperature``,
    that of the soft labels. ``layers`` gives the signals on layers of teachers that all teach each step, by number.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        how: Team,
        weights: Weights,
        kind: Kind,
        key: tuple[int, int],
        temperature: float = 1.0,
        layers: Mapping[int, Teacher] | None = None,
    ) -> None:
        self.members, self.weights = members, weights
        self._how, self._kind, self._key, self._temperature = how, kind, key, temperature
        self._layers = layers or {}

    def drawn(self, step: int) -> int:
        """The teacher that is sampled for an optimiser step."""
        return int(draw(self.weights.probabilities(), *self._key, step)[0])

    def signals(self, batch: Batch) -> Signals:
        how = self._how
        if how.combine == "sample" and how.granularity == "step":
            return self.members[self.drawn(batch.step)].signals(batch)
        q = self.weights.probabilities()
        if how.combine == "sample":
            who = torch.from_numpy(draw(q, *self._key, batch.step, batch.rows.numpy()))
            found = [self.members[k].signals(batch).logits if bool((who == k).any()) else None for k in range(len(q))]
            known = next(logits for logits in found if logits is not None)
            table = torch.stack([torch.zeros_like(known) if logits is None else logits for logits in found])
            return Signals(logits=table[who.to(known.device), torch.arange(len(who), device=known.device)])
        signals = self._mixed(batch, q)
        live = int((q > 0).sum()) if how.combine == "discounted" else 1
        for number, teacher in self._layers.items():
            if q[number] > 0:
                signals.members[number] = replace(teacher.signals(batch), share=float(q[number]) * live)
        return signals

    def _mixed(self, batch: Batch, q: Numbers) -> Signals:
        """The predictions of all teachers as one's; ``q`` ``(n,)`` are their probabilities."""
        how = self._how
        found = [member.signals(batch).logits for member, p in zip(self.members, q, strict=True) if p > 0]
        table = torch.stack([logits for logits in found if logits is not None])
        shares = torch.from_numpy(q[q > 0]).to(table)[:, None]
        if how.combine == "average":
            return Signals(logits=mixture(table, shares, self._temperature, self._kind, how.average))
        labels = batch.labels.to(table.device).repeat(len(table))
        errors = F.cross_entropy(table.flatten(0, 1).float(), labels, ignore_index=-1, reduction="none")
        weights = shares * len(table) / (1 + errors.view(table.shape[:2]))
        total = weights.sum(dim=0)
        mixed = mixture(table, weights / total, self._temperature, self._kind, how.average)
        return Signals(logits=mixed, weights=total)

    def close(self) -> None:
        for member in (*self.members, *self._layers.values()):
            member.close()


class Resident:
    """A teacher that runs when it is sampled. ``room`` holds the teachers on the device, at most ``most``."""

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
    """Logits ``(answers, classes)`` of a team: its logits ``(n, answers, classes)`` mixed by shares ``(n, 1 or answers)``.

    Their probabilities at ``temperature`` are the weighted mean of the team's probabilities; with
    ``average="logits"`` they are the weighted mean of its logits.
    """
    logits, shares = logits.float(), shares.float()[..., None]
    return (shares * logits).sum(dim=0) if average == "logits" else kind.mix(logits, shares, temperature)
