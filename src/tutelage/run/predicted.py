"""A file of predictions as the teacher of a run on a task, and what the report says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data.examples import Data
from tutelage.data.predicted import Predicted
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError, option
from tutelage.knowledge.needs import Needs
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.run.teacher import Answers
from tutelage.students.specs import Fresh, takes_from_teacher
from tutelage.tasks.metrics import no_better
from tutelage.teachers.teacher import KnownLogits, Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tutelage.run.loading import TaskTexts
    from tutelage.run.workspace import Workspace

SURE = 0.9
"""The probability from which a student that disagrees with the file makes a text a suspect."""
MOST_SUSPECTS = 100
"""Suspects that the report lists."""
FEWEST_COMPARED = 20
"""Labelled texts from which on predictions are compared with a constant answer."""


class PredictedTeacher:
    """Answers for the teacher from the predictions of a file."""

    def __init__(self, predicted: Predicted, parts: dict[str, Texts], device: torch.device) -> None:
        self._predicted, self._parts, self._device = predicted, parts, device

    def answers(self, stage: Stage, needs: Needs) -> Answers:
        """Who answers for the teacher in a stage that needs this of it."""
        return "file" if needs else "none"

    def teacher_for(self, stage: Stage, part: str, needs: Needs) -> Teacher | None:
        """What answers for the teacher in a stage."""
        if not needs:
            return None
        texts, given = self._parts[part], self._predicted.weights
        weights = None if given is None else torch.from_numpy(given[self._rows(part)]).to(self._device)
        return KnownLogits(self.on_train(part).to(self._device), texts.student.logit_rows, weights)

    def on_train(self, part: str) -> Tensor:
        """``(texts, outputs)``: the targets of a part that stages train on."""
        return torch.from_numpy(self._predicted.targets[self._rows(part)])

    def _rows(self, part: str) -> list[int]:
        return [self._predicted.row_of[name] for name in self._parts[part].examples.ids]


def check_recipe(config: RunConfig) -> None:
    """See that a method needs nothing of its teacher but predictions.

    Raises:
        TutelageError: the method or its student needs the teacher's network, or no teacher.
    """
    recipe, how = config.recipe, config.data.predictions
    assert how is not None
    if all(stage.labels_only for stage in recipe.stages):
        raise TutelageError(
            f"the method {recipe.method!r} learns from labels alone and cannot use the predictions in {how.file!r}; use a method "
            "that learns from predictions alone (`tutelage methods`)"
        )
    for stage in recipe.stages:
        for mechanism in stage.mechanisms:
            if mechanism.asks_teacher or mechanism.brings_teacher:
                raise TutelageError(
                    f"stage {stage.name!r} has the mechanism {mechanism.kind}, which needs a teacher that runs; use a method "
                    "that learns from predictions alone (`tutelage methods`)"
                )
    student = recipe.student
    if takes_from_teacher(student) or (isinstance(student, Fresh) and student.like is None):
        raise TutelageError(
            f"the student of {recipe.method!r} is made of its teacher, and the predictions in {how.file!r} have no layers to copy; "
            f"give {option('student')} a checkpoint ({option('student')} distilbert-base-uncased), some of its layers "
            f"({option('student')} layers=3,source=bert-base-uncased), or sizes and whose vocabulary ({option('student')} "
            "layers=4,hidden=312,heads=12,like=bert-base-uncased)"
        )
    if config.data.candidates is not None or config.data.drop_flipped:
        raise TutelageError(
            f"augmented texts have no predictions in {how.file!r}; leave out {option('candidates')} and data.drop_flipped"
        )


def check_labels(config: RunConfig, data: Data) -> list[str]:
    """See that there are the labels that stages need, and compare the predictions with labels; returns warnings.

    Raises:
        TutelageError: there are none, or the predictions agree with them no better than a constant answer.
    """
    predicted = data.predicted
    assert predicted is not None
    for stage in config.recipe.stages:
        if stage.needs_labels and not predicted.labelled:
            raise TutelageError(
                f"stage {stage.name!r} learns from labels, and there are only predictions; give labelled rows with "
                f"{option('train')}"
            )
    for part, found in predicted.agreement.items():
        metric = data.metrics[0]
        constant = {name: found.constant[name] for name in data.metrics}
        if found.texts < FEWEST_COMPARED or not no_better(found.scores, constant, found.texts):
            continue
        line = (
            f"the predictions in {predicted.file!r} have {metric} {found.scores[metric]:.3f} on {found.texts:,} labelled texts of "
            f"{part}, no better than a constant answer ({found.constant[metric]:.3f})"
        )
        if not config.allow_weak_teacher:
            raise TutelageError(
                f"{line}; check the names and the order of the labels, or pass {option('allow_weak_teacher', True)}"
            )
        return [line]
    return []


def plan_lines(data: Data) -> list[str]:
    """What the file says, for the printed plan."""
    predicted = data.predicted
    assert predicted is not None
    lines = [f"teacher  {predicted.rows:,} predictions in {predicted.file}, {predicted.columns}: {predicted.form}"]
    lines += [f"         {name}: {value}" for name, value in predicted.options.items()]
    lines += [
        f"         agreement with labels on {part}: {data.metrics[0]} {found.scores[data.metrics[0]]:.3f} of {found.texts:,} texts"
        for part, found in predicted.agreement.items()
    ]
    told = ", ".join(f"{count:,} {COUNTS[name]}" for name, count in predicted.counts.items())
    return [*lines, *([f"         {told}"] if told else [])]


COUNTS = {
    "repeated": "rows repeat a text (their predictions are averaged)",
    "without a prediction": "rows have no prediction and are left out",
    "unknown answers": "answers are no labels and are left out",
    "of the evaluation set": "texts are of the evaluation set and are not trained on",
    "of no text": "rows have an id that no text has",
    "texts without a prediction": "training texts have no prediction (their label is the target; without one they are left out)",
}
"""What became of rows and texts, in words."""


def baseline_labels(data: Data) -> str:
    """What the undistilled twin learns from, in words."""
    assert data.predicted is not None
    return "labels" if data.predicted.labelled else "likeliest labels"


def entry(task: TaskTexts, student: PreTrainedModel, workspace: Workspace) -> dict[str, Any] | None:
    """The report's block on the predictions of a file; None for a run with a teacher model, or without a teacher."""
    predicted = task.data.predicted
    if predicted is None:
        return None
    return {
        "file": predicted.file,
        "form": predicted.form,
        "rows": predicted.rows,
        "labelled": predicted.labelled,
        "baseline": baseline_labels(task.data),
        "options": predicted.options,
        "counts": {COUNTS[name]: count for name, count in predicted.counts.items()},
        "agreement": {
            part: {"texts": found.texts, "scores": found.scores, "constant": found.constant}
            for part, found in predicted.agreement.items()
        },
        **_suspects(task, student, workspace, predicted),
    }


def _suspects(task: TaskTexts, student: PreTrainedModel, workspace: Workspace, predicted: Predicted) -> dict[str, Any]:
    """Training texts on which the student is sure of another class than the file."""
    texts, labels = task.parts["train"], task.data.labels
    if not task.kind.classifies_texts:
        return {"suspects_found": None, "suspects": []}
    logits = workspace.predict(student, texts.student, "student on train")
    sure, ours = (part.numpy() for part in logits.softmax(dim=1).max(dim=1))
    said = predicted.answers[[predicted.row_of[name] for name in texts.examples.ids]]
    given = ~np.isnan(said).any(axis=1)
    theirs = np.where(given, said.argmax(axis=1), -1)
    found = np.flatnonzero(given & (ours != theirs) & (sure >= SURE))
    order = found[np.argsort(-sure[found], kind="stable")]
    gold = texts.examples.labels if predicted.labelled else np.full(len(theirs), -1)
    pairs = texts.examples.pairs
    listed = [
        {
            "text": texts.examples.texts[row],
            "text_pair": None if pairs is None else pairs[row],
            "predicted": labels[theirs[row]],
            "student": labels[ours[row]],
            "probability": float(sure[row]),
            "label": labels[gold[row]] if gold[row] >= 0 else None,
        }
        for row in order[:MOST_SUSPECTS]
    ]
    return {"suspects_found": len(found), "suspects": listed}
