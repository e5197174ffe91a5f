"""Huffman codes of small integers (Huffman 1952), written and read in blocks that numpy handles side by side."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LONGEST = 16
"""Most bits of a code word, so that one look into a table of 65,536 entries reads a word."""
BLOCK = 4096
"""Symbols from one noted place in the stream to the next. Blocks are decoded at the same time."""
_CHUNK = 2**18

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Coded:
    """A sequence of ``count`` integers from 0 to 255."""

    count: int
    lengths: Bytes
    """``(256,)``: bits of each integer's code word; 0 of those that do not occur. They determine the words (canonical code)."""
    starts: npt.NDArray[np.uint64]
    """``(blocks,)``: the bit at which each block of :data:`BLOCK` integers begins."""
    stream: Bytes
    """The code words one after another."""

    @property
    def bytes(self) -> int:
        return self.lengths.nbytes + self.starts.nbytes + self.stream.nbytes


def code_lengths(counts: npt.NDArray[np.int64]) -> Bytes:
    """Bits of the code words of integers that occur ``counts`` ``(256,)`` times: the shortest prefix code.

    Where it has words of more than :data:`LONGEST` bits, the counts are made more even until it has none.
    """
    while True:
        lengths = np.zeros(len(counts), np.uint8)
        # A tie goes to the node that was made first, so that equal counts give equal codes everywhere.
        heap = [(int(count), symbol, [symbol]) for symbol, count in enumerate(counts) if count]
        if len(heap) == 1:
            lengths[heap[0][1]] = 1
            return lengths
        heapq.heapify(heap)
        made = len(counts)
        while len(heap) > 1:
            first, second = heapq.heappop(heap), heapq.heappop(heap)
            lengths[first[2] + second[2]] += 1
            heapq.heappush(heap, (first[0] + second[0], made, first[2] + second[2]))
            made += 1
        if lengths.max(initial=0) <= LONGEST:
            return lengths
        counts = (counts + 1) // 2


def coded_bytes(counts: npt.NDArray[np.int64]) -> int:
    """The bytes that :func:`encode` needs for integers that occur so often."""
    bits = int((code_lengths(counts).astype(np.int64) * counts).sum())
    return -(-bits // 8) + len(counts) + 8 * -(-int(counts.sum()) // BLOCK)


def encode(symbols: npt.NDArray[np.uint8]) -> Coded:
    """The code of integers ``(count,)``, the shortest for how often each occurs."""
    lengths = code_lengths(np.bincount(symbols, minlength=256).astype(np.int64))
    words = _words(lengths)
    bits = lengths.astype(np.uint64)[symbols]
    ends = np.cumsum(bits, dtype=np.uint64)
    starts = (ends - bits)[::BLOCK] if len(symbols) else np.zeros(0, np.uint64)
    parts, left = [], np.zeros(0, np.uint8)
    columns = np.arange(LONGEST)
    for begin in range(0, len(symbols), _CHUNK):
        some = symbols[begin : begin + _CHUNK]
        # Words stand at the left end of 16 columns, and only their own bits are taken.
        rows = (words[some][:, None] >> (LONGEST - 1 - columns)) & 1
        mine = np.concatenate([left, rows[columns < lengths[some][:, None]].astype(np.uint8)])
        whole = len(mine) // 8 * 8
        parts.append(np.packbits(mine[:whole]))
        left = mine[whole:]
    return Coded(len(symbols), lengths, starts, np.concatenate([*parts, np.packbits(left)]))


def decode(coded: Coded) -> Bytes:
    """The integers ``(count,)``.

    Raises:
        ValueError: if the parts do not fit each other, as in a damaged file.
    """
    count, lengths = coded.count, coded.lengths
    if count < 0 or count > 8 * len(coded.stream) or len(coded.starts) != -(-count // BLOCK) or lengths.shape != (256,):
        raise ValueError("its sizes do not fit each other")
    if not count:
        return np.zeros(0, np.uint8)
    used = np.flatnonzero(lengths)
    if not len(used) or lengths.max() > LONGEST or (2.0 ** -lengths[used].astype(float)).sum() > 1:
        raise ValueError("its code words are no prefix code")
    symbol_of, length_of = _table(lengths)
    stream = np.concatenate([coded.stream, np.zeros(4, np.uint8)]).astype(np.int64)
    last = len(coded.stream)
    if coded.starts.max() > 8 * last:
        raise ValueError("a block begins beyond its end")
    place, found = coded.starts.astype(np.int64), np.zeros((len(coded.starts), BLOCK), np.uint8)
    for number in range(min(BLOCK, count)):
        at = np.minimum(place >> 3, last)
        window = ((stream[at] << 16 | stream[at + 1] << 8 | stream[at + 2]) >> (8 - (place & 7))) & 0xFFFF
        found[:, number] = symbol_of[window]
        place += length_of[window]
    if (place[:-1] != coded.starts[1:].astype(np.int64)).any():
        raise ValueError("a block ends where the next one does not begin")
    return found.reshape(-1)[:count]


def _words(lengths: Bytes) -> npt.NDArray[np.int64]:
    """The canonical code: words of a length count upwards, in the order of the integers; each at the left of 16 bits."""
    words, word, before = np.zeros(len(lengths), np.int64), 0, 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda symbol: (lengths[symbol], symbol)):
        word <<= int(lengths[symbol]) - before
        before = int(lengths[symbol])
        words[symbol] = word << (LONGEST - before)
        word += 1
    return words


def _table(lengths: Bytes) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """The integer, and the bits of its word, that each 16 bits begin with."""
    words, symbols, bits = _words(lengths), np.zeros(2**LONGEST, np.uint8), np.ones(2**LONGEST, np.int64)
    for symbol in np.flatnonzero(lengths):
        size = 2 ** (LONGEST - int(lengths[symbol]))
        symbols[words[symbol] : words[symbol] + size] = symbol
        bits[words[symbol] : words[symbol] + size] = int(lengths[symbol])
    return symbols, bits
