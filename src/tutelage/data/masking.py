"""Targets of language models: masked tokens, or the next token.

Hashes of the seed, the epoch and the position choose the masked tokens, so each epoch masks other tokens. The choice is made
for a whole optimiser step; every process computes the same one.
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
from tutelage.data.examples import NO_TARGET, UNLABELLED, Encoded, Rows
from tutelage.errors import TutelageError, option

Share = Annotated[float, Field(ge=0, le=1)]


class Masking(BaseModel):
    """Which tokens are chosen, what replaces them, and which tokens need a prediction."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    probability: Share = 0.15
    """Share of a step's ordinary (not special) tokens that are chosen; the number is exact, rounded up."""
    mask: Share = 0.8
    """Share of the chosen tokens that become [MASK]."""
    random: Share = 0.1
    """Share of the chosen tokens that become a random ordinary token. The rest stay unchanged."""
    smoothing: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Choose rare tokens more often: a token that occurs n times in the corpus has the weight ``max(n, 1) ** -smoothing``.
    XLM and DistilBERT use 0.7. 0 gives all tokens the same weight."""
    at_least_one: bool = False
    """Choose at least one token per row, even with probability 0, as TinyBERT's code does."""
    predict: Literal["masked", "all"] = "masked"
    """Tokens that need a prediction: the chosen ones (``masked``), or all tokens, special ones too, as in DistilBERT's code
    (``all``; needs a teacher)."""

    @model_validator(mode="after")
    def _one_fate_each(self) -> Self:
        if self.mask + self.random > 1 + 1e-9:
            raise ValueError(f"mask + random is {self.mask + self.random:g}; the sum must be at most 1")
        return self


class Masker:
    """Applies a masking with one tokenizer. Call it with the instances of an optimiser step.

    Args:
        masking: the settings.
        tokenizer: gives the vocabulary and the mask token.
        counts: occurrences of each token in the corpus, ``(vocabulary,)`` (see ``Corpus.counts``); needed for smoothing.

    Raises:
        TutelageError: if the tokenizer has no mask token, or smoothing has no counts.
    """

    def __init__(self, masking: Masking, tokenizer: Any, counts: npt.NDArray[np.int64] | None = None) -> None:
        if tokenizer.mask_token_id is None and masking.mask and (masking.probability or masking.at_least_one):
            raise TutelageError(
                "the tokenizer has no mask token, which masked language modelling needs; predict next words "
                f"(pretrain {option('causal', True)}), or set mask to 0"
            )
        if masking.smoothing and counts is None:
            raise TutelageError(f"smoothing={masking.smoothing:g} needs token counts, and there are none; set it to 0")
        self.masking = masking
        self._mask_token = tokenizer.mask_token_id
        # all_special_ids lacks special tokens that were added without a name; added_tokens_decoder may lack named ones.
        added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
        vocabulary = np.unique(list(tokenizer.get_vocab().values()))
        self._words = np.setdiff1d(vocabulary, sorted(added | set(tokenizer.all_special_ids)))
        self._weights = np.zeros(vocabulary[-1] + 1)
        self._weights[self._words] = 1.0
        if counts is not None:
            self._weights[self._words] = np.maximum(counts[self._words], 1.0) ** -masking.smoothing

    def __call__(self, encoded: Encoded, rows: Rows, seed: int, epoch: int) -> Encoded:
        """Mask the instances ``encoded`` of one optimiser step; ``rows`` ``(n,)`` are their numbers in the epoch.

        Returns the instances with replaced ``tokens`` and with ``targets``: the original token id at chosen tokens;
        :data:`UNLABELLED` at the other tokens if ``predict`` is ``all``, else :data:`NO_TARGET`.
        """
        masking, original = self.masking, encoded.tokens
        weights = self._weights[original]
        ordinary = weights > 0
        place = np.arange(len(original)) - np.repeat(encoded.offsets[:-1], encoded.lengths)
        key = (np.repeat(rows, encoded.lengths), place)
        # Weighted sampling without replacement: the smallest of exponential variables with the weights as rates.
        rings = np.full(len(original), np.inf)
        np.divide(-np.log1p(-uniform(seed, epoch, 0, *key)), weights, out=rings, where=ordinary)
        count = math.ceil(Fraction(str(masking.probability)) * int(ordinary.sum()))
        chosen = np.zeros(len(original), dtype=np.bool_)
        if count:
            chosen[np.argpartition(rings, count - 1)[:count]] = True
        if masking.at_least_one:
            first = np.minimum.reduceat(rings, encoded.offsets[:-1])
            chosen |= ordinary & (rings == np.repeat(first, encoded.lengths))
        targets = np.full(len(original), UNLABELLED if masking.predict == "all" else NO_TARGET, dtype=np.int32)
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
    """Add targets for causal language modelling: each token's target is the next token; the last one of a row has none."""
    targets = np.full(len(encoded.tokens), NO_TARGET, dtype=np.int32)
    targets[:-1] = encoded.tokens[1:]
    targets[encoded.offsets[1:][encoded.lengths > 0] - 1] = NO_TARGET
    return replace(encoded, targets=targets)
