"""What the benchmarks share: sides timed in turn, the machine, texts, one optimiser step, distillation without a run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import anatomy
from tutelage.data.examples import Encoded, Examples, encode
from tutelage.data.readers.glue import load_glue
from tutelage.data.tokenizers import load_tokenizer
from tutelage.knowledge.needs import Needs
from tutelage.mechanisms.hook import parameter_groups
from tutelage.objectives.objective import Objective
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Stage
from tutelage.studies.demo import pretrained
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import LiveTeacher, Teacher
from tutelage.training import loop
from tutelage.training.loop import DistillationModule

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = {"no": "float32", "bf16": "mixed bfloat16", "fp16": "mixed float16"}
MRPC_DECILES = (19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103)
"""Tokens of MRPC's training pairs, shortest to longest; random texts have lengths drawn from these."""

# -------------------------------------------------------------------------------------------------------------- timing


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(what: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Seconds that a call takes, the GPU's work included, and what it returns."""
    synchronize()
    began = clock()
    result = what()
    synchronize()
    return clock() - began, result


def seconds_of(what: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    return timed(what)[0]


def in_turns(
    sides: Mapping[str, Callable[[], Any]], repeats: int, taken: Callable[[Callable[[], Any]], float] = seconds_of
) -> dict[str, list[float]]:
    """What is ``taken`` of every side, by default its seconds, ``repeats`` times after one round to warm up.

    The sides take turns, so that a machine whose load changes is as slow for all; every other round is in reverse order, so
    that no side always follows the same one.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        turns = list(sides.items())
        for name, side in turns if number % 2 else turns[::-1]:
            value = taken(side)
            if number:
                found[name].append(value)
    return found


def cpu_seconds_of(what: Callable[[], Any]) -> float:
    """CPU seconds of a call. With one thread they leave out what other programs take."""
    return timed(what, time.process_time)[0]


def own(side: Callable[[], float]) -> float:
    """What a side itself has measured."""
    return side()


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median seconds of every side."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def spread(values: list[float], factor: float = 1000.0) -> list[float]:
    """The least and the most, in milliseconds."""
    return [min(values) * factor, max(values) * factor]


def alone(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a process of its own, in which torch and the program are imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tutelage.run.run", "transformers.models.bert.modeling_bert"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *given).result()


def peak_memory(prepare: Callable[..., Callable[[], Any]], *given: Any) -> float:
    """MB that a call takes at its peak, in a process of its own: on a GPU there, else of resident memory.

    ``prepare`` makes the call in that process; what it takes itself is not counted.
    """
    return float(alone(_peak_memory, prepare, given))


def _peak_memory(prepare: Callable[..., Callable[[], Any]], given: Sequence[Any]) -> float:
    transformers.utils.logging.disable_progress_bar()
    call = prepare(*given)
    if not torch.cuda.is_available():
        return resident_peak(call)
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 2**20


def resident(what: str = "VmRSS") -> float:
    """MB of this process: resident now, or at the most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def resident_peak(call: Callable[[], Any]) -> float:
    """MB that a call takes at its peak above what is resident before it. Memory that is free but kept is given back first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    begun = resident()
    result = call()
    peak = resident("VmHWM") - begun
    del result
    return peak


def anonymous_peak(call: Callable[[], Any]) -> float:
    """As :func:`resident_peak`, of memory that no file backs. It is looked at every 5 ms: the system keeps no peak of it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    begun = peak = resident("RssAnon")
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max(peak, resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        ended.set()
        watcher.join()
    return peak - begun


# --------------------------------------------------------------------------------------------------------- the machine


def matmul_peak(device: torch.device | str, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the best of several."""
    size = 8192 if torch.device(device).type == "cuda" else 3072
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2.0 * size**3 / min([seconds_of(lambda: a @ b) for _ in range(6)][1:])


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """The device, its CPU threads, and the versions that matter."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "threads": torch.get_num_threads(), **versions}


def where(threads: int, device: str = "cpu", **versions: str) -> str:
    """A :func:`machine` in words."""
    return f"{threads} CPU thread{'s' * (threads > 1)}" if device == "cpu" else device


# ----------------------------------------------------------------------------------------------------- models and texts


def bert(layers: int, hidden: int, *, heads: int = 12, **more: Any) -> PreTrainedModel:
    """A BERT for classes with random weights: speed does not depend on them."""
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden, **more}
    return BertForSequenceClassification(BertConfig(num_attention_heads=heads, **sizes))


def texts(
    count: int, length: int | None = None, task: str = "mrpc", data_dir: Path | None = None
) -> tuple[Examples, Encoded]:
    """Training texts of a task, or random words of MRPC's lengths; each repeated or cut to ``length`` tokens, if that is given."""
    generator = np.random.default_rng(0)
    if data_dir is not None:
        train = load_glue(task, data_dir).train
        examples = train.take(generator.permutation(len(train))[:count])
        encoded = encode(examples, load_tokenizer(str(pretrained())), 512)
    else:
        labels = generator.integers(0, 2, count)
        examples = Examples([f"train/{i}" for i in range(count)], [""] * count, None, labels)
        lengths = np.interp(generator.random(count), np.linspace(0, 1, len(MRPC_DECILES)), MRPC_DECILES).astype(
            np.int64
        )
        ends = np.cumsum(lengths)
        tokens = generator.integers(1000, 30522, ends[-1]).astype(np.int32)
        tokens[ends - lengths], tokens[ends - lengths // 2], tokens[ends - 1] = 101, 102, 102
        offsets = np.concatenate([[0], ends])
        types = np.zeros(len(tokens), dtype=np.int8)
        encoded = Encoded(tokens, types, offsets, np.zeros(count, dtype=np.bool_), pad_token=0, separator=102)
    if length is not None:
        parts = [np.resize(part, length) for part in np.split(encoded.tokens, encoded.offsets[1:-1])]
        types, offsets = np.zeros(count * length, dtype=np.int8), np.arange(count + 1, dtype=np.int64) * length
        encoded = replace(encoded, tokens=np.concatenate(parts), types=types, offsets=offsets)
    return examples, replace(encoded, labels=examples.labels)


def about_store(task: str, precision: str) -> dict[str, Any]:
    """What the manifest of a store of invented knowledge says."""
    fingerprints = dict.fromkeys(("teacher_fingerprint", "tokenizer_fingerprint"), "0" * 16)
    return {"task": task, "teacher": "random", "precision": precision, "max_length": 512, **fingerprints}


# ------------------------------------------------------------------------------------------------------------- training


def optimizer_for(model: torch.nn.Module, lr: float = 1e-5, groups: Any = None) -> torch.optim.AdamW:
    """The optimiser of training."""
    return torch.optim.AdamW(parameter_groups(model, 0.01) if groups is None else groups, lr=lr, fused=True)


def finish_step(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """Clip the gradients, update, and forget the gradients."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def timed_steps(
    stage: Stage, module: DistillationModule, teacher: Teacher | None, feed: Any, accelerator: Accelerator
) -> tuple[float, int, int]:
    """Train through the toolkit's loop; seconds, steps and tokens from the second step on: the first one warms up."""
    marks: list[tuple[float, int]] = []

    class Clocked:
        """The feed, noting when a step is read."""

        lengths, rows = feed.lengths, feed.rows

        def read(self, epoch: int, rows: Any) -> Any:
            synchronize()
            marks.append((time.perf_counter(), int(feed.lengths(epoch)[rows].sum())))
            return feed.read(epoch, rows)

    loop.train(stage, module, teacher, Clocked(), accelerator, 0)
    synchronize()
    return time.perf_counter() - marks[1][0], len(marks) - 1, sum(tokens for _, tokens in marks[1:])


def live(model: PreTrainedModel, accelerator: Accelerator) -> Callable[[Needs], Teacher]:
    """A teacher that runs in every step, for what is needed of it."""
    return lambda needs: LiveTeacher(model.to(accelerator.device), needs, None, accelerator)


@contextlib.contextmanager
def distilling(
    terms: Sequence[AnyTerm],
    student: PreTrainedModel,
    shape: anatomy.Shape | None,
    source: Callable[[Needs], Teacher] | None,
    kind: Any = KINDS["classification"],
) -> Iterator[tuple[DistillationModule, Teacher | None]]:
    """A student with its objective, and the teacher of this shape that ``source`` makes, if the terms need one."""
    objective = Objective([*terms], kind, anatomy.shape_of(student.config), shape)
    module, needs = DistillationModule(student, objective), objective.plan.teacher_needs
    teacher = None if source is None or needs == Needs() else source(needs)
    try:
        yield module, teacher
    finally:
        module.close()
        if teacher is not None:
            teacher.close()
