"""Several sub-networks of the student learn in each step, as settings (DynaBERT, Hou et al. 2020, arXiv 2004.04037)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from tutelage.errors import option
from tutelage.mechanisms.mechanism import Mechanism, StageLike
from tutelage.students.specs import Ordered, Student

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.section import Section
    from tutelage.teachers.teacher import Teacher

Share = Annotated[float, Field(gt=0, le=1)]


class Subnetworks(Mechanism):
    """Sub-networks that share the student's weights learn in each step, from one run of the teacher: the first heads and neurons of
    each layer (``widths``), and a part of the layers (``depths``). Their losses add up.

    The student is the whole network. A checkpoint is selected by the mean of the sub-networks' scores. ``tutelage export --width
    --depth`` cuts one out.
    """

    kind: Literal["subnetworks"] = "subnetworks"
    widths: tuple[Share, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of the heads (rounded up) and neurons of each layer; 1 is among them."""
    depths: tuple[Share, ...] = (1.0,)
    """Shares of the layers; 1 is among them. A share ``m`` keeps layer ``floor(i / m)`` for i = 0, 1, ..., and what a kept layer
    reads is compared with what this layer of the teacher reads."""

    @field_validator("widths", "depths")
    @classmethod
    def _with_the_whole(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if 1 not in given or len(set(given)) < len(given):
            raise ValueError(f"name each share once, and 1, the whole network; got {list(given)}")
        return tuple(sorted(given))

    def check(self, stage: StageLike) -> None:
        name = f"stage {stage.name!r} trains sub-networks"
        others = [term.kind for term in stage.objective if not (term.on_logits or term.partial)]
        if others:
            raise ValueError(
                f"{name}, which cannot learn from {', '.join(others)}; use terms on predictions, labels, embeddings and hidden"
            )
        if stage.on_corpus or stage.train != "all":
            raise ValueError(f"{name} of a task, all of their weights; set data=train and train=all")
        beside = [one.kind for one in stage.mechanisms if one is not self and not one.brings_teacher]
        if beside:
            raise ValueError(f"{name}, beside which it can have no {', '.join(beside)}; leave that out")

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        if not isinstance(student, Ordered):
            raise ValueError(
                f"stage {stage.name!r} trains the first heads and neurons of each layer, which should matter most; use "
                f"{option('student')} init=ordered, which sorts those of the teacher, in place of init={student.init}"
            )

    def passes(self, model: PreTrainedModel) -> float:
        from tutelage.students.subnetworks import share_of, subnetworks

        return sum(share_of(model, one) for one in subnetworks(model.config, self.widths, self.depths))

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        from tutelage.students.subnetworks import subnetworks

        found = subnetworks(scene.student.config, self.widths, self.depths)
        least = found[0]
        return [
            f"  {len(found)} sub-networks a step, from {len(least.layers)} layers of {least.heads} heads and {least.neurons:,} "
            f"neurons; together {self.passes(scene.student):.1f} passes through the student's layers"
        ]

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.subnetworks.trainer import Trainer

        return Trainer(self, scene.student)

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.subnetworks.front import section

        return [section(self, scene)]
