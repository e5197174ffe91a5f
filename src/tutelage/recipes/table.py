"""What each method uses, computed from its recipe."""

from __future__ import annotations

from typing import Any, get_args

from tutelage.objectives.term import Column
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied

COLUMNS: tuple[Column, ...] = get_args(Column)
"""What a stage may learn from."""


def method_row(recipe: Recipe) -> dict[str, Any]:
    """One row of the methods table, computed from the recipe.

    Keys: ``method``, ``title``, ``paper``, ``init``, and ``stages``. A stage has its name, its ``data``, the kinds of its
    ``mechanisms`` and, for each of :data:`COLUMNS`, the losses that compare this knowledge. Stages of
    teacher assistants come first.
    """
    student = recipe.student
    init = {"fresh": "random"}.get(student.init, student.init)
    if isinstance(student, Copied) and isinstance(student.layers, int):
        init += f", {student.choose}"
    stages = []
    before = [stage for assistant in recipe.assistants for stage in assistant.stages or ()]
    for stage in [*before, *recipe.stages]:
        row = {"stage": stage.name, "data": stage.data if isinstance(stage.data, str) else "corpus"}
        row["mechanisms"] = ", ".join(mechanism.kind for mechanism in stage.mechanisms)
        terms = [term for term in stage.objective if term.weight > 0]
        stages.append(row | {c: ", ".join(term.words() for term in terms if term.column == c) for c in COLUMNS})
    return {"method": recipe.method, "title": recipe.title, "paper": recipe.source, "init": init, "stages": stages}
