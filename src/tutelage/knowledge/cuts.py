"""Which part of a layer's hidden states is kept: tokens and neurons. Pure data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from tutelage.data.batches import Totals

Count = Annotated[int, Field(ge=1)]


Score = Literal["probability", "logit"]


class Tokens(BaseModel):
    """Which tokens of an example: ``count`` of them (``None``: all), or all that there are if it has fewer.

    ``left`` takes them in reading order, ``attention`` those that the first token attends to most (mean over heads of one
    layer), ``random`` draws them from the example's own content and ``seed``. ``separators=False`` leaves out [SEP], which
    attracts attention and says little. ``keep_first`` takes the first token whatever its score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Count | None = None
    by: Literal["left", "attention", "random"] = "left"
    separators: bool = True
    score: Score = "probability"
    keep_first: bool = False
    seed: int = 0

    def __str__(self) -> str:
        amount = "all tokens" if self.count is None else f"{self.count} token(s) by {self.by}"
        return amount + ("" if self.separators else " without [SEP]")

    @property
    def whole(self) -> bool:
        """Whether every token is kept, in its place."""
        return self.count is None and self.separators

    def kept(self, length: int, separators: int) -> int:
        """How many tokens of an example of ``length`` tokens, ``separators`` of them [SEP], are kept."""
        eligible = length if self.separators else length - separators
        return eligible if self.count is None else min(self.count, eligible)

    def kept_of(self, totals: Totals) -> float:
        """How many tokens of an optimiser step are kept."""
        return sum(self.kept(*size) for size in totals.sizes) if math.isfinite(totals.examples) else math.inf


class Neurons(BaseModel):
    """Which coordinates of each kept vector: ``count`` of them (``None``: all).

    ``magnitude`` keeps the largest of each vector, ``uniform`` evenly spaced ones, ``random`` one draw for all vectors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Count | None = None
    by: Literal["magnitude", "uniform", "random"] = "magnitude"
    seed: int = 0

    def __str__(self) -> str:
        return "all neurons" if self.count is None else f"{self.count} neurons by {self.by}"

    def mask(self, width: int) -> npt.NDArray[np.int64] | None:
        """The coordinates of ``uniform`` and ``random`` choices, ascending; ``None`` where each vector has its own or all."""
        if self.count is None or self.by == "magnitude":
            return None
        if self.by == "uniform":
            return (2 * np.arange(self.count) * width + self.count) // (2 * self.count)
        return np.sort(np.random.default_rng([self.seed, 0x1D7]).permutation(width)[: self.count])


@dataclass(frozen=True)
class Cut:
    """What is kept of one teacher layer; ``scored_by`` is the layer whose attention ranks the tokens."""

    layer: int
    tokens: Tokens
    neurons: Neurons
    scored_by: int | None = None
