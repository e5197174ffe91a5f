"""The plan of a comparison, as its YAML file has it: tasks with their teachers, methods, students and seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tutelage.data.config import DataConfig, Place
from tutelage.errors import TutelageError, option
from tutelage.fields import MOST_SEEDS, Count, Seed
from tutelage.recipes.choices import Precision
from tutelage.recipes.config import in_one_line, yaml_file


class _ComparePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ComparedMethod(_ComparePart):
    """A method, and what is changed in it."""

    method: str
    """One of ``tutelage methods``, or of a plug-in."""
    ablation: str | None = None
    """The part of it that is left out, as ``--ablation`` takes it."""
    name: str = ""
    """The arm's name. Default: the method's, with the part that is left out."""
    settings: dict[str, Any] = {}
    """Settings of this method's runs, by path."""

    @property
    def called(self) -> str:
        return self.name or (self.method if self.ablation is None else f"{self.method}:{self.ablation}")


class TeacherTask(_ComparePart):
    """A task with its teacher."""

    teacher: Place
    """Folder or hub id, fine-tuned on the task."""
    data: DataConfig
    """The texts."""
    name: str = ""
    """Default: the task's name, or that of the training file."""
    students: tuple[Place, ...] = ()
    """Students of this task, in place of the plan's."""

    @property
    def called(self) -> str:
        return self.name or self.data.task or Path(str(self.data.train)).name.partition(".")[0]


def _seeds(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value < 1:
        raise ValueError(f"give at least 1 seed, not {value}")
    if value > MOST_SEEDS:
        raise ValueError(f"give at most {MOST_SEEDS:,} seeds")
    return range(value)


def _method(value: Any) -> Any:
    """``kd`` and ``tinybert:no_da`` as fields."""
    if not isinstance(value, str):
        return value
    method, _, ablation = value.partition(":")
    return {"method": method, "ablation": ablation or None}


class ComparePlan(_ComparePart):
    """What is compared; one YAML file is this."""

    tasks: Annotated[tuple[TeacherTask, ...], Field(min_length=1)]
    """The tasks, each with its teacher."""
    methods: Annotated[tuple[Annotated[ComparedMethod, BeforeValidator(_method)], ...], Field(min_length=1)]
    """The methods: names, as ``kd`` or ``tinybert:no_da`` (a method and the part that is left out), or their fields."""
    students: tuple[Place, ...] = ("",)
    """As ``--student`` takes them; empty: the method's own."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(_seeds)] = (0, 1, 2)
    """How many (0, 1, ...), or which."""
    steps: Count | Literal["equal", "flops", "recipe"] = "equal"
    """Optimiser steps of every cell: ``equal``: as many as the longest recipe of the task plans; ``flops``: as many as make the
    training cost what the most expensive recipe plans; ``recipe``: each its own."""
    against: str = ""
    """The method that the others are compared with. Default: the first."""
    baseline: bool = True
    """Train each student without distillation too, for as many steps."""
    served: bool = True
    """Measure the teacher of each task, and each student of its first method and seed, in ONNX and int8 too (extra ``onnx``)."""
    store: bool = True
    """Keep what the teacher knows of a task's texts on disk, once for all cells that need the same of it."""
    mixed_precision: Precision = "no"
    """Precision of training and evaluation in all runs. ``no`` is float32; ``auto`` is ``bf16`` where this machine multiplies it
    faster."""
    settings: dict[str, Any] = {}
    """Settings of all runs, by path."""

    def check(self) -> None:
        """See that names are unique and known.

        Raises:
            TutelageError: if not.
        """
        for what, names in (
            ("tasks", [task.called for task in self.tasks]),
            ("methods", [method.called for method in self.methods]),
            *(("students", list(some)) for some in (self.students, *(task.students for task in self.tasks))),
            ("seeds", list(map(str, self.seeds))),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                remedy = "give one of them another name" if what in ("tasks", "methods") else "leave one out"
                raise TutelageError(f"two of the {what} are {twice!r}; {remedy}")
        names = [method.called for method in self.methods]
        if self.against and self.against not in names:
            raise TutelageError(
                f"{option('against')} {self.against!r} is none of the methods {', '.join(names)}; name one"
            )


def plan_of(given: str | os.PathLike[str] | Mapping[str, Any] | None, own: Mapping[str, Any]) -> ComparePlan:
    """A plan from its YAML file or its fields, with the fields of ``own`` that say something in place of its own.

    Raises:
        TutelageError: when the file cannot be read; for the first field that is missing or wrong.
    """
    name = None if given is None or isinstance(given, Mapping) else os.path.expanduser(os.fspath(given))
    tree = given if name is None else yaml_file(Path(name), "docs/guides/compare.md shows one")
    if not isinstance(tree, Mapping | None):
        raise TutelageError(f"{name!r} has no names and values; docs/guides/compare.md shows what a plan has")
    if unknown := sorted(set(tree or {}) - set(ComparePlan.model_fields), key=str):
        place = "" if name is None else f"{name}: "
        raise TutelageError(
            f"{place}{', '.join(map(str, unknown))}: there is no such field; a plan has {', '.join(ComparePlan.model_fields)}"
        )
    if given is not None and "tasks" in own:
        raise TutelageError(
            f"a plan names the tasks and their teachers; leave out {option('teacher')} and the options of data"
        )
    found = dict(tree or {})
    found |= {field: value for field, value in own.items() if value not in (None, [], {})}
    if isinstance(before := (tree or {}).get("settings"), Mapping):
        found["settings"] = {**before, **own.get("settings", {})}
    if not found.get("tasks"):
        raise TutelageError(
            f"there is nothing to compare on; give {option('teacher')} FOLDER with {option('task')} or {option('train')}, or "
            "a plan in YAML"
        )
    if not found.get("methods"):
        raise TutelageError(f"there are no methods to compare; give {option('methods')} kd,compact")
    try:
        return ComparePlan.model_validate(found)
    except ValidationError as error:
        raise TutelageError(in_one_line(error, name)) from None
