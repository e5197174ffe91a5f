"""The teacher of a stage that is a copy of its student."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.hook import Hook
from tutelage.teachers.teacher import LiveTeacher


class Former(LiveTeacher):
    """A former state of the student. It reads the student's tokens, whatever the run's teacher reads."""

    def signals(self, batch: Batch) -> Signals:
        return super().signals(replace(batch, partners=None))


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
