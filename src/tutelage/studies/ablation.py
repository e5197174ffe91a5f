"""TinyBERT's ablation tables: the method with one part removed at a time, several seeds each, on one task.

A row is an arm of a comparison (:mod:`tutelage.studies.compare`), whose queue carries out its runs and whose statistics compare it
with the full method. What comes before are the general students, in a run each.

    OUT/compare.json, ...     the comparison, as compare writes it
    OUT/cells/                the runs of the rows
    OUT/general/              the general students
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError, option
from tutelage.methods.tinybert import tinybert
from tutelage.recipes.choices import Launcher, Precision
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import Settings, parsed, run_config, with_settings
from tutelage.report.compared import ComparedArm, CompareReport, Contrast
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Fresh
from tutelage.studies import launch
from tutelage.studies.compare import CELLS, FILE, check_teacher, compare
from tutelage.studies.compare_plan import ComparedMethod, TeacherTask, plan_of
from tutelage.studies.study import check_folder, take_folder
from tutelage.tasks.load import load_data

TABLES = {
    "Procedures": ("full", "no_gd", "no_td", "no_da"),
    "Objectives": ("full", "no_embd", "no_pred", "no_trm", "no_attn", "no_hidn"),
    "Mappings": ("full", "top", "bottom"),
}
"""The rows of the paper's tables 2, 3 and 4."""


ARMS = tuple(dict.fromkeys(arm for arms in TABLES.values() for arm in arms))


OWN_GENERAL = ("no_embd", "no_trm", "no_attn", "no_hidn", "top", "bottom")
"""Rows that change the general stage too; the others share that of the full method."""


class Ablation(CompareReport):
    """The comparison of the rows of one task; those that have one are compared with the full method."""

    @property
    def rows(self) -> dict[str, ComparedArm]:
        """The finished rows."""
        return {arm.method: arm for arm in self.arms}

    def against_full(self, row: str) -> Contrast | None:
        """How a row compares with the full method; None for that itself, and where they have no seed in common."""
        found = (one for one in self.contrasts if (one.arm, one.against) == (row, "full"))
        return next(found, None)


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
    seeds: Sequence[int] | int = (0, 1, 2),
    general: str | None = None,
    mixed_precision: Precision = "no",
    settings: Settings = (),
    launcher: Launcher = "local",
    plugins: Sequence[str] = (),
    quiet: bool = False,
) -> Ablation:
    """Run the rows that are not finished yet, and compare all that are named.

    ``teacher`` is fine-tuned on the task, ``general_teacher`` is only pretrained. General students lie in ``general`` (default:
    ``OUT/general``), one for each row that needs its own, and serve all seeds and tasks. A setting for a stage is ignored by rows
    without that stage. ``plugins`` are the files that runs on other machines read first.

    Raises:
        TutelageError: for every mistake of the user, or a row that does not exist.
    """
    launch.check(launcher)
    for arm in arms:
        if arm not in ARMS:
            raise TutelageError(f"there is no row {arm!r} in the tables; choose from {', '.join(ARMS)}")
    if data.candidates is None:
        raise TutelageError(
            "without augmented texts every row would be trained without augmentation, as no_da is; give "
            f"{option('candidates')} FOLDER (tutelage augment writes it)"
        )
    students, own = Path(general or f"{out}/general"), parsed(settings)
    whole = {arm: recipe_of(arm, data.task, student) for arm in arms}
    tree: dict[str, Any] = {
        "tasks": [TeacherTask(teacher=teacher, data=data)],
        "methods": [_method(arm, recipe.part("task"), own) for arm, recipe in whole.items()],
        "seeds": seeds,
        "steps": "recipe",
        "against": "full" if "full" in arms else "",
        "baseline": False,
        "served": False,
        "store": False,  # it has no attention, and the augmented texts of each seed are others
        "mixed_precision": mixed_precision,
    }
    plan = plan_of(tree, {})
    plan.check()
    _check_settings(own, recipe_of("full", data.task, student), list(whole.values()))
    folder = Path(out)
    check_folder(folder, FILE, "comparison", None)
    if not (folder / CELLS).exists():
        # Each row on the task, from new weights: the general students are not there yet.
        tried = run_config(
            whole[arms[0]].part("task"), data.model_dump(mode="json"), plan.methods[0].settings, teacher=teacher
        )
        check_teacher(plan.tasks[0].called, tried.model_copy(update={"out": out}), cache(load_data))
    take_folder(folder, FILE, to_yaml(plan))
    for arm in dict.fromkeys(_general(arm) for arm in arms if arm != "no_gd"):
        general_student(arm, students / arm, general_teacher, corpus, student, mixed_precision, settings, quiet=quiet)

    def begun(method: ComparedMethod, _: str, task: str | None) -> Recipe:
        recipe = recipe_of(method.called, task, student).part("task")
        if method.called == "no_gd":
            return recipe
        return recipe.model_copy(update={"student": Checkpoint(name=str(students / _general(method.called)))})

    return Ablation(**dict(compare(plan, out, begun, launcher=launcher, plugins=plugins, quiet=quiet)))


def _method(row: str, recipe: Recipe, settings: dict[str, Any]) -> ComparedMethod:
    """A row as an arm, with the settings that concern it."""
    own = {path: value for path, value in settings.items() if _concerns(path, recipe)}
    if not any(stage.data == "augmented" for stage in recipe.stages):
        own["data.candidates"] = None
    left_out = None if row in ("full", "top", "bottom") else row
    return ComparedMethod(method="tinybert", ablation=left_out, name=row, settings=own)


def _check_settings(settings: dict[str, Any], full: Recipe, rows: Sequence[Recipe]) -> None:
    """Check that the full method has the stage of each setting, and that the general stages take theirs.

    Raises:
        TutelageError: if not; this ends here, not after the first stage.
    """
    for path in settings:
        if not _concerns(path, full.part("general")) and not _concerns(path, full.part("task")):
            names = ", ".join(stage.name for stage in full.stages)
            raise TutelageError(f"{option('settings')} {path}: no row has this stage; there are {names}")
    for recipe in rows:
        if recipe.stages[0].on_corpus:
            _with(RunConfig(recipe=recipe.part("general")), settings)


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
    own = {path: value for path, value in parsed(settings).items() if _concerns(path, config.recipe)}
    return with_settings(config, own)


def _concerns(path: str, recipe: Recipe) -> bool:
    """Whether a recipe has the stage that a setting names (a setting of all stages is for those on the task)."""
    parts = path.split(".")
    names = [stage.name for stage in recipe.stages]
    if parts[0] != "stages" or len(parts) < 2 or parts[1] == "*":
        return names != ["general"]
    return parts[1] in names
