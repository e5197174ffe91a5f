"""Teacher, student and twin in the forms in which they would be served, in the report of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import tiny_model, write_csv

from tutelage import api
from tutelage.mechanisms.quantization.settings import Quantization
from tutelage.methods import METHODS
from tutelage.report.card import card
from tutelage.report.findings import findings
from tutelage.report.model import TaskReport
from tutelage.report.numbers import bytes_text, milliseconds, score_text
from tutelage.report.page import page, served
from tutelage.report.quality import Difference
from tutelage.report.section import LineChart
from tutelage.run import served as serving_of_a_run


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Any:
    root = tmp_path_factory.mktemp("served")
    tiny_model(layers=2).save_pretrained(root / "teacher")
    tokenizer.save_pretrained(root / "teacher")
    for part, rows, seed in (("train", 60, 1), ("dev", 40, 2)):
        write_csv(root / f"{part}.csv", rows, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving_of_a_run, "missing", list)
        return api.distill(
            str(root / "teacher"), root / "run", method="kd", student="layers=1", train=str(root / "train.csv"),
            dev=str(root / "dev.csv"),
            settings={"stages.distill.epochs": 1}, allow_weak_teacher=True, baseline=False, quiet=True,
        )  # fmt: skip


def test_the_report_has_every_model_in_every_form(result: Any) -> None:
    """KD computes the teacher's predictions once and lets its weights go: they are loaded again."""
    report = TaskReport.model_validate(result.report)
    found = report.served
    assert report.teacher is not None
    assert found is not None and (found.texts, found.part) == (40, "dev")
    assert [(one.model, one.form) for one in found.entries] == [
        (who, form) for who in ("teacher", "student") for form in ("onnx", "int8")
    ]
    for one in found.entries:
        whole = getattr(report, one.model)
        if one.form == "onnx":
            assert one.score == whole.score and one.change is None
        else:
            assert one.change is not None and one.change.low <= one.change.value <= one.change.high
        assert one.ms > 0 and one.bytes > 0
    teacher, student = found.of("teacher", "int8"), found.of("student", "int8")
    assert teacher is not None and student is not None and student.bytes < teacher.bytes
    assert found.against_teacher is not None and found.against_int8_teacher is not None
    assert found.against_teacher.value == pytest.approx(student.score - report.teacher.score)
    assert found.against_int8_teacher.value == pytest.approx(student.score - teacher.score)
    assert set(found.pytorch_ms) == {"teacher", "student"} and found.against_baseline is None


def test_the_student_is_measured_in_the_file_that_it_was_trained_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The teacher is not trained for one."""
    recipe = METHODS["compact_int8"]()
    last = recipe.stages[-1].model_copy(update={"mechanisms": [Quantization(table_bits=4)]})
    made = dict[str, Any]()

    class Enough(Exception):
        """Both files have been made."""

    def quantize(path: Path, out: Path, **how: Any) -> None:
        made[path.stem] = how
        if len(made) == 2:
            raise Enough

    monkeypatch.setattr(serving_of_a_run, "to_onnx", lambda *given, **how: None)
    monkeypatch.setattr(serving_of_a_run, "quantize", quantize)
    config = SimpleNamespace(recipe=recipe.model_copy(update={"stages": [last]}))
    read = SimpleNamespace(data=None, kind=None)
    run: Any = SimpleNamespace(config=config, texts=read)
    sides = {who: (tiny_model(layers=1), None) for who in ("teacher", "student")}
    with pytest.raises(Enough):
        serving_of_a_run._measured(run, "dev", Any, sides, tmp_path)
    assert made == {"teacher": {}, "student": {"table_bits": 4, "weight_bits": 8}}


def test_the_page_and_the_table_show_them(result: Any) -> None:
    report = TaskReport.model_validate(result.report)
    section = served(report)
    assert section is not None and section.table is not None
    assert [row.name for row in section.table.rows][1] == "Teacher, ONNX, int8"
    assert "As they would be served" in page(report)
    (front,) = section.pictures
    assert isinstance(front, LineChart) and [line.name for line in front.lines] == ["Teacher", "Student"]
    assert report.served is not None
    for line, who in zip(front.lines, ("teacher", "student"), strict=True):
        assert sorted(line.points) == sorted((one.ms, one.score) for one in report.served.entries if one.model == who)
    assert "Teacher, ONNX, int8: " in front.summary and "Score against latency" in page(report)


def test_the_card_lists_the_files_of_an_export(result: Any) -> None:
    report = TaskReport.model_validate(result.report)
    assert report.served is not None
    for form, file in (("onnx", "model.onnx"), ("int8", "model.int8.onnx")):
        one = report.served.of("student", form)
        assert one is not None
        row = next(line for line in card(report).splitlines() if line.startswith(f"| `{file}` |"))
        wanted = (bytes_text(one.bytes), score_text(one.score), milliseconds(one.ms))
        assert all(text.replace("\u00a0", " ") in row for text in wanted)
    assert "model.int8.onnx" not in card(report.model_copy(update={"served": None}))
    assert "int8: accuracy" in result._repr_html_()


@pytest.mark.parametrize(
    ("difference", "teacher_ms", "kind"),
    [
        (Difference(value=-0.1, low=-0.2, high=-0.01), 1.0, "quantised teacher is better"),
        (Difference(value=-0.1, low=-0.2, high=0.01), 1.0, "quantised teacher is faster than PyTorch"),
        (Difference(value=0.1, low=0.0, high=0.2), 1.0, None),
        (Difference(value=-0.1, low=-0.2, high=-0.01), 9.0, None),
    ],
)
def test_a_rival_that_wins_is_a_finding(
    result: Any, difference: Difference, teacher_ms: float, kind: str | None
) -> None:
    report = TaskReport.model_validate(result.report)
    assert report.served is not None
    entries = [
        one.model_copy(update={"ms": teacher_ms if one.model == "teacher" else 2.0}) for one in report.served.entries
    ]
    found = report.served.model_copy(
        update={"entries": entries, "against_int8_teacher": difference, "pytorch_ms": {"teacher": 9.0, "student": 5.0}}
    )
    said = {one.kind for one in findings(report.model_copy(update={"served": found})) if "quantised" in one.kind}
    assert said == (set() if kind is None else {kind})


def test_without_the_libraries_there_is_no_section(result: Any) -> None:
    report = TaskReport.model_validate(result.report).model_copy(update={"served": None})
    assert served(report) is None and "As they would be served" not in page(report)
