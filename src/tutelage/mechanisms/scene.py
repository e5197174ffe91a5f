"""The run as its mechanisms see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.artifacts import read_signed, signed, write_text
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples
from tutelage.data.texts import Texts
from tutelage.knowledge.store.scheme import Dtype
from tutelage.mechanisms.mechanism import StageLike
from tutelage.objectives.objective import ObjectivePlan
from tutelage.progress import Display
from tutelage.students.specs import Student
from tutelage.teachers.knowledge import Knowledge
from tutelage.teachers.source import Source

RECORDS = "mechanisms.json"
"""File in the folder of a run: the records of its mechanisms, by kind of mechanism."""


@dataclass(frozen=True)
class StageScene:
    """One stage of a run."""

    stage: StageLike
    index: int
    plan: ObjectivePlan
    part: str | None
    """In a run on a task, the part of the texts that the stage trains on (a key of ``TaskScene.parts``)."""


@dataclass
class TaskScene:
    """What a run on a task has loaded."""

    data: Data
    given_labels: tuple[str, ...]
    """The classes in the order of the data, before they follow the order of the teacher."""
    config: DataConfig
    teachers: tuple[str, ...]
    """All teachers, if there are several: folders, hub ids, or stores."""
    teacher: Source | None
    knowledge: Knowledge | None
    teacher_store: str | None
    store_dtype: Dtype
    allow_weak_teacher: bool
    everything: Examples
    """All texts that a teacher may predict during training."""
    parts: dict[str, Texts]
    """The texts that stages train on: ``train``; ``augmented`` (with the augmented texts); ``search`` (train without ``held``)."""
    held: Texts | None
    """Training examples that are held out for mechanisms that compare several teachers."""
    held_part: tuple[int, int] | None
    """``(k, n)``: which part of train these are (see :func:`tutelage.data.load.held_part`)."""
    dev: dict[str, Texts]
    train_logits: Callable[[str], Tensor]
    """The teacher's logits on a part of ``parts``: from the store, or computed once."""


@dataclass
class Scene:
    """A run as its mechanisms see it."""

    accelerator: Accelerator
    display: Display
    folder: Path
    seed: int
    stages: list[StageScene]
    student: PreTrainedModel
    """The student of the current stage."""
    spec: Student
    """What the recipe says of it."""
    warnings: list[str]
    task: TaskScene | None = None
    """None for a run on raw text."""
    shared: dict[str, Any] = field(default_factory=dict)
    """State that a kind of mechanism shares over the whole run, by kind."""

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind of mechanism so far, in the order of the stages."""
        return records_in(self.folder, kind)

    def record(self, kind: str, stage: str, values: dict[str, Any]) -> None:
        """Save the record of a stage. It replaces a record of the same stage from before a resume."""
        if not self.accelerator.is_main_process:
            return
        path = self.folder / RECORDS
        tree = read_signed(path) if path.exists() else {}
        others = [one for one in tree.get(kind, []) if one["stage"] != stage]
        write_text(path, signed({**tree, kind: [*others, {"stage": stage, **values}]}))


def records_in(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a kind of mechanism in the folder of a run. Each has its ``stage``."""
    path = folder / RECORDS
    if not path.exists():
        return []
    found: list[dict[str, Any]] = read_signed(path).get(kind, [])
    return found
