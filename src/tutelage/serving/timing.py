"""The time that models take, in PyTorch and in onnxruntime, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.evaluation import speed
from tutelage.serving.session import OnnxModel

Inputs = Callable[[int], Mapping[str, Tensor]]
"""Makes the inputs of a batch of so many texts."""
LEAST, MOST = 10, 60
"""Rounds that are measured at least, and at most."""
SECONDS = 4.0
"""After the least number of rounds, measuring stops when it has taken so long."""


class Latency(BaseModel):
    """The time of a forward pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    batch: int
    """Texts in a batch."""
    threads: int
    """CPU threads that compute the pass."""
    tokens: int
    """Tokens of each text."""
    p50_ms: float
    """Median in milliseconds."""
    p95_ms: float
    """95th percentile in milliseconds."""
    spread_ms: float
    """Distance of the quartiles in milliseconds."""
    rounds: int
    """Passes that were measured."""


def latency(
    models: Mapping[str, PreTrainedModel | OnnxModel],
    inputs: Inputs | Mapping[str, Inputs],
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: Sequence[int] | None = None,
    seconds: float | None = None,
) -> tuple[dict[str, list[Latency]], float]:
    """The time of a forward pass of each model on the CPU, for each number of threads and batch size.

    The models take turns, so that a change of the machine's load affects all of them alike.

    Args:
        models: PyTorch models in evaluation mode and ONNX models, by name.
        inputs: Makes the inputs of a batch, ``(batch, tokens)`` each; by model where they differ.
        batch_sizes: Texts in a batch.
        threads: Numbers of threads. Default: 1, and as many as PyTorch uses by itself (the cores).
        seconds: After 10 rounds, measuring stops when it has taken so long; 60 rounds at most. Default: 4.

    Returns:
        The measurements by model, and the share of a core that the process got while it computed on one thread (1 where one
        thread was not measured); :func:`tutelage.evaluation.speed.busy_note` says what it means.
    """
    limit = SECONDS if seconds is None else seconds
    counts = sorted({1, _cores()}) if threads is None else threads
    found: dict[str, list[Latency]] = {name: [] for name in models}
    core = 1.0
    for count in counts:
        with _torch_threads(count), torch.inference_mode():
            sides = {
                name: one.with_threads(count) if isinstance(one, OnnxModel) else one for name, one in models.items()
            }
            for batch in batch_sizes:
                given = {name: dict(_inputs_of(inputs, name)(batch)) for name in sides}
                calls = {name: _call(one, given[name]) for name, one in sides.items()}
                times, share = speed.in_turn(calls, least=LEAST, most=MOST, seconds=limit)
                if count == 1:
                    core = min(core, share)
                for name, values in times.items():
                    tokens = int(given[name]["input_ids"].shape[1])
                    low, middle, high, late = np.percentile(values, [25, 50, 75, 95])
                    entry = Latency(
                        batch=batch, threads=count, tokens=tokens, p50_ms=round(float(middle), 3),
                        p95_ms=round(float(late), 3), spread_ms=round(float(high - low), 3), rounds=len(values),
                    )  # fmt: skip
                    found[name].append(entry)
    return found, core


def _inputs_of(inputs: Inputs | Mapping[str, Inputs], name: str) -> Inputs:
    return inputs[name] if isinstance(inputs, Mapping) else inputs


def _call(model: PreTrainedModel | OnnxModel, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
    if isinstance(model, OnnxModel):
        return partial(model.logits, {name: value.numpy() for name, value in inputs.items()})
    return partial(anatomy.output_of, model, dict(inputs))


def _cores() -> int:
    return torch.get_num_threads()


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
