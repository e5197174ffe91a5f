"""The gradients of one optimiser step, in pieces that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tutelage.data import batches
from tutelage.data.batches import Batch
from tutelage.data.examples import Encoded, Rows
from tutelage.errors import TutelageError, out_of_memory
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.hook import Hook, views_of
from tutelage.recipes.recipe import Stage
from tutelage.report.findings import first_step_lines
from tutelage.teachers.teacher import Teacher
from tutelage.training import sharding

Terms = dict[str, dict[str, float | None]]
"""Of each of several terms: ``loss`` and ``gradient`` (its norm)."""


@dataclass
class Stepper:
    """Computes gradients of a distillation module, a step at a time.

    A step is computed in pieces of at most ``max_tokens`` padded tokens. One that does not fit into memory is halved: the step
    begins again with cleared gradients and the random numbers of its start, and ``max_tokens`` stays halved.
    """

    stage: Stage
    module: nn.Module
    teacher: Teacher | None
    accelerator: Accelerator
    hooks: Sequence[Hook]
    max_tokens: int
    whole: bool
    """The objective compares all examples of a step, which is never cut."""
    say: Callable[[str], None]
    wrapped: Any = None
    """The module as the accelerator has prepared it, or its divided copy. None: it is prepared at the next step, because its
    parameters are new."""
    divided: bool = False
    """The processes divide the weights (:mod:`tutelage.training.sharding`): every pass of one needs the others."""
    first: Terms | None = None
    """The terms before the first update; None until the first step is done."""
    _begun: bool = False
    """Whether the processes have met in this step's forward pass."""
    _meeting: bool = False
    """Whether this process sends its gradients to the others."""

    def gradients(
        self, step: Encoded, names: Rows, number: int, seed: int, clear: Callable[[], None]
    ) -> tuple[list[Batch], dict[str, Tensor]]:
        """Add up the gradients of step ``number``; returns this process's pieces and each term's loss.

        ``names`` are the numbers of the step's rows in the feed; ``clear`` sets the gradients to zero.

        Raises:
            TutelageError: if a step that is never cut does not fit into memory.
            Exception: if one text alone does not fit, or the processes are already exchanging gradients.
        """
        self._begun = False
        while True:
            seed_device(seed, self.accelerator.device)
            rank, world = self.accelerator.process_index, self.accelerator.num_processes
            most = 2**62 if self.whole else self.max_tokens
            pieces = batches.step_batches(step, names, rank, world, most, self.stage.pad_to, number, even=self.divided)
            parts = list(pieces)
            largest = max(parts, key=lambda part: part.mask.numel())
            try:
                return parts, self._add_up(parts, seed)
            except Exception as error:
                # Half of a sum over processes cannot be taken back.
                if self._meeting:
                    raise
                if self.whole and out_of_memory(error) and self.stage.batch_size > 1:
                    raise TutelageError(
                        f"a step of {len(step)} examples does not fit into memory, and stage {self.stage.name!r} compares all "
                        f"examples of a step; use fewer (--set stages.{self.stage.name}.batch_size={self.stage.batch_size // 2})"
                    ) from None
                self.max_tokens = batches.halved(error, largest.mask.numel(), len(largest.rows))
            clear()
            batches.free_memory(self.max_tokens, self.say)
            if isinstance(self.wrapped, DistributedDataParallel) and self._begun:
                self.wrapped.require_forward_param_sync = (
                    False  # the others do not wait for this process's buffers again
                )

    def _add_up(self, parts: list[Batch], seed: int) -> dict[str, Tensor]:
        device, accelerator = self.accelerator.device, self.accelerator
        sums: dict[str, Tensor] = {}
        self._meeting = self.divided
        for index, part in enumerate(parts):
            batch = part.to(device)
            signals = self.teacher.signals(batch) if self.teacher else Signals()
            if self.wrapped is None:
                self._wrap(batch, signals)
                seed_device(seed, device)
            if self.first is None and not index:
                here = sharding.lent(self.wrapped, self.module, device) if self.divided else nullcontext()
                with here, accelerator.autocast():
                    first = first_step(self.module, batch, signals)
                seed_device(seed, device)
            views = views_of(self.hooks)
            for view_number, view in enumerate(views):
                last = index == len(parts) - 1 and view_number == len(views) - 1
                # Processes average their gradients, and each loss is already divided by the step's totals.
                with view, nullcontext() if last else accelerator.no_sync(self.wrapped):
                    self._begun = True
                    # The accelerator has put this into what it wrapped; it does not know a divided copy.
                    with accelerator.autocast() if self.divided else nullcontext():
                        losses = self.wrapped(batch, signals)
                    self._meeting = self.divided or (last and accelerator.num_processes > 1)
                    accelerator.backward(sum(losses.values()) * accelerator.num_processes)
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0) + loss.detach()
        if self.first is None:
            self.first = first
            for line in first_step_lines(self.stage.name, first):
                self.say(line)
        return sums

    def _wrap(self, batch: Batch, signals: Signals) -> None:
        """Prepare the module. Processes look for parameters without a gradient at each step only where there are such: heads and
        poolers take no part in some stages. Which take part does not change from step to step."""
        accelerator = self.accelerator
        if accelerator.num_processes > 1:
            parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
            with views_of(self.hooks)[-1], accelerator.autocast():
                loss = sum(self.module(batch, signals).values())
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            unused = torch.tensor(float(any(gradient is None for gradient in found)), device=accelerator.device)
            look = bool(accelerator.reduce(unused, "sum").item())  # all must do the same
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=look)
        self.wrapped = accelerator.prepare_model(self.module, device_placement=False)


def first_step(module: nn.Module, batch: Batch, signals: Signals) -> Terms:
    """Each term's loss and the norm of its gradient, None where that overflows; nothing of a single term."""
    losses = module(batch, signals)
    if len(losses) < 2:
        return {}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found: Terms = {}
    for name, loss in losses.items():
        trains = loss.requires_grad  # a term without pairs of layers is a constant
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) if trains else ()
        norms = [gradient.detach().float().norm() for gradient in gradients if gradient is not None]
        norm = torch.stack(norms).norm().item() if norms else 0.0
        found[name] = {"loss": loss.item(), "gradient": norm if math.isfinite(norm) else None}
    return found


def seed_device(number: int, device: torch.device) -> None:
    """Seed what draws on ``device``. On a CPU ``torch.manual_seed`` also notes the call for each GPU library, with its whole
    stack of calls as text, which costs as much as a layer of a tiny model."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
