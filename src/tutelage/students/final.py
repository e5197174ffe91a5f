"""What a student will be when its training is over, whatever it is wrapped in until then."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.students.compactors import compaction


def final_config(model: PreTrainedModel) -> Any:
    """The configuration of the network that the student becomes."""
    return compaction.config_of(model)


def final_network(model: PreTrainedModel) -> PreTrainedModel:
    """A network of the shape that the student becomes, on the student's device: for counting and timing."""
    return compaction.as_merged(model).to(model.device)


def notes(model: PreTrainedModel) -> list[str]:
    """What a user should know about the student's shape before training."""
    slow = compaction.advice(model)
    found = [slow] if slow else []
    shape = anatomy.shape_of(model.config)
    if shape.stored is not None:
        found.append(
            f"{shape.stored} stored layers are run {shape.layers} times: the student has the parameters of {shape.stored} layers "
            f"and takes the time of {shape.layers}"
        )
    return found


def outline_of(spec: Any, source: Any, head: anatomy.Head) -> PreTrainedModel:
    """A network of a narrower student's sizes, cut out of a model with the configuration ``source``."""
    model: PreTrainedModel = anatomy.auto_class(head).from_config(compaction.narrowed(spec, source)).eval()
    return model
