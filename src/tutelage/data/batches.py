"""Which examples make up each optimiser step, and the tensors of a step.

An optimiser step is always ``batch_size`` examples, as the papers mean it. How they are cut into pieces that fit the
memory, or spread over processes, is decided here and changes nothing: every piece carries the totals of the whole step,
by which its losses are divided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.data.examples import UNASKED, Encoded, Rows

WINDOW = 100
"""Examples of this many steps are sorted by length together."""


class Feed(Protocol):
    """What a stage reads: in every epoch some rows, of known lengths, read when their turn comes."""

    def lengths(self, epoch: int) -> npt.NDArray[np.int64]:
        """``(n,)``: tokens of every row."""

    def rows(self, epoch: int) -> Rows:
        """The rows that the epoch goes through."""

    def read(self, epoch: int, rows: Rows) -> Encoded:
        """These rows, in this order."""


@dataclass(frozen=True)
class Known:
    """Texts that are in memory and the same in every epoch, or some rows of them."""

    encoded: Encoded
    chosen: Rows | None = None

    def lengths(self, epoch: int) -> npt.NDArray[np.int64]:
        return self.encoded.lengths

    def rows(self, epoch: int) -> Rows:
        return np.arange(len(self.encoded)) if self.chosen is None else self.chosen

    def read(self, epoch: int, rows: Rows) -> Encoded:
        return self.encoded.take(rows)


@dataclass(frozen=True)
class Totals:
    """What the losses of one optimiser step are divided by, over all its pieces and processes."""

    examples: float
    answers: float
    """What is asked of the examples: one answer each, one for every token, or a start and an end."""
    known: float
    """Answers that the data know."""
    tokens: float
    pairs: float
    """Pairs of real tokens: the sum of squared lengths."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Tokens and separators of each example."""


@dataclass(frozen=True)
class Batch:
    """One padded piece of an optimiser step.

    ``inputs`` holds ``input_ids`` and ``attention_mask`` ``(batch, length)`` (and ``token_type_ids``) as the student's
    tokenizer makes them; ``separators`` ``(batch, length)`` marks [SEP]. ``rows`` ``(batch,)``, always on the CPU, says
    which examples these are, and ``keys`` ``(batch,)``, there too, what they contain.

    Where every token is asked on its own (or may start or end an answer), ``asked`` ``(answers,)`` says which, counted in
    the flattened ``(batch * length)``; ``labels`` is then ``(answers,)``, or ``(batch, 2)`` for spans.
    """

    rows: Tensor
    keys: Tensor
    inputs: dict[str, Tensor]
    separators: Tensor
    labels: Tensor
    asked: Tensor | None
    totals: Totals
    step: int = 0
    """The optimiser step of its stage, from 0, that it is a piece of."""

    @property
    def mask(self) -> Tensor:
        """``(batch, length)``: 1 at real tokens, 0 at padding."""
        return self.inputs["attention_mask"]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.rows,
            self.keys,
            {name: value.to(device) for name, value in self.inputs.items()},
            self.separators.to(device),
            self.labels.to(device),
            None if self.asked is None else self.asked.to(device),
            self.totals,
            self.step,
        )


def steps(lengths: npt.NDArray[np.int64], rows: Rows, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The optimiser steps of an epoch: shuffled, similar lengths together, the steps in random order.

    A function of its arguments alone, so a resumed run finds its place by counting. Every row occurs exactly once; the
    last step of the epoch's order may be any and at most one step is short.
    """
    generator = np.random.default_rng([seed, 0xBA7C, epoch])
    order = generator.permutation(rows)
    chunks: list[Rows] = []
    for start in range(0, len(order), batch_size * WINDOW):
        window = order[start : start + batch_size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        chunks += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [chunks[i] for i in generator.permutation(len(chunks))]


def share(step: Rows, rank: int, world: int) -> Rows:
    """This process's part of a step. A step smaller than the number of processes lends its first row to the rest."""
    part = step[rank::world]
    return part if len(part) else step[:1]


def pieces(rows: Rows, lengths: npt.NDArray[np.int64], max_tokens: int) -> list[Rows]:
    """Cut rows into pieces of at most ``max_tokens`` padded tokens (a single longer row is a piece of its own)."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    result: list[Rows] = []
    start = 0
    for stop in range(1, len(ordered) + 1):
        if stop == len(ordered) or lengths[ordered[stop]] * (stop + 1 - start) > max_tokens:
            result.append(ordered[start:stop])
            start = stop
    return result


def totals_of(step: Encoded) -> Totals:
    """The totals of one optimiser step."""
    n = step.lengths
    sizes = tuple(zip(n.tolist(), step.separators.tolist(), strict=True))
    answers, known = float(step.answers.sum()), float(step.known.sum())
    return Totals(float(len(step)), answers, known, float(n.sum()), float((n * n).sum()), sizes)


def padded(encoded: Encoded, rows: Rows, pad_to: int | None = None) -> dict[str, Tensor]:
    """Token ids, mask (and token types) of ``rows``, padded to the longest of them or to ``pad_to``."""
    lengths = encoded.lengths[rows]
    width = max(int(lengths.max()), pad_to or 0)
    mask = np.arange(width) < lengths[:, None]
    flat = np.concatenate([np.arange(encoded.offsets[r], encoded.offsets[r + 1]) for r in rows])
    ids = np.full((len(rows), width), encoded.pad_token, dtype=np.int64)
    ids[mask] = encoded.tokens[flat]
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    if encoded.types is not None:
        types = np.zeros_like(ids)
        types[mask] = encoded.types[flat]
        inputs["token_type_ids"] = torch.from_numpy(types)
    return inputs


def step_batches(
    step: Encoded,
    names: Rows,
    rank: int,
    world: int,
    max_tokens: int,
    pad_to: int | None = None,
    number: int = 0,
) -> Iterator[Batch]:
    """This process's pieces of optimiser step ``number``; ``names`` are the numbers of its rows in the feed."""
    totals = totals_of(step)
    everyone = np.arange(len(step))
    part = share(everyone, rank, world)
    lent = rank >= len(step)
    for rows in pieces(part, np.maximum(step.lengths, pad_to or 0), max_tokens):
        inputs = padded(step, rows, pad_to)
        keys = torch.from_numpy(step.keys[rows].view(np.int64))
        separators = inputs["input_ids"] == step.separator
        labels, asked = _answers(step, rows, inputs["attention_mask"])
        if lent:  # the row counts elsewhere; here it only keeps this process in step, at weight zero
            totals = Totals(*(float("inf"),) * 5, sizes=totals.sizes)
        yield Batch(torch.from_numpy(names[rows]), keys, inputs, separators, labels, asked, totals, number)


def _answers(step: Encoded, rows: Rows, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Labels and places of what is asked, as in :class:`Batch`."""
    if step.targets is None:
        return torch.zeros(0) if step.labels is None else torch.from_numpy(step.labels[rows]), None
    part = step.take(rows)
    asked = asked_places(part, mask)
    targets = part.targets if part.windows is None else part.labels
    assert targets is not None
    if part.windows is None:
        targets = targets[targets != UNASKED]
    return torch.from_numpy(targets.astype(np.int64)), asked


def asked_places(part: Encoded, mask: Tensor) -> Tensor:
    """``(answers,)``: the tokens asked, counted in the flattened ``(batch * length)`` of ``mask``."""
    assert part.targets is not None
    places = mask.flatten().nonzero()[:, 0]
    return places[torch.from_numpy(part.targets != UNASKED)]


def evaluation_batches(
    encoded: Encoded, max_tokens: int = 16384
) -> Iterator[tuple[Rows, dict[str, Tensor], Tensor | None]]:
    """All examples once, shortest first, as ``(rows, inputs, asked)``."""
    for rows in pieces(np.arange(len(encoded)), encoded.lengths, max_tokens):
        inputs = padded(encoded, rows)
        asked = None if encoded.targets is None else asked_places(encoded.take(rows), inputs["attention_mask"])
        yield rows, inputs, asked
