"""What a run will do, in words: sizes, who reads what from whom, which layer teaches which, what it costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Feed, padded
from tutelage.data.examples import Encoded
from tutelage.evaluation import speed
from tutelage.mechanisms.pruning.pruner import Forgetter
from tutelage.mechanisms.pruning.settings import Forgetting
from tutelage.objectives.mapping import picture
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import LogitsMSE, SoftLabels
from tutelage.progress import duration
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.run.student import inherit
from tutelage.run.task import Setup, feed_of, objectives_of
from tutelage.students.compactors import compaction
from tutelage.students.specs import Inherited


def wants_baseline(config: RunConfig) -> bool:
    """Whether the student is trained without its teacher too; one that learns from labels alone is its own baseline."""
    return config.baseline and config.teacher is not None and config.recipe.needs_teacher


def planned_steps(stage: Stage, feed: Feed) -> int:
    """Optimiser steps of a stage that nothing ends early."""
    return min(stage.epochs * -(-len(feed.rows(0)) // stage.batch_size), stage.max_steps or 2**62)


def plan(setup: Setup) -> str:
    """What will happen, in words: sizes, what is read from whom, the mapping as a picture, cost."""
    config, data = setup.config, setup.data
    network = compaction.as_merged(setup.student).to(setup.student.device)
    student, teacher = anatomy.shape_of(network.config), None if setup.teacher is None else setup.teacher.shape
    lengths = setup.train.student.lengths
    inputs = typical(setup.train.student, setup.student)
    student_flops = speed.flops(network, inputs(1))
    lines = [
        f"{config.recipe.title} on {data.task}: {len(data.train):,} labelled"
        + (f" + {len(data.unlabeled):,} unlabelled" if data.unlabeled else "")
        + f" texts, {lengths.mean():.1f} tokens on average; {len(setup.selection.examples):,} choose the checkpoint, "
        + f"{sum(map(len, data.dev.values())):,} are scored",
    ]
    teacher_flops = 0
    if setup.teacher is not None:
        read = setup.train.teacher or setup.train.student
        outline = setup.teacher.outline
        teacher_flops = speed.flops(outline, typical(read, outline)(1))
        lines.append(f"teacher  {teacher}, {speed.count_parameters(outline) / 1e6:.1f} M parameters")
        lines += _store_lines(setup)
    if setup.team is not None:
        lines += [f"team     {line}" for line in setup.team.lines(data.metrics[0], next(iter(setup.dev)))]
    lines.append(f"student  {student}, {speed.count_parameters(network) / 1e6:.1f} M parameters")
    seconds = 0.0
    trial = speed.latencies({"student": network}, {"student": inputs}, batch_sizes=(32,), repeats=3)
    rate = 32 * student_flops / (trial["student"]["32"] / 1000)
    for stage, objective in zip(config.recipe.stages, objectives_of(setup), strict=True):
        steps = planned_steps(stage, feed_of(stage, setup.texts(stage).student))
        lacking = setup.store.scheme.lacks if setup.store else setup.to_write.lacks if setup.to_write else None
        from_store = lacking is not None and lacking(objective.teacher_needs) is None
        live = objective.teacher_needs.running and not from_store
        flops = stage.batch_size * (3 * student_flops + (teacher_flops if live else 0))
        seconds += steps * flops / rate
        lines.append(
            f"stage {stage.name}: {steps:,} steps of {stage.batch_size} examples, {flops / 1e9:.1f} GFLOP each; reads "
            f"{objective.student_needs} of the student and {objective.teacher_needs} of the teacher"
            + ("" if live or not objective.teacher_needs else " (stored)" if from_store else " (computed once)")
        )
        if stage.forgetting is not None:
            lines.append(forgetting_line(setup.student, stage.forgetting, steps))
        if stage.team is not None and setup.team is not None:
            lines += team_notes(stage, steps, len(setup.team.names))
        taken = inherit(objective, config.recipe.student)
        if taken:
            lines.append(f"  starts from {taken} projections of {config.recipe.student.name}")  # type: ignore[union-attr]
        if teacher is not None:
            lines += mapping_lines(objective, student, teacher)
    if wants_baseline(config):
        inherited = isinstance(config.recipe.student, Inherited)
        other = "one of slices of the teacher" if inherited else "the same student without the teacher"
        lines.append(f"then {other}, for as many steps (--no-baseline skips it)")
    lines.append(f"expected time on this machine: about {duration(seconds)}, the baseline not counted")
    lines += [f"note: {warning}" for warning in setup.warnings]
    return "\n".join(lines)


def team_notes(stage: Stage, steps: int, members: int) -> list[str]:
    """What a stage learns about its team, and what would make that doubtful."""
    assert stage.team is not None
    if (how := stage.team.learning) is None:
        return []
    updates = -(-steps // how.every)
    held = how.examples / stage.batch_size
    cost = (3 * held + 2 * (held if how.unseen else 1)) / how.every
    lines = [
        f"  {updates:,} updates of the distribution, which make a step about {1 + cost / 3:.1f} times as dear (the time below "
        "does not count it)"
    ]
    if updates < 100 * members:
        lines.append(
            f"note: {updates:,} updates are few for {members} teachers, and the weights may be noise; take {100 * members:,} or "
            f"more (--set stages.{stage.name}.max_steps={100 * members * how.every})"
        )
    if all(isinstance(term, SoftLabels | LogitsMSE) for term in stage.objective if term.weight > 0):
        lines.append(
            f"note: stage {stage.name} has no labels in its objective; where many teachers are bad, its student learns nothing "
            "that could tell them apart"
        )
    return lines


def forgetting_line(student: PreTrainedModel, how: Forgetting, steps: int) -> str:
    """When a student with compactors becomes as small as it will be.

    Raises:
        TutelageError: when the steps do not suffice.
    """
    interval, last = Forgetter(how, student).times(steps)
    return (
        f"  coordinates go every {interval:,} steps; until step {last:,} or so a step costs 1.3 to 1.5 times what "
        "the teacher's training does, which the time below does not count"
    )


def mapping_lines(objective: Objective, student: anatomy.Shape, teacher: anatomy.Shape) -> list[str]:
    """For each term that compares layers a picture of which teaches which."""
    lines = []
    for term, mapped in zip(objective.terms, objective.mapped, strict=True):
        if mapped:
            drawing = picture(mapped, student.layers, teacher.layers).split("\n")
            lines += [f"  {term.kind}", *(f"  {line}" for line in drawing)]
    return lines


def _store_lines(setup: Setup) -> list[str]:
    """Which store the run uses, and what it will hold."""
    if setup.store is not None:
        loaded = "" if setup.teacher is None or setup.teacher.loaded else "; the teacher is not loaded"
        return [f"store    {setup.store.name}, {setup.store.manifest.bytes / 1e6:,.1f} MB{loaded}"]
    if setup.to_write is None or setup.knowledge is None:
        return []
    size = setup.to_write.record_bytes(setup.knowledge.encoded.lengths)
    where = setup.knowledge.home(setup.to_write)
    return [
        f"store    will be written to {where}: {len(size):,} examples, {size.mean():,.0f} bytes each, "
        f"{size.sum() / 1e6:,.1f} MB; later runs read it"
    ]


def typical(encoded: Encoded, model: PreTrainedModel) -> Callable[[int], dict[str, Tensor]]:
    """Inputs of the texts' mean length, as many as asked for, where the model is."""
    lengths, device = encoded.lengths, next(model.parameters()).device
    row = int(np.abs(lengths - lengths.mean()).argmin())
    inputs = {name: value.to(device) for name, value in padded(encoded, np.array([row])).items()}
    if device.type == "meta":
        # transformers looks into a mask, or (GPT-2) for padding where there is none; one of each pair is taken as it is.
        mask = inputs.pop("attention_mask").bool()
        if anatomy.family_of(model.config).causal:
            inputs["attention_mask"] = mask[:, None, None, :].expand(1, 1, mask.shape[1], -1)
    return lambda count: {name: value.repeat_interleave(count, 0) for name, value in inputs.items()}
