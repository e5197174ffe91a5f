"""The student's model card: the README.md beside its weights, with front matter for the Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from tutelage.objectives.terms import title_of
from tutelage.report import words
from tutelage.report.model import MappingEntry, TaskReport
from tutelage.report.page import SPREAD, comparison
from tutelage.report.references import bibtex
from tutelage.report.served import ServedEntry
from tutelage.report.templates import render
from tutelage.report.words import folder_name, one_line
from tutelage.tasks import kind_of

FILES = {"onnx": "model.onnx", "int8": "model.int8.onnx"}
"""What an export calls the forms in which a model is served."""

METRIC_IDS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Names of metrics on the Hub, if they differ from ours."""


def card(report: TaskReport) -> str:
    """The student's README.md: front matter for the Hub, then use, scores, training, data, limits and citation.

    Language, licence and data set are not known to a run; ``tutelage push`` asks for them.
    """
    several = words.teachers_of(report)
    lead = words.lead(report)
    return render(
        "card.md.jinja",
        report=report,
        front_matter=Markup(_front_matter(report)),
        name=_name(report),
        usage=Markup(kind_of(report.kind).usage(json.dumps(words.CARD_FOLDER))),
        predictions=folder_name(report.predictions.file) if report.predictions else None,
        teacher=lead[0] if lead else folder_name(report.teacher.name) if report.teacher else None,
        through=words.through(report),
        entries=words.entries(report),
        who=words.names(report),
        baseline=words.baseline_text(report),
        metric=words.words(report.metric),
        verdict=words.verdict(report),
        caution=words.caution(report),
        rows=comparison(report),
        files=_files(report),
        spread=SPREAD,
        selection=words.selection(report),
        stages=[(stage, words.outcome(report, stage)) for stage in words.student_stages(report)],
        several=several,
        shares=sorted(several.shares, key=lambda one: -one.weight) if several else [],
        warnings=_warnings(report),
        layers=[_layers(entry) for entry in report.mapping],
        vocabulary=words.vocabulary_lines(report.vocabulary),
        references=Markup(bibtex(report.references)),
    )


def _name(report: TaskReport) -> str:
    return f"{one_line(report.task)}-{one_line(report.method)}"


def _files(report: TaskReport) -> list[tuple[str, ServedEntry, str]]:
    """The files that an export of the student has, with what int8 changes."""
    found = report.served.entries if report.served else []
    return [
        (FILES[one.form], one, "" if one.change is None else words.with_interval(one.change))
        for one in found
        if one.model == "student"
    ]


def _warnings(report: TaskReport) -> list[str]:
    """The warnings, with several teachers by name instead of by folder."""
    found, several = [], words.teachers_of(report)
    for line in report.warnings:
        for one in several.shares if several else ():
            line = line.replace(repr(one.folder), repr(one.name))
        found.append(line)
    return found


def _layers(entry: MappingEntry) -> dict[str, str]:
    pairs = ", ".join(f"{student} from {teacher}" for student, teacher in entry.pairs)
    of = f" of teacher {entry.teacher}" if entry.teacher else ""
    return {"stage": entry.stage, "knowledge": title_of(entry.knowledge), "pairs": f"{pairs}{of}"}


def _front_matter(report: TaskReport) -> str:
    data = ModelCardData(
        library_name=kind_of(report.kind).library,
        pipeline_tag=kind_of(report.kind).pipeline,
        base_model=_base_model(report),
        tags=[
            "tutelage",
            *(["knowledge-distillation", one_line(report.method)] if report.teacher or report.predictions else []),
        ],
        metrics=sorted({METRIC_IDS.get(metric, metric) for metric in _metrics(report)}),
        model_name=_name(report),
        eval_results=_results(report),
    )
    return data.to_yaml()


def _base_model(report: TaskReport) -> str | list[str] | None:
    """The teachers whose names may be ones on the Hub; local folders are left out."""
    if (several := words.teachers_of(report)) is not None:
        return [one.folder for one in several.shares if _on_hub(one.folder)] or None
    name = report.teacher.name if report.teacher else ""
    return name if _on_hub(name) else None


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII)) and not Path(name).exists()


def _metrics(report: TaskReport) -> list[str]:
    return [metric for scores in report.student.scores.values() for metric in scores]


def _results(report: TaskReport) -> list[EvalResult]:
    task = one_line(report.task)
    return [
        EvalResult(
            task_type=kind_of(report.kind).pipeline,
            dataset_type=task,
            dataset_name=task,
            dataset_split=one_line(part),
            metric_type=METRIC_IDS.get(metric, metric),
            metric_name=words.words(metric),
            metric_value=round(value, 4),
        )
        for part, scores in report.student.scores.items()
        for metric, value in scores.items()
    ]
