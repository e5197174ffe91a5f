"""Compactors, groups of coordinates, and the wrapped matrices and norms of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

ZERO = 1e-5
"""A row with a norm below this counts as zero (ResRep's threshold). The default penalty makes it exactly 0."""


class Compactor(nn.Module):
    """A trained ``matrix``, ``(coordinates, teacher's coordinates)``, initially the identity. Its rows are removed."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(group.size))
        self._group = [group]  # in a list, so that it is not a submodule here: Compaction owns the group

    @property
    def group(self) -> Group:
        return self._group[0]

    def rows(self) -> Tensor:
        """``(kept, teacher's coordinates)``: the matrix without the masked rows."""
        return self.matrix if self.group.cut else self.matrix[self.group.index]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., teacher's coordinates)`` to ``(..., kept)``.

        With autocast, off-diagonal products use its precision. The diagonal, which is near 1, stays in float32.
        """
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return x @ self.matrix.T
        x, half = x.float(), torch.get_autocast_dtype(device)
        rest, diagonal = self._apart(half)
        return x.to(half) @ rest.T + (x[..., self.group.index] if self.group.cut else x) * diagonal

    def back(self, x: Tensor) -> Tensor:
        """Multiply by the transposed matrix: ``(..., kept)`` to ``(..., teacher's coordinates)``; same precision."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return x @ self.matrix
        x, half = x.float(), torch.get_autocast_dtype(device)
        rest, diagonal = self._apart(half)
        y = x.to(half) @ rest
        return y.float().index_add(-1, self.group.index, x * diagonal) if self.group.cut else y + x * diagonal

    def _apart(self, half: torch.dtype) -> tuple[Tensor, Tensor]:
        """The matrix without its diagonal, in half precision, and the diagonal in full precision.

        After the cut, the diagonal consists of the entries at the kept columns.
        """
        rest = self.matrix.to(half)
        if not self.group.cut:
            return rest.diagonal_scatter(rest.new_zeros(len(rest))), self.matrix.diagonal()
        place = self.group.index[:, None]
        return rest.scatter(1, place, 0), self.matrix.gather(1, place)[:, 0]


class Group(nn.Module):
    """Coordinates that are kept or removed together in all ``members``.

    Each of the ``chunks`` (heads) keeps an equal number. ``block`` neighbouring coordinates (a head) are kept or removed as a
    unit.
    """

    kept: Tensor
    score: Tensor
    index: Tensor
    """``(kept,)``: the kept coordinates, ascending."""

    def __init__(self, name: str, size: int, target: int, chunks: int = 1, block: int = 1) -> None:
        super().__init__()
        self.name, self.size, self.target, self.chunks, self.block = name, size, target, chunks, block
        self.members: list[Compactor] = []
        self.masters: list[Compactor] = []
        """The compactor whose rows the authors' code ranks; none if that code has no such group."""
        self.register_buffer("kept", torch.ones(size, dtype=torch.bool))
        self.register_buffer("score", torch.rand(size))
        self.register_buffer("index", torch.arange(size), persistent=False)
        self.cut = False
        self.refresh()

    @property
    def units(self) -> tuple[int, int]:
        """Number of blocks per chunk: initial and final."""
        return self.size // self.chunks // self.block, self.target // self.chunks // self.block

    @property
    def gone(self) -> Tensor:
        """``(masked,)``: the rows of the members' matrices that are being pruned; none after the cut."""
        return self._gone[:0] if self.cut else self._gone

    def restrict(self, removed: int, scores: Tensor) -> None:
        """Mask the blocks with the smallest ``scores`` ``(size,)`` until ``removed`` blocks of each chunk are masked."""
        blocks = scores.double().view(self.chunks, -1, self.block).sum(dim=2)
        kept = self.kept.view(self.chunks, -1, self.block)
        blocks = blocks.masked_fill(~kept[:, :, 0], -torch.inf)  # masked blocks stay masked
        order = blocks.argsort(dim=1, stable=True)[:, :removed]
        kept.scatter_(1, order[:, :, None].expand(-1, -1, self.block), False)
        self.refresh()

    def keep(self, kept: Tensor) -> None:
        self.kept.copy_(kept)
        self.refresh()

    @property
    def whole(self) -> bool:
        return self._left == self.size

    @property
    def complete(self) -> bool:
        """Whether all coordinates to be removed are masked."""
        return self._left == self.target

    def refresh(self) -> None:
        """Update the values derived from ``kept``."""
        self.index = self.kept.nonzero()[:, 0]
        self._gone = (~self.kept).nonzero()[:, 0]
        self._left = self.size - len(self._gone)

    def share(self, dtype: torch.dtype) -> Tensor:
        """``(size,)``: the weight of each coordinate in a mean over the kept ones, as exact as ``dtype`` is."""
        return self.kept.to(dtype) / self._left

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh()

    def norms(self, *, of_master: bool = False) -> Tensor:
        """``(size,)``: norm of each coordinate's rows over all members, or over the master compactor."""
        members = self.masters if of_master and self.masters else self.members
        squares = [member.matrix.detach().double().square().sum(dim=1) for member in members]
        return torch.stack(squares).sum(dim=0).sqrt()


class Compacted(nn.Module):
    """A matrix of the teacher between compactors: ``y = x (C W R)^T + C b``.

    If the teacher fuses several matrices (GPT-2's queries, keys and values), each part has its own compactors. Either the
    weights are multiplied first, or the activations pass through the matrices one by one, whichever needs fewer operations.
    """

    def __init__(self, linear: nn.Module, outs: list[Compactor], ins: list[Compactor]) -> None:
        super().__init__()
        self.weight = cast(nn.Parameter, linear.weight)
        self.bias = cast("nn.Parameter | None", linear.bias)
        self.stored_as_input_first = isinstance(linear, Conv1D)
        self.outs, self.ins = nn.ModuleList(outs), nn.ModuleList(ins)
        self.factors = [1.0] * self.parts
        """For each part: the factor of its result that compensates for the student's narrower heads."""

    @property
    def parts(self) -> int:
        return max(len(self.outs), 1)

    def forward(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[-1]
        if self._cost_of_weights(count) > self._cost_of_activations(count):
            return self._step_by_step(x)
        return F.linear(x, *self.effective())

    @property
    def readers(self) -> list[Compactor]:
        """The compactors at the inputs of the parts."""
        return [into for part in range(self.parts) if (into := self.sides(part)[1]) is not None]

    def sides(self, part: int) -> tuple[Compactor | None, Compactor | None]:
        """The compactors at the output and at the input of a part."""
        out = self.outs[part] if len(self.outs) else None
        into = self.ins[part] if len(self.ins) else None
        assert out is None or isinstance(out, Compactor)
        assert into is None or isinstance(into, Compactor)
        return out, into

    def split(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the teacher's weight ``(out, in)`` and bias ``(out,)`` of each part."""
        weight = self.weight.T if self.stored_as_input_first else self.weight
        biases = [None] * self.parts if self.bias is None else self.bias.chunk(self.parts)
        yield from zip(weight.chunk(self.parts), biases, strict=True)

    def effective(self, *, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """``C W R`` and ``C b``, ``(out, in)`` and ``(out,)``. ``kept=True`` uses only the kept rows, in double precision."""

        def through(side: Compactor | None, weight: Tensor) -> Tensor:
            if side is None:
                return weight
            return weight.double() @ side.rows().double().T if kept else side(weight)

        left, right = self._orders()
        weights, biases = [], []
        for part, (weight, bias) in enumerate(self.split()):
            out, into = self.sides(part)
            if left <= right:
                weight = through(out, weight.T).T
            weight = through(into, weight)
            if left > right:
                weight = through(out, weight.T).T
            factor = self.factors[part]
            weights.append(weight if factor == 1 else weight * factor)
            if bias is not None:
                bias = through(out, bias)
                biases.append(bias if factor == 1 else bias * factor)
        if self.parts == 1:
            return weights[0], biases[0] if biases else None
        return torch.cat(weights), torch.cat(biases) if biases else None

    def _step_by_step(self, x: Tensor) -> Tensor:
        results = []
        for part, (weight, bias) in enumerate(self.split()):
            out, into = self.sides(part)
            plain = F.linear(x if into is None else into.back(x), weight, bias)
            y = plain if out is None else out(plain).to(plain.dtype)
            results.append(y if self.factors[part] == 1 else y * self.factors[part])
        return results[0] if self.parts == 1 else torch.cat(results, dim=-1)

    def _sizes(self) -> tuple[int, int, int, int]:
        """Output and input width of one part: the teacher's, then those after the compactors."""
        weight = self.weight.T if self.stored_as_input_first else self.weight
        out, into = weight.shape[0] // self.parts, weight.shape[1]
        after, before = self.sides(0)
        return out, into, out if after is None else len(after.matrix), into if before is None else len(before.matrix)

    def _orders(self) -> tuple[int, int]:
        """Number of multiplications of one part for ``(C W) R`` and for ``C (W R)``."""
        (o, i, a, b), (out, into) = self._sizes(), self.sides(0)
        left = (0 if out is None else a * o * i) + (0 if into is None else a * i * b)
        right = (0 if into is None else o * i * b) + (0 if out is None else a * o * b)
        return left, right

    def _cost_of_weights(self, count: int) -> int:
        """Number of multiplications of one part for ``count`` vectors, if the weights are multiplied first."""
        _, _, a, b = self._sizes()
        return min(self._orders()) + count * a * b

    def _cost_of_activations(self, count: int) -> int:
        (o, i, a, b), (out, into) = self._sizes(), self.sides(0)
        return count * ((0 if into is None else b * i) + o * i + (0 if out is None else o * a))


class KeptNorm(nn.Module):
    """A layer norm with the mean and variance of the kept coordinates only, as in the student."""

    def __init__(self, norm: nn.LayerNorm, group: Group) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self._group = [group]

    @property
    def group(self) -> Group:
        return self._group[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.group.whole:
            return normed(x, self.group.share(self.weight.dtype), self)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.bias, self.eps)


def normed(x: Tensor, share: Tensor, norm: nn.LayerNorm | KeptNorm) -> Tensor:
    """A layer norm whose mean and variance are weighted by ``share`` ``(width,)``, which sums to 1: equal for the kept coordinates,
    and 0 for the others."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(norm.weight.dtype)
        found: Tensor = _Normed.apply(x, share.to(x.dtype), norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
        return found


class _Normed(torch.autograd.Function):
    """A layer norm with statistics weighted by ``share``. It stores less than autograd would and is faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        found = x - x @ share[:, None]
        scale = (found.square() @ share[:, None] + eps).rsqrt()
        found *= scale
        ctx.save_for_backward(found, scale, share, weight)
        return torch.addcmul(bias, found, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found, scale, share, weight = ctx.saved_tensors
        (gradient,) = gradients
        product = gradient * found
        shift, stretch = gradient @ weight[:, None], product @ weight[:, None]
        each = tuple(range(gradient.ndim - 1))
        of_weight, of_bias = product.sum(each), gradient.sum(each)
        of_x = product.copy_(shift).addcmul_(found, stretch).mul_(share).neg_().addcmul_(gradient, weight).mul_(scale)
        return of_x, None, of_weight, of_bias, None


class Entrance(nn.Module):
    """The entry of the residual stream: a compactor for the sum of embeddings, then the original module."""

    def __init__(self, compactor: Compactor, then: nn.Module) -> None:
        super().__init__()
        self.compactor, self.then = compactor, then

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.then(self.compactor(x))
        return result
