"""Learn the sampling weights of a team's teachers during the student's training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import softmax
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data import batches, examples
from tutelage.data.batches import Batch
from tutelage.data.examples import Encoded
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.hook import Hook
from tutelage.mechanisms.team.settings import Learning
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weights import Numbers, selected
from tutelage.objectives.predictions import HardLabels
from tutelage.objectives.term import Comparison, Term
from tutelage.tasks.kind import Kind
from tutelage.teachers.teacher import Teacher

STEP = {torch.float32: 5e-3, torch.float64: 1e-5}
"""Step of the central difference for a directional derivative, by the type it is computed in."""


CPU_TOKENS = 512
"""Padded tokens of held-out examples at once on a CPU, where padding costs time. A GPU is faster with all of them at once."""


PACE, LEAST_CURVATURE, HOTTEST = 0.1, 0.05, 10.0
"""The temperature of held-out logits moves by this share of Newton's step at each update. The curvature has a lower bound, so
that the step stays small where the loss is flat; the temperature has an upper bound."""


SNAPSHOTS = 200
"""Largest number of snapshots of the distribution per stage."""


SHOWN = 5
"""Number of teachers in a line of the log."""


class Weigher(Hook):
    """Carries out a :class:`Learning` for one stage; the loop calls it at each step.

    Args:
        student: The trained student, whose gradients give the rewards.
        term: The objective's term on the teachers' predictions.
        held: Labelled held-out examples.
        answers: Each teacher's predictions on ``held``, for ``Learning.unseen``.
        key: The run's seed and a number for the stage's name; they seed the draws.
        names: The teachers' names in the log.
        settle: Called with the record at the end of the stage.
    """

    def __init__(
        self,
        how: Learning,
        team: TeamTeacher,
        student: PreTrainedModel,
        term: Term,
        held: Encoded,
        answers: Sequence[Teacher],
        kind: Kind,
        accelerator: Accelerator,
        key: tuple[int, int],
        names: list[str],
        max_tokens: int = 16384,
        settle: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        self.how, self.team, self.names = how, team, names
        self._settle = settle
        self._student, self._held, self._kind, self._key = student, held, kind, key
        self._term = term.model_copy(update={"weight": 1.0})
        self._accelerator = accelerator
        self._max_tokens = min(max_tokens, CPU_TOKENS) if accelerator.device.type == "cpu" else max_tokens
        count = len(names)
        self.start = team.weights.probabilities()
        self.draws = np.zeros(count)
        self._rewards, self._rewarded = np.zeros(count), np.zeros(count)
        self._answers = answers
        self._calibrated = how.calibrated and kind.probabilities
        self._log_temperature = 0.0
        self._settled, self._summed = np.zeros(count), 0
        self.skipped = 0
        self._history: list[list[float]] = []

    # ------------------------------------------------------------------------------------------- what the loop calls

    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """Update the sampling weights from gradients at the student's current weights."""
        number = parts[0].step
        self.draws[self.team.drawn(number)] += 1
        if number % self.how.every:
            return
        held, others = self._held_parts(number)
        self._learn(self._alignments(held, others if self.how.unseen else parts), total)

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        if self.how.settled is not None and step > self.how.settled * total:
            self._settled, self._summed = self._settled + self.team.weights.logs, self._summed + 1
        if step % -(-total // SNAPSHOTS) == 0 or step == total:
            self._history.append([step, *self.team.weights.probabilities()])
        return False

    def shown(self) -> dict[str, float]:
        q = self.team.weights.probabilities()
        best = sorted(np.argsort(-q, kind="stable")[:SHOWN].tolist())
        return {self.names[k]: float(q[k]) for k in best}

    def state(self) -> dict[str, Tensor]:
        tables = {"weights": self.team.weights.state(), "counts": np.stack([self.draws, self._rewards, self._rewarded])}
        tables["numbers"] = np.array([self.skipped, self._log_temperature, self._summed], dtype=np.float64)
        tables["settled"] = self._settled
        tables["history"] = np.array(self._history).reshape(-1, 1 + len(self.names))
        return {name: torch.from_numpy(table) for name, table in tables.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        if not state:
            return
        self.team.weights.restore(state["weights"].numpy())
        self.draws, self._rewards, self._rewarded = (row.copy() for row in state["counts"].numpy())
        skipped, self._log_temperature, summed = state["numbers"].tolist()
        self.skipped, self._summed = int(skipped), int(summed)
        self._settled = state["settled"].numpy().copy()
        self._history = [[int(step), *shares] for step, *shares in state["history"].tolist()]

    def finish(self, proof: Callable[[], Batch]) -> bool:
        self._settle(self.record())
        return False

    def record(self) -> dict[str, Any]:
        """The result of the stage, as plain values for the report.

        ``probabilities`` is the learned distribution, ``next`` the distribution after selection, for later stages; ``reward`` the
        mean reward of each sampled teacher; ``temperature`` the final temperature of the held-out logits; ``settled`` the step
        after which log-weights were averaged.
        """
        logs = self._settled / self._summed if self._summed else self.team.weights.logs
        q = np.asarray(softmax(logs))
        after = selected(q, self.how)
        steps = int(self.draws.sum())
        means = np.divide(self._rewards, self._rewarded, out=np.full(len(q), math.nan), where=self._rewarded > 0)
        return {
            "start": self.start.tolist(),
            "probabilities": q.tolist(),
            "next": after.tolist(),
            "kept": [name for name, p in zip(self.names, after, strict=True) if p > 0],
            "draws": self.draws.astype(int).tolist(),
            "reward": [None if math.isnan(value) else value for value in means.tolist()],
            "updates": int(self._rewarded.sum() if self.how.update != "all" else self._rewarded.max()) + self.skipped,
            "skipped": self.skipped,
            "temperature": math.exp(self._log_temperature) if self._calibrated else None,
            "settled": steps - self._summed if self._summed else None,
            "history": self._history,
        }

    # ------------------------------------------------------------------------------------------------------- rewards

    def _learn(self, rewards: dict[int, float], total: int) -> None:
        if not rewards or not all(map(math.isfinite, rewards.values())):
            self.skipped += 1
            return
        for k, reward in rewards.items():
            self._rewards[k] += reward
            self._rewarded[k] += 1
        how, weights = self.how, self.team.weights
        rate = how.travel / -(-total // how.every)
        if how.update == "all":
            table: Numbers = np.zeros(len(self.names))
            table[list(rewards)] = list(rewards.values())
            weights.update_all(table, rate, shrink=how.shrink, watch=how.watch)
        else:
            ((drawn, reward),) = rewards.items()
            if how.update == "naive":
                weights.naive(drawn, reward, rate, watch=how.watch)
            else:
                change = weights.update if how.update == "single" else weights.reinforce
                change(drawn, reward, rate, shrink=how.shrink, watch=how.watch)

    def _held_parts(self, number: int) -> tuple[list[Batch], list[Batch]]:
        """This process's pieces of a step's held-out examples: those for the labels' gradient, and with ``unseen`` those for the
        teachers' gradients."""
        generator = np.random.default_rng([*self._key, 0x3E16, number])
        wanted = self.how.examples * (2 if self.how.unseen else 1)
        rows = generator.choice(len(self._held), min(wanted, len(self._held)), replace=False)
        half = -(-len(rows) // 2) if self.how.unseen else len(rows)
        return self._pieces(rows[:half], number), self._pieces(rows[half:], number)

    def _pieces(self, rows: examples.Rows, number: int) -> list[Batch]:
        if not len(rows):
            return []
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        return list(batches.step_batches(self._held.take(rows), rows, rank, world, self._max_tokens, number=number))

    def _labels_loss(self, part: Batch, logits: Tensor) -> Tensor:
        return HardLabels().value(Comparison(Signals(logits), Signals(), part, self._kind, [], [], nn.ModuleDict()))

    def _by_temperature(self, part: Batch, logits: Tensor) -> Tensor:
        """``(2,)``: first and second derivative of the labels' loss in the logarithm of the temperature."""
        place = torch.tensor(self._log_temperature, device=logits.device, requires_grad=True)
        (first,) = torch.autograd.grad(self._labels_loss(part, logits.float() / place.exp()), place, create_graph=True)
        (second,) = torch.autograd.grad(first, place)
        return torch.stack([first.detach(), second])

    def _alignments(self, held: list[Batch], judged: list[Batch]) -> dict[int, float]:
        """The reward of the step's teacher, or with ``update="all"`` of all teachers that can be sampled; empty without a gradient.

        ``held`` are the examples for the labels' gradient ``g_v``, ``judged`` those for the teachers' ``g_k``.

        ``<g_k, g_v> / ||g_v||`` is the derivative of teacher k's loss along ``u = g_v / ||g_v||``, which the chain rule
        splits at the student's logits: their derivative along ``u`` is the same for all teachers, and costs two passes
        forward. Both passes are without dropout and (but for ``g_v``) in full precision.
        """
        device, accelerator = self._accelerator.device, self._accelerator
        training = self._student.training
        self._student.eval()
        try:
            names, parameters = zip(*self._compared().items(), strict=True)
            sums: list[Tensor | None] = [None] * len(names)
            slopes = torch.zeros(2, device=device)
            for part in held:
                piece = part.to(device)
                # With fp16 small gradients would vanish, and the loss of the labels has no scaler here.
                with nullcontext() if accelerator.mixed_precision == "fp16" else accelerator.autocast():
                    logits = anatomy.answers_of(self._student, piece.inputs, piece.predicted)
                loss = self._labels_loss(piece, logits / math.exp(self._log_temperature))
                if self._calibrated:
                    slopes += self._by_temperature(piece, logits.detach())
                for i, g in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
                    if g is not None:
                        before = sums[i]
                        sums[i] = g if before is None else before + g
            if accelerator.num_processes > 1:
                sums = [
                    accelerator.reduce(torch.zeros_like(p) if g is None else g, "sum")
                    for g, p in zip(sums, parameters, strict=True)
                ]
            used = {name: g for name, g in zip(names, sums, strict=True) if g is not None}
            length = nn.utils.get_total_norm(used.values())
            norm, *changes = torch.cat([length[None], accelerator.reduce(slopes, "sum")]).tolist()
            if self._calibrated:
                self._follow(*changes)
            if not math.isfinite(norm) or norm < 1e-12 or not judged:
                return {}
            weights = self.team.weights
            everybody: list[int] = np.flatnonzero(weights.live).tolist()
            chosen = everybody if self.how.update == "all" else [self.team.drawn(judged[0].step)]
            teachers = self._answers if self.how.unseen else self.team.members
            rewards = torch.zeros(len(chosen), device=device)
            pieces = [part.to(device) for part in judged]
            for piece, (logits, slope) in zip(pieces, self._slopes(pieces, used, norm), strict=True):
                for i, k in enumerate(chosen):
                    taught = teachers[k].signals(piece)
                    leaf = logits.detach().requires_grad_()
                    compared = Comparison(Signals(leaf), taught, piece, self._kind, [], [], nn.ModuleDict())
                    (pull,) = torch.autograd.grad(self._term.value(compared), leaf)
                    rewards[i] += (pull * slope).sum()
            rewards = accelerator.reduce(rewards, "sum")
            return dict(zip(chosen, rewards.tolist(), strict=True))
        finally:
            self._student.train(training)

    def _follow(self, first: float, second: float) -> None:
        """Move the temperature towards the minimum of the labels' loss, but not below 1."""
        if math.isfinite(first) and math.isfinite(second):
            moved = self._log_temperature - PACE * first / max(second, LEAST_CURVATURE)
            self._log_temperature = min(max(moved, 0.0), math.log(HOTTEST))

    @torch.no_grad()
    def _slopes(self, parts: list[Batch], gradient: dict[str, Tensor], norm: float) -> list[tuple[Tensor, Tensor]]:
        """The student's logits on each piece and their derivative along the gradient, both ``(answers, classes)``."""
        own, sides = dict(self._student.named_parameters()), []
        step = STEP[next(iter(own.values())).dtype]
        for far in (step / norm, -step / norm):
            moved = {f"model.{name}": own[name].add(g, alpha=far) for name, g in gradient.items()}
            sides.append([functional_call(_Answers(self._student), moved, (part,)) for part in parts])
        return [((a + b) / 2, (a - b) / (2 * step)) for a, b in zip(*sides, strict=True)]

    def _compared(self) -> dict[str, nn.Parameter]:
        """The parameters whose gradients are compared."""
        how, student = self.how.parameters, self._student
        every = {name: p for name, p in student.named_parameters() if p.requires_grad}
        if how == "all":
            return every
        base = anatomy.base_of(student)
        body = {id(p) for p in base.parameters()}
        if isinstance(how, int):
            body -= {id(p) for layer in list(anatomy.layers_of(student))[-how:] for p in layer.parameters()}
        return {name: p for name, p in every.items() if id(p) not in body}


class _Answers(nn.Module):
    """A model's predictions as the output of a module, for ``functional_call``."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: Batch) -> Tensor:
        return anatomy.answers_of(self.model, part.inputs, part.predicted)
