"""What the experiments share: options, data, teachers, resumed runs, and how their results are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage import DataConfig, Recipe, RunConfig, TutelageError
from tutelage.methods import finetune
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Student
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import gain, named, shown, table, tally
from tutelage.studies.script import Arguments, Results, Script, before, settings, write_rows
from tutelage.studies.study import paired, study
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

ROWS = {"sst2": 8000}
"""Training rows of a task, where not all of them are used."""
GLUE = "--data-dir path/to/glue"
Runs = Sequence[Mapping[str, Any]]
Columns = dict[str, Callable[[str], str]]


def options(
    file: str,
    doc: str | None,
    name: str,
    *,
    tasks: str | None = None,
    seeds: int = 3,
    precision: str | None = "bf16",
    places: str = GLUE,
    **numbers: float,
) -> Script:
    """A script with the options of all experiments and ``numbers``; without ``tasks`` or ``precision`` those are left out."""
    script = Script(file, doc, name, places, **numbers)
    script.add_argument("--data-dir", help="folder of the data sets")
    script.add_argument("--work", default=f"runs/{name}", type=Path, help="folder of the runs")
    if tasks is not None:
        script.add_argument("--tasks", default=tasks, help="tasks, separated by commas")
    script.add_argument("--seeds", type=int, default=seeds, help="runs of each arm")
    if precision is not None:
        script.add_argument("--mixed-precision", default=precision, choices=["no", "bf16", "fp16"])
    script.add_argument(
        "--share",
        help="part of the runs for this process: shared (what all of them need), then 0/2 and 1/2; repeat without it to "
        "collect the results",
    )
    return script


def chosen(script: Script, given: str, known: Iterable[str]) -> list[str]:
    """The arms of an option, separated by commas; ends the script for one that there is not."""
    for arm in (arms := given.split(",")):
        if arm not in known:
            script.error(f"there is no arm {arm!r}; there are {', '.join(known)}")
    return arms


def part(arguments: Arguments) -> tuple[int, int]:
    """Which of how many parts of the runs are this process's."""
    which, _, parts = "0/1".partition("/") if arguments.share in (None, "shared") else arguments.share.partition("/")
    return int(which), int(parts)


def task_data(arguments: Arguments, task: str, **more: Any) -> DataConfig:
    """A GLUE task with the experiments' number of training rows."""
    return DataConfig(task=task, data_dir=arguments.data_dir, max_train=ROWS.get(task), **more)


def clinc(train: Path, dev: Path, file: str | Path | None) -> DataConfig:
    """CLINC150's train and val as files of a text and a label each, written once."""
    for path, part in ((train, "train"), (dev, "val")):
        if not path.exists():
            if file is None:
                raise TutelageError("CLINC150 needs --clinc path/to/data_full.json")
            write_rows(path, before(Path(file))[part])
    return DataConfig(train=str(train), dev=str(dev))


def altered(recipe: Recipe, student: Student | None = None, **stage: Any) -> Recipe:
    """The recipe with other settings of its stages, and with another student if there is one."""
    stages = [one.model_copy(update=stage) for one in recipe.stages]
    return recipe.model_copy(update={"stages": stages, "student": student or recipe.student})


def teacher(
    arguments: Arguments,
    task: str,
    data: DataConfig,
    *,
    start: Path | None = None,
    lr: float = 1e-4,
    **stage: Any,
) -> dict[str, Any]:
    """Fine-tune ``start`` (default: MiniLM) on a task in ``WORK/TASK/teacher``, unless it is finished; returns the run's report."""
    recipe, out = finetune(Checkpoint(name=str(start or pretrained())), lr=lr), str(arguments.work / task / "teacher")
    how = {"baseline": False, "mixed_precision": arguments.mixed_precision}
    return run(RunConfig(recipe=altered(recipe, **stage), data=data, out=out, **how), resume=True)


def each_task(
    arguments: Arguments,
    results: Results,
    taught: Mapping[str, Any],
    data: Callable[[Arguments, str], DataConfig] = task_data,
    keys: Sequence[str] = (),
    about: Callable[[Results, DataConfig], Results] = lambda report, data: {},
) -> Iterator[tuple[str, DataConfig, Path]]:
    """The tasks with their data and folder, each after its teacher is fine-tuned and stands in the results.

    ``taught`` is for :func:`teacher`, of whose report ``about`` is kept too.
    """
    for task in arguments.tasks.split(","):
        given = data(arguments, task)
        report = teacher(arguments, task, given, **taught)
        results["teachers"][task] = {"metric": report["metric"], **measured(report, *keys), **about(report, given)}
        yield task, given, arguments.work / task


def on_tasks(
    arguments: Arguments,
    recipes: Mapping[str, Recipe],
    taught: Mapping[str, Any],
    *,
    data: Callable[[Arguments, str], DataConfig] = task_data,
    keys: Sequence[str] = (),
    about: Callable[[Results, DataConfig], Results] = lambda report, data: {},
    **how: Any,
) -> Iterator[Results]:
    """The results of recipes on :func:`each_task`, as often as there are more of them; ``how`` is for :func:`carry_out`."""
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    for task, given, place in each_task(arguments, results, taught, data, keys, about):
        if arguments.share != "shared":
            results["runs"] += carry_out(
                arguments, place, recipes, given, range(arguments.seeds), keys=keys, about={"task": task},
                teacher=str(place / "teacher"), **how,
            )  # fmt: skip
        yield results


def constant_scores(data: DataConfig) -> dict[str, float]:
    """The scores of a constant answer on the evaluation set."""
    found = load_data(data)
    return kind_of(found.kind).constant_scores(found, next(iter(found.dev.values())))


def measured(report: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A student's scores on the evaluation set, the ``keys`` of its part of the report, steps and seconds."""
    student, stages = report["student"], report["stages"]
    return {
        "scores": next(iter(student["scores"].values())),
        **{key: student.get(key) for key in keys},
        "steps": sum(stage["steps"] for stage in stages),
        "seconds": report["seconds"],
    }


def carry_out(
    arguments: Arguments,
    place: Path,
    recipes: Mapping[str, Recipe],
    data: DataConfig,
    seeds: Iterable[int],
    *,
    keys: Sequence[str] = (),
    more: Callable[[RunConfig, Results], Results] = lambda config, report: {},
    about: Mapping[str, Any] = {},
    arm: str = "arm",
    **settings: Any,
) -> list[Results]:
    """The runs of a study of recipes as they stand in the results: ``about``, ``arm``, seed, :func:`measured`, and ``more``.

    ``settings`` are further ones of :class:`RunConfig`, such as the teacher.
    """
    common = {"data": data, "baseline": False, "mixed_precision": arguments.mixed_precision, **settings}
    found = study(
        place,
        {name: RunConfig(recipe=recipe, **common) for name, recipe in recipes.items()},
        list(seeds),
        keep=lambda config, report: {**measured(report, *keys), **more(config, report)},
        part=part(arguments),
    )
    return [{**about, arm: outcome.arm, "seed": outcome.seed, **outcome.more} for outcome in found.outcomes]


# ------------------------------------------------------------------------------------------------------------- reading


def of(runs: Runs, **where: Any) -> list[Mapping[str, Any]]:
    """The runs with these values."""
    return [run for run in runs if all(run.get(name) == value for name, value in where.items())]


def scores(runs: Runs, metric: str, **where: Any) -> dict[int, float]:
    """By seed the score of the runs with these values."""
    return {run["seed"]: flat(run["scores"])[metric] for run in of(runs, **where)}


def by_arm(runs: Runs, metric: str, arm: str = "arm", **where: Any) -> dict[str, dict[int, float]]:
    """By arm, in the order of the runs, and by seed the score of the runs with these values."""
    chosen = of(runs, **where)
    return {name: scores(chosen, metric, **{arm: name}) for name in dict.fromkeys(run[arm] for run in chosen)}


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores by metric, of the first evaluation set where there are several."""
    first = next(iter(scores.values()))
    return dict(first if isinstance(first, Mapping) else scores)


def score_columns(scores: Mapping[str, Mapping[str, Mapping[int, float]]], digits: int = 3) -> Columns:
    """Columns of a table of arms: the mean over seeds in each metric, of scores by metric, arm and seed."""
    return {name: lambda arm, by=by: shown([*by[arm].values()], digits=digits) for name, by in scores.items()}


def gain_columns(
    scores: Mapping[str, Mapping[int, float]], others: Iterable[str], digits: int = 3, head: str = "against {}"
) -> Columns:
    """Columns of a table of arms: the paired difference to each of some other arms, of scores by arm and seed."""
    return {
        head.format(other): lambda arm, other=other: (
            "-" if arm == other else gain(scores[arm], scores.get(other, {}), digits)
        )
        for other in others
    }


def tables_of_tasks(
    results: Results,
    *,
    arm: str = "arm",
    columns: Mapping[str, Callable[[Runs], str]] = {},
    about: Callable[[Results], str] = lambda teacher: "",
) -> Results:
    """The fields of a page on the results of :func:`on_tasks`: a table for each task, and how many gains there are.

    The gain of ``START-METHOD`` is that over ``START-finetune``; ``columns`` are further ones; ``about`` is said of the teacher.
    """
    gains, lines = {}, []
    for task, teacher in results["teachers"].items():
        known = flat(teacher["scores"])
        scores = {metric: by_arm(results["runs"], metric, arm, task=task) for metric in known}
        first, *_ = known
        cells = []
        for name, ours in scores[first].items():
            runs, plain = of(results["runs"], task=task, **{arm: name}), f"{name[: name.rfind('-') + 1]}finetune"
            theirs = {} if name == plain else scores[first].get(plain, {})
            if name != plain and theirs:
                gains[f"{name} on {task}"] = paired(ours, theirs)
            cells.append([name, str(len(runs)), *(shown([*by[name].values()], digits=4) for by in scores.values())])
            cells[-1] += [gain(ours, theirs, 4), *(column(runs) for column in columns.values())]
        heads = [arm, "seeds", *known, f"gain in {first}", *columns]
        lines += [f"## {task}", "", f"Teacher: {named(known)}{about(teacher)}", "", *table(heads, cells)]
    return {"count": len(gains), "tally": tally(gains), "tasks": lines}
