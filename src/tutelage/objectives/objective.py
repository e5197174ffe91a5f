"""The terms of one stage, ready for a student and a teacher."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage.anatomy import Shape
from tutelage.data.batches import Batch
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Cut
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.objectives.mapping import Pairs
from tutelage.objectives.predictions import HardLabels, LogitsMSE, SoftLabels, Verdict
from tutelage.objectives.term import Answers, Comparison
from tutelage.objectives.terms import AnyTerm


class Objective(nn.Module):
    """The terms of one stage, ready for a student and a teacher.

    Owns the projections, linear maps from student to teacher width by student layer (``"0"`` the embeddings), one for
    all (``"shared"``), and that of the pooled output (``"pooled"``).

    Raises:
        TutelageError: when a term cannot hold for these shapes (heads, widths, depths), or needs a teacher and none is.
    """

    def __init__(self, terms: list[AnyTerm], kind: Answers, student: Shape, teacher: Shape | None) -> None:
        super().__init__()
        self.kind = kind
        self.terms = [term for term in terms if term.weight > 0]
        if not self.terms:
            raise TutelageError("the objective has no term with a weight above 0; give one at least one")
        self.student_needs, self.teacher_needs = Needs(), Needs()
        self.projections = nn.ModuleDict()
        self.mapped: list[Pairs] = []
        self.cuts: list[list[Cut]] = []
        for term in self.terms:
            if teacher is None and not isinstance(term, HardLabels | Verdict):
                raise TutelageError(f"the objective {term.kind} needs a teacher; give one with --teacher")
            if not kind.fixed_outputs and isinstance(term, SoftLabels) and term.reduction == "mean":
                raise TutelageError(
                    f"reduction=mean averages over fixed classes, which a task of kind {kind.name} does not have; use "
                    "reduction=batchmean"
                )
            if not kind.fixed_outputs and isinstance(term, LogitsMSE):
                raise TutelageError(
                    f"logits_mse compares scores of fixed classes, which a task of kind {kind.name} does not have; use soft_labels"
                )
            ours, theirs = term.needs(student, teacher)
            self.student_needs |= ours
            self.teacher_needs |= theirs
            self.mapped.append([] if teacher is None else term.pairs(student, teacher))
            self.cuts.append([] if teacher is None else term.cuts(student, teacher))
            for name, (width, bias) in term.linears(student, teacher).items():
                if name not in self.projections:
                    self.projections[name] = linear = nn.Linear(student.hidden, width, bias=bias)
                    nn.init.normal_(linear.weight, std=0.02)
                    if bias:
                        nn.init.zeros_(linear.bias)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> dict[str, Tensor]:
        """Each term's weighted loss by name; their sum is the loss."""
        return {
            term.kind: term.weight
            * term.value(Comparison(student, teacher, batch, self.kind, mapped, cuts, self.projections))
            for term, mapped, cuts in zip(self.terms, self.mapped, self.cuts, strict=True)
        }
