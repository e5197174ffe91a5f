"""Where the parts of a transformers model lie: the only file that knows the insides of a model family.

Copying layers, reading signals and reshaping weights are all written against this table, once. A new family is one
entry in ``FAMILIES`` and one row in ``tests/test_anatomy.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from tutelage.errors import TutelageError

if TYPE_CHECKING:  # recipes read this table, and need not wait for torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Head = Literal["classes", "tokens", "spans", "words", "next_words", "none"]
"""What a model answers: a class (or number) for a text; a class for every token; where an answer starts and ends; which
word is masked; which word comes next; nothing, it has no head."""

_AUTO: dict[Head, str] = {
    "classes": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "words": "AutoModelForMaskedLM",
    "next_words": "AutoModelForCausalLM",
    "none": "AutoModel",
}

UNLIMITED = 2**31 - 1
"""The longest input of a network without positions."""


@dataclass(frozen=True)
class Family:
    """Dotted paths of a model family's parts.

    Paths of the first group start at the base model (``BertModel``), those of the second at one layer; the names of the
    third are attributes of the configuration. Where query, key and value are one matrix, the three paths are equal.
    """

    embeddings: str
    embedding_output: tuple[str, ...]
    """The module whose output is ``hidden_states[0]``: the first of these that the model has."""
    embedding_sum: str
    """The module that is given the sum of all embeddings of a token."""
    layers: str
    pooler: str | None

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    ffn_up: str
    ffn_down: str
    ffn_norm: str

    word_head: tuple[str, ...]
    """Modules of the language model (not of its base), one after the other: hidden states in, scores of all words out."""

    depth: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    intermediate: str = "intermediate_size"
    shared: bool = False
    """One set of layer weights, run many times (ALBERT): there is nothing to choose when layers are copied."""
    first_layer_differs: bool = False
    """The first layer lacks a part that the others have (ModernBERT's attention norm): it can only stay first."""
    final_norm: str | None = None
    """The norm after the last layer, where layers begin with theirs."""
    rigid: str | None = None
    """Why the widths of such a model cannot be mixed and cut, if they cannot."""
    numbers_after_padding: bool = False
    """Positions are numbered from ``pad_token_id + 1``: so many of the table's rows are never used."""
    reads_pooler: bool = False
    """A classifier of texts reads what the pooler makes of the first token, not the token itself."""
    causal: bool = False
    """No token ever sees a later one; the others are made so for a model of next words (``is_decoder``)."""
    derived: str | None = None
    """The ``init`` that makes one, of a family of our own: there is no new one by the family's name."""


_BERT = Family(
    embeddings="embeddings.word_embeddings",
    embedding_output=("embeddings",),
    embedding_sum="embeddings.LayerNorm",
    layers="encoder.layer",
    pooler="pooler",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_up="intermediate.dense",
    ffn_down="output.dense",
    ffn_norm="output.LayerNorm",
    word_head=("cls",),
    reads_pooler=True,
)

_LAYERED = (
    "layers", "query", "key", "value", "attention_output", "attention_norm", "ffn_up", "ffn_down", "ffn_norm"
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": Family(
        **{**vars(_BERT), "word_head": ("lm_head",), "numbers_after_padding": True, "reads_pooler": False}
    ),
    "electra": Family(
        **{
            **vars(_BERT),
            "embedding_output": ("embeddings_project", "embeddings"),
            "pooler": None,
            "reads_pooler": False,
            "word_head": ("generator_predictions", "generator_lm_head"),
            "rigid": "its embedding table has a width of its own",
        }
    ),
    "distilbert": Family(
        embeddings="embeddings.word_embeddings",
        embedding_output=("embeddings",),
        embedding_sum="embeddings.LayerNorm",
        layers="transformer.layer",
        pooler=None,
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_up="ffn.lin1",
        ffn_down="ffn.lin2",
        ffn_norm="output_layer_norm",
        word_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        depth="n_layers",
        hidden="dim",
        heads="n_heads",
        intermediate="hidden_dim",
    ),
    "albert": Family(
        embeddings="embeddings.word_embeddings",
        embedding_output=("encoder.embedding_hidden_mapping_in",),
        embedding_sum="embeddings.LayerNorm",
        layers="encoder.albert_layer_groups",
        pooler="pooler",
        query="albert_layers.0.attention.query",
        key="albert_layers.0.attention.key",
        value="albert_layers.0.attention.value",
        attention_output="albert_layers.0.attention.dense",
        attention_norm="albert_layers.0.attention.LayerNorm",
        ffn_up="albert_layers.0.ffn",
        ffn_down="albert_layers.0.ffn_output",
        ffn_norm="albert_layers.0.full_layer_layer_norm",
        word_head=("predictions",),
        reads_pooler=True,
        shared=True,
        rigid="its embedding table has a width of its own",
    ),
    "modernbert": Family(
        embeddings="embeddings.tok_embeddings",
        embedding_output=("embeddings",),
        embedding_sum="embeddings.norm",
        layers="layers",
        pooler=None,
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        attention_output="attn.Wo",
        attention_norm="attn_norm",
        ffn_up="mlp.Wi",
        ffn_down="mlp.Wo",
        ffn_norm="mlp_norm",
        word_head=("head", "decoder"),
        final_norm="final_norm",
        first_layer_differs=True,
        rigid="rotary positions bind the coordinates of a head in pairs, and its feed-forward is gated",
    ),
    "gpt2": Family(
        embeddings="wte",
        embedding_output=("drop",),
        embedding_sum="drop",
        layers="h",
        pooler=None,
        query="attn.c_attn",
        key="attn.c_attn",
        value="attn.c_attn",
        attention_output="attn.c_proj",
        attention_norm="ln_1",
        ffn_up="mlp.c_fc",
        ffn_down="mlp.c_proj",
        ffn_norm="ln_2",
        word_head=("lm_head",),
        final_norm="ln_f",
        depth="n_layer",
        hidden="n_embd",
        heads="n_head",
        intermediate="n_inner",
        causal=True,
    ),
    "pruned_bert": Family(
        **{
            **vars(_BERT),
            "embeddings": "embeddings.word_embeddings.table",
            "heads": "kept_heads",
            "rigid": "it was cut before",
            "derived": "pruned",
        }
    ),
    "bilstm": Family(
        embeddings="embeddings",
        **dict.fromkeys(_LAYERED, ""),  # type: ignore[arg-type]
        embedding_output=(),
        embedding_sum="",
        rigid="it has no layers of attention",
        pooler=None,
        word_head=(),
        derived="bilstm",
    ),
}


# The same parts in the same places; some layers are run more than once.
FAMILIES |= {
    f"shared_{name}": Family(
        **{**vars(FAMILIES[name]), "rigid": "its layers are run more than once", "derived": "shared"}
    )
    for name in ("bert", "roberta", "electra", "distilbert")
}


def family_of(config: Any) -> Family:
    """The family of a model configuration.

    Raises:
        TutelageError: for a model type that the table lacks, and a GPT-2 whose layers depend on their place.
    """
    if config.model_type not in FAMILIES:
        heads, shared = getattr(config, "num_attention_heads", 0), getattr(config, "num_key_value_heads", None)
        why = ""
        if shared is not None and shared < heads:
            why = (
                f" ({heads} heads share the keys and values of {shared}, which cannot be cut or exchanged head by head)"
            )
        raise TutelageError(
            f"model type {config.model_type!r} is not supported{why}; tutelage knows {', '.join(sorted(FAMILIES))}"
        )
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise TutelageError(
            f"this {config.model_type} scales the attention of every layer differently (scale_attn_by_inverse_layer_idx), "
            "which is not supported; use a model that does not"
        )
    return FAMILIES[config.model_type]


def is_causal(config: Any) -> bool:
    """Whether no token of this model sees a later one."""
    return family_of(config).causal or bool(getattr(config, "is_decoder", False))


@dataclass(frozen=True)
class Shape:
    """How large a model is; what a recipe needs to know of it before anything runs."""

    family: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    stored: int | None = None
    """Of layers that are run more than once: how many there are."""

    def __str__(self) -> str:
        if not self.heads:
            return f"a bidirectional LSTM of {self.hidden} units each way, {self.intermediate} before the logits"
        stored = "" if self.stored is None else f" ({self.stored} stored)"
        return f"{self.layers} layers{stored} x {self.hidden}, {self.heads} heads, intermediate {self.intermediate}"


def shape_of(config: Any) -> Shape:
    """The sizes that a model configuration states."""
    family = family_of(config)
    return Shape(
        family=config.model_type,
        layers=getattr(config, family.depth),
        hidden=getattr(config, family.hidden),
        heads=getattr(config, family.heads),
        # GPT-2's n_inner may be left out.
        intermediate=getattr(config, family.intermediate) or 4 * getattr(config, family.hidden),
        vocabulary=config.vocab_size,
        stored=len({step.removesuffix("s") for step in config.plan}) if family.derived == "shared" else None,
    )


def max_length(config: Any) -> int:
    """The longest input in tokens, special tokens included; for a network without positions a number beyond all texts."""
    family = FAMILIES[config.model_type]
    if not family.layers:
        return UNLIMITED
    unused = config.pad_token_id + 1 if family.numbers_after_padding else 0
    return int(config.max_position_embeddings) - unused


def has_token_types(config: Any) -> bool:
    """Whether the model tells the first text of a pair from the second."""
    return getattr(config, "type_vocab_size", 0) > 1


def auto_class(head: Head) -> Any:
    """The class of transformers that loads or makes a model with this head."""
    import transformers

    return getattr(transformers, _AUTO[head])


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder inside a model with a head (or the model itself)."""
    return getattr(model, model.base_model_prefix, model)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stored layers; for a family that shares one layer, the list is shorter than the depth."""
    layers = base_of(model).get_submodule(family_of(model.config).layers)
    return cast("nn.ModuleList", layers)


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
    """The matrices and norms between the base model and its answers, by name, in the order in which they are used."""
    from torch import nn

    base = base_of(model)
    inside = {id(module) for module in base.modules()}
    kinds = (nn.Linear, nn.LayerNorm)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds) and id(m) not in inside}


def head_of(model: PreTrainedModel) -> Head:
    """What a model answers, by the name of its class."""
    return head_named(type(model).__name__)


def head_named(name: str) -> Head:
    """What models of a class answer."""
    endings: dict[str, Head] = {
        "ForSequenceClassification": "classes",
        "ForTokenClassification": "tokens",
        "ForQuestionAnswering": "spans",
        "ForMaskedLM": "words",
        "LMHeadModel": "next_words",
        "ForCausalLM": "next_words",
    }
    return next((head for ending, head in endings.items() if name.endswith(ending)), "none")


class Layers(BaseModel):
    """A set of layers of a student, trained while the rest stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    layers: list[Annotated[int, Field(ge=0)]] | Literal["lower_half"]
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


def frozen_modules(model: PreTrainedModel, train: Literal["all", "head"] | Layers) -> list[nn.Module]:
    """The modules that keep their weights when only a part of the model is trained."""
    if train == "all":
        return []
    base = base_of(model)
    if train == "head":
        return [base]
    layers = list(layers_of(model))
    kept = set(train.of(shape_of(model.config).layers))
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = [m for m in model.modules() if any(id(p) not in inside for p in m.parameters(recurse=False))]
    embeddings = [base.get_submodule(family_of(model.config).embeddings.partition(".")[0])]
    frozen: list[nn.Module] = [layer for number, layer in enumerate(layers, start=1) if number not in kept]
    known = {id(m) for part in embeddings for m in part.modules()}
    frozen += [module for module in outside if id(module) not in known]
    return frozen if 0 in kept else [*frozen, *embeddings]


def output_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Any:
    """What a model returns. One that could generate text keeps no keys and values for that: nobody goes on from here."""
    return model(**inputs, use_cache=False) if is_causal(model.config) else model(**inputs)


def answers_of(model: PreTrainedModel, inputs: dict[str, Tensor], asked: Tensor | None) -> Tensor:
    """The logits of what is asked, ``(answers, classes)``.

    ``asked`` counts tokens of the flattened ``(batch * length)``; without it there is one answer for each text. Of a
    span every token asked has two scores, as its start and as its end.
    """
    import torch

    head = head_of(model)
    if head == "classes":
        logits: Tensor = output_of(model, inputs).logits
        return logits
    assert asked is not None
    if head in ("words", "next_words"):
        return word_scores(model, output_of(base_of(model), inputs)[0].flatten(0, 1)[asked])
    output = output_of(model, inputs)
    scores = output.logits if head == "tokens" else torch.stack([output.start_logits, output.end_logits], dim=-1)
    chosen: Tensor = scores.flatten(0, 1)[asked]
    return chosen


def word_scores(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What a language model's head makes of hidden states of its last layer: ``(..., hidden)`` to ``(..., vocabulary)``.

    For chosen positions only, this saves most of the head, which is as dear as several layers.
    """
    for path in family_of(model.config).word_head:
        hidden = model.get_submodule(path)(hidden)
    return hidden


def pooler_of(model: PreTrainedModel) -> nn.Module:
    """The module that makes one vector of the first token's.

    Raises:
        TutelageError: when the model has none.
    """
    path = family_of(model.config).pooler
    pooler = None if path is None else getattr(base_of(model), path, None)
    if pooler is None:
        raise TutelageError(
            f"this {model.config.model_type} has no pooler, which the objective pooled compares; leave it out"
        )
    found: nn.Module = pooler
    return found
