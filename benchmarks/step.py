"""Cost of a training step, side by side in one process.

    pip install -e ".[bench,demo]"
    python benchmarks/step.py --data-dir path/to/glue

Same teacher (MiniLM, 6 x 384), same student (4 x 312, fresh), same texts, same losses (embeddings, hidden states,
attention, soft labels); the sides take turns:

* ``ours``      one stage of TinyBERT's layer losses and soft labels
* ``textbrewer``  ``GeneralDistiller`` of TextBrewer as its SST-2 example shows it: random batches padded to 128; eager
  attention, since its attention loss needs the maps (and reads them after the softmax)
* ``textbrewer, longest``  the same with each batch padded to its longest only
* ``finetune``  plain fine-tuning of the same student in our loop, no teacher

Also: where our step goes, the share of real tokens in our batches, peak memory (each side in a process of its own), and
whether any tensor of a step is as large as a map. Results go to ``results/step.json`` and ``docs/results/speed.md``.
"""

from __future__ import annotations

import argparse
import copy
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from accelerate import Accelerator
from common import Results
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage import anatomy
from tutelage.data import batches
from tutelage.data.examples import Encoded, Examples, encode
from tutelage.data.readers.glue import load_glue
from tutelage.data.tokenizers import load_tokenizer
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Embeddings, Hidden
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Stage
from tutelage.students.fresh import from_sizes
from tutelage.students.load import load_model
from tutelage.students.specs import Fresh
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import table
from tutelage.tasks import KINDS, kind_of
from tutelage.teachers.teacher import LiveTeacher
from tutelage.training import loop

BATCH = 32
TERMS = [Embeddings(), Hidden(), AttentionScores(), SoftLabels()]
PAIRS = [(1, 2), (2, 3), (3, 5), (4, 6)]
"""What ``uniform`` pairs for 4 of 6 layers."""


class Scene:
    """The models and texts that all sides share."""

    def __init__(self, task: str, data_dir: Path, rows: int, length: int | None) -> None:
        data = load_glue(task, data_dir)
        chosen = np.random.default_rng(0).permutation(len(data.train))[:rows]
        self.examples: Examples = data.train.take(chosen)
        self.tokenizer = load_tokenizer(str(pretrained()))
        encoded: Encoded = encode(self.examples, self.tokenizer, 512)
        if length is not None:
            encoded = stretched(encoded, length)
        self.encoded = replace(encoded, labels=self.examples.labels)
        labels = kind_of(data.kind).label_settings(data)
        torch.manual_seed(0)
        self.teacher = load_model(str(pretrained()), **labels)[0]
        sizes = Fresh(layers=4, hidden=312, intermediate=1200, heads=12)
        self.student = from_sizes(sizes, self.teacher.config, labels)


def stretched(encoded: Encoded, length: int) -> Encoded:
    """Every example repeated to ``length`` tokens: the cost of long input with real ids."""
    tokens = [
        np.resize(encoded.tokens[encoded.offsets[i] : encoded.offsets[i + 1]], length) for i in range(len(encoded))
    ]
    types = np.zeros(len(encoded) * length, dtype=np.int8)
    offsets = np.arange(len(encoded) + 1, dtype=np.int64) * length
    return Encoded(np.concatenate(tokens), types, offsets, encoded.cut, encoded.pad_token)


def ours(scene: Scene, *, terms: list[Any] = TERMS, batch_size: int = BATCH) -> float:
    """Seconds of one epoch in our loop."""
    student = copy.deepcopy(scene.student)
    distilling = any(not isinstance(term, HardLabels) for term in terms)
    shape = anatomy.shape_of(scene.teacher.config) if distilling else None
    objective = Objective(terms, KINDS["classification"], anatomy.shape_of(student.config), shape)
    accelerator = Accelerator()
    lesson = loop.DistillationModule(student, objective)
    scene.teacher.to(accelerator.device)
    teacher = LiveTeacher(scene.teacher, objective.plan.teacher_needs, None, accelerator) if distilling else None
    stage = Stage(name="step", objective=terms, epochs=1, batch_size=batch_size, select="last")
    began = time.perf_counter()
    loop.train(stage, lesson, teacher, batches.Known(scene.encoded), accelerator, 0)
    seconds = time.perf_counter() - began
    lesson.close()
    if teacher is not None:
        teacher.close()
    return seconds


def finetune(scene: Scene, batch_size: int = BATCH) -> float:
    return ours(scene, terms=[HardLabels()], batch_size=batch_size)


def textbrewer(scene: Scene, batch_size: int = BATCH, pad_to: int | None = 128) -> float:
    """Seconds of one epoch of TextBrewer's GeneralDistiller."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    logging.getLogger("Distillation").setLevel(logging.ERROR)
    device = Accelerator().device
    teacher, student = copy.deepcopy(scene.teacher).to(device), copy.deepcopy(scene.student).to(device)
    for model in (teacher, student):
        model.set_attn_implementation("eager")
    student.train()
    widths = (scene.student.config.hidden_size, scene.teacher.config.hidden_size)
    hidden = [
        {
            "layer_T": t,
            "layer_S": s,
            "feature": "hidden",
            "loss": "hidden_mse",
            "weight": 1,
            "proj": ["linear", *widths],
        }
        for s, t in [(0, 0), *PAIRS]
    ]
    attention = [
        {"layer_T": t - 1, "layer_S": s - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
        for s, t in PAIRS
    ]

    def adaptor(batch: Any, output: Any) -> dict[str, Any]:
        return {
            "logits": output.logits,
            "hidden": output.hidden_states,
            "attention": output.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        return batches.padded(scene.encoded, np.array(rows), pad_to)

    loader = torch.utils.data.DataLoader(
        list(range(len(scene.encoded))),
        batch_size=batch_size,
        shuffle=True,
        collate_fn=collate,  # type: ignore[arg-type]
    )
    optimizer = common.optimizer_for(student, lr=5e-5)
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(device=str(device), output_dir=folder, log_dir=None, ckpt_frequency=1)
        distillation = DistillationConfig(temperature=1, kd_loss_type="ce", intermediate_matches=hidden + attention)
        distiller = GeneralDistiller(training, distillation, teacher, student, adaptor, adaptor)
        began = time.perf_counter()
        with distiller:
            distiller.train(
                optimizer,
                loader,
                num_epochs=1,
                max_grad_norm=1.0,
                callback=None,
                output_hidden_states=True,
                output_attentions=True,
            )
        return time.perf_counter() - began


SIDES: dict[str, Callable[..., float]] = {
    "ours": ours,
    "textbrewer": textbrewer,
    "textbrewer, longest": lambda scene, batch_size=BATCH: textbrewer(scene, batch_size, None),
    "finetune": finetune,
}


def side_by_side(scene: Scene, repeats: int, batch_size: int, names: list[str]) -> Results:
    sides = {name: partial(SIDES[name], scene, batch_size=batch_size) for name in names}
    seconds = common.in_turns(sides, repeats)
    medians = common.medians(seconds)
    return {
        "examples": len(scene.examples),
        "mean_tokens": float(scene.encoded.lengths.mean()),
        "seconds": medians,
        "spread": {name: common.spread(values, 1.0) for name, values in seconds.items()},
        "examples_per_second": {name: len(scene.examples) / value for name, value in medians.items()},
        "ours_against": {name: value / medians["ours"] for name, value in medians.items() if name != "ours"},
    }


def peak_memory(make: Callable[[], Scene], name: str, batch_size: int) -> float:
    """MB that one epoch of a side adds at its peak, in a process of its own (CPU: resident memory)."""
    queue: Any = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        scene = make()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        SIDES[name](scene, batch_size=batch_size)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        queue.put(torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else after - before)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    value: float = queue.get()
    process.join()
    return value


class LargestMap(TorchDispatchMode):
    """Counts tensors that hold, for every head, a map of the input's length squared."""

    def __init__(self, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.length, self.maps = heads, length, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor) and tensor.shape[-2:] == (self.length, self.length):
                self.maps += tensor.numel() >= self.heads * self.length**2
        return output


def maps_in_a_step(scene: Scene) -> int:
    """Tensors of size heads x n x n in the forward and backward pass of one example."""
    student = copy.deepcopy(scene.student).train()
    shape = anatomy.shape_of(scene.teacher.config)
    objective = Objective(TERMS, KINDS["classification"], anatomy.shape_of(student.config), shape)
    lesson = loop.DistillationModule(student, objective)
    teacher = LiveTeacher(scene.teacher.cpu(), objective.plan.teacher_needs, None, Accelerator(cpu=True))
    batch = next(iter(batches.step_batches(scene.encoded.take(np.arange(1)), np.arange(1), 0, 1, 10**6)))
    with LargestMap(shape.heads, int(scene.encoded.lengths[0])) as seen:
        sum(lesson(batch, teacher.signals(batch)).values()).backward()  # type: ignore[union-attr]
    lesson.close()
    teacher.close()
    return seen.maps


def where_a_step_goes(scene: Scene, steps: int = 30) -> dict[str, float]:
    """Milliseconds of the parts of a step, mean over steps."""
    student = copy.deepcopy(scene.student).train()
    shape = anatomy.shape_of(scene.teacher.config)
    objective = Objective(TERMS, KINDS["classification"], anatomy.shape_of(student.config), shape)
    lesson = loop.DistillationModule(student, objective)
    teacher = LiveTeacher(scene.teacher.cpu(), objective.plan.teacher_needs, None, Accelerator(cpu=True))
    optimizer = common.optimizer_for(lesson, lr=5e-5)
    parts = dict.fromkeys(("teacher", "student", "losses", "backward", "optimizer"), 0.0)
    rows = np.arange(len(scene.examples))
    for step in batches.steps(scene.encoded.lengths, rows, BATCH, 0, 0)[:steps]:
        batch = next(iter(batches.step_batches(scene.encoded.take(step), step, 0, 1, 10**6)))
        clock = [time.perf_counter()]
        taught = teacher.signals(batch)
        clock.append(time.perf_counter())
        signals = lesson._tap(batch.inputs)
        clock.append(time.perf_counter())
        loss = sum(objective(signals, taught, batch).values())
        clock.append(time.perf_counter())
        loss.backward()  # type: ignore[union-attr]
        clock.append(time.perf_counter())
        common.finish_step(optimizer, lesson)
        clock.append(time.perf_counter())
        for name, began, ended in zip(parts, clock, clock[1:], strict=True):
            parts[name] += (ended - began) * 1000 / steps
    lesson.close()
    teacher.close()
    return parts


def real_tokens(data_dir: Path, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Share of real tokens in our batches, in random batches padded to their longest, and padded to 128."""
    shares = {}
    for task in ("sst2", "mrpc", "rte"):
        examples = load_glue(task, data_dir).train
        lengths = encode(examples, tokenizer, 512).lengths
        rows = np.arange(len(lengths))
        ordered = batches.steps(lengths, rows, BATCH, 0, 0)
        shuffled = np.array_split(np.random.default_rng(0).permutation(rows), len(ordered))
        shares[task] = {
            "ours": float(lengths.sum() / sum(lengths[step].max() * len(step) for step in ordered)),
            "random batches": float(lengths.sum() / sum(lengths[step].max() * len(step) for step in shuffled)),
            "padded to 128": float(np.minimum(lengths, 128).sum() / (128 * len(lengths))),
        }
    return shares


def page(result: Results, out: Path) -> str:
    """The results as Markdown."""
    environment, lines = result["environment"], []
    names = ("mrpc, natural lengths", "sst2, natural lengths", "mrpc, 512 tokens")
    for name in names:
        part = result[name]
        lines += [f"## {name} ({part['mean_tokens']:.1f} tokens on average)", ""]
        rows = [
            [side, f"{rate:.1f}", f"{part['ours_against'].get(side, 1.0):.2f}"]
            for side, rate in part["examples_per_second"].items()
        ]
        lines += table(["side", "examples a second", "time, ours = 1"], rows)
    sides = ("ours", "textbrewer", "finetune")
    rows = [[name, *(f"{by[side]:.0f}" for side in sides)] for name, by in result["peak_memory_mb"].items()]
    lines += ["## Peak memory of an epoch, MB above what was there before", "", *table(["", *sides], rows)]
    maps = result["maps of heads x n x n in our step at 512"]
    lines += [f"Tensors of size heads x n x n in our step at 512 tokens: {maps}.", ""]
    rows = [[part, f"{ms:.1f}"] for part, ms in result["milliseconds of a step, sst2"].items()]
    lines += ["## Parts of our step, milliseconds, SST-2", "", *table(["part", "ms"], rows)]
    shares = [
        [task, *(f"{by[key]:.1%}" for key in ("ours", "random batches", "padded to 128"))]
        for task, by in result["real_tokens"].items()
    ]
    heads = ["task", "ours", "random, padded to longest", "padded to 128"]
    lines += ["## Share of real tokens in a batch of 32", "", *table(heads, shares)]
    dense = "`dense` has a dense gradient and update of the embedding table. " if "dense" in str(result) else ""
    faster = [f"{result[name]['ours_against']['textbrewer']:.1f} times ({name})" for name in names]
    return "\n".join(
        [
            *common.opening(
                "What a training step costs", f"TextBrewer needs {', '.join(faster)} the time of an epoch here."
            ),
            *lines,
            *common.made(
                result["command"],
                f"""Results: `{out}`. {common.where(environment["threads"], environment["device"])}, torch {environment["torch"]},
                transformers {environment["transformers"]}, float32; one process, the sides in turn, median of the repeats. Teacher
                MiniLM (6 x 384), student 4 x 312; losses on embeddings, hidden states, attention and predictions. `textbrewer` is
                TextBrewer as in its SST-2 example (random batches padded to 128); `longest` pads each of its batches to the longest
                text only. TextBrewer compares attention after the softmax, we before it. {dense}`finetune` has no teacher.
                Discussion: [findings.md](findings.md).""",
            ),
        ]
    )


PARSER = common.options(__doc__, "step", rows=256, rows_long=16, repeats=3)
PARSER.add_argument("--data-dir", type=Path, help="folder of GLUE")


def measure(arguments: argparse.Namespace) -> Results:
    result: Results = {"command": common.command(PARSER, arguments, "data_dir"), "environment": common.machine()}

    def scene(task: str, length: int | None = None) -> Scene:
        return Scene(task, arguments.data_dir, arguments.rows_long if length else arguments.rows, length)

    # First, while this process has run nothing on several threads: a forked child cannot use its parent's.
    result["peak_memory_mb"] = {
        f"{task}, {length or 'natural lengths'}": {
            side: peak_memory(partial(scene, task, length), side, batch) for side in ("ours", "textbrewer", "finetune")
        }
        for task, length, batch in (("mrpc", None, BATCH), ("mrpc", 512, 8))
    }
    for task in ("mrpc", "sst2"):
        result[f"{task}, natural lengths"] = side_by_side(scene(task), arguments.repeats, BATCH, list(SIDES))
        print(task, result[f"{task}, natural lengths"], flush=True)
    long = scene("mrpc", 512)
    result["mrpc, 512 tokens"] = side_by_side(long, arguments.repeats, 8, ["ours", "textbrewer", "finetune"])
    result["maps of heads x n x n in our step at 512"] = maps_in_a_step(long)
    result["milliseconds of a step, sst2"] = where_a_step_goes(scene("sst2"))
    result["real_tokens"] = real_tokens(arguments.data_dir, long.tokenizer)
    return result


if __name__ == "__main__":
    common.conduct(PARSER, measure, page, "speed")
