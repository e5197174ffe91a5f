"""What each method uses, computed from its recipe."""

from __future__ import annotations

from typing import get_args

from tutelage.objectives.term import Column
from tutelage.recipes.recipe import Recipe
from tutelage.report.section import Block
from tutelage.students.specs import Copied

COLUMNS: tuple[Column, ...] = get_args(Column)
"""What a stage may learn from."""


class StageRow(Block):
    """What a stage of a method learns: for each kind of knowledge the losses that compare it, in words; empty without one."""

    stage: str
    data: str
    """The texts: a part of the data, or ``corpus``."""
    embeddings: str
    attention: str
    hidden: str
    predictions: str
    labels: str
    mechanisms: str
    """Their kinds."""

    def learns(self) -> dict[str, str]:
        """The losses by the kind of knowledge, where there are some; the mechanisms too."""
        return {column: words for column in (*COLUMNS, "mechanisms") if (words := getattr(self, column))}


class MethodRow(Block):
    """What a method takes from the teacher, and how; computed from its recipe."""

    method: str
    title: str
    """Name for people."""
    paper: str
    init: str
    """Where the student starts."""
    stages: list[StageRow]
    """Those of teacher assistants come first."""


def method_row(recipe: Recipe) -> MethodRow:
    """One row of the methods table."""
    student = recipe.student
    init = {"fresh": "random"}.get(student.init, student.init)
    if isinstance(student, Copied) and isinstance(student.layers, int):
        init += f", {student.choose}"
    stages = []
    before = [stage for assistant in recipe.assistants for stage in assistant.stages or ()]
    for stage in [*before, *recipe.stages]:
        terms = [term for term in stage.objective if term.weight > 0]
        learns = {c: ", ".join(term.words() for term in terms if term.column == c) for c in COLUMNS}
        mechanisms = ", ".join(mechanism.kind for mechanism in stage.mechanisms)
        where = stage.data if isinstance(stage.data, str) else "corpus"
        stages.append(StageRow(stage=stage.name, data=where, mechanisms=mechanisms, **learns))
    return MethodRow(method=recipe.method, title=recipe.title, paper=recipe.source, init=init, stages=stages)
