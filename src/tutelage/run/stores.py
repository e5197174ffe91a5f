"""The commands on stores: write one, cut one down, estimate its cost."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from tutelage import anatomy
from tutelage.artifacts import free_place
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.knowledge.store.writing import compact
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.mapping import half_up
from tutelage.objectives.objective import ObjectivePlan
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.report.results import StorePlan
from tutelage.report.teachers import StoreEntry
from tutelage.run import checks
from tutelage.run.pairing import copied_layers, paired
from tutelage.run.plan import example_flops
from tutelage.run.student import outline, with_size
from tutelage.run.task import TaskRun
from tutelage.run.teacher import RunTeacher
from tutelage.run.trials import candidates
from tutelage.run.workspace import bench
from tutelage.students.load import load_config
from tutelage.students.specs import origin_of
from tutelage.tasks import kind_of_model
from tutelage.teachers.knowledge import describe, kept, storable, verified
from tutelage.teachers.source import Source


def write(config: RunConfig, whole: bool, *, quiet: bool = False) -> StoreEntry:
    """Write the store that a run's recipe needs into ``config.out`` (see :func:`tutelage.api.write_store`)."""
    with bench(quiet, config.mixed_precision) as desk:
        run = TaskRun(desk, config, sketch=True)
        teacher = _teacher_of(run)
        free_place(Path(str(config.out)))
        for warning in run.warnings:
            desk.display.say(f"note: {warning}")
        scheme, knowledge = _scheme(run, whole), teacher.knowledge
        total = int(scheme.record_bytes(knowledge.encoded.lengths).sum())
        desk.display.say(f"{len(knowledge.ids):,} examples, {total / 1e6:,.1f} MB: {kept(scheme)}")
        checks.judged(config, run.texts, teacher, run.bench.anyway)
        store = knowledge.write(Path(str(config.out)), scheme, teacher.logits, desk.accelerator, desk.display)
    return describe(store)


def cut(recipe: Recipe, larger: Path, out: Path, *, quiet: bool = False) -> StoreEntry:
    """Write the part of a larger store that ``recipe`` needs (see :func:`tutelage.api.compact_store`)."""
    with Display(quiet) as display:
        store = verified(Store(larger), display)
        teacher = Source(str(larger / "teacher"))
        given, recipe = recipe.student, with_size(recipe, teacher)
        kind = kind_of_model("classes", teacher.config)
        named = origin_of(recipe.student)
        source = teacher.shape if named is None else anatomy.shape_of(load_config(named))
        plans = [
            ObjectivePlan(
                paired(stage.objective, copied_layers(one, source, teacher.shape), teacher.shape.layers),
                kind,
                anatomy.shape_of(outline(one, teacher, {}).config),
                teacher.shape,
            )
            for one in [*candidates(given, recipe.student, source).values()] or [recipe.student]
            for stage in recipe.stages
        ]
        ours = store.scheme
        scheme = Scheme.covering(storable(plans), ours.classes, ours.hidden, ours.longest, ours.dtype)
        total = store.manifest.examples
        return describe(compact(store, out, scheme, lambda count: display.advance("cut", total, count)))


def estimate(config: RunConfig, whole: bool) -> StorePlan:
    """Estimate what a store costs and saves (see :func:`tutelage.api.plan_store`). No model runs."""
    with bench(quiet=True) as desk:
        run = TaskRun(desk, config, sketch=True)
    source, knowledge = _teacher_of(run).source, _teacher_of(run).knowledge
    scheme, lengths = _scheme(run, whole), knowledge.encoded.lengths
    sizes = scheme.record_bytes(lengths)
    teacher = example_flops(knowledge.encoded, source.outline)
    train = run.texts.parts["train"]
    student = example_flops(train.student, run.student)
    shown = [plan.steps * plan.stage.batch_size for plan in run.plans]
    running = sum(count for count, plan in zip(shown, run.plans, strict=True) if plan.reads_teacher)
    learning = 3 * student * sum(count * plan.passes for count, plan in zip(shown, run.plans, strict=True))
    step = round(learning / sum(shown))
    full = Scheme.covering(
        Needs(logits=True, hidden=frozenset(layer for layer, _ in scheme.columns)),
        scheme.classes,
        scheme.hidden,
        scheme.longest,
    )
    return StorePlan(
        examples=len(lengths),
        mean_length=float(lengths.mean()),
        keeps=kept(scheme),
        bytes=int(sizes.sum()),
        bytes_per_example=float(sizes.mean()),
        share_of_these_layers=float(sizes.sum() / full.record_bytes(lengths).sum()),
        teacher_pass_flops=teacher * len(lengths),
        teacher_flops_per_example=teacher,
        student_step_flops_per_example=step,
        break_even_epochs=len(lengths) / len(train.examples),
        planned_epochs_beside_the_teacher=running / len(train.examples),
        ideal_speedup_per_step=(teacher + step) / step,
        ideal_speedup_of_the_run=(running * teacher + learning) / (len(lengths) * teacher + learning),
        ideal_speedup_of_the_next_run=(running * teacher + learning) / learning,
    )


def verify(folder: Path, teacher: str | None) -> None:
    """Verify every byte of a store, and with ``teacher`` that it was written from this teacher.

    Raises:
        TutelageError: if a byte has changed, or the teacher is another.
    """
    display = Display()
    with display:
        store = verified(Store(folder), display)
    if teacher is not None:
        source = Source(teacher)
        store.check(source.fingerprint, tokenizer_fingerprint(source.tokenizer), store.manifest.precision)


def _teacher_of(run: TaskRun) -> RunTeacher:
    """The teacher, where there is something to store.

    Raises:
        TutelageError: when a store cannot keep what the task needs, or the recipe needs nothing of its teacher.
    """
    checks.check_storable(run.texts.data)
    recipe = run.config.recipe
    needed = [
        bool(plan.teacher_needs) or any(mechanism.asks_teacher for mechanism in stage.mechanisms)
        for plan, stage in zip(run.objectives.current, recipe.stages, strict=True)
    ]
    if not any(needed) or run.teacher is None:
        raise TutelageError(
            f"the method {recipe.method!r} reads nothing from its teacher, so there is nothing to store; train it without a "
            f"store"
        )
    return run.teacher


def _scheme(run: TaskRun, whole: bool) -> Scheme:
    teacher = _teacher_of(run)
    needs = teacher.storable_needs | (_everything(run) if whole else Needs())
    return teacher.knowledge.scheme(needs, run.config.store_dtype)


def _everything(run: TaskRun) -> Needs:
    """What any amount of hidden knowledge could need: the tops 8, 10 and 12 twelfths up, every ranking of tokens."""
    student, teacher = anatomy.shape_of(run.student.config), _teacher_of(run).source.shape
    terms = [t for stage in run.config.recipe.stages for t in stage.objective if isinstance(t, HiddenKnowledge)]
    needs = Needs()
    for term in terms:
        tops = {half_up(share * teacher.layers, 12) for share in (8, 10, 12)} | ({term.top} if term.top else set())
        for top, rounding in product(tops, ("half_up", "half_even")):
            some = term.model_copy(update={"top": top, "rounding": rounding, "tokens_by": "attention"})
            needs |= some.model_copy(update={"keep": "alll_allt_1h"}).needs(student, teacher)[1]
            for score, scored_by in product(("probability", "logit"), ("same", "uniform")):
                ranked = {"keep": "alll_1t_1h", "score": score, "scored_by": scored_by}
                needs |= some.model_copy(update=ranked).needs(student, teacher)[1]
    return needs
