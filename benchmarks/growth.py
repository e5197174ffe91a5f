"""How time and memory grow with the number of examples, text length, layers, classes and teachers.

    python benchmarks/growth.py
    python benchmarks/growth.py --most 1000000

Each part of a run is carried out on synthetic texts with tiny random models, at sizes along one axis, in a process of its own.
Beside its CPU seconds stands its floor: what its bytes or operations take at the speed of this machine. Last, ten runs follow
each other in one process. The command goes on where its results end, and with a larger ``--most`` adds the larger sizes. Writes
``results/growth.json`` and ``docs/results/growth.md``.
"""

from __future__ import annotations

import csv
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from accelerate import Accelerator
from transformers import BertTokenizerFast

from tutelage import anatomy
from tutelage.data import batches
from tutelage.data.batches import Batch, Totals
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples, Rows, encode
from tutelage.data.texts import Texts
from tutelage.evaluation.speed import encoder_flops
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected
from tutelage.knowledge.store import reading, writing
from tutelage.knowledge.store.records import Contents
from tutelage.knowledge.store.scheme import Exponents, Scheme
from tutelage.mechanisms.team.settings import Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weights import Weights
from tutelage.methods.kd import kd
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Stage
from tutelage.recipes.settings import run_config
from tutelage.report.card import card
from tutelage.report.page import page as report_page
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.students.specs import Fresh
from tutelage.studies.pages import paragraph, table
from tutelage.studies.script import Arguments, Results, Script, before, settings
from tutelage.tasks import KINDS
from tutelage.tasks.load import load_data
from tutelage.teachers.stored import StoredTeacher
from tutelage.teachers.teacher import KnownLogits, Teacher, predict
from tutelage.training import loop

HIDDEN, HEADS = 32, 2
WORDS = 2000
"""Words of the vocabulary; each is one token."""
BATCH, STEP = 32, 128
"""Examples of a step: where batches are made and read, and in training."""
BLOCK = 64
"""Random examples whose hidden states a store repeats."""
RUNS, RUN_EXAMPLES = 10, 500
ROOM = 0.1
"""By how much a slope may be above that of the floor."""
SMALL_MB = 16.0
"""Memory below this counts as none: the interpreter's own blocks are as large."""


@dataclass(frozen=True)
class Size:
    """What is varied, one at a time."""

    examples: int = 2000
    length: int = 16
    layers: int = 2
    classes: int = 2
    teachers: int = 1


AXES: dict[str, tuple[int, ...]] = {
    "examples": (1000, 10_000, 100_000, 1_000_000),
    "length": (64, 256, 1024, 2048),
    "layers": (1, 4, 12),
    "classes": (2, 100, 1000),
    "teachers": (1, 3, 10),
}
AT = {"examples": Size(), "length": Size(200), "layers": Size(2000), "classes": Size(5000), "teachers": Size(5000)}
"""The other sizes along an axis."""


@dataclass
class Work:
    """What a part does in its process."""

    call: Callable[[], Any]
    amount: float
    """Bytes, tokens or operations of the floor."""
    floor: Callable[[], Any] | None = None
    """A call that handles this amount; None for operations."""
    held: float = 0.0
    """Bytes that the result holds."""
    anonymous: bool = False
    """Whether memory counts that no file backs, alone: pages of a mapped file go back to the system when it needs them."""


# ------------------------------------------------------------------------------------------------------------- synthetic


def words() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"{letters[i // 676]}{letters[i // 26 % 26]}{letters[i % 26]}" for i in range(WORDS)]


def new_tokenizer() -> BertTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words()]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=2048)


def new_texts(size: Size) -> Examples:
    """Random texts of ``length`` tokens, [CLS] and [SEP] included; classes in turn."""
    generator, known = np.random.default_rng(0), words()
    rows = (generator.integers(0, WORDS, size.length - 2) for _ in range(size.examples))
    texts = [" ".join([known[i] for i in row.tolist()]) for row in rows]
    labels = np.arange(size.examples, dtype=np.int64) % size.classes
    return Examples([f"train/{i}" for i in range(size.examples)], texts, None, labels)


def new_encoded(size: Size) -> Encoded:
    """As those texts are encoded, without making the texts."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, WORDS + 5, (size.examples, size.length)).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = 2, 3
    offsets, cut = np.arange(size.examples + 1, dtype=np.int64) * size.length, np.zeros(size.examples, dtype=np.bool_)
    labels = np.arange(size.examples, dtype=np.int64) % size.classes
    return Encoded(tokens.reshape(-1), np.zeros(tokens.size, dtype=np.int8), offsets, cut, 0, 3, labels)


def new_model(size: Size) -> Any:
    torch.manual_seed(0)
    more = {"num_labels": size.classes, "vocab_size": WORDS + 5, "max_position_embeddings": max(64, size.length)}
    return common.bert(size.layers, HIDDEN, heads=HEADS, **more)


def new_table(size: Size, path: Path) -> Path:
    texts = new_texts(size)
    with path.open("w", newline="") as file:
        rows = zip(texts.texts, texts.labels.tolist(), strict=True)
        csv.writer(file).writerows([("text", "label"), *((text, f"class{label:04d}") for text, label in rows)])
    return path


def operations(size: Size, passes: float) -> float:
    """Of so many forward passes over the texts."""
    shape = anatomy.shape_of(new_model(replace(size, examples=1)).config)
    return passes * size.examples * (encoder_flops(shape, size.length) + 2 * HIDDEN * size.classes)


def copied(total: float) -> tuple[float, Callable[[], None]]:
    """So many bytes, and a call that writes them at the speed of memory, a million at a time."""
    source, target = np.zeros(10**6, dtype=np.uint8), np.zeros(10**6, dtype=np.uint8)

    def call() -> None:
        for _ in range(int(total // len(source)) + 1):
            np.copyto(target, source)

    return total, call


# ----------------------------------------------------------------------------------------------------------------- parts


def reading_a_table(size: Size, work: Path) -> Work:
    path = new_table(size, work / "train.csv")
    call = lambda: load_data(DataConfig(train=str(path)))  # noqa: E731
    length = path.stat().st_size
    return Work(call, length, lambda: path.read_bytes().decode(), length)


def tokenizing(size: Size, work: Path) -> Work:
    texts, tokenizer = new_texts(size), new_tokenizer()

    def alone() -> None:
        for start in range(0, size.examples, 1024):
            tokenizer.backend_tokenizer.encode_batch(texts.texts[start : start + 1024])

    tokens = float(size.examples * size.length)
    return Work(lambda: encode(texts, tokenizer, 2048), tokens, alone, 5 * tokens)


def batching(size: Size, work: Path) -> Work:
    encoded = new_encoded(size)

    def call() -> None:
        for names in batches.steps(encoded.lengths, np.arange(size.examples), BATCH, 0, 0):
            for _ in batches.step_batches(encoded.take(names), names, 0, 1, 16384):
                pass

    # Three tensors of int64 and one of booleans; held is the order of the epoch.
    return Work(call, *copied(25.0 * size.examples * size.length), held=8.0 * size.examples)


def streaming(size: Size, work: Path) -> Work:
    """A file of any size, read, tokenised, and an epoch of it batched."""
    texts, tokenizer, path = new_texts(size), new_tokenizer(), work / "train.parquet"
    parquet.write_table(pa.table({"text": texts.texts, "label": texts.labels}), path)
    alone = tokenizing(size, work)

    def call() -> None:
        train = load_data(DataConfig(train=str(path))).train
        encoded = encode(train, tokenizer, 2048)
        for names in batches.steps(encoded.lengths, np.arange(len(encoded)), BATCH, 0, 0):
            for _ in batches.step_batches(encoded.take(names), names, 0, 1, 16384):
                pass

    # Of each row a label, where its text, id and tokens begin and end, and its place in the epoch.
    return Work(call, alone.amount, alone.floor, 64.0 * size.examples, anonymous=True)


def knowledge(size: Size) -> tuple[Scheme, Needs, Contents]:
    """All hidden states and predictions, in half precision, and random ones of a block of examples."""
    shape = anatomy.shape_of(new_model(replace(size, classes=2)).config)
    needs = Needs(logits=True, cuts=frozenset(HiddenKnowledge(keep="alll_allt_1h").cuts(shape, shape)))
    scheme = Scheme.covering(needs, size.classes, HIDDEN, 2048)
    mask = torch.ones(BLOCK, size.length, dtype=torch.int64)
    part = Selected(torch.randn(BLOCK, size.length, HIDDEN), mask)
    parts = dict.fromkeys(scheme.columns, part)
    return scheme, needs, Contents(mask, mask < 0, torch.randn(BLOCK, size.classes), parts)


def store_writer(size: Size, work: Path) -> tuple[Callable[[], reading.Store], int, Needs, Encoded]:
    scheme, needs, contents = knowledge(size)
    encoded = new_encoded(size)
    index = reading.index_of([f"train/{i}" for i in range(size.examples)], encoded)
    about = {"task": "invented", "teacher": "none", "precision": "no", "max_length": 2048}
    about |= {"teacher_fingerprint": "0" * 16, "tokenizer_fingerprint": "0" * 16}
    assert contents.logits is not None

    def taken(rows: Rows, exponents: Exponents) -> Contents:
        chosen = torch.from_numpy(rows % BLOCK)
        parts = {column: part.each(lambda t: t[chosen]) for column, part in contents.parts.items()}
        return Contents(contents.mask[chosen], contents.separators[chosen], contents.logits[chosen], parts)  # type: ignore[index]

    def write() -> reading.Store:
        shutil.rmtree(work / "store", ignore_errors=True)
        return writing.write(work / "store", scheme, index, taken, about, {}, lambda place: place.mkdir())

    return write, int(scheme.record_bytes(encoded.lengths).sum()), needs, encoded


def writing_a_store(size: Size, work: Path) -> Work:
    write, total, _, _ = store_writer(size, work)
    chunk = bytes(10**6)

    def plain() -> None:
        with (work / "plain").open("wb") as file:
            for _ in range(total // len(chunk) + 1):
                file.write(chunk)

    # A shard is written through a map of its file, whose pages count.
    shard = min(total, writing.SHARD_BYTES, total // size.examples * writing.SHARD_EXAMPLES)
    return Work(write, total, plain, shard)


def reading_a_store(size: Size, work: Path) -> Work:
    write, total, needs, _ = store_writer(size, work)
    store, rows = write(), np.arange(size.examples)
    teacher = StoredTeacher(store, rows, needs)

    def call() -> None:
        mask = torch.ones(BATCH, size.length, dtype=torch.int64)
        nothing = torch.zeros(BATCH, dtype=torch.int64)
        batch = Batch(
            nothing, nothing, {"attention_mask": mask, "input_ids": mask}, mask < 0, nothing, None, Totals(*[1.0] * 5)
        )
        order = np.random.default_rng(0).permutation(size.examples)[: size.examples // BATCH * BATCH]
        for part in order.reshape(-1, BATCH):
            teacher.signals(replace(batch, rows=torch.from_numpy(part)))

    # Reading maps the files into memory; the system takes their pages back.
    return Work(call, *copied(total), total)


def evaluating(size: Size, work: Path) -> Work:
    model, encoded, kind = new_model(size), new_encoded(size), KINDS["classification"]
    examples = Examples([""] * size.examples, [""] * size.examples, None, encoded.labels)  # type: ignore[arg-type]
    names = tuple(f"class{i:04d}" for i in range(size.classes))
    data = Data("invented", kind.name, names, kind.metrics, examples, {})
    accelerator = Accelerator(cpu=True)

    def call() -> Any:
        logits = predict(model, encoded, accelerator)
        return logits, kind.scores(data, logits, Texts(examples, encoded, None))

    return Work(call, operations(size, 1), held=4.0 * size.examples * size.classes)


def training_with(size: Size, teacher: Teacher) -> Work:
    encoded, accelerator = new_encoded(size), Accelerator(cpu=True)
    terms = [SoftLabels(temperature=2.0, weight=0.5), HardLabels(weight=0.5)]
    stage = Stage(name="epoch", objective=terms, epochs=1, batch_size=STEP, select="last")
    model = new_model(size)

    def call() -> None:
        with common.distilling(terms, model, anatomy.shape_of(model.config), None) as (module, _):
            loop.train(stage, module, teacher, batches.Known(encoded), accelerator, 0)

    return Work(call, operations(size, 3), held=activations(size))


def activations(size: Size) -> float:
    """Bytes that a backward pass of a piece needs, about: 16 vectors a token and layer, and on a CPU three maps of attention,
    whose dropout needs them."""
    tokens = min(STEP, size.examples, max(1, 16384 // size.length)) * size.length
    return 4.0 * size.layers * tokens * (16 * HIDDEN + 3 * HEADS * size.length)


def logits_of(size: Size) -> KnownLogits:
    return KnownLogits(torch.randn(size.examples, size.classes), np.ones(size.examples, dtype=np.int64))


def training(size: Size, work: Path) -> Work:
    return training_with(size, logits_of(size))


def team(size: Size, how: Team) -> TeamTeacher:
    members = [logits_of(size) for _ in range(size.teachers)]
    return TeamTeacher(members, how, Weights([1.0] * size.teachers), KINDS["classification"], (0, 0), 2.0)


def training_drawn(size: Size, work: Path) -> Work:
    return training_with(size, team(size, Team()))


def training_averaged(size: Size, work: Path) -> Work:
    return training_with(size, team(size, Team(combine="average")))


def run_settings(train: Size, dev: Size, work: Path, *more: str) -> Any:
    """A run of one epoch; its teacher is random."""
    tokenizer = new_tokenizer()
    model = new_model(train)
    model.config.id2label = {i: f"class{i:04d}" for i in range(train.classes)}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    model.save_pretrained(work / "teacher")
    tokenizer.save_pretrained(work / "teacher")
    files = {"train": new_table(train, work / "train.csv"), "dev": new_table(dev, work / "dev.csv")}
    student = Fresh(layers=1, hidden=HIDDEN, heads=HEADS, intermediate=4 * HIDDEN)
    more = (f"stages.*.batch_size={STEP}", *more)
    return run_config(
        kd(epochs=1).model_copy(update={"student": student}),
        {name: str(path) for name, path in files.items()},
        more,
        teacher=str(work / "teacher"),
        out=str(work / "run"),
        allow_weak_teacher=True,
        served=False,
    )


def reporting(size: Size, work: Path) -> Work:
    """Of an evaluation set of this size, after a run on few texts."""
    few = replace(size, examples=max(200, 2 * size.classes))
    real, kept = TaskRun.report, []

    def caught(self: TaskRun, *given: Any) -> Any:
        kept.append((self, *given))
        return real(self, *given)

    TaskRun.report = caught  # type: ignore[method-assign]
    shutil.rmtree(work / "run", ignore_errors=True)
    run(run_settings(few, size, work, "stages.*.max_steps=1"), quiet=True)

    def call() -> None:
        report = real(*kept[-1])
        report_page(report), card(report)

    numbers = float(size.examples * size.classes)
    return Work(call, *copied(16 * numbers), 12 * numbers)


def whole_run(size: Size, work: Path) -> Work:
    """Reading, teacher's predictions, training of student and baseline, evaluation, report."""
    config = run_settings(size, replace(size, examples=max(200, size.examples // 10)), work)

    def call() -> None:
        shutil.rmtree(work / "run", ignore_errors=True)
        run(config, quiet=True)

    # The teacher once; student and baseline, of half its layers, forward and backward; each scored on two tenths.
    return Work(call, operations(size, 1 + 0.1 + 0.5 * (6 + 0.4)), held=6.0 * size.examples * size.length)


BYTES, FLOPS = "its bytes at memory speed", "its operations at the speed of a large matrix product"
PARTS: dict[str, tuple[Callable[[Size, Path], Work], tuple[str, ...], str]] = {
    "reading a table": (reading_a_table, ("examples", "length", "classes"), "the file read and decoded"),
    "tokenizing": (tokenizing, ("examples", "length"), "the tokenizer's own Rust code"),
    "batching": (batching, ("examples", "length"), BYTES),
    "Parquet to batches": (streaming, ("examples",), "the tokenizer's own Rust code"),
    "writing a store": (writing_a_store, ("examples", "length", "layers", "classes"), "its bytes written to a file"),
    "reading a store": (reading_a_store, ("examples", "length", "layers", "classes"), BYTES),
    "evaluation": (evaluating, ("examples", "length", "layers", "classes"), FLOPS),
    "an epoch": (training, ("examples", "length", "layers", "classes"), FLOPS),
    "an epoch, one teacher drawn": (training_drawn, ("teachers",), FLOPS),
    "an epoch, teachers averaged": (training_averaged, ("teachers",), FLOPS),
    "report": (reporting, ("examples", "classes"), "the predictions, in double precision, at memory speed"),
    "a whole run": (whole_run, ("examples",), FLOPS),
}
"""What is measured, along which axes, and beside which floor."""
LONG = ("an epoch", "report", "a whole run")

# ------------------------------------------------------------------------------------------------------------- measuring


def seconds_of(call: Callable[[], Any], first: float | None = None) -> float:
    """CPU seconds: the median of some calls; of a long ``first`` one, its own."""
    if first is not None and first > 0.5:
        return first
    taken: list[float] = []
    while sum(taken) < 0.3 and len(taken) < 9:
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def measured_alone(part: str, size: Size, peak: float) -> dict[str, float]:
    """One part at one size: CPU seconds, those of the floor, MB at the most and MB that the result holds."""
    torch.set_num_threads(1)
    prepare = PARTS[part][0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(replace(size, examples=2 * size.classes + 64, teachers=1), work).call()  # imports and caches
        gc.collect()
        gc.freeze()  # a stage ends with a collection, which would look through them again
        found = prepare(size, work)
        began = time.process_time()
        memory = (common.anonymous_peak if found.anonymous else common.resident_peak)(found.call)
        seconds = seconds_of(found.call, time.process_time() - began)
        floor = found.amount / peak if found.floor is None else seconds_of(found.floor)
    return {"seconds": seconds, "floor": floor, "amount": found.amount, "mb": memory, "held_mb": found.held / 2**20}


def runs_in_one_process() -> list[float]:
    """MB of the process after each of several equal runs."""
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        call = whole_run(Size(RUN_EXAMPLES), work).call
        for _ in range(RUNS):
            call()
            gc.collect()
            found.append(common.resident())
    return found


def sizes(part: str, axis: str, most: int) -> list[Size]:
    """Along an axis; of parts that take long with three tenths of the examples, and without the longest texts."""
    values = AXES[axis]
    if axis == "examples":
        values = tuple(n * 3 // 10 if part in LONG else n for n in values if n <= most)
    elif axis == "length" and part in LONG:
        values = values[:-1]
    return [replace(AT[axis], **{axis: n}) for n in values]


SCRIPT = Script(__file__, __doc__, "growth", most=100_000)


def measure(arguments: Arguments) -> Iterator[Results]:
    torch.set_num_threads(1)
    results = before(arguments.out)
    results["settings"] = settings(arguments)
    results["environment"] = common.machine()
    if "peak" not in results:
        results["peak"] = common.matmul_peak("cpu", torch.float32)
    points = results.setdefault("points", {})
    for axis in AXES:
        for part, (_, axes, _) in PARTS.items():
            for size in sizes(part, axis, arguments.most) if axis in axes else []:
                here = points.setdefault(axis, {}).setdefault(part, {})
                value = str(getattr(size, axis))
                if value not in here:
                    here[value] = common.alone(measured_alone, part, size, results["peak"])
                    print(axis, part, asdict(size), here[value], flush=True)
                    yield results
            if axis in axes and (found := points[axis][part]):
                print(axis, part, "slopes", {k: round(v, 2) for k, v in slopes(found).items()}, flush=True)
    if "runs_mb" not in results:
        results["runs_mb"] = common.alone(runs_in_one_process)
    yield results


# ------------------------------------------------------------------------------------------------------------------ page


def slope(pairs: Sequence[tuple[float, float]]) -> float:
    """The exponent of a power law through the last decade."""
    last = [(x, y) for x, y in pairs if x * 10 >= pairs[-1][0] and y > 0]
    if len(last) < 2:
        return 0.0
    x, y = (np.log([pair[place] for pair in last]) for place in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def slopes(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of seconds, the floor's amount, memory and held memory."""
    points = sorted((float(value), point) for value, point in found.items())
    result = {name: slope([(x, point[name]) for x, point in points]) for name in ("seconds", "amount", "mb", "held_mb")}
    if points[-1][1]["mb"] < SMALL_MB:
        result["mb"] = 0.0
    return result


def page(results: Results) -> Results:
    lines, grown, fat, curves = [], [], [], 0
    for axis in AXES:
        rows = []
        for part in PARTS:
            found = results["points"].get(axis, {}).get(part, {})
            if len(found) < 2:
                continue
            values = sorted(found, key=float)
            first, last, steep = found[values[0]], found[values[-1]], slopes(found)
            curves += 1
            if steep["seconds"] > max(steep["amount"], 0) + ROOM:
                grown.append(f"{part} ({axis}): {steep['seconds']:.2f} beside {steep['amount']:.2f}")
            if steep["mb"] > max(steep["held_mb"], 0) + ROOM:
                fat.append(f"{part} ({axis}): {steep['mb']:.2f} beside {steep['held_mb']:.2f}")
            rows.append(
                [
                    part,
                    f"{int(values[0]):,} to {int(values[-1]):,}",
                    *(f"{point['seconds']:.3g}" for point in (first, last)),
                    *(f"{steep[name]:.2f}" for name in ("seconds", "amount")),
                    f"{last['seconds'] / last['floor']:,.1f}" if last["floor"] else "-",
                    *(f"{last[name]:,.0f}" for name in ("mb", "held_mb")),
                    *(f"{steep[name]:.2f}" for name in ("mb", "held_mb")),
                ]
            )
        heads = ["part", axis, "s, first", "s, last", "slope", "of the floor", "times the floor"]
        heads += ["MB, last", "held", "slope of MB", "of held"]
        lines += [f"## {axis.capitalize()}", "", *table(heads, rows)] if rows else []
    return {
        "curves": curves,
        "straight": curves - len(grown),
        "lean": curves - len(fat),
        "tables": lines,
        "grown": [f"* Time, {line}." for line in grown],
        "fat": [f"* Memory, {line}." for line in fat],
        "floors": [f"* {part}: {floor}." for part, (_, _, floor) in PARTS.items()],
        "room": ROOM,
        "small": SMALL_MB,
        "runs": runs_words(results.get("runs_mb", [])),
        "machine": common.where(**results["environment"]),
        "environment": results["environment"],
        "peak": results["peak"] / 1e9,
        "hidden": HIDDEN,
        "axes": "; ".join(f"{axis}: {described(size)}" for axis, size in AT.items()),
    }


def runs_words(runs: list[float]) -> list[str]:
    """A paragraph on runs in one process; none where they are not measured."""
    if not runs:
        return []
    late = runs[len(runs) // 2 :]
    each = np.polyfit(range(len(late)), late, 1)[0]
    return paragraph(
        f"""{len(runs)} runs of {RUN_EXAMPLES} texts in one process: {", ".join(f"{mb:,.0f}" for mb in runs)} MB after each;
        {each:+.1f} MB a run over the last half."""
    )


def described(size: Size) -> str:
    return f"{size.examples:,} texts of {size.length} tokens, {size.layers} layers, {size.classes} classes"


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
