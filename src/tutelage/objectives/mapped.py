"""Terms whose targets are made of several teacher layers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from tutelage.anatomy import Shape
from tutelage.knowledge.cuts import Cut, Neurons, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.objectives.hidden import check_first_token
from tutelage.objectives.mapping import Pairs, grouped
from tutelage.objectives.term import Comparison, Project, Term, resolve_projection

if TYPE_CHECKING:
    from torch import Tensor, nn


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


class ConcatenatedLayers(Term):
    """Hidden states of all tokens against a learnt linear map of concatenated teacher layers (CKD, Wu et al. 2020).

    ``C_j = W_j [h_i; ...]`` over the group of student layer j, in the student's width. The map is on the side of the target, so
    student and map could agree on 0. Vectors are therefore normalised to length 1: the loss is ``|s/|s| - C/|C||^2``, mean over
    tokens, summed over the student's layers, and the stage's weight decay holds for the maps. A student of random weights may
    still agree with its maps on one direction for all tokens; one of copied layers starts with directions of its own.
    """

    column = "hidden"
    aligned = True

    kind: Literal["concatenated_layers"] = "concatenated_layers"
    layers: Literal["regular", "overlapping", "skipping", "crossed"] = "regular"
    """The group of each student layer: the four combinations of the paper."""
    normalize: bool = True
    """Compare vectors of length 1; off, the squared error as published, averaged over the hidden size."""

    def words(self) -> str:
        return f"MSE of {self.layers} concatenated layers"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return grouped(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        ours, theirs = (frozenset(layers) for layers in zip(*self.pairs(student, teacher), strict=True))
        return Needs(hidden=ours), Needs(hidden=theirs)

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        from tutelage.objectives.mappers import new_map

        assert teacher is not None
        sizes = Counter(s for s, _ in self.pairs(student, teacher))
        return {f"{self.kind}_{s}": new_map(size * teacher.hidden, student.hidden) for s, size in sizes.items()}

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        mask, tokens = x.batch.compared, x.batch.totals.tokens
        total = mask.new_zeros((), dtype=torch.float32)
        for s, places in x.groups.items():
            ours = x.student.hidden[s]
            together = torch.cat([x.teacher.hidden[x.pairs[place][1]] for place in places], dim=-1)
            target = x.projections[f"{self.kind}_{s}"](together)
            if self.normalize:  # the squared difference of vectors of length 1 is twice one minus their cosine
                total = total + 2 * losses.hidden_cosine(ours, target, mask, tokens)
            else:
                total = total + losses.hidden_mse(ours, target, mask, tokens)
        return total
