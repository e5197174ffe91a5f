"""Find the store of a teacher's knowledge that fits a run, or write one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor

from tutelage.artifacts import free_place
from tutelage.data.examples import Encoded, Rows
from tutelage.data.processes import Processes
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError, option
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store, StoreManifest, fingerprint_of
from tutelage.knowledge.store.scheme import Dtype, Scheme
from tutelage.objectives.objective import ObjectivePlan
from tutelage.progress import Display
from tutelage.report.teachers import StoreEntry
from tutelage.teachers.source import Source
from tutelage.teachers.stored import write_store


def root() -> Path:
    """The folder of stores without an explicit path: ``$TUTELAGE_STORES``, else ``~/.cache/tutelage/stores``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TUTELAGE_STORES") or Path(cache) / "tutelage" / "stores")


def storable(objectives: Sequence[ObjectivePlan]) -> Needs:
    """The needs of these stages that a store can serve. A stage that needs queries, keys, padding or the pooler runs its
    teacher."""
    needs = Needs(logits=True)
    for objective in objectives:
        theirs = objective.teacher_needs
        if not theirs.attention and not theirs.padding and not theirs.pooled:
            needs |= theirs
    return needs


@dataclass
class Knowledge:
    """The examples of a run, as a teacher reads them: ids, tokens, precision."""

    task: str
    teacher: Source
    ids: Sequence[str]
    encoded: Encoded
    precision: str
    max_length: int
    dev: dict[str, tuple[Sequence[str], Encoded]]
    """The parts of the evaluation set, of which a store keeps only predictions."""

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the teacher's tokenizer. Cached: it takes 0.1 s, and many stores may be compared with it."""
        return tokenizer_fingerprint(self.teacher.tokenizer)

    def scheme(self, needs: Needs, dtype: Dtype) -> Scheme:
        """The smallest scheme for these needs."""
        longest = int(self.encoded.lengths.max())
        return Scheme.covering(needs, self.teacher.outputs, self.teacher.shape.hidden, longest, dtype)

    def open(self, folder: Path, needs: Needs) -> tuple[Store, Rows]:
        """Open a store that must fit; returns it and its rows of these examples.

        Raises:
            TutelageError: if it does not fit.
        """
        store = Store(folder)
        store.check(self.teacher.fingerprint, self.tokenizer_fingerprint, self.precision)
        lacking = store.scheme.lacks(needs)
        if lacking:
            raise TutelageError(
                f"the store {store.name!r} lacks what this recipe needs: {lacking}; write one for this recipe, or with "
                f"{option('whole', True)}"
            )
        return store, store.locate(self.ids, self.encoded)

    def fitting(self, scheme: Scheme, needs: Needs, accelerator: Accelerator) -> tuple[Store, Rows] | None:
        """The smallest store under :func:`root` that serves this run. All processes get the same one, even if other runs
        write stores meanwhile."""
        folder = Processes.of(accelerator).first(lambda: self._smallest(scheme, needs))
        return None if folder is None else self.open(folder, needs)

    def _smallest(self, scheme: Scheme, needs: Needs) -> Path | None:
        found: list[Store] = []
        home = self.home(scheme)
        others = {manifest.parent for manifest in root().glob("*/manifest.json")} - {home}
        for folder in [*sorted(others), home]:  # home last: another run may write it meanwhile
            if folder.suffix == ".partial":
                continue
            try:
                store, _ = self.open(folder, needs)
                if store.scheme.dtype == scheme.dtype:
                    found.append(store)
            except TutelageError:
                continue
        return min(found, key=lambda store: store.manifest.bytes).folder if found else None

    def home(self, scheme: Scheme) -> Path:
        """The folder of a store of this scheme."""
        name = f"{self.teacher.fingerprint}{self.precision}{fingerprint_of(self.ids, self.encoded)}{scheme}"
        return root() / f"{Path(self.task).stem}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def check_free(self, scheme: Scheme, needs: Needs) -> None:
        """Check that a store of this scheme can be written to its :meth:`home`.

        Raises:
            TutelageError: if something lies there, or nothing can be written there. A store that did not fit is damaged.
        """
        home = self.home(scheme)
        if home.is_dir() and any(home.iterdir()):
            if not (home / StoreManifest.FILE).exists():
                raise StoreManifest.damaged(home, f"{StoreManifest.FILE} is missing")
            self.open(home, needs)
        free_place(home)

    def evaluation(self, store: Store) -> dict[str, Tensor]:
        """The teacher's logits on the parts of the evaluation set that the store has."""
        found = {name: store.evaluation(name, fingerprint_of(*part)) for name, part in self.dev.items()}
        return {name: logits for name, logits in found.items() if logits is not None}

    def write(
        self, folder: Path, scheme: Scheme, logits: dict[str, Tensor], accelerator: Accelerator, display: Display
    ) -> Store:
        """Run the teacher over all examples and write what ``scheme`` keeps; ``logits`` are those on the evaluation set.

        Raises:
            TutelageError: when something else lies in ``folder``, or the disk has no room.
        """
        about = {
            "task": self.task,
            "teacher": self.teacher.name,
            "teacher_fingerprint": self.teacher.fingerprint,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
            "precision": self.precision,
            "max_length": self.max_length,
        }
        model = self.teacher.model.to(accelerator.device)
        evaluation = {name: (fingerprint_of(*self.dev[name]), table) for name, table in logits.items()}
        return write_store(
            folder,
            scheme,
            model,
            self.ids,
            self.encoded,
            accelerator,
            about,
            evaluation,
            self.teacher.save_without_weights,
            advance=lambda count: display.advance("teacher store", len(self.ids), count),
            say=display.say,
        )

    def find_or_write(
        self, scheme: Scheme, needs: Needs, logits: dict[str, Tensor], accelerator: Accelerator, display: Display
    ) -> tuple[Store, Rows]:
        """The store under :func:`root` that serves this run, written if it is missing. Two concurrent runs write it once; the
        processes of a run write it together."""
        home = self.home(scheme)
        with FileLock(f"{home}.lock") if accelerator.is_main_process else nullcontext():
            # A larger one may have been written since the run looked: that of a team which has the run's teacher in it.
            folder = Processes.of(accelerator).first(lambda: home if home.exists() else self._smallest(scheme, needs))
            if folder is None:
                folder = self.write(home, scheme, logits, accelerator, display).folder
        return self.open(folder, needs)


def verified(store: Store, display: Display) -> Store:
    """Verify every byte of a store and return it.

    Raises:
        TutelageError: if it is damaged.
    """
    total = sum((store.folder / name).stat().st_size for name in store.checksums)
    store.verify(lambda count: display.advance("store verified", total, count))
    return store


def describe(store: Store) -> StoreEntry:
    """What a store holds."""
    ours = store.manifest
    return StoreEntry(
        path=store.name,
        task=ours.task,
        teacher=ours.teacher,
        teacher_fingerprint=ours.teacher_fingerprint,
        tokenizer_fingerprint=ours.tokenizer_fingerprint,
        precision="float32" if ours.precision == "no" else ours.precision,
        max_length=ours.max_length,
        examples=ours.examples,
        tokens=ours.tokens,
        keeps=kept(ours.scheme),
        dtype=ours.scheme.dtype,
        bytes=ours.bytes,
        bytes_per_example=ours.bytes / ours.examples,
        shards=len(ours.shards),
        dev=sorted(ours.evaluation),
    )


def kept(scheme: Scheme) -> str:
    """What a store of this scheme keeps, in words."""
    parts = [f"{scheme.classes} logits"] if scheme.classes else []
    if scheme.columns:
        layers = _layers({layer for layer, _ in scheme.columns})
        parts.append(f"hidden states of {layers} at {scheme.tokens}, {scheme.neurons}, in {scheme.dtype}")
    if scheme.scorers:
        parts.append(f"rankings of tokens by {_layers({layer for layer, _ in scheme.scorers})}")
    return "; ".join(parts)


def _layers(numbers: set[int]) -> str:
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"
