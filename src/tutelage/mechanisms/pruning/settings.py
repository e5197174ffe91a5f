"""The pruning schedule of a student with compactors, as settings (Wu et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tutelage.errors import option
from tutelage.fields import Count, Positive, Weight
from tutelage.mechanisms.mechanism import Mechanism, StageLike, check_last
from tutelage.students.specs import Student

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.pruning.report import InheritedEntry
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.mechanisms import MechanismEntry
    from tutelage.report.section import Section
    from tutelage.teachers.teacher import Teacher


class PruningSchedule(Mechanism):
    """How a student with ``init=inherited`` is pruned while it learns.

    Rows of the compactors are masked step by step. A masked row gets no gradient of the loss, only a penalty that shrinks it
    to zero; the other rows get only the loss (ResRep). At the end of the stage the compactors are multiplied into the
    weights, and the student is an ordinary narrower model.
    """

    keeps_last = True

    kind: Literal["pruning"] = "pruning"
    penalty: Literal["prox", "adam_l2", "lasso"] = "prox"
    """How a masked row is shrunk. ``prox`` subtracts a constant length after each step: a row of norm 1, as all rows are at
    the start, is exactly 0 after ``intervals_to_zero`` intervals, whatever the optimiser. ``adam_l2`` adds the penalty to Adam's
    first moment, as the authors' code does (``strength`` 20). ``lasso`` is ResRep's (``strength`` 1e-4), on kept rows too."""
    strength: Positive | None = None
    """Strength of ``adam_l2`` and ``lasso``; default: 20 and 1e-4."""
    selection: Literal["taylor", "activation", "norm", "random"] = "taylor"
    """Which coordinates are masked first: those that matter least to the loss, by the sum of ``(row . gradient)^2`` over the
    steps; those with the smallest values, by the mean square of what the next matrices read; those with the smallest rows, as
    in the authors' code, which are all alike at the start; or random ones."""
    scope: Literal["all", "master"] = "all"
    """Rows that count for ``norm``: those of all compactors of a group, or of one, as in the authors' code."""
    schedule: Literal["even", "reference"] = "even"
    """``even`` masks all groups in ``increments`` equal parts. ``reference`` counts as the authors' code does: it cuts the
    residual stream as if it had heads, and takes half or twice the time for it and for heads."""
    increments: Count = 16
    """Parts in which coordinates are masked."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the stage's steps after which everything is masked; 0.02 in the paper's long run."""
    interval: Count | None = None
    """Steps between increments; replaces ``share``."""
    intervals_to_zero: Positive = 2.0
    """Intervals in which a masked row of norm 1 shrinks to zero (``prox``)."""
    weights_lr: Weight = 0.02
    """Learning rate of the teacher's own weights, in units of the stage's rate, which is that of the compactors."""

    def check(self, stage: StageLike) -> None:
        name = f"stage {stage.name!r}"
        check_last(stage, "prunes")
        others = [term.kind for term in stage.objective if not term.on_logits]
        if others or stage.train != "all":
            what = ", ".join(others) or "train"
            raise ValueError(f"{name} prunes, which allows only terms on predictions and labels; leave out {what}")

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        if not first or student.needs_mechanism != self.kind:
            raise ValueError(
                f"stage {stage.name!r} prunes, which needs a student with init=inherited in its first stage; use "
                f"{option('student')} init=inherited,hidden=..., or another method"
            )

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        from tutelage.mechanisms.pruning.pruner import Pruner

        interval, last = Pruner(self, scene.student).times(steps)
        return [
            f"  masks coordinates every {interval:,} steps; until about step {last:,} a step costs 1.3 to 1.5 times the teacher's "
            "training step (not in the time below)"
        ]

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.pruning.pruner import Pruner

        def settle(record: dict[str, Any], doubt: str | None) -> None:
            if doubt is not None:
                scene.display.say(doubt)
            scene.record(self.kind, stage.stage.name, record)

        pruner = Pruner(self, scene.student, settle)
        pruner.start()
        return pruner

    def report(self, scene: Scene) -> MechanismEntry:
        from tutelage.mechanisms.pruning.report import BASELINE
        from tutelage.report.mechanisms import MechanismEntry

        found = self._found(scene)
        return MechanismEntry(baseline=BASELINE, data={} if found is None else found.model_dump(mode="json"))

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.pruning.report import section

        found = self._found(scene)
        return [] if found is None else [section(found)]

    def _found(self, scene: Scene) -> InheritedEntry | None:
        """What the last stage says; None on a machine that does not share the disk of the process that writes."""
        from tutelage.mechanisms.pruning.report import InheritedEntry

        records = scene.records(self.kind)
        if not records:
            return None
        return InheritedEntry.model_validate({name: value for name, value in records[-1].items() if name != "stage"})
