"""``shrink.json`` as types, and its page: which students meet limits of time and size, and what was taken."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tutelage.report.numbers import bytes_text, count_text, milliseconds, percent, score_text
from tutelage.report.page import draw
from tutelage.report.quality import Difference
from tutelage.report.section import Block, Column, Line, LineChart, Row, Section, Table
from tutelage.report.words import with_interval, words

REPORT = "shrink.json"
"""Name of the file."""


class Limits(Block):
    """What the served model may cost, and what it has to keep. None: no limit."""

    max_latency_ms: float | None = None
    """Milliseconds of one text of mean length on one thread of this machine."""
    max_size_mb: float | None = None
    """Megabytes (10^6 bytes) of the int8 file."""
    max_parameters: float | None = None
    min_retention: float
    """Score divided by that of the teacher in float32."""

    def excess(self, ms: float, size: int, parameters: int) -> float:
        """The largest cost of a model divided by its limit; 1 at the limit."""
        costs = ((self.max_latency_ms, ms), (self.max_size_mb, size / 1e6), (self.max_parameters, parameters))
        return max(value / limit for limit, value in costs if limit is not None)

    def exceeded(self, ms: float, size: int, parameters: int, room: float = 1.0) -> list[str]:
        """Which limits a model exceeds, and by how much; ``room`` is the share of the limit of time that it may take."""
        found = []
        within = "" if room == 1 else f" (at most {room:.0%} of it)"
        for limit, value, share, text in (
            (self.max_latency_ms, ms, room, "{:.2f} ms of {:g} ms" + within),
            (self.max_size_mb, size / 1e6, 1.0, "{:.1f} MB of {:g} MB"),
            (self.max_parameters, parameters, 1.0, "{:,.0f} parameters of {:,.0f}"),
        ):
            if limit is not None and value > limit * share:
                found.append(text.format(value, limit))
        return found


class Form(Block):
    """The teacher in one form."""

    form: Literal["pytorch", "onnx", "int8"]
    ms: float
    bytes: int
    score: float
    """On the validation split."""


class ShapeEntry(Block):
    """A student that was considered, in int8. Its costs are measured before it is trained: they do not depend on its weights."""

    name: str
    """As ``--student`` takes it."""
    parameters: int
    ms: float
    bytes: int
    exceeds: list[str]
    """The limits that it exceeds."""
    loss: float | None = None
    """Held-out loss after some steps of training. Null where it was not tried."""


class Trained(Block):
    """A student that was trained, in int8, on the evaluation set."""

    name: str
    folder: str
    """Its run."""
    ms: float
    bytes: int
    score: float
    teacher: float
    """The teacher's score in float32."""
    int8_teacher: float
    """The teacher's score in int8."""
    difference: Difference
    """Student minus teacher."""
    exceeds: list[str]

    @property
    def retention(self) -> float:
        """Score of the student divided by the teacher's."""
        return self.score / self.teacher

    @property
    def least(self) -> float | None:
        """The lower end of the interval of the retention, the teacher's score taken as known. Null for a single example."""
        return None if self.difference.low is None else 1 + self.difference.low / self.teacher


class Shrink(Block):
    """What a search for a student within limits found."""

    version: Literal[1] = 1
    tutelage: str
    teacher: str
    task: str
    metric: str
    limits: Limits
    tokens: int
    """Tokens of the text that is timed."""
    forms: list[Form]
    shapes: list[ShapeEntry]
    """Smallest latency first."""
    trained: list[Trained] = Field(default_factory=list)
    answer: str | None = None
    """What was exported: ``teacher``, or the name of a student. Null if nothing meets the limits."""
    folder: str | None = None
    """The exported folder."""
    notes: list[str] = Field(default_factory=list)
    verdict: str = ""
    """The result in one sentence."""

    @property
    def passed(self) -> bool:
        """Whether something meets all limits."""
        return self.answer is not None

    def form(self, name: str) -> Form:
        """The teacher in one form."""
        return next(one for one in self.forms if one.form == name)


def page(found: Shrink) -> str:
    """The result as a self-contained HTML page."""
    return draw(
        title=f"Within limits: {found.task}",
        verdict=found.verdict,
        poor=not found.passed,
        asides=found.notes,
        warnings=0,
        sections=[_forms(found), _shapes(found), _trained(found), _front(found)],
    )


def _forms(found: Shrink) -> Section:
    names = {"pytorch": "PyTorch", "onnx": "ONNX, float32", "int8": "ONNX, int8"}
    rows = [
        Row(name=names[one.form], cells=[score_text(one.score), milliseconds(one.ms), bytes_text(one.bytes)])
        for one in found.forms
    ]
    return Section(
        title="The teacher",
        table=Table(
            caption=f"Scores on the validation split. Latency is the median for one text of {found.tokens} tokens on one thread.",
            head="Form",
            columns=[Column(title=words(found.metric)), Column(title="Latency"), Column(title="Size")],
            rows=rows,
        ),
    )


def _shapes(found: Shrink) -> Section:
    rows = [
        Row(
            name=one.name + (" (taken)" if one.name == found.answer else ""),
            cells=[
                milliseconds(one.ms),
                bytes_text(one.bytes),
                count_text(one.parameters),
                "" if one.loss is None else f"{one.loss:.4f}",
                "; ".join(one.exceeds),
            ],
            lead=one.name == found.answer,
        )
        for one in found.shapes
    ]
    columns = [Column(title="Latency"), Column(title="Size"), Column(title="Parameters"), Column(title="Trial loss")]
    return Section(
        title="Students in int8",
        table=Table(
            caption="Costs are measured before training: they do not depend on the weights. The trial loss is that on "
            "held-out texts after some steps.",
            head="Student",
            columns=[*columns, Column(title="Exceeds", align="text")],
            rows=rows,
        ),
    )


def _trained(found: Shrink) -> Section | None:
    if not found.trained:
        return None
    first = found.trained[0]
    rows = [
        Row(
            name=f"teacher, {name}",
            cells=[
                score_text(score),
                percent(score / first.teacher),
                "",
                milliseconds(form.ms),
                bytes_text(form.bytes),
                "",
            ],
        )
        for name, score, form in (
            ("float32", first.teacher, found.form("onnx")),
            ("int8", first.int8_teacher, found.form("int8")),
        )
    ]
    rows += [
        Row(
            name=f"{one.name}, int8",
            cells=[
                score_text(one.score),
                percent(one.retention),
                with_interval(one.difference),
                milliseconds(one.ms),
                bytes_text(one.bytes),
                "; ".join(one.exceeds),
            ],
            lead=one.name == found.answer,
        )
        for one in found.trained
    ]
    columns = [Column(title=words(found.metric)), Column(title="Kept"), Column(title="Student minus teacher")]
    columns += [Column(title="Latency"), Column(title="Size"), Column(title="Exceeds", align="text")]
    return Section(
        title="Trained students and the teacher, as served",
        table=Table(
            caption="On the evaluation set; differences with 95 % intervals, paired bootstrap over the examples.",
            head="Model",
            columns=columns,
            rows=rows,
        ),
    )


def _front(found: Shrink) -> Section | None:
    """Score against latency."""
    if not found.trained:
        return None
    first = found.trained[0]
    teacher = sorted([(found.form("onnx").ms, 1.0), (found.form("int8").ms, first.int8_teacher / first.teacher)])
    students = sorted((one.ms, one.retention) for one in found.trained)
    return Section(
        title="Front",
        pictures=[
            LineChart(
                title="Share of the teacher's score against latency",
                summary="; ".join(
                    [f"teacher {share:.3f} at {ms:.2f} ms" for ms, share in teacher]
                    + [f"student {share:.3f} at {ms:.2f} ms" for ms, share in students]
                ),
                x="ms",
                y="kept",
                lines=[Line(name="teacher", points=teacher, style=0), Line(name="students", points=students, style=1)],
                level=found.limits.min_retention,
                level_name="wanted",
                zero=False,
                dots=True,
            )
        ],
    )
