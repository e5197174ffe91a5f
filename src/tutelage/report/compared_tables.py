"""A comparison as CSV, as a LaTeX table, and in the words that terminal and page share."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tutelage.report.compared import ComparedArm, CompareReport, Contrast, arm_name
from tutelage.report.numbers import milliseconds, rounded
from tutelage.report.words import with_interval

OWN = "its own"
"""A method's own student, in tables."""


def with_margin(mean: float, half: float | None) -> str:
    """``0.883 ± 0.010``; the mean alone of one seed."""
    return rounded(mean, 3) + ("" if half is None else f" ± {rounded(half, 3)}")


def p_text(p: float | None) -> str:
    """``0.012``, ``<0.001``."""
    return "" if p is None else "<0.001" if p < 0.001 else rounded(p, 3)


def summary(report: CompareReport) -> str:
    """What the comparison shows of distillation, in a sentence."""
    twins = [one for one in report.contrasts if one.of_distillation]
    if not report.arms:
        return "No cell is finished."
    if not any(arm.distilled for arm in report.arms):
        return "No student was distilled, so it is not known whether distillation pays."
    if not twins:
        return "No student was trained both with and without distillation, so it is not known whether it pays."
    shown = Counter(one.verdict for one in twins)
    helps, harms = shown.pop("better", 0), shown.pop("worse", 0)
    harm = f", and to harm in {harms}" if harms else ""
    all_of = f"{len(twins)} comparisons with the same student trained without it"
    others = ", ".join(f"{verdict} in {count}" for verdict, count in shown.most_common())
    return f"Distillation is shown to help in {helps} of {all_of}{harm}{f'; {others}' if others else ''}."


def _with(student: str, report: CompareReport) -> str:
    """`` with layers=3``; nothing where all arms have the same student."""
    return f" with {student}" if student and len({arm.student for arm in report.arms}) > 1 else ""


def best_lines(report: CompareReport) -> list[str]:
    """The best student of each task beside its teacher, and the best distilled one where it is another."""
    lines = []
    for task in report.tasks:
        arms = sorted(
            (arm for arm in report.arms if arm.task == task.name), key=lambda arm: (-arm.mean, not arm.distilled)
        )
        taught = [arm for arm in arms if arm.distilled]
        for arm in [*arms[:1], *(taught[:1] if arms[:1] != taught[:1] else [])]:
            where = "Highest" if arm is arms[0] else "Highest with distillation"
            teacher = "" if task.teacher_score is None else f"; the teacher has {rounded(task.teacher_score, 3)}"
            student = _with(arm.student, report)
            score = with_margin(arm.mean, arm.half)
            lines.append(f"{where} on {task.name}: {arm.name}{student}, {task.metric} {score}{teacher}.")
    return lines


# ------------------------------------------------------------------------------------------------------------------- CSV


def arms_csv(report: CompareReport) -> str:
    """One row for each arm, teachers first; numbers with six digits, scores by seed in a column each."""
    metrics = {task.name: task.metric for task in report.tasks}
    heads = ["task", "metric", "method", "student", "distilled", "mean", "half_95", "to_teacher", "to_teacher_low"]
    heads += ["to_teacher_high", "parameters", "flops", "latency_ms", "steps", *(f"seed_{n}" for n in report.seeds)]
    rows: list[list[Any]] = [
        [task.name, task.metric, "teacher", task.teacher, "", task.teacher_score, *[None] * 4, task.teacher_parameters]
        for task in report.tasks
    ]
    for arm in report.arms:
        gap = arm.to_teacher
        gaps = [None] * 3 if gap is None else [gap.value, gap.low, gap.high]
        about = [arm.task, metrics[arm.task], arm.method, arm.student, str(arm.distilled).lower(), arm.mean, arm.half]
        costs = [arm.parameters, arm.flops, arm.latency_ms, arm.steps]
        rows.append([*about, *gaps, *costs, *(arm.scores.get(seed) for seed in report.seeds)])
    return _csv(heads, rows)


def contrasts_csv(report: CompareReport) -> str:
    """One row for each comparison; an empty ``against`` is the arm's own student without distillation."""
    heads = ["task", "student", "arm", "against", "seeds", "difference", "low_examples", "high_examples", "half_seeds"]
    heads += ["p_examples", "p_seeds", "holm_examples", "holm_seeds", "verdict"]
    rows = []
    for one in report.contrasts:
        gap = one.examples
        about = [one.task, one.student, one.arm, one.against, one.seeds, gap.value, gap.low, gap.high, one.half]
        rows.append([*about, one.p_examples, one.p_seeds, one.holm_examples, one.holm_seeds, one.verdict])
    return _csv(heads, rows)


def served_csv(report: CompareReport) -> str:
    """One row for each model in each form."""
    heads = "task,model,form,method,student,seed,texts,score,change_of_int8,low,high,bytes,ms,spread_ms"
    rows = []
    for task, arm, entry in report.served:
        ours = [arm.method, arm.student, arm.seed] if entry.model == "student" else [""] * 3
        gap = [None] * 3 if entry.change is None else [entry.change.value, entry.change.low, entry.change.high]
        about = [task, entry.model, entry.form, *ours, arm.measured.texts, entry.score, *gap]
        rows.append([*about, entry.bytes, entry.ms, entry.spread_ms])
    return _csv(heads.split(","), rows)


def served_lines(report: CompareReport) -> list[str]:
    """The teacher of each task in int8, the rival that costs no training, and its students in int8 beside it."""
    lines = []
    for task in report.tasks:
        each, where = [], ""
        for row in report.served:
            arm, entry = row.arm, row.entry
            if row.task == task.name and entry.form == "int8":
                name = arm.method + _with(arm.student, report)
                name = "teacher" if entry.model == "teacher" else name
                size = f"{entry.bytes / 1e6:.1f} MB"
                each.append(f"{name} {rounded(entry.score, 3)} in {milliseconds(entry.ms)} and {size}")
                where = f"{task.metric} on {arm.measured.texts:,} examples, one text on one thread"
        if each:
            lines.append(f"In int8 on {task.name} ({where}): {'; '.join(each)}.")
    return lines


def _csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        cells = [rounded(cell, 6) if isinstance(cell, float) else cell for cell in row]
        writer.writerow([*cells, *[""] * (len(heads) - len(cells))])
    return text.getvalue()


# ----------------------------------------------------------------------------------------------------------------- LaTeX

_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def escaped(text: str) -> str:
    """Text in one line in which LaTeX sees no command."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _ESCAPES.get(found[0], "\\" + found[0]), " ".join(text.split()))


def latex(report: CompareReport) -> str:
    r"""A table with a row for each arm and a column for each task, in points; needs ``\usepackage{booktabs}``.

    The highest of each student is bold; a star says that an arm is better than the same student without distillation, on other
    examples and with other seeds (adjusted p < 0.05).
    """
    twins = [one for one in report.contrasts if one.of_distillation]
    starred, unstarred = (
        {(one.task, one.student, one.arm) for one in twins if (one.verdict == "better") == better}
        for better in (True, False)
    )
    students = list(dict.fromkeys(arm.student for arm in report.arms))
    best: dict[tuple[str, str], float] = {}
    for arm in report.arms:
        place = arm.task, arm.student
        best[place] = max(best.get(place, arm.mean), arm.mean)
    cells: dict[tuple[str, str, bool], dict[str, str]] = {}
    for arm in sorted(report.arms, key=lambda arm: students.index(arm.student)):
        text = _points(arm, bold=arm.mean == best[arm.task, arm.student])
        if arm.distilled and (arm.task, arm.student, arm.method) in starred - unstarred:
            text += "$^{*}$"
        cells.setdefault((arm.student, arm.method, arm.distilled), {})[arm.task] = text
    heads = " & ".join(f"{escaped(task.name)} ({escaped(task.metric)})" for task in report.tasks)
    teachers = (
        "--" if task.teacher_score is None else f"${rounded(task.teacher_score, 1, scale=2)}$" for task in report.tasks
    )
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{ll{'r' * len(report.tasks)}}}",
        r"\toprule",
        rf"Student & Method & {heads} \\",
        r"\midrule",
        rf"Teacher & & {' & '.join(teachers)} \\",
    ]
    before = None
    for (student, method, distilled), by_task in cells.items():
        if student != before:
            lines.append(r"\midrule")
        name = escaped(arm_name(method, distilled))
        shown = escaped(student or OWN) if student != before else ""
        scores = " & ".join(by_task.get(task.name, "--") for task in report.tasks)
        lines.append(rf"{shown} & {name} & {scores} \\")
        before = student
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _points(arm: ComparedArm, *, bold: bool) -> str:
    mean = rounded(arm.mean, 1, scale=2)
    half = "" if arm.half is None else rf" \pm {rounded(arm.half, 1, scale=2)}"
    return rf"$\mathbf{{{mean}}}{half}$" if bold else f"${mean}{half}$"


def contrast_cells(one: Contrast) -> list[str]:
    """A comparison as text: difference over examples, over seeds, adjusted p-values, verdict."""
    half = "" if one.half is None else f"± {rounded(one.half, 3)}"
    return [with_interval(one.examples), half, p_text(one.holm_examples), p_text(one.holm_seeds), one.verdict]
