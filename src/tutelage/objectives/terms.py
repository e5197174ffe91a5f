"""The terms that an objective is made of: a recipe's way of saying which loss compares what.

A term is data (it prints as YAML) with three things to say: which layers it pairs, what it needs of student and teacher,
and its value for a batch. The formulas are in :mod:`tutelage.objectives.losses`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from tutelage.anatomy import FAMILIES, Shape
from tutelage.data.batches import Batch
from tutelage.data.examples import Kind
from tutelage.errors import TutelageError
from tutelage.knowledge.selection import Count, Cut, Neurons, Score, Selected, Tokens
from tutelage.knowledge.signals import Needs, Signals
from tutelage.objectives import losses
from tutelage.objectives.mapping import Mapping, Pairs, half_up, pairs, topmost

Project = Literal["auto", "per_layer", "shared", "none"]
Padding = Literal["masked", "reference"]


@dataclass(frozen=True)
class Comparison:
    """What a term sees: both models' signals for a batch, the kind of task, the layers it pairs (and what it keeps of each
    of the teacher's, if not all), the projections."""

    student: Signals
    teacher: Signals
    batch: Batch
    kind: Kind
    pairs: Pairs
    cuts: list[Cut]
    projections: nn.ModuleDict

    def answers(self, logits: Tensor) -> Tensor:
        """Logits as ``(answers, classes)``; of spans ``(2 * batch, tokens)``: all starts, then all ends."""
        if self.kind != "spans":
            return logits
        assert self.batch.asked is not None
        texts, width = self.batch.mask.shape
        return losses.by_text(logits, self.batch.asked // width, texts, width).flatten(0, 1)


class Term(BaseModel):
    """What all terms have. ``weight`` multiplies the term's loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Annotated[float, Field(ge=0)] = 1.0

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        """The layers that the term compares; empty for terms on predictions."""
        return []

    def cuts(self, student: Shape, teacher: Shape) -> list[Cut]:
        """What the term keeps of the teacher's layer in each pair; empty for terms that keep no part."""
        return []

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        """What must be read from the student and from the teacher."""
        return Needs(logits=True), Needs(logits=True)

    def projection(self, student: Shape, teacher: Shape) -> Project:
        """``per_layer``, ``shared`` or ``none``."""
        return "none"

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        """The linear maps from the student's width that are learnt with it: by name their outputs, and whether with bias."""
        how = "none" if teacher is None else self.projection(student, teacher)
        if teacher is None or how == "none":
            return {}
        names = ["shared"] if how == "shared" else [str(s) for s, _ in self.pairs(student, teacher)]
        return dict.fromkeys(names, (teacher.hidden, how == "shared"))

    def value(self, x: Comparison) -> Tensor:
        raise NotImplementedError


class HardLabels(Term):
    """The labels of the data: cross-entropy; squared error for regression; binary cross-entropy for multi-label.

    Where answers are given token by token each token counts once, and a span's start and end are two answers among the
    tokens of their text.
    """

    kind: Literal["hard_labels"] = "hard_labels"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        return Needs(logits=True), Needs()

    def value(self, x: Comparison) -> Tensor:
        assert x.student.logits is not None
        logits, labels = x.answers(x.student.logits), x.batch.labels
        if x.kind == "regression":
            return losses.squared_error(logits, labels, x.batch.totals.known)
        if x.kind == "multilabel":
            return losses.binary_cross_entropy(logits, labels, x.batch.totals.known)
        return losses.cross_entropy(logits, labels.t().flatten(), x.batch.totals.known)


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
        student, teacher, count = x.answers(x.student.logits), x.answers(x.teacher.logits), x.batch.totals.answers
        if x.kind == "regression":
            return losses.logits_mse(student, teacher, count=count)
        if x.kind == "multilabel":
            return losses.soft_binary_cross_entropy(student, teacher, self.temperature, scale=self.scale, count=count)
        return losses.soft_cross_entropy(
            student,
            teacher,
            self.temperature,
            scale=self.scale,
            reduction=self.reduction,
            count=count,
            weights=x.teacher.trust,
        )


class LogitsMSE(Term):
    """Squared difference of the logits (Tang et al. 2019; Ba and Caruana 2014)."""

    kind: Literal["logits_mse"] = "logits_mse"
    reduction: Literal["mean", "sum"] = "mean"

    def value(self, x: Comparison) -> Tensor:
        assert x.student.logits is not None and x.teacher.logits is not None
        count = x.batch.totals.answers
        return losses.logits_mse(x.student.logits, x.teacher.logits, reduction=self.reduction, count=count)


def _projection(asked: Project, student: Shape, teacher: Shape, usual: Project) -> Project:
    """How a student's vectors reach the teacher's width; ``usual`` is what ``auto`` means where the widths differ."""
    if asked == "auto":
        return "none" if student.hidden == teacher.hidden else usual
    if asked == "none" and student.hidden != teacher.hidden:
        raise TutelageError(
            f"project=none cannot compare hidden states {student.hidden} wide with the teacher's {teacher.hidden}; "
            f"use project={usual}"
        )
    return asked


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
        theirs = Needs(hidden=frozenset(t for _, t in mapped), padding=self.padding == "reference")
        return Needs(hidden=frozenset(s for s, _ in mapped)), theirs

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return _projection(self.project, student, teacher, "per_layer")

    def value(self, x: Comparison) -> Tensor:
        total = x.student.hidden[x.pairs[0][0]].new_zeros(()).float()
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


class Pooled(Term):
    """The pooler's output, which TinyBERT's own general stage leaves random; mean over the hidden size."""

    kind: Literal["pooled"] = "pooled"
    project: Project = "auto"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        return Needs(pooled=True), Needs(pooled=True)

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        return [(student.layers, teacher.layers)]

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return _projection(self.project, student, teacher, "per_layer")

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        # One at most, for the one pair of vectors, whose name is not that of a layer.
        return dict(zip(("pooled",), super().linears(student, teacher).values(), strict=False))

    def value(self, x: Comparison) -> Tensor:
        assert x.student.pooled is not None and x.teacher.pooled is not None
        ours = x.student.pooled
        if "pooled" in x.projections and self.project != "none":
            ours = x.projections["pooled"](ours)
        return losses.logits_mse(ours, x.teacher.pooled, count=x.batch.totals.examples)


class Verdict(Term):
    """What the teacher thinks of a text, as a class (Pea-KD's PTP): cross-entropy of a classifier of its own on what the
    student's head reads, the pooler's output or the first token's vector. Its labels are those of ``Stage.verdicts``.
    """

    kind: Literal["verdict"] = "verdict"
    classes: Annotated[int, Field(ge=2)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        if FAMILIES[student.family].causal:
            raise TutelageError(
                f"verdict reads what the first token makes of the text, but in a {student.family} it sees no other token; leave "
                "the stage out (--ablation no_ptp)"
            )
        if FAMILIES[student.family].reads_pooler:
            return Needs(pooled=True), Needs()
        return Needs(hidden=frozenset([student.layers])), Needs()

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        return {self.kind: (self.classes, True)}

    def value(self, x: Comparison) -> Tensor:
        read = x.student.pooled
        if read is None:
            read = next(iter(x.student.hidden.values()))[:, 0]
        classifier = x.projections[self.kind]
        logits = classifier(F.dropout(read, self.dropout, classifier.training))
        return losses.cross_entropy(logits, x.batch.labels, x.batch.totals.known)


class AttentionScores(Term):
    """Attention scores before the softmax in mapped layers, head by head; summed over the layers (TinyBERT, eq. 7).

    Where one of the two looks at no later token, the scores of later tokens do not count.
    """

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
        causal, totals = x.student.causal or x.teacher.causal, x.batch.totals
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
                causal=causal,
                count=(totals.pairs + totals.tokens) / 2 if causal else totals.pairs,
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
        for shape in (student, teacher):
            if FAMILIES[shape.family].causal:
                raise TutelageError(
                    f"first_token compares what the first token makes of the text, but in a {shape.family} it sees no other "
                    "token; use hidden (distilbert, tinybert)"
                )
        mapped = self.pairs(student, teacher)
        if not mapped and self.layers != "gcd":
            raise TutelageError(
                f"first_token with layers={self.layers!r} leaves a student of {student.layers} layer(s) without a pair; "
                "give the student at least 2 layers or name the layers as a list"
            )
        cuts = frozenset(self.cuts(student, teacher))
        return Needs(hidden=frozenset(s for s, _ in mapped)), Needs(cuts=cuts)

    def cuts(self, student: Shape, teacher: Shape) -> list[Cut]:
        return [Cut(t, Tokens(count=1), Neurons()) for _, t in self.pairs(student, teacher)]

    def value(self, x: Comparison) -> Tensor:
        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for (s, _), cut in zip(x.pairs, x.cuts, strict=True):
            ours, theirs = x.student.hidden[s][:, 0], x.teacher.cuts[cut].values[:, 0]
            value = losses.patient_mse(ours, theirs, normalize=self.normalize, count=x.batch.totals.examples)
            total = total + (value / ours.shape[-1] if self.reduction == "mean" else value)
        return total / max(len(x.pairs), 1)  # gcd may pair nothing


Layer = Annotated[int, Field(ge=0)]
_AMOUNT = re.compile(r"(all|\d+)l_(all|\d+)t_(\d*\.?\d+)h")


class HiddenKnowledge(Term):
    """A chosen part of the teacher's hidden states (Liu et al. 2021): so many pairs of layers, tokens, neurons.

    ``keep`` is written ``1l_10t_0.1h``: 1 pair of layers, 10 tokens, a tenth of the neurons; ``all`` stands for all layers
    (the embedding output too) or all tokens. The pairs are those of the student's topmost layers under the mapping that
    gives its last layer the teacher's layer ``top`` (left out: ten twelfths of the teacher's depth); ``pairs_of_layers``
    names pairs instead. ``tokens_by`` and ``neurons_by`` say which (see :class:`~tutelage.knowledge.selection.Tokens`);
    ``scored_by="uniform"`` ranks tokens by the layer that a mapping up to the teacher's last would pair, as the authors'
    code does, not by the layer that is distilled.

    The loss is the squared difference, mean over kept tokens and neurons, summed over the pairs. ``width_target="ignore"``
    compares the kept neurons only. ``zero_fill`` sets the others to 0 in the teacher and compares all, as the authors'
    code does: the student is taught to be silent there.
    """

    kind: Literal["hidden_knowledge"] = "hidden_knowledge"
    keep: str = "1l_10t_0.1h"
    top: Count | None = None
    pairs_of_layers: Annotated[list[tuple[Layer, Layer]], Field(min_length=1)] | None = None
    rounding: Literal["half_up", "half_even"] = "half_up"
    tokens_by: Literal["left", "attention", "random"] = "attention"
    separators: bool = False
    score: Score = "probability"
    scored_by: Literal["same", "uniform"] = "same"
    keep_first: bool = False
    neurons_by: Literal["magnitude", "uniform", "random"] = "magnitude"
    random_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    width_target: Literal["ignore", "zero_fill"] = "ignore"
    project: Project = "auto"

    @field_validator("keep")
    @classmethod
    def _can_be_read(cls, keep: str) -> str:
        found = _AMOUNT.fullmatch(keep)
        if not found or any(n.strip("0") == "" for n in found.groups()[:2]) or not 0 < float(found[3]) <= 1:
            raise ValueError(f"keep={keep!r} is not of the form 1l_10t_0.1h (layers, tokens, share of neurons; or all)")
        return keep

    @property
    def amount(self) -> tuple[int | None, int | None, float]:
        """Pairs of layers, tokens, share of neurons; ``None`` for all."""
        depth, length, width = _AMOUNT.fullmatch(self.keep).groups()  # type: ignore[union-attr]
        return (None if depth == "all" else int(depth), None if length == "all" else int(length), float(width))

    def pairs(self, student: Shape, teacher: Shape) -> Pairs:
        if self.pairs_of_layers is not None:
            for s, t in self.pairs_of_layers:
                if s > student.layers or t > teacher.layers:
                    raise TutelageError(
                        f"pairs_of_layers has the pair {s}, {t}, but the student has layers 0 to {student.layers} and "
                        f"the teacher 0 to {teacher.layers}"
                    )
            return list(self.pairs_of_layers)
        top = half_up(10 * teacher.layers, 12) if self.top is None else self.top
        return topmost(self.amount[0], top, student.layers, teacher.layers, self.rounding)

    def cuts(self, student: Shape, teacher: Shape) -> list[Cut]:
        """What is kept for each pair, in turn."""
        _, length, width = self.amount
        tokens = Tokens(
            count=length,
            by="left" if length is None else self.tokens_by,
            # Where all tokens are kept in their places there is nothing to rank.
            separators=self.separators or length is None,
            score=self.score,
            keep_first=self.keep_first and length is not None,
            seed=self.random_seed if self.tokens_by == "random" and length is not None else 0,
        )
        count = None if width == 1 else max(1, half_up(round(width * 10**6) * teacher.hidden, 10**6))
        seed = self.random_seed if self.neurons_by == "random" else 0
        neurons = Neurons(count=count, by=self.neurons_by, seed=seed)
        if tokens.by != "attention":
            return [Cut(t, tokens, neurons) for _, t in self.pairs(student, teacher)]
        uniform = dict(topmost(None, teacher.layers, student.layers, teacher.layers, self.rounding))
        return [
            Cut(t, tokens, neurons, max(1, t if self.scored_by == "same" else uniform[s]))
            for s, t in self.pairs(student, teacher)
        ]

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        assert teacher is not None
        cuts = frozenset(self.cuts(student, teacher))
        if FAMILIES[teacher.family].causal and any(cut.scored_by is not None for cut in cuts):
            raise TutelageError(
                f"hidden_knowledge ranks tokens by the attention of the first, but in a {teacher.family} that sees no other "
                "token; use tokens_by=left or random"
            )
        return Needs(hidden=frozenset(s for s, _ in self.pairs(student, teacher))), Needs(cuts=cuts)

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return _projection(self.project, student, teacher, "shared")

    def value(self, x: Comparison) -> Tensor:
        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for (s, _), cut in zip(x.pairs, x.cuts, strict=True):
            theirs = x.teacher.cuts[cut]
            name = str(s) if self.project == "per_layer" else "shared"
            linear = x.projections[name] if name in x.projections and self.project != "none" else None
            ours = self._kept(x.student.hidden[s], linear, theirs)
            target = theirs.values
            if self.width_target == "zero_fill" and theirs.neurons is not None:
                blank = target.new_zeros(*target.shape[:2], ours.shape[-1])
                target = blank.scatter(-1, theirs.neurons.expand(target.shape), target)
            total = total + losses.hidden_mse(ours, target, theirs.mask, cut.tokens.kept_of(x.batch.totals))
        return total

    def _kept(self, hidden: Tensor, linear: nn.Module | None, theirs: Selected) -> Tensor:
        """The student's side of a cut, in the teacher's width: tokens are gathered before they are projected."""
        neurons = theirs.neurons if self.width_target == "ignore" else None
        if theirs.positions is not None:
            hidden = torch.take_along_dim(hidden, theirs.positions[..., None], dim=1)
        if linear is not None:
            if neurons is not None and neurons.ndim == 1:  # the same for all vectors: nothing else need be computed
                assert isinstance(linear, nn.Linear)
                bias = None if linear.bias is None else linear.bias[neurons]
                return F.linear(hidden, linear.weight[neurons], bias)
            hidden = linear(hidden)
        if neurons is None:
            return hidden
        return hidden[..., neurons] if neurons.ndim == 1 else hidden.gather(-1, neurons)


AnyTerm = Annotated[
    HardLabels
    | SoftLabels
    | LogitsMSE
    | Embeddings
    | Hidden
    | Pooled
    | Verdict
    | AttentionScores
    | FirstToken
    | HiddenKnowledge,
    Field(discriminator="kind"),
]


class Objective(nn.Module):
    """The terms of one stage, ready for a student and a teacher.

    Owns the projections, linear maps from student to teacher width by student layer (``"0"`` the embeddings), one for
    all (``"shared"``), and that of the pooled output (``"pooled"``).

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
        self.cuts: list[list[Cut]] = []
        for term in self.terms:
            if teacher is None and not isinstance(term, HardLabels | Verdict):
                raise TutelageError(f"the objective {term.kind} needs a teacher; give one with --teacher")
            if kind == "spans" and isinstance(term, SoftLabels) and term.reduction == "mean":
                raise TutelageError(
                    "reduction=mean averages over fixed classes, but a span is chosen among the tokens of its text; use "
                    "reduction=batchmean"
                )
            if kind == "spans" and isinstance(term, LogitsMSE):
                raise TutelageError(
                    "logits_mse compares scores of fixed classes, but a span is chosen among the tokens of its text; use "
                    "soft_labels"
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
