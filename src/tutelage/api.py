"""The commands as functions, with the same names: ``from tutelage import finetune, distill, evaluate``.

Which texts to use is said in the words of :class:`tutelage.config.DataConfig`: ``task="sst2"``, or ``train="mine.csv"``,
``dev=...``, ``text=...``, ``label=...``, ``unlabeled=...``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage import stores
from tutelage.config import DataConfig, RunConfig, validated, with_settings
from tutelage.errors import TutelageError
from tutelage.knowledge.store import Store
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
    teacher: str | None,
    out: str,
    *,
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    seed: int = 0,
    baseline: bool = True,
    allow_weak_teacher: bool = False,
    teacher_store: str | None = None,
    store_dtype: str = "float16",
    mixed_precision: str = "no",
    tracker: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Distil a fine-tuned teacher into a student and return the run's report.

    ``method`` is a name or a recipe of your own; ``student`` replaces the recipe's (``"layers=3"``, a checkpoint, or an
    object). ``teacher_store`` is a folder of :func:`write_store`, in which case ``teacher`` may be left out, or ``"auto"``:
    the store that fits is used, and written if there is none.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    if teacher is None and teacher_store in (None, "auto"):
        raise TutelageError("there is no teacher; give --teacher FOLDER, or a --teacher-store FOLDER of one")
    if teacher is None:
        Store(str(teacher_store))  # says so if it is none
    fields = {
        "teacher": teacher or str(Path(str(teacher_store)) / "teacher"),
        "teacher_store": teacher_store,
        "store_dtype": store_dtype,
        "out": out,
        "seed": seed,
        "baseline": baseline,
        "allow_weak_teacher": allow_weak_teacher,
        "mixed_precision": mixed_precision,
        "tracker": tracker,
    }
    return run(run_config(_recipe(method, student), data, settings, **fields), resume=resume, quiet=quiet)


def _recipe(method: str | Recipe, student: str | Student | None) -> Recipe:
    recipe = method_recipe(method) if isinstance(method, str) else method
    if student is None:
        return recipe
    return recipe.model_copy(update={"student": parse(student) if isinstance(student, str) else student})


def write_store(
    teacher: str,
    out: str,
    *,
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    whole: bool = False,
    dtype: str = "float16",
    allow_weak_teacher: bool = False,
    mixed_precision: str = "no",
    settings: Sequence[str] = (),
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Run a teacher once over the data and keep what ``method`` needs of it in ``out``; returns what was written.

    ``whole`` keeps all layers that the method could pair, at all tokens, in all neurons, with every ranking of tokens: a
    store for every smaller configuration. A killed call goes on when it is repeated.

    Raises:
        TutelageError: for anything wrong with what was given, or a folder that holds something else.
    """
    config = _store_config(teacher, out, method, student, dtype, mixed_precision, settings, data)
    config = config.model_copy(update={"allow_weak_teacher": allow_weak_teacher})
    return stores.write(config, whole, quiet=quiet)


def plan_store(
    teacher: str,
    *,
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    whole: bool = False,
    dtype: str = "float16",
    settings: Sequence[str] = (),
    **data: Any,
) -> dict[str, Any]:
    """What a store would cost and earn, before anything runs: bytes, operations, after how many epochs it has paid.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    return stores.estimate(_store_config(teacher, "unused", method, student, dtype, "no", settings, data), whole)


def compact_store(
    store: str,
    out: str,
    *,
    method: str | Recipe = "minimum_knowledge",
    student: str | Student | None = None,
    settings: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Cut a larger store down to what ``method`` needs; the same bytes as if the teacher had been asked again.

    Raises:
        TutelageError: when the larger store lacks something.
    """
    config = run_config(_recipe(method, student), {}, settings)
    return stores.cut(config.recipe, Path(store), Path(out), quiet=quiet)


def _store_config(
    teacher: str,
    out: str,
    method: str | Recipe,
    student: str | Student | None,
    dtype: str,
    mixed_precision: str,
    settings: Sequence[str],
    data: dict[str, Any],
) -> RunConfig:
    fields = {"teacher": teacher, "out": out, "store_dtype": dtype, "mixed_precision": mixed_precision}
    return run_config(_recipe(method, student), data, settings, **fields)


def evaluate(model: str, *, quiet: bool = False, **data: Any) -> dict[str, Any]:
    """Score a fine-tuned model on every part of dev: ``{"scores": {"dev": {"accuracy": ...}}, ...}``.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.
    """
    config: DataConfig = validated({"recipe": finetune_recipe().model_dump(mode="json"), "data": data}, "the data").data
    return evaluate_model(model, config, quiet=quiet)
