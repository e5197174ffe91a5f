"""Predictions in a table, whatever their form: labels, distributions, log-probabilities of label words, or votes.

A form is recognised once for a file; each row must have it. What a row says becomes a probability for each class.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.readers.table import is_missing, listed, shown
from tutelage.errors import TutelageError, option
from tutelage.tasks import cells
from tutelage.tasks.prediction_columns import LabelNames, PredictionColumns, plain

Values = npt.NDArray[np.float64]

TOLERANCE = 0.02
"""How far a distribution's sum may be from 1: probabilities are often rounded to two digits."""


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
    columns: str = ""
    """The columns of the predictions, in words."""

    @property
    def given(self) -> npt.NDArray[np.bool_]:
        """``(rows,)``: which rows have a prediction."""
        return np.asarray(~np.isnan(self.values).any(axis=1))


# ---------------------------------------------------------------------------------------------------------- numbers


def numbers_in(table: PredictionColumns) -> PredictedValues:
    """A number for each text, the mean where a row has several. They are written as labels may be, with their gaps.

    Raises:
        TutelageError: for answers that are no finite numbers, or a file without any.
    """
    rows = [value if isinstance(value, list) else [] if value is None else [value] for value in table.rows]
    flat = [None if _is_gap(one) else one for row in rows for one in row]
    likely = [one if _may_be_number(one) else None for one in flat]
    read, _ = cells.with_commas(likely) or (likely, "")
    if doubtful := next((one for one in read if isinstance(one, str) and cells.THOUSANDS.fullmatch(one)), None):
        raise TutelageError(
            f"{table.path}: the answer {doubtful!r} may be {cells.both(doubtful)}; write all numbers without such commas"
        )
    answers, unknown = iter(zip(flat, read, strict=True)), Counter[str]()
    values = np.full((len(rows), 1), np.nan)
    for row, several in enumerate(rows):
        found = list[float]()
        for _ in several:
            said, one = next(answers)
            number = None if said is None else cells.number(one)
            if number is not None and math.isfinite(number):
                found.append(number)
            elif said is not None:
                unknown[str(said)] += 1
        if found:
            values[row] = np.mean(found)
    form = "numbers" if not any(isinstance(value, list) for value in table.rows) else "means of several numbers"
    return _checked(PredictedValues(table.path, form, (), values, hard=True, unknown=unknown), table)


def _may_be_number(value: Any) -> bool:
    return cells.number(value) is not None or (
        isinstance(value, str) and bool(re.fullmatch(r"\s*[+-]?[\d.,]+\s*", value))
    )


def _is_gap(value: Any) -> bool:
    """Whether an answer that should be a number is a gap."""
    return is_missing(value) or (isinstance(value, str) and value.strip().lower() in cells.GAPS)


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
        ordered = [_in_order(table, n, row, labels) for n, row in enumerate(rows, 1)]
        in_order = replace(table, classes=tuple(labels)) if len(table.columns) == len(labels) else table
        return _mappings(in_order, ordered, labels, several)
    return _named(table, rows, labels, several)


def _as_mapping(value: Any) -> Any:
    """What interfaces return, as a mapping: pairs of token and log-probability (of OpenAI and vLLM), or of label and score (of
    pipelines)."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | dict):
        return _as_mapping(value[0])
    pairs = value if isinstance(value, list) else [value]
    if isinstance(value, dict) and all(isinstance(one, dict) and "logprob" in one for one in value.values()):
        pairs = list(value.values())
    for word, number in (("token", "logprob"), ("decoded_token", "logprob"), ("label", "score")):
        if pairs and all(isinstance(one, dict) and word in one and number in one for one in pairs):
            return _listed(pairs, word, number)
    return value


def _listed(pairs: Sequence[Mapping[str, Any]], word: str, number: str) -> dict[str, Any]:
    """The numbers by word; the largest where a word is repeated."""
    if number == "score":
        return {str(one[word]): one[number] for one in pairs}
    found: dict[str, float] = {}
    for one in pairs:
        log = cells.number(one[number])
        found[str(one[word])] = max(found.get(str(one[word]), -math.inf), -math.inf if log is None else log)
    return _Logs(found)


class _Logs(dict[str, float]):
    """A mapping whose numbers are known to be log-probabilities."""


def _ordered(rows: Sequence[Any], labels: Sequence[str]) -> bool:
    """Whether lists are numbers in the order of the labels: not where they are votes for classes that are called by numbers."""
    lists = [row for row in rows if isinstance(row, list) and row]
    numbers = cells.numbers([value for row in lists for value in row])
    if numbers is None or any(isinstance(value, bool) for row in lists for value in row):
        return False
    known = LabelNames(labels)
    # -1 stands for no vote where all else is a vote.
    are_votes = all(known.find(value) is not None or float(value) == -1 for row in lists for value in row)
    if not all(number.is_integer() for number in numbers):
        return True
    if all(sum(map(float, row)) == 1 for row in lists) and not (are_votes and min(numbers) < 0):
        return True
    return bool(labels) and not are_votes


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
        f"{table.path} has {what}, which do not say the classes; name them with {option('labels')} a,b,c, or give rows with "
        f"labels ({option('train')})"
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
        if several and given is not None and (counts.any() or not found):
            values[place] = counts > 0
        elif counts.any() and not several:
            values[place] = counts / counts.sum()
    most = max((len(row) for row in votes if row), default=1)
    form = "sets of labels" if several else "labels" if most == 1 else f"up to {most} votes a text"
    return _checked(PredictedValues(table.path, form, names, values, several or most == 1, unknown), table)


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
    if logs and not labels and not table.classes:
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
    return _checked(found, table)


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


def _checked(found: PredictedValues, table: PredictionColumns) -> PredictedValues:
    """What was read, if it is of use, with the names of its columns.

    Raises:
        TutelageError: answers that are no labels, or no prediction at all.
    """
    some = ", ".join(f"{shown(name)} {count:,}" for name, count in found.unknown.most_common(5))
    what, known = ("label", f"; the labels are {listed(found.labels)}") if found.labels else ("number", "")
    if not found.given.any():
        write = (
            "write these names there" if found.labels else f"write numbers there, use {option('kind')} classification"
        )
        raise TutelageError(
            f"{found.path}: no answer is a {what} ({some or 'all are empty'}) in {table.said}{known}: {write}, or name another "
            f"column with {option('settings')} predictions.columns=COLUMN"
        )
    if found.unknown and table.how.unknown == "error":
        name = f"name all labels with {option('labels')}, " if found.labels else ""
        raise TutelageError(
            f"{found.path}: {found.unknown.total():,} answers are no {what}s ({some}){known}: correct them, {name}or leave such "
            f"answers out with {option('settings')} predictions.unknown=drop"
        )
    return replace(found, columns=table.said)
