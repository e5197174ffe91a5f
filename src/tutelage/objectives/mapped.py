"""Terms whose targets are made of several teacher layers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.fields import Size
from tutelage.knowledge.cuts import Cut, Neurons, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.objectives.hidden import check_first_token
from tutelage.objectives.mapping import Pairs, grouped, half_up
from tutelage.objectives.term import Comparison, Normalize, Project, Term, resolve_projection

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
        return _hidden_of(self.pairs(student, teacher))

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


class RandomLayers(Term):
    """Mean vectors of the tokens in the student's intermediate layers against those of teacher layers drawn anew each epoch
    (RAIL-KD, Haidar et al. 2022).

    Of a teacher of N layers M - 1 of the first N - 1 are drawn, sorted, and paired with the first M - 1 layers of the student of M.
    The loss is ``|s/|s| - t/|t||^2``, mean over texts. A draw follows from the run's seed, the stage and the epoch.
    """

    column = "hidden"
    aligned = True

    kind: Literal["random_layers"] = "random_layers"
    concatenated: bool = True
    """Compare the layers' vectors as one long vector (the paper's RAIL-KD c); off, layer by layer, summed (RAIL-KD l)."""
    width: Size | None = None
    """Map both sides to this width, as published. Default: compare in the teacher's width, to which the student's vectors are
    mapped where the widths differ: a learnt map of the target could make the target easy instead of the student good."""

    def words(self) -> str:
        return f"MSE of token means, {'concatenated ' if self.concatenated else ''}random layers"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        """All pairs that a draw may have."""
        m, n = student.layers, teacher.layers
        if not 2 <= m <= n:
            raise TutelageError(
                f"{self.kind} pairs the layers before the last of the student with some of the teacher's, but the student has {m} "
                f"layer(s) and the teacher {n}; use a student of 2 to {n} layers, or a method without this term"
            )
        return [(s, t) for s in range(1, m) for t in range(s, n - m + s + 1)]

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        return _hidden_of(self.pairs(student, teacher))

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        from tutelage.objectives.mappers import DrawnLayers, new_map

        assert teacher is not None
        count = student.layers - 1
        found: dict[str, nn.Module] = {self.kind: DrawnLayers(count, teacher.layers - 1)}
        together = count if self.concatenated else 1
        if self.width is not None:
            found[f"{self.kind}_teacher"] = new_map(together * teacher.hidden, self.width)
        if self.width is not None or student.hidden != teacher.hidden:
            outputs = self.width or together * teacher.hidden
            found[f"{self.kind}_student"] = new_map(together * student.hidden, outputs)
        return found

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses
        from tutelage.objectives.mappers import DrawnLayers, token_mean

        drawn = x.projections[self.kind]
        assert isinstance(drawn, DrawnLayers)
        ours = [token_mean(x.student.hidden[s], x.batch.compared) for s in range(1, len(drawn.layers) + 1)]
        theirs = [token_mean(x.teacher.hidden[t], x.batch.compared) for t in drawn.layers]
        if self.concatenated:
            ours, theirs = [torch.cat(ours, dim=-1)], [torch.cat(theirs, dim=-1)]
        total = ours[0].new_zeros(())
        for pair in zip(ours, theirs, strict=True):
            mapped = [
                x.projections[name](vectors) if (name := f"{self.kind}_{who}") in x.projections else vectors
                for who, vectors in zip(("student", "teacher"), pair, strict=True)
            ]
            total = total + losses.patient_mse(*mapped, count=x.batch.totals.examples)
        return total


class ClosestLayers(Term):
    """Hidden states of some teacher layers, each against the closest layer that is left of the student (CoFi, Xia et al. 2022).

    The student's vectors pass one linear map, which is the identity at first; for a student that was cut it puts the kept
    coordinates in their old places. Teacher layers choose from the top down, each among
    the student's layers below the last choice; one for which none is below takes the last choice too. The loss is the mean square
    over tokens and hidden size, summed over the teacher's layers. A choice is the whole step's, of all processes.
    """

    column = "hidden"
    aligned = True
    whole_step = True

    kind: Literal["closest_layers"] = "closest_layers"
    layers: Annotated[list[Size], Field(min_length=1)] | Literal["quarters"] = "quarters"
    """The teacher's layers that teach; ``quarters``: those at a quarter, half, three quarters and the whole of the depth, 3, 6, 9
    and 12 of 12."""
    normalize: Normalize = "none"
    """``teacher`` divides the squares of each text by the teacher's. The choice of layers is by the squares as they are."""

    def words(self) -> str:
        return "MSE of the closest layers"

    def teaching(self, teacher: Shape) -> list[int]:
        """The teacher's layers that teach, ascending."""
        n = teacher.layers
        layers = {half_up(i * n, 4) for i in range(1, 5)} - {0} if self.layers == "quarters" else set(self.layers)
        if max(layers) > n:
            raise TutelageError(
                f"{self.kind} names layer {max(layers)}, but the teacher has layers 1 to {n}; use these"
            )
        return sorted(layers)

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        """All pairs that a choice may have."""
        return [(s, t) for s in range(1, student.layers + 1) for t in self.teaching(teacher)]

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        ours, theirs = _hidden_of(self.pairs(student, teacher))
        return ours | Needs(hidden=frozenset([0])), theirs

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        from torch import nn

        from tutelage.objectives.mappers import placed

        assert teacher is not None
        linear = nn.Linear(student.hidden, teacher.hidden)
        kept = range(student.hidden) if student.coordinates is None else student.coordinates
        linear.weight.data.copy_(placed(kept, teacher.hidden))
        nn.init.zeros_(linear.bias)
        return {self.kind: linear}

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses
        from tutelage.objectives.mappers import closest, summed

        mask, tokens, linear = x.batch.compared, x.batch.totals.tokens, x.projections[self.kind]
        states = [x.student.hidden[layer] for layer in sorted(x.student.hidden)]
        ours, theirs = torch.stack(states[1:]), [x.teacher.hidden[t] for t in sorted({t for _, t in x.pairs})]
        # A layer that passes on what it reads is no longer there: its blocks are skipped.
        left = torch.stack([(after != before).any() for before, after in pairwise(states)])
        with torch.no_grad():  # not losses.hidden_costs, for whose list of tokens the host waits
            mapped, real = linear(ours).float(), mask[..., None]
            costs = torch.stack([((mapped - target) * real).square().sum((1, 2, 3)) for target in theirs], dim=1)
        total = ours.new_zeros((), dtype=torch.float32)
        for place, target in zip(closest(summed(costs), left), theirs, strict=True):
            chosen = linear(ours.index_select(0, place[None])[0])
            total = total + losses.hidden_mse(chosen, target, mask, tokens, relative=self.normalize == "teacher")
        return total


def _hidden_of(pairs: Pairs) -> tuple[Needs, Needs]:
    """The hidden states of all layers in pairs, of student and teacher."""
    ours, theirs = (frozenset(layers) for layers in zip(*pairs, strict=True))
    return Needs(hidden=ours), Needs(hidden=theirs)
