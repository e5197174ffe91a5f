"""Students made of copied teacher layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError, option
from tutelage.objectives.mapping import half_up, spread
from tutelage.students.load import model_class
from tutelage.students.specs import Copied


def chosen_layers(student: Copied, depth: int) -> list[int]:
    """The teacher layers (from 1) to copy; of ``choose=best`` those that it begins with, the first.

    Raises:
        TutelageError: if the teacher has fewer layers.
    """
    if student.layers == "all":
        return list(range(1, depth + 1))
    if isinstance(student.layers, list):
        if max(student.layers) > depth:
            raise TutelageError(f"layer {max(student.layers)} cannot be copied: the teacher has layers 1 to {depth}")
        return student.layers
    count = student.layers
    if count > depth:
        raise TutelageError(f"{count} layers cannot be copied: the teacher has {depth}; use layers={depth} or fewer")
    if student.choose in ("best", "first"):
        return list(range(1, count + 1))
    if student.choose == "last":
        return list(range(depth - count + 1, depth + 1))
    if student.choose == "spread":
        return spread(count, depth)
    return [half_up(i * depth, count) for i in range(1, count + 1)]


def copy_layers(
    source: PreTrainedModel, student: Copied, labels: dict[str, Any], new: list[str] | None = None
) -> PreTrainedModel:
    """A shallower copy of ``source``: the chosen layers, and everything outside the layers. ``new`` gets the names of the parts
    that are not copied, but random."""
    if student.family == "distilbert":
        made = _as_distilbert(source, student, labels)
        if new is not None:  # its head has another form than a BERT's
            body = f"{made.base_model_prefix}."
            new[:] = sorted({name.rpartition(".")[0] for name in made.state_dict() if not name.startswith(body)})
        return made
    family = anatomy.family_of(source.config)
    if family.derived == "shared":
        raise TutelageError(
            f"a {source.config.model_type} shares layers, which cannot be copied one by one; convert it to a standard "
            "checkpoint first: `tutelage export MODEL --format checkpoint --out FOLDER`"
        )
    if not family.layers:
        raise TutelageError(
            f"a {source.config.model_type} has no layers that can be copied; use a fresh student with family=bert"
        )
    picked = chosen_layers(student, getattr(source.config, family.depth))
    if family.first_layer_differs and picked[0] != 1:
        raise TutelageError(
            f"the first layer of {source.config.model_type} has no norm before its attention, so layer {picked[0]} cannot "
            "replace it; choose layers that start with 1 (choose=first or choose=spread)"
        )
    config = copy.deepcopy(source.config)
    setattr(config, family.depth, len(picked))
    for name in ("layer_types", "kept_heads", "kept_neurons"):
        of_layers = getattr(config, name, None)
        if isinstance(of_layers, list):
            setattr(config, name, [of_layers[i - 1] for i in picked])
    for key, value in labels.items():
        setattr(config, key, value)
    model: PreTrainedModel = model_class(anatomy.head_of(source)).from_config(config, dtype=torch.float32)
    prefix = next(name for name, module in source.named_modules() if module is anatomy.layers_of(source)) + "."
    weights: dict[str, Any] = {}
    for name, tensor in _fitting_head(source, model).items():
        if name.startswith(prefix) and not family.shared:
            index, _, rest = name.removeprefix(prefix).partition(".")
            weights |= {f"{prefix}{new}.{rest}": tensor for new, old in enumerate(picked) if old - 1 == int(index)}
        else:
            weights[name] = tensor
    model.load_state_dict(weights)
    return model.eval()


def _fitting_head(source: PreTrainedModel, model: PreTrainedModel) -> dict[str, Any]:
    """The weights of ``source``, with the parts of a head that only ``model`` has, and without those that it lacks."""
    base, theirs, ours = anatomy.base_of(source), source.state_dict(), model.state_dict()
    prefix = next(f"{name}." if name else "" for name, module in source.named_modules() if module is base)
    head = {name: tensor for name, tensor in ours.items() if not name.startswith(prefix)}
    body = {name: tensor for name, tensor in theirs.items() if name.startswith(prefix)}
    return {**body, **{name: theirs.get(name, tensor) for name, tensor in head.items()}}


def _as_distilbert(source: PreTrainedModel, student: Copied, labels: dict[str, Any]) -> PreTrainedModel:
    if source.config.model_type != "bert":
        raise TutelageError(
            f"family=distilbert copies the layers of a BERT, and this is a {source.config.model_type}; give {option('settings')} "
            "student.family=null"
        )
    theirs, ours = anatomy.FAMILIES["bert"], anatomy.FAMILIES["distilbert"]
    shape = anatomy.shape_of(source.config)
    config = AutoConfig.for_model(
        "distilbert",
        vocab_size=shape.vocabulary,
        max_position_embeddings=source.config.max_position_embeddings,
        pad_token_id=source.config.pad_token_id,
        activation=source.config.hidden_act,
        dropout=source.config.hidden_dropout_prob,
        attention_dropout=source.config.attention_probs_dropout_prob,
        **{getattr(ours, size): getattr(shape, size) for size in ("hidden", "heads", "intermediate")},
        **labels,
    )
    picked = chosen_layers(student, shape.layers)
    setattr(config, ours.depth, len(picked))
    head = anatomy.head_of(source)
    model: PreTrainedModel = model_class(head).from_config(config, dtype=torch.float32)
    old, new = anatomy.base_of(source), anatomy.base_of(model)
    parts = ("query", "key", "value", "attention_output", "attention_norm", "ffn_up", "ffn_down", "ffn_norm")
    pairs = [
        (
            old.get_submodule(f"{theirs.layers}.{layer - 1}.{getattr(theirs, part)}"),
            f"{ours.layers}.{place}.{getattr(ours, part)}",
        )
        for place, layer in enumerate(picked)
        for part in parts
    ]
    pairs += [
        (old.get_submodule(f"embeddings.{part}"), f"embeddings.{part}")
        for part in ("word_embeddings", "position_embeddings", "LayerNorm")
    ]
    for module, path in pairs:
        new.get_submodule(path).load_state_dict(module.state_dict())
    with torch.no_grad():
        new.get_submodule("embeddings.position_embeddings").weight += old.embeddings.token_type_embeddings.weight[0]
    if head == "masked_lm":
        predictions = source.get_submodule("cls.predictions")
        model.get_submodule("vocab_transform").load_state_dict(predictions.transform.dense.state_dict())
        model.get_submodule("vocab_layer_norm").load_state_dict(predictions.transform.LayerNorm.state_dict())
        model.get_submodule("vocab_projector").load_state_dict(predictions.decoder.state_dict())
    return model.eval()
