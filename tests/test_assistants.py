"""Teacher assistants: which students and stages the runs of a chain have. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import tiny_config
from pydantic import ValidationError

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.methods.autoskdbert import ensemble
from tutelage.methods.kd import kd
from tutelage.methods.takd import takd
from tutelage.objectives.predictions import LogitsMSE
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.recipe import Assistant, Instances, Recipe, Stage
from tutelage.recipes.settings import with_settings
from tutelage.run.assistants import links
from tutelage.students.specs import Between, Copied, Fresh

OWN = [Stage(name="logits", objective=[LogitsMSE()], lr=1e-4)]


def config_of(root: Path, recipe: Recipe, layers: int = 12) -> RunConfig:
    tiny_config("bert", num_hidden_layers=layers).save_pretrained(root / "teacher")
    data = DataConfig(train="train.csv", dev="dev.csv")
    return RunConfig(recipe=recipe, teacher=str(root / "teacher"), data=data, out=str(root / "run"))


@pytest.mark.parametrize(("teacher", "student", "between"), [(12, 3, 6), (6, 3, 4), (24, 1, 5), (3, 1, 2)])
def test_the_assistant_of_takd_lies_between_teacher_and_student(
    teacher: int, student: int, between: int, tmp_path: Path
) -> None:
    for spec in (Copied(layers=student), Fresh(layers=student, hidden=16)):
        config = config_of(tmp_path, takd().model_copy(update={"student": spec}), teacher)
        assert [one.recipe.student for one in links(config)] == [Copied(layers=between), spec]


def test_no_assistant_lies_between_neighbours(tmp_path: Path) -> None:
    config = config_of(tmp_path, takd().model_copy(update={"student": Copied(layers=3)}), 4)
    with pytest.raises(
        TutelageError, match=r"more layers than the student \(3\) and fewer than its teacher \(4\)"
    ) as error:
        links(config)
    remedy = str(error.value).partition("settings '")[2].removesuffix("'")
    assert [one.recipe.student.layers for one in links(with_settings(config, [remedy]))] == [3, 3]
    with pytest.raises(ValidationError, match="init=between is a teacher assistant's"):
        Recipe(**{**dict(kd()), "student": Between()})


def test_an_assistant_has_stages_of_its_own(tmp_path: Path) -> None:
    recipe = Recipe(**{**dict(kd()), "assistants": [Copied(layers=6), Assistant(stages=OWN)]})
    (tmp_path / "run.yaml").write_text(to_yaml(config_of(tmp_path, recipe)))
    first, second, last = links(with_settings(from_yaml(tmp_path / "run.yaml"), {"stages.*.epochs": 1}))
    assert first.recipe.stages == last.recipe.stages and first.recipe.student == Copied(layers=6)
    assert [stage.name for stage in second.recipe.stages] == ["logits"] and second.recipe.student == recipe.student
    assert [one.recipe.stages[0].epochs for one in (first, second, last)] == [1, 1, 1]
    assert [one.recipe.stages[0].lr for one in (second, last)] == [1e-4, kd().stages[0].lr]
    assert [one.baseline for one in (first, second, last)] == [False, False, True]


def test_an_assistants_stages_are_checked_as_the_students(tmp_path: Path) -> None:
    of_team = Assistant(student=Copied(layers=2), stages=ensemble().stages)
    with pytest.raises(ValidationError, match="learn from one teacher, and a stage has several"):
        Recipe(**{**dict(kd()), "assistants": [of_team]})
    with pytest.raises(ValidationError, match="each name once"):
        Recipe(**{**dict(kd()), "assistants": [Assistant(stages=OWN * 2)]})


def test_a_part_of_a_recipe_has_that_part_of_its_assistants_stages() -> None:
    on_text = Stage(name="general", data=Instances(), objective=[LogitsMSE()], select="last")
    both = Assistant(student=Copied(layers=6), stages=[on_text, *OWN])
    recipe = Recipe(**{**dict(kd()), "assistants": [both, Assistant(stages=[on_text])]})
    (left,) = recipe.part("task").assistants
    assert left == Assistant(student=Copied(layers=6), stages=OWN)
