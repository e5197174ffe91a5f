"""``tutelage compare``: methods x students x tasks x seeds, as a queue of runs that can be stopped and resumed.

A cell is one run, in a folder whose name ends in its key, a digest of its resolved settings and of the contents of the files that
they name: with other settings, another teacher or other texts it is another cell, wherever the files lie. One that is finished is
read, not repeated. Cells of a task read the same teacher store, if the task's kind can be stored; it is a cache and no part of the
key.

    OUT/compare.json               what was measured and what it shows (:mod:`tutelage.report.compared`)
    OUT/compare.html, .tex         a page, and a table for a paper
    OUT/arms.csv, contrasts.csv    the same numbers for other programs
    OUT/served.csv                 teachers and students in ONNX and int8
    OUT/cells/                     the runs
    OUT/errors/                    the traceback of each cell that failed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tutelage.artifacts import checksum_of, write_json, write_text
from tutelage.data.examples import Data
from tutelage.errors import TutelageError, option
from tutelage.progress import Display
from tutelage.recipes.choices import Launcher
from tutelage.recipes.config import (
    RunConfig,
    to_yaml,
    validated,
    with_places,
)
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import has_setting, run_config, with_settings
from tutelage.report import compared_page, compared_tables
from tutelage.report.compared import REPORT, CompareReport, QueueEntry
from tutelage.report.model import REPORT as RUN_REPORT
from tutelage.report.model import TaskReport, load_report
from tutelage.run import checks, origins
from tutelage.run.budget import settled
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench, locked
from tutelage.studies import launch
from tutelage.studies.compare_plan import ComparedMethod, ComparePlan, TeacherTask
from tutelage.studies.contrasts import Finished, TaskGround, conclusions, same_ground
from tutelage.studies.launch import CONFIG, Failure
from tutelage.studies.study import check_folder, take_folder
from tutelage.tasks import kind_of
from tutelage.tasks.load import ReadData, load_data
from tutelage.teachers.source import Source

SHARED = ("task", "data_dir", "dev", "kind", "metric", "text", "text_pair", "label", "labels")
"""Settings of the data that decide what is scored, and how; without an evaluation file also ``train``, from which it is split."""


FILE = "compare.yaml"
"""The plan, in the folder of the comparison."""


CELLS = "cells"
"""The folder of its runs, there."""


FEWEST = 4
"""Examples of an evaluation set: two pairs, where examples are pairs."""


CHECKED = 256
"""About as many texts of each part show whether a cell can be run."""


@dataclass(frozen=True)
class QueuedRun:
    """One cell."""

    task: str
    method: str
    student: str
    config: RunConfig
    key: str
    ablation: bool
    """Whether the method is one with a part left out."""

    @property
    def folder(self) -> Path:
        return Path(str(self.config.out))

    @property
    def about(self) -> str:
        parts = [self.task, self.method, self.student, f"seed {self.config.seed}"]
        return ", ".join(filter(None, parts))

    def entry(self, out: Path, finished: Finished | None, error: str | None) -> QueueEntry:
        report = None if finished is None else finished.report
        return QueueEntry(
            task=self.task,
            method=self.method,
            student=self.student,
            seed=self.config.seed,
            key=self.key,
            folder=str(self.folder.relative_to(out)),
            error=error,
            score=None if report is None else report.student.score,
            baseline=None if report is None or report.baseline is None else report.baseline.score,
            steps=None if finished is None else finished.steps,
            seconds=None if report is None else report.seconds,
        )


RecipeOf = Callable[[ComparedMethod, str, str | None], Recipe]
"""The recipe of a method with a student on a task, both by name."""

Arm = tuple[str, str, str]
"""Task, method and student."""


def compare(
    plan: ComparePlan,
    out: str,
    recipe_of: RecipeOf,
    *,
    launcher: Launcher = "local",
    plugins: Sequence[str] = (),
    quiet: bool = False,
) -> CompareReport:
    """Run the cells that are not finished, and write what all of them show; see :func:`tutelage.api.compare`. ``plugins`` are the
    files that runs on other machines read first.

    Raises:
        TutelageError: for every mistake of the user, before anything is written; and when cells of a task were scored on
            different examples.
    """
    plan.check()
    launch.check(launcher)
    folder, read = Path(out), cache(load_data)
    grounds, queue, refusals = _queue(plan, folder, recipe_of, read)
    with locked(out), Display(quiet) as display:
        check_folder(folder, FILE, "comparison", None)
        _check_arms(queue, refusals, read, display)
        left_out = _left_out(plan, queue)
        for note in left_out:
            display.say(f"note: {note}")
        take_folder(folder, FILE, to_yaml(plan))
        results = _carried_out(queue, folder, display, launcher, plugins)
        finished = [found for found, _ in results if found is not None]
        entries = [cell.entry(folder, *result) for cell, result in zip(queue, results, strict=True)]
        display.say("resampling the evaluation examples ...")
        found = conclusions(plan.against or plan.methods[0].called, plan.seeds, out, grounds, finished, entries)
        report = found.model_copy(update={"notes": [*left_out, *found.notes]})
        write_json(folder / REPORT, report)
        write_text(folder / "compare.html", compared_page.page(report))
        write_text(folder / "compare.tex", compared_tables.latex(report))
        write_text(folder / "arms.csv", compared_tables.arms_csv(report))
        write_text(folder / "contrasts.csv", compared_tables.contrasts_csv(report))
        write_text(folder / "served.csv", compared_tables.served_csv(report))
    return report


def _carried_out(
    queue: Sequence[QueuedRun], out: Path, display: Display, launcher: Launcher, plugins: Sequence[str]
) -> list[tuple[Finished | None, str | None]]:
    """The result of each cell, or why it failed.

    Raises:
        TutelageError: a cell was scored on other examples than those before it.
    """
    found: dict[int, tuple[Finished | None, str | None]] = {}

    def add(place: int, failure: Failure | None, done: str | None = None) -> None:
        result, _ = found[place] = _result(queue[place], out, failure, display, lines[place], done)
        if result is not None:
            same_ground(result, [other for other, _ in found.values() if other is not None and other is not result])

    lines = [f"{number} of {len(queue)}: {cell.about}" for number, cell in enumerate(queue, start=1)]
    open_cells = []
    for place, cell in enumerate(queue):
        if (cell.folder / RUN_REPORT).exists():
            add(place, None, "finished before")
        else:
            open_cells.append(place)
    configs = [queue[place].config for place in open_cells]
    if launcher == "ray" and configs:
        display.say(f"{len(configs):,} {'cell' if len(configs) == 1 else 'cells'} on Ray ...")
        ended = launch.on_ray(configs, plugins)
    else:
        ended = launch.in_turn(configs, lambda place: display.say(f"{lines[open_cells[place]]} ..."))
    for number, failure in ended:
        add(open_cells[number], failure)
    return [found[place] for place in range(len(queue))]


def _result(
    cell: QueuedRun, out: Path, failure: Failure | None, display: Display, line: str, done: str | None = None
) -> tuple[Finished | None, str | None]:
    """What a run that has ended measured, or why it failed."""
    place = out / "errors" / f"{cell.folder.name}.txt"
    found: Finished | Failure
    try:
        found = failure or _finished(cell)
    except Exception as error:  # a damaged file, a bug
        found = Failure.of(error)
    if isinstance(found, Failure):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, found.traceback)
        display.say(f"{line}: FAILED: {found.reason}")
        return None, found.reason
    place.unlink(missing_ok=True)
    report = found.report
    display.say(f"{line}: {report.metric} {report.student.score:.4f} ({done or f'{report.seconds:,.0f} s'})")
    return found, None


def _finished(cell: QueuedRun) -> Finished:
    try:
        report = load_report(cell.folder)
    except TutelageError as error:
        raise TutelageError(f"{error}: remove the folder, and the cell is run again") from None
    assert isinstance(report, TaskReport)
    recipe = cell.config.recipe
    # What an ablation leaves out may be all that its last stages learn from the teacher; it is still a row of its method.
    distilled = recipe.needs_teacher or cell.ablation
    found = Finished(cell.task, cell.method, cell.student, cell.folder, report, recipe, distilled)
    found.table("student")  # lost predictions are the cell's failure, too
    return found


# ------------------------------------------------------------------------------------------------------------ the queue


def _queue(
    plan: ComparePlan, out: Path, recipe_of: RecipeOf, read: ReadData
) -> tuple[list[TaskGround], list[QueuedRun], dict[Arm, str | None]]:
    """The tasks, and all cells: seeds are the outer loop, so that an interrupted comparison has fewer seeds, not fewer arms. Of
    arms whose operations were counted also why they cannot be run, or that they can."""
    grounds: list[TaskGround] = []
    configs: dict[Arm, RunConfig] = {}
    refusals: dict[Arm, str | None] = {}
    taught: dict[str, str] = {}
    for task in plan.tasks:
        arms = _configs(plan, task, recipe_of)
        _check_shared(task.called, arms)
        data = read(task.data)
        kind = kind_of(data.kind)
        source = Source(task.teacher, kind.head, pooling=task.data.pooling)
        kind.match(data, source.config, task.teacher)
        taught[task.called] = origins.contents_of(source)
        store = "auto" if plan.store and kind.per_text else None
        arms = {
            arm: config.model_copy(update={"teacher_store": config.teacher_store or store})
            for arm, config in arms.items()
        }
        steps = flops = None
        if plan.steps == "flops":
            arms, flops = _of_equal_cost(arms, out, read, refusals)
        elif plan.steps != "recipe":
            planned = {arm: _planned(config, read(config.data)) for arm, config in arms.items()}
            steps = plan.steps if isinstance(plan.steps, int) else max(sum(stages) for stages in planned.values())
            arms = {arm: with_steps(config, steps, planned[arm]) for arm, config in arms.items()}
        part, examples = next(iter(data.dev.items()))
        if len(examples) < FEWEST:
            raise TutelageError(
                f"the evaluation set of task {task.called!r} has {len(examples)} examples, on which no difference can be shown; "
                f"give at least {FEWEST}"
            )
        place = data.sources.get(part, part)
        grounds.append(
            TaskGround(task.called, task.teacher, steps, flops, data.kind, data.metrics[0], part, place, len(examples))
        )
        configs |= arms
    texts, contents = cache(lambda config: origins.texts_of(read(config))), cache(origins.contents)
    ablations, cells = {method.called for method in plan.methods if method.ablation is not None}, []
    measured = {(task, student): (task, method, student) for task, method, student in reversed(configs)}
    for seed in plan.seeds:
        for arm, config in configs.items():
            # The teacher is one for all, and so are size and speed of a student.
            served = plan.served and seed == plan.seeds[0] and measured[arm[0], arm[2]] == arm
            seeded = config.model_copy(update={"seed": seed, "served": served})
            key = _key(seeded, taught[arm[0]], texts(config.data), contents)
            cells.append(QueuedRun(*arm, _placed(out, arm, seeded, key), key, arm[1] in ablations))
    return grounds, cells, refusals


def _check_arms(
    queue: Sequence[QueuedRun], refusals: Mapping[Arm, str | None], read: ReadData, display: Display
) -> None:
    """Check each method with its student on its task, up to where training would begin; one seed speaks for all. ``refusals`` are
    known of the arms that have been checked before.

    A grid may have cells that cannot be run: a term on the layers before the last has none in a student of one layer. They are
    named, and fail in the queue. A student that no method can have on a task, or a method that no cell can carry out, is a mistake,
    and so is a teacher that is no better than a constant answer.

    Raises:
        TutelageError: for all cells of such students, methods and teachers.
    """
    few = _few(read)
    arms: dict[Arm, list[QueuedRun]] = {}
    for cell in queue:
        arms.setdefault((cell.task, cell.method, cell.student), []).append(cell)
    groups: dict[tuple[str, ...], list[Arm]] = {}
    refused: dict[Arm, str] = {}
    display.say(f"checking {len(arms):,} {'cell' if len(arms) == 1 else 'cells'} of a seed ...")
    for arm, cells in arms.items():
        for group in ((arm[0], arm[2]), (arm[1],)):
            groups.setdefault(group, []).append(arm)
        # A run writes to its folder when it has passed these checks.
        if not any(_begun(cell) for cell in cells):
            sketch = refusals[arm] if arm in refusals else _sketch(cells[0].config, few, read)
            if isinstance(sketch, str):
                refused[arm] = sketch
        display.advance("checked", len(arms), 1)
    mistaken = {arm for group in groups.values() if refused.keys() >= set(group) for arm in group}
    if mistaken:
        reasons: dict[str, list[str]] = {}
        for arm in filter(mistaken.__contains__, arms):
            reasons.setdefault(refused[arm], []).append(_named(arm))
        raise TutelageError("; ".join(f"{' and '.join(names)}: {reason}" for reason, names in reasons.items()))
    able = [cell for arm, cells in arms.items() if arm not in refused for cell in cells]
    for task in dict.fromkeys(cell.task for cell in able):
        cells = [cell for cell in able if cell.task == task]
        strict = [cell.config for cell in cells if not cell.config.allow_weak_teacher]
        if strict and not any(_begun(cell) for cell in cells):
            check_teacher(task, strict[0], read)
    for arm, reason in refused.items():
        display.say(f"{_named(arm)}: cannot be run and will be recorded as failed: {reason}")


def check_teacher(task: str, config: RunConfig, read: ReadData) -> None:
    """See that the teacher of a task is better than a constant answer, once for all runs like this one.

    Raises:
        TutelageError: it is not, and the run would not go on in spite of it.
    """
    few, data = _few(read), read(config.data)
    with bench(True, config.mixed_precision) as desk:
        some = replace(few(config.data), dev=data.dev)
        try:
            run = TaskRun(desk, config, sketch=True, read=lambda _: some)
        except TutelageError:  # few texts may lack what all have
            run = TaskRun(desk, config, sketch=True, read=read)
        assert run.teacher is not None
        try:
            checks.judged(run.config, run.texts, run.teacher, f"{option('settings')} allow_weak_teacher=true")
        except TutelageError as error:
            raise TutelageError(f"{task}: {error}") from None


def _begun(cell: QueuedRun) -> bool:
    return any((cell.folder / name).exists() for name in (CONFIG, RUN_REPORT))


def _named(arm: Arm) -> str:
    return ", ".join(filter(None, arm))


def _few(read: ReadData) -> ReadData:
    return cache(lambda config: read(config).spread(CHECKED))


def _sketch(config: RunConfig, *readers: ReadData) -> TaskRun | str:
    """A run up to where training would begin, without weights; or why it cannot begin.

    Reading all texts takes long, and few of them show the same. They may lack what all have, so each reader has to refuse.
    """
    reason = ""
    for texts in readers:
        try:
            with bench(True, config.mixed_precision) as desk:
                return TaskRun(desk, config, sketch=True, read=texts)
        except TutelageError as error:
            reason = str(error)
    return reason


def _key(config: RunConfig, teacher: str, texts: str, contents: Callable[[str], str]) -> str:
    """Sixteen hexadecimal digits of a hash of the settings of a run, and of the contents of the files and folders that they name.

    Args:
        config: The run. Its folder, its store of the teacher's knowledge and ``served`` are no part of the key.
        teacher: The fingerprint of its teacher.
        texts: That of its texts.
        contents: :func:`tutelage.run.origins.contents`.
    """
    data = config.data.model_copy(update=dict.fromkeys(origins.READ))
    plain = config.model_copy(
        update={"data": data, "out": None, "teacher": None, "teacher_store": None, "served": False}
    )
    tree = with_places(plain, contents).model_dump(mode="json")
    return checksum_of({**tree, "teacher": teacher, "texts": texts})[:16]


def _configs(plan: ComparePlan, task: TeacherTask, recipe_of: RecipeOf) -> dict[Arm, RunConfig]:
    """The run of each method with each student. A setting of the plan is for those that have it.

    Raises:
        TutelageError: none has it.
    """
    plain = {
        (task.called, method.called, student): _plain(plan, task, method, student, recipe_of)
        for method in plan.methods
        for student in task.students or plan.students
    }
    having = {path: {arm for arm, config in plain.items() if has_setting(config, path)} for path in plan.settings}
    own = {method.called: method.settings for method in plan.methods}
    found = {}
    for arm, config in plain.items():
        # A path that no run has yet may be that of a part which an earlier setting adds; else this refuses it.
        shared = {path: value for path, value in plan.settings.items() if arm in having[path] or not having[path]}
        found[arm] = with_settings(config, {**shared, **own[arm[1]]})
    return found


def _left_out(plan: ComparePlan, queue: Sequence[QueuedRun]) -> list[str]:
    """Which settings of the plan not all methods have."""
    arms = {(cell.task, cell.method, cell.student): cell.config for cell in queue}
    notes = []
    for path in plan.settings:
        without = dict.fromkeys(arm[1] for arm, config in arms.items() if not has_setting(config, path))
        if without:
            notes.append(f"The setting {path} does not exist in {', '.join(without)}, and is left out there.")
    return notes


def _plain(
    plan: ComparePlan, task: TeacherTask, method: ComparedMethod, student: str, recipe_of: RecipeOf
) -> RunConfig:
    """A run before any setting."""
    recipe = recipe_of(method, student, task.data.task)
    if recipe.takes_teachers:
        raise TutelageError(
            f"the method {method.method!r} learns from several teachers; compare takes methods with one teacher"
        )
    fields: dict[str, Any] = {
        "teacher": task.teacher,
        "baseline": plan.baseline,
        "mixed_precision": plan.mixed_precision,
    }
    data = task.data.model_dump(mode="json", exclude_unset=True)
    return run_config(recipe, data, **fields)


def _check_shared(task: str, arms: Mapping[Arm, RunConfig]) -> None:
    """Check that all cells of a task are scored on the same examples, by the same metric.

    Raises:
        TutelageError: if settings of methods say otherwise.
    """
    (first, *_), *others = arms.items()
    same = arms[first].data
    for (_, method, _), config in others:
        names = [*SHARED, *(["train"] if same.dev is None else [])]
        for name in names:
            ours, theirs = getattr(same, name), getattr(config.data, name)
            if ours != theirs:
                raise TutelageError(
                    f"the cells of task {task!r} do not share data.{name} ({first[1]} has {ours!r}, {method} has {theirs!r}), and "
                    "their scores cannot be compared; set it for the whole task, or make two tasks of it"
                )


def _planned(config: RunConfig, data: Data) -> list[int]:
    """About how many optimiser steps each stage of a run plans: texts that augmentation adds are not counted."""
    held = data.hold_out(config.data.holdout, 0) if config.data.holdout and kind_of(data.kind).learns_labels else data
    more = len(data.unlabeled) if data.unlabeled is not None else 0
    sizes = {stage.name: len(held.train) + (0 if stage.needs_labels else more) for stage in config.recipe.stages}
    recipe = settled(config.recipe, lambda stage: sizes[stage.name], 768)  # the width decides about rates alone
    each = [-(-sizes[stage.name] // stage.batch_size) * stage.schedule[0] for stage in recipe.stages]
    return [max(min(steps, stage.max_steps or steps), 1) for steps, stage in zip(each, recipe.stages, strict=True)]


def _of_equal_cost(
    arms: Mapping[Arm, RunConfig], out: Path, read: ReadData, refusals: dict[Arm, str | None]
) -> tuple[dict[Arm, RunConfig], float]:
    """The runs with as many steps as make each cost what the most expensive one plans, and these operations: of the stages, the
    teacher's too where it runs. ``refusals`` gets why a run cannot begin, or None."""
    few, costs = _few(read), dict[Arm, float]()
    planned = {arm: _planned(config, read(config.data)) for arm, config in arms.items()}
    for arm, config in arms.items():
        sketch = _sketch(config.model_copy(update={"out": str(out)}), few, read)
        refusals[arm] = sketch if isinstance(sketch, str) else None
        if not isinstance(sketch, str):
            stages = zip(planned[arm], sketch.plans, strict=True)
            costs[arm] = sum(steps * one.stage.batch_size * one.flops for steps, one in stages)
    flops = max(costs.values(), default=0.0)
    steps = {arm: sum(planned[arm]) for arm in arms}
    steps |= {arm: max(len(planned[arm]), round(steps[arm] * flops / cost)) for arm, cost in costs.items() if cost}
    return {arm: with_steps(config, steps[arm], planned[arm]) for arm, config in arms.items()}, flops


def with_steps(config: RunConfig, steps: int, planned: Sequence[int]) -> RunConfig:
    """The run with ``steps`` optimiser steps in all, divided between its stages in the proportion that they plan.

    Raises:
        TutelageError: when there are fewer steps than stages.
    """
    if steps < len(planned):
        raise TutelageError(
            f"{option('steps')} {steps} is fewer than the {len(planned)} stages of {config.recipe.method!r}; give more"
        )
    bounds = [round(steps * sum(planned[:place]) / sum(planned)) for place in range(len(planned) + 1)]
    for place in range(1, len(bounds)):  # at least one step a stage
        bounds[place] = min(max(bounds[place], bounds[place - 1] + 1), steps - (len(planned) - place))
    stages = [
        stage.model_copy(update={"epochs": 10**6, "max_steps": bounds[place + 1] - bounds[place], "patience": None})
        for place, stage in enumerate(config.recipe.stages)
    ]
    recipe = config.recipe.model_copy(update={"stages": stages})
    return validated(config.model_copy(update={"recipe": recipe}).model_dump(mode="json"))


def _placed(out: Path, arm: Arm, config: RunConfig, key: str) -> RunConfig:
    """The run with its folder, named for people and by its key."""
    words = [re.sub(r"[^\w.=+-]+", "_", word)[:40] for word in arm if word]
    name = "-".join([*words, f"seed{config.seed}", key])
    return config.model_copy(update={"out": str(out / CELLS / name)})
