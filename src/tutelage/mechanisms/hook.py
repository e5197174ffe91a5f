"""What a mechanism does during training beside the objective, called by the training loop."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tutelage.data import batches


class Beside(Protocol):
    """What a method does beside its loss, called by the loop."""

    def parameter_groups(self, lesson: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's groups; a ``factor`` multiplies the stage's learning rate."""

    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[batches.Batch], total: int) -> None:
        """Gradients are those of the whole step, over all processes, and not clipped yet; ``parts`` are this process's
        pieces of it, and the stage has ``total`` steps."""

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        """``step`` of ``total`` steps are made; whether the student has other parameters now."""

    def shown(self) -> dict[str, float]:
        """What a person sees of it in the log."""

    def state(self) -> dict[str, Tensor]:
        """What it knows beside the student's weights, to be given to :meth:`restore` when a stage is resumed."""

    def restore(self, state: dict[str, Tensor]) -> None: ...


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: vectors (biases, norms) have none, as BERT was trained."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
