"""Every term that a recipe may name: those of the modules below, and those of plug-ins."""

from __future__ import annotations

from typing import Annotated

from pydantic import SerializeAsAny

from tutelage.objectives import attention, filters, hidden, hidden_knowledge, mapped, predictions, relations, transport
from tutelage.objectives.kinds import ByKind, kinds_of
from tutelage.objectives.term import Term

__all__ = [
    "AnyTerm",
    "attention",
    "filters",
    "hidden",
    "hidden_knowledge",
    "mapped",
    "predictions",
    "relations",
    "title_of",
    "transport",
]

AnyTerm = Annotated[SerializeAsAny[Term], ByKind(Term, "term")]


def title_of(kind: str) -> str:
    """What plan and report call a term (:attr:`Term.title`); of one that is not defined here, its kind with spaces."""
    known = kinds_of(Term)
    return known[kind].called() if kind in known else kind.replace("_", " ")
