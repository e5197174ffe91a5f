"""A run on raw text: general distillation, or pretraining without a teacher. The result can be fine-tuned on any task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.artifacts import read_signed, signed, write_text
from tutelage.data import batches
from tutelage.data.corpus.reading import Corpus, Epoch
from tutelage.data.examples import Encoded, Rows
from tutelage.data.masking import Masker, next_tokens
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer, tokenizer_fingerprint
from tutelage.errors import TutelageError, option
from tutelage.evaluation import speed
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.hook import Hook
from tutelage.mechanisms.mechanism import reported
from tutelage.mechanisms.scene import Scene, StageScene
from tutelage.objectives.objective import Objective, ObjectivePlan
from tutelage.progress import duration
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Stage
from tutelage.report.model import CorpusReport
from tutelage.run import checks
from tutelage.run.origins import origins
from tutelage.run.pairing import copied_layers, paired
from tutelage.run.plan import StagePlan, mapping_lines, model_line, planned_steps
from tutelage.run.teacher import Answers
from tutelage.run.workspace import PROJECTIONS, Bench, Workspace
from tutelage.students.build import build
from tutelage.students.final import final_config, final_network, notes
from tutelage.students.specs import origin_of, takes_from_teacher
from tutelage.tasks import KINDS
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import LiveTeacher
from tutelage.training import loop
from tutelage.training.stages import StageWork
from tutelage.version import __version__

HELD_OUT = 256
"""Number of held-out instances. The report compares the losses on them before and after training."""


HELD_OUT_TOKENS = 200_000
"""Upper limit of the held-out text in tokens. It is 1 % of the corpus, and at least two instances."""


HELD_OUT_FILE = "held_out.json"


class DrawnInstances:
    """The feed of a stage on a corpus: instances are drawn by (seed, epoch, row), so none is ever saved."""

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
        return next_tokens(step) if self._head == "causal_lm" else step

    def _epoch(self, epoch: int) -> Epoch:
        if self._planned is None or self._planned[0] != epoch:
            plan = self._corpus.epoch(self._instances.packing, self._instances.length, self._seed, epoch)
            self._planned = epoch, plan
        return self._planned[1]


def _check_unused(config: RunConfig) -> None:
    """See that no option was given that is for texts of a task.

    Raises:
        TutelageError: for one that would do nothing.
    """
    given = {name: getattr(config.data, name) for name in ("train", "dev", "unlabeled", "candidates", "max_length")}
    given["teacher_store"] = config.teacher_store
    for name in (name for name, value in given.items() if value is not None):
        stage = config.recipe.stages[0].name
        remedy = (
            f"set the length with {option('settings')} stages.{stage}.data.length=128"
            if name == "max_length"
            else "leave it out"
        )
        raise TutelageError(f"{option(name)} is for the texts of a task, and this run is on raw text; {remedy}")


class CorpusRun:
    """A run on raw text, checked and loaded. Nothing is written yet.

    Raises:
        TutelageError: for every mistake of the user, with the thing, the value and the remedy.
    """

    leftovers = (HELD_OUT_FILE,)
    """Files in the run's folder that are removed when the report is written."""

    def __init__(self, bench: Bench, config: RunConfig) -> None:
        self.bench, self.config = bench, config
        stages, spec = config.recipe.stages, config.recipe.student
        if config.corpus is None:
            raise TutelageError(
                f"there is no text to train on; give {option('corpus')} FOLDER (tutelage corpus build makes one)"
            )
        if spec.vocabulary != "full":
            raise TutelageError(
                "a run on raw text reads the whole vocabulary of its corpus; leave out vocabulary=trimmed here, and trim when the "
                f"student learns a task: {option('student')} name=FOLDER,vocabulary=trimmed"
            )
        _check_unused(config)
        self.corpus = Corpus(Path(config.corpus))
        total = sum(self.corpus.manifest.bytes.values())
        self.corpus.verify(lambda count: bench.display.advance("corpus verified", total, count))
        heads = {stage.head for stage in stages} - {"none"}
        if len(heads) > 1:
            raise TutelageError(
                "one stage predicts masked tokens, another the next tokens; use one kind of model for a run"
            )
        self.head: Head = heads.pop() if heads else "none"
        self.teacher: Source | None = None
        if config.teacher is None and config.recipe.needs_teacher:
            raise TutelageError(f"the method {config.recipe.method!r} needs a teacher; give {option('teacher')} MODEL")
        taken = takes_from_teacher(spec)  # with the head, if the student needs one
        if config.teacher is not None:
            soft = any(
                term.on_logits and not term.teacherless and term.weight > 0
                for stage in stages
                for term in stage.objective
            )
            self.teacher = Source(config.teacher, self.head if soft or taken else "none")
        source = None if self.teacher is None else self.teacher.model if taken else self.teacher.outline
        self.student = build(spec, source, {}, config.seed, head=self.head).to(bench.accelerator.device)
        self._check_tokenizers(origin_of(spec))
        shape = anatomy.shape_of(final_config(self.student))
        theirs = None if self.teacher is None else self.teacher.shape
        copied = copied_layers(spec, None if source is None else anatomy.shape_of(source.config), theirs)
        self.objectives = [
            ObjectivePlan(
                paired(stage.objective, copied, theirs.layers if theirs else 0), KINDS["tokens"], shape, theirs
            )
            for stage in stages
        ]
        self.feeds: list[DrawnInstances] = []
        self.held_out: list[tuple[Rows, Encoded]] = []
        """For each stage the rows of the held-out instances, and the instances as that stage masks them."""
        self._read()
        self.tokenizer = fitted_tokenizer(self.corpus.tokenizer, self.student)
        bench.rehearse(self.student, self.tokenizer, self.head)
        self.losses: list[dict[str, dict[str, float]]] = []
        """The losses on them, ``before`` and ``after`` each stage."""
        numbered = enumerate(zip(stages, self.objectives, strict=True))
        scenes = [StageScene(stage, index, plan, None) for index, (stage, plan) in numbered]
        folder, place = Path(str(config.out)), bench
        self.scene = Scene(
            place.accelerator, place.display, folder, config.seed, scenes, self.student, config.recipe.student, []
        )
        for scene in scenes:
            for mechanism in scene.stage.mechanisms:
                mechanism.prepare(self.scene, scene)

    # --------------------------------------------------------------------------------------------- load and check

    def _check_tokenizers(self, named: str | None) -> None:
        found = [] if self.teacher is None else [(self.teacher.name, self.teacher.tokenizer)]
        if named is not None:
            found.append((named, load_tokenizer(named)))
        for name, tokenizer in found:
            if tokenizer_fingerprint(tokenizer) != self.corpus.manifest.tokenizer_fingerprint:
                raise TutelageError(
                    f"the corpus {self.config.corpus!r} was built with another tokenizer than {name!r}'s; build one with "
                    f"{option('tokenizer')} {name}"
                )

    def _read(self) -> None:
        """Draw the feeds of all stages, and the held-out instances."""
        stages, teacher, student = self.config.recipe.stages, self.teacher, self.student
        longest = max(stage.data.length for stage in stages if isinstance(stage.data, Instances))
        tokens = self.corpus.manifest.tokens
        learnt, apart = self.corpus.split(min(HELD_OUT_TOKENS, max(tokens // 100, 2 * longest)))
        self.kept_out = 0 if apart is self.corpus else len(apart.tokens)
        configs = [student.config, *([teacher.config] if teacher else [])]
        typed = {anatomy.has_token_types(c) for c in configs}
        limit = min(anatomy.max_length(c) for c in configs)
        checks.check_padding(self.config, limit)
        for stage, plan in zip(stages, self.objectives, strict=True):
            assert isinstance(stage.data, Instances)
            if stage.data.packing == "pairs" and len(typed) > 1:
                raise TutelageError(
                    f"stage {stage.name!r} reads pairs of segments, but only one of teacher and student has token types; use "
                    f"{option('settings')} data.packing=segments"
                )
            if stage.data.length > limit:
                raise TutelageError(
                    f"stage {stage.name!r} has data.length={stage.data.length}, beyond the model's {limit} positions"
                )
            if stage.train == "head" and not set(student.parameters()) - set(anatomy.base_of(student).parameters()):
                raise TutelageError(
                    f"stage {stage.name!r} trains only the head, but the head of this {student.config.model_type} has no "
                    f"weights of its own; train the whole model (leave out {option('head_only', True)})"
                )
            checks.check_poolers(plan, student, None)
            if plan.teacher_needs.pooled and teacher is not None:
                teacher.check_pooler()
            counts = self.corpus.counts if stage.data.masking and stage.data.masking.smoothing else None
            types = typed == {True}
            self.feeds.append(DrawnInstances(learnt, stage.data, self.head, self.config.seed, counts, types=types))
            unseen = DrawnInstances(apart, stage.data, self.head, 0, counts, types=types)
            rows = unseen.rows(0)[:HELD_OUT]
            self.held_out.append((rows, unseen.read(0, rows)))

    # ------------------------------------------------------------------------------------------------------- plan

    @cached_property
    def plans(self) -> list[StagePlan]:
        """The plans of the stages."""
        plans = []
        for index, (stage, objective) in enumerate(zip(self.config.recipe.stages, self.objectives, strict=True)):
            answers: Answers = "running" if self.teacher is not None and objective.teacher_needs else "none"
            steps, flops = planned_steps(stage, self.feeds[index]), self._flops(index, objective)
            plans.append(StagePlan(stage, index, objective, None, answers, steps, flops))
        return plans

    @property
    def count(self) -> int:
        """How many stages are trained."""
        return len(self.config.recipe.stages)

    def plan(self) -> str:
        """The printed plan: sizes, steps, operations, time."""
        config, about = self.config, self.corpus.manifest
        network = final_network(self.student)
        kept = (
            f"{self.kept_out:,} held out"
            if self.kept_out
            else "too few to hold any out, so the reported losses are on training text"
        )
        lines = [
            f"{config.recipe.title} on {about.tokens:,} tokens of {about.documents:,} documents ({config.corpus}), {kept}"
        ]
        if self.teacher is not None:
            lines.append(model_line("teacher", self.teacher.shape, self.teacher.outline))
        lines.append(model_line("student", anatomy.shape_of(network.config), network))
        seconds = 0.0
        for plan, scene in zip(self.plans, self.scene.stages, strict=True):
            assert isinstance(plan.stage.data, Instances)
            seconds += plan.steps * plan.stage.batch_size * plan.flops / self._rate(network, plan.stage.data.length)
            length = self.feeds[plan.index].lengths(0).mean()
            lines.append(plan.line(plan.stage.data.packing, f", {length:.0f} tokens each"))
            for mechanism in plan.stage.mechanisms:
                lines += mechanism.plan(self.scene, scene, plan.steps)
            lines += mapping_lines(plan.objective)
        lines.append(f"expected time on this machine: about {duration(seconds)}")
        lines += [f"note: {note}" for note in notes(self.student)]
        return "\n".join(lines)

    def _flops(self, index: int, plan: ObjectivePlan) -> float:
        """Operations that one instance needs; the head counts only at the places with predictions."""
        length = float(self.feeds[index].lengths(0).mean())
        predicted = self.held_out[index][1].logit_rows.mean() if self.head != "none" else 0.0
        word = 2.0 * self.student.config.vocab_size
        ours = speed.encoder_flops(plan.student, length)
        ours += predicted * word * plan.student.hidden if plan.student_needs.logits else 0.0
        if plan.teacher is None or not plan.teacher_needs:
            return 3 * ours
        theirs, needs = plan.teacher, plan.teacher_needs
        layers = theirs.layers if needs.logits or needs.pooled else needs.measured.top
        cost = speed.encoder_flops(theirs, length) * layers / theirs.layers
        return 3 * ours + cost + (predicted * word * theirs.hidden if needs.logits else 0.0)

    def _rate(self, network: PreTrainedModel, length: int) -> float:
        """Operations a second of a forward pass of ``network``, measured."""
        accelerator = self.bench.accelerator
        inputs = batches.padded(self.held_out[0][1], np.arange(min(8, len(self.held_out[0][0]))))
        inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
        base = anatomy.base_of(network)
        with accelerator.autocast():
            trial, _ = speed.latencies(
                {"student": base}, {"student": lambda count: inputs}, batch_sizes=(1,), repeats=3
            )
        tokens = inputs["input_ids"].numel()
        per_token = speed.encoder_flops(anatomy.shape_of(base.config), length) / length
        return tokens * per_token / (trial["student"]["1"].median / 1000)

    # ------------------------------------------------------------------------------------------------------ train

    def origins(self) -> dict[str, str]:
        """The fingerprint of each thing that the run learns from."""
        return origins(self.config, self.corpus.fingerprint, self.teacher)

    def start(self, workspace: Workspace) -> None:
        """The run has taken over its folder: load the losses and the student of an interrupted run."""
        if workspace.resumed is not None:
            self.losses = read_signed(workspace.folder / HELD_OUT_FILE)["losses"]
            self.student.load_state_dict(workspace.resumed["student.safetensors"])

    def begin(self, index: int, logs: list[loop.StageLog]) -> StageWork:
        """A stage, ready to be trained."""
        stage, plan, scene = self.config.recipe.stages[index], self.plans[index], self.scene.stages[index]
        accelerator = self.bench.accelerator
        torch.manual_seed(self.config.seed)
        shape = anatomy.shape_of(final_config(self.student))
        objective = Objective(plan.objective.given, KINDS["tokens"], shape, plan.objective.teacher).to(
            accelerator.device
        )
        teacher = None
        if plan.answers == "running" and self.teacher is not None:
            model = self.teacher.model.to(accelerator.device)
            teacher = LiveTeacher(model, plan.objective.teacher_needs, None, accelerator)

        def hooks() -> list[Hook]:
            made = [mechanism.hook(self.scene, scene, None) for mechanism in stage.mechanisms]
            return [hook for hook in made if hook is not None]

        work = StageWork("student", stage, self.student, objective, self.feeds[index], teacher, None, hooks)
        measure = _measure(work, self.held_out[index], accelerator)
        if len(self.losses) <= index:
            self.losses.append({"before": measure()})
            self._write_losses()

        def score() -> float:
            self.losses[index]["after"] = now = measure()
            return -sum(now.values())

        work.score = score
        return work

    def end(self, work: StageWork, projections: dict[str, Tensor], workspace: Workspace) -> dict[str, str]:
        """Save the student after a stage; returns the checksums of its files."""
        self._write_losses()
        return workspace.save_student(self.student, self.tokenizer, projections)

    def reload(self, workspace: Workspace) -> None:
        """Nothing: the student of an interrupted run is loaded when it starts."""

    def _write_losses(self) -> None:
        if self.bench.main:
            write_text(Path(str(self.config.out)) / HELD_OUT_FILE, signed({"losses": self.losses}))

    # ----------------------------------------------------------------------------------------------------- report

    def report(self, workspace: Workspace, logs: list[loop.StageLog]) -> CorpusReport:
        """Losses on held-out text, sizes, and how the training went."""
        config, corpus, recipe = self.config, self.corpus, self.config.recipe
        losses = [
            {when: {**values, **_perplexity(stage, values)} for when, values in held.items()}
            for stage, held in zip(recipe.stages, self.losses, strict=True)
        ]
        teacher = None
        if self.teacher is not None:
            size = speed.count_parameters(self.teacher.outline)
            teacher = {
                "name": config.teacher,
                "shape": str(self.teacher.shape),
                "parameters": size,
                "bytes": self.teacher.bytes,
            }
        tree = {
            "tutelage": __version__,
            "general": True,
            "method": recipe.method,
            "title": recipe.title,
            "paper": recipe.source,
            "references": [one.model_dump() for one in recipe.papers],
            "predicts": self.head,
            "held_out": len(self.held_out[0][0]),
            "corpus": {
                "path": str(config.corpus),
                "sources": list(corpus.sources),
                "tokens": corpus.manifest.tokens,
                "documents": corpus.manifest.documents,
            },
            "teacher": teacher,
            "student": {
                "name": str(workspace.model_folder),
                "shape": str(anatomy.shape_of(self.student.config)),
                "parameters": speed.count_parameters(self.student),
                "bytes": sum(p.stat().st_size for p in workspace.model_folder.glob("*.safetensors")),
            },
            "stages": [
                {**vars(log), "held_out": held, "data": stage.data.model_dump(mode="json")}
                for log, held, stage in zip(logs, losses, recipe.stages, strict=True)
                if isinstance(stage.data, Instances)
            ],
            "projections": (workspace.folder / PROJECTIONS).exists(),
            **reported((m for stage in recipe.stages for m in stage.mechanisms), self.scene),
            "environment": workspace.environment(),
            "origins": workspace.origins,
            "seed": config.seed,
            "seconds": workspace.seconds,
        }
        return CorpusReport.model_validate(tree)


def _measure(
    work: StageWork, held_out: tuple[Rows, Encoded], accelerator: Accelerator
) -> Callable[[], dict[str, float]]:
    """A function that computes the losses on the held-out instances, by term."""

    def measure() -> dict[str, float]:
        module = loop.DistillationModule(work.model, work.objective).eval()
        rows, step = held_out
        totals, sums = batches.totals_of(step), dict[str, Tensor]()

        def add(part: Rows) -> None:
            batch = batches.piece_of(step, rows, part, totals).to(accelerator.device)
            for name, loss in module(batch, work.teacher.signals(batch) if work.teacher else Signals()).items():
                sums[name] = sums.get(name, 0) + loss

        with torch.no_grad(), accelerator.autocast():
            batches.in_pieces(add, np.arange(len(step)), step.lengths, work.stage.max_tokens)
        module.close()
        module.train()
        return {name: float(total) for name, total in sums.items()}

    return measure


def _perplexity(stage: Stage, losses: dict[str, float]) -> dict[str, float]:
    """The perplexity of the predicted tokens, if the objective has hard labels."""
    weights = {term.kind: term.weight for term in stage.objective}
    return {"perplexity": math.exp(losses["hard_labels"] / weights["hard_labels"])} if "hard_labels" in losses else {}
