"""Teacher assistants: students of sizes in between, each of which teaches the next."""

from __future__ import annotations

from pathlib import Path

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.recipes.config import RunConfig
from tutelage.students.load import load_config
from tutelage.students.specs import Checkpoint, Copied, Fresh, Pruned

FOLDER = "assistants"
"""Folder within that of a run, with a run of each assistant by its number."""


def links(config: RunConfig) -> list[RunConfig]:
    """A run with teacher assistants as runs without (TAKD, Mirzadeh et al., AAAI 2020): one for each, and that of the student.

    The student of each is the teacher of the next. The last is in the run's own folder.

    Raises:
        TutelageError: if there is no teacher model, or a student would copy a layer that its teacher does not have.
    """
    recipe, out = config.recipe, Path(str(config.out))
    if config.teacher is None:
        raise TutelageError("teacher assistants are between a teacher model and a student; give --teacher FOLDER")
    found: list[RunConfig] = []
    for number, student in enumerate(recipe.assistants, start=1):
        update = {"recipe": recipe.model_copy(update={"student": student, "assistants": []}), "baseline": False}
        update |= {"served": False, "out": str(out / FOLDER / str(number))}
        found.append(config.model_copy(update=update | _taught(found)))
    update = {"recipe": recipe.model_copy(update={"assistants": []})}
    found.append(config.model_copy(update=update | _taught(found)))
    _check_depths(found)
    return found


def _taught(before: list[RunConfig]) -> dict[str, str | None]:
    """The teacher of the next run. A store that is named is the first teacher's."""
    if not before:
        return {}
    store = before[-1].teacher_store
    return {"teacher": str(Path(str(before[-1].out)) / "student"), "teacher_store": store if store == "auto" else None}


def _check_depths(runs: list[RunConfig]) -> None:
    depth = anatomy.shape_of(load_config(str(runs[0].teacher))).layers
    for config in runs:
        student, last = config.recipe.student, 0
        if isinstance(student, Checkpoint):
            depth = anatomy.shape_of(load_config(student.name)).layers
        elif isinstance(student, Copied | Fresh | Pruned):
            named = (student.layers or depth,) if not isinstance(student.layers, list) else student.layers
            if isinstance(student, Pruned) or (isinstance(student, Copied) and student.source is None):
                last = max(named)
            if last > depth:
                raise TutelageError(
                    f"layer {last} cannot be taken from a teacher of {depth}; name the assistants from large to small"
                )
            depth = len(student.layers) if isinstance(student.layers, list) else named[0]
