"""Rows of delimited text: CSV, TSV, and files that are separated by semicolons or vertical bars whatever their ending.

Quotes are where such files go wrong: a reader that takes a lone quote for the start of a quoted field swallows the lines up to
the next quote without an error. So every line of the file is accounted for here: it is a row, part of a row whose quoted field
holds line breaks, blank, or a bad row.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tutelage.data.readers.table import FileTable, numbers, shown
from tutelage.errors import TutelageError, option

NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d+)?\s*")

USUAL = {
    "text", "texts", "sentence", "sentence1", "sentence2", "content", "comment", "review", "tweet", "title", "question",
    "answer", "body", "message", "premise", "hypothesis", "label", "labels", "class", "category", "target", "intent",
    "sentiment", "emotion", "topic", "tag", "rating", "score", "id", "index",
}  # fmt: skip
"""Usual names of columns."""

MARK = "\ufeff"
"""A byte order mark, which files that were joined have within."""
DOUBLED, ESCAPED = re.compile('""'), re.compile(r'""|\\"')
"""A quote in a quoted field."""
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def read_delimited(path: Path, text: str, usual: str, wanted: Sequence[str], header: bool) -> FileTable:
    """The rows of ``text``, all cells as strings, so that the label ``007`` stays what it is and ``NA`` is not taken for a gap.

    Quoted fields are as spreadsheets write them; where a record cannot be read so, a backslash may stand before a quote in them. A
    file whose fields are separated by tabs is read without quoting, as GLUE's files want it, where more lines have quotes that are
    not around a field than have fields that need them; in others such a line alone is. Rows may end early (the missing cells are
    empty), or in superfluous delimiters. Lines that repeat the header are left out.

    Args:
        path: For messages.
        text: The content, without a byte order mark.
        usual: The delimiter that goes with the file's ending.
        wanted: Columns that are asked for; with them the delimiter is recognised.
        header: Whether the first line names the columns; if not they are ``"0"``, ``"1"``, ...

    Raises:
        TutelageError: there are no rows, or each has more fields than the header.
    """
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if (named := re.match(r"sep=(.)\r?\n", text)) and named[1] in DELIMITERS:  # spreadsheets write this for themselves
        usual, text = named[1], "\n" + text[named.end() :]
    delimiter = _delimiter(text, usual, wanted, header)
    found = _Lines(text, delimiter).records()
    names, repeated = list[str](), 0
    if header and found:
        names = [name.strip().strip(MARK) or f"Unnamed: {i}" for i, name in enumerate(found[0].fields)]
        first = _bare(found[0])
        rows = [record for record in found[1:] if len(record.fields) != len(first) or _bare(record) != first]
        found, repeated = rows, len(found) - 1 - len(rows)
    if not found:
        raise TutelageError(f"{path} has no rows{' below its header' if header else ''}; give a file with rows")
    if not header:
        # Text that contains the delimiter is rarer than text that does not.
        names = [str(i) for i in range(Counter(len(record.fields) for record in found).most_common(1)[0][0])]
    table = _table(path, found, names, delimiter)
    if repeated:
        table.notes.append(f"left out {repeated:,} repetition{'s' if repeated > 1 else ''} of the header")
    if not header and _is_header(found):
        table.reject(0, f"looks like a header (then leave out {option('header', False)} and name the columns)")
    if delimiter != usual:
        table.notes.insert(0, f"the fields are separated by {DELIMITERS[delimiter]}")
    table.hint = _hint(names, header, wanted)
    return table


@dataclass(frozen=True, slots=True)
class _Record:
    fields: list[str]
    line: int
    """From 1."""
    last: int
    """Its last line."""
    lone: bool = False
    """Whether it has a quote that is not around a field."""
    needed: bool = False
    """Whether it has a field that needs its quotes: a delimiter, a quote or a line break is in it."""
    escaped: bool = False
    """Whether it has quotes after backslashes."""
    alone: tuple[list[str], ...] = ()
    """Where each of its several lines could also be a record: their fields."""

    def parts(self) -> list[_Record]:
        """Each line as a record."""
        return [
            _Record(fields, self.line + i, self.line + i, lone=any('"' in field for field in fields))
            for i, fields in enumerate(self.alone)
        ]


class _Lines:
    """The lines of a text, and the records that they make."""

    def __init__(self, text: str, delimiter: str) -> None:
        self.text, self.delimiter = text, delimiter
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        part = re.escape(delimiter)
        # Possessive: a quote without an end is given up after one look.
        plain, end = rf'([^"{part}\n]*+)(?={part}|\n|\Z)', rf" *(?={part}|\r?\n|\r?\Z)"
        self.field = re.compile(rf' *"([^"]*+(?:""[^"]*+)*+)"{end}|{plain}')
        self.escaped = re.compile(rf' *"([^"\\]*+(?:(?:""|\\[\s\S])[^"\\]*+)*+)"{end}|{plain}')

    def records(self) -> list[_Record]:
        """All records that are not blank."""
        found = self._read(quoting=True)
        # A lone quote and the next one far below look like a field with line breaks, of which each line is a whole row. The
        # columns of the other rows tell which it is.
        if any(record.alone for record in found):
            like = _Likeness([record for record in found if not record.alone][1:])
            unsure = self.delimiter == "\t"
            whole = [bool(record.alone) and like.fits(record.alone, unsure) for record in found]
            found = [
                one
                for record, apart in zip(found, whole, strict=True)
                for one in (record.parts() if apart else [record])
            ]
        if self.delimiter == "\t" and sum(one.lone for one in found) > sum(one.needed for one in found):
            return self._read(quoting=False)
        return found

    def _read(self, quoting: bool) -> list[_Record]:
        found, number, width = list[_Record](), 0, 0
        while number < len(self.lines):
            line = self.lines[number].removesuffix("\r")
            if '"' in line and quoting:
                record = self._quoted(number, width)
            else:
                record = _Record(line.split(self.delimiter), number + 1, number + 1, lone='"' in line)
            if any(field.strip() for field in record.fields):
                found.append(record)
                width = width or len(record.fields)
            number = record.last
        return found

    def _quoted(self, number: int, width: int) -> _Record:
        """The record that begins in a line with quotes."""
        escaped = False
        if (read := self._record(self.starts[number])) is None:
            read = self._record(self.starts[number], escaped := True)
        if read is None or (escaped and width and len(read[0]) != width):
            fields = self.lines[number].removesuffix("\r").split(self.delimiter)
            return _Record(fields, number + 1, number + 1, lone=True)
        fields, end = read
        last = bisect_right(self.starts, end) - 1
        needed = last > number or any('"' in field or self.delimiter in field for field in fields)
        alone: tuple[list[str], ...] = ()
        if last > number and (width > 1 or (width and self.delimiter == "\t")):
            lines = [line.removesuffix("\r").split(self.delimiter) for line in self.lines[number : last + 1]]
            alone = tuple(lines) if all(len(line) == width for line in lines) else ()
        return _Record(fields, number + 1, last + 1, needed=needed and not alone, escaped=escaped, alone=alone)

    def _record(self, start: int, escaped: bool = False) -> tuple[list[str], int] | None:
        """The fields of a record and where it ends, or ``None`` where a quote is not around a whole field; ``escaped``: a quote
        after a backslash is part of a field."""
        fields = list[str]()
        while True:
            found = (self.escaped if escaped else self.field).match(self.text, start)
            if found is None:
                return None
            quoted, plain = found.groups()
            quotes = ESCAPED if escaped else DOUBLED
            fields.append(plain if quoted is None else quotes.sub('"', quoted))
            start = found.end()
            if not self.text.startswith(self.delimiter, start):
                fields[-1] = fields[-1] if quoted is not None else fields[-1].removesuffix("\r")
                return fields, start
            start += 1


class _Likeness:
    """What the columns of a file have in common: few values, or numbers."""

    def __init__(self, records: Sequence[_Record]) -> None:
        columns = list(zip_longest(*(record.fields for record in records), fillvalue=""))
        self.values = [set(column) if 2 * len(set(column)) <= len(column) else None for column in columns]
        self.numbers = [all(NUMBER.fullmatch(value) for value in column) for column in columns]

    def fits(self, lines: Sequence[Sequence[str]], unsure: bool) -> bool:
        """Whether lines are as the other rows; ``unsure`` where no column tells."""
        told = False
        for column, fields in enumerate(zip(*lines, strict=True)):
            if column >= len(self.values):
                break
            values = self.values[column]
            if self.numbers[column]:
                alike = all(NUMBER.fullmatch(field) for field in fields)
            elif values is not None:
                alike = all(field in values for field in fields)
            else:
                continue
            if not alike:
                return False
            told = True
        return told or unsure


def _delimiter(text: str, usual: str, wanted: Sequence[str], header: bool) -> str:
    """The delimiter whose header has the wanted columns; else the usual one, if there is any in the first line."""
    lines = [line for line in text.split("\n", 50)[:50] if line.strip()]
    if not lines:
        return usual
    order = [usual, *(one for one in DELIMITERS if one != usual)]
    if header:
        names = {one: [name.strip(' "\r') for name in lines[0].split(one)] for one in order}
        for one in order:
            if wanted and all(name in names[one] for name in wanted):
                return one
        return usual if usual in lines[0] else max(order, key=lambda one: len(names[one]))
    for one in order:
        widths = {line.count(one) for line in lines if '"' not in line} or {lines[0].count(one)}
        if (one == usual or len(widths) == 1) and min(widths):
            return one
    return usual


def _table(path: Path, found: Sequence[_Record], names: Sequence[str], delimiter: str) -> FileTable:
    width, lengths = len(names), {len(record.fields) for record in found}
    if len(lengths) == 1 and min(lengths) > width and any(record.fields[-1].strip() for record in found):
        raise TutelageError(
            f"{path}: each row has {min(lengths)} fields, the header {width}; name every column in the header"
        )
    columns = [[""] * len(found) for _ in names]
    bad, trailing, broken, lone, escaped = dict[int, str](), 0, list[_Record](), 0, 0
    for row, record in enumerate(found):
        over = record.fields[width:]
        if any(field.strip() for field in over):
            remedy = f"quote texts that contain {delimiter!r}" if not record.lone else "check its quotes"
            bad[row] = f"has {len(record.fields)} fields, {'the header' if names else 'others'} {width} ({remedy})"
            continue
        if record.lone and len(record.fields) < width and delimiter != "\t":
            bad[row] = "opens a quote and does not close it"
            continue
        trailing += bool(over)
        lone, escaped = lone + record.lone, escaped + record.escaped
        broken += [record] if record.last > record.line else []
        for column, value in zip(columns, record.fields, strict=False):
            column[row] = value
    notes = []
    if trailing:
        notes.append(f"{trailing:,} rows end in superfluous delimiters, which are left out")
    if broken:
        longest = max(broken, key=lambda record: record.last - record.line)
        where = f"lines {longest.line} to {longest.last}"
        notes.append(f"{len(broken):,} rows have line breaks in quotes (the longest: {where})")
    if escaped:
        notes.append(f"{escaped:,} rows have quotes after backslashes; they are read as quotes")
    if lone:
        notes.append(f"{lone:,} lines have quotes that are not around a field; they are read as they are")
    return FileTable(
        path,
        dict(zip(names, columns, strict=True)) if len(set(names)) == width else _unique(names, columns),
        len(found),
        lines=[record.line for record in found],
        bad=bad,
        notes=notes,
        repeated=frozenset(name for name, times in Counter(names).items() if times > 1),
    )


def _bare(record: _Record) -> list[str]:
    """A record's fields as names of columns."""
    return [field.strip().strip(f'{MARK}"') for field in record.fields]


def _is_header(found: Sequence[_Record]) -> bool:
    """Whether the first of some rows names the columns: its cells are usual names, or some are and it is not as the other rows."""
    usual = [name.lower() in USUAL for name in _bare(found[0])]
    return (len(usual) > 1 and all(usual)) or (
        any(usual) and not _Likeness(found[1:]).fits([found[0].fields], unsure=True)
    )


def _unique(names: Sequence[str], columns: Sequence[list[str]]) -> dict[str, list[str]]:
    return {name: column for name, column in zip(names, columns, strict=True) if names.count(name) == 1}


def _hint(names: Sequence[str], header: bool, wanted: Sequence[str]) -> str:
    numbered, switch = numbers(max(len(names) - 1, 1)), option("header", False)
    if not header:
        return f"with {switch} columns are numbers: {numbered}"
    if any(name.isdecimal() for name in wanted) or any(
        re.fullmatch(r"-?\d+([.,]\d+)?", name) or name.count(" ") > 2 or len(name) > 40 for name in names
    ):
        return f"if {shown(names[0])} is in the first row and no header, pass {switch} and numbers: {numbered}"
    return ""
