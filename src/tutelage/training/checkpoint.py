"""Save and load the state of a run: atomically, as safetensors and JSON with checksums only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.artifacts import opened, sha256_of, signed, sync
from tutelage.errors import TutelageError
from tutelage.training import sharding

State = dict[str, Any]
"""Plain values by name. A name that ends in ``.safetensors`` holds a dictionary of tensors."""


STATE = "state.json"
"""The file with the plain values and the checksums of the other files."""


def save(folder: Path, state: State) -> None:
    """Replace the checkpoint in ``folder`` and keep the one before it, for the case that the new one is damaged on the disk.

    After a crash at any point, of the program or the machine, one of them can be loaded.
    """
    fresh, old = folder.with_name(folder.name + ".new"), _before(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # first: there is never room needed for three
    fresh.mkdir(parents=True)
    plain: dict[str, Any] = {"files": {}}
    for name, value in state.items():
        if name.endswith(".safetensors"):
            # Cloned: safetensors refuses tensors that share memory (tied weights).
            save_file({key: tensor.detach().cpu().clone() for key, tensor in value.items()}, fresh / name)
            plain["files"][name] = sha256_of(fresh / name)
        else:
            plain[name] = value
    (fresh / STATE).write_text(signed(plain), encoding="utf-8")
    for place in [*fresh.iterdir(), fresh]:
        sync(place)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    sync(folder.parent)


def load(folder: Path, say: Callable[[str], None] = lambda line: None) -> State | None:
    """The checkpoint in ``folder``; if it is damaged, the one before it, and ``say`` is told. ``None`` if there is none.

    Raises:
        TutelageError: if no checkpoint is as it was written.
    """
    damage = ""
    for candidate in (folder, _before(folder)):
        if not candidate.exists():
            continue
        try:
            state = _read(candidate)
        except (OSError, ValueError) as error:
            damage = damage or f"the checkpoint {str(folder)!r} is damaged: {error}"
            continue
        if damage:
            say(f"{damage}; the run continues from the checkpoint before it")
            # Else the next save would put it in the place of the one that is whole.
            shutil.rmtree(folder, ignore_errors=True)
        return state
    if damage:
        raise TutelageError(
            f"{damage}; remove {str(folder.parent)!r} and repeat the command, which starts the run anew"
        )
    return None


def _read(folder: Path) -> State:
    """The checkpoint in a folder.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if one is not as it was written.
    """
    try:
        state: State = opened((folder / STATE).read_text(encoding="utf-8"))
        files = state.pop("files")
    except FileNotFoundError:
        raise ValueError(f"{STATE} is missing") from None
    except (ValueError, KeyError) as error:
        raise ValueError(f"{STATE}: {error}") from None
    for name, checksum in files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != checksum:
            raise ValueError(f"{name} is not as it was written")
        state[name] = load_file(folder / name)
    return state


def _before(folder: Path) -> Path:
    """The place of the checkpoint before the last."""
    return folder.with_name(folder.name + ".old")


def remove(folder: Path) -> None:
    """Remove the checkpoint in ``folder``, and the one before it."""
    for name in (folder.name, folder.name + ".old", folder.name + ".new"):
        shutil.rmtree(folder.with_name(name), ignore_errors=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors: ``PARAMETER.NAME``. If processes divide it, every process calls this."""
    states = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": sharding.whole(value) for index, state in states.items() for name, value in state.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Restore the result of :func:`optimizer_state`."""
    whole = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in flat.items():
        index, _, name = key.partition(".")
        whole["state"].setdefault(int(index), {})[name] = sharding.like(value, parameters[int(index)])
    optimizer.load_state_dict(whole)
