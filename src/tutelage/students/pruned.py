"""A pruned BERT: fewer layers, heads and neurons than the fine-tuned original, and a factorised embedding table.

The student ROSITA6 of minimum-knowledge distillation (Liu et al. 2021, arXiv 2106.05691), after the authors' code. Two
differences: the kept parts are chosen by index, layer by layer (the code finds them by ``weight != 0`` and, if no neurons are
pruned, uses the heads of the first layer everywhere); and the singular value decomposition is the thin one.

Importing this module registers the model type ``pruned_bert`` with the Auto classes of transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.students.specs import Pruned
from tutelage.tasks.kind import Kind

Scores = list[tuple[Tensor, Tensor]]
"""For each layer: scores of its heads, ``(heads,)``, and of its neurons, ``(intermediate,)``."""


@strict
class PrunedBertConfig(BertConfig):  # type: ignore[misc]
    """A BERT's configuration with the kept sizes.

    ``num_attention_heads`` stays that of the original, because transformers derives the head size from it. ``kept_heads`` is
    the number of heads left in each layer. ``embedding_rank`` is the width of a factorised embedding table, else ``None``.
    """

    model_type = "pruned_bert"

    kept_heads: int = 12
    embedding_rank: int | None = None


class WordEmbeddings(nn.Module):
    """An embedding ``table`` and, if it is factorised, the matrix that projects its rows to the hidden size.

    Shapes: ids ``(B, n)`` to ``(B, n, hidden)``.
    """

    def __init__(self, config: PrunedBertConfig) -> None:
        super().__init__()
        rank, hidden = config.embedding_rank, config.hidden_size
        self.table = nn.Embedding(config.vocab_size, rank or hidden, padding_idx=config.pad_token_id)
        self.project = nn.Linear(rank, hidden, bias=False) if rank else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.project(self.table(ids))
        return vectors


class PrunedBertForSequenceClassification(BertForSequenceClassification):  # type: ignore[misc]
    """BERT's forward pass with narrower matrices. Its attention derives the number of heads from the width of the queries."""

    config_class = PrunedBertConfig

    def __init__(self, config: PrunedBertConfig) -> None:
        super().__init__(config)
        hidden, family = config.hidden_size, anatomy.family_of(config)
        width = config.kept_heads * (hidden // config.num_attention_heads)
        for layer in anatomy.layers_of(self):
            for path in (family.query, family.key, family.value):
                layer.set_submodule(path, nn.Linear(hidden, width))
            layer.set_submodule(family.attention_output, nn.Linear(width, hidden))
        self.bert.embeddings.word_embeddings = WordEmbeddings(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return anatomy.word_embeddings_of(self)

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.bert.embeddings.word_embeddings.table = value


AutoConfig.register(PrunedBertConfig.model_type, PrunedBertConfig)
AutoModelForSequenceClassification.register(PrunedBertConfig, PrunedBertForSequenceClassification)


def importance(model: PreTrainedModel, batches: Iterable[tuple[dict[str, Tensor], Tensor]], kind: Kind) -> Scores:
    """The importance of each head and neuron of a fine-tuned model for its task, by layer.

    The score of a weight is ``|w sum_batches |dL/dw||``, where ``L`` is the mean loss of a batch with its labels. Dropout is
    active, so the result depends on torch's random state. The score of a head is the sum over its columns of the attention
    output matrix; the score of a neuron is the sum over its row of the up matrix and its column of the down matrix. The model
    is not changed.

    Args:
        model: a fine-tuned classifier.
        batches: inputs and labels, on the model's device.
        kind: the kind of task, which determines the loss; one with one prediction per text.

    Raises:
        TutelageError: if there is no batch.
    """
    family, heads = anatomy.family_of(model.config), anatomy.shape_of(model.config).heads
    paths = [f"{path}.weight" for path in (family.attention_output, family.ffn_up, family.ffn_down)]
    matrices = [layer.get_parameter(path) for layer in anatomy.layers_of(model) for path in paths]
    totals = [torch.zeros_like(matrix) for matrix in matrices]
    count = 0
    with _training(model, matrices):
        for inputs, labels in batches:
            gradients = torch.autograd.grad(kind.hard_loss(model(**inputs).logits, labels), matrices)
            for total, gradient in zip(totals, gradients, strict=True):
                total += gradient.abs()
            count += 1
    if not count:
        raise TutelageError(
            "ranking heads and neurons needs labelled training examples, and there are none; "
            "label some, or use a student with init=copied"
        )
    weights = [(total * matrix.detach()).abs().cpu() for total, matrix in zip(totals, matrices, strict=True)]
    return [
        (output.sum(dim=0).view(heads, -1).sum(dim=1), up.sum(dim=1) + down.sum(dim=0))
        for output, up, down in zip(*[iter(weights)] * 3, strict=True)
    ]


@contextmanager
def _training(model: PreTrainedModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Enable dropout, and gradients for ``parameters`` only; restore both afterwards."""
    modes = {module: module.training for module in model.modules()}
    learnt = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.train().requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, wanted in learnt.items():
            parameter.requires_grad_(wanted)


def check_prunable(spec: Pruned, config: Any) -> None:
    """Check that a teacher with this configuration can be pruned to the student, before anything is computed.

    Raises:
        TutelageError: if the teacher is not a BERT, or has fewer layers, heads or neurons than the student.
    """
    if config.model_type != "bert":
        raise TutelageError(
            f"a pruned student needs a BERT as teacher, and this one is a {config.model_type!r}; use a BERT, or a student "
            "with init=copied"
        )
    shape = anatomy.shape_of(config)
    limits = {
        "layers": shape.layers,
        "heads": shape.heads,
        "intermediate": shape.intermediate,
        "rank": min(shape.vocabulary, shape.hidden),
    }
    for name, limit in limits.items():
        if (getattr(spec, name) or 0) > limit:
            raise TutelageError(
                f"{name}={getattr(spec, name)} is too large: the teacher has {name}={limit}; use that or less"
            )


def prune(
    teacher: PreTrainedModel, spec: Pruned, scores: Scores, labels: dict[str, Any]
) -> PrunedBertForSequenceClassification:
    """Build the student from the teacher's bottom layers, with the heads and neurons that have the best ``scores``.

    The embedding table ``E`` becomes ``(U_r S_r)(V_r^T)``, its best approximation of rank r. Everything else is copied,
    including the head if it has as many labels as the student.

    Raises:
        TutelageError: see :func:`check`.
    """
    check_prunable(spec, teacher.config)
    config = _config(spec, teacher.config, labels)
    student: PrunedBertForSequenceClassification
    student = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    family, base = anatomy.family_of(teacher.config), teacher.base_model_prefix
    prefix, words = f"{base}.{family.layers}.", f"{base}.{family.embeddings}."
    weights = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith(prefix)}
    weights |= {words + name: tensor for name, tensor in _factors(weights.pop(words + "weight"), spec.rank).items()}
    if config.num_labels != teacher.config.num_labels:
        weights |= {f"classifier.{name}": tensor for name, tensor in student.classifier.state_dict().items()}
    size = config.hidden_size // config.num_attention_heads
    for index, layer in enumerate(anatomy.layers_of(teacher)[: spec.layers]):
        heads, neurons = (
            _best(s, count) for s, count in zip(scores[index], (spec.heads, spec.intermediate), strict=True)
        )
        columns = (heads[:, None] * size + torch.arange(size)).flatten()
        weights |= {f"{prefix}{index}.{name}": tensor for name, tensor in _cut(layer, family, columns, neurons).items()}
    student.load_state_dict(weights)
    student.eval()
    return student


def _config(spec: Pruned, original: Any, labels: dict[str, Any]) -> PrunedBertConfig:
    values = original.to_dict()
    for name in ("model_type", "architectures"):
        values.pop(name, None)
    config = PrunedBertConfig(**values)
    config.num_hidden_layers, config.intermediate_size = spec.layers, spec.intermediate
    config.kept_heads, config.embedding_rank = spec.heads, spec.rank
    for name, value in labels.items():
        setattr(config, name, value)
    return config


def _cut(layer: nn.Module, family: anatomy.Family, columns: Tensor, neurons: Tensor) -> dict[str, Tensor]:
    """The weights of one layer, reduced to the ``columns`` of the kept heads and to the kept ``neurons``."""
    inner = {family.query: columns, family.key: columns, family.value: columns, family.ffn_up: neurons}
    kept = {f"{path}.{part}": (0, which) for path, which in inner.items() for part in ("weight", "bias")}
    kept |= {f"{family.attention_output}.weight": (1, columns), f"{family.ffn_down}.weight": (1, neurons)}
    weights = dict(layer.state_dict())
    for name, (dimension, which) in kept.items():
        weights[name] = weights[name].index_select(dimension, which.to(weights[name].device))
    return weights


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, ascending. Of equal scores, the first is kept."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _factors(table: Tensor, rank: int | None) -> dict[str, Tensor]:
    if rank is None:
        return {"table.weight": table}
    u, s, v = torch.linalg.svd(table, full_matrices=False)
    return {"table.weight": u[:, :rank] * s[:rank], "project.weight": v[:rank].mT}
