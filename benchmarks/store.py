"""How fast a store of teacher knowledge is read, and how that grows with its size; no teacher, no data.

    pip install -e .
    python benchmarks/store.py --work /tmp/stores

Writes stores of 1,000 to 1,000,000 invented records: what ``1l_10t_0.1h`` keeps of BERT-base (10 tokens of one layer, of
each the 77 largest of 768 neurons, in half precision) and 3 logits, 2,523 bytes each. Every record is then read once in
shuffled order, in batches of 32, as a training step reads it (``StoredTeacher.signals``), on one thread. The files are in
the page cache, where a training run finds them from its second epoch on. One store exists at a time; the largest takes
2.5 GB. Results go to ``results/store.json``, ``docs/results/store_curve.svg`` and a table in ``docs/results/store_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from offline import write_section

from tutelage.anatomy import Shape
from tutelage.artifacts import write_text
from tutelage.data.batches import Batch, Totals
from tutelage.data.draws import hashes, mixed
from tutelage.data.examples import Rows
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected
from tutelage.knowledge.signals import Signals
from tutelage.knowledge.store import reading, writing
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.records import Contents
from tutelage.knowledge.store.scheme import Scheme
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.teachers.stored import StoredTeacher

BERT_BASE = Shape("bert", 12, 768, 12, 3072, 30522)
CUTS = HiddenKnowledge(keep="1l_10t_0.1h").cuts(BERT_BASE, BERT_BASE)
NEEDS = Needs(logits=True, cuts=frozenset(CUTS))
SCHEME = Scheme.covering(NEEDS, classes=3, hidden=BERT_BASE.hidden, longest=128)
RECORD = 2523
LENGTH = 40
"""Tokens of every example: MNLI's mean."""
BATCH = 32
BLOCK = 1024
"""Records that are invented; a store repeats them."""
REQUIRED = 30_000
"""Records a second on one core."""


def block() -> Contents:
    """Invented knowledge about ``BLOCK`` examples."""
    generator = torch.Generator().manual_seed(0)

    def shuffled(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).argsort(dim=-1)

    tokens, neurons = SCHEME.tokens.count or 0, SCHEME.neurons.count or 0
    part = Selected(
        values=torch.randn(BLOCK, tokens, neurons, generator=generator).half().float(),
        mask=torch.ones(BLOCK, tokens, dtype=torch.bool),
        positions=shuffled(BLOCK, LENGTH)[:, :tokens],
        neurons=shuffled(BLOCK, tokens, SCHEME.hidden)[..., :neurons].sort(dim=-1).values,
    )
    mask = torch.ones(BLOCK, LENGTH, dtype=torch.int64)
    logits = torch.randn(BLOCK, SCHEME.classes, generator=generator)
    return Contents(mask, torch.zeros_like(mask, dtype=torch.bool), logits, {SCHEME.columns[0]: part})


def taken(contents: Contents, rows: Rows) -> Contents:
    """The knowledge about these rows of a store."""
    chosen = torch.from_numpy(rows % BLOCK)
    assert contents.logits is not None
    parts = {column: part.each(lambda t: t[chosen]) for column, part in contents.parts.items()}
    return Contents(contents.mask[chosen], contents.separators[chosen], contents.logits[chosen], parts)


def index_of(ids: list[str]) -> npt.NDArray[Any]:
    index = np.empty(len(ids), dtype=reading.INDEX)
    index["id"], index["key"], index["length"] = hashes(ids), mixed(np.arange(len(ids))), LENGTH
    return index


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = what()
    return time.perf_counter() - began, result


def measure(count: int, folder: Path, contents: Contents) -> dict[str, float]:
    """Write a store of ``count`` records, read it, remove it."""
    ids = [f"train/{i}" for i in range(count)]
    index = index_of(ids)
    about = {"task": "invented", "teacher": "none", "precision": "no", "max_length": 128}
    about |= {"teacher_fingerprint": "0" * 16, "tokenizer_fingerprint": "0" * 16}
    wrote, _ = timed(
        lambda: writing.write(
            folder, SCHEME, index, lambda rows: taken(contents, rows), about, {}, lambda place: place.mkdir()
        )
    )
    size = sum(path.stat().st_size for path in folder.glob("shard-*.bin"))
    assert size == int(SCHEME.record_bytes(index["length"]).sum()) == count * RECORD, (size, count * RECORD)
    opened, store = timed(lambda: Store(folder))
    verified, _ = timed(store.verify)
    # Of the texts, locate reads no more than this.
    encoded: Any = SimpleNamespace(keys=index["key"])
    located, rows = timed(lambda: store.locate(ids, encoded))
    assert np.array_equal(rows, np.arange(count))
    passes = max(1, 30_000 // count)  # a small store is read in no time
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(passes):
        read_all(StoredTeacher(store, rows, NEEDS), count, contents)
    read, cpu = (time.perf_counter() - began) / passes, (time.process_time() - cpu) / passes
    shutil.rmtree(folder)
    return {
        "records": count,
        "bytes": size,
        "shards": len(store.manifest.shards),
        "write_seconds": wrote,
        "open_seconds": opened,
        "verify_seconds": verified,
        "locate_seconds": located,
        "read_seconds": read,
        "read_cpu_seconds": cpu,
        "records_per_second": count / read,
        "records_per_cpu_second": count / cpu,
    }


def read_all(teacher: StoredTeacher, count: int, contents: Contents) -> None:
    """Every record once, in shuffled order; the last batch is compared with what was written."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(count))
    ones = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    inputs, nothing = {"attention_mask": ones, "input_ids": ones}, torch.zeros(BATCH, dtype=torch.int64)
    batch = Batch(
        nothing, nothing, inputs, torch.zeros_like(ones, dtype=torch.bool), nothing, None, Totals(BATCH, BATCH, 0, 0, 0)
    )
    signals = Signals()
    for rows in torch.split(order, BATCH):
        if len(rows) < BATCH:
            batch = replace(batch, inputs={name: tensor[: len(rows)] for name, tensor in inputs.items()})
        signals = teacher.signals(replace(batch, rows=rows))
    wanted, found = taken(contents, rows.numpy()), signals.cuts[CUTS[0]]
    part = wanted.parts[SCHEME.columns[0]]
    assert signals.logits is not None and wanted.logits is not None and torch.equal(signals.logits, wanted.logits)
    for name in ("values", "positions", "neurons", "mask"):
        assert torch.equal(getattr(found, name), getattr(part, name)), name


def table(results: list[dict[str, float]]) -> list[str]:
    lines = [
        "| records | size, MB | shards | write, s | open, s | verify, s | locate all, s | read all, s | records a second |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        numbers = (r[f"{what}_seconds"] for what in ("write", "open", "verify", "locate", "read"))
        lines.append(
            f"| {r['records']:,} | {r['bytes'] / 1e6:,.1f} | {r['shards']} | "
            + " | ".join(f"{number:.3g}" for number in numbers)
            + f" | {r['records_per_second']:,.0f} |"
        )
    return lines


def curve(results: list[dict[str, float]]) -> str:
    """Seconds to read all records against their number, both axes logarithmic, as SVG."""
    x = [math.log10(r["records"]) for r in results]
    y = [math.log10(r["read_seconds"]) for r in results]
    slow = [value - math.log10(REQUIRED) for value in x]
    left, right = math.floor(x[0]), max(math.ceil(x[-1]), math.floor(x[0]) + 1)
    bottom, top = math.floor(min(y + slow)), math.ceil(max(y + slow))
    width, height, edge = 520, 340, 56

    def place(a: float, b: float) -> str:
        across = edge + (a - left) / (right - left) * (width - 1.7 * edge)
        down = height - edge - (b - bottom) / (top - bottom) * (height - 1.7 * edge)
        return f"{across:.1f},{down:.1f}"

    def text(a: float, b: float, words: str, anchor: str, dx: float = 0, dy: float = 0) -> str:
        across, down = map(float, place(a, b).split(","))
        return f'<text x="{across + dx:.1f}" y="{down + dy:.1f}" text-anchor="{anchor}">{words}</text>'

    def line(points: list[str], style: str) -> str:
        return f'<polyline points="{" ".join(points)}" fill="none" {style}/>'

    grid = 'stroke="#ddd"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for tick in range(left, right + 1):
        parts += [
            line([place(tick, bottom), place(tick, top)], grid),
            text(tick, bottom, f"{10**tick:,}", "middle", 0, 18),
        ]
    for tick in range(bottom, top + 1):
        parts += [
            line([place(left, tick), place(right, tick)], grid),
            text(left, tick, f"{10.0**tick:g}", "end", -6, 4),
        ]
    parts += [
        line([place(a, b) for a, b in zip(x, slow, strict=True)], 'stroke="#b55" stroke-dasharray="5 4"'),
        line([place(a, b) for a, b in zip(x, y, strict=True)], 'stroke="#246" stroke-width="2"'),
        *(
            '<circle cx="{}" cy="{}" r="3.5" fill="#246"/>'.format(*place(a, b).split(","))
            for a, b in zip(x, y, strict=True)
        ),
        text(right, bottom, f"dashed: {REQUIRED:,} a second", "end", -8, -10),
        text((left + right) / 2, bottom, "records", "middle", 0, 38),
        text(left, top, "seconds to read all of them, shuffled, one thread", "start", 0, -12),
        "</svg>",
    ]
    return "\n".join([*parts, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the stores; left out: the system's temporary folder")
    parser.add_argument(
        "--records", type=int, nargs="+", default=[10**k * d for k in (3, 4, 5) for d in (1, 3)] + [10**6]
    )
    parser.add_argument("--out", default="results/store.json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    contents, results = block(), []
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        needed, free = 1.1 * RECORD * max(arguments.records), shutil.disk_usage(work).free
        if needed > free:
            parser.error(f"the largest store needs {needed / 1e9:.1f} GB, but {work} has {free / 1e9:.1f} GB free")
        measure(BLOCK, Path(work) / "warm-up", contents)
        for count in sorted(arguments.records):
            results.append(measure(count, Path(work) / f"store-{count}", contents))
            print(json.dumps(results[-1]), flush=True)
    command = f"python benchmarks/store.py --records {' '.join(map(str, sorted(arguments.records)))}"
    processor = platform.processor() or "cpu"
    slowest = min(r["records_per_second"] for r in results)
    environment = {"device": processor, "threads": 1, "torch": torch.__version__, "numpy": np.__version__}
    result = {
        "command": command,
        "environment": environment,
        "record_bytes": RECORD,
        "required_records_per_second": REQUIRED,
        "slowest_records_per_second": slowest,
        "sizes": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    write_text(Path("docs/results/store_curve.svg"), curve(results))
    lines = [
        "## Reading a store",
        "",
        f"    {command}",
        "",
        f"Invented records of {RECORD:,} bytes (`1l_10t_0.1h` of BERT-base, 3 logits), read in shuffled order in batches",
        f"of {BATCH} on one thread, from the page cache; the bytes on disk are the formula's. At least {REQUIRED:,} records a",
        f"second are wanted; the slowest size reaches {slowest:,.0f}. Made on {processor}, torch {torch.__version__}.",
        "",
        *table(results),
        "",
        "![Seconds to read all records against their number](store_curve.svg)",
    ]
    write_section("reading", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
