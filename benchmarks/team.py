"""What a team of teachers costs: a step with one drawn of ten beside one with a single teacher, and a step that learns.

    python benchmarks/team.py

A student of 3 layers x 384 with random weights takes whole optimiser steps on random words of MRPC's lengths. All predictions
are known beforehand, as in a run. The sides take turns: ``one`` teacher, a ``team`` of ten of which each step draws one, and
steps that also learn the distribution, from 32 or 64 held-out examples, by the gradients of all the student, of its two last
layers and its head, or of its head; and as the method ``autoskdbert`` does. What whole phases cost is reckoned from these
steps. Writes ``results/team.json`` and
``docs/results/team_speed.md``, or where ``--out`` says and the page of that name.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from offline import make_texts, synchronize
from transformers import BertConfig, BertForSequenceClassification

from tutelage import anatomy
from tutelage.artifacts import write_text
from tutelage.data import batches
from tutelage.mechanisms.hook import parameter_groups
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Weights
from tutelage.methods.autoskdbert import autoskdbert
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, SoftLabels
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=40, help="steps of each side")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--out", default="results/team.json", type=Path)
    arguments = parser.parse_args()
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    steppers = sides(arguments, accelerator)
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(arguments.repeats + 1):
        turns = list(steppers.items())
        for name, step in turns if number % 2 else turns[::-1]:  # so that nobody always follows the same one
            began = time.perf_counter()
            step(number)
            synchronize()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {
            "side": name,
            "ms": value * 1e3,
            "range_ms": [min(seconds[name]) * 1e3, max(seconds[name]) * 1e3],
            "of_one": value / times["one"],
        }
        for name, value in times.items()
    ]
    for row in rows:
        print(row, flush=True)
    results = {
        "settings": {name: value for name, value in vars(arguments).items() if name != "out"},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "rows": rows,
        "phases": phases(rows, arguments.batch),
    }
    write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    write_text(Path("docs/results", f"{arguments.out.stem}_speed.md"), page(results, arguments.out))


def sides(arguments: argparse.Namespace, accelerator: Accelerator) -> dict[str, Callable[[int], None]]:
    """By name a whole optimiser step with a number. All sides train one student, so that they differ in nothing else."""
    torch.manual_seed(0)
    count = arguments.batch * 8
    examples, encoded = make_texts(count + 400, None, None)
    encoded = replace(encoded, labels=examples.labels)
    learnt, held = encoded.take(np.arange(count)), encoded.take(np.arange(count, count + 400))
    student = BertForSequenceClassification(
        BertConfig(
            num_hidden_layers=arguments.layers,
            hidden_size=arguments.hidden,
            num_attention_heads=12,
            intermediate_size=4 * arguments.hidden,
            num_labels=CLASSES,
        )
    )
    soft = SoftLabels(temperature=2.0, weight=0.5)
    shape = anatomy.shape_of(student.config)
    lesson = DistillationModule(student, Objective([soft, HardLabels(weight=0.5)], "classification", shape, shape))
    lesson.to(accelerator.device).train()
    optimizer = torch.optim.AdamW(parameter_groups(lesson, 0.01), lr=1e-6, fused=True)
    order = batches.steps(learnt.lengths, np.arange(count), arguments.batch, 0, 0)

    def known() -> KnownLogits:
        return KnownLogits(torch.randn(MRPC, CLASSES).to(accelerator.device), np.ones(MRPC, dtype=np.int64))

    def team(how: Team) -> TeamTeacher:
        members = [known() for _ in range(MEMBERS)]
        return TeamTeacher(members, how, Weights([1.0] * MEMBERS), "classification", (0, 0), 2.0)

    def stepper(teacher: Teacher, weigher: Weigher | None = None) -> Callable[[int], None]:
        def step(number: int) -> None:
            rows = order[number % len(order)]
            part = learnt.take(rows)
            parts = list(batches.step_batches(part, rows, 0, 1, 16384, number=number))
            for piece in parts:
                batch = piece.to(accelerator.device)
                with accelerator.autocast():
                    losses = lesson(batch, teacher.signals(batch))
                sum(losses.values()).backward()  # type: ignore[union-attr]
            if weigher is not None:
                weigher.before_step(optimizer, parts, arguments.repeats + 1)
            torch.nn.utils.clip_grad_norm_(lesson.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if weigher is not None:
                weigher.after_step(optimizer, number + 1, arguments.repeats + 1)

        return step

    def searching(how: Learning) -> Callable[[int], None]:
        teacher, names = team(Team(learning=how)), [f"teacher {i}" for i in range(MEMBERS)]
        said = [known() for _ in range(MEMBERS)]
        weigher = Weigher(how, teacher, student, soft, held, said, "classification", accelerator, (0, 0), names)
        return stepper(teacher, weigher)

    found = {"one": stepper(known()), "team": stepper(team(Team()))}
    for parameters in PARAMETERS:
        for examples_held in EXAMPLES:
            found[side(parameters, examples_held)] = searching(Learning(examples=examples_held, parameters=parameters))
    searched = autoskdbert().stages[0].team
    assert searched is not None and searched.learning is not None
    return {**found, "learning, as autoskdbert": searching(searched.learning)}


def side(parameters: str | int, examples: int) -> str:
    return f"learning, {parameters}, {examples} held out"


def phases(rows: list[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
    """Both phases of learning for MRPC in the time of its last stage, reckoned from single steps; scoring is not counted."""
    of_one = {row["side"]: row["of_one"] for row in rows}
    learnt = round(0.9 * MRPC)
    steps = -(-learnt // batch)
    return [
        {
            "updates": updates,
            "epochs": epochs,
            "steps": epochs * steps,
            "of_last": {
                name: 2 * updates * ratio / (epochs * steps * of_one["team"])
                for name, ratio in of_one.items()
                if name.startswith("learning")
            },
        }
        for updates, epochs in PHASES
    ]


def page(results: dict[str, Any], out: Path) -> str:
    settings, rows = results["settings"], results["rows"]
    precision = {"no": "float32", "bf16": "mixed bfloat16", "fp16": "mixed float16"}[settings["mixed_precision"]]
    flags = "" if settings["mixed_precision"] == "no" else f" --mixed-precision {settings['mixed_precision']}"
    flags += "" if out.stem == "team" else f" --out {out}"
    where = f"{results['threads']} CPU threads" if results["device"] == "cpu" else results["device"]
    lines = [
        "# What a team of teachers costs",
        "",
        f"Made by `python benchmarks/team.py{flags}` on {where}, in {precision}: whole optimiser steps",
        f"of {settings['batch']} random texts of MRPC's lengths, a student of {settings['layers']} layers x {settings['hidden']},",
        f"the sides in turn, medians of {settings['repeats']}. *one* is a single teacher whose predictions are known, *team* draws",
        f"one of {MEMBERS}; wanted is at most {LIMIT} of *one*. *learning* also updates the distribution at every step: by the",
        "gradients of all the student (`all`), of its two last layers and its head (`2`), or of its head (`head`), on 32 or 64",
        "held-out examples; *as autoskdbert* is what that method does: `all`, 64, teachers judged on 64 more instead of the",
        "step's, and a temperature that is followed.",
        "",
        "| side | ms a step | least and most | in steps of one |",
        "|---|---|---|---|",
    ]
    for row in rows:
        least, most = row["range_ms"]
        lines.append(f"| {row['side']} | {row['ms']:.0f} | {least:.0f} to {most:.0f} | {row['of_one']:.3f} |")
    ratio = next(row["of_one"] for row in rows if row["side"] == "team")
    lines += [
        "",
        f"The team's step is {'within' if ratio <= LIMIT else 'beyond'} what is wanted: {ratio:.3f} of {LIMIT}.",
        "",
        "## Both phases of learning, on MRPC",
        "",
        "Reckoned from the steps above, not measured whole: two phases of so many updates, in the time of a last stage on nine",
        f"tenths of MRPC's {MRPC:,} training texts; scoring and the teachers' own predictions are not counted.",
        "",
    ]
    learning = [row["side"] for row in rows if row["side"] != "team" and row["side"] != "one"]
    lines += [
        "| updates a phase | last stage | " + " | ".join(name.removeprefix("learning, ") for name in learning) + " |",
        "|---" * (len(learning) + 2) + "|",
    ]
    for phase in results["phases"]:
        cells = " | ".join(f"{phase['of_last'][name]:.1f}" for name in learning)
        lines.append(f"| {phase['updates']:,} | {phase['epochs']} epochs, {phase['steps']:,} steps | {cells} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
