"""Blocks of ``report.json`` on the models in the forms in which they would be served."""

from __future__ import annotations

from typing import Literal

from tutelage.report.quality import Difference
from tutelage.report.section import Block


class ServedEntry(Block):
    """A model in one of the forms in which it would be served."""

    model: Literal["teacher", "student", "baseline"]
    form: Literal["onnx", "int8"]
    """An ONNX graph in float32, or with int8 weights and activations that are quantised while it runs."""
    score: float
    """The task's first metric."""
    scores: dict[str, float]
    """By metric."""
    bytes: int
    """Size of the file."""
    change: Difference | None
    """What int8 changes in the first metric. Null for float32."""
    ms: float
    """Median milliseconds of one text of mean length on one thread of the CPU."""
    spread_ms: float
    """Distance of the quartiles."""


class Served(Block):
    """Teacher, student and baseline as they would be served, scored and timed side by side."""

    part: str
    """The part of the evaluation set."""
    texts: int
    """Texts of that part on which the files are scored, at most 1,000."""
    tokens: int
    """Tokens of the text that is timed."""
    pytorch_ms: dict[str, float]
    """The same time in PyTorch, by model."""
    entries: list[ServedEntry]
    against_teacher: Difference | None
    """Score of the student in int8 minus the teacher's in float32."""
    against_int8_teacher: Difference | None
    """The same minus the teacher's in int8."""
    against_baseline: Difference | None
    """The same minus the baseline's in int8."""
    notes: list[str]

    def of(self, model: str, form: str) -> ServedEntry | None:
        """One of the entries."""
        return next((one for one in self.entries if (one.model, one.form) == (model, form)), None)
