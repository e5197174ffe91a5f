"""A pruned student: fewer layers, heads and neurons than the fine-tuned teacher, and possibly a factorised embedding table.

ROSITA6 of minimum-knowledge distillation (Liu et al. 2021, arXiv 2106.05691) is one, after the authors' code. Two differences:
the kept parts are chosen by index, layer by layer (the code finds them by ``weight != 0`` and, if no neurons are pruned, uses
the heads of the first layer everywhere); and the singular value decomposition is the thin one.

A student with all heads and the full table is an ordinary model of the teacher's family. transformers derives the size of a head
from the number of heads, so a model with fewer heads of the same size has its own type. Importing this module registers these
types (``pruned_bert``, ``pruned_roberta``, ...) with the Auto classes of transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head, auto_class
from tutelage.errors import TutelageError
from tutelage.students.importance import Scores
from tutelage.students.load import model_class
from tutelage.students.sizes import Sizes, sizes_of
from tutelage.students.specs import Pruned

HEADS: tuple[Head, ...] = ("classes", "tokens", "spans", "none")
"""Heads of models with a type of their own; ``none`` is the encoder, also that of a sentence encoder."""


class WordEmbeddings(nn.Module):
    """An embedding ``table`` and, if it is factorised, the matrix that projects its rows to the width of the model's.

    Shapes: ids ``(B, n)`` to ``(B, n, width)``.
    """

    def __init__(self, original: nn.Embedding, rank: int | None) -> None:
        super().__init__()
        count, width = original.num_embeddings, original.embedding_dim
        self.table = nn.Embedding(count, rank or width, padding_idx=original.padding_idx)
        self.project = nn.Linear(rank, width, bias=False) if rank else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.project(self.table(ids))
        return vectors


class Narrow:
    """Mixin for the models of this module: narrower matrices. The attention of these families derives the number of heads from
    the width of the queries."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        model: Any = self
        base, family = anatomy.base_of(model), anatomy.family_of(config)
        hidden, original = getattr(config, family.hidden), anatomy.FAMILIES[plain_type(config)]
        width = config.kept_heads * (hidden // getattr(config, original.heads))
        for layer in anatomy.layers_of(model):
            for path in (family.query, family.key, family.value):
                layer.set_submodule(path, nn.Linear(hidden, width))
            layer.set_submodule(family.attention_output, nn.Linear(width, hidden))
        table = base.get_submodule(original.embeddings)
        base.set_submodule(original.embeddings, WordEmbeddings(table, config.embedding_rank))
        model.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        model: Any = self
        return anatomy.word_embeddings_of(model)

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        model: Any = self
        place = anatomy.FAMILIES[plain_type(model.config)].embeddings
        anatomy.base_of(model).get_submodule(place).table = value


def plain_type(config: Any) -> str:
    """The model type of the family that a pruned model belongs to."""
    return str(config.model_type).removeprefix("pruned_")


def register(
    kind: str, mixin: type, types: dict[str, Any], fields: dict[str, Any]
) -> dict[str, type[PreTrainedConfig]]:
    """Register the model types of a kind of student (``pruned_bert``, ...) with the Auto classes of transformers.

    Args:
        kind: What ``Family.derived`` says, and the beginning of the types' names.
        mixin: What changes a model of the plain family into one of the kind.
        types: By name the type of each field that the configuration has beside the plain family's.
        fields: Their defaults.

    Returns:
        The configuration classes, by the plain model type.
    """
    found: dict[str, type[PreTrainedConfig]] = {}
    for name in [n.removeprefix(f"{kind}_") for n, family in anatomy.FAMILIES.items() if family.derived == kind]:
        base, title, module = CONFIG_MAPPING[name], kind.capitalize(), mixin.__module__
        about = {"model_type": f"{kind}_{name}", "__annotations__": types, "__module__": module, **fields}
        config = found[name] = strict(type(f"{title}{base.__name__}", (base,), about))
        AutoConfig.register(config.model_type, config)
        for head in HEADS:
            plain = auto_class(head)._model_mapping[base]
            members = {"config_class": config, "__module__": module}
            auto_class(head).register(config, type(f"{title}{plain.__name__}", (mixin, plain), members))
    return found


CONFIGS = register(
    "pruned",
    Narrow,
    {"kept_heads": int, "embedding_rank": int | None},
    {"kept_heads": 12, "embedding_rank": None},
)
"""By model type of the teacher the configuration of a student with fewer heads or a factorised table.

The original number of heads stays as it is, because transformers derives the head size from it. ``kept_heads`` is the number of
heads left in each layer. ``embedding_rank`` is the width of a factorised embedding table, else ``None``.
"""


def check_family(config: Any) -> None:
    """Check that neurons, at least, can be removed from a model or moved.

    Raises:
        TutelageError: if they cannot.
    """
    fixed = anatomy.family_of(config).neurons_fixed
    if fixed is not None:
        raise TutelageError(
            f"a {config.model_type} cannot be pruned: {fixed}; use another kind of student, such as init=copied"
        )


def check_prunable(spec: Pruned, teacher: PreTrainedModel) -> Sizes:
    """Check that a teacher can be pruned to the student, before anything is computed; returns the student's sizes.

    Raises:
        TutelageError: if the family cannot be pruned, the teacher has fewer layers, heads or neurons than the student, or no
            sizes reach the target.
    """
    check_limits(spec, teacher.config)
    return sizes_of(spec, teacher)


def check_limits(spec: Pruned, config: Any) -> None:
    """Check that a teacher of this configuration has what the student is to keep.

    Raises:
        TutelageError: if the family cannot be pruned, or the teacher has fewer layers, heads or neurons than the student.
    """
    check_family(config)
    family, shape = anatomy.family_of(config), anatomy.shape_of(config)
    limits = {
        "layers": shape.layers,
        "heads": shape.heads,
        "intermediate": shape.intermediate,
        "rank": min(shape.vocabulary, getattr(config, "embedding_size", shape.hidden)),
    }
    for name, limit in limits.items():
        if (getattr(spec, name) or 0) > limit:
            raise TutelageError(
                f"{name}={getattr(spec, name)} is too large: the teacher has {name}={limit}; use that or less"
            )
    if family.heads_fixed is not None and spec.heads not in (None, shape.heads):
        raise TutelageError(
            f"single heads of a {config.model_type} cannot be removed: {family.heads_fixed}; leave out heads"
        )
    if spec.rank is not None and config.model_type not in CONFIGS:
        raise TutelageError(f"the embedding table of a {config.model_type} cannot be factorised; leave out rank")


def prune(teacher: PreTrainedModel, spec: Pruned, scores: Scores, labels: dict[str, Any]) -> PreTrainedModel:
    """Build the student from the teacher's bottom layers, with the heads and neurons that have the best ``scores``.

    The embedding table ``E`` becomes ``(U_r S_r)(V_r^T)``, its best approximation of rank r. Everything else is copied,
    including the head if it has as many labels as the student.

    Raises:
        TutelageError: see :func:`check_prunable`.
    """
    sizes = check_prunable(spec, teacher)
    units = [(_best(heads, sizes.heads), _best(neurons, sizes.intermediate)) for heads, neurons in scores]
    return with_units(teacher, range(sizes.layers), units[: sizes.layers], labels, spec.rank)


def ordered(teacher: PreTrainedModel, scores: Scores, labels: dict[str, Any]) -> PreTrainedModel:
    """The teacher, in each layer of which the heads and neurons with better ``scores`` come first. It computes the same.

    Raises:
        TutelageError: if the neurons of this family cannot be moved.
    """
    check_family(teacher.config)
    units = [(_order(heads), _order(neurons)) for heads, neurons in scores]
    return with_units(teacher, range(len(units)), units, labels)


def with_units(
    teacher: PreTrainedModel,
    layers: Sequence[int],
    units: Sequence[tuple[Tensor, Tensor]],
    labels: dict[str, Any],
    rank: int | None = None,
) -> PreTrainedModel:
    """The network of some parts of a model. Everything outside the layers is copied.

    Args:
        teacher: A model whose heads and neurons can be removed (:func:`check_prunable`).
        layers: The layers (from 0).
        units: For each of them its heads and neurons, as indices. All layers have equally many. Where single heads cannot be
            removed or moved, all stay as they are.
        labels: Fields of the configuration that describe the outputs. A head for others stays random.
        rank: Rank of a factorised embedding table; none keeps the table.
    """
    family, base = anatomy.family_of(teacher.config), anatomy.base_of(teacher)
    config = _config(Sizes(len(layers), len(units[0][0]), len(units[0][1])), rank, teacher.config, labels)
    student: PreTrainedModel = model_class(anatomy.head_of(teacher)).from_config(config, dtype=torch.float32)
    names = {module: name for name, module in teacher.named_modules()}
    prefix, within = f"{names[anatomy.layers_of(teacher)]}.", f"{names[base]}." if names[base] else ""
    weights = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith(prefix)}
    words = f"{within}{family.embeddings}."
    if anatomy.family_of(config).derived == "pruned":
        factors = _factors(weights.pop(f"{words}weight"), rank)
        weights |= {words + name: tensor for name, tensor in factors.items()}
    size = getattr(teacher.config, family.hidden) // getattr(teacher.config, family.heads)
    for new, (old, (heads, neurons)) in enumerate(zip(layers, units, strict=True)):
        columns = (heads[:, None] * size + torch.arange(size)).flatten()
        kept = cut_layer(anatomy.layers_of(teacher)[old], family, columns, neurons)
        weights |= {f"{prefix}{new}.{name}": tensor for name, tensor in kept.items()}
    body = {name: tensor for name, tensor in weights.items() if name.startswith(within)}
    outside = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(within)}
    for name, new in outside.items():  # a head of another size, or one that the teacher lacks, stays random
        if name in weights and weights[name].shape == new.shape:
            outside[name] = weights[name]
    student.load_state_dict(body | outside)
    return student.eval()


def _config(sizes: Sizes, rank: int | None, original: Any, labels: dict[str, Any]) -> Any:
    family, all_heads = anatomy.family_of(original), anatomy.shape_of(original).heads
    if sizes.heads == all_heads and rank is None:
        config = copy.deepcopy(original)
    else:
        values = original.to_dict()
        for name in ("model_type", "architectures"):
            values.pop(name, None)
        config = CONFIGS[original.model_type](**values)
        config.kept_heads, config.embedding_rank = sizes.heads, rank
    setattr(config, family.depth, sizes.layers)
    setattr(config, family.intermediate, sizes.intermediate)
    for name, value in labels.items():
        setattr(config, name, value)
    return config


def cut_layer(layer: nn.Module, family: anatomy.Family, columns: Tensor, neurons: Tensor) -> dict[str, Tensor]:
    """The weights of one layer, reduced to the ``columns`` of the kept heads and to the kept ``neurons``."""
    rows = {family.ffn_up: neurons}
    kept = {f"{family.ffn_down}.weight": (1, neurons)}
    if family.heads_fixed is None:
        rows |= {family.query: columns, family.key: columns, family.value: columns}
        kept |= {f"{family.attention_output}.weight": (1, columns)}
    kept |= {f"{path}.{part}": (0, which) for path, which in rows.items() for part in ("weight", "bias")}
    weights = dict(layer.state_dict())
    for name, (dimension, which) in kept.items():
        weights[name] = weights[name].index_select(dimension, which.to(weights[name].device))
    return weights


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, ascending. Of equal scores, the first is kept."""
    return _order(scores)[:count].sort().values


def _order(scores: Tensor) -> Tensor:
    """Indices by score, the largest first. Of equal scores, the first comes first."""
    return scores.argsort(descending=True, stable=True)


def _factors(table: Tensor, rank: int | None) -> dict[str, Tensor]:
    if rank is None:
        return {"table.weight": table}
    u, s, v = torch.linalg.svd(table, full_matrices=False)
    return {"table.weight": u[:, :rank] * s[:rank], "project.weight": v[:rank].mT}
