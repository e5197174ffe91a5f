"""The geometry of line charts, which ``charts.html.jinja`` draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

Points = list[tuple[float, float]]
MOST_POINTS = 240


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Lines:
    """A line chart: points and ticks in the picture's units; ``mark`` is the point that gets a ring."""

    title: str
    desc: str
    x_label: str
    y_label: str
    points: Points
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mark: tuple[float, float] | None
    dots: bool
    left: float = 50.0
    right: float = 302.0
    top: float = 26.0
    bottom: float = 162.0
    height: float = 200.0

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def thin(points: Points) -> Points:
    """At most ``MOST_POINTS``: neighbours are averaged, the first and the last stay."""
    if len(points) <= MOST_POINTS:
        return points
    inner, size = points[1:-1], math.ceil((len(points) - 2) / (MOST_POINTS - 2))
    groups = [inner[i : i + size] for i in range(0, len(inner), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [points[0], *means, points[-1]]


def lines(
    title: str,
    desc: str,
    axes: tuple[str, str],
    points: Points,
    start: float,
    mark: tuple[float, float] | None = None,
) -> Lines:
    """A chart of points in numbers; its axis for x begins at ``start``."""
    frame = Lines(title, desc, *axes, [], [], [], None, False)
    x_low, x_high = start, max(max(x for x, _ in points), start + 1)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    if y_high - y_low < 1e-9 * max(abs(y_high), 1e-9):
        # A level line goes through the middle.
        pad = abs(y_high) * 0.1 or 1.0
        y_low, y_high = y_low - pad, y_high + pad
    step = _nice((y_high - y_low) / 3)
    y_low, y_high = math.floor(y_low / step + 1e-9) * step, math.ceil(y_high / step - 1e-9) * step

    def x_of(x: float) -> float:
        return frame.left + (x - x_low) / (x_high - x_low) * (frame.right - frame.left)

    def y_of(y: float) -> float:
        return frame.bottom - (y - y_low) / (y_high - y_low) * (frame.bottom - frame.top)

    x_step = max(_nice((x_high - x_low) / 4), 1.0)
    return Lines(
        title,
        desc,
        *axes,
        points=[(x_of(x), y_of(y)) for x, y in points],
        x_ticks=[Tick(x_of(x), f"{x:,.0f}") for x in _ticks(x_low, x_high, x_step)],
        y_ticks=[Tick(y_of(y), _tick_text(y, step)) for y in _ticks(y_low, y_high, step)],
        mark=(x_of(mark[0]), y_of(mark[1])) if mark else None,
        dots=len(points) <= 40 and axes[0] == "epoch",
    )


def _nice(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 4:
        return f"{value:.0e}" if abs(value) > step / 2 else "0"
    return f"{value:,.{digits}f}".replace("-", "−")
