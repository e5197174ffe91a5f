"""A BERT with fewer layers, heads and neurons and a factorised embedding table, cut out of a fine-tuned one.

The student ROSITA6 of minimum-knowledge distillation (Liu et al. 2021, arXiv 2106.05691), after the authors' code. Two
things differ from that code: what is kept is chosen by index, layer by layer (the code finds it by ``weight != 0`` and,
where no neurons are cut, uses the first layer's heads everywhere), and the singular value decomposition is the thin one.

Importing this module makes the Auto classes of transformers know the type ``pruned_bert``.
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
"""By layer: the scores of its heads, ``(heads,)``, and of its neurons, ``(intermediate,)``."""


@strict
class PrunedBertConfig(BertConfig):  # type: ignore[misc]
    """A BERT's configuration with what was kept of it.

    ``num_attention_heads`` stays that of the original, because transformers takes the size of a head from it;
    ``kept_heads`` of them are left in each layer. ``embedding_rank`` is the width of the embedding table, where that is
    not the hidden size.
    """

    model_type = "pruned_bert"

    kept_heads: int = 12
    embedding_rank: int | None = None


class WordEmbeddings(nn.Module):
    """A ``table`` and, where it is factorised, the matrix that takes its rows to the hidden size.

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
    """BERT's own forward pass over narrower matrices: its attention counts the heads by the width of the queries."""

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
    """How much each head and each neuron of a fine-tuned model matters to its task, by layer.

    A weight's score is ``|w sum_batches |dL/dw||``, where ``L`` is the mean loss of a batch on its labels and dropout is
    active: the result depends on torch's random state. A head's score is the sum over its columns of the attention
    output matrix; a neuron's, the sum over its row of the up matrix and its column of the down matrix. The model is left
    as it was.

    Args:
        model: a fine-tuned classifier.
        batches: inputs and labels, on the model's device.
        kind: what the labels are, which gives their loss; of one answer for each text.

    Raises:
        TutelageError: when there is no batch.
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
            "the importance of heads and neurons is computed on labelled training examples, and there are none; "
            "label some, or use a student with init=copied"
        )
    weights = [(total * matrix.detach()).abs().cpu() for total, matrix in zip(totals, matrices, strict=True)]
    return [
        (output.sum(dim=0).view(heads, -1).sum(dim=1), up.sum(dim=1) + down.sum(dim=0))
        for output, up, down in zip(*[iter(weights)] * 3, strict=True)
    ]


@contextmanager
def _training(model: PreTrainedModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    """``model`` with dropout and with gradients for ``parameters`` alone, for a while."""
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


def check(spec: Pruned, config: Any) -> None:
    """See that the student can be cut out of a teacher with this configuration, before anything is computed for it.

    Raises:
        TutelageError: when the teacher is no BERT, or has less than is to be kept.
    """
    if config.model_type != "bert":
        raise TutelageError(
            f"a pruned student is cut out of a BERT, and the teacher is of type {config.model_type!r}; use a BERT as "
            "teacher, or a student with init=copied"
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
                f"{name}={getattr(spec, name)} cannot be kept: the teacher has no more than {name}={limit}; use that or less"
            )


def prune(
    teacher: PreTrainedModel, spec: Pruned, scores: Scores, labels: dict[str, Any]
) -> PrunedBertForSequenceClassification:
    """The student: the teacher's bottom layers, with the heads and neurons of each that have the best ``scores``.

    The embedding table ``E`` becomes ``(U_r S_r)(V_r^T)``, the best approximation of its rank. Everything else is copied,
    the head too if it has as many labels as the student's.

    Raises:
        TutelageError: see :func:`check`.
    """
    check(spec, teacher.config)
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
    """The weights of one layer, with the ``columns`` of its kept heads and with its kept ``neurons``."""
    inner = {family.query: columns, family.key: columns, family.value: columns, family.ffn_up: neurons}
    kept = {f"{path}.{part}": (0, which) for path, which in inner.items() for part in ("weight", "bias")}
    kept |= {f"{family.attention_output}.weight": (1, columns), f"{family.ffn_down}.weight": (1, neurons)}
    weights = dict(layer.state_dict())
    for name, (dimension, which) in kept.items():
        weights[name] = weights[name].index_select(dimension, which.to(weights[name].device))
    return weights


def _best(scores: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` largest scores, ascending; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _factors(table: Tensor, rank: int | None) -> dict[str, Tensor]:
    if rank is None:
        return {"table.weight": table}
    u, s, v = torch.linalg.svd(table, full_matrices=False)
    return {"table.weight": u[:, :rank] * s[:rank], "project.weight": v[:rank].mT}
