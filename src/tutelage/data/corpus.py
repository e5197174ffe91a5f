"""Text without labels, of any size: tokenised once, read as the instances that language models are trained on.

A corpus is a folder::

    tokens.bin       every token, in order: uint16 where the vocabulary allows it, else uint32
    sentences.bin    int64: where in the tokens each sentence starts, and the number of tokens
    documents.bin    int64: where in the sentences each document starts, and the number of sentences
    manifest.json    what it is: counts, sources, tokenizer, checksums
    tokenizer/       the tokenizer that made it

No instance is ever stored. Which tokens an instance holds is decided by hashes of the seed, the epoch and the place in
the corpus, so that an epoch is a plan of a few dozen bytes an instance, the same in every process and after every
resumption, and nothing but its arguments need be remembered.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

import tutelage
from tutelage.data.batches import Rows
from tutelage.data.draws import hashed, uniform
from tutelage.data.examples import Encoded
from tutelage.data.tokenizers import load_tokenizer, tokenizer_fingerprint
from tutelage.disk import write_text
from tutelage.errors import TutelageError

Packing = Literal["pairs", "segments", "packed"]
Split = Literal["sentences", "lines"]
Offsets = npt.NDArray[np.int64]

BUFFER = 2**20
"""Characters that are tokenised together; a longer paragraph is taken whole."""

BLOCK = 2**18
"""How many sentences are planned, tokens counted and bytes compared at once."""

SHORT = 0.1
"""How many instances get a random shorter budget, so that a student sees short texts too (BERT's short_seq_prob)."""

AGAIN = "remove it and build it again"


class Manifest(BaseModel):
    """What a corpus is, and by what it is recognised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    tutelage: str
    documents: int = Field(ge=1)
    sentences: int = Field(ge=1)
    tokens: int = Field(ge=1)
    dtype: Literal["uint16", "uint32"]
    split: Split
    sources: tuple[str, ...]
    """Names of the files (without folders) and data sets, in order."""
    tokenizer_fingerprint: str
    sha256: dict[str, str]
    """By file."""

    @property
    def bytes(self) -> dict[str, int]:
        """By array file."""
        return {
            "tokens.bin": self.tokens * np.dtype(self.dtype).itemsize,
            "sentences.bin": 8 * (self.sentences + 1),
            "documents.bin": 8 * (self.documents + 1),
        }


# ------------------------------------------------------------------------------------------------------- reading


class Corpus:
    """A finished corpus. Opening checks its manifest, sizes and tokenizer; :meth:`verify` reads every byte.

    Raises:
        TutelageError: when there is none, it is unfinished or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.manifest = _read_manifest(self.folder)
        for name, size in self.manifest.bytes.items():
            path = self.folder / name
            found = path.stat().st_size if path.exists() else 0
            if found != size:
                raise TutelageError(
                    f"the corpus {self.name!r} is damaged: {name} has {found:,} of {size:,} bytes; {AGAIN}"
                )
        # A tokenizer whose files are damaged or missing may load even so, as another one.
        self._compare([name for name in self.manifest.sha256 if name not in self.manifest.bytes])
        self.tokenizer = load_tokenizer(str(self.folder / "tokenizer"))
        self.tokens: npt.NDArray[Any] = self._mapped("tokens.bin", f"<u{np.dtype(self.manifest.dtype).itemsize}")
        """``(tokens,)``, all documents one after the other."""
        self.sentences: Offsets = self._mapped("sentences.bin", "<i8")
        """``(sentences + 1,)``: sentence ``i`` is ``tokens[sentences[i]:sentences[i + 1]]``; none is empty."""
        self.documents: Offsets = self._mapped("documents.bin", "<i8")
        """``(documents + 1,)``: document ``i`` is the sentences from ``documents[i]`` to before ``documents[i + 1]``."""

    def _mapped(self, name: str, dtype: str) -> npt.NDArray[Any]:
        # A plain array over the mapped file: indexing a memmap costs several times as much.
        return np.asarray(np.memmap(self.folder / name, dtype=dtype, mode="r"))

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what it was built from."""
        return self.manifest.sources

    @property
    def fingerprint(self) -> str:
        """A name for what is in it; another token, sentence or document anywhere is another name."""
        checksums = "".join(self.manifest.sha256[name] for name in self.manifest.bytes)
        return hashlib.sha256(checksums.encode()).hexdigest()[:16]

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """``(vocabulary,)``: how often each token occurs; read once from the whole corpus."""
        counts = np.zeros(_vocabulary(self.tokenizer), dtype=np.int64)
        for start in range(0, len(self.tokens), BLOCK):
            counts += np.bincount(self.tokens[start : start + BLOCK], minlength=len(counts))
        return counts

    def verify(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Compare every file with its checksum; ``advance`` hears of bytes read.

        Raises:
            TutelageError: for a byte that is not as it was written.
        """
        self._compare(list(self.manifest.sha256), advance)

    def _compare(self, names: list[str], advance: Callable[[int], None] = lambda count: None) -> None:
        for name in names:
            path = self.folder / name
            if not path.exists() or _sha256(path, advance) != self.manifest.sha256[name]:
                raise TutelageError(f"the corpus {self.name!r} is damaged: {name} is not as it was written; {AGAIN}")

    def split(self, held_out: int) -> tuple[Corpus, Corpus]:
        """All but the last sentences, and these: about ``held_out`` tokens, two sentences at least.

        The document in which the cut lies is one in both parts. Where the corpus has two documents each part has two at
        least, that pairs can be made of. A corpus of which that would be half is both parts.
        """
        total, last = len(self.tokens), len(self.sentences) - 1
        first = min(int(np.searchsorted(self.sentences, total - held_out, side="right")) - 1, last - 2)
        if first < 2 or 2 * held_out > total:
            return self, self
        parts = []
        for start, stop in ((0, first), (first, last)):
            inner = self.documents[(self.documents > start) & (self.documents < stop)]
            if len(self.documents) > 2 and not len(inner):
                inner = np.array([(start + stop) // 2])
            parts.append(self._part(start, stop, np.concatenate([[start], inner, [stop]])))
        return parts[0], parts[1]

    def _part(self, start: int, stop: int, documents: Offsets) -> Corpus:
        """The same corpus with the sentences from ``start`` to before ``stop``, in these documents."""
        part = copy.copy(self)
        first = self.sentences[start]
        part.tokens = self.tokens[first : self.sentences[stop]]
        part.sentences = self.sentences[start : stop + 1] - first if first else self.sentences[: stop + 1]
        part.documents = documents - start
        return part

    def epoch(self, packing: Packing, length: int, seed: int, epoch: int) -> Epoch:
        """The instances of one epoch, each of at most ``length`` tokens; a function of the corpus and the arguments alone.

        The budget of an instance is ``length`` less the special tokens that the tokenizer puts around a text or a pair.
        A sentence longer than the budget counts as several sentences, each of ``budget`` tokens but the last.

        ``pairs``
            BERT's sentence pairs. Sentences of a document are gathered in a chunk until they reach the budget, for one
            chunk in ten a random smaller one (from 2 tokens); the document's last chunk may be smaller. A random number of
            the chunk's first sentences (not all, unless there is only one) is A. With probability 0.5, and always after a
            chunk of one sentence, B comes from a random place in another document, which is drawn in proportion to
            its sentences, and the rest of the chunk goes into the next one; otherwise the rest of the chunk is B. While
            they are together longer than the full budget, the longer one (B if equal) loses a token at its front or end,
            by a coin. Every sentence is part of exactly one A or B that follows; of the tokens at the ends of these an
            instance shows what that cutting leaves, which is others in every epoch.
        ``segments``
            Sentences of one document, as many as fit in the budget, for one instance in ten in a random smaller one (where
            a longer sentence stands alone). Every token is in exactly one instance.
        ``packed``
            All documents in a ring, after each the separator (the end token of a tokenizer that has none), cut at a random
            place and from there on every ``budget`` tokens. The last piece, shorter than that, is left out.

        Raises:
            TutelageError: when the length leaves no room, there is too little text, or the tokenizer has no separator.
        """
        frame = _frame_of(self.tokenizer, 2 if packing == "pairs" else 1)
        budget = length - frame.specials
        if budget < 2:
            raise TutelageError(f"length is {length}, too short for {packing}; choose at least {frame.specials + 2}")
        key = (seed, epoch)
        if packing == "packed":
            return self._packed(frame, budget, key)
        if packing == "segments":
            plan = _segments(*self._pieces(budget), budget, key)
        else:
            if len(self.documents) < 3:
                raise TutelageError(
                    f"the corpus {self.name!r} has only one document, and pairs need two; part documents by blank lines "
                    "and build it again, or choose segments"
                )
            if not frame.runs[1]:
                raise TutelageError(
                    f"the tokenizer of the corpus {self.name!r} puts nothing between two texts, so they would be no pair; "
                    "choose segments or packed"
                )
            plan = _pairs(*self._pieces(budget), budget, key)
        starts, sizes, cut = (np.concatenate(parts) for parts in zip(*plan, strict=True))
        return Epoch(starts, sizes, cut, _Stream(self.tokens), frame)

    def _packed(self, frame: _Frame, budget: int, key: tuple[int, int]) -> Epoch:
        parting = _separator(self.tokenizer)
        if parting < 0:
            parting = -1 if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)
        if parting < 0:
            raise TutelageError(
                f"the tokenizer of the corpus {self.name!r} has neither a separator nor an end token to part documents by; "
                "set its eos_token and build the corpus again, or choose segments"
            )
        ends = self.sentences[self.documents[1:]] + np.arange(len(self.documents) - 1)
        ring = int(ends[-1]) + 1
        count = ring // budget
        if not count:
            raise TutelageError(
                f"the corpus {self.name!r} has {ring:,} tokens, fewer than one instance of {budget:,}; choose a smaller length"
            )
        phase = int(_below(ring, *key, _Draw.PHASE, 0)[0])
        starts = (phase + budget * np.arange(count, dtype=np.int64)[:, None]) % ring
        sizes = np.full((count, 1), budget, dtype=np.int32)
        return Epoch(starts, sizes, np.zeros(count, dtype=np.bool_), _Stream(self.tokens, ends, parting), frame)

    def _pieces(self, budget: int) -> tuple[Offsets, Offsets]:
        """Offsets of the sentences, cut where they are longer than ``budget``, and of the documents in these pieces."""
        long = np.flatnonzero(np.diff(self.sentences) > budget)
        if not len(long):
            return self.sentences, self.documents
        cuts = (self.sentences[long + 1] - self.sentences[long] - 1) // budget
        more = np.repeat(self.sentences[long], cuts) + budget * (_within(cuts) + 1)
        offsets = np.sort(np.concatenate([self.sentences, more]), kind="stable")
        return offsets, np.searchsorted(offsets, self.sentences[self.documents])


@dataclass(frozen=True)
class Epoch:
    """The plan of one epoch; instances are built when they are asked for."""

    starts: Offsets
    """``(n, 1)``, for pairs ``(n, 2)``: where the texts of an instance start. Places in the corpus's tokens; for packed
    instances in the ring, in which every document is followed by one token more."""
    sizes: npt.NDArray[np.int32]
    """Beside ``starts``: tokens of each text."""
    cut: npt.NDArray[np.bool_]
    """``(n,)``: which pairs lost tokens because they were too long."""
    _stream: _Stream
    _frame: _Frame

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``(n,)``: tokens of each instance, special ones among them."""
        return np.asarray(self.sizes.sum(axis=1, dtype=np.int64) + self._frame.specials)

    def read(self, rows: Rows) -> Encoded:
        """The instances at ``rows``, in that order."""
        frame, starts, sizes = self._frame, self.starts[rows], self.sizes[rows].astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        tokens = np.empty(offsets[-1], dtype=np.int32)
        types = np.empty(offsets[-1], dtype=np.int8)
        place = offsets[:-1].copy()
        for part, run in enumerate(frame.runs):
            for token, kind in run:
                tokens[place], types[place] = token, kind
                place += 1
            if part < len(frame.types):
                size = sizes[:, part]
                within = _within(size)
                here = np.repeat(place, size) + within
                tokens[here] = self._stream.at(np.repeat(starts[:, part], size) + within)
                types[here] = frame.types[part]
                place += size
        return Encoded(
            tokens=tokens,
            types=types if frame.has_types else None,
            offsets=offsets,
            cut=self.cut[rows],
            pad_token=frame.pad_token,
            separator=frame.separator,
        )


@dataclass(frozen=True)
class _Stream:
    """The tokens of a corpus; with ``ends`` as a ring in which the token ``parting`` stands at these places."""

    tokens: npt.NDArray[Any]
    ends: Offsets | None = None
    parting: int = -1

    def at(self, places: Offsets) -> npt.NDArray[np.int32]:
        if self.ends is None:
            return self.tokens[places].astype(np.int32)
        places = places % (self.ends[-1] + 1)
        before = np.searchsorted(self.ends, places)
        parted = self.ends[before] == places
        return np.where(parted, self.parting, self.tokens[places - before - parted]).astype(np.int32)


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer puts around one text or two, found out by asking it."""

    runs: tuple[tuple[tuple[int, int], ...], ...]
    """Special tokens with their types: before the first text, after it, and (of a pair) after the second."""
    types: tuple[int, ...]
    """Token type of each text."""
    has_types: bool
    pad_token: int
    separator: int

    @property
    def specials(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.runs))


def _frame_of(tokenizer: Any, texts: int) -> _Frame:
    encoding = tokenizer(*["a"] * texts).encodings[0]
    runs: list[list[tuple[int, int]]] = [[] for _ in range(texts + 1)]
    types, begun = [0] * texts, 0
    for token, kind, text in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
        if text is None:
            runs[begun].append((token, kind))
        else:
            begun, types[text] = text + 1, kind
    return _Frame(
        runs=tuple(map(tuple, runs)),
        types=tuple(types),
        has_types="token_type_ids" in tokenizer.model_input_names,
        pad_token=int(tokenizer.pad_token_id),
        separator=_separator(tokenizer),
    )


def _separator(tokenizer: Any) -> int:
    return -1 if tokenizer.sep_token_id is None else int(tokenizer.sep_token_id)


def _vocabulary(tokenizer: Any) -> int:
    """One more than the largest token; the vocabulary of a tokenizer may have gaps."""
    return 1 + max(map(int, tokenizer.get_vocab().values()))


def _within(sizes: Offsets) -> Offsets:
    """``0 .. size - 1`` for each size, one after the other."""
    ends = np.cumsum(sizes)
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    if not path.exists():
        if _partial_of(folder).exists():
            raise TutelageError(f"the corpus {str(folder)!r} is not finished; build it again")
        raise TutelageError(f"{str(folder)!r} is no corpus; build one from text first")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise TutelageError(
            f"{str(path)!r} is damaged, or not that of a corpus; name another folder, or build the corpus again"
        ) from None


def _sha256(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------ planning


class _Draw(IntEnum):
    """What a random number decides."""

    SHORT = 0
    BUDGET = 1
    SIZE_OF_A = 2
    RANDOM_NEXT = 3
    OTHER = 4
    FRONT_OF_A = 5
    FRONT_OF_B = 6
    PHASE = 7


def _below(limits: int | Offsets, *key: int | npt.NDArray[Any]) -> Offsets:
    """Whole numbers from 0 to before ``limits``."""
    return np.asarray((uniform(*key) * limits).astype(np.int64))


def _heads(flips: Offsets, *key: int | npt.NDArray[Any]) -> Offsets:
    """Of ``flips`` ``(n,)`` coins how many show heads: one random bit each."""
    heads = np.zeros_like(flips)
    for word in range(-(-int(flips.max(initial=0)) // 64)):
        rows = np.flatnonzero(flips > 64 * word)
        bits = hashed(*key, word)[rows] >> (64 - np.minimum(flips[rows] - 64 * word, 64)).astype(np.uint64)
        heads[rows] += np.bitwise_count(bits)
    return heads


def _budgets(first: Rows, budget: int, key: tuple[int, int]) -> Offsets:
    """Of the chunks that begin with the pieces ``first``."""
    shorter = 2 + _below(budget - 1, *key, _Draw.BUDGET, first)
    return np.where(uniform(*key, _Draw.SHORT, first) < SHORT, shorter, budget)


def _visited(count: int, following: Callable[[Rows], Rows]) -> Iterator[Rows]:
    """First pieces of the chunks of a corpus of ``count`` pieces, in blocks: 0, ``following(0)``, and so on.

    Where a chunk ends depends on where the one before it ended, but as its random numbers are those of its first
    piece, the chunk that *would* begin at each piece can be computed for all pieces at once. What is left to do one by
    one is to follow them.
    """
    place = 0
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        after = following(np.arange(start, stop)).tolist()
        visited = []
        while place < stop:
            visited.append(place)
            place = after[place - start]
        yield np.array(visited, dtype=np.int64)


_Plan = Iterator[tuple[Offsets, npt.NDArray[np.int32], npt.NDArray[np.bool_]]]
"""Blocks of ``starts``, ``sizes`` and ``cut`` (see :class:`Epoch`)."""


def _segments(offsets: Offsets, documents: Offsets, budget: int, key: tuple[int, int]) -> _Plan:
    def stops(first: Rows) -> Rows:
        limit = offsets[first] + _budgets(first, budget, key)
        fitting = np.searchsorted(offsets, limit, side="right") - 1
        ends = documents[np.searchsorted(documents, first, side="right")]
        return np.maximum(first + 1, np.minimum(fitting, ends))

    for first in _visited(len(offsets) - 1, stops):
        starts = offsets[first]
        sizes = (offsets[stops(first)] - starts).astype(np.int32)
        yield starts[:, None], sizes[:, None], np.zeros(len(first), dtype=np.bool_)


def _pairs(offsets: Offsets, documents: Offsets, budget: int, key: tuple[int, int]) -> _Plan:
    pieces = len(offsets) - 1

    def reaching(first: Rows, wanted: Offsets) -> Rows:
        """Where the pieces from ``first`` on come to ``wanted`` tokens, or their document ends."""
        ends = documents[np.searchsorted(documents, first, side="right")]
        return np.minimum(np.searchsorted(offsets, offsets[first] + wanted), ends)

    def chunks(first: Rows) -> tuple[Rows, Rows, npt.NDArray[np.bool_]]:
        """Where A ends and where the chunk ends, and whether B is random."""
        stop = reaching(first, _budgets(first, budget, key))
        middle = first + 1 + _below(stop - first - 1, *key, _Draw.SIZE_OF_A, first)
        return middle, stop, (stop - first == 1) | (uniform(*key, _Draw.RANDOM_NEXT, first) < 0.5)

    def following(first: Rows) -> Rows:
        middle, stop, random = chunks(first)
        return np.where(random, middle, stop)

    for first in _visited(pieces, following):
        middle, stop, random = chunks(first)
        start_a, start_b = offsets[first], offsets[middle]
        size_a = start_b - start_a
        own = np.searchsorted(documents, first, side="right")
        own_pieces = documents[own] - documents[own - 1]
        other = _below(pieces - own_pieces, *key, _Draw.OTHER, first)
        other += np.where(other >= documents[own - 1], own_pieces, 0)
        # A may fill the budget alone; B has one sentence even so, and both are cut.
        other_stop = reaching(other, np.maximum(_budgets(first, budget, key) - size_a, 1))
        start_b = np.where(random, offsets[other], start_b)
        size_b = offsets[np.where(random, other_stop, stop)] - start_b
        # What is left when the longer one loses token after token, B where they are equal.
        kept_a = np.minimum(size_a, np.maximum(budget - size_b, (budget + 1) // 2))
        kept_b = np.minimum(size_b, budget - kept_a)
        start_a = start_a + _heads(size_a - kept_a, *key, _Draw.FRONT_OF_A, first)
        start_b = start_b + _heads(size_b - kept_b, *key, _Draw.FRONT_OF_B, first)
        sizes = np.stack([kept_a, kept_b], axis=1).astype(np.int32)
        yield np.stack([start_a, start_b], axis=1), sizes, size_a + size_b > budget


# ------------------------------------------------------------------------------------------------------- writing


def build(
    sources: Sequence[str],
    out: Path | str,
    tokenizer: Any,
    *,
    split: Split = "sentences",
    advance: Callable[[int], None] = lambda count: None,
) -> Corpus:
    """Tokenise text into a corpus, which appears in ``out`` when it is whole; ``advance`` hears of tokens written.

    A source is a file in UTF-8 that ends in .txt or .txt.gz, with one paragraph a line and a blank line between documents
    (a file's end is a document's too); or ``hub:OWNER/NAME``, a data set on the Hub each of whose rows is a document and each line
    of it a paragraph, with ``,config=NAME``, ``,split=train`` and ``,column=text`` after the name where they are others. Both are
    read as a stream; only paragraphs must fit into memory. Paragraphs are split by :func:`split_sentences`, unless
    ``split`` says that each line is one sentence already. Text that looks like a special token ("[SEP]") is read as text.

    Raises:
        TutelageError: when a source is missing, cannot be reached or read, or is not UTF-8; there is no text; something
            lies in ``out``, or it cannot be written; or the tokenizer is not a fast one, or cannot pad.
    """
    if not sources:
        raise TutelageError("a corpus of no sources was asked for; name at least one file or data set")
    readers = [_reader(source) for source in sources]
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise TutelageError(f"the tokenizer {name!r} has no fast version, which a corpus needs; choose one that has")
    if tokenizer.pad_token_id is None:
        raise TutelageError(f"the tokenizer {name!r} has no padding token; set one and save it again")
    folder, partial = _begin(out)
    try:
        counts = _write(partial, chain.from_iterable(readers), tokenizer, split, advance)
        if not counts["tokens"]:
            raise TutelageError(f"there is no text in {', '.join(map(repr, sources))}; give files with text")
        kept = copy.deepcopy(tokenizer)
        # Not what it was last asked to do, which would make other files of the same text.
        kept.backend_tokenizer.no_padding()
        kept.backend_tokenizer.no_truncation()
        kept.save_pretrained(partial / "tokenizer")
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = Manifest(
            tutelage=tutelage.__version__,
            split=split,
            sources=tuple(source if source.startswith(HUB) else Path(source).name for source in sources),
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            sha256={path.relative_to(partial).as_posix(): _sha256(path) for path in files},
            **counts,
        )
        write_text(partial / "manifest.json", manifest.model_dump_json(indent=1))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _unwritable(folder, error) from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Corpus(folder)


def _write(
    folder: Path, paragraphs: Iterator[str], tokenizer: Any, split: Split, advance: Callable[[int], None]
) -> dict[str, Any]:
    """The three arrays; returns how much there is, as the manifest has it."""
    # A copy, whose settings are nobody else's.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    joint = _joint(backend)
    dtype = "uint16" if _vocabulary(tokenizer) <= 2**16 else "uint32"
    counts: dict[str, Any] = {"documents": 0, "sentences": 0, "tokens": 0, "dtype": dtype}
    with (
        (folder / "tokens.bin").open("wb") as tokens_file,
        (folder / "sentences.bin").open("wb") as sentences_file,
        (folder / "documents.bin").open("wb") as documents_file,
    ):
        last = -1  # the document of the last sentence that had tokens
        for texts, of in _batches(paragraphs, split, joint):
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
            tokens = np.fromiter(
                chain.from_iterable(encoding.ids for encoding in encodings),
                f"<u{np.dtype(dtype).itemsize}",
                lengths.sum(),
            )
            of = of[lengths > 0]
            lengths = lengths[lengths > 0]
            first = np.flatnonzero(np.diff(of, prepend=last))
            tokens_file.write(tokens.data)
            sentences_file.write((counts["tokens"] + np.cumsum(lengths) - lengths).astype("<i8").data)
            documents_file.write((counts["sentences"] + first).astype("<i8").data)
            counts["tokens"] += len(tokens)
            counts["sentences"] += len(lengths)
            counts["documents"] += len(first)
            last = int(of[-1]) if len(of) else last
            advance(len(tokens))
        sentences_file.write(np.array(counts["tokens"], dtype="<i8").data)
        documents_file.write(np.array(counts["sentences"], dtype="<i8").data)
    return counts


def _batches(paragraphs: Iterator[str], split: Split, joint: str) -> Iterator[tuple[list[str], Rows]]:
    """Sentences, and the number of the document that each is of."""
    texts: list[str] = []
    of: list[int] = []
    document, size, begun = 0, 0, False
    for paragraph in paragraphs:
        if not paragraph:
            document, begun = document + 1, False
        else:
            for sentence in split_sentences(paragraph) if split == "sentences" else [paragraph]:
                texts.append(joint + sentence if begun else sentence)
                of.append(document)
                size, begun = size + len(sentence), True
        if size >= BUFFER:
            yield texts, np.array(of)
            texts, of, size = [], [], 0
    if texts:
        yield texts, np.array(of)


def _joint(backend: Any) -> str:
    """What to put before a sentence so that its tokens are those that it has in running text.

    Byte-level tokenizers count the space before a word as part of it: a sentence alone would begin with another token.
    """

    def ids(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    return "" if ids("a a") == ids("a") * 2 else " "


_BOUNDARY = re.compile(
    r"""[.!?…。！？](?:
        (?<![.!?…])["”’」』）]*(?![。！？])\s*               # ideographic: needs no space after it
      | (?<!\b[^\W\d_]\.)(?<!\b(?:Mr|Ms|Dr|St|vs|cf)\.)(?<!\b(?:Mrs|Rev|Gen)\.)
        ["'”’»)\]]*\s+(?!["'“‘«(\[]*[a-zß-öø-ÿα-ωа-я])      # not before a small letter
    )""",
    re.VERBOSE,
)


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of running text, without the space around them.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` (and quotes or brackets that close after it) before a space that no
    small letter follows, but not after a single letter (``J. Smith``, ``the U.S. Army``) or one of a few abbreviations
    (``Dr. Who``); and at ``。``, ``！`` or ``？`` everywhere.
    """
    ends = [match.end() for match in _BOUNDARY.finditer(paragraph)]
    cuts = [0, *ends, len(paragraph)]
    parts = (paragraph[start:stop].strip() for start, stop in pairwise(cuts))
    return [part for part in parts if part]


# Sources

HUB = "hub:"


def _reader(source: str) -> Iterator[str]:
    """Its paragraphs, none of them empty, and an empty string after each document."""
    if source.startswith(HUB):
        name, *settings = source.removeprefix(HUB).split(",")
        options: dict[str, str | None] = {"config": None, "split": "train", "column": "text"}
        for setting in settings:
            option, sign, value = setting.partition("=")
            if option not in options or not (sign and value):
                raise TutelageError(
                    f"{source!r}: {setting!r} is not among config=.., split=.. and column=..; "
                    "write hub:OWNER/NAME,split=train"
                )
            options[option] = value
        return _from_hub(name, options["config"], options["split"] or "", options["column"] or "")
    path = Path(source)
    if not path.name.lower().endswith((".txt", ".txt.gz")):
        raise TutelageError(f"{source!r} does not end in .txt or .txt.gz and does not begin with hub:; convert it")
    if path.is_dir():
        raise TutelageError(f"{source!r} is a directory; name the files in it")
    if not path.exists():
        raise TutelageError(f"there is no file {source!r}; check the path")
    return _from_file(path)


def _from_file(path: Path) -> Iterator[str]:
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            for line in file:
                yield line.strip()
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the file and its ending") from None
    yield ""


def _from_hub(name: str, config: str | None, split: str, column: str) -> Iterator[str]:
    import datasets

    try:
        rows = iter(datasets.load_dataset(name, config, split=split, streaming=True))
    except Exception as error:  # those of datasets, huggingface_hub, httpx and the operating system
        raise _unreachable(name, error) from None
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            raise _unreachable(name, error) from None
        if row is None:
            return
        if column not in row:
            raise TutelageError(
                f"the data set {name!r} has no column {column!r}: its columns are {', '.join(row)}; add ,column=NAME"
            )
        if not isinstance(row[column] or "", str):
            raise TutelageError(f"the column {column!r} of the data set {name!r} is not text; add another ,column=NAME")
        yield from filter(None, map(str.strip, re.split(r"[\r\n]+", row[column] or "")))
        yield ""


def _unreachable(name: str, error: Exception) -> TutelageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return TutelageError(
        f"the data set {name!r} cannot be had from the Hub ({reason}); check its name, or give text files"
    )


def _partial_of(folder: Path) -> Path:
    """Where a corpus lies until it is finished."""
    return folder.with_name(folder.name + ".partial")


def _begin(out: Path | str) -> tuple[Path, Path]:
    """The absolute path of a corpus that is to be written, and an empty folder to write it in.

    What a killed build has left there is removed.
    """
    folder = Path(os.path.abspath(out))
    partial = _partial_of(folder)
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise TutelageError(f"{str(folder)!r} exists already; remove it, or name another folder")
        if partial.exists():
            ours = {"tokens.bin", "sentences.bin", "documents.bin", "manifest.json", "manifest.json.tmp", "tokenizer"}
            if not partial.is_dir() or {path.name for path in partial.iterdir()} - ours:
                raise TutelageError(f"{str(partial)!r} is in the way; remove it, or name another folder")
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder, partial


def _unwritable(folder: Path, error: OSError) -> TutelageError:
    return TutelageError(
        f"the corpus {str(folder)!r} cannot be written ({error.strerror or error}); name another place"
    )


def describe(corpus: Corpus) -> dict[str, Any]:
    """What a corpus is, as plain values."""
    about = corpus.manifest
    return {
        "path": corpus.name,
        "tokens": about.tokens,
        "sentences": about.sentences,
        "documents": about.documents,
        "tokens_per_document": about.tokens / about.documents,
        "bytes": sum(about.bytes.values()),
        "split": about.split,
        "sources": ", ".join(about.sources),
        "tokenizer_fingerprint": about.tokenizer_fingerprint,
    }
