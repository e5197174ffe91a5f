"""Predictions on training texts by models that have not learnt from them, in a folder (see :mod:`tutelage.studies.crossfit`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tutelage.artifacts import Manifest
from tutelage.data.examples import Examples, content
from tutelage.errors import TutelageError

MANIFEST, LOGITS = "crossfit.json", "logits.safetensors"


class PredictionsManifest(Manifest):
    """What is in a folder of out-of-fold predictions."""

    FILE = MANIFEST
    WHAT = "folder of out-of-fold predictions"
    COMMAND = "tutelage crossfit"

    model: str
    task: str
    folds: int
    contents: list[str]
    """A name for the text of each example (see :func:`content`), in the order of the rows of logits."""
    labels: list[str]
    """Names of the classes, in the order of the columns; empty for a regression."""
    accuracy: float | None
    """Of the predictions, where there are classes."""


def write(folder: Path, manifest: PredictionsManifest, logits: npt.NDArray[np.float32]) -> None:
    """Logits ``(n, classes)`` and what they are of; the manifest last, without which a folder is unfinished."""
    save_file({"logits": torch.from_numpy(logits)}, folder / LOGITS)
    manifest.write(folder)


def read(folder: Path, examples: Examples, labels: Sequence[str]) -> npt.NDArray[Any]:
    """The logits of examples, ``(n, classes)``, columns in the order of ``labels``; zero where an unlabelled one is unknown.

    Raises:
        TutelageError: when there are none, or they are of other examples or classes.
    """
    manifest = PredictionsManifest.read(folder)
    try:
        logits = load_file(folder / LOGITS)["logits"].numpy()
    except (OSError, KeyError, SafetensorError) as error:
        raise PredictionsManifest.damaged(folder, f"{LOGITS}: {error}") from None
    if set(manifest.labels) != set(labels):
        raise TutelageError(
            f"the predictions in {str(folder)!r} are of the classes {', '.join(manifest.labels)}, the data of "
            f"{', '.join(labels)}; make them with the same data"
        )
    row_of = {name: row for row, name in enumerate(manifest.contents)}
    names = content(examples)
    missing = np.flatnonzero(
        [needed and name not in row_of for name, needed in zip(names, examples.labelled, strict=True)]
    )
    if len(missing):
        raise TutelageError(
            f"the predictions in {str(folder)!r} know nothing of {len(missing):,} examples, first {examples.ids[missing[0]]!r}; "
            "make them with the same data"
        )
    columns = [manifest.labels.index(name) for name in labels] if labels else [0]
    rows = [row_of.get(name, -1) for name in names]
    found: npt.NDArray[Any] = np.where(np.array(rows)[:, None] >= 0, logits[rows][:, columns], 0.0)
    return found
