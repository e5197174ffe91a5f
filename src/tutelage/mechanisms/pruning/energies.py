"""How large the coordinates of a student with compactors are: the energy of what its matrices read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.students.compactors.compaction import Compaction


class Energies:
    """Adds up, for each coordinate of a group, the squares of what the matrices after it read while the model trains.

    Each matrix counts with its mean over the real tokens of a step. A group is watched until it is complete. The hooks are
    gone when the compactors are merged.
    """

    def __init__(self, model: PreTrainedModel, compaction: Compaction) -> None:
        self._compaction = compaction
        self._mask: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        anatomy.base_of(model).register_forward_pre_hook(self._begin, with_kwargs=True)
        for path, link in compaction.links.items():
            link.register_forward_pre_hook(self._watch(path))

    @torch.no_grad()
    def settle(self) -> None:
        """Add the energies of a step, over all processes, to the scores of the groups."""
        for path, total in self._sums.items():
            *sums, count = reduce(total, "sum").split([len(total) - 1, 1])
            group = self._compaction.links[path].readers[0].group
            energy = (sums[0] / count.clamp(min=1)).to(group.score.dtype)
            group.score += torch.where(energy.isfinite().all(), energy, 0.0)  # on the device: nothing waits
        self._sums = {}

    def _begin(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask")

    def _watch(self, path: str) -> Any:
        """A hook that adds up squares, ``(coordinates,)``, and the number of tokens."""
        group = self._compaction.links[path].readers[0].group

        @torch.no_grad()
        def watch(link: nn.Module, args: tuple[Tensor]) -> None:
            if not link.training or group.complete:
                return
            x = args[0].float()
            real = x.new_ones(x.shape[:-1])  # of single tokens, such as a pooler's, all are real
            if self._mask is not None and self._mask.shape == x.shape[:-1]:
                real = self._mask.to(x.dtype)
            squares = torch.einsum("...i,...->i", x.square(), real)
            self._sums[path] = self._sums.get(path, 0) + torch.cat([squares, real.sum()[None]])

        return watch
