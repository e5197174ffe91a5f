"""What every term of an objective has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.fields import Weight
from tutelage.knowledge.cuts import Cut
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Pairs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tutelage.data.batches import Batch
    from tutelage.knowledge.signals import Signals
    from tutelage.objectives.losses import Count, SoftLossOptions

Project = Literal["auto", "per_layer", "shared", "none"]


Padding = Literal["masked", "reference"]


Normalize = Literal["none", "teacher"]


class Answers(Protocol):
    """What terms ask of a kind of task (see ``tasks.kind.Kind``, where each is described)."""

    name: str
    fixed_outputs: bool
    per_text: bool
    single_label: bool
    learns_labels: bool

    def answers(self, logits: Tensor, batch: Batch) -> Tensor: ...

    def hard_loss(self, logits: Tensor, labels: Tensor, count: Count = None) -> Tensor: ...

    def soft_loss(self, student: Tensor, teacher: Tensor, how: SoftLossOptions) -> Tensor: ...


@dataclass(frozen=True)
class Comparison:
    """What a term sees: both models' signals for a batch, the kind of task, the layers it pairs (and what it keeps of each
    of the teacher's, if not all), the projections."""

    student: Signals
    teacher: Signals
    batch: Batch
    kind: Answers
    pairs: Pairs
    cuts: list[Cut]
    projections: nn.ModuleDict
    maps: Sequence[nn.Module] = ()
    """The linear map of each pair, in their order; empty for a term that compares without one."""

    def answers(self, logits: Tensor) -> Tensor:
        """Logits as the losses of the kind take them."""
        return self.kind.answers(logits, self.batch)

    @property
    def groups(self) -> dict[int, list[int]]:
        """The places in ``pairs`` (and in ``cuts`` and ``maps``) of each student layer, where layers have several pairs."""
        found: dict[int, list[int]] = {}
        for place, (s, _) in enumerate(self.pairs):
            found.setdefault(s, []).append(place)
        return found


Column = Literal["embeddings", "attention", "hidden", "predictions", "labels"]
"""The columns of the methods table: what a stage learns from."""


class Term(BaseModel):
    """One loss of an objective, as data. A subclass sets the class variables, says what it needs, and computes ``value``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    column: ClassVar[Column]
    """The column of the methods table."""
    title: ClassVar[str] = ""
    """The term's name for people, in plan and report; empty: its ``kind`` with spaces. A subclass doesn't inherit it."""
    on_logits: ClassVar[bool] = False
    """The term reads the student's answers to the task, and nothing else of the student."""
    aligned: ClassVar[bool] = False
    """The term compares token by token: student and teacher must read the same tokens."""
    on_labels: ClassVar[bool] = False
    """The term reads the labels of the data. It is left out where the kind of task has none."""
    whole_step: ClassVar[bool] = False
    """The term compares the examples of a step with each other: a step is computed in one piece."""
    teacherless: ClassVar[bool] = False
    """The term needs no teacher."""
    partial: ClassVar[bool] = False
    """The term is a sum over pairs of layers, some of which may be missing: a sub-network of the student can learn from it."""
    labels_from: ClassVar[str | None] = None
    """The kind of mechanism that makes the term's labels; None for the labels of the data."""
    labelled_only: ClassVar[bool] = False
    """The term learns nothing from a text without a label: its stage leaves such texts out."""
    continues: ClassVar[bool] = False
    """The term's modules begin as the last stage that had them left them, where names and shapes agree; otherwise as new."""

    kind: str
    """The term's name in a recipe."""
    weight: Weight = 1.0
    """Factor of the term's loss; a term with weight 0 is left out."""
    optional: bool = False
    """Leave the term out where the models or the kind of task do not allow it, instead of an error."""

    @classmethod
    def called(cls) -> str:
        """:attr:`title`, or what stands for it."""
        return vars(cls).get("title") or str(cls.model_fields["kind"].default).replace("_", " ")

    def words(self) -> str:
        """The loss in a few words, for the methods table."""
        return "MSE"

    def refusal(self, kind: Answers) -> str | None:
        """Why the loss is wrong for a kind of task, and the remedy; ``None`` if it is right. The message continues
        "the term KIND ..."."""
        return None

    def check(self, before: Sequence[Term], *, on_corpus: bool) -> None:
        """Check the term's place in a recipe.

        Args:
            before: The terms of the stages before its own.
            on_corpus: Whether its stage trains on raw text.

        Raises:
            ValueError: when the term cannot stand there.
        """

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        """The layers that the term compares; empty for terms on predictions."""
        return []

    def unpaired(self, student: Shape, teacher: Shape) -> str | None:
        """A warning for a term that pairs no layers of these shapes, where that is allowed; it continues "stage NAME ..."."""
        return None

    def cuts(self, student: Shape, teacher: Shape) -> list[Cut]:
        """What the term keeps of the teacher's layer in each pair; empty for terms that keep no part."""
        return []

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        """What must be read from the student and from the teacher."""
        return Needs(logits=True), Needs(logits=True)

    def projection(self, student: Shape, teacher: Shape) -> Project:
        """``per_layer``, ``shared`` or ``none``."""
        return "none"

    def maps(self, student: Shape, teacher: Shape) -> list[str]:
        """The name of the linear map to the teacher's width of each pair; empty for a term that compares without one.

        Names start with ``kind``: terms of one name have one map, which is right only where the recipe asks for it.
        """
        how = self.projection(student, teacher)
        if how == "none":
            return []
        return [f"{self.kind}_{'shared' if how == 'shared' else s}" for s, _ in self.pairs(student, teacher)]

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        """The linear maps from the student's width that are learnt with it: by name their outputs, and whether with bias."""
        if teacher is None:
            return {}
        has_bias = self.projection(student, teacher) == "shared"
        return dict.fromkeys(self.maps(student, teacher), (teacher.hidden, has_bias))

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        """Modules that are trained with the student and read in ``value`` by name from ``Comparison.projections``.

        They are saved with the projections. Names start with the term's ``kind``, or with that of the term whose modules it
        :attr:`continues`. One that follows the training, epoch by epoch or step by step, is a
        :class:`~tutelage.objectives.mappers.Mapper`.
        """
        return {}

    def value(self, x: Comparison) -> Tensor:
        """The loss of a batch, a scalar: a sum over the batch divided by the step's totals. It uses the same parameters in each
        batch, on which processes rely that exchange gradients."""
        raise NotImplementedError


def resolve_projection(given: Project, student: Shape, teacher: Shape, usual: Project) -> Project:
    """How a student's vectors reach the teacher's width; ``usual`` is what ``auto`` means where the widths differ."""
    if given == "auto":
        return "none" if student.hidden == teacher.hidden else usual
    if given == "none" and student.hidden != teacher.hidden:
        raise TutelageError(
            f"project=none cannot compare hidden states {student.hidden} wide with the teacher's {teacher.hidden}; "
            f"use project={usual}"
        )
    return given
