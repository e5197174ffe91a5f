"""The parts of a transformers model: this file and its table ``families.py`` alone know the internals of one.

Copying layers, reading signals and reshaping weights use them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict

from tutelage.anatomy.families import FAMILIES as FAMILIES  # named here for whoever reads the table through this module
from tutelage.anatomy.families import UNREAD as UNREAD
from tutelage.anatomy.families import Family as Family
from tutelage.errors import TutelageError
from tutelage.fields import Layer

if TYPE_CHECKING:  # recipes import this module and must not load torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Head = Literal["classes", "tokens", "spans", "vectors", "masked_lm", "causal_lm", "none"]
"""The output of a model: a class (or number) per text; a class per token; start and end of an answer; a vector per text; the
masked word; the next word; none (no head)."""

_AUTO: dict[Head, str] = {
    "classes": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "none": "AutoModel",
}

UNLIMITED = 2**31 - 1
"""The longest input of a network without position embeddings."""


def family_named(model_type: str) -> Family:
    """The family of a model type; :data:`UNREAD` for those outside the table."""
    return FAMILIES.get(model_type, UNREAD)


def is_unread(config: Any) -> bool:
    """Whether a model is known to transformers alone: only its logits are read."""
    return config.model_type not in FAMILIES


def family_of(config: Any) -> Family:
    """The family of a model configuration; :data:`UNREAD` for other classification models of transformers.

    Raises:
        TutelageError: if the model classifies neither texts nor tokens, or a GPT-2 scales attention differently in each layer.
    """
    if is_unread(config):
        if not _classifies(config.model_type):
            raise TutelageError(
                f"model type {config.model_type!r} is not supported and transformers has no classification model of it; use "
                f"one of {', '.join(sorted(FAMILIES))}, or a classification model of transformers"
            )
        return UNREAD
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise TutelageError(
            f"this {config.model_type} scales the attention of every layer differently (scale_attn_by_inverse_layer_idx), "
            "which is not supported; use another model"
        )
    return FAMILIES[config.model_type]


@cache
def _classifies(model_type: str) -> bool:
    """Whether transformers has a model of this type that classifies texts or tokens."""
    from transformers.models.auto import modeling_auto

    texts = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return model_type in texts or model_type in modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES


def is_causal(config: Any) -> bool:
    """Whether attention is causal: no token sees a later one."""
    return family_of(config).causal or bool(getattr(config, "is_decoder", False))


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, as far as a recipe needs them before anything runs."""

    family: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    stored: int | None = None
    """Number of stored layers, if layers are shared."""
    least: tuple[int, int] | None = None
    """Heads and neurons of the layer that has fewest, if layers differ; ``heads`` and ``intermediate`` are then the most."""
    attended: int | None = None
    """The width of queries, keys and values, if it is not ``hidden``."""
    coordinates: tuple[int, ...] | None = None
    """Which of its hidden coordinates the model has kept that it was cut out of, if not all."""
    outputs: int | None = field(default=None, compare=False)
    """Outputs of its head on a task. Networks of one shape may have other heads, so they do not tell shapes apart."""

    def __str__(self) -> str:
        if self.family not in FAMILIES:
            return f"{self.family}, read for its predictions alone" + (
                f" ({self.layers} layers)" if self.layers else ""
            )
        if not self.heads:
            return f"a bidirectional LSTM with {self.hidden} units per direction, {self.intermediate} before the logits"
        stored = "" if self.stored is None else f" ({self.stored} stored)"
        heads, neurons = ("", "") if self.least is None else (f"{number} to " for number in self.least)
        return f"{self.layers} layers{stored} x {self.hidden}, {heads}{self.heads} heads, intermediate {neurons}{self.intermediate}"


def shape_of(config: Any) -> Shape:
    """The sizes in a model configuration."""
    family = family_of(config)
    if family is UNREAD:
        inner = config.get_text_config()
        layers, hidden = (int(getattr(inner, name, None) or 0) for name in (family.depth, family.hidden))
        return Shape(config.model_type, layers, hidden, 0, 0, int(getattr(inner, "vocab_size", 0) or 0))
    if family.derived == "uneven":
        kept = (config.kept_heads, config.kept_neurons)
        # Without attention in any layer it still has a head size.
        heads, neurons = (max(1, *numbers) for numbers in kept)
        fewest = min(kept[0]), min(kept[1])
        coordinates = None if config.kept_coordinates is None else tuple(config.kept_coordinates)
        sizes = getattr(config, family.depth), hidden_of(config), heads, neurons, config.vocab_size
        return Shape(config.model_type, *sizes, least=fewest, coordinates=coordinates, outputs=config.num_labels)
    return Shape(
        family=config.model_type,
        layers=getattr(config, family.depth),
        hidden=getattr(config, family.hidden),
        heads=getattr(config, family.heads),
        # GPT-2's n_inner may be None.
        intermediate=getattr(config, family.intermediate) or 4 * getattr(config, family.hidden),
        vocabulary=config.vocab_size,
        stored=len({step.removesuffix("s") for step in config.plan}) if family.derived == "shared" else None,
        attended=None if family.attended is None else getattr(config, family.attended),
        outputs=config.num_labels,
    )


def hidden_of(config: Any) -> int:
    """The width of a model's hidden states."""
    kept = getattr(config, "kept_coordinates", None)
    return int(config.hidden_size) if kept is None else len(kept)


def max_length(config: Any) -> int:
    """The longest input in tokens, special tokens included; :data:`UNLIMITED` for a network without position embeddings.

    Where the insides of a model are not known, its first positions are taken to be unused, as RoBERTa's are.
    """
    family = family_of(config)
    if family is UNREAD:
        inner = config.get_text_config()
        positions = getattr(inner, "max_position_embeddings", None) or 0
        padding = getattr(inner, "pad_token_id", None) or 0
        # Only a padding token among the first of the vocabulary can number positions; that of many decoders is the last.
        unused = padding + 1 if padding < 16 else 0
        return int(positions) - unused if positions > 0 else UNLIMITED
    return int(config.max_position_embeddings) - first_position(config) if family.layers else UNLIMITED


def first_position(config: Any) -> int:
    """The row of the position table that the first token of a text has."""
    family = family_of(config)
    if not family.numbers_after_padding:
        return 0
    return int(config.pad_token_id if family.padding_in_code is None else family.padding_in_code) + 1


def has_token_types(config: Any) -> bool:
    """Whether the model marks the two texts of a pair by token types."""
    return getattr(config, "type_vocab_size", 0) > 1


def auto_class(head: Head) -> Any:
    """The Auto class of transformers for models with this head; vectors have none (see ``students.load.model_class``)."""
    import transformers

    return getattr(transformers, _AUTO[head])


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """The base model (encoder) of a model with a head, or the model itself if it has none."""
    return getattr(model, model.base_model_prefix, model)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stored layers. In a family that shares one layer (ALBERT), the list is shorter than the depth."""
    layers = base_of(model).get_submodule(family_of(model.config).layers)
    return cast("nn.ModuleList", layers)


def layer_outputs_of(model: PreTrainedModel) -> list[nn.Module]:
    """The modules whose outputs are ``hidden_states[1:]``, in the order of the calls."""
    modules, after = list(layers_of(model)), family_of(model.config).after_first
    convolution = None if after is None else base_of(model).get_submodule(after.rpartition(".")[0])
    found = None if convolution is None else getattr(convolution, str(after).rpartition(".")[2], None)
    return modules if found is None else [found, *modules[1:]]


def embedding_output_of(model: PreTrainedModel) -> nn.Module:
    """The module whose output is ``hidden_states[0]``, ``(batch, length, hidden)``."""
    base = base_of(model)
    names = dict(base.named_modules())
    found: nn.Module = next(names[path] for path in family_of(model.config).embedding_output if path in names)
    return found


def word_embeddings_of(model: PreTrainedModel) -> nn.Embedding:
    """The token embedding table, ``(vocabulary, width)``."""
    table = base_of(model).get_submodule(family_of(model.config).embeddings)
    return cast("nn.Embedding", table)


def head_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The matrices and norms between the base model and the predictions, by name, in the order of use."""
    from torch import nn

    base = base_of(model)
    inside = {id(module) for module in base.modules()}
    kinds = (nn.Linear, nn.LayerNorm)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds) and id(m) not in inside}


def head_of(model: PreTrainedModel) -> Head:
    """The head of a model, from the name of its class."""
    return head_named(type(model).__name__)


def head_named(name: str) -> Head:
    """The head of models of the class ``name``."""
    endings: dict[str, Head] = {
        "ForSequenceClassification": "classes",
        "ForTokenClassification": "tokens",
        "ForQuestionAnswering": "spans",
        "ForMaskedLM": "masked_lm",
        "SentenceEncoder": "vectors",
        "LMHeadModel": "causal_lm",
        "ForCausalLM": "causal_lm",
    }
    return next((head for ending, head in endings.items() if name.endswith(ending)), "none")


class Layers(BaseModel):
    """A set of layers of a student, trained while the rest stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    layers: list[Layer] | Literal["lower_half"]
    """Layers from 1; 0 stands for the embeddings. ``lower_half`` is the embeddings and the first half of the layers, rounded
    up."""

    def of(self, depth: int) -> list[int]:
        """The layers of a student of this depth.

        Raises:
            TutelageError: when it has fewer.
        """
        if self.layers == "lower_half":
            return list(range((depth + 1) // 2 + 1))
        if not self.layers or max(self.layers) > depth:
            raise TutelageError(
                f"train.layers={self.layers} names layers of a student that has 1 to {depth} (0: embeddings)"
            )
        return list(self.layers)


Trained = Literal["all", "without_embeddings", "head"] | Layers
"""What a stage trains: all of the student, all but its embeddings, its head alone, or some layers."""


def frozen_modules(model: PreTrainedModel, train: Trained) -> list[nn.Module]:
    """The modules that keep their weights when only a part of the model is trained."""
    if train == "all":
        return []
    base = base_of(model)
    if train == "head":
        return [base]
    embeddings = [base.get_submodule(family_of(model.config).embeddings.partition(".")[0])]
    if train == "without_embeddings":
        return embeddings
    layers = list(layers_of(model))
    kept = set(train.of(shape_of(model.config).layers))
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = [m for m in model.modules() if any(id(p) not in inside for p in m.parameters(recurse=False))]
    frozen: list[nn.Module] = [layer for number, layer in enumerate(layers, start=1) if number not in kept]
    known = {id(m) for part in embeddings for m in part.modules()}
    frozen += [module for module in outside if id(module) not in known]
    return frozen if 0 in kept else [*frozen, *embeddings]


def output_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Any:
    """Run a model. The key-value cache of causal models is disabled: tutelage never generates text."""
    if is_unread(model.config):
        return model(**accepted(model, inputs))
    return model(**inputs, use_cache=False) if is_causal(model.config) else model(**inputs)


def accepted(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments that ``forward`` has among these; models outside the table differ (FNet takes no mask)."""
    if not is_unread(model.config):
        return inputs
    if model.config.model_type == "xlnet" and head_of(model) == "classes":
        # It classifies by the last place of a row, so padding must stand before the text.
        order = inputs["attention_mask"].argsort(dim=1, stable=True)
        inputs = {name: tensor.gather(1, order) for name, tensor in inputs.items()}
    names = _arguments(type(model).forward)
    found: dict[str, Any] = {name: tensor for name, tensor in inputs.items() if name in names}
    return found | ({"use_cache": False} if "use_cache" in names else {})


@cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def answers_of(model: PreTrainedModel, inputs: dict[str, Tensor], predicted: Tensor | None) -> Tensor:
    """The logits of all predictions, ``(answers, classes)``.

    Vectors of texts count as logits.

    ``predicted`` ``(answers,)``: the tokens that need a prediction, as indices into the flattened ``(batch * length)``; ``None``
    for one prediction per text. For spans, each such token has two scores: as start and as end of the answer.
    """
    import torch

    head = head_of(model)
    if head == "classes":
        logits: Tensor = output_of(model, inputs).logits
        return logits
    if head == "vectors":
        return cast("Tensor", output_of(model, inputs))
    assert predicted is not None
    if head in ("masked_lm", "causal_lm"):
        return word_scores(model, output_of(base_of(model), inputs)[0].flatten(0, 1)[predicted])
    output = output_of(model, inputs)
    scores = output.logits if head == "tokens" else torch.stack([output.start_logits, output.end_logits], dim=-1)
    chosen: Tensor = scores.flatten(0, 1)[predicted]
    return chosen


def word_scores(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Apply the language-model head to hidden states of the last layer: ``(..., hidden)`` to ``(..., vocabulary)``.

    The head costs as much as several layers. Computing it only at the needed positions saves most of that.
    """
    for path in family_of(model.config).word_head:
        hidden = model.get_submodule(path)(hidden)
    return hidden


def pooler_of(model: PreTrainedModel) -> nn.Module:
    """The pooler: maps the first token's hidden state to one vector per text.

    Raises:
        TutelageError: if the model has none.
    """
    path = family_of(model.config).pooler
    pooler = None if path is None else getattr(base_of(model), path, None)
    if pooler is None:
        raise TutelageError(
            f"this {model.config.model_type} has no pooler, which the term pooled needs; remove the term"
        )
    found: nn.Module = pooler
    return found


class EagerAttention:
    """Reads queries, keys, values and the bias of one layer, in a family that computes attention without transformers'
    ``AttentionInterface``. :meth:`close` restores the layer.

    ``see(query, key, value, scaling, bias)`` is called after each run of the layer's attention. Shapes:
    ``(batch, heads, length, head_size)``, and ``bias`` ``(batch, heads, length, length)`` or ``None``.
    """

    def __init__(self, layer: nn.Module, config: Any, see: Callable[..., None]) -> None:
        family = family_of(config)
        self._see, self._heads, self._config = see, shape_of(config).heads, config
        self._module = layer.get_submodule(family.attention_module)
        self._parts: dict[str, Tensor] = {}
        self._bias: Tensor | None = None
        self._hooks = [
            self._module.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._module.register_forward_hook(self._end),
        ]
        for part in ("query", "key", "value"):
            matrix = layer.get_submodule(getattr(family, part))
            # Partial functions, because a deep copy of the model takes closures along as they are: they would read for this one.
            self._hooks.append(matrix.register_forward_hook(partial(self._keep, part)))
        self._method = family.bias if hasattr(type(self._module), str(family.bias)) else None
        if self._method is not None:
            # An attribute of the instance hides the method of the class until it is deleted.
            setattr(self._module, self._method, partial(self._watch, getattr(self._module, self._method)))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._method is not None:
            delattr(self._module, self._method)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._parts, self._bias = {}, None
        if self._method is None:
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            self._bias = given.get(str(family_of(self._config).bias))

    def _keep(self, part: str, module: nn.Module, args: Any, output: Tensor) -> None:
        # DeBERTa uses the matrices a second time, for the embeddings of relative positions.
        self._parts.setdefault(part, output.view(*output.shape[:-1], self._heads, -1).transpose(1, 2))

    def _watch(self, method: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        bias = method(*args, **kwargs)
        self._bias = bias.view(-1, self._heads, *bias.shape[1:])
        return bias

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        # DeBERTa divides by the root of one head size for each kind of score that it adds.
        kinds = 1 + sum(kind in (getattr(self._config, "pos_att_type", None) or ()) for kind in ("c2p", "p2c"))
        query, key, value = (self._parts[part] for part in ("query", "key", "value"))
        self._see(query, key, value, (query.shape[-1] * kinds) ** -0.5, self._bias)


def become(model: PreTrainedModel, fresh: PreTrainedModel) -> None:
    """Replace the content of ``model`` by that of ``fresh``, a model with the same head; references to ``model`` stay valid."""
    model.__class__ = type(fresh)
    for name in [name for name in model.__dict__ if not name.endswith("_hooks")]:
        del model.__dict__[name]  # a part that is None here may be a module there, which lies elsewhere
    model.__dict__.update({name: value for name, value in fresh.__dict__.items() if not name.endswith("_hooks")})
