"""The student of the stage before as the teacher of a stage, as settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from tutelage.errors import TutelageError
from tutelage.mechanisms.mechanism import Mechanism, StageLike
from tutelage.students.specs import Student

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.teachers.teacher import Teacher


class OwnTeacher(Mechanism):
    """The student, as it is when the stage begins, teaches the stage in place of the run's teacher."""

    brings_teacher = True

    kind: Literal["own_teacher"] = "own_teacher"

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        if first or stage.fresh:
            raise ValueError(
                f"stage {stage.name!r} learns from the student of the stage before, and begins with a new one; train one "
                "in a stage before, and set fresh=false"
            )

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        ours, theirs = stage.plan.student, stage.plan.teacher
        layered = [term.kind for term in stage.plan.terms if not term.on_logits]
        sizes = ("layers", "hidden", "heads")
        if layered and theirs is not None and any(getattr(ours, name) != getattr(theirs, name) for name in sizes):
            raise TutelageError(
                f"stage {stage.stage.name!r} compares {', '.join(layered)} with the student's own, and the run's teacher has "
                f"another shape ({theirs}) than the student ({ours}); use a student of its shape, or terms on predictions alone"
            )

    def teacher(self, scene: Scene, stage: StageScene) -> Teacher:
        import copy

        from tutelage.mechanisms.own_teacher.keeper import Former

        return Former(copy.deepcopy(scene.student), stage.plan.teacher_needs, None, scene.accelerator)

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.own_teacher.keeper import Keeper

        return Keeper(cast(Any, teacher).model, scene.student)
