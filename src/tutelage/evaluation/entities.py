"""Tags of words: from logits to a tag for each word, and the scores of the entities that the tags make up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.data.conll import bio
from tutelage.data.examples import UNASKED, Encoded, Examples


def best_tags(
    logits: Tensor | npt.NDArray[Any], encoded: Encoded, examples: Examples, names: Sequence[str]
) -> list[list[str]]:
    """The most likely tag of each word of each of ``examples``.

    ``logits`` is ``(units, classes)``, for the tokens of ``encoded`` of which something is asked (first pieces of words),
    row by row; ``names`` are the classes. Words that were cut off are ``"O"``.
    """
    assert encoded.targets is not None
    tags = [names[number] for number in torch.as_tensor(logits).argmax(dim=1).tolist()]
    asked = np.concatenate([[0], np.cumsum(encoded.targets != UNASKED)])[encoded.offsets]
    result = []
    for text, start, stop in zip(examples.texts, asked[:-1], asked[1:], strict=True):
        result.append(tags[start:stop] + ["O"] * (len(text.split(" ")) - (stop - start)))
    return result


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first and last word of each entity, where an ``I-`` that continues nothing starts one (as in conlleval)."""
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(bio(tags)):
        if tag.startswith("B-"):
            found.append((tag[2:], place, place))
        elif tag.startswith("I-"):
            found[-1] = (tag[2:], found[-1][1], place)
    return found


def tag_scores(predictions: Sequence[Sequence[str]], examples: Examples, names: Sequence[str]) -> dict[str, float]:
    """``f1``, ``precision`` and ``recall`` of entities and ``accuracy`` of words, as fractions.

    ``predictions`` has a tag for each word of each of ``examples``, which are all labelled; ``names`` are the classes of
    the labels. An entity is right if type, first and last word are. Words whose class is not known are left out.
    """
    right = predicted = wanted = same = words = 0
    for row, classes in zip(predictions, examples.labels, strict=True):
        known = [(tag, names[number]) for tag, number in zip(row, classes, strict=True) if number >= 0]
        said, true = entities([tag for tag, _ in known]), entities([tag for _, tag in known])
        right += len(set(said) & set(true))
        predicted += len(said)
        wanted += len(true)
        same += sum(tag == name for tag, name in known)
        words += len(known)
    return {
        "f1": _share(2 * right, predicted + wanted),
        "precision": _share(right, predicted),
        "recall": _share(right, wanted),
        "accuracy": _share(same, words),
    }


def tag_chance(examples: Examples, names: Sequence[str]) -> dict[str, float]:
    """The scores that are had for nothing: those of ``"O"`` for every word, so 0 for entities."""
    return tag_scores([["O"] * len(classes) for classes in examples.labels], examples, names)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
