"""What a store keeps for each example."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.knowledge.cuts import Neurons, Score, Tokens
from tutelage.knowledge.needs import Needs

Dtype = Literal["float32", "float16", "bfloat16", "int8"]


BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


RAW: dict[str, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int8": "i1"}
"""NumPy types of the values on disk. NumPy has no bfloat16, so int16 stands for it."""


LARGEST = 2**24
"""Largest size in a store: NumPy refuses records of 2 GB and more."""


Column = tuple[int, int | None]


Exponents = dict[int, list[int]]
"""For 8-bit stores: by layer, the exponent of the power of two that divides each neuron."""


class Scheme(BaseModel):
    """What a store keeps for each example."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    classes: Annotated[int, Field(ge=0, le=LARGEST)]
    """Number of logits per example; 0 stores none."""
    hidden: Annotated[int, Field(ge=1, le=LARGEST)]
    """The teacher's width ``d``."""
    longest: Annotated[int, Field(ge=1, le=LARGEST)]
    """Length of the longest example in tokens."""
    columns: tuple[Column, ...] = ()
    """Kept layers, each with the layer whose attention ranks its tokens (``None`` if attention does not choose tokens)."""
    tokens: Tokens = Tokens(count=1)
    """Kept tokens of each kept layer."""
    neurons: Neurons = Neurons()
    """Kept coordinates of each kept vector."""
    scorers: tuple[tuple[int, Score], ...] = ()
    """Attention rankings that are stored in addition if all tokens are kept, each by its layer and score."""
    dtype: Dtype = "float16"
    """Type of the stored hidden states; ``int8`` has one step size for each vector, and a power of two for each neuron. Logits are
    float32."""

    @model_validator(mode="after")
    def _a_record_is_possible(self) -> Self:
        values = 1 if self.tokens.whole else len(self.columns) * int(self.tokens.count or 1) * self.hidden
        if 4 * (values + self.classes) >= 2**31:
            raise ValueError("a record of 2 GB or more is not possible; keep fewer layers, tokens or neurons")
        return self

    @classmethod
    def covering(cls, needs: Needs, classes: int, hidden: int, longest: int, dtype: Dtype = "float16") -> Scheme:
        """The smallest scheme that serves ``needs``. If needs choose tokens (or neurons) differently, all are kept."""
        cuts = needs.parts
        common: dict[str, Any] = {"classes": classes, "hidden": hidden, "longest": longest, "dtype": dtype}
        if not cuts:
            return cls(**common)
        choices = {cut.tokens.model_copy(update={"count": None}) for cut in cuts}
        tokens = Tokens()
        if len(choices) == 1 and all(cut.tokens.count is not None for cut in cuts):
            tokens = choices.pop().model_copy(update={"count": max(cut.tokens.count or 0 for cut in cuts)})
        widths = {cut.neurons for cut in cuts}
        same = len(widths) == 1 or all(n.by == "magnitude" and n.count is not None for n in widths)
        neurons = max(widths, key=lambda n: n.count or 0) if same else Neurons()
        if tokens.whole:
            columns: set[Column] = {(cut.layer, None) for cut in cuts}
            scorers = {(cut.scored_by, cut.tokens.score) for cut in cuts if cut.scored_by is not None}
            common["scorers"] = tuple(sorted(scorers))
        else:
            columns = {(cut.layer, cut.scored_by) for cut in cuts}
        return cls(columns=tuple(sorted(columns, key=str)), tokens=tokens, neurons=neurons, **common)

    def lacks(self, needs: Needs) -> str | None:
        """The reason why the store cannot serve these needs, or ``None`` if it can."""
        if needs.attention:
            return "queries and keys are not stored"
        if needs.padding:
            return "predictions at padding are not stored"
        if needs.pooled:
            return "the pooled output is not stored"
        if needs.logits and not self.classes:
            return "it has no logits"
        for cut in sorted(needs.parts, key=str):
            column = (cut.layer, None if self.tokens.whole else cut.scored_by)
            if column not in self.columns:
                by = "" if column[1] is None else f" ranked by layer {column[1]}"
                return f"it has no layer {cut.layer}{by} (it has {sorted({layer for layer, _ in self.columns})})"
            if self.tokens.whole:
                if cut.scored_by is not None and (cut.scored_by, cut.tokens.score) not in self.scorers:
                    return f"it has no ranking of tokens by layer {cut.scored_by} ({cut.tokens.score})"
            else:
                wanted = cut.tokens.model_copy(update={"count": self.tokens.count})
                if wanted != self.tokens or (cut.tokens.count or 10**9) > (self.tokens.count or 0):
                    return f"it keeps {self.tokens}, not {cut.tokens}"
            ours, theirs = self.neurons, cut.neurons
            smaller = ours.by == theirs.by == "magnitude" and (theirs.count or 10**9) <= (ours.count or 0)
            if not (ours.count is None or ours == theirs or smaller):
                return f"it keeps {ours}, not {theirs}"
        return None

    @property
    def width(self) -> int:
        """Stored values per vector."""
        return self.neurons.count or self.hidden

    @property
    def kept_bytes(self) -> int:
        """Bytes per vector that store which neurons are kept: a bit mask, or a list if that is shorter."""
        if self.neurons.count is None or self.neurons.by != "magnitude":
            return 0
        return min(-(-self.hidden // 8), 2 * self.neurons.count)

    @property
    def _listed(self) -> bool:
        return self.neurons.count is not None and self.kept_bytes == 2 * self.neurons.count

    def fields(self, length: int) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type and shape of the fields of a record with ``length`` tokens, in order."""
        parts: list[tuple[str, str, tuple[int, ...]]] = [("logits", "<f4", (self.classes,))] if self.classes else []
        if not self.columns:
            return parts
        place = "u1" if self.longest < 256 else "<u2"
        shape: tuple[int, ...] = (len(self.columns), length)
        if self.tokens.whole:
            parts.append(("separators", "u1", (-(-length // 8),)))
            parts += [("scores", "<f4", (len(self.scorers), length))] if self.scorers else []
        else:
            shape = (len(self.columns), self.tokens.count or 0)
            parts += [("count", place, ()), ("positions", place, shape)]
        if self.dtype == "int8":
            parts.append(("steps", "<f2", shape))
        if self.kept_bytes:
            parts.append(("kept", "<u2" if self._listed else "u1", (*shape, self.kept_bytes // (1 + self._listed))))
        return [*parts, ("values", RAW[self.dtype], (*shape, self.width))]

    def record(self, length: int = 0) -> np.dtype[Any]:
        """The NumPy type of a record. ``length`` matters only if all tokens are kept."""
        return np.dtype(self.fields(length))

    def record_bytes(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Size of a record in bytes, for examples of these lengths.

        With D layers, K tokens, W values of b bytes, p bytes per position (1 up to 255 tokens, else 2), C classes and x bytes
        for the choice of neurons: ``4 C + p + D K (p + W b + x)``, and 2 bytes more per vector for int8. If all n tokens are
        kept, with S rankings: ``4 C + 4 S n + D n (W b + x)``, and n bits for the positions of [SEP].
        """
        if not self.tokens.whole or not self.columns:
            return np.full(len(lengths), self.record().itemsize, dtype=np.int64)
        lengths = np.asarray(lengths, dtype=np.int64)
        fixed, eight = self.record(0).itemsize, self.record(8).itemsize
        return fixed + (eight - fixed - 1) // 8 * lengths + -(-lengths // 8)


def needs_of(scheme: Scheme) -> Needs:
    """The signals of a running teacher that are needed to write a store of this scheme."""
    scorers = {by for _, by in scheme.columns} | {layer for layer, _ in scheme.scorers}
    return Needs(
        logits=scheme.classes > 0,
        hidden=frozenset(layer for layer, _ in scheme.columns),
        attention=frozenset(layer for layer in scorers if layer is not None),
    )
