"""The user's own files, read as columns: CSV, TSV, JSON lines, Parquet, and the lines of .txt."""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.errors import TutelageError

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts alone: the lines of .txt (also with .gz), blank ones left out, or a column of a file of :data:`TABLES`.

    Raises:
        TutelageError: as :func:`read_columns`, or a row has no text.
    """
    ending = ending_of(path)
    if ending not in (".txt", *TABLES):
        raise TutelageError(f"{str(path)!r} does not end in .txt, {', '.join(TABLES)}; rename or convert it")
    return texts_of(
        path, "text", {"text": read_lines(path)} if ending == ".txt" else read_columns(path, {"text": column})
    )


# Texts
def texts_of(path: Path, role: str, columns: dict[str, list[Any]]) -> list[str]:
    """The column ``role``, of which every row must have a text.

    Raises:
        TutelageError: for a row that has none.
    """
    values = columns[role]
    for row, value in enumerate(values, 1):
        if isinstance(value, list | dict):
            raise TutelageError(f"{path}: row {row} has no plain text as its {role} ({shown(value)}); make it a string")
        if is_missing(value) or not str(value).strip():
            raise TutelageError(f"{path}: row {row} has no {role}; give it one, or delete the row")
    return [str(value) for value in values]


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty."""
    return value is None or value == "" or value != value  # only nan differs from itself


def shown(value: Any) -> str:
    """As errors show a cell: the start of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(names: Sequence[str]) -> str:
    """As errors list columns or classes: the first 20."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(shown(name) for name in names[:20]) + more


# Files
def ending_of(path: Path) -> str:
    """``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return ".parquet.gz" if ending == ".parquet" and name.endswith(".gz") else ending


def read_columns(path: Path, wanted: dict[str, str | None], optional: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """The columns of a file that ends in one of :data:`TABLES` (each but .parquet also with .gz), by their role; roles without a
    column are left out, and ``optional`` ones whose column the file lacks.

    Raises:
        TutelageError: the file is missing, is a directory, has another ending, is not UTF-8, cannot be read, has no rows or
            lacks a column.
    """
    _check_file(path)
    if ending_of(path) not in TABLES:
        raise TutelageError(f"{str(path)!r} does not end in {', '.join(TABLES)}; rename or convert it")
    with tempfile.TemporaryDirectory() as cache, _silence():
        table = _read_table(path, cache)
        result = {}
        for role, column in wanted.items():
            if column is None or (role in optional and column not in table.column_names):
                continue
            if column not in table.column_names:
                near = difflib.get_close_matches(column, table.column_names, n=1, cutoff=0.5)
                raise TutelageError(
                    f"{path} has no column {column!r} for {role}: its columns are {listed(table.column_names)}; "
                    + (f"did you mean {near[0]!r}?" if near else f"set {role} to one of them")
                )
            result[role] = list(table[column][:])
    return result


def _read_table(path: Path, cache: str) -> Any:
    import datasets

    ending = ending_of(path)
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

    separator = "\t" if ending_of(path) == ".tsv" else ","
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


def read_lines(path: Path) -> list[str]:
    """The lines of a text file (also with .gz) that are not blank.

    Raises:
        TutelageError: the file is missing, is not UTF-8, cannot be read or is empty.
    """
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
