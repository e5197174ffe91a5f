"""Compare the attention of a teacher and a student, head by head, on held-out texts.

The definition is ours. For each query token, a head's attention is a row of probabilities over the tokens it may attend to.
Two numbers compare a pair of heads, as means over all queries of all texts, without [PAD]: ``KL(teacher || student)`` in nats
(0 for equal rows) and the cosine similarity of the rows (1 for equal rows).

* *same head*: head h of the teacher with head h of the student, if both have equally many heads.
* *best match*: heads paired one to one so that the sum of cosines is largest (the Hungarian method). A student may have the
  teacher's patterns in other heads. If one model has more heads, some stay unpaired.
* *uniform*: the same numbers for a student that attends to all tokens equally, as a reference point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.artifacts import write_text
from tutelage.data.batches import evaluation_batch, pieces
from tutelage.data.examples import Encoded, Examples, encode
from tutelage.data.readers.files import read_texts
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError, option
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals, Tap
from tutelage.objectives.mapping import Pairs, pairs
from tutelage.progress import Display
from tutelage.report.attention import AttentionReport, LayerReport, Likeness, Match
from tutelage.report.attention import page as page_of
from tutelage.run.workspace import new_accelerator
from tutelage.students.load import load_config
from tutelage.teachers.source import Source

LENGTH = 128
"""Default of ``max_length`` in tokens."""


def compare_models(
    teacher: str,
    student: str,
    texts: str,
    out: str | None,
    *,
    text: str,
    max_texts: int,
    max_length: int | None,
    quiet: bool,
) -> AttentionReport:
    """See :func:`tutelage.api.attention_report`."""
    page = None if out is None else Path(out)
    if page is not None and page.suffix != ".html":
        raise TutelageError(f"{option('out')} {out!r} does not end in .html; name a file that does")
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise TutelageError(
            f"{option('out')} {out!r} cannot be written (it is a folder, or its folder does not exist); name another file"
        )
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sources = []
    for name in (teacher, student):
        # A family of our own is known with its head alone.
        derived = anatomy.family_of(load_config(name)).derived
        sources.append(Source(name, "classes" if derived else "none"))
    check_comparable(sources[0].config, sources[1].config)
    if len({tokenizer_fingerprint(source.tokenizer) for source in sources}) > 1:
        raise TutelageError(
            f"{teacher!r} and {student!r} have different tokenizers, so they attend to different tokens; compare models that share "
            f"one"
        )
    strings = read_texts(Path(texts), text)
    accelerator, display = new_accelerator(), Display(quiet)
    with display:
        found = attention_report(
            sources[0].model.to(accelerator.device),
            sources[1].model.to(accelerator.device),
            sources[0].tokenizer,
            strings,
            max_texts=max_texts,
            max_length=max_length,
            advance=lambda count, total: display.advance("texts", total, count),
        )
    if page is not None:
        try:
            write_text(page, page_of(found))
        except OSError as error:
            raise TutelageError(
                f"{option('out')} {out!r} cannot be written ({error.strerror}); name another file"
            ) from None
    return found


def attention_report(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_texts: int = 256,
    max_length: int | None = None,
    max_tokens: int = 2048,
    advance: Callable[[int, int], None] = lambda count, total: None,
) -> AttentionReport:
    """Compare the attention of two models with the same tokenizer. The top of this file defines the measures.

    Args:
        teacher: a model with any head, or none.
        student: a model of the same kind with at most as many layers.
        tokenizer: the tokenizer of both.
        texts: held-out texts.
        max_texts: if there are more texts, this many are drawn, always the same ones.
        max_length: longer texts are truncated (tokens); default 128, or fewer if the models have fewer positions.
        max_tokens: padded tokens per batch; does not change the result. Attention maps exist for one text and one layer at a
            time.
        advance: called after each batch with its number of texts and the total.

    Raises:
        TutelageError: if the models cannot be compared, ``max_length`` exceeds their positions, or there is no text.
    """
    paired = check_comparable(teacher.config, student.config)
    encoded, length = _read(tokenizer, texts, max_texts, max_length, (teacher, student))
    causal = anatomy.is_causal(teacher.config)
    sums: list[tuple[Tensor, ...] | None] = [None] * len(paired)
    with ExitStack() as stack, torch.no_grad():
        taps = []
        for model, wanted in ((teacher, {t for _, t in paired}), (student, {s for s, _ in paired})):
            stack.callback(model.train, model.training)
            taps.append(Tap(model.eval(), Needs(attention=frozenset(wanted))))
            stack.callback(taps[-1].close)
        for rows in pieces(np.arange(len(encoded)), encoded.lengths, max_tokens):
            inputs, _ = evaluation_batch(encoded, rows)
            # A single text has only the first token type, which is the default of all models.
            inputs.pop("token_type_ids", None)
            theirs, ours = (tap({name: value.to(tap.model.device) for name, value in inputs.items()}) for tap in taps)
            for place, (s, t) in enumerate(paired):
                signals = ((theirs, t), (ours, s))
                for row, n in enumerate(encoded.lengths[rows]):
                    # Padding is at the end, so slicing removes it.
                    scores = [_scores(found, layer, row, int(n)) for found, layer in signals]
                    more = compare(scores[0], scores[1], _allowed(int(n), causal, _reach(teacher.config, t)))
                    before = sums[place]
                    sums[place] = more if before is None else tuple(a + b for a, b in zip(before, more, strict=True))
            advance(len(rows), len(encoded))
    queries = int(encoded.lengths.sum())
    layers = [
        _layer(s, t, [part / queries for part in total])
        for (s, t), total in zip(paired, sums, strict=True)
        if total is not None
    ]
    same = [layer.same_head for layer in layers if layer.same_head is not None]
    depths = anatomy.shape_of(teacher.config).layers, anatomy.shape_of(student.config).layers
    return AttentionReport(
        teacher=teacher.name_or_path or "teacher",
        student=student.name_or_path or "student",
        teacher_layers=depths[0],
        student_layers=depths[1],
        causal=causal,
        texts=len(encoded),
        available=len(texts),
        cut=encoded.truncated,
        max_length=length,
        queries=queries,
        mapping="layer by layer" if depths[0] == depths[1] else "uniform",
        layers=layers,
        same_head=_mean(same) if len(same) == len(layers) else None,
        best_match=_mean([layer.best_match for layer in layers]),
        uniform=_mean([layer.uniform for layer in layers]),
    )


def compare(teacher: Tensor, student: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over the queries of one text: KL and cosine of all pairs of heads, then of the teacher's heads with uniform rows.

    ``KL = sum_k p_k (log p_k - log s_k)`` and ``cosine = p s / (|p| |s|)`` for the rows ``p`` of the teacher and ``s`` of the
    student, over the allowed keys.

    Args:
        teacher: attention scores before softmax, ``(heads, n, n)``.
        student: attention scores before softmax, ``(student heads, n, n)``.
        allowed: ``(n, n)``, the keys that each query may attend to; at least one per query.

    Returns:
        KL and cosine of pairs, ``(heads, student heads)`` each; KL and cosine with uniform rows, ``(heads,)`` each.
    """
    log_p, log_s = (scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=-1) for scores in (teacher, student))
    p, s = log_p.exp(), log_s.exp()
    # 0 log 0 is 0, but 0 * -inf is nan.
    log_p, log_s = log_p.masked_fill(~allowed, 0.0), log_s.masked_fill(~allowed, 0.0)
    information = (p * log_p).sum(dim=(1, 2))
    kl = information[:, None] - torch.einsum("hqk,gqk->hg", p, log_s)
    cosine = torch.einsum("hqk,gqk->hg", F.normalize(p, dim=-1), F.normalize(s, dim=-1))
    count = allowed.sum(dim=-1).to(p.dtype)
    return kl, cosine, information + count.log().sum(), (1 / (p.norm(dim=-1) * count.sqrt())).sum(dim=-1)


def _scores(signals: Signals, layer: int, row: int, n: int) -> Tensor:
    """Scores ``(heads, n, n)`` of one text, in float64, because a small KL is a difference of large numbers."""
    queries, keys = (part[layer][row, :, :n].cpu().double() for part in (signals.queries, signals.keys))
    scores = queries @ keys.mT * signals.scaling
    bias = signals.biases.get(layer)
    return scores if bias is None else scores + bias[row, :, :n, :n].cpu().double()


def _layer(student: int, teacher: int, means: list[Tensor]) -> LayerReport:
    kl, cosine = means[0].clamp(min=0.0), means[1].clamp(max=1.0)  # rounding exceeds the bounds by about 1e-16
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    heads = None
    if kl.shape[0] == kl.shape[1]:
        heads = [Likeness(kl=float(kl[h, h]), cosine=float(cosine[h, h])) for h in range(kl.shape[0])]
    matches = [
        Match(teacher_head=int(h) + 1, student_head=int(g) + 1, kl=float(kl[h, g]), cosine=float(cosine[h, g]))
        for h, g in zip(rows, columns, strict=True)
    ]
    return LayerReport(
        teacher=teacher,
        student=student,
        teacher_heads=kl.shape[0],
        student_heads=kl.shape[1],
        heads=heads,
        matches=matches,
        same_head=None if heads is None else _mean(heads),
        best_match=_mean(matches),
        uniform=Likeness(kl=float(means[2].mean()), cosine=float(means[3].mean())),
    )


def _mean(parts: Sequence[Likeness]) -> Likeness:
    return Likeness(
        kl=float(np.mean([part.kl for part in parts])), cosine=float(np.mean([part.cosine for part in parts]))
    )


def _reach(config: Any, layer: int) -> int | None:
    """The attention window to each side in a layer (from 1), or ``None`` for global attention (ModernBERT mixes both)."""
    kinds = getattr(config, "layer_types", None)
    return int(config.sliding_window) if kinds and kinds[layer - 1] == "sliding_attention" else None


def _allowed(n: int, causal: bool, reach: int | None) -> Tensor:
    """``(n, n)``: the keys that each query may attend to."""
    distance = torch.arange(n) - torch.arange(n)[:, None]
    allowed = distance <= 0 if causal else torch.ones(n, n, dtype=torch.bool)
    return allowed if reach is None else allowed & (distance.abs() <= reach)


def check_comparable(teacher: Any, student: Any) -> Pairs:
    """The pairs of layers to compare, from the configurations of both models.

    Raises:
        TutelageError: if the models cannot be compared.
    """
    for who, config in (("teacher", teacher), ("student", student)):
        if anatomy.family_of(config).attention is None:
            raise TutelageError(f"the {who} is a {config.model_type}, whose attention cannot be read")
        if getattr(config, "scale_attn_by_inverse_layer_idx", False):
            raise TutelageError(
                f"the {who} scales attention by layer (scale_attn_by_inverse_layer_idx), which is not supported; use another model"
            )
    if anatomy.is_causal(teacher) != anatomy.is_causal(student):
        one, other = ("teacher", "student") if anatomy.is_causal(teacher) else ("student", "teacher")
        raise TutelageError(
            f"the {one} is causal and the {other} is not, so their tokens attend to different tokens; compare two causal or "
            "two bidirectional models"
        )
    n, m = anatomy.shape_of(teacher).layers, anatomy.shape_of(student).layers
    if m > n:
        raise TutelageError(
            f"the student has {m} layers and the teacher only {n}; swap them, the teacher must be the deeper model"
        )
    mapped = pairs("uniform", m, n)
    for s, t in mapped:
        theirs, ours = _reach(teacher, t), _reach(student, s)
        if theirs != ours:
            reaches = ["to all tokens" if reach is None else f"{reach} tokens to each side" for reach in (theirs, ours)]
            raise TutelageError(
                f"teacher layer {t} attends {reaches[0]}, its pair, student layer {s}, {reaches[1]}; compare models "
                "with equal attention windows"
            )
    return mapped


def _read(
    tokenizer: Any,
    texts: Sequence[str],
    max_texts: int,
    max_length: int | None,
    models: tuple[PreTrainedModel, PreTrainedModel],
) -> tuple[Encoded, int]:
    """The encoded texts, and the maximum length in tokens."""
    if max_texts < 1 or not texts:
        raise TutelageError(
            f"{option('max_texts')} {max_texts} of {len(texts)} texts leaves none to compare; give more"
        )
    limit = min(anatomy.max_length(model.config) for model in models)
    least = tokenizer.num_special_tokens_to_add() + 1
    if max_length is not None and not least <= max_length <= limit:
        raise TutelageError(
            f"{option('max_length')} {max_length} is not between {least} and the models' {limit} positions; use {limit}"
        )
    length = max_length or min(LENGTH, limit)
    if max_texts < len(texts):
        texts = [texts[i] for i in np.sort(np.random.default_rng(0).permutation(len(texts))[:max_texts])]
    names = [str(i) for i in range(len(texts))]
    encoded = encode(Examples(names, texts, None, np.full(len(texts), -1)), tokenizer, length)
    words = min(model.config.vocab_size for model in models)
    if not encoded.lengths.all():
        raise TutelageError(f"the text {texts[int(np.argmin(encoded.lengths))]!r} has no tokens; remove it")
    if int(encoded.tokens.max()) >= words:
        raise TutelageError(
            f"the tokenizer produces token {int(encoded.tokens.max())}, but a model has a vocabulary of {words}; save the "
            "model's own tokenizer in its folder"
        )
    return encoded, length
