"""Which part of a teacher's hidden states is kept: of which layer, at which tokens, in which neurons.

One selector serves the running teacher and the writer and reader of a store, so that the three cannot drift apart. All of
it is a function of one example alone: neither padding nor the other examples of a batch change what is chosen.

Source: Liu et al. 2021, "Marginal Utility Diminishes" (arXiv:2106.05691), sections on the depth, length and width of
hidden-state knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.data.draws import mixed
from tutelage.knowledge.cuts import Cut, Neurons, Score, Tokens


@dataclass
class Selected:
    """The kept part of one layer for a batch.

    ``values`` is ``(batch, kept, width)``, ``mask`` ``(batch, kept)`` is 1 where an example has that many tokens.
    ``positions`` ``(batch, kept)`` says where the tokens stand (most important first); ``None``: all, in their places.
    ``neurons`` ``(width,)`` or ``(batch, kept, width)``, ascending, says which coordinates; ``None``: all. ``steps``
    ``(batch, kept)``, in a store of 8-bit integers, are the units in which the vectors are written.
    """

    values: Tensor
    mask: Tensor
    positions: Tensor | None = None
    neurons: Tensor | None = None
    steps: Tensor | None = None

    def to(self, device: torch.device) -> Selected:
        return self.each(lambda t: t.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> Selected:
        """The same with every tensor changed."""
        optional = (None if t is None else change(t) for t in (self.positions, self.neurons, self.steps))
        return Selected(change(self.values), change(self.mask), *optional)


def attention_of_first(query: Tensor, key: Tensor, mask: Tensor, scaling: float, score: Score) -> Tensor:
    """How much the first token attends to each, ``(batch, length)``: mean over heads, without an attention map.

    Shapes: query and key ``(batch, heads, length, head_size)``, mask ``(batch, length)``. ``probability`` is the mean of
    the softmax, ``logit`` the mean of what enters it (what the authors' code ranks by).
    """
    with torch.autocast(device_type=query.device.type, enabled=False):
        scores = ((query[:, :, :1].float() @ key.float().mT) * scaling)[:, :, 0]
    if score == "logit":
        return scores.mean(dim=1)
    return scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(dim=-1).mean(dim=1)


def choose_tokens(
    tokens: Tokens, mask: Tensor, separators: Tensor, scores: Tensor | None, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """``(positions, chosen)``, both ``(batch, kept)``: the best first, ties in reading order; 0 where nothing is chosen.

    Shapes: ``mask`` and the boolean ``separators`` ``(batch, length)``; ``scores`` the same, for ``attention``; ``keys``
    ``(batch,)`` the examples' content, for ``random``.
    """
    length = mask.shape[1]
    eligible = mask.bool() if tokens.separators else mask.bool() & ~separators
    if tokens.by == "attention":
        assert scores is not None
        rank = scores.float()
    elif tokens.by == "left":
        rank = -torch.arange(length, device=mask.device, dtype=torch.float32).expand(mask.shape)
    else:
        draws = mixed(keys.cpu().numpy().astype(np.uint64)[:, None] + mixed(np.arange(length) + (tokens.seed << 32)))
        rank = torch.from_numpy(draws.astype(np.float64)).to(mask.device)
    rank = rank.masked_fill(~eligible, -torch.inf)
    if tokens.keep_first:
        rank[:, 0] = torch.inf
    count = eligible.sum(dim=1)
    if tokens.count is not None:
        count = count.clamp(max=tokens.count)
    order = rank.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(min(length, tokens.count or length), device=mask.device) < count[:, None]
    return order[:, : chosen.shape[1]] * chosen, chosen


def choose_neurons(neurons: Neurons, vectors: Tensor) -> Tensor | None:
    """Places in ``vectors`` ``(..., width)`` of the coordinates to keep, ascending; ``None``: all of them.

    ``(kept,)`` where all vectors share them, else ``(..., kept)``. Of equal magnitudes the first is kept.
    """
    if neurons.count is None:
        return None
    if neurons.by == "magnitude":
        order = vectors.abs().argsort(dim=-1, descending=True, stable=True)
        return order[..., : neurons.count].sort(dim=-1).values
    return torch.from_numpy(neurons.mask(vectors.shape[-1])).to(vectors.device)


def select(
    cut: Cut, given: Selected, mask: Tensor, separators: Tensor, scores: Tensor | None, keys: Tensor
) -> Selected:
    """What ``cut`` keeps of ``given``: of whole hidden states, or of what a store kept of them.

    The other arguments are as in :func:`choose_tokens`; they count only where ``given`` has all tokens.
    """
    tokens, kept = cut.tokens, given
    if given.positions is not None:  # the most important come first
        count = min(given.mask.shape[1], mask.shape[1], tokens.count or mask.shape[1])
        kept = given.each(lambda t: t if t.ndim == 1 else t[:, :count])
    elif not tokens.whole:
        positions, chosen = choose_tokens(tokens, mask, separators, scores, keys)

        def there(t: Tensor | None) -> Tensor | None:
            if t is None or t.ndim == 1:
                return t
            return t.take_along_dim(positions if t.ndim == 2 else positions[..., None], dim=1)

        kept = Selected(given.values.take_along_dim(positions[..., None], dim=1), chosen, positions)
        kept.neurons, kept.steps = there(given.neurons), there(given.steps)
    if kept.neurons is not None and kept.neurons.shape[-1] == cut.neurons.count:
        return kept
    places = choose_neurons(cut.neurons, kept.values)
    if places is None:
        return kept
    values = kept.values[..., places] if places.ndim == 1 else kept.values.gather(-1, places)
    neurons = places if kept.neurons is None else kept.neurons.gather(-1, places)
    return Selected(values, kept.mask, kept.positions, neurons, kept.steps)
