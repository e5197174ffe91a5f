"""Cost of a team of teachers: a step with one drawn of ten beside one with a single teacher, and a step that learns weights.

    python benchmarks/team.py

A student of 3 layers x 384 with random weights takes whole optimiser steps on random words of MRPC's lengths, with predictions
that are computed beforehand, as in a run. The sides, which the page describes, take turns. Writes ``results/team.json`` and
``docs/results/team_speed.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count as count_from
from itertools import product

import common
import numpy as np
import torch
from accelerate import Accelerator

from tutelage import HardLabels, SoftLabels, anatomy
from tutelage.data import batches
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Weights
from tutelage.methods import autoskdbert
from tutelage.objectives.objective import Objective
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, Script, settings
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import KnownLogits, Teacher
from tutelage.training.loop import DistillationModule

LIMIT = 1.05
"""A step with a team in steps with one teacher."""
MEMBERS, CLASSES = 10, 2
EXAMPLES = (32, 64)
PARAMETERS = ("all", 2, "head")
MRPC = 3668
"""Training texts of MRPC, of which a run learns from nine tenths."""
PHASES = ((600, 3), (1000, 3), (1000, 10))
"""Updates of each of the two phases, and epochs of the last stage."""


SCRIPT = Script(__file__, __doc__, "team", hidden=384, layers=3, batch=32, repeats=40)
SCRIPT.add_argument("--mixed-precision", default="no", choices=list(common.DTYPES))


def measure(arguments: Arguments) -> Iterator[Results]:
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    seconds = common.in_turns(sides(arguments, accelerator), arguments.repeats)
    times = common.medians(seconds)
    rows = [
        {"side": name, "ms": value * 1e3, "range_ms": common.spread(seconds[name]), "of_one": value / times["one"]}
        for name, value in times.items()
    ]
    yield {
        "settings": settings(arguments),
        "threads": torch.get_num_threads(),
        "device": common.machine()["device"] if common.device() == "cuda" else "cpu",
        "rows": rows,
        "phases": phases(rows, arguments.batch),
    }


def sides(arguments: Arguments, accelerator: Accelerator) -> dict[str, Callable[[], None]]:
    """A whole optimiser step by name. All sides train one student, so that they differ in nothing else."""
    torch.manual_seed(0)
    count, kind = arguments.batch * 8, KINDS["classification"]
    _, encoded = common.texts(count + 400)
    learnt, held = encoded.take(np.arange(count)), encoded.take(np.arange(count, count + 400))
    student = common.bert(arguments.layers, arguments.hidden, num_labels=CLASSES)
    soft = SoftLabels(temperature=2.0, weight=0.5)
    shape = anatomy.shape_of(student.config)
    module = DistillationModule(student, Objective([soft, HardLabels(weight=0.5)], kind, shape, shape))
    module.to(accelerator.device).train()
    optimizer = common.optimizer_for(module, lr=1e-6)
    order = batches.steps(learnt.lengths, np.arange(count), arguments.batch, 0, 0)

    def known() -> KnownLogits:
        return KnownLogits(torch.randn(MRPC, CLASSES).to(accelerator.device), np.ones(MRPC, dtype=np.int64))

    def team(how: Team) -> TeamTeacher:
        return TeamTeacher([known() for _ in range(MEMBERS)], how, Weights([1.0] * MEMBERS), kind, (0, 0), 2.0)

    def stepper(teacher: Teacher, weigher: Weigher | None = None) -> Callable[[], None]:
        numbers = count_from(0)

        def step() -> None:
            number = next(numbers)
            rows = order[number % len(order)]
            parts = list(batches.step_batches(learnt.take(rows), rows, 0, 1, 16384, number=number))
            for piece in parts:
                batch = piece.to(accelerator.device)
                with accelerator.autocast():
                    losses = module(batch, teacher.signals(batch))
                sum(losses.values()).backward()
            if weigher is not None:
                weigher.before_step(optimizer, parts, arguments.repeats + 1)
            common.finish_step(optimizer, module)
            if weigher is not None:
                weigher.after_step(optimizer, number + 1, arguments.repeats + 1)

        return step

    def searching(how: Learning) -> Callable[[], None]:
        teacher, names = team(Team(learning=how)), [f"teacher {i}" for i in range(MEMBERS)]
        predictions = [known() for _ in range(MEMBERS)]
        weigher = Weigher(how, teacher, student, soft, held, predictions, kind, accelerator, (0, 0), names)
        return stepper(teacher, weigher)

    found = {"one": stepper(known()), "team": stepper(team(Team()))}
    for parameters, examples in product(PARAMETERS, EXAMPLES):
        how = Learning(examples=examples, parameters=parameters)
        found[f"learning, {parameters}, {examples} held out"] = searching(how)
    return {**found, "learning, as autoskdbert": searching(autoskdbert().stages[0].mechanisms[0].learning)}


def phases(rows: list[Results], batch: int) -> list[Results]:
    """Both phases of learning for MRPC in the time of its last stage, computed from single steps, without scoring."""
    of_one, found = {row["side"]: row["of_one"] for row in rows}, []
    for updates, epochs in PHASES:
        steps = epochs * -(-round(0.9 * MRPC) // batch)
        learning = {name: ratio / of_one["team"] for name, ratio in of_one.items() if name.startswith("learning")}
        of_last = {name: 2 * updates * ratio / steps for name, ratio in learning.items()}
        found.append({"updates": updates, "epochs": epochs, "steps": steps, "of_last": of_last})
    return found


STEPS = {
    "side": "{side}",
    "ms a step": "{ms:.0f}",
    "least and most": "{range_ms[0]:.0f} to {range_ms[1]:.0f}",
    "in steps of one": "{of_one:.3f}",
}


def page(results: Results) -> Results:
    precision, rows = results["settings"]["mixed_precision"], results["rows"]
    of_one = {row["side"]: row["of_one"] for row in rows}
    learning = [name for name in of_one if name.startswith("learning")]
    whole = {"updates a phase": "{updates:,}", "last stage": "{epochs} epochs, {steps:,} steps"}
    whole |= {name.removeprefix("learning, "): f"{{of_last[{name}]:.1f}}" for name in learning}
    ours = """ *as autoskdbert* is what that method does: `all`, 64, teachers judged on 64 more instead of the step's, and a
        calibration temperature."""
    return {
        "team": of_one["team"],
        "least": min(of_one[name] for name in learning),
        "most": max(of_one[name] for name in learning),
        "rows": tabled(STEPS, rows),
        "within": "within" if of_one["team"] <= LIMIT else "beyond",
        "phases": tabled(whole, results["phases"]),
        "machine": common.where(results["threads"], results["device"]),
        "precision": common.PRECISIONS[precision],
        "as_autoskdbert": ours if "learning, as autoskdbert" in learning else "",
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
