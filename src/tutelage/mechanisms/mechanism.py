"""What a stage does in addition to its objective, as data: a specification with its own checks, teacher, labels and hook.

A mechanism is named in ``Stage.mechanisms``. A stage may have several. Recipes, runs and the training loop know none of them by
name. To add one, subclass :class:`Mechanism` in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from tutelage.objectives.kinds import ByKind
from tutelage.objectives.term import Term
from tutelage.students.specs import Student

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

    from tutelage.anatomy import Head
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.mechanisms import MechanismEntry
    from tutelage.report.section import Section
    from tutelage.teachers.source import Source
    from tutelage.teachers.teacher import Teacher


class StageLike(Protocol):
    """What a mechanism reads of its stage (:class:`tutelage.recipes.recipe.Stage`)."""

    @property
    def name(self) -> str: ...
    @property
    def objective(self) -> Sequence[Term]: ...
    @property
    def data(self) -> Any: ...
    @property
    def train(self) -> Any: ...
    @property
    def select(self) -> str: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def fresh(self) -> bool: ...
    @property
    def on_corpus(self) -> bool: ...
    @property
    def labels_only(self) -> bool: ...
    @property
    def mechanisms(self) -> Sequence[Mechanism]: ...


class Mechanism(BaseModel):
    """One thing that a stage does in addition to its objective. A subclass overrides only what it needs.

    Methods in the order of their calls: ``check`` (the recipe is read), ``prepare`` (data and models are loaded, nothing is
    written yet), ``plan`` (the printed plan), ``labels``, ``teacher`` and ``hook`` (the stage begins), ``report``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    brings_teacher: ClassVar[bool] = False
    """:meth:`teacher` replaces the run's teacher, which the stage then does not need."""
    brings_labels: ClassVar[bool] = False
    """:meth:`labels` replaces the labels of the texts; texts without a label are left out."""
    asks_teacher: ClassVar[bool] = False
    """The mechanism reads the teacher's predictions, even if the objective does not."""
    takes_teachers: ClassVar[bool] = False
    """The mechanism reads ``RunConfig.teachers``. A part of the training set is held out for it."""
    keeps_last: ClassVar[bool] = False
    """The student is complete only at the end of the stage, so the baseline keeps its last epoch too."""

    kind: str
    """The mechanism's name in a recipe."""

    def trains_without_held_out(self) -> bool:
        """Whether the stage leaves out the part of the training set that is held out for :attr:`takes_teachers`."""
        return False

    def check(self, stage: StageLike) -> None:
        """Check the stage.

        Raises:
            ValueError: when the mechanism does not fit its stage.
        """

    def check_student(self, stage: StageLike, student: Student, *, first: bool) -> None:
        """Check the student.

        Args:
            first: Whether this is the student's first stage.

        Raises:
            ValueError: when the mechanism does not fit the student.
        """

    def expanded(self, teachers: tuple[str, ...]) -> tuple[str, ...]:
        """The teachers that the names in ``RunConfig.teachers`` stand for."""
        return teachers

    def lead(self, teachers: tuple[str, ...]) -> str | None:
        """The one of several teachers that student and report refer to, if ``RunConfig.teacher`` is not set."""
        return None

    def together(self, teachers: tuple[str, ...], head: Head) -> list[Source]:
        """The teachers that all teach each step, so that terms on layers compare each one's; none where one teaches a step.

        Args:
            teachers: ``RunConfig.teachers``, expanded.
            head: What they answer.

        Raises:
            TutelageError: when one of them has no configuration or tokenizer that can be loaded.
        """
        return []

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        """Check and load what the stage needs. Every mistake of the user must be found here.

        Raises:
            TutelageError: with the thing, the value and the remedy.
        """

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        """Lines for the printed plan of a stage of ``steps`` steps.

        Raises:
            TutelageError: when the steps do not suffice.
        """
        return []

    def int8_file(self) -> dict[str, int]:
        """Arguments of :func:`tutelage.serving.quantize` of the file in which the student is to be served; none for any file."""
        return {}

    def passes(self, model: PreTrainedModel) -> float:
        """Passes through the layers of the student ``model`` in which a text is learnt once; 1 unless it has several networks."""
        return 1.0

    def about(self, scene: Scene) -> list[str]:
        """Lines for the head of the printed plan, once for a run."""
        return []

    def labels(self, scene: Scene, stage: StageScene) -> npt.NDArray[np.int64] | None:
        """``(examples,)``: labels that replace those of the texts; -1 for none."""
        return None

    def teacher(self, scene: Scene, stage: StageScene) -> Teacher | None:
        """The teacher of the stage, if the mechanism brings one."""
        return None

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook | None:
        """The mechanism's part in the training loop; ``teacher`` is what :meth:`teacher` returned."""
        return None

    def report(self, scene: Scene) -> MechanismEntry | None:
        """What the mechanism says in ``report.json``, under ``mechanisms`` and its kind. Called once for each kind of mechanism in
        a run."""
        return None

    def sections(self, scene: Scene) -> list[Section]:
        """Sections of the report's page, kept in ``report.json``. Called once for each kind of mechanism in a run."""
        return []

    def warnings(self, folder: Path) -> list[str]:
        """Reasons to doubt the result, for the report."""
        return []


def check_last(stage: StageLike, does: str) -> None:
    """Check that a stage keeps its last epoch.

    Args:
        does: What the stage does, because of which its student is complete only then.

    Raises:
        ValueError: when it keeps the best epoch or may end before.
    """
    if stage.select == "best" or stage.patience is not None:
        raise ValueError(
            f"stage {stage.name!r} {does}, so its student is complete only at the end; set select=last, without patience"
        )


def reported(mechanisms: Iterable[Mechanism], scene: Scene) -> dict[str, Any]:
    """What the mechanisms of a run bring to its report: the fields ``mechanisms`` and ``sections``."""
    each = list({one.kind: one for one in mechanisms}.values())
    said = {one.kind: found for one in each if (found := one.report(scene)) is not None}
    return {"mechanisms": said, "sections": [section for one in each for section in one.sections(scene)]}


AnyMechanism = Annotated[SerializeAsAny[Mechanism], ByKind(Mechanism, "mechanism")]


def of_kind(mechanisms: Sequence[Mechanism], cls: type[Mechanism]) -> Any:
    """The first mechanism of this class, or None."""
    return next((one for one in mechanisms if isinstance(one, cls)), None)
