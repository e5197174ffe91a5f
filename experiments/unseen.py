"""The default on tasks that no default was chosen on: a teacher, the data, and ``--student layers=3``.

    python experiments/unseen.py --data-dir path/to/glue --conll path/to/conll2003 --models path/to/models

fine-tunes ``all-MiniLM-L6-v2`` (6 layers x 384) with the defaults of ``tutelage finetune`` and distils it with those of ``tutelage
distill`` into three layers, with the twin that its report has: the same start, trained on the labels for as many steps at the
better of two rates. Writes ``results/unseen.json`` and ``docs/results/unseen.md``. A stopped experiment continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import common

from tutelage.data.config import DataConfig
from tutelage.methods.compact import compact
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Copied
from tutelage.studies.pages import listed, table
from tutelage.studies.script import Arguments, Results, before, settings

ROWS = {"conll": 3000, "qnli": 4000, "rte": None}
PLACES = f"{common.GLUE} --conll path/to/conll2003 --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "unseen", tasks="conll,qnli", seeds=1, precision="bf16", places=PLACES)
SCRIPT.add_argument("--conll", type=Path, help="folder with eng.train and eng.testa")
SCRIPT.add_argument("--models", type=Path, help="folder with all-MiniLM-L6-v2")

KEPT = 0.95
"""The share of the teacher's score that a student of half of its depth is to keep."""


def data_of(arguments: Arguments, task: str) -> DataConfig:
    if task == "conll":
        return DataConfig(task="conll2003", data_dir=str(arguments.conll), max_train=ROWS[task])
    return DataConfig(task=task, data_dir=arguments.data_dir, max_train=ROWS[task])


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "runs": before(arguments.out).get("runs", [])}
    for task in arguments.tasks.split(","):
        data, place = data_of(arguments, task), arguments.work / task
        how = {"data": data, "mixed_precision": arguments.mixed_precision, "served": True}
        start = Checkpoint(name=str(arguments.models / "all-MiniLM-L6-v2"))
        run(RunConfig(recipe=finetune(start), out=str(place / "teacher"), **how), resume=True)
        for seed in range(arguments.seeds):
            recipe = compact().model_copy(update={"student": Copied(layers=3)})
            out, teacher = str(place / f"student-{seed}"), str(place / "teacher")
            report = run(RunConfig(recipe=recipe, out=out, teacher=teacher, seed=seed, **how), resume=True)
            known = {"task": task, "seed": seed}
            results["runs"] = [one for one in results["runs"] if {**one, **known} != one]
            results["runs"].append({**known, **kept(report)})
            yield results


def kept(report: Results) -> Results:
    """What the page says of a run."""
    student = report["student"]
    return {
        "metric": report["metric"],
        "rows": report["data"]["train"],
        "teacher": report["teacher"]["score"],
        "student": student["score"],
        "twin": report["baseline"]["score"],
        "over_twin": student["over_baseline"],
        "over_teacher": student["over_teacher"],
        "int8": {
            one["model"]: {"score": one["score"], "bytes": one["bytes"]}
            for one in report["served"]["entries"]
            if one["form"] == "int8"
        },
        "int8_texts": report["served"]["texts"],
        "start": report["start"]["chosen"],
        "findings": [one["kind"] for one in report["findings"]],
    }


def page(results: Results) -> Results:
    rows, better, enough = [], [], []
    for one in results["runs"]:
        share, gap, int8 = one["student"] / one["teacher"], one["over_twin"], one["int8"]
        between = f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        scores = [f"{one[name]:.3f}" for name in ("teacher", "student", "twin")]
        served = [f"{int8[name]['score']:.3f}" for name in ("teacher", "student")]
        rows.append(
            [one["task"], str(one["seed"]), one["metric"], *scores, f"{share:.1%}", between, *served, one["start"]]
        )
        better += [one["task"]] if gap["low"] > 0 else []
        enough += [one["task"]] if share >= KEPT else []
    heads = ["task", "seed", "metric", "teacher", "student", "twin", "kept", "over its twin", "teacher int8"]
    heads += ["student int8", "start"]
    found = [
        f"* {one['task']}, seed {one['seed']}: {listed(one['findings']) if one['findings'] else 'none'}"
        for one in results["runs"]
    ]
    count = len(results["runs"])
    takeaway = (
        f"Runs that are better than their twin beyond the interval over texts: {len(better)} of {count}. Runs that keep "
        f"{KEPT:.0%} of the teacher: {len(enough)} of {count}."
    )
    sizes = ", ".join(
        f"{task}: {rows:,}" for task, rows in {one["task"]: one["rows"] for one in results["runs"]}.items()
    )
    return {"takeaway": takeaway, "runs": table(heads, rows), "found": found, "sizes": sizes}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
