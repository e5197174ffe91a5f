"""How much each attention head and each feed-forward neuron is missed once the others are refitted (ZipLM, Kurtic et al. 2023).

Removed is, one after the other, what costs a block's output least when the output matrix is refitted by least squares to what is
left (as :mod:`tutelage.students.tuning` does after cutting); what goes later matters more. With ``G = H^T H`` over tokens, ``H``
the inputs of the matrix with a column of ones for its bias, and ``W`` its weights with the bias, removing the rows S of W adds
``tr(W_S^T ((G^-1)_SS)^-1 W_S)`` to the squared error. ``W`` and ``G^-1`` are brought up to date after each removal, of neurons
after a 64th of those that are left (the paper removes them one by one). No labels are needed: the outputs to keep are the model's
own (arXiv 2302.04089, equations 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.evaluation.speed import evaluating
from tutelage.students.layerwise import Place, Watched
from tutelage.students.tuning import RIDGE, products_of, weights_of, with_ones, with_ridge

AT_ONCE = 64
"""One of so many units that are left is removed before costs are computed again."""


@torch.no_grad()
def reconstruction(model: PreTrainedModel, batches: Iterable[Batch]) -> list[tuple[Tensor, Tensor]]:
    """For each layer the places of its heads, ``(heads,)``, and of its neurons, ``(intermediate,)``, in the order of removal.

    Args:
        model: Its layers run one after the other, and the hidden states of all batches are held in memory.
        batches: Texts, on the model's device.
    """
    family, heads = anatomy.family_of(model.config), anatomy.shape_of(model.config).heads
    with evaluating([model]):
        places = [Place.at(model, batch.inputs) for batch in batches]
        scores = []
        for layer in anatomy.layers_of(model):
            matrices = {path: layer.get_submodule(path) for path in (family.attention_output, family.ffn_down)}
            weights = {path: weights_of(matrix) for path, matrix in matrices.items()}
            products = {path: torch.zeros(len(w), len(w), dtype=w.dtype) for path, w in weights.items()}
            for place in places:
                seen = Watched(layer, [(path, "in") for path in matrices])
                place.run(layer)
                for (path, _), h in seen.close().items():
                    products[path] += products_of(with_ones(h[place.real]))
            units = {family.attention_output: heads, family.ffn_down: len(weights[family.ffn_down]) - 1}
            attention, down = (removal_order(products[path], weights[path], count) for path, count in units.items())
            scores.append((attention, down))
        return scores


def removal_order(products: Tensor, weights: Tensor, units: int) -> Tensor:
    """For each unit, from 0, how many are removed before it: ``(units,)``.

    Args:
        products: ``G``, ``(in + 1, in + 1)``.
        weights: ``W``, ``(in + 1, out)``.
        units: Parts of equal size that the first ``in`` rows of W consist of. The last row, the bias, always stays.
    """
    size, outputs = (len(weights) - 1) // units, weights.shape[1]
    # The bias first: what is left then lies at the front, and is not copied.
    turned = torch.arange(len(weights)).roll(1)
    inverse = torch.linalg.inv(with_ridge(products, RIDGE))[turned][:, turned]
    weights = weights[turned]
    order, left = torch.zeros(units), torch.arange(units)
    while len(left) > 1:
        costs = _costs(inverse[1:, 1:], weights[1:], len(left), size)
        some = max(1, len(left) // AT_ONCE) if size == 1 else 1
        gone, stay = costs.argsort(stable=True)[:some], len(left) - some
        order[left[gone]] = torch.arange(some, dtype=order.dtype) + (units - len(left))
        behind = torch.arange(stay, len(left))
        out, back = gone[gone < stay], behind[~torch.isin(behind, gone)]
        one, other = _rows(torch.cat([out, back]), size), _rows(torch.cat([back, out]), size)
        weights[one], inverse[one] = weights[other], inverse[other]
        inverse[:, one] = inverse[:, other]
        left[out] = left[back]
        left, end = left[:stay], 1 + stay * size
        step = torch.linalg.solve(inverse[end:, end:], torch.cat([weights[end:], inverse[end:, :end]], dim=1))
        across, weights, inverse = inverse[:end, end:], weights[:end], inverse[:end, :end]
        weights.addmm_(across, step[:, :outputs], alpha=-1)
        inverse.addmm_(across, step[:, outputs:], alpha=-1)
    order[left] = units - 1
    return order


def _rows(units: Tensor, size: int) -> Tensor:
    """The rows of these units, behind that of the bias."""
    return (1 + units[:, None] * size + torch.arange(size)).flatten()


def _costs(inverse: Tensor, weights: Tensor, units: int, size: int) -> Tensor:
    """What removing each unit alone adds to the squared error: ``(units,)``."""
    rows = weights[: units * size].view(units, size, -1)
    if size == 1:
        return rows[:, 0].square().sum(dim=1) / inverse.diagonal()[:units]
    blocks = torch.stack([inverse[one : one + size, one : one + size] for one in range(0, units * size, size)])
    costs: Tensor = (rows * torch.linalg.solve(blocks, rows)).sum(dim=(1, 2))
    return costs
