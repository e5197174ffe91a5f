"""A model's answer to one text, in a form that a page draws without knowing the kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST = 5
"""Classes that a reply shows, beside those that are predicted."""


@dataclass(frozen=True)
class Piece:
    """A part of the text that was read, with the class that a model gives it."""

    text: str
    label: str | None = None
    """None outside entities and answers."""
    share: float | None = None
    """The probability of the class; None where scores are no probabilities."""


@dataclass(frozen=True)
class Reply:
    """What a model answers to one text."""

    said: str
    """The answer in one line."""
    shares: tuple[tuple[str, float], ...] = ()
    """Classes with their probabilities, the likeliest first: five, and all that are predicted. Empty where answers are no classes
    of the text."""
    pieces: tuple[Piece, ...] = ()
    """The whole text (of questions the context) in pieces; empty where the answer marks none."""
    note: str | None = None
    """What else is to be known of the answer."""


def by_share(labels: Sequence[str], shares: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Classes with their probabilities, the likeliest first."""
    return tuple(sorted(zip(labels, shares, strict=True), key=lambda one: -one[1]))
