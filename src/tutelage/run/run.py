"""One run: check, plan, train, measure, report."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.artifacts import write_text
from tutelage.errors import TutelageError
from tutelage.objectives.objective import Objective
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Stage
from tutelage.report.card import card
from tutelage.report.page import page
from tutelage.run import corpus
from tutelage.run.measure import measured
from tutelage.run.plan import plan, wants_baseline
from tutelage.run.student import inherit
from tutelage.run.task import (
    Setup,
    baseline_stage,
    feed_of,
    objectives_of,
    prepare,
    read_by,
    release_teacher,
    taught,
    use_store,
)
from tutelage.run.teacher_store import describe, storable
from tutelage.run.team import assembled, doubts, gather, settled, summary, team_for
from tutelage.run.workspace import alone, environment, finish, model_folder, opened, save_student, spent, write_down
from tutelage.students.compactors import compaction
from tutelage.students.load import load_model
from tutelage.tasks import kind_of
from tutelage.teachers.stored import StoredTeacher
from tutelage.teachers.teacher import KnownLogits, LiveTeacher, Teacher, predict
from tutelage.training import checkpoint, loop
from tutelage.training.stages import Work, inherited, train_stages
from tutelage.version import __version__


def run(config: RunConfig, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Carry out a run and return its report (also written to ``report.json``).

    The output folder gets ``config.yaml``, ``metrics.jsonl``, ``student/`` (without a teacher the model lies in the
    folder itself), ``projections.safetensors``, ``report.json`` and ``report.html``.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    if config.tracker is not None and importlib.util.find_spec(config.tracker) is None:
        raise TutelageError(f'the tracker {config.tracker!r} is not installed; pip install "tutelage[track]"')
    with alone(config):
        if all(isinstance(stage.data, Instances) for stage in config.recipe.stages):
            return corpus.run(config, resume=resume, quiet=quiet)
        return _run(config, resume, quiet)


def _run(config: RunConfig, resume: bool, quiet: bool) -> dict[str, Any]:
    began = time.perf_counter()
    config = assembled(config)
    accelerator, display, folder, report = opened(config, resume, quiet)
    if report is not None:
        return report
    with display:
        setup = prepare(config, accelerator, display)
        if config.team:
            setup.team = gather(setup, accelerator, display)
        display.say(plan(setup))
        resumed = checkpoint.load(folder / "checkpoint") if resume else None
        write_down(config, accelerator, folder)
        _write_store(setup, accelerator, display)
        logs, baseline = _train(setup, accelerator, display, folder, resumed)
        report = _report(setup, accelerator, display, folder, logs, baseline)
        report["seconds"] = spent(began, resumed)
        if accelerator.is_main_process:
            write_text(model_folder(config, folder) / "README.md", card(report))
            write_text(folder / "report.html", page(report))
            write_text(folder / "report.json", json.dumps(report, indent=1))
            checkpoint.remove(folder / "checkpoint")
        finish(accelerator)
    return report


def _train(
    setup: Setup, accelerator: Accelerator, display: Display, folder: Path, resumed: checkpoint.State | None
) -> tuple[list[loop.StageLog], PreTrainedModel | None]:
    """Train the student through its stages, then the baseline; returns their logs and the baseline."""
    config, data, kind = setup.config, setup.data, kind_of(setup.data.kind)
    stages = config.recipe.stages
    baseline: PreTrainedModel | None = None

    def begin(index: int, logs: list[loop.StageLog]) -> Work:
        nonlocal baseline
        if index < len(stages) and stages[index].fresh and index:
            setup.student = setup.new_student(False).to(accelerator.device)
        model, who = setup.student, "student"
        teacher_shape = None if setup.teacher is None else setup.teacher.shape
        if index < len(stages):
            stage = stages[index]
        else:  # how many steps the baseline takes is known when the student is done
            steps = sum(log.steps for log in logs[config.recipe.begins :])
            stage, who, teacher_shape = baseline_stage(config, steps), "baseline", None
            model = baseline = setup.new_student(True)
        torch.manual_seed(config.seed)  # making a student has drawn numbers
        release_teacher(setup)  # and may have loaded its teacher
        shape = anatomy.shape_of(compaction.config_of(model))  # of a resumed run, whose student is still to be merged
        objective = Objective(stage.objective, kind, shape, teacher_shape)
        inherit(objective, config.recipe.student)

        def select() -> float:
            logits = predict(model, setup.selection.student, accelerator)
            return kind.scores(data, logits, setup.selection)[data.metrics[0]]

        if stage.team is None:
            teacher, weigher = _teacher_for(setup, stage, objective, accelerator, display), None
        else:
            teacher, weigher = team_for(setup, index, objective, model, folder, accelerator)

        def settle() -> None:
            if weigher is not None:
                settled(setup, stage, weigher, folder, accelerator, display)

        return Work(
            who,
            stage,
            model,
            objective,
            feed_of(stage, read_by(setup, stage, accelerator, display)),
            teacher,
            select if stage.select == "best" and objective.student_needs.logits else None,
            weigher,
            settle,
        )

    def end(work: Work, projections: dict[str, Tensor]) -> None:
        save_student(setup.student, setup.tokenizer, folder, model_folder(config, folder), projections)

    count = len(stages) + wants_baseline(config)
    logs = train_stages(count, begin, end, folder, accelerator, display, config.seed, resumed)
    if resumed is not None and resumed["work"] >= len(stages):
        path = str(model_folder(config, folder))
        setup.student = load_model(path, kind.head)[0].to(accelerator.device)
    return logs, baseline


def _teacher_for(
    setup: Setup, stage: Stage, objective: Objective, accelerator: Accelerator, display: Display
) -> Teacher | None:
    if not objective.teacher_needs or setup.teacher is None:
        return None
    assert isinstance(stage.data, str)
    texts, needs = setup.texts(stage), objective.teacher_needs
    if not needs.running:
        logits = taught(setup, stage.data, accelerator, display)
        return KnownLogits(logits.to(accelerator.device), texts.student.asked)
    if setup.store is not None and setup.store.scheme.lacks(needs) is None:
        return StoredTeacher(setup.store, setup.rows[stage.data], needs)
    return LiveTeacher(setup.teacher.model.to(accelerator.device), needs, texts.teacher, accelerator)


def _write_store(setup: Setup, accelerator: Accelerator, display: Display) -> None:
    """Write the store that the plan has announced, if it has, and let the teacher go when it has said all."""
    if setup.to_write is None or setup.knowledge is None or setup.teacher is None:
        return
    needs = storable(objectives_of(setup))
    found = setup.knowledge.find_or_write(setup.to_write, needs, setup.teacher_logits, accelerator, display)
    use_store(setup, *found, display)
    release_teacher(setup)


def _report(
    setup: Setup,
    accelerator: Accelerator,
    display: Display,
    folder: Path,
    logs: list[loop.StageLog],
    baseline: PreTrainedModel | None,
) -> dict[str, Any]:
    config, data = setup.config, setup.data
    entries = measured(setup, accelerator, display, folder, baseline)
    part = next(iter(setup.dev))
    student_shape = anatomy.shape_of(setup.student.config)
    teacher_shape = None if setup.teacher is None else setup.teacher.shape
    mapping = []
    for stage, objective in zip(config.recipe.stages, objectives_of(setup), strict=True):
        for term, mapped in zip(objective.terms, objective.mapped, strict=True):
            if mapped:
                mapping.append({"stage": stage.name, "knowledge": term.kind, "pairs": [list(pair) for pair in mapped]})
    return {
        "tutelage": __version__,
        "method": config.recipe.method,
        "title": config.recipe.title,
        "paper": config.recipe.paper,
        "task": data.task,
        "kind": data.kind,
        "metric": data.metrics[0],
        "labels": list(data.labels),
        "data": {
            "train": len(data.train),
            "unlabeled": len(data.unlabeled) if data.unlabeled and config.recipe.needs_teacher else 0,
            "augmented": len(setup.parts["augmented"].examples) - len(setup.train.examples)
            if "augmented" in setup.parts
            else 0,
            "held": 0 if setup.held is None else len(setup.held.examples),
            "selection": len(setup.selection.examples),
            "report": len(data.dev[part]),
            "sources": {"report": data.sources.get(part, part), **data.sources},
            "truncated": {"train": setup.train.student.truncated, part: setup.dev[part].student.truncated},
            "mean_length": float(setup.dev[part].student.lengths.mean()),
        },
        **entries,
        "store": None if setup.store is None else describe(setup.store),
        "mapping": mapping,
        "teacher_layers": teacher_shape.layers if teacher_shape else None,
        "student_layers": student_shape.layers,
        "stages": [{**vars(log), "discarded": number < config.recipe.begins} for number, log in enumerate(logs)],
        "inherited": inherited(folder),
        "team": None if setup.team is None else summary(setup, folder),
        "warnings": setup.warnings + doubts(folder),
        "environment": environment(accelerator, config.mixed_precision),
        "seed": config.seed,
    }
