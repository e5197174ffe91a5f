"""The plan of a run, made before it begins: for each stage what it reads, the source of the teacher's signals, steps and
cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Feed, padded
from tutelage.data.examples import Encoded
from tutelage.evaluation import speed
from tutelage.objectives.mapping import picture
from tutelage.objectives.objective import ObjectivePlan
from tutelage.recipes.recipe import Stage
from tutelage.run.teacher import Answers


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage. The printed plan, the training and the report read it."""

    stage: Stage
    index: int
    objective: ObjectivePlan
    part: str | None
    """Of a run on a task: the part of the texts that the stage trains on."""
    answers: Answers
    """The source of the teacher's signals."""
    steps: int
    """Optimiser steps, unless the stage ends early."""
    flops: float
    """Operations per example: the student forward and backward (twice forward), and the teacher if it runs."""
    passes: float = 1.0
    """Passes through the student's layers in which an example is learnt once."""

    @property
    def reads_teacher(self) -> bool:
        """Whether the stage reads more of the run's teachers than logits: what a store saves."""
        own = any(one.brings_teacher and not one.takes_teachers for one in self.stage.mechanisms)
        return self.objective.teacher_needs.running and not own

    def line(self, what: str = "examples", more: str = "") -> str:
        """The stage in one line of the printed plan."""
        read = self.objective
        who = {"store": " (stored)", "known": " (computed once)", "file": " (from the file)"}.get(self.answers, "")
        if self.answers == "mechanism" and not read.teacher_needs.running:
            who = " (computed once)"
        by_needs: dict[str, list[int]] = {}
        for number, member in read.members.items():
            by_needs.setdefault(str(member.teacher_needs), []).append(number)
        layers = "".join(f", {needs} from {_numbered(numbers)}" for needs, numbers in by_needs.items())
        return (
            f"stage {self.stage.name}: {self.steps:,} steps of {self.stage.batch_size} {what}{more}, "
            f"{self.stage.batch_size * self.flops / 1e9:.1f} GFLOP each; reads {read.student_needs} from the student and "
            f"{read.teacher_needs} from the teacher{who}{layers}"
        )


def planned_steps(stage: Stage, feed: Feed) -> int:
    """Optimiser steps of a stage that does not end early."""
    return min(stage.schedule[0] * -(-len(feed.rows(0)) // stage.batch_size), stage.max_steps or 2**62)


def mapping_lines(plan: ObjectivePlan) -> list[str]:
    """A picture of the pairs of layers of each term that compares layers; of several teachers one for each depth."""
    drawn: dict[tuple[str, str], list[int]] = {}
    for number, part in [(-1, plan), *plan.members.items()]:
        for term, mapped in zip(part.terms, part.pairs, strict=True):
            if mapped and part.teacher is not None:
                drawing = picture(mapped, part.student.layers, part.teacher.layers)
                drawn.setdefault((term.called(), drawing), []).append(number)
    lines = []
    for (name, drawing), numbers in drawn.items():
        of = "" if numbers == [-1] else f" of {_numbered(numbers)}"
        lines += [f"  {name}{of}", *(f"  {line}" for line in drawing.split("\n"))]
    return lines


def _numbered(numbers: Sequence[int]) -> str:
    """Several teachers, as a person counts them."""
    return f"teacher{'s' if len(numbers) > 1 else ''} {', '.join(str(number + 1) for number in numbers)}"


def model_line(who: str, shape: anatomy.Shape, network: PreTrainedModel) -> str:
    """A model's shape and size in one line."""
    return f"{who:<8} {shape}, {speed.count_parameters(network) / 1e6:.1f} M parameters"


def typical(encoded: Encoded, model: PreTrainedModel) -> Callable[[int], dict[str, Tensor]]:
    """A function from a batch size to inputs of the texts' mean length, on the model's device."""
    lengths, device = encoded.lengths, next(model.parameters()).device
    row = int(np.abs(lengths - lengths.mean()).argmin())
    inputs = {name: value.to(device) for name, value in padded(encoded, np.array([row])).items()}
    if device.type == "meta":
        given, mask = anatomy.family_of(model.config).mask, inputs.pop("attention_mask")
        if given != "none":
            square = mask.bool()[:, None, None, :].expand(1, 1, mask.shape[1], -1)
            inputs["attention_mask"] = square if given == "square" else mask
    inputs = {name: value for name, value in anatomy.accepted(model, inputs).items() if name in inputs}
    return lambda count: {name: value.repeat_interleave(count, 0) for name, value in inputs.items()}


def example_flops(encoded: Encoded, model: PreTrainedModel) -> int:
    """Floating-point operations of one text of mean length. They are counted; but for the outline of a model that only
    transformers knows they are two for each weight and token, since its code may look into the tensors, which are empty."""
    if anatomy.is_unread(model.config) and any(parameter.is_meta for parameter in model.parameters()):
        return speed.dense_flops(model, float(encoded.lengths.mean()))
    return speed.flops(model, typical(encoded, model)(1))


def mapping_report(plans: Sequence[StagePlan]) -> list[dict[str, object]]:
    """For the report: the pairs of layers of each stage and term, and of each teacher where several teach each step."""
    parts: list[tuple[str, int | None, ObjectivePlan]] = [(plan.stage.name, None, plan.objective) for plan in plans]
    parts += [(plan.stage.name, number, part) for plan in plans for number, part in plan.objective.members.items()]
    return [
        {
            "stage": stage,
            "knowledge": term.kind,
            "pairs": [list(pair) for pair in mapped],
            "teacher": None if number is None else number + 1,
            "teacher_layers": part.teacher.layers,
            "student_layers": part.student.layers,
        }
        for stage, number, part in parts
        for term, mapped in zip(part.terms, part.pairs, strict=True)
        if mapped and part.teacher is not None
    ]
