"""Round, pack and unpack the values of a store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.knowledge.cuts import Cut, Score
from tutelage.knowledge.selection import Selected, select
from tutelage.knowledge.signals import Signals
from tutelage.knowledge.store.scheme import Column, Dtype, Exponents, Scheme


def rounded(hidden: Tensor, dtype: Dtype, exponents: list[int] | None) -> tuple[Tensor, Tensor | None]:
    """Round ``hidden`` ``(batch, length, d)`` to the store's type. Also returns the step sizes of 8-bit vectors.

    A few neurons of a BERT are ten times larger than the rest. So 8-bit vectors are first divided by each neuron's typical
    size (a power of two). Then 127 steps cover the largest entry of each vector.
    """
    if dtype != "int8":
        return hidden.to(getattr(torch, dtype)).float(), None
    scaled = hidden / _powers(exponents, hidden.device)
    # Rounded up, so that the largest entry needs at most 127 steps.
    steps = (scaled.abs().amax(dim=-1) * (1.001 / 127)).half().float().clamp(min=2.0**-24)
    return (scaled / steps[..., None]).round() * steps[..., None] * _powers(exponents, hidden.device), steps


def _powers(exponents: list[int] | None, device: torch.device | None = None) -> Tensor:
    return torch.tensor(exponents or [0], device=device, dtype=torch.float32).exp2()


def _coded(part: Selected, scheme: Scheme, exponents: list[int] | None) -> npt.NDArray[Any]:
    """Encode values from :func:`rounded` for the disk."""
    values = part.values.cpu()
    if scheme.dtype == "int8":
        assert part.steps is not None
        values = values / unit_of(part, exponents)
        return np.asarray(values.round().to(torch.int8).numpy())
    stored = values.to(getattr(torch, scheme.dtype))
    return np.asarray((stored.view(torch.int16) if scheme.dtype == "bfloat16" else stored).numpy())


def unit_of(part: Selected, exponents: list[int] | None) -> Tensor:
    """The unit of each 8-bit value of ``part``."""
    assert part.steps is not None
    powers = _powers(exponents)
    return (powers if part.neurons is None else powers[part.neurons.cpu()]) * part.steps.cpu()[..., None]


def calibrate(parts: Iterable[tuple[int, Tensor, int]]) -> dict[int, list[int]]:
    """Typical size of each neuron, as an exponent of two (nearest to its root mean square), by layer.

    ``parts`` are the layer, the sums of the squares ``(d,)`` over some tokens, and how many tokens these are.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for layer, squares, count in parts:
        sums[layer] = sums.get(layer, 0) + squares
        counts[layer] = counts.get(layer, 0) + count
    return {
        layer: (total / counts[layer]).clamp(min=2.0**-40).log2().div(2).round().int().tolist()
        for layer, total in sums.items()
    }


def unpacked(kept: npt.NDArray[Any], scheme: Scheme) -> npt.NDArray[np.int64]:
    """Indices of the kept neurons, ``(batch, tokens, width)``; for padding, the first ones."""
    if scheme._listed:
        return kept.astype(np.int64)
    bits = np.unpackbits(kept, axis=-1, count=scheme.hidden)
    bits[~kept.any(axis=-1), : scheme.width] = 1
    # As booleans: flatnonzero is six times faster on booleans than on bytes.
    places = np.flatnonzero(bits.view(np.bool_)).reshape(-1, scheme.width)
    places = places - np.arange(len(places))[:, None] * scheme.hidden
    return np.asarray(places.reshape(*kept.shape[:-1], scheme.width))


def _packed(neurons: npt.NDArray[np.int64], scheme: Scheme) -> npt.NDArray[Any]:
    if scheme._listed:
        return neurons.astype("<u2")
    bits = np.zeros((*neurons.shape[:-1], scheme.hidden), dtype=np.uint8)
    np.put_along_axis(bits, neurons, 1, axis=-1)
    return np.packbits(bits, axis=-1)


@dataclass
class Contents:
    """The data of a batch to be written: the rounded part of each column of the scheme; ``mask`` and ``separators`` as in
    ``Batch``."""

    mask: Tensor
    separators: Tensor
    logits: Tensor | None = None
    parts: dict[Column, Selected] = field(default_factory=dict)
    scores: dict[tuple[int, Score], Tensor] = field(default_factory=dict)


def contents_of(
    signals: Signals, scheme: Scheme, mask: Tensor, separators: Tensor, keys: Tensor, exponents: Exponents
) -> Contents:
    """The part of a running teacher's signals (see :func:`needs_of`) that a scheme keeps."""
    contents = Contents(mask, separators, signals.logits)
    contents.scores = {(layer, score): signals.ranking(layer, mask, score) for layer, score in scheme.scorers}
    for layer, scorer in scheme.columns:
        values, steps = rounded(signals.hidden[layer].float(), scheme.dtype, exponents.get(layer))
        scores = None if scorer is None else signals.ranking(scorer, mask, scheme.tokens.score)
        cut = Cut(layer, scheme.tokens, scheme.neurons, scorer)
        contents.parts[layer, scorer] = select(cut, Selected(values, mask, steps=steps), mask, separators, scores, keys)
    return contents


def records_of(contents: Contents, scheme: Scheme, exponents: Exponents) -> npt.NDArray[Any]:
    """Encode a batch as records, all padded to the longest."""
    batch, length = contents.mask.shape
    records = np.zeros(batch, dtype=scheme.record(length))
    if contents.logits is not None and scheme.classes:
        records["logits"] = contents.logits.float().cpu().numpy()
    if not scheme.columns:
        return records
    if scheme.tokens.whole:
        records["separators"] = np.packbits(contents.separators.cpu().numpy(), axis=-1)
        for place, scorer in enumerate(scheme.scorers):
            records["scores"][:, place] = contents.scores[scorer].float().cpu().numpy()
    for place, column in enumerate(scheme.columns):
        part = contents.parts[column].each(Tensor.cpu)  # not Selected.to: it does not wait for the device
        there = part.mask.bool()[..., None].numpy()
        kept = part.values.shape[1]  # short texts have fewer tokens than the scheme has room for
        records["values"][:, place, :kept] = np.where(there, _coded(part, scheme, exponents.get(column[0])), 0)
        if part.positions is not None:
            records["positions"][:, place, :kept] = part.positions.numpy()
            records["count"] = part.mask.sum(dim=1).numpy()
        if part.steps is not None:
            records["steps"][:, place, :kept] = part.steps.numpy() * there[..., 0]
        if scheme.kept_bytes:
            assert part.neurons is not None
            records["kept"][:, place, :kept] = _packed(part.neurons.numpy(), scheme) * there
    return records
