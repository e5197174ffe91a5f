"""A table as it was read: columns of cells, and which rows cannot be used and why."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.data.mapped import held
from tutelage.errors import TutelageError, option

NAMED = 3
"""Bad rows that an error names; the others are counted."""
CHOSEN = ("text", "text_pair", "label")
"""Columns that an option names; the others have a fixed name, or one that a setting gives."""


@dataclass(frozen=True)
class Cells:
    """A column of a large file, which is read anew whenever somebody iterates over it."""

    read: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.read()


@dataclass
class FileTable:
    """The rows of a file, good and bad ones: a row keeps its number whatever is left out."""

    path: Path
    """As messages call it."""
    columns: dict[str, Any]
    """Cells by the column's name: lists of equal length, or :class:`Cells`. Cells of unreadable rows are None."""
    count: int
    """Rows."""
    lines: Sequence[int] | None = None
    """The line of the file at which each row begins; ``None`` where a file has no lines."""
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that cannot be used, from 0, and why, as the end of a sentence that begins with the row."""
    notes: list[str] = field(default_factory=list)
    """What was recognised in the file, as the end of a sentence that begins with its name."""
    repeated: frozenset[str] = frozenset()
    """Names that several columns have."""
    hint: str = ""
    """A remedy for the error about a missing column."""
    has_options: bool = True
    """Whether whoever reads it has the options ``header`` and ``skip_bad_rows``, which errors may then name."""

    def place(self, row: int) -> str:
        """A row as errors name it."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def reject(self, row: int, why: str) -> None:
        """Mark a row as bad; the first reason counts."""
        self.bad.setdefault(row, why)

    def column(self, name: str, role: str, alone: str = "") -> Iterable[Any]:
        """The cells of a column; ``alone`` is a remedy for a file that has another column alone.

        Raises:
            TutelageError: there is none of this name, or more than one; or no row can be read at all.
        """
        if len(self.bad) == self.count:
            self.check(skip=False)
        if name in self.repeated:
            raise TutelageError(f"{self.path} has several columns {name!r}; rename all but one")
        if name in self.columns:
            cells: Iterable[Any] = self.columns[name]
            return cells
        names = list(self.columns)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        remedy = f"set {option(role)} to one of them" if role in CHOSEN else f"rename one of them to {name!r}"
        hint = self.hint if self.has_options else ""
        if hint and name.isdecimal():
            remedy = hint
        elif near:
            remedy = f"did you mean {near[0]!r}?"
        elif alone and len(names) == 1:
            remedy = alone
        elif hint:
            remedy = hint
        raise TutelageError(f"{self.path} has no column {name!r} for {role}: its columns are {listed(names)}; {remedy}")

    def texts(self, name: str, role: str) -> Sequence[str]:
        """A column of texts, ``""`` in bad rows; a row without a text is bad.

        Raises:
            TutelageError: as :meth:`column`.
            OSError: they are large, and the disk refuses.
        """
        cells = self.column(name, role)

        def checked() -> Iterator[str]:
            for row, value in enumerate(cells):
                if (why := _unlike_text(value)) is not None:
                    self.reject(row, f"has {why} {role}")
                yield "" if why is not None else str(value)

        return held(checked())

    def check(self, skip: bool) -> None:
        """See that rows can be used: all of them, or with ``skip`` any.

        Raises:
            TutelageError: where not; it says how many are bad and names the first.
        """
        if not self.bad:
            return
        count, switch = len(self.bad), option("skip_bad_rows", True) if self.has_options else ""
        if count == self.count:
            raise TutelageError(f"{self.path} has no row that can be used: {self._named()}; correct them")
        if not skip and count > 1:
            raise TutelageError(
                f"{self.path}: {count:,} of {self.count:,} rows cannot be used: {self._named()}; correct "
                f"{'them, or leave them out with ' + switch if switch else 'them'}"
            )
        if not skip:
            raise TutelageError(
                f"{self.path}: {self._named()}; correct {'it, or leave it out with ' + switch if switch else 'it'}"
            )

    def kept(self, skip: bool) -> Sequence[int]:
        """The good rows; a note says how many others are left out.

        Raises:
            TutelageError: as :meth:`check`.
        """
        self.check(skip)
        if not self.bad:
            return range(self.count)
        self.notes.append(f"left out {len(self.bad):,} of {self.count:,} rows: {self._named()}")
        return array("q", (row for row in range(self.count) if row not in self.bad))

    def _named(self) -> str:
        first = [f"{self.place(row)} {why}" for row, why in sorted(self.bad.items())[:NAMED]]
        said = "; ".join(first + ([f"and {len(self.bad) - NAMED:,} more"] if len(self.bad) > NAMED else []))
        return f"{said} (rows are counted from 1)" if self.lines is None else said

    @property
    def source(self) -> str:
        """Where the rows came from, in words."""
        bad = len(self.bad)
        return self.path.name + (f", without {bad:,} bad row{'s' if bad > 1 else ''}" if bad else "")

    def said(self) -> list[str]:
        """The notes, with the name of the file."""
        return [f"{self.path.name}: {note}" for note in self.notes]


def numbers(label: int = 1) -> str:
    """Options that name the columns of a file without a header."""
    return f"{option('text')} 0 {option('label')} {label}"


def _unlike_text(value: Any) -> str | None:
    """What a cell has instead of a text, as a determiner; ``None`` for a text."""
    if isinstance(value, list | dict | bytes | tuple):
        return f"{shown(value)}, which is no plain text, as its"
    if is_missing(value) or not str(value).strip():
        return "no"
    if halves(str(value)):
        return f"half a character in {shown(value)}, its"
    return None


def halves(text: str) -> bool:
    """Whether a text has halves of characters (lone surrogates), which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty."""
    return value is None or value == "" or value != value  # only nan differs from itself


def shown(value: Any) -> str:
    """As errors show a cell: the start of a long one."""
    if isinstance(value, int) and abs(value) >= 10**50:
        return "a number of more than 50 digits"
    if isinstance(value, str):
        value = value[:100]  # repr of a very long text takes its time
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(names: Sequence[str]) -> str:
    """As errors list columns or classes: the first 20."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(shown(name) for name in names[:20]) + more
