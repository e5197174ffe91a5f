"""``report.html``: what a run achieved, as one page that needs nothing but itself.

Python computes words, numbers and geometry; ``page.html.jinja`` draws them. Everything that comes from data or names
goes through the template's escaping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import Environment, FileSystemLoader

from tutelage.report import team
from tutelage.report.charts import Lines, Points, lines, thin

Report = dict[str, Any]
Entry = dict[str, Any]

NBSP = "\u00a0"
MISSING = "–"
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
MOST_LABELS = 24


def page(report: Report) -> str:
    """The report as a self-contained HTML page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FORMATS)
    return environment.get_template("page.html.jinja").render(
        report=report,
        entries=entries(report),
        metric=words(report["metric"]),
        verdict=verdict(report),
        caution=caution(report),
        paid=paid(report),
        rows=comparison(report),
        bars=bar_charts(report),
        mappings=mapping_pictures(report),
        losses=loss_charts(report),
        scores=score_charts(report),
        selection=selection(report),
        inherited=inheritance(report),
        beside=beside(report),
        kept=kept(report),
        team=team.section(report, words(report["metric"])),
        lead=team.lead(report),
        environment=facts(report),
        who=names(report),
    )


# ---------------------------------------------------------------------------------------------------------- numbers


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def score_text(value: Any) -> str:
    """``0.883``."""
    return f"{value:.3f}" if _finite(value) else MISSING


def percent(value: Any) -> str:
    """``97.1 %`` of a fraction."""
    return f"{value:.1%}".replace("%", f"{NBSP}%") if _finite(value) else MISSING


def count_text(value: Any) -> str:
    """``22.7 M`` for parameters, ``3,301`` below 100,000."""
    if not _finite(value):
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e5):
            return f"{_three(value / size)}{NBSP}{unit}"
    return f"{value:,.0f}"


def flops_text(value: Any) -> str:
    """``1.1 GFLOP``."""
    return _scaled(value, "FLOP", (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)))


def bytes_text(value: Any) -> str:
    """``41.2 MB``, decimal units."""
    return _scaled(value, "B", (("G", 1e9), ("M", 1e6), ("k", 1e3)))


def _scaled(value: Any, unit: str, prefixes: Iterable[tuple[str, float]]) -> str:
    if not _finite(value):
        return MISSING
    for prefix, size in prefixes:
        if abs(value) >= size:
            return f"{_three(value / size)}{NBSP}{prefix}{unit}"
    return f"{value:.0f}{NBSP}{unit}"


def _three(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def milliseconds(value: Any) -> str:
    """``9.1 ms``; two digits more below one."""
    if not _finite(value):
        return MISSING
    return f"{value:.2f}{NBSP}ms" if value < 1 else f"{_three(value)}{NBSP}ms"


def seconds_text(value: Any) -> str:
    """``0.8 s``, ``61 s``, ``5 min 40 s``, ``2 h 3 min``."""
    if not _finite(value):
        return MISSING
    whole = round(value)
    if whole < 10:
        return f"{value:.1f}{NBSP}s"
    if whole < 120:
        return f"{whole}{NBSP}s"
    if whole < 7200:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    minutes = round(value / 60)
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def times(value: float) -> str:
    """``2.1x``."""
    return f"{_three(value)}x"


def words(name: str) -> str:
    """A metric's or a term's name for people."""
    return KNOWLEDGE.get(name, name.replace("_", " "))


def label_list(labels: Sequence[str]) -> str:
    """The labels' names, the first of very many."""
    more = len(labels) - MOST_LABELS
    return ", ".join(labels[:MOST_LABELS]) + (f" and {more} more" if more > 0 else "")


def device_text(name: str) -> str:
    """A torch device for people."""
    return {"cpu": "the CPU", "cuda": "the GPU", "mps": "the GPU"}.get(name, name)


FORMATS = {
    "score": score_text,
    "percent": percent,
    "count": count_text,
    "flops": flops_text,
    "bytes": bytes_text,
    "ms": milliseconds,
    "seconds": seconds_text,
    "words": words,
    "label_list": label_list,
    "device": device_text,
}


# ---------------------------------------------------------------------------------------------------------- verdict


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
    if baseline is None or not (_finite(baseline["score"]) and _finite(report["student"]["score"])):
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
            f"{count_text(student['parameters'])} parameters, at {milliseconds(_latency(student, '1'))} for one example"
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
    if not _finite(retention) or teacher["score"] <= 0:
        return f"The student reaches {metric} {ours} against {whose} {theirs},"
    if retention > 1 and ours != theirs:
        return f"The student beats {whose} {metric} ({ours} against {theirs})"
    return f"The student keeps {'only ' if retention < 0.9 else ''}{percent(retention)} of {whose} {metric}"


def _smaller(student: Entry, teacher: Entry) -> str:
    factor = _factor(teacher["parameters"], student["parameters"], "fewer", "more")
    return f"with {factor or 'as many'} parameters"


def _faster(student: Entry) -> str:
    speedup = student.get("speedup")
    if not _finite(speedup) or speedup <= 0:
        return ""
    factor = _factor(speedup, 1.0, "faster", "slower")
    joint = " but runs" if speedup < 1 and factor else " and runs"
    return f"{joint} {factor or 'no faster'} at batch 32"


def _factor(over: Any, under: Any, down: str, up: str) -> str:
    """``2.1x fewer`` where ``over`` is the larger, ``1.3x more`` where ``under`` is; nothing where they are alike."""
    if not (_finite(over) and _finite(under)) or over <= 0 or under <= 0:
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


# ------------------------------------------------------------------------------------------------------------ table


def _latency(entry: Entry, batch: str) -> Any:
    return (entry.get("latency_ms") or {}).get(batch)


def comparison(report: Report) -> list[dict[str, Any]]:
    """Rows of the table: ``label``, ``cells`` by who, ``ratio`` to the teacher and ``gain`` over the baseline."""
    found = entries(report)
    rows = [
        _score_row(found, part, metric)
        for part, scores in report["student"]["scores"].items()
        for metric in sorted(scores, key=lambda name: name != report["metric"])
    ]
    rows[0]["lead"] = True
    rows += [
        _cost_row(found, "Parameters", {who: e["parameters"] for who, e in found}, count_text, ("fewer", "more")),
        _cost_row(found, "FLOPs per example", {who: e["flops"] for who, e in found}, flops_text, ("less", "more")),
    ]
    for batch in ("1", "32"):
        values = {who: _latency(entry, batch) for who, entry in found}
        rows.append(_cost_row(found, f"Latency, batch {batch}", values, milliseconds, ("faster", "slower")))
    student = report["student"]
    for key, label, form in (
        ("bytes", "Size on disk", bytes_text),
        ("agreement", f"Predicts as {called(report)} does", percent),
    ):
        if student.get(key) is not None:
            rows.append({"label": label, "cells": {"student": form(student[key])}, "ratio": "", "gain": ""})
    return rows


def _score_row(found: list[tuple[str, Entry]], part: str, metric: str) -> dict[str, Any]:
    values = {who: entry["scores"].get(part, {}).get(metric) for who, entry in found}
    ours, theirs, other = values["student"], values.get("teacher"), values.get("baseline")
    ratio = percent(ours / theirs) if _finite(ours) and _finite(theirs) and theirs > 0 else ""
    added = f"{round(ours, 3) - round(other, 3):+.3f}" if _finite(ours) and _finite(other) else ""
    cells = {who: score_text(value) for who, value in values.items()}
    # A minus as wide as the plus.
    return {"label": f"{words(metric)}, {part}", "cells": cells, "ratio": ratio, "gain": added.replace("-", "−")}


def _cost_row(
    found: list[tuple[str, Entry]], label: str, values: dict[str, Any], form: Any, ways: tuple[str, str]
) -> dict[str, Any]:
    ratio = ""
    if "teacher" in values and _finite(values["teacher"]) and _finite(values["student"]):
        ratio = _factor(values["teacher"], values["student"], *ways) or "the same"
    return {"label": label, "cells": {who: form(values[who]) for who, _ in found}, "ratio": ratio, "gain": ""}


# --------------------------------------------------------------------------------------------------------- pictures

WIDTH = 320.0


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart; ``left`` and ``width`` in the picture's units."""

    who: str
    text: str
    y: float
    left: float
    width: float


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with one scale, which starts at 0."""

    title: str
    desc: str
    bars: list[Bar]
    height: float


def bar_charts(report: Report) -> list[Bars]:
    """Scores and latencies of all models, where there are several."""
    found = entries(report)
    if len(found) < 2:
        return []
    metric = words(report["metric"])
    charts = [_bars(f"Score: {metric}", {who: entry["score"] for who, entry in found}, score_text, 1.0)]
    for batch, what in (("1", "one example"), ("32", "a batch of 32")):
        values = {who: _latency(entry, batch) for who, entry in found}
        charts.append(_bars(f"Latency of {what}", values, milliseconds, 0.0))
    return [chart for chart in charts if chart.bars]


def _bars(title: str, values: dict[str, Any], form: Any, least: float) -> Bars:
    shown = {who: float(value) for who, value in values.items() if _finite(value)}
    low, high = min(0.0, *shown.values(), 0.0), max(least, *shown.values(), 1e-9)
    scale = WIDTH / (high - low)
    bars = [
        Bar(who, form(value), 46.0 * i, (min(value, 0.0) - low) * scale, max(abs(value) * scale, 1.0))
        for i, (who, value) in enumerate(shown.items())
    ]
    desc = ", ".join(f"{WHO[bar.who].lower()} {bar.text}" for bar in bars)
    return Bars(title, desc, bars, 46.0 * len(bars))


def loss_charts(report: Report) -> list[Lines]:
    """One chart for each stage's term, each with its own scale."""
    charts = []
    for stage in report["stages"]:
        for term, values in stage["losses"].items():
            points = thin(_points(values))
            if len(points) > 1:
                first, last = points[0], points[-1]
                desc = f"from {first[1]:.4g} at step {first[0]:,.0f} to {last[1]:.4g} at step {last[0]:,.0f}"
                charts.append(lines(f"{stage['name']}: loss of {words(term)}", desc, ("step", "loss"), points, 0.0))
    return charts


def score_charts(report: Report) -> list[Lines]:
    """The selection score by epoch, for each stage that was scored."""
    charts = []
    for stage in report["stages"]:
        points = _points(stage["scores"])
        if len(points) > 1:
            best = stage.get("best")
            mark = (float(best["epoch"]), float(best["score"])) if best else points[-1]
            desc = ", ".join(f"epoch {x:.0f} {y:.3f}" for x, y in points[:50])
            if best:
                desc += f"; the best, epoch {best['epoch']:.0f}, was kept"
            metric = words(report["metric"])
            axes = ("epoch", metric)
            charts.append(
                lines(f"{stage['name']}: {metric} on the selection data", desc, axes, points, points[0][0], mark)
            )
    return charts


def _points(values: Iterable[Sequence[float]]) -> Points:
    return [(float(x), float(y)) for x, y in values if _finite(x) and _finite(y)]


@dataclass(frozen=True)
class Layer:
    """A layer in the picture of the mapping."""

    y: float
    text: str
    used: bool


@dataclass(frozen=True)
class Link:
    """A line from a student layer to a teacher layer; ``style`` numbers the knowledge."""

    y1: float
    y2: float
    style: int


@dataclass(frozen=True)
class Mapping:
    """The layers of student and teacher side by side, and the lines between."""

    title: str
    desc: str
    student: list[Layer]
    teacher: list[Layer]
    links: list[Link]
    legend: list[tuple[int, str]]
    height: float

    @property
    def rows(self) -> int:
        """How many line charts are about as tall."""
        return max(1, round((self.height + 60) / 260))


def mapping_pictures(report: Report) -> list[Mapping]:
    """One picture for each stage that compares layers."""
    student_layers, teacher_layers = report.get("student_layers"), report.get("teacher_layers")
    if not student_layers or not teacher_layers:
        return []
    by_stage: dict[str, list[Entry]] = {}
    for entry in report.get("mapping") or []:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [_mapping(stage, terms, student_layers, teacher_layers) for stage, terms in by_stage.items()]


def _mapping(stage: str, terms: list[Entry], m: int, n: int) -> Mapping:
    deeper = max(m, n)
    gap = 30.0 if deeper <= 12 else 24.0
    span, top = gap * deeper, 34.0
    shared: dict[tuple[int, int], list[int]] = {}
    for style, term in enumerate(terms):
        for s, t in term["pairs"]:
            shared.setdefault((s, t), []).append(style)

    def place(layer: int, depth: int) -> float:
        return top + span * (1 - layer / depth)

    # Several kinds of knowledge between the same layers run side by side.
    links = [
        Link(place(s, m) + 5.0 * shift, place(t, n) + 5.0 * shift, style)
        for (s, t), styles in shared.items()
        for style, shift in ((style, i - (len(styles) - 1) / 2) for i, style in enumerate(styles))
    ]
    desc = "; ".join(
        f"{words(term['knowledge'])}: " + ", ".join(f"student {s} from teacher {t}" for s, t in term["pairs"])
        for term in terms
    )
    return Mapping(
        title=f"{stage}: layers that are compared",
        desc=f"{desc}; layer 0 is the embeddings",
        student=_layers(m, lambda i: place(i, m), {s for s, _ in shared}),
        teacher=_layers(n, lambda i: place(i, n), {t for _, t in shared}),
        links=links,
        legend=[(style, words(term["knowledge"])) for style, term in enumerate(terms)],
        height=top + span + 16.0,
    )


def _layers(depth: int, place: Any, used: set[int]) -> list[Layer]:
    return [Layer(place(i), f"layer {i}" if i else "embeddings", i in used) for i in range(depth + 1)]


# ------------------------------------------------------------------------------------------------- what was done


def selection(report: Report) -> str:
    """How the checkpoint of each stage was chosen, in one sentence."""
    data = report["data"]
    source = data["sources"].get("selection", "selection")
    passing = [stage["name"] for stage in report["stages"] if stage.get("discarded")]
    scored = [stage["name"] for stage in report["stages"] if stage.get("best") and stage["name"] not in passing]
    others = [stage["name"] for stage in report["stages"] if not stage.get("best") and stage["name"] not in passing]
    parts = []
    if scored:
        parts.append(
            f"After each epoch of {team.stages(scored)} the student was scored on {data['selection']:,} examples ({source}), "
            "and the best epoch was kept"
        )
    if others:
        parts.append(f"{'of' if scored else 'Of'} {team.stages(others)} the last epoch was kept")
    if passing:
        whose, after = ("student", "it") if len(passing) == 1 else ("students", "each")
        parts.append(f"the {whose} of {team.stages(passing)} made way for a new one after {after}")
    return "; ".join(parts) + "."


def kept(report: Report) -> list[str]:
    """What is left of each stage."""
    metric, learnt = words(report["metric"]), [one["stage"] for one in (report.get("team") or {}).get("stages", [])]
    found = []
    for stage in report["stages"]:
        if stage.get("discarded"):
            found.append("only the team's distribution" if stage["name"] in learnt else "nothing")
        elif best := stage.get("best"):
            found.append(f"epoch {best['epoch']:.0f}, {metric} {score_text(best['score'])}")
        else:
            found.append("last epoch")
    return found


PLACES = {
    "residual": "Residual stream",
    "attention": "Inside of attention",
    "intermediate": "Inside of the feed-forward",
    "pooler": "Pooler",
    "head": "Head",
}


def inheritance(report: Report) -> list[tuple[str, str]]:
    """Of a student that was cut out of its teacher: how many coordinates were kept, by place."""
    kept = (report.get("inherited") or {}).get("kept", {})
    rows = []
    for place, name in PLACES.items():
        groups = [group for key, group in kept.items() if key.partition("_")[0] == place]
        if groups:
            layers = f", each of {len(groups)} layers" if place in ("attention", "intermediate") else ""
            rows.append((name + layers, f"{len(groups[0]['kept']):,} of {groups[0]['of']:,}"))
    return rows


def facts(report: Report) -> list[tuple[str, str]]:
    """Where and how long the run took place: names and values."""
    device = [(words(name), str(value)) for name, value in report["environment"].items()]
    whole = [("whole run", seconds_text(report["seconds"]))] if report.get("seconds") else []
    kept = []
    if store := report.get("store"):
        kept = [("teacher store", f"{store['keeps']}; {bytes_text(store['bytes'])}")]
    return [("tutelage", report["tutelage"]), *device, ("seed", str(report["seed"])), *kept, *whole]
