"""What the functions of several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from tutelage.errors import TutelageError, option

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions
    from tutelage.recipes.config import RunConfig
    from tutelage.recipes.recipe import Recipe
    from tutelage.run.inputs import Inputs, Model, Splits
    from tutelage.run.result import Result
    from tutelage.students.specs import Student


FilePath = str | os.PathLike[str]


Plugin = str | os.PathLike[str] | ModuleType


FILES = (
    "task",
    "data_dir",
    "train",
    "dev",
    "text",
    "text_pair",
    "label",
    "labels",
    "header",
    "skip_bad_rows",
    "kind",
    "metric",
)
"""The options of data that every command on a task has."""


def carried_out(config: RunConfig, resume: bool, quiet: bool) -> Result:
    from tutelage.run.result import Result
    from tutelage.run.run import run as carry_out

    report = carry_out(config, resume=resume, quiet=quiet)
    return Result(Path(str(config.out)), report)


def several(given: Any) -> list[Any]:
    """What is given once or several times, as a list; ``None`` is nothing."""
    from pydantic import BaseModel

    if given is None:
        return []
    single = isinstance(given, str | os.PathLike | ModuleType | BaseModel | Mapping) or callable(given)
    pair = isinstance(given, tuple) and any(
        hasattr(one, "save_pretrained") for one in given
    )  # a model and its tokenizer
    return [given] if single or pair or hasattr(given, "to_parquet") else list(given)


def read_plugins(plugins: Plugin | Sequence[Plugin] | None) -> dict[str, Callable[..., Recipe]]:
    """The methods of the plug-ins, by name; their other parts are known from here on."""
    from tutelage.recipes.plugins import load

    return {name: make for plugin in several(plugins) for name, make in load(plugin).items()}


def plugin_files(plugins: Plugin | Sequence[Plugin] | None) -> list[str]:
    """The files of plug-ins, for other processes.

    Raises:
        TutelageError: one is a module in memory.
    """
    if any(isinstance(plugin, ModuleType) for plugin in several(plugins)):
        raise TutelageError("a plug-in is a module in memory, which other processes do not have; give its file")
    return [place(plugin) for plugin in several(plugins)]


def recipe_for(
    method: str | Recipe | Callable[[], Recipe] | None,
    student: FilePath | Student | tuple[Any, Any] | None,
    inputs: Inputs,
    task: str | None = None,
    ablation: str | None = None,
    more: Mapping[str, Callable[..., Recipe]] | None = None,
) -> Recipe:
    """The recipe of a method, by default ``compact``, with the student that was asked for. ``more`` are the methods of plug-ins."""
    from tutelage.students.specs import parse

    recipe = made("compact" if method is None else method, task, ablation, more)
    spec = student_from(student, inputs)
    if spec is None:
        return recipe
    return recipe.model_copy(update={"student": parse(spec, recipe.student) if isinstance(spec, str) else spec})


def made(
    method: str | Recipe | Callable[[], Recipe],
    task: str | None = None,
    ablation: str | None = None,
    more: Mapping[str, Callable[..., Recipe]] | None = None,
) -> Recipe:
    """The recipe of a method by name (also those of ``more``), of a function that makes one, or the recipe itself."""
    from tutelage.methods.named import method_recipe
    from tutelage.recipes.recipe import Recipe

    if isinstance(method, str):
        return method_recipe(method, task, ablation, more)
    if ablation is not None:
        raise TutelageError(
            f"{option('ablation')} {ablation} is for methods by name; change the recipe, which is an object, instead"
        )
    recipe = method() if callable(method) else method
    if not isinstance(recipe, Recipe):
        raise TutelageError(
            f"method={type(recipe).__name__} is no method; give a name, a Recipe, or a function that returns one"
        )
    return recipe


def named_methods(
    given: str | Recipe | Callable[[], Recipe] | Sequence[str | Recipe | Callable[[], Recipe]],
) -> tuple[list[str], dict[str, Recipe]]:
    """The names of methods, and the recipes of those that are given as objects, by their names."""
    names: list[str] = []
    recipes: dict[str, Recipe] = {}
    for one in several(given):
        if isinstance(one, str):
            names += [name.strip() for name in one.split(",")]
        else:
            recipe = made(one)
            names.append(recipe.method)
            recipes[recipe.method] = recipe
    return names, recipes


def named_students(
    given: Sequence[FilePath | Student | tuple[Any, Any]], inputs: Inputs
) -> tuple[list[str], dict[str, Student]]:
    """The students in words, and the specifications of those that are given as objects, by these words."""
    from tutelage.students.specs import words_of

    names: list[str] = []
    specs: dict[str, Student] = {}
    for one in several(given):
        spec = place(one) if isinstance(one, str) else student_from(one, inputs)
        if isinstance(spec, str):
            names.append(spec)
        elif spec is not None:
            names.append(words_of(spec))
            specs[names[-1]] = spec
    return names, specs


def for_epochs(recipe: Recipe, epochs: int | Literal["auto"] | None) -> Recipe:
    """The recipe with these epochs in each stage; None leaves its own."""
    from tutelage.recipes.config import as_options

    with as_options():
        return recipe if epochs is None else recipe.for_epochs(epochs)


def student_from(student: FilePath | Student | tuple[Any, Any] | None, inputs: Inputs) -> str | Student | None:
    """A student as text or as its specification; a checkpoint for paths and models.

    Raises:
        TutelageError: it is none of these.
    """
    from tutelage.students.specs import Checkpoint, StudentSpec

    if student is None or isinstance(student, str | StudentSpec):
        return student
    if isinstance(student, Mapping):
        raise TutelageError("student=dict is no student; write it as 'layers=3', or as Copied(layers=3)")
    return Checkpoint(name=inputs.model(student, "student"))


def store_config(
    method: str | Recipe | Callable[[], Recipe] | None,
    student: FilePath | Student | tuple[Any, Any] | None,
    inputs: Inputs,
    data: dict[str, Any],
    settings: Mapping[str, Any] | Sequence[str],
    more: Mapping[str, Callable[..., Recipe]],
    fields: dict[str, Any],
) -> RunConfig:
    from tutelage.recipes.settings import run_config

    recipe = recipe_for(method, student, inputs, data.get("task"), more=more).part("task")
    return run_config(recipe, data, settings, **fields)


def stored_teacher(store: FilePath | None) -> str:
    """What a store keeps of its teacher."""
    from tutelage.knowledge.store.reading import Store

    folder = place_or_none(store)
    if folder in (None, "auto"):
        raise TutelageError(
            f"there is no teacher; give {option('teacher')} FOLDER, a {option('teacher_store')} FOLDER of one, a {option('team')}, "
            f"or a file of predictions with {option('teacher_predictions')} FILE"
        )
    Store(folder)  # says so if it is none
    return str(Path(folder) / "teacher")


def teachers_of(
    inputs: Inputs,
    teacher: Model | None,
    team: FilePath | Sequence[Model] | None,
    store: FilePath | None,
    predicted: bool,
) -> dict[str, Any]:
    """The fields of a run that say who teaches: one model, several, or what a store keeps of one."""
    names = tuple(inputs.model(one, "team") for one in several(team))
    if teacher is None and not names and not predicted:
        teacher = stored_teacher(store)
    found = None if teacher is None else inputs.model(teacher, "teacher")
    return {"teacher": found, "teachers": names, "teacher_store": store}


def amount(given: str | float | None, name: str, units: Mapping[str, float]) -> float | None:
    """A positive number with one of the ``units``, in the first of them, which may be left out.

    Raises:
        TutelageError: it is none.
    """
    if given is None:
        return None
    found = re.fullmatch(r"\s*([\d._]+(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)\s*", str(given))
    by_name = {unit.lower(): factor for unit, factor in units.items()} | {"": 1.0}
    try:
        value = float(found[1].replace("_", "")) * by_name[found[2].lower()] if found else 0.0
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        known = ", ".join(f"5{unit}" for unit in units)
        raise TutelageError(f"{option(name)} {given!r} is no positive amount; write it as {known}")
    return value


def milliseconds(given: str | float | None, name: str) -> float | None:
    """An amount of time: ``5ms``, ``0.1s``, ``5``."""
    return amount(given, name, {"ms": 1, "s": 1000})


def megabytes(given: str | float | None, name: str) -> float | None:
    """An amount of storage: ``20MB`` (10^6 bytes), ``900kB``, ``20``."""
    return amount(given, name, {"MB": 1, "kB": 1e-3, "GB": 1000})


def data_config(data: Mapping[str, Any]) -> DataConfig:
    from tutelage.data.config import DataConfig
    from tutelage.recipes.config import as_options

    with as_options():
        return DataConfig.model_validate(dict(data))


OF_TRAINING = (
    "unlabeled",
    "predictions",
    "holdout",
    "max_train",
    "leave_out",
    "only",
    "noise",
    "projection",
    "candidates",
    "drop_flipped",
)
"""The fields of data that change what is trained, not what is evaluated."""


def checked_data(inputs: Inputs, data: DataConfig | Splits | None, options: DataOptions) -> DataConfig | None:
    """The texts to check a model on; an evaluation file alone names its own labels. None if there are none.

    Raises:
        TutelageError: for an option that has no effect on them. ``data`` may have such: it may be that of a run.
    """
    if idle := [name for name in OF_TRAINING if options.get(name) is not None]:
        raise TutelageError(f"{idle[0]} is an option of training, and nothing is trained here; leave it out")
    tree = {name: value for name, value in inputs.data(data, options).items() if name not in OF_TRAINING}
    if all(tree.get(name) is None for name in ("task", "train", "dev")):
        return None
    if tree.get("task") is None and tree.get("train") is None:
        tree["train"] = tree["dev"]
    return data_config(tree)


def place(given: FilePath) -> str:
    """A path as a string, ``~`` as the home folder.

    Raises:
        TutelageError: it is no path.
    """
    try:
        return os.path.expanduser(os.fspath(given))
    except TypeError:
        raise TutelageError(
            f"an object of type {type(given).__name__} is given where a path is needed; give a path"
        ) from None


def place_or_none(given: FilePath | None) -> str | None:
    return None if given is None else place(given)
