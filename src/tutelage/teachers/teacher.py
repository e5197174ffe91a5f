"""Teachers during training: a running model, or its known logits."""

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
from tutelage.data.batches import Batch, evaluation_batches, padded, predicted_places
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
    """A model that runs on every batch, in evaluation mode, without gradients, up to the last needed layer.

    ``encoded`` is given when the teacher has another tokenizer than the student and reads its own tokens.
    """

    def __init__(self, model: PreTrainedModel, needs: Needs, encoded: Encoded | None, accelerator: Accelerator) -> None:
        self._tap = Tap(model.eval().requires_grad_(False), needs.measured)
        self._needs, self._encoded, self._accelerator = needs, encoded, accelerator

    def signals(self, batch: Batch) -> Signals:
        inputs, places = batch.inputs, batch.predicted
        if self._encoded is not None:
            part = self._encoded.take(batch.rows.numpy())
            inputs = padded(part, np.arange(len(part)), pad_to=batch.mask.shape[1])
            places = (
                None if part.targets is None else predicted_places(part, inputs["attention_mask"]).to(batch.mask.device)
            )
            inputs = {name: value.to(batch.mask.device) for name, value in inputs.items()}
        # Not inference_mode: autograd refuses to keep its tensors for the student's backward pass.
        with torch.no_grad(), self._accelerator.autocast():
            signals = self._tap(inputs, places)
            cut_from(signals, self._needs, inputs["attention_mask"], batch.separators, batch.keys)
            return signals

    def close(self) -> None:
        self._tap.close()


class KnownLogits:
    """A teacher whose logits ``(answers, classes)`` are in memory. They replace the forward pass.

    ``logit_rows`` ``(examples,)``: rows of logits for each example. ``weights`` ``(answers,)`` are the weights of the rows in the
    losses.
    """

    def __init__(self, logits: Tensor, logit_rows: npt.NDArray[np.int64], weights: Tensor | None = None) -> None:
        self._logits, self._weights = logits, weights
        self._rows = torch.from_numpy(logit_rows)
        self._start = self._rows.cumsum(0) - self._rows

    def signals(self, batch: Batch) -> Signals:
        rows = self._rows[batch.rows]
        before = rows.cumsum(0) - rows
        places = torch.arange(int(rows.sum())) + (self._start[batch.rows] - before).repeat_interleave(rows)
        places = places.to(self._logits.device, non_blocking=True)
        return Signals(logits=self._logits[places], weights=None if self._weights is None else self._weights[places])

    def close(self) -> None:
        pass


def cut_from(signals: Signals, needs: Needs, mask: Tensor, separators: Tensor, keys: Tensor) -> None:
    """Add the needed cuts to the signals of a running model."""
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
    """All logits, ``(answers, classes)`` float32 on the CPU: example by example, as ``encoded.logit_rows`` counts them.
    ``advance`` is called with the size of every batch.

    Raises:
        TutelageError: if a token has no embedding.
    """
    if (largest := int(encoded.tokens.max(initial=0))) >= model.config.vocab_size:
        raise TutelageError(
            f"the texts have the token id {largest}, but a model has {model.config.vocab_size} embeddings; save the model's own "
            "tokenizer beside it"
        )
    was_training = model.training
    model.eval()
    start = np.cumsum(encoded.logit_rows) - encoded.logit_rows
    results: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), accelerator.autocast():
        for rows, inputs, tokens in evaluation_batches(encoded):
            inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
            logits = anatomy.answers_of(model, inputs, None if tokens is None else tokens.to(accelerator.device))
            places = np.concatenate([np.arange(start[row], start[row] + encoded.logit_rows[row]) for row in rows])
            results.append((torch.from_numpy(places), logits))
            advance(len(rows))
    model.train(was_training)
    table = torch.empty(int(encoded.logit_rows.sum()), results[0][1].shape[-1])
    for index, logits in results:
        table[index] = logits.float().cpu()
    return table
