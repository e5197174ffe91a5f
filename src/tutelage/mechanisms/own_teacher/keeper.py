"""Keeps the teacher of a stage that is a copy of its student."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from tutelage.mechanisms.hook import Hook


class Keeper(Hook):
    """Gives the teacher the student's weights of the stage's begin, and keeps them for a checkpoint of the stage.

    A resumed run makes hooks when the student has its weights; before that, it has those from before the first stage.
    """

    def __init__(self, teacher: PreTrainedModel, student: PreTrainedModel) -> None:
        self._teacher = teacher
        teacher.load_state_dict(student.state_dict())

    def state(self) -> dict[str, Tensor]:
        return dict(self._teacher.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        self._teacher.load_state_dict(state)
