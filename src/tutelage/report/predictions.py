"""The section of a report's page on a file of predictions that was the teacher."""

from __future__ import annotations

from tutelage.report.model import TaskReport
from tutelage.report.numbers import count_text, percent, score_text
from tutelage.report.section import Column, Fact, Row, Section, Table
from tutelage.report.teachers import PredictionsEntry
from tutelage.report.words import folder_name, one_line, words

LISTED = 20
"""Suspects on the page; ``report.json`` has up to 100."""
SHOWN = 200
"""Characters of a text."""


def section(report: TaskReport) -> Section | None:
    """What the file says, how it agrees with labels, and the suspects; None without such a file."""
    entry = report.predictions
    if entry is None:
        return None
    gold = f"{count_text(entry.labelled)} training texts have labels"
    if not entry.labelled:
        gold = "no training text has a label; the baseline learns the likeliest labels of the file"
    facts = [
        Fact(name="File", code=folder_name(entry.file), text=f"{count_text(entry.rows)} rows: {entry.form}"),
        Fact(name="Labels", text=gold),
        *(Fact(name=name.capitalize(), text=value) for name, value in entry.options.items()),
        *(Fact(name=f"Agreement on {part}", text=_agreement(report, part)) for part in entry.agreement),
    ]
    return Section(
        title="Predictions as the teacher",
        table=_suspects(entry),
        remarks=[_remark(entry)] if entry.suspects_found is not None else [],
        items=[f"{count_text(count)} {what}" for what, count in entry.counts.items()],
        facts=facts,
    )


def _agreement(report: TaskReport, part: str) -> str:
    assert report.predictions is not None
    found, metric = report.predictions.agreement[part], report.metric
    return (
        f"{words(metric)} {score_text(found.scores.get(metric))} on {count_text(found.texts)} labelled texts (a constant answer: "
        f"{score_text(found.constant.get(metric))})"
    )


def _suspects(entry: PredictionsEntry) -> Table | None:
    if not entry.suspects:
        return None
    gold = any(one.label is not None for one in entry.suspects)
    columns = [Column(title=title, align="text") for title in ("File", "Student")]
    columns += [Column(title="Probability")] + ([Column(title="Label", align="text")] if gold else [])
    rows = []
    for one in entry.suspects[:LISTED]:
        text = one_line(one.text if one.text_pair is None else f"{one.text} | {one.text_pair}")
        cells = [one.predicted, one.student, percent(one.probability), *([one.label or ""] if gold else [])]
        rows.append(Row(name=text if len(text) <= SHOWN else f"{text[:SHOWN]} ...", cells=list(cells)))
    return Table(
        caption="Suspects: training texts on which the student is sure of another label than the file.",
        head="Text",
        columns=columns,
        rows=rows,
    )


def _remark(entry: PredictionsEntry) -> str:
    found = entry.suspects_found or 0
    if not found:
        return "On no training text is the student sure (probability 0.9 or more) of another label than the file."
    more = f" The {LISTED} surest are shown; report.json lists up to 100." if found > LISTED else ""
    return (
        f"{count_text(found)} training texts are suspects (probability 0.9 or more).{more} The student was trained on these "
        "predictions, so it misses errors that it has memorised."
    )
