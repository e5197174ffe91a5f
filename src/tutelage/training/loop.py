"""The one training loop.

What happens when, for one stage::

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
        score the validation split (in each view); keep the best weights (the later of equals); stop when patience runs out
    restore the best weights

The random state of a step depends only on its position, so a resumed run repeats it exactly without a saved generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy, memory
from tutelage.data import batches
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Signals, Tap
from tutelage.mechanisms.hook import Hook, parameter_groups, views_of
from tutelage.objectives.objective import Objective
from tutelage.progress import Event
from tutelage.recipes.recipe import Stage
from tutelage.teachers.teacher import Teacher, of_first
from tutelage.training import checkpoint, optimizers, sharding
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
    """Pairs of epoch and score on the validation split."""
    tokens: int = 0
    first_step: Terms = field(default_factory=dict)
    """Of several terms: ``loss`` and ``gradient`` (its norm) of each, before the first update, on a piece of the first step."""


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
) -> StageLog:
    """Train ``module.student`` through one stage, in place.

    ``score`` evaluates the student on the validation split. ``save`` receives states, any of which can be passed as
    ``resumed`` later. ``hooks`` are the hooks of the stage's mechanisms. ``asked`` returns the
    number of a signal that asks for the end, or 0. ``say`` is told when memory does not suffice and pieces become smaller.

    Raises:
        Stopped: after the step in which a signal came, when its checkpoint is written.
    """
    steps_an_epoch = -(-len(feed.rows(0)) // stage.batch_size)
    epochs, peak = stage.schedule
    total = min(epochs * steps_an_epoch, stage.max_steps or 2**62)
    device, student = accelerator.device, module.student
    if resumed is not None:
        student.load_state_dict(resumed["student.safetensors"])  # its shapes may be others than at the stage's begin
        module.objective.projections.load_state_dict(resumed["projections.safetensors"])
    frozen = module.frozen(stage.train)
    for still in frozen:
        still.requires_grad_(False)
    module.to(device)
    divides = sharding.switched_on(sharding.FSDP) and accelerator.num_processes > 1
    trained = sharding.divided(module, student, module.objective.plan.student_needs, device) if divides else module
    given = [groups for hook in hooks if (groups := hook.parameter_groups(trained, stage.weight_decay)) is not None]
    groups = given[0] if given else parameter_groups(trained, stage.weight_decay)
    optimizer = optimizers.optimizer_of(stage, groups, device)
    prepared = accelerator.prepare_optimizer(optimizer, device_placement=False)
    whole = module.objective.plan.whole_step
    copied = trained if divides else None
    stepper = Stepper(stage, module, teacher, accelerator, hooks, stage.max_tokens, whole, say, copied, divides)

    log, best, epoch, place, without_better = StageLog(stage.name), None, 0, 0, 0
    if resumed is not None:
        log, best = StageLog(**resumed["log"]), resumed.get("best.safetensors")
        epoch, place, without_better = resumed["epoch"], resumed["place"], resumed["without_better"]
        stepper.max_tokens = resumed["max_tokens"]
        stepper.first = log.first_step if log.steps else None
        checkpoint.load_optimizer_state(optimizer, resumed["optimizer.safetensors"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(resumed["scaler"])
        for number, hook in enumerate(hooks):
            saved_state = resumed.get("hooks.safetensors", {})
            hook.restore(
                {name.partition(".")[2]: x for name, x in saved_state.items() if name.startswith(f"{number}.")}
            )

    def state() -> checkpoint.State:
        if divides:
            sharding.gather(trained, module)
        tensors = {
            "student.safetensors": student.state_dict(),
            "projections.safetensors": module.objective.projections.state_dict(),
            "optimizer.safetensors": checkpoint.optimizer_state(optimizer),
        }
        if best is not None:
            tensors["best.safetensors"] = best
        if hooks:
            states = enumerate(hook.state() for hook in hooks)
            tensors["hooks.safetensors"] = {f"{number}.{name}": x for number, one in states for name, x in one.items()}
        scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
        places = {"epoch": epoch, "place": place, "without_better": without_better, "scaler": scaler}
        places["max_tokens"] = stepper.max_tokens
        return {"log": vars(log), **places, **tensors}

    sums: dict[str, Tensor] = {}
    means: dict[str, float] = {}
    counted = tokens = 0
    every = 0  # steps from one line to the next; not known before the first step
    began = logged = saved = time.perf_counter()

    def pace(now: float) -> int:
        """The steps that the main process takes in ``LOG_SECONDS``. All processes must log at the same steps, because a line
        adds up their losses."""
        steps = max(1, round(counted * LOG_SECONDS / max(now - logged, 1e-9)))
        return of_first(steps)

    def tell(lr: float, value: float | None = None) -> None:
        nonlocal sums, means, counted, tokens, every, began, logged
        # Here, and after the first step, the host waits for the device. Without a step since, the last losses still hold.
        fresh = {name: accelerator.reduce(s, "sum").item() / counted for name, s in sums.items()}
        means = fresh or means
        for name, mean in fresh.items():
            if not math.isfinite(mean):
                raise TutelageError(
                    f"the loss {name!r} became {mean} in stage {stage.name!r} at step {log.steps}; lower the learning "
                    f"rate (--set stages.*.lr={peak / 2:g}) or use full precision"
                )
            log.losses.setdefault(name, []).append([log.steps, mean])
        now = time.perf_counter()
        if value is None:  # else the time contains that of scoring
            every = pace(now)
        speed = tokens / max(now - logged, 1e-9)
        log.seconds += now - began
        shown = {name: number for hook in hooks for name, number in hook.shown().items()}
        report(
            Event(
                stage.name, epoch, log.steps, total, means, lr, log.seconds, speed, value, shown, memory.resident_mb()
            )
        )
        sums, counted, tokens, began, logged = {}, 0, 0, now, now

    copies = (module, trained) if divides else (module,)
    for each in copies:
        each.student.train(stage.dropout)
    while epoch < epochs and (log.steps < total or place):
        lr = 0.0
        for each in copies:
            each.objective.begin_epoch(np.random.default_rng([seed, _number(stage.name), epoch]))
        order = batches.steps(feed.lengths(epoch), feed.rows(epoch), stage.batch_size, seed, epoch)
        for names in order[place : place + total - log.steps]:
            place_of_step = [seed, _number(stage.name), epoch, place, accelerator.process_index]
            seed_of_step = int(np.random.SeedSequence(place_of_step).generate_state(1)[0])
            lr = optimizers.learning_rate(stage, log.steps, total)
            for group in optimizer.param_groups:
                group["lr"] = group.get("rate", lr * group.get("factor", 1.0))
            step = feed.read(epoch, names)
            parts, losses = stepper.gradients(step, names, log.steps, seed_of_step, prepared.zero_grad)
            sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
            log.first_step = stepper.first or {}
            accelerator.unscale_gradients(prepared)
            for hook in hooks:
                hook.before_step(optimizer, parts, total)
            optimizers.clip(stage, optimizer)
            prepared.step()
            prepared.zero_grad()
            trained.objective.after_step()
            changed = [hook.after_step(optimizer, log.steps + 1, total) for hook in hooks]
            if any(changed) and accelerator.num_processes > 1:
                stepper.wrapped = None
            log.steps, place, counted = log.steps + 1, place + 1, counted + 1
            tokens, log.tokens = tokens + len(step.tokens), log.tokens + len(step.tokens)
            if not every:
                next(iter(sums.values())).item()
                every = pace(time.perf_counter())
            # The last step of an epoch has a line of its own, below.
            line = counted >= every and place < len(order) and log.steps < total
            if line:
                tell(lr)
            signal = asked() if accelerator.num_processes == 1 else _agreed(accelerator, asked()) if line else 0
            if signal and not line:
                tell(lr)  # the losses since the last line are not in the checkpoint
            due = bool(signal) or time.perf_counter() - saved > CHECKPOINT_SECONDS
            if divides:  # every process gives its part, so all must do it at the same step
                due = line and of_first(due)
            if due and (divides or accelerator.is_main_process):
                found = state()
                if accelerator.is_main_process:
                    save(found)
                saved = time.perf_counter()
            if signal:
                accelerator.wait_for_everyone()  # the first that ends has the others ended
                raise stopped(signal, f"at step {log.steps} of stage {stage.name!r}")
        epoch, place, log.epochs = epoch + 1, 0, epoch + 1
        value = None
        if score is not None:
            # Rounding may differ between processes, and all must keep the same epoch and stop together.
            with sharding.lent(trained, module, device) if divides else nullcontext():
                value = of_first(_mean_score(score, hooks))
            log.scores.append([epoch, value])
            before = -math.inf if log.best is None else log.best["score"]
            # Of equal scores, which are common on a small split, the later: the longer training shows where the split does not.
            waits = any(hook.unfinished() for hook in hooks)
            without_better = 0 if value >= before or waits else without_better + 1
            if stage.select == "best" and value >= before:
                log.best = {"epoch": epoch, "score": value}
                best = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
        tell(lr, value)
        if stage.patience is not None and without_better >= stage.patience:
            break
    if divides:
        sharding.gather(trained, module)
        module.to(device)
    if best is not None:
        student.load_state_dict(best)
    for still in frozen:
        still.requires_grad_(True)
    accelerator.free_memory()
    student.eval()
    return log


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
