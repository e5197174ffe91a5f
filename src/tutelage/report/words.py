"""What a report says in sentences."""

from __future__ import annotations

import math
from typing import Any

from tutelage.report import team
from tutelage.report.numbers import count_text, finite, milliseconds, percent, score_text, times

Report = dict[str, Any]


Entry = dict[str, Any]


WHO = {"teacher": "Teacher", "student": "Student", "baseline": "Without teacher"}


KNOWLEDGE = {
    "embeddings": "embeddings",
    "hidden": "hidden states",
    "attention_scores": "attention scores",
    "first_token": "first token",
    "hidden_knowledge": "hidden knowledge",
    "pooled": "pooled output",
    "soft_labels": "soft labels",
    "logits_mse": "logits",
    "hard_labels": "labels",
}


BOUNDED = ("accuracy", "f1", "macro_f1", "micro_f1")
"""Metrics that are shares of examples, or nearly: the error of a proportion tells how exact they are."""


def words(name: str) -> str:
    """A metric's or a term's name for people."""
    return KNOWLEDGE.get(name, name.replace("_", " "))


def entries(report: Report) -> list[tuple[str, Entry]]:
    """Those of teacher, student and baseline that the report has, in this order."""
    return [(who, report[who]) for who in WHO if report.get(who) is not None]


def names(report: Report) -> dict[str, str]:
    """What teacher, student and baseline are called; a lone model is nobody's student."""
    if len(entries(report)) == 1:
        return {"student": "Model"}
    if report.get("inherited"):
        return {**WHO, "baseline": "Slices"}
    return {**WHO, "baseline": "Without team"} if report.get("team") else WHO


def beside(report: Report) -> str:
    """What the baseline is."""
    who = "slices of the teacher, as large as the student" if report.get("inherited") else "the same student"
    last = [stage["name"] for stage in report["stages"] if not stage.get("discarded")]
    last = last[:-1] if report.get("baseline") is not None else last  # the baseline's own stage
    as_many = f" as {team.stages(last)} took" if any(stage.get("discarded") for stage in report["stages"]) else ""
    rate = " at the same rate (slices may want a higher one)" if report.get("inherited") else ""
    return f"{who}, trained on the labels alone for as many steps{as_many}{rate}"


def gain(report: Report) -> float | None:
    """What the teacher added to the same student's score, as far as three digits show it."""
    baseline = report.get("baseline")
    if baseline is None or not (finite(baseline["score"]) and finite(report["student"]["score"])):
        return None
    return round(round(report["student"]["score"], 3) - round(baseline["score"], 3), 3)


def paid(report: Report) -> bool:
    """Whether the student is better than the same student without the teacher, or nobody tried."""
    added = gain(report)
    return added is None or added > 0


def verdict(report: Report) -> str:
    """One sentence that says what the run achieved, from its numbers and whatever they are."""
    student, teacher, metric = report["student"], report.get("teacher"), words(report["metric"])
    if teacher is None:
        text = (
            f"Trained without a teacher, the model reaches {metric} {score_text(student['score'])} with "
            f"{count_text(student['parameters'])} parameters, at {milliseconds(latency_of(student, '1'))} for one example"
        )
    else:
        text = f"{_kept(report)} {_smaller(student, teacher)}{_faster(student)}"
    return f"{text}{_without_teacher(report)}."


def called(report: Report) -> str:
    """The teacher that the student is compared with; of a team by its name."""
    lead = team.lead(report)
    return f"the teacher {lead[0]}" if lead else "the teacher"


def _kept(report: Report) -> str:
    student, teacher, metric = report["student"], report["teacher"], words(report["metric"])
    retention, ours, theirs = student.get("retention"), score_text(student["score"]), score_text(teacher["score"])
    whose = f"{called(report)}'s"
    if not finite(retention) or teacher["score"] <= 0:
        return f"The student reaches {metric} {ours} against {whose} {theirs},"
    if retention > 1 and ours != theirs:
        return f"The student beats {whose} {metric} ({ours} against {theirs})"
    return f"The student keeps {'only ' if retention < 0.9 else ''}{percent(retention)} of {whose} {metric}"


def _smaller(student: Entry, teacher: Entry) -> str:
    factor = _factor(teacher["parameters"], student["parameters"], "fewer", "more")
    return f"with {factor or 'as many'} parameters"


def _faster(student: Entry) -> str:
    speedup = student.get("speedup")
    if not finite(speedup) or speedup <= 0:
        return ""
    factor = _factor(speedup, 1.0, "faster", "slower")
    joint = " but runs" if speedup < 1 and factor else " and runs"
    return f"{joint} {factor or 'no faster'} at batch 32"


def _factor(over: Any, under: Any, down: str, up: str) -> str:
    """``2.1x fewer`` where ``over`` is the larger, ``1.3x more`` where ``under`` is; nothing where they are alike."""
    if not (finite(over) and finite(under)) or over <= 0 or under <= 0:
        return ""
    ratio = over / under
    if 0.95 < ratio < 1.05:
        return ""
    return f"{times(ratio)} {down}" if ratio > 1 else f"{times(1 / ratio)} {up}"


def _without_teacher(report: Report) -> str:
    added = gain(report)
    if added is None:
        return ""
    score = score_text(report["baseline"]["score"])
    inherited = report.get("inherited")
    without = f"without the {'team' if report.get('team') else 'teacher'} the same student reaches"
    reached = f"{'slices of the teacher reach' if inherited else without} {score}"
    if added > 0:
        return f"; {reached}, {added:.3f} less"
    more = f"{-added:.3f} more" if added < 0 else "just as much"
    return f"; {'mixing' if inherited else 'distillation'} did not pay here: {reached}, {more}"


def caution(report: Report) -> str | None:
    """A remark where the gain is smaller than the examples can show."""
    added, examples, value = gain(report), report["data"]["report"], report["student"]["score"]
    if not added or not examples or report["metric"] not in BOUNDED or not 0 <= value <= 1:
        return None
    error = math.sqrt(value * (1 - value) / examples)
    if abs(added) >= error:
        return None
    return (
        f"The difference of {abs(added):.3f} is smaller than the score's own standard error on {examples:,} examples "
        f"(about {error:.3f}); another seed may turn it round."
    )


def latency_of(entry: Entry, batch: str) -> Any:
    return (entry.get("latency_ms") or {}).get(batch)
