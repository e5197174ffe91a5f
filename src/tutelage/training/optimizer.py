"""AdamW that pays only for the embedding rows that a step touches.

A batch of short texts touches a few hundred of a vocabulary's 30,000 rows, but dense AdamW reads and writes all of them
every step; for a small student that costs as much as its layers. Yet a row that gets no gradient moves in a known way:
its first moment shrinks by ``beta1`` and its second by ``beta2`` a step, and the row follows its momentum. So the steps
that a row has missed are made up for in closed form when the row is next needed. The result is dense AdamW's, up to
rounding and to the epsilon in the denominator; only the cost differs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

HORIZON = 256
"""Momentum older than this many steps is nil: ``(beta1 / sqrt(beta2)) ** 256`` is 2e-12 for the usual betas."""


class RowAdamW(torch.optim.AdamW):
    """AdamW; the embedding ``table``, whose gradient is sparse (``nn.Embedding(sparse=True)``), is updated row by row.

    Before each forward pass call :meth:`catch_up` with the rows that the optimiser step will read, and without rows
    before the weights are used for anything else (evaluation, saving). All bookkeeping is on the CPU: nothing waits for
    the device.
    """

    def __init__(self, groups: list[dict[str, Any]], table: nn.Parameter | None = None, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._table = table
        self._pending = torch.empty(0, dtype=torch.int64)
        self._gradient: Tensor | None = None
        if table is not None:
            self._group = next(g for g in self.param_groups if any(p is table for p in g["params"]))
            self.state[table] = {
                "exp_avg": torch.zeros_like(table),
                "exp_avg_sq": torch.zeros_like(table),
                "last": torch.zeros(len(table), dtype=torch.int64),
                # Row 0: the learning rate of each step; row 1: the decay up to and with it, as a sum of logarithms.
                "history": torch.zeros(2, 1024, dtype=torch.float64),
                "clock": torch.zeros((), dtype=torch.int64),
            }

    @torch.no_grad()
    def catch_up(self, rows: Tensor | None = None, *, step: bool = True) -> None:
        """Let ``rows`` of the table (on the CPU, sorted, distinct; default: all) make the steps they have missed.

        They are the rows of the next step, unless ``step`` is False: then they are only read.
        """
        if self._table is None:
            return
        state = self.state[self._table]
        now = int(state["clock"])
        if rows is None:
            rows = torch.arange(len(self._table))
        elif step:
            self._pending = rows
        last = state["last"][rows]
        late, last = rows[last < now], last[last < now]
        if not len(late):
            return
        state["last"][late] = now
        # All rows that were last updated in the same step have missed the same steps.
        since, group = last.unique(return_inverse=True)
        device, dtype = self._table.device, self._table.dtype
        drift, decay, shrink1, shrink2, eps = (
            values[group, None].to(dtype).to(device, non_blocking=True)
            for values in self._missed(state["history"], since, now)
        )
        late = late.to(device, non_blocking=True)
        m, v = state["exp_avg"][late], state["exp_avg_sq"][late]
        self._table[late] = self._table[late] * decay - m / (v.sqrt() + eps) * drift
        state["exp_avg"][late] = m * shrink1
        state["exp_avg_sq"][late] = v * shrink2

    def _missed(self, history: Tensor, since: Tensor, now: int) -> tuple[Tensor, ...]:
        """What the steps after ``since`` up to ``now`` do to a row without gradient.

        In step ``j`` it moves by ``lr_j m_j / (1 - beta1^j) / sqrt(v_j / (1 - beta2^j))``, with
        ``m_j = beta1^(j - since) m`` and ``v_j = beta2^(j - since) v``. Returns that path's length in units of
        ``m / sqrt(v)``, the weight decay, the factors on ``m`` and ``v``, and the epsilon beside ``sqrt(v)``.
        """
        beta1, beta2 = self._group["betas"]
        rates, logs = history
        steps = since[:, None] + torch.arange(1, min(HORIZON, now - int(since.min())) + 1)
        j, k = steps.double(), (now - since).double()
        path = (beta1 / beta2**0.5) ** (j - since[:, None]) * (1 - beta2**j).sqrt() / (1 - beta1**j)
        drift = (rates[steps.clamp(max=now) - 1] * path * (steps <= now)).sum(dim=1)
        decay = (logs[now - 1] - torch.where(since > 0, logs[since - 1], 0.0)).exp()
        return drift, decay, beta1**k, beta2**k, self._group["eps"] * (1 - beta2 ** (since + 1.0)).sqrt()

    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their joint norm is at most ``max_norm``; returns the norm before.

        What ``torch.nn.utils.clip_grad_norm_`` does, the sparse gradient included. Call it once, before :meth:`step`.
        """
        self._gather()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self._gradient is not None:
            gradients.append(self._gradient)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _gather(self) -> None:
        """Add up the sparse gradient over the rows of this step; rows without any get zero, as they would densely."""
        if self._table is None or self._table.grad is None:
            return
        gradient, self._table.grad = self._table.grad, None
        rows = self._pending.to(self._table.device, non_blocking=True)
        self._gradient = self._table.new_zeros(len(rows), self._table.shape[1])
        place = torch.searchsorted(rows, gradient._indices()[0])
        self._gradient.index_add_(0, place, gradient._values().to(self._gradient.dtype))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._gather()
        super().step()
        # Set by the fp16 gradient scaler, which trusts a fused step to do nothing where a gradient overflowed.
        overflow = getattr(self, "found_inf", None)
        if self._table is None or self._gradient is None or (overflow is not None and overflow.item()):
            return
        state, g = self.state[self._table], self._gradient
        self._gradient = None
        clock, (beta1, beta2), lr = int(state["clock"]) + 1, self._group["betas"], float(self._group["lr"])
        state["clock"].fill_(clock)
        if clock > state["history"].shape[1]:
            state["history"] = torch.cat([state["history"], torch.zeros_like(state["history"])], dim=1)
        before = state["history"][1, clock - 2] if clock > 1 else 0.0
        decay = 1 - lr * self._group["weight_decay"]
        state["history"][:, clock - 1] = torch.tensor([lr, before + math.log(decay)], dtype=torch.float64)
        state["last"][self._pending] = clock
        rows = self._pending.to(self._table.device, non_blocking=True)
        m = state["exp_avg"][rows].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = m, v
        denominator = (v / (1 - beta2**clock)).sqrt_().add_(self._group["eps"])
        self._table[rows] = (self._table[rows] * decay).addcdiv_(m / (1 - beta1**clock), denominator, value=-lr)
