"""Objects in memory that were written to files: how these are named, and what messages call them."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "inputs"
"""The folder of a run in which its objects are kept."""
TEMPORARY = "tutelage-"
"""How the name of a folder begins that is removed at the end of the call."""
OF_OBJECT = re.compile(r"(\w+)-[0-9a-f]{12}(\.jsonl)?")


def file_name(part: str, checksum: str, ending: str = "") -> str:
    """The name of the file or folder of the object that was given as ``part``."""
    return f"{part}-{checksum[:12]}{ending}"


def titled(path: Path) -> Path:
    """What messages call a file or a model: ``dev`` where an object was given as dev, else its path."""
    found = OF_OBJECT.fullmatch(path.name)
    return Path(found[1]) if found and (path.parent.name == FOLDER or is_temporary(path)) else path


def is_temporary(path: Path) -> bool:
    """Whether a path is that of an object which is removed at the end of the call."""
    return path.parent.name.startswith(TEMPORARY) and OF_OBJECT.fullmatch(path.name) is not None


def task_name(path: Path) -> str:
    """The name of a task whose training texts are in a file."""
    name = titled(path).name.removesuffix(".gz")
    return name.rpartition(".")[0] or name
