"""The comparison table of a run's report: teacher, student, and the student that was trained without a teacher."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

from tutelage.report.mechanisms import BaselineWords
from tutelage.report.model import TaskReport
from tutelage.report.section import Section


class ComparisonTable(NamedTuple):
    """A table of text, and sentences below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]

    @property
    def html(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def tables(report: dict[str, Any]) -> list[ComparisonTable]:
    """What a report says of its models in tables: as they were trained and, where that was measured, as they would be served."""
    found = [comparison(report)]
    if report.get("served") is not None:
        found.append(_served(report))
    return [*found, *(_of_section(one) for one in report.get("sections", []) if one["table"] is not None)]


def _of_section(section: dict[str, Any]) -> ComparisonTable:
    """The table of a part of the package, or of a user's own file, and what is said about it."""
    table = Section.model_validate(section).table
    assert table is not None
    rows = [
        [
            row.name,
            *(cell if isinstance(cell, str) else " ".join(filter(None, (cell.text, cell.below))) for cell in row.cells),
        ]
        for row in table.rows
    ]
    notes = [*section["paragraphs"], *section["remarks"]]
    return ComparisonTable(section["title"], [table.head, *(column.name for column in table.columns)], rows, notes)


def _called(report: dict[str, Any], who: str) -> str:
    own = [one["baseline"]["row"] for one in report["mechanisms"].values() if one["baseline"]]
    return {"baseline": own[0] if own else BaselineWords().row}.get(who, who)


def _served(report: dict[str, Any]) -> ComparisonTable:
    """The models in ONNX and int8. Their scores are those of some of the texts, so they have a table of their own."""
    served, metric = report["served"], report["metric"]
    forms = {(one["model"], one["form"]): one for one in served["entries"]}
    rows = []
    for who in dict.fromkeys(model for model, _ in forms):
        onnx, int8 = forms[who, "onnx"], forms.get((who, "int8"))
        row = [_called(report, who), f"{onnx['score']:.4f}", f"{onnx['ms']:.2f}"]
        shown = (
            ["-"] * 3 if int8 is None else [f"{int8['score']:.4f}", f"{int8['ms']:.2f}", f"{int8['bytes'] / 1e6:.1f}"]
        )
        rows.append([*row, *shown])
    columns = ["", f"ONNX: {metric}", "ms", f"int8: {metric}", "ms", "MB"]
    title = f"As served: {served['texts']:,} texts; ms of one text on one thread"
    return ComparisonTable(title, columns, rows, list(served["notes"]))


def comparison(report: dict[str, Any]) -> ComparisonTable:
    """What a report says in one table; of a run on a corpus the losses on held-out text."""
    if report.get("general"):
        return ComparisonTable(
            report["title"],
            ["stage", "loss on held-out text", "before", "after"],
            [
                [stage["name"], name, f"{stage['held_out']['before'][name]:.4g}", f"{value:.4g}"]
                for stage in report["stages"]
                for name, value in stage["held_out"]["after"].items()
            ],
            [],
        )
    rows = []
    for who in ("teacher", "student", "baseline"):
        entry = report[who]
        if entry is not None:
            latency = entry["latency_ms"] or {}
            times = [f"{latency[size]:.1f}" if latency else "-" for size in ("1", "32")]
            size = f"{entry['parameters'] / 1e6:.1f} M"
            rows.append([_called(report, who), f"{entry['score']:.4f}", size, f"{entry['flops'] / 1e9:.3f}", *times])
    student, notes = report["student"], []
    from tutelage.report.words import difference, failures  # which need torch, and a table of methods does not

    whole = TaskReport.model_validate(report)
    if failed := failures(whole):
        notes += failed
    elif student.get("retention") is not None:
        faster = f" and is {student['speedup']:.1f}x as fast" if student.get("speedup") else ""
        apart = difference(whole.student.over_teacher)
        notes.append(
            f"The student keeps {student['retention']:.1%} of the teacher's {report['metric']}{apart}{faster}."
        )
    told = [one for one in report.get("findings", []) if one["kind"] != "constant answer"]  # which is said above
    notes += [f"{one['text']} {one['remedy'] or ''}".strip() for one in told]
    if (predictions := report.get("predictions")) is not None:
        for part, found in predictions["agreement"].items():
            notes.append(
                f"The predictions agree with the labels of {part}: {report['metric']} {found['scores'][report['metric']]:.4f} on "
                f"{found['texts']:,} texts."
            )
        if predictions["suspects_found"]:
            notes.append(
                f"On {predictions['suspects_found']:,} training texts the student is sure of another label than the predictions; "
                "the report lists them."
            )
    columns = ["", report["metric"], "parameters", "GFLOP", "ms, batch 1", "ms, batch 32"]
    return ComparisonTable(report["title"], columns, rows, notes)
