"""The geometry of a section's pictures: bars, lines and layer maps. ``charts.html.jinja`` draws them.

All sizes are in the picture's units; a picture is 320 wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.report.section import BarChart, LayerLinks, LayerMap, Line, LineChart, Picture

Points = Sequence[tuple[float, float]]
MOST_POINTS = 240
"""Points of a line that are drawn."""
WIDTH = 320.0
BAR_HEIGHT = 46.0


@dataclass(frozen=True)
class PlacedBar:
    """One bar of a bar chart."""

    name: str
    text: str
    style: str
    y: float
    left: float
    width: float


@dataclass(frozen=True)
class Bars:
    """Horizontal bars on one scale."""

    title: str
    desc: str
    bars: list[PlacedBar]
    height: float
    kind: str = "bars"


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A line of a line chart; without a style it is thin and grey."""

    name: str
    style: int | None
    points: Points

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Lines:
    """A line chart; ``mark`` is a point with a ring, ``level`` the height of a dotted line."""

    title: str
    desc: str
    x_label: str
    y_label: str
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mark: tuple[float, float] | None
    level: float | None
    level_name: str
    dots: bool
    kind: str = "lines"
    left: float = 50.0
    right: float = 302.0
    top: float = 26.0
    bottom: float = 162.0
    height: float = 200.0

    @property
    def grey(self) -> int:
        """How many lines have no style of their own."""
        return sum(curve.style is None for curve in self.curves)


@dataclass(frozen=True)
class Layer:
    """A layer in a layer map."""

    y: float
    text: str
    used: bool


@dataclass(frozen=True)
class Link:
    """A line from a student layer to a teacher layer; ``style`` numbers the knowledge."""

    y1: float
    y2: float
    style: int


@dataclass(frozen=True)
class LayerDrawing:
    """The layers of student and teacher side by side, and the lines between."""

    title: str
    desc: str
    student: list[Layer]
    teacher: list[Layer]
    links: list[Link]
    legend: list[tuple[int, str]]
    height: float
    kind: str = "layers"

    @property
    def rows(self) -> int:
        """How many line charts are about as tall; at most 3."""
        return min(max(1, round((self.height + 60) / 260)), 3)


def drawing(picture: Picture) -> Bars | Lines | LayerDrawing:
    """The geometry of a picture."""
    if isinstance(picture, BarChart):
        return _bars(picture)
    return _layers(picture) if isinstance(picture, LayerMap) else lines(picture)


def thin(points: Points) -> Points:
    """At most ``MOST_POINTS`` points: neighbours are averaged, the first and the last stay."""
    if len(points) <= MOST_POINTS:
        return points
    inner, size = points[1:-1], math.ceil((len(points) - 2) / (MOST_POINTS - 2))
    groups = [inner[i : i + size] for i in range(0, len(inner), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [points[0], *means, points[-1]]


def nice(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _bars(chart: BarChart) -> Bars:
    values = [bar.value for bar in chart.bars]
    low, high = min(0.0, *values, 0.0), max(chart.least, *values, 1e-9)
    scale = WIDTH / (high - low)
    bars = [
        PlacedBar(
            bar.name,
            bar.text,
            bar.style,
            BAR_HEIGHT * i,
            (min(bar.value, 0.0) - low) * scale,
            max(abs(bar.value) * scale, 1.0),
        )
        for i, bar in enumerate(chart.bars)
    ]
    return Bars(chart.title, ", ".join(f"{bar.name} {bar.text}" for bar in bars), bars, BAR_HEIGHT * len(bars))


def lines(chart: LineChart) -> Lines:
    """A line chart: axes, ticks and the placed lines, grey ones below the others."""
    tracks = [(line, thin(line.points)) for line in sorted(chart.lines, key=_above) if line.points]
    heights = [y for _, points in tracks for _, y in points]
    if chart.level is not None:
        heights.append(chart.level)
    if not heights or (chart.zero and (len(chart.lines) > 1 or chart.level is not None)):
        heights.append(0.0)
    x_low = chart.start
    x_high = max([x for _, points in tracks for x, _ in points] + [x_low + 1])
    y_low, y_high = min(heights), max(heights)
    if y_high - y_low < 1e-9 * max(abs(y_high), 1e-9):
        # A level line goes through the middle.
        pad = abs(y_high) * 0.1 or 1.0
        y_low, y_high = y_low - pad, y_high + pad
    step = nice((y_high - y_low) / 3)
    y_low, y_high = math.floor(y_low / step + 1e-9) * step, math.ceil(y_high / step - 1e-9) * step

    def x_of(x: float) -> float:
        return Lines.left + (x - x_low) / (x_high - x_low) * (Lines.right - Lines.left)

    def y_of(y: float) -> float:
        return Lines.bottom - (y - y_low) / (y_high - y_low) * (Lines.bottom - Lines.top)

    x_step = max(nice((x_high - x_low) / 4), 1.0)
    return Lines(
        title=chart.title,
        desc=chart.summary,
        x_label=chart.x,
        y_label=chart.y,
        curves=[Curve(line.name, line.style, [(x_of(x), y_of(y)) for x, y in points]) for line, points in tracks],
        x_ticks=[Tick(x_of(x), f"{x:,.0f}") for x in _ticks(x_low, x_high, x_step)],
        y_ticks=[Tick(y_of(y), _tick_text(y, step)) for y in _ticks(y_low, y_high, step)],
        mark=(x_of(chart.mark[0]), y_of(chart.mark[1])) if chart.mark else None,
        level=None if chart.level is None else y_of(chart.level),
        level_name=chart.level_name,
        dots=chart.dots,
    )


def _above(line: Line) -> bool:
    return line.style is not None


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 4:
        return f"{value:.0e}" if abs(value) > step / 2 else "0"
    return f"{value:,.{digits}f}".replace("-", "−")


def _layers(chart: LayerMap) -> LayerDrawing:
    deeper = max(chart.student_layers, chart.teacher_layers)
    gap = 30.0 if deeper <= 12 else 24.0
    span, top = gap * deeper, 34.0
    shared: dict[tuple[int, int], list[int]] = {}
    for style, links in enumerate(chart.links):
        for pair in links.pairs:
            shared.setdefault(pair, []).append(style)

    def place(layer: int, depth: int) -> float:
        return top + span * (1 - layer / depth)

    def column(depth: int, used: set[int]) -> list[Layer]:
        return [Layer(place(i, depth), f"layer {i}" if i else "embeddings", i in used) for i in range(depth + 1)]

    # Several kinds of knowledge between the same layers run side by side.
    placed = [
        Link(
            place(student, chart.student_layers) + 5.0 * shift,
            place(teacher, chart.teacher_layers) + 5.0 * shift,
            style,
        )
        for (student, teacher), styles in shared.items()
        for style, shift in ((style, i - (len(styles) - 1) / 2) for i, style in enumerate(styles))
    ]
    return LayerDrawing(
        title=chart.title,
        desc="; ".join(map(_described, chart.links)) + "; layer 0 is the embeddings",
        student=column(chart.student_layers, {student for student, _ in shared}),
        teacher=column(chart.teacher_layers, {teacher for _, teacher in shared}),
        links=placed,
        legend=[(style, links.name) for style, links in enumerate(chart.links)],
        height=top + span + 16.0,
    )


def _described(links: LayerLinks) -> str:
    return f"{links.name}: " + ", ".join(f"student {s} from teacher {t}" for s, t in links.pairs)
