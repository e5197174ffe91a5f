"""Examples with their encodings for the student and, if its tokenizer differs, for the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tutelage.data.examples import Encoded, Examples, Rows


@dataclass
class Texts:
    """One split of the data: examples, their encoding for the student, and for the teacher if that differs."""

    examples: Examples
    student: Encoded
    teacher: Encoded | None

    def at(self, rows: Rows) -> Texts:
        """The examples ``rows``, with all their windows."""

        def taken(encoded: Encoded) -> Encoded:
            read, of = rows_of(encoded, rows)
            part = encoded.take(read)
            return part if part.windows is None else replace(part, windows=replace(part.windows, of=of))

        teacher = None if self.teacher is None else taken(self.teacher)
        return Texts(self.examples.take(rows), taken(self.student), teacher)


def same_pieces(ours: Encoded, theirs: Encoded, kept: npt.NDArray[np.int64] | None) -> bool:
    """Whether a student and its teacher read the same pieces, numbered anew in the student's vocabulary if it is trimmed."""
    return np.array_equal(ours.offsets, theirs.offsets) and all(
        np.array_equal(one.tokens if kept is None else kept[one.tokens], other.tokens)
        for one, other in zip(ours.pieces(), theirs.pieces(), strict=True)
    )


def rows_of(encoded: Encoded, examples: Rows) -> tuple[Rows, Rows]:
    """The rows (windows) of ``encoded`` that belong to ``examples``, and for each row its index in ``examples``."""
    if encoded.windows is None:
        return examples, np.arange(len(examples))
    of = encoded.windows.of
    first, last = np.searchsorted(of, examples), np.searchsorted(of, examples, side="right")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return rows, np.repeat(np.arange(len(examples)), last - first)
