"""Terms on hidden states."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from tutelage.anatomy import Shape, family_named
from tutelage.errors import TutelageError, option
from tutelage.knowledge.cuts import Cut, Neurons, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Mapping, Pairs, in_words, pairs
from tutelage.objectives.term import Comparison, Normalize, Padding, Project, Term, resolve_projection

if TYPE_CHECKING:
    from torch import Tensor, nn


class _HiddenTerm(Term):
    """What the two terms on vectors of all tokens share."""

    partial = True

    loss: Literal["mse", "cosine"] = "mse"
    """Mean over tokens of the squared difference, itself a mean over the hidden size (``mse``), or of one minus the cosine
    (``cosine``)."""
    project: Project = "auto"
    """Learnt linear maps to the teacher's width: one for each layer, without bias (``per_layer``; TinyBERT, eq. 8 and 9); one
    with bias for the embeddings and all layers (``shared``; the authors' code); or ``none``, for equal widths. ``auto`` is
    ``per_layer`` where the widths differ, else ``none``."""
    onto: Literal["teacher", "student"] = "teacher"
    """The side whose width is compared: the maps take the student's vectors to the teacher's width, or the teacher's to the
    student's."""
    padding: Padding = "masked"
    """Places that the mean of ``mse`` is over: real tokens (``masked``), or padded places too as in TinyBERT's code
    (``reference``). ``cosine`` always leaves padding out."""
    normalize: Normalize = "none"
    """``teacher`` divides the squares of each text by the teacher's, so that layers of every scale weigh alike."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.normalize == "teacher" and (self.loss, self.padding) != ("mse", "masked"):
            raise ValueError("normalize=teacher is for loss=mse and padding=masked; leave it out")
        if self.normalize == "teacher" and self.onto == "student":
            raise ValueError(
                "normalize=teacher divides by vectors that are not learnt; set onto=teacher, or leave it out"
            )
        return self

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        mapped = self.pairs(student, teacher)
        theirs = Needs(
            hidden=frozenset(t for _, t in mapped), padding=(self.padding, self.loss) == ("reference", "mse")
        )
        return Needs(hidden=frozenset(s for s, _ in mapped)), theirs

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return resolve_projection(self.project, student, teacher, "per_layer")

    def maps(self, student: Shape, teacher: Shape) -> list[str]:
        # Without the term's name: the embeddings are layer 0, and "shared" is one map for both terms, if both map the same way.
        how, onto = self.projection(student, teacher), "_onto_student" if self.onto == "student" else ""
        if how == "none":
            return []
        return [f"{'shared' if how == 'shared' else s}{onto}" for s, _ in self.pairs(student, teacher)]

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        return super().linears(student, teacher) if self.onto == "teacher" else {}

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        from torch import nn

        if teacher is None or self.onto == "teacher":
            return {}
        has_bias = self.projection(student, teacher) == "shared"
        # PyTorch's own start, which keeps to the width: targets near 0 would hold the student's vectors there.
        return {name: nn.Linear(teacher.hidden, student.hidden, has_bias) for name in self.maps(student, teacher)}

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for (s, t), linear in zip_longest(x.pairs, x.maps):
            if s not in x.student.hidden:
                continue  # a sub-network without this layer
            ours, theirs = x.student.hidden[s], x.teacher.hidden[t]
            if linear is not None and self.onto == "teacher":
                ours = linear(ours)
            elif linear is not None:
                theirs = linear(theirs)
            if self.padding == "reference" and self.loss == "mse":
                share_of_step = len(x.batch.rows) / x.batch.totals.examples
                total = total + losses.reference_hidden_mse(ours, theirs) * share_of_step
            else:
                function = losses.hidden_cosine
                if self.loss == "mse":
                    function = partial(losses.hidden_mse, relative=self.normalize == "teacher")
                total = total + function(ours, theirs, x.batch.compared, x.batch.totals.tokens)
        return total


class Embeddings(_HiddenTerm):
    """The embedding output, ``hidden_states[0]`` (TinyBERT, eq. 9)."""

    column = "embeddings"
    aligned = True

    kind: Literal["embeddings"] = "embeddings"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return [(0, 0)]


class Hidden(_HiddenTerm):
    """Outputs of mapped layers, all tokens; summed over the layers (TinyBERT, eq. 8; DistilBERT's cosine)."""

    column = "hidden"
    title = "hidden states"
    aligned = True

    kind: Literal["hidden"] = "hidden"
    layers: Mapping = "origin"
    """The pairs of layers, by name (:func:`~tutelage.objectives.mapping.pairs`) or as the teacher layer of each student layer, 0
    for none. ``origin``: for a copied student the layers that it was copied from, else ``uniform``."""

    def words(self) -> str:
        return f"{'cosine' if self.loss == 'cosine' else 'MSE'}, {in_words(self.layers)}"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)


class Hint(Term):
    """The student's guided layer, through a linear regressor, against the teacher's hint layer (FitNets, Romero et al. 2015).

    Both are the middle layers: ``ceil(depth / 2)`` of the student and of the teacher.
    """

    column = "hidden"
    aligned = True

    kind: Literal["hint"] = "hint"

    def words(self) -> str:
        return "MSE of a regressor, middle"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return [((student.layers + 1) // 2, (teacher.layers + 1) // 2)]

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        ((guided, hint),) = self.pairs(student, teacher)
        return Needs(hidden=frozenset([guided])), Needs(hidden=frozenset([hint]))

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        return {} if teacher is None else {self.kind: (teacher.hidden, True)}

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives import losses

        ((guided, hint),) = x.pairs
        ours = x.projections[self.kind](x.student.hidden[guided])
        return losses.hint(ours, x.teacher.hidden[hint], x.batch.compared, x.batch.totals.tokens)


class Pooled(Term):
    """The pooler's output, which TinyBERT's own general stage leaves random; mean over the hidden size."""

    column = "hidden"
    title = "pooled output"

    kind: Literal["pooled"] = "pooled"
    project: Project = "auto"
    """Learnt linear map to the teacher's width: without bias (``per_layer``), with bias (``shared``), or ``none``, for equal
    widths. ``auto`` is ``per_layer`` where the widths differ, else ``none``."""

    def words(self) -> str:
        return "MSE of pooled"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        return Needs(pooled=True), Needs(pooled=True)

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return [(student.layers, teacher.layers)]

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return resolve_projection(self.project, student, teacher, "per_layer")

    def maps(self, student: Shape, teacher: Shape) -> list[str]:
        return [] if self.projection(student, teacher) == "none" else [self.kind]

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives import losses

        assert x.student.pooled is not None and x.teacher.pooled is not None
        ours = x.maps[0](x.student.pooled) if x.maps else x.student.pooled
        return losses.logits_mse(ours, x.teacher.pooled, count=x.batch.totals.examples)


def check_first_token(kind: str, *shapes: Shape) -> None:
    """Check that the first token of these models sees the text.

    Raises:
        TutelageError: for a causal model.
    """
    for shape in shapes:
        if family_named(shape.family).causal:
            raise TutelageError(
                f"{kind} compares what the first token makes of the text, but in a {shape.family} it sees no other token; use the "
                "term hidden"
            )


class FirstToken(Term):
    """Squared difference of the first token's vectors in mapped layers, mean over texts and layers (BERT-PKD, eq. 7)."""

    column = "hidden"

    kind: Literal["first_token"] = "first_token"
    layers: Mapping = "skip"
    """The pairs of layers, by name (:func:`~tutelage.objectives.mapping.pairs`) or as the teacher layer of each student layer, 0
    for none. The paper's: ``skip``, evenly spread teacher layers, and ``last``, those just below its last; the student's last
    layer has no pair."""
    project: Project = "auto"
    """Learnt linear maps to the teacher's width: one for each layer, without bias (``per_layer``), one with bias for all
    (``shared``), or ``none``, for equal widths as in the paper. ``auto`` is ``per_layer`` where the widths differ, else
    ``none``."""
    normalize: bool = True
    """Scale both vectors to length 1, as in the paper; off, compare them as they are, as in the authors' best runs on the larger
    sets."""
    reduction: Literal["sum", "mean"] = "sum"
    """Over the hidden size: the sum, or the mean as in the authors' code. ``mean`` needs a weight larger by the hidden size to
    mean the same."""

    def words(self) -> str:
        return f"MSE of [CLS], {in_words(self.layers)}"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        check_first_token(self.kind, student, teacher)
        mapped = self.pairs(student, teacher)
        if not mapped and self.layers != "gcd":
            raise TutelageError(
                f"first_token with layers={self.layers!r} compares all layers but the student's last, and a student of "
                f"{student.layers} layer(s) has no other; give it at least 2 ({option('student')} layers=2), or name a "
                "teacher layer: "
                f"{option('settings')} stages.*.first_token.layers=[1]"
            )
        cuts = frozenset(self.cuts(student, teacher))
        return Needs(hidden=frozenset(s for s, _ in mapped)), Needs(cuts=cuts)

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return resolve_projection(self.project, student, teacher, "per_layer")

    def unpaired(self, student: Shape, teacher: Shape) -> str | None:
        return (
            f"compares no [CLS] vectors: except for the last, no layer of {student.layers} ends at the share of the depth at "
            f"which one of {teacher.layers} does ({self.layers}); use another depth, or layers=skip"
        )

    def cuts(self, student: Shape, teacher: Shape) -> list[Cut]:
        return [Cut(t, Tokens(count=1), Neurons()) for _, t in self.pairs(student, teacher)]

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for (s, _), cut, linear in zip_longest(x.pairs, x.cuts, x.maps):
            ours, theirs = x.student.hidden[s][:, 0], x.teacher.cuts[cut].values[:, 0]
            if linear is not None:
                ours = linear(ours)
            value = losses.patient_mse(ours, theirs, normalize=self.normalize, count=x.batch.totals.examples)
            total = total + (value / ours.shape[-1] if self.reduction == "mean" else value)
        return total / max(len(x.pairs), 1)  # gcd may pair nothing
