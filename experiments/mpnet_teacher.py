"""A teacher of BERT's size with another tokenizer: MPNet, distilled into BERT students and cut to half its layers.

    python experiments/mpnet_teacher.py --data-dir path/to/glue --models path/to/models

fine-tunes ``all-mpnet-base-v2`` (12 layers x 768, 109 M parameters) on a task and distils it by several methods. ``--models``
holds the folders ``all-mpnet-base-v2`` and ``all-MiniLM-L6-v2``. The students: ``fresh``, a BERT of 6 layers x 384 with random
weights and the teacher's tokenizer; ``minilm``, MiniLM of the same size with a tokenizer of its own, which cuts texts alike but
has other ids and one special token less between two texts; ``cut``, six of the teacher's layers. Writes
``results/mpnet_teacher.json`` and ``docs/results/mpnet_teacher.md``. A stopped experiment continues where it was.

All arms of a student have the same start, the same number of optimiser steps and the same peak rate. ``finetune`` is the
student without distillation. With ``--texts N``, ``minilm`` is also
distilled on N further texts of the task without their labels, and fine-tuned on the labels for as many steps.

Teacher and students are also written as ONNX in int8, scored, and timed in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import as_served
import common
import numpy as np

from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Checkpoint, Copied, Fresh, Student
from tutelage.studies.pages import shown
from tutelage.studies.script import Arguments, Results, write
from tutelage.studies.study import folder_name
from tutelage.tasks.load import load_data

KEYS = ("score", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")
STUDENTS = {
    "fresh": ("finetune", "kd", "pkd", "distilbert"),
    "minilm": ("finetune", "kd", "pkd", "distilbert", "minilmv2", "compact"),
    "cut": ("finetune", "kd", "pkd"),
}
LONGER, TEXTS = "minilm-finetune, longer", "minilm-compact, texts"
ARMS = [f"{student}-{method}" for student, methods in STUDENTS.items() for method in methods]

PLACES = f"{common.GLUE} --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "mpnet_teacher", tasks="mrpc,sst2", seeds=1, precision="no", places=PLACES)
SCRIPT.add_argument("--models", type=Path, help="folder with all-mpnet-base-v2 and all-MiniLM-L6-v2")
SCRIPT.add_argument("--arms", default=",".join(ARMS), help="student-method, separated by commas")
SCRIPT.add_argument("--epochs", type=int, default=3)
SCRIPT.add_argument("--lr", type=float, default=1e-4, help="peak rate of the students of 384")
SCRIPT.add_argument("--teacher-epochs", type=int, default=2)
SCRIPT.add_argument("--teacher-lr", type=float, default=2e-5, help="peak rate of the teacher and of its cut student")
SCRIPT.add_argument("--texts", type=int, default=0, help="further texts of the task, without their labels")
SCRIPT.add_argument("--max-steps", type=int, help="at most so many steps of each stage, for a trial")
SCRIPT.add_argument("--max-train", type=int, help="at most so many training rows, for a trial")


def student_of(name: str, models: Path) -> Student:
    """The student of an arm."""
    return {
        "fresh": Fresh(family="bert", layers=6, hidden=384, heads=12, intermediate=1536),
        "minilm": Checkpoint(name=str(models / "all-MiniLM-L6-v2")),
        "cut": Copied(layers=6, choose="spread"),
    }[name]


def recipe_for(arm: str, arguments: Arguments) -> Recipe:
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


def measure(arguments: Arguments) -> Iterator[Results]:
    def data_of(arguments: Arguments, task: str) -> DataConfig:
        data = common.task_data(arguments, task)
        return data if arguments.max_train is None else data.model_copy(update={"max_train": arguments.max_train})

    recipes = {arm: recipe_for(arm, arguments) for arm in arguments.arms.split(",") if arm}
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.teacher_lr, "max_steps": arguments.max_steps}
    taught["start"] = arguments.models / "all-mpnet-base-v2"
    how: dict[str, Any] = {"allow_weak_teacher": arguments.max_steps is not None, "teacher_store": "auto", "keys": KEYS}
    files = {
        task: further_texts(data_of(arguments, task), arguments.texts, arguments.work / task / "texts.txt")
        for task in arguments.tasks.split(",")
        if arguments.texts
    }
    *_, results = common.on_tasks(arguments, recipes, taught, data=data_of, **how)
    if arguments.share == "shared":
        return
    for task in arguments.tasks.split(","):
        data, place = data_of(arguments, task), arguments.work / task
        if arguments.texts:
            file, rows = files[task]
            more = data.model_copy(update={"unlabeled": str(file)})
            for given, arm, name, epochs in (
                (data, "minilm-finetune", LONGER, round(arguments.epochs * (1 + arguments.texts / rows))),
                (more, "minilm-compact", TEXTS, arguments.epochs),
            ):
                longer = Arguments(**{**vars(arguments), "epochs": epochs})
                results["runs"] += common.carry_out(
                    arguments, place, {name: recipe_for(arm, longer)}, given, range(arguments.seeds),
                    about={"task": task}, teacher=str(place / "teacher"), **how,
                )  # fmt: skip
        serve(results, task, data, place)
    yield results  # the page needs all of it


def further_texts(data: DataConfig, count: int, file: Path) -> tuple[Path, int]:
    """A file of texts of the task that are not among its training rows, and the number of rows that are trained on."""
    every = load_data(data.model_copy(update={"max_train": None})).train
    known = set(load_data(data).train.texts)
    others = [text for text in dict.fromkeys(every.texts) if text not in known]
    if every.pairs is not None or len(others) < count:
        SCRIPT.error(f"--texts {count}: {data.task} has {len(others):,} single texts beside the training rows")
    drawn = np.random.default_rng(1).permutation(len(others))[:count]
    write(file, "".join(f"{others[row]}\n" for row in sorted(drawn)))
    return file, round(len(known) * (1 - data.holdout))


def serve(results: Results, task: str, data: DataConfig, place: Path) -> None:
    """Add scores, bytes and times as served to a task's teacher and runs."""
    runs = common.of(results["runs"], task=task)
    places = {"teacher": place / "teacher"}
    places |= {f"{run['arm']}-{run['seed']}": place / f"{folder_name(run['arm'])}-{run['seed']}" for run in runs}
    found = {}
    for name, folder in places.items():
        done = folder / "as_served.json"
        if not done.exists():
            write(done, json.dumps(as_served.measured(as_served.model_of(folder), data, folder / "onnx"), indent=1))
        found[name] = json.loads(done.read_text(encoding="utf-8"))
    times = as_served.times(places, data, again=False)
    results["teachers"][task]["served"] = {**found["teacher"], "ms": times["teacher"]}
    for run in runs:
        name = f"{run['arm']}-{run['seed']}"
        run["served"] = {**found[name], "ms": times[name]}


def page(results: Results) -> Results:
    metric = {task: next(iter(common.flat(teacher["scores"]))) for task, teacher in results["teachers"].items()}

    def speed(run: Mapping[str, Any]) -> float:
        return results["teachers"][run["task"]]["served"]["ms"]["pytorch"] / run["served"]["ms"]["int8"]

    def about(teacher: Results) -> str:
        served, form = teacher["served"], "int8"
        return (
            f"; {served['ms']['pytorch']:.1f} ms. In int8: {common.named(served['scores'][form])}; "
            f"{served['bytes'][form] / 1e6:.1f} MB, {served['ms'][form]:.1f} ms."
        )

    columns: dict[str, Callable[[common.Runs], str]] = {
        "in int8": lambda runs: shown([run["served"]["scores"]["int8"][metric[run["task"]]] for run in runs], digits=4),
        "int8 MB": lambda runs: f"{runs[0]['served']['bytes']['int8'] / 1e6:.1f}",
        "int8 ms": lambda runs: f"{np.median([run['served']['ms']['int8'] for run in runs]):.2f}",
        "int8 speed": lambda runs: f"{np.median([speed(run) for run in runs]):.1f}x",
    }
    fields = common.tables_of_tasks(results, columns=columns, about=about)
    count = results["settings"]["texts"]
    texts = f" *texts*: with {count:,} further texts of the task, without their labels; *longer*: the labels for as many steps."
    return {**fields, "texts": texts if count else ""}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
