"""Build the student of a run on a task, and the student without distillation."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.anatomy.checkpoints import resolve
from tutelage.data import batches
from tutelage.data.batches import padded
from tutelage.data.examples import Data, Encoded, Examples, Rows, encode
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.errors import TutelageError
from tutelage.objectives.objective import Objective, ObjectivePlan
from tutelage.recipes.config import RunConfig
from tutelage.report.model import REPORT, CorpusReport, load_report
from tutelage.students.bilstm import word_tokenizer
from tutelage.students.build import StudentInput, build
from tutelage.students.final import outline_of
from tutelage.students.load import load_config
from tutelage.students.pruned import Scores, importance
from tutelage.students.specs import (
    BiLSTM,
    Checkpoint,
    Inherited,
    Pruned,
    Sliced,
    Student,
    origin_of,
    takes_from_teacher,
)
from tutelage.students.vocabulary import Vocabulary
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source


class StudentFactory:
    """Makes a run's student, its twin (without distillation) and its outline. Each call gives the same weights.

    Args:
        examples: All texts that the student may read: a BiLSTM's vocabulary, or a trimmed one, is made of them.
        device: Where the importance of the teacher's heads and neurons is computed, for a pruned student.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        head: Head,
        labels: dict[str, Any],
        teacher: Source | None,
        examples: Examples,
        device: torch.device,
    ) -> None:
        self.spec, self.head, self._labels, self._seed = config.recipe.student, head, labels, config.seed
        self._data, self._teacher, self._device = data, teacher, device
        self.own_input = self._own_input(config, examples)
        self.vocabulary = self._trimmed(config, examples)
        """What the student keeps of the vocabulary, if it does not keep all."""
        self._scores: Scores | None = None
        self.new: list[str] = []
        """Names of weights that the checkpoint lacks from which the student starts: those of a new head."""

    def make(self, *, twin: bool = False) -> PreTrainedModel:
        """The student before training, or its twin."""
        spec, teacher = self.spec, self._teacher
        source = None if teacher is None else teacher.model if takes_from_teacher(spec) else teacher.outline
        made = spec.twin() if twin else spec
        return build(
            made,
            source,
            self._labels,
            self._seed,
            self._importance,
            self.head,
            self.own_input,
            self.new,
            self.vocabulary,
        )

    def outline(self) -> PreTrainedModel:
        """The student without allocated weights (device ``meta``), to know its sizes and cost before anything is loaded."""
        return outline(self.spec, self._teacher, self._labels, self.head, self.own_input, self.vocabulary)

    @property
    def origin(self) -> str | None:
        """The checkpoint whose tokenizer the student uses; None if it uses the teacher's."""
        return origin_of(self.spec)

    def tokenizer(self, student: PreTrainedModel) -> Any:
        """The student's tokenizer, fitted to what its ``forward`` takes."""
        if self.own_input is not None:
            tokenizer = self.own_input.tokenizer
        elif self.vocabulary is not None:
            tokenizer = self.vocabulary.tokenizer
        else:
            tokenizer = self._given_tokenizer()
        return fitted_tokenizer(tokenizer, student)

    def _given_tokenizer(self) -> Any:
        """The tokenizer of the model that the student is made from."""
        if self._teacher is not None and self.origin is None:
            return self._teacher.tokenizer
        return load_tokenizer(str(self.origin))

    def _trimmed(self, config: RunConfig, examples: Examples) -> Vocabulary | None:
        teacher = self._teacher
        if self.spec.vocabulary == "full" or (teacher is None and self.origin is None):
            return None
        if self.own_input is not None:
            raise TutelageError(
                "a BiLSTM has a vocabulary of its own, the most frequent words of the training texts; leave out "
                "vocabulary=trimmed, and set its size with words=NUMBER"
            )
        whole = self._given_tokenizer()
        source = load_config(self.origin) if self.origin is not None else teacher.config if teacher else None
        read = kind_of(self._data.kind).encode(examples, whole, anatomy.UNLIMITED, config.data.stride)
        return Vocabulary.of(whole, source, np.unique(read.tokens))

    def _own_input(self, config: RunConfig, examples: Examples) -> StudentInput | None:
        if not isinstance(self.spec, BiLSTM):
            return None
        teacher = self._teacher
        limit = anatomy.UNLIMITED if teacher is None else anatomy.max_length(teacher.config)
        texts = chain(examples.texts, examples.pairs or ())
        mask = None if teacher is None else teacher.tokenizer.mask_token  # texts made by rules have the teacher's
        tokenizer = word_tokenizer(texts, self.spec.words, config.data.max_length or limit, mask or "[MASK]")
        return StudentInput(tokenizer, examples.pairs is not None)

    def _importance(self, model: PreTrainedModel) -> Scores:
        """The importance of the teacher's heads and neurons, computed once."""
        assert isinstance(self.spec, Pruned) and self._teacher is not None
        if self._scores is None:
            train = self._data.train
            labelled = train.take(np.flatnonzero(train.labelled)[: self.spec.examples])
            tokens = encode(labelled, self.tokenizer(model), anatomy.max_length(model.config))
            steps = batches.steps(tokens.lengths, np.arange(len(tokens)), 32, self._seed, 0)
            model.to(self._device)
            read = (_with_labels(tokens, labelled, rows, model) for rows in steps)
            self._scores = importance(model, read, kind_of(self._data.kind))
        return self._scores


def _with_labels(
    encoded: Encoded, examples: Examples, rows: Rows, model: PreTrainedModel
) -> tuple[dict[str, Tensor], Tensor]:
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in padded(encoded, rows).items()}
    return inputs, torch.from_numpy(examples.labels[rows]).to(device)


def outline(
    student: Student,
    teacher: Source | None,
    labels: dict[str, Any],
    head: Head = "classes",
    own_input: StudentInput | None = None,
    vocabulary: Vocabulary | None = None,
) -> PreTrainedModel:
    """A student without allocated weights (device ``meta``)."""

    def any_scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.zeros(shape.heads), torch.zeros(shape.intermediate))] * shape.layers

    with torch.device("meta"):
        if isinstance(student, Inherited | Sliced):
            source = load_config(student.source) if student.source else teacher.config if teacher else None
            if source is not None:
                return outline_of(student, source if vocabulary is None else vocabulary.config(source), head)
        model = None if teacher is None else teacher.outline
        return build(student, model, labels, 0, any_scores, head, own_input, vocabulary=vocabulary)


def general_projections(student: Student) -> dict[str, Tensor]:
    """The projections that a run on raw text saved with this student, by name without the stage; empty for other students."""
    if not isinstance(student, Checkpoint) or not Path(student.name).is_dir():
        return {}
    folder = Path(resolve(student.name)).parent
    path = folder / "projections.safetensors"
    if not path.exists() or not (folder / REPORT).exists() or not isinstance(load_report(folder), CorpusReport):
        return {}
    return {name.partition(".")[2]: tensor for name, tensor in load_file(path).items()}


def inherit(objective: Objective, found: dict[str, Tensor]) -> None:
    """Copy the projections of a run on raw text into an objective, where names and shapes agree."""
    ours = objective.projections.state_dict()
    fitting = {name: x for name, x in found.items() if name in ours and ours[name].shape == x.shape}
    objective.projections.load_state_dict({**ours, **fitting})


def inherited_count(plan: ObjectivePlan, found: dict[str, Tensor]) -> int:
    """How many projections :func:`inherit` would take."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (width, bias) in plan.linears.items():
        shapes |= {f"{name}.weight": (width, plan.student.hidden), **({f"{name}.bias": (width,)} if bias else {})}
    return sum(shapes.get(name) == tuple(x.shape) for name, x in found.items())
