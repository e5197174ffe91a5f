"""Tables of texts and labels (the user's own files) as the data of a task, whichever kind has one answer for each text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples
from tutelage.data.given import task_name, titled
from tutelage.data.labels import no_labels, strata
from tutelage.data.mapped import held, taken
from tutelage.data.readers.files import ending_of, read_lines, read_table
from tutelage.data.readers.table import FileTable, listed, shown
from tutelage.errors import TutelageError, option
from tutelage.tasks import KINDS, cells, kind_of
from tutelage.tasks.kind import TextKind

SCORED = "scores need labels; add a column of them"
"""A remedy for an evaluation file of texts alone."""


def _taught() -> str:
    """A remedy for a training file of texts alone. It names the command, because others have no such options."""
    return (
        f"labels are needed here; add a column of them (distill takes texts without labels, too: as {option('unlabeled')} beside "
        f"labelled ones, or with {option('teacher_predictions')})"
    )


def load_files(config: DataConfig, known: Sequence[str] = (), seed: int = 0) -> Data:
    """One task from files that end in .csv, .tsv, .jsonl, .json (each also with .gz) or .parquet.

    Without ``config.kind`` the labels of train decide: lists are multi-label, numbers of which any is not whole are regression,
    the rest is classification. The classes are ``config.labels`` if given; else ``known``, if these are the labels of train;
    else those that occur in train, sorted. Labels are ``(n,)`` int64, ``(n,)`` float32 for regression or ``(n, classes)``
    float32 for multi-label data. Without ``config.dev`` a tenth of train is held out by ``seed``, in proportion to the classes
    or spread over the scores. An example's id has the number of its row, from 0, whatever is left out.

    Raises:
        TutelageError: as :func:`read_table`; a column is missing; a row is bad and ``config.skip_bad_rows`` is not set; there are
            fewer than two classes, or labels that may be several things; or train is too small to hold out dev.
    """
    assert config.train is not None
    train, dev = Path(config.train), None if config.dev is None else Path(config.dev)
    kind = None if config.kind is None else kind_of(config.kind)
    if kind is not None and not isinstance(kind, TextKind):
        raise TutelageError(
            f"a task of kind {kind.name} is not read from a table ({titled(train)}); give it in a format of its own"
        )
    part = _read(train, config, None, SCORED if dev == train else _taught())
    how = kind or inferred(titled(train), part.column.values)
    part.answer(how)
    part.table.check(config.skip_bad_rows)
    classes = _classes(part, how, config.labels or (), known)
    whole = part.examples("train", how, classes, config)
    notes, sources = part.table.said(), {"train": part.table.source}
    if dev is None:
        learnt, held_out = hold_out(titled(train), whole, seed)
        sources["dev"] = "10% of train, held out"
    elif dev == train:  # an evaluation alone
        learnt, held_out = whole, replace(whole, ids=held(name.replace("train", "dev", 1) for name in whole.ids))
        sources["dev"] = part.table.source
    else:
        other = _read(dev, config, part.column, SCORED)
        other.answer(how)
        learnt, held_out = whole, other.examples("dev", how, classes, config)
        notes, sources["dev"] = notes + other.table.said(), other.table.source
    names = () if classes is None else classes.names
    return Data(
        task_name(train), how.name, names, how.metrics, learnt, {"dev": held_out}, sources=sources, notes=tuple(notes),
        separator=part.column.separator,
    )  # fmt: skip


def read_unlabeled(path: Path, config: DataConfig, like: Data) -> tuple[Examples, str, list[str]]:
    """Texts without labels for the task of ``like``, where they came from in words, and notes; duplicates are kept.

    The file is as for :func:`load_files`, or .txt (also with .gz): one text a line, blank lines left out. Labels are
    those of no label: ``(n,)`` -1, for regression ``(n,)`` nan, for multi-label data ``(n, classes)`` nan.

    Raises:
        TutelageError: as :func:`load_files`, or the file has pairs and ``like`` has none, or the other way round.
    """
    text, pair, lines = config.text, config.text_pair, ending_of(path) == ".txt"
    has_pairs = like.train.pairs is not None
    if has_pairs and (lines or pair is None):
        remedy = "give a file with columns" if lines else f"set {option('text_pair')} to a column"
        raise TutelageError(f"{titled(path)}: task {like.task} has pairs of texts; {remedy}")
    if pair is not None and not has_pairs:
        raise TutelageError(
            f"{titled(path)}: task {like.task} has single texts; leave out {option('text_pair')} ({pair!r})"
        )
    wanted = [name for name in (text, pair) if name is not None]
    table = read_lines(path) if lines else read_table(path, wanted, config.header)
    texts = table.texts("text" if lines else text, "text")
    pairs = None if pair is None else table.texts(pair, "text_pair")
    rows = table.kept(config.skip_bad_rows)
    none = no_labels(like.train.labels, len(rows))
    return _examples("unlabeled", rows, texts, pairs, none), table.source, table.said()


def read_labelled(
    path: Path,
    part: str,
    config: DataConfig,
    how: TextKind,
    names: Sequence[str],
    origin: str,
    separator: str | None = None,
) -> tuple[Examples, str, list[str]]:
    """Labelled texts of a task whose classes are known (and the ``separator`` of several): where they came from in words, and
    notes.

    Raises:
        TutelageError: as :func:`load_files`.
    """
    read = _read(path, config, cells.LabelColumn([], separator=separator), SCORED)
    read.answer(how)
    classes = cells.named(read.table.path, read.spelt(), names, origin) if how.named else None
    examples = read.examples(part, how, classes, config)
    return examples, read.table.source, read.table.said()


def _examples(
    part: str, rows: Sequence[int], texts: Sequence[str], pairs: Sequence[str] | None, labels: Any
) -> Examples:
    return Examples(
        ids=held(f"{part}/{row}" for row in rows),
        texts=taken(texts, rows),
        pairs=None if pairs is None else taken(pairs, rows),
        labels=labels,
    )


@dataclass
class _Part:
    """A file on its way to examples."""

    table: FileTable
    texts: Sequence[str]
    pairs: Sequence[str] | None
    column: cells.LabelColumn
    answers: list[Any]
    """What each label says; ``None`` in bad rows."""

    def answer(self, how: TextKind) -> None:
        """Read the labels as those of a kind; a row whose label cannot be read is bad."""
        values, notes = how.prepared(self.column.values, self.column.separator)
        self.table.notes += notes
        once: dict[Any, Any] = {}  # rows of one class share its tuple
        for row, value in enumerate(values):
            if row not in self.table.bad:
                try:
                    answer = how.answer(value)
                except cells.Unreadable as why:
                    self.table.reject(row, str(why))
                else:
                    self.answers[row] = once.setdefault(answer, answer) if isinstance(answer, tuple) else answer

    def spelt(self) -> Counter[str]:
        """How often each class is named."""
        return Counter(name for names in self.answers if names is not None for name in names)

    def examples(self, part: str, how: TextKind, classes: cells.Classes | None, config: DataConfig) -> Examples:
        """The good rows; a row whose class is none of ``classes`` is bad."""
        if classes is not None:
            self.table.notes += classes.renamed(self.spelt())
            lacking = f", which {classes.origin} lacks (it has {listed(classes.names)})"
            once: dict[tuple[str, ...], list[int | None]] = {}
            for row, found in enumerate(self.answers):
                names = () if found is None else tuple(found)
                places = once.get(names)
                if places is None:
                    places = once[names] = [classes.place(name) for name in names]
                if None in places:
                    unknown = names[places.index(None)]
                    self.table.reject(row, f"has label {shown(unknown)}{lacking}")
                    lacking = ", another"  # said once
                self.answers[row] = places
        rows = self.table.kept(config.skip_bad_rows)
        count = 0 if classes is None else len(classes.names)
        if how.single_label and len(rows) > 40 and 2 * count > len(rows):
            self.table.notes.append(
                f"{count} classes for {len(rows)} texts: is the label another column ({option('label')}), or a number "
                f"({option('kind')} regression)?"
            )
        if how.named and (none := sum(not self.answers[row] for row in rows)):
            self.table.notes.append(f"{none:,} row{' has' if none == 1 else 's have'} no class")
        labels = how.labels_of([self.answers[row] for row in rows], count)
        return _examples(part, rows, self.texts, self.pairs, labels)


def _read(path: Path, config: DataConfig, like: cells.LabelColumn | None, unlabelled: str) -> _Part:
    """A file's columns; ``like`` is the column of labels of the training file, ``unlabelled`` the remedy for texts alone."""
    wanted = [name for name in (config.text, config.text_pair, config.label) if name is not None]
    table = read_table(path, wanted, config.header)
    texts = table.texts(config.text, "text")
    pairs = None if config.text_pair is None else table.texts(config.text_pair, "text_pair")
    several = config.kind is not None and kind_of(config.kind).several
    column = cells.plain(table.column(config.label, "label", unlabelled), like, several=several)
    width = None if like is None else like.width
    if width is not None and column.width != width:
        raise TutelageError(
            f"{table.path}: labels are not lists of {width} zeros and ones, as those of train; write them so"
        )
    for row, why in column.bad.items():
        table.reject(row, why)
    table.notes += column.notes
    return _Part(table, texts, pairs, column, [None] * table.count)


def inferred(path: Path, values: Sequence[Any]) -> TextKind:
    """The kind of task that a column of labels is of.

    Raises:
        TutelageError: it may be of two.
    """
    how = next(kind for kind in KINDS.values() if isinstance(kind, TextKind) and kind.fits(values))
    if how.single_label and (several := cells.separated(values)) is not None:
        separator, example, count = several
        raise TutelageError(
            f"{path}: {count:,} labels contain {separator!r}, such as {shown(example)}; pass {option('kind')} multilabel to "
            "read several "
            f"classes from each, or {option('kind')} classification to keep them whole"
        )
    return how


def _classes(part: _Part, how: TextKind, given: Sequence[str], known: Sequence[str]) -> cells.Classes | None:
    """The classes of a task; ``None`` where answers are none."""
    path, width = part.table.path, part.column.width
    if not how.named:
        if given:
            raise TutelageError(
                f"{option('labels')} names classes, and the labels of {path} are a {how.name}; leave it out"
            )
        return None
    spelt = part.spelt()
    if width is not None:
        names = given or (known if len(known) == width else [str(place) for place in range(width)])
        if len(names) != width:
            raise TutelageError(
                f"{path}: labels are {width} zeros and ones, {option('labels')} names {len(names)}; name {width}"
            )
        by_place = {place: place for place in range(width)} if given or names is known else None
        return cells.Classes(tuple(names), option("labels") if given else "the model", by_place)
    if given:
        return cells.named(path, spelt, given, option("labels"))
    if known and (classes := cells.fitting(path, spelt, known)) is not None:
        return classes
    return cells.found_classes(path, spelt)


def hold_out(path: Path, whole: Examples, seed: int) -> tuple[Examples, Examples]:
    """Every tenth of the examples in the order of their labels; of a class with one example, none."""
    order = np.random.default_rng([seed, 0xDE7]).permutation(len(whole))
    group_of = strata(whole.labels)
    if whole.labels.ndim == 1:
        by = group_of if whole.labels.dtype.kind == "i" else whole.labels
        order = order[np.argsort(by[order], kind="stable")]
    held = np.zeros(len(whole), dtype=bool)
    held[order[4::10]] = True
    held &= np.bincount(group_of)[group_of] > 1
    if not held.any():
        raise TutelageError(f"{path}: {len(whole)} rows are too few to hold out some as dev; give a dev file")
    return whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
