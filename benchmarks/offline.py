"""Training with the teacher beside, against training from a store of its knowledge, in one process.

    pip install -e .
    python benchmarks/offline.py --data-dir path/to/glue

Three pairs of teacher and student, with the shapes of published models and random weights (speed does not depend on them):

* ``tinybert4``  BERT-base to a fresh 4 x 312 network, which a shared linear map takes to the teacher's width
* ``rosita6``  BERT-base to its 6 bottom layers with 2 heads and 768 neurons each and embeddings of rank 128
* ``mini``  MiniLM (6 x 384) to 3 of its layers

at MRPC's lengths and at 128 tokens. Five sides take turns, so that a drifting machine hits all alike; each trains the same
student on the same batches in the same loop:

* ``live full``  the teacher runs in every step; all hidden states are compared (``alll_allt_1h``)
* ``live small``  the teacher runs; ``1l_10t_0.1h`` is compared: one layer, 10 tokens, a tenth of the neurons
* ``stored full`` and ``stored small``  the same two, from a store in half precision
* ``plain``  hard labels, no teacher

Wanted: ``live full`` against ``stored small`` near what the operations allow, ``stored small`` at most 1.15 of ``plain``.
Results are merged into ``results/offline.json`` (``--setups mini`` replaces those alone) and ``docs/store_speed.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import anatomy
from tutelage.data import batches
from tutelage.data.examples import Encoded, Examples, encode
from tutelage.data.tasks import load_glue
from tutelage.data.tokenizers import load_tokenizer
from tutelage.demo import pretrained
from tutelage.disk import write_text
from tutelage.evaluation.speed import flops
from tutelage.knowledge.signals import Needs
from tutelage.knowledge.store import Scheme, Store
from tutelage.objectives.terms import AnyTerm, HardLabels, HiddenKnowledge, Objective
from tutelage.recipe import Stage
from tutelage.students.build import Copied, Fresh, Pruned, Student, build, load_model
from tutelage.students.pruned import Scores
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
        return Objective(self.terms(side), "classification", self.shape("student"), shape)

    def source(self, side: str, needs: Needs) -> Teacher | None:
        """Whoever teaches this side."""
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
    return examples, encoded


def make_store(scene: Scene, side: str) -> tuple[float, float]:
    """Write the store of a side; the seconds of the teacher's pass and the bytes an example takes."""
    needs = scene.objective(side).teacher_needs | Needs(logits=True)
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
    lesson = loop.Lesson(student, objective)
    teacher = scene.source(side, objective.teacher_needs)
    stage = Stage(
        name="offline",
        objective=scene.terms(side),
        epochs=1,
        max_steps=1 + steps,
        batch_size=scene.batch_size,
        select="last",
    )
    marks: list[tuple[int, float]] = []

    def mark(event: loop.Event) -> None:
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


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(scene: Scene, side: str) -> float:
    """MB that two steps of a side take at their peak, in a process of its own: on a GPU there, else of resident memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tutelage.runs", "transformers.models.bert.modeling_bert"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak_memory, replace(scene), side).result()


def _peak_memory(scene: Scene, side: str) -> float:
    transformers.utils.logging.disable_progress_bar()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds_a_step(scene, side, 1, scene.student)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def matmul_peak(precision: str) -> float:
    """Operations a second of one large matrix product, the best of several."""
    device = Accelerator(mixed_precision=precision).device
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = 8192 if device.type == "cuda" else 3072
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        synchronize()
        began = time.perf_counter()
        a @ b
        synchronize()
        times.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(times[1:])


def measure(
    scene: Scene, steps: int, rounds: range, peak: float, memory: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    """All that is said of one setup at one length; round 0 is a warm-up of one step."""
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


def tables(entries: list[dict[str, Any]]) -> list[str]:
    """The results made by one command, as Markdown."""
    lines = [
        f"| | tokens | {' | '.join(SIDES)} | live full / stored small | ideal | live small / stored small "
        "| stored small / plain |",
        "|---" * (len(SIDES) + 6) + "|",
    ]
    for e in entries:
        ratios = (e["ratios"][name] for name in ("live full / stored small", "ideal", "live small / stored small"))
        lines.append(
            f"| {e['title']} | {e['mean_tokens']:.0f} | "
            + " | ".join(f"{e['step_ms'][side]:,.0f}" for side in SIDES)
            + " | "
            + " | ".join(f"{ratio:.2f}" for ratio in (*ratios, e["ratios"]["stored small / plain"]))
            + " |"
        )
    lines += [
        "",
        "| | tokens | GFLOP live full | GFLOP stored small | peak, GFLOP/s | live full | stored small "
        "| bytes an example, full | small | teacher's pass, s per 1,000 |",
        "|---" * 10 + "|",
    ]
    for e in entries:
        numbers = [f"{e['step_gflop'][side]:,.0f}" for side in ("live full", "stored small")]
        numbers.append(f"{e['peak_gflop_per_second']:,.0f}")
        numbers += [f"{e['share_of_peak'][side]:.0%}" for side in ("live full", "stored small")]
        numbers += [f"{e['bytes_per_example'][side]:,.0f}" for side in ("stored full", "stored small")]
        numbers.append(f"{1000 * e['teacher_pass_seconds']['stored small'] / e['examples']:.1f}")
        lines.append(f"| {e['title']} | {e['mean_tokens']:.0f} | " + " | ".join(numbers) + " |")
    measured = [e for e in entries if "peak_memory_mb" in e]
    if measured:
        lines += ["", "| peak memory, MB | tokens | " + " | ".join(MEASURED) + " |", "|---" * (len(MEASURED) + 2) + "|"]
    for e in measured:
        numbers = [f"{e['peak_memory_mb'][side]:,.0f}" for side in MEASURED]
        lines.append(f"| {e['title']} | {e['mean_tokens']:.0f} | " + " | ".join(numbers) + " |")
    return lines


def section(entries: list[dict[str, Any]]) -> list[str]:
    """The page's text and tables, one set for each machine and precision."""
    lines = [
        "## Training from a store",
        "",
        "Milliseconds of a training step with the teacher beside (*live*) and from a store of its knowledge in half",
        "precision (*stored*), comparing all hidden states (*full*, `alll_allt_1h`) or a small part of them (*small*,",
        "`1l_10t_0.1h`); *plain* is fine-tuning on labels, without a teacher. One process, the sides in turn, each the median",
        "of its rounds. *ideal* is (F + 3f) / 3f, with F and f the operations of the teacher's and the student's forward pass at",
        "the mean length of the timed steps. Live full also takes all tokens of all layers to the teacher's width, which is not",
        f"counted; live small stops at the layer it needs. Of stored small / plain at most {WANTED} is wanted. Weights are random,",
        "shapes are the models'. *Peak* is one large matrix product in the same process.",
        "Memory is the most that two steps take in a process of their own, above what it had before (on a GPU: there).",
        "",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for e in entries:
        precision = {"no": "float32", "bf16": "mixed bfloat16"}.get(e["precision"], e["precision"])
        where = f"{e['device']}, {e['threads']} threads, {precision}, torch {e['torch']}"
        groups.setdefault(f"{where}; batches of {e['batch_size']}, texts: {e['texts']}.", []).append(e)
    for made, group in groups.items():
        commands = dict.fromkeys(e["command"] for e in group)
        lines += [*(f"    {command}" for command in commands), "", made, "", *tables(group), ""]
    return lines[:-1]


def write_section(name: str, lines: list[str], page: Path = Path("docs/store_speed.md")) -> None:
    """Put ``lines`` between the page's markers of this name; the page and the markers are made where there are none."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# What a store of teacher knowledge saves\n"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    new = "\n".join([begin, "", *lines, "", end])
    before, found, rest = text.partition(begin)
    page.parent.mkdir(exist_ok=True)
    write_text(page, before + new + rest.partition(end)[2] if found else f"{text}\n{new}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of GLUE; left out: random words of MRPC's lengths")
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a side in a round; on a GPU take 50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument(
        "--memory", nargs="*", choices=LENGTHS, default=["128"], help="lengths to measure peak memory at"
    )
    parser.add_argument(
        "--work", type=Path, help="folder for models and stores; left out: the system's temporary folder"
    )
    parser.add_argument("--out", default="results/offline.json", type=Path)
    a = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    given = {name: value for name, value in vars(a).items() if value != parser.get_default(name)}
    given |= {"data_dir": "path/to/glue"} if a.data_dir else {}
    words = {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in given.items()}
    flags = [f"--{name.replace('_', '-')} {v}".strip() for name, v in words.items() if name not in ("work", "out")]
    made = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "precision": a.mixed_precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "texts": "MRPC" if a.data_dir else "random words in MRPC's lengths",
        "command": " ".join(["python benchmarks/offline.py", *flags]),
    }
    peak = matmul_peak(a.mixed_precision)
    entries: dict[str, Any] = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else {}
    began = time.perf_counter()
    for name in a.setups:
        pair = SETUPS[name]
        with tempfile.TemporaryDirectory(dir=a.work) as work:
            make_models(pair, Path(work))
            for length in a.lengths:
                count = (1 + a.steps) * a.batch_size
                scene = Scene(
                    Path(work), *make_texts(count, LENGTHS[length], a.data_dir), a.batch_size, a.mixed_precision
                )

                def progress(words: str, where: str = f"{name}, {length}") -> None:
                    print(f"{time.perf_counter() - began:6.0f} s  {where}: {words}", flush=True)

                rounds = range(int(length != a.lengths[0]), 1 + a.rounds)  # once warm, a setup stays so
                found = measure(scene, a.steps, rounds, peak, length in a.memory, progress)
                for side in ("stored full", "stored small"):
                    shutil.rmtree(scene.folder / side)
                key = f"{name}, {length}, {made['device']}, {a.mixed_precision}"
                entries[key] = {"setup": name, "title": pair.title, "length": length, **made, **found}
                order = [(n, k) for n in SETUPS for k in LENGTHS]
                entries = dict(sorted(entries.items(), key=lambda e: order.index((e[1]["setup"], e[1]["length"]))))
                a.out.parent.mkdir(parents=True, exist_ok=True)
                write_text(a.out, json.dumps(entries, indent=1) + "\n")
    lines = section(list(entries.values()))
    write_section("training", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
