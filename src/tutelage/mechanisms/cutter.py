"""The hook of mechanisms that close parts of a student while it learns and cut them out at the end of their stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.mechanisms.hook import Hook


class Cutter(Hook):
    """Closes parts of ``model`` by hooks, until they are cut out.

    Args:
        settle: Called at the end of the stage with :meth:`record` and what cutting changed.
    """

    def __init__(self, model: PreTrainedModel, settle: Callable[[dict[str, Any]], None]) -> None:
        self.model, self._settle = model, settle
        self._handles: list[RemovableHandle] = []

    @abstractmethod
    def cut(self) -> PreTrainedModel:
        """The model without what is closed, as it is closed now."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What is left."""

    @torch.no_grad()
    def finish(self, proof: Callable[[], Batch]) -> bool:
        """Cut out what is closed, and record what is left."""
        batch, model = proof(), self.model
        before = anatomy.answers_of(model, batch.inputs, batch.predicted)
        smaller = self.cut()
        for handle in self._handles:
            handle.remove()
        anatomy.become(model, smaller)
        after = anatomy.answers_of(model, batch.inputs, batch.predicted)
        changed = {"difference": float((after - before).abs().max()), "largest_logit": float(before.abs().max())}
        self._settle({**self.record(), **changed})
        return True

    def _at_units(self, factors: Callable[[], Tensor]) -> Callable[..., tuple[Tensor]]:
        """A hook before a matrix that reads heads or neurons: multiplies each by its factor, of ``(units,)``."""

        def multiply(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            found = factors()
            return (args[0] * found.repeat_interleave(args[0].shape[-1] // len(found)),)

        return multiply
