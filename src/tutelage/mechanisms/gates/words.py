"""What gates have left of a student, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.mechanisms.cutting import doubts, sentences
from tutelage.report.section import Column, Row, Section, Table

MISSED = 0.05
"""Share of the target by which gates and student may miss it without a note."""


def terminal(stage: str, record: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal, at the end of the stage."""
    layers = record["layers"]
    heads, neurons = (" ".join(row) for row in zip(*(_numbers(layer) for layer in layers), strict=True))
    return [
        f"stage {stage}: {summary(record)}",
        f"  heads by layer    {heads}",
        f"  neurons by layer  {neurons}",
        f"  hidden size       {record['hidden']:,} of {record['of_hidden']:,}",
        *(f"note: {note}" for note in notes(record)),
    ]


def summary(record: Mapping[str, Any]) -> str:
    """The target and what is reached, in one sentence."""
    whole = len(record["layers"])
    kept = sum(1 for layer in record["layers"] if layer["heads"] or layer["neurons"])
    return (
        f"{record['reached']:.1%} of the {record['of']} of heads and neurons are left (target {record['target']:.1%}), in {kept} "
        f"of {whole} layers"
    )


def notes(record: Mapping[str, Any]) -> list[str]:
    """Reasons to doubt that the student is what it was to be."""
    found = []
    room = MISSED * record["target"]
    if abs(record["expected"] - record["target"]) > room:
        much = record["expected"] > record["target"]
        found.append(
            f"the gates would leave {record['expected']:.1%} and more were {'closed' if much else 'opened'} at once; "
            f"give the stage more epochs{', or a larger gates.rate' if much else ''}"
        )
    if abs(record["reached"] - record["target"]) > room:
        found.append("the student misses its target, which lies between two sizes of whole blocks; try another share")
    return found + doubts(record)


def _numbers(layer: Mapping[str, Any]) -> tuple[str, str]:
    return str(len(layer["heads"])), str(layer["neurons"])


def section(record: Mapping[str, Any]) -> Section:
    """What is left of each of the teacher's layers."""
    rows = []
    for number, layer in enumerate(record["layers"], start=1):
        gone = "" if layer["heads"] or layer["neurons"] else "removed"
        heads = f"{len(layer['heads'])} of {layer['of_heads']}"
        neurons = f"{layer['neurons']:,} of {layer['of_neurons']:,}"
        rows.append(Row(name=str(number), cells=[heads, ", ".join(map(str, layer["heads"])) or gone, neurons]))
    return Section(
        title="What is left",
        paragraphs=[
            f"{summary(record)}.",
            f"Hidden states have {record['hidden']:,} of the teacher's {record['of_hidden']:,} coordinates.",
        ],
        table=Table(
            caption="Heads and neurons that are left",
            head="layer of the teacher",
            columns=[Column(title="heads"), Column(title="which", align="text"), Column(title="neurons")],
            rows=rows,
        ),
        notes=sentences(notes(record)),
    )
