"""FSDP2: two processes that divide a student make the student of two that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import assert_alike
from processes import KILLED, in_processes
from safetensors.torch import load_file
from test_common import ROWS, config_for, ended_in_step, rows, run_without_dropout, small
from torch.distributed.tensor import DTensor

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.methods import METHODS
from tutelage.recipes.config import to_yaml
from tutelage.report.model import load_report
from tutelage.run.run import run
from tutelage.training import checkpoint, optimizers

SWITCHES = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
"""What ``accelerate launch --use_fsdp --fsdp_version 2`` sets."""


def switch_on(monkeypatch) -> None:
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)


def settings(method: str, root: Path, out: Path) -> Path:
    """A run on 33 texts: the last step of an epoch has one, and pieces are so small that one process has more than another."""
    recipe = small(method, ROWS[method], 1)
    stages = [stage.model_copy(update={"batch_size": 8, "max_tokens": 24}) for stage in recipe.stages]
    recipe = recipe.model_copy(update={"stages": stages})
    data = DataConfig(train=str(root / "train.csv"), dev=str(root / "dev.csv"), max_train=33)
    path = out.with_suffix(".yaml")
    path.write_text(to_yaml(config_for(method, root, out, recipe=recipe, baseline=False, data=data)))
    return path


def shares(path: Path) -> list[float]:
    """Carry out a run without dropout, and return for each step which share of the optimizer's numbers this process has."""
    clip, found = optimizers.clip, list[float]()

    def seen(stage, optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        local = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
        assert all(p.grad is None or isinstance(p.grad, DTensor) is isinstance(p, DTensor) for p in parameters)
        found.append(sum(p.numel() for p in local) / sum(p.numel() for p in parameters))
        clip(stage, optimizer)

    optimizers.clip = seen
    run_without_dropout(path)
    return found


FAST = ("finetune", "kd", "tinybert", "pkd", "compact")


def whole_weights(method: str) -> bool:
    """Whether a mechanism of the method works on weights while they are trained."""
    stages = METHODS[method]().part("task").stages
    return any(type(one).hook is not Mechanism.hook for stage in stages for one in stage.mechanisms)


@pytest.mark.parametrize("method", [row for row in rows(*FAST) if not whole_weights(str(row.values[0]))])
def test_a_divided_student_is_that_of_whole_ones(
    method: str, teacher_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    found, logs = [], []
    for name in ("whole", "divided"):
        if name == "divided":
            switch_on(monkeypatch)
        out = tmp_path / name
        parts = in_processes(2, shares, settings(method, teacher_folder, out))
        expected = 0.5 if name == "divided" else 1.0
        assert all(part == pytest.approx(expected, abs=0.05) for each in parts for part in each) and parts[0]
        model = out if method == "finetune" else out / "student"
        found.append(load_file(next(model.glob("**/model.safetensors"))))
        logs.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert_alike(*found, within=1e-5)
    for one, two in zip(*logs, strict=True):
        assert one["losses"] == pytest.approx(two["losses"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "processes",
    [
        pytest.param((2, 1), id="divided-then-whole"),
        pytest.param((1, 2), id="whole-then-divided", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_divided_or_whole(
    processes: tuple[int, int], teacher_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """Killed in its second stage and resumed, it ends with the student of two processes that were not."""
    in_processes(2, run_without_dropout, settings("tinybert", teacher_folder, tmp_path / "through"))
    switch_on(monkeypatch)
    cut, (before, after) = settings("tinybert", teacher_folder, tmp_path / "cut"), processes
    first = load_report(tmp_path / "through").stages[0].steps
    assert in_processes(before, ended_in_step, cut, first + 4) == [KILLED] * before
    state = checkpoint.load(tmp_path / "cut" / "checkpoint")
    assert state is not None and state["work"] == 1 and state["log"]["steps"] == 3
    in_processes(after, run_without_dropout, cut, True)
    students = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("through", "cut")]
    assert_alike(*students, within=1e-5)


def test_a_mechanism_that_works_on_whole_weights_is_refused(teacher_folder: Path, tmp_path: Path, monkeypatch) -> None:
    switch_on(monkeypatch)
    config = config_for("wid", teacher_folder, tmp_path / "run")
    with pytest.raises(TutelageError, match=r"the mechanism pruning works on whole weights, .* without `--use_fsdp`"):
        run(config, quiet=True)
    assert not (tmp_path / "run").exists()
