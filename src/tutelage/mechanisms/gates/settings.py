"""Gates that close while a student learns, as settings (CoFi, Xia et al. 2022, arXiv:2204.00408)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tutelage.errors import TutelageError, option
from tutelage.fields import Rate
from tutelage.mechanisms.cutting import Cutting
from tutelage.students.specs import Gated

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.section import Section
    from tutelage.teachers.teacher import Teacher


class Gates(Cutting):
    """A random gate for each attention block, feed-forward block, head and neuron of a student with ``init=gated``, and for each
    hidden coordinate, the same in all layers.

    The gates learn with the student, by the loss and by a Lagrangian that draws their expected cost to the student's ``share``. At
    the end of the stage they are fixed, what is closed is removed, and the student is a smaller model.
    """

    does = "cuts its student by gates"
    takes = "share=0.5"

    kind: Literal["gates"] = "gates"
    rate: Rate = 1e-2
    """Learning rate of the gates and multipliers. It is constant, and their gradients are not clipped."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the stage's steps in which the target falls from the whole model to the student's ``share``."""

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        from tutelage import anatomy
        from tutelage.students.sizes import sizes_of, unit_costs, whole_cost

        assert isinstance(scene.spec, Gated)
        for later in scene.stages[stage.index + 1 :]:
            needs, name = later.plan.student_needs, later.stage.name
            if needs.measured.attention:
                raise TutelageError(
                    f"stage {name!r} compares the attention of a student whose layers lose heads in stage {stage.stage.name!r}; "
                    "leave that term out"
                )
            if needs.pooled and scene.spec.hidden:
                raise TutelageError(
                    f"stage {name!r} compares the pooled output of a student whose hidden states become narrower than it in "
                    f"stage {stage.stage.name!r}; leave that term out, or use {option('student')} hidden=false"
                )
        shape = anatomy.shape_of(scene.student.config)
        least = sum(unit_costs(shape, scene.spec.of, shape.hidden)) / whole_cost(shape, scene.spec.of)
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
                f"more epochs, or {option('settings')} stages.{name}.gates.rate={rate:g}"
            )
        spec = scene.spec
        assert isinstance(spec, Gated)
        return [
            f"  closes gates of blocks, heads{', neurons and hidden coordinates' if spec.hidden else ' and neurons'} until "
            f"{spec.share:.1%} of the {spec.of} of heads and neurons are left, the target falls for "
            f"{round(self.warmup * steps):,} steps; the closed ones are then removed"
        ]

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.gates.gates import GateHook
        from tutelage.mechanisms.gates.words import terminal

        assert isinstance(scene.spec, Gated)
        settle = self.settled(scene, stage, terminal)
        return GateHook(self, scene.spec, scene.student, (scene.seed, stage.index), settle)

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.gates.words import section

        return [section(record) for record in scene.records(self.kind)]


def _round_up(rate: float) -> float:
    """With two digits, not less."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return math.ceil(rate / unit) * unit
