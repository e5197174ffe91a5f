"""Bounded numbers for settings. What is far beyond any use is refused when the settings are read, not in the middle of a run."""

from typing import Annotated

from pydantic import Field

MOST = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=MOST)]
"""A number of texts, tokens, words, steps or epochs."""
Size = Annotated[int, Field(ge=1, le=2**20)]
"""A width, or a number of layers, heads, neurons or classes."""
Layer = Annotated[int, Field(ge=0, le=2**20)]
"""A layer by its number."""
Length = Annotated[int, Field(ge=8, le=MOST)]
"""The longest input in tokens."""
MOST_SEEDS = 1000
"""Seeds of a study."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, le=1000)]
"""A learning rate."""
Weight = Annotated[float, Field(ge=0, le=1e6)]
"""A factor that may be zero."""
Positive = Annotated[float, Field(gt=0, le=1e6)]
"""A factor that may not."""
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
"""What logits are divided by. Its square is a factor of the loss."""
