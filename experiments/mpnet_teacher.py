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
from collections.abc import Iterator
from pathlib import Path

import common

from tutelage.methods import METHODS
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Copied, Fresh, Student
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Results, settings
from tutelage.studies.study import paired

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
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    for task in arguments.tasks.split(","):
        data, place = common.task_data(arguments, task), arguments.work / task
        if arguments.max_train is not None:
            data = data.model_copy(update={"max_train": arguments.max_train})
        recipe = finetune(
            Checkpoint(name=str(arguments.models / "all-mpnet-base-v2")),
            epochs=arguments.teacher_epochs,
            lr=arguments.teacher_lr,
        )
        stages = [stage.model_copy(update={"max_steps": arguments.max_steps}) for stage in recipe.stages]
        config = RunConfig(
            recipe=recipe.model_copy(update={"stages": stages}),
            data=data,
            out=str(place / "teacher"),
            baseline=False,
            mixed_precision=arguments.mixed_precision,
        )
        report = run(config, resume=True)
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report, *KEYS)}
        yield results
        if arguments.share == "shared":
            continue
        results["runs"] += common.carry_out(
            arguments, place, {arm: recipe_for(arm, arguments) for arm in arguments.arms.split(",")}, data,
            range(arguments.seeds), keys=KEYS, teacher=str(place / "teacher"),
            allow_weak_teacher=arguments.max_steps is not None, about={"task": task},
        )  # fmt: skip
        yield results


def page(results: Results, out: Path) -> Results:
    gains, lines = {}, []
    for task, theirs in results["teachers"].items():
        known = common.flat(theirs["scores"])
        scores = {metric: common.by_arm(results["runs"], metric, task=task) for metric in known}
        first, *_ = known
        cells = []
        for arm, values in scores[first].items():
            rows, (student, _, method) = common.of(results["runs"], task=task, arm=arm), arm.partition("-")
            plain = scores[first].get(f"{student}-finetune", {})
            if method != "finetune":
                gains[f"{arm} on {task}"] = paired(values, plain)
            cells.append(
                [student, method, str(len(rows)), *(shown([*scores[m][arm].values()], digits=4) for m in known)]
            )
            cells[-1] += [
                "-" if method == "finetune" or not plain else common.gain(values, plain, 4),
                f"{rows[0]['parameters'] / 1e6:.1f} M",
                f"{rows[0]['speedup']:.1f}x",
            ]
        heads = ["student", "method", "seeds", *known, f"gain in {first}", "parameters", "speed-up"]
        lines += [f"## {task}", "", f"Teacher: {common.named(known)}", "", *table(heads, cells)]
    command = SCRIPT.command(results["settings"], f"{common.GLUE} --models path/to/models")
    return {"count": len(gains), "tally": common.tally(gains), "tasks": lines, "command": command}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
