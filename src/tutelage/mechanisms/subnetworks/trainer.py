"""The sub-networks of a student while it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from transformers import PreTrainedModel

from tutelage.data.batches import Batch
from tutelage.mechanisms.hook import Hook
from tutelage.mechanisms.subnetworks.settings import Subnetworks
from tutelage.students.subnetworks import Supernet, record, subnetworks


class Trainer(Hook):
    """Each piece of a step runs in each sub-network in turn, the whole network last. They have no state but the weights."""

    def __init__(self, how: Subnetworks, model: PreTrainedModel) -> None:
        self._how, self._model, self._supernet = how, model, Supernet(model)
        self._parts = subnetworks(model.config, how.widths, how.depths)

    def views(self) -> Sequence[AbstractContextManager[object]]:
        return [self._supernet.only(part) for part in self._parts]

    def finish(self, proof: Callable[[], Batch]) -> bool:
        """The student computes as any model, and its configuration says which sub-networks it has."""
        self._supernet.close()
        record(self._model, self._how.widths, self._how.depths)
        return False
