"""A student that is given by its cost alone becomes one of the run's teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_model, write_csv

from tutelage import anatomy, api
from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.objectives.hidden import Hidden
from tutelage.recipes.config import from_yaml
from tutelage.run import trials
from tutelage.run.student import with_size
from tutelage.students.specs import Copied, Pruned, Sized, parse
from tutelage.teachers.source import Source


def saved(folder: Path, tokenizer: Any, **sizes: Any) -> Source:
    tiny_model(**sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Source(str(folder))


def test_the_share_is_cut_through_all_layers_where_that_is_possible(tokenizer: Any, tmp_path: Path) -> None:
    recipe = METHODS["kd"]().model_copy(update={"student": Sized(flops=0.25, vocabulary="trimmed")})
    made = with_size(recipe, saved(tmp_path / "bert", tokenizer, layers=4)).student
    assert made == Pruned(target_flops=0.25, vocabulary="trimmed")
    other = with_size(recipe, saved(tmp_path / "albert", tokenizer, family="albert", layers=4)).student
    assert other == Copied(layers=1, vocabulary="trimmed")
    assert Sized(flops=0.01).of(6, cut=False) == Copied(layers=1)


def test_other_students_stay_and_none_can_be_made_of_nothing(tokenizer: Any, tmp_path: Path) -> None:
    recipe = METHODS["kd"]().model_copy(update={"student": Copied(layers=1)})
    assert with_size(recipe, None) is recipe
    with pytest.raises(TutelageError, match=r"0.5 of the teacher's operations needs a teacher model"):
        with_size(recipe.model_copy(update={"student": Sized()}), None)


def test_it_is_named_by_its_share() -> None:
    assert parse("flops=0.25") == Sized(flops=0.25)
    assert parse("flops=0.25", Copied()) == Sized(flops=0.25)
    assert parse("layers=3", Sized()) == Copied(layers=3)
    assert parse("vocabulary=trimmed", Sized(flops=0.3)) == Sized(flops=0.3, vocabulary="trimmed")
    with pytest.raises(TutelageError, match="flops"):
        parse("flops=2")


def test_a_run_keeps_the_share_in_its_settings_and_the_sizes_in_its_report(tokenizer: Any, tmp_path: Path) -> None:
    saved(tmp_path / "teacher", tokenizer, layers=2)
    write_csv(tmp_path / "train.csv", 40, 1)
    write_csv(tmp_path / "dev.csv", 20, 2)
    data = {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")}
    common: dict[str, Any] = {"student": "flops=0.5", "settings": {"stages.distill.epochs": 1}, **data}
    plan = api.plan_store(str(tmp_path / "teacher"), method="compact", student="flops=0.5", **data)
    assert plan.examples > 0
    result = api.distill(
        str(tmp_path / "teacher"), tmp_path / "out", baseline=False, allow_weak_teacher=True, quiet=True, **common
    )
    assert from_yaml(tmp_path / "out" / "config.yaml").recipe.student == Sized(flops=0.5)
    report = result.report
    names = ["heads and neurons cut", "first: 1", "uniform: 2"]
    assert [one["name"] for one in report["start"]["tried"]] == names
    assert report["student_layers"] == (2 if report["start"]["chosen"] == names[0] else 1)
    assert report["student"]["parameters"] < report["teacher"]["parameters"]


def test_layers_copied_whole_are_tried_beside_a_cut_through_all() -> None:
    shape, cut = anatomy.shape_of(tiny_model(layers=6).config), Pruned(target_flops=0.5, vocabulary="trimmed")
    named = Sized(flops=0.5, vocabulary="trimmed")
    assert trials.candidates(named, cut, shape) == {
        "heads and neurons cut": cut,
        **{
            name: Copied(layers=[int(layer) for layer in name.partition(": ")[2].split()], vocabulary="trimmed")
            for name in ("first: 1 2 3", "spread: 1 4 6", "uniform: 2 4 6", "last: 4 5 6", "first and last: 1 2 6")
        },
    }
    assert trials.candidates(cut, cut, shape) == {}  # who names the cut means it
    assert trials.candidates(Sized(flops=0.99), cut, shape) == {}  # no layer can be left out
    (line,) = trials.plan_lines(["heads and neurons cut", "first: 1", "last: 2"])
    assert (
        "the best of heads and neurons cut in all layers, and the layers first (1), last (2); all are measured" in line
    )
    assert trials.plan_lines([]) == []


def test_a_run_goes_on_with_the_layers_that_trials_prefer_to_the_cut(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objectives, plans and pairs are those of the shallower student; the twin has its layers, too."""
    saved(tmp_path / "teacher", tokenizer, layers=4)
    write_csv(tmp_path / "train.csv", 40, 1)
    write_csv(tmp_path / "dev.csv", 20, 2)
    monkeypatch.setattr(trials, "rank", lambda one: one.name != "spread: 1 4")
    monkeypatch.setattr(trials, "TRAINED", 9)
    stage = METHODS["compact"]().stages[0]
    terms = [*stage.objective[:2], Hidden(layers="uniform")]
    recipe = METHODS["compact"]().model_copy(update={"stages": [stage.model_copy(update={"objective": terms})]})
    result = api.distill(
        str(tmp_path / "teacher"), tmp_path / "out", method=recipe, student="flops=0.5", allow_weak_teacher=True, quiet=True,
        train=tmp_path / "train.csv", dev=tmp_path / "dev.csv", settings={"stages.*.max_steps": 2, "stages.*.lr": 1e-3},
    )  # fmt: skip
    report = result.report
    assert report["start"]["chosen"] == "spread: 1 4" and report["student_layers"] == 2
    assert result.student.config.num_attention_heads == 4
    assert report["mapping"][0]["pairs"] == [[1, 2], [2, 4]]
    assert report["baseline"]["shape"] == report["student"]["shape"]
