"""Predictions in a table, whatever their form: labels, distributions, log-probabilities of label words, or votes.

A form is recognised once for a file; each row must have it. What a row says becomes a probability for each class.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.config import Predictions
from tutelage.data.readers.table import is_missing, listed, shown
from tutelage.errors import TutelageError
from tutelage.tasks import cells

Values = npt.NDArray[np.float64]

USUAL = (
    "label",
    "prediction",
    "predictions",
    "predicted",
    "answer",
    "answers",
    "probabilities",
    "probs",
    "distribution",
)
USUAL_LOGS = ("logprobs", "log probs", "log probabilities", "top logprobs")
"""Names of a column of predictions, as :func:`plain` spells them."""

VOTE = re.compile(r"(vote|answer|label|prediction|annotator)s? ?\d+")
"""Names of several columns of votes."""

TOLERANCE = 0.02
"""How far a distribution's sum may be from 1: probabilities are often rounded to two digits."""


def plain(name: Any) -> str:
    """A label without what spellings differ in: case, spaces, hyphens, underscores, quotes, a final stop, a token's mark."""
    words = re.split(r"[\s_\-\u0120\u2581]+", cells.class_name(name).strip(" \t\r\n\"'`.,:;!"))
    return " ".join(filter(None, words)).casefold()


class LabelNames:
    """The classes, found by their names or, where that is unambiguous, by another spelling of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._exact = {name: number for number, name in enumerate(names)}
        spelt = Counter(map(plain, names))
        self._plain = {plain(name): number for name, number in self._exact.items() if spelt[plain(name)] == 1}

    def find(self, word: Any) -> int | None:
        """The number of a class, or None."""
        exact = self._exact.get(cells.class_name(word))
        return self._plain.get(plain(word)) if exact is None else exact


@dataclass
class PredictedValues:
    """What a file predicts."""

    path: Path
    form: str
    """The recognised form, in words."""
    labels: tuple[str, ...]
    values: Values
    """``(rows, outputs)``: probabilities of the classes, or numbers; ``nan`` in rows without a prediction."""
    hard: bool = False
    """Whether each row names its classes and says nothing of their probabilities."""
    unknown: Counter[str] = field(default_factory=Counter)
    """PredictedValues that are none of the labels, which were left out."""
    missing: float = 0.0
    """Mean probability that a row gives to no label."""

    @property
    def given(self) -> npt.NDArray[np.bool_]:
        """``(rows,)``: which rows have a prediction."""
        return np.asarray(~np.isnan(self.values).any(axis=1))


@dataclass(frozen=True)
class PredictionColumns:
    """The columns of predictions of a file, their cells parsed; ``by_class`` if each column is a class."""

    path: Path
    columns: dict[str, list[Any]]
    how: Predictions
    by_class: bool
    separator: str | None = None
    """What parts several labels in a cell."""

    @property
    def first(self) -> str:
        return next(iter(self.columns))

    @property
    def rows(self) -> list[Any]:
        """One value a row: that of the only column; of several columns a mapping by class, or a list of votes."""
        if len(self.columns) == 1:
            return self.columns[self.first]
        together = list(zip(*self.columns.values(), strict=True))
        if self.by_class:
            return [self._mapped(row) for row in together]
        return [[value for value in row if not is_missing(value)] or None for row in together]

    def _mapped(self, row: Sequence[Any]) -> dict[str, Any] | None:
        found = {name: value for name, value in zip(self.columns, row, strict=True) if not is_missing(value)}
        return found or None

    @property
    def logs(self) -> bool:
        """Whether the column's name says that its numbers are log-probabilities."""
        return len(self.columns) == 1 and plain(self.first) in USUAL_LOGS


def prediction_columns(
    path: Path, columns: Mapping[str, list[Any]], others: Iterable[str | None], labels: Sequence[str], how: Predictions
) -> PredictionColumns:
    """Which columns hold the predictions: those that are named, else one for each class, a usual name, or the only one left.

    Args:
        path: The file, for messages.
        columns: All its columns.
        others: Columns that hold something else: texts and ids.
        labels: The classes, where they are known.
        how: The settings.

    Raises:
        TutelageError: a named column is missing, or several may be meant.
    """
    rest = [name for name in columns if name not in set(others)]
    known = LabelNames(labels)
    if how.columns:
        lacking = [name for name in how.columns if name not in columns]
        if lacking:
            raise TutelageError(f"{path} has no column {lacking[0]!r}; its columns are {listed(list(columns))}")
        picked = list(how.columns)
        classes = len(picked) > 1 and (
            len({known.find(name) for name in picked} - {None}) == len(picked)
            if labels
            else cells.numbers([value for name in picked for value in columns[name]]) is not None
        )
        return _table(path, columns, picked, how, classes)
    by_class = {known.find(name): name for name in rest if known.find(name) is not None}
    if labels and len(by_class) == len(labels):
        return _table(path, columns, [by_class[number] for number in range(len(labels))], how, True)
    usual = [name for name in rest if plain(name) in (*USUAL, *USUAL_LOGS)]
    votes = [name for name in rest if VOTE.fullmatch(plain(name))]
    for picked in (usual, votes if len(votes) > 1 else [], rest):
        if len(picked) == 1 or (picked is votes and picked):
            return _table(path, columns, picked, how, False)
    if not rest:
        raise TutelageError(f"{path} has no column of predictions; its columns are {listed(list(columns))}")
    shares = [] if usual else _shares({name: columns[name] for name in rest})
    several = f"{path} has several columns that may be predictions ({listed(usual or rest)})"
    if len(shares) < 2:
        raise TutelageError(f"{several}; name those that are: --set predictions.columns={(usual or rest)[0]}")
    remedies = [f"--set 'predictions.columns={json.dumps(shares, ensure_ascii=False)}'"]
    if not labels and not any("," in name for name in shares):
        remedies.insert(0, f"--labels {','.join(shares)}")
    raise TutelageError(f"{several}; if each has the probability of a class, name them: {' or '.join(remedies)}")


def _shares(columns: Mapping[str, list[Any]]) -> list[str]:
    """The columns that may have the probability of a class each: numbers; where any are such, probabilities or their
    logarithms."""
    found = {name: cells.numbers(values) for name, values in columns.items()}
    numbers = {name: values for name, values in found.items() if values}
    likely = [n for n, values in numbers.items() if max(values) <= 0 or (min(values) >= 0 and max(values) <= 1)]
    return likely if len(likely) > 1 else list(numbers)


def _table(
    path: Path, columns: Mapping[str, list[Any]], picked: Sequence[str], how: Predictions, by_class: bool
) -> PredictionColumns:
    return PredictionColumns(
        path, {name: [_parsed(value) for value in columns[name]] for name in picked}, how, by_class
    )


def _parsed(value: Any) -> Any:
    """A cell that spells a list or a mapping as that; numpy's arrays as lists; empty cells as None."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, list | dict):
        return value
    return None if is_missing(value) or not str(value).strip() else value


# ---------------------------------------------------------------------------------------------------------- numbers


def numbers_in(table: PredictionColumns) -> PredictedValues:
    """A number for each text, the mean where a row has several.

    Raises:
        TutelageError: for a cell that is no finite number, or a file without any.
    """
    rows = table.rows
    values = np.full((len(rows), 1), np.nan)
    for row, value in enumerate(rows, 1):
        if value is None:
            continue
        several = value if isinstance(value, list) else [value]
        found = [cells.number(one) for one in several]
        if not found or not all(one is not None and math.isfinite(one) for one in found):
            raise TutelageError(
                f"{table.path}: row {row} predicts {shown(value)}, which is not a number; correct it, or use kind classification"
            )
        values[row - 1] = np.mean([one for one in found if one is not None])
    form = "numbers" if not any(isinstance(value, list) for value in rows) else "means of several numbers"
    return _checked(PredictedValues(table.path, form, (), values, hard=True), table.how)


# ---------------------------------------------------------------------------------------------------------- classes


def classes_in(table: PredictionColumns, labels: Sequence[str], *, several: bool = False) -> PredictedValues:
    """Probabilities of the classes.

    Args:
        table: The predictions.
        labels: The classes; empty if the file has to say them.
        several: A text may have any number of the classes, each with a probability of its own.

    Raises:
        TutelageError: for a row of another form, an unknown label, numbers that are no probabilities, or no prediction at all.
    """
    rows = [_as_mapping(value) for value in table.rows]
    if several:
        rows = cells.split(rows, table.separator)
    first = next((row for row in rows if row is not None), None)
    if first is None:
        raise TutelageError(f"{table.path} has no predictions in {listed(list(table.columns))}; name the right columns")
    if isinstance(first, dict):
        return _mappings(table, rows, labels, several)
    if isinstance(first, list) and _ordered(rows, labels):
        if not labels:
            raise _nameless(table, "lists of numbers")
        return _mappings(table, [_in_order(table, n, row, labels) for n, row in enumerate(rows, 1)], labels, several)
    return _named(table, rows, labels, several)


def _as_mapping(value: Any) -> Any:
    """Pairs of token and log-probability, as language models' interfaces return them, as a mapping."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "logprob" in one for one in value):
        found: dict[str, float] = {}
        for one in value:
            word, log = str(one.get("token", "")), cells.number(one["logprob"])
            found[word] = max(found.get(word, -math.inf), -math.inf if log is None else log)
        return _Logs(found)
    return value


class _Logs(dict[str, float]):
    """A mapping whose numbers are known to be log-probabilities."""


def _ordered(rows: Sequence[Any], labels: Sequence[str]) -> bool:
    """Whether lists are numbers in the order of the labels: not where they are votes for classes that are called by numbers."""
    lists = [row for row in rows if isinstance(row, list) and row]
    numbers = cells.numbers([value for row in lists for value in row])
    if numbers is None or any(isinstance(value, bool) for row in lists for value in row):
        return False
    if not all(number.is_integer() for number in numbers) or all(sum(map(float, row)) == 1 for row in lists):
        return True
    known = LabelNames(labels)
    return bool(labels) and not all(known.find(value) is not None for row in lists for value in row)


def _in_order(table: PredictionColumns, row: int, value: Any, labels: Sequence[str]) -> Any:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(labels):
        what = f"{len(value)} numbers" if isinstance(value, list) else shown(value)
        raise TutelageError(
            f"{table.path}: row {row} has {what} for {len(labels)} labels ({listed(labels)}); correct it"
        )
    return dict(zip(labels, value, strict=True))


def _nameless(table: PredictionColumns, what: str) -> TutelageError:
    return TutelageError(
        f"{table.path} has {what}, which do not say the classes; name them with --labels a,b,c, or give rows with labels (--train)"
    )


def _named(table: PredictionColumns, rows: Sequence[Any], labels: Sequence[str], several: bool) -> PredictedValues:
    """LabelNames, or votes for labels."""
    votes = [row if isinstance(row, list) else None if row is None else [row] for row in rows]
    for number, row in enumerate(votes, 1):
        wrong = [one for one in row or () if isinstance(one, list | dict)]
        if wrong or isinstance(rows[number - 1], dict):
            raise TutelageError(
                f"{table.path}: row {number} predicts {shown(rows[number - 1])}, not a label; correct it"
            )
    said = [one for row in votes if row for one in row if not is_missing(one)]
    names = tuple(labels) or cells.found_classes(table.path, _spellings(said)).names
    known, unknown = LabelNames(names), Counter[str]()
    values = np.full((len(rows), len(names)), np.nan)
    for place, given in enumerate(votes):
        found = [(one, known.find(one)) for one in given or () if not is_missing(one)]
        unknown.update(str(one) for one, number in found if number is None)
        counts = np.bincount([number for _, number in found if number is not None], minlength=len(names))
        if several and given is not None:
            values[place] = counts > 0
        elif counts.any():
            values[place] = counts / counts.sum()
    most = max((len(row) for row in votes if row), default=1)
    form = "sets of labels" if several else "labels" if most == 1 else f"up to {most} votes a text"
    return _checked(PredictedValues(table.path, form, names, values, several or most == 1, unknown), table.how)


def _spellings(said: Iterable[Any]) -> dict[str, int]:
    """The labels that are said and how often, each by its most frequent spelling."""
    counts = Counter(cells.class_name(one) for one in said)
    names: dict[str, str] = {}
    for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        names.setdefault(plain(name), name)
    found = Counter[str]()
    for name, count in counts.items():
        found[names[plain(name)]] += count
    return dict(found)


def _mappings(table: PredictionColumns, rows: Sequence[Any], labels: Sequence[str], several: bool) -> PredictedValues:
    """Probabilities, or log-probabilities, by label."""
    path = table.path
    for number, row in enumerate(rows, 1):
        if row is not None and not isinstance(row, dict):
            raise TutelageError(
                f"{path}: row {number} predicts {shown(row)}, where other rows have numbers by label; correct it"
            )
    read = [None if row is None else _numbers_of(path, number, row) for number, row in enumerate(rows, 1)]
    logs = table.logs or any(isinstance(row, _Logs) for row in rows)
    logs = logs or any(value < 0 for row in read if row for value in row.values())
    if logs:
        _check_logs(path, read)
    if logs and not labels and not table.by_class:
        raise _nameless(table, "log-probabilities of words")
    names = tuple(labels) or cells.found_classes(path, _spellings(w for row in read if row for w in row)).names
    known, unknown, missing, whole = LabelNames(names), Counter[str](), list[float](), True
    values = np.full((len(rows), len(names)), np.nan)
    for row, given in enumerate(read):
        if not given:
            continue
        mass, seen = np.zeros(len(names)), np.zeros(len(names), dtype=bool)
        for word, value in given.items():
            place = known.find(word)
            if place is None:
                if not logs:
                    unknown[word] += 1
                continue
            mass[place] += math.exp(min(value, 0.0)) if logs else _probability(path, row + 1, word, value)
            seen[place] = True
        if not seen.any():
            if logs:
                unknown[max(given, key=lambda word: given[word])] += 1
            continue
        complete = bool(seen.all())
        whole = whole and complete
        if not several:
            _check_sum(path, row + 1, mass.sum(), strict=complete and not logs)
            missing.append(max(0.0, 1 - float(mass.sum())))
            mass = completed(mass, seen, table.how.missing)
        values[row] = mass
    what = "log-probabilities" if logs else "probabilities"
    form = f"{what} of all labels" if whole else f"{what} of the likeliest labels"
    found = PredictedValues(path, form, names, values, False, unknown, float(np.mean(missing)) if missing else 0.0)
    return _checked(found, table.how)


def completed(mass: Values, seen: npt.NDArray[np.bool_], how: str) -> Values:
    """``(classes,)``: a distribution made of the probabilities of the labels that a row lists.

    With ``spread`` the rest is given evenly to the labels that the row does not list; with ``drop``, and where it lists all, the
    listed ones are scaled to sum to 1.
    """
    rest = 1 - mass.sum()
    if how == "spread" and rest > 0 and not seen.all():
        return np.where(seen, mass, rest / (~seen).sum())
    total = mass.sum()
    # A row whose listed labels have no measurable probability says nothing of which is likelier.
    return np.asarray(mass / total if total > 0 else seen / seen.sum())


def _numbers_of(path: Path, row: int, given: Mapping[Any, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word, value in given.items():
        if value is None:
            continue
        number = cells.number(value)
        if number is None or number != number or number == math.inf:
            raise TutelageError(
                f"{path}: row {row} gives {str(word)!r} the value {shown(value)}, which is no probability; correct it"
            )
        found[str(word)] = number
    return found


def _check_logs(path: Path, rows: Sequence[Mapping[str, float] | None]) -> None:
    """See that log-probabilities are such: a logarithm of a probability is not above 0."""
    for number, row in enumerate(rows, 1):
        high, low = (pick(row, key=row.__getitem__) for pick in (max, min)) if row else ("", "")
        if row and row[high] > TOLERANCE:
            also = f" beside {low!r} {row[low]:g}" if row[low] < 0 else ""
            raise TutelageError(
                f"{path}: row {number} gives {high!r} {row[high]:g}{also}, which is no log-probability (above 0), and negative "
                "numbers are no probabilities; give one of both"
            )


def _probability(path: Path, row: int, word: str, value: float) -> float:
    if value > 1 + TOLERANCE:
        raise TutelageError(
            f"{path}: row {row} gives {word!r} the probability {value:g}, above 1; give probabilities, or their logarithms"
        )
    return min(value, 1.0)


def _check_sum(path: Path, row: int, total: float, *, strict: bool) -> None:
    if total > 1 + TOLERANCE or (strict and total < 1 - TOLERANCE):
        raise TutelageError(
            f"{path}: row {row} has probabilities that sum to {total:.3g}; make them sum to 1"
            + (", or list only the labels whose probability is known" if total < 1 else "")
        )


def _checked(found: PredictedValues, how: Predictions) -> PredictedValues:
    """What was read, if it is of use.

    Raises:
        TutelageError: answers that are no labels, or no prediction at all.
    """
    some = ", ".join(f"{shown(name)} {count:,}" for name, count in found.unknown.most_common(5))
    known = f"the labels are {listed(found.labels)}"
    if not found.given.any():
        raise TutelageError(f"{found.path}: no answer is a label ({some or 'all are empty'}); {known}")
    if found.unknown and how.unknown == "error":
        raise TutelageError(
            f"{found.path}: {found.unknown.total():,} answers are no labels ({some}); {known}: correct them, name all labels with "
            "--labels, or leave such answers out with --set predictions.unknown=drop"
        )
    return found
