"""Substitution candidates for the words of training texts, kept as a table on disk."""

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
    """What a table of candidates is."""

    WHAT = "table of candidates"
    COMMAND = "tutelage augment"

    format: Literal[1] = 1
    tutelage: str
    proposer: str
    """The language model's name."""
    vectors: str | None
    """The word vectors' name."""
    k: int
    context: Context
    filtered: bool
    texts: int
    words: int
    """That have candidates."""
    strings: int
    """Different candidates."""
    sha256: str
    """Of the table's content."""


@dataclass(frozen=True)
class Candidates:
    """For the words of each text, what may stand in their place. Texts are found by content, so any data may be looked up.

    On disk a folder: ``manifest.json``, ``candidates.safetensors`` and ``strings.json``.
    """

    manifest: CandidatesManifest
    texts: npt.NDArray[np.uint64]
    """``(texts,)``: hashes, rising."""
    offsets: npt.NDArray[np.int64]
    """``(texts + 1,)``: text ``i`` has the words ``offsets[i]`` to ``offsets[i + 1]``, in their order in the text."""
    spans: npt.NDArray[np.int32]
    """``(words, 2)``: first character of a word and the one after its last."""
    choices: npt.NDArray[np.int32]
    """``(words, k)``: places in ``strings``, the best first; -1 where a word has fewer."""
    strings: Sequence[str]

    @classmethod
    def load(cls, folder: Path | str) -> Candidates:
        """Read a table.

        Raises:
            TutelageError: when there is none, or it is not as it was written.
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
        """Write the table, whole or not at all.

        Raises:
            TutelageError: when something lies there already, or nothing can be written there.
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
            TutelageError: for a text that the table lacks.
        """
        wanted = hashes(texts)
        rows = np.searchsorted(self.texts, wanted)
        missing = np.flatnonzero(np.append(self.texts, np.uint64(0))[rows] != wanted)
        if len(missing):
            raise TutelageError(
                f"the table of candidates lacks {len(missing):,} of {len(texts):,} texts (the first is "
                f"{texts[missing[0]][:60]!r}); write one for these data"
            )
        return rows

    def of(self, text: str) -> dict[str, list[str]]:
        """The words of a text and their candidates, to look at; a word that occurs twice is shown once."""
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
