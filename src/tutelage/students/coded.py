"""Weights with few different values as a small file: the third step of Deep Compression (Han et al. 2016, arXiv:1510.00149).

A matrix of at most 256 different values is written as its values and, for each entry, which one it has, in a Huffman code. Where
many entries are 0 only the others are written, each with the number of zeros before it. All other tensors are written as they are.
The file is a safetensors file, so nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tutelage.artifacts import sync
from tutelage.errors import TutelageError
from tutelage.students import huffman
from tutelage.students.huffman import Bytes, Coded

FAR = 255
"""In the stream of distances: so many zeros, and no entry after them."""
MOST = 2**31
"""Most entries of all matrices that are read."""
_SAMPLE = 100_000


@dataclass(frozen=True)
class Matrix:
    """A matrix of few values: ``values[entries]`` in its place, or, with ``gaps``, only the entries that are not 0."""

    shape: tuple[int, ...]
    values: npt.NDArray[np.float32]
    entries: Coded
    gaps: Coded | None

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.entries.bytes + (0 if self.gaps is None else self.gaps.bytes)


def _parts(tensor: Tensor) -> tuple[npt.NDArray[np.float32], Bytes, Bytes] | None:
    """A matrix's values, the place of each entry's among them, and the distances of the entries that are not 0. None for other
    tensors."""
    if tensor.ndim < 2 or tensor.dtype != torch.float32 or not tensor.numel():
        return None
    flat = tensor.detach().cpu().numpy().reshape(-1)
    if len(np.unique(flat[:_SAMPLE])) > 256 or len(values := np.unique(flat)) > 256 or not np.isfinite(values).all():
        return None
    if np.signbit(flat[flat == 0]).any():  # -0 would become 0
        return None
    places = np.flatnonzero(flat)
    zeros = np.diff(places, prepend=-1) - 1
    far, rest = np.divmod(zeros, FAR)
    after = (len(flat) - 1 - (places[-1] if len(places) else -1)) // FAR
    gaps = np.full(int((far + 1).sum() + after), FAR, np.uint8)
    gaps[np.cumsum(far + 1) - 1] = rest
    return values, np.searchsorted(values, flat).astype(np.uint8), gaps


def _code_of(tensor: Tensor) -> tuple[npt.NDArray[np.float32], Bytes, Bytes] | None:
    """As :func:`_parts`, and None where the code is no smaller than the tensor."""
    parts = _parts(tensor)
    return None if parts is None or min(_sizes(*parts)) + parts[0].nbytes >= tensor.nbytes else parts


def has_few_values(tensor: Tensor) -> bool:
    """Whether a tensor is written in a code."""
    return _code_of(tensor) is not None


def _counts(symbols: Bytes) -> npt.NDArray[np.int64]:
    return np.bincount(symbols, minlength=256).astype(np.int64)


def _sizes(values: npt.NDArray[np.float32], entries: Bytes, gaps: Bytes) -> tuple[int, int]:
    """Bytes with all entries, and with those that are not 0."""
    counts = _counts(entries)
    others = np.where(np.append(values, np.zeros(256 - len(values), np.float32)) == 0, 0, counts)
    return huffman.coded_bytes(counts), huffman.coded_bytes(others) + huffman.coded_bytes(_counts(gaps))


def coded(tensor: Tensor) -> Matrix | None:
    """A matrix of few values in its code; None for other tensors."""
    if (parts := _code_of(tensor)) is None:
        return None
    values, entries, gaps = parts
    whole, sparse = _sizes(*parts)
    if whole <= sparse:
        return Matrix(tuple(tensor.shape), values, huffman.encode(entries), None)
    return Matrix(tuple(tensor.shape), values, huffman.encode(entries[values[entries] != 0]), huffman.encode(gaps))


def bytes_of(state: Mapping[str, Tensor]) -> int:
    """The bytes of the tensors in such a file, without writing it; one that occurs under several names counts once."""
    total = 0
    for tensor in {_identity(one): one for one in state.values()}.values():
        if (parts := _code_of(tensor)) is None:
            total += tensor.numel() * tensor.element_size()
        else:
            total += min(_sizes(*parts)) + parts[0].nbytes
    return total


def decoded(matrix: Matrix) -> Tensor:
    """The matrix, float32.

    Raises:
        ValueError: if its parts do not fit each other.
    """
    size = math.prod(matrix.shape)
    if not 0 < size <= MOST or not 0 < len(matrix.values) <= 256:
        raise ValueError("a tensor's size is not possible")
    entries = huffman.decode(matrix.entries)
    if len(entries) and int(entries.max()) >= len(matrix.values):
        raise ValueError("an entry has a value that there is not")
    if matrix.gaps is None:
        if len(entries) != size:
            raise ValueError("a tensor has another number of entries than its shape says")
        return torch.from_numpy(matrix.values[entries].reshape(matrix.shape))
    if size > FAR * (matrix.gaps.count + 1):
        raise ValueError("a tensor has more entries than its code")
    gaps = huffman.decode(matrix.gaps)
    places = np.cumsum(np.where(gaps == FAR, FAR, gaps.astype(np.int64) + 1))[gaps != FAR] - 1
    if len(places) != len(entries) or (len(places) and places[-1] >= size):
        raise ValueError("a tensor has other entries than its shape says")
    flat = np.zeros(size, np.float32)
    flat[places] = matrix.values[entries]
    return torch.from_numpy(flat.reshape(matrix.shape))


def write(state: Mapping[str, Tensor], path: Path) -> None:
    """Write the weights of a model, each tensor under one name."""
    tensors: dict[str, Tensor] = {}
    matrices: dict[str, Any] = {}
    for name, tensor in state.items():
        if (matrix := coded(tensor)) is None:
            tensors[name] = tensor
            continue
        matrices[name] = {"shape": matrix.shape}
        tensors[f"{name}|values"] = torch.from_numpy(matrix.values)
        for part, stream in (("entries", matrix.entries), ("gaps", matrix.gaps)):
            if stream is not None:
                matrices[name][part] = stream.count
                tensors[f"{name}|{part}|lengths"] = torch.from_numpy(stream.lengths)
                tensors[f"{name}|{part}|starts"] = torch.from_numpy(stream.starts.astype(np.int64))
                tensors[f"{name}|{part}|stream"] = torch.from_numpy(stream.stream)
    about = json.dumps({"coded": 1, "matrices": matrices})
    save_file(tensors, path, {"tutelage": about, "sha256": _checksum(tensors, about)})
    sync(path)


def bytes_in(tensor: Tensor) -> Tensor:
    """The bytes of a tensor ``(bytes,)``."""
    flat = tensor.contiguous().flatten()
    return flat.view(torch.uint8) if len(flat) else torch.zeros(0, dtype=torch.uint8)


def _identity(tensor: Tensor) -> tuple[int, torch.Size]:
    """Equal for tensors that are one, such as an embedding table and the output matrix that is tied to it."""
    return tensor.data_ptr(), tensor.shape


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + bytes_in(tensors[name]).numpy().tobytes())
    return digest.hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The weights in such a file.

    Raises:
        TutelageError: if the file is damaged, or is another one.
    """
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            about = json.loads(said.get("tutelage", "{}"))
            if about.get("coded") != 1:
                raise ValueError("it is not one that tutelage pack wrote")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _checksum(tensors, said["tutelage"]) != said["sha256"]:
            raise ValueError("it is not as it was written")
        state = {name: tensor for name, tensor in tensors.items() if "|" not in name}
        if sum(math.prod(map(_count, how["shape"])) for how in about["matrices"].values()) > MOST:
            raise ValueError("its matrices are larger than any model's")
        for name, how in about["matrices"].items():
            streams = {
                part: _stream(tensors, f"{name}|{part}", how[part]) for part in ("entries", "gaps") if part in how
            }
            values = tensors[f"{name}|values"].numpy()
            if values.dtype != np.float32 or values.ndim != 1:
                raise ValueError("values have another type than they should")
            matrix = Matrix(tuple(map(_count, how["shape"])), values, streams["entries"], streams.get("gaps"))
            state[name] = decoded(matrix)
        return state
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise TutelageError(f"{str(path)!r} cannot be read ({error}); write it again (tutelage pack)") from None


def _stream(tensors: Mapping[str, Tensor], name: str, count: Any) -> Coded:
    lengths, starts, stream = (tensors[f"{name}|{part}"].numpy() for part in ("lengths", "starts", "stream"))
    if lengths.dtype != np.uint8 or starts.dtype != np.int64 or stream.dtype != np.uint8 or (starts < 0).any():
        raise ValueError("a code has another type than it should")
    return Coded(_count(count), lengths, starts.astype(np.uint64), stream)


def _count(value: Any) -> int:
    """A size that a file names."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no size")
    return value
