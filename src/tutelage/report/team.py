"""What a report says of a team of teachers: who was in it, and how the distribution moved from which it was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tutelage.report.charts import Lines, Points, lines, thin

Report = dict[str, Any]
Record = dict[str, Any]
Column = tuple[str, list["Cell"]]

STYLES = 10
"""Lines of a chart that can be told apart."""
MOST_NAMES = 8
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A value of a teacher; ``of`` names its column where there is no head."""

    of: str
    text: str
    best: bool = False
    dropped: bool = False


@dataclass(frozen=True)
class Row:
    """A teacher; ``style`` numbers its line in the charts, if it has one of its own."""

    name: str
    shape: str
    style: int | None
    parameters: int
    cells: list[Cell]


@dataclass(frozen=True)
class Curve:
    """One teacher's line; without a style it is one of many in grey."""

    name: str
    style: int | None
    path: str


@dataclass(frozen=True)
class Course:
    """How a stage's distribution moved; at ``level`` all are drawn alike."""

    frame: Lines
    curves: list[Curve]
    grey: int
    level: float
    alike: str


@dataclass(frozen=True)
class Team:
    """The section: ``heads`` are groups of columns, each a title and what is under it."""

    words: str
    notes: list[str]
    caption: str
    heads: list[tuple[str, list[str]]]
    rows: list[Row]
    courses: list[Course]


def section(report: Report, metric: str) -> Team | None:
    """What there is to say; nothing of a run without a team."""
    team = report.get("team")
    if team is None:
        return None
    members, records = team["members"], team["stages"]
    styles = _styles(team)
    groups = [(metric, _scores(team, report["metric"], metric))]
    groups += [(record["stage"], _found(record)) for record in records]
    rows = [
        Row(
            one["name"],
            one["shape"],
            styles[i],
            one["parameters"],
            [cells[i] for _, columns in groups for _, cells in columns],
        )
        for i, one in enumerate(members)
    ]
    return Team(
        words=_words(team),
        notes=[_note(record, metric) for record in records],
        caption=_caption(report, metric),
        heads=[(title, [under for under, _ in columns]) for title, columns in groups],
        rows=rows,
        courses=[_course(record, [one["name"] for one in members], styles) for record in records],
    )


def lead(report: Report) -> tuple[str, bool] | None:
    """Of a run with a team the teacher that it is compared with: its name, and whether it is in the team."""
    if not report.get("team") or not report.get("teacher"):
        return None
    name = report["teacher"]["name"]
    for one in report["team"]["members"]:
        # The teacher of a store lies within it.
        if name in (one["folder"], str(Path(one["folder"]) / "teacher")):
            return one["name"], True
    return Path(name).name if Path(name).is_absolute() else name, False


def final(report: Report) -> tuple[list[tuple[str, float]], list[str]]:
    """The teachers with their last probabilities, the largest first, and who was dropped."""
    team = report.get("team")
    if not team:
        return [], []
    names = [one["name"] for one in team["members"]]
    pairs = sorted(zip(names, _last(team), strict=True), key=lambda pair: -pair[1])
    return [pair for pair in pairs if pair[1] > 0], [name for name, p in pairs if p == 0 and team["stages"]]


def _last(team: Record) -> list[float]:
    """The distribution by which the student that is kept was taught: learnt, or set beforehand."""
    stage, start = [*team["starts"].items()][-1]
    found: list[float] = next((record["next"] for record in team["stages"] if record["stage"] == stage), start)
    return found


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; the first of very many."""
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def stages(names: Sequence[str]) -> str:
    """``the stages a and b``."""
    return f"the stage{'s' if len(names) > 1 else ''} {listed(names)}"


# ------------------------------------------------------------------------------------------------------------ words


def _words(team: Record) -> str:
    members, records = team["members"], team["stages"]
    if not records:
        last = _last(team)
        alike = max(last) - min(last) < 1e-9
        shares = [f"{one['name']} {share:.3f}" for one, share in zip(members, last, strict=True)]
        return (
            f"The student learnt from these {len(members)} teachers. How much each of them counts was set beforehand, and not "
            f"learnt: {'all alike' if alike else listed(shares)}."
        )
    names = [one["name"] for one in members]
    gone = {record["stage"]: dropped(record, names) for record in records}
    told = [f"{listed(lost)} (stage {stage})" for stage, lost in gone.items() if lost]
    left = sum(p > 0 for p in records[-1]["next"])
    return (
        f"A team of {len(names)} teachers taught the student. In {stages([record['stage'] for record in records])} one was "
        "drawn at each step, and it was learnt how often to draw each: the more often, the more its lessons lower the "
        "student's loss on examples that are held out there. "
        + (f"Dropped: {'; '.join(told)}. {left} of {len(names)} are left." if told else "No teacher was dropped.")
    )


def dropped(record: Record, names: list[str]) -> list[str]:
    """Who could be drawn when a stage began and cannot any more."""
    pairs = zip(names, record["start"], record["next"], strict=True)
    return [name for name, before, after in pairs if before > 0 and after == 0]


def _note(record: Record, metric: str) -> str:
    unusable = f", {record['skipped']:,} of them without a usable gradient" if record["skipped"] else ""
    settled = record["settled"]
    mean = "" if settled is None else f" What it found is the mean of its log-weights after step {settled:,}."
    sure, heat = "", record["temperature"]
    if heat is not None:
        sure = f" Its student's confidence was forgiven: held-out logits were divided by a temperature, {heat:.2f} at last."
    return (
        f"{record['stage']}: {record['updates']:,} updates of the distribution{unusable}.{mean}{sure} At the end its student "
        f"reached {metric} {record['score']:.3f} on the held-out examples, where a constant answer has {record['constant']:.3f}."
    )


def _caption(report: Report, metric: str) -> str:
    held = report["data"].get("held")
    text = f"Each teacher's {metric}: on dev, and on {f'{held:,} ' if held else ''}examples of train that "
    if not report["team"]["stages"]:
        return text + "tutelage team train keeps from its teachers."
    return (
        text
        + "are held out where the distribution is learnt. By stage: the probability it found, how many steps drew the "
        "teacher, and its mean reward, which compares teachers within a stage (above 0: its lessons lowered the loss on "
        "held-out examples)."
    )


# ------------------------------------------------------------------------------------------------------------ table


def _scores(team: Record, name: str, metric: str) -> list[Column]:
    members = team["members"]
    parts = [*(part for part in members[0]["scores"] if part != "held"), "held"]
    columns = []
    for part in parts:
        under = "held out" if part == "held" else part
        texts = [f"{one['scores'][part][name]:.3f}" for one in members]
        columns.append((under, _marked([Cell(f"{metric}, {under}", text) for text in texts])))
    return columns


def _found(record: Record) -> list[Column]:
    stage = record["stage"]
    drawn = [before > 0 for before in record["start"]]

    def cells(under: str, texts: list[str], best: bool) -> Column:
        shown = [Cell(f"{stage}, {under}", text if was else MISSING) for text, was in zip(texts, drawn, strict=True)]
        return under, _marked(shown) if best else shown

    under, probabilities = cells("probability", [f"{p:.3f}" for p in record["probabilities"]], True)
    marked = [
        replace(cell, dropped=was and after == 0)
        for cell, was, after in zip(probabilities, drawn, record["next"], strict=True)
    ]
    rewards = [MISSING if reward is None else f"{reward:.3g}".replace("-", "−") for reward in record["reward"]]
    return [
        (under, marked),
        cells("draws", [f"{count:,}" for count in record["draws"]], False),
        cells("reward", rewards, True),
    ]


def _marked(cells: list[Cell]) -> list[Cell]:
    """With the largest marked, as far as it is seen; where all are alike none is."""
    values = {value for cell in cells if (value := _value(cell)) is not None}
    if len(values) < 2:
        return cells
    best = max(values)
    return [replace(cell, best=_value(cell) == best) for cell in cells]


def _value(cell: Cell) -> float | None:
    return None if cell.text == MISSING else float(cell.text.replace("−", "-"))


# ----------------------------------------------------------------------------------------------------------- charts


def _styles(team: Record) -> list[int | None]:
    """For each teacher the number of its line: of very many only those that were the most likely at a stage's end."""
    count = len(team["members"])
    if not team["stages"]:
        return [None] * count
    most = [max(record["probabilities"][i] for record in team["stages"]) for i in range(count)]
    shown = sorted(sorted(range(count), key=lambda i: -most[i])[:STYLES])
    return [shown.index(i) if i in shown else None for i in range(count)]


def _course(record: Record, names: list[str], styles: list[int | None]) -> Course:
    drawn = [i for i, before in enumerate(record["start"]) if before > 0]
    level = 1 / len(drawn)
    tracks: list[Points] = []
    for i in drawn:
        moved = [(float(row[0]), float(row[1 + i])) for row in record["history"]]
        tracks.append(thin([(0.0, record["start"][i]), *moved]))
    pairs = sorted(((record["probabilities"][i], names[i]) for i in drawn), key=lambda pair: -pair[0])
    desc = "found: " + ", ".join(f"{name} {p:.3f}" for p, name in pairs)
    title = f"{record['stage']}: how often each teacher is drawn"
    # On one scale, which begins at 0: placed as one line, then cut.
    frame = lines(title, desc, ("step", "share"), [(0.0, 0.0), (0.0, level), *chain(*tracks)], 0.0)
    _, (_, height), *_ = frame.points
    placed, curves = iter(frame.points[2:]), []
    for i, track in zip(drawn, tracks, strict=True):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in islice(placed, len(track)))
        curves.append(Curve(names[i], styles[i], path))
    # The grey ones below.
    curves.sort(key=lambda curve: curve.style is not None)
    grey = sum(curve.style is None for curve in curves)
    return Course(frame, curves, grey, height, f"1/{len(drawn)}")
