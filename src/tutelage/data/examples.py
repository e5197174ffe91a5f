"""What is learnt from: texts with ids and labels, and the same texts as token ids."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.alignment import Place, places_of
from tutelage.data.draws import hashes, mixed
from tutelage.data.labels import first_of_each, known_labels, renumbered, strata
from tutelage.data.mapped import Spool, held, taken
from tutelage.data.predicted import Predicted

UNLABELLED = -1
"""The target of a predicted token without a label."""


NO_TARGET = -2
"""The target of a token that is not predicted."""


@dataclass(frozen=True)
class Examples:
    """Texts, their ids and (for some) their labels.

    ``labels`` is ``(n,)`` int64 for classification (``-1`` where there is none), ``(n,)`` float32 for regression and
    ``(n, classes)`` float32 for multi-label data (``nan`` where there is none). For ``tokens`` it is ``(n,)`` of
    arrays, one class for each word of the text (words are separated by single spaces); for ``spans``, where ``texts`` are
    questions and ``pairs`` the contexts, ``(n,)`` of tuples of the answers that count as right, as ``(start, text)``: the
    character at which it starts; no answer in the context is the empty tuple, an unknown one ``None``.

    ``ids`` name an example for good: ``"train/17"``, ``"unlabeled/3"``; stored knowledge is looked up by them; within a run
    an example is a row of these.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """``(n,)``: which examples have a label."""
        return known_labels(self.labels)

    def take(self, rows: npt.NDArray[np.int64] | Sequence[int]) -> Examples:
        """The examples at ``rows``, in that order."""
        return Examples(
            ids=taken(self.ids, rows),
            texts=taken(self.texts, rows),
            pairs=None if self.pairs is None else taken(self.pairs, rows),
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
        )

    def spread(self, count: int) -> Examples:
        """About ``count`` of the examples, from everywhere, and one of each class, in their order.

        Rows ``2 i`` and ``2 i + 1`` stay together: an evaluation set may be made of pairs.
        """
        if len(self) <= count:
            return self
        places = np.linspace(0, len(self) - 1, max(count // 2, 1)).astype(np.int64)
        first = np.concatenate([places, np.array(first_of_each(self.labels), dtype=np.int64)]) // 2 * 2
        both = np.unique(np.concatenate([first, first + 1]))
        return self.take(both[both < len(self)])

    def join(self, other: Examples) -> Examples:
        """These examples followed by ``other``'s."""
        pairs = None if self.pairs is None or other.pairs is None else held(chain(self.pairs, other.pairs))
        return Examples(
            ids=held(chain(self.ids, other.ids)),
            texts=held(chain(self.texts, other.texts)),
            pairs=pairs,
            labels=np.concatenate([self.labels, other.labels]),
        )


@dataclass(frozen=True)
class Data:
    """One task's data: what to learn from, what to choose checkpoints on, what the report scores.

    ``dev`` may have several parts (MNLI's ``matched`` and ``mismatched``); the first is the one that the report leads
    with. ``selection`` is empty until :meth:`hold_out` takes it from ``train``.
    """

    task: str
    kind: str
    """The name of the kind of task, for ``tasks.kind_of``."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the label numbers; empty where answers are no classes."""
    metrics: tuple[str, ...]
    """Names of the metrics (those of the kind); the first leads the report."""
    train: Examples
    dev: dict[str, Examples]
    selection: Examples | None = None
    unlabeled: Examples | None = None
    positive: int = 1
    """Of two classes the one that F1 is about."""
    sources: dict[str, str] = field(default_factory=dict)
    """For the report: where each part came from, in words."""
    notes: tuple[str, ...] = ()
    """How the user's own files were read, where there was a choice."""
    predicted: Predicted | None = None
    """Predictions from a file that stand for a teacher."""
    selected_by: tuple[str, ...] = ()
    """Metrics whose mean chooses checkpoints. Empty: the first of ``metrics``."""
    separator: str | None = None
    """What parts several classes in a cell of the user's own training file, where any cell has such a sign."""

    def with_labels(self, labels: tuple[str, ...]) -> Data:
        """The same data with the classes numbered as in ``labels``, which names at least those of ``self.labels``."""
        if not self.labels or labels == self.labels:
            return self
        new_of_old = np.array([labels.index(name) for name in self.labels])

        def renumber(examples: Examples) -> Examples:
            return replace(examples, labels=renumbered(examples.labels, new_of_old, len(labels)))

        return replace(
            self,
            labels=labels,
            positive=labels.index(self.labels[self.positive]),
            train=renumber(self.train),
            dev={name: renumber(part) for name, part in self.dev.items()},
            selection=None if self.selection is None else renumber(self.selection),
            unlabeled=None if self.unlabeled is None else renumber(self.unlabeled),
        )

    def spread(self, count: int) -> Data:
        """The same with about ``count`` examples of each part; see :meth:`Examples.spread`."""
        return replace(
            self,
            train=self.train.spread(count),
            dev={name: part.spread(count) for name, part in self.dev.items()},
            selection=None if self.selection is None else self.selection.spread(count),
            unlabeled=None if self.unlabeled is None else self.unlabeled.spread(count),
        )

    def hold_out(self, share: float, seed: int) -> Data:
        """Take ``share`` of ``train`` away as ``selection``, each class in proportion."""
        generator = np.random.default_rng([seed, 0x5E1])
        n = len(self.train)
        group_of = strata(self.train.labels)
        held = np.zeros(n, dtype=bool)
        for group in (np.flatnonzero(group_of == number) for number in np.unique(group_of)):
            held[generator.permutation(group)[: round(share * len(group))]] = True
        if not held.any() or held.all():
            return self
        return replace(
            self,
            train=self.train.take(np.flatnonzero(~held)),
            selection=self.train.take(np.flatnonzero(held)),
            sources={**self.sources, "validation": f"{share:.0%} of train, held out"},
        )


@dataclass(frozen=True)
class Windows:
    """How long contexts are read: in overlapping windows, each a row of an :class:`Encoded`."""

    of: npt.NDArray[np.int64]
    """``(rows,)``: the example that a row is of; all its windows stand together, in order."""
    chars: npt.NDArray[np.int32]
    """``(tokens, 2)``: beside ``Encoded.tokens``, where in the context a token starts and ends; -1 outside the context."""


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids, ragged: example ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``. Large arrays of a value for each
    token may be maps of files."""

    tokens: npt.NDArray[np.int32]
    types: npt.NDArray[np.int8] | None
    """Token types (segment ids) for models that have them."""
    offsets: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]
    """``(n,)``: which examples were longer than the model takes and lost their end."""
    pad_token: int
    separator: int = -1
    """The token that ends a text ([SEP]); -1 where a tokenizer has none."""
    labels: npt.NDArray[Any] | None = None
    """Of each row, as in :class:`Examples`. For ``spans`` ``(n, 2)`` int64: first and last token of the answer, counted
    among the predicted tokens (see ``targets``), the first of which, [CLS], stands for no answer here; -1 if unknown."""
    targets: npt.NDArray[np.int32] | None = None
    """Beside ``tokens``, where answers are given token by token: the number of the class (or word), :data:`UNLABELLED`, or
    :data:`NO_TARGET`. For ``spans`` the tokens that may start or end an answer are UNLABELLED: [CLS] and the context."""
    windows: Windows | None = None
    partners: npt.NDArray[np.int32] | None = None
    """Beside ``tokens``, where a teacher reads other tokens and is compared token by token: the position of its token for the
    same characters, -1 where it has none. ``None``: it reads the same."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``(n,)``: tokens in each example."""
        return np.diff(self.offsets)

    @property
    def truncated(self) -> int:
        """How many examples lost their end."""
        return int(self.cut.sum())

    @cached_property
    def logit_rows(self) -> npt.NDArray[np.int64]:
        """``(n,)``: rows of logits for each example: 1, or one per predicted token."""
        if self.targets is None:
            return np.ones(len(self), dtype=np.int64)
        return self.sums(self.targets != NO_TARGET)

    @cached_property
    def answers(self) -> npt.NDArray[np.int64]:
        """``(n,)``: answers of each example: one per row of logits, or a start and an end."""
        return self.logit_rows if self.windows is None else np.full(len(self), 2, dtype=np.int64)

    @cached_property
    def known(self) -> npt.NDArray[np.int64]:
        """``(n,)``: how many of these have a label."""
        if self.windows is None and self.targets is not None:
            return self.sums(self.targets >= 0)
        if self.labels is None:
            return np.zeros(len(self), dtype=np.int64)
        return known_labels(self.labels) * self.answers

    def sums(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """``(n,)``: marked tokens of each example."""
        return np.diff(np.concatenate([[0], np.cumsum(marked, dtype=np.int64)])[self.offsets])

    @cached_property
    def compared(self) -> npt.NDArray[np.int64]:
        """``(n,)``: how many tokens of each example the teacher has too."""
        return self.lengths if self.partners is None else self.sums(self.partners >= 0)

    @cached_property
    def separators(self) -> npt.NDArray[np.int64]:
        """``(n,)``: how many of them are separators."""

        def count(part: Encoded) -> npt.NDArray[np.int64]:
            separators = part.tokens == part.separator
            return part.sums(separators if part.partners is None else separators & (part.partners >= 0))

        return np.concatenate([count(part) for part in self.pieces()])

    @cached_property
    def keys(self) -> npt.NDArray[np.uint64]:
        """``(n,)``: a number for each example's content; another token anywhere is another number."""

        def key(part: Encoded) -> npt.NDArray[np.uint64]:
            place = np.arange(len(part.tokens)) - np.repeat(part.offsets[:-1], part.lengths)
            sums = np.zeros(len(part.tokens) + 1, dtype=np.uint64)
            np.cumsum(mixed(part.tokens + (place << 32)), out=sums[1:])
            return mixed(sums[part.offsets[1:]] - sums[part.offsets[:-1]])

        return np.concatenate([key(part) for part in self.pieces()])

    def pieces(self) -> Iterator[Encoded]:
        """The same examples, about :data:`TOKENS_AT_ONCE` tokens at a time, in order. Nothing is copied."""
        spans = spans_of(self.offsets)
        for span in spans:
            yield self if len(spans) == 1 else self._within(span)

    def _within(self, span: slice) -> Encoded:
        """The examples of a slice."""
        offsets = self.offsets[span.start : span.stop + 1]
        places = slice(offsets[0], offsets[-1])
        beside: dict[str, Any] = {name: values[places] for name, values in self._beside.items()}
        labels = None if self.labels is None else self.labels[span]
        found = replace(self, offsets=offsets - offsets[0], cut=self.cut[span], labels=labels, windows=None, **beside)
        if self.windows is None:
            return found
        return replace(found, windows=Windows(self.windows.of[span], self.windows.chars[places]))

    @property
    def _beside(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a value for each token, by the names of their fields."""
        fields = {"tokens": self.tokens, "types": self.types, "targets": self.targets, "partners": self.partners}
        return {name: values for name, values in fields.items() if values is not None}

    def take(self, rows: npt.NDArray[np.int64]) -> Encoded:
        """The examples at ``rows``, in that order.

        Raises:
            OSError: they are many, and the disk refuses.
        """
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        beside = self._beside | ({} if self.windows is None else {"chars": self.windows.chars})
        spools = {name: Spool(values.dtype, *values.shape[1:]) for name, values in beside.items()}
        for span in spans_of(offsets):
            starts, counts = self.offsets[rows[span]] - offsets[span] + offsets[span.start], lengths[span]
            flat = np.arange(offsets[span.stop] - offsets[span.start]) + np.repeat(starts, counts)
            for name, values in beside.items():
                spools[name].add(values[flat])
        found: dict[str, Any] = {name: spool.done() for name, spool in spools.items()}
        return replace(
            self,
            offsets=offsets,
            cut=self.cut[rows],
            labels=None if self.labels is None else self.labels[rows],
            windows=None if self.windows is None else Windows(self.windows.of[rows], found.pop("chars")),
            **found,
        )


TOKENS_AT_ONCE = 2**20
"""About how many tokens are handled together where there are many: some temporary values take 30 bytes for each."""


def spans_of(offsets: npt.NDArray[np.int64]) -> list[slice]:
    """Slices of the examples with these ``offsets``, each of about :data:`TOKENS_AT_ONCE` tokens; at least one."""
    count, tokens = len(offsets) - 1, int(offsets[-1])
    if tokens <= TOKENS_AT_ONCE:
        return [slice(0, count)]
    starts = np.unique(np.searchsorted(offsets[:-1], np.arange(0, tokens, TOKENS_AT_ONCE))).tolist()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True) if start < stop]


def encode(examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
    """Tokenise without padding; the end of an example beyond ``max_length`` tokens is cut off and counted.

    A text of no tokens, of a tokenizer that puts none around it, is read as one padding token: a model needs one.

    Raises:
        OSError: there are many tokens, and the disk refuses.
    """
    tokens, types, lengths, cut = Spool(np.int32), Spool(np.int8), array("q"), array("b")
    has_types = "token_type_ids" in tokenizer.model_input_names
    for output in _outputs(examples, tokenizer, max_length):
        cut.extend(bool(encoding.overflowing) for encoding in output.encodings)
        ids = [row or [tokenizer.pad_token_id] for row in output["input_ids"]]
        lengths.extend(map(len, ids))
        tokens.add(np.fromiter(chain.from_iterable(ids), dtype=np.int32))
        if has_types:
            rows = (row or [0] for row in output["token_type_ids"])
            types.add(np.fromiter(chain.from_iterable(rows), dtype=np.int8))
    return Encoded(
        tokens=tokens.done(),
        types=types.done() if has_types and len(examples) else None,
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        cut=np.array(cut, dtype=np.bool_),
        pad_token=int(tokenizer.pad_token_id),
        separator=-1 if tokenizer.sep_token_id is None else int(tokenizer.sep_token_id),
        labels=examples.labels,
    )


TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 1024, 2**20
"""Texts that are given to a tokenizer at once, at most, and about how long they are: it takes some 50 bytes for a character."""


def _outputs(examples: Examples, tokenizer: Any, max_length: int) -> Iterator[Any]:
    """What the tokenizer returns, some examples at a time."""
    lengths = np.fromiter(map(len, examples.texts), dtype=np.int64, count=len(examples))
    if examples.pairs is not None:
        lengths += np.fromiter(map(len, examples.pairs), dtype=np.int64, count=len(examples))
    ends = np.cumsum(lengths)
    start = 0
    while start < len(examples):
        most = ends[start] - lengths[start] + CHARACTERS_AT_ONCE
        stop = max(start + 1, min(start + TEXTS_AT_ONCE, int(np.searchsorted(ends, most, side="right"))))
        yield tokenizer(
            list(examples.texts[start:stop]),
            None if examples.pairs is None else list(examples.pairs[start:stop]),
            truncation=True,
            max_length=max_length,
            padding=False,
            return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
            return_attention_mask=False,
        )
        start = stop


def token_places(examples: Examples, tokenizer: Any, max_length: int) -> Iterator[list[Place]]:
    """For each example, the places of the tokens that :func:`encode` makes of it."""
    rows = zip(examples.texts, examples.pairs or [""] * len(examples), strict=True)
    for output in _outputs(examples, tokenizer, max_length):
        for encoding in output.encodings:
            # A text of no tokens is read as one padding token.
            yield places_of(encoding.offsets, next(rows), encoding.sequence_ids) or [(-1, 0, 0)]


Rows = npt.NDArray[np.int64]


def fingerprint(examples: Examples, answers: Iterable[Any]) -> str:
    """An identifier of what examples say and what the answers to them are."""
    plain = [answer.tolist() if isinstance(answer, np.ndarray | np.generic) else answer for answer in answers]
    # The checksum of the list of both, as ``checksum_of`` has it, without the long text that this list is as JSON.
    digest = hashlib.sha256(b"[[")
    between = ""
    for name in contents(examples):
        digest.update(f'{between}"{name}"'.encode())
        between = ", "
    digest.update(f"], {json.dumps(str(plain))}]".encode())
    return digest.hexdigest()


def key_of(text: str, pair: str | None = None) -> str:
    """What texts are matched by: writing a file and reading it again may change spaces and ends of lines."""
    return "\0".join(" ".join(part.split()) for part in ([text] if pair is None else [text, pair]))


def keys_of(examples: Examples) -> Iterator[str]:
    """What each example is matched by; of a pair both texts."""
    if examples.pairs is None:
        return map(key_of, examples.texts)
    return map(key_of, examples.texts, examples.pairs)


def hashed_keys(examples: Examples) -> npt.NDArray[np.uint64]:
    """``(n,)``: a hash of what each example is matched by. Those of a large evaluation set fit into memory."""
    return hashes(keys_of(examples))


def rows_among(examples: Examples, keys: Collection[str]) -> npt.NDArray[np.bool_]:
    """``(n,)``: which examples are among those with these ``keys`` (:func:`keys_of`)."""
    return np.fromiter((key in keys for key in keys_of(examples)), dtype=bool, count=len(examples))


def contents(examples: Examples) -> Iterator[str]:
    """A name for what each example says: ids count rows, which another file has too."""
    pairs = repeat("", len(examples)) if examples.pairs is None else examples.pairs
    for text, pair in zip(examples.texts, pairs, strict=True):
        yield hashlib.blake2b(f"{text}\0{pair}".encode(), digest_size=8).hexdigest()


def content(examples: Examples) -> list[str]:
    """The :func:`contents` in a list."""
    return list(contents(examples))


class RowFinder:
    """Where ids stand in a list: found by their hashes, which take less memory than a dict of the ids."""

    def __init__(self, ids: Iterable[str]) -> None:
        known = hashes(ids)
        self._order = np.argsort(known, kind="stable")
        self._sorted = known[self._order]

    def of(self, ids: Iterable[str]) -> Rows:
        """``(n,)``: the place of each of ``ids``, of equal ones the last; -1 where there is none."""
        wanted = hashes(ids)
        at = np.searchsorted(self._sorted, wanted, side="right") - 1
        if not len(self._sorted):
            return at
        return np.where(self._sorted[at] == wanted, self._order[at], -1)
