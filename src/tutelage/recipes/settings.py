"""Settings by path: changed, as ``--set`` takes them, and compared."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from tutelage.errors import TutelageError, option
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
            raise TutelageError(f"{option('settings')} {setting!r:.200} has no value; write path=value")
        try:
            value = yaml_value(text)
        except yaml.YAMLError:
            raise TutelageError(
                f"{option('settings')} {setting!r:.200}: {text!r:.200} is no YAML value; quote it"
            ) from None
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
        places = [place for place, _ in _places(tree)]
        found = [place for place in places if _fits(wanted, [name for name, _ in place])]
        # The whole path given beats a path in which it is only hidden.
        found = [p for p in found if len(p) == len(wanted)] or found
        if not found:
            raise TutelageError(
                f"{option('settings')} {path:.200}: there is no such setting; {_instead(wanted, places)}"
            )
        if len(found) > 1 and "*" not in wanted:
            options = ", ".join(".".join(name for name, _ in place) for place in found)
            raise TutelageError(
                f"{option('settings')} {path:.200} fits several settings ({options}); name one, or use * for all"
            )
        for place in found:
            node = tree
            for _, key in place[:-1]:
                node = node[key]
            node[place[-1][1]] = value
    return validated(tree, option("settings"))


def has_setting(config: RunConfig, path: str) -> bool:
    """Whether a path finds something in a run."""
    wanted = path.split(".")
    return any(_fits(wanted, [name for name, _ in place]) for place, _ in _places(config.model_dump(mode="json")))


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


def changes(theirs: str, ours: str) -> str:
    """The first settings in which two YAML texts differ, with both values: ``recipe.student.layers: 1 there, 2 here``."""
    try:
        there, here = _leaves(theirs), _leaves(ours)
    except yaml.YAMLError:
        return "its file is damaged"
    both = {name: (repr(there.get(name, "nothing")), repr(here.get(name, "nothing"))) for name in {**there, **here}}
    differ = [name for name, (one, other) in both.items() if one != other]
    said = [f"{name}: {both[name][0]:.60} there, {both[name][1]:.60} here" for name in differ[:3]]
    return "; ".join(said + [f"and {len(differ) - 3} more"] * (len(differ) > 3)) or "written otherwise"


def _leaves(text: str) -> dict[str, Any]:
    """The values of a YAML text by their paths."""
    found = _places(yaml_value(text))
    ends = ((place, value) for place, value in found if not isinstance(value, dict) and not any(_places(value)))
    return {".".join(name for name, _ in place): value for place, value in ends}


def _places(tree: Any, before: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value within a tree by its place, inner nodes too; in a list stages go by their name, and terms by their kind."""
    items: list[tuple[str, Any, Any]] = []
    if isinstance(tree, dict):
        items = [(str(key), key, value) for key, value in tree.items()]
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for row, value in enumerate(tree):
            name = (value.get("name") or value.get("kind")) if isinstance(value, dict) else None
            items.append((str(name or row), row, value))
    for name, key, value in items:
        place = (*before, (name, key))
        yield place, value
        yield from _places(value, place)


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
