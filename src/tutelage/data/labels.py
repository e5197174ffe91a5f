"""Labels: what their form says (numbers of classes, scores, sets, answers of any form), and the names that models give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[Any]
"""As in ``Examples.labels``: integers are classes, -1 unknown; floats are scores or sets of classes, ``nan`` unknown; objects are
answers of a kind's own form, ``None`` unknown."""


def known_labels(labels: Labels) -> npt.NDArray[np.bool_]:
    """``(n,)``: which rows of ``labels`` are wholly known."""
    if labels.dtype.kind == "O":
        return np.array([label is not None for label in labels], dtype=np.bool_)
    found = labels >= 0 if labels.dtype.kind == "i" else ~np.isnan(labels)
    return np.asarray(found if found.ndim == 1 else found.all(axis=1))


def no_labels(like: Labels, count: int) -> Labels:
    """``count`` unknown labels of the form of ``like``."""
    unknown = {"i": -1, "O": None}.get(like.dtype.kind, np.nan)
    return np.full((count, *like.shape[1:]), unknown, dtype=like.dtype)


def strata(labels: Labels) -> npt.NDArray[np.int64]:
    """``(n,)``: the groups that a split keeps in proportion: classes; without classes all examples are one group.

    Classes are numbered by their first example, so that a split does not depend on how a model numbers them.
    """
    if labels.dtype.kind == "i":
        _, first, group_of = np.unique(labels, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[first.argsort()] = np.arange(len(first))
        return rank[group_of]
    return np.zeros(len(labels), dtype=np.int64)


def first_of_each(labels: Labels) -> list[int]:
    """The first row of each class; of answers that are no classes, none."""
    if labels.ndim == 2:
        rows, classes = np.nonzero(labels == 1)
    elif labels.dtype.kind == "O":
        given = [(row, label) for row, label in enumerate(labels) if isinstance(label, np.ndarray)]
        rows = np.repeat([row for row, _ in given], [len(label) for _, label in given]).astype(np.int64)
        classes = np.concatenate([np.empty(0, dtype=np.int64), *(label for _, label in given)])
    elif labels.dtype.kind == "i":
        rows, classes = np.arange(len(labels)), labels
    else:
        return []
    return [int(row) for row in rows[np.unique(classes, return_index=True)[1]]]


def renumbered(labels: Labels, new_of_old: npt.NDArray[np.int64], count: int) -> Labels:
    """Classes, sets of classes or arrays of classes with other numbers: class ``i`` becomes ``new_of_old[i]`` of ``count``."""
    if labels.ndim == 2:
        new = np.where(
            known_labels(labels)[:, None], np.zeros((len(labels), count), labels.dtype), labels.dtype.type(np.nan)
        )
        new[:, new_of_old] = labels
        return new
    if labels.dtype.kind == "O":
        rows = np.empty(len(labels), dtype=object)
        rows[:] = [np.where(row >= 0, new_of_old[np.maximum(row, 0)], -1) for row in labels]
        return rows
    return np.where(labels >= 0, new_of_old[np.maximum(labels, 0)], -1).astype(labels.dtype)


def class_counts(labels: Labels, names: Sequence[str]) -> dict[str, int]:
    """How often each class occurs; of answers that are no classes, nothing."""
    if not names:
        return {}
    if labels.ndim == 2:
        counts = np.nansum(labels, axis=0)
    else:
        if labels.dtype.kind == "O":
            labels = np.concatenate([np.empty(0, dtype=np.int64), *(row for row in labels if row is not None)])
        counts = np.bincount(labels[labels >= 0].astype(np.int64), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def label_names(config: Any) -> list[str]:
    """A model's classes, in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def places_of(labels: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """Where each of ``labels`` is among a model's, spelt the same or, where that is unambiguous, but for upper case."""
    for spelt in (str, str.lower):
        ours, names = [spelt(label) for label in labels], [spelt(label) for label in theirs]
        if len(set(ours)) == len(ours) and all(names.count(label) == 1 for label in ours):
            return [names.index(label) for label in ours]
    return None


def unnamed(config: Any) -> bool:
    """Whether a model's classes have no names but those that transformers gives them."""
    return label_names(config) == [f"LABEL_{i}" for i in range(config.num_labels)]


def in_list(name: str) -> str:
    """A class as a list of names shows it: quoted where its own comma would make it two."""
    return repr(name) if "," in name else name


def listed(names: Sequence[str]) -> str:
    """As errors name labels: the first of very many."""
    return ", ".join(map(repr, names[:6])) + (f" ... ({len(names)} in all)" if len(names) > 6 else "")
