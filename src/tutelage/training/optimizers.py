"""The optimiser of a stage, its rate and its clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tutelage.recipes.recipe import Stage


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT was trained with it: no bias correction, decoupled weight decay.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``, ``p -= lr (m / (sqrt(v) + eps) + decay p)``. Early steps are larger
    than Adam's, as far as ``m / sqrt(v)`` is not yet averaged; warm-up makes up for it.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            one, two = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                gradient, mean, square = parameter.grad, state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(gradient, 1 - one)
                square.mul_(two).addcmul_(gradient, gradient, value=1 - two)
                # Decay before the update: both are of the parameter as it was.
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"])


def optimizer_of(stage: Stage, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """The stage's optimiser for these groups of parameters, each with its weight decay."""
    _, peak = stage.schedule
    if stage.optimizer == "bert_adam":
        return BertAdam(groups, lr=peak, betas=stage.betas, eps=stage.eps or 1e-6)
    if stage.optimizer == "adadelta":
        return torch.optim.Adadelta(groups, lr=peak, rho=0.95)
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=peak, betas=stage.betas, eps=stage.eps or 1e-8, fused=fused)


def clip(stage: Stage, optimizer: torch.optim.Optimizer) -> None:
    """Scale gradients down to the norm ``stage.clip``: all together, or for ``bert_adam`` each tensor's alone. Groups with a
    ``rate`` of their own are left out (:meth:`tutelage.mechanisms.hook.Hook.parameter_groups`)."""
    parameters = [p for group in optimizer.param_groups if "rate" not in group for p in group["params"]]
    for together in [[p] for p in parameters] if stage.optimizer == "bert_adam" else [parameters]:
        # Not the accelerator's: that would divide by the scale of fp16 a second time.
        nn.utils.clip_grad_norm_(together, stage.clip)


def learning_rate(stage: Stage, step: int, total: int) -> float:
    """Rate of step ``step`` (from 0): linear warm-up over a share of the steps, then linear to zero or constant.

    The first step of ``bert_adam`` has the rate 0 and its warm-up is not rounded to whole steps, as in BERT's code.
    """
    (_, peak), warmup, done = stage.schedule, stage.warmup * total, step
    if stage.optimizer != "bert_adam":
        warmup, done = round(warmup), step + 1
    if step < warmup:
        return peak * done / warmup
    return peak if stage.decay == "constant" else peak * (total - step) / max(total - warmup, 1)
