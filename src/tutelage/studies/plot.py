"""A small line or point chart as SVG, for the pages of results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np


class Plot:
    """Axes with a grid; lines, points and words are added in the units of the axes, and :attr:`svg` is the picture.

    A logarithmic axis is ticked at powers of ten, a linear one at multiples of ``step``.
    """

    def __init__(
        self,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        x_label: str,
        x_step: float | None = None,
        y_step: float | None = None,
        size: tuple[int, int] = (640, 380),
        right: int = 20,
    ) -> None:
        """``x`` and ``y`` are the ends of the axes; one without a step is logarithmic."""
        self.size, self._log = size, (x_step is None, y_step is None)
        self._left, self._right, self._top, self._bottom = 64, size[0] - right, 40, size[1] - 44
        self._x, self._y = self._scaled(x, 0), self._scaled(y, 1)
        self._parts = [f'<text x="{self._left}" y="22">{escape(title)}</text>']
        for tick in _ticks(x, x_step):
            self.line([(tick, y[0]), (tick, y[1])], "#ddd", 1)
            self.text(tick, y[0], f"{tick:,g}" if tick < 1e6 else f"{tick:,.0f}", "middle", dy=18)
        for tick in _ticks(y, y_step):
            self.line([(x[0], tick), (x[1], tick)], "#ddd", 1)
            self.text(x[0], tick, f"{tick:g}", "end", dx=-6, dy=4)
        middle = (self._left + self._right) / 2
        self._parts.append(f'<text x="{middle:.1f}" y="{size[1] - 8}" text-anchor="middle">{escape(x_label)}</text>')

    def _scaled(self, ends: Iterable[float], axis: int) -> tuple[float, ...]:
        return tuple(math.log10(end) if self._log[axis] else end for end in ends)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in the picture's units."""
        (across,), (up,) = self._scaled([x], 0), self._scaled([y], 1)
        across = (across - self._x[0]) / (self._x[1] - self._x[0])
        up = (up - self._y[0]) / (self._y[1] - self._y[0])
        return (
            round(self._left + across * (self._right - self._left), 1),
            round(self._bottom + up * (self._top - self._bottom), 1),
        )

    def line(self, points: Iterable[Sequence[float]], colour: str, width: float = 2, dashes: str = "") -> None:
        """Connect points ``(x, y)``."""
        path = " ".join("{},{}".format(*self.at(point[0], point[1])) for point in points)
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>')

    def dot(self, x: float, y: float, colour: str, tip: str = "", *, hollow: bool = False, dx: float = 0) -> None:
        """A point; ``tip`` is shown when the mouse is over it."""
        across, down = self.at(x, y)
        fill = f'fill="#fff" stroke="{colour}" stroke-width="1.5"' if hollow else f'fill="{colour}"'
        title = f"<title>{escape(tip)}</title>"
        self._parts.append(f'<circle cx="{across + dx:.1f}" cy="{down}" r="4" {fill}>{title}</circle>')

    def text(
        self, x: float, y: float, words: str, anchor: str = "start", colour: str = "#333", dx: float = 0, dy: float = 0
    ) -> None:
        """Words at a point, on a white halo where lines pass."""
        across, down = self.at(x, y)
        where = f'x="{across + dx:.1f}" y="{down + dy:.1f}" text-anchor="{anchor}"'
        halo = 'stroke="#fff" stroke-width="3" paint-order="stroke"'
        self._parts.append(f'<text {where} fill="{colour}" {halo}>{escape(words)}</text>')

    @property
    def body(self) -> str:
        """The picture's elements, to be placed beside others."""
        return "\n".join(self._parts)

    @property
    def svg(self) -> str:
        """The whole file."""
        return side_by_side([self])


def side_by_side(plots: Sequence[Plot]) -> str:
    """Several plots in one SVG file, from left to right."""
    width, height = sum(plot.size[0] for plot in plots), max(plot.size[1] for plot in plots)
    starts = np.cumsum([0, *(plot.size[0] for plot in plots)])
    inner = [
        f'<g transform="translate({start},0)">\n{plot.body}\n</g>' for start, plot in zip(starts, plots, strict=False)
    ]
    head = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#333"'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([frame, *inner, "</svg>", ""])


def _ticks(ends: tuple[float, float], step: float | None) -> list[float]:
    if step is None:
        powers = range(math.ceil(math.log10(ends[0]) - 1e-9), math.floor(math.log10(ends[1]) + 1e-9) + 1)
        return [10.0**power for power in powers]
    first, last = math.ceil(ends[0] / step - 1e-9), math.floor(ends[1] / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
