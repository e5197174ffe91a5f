"""Predictions of a file as the teacher: matched with the texts of a task, corrected, and mixed with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.config import DataConfig, Predictions
from tutelage.data.examples import Data, Examples, key_of, keys_of
from tutelage.data.given import task_name, titled
from tutelage.data.labels import class_counts, known_labels, no_labels
from tutelage.data.predicted import Compared, Predicted
from tutelage.data.readers.files import read_table
from tutelage.data.readers.table import FileTable, is_missing, shown
from tutelage.errors import TutelageError, option
from tutelage.tasks import cells, kind_of, known_kinds
from tutelage.tasks.kind import TextKind
from tutelage.tasks.prediction_columns import PredictionColumns, prediction_columns, separator_of
from tutelage.tasks.prediction_forms import PredictedValues, Values
from tutelage.tasks.tables import hold_out, inferred, read_labelled

PREFIX = "predicted"
"""Of the ids of texts that only the file of predictions has."""


@dataclass(frozen=True)
class PredictionFile:
    """A file of predictions, read but not understood yet."""

    path: Path
    columns: dict[str, list[Any]]
    texts: list[str]
    pairs: list[str] | None
    keys: list[str]
    """By which rows are matched: the texts with their spaces evened out, or the values of the column ``id``."""
    notes: list[str]
    """How the file was read, where there was a choice."""
    how: Predictions

    def table(self, config: DataConfig, labels: Sequence[str], separator: str | None = None) -> PredictionColumns:
        """The columns of predictions; ``separator`` is that of the labels of the task, which counts unless the file has another
        alone."""
        others = (config.text, config.text_pair, self.how.id)
        found = prediction_columns(self.path, self.columns, others, labels, self.how, config.label)
        return replace(found, separator=separator_of(found.rows, labels, separator))


def read_predictions_file(config: DataConfig) -> PredictionFile:
    """The file of predictions.

    Raises:
        TutelageError: it cannot be read, lacks a column, or a row has no text or id.
    """
    how = config.predictions
    assert how is not None
    wanted = (config.text, config.text_pair) if how.id is None else (how.id,)
    table = read_table(Path(how.file), [name for name in wanted if name is not None], config.header, whole=True)
    texts: Sequence[str] = []
    pairs: Sequence[str] | None = None
    if how.id is not None:
        keys = _identities(table, how.id)
    else:
        texts = table.texts(config.text, "text")
        pairs = None if config.text_pair is None else table.texts(config.text_pair, "text_pair")
        keys = [key_of(text, None if pairs is None else pairs[row]) for row, text in enumerate(texts)]
    rows = table.kept(config.skip_bad_rows)
    columns = {name: [values[row] for row in rows] for name, values in table.columns.items()}
    texts = [texts[row] for row in rows] if texts else []
    pairs = None if pairs is None else [pairs[row] for row in rows]
    return PredictionFile(table.path, columns, texts, pairs, [keys[row] for row in rows], table.said(), how)


def _identities(table: FileTable, name: str) -> list[str]:
    """A column of ids; a row without one is bad."""
    found = []
    for row, value in enumerate(table.column(name, "id")):
        if is_missing(value) or not str(value).strip():
            table.reject(row, "has no id")
        found.append(cells.class_name(value))
    return found


# ------------------------------------------------------------------------------------------ the file as training set


def data_from(source: PredictionFile, config: DataConfig) -> Data:
    """A task whose training texts are those of the file; their labels are its likeliest ones.

    Raises:
        TutelageError: as ``load_files``; or the file has no texts.
    """
    if source.how.id is not None:
        raise TutelageError(
            f"{source.path} is matched by the column {source.how.id!r}; give the texts with {option('train')} FILE"
        )
    kind = _kind(source, config)
    table = source.table(config, config.labels or ())
    answers = kind.read_predictions(table, config.labels or ())
    names, values = _averaged(source, answers)
    first = {key: row for row, key in reversed(list(enumerate(source.keys)))}
    whole = _texts_of(source, [first[name] for name in names], kind.likeliest(values))
    sources = {"train": f"{source.path.name}, the likeliest labels"}
    notes = [] if config.labels else _odd_classes(source.path, class_counts(whole.labels, answers.labels))
    if config.dev is None:
        train, held_out = hold_out(source.path, whole, 0)
        sources["dev"] = f"10% of {source.path.name}, held out, the likeliest labels"
    else:
        dev = Path(config.dev)
        held_out, origin, more = read_labelled(
            dev, "dev", config, kind, answers.labels, source.path.name, table.separator
        )
        scored = set(_keys(held_out, "dev", source, config))
        train = whole.take([row for row, name in enumerate(names) if name not in scored])
        sources["dev"], notes = origin, [*notes, *more]
        if not len(train):
            raise TutelageError(
                f"{source.path} has the texts of {titled(dev)} alone; give predictions for training texts"
            )
    return Data(
        task_name(source.path), kind.name, answers.labels, kind.metrics, train, {"dev": held_out}, sources=sources,
        notes=tuple(notes), separator=table.separator,
    )  # fmt: skip


def _odd_classes(path: Path, counts: Mapping[str, int]) -> list[str]:
    """A note on the classes that may be answers of another kind (a refusal): those in very few rows, and sentences among words."""
    if not counts:
        return []
    share, words = sum(counts.values()) / len(counts), sorted(len(name.split()) for name in counts)
    long = max(3, 2 * words[(len(words) - 1) // 2])
    odd = [name for name, count in counts.items() if count <= share / 10 or len(name.split()) > long]
    if not odd:
        return []
    rows = "; ".join(f"{shown(name)} {counts[name]:,}" for name in odd[:3]) + (
        f"; and {len(odd) - 3} more" if len(odd) > 3 else ""
    )
    return [
        f"{path.name}: classes in few rows, or sentences ({rows}); where these are no classes, name those that are with "
        f"{option('labels')}, "
        f"and leave other answers out with {option('settings')} predictions.unknown=drop"
    ]


def _kind(source: PredictionFile, config: DataConfig) -> TextKind:
    """The kind that is asked for; else what a column of numbers or labels is, and classes for all other forms."""
    if config.kind is not None:
        return _text_kind(config.kind, source.path)
    values = source.table(config, config.labels or ()).rows
    if config.labels or any(isinstance(value, list | dict) for value in values):
        return _text_kind("classification", source.path)
    return inferred(source.path, [value for value in cells.plain(values).values if value is not None])


def _text_kind(name: str, path: Path) -> TextKind:
    kind = kind_of(name)
    if not isinstance(kind, TextKind):
        able = ", ".join(one.name for one in known_kinds().values() if isinstance(one, TextKind))
        raise TutelageError(
            f"{path} has one prediction a text, and a task of kind {name} needs other answers; use one of {able}"
        )
    return kind


# -------------------------------------------------------------------------------------------- matched with a task


def with_predictions(data: Data, source: PredictionFile, config: DataConfig, *, labelled: bool) -> Data:
    """The task with the predictions of a file as the targets of its training texts.

    Texts that only the file has are trained on too. Texts of the evaluation set are not: their predictions are compared with
    the labels.

    Args:
        data: The task, its unlabelled texts read.
        source: The file.
        config: The settings.
        labelled: The labels of train are not the file's own.

    Raises:
        TutelageError: as :func:`read_predictions_file`; the file knows none of the texts or few; or an option does not fit.
    """
    kind, how = _text_kind(data.kind, source.path), source.how
    answers = kind.read_predictions(source.table(config, data.labels, data.separator), data.labels)
    _check_options(answers, how, kind)
    names, values = _averaged(source, answers)
    row_of = {name: row for row, name in enumerate(names)}
    keys = {part: _keys(examples, part, source, config) for part, examples in _parts(data).items()}
    if how.id is not None:
        _check_ids(how.id, _parts(data), keys)
    texts, found, counts = _gathered(data, source, names, keys, labelled)
    at = np.array([row_of.get(key, -1) for key in found])
    usable = (at >= 0) | (texts.labelled if labelled else False)
    _check_matched(source, texts, at)
    said = np.where((at >= 0)[:, None], values[np.maximum(at, 0)], np.nan)
    said, options = _corrected(said, data, how, kind, labelled)
    gold = kind.as_outputs(texts.labels, values.shape[1]) if labelled else np.full_like(said, np.nan)
    targets = _mixed(said, gold, how.gold)[usable]
    if answers.missing > 0.001:
        options["missing mass"] = f"{answers.missing:.1%} on average, {how.missing}"
    if labelled and how.gold:
        options["labels"] = f"{how.gold:g} of the target of texts that have both"
    weights = entropy_weights(targets) if how.weights == "entropy" else None
    if weights is not None:
        options["weights"] = f"entropy, from {weights.min():.2f} to {weights.max():.2f}"
    counts |= {
        "repeated": int(answers.given.sum()) - len(names),
        "without a prediction": int((~answers.given).sum()),
        "unknown answers": answers.unknown.total(),
        "texts without a prediction": int((at < 0).sum()),
    }
    ids = [name for name, good in zip(texts.ids, usable, strict=True) if good]
    predicted = Predicted(
        file=source.how.file,
        form=answers.form,
        columns=answers.columns,
        rows=len(source.keys),
        row_of={name: row for row, name in enumerate(ids)},
        targets=kind.logits_of(targets),
        answers=_with_gaps(kind, said[usable]),
        weights=weights,
        labelled=int(data.train.labelled.sum()) if labelled else 0,
        options=options,
        counts={name: count for name, count in counts.items() if count},
        agreement=_agreement(data, _labelled_parts(data, config, labelled), keys, row_of, values, kind),
    )
    return _with_texts(data, source, predicted, texts, usable)


def _gathered(
    data: Data, source: PredictionFile, names: Sequence[str], keys: dict[str, list[str]], labelled: bool
) -> tuple[Examples, list[str], dict[str, int]]:
    """All training texts, those that only the file has at the end; what each is matched by; and what became of other rows."""
    own = {*keys["train"], *keys.get("unlabeled", ())}
    evaluated = {key for part in data.dev for key in keys[part]} - own
    rest = [name for name in names if name not in own and name not in evaluated] if labelled else []
    found = [*keys["train"], *keys.get("unlabeled", ())]
    split_off = any(name.startswith(PREFIX) for part in data.dev.values() for name in part.ids)
    counts = {"of the evaluation set": 0 if split_off else sum(name in evaluated for name in names)}
    texts = data.train if data.unlabeled is None else data.train.join(data.unlabeled)
    if not rest:
        return texts, found, counts
    if source.how.id is not None:
        return texts, found, {**counts, "of no text": len(rest)}
    if (source.pairs is None) != (data.train.pairs is None):
        how = "pairs of texts; set text_pair" if data.train.pairs is not None else "single texts; leave out text_pair"
        raise TutelageError(f"{source.path}: the task {data.task!r} has {how}")
    first = {key: row for row, key in reversed(list(enumerate(source.keys)))}
    rows = [first[name] for name in rest]
    return texts.join(_texts_of(source, rows, no_labels(data.train.labels, len(rows)))), [*found, *rest], counts


def _texts_of(source: PredictionFile, rows: Sequence[int], labels: Any) -> Examples:
    pairs = None if source.pairs is None else [source.pairs[row] for row in rows]
    return Examples([f"{PREFIX}/{row}" for row in rows], [source.texts[row] for row in rows], pairs, labels)


def _with_gaps(kind: TextKind, values: Values) -> npt.NDArray[np.float32]:
    """Logits, ``nan`` in rows of ``nan``."""
    gaps = np.isnan(values)
    logits = kind.logits_of(np.where(gaps, 0.5, values))
    logits[gaps.any(axis=1)] = np.nan
    return logits


def _with_texts(
    data: Data, source: PredictionFile, predicted: Predicted, texts: Examples, usable: npt.NDArray[np.bool_]
) -> Data:
    """The task with those of the texts that have a target; the first are those of train."""
    count, before = len(data.train), 0 if data.unlabeled is None else len(data.unlabeled)
    train, others = np.flatnonzero(usable[:count]), np.flatnonzero(usable[count:]) + count
    sources = dict(data.sources)
    if len(texts) > count + before:
        sources["unlabeled"] = ", ".join(filter(None, (sources.get("unlabeled"), source.path.name)))
    return replace(
        data,
        train=data.train if len(train) == count else data.train.take(train),
        unlabeled=texts.take(others) if len(others) else None,
        notes=(*data.notes, *source.notes),
        sources=sources,
        predicted=predicted,
    )


def _parts(data: Data) -> dict[str, Examples]:
    unlabeled = {} if data.unlabeled is None else {"unlabeled": data.unlabeled}
    return {"train": data.train, **unlabeled, **data.dev}


def _check_options(answers: PredictedValues, how: Predictions, kind: TextKind) -> None:
    """See that options that work on probabilities find some."""
    for name, given in (("prior", how.prior is not None), ("weights", how.weights != "equal")):
        if given and not kind.single_label:
            raise TutelageError(f"predictions.{name} is for one class a text, and this is a {kind.name}; leave it out")
        if given and answers.hard:
            raise TutelageError(
                f"predictions.{name} changes nothing where each text has one label without a probability ({answers.path}); leave "
                "it out, or give probabilities or votes"
            )


def _averaged(source: PredictionFile, answers: PredictedValues) -> tuple[list[str], Values]:
    """The keys that have predictions, in their order, and the mean of the predictions of each."""
    rows = np.flatnonzero(answers.given)
    keys = [source.keys[row] for row in rows]
    names = list(dict.fromkeys(keys))
    number = {name: place for place, name in enumerate(names)}
    of = np.array([number[key] for key in keys])
    total = np.zeros((len(names), answers.values.shape[1]))
    np.add.at(total, of, answers.values[rows])
    return names, total / np.bincount(of, minlength=len(names))[:, None]


def _keys(examples: Examples, part: str, source: PredictionFile, config: DataConfig) -> list[str]:
    """What the examples are matched by."""
    how = source.how
    if how.id is None:
        return list(keys_of(examples))
    place = {"train": config.train, "dev": config.dev or config.train, "unlabeled": config.unlabeled}.get(part)
    if place is None:
        raise TutelageError(
            f"predictions.id names a column of your own files; give {option('train')} FILE, or match by text"
        )
    table = read_table(Path(place), (how.id,), config.header)
    # An id of an example has the number of its row, whatever was left out.
    found = _identities(table, how.id)
    return [found[int(name.rpartition("/")[2])] for name in examples.ids]


def _check_ids(column: str, parts: Mapping[str, Examples], keys: Mapping[str, list[str]]) -> None:
    """See that no id is of two texts, in one file or in two.

    Raises:
        TutelageError: one is.
    """
    first: dict[str, tuple[str, str]] = {}
    for part, examples in parts.items():
        for name, text in zip(keys[part], keys_of(examples), strict=True):
            where, other = first.setdefault(name, (part, text))
            if text != other:
                raise TutelageError(
                    f"predictions.id={column}: the id {name!r} is of two texts, {shown(other)} ({where}) and {shown(text)} "
                    f"({part}); give each text an id of its own in all files, or leave predictions.id out to match rows by text"
                )


def _check_matched(source: PredictionFile, texts: Examples, at: npt.NDArray[np.int64]) -> None:
    """See that most of what is trained on has a prediction: otherwise the texts do not match.

    Raises:
        TutelageError: half of the texts or more have none.
    """
    lacking = np.flatnonzero(at < 0)
    if 2 * len(lacking) >= len(at):
        by = "text" if source.how.id is None else f"the column {source.how.id!r}"
        raise TutelageError(
            f"{source.path} has no prediction for {len(lacking):,} of {len(at):,} training texts (the first: "
            f"{shown(texts.texts[lacking[0]])}); rows are matched by {by}: compare the files, or leave out texts without one"
        )


# ------------------------------------------------------------------------------------------------------- corrections


def _corrected(
    values: Values, data: Data, how: Predictions, kind: TextKind, labelled: bool
) -> tuple[Values, dict[str, str]]:
    """The predictions after the correction to a prior."""
    if how.prior is None:
        return values, {}
    classes = len(data.labels)
    if how.prior == "uniform":
        prior = np.full(classes, 1 / classes)
    elif how.prior == "data":
        if not labelled:
            raise TutelageError(
                f"predictions.prior=data takes the class frequencies of labelled rows; give some with {option('train')}"
            )
        prior = np.bincount(data.train.labels[data.train.labelled], minlength=classes) + 1.0
    else:
        prior = np.array(how.prior, dtype=np.float64)
        if len(prior) != classes or (prior < 0).any() or not prior.sum():
            raise TutelageError(
                f"{option('prior')} has {len(prior)} numbers; give uniform, data, or a frequency for each of the {classes} "
                "labels in this "
                f"order: {', '.join(data.labels[:6])}{' ...' if classes > 6 else ''}"
            )
    return with_prior(values, prior / prior.sum()), {"prior": str(how.prior) if isinstance(how.prior, str) else "given"}


def with_prior(values: Values, prior: Values) -> Values:
    """``p(y|x) prior(y) / mean p(y)``, scaled to sum to 1; rows of ``nan`` stay.

    Shapes: values ``(n, classes)``, prior ``(classes,)``.
    """
    marginal = np.nanmean(values, axis=0)
    factor = np.divide(prior, marginal, out=np.zeros_like(prior), where=marginal > 0)
    changed = values * factor
    total = changed.sum(axis=1, keepdims=True)
    return np.where(total > 0, changed / np.where(total > 0, total, 1), values)


def entropy_weights(values: Values) -> npt.NDArray[np.float32]:
    """``(n,)``: ``1 - H(p) / log(classes)``, scaled to mean 1. A file of uniform distributions gives equal weights."""
    logs = np.log(np.where(values > 0, values, 1.0))
    weights = np.clip(1 + (values * logs).sum(axis=1) / np.log(values.shape[1]), 0.0, 1.0)
    mean = weights.mean()
    return np.asarray(weights / mean if mean > 0 else np.ones_like(weights), dtype=np.float32)


def _mixed(said: Values, gold: Values, share: float) -> Values:
    """The targets: what the file says, with ``share`` of the label where there is one; the label where the file says nothing."""
    both = (1 - share) * said + share * gold
    return np.where(np.isnan(said), gold, np.where(np.isnan(gold), said, both))


def _labelled_parts(data: Data, config: DataConfig, labelled: bool) -> dict[str, Examples]:
    """The parts whose labels are not the file's own."""
    if labelled:
        return {"train": data.train, **data.dev}
    return {} if config.dev is None else data.dev


def _agreement(
    data: Data,
    parts: dict[str, Examples],
    keys: dict[str, list[str]],
    row_of: dict[str, int],
    values: Values,
    kind: TextKind,
) -> dict[str, Compared]:
    """How the predictions agree with the labels of these parts."""
    found = {}
    for part, examples in parts.items():
        known = known_labels(examples.labels)
        rows = [row for row, key in enumerate(keys[part]) if known[row] and key in row_of]
        if len(rows) < 2:
            continue
        logits = kind.logits_of(values[[row_of[keys[part][row]] for row in rows]])
        labels = examples.labels[rows]
        scores = kind.score(data.metrics, logits, labels, data.positive)
        constant = {name: kind.chance(name, labels, data.positive) for name in data.metrics}
        found[part] = Compared(scores, constant, len(rows))
    return found
