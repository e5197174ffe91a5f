"""A folder of out-of-fold predictions for the training set, as written by :mod:`tutelage.studies.crossfit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tutelage.artifacts import Manifest, sha256_of, sync
from tutelage.data.examples import Examples, content
from tutelage.errors import TutelageError

MANIFEST, LOGITS = "crossfit.json", "logits.safetensors"


class PredictionsManifest(Manifest):
    """Contents of a folder of out-of-fold predictions."""

    FILE = MANIFEST
    WHAT = "folder of out-of-fold predictions"
    COMMAND = "tutelage crossfit"

    model: str
    task: str
    folds: int
    contents: list[str]
    """Hash of each example's text (see :func:`content`), in the order of the rows of the logits."""
    labels: list[str]
    """Class names, in the order of the columns; empty for regression."""
    accuracy: float | None
    """Accuracy of the predictions; ``None`` for regression."""
    sha256: str = ""
    """Checksum of the file of the logits."""


def write(folder: Path, manifest: PredictionsManifest, logits: npt.NDArray[np.float32]) -> PredictionsManifest:
    """Write logits ``(n, classes)``, then the manifest with their checksum, which is returned. A folder without a manifest is
    unfinished."""
    save_file({"logits": torch.from_numpy(logits)}, folder / LOGITS)
    sync(folder / LOGITS)
    written = manifest.model_copy(update={"sha256": sha256_of(folder / LOGITS)})
    written.write(folder)
    return written


def read(folder: Path, examples: Examples, labels: Sequence[str]) -> npt.NDArray[Any]:
    """Read the logits of ``examples``, ``(n, classes)``, with columns in the order of ``labels``.

    Unlabelled examples without a prediction get zeros.

    Raises:
        TutelageError: if the folder holds no predictions, or predictions of other examples or classes.
    """
    manifest = PredictionsManifest.read(folder)
    try:
        if sha256_of(folder / LOGITS) != manifest.sha256:
            raise PredictionsManifest.damaged(folder, f"{LOGITS} is not as it was written")
        logits = load_file(folder / LOGITS)["logits"].numpy()
    except (OSError, KeyError, SafetensorError) as error:
        raise PredictionsManifest.damaged(folder, f"{LOGITS}: {error}") from None
    if set(manifest.labels) != set(labels):
        raise TutelageError(
            f"the predictions in {str(folder)!r} have the classes {', '.join(manifest.labels)}, the data "
            f"{', '.join(labels)}; run tutelage crossfit with the same data"
        )
    row_of = {name: row for row, name in enumerate(manifest.contents)}
    names = content(examples)
    missing = np.flatnonzero(
        [needed and name not in row_of for name, needed in zip(names, examples.labelled, strict=True)]
    )
    if len(missing):
        raise TutelageError(
            f"the predictions in {str(folder)!r} lack {len(missing):,} examples (the first is {examples.ids[missing[0]]!r}); "
            "run tutelage crossfit with the same data"
        )
    columns = [manifest.labels.index(name) for name in labels] if labels else [0]
    rows = [row_of.get(name, -1) for name in names]
    found: npt.NDArray[Any] = np.where(np.array(rows)[:, None] >= 0, logits[rows][:, columns], 0.0)
    return found
