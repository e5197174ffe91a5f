"""Cost of a training step by how glibc's allocator keeps memory: CPU seconds, page faults and resident memory.

    python benchmarks/allocator.py

glibc's defaults return the memory of large tensors to the system and get it anew, zeroed page by page. Each side sets the allocator
in its own way and takes the same steps in a process of its own, forked from one that has imported the libraries under the same
environment; the sides take turns.
Writes ``results/allocator.json`` and ``docs/results/allocator.md``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import common
import numpy as np
import torch
import torch.nn.functional as F

from tutelage.studies.pages import listed, table
from tutelage.studies.script import Results, Script, settings


class Work(NamedTuple):
    """Steps of a student: its sizes, the texts of a step and their least and most tokens, whether a teacher of its size runs,
    how many steps come before those that are measured, and the sides that take them."""

    layers: int
    hidden: int
    heads: int
    texts: int
    tokens: tuple[int, int]
    running: bool
    warm: int
    steps: int
    sides: tuple[str, ...] = ("default", "environment", "mallopt", "huge")


WORK = {
    "1 of the 12 layers of 768, running teacher, 16 x 128 tokens": Work(1, 768, 12, 16, (128, 128), True, 2, 2),
    "4 x 312, stored teacher, 32 x 64 tokens": Work(4, 312, 12, 32, (64, 64), False, 2, 3),
    "1 x 312, stored teacher, 128 x 128 tokens": Work(1, 312, 12, 128, (128, 128), False, 1, 2, ("default", "mallopt")),
    "2 x 128, stored teacher, 32 x 64 tokens": Work(2, 128, 2, 32, (64, 64), False, 5, 20),
}
TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of ``mallopt``'s settings."""


class Side(NamedTuple):
    """How memory is kept: environment variables, and calls of ``mallopt`` at the program's start."""

    words: str
    variables: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[int, int], ...] = ()


KEPT = (("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", str(10**12)))
SIDES = {
    "default": Side("glibc's defaults"),
    "environment": Side("kept, by the environment", KEPT),
    "mallopt": Side("kept, by `mallopt`", calls=((MMAP_MAX, 0), (TRIM_THRESHOLD, -1))),
    "huge": Side("defaults, huge pages", (("THP_MEM_ALLOC_ENABLE", "1"),)),
}
KERNELS = "250 shapes of texts, 2 x 64 in bfloat16"
CAPACITY = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
CAPACITIES = {
    str(number): Side(f"{number:,}", tuple((name, str(number)) for name in CAPACITY)) for number in (1024, 64)
}
"""How many compiled kernels oneDNN and its wrapper keep: their defaults, and ours."""
OWN = ("MALLOC_", "GLIBC_TUNABLES", "THP_MEM_ALLOC")
"""Beginnings of environment variables that a side sets itself."""


def steps_of(work: Work) -> Callable[[], None]:
    """A call that takes the next training step."""
    torch.manual_seed(0)
    student = common.bert(work.layers, work.hidden, heads=work.heads).train()
    teacher = common.bert(work.layers, work.hidden).eval() if work.running else None
    optimizer, generator = common.optimizer_for(student), np.random.default_rng(0)

    def step() -> None:
        tokens = int(generator.integers(work.tokens[0], work.tokens[1] + 1))
        ids = torch.from_numpy(generator.integers(1000, 30000, (work.texts, tokens)))
        with torch.no_grad():
            known = torch.zeros(work.texts, 2) if teacher is None else teacher(input_ids=ids).logits
        answers = student(input_ids=ids).logits
        F.kl_div(answers.log_softmax(-1), known.softmax(-1), reduction="batchmean").backward()
        common.finish_step(optimizer, student)

    return step


def of_shapes() -> dict[str, float]:
    """CPU time of forward and backward passes of many shapes, and the memory that they leave behind."""
    torch.set_num_threads(1)
    model, generator = common.bert(2, 64, heads=2), np.random.default_rng(0)
    before, seconds = common.resident(), time.process_time()
    for _ in range(250):
        shape = generator.integers(4, 33), generator.integers(5, 120)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=torch.from_numpy(generator.integers(1000, 30000, shape))).logits.sum()
        loss.backward()
        model.zero_grad()
    seconds = time.process_time() - seconds
    del loss
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return {"ms": seconds * 1e3, "left_mb": common.resident() - before}


def one(side: str, name: str) -> dict[str, float]:
    """What a step takes in this process, and the memory of the process."""
    if name == KERNELS:
        return of_shapes()
    libc = ctypes.CDLL("libc.so.6")
    for setting, value in SIDES[side].calls:
        assert libc.mallopt(setting, value), (side, setting, value)
    torch.set_num_threads(1)  # CPU seconds of several threads would add up
    work = WORK[name]
    step = steps_of(work)
    for _ in range(work.warm):
        step()
    before, seconds = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    for _ in range(work.steps):
        step()
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.process_time() - seconds
    system, faults = after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt
    found = {"ms": seconds * 1e3 / work.steps, "system_ms": system * 1e3 / work.steps, "faults": faults / work.steps}
    found |= {"peak_mb": common.resident("VmHWM"), "kept_mb": common.resident()}
    del step
    gc.collect()
    libc.malloc_trim(0)
    return {**found, "trimmed_mb": common.resident()}


def forked(side: str, name: str) -> dict[str, float]:
    """As :func:`one`, in a process forked from this one."""
    read, written = os.pipe()
    if not os.fork():
        try:
            os.write(written, json.dumps(one(side, name)).encode())
        finally:
            os._exit(0)  # else a failed child would go on as its parent
    os.close(written)
    with os.fdopen(read) as pipe:
        found = json.load(pipe)
    os.wait()
    return dict(found)


SCRIPT = Script(__file__, __doc__, "allocator", rounds=6)
SCRIPT.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


def server(side: Side) -> subprocess.Popen[str]:
    """A process with the environment of a side, which has imported what the steps need and forks one for each line it reads."""
    command, pipe = [sys.executable, __file__, "--one"], subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env={**os.environ, **dict(side.variables)}
    )


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    if arguments.one:
        for line in sys.stdin:
            print(json.dumps(forked(*json.loads(line))), flush=True)
        raise SystemExit
    if given := [name for name in os.environ if name.startswith(OWN)]:
        raise SystemExit(f"unset {', '.join(given)}: the sides set it")
    sides = {name: work.sides for name, work in WORK.items()} | {KERNELS: tuple(CAPACITIES)}
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {side: [] for side in of_work} for name, of_work in sides.items()
    }
    needed = {side: CAPACITIES.get(side) or SIDES[side] for name in found for side in found[name]}
    servers = {name: server(side) for name, side in needed.items() if side.variables}
    for number in range(arguments.rounds):
        for name in found:
            for side in [*found[name]][:: 1 if number % 2 else -1]:
                if side in servers:
                    asked, answered = servers[side].stdin, servers[side].stdout
                    assert asked is not None and answered is not None
                    print(json.dumps([side, name]), file=asked)
                    run = json.loads(answered.readline())
                else:
                    run = forked(side, name)
                found[name][side].append(run)
                print(number, name, side, run, flush=True)
        yield {"settings": settings(arguments), "threads": 1, "torch": torch.__version__, "found": found}
    for one_server in servers.values():
        one_server.communicate()


def middle(runs: list[dict[str, float]], what: str) -> float:
    """The median of all rounds."""
    return statistics.median(run[what] for run in runs)


def page(results: Results) -> Results:
    found, lines, gains, rounds = results["found"], list[str](), list[float](), list[int]()
    heads = ["", "CPU, ms a step", "of the defaults'", "least to most", "of it system", "page faults a step"]
    heads += ["peak, MB", "at the end, MB", "after `malloc_trim`, MB"]
    for name in WORK:
        rows = []
        for side, runs in found[name].items():
            ratios = [run["ms"] / base["ms"] for run, base in zip(runs, found[name]["default"], strict=True)]
            ms = middle(runs, "ms")
            rows.append([SIDES[side].words, f"{ms:,.0f}", f"{statistics.median(ratios):.2f}"])
            rows[-1] += [f"{min(ratios):.2f} to {max(ratios):.2f}", f"{middle(runs, 'system_ms') / ms:.1%}"]
            rows[-1] += [f"{middle(runs, what):,.0f}" for what in ("faults", "peak_mb", "kept_mb", "trimmed_mb")]
            gains += [1 - statistics.median(ratios)] if side == "mallopt" else []
        lines += [f"## {name}", "", *table(heads, rows)]
        rounds.append(len(found[name]["default"]))
    kernels = found[KERNELS]
    rows = [
        [CAPACITIES[side].words, f"{middle(runs, 'ms'):,.0f}", f"{middle(runs, 'left_mb'):,.0f}"]
        for side, runs in kernels.items()
    ]
    return {
        "least": min(gains),
        "most": max(gains),
        "peak": max(
            middle(found[name]["mallopt"], "peak_mb") / middle(found[name]["default"], "peak_mb") for name in WORK
        )
        - 1,
        "steps": lines,
        "kernels": table(["kernels kept", "CPU, ms", "memory left behind, MB"], rows),
        "before": middle(kernels["1024"], "left_mb"),
        "after": middle(kernels["64"], "left_mb"),
        "rounds": listed([*map(str, rounds)]) if len({*rounds}) > 1 else rounds[0],
        "rounds_of_kernels": len(kernels["64"]),
        "torch": results["torch"],
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
