"""A run on raw text: general distillation, or pretraining without a teacher. What comes out serves any task."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.artifacts import write_text
from tutelage.data import batches
from tutelage.data.corpus.reading import Corpus, Epoch
from tutelage.data.examples import Encoded, Rows
from tutelage.data.masking import Masker, next_tokens
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer, tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.knowledge.signals import Signals
from tutelage.objectives.objective import Objective
from tutelage.progress import Display, duration
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Stage
from tutelage.report.corpus import card, page
from tutelage.run.plan import forgetting_line, mapping_lines, planned_steps
from tutelage.run.workspace import environment, finish, opened, save_student, spent, write_down
from tutelage.students.build import build
from tutelage.students.compactors import compaction
from tutelage.students.load import resolve
from tutelage.students.specs import origin_of, takes_from_teacher
from tutelage.tasks import KINDS
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import LiveTeacher
from tutelage.training import checkpoint, loop
from tutelage.training.stages import Work, inherited, train_stages
from tutelage.version import __version__

HELD_OUT = 256
"""Instances that are kept out of training, on which the losses are compared before and after."""


HELD_OUT_TOKENS = 200_000
"""A hundredth of a corpus, at most so many tokens, is kept out of training; of a small one two instances."""


HELD_OUT_FILE = "held_out.json"


class Drawn:
    """The feed of a stage on a corpus: instances are drawn by (seed, epoch, row), so nothing of them is ever saved."""

    def __init__(
        self,
        corpus: Corpus,
        instances: Instances,
        head: Head,
        seed: int,
        counts: npt.NDArray[np.int64] | None = None,
        *,
        types: bool,
    ) -> None:
        self._corpus, self._instances, self._head, self._seed, self._types = corpus, instances, head, seed, types
        self._masker = None
        if instances.masking is not None:
            self._masker = Masker(instances.masking, corpus.tokenizer, counts)
        self._planned: tuple[int, Epoch] | None = None

    def lengths(self, epoch: int) -> npt.NDArray[np.int64]:
        return self._epoch(epoch).lengths

    def rows(self, epoch: int) -> Rows:
        return np.arange(len(self._epoch(epoch)))

    def read(self, epoch: int, rows: Rows) -> Encoded:
        step = self._epoch(epoch).read(rows)
        if not self._types:
            step = replace(step, types=None)
        if self._masker is not None:
            return self._masker(step, rows, self._seed, epoch)
        return next_tokens(step) if self._head == "next_words" else step

    def _epoch(self, epoch: int) -> Epoch:
        if self._planned is None or self._planned[0] != epoch:
            plan = self._corpus.epoch(self._instances.packing, self._instances.length, self._seed, epoch)
            self._planned = epoch, plan
        return self._planned[1]


@dataclass
class Setup:
    """Everything a run on a corpus is made of, checked and loaded."""

    config: RunConfig
    corpus: Corpus
    head: Head
    teacher: Source | None
    student: PreTrainedModel
    tokenizer: Any
    feeds: list[Drawn]
    held_out: list[tuple[Rows, Encoded]]
    """For each stage the same instances, masked as they are in that stage, and their rows."""
    kept_out: int
    """Tokens of the corpus that no stage is trained on; none of a corpus of a few sentences."""
    losses: list[dict[str, dict[str, float]]] = field(default_factory=list)
    """On them, ``before`` and ``after`` each stage."""


def run(config: RunConfig, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Carry out a run on a corpus and return its report (also written to ``report.json``).

    The output folder gets ``config.yaml``, ``metrics.jsonl``, ``student/``, ``projections.safetensors``, ``report.json``
    and ``report.html``.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    began = time.perf_counter()
    accelerator, display, folder, report = opened(config, resume, quiet)
    if report is not None:
        return report
    with display:
        setup = prepare(config, accelerator)
        display.say(plan(setup, accelerator))
        resumed = checkpoint.load(folder / "checkpoint") if resume else None
        write_down(config, accelerator, folder)
        logs = _train(setup, accelerator, display, folder, resumed)
        report = _report(setup, accelerator, folder, logs)
        report["seconds"] = spent(began, resumed)
        if accelerator.is_main_process:
            write_text(folder / "student" / "README.md", card(report))
            write_text(folder / "report.html", page(report))
            write_text(folder / "report.json", json.dumps(report, indent=1))
            (folder / HELD_OUT_FILE).unlink(missing_ok=True)
            checkpoint.remove(folder / "checkpoint")
        finish(accelerator)
    return report


def prepare(config: RunConfig, accelerator: Accelerator) -> Setup:
    """Load and check everything; every mistake a user can make ends here, before anything is written.

    Raises:
        TutelageError: with the thing, the value and the remedy.
    """
    stages = config.recipe.stages
    if config.corpus is None:
        raise TutelageError("there is nothing to learn from; give --corpus FOLDER (tutelage corpus build makes one)")
    corpus = Corpus(Path(config.corpus))
    heads = {stage.head for stage in stages} - {"none"}
    if len(heads) > 1:
        raise TutelageError("one stage predicts masked words, another the next words; use one kind of model for a run")
    head: Head = heads.pop() if heads else "none"
    teacher, spec = None, config.recipe.student
    if config.teacher is None and config.recipe.needs_teacher:
        raise TutelageError(f"the method {config.recipe.method!r} needs a teacher; give --teacher MODEL")
    if config.teacher is not None:
        soft = [
            t for stage in stages for t in stage.objective if t.kind in ("soft_labels", "logits_mse") and t.weight > 0
        ]
        taken = takes_from_teacher(spec)  # with the head, if the student needs one
        teacher = Source(config.teacher, head if soft or taken else "none")
    source = None
    if teacher is not None:
        source = teacher.model if takes_from_teacher(spec) else teacher.outline
    student = build(spec, source, {}, config.seed, head=head).to(accelerator.device)
    for name, tokenizer in _tokenizers(teacher, origin_of(spec)):
        if tokenizer_fingerprint(tokenizer) != corpus.manifest.tokenizer_fingerprint:
            raise TutelageError(
                f"the corpus {config.corpus!r} was built with another tokenizer than {name!r}'s; build one with "
                f"--tokenizer {name}"
            )
    feeds, held_out = [], []
    longest = max(stage.data.length for stage in stages if isinstance(stage.data, Instances))
    learnt, apart = corpus.split(min(HELD_OUT_TOKENS, max(corpus.manifest.tokens // 100, 2 * longest)))
    typed = {anatomy.has_token_types(c) for c in [student.config, *([teacher.config] if teacher else [])]}
    types = typed == {True}
    for stage in stages:
        assert isinstance(stage.data, Instances)
        if stage.data.packing == "pairs" and len(typed) > 1:
            raise TutelageError(
                f"stage {stage.name!r} reads pairs, which teacher and student tell apart in different ways (one by token "
                "types); use --set data.packing=segments"
            )
        limit = min(anatomy.max_length(c) for c in [student.config, *([teacher.config] if teacher else [])])
        if stage.data.length > limit:
            raise TutelageError(
                f"stage {stage.name!r} has data.length={stage.data.length}, beyond the model's {limit} positions"
            )
        if stage.train == "head" and not set(student.parameters()) - set(anatomy.base_of(student).parameters()):
            raise TutelageError(
                f"stage {stage.name!r} trains the head alone, but that of this {student.config.model_type} has no weights of "
                "its own; train all of it (leave out --head-only)"
            )
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")
        shape = teacher.shape if teacher else None
        objective = Objective(stage.objective, KINDS["tokens"], anatomy.shape_of(student.config), shape)
        if objective.teacher_needs.pooled and teacher is not None:
            anatomy.pooler_of(student)
            teacher.check_pooler()
        counts = corpus.counts if stage.data.masking and stage.data.masking.smoothing else None
        feeds.append(Drawn(learnt, stage.data, head, config.seed, counts, types=types))
        unseen = Drawn(apart, stage.data, head, 0, counts, types=types)
        rows = unseen.rows(0)[:HELD_OUT]
        held_out.append((rows, unseen.read(0, rows)))
    tokenizer = fitted_tokenizer(corpus.tokenizer, student)
    kept_out = 0 if apart is corpus else len(apart.tokens)
    return Setup(config, corpus, head, teacher, student, tokenizer, feeds, held_out, kept_out)


def _tokenizers(teacher: Source | None, named: str | None) -> list[tuple[str, Any]]:
    found = [] if teacher is None else [(teacher.name, teacher.tokenizer)]
    return found if named is None else [*found, (named, load_tokenizer(resolve(named)))]


def plan(setup: Setup, accelerator: Accelerator) -> str:
    """What will happen, in words: sizes, steps, operations, time."""
    config, about = setup.config, setup.corpus.manifest
    network = compaction.as_merged(setup.student).to(accelerator.device)
    student = anatomy.shape_of(network.config)
    kept = (
        f"{setup.kept_out:,} kept out"
        if setup.kept_out
        else "too few to keep any out: the losses reported are on learnt text"
    )
    lines = [
        f"{config.recipe.title} on {about.tokens:,} tokens of {about.documents:,} documents ({config.corpus}), {kept}"
    ]
    if setup.teacher is not None:
        size = speed.count_parameters(setup.teacher.outline) / 1e6
        lines.append(f"teacher  {setup.teacher.shape}, {size:.1f} M parameters")
    lines.append(f"student  {student}, {speed.count_parameters(network) / 1e6:.1f} M parameters")
    seconds = 0.0
    for stage, feed in zip(config.recipe.stages, setup.feeds, strict=True):
        assert isinstance(stage.data, Instances)
        lengths = feed.lengths(0)
        steps = planned_steps(stage, feed)
        objective = objective_of(setup, stage)
        flops = stage.batch_size * step_flops(setup, stage)
        seconds += steps * flops / _rate(setup, network, stage, accelerator)
        lines.append(
            f"stage {stage.name}: {steps:,} steps of {stage.batch_size} {stage.data.packing}, {lengths.mean():.0f} tokens each, "
            f"{flops / 1e9:.1f} GFLOP; reads {objective.student_needs} of the student and {objective.teacher_needs} of the "
            "teacher"
        )
        if stage.forgetting is not None:
            lines.append(forgetting_line(setup.student, stage.forgetting, steps))
        if setup.teacher is not None:
            lines += mapping_lines(objective, student, setup.teacher.shape)
    lines.append(f"expected time on this machine: about {duration(seconds)}")
    word = compaction.advice(setup.student)
    lines += [f"note: {word}"] if word else []
    return "\n".join(lines)


def step_flops(setup: Setup, stage: Stage) -> float:
    """Operations that one instance needs: the student forwards and twice that backwards, the teacher as far as it is read.

    The head counts at the places asked only.
    """
    assert isinstance(stage.data, Instances)
    index = setup.config.recipe.stages.index(stage)
    length = float(setup.feeds[index].lengths(0).mean())
    objective = objective_of(setup, stage)
    shape = anatomy.shape_of(compaction.config_of(setup.student))
    ours = speed.encoder_flops(shape, length)
    asked = setup.held_out[index][1].asked.mean() if setup.head != "none" else 0.0
    word = 2.0 * setup.student.config.vocab_size
    ours += asked * word * shape.hidden if objective.student_needs.logits else 0.0
    if setup.teacher is None or not objective.teacher_needs:
        return 3 * ours
    theirs, needs = setup.teacher.shape, objective.teacher_needs
    layers = theirs.layers if needs.logits or needs.pooled else needs.measured.top
    cost = speed.encoder_flops(theirs, length) * layers / theirs.layers
    return 3 * ours + cost + (asked * word * theirs.hidden if needs.logits else 0.0)


def _rate(setup: Setup, network: PreTrainedModel, stage: Stage, accelerator: Accelerator) -> float:
    """Operations a second of a forward pass of ``network``, of the student's sizes, measured."""
    assert isinstance(stage.data, Instances)
    inputs = batches.padded(setup.held_out[0][1], np.arange(min(8, len(setup.held_out[0][0]))))
    inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
    base = anatomy.base_of(network)
    with accelerator.autocast():
        trial = speed.latencies({"student": base}, {"student": lambda count: inputs}, batch_sizes=(1,), repeats=3)
    tokens = inputs["input_ids"].numel()
    per_token = speed.encoder_flops(anatomy.shape_of(base.config), stage.data.length) / stage.data.length
    return tokens * per_token / (trial["student"]["1"] / 1000)


def objective_of(setup: Setup, stage: Stage) -> Objective:
    """What a stage teaches."""
    teacher = None if setup.teacher is None else setup.teacher.shape
    return Objective(stage.objective, KINDS["tokens"], anatomy.shape_of(compaction.config_of(setup.student)), teacher)


def _train(
    setup: Setup, accelerator: Accelerator, display: Display, folder: Path, resumed: checkpoint.State | None
) -> list[loop.StageLog]:
    config = setup.config
    path = folder / HELD_OUT_FILE
    if resumed is not None and path.exists():
        setup.losses = json.loads(path.read_text(encoding="utf-8"))
        setup.student.load_state_dict(resumed["student.safetensors"])

    def begin(index: int, logs: list[loop.StageLog]) -> Work:
        stage = config.recipe.stages[index]
        torch.manual_seed(config.seed)
        objective = objective_of(setup, stage).to(accelerator.device)
        teacher = None
        if setup.teacher is not None and objective.teacher_needs:
            model = setup.teacher.model.to(accelerator.device)
            teacher = LiveTeacher(model, objective.teacher_needs, None, accelerator)
        work = Work("student", stage, setup.student, objective, setup.feeds[index], teacher)
        measure = _measure(work, setup.held_out[index], accelerator)
        if len(setup.losses) <= index:
            setup.losses.append({"before": measure()})
            if accelerator.is_main_process:
                write_text(path, json.dumps(setup.losses))
        work.score = lambda: -sum(_remember(setup.losses[index], measure()).values())
        return work

    def end(work: Work, projections: dict[str, Tensor]) -> None:
        save_student(setup.student, setup.tokenizer, folder, folder / "student", projections)
        write_text(path, json.dumps(setup.losses))

    return train_stages(len(config.recipe.stages), begin, end, folder, accelerator, display, config.seed, resumed)


def _remember(losses: dict[str, dict[str, float]], now: dict[str, float]) -> dict[str, float]:
    losses["after"] = now
    return now


def _measure(work: Work, held_out: tuple[Rows, Encoded], accelerator: Accelerator) -> Callable[[], dict[str, float]]:
    """A function that says the losses on the instances held out, by term."""

    def measure() -> dict[str, float]:
        lesson = loop.Lesson(work.model, work.objective).eval()
        rows, step = held_out
        sums: dict[str, Tensor] = {}
        with torch.no_grad(), accelerator.autocast():
            for part in batches.step_batches(step, rows, 0, 1, work.stage.max_tokens):
                batch = part.to(accelerator.device)
                for name, loss in lesson(batch, work.teacher.signals(batch) if work.teacher else Signals()).items():
                    sums[name] = sums.get(name, 0) + loss
        lesson.close()
        lesson.train()
        return {name: float(total) for name, total in sums.items()}

    return measure


def _report(setup: Setup, accelerator: Accelerator, folder: Path, logs: list[loop.StageLog]) -> dict[str, Any]:
    config, corpus = setup.config, setup.corpus
    losses = [
        {when: {**values, **_perplexity(stage, values)} for when, values in held.items()}
        for stage, held in zip(config.recipe.stages, setup.losses, strict=True)
    ]
    teacher = None
    if setup.teacher is not None:
        size = speed.count_parameters(setup.teacher.outline)
        teacher = {"name": config.teacher, "shape": str(setup.teacher.shape), "parameters": size}
    return {
        "tutelage": __version__,
        "general": True,
        "method": config.recipe.method,
        "title": config.recipe.title,
        "paper": config.recipe.paper,
        "predicts": setup.head,
        "held_out": len(setup.held_out[0][0]),
        "corpus": {
            "path": str(config.corpus),
            "sources": list(corpus.sources),
            "tokens": corpus.manifest.tokens,
            "documents": corpus.manifest.documents,
        },
        "teacher": teacher,
        "student": {
            "name": str(folder / "student"),
            "shape": str(anatomy.shape_of(setup.student.config)),
            "parameters": speed.count_parameters(setup.student),
            "bytes": sum(p.stat().st_size for p in (folder / "student").glob("*.safetensors")),
        },
        "stages": [
            {**vars(log), "held_out": held, "data": stage.data.model_dump(mode="json")}
            for log, held, stage in zip(logs, losses, config.recipe.stages, strict=True)
            if isinstance(stage.data, Instances)
        ],
        "inherited": inherited(folder),
        "environment": environment(accelerator, config.mixed_precision),
        "seed": config.seed,
    }


def _perplexity(stage: Stage, losses: dict[str, float]) -> dict[str, float]:
    """Of the words asked, where they are among the losses."""
    weights = {term.kind: term.weight for term in stage.objective}
    return {"perplexity": math.exp(losses["hard_labels"] / weights["hard_labels"])} if "hard_labels" in losses else {}
