"""The student of the stage before as the teacher of a stage, as settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

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
                f"stage {stage.name!r} is taught by the student of the stage before, and begins with a new one; train one "
                "in a stage before, and set fresh=false"
            )

    def teacher(self, scene: Scene, stage: StageScene) -> Teacher:
        import copy

        from tutelage.teachers.teacher import LiveTeacher

        return LiveTeacher(copy.deepcopy(scene.student), stage.plan.teacher_needs, None, scene.accelerator)

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.own_teacher.keeper import Keeper

        return Keeper(cast(Any, teacher).model, scene.student)
