"""A student whose layers differ: each has a number of heads and of feed-forward neurons of its own, or lacks a block.

It is what structured pruning leaves of a model (CoFi, Xia et al. 2022). A block without heads or neurons is skipped with its norm:
the hidden states pass on as they are. A layer without both is removed. Hidden states may be narrower than the heads together.

transformers has one size for all layers, so these models have types of their own. Importing this module registers them
(``uneven_bert``, ``uneven_roberta``, ...) with the Auto classes of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.objectives.mappers import placed
from tutelage.students import coordinates
from tutelage.students.load import network_of
from tutelage.students.pruned import cut_layer, register
from tutelage.tasks.sentence import SentenceEncoder


class Zeros(nn.Module):
    """In place of a matrix: zeros of the shape of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class NoAttention(nn.Module):
    """In place of a module that computes attention."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


class Uneven:
    """Mixin for the models of this module: the matrices of each layer have its own sizes."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        model: Any = self
        family = anatomy.family_of(config)
        hidden, size = anatomy.hidden_of(config), getattr(config, family.hidden) // getattr(config, family.heads)
        if config.kept_coordinates is not None:
            coordinates.narrow(model, coordinates.outside_layers(model), hidden)
            for layer in anatomy.layers_of(model):
                coordinates.narrow(layer, coordinates.of_layer(family), hidden)
        for layer, heads, neurons in zip(anatomy.layers_of(model), config.kept_heads, config.kept_neurons, strict=True):
            _shape_attention(layer, family, hidden, heads * size)
            _shape_feed_forward(layer, family, hidden, neurons)
        model.post_init()


def _shape_attention(layer: nn.Module, family: anatomy.Family, hidden: int, width: int) -> None:
    if width:
        for path in (family.query, family.key, family.value):
            layer.set_submodule(path, nn.Linear(hidden, width))
        layer.set_submodule(family.attention_output, nn.Linear(width, hidden))
        return
    core = family.query.rpartition(".")[0]
    layer.set_submodule(core, NoAttention())
    if not family.attention_output.startswith(f"{core}."):  # DistilBERT has it in the same module
        layer.set_submodule(family.attention_output, nn.Identity())
    layer.set_submodule(family.attention_norm, nn.Identity())


def _shape_feed_forward(layer: nn.Module, family: anatomy.Family, hidden: int, neurons: int) -> None:
    if neurons:
        layer.set_submodule(family.ffn_up, nn.Linear(hidden, neurons))
        layer.set_submodule(family.ffn_down, nn.Linear(neurons, hidden))
        return
    layer.set_submodule(family.ffn_up, nn.Identity())
    layer.set_submodule(family.ffn_down, Zeros())
    layer.set_submodule(family.ffn_norm, nn.Identity())


CONFIGS = register(
    "uneven",
    Uneven,
    {"kept_heads": list[int] | None, "kept_neurons": list[int] | None, "kept_coordinates": list[int] | None},
    {"kept_heads": None, "kept_neurons": None, "kept_coordinates": None},
)
"""By model type of the teacher the configuration of a student with these numbers of heads and neurons in each layer, and with these
of the hidden coordinates, or all.

The original number of heads and hidden size stay as they are, because transformers derives the head size from them.
"""


@dataclass(frozen=True)
class LayerGates:
    """Factors of a layer's parts, at least 0; a part with the factor 0 is removed.

    A head's factor multiplies what it gives to the output matrix, a neuron's its activation, a block's its output with the bias.
    """

    attention: Tensor
    """A number."""
    heads: Tensor
    """``(heads,)``"""
    feed_forward: Tensor
    """A number."""
    neurons: Tensor
    """``(intermediate,)``"""

    @property
    def kept_heads(self) -> list[int]:
        """Heads that stay, from 0."""
        return _open(self.heads * self.attention)

    @property
    def kept_neurons(self) -> list[int]:
        """Neurons that stay, from 0."""
        return _open(self.neurons * self.feed_forward)


def _open(factors: Tensor) -> list[int]:
    found: list[int] = (factors > 0).nonzero()[:, 0].tolist()
    return found


def check_uneven(config: Any) -> None:
    """Check that parts of a model of this configuration can be removed layer by layer.

    Raises:
        TutelageError: if they cannot.
    """
    family = anatomy.family_of(config)
    if config.model_type in CONFIGS:
        return
    why = family.neurons_fixed or family.heads_fixed
    raise TutelageError(
        f"heads and neurons of a {config.model_type} cannot be removed layer by layer: {why}; use one of {', '.join(CONFIGS)} as "
        "teacher, or another kind of student, such as init=copied"
    )


@torch.no_grad()
def cut(model: PreTrainedModel, gates: Sequence[LayerGates], hidden: Tensor | None = None) -> PreTrainedModel:
    """The model without the parts whose factor is 0. The other factors are multiplied into its weights.

    Args:
        gates: One for each layer.
        hidden: ``(hidden,)``: the factors of the hidden coordinates, as :func:`~tutelage.students.coordinates.kept_weights` takes
            them; without, all are kept as they are.

    Raises:
        TutelageError: if the family cannot be cut, or nothing would be left.
    """
    check_uneven(model.config)
    family, device = anatomy.family_of(model.config), next(model.parameters()).device
    sizes = [(len(gate.kept_heads), len(gate.kept_neurons)) for gate in gates]
    places = [place for place, size in enumerate(sizes) if any(size)]
    if not places or not (hidden is None or hidden.any()):
        raise TutelageError("all heads and neurons of the student are closed, and nothing is left; use a larger share")
    values = model.config.to_dict()
    for name in ("model_type", "architectures"):
        values.pop(name, None)
    values[family.depth] = len(places)
    heads, neurons = zip(*(sizes[place] for place in places), strict=True)
    kept = None if hidden is None or hidden.all() else hidden.nonzero()[:, 0].tolist()
    numbers = {"kept_heads": list(heads), "kept_neurons": list(neurons), "kept_coordinates": kept}
    layers = f"{next(name for name, module in model.named_modules() if module is anatomy.layers_of(model))}."
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(layers)}
    outside = coordinates.outside_layers(model)
    if kept is not None and isinstance(model, SentenceEncoder) and model.dense is model.space is None:
        # Its vectors are means of hidden states: a map puts their coordinates in the places that the teacher's have.
        values["sentence"], name = model.placed_settings()
        weights[name] = placed(kept, anatomy.hidden_of(model.config)).to(device)
    if hidden is not None:
        weights = coordinates.kept_weights(weights, outside, hidden)
    for new, place in enumerate(places):
        found = _folded(anatomy.layers_of(model)[place], family, gates[place])
        if hidden is not None:
            found = coordinates.kept_weights(found, coordinates.of_layer(family), hidden)
        weights |= {f"{layers}{new}.{name}": tensor for name, tensor in found.items()}
    student = network_of(CONFIGS[model.config.model_type](**values, **numbers), anatomy.head_of(model))
    student.load_state_dict({name: weights[name] for name in student.state_dict()})
    student.set_attn_implementation(model.config._attn_implementation)
    return student.to(device).train(model.training)


def _folded(layer: nn.Module, family: anatomy.Family, gates: LayerGates) -> dict[str, Tensor]:
    """The weights of the kept parts of a layer, times their factors."""
    size = layer.get_parameter(f"{family.attention_output}.weight").shape[1] // len(gates.heads)
    heads, neurons = torch.tensor(gates.kept_heads).long(), torch.tensor(gates.kept_neurons).long()
    columns = (heads[:, None] * size + torch.arange(size)).flatten()
    weights = cut_layer(layer, family, columns, neurons)
    for path, block, parts in (
        (family.attention_output, gates.attention, gates.heads.cpu()[heads].repeat_interleave(size)),
        (family.ffn_down, gates.feed_forward, gates.neurons.cpu()[neurons]),
    ):
        weight = weights[f"{path}.weight"]
        weights[f"{path}.weight"] = weight * (parts.to(weight) * block.to(weight))
        weights[f"{path}.bias"] = weights[f"{path}.bias"] * block.to(weight)
    return weights
