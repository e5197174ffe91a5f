"""The same function as a model of a plain family, which loads in transformers without an import.

Shared layers are copied. A factorised embedding table is multiplied out. Where heads or neurons were removed, zeros stand in their
places: attention of a plain family has as many heads as the width has room for, and all of its layers have equally many neurons.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.students.load import network_of
from tutelage.students.sharing import expanded


def standard(model: PreTrainedModel) -> PreTrainedModel:
    """The same function as a model of a plain family.

    Raises:
        TutelageError: if the model is one already, or no plain family computes what it does.
    """
    kind, derived = model.config.model_type, anatomy.family_of(model.config).derived
    if derived is None:
        raise TutelageError(f"this {kind} is a standard checkpoint already; use it as it is")
    if derived == "bilstm":
        raise TutelageError(
            f"no architecture of transformers computes what a {kind} does; export it as ONNX, which needs no import"
        )
    return expanded(model) if derived == "shared" else _filled(model, kind.removeprefix(f"{derived}_"))


@torch.no_grad()
def _filled(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """A model with fewer heads or neurons as one of the family ``kind``, with zeros in their places."""
    values, family = model.config.to_dict(), anatomy.FAMILIES[kind]
    for name in ("model_type", "architectures", "kept_heads", "kept_neurons", "kept_coordinates", "embedding_rank"):
        values.pop(name, None)
    if anatomy.family_of(model.config).derived == "uneven":
        _check_blocks(model.config, kind)
        values[family.intermediate] = max(model.config.kept_neurons)
    plain = network_of(AutoConfig.for_model(kind, **values), anatomy.head_of(model))
    given = model.state_dict()
    names = {module: name for name, module in plain.named_modules()}
    words = f"{names[anatomy.word_embeddings_of(plain)]}."
    table = given.pop(f"{words}table.weight", None)
    if table is not None:
        project = given.pop(f"{words}project.weight", None)
        given[f"{words}weight"] = table if project is None else table @ project.mT
    plain.load_state_dict({name: _padded(given[name], own) for name, own in plain.state_dict().items()})
    return plain.eval()


def _check_blocks(config: Any, kind: str) -> None:
    if config.kept_coordinates is not None:
        raise TutelageError(
            f"the hidden states of this {config.model_type} have {len(config.kept_coordinates)} of {config.hidden_size} "
            f"coordinates, and the norms of a {kind} have all; export it as ONNX, which needs no import"
        )
    for layer, sizes in enumerate(zip(config.kept_heads, config.kept_neurons, strict=True), 1):
        for block, size in zip(("attention", "feed-forward"), sizes, strict=True):
            if not size:
                raise TutelageError(
                    f"layer {layer} of this {config.model_type} has no {block} block, and each layer of a {kind} has one; export "
                    "it as ONNX, which needs no import"
                )


def _padded(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor with zeros after the end of each dimension, up to the size of another."""
    room = [
        size
        for own, other in zip(reversed(tensor.shape), reversed(like.shape), strict=True)
        for size in (0, other - own)
    ]
    return nn.functional.pad(tensor, room)
