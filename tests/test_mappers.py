"""Targets made of several teacher layers: layouts, what mappers hear of the training, each term against a slow reference."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import numpy as np
import pytest
from test_training import learn, tiny_stage

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.objectives.mappers import Mapper
from tutelage.objectives.mapping import grouped, picture
from tutelage.objectives.predictions import SoftLabels


@pytest.mark.parametrize(
    ("layout", "m", "n", "groups"),
    [
        ("all", 2, 3, [[1, 2, 3], [1, 2, 3]]),
        ("regular", 4, 12, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]),
        ("regular", 4, 6, [[1, 2], [3], [4, 5], [6]]),  # ends at 1.5, 3, 4.5 and 6; halves go up
        ("overlapping", 3, 12, [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [9, 10, 11, 12]]),
        ("skipping", 4, 12, [[1, 2], [4, 5], [7, 8], [10, 11]]),
        ("skipping", 4, 6, [[1], [3], [4], [6]]),
        ("crossed", 4, 12, [[1, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12]]),
        ("crossed", 2, 5, [[1, 3, 5], [2, 4]]),
        ("crossed", 3, 3, [[1], [2], [3]]),
    ],
)
def test_layouts(layout: str, m: int, n: int, groups: list[list[int]]) -> None:
    assert grouped(layout, m, n) == [(s, t) for s, group in enumerate(groups, start=1) for t in group]


def test_a_layout_for_a_deeper_student_is_refused() -> None:
    with pytest.raises(TutelageError, match="the student has 3 layers and the teacher 2; use a student of at most 2"):
        grouped("regular", 3, 2)


def test_the_picture_of_many_to_many() -> None:
    assert picture(grouped("regular", 2, 4), 2, 4).splitlines()[2] == "student      1  1  2  2"
    assert picture(grouped("overlapping", 2, 4), 2, 4).splitlines() == [
        "student  1 from teacher 1, 2, 3",
        "student  2 from teacher 3, 4",
    ]


class Diary(Mapper):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    def begin_epoch(self, generator: np.random.Generator) -> None:
        self.heard.append(int(generator.integers(2**30)))

    def after_step(self) -> None:
        self.heard.append(-1)


class Noted(SoftLabels):
    kind: Literal["noted_for_a_test"] = "noted_for_a_test"

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, Mapper]:
        return {self.kind: Diary()}


def heard(tokenizer, **more) -> list[int]:
    lesson = learn(tokenizer, tiny_stage(objective=[Noted()], epochs=2, batch_size=48), **more)[2]
    return lesson.objective.projections["noted_for_a_test"].heard


def test_a_mapper_hears_of_epochs_and_steps_and_again_of_the_epoch_when_resumed(tokenizer, monkeypatch) -> None:
    states: list[dict] = []
    monkeypatch.setattr("tutelage.training.loop.CHECKPOINT_SECONDS", 0.0)
    first, *steps, second, _, _ = whole = heard(tokenizer, save=lambda state: states.append(deepcopy(state)))
    assert steps == whole[-2:] == [-1, -1] and first != second and min(first, second) >= 0
    assert (states[2]["epoch"], states[2]["place"]) == (1, 1)
    assert heard(tokenizer, resumed=states[2]) == [second, -1]
