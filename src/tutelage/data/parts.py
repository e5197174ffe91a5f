"""Parts of a training set, which are the same in every run."""

from __future__ import annotations

import numpy as np

from tutelage.data.examples import Examples, Rows, content
from tutelage.data.labels import strata


def part_of(examples: Examples, parts: int) -> Rows:
    """``(n,)``: in which part (from 1) each example is, drawn with seed 0. Equal texts are in one part, so that a model of the
    others has not seen them; but for such, parts differ by one example at most, of each class too."""
    _, first, text_of = np.unique(content(examples), return_index=True, return_inverse=True)
    order = np.random.default_rng([0, 0xF01D]).permutation(len(first))
    order = order[np.argsort(strata(examples.labels)[first][order], kind="stable")]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) % parts + 1
    return found[text_of]


def held_part(count: int) -> tuple[int, int]:
    """``(k, n)``: the part of a training set of ``count`` on which a team's weights are learnt, and its teachers compared: a
    tenth, but about 300 to 2,000 examples, and at most a fifth. Its teachers must not have learnt from it."""
    return 1, max(5, round(count / min(max(0.1 * count, 300), 2000)))
