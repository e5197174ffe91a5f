"""The tasks of GLUE by name, from the folder of their original TSV files or from the Hub."""

from __future__ import annotations

import csv
import difflib
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.data.examples import Data, Examples
from tutelage.errors import TutelageError, option

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """Where the parts of a GLUE task are and what its labels mean."""

    config: str
    """Name on the Hub."""
    folder: str
    """Name of the folder of original TSV files."""
    text: str
    pair: str | None
    """Columns on the Hub, where the label's is ``label``."""
    labels: tuple[str, ...]
    """Class names in the Hub's order; empty for regression."""
    metrics: tuple[str, ...]
    """The first decides."""
    tsv: tuple[str, ...] | tuple[int, ...]
    """The TSV columns of text, pair (if any) and label: names in the header, or positions where there is no header."""
    dev: tuple[str, ...] = ("dev",)
    """Names of the dev parts."""
    drops_broken: bool = False
    """Whether rows with too few columns are left out (and counted in ``sources``) instead of being an error."""


_ENTAILMENT = ("entailment", "not_entailment")


GLUE: dict[str, GlueTask] = {
    "cola": GlueTask("cola", "CoLA", "sentence", None, ("unacceptable", "acceptable"), ("mcc",), (3, 1)),
    "sst2": GlueTask("sst2", "SST-2", "sentence", None, ("negative", "positive"), ("accuracy",), ("sentence", "label")),
    "mrpc": GlueTask(
        "mrpc",
        "MRPC",
        "sentence1",
        "sentence2",
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
        ("#1 String", "#2 String", "Quality"),
    ),
    "stsb": GlueTask(
        "stsb",
        "STS-B",
        "sentence1",
        "sentence2",
        (),
        ("spearman", "pearson"),
        ("sentence1", "sentence2", "score"),
    ),
    "rte": GlueTask(
        "rte",
        "RTE",
        "sentence1",
        "sentence2",
        _ENTAILMENT,
        ("accuracy",),
        ("sentence1", "sentence2", "label"),
    ),
    "wnli": GlueTask(
        "wnli",
        "WNLI",
        "sentence1",
        "sentence2",
        ("not_entailment", "entailment"),
        ("accuracy",),
        ("sentence1", "sentence2", "label"),
    ),
    "qnli": GlueTask(
        "qnli",
        "QNLI",
        "question",
        "sentence",
        _ENTAILMENT,
        ("accuracy",),
        ("question", "sentence", "label"),
    ),
    "qqp": GlueTask(
        "qqp",
        "QQP",
        "question1",
        "question2",
        ("not_duplicate", "duplicate"),
        ("f1", "accuracy"),
        ("question1", "question2", "is_duplicate"),
        drops_broken=True,  # line breaks within questions cut a few rows of the official files in two
    ),
    "mnli": GlueTask(
        "mnli",
        "MNLI",
        "premise",
        "hypothesis",
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        ("sentence1", "sentence2", "gold_label"),
        dev=("matched", "mismatched"),
    ),
}


def load_glue(name: str, data_dir: Path | None) -> Data:
    """Train and dev of a GLUE task; the test part has no labels and is not read.

    ``name`` is a key of :data:`GLUE` in any spelling (``"sst-2"``, ``"SST2"``). ``data_dir`` holds the task's folder of
    original TSV files, or those files themselves; without it the task comes from the Hub. Labels are ``(n,)``: int64
    in the Hub's order, float32 (0 to 5) for STS-B.

    Raises:
        TutelageError: no such task; the Hub cannot be reached; a file is missing, is not UTF-8, lacks a column or has
            no rows; a row has too few columns (QQP: is left out) or a label that the task does not have.
    """
    key = "".join(filter(str.isalnum, name.lower()))
    if key not in GLUE:
        nearest = difflib.get_close_matches(key, GLUE, n=1, cutoff=0)[0]
        raise TutelageError(f"there is no GLUE task {name!r}; did you mean {nearest}? There are {', '.join(GLUE)}")
    task = GLUE[key]
    parts, sources = _from_hub(task) if data_dir is None else _from_folder(task, data_dir)
    return Data(
        task=key,
        kind="classification" if task.labels else "regression",
        labels=task.labels,
        metrics=task.metrics,
        selected_by=task.metrics if "f1" in task.metrics else (),  # F1 alone is highest for a constant answer
        train=parts.pop("train"),
        dev=parts,
        sources=sources,
    )


def _from_hub(task: GlueTask) -> tuple[dict[str, Examples], dict[str, str]]:
    import datasets

    try:
        hub = datasets.load_dataset(HUB, task.config)
    except Exception as error:  # those of datasets, huggingface_hub, httpx and the operating system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(
            f"GLUE task {task.config} cannot be had from the Hub ({reason}); pass {option('data_dir')} with the folder of its"
            " TSV files"
        ) from None
    parts, sources = {}, {}
    for part in ("train", *task.dev):
        split = {"train": "train", "dev": "validation"}.get(part, f"validation_{part}")
        pairs = None if task.pair is None else hub[split][task.pair][:]
        parts[part] = _examples(task, part, hub[split][task.text][:], pairs, hub[split]["label"][:])
        sources[part] = f"{HUB} on the Hub: {task.config}, {split}"
    return parts, sources


def _from_folder(task: GlueTask, data_dir: Path) -> tuple[dict[str, Examples], dict[str, str]]:
    folder = data_dir / task.folder if (data_dir / task.folder).is_dir() else data_dir
    parts, sources = {}, {}
    for part in ("train", *task.dev):
        path = _tsv_path(folder, part if part in ("train", "dev") else f"dev_{part}", task)
        columns, labels, dropped = _read_tsv(path, task)
        parts[part] = _examples(task, part, columns[0], columns[1] if task.pair else None, labels)
        sources[part] = path.name + (f" without {dropped} broken rows" if dropped else "")
    return parts, sources


def _tsv_path(folder: Path, stem: str, task: GlueTask) -> Path:
    for ending in (".tsv", ".tsv.gz", "_rebuilt.tsv.gz"):
        path = folder / f"{stem}{ending}"
        if path.is_file():
            return path
    raise TutelageError(
        f"there is no {stem}.tsv in {str(folder)!r}; {option('data_dir')} must hold the folder {task.folder} or its files"
    )


def _read_tsv(path: Path, task: GlueTask) -> tuple[list[list[str]], list[float], int]:
    """The text columns and the labels of a TSV file, and how many broken rows were left out."""
    columns: list[list[str]] = [[] for _ in task.tsv[:-1]]
    labels: list[float] = []
    dropped = 0
    places: list[int] = []
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not places:
                    places = [_place(column, row, where) for column in task.tsv]
                    if isinstance(task.tsv[0], str):
                        continue
                if not row:
                    continue
                if len(row) > max(places):
                    labels.append(_label(row[places[-1]], task.labels, where))
                    for column, place in zip(columns, places, strict=False):
                        column.append(row[place])
                elif task.drops_broken:
                    dropped += 1
                else:
                    raise TutelageError(
                        f"{where}: {len(row)} columns, at least {max(places) + 1} are needed; correct or delete the row"
                    )
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise TutelageError(f"{path} cannot be read ({error}); fetch it again") from None
    if not labels:
        raise TutelageError(f"{path} has no rows; fetch it again")
    return columns, labels, dropped


def _place(column: str | int, header: list[str], where: str) -> int:
    if isinstance(column, int):
        return column
    if column not in header:
        raise TutelageError(f"{where}: no column {column!r} in the header; fetch the original file of the task")
    return header.index(column)


def _label(text: str, names: tuple[str, ...], where: str) -> float:
    """The number of a class, which some tasks write by name and some as the number; or the score, for regression."""
    if names:
        if text in names:
            return names.index(text)
        if text in map(str, range(len(names))):
            return int(text)
        raise TutelageError(f"{where}: label {text!r} is none of {', '.join(names)}; correct or delete the row")
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise TutelageError(f"{where}: score {text!r} is not a number; correct or delete the row")
    return score


def _examples(task: GlueTask, part: str, texts: list[str], pairs: list[str] | None, labels: list[float]) -> Examples:
    numbers: npt.NDArray[Any] = np.array(labels, dtype=np.int64 if task.labels else np.float32)
    return Examples([f"{part}/{i}" for i in range(len(texts))], texts, pairs, numbers)
