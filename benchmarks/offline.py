"""Training with a running teacher against training from a store of its knowledge, in one process.

    pip install -e .
    python benchmarks/offline.py --data-dir path/to/glue

Three pairs of teacher and student, with the shapes of published models and random weights (speed does not depend on them):

* ``tinybert4``  BERT-base to a fresh 4 x 312 network, which a shared linear map takes to the teacher's width
* ``rosita6``  BERT-base to its 6 bottom layers with 2 heads and 768 neurons each and embeddings of rank 128
* ``mini``  MiniLM (6 x 384) to 3 of its layers

at MRPC's lengths and at 128 tokens. Five sides take turns; each trains the same
student on the same batches in the same loop:

* ``live full``  the teacher runs in every step; all hidden states are compared (``alll_allt_1h``)
* ``live small``  the teacher runs; ``1l_10t_0.1h`` is compared: one layer, 10 tokens, a tenth of the neurons
* ``stored full`` and ``stored small``  the same two, from a store in half precision
* ``plain``  hard labels, no teacher

Wanted: ``live full`` against ``stored small`` near what the operations allow, ``stored small`` at most 1.15 of ``plain``.
Results are merged into ``results/offline.json`` (``--setups mini`` replaces those alone). The page
``docs/results/store_speed.md`` is written from them and from ``results/store.json`` of ``benchmarks/store.py``.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import anatomy, progress
from tutelage.data import batches
from tutelage.data.examples import Encoded, Examples
from tutelage.evaluation.speed import flops
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.objective import ObjectivePlan
from tutelage.objectives.predictions import HardLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Stage
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.pruned import Scores
from tutelage.students.specs import Copied, Fresh, Pruned, Student
from tutelage.studies.pages import table
from tutelage.studies.script import Results, Script, before, settings
from tutelage.tasks import KINDS
from tutelage.teachers.stored import StoredTeacher, write_store
from tutelage.teachers.teacher import LiveTeacher, Teacher
from tutelage.training import loop

SIDES = ("live full", "live small", "stored full", "stored small", "plain")
MEASURED = ("live full", "stored full", "stored small", "plain")
"""Sides whose memory is measured, each in a process of its own."""
LENGTHS = {"natural": None, "128": 128}
LABELS: dict[str, Any] = {"num_labels": 2, "problem_type": "single_label_classification"}
WANTED = 1.15
"""Most that a step of ``stored small`` may cost, where one of ``plain`` is 1."""


@dataclass(frozen=True)
class Pair:
    """A teacher and its student."""

    title: str
    teacher: dict[str, int]
    student: Student


BERT_BASE: dict[str, int] = {}
MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
SETUPS = {
    "tinybert4": Pair("BERT-base to 4 x 312", BERT_BASE, Fresh(layers=4, hidden=312, intermediate=1200, heads=12)),
    "rosita6": Pair("BERT-base to ROSITA6", BERT_BASE, Pruned()),
    "mini": Pair("MiniLM to 3 x 384", MINILM, Copied(layers=3)),
}


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
        return anatomy.shape_of(transformers.AutoConfig.from_pretrained(self.folder / model))

    def terms(self, side: str) -> list[AnyTerm]:
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
        if side == "plain":
            return common.distilling(self.terms(side), student, None, None)
        return common.distilling(self.terms(side), student, self.shape("teacher"), partial(self.source, side))


def make_models(pair: Pair, folder: Path) -> None:
    """Write teacher and student."""
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**pair.teacher, **LABELS)).eval()

    def scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.rand(shape.heads), torch.rand(shape.intermediate)) for _ in range(shape.layers)]

    build(pair.student, teacher, LABELS, 0, scores).save_pretrained(folder / "student")
    teacher.save_pretrained(folder / "teacher")


def make_store(scene: Scene, side: str) -> tuple[float, float]:
    """Write the store of a side; the seconds of the teacher's pass and the bytes an example takes."""
    plan = ObjectivePlan(scene.terms(side), KINDS["classification"], scene.shape("student"), scene.shape("teacher"))
    needs = plan.teacher_needs | Needs(logits=True)
    hidden = anatomy.shape_of(scene.teacher.config).hidden
    scheme = Scheme.covering(needs, LABELS["num_labels"], hidden, int(scene.encoded.lengths.max()), "float16")
    about = {"task": "mrpc", "teacher": "random", "precision": scene.precision, "max_length": 512}
    about |= {"teacher_fingerprint": "0" * 16, "tokenizer_fingerprint": "0" * 16}
    began = time.perf_counter()
    store = write_store(
        scene.folder / side,
        scheme,
        scene.teacher,
        scene.examples.ids,
        scene.encoded,
        scene.accelerator,
        about,
        {},
        lambda place: place.mkdir(),
    )
    return time.perf_counter() - began, store.manifest.bytes / len(scene.examples)


def seconds_a_step(scene: Scene, side: str, steps: int, student: PreTrainedModel) -> float:
    """Train for a step and ``steps`` more; the mean of those. ``student`` is changed."""
    terms, size = scene.terms(side), scene.batch_size
    stage = Stage(name="offline", objective=terms, epochs=1, max_steps=1 + steps, batch_size=size, select="last")
    marks: list[tuple[int, float]] = []

    def mark(event: progress.Event) -> None:
        common.synchronize()
        marks.append((event.step, time.perf_counter()))
        loop.LOG_SECONDS = 1e9

    # The loop reports after its first two steps and then at its end, and waits for the device only there.
    loop.LOG_SECONDS, before = 0.0, loop.LOG_SECONDS
    with scene.distilling(side, student) as (module, teacher):
        loop.train(stage, module, teacher, batches.Known(scene.encoded), scene.accelerator, 0, report=mark)
    loop.LOG_SECONDS = before
    (first, began), (last, ended) = marks[0], marks[-1]
    return (ended - began) / max(last - first, 1)


def two_steps(scene: Scene, side: str) -> Callable[[], float]:
    """Two steps of a side in a new process; the models are read in the call."""
    return lambda: seconds_a_step(scene, side, 1, scene.student)


def measure_setup(
    scene: Scene, steps: int, rounds: range, peak: float, memory: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The results of one setup at one length; round 0 is a warm-up of one step."""
    progress("the stores")
    passed, size = {}, {}
    for side in ("stored full", "stored small"):
        passed[side], size[side] = make_store(scene, side)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in rounds:
        progress(f"round {number} of {rounds[-1]}" if number else "warm-up")
        for side in SIDES:
            found = seconds_a_step(scene, side, steps if number else 0, copy.deepcopy(scene.student))
            if number:
                seconds[side].append(found)
    step = {side: float(np.median(values)) for side, values in seconds.items()}

    lengths = scene.encoded.lengths
    timed = batches.steps(lengths, np.arange(len(lengths)), scene.batch_size, 0, 0)[1 : 1 + steps]
    mean = float(lengths[np.concatenate(timed)].mean())
    length = round(mean)
    inputs = {"input_ids": torch.full((1, length), 1000), "attention_mask": torch.ones(1, length, dtype=torch.int64)}
    theirs = flops(scene.teacher, {k: v.to(scene.accelerator.device) for k, v in inputs.items()}) * scene.batch_size
    ours = flops(scene.student, inputs) * scene.batch_size
    operations = {"live full": theirs + 3 * ours, "stored small": 3 * ours}
    result: dict[str, Any] = {
        "mean_tokens": mean,
        "batch_size": scene.batch_size,
        "steps": steps,
        "rounds": rounds[-1],
        "step_ms": {side: 1000 * value for side, value in step.items()},
        "step_ms_range": {side: [1000 * min(values), 1000 * max(values)] for side, values in seconds.items()},
        "ratios": {
            "live full / stored small": step["live full"] / step["stored small"],
            "live small / stored small": step["live small"] / step["stored small"],
            "stored full / stored small": step["stored full"] / step["stored small"],
            "stored small / plain": step["stored small"] / step["plain"],
            "ideal": operations["live full"] / operations["stored small"],
        },
        "step_gflop": {side: value / 1e9 for side, value in operations.items()},
        "peak_gflop_per_second": peak / 1e9,
        "share_of_peak": {side: value / step[side] / peak for side, value in operations.items()},
        "bytes_per_example": size,
        "teacher_pass_seconds": passed,
        "examples": len(scene.examples),
    }
    if memory:
        result["peak_memory_mb"] = {}
        for side in MEASURED:
            progress(f"peak memory of {side}")
            result["peak_memory_mb"][side] = common.peak_memory(two_steps, replace(scene), side)
    return result


def tables(entries: list[Results]) -> list[str]:
    """The results made by one command, as Markdown."""
    ratios = ("live full / stored small", "ideal", "live small / stored small", "stored small / plain")
    ends, sizes = ("live full", "stored small"), ("stored full", "stored small")
    times, works, memory = [], [], []
    for e in entries:
        about = [e["title"], f"{e['mean_tokens']:.0f}"]
        steps = [f"{e['step_ms'][side]:,.0f}" for side in SIDES]
        times.append([*about, *steps, *(f"{e['ratios'][name]:.2f}" for name in ratios)])
        works.append(
            [*about, *(f"{e['step_gflop'][side]:,.0f}" for side in ends), f"{e['peak_gflop_per_second']:,.0f}"]
        )
        works[-1] += [f"{e['share_of_peak'][side]:.0%}" for side in ends]
        works[-1] += [f"{e['bytes_per_example'][side]:,.0f}" for side in sizes]
        works[-1].append(f"{1000 * e['teacher_pass_seconds']['stored small'] / e['examples']:.1f}")
        if "peak_memory_mb" in e:
            memory.append([*about, *(f"{e['peak_memory_mb'][side]:,.0f}" for side in MEASURED)])
    heads = ["", "tokens", "GFLOP live full", "GFLOP stored small", "peak, GFLOP/s", *ends]
    heads += ["bytes an example, full", "small", "teacher's pass, s per 1,000"]
    lines = [*table(["", "tokens", *SIDES, *ratios], times), *table(heads, works)]
    return lines + (table(["peak memory, MB", "tokens", *MEASURED], memory) if memory else [])


def section(entries: Iterable[Results]) -> list[str]:
    """The part of the page about training, one set of tables for each machine and precision."""
    groups: dict[str, list[Results]] = {}
    for e in entries:
        where = f"{e['device']}, {e['threads']} threads, {common.PRECISIONS[e['precision']]}, torch {e['torch']}"
        groups.setdefault(f"{where}; batches of {e['batch_size']}, texts: {e['texts']}.", []).append(e)
    lines = []
    for made, group in groups.items():
        commands = dict.fromkeys(e["command"] for e in group)
        lines += [*tables(group), *(f"    {command}" for command in commands), "", made, ""]
    return lines


def page(results: Results, out: Path) -> Results:
    """The page of both benchmarks of stores: these are this one's results, those of reading lie beside."""
    import store

    faster = [
        f"{e['ratios']['live full / stored small']:.1f} times ({e['title']})"
        for e in results.values()
        if e["length"] == "128"
    ]
    most = max(e["ratios"]["stored small / plain"] for e in results.values())
    takeaway = (
        f"At 128 tokens a step from a small store is {', '.join(faster)} as fast as one with a running teacher and all hidden "
        f"states; it costs at most {most:.2f} of fine-tuning without a teacher."
    )
    reading = before(out.with_name("store.json"))
    return {
        "takeaway": takeaway if faster else "",
        "training": section(results.values()),
        "reading": store.section(reading) if reading else [],
        "wanted": WANTED,
    }


SCRIPT = Script(__file__, __doc__, "offline", steps=2, rounds=3, batch_size=32)
SCRIPT.add_argument("--data-dir", type=Path, help="folder of GLUE; default: random words of MRPC's lengths")
SCRIPT.add_argument("--setups", nargs="+", choices=SETUPS, default=list(SETUPS))
SCRIPT.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
SCRIPT.add_argument("--mixed-precision", choices=list(common.DTYPES), default="no")
SCRIPT.add_argument("--memory", nargs="*", choices=LENGTHS, default=["128"], help="lengths to measure peak memory at")
SCRIPT.add_argument("--work", type=Path, help="folder for models and stores; default: the system's temporary folder")


def measure(a: argparse.Namespace) -> Iterator[Results]:
    made = {
        **common.machine(),
        "precision": a.mixed_precision,
        "texts": "MRPC" if a.data_dir else "random words in MRPC's lengths",
        "command": SCRIPT.command(settings(a), "--data-dir path/to/glue" if a.data_dir else ""),
    }
    peak = common.matmul_peak(common.device(), common.DTYPES[a.mixed_precision])
    entries = before(a.out)
    order = [(name, length) for name in SETUPS for length in LENGTHS]
    for name in a.setups:
        pair = SETUPS[name]
        with tempfile.TemporaryDirectory(dir=a.work) as work:
            make_models(pair, Path(work))
            for length in a.lengths:
                texts = common.texts((1 + a.steps) * a.batch_size, LENGTHS[length], data_dir=a.data_dir)
                scene = Scene(Path(work), *texts, a.batch_size, a.mixed_precision)

                def progress(words: str, where: str = f"{name}, {length}") -> None:
                    print(f"{where}: {words}", flush=True)

                rounds = range(int(length != a.lengths[0]), 1 + a.rounds)  # once warm, a setup stays so
                found = measure_setup(scene, a.steps, rounds, peak, length in a.memory, progress)
                for side in ("stored full", "stored small"):
                    shutil.rmtree(scene.folder / side)
                key = f"{name}, {length}, {made['device']}, {a.mixed_precision}"
                entries[key] = {"setup": name, "title": pair.title, "length": length, **made, **found}
                entries = dict(sorted(entries.items(), key=lambda e: order.index((e[1]["setup"], e[1]["length"]))))
                yield entries  # a setup takes minutes


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="store_speed")
