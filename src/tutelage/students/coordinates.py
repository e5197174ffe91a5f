"""Hidden coordinates of a model: the modules that write, normalise and read them, and a model that keeps only some.

All layers add to one stream of hidden states, so a coordinate is kept in all of them or in none. Norms take the mean and variance
of the kept ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy


@dataclass(frozen=True)
class Places:
    """Paths of the modules at the hidden states of a model or of a layer."""

    tables: tuple[str, ...] = ()
    """Embedding tables, whose sum is the first hidden state before its norm."""
    writers: tuple[str, ...] = ()
    """Matrices that give hidden states."""
    norms: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    """Matrices that take hidden states."""


def of_layer(family: anatomy.Family) -> Places:
    """The places of a layer."""
    return Places(
        writers=(family.attention_output, family.ffn_down),
        norms=(family.attention_norm, family.ffn_norm),
        readers=(family.query, family.key, family.value, family.ffn_up),
    )


def outside_layers(model: PreTrainedModel) -> Places:
    """The places of a model outside its layers. The output of a pooler is as wide as before: it is no hidden state."""
    base, family = anatomy.base_of(model), anatomy.family_of(model.config)
    names = {module: name for name, module in model.named_modules()}
    pooler = None if family.pooler is None else getattr(base, family.pooler, None)
    readers = [] if pooler is None else [names[pooler.dense]]
    if pooler is None or not family.reads_pooler or anatomy.head_of(model) != "classes":
        readers += [name for name, m in anatomy.head_modules(model).items() if isinstance(m, nn.Linear)][:1]
    entrance = anatomy.embedding_output_of(model)
    if isinstance(entrance, nn.Linear):  # ELECTRA's, from an embedding table with a width of its own
        return Places(writers=(names[entrance],), readers=tuple(readers))
    embeddings = base.get_submodule(family.embeddings.partition(".")[0])
    return Places(
        tables=tuple(names[module] for module in embeddings.modules() if isinstance(module, nn.Embedding)),
        norms=(names[base.get_submodule(family.embedding_sum)],),
        readers=tuple(readers),
    )


def narrow(module: nn.Module, places: Places, width: int) -> None:
    """Replace the modules at these places by new ones for hidden states that are ``width`` wide."""
    for path in (*places.tables, *places.writers, *places.norms, *places.readers):
        module.set_submodule(path, _of_width(module.get_submodule(path), width, reads=path in places.readers))


def _of_width(old: nn.Module, width: int, *, reads: bool) -> nn.Module:
    if isinstance(old, nn.Embedding):
        return nn.Embedding(old.num_embeddings, width, padding_idx=old.padding_idx)
    if isinstance(old, nn.LayerNorm):
        return nn.LayerNorm(width, eps=old.eps)
    assert isinstance(old, nn.Linear)
    sizes = (width, old.out_features) if reads else (old.in_features, width)
    return nn.Linear(*sizes, bias=old.bias is not None)


def kept_weights(weights: Mapping[str, Tensor], places: Places, factors: Tensor) -> dict[str, Tensor]:
    """The weights of a model or layer without the coordinates whose factor is 0.

    The other factors are multiplied into what writes and normalises them, so that the result computes the same as the whole whose
    writers, sums of embeddings and norms give coordinates times their factors, and whose norms are over the kept ones.

    Args:
        factors: ``(hidden,)``, at least 0.
    """
    found, kept = dict(weights), factors.nonzero()[:, 0]
    for path in places.tables:
        name = f"{path}.weight"
        found[name] = found[name].index_select(1, kept) * factors[kept]
    for path in places.readers:
        name = f"{path}.weight"
        found[name] = found[name].index_select(1, kept)
    for path in (*places.writers, *places.norms):
        for name in (f"{path}.weight", f"{path}.bias"):
            if name in found:
                rows = found[name].index_select(0, kept)
                found[name] = rows * factors[kept].view(-1, *(1 for _ in rows.shape[1:]))
    return found
