"""What each kind of task asks of a model, and how it is scored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.anatomy import Head
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples, Kind, encode
from tutelage.data.texts import Texts
from tutelage.tasks.metrics import chance, score
from tutelage.tasks.spans import answer_chance, best_answers, encode_spans, squad_scores
from tutelage.tasks.tokens import best_tags, encode_words, tag_chance, tag_scores

HEADS: dict[Kind, Head] = {
    "classification": "classes",
    "regression": "classes",
    "multilabel": "classes",
    "tokens": "tokens",
    "spans": "spans",
}
"""What a model must answer for each kind of data."""


def encoded_as(kind: Kind, examples: Examples, tokenizer: Any, max_length: int, stride: int | None) -> Encoded:
    """Examples of a kind as token ids, with what is asked of which token."""
    if kind == "spans":
        third = max_length // 3
        return encode_spans(examples, tokenizer, max_length, stride or min(128, third), min(64, third))
    return (encode_words if kind == "tokens" else encode)(examples, tokenizer, max_length)


def longest(data: Data, config: DataConfig, limit: int) -> int:
    """The longest input in tokens: what the configuration says, else what the models take; windows are 384 at most."""
    return config.max_length or (min(limit, 384) if data.kind == "spans" else limit)


def scores_of(data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
    """The task's metrics of the student's (or the teacher's, which reads the same words) predictions ``(answers, classes)``."""
    examples = texts.examples
    if data.kind == "spans":
        unanswerable = any(answers == () for answers in examples.labels)
        return squad_scores(best_answers(logits, texts.student, examples, with_null=unanswerable), examples)
    if data.kind == "tokens":
        return tag_scores(best_tags(logits, texts.student, examples, data.labels), examples, data.labels)
    return score(data.metrics, logits.numpy(), examples.labels, data.kind, data.positive)


def constant_scores(data: Data, examples: Examples) -> dict[str, float]:
    """What the same answer to everything scores."""
    if data.kind == "spans":
        return answer_chance(examples)
    if data.kind == "tokens":
        return tag_chance(examples, data.labels)
    return {name: chance(name, examples.labels, data.kind, data.positive) for name in data.metrics}
