"""Least-squares repair of a student made of its teacher's parts, layer by layer and without gradients (Kwon et al. 2022, arXiv
2204.09656, of heads and neurons; where whole layers are missing, it is the same fit).

After cutting, each block (attention, then feed-forward) of each layer is fitted so that its output, with the residual that the
student has by then, comes closest to the teacher's on some texts: ``min_m sum_tokens |y - sum_j m_j h_j w_j|^2``, where ``h_j w_j``
is what kept head or neuron j adds, and ``y`` is the teacher's sum before the norm without the student's residual and bias. The
factors ``m`` are multiplied into the output matrix. ``matrices`` fits the whole output matrix and its bias instead. A ridge draws
``m`` to 1, or the matrix to its old value, so the fit is never worse than no fit on its texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.evaluation.speed import evaluating
from tutelage.students.layerwise import Inputs, Place, Watched

RIDGE = 1e-3
"""Ridge, relative to the mean of the diagonal of the normal equations."""


@dataclass(frozen=True)
class Fit:
    """The squared error of one block on the texts of the fit, before and after; ``size`` is that of the teacher's output."""

    before: float
    after: float
    size: float


@torch.no_grad()
def tune(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    texts: Sequence[Inputs],
    how: Literal["matrices", "masks"] = "matrices",
    ridge: float = RIDGE,
    *,
    of: Sequence[int] | None = None,
    same: int = 0,
) -> list[Fit]:
    """Fit the student's output matrices in place; returns the fit of each block, from the bottom.

    Args:
        student: A student made of the teacher's parts, as :func:`tutelage.students.pruned.prune` and
            :func:`tutelage.students.copied.copy_layers` make it.
        teacher: The model it was made of, on the same device.
        texts: Padded batches. Both models run them once, layer by layer, and hold their hidden states.
        how: ``matrices`` or ``masks``.
        ridge: Relative to the mean of the diagonal.
        of: For each of the student's layers the layer of the teacher (from 1) whose outputs it comes closest to, ascending; by
            default that of the same number.
        same: So many first layers are the teacher's, and stay as they are.
    """
    with evaluating([student, teacher]):
        return _tune(student, teacher, texts, how, ridge, of, same)


def _tune(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    texts: Sequence[Inputs],
    how: str,
    ridge: float,
    of: Sequence[int] | None,
    same: int,
) -> list[Fit]:
    family, heads = anatomy.family_of(student.config), anatomy.shape_of(student.config).heads
    blocks: tuple[tuple[str, str, int | None], ...] = (
        (family.attention_output, family.attention_norm, heads),
        (family.ffn_down, family.ffn_norm, None),
    )
    ours, theirs = ([Place.at(model, one) for one in texts] for model in (student, teacher))
    layers, originals = anatomy.layers_of(student), anatomy.layers_of(teacher)
    fits, below = [], 0
    for index, (layer, number) in enumerate(zip(layers, of or range(1, len(layers) + 1), strict=True)):
        for original in originals[below : number - 1]:
            _advance(theirs, original)
        original, below = originals[number - 1], number
        if index < same:
            _advance(ours, layer)
            _advance(theirs, original)
            continue
        sums: dict[str, list[Tensor]] = {norm: [] for _, norm, _ in blocks}
        for place in theirs:
            seen = Watched(original, [(norm, "in") for norm in sums])
            place.run(original)
            for (norm, _), total in seen.close().items():
                sums[norm].append(total)
        for output, norm, units in blocks:
            equations = _Equations.of(layer.get_submodule(output))
            for place, wanted in zip(ours, sums[norm], strict=True):
                seen = Watched(layer, [(output, "in"), (output, "out"), (norm, "in")])
                place.peek(layer)
                found = seen.close()
                residual = found[norm, "in"] - found[output, "out"]
                equations.add(found[output, "in"][place.real], (wanted - residual)[place.real])
            fits.append(equations.solve_masks(units, ridge) if how == "masks" else equations.solve_matrix(ridge))
        _advance(ours, layer)
    return fits


def _advance(places: Sequence[Place], layer: nn.Module) -> None:
    for place in places:
        place.run(layer)


@dataclass
class _Equations:
    """The normal equations of one output matrix ``W`` ``(out, in)`` with bias, in float64 on the CPU."""

    matrix: nn.Linear
    inner: Tensor
    """``H^T H``, with a column of ones for the bias: ``(in + 1, in + 1)``."""
    outer: Tensor
    """``H^T Y``: ``(in + 1, out)``."""
    squares: float = field(default=0.0)
    """``|Y|^2``."""

    @classmethod
    def of(cls, matrix: nn.Module) -> _Equations:
        assert isinstance(matrix, nn.Linear)
        width = matrix.in_features + 1
        return cls(
            matrix,
            torch.zeros(width, width, dtype=torch.float64),
            torch.zeros(width, matrix.out_features, dtype=torch.float64),
        )

    def add(self, h: Tensor, y: Tensor) -> None:
        """Add tokens: inputs ``(tokens, in)`` and wanted outputs ``(tokens, out)``."""
        h = with_ones(h)
        self.inner += products_of(h)
        self.outer += (h.T @ y).double().cpu()
        self.squares += float(y.double().square().sum())

    @property
    def _weights(self) -> Tensor:
        """``(in + 1, out)``: the matrix, transposed, and its bias."""
        return weights_of(self.matrix)

    def error(self, weights: Tensor) -> float:
        """``|Y - H weights|^2``."""
        found = self.squares - 2 * (self.outer * weights).sum() + (weights * (self.inner @ weights)).sum()
        return max(float(found), 0.0)  # rounding may leave less than nothing of a perfect fit

    def solve_masks(self, units: int | None, ridge: float) -> Fit:
        """Fit a factor for each of ``units`` heads, or for each column."""
        weights = self._weights
        columns, bias = weights[:-1], weights[-1:]
        products = self.inner[:-1, :-1] * (columns @ columns.T)
        wanted = ((self.outer[:-1] - self.inner[:-1, -1:] * bias) * columns).sum(dim=1)
        count = units or len(columns)
        size = len(columns) // count
        products = products.view(count, size, count, size).sum(dim=(1, 3))
        wanted = wanted.view(count, size).sum(dim=1)
        ones = torch.ones(count, dtype=torch.float64)
        factors = ones + _ridged(products, (wanted - products @ ones)[:, None], ridge)[:, 0]
        return self._settle(torch.cat([columns * factors.repeat_interleave(size)[:, None], bias]))

    def solve_matrix(self, ridge: float) -> Fit:
        """Fit the matrix and its bias."""
        weights = self._weights
        return self._settle(weights + _ridged(self.inner, self.outer - self.inner @ weights, ridge))

    def _settle(self, weights: Tensor) -> Fit:
        before = self.error(self._weights)
        self.matrix.weight.copy_(weights[:-1].T)
        self.matrix.bias.copy_(weights[-1])
        return Fit(before, self.error(self._weights), self.squares)


def _ridged(products: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """``(products + ridge * mean(diagonal) I)^-1 wanted``."""
    solved: Tensor = torch.linalg.solve(with_ridge(products, ridge), wanted)
    return solved


def with_ridge(products: Tensor, ridge: float) -> Tensor:
    """``products + ridge * mean(diagonal) I``."""
    strength = ridge * products.diagonal().mean().clamp(min=torch.finfo(products.dtype).tiny)
    return products + strength * torch.eye(len(products), dtype=products.dtype)


def with_ones(h: Tensor) -> Tensor:
    """Inputs ``(tokens, in)`` of a matrix with a column of ones, for its bias."""
    return torch.cat([h, h.new_ones(len(h), 1)], dim=1)


def products_of(h: Tensor) -> Tensor:
    """``H^T H`` of tokens ``(tokens, width)``, in float64 on the CPU."""
    return (h.T @ h).double().cpu()


def weights_of(matrix: nn.Module) -> Tensor:
    """A matrix, transposed, and its bias: ``(in + 1, out)``, in float64 on the CPU."""
    assert isinstance(matrix, nn.Linear)
    return torch.cat([matrix.weight.T, matrix.bias[None]]).double().cpu()
