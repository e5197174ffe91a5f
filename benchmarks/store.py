"""Speed of reading a store of teacher knowledge by its size; needs no teacher and no data.

    pip install -e .
    python benchmarks/store.py --work /tmp/stores

Writes stores of 1,000 to 1,000,000 random records and reads each record once, as a training step does
(``StoredTeacher.signals``), from the page cache, where a training run finds them from its second epoch on. One store exists at
a time; the largest takes 2.5 GB. Writes ``results/store.json`` and ``docs/results/store_curve.svg``; its table is a part of
``docs/results/store_speed.md``, with ``results/offline.json``.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import numpy as np
import torch

from tutelage import HiddenKnowledge, Store
from tutelage.anatomy import Shape
from tutelage.data.batches import Batch, Totals
from tutelage.data.draws import hashes, mixed
from tutelage.data.examples import Rows
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected
from tutelage.knowledge.signals import Signals
from tutelage.knowledge.store import reading, writing
from tutelage.knowledge.store.records import Contents
from tutelage.knowledge.store.scheme import Scheme
from tutelage.studies.pages import tabled
from tutelage.studies.plot import Plot
from tutelage.studies.script import Arguments, Results, Script, before
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
"""Random records; a store repeats them."""
REQUIRED = 30_000
"""Records a second on one core."""


def block() -> Contents:
    """Random knowledge about ``BLOCK`` examples."""
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


def measure_size(count: int, folder: Path, contents: Contents) -> dict[str, float]:
    """Write a store of ``count`` records, read it, remove it."""
    ids = [f"train/{i}" for i in range(count)]
    index, about = np.empty(count, dtype=reading.INDEX), common.about_store("invented", "no")
    index["id"], index["key"], index["length"] = hashes(ids), mixed(np.arange(count)), LENGTH
    given = (
        folder,
        SCHEME,
        index,
        lambda rows, exponents: taken(contents, rows),
        about,
        {},
        lambda place: place.mkdir(),
    )
    wrote = common.seconds_of(lambda: writing.write(*given))
    size = sum(path.stat().st_size for path in folder.glob("shard-*.bin"))
    assert size == int(SCHEME.record_bytes(index["length"]).sum()) == count * RECORD, (size, count * RECORD)
    opened, store = common.timed(lambda: Store(folder))
    verified = common.seconds_of(store.verify)
    # Of the texts, locate reads no more than this.
    encoded: Any = SimpleNamespace(keys=index["key"])
    located, rows = common.timed(lambda: store.locate(ids, encoded))
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
    ones, nothing = torch.ones(BATCH, LENGTH, dtype=torch.int64), torch.zeros(BATCH, dtype=torch.int64)
    inputs, totals = {"attention_mask": ones, "input_ids": ones}, Totals(BATCH, BATCH, 0, 0, 0)
    batch = Batch(nothing, nothing, inputs, torch.zeros_like(ones, dtype=torch.bool), nothing, None, totals)
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


def section(result: Results) -> list[str]:
    """The part of the page about reading."""
    columns = {"records": "{records:,}", "size, MB": lambda row: f"{row['bytes'] / 1e6:,.1f}", "shards": "{shards}"}
    for head in ("write", "open", "verify", "locate all", "read all"):
        columns[f"{head}, s"] = f"{{{head.split()[0]}_seconds:.3g}}"
    columns["records a second"] = "{records_per_second:,.0f}"
    return SCRIPT.section("reading", **result, rows=tabled(columns, result["sizes"]), batch=BATCH)


def curve(result: Results) -> dict[str, str]:
    """Seconds to read all records against their number, both axes logarithmic."""
    points = [(r["records"], r["read_seconds"]) for r in result["sizes"]]
    slow = [(count, count / REQUIRED) for count, _ in points]
    powers = np.log10(points + slow)
    x, y = zip(10.0 ** np.floor(powers.min(axis=0)), 10.0 ** np.ceil(powers.max(axis=0)), strict=True)
    title = "seconds to read all of them, shuffled, one thread"
    plot = Plot(title, (x[0], max(x[1], 10 * x[0])), y, x_label="records", size=(520, 340), right=36)
    plot.line(slow, "#b55", dashes="5 4")
    plot.line(points, "#246")
    for count, second in points:
        plot.dot(count, second, "#246", f"{count:,}: {second:.3g} s")
    plot.text(x[1], y[0], f"dashed: {REQUIRED:,} a second", "end", dx=-8, dy=-10)
    return {"store_curve.svg": plot.svg}


SCRIPT = Script(__file__, __doc__, "store")
SCRIPT.add_argument("--work", type=Path, help="folder for the stores; default: the system's temporary folder")
SCRIPT.add_argument("--records", type=int, nargs="+", default=[10**k * d for k in (3, 4, 5) for d in (1, 3)] + [10**6])


def measure(arguments: Arguments) -> Iterator[Results]:
    torch.set_num_threads(1)
    contents, results = block(), []
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        needed, free = 1.1 * RECORD * max(arguments.records), shutil.disk_usage(work).free
        if needed > free:
            SCRIPT.error(f"the largest store needs {needed / 1e9:.1f} GB, but {work} has {free / 1e9:.1f} GB free")
        measure_size(BLOCK, Path(work) / "warm-up", contents)
        for count in sorted(arguments.records):
            results.append(measure_size(count, Path(work) / f"store-{count}", contents))
            print(results[-1], flush=True)
    yield {
        "command": f"python benchmarks/store.py --records {' '.join(map(str, sorted(arguments.records)))}",
        "environment": {**common.machine(), "numpy": np.__version__},
        "record_bytes": RECORD,
        "required_records_per_second": REQUIRED,
        "slowest_records_per_second": min(r["records_per_second"] for r in results),
        "sizes": results,
    }


def page(results: Results) -> Results:
    import offline

    return offline.page(before(SCRIPT.out.with_name("offline.json")), results)


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="store_speed", template="offline.md", pictures=curve)
