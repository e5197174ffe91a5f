"""Page and model card of a run on raw text: what was learnt, seen on text that was held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from tutelage.report.card import folder_name, markdown
from tutelage.report.numbers import count_text
from tutelage.report.page import FORMATS, facts, inheritance
from tutelage.report.pictures import loss_charts
from tutelage.report.words import Report, words

USES = {
    "none": "It has no head: fine-tune it on a task, or go on with task distillation (--student takes its folder).",
    "words": "It fills in masked words, and can be fine-tuned or distilled further.",
    "next_words": "It continues text, and can be fine-tuned further.",
}


CLASSES = {"none": "AutoModel", "words": "AutoModelForMaskedLM", "next_words": "AutoModelForCausalLM"}


def page(report: Report) -> str:
    """``report.html`` of a run on a corpus."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(FORMATS)
    template = environment.get_template("general.html.jinja")
    return template.render(
        report=report,
        losses=loss_charts(report),
        inherited=inheritance(report),
        environment=facts(report),
        **_words(report),
    )


def card(report: Report) -> str:
    """The student's README.md."""
    environment = Environment(  # Not HTML: `finalize` escapes for Markdown.
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        finalize=markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FORMATS)
    folder = Path(report["student"]["name"]).parent.name
    teacher = report["teacher"]
    return environment.get_template("general.md.jinja").render(
        report=report,
        name=folder,
        teacher=folder_name(teacher["name"]) if teacher else None,
        auto=CLASSES[report["predicts"]],
        model=Markup(json.dumps(folder + "/student")),
        **_words(report),
    )


def _words(report: Report) -> dict[str, Any]:
    rows = []
    for stage in report["stages"]:
        before, after = stage["held_out"]["before"], stage["held_out"]["after"]
        for name, value in after.items():
            what = words(name) if name == "perplexity" else f"loss of {words(name)}"
            rows.append({"name": f"{stage['name']}: {what}", "before": _value(before[name]), "after": _value(value)})
    tokens = sum(stage["tokens"] for stage in report["stages"])
    teacher = " from its teacher" if report["teacher"] else " without a teacher"
    last = report["stages"][-1]["held_out"]
    fallen = ", ".join(
        f"{words(name)} {_value(last['before'][name])} to {_value(value)}" for name, value in last["after"].items()
    )
    verdict = f"A model of {report['student']['shape']} learnt{teacher} on {count_text(tokens)} tokens: {fallen}."
    return {"rows": rows, "verdict": verdict, "use": USES[report["predicts"]], "held_out": report["held_out"]}


def _value(value: float) -> str:
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"
