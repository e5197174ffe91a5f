"""The user's own data: CSV, TSV, JSON lines and Parquet files with a column of text and one of labels."""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import gzip
import math
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.examples import Data, Examples, Kind
from tutelage.errors import TutelageError

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "multilabel": ("micro_f1", "macro_f1"),
}


_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def load_files(
    train: Path,
    dev: Path | None,
    unlabeled: Path | None,
    text: str,
    pair: str | None,
    label: str,
    kind: Kind | None = None,
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
    columns = _columns(train, {"text": text, "text_pair": pair, "label": label})
    kind = kind or _infer_kind(columns["label"])
    found = _classes(train, columns["label"], kind)
    names = () if kind == "regression" else labels or found
    origin = "the given list of labels" if labels else str(train)
    whole = _examples("train", train, columns, _labels(train, columns["label"], kind, names, origin))
    sources = {"train": train.name}
    if dev is None:
        part, held_out = _hold_out(train, whole, kind, seed)
        sources["dev"] = "10% of train, held out"
    else:
        columns = _columns(dev, {"text": text, "text_pair": pair, "label": label})
        part, held_out = whole, _examples("dev", dev, columns, _labels(dev, columns["label"], kind, names, origin))
        sources["dev"] = dev.name
    task = train.name.removesuffix(".gz").rpartition(".")[0]
    data = Data(task, kind, names, METRICS[kind], part, {"dev": held_out}, sources=sources)
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
    lines = _ending(path) == ".txt"
    has_pairs = like.train.pairs is not None
    if has_pairs and (lines or pair is None):
        remedy = "give a file with columns" if lines else "set text_pair to a column"
        raise TutelageError(f"{path}: task {like.task} has pairs of texts; {remedy}")
    if pair is not None and not has_pairs:
        raise TutelageError(f"{path}: task {like.task} has single texts; leave out text_pair ({pair!r})")
    columns = {"text": _read_lines(path)} if lines else _columns(path, {"text": text, "text_pair": pair})
    texts = _texts(path, "text", columns)
    pairs = _texts(path, "text_pair", columns) if has_pairs else None
    labels: npt.NDArray[Any] = np.full(len(texts), -1, dtype=np.int64)
    if like.kind != "classification":
        shape = (len(texts), len(like.labels)) if like.kind == "multilabel" else (len(texts),)
        labels = np.full(shape, np.nan, dtype=np.float32)
    return Examples([f"unlabeled/{i}" for i in range(len(texts))], texts, pairs, labels)


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts alone: the lines of .txt (also with .gz), blank ones left out, or a column of a file as in :func:`load_files`.

    Raises:
        TutelageError: as :func:`load_files`.
    """
    ending = _ending(path)
    if ending not in (".txt", *_TABLES):
        raise TutelageError(f"{str(path)!r} does not end in .txt, {', '.join(_TABLES)}; rename or convert it")
    return _texts(path, "text", {"text": _read_lines(path)} if ending == ".txt" else _columns(path, {"text": column}))


def _hold_out(path: Path, whole: Examples, kind: Kind, seed: int) -> tuple[Examples, Examples]:
    """Every tenth of the examples in the order of their labels; of a class with one example, none."""
    order = np.random.default_rng([seed, 0xDE7]).permutation(len(whole))
    if kind != "multilabel":
        order = order[np.argsort(whole.labels[order], kind="stable")]
    held = np.zeros(len(whole), dtype=bool)
    held[order[4::10]] = True
    if kind == "classification":
        held &= np.bincount(whole.labels)[whole.labels] > 1
    if not held.any():
        raise TutelageError(f"{path}: {len(whole)} rows are too few to hold out some as dev; give a dev file")
    return whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))


# Labels
def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # only nan differs from itself


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _infer_kind(values: Sequence[Any]) -> Kind:
    present = [value for value in values if not _is_missing(value)]
    if any(isinstance(value, list) for value in present):
        return "multilabel"
    numbers = [number for value in present if (number := _number(value)) is not None]
    if len(numbers) < len(present) or all(number.is_integer() for number in numbers):
        return "classification"
    return "regression"


def _name(value: Any) -> str:
    # A column of whole numbers with a gap comes as floats.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _row_names(path: Path, row: int, value: Any, kind: Kind) -> list[str]:
    """The names of the classes of one row: one, or any number for multi-label data."""
    if isinstance(value, list):
        if kind != "multilabel":
            raise TutelageError(f"{path}: row {row} has a list as its label ({_shown(value)}); use kind multilabel")
        names = [_name(item) for item in value if not _is_missing(item)]
        if len(names) < len(value):
            raise TutelageError(f"{path}: row {row} has an empty label in its list; correct or delete the row")
        return names
    if kind == "multilabel" and isinstance(value, str):
        return [name.strip() for name in value.split("|") if name.strip()]
    if _is_missing(value) or not str(value).strip():
        raise TutelageError(f"{path}: row {row} has no label; give it one, or move it to the unlabelled file")
    return [_name(value)]


def _classes(path: Path, values: Sequence[Any], kind: Kind) -> tuple[str, ...]:
    """The classes that occur, sorted (whole numbers by value); none for regression."""
    if kind == "regression":
        return ()
    found = {name for row, value in enumerate(values, 1) for name in _row_names(path, row, value, kind)}
    if len(found) < 2:
        raise TutelageError(
            f"{path}: the labels have {_listed(sorted(found)) or 'no class'} only, two or more classes are needed;"
            " check which column is the label"
        )
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _labels(path: Path, values: Sequence[Any], kind: Kind, names: tuple[str, ...], origin: str) -> npt.NDArray[Any]:
    if kind == "regression":
        return np.array([_score(path, row, value) for row, value in enumerate(values, 1)], dtype=np.float32)
    number_of = {name: number for number, name in enumerate(names)}
    rows: list[list[int]] = []
    for row, value in enumerate(values, 1):
        present = _row_names(path, row, value, kind)
        unknown = [name for name in present if name not in number_of]
        if unknown:
            raise TutelageError(
                f"{path}: row {row} has label {_shown(unknown[0])}, which {origin} lacks (it has {_listed(names)});"
                " correct the label, or delete the row"
            )
        rows.append([number_of[name] for name in present])
    if kind == "classification":
        return np.array([numbers[0] for numbers in rows], dtype=np.int64)
    result = np.zeros((len(rows), len(names)), dtype=np.float32)
    for row, numbers in enumerate(rows):
        result[row, numbers] = 1
    return result


def _score(path: Path, row: int, value: Any) -> float:
    if value is None or value == "":
        raise TutelageError(f"{path}: row {row} has no label; give it one, or move it to the unlabelled file")
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise TutelageError(
            f"{path}: row {row} has label {_shown(value)}, which is not a number; correct it, or use kind"
            " classification"
        )
    return number


# Texts
def _examples(part: str, path: Path, columns: dict[str, list[Any]], labels: npt.NDArray[Any]) -> Examples:
    texts = _texts(path, "text", columns)
    pairs = _texts(path, "text_pair", columns) if "text_pair" in columns else None
    return Examples([f"{part}/{i}" for i in range(len(texts))], texts, pairs, labels)


def _texts(path: Path, role: str, columns: dict[str, list[Any]]) -> list[str]:
    values = columns[role]
    for row, value in enumerate(values, 1):
        if isinstance(value, list | dict):
            raise TutelageError(
                f"{path}: row {row} has no plain text as its {role} ({_shown(value)}); make it a string"
            )
        if _is_missing(value) or not str(value).strip():
            raise TutelageError(f"{path}: row {row} has no {role}; give it one, or delete the row")
    return [str(value) for value in values]


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(_shown(name) for name in names[:20]) + more


# Files
def _ending(path: Path) -> str:
    """``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return ".parquet.gz" if ending == ".parquet" and name.endswith(".gz") else ending


def _columns(path: Path, wanted: dict[str, str | None]) -> dict[str, list[Any]]:
    """The columns of a file by their role; roles without a column are left out."""
    _check_file(path)
    if _ending(path) not in _TABLES:
        raise TutelageError(f"{str(path)!r} does not end in {', '.join(_TABLES)}; rename or convert it")
    with tempfile.TemporaryDirectory() as cache, _silence():
        table = _read_table(path, cache)
        result = {}
        for role, column in wanted.items():
            if column is None:
                continue
            if column not in table.column_names:
                near = difflib.get_close_matches(column, table.column_names, n=1, cutoff=0.5)
                raise TutelageError(
                    f"{path} has no column {column!r} for {role}: its columns are {_listed(table.column_names)}; "
                    + (f"did you mean {near[0]!r}?" if near else f"set {role} to one of them")
                )
            result[role] = list(table[column][:])
    return result


def _read_table(path: Path, cache: str) -> Any:
    import datasets

    ending = _ending(path)
    size = path.stat().st_size if ending == ".parquet" else _check_utf8(path)
    if size == 0:
        raise TutelageError(f"{path} is empty; give a file with rows")
    plain = _unpacked(path, Path(cache)) if path.name.lower().endswith(".gz") else path
    name = glob.escape(str(plain))  # datasets takes the path for a pattern
    try:
        if ending == ".parquet":
            # The batch size is taken from the first row group otherwise, and an empty one gives an obscure error.
            table = datasets.Dataset.from_parquet(name, cache_dir=cache, batch_size=10_000)
        elif ending in (".csv", ".tsv"):
            table = _read_csv(path, name, cache)
        else:
            # In one piece: a column's type is that of the first piece, in which scores may be all whole.
            table = datasets.Dataset.from_json(name, cache_dir=cache, chunksize=size, parse_agent_traces=False)
    except TutelageError:
        raise
    except Exception as error:  # those of datasets, pandas, pyarrow and csv, wrapped in one another
        if "corresponds to no data" in str(error):
            raise TutelageError(f"{path} has no rows; give a file with rows") from None
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(f"{path} is not a sound {ending} file ({reason}); correct it") from None
    if len(table) == 0:
        raise TutelageError(f"{path} has no rows; give a file with rows")
    return table


def _read_csv(path: Path, name: str, cache: str) -> Any:
    """All columns as strings, so that the label ``007`` stays what it is and ``NA`` is not taken for a gap."""
    import datasets

    separator = "\t" if _ending(path) == ".tsv" else ","
    header = _csv_header(path, separator)
    return datasets.Dataset.from_csv(
        name,
        features=datasets.Features({column: datasets.Value("string") for column in header}),
        cache_dir=cache,
        sep=separator,
        header=0,
        column_names=header,
        keep_default_na=False,
    )


def _csv_header(path: Path, separator: str) -> list[str]:
    with _open(path, "rt", encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file, delimiter=separator) if row)
        header = [column or f"Unnamed: {i}" for i, column in enumerate(next(rows, []))]
        first = next(rows, [])
    if not first:
        raise TutelageError(f"{path} has no rows below its header; give a file with rows")
    for column in header:
        if header.count(column) > 1:
            raise TutelageError(f"{path} has several columns {column!r}; rename all but one")
    # In later rows pandas reports this, but from the first it silently takes the first field for a row name.
    if len(first) > len(header):
        raise TutelageError(
            f"{path}: row 1 has {len(first)} fields, the header {len(header)}; quote texts that contain {separator!r}"
        )
    return header


def _unpacked(path: Path, folder: Path) -> Path:
    with gzip.open(path, "rb") as packed, (folder / "unpacked").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return folder / "unpacked"


def _read_lines(path: Path) -> list[str]:
    _check_file(path)
    _check_utf8(path)
    with _open(path, "rt", encoding="utf-8-sig") as file:
        lines = [line.rstrip("\n") for line in file if line.strip()]
    if not lines:
        raise TutelageError(f"{path} is empty; give a file with rows")
    return lines


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise TutelageError(f"{str(path)!r} is a directory; name one file in it")
    if not path.exists():
        raise TutelageError(f"there is no file {str(path)!r}; check the path")


def _open(path: Path, mode: str, **options: Any) -> Any:
    return (gzip.open if path.name.lower().endswith(".gz") else open)(path, mode, **options)


def _check_utf8(path: Path) -> int:
    """How many bytes of (unpacked) text there are, all of them UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    size = 0
    try:
        with _open(path, "rb") as file:
            while piece := file.read(1 << 20):
                decoder.decode(piece)
                size += len(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the file and its ending") from None
    return size


@contextmanager
def _silence() -> Iterator[None]:
    """Without the progress bars and log lines of datasets, which come back afterwards."""
    import datasets

    bars, verbosity = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
