"""What a run's report says of the student's answers, against loops over what the models predict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, examples, write_csv

from tutelage import api
from tutelage.data.examples import Data, Examples
from tutelage.data.texts import Texts
from tutelage.evaluation.calibration import calibration_error, reliability
from tutelage.report import quality_page
from tutelage.report.model import TaskReport, load_report
from tutelage.report.quality import ClassEntry
from tutelage.run import quality
from tutelage.run.folder import temperature_of_run
from tutelage.run.result import Result
from tutelage.tasks import kind_of


@pytest.fixture(scope="module")
def distilled(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, TaskReport]:
    """A student of one layer that has learnt little, and its report."""
    root = tmp_path_factory.mktemp("distilled")
    write_csv(root / "train.csv", 80, 5)
    write_csv(root / "dev.csv", 90, 6)
    result = api.distill(
        str(teacher_folder / "teacher"),
        root / "run",
        method="kd",
        student="layers=1",
        train=str(root / "train.csv"),
        dev=str(root / "dev.csv"),
        settings={"stages.distill.epochs": 1, "stages.distill.lr": 3e-4},
        quiet=True,
    )
    report = load_report(root / "run")
    assert isinstance(report, TaskReport)
    return result, report


def test_a_run_reports_what_its_models_predict(distilled: tuple[Result, TaskReport]) -> None:
    result, report = distilled
    rows = result.predictions().to_dict("records")
    right = {who: np.array([row[who] == row["label"] for row in rows]) for who in ("student", "teacher")}
    change = report.student.over_teacher
    assert change is not None and change.value == pytest.approx(right["student"].mean() - right["teacher"].mean())
    assert change.low <= change.value <= change.high
    assert report.student.over_baseline is not None and report.baseline is not None
    assert report.student.over_baseline.value == pytest.approx(report.student.score - report.baseline.score)
    drops = [one.recall_difference.value for one in report.classes if one.recall_difference is not None]
    assert drops == sorted(drops) and len(drops) == len(LABELS)
    for one in report.classes:
        of = [row for row in rows if row["label"] == one.name]
        given = [row for row in rows if row["student"] == one.name]
        both = sum(row["student"] == one.name for row in of)
        assert one.support == len(of)
        assert one.lost == sum(row["teacher"] == one.name != row["student"] for row in of)
        assert one.student.recall == pytest.approx(both / len(of))
        assert one.student.f1 == pytest.approx(2 * both / (len(of) + len(given)))
    for two in report.confusions:
        count = sum(row["label"] == two.label and row["student"] == two.predicted for row in rows)
        assert two.student == count > 0 and two.label != two.predicted
    assert sum(two.student for two in report.confusions) == int((~right["student"]).sum())
    found = report.disagreements
    assert found is not None and found.found == sum(row["student"] != row["teacher"] for row in rows)
    assert {one.text for one in found.listed} == {row["text"] for row in rows if row["student"] != row["teacher"]}
    both = report.doubtful
    assert both is not None
    assert {one.text for one in both.listed} == {
        row["text"] for row in rows if row["student"] == row["teacher"] != row["label"]
    }
    lost = [one.teacher == one.label for one in found.listed]
    assert lost == sorted(lost, reverse=True)
    assert report.calibration is not None and report.calibration.texts == report.data.validation == 8
    shares = np.array([[row[f"student: {label}"] for label in LABELS] for row in rows])
    labels = np.array([LABELS.index(row["label"]) for row in rows])
    bins = reliability(shares.max(axis=1), shares.argmax(axis=1) == labels)
    assert report.calibration.before.ece == pytest.approx(calibration_error(bins), abs=1e-6)
    assert (result.folder / "report.html").read_text(encoding="utf-8").count(">By class</h2>") == 1


def test_a_class_without_texts_is_a_row_of_the_page(distilled: tuple[Result, TaskReport]) -> None:
    unseen = ClassEntry(name="unseen", support=0, student=None, teacher=None, recall_difference=None, lost=0)
    report = distilled[1].model_copy(update={"classes": [*distilled[1].classes, unseen]})
    section = quality_page.classes(report)
    assert section is not None and section.table is not None
    assert [len(row.cells) for row in section.table.rows] == [len(section.table.columns)] * 3
    assert section.table.rows[-1].name == "unseen" and section.table.rows[-1].cells == ["0", "", "", "", "", ""]


def test_classes_of_one_text_are_written_as_json(teacher_folder: Path, tmp_path: Path) -> None:
    """JSON has no word for an infinite end of an interval; Python's reader would take one, and others would not."""

    def refused(word: str) -> None:
        raise AssertionError(f"report.json has {word}")

    (tmp_path / "train.csv").write_text("text,label\n" + "good word1,positive\nbad word2,negative\n" * 10)
    (tmp_path / "dev.csv").write_text("text,label\ngood word3,positive\nbad word4,negative\n")
    files = {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")}
    settings = {"stages.distill.epochs": 1}
    api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", method="kd", student="layers=1", settings=settings, quiet=True,
        allow_weak_teacher=True, **files,
    )  # fmt: skip
    tree = json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=refused)
    assert [one["support"] for one in tree["classes"]] == [1, 1]
    for one in tree["classes"]:
        assert one["recall_difference"]["low"] is one["recall_difference"]["high"] is None
    assert tree["student"]["over_teacher"]["low"] is not None  # of two texts


def test_without_a_validation_split_no_temperature_is_fitted(teacher_folder: Path, tmp_path: Path) -> None:
    """One that is fitted on the evaluation set looks better there than it is, and an export would keep it."""
    write_csv(tmp_path / "train.csv", 20, 5)
    write_csv(tmp_path / "dev.csv", 20, 6)
    files = {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")}
    api.distill(
        str(teacher_folder / "random"), tmp_path / "run", method="kd", student="layers=1", quiet=True, allow_weak_teacher=True,
        settings={"stages.distill.epochs": 1, "data.holdout": 0}, baseline=False, **files,
    )  # fmt: skip
    report = load_report(tmp_path / "run")
    assert isinstance(report, TaskReport) and report.calibration is not None
    found = report.calibration
    assert (found.temperature, found.texts, found.source, found.after) == (None, 0, None, None)
    assert 0 < found.before.ece < 1 and found.before.kl_to_teacher is not None
    assert "There is no temperature: the run kept no labels" in (tmp_path / "run" / "report.html").read_text(
        encoding="utf-8"
    )
    temperature, (note,) = temperature_of_run(str(tmp_path / "run" / "student"))
    assert temperature == 1 and note.startswith("temperature 1: the run kept no labels")


def test_where_all_rows_are_right_no_temperature_is_fitted(teacher_folder: Path) -> None:
    """The sharper, the better: what a fit would give says nothing, and 1 would look as if it had been fitted."""
    report = load_report(teacher_folder / "teacher")
    assert isinstance(report, TaskReport) and report.calibration is not None
    found = report.calibration
    assert (found.temperature, found.after) == (None, None) and found.texts == report.data.validation > 0
    told = f"it could not be fitted: all {found.texts} rows of the validation split are right"
    assert temperature_of_run(str(teacher_folder / "teacher")) == (1.0, [f"temperature 1: {told}"])
    section = quality_page.calibration(report)
    assert section is not None and section.notes == [f"There is no temperature: {told}."]


def test_a_model_without_a_teacher_has_classes_and_a_calibration(teacher_folder: Path) -> None:
    report = load_report(teacher_folder / "teacher")
    assert isinstance(report, TaskReport) and report.calibration is not None
    assert report.student.over_teacher is None and report.disagreements is None
    assert all(one.teacher is None and one.recall_difference is None for one in report.classes)
    assert report.calibration.before.kl_to_teacher is None


def data_of(kind: str, dev: Examples, labels: tuple[str, ...]) -> Data:
    return Data(task="toy", kind=kind, labels=labels, metrics=kind_of(kind).metrics, train=dev, dev={"dev": dev})


def test_texts_in_several_classes_are_counted_in_each() -> None:
    gold = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=np.float32)
    ours = torch.tensor([[1.0, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, -1]])
    theirs = torch.tensor([[1.0, 1, -1], [1, -1, -1], [-1, 1, -1], [1, -1, -1]])
    dev = Examples([f"dev/{i}" for i in range(4)], ["a"] * 4, None, gold)
    data = data_of("multilabel", dev, ("x", "y", "z"))
    train = Examples(["train/0"], ["a"], None, np.array([[0, 0, 1]], dtype=np.float32))
    data = replace(data, train=train)
    found = quality.by_class(kind_of("multilabel"), data, Texts(dev, None, None), ours, theirs)  # type: ignore[arg-type]
    assert [(row["name"], row["support"]) for row in found] == [("y", 2), ("x", 3), ("z", 0)]  # of z nothing is known
    assert found[2] | {"student": None, "teacher": None, "recall_difference": None, "lost": 0} == found[2]
    assert found[0]["student"] == {"recall": 0.5, "f1": 0.5} and found[0]["teacher"] == {"recall": 1.0, "f1": 1.0}
    assert found[0]["recall_difference"]["value"] == -0.5
    assert [row["lost"] for row in found] == [1, 1, 0]
    assert found[1]["student"] == {"recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}


def test_a_class_that_only_the_teacher_knows_is_left_out() -> None:
    """No text of the data could show anything of it; of a class that only the evaluation set lacks, something is missing."""
    dev = Examples(["dev/0", "dev/1"], ["a"] * 2, None, np.array([0, 2]))
    train = Examples(["train/0", "train/1"], ["a"] * 2, None, np.array([1, -1]))
    data = replace(data_of("classification", dev, ("x", "trained", "z", "the teacher's")), train=train)
    same = torch.eye(4)[[0, 2]]
    found = quality.by_class(kind_of("classification"), data, Texts(dev, None, None), same, same)  # type: ignore[arg-type]
    assert [(row["name"], row["support"]) for row in found] == [("x", 1), ("z", 1), ("trained", 0)]


def test_at_most_200_disagreements_are_listed_lost_ones_first() -> None:
    dev = examples(300, 3, "dev")
    ours = torch.zeros(300, 2)
    ours[torch.arange(300), torch.from_numpy(1 - dev.labels)] = torch.linspace(1, 5, 300)  # always wrong
    theirs = torch.from_numpy(np.eye(2, dtype=np.float32)[dev.labels])
    theirs[:50] = theirs[:50].flip(1)  # as wrong as the student
    found: dict[str, Any] = quality.disagreements(data_of("classification", dev, LABELS), dev, ours, theirs)
    assert found["found"] == 250 and len(found["listed"]) == 200
    sure = [one["student_probability"] for one in found["listed"]]
    assert sure == sorted(sure, reverse=True)
    assert found["listed"][0]["text"] == dev.texts[299] and all(
        one["teacher"] == one["label"] for one in found["listed"]
    )
    against = quality.doubtful(data_of("classification", dev, LABELS), dev, ours, theirs)
    assert against["found"] == 50 and {one["text"] for one in against["listed"]} == set(dev.texts[:50])
    assert all(one["teacher"] == one["student"] != one["label"] for one in against["listed"])
