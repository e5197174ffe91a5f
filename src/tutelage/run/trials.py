"""Short trials before training: which of the teacher's layers a student starts from, at which rate it and its twin learn, and
whether it has enough texts.

A trial trains a candidate for a few steps on labels and the teacher's known predictions, and measures its loss on held-out texts.
The lowest loss wins. Of several starts all are measured untrained, and the best few of them are trained. Trials depend on the
settings of the run alone, and their result is kept in the run's folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.artifacts import read_signed, signed, write_text
from tutelage.data.batches import EVALUATION_TOKENS, Feed, Known, in_pieces, piece_of, totals_of
from tutelage.data.examples import Encoded, Rows
from tutelage.data.processes import Processes
from tutelage.data.texts import Texts
from tutelage.evaluation.intervals import drawn
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.objectives.objective import Objective, ObjectivePlan
from tutelage.objectives.predictions import HardLabels
from tutelage.objectives.term import Term
from tutelage.recipes.recipe import Stage
from tutelage.report.model import Trial, Trials
from tutelage.report.words import trial_lines
from tutelage.run.pairing import StageObjectives, pairs_by_origin
from tutelage.students.copied import chosen_layers
from tutelage.students.specs import Copied, Pruned, Sized, Student
from tutelage.teachers.teacher import KnownLogits, Teacher, predict
from tutelage.training import loop

if TYPE_CHECKING:
    from tutelage.run.task import TaskRun

CUT = "heads and neurons cut"
"""Name of the start that keeps all layers, with fewer heads and neurons."""
START, RATE, TWIN, HALF = "start.json", "rate.json", "twin.json", "half.json"
"""Files of the results, until the report is written."""
HELD_OUT = 512
"""Texts of the validation split (of the training texts, where there is no split) on which a trial is measured, at most."""
SHARE, FEWEST, MOST = 0.06, 20, 150
"""Steps of a trial: a share of the run's steps, at least and at most so many; never more than the run has."""
TRAINED = 3
"""Starts that are trained, those with the lowest losses untrained. Not fewer: the order before training is only roughly that after
it (of five starts of a sentence encoder the best after 150 steps was the second untrained once, and the first once)."""
READ_TWICE = 2
"""Texts that a trial reads at least so many times are few: another trial reads half of them, as often again."""
RATES = (1.0, 2.5)
"""The rates that are tried where a recipe leaves the rate open, and by the twin, as factors of the first."""


def starts(student: Student, source: anatomy.Shape | None) -> dict[str, list[int]]:
    """The layers (from 1) of each candidate start, by name, equal ones once; none where there is nothing to choose. ``source`` is
    the shape of the model that layers are copied from."""
    if not isinstance(student, Copied) or student.choose != "best" or not isinstance(student.layers, int):
        return {}
    if source is None or student.layers >= source.layers:
        return {}
    ways = {
        choose: chosen_layers(student.model_copy(update={"choose": choose}), source.layers)
        for choose in ("first", "spread", "uniform", "last")
    }
    ways["first and last"] = [*range(1, student.layers), source.layers]
    differs = anatomy.family_named(source.family).first_layer_differs
    found: dict[str, list[int]] = {}
    for name, layers in ways.items():
        if layers not in found.values() and (layers[0] == 1 or not differs):
            found[name] = layers
    return found if len(found) > 1 else {}


def candidates(named: Student, student: Student, source: anatomy.Shape | None) -> dict[str, Student]:
    """The candidate starts of a run by name, where there are several.

    Args:
        named: The student as the recipe names it. For one that is given by its cost alone (``init=sized``) layers that are copied
            whole are tried beside a cut through all layers.
        student: What the run makes of it.
        source: The shape of the model that layers are copied from.
    """
    made: dict[str, Student] = {}
    shallow = student
    if isinstance(named, Sized) and isinstance(student, Pruned) and source is not None:
        made, shallow = {CUT: student}, named.of(source.layers, cut=False)
    for name, layers in starts(shallow, source).items():
        made[f"{name}: {' '.join(map(str, layers))}"] = shallow.model_copy(update={"layers": layers})
    return made if len(made) > 1 else {}


def plan_lines(named: Iterable[str]) -> list[str]:
    """The candidate starts in the printed plan; nothing where there is no choice."""
    named_layers = [name.partition(": ") for name in named]
    ways = ", ".join(f"{name} ({layers})" for name, _, layers in named_layers if layers)
    what = f"the layers {ways}" if (CUT, "", "") not in named_layers else f"{CUT} in all layers, and the layers {ways}"
    line = f"start    the best of {what}; all are measured, and the best {TRAINED} tried for some steps"
    return [line] if named_layers else []


def objectives_of_starts(starts: Mapping[str, Student], objectives: StageObjectives) -> list[ObjectivePlan]:
    """The objectives of a run's candidate starts, where each compares other layers: a store holds what all of them need."""
    by_origin = any(pairs_by_origin(term) for stage in objectives.recipe.stages for term in stage.objective)
    if not by_origin and CUT not in starts:
        return []
    return [plan for spec in starts.values() for plan in objectives.of(spec)]


def trial_stage(last: Stage, steps: int, *, taught: bool, labels: bool) -> Stage | None:
    """The stage of a trial in a run of so many steps: the terms of the last stage on predictions; without a teacher those on
    labels. None if there are none."""
    terms: list[Term] = [term for term in last.objective if term.on_logits and (taught or term.teacherless)]
    if not terms and labels:
        terms = [HardLabels()]
    if not terms:
        return None
    return last.model_copy(
        update={
            "name": "trial",
            "objective": terms,
            "epochs": 10**6,
            "max_steps": min(max(round(SHARE * steps), FEWEST), MOST, steps),
            "select": "last",
            "mechanisms": [],
            "patience": None,
            "pad_to": None,
            "train": "all",
        }
    )


@dataclass(frozen=True)
class Ground:
    """What all trials of one kind have in common."""

    objective: Callable[[Stage, PreTrainedModel], Objective]
    feed: Feed
    teacher: Callable[[], Teacher | None]
    """The teacher's predictions on ``feed``."""
    held_out: Encoded
    held_out_teacher: Callable[[], Teacher | None]
    """The teacher's predictions on ``held_out``; made when they are first asked for, and kept."""
    score: Callable[[PreTrainedModel], float] | None
    """The task's metric on the validation split."""
    agreement: Callable[[PreTrainedModel], float | None]
    """The agreement with the teacher on ``held_out``; None without a teacher, and where answers cannot be equal."""
    accelerator: Accelerator
    seed: int
    finished: dict[str, Trial] = field(default_factory=dict)
    """The trials of a stopped run, by name."""

    def trial(self, name: str, stage: Stage, student: PreTrainedModel, before: Trial | None = None) -> Trial:
        """Measure a candidate, unless that was done before, train it, and measure it again."""
        if name in self.finished:
            return self.finished[name]
        module = self._module(stage, student)
        before = self._as_it_is(name, module, student) if before is None else before
        loop.train(stage, module, self.teacher(), self.feed, self.accelerator, self.seed)
        after = self._loss(module)
        module.close()
        score = None if self.score is None else self.score(student)
        loss = after if math.isfinite(after) else None
        return before.model_copy(update={"trained": True, "loss": loss, "score": score})

    def untrained(self, name: str, stage: Stage, student: PreTrainedModel) -> Trial:
        """Measure a candidate as it is."""
        module = self._module(stage, student)
        found = self._as_it_is(name, module, student)
        module.close()
        return found

    def _as_it_is(self, name: str, module: loop.DistillationModule, student: PreTrainedModel) -> Trial:
        loss, score = self._loss(module), None if self.score is None else self.score(student)
        agreement = self.agreement(student)
        return Trial(
            name=name,
            untrained_loss=loss,
            untrained_agreement=agreement,
            untrained_score=score,
            trained=False,
            loss=None,
            score=None,
        )

    def _module(self, stage: Stage, student: PreTrainedModel) -> loop.DistillationModule:
        torch.manual_seed(self.seed)
        return loop.DistillationModule(student.to(self.accelerator.device), self.objective(stage, student))

    def _loss(self, module: loop.DistillationModule) -> float:
        module.to(self.accelerator.device).eval()
        total, known, held_out = 0.0, self.held_out_teacher(), self.held_out
        names, totals = np.arange(len(held_out)), totals_of(held_out)

        def add(rows: Rows) -> None:
            nonlocal total
            batch = piece_of(held_out, names, rows, totals).to(self.accelerator.device)
            taught = Signals() if known is None else known.signals(batch)
            total += sum(loss.item() for loss in module(batch, taught).values())

        with torch.no_grad(), self.accelerator.autocast():
            in_pieces(add, names, held_out.lengths, EVALUATION_TOKENS)
        return total


def rank(one: Trial) -> tuple[bool, float]:
    """The place of a trial among others: one that diverged comes after those that did not, and one that was not trained is last."""
    return not one.trained, math.inf if one.loss is None else one.loss


def best_of(place: Path, ground: Ground, trials: Callable[[], Iterable[Trial]], steps: int) -> Trials:
    """Make the trials, but for those that a stopped run has made, and say which is best."""
    part, tried = place.with_suffix(".part.json"), list[Trial]()
    if place.exists():
        if ground.accelerator.is_main_process:
            part.unlink(missing_ok=True)  # a run that was killed between the two files left it
        return Trials.model_validate(read_signed(place))
    if part.exists():
        ground.finished.update({name: Trial.model_validate(one) for name, one in read_signed(part).items()})
    for one in trials():
        tried.append(one)
        if ground.accelerator.is_main_process:
            write_text(part, signed({one.name: one.model_dump(mode="json") for one in tried if one.trained}))
    # Rounding may differ between processes.
    chosen = Processes.of(ground.accelerator).of_first(min(tried, key=rank).name)
    found = Trials(chosen=chosen, steps=steps, texts=len(ground.held_out), tried=tried)
    if ground.accelerator.is_main_process:
        write_text(place, signed(found.model_dump(mode="json")))
        part.unlink(missing_ok=True)
    ground.accelerator.wait_for_everyone()
    return found


def _stage_of(run: TaskRun) -> Stage | None:
    """The stage of a run's trials; None where there is nothing to choose, or nothing can be trained."""
    last, steps = run.config.recipe.stages[-1], sum(plan.steps for plan in run.plans[run.config.recipe.begins :])
    taught = run.teacher is not None and not last.brings_teacher
    stage = trial_stage(last, steps, taught=taught, labels=run.texts.kind.learns_labels)
    return stage if run.starts or run.open_rates else None


def passes(run: TaskRun) -> int:
    """Examples that the trials of :func:`choose` read, in forward passes of the student: a step of training is worth three, and
    each candidate is measured before and after."""
    stage = _stage_of(run)
    if stage is None:
        return 0
    starts = len(run.starts)
    # The first rate is that at which the starts are tried.
    others = len(RATES) - bool(starts) if run.open_rates else 0
    others += few_rows(run, stage, run.texts.feed(stage, _part(run))) is not None
    trained = (stage.max_steps or 0) * stage.batch_size
    compared = min(len(_measured(run).examples), HELD_OUT)
    measured = compared + (len(run.texts.selection.examples) if run.texts.kind.learns_labels else 0)
    untrained = measured + (compared if _taught(run, stage) else 0)
    return (starts + others) * untrained + (min(starts, TRAINED) + others) * (3 * trained + measured)


@dataclass(frozen=True)
class Tried:
    """The trials of :func:`choose`; None for what is not to choose, or where nothing can be trained."""

    start: Trials | None = None
    rates: Trials | None = None
    half: Trials | None = None


def choose(run: TaskRun, folder: Path) -> Tried:
    """Try the run's starts and, where its recipe leaves the rate open, two rates, each for some steps. The best start becomes its
    student, the better rate that of the open stages. Few texts are also tried beside half of them (:func:`of_half`)."""
    stage = _stage_of(run)
    if stage is None:
        if run.starts:
            run.begin_from(run.factory)
        return Tried()
    ground, started, rated, done = ground_of(run, stage), None, None, None
    if run.starts:
        started = choose_start(run, ground, stage, folder)
        done = next(one for one in started.tried if one.name == started.chosen)
    if run.open_rates:
        # The first rate is that at which the starts were tried.
        rated, factor = better_rate(run, ground, stage, folder / RATE, twin=False, done=done)
        run.scale_rates(factor)
        run.bench.display.say("\n".join(trial_lines("rate", rated)))
        done = rated.tried[0]
    assert done is not None  # a start or a rate is open
    return Tried(started, rated, of_half(run, ground, stage, folder, done))


def few_rows(run: TaskRun, stage: Stage, feed: Feed) -> Rows | None:
    """The rows that a trial trains on, where they are few and the teacher would answer for more of them."""
    rows = feed.rows(0)
    few = READ_TWICE <= len(rows) <= (stage.max_steps or 0) * stage.batch_size // READ_TWICE
    taught = run.teacher is not None and any(not term.teacherless for term in stage.objective)
    return rows if few and taught else None


def of_half(run: TaskRun, ground: Ground, stage: Stage, folder: Path, whole: Trial) -> Trials | None:
    """Train as in the trial ``whole``, but on half of the texts: how much is gained by twice as many? None where they are many."""
    rows = few_rows(run, stage, ground.feed)
    if rows is None:
        return None
    half = Known(run.texts.parts[_part(run)].student, rows[drawn(len(rows), len(rows) // 2)])

    def tried() -> Iterator[Trial]:
        fewer = replace(ground, feed=half)
        count = len(half.rows(0))
        found = fewer.trial(f"{count:,} texts", stage, run.factory.make())
        yield found.model_copy(update={"examples": count})
        yield whole.model_copy(update={"name": f"{len(rows):,} texts", "examples": len(rows)})

    return best_of(folder / HALF, ground, tried, stage.max_steps or 0)


def choose_start(run: TaskRun, ground: Ground, stage: Stage, folder: Path) -> Trials:
    """Try each of the run's starts, and make its student of the best."""
    makers = {name: run.factory.of(spec) for name, spec in run.starts.items()}

    def tried() -> Iterator[Trial]:
        run.bench.display.say(f"measuring {len(makers)} starts ...")
        untrained, order = dict[str, Trial](), list[str]()
        for name, maker in makers.items():
            untrained[name] = ground.untrained(name, stage, maker.make())
            order = sorted(untrained, key=lambda tried: untrained[tried].untrained_loss)
            for worse in order[TRAINED:]:
                makers[worse].forget()
        best = Processes.of(ground.accelerator).of_first(order[:TRAINED])
        for name, one in untrained.items():
            yield ground.trial(name, stage, makers[name].make(), one) if name in best else one

    found = best_of(folder / START, ground, tried, stage.max_steps or 0)
    run.begin_from(makers[found.chosen])
    run.bench.display.say("\n".join(trial_lines("start", found)))
    return found


def twin_rate(run: TaskRun, twin: Stage, steps: int) -> tuple[Trials, float]:
    """The better of two rates for the twin: the last stage's is often too low for it."""
    stage = trial_stage(twin, steps, taught=False, labels=True)
    assert stage is not None and run.config.out is not None
    place = Path(run.config.out) / TWIN
    found, factor = better_rate(run, ground_of(run, stage), stage, place, twin=True)
    run.bench.display.say("\n".join(trial_lines("rate without the teacher", found)))
    return found, factor * twin.schedule[1]


def better_rate(
    run: TaskRun, ground: Ground, stage: Stage, place: Path, *, twin: bool, done: Trial | None = None
) -> tuple[Trials, float]:
    """The trials of both rates, and the factor of the better. ``done`` is the trial of the first rate, if it was made before."""
    peak = stage.schedule[1]
    rates = {f"{peak * factor:.2g}": factor for factor in RATES}

    def tried() -> Iterator[Trial]:
        for name, factor in rates.items():
            if done is not None and factor == RATES[0]:
                yield done.model_copy(update={"name": name})
                continue
            tuned = stage.model_copy(update={"lr": peak * factor})
            yield ground.trial(name, tuned, run.factory.make(twin=twin))

    found = best_of(place, ground, tried, stage.max_steps or 0)
    return found, rates[found.chosen]


def _part(run: TaskRun) -> str:
    """The part of the texts that trials train on."""
    return "search" if "search" in run.texts.parts else "train"


def _measured(run: TaskRun) -> Texts:
    """The texts on which trials are measured. Without labels no split is held out; in so few steps few texts are seen twice."""
    texts = run.texts
    return texts.selection if len(texts.selection.examples) else texts.parts[_part(run)]


def _taught(run: TaskRun, stage: Stage) -> bool:
    """Whether a term of the trials reads the teacher's predictions."""
    return run.teacher is not None and bool(_needs(run, stage))


def _needs(run: TaskRun, stage: Stage) -> Needs:
    """What the terms of the trials read of the teacher."""
    return ObjectivePlan(stage.objective, run.texts.kind, *run.shapes()).teacher_needs


def ground_of(run: TaskRun, stage: Stage) -> Ground:
    """What the trials of a run have in common."""
    kind, device, part, measured = run.texts.kind, run.bench.accelerator.device, _part(run), _measured(run)
    texts = measured.at(np.array(drawn(len(measured.examples), HELD_OUT)))  # a file may be sorted by class
    needs = _needs(run, stage)
    taught = run.teacher if needs else None

    @cache
    def answers() -> Tensor | None:
        return None if taught is None else taught.logits_of(texts, "teacher on held-out texts")

    @cache
    def known() -> Teacher | None:
        logits = answers()
        return None if logits is None else KnownLogits(logits.to(device), texts.student.logit_rows)

    def agreement(model: PreTrainedModel) -> float | None:
        theirs = answers()
        return None if theirs is None else kind.agreement(predict(model, texts.student, run.bench.accelerator), theirs)

    def objective(stage: Stage, model: PreTrainedModel) -> Objective:
        run.prepare(model)
        return Objective(stage.objective, kind, *run.shapes())

    return Ground(
        objective=objective,
        feed=run.texts.feed(stage, part),
        teacher=lambda: None if taught is None else taught.teacher_for(stage, part, needs),
        held_out=texts.student,
        held_out_teacher=known,
        score=run.score if kind.learns_labels else None,
        agreement=agreement,
        accelerator=run.bench.accelerator,
        seed=run.config.seed,
    )
