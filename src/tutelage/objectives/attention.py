"""Terms on attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Mapping, Pairs, in_words, pairs
from tutelage.objectives.term import Comparison, Normalize, Padding, Term

if TYPE_CHECKING:
    from torch import Tensor


class AttentionScores(Term):
    """Attention scores before the softmax in mapped layers, head by head; summed over the layers (TinyBERT, eq. 7).

    Where one of the two looks at no later token, the scores of later tokens do not count.
    """

    column = "attention"
    aligned = True

    kind: Literal["attention_scores"] = "attention_scores"
    layers: Mapping = "origin"
    """The pairs of layers, by name (:func:`~tutelage.objectives.mapping.pairs`) or as the teacher layer of each student layer, 0
    for none. ``origin``: for a copied student the layers that it was copied from, else ``uniform``."""
    padding: Padding = "masked"
    """Places that the mean is over: pairs of real tokens (``masked``), or all places as in the authors' code (``reference``),
    where padded queries take part and scores of padded keys are 0."""
    normalize: Normalize = "none"
    """``teacher`` divides the squares of each text by those of the teacher's scores."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.normalize == "teacher" and self.padding == "reference":
            raise ValueError("normalize=teacher is for padding=masked; leave it out")
        return self

    def words(self) -> str:
        return f"MSE of scores, {in_words(self.layers)}"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        if student.heads != teacher.heads:
            raise TutelageError(
                f"attention scores are compared head by head, but the student has {student.heads} heads and the "
                f"teacher {teacher.heads}; use heads={teacher.heads} or a method without attention scores"
            )
        mapped = self.pairs(student, teacher)
        return Needs(attention=frozenset(s for s, _ in mapped)), Needs(attention=frozenset(t for _, t in mapped))

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives import losses

        total = x.student.queries[x.pairs[0][0]].new_zeros(()).float()
        causal, totals = x.student.causal or x.teacher.causal, x.batch.totals
        for s, t in x.pairs:
            value = losses.attention_score_mse(
                x.student.queries[s],
                x.student.keys[s],
                x.teacher.queries[t],
                x.teacher.keys[t],
                x.batch.compared,
                student_scaling=x.student.scaling,
                teacher_scaling=x.teacher.scaling,
                student_bias=x.student.biases.get(s),
                teacher_bias=x.teacher.biases.get(t),
                padding=self.padding,
                causal=causal,
                relative=self.normalize == "teacher",
                count=totals.seen_pairs(causal),
            )
            if self.padding == "reference":
                value = value * (len(x.batch.rows) / x.batch.totals.examples)
            total = total + value
        return total
