"""The plan of a run on a task: what its stages do and cost, and how it is printed."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from tutelage import anatomy
from tutelage.errors import option
from tutelage.evaluation import speed
from tutelage.progress import duration
from tutelage.report.words import listed, vocabulary_lines
from tutelage.run import predicted, trials
from tutelage.run.plan import StagePlan, example_flops, mapping_lines, model_line, planned_steps, typical
from tutelage.run.student import inherited_count
from tutelage.run.teacher import RunTeacher
from tutelage.students.final import final_network
from tutelage.teachers.source import Source

if TYPE_CHECKING:
    from tutelage.run.loading import TaskTexts
    from tutelage.run.task import TaskRun


def stage_plans(run: TaskRun) -> list[StagePlan]:
    """The plans of the stages."""
    config, texts, network = run.config, run.texts, final_network(run.student)
    student = student_flops(run)
    teacher = 0.0 if run.teacher is None else _teacher_flops(texts, run.teacher.source)
    plans = []
    for index, (stage, objective) in enumerate(zip(config.recipe.stages, run.objectives.current, strict=True)):
        needs = objective.teacher_needs
        answers = "none" if run.answering is None else run.answering.answers(stage, needs)
        runs = answers == "running" or (answers == "mechanism" and needs.running)
        passes = prod(mechanism.passes(network) for mechanism in stage.mechanisms)
        steps, flops = planned_steps(stage, texts.feed(stage)), 3 * passes * student + (teacher if runs else 0)
        several = [run.objectives.teachers(stage.name)[number] for number in objective.members]
        if config.teacher_store is None:
            flops += sum(_teacher_flops(texts, one) for one in several if one.has_weights)
        plans.append(StagePlan(stage, index, objective, texts.part_of(stage), answers, steps, flops, passes))
    return plans


def student_flops(run: TaskRun) -> float:
    """Operations of the student, forward, for one training text."""
    return example_flops(run.texts.parts["train"].student, final_network(run.student))


def _teacher_flops(texts: TaskTexts, teacher: Source) -> float:
    train = texts.parts["train"]
    return example_flops(train.teacher or train.student, teacher.outline)


def printed(run: TaskRun) -> str:
    """The printed plan: sizes, what each stage reads, the paired layers, the cost."""
    lines = [*_about_data(run), *_about_models(run)]
    network, train = final_network(run.student), run.texts.parts["train"].student
    inputs, flops = typical(train, run.student), student_flops(run)
    trial, _ = speed.latencies({"student": network}, {"student": inputs}, batch_sizes=(32,), repeats=3)
    rate = 32 * flops / (trial["student"]["32"].median / 1000)
    tried = trials.passes(run)
    seconds = tried * flops / rate
    for plan, stage in zip(run.plans, run.scene.stages, strict=True):
        seconds += plan.steps * plan.stage.batch_size * plan.flops / rate
        lines.append(plan.line())
        for mechanism in plan.stage.mechanisms:
            lines += mechanism.plan(run.scene, stage, plan.steps)
        if taken := inherited_count(plan.objective, run.projections):
            lines.append(f"  starts from {taken} projections of {run.factory.origin}")
        lines += mapping_lines(plan.objective)
    if run.trains_baseline:
        data = run.texts.data
        on = "" if data.predicted is None else f" on the {predicted.baseline_labels(data)}"
        twin = f"{run.config.recipe.student.twin_words}{on}, for as many steps, at the better of two rates"
        lines.append(f"then {twin} ({option('baseline', False)} skips it)")
    lines.append(
        f"expected time on this machine: about {duration(seconds)}{', with the trials' if tried else ''}, without the baseline"
    )
    lines += [f"note: {warning}" for warning in run.warnings]
    return "\n".join(lines)


def _about_data(run: TaskRun) -> list[str]:
    """The texts and their labels."""
    data, kind = run.texts.data, run.texts.kind
    known = " labelled" if data.predicted is None or data.predicted.labelled else " predicted"
    known = known if kind.learns_labels else ""
    unlabelled = f" + {len(data.unlabeled):,} unlabelled" if data.unlabeled else ""
    return [
        f"{run.config.recipe.title} on {data.task}: {len(data.train):,}{known}{unlabelled} texts, "
        f"{run.texts.parts['train'].student.lengths.mean():.1f} tokens on average; {len(run.texts.selection.examples):,} in the "
        f"validation split, {sum(map(len, data.dev.values())):,} in the evaluation set",
        f"labels   {kind.about(data)}",
        *(f"note: {note}" for note in data.notes),
    ]


def _about_models(run: TaskRun) -> list[str]:
    """What teaches, and the student that is made."""
    data, network, lines = run.texts.data, final_network(run.student), list[str]()
    if run.teacher is not None:
        lines.append(model_line("teacher", run.teacher.source.shape, run.teacher.source.outline))
        lines += _store_lines(run.teacher)
    lines += predicted.plan_lines(data) if data.predicted is not None else []
    kinds = {mechanism.kind: mechanism for plan in run.plans for mechanism in plan.stage.mechanisms}
    lines += [line for mechanism in kinds.values() for line in mechanism.about(run.scene)]
    lines.append(model_line("student", anatomy.shape_of(network.config), network))
    lines += [f"         {line}" for line in vocabulary_lines(run.vocabulary)]
    if new := sorted({name.rpartition(".")[0] for name in run.factory.new}):
        lines.append(f"         its start lacks {listed(new)}, which {'is' if len(new) == 1 else 'are'} new and random")
    if any(run.factory.refits(spec) for spec in (run.factory.spec, *run.starts.values())):
        lines.append("         before training its layers are fitted to the teacher's by least squares")
    return lines + trials.plan_lines(run.starts)


def _store_lines(teacher: RunTeacher) -> list[str]:
    """Which store the run uses, and what it will hold."""
    if (store := teacher.store) is not None:
        loaded = "; the teacher is not loaded" if not teacher.source.loaded else ""
        return [f"store    {store.name}, {store.manifest.bytes / 1e6:,.1f} MB{loaded}"]
    if teacher.to_write is None:
        return []
    size = teacher.to_write.record_bytes(teacher.knowledge.encoded.lengths)
    return [
        f"store    will be written to {teacher.knowledge.home(teacher.to_write)}: {len(size):,} examples, "
        f"{size.mean():,.0f} bytes each, {size.sum() / 1e6:,.1f} MB; later runs read it"
    ]
