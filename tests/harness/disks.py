"""Disks that are full, cannot be written, or go away. Needs the right to mount a tmpfs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.artifacts import draft_of, partial_of

from .work import Case, Ended, Scene, left, run

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Size of a disk, as a share of what the command leaves there."""
CASES = (
    "kd",
    "tinybert",
    "finetune",
    "general tinybert",
    "corpus build",
    "augment",
    "store write",
    "crossfit",
    "compare",
)
REMOVED = 4
"""How often a folder is removed, of each case."""
ROOM = 2**30


def disks(scene: Scene, work: Path, only: list[str], results: dict[str, Any]) -> Iterator[None]:
    """Carry out commands on disks that fail; yield after each command."""
    done: dict[str, Any] = results.setdefault("disks", {})
    for name in only or CASES:
        case = scene.cases()[name]
        entry = done.setdefault(name, {})
        folder = work / "whole" / f"disk-{name.replace(' ', '-')}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        end = run(case.words(folder), folder)
        assert not end.code, end.line
        size, whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), left(folder)
        for share in SHARES:
            if f"full {share}" not in entry:
                entry[f"full {share}"] = _full(case, work, max(4096, int(share * size)), whole)
                yield
        if "read-only" not in entry:
            entry["read-only"] = _read_only(case, work)
            yield
        generator = np.random.default_rng(0xD15C)
        for number in range(REMOVED):
            share = float(generator.uniform(0, 1))
            if f"removed {number}" not in entry:
                entry[f"removed {number}"] = _removed(case, work, share * end.seconds)
                yield


def _mounted(work: Path, options: str) -> Path:
    place = work / "disk"
    with suppress(subprocess.CalledProcessError):
        _unmounted(place)
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
    return place


def _unmounted(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True, stderr=subprocess.DEVNULL)


def _full(case: Case, work: Path, size: int, whole: dict[str, str]) -> str:
    """One line, and with room made the command goes on to the same result; or what happens instead."""
    place = _mounted(work, f"size={size}")
    try:
        out = place / "out"
        words, log = case.words(out), work / "disk.log"
        end = run(words, out, log=log)
        if not end.code:
            return "had room"
        if said := _bad(end, case):
            return said
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(place)], check=True)
        again = run([*words, *(["--resume"] if case.resumes else [])], out, log=log)
        if again.code:
            return f"does not go on: {again.line}"[:300]
        return "one line, then the same result" if left(out) == whole else "another result"
    finally:
        _unmounted(place)


def _read_only(case: Case, work: Path) -> str:
    """One line on a disk that cannot be written."""
    place = _mounted(work, "ro")
    try:
        end = run(case.words(place / "out"), place / "out", log=work / "disk.log")
        return _bad(end, case) or ("one line" if end.code else "had room")
    finally:
        _unmounted(place)


def _removed(case: Case, work: Path, after: float) -> str:
    """One line, or the end, where somebody removes what is written meanwhile."""
    out = work / "gone"
    both = (out, partial_of(out), draft_of(out))

    def remove() -> None:
        for place in both:
            shutil.rmtree(place, ignore_errors=True)

    remove()
    end = run(case.words(out), out, after=after, meanwhile=remove, log=work / "disk.log")
    return _bad(end, case) or ("one line" if end.code else "ended")


def _bad(end: Ended, case: Case) -> str:
    """What is wrong with the end of a command that a disk failed; empty if nothing is."""
    if end.stuck:
        return "stuck"
    if end.traceback or end.code not in case.codes:
        return f"ended with {end.code}: {end.line}"[:300]
    return ""
