"""The data that a configuration names: loaded, cut and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tutelage import memory
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples, hashed_keys
from tutelage.data.given import titled
from tutelage.data.labels import listed, places_of
from tutelage.data.parts import part_of
from tutelage.data.readers.conll import load_conll
from tutelage.data.readers.docstrings import demo_data
from tutelage.data.readers.glue import load_glue
from tutelage.data.readers.squad import load_squad
from tutelage.errors import TutelageError, option
from tutelage.tasks import kind_of
from tutelage.tasks.kind import TextKind
from tutelage.tasks.predictions import data_from, read_predictions_file, with_predictions
from tutelage.tasks.tables import load_files, read_unlabeled

ReadData = Callable[[DataConfig], Data]
"""As :func:`load_data`; one that reads the same texts once serves several runs."""


@memory.uncollected()
def load_data(config: DataConfig, known: Sequence[str] = ()) -> Data:
    """The data that a configuration names. ``known`` are the classes of a model, for files that need not show them all.

    Raises:
        TutelageError: for anything missing, malformed or contradictory.
    """
    if config.task is not None and (config.train is not None or config.dev is not None):
        raise TutelageError(
            f"{option('task')} and {option('train')}/{option('dev')} exclude each other: a task by name, or files of your own"
        )
    kind = None if config.kind is None else kind_of(config.kind)
    folder = Path(config.data_dir) if config.data_dir else None
    predictions = None if config.predictions is None else read_predictions_file(config)
    named = "".join(filter(str.isalnum, (config.task or "").lower()))
    if config.task == "docstrings":
        data = demo_data()
    elif named in ("squad", "squad2"):
        data = load_squad("squad" if named == "squad" else "squad2", folder)
    elif named == "conll2003":
        data = load_conll(folder)
    elif config.task is not None:
        data = load_glue(config.task, folder)
    elif config.train is not None:
        train, dev = Path(config.train), Path(config.dev) if config.dev else None
        own = None if kind is None else kind.read(train, dev, config)
        data = own or load_files(config, known)
    elif predictions is not None:
        data = data_from(predictions, config)
    else:
        more = (
            f"; texts without labels ({option('unlabeled')}) go beside labelled rows, or with predictions "
            f"({option('teacher_predictions')} FILE)"
        )
        what = "texts" if config.dev is None else "training texts"
        raise TutelageError(
            f"there are no {what}; give {option('task')} NAME or {option('train')} FILE{more if config.unlabeled else ''}"
        )
    if kind is not None and kind.name != data.kind:
        raise TutelageError(
            f"the task {config.task!r} is of kind {data.kind}, not {kind.name}; leave out {option('kind')}, or give its texts "
            f"with {option('train')}"
        )
    if config.labels is not None and data.labels != config.labels:
        data = _renumbered(data, config.labels)
    if config.max_train is not None and config.max_train < len(data.train):
        rows = np.sort(np.random.default_rng(0).permutation(len(data.train))[: config.max_train])
        source = f"{data.sources.get('train', 'train')}, cut to {config.max_train:,} rows"
        data = replace(data, train=data.train.take(rows), sources={**data.sources, "train": source})
    for given, taken in ((config.leave_out, False), (config.only, True)):
        if given is not None:
            part, parts = given
            rows = np.flatnonzero((part_of(data.train, parts) == part) == taken)
            source = f"{data.sources.get('train', 'train')}, {'only' if taken else 'without'} part {part} of {parts}"
            data = replace(data, train=data.train.take(rows), sources={**data.sources, "train": source})
    if config.noise:
        source = f"{data.sources.get('train', 'train')}, {config.noise:.0%} of the labels wrong on purpose"
        data = replace(data, train=_mislabelled(data, config.noise), sources={**data.sources, "train": source})
    if config.unlabeled is not None:
        if not kind_of(data.kind).takes_unlabelled:
            raise TutelageError(
                f"unlabelled texts cannot be read for a task of kind {data.kind}; leave out {option('unlabeled')}"
            )
        # GLUE's columns have names of their own, which a file of the user's need not share.
        texts, source, notes = read_unlabeled(Path(config.unlabeled), config, data)
        texts, left_out = _without_evaluated(texts, data, Path(config.unlabeled))
        sources = {**data.sources, "unlabeled": source}
        data = replace(data, unlabeled=texts, sources=sources, notes=(*data.notes, *notes, *left_out))
    if config.metric is not None:
        data = _led_by(data, config.metric)
    if predictions is not None:
        labelled = config.task is not None or config.train is not None
        data = with_predictions(data, predictions, config, labelled=labelled)
    return data


def _without_evaluated(texts: Examples, data: Data, path: Path) -> tuple[Examples, list[str]]:
    """Unlabelled texts without those of the evaluation set, which training must not see; and a note on these.

    Raises:
        TutelageError: no others are left.
    """
    evaluated = np.concatenate([hashed_keys(part) for part in data.dev.values()])
    kept = np.flatnonzero(~np.isin(hashed_keys(texts), evaluated))
    if not len(kept):
        raise TutelageError(
            f"{titled(path)} has texts of the evaluation set alone, which are not trained on; leave it out"
        )
    if len(kept) == len(texts):
        return texts, []
    count = f"{len(texts) - len(kept):,} of {len(texts):,}"
    return texts.take(kept), [f"{titled(path).name}: left out {count} texts because they are in the evaluation set"]


def _led_by(data: Data, metric: str) -> Data:
    """The data with this metric first."""
    kind = kind_of(data.kind)
    known = kind.known_metrics if isinstance(kind, TextKind) else data.metrics
    if metric not in known or (metric == "f1" and len(data.labels) > 2):
        usable = [name for name in known if name != "f1" or len(data.labels) == 2]
        raise TutelageError(
            f"{option('metric')} {metric}: a task of kind {kind.name} has {', '.join(usable)}; use one of these"
        )
    others = tuple(name for name in data.metrics if name != metric)
    return replace(data, metrics=(metric, *others), selected_by=(metric,))


def _renumbered(data: Data, labels: tuple[str, ...]) -> Data:
    """The data with its classes in the order of ``labels``, which may name more."""
    if not data.labels:
        raise TutelageError(
            f"{option('labels')} names classes, and the task {data.task!r} is of kind {data.kind}; leave it out"
        )
    places = places_of(data.labels, labels)
    if places is None:
        raise TutelageError(
            f"{option('labels')} names {listed(labels)}, the task {data.task!r} has {listed(data.labels)}; name each of these"
        )
    spelt = dict(zip(places, data.labels, strict=True))
    return data.with_labels(tuple(spelt.get(place, name) for place, name in enumerate(labels)))


def _mislabelled(data: Data, share: float) -> Examples:
    """Train with so many wrong labels."""
    if not kind_of(data.kind).classifies_texts:
        raise TutelageError(f"data.noise changes classes, and {data.task!r} is a {data.kind}; leave it out")
    generator = np.random.default_rng([0, 0x401E])
    labels, classes = data.train.labels.copy(), len(data.labels)
    wrong = generator.permutation(np.flatnonzero(labels >= 0))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + generator.integers(1, classes, len(wrong))) % classes
    return replace(data.train, labels=labels)
