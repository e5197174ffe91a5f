"""A teacher of BERT's size with another tokenizer: MPNet, distilled into BERT students and cut to half its layers.

    python experiments/mpnet_teacher.py --data-dir path/to/glue --models path/to/models

fine-tunes ``all-mpnet-base-v2`` (12 layers x 768, 109 M parameters) on a task and distils it by several methods. ``--models``
holds the folders ``all-mpnet-base-v2`` and ``all-MiniLM-L6-v2``. The students: ``fresh``, a BERT of 6 layers x 384 with random
weights and the teacher's tokenizer; ``minilm``, MiniLM of the same size with a tokenizer of its own, which cuts texts alike but
has other ids and one special token less between two texts; ``cut``, six of the teacher's layers. Writes
``results/mpnet_teacher.json`` and ``docs/results/mpnet_teacher.md``. A stopped experiment continues where it was.

All arms of a student have the same start, the same number of optimiser steps and the same peak rate. ``finetune`` is the
student without distillation. PKD compares vectors of equal width, so only ``cut`` has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import common

from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Checkpoint, Copied, Fresh, Student
from tutelage.studies.script import Results

KEYS = ("score", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")
STUDENTS = {
    "fresh": ("finetune", "kd", "distilbert"),
    "minilm": ("finetune", "kd", "distilbert", "minilmv2"),
    "cut": ("finetune", "kd", "pkd"),
}
ARMS = [f"{student}-{method}" for student, methods in STUDENTS.items() for method in methods]

SCRIPT = common.options(__file__, __doc__, "mpnet_teacher", tasks="mrpc,sst2", seeds=1, precision="no")
SCRIPT.add_argument("--models", type=Path, help="folder with all-mpnet-base-v2 and all-MiniLM-L6-v2")
SCRIPT.add_argument("--arms", default=",".join(ARMS), help="student-method, separated by commas")
SCRIPT.add_argument("--epochs", type=int, default=3)
SCRIPT.add_argument("--lr", type=float, default=1e-4, help="peak rate of the students of 384")
SCRIPT.add_argument("--teacher-epochs", type=int, default=2)
SCRIPT.add_argument("--teacher-lr", type=float, default=2e-5, help="peak rate of the teacher and of its cut student")
SCRIPT.add_argument("--max-steps", type=int, help="at most so many steps of each stage, for a trial")
SCRIPT.add_argument("--max-train", type=int, help="at most so many training rows, for a trial")


def student_of(name: str, models: Path) -> Student:
    """The student of an arm."""
    return {
        "fresh": Fresh(family="bert", layers=6, hidden=384, heads=12, intermediate=1536),
        "minilm": Checkpoint(name=str(models / "all-MiniLM-L6-v2")),
        "cut": Copied(layers=6, choose="spread"),
    }[name]


def recipe_for(arm: str, arguments: argparse.Namespace) -> Recipe:
    """The recipe of ``student-method``; stages share the epochs, the last has one at least."""
    student, _, method = arm.partition("-")
    recipe, epochs = METHODS[method]().part("task"), arguments.epochs
    shares = [epochs] if len(recipe.stages) == 1 else [epochs - max(1, epochs // 3), max(1, epochs // 3)]
    lr = arguments.teacher_lr if student == "cut" else arguments.lr
    stages = [
        stage.model_copy(update={"epochs": share, "lr": lr, "max_steps": arguments.max_steps})
        for stage, share in zip(recipe.stages, shares, strict=True)
    ]
    return recipe.model_copy(update={"student": student_of(student, arguments.models), "stages": stages})


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    def data_of(arguments: argparse.Namespace, task: str) -> DataConfig:
        data = common.task_data(arguments, task)
        return data if arguments.max_train is None else data.model_copy(update={"max_train": arguments.max_train})

    recipes = {arm: recipe_for(arm, arguments) for arm in arguments.arms.split(",")}
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.teacher_lr, "max_steps": arguments.max_steps}
    taught["start"] = arguments.models / "all-mpnet-base-v2"
    trial = arguments.max_steps is not None
    return common.on_tasks(arguments, recipes, taught, data=data_of, keys=KEYS, allow_weak_teacher=trial)


def page(results: Results, out: Path) -> Results:
    columns: dict[str, Callable[[common.Runs], str]] = {
        "parameters": lambda runs: f"{runs[0]['parameters'] / 1e6:.1f} M",
        "speed-up": lambda runs: f"{runs[0]['speedup']:.1f}x",
    }
    return common.tables_of_tasks(SCRIPT, results, f"{common.GLUE} --models path/to/models", columns=columns)


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
