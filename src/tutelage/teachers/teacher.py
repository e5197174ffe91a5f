"""Teachers during training: a running model, or its known logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy, memory
from tutelage.data.batches import (
    EVALUATION_TOKENS,
    Batch,
    evaluation_batch,
    in_pieces,
    padded,
    predicted_places,
)
from tutelage.data.examples import Encoded, Rows
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected, select
from tutelage.knowledge.signals import Signals, Tap
from tutelage.progress import Display


def predicted(
    model: PreTrainedModel,
    encoded: Encoded,
    accelerator: Accelerator,
    display: Display,
    name: str,
    *,
    divided: bool = False,
) -> Tensor:
    """Logits of all examples, ``(examples, classes)``, with the progress shown under ``name``; ``divided`` as :func:`predict`."""
    total = len(_own(encoded, accelerator, divided))
    found = predict(
        model, encoded, accelerator, lambda count: display.advance(name, total, count), display.say, divided=divided
    )
    memory.trim()
    return found


def check_finite(answers: Tensor, name: str, role: str = "teacher") -> None:
    """Check the outputs of the model ``name``; ``role`` is what the message calls it.

    Raises:
        TutelageError: if one is infinite or not a number.
    """
    if not bool(answers.isfinite().all()):
        raise TutelageError(
            f"the {role} {name!r} answers with NaN or infinity; its weights are damaged, or too large for this precision: take "
            "another checkpoint, or compute without mixed precision"
        )


class Teacher(Protocol):
    """A source of signals for a batch of examples."""

    def signals(self, batch: Batch) -> Signals: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Seen:
    """A batch as its teacher reads it: as in :class:`Batch`, from the teacher's own tokens where these differ."""

    inputs: dict[str, Tensor]
    separators: Tensor
    keys: Tensor
    predicted: Tensor | None

    @property
    def mask(self) -> Tensor:
        return self.inputs["attention_mask"]

    @classmethod
    def of(cls, batch: Batch, encoded: Encoded | None) -> Seen:
        """``encoded`` has the teacher's tokens, if they differ from the student's."""
        if encoded is None:
            return cls(batch.inputs, batch.separators, batch.keys, batch.predicted)
        part, device = encoded.take(batch.rows.numpy()), batch.mask.device
        # The same tokens stand in the same places (a stage may pad further); others are padded as if the teacher were alone.
        same = bool((torch.from_numpy(part.lengths).to(device) == batch.mask.sum(dim=1)).all())
        inputs = padded(part, np.arange(len(part)), pad_to=batch.mask.shape[1] if same else None)
        places = None if part.targets is None else predicted_places(part, inputs["attention_mask"]).to(device)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        keys = torch.from_numpy(part.keys.view(np.int64))
        return cls(inputs, inputs["input_ids"] == part.separator, keys, places)


class LiveTeacher:
    """A model that runs on every batch, in evaluation mode, without gradients, up to the last needed layer.

    ``encoded`` is given when the teacher has another tokenizer than the student and reads its own tokens.
    """

    def __init__(self, model: PreTrainedModel, needs: Needs, encoded: Encoded | None, accelerator: Accelerator) -> None:
        self.model = model
        self._tap = Tap(model.eval().requires_grad_(False), needs.measured)
        self._needs, self._encoded, self._accelerator = needs, encoded, accelerator

    def signals(self, batch: Batch) -> Signals:
        seen = Seen.of(batch, self._encoded)
        # Not inference_mode: autograd refuses to keep its tensors for the student's backward pass.
        with torch.no_grad(), self._accelerator.autocast():
            signals = self._tap(seen.inputs, seen.predicted)
            cut_from(signals, self._needs, seen.mask, seen.separators, seen.keys)
            return aligned(signals, batch.partners, seen.mask.shape[1])

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


def aligned(signals: Signals, partners: Tensor | None, length: int) -> Signals:
    """A teacher's signals at the student's tokens, whose ``partners`` are as in :class:`Batch`; ``length`` is the teacher's.

    What stands at tokens without a partner has no meaning: they are not compared.
    """
    if partners is None:
        return signals
    place, own = partners.clamp(min=0), torch.arange(partners.shape[1], device=partners.device)
    # The student's position of each of the teacher's tokens; what has no partner is written into one place more.
    back = torch.full((len(partners), length + 1), -1, device=partners.device)
    back.scatter_(1, partners.where(partners >= 0, length), own.expand_as(partners))
    back[:, length] = -1

    def along(x: Tensor, dim: int) -> Tensor:
        shape = [1] * x.ndim
        shape[0], shape[dim] = place.shape
        return x.take_along_dim(place.view(shape), dim)

    def selected(part: Selected) -> Selected:
        if part.positions is None:
            moved = part.each(lambda t: t if t.ndim == 1 else along(t, 1))
            return replace(moved, mask=partners >= 0)
        positions = back[:, :length].gather(1, part.positions)
        return replace(part, mask=part.mask.bool() & (positions >= 0), positions=positions.clamp(min=0))

    return replace(
        signals,
        hidden={layer: along(x, 1) for layer, x in signals.hidden.items()},
        queries={layer: along(x, 2) for layer, x in signals.queries.items()},
        keys={layer: along(x, 2) for layer, x in signals.keys.items()},
        values={layer: along(x, 2) for layer, x in signals.values.items()},
        biases={layer: along(along(x, 2), 3) for layer, x in signals.biases.items()},
        cuts={cut: selected(part) for cut, part in signals.cuts.items()},
    )


def cut_from(signals: Signals, needs: Needs, mask: Tensor, separators: Tensor, keys: Tensor) -> None:
    """Add the needed cuts to the signals of a running model."""
    for cut in needs.cuts:
        scores = None if cut.scored_by is None else signals.ranking(cut.scored_by, mask, cut.tokens.score)
        whole = Selected(signals.hidden[cut.layer].float(), mask)
        signals.cuts[cut] = select(cut, whole, mask, separators, scores, keys)


def _own(encoded: Encoded, accelerator: Accelerator, divided: bool) -> Rows:
    """The examples that this process answers: a part with as many of each length, or all where there are too few to divide."""
    rows, world = np.arange(len(encoded)), accelerator.num_processes
    if divided and 1 < world <= len(encoded):
        return np.argsort(encoded.lengths, kind="stable")[accelerator.process_index :: world]
    return rows


def predict(
    model: PreTrainedModel,
    encoded: Encoded,
    accelerator: Accelerator,
    advance: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda line: None,
    *,
    divided: bool = False,
) -> Tensor:
    """All logits, ``(answers, classes)`` float32 on the CPU: example by example, as ``encoded.logit_rows`` counts them.
    ``advance`` is called with the size of every batch. Batches that do not fit into memory are halved, and ``say`` is told.
    With ``divided`` every process calls this with the same texts, answers for a part of them (all, if they are fewer than the
    processes), and gets the answers of all.

    Raises:
        TutelageError: if a token has no embedding.
    """
    largest, known = (
        max(int(encoded.tokens.max(initial=0)), encoded.pad_token),
        anatomy.shape_of(model.config).vocabulary,
    )
    if 0 < known <= largest:  # a model of characters has no vocabulary
        raise TutelageError(
            f"the texts have the token id {largest}, but a model has {known} embeddings; save the model's own "
            "tokenizer beside it"
        )
    was_training = model.training
    model.eval()
    start = np.cumsum(encoded.logit_rows) - encoded.logit_rows
    rows = _own(encoded, accelerator, divided)
    table: Tensor | None = None

    def answer(rows: Rows) -> None:
        nonlocal table
        inputs, tokens = evaluation_batch(encoded, rows)
        inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
        logits = anatomy.answers_of(model, inputs, None if tokens is None else tokens.to(accelerator.device))
        places = np.concatenate([np.arange(start[row], start[row] + encoded.logit_rows[row]) for row in rows])
        if table is None:  # on the model's device: a copy would wait for each batch
            table = torch.zeros(int(encoded.logit_rows.sum()), logits.shape[-1], device=logits.device)
        table[torch.from_numpy(places).to(logits.device)] = logits.float()
        advance(len(rows))

    with torch.no_grad(), accelerator.autocast():
        in_pieces(answer, rows, encoded.lengths, EVALUATION_TOKENS, say)
    model.train(was_training)
    assert table is not None
    if len(rows) < len(encoded):
        torch.distributed.all_reduce(table)  # zeros where another process has answered
    return table.cpu()
