"""A teacher's knowledge on disk: computed once, read by every later student, seed and configuration.

A store is a folder::

    manifest.json            what it is: teacher, tokenizer, data, scheme, checksums
    index.bin                for each example: hash of its id, of its content, its length (20 bytes)
    shard-00000.bin ...      the records, one example after the other, memory-mapped
    evaluation.safetensors   the teacher's logits on the dev data, for reports
    teacher/                 the teacher's configuration and tokenizer, so that its weights are not needed again

A record is ``logits`` (float32), and for stores of hidden states the positions of the kept tokens and, for each kept layer and
token, its kept values (and which neurons they are of). Records have a fixed size where the number of tokens is limited;
where all tokens are kept they have the size of their example. :meth:`Scheme.record_bytes` is the formula.

Values are rounded to the store's type before anything is chosen from them. What a smaller store would hold can therefore be
cut out of a larger one, to the bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

import tutelage
from tutelage.data.batches import Rows, pieces
from tutelage.data.draws import hashes
from tutelage.data.examples import Encoded
from tutelage.disk import write_text
from tutelage.errors import TutelageError
from tutelage.knowledge.selection import Cut, Neurons, Score, Selected, Tokens, select
from tutelage.knowledge.signals import Needs, Signals

Dtype = Literal["float32", "float16", "bfloat16", "int8"]
BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
RAW: dict[str, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int8": "i1"}
"""How NumPy sees the values; it has no bfloat16."""

SHARD_BYTES = 256 * 2**20
SHARD_EXAMPLES = 8192
"""A shard is what a killed writer has to do again."""

INDEX = np.dtype([("id", "<u8"), ("key", "<u8"), ("length", "<u4")])

Column = tuple[int, int | None]
Exponents = dict[int, list[int]]
"""For 8-bit stores: by layer, the power of two by which each neuron is divided."""


class Scheme(BaseModel):
    """What a store keeps of each example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int
    """Logits of an example."""
    hidden: int
    """The teacher's width ``d``."""
    longest: int
    """Tokens of the longest example."""
    columns: tuple[Column, ...] = ()
    """Kept layers; where the tokens are chosen by attention, each with the layer whose attention ranks them."""
    tokens: Tokens = Tokens(count=1)
    neurons: Neurons = Neurons()
    scorers: tuple[tuple[int, Score], ...] = ()
    """Where all tokens are kept: the rankings by attention that are kept beside them."""
    dtype: Dtype = "float16"

    @classmethod
    def covering(cls, needs: Needs, classes: int, hidden: int, longest: int, dtype: Dtype = "float16") -> Scheme:
        """The smallest scheme that serves ``needs``; where two of them choose differently, all tokens or neurons are kept."""
        cuts = needs.parts
        common: dict[str, Any] = {"classes": classes, "hidden": hidden, "longest": longest, "dtype": dtype}
        if not cuts:
            return cls(**common)
        choices = {cut.tokens.model_copy(update={"count": None}) for cut in cuts}
        tokens = Tokens()
        if len(choices) == 1 and all(cut.tokens.count is not None for cut in cuts):
            tokens = choices.pop().model_copy(update={"count": max(cut.tokens.count or 0 for cut in cuts)})
        widths = {cut.neurons for cut in cuts}
        same = len(widths) == 1 or all(n.by == "magnitude" and n.count is not None for n in widths)
        neurons = max(widths, key=lambda n: n.count or 0) if same else Neurons()
        if tokens.whole:
            columns: set[Column] = {(cut.layer, None) for cut in cuts}
            scorers = {(cut.scored_by, cut.tokens.score) for cut in cuts if cut.scored_by is not None}
            common["scorers"] = tuple(sorted(scorers))
        else:
            columns = {(cut.layer, cut.scored_by) for cut in cuts}
        return cls(columns=tuple(sorted(columns, key=str)), tokens=tokens, neurons=neurons, **common)

    def lacks(self, needs: Needs) -> str | None:
        """Why these needs cannot be met from the store, or ``None`` if they can."""
        if needs.attention:
            return "queries and keys are not stored"
        if needs.padding:
            return "what the teacher says of padding is not stored"
        if needs.pooled:
            return "the pooled output is not stored"
        if needs.logits and not self.classes:
            return "it has no logits"
        for cut in sorted(needs.parts, key=str):
            column = (cut.layer, None if self.tokens.whole else cut.scored_by)
            if column not in self.columns:
                by = "" if column[1] is None else f" ranked by layer {column[1]}"
                return f"it has no layer {cut.layer}{by} (it has {sorted({layer for layer, _ in self.columns})})"
            if self.tokens.whole:
                if cut.scored_by is not None and (cut.scored_by, cut.tokens.score) not in self.scorers:
                    return f"it has no ranking of tokens by layer {cut.scored_by} ({cut.tokens.score})"
            else:
                wanted = cut.tokens.model_copy(update={"count": self.tokens.count})
                if wanted != self.tokens or (cut.tokens.count or 10**9) > (self.tokens.count or 0):
                    return f"it keeps {self.tokens}, not {cut.tokens}"
            ours, theirs = self.neurons, cut.neurons
            smaller = ours.by == theirs.by == "magnitude" and (theirs.count or 10**9) <= (ours.count or 0)
            if not (ours.count is None or ours == theirs or smaller):
                return f"it keeps {ours}, not {theirs}"
        return None

    @property
    def width(self) -> int:
        """Values of a vector."""
        return self.neurons.count or self.hidden

    @property
    def kept_bytes(self) -> int:
        """Bytes that say which neurons a vector's values are of: a bit for each, or a list where that is shorter."""
        if self.neurons.count is None or self.neurons.by != "magnitude":
            return 0
        return min(-(-self.hidden // 8), 2 * self.neurons.count)

    @property
    def _listed(self) -> bool:
        return self.neurons.count is not None and self.kept_bytes == 2 * self.neurons.count

    def fields(self, length: int) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type and shape of the parts of a record of ``length`` tokens, in their order."""
        parts: list[tuple[str, str, tuple[int, ...]]] = [("logits", "<f4", (self.classes,))] if self.classes else []
        if not self.columns:
            return parts
        place = "u1" if self.longest < 256 else "<u2"
        shape: tuple[int, ...] = (len(self.columns), length)
        if self.tokens.whole:
            parts.append(("separators", "u1", (-(-length // 8),)))
            parts += [("scores", "<f4", (len(self.scorers), length))] if self.scorers else []
        else:
            shape = (len(self.columns), self.tokens.count or 0)
            parts += [("count", place, ()), ("positions", place, shape)]
        if self.dtype == "int8":
            parts.append(("steps", "<f2", shape))
        if self.kept_bytes:
            parts.append(("kept", "<u2" if self._listed else "u1", (*shape, self.kept_bytes // (1 + self._listed))))
        return [*parts, ("values", RAW[self.dtype], (*shape, self.width))]

    def record(self, length: int = 0) -> np.dtype[Any]:
        """A record as NumPy sees it; ``length`` counts only where all tokens are kept."""
        return np.dtype(self.fields(length))

    def record_bytes(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bytes of the records of examples of these lengths.

        With D layers, K tokens, W values of b bytes, p bytes a position (1 up to 255 tokens, else 2), C classes and x
        bytes for which neurons they are: ``4 C + p + D K (p + W b + x)``; 2 more a vector for int8. Where all n tokens are
        kept with S rankings: ``4 C + 4 S n + D n (W b + x)``, and n bits for where [SEP] is.
        """
        if not self.tokens.whole or not self.columns:
            return np.full(len(lengths), self.record().itemsize, dtype=np.int64)
        lengths = np.asarray(lengths, dtype=np.int64)
        fixed, eight = self.record(0).itemsize, self.record(8).itemsize
        return fixed + (eight - fixed - 1) // 8 * lengths + -(-lengths // 8)


class Shard(BaseModel):
    """One file of records."""

    name: str
    examples: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a store is, and by what it is recognised."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    tutelage: str
    task: str
    teacher: str
    teacher_fingerprint: str
    tokenizer_fingerprint: str
    precision: str
    """What the teacher computed in."""
    max_length: int
    scheme: Scheme
    examples: int
    tokens: int
    data_fingerprint: str
    exponents: Exponents = {}
    index_sha256: str
    evaluation: dict[str, str] = {}
    """By part of dev: the fingerprint of its examples."""
    evaluation_sha256: str | None = None
    shards: Annotated[list[Shard], Field(min_length=1)]

    @property
    def bytes(self) -> int:
        """Bytes of all records."""
        return sum(shard.bytes for shard in self.shards)


# ------------------------------------------------------------------------------------------------ values to bytes


def rounded(hidden: Tensor, dtype: Dtype, exponents: list[int] | None) -> tuple[Tensor, Tensor | None]:
    """``hidden`` ``(batch, length, d)`` as a store of this type gives it back, and the steps of 8-bit vectors.

    A few neurons of a BERT are ten times larger than the rest. So 8-bit vectors are first divided by each neuron's usual
    size (a power of two), then written in 127 steps of their largest entry.
    """
    if dtype != "int8":
        return hidden.to(getattr(torch, dtype)).float(), None
    scaled = hidden / _powers(exponents, hidden.device)
    # Rounded up: the largest entry must not need more than 127 steps.
    steps = (scaled.abs().amax(dim=-1) * (1.001 / 127)).half().float().clamp(min=2.0**-24)
    return (scaled / steps[..., None]).round() * steps[..., None] * _powers(exponents, hidden.device), steps


def _powers(exponents: list[int] | None, device: torch.device | None = None) -> Tensor:
    return torch.tensor(exponents or [0], device=device, dtype=torch.float32).exp2()


def _coded(part: Selected, scheme: Scheme, exponents: list[int] | None) -> npt.NDArray[Any]:
    """Values that :func:`rounded` has rounded, as they lie on disk."""
    values = part.values.cpu()
    if scheme.dtype == "int8":
        assert part.steps is not None
        values = values / _unit(part, exponents)
        return np.asarray(values.round().to(torch.int8).numpy())
    stored = values.to(getattr(torch, scheme.dtype))
    return np.asarray((stored.view(torch.int16) if scheme.dtype == "bfloat16" else stored).numpy())


def _unit(part: Selected, exponents: list[int] | None) -> Tensor:
    """What an 8-bit value 1 means, for each value of ``part``."""
    assert part.steps is not None
    powers = _powers(exponents)
    return (powers if part.neurons is None else powers[part.neurons.cpu()]) * part.steps.cpu()[..., None]


def calibrate(vectors: Iterator[tuple[int, Tensor]]) -> dict[int, list[int]]:
    """By layer the exponent of the power of two nearest to each neuron's root mean square; takes ``(layer, (n, d))``."""
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for layer, part in vectors:
        sums[layer] = sums.get(layer, 0) + part.double().square().sum(dim=0)
        counts[layer] = counts.get(layer, 0) + len(part)
    return {
        layer: (total / counts[layer]).clamp(min=2.0**-40).log2().div(2).round().int().tolist()
        for layer, total in sums.items()
    }


# ------------------------------------------------------------------------------------------------------- reading


class Store:
    """A finished store. Opening checks its manifest and sizes; :meth:`verify` reads every byte.

    Raises:
        TutelageError: when there is none, it is unfinished or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.manifest = _read_manifest(self.folder)
        self.scheme = self.manifest.scheme
        for name, size in [
            ("index.bin", 20 * self.manifest.examples),
            *((s.name, s.bytes) for s in self.manifest.shards),
        ]:
            found = (self.folder / name).stat().st_size if (self.folder / name).exists() else 0
            if found != size:
                raise TutelageError(
                    f"the store {self.name!r} is damaged: {name} has {found:,} of {size:,} bytes; {AGAIN}"
                )
        self._whole = self.scheme.tokens.whole and bool(self.scheme.columns)
        counts = [shard.examples for shard in self.manifest.shards]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._masks = self.scheme.neurons.mask(self.scheme.hidden)
        self._exponents = self.manifest.exponents

    @property
    def name(self) -> str:
        return str(self.folder)

    @cached_property
    def index(self) -> npt.NDArray[Any]:
        """``(examples,)``: id hash, content and length, in the order of the records."""
        return np.fromfile(self.folder / "index.bin", dtype=INDEX)

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return np.argsort(self.index["id"], kind="stable")

    @cached_property
    def _shards(self) -> list[npt.NDArray[Any]]:
        dtype = np.dtype("u1") if self._whole else self.scheme.record()
        # Plain arrays over the mapped files: indexing a memmap costs several times as much.
        return [np.asarray(np.memmap(self.folder / s.name, dtype=dtype, mode="r")) for s in self.manifest.shards]

    @cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        """Where all tokens are kept: where each record begins in its shard."""
        sizes = self.scheme.record_bytes(self.index["length"].astype(np.int64))
        before = np.concatenate([[0], np.cumsum(sizes)])
        starts = np.repeat(before[self._first[:-1]], np.diff(self._first))
        return np.asarray(before[:-1] - starts)

    @property
    def checksums(self) -> dict[str, str]:
        """By file."""
        found = {shard.name: shard.sha256 for shard in self.manifest.shards}
        found["index.bin"] = self.manifest.index_sha256
        if self.manifest.evaluation_sha256:
            found["evaluation.safetensors"] = self.manifest.evaluation_sha256
        return found

    def verify(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Compare every file with its checksum; ``advance`` hears of bytes read.

        Raises:
            TutelageError: for a byte that is not as it was written.
        """
        for name, checksum in self.checksums.items():
            if not (self.folder / name).exists() or _sha256(self.folder / name, advance) != checksum:
                raise TutelageError(f"the store {self.name!r} is damaged: {name} is not as it was written; {AGAIN}")

    def check(self, teacher: str | None, tokenizer: str, precision: str) -> None:
        """Compare fingerprints; a teacher that is not at hand (``None``) is not compared.

        Raises:
            TutelageError: for another teacher, tokenizer or precision.
        """
        ours = self.manifest
        if teacher is not None and teacher != ours.teacher_fingerprint:
            raise TutelageError(
                f"the store {self.name!r} was made by another teacher ({ours.teacher!r}, fingerprint "
                f"{ours.teacher_fingerprint}, not {teacher}); give that one, or write a store of this one"
            )
        if tokenizer != ours.tokenizer_fingerprint:
            raise TutelageError(
                f"the store {self.name!r} was made with another tokenizer (fingerprint {ours.tokenizer_fingerprint}, "
                f"not {tokenizer}); {AGAIN}"
            )
        if precision != ours.precision:
            raise TutelageError(
                f"the store {self.name!r} was computed with mixed_precision={ours.precision}, the run asks for {precision}; "
                "set the same, or write another store"
            )

    def locate(self, ids: Sequence[str], encoded: Encoded) -> Rows:
        """The store's rows of these examples.

        Raises:
            TutelageError: for an example that the store lacks, or whose content is not what the teacher read.
        """
        wanted = hashes(ids)
        found = np.searchsorted(self.index["id"], wanted, sorter=self._order)
        rows = self._order[np.minimum(found, len(self._order) - 1)]
        missing = np.flatnonzero(self.index["id"][rows] != wanted)
        if len(missing):
            raise TutelageError(
                f"the store {self.name!r} knows nothing of {len(missing):,} of {len(ids):,} examples (the first is "
                f"{ids[missing[0]]!r}); write one for these data: tutelage store write"
            )
        edited = np.flatnonzero(self.index["key"][rows] != encoded.keys)
        if len(edited):
            raise TutelageError(
                f"the store {self.name!r} was made from other data: {len(edited):,} of {len(ids):,} examples are not the "
                f"texts that the teacher read (the first is {ids[edited[0]]!r}); were they edited, re-ordered or cut to "
                "another length? Write a store for these data"
            )
        return rows

    def logits(self, rows: Rows) -> Tensor:
        """Logits of these rows, ``(rows, classes)`` float32."""
        table = np.empty((len(rows), self.scheme.classes), dtype="<f4")
        shard = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            if self._whole:  # they are the first bytes of a record
                places = self._offsets[rows[here], None] + np.arange(4 * self.scheme.classes)
                table[here] = self._shards[number][places].view("<f4")
            else:
                table[here] = self._shards[number]["logits"][rows[here] - self._first[number]]
        return torch.from_numpy(table)

    def evaluation(self, part: str, fingerprint: str) -> Tensor | None:
        """The teacher's logits on a part of dev, if the store has them for these very examples."""
        if self.manifest.evaluation.get(part) != fingerprint:
            return None
        return load_file(self.folder / "evaluation.safetensors")[part]

    def signals(self, rows: Rows, needs: Needs, mask: Tensor, separators: Tensor, keys: Tensor) -> Signals:
        """What ``needs`` asks for, of these rows in this order; the other arguments are the batch's, as in ``Batch``."""
        if self._whole:
            # The teacher's tokens, which may be others than the batch's: then only the first token is ever asked for.
            mask = self._mask(rows, mask.shape[1]).to(mask.device)
        return self._signals(self._read(rows, mask), needs, mask, separators, keys)

    def _mask(self, rows: Rows, least: int = 0) -> Tensor:
        """``(rows, length)``: 1 at the tokens of these examples; at least ``least`` wide."""
        lengths = self.index["length"][rows]
        width = max(least, int(lengths.max()))
        return torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64))

    def _read(self, rows: Rows, mask: Tensor) -> npt.NDArray[Any]:
        return self._ragged(rows, mask.shape[1]) if self._whole else self._fixed(rows)

    def _signals(
        self, records: npt.NDArray[Any], needs: Needs, mask: Tensor, separators: Tensor, keys: Tensor
    ) -> Signals:
        device, result = mask.device, Signals()
        if needs.logits:
            result.logits = torch.from_numpy(np.array(records["logits"], dtype=np.float32)).to(device)
        parts: dict[tuple[int, int | None], Selected] = {}
        for cut in needs.parts:
            column = (cut.layer, None if self._whole else cut.scored_by)
            if column not in parts:
                parts[column] = self._part(records, self.scheme.columns.index(column), mask).to(device)
            scores = None
            if self._whole and cut.scored_by is not None:
                scores = self._scores(records, (cut.scored_by, cut.tokens.score)).to(device)
            selected = select(cut, parts[column], mask, separators, scores, keys)
            if cut in needs.cuts:
                result.cuts[cut] = selected
            if cut.layer in needs.hidden and cut.tokens.whole and cut.neurons.count is None:
                result.hidden[cut.layer] = selected.values
        return result

    def contents(self, rows: Rows, scheme: Scheme, needs: Needs) -> Contents:
        """What a smaller store keeps of these rows; ``needs`` are its parts."""
        mask = self._mask(rows)
        records = self._read(rows, mask)
        separators = torch.zeros_like(mask, dtype=torch.bool)
        scores = {}
        if self._whole:
            separators = torch.from_numpy(np.unpackbits(records["separators"], axis=1, count=mask.shape[1])).bool()
            scores = {scorer: self._scores(records, scorer) for scorer in scheme.scorers}
        keys = torch.from_numpy(self.index["key"][rows].astype(np.int64))
        signals = self._signals(records, needs, mask, separators, keys)
        parts = {(cut.layer, cut.scored_by): part for cut, part in signals.cuts.items()}
        return Contents(mask, separators, signals.logits, parts, scores)

    def _scores(self, records: npt.NDArray[Any], scorer: tuple[int, Score]) -> Tensor:
        return torch.from_numpy(np.array(records["scores"][:, self.scheme.scorers.index(scorer)]))

    def _fixed(self, rows: Rows) -> npt.NDArray[Any]:
        """Records of one size, in the order of ``rows``."""
        if len(self._shards) == 1:
            return self._shards[0][rows]
        shard = np.searchsorted(self._first, rows, side="right") - 1
        records = np.empty(len(rows), dtype=self._shards[0].dtype)
        for place, (number, row) in enumerate(zip(shard.tolist(), (rows - self._first[shard]).tolist(), strict=True)):
            records[place] = self._shards[number][row]
        return records

    def _ragged(self, rows: Rows, longest: int) -> npt.NDArray[Any]:
        """Records of all sizes, padded with zeros to ``longest`` tokens."""
        padded = np.zeros(len(rows), dtype=self.scheme.record(longest))
        shard = np.searchsorted(self._first, rows, side="right") - 1
        lengths = self.index["length"][rows]
        for place, (row, number, length) in enumerate(zip(rows, shard, lengths, strict=True)):
            record = self.scheme.record(int(length))
            start = self._offsets[row]
            found = self._shards[number][start : start + record.itemsize].view(record)[0]
            for name in record.names or ():
                padded[place][name][tuple(slice(size) for size in found[name].shape)] = found[name]
        return padded

    def _part(self, records: npt.NDArray[Any], column: int, mask: Tensor) -> Selected:
        """What is stored of one layer, on the CPU."""
        scheme = self.scheme
        positions = chosen = None
        if self._whole:
            chosen = mask
        else:
            positions = torch.from_numpy(records["positions"][:, column].astype(np.int64))
            counts = torch.from_numpy(records["count"].astype(np.int64))
            chosen = torch.arange(positions.shape[1]) < counts[:, None]
        raw = torch.from_numpy(records["values"][:, column].copy())
        values = (raw.view(torch.bfloat16) if scheme.dtype == "bfloat16" else raw).float()
        part = Selected(values, chosen, positions)
        if scheme.neurons.count is not None:
            if self._masks is not None:
                part.neurons = torch.from_numpy(self._masks)
            else:
                part.neurons = torch.from_numpy(_unpacked(records["kept"][:, column], scheme))
        if scheme.dtype == "int8":
            part.steps = torch.from_numpy(records["steps"][:, column].astype(np.float32))
            part.values = values * _unit(part, self._exponents[scheme.columns[column][0]])
        return part


AGAIN = "remove it and write it again"


def _unpacked(kept: npt.NDArray[Any], scheme: Scheme) -> npt.NDArray[np.int64]:
    """Which neurons, ``(batch, tokens, width)``; where nothing is kept (padding), the first ones."""
    if scheme._listed:
        return kept.astype(np.int64)
    bits = np.unpackbits(kept, axis=-1, count=scheme.hidden)
    bits[~kept.any(axis=-1), : scheme.width] = 1
    # As booleans: NumPy finds them six times faster than bytes that are not zero.
    places = np.flatnonzero(bits.view(np.bool_)).reshape(-1, scheme.width)
    places = places - np.arange(len(places))[:, None] * scheme.hidden
    return np.asarray(places.reshape(*kept.shape[:-1], scheme.width))


def _packed(neurons: npt.NDArray[np.int64], scheme: Scheme) -> npt.NDArray[Any]:
    if scheme._listed:
        return neurons.astype("<u2")
    bits = np.zeros((*neurons.shape[:-1], scheme.hidden), dtype=np.uint8)
    np.put_along_axis(bits, neurons, 1, axis=-1)
    return np.packbits(bits, axis=-1)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    if not path.exists():
        if partial_of(folder).exists():
            raise TutelageError(f"the store {str(folder)!r} is not finished; run the command that writes it again")
        raise TutelageError(f"{str(folder)!r} is no teacher store; `tutelage store write --out {folder} ...` makes one")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        checksum = tree.pop("sha256")
        manifest = Manifest.model_validate(tree)
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError):
        raise TutelageError(f"the manifest of the store {str(folder)!r} cannot be read; {AGAIN}") from None
    if checksum != _checksum(tree):
        raise TutelageError(f"the manifest of the store {str(folder)!r} is not as it was written; {AGAIN}")
    return manifest


def _checksum(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------- writing


def partial_of(folder: Path) -> Path:
    """Where a store lies until it is finished."""
    return folder.with_name(folder.name + ".partial")


def shards_of(sizes: npt.NDArray[np.int64]) -> list[Rows]:
    """The examples of each shard, in order: at most ``SHARD_EXAMPLES``, and about ``SHARD_BYTES``."""
    parts, start = [], 0
    ends = np.cumsum(sizes)
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + SHARD_EXAMPLES, len(sizes)))
        parts.append(np.arange(start, stop))
        start = stop
    return parts


@dataclass
class Contents:
    """What is written of a batch: for each column of a scheme its part, rounded; ``mask`` and ``separators`` as in a batch."""

    mask: Tensor
    separators: Tensor
    logits: Tensor | None = None
    parts: dict[Column, Selected] = field(default_factory=dict)
    scores: dict[tuple[int, Score], Tensor] = field(default_factory=dict)


def contents_of(
    signals: Signals, scheme: Scheme, mask: Tensor, separators: Tensor, keys: Tensor, exponents: Exponents
) -> Contents:
    """What a scheme keeps of the signals (see :func:`needs_of`) of a running teacher."""
    contents = Contents(mask, separators, signals.logits)
    contents.scores = {(layer, score): signals.ranking(layer, mask, score) for layer, score in scheme.scorers}
    for layer, scorer in scheme.columns:
        values, steps = rounded(signals.hidden[layer].float(), scheme.dtype, exponents.get(layer))
        scores = None if scorer is None else signals.ranking(scorer, mask, scheme.tokens.score)
        cut = Cut(layer, scheme.tokens, scheme.neurons, scorer)
        contents.parts[layer, scorer] = select(cut, Selected(values, mask, steps=steps), mask, separators, scores, keys)
    return contents


def write(
    folder: Path,
    scheme: Scheme,
    index: npt.NDArray[Any],
    read: Callable[[Rows], Contents],
    about: dict[str, Any],
    evaluation: dict[str, tuple[str, Tensor]],
    save_teacher: Callable[[Path], object],
    *,
    exponents: Exponents | None = None,
    max_tokens: int = 16384,
    advance: Callable[[int], None] = lambda count: None,
) -> Store:
    """Write a store, or what is missing of one that was begun; it appears in ``folder`` when it is whole.

    ``index`` names the examples (see :func:`index_of`), ``read`` gives what is kept of some of them, at most
    ``max_tokens`` padded tokens at once. ``about`` holds the manifest's other fields, ``evaluation`` by part of dev the
    fingerprint of its examples and the teacher's logits; ``save_teacher`` puts configuration and tokenizer into a folder.

    Raises:
        TutelageError: when something else lies there, or two examples have one id.
    """
    if len(np.unique(index["id"])) < len(index):
        raise TutelageError("two examples have the same id; a store needs one of its own for each")
    folder = check_place(folder)
    partial = partial_of(folder)
    lengths = index["length"].astype(np.int64)
    sizes = scheme.record_bytes(lengths)
    _check_room(folder, int(sizes.sum()))
    exponents = exponents or {}
    manifest: dict[str, Any] = {
        "tutelage": tutelage.__version__,
        **about,
        "scheme": scheme.model_dump(mode="json"),
        "examples": len(index),
        "tokens": int(lengths.sum()),
        "data_fingerprint": _fingerprint(index),
        "exponents": {str(layer): values for layer, values in exponents.items()},
    }
    plan, whole = partial / "plan.json", partial / "manifest.json"
    if partial.exists() and not _same(whole if whole.exists() else plan, manifest):
        raise TutelageError(f"{str(partial)!r} was begun for another store; remove it, or give another --out")
    if whole.exists():  # killed at the very end
        partial.rename(folder)
        return Store(folder)
    partial.mkdir(parents=True, exist_ok=True)
    write_text(plan, json.dumps(manifest))
    shards = []
    for number, rows in enumerate(shards_of(sizes)):
        path = partial / f"shard-{number:05d}.bin"
        done = path.with_suffix(".json")
        if done.exists():
            advance(len(rows))
        else:
            _write_shard(path, scheme, rows, lengths, read, exponents, max_tokens, advance)
            size = path.stat().st_size
            shard = Shard(name=path.name, examples=len(rows), bytes=size, sha256=_sha256(path))
            write_text(done, shard.model_dump_json())
        shards.append(json.loads(done.read_text(encoding="utf-8")))
    index.tofile(partial / "index.bin")
    manifest |= {"index_sha256": _sha256(partial / "index.bin"), "shards": shards}
    if evaluation:
        tensors = {name: logits.contiguous() for name, (_, logits) in evaluation.items()}
        save_file(tensors, partial / "evaluation.safetensors")
        manifest["evaluation"] = {name: fingerprint for name, (fingerprint, _) in evaluation.items()}
        manifest["evaluation_sha256"] = _sha256(partial / "evaluation.safetensors")
    save_teacher(partial / "teacher")
    tree = Manifest.model_validate(manifest).model_dump(mode="json")
    write_text(whole, json.dumps({**tree, "sha256": _checksum(tree)}, indent=1))
    for leftover in [*partial.glob("shard-*.json"), plan]:
        leftover.unlink()
    partial.rename(folder)
    return Store(folder)


def check_place(folder: Path) -> Path:
    """The absolute path of a store that is to be written.

    Raises:
        TutelageError: when something lies there, or nothing can be written there.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists():
        raise TutelageError(f"{str(folder)!r} exists already; remove it, or give another --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TutelageError(f"{str(folder)!r} cannot be written ({error.strerror}); name another folder") from None
    if not os.access(folder.parent, os.W_OK):
        raise TutelageError(f"{str(folder)!r} cannot be written (no permission); name another folder")
    return folder


def _check_room(folder: Path, size: int) -> None:
    partial = partial_of(folder)
    begun = sum(path.stat().st_size for path in partial.glob("*")) if partial.exists() else 0
    free = shutil.disk_usage(folder.parent).free + begun
    if size > free:
        raise TutelageError(
            f"the store {str(folder)!r} needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there; keep less, "
            "or name another place"
        )


def _same(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether what was begun (its plan, or its manifest) says the same wherever ``manifest`` says something."""
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        return all(begun.get(name) == value for name, value in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def _write_shard(
    path: Path,
    scheme: Scheme,
    rows: Rows,
    lengths: npt.NDArray[np.int64],
    read: Callable[[Rows], Contents],
    exponents: Exponents,
    max_tokens: int,
    advance: Callable[[int], None],
) -> None:
    sizes = scheme.record_bytes(lengths[rows])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    temporary = path.with_suffix(".tmp")
    shard = np.memmap(temporary, dtype="u1", mode="w+", shape=(int(starts[-1]),))
    for piece in pieces(rows, lengths, max_tokens):
        records = _records(read(piece), scheme, exponents)
        if not scheme.tokens.whole:
            shard.view(scheme.record())[piece - rows[0]] = records
            advance(len(piece))
            continue
        for place, row in enumerate(piece):
            begin, record = starts[row - rows[0]], scheme.record(int(lengths[row]))
            target = shard[begin : begin + record.itemsize].view(record)
            for name in record.names or ():
                shape = record[name].shape
                target[0][name] = records[name][place][tuple(slice(size) for size in shape)]
        advance(len(piece))
    shard.flush()
    del shard
    os.replace(temporary, path)


def _records(contents: Contents, scheme: Scheme, exponents: Exponents) -> npt.NDArray[Any]:
    """A batch as records, all padded to the longest of them."""
    batch, length = contents.mask.shape
    records = np.zeros(batch, dtype=scheme.record(length))
    if contents.logits is not None and scheme.classes:
        records["logits"] = contents.logits.float().cpu().numpy()
    if not scheme.columns:
        return records
    if scheme.tokens.whole:
        records["separators"] = np.packbits(contents.separators.cpu().numpy(), axis=-1)
        for place, scorer in enumerate(scheme.scorers):
            records["scores"][:, place] = contents.scores[scorer].float().cpu().numpy()
    for place, column in enumerate(scheme.columns):
        part = contents.parts[column].each(Tensor.cpu)  # waits for the device, which `to` does not
        there = part.mask.bool()[..., None].numpy()
        kept = part.values.shape[1]  # of short texts fewer than the scheme has room for
        records["values"][:, place, :kept] = np.where(there, _coded(part, scheme, exponents.get(column[0])), 0)
        if part.positions is not None:
            records["positions"][:, place, :kept] = part.positions.numpy()
            records["count"] = part.mask.sum(dim=1).numpy()
        if part.steps is not None:
            records["steps"][:, place, :kept] = part.steps.numpy() * there[..., 0]
        if scheme.kept_bytes:
            assert part.neurons is not None
            records["kept"][:, place, :kept] = _packed(part.neurons.numpy(), scheme) * there
    return records


def compact(store: Store, folder: Path, scheme: Scheme, advance: Callable[[int], None] = lambda count: None) -> Store:
    """Write the smaller store that ``scheme`` describes, from a larger one instead of the teacher.

    Raises:
        TutelageError: when the larger store lacks something, or the types differ.
    """
    wanted = Needs(
        logits=scheme.classes > 0,
        cuts=frozenset(Cut(layer, scheme.tokens, scheme.neurons, scorer) for layer, scorer in scheme.columns),
    )
    lacking = store.scheme.lacks(wanted)
    if lacking is None and not set(scheme.scorers) <= set(store.scheme.scorers):
        lacking = "it has not all of these rankings of tokens"
    if lacking is not None:
        raise TutelageError(f"the store {store.name!r} cannot be cut to this: {lacking}")
    if scheme.dtype != store.scheme.dtype:
        raise TutelageError(f"a store of {store.scheme.dtype} cannot become one of {scheme.dtype}; write it anew")
    ours = store.manifest
    names = ("teacher", "teacher_fingerprint", "tokenizer_fingerprint", "precision", "max_length", "task")
    logits = load_file(store.folder / "evaluation.safetensors") if ours.evaluation else {}
    layers = {layer for layer, _ in scheme.columns}
    return write(
        folder,
        scheme,
        store.index,
        lambda rows: store.contents(rows, scheme, wanted),
        {name: getattr(ours, name) for name in names},
        {name: (fingerprint, logits[name]) for name, fingerprint in ours.evaluation.items()},
        lambda place: shutil.copytree(store.folder / "teacher", place, dirs_exist_ok=True),
        exponents={layer: values for layer, values in ours.exponents.items() if layer in layers},
        advance=advance,
    )


def index_of(ids: Sequence[str], encoded: Encoded) -> npt.NDArray[Any]:
    """``(examples,)``: by what a store knows these examples again."""
    index = np.empty(len(ids), dtype=INDEX)
    index["id"], index["key"], index["length"] = hashes(ids), encoded.keys, encoded.lengths
    return index


def fingerprint_of(ids: Sequence[str], encoded: Encoded) -> str:
    """A name for these examples with this content, in this order."""
    return _fingerprint(index_of(ids, encoded))


def _fingerprint(index: npt.NDArray[Any]) -> str:
    return hashlib.sha256(index.tobytes()).hexdigest()[:16]


def needs_of(scheme: Scheme) -> Needs:
    """What must be read from a running teacher to write a store of this scheme."""
    scorers = {by for _, by in scheme.columns} | {layer for layer, _ in scheme.scorers}
    return Needs(
        logits=scheme.classes > 0,
        hidden=frozenset(layer for layer, _ in scheme.columns),
        attention=frozenset(layer for layer in scorers if layer is not None),
    )
