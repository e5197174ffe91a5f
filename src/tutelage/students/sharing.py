"""Shared layers: each stored layer runs more than once, which adds depth without parameters (SPS of Pea-KD, Cho and Kang 2022).

A plan lists the layers in the order in which they run, by their number (from 1) among the stored layers. ``"2s"`` runs the
second layer with query and key exchanged, which transposes its attention scores. The model is a standard one with the depth of
its plan; repeated runs of a layer share its weights. Signals are read from each run as from a separate layer. Every weight is
stored, trained and counted once.

Importing this module registers the model types ``shared_bert`` and so on with the Auto classes of transformers.
:func:`expanded` makes a standard checkpoint by copying each shared layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    ElectraConfig,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
)

from tutelage import anatomy
from tutelage.anatomy import auto_class
from tutelage.errors import TutelageError
from tutelage.students.specs import Shared

Plan = list[str]


def plan_of(stored: int, order: str | list[str]) -> Plan:
    """The plan for ``stored`` layers in this ``order``:

    * ``shuffled``: all layers in order, then again with query and key exchanged (SPS). With 6 layers or more, only the upper
      half runs again, as in the paper for 6.
    * ``paired``: the same without exchange.
    * ``mirror``: all layers in order, then those that run again in reverse order with query and key exchanged.
    * ``adjacent``: each layer twice in a row, without exchange (ALBERT's order).
    * a list, such as ``["1", "2", "1s"]``.

    Raises:
        TutelageError: if a list names a layer that is not stored, omits a layer, or exchanges a layer before its first
            normal run.
    """
    layers = [str(number) for number in range(1, stored + 1)]
    if isinstance(order, list):
        _check(order, stored)
        return order
    again = layers if stored < 6 else layers[stored // 2 :]
    if order == "adjacent":
        return [layer for layer in layers for _ in range(2)]
    if order == "mirror":
        return layers + [f"{layer}s" for layer in reversed(again)]
    return layers + [layer + ("s" if order == "shuffled" else "") for layer in again]


def _check(plan: Plan, stored: int) -> None:
    first: list[str] = []
    for step in plan:
        layer = step.removesuffix("s")
        if layer not in {str(number) for number in range(1, stored + 1)}:
            raise TutelageError(
                f"the plan {plan} runs {step!r}, but the stored layers are 1 to {stored} (1s: with query and key exchanged)"
            )
        if layer not in first:
            if step.endswith("s") or int(layer) != len(first) + 1:
                raise TutelageError(
                    f"the plan {plan} runs {step!r} first; the first runs must be the stored layers in order, without exchange"
                )
            first.append(layer)
    if len(first) != stored:
        raise TutelageError(f"the plan {plan} omits layer {len(first) + 1} of {stored}; add it, or store fewer layers")


def share(model: PreTrainedModel, plan: Plan) -> dict[str, str]:
    """Replace the layers of ``model`` that are repeated runs in ``plan`` by copies that share the weights of the first run.

    Returns the name of the shared weight for each weight name of a repeated run.
    """
    family, layers = anatomy.family_of(model.config), anatomy.layers_of(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    query, key = family.query, family.key
    tied: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, step in enumerate(plan):
        source = first.setdefault(step.removesuffix("s"), number)
        if source == number:
            continue
        swapped = step.endswith("s")
        layers[number] = _again(layers[source], query, key, swapped)
        for name, _ in layers[source].named_parameters():
            theirs = name
            for one, other in ((query, key), (key, query)):
                if swapped and name.startswith(f"{one}."):
                    theirs = other + name.removeprefix(one)
            tied[f"{prefix}.{number}.{name}"] = f"{prefix}.{source}.{theirs}"
    return tied


def _again(layer: nn.Module, query: str, key: str, swapped: bool) -> nn.Module:
    """A layer with the same matrices and norms. Only the modules that contain query and key are copied."""
    new = _copied(layer)
    inner, (*path, last) = new, query.split(".")
    for name in path:
        child = _copied(inner.get_submodule(name))
        inner._modules[name] = child
        inner = child
    if swapped:
        other = key.split(".")[-1]
        inner._modules[last], inner._modules[other] = inner._modules[other], inner._modules[last]
    return new


def _copied(module: nn.Module) -> nn.Module:
    """A shallow copy: parameters and submodules are shared, their dictionaries and those of hooks are copied."""
    new = copy.copy(module)
    new.__dict__ = {
        name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(module).items()
    }
    return new


class Sharing:
    """Mixin for the models of this module: builds a model with the depth of its plan, then shares the layers."""

    config_class: Any

    def __init__(self, config: Any) -> None:
        _check(config.plan, anatomy.shape_of(config).stored or 0)
        setattr(config, anatomy.family_of(config).depth, len(config.plan))
        super().__init__(config)  # type: ignore[call-arg]
        self._tied_weights_keys = {**(type(self)._tied_weights_keys or {}), **share(self, config.plan)}  # type: ignore
        self.post_init()  # type: ignore[attr-defined]


@strict
class SharedBertConfig(BertConfig):  # type: ignore[misc]
    """BERT's configuration with the plan, such as ``["1", "2", "1s", "2s"]``."""

    model_type = "shared_bert"
    plan: list[str] | None = None


@strict
class SharedRobertaConfig(RobertaConfig):  # type: ignore[misc]
    model_type = "shared_roberta"
    plan: list[str] | None = None


@strict
class SharedElectraConfig(ElectraConfig):  # type: ignore[misc]
    model_type = "shared_electra"
    plan: list[str] | None = None


@strict
class SharedDistilBertConfig(DistilBertConfig):  # type: ignore[misc]
    model_type = "shared_distilbert"
    plan: list[str] | None = None


class SharedBertForSequenceClassification(Sharing, BertForSequenceClassification):  # type: ignore[misc]
    config_class = SharedBertConfig


class SharedBertForTokenClassification(Sharing, BertForTokenClassification):  # type: ignore[misc]
    config_class = SharedBertConfig


class SharedBertForQuestionAnswering(Sharing, BertForQuestionAnswering):  # type: ignore[misc]
    config_class = SharedBertConfig


class SharedRobertaForSequenceClassification(Sharing, RobertaForSequenceClassification):  # type: ignore[misc]
    config_class = SharedRobertaConfig


class SharedRobertaForTokenClassification(Sharing, RobertaForTokenClassification):  # type: ignore[misc]
    config_class = SharedRobertaConfig


class SharedRobertaForQuestionAnswering(Sharing, RobertaForQuestionAnswering):  # type: ignore[misc]
    config_class = SharedRobertaConfig


class SharedElectraForSequenceClassification(Sharing, ElectraForSequenceClassification):  # type: ignore[misc]
    config_class = SharedElectraConfig


class SharedElectraForTokenClassification(Sharing, ElectraForTokenClassification):  # type: ignore[misc]
    config_class = SharedElectraConfig


class SharedElectraForQuestionAnswering(Sharing, ElectraForQuestionAnswering):  # type: ignore[misc]
    config_class = SharedElectraConfig


class SharedDistilBertForSequenceClassification(Sharing, DistilBertForSequenceClassification):  # type: ignore[misc]
    config_class = SharedDistilBertConfig


class SharedDistilBertForTokenClassification(Sharing, DistilBertForTokenClassification):  # type: ignore[misc]
    config_class = SharedDistilBertConfig


class SharedDistilBertForQuestionAnswering(Sharing, DistilBertForQuestionAnswering):  # type: ignore[misc]
    config_class = SharedDistilBertConfig


CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "bert": SharedBertConfig,
    "roberta": SharedRobertaConfig,
    "electra": SharedElectraConfig,
    "distilbert": SharedDistilBertConfig,
}
for _config in CONFIGS.values():
    AutoConfig.register(_config.model_type, _config)
for _model in Sharing.__subclasses__():
    auto_class(anatomy.head_named(_model.__name__)).register(_model.config_class, _model)


def shared(source: PreTrainedModel, spec: Shared) -> PreTrainedModel:
    """A model with the layers of ``source``, run in the order of the specification.

    Raises:
        TutelageError: if the family or head does not support shared layers, or the plan is invalid.
    """
    kind, head = source.config.model_type, anatomy.head_of(source)
    if kind not in CONFIGS:
        raise TutelageError(f"the layers of a {kind} cannot be shared; use one of {', '.join(CONFIGS)}")
    if head not in ("classes", "tokens", "spans"):
        raise TutelageError("a shared student has no language-model head; use a copied student, or a task")
    plan = plan_of(len(anatomy.layers_of(source)), spec.order)
    values = source.config.to_dict()
    for name in ("model_type", "architectures"):
        values.pop(name, None)
    model: PreTrainedModel = auto_class(head).from_config(
        CONFIGS[kind](**{**values, "plan": plan}), dtype=torch.float32
    )
    prefix = next(name for name, module in source.named_modules() if module is anatomy.layers_of(source)) + "."
    place = {layer: plan.index(str(layer + 1)) for layer in range(len(anatomy.layers_of(source)))}
    ours = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in source.state_dict().items():
            if name.startswith(prefix):
                layer, _, rest = name.removeprefix(prefix).partition(".")
                name = f"{prefix}{place[int(layer)]}.{rest}"
            ours[name].copy_(tensor)
    return model.eval()


def expanded(model: PreTrainedModel) -> PreTrainedModel:
    """The same function as a standard model: shared layers are copied, with query and key exchanged where the plan says so."""
    kind = model.config.model_type
    values = model.config.to_dict()
    for name in ("model_type", "architectures", "plan"):
        values.pop(name, None)
    config = AutoConfig.for_model(kind.removeprefix("shared_"), **values)
    plain: PreTrainedModel = auto_class(anatomy.head_of(model)).from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    return plain.eval()
