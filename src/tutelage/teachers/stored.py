"""A teacher's knowledge on disk: read from a store, and written to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.data.batches import EVALUATION_TOKENS, Batch, in_pieces, padded
from tutelage.data.examples import Encoded, Rows
from tutelage.data.processes import Processes
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals, Tap
from tutelage.knowledge.store import reading, records, writing
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.records import Contents
from tutelage.knowledge.store.scheme import Exponents, Scheme, needs_of
from tutelage.teachers.teacher import Seen, aligned, check_finite

CALIBRATED_ON = 256
"""Number of examples from which the scales of 8-bit stores are computed."""


class StoredTeacher:
    """Signals from a store; ``rows`` ``(examples,)`` are the store's rows of the run's examples. ``encoded`` has the teacher's
    tokens, if they differ from the student's."""

    def __init__(self, store: Store, rows: Rows, needs: Needs, encoded: Encoded | None = None) -> None:
        self._store, self._rows, self._needs, self._encoded = store, rows, needs, encoded

    def signals(self, batch: Batch) -> Signals:
        rows, seen = self._rows[batch.rows.numpy()], Seen.of(batch, self._encoded)
        signals = self._store.signals(rows, self._needs, seen.mask, seen.separators, seen.keys)
        return aligned(signals, batch.partners, seen.mask.shape[1])

    def close(self) -> None:
        pass


def write_store(
    folder: Path,
    scheme: Scheme,
    model: PreTrainedModel,
    ids: Sequence[str],
    encoded: Encoded,
    accelerator: Accelerator,
    about: dict[str, Any],
    evaluation: dict[str, tuple[str, Tensor]],
    save_teacher: Callable[[Path], object],
    *,
    max_tokens: int = EVALUATION_TOKENS,
    advance: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda line: None,
) -> Store:
    """Run a teacher over all examples and write what ``scheme`` keeps; the other arguments are :func:`writing.write`'s. Several
    processes divide the examples.

    Raises:
        TutelageError: when something else lies in ``folder``, two examples have one id, or the teacher's outputs are not finite.
    """
    tap = Tap(model.eval().requires_grad_(False), needs_of(scheme))

    def run(rows: Rows) -> tuple[Signals, dict[str, Tensor]]:
        inputs = {name: value.to(accelerator.device) for name, value in padded(encoded, rows).items()}
        with torch.no_grad(), accelerator.autocast():
            return tap(inputs), inputs

    def read(rows: Rows, exponents: Exponents) -> Contents:
        signals, inputs = run(rows)
        real = inputs["attention_mask"].bool()
        for answers in (signals.logits, *(hidden[real] for hidden in signals.hidden.values())):
            if answers is not None:
                check_finite(answers, str(about["teacher"]))
        separators = inputs["input_ids"] == encoded.separator
        keys = torch.from_numpy(encoded.keys[rows].view(np.int64))
        return records.contents_of(signals, scheme, inputs["attention_mask"], separators, keys, exponents)

    def calibrate() -> Exponents:
        squares: list[tuple[int, Tensor, int]] = []

        def square(rows: Rows) -> None:
            signals, inputs = run(rows)
            real = inputs["attention_mask"].bool()
            squares.extend(
                (layer, hidden.float()[real].double().square().sum(dim=0), int(real.sum()))
                for layer, hidden in signals.hidden.items()
            )

        if scheme.dtype == "int8" and scheme.columns:
            in_pieces(square, np.arange(min(CALIBRATED_ON, len(encoded))), encoded.lengths, max_tokens, say)
        return records.calibrate(squares)

    try:
        return writing.write(
            folder,
            scheme,
            reading.index_of(ids, encoded),
            read,
            about,
            evaluation,
            save_teacher,
            calibrate=calibrate,
            max_tokens=max_tokens,
            advance=advance,
            say=say,
            processes=Processes.of(accelerator),
        )
    finally:
        tap.close()
