"""A student that is reduced in increments while it learns, as settings (ROSITA, Liu et al. 2021, arXiv:2103.11367)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tutelage.errors import TutelageError
from tutelage.fields import Count
from tutelage.mechanisms.cutting import Cutting
from tutelage.mechanisms.mechanism import StageLike
from tutelage.students.specs import Reduced

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.reduction.sizes import Way
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.section import Section
    from tutelage.teachers.teacher import Teacher


class Reduction(Cutting):
    """Brings a student with ``init=reduced`` to its sizes in equal increments over the stage.

    The top layers go. In each layer, heads and neurons go that matter least to the losses: those with the smallest ``|w g|`` since
    the last increment, summed over a head's columns of the attention output matrix, and over a neuron's row of the up and column of
    the down matrix. The embedding table keeps its largest singular directions. What is removed is set to zero until the end of
    the stage; it is then cut out.
    """

    does = "reduces its student"
    takes = "init=reduced,layers=8"

    kind: Literal["reduction"] = "reduction"
    reduces: Literal["depth", "width", "both"] = "both"
    """The layers; heads, neurons and the rank of the embedding table; or all of these. The rest stays the teacher's."""
    increments: Count | None = None
    """Number of increments; by default one for each layer or head that goes, 10 where none goes."""

    def check(self, stage: StageLike) -> None:
        super().check(stage)
        if stage.train not in ("all", "without_embeddings"):
            raise ValueError(f"stage {stage.name!r} {self.does} by the gradients of all layers; set train=all")

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        way = self._way(scene)
        for later in scene.stages[stage.index :]:
            needs, name = later.plan.student_needs.measured, later.stage.name
            if way.removes("layers") and (needs.hidden or needs.attention):
                raise TutelageError(
                    f"stage {name!r} compares layers of a student that loses some of them in stage {stage.stage.name!r}; use terms "
                    "on predictions, or remove its layers in an assistant"
                )
            if way.removes("heads") and needs.attention:
                raise TutelageError(
                    f"stage {name!r} compares the attention of a student that loses heads in stage {stage.stage.name!r}; leave "
                    "that term out, or keep all heads"
                )

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        way = self._way(scene)
        if not way.count:
            return ["  removes nothing: the student has its sizes already"]
        return [
            f"  removes {way}, in {way.count} increments, one every {max(1, steps // way.count):,} steps; until the end a step "
            "costs that of the whole student"
        ]

    def _way(self, scene: Scene) -> Way:
        from tutelage.mechanisms.reduction.sizes import Way

        assert isinstance(scene.spec, Reduced)
        return Way.of(self, scene.spec, scene.student)

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.reduction.reducer import Reducer
        from tutelage.mechanisms.reduction.words import terminal

        return Reducer(self._way(scene), scene.student, self.settled(scene, stage, terminal))

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.reduction.words import section

        return [section(record) for record in scene.records(self.kind)]
