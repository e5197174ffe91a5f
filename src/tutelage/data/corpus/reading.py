"""Read a corpus from disk: tokenised text, read as epochs of training instances."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tutelage.artifacts import Manifest, sha256_of
from tutelage.data.corpus.packing import BLOCK, Draw, Offsets, Packing, Split, below, plan_pairs, plan_segments
from tutelage.data.examples import Encoded, Rows
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError


class CorpusManifest(Manifest):
    """What a corpus is, and by what it is recognised."""

    WHAT = "corpus"
    COMMAND = "tutelage corpus build"

    format: Literal[1] = 1
    tutelage: str
    documents: int = Field(ge=1)
    sentences: int = Field(ge=1)
    tokens: int = Field(ge=1)
    dtype: Literal["uint16", "uint32"]
    split: Split
    sources: tuple[str, ...]
    """File names (without folders) and data set names, in order."""
    tokenizer_fingerprint: str
    sha256: dict[str, str]
    """SHA-256 of each file."""

    @property
    def bytes(self) -> dict[str, int]:
        """Size of each array file in bytes."""
        return {
            "tokens.bin": self.tokens * np.dtype(self.dtype).itemsize,
            "sentences.bin": 8 * (self.sentences + 1),
            "documents.bin": 8 * (self.documents + 1),
        }


class Corpus:
    """A finished corpus. Opening checks the manifest, the file sizes and the tokenizer; :meth:`verify` checks every byte.

    Raises:
        TutelageError: if the folder holds no corpus, or the corpus is unfinished or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.manifest = CorpusManifest.read(self.folder)
        for name, size in self.manifest.bytes.items():
            path = self.folder / name
            found = path.stat().st_size if path.exists() else 0
            if found != size:
                raise CorpusManifest.damaged(self.folder, f"{name} has {found:,} of {size:,} bytes")
        # A tokenizer whose files are damaged or missing may load even so, as another one.
        self._compare([name for name in self.manifest.sha256 if name not in self.manifest.bytes])
        self.tokenizer = load_tokenizer(str(self.folder / "tokenizer"))
        self.tokens: npt.NDArray[Any] = self._mapped("tokens.bin", f"<u{np.dtype(self.manifest.dtype).itemsize}")
        """``(tokens,)``: the tokens of all documents, concatenated."""
        self.sentences: Offsets = self._mapped("sentences.bin", "<i8")
        """``(sentences + 1,)``: sentence ``i`` is ``tokens[sentences[i]:sentences[i + 1]]``; none is empty."""
        self.documents: Offsets = self._mapped("documents.bin", "<i8")
        """``(documents + 1,)``: document ``i`` has the sentences ``documents[i]`` to ``documents[i + 1] - 1``."""

    def _mapped(self, name: str, dtype: str) -> npt.NDArray[Any]:
        # A plain array over the mapped file: indexing a memmap is several times slower.
        return np.asarray(np.memmap(self.folder / name, dtype=dtype, mode="r"))

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the files and data sets it was built from."""
        return self.manifest.sources

    @property
    def fingerprint(self) -> str:
        """A hash of the content. It changes with any token, sentence boundary or document boundary."""
        checksums = "".join(self.manifest.sha256[name] for name in self.manifest.bytes)
        return hashlib.sha256(checksums.encode()).hexdigest()[:16]

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """``(vocabulary,)``: occurrences of each token. The first access reads the whole corpus."""
        counts = np.zeros(vocabulary_of(self.tokenizer), dtype=np.int64)
        for start in range(0, len(self.tokens), BLOCK):
            counts += np.bincount(self.tokens[start : start + BLOCK], minlength=len(counts))
        return counts

    def verify(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Compare every file with its checksum. ``advance`` is called with the number of bytes read since the last call.

        Raises:
            TutelageError: if a file is missing or its checksum differs.
        """
        self._compare(list(self.manifest.sha256), advance)

    def _compare(self, names: list[str], advance: Callable[[int], None] = lambda count: None) -> None:
        for name in names:
            path = self.folder / name
            if not path.exists() or sha256_of(path, advance) != self.manifest.sha256[name]:
                raise CorpusManifest.damaged(self.folder, f"{name} is not as it was written")

    def split(self, held_out: int) -> tuple[Corpus, Corpus]:
        """Split off a held-out part at the end: about ``held_out`` tokens, at least two sentences.

        Returns the rest and the held-out part. A document that contains the cut continues in both. If the corpus has two
        documents or more, each part gets at least two, because pairs need two. If the held-out part would be more than
        half of the corpus, or less than two sentences would remain, both results are the whole corpus.
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
        """The corpus restricted to the sentences ``start`` to ``stop - 1``, with these document boundaries."""
        part = copy.copy(self)
        first = self.sentences[start]
        part.tokens = self.tokens[first : self.sentences[stop]]
        part.sentences = self.sentences[start : stop + 1] - first if first else self.sentences[: stop + 1]
        part.documents = documents - start
        return part

    def epoch(self, packing: Packing, length: int, seed: int, epoch: int) -> Epoch:
        """The instances of one epoch, each at most ``length`` tokens long.

        The result depends only on the corpus and the arguments. The budget of an instance is ``length`` minus the special
        tokens that the tokenizer adds to a text or a pair. A sentence longer than the budget is cut into pieces of
        ``budget`` tokens (the last one shorter), and each piece counts as a sentence.

        ``pairs``
            BERT's sentence pairs. A chunk collects sentences of one document until they reach the budget. One chunk in ten
            has a random smaller budget (2 tokens or more); the last chunk of a document may be smaller, too. Text A is
            a random number of sentences from the start of the chunk, at least one, and not all of several. With
            probability 0.5, and always if the chunk has one sentence, text B starts at a random sentence of another
            document, and the rest of the chunk moves to the next chunk. Otherwise the rest of the chunk is B. While A and B
            together exceed the full budget, the longer text (B if equal) loses one token at its start or its end, with
            equal probability. Each sentence occurs once per epoch in an A or as its continuation B; random B texts come
            in addition. Tokens lost to truncation differ from epoch to epoch.
        ``segments``
            As many sentences of one document as fit into the budget. One instance in ten has a random smaller budget; a
            sentence longer than that forms an instance alone. Each token occurs in exactly one instance.
        ``packed``
            All documents in a ring, with the separator (or the end token, if the tokenizer has no separator) after each.
            The ring is cut at a random place, then every ``budget`` tokens. The last, shorter piece is dropped.

        Raises:
            TutelageError: if ``length`` leaves no room for text, the corpus is too small, or the tokenizer has no separator.
        """
        frame = _frame_of(self.tokenizer, 2 if packing == "pairs" else 1)
        budget = length - frame.specials
        if budget < 2:
            raise TutelageError(f"length={length} is too short for {packing}; use at least {frame.specials + 2}")
        key = (seed, epoch)
        if packing == "packed":
            return self._packed(frame, budget, key)
        if packing == "segments":
            plan = plan_segments(*self._pieces(budget), budget, key)
        else:
            if len(self.documents) < 3:
                raise TutelageError(
                    f"the corpus {self.name!r} has one document, and pairs need two; separate documents by blank lines "
                    "and build it again, or choose segments"
                )
            if not frame.runs[1]:
                raise TutelageError(
                    f"the tokenizer of the corpus {self.name!r} puts no token between the texts of a pair; "
                    "choose segments or packed"
                )
            plan = plan_pairs(*self._pieces(budget), budget, key)
        starts, sizes, cut = (np.concatenate(parts) for parts in zip(*plan, strict=True))
        return Epoch(starts, sizes, cut, _Stream(self.tokens), frame)

    def _packed(self, frame: _Frame, budget: int, key: tuple[int, int]) -> Epoch:
        parting = _separator(self.tokenizer)
        if parting < 0:
            parting = -1 if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)
        if parting < 0:
            raise TutelageError(
                f"the tokenizer of the corpus {self.name!r} has neither a separator nor an end token to put between documents; "
                "set its eos_token and build the corpus again, or choose segments"
            )
        ends = self.sentences[self.documents[1:]] + np.arange(len(self.documents) - 1)
        ring = int(ends[-1]) + 1
        count = ring // budget
        if not count:
            raise TutelageError(
                f"the corpus {self.name!r} has {ring:,} tokens, and one instance needs {budget:,}; choose a smaller length"
            )
        phase = int(below(ring, *key, Draw.PHASE, 0)[0])
        starts = (phase + budget * np.arange(count, dtype=np.int64)[:, None]) % ring
        sizes = np.full((count, 1), budget, dtype=np.int32)
        return Epoch(starts, sizes, np.zeros(count, dtype=np.bool_), _Stream(self.tokens, ends, parting), frame)

    def _pieces(self, budget: int) -> tuple[Offsets, Offsets]:
        """Offsets of the pieces (sentences, cut if longer than ``budget``), and of the documents, counted in pieces."""
        long = np.flatnonzero(np.diff(self.sentences) > budget)
        if not len(long):
            return self.sentences, self.documents
        cuts = (self.sentences[long + 1] - self.sentences[long] - 1) // budget
        more = np.repeat(self.sentences[long], cuts) + budget * (_within(cuts) + 1)
        offsets = np.sort(np.concatenate([self.sentences, more]), kind="stable")
        return offsets, np.searchsorted(offsets, self.sentences[self.documents])


@dataclass(frozen=True)
class Epoch:
    """The plan of one epoch. :meth:`read` builds the instances."""

    starts: Offsets
    """``(n, 1)``, for pairs ``(n, 2)``: start of each text, as an index into the corpus's tokens. For packed instances, an
    index into the ring, which has one more token after each document."""
    sizes: npt.NDArray[np.int32]
    """Shape of ``starts``: number of tokens of each text."""
    cut: npt.NDArray[np.bool_]
    """``(n,)``: whether a pair was truncated."""
    _stream: _Stream
    _frame: _Frame

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``(n,)``: number of tokens of each instance, special tokens included."""
        return np.asarray(self.sizes.sum(axis=1, dtype=np.int64) + self._frame.specials)

    def read(self, rows: Rows) -> Encoded:
        """Build the instances ``rows``, in that order."""
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
    """The tokens of a corpus. With ``ends``, a ring that has the token ``parting`` at these places."""

    tokens: npt.NDArray[Any]
    ends: Offsets | None = None
    parting: int = -1

    def at(self, places: Offsets) -> npt.NDArray[np.int32]:
        if self.ends is None:
            return self.tokens[places].astype(np.int32)
        places = places % (self.ends[-1] + 1)
        before = np.searchsorted(self.ends, places)
        between = self.ends[before] == places
        return np.where(between, self.parting, self.tokens[places - before - between]).astype(np.int32)


@dataclass(frozen=True)
class _Frame:
    """The special tokens that a tokenizer adds to one text or a pair, read from an example encoding."""

    runs: tuple[tuple[tuple[int, int], ...], ...]
    """Special tokens with their token types: before the first text, after it, and (for a pair) after the second."""
    types: tuple[int, ...]
    """Token type of each text."""
    has_types: bool
    pad_token: int
    separator: int

    @property
    def specials(self) -> int:
        """Number of special tokens."""
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


def vocabulary_of(tokenizer: Any) -> int:
    """The largest token id plus one. The ids of a tokenizer may have gaps."""
    return 1 + max(map(int, tokenizer.get_vocab().values()))


def _within(sizes: Offsets) -> Offsets:
    """``0 .. size - 1`` for each size, concatenated."""
    ends = np.cumsum(sizes)
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes))
