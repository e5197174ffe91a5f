"""The rounding of int8 files, in PyTorch and with gradients.

``x`` becomes ``s round(x / s)``. What is rounded, and with which scale, follows :func:`tutelage.serving.graph.quantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.mechanisms.hook import Hook
from tutelage.mechanisms.quantization.settings import Quantization
from tutelage.serving.graph import narrows

MATRIX, TABLE, INPUT = 64, 127, 255
"""Largest integer of a weight in a matrix product (7 bits, so that sums do not overflow on older CPUs) and in an embedding table;
number of steps of an input."""


def rounded_rows(weight: Tensor, largest: int) -> Tensor:
    """``s round(w / s)`` with ``s = max |w| / largest`` of each row: the outputs of a linear layer, or the entries of a table.

    Args:
        weight: ``(rows, columns)``.
        largest: The largest integer.
    """
    scale = weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / largest
    return _through(weight, (weight / scale).round() * scale)


def rounded_inputs(x: Tensor, by_token: bool = False) -> Tensor:
    """The inputs of a matrix product in 256 steps between their least and largest value, 0 among them; each text has its own.

    Args:
        x: ``(texts, ..., features)``.
        by_token: Divide each token's by the largest of them before, and multiply by it afterwards.
    """
    if by_token:
        largest = x.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
        return rounded_inputs(x / largest) * largest
    dims = tuple(range(1, x.ndim))
    low, high = x.detach().amin(dim=dims, keepdim=True), x.detach().amax(dim=dims, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / INPUT).clamp(min=1e-12)
    zero = (-low / scale).round()
    return _through(x, (((x / scale).round() + zero).clamp(0, INPUT) - zero) * scale)


def _through(x: Tensor, rounded: Tensor) -> Tensor:
    """``rounded``, with the gradient of ``x``."""
    return x + (rounded - x).detach()


class Quantizer(Hook):
    """Rounds a model's linear layers and embedding tables until :meth:`finish`."""

    def __init__(self, how: Quantization, model: PreTrainedModel) -> None:
        self._modules: list[nn.Module] = []
        for module in model.modules():
            made: Any = None
            if isinstance(module, nn.Linear):
                made = _linear(module, how.activations)
            elif isinstance(module, nn.Embedding):
                made = _table(module)
            if made is not None:
                # The class's own method is hidden, not replaced: parameters and their names stay as they are.
                cast(Any, module).forward = made
                self._modules.append(module)

    def finish(self, proof: Callable[[], Batch]) -> bool:
        """The model computes in full precision again."""
        for module in self._modules:
            del module.forward
        return True


def _linear(module: nn.Linear, activations: bool) -> Callable[[Tensor], Tensor]:
    by_token = narrows(module.in_features, module.out_features)

    def forward(x: Tensor) -> Tensor:
        inputs = rounded_inputs(x, by_token) if activations else x
        return nn.functional.linear(inputs, rounded_rows(module.weight, MATRIX), module.bias)

    return forward


def _table(module: nn.Embedding) -> Callable[[Tensor], Tensor]:
    def forward(ids: Tensor) -> Tensor:
        rows = nn.functional.embedding(ids, module.weight, module.padding_idx)
        # Each entry has a scale of its own, so those that are read can be rounded alone.
        scale = rows.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / TABLE
        return _through(rows, (rows / scale).round() * scale)

    return forward
