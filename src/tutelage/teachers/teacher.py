"""Who teaches: a running model, or its logits once they are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.data.batches import Batch, evaluation_batches, padded
from tutelage.data.examples import Encoded
from tutelage.knowledge.selection import Selected, select
from tutelage.knowledge.signals import Needs, Signals, Tap


class Teacher(Protocol):
    """A source of signals for a batch of examples."""

    def signals(self, batch: Batch) -> Signals: ...

    def close(self) -> None: ...


class LiveTeacher:
    """A model that runs on every batch: in evaluation mode, without gradients, no further than the last layer needed.

    ``encoded`` is given when the teacher has another tokenizer than the student and reads its own tokens.
    """

    def __init__(self, model: PreTrainedModel, needs: Needs, encoded: Encoded | None, accelerator: Accelerator) -> None:
        self._tap = Tap(model.eval().requires_grad_(False), needs.measured)
        self._needs, self._encoded, self._accelerator = needs, encoded, accelerator

    def signals(self, batch: Batch) -> Signals:
        inputs = batch.inputs
        if self._encoded is not None:
            inputs = padded(self._encoded, batch.rows.numpy(), pad_to=batch.mask.shape[1])
            inputs = {name: value.to(batch.mask.device) for name, value in inputs.items()}
        # Not inference_mode: autograd refuses to keep its tensors for the student's backward pass.
        with torch.no_grad(), self._accelerator.autocast():
            signals = self._tap(inputs)
            cut_from(signals, self._needs, inputs["attention_mask"], batch.separators, batch.keys)
            return signals

    def close(self) -> None:
        self._tap.close()


class KnownLogits:
    """A teacher whose logits ``(examples, classes)`` are in memory: a few numbers an example replace its forward pass."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def signals(self, batch: Batch) -> Signals:
        return Signals(logits=self._logits[batch.rows.to(self._logits.device, non_blocking=True)])

    def close(self) -> None:
        pass


def cut_from(signals: Signals, needs: Needs, mask: Tensor, separators: Tensor, keys: Tensor) -> None:
    """Add the cuts asked for to the signals of a running model."""
    for cut in needs.cuts:
        scores = None if cut.scored_by is None else signals.ranking(cut.scored_by, mask, cut.tokens.score)
        whole = Selected(signals.hidden[cut.layer].float(), mask)
        signals.cuts[cut] = select(cut, whole, mask, separators, scores, keys)


def predict(
    model: PreTrainedModel,
    encoded: Encoded,
    accelerator: Accelerator,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Logits of all examples, ``(examples, classes)`` float32 on the CPU; ``advance`` hears of every batch's size."""
    was_training = model.training
    model.eval()
    results: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), accelerator.autocast():
        for rows, inputs in evaluation_batches(encoded):
            logits = model(**{name: value.to(accelerator.device) for name, value in inputs.items()}).logits
            results.append((torch.from_numpy(rows), logits))
            advance(len(rows))
    model.train(was_training)
    table = torch.empty(len(encoded), results[0][1].shape[-1])
    for index, logits in results:
        table[index] = logits.float().cpu()
    return table
