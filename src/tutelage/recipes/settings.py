"""Settings by path, as ``--set`` takes them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tutelage.errors import TutelageError
from tutelage.recipes.config import RunConfig, validated, yaml_value
from tutelage.recipes.recipe import Recipe

Settings = Mapping[str, Any] | Sequence[str] | None
"""Values by path, ``{"stages.*.epochs": 2}``; or as ``--set`` takes them, ``["stages.*.epochs=2"]``, or one such text."""

Place = tuple[tuple[str, Any], ...]
"""The (name, key) pairs that lead to a value."""


def parsed(settings: Settings) -> dict[str, Any]:
    """Settings with their values; the text after ``=`` is YAML.

    Raises:
        TutelageError: when one has no value, or none that is YAML.
    """
    if isinstance(settings, Mapping):
        return dict(settings)
    found: dict[str, Any] = {}
    for setting in [settings] if isinstance(settings, str) else settings or ():
        path, sign, text = setting.partition("=")
        if not sign:
            raise TutelageError(f"--set {setting!r:.200} has no value; write path=value")
        try:
            value = yaml_value(text)
        except yaml.YAMLError:
            raise TutelageError(f"--set {setting!r:.200}: {text!r:.200} is no YAML value; quote it") from None
        found.pop(path.strip(), None)  # of two for one path the later, in its place
        found[path.strip()] = value
    return found


def with_settings(config: RunConfig, settings: Settings) -> RunConfig:
    """The run with settings applied.

    A path names parts on the way to a value, in order: ``stages.prediction.temperature`` finds
    ``recipe.stages.prediction.objective.soft_labels.temperature``. Stages go by their name, terms by their kind, and
    ``*`` stands for all at its place (``stages.*.epochs=2``).

    Raises:
        TutelageError: when a path finds nothing, or more than one place.
    """
    tree = config.model_dump(mode="json")
    for path, value in parsed(settings).items():
        wanted = path.split(".")
        found = [place for place in _places(tree, ()) if _fits(wanted, [name for name, _ in place])]
        # The whole path given beats a path in which it is only hidden.
        found = [p for p in found if len(p) == len(wanted)] or found
        if not found:
            raise TutelageError(f"--set {path:.200}: there is no such setting; {_instead(wanted, _places(tree, ()))}")
        if len(found) > 1 and "*" not in wanted:
            options = ", ".join(".".join(name for name, _ in place) for place in found)
            raise TutelageError(f"--set {path:.200} fits several settings ({options}); name one, or use * for all")
        for place in found:
            node = tree
            for _, key in place[:-1]:
                node = node[key]
            node[place[-1][1]] = value
    return validated(tree, "--set")


def setting(settings: Settings, path: str, default: Any = None) -> Any:
    """The value that settings give to the full ``path``, for what has to be known before there is a run."""
    values = [value for short, value in parsed(settings).items() if _fits(short.split("."), path.split("."))]
    return values[-1] if values else default


def run_config(recipe: Recipe, data: Mapping[str, Any], settings: Settings = (), **fields: Any) -> RunConfig:
    """A run from its parts: the recipe, the fields of :class:`~tutelage.data.config.DataConfig`, those of the run itself.

    Raises:
        TutelageError: for a field or value that a run does not have, by the name of its option.
    """
    return with_settings(validated({"recipe": recipe.model_dump(mode="json"), "data": dict(data), **fields}), settings)


def _places(node: Any, before: Place) -> list[Place]:
    """Every value of the tree, as the (name, key) pairs that lead to it; inner nodes too."""
    items: list[tuple[str, Any, Any]] = []
    if isinstance(node, dict):
        items = [(key, key, value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [
            (str(value.get("name") or value.get("kind")), key, value)
            for key, value in enumerate(node)
            if isinstance(value, dict)
        ]
    places = []
    for name, key, value in items:
        places.append((*before, (name, key)))
        places += _places(value, (*before, (name, key)))
    return places


def _instead(wanted: list[str], places: list[Place]) -> str:
    """What to write in place of the first part of a path that fits nothing: a name like it, or those that may stand there."""
    every = [[name for name, _ in place] for place in places]

    def roots_of(parts: list[str]) -> list[list[str]]:
        last = parts[-1] if parts else ""
        return [one for one in every if _fits([*parts[:-1], one[-1] if last == "*" else last], one)] if parts else [[]]

    known = next(size for size in reversed(range(len(wanted))) if roots_of(wanted[:size]))
    roots = roots_of(wanted[:known])
    below = [one[len(root) :] for one in every for root in roots if len(one) > len(root) and one[: len(root)] == root]
    wrong = wanted[known]
    close = difflib.get_close_matches(wrong, {names[-1] for names in below}, n=2)
    if close:
        return f"did you mean {' or '.join(map(repr, close))} in place of {wrong!r}?"
    direct = sorted({names[0] for names in below if len(names) == 1})
    if not direct:
        return f"{'.'.join(wanted[:known])} is a value; leave out {wrong!r}"
    return f"in place of {wrong!r} may stand {', '.join(direct)}"


def _fits(wanted: list[str], names: list[str]) -> bool:
    """Whether ``wanted`` is hidden in ``names`` in order, and both end alike; ``*`` fits one name."""
    if wanted[-1] != names[-1]:
        return False
    remaining = iter(names)
    return all(any(part in ("*", name) for name in remaining) for part in wanted)
