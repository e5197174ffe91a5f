"""A model folder with its weights in a small code, and back (:mod:`tutelage.students.coded`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.anatomy.checkpoints import COMPANIONS, PACKED
from tutelage.artifacts import new_folder
from tutelage.errors import TutelageError
from tutelage.students import coded

WEIGHTS = "model.safetensors"


class Packed(BaseModel):
    """What packing a model saves."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    folder: str
    plain: int
    """Bytes of the plain weights."""
    packed: int
    """Bytes of the packed ones."""
    coded: int
    """Matrices of at most 256 different values, which are in a code."""
    tensors: int
    """All tensors."""

    def __fspath__(self) -> str:
        """The folder: the result stands for it."""
        return self.folder


def pack(model: Path, out: Path) -> Packed:
    """Write a model with its weights in a code into the new folder ``out``, and see that they are read as they were.

    Raises:
        TutelageError: if the folder holds no weights, or ``out`` cannot be written.
    """
    model = model / "student" if (model / "student" / WEIGHTS).is_file() else model
    file = model / WEIGHTS
    if not file.is_file():
        raise TutelageError(
            f"{str(model)!r} holds no {WEIGHTS}; give the folder of a run or of its student, with the weights in one file"
        )
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TutelageError(f"{str(file)!r} cannot be read ({error}); make the model again") from None
    with new_folder(out) as folder:
        _copy(model, folder)
        coded.write(state, folder / PACKED)
        again = coded.read(folder / PACKED)
        if not _equal(again, state):
            raise TutelageError(
                f"the weights of {str(model)!r} are not what they were when they are read; nothing is written"
            )
        packed = (folder / PACKED).stat().st_size
    return Packed(folder=str(out), plain=file.stat().st_size, packed=packed, coded=_coded(state), tensors=len(state))


def unpack(folder: Path, out: Path) -> Packed:
    """Make a plain checkpoint of a packed folder in the new folder ``out``.

    Raises:
        TutelageError: if it is no packed folder, or is damaged, or ``out`` cannot be written.
    """
    file = folder / PACKED
    if not file.is_file():
        raise TutelageError(f"{str(folder)!r} holds no packed weights ({PACKED}), which tutelage pack writes")
    state = coded.read(file)
    with new_folder(out) as place:
        _copy(folder, place)
        save_file(state, place / WEIGHTS, {"format": "pt"})
        plain = (place / WEIGHTS).stat().st_size
    return Packed(folder=str(out), plain=plain, packed=file.stat().st_size, coded=_coded(state), tensors=len(state))


def _copy(source: Path, target: Path) -> None:
    for file in (file for pattern in (*COMPANIONS, "README.md") for file in source.glob(pattern) if file.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether they are equal to the bit."""
    return set(one) == set(other) and all(
        tensor.shape == other[name].shape and torch.equal(coded.bytes_in(tensor), coded.bytes_in(other[name]))
        for name, tensor in one.items()
    )


def _coded(state: dict[str, Tensor]) -> int:
    return sum(coded.has_few_values(tensor) for tensor in state.values())
