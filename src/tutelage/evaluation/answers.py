"""Answers that are spans of a context: from logits to texts, and SQuAD's scores of the texts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.data.examples import UNASKED, Encoded, Examples

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def best_answers(
    logits: Tensor | npt.NDArray[Any],
    encoded: Encoded,
    examples: Examples,
    *,
    with_null: bool,
    threshold: float = 0.0,
    longest: int = 30,
) -> list[str]:
    """The answer to each of ``examples``, cut out of its context.

    ``logits`` is ``(units, 2)``, the scores of being the first and the last token of the answer, for the tokens of
    ``encoded`` of which something is asked, row by row. The answer is the pair of tokens with the highest sum of scores
    in any window, at most ``longest`` tokens long (of equal ones the first and shortest). ``with_null`` (SQuAD 2.0) it
    is empty where the sum at [CLS], the smallest over the windows, is more than ``threshold`` above that.
    """
    texts, margins = _read(logits, encoded, examples, longest)
    if not with_null:
        return texts
    return ["" if margin > threshold else text for text, margin in zip(texts, margins, strict=True)]


def best_threshold(logits: Tensor | npt.NDArray[Any], encoded: Encoded, examples: Examples, longest: int = 30) -> float:
    """The ``threshold`` at which :func:`best_answers` has the highest F1 on ``examples``, all of them labelled."""
    texts, margins = _read(logits, encoded, examples, longest)
    gains = np.array(
        [
            _scores(text, _right(answers))[0] - _scores("", _right(answers))[0]
            for text, answers in zip(texts, examples.labels, strict=True)
        ]
    )
    order = np.argsort(margins)
    # What is gained when the questions of the k smallest margins are answered, for k = 0, 1, ..., n.
    gained = np.concatenate([[0.0], np.cumsum(gains[order])])
    thresholds = np.concatenate([[np.nextafter(margins[order[0]], -np.inf)], margins[order]])
    # Equal margins are answered together, so only the last of them is a choice.
    gained[:-1][thresholds[:-1] == thresholds[1:]] = -np.inf
    return float(thresholds[gained.argmax()])


def _read(
    logits: Tensor | npt.NDArray[Any], encoded: Encoded, examples: Examples, longest: int
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The best text for each example, and ``(examples,)`` by how much the score of no answer is above its score."""
    assert encoded.windows is not None and encoded.targets is not None and examples.pairs is not None
    starts, ends = torch.as_tensor(logits).detach().to("cpu", torch.float64).numpy().T
    asked = np.flatnonzero(encoded.targets != UNASKED)
    row = np.repeat(np.arange(len(encoded)), encoded.lengths)[asked]
    of = encoded.windows.of[row]
    null = np.diff(row, prepend=-1) > 0  # a row's first unit is [CLS]
    units = len(row)
    # For each unit the best answer that starts there, over all pairs (not only of the n best starts and ends).
    best = np.full(units, -np.inf)
    last = np.arange(units)
    for ahead in range(min(longest, units)):
        here = units - ahead
        sums = starts[:here] + ends[ahead:]
        better = (row[:here] == row[ahead:]) & (sums > best[:here])
        best[:here][better] = sums[better]
        last[:here][better] = np.flatnonzero(better) + ahead
    nulls = np.full(len(examples), np.inf)
    np.minimum.at(nulls, of[null], (starts + ends)[null])
    texts = [""] * len(examples)
    scores = np.full(len(examples), -np.inf)
    context = np.flatnonzero(~null)
    order = context[np.lexsort((-best[context], of[context]))]
    winners = order[np.diff(of[order], prepend=-1) > 0]
    chars = encoded.windows.chars[asked]
    for example, start, stop in zip(of[winners], chars[winners, 0], chars[last[winners], 1], strict=True):
        texts[example] = examples.pairs[example][start:stop].strip()
    scores[of[winners]] = best[winners]
    return texts, nulls - scores


def squad_scores(predictions: Sequence[str], examples: Examples) -> dict[str, float]:
    """SQuAD's ``f1`` and ``exact_match`` of the predicted texts, as fractions; ``examples`` are all labelled.

    Texts are compared in lower case without punctuation, articles and superfluous spaces; F1 is that of their words.
    Each question counts its best agreement with any of its answers. As in SQuAD 2.0 answers of which nothing remains
    do not count, and where there is no answer the empty text is right and any other wrong.
    """
    pairs = zip(predictions, examples.labels, strict=True)
    f1, exact = np.mean([_scores(text, _right(answers)) for text, answers in pairs], axis=0)
    return {"f1": float(f1), "exact_match": float(exact)}


def answer_chance(examples: Examples) -> dict[str, float]:
    """The scores that are had for nothing: those of the empty text for every question."""
    return squad_scores([""] * len(examples), examples)


def _right(answers: Sequence[tuple[int, str]]) -> list[list[str]]:
    """The words of each answer; of no answer, one without words."""
    return [words for _, text in answers if (words := _words(text))] or [[]]


def _scores(prediction: str, right: list[list[str]]) -> tuple[float, float]:
    """The highest F1 and exact match with one of the right answers."""
    words = _words(prediction)
    return max(_f1(words, answer) for answer in right), float(words in right)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    shared = (Counter(words) & Counter(answer)).total()
    return 2 * shared / (len(words) + len(answer))
