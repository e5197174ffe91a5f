"""The run in whose folder a model lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tutelage import anatomy
from tutelage.artifacts import sha256_of
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples, keys_of, rows_among
from tutelage.errors import TutelageError
from tutelage.recipes.config import from_yaml
from tutelage.report.findings import rise_of
from tutelage.report.model import REPORT, Rise, TaskReport, load_report
from tutelage.report.words import student_stages
from tutelage.tasks.kind import Kind
from tutelage.tasks.load import load_data


def run_of(model: str, file: str) -> Path | None:
    """The folder of the run that made a model, if it has ``file``: the model's own, or the one that it is the ``student/`` of."""
    folder = Path(os.path.abspath(model))
    places = [folder, folder.parent] if folder.name == "student" else [folder]
    return next((place for place in places if (place / file).is_file()), None)


def config_of_run(model: str) -> DataConfig | None:
    """The texts of the run that made a model; None where there is none, or it was on a corpus."""
    folder = run_of(model, "config.yaml")
    config = None if folder is None else from_yaml(folder / "config.yaml")
    if config is None or (config.data.task is None and config.data.train is None):
        return None
    return config.data.model_copy(update={"max_length": config.data.max_length or config.recipe.longest})


def int8_file_of_run(model: str) -> dict[str, int]:
    """The int8 file for which the run that made a model has trained it, as arguments of :func:`tutelage.serving.quantize`."""
    folder = run_of(model, "config.yaml")
    try:
        return {} if folder is None else from_yaml(folder / "config.yaml").recipe.int8_file
    except TutelageError:  # a plug-in that is not loaded, an older version
        return {}


def weights_in(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights in a folder, by name; none of what is no folder."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def learnt_by_run(model: str, given: DataConfig, loaded: Data) -> set[str]:
    """The texts (by :func:`keys_of`) that the run which made a model has trained on or chosen its checkpoint with; none where there
    is no run on a task, or its files are gone. ``loaded`` are those of ``given``, which may be the run's own."""
    try:
        config = config_of_run(model)
        same = config is not None and config == given.model_copy(update={"max_length": config.max_length})
        data = loaded if same else None if config is None else load_data(config)
    except TutelageError:
        return set()
    parts = () if data is None else (data.train, data.unlabeled)
    return {key for part in parts if part is not None for key in keys_of(part)}


def rise_of_run(model: str) -> Rise | None:
    """Whether the last stage of the run that made a model was still improving; None where there is no run on a task, or its report
    cannot be read."""
    folder = run_of(model, REPORT)
    try:
        report = None if folder is None else load_report(folder)
    except TutelageError:
        return None
    if not isinstance(report, TaskReport):
        return None
    return rise_of(student_stages(report)[-1], report.data.validation)


def learnt_notes(learnt: set[str], part: str, examples: Examples, who: str = "the model") -> list[str]:
    """A note on the examples of an evaluation set that are among the texts which a model has learnt."""
    count = int(rows_among(examples, learnt).sum())
    return [
        f"{count:,} of the {len(examples):,} texts of {part} are among those that {who} was trained on, whose scores say "
        "little of others; give texts of their own"
    ][: bool(count)]


def longest_of_run(model: str) -> int | None:
    """The most tokens of a text that the run which made a model has read, where it had a limit of its own. A new student may know
    no positions beyond it."""
    config = config_of_run(model)
    return None if config is None else config.max_length


def longest_input(model: str, kind: Kind, config: Any, given: int | None = None) -> int:
    """The most tokens of a text that a model is given: those ``given``, else as its run read, never more than it can read."""
    limit = anatomy.max_length(config)
    return min(given or longest_of_run(model) or kind.longest(limit), limit)


def temperature_of_run(model: str) -> tuple[float, list[str]]:
    """The temperature in the report of the run that made a classifier, and a note on it; 1 where there is none.

    Raises:
        TutelageError: the report cannot be read.
    """
    folder = run_of(model, REPORT)
    report = None if folder is None else load_report(folder)
    entry = report.calibration if isinstance(report, TaskReport) else None
    if entry is None:
        return 1.0, []
    if entry.temperature is None:
        return 1.0, [f"temperature 1: {entry.unfitted}"]
    return entry.temperature, [
        f"temperature {entry.temperature:.3g} of the run's report, fitted on {entry.texts:,} rows of the validation split"
    ]
