"""Read a teacher store: look up examples and load their signals."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field
from safetensors.torch import load_file
from torch import Tensor

from tutelage.artifacts import Manifest, opened, sha256_of, signed, write_text
from tutelage.data.draws import hashes
from tutelage.data.examples import Encoded, Rows
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Score
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected, select
from tutelage.knowledge.signals import Signals
from tutelage.knowledge.store.records import Contents, unit_of, unpacked
from tutelage.knowledge.store.scheme import Exponents, Scheme

EVALUATION = "evaluation.safetensors"
"""The teacher's logits on the parts of the evaluation set, in the folder of a store."""

INDEX = np.dtype([("id", "<u8"), ("key", "<u8"), ("length", "<u4")])


class Shard(BaseModel):
    """A file of records."""

    name: Annotated[str, Field(pattern=r"^shard-[0-9]{5}\.bin$")]
    examples: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class StoreManifest(Manifest):
    """Contents, settings and fingerprints of a store."""

    WHAT = "teacher store"
    COMMAND = "tutelage store write"

    format: Literal[1] = 1
    tutelage: str
    task: str
    teacher: str
    teacher_fingerprint: str
    tokenizer_fingerprint: str
    precision: str
    """The mixed precision of the teacher's forward passes."""
    max_length: int
    scheme: Scheme
    examples: Annotated[int, Field(ge=1)]
    tokens: int
    data_fingerprint: str
    exponents: Exponents = Field(default_factory=dict)
    index_sha256: str
    evaluation: dict[str, str] = Field(default_factory=dict)
    """By part of dev: the fingerprint of its examples."""
    evaluation_sha256: str | None = None
    shards: Annotated[list[Shard], Field(min_length=1)]

    @property
    def bytes(self) -> int:
        """Total size of the records in bytes."""
        return sum(shard.bytes for shard in self.shards)

    @classmethod
    def parse(cls, text: str) -> StoreManifest:
        return cls.model_validate(opened(text))

    def write(self, folder: Path) -> None:
        write_text(folder / self.FILE, signed(self.model_dump(mode="json")))


class Store:
    """A finished store. Opening checks the manifest and the file sizes; :meth:`verify` checks every byte.

    Raises:
        TutelageError: if the folder holds no store, or the store is unfinished or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.manifest = StoreManifest.read(self.folder)
        self.scheme = self.manifest.scheme
        for name, size in [
            ("index.bin", 20 * self.manifest.examples),
            *((s.name, s.bytes) for s in self.manifest.shards),
        ]:
            found = (self.folder / name).stat().st_size if (self.folder / name).exists() else 0
            if found != size:
                raise StoreManifest.damaged(self.folder, f"{name} has {found:,} of {size:,} bytes")
        if self.manifest.evaluation and not (self.folder / EVALUATION).exists():
            raise StoreManifest.damaged(self.folder, f"{EVALUATION} is missing")
        self._whole = self.scheme.tokens.whole and bool(self.scheme.columns)
        shards = self.manifest.shards
        fixed = None if self._whole else self.scheme.record().itemsize
        if sum(s.examples for s in shards) != self.manifest.examples or (
            fixed is not None and any(s.bytes != fixed * s.examples for s in shards)
        ):
            raise StoreManifest.damaged(self.folder, "its shards do not have the size of its records")
        counts = [shard.examples for shard in self.manifest.shards]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._masks = self.scheme.neurons.mask(self.scheme.hidden)
        self._exponents = self.manifest.exponents

    @property
    def name(self) -> str:
        return str(self.folder)

    @cached_property
    def index(self) -> npt.NDArray[Any]:
        """``(examples,)``: hash of the id, hash of the content and length in tokens, in the order of the records.

        Raises:
            TutelageError: if the file is not as it was written.
        """
        content = (self.folder / "index.bin").read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest.index_sha256:
            raise StoreManifest.damaged(self.folder, "index.bin is not as it was written")
        return np.frombuffer(content, dtype=INDEX)

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return np.argsort(self.index["id"], kind="stable")

    @cached_property
    def _shards(self) -> list[npt.NDArray[Any]]:
        dtype = np.dtype("u1") if self._whole else self.scheme.record()
        # Plain arrays over the mapped files: indexing a memmap is several times slower.
        return [np.asarray(np.memmap(self.folder / s.name, dtype=dtype, mode="r")) for s in self.manifest.shards]

    @cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        """Start of each record in its shard in bytes; used if all tokens are kept (records then differ in size)."""
        sizes = self.scheme.record_bytes(self.index["length"].astype(np.int64))
        before = np.concatenate([[0], np.cumsum(sizes)])
        starts = np.repeat(before[self._first[:-1]], np.diff(self._first))
        return np.asarray(before[:-1] - starts)

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file."""
        found = {shard.name: shard.sha256 for shard in self.manifest.shards}
        found["index.bin"] = self.manifest.index_sha256
        if self.manifest.evaluation_sha256:
            found[EVALUATION] = self.manifest.evaluation_sha256
        return found

    def verify(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Compare every file with its checksum. ``advance`` is called with the number of bytes read since the last call.

        Raises:
            TutelageError: if a file is missing or its checksum differs.
        """
        for name, checksum in self.checksums.items():
            if not (self.folder / name).exists() or sha256_of(self.folder / name, advance) != checksum:
                raise StoreManifest.damaged(self.folder, f"{name} is not as it was written")

    def check(self, teacher: str | None, tokenizer: str, precision: str) -> None:
        """Compare fingerprints with those of the run. ``teacher=None`` skips the teacher (it is not loaded).

        Raises:
            TutelageError: if teacher, tokenizer or precision differ.
        """
        ours = self.manifest
        if teacher is not None and teacher != ours.teacher_fingerprint:
            raise TutelageError(
                f"the store {self.name!r} was made by another teacher ({ours.teacher!r}, fingerprint "
                f"{ours.teacher_fingerprint}, not {teacher}); use that teacher, or write a store for this one"
            )
        if tokenizer != ours.tokenizer_fingerprint:
            raise TutelageError(
                f"the store {self.name!r} was made with another tokenizer (fingerprint {ours.tokenizer_fingerprint}, "
                f"not {tokenizer}); remove it and write it again"
            )
        if precision != ours.precision:
            raise TutelageError(
                f"the store {self.name!r} was computed with mixed_precision={ours.precision}, the run uses {precision}; "
                "set the same precision, or write another store"
            )

    def locate(self, ids: Sequence[str], encoded: Encoded) -> Rows:
        """The store's rows of these examples.

        Raises:
            TutelageError: if the store lacks an example, or its text or encoding changed since the store was written.
        """
        wanted = hashes(ids)
        found = np.searchsorted(self.index["id"], wanted, sorter=self._order)
        rows = self._order[np.minimum(found, len(self._order) - 1)]
        missing = np.flatnonzero(self.index["id"][rows] != wanted)
        if len(missing):
            raise TutelageError(
                f"the store {self.name!r} lacks {len(missing):,} of {len(ids):,} examples (the first is "
                f"{ids[missing[0]]!r}); write a store for these data: tutelage store write"
            )
        edited = np.flatnonzero(self.index["key"][rows] != encoded.keys)
        if len(edited):
            raise TutelageError(
                f"the store {self.name!r} was made from other data: {len(edited):,} of {len(ids):,} examples differ from the "
                f"teacher's (the first is {ids[edited[0]]!r}): edited, re-ordered or truncated to another length; write a "
                "store for these data"
            )
        return rows

    def logits(self, rows: Rows) -> Tensor:
        """The logits of these rows, ``(rows, classes)`` float32."""
        table = np.empty((len(rows), self.scheme.classes), dtype="<f4")
        shard = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            if self._whole:  # the logits are the first bytes of a record
                places = self._offsets[rows[here], None] + np.arange(4 * self.scheme.classes)
                table[here] = self._shards[number][places].view("<f4")
            else:
                table[here] = self._shards[number]["logits"][rows[here] - self._first[number]]
        return torch.from_numpy(table)

    def evaluation(self, part: str, fingerprint: str) -> Tensor | None:
        """The teacher's logits on a part of the evaluation set, or ``None`` if the store lacks them for these examples."""
        if self.manifest.evaluation.get(part) != fingerprint:
            return None
        return load_file(self.folder / EVALUATION)[part]

    def signals(self, rows: Rows, needs: Needs, mask: Tensor, separators: Tensor, keys: Tensor) -> Signals:
        """The signals in ``needs`` for these rows, in this order. The other arguments are those of the batch (``Batch``), as
        the teacher's tokenizer encodes it."""
        return self._signals(self._read(rows, mask), needs, mask, separators, keys)

    def _mask(self, rows: Rows) -> Tensor:
        """``(rows, length)``: 1 at real tokens of these examples."""
        lengths = self.index["length"][rows]
        return torch.from_numpy((np.arange(int(lengths.max())) < lengths[:, None]).astype(np.int64))

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
        """The contents of a smaller store for these rows. ``needs`` are the parts it keeps."""
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
        """Read records of equal size, in the order of ``rows``."""
        if len(self._shards) == 1:
            return self._shards[0][rows]
        shard = np.searchsorted(self._first, rows, side="right") - 1
        records = np.empty(len(rows), dtype=self._shards[0].dtype)
        for place, (number, row) in enumerate(zip(shard.tolist(), (rows - self._first[shard]).tolist(), strict=True)):
            records[place] = self._shards[number][row]
        return records

    def _ragged(self, rows: Rows, longest: int) -> npt.NDArray[Any]:
        """Read records of different sizes, padded with zeros to ``longest`` tokens."""
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
        """The stored part of one layer, on the CPU."""
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
                part.neurons = torch.from_numpy(unpacked(records["kept"][:, column], scheme))
        if scheme.dtype == "int8":
            part.steps = torch.from_numpy(records["steps"][:, column].astype(np.float32))
            part.values = values * unit_of(part, self._exponents[scheme.columns[column][0]])
        return part


def index_of(ids: Sequence[str], encoded: Encoded) -> npt.NDArray[Any]:
    """``(examples,)``: the lookup keys of these examples: hash of the id, hash of the content, length."""
    index = np.empty(len(ids), dtype=INDEX)
    index["id"], index["key"], index["length"] = hashes(ids), encoded.keys, encoded.lengths
    return index


def fingerprint_of(ids: Sequence[str], encoded: Encoded) -> str:
    """A hash of these examples: ids, contents and order."""
    return index_fingerprint(index_of(ids, encoded))


def index_fingerprint(index: npt.NDArray[Any]) -> str:
    return hashlib.sha256(index.tobytes()).hexdigest()[:16]
