"""A section of a report's page as data: sentences, a table, facts, charts. It says what is shown; the page draws it.

The parts of the package build their sections from the report's blocks. Anything else, such as a mechanism in a user's own
file, puts its sections into ``report.json`` under ``sections`` and they appear on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Block(BaseModel):
    """A part of ``report.json``. Unknown fields are refused, and so are infinite numbers and NaN, for which JSON has no word."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Cell(Block):
    """A value in a table."""

    text: str
    below: str = ""
    """A second line."""
    style: Literal["plain", "best", "faint"] = "plain"


class Column(Block):
    """A column of a table."""

    title: str
    group: str = ""
    """Heading above this column and its neighbours of the same group."""
    align: Literal["number", "text"] = "number"
    """Numbers are aligned right, text is aligned left and may wrap."""
    strong: bool = False
    """Whether the column is set in bold."""

    @property
    def name(self) -> str:
        """The column's title, which stands for itself."""
        return f"{self.group}, {self.title}" if self.group else self.title


class Row(Block):
    """A row of a table."""

    name: str
    cells: list[str | Cell]
    """One for each column; an empty text leaves the cell empty."""
    lead: bool = False
    """Whether the row is set in bold."""
    style: int | None = None
    """Number of the line style that stands for this row in the section's charts."""
    title: str = ""
    """Shown when the pointer rests on the name."""


class Table(Block):
    """A table whose first column holds the names of the rows."""

    caption: str
    head: str
    """Heading of the first column."""
    columns: list[Column]
    rows: list[Row]
    searchable: bool = False
    """Whether a box above the table shows only the rows that contain what is typed."""

    @property
    def grouped(self) -> bool:
        """Whether columns have headings in common."""
        return any(column.group for column in self.columns)

    @property
    def heads(self) -> list[tuple[str, list[Column]]]:
        """The columns, neighbours of the same group together."""
        return [(group, list(columns)) for group, columns in groupby(self.columns, key=attrgetter("group"))]


class Fact(Block):
    """A name with its value, as in a list of settings."""

    name: str
    text: str = ""
    code: str = ""
    """Set in a fixed-width font, before ``text``."""


class Line(Block):
    """One line of a chart."""

    name: str = ""
    points: list[tuple[float, float]]
    style: int | None = 0
    """Line style, from 0 to 9; ``None`` is thin and grey."""


class LineChart(Block):
    """Lines over a common pair of axes. A legend names several lines and a level."""

    kind: Literal["lines"] = "lines"
    title: str
    summary: str
    """What the chart shows, in words, for readers who do not see it."""
    x: str
    """Label of the x axis."""
    y: str
    """Label of the y axis."""
    lines: list[Line]
    start: float = 0.0
    """Where the x axis begins."""
    mark: tuple[float, float] | None = None
    """A point that gets a ring."""
    level: float | None = None
    """Height of a dotted reference line."""
    level_name: str = ""
    zero: bool = True
    """Whether the y axis includes 0 where there are several lines or a level."""
    dots: bool = False
    """Whether every point gets a dot."""


class Bar(Block):
    """One bar of a chart."""

    name: str
    value: float
    text: str
    """The value as it is written beside the bar."""
    style: str = "student"
    """Colour: ``teacher``, ``student`` or ``baseline``."""


class BarChart(Block):
    """Horizontal bars on one scale that includes 0."""

    kind: Literal["bars"] = "bars"
    title: str
    bars: list[Bar]
    least: float = 0.0
    """The scale reaches at least this value."""


class LayerLinks(Block):
    """Which layers one kind of knowledge compares."""

    name: str
    pairs: list[tuple[int, int]]
    """Student layer and teacher layer; 0 is the embeddings."""


class LayerMap(Block):
    """The layers of student and teacher side by side, with a line between layers that are compared."""

    kind: Literal["layers"] = "layers"
    title: str
    student_layers: int
    teacher_layers: int
    links: list[LayerLinks]


Picture = Annotated[LineChart | BarChart | LayerMap, Field(discriminator="kind")]


class Section(Block):
    """A section of the page, drawn in this order; whatever is empty is left out.

    Example:
        >>> Section(title="Gates", paragraphs=["A gate closes a head."], facts=[Fact(name="Open heads", text="31 of 48")])
    """

    title: str
    paragraphs: list[str] = []
    table: Table | None = None
    remarks: list[str] = []
    """Sentences under the table."""
    items: list[str] = []
    """A bulleted list."""
    facts: list[Fact] = []
    pictures: Sequence[Picture] = []
    notes: list[str] = []
    """Small print at the end."""
    command: str = ""
    """A command line to copy."""

    @property
    def keys(self) -> bool:
        """Whether a chart has several lines and rows of the table show theirs."""
        styled = self.table is not None and any(row.style is not None for row in self.table.rows)
        return styled and any(isinstance(picture, LineChart) and len(picture.lines) > 1 for picture in self.pictures)
