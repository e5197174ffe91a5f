"""Which teacher layer teaches which student layer.

A mapping is a list of pairs ``(student layer, teacher layer)``; layers count from 1, and 0 is the embedding output. In a mapping
of many to one, or of many to many, a layer is in several pairs; :mod:`tutelage.objectives.mappers` makes one target of them.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from tutelage.errors import TutelageError
from tutelage.fields import Layer

Strategy = Literal["origin", "uniform", "top", "bottom", "skip", "last", "final", "gcd"]
Mapping = Strategy | list[Layer]
Layout = Literal["all", "regular", "overlapping", "skipping", "crossed"]
Pairs = list[tuple[int, int]]


def half_up(numerator: int, denominator: int) -> int:
    """``numerator / denominator`` rounded, halves up (Python's ``round`` takes 2.5 to 2)."""
    return (2 * numerator + denominator) // (2 * denominator)


def spread(count: int, depth: int) -> list[int]:
    """``count`` layers (from 1) spread evenly over ``depth``, first and last included: DistilBERT's choice.

    12 -> 6 gives 1, 3, 5, 8, 10, 12: the reference's 0, 2, 4, 7, 9, 11 counted from 1.
    """
    if count == 1:
        return [1]
    return [1 + half_up(i * (depth - 1), count - 1) for i in range(count)]


def pairs(mapping: Mapping, student_layers: int, teacher_layers: int) -> Pairs:
    """The pairs of a mapping for a student of ``M`` and a teacher of ``N`` layers.

    * ``uniform``: m -> m N / M; ``top``: m -> m + N - M; ``bottom``: m -> m (TinyBERT, section 3.1 and table 4)
    * ``skip``: m -> m N / M and ``last``: m -> N - M + m, both without the student's last layer (BERT-PKD)
    * ``final``: the last layer only
    * ``origin``: of a student that is not copied ``uniform``; of one that is, a run gives the list of :func:`of_origin`
    * ``gcd``: where layers of both end at the same share of the depth, without the last: with ``g = gcd(M, N)``, k M / g ->
      k N / g for k < g (all tables of Pea-KD's code); none for depths without a common divisor
    * a list: the teacher layer of each student layer in turn; 0 leaves a student layer without one

    Raises:
        TutelageError: for a student deeper than its teacher, a list of another length, a layer that does not exist.
    """
    m, n = student_layers, teacher_layers
    if isinstance(mapping, list):
        if len(mapping) != m:
            raise TutelageError(
                f"the mapping {mapping} names {len(mapping)} teacher layers but the student has {m} layers; give {m}"
            )
        for layer in mapping:
            if not 0 <= layer <= n:
                raise TutelageError(
                    f"the mapping {mapping} asks for teacher layer {layer}, but the teacher has layers 1 to {n}"
                )
        return [(s, t) for s, t in enumerate(mapping, start=1) if t]
    if mapping == "final":
        return [(m, n)]
    if mapping == "gcd":
        g = math.gcd(m, n)
        return [(k * m // g, k * n // g) for k in range(1, g)]
    if m > n:
        raise TutelageError(
            f"the mapping {mapping!r} needs a teacher at least as deep as the student, but the student has {m} layers "
            f"and the teacher {n}; give the teacher layer of each student layer as a list"
        )
    if mapping in ("uniform", "origin"):
        return [(i, half_up(i * n, m)) for i in range(1, m + 1)]
    if mapping == "top":
        return [(i, i + n - m) for i in range(1, m + 1)]
    if mapping == "bottom":
        return [(i, i) for i in range(1, m + 1)]
    if mapping == "skip":
        return [(i, half_up(i * n, m)) for i in range(1, m)]
    return [(i, n - m + i) for i in range(1, m)]


def in_words(mapping: Mapping) -> str:
    """A mapping as tables name it; of a list the teacher's layers, and of a single pair of equal numbers ``layer 3``."""
    if isinstance(mapping, str):
        return mapping
    taught = [(s, t) for s, t in enumerate(mapping, start=1) if t]
    if len(taught) == 1 and taught[0][0] == taught[0][1]:
        return f"layer {taught[0][0]}"
    return "layers " + " ".join(map(str, mapping))


def of_origin(layers: list[int], teacher_layers: int) -> list[int]:
    """The teacher layer of each layer of a student that is made of the teacher's ``layers``: the one that it was copied from. The
    last is paired with the teacher's last, after which the head was learnt."""
    return [*layers[:-1], teacher_layers]


def topmost(
    count: int | None, top: int, student_layers: int, teacher_layers: int, rounding: Literal["half_up", "half_even"]
) -> Pairs:
    """The pairs of the student's ``count`` topmost layers (``None``: all, and the embedding output), highest last.

    Student layer ``m`` of ``M`` is paired with teacher layer ``m top / M``, so that the student's last layer imitates
    ``top`` (Liu et al. 2021). ``half_even`` rounds as the authors' code does.

    Raises:
        TutelageError: for a top or a number of pairs that these models do not have.
    """
    m, n = student_layers, teacher_layers
    if not 1 <= top <= n:
        raise TutelageError(f"top={top} is no layer of the teacher; it has layers 1 to {n}")
    if count is not None and count > m + 1:
        raise TutelageError(
            f"{count} pairs of layers are wanted, but a student of {m} layers has {m + 1} (with the embedding output); "
            "use fewer, or all"
        )
    first = 0 if count is None else m - count + 1
    return [(i, half_up(i * top, m) if rounding == "half_up" else round(i * top / m)) for i in range(first, m + 1)]


def grouped(layout: Layout, student_layers: int, teacher_layers: int) -> Pairs:
    """Several teacher layers for each of ``M`` student layers, as pairs: student layers in turn, each with its group, ascending.

    * ``all``: all ``N`` teacher layers for each student layer (ALP-KD)
    * ``regular``: consecutive blocks, of ``N / M`` layers each where that is a whole number
    * ``overlapping``: a block, and the first layer of the next
    * ``skipping``: a block without its last layer, unless that is its only one
    * ``crossed``: every M-th layer: student layer m has m, m + M, m + 2 M, ... (CKD has the last four)

    Raises:
        TutelageError: for a student deeper than its teacher.
    """
    m, n = student_layers, teacher_layers
    if m > n:
        raise TutelageError(
            f"layers={layout!r} needs a teacher at least as deep as the student, but the student has {m} layers and the teacher "
            f"{n}; use a student of at most {n} layers"
        )
    ends = [half_up(i * n, m) for i in range(m + 1)]
    groups: list[range] = []
    for i, (before, end) in enumerate(pairwise(ends), start=1):
        groups.append(
            {
                "all": range(1, n + 1),
                "regular": range(before + 1, end + 1),
                "overlapping": range(before + 1, min(end + 1, n) + 1),
                "skipping": range(before + 1, max(end - 1, before + 1) + 1),
                "crossed": range(i, n + 1, m),
            }[layout]
        )
    return [(s, t) for s, group in enumerate(groups, start=1) for t in group]


def picture(mapped: Pairs, student_layers: int, teacher_layers: int) -> str:
    """The mapping as text, the teacher's layers in a row above the student layers that they teach. Where a teacher layer teaches
    several, each student layer has a line with its teacher layers."""
    if len({t for _, t in mapped}) < len(mapped):
        groups = {s: [str(t) for other, t in mapped if other == s] for s, _ in mapped}
        return "\n".join(f"student {s:>2} from teacher {', '.join(group)}" for s, group in groups.items())
    taught = {t: s for s, t in mapped}
    width = max(3, len(str(max(teacher_layers, student_layers))) + 1)
    top = "".join(str(t).rjust(width) for t in range(teacher_layers + 1))
    middle = "".join(("|" if t in taught else "").rjust(width) for t in range(teacher_layers + 1))
    bottom = "".join((str(taught[t]) if t in taught else "").rjust(width) for t in range(teacher_layers + 1))
    return "\n".join([f"teacher {top}", f"        {middle}".rstrip(), f"student {bottom}".rstrip()])
