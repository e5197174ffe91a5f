"""The commands as functions, with the same names: ``from tutelage import finetune, distill, evaluate``.

Which texts to use is said in the words of :class:`tutelage.config.DataConfig`: ``task="sst2"``, or ``train="mine.csv"``,
``dev=...``, ``text=...``, ``label=...``, ``unlabeled=...``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from tutelage.config import DataConfig, RunConfig, validated, with_settings
from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.methods.finetune import finetune as finetune_recipe
from tutelage.recipe import Recipe
from tutelage.runs import evaluate as evaluate_model
from tutelage.runs import run
from tutelage.students.build import Checkpoint, Student, parse


def method_recipe(method: str) -> Recipe:
    """The recipe of a method by name.

    Raises:
        TutelageError: for an unknown name, with the nearest that there is.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(METHODS)}"
        raise TutelageError(f"there is no method {method!r}; {hint}")
    return METHODS[method]()


def run_config(recipe: Recipe, data: dict[str, Any], settings: Sequence[str] = (), **fields: Any) -> RunConfig:
    """A run from its parts, checked; ``settings`` are ``path=value`` as ``--set`` takes them.

    Raises:
        TutelageError: for a field or value that a run does not have.
    """
    tree = {"recipe": recipe.model_dump(mode="json"), "data": data, **fields}
    return with_settings(validated(tree, "the run"), list(settings))


def finetune(
    model: str,
    out: str,
    *,
    epochs: int = 3,
    lr: float = 3e-5,
    seed: int = 0,
    mixed_precision: str = "no",
    tracker: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Fine-tune a checkpoint (folder or hub id) on a task: how a teacher is made. Returns the run's report.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker}
    recipe = finetune_recipe(Checkpoint(name=model))
    settings = [f"stages.finetune.epochs={epochs}", f"stages.finetune.lr={lr}", *settings]
    return run(run_config(recipe, data, settings, **fields), resume=resume, quiet=quiet)


def distill(
    teacher: str,
    out: str,
    *,
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    seed: int = 0,
    baseline: bool = True,
    allow_weak_teacher: bool = False,
    mixed_precision: str = "no",
    tracker: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Distil a fine-tuned teacher into a student and return the run's report.

    ``method`` is a name or a recipe of your own; ``student`` replaces the recipe's (``"layers=3"``, a checkpoint, or an
    object).

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    recipe = method_recipe(method) if isinstance(method, str) else method
    if student is not None:
        chosen = parse(student) if isinstance(student, str) else student
        recipe = recipe.model_copy(update={"student": chosen})
    fields = {
        "teacher": teacher,
        "out": out,
        "seed": seed,
        "baseline": baseline,
        "allow_weak_teacher": allow_weak_teacher,
        "mixed_precision": mixed_precision,
        "tracker": tracker,
    }
    return run(run_config(recipe, data, settings, **fields), resume=resume, quiet=quiet)


def evaluate(model: str, *, quiet: bool = False, **data: Any) -> dict[str, Any]:
    """Score a fine-tuned model on every part of dev: ``{"scores": {"dev": {"accuracy": ...}}, ...}``.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.
    """
    config: DataConfig = validated({"recipe": finetune_recipe().model_dump(mode="json"), "data": data}, "the data").data
    return evaluate_model(model, config, quiet=quiet)
