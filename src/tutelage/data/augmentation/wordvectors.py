"""Word vectors (GloVe, word2vec) and nearest neighbours."""

from __future__ import annotations

import gzip
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tutelage.errors import TutelageError

LIMIT = 100_000
"""Rows to read. These files are sorted by frequency; the tail is mostly misspellings and names."""


_SCORES = 2**24
"""Cosine similarities in memory at once."""


class WordVectors:
    """Words and their vectors."""

    def __init__(self, words: Sequence[str], vectors: npt.NDArray[Any], name: str = "word vectors") -> None:
        """Normalise ``vectors`` ``(n, d)`` of the n ``words``; words with a zero vector are dropped.

        Raises:
            TutelageError: if the shapes do not match or a value is not finite.
        """
        table = np.asarray(vectors, dtype=np.float32)
        if table.ndim != 2 or len(table) != len(words):
            raise TutelageError(
                f"{name}: {len(words)} words, but vectors of shape {table.shape}; each word needs one row"
            )
        if not np.isfinite(table).all():
            raise TutelageError(f"{name}: some values are not finite; download the file again")
        lengths = np.linalg.norm(table, axis=1)
        kept = np.flatnonzero(lengths).tolist()
        self.name = name
        self.words = [words[row] for row in kept]
        self.vectors = table[kept] / lengths[kept, None]
        """``(n, d)`` float32, rows of length 1."""
        self._row: dict[str, int] = {}
        self._folded: dict[str, list[int]] = {}
        for row, word in enumerate(self.words):
            self._row.setdefault(word, row)
            self._folded.setdefault(word.casefold(), []).append(row)

    @classmethod
    def read(cls, path: Path | str, limit: int | None = LIMIT) -> WordVectors:
        """Read the first ``limit`` rows (``None``: all) of a text or ``.npz`` file.

        A text file has lines of ``word number number ...``. It may be compressed (.gz) and may start with word2vec's header.
        An ``.npz`` file has two arrays: ``words`` (strings) and ``vectors``.

        Raises:
            TutelageError: if the file is missing or has another format.
        """
        path = Path(path)
        try:
            words, vectors = (_read_npz if path.suffix == ".npz" else _read_text)(path, limit)
        except UnicodeDecodeError:
            raise TutelageError(f"{path} is not UTF-8 text; give word vectors as text or .npz") from None
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise TutelageError(f"{path} cannot be read ({error}); give a file of word vectors") from None
        return cls(words, vectors, path.name)

    def neighbours(
        self,
        words: Sequence[str],
        k: int,
        allowed: npt.NDArray[np.bool_] | None = None,
        device: torch.device | str = "cpu",
    ) -> list[list[str]]:
        """The ``k`` nearest words of each of ``words`` (or fewer), by descending cosine; none for a word without a vector.

        A word is looked up as written, then in lower case, then without accents. It is never its own neighbour.
        ``allowed`` ``(n,)``: which of :attr:`words` may be neighbours (default: all).
        """
        rows = [self._find(word) for word in words]
        known = [place for place, row in enumerate(rows) if row >= 0]
        result: list[list[str]] = [[] for _ in words]
        count = min(k, len(self.words))
        table = torch.from_numpy(self.vectors).to(device)
        forbidden = None if allowed is None else torch.from_numpy(~allowed).to(device)
        step = max(1, _SCORES // max(1, len(self.words)))
        for start in range(0, len(known), step):
            places = known[start : start + step]
            with torch.autocast(table.device.type, enabled=False):  # the caller's is for the language model
                scores = table[[rows[place] for place in places]] @ table.T
            if forbidden is not None:
                scores.masked_fill_(forbidden, -torch.inf)
            same = [self._folded[self.words[rows[place]].casefold()] for place in places]
            own = torch.tensor([(i, row) for i, group in enumerate(same) for row in group], device=device)
            scores[own[:, 0], own[:, 1]] = -torch.inf
            values, found = (part.cpu().numpy() for part in scores.topk(count, dim=1))
            for place, value, near in zip(places, values, found, strict=True):
                result[place] = [self.words[row] for row in near[np.isfinite(value)]]
        return result

    def _find(self, word: str) -> int:
        lower = word.lower()
        plain = "".join(c for c in unicodedata.normalize("NFD", lower) if not unicodedata.combining(c))
        return next((self._row[form] for form in (word, lower, plain) if form in self._row), -1)


def _read_npz(path: Path, limit: int | None) -> tuple[list[str], npt.NDArray[Any]]:
    try:
        archive: Any = np.load(path, allow_pickle=False)
    except ValueError:
        raise TutelageError(f"{path} is not an .npz file; write one with np.savez") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise TutelageError(f"{path} is a single array; give an .npz with 'words' and 'vectors'")
    with archive:
        if missing := {"words", "vectors"} - set(archive.files):
            raise TutelageError(f"{path} lacks {' and '.join(sorted(missing))}; it contains {', '.join(archive.files)}")
        try:
            words, vectors = archive["words"][:limit], archive["vectors"][:limit]
        except ValueError:  # an array of objects, which would need pickle
            words = vectors = np.empty(0, dtype=object)
    if words.dtype.kind != "U" or vectors.dtype.kind != "f":
        raise TutelageError(
            f"{path}: 'words' must be an array of strings (np.array(words, dtype=str)) and 'vectors' an array of floats"
        )
    return words.tolist(), vectors


def _read_text(path: Path, limit: int | None) -> tuple[list[str], npt.NDArray[Any]]:
    """Parse lines from the right, at ASCII spaces: some of GloVe's words contain spaces of several kinds."""
    words: list[str] = []
    vectors: list[npt.NDArray[np.float32]] = []
    dimension = _dimension(path)
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if len(words) == limit:
                break
            if number == 1 and _is_header(line):
                continue
            parts = line.rstrip("\n ").rsplit(" ", dimension)
            try:
                vector = np.array(parts[1:], dtype=np.float32)
            except ValueError:
                vector = np.empty(0, dtype=np.float32)
            if len(vector) != dimension:
                raise TutelageError(
                    f"{path}, line {number}: not a word and {dimension} numbers; download the file again"
                )
            words.append(parts[0])
            vectors.append(vector)
    return words, np.stack(vectors)


def _opened(path: Path) -> Any:
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")


def _is_header(line: str) -> bool:
    return len(line.split()) == 2 and all(part.isdigit() for part in line.split())


def _dimension(path: Path) -> int:
    """Numbers per line. A space inside a word only adds fields, so the shortest of the first lines determines it."""
    with _opened(path) as file:
        lines = [line for line, _ in zip(file, range(100), strict=False)]
    if lines and _is_header(lines[0]):
        lines = lines[1:]
    fields = [len(line.rstrip("\n ").split(" ")) for line in lines]
    if not fields or min(fields) < 3:
        raise TutelageError(f"{path} is not a file of word vectors; each line must be a word and its numbers")
    return min(fields) - 1
