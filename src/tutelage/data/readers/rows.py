"""Rows of JSON: one object a line, or one value for all (a list of rows, or columns as pandas and others write them).

The standard library parses them. Arrow's reader, which datasets uses, ends the interpreter on a line that is ``null``.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.data.readers.table import Cells, FileTable, listed, numbers, shown
from tutelage.errors import TutelageError, option


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or one that is nested too deeply, or a number too long.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_rows(path: Path, text: str, wanted: Sequence[str], header: bool, switch: bool = True) -> FileTable:
    """The table that a JSON text holds.

    Read are: one object (or, without ``header``, one list) a line; a list of these; a dict of columns, each a list or a dict by
    row; a dict of rows; pandas' ``orient="split"`` and ``"table"``.

    Args:
        path: For messages.
        text: The content, without a byte order mark.
        wanted: Columns that are asked for; they tell a dict of columns from a dict of rows.
        header: False for rows that are lists, whose columns are ``"0"``, ``"1"``, ...
        switch: Whether the reader has this option, which errors may then name.

    Raises:
        TutelageError: it is no JSON, or has another shape.
    """
    try:
        tree = parsed(text)
    except ValueError as error:
        whole = error
    else:
        if isinstance(tree, list):
            return _of_rows(path, tree, None, {}, header, switch)
        if isinstance(tree, dict) and any(isinstance(value, list | dict) for value in tree.values()):
            found = _of_dict(path, tree, wanted, header, switch)
            if found is not None:
                return found
        return _of_rows(path, [tree], [1], {}, header, switch)
    rows, lines, bad = list[Any](), list[int](), dict[int, str]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(parsed(line))
        except ValueError as error:
            bad[len(rows)] = f"is not JSON ({_reason(error)})"
            rows.append(None)
        lines.append(number)
    if len(bad) == len(rows):
        at = f", line {whole.lineno}" if isinstance(whole, json.JSONDecodeError) else ""
        raise TutelageError(
            f"{path}{at}: not JSON ({_reason(whole)}); correct it: one object a line, or a list of objects"
        )
    return _of_rows(path, rows, lines, bad, header, switch)


def stream_rows(path: Path, read: Callable[[], Iterator[str]], header: bool) -> FileTable | None:
    """The table of a large file with a row in each line. Its cells are read when they are asked for, by a pass over the file for
    each column.

    Args:
        path: For messages.
        read: Begins to read the file's lines; raises ``ValueError``, ``OSError``, ``EOFError`` or ``zlib.error`` where it cannot.
        header: As in :func:`read_rows`.

    Returns:
        ``None`` for a file that must be read whole: it has one line alone, begins with another line than a row, has mostly rows of
        the other kind, or cannot be read.
    """
    kind, what = (dict, "an object") if header else (list, "a list")
    names, lines, bad, strange = dict[str, None](), array("q"), dict[int, str](), 0
    try:
        for number, row, why in _rows_in(read()):
            if why is not None:
                bad[len(lines)] = f"is not JSON ({why})"
            elif not isinstance(row, kind):
                bad[len(lines)] = f"is {shown(row)}, not {what}"
                strange += isinstance(row, list | dict)
            else:
                names |= dict.fromkeys(row if isinstance(row, dict) else map(str, range(len(row))))
            if 0 in bad:
                return None
            lines.append(number)
    except (OSError, EOFError, zlib.error, ValueError):
        return None
    if len(lines) < 2 or 2 * strange > len(lines):
        return None

    def cells(name: str) -> Iterator[Any]:
        for _, row, _ in _rows_in(read()):
            if not isinstance(row, kind):
                yield None
            elif isinstance(row, dict):
                yield row.get(name)
            else:
                yield row[int(name)] if int(name) < len(row) else None

    columns = {name: Cells(partial(cells, name)) for name in names}
    return FileTable(path, columns, len(lines), lines=lines, bad=bad, hint="" if header else _numbered())


def _rows_in(lines: Iterator[str]) -> Iterator[tuple[int, Any, str | None]]:
    """For each line that is not blank its number, its value, and why it has none."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, parsed(line), None
            except ValueError as error:
                yield number, None, _reason(error)


def _numbered() -> str:
    return f"with {option('header', False)} columns are numbers: {numbers()}"


def _reason(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition(";")[0]


def _of_rows(
    path: Path, rows: Sequence[Any], lines: list[int] | None, bad: dict[int, str], header: bool, switch: bool
) -> FileTable:
    """A table of rows that are objects, or without ``header`` lists."""
    if not rows:
        raise TutelageError(f"{path} has no rows; give a file with rows")
    lists = sum(isinstance(row, list) for row in rows)
    if header and 2 * lists > len(rows):
        numbered = f", or pass {option('header', False)} and number them: {numbers()}" if switch else ""
        raise TutelageError(
            f"{path}: its rows are lists ({shown(next(row for row in rows if isinstance(row, list)))}), whose columns have no "
            f"names; write objects{numbered}"
        )
    if not header and not lists:
        raise TutelageError(f"{path} names its columns; leave out {option('header', False)}")
    kind, what = (dict, "an object") if header else (list, "a list")
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, kind):
            bad.setdefault(number, f"is {shown(row)}, not {what}")
            continue
        for name, value in row.items() if isinstance(row, dict) else enumerate(row):
            column = columns.get(str(name))
            if column is None:
                column = columns[str(name)] = [None] * len(rows)
            column[number] = value
    return FileTable(path, columns, len(rows), lines=lines, bad=bad, hint="" if header else _numbered())


def _of_dict(
    path: Path, tree: Mapping[str, Any], wanted: Sequence[str], header: bool, switch: bool
) -> FileTable | None:
    """A table that is one object; ``None`` where that is a row itself."""
    values = list(tree.values())
    if isinstance(tree.get("data"), list) and isinstance(names := tree.get("columns"), list):  # pandas: split
        rows = [dict(zip(map(str, names), row, strict=False)) if isinstance(row, list) else row for row in tree["data"]]
        return _of_rows(path, rows, None, {}, header, switch)
    if isinstance(tree.get("data"), list) and all(isinstance(row, dict) for row in tree["data"]):  # pandas: table
        return _of_rows(path, tree["data"], None, {}, header, switch)
    of_columns = any(name in tree for name in wanted)
    if all(isinstance(value, dict) for value in values):
        same = all(value.keys() == values[0].keys() for value in values)
        if of_columns and same:
            return _of_columns(path, {name: [value[row] for row in values[0]] for name, value in tree.items()})
        if not of_columns and any(name in values[0] for name in wanted):
            if all(isinstance(values[0][name], list | dict) for name in wanted if name in values[0]):
                return _splits(path, tree, switch)
            return _of_rows(path, values, None, {}, header, switch)
        return _splits(path, tree, switch)
    if all(isinstance(value, list) for value in values):
        if not wanted and not any(isinstance(cell, list) for cell in values[0]):
            return None  # one sentence
        if (of_columns or not wanted) and len({len(value) for value in values}) == 1:
            return _of_columns(path, tree)
        if of_columns:
            lengths = ", ".join(f"{shown(name)} {len(value)}" for name, value in tree.items())
            raise TutelageError(f"{path}: its columns have different lengths ({lengths}); correct them")
        return _splits(path, tree, switch)
    return None


def _of_columns(path: Path, tree: Mapping[str, Any]) -> FileTable:
    columns = {str(name): list(values) for name, values in tree.items()}
    count = len(next(iter(columns.values())))
    if not count:
        raise TutelageError(f"{path} has no rows; give a file with rows")
    return FileTable(path, columns, count, notes=["its one object is read as columns"])


def _splits(path: Path, tree: Mapping[str, Any], switch: bool) -> FileTable:
    lists = switch and any(isinstance(value, list) and value and isinstance(value[0], list) for value in tree.values())
    numbered = f" and pass {option('header', False)} {numbers()}" if lists else ""
    raise TutelageError(
        f"{path} is one object with the keys {listed(list(tree))}, not a table; if these are splits, write each to a file of its "
        f"own{numbered}"
    )
