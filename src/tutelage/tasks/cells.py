"""Labels in the cells of a table: what a column's cells stand for, and which classes they name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tutelage.data.readers.table import halves, is_missing, listed, shown
from tutelage.errors import TutelageError, option

GAPS = frozenset(("nan", "na", "n/a", "none", "null", "nil", "-", "?"))
"""What stands for a missing number, in lower case. Among names these may be names."""

TRUTH = frozenset(("true", "false"))

SEPARATORS = ("|", ";", ",")
"""What parts several classes in a cell, the first that occurs."""

WHOLE = re.compile(r"[+-]?\d{1,50}(\.0*)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
DECIMAL = "decimal commas"
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")

LIST = re.compile(r"\[.*\]|[{(]\s*(['\"].*['\"]\s*,?\s*)?[})]|set\(\)", re.DOTALL)
"""A list as JSON, pandas, numpy or Python write it; a set or a tuple only of quoted names."""
BARE_LIST = re.compile(r"\{.*\}|\(.*\)", re.DOTALL)
"""A list as databases write it (``{a,b}``); where one class is expected it may as well be a name."""
MAPPING = re.compile(r"""\{\s*(['"]).*?\1\s*:.*\}""", re.DOTALL)


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
    if is_missing(value) or not loose(str(value)):
        raise Unreadable("has no label")
    if isinstance(value, list | dict | bytes) or halves(str(value)):
        raise Unreadable(f"has label {shown(value)}, which is no name")
    return class_name(value)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


# Columns
@dataclass
class LabelColumn:
    """The cells of a column of labels, made plain: ``None``, strings without spaces around them, numbers, or lists of names."""

    values: list[Any]
    notes: list[str] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that do not fit the others, and why."""
    width: int | None = None
    """The length of lists of zeros and ones, one for each class; ``None`` for other columns."""
    separator: str | None = None
    """What parts the classes of a cell that names several; ``None`` where no cell has any of :data:`SEPARATORS`."""


def plain(values: Iterable[Any], like: LabelColumn | None = None, *, several: bool = False) -> LabelColumn:
    """A column as :class:`LabelColumn` says. Lists that are written as text are read. Of lists of zeros and ones (multi-hot) the
    names are the places of the ones, ``"0"``, ``"1"``, ... Lists of other numbers than classes have are bad rows.

    Args:
        values: Its cells.
        like: The column of the training file, whose width and separator hold here too.
        several: A text may have several classes: the user says so.
    """
    once: dict[str, str] = {}  # rows of one class share its name
    shared = [once.setdefault(value, value) if isinstance(value, str) else value for value in values]
    column, width = LabelColumn(shared), None if like is None else like.width
    spaces = 0
    for row, value in enumerate(column.values):
        if isinstance(value, str):
            column.values[row] = value.strip()
            spaces += value.strip() != value
    if spaces:
        column.notes.append(f"spaces around {spaces:,} labels are left out")
    _read_lists(column, several)
    _find_gaps(column)
    _find_measures(column)
    lists = [value for value in column.values if isinstance(value, list)]
    if width is not None or _is_hot(lists):
        _read_hot(column, width or Counter(map(len, lists)).most_common(1)[0][0])
    column.separator = like.separator if like is not None and like.separator else found_separator(column.values)
    return column


def _read_lists(column: LabelColumn, several: bool) -> None:
    """Read lists that are written as text, as pandas, Python or a database writes them into CSV, where most cells are such."""
    written = [value for value in column.values if isinstance(value, str) and value]
    lists = {
        value
        for value in written
        if (LIST.fullmatch(value) or (several and BARE_LIST.fullmatch(value))) and not MAPPING.fullmatch(value)
    }
    if not lists or 2 * sum(value in lists for value in written) < len(written):
        if several:
            _read_digits(column, written)
        return
    for row, value in enumerate(column.values):
        if isinstance(value, str) and value in lists:
            inside = re.sub(r"^\w*", "", value)[1:-1].strip()
            if "[" in inside or "]" in inside:
                column.bad[row] = f"has label {shown(value)}, a list in a list"
                continue
            parts = re.findall(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"]+)""", inside)
            if parts and not re.search(r"""['"]""", inside) and "," in inside:
                bare = inside.removesuffix(",").split(",")
                column.values[row] = [_unquoted(part.strip()) for part in bare]
            else:
                column.values[row] = [_unquoted(other) if other else (one or two).strip() for one, two, other in parts]
    example = next(value for value in written if value in lists)
    column.notes.append(f"labels such as {shown(example)} are read as lists")


def _unquoted(part: str) -> Any:
    """What is written without quotes in a list: truth values and numbers that are no class number as such, all else as a name."""
    if part in ("True", "False"):
        return part == "True"
    value = number(part)
    return value if value is not None and not is_missing(value) and not _counts(value) else part


def _counts(value: float) -> bool:
    """Whether a number may be that of a class."""
    return value >= 0 and value == value // 1


def _read_digits(column: LabelColumn, written: Sequence[str]) -> None:
    """Read zeros and ones with a separator between them (``0,1,0``), one for each class, where all cells are such."""
    separator = found_separator(written)
    parts = {value: [part.strip() for part in value.split(separator)] for value in written} if separator else {}
    lists = list(parts.values())
    if len({len(one) for one in lists}) == 1 and _is_hot(lists):
        column.values = [parts.get(value, value) if isinstance(value, str) else value for value in column.values]


def _find_gaps(column: LabelColumn) -> None:
    """Among numbers ``nan``, ``NA`` and the like are gaps; among names they may be names, and a note says so."""
    words = [value for value in column.values if isinstance(value, str) and value.lower() in GAPS]
    if not words:
        return
    others = [value for value in column.values if not (isinstance(value, str) and value.lower() in GAPS)]
    if len(others) >= len(words) and (numbers(others) or with_commas(others)):
        for row, value in enumerate(column.values):
            if isinstance(value, str) and value.lower() in GAPS:
                column.bad[row] = f"has no label ({shown(value)} is a gap among numbers)"
                column.values[row] = None
        return
    for word, count in Counter(words).items():
        column.notes.append(f"{shown(word)} is read as a class ({_rows(count)}); if it is a gap, leave these rows out")


def _find_measures(column: LabelColumn) -> None:
    """Lists of numbers that no class has (probabilities, negative ones) say nothing of classes."""
    numeric = [row for row, value in enumerate(column.values) if isinstance(value, list) and numbers(value)]
    for row in numeric:
        value = column.values[row]
        if any(isinstance(one, int | float) and not is_missing(one) and not _counts(one) for one in value):
            column.bad.setdefault(
                row,
                f"has label {shown(value)}, numbers that no class has (give probabilities as {option('teacher_predictions')})",
            )
            column.values[row] = None


def _is_hot(lists: Sequence[list[Any]]) -> bool:
    """Whether lists are zeros and ones for each class: classes by number would not be repeated in a list."""
    if not lists or not all(number(item) in (0, 1) for one in lists for item in one):
        return False
    repeats = any(len({number(item) for item in one}) < len(one) for one in lists)
    return repeats or (len({len(one) for one in lists}) == 1 and len(lists[0]) > 1)


def _read_hot(column: LabelColumn, width: int) -> None:
    column.width = width
    for row, value in enumerate(column.values):
        if not isinstance(value, list):
            continue
        if len(value) != width or not all(number(item) in (0, 1) for item in value):
            column.bad.setdefault(row, f"has label {shown(value)}, which is not {width} zeros and ones")
            column.values[row] = None
        else:
            column.values[row] = [str(place) for place, item in enumerate(value) if number(item)]
    column.notes.append(
        f"labels are lists of {width} zeros and ones, one for each class ({option('labels')} names them)"
    )


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
    """Cells as lists of names: strings are split at ``separator``."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in ([text] if separator is None else text.split(separator)) if name.strip()]

    return [names(value) if isinstance(value, str) else value for value in values]


def with_commas(values: Sequence[Any]) -> tuple[list[Any], str] | None:
    """The numbers of a column of which some are written with commas, and what these are, in words; ``None`` for any other column.

    Decimal commas (``0,5``) and thousands separators (``1,250,000``) are told apart by all cells together. Where both are possible
    (``1,250``) the words are empty, and the cells with a comma are left as they are.
    """
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    others = [value for value in values if not is_missing(value) and not isinstance(value, str)]
    commas = [text for text in texts if "," in text]
    if not commas:
        return None
    decimal = not others and all(DECIMAL_COMMA.fullmatch(text) for text in texts)
    rest = numbers([*others, *(text for text in texts if "," not in text)])
    grouped = rest is not None and all(THOUSANDS.fullmatch(text) for text in commas)
    if decimal == grouped:
        return (list(values), "") if decimal else None
    return [
        _with_point(value, "." if decimal else "") for value in values
    ], DECIMAL if decimal else "thousands separators"


def _with_point(value: Any, comma: str) -> float | None:
    return None if is_missing(value) else number(value.replace(",", comma) if isinstance(value, str) else value)


def both(text: str) -> str:
    """What a number may be whose comma may stand before decimals or thousands."""
    return f"{text.replace(',', '')} or {text.replace(',', '.')}"


def measured(values: Sequence[Any]) -> bool:
    """Whether a column has numbers that are more than the numbers of classes: any with a fraction, or thousands."""
    found = with_commas(values)
    if found is not None and found[1] != DECIMAL:
        return True
    known = numbers(values if found is None else found[0])
    return known is not None and not all(value.is_integer() for value in known)


# Classes
@lru_cache(maxsize=4096)
def loose(name: str) -> str:
    """The name without what people vary by mistake: case, spaces, the way that accents are encoded, invisible characters."""
    seen = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    return " ".join(seen.casefold().split())


def whole(name: str) -> int | None:
    """The whole number that a name is."""
    return int(float(name)) if WHOLE.fullmatch(name) and len(name) < 16 else None


@dataclass(frozen=True)
class Classes:
    """The classes of a task, and which of them a spelling means."""

    names: tuple[str, ...]
    origin: str
    """Where they come from, in words."""
    numbers: Mapping[int, int] | None = None
    """The place of each class by its number, where a file has numbers in place of names."""

    def place(self, spelt: str) -> int | None:
        """The number of a class: by its name, its number, or a name that :func:`loose` makes alike."""
        if spelt in self._exact:
            return self._exact[spelt]
        value = whole(spelt)
        if value is not None:
            return self._exact.get(str(value)) if self.numbers is None else self.numbers.get(value)
        return self._near.get(loose(spelt))

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def _near(self) -> dict[str, int]:
        times = Counter(map(loose, self.names))
        return {loose(name): place for place, name in enumerate(self.names) if times[loose(name)] == 1}

    def renamed(self, spelt: Mapping[str, int]) -> list[str]:
        """Notes on the spellings (with their counts) that are read as another name."""
        if self.numbers is not None:
            known = ", ".join(f"{value}={self.names[place]}" for value, place in list(self.numbers.items())[:20])
            return [f"class numbers are named by {self.origin}: {known}{' ...' if len(self.names) > 20 else ''}"]
        other = [(name, self.names[place]) for name in spelt if (place := self.place(name)) is not None]
        floats = sorted(name for name, meant in other if name != meant and whole(name) is not None)
        if floats:
            rows = sum(spelt[name] for name in floats)
            return [
                f"whole numbers written as {shown(floats[0])} ({_rows(rows)}) are read as {shown(str(whole(floats[0])))}"
            ]
        changed = [
            f"{shown(name)} ({_rows(spelt[name])}) is read as {shown(meant)}" for name, meant in other if name != meant
        ]
        return changed[:5] + ([f"and so are {len(changed) - 5} more spellings"] if len(changed) > 5 else [])


class Ambiguous(TutelageError):
    """The classes that a file's numbers stand for cannot be known."""


def named(path: Path, spelt: Mapping[str, int], given: Sequence[str], origin: str) -> Classes:
    """The classes ``given``, for a file with these spellings (and their counts).

    Numbers are those in the names, where each name has one of its own (``1 star``, ``LABEL_1``). Else they stand for the classes in
    their order: from 0, or from 1 where the last number is that of the classes. 1 alone, of two classes, is the second.

    Raises:
        TutelageError: the file's numbers fit neither, or (:class:`Ambiguous`) both.
    """
    classes = Classes(tuple(given), origin)
    values = [whole(name) for name in spelt]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values) or any(classes.place(name) is not None for name in spelt):
        return classes
    own = _own_numbers(given)
    if set(known) <= own.keys():
        return Classes(tuple(given), origin, own)
    low, high, count = min(known), max(known), len(given)
    says = f"{path}: the labels are numbers from {low} to {high}, {origin} names {count} classes ({listed(given)})"
    given_here = origin == option("labels")
    write = "write the names in place of the numbers" + (f", or leave out {origin}" if given_here else "")
    if low < 0 or high > count or (low == 0 and high == count):
        raise TutelageError(f"{says}; {'name one for each number from 0' if low == 0 else write}")
    if low > 0 and high < count and (low, high, count) != (1, 1, 2):
        raise Ambiguous(f"{says}; they may count from 0 or from 1: {write}")
    first = int(high == count)
    return Classes(tuple(given), origin, {place + first: place for place in range(count)})


def _own_numbers(names: Sequence[str]) -> dict[int, int]:
    """The place of each name by the number that is in it; empty where any has none or several, or two have the same."""
    found = [re.findall(r"\d{1,15}", name) for name in names]
    own = {int(one[0]): place for place, one in enumerate(found) if len(one) == 1}
    return own if len(own) == len(names) else {}


def fitting(path: Path, spelt: Mapping[str, int], known: Sequence[str]) -> Classes | None:
    """The classes that a model knows, if all of a file's are among them.

    Raises:
        Ambiguous: as :func:`named`.
    """
    try:
        classes = named(path, spelt, known, "the model")
    except Ambiguous:
        raise
    except TutelageError:
        return None
    return classes if all(classes.place(name) is not None for name in spelt) else None


def found_classes(path: Path, spelt: Mapping[str, int], *, nameable: bool = True) -> Classes:
    """The classes that occur, sorted; numbers by value. ``nameable`` says whether the task reads ``--labels``.

    ``1``, ``1.0`` and ``01.0`` are one class. Names that :func:`loose` makes alike are an error and not merged: most are
    mistakes, but only the user knows which are not (``us`` and ``US``), and a wrong merger would go unseen.

    Raises:
        TutelageError: for such names, or fewer than two classes.
    """
    names = set(spelt)
    if all(whole(name) is not None for name in names):
        names = {str(whole(name)) if "." in name or name.startswith("+") else name for name in names}
    if len(names) < 2:
        naming = f", or name all classes with {option('labels')}" if nameable else ""
        raise TutelageError(
            f"{path}: the labels have {listed(sorted(names)) or 'no class'} only, two or more classes are needed; check which "
            f"column is the label{naming}"
        )
    if {loose(name) for name in names} <= {"0", "1", *TRUTH} and TRUTH & set(map(loose, names)) and {"0", "1"} & names:
        raise TutelageError(
            f"{path}: labels are truth values and numbers ({listed(sorted(names))}), which may mean the same; write all as "
            "numbers, or all as truth values"
        )
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(loose(name), []).append(name)
    if near := [group for group in groups.values() if len(group) > 1]:
        pairs = "; ".join(
            " and ".join(f"{shown(one)} ({_rows(spelt.get(one, 0))})" for one in group) for group in near[:3]
        )
        best = [max(group, key=lambda one: (spelt.get(one, 0), -len(one))) for group in groups.values()]
        given = f" ({','.join(best)})" if len(best) <= 10 and not any("," in name for name in best) else ""
        remedy = f", or name the classes with {option('labels')}{given}" if nameable else ""
        raise TutelageError(
            f"{path}: labels differ in case, spaces or invisible characters alone: {pairs}; correct them{remedy}"
        )
    return Classes(ordered(names), str(path))


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted; by value where all are numbers."""
    found = set(names)
    values = {name: number(name) for name in found}
    if all(value is not None and value - value == 0 for value in values.values()):  # finite
        return tuple(sorted(found, key=lambda name: (values[name], name)))
    return tuple(sorted(found))
