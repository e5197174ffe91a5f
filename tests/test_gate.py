"""The release gate: decides by the bound, says why, and its exit code is one that a pipeline can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage import api, cli
from tutelage.errors import TutelageError
from tutelage.report.model import REPORT, ModelEntry, StudentEntry, TaskReport, load_report
from tutelage.report.quality import ClassEntry, ClassScores, Difference
from tutelage.report.served import Served, ServedEntry
from tutelage.run.folder import weights_in
from tutelage.serving.report import REPORT as EXPORT
from tutelage.serving.report import ExportReport, Side
from tutelage.serving.timing import Latency


@pytest.fixture
def run(teacher_folder: Path, tmp_path: Path) -> Path:
    """A run whose student scores 0.88 of 0.9 on 400 texts, -0.04 to 0; class x lost 14 of 100 and won 4."""
    report = load_report(teacher_folder / "teacher")
    assert isinstance(report, TaskReport)
    scores: dict[str, Any] = {
        "name": "t",
        "score": 0.9,
        "scores": {"dev": {"accuracy": 0.9}},
        "parameters": 1,
        "flops": 1,
    }
    teacher = ModelEntry(**scores, latency_ms={"1": 9.0, "32": 90.0}, shape="4 layers")
    student = StudentEntry(
        **{**scores, "score": 0.88, "latency_ms": {"1": 4.5, "32": 40.0}, "shape": "1 layer"},
        bytes=20_000_000,
        agreement=0.95,
        retention=0.88 / 0.9,
        over_teacher=Difference(value=-0.02, low=-0.04, high=0.0),
    )
    same = ClassScores(recall=0.9, f1=0.9)
    classes = [
        ClassEntry(
            name=name,
            support=100,
            student=same,
            teacher=same,
            recall_difference=Difference(value=value, low=value - 0.02, high=value + 0.02),
            lost=lost,
        )
        for name, value, lost in (("y", -0.12, 12), ("x", -0.1, 14), ("z", 0.1, 0))
    ]
    report.data.evaluation = 400
    changed = report.model_copy(update={"teacher": teacher, "student": student, "classes": classes})
    folder = tmp_path / "run"
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_bytes(b"weights")
    (folder / REPORT).write_text(changed.model_dump_json())
    return folder


@pytest.fixture
def served(run: Path) -> Path:
    """An export of the run's student: int8 loses 0.01, at most 0.02; p50 2 ms and p95 3 ms on one thread."""
    time = Latency(batch=1, threads=1, tokens=9, p50_ms=2.0, p95_ms=3.0, spread_ms=0.1, rounds=20)
    many = time.model_copy(update={"batch": 32, "p50_ms": 50.0, "p95_ms": 60.0})
    side = Side(name="pytorch", file="student", bytes=20_000_000, exact=False, latency=[many, time])
    change = Difference(value=-0.01, low=-0.02, high=0.0)
    files = [
        side.model_copy(update={"name": "onnx", "file": "model.onnx", "exact": True}),
        side.model_copy(update={"name": "int8", "file": "model.int8.onnx", "bytes": 5_000_000, "change": change}),
    ]
    report = ExportReport(
        tutelage="0.2.0", model=str(run / "student"), out="served", type="bert", kind="classification", labels=["a", "b"],
        temperature=1.0, opset=20, layers=1, parameters=1, texts=400, source="dev", metric="accuracy", sides=[side, *files],
        notes=[], flags=[], environment={}, weights=weights_in(run / "student"),
    )  # fmt: skip
    folder = run.parent / "served"
    folder.mkdir()
    (folder / EXPORT).write_text(report.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("limits", "passed", "value", "bound"),
    [
        ({"min_retention": 0.95}, True, 0.88 / 0.9, 0.86 / 0.9),
        ({"min_retention": 0.97}, False, 0.88 / 0.9, 0.86 / 0.9),  # which the value alone would pass
        ({"max_class_drop": 0.23}, True, 0.1, 0.2237),  # the exact bound of 14 of 100
        ({"max_class_drop": 0.22}, False, 0.1, 0.2237),
        ({"min_agreement": 0.92}, True, 0.95, 0.9238),  # 380 of 400
        ({"min_agreement": 0.93}, False, 0.95, 0.9238),
        ({"max_latency": 4.5}, True, 4.5, 4.5),
        ({"max_latency": "4.4ms"}, False, 4.5, 4.5),
        ({"max_size": 20}, True, 20, 20),
        ({"max_size": 19.9}, False, 20, 20),
    ],
)
def test_the_bound_decides(limits: dict[str, Any], passed: bool, value: float, bound: float, run: Path) -> None:
    found = api.gate(run, **limits)
    assert found.passed is passed and found.path == str(run / REPORT)
    (one,) = found.conditions
    assert (one.value, one.bound) == (pytest.approx(value), pytest.approx(bound, abs=1e-4))
    assert one.limit == float(str(next(iter(limits.values()))).removesuffix("ms")) and one.passed is passed


@pytest.mark.parametrize(("texts", "bound"), [(4, 1 - 0.6024 / 0.9), (400, 1 - 0.0092 / 0.9)])
def test_models_that_never_differ_show_nothing_of_texts_that_are_not_there(
    texts: int, bound: float, run: Path, served: Path
) -> None:
    """The bootstrap of no difference is 0 to 0, however few the texts are."""
    report = load_report(run)
    assert isinstance(report, TaskReport) and report.teacher is not None
    report.data.evaluation, same = texts, Difference(value=0.0, low=0.0, high=0.0)
    student = report.student.model_copy(update={"score": report.teacher.score, "over_teacher": same})
    (run / REPORT).write_text(report.model_copy(update={"student": student}).model_dump_json())
    (one,) = api.gate(run, min_retention=0.97).conditions
    assert one.bound == pytest.approx(bound, abs=1e-3) and one.passed is (texts == 400)
    export = ExportReport.model_validate_json((served / EXPORT).read_text())
    side = export.sides[-1].model_copy(update={"change": same})
    exported = export.model_copy(update={"texts": texts, "sides": [*export.sides[:-1], side]})
    (served / EXPORT).write_text(exported.model_dump_json())
    (one,) = api.gate(served, min_retention=0.97).conditions
    assert one.bound == pytest.approx(2 * bound - 1, abs=1e-3)  # each step may lose as much


@pytest.mark.parametrize(
    ("limits", "passed", "value", "bound"),
    [
        ({"min_retention": 0.93}, True, 0.87 / 0.9, 0.84 / 0.9),
        ({"min_retention": 0.95}, False, 0.87 / 0.9, 0.84 / 0.9),
        ({"max_latency": 2.1}, True, 2, 2),
        ({"max_latency": 1.9}, False, 2, 2),
        ({"max_size": 5}, True, 5, 5),
    ],
)
def test_an_export_is_judged_by_the_file_that_serves(
    limits: dict[str, Any], passed: bool, value: float, bound: float, served: Path
) -> None:
    for path in (served, served / EXPORT):
        (one,) = api.gate(path, **limits).conditions
        assert (one.passed, one.value, one.bound) == (passed, pytest.approx(value), pytest.approx(bound))
        assert "model.int8.onnx" in one.of


def test_an_export_that_the_run_has_measured_has_that_interval(run: Path, served: Path) -> None:
    """The difference itself, and not the sum of two lower ends, which is further down; other texts are another matter."""
    report, export = load_report(run), ExportReport.model_validate_json((served / EXPORT).read_text())
    assert isinstance(report, TaskReport)
    entries = [
        ServedEntry(
            model=who, form=form, score=score, scores={"accuracy": score}, bytes=1, ms=1.0, spread_ms=0.1, change=None
        )
        for who, form, score in (("student", "int8", 0.87), ("teacher", "onnx", 0.9))
    ]
    over = Difference(value=-0.03, low=-0.05, high=0.01)
    measured = Served(
        part="dev", texts=400, tokens=9, pytorch_ms={}, entries=entries, against_teacher=over, against_int8_teacher=None,
        against_baseline=None, notes=[],
    )  # fmt: skip
    (run / REPORT).write_text(report.model_copy(update={"served": measured}).model_dump_json())
    for score, bound in ((0.87, 0.85), (0.86, 0.84)):
        side = export.sides[-1].model_copy(update={"scores": {"accuracy": score}})
        changed = export.model_copy(update={"sides": [*export.sides[:-1], side]})
        (served / EXPORT).write_text(changed.model_dump_json())
        (one,) = api.gate(served, min_retention=0.9).conditions
        assert (one.value, one.bound) == (pytest.approx(0.87 / 0.9), pytest.approx(bound / 0.9))


def test_a_score_that_compares_with_the_teacher_has_no_retention(run: Path) -> None:
    report = load_report(run)
    (run / REPORT).write_text(
        report.model_copy(update={"kind": "embedding", "metric": "teacher_cosine"}).model_dump_json()
    )
    with pytest.raises(TutelageError, match=r"teacher_cosine 0\.880 compares the student with its teacher already"):
        api.gate(run, min_retention=0.9)


def test_an_export_of_another_model_than_the_runs_is_refused(run: Path, served: Path) -> None:
    (run / "student" / "model.safetensors").write_bytes(b"trained again")
    with pytest.raises(TutelageError, match=r"another model than the one.*repeat the export"):
        api.gate(served, min_retention=0.9)


@pytest.mark.parametrize(("texts", "passed"), [(3, False), (71, False), (72, True)])
def test_a_class_of_few_texts_shows_nothing(texts: int, passed: bool, run: Path) -> None:
    """The models never differ on the class, so every resample of its texts has the difference 0."""
    report = load_report(run)
    assert isinstance(report, TaskReport)
    same = Difference(value=0.0, low=0.0, high=0.0)
    rare = report.classes[2].model_copy(update={"support": texts, "recall_difference": same})
    (run / REPORT).write_text(report.model_copy(update={"classes": [rare]}).model_dump_json())
    (one,) = api.gate(run, max_class_drop=0.05).conditions
    assert one.passed is passed and one.value == 0 and one.bound == pytest.approx(1 - 0.025 ** (1 / texts))
    told = "1 of 1 classes are over the limit, 1 of them with too few texts: a class without any loss needs 72"
    assert (told in one.line) is not passed


def test_a_class_without_texts_fails_by_name(run: Path) -> None:
    """The evaluation set shows nothing of it, and an export would answer with it."""
    report = load_report(run)
    assert isinstance(report, TaskReport)
    unseen = ClassEntry(name="unseen", support=0, student=None, teacher=None, recall_difference=None, lost=0)
    (run / REPORT).write_text(report.model_copy(update={"classes": [*report.classes, unseen]}).model_dump_json())
    (one,) = api.gate(run, max_class_drop=0.5).conditions
    assert (one.passed, one.value, one.bound) == (False, None, 1.0)
    assert one.line == (
        "FAILED: class drop not measured, bound 1.000, limit at most 0.5 (recall of class 'unseen', 0 texts; 1 of 4 classes are "
        "over the limit, 1 of them without texts in the evaluation set ('unseen'): a class without any loss needs 6)"
    )


def test_exit_codes_and_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["gate", str(run / REPORT), "--min-retention", "0.9", "--max-size", "30MB"])  # which ends with 0
    assert capsys.readouterr().out.splitlines() == [
        "passed: retention 0.978, bound 0.956, limit at least 0.9 (accuracy of the student over the teacher's, 400 texts)",
        "passed: size_mb 20.000, bound 20.000, limit at most 30 (the student's weights on disk)",
    ]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["gate", str(run), "--max-class-drop", "0.21", "--min-retention", "0.9"])
    assert stopped.value.code == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("passed: retention")
    assert told[1] == (
        "FAILED: class drop 0.100, bound 0.224, limit at most 0.21 (recall of class 'x', 100 texts; 1 of 3 classes are over "
        "the limit)"
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main(["gate", str(run), "--min-agreement", "0.99", "--json"])
    assert stopped.value.code == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["passed"] is False and tree["conditions"][0]["passed"] is False
    with pytest.raises(SystemExit) as stopped:
        cli.main(["gate", str(run)])
    assert stopped.value.code == 2 and "there is no limit to check; give --min-retention" in capsys.readouterr().err


def test_mistakes_are_one_line(
    run: Path, served: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, path: Path, **limits: Any) -> None:
        with pytest.raises(TutelageError, match=message):
            api.gate(path, **limits)

    refused("holds no report.json and no export.json", tmp_path, max_size=1)
    refused("holds no", tmp_path / "nothing.json", max_size=1)
    refused("min_retention 97 is not a share", run, min_retention=97)
    for file, name in ((run / REPORT, "evaluation set"), (served / EXPORT, "texts that the export was checked on")):
        text = file.read_text()
        file.write_text(text.replace('"low":-0.04,', '"low":null,').replace('"low":-0.02,', '"low":null,'))
        refused(f"{name} has a single example, which has no interval", served, min_retention=0.9)
        file.write_text(text)
    refused("min_agreement 1.5 is not a share", run, min_agreement=1.5)
    refused("max_size 0 is no positive amount; write it as 5MB", run, max_size=0)
    refused("max_class_drop 0 can be shown by no number of texts", run, max_class_drop=0)
    refused("the run has no teacher to compare the student with", teacher_folder / "teacher", min_retention=0.9)
    report = load_report(run)
    assert isinstance(report, TaskReport) and report.teacher is not None
    for message, fields in {"is -0.100, of which no share": {"score": -0.1}, "is of an older version": {}}.items():
        teacher = report.teacher.model_copy(update=fields)
        student = report.student.model_copy(update={"over_teacher": None})
        changed = report.model_copy(update={"teacher": teacher, "student": student})
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / REPORT).write_text(changed.model_dump_json())
        refused(message, tmp_path / "other", min_retention=0.9)
    refused("compares no classes", teacher_folder / "teacher", max_class_drop=0.1)
    refused("counts no texts", teacher_folder / "teacher", min_agreement=0.9)
    refused("check max_class_drop on the run's folder", served, max_class_drop=0.1)
    refused("check min_agreement on the run's folder", served, min_agreement=0.1)
    text = (served / EXPORT).read_text()
    (served / EXPORT).write_text(text.replace('"metric":"accuracy"', '"metric":null'))
    refused("were not scored by accuracy", served, min_retention=0.9)
    (run / REPORT).rename(run / "gone.json")
    refused("lies in the folder of no run", served, min_retention=0.9)
    assert api.gate(served, max_size=9).passed
    (served / EXPORT).write_text("{")
    refused("is not a report of tutelage export", served, max_size=9)
