"""Read signals from a running model: logits, hidden states, queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Cut, Score
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected, attention_of_first

BLOCK = 128
"""Queries per block of attention with dropout, which has no fused CPU kernel."""


SHORT = 128
"""Up to this length, bfloat16 attention on a CPU runs its backward pass in float32. At 512 tokens that is no faster
(benchmarks/attention.py)."""


@dataclass
class Signals:
    """The signals of one model for one batch.

    * ``logits`` ``(answers, classes)``: one row per text, or per token that needs a prediction.
    * ``hidden[l]`` ``(batch, length, hidden)``.
    * ``queries[l]`` and ``keys[l]`` ``(batch, heads, length, head_size)``, as they enter the dot product (after rotary
      position embedding, if any).
    * ``values[l]``, same shape: the vectors that attention averages.
    * ``biases[l]`` ``(1 or batch, heads, length, length)``: what is added to the scaled products of query and key, in
      families with relative positions.
    * ``cuts``: the kept parts of layers.
    * ``pooled`` ``(batch, hidden)``: the output of the pooler.
    """

    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    biases: dict[int, Tensor] = field(default_factory=dict)
    cuts: dict[Cut, Selected] = field(default_factory=dict)
    pooled: Tensor | None = None
    scaling: float = 1.0
    """The factor of the dot product of query and key."""
    causal: bool = False
    """Whether a query attends to no later key."""
    weights: Tensor | None = None
    """``(answers,)``: weight of each row of logits in the loss; ``None``: equal weights."""
    members: dict[int, Signals] = field(default_factory=dict)
    """Of a team whose teachers all teach each step: by number, the signals of those whose layers are compared."""
    share: float = 1.0
    """Of such a teacher: the factor of the losses on its layers."""

    def ranking(self, layer: int, mask: Tensor, score: Score) -> Tensor:
        """Scores that rank the tokens, ``(batch, length)``: see :func:`attention_of_first`."""
        bias = self.biases[layer][:, :, :1] if layer in self.biases else None
        return attention_of_first(self.queries[layer], self.keys[layer], mask, self.scaling, score, bias)


class _Enough(Exception):
    """Raised inside a forward pass to stop it when all needed signals are read."""


class Tap:
    """Runs a model and returns the needed signals. :meth:`close` restores the model.

    Hooks read the hidden states. Queries, keys and values are read inside the attention function, which still calls PyTorch's
    fused kernel: the model keeps its usual speed, and no attention map is built. Families that compute attention themselves
    never call that function; there, hooks read the outputs of the three matrices. Layers are numbered by the order of the
    calls, because ALBERT runs one layer many times and some families do not number their attention modules.
    """

    _reading: Tap | None = None

    def __init__(self, model: PreTrainedModel, needs: Needs) -> None:
        self.model, self.needs = model, needs
        self._signals = Signals()
        self._layer_calls = self._attention_calls = 0
        self._layers = list(anatomy.layers_of(model)) if needs.hidden else []
        self._numbers: list[int] | None = None
        self._stop_early = False
        self._attention_before = None
        self._hooks = []
        self._eager: list[anatomy.EagerAttention] = []
        if needs.hidden or needs.attention:
            self._hooks.append(anatomy.embedding_output_of(model).register_forward_hook(self._see_embeddings))
            self._hooks += [layer.register_forward_hook(self._see_layer) for layer in anatomy.layer_outputs_of(model)]
        if needs.pooled:
            self._hooks.append(anatomy.pooler_of(model).register_forward_hook(self._see_pooled))
        family = anatomy.family_of(model.config)
        if family.attention == "projections" and needs.attention:
            self._eager = [
                anatomy.EagerAttention(layer, model.config, self._see_eager) for layer in anatomy.layers_of(model)
            ]
        if family.attention == "interface" and (needs.attention or model.config._attn_implementation == "sdpa"):
            self._attention_before = model.config._attn_implementation
            model.set_attn_implementation("tutelage_tap")

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for attention in self._eager:
            attention.close()
        if self._attention_before is not None:
            self.model.set_attn_implementation(self._attention_before)

    def __call__(self, inputs: dict[str, Tensor], predicted: Tensor | None = None) -> Signals:
        """Run the model on ``input_ids``, ``attention_mask`` (and ``token_type_ids``). For ``predicted`` see ``Batch``.

        Raises:
            TutelageError: if the model ran without giving a signal that is needed.
        """
        self._signals = Signals()
        self._layer_calls = self._attention_calls = 0
        self._numbers = self._numbered() if self.needs.hidden else None
        # A student (under autograd) must use all its parameters; a teacher can stop after the last needed layer.
        self._stop_early = not self.needs.logits and not self.needs.pooled and not torch.is_grad_enabled()
        Tap._reading, outer = self, Tap._reading
        try:
            if self.needs.logits:
                self._signals.logits = anatomy.answers_of(self.model, inputs, predicted)
            else:
                anatomy.output_of(anatomy.base_of(self.model), inputs)
        except _Enough:
            pass
        finally:
            Tap._reading = outer
        self._check()
        # What a failed step has computed is not kept beside the next try.
        found, self._signals = self._signals, Signals()
        return found

    def _check(self) -> None:
        """A loss over signals that never come would be zero in silence."""
        found, needs = self._signals, self.needs
        there = needs.hidden if self._numbers is None else needs.hidden.intersection([0, *self._numbers])
        lacking = {
            "hidden states": there - found.hidden.keys(),
            "queries and keys": needs.attention - found.queries.keys(),
        }
        for what, layers in lacking.items():
            if layers:
                raise TutelageError(
                    f"this {self.model.config.model_type} gave no {what} of layer {min(layers)}; use a method that learns "
                    "from predictions alone (`tutelage methods`)"
                )

    def _numbered(self) -> list[int] | None:
        """Of a model that leaves out some of its layers for the time being: the number of each output in the whole. The output of a
        layer is the input of the next that is left; that of the last is the whole's."""
        left = list(anatomy.layers_of(self.model))
        if len(left) == len(self._layers):
            return None
        places = {id(layer): place for place, layer in enumerate(self._layers)}
        return [*(places[id(layer)] for layer in left[1:]), len(self._layers)]

    def _see_embeddings(self, module: nn.Module, args: Any, output: Any) -> None:
        if 0 in self.needs.hidden:
            self._signals.hidden[0] = output
        if self._stop_early and self.needs.top == 0:
            raise _Enough

    def _see_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        self._layer_calls += 1
        number = self._layer_calls if self._numbers is None else self._numbers[self._layer_calls - 1]
        if number in self.needs.hidden:
            self._signals.hidden[number] = output[0] if isinstance(output, tuple) else output
        if self._stop_early and self._layer_calls == self.needs.top:
            raise _Enough

    def _see_pooled(self, module: nn.Module, args: Any, output: Any) -> None:
        self._signals.pooled = output

    def _see_eager(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None) -> None:
        self._see_attention(query, key, value, scaling, anatomy.is_causal(self.model.config))
        if bias is not None and self._attention_calls in self.needs.attention:
            self._signals.biases[self._attention_calls] = bias

    def _see_attention(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool) -> None:
        self._attention_calls += 1
        if self._attention_calls in self.needs.attention:
            self._signals.queries[self._attention_calls] = query
            self._signals.keys[self._attention_calls] = key
            self._signals.values[self._attention_calls] = value
            self._signals.scaling, self._signals.causal = scaling, causal


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    if Tap._reading is not None:
        scaling = kwargs.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        Tap._reading._see_attention(query, key, value, scaling, bool(module.is_causal))
    dropout = kwargs.get("dropout") or 0.0
    if 0 < dropout < 1 and query.device.type == "cpu" and not module.is_causal:
        return _with_dropout(query, key, value, attention_mask, dropout, kwargs.get("scaling")), None
    half = query.dtype is torch.bfloat16 and query.device.type == "cpu"
    if half and query.requires_grad and query.shape[2] <= SHORT and not dropout:
        # For short texts, the backward pass of PyTorch's fused CPU kernel is up to six times slower in bfloat16.
        mask = attention_mask
        if mask is not None and mask.dtype is not torch.bool:
            mask = mask.float()
        with torch.autocast("cpu", enabled=False):
            exact = (query.float(), key.float(), value.float())
            return sdpa_attention_forward(module, *exact, mask, **kwargs)[0].to(query.dtype), None
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output


def _with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """Attention with dropout on a CPU; returns ``(batch, length, heads, head_size)``.

    PyTorch's fused CPU kernel does not support dropout: it builds and keeps full ``length x length`` maps, and draws its masks
    one number at a time (4.5 ns each, as long as the matrix products take). Here the map of a long text exists for one block of
    queries at a time, the backward pass computes it again, and masks are drawn four at a time from one 64-bit number.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocks = []
    for start in range(0, query.shape[2], BLOCK):
        rows = slice(start, start + BLOCK)
        part = mask if mask is None or mask.shape[-2] == 1 else mask[..., rows, :]
        seed = int(torch.randint(2**62, ()))
        arguments = (query[:, :, rows] * scaling, key, value, part, dropout, seed)
        if query.shape[2] <= BLOCK:
            return _block(*arguments).transpose(1, 2).contiguous()
        blocks.append(checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(blocks, dim=2).transpose(1, 2).contiguous()


def _block(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, seed: int) -> Tensor:
    """Attention of scaled queries; the same ``seed`` drops the same entries."""
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        # Not -inf: a query without keys would become NaN.
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    keep = _kept(scores.numel(), dropout, seed).view(scores.shape).float()  # a product of types takes longer
    return (scores.softmax(-1) * keep) @ (value / (1 - dropout))


def _kept(count: int, dropout: float, seed: int) -> Tensor:
    """``(count,)`` of bool, false with the probability ``dropout`` (rounded to a multiple of 2^-16)."""
    drawn = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    return torch.from_numpy(drawn >= round(dropout * 2**16) - 2**15)


AttentionInterface.register("tutelage_tap", _tapped_attention)


# Without a mask function of this name, the mask would be None and padding would silently be attended to.
AttentionMaskInterface.register("tutelage_tap", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
