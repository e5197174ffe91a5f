"""Teams on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from tutelage.artifacts import Manifest
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError

MANIFEST = "team.json"
"""File in a folder of ``tutelage team train`` that lists its teachers."""


PARTED_BY = ("task", "train", "dev", "text", "text_pair", "label", "kind", "max_train")
"""Data settings that determine which texts are in which part of the training set."""


class TeamManifest(Manifest):
    """The teachers in a folder of ``tutelage team train`` and their training data."""

    FILE = MANIFEST
    WHAT = "team of teachers"
    COMMAND = "tutelage team train"

    data: DataConfig
    """Data settings of all teachers. Each left out the part on which sampling weights are learned."""
    members: dict[Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")], str]
    """The description (``--member``) of each teacher by name, which is its folder within this one."""
    shared_head: bool = False
    """Whether they were trained together, under one head."""


def members_in(team: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Replace each folder of ``tutelage team train`` by its teachers; other folders and hub ids stay.

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
    """Whether a teacher's name is the folder of a store."""
    return (Path(name) / "manifest.json").exists()


def short(names: tuple[str, ...]) -> list[str]:
    """Short names for display: as many last parts of the paths as make them different."""
    parts = [Path(name).parts for name in names]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(one[-count:]) for one in parts]
        if len(set(found)) == len(found):
            return found
    return list(names)


def left_out(folder: Path, data: DataConfig, part: tuple[int, int] | None) -> bool:
    """Whether a teacher's config.yaml shows that it left out the examples on which sampling weights are learned."""
    path = folder / "config.yaml"
    if not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
        if "<<" in text:  # merge keys, which a run never writes, may have no end
            return False
        theirs = DataConfig.model_validate(yaml.safe_load(text)["data"])
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return False
    same = all(_placed(getattr(theirs, name)) == _placed(getattr(data, name)) for name in PARTED_BY)
    return same and theirs.leave_out == part and data.leave_out is None and data.only is None


def _placed(value: Any) -> Any:
    """A setting, the path of what exists as an absolute one: a run's config.yaml has these."""
    return os.path.abspath(value) if isinstance(value, str) and os.path.exists(value) else value
