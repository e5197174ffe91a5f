"""Students with random weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.errors import TutelageError
from tutelage.students.load import fitted_config, model_class
from tutelage.students.specs import Fresh

POSITIONS = 512
"""Positions of a student that cannot take their number from its teacher."""


def from_sizes(student: Fresh, like: Any, labels: dict[str, Any], head: Head = "classes") -> PreTrainedModel:
    """A network with random weights and the sizes of ``student``; everything else follows the configuration ``like``.

    Raises:
        TutelageError: if the family is unknown, hidden is not divisible by heads, or a size does not exist in the family.
    """
    model_type = student.family or like.model_type
    if model_type in anatomy.FAMILIES and anatomy.FAMILIES[model_type].derived:
        raise TutelageError(
            f"a fresh student cannot be a {model_type}, which is made of another model; add family=bert"
        )
    config = copy.deepcopy(like) if model_type == like.model_type else _plain_config(model_type, like)
    family = anatomy.family_of(config)
    if not family.layers:
        raise TutelageError(
            f"a fresh student cannot be a {model_type}, which is read for its predictions alone; add family=bert, or name a model "
            "that is like it: like=MODEL"
        )
    setattr(config, family.depth, student.layers)
    before = anatomy.shape_of(config).hidden
    for size in ("hidden", "intermediate", "heads"):
        # Sizes taken from the teacher are set explicitly, because a GPT-2 derives missing ones from its hidden size.
        setattr(config, getattr(family, size), getattr(student, size) or _size_of(like, size))
    shape = anatomy.shape_of(config)
    for name in family.follows_hidden:
        setattr(config, name, shape.hidden)
    for name in family.scales_with_hidden:
        setattr(config, name, max(1, getattr(config, name) * shape.hidden // before))
    _check_heads(config)
    if anatomy.max_length(config) < 1:
        raise TutelageError(
            f"a {model_type} numbers its positions from its padding token, here {config.pad_token_id}, which leaves none of "
            f"{config.max_position_embeddings}; use family=bert"
        )
    if student.embedding is not None:
        if not hasattr(config, "embedding_size"):
            raise TutelageError(f"{model_type} has no separate embedding size; remove embedding={student.embedding}")
        config.embedding_size = student.embedding
    if getattr(config, "layer_types", None):
        kinds = list(config.layer_types)
        config.layer_types = (kinds * student.layers)[: student.layers]
    for key, value in labels.items():
        setattr(config, key, value)
    model: PreTrainedModel = model_class(head).from_config(fitted_config(config, head), dtype=torch.float32)
    return model.eval()


def _check_heads(config: Any) -> None:
    """See that the heads have one size.

    Raises:
        TutelageError: if they have not.
    """
    shape = anatomy.shape_of(config)
    width = shape.attended or shape.hidden
    if width % shape.heads:
        what = f"the hidden size {width}" if shape.attended is None else f"the width {width} of the attention"
        fitting = ", ".join(str(h) for h in range(1, width + 1) if width % h == 0 and h <= 2 * shape.heads)
        raise TutelageError(
            f"{what} is not divisible by {shape.heads} heads; use one of heads={fitting} or another hidden size"
        )


def _size_of(like: Any, size: str) -> int:
    """A size that a student takes over.

    Raises:
        TutelageError: if it is not known of a model of which only predictions are read.
    """
    found = getattr(anatomy.shape_of(like), size)
    if not found:
        raise TutelageError(f"the student's {size} cannot be taken from a {like.model_type}; give {size}=NUMBER")
    return int(found)


def _plain_config(model_type: str, like: Any) -> Any:
    if model_type not in anatomy.FAMILIES:
        known = sorted(name for name, family in anatomy.FAMILIES.items() if not family.derived)
        raise TutelageError(f"family={model_type!r} is unknown; use one of {', '.join(known)}")
    special = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    tokens = {name: getattr(like, name, None) for name in special}
    # The family's default end token may lie outside the vocabulary; a causal model must not use it.
    stated = anatomy.FAMILIES[model_type].causal
    positions = getattr(like, "max_position_embeddings", None)
    if anatomy.is_unread(like):  # relative positions have no table, and a language model's context is no encoder's
        positions = min(positions or POSITIONS, POSITIONS) if (positions or 0) >= 0 else POSITIONS
    return AutoConfig.for_model(
        model_type,
        vocab_size=like.get_text_config().vocab_size,
        max_position_embeddings=positions,
        **{name: value for name, value in tokens.items() if value is not None or stated},
    )
