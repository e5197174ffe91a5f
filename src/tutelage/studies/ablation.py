"""TinyBERT's ablation tables: the method with one part left out at a time, several seeds each, on one task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from tutelage.artifacts import write_text
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.methods.tinybert import tinybert
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import Settings, parsed, with_settings
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Fresh

TABLES = {
    "Procedures": ("full", "no_gd", "no_td", "no_da"),
    "Objectives": ("full", "no_embd", "no_pred", "no_trm", "no_attn", "no_hidn"),
    "Mappings": ("full", "top", "bottom"),
}
"""The rows of the paper's tables 2, 3 and 4."""


ARMS = tuple(dict.fromkeys(arm for arms in TABLES.values() for arm in arms))


OWN_GENERAL = ("no_embd", "no_trm", "no_attn", "no_hidn", "top", "bottom")
"""Rows that change the general stage too; the others share that of the full method."""


class Row(BaseModel):
    """One row of a table: the scores on dev, by seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    scores: dict[int, dict[str, float]]
    """By seed and metric."""
    steps: int

    def values(self, metric: str) -> list[float]:
        return [scores[metric] for scores in self.scores.values()]


class Ablation(BaseModel):
    """The rows that have been run, for one task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    metric: str
    teacher: float
    rows: dict[str, Row]

    def against_full(self, arm: str) -> tuple[float, float | None]:
        """How much higher (or lower) a row scores than the full method, and half its 95 % interval, paired by seed."""
        ours, full = self.rows[arm].scores, self.rows["full"].scores
        return interval([ours[seed][self.metric] - full[seed][self.metric] for seed in ours if seed in full])


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the 95 % interval by Student's t; none of a single value."""
    if len(values) < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


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
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    settings: Settings = (),
    quiet: bool = False,
) -> Ablation:
    """Run the rows that are not finished yet and return the tables; also written to ``OUT/ablation.json``.

    ``teacher`` is fine-tuned on the task, ``general_teacher`` pretrained only. General students lie under ``general`` (left
    out: ``OUT/general``), one for each row that needs its own, and serve all seeds and tasks. A setting of a stage that a
    row does not have is left out for it. What was stopped goes on when it is called again.

    Raises:
        TutelageError: for anything wrong with what was given, or a row that does not exist.
    """
    for arm in arms:
        if arm not in ARMS:
            raise TutelageError(f"there is no row {arm!r} in the tables; choose from {', '.join(ARMS)}")
    if data.candidates is None:
        raise TutelageError(
            "without augmented texts every row is no_da; give --candidates FOLDER of `tutelage augment`"
        )
    folder, students = Path(out), Path(general or f"{out}/general")
    for arm in arms:  # a wrong setting ends here, not after the first stage
        whole = recipe_of(arm, data.task, student)
        for recipe in [whole.part("task"), *([] if arm == "no_gd" else [whole.part("general")])]:
            _with(RunConfig(recipe=recipe), settings)
    before = folder / "ablation.json"
    found = Ablation.model_validate_json(before.read_text(encoding="utf-8")) if before.exists() else None
    rows: dict[str, Row] = {} if found is None else dict(found.rows)
    for arm in arms:
        scores = dict(rows[arm].scores) if arm in rows else {}
        for seed in seeds:
            start: Checkpoint | None = None
            if arm != "no_gd":
                place = students / (arm if arm in OWN_GENERAL else "full")
                general_student(arm, place, general_teacher, corpus, student, mixed_precision, settings, quiet=quiet)
                start = Checkpoint(name=str(place))
            recipe = recipe_of(arm, data.task, student).part("task")
            if start is not None:
                recipe = recipe.model_copy(update={"student": start})
            words = data.candidates if any(stage.data == "augmented" for stage in recipe.stages) else None
            config = RunConfig(
                recipe=recipe,
                teacher=teacher,
                data=data.model_copy(update={"candidates": words}),
                out=str(folder / f"{arm}-{seed}"),
                seed=seed,
                baseline=False,
                mixed_precision=mixed_precision,
            )
            report = _carry_out(config, settings, quiet)
            scores[seed] = next(iter(report["student"]["scores"].values()))
            steps = sum(stage["steps"] for stage in report["stages"])
            rows[arm] = Row(arm=arm, scores=dict(sorted(scores.items())), steps=steps)
            taught = report["teacher"]["score"]
            found = Ablation(task=str(data.task or data.train), metric=report["metric"], teacher=taught, rows=rows)
            write_text(before, found.model_dump_json(indent=1))
    assert found is not None
    return found


def general_student(
    arm: str,
    place: Path,
    teacher: str,
    corpus: str,
    student: Fresh,
    mixed_precision: Literal["no", "bf16", "fp16"],
    settings: Settings,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Make (or finish) the general student of a row in ``place``; returns its report."""
    recipe = recipe_of(arm if arm in OWN_GENERAL else "full", None, student).part("general")
    config = RunConfig(recipe=recipe, teacher=teacher, corpus=corpus, out=str(place), mixed_precision=mixed_precision)
    return _carry_out(config, settings, quiet)


def _carry_out(config: RunConfig, settings: Settings, quiet: bool) -> dict[str, Any]:
    config = _with(config, settings)
    return run(config, resume=True, quiet=quiet)


def _with(config: RunConfig, settings: Settings) -> RunConfig:
    return with_settings(config, {path: value for path, value in parsed(settings).items() if _concerns(path, config)})


def _concerns(path: str, config: RunConfig) -> bool:
    """Whether a run has the stage that a setting names (a setting of all stages is for those on the task)."""
    parts = path.split(".")
    names = [stage.name for stage in config.recipe.stages]
    if parts[0] != "stages" or len(parts) < 2 or parts[1] == "*":
        return names != ["general"]
    return parts[1] in names
