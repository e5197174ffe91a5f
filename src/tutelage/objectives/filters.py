"""Terms on hidden states through task-aware filters (TED, Liang et al. 2023): one learns the filters, one compares through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tutelage.anatomy import Shape
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.objectives.hidden import check_first_token
from tutelage.objectives.mapping import Mapping, Pairs, in_words, pairs
from tutelage.objectives.term import Answers, Comparison, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

Side = Literal["student", "teacher"]


class _Filtered(Term):
    """What the two terms share: the pairs of layers, and a linear filter to the teacher's width for each of their layers.

    Filters have the same names in both terms, so that the second continues with those of the first.
    """

    aligned = True

    layers: Mapping = "uniform"
    """The pairs of layers, by name (:func:`~tutelage.objectives.mapping.pairs`) or as the teacher layer of each student layer, 0
    for none. The terms ``task_filters`` and ``filtered_hidden`` of a recipe have the same."""

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        mapped = self.pairs(student, teacher)
        if not mapped:
            raise TutelageError(
                f"{self.kind} with layers={self.layers} pairs no layers of a student of {student.layers} and a teacher of "
                f"{teacher.layers}; use layers=uniform, or name some"
            )
        return Needs(hidden=frozenset(s for s, _ in mapped)), Needs(hidden=frozenset(t for _, t in mapped))

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        assert teacher is not None
        widths = {"student": student.hidden, "teacher": teacher.hidden}
        return {_name(who, n): _linear(widths[who], teacher.hidden) for who, n in _tapped(self.pairs(student, teacher))}


class TaskFilters(_Filtered):
    """The labels of the data, predicted from the filtered hidden states of each paired layer of student and teacher.

    A linear head on each filter reads what the task's own head reads: the first token's state, or the states of the tokens to
    predict. The loss is that of the labels, mean over layers, the student's and the teacher's added up. Filters and heads alone
    learn from it.
    """

    column = "labels"
    labelled_only = True

    kind: Literal["task_filters"] = "task_filters"

    def words(self) -> str:
        return f"CE of filtered layers, {in_words(self.layers)}"

    def check(self, before: Sequence[Term], *, on_corpus: bool) -> None:
        if on_corpus:
            raise ValueError(
                "the term task_filters learns from the labels of a task; leave it out of stages on a corpus"
            )

    def refusal(self, kind: Answers) -> str | None:
        if not kind.learns_labels:
            return f"learns filters from labels, and kind {kind.name} has none; use another method (`tutelage methods`)"
        return None

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        check_first_token(self.kind, student, teacher)
        return super().needs(student, teacher)

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        assert teacher is not None and student.outputs is not None
        found = super().modules(student, teacher)
        return found | {f"{name}_head": _linear(teacher.hidden, student.outputs) for name in found}

    def value(self, x: Comparison) -> Tensor:
        import torch

        predicted, total = x.batch.predicted, x.batch.mask.new_zeros((), dtype=torch.float32)
        tapped, signals = _tapped(x.pairs), {"student": x.student, "teacher": x.teacher}
        layers = {side: sum(who == side for who, _ in tapped) for side in signals}
        for who, layer in tapped:
            # Without this the student would learn, too, in a stage that trains all of it.
            states, name = signals[who].hidden[layer].detach(), _name(who, layer)
            read = states[:, 0] if predicted is None else states.flatten(0, 1)[predicted]
            logits = x.projections[f"{name}_head"](x.projections[name](read))
            loss = x.kind.hard_loss(x.answers(logits), x.batch.labels, x.batch.totals.known)
            total = total + loss / layers[who]
        return total


class FilteredHidden(_Filtered):
    """Hidden states of paired layers, each through its filter, all tokens; mean over the layers (TED).

    The filters begin as a stage before has learnt them by ``task_filters``. The teacher's keep that state, the student's learn on.
    """

    column = "hidden"
    title = "filtered hidden states"
    continues = True

    kind: Literal["filtered_hidden"] = "filtered_hidden"

    def words(self) -> str:
        return f"MSE of filtered, {in_words(self.layers)}"

    def check(self, before: Sequence[Term], *, on_corpus: bool) -> None:
        learnt = [term for term in before if isinstance(term, TaskFilters)]
        if not learnt:
            raise ValueError("the term filtered_hidden needs filters; give the term task_filters to a stage before")
        if learnt[-1].layers != self.layers:
            raise ValueError(
                f"the term filtered_hidden pairs layers by {self.layers}, and the term task_filters before it by "
                f"{learnt[-1].layers}; give both the same"
            )

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, nn.Module]:
        found = super().modules(student, teacher)
        for name, linear in found.items():
            linear.requires_grad_(not name.startswith(_name("teacher", "")))
        return found

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for s, t in x.pairs:
            ours = x.projections[_name("student", s)](x.student.hidden[s])
            theirs = x.projections[_name("teacher", t)](x.teacher.hidden[t])
            total = total + losses.hidden_mse(ours, theirs, x.batch.compared, x.batch.totals.tokens)
        return total / len(x.pairs)


def _tapped(mapped: Pairs) -> list[tuple[Side, int]]:
    """The layers that have a filter: each of a pair, once."""
    ours, theirs = ({pair[place] for pair in mapped} for place in (0, 1))
    return [*(("student", layer) for layer in sorted(ours)), *(("teacher", layer) for layer in sorted(theirs))]


def _name(who: Side, layer: int | Literal[""]) -> str:
    return f"task_filters_{who}_{layer}"


def _linear(width: int, outputs: int) -> nn.Linear:
    """A linear map with bias, initialised as projections are."""
    from torch import nn

    linear = nn.Linear(width, outputs)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
