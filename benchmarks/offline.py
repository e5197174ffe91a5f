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
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from common import Results, synchronize
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import anatomy, progress
from tutelage.artifacts import write_text
from tutelage.data import batches
from tutelage.data.examples import Encoded, Examples, encode
from tutelage.data.readers.glue import load_glue
from tutelage.data.tokenizers import load_tokenizer
from tutelage.evaluation.speed import flops
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Stage
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.pruned import Scores
from tutelage.students.specs import Copied, Fresh, Pruned, Student
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import paragraph, table
from tutelage.tasks import KINDS
from tutelage.teachers.stored import StoredTeacher, write_store
from tutelage.teachers.teacher import LiveTeacher, Teacher
from tutelage.training import loop

SIDES = ("live full", "live small", "stored full", "stored small", "plain")
MEASURED = ("live full", "stored full", "stored small", "plain")
"""Sides whose memory is measured, each in a process of its own."""
LENGTHS = {"natural": None, "128": 128}
LABELS: dict[str, Any] = {"num_labels": 2, "problem_type": "single_label_classification"}
MRPC_DECILES = (19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103)
"""Tokens of MRPC's training pairs, shortest to longest; without ``--data-dir`` lengths are drawn from these."""
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

    def objective(self, side: str) -> Objective:
        torch.manual_seed(0)
        shape = None if side == "plain" else self.shape("teacher")
        return Objective(self.terms(side), KINDS["classification"], self.shape("student"), shape)

    def source(self, side: str, needs: Needs) -> Teacher | None:
        """The teacher of this side."""
        if side == "plain":
            return None
        if side.startswith("live"):
            return LiveTeacher(self.teacher, needs, None, self.accelerator)
        store = Store(self.folder / side)
        return StoredTeacher(store, store.locate(self.examples.ids, self.encoded), needs)


def make_models(pair: Pair, folder: Path) -> None:
    """Write teacher and student."""
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**pair.teacher, **LABELS)).eval()

    def scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.rand(shape.heads), torch.rand(shape.intermediate)) for _ in range(shape.layers)]

    build(pair.student, teacher, LABELS, 0, scores).save_pretrained(folder / "student")
    teacher.save_pretrained(folder / "teacher")


def make_texts(count: int, length: int | None, data_dir: Path | None) -> tuple[Examples, Encoded]:
    """MRPC's texts, or random words of its lengths; each repeated or cut to ``length`` tokens, if that is given."""
    generator = np.random.default_rng(0)
    if data_dir is not None:
        train = load_glue("mrpc", data_dir).train
        examples = train.take(generator.permutation(len(train))[:count])
        encoded = encode(examples, load_tokenizer(str(pretrained())), 512)
    else:
        labels = generator.integers(0, 2, count)
        examples = Examples([f"train/{i}" for i in range(count)], [""] * count, None, labels)
        lengths = np.interp(generator.random(count), np.linspace(0, 1, len(MRPC_DECILES)), MRPC_DECILES).astype(
            np.int64
        )
        ends = np.cumsum(lengths)
        tokens = generator.integers(1000, 30522, ends[-1]).astype(np.int32)
        tokens[ends - lengths], tokens[ends - lengths // 2], tokens[ends - 1] = 101, 102, 102
        offsets = np.concatenate([[0], ends])
        types = np.zeros(len(tokens), dtype=np.int8)
        encoded = Encoded(tokens, types, offsets, np.zeros(count, dtype=np.bool_), pad_token=0, separator=102)
    if length is not None:
        parts = [np.resize(part, length) for part in np.split(encoded.tokens, encoded.offsets[1:-1])]
        types, offsets = np.zeros(count * length, dtype=np.int8), np.arange(count + 1, dtype=np.int64) * length
        encoded = replace(encoded, tokens=np.concatenate(parts), types=types, offsets=offsets)
    return examples, replace(encoded, labels=examples.labels)


def make_store(scene: Scene, side: str) -> tuple[float, float]:
    """Write the store of a side; the seconds of the teacher's pass and the bytes an example takes."""
    needs = scene.objective(side).plan.teacher_needs | Needs(logits=True)
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
    objective = scene.objective(side)
    lesson = loop.DistillationModule(student, objective)
    teacher = scene.source(side, objective.plan.teacher_needs)
    stage = Stage(
        name="offline",
        objective=scene.terms(side),
        epochs=1,
        max_steps=1 + steps,
        batch_size=scene.batch_size,
        select="last",
    )
    marks: list[tuple[int, float]] = []

    def mark(event: progress.Event) -> None:
        synchronize()
        marks.append((event.step, time.perf_counter()))
        loop.LOG_SECONDS = 1e9

    # The loop reports after its first two steps and then at its end, and waits for the device only there.
    loop.LOG_SECONDS, before = 0.0, loop.LOG_SECONDS
    loop.train(stage, lesson, teacher, batches.Known(scene.encoded), scene.accelerator, 0, report=mark)
    loop.LOG_SECONDS = before
    lesson.close()
    if teacher is not None:
        teacher.close()
    (first, began), (last, ended) = marks[0], marks[-1]
    return (ended - began) / max(last - first, 1)


def peak_memory(scene: Scene, side: str) -> float:
    """MB that two steps of a side take at their peak, in a process of its own: on a GPU there, else of resident memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tutelage.run.run", "transformers.models.bert.modeling_bert"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak_memory, replace(scene), side).result()


def _peak_memory(scene: Scene, side: str) -> float:
    transformers.utils.logging.disable_progress_bar()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds_a_step(scene, side, 1, scene.student)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


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
            result["peak_memory_mb"][side] = peak_memory(scene, side)
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
        precision = {"no": "float32", "bf16": "mixed bfloat16"}.get(e["precision"], e["precision"])
        where = f"{e['device']}, {e['threads']} threads, {precision}, torch {e['torch']}"
        groups.setdefault(f"{where}; batches of {e['batch_size']}, texts: {e['texts']}.", []).append(e)
    lines = ["## Training from a store", ""]
    for made, group in groups.items():
        commands = dict.fromkeys(e["command"] for e in group)
        lines += [*tables(group), *(f"    {command}" for command in commands), "", made, ""]
    return lines + paragraph(
        f"""Milliseconds of a training step with a running teacher (*live*) and from a store of its knowledge in half precision
        (*stored*), comparing all hidden states (*full*, `alll_allt_1h`) or a small part of them (*small*, `1l_10t_0.1h`); *plain*
        is fine-tuning on labels, without a teacher. One process, the sides in turn, each the median of its rounds. *ideal* is
        (F + 3f) / 3f, with F and f the operations of the teacher's and the student's forward pass at the mean length of the timed
        steps. Live full also takes all tokens of all layers to the teacher's width, which is not counted; live small stops at the
        layer it needs. Of stored small / plain at most {WANTED} is wanted. Weights are random, shapes are the models'. *Peak* is
        one large matrix product in the same process. Memory is the most that two steps take in a process of their own, above what
        it had before (on a GPU: there)."""
    )


def page(entries: Results, out: Path) -> str:
    """The page of both benchmarks of stores, this one's results first."""
    import store

    reading = out.with_name("store.json")
    faster = [
        f"{e['ratios']['live full / stored small']:.1f} times ({e['title']})"
        for e in entries.values()
        if e["length"] == "128"
    ]
    most = max(e["ratios"]["stored small / plain"] for e in entries.values())
    takeaway = (
        f"At 128 tokens a step from a small store is {', '.join(faster)} as fast as one with a running teacher and all hidden "
        f"states; it costs at most {most:.2f} of fine-tuning without a teacher."
    )
    parts = section(entries.values())
    if reading.exists():
        parts += store.section(json.loads(reading.read_text(encoding="utf-8")))
    return "\n".join([*common.opening("What a store of teacher knowledge saves", takeaway if faster else ""), *parts])


PARSER = common.options(__doc__, "offline", steps=2, rounds=3, batch_size=32)
PARSER.add_argument("--data-dir", type=Path, help="folder of GLUE; default: random words of MRPC's lengths")
PARSER.add_argument("--setups", nargs="+", choices=SETUPS, default=list(SETUPS))
PARSER.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
PARSER.add_argument("--mixed-precision", choices=list(common.DTYPES), default="no")
PARSER.add_argument("--memory", nargs="*", choices=LENGTHS, default=["128"], help="lengths to measure peak memory at")
PARSER.add_argument("--work", type=Path, help="folder for models and stores; default: the system's temporary folder")


def measure(a: argparse.Namespace) -> Results:
    made = {
        **common.machine(),
        "precision": a.mixed_precision,
        "texts": "MRPC" if a.data_dir else "random words in MRPC's lengths",
        "command": common.command(PARSER, a, "data_dir"),
    }
    peak = common.matmul_peak(common.device(), common.DTYPES[a.mixed_precision])
    entries: Results = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else {}
    order = [(name, length) for name in SETUPS for length in LENGTHS]
    for name in a.setups:
        pair = SETUPS[name]
        with tempfile.TemporaryDirectory(dir=a.work) as work:
            make_models(pair, Path(work))
            for length in a.lengths:
                texts = make_texts((1 + a.steps) * a.batch_size, LENGTHS[length], a.data_dir)
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
                a.out.parent.mkdir(parents=True, exist_ok=True)
                write_text(a.out, json.dumps(entries, indent=1) + "\n")  # a setup takes minutes
    return entries


if __name__ == "__main__":
    common.conduct(PARSER, measure, page, "store_speed")
