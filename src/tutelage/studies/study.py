"""A study: several arms, each run with several seeds and compared by paired differences.

An arm is a :class:`~tutelage.recipes.config.RunConfig`; a seed changes nothing else. Runs lie in ``OUT/ARM-SEED``. What they
measure is in ``OUT/study.json``, which is written after every run, so a stopped study continues where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from tutelage.artifacts import unwritable, write_json, write_text
from tutelage.data.given import FOLDER
from tutelage.errors import TutelageError, option
from tutelage.recipes.config import RunConfig
from tutelage.recipes.settings import changes
from tutelage.run.run import run
from tutelage.run.workspace import LOCK
from tutelage.tasks.load import load_data

FILE = "study.json"


def check_folder(folder: Path, file: str, what: str, asked: str | None, beside: Collection[str] = ()) -> None:
    """Check that a folder is new, empty, or holds the same study.

    Args:
        folder: The folder.
        file: The file that says what the study in it was asked.
        what: What messages call the study.
        asked: What is asked now; None if it may change.
        beside: Names that may lie in the folder before the study begins.

    Raises:
        TutelageError: it holds something else, or a study that was asked something else.
    """
    before = folder / file
    if before.exists():
        if asked is not None and (theirs := before.read_text(encoding="utf-8")) != asked:
            raise TutelageError(
                f"{str(folder)!r} holds a {what} with other settings ({changes(theirs, asked)}); repeat the command with its "
                f"settings, or give another {option('out')}"
            )
    elif folder.is_dir() and {path.name for path in folder.iterdir()} - {FOLDER, LOCK, *beside}:
        raise TutelageError(
            f"{str(folder)!r} is not empty and holds no {what}; give an empty or new folder to {option('out')}"
        )


def take_folder(folder: Path, file: str, asked: str) -> None:
    """Make the folder of a study, with the file that says what it was asked.

    Raises:
        TutelageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / file, asked)
    except OSError as error:
        raise unwritable(folder, error) from None


class Interval(NamedTuple):
    """Mean of several seeds and half of its 95 % interval by Student's t; ``half`` is None for a single seed."""

    mean: float
    half: float | None


def interval(values: Sequence[float]) -> Interval:
    """The mean of ``values`` with half of its 95 % interval, ``t(0.975, n - 1) * s / sqrt(n)``."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None)
    return Interval(mean, float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """The differences ``ours - theirs`` of the seeds that both have."""
    return [value - theirs[seed] for seed, value in ours.items() if seed in theirs]


class Outcome(BaseModel):
    """What one run of a study measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    seed: int
    settings: str
    """Digest of the run's settings without its folder. An arm with other settings has another digest."""
    metric: str
    """The first metric of the task."""
    scores: dict[str, float]
    """Scores on the evaluation set, by metric; empty for a run on raw text."""
    steps: int
    seconds: float
    more: dict[str, Any] = {}
    """The result of the study's ``keep``."""


class Study(BaseModel):
    """The finished runs of a study, in the order of seeds and arms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcomes: list[Outcome] = []

    def of(self, arm: str) -> list[Outcome]:
        """The runs of one arm."""
        return [outcome for outcome in self.outcomes if outcome.arm == arm]

    def scores(self, arm: str, metric: str | None = None) -> dict[int, float]:
        """The scores of one arm by seed, in ``metric`` or in the first metric of the task."""
        return {outcome.seed: outcome.scores[metric or outcome.metric] for outcome in self.of(arm)}

    def difference(self, arm: str, other: str, metric: str | None = None) -> Interval | None:
        """How much higher ``arm`` scores than ``other``, paired by seed; None without a common seed."""
        differences = paired(self.scores(arm, metric), self.scores(other, metric))
        return interval(differences) if differences else None


def study(
    out: str | Path,
    arms: Mapping[str, RunConfig],
    seeds: Sequence[int],
    *,
    keep: Callable[[RunConfig, dict[str, Any]], dict[str, Any]] = lambda config, report: {},
    part: tuple[int, int] = (0, 1),
    quiet: bool = False,
) -> Study:
    """Run every arm with every seed and collect what the runs measure. Finished runs are not repeated.

    Seeds are the outer loop: an interrupted study has fewer seeds, not fewer arms. Runs of earlier calls with other arms or
    seeds stay in ``OUT/study.json``; the returned study has only those of this call.

    Args:
        out: Folder of the study.
        arms: Settings by arm; their ``seed`` and ``out`` are replaced.
        seeds: Seeds of every arm.
        keep: Takes what the caller wants from a run's settings and report; it is stored as :attr:`Outcome.more`.
        part: ``(k, n)``: run only every n-th run, from the k-th on, to divide a study between n processes. Runs of the others
            are collected if they are finished. Only the undivided study ``(0, 1)`` writes ``OUT/study.json``.
        quiet: Show nothing.

    Raises:
        TutelageError: when an arm was run with other settings before, before anything is run; and as :func:`tutelage.run.run.run`.
    """
    folder, (which, parts) = Path(out), part
    known = finished(folder)
    wanted: list[tuple[str, int, str, RunConfig]] = []
    for seed in seeds:
        for arm, config in arms.items():
            place = str(folder / f"{folder_name(arm)}-{seed}")
            ours = config.model_copy(update={"seed": seed, "out": place})
            settings = digest(ours)
            before = known.get((arm, seed))
            if before is not None and before.settings != settings:
                raise TutelageError(
                    f"{str(folder / FILE)!r} has arm {arm!r} with seed {seed} and other settings; give the settings it was "
                    "run with, or another folder"
                )
            wanted.append((arm, seed, settings, ours))
    found: list[Outcome] = []
    read = lru_cache(maxsize=1)(load_data)  # arms differ in their data rarely, and then data may be large
    for number, (arm, seed, settings, config) in enumerate(wanted):
        outcome = known.get((arm, seed))
        if outcome is None:
            done = (Path(str(config.out)) / "report.json").exists()
            if not done and number % parts != which:
                continue
            report = run(config, resume=True, quiet=quiet or done, read=read)
            outcome = known[arm, seed] = _outcome(arm, seed, settings, report, keep(config, report))
            if parts == 1:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / FILE, Study(outcomes=list(known.values())))
        found.append(outcome)
    return Study(outcomes=found)


def finished(folder: Path) -> dict[tuple[str, int], Outcome]:
    """The runs that a study's folder already lists, by arm and seed."""
    path = folder / FILE
    if not path.exists():
        return {}
    outcomes = Study.model_validate_json(path.read_text(encoding="utf-8")).outcomes
    return {(outcome.arm, outcome.seed): outcome for outcome in outcomes}


def folder_name(arm: str) -> str:
    """An arm's name as a part of a folder's name."""
    return arm.replace(", ", "_").replace(" ", "_")


def digest(config: RunConfig) -> str:
    """Sixteen hexadecimal digits of a hash of the settings of a run, without its folder."""
    return hashlib.sha256(config.model_dump_json(exclude={"out"}).encode()).hexdigest()[:16]


def _outcome(arm: str, seed: int, settings: str, report: dict[str, Any], more: dict[str, Any]) -> Outcome:
    stages = report["stages"]
    return Outcome(
        arm=arm,
        seed=seed,
        settings=settings,
        metric=report.get("metric") or "",
        scores=next(iter(report.get("student", {}).get("scores", {}).values()), {}),
        steps=sum(stage["steps"] for stage in stages),
        seconds=report["seconds"],
        more=more,
    )
