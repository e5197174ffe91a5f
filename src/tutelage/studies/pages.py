"""Results as Markdown: templates, tables, paragraphs, and whether a claim holds."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.studies.study import interval, paired


def filled(template: Path, **values: Any) -> str:
    """A page made of a Markdown template with fields as in :meth:`str.format`.

    A block (between empty lines) that is one field is replaced by the lines of a list, or left out where it is empty. Paragraphs
    are wrapped again; headings, pictures, and commands (four spaces before them) are not.
    """
    blocks = []
    for block in template.read_text(encoding="utf-8").strip().split("\n\n"):
        value = values.get(block.strip("{}"))
        if isinstance(value, list):
            text = "\n".join(value).strip("\n")
        else:
            text = block.format_map(values)
            text = text if block.startswith(("#", "!", "    ")) else "\n".join(paragraph(text)).rstrip()
        blocks += [text] if text else []
    return "\n\n".join(blocks) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:], ""]


def tabled(columns: Mapping[str, str | Callable[[Any], str]], rows: Iterable[Any]) -> list[str]:
    """A table by columns: below each head a format string, filled with the row's fields, or what a function says of the row."""
    cells = [
        [cell.format_map(row) if isinstance(cell, str) else cell(row) for cell in columns.values()] for row in rows
    ]
    return table([*columns], cells)


def paragraph(text: str) -> list[str]:
    """The lines of a paragraph, at most 120 characters wide, and an empty one."""
    return [*textwrap.wrap(" ".join(text.split()), 120, break_on_hyphens=False), ""]


def shown(values: Sequence[float], sign: str = "", digits: int = 3) -> str:
    """``0.812 ± 0.013``: mean and half of the 95 % interval; the mean alone of one seed; ``-`` of none."""
    if not values:
        return "-"
    mean, half = interval(values)
    return f"{mean:{sign}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def judgement(differences: Sequence[float]) -> str:
    """Whether a claim that a difference is positive ``held``, ``did not hold`` or is ``inside the noise``."""
    mean, half = interval(differences)
    if half is None:
        return "one seed"
    return "inside the noise" if abs(mean) <= half else "held" if mean > 0 else "did not hold"


def judged(claim: str, differences: Sequence[float]) -> str:
    """A claim that a difference is positive, with what the seeds show; empty without any runs."""
    if not differences:
        return ""
    mean, half = interval(differences)
    if half is None:
        return f"{claim}: {mean:+.3f} in one seed, which says nothing about noise"
    return f"{claim}: {judgement(differences)} ({mean:+.3f} ± {half:.3f}, {len(differences)} seeds)"


def claims(found: Iterable[tuple[str, Sequence[float]]]) -> list[str]:
    """A list of the claims that have runs, each with its differences, as :func:`judged` says them."""
    return [f"* {line}" for claim, differences in found if (line := judged(claim, differences))]


def gain(ours: Mapping[int, float], theirs: Mapping[int, float], digits: int = 3) -> str:
    """The paired difference as a cell of a table."""
    return shown(paired(ours, theirs), "+", digits)


def named(scores: Mapping[str, float], digits: int = 4) -> str:
    """``accuracy 0.8123, f1 0.7901``."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in scores.items())


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def tally(differences: Mapping[str, Sequence[float]]) -> str:
    """How many differences are above and below their intervals, with their names."""
    found: dict[str, list[str]] = {}
    for name, values in differences.items():
        if values:
            found.setdefault(judgement(values), []).append(name)
    parts = []
    for key, words in (("held", "positive beyond the interval"), ("did not hold", "negative beyond the interval")):
        if key in found:
            parts.append(f"{_are(len(found[key]))} {words} ({listed(found[key])})")
    if noise := len(found.get("inside the noise", [])):
        parts.append(f"{_are(noise)} inside the noise")
    if single := len(found.get("one seed", [])):
        parts.append(f"{single} rest{'s' * (single == 1)} on one seed")
    return listed(parts)


def _are(count: int) -> str:
    return f"{count} is" if count == 1 else f"{count} are"
