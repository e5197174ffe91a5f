"""The terms of one stage: first what they need of which layers, as plain data; then a module that computes the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from tutelage.anatomy import Shape
from tutelage.data.batches import Batch
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Cut
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.objectives.mapping import Pairs
from tutelage.objectives.predictions import HardLabels, LogitsMSE, SimilarityMatrix, SoftLabels
from tutelage.objectives.term import Answers, Comparison, Term


@dataclass(frozen=True)
class ObjectivePlan:
    """What an objective reads and compares, for given shapes. No module is built to learn this.

    Raises:
        TutelageError: when a term cannot hold for these shapes (heads, widths, depths), or needs a teacher and none is given.
    """

    given: Sequence[Term]
    kind: Answers
    student: Shape
    teacher: Shape | None
    terms: list[Term] = field(init=False)
    """The terms with a weight above 0; without those on labels, where the kind of task has none."""
    pairs: list[Pairs] = field(init=False)
    """For each term, the pairs of layers that it compares."""
    cuts: list[list[Cut]] = field(init=False)
    """For each term, what it keeps of the teacher's layer in each pair."""
    student_needs: Needs = field(init=False)
    teacher_needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        terms = [term for term in self.given if term.weight > 0]
        if not self.kind.learns_labels:
            terms = [term for term in terms if not isinstance(term, HardLabels)]
            if not terms:
                raise TutelageError(
                    f"a task of kind {self.kind.name} has no labels to learn from; use a method with a teacher (distill --method "
                    "kd)"
                )
        if not terms:
            raise TutelageError("the objective has no term with a weight above 0; give one at least one")
        ours, theirs = Needs(), Needs()
        for term in terms:
            self._check(term)
            needed = term.needs(self.student, self.teacher)
            ours, theirs = ours | needed[0], theirs | needed[1]
        teacher = self.teacher
        pairs = [[] if teacher is None else term.pairs(self.student, teacher) for term in terms]
        cuts = [[] if teacher is None else term.cuts(self.student, teacher) for term in terms]
        for name, value in (
            ("terms", terms),
            ("pairs", pairs),
            ("cuts", cuts),
            ("student_needs", ours),
            ("teacher_needs", theirs),
        ):
            object.__setattr__(self, name, value)

    @property
    def linears(self) -> dict[str, tuple[int, bool]]:
        """The projections: by name their number of outputs, and whether they have a bias."""
        found: dict[str, tuple[int, bool]] = {}
        for term in self.terms:
            for name, sizes in term.linears(self.student, self.teacher).items():
                found.setdefault(name, sizes)
        return found

    @property
    def whole_step(self) -> bool:
        """Whether a step must be computed in one piece."""
        return any(term.whole_step for term in self.terms)

    def _check(self, term: Term) -> None:
        if self.teacher is None and not term.teacherless:
            raise TutelageError(f"the objective {term.kind} needs a teacher; give one with --teacher")
        if not self.kind.fixed_outputs and isinstance(term, SoftLabels) and term.reduction == "mean":
            raise TutelageError(
                f"reduction=mean averages over fixed classes, which a task of kind {self.kind.name} does not have; use "
                "reduction=batchmean"
            )
        if not self.kind.per_text and isinstance(term, SimilarityMatrix):
            raise TutelageError(
                f"similarity_matrix compares texts by their outputs, of which a task of kind {self.kind.name} has several a "
                "text; use soft_labels"
            )
        if not self.kind.fixed_outputs and isinstance(term, LogitsMSE):
            raise TutelageError(
                f"logits_mse compares scores of fixed classes, which a task of kind {self.kind.name} does not have; use soft_labels"
            )


class Objective(nn.Module):
    """The losses of one stage, for a student and a teacher of these shapes.

    Owns the projections: linear maps from student to teacher width by student layer (``"0"`` is the embedding output), one
    for all layers (``"shared"``), that of the pooled output (``"pooled"``), and the modules that terms bring.

    Raises:
        TutelageError: as :class:`ObjectivePlan`.
    """

    def __init__(self, terms: Sequence[Term], kind: Answers, student: Shape, teacher: Shape | None) -> None:
        super().__init__()
        self.plan = plan = ObjectivePlan(terms, kind, student, teacher)
        self.projections = nn.ModuleDict()
        for name, (width, bias) in plan.linears.items():
            self.projections[name] = linear = nn.Linear(plan.student.hidden, width, bias=bias)
            nn.init.normal_(linear.weight, std=0.02)
            if bias:
                nn.init.zeros_(linear.bias)
        for term in plan.terms:
            self.projections.update(term.modules(plan.student, plan.teacher))

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> dict[str, Tensor]:
        """Each term's weighted loss by name; their sum is the loss."""
        plan = self.plan
        return {
            term.kind: term.weight
            * term.value(Comparison(student, teacher, batch, plan.kind, pairs, cuts, self.projections))
            for term, pairs, cuts in zip(plan.terms, plan.pairs, plan.cuts, strict=True)
        }
