"""Matching a model's labels to the data's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.data.examples import Data
from tutelage.errors import TutelageError


def match_labels(data: Data, config: Any, name: str) -> tuple[Data, list[str]]:
    """The data with the label numbers of the teacher's configuration, matched by name; and warnings.

    Raises:
        TutelageError: when the teacher's labels are others than the data's.
    """
    count = config.num_labels
    if data.kind == "spans":
        return data, []
    if data.kind == "regression":
        if count != 1:
            raise TutelageError(
                f"the task {data.task!r} is a regression, but the teacher {name!r} has {count} labels; fine-tune it here"
            )
        return data, []
    theirs = label_names(config)
    places = places_of(data.labels, theirs)
    if places is not None:
        # The data's spelling wins; labels that only the teacher knows keep theirs.
        spelt = dict(zip(places, data.labels, strict=True))
        return data.with_labels(tuple(spelt.get(i, label) for i, label in enumerate(theirs))), []
    if unnamed(config) and count == len(data.labels):
        named = ", ".join(f"LABEL_{i}={label}" for i, label in enumerate(data.labels))
        return data, [f"the teacher's labels have no names; they were taken in the data's order ({named})"]
    raise TutelageError(
        f"the teacher {name!r} knows the labels {listed(theirs)}, the data {listed(data.labels)}; use a teacher "
        "fine-tuned on these labels, or correct id2label in its config.json"
    )


def label_names(config: Any) -> list[str]:
    """A model's classes, in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def places_of(labels: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """Where each of ``labels`` is among a model's, spelt the same or, where that is unambiguous, but for upper case."""
    for spelt in (str, str.lower):
        ours, known = [spelt(label) for label in labels], [spelt(label) for label in theirs]
        if len(set(ours)) == len(ours) and all(known.count(label) == 1 for label in ours):
            return [known.index(label) for label in ours]
    return None


def unnamed(config: Any) -> bool:
    """Whether a model's classes have no names but those that transformers gives them."""
    return label_names(config) == [f"LABEL_{i}" for i in range(config.num_labels)]


def listed(names: Sequence[str]) -> str:
    """As errors name labels: the first of very many."""
    return ", ".join(map(repr, names[:6])) + (f" ... ({len(names)} in all)" if len(names) > 6 else "")


def label_settings(data: Data) -> dict[str, Any]:
    """What the student's configuration says about labels."""
    if data.kind == "spans":
        return {}
    if data.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    names = {"id2label": dict(enumerate(data.labels)), "label2id": {name: i for i, name in enumerate(data.labels)}}
    if data.kind == "tokens":
        return names
    kind = "single" if data.kind == "classification" else "multi"
    return {**names, "problem_type": f"{kind}_label_classification"}
