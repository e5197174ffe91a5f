"""Settings by path, as ``--set`` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tutelage.errors import TutelageError
from tutelage.recipes.config import RunConfig, validated, yaml_value
from tutelage.recipes.recipe import Recipe

Settings = Mapping[str, Any] | Sequence[str] | None
"""Values by path, ``{"stages.*.epochs": 2}``; or as ``--set`` takes them, ``["stages.*.epochs=2"]``, or one such text."""


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
            names = sorted({place[-1][0] for place in _places(tree, ())})
            raise TutelageError(f"--set {path:.200}: there is no such setting; the last part may be {', '.join(names)}")
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


def _places(node: Any, before: tuple[tuple[str, Any], ...]) -> list[tuple[tuple[str, Any], ...]]:
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


def _fits(wanted: list[str], names: list[str]) -> bool:
    """Whether ``wanted`` is hidden in ``names`` in order, and both end alike; ``*`` fits one name."""
    if wanted[-1] != names[-1]:
        return False
    remaining = iter(names)
    return all(any(part in ("*", name) for name in remaining) for part in wanted)
