"""Mappers: how the target of a student layer is made of several teacher layers."""

from __future__ import annotations

import numpy as np
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


class Drawn(Mapper):
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
