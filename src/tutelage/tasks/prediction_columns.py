"""The columns of a table that hold its predictions: found by their names, and told from those that people filled."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.config import Predictions
from tutelage.data.readers.table import is_missing, listed, shown
from tutelage.errors import TutelageError, option
from tutelage.tasks import cells

TOLD = ("prediction", "predictions", "predicted", "probabilities", "probs", "distribution")
"""Names of a column of predictions, as :func:`plain` spells them."""
USUAL_LOGS = ("logprobs", "log probs", "log probabilities", "top logprobs")
"""The same, of log-probabilities."""
EITHER = ("label", "answer", "answers")
"""Names of a column that people or a model filled."""
GOLD = re.compile(
    r"(gold|golden|human|true|truth|ground truth|reference|y true)( (standard|label|score|answer|rating)s?)?"
)
"""Names of a column that people filled."""

Numbers = npt.NDArray[np.float64]

VOTE = re.compile(r"(vote|answer|label|prediction|annotator)s? ?\d+")
"""Names of several columns of votes."""

SIGNS = ("true", "false", "yes", "no", "y", "n", "t", "f")
"""Classes, beside numbers, that the cells of any flag may be."""
ALIKE = 0.3
"""The correlation from which two columns of such cells, or of numbers, are answers to one question."""

PARTS = re.compile(r"[\s_\u0120\u2581]+|(?<=[^\W_\u0120\u2581])-+|-+(?!\.?\d)")
"""What is between words: spaces, underscores, a token's mark, hyphens; a minus sign is none."""


def plain(name: Any) -> str:
    """A label without what spellings differ in: what ``cells.loose`` leaves out, hyphens, underscores, quotes, a final stop, a
    token's mark, the zeros of a whole number."""
    label = cells.loose(" ".join(PARTS.split(cells.class_name(name)))).lstrip(" \"'`,:;!").rstrip(" \"'`.,:;!")
    number = cells.whole(label) if "." in label or label.startswith("+") else None
    return label if number is None else str(number)


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

    def all_in(self, cell: Any, separators: Sequence[str] = cells.SEPARATORS) -> bool:
        """Whether a cell is a class, or several separated by one of ``separators``."""
        ways = [[cell], *([part for part in str(cell).split(one) if part.strip()] for one in separators)]
        return any(all(self.find(part) is not None for part in way) for way in ways if way)

    def within(self, words: str) -> int | None:
        """The number of the class whose name is part of ``words``, the longest of several."""
        inside = [name for name in self._plain if f" {name} " in f" {plain(words)} "]
        return self._plain[max(inside, key=len)] if inside else None


@dataclass(frozen=True)
class PredictionColumns:
    """The columns of predictions of a file, their cells parsed."""

    path: Path
    columns: dict[str, list[Any]]
    how: Predictions
    classes: tuple[str, ...] = ()
    """The class of each column, if each is a class."""
    separator: str | None = None
    """What parts several labels in a cell."""
    left_out: tuple[str, ...] = ()
    """Columns that have such cells, too, and say something else."""

    @property
    def said(self) -> str:
        """The columns, in words: which they are, and which class each is."""
        named = [shown(name) for name in self.columns]
        if self.classes:
            named = [f"{name} ({label})" for name, label in zip(named, self.classes, strict=True)]
        more = f" and {len(named) - 6} more" if len(named) > 6 else ""
        others = f" (not {listed(self.left_out)})" if self.left_out else ""
        return f"column{'s' if len(named) > 1 else ''} {', '.join(named[:6])}{more}{others}"

    @property
    def first(self) -> str:
        return next(iter(self.columns))

    @property
    def rows(self) -> list[Any]:
        """One value a row: that of the only column; of several columns a mapping by class, or a list of votes."""
        if len(self.columns) == 1:
            return self.columns[self.first]
        together = list(zip(*self.columns.values(), strict=True))
        if self.classes:
            return [self._mapped(row) for row in together]
        return [[value for value in row if not is_missing(value)] or None for row in together]

    def _mapped(self, row: Sequence[Any]) -> dict[str, Any] | None:
        found = {name: value for name, value in zip(self.classes, row, strict=True) if not is_missing(value)}
        return found or None

    @property
    def logs(self) -> bool:
        """Whether the column's name says that its numbers are log-probabilities."""
        return len(self.columns) == 1 and plain(self.first) in USUAL_LOGS


def prediction_columns(
    path: Path,
    columns: Mapping[str, list[Any]],
    others: Iterable[str | None],
    labels: Sequence[str],
    how: Predictions,
    gold: str,
) -> PredictionColumns:
    """Which columns hold the predictions: those that are named, else one for each class, a usual name, or the only one left.

    Args:
        path: The file, for messages.
        columns: All its columns.
        others: Columns that hold something else: texts and ids.
        labels: The classes, where they are known.
        how: The settings.
        gold: The column of labels in the task's own files.

    Raises:
        TutelageError: a named column is missing, or several may be meant.
    """
    rest = [name for name in columns if name not in set(others)]

    def table(picked: Sequence[str], classes: Sequence[str] = (), left_out: Sequence[str] = ()) -> PredictionColumns:
        cut = {name: [_parsed(value) for value in columns[name]] for name in picked}
        return PredictionColumns(path, cut, how, tuple(classes), left_out=tuple(left_out))

    if how.columns:
        lacking = [name for name in how.columns if name not in columns]
        if lacking:
            raise TutelageError(f"{path} has no column {lacking[0]!r}; its columns are {listed(list(columns))}")
        return table(how.columns, _classes_of({name: columns[name] for name in how.columns}, labels))
    known = LabelNames(labels)
    by_class = {known.find(name): name for name in rest if known.find(name) is not None}
    if labels and len(by_class) == len(labels):
        return table([by_class[number] for number in range(len(labels))], labels)
    usual, left_out = _usual({name: columns[name] for name in rest}, labels, gold)
    votes = [name for name in rest if VOTE.fullmatch(plain(name))]
    for picked in (usual, votes if len(votes) > 1 else [], rest):
        if len(picked) == 1 or (picked is votes and picked and not usual):
            return table(picked, left_out=left_out)
    if not rest:
        raise TutelageError(f"{path} has no column of predictions; its columns are {listed(list(columns))}")
    unmarked = [name for name in rest if not GOLD.fullmatch(plain(name))]
    shares = [] if usual else _shares({name: columns[name] for name in unmarked})
    several = f"{path} has several columns that may be predictions ({listed(usual or rest)})"
    if len(shares) < 2:
        likely = (usual[-1:] or unmarked or rest)[0]
        raise TutelageError(f"{several}; name those that are: {option('settings')} predictions.columns={likely}")
    order = ""
    if len(shares) == len(labels):
        order = f", in the order of the labels {listed(labels)}"
        found = _classes_of({name: columns[name] for name in shares}, labels)
        shares = sorted(shares, key=lambda name: labels.index(found[shares.index(name)])) if found else shares
    remedies = [f"{option('settings')} 'predictions.columns={json.dumps(shares, ensure_ascii=False)}'"]
    if not labels and not any("," in name for name in shares):
        remedies.insert(0, f"{option('labels')} {','.join(shares)}")
    raise TutelageError(f"{several}; if each has the probability of a class, name them{order}: {' or '.join(remedies)}")


def separator_of(rows: Sequence[Any], labels: Sequence[str], usual: str | None) -> str | None:
    """What parts several labels in a cell: ``usual``, where it occurs or no other sign parts cells into labels."""
    texts = [row for row in rows if isinstance(row, str)]
    if usual is None or any(usual in text for text in texts):
        return usual or cells.found_separator(rows, labels)
    other, known = cells.found_separator(rows, labels), LabelNames(labels)
    parts = other is not None and any(other in text and known.all_in(text, [other]) for text in texts)
    return other if parts else usual


def _classes_of(columns: Mapping[str, list[Any]], labels: Sequence[str]) -> list[str]:
    """The class of each of several columns, by its name or the words of its name (``prob_pos``); empty if they are no classes."""
    names = list(columns)
    if len(names) < 2:
        return []
    if not labels:
        return names if cells.numbers([value for name in names for value in columns[name]]) is not None else []
    known = LabelNames(labels)
    ways = [[known.find(name) for name in names]]
    numbers = cells.numbers([value for name in names for value in columns[name]])
    # Where classes are numbers, whole numbers in model_0 and model_1 may be votes for them.
    if numbers and not (all(map(float.is_integer, numbers)) and cells.numbers(labels) is not None):
        ways.append([None if VOTE.fullmatch(plain(name)) else known.within(name) for name in names])
    for found in ways:
        places = [place for place in found if place is not None]
        if len(set(places)) == len(names):
            return [labels[place] for place in places]
    return []


def _usual(columns: Mapping[str, list[Any]], labels: Sequence[str], gold: str) -> tuple[list[str], list[str]]:
    """The columns whose names say that they hold predictions, and, after a name that says it of people's labels as well, those
    that hold the same answers; and the columns that only look so."""
    told = [name for name in columns if plain(name) in (*TOLD, *USUAL_LOGS)]
    either = [name for name in columns if plain(name) in EITHER or name == gold]
    if len(either) > 1:
        either = [name for name in either if name != gold]  # that one is people's
    if told or len(either) != 1:
        return told or either, []
    (picked,) = either
    others = {name: values for name, values in columns.items() if not GOLD.fullmatch(plain(name)) and name != gold}
    same, left_out = _alike(columns[picked], {n: values for n, values in others.items() if n != picked}, labels)
    return [picked, *same], left_out


def _alike(
    answers: Sequence[Any], columns: Mapping[str, list[Any]], labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The columns that hold the classes of ``answers``, or numbers of their size, too; first those that may answer the same
    question. Any flag is 0 or 1: of such cells those that follow the answers."""
    known = LabelNames(labels or sorted({cells.class_name(value) for value in answers if not is_missing(value)}))
    signs = all(plain(name) in SIGNS or cells.number(name) is not None for name in known.names)
    same, others = list[str](), list[str]()
    for name, values in columns.items():
        if _hold(values, known):
            follows = not signs or _follow(_places(answers, known), _places(values, known))
        elif not labels and _of_one_size(ours := _measures(answers), theirs := _measures(values)):
            follows = _follow(ours, theirs)
        else:
            continue
        (same if follows else others).append(name)
    return same, others


def _said(value: Any) -> list[Any]:
    """What a cell says: one thing, or the parts of a list or a mapping."""
    value = _parsed(value)
    return [one for one in (value if isinstance(value, list | dict) else [value]) if one is not None]


def _hold(values: Sequence[Any], known: LabelNames) -> bool:
    """Whether the cells of a column are classes."""
    given = [one for value in values for one in _said(value)]
    return bool(given) and all(not isinstance(one, dict | list) and known.all_in(one) for one in given)


def _places(values: Sequence[Any], known: LabelNames) -> Numbers:
    """``(rows,)``: the number of each row's class, the mean of several, ``nan`` for others."""
    found = [[known.find(one) for one in _said(value) if not isinstance(one, list | dict)] for value in values]
    means = [np.mean([n for n in row if n is not None]) if row and None not in row else np.nan for row in found]
    return np.array(means, dtype=np.float64)


def _measures(values: Sequence[Any]) -> Numbers:
    """``(rows,)``: the numbers of a column, ``nan`` where a cell has none."""
    read, _ = cells.with_commas(values) or (values, "")
    found = [None if is_missing(value) else cells.number(value) for value in read]
    return np.array([np.nan if number is None else number for number in found], dtype=np.float64)


def _of_one_size(ours: Numbers, theirs: Numbers) -> bool:
    """Whether most of two columns are numbers, whose ranges share half of the larger."""
    if min(np.isfinite(one).mean() for one in (ours, theirs)) <= 0.5:
        return False
    (low, high), (least, most) = ((np.nanmin(one), np.nanmax(one)) for one in (ours, theirs))
    return bool(2 * (min(high, most) - max(low, least)) >= max(high - low, most - least) > 0)


def _follow(ours: Numbers, theirs: Numbers) -> bool:
    """Whether two columns rise together."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    if not both.any() or min(np.ptp(one[both]) for one in (ours, theirs)) == 0:
        return False
    return bool(np.corrcoef(ours[both], theirs[both])[0, 1] >= ALIKE)


def _shares(columns: Mapping[str, list[Any]]) -> list[str]:
    """The columns that may have the probability of a class each: numbers; where any are such, probabilities or their
    logarithms."""
    found = {name: cells.numbers(values) for name, values in columns.items()}
    numbers = {name: values for name, values in found.items() if values}
    likely = [n for n, values in numbers.items() if max(values) <= 0 or (min(values) >= 0 and max(values) <= 1)]
    return likely if len(likely) > 1 else list(numbers)


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
