"""Out-of-fold predictions for the training set by k-fold cross-fitting.

A teacher is nearly always correct on its own training texts, so what it predicts there says little more than the labels: PTP labels
(Pea-KD) carry little information, and students learn less (docs/results/learnt_texts.md). Here a model that was fine-tuned on the
other parts predicts each part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import transformers
from scipy.special import softmax

from tutelage import anatomy
from tutelage.artifacts import write_text
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, content
from tutelage.data.parts import part_of
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.knowledge.out_of_fold import MANIFEST, PredictionsManifest, write
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.run.workspace import new_accelerator
from tutelage.students.specs import origin_of
from tutelage.tasks import kind_of, known_kinds
from tutelage.tasks.kind import TextKind
from tutelage.tasks.load import load_data
from tutelage.tasks.metrics import no_better
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import predicted

PREDICTIONS, PREDICTED = "predictions.jsonl", "prediction"
"""A file in the folder, and its column of predictions."""


def crossfit(config: RunConfig, folds: int, *, quiet: bool = False) -> PredictionsManifest:
    """Fine-tune with ``config`` ``folds`` times, each time without one part, and predict that part. Results go to ``config.out``;
    :data:`PREDICTIONS` there can be read as a teacher's predictions.

    Finished folds are not repeated. A stopped fold continues.

    Raises:
        TutelageError: for every mistake of the user.
    """
    assert config.out is not None
    for name in ("leave_out", "only", "noise"):
        if getattr(config.data, name):
            raise TutelageError(f"crossfit divides the training set itself; leave out data.{name}")
    folder, data = Path(config.out), load_data(config.data)
    kind = kind_of(data.kind)
    if not kind.ptp:
        able = " or ".join(one.name for one in known_kinds().values() if one.ptp)
        raise TutelageError(f"crossfit is for tasks of kind {able}, and {data.task!r} is of kind {data.kind}")
    if (folder / MANIFEST).exists():
        raise TutelageError(f"{config.out!r} is already finished; remove it, or name another folder")
    contents = content(data.train)
    texts = len(set(contents))
    if folds > texts:
        raise TutelageError(f"{texts} texts cannot be divided into {folds} parts; use fewer folds")
    logits: npt.NDArray[np.float32] | None = None
    parts = part_of(data.train, folds)
    for number in range(folds):
        out = folder / f"fold-{number + 1}"
        without = config.data.model_copy(update={"leave_out": (number + 1, folds)})
        run(config.model_copy(update={"data": without, "out": str(out)}), resume=True, quiet=quiet)
        transformers.logging.set_verbosity_error()
        accelerator, display = new_accelerator(config.mixed_precision), Display(quiet)
        rows = np.flatnonzero(parts == number + 1)
        with display:
            source = Source(str(out), kind.head)
            model = source.model.to(accelerator.device)
            length = config.data.max_length or kind.longest(anatomy.max_length(model.config))
            fitted = fitted_tokenizer(source.tokenizer, model)
            encoded = kind.encode(data.train.take(rows), fitted, length)
            found = predicted(model, encoded, accelerator, display, f"part {number + 1}").numpy()
        logits = np.zeros((len(data.train), found.shape[1]), dtype=np.float32) if logits is None else logits
        logits[rows] = found
    assert logits is not None
    known = data.train.labelled
    right = float((logits.argmax(axis=1) == data.train.labels)[known].mean()) if kind.single_label else None
    if right is not None and isinstance(kind, TextKind):
        most = kind.chance("accuracy", data.train.labels[known])
        if no_better({"accuracy": right}, {"accuracy": most}, int(known.sum())):
            Display(quiet).say(
                f"warning: the predictions are no better than a constant answer: accuracy {right:.3f}, and {most:.3f}; train "
                f"longer ({option('epochs')}), or give more texts"
            )
    manifest = PredictionsManifest(
        model=str(origin_of(config.recipe.student)),
        task=data.task,
        folds=folds,
        contents=contents,
        labels=list(data.labels),
        accuracy=right,
    )
    lines = [json.dumps(line, ensure_ascii=False) for line in _lines(data, config.data, logits)]
    write_text(folder / PREDICTIONS, "".join(f"{line}\n" for line in lines))
    return write(folder, manifest, logits)


def _lines(data: Data, config: DataConfig, logits: npt.NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    """Each training text with what was predicted for it: a probability for each class, or a number."""
    train, kind = data.train, kind_of(data.kind)
    values = softmax(logits.astype(np.float64), axis=1).round(6) if kind.named else logits
    for row, text in enumerate(train.texts):
        pair = {} if train.pairs is None else {config.text_pair or "text_pair": train.pairs[row]}
        found = dict(zip(data.labels, values[row].tolist(), strict=True)) if kind.named else float(values[row, 0])
        yield {config.text: text, **pair, PREDICTED: found}
