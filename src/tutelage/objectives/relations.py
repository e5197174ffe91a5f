"""Terms on relations between tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.fields import Size
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Mapping, Pairs, in_words, pairs
from tutelage.objectives.term import Comparison, Term

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADS = 48
"""Relation heads of a base-size teacher in the paper."""

Vectors = Literal["queries", "keys", "values", "queries-keys"]


class Relations(Term):
    """KL divergence of self-attention relations: of queries, keys or values to each other (MiniLMv2, Wang et al. 2021), or of
    queries to keys, which is the attention distribution (MiniLM, Wang et al. 2020).

    Relation heads are cut anew out of each model's width, so that student and teacher may have other widths and heads.
    ``relation_heads="own"`` compares the models' heads one by one, as MiniLM does: queries to keys are then scaled as in the
    model, with what relative positions add.
    """

    column = "attention"
    aligned = True

    kind: Literal["relations"] = "relations"
    layers: Mapping = "final"
    """The pairs of layers. The papers take the student's last layer, with the teacher's last (base) or one below (large)."""
    of: Annotated[tuple[Vectors, ...], Field(min_length=1)] = ("queries", "keys", "values")
    """The vectors whose relations are compared; ``queries-keys``: of queries to keys."""
    relation_heads: Size | Literal["own"] | None = None
    """Relation heads, which must divide both widths; default: the largest number up to 48 that does. ``own``: the heads of the
    models, of which both need equally many."""

    def words(self) -> str:
        return f"KL of relations of {', '.join(self.of)}, {in_words(self.layers)}"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        widths = student.attended or student.hidden, teacher.attended or teacher.hidden
        if self.relation_heads == "own" and student.heads != teacher.heads:
            raise TutelageError(
                f"relations with relation_heads=own are compared head by head, but the student has {student.heads} heads and the "
                f"teacher {teacher.heads}; use heads={teacher.heads}, or relation_heads={_most(*widths)}"
            )
        self._heads(*widths)
        mapped = self.pairs(student, teacher)
        return Needs(attention=frozenset(s for s, _ in mapped)), Needs(attention=frozenset(t for _, t in mapped))

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives import losses

        causal, total = x.student.causal or x.teacher.causal, x.batch.mask.new_zeros(()).float()
        for s, t in x.pairs:
            for name in self.of:
                first, _, second = name.partition("-")
                ours, theirs = (
                    (getattr(one, first)[layer], getattr(one, second or first)[layer])
                    for one, layer in ((x.student, s), (x.teacher, t))
                )
                attends = bool(second) and self.relation_heads == "own"
                total = total + losses.relation_kl(
                    ours,
                    theirs,
                    x.batch.compared,
                    self._heads(*(one.shape[1] * one.shape[3] for one, _ in (ours, theirs))),
                    student_scaling=x.student.scaling if attends else None,
                    teacher_scaling=x.teacher.scaling if attends else None,
                    student_bias=x.student.biases.get(s) if attends else None,
                    teacher_bias=x.teacher.biases.get(t) if attends else None,
                    causal=causal,
                    count=x.batch.totals.tokens,
                )
        return total

    def _heads(self, student: int, teacher: int) -> int | None:
        """The number of relation heads for these widths; None for the models' own."""
        if self.relation_heads == "own":
            return None
        usual = _most(student, teacher)
        if self.relation_heads is not None and math.gcd(student, teacher) % self.relation_heads:
            raise TutelageError(
                f"relations with relation_heads={self.relation_heads} cannot divide the widths {student} and {teacher}; use "
                f"relation_heads={usual}"
            )
        return self.relation_heads or usual


def _most(student: int, teacher: int) -> int:
    """The largest number of relation heads that divides these widths."""
    common = math.gcd(student, teacher)
    return max(n for n in range(1, MOST_HEADS + 1) if common % n == 0)
