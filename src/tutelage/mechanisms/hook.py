"""What a mechanism does during training, called by the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data.batches import Batch


class Hook:
    """Called by the training loop at fixed points of a stage; a subclass overrides what it needs."""

    def parameter_groups(self, module: nn.Module, weight_decay: float) -> list[dict[str, Any]] | None:
        """The optimiser's groups; None keeps the usual ones. A ``factor`` in a group multiplies the stage's learning rate. A
        ``rate`` replaces it, and the gradients of such a group are not clipped.

        At most one hook of a stage may return groups.
        """
        return None

    def views(self) -> Sequence[AbstractContextManager[object]]:
        """Contexts in which each piece of a step runs, forward and backward, and in which the student is scored. The gradients and
        losses of all contexts add up; the score is their mean.

        All parameters that are trained must be used in the last one: processes exchange their gradients there. At most one hook
        of a stage may return several. Default: one context that changes nothing.
        """
        return (nullcontext(),)

    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """Called with the gradients of the whole step over all processes, before they are clipped.

        Args:
            parts: This process's pieces of the step.
            total: The number of steps of the stage.
        """

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        """Called after step ``step`` (from 1) of ``total``. Returns whether the student's parameters were replaced."""
        return False

    def unfinished(self) -> bool:
        """Whether the stage must go on though its score does not improve: patience is counted from when this is False."""
        return False

    def shown(self) -> dict[str, float]:
        """Values for the log line."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """The hook's state for a checkpoint."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned, when a stage is resumed."""

    def finish(self, proof: Callable[[], Batch]) -> bool:
        """Called at the end of the stage. Returns whether it changed the student.

        Args:
            proof: Makes a small batch of the stage's data, on the device.
        """
        return False


def views_of(hooks: Sequence[Hook]) -> Sequence[AbstractContextManager[object]]:
    """The contexts of a stage's hooks."""
    return next((views for hook in hooks if len(views := hook.views()) > 1), (nullcontext(),))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: vectors (biases, norms) have none, as BERT was trained."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
