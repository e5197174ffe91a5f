"""Who teaches: a running model, or its logits once they are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch, asked_places, evaluation_batches, padded
from tutelage.data.examples import Encoded
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected, select
from tutelage.knowledge.signals import Signals, Tap
from tutelage.progress import Display


def predicted(
    model: PreTrainedModel, encoded: Encoded, accelerator: Accelerator, display: Display, name: str
) -> Tensor:
    """Logits of all examples, ``(examples, classes)``, with the progress shown under ``name``."""
    return predict(model, encoded, accelerator, lambda count: display.advance(name, len(encoded), count))


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
        inputs, asked = batch.inputs, batch.asked
        if self._encoded is not None:
            part = self._encoded.take(batch.rows.numpy())
            inputs = padded(part, np.arange(len(part)), pad_to=batch.mask.shape[1])
            asked = None if part.targets is None else asked_places(part, inputs["attention_mask"]).to(batch.mask.device)
            inputs = {name: value.to(batch.mask.device) for name, value in inputs.items()}
        # Not inference_mode: autograd refuses to keep its tensors for the student's backward pass.
        with torch.no_grad(), self._accelerator.autocast():
            signals = self._tap(inputs, asked)
            cut_from(signals, self._needs, inputs["attention_mask"], batch.separators, batch.keys)
            return signals

    def close(self) -> None:
        self._tap.close()


class KnownLogits:
    """A teacher whose logits ``(answers, classes)`` are in memory: a few numbers an example replace its forward pass.

    ``asked`` ``(examples,)`` says how many rows of them are of each example.
    """

    def __init__(self, logits: Tensor, asked: npt.NDArray[np.int64]) -> None:
        self._logits = logits
        self._asked = torch.from_numpy(asked)
        self._start = self._asked.cumsum(0) - self._asked

    def signals(self, batch: Batch) -> Signals:
        asked = self._asked[batch.rows]
        before = asked.cumsum(0) - asked
        places = torch.arange(int(asked.sum())) + (self._start[batch.rows] - before).repeat_interleave(asked)
        return Signals(logits=self._logits[places.to(self._logits.device, non_blocking=True)])

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
    """Logits of all that is asked, ``(answers, classes)`` float32 on the CPU: example by example, as ``encoded.asked``
    counts them. ``advance`` hears of every batch's size.

    Raises:
        TutelageError: when a token has no embedding.
    """
    if (largest := int(encoded.tokens.max(initial=0))) >= model.config.vocab_size:
        raise TutelageError(
            f"the texts have the token id {largest}, but a model has {model.config.vocab_size} embeddings; save the model's own "
            "tokenizer beside it"
        )
    was_training = model.training
    model.eval()
    start = np.cumsum(encoded.asked) - encoded.asked
    results: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), accelerator.autocast():
        for rows, inputs, asked in evaluation_batches(encoded):
            inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
            logits = anatomy.answers_of(model, inputs, None if asked is None else asked.to(accelerator.device))
            places = np.concatenate([np.arange(start[row], start[row] + encoded.asked[row]) for row in rows])
            results.append((torch.from_numpy(places), logits))
            advance(len(rows))
    model.train(was_training)
    table = torch.empty(int(encoded.asked.sum()), results[0][1].shape[-1])
    for index, logits in results:
        table[index] = logits.float().cpu()
    return table
