"""The term that transports knowledge from all teacher layers to all student layers at the least cost."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError, option
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Pairs
from tutelage.objectives.term import Comparison, Project, Term, resolve_projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tutelage.knowledge.signals import Signals
    from tutelage.objectives.losses import Scores


class Transport(Term):
    """Hidden states and attention scores of all layers, paired by the transport of least cost (BERT-EMD, Li et al. 2020).

    ``D_ij`` is the squared error of student layer i and teacher layer j over the whole step, ``f`` the transport of least
    ``<f, D>`` between weights of the student's and of the teacher's layers, and the loss ``<f, D>``. No gradient passes through
    ``f``. Layers with a low cost per unit get more weight in the next step (cost attention). A step is computed in one piece.
    """

    column = "hidden"
    aligned = True
    whole_step = True

    kind: Literal["transport"] = "transport"
    of: Annotated[tuple[Literal["hidden", "attention"], ...], Field(min_length=1)] = ("hidden", "attention")
    """What is transported. Both have flows of their own between the same weights."""
    project: Project = "auto"
    """How the student's hidden states reach the teacher's width: ``auto`` is ``shared``, one map for all layers, where the widths
    differ."""

    def words(self) -> str:
        return f"MSE of {' and '.join(self.of)}, transport"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return [(s, t) for s in range(1, student.layers + 1) for t in range(1, teacher.layers + 1)]

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        if find_spec("ot") is None:
            raise TutelageError(f'{self.kind} needs POT, which is not installed; pip install "tutelage[transport]"')
        if "attention" in self.of and student.heads != teacher.heads:
            raise TutelageError(
                f"{self.kind} compares attention scores head by head, but the student has {student.heads} heads and the teacher "
                f"{teacher.heads}; use heads={teacher.heads}, or hidden states alone ({option('settings')} "
                "stages.*.transport.of=[hidden])"
            )
        needed = []
        for shape in (student, teacher):
            every = frozenset(range(1, shape.layers + 1))
            needed.append(
                Needs(
                    hidden=every if "hidden" in self.of else frozenset(),
                    attention=every if "attention" in self.of else frozenset(),
                )
            )
        return needed[0], needed[1]

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return resolve_projection(self.project, student, teacher, "shared") if "hidden" in self.of else "none"

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        from tutelage.objectives.mappers import Flows

        assert teacher is not None
        return {self.kind: Flows(student.layers, teacher.layers)}

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives.mappers import Flows

        flows = x.projections[self.kind]
        assert isinstance(flows, Flows)
        hidden = {i: states for i, states in x.student.hidden.items() if i}
        if x.maps:
            hidden = {i: x.maps[0](states) for i, states in hidden.items()}
        total = x.batch.mask.new_zeros(()).float()
        costs = [self._costs(what, x, hidden) for what in self.of]
        for what, flow in zip(self.of, flows.solve(costs), strict=True):
            # A flow of least cost is sparse: at most M + N - 1 of the M N pairs need a loss with gradients.
            for i, j in zip(*flow.nonzero(), strict=True):
                total = total + float(flow[i, j]) * self._loss(what, x, hidden, int(i) + 1, int(j) + 1)
        return total

    def _costs(self, what: str, x: Comparison, hidden: dict[int, Tensor]) -> Tensor:
        """``(M, N)``: the losses of all pairs of layers, without gradients. ``hidden`` is the student's, in the teacher's width."""
        from tutelage.objectives import losses

        mask, totals = x.batch.compared, x.batch.totals
        if what == "attention":
            causal = x.student.causal or x.teacher.causal
            ours, theirs = scores_of(x.student), scores_of(x.teacher)
            return losses.attention_costs(ours, theirs, mask, causal=causal, count=totals.seen_pairs(causal))
        student, teacher = ([states[i] for i in sorted(states) if i] for states in (hidden, x.teacher.hidden))
        return losses.hidden_costs(student, teacher, mask, totals.tokens)

    def _loss(self, what: str, x: Comparison, hidden: dict[int, Tensor], s: int, t: int) -> Tensor:
        """The loss of a pair of layers."""
        from tutelage.objectives import losses

        mask, totals, causal = x.batch.compared, x.batch.totals, x.student.causal or x.teacher.causal
        if what == "hidden":
            return losses.hidden_mse(hidden[s], x.teacher.hidden[t], mask, totals.tokens)
        return losses.attention_score_mse(
            x.student.queries[s],
            x.student.keys[s],
            x.teacher.queries[t],
            x.teacher.keys[t],
            mask,
            student_scaling=x.student.scaling,
            teacher_scaling=x.teacher.scaling,
            student_bias=x.student.biases.get(s),
            teacher_bias=x.teacher.biases.get(t),
            causal=causal,
            count=totals.seen_pairs(causal),
        )


def scores_of(signals: Signals) -> Scores:
    """The attention scores of all layers of a model."""
    from tutelage.objectives.losses import Scores

    layers = sorted(signals.queries)
    return Scores(
        [signals.queries[i] for i in layers],
        [signals.keys[i] for i in layers],
        signals.scaling,
        [signals.biases.get(i) for i in layers],
    )
