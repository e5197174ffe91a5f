"""Mappers: how the target of a student layer is made of several teacher layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn


class Mapper(nn.Module):
    """A module of a term (:meth:`~tutelage.objectives.term.Term.modules`) that follows the training.

    What it carries from step to step are its buffers: they are in checkpoints, with the projections. A forward pass leaves them
    alone, because a step may have several (pieces, views) and the log looks at a first one before training begins.
    """

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """Called before the first step of an epoch, also of a resumed one. The generator's state follows from the run's seed, the
        stage and the epoch alone."""

    def after_step(self) -> None:
        """Called after each optimiser step, on every process."""


def attended(query: Tensor, layers: Tensor) -> Tensor:
    """``sum_i softmax_i(<q, h_i>) h_i``: the mean of the layers' vectors, weighted by attention without scaling (ALP-KD).

    Shapes: query ``(B, d)``, layers ``(B, n, d)``, result ``(B, d)``, in float32.
    """
    layers = layers.float()
    weights = (layers * query.float()[:, None]).sum(-1).softmax(-1)
    return (weights[..., None] * layers).sum(1)


def new_map(width: int, outputs: int) -> nn.Linear:
    """A linear map without bias, initialised as projections are."""
    linear = nn.Linear(width, outputs, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    return linear


def placed(kept: Sequence[int], width: int) -> Tensor:
    """``(width, kept)``: the linear map that puts kept coordinates in their places among ``width``; those beyond are left out."""
    return (torch.arange(width)[:, None] == torch.tensor(kept)).float()


class DrawnLayers(Mapper):
    """``count`` of the first ``among`` teacher layers, ascending, drawn anew each epoch."""

    def __init__(self, count: int, among: int) -> None:
        super().__init__()
        self.layers: list[int] = []
        self._count, self._among = count, among
        self.begin_epoch(np.random.default_rng(0))

    def begin_epoch(self, generator: np.random.Generator) -> None:
        drawn = generator.choice(self._among, self._count, replace=False)
        self.layers = sorted(int(layer) + 1 for layer in drawn)


def token_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens' vectors, in float32. Shapes: ``(B, n, d)``, mask ``(B, n)``, result ``(B, d)``."""
    real = mask.float()
    return (hidden.float() * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


def summed(costs: Tensor) -> Tensor:
    """Costs of which each process has its own part of the step's, added up in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(costs)
    return costs


def closest(costs: Tensor, left: Tensor) -> Tensor:
    """Which student layer (from 0) each teacher layer chooses, ``(N,)``: from the top down the one of least cost among those that
    are left, below the last choice; the last choice if there is none (CoFi).

    Nothing waits for the device. Shapes: ``costs`` ``(M, N)`` for M student layers, ``left`` ``(M,)``.
    """
    count = len(costs)
    places, last = torch.arange(count, device=costs.device), torch.full((), count, device=costs.device)
    chosen = []
    for row in costs.T.flip(0):
        able = left & (places < last)
        last = torch.where(able.any(), row.masked_fill(~able, torch.inf).argmin(), last.clamp(max=count - 1))
        chosen.append(last)
    return torch.stack(chosen[::-1])


Weights = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

LEAST_COST = 1e-3
"""The lowest cost per unit of a layer, as a share of the mean over layers: a layer that costs nothing would take all weight, and a
layer without weight would never have any again."""


class Flows(Mapper):
    """The transport of least cost between student and teacher layers, and their weights, which follow the costs (BERT-EMD).

    The weights are equal at first. After a step, the weight of a layer is proportional to the inverse of its cost per unit, the
    ``sum_j f_ij D_ij / w_i`` of the step; of several flows the mean of the weights is taken.
    """

    student: Tensor
    teacher: Tensor

    def __init__(self, student_layers: int, teacher_layers: int) -> None:
        super().__init__()
        self.register_buffer("student", torch.full((student_layers,), 1 / student_layers))
        self.register_buffer("teacher", torch.full((teacher_layers,), 1 / teacher_layers))
        self._next: Weights | None = None

    def solve(self, costs: Sequence[Tensor]) -> list[npt.NDArray[np.float64]]:
        """The flow ``(M, N)`` for each matrix of costs, of which each process has its own part of the step's."""
        from ot.lp import emd

        table = (
            summed(torch.stack(list(costs))).cpu().double().numpy()
        )  # one transfer a step: M x N numbers for each flow
        ours, theirs = (one.cpu().double().numpy() for one in (self.student, self.teacher))
        ours, theirs = ours / ours.sum(), theirs / theirs.sum()
        if not np.isfinite(table).all():  # the loss is not finite either, and the loop says so
            return [np.outer(ours, theirs) for _ in costs]
        flows = [emd(ours, theirs, cost) for cost in table]
        parts = [
            (_cheaper((flow * cost).sum(1), ours), _cheaper((flow * cost).sum(0), theirs))
            for flow, cost in zip(flows, table, strict=True)
        ]
        student, teacher = (np.mean(weights, axis=0) for weights in zip(*parts, strict=True))
        self._next = student, teacher
        return flows

    def after_step(self) -> None:
        if self._next is not None:
            for mine, new in zip((self.student, self.teacher), self._next, strict=True):
                mine.copy_(torch.from_numpy(new))
        self._next = None


def _cheaper(paid: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The layers' next weights, from what each paid for its weight."""
    unit = paid / weights
    if unit.mean() <= 0:
        return weights
    new = 1 / np.maximum(unit, LEAST_COST * unit.mean())
    return np.asarray(new / new.sum())
