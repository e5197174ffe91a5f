"""The optimiser steps of a stage, each computed in pieces that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tutelage.data import batches
from tutelage.data.batches import Batch
from tutelage.data.examples import Encoded, Rows
from tutelage.errors import TutelageError, option, out_of_memory
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.hook import Hook, parameter_groups, views_of
from tutelage.recipes.recipe import Stage
from tutelage.report.findings import first_step_lines
from tutelage.teachers.teacher import Teacher
from tutelage.training import checkpoint, optimizers, sharding
from tutelage.training.checkpoint import State

if TYPE_CHECKING:
    from tutelage.training.loop import TrainedModule

Terms = dict[str, dict[str, float | None]]
"""Of each of several terms: ``loss`` and ``gradient`` (its norm)."""


class Stepper:
    """What a stage trains: a distillation module with its optimiser and the stage's hooks, an optimiser step at a time.

    A step is computed in pieces of at most ``max_tokens`` padded tokens. One that does not fit into memory is halved: the step
    begins again with cleared gradients and the random numbers of its start, and ``max_tokens`` stays halved.

    Where processes divide the weights (:mod:`tutelage.training.sharding`), a divided copy is trained in place of the module, which
    has its weights only within :meth:`whole` and after :meth:`finish`.
    """

    first: Terms | None = None
    """The terms before the first update; None until the first step is done."""

    def __init__(
        self,
        stage: Stage,
        module: TrainedModule,
        teacher: Teacher | None,
        hooks: Sequence[Hook],
        total: int,
        accelerator: Accelerator,
        say: Callable[[str], None],
    ) -> None:
        """``total`` is the number of steps of the stage."""
        self._stage, self._module, self._teacher, self._hooks, self._total = stage, module, teacher, hooks, total
        self._accelerator, self._say, self._max_tokens = accelerator, say, stage.max_tokens
        plan, device = module.objective.plan, accelerator.device
        self._whole_step = plan.whole_step
        module.to(device)
        self._copy: TrainedModule | None = None
        if sharding.switched_on(sharding.FSDP) and accelerator.num_processes > 1:
            self._copy = sharding.divided(module, module.student, plan.student_needs, device)
        self._trained = module if self._copy is None else self._copy
        given = [hook.parameter_groups(self._trained, stage.weight_decay) for hook in hooks]
        groups = next((own for own in given if own is not None), None)
        if groups is None:
            groups = parameter_groups(self._trained, stage.weight_decay)
        self._optimizer = optimizers.optimizer_of(stage, groups, device)
        self._prepared = accelerator.prepare_optimizer(self._optimizer, device_placement=False)
        self._wrapped: Any = self._copy
        """The module as the accelerator has prepared it, or its divided copy. None: it is prepared at the next step, because its
        parameters are new."""
        self._begun = False
        """Whether the processes have met in this step's forward pass."""
        self._meeting = False
        """Whether this process sends its gradients to the others."""
        for each in self._modules:
            each.student.train(stage.dropout)

    @property
    def divided(self) -> bool:
        """Whether the processes divide the weights: every pass and every state of one needs the others."""
        return self._copy is not None

    @property
    def _modules(self) -> list[TrainedModule]:
        return [self._module] if self._copy is None else [self._module, self._copy]

    def begin_epoch(self, seed: Sequence[int]) -> None:
        """Let the mappers of the objective draw anew."""
        for each in self._modules:
            each.objective.begin_epoch(np.random.default_rng(seed))

    def step(self, step: Encoded, names: Rows, number: int, seed: int) -> dict[str, Tensor]:
        """Take step ``number`` (from 0); returns each term's loss on this process's pieces.

        ``names`` are the numbers of the step's rows in the feed; ``seed`` is that of this process's random numbers.

        Raises:
            TutelageError: if a step that is never cut does not fit into memory.
            Exception: if one text alone does not fit, or the processes are already exchanging gradients.
        """
        rate = optimizers.learning_rate(self._stage, number, self._total)
        for group in self._optimizer.param_groups:
            group["lr"] = group.get("rate", rate * group.get("factor", 1.0))
        parts, losses = self._gradients(step, names, number, seed)
        self._accelerator.unscale_gradients(self._prepared)
        for hook in self._hooks:
            hook.before_step(self._optimizer, parts, self._total)
        optimizers.clip(self._stage, self._optimizer)
        self._prepared.step()
        self._prepared.zero_grad()
        self._trained.objective.after_step()
        changed = [hook.after_step(self._optimizer, number + 1, self._total) for hook in self._hooks]
        if any(changed) and self._accelerator.num_processes > 1:
            self._wrapped = self._copy
        return losses

    def whole(self) -> AbstractContextManager[None]:
        """While this lasts, the module is on the device with all its weights. Every process calls this."""
        if self._copy is None:
            return nullcontext()
        return sharding.lent(self._copy, self._module, self._accelerator.device)

    def finish(self) -> None:
        """The module gets its weights, for good. Every process calls this."""
        if self._copy is not None:
            sharding.gather(self._copy, self._module)
            self._module.to(self._accelerator.device)

    def state(self) -> State:
        """What a checkpoint needs to go on from here. If the weights are divided, every process calls this."""
        if self._copy is not None:
            sharding.gather(self._copy, self._module)
        scaler = self._accelerator.scaler
        state = {
            "student.safetensors": self._module.student.state_dict(),
            "projections.safetensors": self._module.objective.projections.state_dict(),
            "optimizer.safetensors": checkpoint.optimizer_state(self._optimizer),
            "scaler": None if scaler is None else scaler.state_dict(),
            "max_tokens": self._max_tokens,
        }
        if self._hooks:
            states = enumerate(hook.state() for hook in self._hooks)
            state["hooks.safetensors"] = {f"{number}.{name}": x for number, one in states for name, x in one.items()}
        return state

    def restore(self, state: State) -> None:
        """Go on from what :meth:`state` returned. The module has its weights already."""
        self._max_tokens = state["max_tokens"]
        checkpoint.load_optimizer_state(self._optimizer, state["optimizer.safetensors"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        saved = state.get("hooks.safetensors", {})
        for number, hook in enumerate(self._hooks):
            own = f"{number}."
            hook.restore({name.removeprefix(own): x for name, x in saved.items() if name.startswith(own)})

    def _gradients(self, step: Encoded, names: Rows, number: int, seed: int) -> tuple[list[Batch], dict[str, Tensor]]:
        """Add up the gradients of a step; returns this process's pieces and each term's loss."""
        self._begun = False
        while True:
            seed_device(seed, self._accelerator.device)
            rank, world = self._accelerator.process_index, self._accelerator.num_processes
            most = 2**62 if self._whole_step else self._max_tokens
            pieces = batches.step_batches(step, names, rank, world, most, self._stage.pad_to, number, even=self.divided)
            parts = list(pieces)
            largest = max(parts, key=lambda part: part.mask.numel())
            try:
                return parts, self._add_up(parts, seed)
            except Exception as error:
                # Half of a sum over processes cannot be taken back.
                if self._meeting:
                    raise
                if self._whole_step and out_of_memory(error) and self._stage.batch_size > 1:
                    raise TutelageError(
                        f"a step of {len(step)} examples does not fit into memory, and stage {self._stage.name!r} compares all "
                        f"examples of a step; use fewer ({option('settings')} "
                        f"stages.{self._stage.name}.batch_size={self._stage.batch_size // 2})"
                    ) from None
                self._max_tokens = batches.halved(error, largest.mask.numel(), len(largest.rows))
            self._prepared.zero_grad()
            batches.free_memory(self._max_tokens, self._say)
            if isinstance(self._wrapped, DistributedDataParallel) and self._begun:
                # The others do not wait for this process's buffers again.
                self._wrapped.require_forward_param_sync = False

    def _add_up(self, parts: list[Batch], seed: int) -> dict[str, Tensor]:
        device, accelerator = self._accelerator.device, self._accelerator
        sums: dict[str, Tensor] = {}
        self._meeting = self.divided
        for index, part in enumerate(parts):
            batch = part.to(device)
            signals = self._teacher.signals(batch) if self._teacher else Signals()
            if self._wrapped is None:
                self._wrap(batch, signals)
                seed_device(seed, device)
            if self.first is None and not index:
                with self.whole(), accelerator.autocast():
                    first = first_step(self._module, batch, signals)
                seed_device(seed, device)
            views = views_of(self._hooks)
            for view_number, view in enumerate(views):
                last = index == len(parts) - 1 and view_number == len(views) - 1
                # Processes average their gradients, and each loss is already divided by the step's totals.
                with view, nullcontext() if last else accelerator.no_sync(self._wrapped):
                    self._begun = True
                    # The accelerator has put this into what it wrapped; it does not know a divided copy.
                    with accelerator.autocast() if self.divided else nullcontext():
                        losses = self._wrapped(batch, signals)
                    self._meeting = self.divided or (last and accelerator.num_processes > 1)
                    accelerator.backward(sum(losses.values()) * accelerator.num_processes)
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0) + loss.detach()
        if self.first is None:
            self.first = self._of_step(first, sums)
            for line in first_step_lines(self._stage.name, first):
                self._say(line)
        return sums

    def _of_step(self, first: Terms, sums: dict[str, Tensor]) -> Terms:
        """A piece's terms, scaled to the whole step: its losses are known, and each gradient, at most, grows with its loss."""
        if not first:
            return first
        losses = self._accelerator.reduce(torch.stack([sums[name].float() for name in first]), "sum").tolist()
        whole = dict(zip(first, losses, strict=True))
        return {name: _scaled(term, whole[name]) for name, term in first.items()}

    def _wrap(self, batch: Batch, signals: Signals) -> None:
        """Prepare the module. Processes look for parameters without a gradient at each step only where there are such: heads and
        poolers take no part in some stages. Which take part does not change from step to step."""
        accelerator = self._accelerator
        if accelerator.num_processes > 1:
            parameters = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
            with views_of(self._hooks)[-1], accelerator.autocast():
                loss = sum(self._module(batch, signals).values())
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            unused = torch.tensor(float(any(gradient is None for gradient in found)), device=accelerator.device)
            look = bool(accelerator.reduce(unused, "sum").item())  # all must do the same
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=look)
        self._wrapped = accelerator.prepare_model(self._module, device_placement=False)


def first_step(module: TrainedModule, batch: Batch, signals: Signals) -> Terms:
    """Each term's loss, the norm of its gradient, None where that overflows, and its weight; nothing of a single term."""
    losses = module(batch, signals)
    if len(losses) < 2:
        return {}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = {term.kind: term.weight for term in module.objective.plan.terms}
    found: Terms = {}
    for name, loss in losses.items():
        trains = loss.requires_grad  # a term without pairs of layers is a constant
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) if trains else ()
        norms = [gradient.detach().float().norm() for gradient in gradients if gradient is not None]
        norm = torch.stack(norms).norm().item() if norms else 0.0
        gradient = norm if math.isfinite(norm) else None
        found[name] = {"loss": loss.item(), "gradient": gradient, "weight": weights.get(name)}
    return found


def _scaled(term: dict[str, float | None], loss: float) -> dict[str, float | None]:
    part, gradient = term["loss"] or 0.0, term["gradient"]
    share = loss / part if part * loss > 0 else 1.0
    return {**term, "loss": loss, "gradient": None if gradient is None else gradient * share}


def seed_device(number: int, device: torch.device) -> None:
    """Seed what draws on ``device``. On a CPU ``torch.manual_seed`` also notes the call for each GPU library, with its whole
    stack of calls as text, which costs as much as a layer of a tiny model."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
