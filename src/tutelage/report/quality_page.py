"""Sections of the page on the answers of the student: by class, errors, texts on which the teacher differs, calibration."""

from __future__ import annotations

from tutelage.report.model import TaskReport
from tutelage.report.numbers import count_text, percent, score_text, signed
from tutelage.report.quality import CalibrationScores, ClassScores, DisagreementsEntry
from tutelage.report.section import Cell, Column, Line, LineChart, Row, Section, Table
from tutelage.report.words import called, one_line

CLASSES = 20
"""Classes on the page; ``report.json`` has all."""
CONFUSIONS = 10
"""Confusions on the page; ``report.json`` has up to 100."""
CHARACTERS = 200
"""Characters of a text."""


def sections(report: TaskReport) -> list[Section | None]:
    """The sections that the report has numbers for."""
    return [classes(report), confusions(report), calibration(report), disagreements(report), doubtful(report)]


def classes(report: TaskReport) -> Section | None:
    """The worst regressions by class."""
    if not report.classes:
        return None
    taught = report.classes[0].recall_difference is not None
    groups = ("Teacher", "Student") if taught else ("Model",)
    columns = [Column(title="Texts")]
    columns += [Column(title=title, group=group) for group in groups for title in ("recall", "F1")]
    columns += [Column(title="Difference in recall")] if taught else []
    rows = []
    for one in report.classes[:CLASSES]:
        cells: list[str | Cell] = [count_text(one.support)]
        for scores in (one.teacher, one.student) if taught else (one.student,):
            cells += _recall_and_f1(scores)
        if (change := one.recall_difference) is not None:
            below = "" if change.ends is None else " to ".join(map(signed, change.ends))
            cells.append(Cell(text=signed(change.value), below=below))
        elif taught:  # a class without texts
            cells.append("")
        rows.append(Row(name=one_line(one.name), cells=cells))
    first = "The worst regressions first" if taught else "The lowest recall first"
    more = len(report.classes) - CLASSES
    return Section(
        title="By class",
        table=Table(
            caption=f"{first}. Recall is the share of the texts of a class that are given it."
            + (
                " Below the difference its 95 % interval (paired bootstrap over the texts of the class)."
                if taught
                else ""
            ),
            head="Class",
            columns=columns,
            rows=rows,
        ),
        notes=[f"report.json lists {more:,} more classes."] if more > 0 else [],
    )


def _recall_and_f1(scores: ClassScores | None) -> list[str]:
    return ["", ""] if scores is None else [score_text(scores.recall), score_text(scores.f1)]


def confusions(report: TaskReport) -> Section | None:
    """The student's most frequent errors."""
    if not report.confusions:
        return None
    taught = report.confusions[0].teacher is not None
    columns = [Column(title="Predicted", align="text"), Column(title="Student" if taught else "Model", strong=True)]
    columns += [Column(title="Teacher")] if taught else []
    rows = [
        Row(
            name=one_line(one.label),
            cells=[
                one_line(one.predicted),
                f"{one.student:,}",
                *([f"{one.teacher:,}"] if one.teacher is not None else []),
            ],
        )
        for one in report.confusions[:CONFUSIONS]
    ]
    caption = "The most frequent errors: numbers of texts of a class that are given another."
    return Section(title="Confusions", table=Table(caption=caption, head="Class", columns=columns, rows=rows))


def disagreements(report: TaskReport) -> Section | None:
    """The texts on which student and teacher differ."""
    return _texts(
        report,
        report.disagreements,
        "Where student and teacher differ",
        f"the student predicts another class than {called(report)}.",
        "Texts on which only the teacher is right first, then those on which the student is surest.",
    )


def doubtful(report: TaskReport) -> Section | None:
    """The texts whose label student and teacher contradict."""
    return _texts(
        report,
        report.doubtful,
        "Where both contradict the label",
        "student and teacher predict the same class, which is not the label: either both are wrong, or the label is.",
        "Texts on which the teacher is surest first.",
    )


def _texts(report: TaskReport, entry: DisagreementsEntry | None, title: str, what: str, order: str) -> Section | None:
    """A table of texts with their label and what was predicted; None without any.

    Args:
        what: What was found on these texts, as the end of a sentence.
        order: What the caption says of the order.
    """
    if entry is None or not entry.found:
        return None
    rows = []
    for one in entry.listed:
        text = one_line(one.text if one.text_pair is None else f"{one.text} | {one.text_pair}")
        cells: list[str | Cell] = [one_line(one.label)]
        for said, share in ((one.student, one.student_probability), (one.teacher, one.teacher_probability)):
            cells.append(
                Cell(text=one_line(said), below=percent(share), style="best" if said == one.label else "plain")
            )
        rows.append(Row(name=text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} ...", cells=cells))
    which = "" if len(rows) == entry.found else f" {len(rows)} are shown."
    among = f"On {count_text(entry.found)} of {count_text(report.data.evaluation)} texts of the evaluation set"
    return Section(
        title=title,
        paragraphs=[f"{among} {what}{which}"],
        table=Table(
            caption=f"{order} Below a class its probability; the right class is bold.",
            head="Text",
            columns=[Column(title=head, align="text") for head in ("Label", "Student", "Teacher")],
            rows=rows,
            searchable=True,
        ),
    )


def calibration(report: TaskReport) -> Section | None:
    """How far the probabilities can be trusted, before and after the fitted temperature."""
    entry = report.calibration
    if entry is None:
        return None
    measures = [
        ("Expected calibration error", "ece"),
        ("Brier score", "brier"),
        ("KL to the teacher, nats", "kl_to_teacher"),
    ]
    fitted, summary = "", _course(entry.before)
    columns, scores = [Column(title="Temperature 1")], [entry.before]
    lines = [Line(name="temperature 1", points=_points(entry.before), style=1)]
    if entry.temperature is None or entry.after is None:
        remedy = "" if entry.texts else " (--set data.holdout=0.1 keeps some)"
        note = f"There is no temperature: {entry.unfitted}{remedy}."
    else:
        fitted = (
            f" The temperature {entry.temperature:.3g} was fitted on {count_text(entry.texts)} texts of the validation split "
            f"({entry.source})."
        )
        summary = f"before {summary}; after {_course(entry.after)}"
        scores.append(entry.after)
        columns.append(Column(title=f"Temperature {entry.temperature:.3g}", strong=True))
        lines.append(Line(name=f"temperature {entry.temperature:.3g}", points=_points(entry.after), style=0))
        note = "tutelage export writes this temperature into the exported files."
    return Section(
        title="Calibration",
        table=Table(
            caption=f"The student's probabilities on the evaluation set; lower is better.{fitted}",
            head="Measure",
            columns=columns,
            rows=[
                Row(name=name, cells=[score_text(getattr(one, field)) for one in scores])
                for name, field in measures
                if getattr(entry.before, field) is not None
            ],
        ),
        pictures=[
            LineChart(
                title="Accuracy by confidence, in percent",
                summary=summary,
                x="confidence",
                y="accuracy",
                lines=[*lines, Line(name="calibrated", points=[(0, 0), (100, 100)], style=8)],
                dots=True,
            )
        ],
        notes=[note],
    )


def _points(scores: CalibrationScores) -> list[tuple[float, float]]:
    return [(100 * one.confidence, 100 * one.accuracy) for one in scores.bins]


def _course(scores: CalibrationScores) -> str:
    return ", ".join(f"{one.accuracy:.0%} right at {one.confidence:.0%}" for one in scores.bins)
