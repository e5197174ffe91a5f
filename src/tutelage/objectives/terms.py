"""The terms that an objective is made of: a recipe's way of saying which loss compares what.

A term is data (it prints as YAML) with three things to say: which layers it pairs, what it needs of student and teacher,
and its value for a batch. The formulas are in :mod:`tutelage.objectives.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from tutelage.anatomy import Shape
from tutelage.data.batches import Batch
from tutelage.data.examples import Kind
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Needs, Signals
from tutelage.objectives import losses
from tutelage.objectives.mapping import Mapping, Pairs, pairs

Project = Literal["auto", "per_layer", "shared", "none"]
Padding = Literal["masked", "reference"]


@dataclass(frozen=True)
class Comparison:
    """What a term sees: both models' signals for a batch, the kind of task, the layers it pairs, the projections."""

    student: Signals
    teacher: Signals
    batch: Batch
    kind: Kind
    pairs: Pairs
    projections: nn.ModuleDict


class Term(BaseModel):
    """What all terms have. ``weight`` multiplies the term's loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Annotated[float, Field(ge=0)] = 1.0

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        """The layers that the term compares; empty for terms on predictions."""
        return []

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        """What must be read from the student and from the teacher."""
        return Needs(logits=True), Needs(logits=True)

    def projection(self, student: Shape, teacher: Shape) -> Project:
        """``per_layer``, ``shared`` or ``none``."""
        return "none"

    def value(self, x: Comparison) -> Tensor:
        raise NotImplementedError


class HardLabels(Term):
    """The labels of the data: cross-entropy; squared error for regression; binary cross-entropy for multi-label."""

    kind: Literal["hard_labels"] = "hard_labels"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        return Needs(logits=True), Needs()

    def value(self, x: Comparison) -> Tensor:
        assert x.student.logits is not None
        function = {
            "classification": losses.cross_entropy,
            "regression": losses.squared_error,
            "multilabel": losses.binary_cross_entropy,
        }[x.kind]
        return function(x.student.logits, x.batch.labels, x.batch.totals.labelled)


class SoftLabels(Term):
    """The teacher's predictions at a temperature (Hinton et al. 2015).

    For regression there is nothing to soften: the loss is the squared error against the teacher's output. ``scale`` is
    the factor ``temperature ** 2``; ``reduction="mean"`` averages over classes as some reference codes do.
    """

    kind: Literal["soft_labels"] = "soft_labels"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    scale: bool = True
    reduction: Literal["batchmean", "mean"] = "batchmean"

    def value(self, x: Comparison) -> Tensor:
        assert x.student.logits is not None and x.teacher.logits is not None
        count = x.batch.totals.examples
        if x.kind == "regression":
            return losses.logits_mse(x.student.logits, x.teacher.logits, count=count)
        if x.kind == "multilabel":
            return losses.soft_binary_cross_entropy(
                x.student.logits, x.teacher.logits, self.temperature, scale=self.scale, count=count
            )
        return losses.soft_cross_entropy(
            x.student.logits,
            x.teacher.logits,
            self.temperature,
            scale=self.scale,
            reduction=self.reduction,
            count=count,
        )


class LogitsMSE(Term):
    """Squared difference of the logits (Tang et al. 2019; Ba and Caruana 2014)."""

    kind: Literal["logits_mse"] = "logits_mse"
    reduction: Literal["mean", "sum"] = "mean"

    def value(self, x: Comparison) -> Tensor:
        assert x.student.logits is not None and x.teacher.logits is not None
        return losses.logits_mse(
            x.student.logits, x.teacher.logits, reduction=self.reduction, count=x.batch.totals.examples
        )


class _HiddenTerm(Term):
    """What the two terms on vectors of all tokens share.

    ``project`` says how a student's vector reaches the teacher's width: ``auto`` is ``per_layer`` where the widths differ
    and ``none`` where they agree. A ``per_layer`` map has no bias (TinyBERT, eq. 8 and 9); the one ``shared`` by the
    embeddings and all layers has (the authors' code). ``padding="reference"`` averages over padded places too.
    """

    loss: Literal["mse", "cosine"] = "mse"
    project: Project = "auto"
    padding: Padding = "masked"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        mapped = self.pairs(student, teacher)
        return Needs(hidden=frozenset(s for s, _ in mapped)), Needs(hidden=frozenset(t for _, t in mapped))

    def projection(self, student: Shape, teacher: Shape) -> Project:
        if self.project != "auto":
            if self.project == "none" and student.hidden != teacher.hidden:
                raise TutelageError(
                    f"project=none cannot compare hidden states {student.hidden} wide with the teacher's "
                    f"{teacher.hidden}; use project=per_layer"
                )
            return self.project
        return "none" if student.hidden == teacher.hidden else "per_layer"

    def value(self, x: Comparison) -> Tensor:
        total = x.batch.labels.new_zeros((), dtype=x.student.hidden[x.pairs[0][0]].dtype).float()
        for s, t in x.pairs:
            ours, theirs = x.student.hidden[s], x.teacher.hidden[t]
            if self.project == "shared":
                ours = x.projections["shared"](ours)
            elif str(s) in x.projections and self.project != "none":
                ours = x.projections[str(s)](ours)
            if self.padding == "reference" and self.loss == "mse":
                share_of_step = len(x.batch.rows) / x.batch.totals.examples
                total = total + losses.reference_hidden_mse(ours, theirs) * share_of_step
            else:
                function = losses.hidden_mse if self.loss == "mse" else losses.hidden_cosine
                total = total + function(ours, theirs, x.batch.mask, x.batch.totals.tokens)
        return total


class Embeddings(_HiddenTerm):
    """The embedding output, ``hidden_states[0]`` (TinyBERT, eq. 9)."""

    kind: Literal["embeddings"] = "embeddings"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return [(0, 0)]


class Hidden(_HiddenTerm):
    """Outputs of mapped layers, all tokens; summed over the layers (TinyBERT, eq. 8; DistilBERT's cosine)."""

    kind: Literal["hidden"] = "hidden"
    layers: Mapping = "uniform"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)


class AttentionScores(Term):
    """Attention scores before the softmax in mapped layers, head by head; summed over the layers (TinyBERT, eq. 7)."""

    kind: Literal["attention_scores"] = "attention_scores"
    layers: Mapping = "uniform"
    padding: Padding = "masked"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        if student.heads != teacher.heads:
            raise TutelageError(
                f"attention scores are compared head by head, but the student has {student.heads} heads and the "
                f"teacher {teacher.heads}; use heads={teacher.heads} or a method without attention scores"
            )
        mapped = self.pairs(student, teacher)
        return Needs(attention=frozenset(s for s, _ in mapped)), Needs(attention=frozenset(t for _, t in mapped))

    def value(self, x: Comparison) -> Tensor:
        total = x.student.queries[x.pairs[0][0]].new_zeros(()).float()
        for s, t in x.pairs:
            value = losses.attention_score_mse(
                x.student.queries[s],
                x.student.keys[s],
                x.teacher.queries[t],
                x.teacher.keys[t],
                x.batch.mask,
                student_scaling=x.student.scaling,
                teacher_scaling=x.teacher.scaling,
                padding=self.padding,
                count=x.batch.totals.pairs,
            )
            if self.padding == "reference":
                value = value * (len(x.batch.rows) / x.batch.totals.examples)
            total = total + value
        return total


class FirstToken(Term):
    """Vectors of the first token in mapped layers, mean over the layers (BERT-PKD, eq. 7).

    ``reduction="mean"`` averages over the hidden size too, as the authors' code does: there the weight must be larger by
    the hidden size to mean the same.
    """

    kind: Literal["first_token"] = "first_token"
    layers: Mapping = "skip"
    normalize: bool = True
    reduction: Literal["sum", "mean"] = "sum"

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return pairs(self.layers, student.layers, teacher.layers)

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        if student.hidden != teacher.hidden:
            raise TutelageError(
                f"first_token compares vectors of equal size, but the student's hidden size is {student.hidden} and the "
                f"teacher's {teacher.hidden}; copy layers of the teacher or use a method with projections (tinybert)"
            )
        mapped = self.pairs(student, teacher)
        if not mapped:
            raise TutelageError(
                f"first_token with layers={self.layers!r} leaves a student of {student.layers} layer(s) without a pair; "
                "give the student at least 2 layers or name the layers as a list"
            )
        return Needs(hidden=frozenset(s for s, _ in mapped)), Needs(hidden=frozenset(t for _, t in mapped))

    def value(self, x: Comparison) -> Tensor:
        total = x.student.hidden[x.pairs[0][0]].new_zeros(()).float()
        for s, t in x.pairs:
            ours, theirs = x.student.hidden[s][:, 0], x.teacher.hidden[t][:, 0]
            value = losses.patient_mse(ours, theirs, normalize=self.normalize, count=x.batch.totals.examples)
            total = total + (value / ours.shape[-1] if self.reduction == "mean" else value)
        return total / len(x.pairs)


AnyTerm = Annotated[
    HardLabels | SoftLabels | LogitsMSE | Embeddings | Hidden | AttentionScores | FirstToken,
    Field(discriminator="kind"),
]


class Objective(nn.Module):
    """The terms of one stage, ready for a student and a teacher.

    Owns the projections, linear maps from student to teacher width by student layer (``"0"`` the embeddings) or one for
    all (``"shared"``).

    Raises:
        TutelageError: when a term cannot hold for these shapes (heads, widths, depths), or needs a teacher and none is.
    """

    def __init__(self, terms: list[AnyTerm], kind: Kind, student: Shape, teacher: Shape | None) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.terms = [term for term in terms if term.weight > 0]
        if not self.terms:
            raise TutelageError("the objective has no term with a weight above 0; give one at least one")
        self.student_needs, self.teacher_needs = Needs(), Needs()
        self.projections = nn.ModuleDict()
        self.mapped: list[Pairs] = []
        for term in self.terms:
            if teacher is None and not isinstance(term, HardLabels):
                raise TutelageError(f"the objective {term.kind} needs a teacher; give one with --teacher")
            ours, theirs = term.needs(student, teacher)
            self.student_needs |= ours
            self.teacher_needs |= theirs
            self.mapped.append([] if teacher is None else term.pairs(student, teacher))
            if teacher is not None:
                self._add_projections(term, student, teacher)

    def _add_projections(self, term: Term, student: Shape, teacher: Shape) -> None:
        how = term.projection(student, teacher)
        if how == "none":
            return
        names = ["shared"] if how == "shared" else [str(s) for s, _ in term.pairs(student, teacher)]
        for name in names:
            if name not in self.projections:
                linear = nn.Linear(student.hidden, teacher.hidden, bias=how == "shared")
                nn.init.normal_(linear.weight, std=0.02)
                if how == "shared":
                    nn.init.zeros_(linear.bias)
                self.projections[name] = linear

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> dict[str, Tensor]:
        """Each term's weighted loss by name; their sum is the loss."""
        return {
            term.kind: term.weight
            * term.value(Comparison(student, teacher, batch, self.kind, mapped, self.projections))
            for term, mapped in zip(self.terms, self.mapped, strict=True)
        }
