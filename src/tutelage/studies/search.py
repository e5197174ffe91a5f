"""``tutelage search-knowledge``: find the smallest part of a teacher's hidden states that trains the best student.

The teacher runs once, into a store of everything; each configuration then reads its part. Configurations are drawn evenly
over the orders of magnitude of their size. Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) trains all
of them briefly, the best third for longer, and the last ones fully and with several seeds.

    OUT/search.json, search.svg    what came out, and its picture
    OUT/store/                     the teacher's knowledge
    OUT/students/                  where each seed starts, if it is cut out of the teacher
    OUT/runs/                      a run for each configuration, length and seed; those of the last rung keep their student
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from tutelage import anatomy
from tutelage.artifacts import write_json, write_text
from tutelage.errors import TutelageError, option
from tutelage.fields import MOST_SEEDS
from tutelage.knowledge.needs import Needs
from tutelage.methods.minimum_knowledge import minimum_knowledge
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.mapping import half_up
from tutelage.progress import Display
from tutelage.recipes.choices import Dtype, Precision
from tutelage.recipes.config import RunConfig, to_yaml, validated
from tutelage.recipes.settings import Settings, parsed, with_settings
from tutelage.report.search import Candidate, Rung, Search, SearchTrial, picture
from tutelage.report.words import as_constant
from tutelage.run import checks, stores
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.run.workspace import Bench, bench, new_accelerator
from tutelage.students.specs import Checkpoint, Copied, Student, parse, takes_from_teacher
from tutelage.studies.study import check_folder, take_folder
from tutelage.tasks.load import ReadData, load_data

FILE = "search.yaml"
"""The settings of the search, in its folder."""


DEPTHS = ("1", "2", "3", "all")


LENGTHS = ("1", "5", "10", "20", "50", "all")


WIDTHS = ("0.05", "0.1", "0.2", "0.5", "1")


TOPS = (8, 10, 12)
"""Twelfths of the teacher's depth; a store that is written ``whole`` has these."""


MOST_TRIALS = 10_000
"""More than the grid has configurations."""


BINS = 12


ETA = 3
"""Divisor of the number of configurations from one rung to the next, and factor of the training time."""


def search_knowledge(
    teacher: str,
    out: str,
    *,
    student: str | Student | None,
    trials: int,
    seeds: int,
    seed: int,
    under: float | None,
    hidden_epochs: int,
    prediction_epochs: int,
    lr: float | None,
    mixed_precision: Precision,
    dtype: Dtype,
    quiet: bool,
    settings: Settings,
    data: dict[str, Any],
) -> Search:
    """See :func:`tutelage.api.search_knowledge`."""
    for what, many, most in (("trials", trials, MOST_TRIALS), ("seeds", seeds, MOST_SEEDS)):
        if not 1 <= many <= most:
            raise TutelageError(f"{option(what)} {many} is no number of {what}; give 1 to {most:,}")
    for name, count in (("hidden", hidden_epochs), ("prediction", prediction_epochs)):
        if count < 1:
            raise TutelageError(f"--{name}-epochs {count} is too few; give at least 1")
    recipe = minimum_knowledge(hidden_epochs=hidden_epochs, prediction_epochs=prediction_epochs, task=data.get("task"))
    if student is not None:
        spec = parse(student, recipe.student) if isinstance(student, str) else student
        if isinstance(spec, Copied) and spec.choose == "best":  # all amounts are compared from one start
            spec = spec.model_copy(update={"choose": "first"})
        recipe = recipe.model_copy(update={"student": spec})
    folder = Path(out)
    tree = {
        "recipe": recipe.model_dump(mode="json"),
        "data": data,
        "teacher": teacher,
        "out": str(folder / "store"),
        "seed": seed,
        "baseline": False,
        "mixed_precision": mixed_precision,
        "store_dtype": dtype,
    }
    ours: dict[str, Any] = {} if lr is None else {"stages.*.lr": lr}
    base = with_settings(validated(tree), ours | parsed(settings))
    check_folder(folder, FILE, "search", to_yaml(base), beside=["store"])
    display, read = Display(quiet), cache(load_data)
    with bench(quiet, base.mixed_precision) as desk:
        sketch = TaskRun(desk, base, sketch=True, read=read)
        _check(sketch, folder / "store")
    drawn = draw(candidates(sketch), trials, seed)
    take_folder(folder, FILE, to_yaml(base))
    if not (folder / "store").exists():
        stores.write(base, whole=True, quiet=quiet)
    students = {s: _student(base, folder, s, display, read) for s in range(seed, seed + seeds)}
    epochs = schedule(len(drawn), [stage.schedule[0] for stage in sketch.config.recipe.stages])
    rungs, tried = _climb(base, folder, drawn, epochs, students, display, read)
    known = sketch.texts.data
    found = Search(
        task=known.task,
        kind=known.kind,
        metric=known.metrics[0],
        teacher=teacher,
        rungs=rungs,
        trials=sorted(tried, key=lambda trial: (trial.bytes_per_example, trial.name)),
        front=pareto([trial for trial in tried if trial.rung == len(rungs)]),
        under=under,
    )
    write_json(folder / "search.json", found)
    write_text(folder / "search.svg", picture(found))
    return found


def _check(sketch: TaskRun, store: Path) -> None:
    """Check that there is a validation split, that a store in the folder belongs to this teacher and data, and, before there is
    one, that the teacher is better than a constant answer."""
    assert sketch.teacher is not None
    data, dtype, texts = sketch.config.data, sketch.config.store_dtype, sketch.texts
    if texts.data.selection is next(iter(texts.data.dev.values())):
        raise TutelageError(
            f"data.holdout={data.holdout:g} leaves no validation split to compare configurations on (the evaluation set is only "
            f"for the report); set data.holdout=0.1, or give more training data"
        )
    last = sketch.config.recipe.stages[-1]
    if last.select != "best":
        raise TutelageError(
            f"stage {last.name!r} has select={last.select}, so no run would be scored on the validation split; leave select=best"
        )
    if store.exists():
        found = sketch.teacher.knowledge.open(store, Needs(logits=True))[0].scheme.dtype
        if found != dtype:
            raise TutelageError(
                f"the store {str(store)!r} has hidden states in {found}, not {dtype}; give {option('store_dtype')} {found}, "
                f"or another {option('out')}"
            )
    else:
        checks.judged(sketch.config, texts, sketch.teacher, f"{option('settings')} allow_weak_teacher=true")
        sketch.teacher.source.release()


def candidates(sketch: TaskRun) -> list[Candidate]:
    """The grid, without configurations that are equal for these models and texts, or exceed them."""
    assert sketch.teacher is not None
    student, teacher = anatomy.shape_of(sketch.student.config), sketch.teacher.source.shape
    known = sketch.teacher.knowledge
    lengths = known.encoded.lengths
    terms = [term for stage in sketch.config.recipe.stages for term in stage.objective]
    knowledge = next(term for term in terms if isinstance(term, HiddenKnowledge))
    found: dict[Any, Candidate] = {}
    for twelfths, depth, length, width in product(TOPS, DEPTHS, LENGTHS, WIDTHS):
        if (depth != "all" and int(depth) > student.layers + 1) or (length != "all" and int(length) >= lengths.max()):
            continue
        keep, top = f"{depth}l_{length}t_{width}h", half_up(twelfths * teacher.layers, 12)
        term = knowledge.model_copy(update={"keep": keep, "top": top})
        needs = Needs(logits=True) | term.needs(student, teacher)[1]
        size = known.scheme(needs, sketch.config.store_dtype).record_bytes(lengths).mean()
        meaning = (tuple(term.pairs(student, teacher)), tuple(term.cuts(student, teacher)))
        found.setdefault(meaning, Candidate(keep=keep, top=top, bytes_per_example=float(size)))
    return list(found.values())


def draw(given: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    """``count`` of them (or all) without repetition, as many from each of ``BINS`` equal parts of the log of their bytes."""
    logs = np.log([candidate.bytes_per_example for candidate in given])
    bins = np.digitize(logs, np.linspace(logs.min(), logs.max(), BINS + 1)[1:-1])
    generator = np.random.default_rng([seed, 0x5EA])
    groups = [generator.permutation(np.flatnonzero(bins == place)).tolist() for place in range(BINS)]
    drawn: list[int] = []
    while len(drawn) < min(count, len(given)):
        drawn += [groups[place].pop() for place in generator.permutation(BINS) if groups[place]]
    return [given[row] for row in drawn[:count]]


def schedule(trials: int, epochs: list[int]) -> list[list[int]]:
    """The epochs of each stage, by rung, ``epochs`` last; as many rungs as there are trials and epochs to divide by ``ETA``."""
    plan = [epochs]
    while ETA ** len(plan) <= trials:
        shorter = [max(1, round(count / ETA ** len(plan))) for count in epochs]
        if shorter == plan[0]:
            break
        plan.insert(0, shorter)
    return plan


def _student(base: RunConfig, folder: Path, seed: int, display: Display, read: ReadData) -> Student:
    """The student from which the runs of a seed start, without the teacher's weights: what is cut out of them is saved."""
    spec = base.recipe.student
    if not takes_from_teacher(spec):
        return spec
    place = folder / "students" / f"seed{seed}"
    if not place.exists():
        config = base.model_copy(update={"seed": seed, "teacher_store": str(folder / "store")})
        with display:
            made = TaskRun(Bench(new_accelerator(base.mixed_precision), display), config, read=read)
        partial = place.with_name(f"{place.name}.partial")
        made.student.save_pretrained(partial)
        made.tokenizer.save_pretrained(partial)
        partial.rename(place)
    return Checkpoint(name=str(place))


def _climb(
    base: RunConfig,
    folder: Path,
    drawn: Sequence[Candidate],
    plan: list[list[int]],
    students: dict[int, Student],
    display: Display,
    read: ReadData,
) -> tuple[list[Rung], list[SearchTrial]]:
    """Successive halving. Returns every configuration with the scores of its last rung."""
    rungs: list[Rung] = []
    tried: dict[str, SearchTrial] = {}
    climbing: Sequence[Candidate] = drawn
    for number, epochs in enumerate(plan, start=1):
        last = number == len(plan)
        seeds = list(students) if last else list(students)[:1]
        by_stage = {stage.name: count for stage, count in zip(base.recipe.stages, epochs, strict=True)}
        rungs.append(Rung(epochs=by_stage, trials=len(climbing), seeds=len(seeds)))
        measured: list[SearchTrial] = []
        for candidate in climbing:
            scores, dev = {}, []
            for seed in seeds:
                config = _config(base, folder, candidate, epochs, students[seed], seed)
                report = run(config, resume=True, quiet=True, read=read)
                scores[seed] = float(report["stages"][-1]["best"]["score"])
                dev.append(float(report["student"]["score"]))
                if not last:
                    shutil.rmtree(Path(str(config.out)) / "student", ignore_errors=True)
            result = {"rung": number, "score": mean(scores.values()), "scores": scores, "dev_score": mean(dev)}
            measured.append(trial := SearchTrial(**candidate.model_dump() | result))
            display.say(
                f"rung {number} of {len(plan)}, {len(measured)} of {len(climbing)}: {candidate.name}: "
                f"{candidate.bytes_per_example:,.0f} bytes per example, {report['metric']} {trial.score:.4f}"
                f"{' (a constant answer is scored 0)' if as_constant(report['kind'], scores.values()) else ''}"
            )
        tried |= {trial.name: trial for trial in measured}
        climbing = sorted(measured, key=lambda trial: trial.rank)[: math.ceil(len(measured) / ETA)]
    return rungs, list(tried.values())


def _config(
    base: RunConfig, folder: Path, candidate: Candidate, epochs: list[int], student: Student, seed: int
) -> RunConfig:
    """The run of a configuration. It reads the store, and of the teacher only sizes and tokenizer."""
    amount = {"keep": candidate.keep, "top": candidate.top}
    stages = []
    for stage, count in zip(base.recipe.stages, epochs, strict=True):
        objective = [t.model_copy(update=amount) if isinstance(t, HiddenKnowledge) else t for t in stage.objective]
        stages.append(stage.model_copy(update={"epochs": count, "objective": objective}))
    name = f"{candidate.keep}-top{candidate.top}-{'+'.join(map(str, epochs))}-seed{seed}"
    place = {
        "teacher": str(folder / "store" / "teacher"),
        "teacher_store": str(folder / "store"),
        "out": str(folder / "runs" / name),
    }
    recipe = base.recipe.model_copy(update={"student": student, "stages": stages})
    return base.model_copy(update={"recipe": recipe, "seed": seed, **place})


def pareto(trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """The Pareto front of score and size, the smallest first."""
    front: list[SearchTrial] = []
    for trial in sorted(trials, key=lambda trial: (trial.bytes_per_example, -trial.score)):
        if not front or trial.score > front[-1].score:
            front.append(trial)
    return front
