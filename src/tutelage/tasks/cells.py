"""Labels in the cells of a table: numbers, names of classes, and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tutelage.data.readers.files import is_missing, listed, shown
from tutelage.errors import TutelageError


def number(value: Any) -> float | None:
    """The number that a cell is or spells."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def numbers(values: Sequence[Any]) -> list[float] | None:
    """The numbers of a column without its empty cells; ``None`` where a cell is no number."""
    found = [number(value) for value in values if not is_missing(value)]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


def class_name(value: Any) -> str:
    """The class that a cell names; a column of whole numbers with a gap comes as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def one_name(path: Path, row: int, value: Any) -> str:
    """The class of a row, which must have one.

    Raises:
        TutelageError: where it has none.
    """
    if is_missing(value) or not str(value).strip():
        raise TutelageError(f"{path}: row {row} has no label; give it one, or move it to the unlabelled file")
    return class_name(value)


def sorted_classes(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The classes that occur, sorted (whole numbers by value).

    Raises:
        TutelageError: for fewer than two.
    """
    found = set(names)
    if len(found) < 2:
        raise TutelageError(
            f"{path}: the labels have {listed(sorted(found)) or 'no class'} only, two or more classes are needed;"
            " check which column is the label"
        )
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def class_numbers(path: Path, rows: Iterable[Sequence[str]], names: Sequence[str], origin: str) -> list[list[int]]:
    """The numbers of each row's classes among ``names``, which come from ``origin``.

    Raises:
        TutelageError: for a class that is not among them.
    """
    number_of = {name: place for place, name in enumerate(names)}
    found = []
    for row, present in enumerate(rows, 1):
        unknown = [name for name in present if name not in number_of]
        if unknown:
            raise TutelageError(
                f"{path}: row {row} has label {shown(unknown[0])}, which {origin} lacks (it has {listed(names)});"
                " correct the label, or delete the row"
            )
        found.append([number_of[name] for name in present])
    return found
