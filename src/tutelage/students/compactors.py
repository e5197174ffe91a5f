"""Weight-inherited distillation: a model that is made narrower by matrices at both sides of every weight (Wu et al. 2024).

A weight ``W`` of the teacher becomes ``C W R``, with two square matrices that begin as the identity and are trained. Then
rows of ``C`` and columns of ``R`` are taken back to zero and left out, and the product that is left is the weight of an
ordinary narrower model: every coordinate of it is a mixture of all of the teacher's.

The authors' names and ours, for a weight stored as ``(out, in)``:

============== ============================= ==================== ==================
theirs         place                         a coordinate goes by here
============== ============================= ==================== ==================
row compactor  before the teacher's matrix   zeroing a column     ``R = matrix.T``
column compac. after the teacher's matrix    zeroing a row        ``C = matrix``
============== ============================= ==================== ==================

so that a coordinate is always a *row* of a compactor's ``matrix``. Coordinates that meet in a sum, or pass from one matrix
to the next, form a group with one set of kept coordinates: the residual stream (one for the whole model), the inside of
each layer's attention and of its feed-forward, the width of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tutelage import anatomy
from tutelage.anatomy import AUTO
from tutelage.errors import TutelageError

if TYPE_CHECKING:
    from tutelage.students.build import Inherited, Sliced

ZERO = 1e-5
"""A row whose norm is below this is gone (ResRep's threshold); the default penalty makes it 0 exactly."""


# ------------------------------------------------------------------------------------------------------- the shapes


def narrowed(spec: Inherited | Sliced, config: Any) -> Any:
    """The configuration of the student that is cut out of a teacher with this ``config``.

    Raises:
        TutelageError: for a family whose widths cannot be cut, or sizes that no model can have.
    """
    family, shape = anatomy.family_of(config), anatomy.shape_of(config)
    if family.rigid is not None:
        raise TutelageError(
            f"no narrower {config.model_type} can be cut out of one: {family.rigid}; use a bert, roberta, distilbert or "
            "gpt2 as teacher, or another kind of student"
        )
    size, hidden = shape.hidden // shape.heads, spec.hidden
    if hidden > shape.hidden:
        raise TutelageError(
            f"hidden={hidden} cannot be inherited: the teacher has {shape.hidden}; use that or less (depth stays)"
        )
    heads = shape.heads if spec.strategy == "dim" else hidden // size
    step = shape.heads if spec.strategy == "dim" else size
    if hidden % step:
        near = max(step, round(hidden / step) * step)
        kept = f"all {shape.heads} heads stay" if spec.strategy == "dim" else f"heads of {size} go or stay whole"
        raise TutelageError(
            f"hidden={hidden} does not fit strategy={spec.strategy}, where {kept}; use a multiple of {step}, such as {near}"
        )
    intermediate = spec.intermediate or round(shape.intermediate * hidden / shape.hidden)
    if intermediate > shape.intermediate:
        raise TutelageError(
            f"intermediate={intermediate} cannot be inherited: the teacher has {shape.intermediate}; use that or less"
        )
    config = copy.deepcopy(config)
    for name, value in (("hidden", hidden), ("heads", heads), ("intermediate", intermediate)):
        setattr(config, getattr(family, name), value)
    return config


def advice(model: PreTrainedModel) -> str | None:
    """A word about heads that hardware does not like, of a student that is to be cut out."""
    compaction = compaction_of(model)
    if compaction is None:
        return None
    shape = anatomy.shape_of(compaction.config)
    size = shape.hidden // shape.heads
    if size % 8 == 0:
        return None
    whole = next(iter(compaction)).size  # of the residual stream
    near = [wide for wide in (size // 8 * 8 * shape.heads, (size // 8 + 1) * 8 * shape.heads) if 0 < wide < whole]
    if not near:
        return None
    return (
        f"heads of {size} are slow on most hardware, which wants multiples of 8: hidden="
        f"{' or '.join(map(str, near))} would have them"
    )


# -------------------------------------------------------------------------------------------------------- the parts


class Compactor(nn.Module):
    """A trained ``matrix``, ``(coordinates, teacher's coordinates)``; the identity at first. Rows are what is cut."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(group.size))
        self._group = [group]  # in a list, which is no submodule: the group stands elsewhere

    @property
    def group(self) -> Group:
        return self._group[0]

    def rows(self) -> Tensor:
        """``(kept, teacher's coordinates)``: the matrix without the rows that are cut, or are to be."""
        return self.matrix if self.group.cut else self.matrix[self.group.index]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., teacher's coordinates)`` to ``(..., kept)``.

        With autocast, products off the diagonal are of its precision; those on the diagonal, which is near 1, are not.
        """
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return x @ self.matrix.T
        x, half = x.float(), torch.get_autocast_dtype(device)
        rest, diagonal = self._apart(half)
        return x.to(half) @ rest.T + (x[..., self.group.index] if self.group.cut else x) * diagonal

    def back(self, x: Tensor) -> Tensor:
        """The other way, by the transposed matrix: ``(..., kept)`` to ``(..., teacher's coordinates)``; as precise."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return x @ self.matrix
        x, half = x.float(), torch.get_autocast_dtype(device)
        rest, diagonal = self._apart(half)
        y = x.to(half) @ rest
        return y.float().index_add(-1, self.group.index, x * diagonal) if self.group.cut else y + x * diagonal

    def _apart(self, half: torch.dtype) -> tuple[Tensor, Tensor]:
        """What is off the diagonal, rounded, and the diagonal as it is: after the cut, the kept columns in order."""
        rest = self.matrix.to(half)
        if not self.group.cut:
            return rest.diagonal_scatter(rest.new_zeros(len(rest))), self.matrix.diagonal()
        place = self.group.index[:, None]
        return rest.scatter(1, place, 0), self.matrix.gather(1, place)[:, 0]


class Group(nn.Module):
    """Coordinates that go or stay together in all ``members``, and which of them are kept.

    An equal number is kept in each of ``chunks`` (heads); ``block`` neighbours go or stay as one (a head).
    """

    kept: Tensor
    score: Tensor
    index: Tensor
    """``(kept,)``: the kept coordinates, ascending."""
    share: Tensor

    def __init__(self, name: str, size: int, target: int, chunks: int = 1, block: int = 1) -> None:
        super().__init__()
        self.name, self.size, self.target, self.chunks, self.block = name, size, target, chunks, block
        self.members: list[Compactor] = []
        self.masters: list[Compactor] = []
        """Those whose rows the authors' code looks at: one, or none where it has no such group."""
        self.register_buffer("kept", torch.ones(size, dtype=torch.bool))
        self.register_buffer("score", torch.rand(size))
        self.register_buffer("index", torch.arange(size), persistent=False)
        self.register_buffer("share", torch.full((size,), 1 / size), persistent=False)
        self.cut = False
        self.refresh()

    @property
    def units(self) -> tuple[int, int]:
        """What one chunk has to give: blocks at first, blocks at last."""
        return self.size // self.chunks // self.block, self.target // self.chunks // self.block

    @property
    def gone(self) -> Tensor:
        """``(masked,)``: the rows of the members' matrices that are to vanish; none after the cut."""
        return self._gone[:0] if self.cut else self._gone

    def restrict(self, removed: int, scores: Tensor) -> None:
        """Let the blocks with the smallest ``scores`` ``(size,)`` go until ``removed`` of each chunk are gone."""
        blocks = scores.double().view(self.chunks, -1, self.block).sum(dim=2)
        kept = self.kept.view(self.chunks, -1, self.block)
        blocks = blocks.masked_fill(~kept[:, :, 0], -torch.inf)  # what is gone stays gone
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
    def settled(self) -> bool:
        """Whether nothing more is to go."""
        return self._left == self.target

    def refresh(self) -> None:
        """Bring what is derived from ``kept`` up to date."""
        self.index = self.kept.nonzero()[:, 0]
        self._gone = (~self.kept).nonzero()[:, 0]
        self._left = self.size - len(self._gone)
        self.share = self.kept.float() / self.kept.sum()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh()

    def norms(self, *, of_master: bool = False) -> Tensor:
        """``(size,)``: the norm of each coordinate's rows in all members together, or in one."""
        members = self.masters if of_master and self.masters else self.members
        squares = [member.matrix.detach().double().square().sum(dim=1) for member in members]
        return torch.stack(squares).sum(dim=0).sqrt()


class Compacted(nn.Module):
    """A matrix of the teacher between compactors: ``y = x (C W R)^T + C b``.

    Where the teacher keeps several matrices in one (GPT-2's queries, keys and values), each has its own. The weights are
    multiplied first, or the activations pass through one matrix after the other, whichever is less work.
    """

    def __init__(self, linear: nn.Module, outs: list[Compactor], ins: list[Compactor]) -> None:
        super().__init__()
        self.weight = cast(nn.Parameter, linear.weight)
        self.bias = cast("nn.Parameter | None", linear.bias)
        self.stored_as_input_first = isinstance(linear, Conv1D)
        self.outs, self.ins = nn.ModuleList(outs), nn.ModuleList(ins)
        self.factors = [1.0] * self.parts
        """By part: what its result is multiplied with once the student's heads are narrower."""

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
        """The compactors before the parts."""
        return [into for part in range(self.parts) if (into := self.sides(part)[1]) is not None]

    def sides(self, part: int) -> tuple[Compactor | None, Compactor | None]:
        """The compactors after and before a part."""
        out = self.outs[part] if len(self.outs) else None
        into = self.ins[part] if len(self.ins) else None
        assert out is None or isinstance(out, Compactor)
        assert into is None or isinstance(into, Compactor)
        return out, into

    def split(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Weight and bias of each part, ``(out, in)`` and ``(out,)``, as the teacher has them."""
        weight = self.weight.T if self.stored_as_input_first else self.weight
        biases = [None] * self.parts if self.bias is None else self.bias.chunk(self.parts)
        yield from zip(weight.chunk(self.parts), biases, strict=True)

    def effective(self, *, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """``C W R`` and ``C b``, ``(out, in)`` and ``(out,)``; the ``kept`` rows alone are multiplied in double precision."""

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
        """Outputs and inputs of one part: the teacher's, then the student's."""
        weight = self.weight.T if self.stored_as_input_first else self.weight
        out, into = weight.shape[0] // self.parts, weight.shape[1]
        after, before = self.sides(0)
        return out, into, out if after is None else len(after.matrix), into if before is None else len(before.matrix)

    def _orders(self) -> tuple[int, int]:
        """Multiplications of one part for ``(C W) R`` and for ``C (W R)``."""
        (o, i, a, b), (out, into) = self._sizes(), self.sides(0)
        left = (0 if out is None else a * o * i) + (0 if into is None else a * i * b)
        right = (0 if into is None else o * i * b) + (0 if out is None else a * o * b)
        return left, right

    def _cost_of_weights(self, count: int) -> int:
        """Multiplications of one part when the weights are multiplied first, for ``count`` vectors."""
        _, _, a, b = self._sizes()
        return min(self._orders()) + count * a * b

    def _cost_of_activations(self, count: int) -> int:
        (o, i, a, b), (out, into) = self._sizes(), self.sides(0)
        return count * ((0 if into is None else b * i) + o * i + (0 if out is None else o * a))


class KeptNorm(nn.Module):
    """A layer norm whose mean and variance are those of the kept coordinates alone, as they will be in the student."""

    def __init__(self, norm: nn.LayerNorm, group: Group) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self._group = [group]

    @property
    def group(self) -> Group:
        return self._group[0]

    def forward(self, x: Tensor) -> Tensor:
        group = self.group
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            if group.whole:
                return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
            normed: Tensor = _Normed.apply(x, group.share.to(x.dtype), self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
            return normed


class _Normed(torch.autograd.Function):
    """A layer norm whose statistics are means weighted by ``share``; it remembers less than autograd would, and is faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normed = x - x @ share[:, None]
        scale = (normed.square() @ share[:, None] + eps).rsqrt()
        normed *= scale
        ctx.save_for_backward(normed, scale, share, weight)
        return torch.addcmul(bias, normed, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, share, weight = ctx.saved_tensors
        (gradient,) = gradients
        product = gradient * normed
        shift, stretch = gradient @ weight[:, None], product @ weight[:, None]
        each = tuple(range(gradient.ndim - 1))
        of_weight, of_bias = product.sum(each), gradient.sum(each)
        of_x = product.copy_(shift).addcmul_(normed, stretch).mul_(share).neg_().addcmul_(gradient, weight).mul_(scale)
        return of_x, None, of_weight, of_bias, None


class Entrance(nn.Module):
    """Where the sum of a token's embeddings enters: through a compactor, then into what stood there before."""

    def __init__(self, compactor: Compactor, then: nn.Module) -> None:
        super().__init__()
        self.compactor, self.then = compactor, then

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.then(self.compactor(x))
        return result


# --------------------------------------------------------------------------------------------------------- the whole


class Compaction(nn.Module):
    """The groups of a wrapped model, and what becomes of it: whole, then cut, then an ordinary narrower model.

    It is the module ``compaction`` of the model, which :func:`wrap` changes in place; so is all that follows.
    """

    def __init__(self, model: PreTrainedModel, spec: Inherited | Sliced) -> None:
        super().__init__()
        self.spec, self.config = spec, narrowed(spec, model.config)
        self.groups = nn.ModuleDict()
        self.done = False
        """Whether the masked coordinates are left out."""
        self.links: dict[str, Compacted] = {}
        """By path, as are the next; all of them modules of the model, not of this one."""
        self._norms: dict[str, KeptNorm] = {}
        self._tables: dict[str, nn.Embedding] = {}
        self._queries: list[str] = []
        self._wrap(model)

    def __iter__(self) -> Iterator[Group]:
        for group in self.groups.values():
            assert isinstance(group, Group)
            yield group

    # -------------------------------------------------------------------------------------------------------- wrapping

    def _wrap(self, model: PreTrainedModel) -> None:
        family, old, new = (
            anatomy.family_of(model.config),
            anatomy.shape_of(model.config),
            anatomy.shape_of(self.config),
        )
        base, size = anatomy.base_of(model), old.hidden // old.heads
        prefix = "" if base is model else f"{model.base_model_prefix}."
        # What transformers divides scores by follows the size of a head, so queries make up for it.
        scaled = getattr(model.config, "scale_attn_weights", True)
        self._fold = (new.hidden // new.heads / size) ** 0.5 if scaled else 1.0
        self._tables = {prefix + name: m for name, m in base.named_modules() if isinstance(m, nn.Embedding)}
        residual = self._group("residual", old.hidden, new.hidden)
        self._entrance = prefix + family.embedding_sum
        entrance = self._member(residual)
        then = model.get_submodule(self._entrance)
        if isinstance(then, nn.LayerNorm):
            then = self._norms[self._entrance] = KeptNorm(then, residual)
        model.set_submodule(self._entrance, Entrance(entrance, then))
        how = {"chunks": old.heads} if self.spec.strategy == "dim" else {"block": size}
        fused = family.query == family.key
        for number in range(old.layers):
            inner = self._group(f"attention_{number + 1}", old.hidden, new.hidden, **how)
            middle = self._group(f"intermediate_{number + 1}", old.intermediate, new.intermediate)
            at = f"{prefix}{family.layers}.{number}."
            if fused:
                value = self._link(model, at + family.query, [inner] * 3, [residual] * 3)
            else:
                for path in (family.query, family.key):
                    self._link(model, at + path, [inner], [residual])
                value = self._link(model, at + family.value, [inner], [residual])
            self._queries.append(at + family.query)
            if number == 0:
                residual.masters = value.readers[-1:]
            output = self._link(model, at + family.attention_output, [residual], [inner])
            self._link(model, at + family.ffn_up, [middle], [residual])
            down = self._link(model, at + family.ffn_down, [residual], [middle])
            inner.masters, middle.masters = output.readers, down.readers
            for path in (family.attention_norm, family.ffn_norm):
                self._norm(model, at + path, residual)
        if family.final_norm is not None:
            self._norm(model, prefix + family.final_norm, residual)
        self._wrap_head(model, prefix, residual, entrance)

    def _wrap_head(self, model: PreTrainedModel, prefix: str, residual: Group, entrance: Compactor) -> None:
        """The pooler, and what stands between the base model and its answers."""
        head, width = anatomy.head_of(model), anatomy.shape_of(self.config).hidden
        before, path = residual, anatomy.family_of(model.config).pooler
        if path is not None and getattr(anatomy.base_of(model), path, None) is not None:
            pooler = self._group("pooler", residual.size, width)
            self._link(model, f"{prefix}{path}.dense", [pooler], [residual])
            before = pooler if head == "classes" else residual  # all other heads read the hidden states themselves
        words = model.get_output_embeddings() if head in ("words", "next_words") else None
        tied = words is not None and words.weight is anatomy.word_embeddings_of(model).weight
        if words is not None and not tied and self.spec.decoder == "tied":
            raise TutelageError(
                "the teacher's output matrix is not tied to its embedding table, so the student's cannot be; use "
                "--set student.decoder=untied"
            )
        self.tied = words is None or self.spec.decoder == "tied"
        found = anatomy.head_modules(model)
        last = next((name for name, m in reversed(found.items()) if isinstance(m, nn.Linear)), None)
        for name, module in found.items():
            if isinstance(module, nn.LayerNorm):
                self._norm(model, name, before)
            elif name == last:
                shared = entrance if module is words and self.tied else None
                link = self._link(model, name, [], [before], shared)
                if before is not residual:
                    before.masters = link.readers
            else:  # as wide as the layers; one that meets the embedding table is of their coordinates
                after = residual if words is not None and self.tied else self._group("head", residual.size, width)
                self._link(model, name, [after], [before])
                before = after

    def _group(self, name: str, size: int, target: int, **how: int) -> Group:
        group = self.groups[name] = Group(name, size, target, **how)
        return group

    def _member(self, group: Group) -> Compactor:
        if self.spec.alignment == "tied" and group.members:
            return group.members[0]
        group.members.append(Compactor(group))
        return group.members[-1]

    def _link(
        self, model: PreTrainedModel, path: str, outs: list[Group], ins: list[Group], shared: Compactor | None = None
    ) -> Compacted:
        into = [self._member(group) for group in ins] if shared is None else [shared]
        link = self.links[path] = Compacted(model.get_submodule(path), [self._member(group) for group in outs], into)
        model.set_submodule(path, link)
        return link

    def _norm(self, model: PreTrainedModel, path: str, group: Group) -> None:
        norm = model.get_submodule(path)
        assert isinstance(norm, nn.LayerNorm)
        self._norms[path] = KeptNorm(norm, group)
        model.set_submodule(path, self._norms[path])

    # --------------------------------------------------------------------------------------------------- cut and merge

    @torch.no_grad()
    def cut(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Leave the masked coordinates out for good, of which nothing is left: the model becomes as small as its student.

        ``optimizer`` goes on with the smaller parameters and with what it remembers of what is left of them.
        """
        for group in self:
            for member in group.members:
                _cut(member, "matrix", group.index, optimizer)
            group.cut = True
        fresh = self._fresh(model)
        for path, norm in self._norms.items():
            for name in ("weight", "bias"):
                _cut(norm, name, norm.group.index, optimizer)
            plain = fresh.get_submodule(path)
            plain.weight, plain.bias = norm.weight, norm.bias
        for path, module in (*self.links.items(), *self._tables.items()):
            fresh.set_submodule(path, module)
        for path in self._queries:
            self.links[path].factors[0] = self._fold
        entrance = self._entrance_of(model)
        fresh.set_submodule(self._entrance, Entrance(entrance, fresh.get_submodule(self._entrance)))
        for path, parameter in self._others(model, fresh):
            place, _, name = path.rpartition(".")
            setattr(fresh.get_submodule(place), name, parameter)
        self.done = True
        _become(model, fresh)
        model.compaction = self

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        """Multiply everything out: ``model`` becomes the ordinary narrower model, and is one from then on."""
        fresh = self._fresh(model)
        mix = self._entrance_of(model).rows().double().T
        for path, table in self._tables.items():
            fresh.get_submodule(path).weight.copy_(table.weight.double() @ mix)
        for path in self._queries:
            self.links[path].factors[0] = self._fold
        for path, link in self.links.items():
            weight, bias = link.effective(kept=True)
            plain = fresh.get_submodule(path)
            plain.weight.copy_(weight.T if link.stored_as_input_first else weight)
            if bias is not None:
                plain.bias.copy_(bias)
        for path, norm in self._norms.items():
            plain, index = fresh.get_submodule(path), slice(None) if self.done else norm.group.index
            plain.weight.copy_(norm.weight[index])
            plain.bias.copy_(norm.bias[index])
        for path, parameter in self._others(model, fresh):
            fresh.get_parameter(path).copy_(parameter)
        _become(model, fresh)

    def _fresh(self, model: PreTrainedModel) -> PreTrainedModel:
        """A new model of the student's sizes, for its parts: nothing of ``model`` is in it yet."""
        config = copy.deepcopy(self.config)
        if not self.tied:
            config.tie_word_embeddings = False
        weight = anatomy.word_embeddings_of(model).weight
        with torch.random.fork_rng():
            fresh: PreTrainedModel = AUTO[anatomy.head_of(model)].from_config(config, dtype=weight.dtype)
        fresh.set_attn_implementation(model.config._attn_implementation)
        return fresh.to(weight.device).train(model.training)

    def _entrance_of(self, model: PreTrainedModel) -> Compactor:
        entrance = model.get_submodule(self._entrance)
        assert isinstance(entrance, Entrance)
        return entrance.compactor

    def _others(self, model: PreTrainedModel, fresh: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
        """Parameters of ``model`` that no width concerns, by their path: a bias of all words."""
        ours = dict(model.named_parameters(remove_duplicate=False))
        concerned = {*self.links, *self._norms, *self._tables, self._entrance}
        names = [name for name, _ in fresh.named_parameters(remove_duplicate=False)]
        return [(n, ours[n]) for n in names if not any(n.startswith(f"{path}.") for path in concerned)]

    # ------------------------------------------------------------------------------------------------- what to look at

    def largest_masked(self) -> float:
        """The largest norm of a row that is to vanish."""
        found = [member.matrix[group.gone] for group in self for member in group.members if len(group.gone)]
        return max((float(rows.detach().norm(dim=1).max()) for rows in found), default=0.0)

    def kept(self) -> dict[str, dict[str, Any]]:
        """By group: how many coordinates there were, and which were kept."""
        return {group.name: {"of": group.size, "kept": group.index.tolist()} for group in self}


def wrap(model: PreTrainedModel, spec: Inherited | Sliced) -> Compaction:
    """Put compactors around every weight of ``model``, in place; it computes what it did before, up to rounding.

    Raises:
        TutelageError: see :func:`narrowed`.
    """
    compaction = Compaction(model, spec)
    model.compaction = compaction
    model.register_load_state_dict_pre_hook(_fit)
    return compaction


def compaction_of(model: PreTrainedModel) -> Compaction | None:
    """The compaction of a model that is wrapped."""
    found = getattr(model, "compaction", None)
    return found if isinstance(found, Compaction) else None


def config_of(model: PreTrainedModel) -> Any:
    """The configuration of a model, or the one that it will have once its compactors are multiplied out."""
    compaction = compaction_of(model)
    return model.config if compaction is None else compaction.config


def as_merged(model: PreTrainedModel) -> PreTrainedModel:
    """A network like the one that a wrapped model will be, its weights random; any other model is itself."""
    compaction = compaction_of(model)
    return model if compaction is None else compaction._fresh(model)


def _fit(model: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: bring the model into the form that it had when the state was saved."""
    compaction = compaction_of(model)
    if compaction is None:
        return
    place = f"{prefix}compaction.groups."
    if not any(name.startswith(place) for name in state):
        for group in compaction:
            group.restrict(group.units[0] - group.units[1], group.score)  # any: the weights are about to come
        compaction.merge(model)
        return
    for group in compaction:
        group.keep(state[f"{place}{group.name}.kept"])
    # Any of them: a group that loses nothing keeps its matrices' shape.
    saved = ((parameter, state.get(f"{prefix}{path}")) for path, parameter in model.named_parameters())
    if not compaction.done and any(then is not None and then.shape != now.shape for now, then in saved):
        compaction.cut(model)


def _cut(module: nn.Module, name: str, index: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Keep rows of a parameter, in a new one: autograd may still know the old one by its shape."""
    old = module.get_parameter(name)
    new = nn.Parameter(old.detach()[index].clone(), requires_grad=old.requires_grad)
    setattr(module, name, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, {})
    optimizer.state[new] = {
        key: value[index].clone() if isinstance(value, Tensor) and value.shape == old.shape else value
        for key, value in state.items()
    }


def _become(model: PreTrainedModel, fresh: PreTrainedModel) -> None:
    """Let ``model``, which others hold on to, be ``fresh``: a model of the same class."""
    model.__dict__.update({name: value for name, value in fresh.__dict__.items() if not name.endswith("_hooks")})


# -------------------------------------------------------------------------------------------------- without training


def sliced(teacher: PreTrainedModel, spec: Sliced, labels: dict[str, Any]) -> PreTrainedModel:
    """The baseline of weight inheritance: coordinates of the teacher picked by weight or at random, nothing mixed.

    ``choose="norm"`` scores a coordinate by the norm of all weights that make or read it: rows and columns of matrices, and
    columns of the embedding tables; not biases and norms. Random choices depend on torch's random state.

    Raises:
        TutelageError: see :func:`narrowed`.
    """
    model = copy.deepcopy(teacher)
    compaction = wrap(model, spec)
    for group in compaction:
        scores = torch.rand(group.size) if spec.choose == "random" else _weights_of(compaction, group)
        units, target = group.units
        group.restrict(units - target, scores)
    compaction.merge(model)
    for key, value in labels.items():
        setattr(model.config, key, value)
    return model.eval()


@torch.no_grad()
def _weights_of(compaction: Compaction, group: Group) -> Tensor:
    """``(size,)``: the norm of all of the teacher's weights that make or read a coordinate, each counted once."""
    squares = torch.zeros(group.size, dtype=torch.float64)
    tables = list(compaction._tables.values()) if group.name == "residual" else []
    for table in tables:
        squares += table.weight.double().square().sum(dim=0).cpu()
    for link in compaction.links.values():
        if any(link.weight is table.weight for table in tables):
            continue  # the output words of a tied model
        for part, (weight, _) in enumerate(link.split()):
            for side, dim in zip(link.sides(part), (1, 0), strict=True):
                if side is not None and side.group is group:
                    squares += weight.double().square().sum(dim=dim).cpu()
    return squares.sqrt()
