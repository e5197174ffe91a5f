"""``report.html``: what a run achieved, as one page that needs nothing but itself.

Python computes words, numbers and geometry; ``page.html.jinja`` draws them. Everything that comes from data or names
goes through the template's escaping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from tutelage.report import team
from tutelage.report.numbers import (
    bytes_text,
    count_text,
    device_text,
    finite,
    flops_text,
    label_list,
    milliseconds,
    percent,
    score_text,
    seconds_text,
)
from tutelage.report.pictures import bar_charts, loss_charts, mapping_pictures, score_charts
from tutelage.report.words import (
    Entry,
    Report,
    _factor,
    beside,
    called,
    caution,
    entries,
    latency_of,
    names,
    paid,
    verdict,
    words,
)


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
        values = {who: latency_of(entry, batch) for who, entry in found}
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
    ratio = percent(ours / theirs) if finite(ours) and finite(theirs) and theirs > 0 else ""
    added = f"{round(ours, 3) - round(other, 3):+.3f}" if finite(ours) and finite(other) else ""
    cells = {who: score_text(value) for who, value in values.items()}
    # A minus as wide as the plus.
    return {"label": f"{words(metric)}, {part}", "cells": cells, "ratio": ratio, "gain": added.replace("-", "−")}


def _cost_row(
    found: list[tuple[str, Entry]], label: str, values: dict[str, Any], form: Any, ways: tuple[str, str]
) -> dict[str, Any]:
    ratio = ""
    if "teacher" in values and finite(values["teacher"]) and finite(values["student"]):
        ratio = _factor(values["teacher"], values["student"], *ways) or "the same"
    return {"label": label, "cells": {who: form(values[who]) for who, _ in found}, "ratio": ratio, "gain": ""}


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
