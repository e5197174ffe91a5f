"""What a student with inherited weights kept of its teacher: the report's data, words and section."""

from __future__ import annotations

from tutelage.report.mechanisms import BaselineWords
from tutelage.report.section import Block, Column, Row, Section, Table

BASELINE = BaselineWords(
    heading="Sliced teacher",
    row="slices of the teacher",
    model="slices of the teacher, as large as the student",
    reaches="slices of the teacher reach",
    effect="inheriting weights",
)

PLACES = {
    "residual": "Residual stream",
    "attention": "Attention",
    "intermediate": "Feed-forward",
    "pooler": "Pooler",
    "head": "Head",
}


class KeptUnits(Block):
    """Coordinates that the student kept in one place."""

    of: int
    """How many the teacher has."""
    kept: list[int]
    """Indices, from 0."""


class InheritedEntry(Block):
    """What a student with inherited weights kept of its teacher."""

    kept: dict[str, KeptUnits]
    """By place."""
    largest_masked: float
    """Largest norm of a removed row; 0 if pruning was complete."""
    cut: bool
    """Whether the masked coordinates were removed before the stage ended."""
    difference: float
    """Largest change of a logit when the compactors were multiplied out."""
    largest_logit: float
    """Largest absolute logit of the same inputs."""


def section(entry: InheritedEntry) -> Section:
    """How many coordinates a student with inherited weights kept, by place."""
    rows = []
    for place, name in PLACES.items():
        groups = [group for key, group in entry.kept.items() if key.partition("_")[0] == place]
        if groups:
            layers = f", each of {len(groups)} layers" if place in ("attention", "intermediate") else ""
            rows.append(Row(name=name + layers, cells=[f"{len(groups[0].kept):,} of {groups[0].of:,}"]))
    return Section(
        title="Inherited weights",
        table=Table(
            caption="Coordinates of the teacher that the student keeps.",
            head="Place",
            columns=[Column(title="Kept", strong=True)],
            rows=rows,
        ),
        notes=[
            f"Multiplying out the compactors changed no logit by more than {entry.difference:.1e} (largest logit: "
            f"{entry.largest_logit:.3g}). The largest removed row had norm {entry.largest_masked:.1g}. report.json lists the "
            "coordinates that were kept."
        ],
    )
