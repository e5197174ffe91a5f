"""What the cells of a comparison show: means over seeds, paired differences, and p-values adjusted for their number.

Two questions are asked of a difference, and each has its own interval and p-value. Would these models differ on other examples? The
mean over seeds is computed on resampled examples, the same for both sides (paired bootstrap). Would other seeds differ on these
examples? Student's t over the differences of the seeds that both have; where these are all equal, and t has no spread to divide by,
the exact test by changes of sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from tutelage.artifacts import check_seal
from tutelage.errors import TutelageError, option
from tutelage.evaluation.intervals import (
    Scores,
    all_equal,
    holm,
    p_of_resamples,
    p_of_seeds,
    percentiles,
    resampled,
)
from tutelage.recipes.recipe import Recipe
from tutelage.report.compared import ComparedArm, ComparedTask, CompareReport, Contrast, QueueEntry, ServedArm
from tutelage.report.model import TaskReport
from tutelage.report.quality import Difference
from tutelage.run.measure import PREDICTIONS
from tutelage.studies.study import interval, paired
from tutelage.tasks import kind_of
from tutelage.tasks.metrics import no_better
from tutelage.version import __version__

RESAMPLES = 2000
PER_CONTRAST = 50
"""Resamples for each comparison of a task, at least: an adjusted p-value can then be below 0.05 however many there are."""


@dataclass(frozen=True)
class TaskGround:
    """What all cells of a task have in common, known before they run."""

    name: str
    teacher: str
    steps: int | None
    flops: float | None
    kind: str
    metric: str
    part: str
    source: str
    examples: int


@dataclass(frozen=True)
class Finished:
    """A finished cell."""

    task: str
    method: str
    student: str
    folder: Path
    report: TaskReport
    recipe: Recipe
    distilled: bool
    """Whether the student learns from the teacher."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the student, in all stages; the baseline's stage comes after them."""
        return sum(stage.steps for stage in self.report.stages[: len(self.recipe.stages)])

    @cached_property
    def _predictions(self) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
        path = self.folder / PREDICTIONS
        try:
            check_seal(path)
            with safe_open(path, "np") as file:
                return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            raise TutelageError(
                f"{str(path)!r} cannot be read ({str(error).splitlines()[0]}); remove the folder, and the cell is run again"
            ) from None

    @property
    def about(self) -> dict[str, str]:
        """Part, kind, metric and fingerprint of the examples that were predicted."""
        return self._predictions[0]

    def table(self, who: str) -> npt.NDArray[Any] | None:
        """``Kind.per_example`` of ``teacher``, ``student`` or ``baseline``, where there is one."""
        return self._predictions[1].get(who)


def same_ground(found: Finished, before: Iterable[Finished]) -> None:
    """Check that a cell was scored as another of its task was.

    Raises:
        TutelageError: it was not, or its predictions are lost.
    """
    theirs = next((one for one in before if one.task == found.task), found)
    for name, what in (("part", "parts"), ("metric", "metrics"), ("examples", "examples")):
        if found.about[name] != theirs.about[name]:
            shown = "" if name == "examples" else f": {theirs.about[name]} and {found.about[name]}"
            raise TutelageError(
                f"the cells {theirs.folder.name!r} and {found.folder.name!r} of task {found.task!r} were scored on different "
                f"{what}{shown}; the data has changed since, so give another {option('out')}"
            )


class _Resampling:
    """The scores of a task's models on the same resampled examples; each model is scored once."""

    def __init__(self, ground: TaskGround, resamples: int) -> None:
        self.kind, self.metric, self.resamples = kind_of(ground.kind), ground.metric, resamples
        self._known: dict[tuple[Path, str], Scores] = {}

    def of(self, cell: Finished, who: str) -> Scores:
        key = cell.folder, who
        table = cell.table(who)
        assert table is not None
        if key not in self._known:
            score = self.kind.counted(self.metric, table)
            self._known[key] = resampled(score, len(table), resamples=self.resamples)
        return self._known[key]

    def mean(self, cells: Sequence[Finished], who: str) -> Scores:
        """The mean over cells, which differ by their seeds."""
        return np.asarray(np.mean([self.of(cell, who) for cell in cells], axis=0))


def _gap(value: float, differences: Scores) -> Difference:
    low, high = percentiles(differences)
    return Difference(value=value, low=low, high=high)


def conclusions(
    against: str,
    seeds: Sequence[int],
    out: str,
    grounds: Sequence[TaskGround],
    finished: Sequence[Finished],
    cells: Sequence[QueueEntry],
) -> CompareReport:
    """What the finished cells show. ``against`` is the method that the others are compared with."""
    tasks: list[ComparedTask] = []
    arms: list[ComparedArm] = []
    contrasts: list[Contrast] = []
    notes: list[str] = []
    failed = sum(cell.error is not None for cell in cells)
    if failed:
        notes.append(f"{failed} of {len(cells)} cells failed and are missing here; the same command tries them again.")
    for ground in grounds:
        found = [cell for cell in finished if cell.task == ground.name]
        by_arm = _by_arm(found)
        wanted = _wanted(by_arm, against)
        draws = _Resampling(ground, max(RESAMPLES, PER_CONTRAST * len(wanted)))
        tasks.append(_task(ground, found, draws.resamples))
        ours = [arm for (method, student), some in by_arm.items() for arm in _arms(method, student, some, draws)]
        arms += ours
        contrasts += _adjusted([_contrast(by_arm, one, draws) for one in wanted])
        notes += _notes(ground, found, ours)
    if len(seeds) == 1 and finished:
        notes.append("There is one seed, so nothing is known of how scores vary between trainings.")
    environment = finished[0].report.environment.model_dump(mode="json") if finished else {}
    return CompareReport(
        tutelage=__version__,
        out=out,
        seeds=list(seeds),
        against=against,
        tasks=tasks,
        arms=arms,
        contrasts=contrasts,
        cells=list(cells),
        environment={name: str(value) for name, value in environment.items()},
        notes=notes,
    )


def _task(ground: TaskGround, found: Sequence[Finished], resamples: int) -> ComparedTask:
    teacher = found[0].report.teacher if found else None
    return ComparedTask(
        name=ground.name,
        kind=ground.kind,
        metric=ground.metric,
        part=ground.part,
        source=ground.source,
        examples=ground.examples,
        steps=ground.steps,
        flops=ground.flops,
        teacher=ground.teacher,
        teacher_score=None if teacher is None else teacher.score,
        teacher_parameters=None if teacher is None else teacher.parameters,
        served=_served(found),
        resamples=resamples,
    )


def _served(found: Sequence[Finished]) -> list[ServedArm]:
    """Of each student the first that was measured."""
    by_student: dict[str, ServedArm] = {}
    for cell in found:
        if (measured := cell.report.served) is not None:
            arm = ServedArm(method=cell.method, student=cell.student, seed=cell.report.seed, measured=measured)
            by_student.setdefault(cell.student, arm)
    return list(by_student.values())


Arms = dict[tuple[str, str], list[Finished]]
"""Finished cells by method and student."""


def _by_arm(found: Sequence[Finished]) -> Arms:
    by_arm: Arms = {}
    for cell in found:
        by_arm.setdefault((cell.method, cell.student), []).append(cell)
    return {arm: sorted(cells, key=lambda cell: cell.report.seed) for arm, cells in by_arm.items()}


def _arms(method: str, student: str, cells: list[Finished], draws: _Resampling) -> list[ComparedArm]:
    """The arm of a method with a student, and that of the same student without distillation."""
    found = []
    for who in ("student", "baseline"):
        some = [cell for cell in cells if cell.table(who) is not None]
        if not some:
            continue
        entries = [entry for cell in some if (entry := getattr(cell.report, who)) is not None]
        scores = {cell.report.seed: entry.score for cell, entry in zip(some, entries, strict=True)}
        average, half = interval(list(scores.values()))
        teacher, latencies = some[0].report.teacher, [entry.latency_ms["1"] for entry in entries if entry.latency_ms]
        to_teacher = None
        if teacher is not None and some[0].table("teacher") is not None:
            to_teacher = _gap(average - teacher.score, draws.mean(some, who) - draws.of(some[0], "teacher"))
        arm = ComparedArm(
            task=some[0].task,
            method=method,
            student=student,
            distilled=who == "student" and some[0].distilled,
            scores=scores,
            mean=average,
            half=half,
            to_teacher=to_teacher,
            parameters=entries[0].parameters,
            flops=entries[0].flops,
            latency_ms=mean(latencies) if latencies else None,
            steps=some[0].steps,
        )
        found.append(arm)
    return found


# ------------------------------------------------------------------------------------------------------------ comparisons

Wanted = tuple[str, str, str]
"""Method, what it is compared with (empty: its student without distillation), and student."""


def _wanted(by_arm: Arms, against: str) -> list[Wanted]:
    """Each method against ``against`` with the same student, and against its student without distillation: the one of its own
    cells, and that of each method without a teacher."""
    wanted: list[Wanted] = []
    for (method, student), cells in by_arm.items():
        untaught = [other for other, theirs in by_arm.items() if other[1] == student and _undistilled(cells, theirs)]
        others = dict.fromkeys([against, *(name for name, _ in untaught)])
        for other in others:
            theirs = by_arm.get((other, student), [])
            # An undistilled student is the second of a pair, also where its method is not what the others are compared with.
            if method != other and _common(cells, theirs) and not _undistilled(theirs, cells):
                wanted.append((method, other, student))
        if any(cell.table("baseline") is not None for cell in cells):
            wanted.append((method, "", student))
    return wanted


def _undistilled(ours: Sequence[Finished], theirs: Sequence[Finished]) -> bool:
    """Whether the second arm is the first one's student, without distillation. What is given as ``layers=3`` may be a part of the
    teacher for one method and a new network for another, so start and size are compared."""
    if not ours or not theirs:
        return False
    first, second = ours[0], theirs[0]
    same = first.recipe.student.init == second.recipe.student.init
    same = same and first.report.student.parameters == second.report.student.parameters
    return same and first.distilled and not second.distilled


def _common(ours: Sequence[Finished], theirs: Sequence[Finished]) -> set[int]:
    return {cell.report.seed for cell in ours} & {cell.report.seed for cell in theirs}


def _contrast(by_arm: Arms, wanted: Wanted, draws: _Resampling) -> Contrast:
    """Two arms by the seeds that both have; p-values are not adjusted yet."""
    method, against, student = wanted
    ours = by_arm[method, student]
    theirs, who = (by_arm[against, student], "student") if against else (ours, "baseline")
    of_distillation = not against or _undistilled(ours, theirs)
    theirs = [cell for cell in theirs if cell.table(who) is not None]
    seeds = _common(ours, theirs)
    ours, theirs = ([cell for cell in cells if cell.report.seed in seeds] for cells in (ours, theirs))
    each = paired(
        {cell.report.seed: cell.report.student.score for cell in ours},
        {cell.report.seed: getattr(cell.report, who).score for cell in theirs},
    )
    average, half = interval(each)
    if half is not None and all_equal(each):
        half = 0.0  # without what rounding leaves of it
    differences = draws.mean(ours, "student") - draws.mean(theirs, who)
    p_examples, p_seeds = p_of_resamples(differences), p_of_seeds(each)
    return Contrast(
        task=ours[0].task,
        student=student,
        arm=method,
        against=against,
        of_distillation=of_distillation,
        seeds=len(seeds),
        examples=_gap(average, differences),
        half=half,
        p_examples=p_examples,
        p_seeds=p_seeds,
        holm_examples=p_examples,
        holm_seeds=p_seeds,
    )


def _adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The comparisons of a task with p-values adjusted for their number, each of the two questions by itself."""
    examples = holm([one.p_examples for one in contrasts])
    known = [one.p_seeds for one in contrasts if one.p_seeds is not None]
    seeds = iter(holm(known))
    return [
        one.model_copy(
            update={"holm_examples": p, "holm_seeds": None if one.p_seeds is None else next(seeds)},
        )
        for one, p in zip(contrasts, examples, strict=True)
    ]


def _notes(ground: TaskGround, found: Sequence[Finished], arms: Sequence[ComparedArm]) -> list[str]:
    """What to bear in mind of a task's scores."""
    notes = []
    steps = {f"{arm.method} {arm.steps:,}": arm.steps for arm in arms}
    if len(set(steps.values())) > 1 and ground.flops is None:
        notes.append(f"On {ground.name} the arms were trained for different numbers of steps: {', '.join(steps)}.")
    chance = found[0].report.chance.get(ground.metric) if found else None
    if chance is not None:
        constant = [
            f"{arm.name} with {arm.student}" if arm.student else arm.name
            for arm in arms
            if no_better({"score": arm.mean}, {"score": chance}, ground.examples)
        ]
        if constant:
            notes.append(
                f"On {ground.name} no better than a constant answer ({ground.metric} {chance:.3f}): {'; '.join(constant)}."
            )
    teachers = [table for cell in found if (table := cell.table("teacher")) is not None]
    if any(not np.array_equal(teachers[0], one) for one in teachers[1:]):
        notes.append(
            f"The teacher of {ground.name} did not predict the same in all cells: it has changed between them."
        )
    if len({tuple(arm.scores) for arm in arms}) > 1:
        notes.append(f"On {ground.name} not all arms have the same seeds; comparisons use those that both sides have.")
    return notes
