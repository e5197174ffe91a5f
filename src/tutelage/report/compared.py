"""``compare.json`` as types: what ``tutelage compare`` measured, and what it shows. The tables and the page are made of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from tutelage.report.quality import Difference
from tutelage.report.section import Block
from tutelage.report.served import Served, ServedEntry

REPORT = "compare.json"
"""Name of the file in the folder of a comparison."""
LEVEL = 0.05
"""Adjusted p-values below it show a difference."""


def arm_name(method: str, distilled: bool) -> str:
    """A method, or its student without distillation, for people."""
    return method if distilled else f"{method}, not distilled"


class ServedArm(Block):
    """A student beside its teacher, both as they would be served."""

    method: str
    student: str
    """As it was given; empty: the method's own."""
    seed: int
    measured: Served


class ComparedTask(Block):
    """A task, and what all its scores have in common."""

    name: str
    kind: str
    """Kind of task, e.g. ``classification``."""
    metric: str
    """The task's first metric; all scores are in it."""
    part: str
    """The part of the evaluation set that all scores are on."""
    source: str
    """Where that part comes from, in words."""
    examples: int
    """Of that part."""
    steps: int | None
    """Optimiser steps that every cell was given. Null: not the same for all."""
    flops: float | None = None
    """Operations of training that every cell was given. Null: no such budget."""
    teacher: str
    """Folder or hub id."""
    teacher_score: float | None
    """Null while no cell is finished."""
    teacher_parameters: int | None
    resamples: int
    """Of the examples, in every bootstrap."""
    served: list[ServedArm] = Field(default_factory=list)
    """In ONNX and int8: of each student one, with the teacher."""


class ComparedArm(Block):
    """A method with a student, or the same student without distillation, over all seeds."""

    task: str
    method: str
    student: str
    """As it was given; empty: the method's own."""
    distilled: bool
    """False for the student that was trained without the teacher: in the cells of a method, or by a method that has none."""
    scores: dict[int, float]
    """By seed."""
    mean: float
    half: float | None
    """Half of the 95 % interval of the mean over seeds, by Student's t. Null for one seed."""
    to_teacher: Difference | None
    """The mean over seeds against the teacher. Null if the teacher's predictions are not known."""
    parameters: int
    flops: int
    """Of one forward pass of one example of mean length."""
    latency_ms: float | None
    """Of one example: median of a run, mean over seeds."""
    steps: int
    """Optimiser steps of the first seed, in all stages."""

    @property
    def name(self) -> str:
        """The arm's name within its task and student."""
        return arm_name(self.method, self.distilled)


class Contrast(Block):
    """Two arms of a task with the same student, by the seeds that both have. Differences are the first minus the second."""

    task: str
    student: str
    arm: str
    """A method."""
    against: str
    """Another method, or empty: the student that the cells of ``arm`` train without distillation too."""
    of_distillation: bool
    """Whether the first is distilled and the second is the same student without distillation."""
    seeds: int
    examples: Difference
    """The mean difference; its interval over examples."""
    half: float | None
    """Half of the 95 % interval over seeds, by Student's t; 0 where all seeds have the same difference. Null for one seed."""
    p_examples: float
    """Two-sided, of the bootstrap over examples: would these models differ on other examples?"""
    p_seeds: float | None
    """Two-sided, of the paired t-test over seeds: would other seeds differ on these examples? Of n equal differences the exact test
    by changes of sign, ``2 / 2^n``. Null for one seed."""
    holm_examples: float
    """``p_examples`` adjusted for all comparisons of the task."""
    holm_seeds: float | None

    @property
    def other(self) -> str:
        """What the arm is compared with, for people."""
        return self.against or "not distilled"

    @property
    def verdict(self) -> str:
        """What the two adjusted p-values show together."""
        examples = self.holm_examples < LEVEL
        seeds = self.holm_seeds is not None and self.holm_seeds < LEVEL
        way = "better" if self.examples.value > 0 else "worse"
        if examples and seeds:
            return way
        if examples and self.seeds == 1:
            return f"{way} (one seed)"
        if examples and self.half == 0:
            return f"{way} (seeds do not differ)"
        return f"{way} for these seeds" if examples else f"{way} on these examples" if seeds else "no difference shown"


class QueueEntry(Block):
    """One cell: a method, a student, a task and a seed."""

    task: str
    method: str
    student: str
    seed: int
    key: str
    """Digest of the cell's resolved settings, its teacher and its texts."""
    folder: str
    """Its run, below the comparison's folder."""
    error: str | None
    """Why it failed. Null if it is finished."""
    score: float | None
    baseline: float | None
    """Score of the same student without distillation. Null if it was not trained."""
    steps: int | None
    seconds: float | None


class ServedRow(NamedTuple):
    """A model of a task in one form."""

    task: str
    arm: ServedArm
    entry: ServedEntry

    @property
    def name(self) -> str:
        """``teacher, int8``, ``kd, ONNX``."""
        who = "teacher" if self.entry.model == "teacher" else self.arm.method
        return f"{who}, {'ONNX' if self.entry.form == 'onnx' else self.entry.form}"


class CompareReport(Block):
    """Methods x students x tasks x seeds."""

    schema_version: Literal[1] = 1
    tutelage: str
    """Version of the package."""
    out: str
    """Folder of the comparison."""
    seeds: list[int]
    against: str
    """The method that the others are compared with."""
    tasks: list[ComparedTask]
    arms: list[ComparedArm]
    contrasts: list[Contrast]
    cells: list[QueueEntry]
    environment: dict[str, str] = Field(default_factory=dict)
    """Of the first finished cell: versions, device, precision."""
    notes: list[str]
    """What to bear in mind when reading the scores."""

    @property
    def served(self) -> list[ServedRow]:
        """Teachers and students in all forms that were measured; a teacher once for each task."""
        rows = []
        for task in self.tasks:
            for place, arm in enumerate(task.served):
                for entry in arm.measured.entries:
                    if entry.model == "student" or (entry.model == "teacher" and not place):
                        rows.append(ServedRow(task.name, arm, entry))
        return rows

    @property
    def failed(self) -> list[QueueEntry]:
        """The cells without a result."""
        return [cell for cell in self.cells if cell.error is not None]

    @property
    def passed(self) -> bool:
        """Whether no cell failed."""
        return not self.failed
