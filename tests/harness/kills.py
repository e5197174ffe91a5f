"""Runs that are killed at random and go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.artifacts import draft_of, partial_of

from .work import Case, Ended, Scene, left, names, run

KEPT = 5
"""Failures whose last line the results keep, of each case."""


def kills(scene: Scene, work: Path, count: int, only: list[str], results: dict[str, Any]) -> Iterator[None]:
    """Kill runs of all cases in turn until there are ``count`` kills, and yield after each run. Goes on where ``results`` end.

    Of a case's runs every other is killed by time, uniform over what the case takes, and every other just before a file operation,
    uniform over those that it makes: up to three times, each time in what is left to do.
    """
    cases = {name: case for name, case in scene.cases().items() if not only or name in only}
    done: dict[str, Any] = results.setdefault("kills", {"runs": 0, "cases": {}})
    while sum(case["kills"] for case in done["cases"].values()) < count:
        name = list(cases)[done["runs"] % len(cases)]
        case = cases[name]
        entry = done["cases"].setdefault(
            name,
            {"time": 0, "point": 0, "kills": 0, "same": 0, "differ": 0, "not resumed": 0, "left behind": 0, "said": []},
        )
        how = "time" if (done["runs"] + done["runs"] // len(cases)) % 2 else "point"
        generator = np.random.default_rng([0x6B11, done["runs"]])
        try:
            whole = _whole(case, work / "whole" / name.replace(" ", "-"))
            killed, verdict, said = _killed(case, whole, work / "cut", how, generator)
        except RuntimeError as error:  # a case that cannot be carried out even if it is let alone
            killed, verdict, said = 0, "not resumed", str(error)
        entry[how] += 1
        entry["kills"] += killed
        entry[verdict] += 1
        if verdict != "same" and len(entry["said"]) < KEPT:
            entry["said"].append(f"run {done['runs']}: {said}"[:400])
        done["runs"] += 1
        yield


def _whole(case: Case, folder: Path) -> dict[str, Any]:
    """What a case leaves that is let alone, how long it takes, and its file operations."""
    if not case.known:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        end = run(case.words(folder), folder, processes=case.processes, onnx=case.onnx)
        if end.code or end.stuck:
            raise RuntimeError(f"not killed, it ended with {end.code}: {end.line}")
        case.known.update(left=left(folder), names=names(folder), seconds=end.seconds, points=end.points)
    return case.known


def _killed(
    case: Case, whole: dict[str, Any], folder: Path, how: str, generator: np.random.Generator
) -> tuple[int, str, str]:
    """Kill a run up to three times and let it end: how often it was killed, what came out, and its last line."""
    for place in (folder, partial_of(folder), draft_of(folder)):
        shutil.rmtree(place, ignore_errors=True)
    words, killed = case.words(folder), 0
    more = ["--resume"] if case.resumes else []
    rest = 1.0
    for _ in range(int(generator.integers(1, 4))):
        share = float(generator.uniform(0, rest))
        victim = int(generator.integers(case.processes))
        given: dict[str, Any] = {"after": share * whole["seconds"]}
        if how == "point":
            given = {"at": max(1, int(share * whole["points"]))}
        if killed and not folder.exists():
            break
        end = run([*words, *more], folder, processes=case.processes, victim=victim, onnx=case.onnx, **given)
        if end.stuck:
            return killed, "not resumed", f"stuck after {end.seconds:.0f} s: {end.line}"
        if end.code != -9:
            return killed, *_verdict(end, whole, folder)
        killed += 1
        rest = max(rest - share, 0.1)
    end = run([*words, *more], folder, processes=case.processes, onnx=case.onnx)
    return killed, *_verdict(end, whole, folder)


def _verdict(end: Ended, whole: dict[str, Any], folder: Path) -> tuple[str, str]:
    """What the last of a run's processes shows, and a line about it."""
    done = "already exists" in end.line and folder.exists()  # killed when all was done: there is nothing to repeat
    if end.stuck or (end.code and not done):
        return "not resumed", "stuck" if end.stuck else end.line
    return _found(whole, folder)


def _found(whole: dict[str, Any], folder: Path) -> tuple[str, str]:
    """What a finished folder shows, and a line about it."""
    found = left(folder)
    if found != whole["left"]:
        other = sorted(name for name in {*found, *whole["left"]} if found.get(name) != whole["left"].get(name))
        return "differ", ", ".join(other[:3])
    more = names(folder) - whole["names"]
    return ("left behind", ", ".join(sorted(more)[:3])) if more else ("same", "")
