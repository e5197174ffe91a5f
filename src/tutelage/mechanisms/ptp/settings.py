"""PTP labels of Pea-KD (Cho and Kang 2022): for each training text, is the teacher correct, and is it confident?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tutelage.data.config import Place
from tutelage.data.labels import known_labels
from tutelage.errors import TutelageError, option
from tutelage.mechanisms.mechanism import Mechanism, StageLike
from tutelage.objectives.predictions import PTP

if TYPE_CHECKING:
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.tasks.kind import Kind

NAMES = ("confidently right", "unconfidently right", "confidently wrong", "unconfidently wrong")

PRESETS = {"rte": (0.8, 0.6), "mrpc": (0.95, 0.75), "sst2": (0.98, 0.8), "qnli": (0.98, 0.7), "cola": (0.95, 0.7)}
"""The thresholds in the authors' code."""

Confidence = Annotated[float, Field(ge=0, le=1)]


class PTPLabels(Mechanism):
    """How the labels of the term ``ptp`` are made. A stage with PTP labels has no other term."""

    brings_labels = True
    asks_teacher = True

    kind: Literal["ptp_labels"] = "ptp_labels"
    thresholds: Literal["median", "preset"] | tuple[Confidence, Confidence] = "median"
    """Confidence above which the teacher counts as confident, for texts that it predicts correctly and wrongly: the ``median`` of
    each group, those of the authors' code for the task (``preset``), or two numbers."""
    source: Literal["train"] | Place = "train"
    """``train``: the teacher's predictions on its own training texts, as in the paper. Or a folder of ``tutelage crossfit``:
    out-of-fold predictions."""
    control: Literal["shuffled", "labels"] | None = None
    """What to use instead, as a control: the same labels shuffled over the texts (``shuffled``), or the task's labels
    (``labels``)."""

    def check(self, stage: StageLike) -> None:
        if [term.kind for term in stage.objective] != ["ptp"]:
            raise ValueError(
                f"stage {stage.name!r} makes PTP labels, which only the term ptp uses; remove its other terms"
            )
        if stage.select == "best" or stage.on_corpus:
            raise ValueError(
                f"stage {stage.name!r} learns PTP labels, which exist only on a task and give no validation score; set select=last"
            )

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        assert scene.task is not None and stage.part is not None
        self._fitted(scene, stage)
        if self.source != "train":
            from tutelage.knowledge import out_of_fold

            task = scene.task
            out_of_fold.read(Path(self.source), task.parts[stage.part].examples, task.data.labels)

    def labels(self, scene: Scene, stage: StageScene) -> npt.NDArray[np.int64]:
        from tutelage.knowledge import out_of_fold
        from tutelage.tasks import kind_of

        assert scene.task is not None and stage.part is not None
        data, examples = scene.task.data, scene.task.parts[stage.part].examples
        if self.source == "train":
            logits = scene.task.train_logits(stage.part).numpy()
        else:
            logits = out_of_fold.read(Path(self.source), examples, data.labels)
        found = ptp_labels(logits, examples.labels, self._fitted(scene, stage), kind_of(data.kind), scene.seed)
        shown = (
            "the task's labels replace PTP labels" if self.control == "labels" else f"PTP labels: {described(found)}"
        )
        scene.display.say(shown)
        return found

    def _fitted(self, scene: Scene, stage: StageScene) -> PTPLabels:
        from tutelage.tasks import kind_of

        assert scene.task is not None
        data = scene.task.data
        classes = next(term.classes for term in stage.stage.objective if isinstance(term, PTP))
        return self.fitted(data.task, kind_of(data.kind), len(data.labels), classes)

    def fitted(self, task: str, kind: Kind, labels: int, classes: int) -> PTPLabels:
        """The same settings with the task's thresholds in place of ``preset``.

        Args:
            task: Its name.
            kind: The kind of task.
            labels: Number of classes of the task; 0 for a regression.
            classes: Number of classes of the stage's classifier.

        Raises:
            TutelageError: when the task cannot have such labels.
        """
        if not kind.ptp:
            raise TutelageError(
                f"PTP labels need one prediction per text, and {task!r} is of kind {kind.name}; leave the stage out "
                f"({option('ablation')} "
                f"no_ptp)"
            )
        if not kind.single_label and self.control == "labels":
            raise TutelageError(f"control=labels needs classes, and {task!r} is a {kind.name}; use control=shuffled")
        if not kind.probabilities and self.thresholds != "median":
            raise TutelageError(f"thresholds are probabilities, and {task!r} is a {kind.name}; use thresholds=median")
        needed = labels if self.control == "labels" else len(NAMES)
        if needed > classes:
            raise TutelageError(
                f"the PTP classifier has {classes} classes, and there are {needed} labels; set ptp.classes={needed}"
            )
        if self.thresholds != "preset":
            return self
        if task not in PRESETS:
            raise TutelageError(
                f"there are no preset thresholds for {task!r}, only for {', '.join(PRESETS)}; use thresholds=median, or two "
                "numbers"
            )
        return self.model_copy(update={"thresholds": PRESETS[task]})


def ptp_labels(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], how: PTPLabels, kind: Kind, seed: int
) -> npt.NDArray[np.int64]:
    """``(n,)``: 0 to 3 as in :data:`NAMES`, or with ``control="labels"`` the label; -1 if the label is unknown.

    The kind of task says whether a prediction is right and how confident it is.

    Args:
        logits: ``(n, classes)``, the teacher's.
        labels: ``(n,)``; -1 or NaN is not known.
        how: As :meth:`PTPLabels.fitted` returns it.
        kind: A kind with PTP labels.
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
    """The number of texts per label, in words."""
    counts = np.bincount(found[found >= 0], minlength=len(NAMES))
    return ", ".join(f"{name} {count:,}" for name, count in zip(NAMES, counts, strict=False))
