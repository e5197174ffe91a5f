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
