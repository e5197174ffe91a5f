"""Save and load the state of a run: atomically, as safetensors and JSON only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Any]
"""Plain values by name. A name that ends in ``.safetensors`` holds a dictionary of tensors."""


def save(folder: Path, state: State) -> None:
    """Replace the checkpoint in ``folder``. After a crash at any point, the old or the new checkpoint can be loaded."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    plain = {}
    for name, value in state.items():
        if name.endswith(".safetensors"):
            # Cloned: safetensors refuses tensors that share memory (tied weights).
            save_file({key: tensor.detach().cpu().clone() for key, tensor in value.items()}, fresh / name)
        else:
            plain[name] = value
    (fresh / "state.json").write_text(json.dumps(plain), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> State | None:
    """The checkpoint in ``folder``, or ``None``."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.json").exists():
            state: State = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
            for path in candidate.glob("*.safetensors"):
                state[path.name] = load_file(path)
            return state
    return None


def remove(folder: Path) -> None:
    for name in (folder.name, folder.name + ".old", folder.name + ".new"):
        shutil.rmtree(folder.with_name(name), ignore_errors=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors: ``PARAMETER.NAME``."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Restore the result of :func:`optimizer_state`."""
    whole = optimizer.state_dict()
    for key, value in flat.items():
        index, _, name = key.partition(".")
        whole["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(whole)
