"""Building the student of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head, auto_class
from tutelage.data import batches
from tutelage.data.batches import padded
from tutelage.data.examples import Data, Encoded, Examples, Rows, encode
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.objectives.objective import Objective
from tutelage.recipes.config import RunConfig
from tutelage.students.bilstm import word_tokenizer
from tutelage.students.build import Reading, build
from tutelage.students.compactors import compaction
from tutelage.students.load import load_config, resolve
from tutelage.students.pruned import Scores, importance
from tutelage.students.specs import BiLSTM, Checkpoint, Inherited, Pruned, Sliced, Student, takes_from_teacher
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source


def reading_of(config: RunConfig, examples: Examples, teacher: Source | None) -> Reading | None:
    """What a student of words reads; none for a student with a tokenizer of its own or its teacher's."""
    spec = config.recipe.student
    if not isinstance(spec, BiLSTM):
        return None
    limit = anatomy.UNLIMITED if teacher is None else anatomy.max_length(teacher.config)
    texts = chain(examples.texts, examples.pairs or ())
    mask = None if teacher is None else teacher.tokenizer.mask_token  # texts made by rules have the teacher's
    tokenizer = word_tokenizer(texts, spec.words, config.data.max_length or limit, mask or "[MASK]")
    return Reading(tokenizer, examples.pairs is not None)


def outline(
    student: Student,
    teacher: Source | None,
    labels: dict[str, Any],
    head: Head = "classes",
    reading: Reading | None = None,
) -> PreTrainedModel:
    """The student as a network without memory for its weights: its sizes and its cost, before anything is loaded."""

    def any_scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.zeros(shape.heads), torch.zeros(shape.intermediate))] * shape.layers

    with torch.device("meta"):
        if isinstance(student, Inherited | Sliced):
            source = load_config(resolve(student.source)) if student.source else teacher.config if teacher else None
            if source is not None:
                return auto_class(head).from_config(compaction.narrowed(student, source)).eval()
        return build(student, None if teacher is None else teacher.outline, labels, 0, any_scores, head, reading)


def student_maker(
    config: RunConfig,
    data: Data,
    teacher: Source | None,
    labels: dict[str, Any],
    accelerator: Accelerator,
    reading: Reading | None,
) -> Callable[[bool], PreTrainedModel]:
    """A function that builds the student or its baseline, each time the same; importance is computed once."""
    spec, kind = config.recipe.student, kind_of(data.kind)
    known: list[Scores] = []

    def scores(model: PreTrainedModel) -> Scores:
        assert isinstance(spec, Pruned) and teacher is not None
        if not known:
            labelled = data.train.take(np.flatnonzero(data.train.labelled)[: spec.examples])
            tokens = encode(labelled, fitted_tokenizer(teacher.tokenizer, model), anatomy.max_length(model.config))
            steps = batches.steps(tokens.lengths, np.arange(len(tokens)), 32, config.seed, 0)
            model.to(accelerator.device)
            known.append(importance(model, (_with_labels(tokens, labelled, rows, model) for rows in steps), kind))
        return known[0]

    def make(baseline: bool) -> PreTrainedModel:
        source = None if teacher is None else teacher.model if takes_from_teacher(spec) else teacher.outline
        made = spec.sliced() if baseline and isinstance(spec, Inherited) else spec
        return build(made, source, labels, config.seed, scores, kind.head, reading)

    return make


def _with_labels(
    encoded: Encoded, examples: Examples, rows: Rows, model: PreTrainedModel
) -> tuple[dict[str, Tensor], Tensor]:
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in padded(encoded, rows).items()}
    return inputs, torch.from_numpy(examples.labels[rows]).to(device)


def inherit(objective: Objective, student: Student) -> int:
    """Let an objective start from the projections that a run on a corpus left beside this student; returns how many fit."""
    folder = (
        Path(resolve(student.name)).parent if isinstance(student, Checkpoint) and Path(student.name).is_dir() else None
    )
    if folder is None or not (folder / "report.json").exists():
        return 0
    path = folder / "projections.safetensors"
    if not path.exists() or not json.loads((folder / "report.json").read_text(encoding="utf-8")).get("general"):
        return 0
    ours, found = objective.projections.state_dict(), {}
    for name, tensor in load_file(path).items():
        name = name.partition(".")[2]  # without the stage
        if name in ours and ours[name].shape == tensor.shape:
            found[name] = tensor
    objective.projections.load_state_dict({**ours, **found})
    return len(found)
