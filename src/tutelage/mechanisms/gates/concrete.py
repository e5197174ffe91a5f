"""The hard-concrete distribution of gates (Louizos et al. 2018, arXiv:1712.01312) and what a gated model is expected to cost.

A gate is a number from 0 to 1 with mass at both ends: ``z = clamp(s (HIGH - LOW) + LOW, 0, 1)`` with
``s = sigmoid((log(u / (1 - u)) + a) / TEMPERATURE)``, ``u`` uniform from 0 to 1 and the learnt ``a``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
MARGIN = 1e-6
"""The noise stays this far from 0 and 1."""
SHARPNESS = 0.8
"""Factor of ``a / TEMPERATURE`` in the value of a gate that is no longer random, as in CoFi's code."""


def sampled(a: Tensor, noise: Tensor) -> Tensor:
    """Random gates; gradients reach ``a`` where a gate is neither 0 nor 1. Shapes: both ``(...)``, noise uniform from 0 to 1."""
    u = noise.clamp(MARGIN, 1 - MARGIN)
    s = ((u.log() - (1 - u).log() + a) / TEMPERATURE).sigmoid()
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(a: Tensor) -> Tensor:
    """``P(z > 0) = sigmoid(a - TEMPERATURE log(-LOW / HIGH))``, of the same shape."""
    return (a - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


def settled(a: Tensor, block: Tensor | float = 1.0, shift: float = 0.0) -> Tensor:
    """Gates that are no longer random, ``(..., units)``: as many of each row as are expected to be closed, the lowest, are 0. The
    others are ``sigmoid(SHARPNESS a / TEMPERATURE)`` (CoFi's code).

    Args:
        block: ``(..., 1)``: the probability that the units' block is open. A unit is closed with its block, too; otherwise a block
            that is open in two of three draws would keep half more than the Lagrangian counts. Of a block that is surely open this
            is the authors' rule.
        shift: Count what is closed as if every ``a`` were larger by this.
    """
    closed = (1 - block * open_probability(a + shift)).sum(-1, keepdim=True).round()
    rank = a.argsort(dim=-1, stable=True).argsort(dim=-1)
    return torch.where(rank < closed, 0.0, (SHARPNESS * a / TEMPERATURE).sigmoid())


def expected_cost(blocks: Tensor, units: Tensor, cost: float | Tensor) -> Tensor:
    """``cost sum_bu P(block b is open) P(unit u of b is open)``, a number: a unit costs something while both are open.

    Gates are independent. A cost that is linear in the number of open hidden coordinates may therefore be given as the cost at the
    expected number: the result is then the sum over units and coordinates of the product of their probabilities (CoFi).

    Shapes: ``blocks`` ``(B,)`` and ``units`` ``(B, U)``, the ``a`` of their gates; ``cost`` a number or ``()``.
    """
    return cost * (open_probability(blocks) * open_probability(units).sum(-1)).sum()


def lagrangian(share: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """``l1 (s - t) + l2 (s - t)^2`` for shares that are pruned away (Wang et al. 2020, CoFi). The multipliers, ``(2,)``, rise
    along its gradient, the gates fall."""
    apart = share - target
    return multipliers[0] * apart + multipliers[1] * apart.square()
