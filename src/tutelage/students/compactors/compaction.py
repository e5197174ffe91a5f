"""Weight-inherited distillation: compactor matrices on both sides of every weight make a model narrower (Wu et al. 2024).

A weight ``W`` of the teacher becomes ``C W R`` with two trained square matrices (compactors), initially the identity. Training
shrinks rows of ``C`` and columns of ``R`` to zero. These are removed, and the product becomes the weight of a standard
narrower model. Each of its coordinates is a mixture of all coordinates of the teacher.

The authors' names and ours, for a weight stored as ``(out, in)``:

============== ============================= ==================== ==================
theirs         place                         removed by           here
============== ============================= ==================== ==================
row compactor  before the teacher's matrix   zeroing a column     ``R = matrix.T``
column compac. after the teacher's matrix    zeroing a row        ``C = matrix``
============== ============================= ==================== ==================

So a coordinate is always a *row* of a compactor's ``matrix``. Coordinates that are added, or pass from one matrix to the next,
form a group with a common set of kept coordinates: the residual stream of the whole model, the inner width of each attention
and of each feed-forward block, the width of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import auto_class
from tutelage.errors import TutelageError, option
from tutelage.students.compactors.wrapped import Compacted, Compactor, Entrance, Group, KeptNorm
from tutelage.students.specs import Inherited, Sliced


def narrowed(spec: Inherited | Sliced, config: Any) -> Any:
    """The student's configuration for a teacher with this ``config``.

    Raises:
        TutelageError: if the family cannot be made narrower, or the sizes are impossible.
    """
    family, shape = anatomy.family_of(config), anatomy.shape_of(config)
    if family.rigid is not None:
        raise TutelageError(
            f"a {config.model_type} cannot be made narrower: {family.rigid}; use a bert, roberta, distilbert or "
            "gpt2 as teacher, or another kind of student"
        )
    size, hidden = shape.hidden // shape.heads, spec.hidden
    if hidden > shape.hidden:
        raise TutelageError(f"hidden={hidden} is too large: the teacher has hidden={shape.hidden}; use that or less")
    heads = shape.heads if spec.strategy == "dim" else hidden // size
    step = shape.heads if spec.strategy == "dim" else size
    if hidden % step:
        near = max(step, round(hidden / step) * step)
        kept = f"keeps all {shape.heads} heads" if spec.strategy == "dim" else f"removes whole heads of {size}"
        raise TutelageError(
            f"hidden={hidden} does not fit strategy={spec.strategy}, which {kept}; use a multiple of {step}, such as {near}"
        )
    intermediate = spec.intermediate or round(shape.intermediate * hidden / shape.hidden)
    if intermediate > shape.intermediate:
        raise TutelageError(
            f"intermediate={intermediate} is too large: the teacher has intermediate={shape.intermediate}; use that or less"
        )
    config = copy.deepcopy(config)
    for name, value in (("hidden", hidden), ("heads", heads), ("intermediate", intermediate)):
        setattr(config, getattr(family, name), value)
    return config


def advice(model: PreTrainedModel) -> str | None:
    """A warning if the head size of the narrower student is not a multiple of 8, which is slow on most hardware."""
    compaction = compaction_of(model)
    if compaction is None:
        return None
    shape = anatomy.shape_of(compaction.config)
    size = shape.hidden // shape.heads
    if size % 8 == 0:
        return None
    whole = next(iter(compaction)).size  # the first group is the residual stream
    near = [wide for wide in (size // 8 * 8 * shape.heads, (size // 8 + 1) * 8 * shape.heads) if 0 < wide < whole]
    if not near:
        return None
    return (
        f"heads of {size} are slow on most hardware, which prefers multiples of 8; hidden="
        f"{' or '.join(map(str, near))} gives such heads"
    )


class Compaction(nn.Module):
    """The groups of a wrapped model, and its two steps to a standard narrower model: :meth:`cut`, then :meth:`merge`.

    The wrapped model holds it as its module ``compaction``. All functions here change the model in place.
    """

    def __init__(self, model: PreTrainedModel, spec: Inherited | Sliced) -> None:
        super().__init__()
        self.spec, self.config = spec, narrowed(spec, model.config)
        self.groups = nn.ModuleDict()
        self.is_cut = False
        """Whether the masked coordinates are removed."""
        self.links: dict[str, Compacted] = {}
        """Wrapped matrices by path. Like the norms and tables below, they are modules of the model, not of this one."""
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
        # transformers divides scores by the square root of the head size, which changes; the queries compensate for it.
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
        """Wrap the pooler and the modules between the base model and its predictions."""
        head, width = anatomy.head_of(model), anatomy.shape_of(self.config).hidden
        before, path = residual, anatomy.family_of(model.config).pooler
        if path is not None and getattr(anatomy.base_of(model), path, None) is not None:
            pooler = self._group("pooler", residual.size, width)
            self._link(model, f"{prefix}{path}.dense", [pooler], [residual])
            before = pooler if head == "classes" else residual  # all other heads read the hidden states directly
        words = model.get_output_embeddings() if head in ("masked_lm", "causal_lm") else None
        tied = words is not None and words.weight is anatomy.word_embeddings_of(model).weight
        if words is not None and not tied and self.spec.decoder == "tied":
            raise TutelageError(
                "the teacher's output matrix is not tied to its embedding table, so the student's cannot be tied; use "
                f"{option('settings')} student.decoder=untied"
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
            else:  # as wide as the layers; before a tied embedding table, it uses the coordinates of the residual stream
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
        """Remove the masked coordinates, whose rows are zero. The model now has the student's size.

        ``optimizer`` continues with the smaller parameters and the matching part of its state.
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
        self.is_cut = True
        anatomy.become(model, fresh)
        model.compaction = self

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        """Multiply the compactors into the weights. ``model`` becomes a standard narrower model."""
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
            plain, index = fresh.get_submodule(path), slice(None) if self.is_cut else norm.group.index
            plain.weight.copy_(norm.weight[index])
            plain.bias.copy_(norm.bias[index])
        for path, parameter in self._others(model, fresh):
            fresh.get_parameter(path).copy_(parameter)
        anatomy.become(model, fresh)

    def _fresh(self, model: PreTrainedModel) -> PreTrainedModel:
        """A new model of the student's sizes with random weights, whose parts are replaced next."""
        config = copy.deepcopy(self.config)
        if not self.tied:
            config.tie_word_embeddings = False
        weight = anatomy.word_embeddings_of(model).weight
        with torch.random.fork_rng():
            fresh: PreTrainedModel = auto_class(anatomy.head_of(model)).from_config(config, dtype=weight.dtype)
        fresh.set_attn_implementation(model.config._attn_implementation)
        return fresh.to(weight.device).train(model.training)

    def _entrance_of(self, model: PreTrainedModel) -> Compactor:
        entrance = model.get_submodule(self._entrance)
        assert isinstance(entrance, Entrance)
        return entrance.compactor

    def _others(self, model: PreTrainedModel, fresh: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
        """Parameters of ``model`` that do not depend on its widths (the output bias over the vocabulary), with their paths."""
        ours = dict(model.named_parameters(remove_duplicate=False))
        concerned = {*self.links, *self._norms, *self._tables, self._entrance}
        names = [name for name, _ in fresh.named_parameters(remove_duplicate=False)]
        return [(n, ours[n]) for n in names if not any(n.startswith(f"{path}.") for path in concerned)]

    # ------------------------------------------------------------------------------------------------------ inspection

    def largest_masked(self) -> float:
        """The largest norm of a masked row."""
        found = [member.matrix[group.gone] for group in self for member in group.members if len(group.gone)]
        return max((float(rows.detach().norm(dim=1).max()) for rows in found), default=0.0)

    def kept(self) -> dict[str, dict[str, Any]]:
        """For each group: the original number of coordinates, and the kept ones."""
        return {group.name: {"of": group.size, "kept": group.index.tolist()} for group in self}


def wrap(model: PreTrainedModel, spec: Inherited | Sliced) -> Compaction:
    """Put compactors around every weight of ``model``, in place. Its outputs do not change, up to rounding.

    Raises:
        TutelageError: see :func:`narrowed`.
    """
    compaction = Compaction(model, spec)
    model.compaction = compaction
    model.register_load_state_dict_pre_hook(_fit)
    return compaction


def compaction_of(model: PreTrainedModel) -> Compaction | None:
    """The compaction of a wrapped model, or ``None``."""
    found = getattr(model, "compaction", None)
    return found if isinstance(found, Compaction) else None


def config_of(model: PreTrainedModel) -> Any:
    """The configuration of a model; for a wrapped model, the configuration after :meth:`Compaction.merge`."""
    compaction = compaction_of(model)
    return model.config if compaction is None else compaction.config


def as_merged(model: PreTrainedModel) -> PreTrainedModel:
    """A network with the shape of a wrapped model after merging, with random weights. Other models are returned as they are."""
    compaction = compaction_of(model)
    return model if compaction is None else compaction._fresh(model)


def _fit(model: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: bring the model into the form in which the state was saved (wrapped, cut or merged)."""
    compaction = compaction_of(model)
    if compaction is None:
        return
    place = f"{prefix}compaction.groups."
    if not any(name.startswith(place) for name in state):
        for group in compaction:
            group.restrict(
                group.units[0] - group.units[1], group.score
            )  # any choice will do: the weights are loaded next
        compaction.merge(model)
        return
    for group in compaction:
        group.keep(state[f"{place}{group.name}.kept"])
    # Check all parameters: a group that removes nothing keeps the shape of its matrices.
    saved = ((parameter, state.get(f"{prefix}{path}")) for path, parameter in model.named_parameters())
    if not compaction.is_cut and any(then is not None and then.shape != now.shape for now, then in saved):
        compaction.cut(model)


def _cut(module: nn.Module, name: str, index: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Keep some rows of a parameter. The result is a new parameter, because autograd may remember the old one's shape."""
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


def sliced(teacher: PreTrainedModel, spec: Sliced, labels: dict[str, Any]) -> PreTrainedModel:
    """The baseline of weight inheritance: keep coordinates of the teacher, chosen by weight norm or at random.

    ``choose="norm"`` scores a coordinate by the norm of all weights that write or read it: rows and columns of matrices, and
    columns of the embedding tables, without biases and layer norms. Random choices depend on torch's random state.

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
    """``(size,)``: the norm of all teacher weights that write or read a coordinate, each counted once."""
    squares = torch.zeros(group.size, dtype=torch.float64)
    tables = list(compaction._tables.values()) if group.name == "residual" else []
    for table in tables:
        squares += table.weight.double().square().sum(dim=0).cpu()
    for link in compaction.links.values():
        if any(link.weight is table.weight for table in tables):
            continue  # the output matrix of a tied model
        for part, (weight, _) in enumerate(link.split()):
            for side, dim in zip(link.sides(part), (1, 0), strict=True):
                if side is not None and side.group is group:
                    squares += weight.double().square().sum(dim=dim).cpu()
    return squares.sqrt()
