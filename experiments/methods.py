"""Methods side by side: one student, one number of steps, four tasks, as a comparison of ``tutelage compare``.

    python experiments/methods.py --data-dir path/to/glue --clinc path/to/data_full.json --conll path/to/conll2003 \
        --models path/to/models

fine-tunes ``all-MiniLM-L6-v2`` (6 layers x 384) on 4,000 rows of each task and distils it by each method into the same student:
layers 2, 4 and 6 of the teacher. Every run has the same number of optimiser steps in batches of 16, at the same peak rate; a
method with two stages has a third of the steps in the last. ``finetune`` is the student without distillation. A stopped
experiment continues where it was. Writes ``results/methods.json`` and ``docs/results/methods.md``; the comparison's own page is
``WORK/compare/compare.html``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import common
from front import task_data

import tutelage
from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.report.compared import CompareReport
from tutelage.report.compared_tables import with_margin
from tutelage.studies.pages import listed, table
from tutelage.studies.script import Arguments, Results, before, settings

COMPARED = "finetune,kd,compact,similarity,pkd,alp_kd,ckd,bert_emd,distilbert,tinybert,minilmv2,minimum_knowledge"
STUDENT = "init=copied,layers=3,choose=uniform"
PLACES = f"{common.GLUE} --clinc path/to/data_full.json --conll path/to/conll2003 --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "methods", tasks="stsb,clinc,sst2,conll", precision="bf16", places=PLACES)
SCRIPT.add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
SCRIPT.add_argument("--conll", type=Path, help="folder with eng.train and eng.testa")
SCRIPT.add_argument("--models", type=Path, help="folder with all-MiniLM-L6-v2")
SCRIPT.add_argument("--methods", default=COMPARED, help="methods, separated by commas")
SCRIPT.add_argument("--rows", type=int, default=4000, help="training rows of each task")
SCRIPT.add_argument("--launcher", default="local", choices=["local", "ray"], help="ray: a run on each core")
SCRIPT.add_argument("--steps", type=int, default=200, help="optimiser steps of each run")
SCRIPT.add_argument("--lr", type=float, default=2e-4, help="peak rate of every stage")


ASSISTED = (
    " The student of `takd` is made of 3 of the 4 layers of its assistant, so its start is not that of the others."
)


def data_of(arguments: Arguments, task: str) -> DataConfig:
    """A task's texts: of GLUE, of CLINC150, or the sentences of CoNLL-2003."""
    if task == "conll":
        data = DataConfig(
            train=str(arguments.conll / "eng.train"), dev=str(arguments.conll / "eng.testa"), kind="tokens"
        )
    else:
        data = task_data(arguments, task)
    return data.model_copy(update={"max_train": arguments.rows})


def arm(method: str) -> dict[str, Any]:
    """The method with two thirds of its steps in the stages before the last, where it has any.

    The papers' own proportions (20 epochs to 3) leave the predictions a handful of steps here.
    """
    *before_last, last = METHODS[method]().part("task").stages
    epochs = {f"stages.{stage.name}.epochs": 2 for stage in before_last} | {
        f"stages.{last.name}.epochs": len(before_last) or 1
    }
    return {"method": method, "settings": epochs}


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {
        "settings": settings(arguments),
        "teachers": {},
        "compare": before(arguments.out).get("compare"),
    }
    tasks: list[dict[str, Any]] = []
    for task in arguments.tasks.split(","):
        data = data_of(arguments, task)
        how: dict[str, Any] = {"epochs": 8, "lr": 3e-4} if task == "clinc" else {"epochs": 3}
        report = common.teacher(arguments, task, data, start=arguments.models / "all-MiniLM-L6-v2", **how)
        results["teachers"][task] = {"metric": report["metric"], **common.measured(report)}
        given = data.model_dump(mode="json", exclude_defaults=True)
        tasks.append({"teacher": str(arguments.work / task / "teacher"), "name": task, "data": given})
        yield results
    plan = {
        "tasks": tasks,
        "methods": [arm(method) for method in arguments.methods.split(",")],
        "students": [STUDENT],
        "steps": arguments.steps,
        "settings": {
            "stages.*.lr": arguments.lr,
            "stages.*.batch_size": 16,
            "stages.*.warmup": 0.1,
            "stages.*.decay": "linear",
        },
        "against": "finetune",
        "baseline": False,
        "mixed_precision": arguments.mixed_precision,
    }
    for seeds in range(1, arguments.seeds + 1):
        found = tutelage.compare({**plan, "seeds": seeds}, out=arguments.work / "compare", launcher=arguments.launcher)
        results["compare"] = json.loads(found.model_dump_json().replace(str(arguments.work), "runs/methods"))
        yield results


def page(results: Results) -> Results:
    values: Results = {"student": STUDENT}
    if results["compare"] is None:
        return {
            **values,
            "takeaway": "No run is finished.",
            **dict.fromkeys(("methods", "contrasts", "metrics", "seeds", "staged", "assisted"), ""),
        }
    report = CompareReport.model_validate(results["compare"])
    tasks = [task.name for task in report.tasks]
    arms = {(arm.method, arm.task): arm for arm in report.arms}
    methods = list(dict.fromkeys(arm.method for arm in report.arms))
    apart = {(one.arm, one.task): one for one in report.contrasts}

    def gains(method: str) -> list[float]:
        return [apart[method, task].examples.value for task in tasks if (method, task) in apart]

    def row(method: str) -> list[str]:
        found = [arms.get((method, task)) for task in tasks]
        scores = ["-" if arm is None else with_margin(arm.mean, arm.half) for arm in found]
        seconds = [cell.seconds for cell in report.cells if cell.method == method and cell.seconds]
        gain = f"{mean(gains(method)):+.3f}" if gains(method) else "-"
        return [method, *scores, gain, f"{mean(seconds):.0f}"]

    ranked = sorted(methods, key=lambda method: -mean(gains(method) or [0.0]))
    verdicts = [
        [one.task, one.arm, f"{one.examples.value:+.3f}", "-" if one.half is None else f"{one.half:.3f}", one.verdict]
        for one in report.contrasts
        if one.verdict != "no difference shown"
    ]
    teachers = {task: f"{found.teacher_score:.3f}" for task, found in zip(tasks, report.tasks, strict=True)}
    staged = [f"`{method}`" for method in methods if len(METHODS[method]().part("task").stages) > 1]
    clear = sorted({one.arm for one in report.contrasts if one.verdict == "better"})
    said = f"{', '.join(clear)} on at least one task" if clear else "none on any task"
    return {
        **values,
        "takeaway": f"Of {len(methods) - 1} methods with the same start and the same {results['settings']['steps']} steps, "
        f"better than fine-tuning for other texts and other seeds: {said}.",
        "methods": table(
            ["method", *tasks, "mean gain", "seconds"],
            [["*teacher*", *teachers.values(), "", ""], *map(row, ranked)],
        ),
        "contrasts": table(["task", "method", "gain", "± over seeds", "verdict"], verdicts) if verdicts else "None.",
        "metrics": ", ".join(f"{task.name}: {task.metric}" for task in report.tasks),
        "seeds": len(report.seeds),
        "staged": listed(staged),
        "assisted": ASSISTED if "takd" in methods else "",
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
