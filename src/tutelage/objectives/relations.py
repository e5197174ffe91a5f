"""Terms on relations between tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Mapping, Pairs, pairs
from tutelage.objectives.term import Comparison, Term

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADS = 48
"""Relation heads of a base-size teacher in the paper."""


class Relations(Term):
    """KL divergence of self-attention relations: query-query, key-key and value-value (MiniLMv2, Wang et al. 2021).

    Relation heads are cut anew out of each model's width, so that student and teacher may have other widths and heads.
    """

    column = "attention"
    aligned = True

    kind: Literal["relations"] = "relations"
    layers: Mapping = "final"
    """The pairs of layers. The paper takes the student's last layer, with the teacher's last (base) or one below (large)."""
    of: Annotated[tuple[Literal["queries", "keys", "values"], ...], Field(min_length=1)] = ("queries", "keys", "values")
    """The vectors whose relations are compared."""
    relation_heads: Annotated[int, Field(ge=1)] | None = None
    """Relation heads, which must divide both widths; default: the largest number up to 48 that does."""

    def words(self) -> str:
        return f"KL of relations, {self.layers}"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        self._heads(student.hidden, teacher.hidden)
        mapped = self.pairs(student, teacher)
        return Needs(attention=frozenset(s for s, _ in mapped)), Needs(attention=frozenset(t for _, t in mapped))

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives import losses

        causal, total = x.student.causal or x.teacher.causal, x.batch.mask.new_zeros(()).float()
        for s, t in x.pairs:
            for name in self.of:
                ours, theirs = getattr(x.student, name)[s], getattr(x.teacher, name)[t]
                heads = self._heads(*(one.shape[1] * one.shape[3] for one in (ours, theirs)))
                total = total + losses.relation_kl(
                    ours, theirs, x.batch.compared, heads, causal=causal, count=x.batch.totals.tokens
                )
        return total

    def _heads(self, student: int, teacher: int) -> int:
        """The number of relation heads for these widths."""
        common = math.gcd(student, teacher)
        usual = max(n for n in range(1, MOST_HEADS + 1) if common % n == 0)
        if self.relation_heads is not None and common % self.relation_heads:
            raise TutelageError(
                f"relations with relation_heads={self.relation_heads} cannot divide the widths {student} and {teacher}; use "
                f"relation_heads={usual}"
            )
        return self.relation_heads or usual
