"""Terms on predictions and labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tutelage.anatomy import Shape, family_named
from tutelage.errors import TutelageError, option
from tutelage.fields import Size, Temperature
from tutelage.knowledge.needs import Needs
from tutelage.objectives.term import Answers, Comparison, Term

if TYPE_CHECKING:
    from torch import Tensor


class HardLabels(Term):
    """The labels of the data: cross-entropy; squared error for regression; binary cross-entropy for multi-label.

    Where answers are given token by token each token counts once, and a span's start and end are two answers among the
    tokens of their text.
    """

    column = "labels"
    title = "labels"
    on_logits = True
    on_labels = True
    teacherless = True

    kind: Literal["hard_labels"] = "hard_labels"

    def words(self) -> str:
        return "CE"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        return Needs(logits=True), Needs()

    def value(self, x: Comparison) -> Tensor:
        assert x.student.logits is not None
        return x.kind.hard_loss(x.answers(x.student.logits), x.batch.labels, x.batch.totals.known)


class SoftLabels(Term):
    """The teacher's predictions at a temperature (Hinton et al. 2015).

    ``T^2 KL(softmax(z_t / T) || softmax(z_s / T))``, mean over answers. With several labels a text it is the KL of one Bernoulli
    a class. Where there is nothing to soften, it is the squared error against the teacher's output (regression), or one minus
    the cosine (vectors).
    """

    column = "predictions"
    on_logits = True

    kind: Literal["soft_labels"] = "soft_labels"
    temperature: Temperature = 1.0
    """``T``, by which the logits of both models are divided. No effect on a regression or on vectors."""
    scale: bool = True
    """Multiply the loss by ``T^2``, so that its gradient keeps its size at a higher temperature. No effect on a regression or on
    vectors."""
    reduction: Literal["batchmean", "mean"] = "batchmean"
    """Over classes: the sum (``batchmean``), or the mean as in the code of BERT-PKD and TinyBERT (``mean``), which is smaller by
    the number of classes. With several labels a text it is always the mean."""

    def words(self) -> str:
        return f"KL, T={self.temperature:g}"

    def refusal(self, kind: Answers) -> str | None:
        if self.reduction == "mean" and not kind.fixed_outputs:
            return f"averages over fixed classes, and kind {kind.name} has none; use reduction=batchmean"
        return None

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives.losses import SoftLossOptions

        assert x.student.logits is not None and x.teacher.logits is not None
        count, weights = x.batch.totals.answers, x.teacher.weights
        how = SoftLossOptions(self.temperature, self.scale, self.reduction, count, weights)
        return x.kind.soft_loss(x.answers(x.student.logits), x.answers(x.teacher.logits), how)


class LogitsMSE(Term):
    """Squared difference of the logits (Tang et al. 2019; Ba and Caruana 2014)."""

    column = "predictions"
    title = "logits"
    on_logits = True

    kind: Literal["logits_mse"] = "logits_mse"
    reduction: Literal["mean", "sum"] = "mean"
    """Mean or sum over classes. Over answers it is always the mean."""

    def refusal(self, kind: Answers) -> str | None:
        if not kind.fixed_outputs:
            return f"compares the scores of fixed classes, and kind {kind.name} has none; use soft_labels"
        return None

    def value(self, x: Comparison) -> Tensor:
        from tutelage.objectives import losses

        assert x.student.logits is not None and x.teacher.logits is not None
        count = x.batch.totals.answers
        return losses.logits_mse(
            x.student.logits, x.teacher.logits, reduction=self.reduction, count=count, weights=x.teacher.weights
        )


class PseudoLabels(Term):
    """Cross-entropy with the class that the teacher finds most likely, as with a label (Tang et al. 2019)."""

    column = "predictions"
    title = "teacher's most likely class"
    on_logits = True

    kind: Literal["pseudo_labels"] = "pseudo_labels"
    gold: bool = True
    """Use the label of the data instead, where there is one."""

    def words(self) -> str:
        return "CE of arg max"

    def refusal(self, kind: Answers) -> str | None:
        if not kind.single_label:
            return f"needs one class per answer, and kind {kind.name} has none; use soft_labels"
        return None

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        assert x.student.logits is not None and x.teacher.logits is not None
        student, teacher = x.answers(x.student.logits), x.answers(x.teacher.logits)
        labels = x.batch.labels if self.gold else torch.full_like(x.batch.labels, -1)
        count, weights = x.batch.totals.answers, x.teacher.weights
        return losses.pseudo_label_cross_entropy(student, teacher, labels, count, weights=weights)


class SimilarityMatrix(Term):
    """Squared difference of the cosines between the outputs of all pairs of texts in a step (after Tung and Mori 2019).

    Student and teacher may have outputs of different widths. Processes send each other the outputs of their shares of a step.
    """

    column = "predictions"
    on_logits = True
    whole_step = True

    kind: Literal["similarity_matrix"] = "similarity_matrix"

    def words(self) -> str:
        return "MSE of similarities"

    def refusal(self, kind: Answers) -> str | None:
        if not kind.per_text:
            return (
                f"compares texts by their outputs, and kind {kind.name} has several outputs per text; use soft_labels"
            )
        return None

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        assert x.student.logits is not None and x.teacher.logits is not None
        student, teacher = x.student.logits, x.teacher.logits
        count, weights = x.batch.totals.answers, x.teacher.weights
        factors = student.new_ones(len(student)) if weights is None else weights
        rows = torch.cat([student.float(), teacher.float(), factors.float()[:, None]], 1)
        far = of_other_processes(rows if math.isfinite(count) else rows[:0])
        others = None
        if far is not None:
            width = student.shape[1]
            others = far[:, :width], far[:, width:-1], far[:, -1]
        return losses.similarity_matrix(student, teacher, count, weights=weights, others=others)


def of_other_processes(rows: Tensor) -> Tensor | None:
    """The rows that all other processes give in their order, without gradients; None for a process alone.

    Shapes: ``(B, d)`` with another ``B`` in each process, result ``(M, d)``.
    """
    import torch
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, sizes[0].new_tensor([len(rows)]))
    padded = rows.new_zeros(max(int(size) for size in sizes), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    found[dist.get_rank()] = padded[:0]
    return torch.cat([part[: int(size)] for part, size in zip(found, sizes, strict=True)])


class PTP(Term):
    """Cross-entropy of a classifier of PTP labels (Pea-KD): is the teacher correct, is it confident?

    The classifier reads what the student's head reads: the pooler's output or the first token's vector. The labels come from
    the mechanism ``ptp_labels``.
    """

    column = "labels"
    teacherless = True
    labels_from = "ptp_labels"

    kind: Literal["ptp"] = "ptp"
    classes: Annotated[Size, Field(ge=2)] = 4
    """Outputs of the classifier: at least the 4 PTP labels, or with ``control=labels`` of the mechanism the task's classes."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate of what the classifier reads."""

    def words(self) -> str:
        return "CE of PTP labels"

    def needs(self, student: Shape, teacher: Shape | None) -> tuple[Needs, Needs]:
        if family_named(student.family).causal:
            raise TutelageError(
                f"ptp reads the first token, which sees no other token in a {student.family}; leave "
                f"the stage out ({option('ablation')} no_ptp)"
            )
        if family_named(student.family).reads_pooler:
            return Needs(pooled=True), Needs()
        return Needs(hidden=frozenset([student.layers])), Needs()

    def linears(self, student: Shape, teacher: Shape | None) -> dict[str, tuple[int, bool]]:
        return {self.kind: (self.classes, True)}

    def value(self, x: Comparison) -> Tensor:
        import torch.nn.functional as F

        from tutelage.objectives import losses

        read = x.student.pooled
        if read is None:
            read = next(iter(x.student.hidden.values()))[:, 0]
        classifier = x.projections[self.kind]
        logits = classifier(F.dropout(read, self.dropout, classifier.training))
        return losses.cross_entropy(logits, x.batch.labels, x.batch.totals.known)
