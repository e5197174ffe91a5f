"""What is run and how: tiny models and data, commands in forked processes that can be killed at a point, and what they leave."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics
import torch
from conftest import FILL, GOOD, VOCABULARY, make_teacher, sentences, tiny_model
from test_common import ROWS, config_for, small
from transformers import BertForMaskedLM, BertTokenizerFast

from tutelage import cli
from tutelage.data.corpus.building import build
from tutelage.methods.named import method_recipe
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import with_settings
from tutelage.run import served, trials, workspace
from tutelage.serving import session
from tutelage.students.specs import Copied, Fresh, Inherited
from tutelage.training import loop

SMALL = "layers=2,heads=2,intermediate=24,rank=8"
"""The student of ``minimum_knowledge``."""
LIMIT = 240.0
"""Seconds after which a command counts as stuck."""


# ------------------------------------------------------------------------------------------------------------- processes


@dataclass
class Ended:
    """How a command ended."""

    code: int
    """The exit code; that of a signal is negative."""
    said: str
    """What it wrote to stdout and stderr."""
    seconds: float
    points: int = 0
    """File operations that it made below the watched folder."""
    stuck: bool = False

    @property
    def line(self) -> str:
        """The last line that it wrote."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


def run(
    words: list[str],
    watched: Path,
    *,
    after: float | None = None,
    at: int | None = None,
    processes: int = 1,
    victim: int = 0,
    meanwhile: Callable[[], None] | None = None,
    log: Path | None = None,
    checked: Path | None = None,
    onnx: bool = False,
) -> Ended:
    """Carry out a command in a forked process, or in several that train together.

    Args:
        words: The command line.
        watched: The folder whose file operations are points. Stores that are found or written by themselves lie in it.
        after: Seconds after which the process is killed, or ``meanwhile`` is called.
        at: The process kills itself just before this file operation.
        victim: The process that is killed. The others are killed when it is dead, as ``torchrun`` does.
        log: What the command writes; by default beside the folder.
        checked: Carry it out in this folder, and only until it would begin to train.
        onnx: Runs export their students, too. Without it they say that onnx is not installed.
    """
    log = log or watched.with_name(watched.name + ".log")
    log.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    began, children = time.monotonic(), []
    for rank in range(processes):
        group = {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
        group |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "1"}
        child = os.fork()
        if not child:
            _child(words, watched, log, group if processes > 1 else {}, at if rank == victim else None, checked, onnx)
        children.append(child)
    ends: dict[int, int] = {}
    stuck = False
    while len(ends) < processes:
        for child in children:
            if child not in ends:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    ends[child] = os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - began
        stuck = passed > LIMIT
        if after is not None and passed >= after:
            after = None
            if meanwhile is not None:
                meanwhile()
            elif children[victim] not in ends:
                os.kill(children[victim], signal.SIGKILL)
        if stuck or (ends.get(children[victim], 0) != 0 and len(ends) < processes):
            for child in children:
                if child not in ends:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    said = log.read_text(errors="replace") if log.exists() else ""
    counted = log.with_suffix(".points")
    points = int(counted.read_text()) if counted.exists() else 0
    return Ended(ends[children[victim]], said, time.monotonic() - began, points, stuck)


def _child(
    words: list[str],
    watched: Path,
    log: Path,
    group: dict[str, str],
    at: int | None,
    checked: Path | None,
    onnx: bool,
) -> None:
    """Carry out a command and end the process."""
    code, counted = 1, [0]
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.update(group, TUTELAGE_STORES=str(watched / "stores"), HF_HUB_OFFLINE="1")
        loop.CHECKPOINT_SECONDS = 0.0
        # The first process would log each step and the others almost none: the first decides for all.
        loop.LOG_SECONDS = 1e9 * int(group.get("RANK", "0"))
        trials.FEWEST = 2
        served.missing = session.missing if onnx else lambda: ["onnx, for tests"]
        if checked is not None:
            os.chdir(checked)
            workspace.Workspace.begin = _ready
        counted = _watch(str(watched), at)
        cli.main(words)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if group.get("RANK", "0") == "0":
            log.with_suffix(".points").write_text(str(counted[0]))
        os._exit(code)


def _ready(self: Any, origins: dict[str, str]) -> None:
    sys.exit(0)


def _watch(folder: str, at: int | None) -> list[int]:
    """Count the file operations below a folder from here on, and kill this process just before the one of number ``at``."""
    counted = [0]
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def heard(event: str, args: tuple[Any, ...]) -> None:
        if event not in changes and event != "open":
            return
        if event == "open" and not (args[2] or 0) & writes:
            return
        if not str(args[0]).startswith(folder):
            return
        counted[0] += 1
        if counted[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)
    return counted


# ----------------------------------------------------------------------------------------------------------- what is left


RESULTS = (".safetensors", ".bin", ".csv", ".onnx")
TIMES = ("latency_ms",)
"""Columns of tables that are measured times."""


def left(folder: Path) -> dict[str, str]:
    """What a command left that may not depend on its interruptions: tensors, tables and scores, by their name."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in RESULTS:
            found[name] = hashlib.sha256(_without_times(path)).hexdigest()
        elif path.name == "report.json":
            tree = json.loads(path.read_text())
            sides = [tree[who] for who in ("teacher", "student", "baseline") if isinstance(tree.get(who), dict)]
            found[name] = json.dumps([[side.get("scores") for side in sides], tree.get("mechanisms")])
    return found


def _without_times(path: Path) -> bytes:
    """The content of a file; of a table without the columns of times."""
    content = path.read_bytes()
    if path.suffix != ".csv":
        return content
    rows = list(csv.reader(content.decode().splitlines()))
    kept = [place for place, name in enumerate(rows[0] if rows else []) if name not in TIMES]
    return repr([[row[place] for place in kept if place < len(row)] for row in rows]).encode()


def names(folder: Path) -> set[str]:
    """The files of a folder. A lock may outlive its process, and a page its pictures."""
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    } - {".lock"}


# ------------------------------------------------------------------------------------------------------------------ cases


@dataclass
class Case:
    """A command that is interrupted and repeated."""

    words: Callable[[Path], list[str]]
    """The command line that writes to a folder."""
    resumes: bool = True
    """Whether it has ``--resume``; else the same command goes on."""
    processes: int = 1
    codes: tuple[int, ...] = (0, 2)
    """Exit codes that are no bug."""
    onnx: bool = False
    """Whether its runs export their students."""
    known: dict[str, Any] = field(default_factory=dict)


class Scene:
    """Tiny models and data in a folder, made once, in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if not (root / "finished").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            child = os.fork()
            if not child:
                code = 1
                try:
                    self._make()
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0

    def _make(self) -> None:
        trials.FEWEST = 2
        tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)}, model_max_length=32)
        make_teacher(self.root, tokenizer)
        generator, words = np.random.default_rng(0), [*FILL, *GOOD]
        lines = [" ".join(generator.choice(words, generator.integers(4, 12))) for _ in range(160)]
        text = "\n\n".join("\n".join(lines[start : start + 4]) for start in range(0, 160, 4))
        (self.root / "text.txt").write_text(text)
        build([str(self.root / "text.txt")], self.root / "corpus", tokenizer, split="lines")
        torch.manual_seed(0)
        masked = BertForMaskedLM(tiny_model().config)
        for name, model in (("masked", masked), ("bare", masked.bert)):
            model.save_pretrained(self.root / name)
            tokenizer.save_pretrained(self.root / name)
        self._kinds()
        (self.root / "finished").touch()

    def _kinds(self) -> None:
        """A training file of each kind of task, as JSON lines."""
        texts, labels = sentences(120, 5)
        rows: dict[str, list[dict[str, Any]]] = {"regression": [], "multilabel": [], "tokens": [], "spans": []}
        for text, label in zip(texts, labels, strict=True):
            words = text.split()
            rows["regression"].append({"text": text, "label": label + len(words) / 20})
            rows["multilabel"].append({"text": text, "label": [["bad", "good"][label], *["long"] * (len(words) > 8)]})
            tags = ["B-GOOD" if word in GOOD else "O" for word in words]
            rows["tokens"].append({"tokens": words, "ner_tags": tags})
            answer = {"text": [words[1]], "answer_start": [len(words[0]) + 1]}
            rows["spans"].append({"question": words[0], "context": text, "answers": answer})
        for kind, found in rows.items():
            (self.root / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))

    @property
    def data(self) -> list[str]:
        return ["--train", str(self.root / "train.csv"), "--dev", str(self.root / "dev.csv")]

    def yaml(self, config: RunConfig, out: Path) -> list[str]:
        """The command that carries out a run."""
        path = self.root / "yaml" / f"{hashlib.sha256(to_yaml(config).encode()).hexdigest()[:16]}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(to_yaml(config))
        return ["run", str(path)]

    def method(self, name: str, **more: Any) -> Callable[[Path], list[str]]:
        """The command of a method on a task, with two epochs at most of 100 texts."""

        def words(out: Path) -> list[str]:
            recipe = small(name, ROWS[name], 2)
            stages = [stage.model_copy(update={"batch_size": 100}) for stage in recipe.stages]
            recipe = recipe.model_copy(update={"stages": stages})
            config = config_for(name, self.root, out, recipe=recipe, **{"served": False, **more})
            return self.yaml(config, out)

        return words

    def general(self, recipe: Recipe, teacher: str | None) -> Callable[[Path], list[str]]:
        """The command of a method on raw text."""

        def words(out: Path) -> list[str]:
            part = recipe.part("general")
            stages = [
                stage.model_copy(
                    update={
                        "epochs": 2,
                        "lr": 3e-3,
                        "batch_size": 16,
                        "data": stage.data.model_copy(update={"length": 24}),
                    }
                )
                for stage in part.stages
            ]
            place = None if teacher is None else str(self.root / teacher)
            config = RunConfig(
                recipe=part.model_copy(update={"stages": stages}),
                teacher=place,
                corpus=str(self.root / "corpus"),
                out=str(out),
            )
            return self.yaml(config, out)

        return words

    def cases(self) -> dict[str, Case]:
        """Everything that can be interrupted, by name."""
        root, data = self.root, self.data
        few = ["--set", "stages.*.max_steps=4", "--set", "stages.*.batch_size=32"]
        fresh = Fresh(layers=2, hidden=16, heads=4, intermediate=24)
        tiny, causal = method_recipe("tinybert"), method_recipe("wid_reference")
        found = {name: Case(self.method(name)) for name in ROWS}
        found["kd, teacher store"] = Case(self.method("minimum_knowledge", teacher_store="auto"))
        found["general tinybert"] = Case(self.general(tiny.model_copy(update={"student": fresh}), "bare"))
        found["general pretrain"] = Case(
            self.general(method_recipe("pretrain").model_copy(update={"student": _like(root / "masked")}), None)
        )
        found["general distilbert"] = Case(
            self.general(method_recipe("distilbert_general").model_copy(update={"student": Copied(layers=2)}), "masked")
        )
        soon = with_settings(
            RunConfig(recipe=causal.part("general")), {"stages.*.pruning.increments": 2, "stages.*.pruning.interval": 1}
        )
        found["general wid"] = Case(
            self.general(soon.recipe.model_copy(update={"student": Inherited(hidden=16)}), "masked")
        )
        for kind in ("regression", "multilabel", "tokens", "spans"):
            train = ["--train", str(root / f"{kind}.jsonl"), "--kind", kind]
            start = ["finetune", "--model", str(root / "random"), *train, *few]
            found[f"finetune, {kind}"] = Case(lambda out, start=start: [*start, "--out", str(out)])
        given: dict[str, list[str]] = {
            "corpus build": ["corpus", "build", str(root / "text.txt"), "--tokenizer", str(root / "bare")],
            "augment": ["augment", "--proposer", str(root / "masked"), "--train", str(root / "train.csv")],
            "store write": [
                "store",
                "write",
                "--teacher",
                str(root / "teacher"),
                *data,
                "--whole",
                "--method",
                "minimum_knowledge",
                "--student",
                SMALL,
            ],
            "team train": [
                "team",
                "train",
                "--model",
                str(root / "random"),
                *data,
                *few,
                "--member",
                "seed=0",
                "--member",
                "layers=2,seed=1",
            ],
            "crossfit": ["crossfit", "--model", str(root / "random"), *data, "--folds", "2", *few],
            "chain": [
                "chain",
                "--teacher",
                str(root / "teacher"),
                *data,
                "--through",
                "layers=2",
                *few,
                "--student",
                "layers=1",
            ],
            "compare": [
                "compare",
                "--teacher",
                str(root / "teacher"),
                *data,
                "--methods",
                "kd,logits_mse",
                *few,
                "--students",
                "layers=1",
                "--seeds",
                "2",
                "--no-baseline",
            ],
        }
        for name, start in given.items():
            # Of compare, 1 means that a cell failed: it goes on with the others.
            codes = (0, 1, 2) if name == "compare" else (0, 2)
            found[name] = Case(lambda out, start=start: [*start, "--out", str(out)], resumes=False, codes=codes)
        # One shape alone meets the limit, so that no measured time decides which student is trained.
        limits = ["--max-parameters", "8400", "--min-retention", "0.01"]
        shrunk = ["shrink", "--teacher", str(root / "teacher"), *data, *limits]
        found["shrink"] = Case(lambda out: [*shrunk, "--out", str(out)], resumes=False, onnx=True)
        for name in ("kd", "tinybert", "autoskdbert"):
            found[f"{name}, two processes"] = Case(self.method(name, baseline=False), processes=2)
        return found


def _like(folder: Path) -> Fresh:
    return Fresh(layers=1, hidden=16, heads=2, intermediate=24, family="bert", like=str(folder))


assert sklearn.metrics  # imported for the processes
