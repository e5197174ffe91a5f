"""What the experiments share: options, teachers, resumed runs, and pages written from results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.artifacts import write_text
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import judgement, paragraph, shown
from tutelage.studies.study import Outcome, paired, study

ROWS = {"sst2": 8000}
"""Training rows of a task, where not all of them are used."""
PLACES = ("data_dir", "models", "text", "vectors", "clinc", "work", "share", "finished", "out", "part")
"""Options that say where things are and what is run now; they are no settings of the results."""
Results = dict[str, Any]
Runs = Sequence[Mapping[str, Any]]


def options(
    doc: str | None, name: str, *, tasks: str | None = None, seeds: int = 3, precision: str | None = "bf16"
) -> argparse.ArgumentParser:
    """A parser with the options of all experiments; without ``tasks`` or ``precision`` those are left out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--work", default=f"runs/{name}", help="folder of the runs")
    if tasks is not None:
        parser.add_argument("--tasks", default=tasks, help="tasks, separated by commas")
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of each arm")
    if precision is not None:
        parser.add_argument("--mixed-precision", default=precision, choices=["no", "bf16", "fp16"])
    parser.add_argument(
        "--share",
        help="part of the runs for this process: shared (teachers and data only), then 0/2 and 1/2; repeat without it to "
        "collect the results",
    )
    parser.add_argument("--finished", action="store_true", help="write the page from the results, run nothing")
    parser.add_argument("--out", default=f"results/{name}.json", help="file of the results")
    return parser


def conduct(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Iterator[Results]],
    page: Callable[[Results, str], str],
    pictures: Callable[[Results], dict[str, str]] = lambda results: {},
) -> None:
    """Run the experiment, or read its results, and write results, page and pictures.

    ``measure`` yields the results each time there are more. The page of ``results/NAME.json`` is ``docs/results/NAME.md``;
    that of any other file lies beside it.
    """
    arguments = parser.parse_args()
    out = Path(arguments.out)
    try:
        for results in [before(arguments)] if arguments.finished else measure(arguments):
            if arguments.share:
                continue
            if not arguments.finished:
                write(out, json.dumps(results, indent=1) + "\n")
            folder = Path("docs/results") if out.parent == Path("results") else out.parent
            write(folder / f"{out.stem}.md", page(results, arguments.out))
            for name, picture in pictures(results).items():
                write(folder / name, picture)
    except TutelageError as error:
        parser.exit(1, f"{error}\n")


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def before(arguments: argparse.Namespace) -> Results:
    """The results that ``--out`` has already."""
    out = Path(arguments.out)
    found: Results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return found


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that belong to the results."""
    return {name: value for name, value in vars(arguments).items() if name not in PLACES}


def command(parser: argparse.ArgumentParser, given: Mapping[str, Any], places: str = "--data-dir path/to/glue") -> str:
    """The command that has these settings; options at their defaults are left out."""
    changed = {name: value for name, value in given.items() if value != parser.get_default(name)}
    flags = [f"--{name.replace('_', '-')}" + flag(value) for name, value in changed.items() if value is not False]
    return " ".join([f"python experiments/{Path(parser.prog).name}", *([places] if places else []), *flags])


def flag(value: Any) -> str:
    return "" if value is True else f" '{value}'" if " " in str(value) else f" {value}"


def part(arguments: argparse.Namespace) -> tuple[int, int]:
    """Which of how many parts of the runs are this process's."""
    which, _, parts = (arguments.share or "0/1").partition("/")
    return int(which), int(parts)


def task_data(arguments: argparse.Namespace, task: str, **more: Any) -> DataConfig:
    """A GLUE task with the experiments' number of training rows (all of them with ``--full``)."""
    rows = None if getattr(arguments, "full", False) else ROWS.get(task)
    return DataConfig(task=task, data_dir=arguments.data_dir, max_train=rows, **more)


def teacher(
    arguments: argparse.Namespace, task: str, data: DataConfig, *, epochs: int, lr: float = 1e-4
) -> dict[str, Any]:
    """Fine-tune MiniLM on a task in ``WORK/TASK/teacher``, unless it is finished; returns the run's report."""
    config = RunConfig(
        recipe=finetune(Checkpoint(name=str(pretrained())), epochs=epochs, lr=lr),
        data=data,
        out=str(Path(arguments.work) / task / "teacher"),
        baseline=False,
        mixed_precision=arguments.mixed_precision,
    )
    return run(config, resume=True)


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
    arguments: argparse.Namespace,
    place: Path,
    recipes: Mapping[str, Recipe],
    data: DataConfig,
    seeds: Iterable[int],
    *,
    keys: Sequence[str] = (),
    more: Callable[[RunConfig, Results], Results] = lambda config, report: {},
    about: Callable[[Outcome], Results],
    **settings: Any,
) -> list[Results]:
    """The runs of a study of recipes as they stand in the results: ``about`` the run, what was :func:`measured`, and ``more``.

    ``settings`` are further ones of :class:`RunConfig`, such as the teacher.
    """
    common = {"data": data, "baseline": False, "mixed_precision": arguments.mixed_precision, **settings}
    found = study(
        place,
        {arm: RunConfig(recipe=recipe, **common) for arm, recipe in recipes.items()},
        list(seeds),
        keep=lambda config, report: {**measured(report, *keys), **more(config, report)},
        part=part(arguments),
    )
    return [{**about(outcome), **outcome.more} for outcome in found.outcomes]


# ------------------------------------------------------------------------------------------------------------- reading


def of(runs: Runs, **where: Any) -> list[Mapping[str, Any]]:
    """The runs with these values."""
    return [run for run in runs if all(run.get(name) == value for name, value in where.items())]


def scores(runs: Runs, metric: str, **where: Any) -> dict[int, float]:
    """By seed the score of the runs with these values."""
    return {run["seed"]: flat(run["scores"])[metric] for run in of(runs, **where)}


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores by metric, of the first evaluation set where there are several."""
    first = next(iter(scores.values()))
    return dict(first if isinstance(first, Mapping) else scores)


def gain(ours: Mapping[int, float], theirs: Mapping[int, float], digits: int = 3) -> str:
    """The paired difference as a cell of a table."""
    return shown(paired(ours, theirs), "+", digits)


def opening(title: str, takeaway: str) -> list[str]:
    """A page's title, and the sentence that the reader may take away."""
    return [f"# {title}", "", *paragraph(takeaway)]


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def tally(differences: Mapping[str, Sequence[float]]) -> str:
    """How many differences are above and below their intervals, with their names."""
    found: dict[str, list[str]] = {}
    for name, values in differences.items():
        if values:
            found.setdefault(judgement(values), []).append(name)
    parts = []
    for key, words in (("held", "positive beyond the interval"), ("did not hold", "negative beyond the interval")):
        if key in found:
            parts.append(f"{are(len(found[key]))} {words} ({listed(found[key])})")
    parts += [f"{are(len(found[key]))} {key}" for key in ("inside the noise", "one seed") if key in found]
    return listed(parts)


def are(count: int) -> str:
    return f"{count} is" if count == 1 else f"{count} are"
