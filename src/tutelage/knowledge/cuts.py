"""Which tokens and neurons of a layer's hidden states are kept. Pure data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from tutelage.fields import Count, Seed

if TYPE_CHECKING:
    from tutelage.data.batches import Totals

Score = Literal["probability", "logit"]


class Tokens(BaseModel):
    """The tokens of an example that are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    count: Count | None = None
    """Number of tokens. An example with fewer keeps all of its own; none keeps all of every example."""
    by: Literal["left", "attention", "random"] = "left"
    """The choice of tokens: the first in reading order (``left``); those that receive most attention from the first token, mean
    over the heads of one layer (``attention``); or a random choice that follows from the example's content and ``seed``
    (``random``)."""
    separators: bool = True
    """Whether [SEP] may be kept. It attracts attention and carries little information."""
    score: Score = "probability"
    """For ``attention``: rank by the mean of the attention probabilities, or of the scores before the softmax (``logit``), as in
    the code of Liu et al. 2021."""
    keep_first: bool = False
    """Keep the first token whatever its rank."""
    seed: Seed = 0
    """Seed of ``random``."""

    def __str__(self) -> str:
        amount = (
            "all tokens" if self.count is None else f"{self.count} token{'s' if self.count > 1 else ''} by {self.by}"
        )
        return amount + ("" if self.separators else " without [SEP]")

    @property
    def whole(self) -> bool:
        """Whether all tokens are kept, in reading order."""
        return self.count is None and self.separators

    def kept(self, length: int, separators: int) -> int:
        """Number of kept tokens of an example with ``length`` tokens, ``separators`` of them [SEP]."""
        eligible = length if self.separators else length - separators
        return eligible if self.count is None else min(self.count, eligible)

    def kept_of(self, totals: Totals) -> float:
        """Number of kept tokens of an optimiser step."""
        return sum(self.kept(*size) for size in totals.sizes) if math.isfinite(totals.examples) else math.inf


class Neurons(BaseModel):
    """The coordinates of each kept vector that are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    count: Count | None = None
    """Number of coordinates; none keeps all."""
    by: Literal["magnitude", "uniform", "random"] = "magnitude"
    """The choice of coordinates: those of largest absolute value in each vector (``magnitude``), evenly spaced ones
    (``uniform``), or one random set for all vectors (``random``)."""
    seed: Seed = 0
    """Seed of ``random``."""

    def __str__(self) -> str:
        return (
            "all neurons" if self.count is None else f"{self.count} neuron{'s' if self.count > 1 else ''} by {self.by}"
        )

    def mask(self, width: int) -> npt.NDArray[np.int64] | None:
        """The coordinates of a ``uniform`` or ``random`` choice, ascending; ``None`` if each vector has its own, or all."""
        if self.count is None or self.by == "magnitude":
            return None
        if self.by == "uniform":
            return (2 * np.arange(self.count) * width + self.count) // (2 * self.count)
        return np.sort(np.random.default_rng([self.seed, 0x1D7]).permutation(width)[: self.count])


@dataclass(frozen=True)
class Cut:
    """The kept part of one teacher layer. ``scored_by`` is the layer whose attention ranks the tokens."""

    layer: int
    tokens: Tokens
    neurons: Neurons
    scored_by: int | None = None
