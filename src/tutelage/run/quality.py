"""What a report says of the student's answers: by class, beside the teacher's, and how sure it is of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data, Examples, Rows
from tutelage.data.labels import class_counts
from tutelage.data.texts import Texts
from tutelage.evaluation import calibration
from tutelage.evaluation.intervals import paired_difference, paired_shares
from tutelage.report.quality import Difference
from tutelage.tasks.kind import Kind, TextKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tutelage.run.loading import TaskTexts
    from tutelage.run.workspace import Workspace

MOST_CONFUSIONS = 100
MOST_LISTED = 200


def difference(kind: Kind, data: Data, texts: Texts, ours: Tensor, theirs: Tensor) -> Difference:
    """By how much the first metric of one model is above another's on the same texts."""
    count, metric = kind.resampled(data, ours, texts)
    value, low, high = paired_difference(metric, kind.resampled(data, theirs, texts)[1], count)
    return Difference(value=value, low=low, high=high)


def entry(
    task: TaskTexts, student: PreTrainedModel, workspace: Workspace, ours: Tensor, theirs: Tensor | None
) -> dict[str, Any]:
    """The report's fields ``classes``, ``confusions``, ``disagreements``, ``doubtful`` and ``calibration``, of the part of the
    evaluation set that it leads with.

    Args:
        task: The run's texts.
        student: Its student.
        workspace: Its device and display.
        ours: The student's logits of the part.
        theirs: The teacher's, if there is one.
    """
    kind, data, (_, texts) = task.kind, task.data, task.evaluation
    found: dict[str, Any] = {"classes": by_class(kind, data, texts, ours, theirs)}
    if not kind.classifies_texts:
        return found
    found["confusions"] = confusions(kind, data, texts, ours, theirs)
    if theirs is not None:
        found["disagreements"] = disagreements(data, texts.examples, ours, theirs)
        found["doubtful"] = doubtful(data, texts.examples, ours, theirs)
    found["calibration"] = {
        "temperature": None,
        "texts": 0,
        "source": None,
        "before": trusted(ours, theirs, texts.examples.labels, 1.0),
        "after": None,
    }
    # A temperature that is fitted on the rows that it is judged on looks better than it is, and an export would keep it.
    selection = task.selection
    judged = any(selection.examples.ids == read.examples.ids for read in task.dev.values())
    known = np.flatnonzero(selection.examples.labelled)
    if len(known) and not judged:
        logits = workspace.predict(student, selection.student, "student on the validation split")
        temperature = calibration.fitted_temperature(logits.numpy()[known], selection.examples.labels[known])
        found["calibration"] |= {
            "temperature": temperature,
            "texts": len(known),
            "source": data.sources.get("validation", "validation split"),
            "after": None if temperature is None else trusted(ours, theirs, texts.examples.labels, temperature),
        }
    return found


def by_class(kind: Kind, data: Data, texts: Texts, ours: Tensor, theirs: Tensor | None) -> list[dict[str, Any]]:
    """Each class that a training or evaluation text has, the worst regressions first; last those without texts here, of which
    nothing is known. A class that only the teacher knows is left out: no text of the data could show anything of it."""
    if not isinstance(kind, TextKind):
        return []

    def members(answers: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        return kind.members(answers, len(data.labels))

    gold, student = members(texts.examples.labels), members(kind.predictions(ours.numpy()))
    if gold is None or student is None:
        return []
    teacher = None if theirs is None else members(kind.predictions(theirs.numpy()))
    parts = [data.train, *data.dev.values(), *([] if data.selection is None else [data.selection])]
    counts = [class_counts(part.labels, data.labels) for part in parts]
    rows = []
    for number, name in enumerate(data.labels):
        if not any(count[name] for count in counts):
            continue
        of = gold[:, number]
        row: dict[str, Any] = {"name": name, "support": int(of.sum()), "student": _scores(of, student[:, number])}
        row |= {"teacher": None, "recall_difference": None, "lost": None}
        if teacher is not None:
            row["teacher"] = _scores(of, teacher[:, number])
            row["lost"] = int((teacher[of, number] & ~student[of, number]).sum())
            if of.any():
                value, low, high = paired_shares(student[of, number], teacher[of, number])
                row["recall_difference"] = {"value": value, "low": low, "high": high}
        rows.append(row)

    def first(row: dict[str, Any]) -> tuple[bool, float, int]:
        if not row["support"]:
            return True, 0.0, 0
        change = row["recall_difference"]
        return False, (row["student"]["recall"] if change is None else change["value"]), -row["support"]

    return sorted(rows, key=first)


def _scores(gold: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> dict[str, float] | None:
    """Recall and F1 of one class; None without texts of it."""
    if not gold.any():
        return None
    both = int((gold & predicted).sum())
    return {"recall": both / int(gold.sum()), "f1": 2 * both / int(gold.sum() + predicted.sum())}


def confusions(kind: Kind, data: Data, texts: Texts, ours: Tensor, theirs: Tensor | None) -> list[dict[str, Any]]:
    """The most frequent errors of the student."""
    classes = len(data.labels)
    student = kind.confusion(ours, texts, classes)
    teacher = None if theirs is None else kind.confusion(theirs, texts, classes)
    assert student is not None
    wrong = student * (1 - np.eye(classes, dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    return [
        {
            "label": data.labels[row],
            "predicted": data.labels[column],
            "student": int(wrong[row, column]),
            "teacher": None if teacher is None else int(teacher[row, column]),
        }
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]


def disagreements(data: Data, examples: Examples, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """The texts on which student and teacher differ: where only the teacher is right first, then where the student is surest."""
    said, taught, labels = ours.numpy().argmax(axis=1), theirs.numpy().argmax(axis=1), examples.labels
    rows = np.flatnonzero(said != taught)
    lost = taught[rows] == labels[rows]
    order = rows[np.lexsort((-calibration.confidences(ours.numpy()[rows]), ~lost))]
    return _listed(data, examples, ours, theirs, order)


def doubtful(data: Data, examples: Examples, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """The texts on which student and teacher agree against the label: where the teacher is surest first."""
    said, taught, labels = ours.numpy().argmax(axis=1), theirs.numpy().argmax(axis=1), examples.labels
    rows = np.flatnonzero((said == taught) & (said != labels))
    order = rows[np.argsort(-calibration.confidences(theirs.numpy()[rows]), kind="stable")]
    return _listed(data, examples, ours, theirs, order)


def _listed(data: Data, examples: Examples, ours: Tensor, theirs: Tensor, rows: Rows) -> dict[str, Any]:
    """How many ``rows`` there are, and what was predicted for the first of them."""
    order, labels = rows[:MOST_LISTED], examples.labels
    said, taught = ours.numpy()[order], theirs.numpy()[order]
    mine, other = calibration.confidences(said), calibration.confidences(taught)
    listed = [
        {
            "text": examples.texts[row],
            "text_pair": None if examples.pairs is None else examples.pairs[row],
            "label": data.labels[labels[row]],
            "student": data.labels[said[place].argmax()],
            "student_probability": float(mine[place]),
            "teacher": data.labels[taught[place].argmax()],
            "teacher_probability": float(other[place]),
        }
        for place, row in enumerate(order)
    ]
    return {"found": len(rows), "listed": listed}


def trusted(ours: Tensor, theirs: Tensor | None, labels: npt.NDArray[np.int64], temperature: float) -> dict[str, Any]:
    """How far the student's probabilities at a temperature can be trusted."""
    logits, sure = ours.numpy(), calibration.confidences(ours.numpy(), temperature)
    brier, kl = 0.0, 0.0
    for rows in calibration.blocks(*logits.shape):
        shares = calibration.probabilities(logits[rows], temperature)
        part = len(shares) / len(logits)
        brier += part * calibration.brier(shares, labels[rows])
        if theirs is not None:
            kl += part * calibration.divergence(calibration.probabilities(theirs.numpy()[rows]), shares)
    bins = calibration.reliability(sure, logits.argmax(axis=1) == labels)
    return {
        "ece": calibration.calibration_error(bins),
        "brier": brier,
        "kl_to_teacher": None if theirs is None else kl,
        "bins": [vars(one) for one in bins],
    }
