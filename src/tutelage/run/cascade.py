"""A cascade: the student answers when it is sure, else its teacher is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage import anatomy
from tutelage.anatomy.checkpoints import resolve
from tutelage.artifacts import free_place, new_folder, write_json
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples
from tutelage.data.labels import label_names
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.evaluation import cascade as choosing
from tutelage.evaluation.calibration import probabilities
from tutelage.evaluation.intervals import fewest_rows
from tutelage.report.cascade import CASCADE, CascadeReport, CascadeSuspect, Point, Rule
from tutelage.run.checks import check_ids
from tutelage.run.folder import config_of_run, temperature_of_run
from tutelage.run.workspace import Bench, bench
from tutelage.students.load import head_in
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source
from tutelage.version import __version__

MOST_SUSPECTS = 100


def cascade(
    student: str,
    teacher: str,
    folder: Path,
    data_config: DataConfig | None,
    *,
    agreement: float = 0.98,
    confidence: float = 0.95,
    per_class: bool = False,
    quiet: bool = False,
) -> CascadeReport:
    """See :func:`tutelage.api.cascade`."""
    place = free_place(folder)
    for name, value in (("agreement", agreement), ("confidence", confidence)):
        if not 0 < value < 1:
            raise TutelageError(f"{option(name)} {value:g} is not between 0 and 1; write 0.98 for 98 %")
    with bench(quiet) as desk:
        path = resolve(student)
        config = data_config or config_of_run(path)
        if config is None:
            raise TutelageError(
                f"{student!r} lies in the folder of no run on a task, so there are no rows to choose a threshold on; give "
                f"{option('task')} or {option('dev')}"
            )
        head = head_in(path)
        small, large = Source(path, head, role="student"), Source(resolve(teacher), head)
        data = load_data(config, label_names(small.config) if small.config.num_labels > 1 else ())
        if not kind_of(data.kind).classifies_texts:
            raise TutelageError(
                f"a cascade compares the class of a text, and {data.task!r} is of kind {data.kind}; give a task with one class "
                "for each text"
            )
        given = data.labels
        data, notes = kind_of(data.kind).match(data, small.config, student, "student")
        columns = kind_of(data.kind).columns(data, large.config, teacher, given)
        part, examples = next(iter(data.dev.items()))
        fewest = fewest_rows(agreement, 1 - confidence)
        if len(examples) < fewest:
            raise TutelageError(
                f"{part} has {len(examples):,} rows, and {option('agreement')} {agreement:g} with confidence {confidence:g} "
                f"needs at least {fewest:,}; give more rows, or promise less"
            )
        temperature, told = temperature_of_run(path)
        ours = _logits(small, data, part, config, desk)
        theirs = _logits(large, data, part, config, desk)[:, columns]
        shares = probabilities(ours.numpy(), temperature)
        report = CascadeReport(
            tutelage=__version__,
            student=student,
            teacher=teacher,
            source=f"{part} of {data.task}",
            labels=list(data.labels),
            temperature=temperature,
            agreement=agreement,
            confidence=confidence,
            notes=[*data.notes, *notes, *told],
            **_decided(data, examples, shares, theirs.argmax(dim=1).numpy(), agreement, confidence, per_class),
        )
        with new_folder(place) as partial:
            write_json(partial / CASCADE, report)
    return report


def _logits(source: Source, data: Data, part: str, config: DataConfig, desk: Bench) -> Tensor:
    """The logits of a part of the data, ``(n, outputs)``."""
    kind, fitted = kind_of(data.kind), fitted_tokenizer(source.tokenizer, source.model)
    longest = kind.longest(anatomy.max_length(source.config))
    encoded = kind.encode(data.dev[part], fitted, min(config.max_length or longest, longest), config.stride)
    check_ids(encoded, fitted, source.config, source.name, part)
    return desk.predict(source.model, encoded, f"{source.role} on {part}")


def _decided(
    data: Data,
    examples: Examples,
    shares: npt.NDArray[np.float64],
    taught: npt.NDArray[np.int64],
    agreement: float,
    confidence: float,
    per_class: bool,
) -> dict[str, Any]:
    """The rule or rules, and what they give on the rows."""
    said, sure = shares.argmax(axis=1), shares.max(axis=1)
    agrees, answers = said == taught, np.zeros(len(said), dtype=np.bool_)
    rules: dict[str, Rule] = {}
    predicted = [int(one) for one in np.unique(said)] if per_class else [-1]
    for number in predicted:
        rows = np.flatnonzero(said == number) if per_class else np.arange(len(said))
        # The classes share the error, so that all their promises hold together.
        chosen = choosing.choose(sure[rows], agrees[rows], agreement, 1 - (1 - confidence) / len(predicted))
        if chosen.threshold is not None:
            answers[rows] = sure[rows] > chosen.threshold
        rules[data.labels[number] if per_class else ""] = Rule(
            threshold=chosen.threshold,
            rows=len(rows),
            answered=chosen.answered,
            agreement=chosen.agree / chosen.answered if chosen.answered else None,
            bound=chosen.bound if chosen.answered else None,
        )
    labels = examples.labels
    right = {
        "student": said == labels,
        "teacher": taught == labels,
        "cascade": np.where(answers, said, taught) == labels,
    }
    doubtful = np.flatnonzero(answers & (~agrees | (said != labels)))
    order = doubtful[np.argsort(-sure[doubtful], kind="stable")]
    pairs = examples.pairs
    return {
        "rule": None if per_class else rules[""],
        "classes": rules if per_class else {},
        "coverage": float(answers.mean()),
        "accuracy": {who: float(found.mean()) for who, found in right.items()},
        "curve": [
            Point(
                threshold=float(one.threshold or 0.0),
                coverage=one.answered / len(said),
                agreement=one.agree / one.answered,
                bound=one.bound,
            )
            for one in choosing.curve(sure, agrees)
        ],
        "suspects_found": len(doubtful),
        "suspects": [
            CascadeSuspect(
                text=examples.texts[row],
                text_pair=None if pairs is None else pairs[row],
                label=data.labels[labels[row]],
                student=data.labels[said[row]],
                probability=float(sure[row]),
                teacher=data.labels[taught[row]],
            )
            for row in order[:MOST_SUSPECTS]
        ],
    }
