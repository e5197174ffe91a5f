"""Losses as pure functions: tensors and a mask in, a scalar out, computed in float32.

Each returns ``sum / count``. ``count`` may be given from outside: a batch that is cut into micro-batches, or spread over
processes, then yields parts that add up to the loss of the whole, exactly. Where it is not given, it is taken from the
arguments. Padded positions (mask 0) change neither a value nor a gradient.

Symbols: ``B`` batch, ``C`` classes, ``n`` padded length, ``d`` hidden size, ``h`` heads, ``z`` logits, ``T`` temperature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Count = Tensor | float | None


@dataclass(frozen=True)
class SoftLossOptions:
    """Settings of a kind of task's loss on teacher predictions (``Kind.soft_loss``)."""

    temperature: float = 1.0
    """Divides the logits of both models."""
    scale: bool = True
    """Multiply the loss by ``temperature ** 2``."""
    reduction: Literal["batchmean", "mean"] = "batchmean"
    """``mean`` averages over outputs too."""
    count: Count = None
    """Answers of the whole optimiser step; by default those given."""
    weights: Tensor | None = None
    """``(answers,)``: factors of the losses."""


DIRECT_UP_TO = 128
"""Longest input for which attention scores are compared map against map (see :func:`attention_score_mse`)."""


def mean_over(total: Tensor, count: Count, default: Tensor | float) -> Tensor:
    """A sum over the batch, divided by the total of the whole optimiser step; where that is not given, by the batch's own.

    Shapes: ``total``, counts: scalars; a count below 1 is 1.
    """
    divisor = default if count is None else count
    return total / (divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(divisor, 1))


def cross_entropy(logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
    """Hard labels: ``-log softmax(z)[y]``, mean over examples; label ``-1`` marks an example without one.

    Shapes: logits ``(B, C)``, labels ``(B,)`` integer.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    return mean_over(total, count, (labels >= 0).sum())


def pseudo_label_cross_entropy(
    student: Tensor, teacher: Tensor, labels: Tensor, count: Count = None, *, weights: Tensor | None = None
) -> Tensor:
    """``-log softmax(z_s)[y]``, mean over examples; y is the label, and ``argmax z_t`` where that is -1 (Tang et al. 2019).

    ``weights`` multiply the examples' losses. Shapes: logits ``(B, C)``, labels and weights ``(B,)``.
    """
    chosen = torch.where(labels < 0, teacher.argmax(dim=-1), labels)
    each = F.cross_entropy(student.float(), chosen, reduction="none")
    return mean_over(each.sum() if weights is None else weights @ each, count, float(student.shape[0]))


def squared_error(outputs: Tensor, labels: Tensor, count: Count = None) -> Tensor:
    """Regression on labels: ``(z - y)^2``, mean over examples; ``nan`` marks an example without a label.

    Shapes: outputs ``(B, 1)`` or ``(B,)``, labels ``(B,)``.
    """
    known = ~labels.isnan()
    difference = torch.where(known, outputs.float().reshape(labels.shape) - labels.nan_to_num(), 0.0)
    return mean_over(difference.square().sum(), count, known.sum())


def binary_cross_entropy(logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
    """Multi-label hard labels: binary cross-entropy, mean over classes and examples; ``nan`` rows have no label.

    Shapes: both ``(B, C)``.
    """
    known = ~labels.isnan().any(dim=1)
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    return mean_over((losses.mean(dim=1) * known).sum(), count, known.sum())


def soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    scale: bool = True,
    reduction: Literal["batchmean", "mean"] = "batchmean",
    count: Count = None,
    weights: Tensor | None = None,
) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))``, summed over classes, mean over examples (Hinton et al. 2015).

    Its gradient in ``z_s`` is ``(T / B) (p_s - p_t)``, that of the soft cross-entropy: the two differ by the teacher's
    entropy. ``scale=False`` leaves the ``T^2`` out; ``reduction="mean"`` averages over classes too, as the reference code
    of BERT-PKD and TinyBERT does, which makes the loss ``C`` times smaller. ``weights`` multiply the examples' losses.

    Shapes: both ``(B, C)``, weights ``(B,)``.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    if weights is None:
        total = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    else:
        total = weights @ F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=-1)
    if scale:
        total = total * temperature**2
    if reduction == "mean":
        total = total / student.shape[-1]
    return mean_over(total, count, float(student.shape[0]))


def soft_binary_cross_entropy(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, *, scale: bool = True, count: Count = None
) -> Tensor:
    """Multi-label soft labels: ``T^2`` times the KL of one Bernoulli a class, mean over classes and examples.

    Shapes: both ``(B, C)``.
    """
    s, t = student.float() / temperature, teacher.float() / temperature
    p = t.sigmoid()
    kl = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    total = kl.mean(dim=-1).sum() * (temperature**2 if scale else 1.0)
    return mean_over(total, count, float(student.shape[0]))


def logits_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    count: Count = None,
    weights: Tensor | None = None,
) -> Tensor:
    """``||z_s - z_t||^2``, mean over examples, and mean or sum over classes (Tang et al. 2019).

    ``weights`` multiply the examples' losses. Shapes: both ``(B, C)``, weights ``(B,)``.
    """
    squares = (student.float() - teacher.float()).square()
    total = squares.sum() if weights is None else weights @ squares.sum(dim=-1)
    return mean_over(total if reduction == "sum" else total / student.shape[-1], count, float(student.shape[0]))


def vector_cosine(student: Tensor, teacher: Tensor, count: Count = None) -> Tensor:
    """``1 - cos(v_s, v_t)``, mean over texts.

    Shapes: both ``(B, d)``.
    """
    cosines = F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return mean_over((1 - cosines).sum(), count, float(student.shape[0]))


def similarity_matrix(
    student: Tensor,
    teacher: Tensor,
    count: Count = None,
    *,
    weights: Tensor | None = None,
    others: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """``mean_{i != j} (cos(s_i, s_j) - cos(t_i, t_j))^2`` over the pairs of texts (after Tung and Mori, ICCV 2019, eq. 4).

    Widths may differ. One text alone has no pair and its loss is 0. ``weights`` ``(B,)``: factors of the texts; a pair has the mean
    of both. ``others`` are the step's texts that other processes have, ``(M, d_s)``, ``(M, d_t)`` and weights ``(M,)``: the losses
    of all processes then add up to that of the step's ``count`` texts, and so do the gradients.

    Shapes: ``(B, d_s)`` and ``(B, d_t)``.
    """
    with torch.autocast(device_type=student.device.type, enabled=False):
        ours, theirs = (F.normalize(x.float(), dim=-1) for x in (student, teacher))
        factors = ours.new_ones(len(ours)) if weights is None else weights.float()
        difference = factors[:, None] * (ours @ ours.mT - theirs @ theirs.mT).square()
        total, texts = difference.sum() - difference.diagonal().sum(), len(ours)
        if others is not None:
            far, far_theirs = (F.normalize(x.float(), dim=-1) for x in others[:2])
            difference = (ours @ far.mT - theirs @ far_theirs.mT).square()
            # The other process counts the same pair from its side, where these texts are constants.
            seen_there = (difference * others[2].float()).sum()
            total = total + (factors[:, None] * difference).sum() + seen_there - seen_there.detach()
            texts += len(far)
    return mean_over(total / max(texts - 1, 1), count, float(len(ours)))


def hidden_mse(
    student: Tensor, teacher: Tensor, mask: Tensor, count: Count = None, *, relative: bool = False
) -> Tensor:
    """``||h_s - h_t||^2 / d``, mean over real tokens (TinyBERT, Jiao et al. 2020, eq. 8 and 9).

    ``relative`` divides the squares of each text by the teacher's own, ``sum_n ||h_s - h_t||^2 / sum_n ||h_t||^2``, mean over
    texts by their tokens: 1 for a student that is 0 everywhere, whatever the scale of the layer.

    Shapes: both ``(B, n, d)``, mask ``(B, n)``; ``count`` is a number of tokens.
    """
    real = mask.unsqueeze(-1)
    squares = ((student.float() - teacher.float()) * real).square()
    if not relative:
        return mean_over(squares.sum() / student.shape[-1], count, mask.sum())
    share = _relative(squares.sum(dim=(1, 2)), (teacher.float() * real).square().sum(dim=(1, 2)))
    return mean_over((share * mask.sum(dim=1)).sum(), count, mask.sum())


def _relative(squares: Tensor, of: Tensor) -> Tensor:
    """``(B,)``: squares as shares of other squares."""
    return squares / of.clamp(min=torch.finfo(torch.float32).tiny)


def hint(student: Tensor, teacher: Tensor, mask: Tensor, count: Count = None) -> Tensor:
    """``1/2 ||u_h - r(v_g)||^2`` (FitNets, Romero et al. 2015, eq. 3), mean over the hidden size and over real tokens.

    Shapes: ``student``, the regressor's output ``r(v_g)``, and ``teacher`` ``(B, n, d)``; mask ``(B, n)``; ``count`` is the
    number of real tokens.
    """
    return 0.5 * hidden_mse(student, teacher, mask, count)


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor, count: Count = None) -> Tensor:
    """``1 - cos(h_s, h_t)``, mean over real tokens (DistilBERT, Sanh et al. 2019).

    Shapes: both ``(B, n, d)``, mask ``(B, n)``; ``count`` is a number of tokens.
    """
    distance = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return mean_over((distance * mask).sum(), count, mask.sum())


def patient_mse(student: Tensor, teacher: Tensor, *, normalize: bool = True, count: Count = None) -> Tensor:
    """``|| s/||s|| - t/||t|| ||^2`` of the first token's vectors, summed over ``d``, mean over examples.

    BERT-PKD's patient loss (Sun et al. 2019, eq. 7) for one pair of layers; with ``normalize=False`` the vectors are
    compared as they are, as in the authors' best runs on the larger sets.

    Shapes: both ``(B, d)``.
    """
    s, t = student.float(), teacher.float()
    if normalize:
        s, t = F.normalize(s, dim=-1), F.normalize(t, dim=-1)
    return mean_over((s - t).square().sum(), count, float(student.shape[0]))


def attention_score_mse(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    mask: Tensor,
    *,
    student_scaling: float | None = None,
    teacher_scaling: float | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    padding: Literal["masked", "reference"] = "masked",
    form: Literal["auto", "direct", "gram"] = "auto",
    causal: bool = False,
    relative: bool = False,
    count: Count = None,
) -> Tensor:
    """MSE of the attention scores ``Q K^T / sqrt(d_head)`` before the softmax (TinyBERT, eq. 7), mean over heads.

    The mean runs over pairs of real tokens: ``count`` is ``sum_b n_b^2``. With ``padding="reference"`` it runs over all
    ``B n^2`` places as in the authors' code, where masked keys count as zero and padded queries take part. ``causal``
    leaves out the keys after a query, which one of the models does not look at: ``count`` is ``sum_b n_b (n_b + 1) / 2``.
    ``relative`` divides the squares of each text by those of the teacher's scores, mean over texts by their pairs.

    The scores' difference is itself one product, ``X Y^T`` with ``X = [Q_s, -Q_t]`` (scaled) and ``Y = [K_s, K_t]``, so

        ``||X Y^T||^2 = sum((X^T X) * (Y^T Y))``

    needs two ``(d_s + d_t)^2`` matrices and no ``n x n`` map. That form subtracts large numbers where the student is
    close to the teacher (in float32 a relative error of 4 % at a mismatch of 1e-3), so it is computed in float64. The
    direct form is faster for short inputs and serves them (``form="auto"``: up to 128 tokens), causal ones, of which not
    the whole product counts, and families that add a bias for relative positions to the scores.

    Shapes: queries and keys ``(B, h, n, d_head)``, head sizes may differ between the two; mask ``(B, n)``; biases
    ``(1 or B, h, n, n)``.
    """
    length, heads = mask.shape[1], student_query.shape[1]
    if student_bias is not None or teacher_bias is not None:
        form = "direct"
    elif form == "auto" or causal:
        # Devices without float64 take the direct form at any length.
        form = "direct" if length <= DIRECT_UP_TO or causal or mask.device.type == "mps" else "gram"
    scale_s = student_query.shape[-1] ** -0.5 if student_scaling is None else student_scaling
    scale_t = teacher_query.shape[-1] ** -0.5 if teacher_scaling is None else teacher_scaling
    real = mask.to(torch.float32)[:, None, :, None]
    rows = real if padding == "masked" else torch.ones_like(real)
    qs, ks = student_query.float() * (rows * scale_s), student_key.float() * real
    qt, kt = teacher_query.float() * (rows * scale_t), teacher_key.float() * real
    n = mask.sum(dim=1).float()
    places = n * (n + 1) / 2 if causal else n.square()
    if padding == "masked":
        default = places.sum()
    else:
        default, count = torch.tensor(float(mask.shape[0] * length**2)), None
    with torch.autocast(device_type=mask.device.type, enabled=False):
        if form == "direct":
            ours, theirs = qs @ ks.mT, qt @ kt.mT
            ours = ours if student_bias is None else ours + student_bias.float() * rows * real.mT
            theirs = theirs if teacher_bias is None else theirs + teacher_bias.float() * rows * real.mT
            squares, of = (
                (one.tril() if causal else one).square().sum(dim=(1, 2, 3)) for one in (ours - theirs, theirs)
            )
        else:

            def gram(x: Tensor, y: Tensor) -> Tensor:
                x, y = x.double(), y.double()
                return ((x.mT @ x) * (y.mT @ y)).sum(dim=(1, 2, 3)).float()

            squares = gram(torch.cat([qs, -qt], dim=-1), torch.cat([ks, kt], dim=-1))
            of = gram(qt, kt) if relative else squares
    total = (_relative(squares, of) * places).sum() if relative else squares.sum() / heads
    return mean_over(total, count, default.to(total.device))


COST_TOKENS = 256
"""Tokens whose vectors of all layers are compared at a time."""
COST_ROWS = 128
"""Rows of attention scores that are compared at a time."""
COST_SCORES = 2**22
"""Attention scores of all layers that are compared at a time; those of one text at least."""


def hidden_costs(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, count: Count = None) -> Tensor:
    """``(M, N)``: :func:`hidden_mse` of each of M student layers with each of N teacher layers, without gradients.

    From products, ``|s_i - t_j|^2 = |s_i|^2 + |t_j|^2 - 2 <s_i, t_j>``: one matrix product for a block of tokens, and no difference
    of two layers. Large numbers are subtracted: a cost below about 1e-5 of the layers' squares is not known.

    Shapes: ``(B, n, d)`` each, mask ``(B, n)``; the result is float64.
    """
    real = mask.bool()
    with torch.no_grad(), torch.autocast(device_type=mask.device.type, enabled=False):
        ours, theirs = (torch.stack([layer[real] for layer in layers]) for layers in (student, teacher))
        blocks = zip(*(torch.split(one, COST_TOKENS, dim=1) for one in (ours, theirs)), strict=True)
        squares = torch.stack([_squared_distances(*block) for block in blocks]).sum(0)
        return mean_over(squares / ours.shape[-1], count, mask.sum())


@dataclass(frozen=True)
class Scores:
    """What the attention scores of some layers are computed from: for each layer queries and keys ``(B, h, n, d_head)``, the factor
    of their products, and what is added, ``(1 or B, h, n, n)`` or ``None``."""

    queries: Sequence[Tensor]
    keys: Sequence[Tensor]
    scaling: float
    biases: Sequence[Tensor | None]

    def of(self, texts: slice, rows: slice) -> Tensor:
        """``(layers, texts, h, rows, n)``: the scores of some tokens of some texts with all tokens."""
        queries, keys = (
            torch.stack([layer[texts] for layer in layers]).float() for layers in (self.queries, self.keys)
        )
        scores = queries[:, :, :, rows] * self.scaling @ keys.mT
        for layer, bias in zip(scores, self.biases, strict=True):
            if bias is not None:
                layer += (bias if len(bias) == 1 else bias[texts])[:, :, rows]
        return scores


def attention_costs(
    student: Scores, teacher: Scores, mask: Tensor, *, causal: bool = False, count: Count = None
) -> Tensor:
    """``(M, N)``: :func:`attention_score_mse` of each of M student layers with each of N teacher layers, without gradients.

    As :func:`hidden_costs`, for blocks of texts and of 128 rows: the maps of all layers are there for a block at a time, and
    those of no pair of layers. Shapes: as there; mask ``(B, n)``.
    """
    real, n = mask.bool(), mask.sum(dim=1).float()
    heads, length = student.queries[0].shape[1], mask.shape[1]
    each = (len(student.queries) + len(teacher.queries)) * heads * min(length, COST_ROWS) * length
    some = max(1, COST_SCORES // each)
    place = torch.arange(length, device=mask.device)
    with torch.no_grad(), torch.autocast(device_type=mask.device.type, enabled=False):
        squares = []
        for first in range(0, len(mask), some):
            texts = slice(first, first + some)
            for start in range(0, length, COST_ROWS):
                rows = slice(start, start + COST_ROWS)
                seen = real[texts, rows, None] & real[texts, None, :]
                if causal:
                    seen = seen & (place <= place[rows, None])
                blocks = (scores.of(texts, rows).masked_fill(~seen[:, None], 0.0) for scores in (student, teacher))
                squares.append(_squared_distances(*blocks))
        default = (n * (n + 1) / 2 if causal else n.square()).sum()
        return mean_over(torch.stack(squares).sum(0) / heads, count, default)


def _squared_distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """``(M, N)``: of M tensors with N others of their shape; blocks add up in float64, on devices that have it."""
    x, y = ours.flatten(1).float(), theirs.flatten(1).float()
    ours_squared, theirs_squared = (torch.stack([torch.dot(one, one) for one in side]) for side in (x, y))
    squares = (ours_squared[:, None] + theirs_squared - 2 * x @ y.T).clamp(min=0)
    return squares if squares.device.type == "mps" else squares.double()


RELATION_BLOCK = {"cpu": 2**18}
"""Most relations computed at a time, by device; on others ``2**24``. A CPU is fastest while a block fits into its
cache."""


def relation_kl(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    mask: Tensor,
    relation_heads: int | None = None,
    *,
    student_scaling: float | None = None,
    teacher_scaling: float | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    causal: bool = False,
    count: Count = None,
) -> Tensor:
    """KL divergence between self-attention relations, mean over heads (MiniLM, Wang et al. 2020, sections 3.1 and
    3.2; MiniLMv2, Wang et al. 2021, eq. 5 and 6).

    A relation of vectors ``A`` to vectors ``B`` is ``R = softmax(A B^T / sqrt(d_r))`` over the real tokens of the text, and the
    loss ``sum_t KL(R_teacher[t] || R_student[t])``, divided by ``count`` (default: the number of real tokens). Queries to keys
    are the attention distribution; ``A`` and ``B`` may be the same tensor. ``causal`` leaves out later tokens.

    Each model's vectors are divided anew into ``relation_heads`` heads of size ``d_r``. None keeps the models' own heads, of
    which both have equally many; only these can have a bias. A scaling replaces ``1 / sqrt(d_r)``.

    At most :data:`RELATION_BLOCK` relations are computed at a time, and their gradient with them: no ``n x n`` map is kept
    for the backward pass. The teacher gets no gradient.

    Shapes: ``A`` and ``B`` ``(B, heads, n, d_head)``, where heads and head sizes may differ between the two models; mask
    ``(B, n)``; biases ``(1 or B, heads, n, n)``.
    """
    (ours, our_keys), (theirs, their_keys) = (
        (_relation_heads(rows, relation_heads), _relation_heads(columns, relation_heads))
        for rows, columns in (student, teacher)
    )
    ours = ours * (ours.shape[-1] ** -0.5 if student_scaling is None else student_scaling)
    theirs = theirs * (theirs.shape[-1] ** -0.5 if teacher_scaling is None else teacher_scaling)
    our_bias, their_bias = (
        None if bias is None else bias.to(ours.dtype).expand(len(mask), -1, -1, -1)
        for bias in (student_bias, teacher_bias)
    )
    with torch.autocast(device_type=mask.device.type, enabled=False):
        total: Tensor = _RelationKL.apply(  # type: ignore[no-untyped-call]
            ours, our_keys, our_bias, theirs, their_keys, their_bias, mask, causal
        )
    return mean_over(total / ours.shape[1], count, mask.sum())


def _relation_heads(x: Tensor, heads: int | None) -> Tensor:
    """``(B, heads, n, d_head)`` as ``(B, relation heads, n, d_r)``, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide if heads is None else wide.transpose(1, 2).reshape(len(x), x.shape[2], heads, -1).transpose(1, 2)


class _RelationKL(torch.autograd.Function):
    """The sum of the rows' KL divergences of :func:`relation_kl`.

    The gradient of the scores, ``softmax(student) - softmax(teacher)``, needs what the loss needs. The forward pass therefore
    also computes the gradients of the student's vectors, block by block; the backward pass scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        ours: Tensor,
        our_keys: Tensor,
        our_bias: Tensor | None,
        theirs: Tensor,
        their_keys: Tensor,
        their_bias: Tensor | None,
        mask: Tensor,
        causal: bool,
    ) -> Tensor:
        texts, heads, n, _ = ours.shape
        lowest = torch.finfo(ours.dtype).min / 2  # plus a score it is the same number, in both models
        hidden = torch.zeros_like(mask, dtype=ours.dtype).masked_fill(mask == 0, lowest)[:, None, None, :]
        real = mask.to(ours.dtype)[:, None, :, None]
        learning = zip((ours, our_keys, our_bias), ctx.needs_input_grad, strict=False)
        gradients = [torch.zeros_like(x) if x is not None and needed else None for x, needed in learning]
        total = ours.new_zeros(())
        for at, columns in _relation_blocks(texts, heads, n, RELATION_BLOCK.get(ours.device.type, 2**24)):
            both = []
            for rows, keys, bias in ((ours, our_keys, our_bias), (theirs, their_keys, their_bias)):
                scores = (rows[at] @ keys[columns].mT).add_(hidden[at[0]])
                if bias is not None:
                    scores.add_(bias[at])
                if causal:
                    place = torch.arange(n, device=mask.device)
                    scores.masked_fill_(place > place[at[2], None], lowest)
                softmax = scores.softmax(dim=-1)
                # The logarithm of the softmax's divisor, from the largest score.
                divisor = scores.amax(dim=-1, keepdim=True) - softmax.amax(dim=-1, keepdim=True).log()
                both.append((scores, softmax, divisor))
            (scores, softmax, divisor), (their_scores, their_softmax, their_divisor) = both
            here = real[at[0], :, at[2]]
            divergence = their_scores.sub_(scores).mul_(their_softmax).sum(dim=-1, keepdim=True)
            total += ((divergence + divisor - their_divisor) * here).sum()
            by_rows, by_keys, by_bias = gradients
            slope = softmax.sub_(their_softmax)
            if by_rows is not None:
                by_rows[at] = (slope @ our_keys[columns]).mul_(here)
            if by_keys is not None:
                by_keys[columns] += slope.mT @ (ours[at] * here)
            if by_bias is not None:
                by_bias[at] = slope.mul_(here)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if saved is None else gradient * saved for saved in ctx.saved_tensors]
        return (*found, None, None, None, None, None)


def _relation_blocks(
    texts: int, heads: int, n: int, size: int
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[slice, slice]]]:
    """Texts, heads and rows of each block, and the texts and heads alone: whole texts, if several fit into ``size`` relations;
    else some heads of a text, or some rows of a head."""
    rows = min(max(size // n, 1), n)
    some_heads = min(max(size // (n * rows), 1), heads)
    some_texts = max(size // (n * rows * some_heads), 1)
    for text in range(0, texts, some_texts):
        for head in range(0, heads, some_heads):
            columns = slice(text, text + some_texts), slice(head, head + some_heads)
            for row in range(0, n, rows):
                yield (*columns, slice(row, row + rows)), columns


def by_text(logits: Tensor, text: Tensor, texts: int, width: int) -> Tensor:
    """Scores of tokens, given one after the other, as rows of their texts: ``(m, C)`` to ``(C, texts, width)``.

    ``text`` ``(m,)``, ascending, says of which text each is. Places that a text does not fill have a score so low that no
    softmax sees them.
    """
    count = torch.zeros(texts, dtype=torch.int64, device=text.device).index_add_(0, text, torch.ones_like(text))
    place = torch.arange(len(text), device=text.device) - (count.cumsum(0) - count)[text]
    table = torch.full((texts, width, logits.shape[-1]), -1e9, device=logits.device)
    return table.index_put((text, place), logits.float()).permute(2, 0, 1)


def reference_hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """``||h_s - h_t||^2``, mean over all places, padded ones included: what TinyBERT's code computes.

    Shapes: both ``(B, n, d)``.
    """
    return F.mse_loss(student.float(), teacher.float())
