"""Page and model card of a run on a corpus: losses on held-out text before and after training."""

from __future__ import annotations

import json
from pathlib import Path

from markupsafe import Markup

from tutelage.objectives.terms import title_of
from tutelage.report.model import CorpusReport
from tutelage.report.numbers import count_text, seconds_text
from tutelage.report.page import LOSSES, REPEAT, STAGES, draw, environment, loss_charts
from tutelage.report.references import bibtex
from tutelage.report.section import Column, Fact, Row, Section, Table
from tutelage.report.templates import render
from tutelage.report.words import CARD_FOLDER, folder_name

USES = {
    "none": "It has no head: fine-tune it on a task, or distil a task into it (--student takes its folder).",
    "masked_lm": "It fills in masked words, and can be fine-tuned or distilled further.",
    "causal_lm": "It continues text, and can be fine-tuned further.",
}


CLASSES = {"none": "AutoModel", "masked_lm": "AutoModelForMaskedLM", "causal_lm": "AutoModelForCausalLM"}


def page(report: CorpusReport) -> str:
    """``report.html`` of a run on a corpus."""
    charts = loss_charts(report.stages)
    return draw(
        title=f"{report.title} on {report.corpus.path}",
        verdict=verdict(report),
        asides=[USES[report.predicts]],
        sections=[
            _held_out(report),
            Section(title="Training curves", pictures=[*charts], notes=[LOSSES]) if charts else None,
            *report.sections,
            _training(report),
            Section(title="Environment", facts=environment(report)),
            REPEAT,
        ],
    )


def card(report: CorpusReport) -> str:
    """The student's README.md."""
    return render(
        "corpus.md.jinja",
        report=report,
        name=Path(report.student.name).parent.name,
        teacher=folder_name(report.teacher.name) if report.teacher else None,
        auto=CLASSES[report.predicts],
        model=Markup(json.dumps(CARD_FOLDER)),
        rows=_losses(report),
        verdict=verdict(report),
        use=USES[report.predicts],
        references=Markup(bibtex(report.references)),
    )


def verdict(report: CorpusReport) -> str:
    """The result of the run in one sentence."""
    tokens = sum(stage.tokens for stage in report.stages)
    how = "distilled from its teacher" if report.teacher else "trained without a teacher"
    last = report.stages[-1].held_out
    moved = ", ".join(
        f"{title_of(name)} from {_value(last.before[name])} to {_value(value)}" for name, value in last.after.items()
    )
    return f"A model of {report.student.shape}, {how} on {count_text(tokens)} tokens. On held-out text: {moved}."


def _losses(report: CorpusReport) -> list[tuple[str, str, str]]:
    """Stage and loss, its value before the stage, and after it."""
    return [
        (
            f"{stage.name}: {title_of(name)}{'' if name == 'perplexity' else ' loss'}",
            _value(stage.held_out.before[name]),
            _value(value),
        )
        for stage in report.stages
        for name, value in stage.held_out.after.items()
    ]


def _held_out(report: CorpusReport) -> Section:
    return Section(
        title="Held-out text",
        table=Table(
            caption=f"Means over {report.held_out} instances kept out of training, before and after each stage.",
            head="Stage and loss",
            columns=[Column(title="Before"), Column(title="After", strong=True)],
            rows=[Row(name=name, cells=[before, after]) for name, before, after in _losses(report)],
        ),
    )


def _training(report: CorpusReport) -> Section:
    columns = [
        Column(title="Losses", align="text"),
        Column(title="Instances", align="text"),
        *(Column(title=title) for title in ("Epochs", "Steps", "Tokens", "Time")),
    ]
    rows = [
        Row(
            name=stage.name,
            cells=[
                ", ".join(map(title_of, stage.losses)),
                f"{stage.data.packing}, at most {stage.data.length} tokens",
                count_text(stage.epochs),
                count_text(stage.steps),
                count_text(stage.tokens),
                seconds_text(stage.seconds),
            ],
        )
        for stage in report.stages
    ]
    corpus, models = report.corpus, [("Teacher", report.teacher), ("Student", report.student)]
    return Section(
        title="How it was trained",
        paragraphs=[f"{report.title} ({report.method}): {report.paper}."],
        table=Table(caption=STAGES, head="Stage", columns=columns, rows=rows),
        facts=[
            Fact(
                name="Corpus",
                text=f"{count_text(corpus.tokens)} tokens of {count_text(corpus.documents)} documents, from "
                f"{', '.join(corpus.sources)}",
            ),
            *(
                Fact(
                    name=who,
                    code=folder_name(model.name),
                    text=f"{model.shape}, {count_text(model.parameters)} parameters",
                )
                for who, model in models
                if model is not None
            ),
        ],
    )


def _value(value: float) -> str:
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"
