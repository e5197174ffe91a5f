"""The rounding of int8 files, in PyTorch and with gradients; of those with weights of 4 bits, too.

``x`` becomes ``s round(x / s)``. What is rounded, and with which scale, follows :func:`tutelage.serving.graph.quantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.mechanisms.hook import Hook
from tutelage.mechanisms.quantization.settings import Quantization
from tutelage.serving import four_bits
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


def rounded_blocks(weight: Tensor) -> Tensor:
    """``s round(w / s)`` in 4 bits, as :func:`tutelage.serving.four_bits.four_bits`: a scale for each block of a row.

    Args:
        weight: ``(rows, columns)``.
    """
    rows, columns = weight.shape
    blocks = _blocks(weight.detach())
    most = blocks.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / four_bits.LARGEST
    found, least = blocks, torch.full_like(most, torch.inf)
    for factor in four_bits.FACTORS:
        scale = most * factor
        tried = (blocks / scale).round().clamp(-four_bits.LARGEST - 1, four_bits.LARGEST) * scale
        error = ((tried - blocks) ** 2).sum(dim=2, keepdim=True)
        found, least = torch.where(error < least, tried, found), torch.minimum(error, least)
    return _through(weight, found.reshape(rows, -1)[:, :columns])


def rounded_block_inputs(x: Tensor) -> Tensor:
    """The inputs of a product with weights of 4 bits, in 8 bits: a scale for each block of a token.

    Args:
        x: ``(..., features)``.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    blocks = _blocks(rows)
    scale = blocks.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / four_bits.INPUT
    return _through(x, ((blocks / scale).round() * scale).reshape(len(rows), -1)[:, : x.shape[-1]].reshape(x.shape))


def _blocks(rows: Tensor) -> Tensor:
    """``(rows, blocks, BLOCK)``; the last block of a row may be filled up with zeros."""
    return nn.functional.pad(rows, (0, -rows.shape[1] % four_bits.BLOCK)).reshape(len(rows), -1, four_bits.BLOCK)


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
    """Rounds a model's linear layers and embedding tables until :meth:`finish`; where gradients are computed, only after the share
    ``begin`` of the stage's steps."""

    def __init__(self, how: Quantization, model: PreTrainedModel) -> None:
        self._begin, self._learns = how.begin, not how.begin
        self._modules: list[nn.Module] = []
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        largest = max((table.weight.numel() for table in tables), default=0)
        for module in model.modules():
            made: Any = None
            if isinstance(module, nn.Linear):
                made = _linear(module, how.activations) if how.weight_bits == 8 else _linear_4(module, how.activations)
            elif isinstance(module, nn.Embedding):
                four = how.table_bits == 4 and module.weight.numel() == largest and module.embedding_dim % 2 == 0
                made = _table_4(module) if four else _table(module)
            if made is not None:
                # The class's own method is hidden, not replaced: parameters and their names stay as they are.
                cast(Any, module).forward = self._when_due(made, module.forward)
                self._modules.append(module)

    def _when_due(self, rounded: Callable[[Tensor], Tensor], exact: Callable[[Tensor], Tensor]) -> Any:
        def forward(x: Tensor) -> Tensor:
            return rounded(x) if self._learns or not torch.is_grad_enabled() else exact(x)

        return forward

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        self._learns = step >= int(self._begin * total)
        return False

    def unfinished(self) -> bool:
        return not self._learns

    def state(self) -> dict[str, Tensor]:
        return {"learns": torch.tensor(self._learns)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._learns = bool(state["learns"])

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


def _linear_4(module: nn.Linear, activations: bool) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        inputs = rounded_block_inputs(x) if activations else x
        return nn.functional.linear(inputs, rounded_blocks(module.weight), module.bias)

    return forward


def _table_4(module: nn.Embedding) -> Callable[[Tensor], Tensor]:
    def forward(ids: Tensor) -> Tensor:
        rows = nn.functional.embedding(ids, module.weight, module.padding_idx)
        return rounded_blocks(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)

    return forward


def _table(module: nn.Embedding) -> Callable[[Tensor], Tensor]:
    def forward(ids: Tensor) -> Tensor:
        rows = nn.functional.embedding(ids, module.weight, module.padding_idx)
        # Each entry has a scale of its own, so those that are read can be rounded alone.
        scale = rows.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / TABLE
        return _through(rows, (rows / scale).round() * scale)

    return forward
