"""A cascade: the student answers when it is sure, else its teacher is asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.anatomy.checkpoints import resolve
from tutelage.artifacts import free_place, new_folder, sha256_of, write_json
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples, rows_among
from tutelage.data.given import is_temporary
from tutelage.data.labels import label_names
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.evaluation import cascade as choosing
from tutelage.evaluation.calibration import probabilities
from tutelage.evaluation.intervals import fewest_rows
from tutelage.report.cascade import CASCADE, CascadeReport, CascadeSuspect, Point, Rule
from tutelage.run.checks import check_ids, limit_of
from tutelage.run.folder import config_of_run, learnt_by_run, longest_input, temperature_of_run
from tutelage.run.serving import graph_of
from tutelage.run.workspace import Bench, bench
from tutelage.serving import OnnxModel
from tutelage.serving.report import REPORT as EXPORT
from tutelage.serving.report import load_export
from tutelage.students.load import head_in, load_config
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import check_finite
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
    graph = graph_of(student)
    home = Path(resolve(student)) if graph is None else graph.parent
    beside = home.is_dir() and folder.is_dir() and home.samefile(folder)
    if beside and (home / CASCADE).exists():
        raise TutelageError(f"{str(folder)!r} already holds a {CASCADE}; remove it, or name another folder")
    place = home if beside else free_place(folder)
    for name, value in (("agreement", agreement), ("confidence", confidence)):
        if not 0 < value < 1:
            raise TutelageError(f"{option(name)} {value:g} is not between 0 and 1; write 0.98 for 98 %")
    with bench(quiet) as desk:
        small = _checkpoint(student, desk) if graph is None else _graph(student, graph, desk)
        config = data_config or config_of_run(small.model)
        if config is None:
            raise TutelageError(
                f"{student!r} lies in the folder of no run on a task, so there are no rows to choose a threshold on; give "
                f"{option('task')} or {option('dev')}"
            )
        judged = data_config is None and config.holdout == 0
        large = Source(resolve(teacher), small.head)
        if data_config is not None:
            limit_of(data_config, small.config, large.config)
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
        known = [learnt_by_run(name, config, data) for name in (small.model, resolve(teacher))]
        learnt = rows_among(examples, set.union(*known))
        if learnt.any():
            notes.append(
                f"{learnt.sum():,} of the {len(examples):,} texts of {part} are left out: student or teacher was trained on them"
            )
            examples = examples.take(np.flatnonzero(~learnt))
            data = replace(data, dev={part: examples})
        fewest = fewest_rows(agreement, 1 - confidence)
        if len(examples) < fewest:
            raise TutelageError(
                f"{part} has {len(examples):,} rows that neither model was trained on, and {option('agreement')} {agreement:g} "
                f"with confidence {confidence:g} needs at least {fewest:,}; give more rows, or promise less"
            )
        ours = small.logits(data, part, config)
        theirs = _logits(large, data, part, config, desk)[:, columns]
        shares = probabilities(ours.numpy(), small.temperature)
        report = CascadeReport(
            tutelage=__version__,
            student=_place(student),
            file=None if graph is None else graph.name,
            fingerprint=small.fingerprint(),
            teacher=_place(teacher),
            source=f"{part} of {data.task}",
            labels=list(data.labels),
            temperature=small.temperature,
            agreement=agreement,
            confidence=confidence,
            notes=[*data.notes, *notes, *small.notes, *([JUDGED] if judged else [])],
            **_decided(data, examples, shares, theirs.argmax(dim=1).numpy(), agreement, confidence, per_class),
        )
        if beside:
            write_json(place / CASCADE, report)
        else:
            with new_folder(place) as partial:
                write_json(partial / CASCADE, report)
    return report


JUDGED = (
    "the student's run chose its checkpoint on these rows (holdout=0), so the promise may not hold for others; give rows of their "
    "own as evaluation set"
)


def _place(model: str) -> str | None:
    """Where a model will be found; nowhere for an object, whose folder is removed."""
    if is_temporary(Path(model)):
        return None
    return os.path.abspath(model) if os.path.exists(model) else model


@dataclass(frozen=True)
class _Small:
    """The student: a checkpoint, or a file of an exported folder."""

    model: str
    """The checkpoint, or that of which the file was made."""
    head: Head
    config: Any
    temperature: float
    notes: list[str]
    fingerprint: Callable[[], str]
    logits: Callable[[Data, str, DataConfig], Tensor]
    """Of a part of the data, ``(n, outputs)``."""


def _checkpoint(name: str, desk: Bench) -> _Small:
    path = resolve(name)
    source = Source(path, head_in(path), role="student")
    temperature, notes = temperature_of_run(path)
    logits = lambda data, part, config: _logits(source, data, part, config, desk)  # noqa: E731
    return _Small(path, head_in(path), source.config, temperature, notes, lambda: source.fingerprint, logits)


def _graph(name: str, path: Path, desk: Bench) -> _Small:
    """The student in an ONNX file, which answers each text alone, as ``serve.py`` has it answer."""
    model, folder, exported = OnnxModel(path), str(path.parent), path.parent / EXPORT
    about, config, tokenizer = model.about, load_config(folder), load_tokenizer(folder)

    def logits(data: Data, part: str, _: DataConfig) -> Tensor:
        encoded = kind_of(data.kind).encode(data.dev[part], tokenizer, about.max_length or anatomy.UNLIMITED)
        check_ids(encoded, tokenizer, config, name, part)
        return model.answers(encoded, lambda count: desk.display.advance(f"student on {part}", len(encoded), count))

    made_of = load_export(exported).model if exported.is_file() else folder
    head = kind_of(about.kind).head
    return _Small(made_of, head, config, about.temperature, [], lambda: sha256_of(path), logits)


def _logits(source: Source, data: Data, part: str, config: DataConfig, desk: Bench) -> Tensor:
    """The logits of a part of the data, ``(n, outputs)``."""
    kind, fitted = kind_of(data.kind), fitted_tokenizer(source.tokenizer, source.model)
    limit = longest_input(source.name, kind, source.config, config.max_length)
    encoded = kind.encode(data.dev[part], fitted, limit, config.stride)
    check_ids(encoded, fitted, source.config, source.name, part)
    logits = desk.predict(source.model, encoded, f"{source.role} on {part}")
    check_finite(logits, source.name, source.role)
    return logits


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
