"""What a comparison of two models' attention found, in words and as one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel

from tutelage.report.templates import render


class Likeness(BaseModel):
    """Two means: over queries for a pair of heads, over pairs for a layer, over layers for a model."""

    kl: float
    cosine: float


class Match(Likeness):
    """A pair of heads, both counted from 1."""

    teacher_head: int
    student_head: int


class LayerReport(BaseModel):
    """A student layer beside the teacher layer that it is compared with, both counted from 1."""

    teacher: int
    student: int
    teacher_heads: int
    student_heads: int
    heads: list[Likeness] | None
    """Head h of both, h from 1; none where their numbers of heads differ."""
    matches: list[Match]
    """The best matches, in the order of the teacher's heads."""
    same_head: Likeness | None
    best_match: Likeness
    uniform: Likeness
    """Of all heads of the teacher."""

    @property
    def name(self) -> str:
        return str(self.student) if self.student == self.teacher else f"{self.student} from {self.teacher}"

    @property
    def kept(self) -> int:
        """How many heads have the one of the same number as their best match."""
        return sum(match.teacher_head == match.student_head for match in self.matches)


class AttentionReport(BaseModel):
    """What :func:`attention_report` found; the last three are means over layers."""

    teacher: str
    student: str
    teacher_layers: int
    student_layers: int
    causal: bool
    """Tokens look at earlier ones and themselves only."""
    texts: int
    """How many were read, of ``available``."""
    available: int
    cut: int
    """Texts that were longer than ``max_length`` and lost their end."""
    max_length: int
    queries: int
    mapping: str
    layers: list[LayerReport]
    same_head: Likeness | None
    best_match: Likeness
    uniform: Likeness


LEFT, TOP = 46.0, 22.0


CELL = 30.0


WIDEST = 480.0


def page(report: AttentionReport) -> str:
    """The report as a self-contained HTML page."""
    return render(
        "attention.html.jinja",
        report=report,
        verdict=verdict(report),
        explanation=explanation(report),
        maps=maps(report),
    )


def verdict(report: AttentionReport) -> str:
    """The result in one sentence."""
    same, best, uniform = report.same_head, report.best_match, report.uniform
    if same is None:
        said = f"With optimally matched heads, the student's attention has a cosine similarity of {best.cosine:.2f}"
        more = ""
    else:
        said = f"Head by head, the student's attention has a cosine similarity of {same.cosine:.2f}"
        moved = sum(len(layer.matches) - layer.kept for layer in report.layers)
        more = f", or {best.cosine:.2f} with optimally matched heads" if moved else ""
    return f"{said} to the teacher's{more}; uniform attention has {uniform.cosine:.2f}."


def explanation(report: AttentionReport) -> list[str]:
    """On what, and how layers and heads were paired: sentences."""
    texts = f"{report.texts:,} text{'s' if report.texts > 1 else ''}"
    if report.texts < report.available:
        texts = f"{report.texts:,} of {report.available:,} texts, sampled at random,"
    cut = f" ({report.cut:,} were truncated)" if report.cut else ""
    sentences = [
        f"Computed on {texts} with {report.queries:,} tokens in total, at most {report.max_length} tokens each{cut}. Every token "
        "is a query" + (" and attends to itself and earlier tokens." if report.causal else ".")
    ]
    if report.student_layers != report.teacher_layers:
        pairs = ", ".join(f"{layer.student} from {layer.teacher}" for layer in report.layers)
        sentences.append(
            f"The student has {report.student_layers} layers, the teacher {report.teacher_layers}. The layers are paired "
            f"uniformly: {pairs}."
        )
    heads, kept = (sum(of) for of in zip(*((len(layer.matches), layer.kept) for layer in report.layers), strict=True))
    if report.same_head is not None:
        sentences.append(f"For {kept} of {heads} heads the best match is the head of the same number.")
    else:
        sentences.append(
            "The models have different numbers of heads: same-head values do not exist, and some heads have no match. Values of "
            "uniform attention are over all heads of the teacher."
        )
    return sentences


@dataclass(frozen=True)
class HeadPair:
    """A pair of heads: where it stands, how like they are (0 to 1) and what is said of it."""

    x: float
    y: float
    cosine: float
    text: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    """Layers down, the teacher's heads across; sizes in the picture's units."""

    title: str
    desc: str
    cells: list[HeadPair]
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    cell: float
    width: float
    height: float


def maps(report: AttentionReport) -> list[HeatMap]:
    """One of the same heads, where there are such, and one of the best matches."""
    best = _map(
        "Best match: the student's head, by cosine similarity",
        report.layers,
        lambda layer: [
            Pair(
                match.teacher_head,
                match,
                str(match.student_head),
                f"student head {match.student_head} for head {match.teacher_head}",
            )
            for match in layer.matches
        ],
    )
    if report.same_head is None:
        return [best]
    same = _map(
        "Same head: cosine similarity",
        report.layers,
        # ".93" for 0.93 fits the cell.
        lambda layer: [
            Pair(head, likeness, f"{likeness.cosine:.2f}".removeprefix("0"), f"head {head}")
            for head, likeness in enumerate(layer.heads or [], start=1)
        ],
    )
    return [same, best]


class Pair(NamedTuple):
    """What a cell shows."""

    head: int
    likeness: Likeness
    text: str
    name: str


def _map(title: str, layers: list[LayerReport], pairs_of: Callable[[LayerReport], list[Pair]]) -> HeatMap:
    heads = max(layer.teacher_heads for layer in layers)
    size = min(CELL, WIDEST / heads)
    cells, rows = [], []
    # The last layer on top, as in the picture of the mapping.
    for place, layer in enumerate(reversed(layers)):
        y = TOP + place * size
        rows.append((y + size / 2, layer.name.replace("from", "←")))
        for head, likeness, text, name in pairs_of(layer):
            said = f"layer {layer.name}, {name}: cosine {likeness.cosine:.3f}, KL {likeness.kl:.3f} nats"
            cells.append(HeadPair(LEFT + (head - 1) * size, y, likeness.cosine, text, said))
    return HeatMap(
        title=title,
        desc="; ".join(cell.title for cell in cells),
        cells=cells,
        rows=rows,
        columns=[(LEFT + (head - 0.5) * size, str(head)) for head in range(1, heads + 1)],
        cell=size,
        width=LEFT + heads * size,
        height=TOP + len(layers) * size,
    )
