"""Teams on disk."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from tutelage.artifacts import Manifest
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError

MANIFEST = "team.json"
"""In a folder of ``tutelage team train``: who is in it."""


PARTED_BY = ("task", "train", "dev", "text", "text_pair", "label", "kind", "max_train")
"""Of the settings of data: those by which it is known which texts are in which part of train."""


class TeamManifest(Manifest):
    """Who is in a folder of ``tutelage team train``, and what they learnt from."""

    FILE = MANIFEST
    WHAT = "team of teachers"
    COMMAND = "tutelage team train"

    data: DataConfig
    """What was common to all; each left out the part on which weights are learnt."""
    members: dict[str, str]
    """By name (the folder within this one) how each was made."""


def members_in(team: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The teachers that folders and hub ids stand for: a folder of ``tutelage team train`` for all of its own.

    Raises:
        TutelageError: when such a folder is damaged, or a teacher is named twice.
    """
    found: list[str] = []
    for given in team:
        name = str(Path(given)) if Path(given).exists() else given  # folders may end in a slash
        path = Path(name) / MANIFEST
        found += (
            [str(path.parent / member) for member in TeamManifest.read(path.parent).members]
            if path.exists()
            else [name]
        )
    twice = next((name for number, name in enumerate(found) if name in found[:number]), None)
    if twice is not None:
        raise TutelageError(f"the team has {twice!r} twice; give each teacher once")
    return tuple(found)


def is_store(name: str) -> bool:
    """Whether a teacher's name is that of a store."""
    return (Path(name) / "manifest.json").exists()


def short(names: tuple[str, ...]) -> list[str]:
    """Names for people: the last parts of paths, as many as make them different."""
    parts = [Path(name).parts for name in names]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(one[-count:]) for one in parts]
        if len(set(found)) == len(found):
            return found
    return list(names)


def left_out(folder: Path, data: DataConfig, part: tuple[int, int] | None) -> bool:
    """Whether it is written down that a teacher has kept away from the examples on which weights are learnt."""
    path = folder / "config.yaml"
    if not path.exists():
        return False
    try:
        theirs = DataConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))["data"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValidationError):
        return False
    same = all(getattr(theirs, name) == getattr(data, name) for name in PARTED_BY)
    return same and theirs.leave_out == part and data.leave_out is None and data.only is None
