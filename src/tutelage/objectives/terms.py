"""Every term that a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Embeddings, FirstToken, Hidden, Pooled
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.predictions import PTP, HardLabels, LogitsMSE, SoftLabels

AnyTerm = Annotated[
    HardLabels
    | SoftLabels
    | LogitsMSE
    | Embeddings
    | Hidden
    | Pooled
    | PTP
    | AttentionScores
    | FirstToken
    | HiddenKnowledge,
    Field(discriminator="kind"),
]
