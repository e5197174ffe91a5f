"""A run's training: one stage after another, with checkpoints and a log, whatever the stages are about."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import progress
from tutelage.artifacts import write_text
from tutelage.data import batches
from tutelage.data.batches import Feed
from tutelage.mechanisms.pruning.pruner import Forgetter
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.objectives.objective import Objective
from tutelage.progress import Display
from tutelage.recipes.recipe import Stage
from tutelage.teachers.teacher import Teacher
from tutelage.training import checkpoint, loop

INHERITED = "inherited.json"
"""In the folder of a run: what a student with compactors has kept of its teacher."""


PROOF = 8
"""Rows on which a merged student is compared with what it was merged from."""


@dataclass
class Work:
    """One stage, ready to be trained; ``who`` learns: the student, or the baseline beside it."""

    who: str
    stage: Stage
    model: PreTrainedModel
    objective: Objective
    feed: Feed
    teacher: Teacher | None = None
    score: Callable[[], float] | None = None
    weigher: Weigher | None = None
    settle: Callable[[], None] = lambda: None
    """What is to be written down when the stage is over."""


def train_stages(
    count: int,
    begin: Callable[[int, list[loop.StageLog]], Work],
    end: Callable[[Work, dict[str, Tensor]], None],
    folder: Path,
    accelerator: Accelerator,
    display: Display,
    seed: int,
    resumed: checkpoint.State | None,
) -> list[loop.StageLog]:
    """Train ``count`` pieces of work, each made by ``begin`` when its turn comes; returns their logs.

    ``end`` is called by the main process when a stage is done, with the projections of all stages so far under
    ``STAGE.NAME``. A run that is ``resumed`` skips what it had finished and goes on within the piece it was in.
    """
    logs = [loop.StageLog(**log) for log in resumed["logs"]] if resumed else []
    lines = folder / "metrics.jsonl"
    if lines.exists() and accelerator.is_main_process:
        # What the killed run logged after its last checkpoint will be logged again.
        with lines.open("r+b") as file:
            file.truncate(resumed["logged"] if resumed else 0)
    before = folder / "projections.safetensors"
    projections: dict[str, Tensor] = load_file(before) if resumed and before.exists() else {}
    start = 0 if resumed is None else resumed["work"]
    for index in range(start, count):
        within = resumed if resumed is not None and index == start else None
        work = begin(index, logs)
        begun = within is not None and "log" in within
        if within is not None and (begun or (work.who == "student" and not work.stage.fresh)):
            # Before anything holds on to its parts: a student with compactors may be another by now.
            work.model.load_state_dict(within["student.safetensors"])
        forgetter = None
        if work.stage.forgetting is not None and work.who == "student":
            forgetter = Forgetter(work.stage.forgetting, work.model)
        lesson = loop.Lesson(work.model, work.objective)

        def save(state: checkpoint.State, index: int = index) -> None:
            seconds = sum(log.seconds for log in logs) + state.get("log", {}).get("seconds", 0.0)
            common = {"work": index, "logs": [vars(log) for log in logs], "seconds_before": seconds}
            checkpoint.save(folder / "checkpoint", {**common, "logged": _size(lines), **state})

        def tell(event: progress.Event, who: str = work.who, before: int = sum(log.steps for log in logs)) -> None:
            display.event(who if count > 1 else "", event)
            if accelerator.is_main_process:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"who": who, **vars(event)}) + "\n")
            values = {**event.losses, "lr": event.lr, **({} if event.score is None else {"selection": event.score})}
            # Trackers want steps that grow through all stages.
            place = {f"{who}/{event.stage}/{name}": value for name, value in values.items()}
            accelerator.log(place, step=before + event.step)

        log = loop.train(
            work.stage,
            lesson,
            work.teacher,
            work.feed,
            accelerator,
            seed,
            score=work.score,
            resumed=within if begun else None,
            save=save,
            report=tell,
            beside=forgetter or work.weigher,
        )
        lesson.close()
        if forgetter is not None:
            some = work.feed.read(0, work.feed.rows(0)[:PROOF])
            batch = next(batches.step_batches(some, np.arange(len(some)), 0, 1, work.stage.max_tokens))
            record = forgetter.merge(batch.to(accelerator.device))
            if (note := forgetter.doubt(record)) is not None:
                display.say(note)
            if work.score is not None:
                work.score()  # what is reported of the stage's end is the merged student's
            if accelerator.is_main_process:
                write_text(folder / INHERITED, json.dumps(record))
        work.settle()
        if work.teacher is not None:
            work.teacher.close()
        projections |= {f"{work.stage.name}.{k}": v for k, v in work.objective.projections.state_dict().items()}
        logs.append(log)
        if work.who == "student" and accelerator.is_main_process:
            end(work, projections)
            save({"work": index + 1, "student.safetensors": work.model.state_dict()})
        accelerator.wait_for_everyone()
    return logs


def inherited(folder: Path) -> dict[str, Any] | None:
    """For the report: what a student with compactors has kept of its teacher (see :meth:`Forgetter.merge`)."""
    path = folder / INHERITED
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
