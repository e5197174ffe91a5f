"""Random input: files, configurations, recipes, whole command lines. Each is read, or refused in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import cli
from tutelage.methods import METHODS

from .work import run

FILES = {"tests/test_fuzz_tables.py": 5, "tests/test_fuzz_configs.py": 15}
"""Tests of random files, with the kinds of input that each has. A kind gets an equal share."""
LINES = 20
"""One input in so many is a whole command line."""
BATCH = 50
"""Command lines in one process."""
ENDLESS = ("demo", "serve")
"""Commands that need nothing and go on for long."""
VALUES = [
    "",
    "0",
    "-1",
    "1",
    "3",
    "1e30",
    "nan",
    "inf",
    "kd",
    "a/b",
    "[",
    "{",
    "é",
    "\x07",
    "x" * 400,
    "none",
    "auto",
    "1/2",
    "a,b",
]
VALUES += [
    "layers=1",
    "layers=2,hidden=16",
    "init=pruned",
    "stages.*.lr=1",
    "seed=1",
    "stages=[]",
    "recipe=null",
    "data.train=x",
]


def fuzz(work: Path, count: int, results: dict[str, Any]) -> Iterator[None]:
    """Try ``count`` random inputs in all. Yields after each kind; goes on where ``results`` end, with other numbers."""
    done: dict[str, Any] = results.setdefault("fuzz", {"kinds": {}})["kinds"]
    work.mkdir(parents=True, exist_ok=True)
    each = max(1, (count - count // LINES) // sum(FILES.values()))
    for file, kinds in FILES.items():
        entry = done.setdefault(Path(file).stem, {"inputs": 0, "kinds": kinds, "failed": []})
        if entry["inputs"] >= each * kinds:
            continue
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "slow or not slow",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            file,
        ]
        found = subprocess.run(words, env={**os.environ, "TUTELAGE_FUZZ": str(each)}, capture_output=True, text=True)
        if found.returncode not in (0, 1):
            raise RuntimeError(f"{file} ended with {found.returncode}: {(found.stderr or found.stdout)[-500:]}")
        entry["inputs"] = each * kinds
        entry["failed"] = [
            line[:300] for line in found.stdout.splitlines() if re.match(r"(FAILED|ERROR|/.*Error)", line)
        ]
        yield
    entry = done.setdefault("command lines", {"inputs": 0, "kinds": 1, "failed": []})
    while entry["inputs"] < count // LINES:
        number = entry["inputs"]
        lines = [_line(np.random.default_rng([0xF022, number + place])) for place in range(BATCH)]
        entry["failed"] += _tried(work, lines)
        entry["inputs"] += BATCH
        yield


def _line(generator: np.random.Generator) -> list[str]:
    """A command with options of its own and values that are often nonsense."""
    names = [name for name in cli.COMMANDS if name not in ENDLESS]
    name = names[int(generator.integers(len(names)))]
    group: Any = cli.app
    for word in name.split():
        group = group.commands[word]
    options = [option for one in group.params for option in one.opts if option.startswith("--")]
    words = name.split()
    for _ in range(int(generator.integers(0, 7)) if options else 0):
        words.append(str(generator.choice(options)))
        if generator.random() < 0.85:
            pool = VALUES if generator.random() < 0.8 else list(METHODS)
            words.append(str(generator.choice(pool)))
    return words


def _tried(work: Path, lines: list[list[str]]) -> list[str]:
    """Carry out command lines; what failed otherwise than in one line."""
    place = work / "fuzz"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    failed = []
    for words in lines:
        end = run(words, place / "out", checked=place)
        if end.stuck or end.traceback or end.code not in (0, 2) or (end.code == 2 and len(end.line) > 3000):
            failed.append(f"{' '.join(words)!r:.200}: {end.code} {'stuck ' * end.stuck}{end.line}"[:500])
    return failed
