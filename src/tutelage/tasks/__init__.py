"""Kinds of task, one file each; :mod:`tutelage.tasks.kind` declares their interface."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isabstract
from typing import Any

from tutelage.anatomy import Head
from tutelage.errors import TutelageError, option
from tutelage.tasks.classification import Classification
from tutelage.tasks.embedding import Embedding
from tutelage.tasks.kind import Kind
from tutelage.tasks.multilabel import Multilabel
from tutelage.tasks.regression import Regression
from tutelage.tasks.spans import Spans
from tutelage.tasks.tokens import TokenClassification

KINDS: dict[str, Kind] = {
    "classification": Classification(),
    "regression": Regression(),
    "multilabel": Multilabel(),
    "tokens": TokenClassification(),
    "spans": Spans(),
    "embedding": Embedding(),
}
"""The kinds of this package by name."""


def known_kinds() -> dict[str, Kind]:
    """All kinds by name: :data:`KINDS`, and every other subclass of :class:`Kind` that has been defined, as plug-ins do."""
    others = {kind.name: kind for kind in _defined(Kind) if getattr(kind, "name", None) not in (None, *KINDS)}
    return KINDS | {name: kind() for name, kind in others.items()}


def kind_of(name: str) -> Kind:
    """The kind of task by its name, one of :func:`known_kinds`.

    Raises:
        TutelageError: there is none.
    """
    if name in KINDS:
        return KINDS[name]
    known = known_kinds()
    if name not in known:
        raise TutelageError(
            f"{option('kind')} {name!r} does not exist; use one of {', '.join(known)}; if a plug-in defines it, give "
            f"{option('plugins')} FILE"
        )
    return known[name]


def kind_of_model(head: Head, config: Any) -> Kind:
    """The kind of task that a model with this head and configuration answers. Kinds of plug-ins that say which configurations they
    describe are asked first: theirs may also look like one of :data:`KINDS`.

    Raises:
        TutelageError: it answers none: it has no head of a task.
    """
    kinds = known_kinds().values()
    for kind in sorted(kinds, key=lambda kind: kind.name in KINDS or "describes" not in vars(type(kind))):
        if kind.head == head and kind.describes(config):
            return kind
    raise TutelageError(
        f"a {config.model_type} with the head {head} answers no task; fine-tune or distil it on one first"
    )


def metric_words(name: str) -> str:
    """A metric's name for people."""
    found = {metric: words for kind in _defined(Kind) for metric, words in kind.metric_words.items()}
    return found.get(name, name.replace("_", " "))


def _defined(kind: Any) -> Iterator[type[Kind]]:
    """The subclasses that answer all questions."""
    for child in kind.__subclasses__():
        if not isabstract(child):
            yield child
        yield from _defined(child)
