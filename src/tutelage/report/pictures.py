"""The charts of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.report.charts import Lines, Points, lines, thin
from tutelage.report.numbers import finite, milliseconds, score_text
from tutelage.report.words import WHO, Entry, Report, entries, latency_of, words

WIDTH = 320.0


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart; ``left`` and ``width`` in the picture's units."""

    who: str
    text: str
    y: float
    left: float
    width: float


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with one scale, which starts at 0."""

    title: str
    desc: str
    bars: list[Bar]
    height: float


def bar_charts(report: Report) -> list[Bars]:
    """Scores and latencies of all models, where there are several."""
    found = entries(report)
    if len(found) < 2:
        return []
    metric = words(report["metric"])
    charts = [_bars(f"Score: {metric}", {who: entry["score"] for who, entry in found}, score_text, 1.0)]
    for batch, what in (("1", "one example"), ("32", "a batch of 32")):
        values = {who: latency_of(entry, batch) for who, entry in found}
        charts.append(_bars(f"Latency of {what}", values, milliseconds, 0.0))
    return [chart for chart in charts if chart.bars]


def _bars(title: str, values: dict[str, Any], form: Any, least: float) -> Bars:
    shown = {who: float(value) for who, value in values.items() if finite(value)}
    low, high = min(0.0, *shown.values(), 0.0), max(least, *shown.values(), 1e-9)
    scale = WIDTH / (high - low)
    bars = [
        Bar(who, form(value), 46.0 * i, (min(value, 0.0) - low) * scale, max(abs(value) * scale, 1.0))
        for i, (who, value) in enumerate(shown.items())
    ]
    desc = ", ".join(f"{WHO[bar.who].lower()} {bar.text}" for bar in bars)
    return Bars(title, desc, bars, 46.0 * len(bars))


def loss_charts(report: Report) -> list[Lines]:
    """One chart for each stage's term, each with its own scale."""
    charts = []
    for stage in report["stages"]:
        for term, values in stage["losses"].items():
            points = thin(_points(values))
            if len(points) > 1:
                first, last = points[0], points[-1]
                desc = f"from {first[1]:.4g} at step {first[0]:,.0f} to {last[1]:.4g} at step {last[0]:,.0f}"
                charts.append(lines(f"{stage['name']}: loss of {words(term)}", desc, ("step", "loss"), points, 0.0))
    return charts


def score_charts(report: Report) -> list[Lines]:
    """The selection score by epoch, for each stage that was scored."""
    charts = []
    for stage in report["stages"]:
        points = _points(stage["scores"])
        if len(points) > 1:
            best = stage.get("best")
            mark = (float(best["epoch"]), float(best["score"])) if best else points[-1]
            desc = ", ".join(f"epoch {x:.0f} {y:.3f}" for x, y in points[:50])
            if best:
                desc += f"; the best, epoch {best['epoch']:.0f}, was kept"
            metric = words(report["metric"])
            axes = ("epoch", metric)
            charts.append(
                lines(f"{stage['name']}: {metric} on the selection data", desc, axes, points, points[0][0], mark)
            )
    return charts


def _points(values: Iterable[Sequence[float]]) -> Points:
    return [(float(x), float(y)) for x, y in values if finite(x) and finite(y)]


@dataclass(frozen=True)
class Layer:
    """A layer in the picture of the mapping."""

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
class Mapping:
    """The layers of student and teacher side by side, and the lines between."""

    title: str
    desc: str
    student: list[Layer]
    teacher: list[Layer]
    links: list[Link]
    legend: list[tuple[int, str]]
    height: float

    @property
    def rows(self) -> int:
        """How many line charts are about as tall."""
        return max(1, round((self.height + 60) / 260))


def mapping_pictures(report: Report) -> list[Mapping]:
    """One picture for each stage that compares layers."""
    student_layers, teacher_layers = report.get("student_layers"), report.get("teacher_layers")
    if not student_layers or not teacher_layers:
        return []
    by_stage: dict[str, list[Entry]] = {}
    for entry in report.get("mapping") or []:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [_mapping(stage, terms, student_layers, teacher_layers) for stage, terms in by_stage.items()]


def _mapping(stage: str, terms: list[Entry], m: int, n: int) -> Mapping:
    deeper = max(m, n)
    gap = 30.0 if deeper <= 12 else 24.0
    span, top = gap * deeper, 34.0
    shared: dict[tuple[int, int], list[int]] = {}
    for style, term in enumerate(terms):
        for s, t in term["pairs"]:
            shared.setdefault((s, t), []).append(style)

    def place(layer: int, depth: int) -> float:
        return top + span * (1 - layer / depth)

    # Several kinds of knowledge between the same layers run side by side.
    links = [
        Link(place(s, m) + 5.0 * shift, place(t, n) + 5.0 * shift, style)
        for (s, t), styles in shared.items()
        for style, shift in ((style, i - (len(styles) - 1) / 2) for i, style in enumerate(styles))
    ]
    desc = "; ".join(
        f"{words(term['knowledge'])}: " + ", ".join(f"student {s} from teacher {t}" for s, t in term["pairs"])
        for term in terms
    )
    return Mapping(
        title=f"{stage}: layers that are compared",
        desc=f"{desc}; layer 0 is the embeddings",
        student=_layers(m, lambda i: place(i, m), {s for s, _ in shared}),
        teacher=_layers(n, lambda i: place(i, n), {t for _, t in shared}),
        links=links,
        legend=[(style, words(term["knowledge"])) for style, term in enumerate(terms)],
        height=top + span + 16.0,
    )


def _layers(depth: int, place: Any, used: set[int]) -> list[Layer]:
    return [Layer(place(i), f"layer {i}" if i else "embeddings", i in used) for i in range(depth + 1)]
