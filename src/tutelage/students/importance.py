"""How much each attention head and each feed-forward neuron of a fine-tuned model matters for its task: one pass over examples.

Four scores:

* ``reconstruction`` (ZipLM, Kurtic et al. 2023): when it is removed if each time goes what the refitted others miss least
  (:mod:`tutelage.students.reconstruction`); without labels and gradients.
* ``fisher`` (Kwon et al. 2022, arXiv 2204.09656): the diagonal of the Fisher information of the masks. A mask multiplies the
  output of a head or neuron and is 1; the score is ``sum_x (dL_x/dmask)^2`` over examples x, without dropout.
* ``taylor`` (ROSITA, Liu et al. 2021): ``|w sum_batches |dL/dw||``, where L is the mean loss of a batch, summed over a head's
  columns of the attention output matrix, and over a neuron's row of the up matrix and column of the down matrix. Dropout is
  active, so the result depends on torch's random state.
* ``first_order`` (DynaBERT, Hou et al. 2020): the change of the loss without the head or neuron, to the first order. Of a head
  ``sum_batches |sum w dL/dw|`` over its columns of the attention output matrix, which is the gradient of its mask; of a neuron
  the same over its row of the up matrix with its bias, and over its column of the down matrix, added. Without dropout.

The loss of the others is that of the labels. Vectors of texts have no labels: their loss is the product with random normal
numbers, whose squared gradient has the Fisher information of a normal distribution around the vector as its expectation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.errors import TutelageError
from tutelage.students.reconstruction import reconstruction
from tutelage.tasks.kind import Kind

Importance = Literal["reconstruction", "fisher", "taylor", "first_order"]
Scores = list[tuple[Tensor, Tensor]]
"""For each layer: scores of its heads, ``(heads,)``, and of its neurons, ``(intermediate,)``."""


def importance(
    model: PreTrainedModel, batches: Iterable[Batch], kind: Kind, how: Importance = "reconstruction"
) -> Scores:
    """The importance of each head and neuron of a fine-tuned model for its task, by layer. The model is not changed.

    Args:
        model: A fine-tuned model.
        batches: Examples on the model's device, with labels unless ``how`` is ``reconstruction``.
        kind: The kind of task, which determines the loss.
        how: The score; see above.

    Raises:
        TutelageError: if there is no batch.
    """
    if how == "reconstruction":
        return reconstruction(model, batches)
    found = {"fisher": _fisher, "taylor": _taylor, "first_order": _first_order}[how](model, batches, kind)
    if found is None:
        raise TutelageError(
            f"importance={how} ranks heads and neurons by labelled training examples, and there are none; "
            "label some, or use importance=reconstruction"
        )
    return found


def _loss(model: PreTrainedModel, batch: Batch, kind: Kind, count: float | None) -> Tensor:
    """The loss of a batch, divided by ``count`` (by default the number of known answers)."""
    logits = anatomy.answers_of(model, batch.inputs, batch.predicted)
    if not kind.learns_labels:
        return (logits * torch.randn_like(logits)).sum() / (count or len(logits))
    return kind.hard_loss(kind.answers(logits, batch), batch.labels, count)


def _fisher(model: PreTrainedModel, batches: Iterable[Batch], kind: Kind) -> Scores | None:
    family, heads = anatomy.family_of(model.config), anatomy.shape_of(model.config).heads
    masks: list[Tensor] = []

    def masked(units: int | None) -> object:
        def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            (x,) = args
            parts = x.reshape(*x.shape[:-1], units or x.shape[-1], -1)  # (batch, length, heads or neurons, size)
            mask = torch.ones(len(x), 1, parts.shape[2], 1, dtype=x.dtype, device=x.device, requires_grad=True)
            masks.append(mask)
            return ((parts * mask).flatten(-2),)

        return hook

    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(masked(units))  # type: ignore[arg-type]
        for layer in anatomy.layers_of(model)
        for path, units in ((family.attention_output, heads), (family.ffn_down, None))
    ]
    totals: list[Tensor] | None = None
    try:
        with _learning(model, [], dropout=False):
            for batch in batches:
                masks.clear()
                squares = [
                    gradient[:, 0, :, 0].double().square().sum(dim=0).cpu()
                    for gradient in torch.autograd.grad(_loss(model, batch, kind, 1.0), masks)
                ]
                totals = squares if totals is None else [a + b for a, b in zip(totals, squares, strict=True)]
    finally:
        for one in hooks:
            one.remove()
    return None if totals is None else list(zip(totals[::2], totals[1::2], strict=True))


def _taylor(model: PreTrainedModel, batches: Iterable[Batch], kind: Kind) -> Scores | None:
    family, heads = anatomy.family_of(model.config), anatomy.shape_of(model.config).heads
    paths = [f"{path}.weight" for path in (family.attention_output, family.ffn_up, family.ffn_down)]
    matrices = [layer.get_parameter(path) for layer in anatomy.layers_of(model) for path in paths]
    totals = [torch.zeros_like(matrix) for matrix in matrices]
    count = 0
    with _learning(model, matrices, dropout=True):
        for batch in batches:
            gradients = torch.autograd.grad(_loss(model, batch, kind, None), matrices)
            for total, gradient in zip(totals, gradients, strict=True):
                total += gradient.abs()
            count += 1
    weights = [(total * matrix.detach()).abs().cpu() for total, matrix in zip(totals, matrices, strict=True)]
    scores = [unit_sums(output, up, down, heads) for output, up, down in zip(*[iter(weights)] * 3, strict=True)]
    return scores if count else None


def unit_sums(output: Tensor, up: Tensor, down: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Scores of weights summed over each head's columns of the attention output matrix, ``(heads,)``, and over each neuron's row
    of the up and column of the down matrix, ``(intermediate,)``."""
    return output.sum(dim=0).view(heads, -1).sum(dim=1), up.sum(dim=1) + down.sum(dim=0)


def _first_order(model: PreTrainedModel, batches: Iterable[Batch], kind: Kind) -> Scores | None:
    family, heads = anatomy.family_of(model.config), anatomy.shape_of(model.config).heads
    up = family.ffn_up
    names = [f"{family.attention_output}.weight", f"{up}.weight", f"{up}.bias", f"{family.ffn_down}.weight"]
    parameters = [layer.get_parameter(name) for layer in anatomy.layers_of(model) for name in names]
    scores: Scores = []
    with _learning(model, parameters, dropout=False):
        for batch in batches:
            gradients = torch.autograd.grad(_loss(model, batch, kind, None), parameters)
            products = [(w.detach() * g).double().cpu() for w, g in zip(parameters, gradients, strict=True)]
            found = [
                (out.view(len(out), heads, -1).sum(dim=(0, 2)).abs(), (row.sum(1) + bias).abs() + column.sum(0).abs())
                for out, row, bias, column in zip(*[iter(products)] * 4, strict=True)
            ]
            scores = [(a + c, b + d) for (a, b), (c, d) in zip(scores, found, strict=True)] if scores else found
    return scores or None


@contextmanager
def _learning(model: PreTrainedModel, parameters: list[nn.Parameter], *, dropout: bool) -> Iterator[None]:
    """Gradients for ``parameters`` only, with or without dropout; restore both afterwards."""
    modes = {module: module.training for module in model.modules()}
    learnt = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for module in modes:
            module.training = dropout
        for parameter in learnt:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, wanted in learnt.items():
            parameter.requires_grad_(wanted)
