"""What an objective asks of a model. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.knowledge.cuts import Cut, Neurons, Tokens


@dataclass(frozen=True)
class Needs:
    """What an objective asks of one model.

    ``hidden`` counts as ``hidden_states`` does: 0 is the embedding output, ``l`` the output of layer ``l``.
    ``attention`` names layers from 1 whose queries, keys and values are wanted, ``cuts`` parts of layers, ``pooled`` the pooler's
    output. ``padding`` says that padded places count too, of which only a running model can tell.
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
        """Whether more is asked than logits, which a model can be asked for once."""
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
        """All that is asked of hidden states, as cuts: a whole layer is one of them."""
        return self.cuts | {Cut(layer, Tokens(), Neurons()) for layer in self.hidden}

    @property
    def measured(self) -> Needs:
        """What has to be read from a running model for the cuts to be made."""
        layers = frozenset(cut.layer for cut in self.cuts)
        scorers = frozenset(cut.scored_by for cut in self.cuts if cut.scored_by is not None)
        return Needs(self.logits, self.hidden | layers, self.attention | scorers, pooled=self.pooled)

    @property
    def top(self) -> int:
        """The last layer that has to run when no logits are asked for."""
        return max(self.hidden | self.attention, default=0)
