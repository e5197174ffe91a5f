"""Every file of what a command reads again: flipped, cut, removed, exchanged for another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .work import SMALL, Case, Ended, Scene, left, run


@dataclass
class Subject:
    """A folder that is damaged, and the command that reads it."""

    made: list[list[str]]
    """The commands that make it; the last is killed at ``at``."""
    folder: Path
    read: Callable[[Path], list[str]]
    """The command that reads it and writes to another folder; or goes on in this one."""
    at: int | None = None
    resumes: bool = False


def flipped(content: bytes, others: list[bytes]) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] if content else b"x"


DAMAGE: dict[str, Callable[[bytes, list[bytes]], bytes | None]] = {
    "a bit flipped": flipped,
    "cut in half": lambda content, others: content[: len(content) // 2],
    "emptied": lambda content, others: b"",
    "removed": lambda content, others: None,
    "another file's content": lambda content, others: next((one for one in others if one != content), b"x"),
}

OUTCOMES = ("one line", "same result", "other result", "traceback", "stuck")


def damage(scene: Scene, work: Path, only: list[str], results: dict[str, Any]) -> Iterator[None]:
    """Damage each file of each subject in each way and carry out the command that reads it; yield after each file."""
    done: dict[str, Any] = results.setdefault("damage", {})
    for name, subject in _subjects(scene, work / "damaged").items():
        if only and name not in only:
            continue
        entry = done.setdefault(name, {"files": [], **dict.fromkeys(OUTCOMES, 0), "said": []})
        shutil.rmtree(work / "damaged", ignore_errors=True)
        (work / "damaged").mkdir(parents=True)
        for number, words in enumerate(subject.made):
            last = number == len(subject.made) - 1
            end = run(words, subject.folder, at=subject.at if last else None)
            assert end.code == (-9 if last and subject.at else 0), end.line
        kept = work / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(subject.folder, kept)
        whole = _read(subject, work, kept)
        assert not whole[0].code, whole[0].line
        files = sorted(path for path in kept.rglob("*") if path.is_file() and path.suffix != ".lock")
        contents = [path.read_bytes() for path in files]
        for path in files:
            file = path.relative_to(kept).as_posix()
            if file in entry["files"]:
                continue
            for how, harm in DAMAGE.items():
                shutil.rmtree(subject.folder)
                shutil.copytree(kept, subject.folder)
                harmed = harm(path.read_bytes(), contents)
                (subject.folder / file).unlink()
                if harmed is not None:
                    (subject.folder / file).write_bytes(harmed)
                end, found = _read(subject, work, None)
                outcome = _outcome(end, found == whole[1])
                entry[outcome] += 1
                if outcome not in ("one line", "same result"):
                    entry["said"].append(f"{file}, {how}: {outcome}: {end.line}"[:300])
            entry["files"].append(file)
            yield


def _read(subject: Subject, work: Path, kept: Path | None) -> tuple[Ended, dict[str, str]]:
    """Carry out the command that reads a subject: how it ended, and what it left."""
    out = subject.folder if subject.resumes else work / "damaged" / "out"
    if not subject.resumes:
        shutil.rmtree(out, ignore_errors=True)
    end = run(subject.read(out), out)
    found = left(out) if not end.code else {}
    if kept is not None and subject.resumes:
        shutil.rmtree(subject.folder)
        shutil.copytree(kept, subject.folder)
    return end, found


def _outcome(end: Ended, same: bool) -> str:
    if end.stuck:
        return "stuck"
    if end.traceback or end.code not in (0, 2):
        return "traceback"
    if end.code == 2:
        return "one line"
    return "same result" if same else "other result"


def _subjects(scene: Scene, place: Path) -> dict[str, Subject]:
    root, data, cases = scene.root, scene.data, scene.cases()
    few = ["--set", "stages.*.max_steps=3", "--no-baseline", "--no-served"]
    distill = ["distill", "--teacher", str(root / "teacher"), *data, *few, "--student"]

    def subject(case: Case, folder: str, read: Callable[[Path], list[str]]) -> Subject:
        return Subject([case.words(place / folder)], place / folder, read)

    def stopped(name: str, at: int) -> Subject:
        words = scene.cases()[name].words(place / "run")
        return Subject([words], place / "run", lambda out: [*words, "--resume"], at=at, resumes=True)

    def general(out: Path) -> list[str]:
        student = f"init=checkpoint,name={place / 'general' / 'student'}"
        return [*distill, student, "--method", "tinybert", "--out", str(out)]

    corpus = [
        "pretrain",
        "--model",
        str(root / "masked"),
        "--corpus",
        str(place / "corpus"),
        "--student",
        "layers=1,hidden=16,heads=2",
        "--set",
        "stages.*.data.length=24",
    ]
    return {
        "stopped run (kd)": stopped("kd", 60),
        "stopped run (autoskdbert)": stopped("autoskdbert", 60),
        "stopped run on raw text": stopped("general tinybert", 40),
        "teacher store": subject(
            cases["store write"],
            "store",
            lambda out: (
                [
                    *distill,
                    SMALL,
                    "--method",
                    "minimum_knowledge",
                    "--out",
                    str(out),
                    "--teacher-store",
                    str(place / "store"),
                ]
            ),
        ),
        "corpus": subject(
            cases["corpus build"], "corpus", lambda out: [*corpus, "--set", "stages.*.max_steps=3", "--out", str(out)]
        ),
        "candidates": subject(
            cases["augment"],
            "candidates",
            lambda out: (
                [
                    *distill,
                    "layers=2,hidden=16,heads=4",
                    "--method",
                    "tinybert",
                    "--out",
                    str(out),
                    "--candidates",
                    str(place / "candidates"),
                ]
            ),
        ),
        "out-of-fold predictions": subject(
            cases["crossfit"],
            "folds",
            lambda out: (
                [
                    *distill,
                    "stored=1",
                    "--method",
                    "pea_kd",
                    "--out",
                    str(out),
                    "--set",
                    f"stages.ptp.ptp_labels.source={place / 'folds'}",
                ]
            ),
        ),
        "team": subject(
            cases["team train"],
            "team",
            lambda out: (
                [
                    "distill",
                    *data,
                    *few,
                    "--student",
                    "layers=1,choose=first",
                    "--method",
                    "skdbert",
                    "--team",
                    str(place / "team"),
                    "--allow-weak-teacher",  # four steps teach it little
                    "--out",
                    str(out),
                ]
            ),
        ),
        "student": subject(
            cases["kd"],
            "run",
            lambda out: [*distill, f"init=checkpoint,name={place / 'run' / 'student'}", "--out", str(out)],
        ),
        "student of raw text": subject(cases["general tinybert"], "general", general),
    }
