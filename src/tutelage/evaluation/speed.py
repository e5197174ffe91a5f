"""Measure the cost of a model: parameters, floating-point operations, milliseconds."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tutelage.anatomy import Shape

WARM_UP = 2
REPEATS = 15
"""Forward passes of a model and batch size that are not measured, and that are."""
BUSY = 0.9
"""A thread that computes and gets less of a core than this shares it with others."""
CLEAR_GAIN = 1.3
"""How many times as fast bf16 has to multiply matrices on a CPU to be worth its rounding."""


def _lstm_flops(x: torch.Size, *weights: Any, **kwargs: Any) -> int:
    """Operations of a fused LSTM kernel, which FlopCounterMode does not know: all matrices, for each step and row of ``x``."""
    matrices = weights[0] if isinstance(weights[0], list) else weights[:2]  # a list on a GPU, biases included
    return 2 * math.prod(x[:2]) * sum(math.prod(shape) for shape in matrices if len(shape) == 2)


LSTMS = {torch.ops.aten.mkldnn_rnn_layer: _lstm_flops, torch.ops.aten._cudnn_rnn: _lstm_flops}


def cpu_name() -> str:
    """The model of the CPU, as the system calls it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def fast_precision() -> Literal["no", "bf16"]:
    """What ``--mixed-precision auto`` stands for: ``bf16`` where this machine multiplies it faster than float32.

    On a GPU that is known. On a CPU two matrices of a BERT-base feed-forward layer are multiplied, in turns; only a clear gain
    (:data:`CLEAR_GAIN`) counts.

    Raises:
        ValueError: of several processes each would measure for itself.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("auto measures one process and there are several; give bf16 or no")
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    times: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16) * 4:
        x, weights = torch.ones(256, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
        begun = time.perf_counter()
        nn.functional.linear(x, weights)
        times[dtype] = min(times.get(dtype, math.inf), time.perf_counter() - begun)
    return "bf16" if times[torch.float32] > CLEAR_GAIN * times[torch.bfloat16] else "no"


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of ``model``. A shared tensor counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Floating-point operations of the matrix products in one forward pass of the batch ``inputs``.

    A multiply-add counts as 2 operations. Embeddings, norms and activations are not counted. They follow from the architecture and
    the shapes of the inputs: a process counts each architecture once.
    """
    key = _architecture(model), tuple((name, tuple(value.shape)) for name, value in sorted(inputs.items()))
    if key not in _COUNTED:
        _COUNTED[key] = _count(model, inputs)
    return _COUNTED[key]


_COUNTED: dict[Any, int] = {}


def _architecture(model: nn.Module) -> tuple[Any, ...]:
    """What the operations of a model depend on: its classes, the shapes of its weights, and its configuration."""
    given: Any = getattr(model, "config", None)
    config = {} if given is None else given.to_dict()
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in model.named_parameters(remove_duplicate=False))
    modules = tuple((name, type(module)) for name, module in model.named_modules(remove_duplicate=False))
    return modules, shapes, repr({name: value for name, value in config.items() if name != "_name_or_path"})


def _count(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    # FlopCounterMode does not know the fused CPU attention kernel and would count it as zero. It hooks into gradients even where
    # none are computed, and fails at DeBERTa's slices of a parameter unless that needs none.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    counter = FlopCounterMode(display=False, custom_mapping=LSTMS)
    try:
        with evaluating([model]), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            for parameter in trained:
                parameter.requires_grad_(False)
            model(**inputs)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops())


def dense_flops(model: nn.Module, length: float) -> int:
    """Floating-point operations of a text of ``length`` tokens, estimated: two for each weight outside the embedding tables and
    token."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return round(2 * length * sum(p.numel() for p in model.parameters() if id(p) not in tables))


def encoder_flops(shape: Shape, length: float) -> float:
    """Floating-point operations of the layers' matrix products for one text of ``length`` tokens, without embeddings and head.

    ``layers * length * (2 (4 hidden^2 + 2 hidden * intermediate) + 4 length * hidden)``
    """
    dense = 2 * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    return shape.layers * length * (dense + 4 * length * shape.hidden)


@dataclass(frozen=True)
class Timing:
    """The time of a forward pass in milliseconds."""

    median: float
    spread: float
    """Distance of the quartiles."""


def latencies(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Callable[[int], dict[str, Tensor]]],
    batch_sizes: Sequence[int] = (1, 32),
    repeats: int | None = None,
) -> tuple[dict[str, dict[str, Timing]], float]:
    """The time of a forward pass, by model and batch size: ``{model: {"1": ..., "32": ...}}``; and the share of a core that the
    calling thread had, see :func:`busy_note`.

    ``inputs[name](batch_size)`` makes the inputs of model ``name``, on its device. The models take turns, so that a change of
    the machine's load affects all of them.
    """
    result: dict[str, dict[str, Timing]] = {name: {} for name in models}
    rounds, core = repeats or REPEATS, 1.0
    with evaluating(list(models.values())), torch.inference_mode():
        for batch_size in batch_sizes:
            batches = {name: inputs[name](batch_size) for name in models}
            calls = {name: partial(_forward, model, batches[name]) for name, model in models.items()}
            found, share = in_turn(calls, least=rounds, most=rounds)
            core = min(core, share)
            for name, times in found.items():
                low, middle, high = np.percentile(times, [25, 50, 75])
                result[name][str(batch_size)] = Timing(float(middle), float(high - low))
    return result, core


def in_turn(
    calls: Mapping[str, Callable[[], object]], *, least: int, most: int, seconds: float = math.inf
) -> tuple[dict[str, list[float]], float]:
    """The milliseconds of each call, made in turn, after rounds that are not measured; and the share of a core that the calling
    thread had meanwhile, see :func:`busy_note`.

    Args:
        calls: What is measured, by name.
        least: Rounds at least.
        most: Rounds at most.
        seconds: After the least number of rounds, measuring stops when it has taken so long.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP):
        for call in calls.values():
            call()
    began, worked = time.perf_counter(), time.thread_time()
    for done in range(most):
        if done >= least and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1000)
    worked = time.thread_time() - worked
    return times, worked / max(worked, time.perf_counter() - began, 1e-9)


def busy_note(share: float) -> str | None:
    """A warning where the machine did other things while times were taken.

    Args:
        share: How much of a core the thread had that calls the models. It computes all the time, or waits actively for other
            threads and for a GPU, unless it must wait for a core.
    """
    if share >= BUSY:
        return None
    return (
        f"the machine was busy: while times were taken, the thread that computes had {share:.0%} of a core; take them again on an "
        "idle machine before you quote them"
    )


def _forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """One forward pass, waited for; what a GPU did before is over, because each pass is waited for."""
    model(**batch)
    if any(tensor.is_cuda for tensor in batch.values()):
        torch.cuda.synchronize()


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put the models into evaluation mode; restore the mode of every module afterwards."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
