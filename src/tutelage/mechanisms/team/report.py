"""A team of teachers in the report: scores, learned sampling weights, and how the weights moved; its section of the page."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tutelage.report.mechanisms import MechanismEntry, TeachersEntry, TeacherShare
from tutelage.report.numbers import MISSING, count_text
from tutelage.report.section import Block, Cell, Column, Line, LineChart, Row, Section, Table
from tutelage.report.teachers import TeacherEntry
from tutelage.report.words import listed, stages_text
from tutelage.tasks import metric_words

TITLE = "The team"
STYLES = 10
"""Lines of a chart that can be told apart."""

Cells = tuple[Column, list[Cell]]


def _absent(value: object) -> bool:
    return value is None


class MemberEntry(TeacherEntry):
    """A teacher of the team that taught a student."""

    folder: str
    """Folder, store or hub id."""


class TeamReport(Block):
    """Teachers of one task compared: scores, agreement, diversity. The measures are those of
    :func:`tutelage.evaluation.diversity.diversity`."""

    task: str
    metric: str
    """The task's first metric."""
    part: str
    """Part of the evaluation set on which predictions are compared."""
    members: list[TeacherEntry]
    not_kept_apart: list[str]
    """Teachers that may have been trained on the held-out examples."""
    agreement: list[list[float]] | None = Field(default=None, exclude_if=_absent)
    """For each two teachers the share of equal predictions; without classes the correlation of their outputs. Absent for tokens and
    spans."""
    disagreement: float | None = Field(default=None, exclude_if=_absent)
    """Mean of ``1 - agreement`` over pairs of teachers. Absent for tokens and spans."""
    kappa: list[list[float]] | None = Field(default=None, exclude_if=_absent)
    """Cohen's kappa of each two teachers. Absent without classes, as are those below."""
    one_right: float | None = Field(default=None, exclude_if=_absent)
    """Share of examples that at least one teacher predicts correctly."""
    all_right: float | None = Field(default=None, exclude_if=_absent)
    """Share of examples that every teacher predicts correctly."""
    ensemble: float | None = Field(default=None, exclude_if=_absent)
    """Accuracy of the mean probabilities."""


class TeamStage(Block):
    """How one stage learned the sampling weights. Lists have one value for each teacher."""

    stage: str
    start: list[float]
    """Probabilities at the beginning; 0 for a teacher that cannot be sampled."""
    probabilities: list[float]
    """Probabilities at the end."""
    next: list[float]
    """Probabilities that later stages start from; 0 for a dropped teacher."""
    kept: list[str]
    """Names of the teachers that later stages may sample."""
    draws: list[int]
    """Steps that sampled the teacher."""
    reward: list[float | None]
    """Mean reward of the teacher. Null if it was never sampled."""
    updates: int
    """Updates of the sampling weights."""
    skipped: int
    """Updates that were skipped for want of a usable gradient."""
    temperature: float | None
    """Final temperature of the calibrated student predictions. Null without calibration."""
    settled: int | None
    """The result is the mean of the log-weights after this step. Null: the last weights."""
    history: list[list[int | float]]
    """Rows of step and the probability of each teacher."""
    score: float
    """First metric of the student on the held-out examples, at the end."""
    constant: float
    """The same for the best constant prediction."""


class TeamEntry(Block):
    """A team of teachers and its sampling weights."""

    members: list[MemberEntry]
    starts: dict[str, list[float]]
    """By stage: the probabilities that it began with."""
    stages: list[TeamStage]
    """Stages that learned the weights, in order."""


def entry(team: TeamEntry) -> MechanismEntry:
    """The team in the report's words."""
    weights = "final sampling weights" if team.stages else "fixed weights"
    shares = [
        TeacherShare(name=one.name, folder=one.folder, weight=weight)
        for one, weight in zip(team.members, _last(team), strict=True)
    ]
    return MechanismEntry(
        teachers=TeachersEntry(weights=weights, shares=shares),
        kept={stage.stage: "sampling weights" for stage in team.stages},
        data=team.model_dump(mode="json"),
    )


def section(team: TeamEntry, metric: str, held_out: int) -> Section:
    """The section of the page.

    Args:
        metric: The task's first metric.
        held_out: Number of held-out examples.
    """
    styles = _styles(team)
    columns = [
        *_scores(team, metric, metric_words(metric)),
        *(found for stage in team.stages for found in _found(stage)),
    ]
    rows = [
        Row(
            name=one.name,
            cells=[count_text(one.parameters), *(cells[i] for _, cells in columns)],
            style=styles[i],
            title=one.shape,
        )
        for i, one in enumerate(team.members)
    ]
    names = [one.name for one in team.members]
    return Section(
        title=TITLE,
        paragraphs=[_text(team, names)],
        table=Table(
            caption=_caption(team, metric_words(metric), held_out),
            head="Teacher",
            columns=[Column(title="Parameters"), *(column for column, _ in columns)],
            rows=rows,
        ),
        pictures=[_course(stage, names, styles) for stage in team.stages],
        notes=[_note(stage, metric_words(metric)) for stage in team.stages],
    )


def _last(team: TeamEntry) -> list[float]:
    """The sampling weights that trained the final student, learned or fixed."""
    stage, start = [*team.starts.items()][-1]
    return next((record.next for record in team.stages if record.stage == stage), start)


def dropped(stage: TeamStage, names: Sequence[str]) -> list[str]:
    """The teachers that the stage could sample when it began, and later ones cannot."""
    pairs = zip(names, stage.start, stage.next, strict=True)
    return [name for name, before, after in pairs if before > 0 and after == 0]


# ------------------------------------------------------------------------------------------------------------ words


def _text(team: TeamEntry, names: list[str]) -> str:
    if not team.stages:
        last = _last(team)
        equal = max(last) - min(last) < 1e-9
        shares = [f"{name} {share:.3f}" for name, share in zip(names, last, strict=True)]
        return (
            f"{len(names)} teachers trained the student, with fixed weights: "
            f"{'equal for all' if equal else listed(shares)}."
        )
    lost = {stage.stage: dropped(stage, names) for stage in team.stages}
    told = [f"{listed(gone)} (stage {stage})" for stage, gone in lost.items() if gone]
    left = sum(p > 0 for p in team.stages[-1].next)
    return (
        f"A team of {len(names)} teachers trained the student. In {stages_text([stage.stage for stage in team.stages])} each "
        "step samples one teacher. The sampling weights are learned: a teacher gains weight if its steps lower the student's "
        "loss on held-out examples. "
        + (f"Dropped: {'; '.join(told)}. {left} of {len(names)} remain." if told else "No teacher was dropped.")
    )


def _note(stage: TeamStage, metric: str) -> str:
    skipped = f", {stage.skipped:,} of them skipped for want of a usable gradient" if stage.skipped else ""
    mean = "" if stage.settled is None else f" The result is the mean of the log-weights after step {stage.settled:,}."
    calibrated = ""
    if stage.temperature is not None:
        calibrated = f" Rewards used calibrated student predictions (final temperature {stage.temperature:.2f})."
    return (
        f"{stage.stage}: {stage.updates:,} updates of the sampling weights{skipped}.{mean}{calibrated} At the end its student "
        f"scored {metric} {stage.score:.3f} on the held-out examples; a constant prediction scores {stage.constant:.3f}."
    )


def _caption(team: TeamEntry, metric: str, held_out: int) -> str:
    text = f"Each teacher's {metric} on the evaluation set and on {held_out:,} held-out examples of train"
    if not team.stages:
        return f"{text}."
    return (
        f"{text}. By stage: the final sampling weight, the steps that sampled the teacher, and its mean reward. Rewards compare "
        "teachers within a stage; above 0, the teacher's steps lowered the loss on held-out examples."
    )


# ------------------------------------------------------------------------------------------------------------ table


def _scores(team: TeamEntry, name: str, metric: str) -> list[Cells]:
    parts = [*(part for part in team.members[0].scores if part != "held_out"), "held_out"]
    found = []
    for part in parts:
        cells = [Cell(text=f"{one.scores[part][name]:.3f}") for one in team.members]
        found.append((Column(title="held-out" if part == "held_out" else part, group=metric), _marked(cells)))
    return found


def _found(stage: TeamStage) -> list[Cells]:
    sampled = [before > 0 for before in stage.start]

    def column(title: str, texts: list[str], best: bool) -> Cells:
        cells = [Cell(text=text if was else MISSING) for text, was in zip(texts, sampled, strict=True)]
        return Column(title=title, group=stage.stage), _marked(cells) if best else cells

    title, weights = column("weight", [f"{p:.3f}" for p in stage.probabilities], True)
    for cell, was, after in zip(weights, sampled, stage.next, strict=True):
        if was and after == 0:
            cell.below, cell.style = "dropped", "faint"
    rewards = [MISSING if reward is None else f"{reward:.3g}".replace("-", "−") for reward in stage.reward]
    return [
        (title, weights),
        column("steps", [f"{count:,}" for count in stage.draws], False),
        column("reward", rewards, True),
    ]


def _marked(cells: list[Cell]) -> list[Cell]:
    """The same with the largest value marked, unless all are equal."""
    values = [None if cell.text == MISSING else float(cell.text.replace("−", "-")) for cell in cells]
    known = {value for value in values if value is not None}
    if len(known) > 1:
        for cell, value in zip(cells, values, strict=True):
            cell.style = "best" if value == max(known) else "plain"
    return cells


# ----------------------------------------------------------------------------------------------------------- charts


def _styles(team: TeamEntry) -> list[int | None]:
    """For each teacher the style of its line. With very many, only the most likely ones at a stage's end have one."""
    count = len(team.members)
    if not team.stages:
        return [None] * count
    most = [max(stage.probabilities[i] for stage in team.stages) for i in range(count)]
    shown = sorted(sorted(range(count), key=lambda i: -most[i])[:STYLES])
    return [shown.index(i) if i in shown else None for i in range(count)]


def _course(stage: TeamStage, names: list[str], styles: list[int | None]) -> LineChart:
    sampled = [i for i, before in enumerate(stage.start) if before > 0]
    lines = []
    for i in sampled:
        moved = [(float(row[0]), float(row[1 + i])) for row in stage.history]
        lines.append(Line(name=names[i], points=[(0.0, stage.start[i]), *moved], style=styles[i]))
    pairs = sorted(((stage.probabilities[i], names[i]) for i in sampled), key=lambda pair: -pair[0])
    return LineChart(
        title=f"{stage.stage}: sampling weights",
        summary="at the end: " + ", ".join(f"{name} {p:.3f}" for p, name in pairs),
        x="step",
        y="weight",
        lines=lines,
        level=1 / len(sampled),
        level_name=f"uniform, 1/{len(sampled)}",
    )
