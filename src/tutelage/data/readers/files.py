"""The user's own files, read as tables: CSV, TSV, JSON, JSON lines, Parquet; and the lines of .txt."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.data import mapped
from tutelage.data.given import titled
from tutelage.data.readers.delimited import read_delimited
from tutelage.data.readers.rows import read_rows, stream_rows
from tutelage.data.readers.table import Cells, FileTable
from tutelage.errors import TutelageError, option, out_of_memory

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

ALONE = rb"(?<![\x80-\xff])[\x85\x91-\x97\xc0-\xff](?![\x80-\xff])"
"""A letter or a quote of Western Europe in CP1252. Those of other encodings stand side by side."""
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A data set of the Hub: owner and name."""

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the byte order mark."""

SWITCHES = {
    re.compile(r"\x1b\$\)C"): "ISO-2022-KR",
    re.compile(r"\x1b\$[)*][AGH]"): "ISO-2022-CN",
    re.compile(r"\x1b(\(I|\$\([OPQ])"): "ISO-2022-JP-3",
    re.compile(r"\x1b\$(A|\([CD])"): "ISO-2022-JP-2",
    re.compile(r"\x1b\$[@B]"): "ISO-2022-JP",
}
"""Encodings in which text is ASCII, by the escape sequences that switch to another character set."""

PACKED_SIZE = 8
"""How many times as large the content of a .gz file may be."""

PACKED = "unpack it, and give what is in it"
OBJECT = "load it in Python with {}, and give the object as train, dev or unlabeled, or save it with to_parquet"
UNREADABLE = {
    **dict.fromkeys((".zip", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz"), f"is packed; {PACKED}"),
    **dict.fromkeys(
        (".xlsx", ".xls", ".ods"), f"is a spreadsheet; save its sheet as CSV UTF-8 (or end in {', '.join(TABLES)})"
    ),
    ".arrow": f"is an Arrow file; {OBJECT.format('datasets.Dataset.from_file')}",
    ".feather": f"is a Feather file; {OBJECT.format('pandas.read_feather')}",
    **dict.fromkeys((".pkl", ".pickle"), f"is a pickle; {OBJECT.format('pandas.read_pickle')}"),
}
"""What a file with such an ending is, with the remedy."""
OTHERS = {
    b"BZh": f"packed by bzip2; {PACKED}",
    b"\xfd7zXZ\x00": f"packed by xz; {PACKED}",
    b"\x28\xb5\x2f\xfd": f"packed by zstd; {PACKED}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive; {PACKED}",
    b"PK\x03\x04": "a zip archive or an Excel workbook; save its sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save its sheet as CSV UTF-8",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"\x1f\x8b": "packed by gzip; let its name end in .gz",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; fetch that with git lfs pull",
    b"ARROW1": "an Arrow file; save it as Parquet, as datasets and pandas do with to_parquet",
}
"""What a file is that begins so."""


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts alone: the lines of .txt (also with .gz), blank ones left out, or a column of a file of :data:`TABLES`. Errors name no
    options but that of the column.

    Raises:
        TutelageError: as :func:`read_table`, or a row has no text.
    """
    table = read_table(path, (column,), switch=False) if ending_of(path) in TABLES else read_lines(path)
    table.has_options = False
    texts = table.texts("text" if ending_of(path) == ".txt" else column, "text")
    table.kept(skip=False)
    return list(texts)


def ending_of(path: Path) -> str:
    """``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return ".parquet.gz" if ending == ".parquet" and name.endswith(".gz") else ending


def read_table(
    path: Path, wanted: Sequence[str] = (), header: bool = True, *, whole: bool = False, switch: bool = True
) -> FileTable:
    """The rows of a file that ends in one of :data:`TABLES` (each but .parquet also with .gz).

    Args:
        path: The file.
        wanted: Columns that will be asked for. A file may have others, of which a Parquet file gives no cells.
        header: Whether columns have names; see :func:`read_delimited` and :func:`read_rows`.
        whole: Read the cells of the other columns too.
        switch: Whether the reader has the option ``header``, which errors may then name.

    Raises:
        TutelageError: the file is missing, is a directory, has another ending, is no text in a known encoding, cannot be read or
            has no rows.
    """
    _check_file(path)
    ending, title = ending_of(path), titled(path)
    if ending not in TABLES:
        raise TutelageError(_of_other_kind(path, TABLES))
    if ending == ".parquet":
        if not header:
            raise TutelageError(f"{path} names its columns; leave out {option('header', False)}")
        return _read_parquet(path, () if whole else wanted)
    if ending == ".jsonl" and wanted and not whole and is_large(path):
        streamed = stream_rows(title, partial(lines_of, path), header)
        if streamed is not None:
            return _of_object(streamed) if title is not path else streamed
    text, notes = read_text(path)
    if ending in (".csv", ".tsv"):
        table = read_delimited(path, text, "\t" if ending == ".tsv" else ",", wanted, header)
    else:
        table = read_rows(title, text, wanted, header, switch)
    table.notes[:0] = notes
    return _of_object(table) if title is not path else table


def _of_object(table: FileTable) -> FileTable:
    """The table of an object in memory: what the user gave has rows, but no lines."""
    table.lines = None
    return table


def read_lines(path: Path) -> FileTable:
    """The lines of a text file (also with .gz) that are not blank, as the column ``text``.

    Raises:
        TutelageError: the file is missing, is no text, cannot be read or is empty.
    """
    _check_file(path)
    if ending_of(path) != ".txt":
        raise TutelageError(_of_other_kind(path, (".txt", *TABLES)))
    if is_large(path) and (numbers := _numbered(path)) is not None:
        return FileTable(path, {"text": Cells(partial(_filled, path))}, len(numbers), lines=numbers)
    text, notes = read_text(path)
    if "\n" not in text:
        text = text.replace("\r", "\n")
    found = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found:
        raise TutelageError(f"{path} is empty; give a file with rows")
    numbers, lines = zip(*found, strict=True)
    return FileTable(path, {"text": list(lines)}, len(lines), lines=numbers, notes=notes)


def is_large(path: Path) -> bool:
    """Whether a text file is read piece by piece: it is large, and by its beginning UTF-8."""
    with suppress(OSError, EOFError, zlib.error):
        packed = path.name.lower().endswith(".gz")
        if path.stat().st_size * (PACKED_SIZE if packed else 1) <= mapped.IN_MEMORY:
            return False
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            begin = file.read(4096)
        mark = next((name for mark, name in MARKS.items() if begin.startswith(mark)), "utf-8")
        return mark == "utf-8" and not begin.startswith(tuple(OTHERS)) and begin.count(0) <= len(begin) // 4
    return False


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file (also with .gz), without their ends.

    Raises:
        ValueError: it is not UTF-8, or has the escape sequences of ISO-2022.
        OSError: it cannot be read.
    """
    with (gzip.open if path.name.lower().endswith(".gz") else open)(
        path, "rt", encoding="utf-8-sig", newline="\n"
    ) as file:
        for line in file:
            if "\x1b$" in line:
                raise ValueError("escape sequences")
            yield line.removesuffix("\n")


def _numbered(path: Path) -> Sequence[int] | None:
    """The numbers of the lines that are not blank; ``None`` for a file that must be read whole: it is not UTF-8 or damaged, or has
    no line ends but those of old Macs, or nothing else."""
    try:
        numbers = array("q", (number for number, line in enumerate(lines_of(path), 1) if line.strip()))
    except (OSError, EOFError, zlib.error, ValueError):
        return None
    return numbers if len(numbers) > 1 else None


def _filled(path: Path) -> Iterator[str]:
    """The lines that are not blank."""
    return (line.removesuffix("\r") for line in lines_of(path) if line.strip())


def read_text(path: Path) -> tuple[str, list[str]]:
    """The content of a text file (also with .gz) without its byte order mark, and notes on its encoding.

    Raises:
        TutelageError: it is missing, cannot be read, is empty, or is not UTF-8 (or with a mark UTF-16 or UTF-32). So is one in
            ISO-2022, whose bytes are ASCII.
    """
    packed, title = path.name.lower().endswith(".gz"), titled(path)
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the file and its ending") from None
    if not raw.strip():
        raise TutelageError(f"{title} is empty; give {'a file with rows' if title is path else 'rows'}")
    for begin, what in OTHERS.items():
        if raw.startswith(begin):
            raise TutelageError(f"{path} is {what}")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TutelageError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[min(error.start, len(raw) - 1)]:02x}); save it as UTF-8, "
            f"{_converted(raw)}"
        ) from None
    if encoding == "utf-8" and raw[:4096].count(0) > len(raw[:4096]) // 4:
        raise TutelageError(f"{path} looks like UTF-16 without a byte order mark; save it as UTF-8, {_converted(raw)}")
    if (name := switching(text)) is not None:
        raise TutelageError(f"{path} is in {name}, not in UTF-8; save it as UTF-8, for example by {_iconv(name)}")
    if not text.strip():
        raise TutelageError(f"{path} is empty; give a file with rows")
    return text, [] if encoding == "utf-8" else [f"it is read as {encoding.upper()}"]


def switching(text: str) -> str | None:
    """The encoding of a text that is ASCII and switches to other characters by escape sequences, which UTF-8 would keep."""
    if "\x1b$" not in text or not text.isascii():
        return None
    return next((name for sequence, name in SWITCHES.items() if sequence.search(text)), None)


def _iconv(name: str) -> str:
    return f"iconv -f {name} -t UTF-8 OLD > NEW"


def _converted(raw: bytes) -> str:
    """How to save as UTF-8 a text in another encoding."""
    start = raw[: 1 << 20]
    if b"\0" in start:
        name = "UTF-16LE" if start[1::2].count(0) > start[::2].count(0) else "UTF-16BE"
    elif 2 * len(re.findall(ALONE, start)) > len(re.findall(rb"[\x80-\xff]+", start)):
        name = "CP1252"
    else:
        return (
            "by the program that wrote it or by iconv -f ENCODING -t UTF-8 OLD > NEW, where ENCODING is its own: GB18030 or BIG5 "
            "for Chinese, SHIFT_JIS for Japanese, EUC-KR for Korean, CP1251 for Cyrillic, CP1252 for Western Europe"
        )
    return f"for example by {_iconv(name)}"


def _of_other_kind(path: Path, endings: Sequence[str]) -> str:
    """The message about a file of another kind than those that are read."""
    what = UNREADABLE.get(ending_of(path))
    if what is not None:
        return f"{str(path)!r} {what}"
    return f"{str(path)!r} does not end in {', '.join(endings)}; rename it if it is one of these, or convert it"


def _missing(path: Path) -> str:
    """The message about a path at which there is nothing."""
    if address := re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path)):
        return (
            f"{address[1] + '://' + address[2]!r} is an address, not a file; download it and give the path, or load it in Python "
            "with datasets.load_dataset and give the object as data, train or dev"
        )
    if HUB.fullmatch(str(path)) and ending_of(path) not in TABLES:
        return (
            f"there is no file {str(path)!r}; check the path, or if this is a data set on the Hub, load it in Python with "
            f"datasets.load_dataset({str(path)!r}) and give the object as data"
        )
    return f"there is no file {str(path)!r}; check the path"


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise TutelageError(f"{str(path)!r} is a directory; {_within(path)}")
        if not path.exists():
            raise TutelageError(_missing(path))
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


def _read_parquet(path: Path, wanted: Sequence[str]) -> FileTable:
    """Of the wanted columns if it has all, else of all; classes of ``datasets`` by their names."""
    import pyarrow.parquet as parquet

    with _sound(path), parquet.ParquetFile(path) as file:
        names, about, groups = list(file.schema_arrow.names), file.schema_arrow.metadata or {}, file.metadata
        count, size = groups.num_rows, sum(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
        single = [name for name in names if names.count(name) == 1]
        chosen = list(wanted) if wanted and set(wanted) <= set(single) else single
        large = bool(wanted) and size + mapped.STRING * count > mapped.IN_MEMORY
        read = file.read(columns=[] if large else chosen)
        columns: dict[str, Any] = {} if large else {name: read.column(name).to_pylist() for name in chosen}
    if not count:
        raise TutelageError(f"{path} has no rows; give a file with rows")
    classes = {name: found for name, feature in _features(about).items() if (found := _classes(feature))}
    for name in chosen:
        if large:
            columns[name] = Cells(partial(_cells, path, name, classes.get(name)))
        elif name in classes:
            columns[name] = [named(value, classes[name]) for value in columns[name]]
    repeated = frozenset(name for name in names if names.count(name) > 1)
    columns |= {name: [None] * count for name in names if name not in columns and name not in repeated}
    return FileTable(path, columns, count, repeated=repeated)


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a file in the block into one line."""
    try:
        yield
    except Exception as error:  # those of Arrow and Python, of many types
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(f"{path} is not a sound .parquet file ({reason[:300]}); write it again") from None


def _cells(path: Path, name: str, classes: Sequence[str] | None) -> Iterator[Any]:
    """A column of a Parquet file, read piece by piece; ``classes`` name its numbers.

    Raises:
        TutelageError: the file is damaged.
    """
    import pyarrow.parquet as parquet

    with _sound(path), parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        for batch in file.iter_batches(1024, columns=[name], use_threads=False):
            values = batch.column(0).to_pylist()
            yield from values if classes is None else (named(value, classes) for value in values)


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
