"""The training of a run: one stage after another, with checkpoints and a log."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import memory
from tutelage.data import batches
from tutelage.data.batches import Batch, Feed
from tutelage.mechanisms.hook import Hook
from tutelage.objectives.objective import Objective
from tutelage.progress import Display, Event
from tutelage.recipes.recipe import Stage
from tutelage.teachers.teacher import Teacher
from tutelage.training import checkpoint, loop
from tutelage.training.stopping import Stops

PROOF = 8
"""Examples in the batch that hooks receive at the end of a stage."""


@dataclass
class StageWork:
    """One stage, ready to be trained."""

    who: str
    """The trained model: ``student``, or ``baseline`` (the student without distillation)."""
    stage: Stage
    model: PreTrainedModel
    objective: Objective
    feed: Feed
    teacher: Teacher | None = None
    score: Callable[[], float] | None = None
    """Scores the model at the end of every epoch; higher is better."""
    hooks: Callable[[], list[Hook]] = list
    """Makes the hooks of the stage's mechanisms. Called when the model has the weights at the start of the stage."""
    floor: float | None = None
    """The model is scored before the first step, too, and that start may be kept if it scores more than this. None: it is not."""


def train_stages(
    count: int,
    begin: Callable[[int, list[loop.StageLog]], StageWork],
    end: Callable[[StageWork, dict[str, Tensor]], dict[str, str]],
    folder: Path,
    accelerator: Accelerator,
    display: Display,
    seed: int,
    resumed: checkpoint.State | None,
    stops: Stops,
) -> list[loop.StageLog]:
    """Train ``count`` stages, each made by ``begin`` just before it starts, and return their logs.

    The main process calls ``end`` after each stage of the student, with the projections of all stages so far under
    ``STAGE.NAME``; checkpoints keep the checksums that it returns, as ``kept``. A ``resumed`` run skips finished stages and
    continues within the one that was interrupted. Checkpoints keep the configuration of the trained model as ``config``.
    """
    logs = [loop.StageLog(**log) for log in resumed["logs"]] if resumed else []
    lines = folder / "metrics.jsonl"
    if lines.exists() and accelerator.is_main_process:
        _shorten(lines, resumed["logged"] if resumed else 0)
    projections: dict[str, Tensor] = resumed["finished.safetensors"] if resumed else {}
    lasting: checkpoint.State = {"finished.safetensors": projections, "kept": resumed["kept"] if resumed else {}}
    for index in range(0 if resumed is None else resumed["work"], count):
        within = resumed if resumed is not None and index == resumed["work"] else None
        work = begin(index, logs)
        work.objective.continue_from(_left(projections, logs))
        begun = within is not None and "log" in within
        if within is not None and (begun or (work.who == "student" and not work.stage.fresh)):
            # Before a hook holds references to the model's parts, which loading may replace.
            work.model.load_state_dict(within["student.safetensors"])
        hooks = work.hooks()
        module = loop.DistillationModule(work.model, work.objective)

        def save(state: checkpoint.State, index: int = index, work: StageWork = work) -> None:
            seconds = sum(log.seconds for log in logs) + state.get("log", {}).get("seconds", 0.0)
            config = work.model.config.to_json_string(use_diff=False)
            common = {"work": index, "logs": [vars(log) for log in logs], "seconds_before": seconds, "config": config}
            checkpoint.save(folder / "checkpoint", {**common, **lasting, "logged": _size(lines), **state})

        def report(event: Event, who: str = work.who, before: int = sum(log.steps for log in logs)) -> None:
            display.event(who if count > 1 else "", event)
            if accelerator.is_main_process:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"who": who, **vars(event)}) + "\n")
            values = {**event.losses, "lr": event.lr, **({} if event.score is None else {"validation": event.score})}
            place = f"{who}/{event.stage}"  # trackers want steps that grow through all stages
            accelerator.log({f"{place}/{name}": value for name, value in values.items()}, step=before + event.step)

        with stops.steps():
            log = loop.train(
                work.stage,
                module,
                work.teacher,
                work.feed,
                accelerator,
                seed,
                score=work.score,
                resumed=within if begun else None,
                save=save,
                report=report,
                hooks=hooks,
                asked=stops.asked,
                say=display.say,
                floor=work.floor,
            )
        module.close()
        changed = [hook.finish(lambda work=work: _proof(work, accelerator)) for hook in hooks]  # type: ignore[misc]
        if any(changed) and work.score is not None:
            work.score()  # what is reported of the stage's end is the changed student's
        if work.teacher is not None:
            work.teacher.close()
        projections |= {f"{work.stage.name}.{k}": v for k, v in work.objective.projections.state_dict().items()}
        logs.append(log)
        memory.trim()
        if work.who == "student" and accelerator.is_main_process:
            lasting["kept"] = end(work, projections)
            save({"work": index + 1, "student.safetensors": work.model.state_dict()})
        accelerator.wait_for_everyone()
    return logs


def _left(projections: dict[str, Tensor], logs: list[loop.StageLog]) -> dict[str, Tensor]:
    """The projections of these stages by name without the stage; where several have the name, the last one's."""
    found: dict[str, Tensor] = {}
    for log in logs:
        stage = f"{log.name}."
        found |= {name.removeprefix(stage): x for name, x in projections.items() if name.startswith(stage)}
    return found


def _shorten(lines: Path, logged: int) -> None:
    """What a killed run logged after its last checkpoint will be logged again."""
    with lines.open("r+b") as file:
        file.truncate(min(logged, _size(lines)))


def _proof(work: StageWork, accelerator: Accelerator) -> Batch:
    some = work.feed.read(0, work.feed.rows(0)[:PROOF])
    batch = next(batches.step_batches(some, np.arange(len(some)), 0, 1, work.stage.max_tokens))
    return batch.to(accelerator.device)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
