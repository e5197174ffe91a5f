"""Kinds of task, terms, mechanisms, students and methods in a user's own file: ``--plugin my_losses.py``.

A kind of task, a term, a mechanism or a student is a subclass, known by its ``name``, its ``kind`` or its ``init`` as soon as it is
defined. A method is a function that is annotated to return a :class:`~tutelage.recipes.recipe.Recipe`, known by its name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

from pydantic import BaseModel

from tutelage.errors import TutelageError, option
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.objectives.kinds import kinds_of, ours
from tutelage.objectives.term import Term
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import StudentSpec


def load(plugin: str | os.PathLike[str] | ModuleType) -> dict[str, Callable[..., Recipe]]:
    """Read a plug-in, once for each content of its file, and return its methods by name.

    Raises:
        TutelageError: when it is no Python file, cannot be run, or defines a kind that the package has.
    """
    module = plugin if isinstance(plugin, ModuleType) else _module(Path(os.path.expanduser(plugin)))
    bases: tuple[tuple[type[BaseModel], str], ...] = ((Term, "kind"), (Mechanism, "kind"), (StudentSpec, "init"))
    for base, key in bases:
        known = kinds_of(base, key)
        for one in (
            one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__
        ):
            if not issubclass(one, base):
                continue
            kind = one.model_fields[key].default
            if not isinstance(kind, str) and not one.__subclasses__():
                raise TutelageError(
                    f'{module.__file__}: {one.__name__} has no name; give it {key}: Literal["mine"] = "mine"'
                )
            if kind in known and known[kind] is not one and ours(known[kind]):
                raise TutelageError(
                    f"{module.__file__}: the {key} {kind!r} already exists; give {one.__name__} another"
                )
    if "tutelage.tasks.kind" in sys.modules:  # else it defines none, and this import takes seconds
        _check_kinds(module)
    return {
        name: value
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and _returns_recipe(value)
    }


def _check_kinds(module: ModuleType) -> None:
    """See that the kinds of task that a plug-in defines can be used.

    Raises:
        TutelageError: the package has one of this name, or one leaves questions open.
    """
    from tutelage.tasks import KINDS
    from tutelage.tasks.kind import Kind

    for one in vars(module).values():
        if (
            isinstance(one, type)
            and issubclass(one, Kind)
            and one.__module__ == module.__name__
            and "name" in vars(one)
        ):
            if one.name in KINDS:
                raise TutelageError(
                    f"{module.__file__}: the kind {one.name!r} already exists; give {one.__name__} another name"
                )
            if lacking := sorted(one.__abstractmethods__):
                raise TutelageError(
                    f"{module.__file__}: the kind {one.name!r} lacks {', '.join(lacking)}; define them, or derive "
                    f"{one.__name__} from a kind that has them"
                )


def _module(path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TutelageError(
            f"{option('plugins')} {str(path)!r} cannot be read ({error.strerror}); give a Python file"
        ) from None
    name = f"tutelage_plugin_{hashlib.sha256(os.fsencode(path.resolve()) + content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TutelageError(f"{option('plugins')} {str(path)!r} is no Python file; give one that ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        del sys.modules[name]
        reason = " ".join(str(error).split())
        raise TutelageError(
            f"{option('plugins')} {str(path)!r} cannot be run ({type(error).__name__}: {reason}); correct it"
        ) from None
    return module


def _returns_recipe(function: Callable[..., object]) -> bool:
    try:
        return get_type_hints(function).get("return") is Recipe
    except NameError as error:
        if "Recipe" in str(function.__annotations__.get("return")):
            raise TutelageError(
                f"the annotations of {function.__name__} in {function.__code__.co_filename} cannot be read ({error}); import "
                "what they name"
            ) from None
        return False
