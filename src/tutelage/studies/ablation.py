"""TinyBERT's ablation tables: the method with one part removed at a time, several seeds each, on one task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tutelage.artifacts import write_json
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.methods.tinybert import tinybert
from tutelage.recipes.choices import Precision
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import Settings, parsed, with_settings
from tutelage.run import origins
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Fresh
from tutelage.studies.study import Interval, Outcome, check_folder, finished, interval, paired, study, take_folder
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source

FILE = "ablation.yaml"
"""What all rows have in common, in the folder of the ablation."""

TABLES = {
    "Procedures": ("full", "no_gd", "no_td", "no_da"),
    "Objectives": ("full", "no_embd", "no_pred", "no_trm", "no_attn", "no_hidn"),
    "Mappings": ("full", "top", "bottom"),
}
"""The rows of the paper's tables 2, 3 and 4."""


ARMS = tuple(dict.fromkeys(arm for arms in TABLES.values() for arm in arms))


OWN_GENERAL = ("no_embd", "no_trm", "no_attn", "no_hidn", "top", "bottom")
"""Rows that change the general stage too; the others share that of the full method."""


class Asked(BaseModel):
    """What all rows of a table have in common: with something else they could not be compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataConfig
    texts: str
    """Fingerprint of the texts with their labels."""
    teacher: str
    teacher_fingerprint: str
    """Of its weights and its tokenizer."""
    general_teacher: str
    general: str
    """Folder of the general students."""
    corpus: str
    student: Fresh
    mixed_precision: str
    settings: dict[str, Any]


class AblationRow(BaseModel):
    """One row of a table: the scores on the evaluation set, by seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    scores: dict[int, dict[str, float]]
    """By seed and metric."""
    steps: int

    def values(self, metric: str) -> list[float]:
        return [scores[metric] for scores in self.scores.values()]


class Ablation(BaseModel):
    """The finished rows of one task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    metric: str
    teacher: float
    rows: dict[str, AblationRow]

    def against_full(self, arm: str) -> Interval:
        """How much higher (or lower) a row scores than the full method, and half its 95 % interval, paired by seed."""
        ours, full = (
            {seed: scores[self.metric] for seed, scores in self.rows[name].scores.items()} for name in (arm, "full")
        )
        return interval(paired(ours, full))


def recipe_of(arm: str, task: str | None, student: Fresh) -> Recipe:
    """The recipe of a row, all stages."""
    if arm in ("top", "bottom"):
        recipe = tinybert(task, mapping="top" if arm == "top" else "bottom")
    else:
        recipe = tinybert(task, ablation=None if arm == "full" else arm)  # type: ignore[arg-type]
    return recipe.model_copy(update={"student": student})


def ablate(
    out: str,
    *,
    teacher: str,
    general_teacher: str,
    corpus: str,
    student: Fresh,
    data: DataConfig,
    arms: Sequence[str] = ARMS,
    seeds: Sequence[int] = (0, 1, 2),
    general: str | None = None,
    mixed_precision: Precision = "no",
    settings: Settings = (),
    part: tuple[int, int] = (0, 1),
    quiet: bool = False,
) -> Ablation:
    """Run the rows that are not finished yet and return the tables, which are also written to ``OUT/ablation.json``.

    The runs are a :func:`~tutelage.studies.study.study` in ``out``: a stopped ablation continues when it is called again. Rows and
    seeds can be added; with another teacher, task or setting it is another ablation and needs another folder.
    ``teacher`` is fine-tuned on the task, ``general_teacher`` is only pretrained. General students lie in ``general`` (default:
    ``OUT/general``), one for each row that needs its own, and serve all seeds and tasks. A setting for a stage is ignored by rows
    without that stage. ``part`` divides the runs between processes, as in a study.

    Raises:
        TutelageError: for every mistake of the user, or a row that does not exist.
    """
    for arm in arms:
        if arm not in ARMS:
            raise TutelageError(f"there is no row {arm!r} in the tables; choose from {', '.join(ARMS)}")
    if data.candidates is None:
        raise TutelageError(
            "without augmented texts all rows equal no_da; give --candidates FOLDER (tutelage augment writes it)"
        )
    folder, students = Path(out), Path(general or f"{out}/general")
    # A wrong setting ends here, not after the first stage.
    configs = {
        arm: _config(arm, student, students, data, settings, teacher=teacher, mixed_precision=mixed_precision)
        for arm in arms
    }
    asked = Asked(
        **_contents(data, teacher),
        general_teacher=general_teacher,
        general=str(students),
        corpus=corpus,
        student=student,
        mixed_precision=mixed_precision,
        settings=parsed(settings),
    )
    # While no row is finished there is nothing that others could be mixed with, and a mistake may be mended.
    fixed = to_yaml(asked) if finished(folder) else None
    check_folder(folder, FILE, "series of ablations", fixed, beside=["general"])
    take_folder(folder, FILE, to_yaml(asked))
    for arm in dict.fromkeys(_general(arm) for arm in arms if arm != "no_gd"):
        general_student(arm, students / arm, general_teacher, corpus, student, mixed_precision, settings, quiet=quiet)
    found = study(
        folder,
        configs,
        seeds,
        keep=lambda _, report: {"teacher": report["teacher"]["score"]},
        part=part,
        quiet=quiet,
    )
    if not found.outcomes:
        raise TutelageError(f"part {part[0]} of {part[1]} has no runs; divide the study into fewer parts")
    last = found.outcomes[-1]
    tables = Ablation(task=str(data.task or data.train), metric=last.metric, teacher=last.more["teacher"], rows={})
    known = {**finished(folder), **{(outcome.arm, outcome.seed): outcome for outcome in found.outcomes}}
    tables = tables.model_copy(update={"rows": _rows(known.values())})
    write_json(folder / "ablation.json", tables)
    return tables


def _config(arm: str, student: Fresh, students: Path, data: DataConfig, settings: Settings, **fields: Any) -> RunConfig:
    """The run of a row on the task, from its general student in the folder ``students``."""
    whole = recipe_of(arm, data.task, student)
    recipe = whole.part("task")
    if arm != "no_gd":
        _with(RunConfig(recipe=whole.part("general")), settings)
        recipe = recipe.model_copy(update={"student": Checkpoint(name=str(students / _general(arm)))})
    words = data.candidates if any(stage.data == "augmented" for stage in recipe.stages) else None
    read = data.model_copy(update={"candidates": words})
    return _with(RunConfig(recipe=recipe, data=read, baseline=False, **fields), settings)


def _rows(outcomes: Iterable[Outcome]) -> dict[str, AblationRow]:
    """The rows of the tables by name, of all runs."""
    rows: dict[str, AblationRow] = {}
    for outcome in outcomes:
        scores = rows[outcome.arm].scores if outcome.arm in rows else {}
        scores = dict(sorted({**scores, outcome.seed: outcome.scores}.items()))
        rows[outcome.arm] = AblationRow(arm=outcome.arm, scores=scores, steps=outcome.steps)
    return rows


def _contents(data: DataConfig, teacher: str) -> dict[str, Any]:
    """Texts and teacher, by name and by contents."""
    loaded = load_data(data)
    source = Source(teacher, kind_of(loaded.kind).head, pooling=data.pooling)
    return {
        "data": data,
        "texts": origins.texts_of(loaded),
        "teacher": teacher,
        "teacher_fingerprint": origins.contents_of(source),
    }


def _general(arm: str) -> str:
    """The row whose general student a row starts from."""
    return arm if arm in OWN_GENERAL else "full"


def general_student(
    arm: str,
    place: Path,
    teacher: str,
    corpus: str,
    student: Fresh,
    mixed_precision: Precision,
    settings: Settings,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Make (or finish) the general student of a row in ``place``; returns its report."""
    recipe = recipe_of(_general(arm), None, student).part("general")
    config = RunConfig(recipe=recipe, teacher=teacher, corpus=corpus, out=str(place), mixed_precision=mixed_precision)
    return run(_with(config, settings), resume=True, quiet=quiet)


def _with(config: RunConfig, settings: Settings) -> RunConfig:
    return with_settings(config, {path: value for path, value in parsed(settings).items() if _concerns(path, config)})


def _concerns(path: str, config: RunConfig) -> bool:
    """Whether a run has the stage that a setting names (a setting of all stages is for those on the task)."""
    parts = path.split(".")
    names = [stage.name for stage in config.recipe.stages]
    if parts[0] != "stages" or len(parts) < 2 or parts[1] == "*":
        return names != ["general"]
    return parts[1] in names
