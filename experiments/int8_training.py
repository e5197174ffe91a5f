"""What training with the rounding of int8, or of 4 bits, gains: ``compact_int8`` beside ``compact``, for as many steps.

    python experiments/int8_training.py --data-dir path/to/glue --clinc path/to/data_full.json --models path/to/models

fine-tunes ``all-MiniLM-L6-v2`` on 4,000 rows of each task and distils it into students of three layers. Each student is written as
ONNX in float32, int8 and 4 bits; scores are those of texts that are new to all models: of dev, and of the test file (CLINC150) or
of further rows of the training file (SST-2). A stopped experiment goes on where it was. Writes ``results/int8_training.json`` and
``docs/results/int8_training.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import as_served
import common
from cascade import POOL, pool_of
from front import ROWS

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

FORMS: dict[str, dict[str, int]] = {"int8": {}, "4 bits": {"table_bits": 4, "weight_bits": 4}}
"""The options of a file."""
FOUR = {f"stages.distill.quantization.{name}": bits for name, bits in FORMS["4 bits"].items()}
METHODS = ["compact", "compact_int8", {"method": "compact_int8", "name": "compact_int8, 4 bits", "settings": FOUR}]
ARMS = {"compact_int8": "int8", "compact_int8, 4 bits": "4 bits"}
"""Arms that are trained for a form."""
STUDENT = "init=copied,layers=3,choose=uniform"
PLACES = f"{common.GLUE} --clinc path/to/data_full.json --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "int8_training", tasks="clinc,sst2", precision="bf16", places=PLACES)
SCRIPT.add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
SCRIPT.add_argument("--models", type=Path, help="folder with all-MiniLM-L6-v2")
SCRIPT.add_argument("--rows", type=int, default=4000, help="training rows of each task")
SCRIPT.add_argument("--steps", type=int, default=300, help="optimiser steps of each run")


def rounded(folder: Path, data: DataConfig, place: Path) -> dict[str, Any]:
    """Scores in float32 and in each form, and how far that is from float32."""
    done = place / "new_texts.json"
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
    full, metric = exact.answers(texts.student), read.metrics[0]
    found = {"metric": metric, "texts": len(dev.texts), "float32": kind.scores(read, full, texts)[metric], "forms": {}}
    for form, options in FORMS.items():
        graph = quantize(exact.path, place / f"{form}.onnx", **options)
        answers = graph.answers(texts.student)
        found["forms"][form] = {
            "score": kind.scores(read, answers, texts)[metric],
            "change": difference(kind, read, texts, answers, full).model_dump(),
            "agreement": (answers.argmax(-1) == full.argmax(-1)).float().mean().item(),
            "moved": ((answers.softmax(-1) - full.softmax(-1)).abs().sum(-1).mean() / 2).item(),
            "bytes": graph.bytes,
        }
    write(done, json.dumps(found, indent=1))
    return found


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    for task in common.chosen(SCRIPT, arguments.tasks, ("clinc", *POOL)):
        if arguments.rows > ROWS.get(task, arguments.rows):
            SCRIPT.error(f"--rows {arguments.rows}: of {task} the rows after {ROWS[task]} are scored")
        data, new = pool_of(arguments, task)
        data = data.model_copy(update={"max_train": arguments.rows})
        how: dict[str, Any] = {"epochs": 8, "lr": 3e-4} if task == "clinc" else {"epochs": 3}
        report = common.teacher(arguments, task, data, start=arguments.models / "all-MiniLM-L6-v2", **how)
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report)}
        given = data.model_dump(mode="json", exclude_defaults=True)
        out = arguments.work / "int8_training" / task
        found = tutelage.compare(
            {
                "tasks": [{"teacher": str(arguments.work / task / "teacher"), "name": task, "data": given}],
                "methods": METHODS,
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
            results["runs"].append(run | rounded(as_served.model_of(folder), new, folder / "onnx"))
            yield results


def against(runs: common.Runs, arm: str, score: Callable[[Mapping[str, Any]], float]) -> str:
    """How much higher an arm scores than ``compact``, by seeds."""
    sides = [{run["seed"]: score(run) for run in common.of(runs, arm=name)} for name in (arm, "compact")]
    return shown(paired(*sides), "+", 4)


def page(results: Results) -> Results:
    rows, gains, worst = [], [], []
    for task in results["teachers"]:
        runs = common.of(results["runs"], task=task)
        for arm in dict.fromkeys(run["arm"] for run in runs):
            ours = common.of(runs, arm=arm)
            cells = [shown([run["float32"] for run in ours], digits=4)]
            for form in FORMS:
                found = [run["forms"][form] for run in ours]
                changes = [one["change"]["value"] for one in found]
                cells.append(shown([one["score"] for one in found], digits=4))
                cells.append(f"{shown(changes, '+', 4)} ({min(changes):+.4f})")
                cells.append(f"{mean(one['agreement'] for one in found):.4f}")
            rows.append([task, arm, *cells])
        for arm, form in ARMS.items():
            exact = against(runs, arm, lambda run: run["float32"])
            found = against(runs, arm, lambda run, form=form: run["forms"][form]["score"])
            gains.append(f"{task} in {form} {found} (in float32 {exact})")
            sides = {name: common.of(runs, arm=name) for name in (arm, "compact")}
            if not all(sides.values()):
                continue
            least = [min(run["forms"][form]["change"]["value"] for run in of) for of in sides.values()]
            worst.append(f"{task} in {form} {least[0]:+.4f} ({least[1]:+.4f})")
    heads = [cell for form in FORMS for cell in (form, "change (worst)", "agreement")]
    sizes = {form: [run["forms"][form]["bytes"] / 1e6 for run in results["runs"]] for form in FORMS}
    texts = {run["task"]: run["texts"] for run in results["runs"]}
    return {
        "table": table(["task", "method", "float32", *heads], rows),
        "gains": "; ".join(gains),
        "worst": "; ".join(worst),
        "metrics": ", ".join(f"{task}: {found['metric']}" for task, found in results["teachers"].items()),
        "texts": ", ".join(f"{task}: {number:,}" for task, number in texts.items()),
        "sizes": ", ".join(f"{mean(values):.1f} MB in {form}" for form, values in sizes.items() if values),
        "student": STUDENT,
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
