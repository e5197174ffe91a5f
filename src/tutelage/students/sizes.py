"""The sizes of a pruned student: those that are named, and those that reach a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.evaluation.speed import count_parameters
from tutelage.students.specs import Pruned

LENGTH = 128
"""Tokens of the text whose operations ``target_flops`` counts."""
LEAST = 0.25
"""Share of the neurons that a target leaves before it removes layers, in a student that keeps its heads."""


@dataclass(frozen=True)
class Sizes:
    """Layers of a student, and heads and neurons in each layer."""

    layers: int
    heads: int
    intermediate: int


Width = TypeVar("Width", int, Tensor)


def unit_costs(shape: anatomy.Shape, of: Literal["parameters", "flops"], hidden: Width) -> tuple[Width, Width]:
    """What one head and one neuron cost: parameters, or operations of matrix products for a text of :data:`LENGTH` tokens.

    Args:
        shape: The model that a student is cut out of, whose heads keep their size.
        hidden: The width of the student's hidden states: a number, or a tensor ``()``.
    """
    size = shape.hidden // shape.heads
    if of == "parameters":
        return size * (4 * hidden + 3), 2 * hidden + 1
    return LENGTH * size * (8 * hidden + 4 * LENGTH), LENGTH * 4 * hidden


def whole_cost(shape: anatomy.Shape, of: Literal["parameters", "flops"]) -> int:
    """What all heads and neurons of a model cost."""
    head, neuron = unit_costs(shape, of, shape.hidden)
    return shape.layers * (shape.heads * head + shape.intermediate * neuron)


@dataclass(frozen=True)
class Costs:
    """What a student cut out of ``teacher`` costs, by its sizes."""

    teacher: PreTrainedModel
    rank: int | None

    def parameters(self, sizes: Sizes) -> int:
        """Parameters of the whole student."""
        family, shape = anatomy.family_of(self.teacher.config), anatomy.shape_of(self.teacher.config)
        layers, (head, neuron) = anatomy.layers_of(self.teacher), unit_costs(shape, "parameters", shape.hidden)
        layer = count_parameters(layers[0])
        layer -= (shape.heads - sizes.heads) * head + (shape.intermediate - sizes.intermediate) * neuron
        outside = count_parameters(self.teacher) - count_parameters(layers)
        if self.rank is not None:
            table = anatomy.base_of(self.teacher).get_submodule(family.embeddings).weight
            outside += self.rank * sum(table.shape) - table.numel()
        return outside + sizes.layers * layer

    def flops(self, sizes: Sizes) -> int:
        """Operations of the layers' matrix products for one text of :data:`LENGTH` tokens."""
        shape = anatomy.shape_of(self.teacher.config)
        head, neuron = unit_costs(shape, "flops", shape.hidden)
        return sizes.layers * (sizes.heads * head + sizes.intermediate * neuron)

    def of(self, target: str, sizes: Sizes) -> int:
        """What ``target_parameters`` or ``target_flops`` limits."""
        return self.parameters(sizes) if target == "target_parameters" else self.flops(sizes)


def sizes_of(spec: Pruned, teacher: PreTrainedModel) -> Sizes:
    """The student's sizes. They follow from the specification and the teacher's shape alone.

    For a target, sizes that are named stay. Heads and neurons are removed in equal shares from all layers; where heads are named
    or cannot be removed, neurons until the share :data:`LEAST` of them is left. Layers go where that is not enough.

    Raises:
        TutelageError: if nothing says how small the student is to be, or no sizes reach the target.
    """
    shape = anatomy.shape_of(teacher.config)
    whole = Sizes(shape.layers, shape.heads, shape.intermediate)
    named = Sizes(spec.layers or whole.layers, spec.heads or whole.heads, spec.intermediate or whole.intermediate)
    given = [name for name in ("target_parameters", "target_flops") if getattr(spec, name) is not None]
    if len(given) > 1:
        raise TutelageError("target_parameters and target_flops may contradict each other; leave one out")
    if not given:
        if named == whole and spec.rank is None:
            raise TutelageError(
                "nothing says how small a pruned student is to be; give target_parameters=0.5 or target_flops=0.5, or name layers, "
                f"heads, intermediate or rank (the teacher: {shape})"
            )
        return named
    if spec.layers and spec.intermediate:
        raise TutelageError(
            f"{given[0]} chooses the sizes that are not named, and layers and intermediate are; set one of them to none"
        )
    name, target, costs = given[0], getattr(spec, given[0]), Costs(teacher, spec.rank)
    limit = target * Costs(teacher, None).of(name, whole) if target <= 1 else target
    step = 8 if whole.intermediate % 8 == 0 else 1  # hardware prefers multiples of 8
    whole_heads = spec.heads or anatomy.family_of(teacher.config).heads_fixed is not None
    for layers in [spec.layers] if spec.layers else range(whole.layers, 0, -1):
        for heads in [named.heads] if whole_heads else range(whole.heads, 0, -1):
            share = LEAST if whole_heads else heads / whole.heads
            least = spec.intermediate or max(step, int(share * whole.intermediate) // step * step)
            smallest = costs.of(name, Sizes(layers, heads, least))
            if smallest <= limit:
                neurons = int(limit - smallest) // (costs.of(name, Sizes(layers, heads, least + 1)) - smallest)
                most = spec.intermediate or whole.intermediate
                return Sizes(layers, heads, min(least + neurons // step * step, most))
    raise TutelageError(
        f"{name}={target:g} cannot be reached: {layers} layers with {heads} heads and {least} neurons have {smallest:,}, "
        f"and the target is {limit:,.0f}; use a larger target, fewer layers or heads"
        + (", or rank=128 for the embedding table" if name == "target_parameters" and spec.rank is None else "")
    )
