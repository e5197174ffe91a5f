"""Comparisons: the queue, what it refuses, the statistics against slow oracles, and what is written."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_model, write_csv
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy import stats
from test_cli import invoke
from transformers import AutoTokenizer

from tutelage import api
from tutelage.artifacts import seal
from tutelage.cli.shown import show
from tutelage.errors import TutelageError
from tutelage.evaluation.intervals import holm, p_of_resamples, p_of_seeds, paired_difference, percentiles, resampled
from tutelage.methods import METHODS
from tutelage.methods.named import method_recipe
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml, yaml_value
from tutelage.recipes.recipe import Recipe
from tutelage.report import compared_page, compared_tables
from tutelage.report.compared import ComparedArm, ComparedTask, CompareReport, Contrast, QueueEntry
from tutelage.report.model import TaskReport, load_report
from tutelage.report.numbers import rounded
from tutelage.report.quality import Difference
from tutelage.run.measure import PREDICTIONS
from tutelage.serving.session import missing
from tutelage.students.specs import Copied, Fresh, Pruned, parse, words_of
from tutelage.studies import compare as comparing
from tutelage.studies import contrasts, launch
from tutelage.studies.compare_plan import ComparedMethod, plan_of
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

SHORT = {"stages.*.lr": 1e-3, "stages.*.batch_size": 16}


class Killed(BaseException):
    """As a signal would end the process."""


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrasts, "RESAMPLES", 100)
    monkeypatch.setattr(contrasts, "PER_CONTRAST", 1)


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    return tmp_path / "stores"


def given(root: Path, **more: Any) -> dict[str, Any]:
    files = {"train": str(root / "train.csv"), "dev": str(root / "dev.csv"), "max_train": 64}
    common = {"teacher": root / "teacher", "students": ["layers=1"], "settings": SHORT, "steps": 3, "quiet": True}
    common["served"] = False
    return {**common, "methods": ["kd,logits_mse"], "seeds": 1, **files, **more}


# ------------------------------------------------------------------------------------------------------------- the queue


@pytest.fixture(scope="module")
def finished(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompareReport, list[str]]:
    """A comparison that was killed in its second cell and went on: its folder, its report, the runs that were begun."""
    folder, began = tmp_path_factory.mktemp("compare"), []
    carry_out = launch.run

    def killing(config: RunConfig, **how: Any) -> Any:
        began.append(Path(str(config.out)).name)
        if len(began) == 2:
            raise Killed
        return carry_out(config, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_STORES", str(folder / "stores"))
        patch.setattr(launch, "run", killing)
        patch.setattr("tutelage.run.served.missing", missing)  # conftest's finds no onnx
        patch.setattr("tutelage.run.served.SECONDS", 0.05)
        patch.setattr(contrasts, "RESAMPLES", 100)
        with pytest.raises(Killed):
            api.compare(out=folder / "out", **given(teacher_folder, served=True))
        assert not (folder / "out" / "compare.json").exists()
        found = api.compare(out=folder / "out", **given(teacher_folder, served=True))
    return folder, found, began


def test_methods_and_students_as_objects(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stands under its name in the plan, and is what the cells get."""
    asked: list[Any] = []
    monkeypatch.setattr(comparing, "compare", lambda *given, **how: asked.extend(given))
    colder = METHODS["kd"]().model_copy(update={"method": "colder"})
    pair = tiny_model(), AutoTokenizer.from_pretrained(teacher_folder / "teacher")
    students = [Copied(layers=[1, 3], choose="first"), "layers=1", teacher_folder / "teacher", pair]
    how = {"methods": [colder, "kd,logits_mse", METHODS["pkd"]], "students": students}
    api.compare(out=tmp_path / "out", **given(teacher_folder, **how))
    plan, _, recipe_of = asked
    assert [one.method for one in plan.methods] == ["colder", "kd", "logits_mse", "pkd"]
    *shapes, path, saved = plan.students
    assert shapes == ["init=copied,layers=1+3,choose=first", "layers=1"] and parse(shapes[0]) == students[0]
    assert path == str(teacher_folder / "teacher") and Path(saved).parent == tmp_path / "out" / "inputs"
    assert recipe_of(ComparedMethod(method="colder"), "layers=1", None).method == "colder"
    assert recipe_of(ComparedMethod(method="pkd"), shapes[0], None).student == students[0]
    assert recipe_of(ComparedMethod(method="kd"), saved, None).student.name == saved
    with pytest.raises(TutelageError, match="two of the methods are 'kd'; give one of them another name"):
        plan_of(None, {"methods": ["kd", "kd"], "tasks": [{"teacher": "t", "data": {"task": "sst2"}}]}).check()
    with pytest.raises(TutelageError, match="method=int is no method"):
        api.compare(out=tmp_path / "out", **given(teacher_folder, methods=[3]))


@pytest.mark.parametrize(
    "student",
    [Copied(layers=[2]), Copied(layers=[1, 3]), Pruned(target_flops=0.5, tune=None), Fresh(layers=4, hidden=312)],
)
def test_a_students_words_make_it_again(student: Any) -> None:
    assert parse(words_of(student)) == student


def test_cells_are_known_by_what_is_trained(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured as served besides does not make another cell, nor does another method in front."""
    folder, found, _ = finished
    shutil.copytree(folder / "out", tmp_path / "out")
    monkeypatch.setattr(launch, "run", lambda config, **how: pytest.fail("a finished cell is run again"))
    for changed in ({"served": False}, {"methods": ["logits_mse,kd"], "served": True}):
        again = api.compare(out=tmp_path / "out", **given(teacher_folder, **changed))
        assert {cell.key for cell in again.cells} == {cell.key for cell in found.cells}
        assert again.tasks[0].served == found.tasks[0].served


def test_a_killed_comparison_goes_on(finished) -> None:
    """The cell that was finished is read, the other is run; both read one store, and both have as many steps."""
    folder, found, began = finished
    assert [name.split("-")[1] for name in began] == ["kd", "logits_mse", "logits_mse"]
    assert len({name.rpartition("-")[2] for name in began}) == 2
    assert CompareReport.model_validate_json((folder / "out" / "compare.json").read_text()) == found
    assert found.passed and [cell.error for cell in found.cells] == [None, None]
    assert len(list((folder / "stores").glob("*/manifest.json"))) == 1
    for cell in found.cells:
        report, config = (
            load_report(folder / "out" / cell.folder),
            from_yaml(folder / "out" / cell.folder / "config.yaml"),
        )
        assert isinstance(report, TaskReport) and config.teacher_store == "auto" and report.store is not None
        assert [stage.steps for stage in report.stages] == [
            3,
            3,
        ]  # the student's, and the student's without distillation
        assert cell.folder.endswith(cell.key) and cell.score == report.student.score
    names = [(arm.name, list(arm.scores)) for arm in found.arms]
    assert names == [(name + end, [0]) for name in ("kd", "logits_mse") for end in ("", ", not distilled")]
    assert [(one.arm, one.against) for one in found.contrasts] == [("kd", ""), ("logits_mse", "kd"), ("logits_mse", "")]
    assert "one seed" in found.notes[-1] and found.tasks[0].teacher_score == report.teacher.score
    for name in ("compare.html", "compare.tex", "arms.csv", "contrasts.csv", "served.csv", "compare.yaml"):
        assert (folder / "out" / name).stat().st_size > 100


def test_the_teacher_in_int8_stands_beside_the_students(finished, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured once for a student, in the first cell."""
    folder, found, _ = finished
    (arm,) = found.tasks[0].served
    assert (arm.method, arm.student, arm.seed) == ("kd", "layers=1", 0)
    names = ["teacher, ONNX", "teacher, int8", "kd, ONNX", "kd, int8"]
    assert [row.name for row in found.served] == names
    rows = list(csv.DictReader(io.StringIO((folder / "out" / "served.csv").read_text())))
    assert [(row["model"], row["form"], row["method"]) for row in rows] == [
        ("teacher", "onnx", ""), ("teacher", "int8", ""), ("student", "onnx", "kd"), ("student", "int8", "kd"),
    ]  # fmt: skip
    for row, (_, _, entry) in zip(rows, found.served, strict=True):
        assert float(row["score"]) == pytest.approx(entry.score, abs=5e-7) and float(row["ms"]) > 0
    page = (folder / "out" / "compare.html").read_text()
    assert all(f">{name}</th>" in page for name in names)
    show("compare", found, False)
    said = " ".join(capsys.readouterr().out.split())
    assert f"teacher {found.served[1].entry.score:.3f} in " in said and "; kd " in said


def test_a_weak_teacher_is_found_before_the_first_cell(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its answers to the whole evaluation set, in one line with a remedy that works; nothing is written."""

    def begun(*args: Any) -> Any:
        raise Killed

    monkeypatch.setattr(comparing, "_carried_out", begun)
    weak = given(teacher_folder, teacher=teacher_folder / "random", store=False)
    line = r"^train: the teacher '.*random' scores accuracy 0\.\d+ on dev, no better than a constant answer .*; fine-tune it"
    with pytest.raises(TutelageError, match=line) as error:
        api.compare(out=tmp_path / "out", **weak)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    remedy = yaml_value(str(error.value).rpartition("allow_weak_teacher=")[2])
    with pytest.raises(Killed):
        api.compare(out=tmp_path / "out", **weak | {"settings": {**SHORT, "allow_weak_teacher": remedy}})


def test_ray_gives_the_same_scores(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell is a process of a local Ray; the scores are those of cells that ran here."""
    pytest.importorskip("ray")
    _, here, _ = finished
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    monkeypatch.chdir(tmp_path)  # a worker has another working directory
    found = api.compare(out="out", launcher="ray", **given(teacher_folder))
    assert {cell.method: cell.score for cell in found.cells} == {cell.method: cell.score for cell in here.cells}


def test_ray_says_what_it_needs(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    with pytest.raises(TutelageError, match="in memory, which other processes do not have; give its file"):
        api.compare(out=tmp_path / "out", launcher="ray", plugins=[contrasts], **given(teacher_folder))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TutelageError, match=re.escape('pip install "tutelage[ray]"')):
        api.compare(out=tmp_path / "out", launcher="ray", **given(teacher_folder))


def test_a_run_keeps_what_its_models_predict(finished) -> None:
    """Of each model a row for each example, from which its score comes out again."""
    folder, found, _ = finished
    for cell in found.cells:
        report = load_report(folder / "out" / cell.folder)
        with safe_open(folder / "out" / cell.folder / PREDICTIONS, "np") as file:
            about = file.metadata()
            assert sorted(file.keys()) == ["baseline", "student", "teacher"]
            for who in file.keys():  # noqa: SIM118
                table = file.get_tensor(who)
                assert table.shape == (100, 2)
                assert kind_of(about["kind"]).pooled(about["metric"], table) == pytest.approx(
                    getattr(report, who).score
                )
        assert (about["part"], about["metric"]) == ("dev", "accuracy")


def pretend(finished: tuple[Path, CompareReport, list[str]], fails: str = "nothing"):
    """A run that takes no time: what a finished one wrote, with a score that depends on method and seed."""
    folder, found, _ = finished
    source = folder / "out" / found.cells[0].folder

    def run(config: RunConfig, **how: Any) -> None:
        place = Path(str(config.out))
        if fails in place.name:
            raise RuntimeError("out of memory\nmore of it")
        tree = json.loads((source / "report.json").read_text()) | {"seed": config.seed}
        generator = np.random.default_rng([config.seed, len(config.recipe.method)])
        with safe_open(source / PREDICTIONS, "np") as file:
            about, tables = file.metadata(), {who: file.get_tensor(who) for who in file.keys()}  # noqa: SIM118
        for who, share in (("student", 0.1), ("baseline", 0.4), ("teacher", 0.0)):
            labels = tables[who][:, 1]
            wrong = generator.random(100) < share
            tables[who] = np.stack([np.where(wrong, 1 - labels, labels), labels], axis=1)
            tree[who]["score"] = float((~wrong).mean())
        (place / PREDICTIONS).parent.mkdir(parents=True)
        save_file(tables, place / PREDICTIONS, about)
        seal(place / PREDICTIONS)
        (place / "report.json").write_text(json.dumps(tree))

    return run


def test_a_cell_that_fails_is_recorded_and_tried_again(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line, with two students after one option: the others go on, and the exit code says so."""
    monkeypatch.setattr(launch, "run", pretend(finished, fails="logits_mse-layers=2-seed1"))
    words = ["compare", "--teacher", teacher_folder / "teacher", "--train", teacher_folder / "train.csv"]
    words += ["--dev", teacher_folder / "dev.csv", "--methods", "kd,logits_mse", "--students", "layers=1", "layers=2"]
    words += ["--seeds", "2", "--out", tmp_path / "out"]
    code, shown, _ = invoke(*words)
    assert code == 1 and "FAILED: logits_mse with layers=2 on train, seed 1: RuntimeError: out of memory" in shown
    found = CompareReport.model_validate_json((tmp_path / "out" / "compare.json").read_text())
    assert [cell.error is not None for cell in found.cells] == [False] * 7 + [True]
    assert [cell.seed for cell in found.cells] == [0] * 4 + [1] * 4  # seeds are the outer loop
    assert "1 of 8 cells failed" in found.notes[0] and "not all arms have the same seeds" in " ".join(found.notes)
    (trace,) = (tmp_path / "out" / "errors").iterdir()
    assert "RuntimeError: out of memory" in trace.read_text()
    assert {one.seeds for one in found.contrasts if one.student == "layers=2" and one.arm == "logits_mse"} == {1}
    monkeypatch.setattr(launch, "run", pretend(finished))
    # The same cells from a plan, with one option beside it: only the failed one is run.
    tree = plan(teacher_folder, methods=["kd", "logits_mse"], students=["layers=1", "layers=2"], seeds=7)
    (tmp_path / "plan.yaml").write_text(json.dumps(tree))
    code, out, error = invoke("compare", tmp_path / "plan.yaml", "--seeds", "2", "--out", tmp_path / "out", "--json")
    assert code == 0 and not error and not list((tmp_path / "out" / "errors").iterdir())
    assert len(json.loads(out)["arms"]) == 8 and not json.loads(out)["notes"]
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 8


def test_a_cell_is_known_by_contents(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path with another file is another cell; another path with the same file is not, nor is another store."""
    carry_out, began = pretend(finished), list[str]()

    def run(config: RunConfig, **how: Any) -> None:
        began.append(str(config.out))
        carry_out(config)

    monkeypatch.setattr(launch, "run", run)

    def runs(root: Path, **more: Any) -> int:
        began.clear()
        api.compare(out=tmp_path / "out", **given(root, methods=["kd"], **more))
        return len(began)

    first, second = tmp_path / "first", tmp_path / "second"
    for name in ("teacher", "train.csv", "dev.csv"):
        copy = shutil.copytree if name == "teacher" else shutil.copy
        first.mkdir(exist_ok=True)
        copy(teacher_folder / name, first / name)
    assert runs(first) == 1 and runs(first) == 0
    assert runs(first, store=False) == 0
    shutil.copytree(first, second)
    assert runs(second) == 0
    for part, seed in (("train", 8), ("dev", 9)):
        write_csv(second / f"{part}.csv", 100, seed)
        assert runs(second) == 1 and runs(second) == 0
    (second / "teacher" / "README.md").write_text("Nothing that a run reads.")
    assert runs(second) == 0
    weights = load_file(second / "teacher" / "model.safetensors")
    save_file(
        weights | {"classifier.bias": weights["classifier.bias"] + 1},
        second / "teacher" / "model.safetensors",
        {"format": "pt"},
    )
    assert runs(second) == 1
    shutil.copytree(second / "teacher", tmp_path / "student")
    assert runs(second, students=[str(tmp_path / "student")]) == 1
    (tmp_path / "student" / "model.safetensors").write_bytes((first / "teacher" / "model.safetensors").read_bytes())
    assert runs(second, students=[str(tmp_path / "student")]) == 1


def test_a_stopped_cell_goes_on_with_moved_files(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run refuses a folder with other settings, and paths are settings; the cell's key says that it is the same run."""
    begun = launch.run

    def stopped(config: RunConfig, **how: Any) -> None:
        place = Path(str(config.out))
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(to_yaml(config))
        raise Killed

    monkeypatch.setattr(launch, "run", stopped)
    with pytest.raises(Killed):
        api.compare(out=tmp_path / "out", **given(teacher_folder, methods=["kd"], store=False))
    (tmp_path / "moved").mkdir()
    shutil.copy(teacher_folder / "train.csv", tmp_path / "moved")
    monkeypatch.setattr(launch, "run", begun)
    moved = given(teacher_folder, methods=["kd"], store=False, train=str(tmp_path / "moved" / "train.csv"))
    found = api.compare(out=tmp_path / "out", **moved)
    assert found.passed and len(found.cells) == len(list((tmp_path / "out" / "cells").iterdir())) == 1


# --------------------------------------------------------------------------------------------------- what it refuses


def plan(root: Path, **more: Any) -> dict[str, Any]:
    data = {"train": str(root / "train.csv"), "dev": str(root / "dev.csv")}
    return {"tasks": [{"teacher": str(root / "teacher"), "data": data}], "methods": ["kd", "pkd"], **more}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"methods": ["kd", {"method": "kd", "name": "b", "settings": {"data.metric": "f1"}}]},
            r"do not share data.metric \(kd has None, b has 'f1'\)",
        ),
        (
            {"methods": ["kd", {"method": "kd", "name": "b", "settings": {"data.dev": "test.csv"}}]},
            "do not share data.dev .*make two tasks of it",
        ),
        ({"methods": ["kd", "kd"]}, "two of the methods are 'kd'; give one of them another name"),
        ({"methods": ["kd", "pkdd"]}, "there is no method 'pkdd'; did you mean 'pkd'"),
        ({"methods": ["skdbert"]}, "'skdbert' learns from several teachers"),
        ({"methods": []}, "there are no methods to compare"),
        ({"tasks": []}, "there is nothing to compare on"),
        ({"against": "compact"}, "'compact' is none of the methods kd, pkd"),
        ({"seeds": 0}, "plan.yaml: seeds"),
        ({"stepz": 3}, "plan.yaml: stepz: there is no such field"),
        ({"tasks": [], "task": "sst2"}, "plan.yaml: task: there is no such field; a plan has tasks, methods"),
        (
            {"settings": {"stages.*.last_token.layers": [1]}},
            "settings stages.*.last_token.layers: there is no such setting",
        ),
        (
            {"methods": ["pkd", {"method": "kd", "settings": {"stages.*.first_token.layers": [1]}}]},
            "settings stages.*.first_token.layers: there is no such setting",
        ),
        ({"steps": 1, "methods": ["tinybert"]}, "steps 1 is fewer than the 2 stages"),
        ({"students": ["layers=x"]}, "student 'layers=x'"),
        (
            {"students": ["layers=1", "layers=9"]},
            r"^train, kd, layers=9 and train, pkd, layers=9: 9 layers cannot be copied: the teacher has 4",
        ),
        ({"students": ["layers=1"]}, "^train, pkd, layers=1: [^;]+;"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(
    more: dict[str, Any], words: str, teacher_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(plan(teacher_folder, **more)))
    with pytest.raises(TutelageError, match=words) as error:
        api.compare(path, out=tmp_path / "out", quiet=True)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_setting_is_for_the_methods_that_have_it(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remedy of a cell that cannot be run names a term that other methods lack."""
    configs: dict[str, RunConfig] = {}
    pretended = pretend(finished)

    def run(config: RunConfig, **how: Any) -> None:
        configs[config.recipe.method] = config
        pretended(config, **how)

    monkeypatch.setattr(launch, "run", run)
    settings = {"stages.*.first_token.layers": [1], **SHORT}
    common = given(teacher_folder, methods=["kd,pkd"], settings=settings, store=False, quiet=False)
    found = api.compare(out=tmp_path / "out", **common)
    terms = {name: {term.kind: term for term in config.recipe.stages[0].objective} for name, config in configs.items()}
    assert terms["pkd"]["first_token"].layers == [1] and "first_token" not in terms["kd"]
    assert {config.recipe.stages[0].lr for config in configs.values()} == {1e-3}
    note = "The setting stages.*.first_token.layers does not exist in kd, and is left out there."
    assert found.notes[0] == note and note in " ".join(capsys.readouterr().err.split())
    assert not any("lr" in line for line in found.notes)


def test_one_impossible_cell_is_named_and_recorded(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student of one layer has none for pkd; both are possible elsewhere, so the grid is no mistake."""
    carry_out, pretended, texts = launch.run, pretend(finished), list[int]()
    sketched = comparing.TaskRun

    def run(config: RunConfig, **how: Any) -> None:
        (carry_out if "pkd-layers=1" in str(config.out) else pretended)(config, **how)

    def task_run(*given: Any, **how: Any) -> Any:
        texts.append(len(how["read"](given[1].data).train))
        return sketched(*given, **how)

    monkeypatch.setattr(launch, "run", run)
    monkeypatch.setattr(comparing, "TaskRun", task_run)
    monkeypatch.setattr(comparing, "CHECKED", 20)
    grid = given(teacher_folder, methods="kd,pkd", students=["layers=1", "layers=2"], quiet=False)
    found = api.compare(out=tmp_path / "out", **grid)
    assert [(one.method, one.student) for one in found.cells if one.error] == [("pkd", "layers=1")]
    (reason,) = (one.error for one in found.cells if one.error)
    told = capsys.readouterr().err
    assert f"train, pkd, layers=1: cannot be run and will be recorded as failed: {reason}" in told
    # Few texts show it, and whether the teacher is weak; what they refuse, all have to.
    assert sorted(texts)[:5] == [texts[0]] * 5 and texts[0] < 24
    assert sorted(texts)[5:] == [64]
    texts.clear()
    api.compare(out=tmp_path / "out", **grid)
    assert len(texts) == 2  # what has begun has been checked


def test_the_plan_of_the_guide_is_one() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "compare.md").read_text(encoding="utf-8")
    found = plan_of(yaml_value(guide.partition("```yaml")[2].partition("```")[0]), {})
    found.check()
    assert [task.called for task in found.tasks] == ["mrpc", "intents"] and found.seeds == (0, 1, 2)
    assert [method.called for method in found.methods] == ["kd", "compact", "kd, T=4"]
    assert [task.students for task in found.tasks] == [(), ("layers=2",)]
    for task in found.tasks:
        runs = comparing._configs(found, task, lambda method, *_: api.recipe(method.method).recipe)
        assert {name: run.recipe.stages[0].batch_size for (_, name, _), run in runs.items()} == dict.fromkeys(
            ("kd", "compact", "kd, T=4"), 32
        )


def test_a_plan_and_a_folder_that_do_not_fit(teacher_folder: Path, tmp_path: Path) -> None:
    tree = plan(teacher_folder)
    with pytest.raises(TutelageError, match="two of the tasks are 'train'; give one of them another name"):
        api.compare({**tree, "tasks": tree["tasks"] * 2}, out=tmp_path / "out")
    with pytest.raises(TutelageError, match="leave out teacher and the options of data"):
        api.compare(tree, out=tmp_path / "out", teacher=teacher_folder / "teacher")
    with pytest.raises(TutelageError, match="there is no teacher; give teacher FOLDER, or name"):
        api.compare(out=tmp_path / "out", methods=["kd"], train="a.csv")
    with pytest.raises(TutelageError, match=r"there is no file 'none.yaml'; docs/guides/compare.md shows one"):
        api.compare("none.yaml", out=tmp_path / "out")
    (tmp_path / "few.csv").write_text("".join((teacher_folder / "dev.csv").read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(TutelageError, match="has 3 examples, on which no difference can be shown; give at least 4"):
        api.compare(out=tmp_path / "out", **given(teacher_folder, dev=str(tmp_path / "few.csv")))
    (tmp_path / "few.csv").unlink()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(TutelageError, match="is not empty and holds no comparison"):
        api.compare(tree, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_cells_of_changed_data_are_not_compared(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stores: Path
) -> None:
    """The evaluation file is another one since the first seed: the fingerprints of the examples differ."""
    shutil.copytree(finished[0] / "out", tmp_path / "out")
    run, different = pretend(finished), dict[str, str]()

    def changed(config: RunConfig, **how: Any) -> None:
        run(config)
        path = Path(str(config.out)) / PREDICTIONS
        with safe_open(path, "np") as file:
            about, tables = file.metadata(), {who: file.get_tensor(who) for who in file.keys()}  # noqa: SIM118
        save_file(tables, path, about | different)
        seal(path)

    monkeypatch.setattr(launch, "run", changed)
    for name, words in (("examples", "examples; the data"), ("metric", "metrics: accuracy and another")):
        different = {name: "another"}
        with pytest.raises(TutelageError, match=f"were scored on different {words}") as error:
            api.compare(out=tmp_path / "out", **given(teacher_folder, served=True, seeds=2))
        assert "\n" not in str(error.value)
        for path in (tmp_path / "out" / "cells").glob("*-seed1-*"):
            shutil.rmtree(path)
    (tmp_path / "out" / finished[1].cells[0].folder / PREDICTIONS).unlink()
    found = api.compare(out=tmp_path / "out", **given(teacher_folder, served=True))
    assert not found.passed and "remove the folder, and the cell is run again" in str(found.cells[0].error)
    assert [cell.error is None for cell in found.cells] == [False, True]


def test_a_method_without_a_teacher_is_the_undistilled_student(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever method the others are compared with, headline and arms say which student was not distilled."""
    run = pretend(finished)

    def alone(config: RunConfig, **how: Any) -> None:
        run(config)
        path = Path(str(config.out)) / PREDICTIONS
        with safe_open(path, "np") as file:
            about, tables = file.metadata(), {who: file.get_tensor(who) for who in file.keys()}  # noqa: SIM118
        del tables["baseline"]
        save_file(tables, path, about)
        seal(path)

    monkeypatch.setattr(launch, "run", alone)
    options = given(teacher_folder, methods="kd,logits_mse,finetune", baseline=False, seeds=2)
    for against, more in (("kd", ["logits_mse"]), ("finetune", [])):
        found = api.compare(out=tmp_path / against, **options, against=against)
        assert [(arm.name, arm.distilled) for arm in found.arms] == [
            ("kd", True), ("logits_mse", True), ("finetune, not distilled", False),
        ]  # fmt: skip
        twins = [(one.arm, one.against) for one in found.contrasts if one.of_distillation]
        assert twins == [("kd", "finetune"), ("logits_mse", "finetune")]
        assert [one.arm for one in found.contrasts if not one.of_distillation] == more
        assert re.search(
            r" in \d of 2 comparisons with the same student trained without it", compared_tables.summary(found)
        )
        assert "finetune, not distilled" in compared_page.page(found) + compared_tables.latex(found)
    undistilled = found.arms[2].model_copy(update={"mean": 0.99})
    first, second = compared_tables.best_lines(found.model_copy(update={"arms": [*found.arms[:2], undistilled]}))
    assert first.startswith("Highest on train: finetune, not distilled, accuracy 0.990")
    assert second.startswith("Highest with distillation on train: ") and "not distilled" not in second
    # A new network is not the undistilled student of one that is made of the teacher's layers.
    own = api.compare(out=tmp_path / "own", **options | {"students": [], "methods": "fitnets,finetune"})
    assert own.contrasts and not any(one.of_distillation for one in own.contrasts)
    assert compared_tables.summary(own).startswith("No student was trained both with and without distillation")
    labels = own.model_copy(update={"arms": [arm for arm in own.arms if not arm.distilled], "contrasts": []})
    assert compared_tables.summary(labels).startswith("No student was distilled")


def test_examples_have_another_fingerprint_in_another_file(
    finished, teacher_folder: Path, tmp_path: Path, stores
) -> None:
    """A real run on other evaluation texts, and the fingerprint of the same texts does not depend on the model."""
    write_csv(tmp_path / "dev.csv", 100, 3)
    options = given(teacher_folder, methods=["kd"], dev=str(tmp_path / "dev.csv"))
    other = api.compare(out=tmp_path / "out", **options, baseline=False, store=False)
    assert not stores.exists()
    paths = [finished[0] / "out" / cell.folder for cell in finished[1].cells] + [
        tmp_path / "out" / other.cells[0].folder
    ]
    prints = []
    for path in paths:
        with safe_open(path / PREDICTIONS, "np") as file:
            prints.append(file.metadata()["examples"])
    assert prints[0] == prints[1] != prints[2]
    assert [arm.name for arm in other.arms] == ["kd"] and not other.contrasts


def test_equal_steps_are_divided_as_recipes_plan(teacher_folder: Path) -> None:
    """All cells get as many steps as the longest recipe plans; its stages keep their proportion; 0 is no share."""
    for steps, planned, wanted in ((100, [30, 10], [75, 25]), (3, [1000, 1, 1], [1, 1, 1]), (7, [1, 1000], [1, 6])):
        recipe = api.recipe("minilmv2" if len(planned) == 2 else "kd").recipe
        stage = recipe.stages[0]
        stages = [stage.model_copy(update={"name": str(place)}) for place in range(len(planned))]
        config = RunConfig(recipe=recipe.model_copy(update={"stages": stages}), out="x")
        found = comparing.with_steps(config, steps, planned).recipe.stages
        assert [one.max_steps for one in found] == wanted and {one.patience for one in found} == {None}
    data = {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv"), "holdout": 0.1}
    tree = plan(teacher_folder, methods=["kd", {"method": "pkd", "settings": {"stages.*.epochs": 9}}], seeds=1)
    tree["tasks"][0]["data"] = data
    checked = plan_of(tree, {})
    grounds, queue, _ = comparing._queue(
        checked, Path("out"), lambda method, student, task: METHODS[method.method](), load_data
    )
    # 360 texts in train are 12 batches of 32; 9 epochs
    assert [ground.steps for ground in grounds] == [108]
    assert [sum(stage.max_steps or 0 for stage in cell.config.recipe.stages) for cell in queue] == [108, 108]
    own = checked.model_copy(update={"steps": "recipe"})
    grounds, queue, _ = comparing._queue(
        own, Path("out"), lambda method, student, task: METHODS[method.method](), load_data
    )
    assert grounds[0].steps is None and [cell.config.recipe.stages[0].epochs for cell in queue] == [3, 9]


def test_equal_operations_are_those_of_the_most_expensive_recipe(teacher_folder: Path, tmp_path: Path) -> None:
    """A student of a third of the layers, and one that learns in smaller batches, are given more steps."""
    smaller = {"method": "kd", "name": "smaller batches", "settings": {"stages.*.batch_size": 8, "stages.*.epochs": 1}}
    tree = plan(teacher_folder, methods=["kd", smaller], students=["layers=1", "layers=3"], seeds=1, steps="flops")

    (ground,), queue, refusals = comparing._queue(plan_of(tree, {}), Path("out"), recipe_of, load_data)
    assert list(refusals.values()) == [None] * 4
    assert ground.steps is None and ground.flops is not None
    steps = {(cell.method, cell.student): cell.config.recipe.stages[0].max_steps for cell in queue}
    # 12 batches of 32 in 3 epochs
    assert steps["kd", "layers=3"] == 36 and steps["smaller batches", "layers=3"] == 4 * 36
    assert 2.5 < steps["kd", "layers=1"] / 36 < 3.1
    for cell in queue:
        sketch = comparing._sketch(cell.config, comparing._few(load_data))
        (one,) = sketch.plans
        assert steps[cell.method, cell.student] * one.stage.batch_size * one.flops == pytest.approx(
            ground.flops, rel=0.01
        )


def test_equal_operations_need_one_look_at_each_cell(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts the operations also says whether the cell can be run."""
    sketched, looks = comparing.TaskRun, list[Any]()

    def task_run(*given: Any, **how: Any) -> Any:
        looks.append(given[1].recipe.method)
        return sketched(*given, **how)

    monkeypatch.setattr(comparing, "TaskRun", task_run)
    monkeypatch.setattr(launch, "run", pretend(finished, fails="pkd"))
    grid = given(teacher_folder, methods="kd,pkd", students=["layers=1", "layers=2"], steps="flops")
    found = api.compare(out=tmp_path / "out", **grid)
    assert [(one.method, one.student) for one in found.cells if one.error] == [("pkd", "layers=1"), ("pkd", "layers=2")]
    assert sorted(looks) == [
        "kd",
        "kd",
        "kd",
        "pkd",
        "pkd",
        "pkd",
    ]  # one more for the teacher, and for what few texts refuse


def recipe_of(method: ComparedMethod, student: str, task: str | None) -> Recipe:
    recipe = METHODS[method.method]()
    return recipe.model_copy(update={"student": parse(student, recipe.student)})


# ------------------------------------------------------------------------------------ students of a task, parts left out


def test_a_task_has_students_of_its_own(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells have these in place of the plan's, in the report and in all that is made of it."""
    monkeypatch.setattr(launch, "run", pretend(finished))
    tree = plan(teacher_folder, methods=["kd", "logits_mse"], students=["layers=1", "layers=2"], seeds=1, steps=3)
    tree["tasks"].append({**tree["tasks"][0], "name": "other", "students": ["layers=3"]})
    found = api.compare(tree, out=tmp_path / "out", quiet=True)
    wanted = {"train": ["layers=1", "layers=2"], "other": ["layers=3"]}
    pairs = [(task, student) for task, students in wanted.items() for student in students for _ in range(4)]
    assert sorted((arm.task, arm.student) for arm in found.arms) == sorted(pairs)
    assert len(found.cells) == 6 and {(one.task, one.student) for one in found.contrasts} == set(pairs)
    table = [line for line in compared_tables.latex(found).splitlines() if " & " in line]
    (own,) = (line for line in table if line.startswith("layers=3 & kd &"))
    assert own.split(" & ")[2] == "--" and sum(line.endswith(r"& -- \\") for line in table) == 8
    rows = list(csv.DictReader(io.StringIO(compared_tables.arms_csv(found))))[2:]
    assert {(row["task"], row["student"]) for row in rows} == set(pairs)
    page = compared_page.page(found)
    assert (
        'data-task="other" data-student="layers=3"' in page and 'data-task="other" data-student="layers=1"' not in page
    )
    tree["tasks"][1]["students"] *= 2
    with pytest.raises(TutelageError, match="two of the students are 'layers=3'; leave one out"):
        api.compare(tree, out=tmp_path / "out", quiet=True)


def test_a_method_is_compared_with_itself_without_a_part(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name and by fields; a part that the method does not have is refused."""
    monkeypatch.setattr(launch, "run", pretend(finished))
    one = {"method": "pea_kd", "ablation": "no_sps,no_ptp", "name": "neither"}
    tree = plan(teacher_folder, methods=["pea_kd", "pea_kd:no_ptp", one], seeds=1)
    _, queue, _ = comparing._queue(plan_of(tree, {}), tmp_path, compared_recipe, load_data)
    assert [cell.method for cell in queue] == ["pea_kd", "pea_kd:no_ptp", "neither"]
    assert [len(cell.config.recipe.stages) for cell in queue] == [2, 1, 1]
    assert len({cell.key for cell in queue}) == 3
    with pytest.raises(TutelageError, match="'kd' has no ablation 'no_da'"):
        api.compare(out=tmp_path / "out", **given(teacher_folder, methods="kd,kd:no_da"))


def compared_recipe(method: ComparedMethod, student: str, task: str | None) -> Recipe:
    return method_recipe(method.method, task, method.ablation).part("task")


# -------------------------------------------------------------------------------------------------------- statistics


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """Slow oracle: a hypothesis is rejected if Bonferroni rejects every set of hypotheses that has it."""
    generator = np.random.default_rng(0)
    for size in (0, 1, 2, 5):
        p = list(generator.random(size) ** 3)
        if size == 5:
            p[3] = p[1]
        sets = [s for count in range(1, size + 1) for s in itertools.combinations(range(size), count)]
        wanted = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(size)]
        assert holm(p) == pytest.approx(wanted)


def test_resampled_differences_are_paired() -> None:
    """Each resample has the same examples on both sides: loops over the same draws give the same numbers."""
    generator = np.random.default_rng(3)
    ours, theirs = generator.random(30), generator.random(30)
    draws: list[list[int]] = []

    def noting(rows: Any) -> float:
        draws.append(list(rows))
        return float(ours[rows].mean())

    first = resampled(noting, 30, resamples=250, seed=1)
    second = resampled(lambda rows: theirs[rows].mean(), 30, resamples=250, seed=1)
    assert len(draws) == 250 and len({tuple(one) for one in draws}) == 250
    slow = [sum(ours[row] - theirs[row] for row in rows) / 30 for rows in draws]
    assert first - second == pytest.approx(slow)
    ordered = sorted(slow)
    low, high = percentiles(first - second)
    assert ordered[5] <= low <= ordered[7] and ordered[242] <= high <= ordered[244]
    below, above = sum(one <= 0 for one in slow), sum(one >= 0 for one in slow)
    assert p_of_resamples(first - second) == pytest.approx(min(1, 2 * (min(below, above) + 1) / 251))
    assert p_of_resamples(np.zeros(9)) == 1 and p_of_resamples(np.ones(99)) == pytest.approx(0.02)
    same = paired_difference(noting, noting, 30)
    assert same == (0, 0, 0)


def test_seeds_are_compared_by_the_paired_t_test() -> None:
    generator = np.random.default_rng(2)
    ours, theirs = generator.normal(0.8, 0.02, (2, 5))
    assert p_of_seeds(ours - theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert p_of_seeds([0.1]) is None and p_of_seeds([0.0, 0.0]) == 1
    # Of equal differences: the share of all 2^n choices of signs whose mean is as far from 0.
    equal = [0.9 - 0.8, 0.85 - 0.75, 0.7 - 0.6]
    means = [np.mean(np.multiply(signs, equal)) for signs in itertools.product((-1, 1), repeat=3)]
    assert p_of_seeds(equal) == np.mean(np.abs(means) >= np.mean(equal) - 1e-12) == 0.25


def test_conclusions_are_those_of_slow_oracles(
    finished, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds of made-up predictions: means, intervals, differences and p-values, all computed again in other ways."""
    monkeypatch.setattr(launch, "run", pretend(finished))
    monkeypatch.setattr(contrasts, "RESAMPLES", 1000)
    found = api.compare(out=tmp_path / "out", **given(teacher_folder, seeds=3))
    tables: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for cell in found.cells:
        with safe_open(tmp_path / "out" / cell.folder / PREDICTIONS, "np") as file:
            for who in ("student", "baseline"):
                right = file.get_tensor(who)[:, 0] == file.get_tensor(who)[:, 1]
                tables.setdefault((cell.method, cell.student, who), []).append(right)
    for arm in found.arms:
        values = [right.mean() for right in tables[arm.method, arm.student, "student" if arm.distilled else "baseline"]]
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert arm.half is not None and arm.to_teacher is not None
        assert (arm.mean - arm.half, arm.mean + arm.half) == pytest.approx((low, high))
        assert arm.to_teacher.value == pytest.approx(arm.mean - 1) and arm.to_teacher.high < 0
    assert len(found.contrasts) == 3 and found.tasks[0].resamples == 1000
    for one in found.contrasts:
        ours = tables[one.arm, one.student, "student"]
        theirs = tables[one.against or one.arm, one.student, "student" if one.against else "baseline"]
        each = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
        test = stats.ttest_rel([right.mean() for right in ours], [right.mean() for right in theirs])
        interval = test.confidence_interval(0.95)
        assert one.examples.value == pytest.approx(each.mean()) and one.p_seeds == pytest.approx(test.pvalue)
        assert one.half == pytest.approx((interval.high - interval.low) / 2)
        error = each.std() / 10  # of the mean of 100 examples; percentiles of 1,000 resamples scatter
        assert (one.examples.low, one.examples.high) == pytest.approx(
            (each.mean() - 1.96 * error, each.mean() + 1.96 * error), abs=0.3 * error
        )
        if not one.against:
            assert one.holm_examples < 0.05 and one.verdict in ("better", "better for these seeds")
    for name in ("examples", "seeds"):
        p = [getattr(one, f"p_{name}") for one in found.contrasts]
        assert [getattr(one, f"holm_{name}") for one in found.contrasts] == pytest.approx(holm(p))


# --------------------------------------------------------------------------------------------------- what is written

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def report() -> CompareReport:
    """Two tasks, made-up scores, names that are markup."""
    tasks = [
        ComparedTask(
            name=name, kind="classification", metric="f1", part="dev", source=f"{EVIL}.csv", examples=408, steps=1200,
            teacher="t&t", teacher_score=0.905, teacher_parameters=109_483_778, resamples=2000,
        )
        for name in ("mrpc_1", EVIL)
    ]  # fmt: skip
    arms = [
        ComparedArm(
            task=task.name, method=method, student=student, distilled=distilled, scores={0: mean, 1: mean + 0.01},
            mean=mean, half=half, to_teacher=Difference(value=mean - 0.905, low=mean - 0.93, high=mean - 0.88),
            parameters=14_350_000, flops=10**9, latency_ms=5.04, steps=1200,
        )
        for task in tasks
        for student in ("layers=4,hidden=312", "50% & ${x}_~^\\")
        for method, distilled, mean, half in (
            ("kd", True, 0.8835, 0.01049), ("kd", False, 0.86, None), ("pkd", True, 0.87449, 0.0105),
        )
    ]  # fmt: skip
    contrasts = [
        Contrast(
            task=arm.task, student=arm.student, arm=arm.method, against="", of_distillation=True, seeds=2, half=0.004,
            p_examples=0.0005, examples=Difference(value=0.0234567, low=0.01, high=0.03), p_seeds=p,
            holm_examples=0.002, holm_seeds=p,
        )
        for arm in arms
        for p in [0.01 if arm.method == "kd" else 0.2]
        if arm.distilled
    ]  # fmt: skip
    cells = [
        QueueEntry(
            task=EVIL, method="kd", student="", seed=0, key="0" * 16, folder="cells/a", error=error, score=None,
            baseline=None, steps=None, seconds=None,
        )
        for error in (None, f"no {EVIL}")
    ]  # fmt: skip
    return CompareReport(
        tutelage="0", out="out", seeds=[0, 1], against="kd", tasks=tasks, arms=arms, contrasts=contrasts, cells=cells,
        environment={"device": EVIL}, notes=[EVIL],
    )  # fmt: skip


def test_the_page_shows_names_as_text_and_needs_nothing_else(report: CompareReport) -> None:
    page = compared_page.page(report)
    assert page.count("<script>") == 1 and "alert(&#39;x&#39;)" in page and f'data-task="{EVIL}' not in page
    assert not re.search(r"(src|href)=|@import|url\(|https?:", page)
    assert "0.884 ± 0.010" in page and "+0.023 (+0.010 to +0.030)" in page and "failed: no &lt;script&gt;" in page
    body = page.partition("<tbody")[2]
    assert body.count('class="chart"') == len(report.arms) + len(report.contrasts)
    places = [float(found) for found in re.findall(r"(?:left|width):([\d.]+)%", body)]
    assert places and all(0 <= place <= 100 for place in places)
    worse = report.contrasts[0].model_copy(update={"examples": Difference(value=-0.1, low=-0.2, high=0.0)})
    mixed = compared_page.page(report.model_copy(update={"contrasts": [worse, *report.contrasts[1:]]}))
    rest = "; better for these seeds in 4."
    assert f"help in 4 of 8 comparisons with the same student trained without it{rest}" in page
    assert "help in 3 of 8 comparisons" in mixed and f"without it, and to harm in 1{rest}" in mixed
    empty = report.model_copy(update={"arms": [], "contrasts": [], "notes": []})
    assert "No cell is finished." in compared_page.page(empty)


@pytest.mark.parametrize(
    ("seeds", "half", "p", "verdict"),
    [
        (1, None, None, "better (one seed)"),
        (3, 0.0, 0.25, "better (seeds do not differ)"),
        (8, 0.0, 0.008, "better"),
        (3, 0.01, 0.25, "better for these seeds"),
    ],
)
def test_one_seed_and_equal_seeds_have_verdicts_of_their_own(
    seeds: int, half: float | None, p: float | None, verdict: str, report: CompareReport
) -> None:
    given = {"seeds": seeds, "half": half, "p_seeds": p, "holm_seeds": p}
    assert report.contrasts[0].model_copy(update=given).verdict == verdict


def test_equal_differences_stay_in_the_family() -> None:
    """Where they left it, the p-values of the others were adjusted for too few comparisons."""
    gap = Difference(value=0.1, low=0.05, high=0.15)
    ones = [
        Contrast(
            task="t", student="", arm=str(p), against="", of_distillation=True, seeds=2, examples=gap, half=0.01,
            p_examples=0.001, p_seeds=p, holm_examples=0.001, holm_seeds=p,
        )
        for p in (p_of_seeds([0.1, 0.1]), 0.03)
    ]  # fmt: skip
    assert [one.holm_seeds for one in contrasts._adjusted(ones)] == [0.5, 0.06]


def test_the_summary_counts_what_the_table_shows(report: CompareReport) -> None:
    """Over examples alone is not shown: other trainings may turn it round."""
    kd, pkd = report.contrasts[:2]
    worse = Difference(value=-0.02, low=-0.03, high=-0.01)
    ones = [kd, pkd, pkd.model_copy(update={"examples": worse}), kd.model_copy(update={"examples": worse}), pkd]
    of = "5 comparisons with the same student trained without it"
    told = "and to harm in 1; better for these seeds in 2, worse for these seeds in 1."
    changed = report.model_copy(update={"contrasts": ones})
    assert compared_tables.summary(changed) == f"Distillation is shown to help in 1 of {of}, {told}"
    changed = report.model_copy(update={"contrasts": [kd]})
    assert compared_tables.summary(changed).startswith("Distillation is shown to help in 1 of 1 comparisons")


def test_csv_has_every_number(report: CompareReport) -> None:
    rows = list(csv.DictReader(io.StringIO(compared_tables.arms_csv(report))))
    assert len(rows) == 2 + len(report.arms) and rows[0]["method"] == "teacher" and rows[0]["mean"] == "0.905000"
    for row, arm in zip(rows[2:], report.arms, strict=True):
        assert (row["task"], row["student"]) == (arm.task, arm.student)
        assert float(row["mean"]) == pytest.approx(arm.mean, abs=5e-7)
        assert row["half_95"] == ("" if arm.half is None else f"{arm.half:.6f}")
        assert float(row["seed_1"]) == pytest.approx(arm.scores[1], abs=5e-7)
    pairs = list(csv.DictReader(io.StringIO(compared_tables.contrasts_csv(report))))
    assert [row["difference"] for row in pairs] == ["0.023457"] * len(report.contrasts)
    assert {row["verdict"] for row in pairs} == {"better", "better for these seeds"}


def test_latex_rounds_and_escapes(report: CompareReport) -> None:
    lines = compared_tables.latex(report).splitlines()
    first = next(line for line in lines if "kd" in line)
    assert first.startswith(r"layers=4,hidden=312 & kd & $\mathbf{88.4} \pm 1.0$$^{*}$ & $\mathbf{88.4}")
    assert (
        r" & kd, not distilled & $86.0$ & $86.0$ \\" in lines
        and r" & pkd & $87.4 \pm 1.0$ & $87.4 \pm 1.0$ \\" in lines
    )
    assert r"mrpc\_1 (f1)" in lines[3] and lines[1] == r"\begin{tabular}{llrr}"
    assert any(r"50\% \& \$\{x\}\_\textasciitilde{}\textasciicircum{}\textbackslash{} & kd" in line for line in lines)
    assert r"Teacher & & $90.5$ & $90.5$ \\" in lines
    assert all(
        line.count("&") - 2 * line.count(r"\&") == 3 - line.count(r"\&") for line in lines if line.endswith("\\\\")
    )


@pytest.mark.parametrize(
    ("value", "digits", "scale", "sign", "text"),
    [
        (0.8835, 1, 2, False, "88.4"),
        (0.8825, 1, 2, False, "88.2"),
        (0.0005, 3, 0, False, "0.000"),
        (0.0015, 3, 0, True, "+0.002"),
        (-0.0001, 3, 0, True, "+0.000"),
        (-0.02, 3, 0, False, "-0.020"),
        (1e-07, 6, 0, False, "0.000000"),
        (1.0, 1, 2, False, "100.0"),
    ],
)
def test_rounding(value: float, digits: int, scale: int, sign: bool, text: str) -> None:
    assert rounded(value, digits, scale=scale, sign=sign) == text
