"""How a student was reduced, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.mechanisms.cutting import doubts, sentences
from tutelage.mechanisms.reduction.sizes import NAMES
from tutelage.report.section import Column, Row, Section, Table


def terminal(stage: str, record: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal, at the end of the stage."""
    return [f"stage {stage}: {summary(record)}", *(f"note: {note}" for note in doubts(record))]


def summary(record: Mapping[str, Any]) -> str:
    """The sizes that are left, in one sentence."""
    whole, final = record["sizes"][0], record["sizes"][-1]
    left = [f"{final[name]:,} of {whole[name]:,} {words}" for name, words in _removed(record).items()]
    return f"{', '.join(left)} are left" if left else "nothing was removed"


def section(record: Mapping[str, Any]) -> Section:
    """The student's sizes by step."""
    names = _removed(record)
    rows = [
        Row(name=f"{step:,}", cells=[f"{sizes[name]:,}" for name in names])
        for step, sizes in zip(record["steps"], record["sizes"], strict=True)
    ]
    return Section(
        title="How the student was reduced",
        paragraphs=[f"{summary(record)}."],
        table=Table(
            caption="Sizes of the student during training",
            head="after step",
            columns=[Column(title=words) for words in names.values()],
            rows=rows,
        ),
        notes=sentences(doubts(record)),
    )


def _removed(record: Mapping[str, Any]) -> dict[str, str]:
    whole, final = record["sizes"][0], record["sizes"][-1]
    return {name: words for name, words in NAMES.items() if final[name] < whole[name]}
