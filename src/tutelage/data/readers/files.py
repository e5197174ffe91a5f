"""The user's own files, read as tables: CSV, TSV, JSON, JSON lines, Parquet; and the lines of .txt."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.data.readers.delimited import read_delimited
from tutelage.data.readers.rows import read_rows
from tutelage.data.readers.table import Table
from tutelage.errors import TutelageError

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the byte order mark."""

OTHERS = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save its sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save its sheet as CSV UTF-8",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"\x1f\x8b": "packed by gzip; let its name end in .gz",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; fetch that with git lfs pull",
    b"ARROW1": "an Arrow file; save it as Parquet, as datasets and pandas do with to_parquet",
}
"""What a file is that begins so."""


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts alone: the lines of .txt (also with .gz), blank ones left out, or a column of a file of :data:`TABLES`.

    Raises:
        TutelageError: as :func:`read_table`, or a row has no text.
    """
    table = read_table(path, (column,)) if ending_of(path) in TABLES else read_lines(path)
    texts = table.texts("text" if ending_of(path) == ".txt" else column, "text")
    table.kept(skip=False)
    return texts


def ending_of(path: Path) -> str:
    """``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return ".parquet.gz" if ending == ".parquet" and name.endswith(".gz") else ending


def read_table(path: Path, wanted: Sequence[str] = (), header: bool = True, *, whole: bool = False) -> Table:
    """The rows of a file that ends in one of :data:`TABLES` (each but .parquet also with .gz).

    Args:
        path: The file.
        wanted: Columns that will be asked for. A file may have others, of which a Parquet file gives no cells.
        header: Whether columns have names; see :func:`read_delimited` and :func:`read_rows`.
        whole: Read the cells of the other columns too.

    Raises:
        TutelageError: the file is missing, is a directory, has another ending, is no text in a known encoding, cannot be read or
            has no rows.
    """
    _check_file(path)
    ending = ending_of(path)
    if ending in (".xlsx", ".xls", ".ods"):
        raise TutelageError(
            f"{str(path)!r} is a spreadsheet; save its sheet as CSV UTF-8 (or end in {', '.join(TABLES)})"
        )
    if ending not in TABLES:
        raise TutelageError(f"{str(path)!r} does not end in {', '.join(TABLES)}; rename or convert it")
    if ending == ".parquet":
        if not header:
            raise TutelageError(f"{path} names its columns; leave out --no-header")
        return _read_parquet(path, () if whole else wanted)
    text, notes = read_text(path)
    if ending in (".csv", ".tsv"):
        table = read_delimited(path, text, "\t" if ending == ".tsv" else ",", wanted, header)
    else:
        table = read_rows(path, text, wanted, header)
    table.notes[:0] = notes
    return table


def read_lines(path: Path) -> Table:
    """The lines of a text file (also with .gz) that are not blank, as the column ``text``.

    Raises:
        TutelageError: the file is missing, is no text, cannot be read or is empty.
    """
    _check_file(path)
    if ending_of(path) != ".txt":
        raise TutelageError(f"{str(path)!r} does not end in .txt, {', '.join(TABLES)}; rename or convert it")
    text, notes = read_text(path)
    if "\n" not in text:
        text = text.replace("\r", "\n")
    found = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found:
        raise TutelageError(f"{path} is empty; give a file with rows")
    numbers, lines = zip(*found, strict=True)
    return Table(path, {"text": list(lines)}, len(lines), lines=numbers, notes=notes)


def read_text(path: Path) -> tuple[str, list[str]]:
    """The content of a text file (also with .gz) without its byte order mark, and notes on its encoding.

    Raises:
        TutelageError: it is missing, cannot be read, is empty, or is not UTF-8 (or with a mark UTF-16 or UTF-32).
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the file and its ending") from None
    if not raw.strip():
        raise TutelageError(f"{path} is empty; give a file with rows")
    for begin, what in OTHERS.items():
        if raw.startswith(begin):
            raise TutelageError(f"{path} is {what}")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    if encoding == "utf-8" and raw[:4096].count(0) > len(raw[:4096]) // 4:
        raise TutelageError(f"{path} looks like UTF-16 without a byte order mark; save it as UTF-8")
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TutelageError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[min(error.start, len(raw) - 1)]:02x}); save it as UTF-8, for example by "
            "iconv -f CP1252 -t UTF-8 OLD > NEW"
        ) from None
    if not text.strip():
        raise TutelageError(f"{path} is empty; give a file with rows")
    return text, [] if encoding == "utf-8" else [f"it is read as {encoding.upper()}"]


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise TutelageError(f"{str(path)!r} is a directory; {_within(path)}")
        if not path.exists():
            raise TutelageError(f"there is no file {str(path)!r}; check the path")
        if not path.is_file():  # reading might never end
            raise TutelageError(f"{str(path)!r} is a pipe or a device; save what it gives as a file")
    except TutelageError:
        raise
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise TutelageError(f"{str(path)!r} cannot be read ({error}); check the path") from None


def _within(folder: Path) -> str:
    """What to name instead of a folder."""
    if any((folder / name).exists() for name in ("dataset_dict.json", "state.json", "dataset_info.json")):
        return (
            "it was written by save_to_disk: load it in Python (datasets.load_from_disk) and give the object, or write each split "
            "with to_parquet"
        )
    found = sorted(path.name for path in folder.iterdir() if ending_of(path) in TABLES)
    return "name one file in it" + (f", such as {found[0]!r}" if found else "")


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    """Of the wanted columns if it has all, else of all; classes of ``datasets`` by their names."""
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            single = [name for name in names if names.count(name) == 1]
            chosen = list(wanted) if wanted and set(wanted) <= set(single) else single
            read = file.read(columns=chosen)
            columns = {name: read.column(name).to_pylist() for name in chosen}
            about, count = file.schema_arrow.metadata or {}, read.num_rows
    except Exception as error:  # those of Arrow and Python, of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(f"{path} is not a sound .parquet file ({reason[:300]}); write it again") from None
    if not count:
        raise TutelageError(f"{path} has no rows; give a file with rows")
    for name, feature in _features(about).items():
        if name in columns and (classes := _classes(feature)):
            columns[name] = [named(value, classes) for value in columns[name]]
    repeated = frozenset(name for name in names if names.count(name) > 1)
    columns |= {name: [None] * count for name in names if name not in columns and name not in repeated}
    return Table(path, columns, count, repeated=repeated)


def _features(about: dict[bytes, bytes]) -> dict[str, Any]:
    """The types of columns that ``datasets`` writes into a file."""
    try:
        features = json.loads(about[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _classes(feature: Any) -> list[str]:
    """The names of a column's classes, or of those in its lists."""
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


def named(value: Any, classes: Sequence[str]) -> Any:
    """The names of a cell's class numbers; ``None`` for the -1 of an unknown class."""
    if isinstance(value, list):
        return [named(one, classes) for one in value]
    if not isinstance(value, int):
        return value
    return classes[value] if 0 <= value < len(classes) else None if value == -1 else value
