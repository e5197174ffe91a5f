"""Training with a running teacher against training from a store of its knowledge, in one process.

    pip install -e .
    python benchmarks/offline.py --data-dir path/to/glue

Three pairs of teacher and student have the shapes of published models and random weights (speed does not depend on them):
BERT-base to a fresh 4 x 312 network, BERT-base to ROSITA6 (its 6 bottom layers with 2 heads and 768 neurons each and embeddings
of rank 128), and MiniLM (6 x 384) to 3 of its layers; at MRPC's lengths and at 128 tokens. Five sides, which the page describes,
take turns; each trains the same student on the same batches in the same loop.

Writes ``results/offline.json``; the page ``docs/results/store_speed.md`` is written from it and
from ``results/store.json`` of ``benchmarks/store.py``.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoConfig, BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import Copied, Fresh, HardLabels, HiddenKnowledge, Pruned, Stage, Store, anatomy
from tutelage.data import batches
from tutelage.data.examples import Encoded, Examples
from tutelage.evaluation.speed import flops
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.scheme import Scheme
from tutelage.objectives.objective import ObjectivePlan
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.pruned import Scores
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, Script, before, settings
from tutelage.tasks import KINDS
from tutelage.teachers.stored import StoredTeacher, write_store
from tutelage.teachers.teacher import LiveTeacher, Teacher

SIDES = ("live full", "live small", "stored full", "stored small", "plain")
STORED = ("stored full", "stored small")
MEASURED = ("live full", "stored full", "stored small", "plain")
"""Sides whose memory is measured, each in a process of its own."""
LENGTHS = {"natural": None, "128": 128}
LABELS = {"num_labels": 2, "problem_type": "single_label_classification"}
WANTED = 1.15
"""Most that a step of ``stored small`` may cost, where one of ``plain`` is 1."""


BERT_BASE: dict[str, int] = {}
MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
SETUPS = {
    "tinybert4": ("BERT-base to 4 x 312", BERT_BASE, Fresh(layers=4, hidden=312, intermediate=1200, heads=12)),
    "rosita6": ("BERT-base to ROSITA6", BERT_BASE, Pruned()),
    "mini": ("MiniLM to 3 x 384", MINILM, Copied(layers=3)),
}
"""Pairs: title, the teacher's shape, and the student."""


@dataclass
class Scene:
    """What all sides of a setup share; models are loaded from ``folder`` when first asked for, as a process needs them."""

    folder: Path
    examples: Examples
    encoded: Encoded
    batch_size: int
    precision: str

    @cached_property
    def accelerator(self) -> Accelerator:
        return Accelerator(mixed_precision=self.precision)

    @cached_property
    def teacher(self) -> PreTrainedModel:
        return load_model(str(self.folder / "teacher"))[0].to(self.accelerator.device)

    @cached_property
    def student(self) -> PreTrainedModel:
        return load_model(str(self.folder / "student"))[0]

    def shape(self, model: str) -> anatomy.Shape:
        return anatomy.shape_of(AutoConfig.from_pretrained(self.folder / model))

    def terms(self, side: str) -> list[Any]:
        if side == "plain":
            return [HardLabels()]
        if side.endswith("full"):
            return [HiddenKnowledge(keep="alll_allt_1h", top=self.shape("teacher").layers)]
        return [HiddenKnowledge(keep="1l_10t_0.1h")]

    def source(self, side: str, needs: Needs) -> Teacher:
        if side.startswith("live"):
            return LiveTeacher(self.teacher, needs, None, self.accelerator)
        store = Store(self.folder / side)
        return StoredTeacher(store, store.locate(self.examples.ids, self.encoded), needs)

    def distilling(self, side: str, student: PreTrainedModel) -> Any:
        """What :func:`common.distilling` gives for a side."""
        torch.manual_seed(0)
        return common.distilling(self.terms(side), student, self.shape("teacher"), partial(self.source, side))


def make_models(shape: dict[str, int], student: Any, folder: Path) -> None:
    """Write teacher and student."""
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**shape, **LABELS)).eval()

    def scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.rand(shape.heads), torch.rand(shape.intermediate)) for _ in range(shape.layers)]

    build(student, teacher, LABELS, 0, scores).save_pretrained(folder / "student")
    teacher.save_pretrained(folder / "teacher")


def make_store(scene: Scene, side: str) -> tuple[float, float]:
    """Write the store of a side; the seconds of the teacher's pass and the bytes an example takes."""
    plan = ObjectivePlan(scene.terms(side), KINDS["classification"], scene.shape("student"), scene.shape("teacher"))
    needs, examples = plan.teacher_needs | Needs(logits=True), scene.examples
    hidden = anatomy.shape_of(scene.teacher.config).hidden
    scheme = Scheme.covering(needs, LABELS["num_labels"], hidden, int(scene.encoded.lengths.max()), "float16")
    given = (scene.teacher, examples.ids, scene.encoded, scene.accelerator, common.about_store("mrpc", scene.precision))
    place = scene.folder / side
    seconds, store = common.timed(lambda: write_store(place, scheme, *given, {}, lambda place: place.mkdir()))
    return seconds, store.manifest.bytes / len(examples)


def seconds_a_step(scene: Scene, side: str, steps: int, student: PreTrainedModel) -> float:
    """Train for a step and ``steps`` more; the mean of those. ``student`` is changed."""
    terms, size = scene.terms(side), scene.batch_size
    stage = Stage(name="offline", objective=terms, epochs=1, max_steps=1 + steps, batch_size=size, select="last")
    with scene.distilling(side, student) as (module, teacher):
        feed = batches.Known(scene.encoded)
        seconds, count, _ = common.timed_steps(stage, module, teacher, feed, scene.accelerator)
    return seconds / count


def two_steps(scene: Scene, side: str) -> Callable[[], float]:
    """Two steps of a side in a new process; the models are read in the call."""
    return lambda: seconds_a_step(scene, side, 1, scene.student)


def measure_setup(scene: Scene, steps: int, rounds: int, peak: float, memory: bool) -> dict[str, Any]:
    """The results of one setup at one length."""
    stores = {side: make_store(scene, side) for side in STORED}
    sides = {side: lambda side=side: seconds_a_step(scene, side, steps, copy.deepcopy(scene.student)) for side in SIDES}
    seconds = common.in_turns(sides, rounds, common.own)
    step = common.medians(seconds)
    lengths = scene.encoded.lengths
    timed = batches.steps(lengths, np.arange(len(lengths)), scene.batch_size, 0, 0)[1 : 1 + steps]
    mean = float(lengths[np.concatenate(timed)].mean())
    inputs = {"input_ids": torch.full((1, round(mean)), 1000)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    theirs = flops(scene.teacher, {k: v.to(scene.accelerator.device) for k, v in inputs.items()}) * scene.batch_size
    ours = flops(scene.student, inputs) * scene.batch_size
    operations = {"live full": theirs + 3 * ours, "stored small": 3 * ours}
    pairs = [("live full", "stored small"), ("live small", "stored small"), ("stored full", "stored small")]
    ratios = {f"{one} / {other}": step[one] / step[other] for one, other in [*pairs, ("stored small", "plain")]}
    result: dict[str, Any] = {
        "mean_tokens": mean,
        "batch_size": scene.batch_size,
        "steps": steps,
        "rounds": rounds,
        "step_ms": {side: 1000 * value for side, value in step.items()},
        "step_ms_range": {side: common.spread(values) for side, values in seconds.items()},
        "ratios": {**ratios, "ideal": operations["live full"] / operations["stored small"]},
        "step_gflop": {side: value / 1e9 for side, value in operations.items()},
        "peak_gflop_per_second": peak / 1e9,
        "share_of_peak": {side: value / step[side] / peak for side, value in operations.items()},
        "bytes_per_example": {side: size for side, (_, size) in stores.items()},
        "teacher_pass_seconds": {side: taken for side, (taken, _) in stores.items()},
        "examples": len(scene.examples),
    }
    if memory:
        result["peak_memory_mb"] = {side: common.peak_memory(two_steps, replace(scene), side) for side in MEASURED}
    for side in STORED:
        shutil.rmtree(scene.folder / side)
    return result


def of_each(part: str, names: Iterable[str], form: str) -> dict[str, str]:
    """A column for each of the names in a part of an entry."""
    return {name: f"{{{part}[{name}]:{form}}}" for name in names}


def section(entries: list[Results]) -> list[str]:
    """The part of the page about training; all of one machine and precision."""
    about = {"": "{title}", "tokens": "{mean_tokens:.0f}"}
    ratios = ("live full / stored small", "ideal", "live small / stored small", "stored small / plain")
    works = {
        **about,
        "GFLOP live full": "{step_gflop[live full]:,.0f}",
        "GFLOP stored small": "{step_gflop[stored small]:,.0f}",
        "peak, GFLOP/s": "{peak_gflop_per_second:,.0f}",
        **of_each("share_of_peak", ("live full", "stored small"), ".0%"),
        "bytes an example, full": "{bytes_per_example[stored full]:,.0f}",
        "small": "{bytes_per_example[stored small]:,.0f}",
        "teacher's pass, s per 1,000": lambda e: (
            f"{1e3 * e['teacher_pass_seconds']['stored small'] / e['examples']:.1f}"
        ),
    }
    times = {**about, **of_each("step_ms", SIDES, ",.0f"), **of_each("ratios", ratios, ".2f")}
    memory = {
        "peak memory, MB": "{title}",
        "tokens": "{mean_tokens:.0f}",
        **of_each("peak_memory_mb", MEASURED, ",.0f"),
    }
    measured = [entry for entry in entries if "peak_memory_mb" in entry]
    tables = {"times": tabled(times, entries), "works": tabled(works, entries), "memory": tabled(memory, measured)}
    return SCRIPT.section("training", **entries[0], **tables, words=common.PRECISIONS[entries[0]["precision"]])


def page(results: Results, reading: Results | None = None) -> Results:
    """The page of both benchmarks of stores; the results of ``reading`` lie beside these."""
    import store

    reading = before(SCRIPT.out.with_name("store.json")) if reading is None else reading
    entries, takeaway = [*results.values()], ""
    ratios = {entry["title"]: entry["ratios"] for entry in entries if entry["length"] == "128"}
    if ratios:
        faster = [f"{of['live full / stored small']:.1f} times ({title})" for title, of in ratios.items()]
        most = max(entry["ratios"]["stored small / plain"] for entry in entries)
        takeaway = (
            f"At 128 tokens a step from a small store is {', '.join(faster)} as fast as one with a running teacher and all hidden "
            f"states; it costs at most {most:.2f} of fine-tuning without a teacher."
        )
    sections = {"training": section(entries) if entries else [], "reading": store.section(reading) if reading else []}
    return {"takeaway": takeaway, **sections, "wanted": WANTED}


SCRIPT = Script(__file__, __doc__, "offline", steps=2, rounds=3, batch_size=32)
SCRIPT.add_argument("--data-dir", type=Path, help="folder of GLUE; default: random words of MRPC's lengths")
SCRIPT.add_argument("--setups", nargs="+", choices=SETUPS, default=list(SETUPS))
SCRIPT.add_argument("--mixed-precision", choices=list(common.DTYPES), default="no")


def measure(arguments: Arguments) -> Iterator[Results]:
    folder, precision = arguments.data_dir, arguments.mixed_precision
    made = {
        **common.machine(),
        "precision": precision,
        "texts": "MRPC" if folder else "random words in MRPC's lengths",
        "command": SCRIPT.command(settings(arguments), "--data-dir path/to/glue" if folder else ""),
    }
    peak, entries = common.matmul_peak(common.device(), common.DTYPES[precision]), {}
    for name in arguments.setups:
        title, shape, student = SETUPS[name]
        with tempfile.TemporaryDirectory() as work:
            make_models(shape, student, Path(work))
            for length, tokens in LENGTHS.items():
                print(f"{name}, {length}", flush=True)
                texts = common.texts((1 + arguments.steps) * arguments.batch_size, tokens, data_dir=folder)
                scene = Scene(Path(work), *texts, arguments.batch_size, precision)
                found = measure_setup(scene, arguments.steps, arguments.rounds, peak, memory=tokens is not None)
                key = f"{name}, {length}, {made['device']}, {precision}"
                entries[key] = {"setup": name, "title": title, "length": length, **made, **found}
                yield entries  # a setup takes minutes


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="store_speed")
