"""A store of teacher knowledge on disk: looking examples up and reading their signals."""

from __future__ import annotations

import hashlib
import json
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

from tutelage.artifacts import Manifest, checksum_of, sha256_of, write_text
from tutelage.data.draws import hashes
from tutelage.data.examples import Encoded, Rows
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Score
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected, select
from tutelage.knowledge.signals import Signals
from tutelage.knowledge.store.records import Contents, unit_of, unpacked
from tutelage.knowledge.store.scheme import Exponents, Scheme

INDEX = np.dtype([("id", "<u8"), ("key", "<u8"), ("length", "<u4")])


class Shard(BaseModel):
    """One file of records."""

    name: str
    examples: int
    bytes: int
    sha256: str


class StoreManifest(Manifest):
    """What a store is, and by what it is recognised. Its file holds its own checksum too."""

    WHAT = "teacher store"
    COMMAND = "tutelage store write"

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
    exponents: Exponents = Field(default_factory=dict)
    index_sha256: str
    evaluation: dict[str, str] = Field(default_factory=dict)
    """By part of dev: the fingerprint of its examples."""
    evaluation_sha256: str | None = None
    shards: Annotated[list[Shard], Field(min_length=1)]

    @property
    def bytes(self) -> int:
        """Bytes of all records."""
        return sum(shard.bytes for shard in self.shards)

    @classmethod
    def parse(cls, text: str) -> StoreManifest:
        tree = json.loads(text)
        checksum = tree.pop("sha256", None) if isinstance(tree, dict) else None
        manifest = cls.model_validate(tree)
        if checksum != checksum_of(tree):
            raise ValueError("it is not as it was written")
        return manifest

    def write(self, folder: Path) -> None:
        tree = self.model_dump(mode="json")
        write_text(folder / self.FILE, json.dumps({**tree, "sha256": checksum_of(tree)}, indent=1))


class Store:
    """A finished store. Opening checks its manifest and sizes; :meth:`verify` reads every byte.

    Raises:
        TutelageError: when there is none, it is unfinished or damaged.
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
            if not (self.folder / name).exists() or sha256_of(self.folder / name, advance) != checksum:
                raise StoreManifest.damaged(self.folder, f"{name} is not as it was written")

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
                f"not {tokenizer}); remove it and write it again"
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
                part.neurons = torch.from_numpy(unpacked(records["kept"][:, column], scheme))
        if scheme.dtype == "int8":
            part.steps = torch.from_numpy(records["steps"][:, column].astype(np.float32))
            part.values = values * unit_of(part, self._exponents[scheme.columns[column][0]])
        return part


def index_of(ids: Sequence[str], encoded: Encoded) -> npt.NDArray[Any]:
    """``(examples,)``: by what a store knows these examples again."""
    index = np.empty(len(ids), dtype=INDEX)
    index["id"], index["key"], index["length"] = hashes(ids), encoded.keys, encoded.lengths
    return index


def fingerprint_of(ids: Sequence[str], encoded: Encoded) -> str:
    """A name for these examples with this content, in this order."""
    return index_fingerprint(index_of(ids, encoded))


def index_fingerprint(index: npt.NDArray[Any]) -> str:
    return hashlib.sha256(index.tobytes()).hexdigest()[:16]
