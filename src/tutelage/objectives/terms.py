"""Every term that a recipe may name: those of the modules below, and those of plug-ins."""

from __future__ import annotations

from typing import Annotated

from pydantic import SerializeAsAny

from tutelage.objectives import attention, hidden, hidden_knowledge, mapped, predictions, relations, transport
from tutelage.objectives.kinds import ByKind
from tutelage.objectives.term import Term

__all__ = ["AnyTerm", "attention", "hidden", "hidden_knowledge", "mapped", "predictions", "relations", "transport"]

AnyTerm = Annotated[SerializeAsAny[Term], ByKind(Term, "term")]
