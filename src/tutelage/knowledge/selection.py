"""Select a part of a teacher's hidden states: layers, tokens and neurons.

The running teacher, the store writer and the store reader use the same selector, so their results cannot differ. The choice
for an example depends on that example alone, not on padding or on the other examples of a batch.

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

    * ``values`` ``(batch, kept, width)``: the hidden states.
    * ``mask`` ``(batch, kept)``: 1 for a kept token, 0 for padding.
    * ``positions`` ``(batch, kept)``: positions of the tokens, most important first; ``None``: all tokens in reading order.
    * ``neurons`` ``(width,)`` or ``(batch, kept, width)``: kept coordinates, ascending; ``None``: all.
    * ``steps`` ``(batch, kept)``: the unit of each vector in an 8-bit store.
    """

    values: Tensor
    mask: Tensor
    positions: Tensor | None = None
    neurons: Tensor | None = None
    steps: Tensor | None = None

    def to(self, device: torch.device) -> Selected:
        return self.each(lambda t: t.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> Selected:
        """Apply ``change`` to every tensor."""
        optional = (None if t is None else change(t) for t in (self.positions, self.neurons, self.steps))
        return Selected(change(self.values), change(self.mask), *optional)


def attention_of_first(
    query: Tensor, key: Tensor, mask: Tensor, scaling: float, score: Score, bias: Tensor | None = None
) -> Tensor:
    """Attention from the first token to each token, ``(batch, length)``: mean over heads, without a full attention map.

    Shapes: query and key ``(batch, heads, length, head_size)``, mask ``(batch, length)``, ``bias`` (added to the scaled
    products) ``(1 or batch, heads, 1, length)``. ``score="probability"`` averages the softmax; ``score="logit"`` averages
    the softmax input, as the authors' code does.
    """
    with torch.autocast(device_type=query.device.type, enabled=False):
        scores = (query[:, :, :1].float() @ key.float().mT) * scaling
        scores = (scores if bias is None else scores + bias.float())[:, :, 0]
    if score == "logit":
        return scores.mean(dim=1)
    return scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(dim=-1).mean(dim=1)


def choose_tokens(
    tokens: Tokens, mask: Tensor, separators: Tensor, scores: Tensor | None, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose tokens. Returns ``(positions, chosen)``, both ``(batch, kept)``.

    ``positions`` has the best token first, ties in reading order, and 0 where ``chosen`` is 0 (padding).

    Shapes: ``mask`` and the boolean ``separators`` ``(batch, length)``; ``scores`` ``(batch, length)``, for ``attention``;
    ``keys`` ``(batch,)``, hashes of the examples' content, for ``random``.
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
    """Indices into ``vectors`` ``(..., width)`` of the coordinates to keep, ascending; ``None``: all.

    The shape is ``(kept,)`` if all vectors share the choice, else ``(..., kept)``. Of equal magnitudes, the first is kept.
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
    """Apply ``cut`` to ``given``: whole hidden states, or the part that a store keeps.

    The other arguments are those of :func:`choose_tokens`. They matter only if ``given`` has all tokens.
    """
    tokens, kept = cut.tokens, given
    if given.positions is not None:  # the most important tokens come first
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
