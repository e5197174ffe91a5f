"""Minimum knowledge from a teacher of BERT-base's size: amounts, the topmost layer, and a whole training from a store.

    python experiments/knowledge_of_mpnet.py --data-dir path/to/glue --models path/to/models

fine-tunes ``mpnet-as-bert`` (all-mpnet-base-v2 in the shape of BERT-base, without its relative positions: single heads of an MPNet
cannot be removed) on a task, writes one nested store of its hidden states, and distils the paper's students from it: ``rosita6``
(14.5 M parameters: the teacher's bottom 6 layers with 2 heads and 768 neurons, embeddings of rank 128) and ``4x312`` (as many
parameters, random weights). Every run has as many steps. ``--timed`` also times whole trainings with the teacher beside them and
from the store. Writes ``results/knowledge_of_mpnet.json`` and ``docs/results/knowledge_of_mpnet.md``. A stopped experiment
continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import common
from minimum_knowledge import LENGTH_AT, WIDTH_AT

from tutelage import HardLabels, HiddenKnowledge, Recipe, RunConfig, Store
from tutelage.methods.minimum_knowledge import ROSITA6, minimum_knowledge
from tutelage.run.run import run
from tutelage.run.stores import write as write_store
from tutelage.students.specs import Fresh, Pruned, Student
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, before, settings, write
from tutelage.studies.study import folder_name

STUDENTS: dict[str, Student] = {
    "rosita6": ROSITA6,
    "4x312": Fresh(layers=4, hidden=312, intermediate=1200, heads=12),
}
FULL, LAST = "full", "full, layer 12"
ARMS: dict[str, HiddenKnowledge | None] = {
    "none": None,
    "plain": None,
    FULL: HiddenKnowledge(keep="alll_allt_1h"),
    WIDTH_AT: HiddenKnowledge(keep=WIDTH_AT),
    LAST: HiddenKnowledge(keep="alll_allt_1h", top=12),
    "alll_allt_0.1h": HiddenKnowledge(keep="alll_allt_0.1h"),
    LENGTH_AT: HiddenKnowledge(keep=LENGTH_AT),
    "1l_1t_1h": HiddenKnowledge(keep="1l_1t_1h"),
}
"""``None`` learns without hidden states: from predictions, and in ``plain`` from labels."""
TIMED = ("none", WIDTH_AT, FULL)

NUMBERS = {
    "hidden_epochs": 2,
    "prediction_epochs": 1,
    "teacher_epochs": 2,
    "lr": 1e-4,
    "teacher_lr": 2e-5,
    "ranking": 1024,
}
PLACES = f"{common.GLUE} --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "knowledge_of_mpnet", tasks="sst2", places=PLACES, **NUMBERS)
SCRIPT.add_argument("--models", type=Path, help="folder with mpnet-as-bert")
SCRIPT.add_argument("--students", default="rosita6", help=f"of {', '.join(STUDENTS)}, separated by commas")
SCRIPT.add_argument("--arms", default=";".join(ARMS), help="arms, separated by semicolons")
SCRIPT.add_argument("--timed", action="store_true", help="time trainings with the teacher beside them too")


def recipe_for(student: str, arm: str, arguments: Arguments) -> Recipe:
    recipe, lr = minimum_knowledge(), arguments.lr
    hidden, prediction = arguments.hidden_epochs, arguments.prediction_epochs
    first, second = recipe.stages
    second = second.model_copy(update={"epochs": prediction, "lr": lr, "warmup": 0.1})
    term = ARMS[arm]
    if term is None:
        objective = [HardLabels()] if arm == "plain" else second.objective
        stages = [second.model_copy(update={"epochs": hidden + prediction, "objective": objective})]
    else:
        stages = [first.model_copy(update={"objective": [term], "epochs": hidden, "lr": lr}), second]
    made = STUDENTS[student]
    if isinstance(made, Pruned):  # all texts, as published, would take this teacher longer than the training
        made = made.model_copy(update={"examples": arguments.ranking})
    return recipe.model_copy(update={"student": made, "stages": stages, "longest": None})


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": [], "whole": []}
    students, known = arguments.students.split(","), arguments.arms.split(";")
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.teacher_lr}
    taught["start"] = arguments.models / "mpnet-as-bert"
    how = {"baseline": False, "mixed_precision": arguments.mixed_precision}
    for task, data, place in common.each_task(arguments, results, taught, keys=("parameters",)):
        teacher, store, clock = str(place / "teacher"), place / "store", place / "store.json"
        if not store.exists():
            config = RunConfig(
                recipe=recipe_for(students[0], FULL, arguments), data=data, teacher=teacher, out=str(store), **how
            )
            began = perf_counter()
            write_store(config, whole=True)
            write(clock, f'{{"seconds": {perf_counter() - began:.1f}}}')
        manifest = Store(store).manifest
        results["teachers"][task] |= {
            "examples": manifest.examples, "store_bytes": manifest.bytes, "store_seconds": before(clock)["seconds"],
        }  # fmt: skip
        if arguments.share == "shared":
            continue
        for student in students:
            recipes = {arm: recipe_for(student, arm, arguments) for arm in known}
            results["runs"] += common.carry_out(
                arguments, place / student, recipes, data, range(arguments.seeds), keys=("parameters", "agreement"),
                about={"task": task, "student": student}, teacher=teacher, teacher_store=str(store),
            )  # fmt: skip
            yield results
            for arm in TIMED if arguments.timed else ():
                seconds = {}
                for side, more in {"teacher": {}, "store": {"teacher_store": str(store)}}.items():
                    out = place / student / f"{folder_name(arm)}-{side}"
                    config = RunConfig(
                        recipe=recipes[arm],
                        data=data,
                        teacher=teacher,
                        out=str(out),
                        **how,
                        **more,
                    )
                    report = run(config, resume=True)
                    seconds[side] = sum(stage["seconds"] for stage in report["stages"])
                results["whole"].append({"task": task, "student": student, "arm": arm, **seconds})
                yield results


def scores_of(results: Results, task: str, student: str) -> dict[str, dict[int, float]]:
    """Scores by arm and seed."""
    return common.by_arm(results["runs"], results["teachers"][task]["metric"], task=task, student=student)


def page(results: Results) -> Results:
    lines, told = [], []
    for task, teacher in results["teachers"].items():
        metric = teacher["metric"]
        lines += SCRIPT.section(
            "task", task=task, metric=metric, score=common.flat(teacher["scores"])[metric], teacher=teacher,
            megabytes=teacher["store_bytes"] / 1e6,
        )  # fmt: skip
        for student in dict.fromkeys(one["student"] for one in common.of(results["runs"], task=task)):
            scores = scores_of(results, task, student)
            size = common.of(results["runs"], student=student)[0]["parameters"] / 1e6
            columns = {
                "arm": str,
                "seeds": lambda name, scores=scores: str(len(scores[name])),
                **common.score_columns({metric: scores}, 4),
                **common.gain_columns(scores, (FULL, "none", "plain"), 4),
            }
            lines += [f"### {student}, {size:.1f} M parameters", "", *tabled(columns, scores)]
            over_full, over_none = (common.gain(scores[WIDTH_AT], scores.get(other, {})) for other in (FULL, "none"))
            top = common.gain(scores[FULL], scores.get(LAST, {}))
            told.append(
                f"{student} on {task}: `{WIDTH_AT}` scores {over_full} against all hidden states and {over_none} against "
                f"predictions alone; layer 10 of 12 as the topmost scores {top} against layer 12"
            )
    if all(one["seed"] == 0 for one in results["runs"]):
        told[-1] += " (one seed, which shows no difference of this size)"
    return {"takeaway": "; ".join(told) + ".", "tasks": lines, "whole": whole_times(results)}


def whole_times(results: Results) -> list[str]:
    """A table of the trainings that were timed whole."""
    rows = {f"{one['student']} on {one['task']}, {one['arm']}": one for one in results["whole"]}
    if not rows:
        return ["No training was timed."]
    return tabled(
        {
            "training": str,
            "teacher beside it": lambda name: f"{rows[name]['teacher']:.0f} s",
            "from the store": lambda name: f"{rows[name]['store']:.0f} s",
            "ratio": lambda name: f"{rows[name]['teacher'] / rows[name]['store']:.2f}x",
        },
        rows,
    )


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
