"""Gates that close while a student learns, as settings (CoFi, Xia et al. 2022, arXiv:2204.00408)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tutelage.errors import TutelageError
from tutelage.fields import Rate
from tutelage.mechanisms.mechanism import Mechanism, StageLike
from tutelage.students.specs import Gated, Student

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.section import Section
    from tutelage.teachers.teacher import Teacher


class Gates(Mechanism):
    """A random gate for each attention block, feed-forward block, head and neuron of a student with ``init=gated``.

    The gates learn with the student, by the loss and by a Lagrangian that draws their expected cost to the student's ``share``. At
    the end of the stage they are fixed, what is closed is removed, and the student is a smaller model.
    """

    keeps_last = True

    kind: Literal["gates"] = "gates"
    rate: Rate = 1e-2
    """Learning rate of the gates and multipliers. It is constant, and their gradients are not clipped."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the stage's steps in which the target falls from the whole model to the student's ``share``."""

    def check(self, stage: StageLike) -> None:
        name = f"stage {stage.name!r}"
        if stage.on_corpus:
            raise ValueError(
                f"{name} is on a corpus, and gates cut a student for a task; use init=inherited (wid) there"
            )
        if stage.select == "best" or stage.patience is not None:
            raise ValueError(
                f"{name} has gates, so its student is complete only at the end; set select=last, without patience"
            )

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        if not first or student.needs_mechanism != self.kind:
            raise ValueError(
                f"stage {stage.name!r} has gates, which need a student with init=gated in its first stage; use --student "
                "share=0.5, or another method"
            )

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        from tutelage import anatomy
        from tutelage.students.sizes import sizes_of, unit_shares

        assert isinstance(scene.spec, Gated)
        shape = anatomy.shape_of(scene.student.config)
        least = sum(unit_shares(shape, scene.spec.of))
        if scene.spec.share < least:
            raise TutelageError(
                f"share={scene.spec.share:g} is less than one head and one neuron of the teacher ({shape}); use at least "
                f"{_round_up(least):g}"
            )
        try:
            sizes_of(scene.spec.twin(), scene.student)
        except TutelageError as error:
            raise TutelageError(
                f"share={scene.spec.share:g} is too small: no student of as many operations can be cut out of the teacher as a "
                f"baseline ({error})"
            ) from None

    def steps(self) -> int:
        """Steps that gates take at least to close with certainty."""
        from tutelage.mechanisms.gates.gates import WAY

        return math.ceil(WAY / self.rate)

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        needed = self.steps()
        if steps < needed:
            name, rate = stage.stage.name, _round_up(self.rate * needed / steps)
            raise TutelageError(
                f"stage {name!r} has {steps:,} steps, and gates with rate={self.rate:g} take at least {needed:,} to close; give it "
                f"more epochs, or --set stages.{name}.gates.rate={rate:g}"
            )
        spec = scene.spec
        assert isinstance(spec, Gated)
        return [
            f"  closes gates until {spec.share:.1%} of the {spec.of} of heads and neurons are left, the target falls for "
            f"{round(self.warmup * steps):,} steps; the closed ones are then removed"
        ]

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.gates.gates import GateHook
        from tutelage.mechanisms.gates.words import terminal

        def settle(record: dict[str, Any]) -> None:
            for line in terminal(stage.stage.name, record):
                scene.display.say(line)
            scene.record(self.kind, stage.stage.name, record)

        assert isinstance(scene.spec, Gated)
        return GateHook(self, scene.spec, scene.student, (scene.seed, stage.index), settle)

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.gates.words import section

        return [section(record) for record in scene.records(self.kind)]


def _round_up(rate: float) -> float:
    """With two digits, not less."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return math.ceil(rate / unit) * unit
