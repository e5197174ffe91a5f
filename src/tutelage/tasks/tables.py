"""Tables of texts and labels (the user's own files) as the data of a task, whichever kind has one answer for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.examples import Data, Examples
from tutelage.data.labels import Labels, no_labels, strata
from tutelage.data.readers.files import ending_of, read_columns, read_lines, texts_of
from tutelage.errors import TutelageError
from tutelage.tasks import KINDS, kind_of
from tutelage.tasks.kind import TextKind


def load_files(
    train: Path,
    dev: Path | None,
    unlabeled: Path | None,
    text: str,
    pair: str | None,
    label: str,
    kind: str | None = None,
    labels: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Data:
    """One task from files that end in .csv, .tsv, .jsonl, .json (each also with .gz) or .parquet.

    ``text``, ``pair`` and ``label`` name columns. Without ``kind`` the labels of train decide: lists are multi-label,
    numbers of which any is not whole are regression, the rest is classification. Multi-label strings are split at
    ``|``; an empty one is an example with none of the labels. The classes are ``labels`` if given (regression ignores
    it), else those that occur in train, sorted. Labels are ``(n,)`` int64, ``(n,)`` float32 for regression or
    ``(n, classes)`` float32 for multi-label data. Without ``dev`` a tenth of train is held out by ``seed``, in
    proportion to the classes or spread over the scores; its examples keep their ids.

    Raises:
        TutelageError: a file is missing, is a directory, has another ending, is not UTF-8, cannot be read, has no rows
            or lacks a column; a row has no text, no label, a score that is not a number or a label that is not among
            the classes; there are fewer than two classes; or train is too small to hold out dev.
    """
    columns = read_columns(train, {"text": text, "text_pair": pair, "label": label})
    how = _inferred(columns["label"]) if kind is None else kind_of(kind)
    if not isinstance(how, TextKind):
        raise TutelageError(f"a task of kind {kind} is not read from a table ({train}); give it in a format of its own")
    found = how.classes_in(train, columns["label"])
    names = (labels or found) if found else ()
    origin = "the given list of labels" if labels else str(train)
    whole = _examples("train", train, columns, how.labels_in(train, columns["label"], names, origin))
    sources = {"train": train.name}
    if dev is None:
        part, held_out = _hold_out(train, whole, seed)
        sources["dev"] = "10% of train, held out"
    else:
        columns = read_columns(dev, {"text": text, "text_pair": pair, "label": label})
        part, held_out = whole, _examples("dev", dev, columns, how.labels_in(dev, columns["label"], names, origin))
        sources["dev"] = dev.name
    task = train.name.removesuffix(".gz").rpartition(".")[0]
    data = Data(task, how.name, names, how.metrics, part, {"dev": held_out}, sources=sources)
    if unlabeled is None:
        return data
    sources["unlabeled"] = unlabeled.name
    return replace(data, unlabeled=read_unlabeled(unlabeled, text, pair, data), sources=sources)


def read_unlabeled(path: Path, text: str, pair: str | None, like: Data) -> Examples:
    """Texts without labels, for the task of ``like``; duplicates are kept.

    The file is as for :func:`load_files`, or .txt (also with .gz): one text a line, blank lines left out. Labels are
    those of no label: ``(n,)`` -1, for regression ``(n,)`` nan, for multi-label data ``(n, classes)`` nan.

    Raises:
        TutelageError: as :func:`load_files`, or the file has pairs and ``like`` has none, or the other way round.
    """
    lines = ending_of(path) == ".txt"
    has_pairs = like.train.pairs is not None
    if has_pairs and (lines or pair is None):
        remedy = "give a file with columns" if lines else "set text_pair to a column"
        raise TutelageError(f"{path}: task {like.task} has pairs of texts; {remedy}")
    if pair is not None and not has_pairs:
        raise TutelageError(f"{path}: task {like.task} has single texts; leave out text_pair ({pair!r})")
    columns = {"text": read_lines(path)} if lines else read_columns(path, {"text": text, "text_pair": pair})
    count = len(columns["text"])
    return _examples("unlabeled", path, columns, no_labels(like.train.labels, count))


def _inferred(values: Sequence[Any]) -> TextKind:
    """The kind of task that a column of labels is of."""
    return next(kind for kind in KINDS.values() if isinstance(kind, TextKind) and kind.fits(values))


def _examples(part: str, path: Path, columns: dict[str, list[Any]], labels: Labels) -> Examples:
    texts = texts_of(path, "text", columns)
    pairs = texts_of(path, "text_pair", columns) if "text_pair" in columns else None
    return Examples([f"{part}/{i}" for i in range(len(texts))], texts, pairs, labels)


def _hold_out(path: Path, whole: Examples, seed: int) -> tuple[Examples, Examples]:
    """Every tenth of the examples in the order of their labels; of a class with one example, none."""
    order = np.random.default_rng([seed, 0xDE7]).permutation(len(whole))
    if whole.labels.ndim == 1:
        order = order[np.argsort(whole.labels[order], kind="stable")]
    held = np.zeros(len(whole), dtype=bool)
    held[order[4::10]] = True
    group_of = strata(whole.labels)
    held &= np.bincount(group_of)[group_of] > 1
    if not held.any():
        raise TutelageError(f"{path}: {len(whole)} rows are too few to hold out some as dev; give a dev file")
    return whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
