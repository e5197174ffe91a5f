"""Teacher assistants: students of sizes in between, each of which teaches the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tutelage import anatomy
from tutelage.errors import TutelageError, option
from tutelage.recipes.config import RunConfig
from tutelage.report.model import REPORT, StudentEntry, TaskReport, load_report
from tutelage.students.load import load_config
from tutelage.students.pruned import check_limits
from tutelage.students.specs import Between, Checkpoint, Copied, Fresh, Pruned, Reduced, Student, origin_of

FOLDER = "assistants"
"""Folder within that of a run, with a run of each assistant by its number."""


def links(config: RunConfig) -> list[RunConfig]:
    """A run with teacher assistants as runs without (TAKD, Mirzadeh et al., AAAI 2020): one for each, and that of the student.

    The student of each is the teacher of the next. The last is in the run's own folder.

    Raises:
        TutelageError: if there is no teacher model, no assistant fits between teacher and student, a student would
            copy a layer that its teacher does not have, or a term does not fit a student and its teacher.
    """
    recipe, out = config.recipe, Path(str(config.out))
    if config.teacher is None:
        raise TutelageError(
            f"teacher assistants are between a teacher model and a student; give {option('teacher')} FOLDER"
        )
    found: list[RunConfig] = []
    teacher = anatomy.shape_of(load_config(str(config.teacher)))
    for number, assistant in enumerate(recipe.assistants, start=1):
        own = recipe.of(assistant)
        if isinstance(own.student, Between):
            student = own.student.of(teacher.layers, _shape(recipe.student, teacher).layers)
            own = own.model_copy(update={"student": student})
        update = {"recipe": own, "baseline": False, "served": False, "out": str(out / FOLDER / str(number))}
        found.append(config.model_copy(update=update | _taught(found)))
        teacher = _shape(own.student, teacher)
    update = {"recipe": recipe.model_copy(update={"assistants": []})}
    found.append(config.model_copy(update=update | _taught(found)))
    _check_sizes(found)
    return found


def _taught(before: list[RunConfig]) -> dict[str, str | None]:
    """The teacher of the next run, and the first. A store that is named is the first teacher's."""
    if not before:
        return {}
    store = before[-1].teacher_store
    teacher = str(Path(str(before[-1].out)) / "student")
    return {"teacher": teacher, "first_teacher": before[0].teacher, "teacher_store": store if store == "auto" else None}


def trained(config: RunConfig) -> list[StudentEntry]:
    """What the teacher assistants of a run score and cost, by the reports of their runs."""
    folder = Path(str(config.out)) / FOLDER
    count = len(list(folder.glob(f"*/{REPORT}"))) if config.first_teacher is not None else 0
    reports = [load_report(folder / str(number)) for number in range(1, count + 1)]
    return [report.student for report in reports if isinstance(report, TaskReport)]


def _check_sizes(runs: list[RunConfig]) -> None:
    """Each student against its teacher, before the first of them is trained."""
    first = load_config(str(runs[0].teacher))
    teacher, known = anatomy.shape_of(first), True
    for number, config in enumerate(runs, start=1):
        if isinstance(config.recipe.student, Reduced):
            check_limits(config.recipe.student.twin(), first)  # later teachers have what a student of them keeps
        student = _shape(config.recipe.student, teacher)
        known = known and isinstance(config.recipe.student, Checkpoint | Copied | Fresh | Pruned) and teacher.heads > 0
        for term in (term for stage in config.recipe.stages for term in stage.objective):
            if known and term.weight > 0 and not term.optional and not term.on_logits:
                try:
                    term.needs(student, teacher)
                except TutelageError as error:
                    who = "" if number == len(runs) else f"teacher assistant {number} (recipe.assistants): "
                    raise TutelageError(f"{who}{error}") from None
        teacher = student


def _shape(student: Student, teacher: anatomy.Shape) -> anatomy.Shape:
    """The sizes of a student that is not made yet; for kinds of students that name no layers, the teacher's."""
    if isinstance(student, Checkpoint):
        return anatomy.shape_of(load_config(student.name))
    if isinstance(student, Reduced):
        return replace(teacher, layers=student.layers or teacher.layers)
    if not isinstance(student, Copied | Fresh | Pruned):
        return teacher
    count = None if student.layers == "all" else student.layers
    named, last = count if isinstance(count, list) else (count or teacher.layers,), 0
    if isinstance(student, Pruned) or (isinstance(student, Copied) and student.source is None):
        last = max(named)
    if last > teacher.layers:
        raise TutelageError(
            f"layer {last} cannot be taken from a teacher of {teacher.layers}; name teacher assistants and student from large to "
            f"small, the first with at most {max(teacher.layers - 1, 1)} layers"
        )
    origin = origin_of(student)
    whole = teacher if origin is None else anatomy.shape_of(load_config(origin))
    return replace(
        whole,
        layers=whole.layers if student.layers == "all" else len(count) if isinstance(count, list) else named[0],
        hidden=getattr(student, "hidden", None) or whole.hidden,
        heads=getattr(student, "heads", None) or whole.heads,
    )
