"""Augmented texts: variants drawn from substitution candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from tutelage.data.augmentation.candidates import Candidates
from tutelage.data.draws import fraction, hashes, mixed
from tutelage.data.examples import Examples
from tutelage.errors import TutelageError


class Augmentation(BaseModel):
    """How variants are drawn. The paper's code never retries: ``retries=0``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["words"] = "words"
    variants: Annotated[int, Field(ge=1)] = 20
    """Of each text; of a pair for each field."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.4
    """That a word which has candidates is replaced."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a variant is drawn anew that equals the original or an earlier one; after that it is left out."""
    fields: Literal["both", "text", "pair"] = "both"


def keys_of(ids: Sequence[str], seed: int, purpose: int) -> npt.NDArray[np.uint64]:
    """``(n,)``: by seed and id a number to draw from; different for each purpose."""
    return mixed(hashes(ids) ^ mixed(mixed(np.array([seed])) ^ np.uint64(purpose)))


def draws(key: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.uint64]:
    """``(counters, count)`` random 64 bits; a row depends on ``key`` ``(1,)`` and its counter only, an entry not on ``count``."""
    rows = mixed(key ^ mixed(counters))
    return mixed(rows[:, None] ^ np.arange(count, dtype=np.uint64))


def below(bits: npt.NDArray[np.uint64], limit: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Random bits as whole numbers from 0 to ``limit - 1`` (less than 2^32), independent of :func:`fraction` of the same."""
    return (((mixed(bits) >> np.uint64(32)) * limit.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def variants(
    examples: Examples, candidates: Candidates, augmentation: Augmentation, seed: int
) -> tuple[Examples, npt.NDArray[np.int64]]:
    """New examples with some words replaced, and ``(new,)`` the row of ``examples`` that each was made of.

    Of a pair one field is changed and the other kept, for each field in turn. All else stays: spaces, quotes, the case of other
    words; what is put in takes the case pattern of the word that it replaces. Labels are those of the original. Ids are the
    original's with ``~`` and the number of the variant, ``~b`` for one of the pair's second text: ``"train/17~3"``,
    ``"train/17~b3"``. Numbers of variants that came out like another are missing.

    Variant ``v`` is a function of the seed, the example's id and texts, its candidates, the field and ``v``; whatever else
    is in ``examples`` changes nothing, and asking for more variants leaves the first ones as they are.

    Raises:
        TutelageError: when the table lacks a text, there is no field to change, or the answers lie in the text that
            would be changed.
    """
    changed = [name for name in ("text", "pair") if augmentation.fields in ("both", name)]
    if examples.pairs is None:
        changed = [name for name in changed if name == "text"]
    if not changed:
        raise TutelageError("fields: pair asks for changed second texts, but the examples have none; choose text")
    if "pair" in changed and examples.labels.dtype.kind == "O":
        raise TutelageError("answers are places in the second text, which must not be changed; choose fields: text")
    ids: list[str] = []
    texts: list[str] = []
    pairs: list[str] = []
    rows: list[int] = []
    sources = {"text": examples.texts, "pair": examples.pairs or ()}
    places = {name: candidates.locate(sources[name]) for name in changed}
    keys = {name: keys_of(examples.ids, seed, purpose) for purpose, name in enumerate(("text", "pair"))}
    for row, name in enumerate(examples.ids):
        for field in changed:
            mark = "~" if field == "text" else "~b"
            of_text = _drawn(
                sources[field][row], candidates, places[field][row], augmentation, keys[field][row : row + 1]
            )
            for number, new in of_text:
                ids.append(f"{name}{mark}{number}")
                texts.append(new if field == "text" else examples.texts[row])
                if examples.pairs is not None:
                    pairs.append(new if field == "pair" else examples.pairs[row])
                rows.append(row)
    of = np.array(rows, dtype=np.int64)
    return Examples(ids, texts, None if examples.pairs is None else pairs, examples.labels[of]), of


def _drawn(
    text: str, candidates: Candidates, row: int, augmentation: Augmentation, key: npt.NDArray[np.uint64]
) -> Iterator[tuple[int, str]]:
    """The variants of a text that differ from it and each other, with their numbers."""
    first, last = candidates.offsets[row : row + 2]
    if first == last or augmentation.probability == 0:
        return
    choices = candidates.choices[first:last]
    counts = (choices >= 0).sum(axis=1)
    words = np.arange(last - first)
    parts: list[str] = []
    end = 0
    for start, stop in candidates.spans[first:last].tolist():
        parts += [text[end:start], text[start:stop]]
        end = stop
    parts.append(text[end:])

    def written(numbers: npt.NDArray[np.int64]) -> Iterator[str]:
        bits = draws(key, numbers, len(words))
        picked = choices[words, below(bits, counts)]
        picked[fraction(bits) >= augmentation.probability] = -1
        for line in picked.tolist():
            new = parts.copy()
            for word, choice in enumerate(line):
                if choice >= 0:
                    new[2 * word + 1] = _cased(candidates.strings[choice], parts[2 * word + 1])
            yield "".join(new)

    seen = {text}
    numbers = np.arange(augmentation.variants, dtype=np.int64)
    for number, new in enumerate(written(numbers)):
        attempt = 0
        while new in seen and attempt < augmentation.retries:
            attempt += 1
            new = next(written(np.array([number + (attempt << 32)])))
        if new not in seen:
            seen.add(new)
            yield number, new


def _cased(word: str, original: str) -> str:
    if len(original) > 1 and original.isupper():
        return word.upper()
    if original[0].isupper():
        return word[0].upper() + word[1:]
    return word
