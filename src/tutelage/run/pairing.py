"""Which layers a copied student's are paired with, where a term leaves that to the run (``layers="origin"``)."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage import anatomy
from tutelage.objectives.mapping import of_origin
from tutelage.objectives.term import Term
from tutelage.students.copied import chosen_layers
from tutelage.students.specs import Copied, Student


def copied_layers(student: Student, source: anatomy.Shape | None, teacher: anatomy.Shape | None) -> list[int] | None:
    """The teacher's layers that a student's are copies of, from 1. None for another kind of student, and for copies of a model
    (``source``) that is not as deep as the teacher."""
    if not isinstance(student, Copied) or source is None or teacher is None or source.layers != teacher.layers:
        return None
    return chosen_layers(student, source.layers)


def paired(terms: Sequence[Term], layers: list[int] | None, depth: int) -> list[Term]:
    """The terms for a student made of these layers of a teacher of this depth."""
    if layers is None:
        return list(terms)
    mapping = of_origin(layers, depth)
    return [term.model_copy(update={"layers": mapping}) if pairs_by_origin(term) else term for term in terms]


def pairs_by_origin(term: Term) -> bool:
    """Whether the pairs of a term depend on the layers that the student is made of."""
    return getattr(term, "layers", None) == "origin"
