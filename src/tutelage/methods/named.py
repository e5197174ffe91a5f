"""A recipe by the name of its method."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe


def method_recipe(
    method: str,
    task: str | None = None,
    ablation: str | None = None,
    more: Mapping[str, Callable[..., Recipe]] | None = None,
) -> Recipe:
    """The recipe of a method by name, with its numbers for a task where it has any, or without a part of itself.

    ``more`` are methods of plug-ins.

    Raises:
        TutelageError: for an unknown name or part, with the nearest that there is.
    """
    for name in more or {}:
        if name in METHODS:
            raise TutelageError(f"the plug-in's method {name!r} already exists; rename it")
    known_methods = {**METHODS, **(more or {})}
    if method not in known_methods:
        near = difflib.get_close_matches(method, known_methods, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known_methods)}"
        raise TutelageError(f"there is no method {method!r}; {hint}")
    make: Callable[..., Recipe] = known_methods[method]
    known = inspect.signature(make).parameters
    choices: dict[str, Any] = {}
    if task is not None and "task" in known:
        choices["task"] = task
    if ablation is not None:
        kind = get_type_hints(make).get("ablation")  # a Literal of names or None, or a tuple of such
        several = get_origin(kind) is tuple
        names = get_args(get_args(kind)[0]) if kind is not None else ()
        given = tuple(ablation.split(",")) if several else (ablation,)
        unknown = [name for name in given if name not in names]
        if unknown:
            some = [name for name, one in known_methods.items() if "ablation" in inspect.signature(one).parameters]
            hint = f"it knows {', '.join(names)}" if names else f"there are some of {', '.join(some)}"
            raise TutelageError(f"the method {method!r} has no ablation {unknown[0]!r}; {hint}")
        choices["ablation"] = given if several else ablation
    return make(**choices)
