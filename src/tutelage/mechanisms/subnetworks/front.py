"""What each sub-network of a student scores and costs, for the report."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from tutelage.data.batches import padded
from tutelage.evaluation import speed
from tutelage.mechanisms.scene import Scene
from tutelage.mechanisms.subnetworks.settings import Subnetworks
from tutelage.report.section import Column, Line, LineChart, Row, Section, Table
from tutelage.students.subnetworks import Subnetwork, cut, subnetworks
from tutelage.tasks import kind_of
from tutelage.teachers.teacher import predicted


def section(how: Subnetworks, scene: Scene) -> Section:
    """Each sub-network, cut out and measured on the first part of the evaluation set."""
    task = scene.task
    assert task is not None
    part, texts = next(iter(task.dev.items()))
    data, device = task.data, scene.accelerator.device
    metric, read = data.metrics[0], texts.student
    row = int(np.abs(read.lengths - read.lengths.mean()).argmin())
    inputs = {name: value.to(device) for name, value in padded(read, np.array([row])).items()}
    found: list[tuple[Subnetwork, float, int, float, float]] = []
    for one in subnetworks(scene.student.config, how.widths, how.depths)[::-1]:
        model = cut(scene.student, one).to(device).eval()
        logits = predicted(model, read, scene.accelerator, scene.display, f"{one.name} on {part}")
        score = kind_of(data.kind).scores(data, logits, texts)[metric]
        times, _ = speed.latencies({"": model}, {"": lambda count: inputs}, batch_sizes=(1,))
        costs = speed.count_parameters(model), speed.flops(model, inputs) / 1e9, times[""]["1"].median
        found.append((one, score, *costs))
    # On the front: all that cost less score less.
    front = {one for one, score, _, flops, _ in found if all(s < score for _, s, _, f, _ in found if f < flops)}
    rows = [
        Row(
            name=one.name,
            cells=[
                f"{len(one.layers)} layers, {one.heads} heads, {one.neurons:,} neurons",
                f"{score:.4f}",
                f"{parameters / 1e6:.1f} M",
                f"{flops:.3f}",
                f"{ms:.1f}",
                "yes" if one in front else "",
            ],
            lead=one in front,
        )
        for one, score, parameters, flops, ms in found
    ]
    lines = [
        Line(name=f"depth {depth:g}", points=[(flops, score) for _, score, _, flops, _ in group][::-1], style=style)
        for style, (depth, group) in enumerate(
            (depth, list(group)) for depth, group in groupby(found, key=lambda one: one[0].depth)
        )
    ]
    return Section(
        title="Sub-networks",
        paragraphs=[
            f"The student holds {len(found)} networks, which share its weights; their mean {metric} on {part} is "
            f"{sum(score for _, score, *_ in found) / len(found):.4f}. Those on the front score more than all cheaper ones."
        ],
        table=Table(
            caption=f"Cut out and measured on {part}; ms: one text, each network in turn",
            head="sub-network",
            columns=[
                Column(title="sizes", align="text"),
                *(Column(title=title) for title in (metric, "parameters", "GFLOP", "ms, batch 1", "front")),
            ],
            rows=rows,
        ),
        pictures=[
            LineChart(
                title=f"{metric} by cost",
                summary=f"{metric} of each sub-network over its operations for one text, a line for each depth.",
                x="GFLOP for one text",
                y=metric,
                lines=lines,
                zero=False,
                dots=True,
            )
        ],
        notes=["`tutelage export STUDENT --out FOLDER --width W --depth D` cuts one out."],
    )
