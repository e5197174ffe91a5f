"""Scores, sizes and speed of the models of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from tutelage import anatomy
from tutelage.artifacts import seal
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, fingerprint
from tutelage.data.labels import class_counts, label_names, unnamed
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.evaluation import speed
from tutelage.mechanisms.mechanism import reported
from tutelage.report.findings import findings
from tutelage.report.model import TaskReport
from tutelage.report.results import Evaluation
from tutelage.run import predicted, quality
from tutelage.run.assistants import trained
from tutelage.run.checks import check_ids, check_words, limit_of, near_chance, other_order, own_limit_notes
from tutelage.run.folder import learnt_by_run, learnt_notes, longest_input, rise_of_run
from tutelage.run.loading import truncation_notes
from tutelage.run.plan import example_flops, mapping_report, typical
from tutelage.run.served import served
from tutelage.run.workspace import Workspace, bench
from tutelage.students.load import load_config
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.tasks.sentence import SentenceEncoder
from tutelage.teachers.knowledge import describe
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import check_finite
from tutelage.training import loop
from tutelage.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tutelage.run.task import TaskRun


@dataclass(frozen=True)
class Lead:
    """The teacher that the report compares the student with."""

    source: Source
    name: str
    dev: dict[str, Texts]
    """The parts of the evaluation set, as it and the student read them."""
    logits: dict[str, Tensor]
    """Its predictions on them."""


def _lead(run: TaskRun, workspace: Workspace) -> Lead | None:
    """The teacher of the run; with teacher assistants the one that these began with, if its weights are here."""
    taught, texts, first = run.teacher, run.texts, run.config.first_teacher
    if taught is None:
        return None
    if first is not None and (source := Source(first, texts.kind.head, pooling=run.config.data.pooling)).has_weights:
        reader = replace(run.reader, teacher=source)
        dev = {name: reader.read(read.examples) for name, read in texts.dev.items()}
        logits = {
            name: workspace.predict(source.model, read.teacher or read.student, f"teacher on {name}", divided=True)
            for name, read in dev.items()
        }
        texts.answered(logits)
        return Lead(
            source, first, {name: replace(dev[name], examples=texts.dev[name].examples) for name in dev}, logits
        )
    name = str(run.config.teacher)
    if taught.store is not None and not taught.source.has_weights:
        name = taught.store.manifest.teacher
    return Lead(
        taught.source, name, texts.dev, {part: taught.logits[part] for part in texts.dev if part in taught.logits}
    )


def measured(run: TaskRun, workspace: Workspace) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], list[str]]:
    """Scores, sizes and speed of teacher, student and twin, by ``teacher``, ``student``, ``baseline``, and what they are as they
    would be served, ``served``; their logits by part of the evaluation set; and warnings."""
    lead, device = _lead(run, workspace), workspace.accelerator.device
    data, kind, (part, texts) = run.texts.data, run.texts.kind, run.texts.evaluation
    dev = run.texts.dev if lead is None else lead.dev
    logits = {"teacher": {} if lead is None else lead.logits}
    models: dict[str, PreTrainedModel] = {"student": run.student}
    if run.wants_baseline and not run.trains_baseline:
        run.baseline = run.untrained()
    if run.baseline is not None:
        models["baseline"] = run.baseline
    for who, model in models.items():
        logits[who] = {
            name: workspace.predict(model, read.student, f"{who} on {name}", divided=True) for name, read in dev.items()
        }
    if workspace.main:
        _keep_predictions(run, workspace.folder, {who: found[part] for who, found in logits.items() if part in found})
    # A teacher of which only a store is at hand is counted but not timed: this machine may have no room for it.
    counted = dict(models)
    if lead is not None:
        counted["teacher"] = lead.source.outline
        if lead.source.has_weights:
            models["teacher"] = lead.source.network().to(device)
    workspace.display.say("measuring speed ...")
    read = {who: (dev[part].teacher if who == "teacher" else None) or texts.student for who in counted}
    times, core = speed.latencies(models, {who: typical(read[who], model) for who, model in models.items()})
    # On other devices the thread that waits may do so without a core.
    busy = speed.busy_note(core) if device.type == "cpu" else None
    if busy is not None:
        workspace.display.say(f"note: {busy}")
    names = {
        "teacher": None if lead is None else lead.name,
        "student": str(workspace.model_folder),
        "baseline": "without teacher",
    }
    entries: dict[str, dict[str, Any] | None] = {"teacher": None, "student": None, "baseline": None}
    for who, model in counted.items():
        scores = {name: kind.scores(data, logits[who][name], read) for name, read in dev.items()}
        entries[who] = {
            "name": names[who],
            "score": scores[part][data.metrics[0]],
            "scores": scores,
            "parameters": speed.count_parameters(model),
            "flops": example_flops(read[who], model),
            "latency_ms": {batch: one.median for batch, one in times[who].items()} if who in times else None,
            "latency_spread_ms": {batch: one.spread for batch, one in times[who].items()} if who in times else None,
            "shape": str(anatomy.shape_of(model.config)),
        }
    student, teacher = entries["student"], entries["teacher"]
    assert student is not None
    student["bytes"] = sum(p.stat().st_size for p in workspace.model_folder.glob("*.safetensors"))
    student["agreement"] = None
    # A sentence encoder is saved without what it is wrapped in.
    made = run.student.encoder if isinstance(run.student, SentenceEncoder) else run.student
    if made.__module__.startswith("tutelage."):
        student["module"] = made.__module__
    if teacher is not None and lead is not None:
        teacher["bytes"] = lead.source.bytes
        relative = data.metrics[0] not in kind.against_teacher
        student["retention"] = student["score"] / teacher["score"] if teacher["score"] and relative else None
        if relative:
            student["over_teacher"] = quality.difference(
                kind, data, texts, logits["student"][part], logits["teacher"][part]
            )
        if teacher["latency_ms"]:
            student["speedup"] = teacher["latency_ms"]["32"] / student["latency_ms"]["32"]
        ours, theirs = logits["student"][part], logits["teacher"][part]
        if kind.single_label:
            student["agreement"] = kind.agreement(ours, theirs)
        if kind.classifies_texts:
            wrong = ours.argmax(1) != torch.from_numpy(texts.examples.labels)
            student["against_label"] = float(((ours.argmax(1) == theirs.argmax(1)) & wrong).float().mean())
    if "baseline" in logits:
        student["over_baseline"] = quality.difference(
            kind, data, texts, logits["student"][part], logits["baseline"][part]
        )
    return {**entries, "served": served(run, models, lead)}, logits, [busy] if busy else []


PREDICTIONS = "predictions/evaluation.safetensors"
"""The file in the folder of a run. A run without a teacher is a model's folder, whose own weights are safetensors too."""


def _keep_predictions(run: TaskRun, folder: Path, logits: dict[str, Tensor]) -> None:
    """Write what each model predicts on the first part of the evaluation set, as ``Kind.per_example`` has it.

    The metadata say of which examples: part, kind, metric, and a fingerprint of texts and labels.
    """
    data, kind, (part, texts) = run.texts.data, run.texts.kind, run.texts.evaluation
    tables = {who: np.ascontiguousarray(kind.per_example(data, found, texts)) for who, found in logits.items()}
    # Labels that are the teacher's own outputs are no part of the data.
    labels = () if data.metrics[0] in kind.against_teacher else texts.examples.labels
    named = [data.labels[label] for label in labels] if kind.classifies_texts else labels
    examples = fingerprint(texts.examples, named)
    about = {"part": part, "kind": data.kind, "metric": data.metrics[0], "examples": examples}
    place = folder / PREDICTIONS
    place.parent.mkdir(exist_ok=True)
    save_file(tables, place.with_suffix(".tmp"), about)
    seal(place.with_suffix(".tmp"))
    os.replace(place.with_suffix(".tmp"), place)


def task_report(run: TaskRun, workspace: Workspace, logs: list[loop.StageLog]) -> TaskReport:
    """The report of a run on a task."""
    config, data, parts, (part, texts) = run.config, run.texts.data, run.texts.parts, run.texts.evaluation
    entries, logits, noted = measured(run, workspace)
    chance = run.texts.kind.constant_scores(data, data.dev[part])
    recipe, taught, held = config.recipe, run.teacher, run.texts.held
    added = len(parts["augmented"].examples) - len(parts["train"].examples) if "augmented" in parts else 0
    mechanisms = [m for stage in recipe.stages for m in stage.mechanisms]
    doubts = [line for m in {m.kind: m for m in mechanisms}.values() for line in m.warnings(workspace.folder)]
    tree = {
        "tutelage": __version__,
        "method": recipe.method,
        "title": recipe.title,
        "paper": recipe.source,
        "references": [one.model_dump() for one in recipe.papers],
        "task": data.task,
        "kind": data.kind,
        "metric": data.metrics[0],
        "selected_by": list(data.selected_by),
        "chance": {m: score for m, score in chance.items() if m in data.metrics},
        "labels": list(data.labels),
        "data": {
            "train": len(data.train),
            "unlabeled": len(data.unlabeled) if data.unlabeled and recipe.needs_teacher else 0,
            "augmented": added,
            "held_out": 0 if held is None else len(held.examples),
            "validation": len(run.texts.selection.examples),
            "evaluation": len(data.dev[part]),
            "classes": class_counts(data.train.labels, data.labels),
            "notes": list(data.notes),
            "sources": {"evaluation": data.sources.get(part, part), **data.sources},
            "truncated": {"train": parts["train"].student.truncated, "evaluation": texts.student.truncated},
            "mean_length": float(texts.student.lengths.mean()),
        },
        **entries,
        "assistants": trained(config),
        **quality.entry(run.texts, run.student, workspace, logits["student"][part], logits["teacher"].get(part)),
        "predictions": predicted.entry(run.texts, run.student, workspace),
        "store": None if taught is None or taught.store is None else describe(taught.store),
        "mapping": mapping_report(run.plans),
        "teacher_layers": None if taught is None else taught.source.shape.layers,
        "student_layers": anatomy.shape_of(run.student.config).layers,
        "vocabulary": run.vocabulary,
        "stages": [{**vars(log), "discarded": number < recipe.begins} for number, log in enumerate(logs)],
        **reported(mechanisms, run.scene),
        "start": run.tried.start,
        "rates": run.tried.rates,
        "twin_rates": run.twin_trials,
        "half": run.tried.half,
        "teacher_rise": None if taught is None else rise_of_run(config.first_teacher or taught.source.name),
        "warnings": run.warnings + doubts + noted,
        "environment": workspace.environment(),
        "origins": workspace.origins,
        "seed": config.seed,
        "seconds": workspace.seconds,
    }
    report = TaskReport.model_validate(tree)
    return report.model_copy(update={"findings": findings(report)})


def evaluate(model: str, data_config: DataConfig, *, quiet: bool = False) -> Evaluation:
    """Score a fine-tuned model on every part of the evaluation set, with notes on what its scores are worth.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.
    """
    with bench(quiet) as desk:
        config = load_config(model)
        data = load_data(data_config, label_names(config) if config.num_labels > 1 else ())
        kind = kind_of(data.kind)
        source = Source(model, kind.head, role="model", pooling=data_config.pooling)
        data, matched = kind.match(data, source.config, model, source.role)
        notes = [*data.notes, *matched]
        fitted = fitted_tokenizer(source.tokenizer, source.model)
        limit_of(data_config, source.config)
        length = longest_input(model, kind, source.config, data_config.max_length)
        scores, learnt = {}, learnt_by_run(model, data_config, data)
        for name, part in data.dev.items():
            encoded = kind.encode(part, fitted, length, data_config.stride)
            check_ids(encoded, fitted, source.config, model, name)
            notes += check_words(encoded, fitted, model, name, trains=False)
            notes += own_limit_notes(encoded, fitted, model, name)
            notes += learnt_notes(learnt, name, part)
            texts = Texts(part, encoded, None)
            notes += truncation_notes(kind, length, [(name, texts)])
            logits = desk.predict(source.model, encoded, name)
            check_finite(logits, model, source.role)
            scores[name] = kind.scores(data, logits, texts)
            notes += _worth(data, name, scores[name], logits, texts, source)
        for note in notes:
            desk.display.say(f"note: {note}")
    return Evaluation(model=model, task=data.task, metric=data.metrics[0], scores=scores, notes=notes)


def _worth(data: Data, name: str, scores: dict[str, float], logits: Tensor, texts: Texts, source: Source) -> list[str]:
    """Notes on a model that is no better than a constant answer, or whose classes are in another order."""
    constant = near_chance(data, scores, texts.examples)
    if constant is not None or unnamed(source.config):
        counts = kind_of(data.kind).confusion(logits, texts, len(data.labels))
        line = None if counts is None else other_order(counts, data, source)
        if line is not None:
            return [line]
    if constant is None:
        return []
    metric = data.metrics[0]
    return [
        f"on {name} the model is no better than a constant answer: {metric} {scores[metric]:.3f}, and {constant[metric]:.3f}"
    ]
