"""What a mechanism says in a report beside the sections of its page: data of its own, and the words that others need for it."""

from __future__ import annotations

from pydantic import Field, JsonValue

from tutelage.report.section import Block


class BaselineWords(Block):
    """What the baseline is called. The defaults are those of the same student without distillation."""

    heading: str = "Without distillation"
    """Heading of its column."""
    row: str = "student, not distilled"
    """Name of its row in the terminal."""
    model: str = "the same student"
    """What it is, before it is trained."""
    reaches: str = "without distillation the same student reaches"
    """What stands before its score."""
    effect: str = "distillation"
    """What it lacks."""


class TeacherShare(Block):
    """One of several teachers."""

    name: str
    folder: str
    """Folder, store or hub id."""
    weight: float
    """Its share in the training of the final student."""


class TeachersEntry(Block):
    """Several teachers of one student."""

    weights: str
    """What the shares are: ``fixed weights``."""
    shares: list[TeacherShare]


class MechanismEntry(Block):
    """What a kind of mechanism says of the run."""

    baseline: BaselineWords | None = None
    """Null if the baseline is the same student without distillation."""
    teachers: TeachersEntry | None = None
    """Null unless it brings several teachers."""
    kept: dict[str, str] = Field(default_factory=dict)
    """By stage: what later stages go on with, if the stage's student is discarded."""
    data: dict[str, JsonValue] = Field(default_factory=dict)
    """What it measured, as its module describes it."""
