"""What a run survives: kills, damaged files, random input, disks that are full or go away.

    python -m tests.harness kills --count 300
    python -m tests.harness damage
    python -m tests.harness fuzz --count 20000
    python -m tests.harness disks

Models are tiny and random. Each command goes on where the results end: ``--count`` is the number over all its calls. ``--only``
names cases, with semicolons. Writes ``results/harness.json`` and ``docs/results/survival.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own modules

from tutelage.studies.script import Results, Script, before

from . import pages

SCRIPT = Script(__file__, __doc__, "harness", count=30)
SCRIPT.prog = "-m tests.harness"
SCRIPT.add_argument("what", choices=["kills", "damage", "fuzz", "disks"], nargs="?", default="kills")
SCRIPT.add_argument("--work", default=Path("runs/harness"), type=Path, help="folder of the runs")
SCRIPT.add_argument("--only", default="", help="names of cases, with semicolons")


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    from . import damage, disks, fuzz, kills
    from .work import Scene

    results = before(arguments.out)
    work, only = arguments.work.absolute(), [name for name in arguments.only.split(";") if name]
    if arguments.what == "fuzz":
        steps = fuzz.fuzz(work, arguments.count, results)
    else:
        scene = Scene(work / "scene")
        if arguments.what == "kills":
            steps = kills.kills(scene, work, arguments.count, only, results)
        else:
            steps = {"damage": damage.damage, "disks": disks.disks}[arguments.what](scene, work, only, results)
    for _ in steps:
        yield results
    yield results


if __name__ == "__main__":
    SCRIPT.conduct(measure, pages.page, name="survival", template="survival.md")
