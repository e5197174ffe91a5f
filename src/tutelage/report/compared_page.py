"""``compare.html``: a comparison as one page without external resources, with tables that can be filtered and sorted.

Python makes words, numbers and places; ``compare.html.jinja`` draws them and escapes every name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tutelage.report.compared import ComparedArm, CompareReport, Contrast, ServedRow
from tutelage.report.compared_tables import OWN, best_lines, contrast_cells, served_lines, summary, with_margin
from tutelage.report.numbers import count_text, milliseconds, rounded, seconds_text
from tutelage.report.templates import render
from tutelage.report.words import with_interval


class ChartMark(NamedTuple):
    """Something drawn in a row's chart, from ``left`` to ``left + width``, both in percent of it."""

    style: str
    left: float
    width: float = 0.0


class RowChart(NamedTuple):
    """A row's chart, and what it shows in words."""

    marks: list[ChartMark]
    words: str


class GridCell(NamedTuple):
    """A cell: its text, and by what it is sorted."""

    text: str
    order: float | str
    chart: RowChart | None = None
    align: str = "number"


class GridRow(NamedTuple):
    """A row; task, student and method are what it is filtered by."""

    task: str
    student: str
    method: str
    faint: bool
    values: list[GridCell]


class Grid(NamedTuple):
    """A table; the first column holds the names of the rows."""

    id: str
    title: str
    caption: str
    heads: list[str]
    lines: list[GridRow]


def page(report: CompareReport) -> str:
    """The comparison as a self-contained HTML page."""
    grids = [grid for grid in (_arms(report), _contrasts(report), _served(report), _cells(report)) if grid.lines]
    return render(
        "compare.html.jinja",
        title=f"Comparison on {', '.join(task.name for task in report.tasks)}",
        verdict=summary(report),
        asides=[*best_lines(report), *served_lines(report), *report.notes],
        failed=len(report.failed),
        grids=grids,
        choices={
            "task": _unique(task.name for task in report.tasks),
            "student": _unique(cell.student or OWN for cell in report.cells),
            "method": _unique(cell.method for cell in report.cells),
        },
        facts=_facts(report),
    )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _scale(values: Iterable[float], room: float = 0.06) -> tuple[float, float]:
    """The smallest value, and the width of the scale; with room at both ends."""
    found = list(values)
    low, high = min(found), max(found)
    edge = room * (high - low) or 0.01
    return low - edge, high - low + 2 * edge


def _marks(scale: tuple[float, float], low: float, high: float, points: Iterable[tuple[str, float]]) -> list[ChartMark]:
    def place(value: float) -> float:
        return round(min(max(100 * (value - scale[0]) / scale[1], 0.0), 100.0), 2)

    left = place(low)
    return [ChartMark("range", left, place(high) - left), *(ChartMark(style, place(value)) for style, value in points)]


def _text(value: str) -> GridCell:
    return GridCell(value, value.lower(), align="text")


def _arms(report: CompareReport) -> Grid:
    """Scores and costs; the chart has the score of each seed on the scale of its task."""
    teachers = {task.name: task.teacher_score for task in report.tasks}
    known = {task: [] if score is None else [score] for task, score in teachers.items()}
    for arm in report.arms:
        known[arm.task] += arm.scores.values()
    # Scores decide, with room for intervals: that of two seeds may be wider than all scores are apart, and is cut.
    scales = {task: _scale(values, room=0.25) for task, values in known.items() if values}

    def line(arm: ComparedArm) -> GridRow:
        half, teacher = arm.half or 0.0, teachers[arm.task]
        points = [("seed", score) for score in arm.scores.values()] + [("mean", arm.mean)]
        points += [] if teacher is None else [("teacher", teacher)]
        each = ", ".join(f"seed {seed}: {rounded(score, 3)}" for seed, score in arm.scores.items())
        words = each + ("" if teacher is None else f"; teacher: {rounded(teacher, 3)}")
        chart = RowChart(_marks(scales[arm.task], arm.mean - half, arm.mean + half, points), words)
        values = [
            _text(arm.name),
            _text(arm.task),
            _text(arm.student or OWN),
            GridCell(with_margin(arm.mean, arm.half), arm.mean),
            GridCell("", arm.mean, chart),
            GridCell(
                with_interval(arm.to_teacher) if arm.to_teacher else "", arm.to_teacher.value if arm.to_teacher else 0.0
            ),
            GridCell(count_text(arm.parameters), arm.parameters),
            GridCell(milliseconds(arm.latency_ms), arm.latency_ms or 0.0),
            GridCell(count_text(arm.steps), arm.steps),
        ]
        return GridRow(arm.task, arm.student or OWN, arm.method, not arm.distilled, values)

    heads = ["Method", "Task", "Student", "Score", "By seed", "To teacher", "Parameters", "One text", "Steps"]
    caption = (
        "Mean over seeds with its 95 % interval. In the chart, small points are seeds, the bar is the interval, and the line is "
        "the teacher; each task has its own scale. To teacher: the difference, with its interval over examples."
    )
    return Grid("arms", "Scores", caption, heads, [line(arm) for arm in report.arms])


def _contrasts(report: CompareReport) -> Grid:
    """Paired differences; the chart has the interval over examples, and 0."""
    gaps = [one.examples for one in report.contrasts]
    scale = _scale([0.0, *(end for gap in gaps for end in gap.ends or (gap.value,))])

    def line(one: Contrast) -> GridRow:
        gap = one.examples
        low, high = gap.ends or (gap.value, gap.value)
        chart = RowChart(_marks(scale, low, high, [("mean", gap.value), ("zero", 0.0)]), with_interval(gap))
        difference, half, examples, seeds, verdict = contrast_cells(one)
        values = [
            _text(f"{one.arm} against {one.other}"),
            _text(one.task),
            _text(one.student or OWN),
            GridCell(difference, gap.value),
            GridCell("", gap.value, chart),
            GridCell(half, one.half or 0.0),
            GridCell(examples, one.holm_examples),
            GridCell(seeds, 1.0 if one.holm_seeds is None else one.holm_seeds),
            _text(verdict),
        ]
        return GridRow(one.task, one.student or OWN, one.arm, verdict == "no difference shown", values)

    heads = ["Compared", "Task", "Student", "Difference", "Over examples", "Over seeds", "p, examples", "p, seeds"]
    resamples = max((task.resamples for task in report.tasks), default=0)
    caption = (
        f"Paired differences. Their interval over examples is by {resamples:,} bootstrap resamples, that over seeds by "
        "Student's t; both are of 95 %. p-values are adjusted by Holm's method for all comparisons of a task."
    )
    return Grid("contrasts", "Comparisons", caption, [*heads, "Shown"], [line(one) for one in report.contrasts])


def _served(report: CompareReport) -> Grid:
    """Teachers and students in ONNX and int8."""

    def line(row: ServedRow) -> GridRow:
        entry, change = row.entry, row.entry.change
        teaches = entry.model == "teacher"
        student = "" if teaches else row.arm.student or OWN
        values = [
            _text(row.name),
            _text(row.task),
            _text(student),
            GridCell(rounded(entry.score, 3), entry.score),
            GridCell("" if change is None else with_interval(change), 0.0 if change is None else change.value),
            GridCell(f"{entry.bytes / 1e6:.1f}", entry.bytes),
            GridCell(milliseconds(entry.ms), entry.ms),
            GridCell(f"{row.arm.measured.texts:,}", row.arm.measured.texts),
        ]
        return GridRow(row.task, row.arm.student or OWN, row.arm.method, teaches, values)

    heads = ["Model", "Task", "Student", "Score", "Change by int8", "MB", "One text", "Examples"]
    caption = (
        "The teacher, and each student of the first method and seed, as ONNX graphs. The teacher in int8 costs no training. "
        "Times are of one text of mean length on one thread; the models of a task take turns."
    )
    return Grid("served", "As served", caption, heads, [line(row) for row in report.served])


def _cells(report: CompareReport) -> Grid:
    lines = [
        GridRow(
            cell.task,
            cell.student or OWN,
            cell.method,
            cell.error is not None,
            [
                _text(cell.method),
                _text(cell.task),
                _text(cell.student or OWN),
                GridCell(str(cell.seed), cell.seed),
                GridCell("" if cell.score is None else rounded(cell.score, 4), cell.score or 0.0),
                GridCell("" if cell.baseline is None else rounded(cell.baseline, 4), cell.baseline or 0.0),
                GridCell("" if cell.seconds is None else seconds_text(cell.seconds), cell.seconds or 0.0),
                _text(cell.folder if cell.error is None else f"failed: {cell.error}"),
            ],
        )
        for cell in report.cells
    ]
    heads = ["Method", "Task", "Student", "Seed", "Score", "Not distilled", "Time", "Run"]
    return Grid("cells", "Cells", "Each cell is a run, with a report of its own in its folder.", heads, lines)


def _facts(report: CompareReport) -> list[tuple[str, str]]:
    """Tasks, seeds and environment."""
    facts = []
    for task in report.tasks:
        steps = "each recipe's own number of steps" if task.steps is None else f"{task.steps:,} optimiser steps a cell"
        if task.flops is not None:
            steps = f"{task.flops / 1e12:,.3g} TFLOP of training a cell"
        scored = f"{task.metric} on {task.part} ({task.source}), {task.examples:,} examples"
        facts.append((task.name, f"{scored}; {steps}; teacher {task.teacher}"))
    facts += [("seeds", ", ".join(map(str, report.seeds))), ("tutelage", report.tutelage)]
    return [*facts, *report.environment.items()]
