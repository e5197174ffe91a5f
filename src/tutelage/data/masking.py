"""What a language model is asked: words that are hidden from it, or the word that comes next.

Which words are hidden is decided by hashes of the seed, the epoch and the place, anew in every epoch. It is a property
of an optimiser step, so every process that looks at the whole step sees the same.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.data.draws import uniform
from tutelage.data.examples import UNASKED, UNKNOWN, Encoded, Rows
from tutelage.errors import TutelageError

Share = Annotated[float, Field(ge=0, le=1)]


class Masking(BaseModel):
    """Which words are chosen, what stands in their place, and of which tokens something is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: Share = 0.15
    """Of a step's tokens that are not special, how many are chosen: exactly this share, rounded up."""
    mask: Share = 0.8
    """Of the chosen, how many become [MASK]."""
    random: Share = 0.1
    """Of the chosen, how many become a random word, any that is not special; the rest stay as they are."""
    smoothing: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Rare words are chosen more often: a word that occurs n times in the corpus with a chance in proportion to
    ``max(n, 1) ** -smoothing``. 0.7 is XLM's and DistilBERT's; 0 treats all alike."""
    at_least_one: bool = False
    """Choose a word of every row, however small the probability, as the code of TinyBERT does even for 0."""
    ask: Literal["masked", "all"] = "masked"
    """Of which tokens something is asked: the chosen, or all that are not special (where a teacher knows the answer)."""

    @model_validator(mode="after")
    def _one_fate_each(self) -> Self:
        if self.mask + self.random > 1 + 1e-9:
            raise ValueError(f"mask + random is {self.mask + self.random:g}; together they are at most 1")
        return self


class Masker:
    """A masking for one vocabulary: call it with the instances of an optimiser step.

    Args:
        counts: how often each token occurs, ``(vocabulary,)`` (see ``Corpus.counts``); only smoothing needs them.

    Raises:
        TutelageError: when the tokenizer has no mask token, or smoothing has no counts.
    """

    def __init__(self, masking: Masking, tokenizer: Any, counts: npt.NDArray[np.int64] | None = None) -> None:
        if tokenizer.mask_token_id is None and masking.mask and (masking.probability or masking.at_least_one):
            raise TutelageError(
                "the tokenizer has no mask token, so it is not one of a model of masked words; ask for the next words "
                "instead, or set mask to 0"
            )
        if masking.smoothing and counts is None:
            raise TutelageError(f"smoothing is {masking.smoothing:g}, but the words were not counted; set it to 0")
        self.masking = masking
        self._mask_token = tokenizer.mask_token_id
        # Special tokens that were added under no name are not in all_special_ids; a named one may be no added token.
        added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
        vocabulary = np.unique(list(tokenizer.get_vocab().values()))
        self._words = np.setdiff1d(vocabulary, sorted(added | set(tokenizer.all_special_ids)))
        self._weights = np.zeros(vocabulary[-1] + 1)
        self._weights[self._words] = 1.0
        if counts is not None:
            self._weights[self._words] = np.maximum(counts[self._words], 1.0) ** -masking.smoothing

    def __call__(self, encoded: Encoded, rows: Rows, seed: int, epoch: int) -> Encoded:
        """Mask the instances ``encoded`` of one optimiser step, which are ``rows`` ``(n,)`` of their epoch.

        Returns them with other ``tokens`` at chosen places and with ``targets``: the number of the original word at
        chosen places; elsewhere :data:`UNASKED`, or :data:`UNKNOWN` at tokens that are not special if all are asked.
        """
        masking, original = self.masking, encoded.tokens
        weights = self._weights[original]
        ordinary = weights > 0
        place = np.arange(len(original)) - np.repeat(encoded.offsets[:-1], encoded.lengths)
        key = (np.repeat(rows, encoded.lengths), place)
        # Of alarms that ring at these rates, the first to ring are a sample without replacement by these weights.
        rings = np.full(len(original), np.inf)
        np.divide(-np.log1p(-uniform(seed, epoch, 0, *key)), weights, out=rings, where=ordinary)
        count = math.ceil(Fraction(str(masking.probability)) * int(ordinary.sum()))
        chosen = np.zeros(len(original), dtype=np.bool_)
        if count:
            chosen[np.argpartition(rings, count - 1)[:count]] = True
        if masking.at_least_one:
            first = np.minimum.reduceat(rings, encoded.offsets[:-1])
            chosen |= ordinary & (rings == np.repeat(first, encoded.lengths))
        targets = np.where(ordinary & (masking.ask == "all"), UNKNOWN, UNASKED).astype(np.int32)
        targets[chosen] = original[chosen]
        key = (key[0][chosen], place[chosen])
        fate = uniform(seed, epoch, 1, *key)
        drawn = self._words[(uniform(seed, epoch, 2, *key) * len(self._words)).astype(np.int64)]
        tokens = original.copy()
        tokens[chosen] = np.where(fate < masking.mask + masking.random, drawn, original[chosen])
        if self._mask_token is not None:
            tokens[np.flatnonzero(chosen)[fate < masking.mask]] = self._mask_token
        return replace(encoded, tokens=tokens, targets=targets)


def next_tokens(encoded: Encoded) -> Encoded:
    """The same instances with the next token of each row as the target; nothing is asked of its last one."""
    targets = np.full(len(encoded.tokens), UNASKED, dtype=np.int32)
    targets[:-1] = encoded.tokens[1:]
    targets[encoded.offsets[1:][encoded.lengths > 0] - 1] = UNASKED
    return replace(encoded, targets=targets)
