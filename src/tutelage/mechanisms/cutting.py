"""What mechanisms share that close parts of a student while it learns and cut them out at the end of their stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tutelage.errors import option
from tutelage.mechanisms.mechanism import Mechanism, StageLike, check_last
from tutelage.students.specs import Student

if TYPE_CHECKING:
    from tutelage.mechanisms.scene import Scene, StageScene

ROUNDING = 1e-4
"""Largest change of a logit by cutting, as a share of the largest logit, that is rounding."""


class Cutting(Mechanism):
    """Closes parts of a student while it learns, and cuts them out at the end of the stage, for a task."""

    keeps_last = True

    does: ClassVar[str]
    """What a stage with this mechanism does, as words after its name."""
    takes: ClassVar[str]
    """The value of ``--student`` that gives it a student."""

    def check(self, stage: StageLike) -> None:
        if stage.on_corpus:
            raise ValueError(
                f"stage {stage.name!r} {self.does} for a task, and is on a corpus; use init=inherited there"
            )
        check_last(stage, self.does)

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        if not first or student.needs_mechanism != self.kind:
            raise ValueError(
                f"stage {stage.name!r} {self.does}, which must be the first stage of a student made for it; use "
                f"{option('student')} {self.takes}, or another method"
            )

    def settled(
        self, scene: Scene, stage: StageScene, terminal: Callable[[str, Mapping[str, Any]], list[str]]
    ) -> Callable[[dict[str, Any]], None]:
        """What the hook calls at the end of the stage with a record of what is left: shows it and saves it."""

        def settle(record: dict[str, Any]) -> None:
            for line in terminal(stage.stage.name, record):
                scene.display.say(line)
            scene.record(self.kind, stage.stage.name, record)

        return settle


def doubts(record: Mapping[str, Any]) -> list[str]:
    """Reasons to doubt that the student is the one that was trained."""
    if record["difference"] > ROUNDING * max(record["largest_logit"], 1.0):
        return [f"cutting the student changed logits by up to {record['difference']:.2g}; do not use it"]
    return []


def sentences(notes: Iterable[str]) -> list[str]:
    """Notes of the terminal, for the report."""
    return [note[0].upper() + note[1:] + "." for note in notes]
