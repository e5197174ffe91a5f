"""Pruning of a student with compactors during training (Wu et al. 2024): which coordinates are masked, when, and how their rows
shrink to zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.errors import TutelageError, option
from tutelage.mechanisms.hook import Hook
from tutelage.mechanisms.pruning.energies import Energies
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.students.compactors.compaction import compaction_of
from tutelage.students.compactors.wrapped import ZERO, Compactor, Group

ROUNDING = 1e-3
"""Bound on the change of logits by float32 rounding, as a share of the largest logit, with room to spare."""


class Pruner(Hook):
    """Carries out a :class:`PruningSchedule` in one stage.

    Its state is in the model (masks, scores) or follows from the step, so a resumed stage needs nothing else.

    Args:
        settle: Called at the end of the stage with the record of :meth:`merge` and the note of :meth:`doubt`, if any.

    Raises:
        TutelageError: when the student has no compactors.
    """

    def __init__(
        self,
        how: PruningSchedule,
        model: PreTrainedModel,
        settle: Callable[[dict[str, Any], str | None], None] = lambda record, doubt: None,
    ) -> None:
        found = compaction_of(model)
        if found is None:
            raise TutelageError(f"pruning needs a student with compactors; use {option('student')} init=inherited")
        self.how, self.model, self.compaction, self._settle = how, model, found, settle
        self._held: list[tuple[Compactor, Tensor]] = []
        if how.schedule == "reference":
            self._as_reference()
        self._energies: Energies | None = None

    def start(self) -> None:
        """Begin to collect scores, where they are made of what happens during training. Called once, before the stage.

        A resumed stage loads the scores afterwards, with the model's state.
        """
        if self.how.selection in ("activation", "taylor"):
            for group in self.compaction:
                group.score.zero_()
        if self.how.selection == "activation":
            self._energies = Energies(self.model, self.compaction)

    def times(self, total: int) -> tuple[int, int]:
        """The steps between increments, and the step after which the student is cut, in a stage of ``total`` steps.

        Raises:
            TutelageError: if the stage is too short to mask all coordinates and shrink them to zero.
        """
        how = self.how
        interval = how.interval or max(1, round(how.share * total / how.increments))
        increments = 1
        while any(self._due(group, increments) < group.units[0] - group.units[1] for group in self.compaction):
            increments += 1
        last = interval * (increments + math.ceil(how.intervals_to_zero) + 1)
        if last > total:
            raise TutelageError(
                f"a stage of {total} steps is too short: masking in {increments} increments of {interval} steps and shrinking to "
                f"zero take {last}; give it more epochs, fewer pruning.increments or a smaller "
                f"pruning.{'share' if how.interval is None else 'interval'}"
            )
        return interval, last

    def parameter_groups(self, module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Compactors at the stage's rate without decay (which would draw them to 0, not to the identity), the rest slower."""
        compactors = [member.matrix for group in self.compaction for member in group.members]
        known = {id(p) for p in compactors}
        others = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
        slow = {"factor": self.how.weights_lr}
        return [
            {"params": compactors, "weight_decay": 0.0},
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay, **slow},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, **slow},
        ]

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """Gradients are complete and not yet clipped: masked rows lose theirs."""
        if self.compaction.is_cut:
            return
        how, self._held = self.how, []
        if self._energies is not None:
            self._energies.settle()
        for group in self.compaction:
            rows = group.gone
            if how.selection == "taylor" and not group.complete:
                _add_taylor(group)
            for member in group.members:
                matrix = member.matrix
                if matrix.grad is None:
                    continue
                if how.penalty == "lasso":
                    matrix.grad[rows] = 0
                    matrix.grad += self.strength * nn.functional.normalize(matrix.detach(), dim=1)
                elif len(rows) and how.penalty == "prox":
                    matrix.grad[rows] = 0
                    # Momentum would still move them: they are put back after the step.
                    self._held.append((member, matrix.detach()[rows]))
                elif len(rows):
                    values = matrix.detach()[rows]
                    matrix.grad[rows] = min(self.strength, 1.0) * values
                    moment = optimizer.state.get(matrix, {}).get("exp_avg")
                    if moment is not None and self.strength > 1:
                        moment.mul_(0.9)
                        moment[rows] += 0.1 * (self.strength - 1) * values

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        """Shrink the masked rows and mask further ones after optimiser step ``step`` (from 1). Returns whether shapes have
        changed."""
        if self.compaction.is_cut:
            return False
        interval, _ = self.times(total)
        length = 1 / (self.how.intervals_to_zero * interval)
        for member, rows in self._held:
            norms = rows.norm(dim=1, keepdim=True)
            # The last piece goes with the rest, rounded as it is.
            left = torch.where(norms <= length * 1.001, 0.0, 1 - length / norms.clamp(min=1e-30))
            member.matrix[member.group.gone] = rows * left
        self._held = []
        if step % interval:
            return False
        self.mask(step // interval)
        if not all(group.complete for group in self.compaction) or self.compaction.largest_masked() >= ZERO:
            return False
        for group in self.compaction:
            for member in group.members:
                member.matrix[group.gone] = 0
        self.compaction.cut(self.model, optimizer)
        return True

    def finish(self, proof: Callable[[], Batch]) -> bool:
        """Merge the compactors into the weights and record what was kept."""
        record = self.merge(proof())
        self._settle(record, self.doubt(record))
        return True

    @torch.no_grad()
    def merge(self, batch: Batch) -> dict[str, Any]:
        """Merge the compactors into the weights. Returns what was kept, and how much that changed the predictions for ``batch``.

        ``largest_masked`` is the largest norm of a pruned row, ``difference`` the largest change of a logit, ``largest_logit``
        the largest logit before.
        """
        found, model = self.compaction, self.model
        for group in found:
            if not group.complete:
                units, left = group.units
                group.restrict(units - left, group.norms())
        record = {"kept": found.kept(), "largest_masked": found.largest_masked(), "cut": found.is_cut}
        before = anatomy.answers_of(model, batch.inputs, batch.predicted)
        found.merge(model)
        after = anatomy.answers_of(model, batch.inputs, batch.predicted)
        difference = float((after - before).abs().max())
        return {**record, "difference": difference, "largest_logit": float(before.abs().max())}

    def doubt(self, record: dict[str, Any]) -> str | None:
        """A note if :meth:`merge` changed the student's predictions."""
        change = f"changed logits by up to {record['difference']:.2g} (the largest is {record['largest_logit']:.2g})"
        if record["largest_masked"] >= ZERO:
            other = "" if self.how.penalty == "prox" else ", or use pruning.penalty=prox"
            return (
                f"note: pruned rows had norms up to {record['largest_masked']:.2g} instead of 0, and removing them {change}; train "
                f"for longer{other}"
            )
        if record["difference"] > ROUNDING * record["largest_logit"]:
            return (
                f"note: merging the compactors {change} although all pruned rows were 0; the saved student differs from the "
                f"trained one, do not use it"
            )
        return None

    def mask(self, increment: int) -> None:
        """Mask the coordinates that are due at an increment (from 1)."""
        for group in self.compaction:
            if not group.complete:
                by_norm = self.how.selection == "norm"
                scores = group.norms(of_master=self.how.scope == "master") if by_norm else group.score
                group.restrict(self._due(group, increment), scores)

    @property
    def strength(self) -> float:
        return self.how.strength or {"adam_l2": 20.0, "lasso": 1e-4}.get(self.how.penalty, 1.0)

    def _as_reference(self) -> None:
        """Cut the residual stream in blocks like heads."""
        residual, inner = (self.compaction.groups[name] for name in ("residual", "attention_1"))
        residual.chunks, residual.block = inner.chunks, inner.block

    def _due(self, group: Group, increment: int) -> int:
        """Blocks of each chunk that are masked after an increment."""
        units, left = group.units
        due = increment * (units - left) // self.how.increments
        if self.how.schedule == "reference" and (group.name == "residual" or group.name.startswith("attention")):
            due = increment // 2 if group.block > 1 else increment * max((units - left) // 8, 1)
        return min(due, units - left)


def _add_taylor(group: Group) -> None:
    """Add a step's part of the scores; one whose gradients overflowed (fp16) has none, as the optimiser skips it."""
    matrices = [member.matrix for member in group.members]
    found = [(m.detach() * m.grad).sum(dim=1).square() for m in matrices if m.grad is not None]
    if found:
        together = torch.stack(found).sum(dim=0)
        group.score += torch.where(together.isfinite().all(), together, 0.0)  # on the device: nothing waits
