"""Draw augmented texts from substitution candidates."""

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
from tutelage.fields import MOST, Count


class Augmentation(BaseModel):
    """How augmented texts are drawn from substitution candidates (TinyBERT, Jiao et al. 2020)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["words"] = "words"
    variants: Count = 20
    """Variants that are drawn of each text, of pairs of each field; duplicates among them are dropped."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Probability that a word with candidates is replaced."""
    retries: Annotated[int, Field(ge=0, le=MOST)] = 3
    """How often a duplicate (of the original or an earlier variant) is drawn again before it is dropped. The paper's code
    never draws again (0)."""
    fields: Literal["both", "text", "pair"] = "both"
    """The texts of a pair that are changed, one in each variant: both, the first (``text``) or the second (``pair``). Where
    answers are positions in the second text, a run changes only the first."""


def keys_of(ids: Sequence[str], seed: int, purpose: int) -> npt.NDArray[np.uint64]:
    """``(n,)``: a random key for each example from its id, the seed and the purpose."""
    return mixed(hashes(ids) ^ mixed(mixed(np.array([seed])) ^ np.uint64(purpose)))


def draws(key: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.uint64]:
    """``(counters, count)`` random 64-bit integers. A row depends only on ``key`` ``(1,)`` and its counter, not on ``count``."""
    rows = mixed(key ^ mixed(counters))
    return mixed(rows[:, None] ^ np.arange(count, dtype=np.uint64))


def below(bits: npt.NDArray[np.uint64], limit: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Map random bits to integers in ``[0, limit)``, ``limit < 2^32``; independent of :func:`fraction` of the same bits."""
    return (((mixed(bits) >> np.uint64(32)) * limit.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def variants(
    examples: Examples, candidates: Candidates, augmentation: Augmentation, seed: int
) -> tuple[Examples, npt.NDArray[np.int64]]:
    """Draw augmented texts. Returns new examples, and ``(new,)`` the row of ``examples`` of each.

    A variant replaces some words by candidates; a candidate takes the case pattern of the word it replaces, and everything
    else stays as it is. A variant of a pair changes one of the two texts. Labels are those of the original. The id of a
    variant is the original id, ``~`` (``~b`` for the second text of a pair) and its number: ``"train/17~3"``,
    ``"train/17~b3"``. The numbers of dropped duplicates are missing.

    Variant ``v`` depends only on the seed, the id and texts of its example, the candidates, the field and ``v``. Other
    examples do not change it, and more variants do not change the first ones.

    Raises:
        TutelageError: if the table lacks a text, there is no field to change, or the labels are positions in the text to
            be changed.
    """
    changed = [name for name in ("text", "pair") if augmentation.fields in ("both", name)]
    if examples.pairs is None:
        changed = [name for name in changed if name == "text"]
    if not changed:
        raise TutelageError("fields: pair changes second texts, but the examples have none; use fields: text")
    if "pair" in changed and examples.labels.dtype.kind == "O":
        raise TutelageError("the answers are positions in the second text, so it cannot be changed; use fields: text")
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
    """Yield the distinct variants of a text with their numbers."""
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
