"""Build the network that a student specification describes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tutelage.anatomy import Head, head_modules
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.labels import label_names, places_of
from tutelage.errors import TutelageError, option
from tutelage.students import bilstm, pruned, sharing, uneven
from tutelage.students.compactors import compaction
from tutelage.students.copied import copy_layers
from tutelage.students.fresh import from_sizes
from tutelage.students.importance import Scores
from tutelage.students.load import load_config, load_model
from tutelage.students.specs import (
    BiLSTM,
    Checkpoint,
    Copied,
    Fresh,
    Gated,
    Inherited,
    Ordered,
    Pruned,
    Reduced,
    Shared,
    Sliced,
    Student,
    origin_of,
)
from tutelage.students.vocabulary import Vocabulary


@torch.no_grad()
def _order_classes(model: PreTrainedModel, theirs: list[str]) -> None:
    """Put the outputs of a checkpoint whose classes are ``theirs`` into the order of the model's configuration, which has the same
    ones; of others nothing is known."""
    ours = label_names(model.config)
    places = places_of(ours, theirs) if len(ours) == len(theirs) else None
    if places is None or places == list(range(len(ours))):
        return
    # A BiLSTM is all outside of what transformers calls a base model; its output is the last matrix, as everywhere.
    matrices = [m for m in (head_modules(model) or dict(model.named_modules())).values() if isinstance(m, nn.Linear)]
    for parameter in matrices[-1].parameters():
        parameter.copy_(parameter[places])


@dataclass(frozen=True)
class StudentInput:
    """The input of a student with its own vocabulary: its tokenizer, and whether it reads pairs of texts."""

    tokenizer: Any
    pairs: bool


Load = Callable[..., tuple[PreTrainedModel, list[str]]]
"""As :func:`~tutelage.students.load.load_model`."""


def build(
    student: Student,
    teacher: PreTrainedModel | None,
    labels: dict[str, Any],
    seed: int,
    scores: Callable[[PreTrainedModel], Scores] | None = None,
    head: Head = "classes",
    own_input: StudentInput | None = None,
    new: list[str] | None = None,
    vocabulary: Vocabulary | None = None,
    load: Load = load_model,
) -> PreTrainedModel:
    """Build the student, in float32.

    Args:
        student: the specification.
        teacher: the teacher, for students that take weights or sizes from it.
        labels: configuration fields ``num_labels``, ``id2label``, ``label2id`` and ``problem_type``.
        seed: seed of the random weights.
        scores: computes the importance of the teacher's heads and neurons (:func:`tutelage.students.importance.importance`).
            Called only for a student that ranks them, after its sizes are checked.
        head: the kind of output.
        own_input: tokenizer of a BiLSTM; without it, its vocabulary is empty.
        new: gets the names of weights that a checkpoint lacks, which are random.
        vocabulary: what the student keeps of the vocabulary of the model that it is made from; without it, all.
        load: loads the checkpoint that the student is made from.

    Raises:
        TutelageError: if the sizes are impossible (hidden not divisible by heads, more layers than the teacher has).
    """

    def loaded(name: str) -> PreTrainedModel:
        model, random = load(name, head, **labels)
        if new is not None:
            new[:] = random
        _order_classes(model, label_names(load_config(name)))
        return model if vocabulary is None else vocabulary.network(model)

    if vocabulary is not None and teacher is not None and origin_of(student) is None and not isinstance(student, Fresh):
        teacher = vocabulary.network(teacher)
    torch.manual_seed(seed)
    if head == "vectors" and not isinstance(student, Checkpoint | Copied | Fresh | Gated | Ordered | Pruned | Reduced):
        raise TutelageError(
            f"a student with init={student.init} cannot be a sentence encoder; use init=copied, pruned, reduced, gated, ordered or "
            "fresh, or a checkpoint"
        )
    if isinstance(student, Checkpoint):
        return loaded(student.name)
    if isinstance(student, Copied | Shared):
        source = teacher if student.source is None else loaded(student.source)
        if source is None:
            raise TutelageError(f"a copied student needs a teacher or a source to copy from; give {option('teacher')}")
        if isinstance(student, Copied):
            return copy_layers(source, student, labels, new)
        return sharing.shared(copy_layers(source, Copied(layers=student.stored, choose="first"), labels), student)
    if isinstance(student, Gated | Reduced):
        if teacher is None:
            raise TutelageError(
                f"a student with init={student.init} takes its weights from a teacher; give {option('teacher')}"
            )
        if isinstance(student, Gated):
            uneven.check_uneven(teacher.config)
        else:
            pruned.check_prunable(student.twin(), teacher)
        return copy_layers(teacher, Copied(layers="all"), labels)
    if isinstance(student, Inherited | Sliced):
        source = teacher if student.source is None else loaded(student.source)
        return _taken(student, source, labels)
    if isinstance(student, BiLSTM) and head != "classes":
        raise TutelageError(f"a {student.init} student only classifies whole texts; use init=copied or init=fresh")
    if isinstance(student, Ordered | Pruned):
        return _ranked(student, teacher, labels, scores, head)
    if isinstance(student, BiLSTM):
        return _bilstm(student, own_input or StudentInput(bilstm.word_tokenizer((), 0, 1), pairs=False), labels)
    if not isinstance(student, Fresh):
        return student.network(teacher, labels, head).eval()
    if student.like is None and teacher is None:
        raise TutelageError(
            f"a fresh student takes its family and vocabulary from a teacher; give {option('teacher')}, or add like=MODEL"
        )
    like = load_config(student.like) if student.like is not None else teacher.config if teacher is not None else None
    return from_sizes(student, like if vocabulary is None else vocabulary.config(like), labels, head)


def _bilstm(student: BiLSTM, own_input: StudentInput, labels: dict[str, Any]) -> PreTrainedModel:
    sizes = {name: getattr(student, name) for name in ("hidden", "intermediate", "embedding", "channels")}
    known = None if student.vectors is None else WordVectors.read(Path(student.vectors), limit=None)
    vectors = None if known is None else (known.words, known.vectors)
    return bilstm.new_bilstm(own_input.tokenizer, labels, pairs=own_input.pairs, vectors=vectors, **sizes)


def _ranked(
    student: Ordered | Pruned,
    teacher: PreTrainedModel | None,
    labels: dict[str, Any],
    scores: Callable[[PreTrainedModel], Scores] | None,
    head: Head,
) -> PreTrainedModel:
    """The student whose heads and neurons are the teacher's by importance: all of them in order, or the first."""
    if head in ("masked_lm", "causal_lm"):
        raise TutelageError(
            f"a student with init={student.init} is made for a task, from a fine-tuned teacher; on raw text use init=copied or "
            "init=fresh"
        )
    if teacher is None or scores is None:
        raise TutelageError(
            f"a student with init={student.init} needs a teacher and labelled examples to rank its heads and neurons; "
            f"give {option('teacher')}, and data with labels"
        )
    if isinstance(student, Ordered):
        pruned.check_family(teacher.config)
        return pruned.ordered(teacher, scores(teacher), labels)
    pruned.check_prunable(student, teacher)
    return pruned.prune(teacher, student, scores(teacher), labels)


def _taken(student: Inherited | Sliced, source: PreTrainedModel | None, labels: dict[str, Any]) -> PreTrainedModel:
    """The student whose weights are those of a larger model: between compactors, or a part of them."""
    if source is None:
        raise TutelageError(
            f"a student with init={student.init} takes its weights from a teacher; give {option('teacher')}"
        )
    if isinstance(student, Sliced):
        return compaction.sliced(source, student, labels)
    model = copy.deepcopy(source)
    wrapped = compaction.wrap(model, student)
    for config in (model.config, wrapped.config):
        for key, value in labels.items():
            setattr(config, key, value)
    return model.eval()
