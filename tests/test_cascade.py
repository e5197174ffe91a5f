"""The cascade keeps its promise on simulated problems whose agreement is known, and says what it did on real predictions."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, write_csv
from scipy.stats import binom
from test_serve import ask
from transformers import AutoModelForSequenceClassification, pipeline

from tutelage import api, cli, serving
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.evaluation.cascade import candidates, choose, curve
from tutelage.evaluation.intervals import fewest_rows
from tutelage.methods.finetune import finetune
from tutelage.methods.kd import kd
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.report.cascade import CASCADE, CascadeReport
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench
from tutelage.serving import serve as script
from tutelage.students.specs import Copied
from tutelage.tasks import load as loading

Rate = Callable[[np.ndarray], np.ndarray]

RATES: dict[str, Rate] = {
    "falls slowly": lambda sure: 1 / (1 + np.exp(-(0.8 + 6 * sure))),
    "falls in a step": lambda sure: np.where(sure > 0.5, 0.997, 0.9),
    "is too low everywhere": lambda sure: np.full_like(sure, 0.9799),
    "says nothing until it rises": lambda sure: np.where(sure > 0.9, 0.97, np.where(sure > 0.4, 0.995, 0.85)),
}
"""The agreement at a confidence, which is uniform from 0 to 1. The last breaks the assumption."""


def true_agreement(rate: Rate, threshold: float) -> float:
    """Of all that is above the threshold."""
    return float(rate(np.linspace(threshold, 1, 20_001)).mean())


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("rows", [400, 1500])
def test_the_promise_is_kept(name: str, rows: int) -> None:
    """Of 200 draws of the rows at most as many break it as chance allows if 5 % do."""
    generator, broken, covered = np.random.default_rng(rows), 0, 0.0
    for _ in range(200):
        sure = generator.random(rows)
        found = choose(sure, generator.random(rows) < RATES[name](sure), 0.98, 0.95)
        if found.threshold is not None:
            broken += true_agreement(RATES[name], found.threshold) < 0.98
            covered += 1 - found.threshold
    assert broken <= binom.ppf(0.99, 200, 0.05)
    if rows == 1500 and name.startswith("falls"):
        assert covered / 200 > 0.3  # of 0.74 and 0.61 above the least threshold that keeps it


def test_a_careless_choice_breaks_the_promise() -> None:
    """The best of many thresholds by their own bounds: what the fixed order is for."""
    generator, broken = np.random.default_rng(0), 0
    for _ in range(60):
        agrees = generator.random(1500) < 0.8999
        broken += any(one.bound >= 0.9 for one in curve(generator.random(1500), agrees, 100))
    assert broken > 60 / 8


def test_a_choice_is_made_of_counts() -> None:
    generator = np.random.default_rng(0)
    sure = generator.random(900)
    agrees = sure > 0.05
    found = choose(sure, agrees, 0.98, 0.95)
    assert found.threshold is not None
    above = sure > found.threshold
    assert (found.answered, found.agree) == (above.sum(), (above & agrees).sum())
    assert found.bound >= 0.98 and found.answered in candidates(900, 0.98, 0.05)
    assert found == choose(sure[::-1], agrees[::-1], 0.98, 0.95)  # whatever their order
    assert choose(sure, np.ones(900, bool), 0.98).threshold == 0.0
    assert choose(sure, np.zeros(900, bool), 0.98).threshold is None
    assert choose(np.ones(900), agrees, 0.98).answered in (0, 900)  # ties are above together or not at all


def test_too_few_rows_show_nothing() -> None:
    assert fewest_rows(0.98, 0.05) == 149 and 0.98**149 <= 0.05 < 0.98**148
    assert fewest_rows(0.5, 0.25) == 2
    assert candidates(148, 0.98, 0.05) == {}
    assert candidates(149, 0.98, 0.05) == {149: 0.05}
    for rows in (210, 400, 5000):
        tested = candidates(rows, 0.98, 0.05)
        assert list(tested) == sorted(tested) and max(tested) == rows
        assert sum(tested.values()) == pytest.approx(0.05)
        assert 0.98 ** min(tested) <= tested[min(tested)]
    assert choose(np.ones(100), np.ones(100, bool), 0.98).threshold is None


def test_the_curve_is_for_all_thresholds() -> None:
    sure = np.linspace(0.2, 1, 100)
    found = curve(sure, sure > 0.6, 10)
    assert [one.answered for one in found] == list(range(10, 101, 10))
    assert [one.agree / one.answered for one in found][:5] == [1.0] * 5 and found[-1].threshold == 0.0
    assert all(one.bound <= one.agree / one.answered for one in found)


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("rows") / "dev.csv", 400, 7)


def test_a_cascade_is_written_and_shown(
    teacher_folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student is the teacher with half its weights in the head: it agrees on all, less surely."""
    names = [str(teacher_folder / "second"), "--teacher", str(teacher_folder / "teacher"), "--dev", str(rows)]
    cli.main(["cascade", *names, "--out", str(tmp_path / "out")])
    shown = " ".join(capsys.readouterr().out.split())
    found = CascadeReport.model_validate_json((tmp_path / "out" / CASCADE).read_text())
    rule = found.rule
    assert rule is not None and (rule.threshold, rule.answered, rule.agreement) == (0.0, 400, 1.0)
    assert rule.bound is not None and rule.bound >= 0.98
    assert (
        found.coverage == 1 and "The student answers 100.0%" in shown and "at least 98.0% of its answers are" in shown
    )
    assert found.accuracy["student"] == found.accuracy["teacher"] == found.accuracy["cascade"]
    wrong = round(400 * (1 - found.accuracy["teacher"]))
    assert found.suspects_found == wrong  # by their labels
    assert [one.probability for one in found.suspects] == sorted((s.probability for s in found.suspects), reverse=True)
    assert all(one.student == one.teacher != one.label for one in found.suspects)


def test_the_texts_of_a_run_are_read_once(
    teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that a model is scored on, and those that its run has learnt, may be the same data."""
    read, files = loading.load_files, list[str]()
    monkeypatch.setattr(loading, "load_files", lambda config, *more: files.append(config.train) or read(config, *more))
    data = {part: str(teacher_folder / f"{part}.csv") for part in ("train", "dev")}
    scored = api.evaluate(teacher_folder / "teacher", **data, max_length=20, quiet=True)
    assert scored.scores["dev"]["accuracy"] > 0.9 and files == [data["train"]]
    # Without data those of the student's run are taken; the other model is of no run.
    api.cascade(teacher_folder / "teacher", teacher_folder / "second", tmp_path / "out", agreement=0.9, quiet=True)
    assert files == [data["train"]] * 2


def test_texts_that_a_model_has_learnt_say_nothing(teacher_folder: Path, rows: Path, tmp_path: Path) -> None:
    """They are no part of a promise, and scores on them are noted."""
    lines = rows.read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(lines[:101]))
    data = DataConfig(train=str(tmp_path / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    config = RunConfig(recipe=finetune(Copied()), data=data, out=str(tmp_path / "run"))
    shutil.copytree(teacher_folder / "second", tmp_path / "run" / "student")
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    student, count = str(tmp_path / "run" / "student"), sum(line in lines[1:101] for line in lines[1:])
    found = api.cascade(
        student, str(teacher_folder / "teacher"), tmp_path / "out", dev=str(rows), agreement=0.97, quiet=True
    )
    assert found.rule is not None and found.rule.rows == 400 - count
    assert any(f"{count} of the 400 texts of dev are left out" in note for note in found.notes)
    spaced = tmp_path / "spaced.csv"  # a table written again may have other spaces
    spaced.write_text("\n".join([lines[0], *(line.replace(" ", "  ") for line in lines[1:])]))
    again = api.cascade(
        student, str(teacher_folder / "teacher"), tmp_path / "again", dev=str(spaced), agreement=0.97, quiet=True
    )
    assert again.rule is not None and again.rule.rows == found.rule.rows
    notes = api.evaluate(student, dev=str(rows), quiet=True).notes
    assert any(
        f"{count} of the 400 texts of dev are among those that the model was trained on" in note for note in notes
    )
    (tmp_path / "train.csv").unlink()  # then nothing is known of them
    assert not any("trained on" in note for note in api.evaluate(student, dev=str(rows), quiet=True).notes)


def test_classes_have_rules_of_their_own(
    teacher_folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(teacher_folder / "second"), "--teacher", str(teacher_folder / "teacher"), "--dev", str(rows)]
    more = ["--agreement", "0.97", "--confidence", "0.9", "--per-class", "--json"]
    cli.main(["cascade", *names, "--out", str(tmp_path / "out"), *more])
    tree = json.loads(capsys.readouterr().out)
    assert tree["rule"] is None and set(tree["classes"]) == set(LABELS)
    assert sum(rule["rows"] for rule in tree["classes"].values()) == 400
    for rule in tree["classes"].values():
        assert rule["answered"] == rule["rows"] and rule["bound"] >= 0.97
        # Both classes share the error of 0.1.
        assert rule["bound"] == pytest.approx(0.05 ** (1 / rule["rows"]), abs=1e-6)


def test_a_poor_student_asks_its_teacher(
    teacher_folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(teacher_folder / "random"), "--teacher", str(teacher_folder / "teacher"), "--dev", str(rows)]
    cli.main(["cascade", *names, "--out", str(tmp_path / "out")])
    assert "No threshold keeps the promise on 400 texts" in capsys.readouterr().out
    found = CascadeReport.model_validate_json((tmp_path / "out" / CASCADE).read_text())
    assert found.rule is not None and found.rule.threshold is None and found.coverage == 0
    assert found.accuracy["cascade"] == found.accuracy["teacher"] > found.accuracy["student"]
    assert found.suspects == [] and len(found.curve) > 20


@pytest.fixture(scope="module")
def served(teacher_folder: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A student that differs from its teacher where it is least sure, as a checkpoint and as an exported folder in ``files``."""
    root = tmp_path_factory.mktemp("served")
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "second")
    with rows.open(newline="") as file, torch.no_grad():
        texts = [row["text"] for row in csv.DictReader(file)]
        logits = model(**tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")).logits
        margins = logits[:, 1] - logits[:, 0]
        model.classifier.bias[1] -= margins[margins > 0].quantile(0.3)
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    (root / "files").mkdir()
    serving.to_onnx(model, tokenizer, root / "files" / "model.onnx", temperature=2.0)
    serving.quantize(root / "files" / "model.onnx", root / "files" / "model.int8.onnx")
    tokenizer.save_pretrained(root / "files")
    model.config.save_pretrained(root / "files")
    shutil.copy(script.__file__, root / "files")
    return root


@pytest.mark.slow
def test_what_serves_follows_the_cascade_beside_it(
    served: Path, teacher_folder: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule is chosen on the answers of the file that serves, and gives there exactly what it says."""
    files = served / "files"
    words = ["cascade", str(files), "--teacher", str(teacher_folder / "teacher"), "--dev", str(rows)]
    words += ["--agreement", "0.9", "--out", str(files)]
    cli.main(words)
    assert "cascade.json beside model.int8.onnx makes serve.py" in " ".join(capsys.readouterr().out.split())
    found = CascadeReport.model_validate_json((files / CASCADE).read_text())
    rule, model = found.rule, script.Model(files / "model.int8.onnx")
    assert (found.file, found.temperature, found.student) == ("model.int8.onnx", 2.0, str(files))
    assert rule is not None and rule.threshold is not None and 0 < rule.answered < 400
    teacher = pipeline("text-classification", model=str(teacher_folder / "teacher"), device="cpu")
    with rows.open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    said = [model.answer(text) for text in texts]
    answers = [(one["label"], text) for one, text in zip(said, texts, strict=True) if "label" in one]
    asked = [text for one, text in zip(said, texts, strict=True) if "label" not in one]
    assert len(answers) == rule.answered and said[texts.index(asked[0])]["ask"] == "teacher"
    theirs = teacher([text for _, text in answers])
    agree = [label == other["label"] for (label, _), other in zip(answers, theirs, strict=True)]
    assert np.mean(agree) == pytest.approx(rule.agreement)
    with api.serve(files, teacher=teacher_folder / "teacher") as page:
        for text, asks in [(asked[0], True), (answers[0][1], False)]:
            reply = ask(page, {"text": text})
            assert [one["asks"] for one in reply["replies"]] == [asks, False]
            assert (reply["replies"][0]["said"] == "ask the teacher") is asks
            assert not (asks and reply["differ"]) and ("not sure enough" in str(reply["replies"][0]["note"])) is asks
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "already holds a cascade.json; remove it" in capsys.readouterr().err
    for model_file, words in ((files / "model.onnx", "chosen for another"), (files, "is no cascade of this version")):
        if model_file == files:
            (files / CASCADE).write_text("{}")
        with pytest.raises(TutelageError, match=words):
            api.serve(model_file)
        if model_file != files:
            shown = subprocess.run(
                [sys.executable, str(files / "serve.py"), "model.onnx", "a"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert shown.returncode == 1 and "chosen for another file than model.onnx" in shown.stderr
            assert "Traceback" not in shown.stderr
    (files / CASCADE).unlink()
    assert "label" in script.Model(files / "model.int8.onnx").answer(asked[0])


def test_a_class_without_a_rule_asks_the_teacher(
    served: Path, teacher_folder: Path, rows: Path, tmp_path: Path
) -> None:
    """By class, and of a checkpoint: a class that was never predicted, or never passed, has no promise."""
    student = tmp_path / "student"
    shutil.copytree(served, student, ignore=shutil.ignore_patterns("files"))
    given: dict[str, Any] = {"dev": str(rows), "quiet": True, "agreement": 0.9, "per_class": True}
    found = api.cascade(student, teacher_folder / "teacher", student, **given)
    assert found.file is None and set(found.classes) == set(LABELS)
    assert found.is_sure(0, 1.0) and not found.is_sure(0, found.classes[LABELS[0]].threshold or 0.0)
    tree = json.loads((student / CASCADE).read_text())
    tree["classes"] = {LABELS[0]: {**tree["classes"][LABELS[0]], "threshold": None}}
    (student / CASCADE).write_text(json.dumps(tree))
    with api.serve(student) as page:
        for text in ("good great superb", "bad awful weak"):
            (reply,) = ask(page, {"text": text})["replies"]
            assert reply["asks"]


def test_mistakes_are_one_line(teacher_folder: Path, rows: Path, tmp_path: Path) -> None:
    student, teacher = teacher_folder / "second", teacher_folder / "teacher"

    def refused(message: str, **more: object) -> None:
        given: dict[str, object] = {"dev": str(rows), "quiet": True} | more
        with pytest.raises(TutelageError, match=message):
            api.cascade(student, teacher, tmp_path / "out", **given)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    refused("agreement 98 is not between 0 and 1", agreement=98)
    refused("confidence 1 is not between", confidence=1)
    refused("lies in the folder of no run", dev=None)
    refused(
        "dev has 400 rows that neither model was trained on, and agreement 0.999 with confidence 0.95 needs at least 2,995",
        agreement=0.999,
    )
    numbers = "text,label\n" + "\n".join(f"good word{i % 9},{i}.5" for i in range(300))
    (tmp_path / "numbers.csv").write_text(numbers)
    refused("is of kind regression", dev=str(tmp_path / "numbers.csv"))


def test_a_run_says_which_of_its_evaluation_texts_others_have_learnt(teacher_folder: Path, tmp_path: Path) -> None:
    """The teacher of a run, or the model that its student is made of, may know the answers already."""
    train, teacher = str(teacher_folder / "train.csv"), str(teacher_folder / "teacher")

    def said(recipe: Recipe, data: DataConfig, **more: Any) -> list[str]:
        config = RunConfig(recipe=recipe, data=data, out=str(tmp_path / "run"), baseline=False, **more)
        with bench(quiet=True) as desk:
            warnings = TaskRun(desk, config).warnings
        return [line for line in warnings if "was trained on" in line]

    divided, apart = DataConfig(train=train), DataConfig(train=train, dev=str(teacher_folder / "dev.csv"))
    (line,) = said(kd(), divided, teacher=teacher)
    assert line.startswith(f"40 of the 40 texts of dev are among those that the teacher {teacher!r} was trained on")
    assert line.endswith("give texts of their own (dev)")
    assert not said(kd(), apart, teacher=teacher)
    (line,) = said(finetune(Copied(source=teacher, layers=2)), divided)
    assert f"{teacher!r}, of which the student is made, was trained on" in line
    copy = shutil.copytree(teacher, tmp_path / "copy")  # one that kept the same tenth of the file apart
    config = from_yaml(copy / "config.yaml")
    (copy / "config.yaml").write_text(to_yaml(config.model_copy(update={"data": divided})))
    assert not said(kd(), divided, teacher=str(copy))
