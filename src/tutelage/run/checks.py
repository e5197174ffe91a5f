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
from tutelage.objectives.objective import Objective
from tutelage.recipes.config import RunConfig
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source


def check_storable(data: Data) -> None:
    """See that a store can keep what is answered.

    Raises:
        TutelageError: when it is more than one answer for each text.
    """
    if not kind_of(data.kind).per_text:
        raise TutelageError(
            f"a store keeps one answer for each text, and the task {data.task!r} asks for one of every token; teach it "
            "without a store"
        )


def check_objectives(config: RunConfig, data: Data, student: PreTrainedModel, teacher: Source | None) -> None:
    for stage in config.recipe.stages:
        shape = None if teacher is None else teacher.shape
        objective = Objective(stage.objective, kind_of(data.kind), anatomy.shape_of(student.config), shape)
        configs = [(student.config, objective.student_needs)]
        configs += [] if teacher is None else [(teacher.config, objective.teacher_needs)]
        for asked, needs in configs:
            if needs.running and not anatomy.family_of(asked).layers:
                raise TutelageError(
                    f"stage {stage.name!r} reads {needs}, but a {asked.model_type} has logits alone; use a method on "
                    "predictions (kd, logits_mse)"
                )
        if objective.student_needs.pooled:
            anatomy.pooler_of(student)
        if objective.teacher_needs.pooled and teacher is not None:
            anatomy.pooler_of(teacher.outline)
    if config.data.unlabeled is not None and all(stage.labels_only for stage in config.recipe.stages):
        raise TutelageError(
            f"the method {config.recipe.method!r} learns from labels alone and cannot use the unlabelled texts of "
            f"{config.data.unlabeled!r}; use a method with a teacher, or leave out --unlabeled"
        )


def check_tokens(encoded: Encoded, tokenizer: Any, student: PreTrainedModel, name: str | None) -> None:
    """A folder without a tokenizer loads as one that knows no word, without complaint."""
    unknown = float((encoded.tokens == tokenizer.unk_token_id).mean()) if tokenizer.unk_token_id is not None else 0.0
    if unknown > 0.4 or int(encoded.tokens.max()) >= student.config.vocab_size:
        raise TutelageError(
            f"the tokenizer of {name!r} does not fit: {unknown:.0%} of the tokens of train are unknown to it and its "
            f"largest id is {int(encoded.tokens.max())} of {student.config.vocab_size}; save the right one beside the model"
        )


def check_alignment(config: RunConfig, train: Texts, teacher: Source | None) -> None:
    """Layers can only be compared token by token when both models read the same tokens; spans are places in them too."""
    if teacher is None or train.teacher is None or np.array_equal(train.student.tokens, train.teacher.tokens):
        return
    if train.student.windows is not None or not np.array_equal(train.student.asked, train.teacher.asked):
        raise TutelageError(
            "student and teacher have different tokenizers and would be asked of different tokens; use a student of the "
            "teacher's family" + ("" if train.student.windows else ", or a larger max_length")
        )
    for stage in config.recipe.stages:
        for term in stage.objective:
            if term.kind in ("embeddings", "hidden", "attention_scores", "hidden_knowledge"):
                raise TutelageError(
                    f"the term {term.kind} of stage {stage.name!r} compares token by token, but student and teacher have "
                    "different tokenizers; use a method on predictions (kd, logits_mse) or a student of the teacher's family"
                )


def check_teacher(config: RunConfig, data: Data, dev: dict[str, Texts], logits: dict[str, Tensor]) -> list[str]:
    """Stop at a teacher that knows no more than a constant answer."""
    name, part = next(iter(data.dev.items()))
    kind = kind_of(data.kind)
    scores = kind.scores(data, logits[name], dev[name])
    # One standard error of a proportion, at most: a score within it of a constant answer's shows nothing.
    margin = 0.5 / len(part) ** 0.5
    constant = kind.constant_scores(data, part)
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
