"""Examples with their encodings for the student and, where it differs, for the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tutelage.data.examples import Encoded, Examples, Rows


@dataclass
class Texts:
    """One part of the data as the student reads it, and as the teacher does where that differs."""

    examples: Examples
    student: Encoded
    teacher: Encoded | None

    def at(self, rows: Rows) -> Texts:
        """The examples at ``rows``, with all the windows in which they are read."""

        def taken(encoded: Encoded) -> Encoded:
            read, of = rows_of(encoded, rows)
            part = encoded.take(read)
            return part if part.windows is None else replace(part, windows=replace(part.windows, of=of))

        teacher = None if self.teacher is None else taken(self.teacher)
        return Texts(self.examples.take(rows), taken(self.student), teacher)


def rows_of(encoded: Encoded, examples: Rows) -> tuple[Rows, Rows]:
    """Where ``encoded`` has these examples: its rows, all windows of each, and of which of ``examples`` each row is."""
    if encoded.windows is None:
        return examples, np.arange(len(examples))
    of = encoded.windows.of
    first, last = np.searchsorted(of, examples), np.searchsorted(of, examples, side="right")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return rows, np.repeat(np.arange(len(examples)), last - first)
