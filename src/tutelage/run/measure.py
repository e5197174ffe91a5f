"""Scores, sizes and speed of the models of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from accelerate import Accelerator
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.config import DataConfig
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.evaluation import speed
from tutelage.progress import Display
from tutelage.run.plan import typical
from tutelage.run.task import Setup
from tutelage.run.workspace import model_folder, new_accelerator
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import predicted


def measured(
    setup: Setup, accelerator: Accelerator, display: Display, folder: Path, baseline: PreTrainedModel | None
) -> dict[str, dict[str, Any] | None]:
    """Scores, sizes and speed of teacher, student and baseline."""
    config, data, kind = setup.config, setup.data, kind_of(setup.data.kind)
    part, texts = next(iter(setup.dev.items()))
    logits = {"teacher": {name: setup.teacher_logits[name] for name in setup.dev if name in setup.teacher_logits}}
    models: dict[str, PreTrainedModel] = {"student": setup.student}
    if baseline is not None:
        models["baseline"] = baseline
    for who, model in models.items():
        model.to(accelerator.device)
        logits[who] = {
            name: predicted(model, texts.student, accelerator, display, f"{who} on {name}")
            for name, texts in setup.dev.items()
        }
    # A teacher of which only a store is at hand is counted but not timed: this machine may have no room for it.
    counted = dict(models)
    if setup.teacher is not None:
        counted["teacher"] = setup.teacher.outline
        if setup.teacher.has_weights:
            models["teacher"] = setup.teacher.network().to(accelerator.device)
    display.say("measuring speed ...")
    read = {who: (texts.teacher if who == "teacher" else None) or texts.student for who in counted}
    latency = speed.latencies(models, {who: typical(read[who], model) for who, model in models.items()})
    teacher_name = config.teacher
    if setup.teacher is not None and not setup.teacher.has_weights and setup.store is not None:
        teacher_name = setup.store.manifest.teacher
    names = {"teacher": teacher_name, "student": str(model_folder(config, folder)), "baseline": "without teacher"}
    entries: dict[str, dict[str, Any] | None] = {"teacher": None, "student": None, "baseline": None}
    for who, model in counted.items():
        scores = {name: kind.scores(data, logits[who][name], texts) for name, texts in setup.dev.items()}
        entries[who] = {
            "name": names[who],
            "score": scores[part][data.metrics[0]],
            "scores": scores,
            "parameters": speed.count_parameters(model),
            "flops": speed.flops(model, typical(read[who], model)(1)),
            "latency_ms": latency.get(who),
            "shape": str(anatomy.shape_of(model.config)),
        }
    student, teacher = entries["student"], entries["teacher"]
    assert student is not None
    student["bytes"] = sum(p.stat().st_size for p in model_folder(config, folder).glob("*.safetensors"))
    student["agreement"] = None
    if setup.student.__module__.startswith("tutelage."):
        student["module"] = setup.student.__module__
    if teacher is not None:
        student["retention"] = student["score"] / teacher["score"] if teacher["score"] else None
        if teacher["latency_ms"]:
            student["speedup"] = teacher["latency_ms"]["32"] / student["latency_ms"]["32"]
        if kind.single_label:
            same = logits["student"][part].argmax(1) == logits["teacher"][part].argmax(1)
            student["agreement"] = float(same.float().mean())
    return entries


def evaluate(model: str, data_config: DataConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Score a fine-tuned model on every part of dev.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    accelerator, display = new_accelerator(), Display(quiet)
    with display:
        data = load_data(data_config)
        kind = kind_of(data.kind)
        source = Source(model, kind.head)
        network, tokenizer = source.model, source.tokenizer
        data, warnings = kind.match(data, source.config, model)
        for warning in warnings:
            display.say(f"note: {warning}")
        network.to(accelerator.device)
        limit = anatomy.max_length(network.config)
        scores = {}
        for name, part in data.dev.items():
            fitted, length = fitted_tokenizer(tokenizer, network), data_config.max_length or kind.longest(limit)
            texts = Texts(part, kind.encode(part, fitted, length, data_config.stride), None)
            logits = predicted(network, texts.student, accelerator, display, name)
            scores[name] = kind.scores(data, logits, texts)
    return {"model": model, "task": data.task, "metric": data.metrics[0], "scores": scores}
