"""What a teacher thinks of each training text, as a label: is it right, and is it sure (Pea-KD's PTP, Cho and Kang 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from tutelage.data.labels import known_labels
from tutelage.errors import TutelageError

if TYPE_CHECKING:  # recipes are read without torch
    from tutelage.tasks.kind import Kind

NAMES = ("confidently right", "unconfidently right", "confidently wrong", "unconfidently wrong")


PRESETS = {"rte": (0.8, 0.6), "mrpc": (0.95, 0.75), "sst2": (0.98, 0.8), "qnli": (0.98, 0.7), "cola": (0.95, 0.7)}
"""The thresholds in the authors' code."""


Confidence = Annotated[float, Field(ge=0, le=1)]


class Verdicts(BaseModel):
    """How the labels of a stage on the teacher's verdicts are made.

    ``thresholds`` on the confidence, for texts that the teacher gets right and wrong: the ``median`` of each group, those of
    the authors' code for the task (``preset``), or two numbers; *sure* is above. ``control`` replaces the verdicts by what
    they are measured against: the same ones dealt out at random (``shuffled``), or the task's own labels (``labels``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    thresholds: Literal["median", "preset"] | tuple[Confidence, Confidence] = "median"
    source: str = "train"
    """``train``: the teacher's own predictions on the texts that it learnt from, as in the paper. Or a folder of ``tutelage
    crossfit``: those of models that have not seen them."""
    control: Literal["shuffled", "labels"] | None = None

    def fitted(self, task: str, kind: Kind, labels: int, classes: int) -> Verdicts:
        """The same with the task's thresholds in the place of ``preset``.

        Args:
            task: Its name.
            kind: What is asked of a text.
            labels: How many classes the task has, 0 of a regression.
            classes: How many the stage's classifier can tell apart.

        Raises:
            TutelageError: when there can be no such verdicts.
        """
        if not kind.ptp:
            raise TutelageError(
                f"the teacher's verdicts are about one answer for each text, and {task!r} is of kind {kind.name}; leave the stage "
                "out (--ablation no_ptp)"
            )
        if not kind.single_label and self.control == "labels":
            raise TutelageError(f"control=labels needs classes, and {task!r} is a {kind.name}; use control=shuffled")
        if not kind.probabilities and self.thresholds != "median":
            raise TutelageError(f"thresholds are probabilities, and {task!r} is a {kind.name}; use thresholds=median")
        needed = labels if self.control == "labels" else len(NAMES)
        if needed > classes:
            raise TutelageError(
                f"the stage on verdicts tells {classes} classes apart, and there are {needed}; set verdict.classes={needed}"
            )
        if self.thresholds != "preset":
            return self
        if task not in PRESETS:
            raise TutelageError(
                f"there are no preset thresholds for {task!r}, only for {', '.join(PRESETS)}; use thresholds=median, or two "
                "numbers"
            )
        return self.model_copy(update={"thresholds": PRESETS[task]})


def verdicts(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], how: Verdicts, kind: Kind, seed: int
) -> npt.NDArray[np.int64]:
    """``(n,)``: 0 to 3 as in :data:`NAMES`, or with ``control="labels"`` the label; -1 where the label is not known.

    What is right, and how confident a prediction is, the kind of task says.

    Args:
        logits: ``(n, classes)``, the teacher's.
        labels: ``(n,)``; -1 or NaN is not known.
        how: As :meth:`Verdicts.fitted` returns it.
        kind: One with PTP labels.
        seed: Of ``control="shuffled"``.
    """
    assert how.thresholds != "preset"
    known = known_labels(labels)
    result = np.full(len(labels), -1, dtype=np.int64)
    if how.control == "labels":
        return np.where(known, labels, -1).astype(np.int64)
    right, confidence = kind.judged(logits[known], labels[known])
    sure = np.zeros(len(right), dtype=np.bool_)
    for group, number in ((right, 0), (~right, 1)):
        if group.any():
            limit = np.median(confidence[group]) if how.thresholds == "median" else how.thresholds[number]
            sure[group] = confidence[group] > limit
    found = np.where(right, 0, 2) + ~sure
    if how.control == "shuffled":
        found = np.random.default_rng([seed, 0x7D1]).permutation(found)
    result[known] = found
    return result


def described(found: npt.NDArray[np.int64]) -> str:
    """How many texts have which verdict, in words."""
    counts = np.bincount(found[found >= 0], minlength=len(NAMES))
    return ", ".join(f"{name} {count:,}" for name, count in zip(NAMES, counts, strict=False))
