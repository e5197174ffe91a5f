"""Terms whose targets are made of several teacher layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tutelage.anatomy import Shape
from tutelage.knowledge.cuts import Cut, Neurons, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.objectives.hidden import check_first_token
from tutelage.objectives.mapping import Pairs, grouped
from tutelage.objectives.term import Comparison, Project, Term, resolve_projection

if TYPE_CHECKING:
    from torch import Tensor


class AttendedLayers(Term):
    """[CLS] vectors against a mean of teacher layers, weighted by attention (ALP-KD, Passban et al. 2021).

    The student's vector is the query, the teacher's vectors of the group are keys and values. The squared difference is averaged
    over the hidden size and summed over the student's layers. Gradients also pass through the attention weights.
    """

    column = "hidden"

    kind: Literal["attended_layers"] = "attended_layers"
    layers: Literal["all", "regular", "overlapping"] = "all"
    """The group of each student layer: all teacher layers (the paper's ALP), blocks (ALP-NO), or overlapping blocks (ALP-PO)."""
    project: Project = "auto"
    """How the student's vectors reach the teacher's width: ``auto`` is ``per_layer`` where the widths differ."""

    def words(self) -> str:
        return f"MSE of [CLS], attention over {self.layers} layers"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return grouped(self.layers, student.layers, teacher.layers)

    def cuts(self, student: Shape, teacher: Shape) -> list[Cut]:
        return [Cut(t, Tokens(count=1), Neurons()) for _, t in self.pairs(student, teacher)]

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        check_first_token(self.kind, student, teacher)
        ours = frozenset(s for s, _ in self.pairs(student, teacher))
        return Needs(hidden=ours), Needs(cuts=frozenset(self.cuts(student, teacher)))

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return resolve_projection(self.project, student, teacher, "per_layer")

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses
        from tutelage.objectives.mappers import attended

        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for s, places in x.groups.items():
            ours = x.student.hidden[s][:, 0]
            if x.maps:
                ours = x.maps[places[0]](ours)
            theirs = torch.stack([x.teacher.cuts[x.cuts[place]].values[:, 0] for place in places], dim=1)
            total = total + losses.logits_mse(ours, attended(ours, theirs), count=x.batch.totals.examples)
        return total
