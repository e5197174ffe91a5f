"""The table of model families: where the parts of a transformers model are, and what can be read of it.

A new family is one entry in ``FAMILIES``; the tests run over all entries. Of every other classification model of transformers
the logits are read, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    heads_fixed: str | None = None
    """The reason why single heads cannot be removed, if they cannot."""
    neurons_fixed: str | None = None
    """The reason why single feed-forward neurons cannot be removed, if they cannot; such a model cannot be pruned at all."""
    follows_hidden: tuple[str, ...] = ()
    """Further sizes in the configuration that always equal the hidden size."""
    scales_with_hidden: tuple[str, ...] = ()
    """Further sizes that keep their share of it."""
    attended: str | None = None
    """The width of queries, keys and values, in families where it is not the hidden size."""
    reads_neighbours: bool = False
    """A token's embedding is made of those of the tokens beside it, too, be they padding (MobileBERT)."""
    numbers_after_padding: bool = False
    """Positions start at ``pad_token_id + 1``, so the first rows of the position table are unused."""
    padding_in_code: int | None = None
    """The padding token from which positions are numbered, where the family's code fixes it (MPNet)."""
    reads_pooler: bool = False
    """The text classifier reads the output of the pooler, not the hidden state of the first token."""
    causal: bool = False
    """Attention is always causal."""
    decoder: bool = False
    """Attention becomes causal with ``is_decoder``: there is a head for the next word."""
    attention: Literal["interface", "projections"] | None = "interface"
    """Where queries, keys and values are read: in transformers' ``AttentionInterface``, or at the three matrices of families
    that compute attention themselves. ``None``: nowhere."""
    attention_module: str = ""
    """The module that computes attention, in families that are read at the three matrices."""
    bias: str | None = None
    """What such a module adds to the scaled products of query and key: the name of an argument of its ``forward``, or of the
    method that computes it."""
    mask: Literal["none", "given", "square"] = "none"
    """The attention mask with which the code reads no values of its inputs, so that a model without weights can be counted: none,
    that of the texts (DeBERTa, which looks for padding among the ids where there is none), or one of queries by keys (GPT-2)."""
    after_first: str | None = None
    """The module whose output replaces that of the first layer, if the model has it (DeBERTa's convolution)."""
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
    decoder=True,
)
_ROBERTA = Family(**{**vars(_BERT), "word_head": ("lm_head",), "numbers_after_padding": True, "reads_pooler": False})

_LAYERED = (
    "layers", "query", "key", "value", "attention_output", "attention_norm", "ffn_up", "ffn_down", "ffn_norm"
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "ernie": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "xlm-roberta-xl": Family(
        **{
            **vars(_ROBERTA),
            "embedding_sum": "embeddings.dropout",
            "attention_norm": "attention.self_attn_layer_norm",
            "ffn_norm": "LayerNorm",
            "final_norm": "encoder.LayerNorm",
            "neurons_fixed": "its layers start with a norm",
        }
    ),
    "megatron-bert": Family(
        **{
            **vars(_BERT),
            "embedding_sum": "embeddings.dropout",
            "attention_norm": "attention.ln",
            "ffn_norm": "ln",
            "final_norm": "encoder.ln",
            "attention": "projections",
            "attention_module": "attention.self",
            "mask": "square",
            "neurons_fixed": "its layers start with a norm",
        }
    ),
    "mpnet": Family(
        **{
            **vars(_ROBERTA),
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "attention_output": "attention.attn.o",
            "attention_norm": "attention.LayerNorm",
            "padding_in_code": 1,
            "decoder": False,
            "attention": "projections",
            "attention_module": "attention.attn",
            "bias": "position_bias",
            **dict.fromkeys(
                ("rigid", "heads_fixed"),
                "all layers share one table of relative positions, with a column for each head",
            ),
        }
    ),
    "deberta-v2": Family(
        **{
            **vars(_BERT),
            "pooler": None,
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
            "follows_hidden": ("pooler_hidden_size",),
            "reads_pooler": False,
            "decoder": False,
            "attention": "projections",
            "attention_module": "attention.self",
            "bias": "disentangled_attention_bias",
            "mask": "given",
            "after_first": "encoder.conv",
            **dict.fromkeys(
                ("rigid", "heads_fixed"), "its queries and keys also meet embeddings of relative positions"
            ),
        }
    ),
    "deberta": Family(
        **{
            **vars(_BERT),
            "pooler": None,
            **dict.fromkeys(("query", "key", "value"), "attention.self.in_proj"),
            "follows_hidden": ("pooler_hidden_size",),
            "reads_pooler": False,
            "decoder": False,
            "attention": None,
            "mask": "given",
            **dict.fromkeys(
                ("rigid", "heads_fixed"), "its queries and keys also meet embeddings of relative positions"
            ),
        }
    ),
    "nomic_bert": Family(
        embeddings="embeddings.word_embeddings",
        embedding_output=("embeddings",),
        embedding_sum="embeddings.LayerNorm",
        layers="layers",
        pooler="pooler",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_output="self_attn.o_proj",
        attention_norm="post_attention_layernorm",
        ffn_up="mlp.up_proj",
        ffn_down="mlp.down_proj",
        ffn_norm="post_mlp_layernorm",
        word_head=("cls",),
        reads_pooler=True,
        rigid="rotary positions bind the coordinates of a head in pairs, and its feed-forward is gated",
        neurons_fixed="its feed-forward is gated",
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
    "mobilebert": Family(
        **{
            **vars(_BERT),
            "decoder": False,
            "scales_with_hidden": ("embedding_size", "intra_bottleneck_size", "true_hidden_size"),
            "attended": "true_hidden_size",
            "reads_neighbours": True,
            "rigid": "its layers work in a bottleneck with a width of its own",
            "neurons_fixed": "each of its layers has several feed-forward networks, of one size",
        }
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
        neurons_fixed="all layers share one set of weights",
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
        neurons_fixed="its feed-forward is gated",
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
        mask="square",
        neurons_fixed="its queries, keys and values are one matrix",
    ),
    "bilstm": Family(
        embeddings="embeddings",
        **dict.fromkeys(_LAYERED, ""),  # type: ignore[arg-type]
        embedding_output=(),
        embedding_sum="",
        rigid="it has no attention layers",
        neurons_fixed="it has no attention layers",
        pooler=None,
        word_head=(),
        attention=None,
        derived="bilstm",
    ),
}


# Shared layers: the same parts at the same paths.
FAMILIES |= {
    f"shared_{name}": Family(
        **{
            **vars(FAMILIES[name]),
            **dict.fromkeys(("rigid", "neurons_fixed"), "its layers are shared"),
            "decoder": False,
            "derived": "shared",
        }
    )
    for name in ("bert", "roberta", "electra", "distilbert")
}

# Fewer heads than the width has room for, and an embedding table that may be factorised.
FAMILIES |= {
    f"pruned_{name}": Family(
        **{
            **vars(family),
            "embeddings": f"{family.embeddings}.table",
            "heads": "kept_heads",
            **dict.fromkeys(("rigid", "neurons_fixed"), "it is already pruned"),
            "decoder": False,
            "derived": "pruned",
        }
    )
    for name, family in FAMILIES.items()
    if family.derived is family.heads_fixed is family.neurons_fixed is None
}

# Another number of heads and neurons in each layer, or none: attention is then not called once a layer.
FAMILIES |= {
    f"uneven_{name}": Family(
        **{
            **vars(family),
            **dict.fromkeys(("rigid", "neurons_fixed"), "it is already pruned"),
            "decoder": False,
            "attention": None,
            "derived": "uneven",
        }
    )
    for name, family in FAMILIES.items()
    if family.derived is family.heads_fixed is family.neurons_fixed is None
}

UNREAD = Family(
    **{
        **vars(FAMILIES["bilstm"]),
        **dict.fromkeys(("rigid", "neurons_fixed"), "only its predictions are read"),
        "derived": None,
    }
)
"""Every classification model of transformers that is not in the table: logits are read, and nothing else."""
