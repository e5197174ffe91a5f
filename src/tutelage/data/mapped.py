"""Arrays and texts that are written to a file when they become large, and read through a map of it.

Pages of a mapped file are read when they are used, and the system takes them back when it needs memory. The file has no name:
the system removes it when the process ends, whatever ends it.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

IN_MEMORY = 2**26
"""Bytes up to which an array or a column of texts stays in memory. The program itself takes some five times as much, so that a
smaller limit would save little; a data set of ordinary benchmarks is never written to a file."""

STRING = 57
"""Bytes of a string of Python and of its place in a list, beside its characters."""

AT_ONCE = 256
"""Texts that are read at once from a file."""


def temporary_folder() -> str | None:
    """The folder for large temporary files: ``$TMPDIR``, else ``/var/tmp`` (``/tmp`` may lie in memory); ``None``: the system's."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)


def _file() -> IO[bytes]:
    with _room():
        return tempfile.TemporaryFile(dir=temporary_folder())  # the caller closes it


@contextmanager
def _room() -> Iterator[None]:
    """Name the folder in what the disk says."""
    try:
        yield
    except OSError as error:
        raise _named(error) from None


def _named(error: OSError) -> OSError:
    where = temporary_folder() or tempfile.gettempdir()
    why = f"{error.strerror}: large texts and tokens lie in {where}; set TMPDIR to a folder with room"
    return OSError(error.errno, why, where)


def _map_of(file: IO[bytes], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """What was written to a file, as an array that cannot be changed; the file may be closed."""
    if not file.tell():
        return np.empty(0, dtype)
    file.flush()
    return np.asarray(np.memmap(file, dtype, mode="r"))


class Spool:
    """An array that is made piece by piece: numbers, or rows of the shape ``row``."""

    def __init__(self, dtype: npt.DTypeLike, *row: int) -> None:
        self._empty = np.empty((0, *row), dtype)
        self._parts: list[npt.NDArray[Any]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, part: npt.NDArray[Any]) -> None:
        """Append a piece of the array's type.

        Raises:
            OSError: the disk refuses.
        """
        self._parts.append(part)
        self._bytes += part.nbytes
        if self._bytes > IN_MEMORY:
            if self._file is None:
                self._file = _file()
            with _room():
                for waiting in self._parts:
                    self._file.write(np.ascontiguousarray(waiting).data)
            self._parts.clear()

    def done(self) -> npt.NDArray[Any]:
        """All pieces as one array; a map of a file where it is large. To be called once."""
        if self._file is not None:
            with self._file as file, _room():
                return _map_of(file, self._empty.dtype).reshape(-1, *self._empty.shape[1:])
        return self._parts[0] if len(self._parts) == 1 else np.concatenate([self._empty, *self._parts])


class MappedTexts(Sequence[str]):
    """Texts in a mapped file, one after another in UTF-8: text ``i`` has the bytes ``starts[i]`` to ``stops[i]``. A slice is a
    list."""

    def __init__(self, content: memoryview, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        self._content, self._starts, self._stops = content, starts, stops

    @classmethod
    def of(cls, texts: Iterable[str]) -> MappedTexts:
        """Write texts to a file.

        Raises:
            OSError: the disk refuses.
        """
        ends = array("q", [0])
        with _file() as file:
            for text in texts:  # what reading them raises is not said of the temporary file
                content = text.encode("utf-8", "surrogatepass")
                try:
                    ends.append(ends[-1] + file.write(content))
                except OSError as error:
                    raise _named(error) from None
            with _room():
                mapped = _map_of(file, np.uint8).data
        places = np.frombuffer(ends, dtype=np.int64)
        return cls(mapped, places[:-1], places[1:])

    def take(self, rows: npt.NDArray[np.int64] | Sequence[int]) -> MappedTexts:
        """The texts at ``rows``, in that order; nothing is copied."""
        at = np.asarray(rows, dtype=np.int64)
        return MappedTexts(self._content, self._starts[at], self._stops[at])

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            places = zip(self._starts[at].tolist(), self._stops[at].tolist(), strict=True)
            return [str(self._content[start:stop], "utf-8", "surrogatepass") for start, stop in places]
        return str(self._content[self._starts[at] : self._stops[at]], "utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self[first : first + AT_ONCE] for first in range(0, len(self), AT_ONCE))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def held(texts: Iterable[str]) -> Sequence[str]:
    """Texts as a list; as a :class:`MappedTexts` where the list would be large.

    Raises:
        OSError: the disk refuses.
    """
    rest, found, size = iter(texts), list[str](), 0
    for text in rest:
        found.append(text)
        size += STRING + len(text)
        if size > IN_MEMORY:
            return MappedTexts.of(chain(found, rest))
    return found


def taken(texts: Sequence[str], rows: npt.NDArray[np.int64] | Sequence[int]) -> Sequence[str]:
    """The texts at ``rows``, in that order."""
    return texts.take(rows) if isinstance(texts, MappedTexts) else [texts[row] for row in rows]
