"""Pack the sentences of a corpus into training instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tutelage.data.draws import hashed, uniform
from tutelage.data.examples import Rows

Packing = Literal["pairs", "segments", "packed"]


Split = Literal["sentences", "lines"]


Offsets = npt.NDArray[np.int64]


BLOCK = 2**18
"""Block size: sentences planned, tokens counted or bytes read at once."""


SHORT = 0.1
"""Share of instances with a random shorter budget, so that the student also sees short texts (BERT's short_seq_prob)."""


class Draw(IntEnum):
    """The decision that a random number is drawn for."""

    SHORT = 0
    BUDGET = 1
    SIZE_OF_A = 2
    RANDOM_NEXT = 3
    OTHER = 4
    FRONT_OF_A = 5
    FRONT_OF_B = 6
    PHASE = 7


def below(limits: int | Offsets, *key: int | npt.NDArray[Any]) -> Offsets:
    """Random integers in ``[0, limits)``."""
    return np.asarray((uniform(*key) * limits).astype(np.int64))


def _heads(flips: Offsets, *key: int | npt.NDArray[Any]) -> Offsets:
    """Number of heads in ``flips`` ``(n,)`` coin flips, one random bit per flip."""
    heads = np.zeros_like(flips)
    for word in range(-(-int(flips.max(initial=0)) // 64)):
        rows = np.flatnonzero(flips > 64 * word)
        bits = hashed(*key, word)[rows] >> (64 - np.minimum(flips[rows] - 64 * word, 64)).astype(np.uint64)
        heads[rows] += np.bitwise_count(bits)
    return heads


def _budgets(first: Rows, budget: int, key: tuple[int, int]) -> Offsets:
    """Token budgets of the chunks that begin with the pieces ``first``."""
    shorter = 2 + below(budget - 1, *key, Draw.BUDGET, first)
    return np.where(uniform(*key, Draw.SHORT, first) < SHORT, shorter, budget)


def _visited(count: int, following: Callable[[Rows], Rows]) -> Iterator[Rows]:
    """Yield the first pieces of the chunks (0, ``following(0)``, ...) of a corpus of ``count`` pieces, in blocks.

    A chunk starts where the previous one ends, so the chunks form a sequence. The random numbers of a chunk depend only on
    its first piece. The chunk that *would* start at each piece is therefore computed for all pieces at once, and only the
    walk from chunk to chunk is sequential.
    """
    place = 0
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        after = following(np.arange(start, stop)).tolist()
        visited = []
        while place < stop:
            visited.append(place)
            place = after[place - start]
        yield np.array(visited, dtype=np.int64)


_Plan = Iterator[tuple[Offsets, npt.NDArray[np.int32], npt.NDArray[np.bool_]]]
"""Blocks of ``starts``, ``sizes`` and ``cut`` (see :class:`Epoch`)."""


def plan_segments(offsets: Offsets, documents: Offsets, budget: int, key: tuple[int, int]) -> _Plan:
    def stops(first: Rows) -> Rows:
        limit = offsets[first] + _budgets(first, budget, key)
        fitting = np.searchsorted(offsets, limit, side="right") - 1
        ends = documents[np.searchsorted(documents, first, side="right")]
        return np.maximum(first + 1, np.minimum(fitting, ends))

    for first in _visited(len(offsets) - 1, stops):
        starts = offsets[first]
        sizes = (offsets[stops(first)] - starts).astype(np.int32)
        yield starts[:, None], sizes[:, None], np.zeros(len(first), dtype=np.bool_)


def plan_pairs(offsets: Offsets, documents: Offsets, budget: int, key: tuple[int, int]) -> _Plan:
    pieces = len(offsets) - 1

    def reaching(first: Rows, wanted: Offsets) -> Rows:
        """End of the pieces from ``first`` that together reach ``wanted`` tokens, at most the end of the document."""
        ends = documents[np.searchsorted(documents, first, side="right")]
        return np.minimum(np.searchsorted(offsets, offsets[first] + wanted), ends)

    def chunks(first: Rows) -> tuple[Rows, Rows, npt.NDArray[np.bool_]]:
        """The end of text A, the end of the chunk, and whether text B is random."""
        stop = reaching(first, _budgets(first, budget, key))
        middle = first + 1 + below(stop - first - 1, *key, Draw.SIZE_OF_A, first)
        return middle, stop, (stop - first == 1) | (uniform(*key, Draw.RANDOM_NEXT, first) < 0.5)

    def following(first: Rows) -> Rows:
        middle, stop, random = chunks(first)
        return np.where(random, middle, stop)

    for first in _visited(pieces, following):
        middle, stop, random = chunks(first)
        start_a, start_b = offsets[first], offsets[middle]
        size_a = start_b - start_a
        own = np.searchsorted(documents, first, side="right")
        own_pieces = documents[own] - documents[own - 1]
        other = below(pieces - own_pieces, *key, Draw.OTHER, first)
        other += np.where(other >= documents[own - 1], own_pieces, 0)
        # A may use the whole budget. B still gets one sentence, and both are truncated below.
        other_stop = reaching(other, np.maximum(_budgets(first, budget, key) - size_a, 1))
        start_b = np.where(random, offsets[other], start_b)
        size_b = offsets[np.where(random, other_stop, stop)] - start_b
        # Sizes after removing one token at a time from the longer text (from B if they are equal).
        kept_a = np.minimum(size_a, np.maximum(budget - size_b, (budget + 1) // 2))
        kept_b = np.minimum(size_b, budget - kept_a)
        start_a = start_a + _heads(size_a - kept_a, *key, Draw.FRONT_OF_A, first)
        start_b = start_b + _heads(size_b - kept_b, *key, Draw.FRONT_OF_B, first)
        sizes = np.stack([kept_a, kept_b], axis=1).astype(np.int32)
        yield np.stack([start_a, start_b], axis=1), sizes, size_a + size_b > budget
