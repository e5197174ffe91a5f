"""Runs and stores: a run writes the store that it lacks, later runs read it, and the teacher stays on disk."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_alike, examples, tiny_model, write_csv
from processes import KILLED, in_process, in_processes, run_of
from safetensors.torch import load_file
from test_common import ON_TEAMS, ROWS, config_for, rows, small
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tutelage import api, cli
from tutelage.data.config import DataConfig
from tutelage.data.examples import Rows, encode
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store import writing
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.run import stores as stores_of_runs
from tutelage.run.run import run
from tutelage.run.workspace import new_accelerator
from tutelage.students.specs import Copied, Fresh
from tutelage.teachers.knowledge import Knowledge
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import predict


@pytest.fixture
def stores(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    return tmp_path / "stores"


def no_weights(monkeypatch) -> None:
    def refuse(self: Source) -> None:
        raise AssertionError("the teacher's weights were loaded")

    monkeypatch.setattr(Source, "model", property(refuse))


def finished(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/manifest.json"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "student" / "model.safetensors")


@pytest.mark.parametrize("method", rows("kd", "minimum_knowledge", "minilmv2", "autoskdbert", leave_out="finetune"))
def test_every_method_learns_from_a_store_what_it_learns_from_the_teacher(
    method: str, teacher_folder: Path, tmp_path: Path, stores: Path
) -> None:
    recipe = small(method, ROWS[method], 1)
    common = {"recipe": recipe, "baseline": False}
    live = run(config_for(method, teacher_folder, tmp_path / "live", **common), quiet=True)
    auto = config_for(method, teacher_folder, tmp_path / "auto", **common, teacher_store="auto", store_dtype="float32")
    stored = run(auto, quiet=True)
    teachers = 2 if method in ON_TEAMS else 1 + len(recipe.assistants)
    assert len(finished(stores)) == teachers  # one for each
    assert live["store"] is None
    assert stored["store"]["bytes"] in [Store(folder).manifest.bytes for folder in finished(stores)]
    # The writer's batches are others than the run's: rounding differs.
    assert_alike(weights(tmp_path / "auto"), weights(tmp_path / "live"), within=2e-3)
    assert stored["teacher"]["scores"] == live["teacher"]["scores"]
    if not method.startswith("tinybert"):
        assert "attention" not in stored["store"]["keeps"] or method.startswith("minimum")


# Two stages, whose layers are cut, and several teachers: pkd reads whole layers of one.
@pytest.mark.parametrize("method", [pytest.param("pkd", marks=pytest.mark.slow), "minimum_knowledge", "ensemble"])
def test_the_next_run_reads_the_store_and_loads_no_weights(
    method: str, teacher_folder: Path, tmp_path: Path, stores: Path, monkeypatch
) -> None:
    """Other seeds hold out other examples: the store has them all."""
    student = Fresh(layers=2, hidden=32, heads=4, intermediate=24)
    recipe = small(method, student, 1)
    common = {"recipe": recipe, "baseline": False, "teacher_store": "auto"}
    first = run(config_for(method, teacher_folder, tmp_path / "first", **common), quiet=True)
    written = [path.stat().st_mtime_ns for path in sorted(finished(stores)[0].iterdir())]
    no_weights(monkeypatch)
    again = run(config_for(method, teacher_folder, tmp_path / "again", **common), quiet=True)
    other = run(config_for(method, teacher_folder, tmp_path / "other", **common, seed=7), quiet=True)
    assert [path.stat().st_mtime_ns for path in sorted(finished(stores)[0].iterdir())] == written
    assert len(finished(stores)) == (2 if method in ON_TEAMS else 1)
    assert again["student"]["scores"] == first["student"]["scores"]
    for name, tensor in weights(tmp_path / "first").items():
        assert torch.equal(tensor, weights(tmp_path / "again")[name]), name
    assert other["store"] == first["store"]
    # and without the teacher's folder at all: what the store keeps of it is enough
    place = finished(stores)[0]
    gone = {"recipe": recipe, "baseline": False, "teacher": str(place / "teacher"), "teacher_store": str(place)}
    if method in ON_TEAMS:
        gone["teachers"] = tuple(map(str, finished(stores)))
    report = run(config_for(method, teacher_folder, tmp_path / "gone", **gone), quiet=True)
    assert report["student"]["scores"] == first["student"]["scores"]
    assert report["teacher"]["latency_ms"] is None and report["teacher"]["parameters"] == first["teacher"]["parameters"]
    html = (tmp_path / "gone" / "report.html").read_text()
    assert "teacher store" in html and "faster" not in html


def test_trials_need_no_weights_where_a_store_answers(
    teacher_folder: Path, tmp_path: Path, stores: Path, monkeypatch
) -> None:
    """Its predictions on the validation split are in the store as well."""
    settings = {"stages.*.max_steps": 4}
    data = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv"}
    common = {
        "student": "layers=1,hidden=16,heads=2,intermediate=16",
        "settings": settings,
        "baseline": False,
        "quiet": True,
    }
    teacher = str(teacher_folder / "teacher")
    first = api.distill(teacher, tmp_path / "first", teacher_store="auto", **common, **data).report
    place = finished(stores)[0]
    no_weights(monkeypatch)
    for holdout in (0.1, 0.0):
        again = api.distill(
            str(place / "teacher"), tmp_path / f"again{holdout}", teacher_store=str(place), **data,
            **common | {"settings": {**settings, "data.holdout": holdout}},
        ).report  # fmt: skip
        assert again["rates"] is not None
        if holdout:
            assert again["rates"]["tried"] == first["rates"]["tried"]


def test_a_larger_store_serves_and_a_smaller_one_does_not(
    teacher_folder: Path, tmp_path: Path, stores: Path, monkeypatch
) -> None:
    student = Copied(layers=2, choose="first")
    whole = small("distilbert", student, 1)
    config = config_for(
        "distilbert", teacher_folder, tmp_path / "a", recipe=whole, baseline=False, teacher_store="auto"
    )
    run(config, quiet=True)
    for method, count in (("kd", 1), ("minimum_knowledge", 2), ("logits_mse", 2)):
        recipe = small(method, student, 1)
        out = tmp_path / method
        run(config_for(method, teacher_folder, out, recipe=recipe, baseline=False, teacher_store="auto"), quiet=True)
        assert len(finished(stores)) == count, method


def test_a_store_that_another_run_writes_meanwhile_is_read(
    teacher_folder: Path, tmp_path: Path, stores: Path, monkeypatch
) -> None:
    """Two runs begin together: the second finds none that fits, and the first has written it before the second looks where its
    own belongs."""
    recipe = small("kd", Copied(layers=2, choose="first"), 1)
    common = {"recipe": recipe, "baseline": False, "teacher_store": "auto"}
    few = DataConfig(train=str(write_csv(tmp_path / "few.csv", 40, 1)), dev=str(teacher_folder / "dev.csv"))
    run(config_for("kd", teacher_folder, tmp_path / "few", **common, data=few), quiet=True)
    (other,) = finished(stores)
    run(config_for("kd", teacher_folder, tmp_path / "first", **common), quiet=True)
    (ours,) = set(finished(stores)) - {other}
    ours.rename(tmp_path / "away")
    real = Knowledge.open

    def late(self: Knowledge, folder: Path, needs: Needs) -> Any:
        if folder == other:
            (tmp_path / "away").rename(ours)
        return real(self, folder, needs)

    monkeypatch.setattr(Knowledge, "open", late)
    report = run(config_for("kd", teacher_folder, tmp_path / "second", **common), quiet=True)
    assert Path(report["store"]["path"]) == ours


def test_new_data_get_a_new_store(teacher_folder: Path, tmp_path: Path, stores: Path) -> None:
    recipe = small("kd", ROWS["kd"], 1)
    for number, extra in enumerate((0, 0, 5)):
        data = DataConfig(
            train=str(write_csv(tmp_path / f"train{number}.csv", 60 + extra, 1)), dev=str(teacher_folder / "dev.csv")
        )
        out = tmp_path / str(number)
        run(
            config_for("kd", teacher_folder, out, recipe=recipe, baseline=False, teacher_store="auto", data=data),
            quiet=True,
        )
        assert len(finished(stores)) == (1, 1, 2)[number]


@pytest.fixture
def console(capsys, monkeypatch):
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_commands(teacher_folder: Path, tmp_path: Path, console, monkeypatch) -> None:
    """Plan, write, inspect, verify, compact, distil from the cut: each as a user would."""
    data = ("--train", teacher_folder / "train.csv", "--dev", teacher_folder / "dev.csv")
    teacher = ("--teacher", teacher_folder / "teacher")
    recipe = ("--method", "minimum_knowledge", "--student", "init=copied,layers=2")
    small_amount = ("--set", "hidden.keep=1l_3t_0.2h")

    code, out, err = console("store", "plan", *teacher, *data, *recipe, *small_amount, "--json")
    plan = json.loads(out)
    assert code == 0 and not err
    code, out, _ = console(
        "store", "write", *teacher, *data, *recipe, *small_amount, "--out", tmp_path / "one", "--json"
    )
    one = json.loads(out)
    assert plan["bytes"] == one["bytes"] == 400 * plan["bytes_per_example"]
    assert plan["bytes_per_example"] == 4 * 2 + 1 + 3 * (1 + 6 * 2 + 4)
    code, out, _ = console("store", "plan", *teacher, *data, *recipe, "--whole", "--json")
    whole_plan = json.loads(out)
    code, out, _ = console("store", "write", *teacher, *data, *recipe, "--whole", "--out", tmp_path / "whole", "--json")
    assert json.loads(out)["bytes"] == whole_plan["bytes"] > 20 * one["bytes"]
    assert whole_plan["ideal_speedup_per_step"] > whole_plan["ideal_speedup_of_the_run"] > 1

    no_weights(monkeypatch)
    cut = ("--student", "init=copied,layers=2", *small_amount, "--out", tmp_path / "cut")
    code, out, _ = console("store", "compact", tmp_path / "whole", *recipe[:2], *cut, "--json")
    assert code == 0
    ours, theirs = tmp_path / "cut" / "shard-00000.bin", tmp_path / "one" / "shard-00000.bin"
    assert ours.read_bytes() == theirs.read_bytes()
    code, out, _ = console("store", "inspect", tmp_path / "cut")
    assert code == 0 and "3 tokens by attention without [SEP]" in " ".join(out.split())
    assert console("store", "verify", tmp_path / "cut", *teacher)[0] == 0
    settings = ("--set", "stages.*.epochs=1", "--no-baseline")
    fresh = ("--method", "minimum_knowledge", "--student", "layers=2,hidden=16,heads=2")
    code, out, err = console(
        "distill",
        "--teacher-store",
        tmp_path / "cut",
        *data,
        *fresh,
        *small_amount,
        *settings,
        "--out",
        tmp_path / "run",
    )
    assert code == 0, err
    assert "the teacher is not loaded" in err and "(stored)" in err


@pytest.mark.parametrize("student", ["init=checkpoint,name={0}", "init=copied,layers=1,source={0}"])
def test_a_store_for_a_student_made_of_a_checkpoint(
    student: str, teacher_folder: Path, tmp_path: Path, tokenizer, console
) -> None:
    """Its sizes are known without its weights."""
    tiny_model(layers=2, hidden=16, intermediate=24, num_labels=3, id2label=dict(enumerate("abc"))).save_pretrained(
        tmp_path / "start"
    )
    tokenizer.save_pretrained(tmp_path / "start")
    given = ("--teacher", teacher_folder / "teacher", "--train", teacher_folder / "train.csv", "--dev", teacher_folder / "dev.csv",
             "--method", "kd", "--student", student.format(tmp_path / "start"), "--json")  # fmt: skip
    code, out, err = console("store", "plan", *given)
    assert code == 0, err
    plan = json.loads(out)
    code, out, err = console("store", "write", *given, "--out", tmp_path / "store")
    assert code == 0 and json.loads(out)["bytes"] == plan["bytes"], err


def test_mistakes_end_in_one_line(teacher_folder: Path, tmp_path: Path, console) -> None:
    data = ("--train", teacher_folder / "train.csv", "--dev", teacher_folder / "dev.csv")
    teacher = ("--teacher", teacher_folder / "teacher")
    fresh = ("--student", "layers=2,hidden=16,heads=2")
    assert console("store", "write", *teacher, *data, "--out", tmp_path / "logits")[0] == 0
    other = tmp_path / "other"
    model = tiny_model(seed=9)
    model.save_pretrained(other)
    Source(str(teacher_folder / "teacher")).tokenizer.save_pretrained(other)
    assert console(
        "store", "write", "--teacher", other, *data, "--out", tmp_path / "theirs", "--allow-weak-teacher"
    )[0] == 0  # fmt: skip
    edited = tmp_path / "edited.csv"
    edited.write_text((teacher_folder / "train.csv").read_text().replace("word3", "word4"))
    from_store = ("--teacher-store", tmp_path / "logits")
    run_of = ("distill", *data, *fresh, "--out", tmp_path / "x")
    hidden = ("--method", "minimum_knowledge")
    changed = ("distill", "--train", edited, "--dev", teacher_folder / "dev.csv")
    cases = [
        ((*run_of, *from_store, "--teacher", other, "--allow-weak-teacher"), "made by another teacher"),
        ((*changed, *fresh, *from_store, "--out", tmp_path / "x"), "other data"),
        ((*run_of, *from_store, *hidden), "lacks what this recipe needs: it has no layer 3"),
        ((*run_of, *from_store, "--max-length", 8), "is not the text|other data"),
        ((*run_of, *from_store, "--mixed-precision", "bf16"), "mixed_precision=no"),
        (("distill", *data, "--student", "layers=2", *from_store, "--out", tmp_path / "x"), "has no weights"),
        ((*run_of, "--teacher-store", tmp_path / "nothing"), "cannot load|not a teacher store"),
        ((*run_of, *from_store, "--teacher", tmp_path / "theirs" / "teacher"), "made by another teacher"),
        ((*run_of, *from_store, "--method", "tinybert", "--set", "heads=4"), "has no weights"),
        (("store", "inspect", "."), "not a teacher store"),
        (("store", "write", *teacher, *data, "--out", edited / "x"), "cannot be written"),
        (run_of, "there is no teacher"),
        ((*run_of, "--teacher-store", "auto"), "there is no teacher"),
        (("store", "write", *teacher, *data, "--out", tmp_path / "logits"), "already exists"),
        (("store", "inspect", teacher_folder), "not a teacher store"),
        (("store", "verify", tmp_path / "logits", "--teacher", other), "another teacher"),
        (
            (
                "store",
                "compact",
                tmp_path / "logits",
                "--out",
                tmp_path / "x",
                *hidden,
                "--student",
                "init=copied,layers=2",
            ),
            "cannot be reduced",
        ),
        (("store", "write", *teacher, *data, "--out", tmp_path / "x", "--store-dtype", "int4"), "--store-dtype"),
        (
            ("store", "plan", *teacher, *data, "--method", "finetune", *fresh),
            "reads nothing from its teacher",
        ),
        (
            ("store", "write", *teacher, *data, "--method", "wid", "--student", "hidden=16", "--out", tmp_path / "x"),
            "reads nothing from its teacher",
        ),
        (
            ("store", "write", *teacher, *data, "--out", tmp_path / "x", *hidden, *fresh, "--set", "keep=9l_1t_1h"),
            "has 3",
        ),
    ]
    for words, expected in cases:
        code, _, err = console(*words)
        line = err.strip().splitlines()[-1]
        assert code == 2, (words, err)
        assert any(part in line for part in expected.split("|")), (words, line)
        assert "Traceback" not in err
        assert not (tmp_path / "x").exists(), words


def peak_memory(path: Path) -> int:
    """Of a process that carries out a run, in bytes."""
    run_of(path)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.slow
def test_the_teacher_is_absent_from_memory(tmp_path: Path, tokenizer, stores: Path) -> None:
    """Peak memory of the process that trains from the store is lower by the size of the teacher."""
    teacher = tiny_model(layers=8, hidden=512, heads=8, intermediate=2048)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    size = sum(p.numel() * 4 for p in teacher.parameters())
    write_csv(tmp_path / "train.csv", 64, 1)
    write_csv(tmp_path / "dev.csv", 32, 2)
    stage = Stage(name="distill", objective=[SoftLabels(), HiddenKnowledge(keep="1l_1t_1h")], epochs=1)
    recipe = Recipe(method="kd", title="kd", paper="-", student=Fresh(layers=1, hidden=16, heads=2), stages=[stage])
    data = DataConfig(train=str(tmp_path / "train.csv"), dev=str(tmp_path / "dev.csv"))
    peaks = {}
    for name in ("writes", "live", "stored"):
        place = str(finished(stores)[0]) if name == "stored" else None
        config = RunConfig(
            recipe=recipe,
            teacher=f"{place}/teacher" if place else str(tmp_path / "teacher"),
            data=data,
            out=str(tmp_path / name),
            baseline=False,
            allow_weak_teacher=True,
            teacher_store={"writes": "auto", "live": None, "stored": place}[name],
        )
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(config))
        peaks[name] = in_process(peak_memory, path)
    assert size > 95e6
    # It was lower by 104 to 110 % of the size. The peak of one and the same process is up to 6 MB higher one time than
    # another, by what allocator and libraries take, which is 6 % here; a teacher that is loaded all the same leaves 0 %.
    assert peaks["live"] - peaks["stored"] >= 0.8 * size


def written(root: Path, out: Path, dies: bool = False, size: int = 60, fails: bool = False) -> int | str:
    """Write a store of all hidden states in shards of so many examples: of how many examples this process wrote, or why it did
    not. ``dies`` in its second shard; or the second process ``fails`` there."""
    writing.SHARD_EXAMPLES, asked, write_shard = size, 0, writing._write_shard

    def counted(path: Path, scheme: Scheme, shard: Rows, *others: Any) -> int:
        nonlocal asked
        if dies and asked:
            os.kill(os.getpid(), signal.SIGKILL)
        if fails and asked and os.environ["RANK"] == "1":
            raise TutelageError("no luck")
        asked += len(shard)
        return write_shard(path, scheme, shard, *others)

    writing._write_shard = counted
    try:
        stores_of_runs.write(config_for("minimum_knowledge", root, out, baseline=False), whole=True, quiet=True)
    except TutelageError as error:
        return str(error)
    return asked


def test_processes_write_a_store_together(teacher_folder: Path, tmp_path: Path) -> None:
    """Byte for byte that of one process, also where another number of them goes on after a kill."""

    def files(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.bin")}

    assert in_processes(1, written, teacher_folder, tmp_path / "one") == [400]
    (tmp_path / "two").mkdir()  # an empty folder is a place for a store
    assert in_processes(2, written, teacher_folder, tmp_path / "two") == [220, 180]
    assert in_processes(2, written, teacher_folder, tmp_path / "bad", False, 60, True) == ["no luck", "no luck"]
    assert in_processes(2, written, teacher_folder, tmp_path / "cut", True) == [KILLED, KILLED]
    assert not (tmp_path / "cut").exists()
    refused = in_processes(2, written, teacher_folder, tmp_path / "cut", False, 100)  # by both, in one line
    assert refused[0] == refused[1] and "cut.partial' was begun for another store" in str(refused[0])
    assert in_processes(1, written, teacher_folder, tmp_path / "cut") == [280]
    assert len(files("one")) == 8
    assert files("one") == files("two") == files("cut")


def answers(root: Path, divided: bool) -> tuple[int, list[list[float]]]:
    """A model's answers for texts of many lengths, and how many of them this process computed."""
    texts = encode(examples(41, 3), AutoTokenizer.from_pretrained(root / "teacher"), 32)
    model, computed = AutoModelForSequenceClassification.from_pretrained(root / "teacher"), []
    found = predict(model, texts, new_accelerator("no"), computed.append, divided=divided)
    return sum(computed), found.tolist()


def test_processes_divide_a_teachers_answers(teacher_folder: Path) -> None:
    ((whole, known),) = in_processes(1, answers, teacher_folder, True)
    assert whole == 41
    for divided, counts in ((True, [21, 20]), (False, [41, 41])):
        found = in_processes(2, answers, teacher_folder, divided)
        assert [count for count, _ in found] == counts
        for _, ours in found:
            assert np.allclose(ours, known, rtol=0, atol=1e-5)  # padded to other lengths
        assert found[0][1] == found[1][1]
