"""The one training loop.

What happens when, for one stage::

    score the start on the validation split, if it may be kept: epoch 0
    for epoch:
        mappers of the objective may draw anew          # from (seed, stage, epoch)
        for step in the epoch's steps:              # batch_size examples each, shuffled, similar lengths together
            seed the random state from (seed, stage, epoch, step)
            for piece in step:                      # at most max_tokens at once (or whole); halved if memory does not suffice
                teacher signals, student signals -> objective -> loss -> backward
            hooks, before the step                          # they see the whole step's gradients, before clipping
            clip, step, zero the gradients
            mappers and hooks, after the step               # the student may have other parameters now
            log about every second; write a checkpoint when the last is a minute old
        score the validation split (in each view); keep the best weights (the later of equals); stop when patience, which
        compares epochs with epochs, runs out
    restore the best weights

The random state of a step depends only on its position, so a resumed run repeats it exactly without a saved generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy, memory
from tutelage.data import batches
from tutelage.data.examples import Rows
from tutelage.data.processes import Processes
from tutelage.errors import TutelageError, option
from tutelage.knowledge.signals import Signals, Tap
from tutelage.mechanisms.hook import Hook, views_of
from tutelage.objectives.objective import Objective
from tutelage.progress import Event
from tutelage.recipes.recipe import Stage
from tutelage.teachers.teacher import Teacher
from tutelage.training import checkpoint, optimizers
from tutelage.training.step import Stepper, Terms
from tutelage.training.stopping import stopped

LOG_SECONDS = 1.0
"""Approximate time between two lines of the log. The number of steps per line follows from the last measured speed."""
CHECKPOINT_SECONDS = 60.0


class TrainedModule(nn.Module):
    """What a stage trains: a student and an objective, wrapped together, so that the gradients of both are averaged over processes.

    Called with a batch and the teacher's signals it gives the losses by name; their sum is the loss.
    """

    def __init__(self, student: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def frozen(self, train: anatomy.Trained) -> list[nn.Module]:
        """The modules that keep their weights."""
        raise NotImplementedError


class DistillationModule(TrainedModule):
    """One model that learns what the objective says."""

    def __init__(self, student: PreTrainedModel, objective: Objective) -> None:
        super().__init__(student, objective)
        self._tap = Tap(student, objective.plan.student_needs)

    def forward(self, batch: batches.Batch, teacher: Signals) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.objective(self._tap(batch.inputs, batch.predicted), teacher, batch)
        return losses

    def frozen(self, train: anatomy.Trained) -> list[nn.Module]:
        return anatomy.frozen_modules(self._tap.model, train)

    def close(self) -> None:
        self._tap.close()


@dataclass
class StageLog:
    """The log of a stage, for the report. Plain values."""

    name: str
    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    best: dict[str, float] | None = None
    losses: dict[str, list[list[float]]] = field(default_factory=dict)
    """By term: pairs of step and mean loss since the previous pair."""
    scores: list[list[float]] = field(default_factory=list)
    """Pairs of epoch and score on the validation split; epoch 0 is the start."""
    tokens: int = 0
    first_step: Terms = field(default_factory=dict)
    """Of several terms: ``loss`` and ``gradient`` (its norm) of each, before the first update; the norm is that of a piece of the
    first step, scaled to the whole step by the loss."""


def train(
    stage: Stage,
    module: TrainedModule,
    teacher: Teacher | None,
    feed: batches.Feed,
    accelerator: Accelerator,
    seed: int,
    score: Callable[[], float] | None = None,
    resumed: checkpoint.State | None = None,
    save: Callable[[checkpoint.State], None] = lambda state: None,
    report: Callable[[Event], None] = lambda event: None,
    hooks: Sequence[Hook] = (),
    asked: Callable[[], int] = int,
    say: Callable[[str], None] = lambda line: None,
    floor: float | None = None,
) -> StageLog:
    """Train ``module.student`` through one stage, in place.

    ``score`` evaluates the student on the validation split. ``save`` receives states, any of which can be passed as
    ``resumed`` later. ``hooks`` are the hooks of the stage's mechanisms. ``asked`` returns the
    number of a signal that asks for the end, or 0. ``say`` is told when memory does not suffice and pieces become smaller.
    With a ``floor`` the student is also scored as it is before the first step. That start is kept if it scores more than the
    floor and than every epoch.

    Raises:
        Stopped: after the step in which a signal came, when its checkpoint is written.
    """
    student = module.student
    if resumed is not None:
        student.load_state_dict(resumed["student.safetensors"])  # its shapes may be others than at the stage's begin
        module.objective.projections.load_state_dict(resumed["projections.safetensors"])
    frozen = module.frozen(stage.train)
    for still in frozen:
        still.requires_grad_(False)
    epochs, _ = stage.schedule
    total = min(epochs * -(-len(feed.rows(0)) // stage.batch_size), stage.max_steps or 2**62)
    stepper = Stepper(stage, module, teacher, hooks, total, accelerator, say)
    training = _Training(stage, student, stepper, feed, seed, hooks, total, accelerator, resumed)
    training.run(score, floor, save, report, asked)
    stepper.finish()
    if training.best is not None:
        student.load_state_dict(training.best)
    for still in frozen:
        still.requires_grad_(True)
    accelerator.free_memory()
    student.eval()
    return training.log


class _Training:
    """How far the training of a stage is, and the best weights so far. Goes on from ``resumed``."""

    def __init__(
        self,
        stage: Stage,
        student: nn.Module,
        stepper: Stepper,
        feed: batches.Feed,
        seed: int,
        hooks: Sequence[Hook],
        total: int,
        accelerator: Accelerator,
        resumed: checkpoint.State | None,
    ) -> None:
        self.stage, self.student, self.stepper, self.feed, self.seed = stage, student, stepper, feed, seed
        self.hooks, self.total, self.accelerator = hooks, total, accelerator
        self.processes = Processes.of(accelerator)
        self.log = StageLog(stage.name)
        self.best: dict[str, Tensor] | None = None
        self.epoch, self.place = 0, 0  # the epoch, and the steps that are done of it
        self.without_better = 0  # epochs in a row below the best score
        if resumed is not None:
            self.log, self.best = StageLog(**resumed["log"]), resumed.get("best.safetensors")
            self.epoch, self.place = resumed["epoch"], resumed["place"]
            self.without_better = resumed["without_better"]
            stepper.first = self.log.first_step
            stepper.restore(resumed)
        self.saved = time.perf_counter()

    def run(
        self,
        score: Callable[[], float] | None,
        floor: float | None,
        save: Callable[[checkpoint.State], None],
        report: Callable[[Event], None],
        asked: Callable[[], int],
    ) -> None:
        """Train to the end of the stage; the arguments are those of :func:`train`."""
        stage, log = self.stage, self.log
        epochs, _ = stage.schedule
        lines = _LogLines(stage, log, self.hooks, self.total, self.accelerator, report)
        # Where a hook is not done, the start is not yet the kind of model that the stage makes.
        if score is not None and floor is not None and not log.steps and not self._unfinished:
            lines.write(0, self._judge_start(score, floor))
        while self.epoch < epochs and (log.steps < self.total or self.place):
            self._train_epoch(lines, save, asked)
            self.epoch, self.place, log.epochs = self.epoch + 1, 0, self.epoch + 1
            lines.write(self.epoch, None if score is None else self._judge(score))
            if stage.patience is not None and self.without_better >= stage.patience:
                break

    def _train_epoch(
        self, lines: _LogLines, save: Callable[[checkpoint.State], None], asked: Callable[[], int]
    ) -> None:
        """Take the steps of an epoch that are left."""
        stage, feed, epoch = self.stage, self.feed, self.epoch
        self.stepper.begin_epoch([self.seed, _number(stage.name), epoch])
        order = batches.steps(feed.lengths(epoch), feed.rows(epoch), stage.batch_size, self.seed, epoch)
        for names in order[self.place : self.place + self.total - self.log.steps]:
            self._step(names, lines)
            # The last step of an epoch has a line of its own, with the score.
            last = self.place == len(order) or self.log.steps == self.total
            self._pause(lines, save, asked, line=lines.due and not last)

    def _step(self, names: Rows, lines: _LogLines) -> None:
        log, rank = self.log, self.accelerator.process_index
        place = [self.seed, _number(self.stage.name), self.epoch, self.place, rank]
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        step = self.feed.read(self.epoch, names)
        losses = self.stepper.step(step, names, log.steps, seed)
        log.first_step = self.stepper.first or {}
        log.steps, log.tokens, self.place = log.steps + 1, log.tokens + len(step.tokens), self.place + 1
        lines.add(losses, len(step.tokens))

    def _pause(
        self, lines: _LogLines, save: Callable[[checkpoint.State], None], asked: Callable[[], int], line: bool
    ) -> None:
        """After a step: write a ``line`` of the log, write a checkpoint if it is time, and end if a signal came.

        Raises:
            Stopped: if one did.
        """
        alone = self.accelerator.num_processes == 1
        if line:
            lines.write(self.epoch)
        signal = asked() if alone else _agreed(self.accelerator, asked()) if line else 0
        if signal and not line:
            lines.write(self.epoch)  # the losses since the last line are not in the checkpoint
        due = bool(signal) or time.perf_counter() - self.saved > CHECKPOINT_SECONDS
        if self.stepper.divided:  # every process gives its part, so all must do it at the same step
            due = line and self.processes.of_first(due)
        if due and (self.stepper.divided or self.accelerator.is_main_process):
            state = self._state()
            if self.accelerator.is_main_process:
                save(state)
            self.saved = time.perf_counter()
        if signal:
            self.accelerator.wait_for_everyone()  # the first that ends has the others ended
            raise stopped(signal, f"at step {self.log.steps} of stage {self.stage.name!r}")

    def _state(self) -> checkpoint.State:
        best = {} if self.best is None else {"best.safetensors": self.best}
        places = {"epoch": self.epoch, "place": self.place, "without_better": self.without_better}
        return {"log": vars(self.log), **places, **best, **self.stepper.state()}

    @property
    def _unfinished(self) -> bool:
        return any(hook.unfinished() for hook in self.hooks)

    def _judge_start(self, score: Callable[[], float], floor: float) -> float:
        """Score the start, and keep it for now if it scores more than the floor."""
        value = self._scored(score)
        if self.stage.select == "best" and value > floor:
            self._keep(value)
        return value

    def _judge(self, score: Callable[[], float]) -> float:
        """Score the epoch that is done, and keep its weights if they are the best so far."""
        best = self.stage.select == "best"
        # Not the start's: a student that fits it may fall back in its first epochs, and has its patience to come back.
        before = max((value for epoch, value in self.log.scores if epoch and best), default=-math.inf)
        value = self._scored(score)
        self.without_better = 0 if value >= before or self._unfinished else self.without_better + 1
        # Of equal scores, which are common on a small split, the later: the longer training shows where the split does not.
        if best and value >= (-math.inf if self.log.best is None else self.log.best["score"]):
            self._keep(value)
        return value

    def _scored(self, score: Callable[[], float]) -> float:
        with self.stepper.whole():
            # Rounding may differ between processes, and all must keep the same epoch and stop together.
            value = self.processes.of_first(_mean_score(score, self.hooks))
        self.log.scores.append([self.epoch, value])
        return value

    def _keep(self, value: float) -> None:
        self.log.best = {"epoch": self.epoch, "score": value}
        self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.student.state_dict().items()}


class _LogLines:
    """The lines of a stage's log, about one in ``LOG_SECONDS``. Each has the mean losses since the line before."""

    def __init__(
        self,
        stage: Stage,
        log: StageLog,
        hooks: Sequence[Hook],
        total: int,
        accelerator: Accelerator,
        report: Callable[[Event], None],
    ) -> None:
        self._stage, self._log, self._hooks, self._total = stage, log, hooks, total
        self._accelerator, self._report = accelerator, report
        self._sums: dict[str, Tensor] = {}
        self._means: dict[str, float] = {}
        self._steps = self._tokens = 0  # since the last line
        self._every = 0  # steps from one line to the next; not known before the first step
        self._began = time.perf_counter()

    def add(self, losses: dict[str, Tensor], tokens: int) -> None:
        """Count a step. The host does not wait for the device, but after the first one."""
        self._sums = {name: self._sums.get(name, 0) + loss for name, loss in losses.items()}
        self._steps, self._tokens = self._steps + 1, self._tokens + tokens
        if not self._every:
            next(iter(self._sums.values())).item()
            self._every = self._pace(time.perf_counter())

    @property
    def due(self) -> bool:
        return self._steps >= self._every

    def write(self, epoch: int, score: float | None = None) -> None:
        """Write a line; the host waits for the device.

        Raises:
            TutelageError: if a loss is infinite or not a number.
        """
        log, step = self._log, self._log.steps
        self._average()
        now = time.perf_counter()
        if score is None:  # else the time contains that of scoring
            self._every = self._pace(now)
        speed = self._tokens / max(now - self._began, 1e-9)
        log.seconds += now - self._began
        rate = optimizers.learning_rate(self._stage, max(step - 1, 0), self._total)
        shown = {name: number for hook in self._hooks for name, number in hook.shown().items()}
        place, held = (self._stage.name, epoch, step, self._total), memory.resident_mb()
        self._report(Event(*place, self._means, rate, log.seconds, speed, score, shown, held))
        self._sums, self._steps, self._tokens, self._began = {}, 0, 0, now

    def _average(self) -> None:
        """The mean losses since the last line. Without a step since, the last ones still hold."""
        log, reduce = self._log, self._accelerator.reduce
        fresh = {name: reduce(total, "sum").item() / self._steps for name, total in self._sums.items()}
        self._means = fresh or self._means
        for name, mean in fresh.items():
            if not math.isfinite(mean):
                _, peak = self._stage.schedule
                raise TutelageError(
                    f"the loss {name!r} became {mean} in stage {log.name!r} at step {log.steps}; lower the learning "
                    f"rate ({option('settings')} stages.*.lr={peak / 2:g}) or use full precision"
                )
            log.losses.setdefault(name, []).append([log.steps, mean])

    def _pace(self, now: float) -> int:
        """The steps that the main process takes in ``LOG_SECONDS``. All processes must log at the same steps, because a line
        adds up their losses."""
        steps = max(1, round(self._steps * LOG_SECONDS / max(now - self._began, 1e-9)))
        return Processes.of(self._accelerator).of_first(steps)


def _mean_score(score: Callable[[], float], hooks: Sequence[Hook]) -> float:
    """The score in each view of the hooks, averaged."""
    found = []
    for view in views_of(hooks):
        with view:
            found.append(score())
    return sum(found) / len(found)


def _agreed(accelerator: Accelerator, signal: int) -> int:
    """The signal that any of the processes received, or 0: they end together, where all of them log."""
    found = torch.tensor(float(signal), device=accelerator.device)
    return signal or 15 * bool(accelerator.reduce(found, "sum").item())


def _number(name: str) -> int:
    return int.from_bytes(name.encode()[:8], "little")
