"""Labels in the cells of a table: what a column's cells stand for, and which classes they name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.data.readers.table import halves, is_missing, listed, shown
from tutelage.errors import TutelageError

GAPS = frozenset(("nan", "na", "n/a", "none", "null", "nil", "-", "?"))
"""What stands for a missing number, in lower case. Among names these may be names."""

SEPARATORS = ("|", ";", ",")
"""What parts several classes in a cell, the first that occurs."""

WHOLE = re.compile(r"[+-]?\d{1,50}(\.0*)?")
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?\s*")


class Unreadable(Exception):
    """A cell that says nothing of the kind that is wanted: why, as the end of a sentence that begins with the row."""


def number(value: Any) -> float | None:
    """The number that a cell is or spells."""
    if isinstance(value, str) and "_" in value:  # a digit separator in Python alone
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def numbers(values: Sequence[Any]) -> list[float] | None:
    """The numbers of a column without its empty cells; ``None`` where a cell is no number."""
    found = [number(value) for value in values if not is_missing(value)]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


def class_name(value: Any) -> str:
    """The class that a cell names; a column of whole numbers with a gap comes as floats."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def one_name(value: Any) -> str:
    """The class of a row, which must have one.

    Raises:
        Unreadable: it has none, or no name.
    """
    if is_missing(value) or not str(value).strip():
        raise Unreadable("has no label")
    if isinstance(value, list | dict | bytes) or halves(str(value)):
        raise Unreadable(f"has label {shown(value)}, which is no name")
    return class_name(value)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


# Columns
@dataclass
class Column:
    """The cells of a column of labels, made plain: ``None``, strings without spaces around them, numbers, or lists of names."""

    values: list[Any]
    notes: list[str] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that do not fit the others, and why."""
    width: int | None = None
    """The length of lists of zeros and ones, one for each class; ``None`` for other columns."""
    separator: str | None = None
    """What parts the classes of a cell that names several; ``None`` where no cell has any of :data:`SEPARATORS`."""


def plain(values: Sequence[Any], like: Column | None = None) -> Column:
    """A column as :class:`Column` says. Lists that are written as text are read. Of lists of zeros and ones (multi-hot) the names
    are the places of the ones, ``"0"``, ``"1"``, ...

    Args:
        values: Its cells.
        like: The column of the training file, whose width and separator hold here too.
    """
    column, width = Column(list(values)), None if like is None else like.width
    spaces = 0
    for row, value in enumerate(column.values):
        if isinstance(value, str):
            column.values[row] = value.strip()
            spaces += value.strip() != value
    if spaces:
        column.notes.append(f"spaces around {spaces:,} labels are left out")
    _read_lists(column)
    _find_gaps(column)
    lists = [value for value in column.values if isinstance(value, list)]
    if width is not None or _is_hot(lists):
        _read_hot(column, width or Counter(map(len, lists)).most_common(1)[0][0])
    column.separator = like.separator if like is not None and like.separator else found_separator(column.values)
    return column


def _read_lists(column: Column) -> None:
    """Read lists that are written as text, as pandas and numpy write them into CSV, where most cells are such."""
    written = [value for value in column.values if isinstance(value, str) and value]
    if not written or 2 * sum(_in_brackets(value) for value in written) < len(written):
        return
    for row, value in enumerate(column.values):
        if isinstance(value, str) and _in_brackets(value):
            inside = value[1:-1].strip()
            if "[" in inside or "]" in inside:
                column.bad[row] = f"has label {shown(value)}, a list in a list"
                continue
            parts = re.findall(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"]+)""", inside)
            if parts and not re.search(r"""['"]""", inside) and "," in inside:
                column.values[row] = [part.strip() for part in inside.split(",")]
            else:
                column.values[row] = [next((one for one in part if one), "").strip() for part in parts]
    example = next(value for value in written if _in_brackets(value))
    column.notes.append(f"labels such as {shown(example)} are read as lists")


def _in_brackets(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def _find_gaps(column: Column) -> None:
    """Among numbers ``nan``, ``NA`` and the like are gaps; among names they may be names, and a note says so."""
    words = [value for value in column.values if isinstance(value, str) and value.lower() in GAPS]
    if not words:
        return
    others = [value for value in column.values if not (isinstance(value, str) and value.lower() in GAPS)]
    if len(others) >= len(words) and numbers(others):
        for row, value in enumerate(column.values):
            if isinstance(value, str) and value.lower() in GAPS:
                column.bad[row] = f"has no label ({shown(value)} is a gap among numbers)"
                column.values[row] = None
        return
    for word, count in Counter(words).items():
        column.notes.append(f"{shown(word)} is read as a class ({_rows(count)}); if it is a gap, leave these rows out")


def _is_hot(lists: Sequence[list[Any]]) -> bool:
    """Whether lists are zeros and ones for each class: classes by number would not be repeated in a list."""
    if not lists or not all(number(item) in (0, 1) for one in lists for item in one):
        return False
    repeats = any(len({number(item) for item in one}) < len(one) for one in lists)
    return repeats or (len({len(one) for one in lists}) == 1 and len(lists[0]) > 1)


def _read_hot(column: Column, width: int) -> None:
    column.width = width
    for row, value in enumerate(column.values):
        if not isinstance(value, list):
            continue
        if len(value) != width or not all(number(item) in (0, 1) for item in value):
            column.bad.setdefault(row, f"has label {shown(value)}, which is not {width} zeros and ones")
            column.values[row] = None
        else:
            column.values[row] = [str(place) for place, item in enumerate(value) if number(item)]
    column.notes.append(f"labels are lists of {width} zeros and ones, one for each class (--labels names them)")


def separated(values: Sequence[Any]) -> tuple[str, str, int] | None:
    """Whether cells seem to name several classes each: the separator, such a cell, and how many there are.

    They do where a part of one cell is also (a part of) another cell. Names that merely contain a comma are not meant.
    """
    cells = Counter(value for value in values if isinstance(value, str) and value)
    for separator in SEPARATORS:
        parts = {cell: {part.strip() for part in cell.split(separator)} - {""} for cell in cells}
        several = [cell for cell in cells if separator in cell and len(parts[cell]) > 1]
        times = Counter(part for found in parts.values() for part in found)
        shared = [cell for cell in several if any(times[part] > 1 for part in parts[cell])]
        if shared:
            return separator, shared[0], sum(cells[cell] for cell in several)
    return None


def found_separator(values: Sequence[Any], names: Sequence[str] = ()) -> str | None:
    """The first of :data:`SEPARATORS` that occurs in any string and in none of the ``names`` of classes."""
    texts = [value for value in values if isinstance(value, str)]
    usable = (one for one in SEPARATORS if not any(one in name for name in names))
    return next((one for one in usable if any(one in text for text in texts)), None)


def split(values: Sequence[Any], separator: str | None) -> list[Any]:
    """Cells as lists of names: strings are parted at ``separator``."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in ([text] if separator is None else text.split(separator)) if name.strip()]

    return [names(value) if isinstance(value, str) else value for value in values]


def decimal_commas(values: Sequence[Any]) -> list[float | None] | None:
    """The numbers of a column that are written with decimal commas, ``None`` in gaps; ``None`` for any other column."""
    texts = [value for value in values if not is_missing(value)]
    if not any(isinstance(text, str) and "," in text for text in texts):
        return None
    if not all(isinstance(text, str) and DECIMAL_COMMA.fullmatch(text) for text in texts):
        return None
    return [None if is_missing(value) else float(value.replace(",", ".")) for value in values]


# Classes
def _loose(name: str) -> str:
    """The name without what people vary by mistake: case, inner spaces, the way that accents are encoded."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _whole(name: str) -> int | None:
    return int(float(name)) if WHOLE.fullmatch(name) and len(name) < 16 else None


@dataclass(frozen=True)
class Classes:
    """The classes of a task, and which of them a spelling means."""

    names: tuple[str, ...]
    origin: str
    """Where they come from, in words."""
    first: int | None = None
    """The number of the first class, where a file has numbers in place of names."""

    def place(self, spelt: str) -> int | None:
        """The number of a class: by its name, its number, or a name that differs in case and spaces alone."""
        if spelt in self._exact:
            return self._exact[spelt]
        whole = _whole(spelt)
        if whole is not None and self.first is None:
            return self._exact.get(str(whole))
        if whole is not None and self.first is not None:
            return whole - self.first if 0 <= whole - self.first < len(self.names) else None
        return self._near.get(_loose(spelt))

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def _near(self) -> dict[str, int]:
        times = Counter(map(_loose, self.names))
        return {_loose(name): place for place, name in enumerate(self.names) if times[_loose(name)] == 1}

    def renamed(self, spelt: Mapping[str, int]) -> list[str]:
        """Notes on the spellings (with their counts) that are read as another name."""
        if self.first is not None:
            known = ", ".join(f"{place + self.first}={name}" for place, name in enumerate(self.names[:20]))
            return [f"class numbers are named by {self.origin}: {known}{' ...' if len(self.names) > 20 else ''}"]
        other = [(name, self.names[place]) for name in spelt if (place := self.place(name)) is not None]
        floats = sorted(name for name, meant in other if name != meant and _whole(name) is not None)
        if floats:
            rows = sum(spelt[name] for name in floats)
            return [
                f"whole numbers written as {shown(floats[0])} ({_rows(rows)}) are read as {shown(str(_whole(floats[0])))}"
            ]
        changed = [
            f"{shown(name)} ({_rows(spelt[name])}) is read as {shown(meant)}" for name, meant in other if name != meant
        ]
        return changed[:5] + ([f"and so are {len(changed) - 5} more spellings"] if len(changed) > 5 else [])


def named(path: Path, spelt: Mapping[str, int], given: Sequence[str], origin: str) -> Classes:
    """The classes ``given``, for a file with these spellings (and their counts).

    Numbers stand for the classes in their order, from 0, or from 1 where there are just as many.

    Raises:
        TutelageError: the file has more numbers than there are classes.
    """
    classes = Classes(tuple(given), origin)
    values = [_whole(name) for name in spelt]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values) or any(classes.place(name) is not None for name in spelt):
        return classes
    first = 1 if set(known) == set(range(1, len(given) + 1)) else 0
    if min(known) < 0 or max(known) - first >= len(given):
        raise TutelageError(
            f"{path}: the labels are numbers from {min(known)} to {max(known)}, {origin} names {len(given)} classes "
            f"({listed(given)}); name one for each number from 0"
        )
    return Classes(tuple(given), origin, first)


def fitting(path: Path, spelt: Mapping[str, int], known: Sequence[str]) -> Classes | None:
    """The classes that a model knows, if all of a file's are among them."""
    try:
        classes = named(path, spelt, known, "the model")
    except TutelageError:
        return None
    return classes if all(classes.place(name) is not None for name in spelt) else None


def found_classes(path: Path, spelt: Mapping[str, int], *, nameable: bool = True) -> Classes:
    """The classes that occur, sorted; numbers by value. ``nameable`` says whether the task reads ``--labels``.

    ``1``, ``1.0`` and ``01.0`` are one class. Names that differ in case or spaces alone are an error and not merged: most are
    mistakes, but only the user knows which are not (``us`` and ``US``), and a wrong merger would go unseen.

    Raises:
        TutelageError: for such names, or fewer than two classes.
    """
    names = set(spelt)
    if all(_whole(name) is not None for name in names):
        names = {str(_whole(name)) if "." in name or name.startswith("+") else name for name in names}
    if len(names) < 2:
        raise TutelageError(
            f"{path}: the labels have {listed(sorted(names)) or 'no class'} only, two or more classes are needed; check which "
            f"column is the label{', or name all classes with --labels' if nameable else ''}"
        )
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(_loose(name), []).append(name)
    if near := [group for group in groups.values() if len(group) > 1]:
        pairs = "; ".join(
            " and ".join(f"{shown(one)} ({_rows(spelt.get(one, 0))})" for one in group) for group in near[:3]
        )
        best = [max(group, key=lambda one: (spelt.get(one, 0), -len(one))) for group in groups.values()]
        given = f" ({','.join(best)})" if len(best) <= 10 and not any("," in name for name in best) else ""
        remedy = f", or name the classes with --labels{given}" if nameable else ""
        raise TutelageError(f"{path}: labels differ in case or spaces alone: {pairs}; correct them{remedy}")
    return Classes(ordered(names), str(path))


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted; by value where all are numbers."""
    found = set(names)
    values = {name: number(name) for name in found}
    if all(value is not None and value - value == 0 for value in values.values()):  # finite
        return tuple(sorted(found, key=lambda name: (values[name], name)))
    return tuple(sorted(found))
