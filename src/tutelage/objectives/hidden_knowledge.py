"""The term on a selected part of the hidden states (minimum-knowledge distillation)."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from tutelage.anatomy import Shape, family_named
from tutelage.errors import TutelageError
from tutelage.fields import Layer, Size
from tutelage.knowledge.cuts import Cut, Neurons, Score, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.objectives.mapping import Pairs, half_up, topmost
from tutelage.objectives.term import Comparison, Normalize, Project, Term, resolve_projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tutelage.knowledge.selection import Selected

_AMOUNT = re.compile(r"(all|\d+)l_(all|\d+)t_(\d*\.?\d+)h")


class HiddenKnowledge(Term):
    """A chosen part of the teacher's hidden states (Liu et al. 2021): so many pairs of layers, tokens, neurons.

    The loss is the squared difference, mean over kept tokens and compared neurons, summed over the pairs.
    """

    column = "hidden"
    aligned = True

    kind: Literal["hidden_knowledge"] = "hidden_knowledge"
    keep: str = "1l_10t_0.1h"
    """What is kept: ``1l_10t_0.1h`` is 1 pair of layers, the student's topmost, 10 tokens of a text, and a tenth of the neurons.
    ``alll`` keeps all layers, the embedding output too, and ``allt`` all tokens."""
    top: Size | None = None
    """The teacher layer that teaches the student's last; student layer m of M then learns from layer m top / M. Default: ten
    twelfths of the teacher's depth."""
    pairs_of_layers: Annotated[list[tuple[Layer, Layer]], Field(min_length=1)] | None = None
    """Pairs (student layer, teacher layer) in place of those that ``keep`` and ``top`` give; 0 is the embedding output."""
    rounding: Literal["half_up", "half_even"] = "half_up"
    """Rounding of ``m top / M``; ``half_even`` is that of the authors' code."""
    tokens_by: Literal["left", "attention", "random"] = "attention"
    """The tokens that are kept: the first in reading order (``left``), those that receive most attention from the first token
    (``attention``), or a random choice for each text (``random``)."""
    separators: bool = False
    """Whether [SEP] may be kept. Where all tokens are kept, it always is."""
    score: Score = "probability"
    """For ``attention``: rank tokens by the mean over heads of the attention probabilities, or of the scores before the softmax
    (``logit``), as in the authors' code."""
    scored_by: Literal["same", "uniform"] = "same"
    """For ``attention``: the teacher layer that ranks the tokens. ``same``: the one that is distilled; ``uniform``: the one that
    ``top`` at the teacher's last layer would pair, as in the authors' code. Layer 1 stands for the embedding output."""
    keep_first: bool = False
    """Keep the first token whatever its rank."""
    neurons_by: Literal["magnitude", "uniform", "random"] = "magnitude"
    """The coordinates that are kept: those of largest absolute value in each of the teacher's vectors (``magnitude``), evenly
    spaced ones (``uniform``), or one random set (``random``)."""
    random_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of ``random`` tokens and neurons."""
    width_target: Literal["ignore", "zero_fill"] = "ignore"
    """What happens to the other neurons: ``ignore`` does not compare them; ``zero_fill`` compares them with 0, as in the authors'
    code, which teaches the student to be silent there. The mean is then over all neurons."""
    project: Project = "auto"
    """Learnt linear maps to the teacher's width: one with bias for all layers (``shared``), one for each layer, without bias
    (``per_layer``), or ``none``, for equal widths. ``auto`` is ``shared`` where the widths differ, else ``none``."""
    normalize: Normalize = "none"
    """``teacher`` divides the squares of each text by those of what is kept of the teacher's, so that layers of every scale weigh
    alike."""

    def words(self) -> str:
        return f"MSE, {self.keep}, {self.neurons_by}"

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
        if family_named(teacher.family).causal and any(cut.scored_by is not None for cut in cuts):
            raise TutelageError(
                f"hidden_knowledge ranks tokens by the attention of the first, but in a {teacher.family} that sees no other "
                "token; use tokens_by=left or random"
            )
        return Needs(hidden=frozenset(s for s, _ in self.pairs(student, teacher))), Needs(cuts=cuts)

    def projection(self, student: Shape, teacher: Shape) -> Project:
        return resolve_projection(self.project, student, teacher, "shared")

    def value(self, x: Comparison) -> Tensor:
        import torch

        from tutelage.objectives import losses

        total = x.batch.mask.new_zeros((), dtype=torch.float32)
        for (s, _), cut, linear in zip_longest(x.pairs, x.cuts, x.maps):
            theirs = x.teacher.cuts[cut]
            ours = self._kept(x.student.hidden[s], linear, theirs)
            target = theirs.values
            if self.width_target == "zero_fill" and theirs.neurons is not None:
                blank = target.new_zeros(*target.shape[:2], ours.shape[-1])
                target = blank.scatter(-1, theirs.neurons.expand(target.shape), target)
            count, relative = cut.tokens.kept_of(x.batch.totals), self.normalize == "teacher"
            total = total + losses.hidden_mse(ours, target, theirs.mask, count, relative=relative)
        return total

    def _kept(self, hidden: Tensor, linear: nn.Module | None, theirs: Selected) -> Tensor:
        """The student's side of a cut, in the teacher's width: tokens are gathered before they are projected."""
        import torch
        import torch.nn.functional as F
        from torch import nn

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
