"""Students against the rival that a short script makes: the teacher itself, exported and quantised.

    python experiments/front.py --data-dir path/to/glue --clinc path/to/data_full.json --models path/to/models

fine-tunes a teacher for each task with the defaults of ``tutelage finetune`` and distils it with those of ``tutelage distill``.
``--models`` holds ``all-MiniLM-L6-v2`` (6 layers x 384), ``all-mpnet-base-v2`` (12 x 768) and ``paraphrase-MiniLM-L3-v2``.
Teachers and students are written as ONNX in float32 and int8. Scores are those of dev. Times are those of one text of the task's
mean length on one thread; they are taken when all models are trained, all of a teacher and a task in turn (``--again`` exports,
scores and times all models again). Writes ``results/front.json`` and ``docs/results/front.md``. A stopped experiment continues
where it was, and what stands in the results already is not trained again, also where its folder is gone; ``--tasks``,
``--teachers`` and ``--points`` add a part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import as_served
import common
import numpy as np

from tutelage.data.config import DataConfig
from tutelage.methods.compact import compact
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Copied, Fresh, Pruned, Student
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Arguments, Results, before, settings, write
from tutelage.studies.study import interval

ROWS = {"sst2": 8000, "qnli": 20000}
MODELS = {"minilm": "all-MiniLM-L6-v2", "mpnet": "all-mpnet-base-v2"}
POINTS = "cut 1/2,cut 1/4,3 x 384,4 x 312,2 x 128,cut 1/4 trimmed,2 x 128 trimmed,6 x 384,L3"

TASKS, PLACES = (
    "mrpc,stsb,cola,sst2,clinc,qnli",
    f"{common.GLUE} --clinc path/to/data_full.json --models path/to/models",
)
SCRIPT = common.options(__file__, __doc__, "front", tasks=TASKS, seeds=3, precision="no", places=PLACES)
SCRIPT.add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
SCRIPT.add_argument("--models", type=Path, help="folder with the pretrained encoders")
SCRIPT.add_argument("--teachers", default="minilm,mpnet")
SCRIPT.add_argument("--points", default=POINTS, help="students, separated by commas")
SCRIPT.add_argument("--again", action="store_true", help="export, score and time all models again")


def student_of(point: str, teacher: str, models: Path) -> Student | None:
    """The student of a point; None where a teacher has no such one. Heads and neurons are chosen as in the results, by squared
    gradients."""
    sizes, _, _ = point.partition(" trimmed")
    vocabulary = {} if point == sizes else {"vocabulary": "trimmed"}
    pretrained = str(models / MODELS["minilm"])
    if sizes.startswith("cut "):
        over, _, under = sizes.removeprefix("cut ").partition("/")
        return Pruned(target_flops=int(over) / int(under), importance="fisher", **vocabulary)
    known: dict[str, Student | None] = {
        "3 x 384": Copied(layers=3, source=None if teacher == "minilm" else pretrained, **vocabulary),
        "6 x 384": None if teacher == "minilm" else Checkpoint(name=pretrained),
        "4 x 312": Fresh(family="bert", layers=4, hidden=312, intermediate=1200, heads=12, **vocabulary),
        "2 x 128": Fresh(family="bert", layers=2, hidden=128, intermediate=512, heads=2, **vocabulary),
        "L3": Checkpoint(name=str(models / "paraphrase-MiniLM-L3-v2")),
    }
    return known[sizes]


def task_data(arguments: Arguments, task: str) -> DataConfig:
    """A task's texts; CLINC150 as files in the folder of the runs."""
    if task != "clinc":
        return DataConfig(task=task, data_dir=arguments.data_dir, max_train=ROWS.get(task))
    train, val = (arguments.work / "data" / f"clinc-{part}.csv" for part in ("train", "val"))
    return common.clinc(train, val, arguments.clinc)


def cell(place: Path, config: RunConfig, data: DataConfig, again: bool) -> dict[str, Any]:
    """Train one model, unless it is done, and score it in all its forms."""
    done = place / "measured.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if again:
            for part, values in as_served.measured(as_served.model_of(place), data, place / "onnx").items():
                found[part] |= values
            write(done, json.dumps(found, indent=1))
        return found
    report = run(config, resume=True)
    ours = as_served.measured(as_served.model_of(place), data, place / "onnx")
    baseline = report["baseline"]
    values = {
        "scores": {"pytorch": next(iter(report["student"]["scores"].values())), **ours["scores"]},
        "twin": None if baseline is None else next(iter(baseline["scores"].values())),
        "parameters": report["student"]["parameters"],
        "bytes": {"pytorch": report["student"]["bytes"], **ours["bytes"]},
        "shape": report["student"]["shape"],
        "metric": report["metric"],
        "start": None if report["start"] is None else report["start"]["chosen"],
        "steps": report["stages"][0]["steps"],
        "best": report["stages"][0]["best"],
        "seconds": report["seconds"],
        "precision": config.mixed_precision,
    }
    write(done, json.dumps(values, indent=1))
    return values


def identity(one: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a model from the others in the results."""
    return tuple(one.get(name) for name in ("teacher", "task", "point", "seed", "precision"))


def add(results: Results, part: str, one: dict[str, Any]) -> None:
    """Put a model into a part of the results, in place of its entry from before; its times stay until it is timed again."""
    known = {identity(entry): place for place, entry in enumerate(results[part])}
    place = known.get(identity(one), len(results[part]))
    for old in results[part][place : place + 1]:
        one = {**{name: old[name] for name in ("ms",) if name in old}, **one}
    results[part][place : place + 1] = [one]


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"teachers": [], "runs": [], "parts": [], **before(arguments.out)}
    part = {name: value for name, value in settings(arguments).items() if name != "again"}
    done = {identity(one) for one in results["runs"]}
    places: dict[tuple[str, str], dict[str, Path]] = {}
    for teacher in arguments.teachers.split(","):
        for task in arguments.tasks.split(","):
            data, place = task_data(arguments, task), arguments.work / f"{teacher}-{task}"
            points = [
                (point, seed, student)
                for seed in range(arguments.seeds)
                for point in arguments.points.split(",")
                if (student := student_of(point, teacher, arguments.models)) and (point != "L3" or teacher == "mpnet")
            ]
            folders = {
                (point, seed): f"{point.replace(' ', '').replace('/', 'of')}-{seed}" for point, seed, _ in points
            }
            precision = arguments.mixed_precision
            if not place.exists() and {(teacher, task, *key, precision) for key in folders} <= done:
                continue
            if part not in results["parts"]:
                results["parts"].append(part)
            known = places[teacher, task] = {"teacher": place / "teacher"}
            start = Checkpoint(name=str(arguments.models / MODELS[teacher]))
            common_settings = {"data": data, "mixed_precision": arguments.mixed_precision}
            config = RunConfig(
                recipe=finetune(start), out=str(place / "teacher" / "run"), baseline=False, **common_settings
            )
            found = cell(place / "teacher", config, data, arguments.again)
            old = common.of(results["teachers"], teacher=teacher, task=task)
            if old and old[0]["scores"] != found["scores"]:  # another machine trains another teacher
                results["runs"] = [one for one in results["runs"] if (one["teacher"], one["task"]) != (teacher, task)]
            add(results, "teachers", {"teacher": teacher, "task": task, **found})
            yield results
            for point, seed, student in points:
                name = folders[point, seed]
                entry = {"teacher": teacher, "task": task, "point": point, "seed": seed, "place": name}
                known_already = identity({**entry, "precision": precision}) in map(identity, results["runs"])
                if known_already and not (place / name).exists():
                    continue
                known[name] = place / name
                recipe = finetune(student) if point == "L3" else compact()
                taught = {} if point == "L3" else {"teacher": str(place / "teacher" / "run"), "teacher_store": "auto"}
                config = RunConfig(
                    recipe=recipe.model_copy(update={"student": student}), out=str(place / name / "run"), seed=seed,
                    **taught, **common_settings,
                )  # fmt: skip
                found = cell(place / name, config, data, arguments.again)
                add(results, "runs", {**entry, **found})
                yield results
    for teacher, task in places:
        found = as_served.times(places[teacher, task], task_data(arguments, task), arguments.again)
        for one in common.of(results["teachers"], teacher=teacher, task=task):
            one["ms"] = found["teacher"]
        for one in common.of(results["runs"], teacher=teacher, task=task):
            if one["place"] in found:
                one["ms"] = found[one["place"]]
        yield results


def page(results: Results) -> Results:
    lines: list[str] = []
    for teacher in dict.fromkeys(one["teacher"] for one in results["teachers"]):
        known = {one["task"]: one for one in results["teachers"] if one["teacher"] == teacher}
        runs = common.of(results["runs"], teacher=teacher)
        rows = [
            row_of("teacher", "PyTorch", [(one, one["scores"]["pytorch"]) for one in known.values()], known),
            row_of("teacher", "int8", [(one, one["scores"]["int8"]) for one in known.values()], known),
        ]
        for point in dict.fromkeys(one["point"] for one in runs):
            mine = common.of(runs, point=point)
            for side in ("pytorch", "int8"):
                name = {"pytorch": "PyTorch"}.get(side, side)
                rows.append(row_of(point, name, [(one, one["scores"][side]) for one in mine], known))
            if any(one["twin"] for one in mine):
                rows.append(row_of(point, "its twin", [(one, one["twin"]) for one in mine], known))
        heads = ["model", "as", *known, "kept", "MB", "ms", "speed"]
        trained = dict.fromkeys(one["precision"] for one in (*known.values(), *runs))
        words = " and ".join("float32" if one == "no" else one for one in trained)
        lines += [f"## {MODELS[teacher]}", "", f"Trained in {words}.", "", *table(heads, rows), *claims(runs, known)]
    commands = " and ".join(f"`{SCRIPT.command(part)}`" for part in results["parts"])
    return {"teachers": lines, "commands": commands}


Scored = list[tuple[Mapping[str, Any], Mapping[str, float]]]


def row_of(name: str, side: str, scored: Scored, known: Mapping[str, Any]) -> list[str]:
    """A row of a teacher's table: scores by task, share of the teacher's score kept in the mean, size, time, speed."""
    by_task: dict[str, list[float]] = {task: [] for task in known}
    for one, scores in scored:
        by_task[one["task"]].append(scores[one["metric"]])
    kept = [
        np.mean(values) / known[task]["scores"]["pytorch"][known[task]["metric"]]
        for task, values in by_task.items()
        if values
    ]
    cells = [shown(values, digits=3) for values in by_task.values()]
    part = "" if len(kept) == len(known) else f" ({len(kept)} of {len(known)})"
    key = {"PyTorch": "pytorch", "its twin": None}.get(side, side)
    if key is None:
        return [name, side, *cells, f"{np.mean(kept):.1%}{part}", "", "", ""]
    timed = [one for one, _ in scored if "ms" in one]
    ms = [one["ms"][key] for one in timed]
    speeds = [known[one["task"]]["ms"]["pytorch"] / one["ms"][key] for one in timed]
    size = np.mean([one["bytes"][key] for one, _ in scored]) / 1e6
    times_ = [f"{np.median(ms):.2f}", f"{np.median(speeds):.1f}x"] if ms else ["", ""]
    return [name, side, *cells, f"{np.mean(kept):.1%}{part}", f"{size:.1f}", *times_]


def claims(runs: common.Runs, known: Mapping[str, Any]) -> list[str]:
    """What holds: students against their twins and against the quantised teacher, mean over tasks by seed."""
    said = []
    for point in dict.fromkeys(one["point"] for one in runs):
        mine = [one for one in common.of(runs, point=point) if one["twin"]]
        for words, theirs in (
            ("its twin", lambda one: one["twin"][one["metric"]]),
            ("the int8 teacher, itself in int8", lambda one: known[one["task"]]["scores"]["int8"][one["metric"]]),
        ):
            side = "pytorch" if words == "its twin" else "int8"
            by_seed: dict[int, list[float]] = {}
            tasks = {one["task"] for one in mine}
            for one in mine:
                by_seed.setdefault(one["seed"], []).append(one["scores"][side][one["metric"]] - theirs(one))
            whole = [np.mean(values) for values in by_seed.values() if len(values) == len(tasks)]
            if whole:
                mean, half = interval([float(value) for value in whole])
                noise = "one seed" if half is None else f"± {half:.3f}"
                over = "one task" if len(tasks) == 1 else f"mean over {len(tasks)} tasks"
                said.append(f"* {point} against {words}: {mean:+.3f} ({noise}), {over}")
    return [*said, ""] if said else []


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
