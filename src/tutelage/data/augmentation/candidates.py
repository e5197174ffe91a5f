"""Substitution candidates for the words of training texts: a table on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tutelage.artifacts import Manifest, new_folder, write_text
from tutelage.data.draws import hashes
from tutelage.errors import TutelageError

Context = Literal["masked_only", "masked_plus_original"]


class CandidatesManifest(Manifest):
    """Settings, counts and checksum of a table of candidates."""

    WHAT = "table of candidates"
    COMMAND = "tutelage augment"

    format: Literal[1] = 1
    tutelage: str
    """Version of the package."""
    proposer: str
    """Name of the language model."""
    vectors: str | None
    """Name of the word vectors, if any."""
    k: int
    """Candidates for each word, at most."""
    context: Context
    """What the proposer reads: the masked text, or also the original text."""
    filtered: bool
    """Whether stop words, punctuation and the word itself are left out."""
    texts: int
    """Number of texts."""
    words: int
    """Number of words with candidates."""
    strings: int
    """Number of distinct candidates."""
    sha256: str
    """Checksum of the table's content."""


@dataclass(frozen=True)
class Candidates:
    """Substitution candidates for the words of each text. Texts are looked up by content, so the data may be re-ordered.

    Stored as a folder with ``manifest.json``, ``candidates.safetensors`` and ``strings.json``.
    """

    manifest: CandidatesManifest
    texts: npt.NDArray[np.uint64]
    """``(texts,)``: hashes of the texts, ascending."""
    offsets: npt.NDArray[np.int64]
    """``(texts + 1,)``: text ``i`` has the words ``offsets[i]`` to ``offsets[i + 1] - 1``, in reading order."""
    spans: npt.NDArray[np.int32]
    """``(words, 2)``: start and end of a word in characters; the end is exclusive."""
    choices: npt.NDArray[np.int32]
    """``(words, k)``: indices into ``strings``, best first; -1 if a word has fewer candidates."""
    strings: Sequence[str]

    @classmethod
    def load(cls, folder: Path | str) -> Candidates:
        """Read a table.

        Raises:
            TutelageError: if the folder holds no table, or its checksum differs.
        """
        folder = Path(folder)
        manifest = CandidatesManifest.read(folder)
        try:
            strings = json.loads((folder / "strings.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "candidates.safetensors")
            if checksum(arrays, strings) != manifest.sha256:
                raise ValueError("it is not as it was written")
        except (OSError, ValueError, SafetensorError) as error:
            raise CandidatesManifest.damaged(folder, str(error)) from None
        return cls(manifest, **arrays, strings=strings)

    def save(self, folder: Path | str) -> None:
        """Write the table; ``folder`` appears only when it is complete.

        Raises:
            TutelageError: if ``folder`` exists or cannot be written.
        """
        with new_folder(folder) as partial:
            save_file(self._arrays, partial / "candidates.safetensors")
            write_text(partial / "strings.json", json.dumps(list(self.strings), ensure_ascii=False))
            self.manifest.write(partial)

    @property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {name: getattr(self, name) for name in ("texts", "offsets", "spans", "choices")}

    def locate(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """``(n,)``: the table's row of each text.

        Raises:
            TutelageError: if a text is not in the table.
        """
        wanted = hashes(texts)
        rows = np.searchsorted(self.texts, wanted)
        missing = np.flatnonzero(np.append(self.texts, np.uint64(0))[rows] != wanted)
        if len(missing):
            raise TutelageError(
                f"the table of candidates lacks {len(missing):,} of {len(texts):,} texts (the first is "
                f"{texts[missing[0]][:60]!r}); write a table for these data with tutelage augment"
            )
        return rows

    def of(self, text: str) -> dict[str, list[str]]:
        """The words of a text with their candidates, for inspection. A repeated word is shown once."""
        row = int(self.locate([text])[0])
        words = range(self.offsets[row], self.offsets[row + 1])
        return {
            text[slice(*self.spans[word])]: [self.strings[i] for i in self.choices[word] if i >= 0] for word in words
        }


def checksum(arrays: dict[str, npt.NDArray[Any]], strings: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(strings)).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
