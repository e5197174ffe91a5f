"""Predictions from a file, matched with the texts of a task: the teacher of a run without a teacher model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Compared:
    """Predictions for labelled texts."""

    scores: dict[str, float]
    """By metric of the task."""
    constant: dict[str, float]
    """The same of the best constant answer."""
    texts: int


@dataclass(frozen=True)
class Predicted:
    """The predictions of a file as targets of the training texts.

    The texts that have no prediction but a label have the label as their target.
    """

    file: str
    form: str
    """The form in which the file predicts, in words."""
    columns: str
    """The columns of the predictions, in words."""
    rows: int
    """Rows of the file."""
    row_of: Mapping[str, int]
    """By the id of an example its row in what follows."""
    targets: npt.NDArray[np.float32]
    """``(n, outputs)``: what the student learns, as logits; of classes centred log-probabilities."""
    answers: npt.NDArray[np.float32]
    """``(n, outputs)``: what the file says of each text, as logits, before labels are mixed in; ``nan`` where it says nothing."""
    weights: npt.NDArray[np.float32] | None
    """``(n,)``: factors of the losses on predictions; None for equal weights."""
    labelled: int
    """Training texts with a label of their own; 0 if the file is all there is."""
    options: dict[str, str]
    """The settings that were used, in words."""
    counts: dict[str, int]
    """What became of rows and texts: by kind of trouble how many."""
    agreement: dict[str, Compared]
    """By part of the data: the file's predictions for its labelled texts."""
