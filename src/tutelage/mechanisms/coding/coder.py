"""Weights that become 0, and weights that share values, while they are trained (Han et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.mechanisms.coding.settings import SharedValues, Sparsity
from tutelage.mechanisms.hook import Hook, parameter_groups
from tutelage.report.section import Column, Row, Section, Table
from tutelage.students import coded

ROUNDS = 50
"""Most rounds of k-means."""
PARTS = 32
"""Parts in which the share of zeros grows."""


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights with two dimensions or more, each once: of linear layers and embedding tables."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


class Sparsifier(Hook):
    """Sets the smallest entries of every matrix to 0. Which ones are 0 is read from the weights, so there is no state to keep."""

    def __init__(self, how: Sparsity, model: PreTrainedModel) -> None:
        self.how, self.model = how, model

    def share(self, step: int, total: int) -> float:
        """The share of entries that are 0 after a step (from 1). It grows in parts, because each sorts the weights."""
        done = min(1.0, int(PARTS * step / max(1.0, self.how.until * total)) / PARTS)
        return float(self.how.share * (1 - (1 - done) ** 3))

    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """Entries that are 0 have no gradient, so that they do not count when gradients are clipped."""
        self._zero = [matrix.detach() == 0 for matrix in matrices_of(self.model)]
        for matrix, zero in zip(matrices_of(self.model), self._zero, strict=True):
            if matrix.grad is not None:
                matrix.grad.masked_fill_(zero, 0)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        share = self.share(step, total)
        grows = share > self.share(step - 1, total)  # else nothing is counted, for which the host would wait
        for matrix, zero in zip(matrices_of(self.model), self._zero, strict=True):
            matrix.masked_fill_(zero, 0)  # the optimiser's momentum has moved them
            count = int(share * matrix.numel())
            if grows and count > int(zero.sum()):
                least = matrix.abs().flatten().kthvalue(count).values
                matrix.masked_fill_(matrix.abs() <= least, 0)
        return False

    def shown(self) -> dict[str, float]:
        found = matrices_of(self.model)
        return {"zeros": sum(int((m == 0).sum()) for m in found) / max(1, sum(m.numel() for m in found))}


class Codebooks(Hook):
    """Keeps every matrix at few values. The values learn; which entry has which is fixed when the stage begins."""

    def __init__(self, how: SharedValues, model: PreTrainedModel) -> None:
        self.matrices = matrices_of(model)
        self.centroids: list[nn.Parameter] = []
        self.groups: list[Tensor] = []
        for matrix in self.matrices:
            values = matrix.detach().float().cpu().numpy().reshape(-1)
            centres = clustered(values[values != 0], 2**how.bits - 1)
            centroids = np.concatenate([np.zeros(1, np.float32), centres])
            # Zero is a group of its own and stays what it is.
            groups = np.where(values == 0, 0, 1 + nearest(values, centres) if len(centres) else 0).astype(np.uint8)
            self.centroids.append(nn.Parameter(torch.from_numpy(centroids).to(matrix)))
            self.groups.append(torch.from_numpy(groups).to(matrix.device))
        self._write()

    @torch.no_grad()
    def _write(self) -> None:
        for matrix, centroids, groups in zip(self.matrices, self.centroids, self.groups, strict=True):
            matrix.copy_(centroids[groups.int()].view_as(matrix))

    def parameter_groups(self, module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The usual ones, and the centroids, which do not decay. The matrices have no gradient when the optimiser steps; that of
        theirs which is scaled (fp16) is unscaled with the others."""
        for place, matrix in enumerate(self.matrices):  # the loop has moved the model
            self.centroids[place].data = self.centroids[place].data.to(matrix.device)
            self.groups[place] = self.groups[place].to(matrix.device)
        return [*parameter_groups(module, weight_decay), {"params": self.centroids, "weight_decay": 0.0}]

    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """The gradient of a centroid is the sum of its entries'. That of zero is none."""
        for matrix, centroids, groups in zip(self.matrices, self.centroids, self.groups, strict=True):
            if matrix.grad is None:
                continue
            gradient = torch.zeros_like(centroids, dtype=torch.float64)
            gradient.index_add_(0, groups.int(), matrix.grad.reshape(-1).double())
            gradient[0] = 0
            centroids.grad, matrix.grad = gradient.to(centroids.dtype), None

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        self._write()
        for centroids in self.centroids:
            centroids.grad = None
        return False

    def state(self) -> dict[str, Tensor]:
        found = {f"centroids.{place}": one.detach() for place, one in enumerate(self.centroids)}
        return found | {f"groups.{place}": one for place, one in enumerate(self.groups)}

    def restore(self, state: dict[str, Tensor]) -> None:
        for place, centroids in enumerate(self.centroids):
            # Not copied into: of the weights as they are now k-means may have found another number.
            centroids.data = state[f"centroids.{place}"].to(centroids)
            self.groups[place] = state[f"groups.{place}"].to(self.groups[place].device)


def nearest(values: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """``(n,)``: which of the ascending centres is nearest to each value."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values).astype(np.int64)


def clustered(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """At most ``count`` centres of values ``(n,)``, ascending, by k-means from evenly spread ones (the paper's linear start).

    In one dimension a group is a range of the sorted values, so a round costs a look-up of its borders.
    """
    if not len(values):
        return np.zeros(0, np.float32)
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.unique(np.linspace(ordered[0], ordered[-1], count))
    for _ in range(ROUNDS):
        borders = np.concatenate([[0], np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2), [len(ordered)]])
        sizes = np.diff(borders)
        held = sizes > 0  # a centre without values would stay where nothing is
        new = (np.diff(sums[borders])[held]) / sizes[held]
        if len(new) == len(centres) and np.array_equal(new, centres):
            break
        centres = new
    return np.unique(centres.astype(np.float32))


def section(model: PreTrainedModel) -> Section:
    """What the student weighs, in bytes and in each of the forms."""
    state = model.state_dict()
    matrices = matrices_of(model)
    entries = sum(matrix.numel() for matrix in matrices)
    zeros = sum(int((matrix == 0).sum()) for matrix in matrices)
    plain = sum(one.numel() * one.element_size() for one in {t.data_ptr(): t for t in state.values()}.values())
    small = coded.bytes_of(state)
    rows = [Row(name="as float32", cells=[f"{plain / 1e6:.2f}", ""])]
    rows.append(Row(name="packed", cells=[f"{small / 1e6:.2f}", f"{small / plain:.1%}"], lead=True))
    return Section(
        title="Packed size",
        paragraphs=[
            f"{zeros / max(entries, 1):.1%} of the {entries:,} entries of the matrices are 0. Packed, an entry has "
            f"{8 * small / max(entries, 1):.2f} bits in the mean."
        ],
        table=Table(
            caption="Bytes of the weights",
            head="the student",
            columns=[Column(title="MB"), Column(title="share")],
            rows=rows,
        ),
        notes=[
            "`tutelage pack STUDENT --out FOLDER` writes it, `tutelage unpack` makes a plain checkpoint of it again."
        ],
    )
