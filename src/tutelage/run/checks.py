"""Checks before a run on a task."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.examples import Data, Encoded
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.objectives.objective import ObjectivePlan
from tutelage.recipes.config import RunConfig
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source


def check_storable(data: Data) -> None:
    """Check that a store can keep the predictions.

    Raises:
        TutelageError: if a text has more than one prediction.
    """
    if not kind_of(data.kind).per_text:
        raise TutelageError(
            f"a store keeps one prediction per text, but the task {data.task!r} has one per token; leave out --teacher-store"
        )


def check_objective(name: str, plan: ObjectivePlan, student: PreTrainedModel, teacher: Source | None) -> None:
    """Check that both models provide what a stage reads.

    Raises:
        TutelageError: if a model provides only logits, or has no pooler.
    """
    configs = [(student.config, plan.student_needs)]
    configs += [] if teacher is None else [(teacher.config, plan.teacher_needs)]
    for config, needs in configs:
        if needs.running and not anatomy.family_of(config).layers:
            raise TutelageError(
                f"stage {name!r} reads {needs}, but a {config.model_type} provides only logits; use a method on predictions "
                f"(kd, "
                "logits_mse)"
            )
    if plan.student_needs.pooled:
        anatomy.pooler_of(student)
    if plan.teacher_needs.pooled and teacher is not None:
        anatomy.pooler_of(teacher.outline)


def check_unlabelled(config: RunConfig) -> None:
    """Check that the method can use unlabelled texts.

    Raises:
        TutelageError: if the method learns only from labels.
    """
    if config.data.unlabeled is not None and all(stage.labels_only for stage in config.recipe.stages):
        raise TutelageError(
            f"the method {config.recipe.method!r} learns only from labels and cannot use the unlabelled texts of "
            f"{config.data.unlabeled!r}; use a method with a teacher, or leave out --unlabeled"
        )


def limit_of(config: RunConfig, student: Any, teacher: Source | None) -> int:
    """The longest input in tokens that both models take.

    Raises:
        TutelageError: if the settings exceed it.
    """
    limit = min(anatomy.max_length(c) for c in [student, *([teacher.config] if teacher else [])])
    if config.data.max_length is not None and config.data.max_length > limit:
        raise TutelageError(
            f"--max-length {config.data.max_length} is beyond the model's {limit} positions; use {limit}"
        )
    check_padding(config, limit)
    return limit


def check_padding(config: RunConfig, limit: int) -> None:
    """Check that no stage pads beyond the models' positions.

    Raises:
        TutelageError: if one does.
    """
    for stage in config.recipe.stages:
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")


def check_tokens(encoded: Encoded, tokenizer: Any, student: PreTrainedModel, name: str | None) -> None:
    """Check that the tokenizer belongs to the student. A folder without a tokenizer loads without error as one that knows no
    word.

    Raises:
        TutelageError: if most tokens are unknown to it, or an id exceeds the vocabulary.
    """
    unknown = float((encoded.tokens == tokenizer.unk_token_id).mean()) if tokenizer.unk_token_id is not None else 0.0
    if unknown > 0.4 or int(encoded.tokens.max()) >= student.config.vocab_size:
        raise TutelageError(
            f"the tokenizer of {name!r} does not fit: {unknown:.0%} of the tokens of train are unknown to it and its "
            f"largest id is {int(encoded.tokens.max())} of {student.config.vocab_size}; save the right one in the model's "
            f"folder"
        )


def check_alignment(config: RunConfig, train: Texts, teacher: Source | None) -> None:
    """Check that both models read the same tokens where layers are compared token by token, and for spans.

    Raises:
        TutelageError: if they do not.
    """
    if teacher is None or train.teacher is None or np.array_equal(train.student.tokens, train.teacher.tokens):
        return
    if train.student.windows is not None or not np.array_equal(train.student.logit_rows, train.teacher.logit_rows):
        raise TutelageError(
            "student and teacher have different tokenizers and would predict different tokens; use a student of the "
            "teacher's family" + ("" if train.student.windows else ", or a larger max_length")
        )
    for stage in config.recipe.stages:
        for term in stage.objective:
            if term.aligned:
                raise TutelageError(
                    f"the term {term.kind} of stage {stage.name!r} compares token by token, but student and teacher have "
                    "different tokenizers; use a method on predictions (kd, logits_mse) or a student of the teacher's family"
                )


def check_teacher(config: RunConfig, data: Data, dev: dict[str, Texts], logits: dict[str, Tensor]) -> list[str]:
    """Compare the teacher with a constant prediction. Returns a warning if it is no better and the settings allow that.

    Raises:
        TutelageError: if it is no better and the settings do not allow that.
    """
    name, part = next(iter(data.dev.items()))
    scores = kind_of(data.kind).scores(data, logits[name], dev[name])
    # One standard error of a proportion, at most: a score within it of a constant answer's shows nothing.
    margin = 0.5 / len(part) ** 0.5
    constant = kind_of(data.kind).constant_scores(data, part)
    if any(scores[metric] > constant[metric] + margin for metric in data.metrics):
        return []
    metric = data.metrics[0]
    line = (
        f"the teacher {config.teacher!r} scores {metric} {scores[metric]:.3f} on {name}, no better than a constant answer "
        f"({constant[metric]:.3f})"
    )
    if not config.allow_weak_teacher:
        raise TutelageError(f"{line}; fine-tune it on this task, or pass --allow-weak-teacher")
    return [line]
