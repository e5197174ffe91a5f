"""Write a store, from a teacher or from a larger store."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.artifacts import free_place, partial_of, publish, sha256_of, sole_writer, sync, write_text
from tutelage.data.batches import EVALUATION_TOKENS, in_pieces
from tutelage.data.examples import Rows
from tutelage.data.processes import ALONE, Processes
from tutelage.errors import TutelageError, option
from tutelage.knowledge.cuts import Cut
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Shard, Store, StoreManifest, index_fingerprint
from tutelage.knowledge.store.records import Contents, records_of
from tutelage.knowledge.store.scheme import Exponents, Scheme
from tutelage.version import __version__

SHARD_BYTES = 256 * 2**20


SHARD_EXAMPLES = 8192
"""Largest shard in examples. After a kill, each writer repeats at most one shard."""
SMALLEST, SHARDS = 512, 64
"""A store has at least so many shards, unless they were smaller than this, so that several processes can write it."""


def shards_of(sizes: npt.NDArray[np.int64]) -> list[Rows]:
    """The examples of each shard, in order: at most ``SHARD_EXAMPLES`` and about ``SHARD_BYTES``, fewer in a small store."""
    parts, start = [], 0
    ends, most = np.cumsum(sizes), min(SHARD_EXAMPLES, max(SMALLEST, math.ceil(len(sizes) / SHARDS)))
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + most, len(sizes)))
        parts.append(np.arange(start, stop))
        start = stop
    return parts


def write(
    folder: Path,
    scheme: Scheme,
    index: npt.NDArray[Any],
    read: Callable[[Rows, Exponents], Contents],
    about: dict[str, Any],
    evaluation: dict[str, tuple[str, Tensor]],
    save_teacher: Callable[[Path], object],
    *,
    calibrate: Callable[[], Exponents] = dict,
    max_tokens: int = EVALUATION_TOKENS,
    advance: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda line: None,
    processes: Processes = ALONE,
) -> Store:
    """Write a store, or complete an unfinished one. ``folder`` appears only when the store is complete.

    Several processes may write one store together: each writes every n-th shard, the first of them everything else.

    Args:
        folder: where to write.
        scheme: what to keep for each example.
        index: the lookup keys of the examples (see :func:`index_of`).
        read: returns the contents of some examples, at most ``max_tokens`` padded tokens.
        about: the other fields of the manifest.
        evaluation: for each part of the evaluation set, the fingerprint of its examples and the teacher's logits.
        save_teacher: saves the teacher's configuration and tokenizer to a folder.
        calibrate: finds the typical sizes of the neurons, for 8-bit stores; a store that is completed keeps its own.
        max_tokens: padded tokens per call of ``read``; halved where they do not fit into memory.
        advance: called with the number of examples written since the last call.
        say: called with a line if memory does not suffice.
        processes: the processes that write.

    Raises:
        TutelageError: if ``folder`` exists, another process writes it, an unfinished store there has other settings, or two
            examples have the same id.
    """
    if len(np.unique(index["id"])) < len(index):
        raise TutelageError("two examples have the same id; a store needs one of its own for each")
    lengths = index["length"].astype(np.int64)
    sizes = scheme.record_bytes(lengths)
    manifest: dict[str, Any] = {
        "tutelage": __version__,
        **about,
        "scheme": scheme.model_dump(mode="json"),
        "examples": len(index),
        "tokens": int(lengths.sum()),
        "data_fingerprint": index_fingerprint(index),
    }
    draft, counted = _Draft(folder, manifest, shards_of(sizes)), 0

    def count(written: int) -> None:
        nonlocal counted
        counted += written
        advance(written)

    def begin() -> Exponents | None:
        free_place(folder)
        _check_room(folder, int(sizes.sum()))
        lock.enter_context(sole_writer(folder))
        return draft.begin(calibrate)

    with ExitStack() as lock:
        exponents = processes.first(begin)
        if exponents is not None:
            processes.each(
                lambda: _write_shards(draft, scheme, lengths, read, exponents, max_tokens, count, say, processes)
            )
            advance(len(index) - counted)
            processes.first(lambda: draft.finish(index, evaluation, save_teacher))
        return Store(folder)


@dataclass(frozen=True)
class _Draft:
    """The unfinished folder of a store: what its manifest says of the asked store, and the examples of its shards."""

    folder: Path
    manifest: dict[str, Any]
    shards: list[Rows]

    @property
    def partial(self) -> Path:
        return partial_of(self.folder)

    @property
    def plan(self) -> Path:
        return self.partial / "plan.json"

    def begin(self, calibrate: Callable[[], Exponents]) -> Exponents | None:
        """Make or check the unfinished folder; the typical sizes of the neurons, or None where all is written.

        Raises:
            TutelageError: if it was begun for another store.
        """
        partial, whole = self.partial, self.partial / StoreManifest.FILE
        planned = {**self.manifest, "sizes": [len(rows) for rows in self.shards]}
        begun = partial.exists() and {path.name for path in partial.iterdir()} - {"plan.json.tmp"}
        if begun and not (_same(whole, self.manifest) if whole.exists() else _same(self.plan, planned)):
            raise TutelageError(
                f"{str(partial)!r} was begun for another store; remove it, or give another {option('out')}"
            )
        if whole.exists():  # killed at the very end
            publish(partial, self.folder)
            return None
        if not begun:
            partial.mkdir(parents=True, exist_ok=True)
            exponents = {str(layer): values for layer, values in calibrate().items()}
            write_text(self.plan, json.dumps({**planned, "exponents": exponents}))
        return {int(layer): values for layer, values in self._exponents().items()}

    def _exponents(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.plan.read_text(encoding="utf-8"))["exponents"]
        return found

    def finish(
        self,
        index: npt.NDArray[Any],
        evaluation: dict[str, tuple[str, Tensor]],
        save_teacher: Callable[[Path], object],
    ) -> None:
        """Write what is not in the shards, and publish the folder."""
        partial = self.partial
        index.tofile(partial / "index.bin")
        records = [partial / f"shard-{number:05d}.json" for number in range(len(self.shards))]
        manifest = {
            **self.manifest,
            "exponents": self._exponents(),
            "index_sha256": sha256_of(partial / "index.bin"),
            "shards": [json.loads(path.read_text(encoding="utf-8")) for path in records],
        }
        if evaluation:
            tensors = {name: logits.contiguous() for name, (_, logits) in evaluation.items()}
            save_file(tensors, partial / "evaluation.safetensors")
            manifest["evaluation"] = {name: fingerprint for name, (fingerprint, _) in evaluation.items()}
            manifest["evaluation_sha256"] = sha256_of(partial / "evaluation.safetensors")
        save_teacher(partial / "teacher")
        StoreManifest.model_validate(manifest).write(partial)
        for leftover in [*records, self.plan]:
            leftover.unlink()
        publish(partial, self.folder)


def _write_shards(
    draft: _Draft,
    scheme: Scheme,
    lengths: npt.NDArray[np.int64],
    read: Callable[[Rows, Exponents], Contents],
    exponents: Exponents,
    max_tokens: int,
    advance: Callable[[int], None],
    say: Callable[[str], None],
    processes: Processes,
) -> None:
    """Write the shards of this process that are not there yet."""
    for number, rows in enumerate(draft.shards):
        path = draft.partial / f"shard-{number:05d}.bin"
        done = path.with_suffix(".json")
        if done.exists():
            advance(len(rows))
        elif number % processes.count == processes.rank:
            temporary = path.with_suffix(".tmp")
            max_tokens = _write_shard(temporary, scheme, rows, lengths, read, exponents, max_tokens, advance, say)
            sync(temporary)
            os.replace(temporary, path)
            size = path.stat().st_size
            shard = Shard(name=path.name, examples=len(rows), bytes=size, sha256=sha256_of(path))
            write_text(done, shard.model_dump_json())


def _check_room(folder: Path, size: int) -> None:
    partial = partial_of(folder)
    begun = sum(path.stat().st_size for path in partial.glob("*")) if partial.exists() else 0
    free = shutil.disk_usage(folder.parent).free + begun
    if size > free:
        raise TutelageError(
            f"the store {str(folder)!r} needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; keep less, "
            "or choose another disk"
        )


def _same(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether an unfinished store (its plan or manifest in ``path``) agrees with every field of ``manifest``."""
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
    read: Callable[[Rows, Exponents], Contents],
    exponents: Exponents,
    max_tokens: int,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> int:
    """Write a shard, and return the size of pieces that fitted into memory."""
    sizes = scheme.record_bytes(lengths[rows])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shard = np.memmap(path, dtype="u1", mode="w+", shape=(int(starts[-1]),))

    def fill(piece: Rows) -> None:
        records = records_of(read(piece, exponents), scheme, exponents)
        if not scheme.tokens.whole:
            shard.view(scheme.record())[piece - rows[0]] = records
            advance(len(piece))
            return
        for place, row in enumerate(piece):
            begin, record = starts[row - rows[0]], scheme.record(int(lengths[row]))
            target = shard[begin : begin + record.itemsize].view(record)
            for name in record.names or ():
                shape = record[name].shape
                target[0][name] = records[name][place][tuple(slice(size) for size in shape)]
        advance(len(piece))

    max_tokens = in_pieces(fill, rows, lengths, max_tokens, say)
    shard.flush()
    return max_tokens


def compact(store: Store, folder: Path, scheme: Scheme, advance: Callable[[int], None] = lambda count: None) -> Store:
    """Write the smaller store ``scheme`` from a larger store, without the teacher.

    Raises:
        TutelageError: if the larger store lacks a part, or the value types differ.
    """
    wanted = Needs(
        logits=scheme.classes > 0,
        cuts=frozenset(Cut(layer, scheme.tokens, scheme.neurons, scorer) for layer, scorer in scheme.columns),
    )
    lacking = store.scheme.lacks(wanted)
    if lacking is None and not set(scheme.scorers) <= set(store.scheme.scorers):
        lacking = "it lacks some of these token rankings"
    if lacking is not None:
        raise TutelageError(
            f"the store {store.name!r} cannot be reduced to this scheme: {lacking}; write it from the teacher"
        )
    if scheme.dtype != store.scheme.dtype:
        raise TutelageError(
            f"a {store.scheme.dtype} store cannot be converted to {scheme.dtype}; write it from the teacher"
        )
    ours = store.manifest
    names = ("teacher", "teacher_fingerprint", "tokenizer_fingerprint", "precision", "max_length", "task")
    logits = load_file(store.folder / "evaluation.safetensors") if ours.evaluation else {}
    layers = {layer for layer, _ in scheme.columns}
    return write(
        folder,
        scheme,
        store.index,
        lambda rows, _: store.contents(rows, scheme, wanted),
        {name: getattr(ours, name) for name in names},
        {name: (fingerprint, logits[name]) for name, fingerprint in ours.evaluation.items()},
        lambda place: shutil.copytree(store.folder / "teacher", place, dirs_exist_ok=True),
        calibrate=lambda: {layer: values for layer, values in ours.exponents.items() if layer in layers},
        advance=advance,
    )
