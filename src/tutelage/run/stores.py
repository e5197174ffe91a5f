"""The commands on stores: write one, cut one down, say what one is or would cost."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import transformers

from tutelage import anatomy
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.knowledge.store.writing import check_place, compact
from tutelage.objectives.mapping import half_up
from tutelage.objectives.objective import Objective
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.checks import check_storable
from tutelage.run.plan import planned_steps, typical
from tutelage.run.student import outline
from tutelage.run.task import Setup, ask_teacher, feed_of, objectives_of, prepare
from tutelage.run.teacher_store import describe, kept, storable, verified
from tutelage.run.workspace import new_accelerator
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source


def write(config: RunConfig, whole: bool, *, quiet: bool = False) -> dict[str, Any]:
    """Write the store that a run's recipe needs into ``config.out`` (see :func:`tutelage.api.write_store`)."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    accelerator, display = new_accelerator(config.mixed_precision), Display(quiet)
    with display:
        setup = prepare(config, accelerator, display, sketch=True)
        assert setup.knowledge is not None and config.out is not None
        _check_wanted(setup)
        check_place(Path(config.out))
        for warning in setup.warnings:
            display.say(f"note: {warning}")
        scheme = _scheme(setup, whole)
        total = int(scheme.record_bytes(setup.knowledge.encoded.lengths).sum())
        display.say(f"{len(setup.knowledge.ids):,} examples, {total / 1e6:,.1f} MB: {kept(scheme)}")
        ask_teacher(setup, accelerator, display)
        store = setup.knowledge.write(Path(config.out), scheme, setup.teacher_logits, accelerator, display)
    return describe(store)


def cut(recipe: Recipe, larger: Path, out: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Write what ``recipe`` needs of a larger store (see :func:`tutelage.api.compact_store`)."""
    display = Display(quiet)
    with display:
        store = verified(Store(larger), display)
        teacher = Source(str(larger / "teacher"))
        student = anatomy.shape_of(outline(recipe.student, teacher, {}).config)
        kind = kind_of("regression" if teacher.config.num_labels == 1 else "classification")
        objectives = [Objective(stage.objective, kind, student, teacher.shape) for stage in recipe.stages]
        ours = store.scheme
        scheme = Scheme.covering(storable(objectives), ours.classes, ours.hidden, ours.longest, ours.dtype)
        total = store.manifest.examples
        return describe(compact(store, out, scheme, lambda count: display.advance("cut", total, count)))


def estimate(config: RunConfig, whole: bool) -> dict[str, Any]:
    """What a store costs and earns (see :func:`tutelage.api.plan_store`); nothing is run."""
    transformers.logging.set_verbosity_error()
    setup = prepare(config, new_accelerator(), Display(quiet=True), sketch=True)
    assert setup.knowledge is not None and setup.teacher is not None
    _check_wanted(setup)
    scheme, lengths = _scheme(setup, whole), setup.knowledge.encoded.lengths
    sizes = scheme.record_bytes(lengths)
    teacher = speed.flops(setup.teacher.outline, typical(setup.knowledge.encoded, setup.teacher.outline)(1))
    student = speed.flops(setup.student, typical(setup.train.student, setup.student)(1))
    shown = [
        planned_steps(stage, feed_of(stage, setup.texts(stage).student)) * stage.batch_size
        for stage in config.recipe.stages
    ]
    beside = sum(
        count for count, objective in zip(shown, objectives_of(setup), strict=True) if objective.teacher_needs.running
    )
    learning = 3 * student * sum(shown)
    full = Scheme.covering(
        Needs(logits=True, hidden=frozenset(layer for layer, _ in scheme.columns)),
        scheme.classes,
        scheme.hidden,
        scheme.longest,
    )
    return {
        "examples": len(lengths),
        "mean_length": float(lengths.mean()),
        "keeps": kept(scheme),
        "bytes": int(sizes.sum()),
        "bytes_per_example": float(sizes.mean()),
        "share_of_these_layers": float(sizes.sum() / full.record_bytes(lengths).sum()),
        "teacher_pass_flops": teacher * len(lengths),
        "teacher_flops_per_example": teacher,
        "student_step_flops_per_example": 3 * student,
        "break_even_epochs": len(lengths) / len(setup.train.examples),
        "planned_epochs_beside_the_teacher": beside / len(setup.train.examples),
        "ideal_speedup_per_step": (teacher + 3 * student) / (3 * student),
        "ideal_speedup_of_the_run": (beside * teacher + learning) / (len(lengths) * teacher + learning),
        "ideal_speedup_of_the_next_run": (beside * teacher + learning) / learning,
    }


def verify(folder: Path, teacher: str | None) -> None:
    """Read every byte of a store; with a teacher's name, see whether it is the one that wrote it.

    Raises:
        TutelageError: when a byte is not as it was written, or the teacher is another.
    """
    display = Display()
    with display:
        store = verified(Store(folder), display)
    if teacher is not None:
        source = Source(teacher)
        store.check(source.fingerprint, tokenizer_fingerprint(source.tokenizer), store.manifest.precision)


def _check_wanted(setup: Setup) -> None:
    """See that there is something to store.

    Raises:
        TutelageError: when a store cannot keep what the task asks for, or the recipe asks nothing of its teacher.
    """
    check_storable(setup.data)
    recipe = setup.config.recipe
    asked = [
        objective.teacher_needs or stage.verdicts
        for objective, stage in zip(objectives_of(setup), recipe.stages, strict=True)
    ]
    if not any(asked):
        raise TutelageError(
            f"the method {recipe.method!r} learns nothing from its teacher's answers; train it without a store"
        )


def _scheme(setup: Setup, whole: bool) -> Scheme:
    assert setup.knowledge is not None
    needs = storable(objectives_of(setup))
    if whole:
        needs |= _everything(setup)
    return setup.knowledge.scheme(needs, setup.config.store_dtype)


def _everything(setup: Setup) -> Needs:
    """What any amount of hidden knowledge could ask for: the tops 8, 10 and 12 twelfths up, every ranking of tokens."""
    assert setup.teacher is not None
    student, teacher = anatomy.shape_of(setup.student.config), setup.teacher.shape
    terms = [
        term for stage in setup.config.recipe.stages for term in stage.objective if term.kind == "hidden_knowledge"
    ]
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
