"""The cascade keeps its promise on simulated problems whose agreement is known, and says what it did on real predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, write_csv
from scipy.stats import binom

from tutelage import api, cli
from tutelage.errors import TutelageError
from tutelage.evaluation.cascade import candidates, choose, curve
from tutelage.evaluation.intervals import fewest_rows
from tutelage.report.cascade import CASCADE, CascadeReport

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
    refused("dev has 400 rows, and agreement 0.999 with confidence 0.95 needs at least 2,995", agreement=0.999)
    numbers = "text,label\n" + "\n".join(f"good word{i % 9},{i}.5" for i in range(300))
    (tmp_path / "numbers.csv").write_text(numbers)
    refused("is of kind regression", dev=str(tmp_path / "numbers.csv"))
