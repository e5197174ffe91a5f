"""What a teacher can still say of texts that it has learnt, and what teaches more.

    python experiments/learnt_texts.py --squad path/to/train-v1.1.json.gz --corpus path/to/core-000.txt.gz

A teacher that was fine-tuned on the labels of a text is nearly always sure of them, so that its predictions on its own training
texts say little more than the labels. Fine-tunes MiniLM (6 layers x 384) on tasks that no other results report
(``tuning_tasks.py``), and distils it into its layers 1, 2 and 6 by other losses, from out-of-fold predictions
(``tutelage crossfit``), and with further texts, without labels or made by rules, all in as many steps. Writes
``results/learnt_texts.json`` and ``docs/results/learnt_texts.md``. A stopped experiment continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import numpy as np
from safetensors import safe_open
from tuning_tasks import TASKS, tuning_data

from tutelage.data.augmentation.rules import Rules
from tutelage.data.config import DataConfig, Predictions
from tutelage.knowledge import out_of_fold
from tutelage.methods.finetune import finetune
from tutelage.objectives.predictions import HardLabels, LogitsMSE, SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.run.measure import PREDICTIONS as PREDICTED
from tutelage.students.specs import Checkpoint, Copied
from tutelage.studies.crossfit import PREDICTIONS, crossfit
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Arguments, Results, settings
from tutelage.studies.study import folder_name

PLACES = "--squad path/to/train-v1.1.json.gz --corpus path/to/core-000.txt.gz"
SCRIPT = common.options(
    __file__, __doc__, "learnt_texts", tasks=",".join(TASKS), seeds=3, precision="no", places=PLACES
)
SCRIPT.add_argument("--squad", type=Path, help="SQuAD 1.1's training file")
SCRIPT.add_argument("--corpus", type=Path, help="a file of paragraphs, one a line")
SCRIPT.add_argument(
    "--epochs", type=int, default=4, help="passes over the labelled texts; half as many over twice the texts"
)
SCRIPT.add_argument("--folds", type=int, default=2)

HARD = HardLabels(weight=0.3)
LOSSES: dict[str, list[AnyTerm]] = {
    "labels": [HardLabels()],
    "soft T=2 + labels": [SoftLabels(temperature=2.0, weight=0.7), HARD],
    "soft T=8 + labels": [SoftLabels(temperature=8.0, weight=0.7), HARD],
    "logits": [LogitsMSE()],
}
"""The teacher's predictions, and what is compared."""
TEXTS = ("soft T=2 + labels",)
"""Losses that are also measured with further texts."""
REPEATED = ("labels", TEXTS[0], "out-of-fold T=2 + labels")
"""Arms that other seeds repeat."""


def arm(terms: list[AnyTerm], epochs: int) -> Recipe:
    stage = Stage(name="distill", objective=terms, epochs=epochs, lr=2e-4)
    return Recipe(method="arm", title="An arm", paper="none", student=Copied(layers=[1, 2, 6]), stages=[stage])


def made(terms: list[AnyTerm], epochs: int) -> Recipe:
    """The same with another text made of each one by rules; only the teacher answers for it."""
    recipe = arm(terms, epochs)
    stages = [stage.model_copy(update={"data": "augmented"}) for stage in recipe.stages]
    return recipe.model_copy(update={"stages": stages, "augmentation": Rules(iterations=1)})


def of_folds(arguments: Arguments, place: Path) -> Recipe:
    """The same student; predictions have no layers, so it names the teacher that these are of."""
    recipe = arm(LOSSES[TEXTS[0]], arguments.epochs)
    return recipe.model_copy(update={"student": Copied(layers=[1, 2, 6], source=str(place / "teacher"))})


def folds_of(arguments: Arguments, task: str, data: DataConfig) -> Path:
    """A file of out-of-fold predictions for the training texts, of models like the teacher."""
    place = arguments.work / task / "folds"
    if not (place / out_of_fold.MANIFEST).exists():
        recipe = finetune(Checkpoint(name=str(pretrained())), epochs=4, lr=2e-4)
        crossfit(RunConfig(recipe=recipe, data=data, out=str(place), baseline=False), arguments.folds)
    return place / PREDICTIONS


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": [], "texts": {}}
    for task in arguments.tasks.split(","):
        small = tuning_data(arguments.work / "data", task, arguments.squad, arguments.corpus)
        data = small.model_copy(update={"dev": str(small.dev).replace("-dev", "-test")})
        place = arguments.work / task
        report = common.teacher(arguments, task, data, epochs=4, lr=2e-4)
        file = folds_of(arguments, task, data)
        right = out_of_fold.PredictionsManifest.read(file.parent).accuracy
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report), "folds": right}
        taught = {"teacher": str(place / "teacher"), "teacher_store": "auto"}
        more = data.model_copy(update={"unlabeled": str(small.dev).replace("-dev", "-more")})
        folds = data.model_copy(update={"predictions": Predictions(file=str(file), gold=0.0)})
        parts = [
            (folds, {"out-of-fold T=2 + labels": of_folds(arguments, place)}, {}),
            (data, {name: arm(terms, arguments.epochs) for name, terms in LOSSES.items()}, taught),
            (more, {f"{name}, more texts": arm(LOSSES[name], arguments.epochs // 2) for name in TEXTS}, taught),
            (data, {f"{name}, made texts": made(LOSSES[name], arguments.epochs // 2) for name in TEXTS}, taught),
        ]
        for seed in range(arguments.seeds):
            for some, recipes, settings_ in parts:
                chosen = {name: recipe for name, recipe in recipes.items() if seed == 0 or name in REPEATED}
                results["runs"] += common.carry_out(
                    arguments, place, chosen, some, [seed], about={"task": task}, **settings_,
                    more=lambda config, report: {"last_losses": {
                        name: values[-1][1] for name, values in report["stages"][0]["losses"].items()
                    }},
                ) if chosen else []  # fmt: skip
                yield results
        results["texts"][task] = {
            f"{ours} - {theirs}": difference(place, ours, theirs, range(arguments.seeds))
            for ours, theirs in ((REPEATED[2], REPEATED[0]), (REPEATED[2], REPEATED[1]), (REPEATED[1], REPEATED[0]))
        }
        yield results


def difference(place: Path, ours: str, theirs: str, seeds: Sequence[int]) -> tuple[float, float]:
    """How much more of the texts one arm gets right, mean over seeds, and half of the 95 % interval over texts."""

    def right(arm: str) -> np.ndarray:
        found = []
        for seed in seeds:
            with safe_open(place / f"{folder_name(arm)}-{seed}" / PREDICTED, "np") as file:
                answers = file.get_tensor("student")  # beside the label
            found.append(answers[:, 0] == answers[:, 1])
        return np.mean(found, axis=0)

    apart = right(ours) - right(theirs)
    return float(apart.mean()), float(1.96 * apart.std(ddof=1) / np.sqrt(len(apart)))


def page(results: Results) -> Results:
    runs = results["runs"]
    tasks = list(dict.fromkeys(run["task"] for run in runs))

    def scored(task: str, name: str) -> dict[int, float]:
        return common.scores(runs, "accuracy", task=task, arm=name)

    cells, last = [], []
    for name in dict.fromkeys(run["arm"] for run in runs):
        row = [name]
        for task in tasks:
            ours, base = scored(task, name), scored(task, "labels")
            row += [str(len(ours)), shown([*ours.values()], digits=4)]
            row.append("-" if name == "labels" else common.gain(ours, base, 4))
        cells.append(row)
        found = [run["last_losses"].get("soft_labels") for run in common.of(runs, arm=name)]
        if known := [value for value in found if value is not None]:
            last.append([name, f"{np.mean(known):.3f}"])
    heads = ["student learns from", *(part for task in tasks for part in ("seeds", task, "gain over labels"))]
    teachers = {task: common.flat(one["scores"])["accuracy"] for task, one in results["teachers"].items()}
    gains = {
        key: "; ".join(common.gain(scored(task, name), scored(task, "labels"), 4) for task in tasks)
        for key, name in (("gain_folds", REPEATED[2]), ("gain_soft", REPEATED[1]))
    }
    return {
        **gains,
        "folds_right": ", ".join(f"{one['folds']:.0%}" for one in results["teachers"].values()),
        "teachers": common.named(teachers),
        "arms": table(heads, cells),
        "over_texts": "; ".join(
            f"{name}: {mean:+.4f} ± {half:.4f}"
            for found in results["texts"].values()
            for name, (mean, half) in found.items()
        ),
        "last": table(["student learns from", "loss on soft labels"], last),
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
