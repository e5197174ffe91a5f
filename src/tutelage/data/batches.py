"""The examples of each optimiser step, and the tensors of a step.

An optimiser step is always ``batch_size`` examples, as in the papers. This module splits a step into pieces that fit into
memory and distributes them over processes. Neither changes the result: each piece carries the totals of the whole step, and
its losses are divided by these.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.data.examples import NO_TARGET, Encoded, Rows
from tutelage.errors import out_of_memory

WINDOW = 100
"""Number of steps whose examples are sorted by length together."""


class Feed(Protocol):
    """The texts of a stage: for each epoch, rows of known lengths that are read on demand."""

    def lengths(self, epoch: int) -> npt.NDArray[np.int64]:
        """``(n,)``: number of tokens of each row."""

    def rows(self, epoch: int) -> Rows:
        """The rows that the epoch uses."""

    def read(self, epoch: int, rows: Rows) -> Encoded:
        """Read these rows, in this order."""


@dataclass(frozen=True)
class Known:
    """Texts in memory that are the same in every epoch, or selected rows of them."""

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
    """The counts that the losses of one optimiser step are divided by, summed over all its pieces and processes."""

    examples: float
    answers: float
    """Predictions: one per example, one per token, or a start and an end per example."""
    known: float
    """Predictions that have a label."""
    tokens: float
    """Real tokens; where the teacher has another tokenizer, those that it has too."""
    pairs: float
    """Pairs of these tokens: the sum of squares."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Number of tokens and of separators of each example."""

    def seen_pairs(self, causal: bool) -> float:
        """The pairs of tokens of which the first may attend to the second."""
        return (self.pairs + self.tokens) / 2 if causal else self.pairs


@dataclass(frozen=True)
class Batch:
    """One padded piece of an optimiser step.

    * ``inputs``: ``input_ids``, ``attention_mask`` (and ``token_type_ids``), each ``(batch, length)``, from the student's
      tokenizer.
    * ``separators`` ``(batch, length)``: whether a token is [SEP].
    * ``rows`` ``(batch,)``, on the CPU: the numbers of the examples.
    * ``keys`` ``(batch,)``, on the CPU: hashes of their content.
    * ``predicted`` ``(answers,)``: the tokens that need a prediction, as indices into the flattened ``(batch * length)``.
      ``None`` if each example has one prediction.
    * ``labels``: ``(batch,)``; with ``predicted`` ``(answers,)``, or ``(batch, 2)`` for spans.
    * ``partners`` ``(batch, length)``: the position of the teacher's token for the same characters, -1 where there is none;
      ``None`` if the teacher reads the same tokens.
    """

    rows: Tensor
    keys: Tensor
    inputs: dict[str, Tensor]
    separators: Tensor
    labels: Tensor
    predicted: Tensor | None
    totals: Totals
    step: int = 0
    """The number of the optimiser step in its stage, from 0."""
    partners: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """``(batch, length)``: 1 at real tokens, 0 at padding."""
        return self.inputs["attention_mask"]

    @property
    def compared(self) -> Tensor:
        """``(batch, length)``: 1 at tokens that are compared with the teacher's: all real ones, or those that it has too."""
        return self.mask if self.partners is None else (self.partners >= 0).to(self.mask.dtype)

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.rows,
            self.keys,
            {name: value.to(device) for name, value in self.inputs.items()},
            self.separators.to(device),
            self.labels.to(device),
            None if self.predicted is None else self.predicted.to(device),
            self.totals,
            self.step,
            None if self.partners is None else self.partners.to(device),
        )


def steps(lengths: npt.NDArray[np.int64], rows: Rows, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The optimiser steps of an epoch: shuffled examples, similar lengths together, steps in random order.

    The result depends only on the arguments, so a resumed run only needs the step number. Each row occurs exactly once. At
    most one step is smaller than ``batch_size``; it may be at any place in the epoch.
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
    """This process's part of a step. If the step has fewer rows than there are processes, the others repeat its first row."""
    part = step[rank::world]
    return part if len(part) else step[:1]


def pieces(rows: Rows, lengths: npt.NDArray[np.int64], max_tokens: int) -> list[Rows]:
    """Split rows into pieces of at most ``max_tokens`` padded tokens. A longer row is a piece of its own."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    result: list[Rows] = []
    start = 0
    for stop in range(1, len(ordered) + 1):
        if stop == len(ordered) or lengths[ordered[stop]] * (stop + 1 - start) > max_tokens:
            result.append(ordered[start:stop])
            start = stop
    return result


def halved(error: Exception, tokens: int, texts: int) -> int:
    """The largest size of pieces, in padded tokens, after a piece of this size and so many texts did not fit into memory.

    Raises:
        Exception: ``error``, if it has another cause or one text alone does not fit.
    """
    if not out_of_memory(error) or texts < 2:
        raise error
    return tokens // 2


def free_memory(tokens: int, say: Callable[[str], None]) -> None:
    """Give back what a piece that did not fit has left in memory, and ``say`` how the program continues."""
    gc.collect()  # the error's frames held its tensors
    torch.cuda.empty_cache()  # does nothing without a GPU
    say(f"out of memory: pieces are halved, to at most {tokens:,} padded tokens; a step keeps its examples")


def in_pieces(
    carry_out: Callable[[Rows], None],
    rows: Rows,
    lengths: npt.NDArray[np.int64],
    max_tokens: int,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Call ``carry_out`` on each of the :func:`pieces`; one that does not fit into memory is repeated in halves, and those after
    it are as small. Returns the ``max_tokens`` at the end.

    Raises:
        Exception: what ``carry_out`` raises, if it has another cause or one text alone does not fit.
    """
    left = pieces(rows, lengths, max_tokens)[::-1]
    while left:
        piece = left[-1]
        try:
            carry_out(piece)
        except Exception as error:
            max_tokens = halved(error, len(piece) * int(lengths[piece].max()), len(piece))
        else:
            left.pop()
            continue
        free_memory(max_tokens, say)
        left = pieces(np.concatenate(left), lengths, max_tokens)[::-1]
    return max_tokens


def totals_of(step: Encoded) -> Totals:
    """The totals of one optimiser step."""
    n = step.compared
    sizes = tuple(zip(n.tolist(), step.separators.tolist(), strict=True))
    answers, known = float(step.answers.sum()), float(step.known.sum())
    return Totals(float(len(step)), answers, known, float(n.sum()), float((n * n).sum()), sizes)


def padded(encoded: Encoded, rows: Rows, pad_to: int | None = None) -> dict[str, Tensor]:
    """Token ids, mask (and token types) of ``rows``, padded to the longest row, at least to ``pad_to``."""
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
    *,
    even: bool = False,
) -> Iterator[Batch]:
    """Yield this process's pieces of optimiser step ``number``. ``names`` are the numbers of the step's rows in the feed. With
    ``even`` all processes get the same number of pieces; the extra ones have weight zero."""
    totals = totals_of(step)
    # Rows that were counted already: their weight is zero, they only keep the processes synchronous.
    counted = Totals(*(float("inf"),) * 5, sizes=totals.sizes)
    lengths = np.maximum(step.lengths, pad_to or 0)
    each = [
        pieces(share(np.arange(len(step)), process, world), lengths, max_tokens)
        for process in (range(world) if even else [rank])
    ]
    mine = each[rank if even else 0]
    for rows in mine:
        yield piece_of(step, names, rows, counted if rank >= len(step) else totals, pad_to, number)
    for _ in range(max(map(len, each)) - len(mine)):
        yield piece_of(step, names, mine[0], counted, pad_to, number)


def piece_of(
    step: Encoded, names: Rows, rows: Rows, totals: Totals, pad_to: int | None = None, number: int = 0
) -> Batch:
    """The piece of optimiser step ``number`` that has these of its rows; the other arguments are those of :func:`step_batches`."""
    inputs = padded(step, rows, pad_to)
    keys = torch.from_numpy(step.keys[rows].view(np.int64))
    separators = inputs["input_ids"] == step.separator
    labels, predicted = _answers(step, rows, inputs["attention_mask"])
    partners = None if step.partners is None else torch.full_like(inputs["input_ids"], -1)
    if partners is not None:
        partners[inputs["attention_mask"].bool()] = torch.from_numpy(step.take(rows).partners).long()
    return Batch(torch.from_numpy(names[rows]), keys, inputs, separators, labels, predicted, totals, number, partners)


def _answers(step: Encoded, rows: Rows, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """``labels`` and ``predicted`` of :class:`Batch`."""
    if step.targets is None:
        return torch.zeros(0) if step.labels is None else torch.from_numpy(step.labels[rows]), None
    part = step.take(rows)
    predicted = predicted_places(part, mask)
    targets = part.targets if part.windows is None else part.labels
    assert targets is not None
    if part.windows is None:
        targets = targets[targets != NO_TARGET]
    return torch.from_numpy(targets.astype(np.int64)), predicted


def predicted_places(part: Encoded, mask: Tensor) -> Tensor:
    """``(answers,)``: the tokens that need a prediction, as indices into the flattened ``(batch * length)`` of ``mask``."""
    assert part.targets is not None
    places = mask.flatten().nonzero()[:, 0]
    return places[torch.from_numpy(part.targets != NO_TARGET)]


EVALUATION_TOKENS = 16384
"""Padded tokens at once where a model is only run."""


def evaluation_batch(encoded: Encoded, rows: Rows) -> tuple[dict[str, Tensor], Tensor | None]:
    """``inputs`` and ``predicted`` of these examples (see :class:`Batch`)."""
    inputs = padded(encoded, rows)
    part = encoded.take(rows)
    return inputs, None if part.targets is None else predicted_places(part, inputs["attention_mask"])
