"""Layers that are run more than once: more depth for no more parameters (SPS of Pea-KD, Cho and Kang 2022).

A plan lists the layers in the order in which they are run, by their number (from 1) among those stored; ``"2s"`` runs the
second with query and key exchanged, so that its scores are the transpose of what they would be. The model is an ordinary one
as deep as its plan, in which the later runs of a layer are made of the same weights: signals are read from each run as from a
layer of its own, and every weight is stored, trained and counted once.

Importing this module makes the Auto classes of transformers know the types ``shared_bert`` and so on. :func:`expanded` makes a
checkpoint that needs no module of ours, with every layer as often as it is run.
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
    """The plan of ``stored`` layers.

    * ``shuffled``: all in order, then all once more with query and key exchanged (SPS); of 6 or more only the upper half again,
      as the paper has it for 6
    * ``paired``: the same without exchange
    * ``mirror``: all in order, then back, exchanged
    * ``adjacent``: each twice, one after the other, without exchange (ALBERT's order)
    * a list: ``["1", "2", "1s"]``

    Raises:
        TutelageError: for a list that names a layer which is not stored, leaves one out, or exchanges one that has not run
            as it is yet.
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
                    f"the plan {plan} begins layer {layer} with {step!r}; each stored layer runs first as it is, in order"
                )
            first.append(layer)
    if len(first) != stored:
        raise TutelageError(f"the plan {plan} leaves out layer {len(first) + 1} of {stored}; run it, or store fewer")


def share(model: PreTrainedModel, plan: Plan) -> dict[str, str]:
    """Let the later runs of a plan, which are layers of ``model`` now, be made of the weights of the first.

    Returns whose weight each of theirs is, by the names of both.
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
    """Another layer of the same matrices and norms: all is shared but the modules down to query and key."""
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
    """The module without what it is made of, which is shared; with tables of its own for parts and hooks."""
    new = copy.copy(module)
    new.__dict__ = {
        name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(module).items()
    }
    return new


class Sharing:
    """What the classes of this module have before those of transformers: a model as deep as its plan, then shared."""

    config_class: Any

    def __init__(self, config: Any) -> None:
        _check(config.plan, anatomy.shape_of(config).stored or 0)
        setattr(config, anatomy.family_of(config).depth, len(config.plan))
        super().__init__(config)  # type: ignore[call-arg]
        self._tied_weights_keys = {**(type(self)._tied_weights_keys or {}), **share(self, config.plan)}  # type: ignore
        self.post_init()  # type: ignore[attr-defined]


@strict
class SharedBertConfig(BertConfig):  # type: ignore[misc]
    """BERT's with the plan, ``["1", "2", "1s", "2s"]``."""

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
    """A model whose layers are those of ``source``, run as the spec's plan says.

    Raises:
        TutelageError: for a family or head that has no shared form, or a plan that cannot be.
    """
    kind, head = source.config.model_type, anatomy.head_of(source)
    if kind not in CONFIGS:
        raise TutelageError(f"the layers of a {kind} cannot be shared; use one of {', '.join(CONFIGS)}")
    if head not in ("classes", "tokens", "spans"):
        raise TutelageError("a shared student answers for texts, tokens or spans; it has no language-model head")
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
    """The same function as an ordinary model: every layer as often as it is run, queries and keys exchanged where they were.

    Raises:
        TutelageError: when no layers are shared.
    """
    kind = model.config.model_type
    if anatomy.family_of(model.config).derived != "shared":
        raise TutelageError(f"this {kind} runs no layer twice; there is nothing to write out, it loads as it is")
    values = model.config.to_dict()
    for name in ("model_type", "architectures", "plan"):
        values.pop(name, None)
    config = AutoConfig.for_model(kind.removeprefix("shared_"), **values)
    plain: PreTrainedModel = auto_class(anatomy.head_of(model)).from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    return plain.eval()
