"""What training with the rounding of int8 gains: ``compact_int8`` beside ``compact``, for as many steps, both served in int8.

    python experiments/int8_training.py --data-dir path/to/glue --clinc path/to/data_full.json --models path/to/models

fine-tunes ``all-MiniLM-L6-v2`` on 4,000 rows of each task, as ``methods.py`` does and in its folder, and distils it into students
of three layers. Each student is written as ONNX in float32 and int8; scores are those of dev. A stopped experiment continues where
it was. Writes ``results/int8_training.json`` and ``docs/results/int8_training.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import as_served
import common
from front import task_data

import tutelage
from tutelage.data.config import DataConfig
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.run.quality import difference
from tutelage.serving.graph import quantize, to_onnx
from tutelage.students.load import load_model
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Arguments, Results, settings, write
from tutelage.studies.study import paired
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

METHODS = ("compact", "compact_int8")
STUDENT = "init=copied,layers=3,choose=uniform"
PLACES = f"{common.GLUE} --clinc path/to/data_full.json --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "int8_training", tasks="clinc,sst2,cola", precision="bf16", places=PLACES)
SCRIPT.add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
SCRIPT.add_argument("--models", type=Path, help="folder with all-MiniLM-L6-v2")
SCRIPT.add_argument("--rows", type=int, default=4000, help="training rows of each task")
SCRIPT.add_argument("--steps", type=int, default=300, help="optimiser steps of each run")


def as_int8(folder: Path, data: DataConfig, place: Path) -> dict[str, Any]:
    """Scores in float32 and int8, and how far int8 is from float32."""
    done = place / "int8.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    read = load_data(data)
    kind = kind_of(read.kind)
    model, _ = load_model(str(folder), kind.head)
    tokenizer = fitted_tokenizer(load_tokenizer(str(folder)), model.eval())
    read, _ = kind.match(read, model.config, str(folder))
    dev = next(iter(read.dev.values()))
    texts = Texts(dev, kind.encode(dev, tokenizer, kind.longest(512)), None)
    place.mkdir(parents=True, exist_ok=True)
    exact = to_onnx(model, tokenizer, place / "model.onnx", kind=kind)
    full, rounded = (graph.answers(texts.student) for graph in (exact, quantize(exact.path, place / "model.int8.onnx")))
    metric, change = read.metrics[0], difference(kind, read, texts, rounded, full)
    found = {
        "metric": metric,
        "float32": kind.scores(read, full, texts)[metric],
        "int8": kind.scores(read, rounded, texts)[metric],
        "change": change.model_dump(),
        "agreement": (rounded.argmax(-1) == full.argmax(-1)).float().mean().item(),
        "moved": ((rounded.softmax(-1) - full.softmax(-1)).abs().sum(-1).mean() / 2).item(),
    }
    write(done, json.dumps(found, indent=1))
    return found


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    for task in arguments.tasks.split(","):
        data = task_data(arguments, task).model_copy(update={"max_train": arguments.rows})
        how: dict[str, Any] = {"epochs": 8, "lr": 3e-4} if task == "clinc" else {"epochs": 3}
        report = common.teacher(arguments, task, data, start=arguments.models / "all-MiniLM-L6-v2", **how)
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report)}
        given = data.model_dump(mode="json", exclude_defaults=True)
        out = arguments.work / "int8_training" / task
        found = tutelage.compare(
            {
                "tasks": [{"teacher": str(arguments.work / task / "teacher"), "name": task, "data": given}],
                "methods": list(METHODS),
                "students": [STUDENT],
                "steps": arguments.steps,
                "settings": {"stages.*.batch_size": 16},
                "baseline": False,
                "served": False,
                "seeds": arguments.seeds,
                "mixed_precision": arguments.mixed_precision,
            },
            out=out,
        )
        for cell in found.cells:
            folder = out / cell.folder
            run = {"task": task, "arm": cell.method, "seed": cell.seed, "seconds": cell.seconds}
            results["runs"].append(run | as_int8(as_served.model_of(folder), data, folder / "onnx"))
            yield results


def page(results: Results) -> Results:
    rows, gains = [], []
    for task in results["teachers"]:
        by_arm = {
            arm: {run["seed"]: run for run in results["runs"] if (run["task"], run["arm"]) == (task, arm)}
            for arm in METHODS
        }
        for arm, runs in by_arm.items():
            if runs:
                each = {name: shown([run[name] for run in runs.values()], digits=4) for name in ("float32", "int8")}
                worst = min(run["int8"] - run["float32"] for run in runs.values())
                agreement, moved = (mean(run[name] for run in runs.values()) for name in ("agreement", "moved"))
                rows.append(
                    [task, arm, each["float32"], each["int8"], f"{worst:+.4f}", f"{agreement:.4f}", f"{moved:.2%}"]
                )
        scores = [{seed: run["int8"] for seed, run in by_arm[arm].items()} for arm in METHODS]
        if both := paired(scores[1], scores[0]):
            gains.append(f"{task} {shown(both, '+', 4)}")
    metrics = ", ".join(f"{task}: {found['metric']}" for task, found in results["teachers"].items())
    return {
        "table": table(["task", "method", "float32", "int8", "worst change", "agreement", "moved"], rows),
        "gains": "; ".join(gains) or "no pair of runs is finished",
        "metrics": metrics,
        "student": STUDENT,
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
