"""The sizes of a pruned student: those that are named, and those that reach a target."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.evaluation.speed import count_parameters
from tutelage.students.specs import Pruned

LENGTH = 128
"""Tokens of the text whose operations ``target_flops`` counts."""


@dataclass(frozen=True)
class Sizes:
    """Layers of a student, and heads and neurons in each layer."""

    layers: int
    heads: int
    intermediate: int


@dataclass(frozen=True)
class Costs:
    """What a student cut out of ``teacher`` costs, by its sizes."""

    teacher: PreTrainedModel
    rank: int | None

    def parameters(self, sizes: Sizes) -> int:
        """Parameters of the whole student."""
        family, shape = anatomy.family_of(self.teacher.config), anatomy.shape_of(self.teacher.config)
        layers, hidden = anatomy.layers_of(self.teacher), shape.hidden
        layer = count_parameters(layers[0])
        layer -= (shape.heads - sizes.heads) * (hidden // shape.heads) * (4 * hidden + 3)
        layer -= (shape.intermediate - sizes.intermediate) * (2 * hidden + 1)
        outside = count_parameters(self.teacher) - count_parameters(layers)
        if self.rank is not None:
            table = anatomy.base_of(self.teacher).get_submodule(family.embeddings).weight
            outside += self.rank * sum(table.shape) - table.numel()
        return outside + sizes.layers * layer

    def flops(self, sizes: Sizes) -> int:
        """Operations of the layers' matrix products for one text of :data:`LENGTH` tokens."""
        shape = anatomy.shape_of(self.teacher.config)
        inner = sizes.heads * (shape.hidden // shape.heads)
        dense = 2 * (4 * inner * shape.hidden + 2 * shape.hidden * sizes.intermediate)
        return sizes.layers * LENGTH * (dense + 4 * LENGTH * inner)


def sizes_of(spec: Pruned, teacher: PreTrainedModel) -> Sizes:
    """The student's sizes. They depend on the teacher's configuration alone.

    Raises:
        TutelageError: if nothing says how small the student is to be, or no sizes reach the target.
    """
    shape = anatomy.shape_of(teacher.config)
    return Sizes(spec.layers or shape.layers, spec.heads or shape.heads, spec.intermediate or shape.intermediate)
