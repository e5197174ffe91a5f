"""The parts of each model family: the only file that knows the internals of a transformers model.

Copying layers, reading signals and reshaping weights use this table. A new family is one entry in ``FAMILIES``; the tests run
over all entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from tutelage.errors import TutelageError

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


@dataclass(frozen=True)
class Family:
    """Dotted paths to the parts of a model family.

    Paths of the first group start at the base model (``BertModel``), those of the second group at a layer. The names of the
    third group are attributes of the configuration. If query, key and value are one matrix, the three paths are equal.
    """

    embeddings: str
    embedding_output: tuple[str, ...]
    """The module whose output is ``hidden_states[0]``: the first of these paths that exists in the model."""
    embedding_sum: str
    """The module whose input is the sum of a token's embeddings."""
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
    """Modules of the language-model head, from hidden states to scores over the vocabulary; paths start at the full model."""

    depth: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    intermediate: str = "intermediate_size"
    shared: bool = False
    """All layers share one set of weights (ALBERT), so copying layers has no choice to make."""
    first_layer_differs: bool = False
    """The first layer lacks a module that the others have (ModernBERT's attention norm), so only it can be first."""
    final_norm: str | None = None
    """The norm after the last layer, in families whose layers start with a norm."""
    rigid: str | None = None
    """The reason why the width of such a model cannot be changed, if it cannot."""
    numbers_after_padding: bool = False
    """Positions start at ``pad_token_id + 1``, so the first rows of the position table are unused."""
    reads_pooler: bool = False
    """The text classifier reads the output of the pooler, not the hidden state of the first token."""
    causal: bool = False
    """Attention is always causal. Other families become causal with ``is_decoder``."""
    derived: str | None = None
    """For families of tutelage: the ``init`` that creates one. It cannot be created by its family name."""


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
            "rigid": "it is already pruned",
            "derived": "pruned",
        }
    ),
    "bilstm": Family(
        embeddings="embeddings",
        **dict.fromkeys(_LAYERED, ""),  # type: ignore[arg-type]
        embedding_output=(),
        embedding_sum="",
        rigid="it has no attention layers",
        pooler=None,
        word_head=(),
        derived="bilstm",
    ),
}


# Shared layers: the same parts at the same paths.
FAMILIES |= {
    f"shared_{name}": Family(**{**vars(FAMILIES[name]), "rigid": "its layers are shared", "derived": "shared"})
    for name in ("bert", "roberta", "electra", "distilbert")
}


def family_of(config: Any) -> Family:
    """The family of a model configuration.

    Raises:
        TutelageError: if the model type is not supported, or a GPT-2 scales attention differently in each layer.
    """
    if config.model_type not in FAMILIES:
        heads, shared = getattr(config, "num_attention_heads", 0), getattr(config, "num_key_value_heads", None)
        why = ""
        if shared is not None and shared < heads:
            why = f" (grouped-query attention, {heads} query heads on {shared} key and value heads, cannot be pruned by head)"
        raise TutelageError(
            f"model type {config.model_type!r} is not supported{why}; use one of {', '.join(sorted(FAMILIES))}"
        )
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise TutelageError(
            f"this {config.model_type} scales the attention of every layer differently (scale_attn_by_inverse_layer_idx), "
            "which is not supported; use another model"
        )
    return FAMILIES[config.model_type]


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

    def __str__(self) -> str:
        if not self.heads:
            return f"a bidirectional LSTM with {self.hidden} units per direction, {self.intermediate} before the logits"
        stored = "" if self.stored is None else f" ({self.stored} stored)"
        return f"{self.layers} layers{stored} x {self.hidden}, {self.heads} heads, intermediate {self.intermediate}"


def shape_of(config: Any) -> Shape:
    """The sizes in a model configuration."""
    family = family_of(config)
    return Shape(
        family=config.model_type,
        layers=getattr(config, family.depth),
        hidden=getattr(config, family.hidden),
        heads=getattr(config, family.heads),
        # GPT-2's n_inner may be None.
        intermediate=getattr(config, family.intermediate) or 4 * getattr(config, family.hidden),
        vocabulary=config.vocab_size,
        stored=len({step.removesuffix("s") for step in config.plan}) if family.derived == "shared" else None,
    )


def max_length(config: Any) -> int:
    """The longest input in tokens, special tokens included; :data:`UNLIMITED` for a network without position embeddings."""
    family = FAMILIES[config.model_type]
    if not family.layers:
        return UNLIMITED
    unused = config.pad_token_id + 1 if family.numbers_after_padding else 0
    return int(config.max_position_embeddings) - unused


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
    """Run a model. The key-value cache of causal models is disabled: tutelage never generates text."""
    return model(**inputs, use_cache=False) if is_causal(model.config) else model(**inputs)


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
