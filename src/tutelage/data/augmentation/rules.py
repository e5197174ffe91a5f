"""Rule-based augmentation of Distilled BiLSTM (Tang et al. 2019): masked words, swapped words, n-grams.

The new texts may be ungrammatical and may have another meaning than the original. They get no labels; the teacher's
predictions serve as labels.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.data.augmentation.variants import below, draws, keys_of
from tutelage.data.draws import fraction
from tutelage.data.examples import Examples
from tutelage.data.labels import no_labels
from tutelage.errors import TutelageError
from tutelage.fields import Count

Tagger = Callable[[list[str]], list[str]]
"""Maps the words of a text to their parts of speech."""


LONGEST = 5
"""Longest n-gram in words."""


_WORD = re.compile(r"['’](?:s|d|m|t|ll|re|ve)\b|\w+(?:['’]\w+)*|[^\w\s]")


_PURPOSE = 2
"""Makes these random numbers independent of those of word substitution."""


class Rules(BaseModel):
    """Settings of the rules (Tang et al. 2019); the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["rules"] = "rules"
    p_mask: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability that a word becomes the mask token."""
    p_pos: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability that a word is replaced by a random word of the same part of speech (possibly itself)."""
    p_ngram: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Probability that the text is reduced to an n-gram of 1 to 5 words."""
    iterations: Count = 20
    """How often each text is rewritten; duplicates, and results without an original word, are dropped. The paper uses 10 for MNLI
    and QQP."""
    mask_token: str = "[MASK]"
    """The mask token. A run replaces it by the teacher's, if that has one."""

    @model_validator(mode="after")
    def _check(self) -> Rules:
        if self.p_mask + self.p_pos > 1:
            raise ValueError(f"p_mask + p_pos is {self.p_mask + self.p_pos:g}; the sum must be at most 1")
        return self


class Lexicon:
    """The words of the training texts by part of speech, with their frequencies."""

    def __init__(self, texts: Iterable[str], tagger: Tagger | None = None) -> None:
        """Tag ``texts`` with ``tagger`` (default: :func:`default_tagger`)."""
        self._tagger = tagger or default_tagger()
        counts: dict[str, Counter[str]] = {}
        for text in texts:
            words = [match.group() for match in _WORD.finditer(text)]
            for word, tag in zip(words, self.tags(words), strict=True):
                counts.setdefault(tag, Counter())[word] += 1
        # Sorted, so that the result does not depend on the order of the texts.
        self._words = {tag: sorted(counter) for tag, counter in counts.items()}
        self._ends = {tag: list(accumulate(counts[tag][word] for word in words)) for tag, words in self._words.items()}

    def tags(self, words: Sequence[str]) -> list[str]:
        """The part of speech of each word of a text.

        Raises:
            TutelageError: if the tagger does not return one tag per word.
        """
        tags = list(self._tagger(list(words)))
        if len(tags) != len(words):
            raise TutelageError(
                f"the tagger returned {len(tags)} tags for {len(words)} words; it must return one per word"
            )
        return tags

    def count(self, tag: str) -> int:
        """Number of word occurrences with this tag."""
        return self._ends[tag][-1] if tag in self._ends else 0

    def word(self, tag: str, number: int) -> str:
        """The word of occurrence ``number`` (from 0) with this tag."""
        return self._words[tag][bisect_right(self._ends[tag], number)]


def rule_variants(
    examples: Examples, lexicon: Lexicon, rules: Rules, seed: int
) -> tuple[Examples, npt.NDArray[np.int64]]:
    """Rewrite ``examples``. Returns new examples without labels, and ``(new,)`` the row of ``examples`` of each.

    Each iteration masks, swaps or keeps each word, then may reduce the text to an n-gram. For pairs, iterations change the
    first text, the second text and both in turn. Duplicates (of ``examples`` or of earlier results) are dropped, and texts in
    which no original word is left. The id of a result is the original id, ``~r`` and the iteration: ``"train/17~r3"``.

    A result depends only on the seed, the id and texts of its example, the iteration and the lexicon. Several processes may
    therefore rewrite parts of the data, if they share a lexicon of all texts; the caller then removes duplicates.

    Raises:
        TutelageError: if the labels belong to the words of the text (token and span tasks).
    """
    if examples.labels.dtype.kind == "O":
        raise TutelageError(
            "rules cannot rewrite texts whose labels belong to words (token and span tasks); use kind: words"
        )
    fields = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    keys = [keys_of(examples.ids, seed, _PURPOSE + number) for number in range(len(fields))]
    turns = np.arange(rules.iterations, dtype=np.int64)
    # Iterations that change each field. For a pair: 0, 3, 6, ... the first; 1, 4, 7, ... the second; the others both.
    changed = [turns] if len(fields) == 1 else [turns[turns % 3 != 1], turns[turns % 3 != 0]]
    seen = set(zip(*fields, strict=True))
    ids: list[str] = []
    made: list[tuple[str, ...]] = []
    rows: list[int] = []
    for row, original in enumerate(zip(*fields, strict=True)):
        drafts = [
            dict(zip(turns_of.tolist(), _rewritten(text, lexicon, rules, key[row : row + 1], turns_of), strict=True))
            for text, key, turns_of in zip(original, keys, changed, strict=True)
        ]
        for turn in range(rules.iterations):
            new = tuple(draft.get(turn, text) for draft, text in zip(drafts, original, strict=True))
            kept = tuple(text for text in new if text is not None)
            if len(kept) == len(new) and kept not in seen:
                seen.add(kept)
                ids.append(f"{examples.ids[row]}~r{turn}")
                made.append(kept)
                rows.append(row)
    of = np.array(rows, dtype=np.int64)
    labels = no_labels(examples.labels, len(of))
    pairs = None if len(fields) == 1 else [texts[1] for texts in made]
    return Examples(ids, [texts[0] for texts in made], pairs, labels), of


def _rewritten(
    text: str, lexicon: Lexicon, rules: Rules, key: npt.NDArray[np.uint64], turns: npt.NDArray[np.int64]
) -> list[str | None]:
    """The result of each iteration for one text; ``None`` if no original word is left."""
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        parts += [text[end : match.start()], match.group()]
        end = match.end()
    parts.append(text[end:])
    words = parts[1::2]
    if not words:
        return [None] * len(turns)
    tags = lexicon.tags(words)
    totals = np.array([lexicon.count(tag) for tag in tags])
    bits = draws(key, turns, 3 + len(words))
    is_ngram = fraction(bits[:, 0]) < rules.p_ngram
    length = np.minimum(1 + below(bits[:, 1], np.array(LONGEST)), len(words))
    start = below(bits[:, 2], len(words) - length + 1)
    chance, number = fraction(bits[:, 3:]), below(bits[:, 3:], totals)
    masked = chance < rules.p_mask
    swapped = ~masked & (chance < rules.p_mask + rules.p_pos) & (totals > 0)
    result: list[str | None] = []
    for turn in range(len(turns)):
        new = parts.copy()
        for word in np.flatnonzero(masked[turn]):
            new[2 * word + 1] = rules.mask_token
        for word in np.flatnonzero(swapped[turn]):
            new[2 * word + 1] = lexicon.word(tags[word], int(number[turn, word]))
        left = slice(None)
        if is_ngram[turn]:
            left = slice(start[turn], start[turn] + length[turn])
            new = new[2 * left.start + 1 : 2 * left.stop]
        replaced = (masked | swapped)[turn, left]
        result.append(None if replaced.all() else "".join(new))
    return result


def default_tagger() -> Tagger:
    """:func:`by_textblob` if the package ``textblob`` is installed, else :func:`by_shape`."""
    return by_textblob if importlib.util.find_spec("textblob") else by_shape


def by_textblob(words: list[str]) -> list[str]:
    """Penn Treebank tags from the English lexicon in the package ``textblob``; nothing is downloaded.

    Raises:
        TutelageError: if the package is not installed.
    """
    try:
        english: Any = importlib.import_module("textblob.en")
    except ModuleNotFoundError:
        raise TutelageError("this tagger needs the package textblob; pip install textblob") from None
    return [tag for _, tag in english.parser.find_tags(words)]


_CLOSED = {
    "DT": "a an the this that these those each every either neither some any no all both another",
    "PRP": "i you he she it we they me him her us them myself yourself himself herself itself themselves one",
    "PRP$": "my your his its our their mine yours hers ours theirs",
    "WP": "who whom whose what which",
    "WRB": "when where why how",
    "CC": "and or but nor yet",
    "IN": "of in on at by for with from into about over under after before between against during through without within "
    "among across behind beyond since until upon toward towards near off because although though while if whether unless "
    "than as like",
    "TO": "to",
    "MD": "can could may might must shall should will would",
    "BE": "am is are was were be been being 's 'm 're",
    "HAVE": "have has had having 've",
    "DO": "do does did doing done",
    "RB": "not n't never very too also just only so then now here there still already again ever even quite rather often",
    "CD": "two three four five six seven eight nine ten hundred thousand million billion",
}


_TAG_OF_WORD = {word: tag for tag, words in _CLOSED.items() for word in words.split()}


_TAG_OF_ENDING = {
    "RB": "ly",
    "VBG": "ing",
    "VBD": "ed",
    "JJ": "ous ful able ible ive less ish ical ic al ary",
    "JJS": "est",
    "VB": "ize ise ify",
    "NN": "ness ment tion sion ity ism ist ance ence ship hood dom ss us is",
    "NNS": "s",
}


_ENDINGS = [(ending, tag) for tag, endings in _TAG_OF_ENDING.items() for ending in endings.split()]


_ENDINGS.sort(key=lambda entry: -len(entry[0]))


def by_shape(words: list[str]) -> list[str]:
    """Approximate parts of speech: a list of function words, then digits, capitals and endings; everything else is a noun.

    Used if no real tagger is installed. Words with the same tag resemble each other, which is enough for swapping them; the
    tags are often wrong as grammar.
    """
    return [_shape_tag(word, place == 0) for place, word in enumerate(words)]


def _shape_tag(word: str, first: bool) -> str:
    lower = word.lower().replace("’", "'")
    if not any(map(str.isalnum, word)):
        return word
    if lower in _TAG_OF_WORD:
        return _TAG_OF_WORD[lower]
    if any(map(str.isdigit, word)):
        return "CD"
    if word[0].isupper() and not first:
        return "NNP"
    for ending, tag in _ENDINGS:
        if lower.endswith(ending) and len(lower) > len(ending) + 2:
            return tag
    return "NN"
