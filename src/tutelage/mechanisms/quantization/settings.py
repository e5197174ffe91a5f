"""Training with the rounding of int8, as settings: the student learns to answer as it will when it is served in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tutelage.errors import TutelageError
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.students.specs import Student

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.mechanism import StageLike
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.teachers.teacher import Teacher


class Quantization(Mechanism):
    """The student's matrix products and embedding tables are rounded as in the int8 file of ``tutelage export``, forward; backward
    the rounding is left out (straight-through estimator, Bengio et al. 2013). The weights stay float32.

    Jacob et al. 2018 (arXiv 1712.05877) train so; Q8BERT (Zafrir et al. 2019, arXiv 1910.06188) does it with BERT.
    """

    kind: Literal["quantization"] = "quantization"
    begin: float = Field(default=0.0, ge=0, lt=1)
    """Share of the stage's steps before the first that is rounded. The student is scored with the rounding from the first epoch
    on, so that a checkpoint is selected by what the file will answer."""
    activations: bool = True
    """Round the inputs of matrix products too, each text with a scale of its own, as they are when one text is served."""
    table_bits: Literal[4, 8] = 8
    """Bits of the numbers of the largest embedding table. 4: for the file of ``tutelage export --table-bits 4``."""
    weight_bits: Literal[4, 8] = 8
    """Bits of the weights of matrix products. 4: for the file of ``tutelage export --weight-bits 4``."""

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        bits = {"table_bits": self.table_bits, "weight_bits": self.weight_bits}
        options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in bits.items() if value != 8)
        begin = max(int(self.begin * steps), 1) + 1
        if self.begin and begin > steps:
            raise TutelageError(
                f"stage {stage.stage.name!r} has {steps} step, and rounds after the first; set quantization.begin=0"
            )
        first = f" from step {begin} of {steps} on, and whenever it is scored" if self.begin else ""
        return [f"  computes as the int8 file of tutelage export{options}{first}"]

    def int8_file(self) -> dict[str, int]:
        return {"table_bits": self.table_bits, "weight_bits": self.weight_bits}

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        if student.needs_mechanism is not None and first:
            raise ValueError(
                f"stage {stage.name!r} trains the compactors of a student with init={student.init}, which are no part of the int8 "
                "file; round in a later stage"
            )
        if student.init == "bilstm":
            raise ValueError(
                "the matrices of a BiLSTM are inside one operator, which cannot be rounded while it learns"
            )

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        from transformers.pytorch_utils import Conv1D

        if any(isinstance(module, Conv1D) for module in scene.student.modules()):
            raise TutelageError(
                f"stage {stage.stage.name!r} rounds linear layers, and a {scene.student.config.model_type} has others in their "
                "place; leave out the mechanism quantization, or take another family"
            )

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.quantization.quantizer import Quantizer

        return Quantizer(self, scene.student)
