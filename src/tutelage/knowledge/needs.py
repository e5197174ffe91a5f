"""The signals of a model that an objective needs. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.knowledge.cuts import Cut, Neurons, Tokens


@dataclass(frozen=True)
class Needs:
    """The signals of one model that an objective needs.

    * ``logits``: the predictions.
    * ``hidden``: layers whose hidden states are needed, counted as in ``hidden_states``: 0 is the embedding output, ``l`` the
      output of layer ``l``.
    * ``attention``: layers (from 1) whose queries, keys and values are needed.
    * ``cuts``: parts of hidden states.
    * ``pooled``: the output of the pooler.
    * ``padding``: whether the loss includes padded positions, which only a running model can supply.
    """

    logits: bool = False
    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    cuts: frozenset[Cut] = frozenset()
    pooled: bool = False
    padding: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.logits or other.logits,
            self.hidden | other.hidden,
            self.attention | other.attention,
            self.cuts | other.cuts,
            self.pooled or other.pooled,
            self.padding or other.padding,
        )

    def __bool__(self) -> bool:
        return self.logits or self.running

    @property
    def running(self) -> bool:
        """Whether more than logits is needed. Logits can be computed once, before training."""
        return bool(self.hidden) or bool(self.attention) or bool(self.cuts) or self.pooled

    def __str__(self) -> str:
        parts = ["logits"] if self.logits else []
        if self.hidden:
            parts.append(f"hidden{sorted(self.hidden)}")
        if self.attention:
            parts.append(f"query+key{sorted(self.attention)}")
        if self.pooled:
            parts.append("pooled output")
        for tokens, neurons in sorted({(c.tokens, c.neurons) for c in self.cuts}, key=str):
            layers = sorted({c.layer for c in self.cuts if (c.tokens, c.neurons) == (tokens, neurons)})
            parts.append(f"hidden{layers} at {tokens} in {neurons}")
        return ", ".join(parts) or "nothing"

    @property
    def parts(self) -> frozenset[Cut]:
        """All needed hidden states as cuts. A whole layer is a cut, too."""
        return self.cuts | {Cut(layer, Tokens(), Neurons()) for layer in self.hidden}

    @property
    def measured(self) -> Needs:
        """The signals to read from a running model in order to make the cuts."""
        layers = frozenset(cut.layer for cut in self.cuts)
        scorers = frozenset(cut.scored_by for cut in self.cuts if cut.scored_by is not None)
        return Needs(self.logits, self.hidden | layers, self.attention | scorers, pooled=self.pooled)

    @property
    def top(self) -> int:
        """The last layer that must run if no logits are needed."""
        return max(self.hidden | self.attention, default=0)
