"""Tokens of two tokenizers that stand for the same characters of a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Place = tuple[int, int, int]
"""Where a token stands: ``(part, start, end)``, characters ``start`` to ``end`` of a text (0) or its pair (1), or of a word; for
a special token ``(-1 - gap, number, 0)``: the texts before it, and its number in the row of special tokens there."""

Offsets = Sequence[tuple[int, int]]


def places_of(offsets: Offsets, texts: Sequence[str], parts: Sequence[int | None]) -> list[Place]:
    """The place of each token, from its characters; ``parts`` ``(tokens,)`` says of which of ``texts`` a token is, ``None`` for
    a special token. Spaces around a token do not count: some tokenizers take the space before a word into it."""
    found: list[Place] = []
    gap = number = 0
    for part, (start, end) in zip(parts, offsets, strict=True):
        if part is None:
            found.append((-1 - gap, number, 0))
            number += 1
            continue
        gap, number, text = part + 1, 0, texts[part]
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        found.append((part, start, end))
    return found


@dataclass(frozen=True)
class Alignment:
    """Which token of a teacher is that of a student's, by the places of both.

    * ``partners`` ``(student tokens,)``: the position of the teacher's token in its row, -1 where there is none.
    * ``apart``: share of the student's tokens without a partner, of those that are neither special nor in a text that was cut.
    * ``example``: the row with most of them.
    """

    partners: npt.NDArray[np.int32]
    apart: float
    example: int


def align(ours: Iterable[list[Place]], theirs: Iterable[list[Place]], cut: npt.NDArray[np.bool_]) -> Alignment:
    """Pair the tokens of two encodings, given by the places of each row's tokens; ``cut`` says which rows lost their end."""
    partners: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    missing, words = np.zeros(len(cut)), np.zeros(len(cut))
    for row, (our_places, their_places) in enumerate(zip(ours, theirs, strict=True)):
        partner = _paired(our_places, their_places)
        partners.append(partner)
        if not cut[row]:
            word = np.array([part >= 0 for part, _, _ in our_places], dtype=bool)
            missing[row], words[row] = ((partner < 0) & word).sum(), word.sum()
    example = int(np.argmax(missing)) if len(missing) else 0
    return Alignment(np.concatenate(partners), float(missing.sum() / max(words.sum(), 1)), example)


def _paired(ours: list[Place], theirs: list[Place]) -> npt.NDArray[np.int32]:
    """``(our tokens,)``: the position of the token of ``theirs`` at the same place, -1 where there is none."""
    if ours == theirs:
        return np.arange(len(ours), dtype=np.int32)
    mine, positions = _by_place(ours), _by_place(theirs)
    partner = np.full(len(ours), -1, dtype=np.int32)
    for place, rows in mine.items():
        # Several tokens at one place are the bytes of one character: they are the same if there are as many.
        if len(positions.get(place, ())) == len(rows):
            partner[rows] = positions[place]
    return partner


def _by_place(places: list[Place]) -> dict[Place, list[int]]:
    found: dict[Place, list[int]] = {}
    for position, place in enumerate(places):
        found.setdefault(place, []).append(position)
    return found
