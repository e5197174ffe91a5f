"""Cost of a training step, side by side in one process.

    pip install -e ".[bench,demo]"
    python benchmarks/step.py --data-dir path/to/glue

Same teacher (MiniLM, 6 x 384), same student (4 x 312, fresh), same texts, same losses (embeddings, hidden states, attention,
soft labels); the sides take turns: ``ours``, one stage of TinyBERT's layer losses and soft labels, in float32 as the others are;
``ours, auto``, the same with ``--mixed-precision auto``; TextBrewer's ``GeneralDistiller`` as its SST-2 example shows it (eager
attention, since its attention loss needs the maps), and with each batch padded to its longest only; and plain fine-tuning of the
same student in our loop. Ours also measures the gradient of each term in the first step of a stage, with a backward pass for
each: that is left out, since a stage has hundreds of steps and an epoch of this benchmark has two to eight.

Also: where our step goes, the share of real tokens in our batches, peak memory (each side in a process of its own), and
whether any tensor of a step is as large as a map. Results go to ``results/step.json`` and ``docs/results/speed.md``.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import common
import numpy as np
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage import AttentionScores, Embeddings, Fresh, HardLabels, Hidden, SoftLabels, Stage, anatomy
from tutelage.data import batches
from tutelage.data.examples import encode
from tutelage.data.readers.glue import load_glue
from tutelage.data.tokenizers import load_tokenizer
from tutelage.evaluation.speed import fast_precision
from tutelage.run.workspace import new_accelerator
from tutelage.students.fresh import from_sizes
from tutelage.students.load import load_model
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import table, tabled
from tutelage.studies.script import Arguments, Results, Script, settings
from tutelage.tasks import kind_of
from tutelage.training import loop, step

BATCH = 32
TERMS = [Embeddings(), Hidden(), AttentionScores(), SoftLabels()]
MEASURED = ("ours", "textbrewer", "finetune")
"""Sides at 512 tokens, and those whose memory is measured."""
PAIRS = [(1, 2), (2, 3), (3, 5), (4, 6)]
"""What ``uniform`` pairs for 4 of 6 layers."""


class Scene:
    """The models and texts that all sides share."""

    def __init__(self, task: str, data_dir: Path, rows: int, length: int | None) -> None:
        self.examples, self.encoded = common.texts(rows, length, task, data_dir)
        torch.manual_seed(0)
        data = load_glue(task, data_dir)
        labels = kind_of(data.kind).label_settings(data)
        self.teacher = load_model(str(pretrained()), **labels)[0]
        sizes = Fresh(layers=4, hidden=312, intermediate=1200, heads=12)
        self.student = from_sizes(sizes, self.teacher.config, labels)

    def distilling(self, accelerator: Accelerator, terms: list[Any] = TERMS) -> Any:
        """A new student and the teacher, for :func:`common.distilling`."""
        student, shape = copy.deepcopy(self.student).train(), anatomy.shape_of(self.teacher.config)
        return common.distilling(terms, student, shape, common.live(self.teacher, accelerator))


def ours(scene: Scene, *, terms: list[Any] = TERMS, batch_size: int = BATCH, precision: str = "no") -> None:
    """One epoch in our loop, without the gradients of its first step."""
    accelerator = new_accelerator(precision)
    stage = Stage(name="step", objective=terms, epochs=1, batch_size=batch_size, select="last")
    once = mock.patch.object(step, "first_step", return_value={})
    with once, scene.distilling(accelerator, terms) as (module, teacher):
        loop.train(stage, module, teacher, batches.Known(scene.encoded), accelerator, 0)


def textbrewer(scene: Scene, batch_size: int = BATCH, pad_to: int | None = 128) -> None:
    """One epoch of TextBrewer's GeneralDistiller."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    logging.getLogger("Distillation").setLevel(logging.ERROR)
    device = Accelerator().device
    teacher, student = copy.deepcopy(scene.teacher).to(device), copy.deepcopy(scene.student).to(device)
    for model in (teacher, student):
        model.set_attn_implementation("eager")
    student.train()
    linear = ["linear", scene.student.config.hidden_size, scene.teacher.config.hidden_size]
    hidden = {"feature": "hidden", "loss": "hidden_mse", "weight": 1, "proj": linear}
    attention = {"feature": "attention", "loss": "attention_mse", "weight": 1}
    matches = [{"layer_T": t, "layer_S": s, **hidden} for s, t in [(0, 0), *PAIRS]]
    matches += [{"layer_T": t - 1, "layer_S": s - 1, **attention} for s, t in PAIRS]

    def adaptor(batch: Any, output: Any) -> dict[str, Any]:
        read = {"logits": output.logits, "hidden": output.hidden_states, "attention": output.attentions}
        return {**read, "inputs_mask": batch["attention_mask"]}

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        return batches.padded(scene.encoded, np.array(rows), pad_to)

    loader = torch.utils.data.DataLoader(range(len(scene.encoded)), batch_size, shuffle=True, collate_fn=collate)
    optimizer = common.optimizer_for(student, lr=5e-5)
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(device=str(device), output_dir=folder, log_dir=None, ckpt_frequency=1)
        distillation = DistillationConfig(temperature=1, kd_loss_type="ce", intermediate_matches=matches)
        distiller = GeneralDistiller(training, distillation, teacher, student, adaptor, adaptor)
        wanted = {"output_hidden_states": True, "output_attentions": True}
        with distiller:
            distiller.train(optimizer, loader, num_epochs=1, max_grad_norm=1.0, callback=None, **wanted)


SIDES: dict[str, Callable[..., None]] = {
    "ours": ours,
    "ours, auto": partial(ours, precision="auto"),
    "textbrewer": textbrewer,
    "textbrewer, longest": partial(textbrewer, pad_to=None),
    "finetune": partial(ours, terms=[HardLabels()]),
}


def side_by_side(scene: Scene, repeats: int, batch_size: int, names: Sequence[str]) -> Results:
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


def epoch(side: str, batch_size: int, *scene: Any) -> Callable[[], None]:
    return partial(SIDES[side], Scene(*scene), batch_size=batch_size)


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
    heads, length = anatomy.shape_of(scene.teacher.config).heads, int(scene.encoded.lengths[0])
    batch = next(iter(batches.step_batches(scene.encoded.take(np.arange(1)), np.arange(1), 0, 1, 10**6)))
    with scene.distilling(Accelerator(cpu=True)) as (module, teacher), LargestMap(heads, length) as seen:
        sum(module(batch, teacher.signals(batch)).values()).backward()  # type: ignore[union-attr]
    return seen.maps


def where_a_step_goes(scene: Scene, steps: int = 30) -> dict[str, float]:
    """Milliseconds of the parts of a step, mean over steps."""
    parts = dict.fromkeys(("teacher", "student", "losses", "backward", "optimizer"), 0.0)
    order = batches.steps(scene.encoded.lengths, np.arange(len(scene.examples)), BATCH, 0, 0)[:steps]

    def timed(part: str, what: Callable[[], Any]) -> Any:
        seconds, result = common.timed(what)
        parts[part] += seconds * 1000 / steps
        return result

    with scene.distilling(Accelerator(cpu=True)) as (module, teacher):
        optimizer = common.optimizer_for(module, lr=5e-5)
        for step in order:
            batch = next(iter(batches.step_batches(scene.encoded.take(step), step, 0, 1, 10**6)))
            taught = timed("teacher", partial(teacher.signals, batch))
            signals = timed("student", partial(module._tap, batch.inputs))
            loss = timed("losses", lambda s=signals, t=taught, b=batch: sum(module.objective(s, t, b).values()))
            timed("backward", loss.backward)
            timed("optimizer", partial(common.finish_step, optimizer, module))
    return parts


def real_tokens(data_dir: Path, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Share of real tokens in our batches, in random batches padded to their longest, and padded to 128."""
    shares = {}
    for task in ("sst2", "mrpc", "rte"):
        lengths = encode(load_glue(task, data_dir).train, tokenizer, 512).lengths
        rows = np.arange(len(lengths))
        ordered = batches.steps(lengths, rows, BATCH, 0, 0)
        shuffled = np.array_split(np.random.default_rng(0).permutation(rows), len(ordered))
        padded = {"ours": ordered, "random batches": shuffled}
        shares[task] = {
            name: float(lengths.sum() / sum(lengths[step].max() * len(step) for step in steps))
            for name, steps in padded.items()
        }
        shares[task]["padded to 128"] = float(np.minimum(lengths, 128).sum() / (128 * len(lengths)))
    return shares


SCRIPT = Script(__file__, __doc__, "step", rows=256, rows_long=16, repeats=3)
SCRIPT.add_argument("--data-dir", type=Path, help="folder of GLUE")


def measure(arguments: Arguments) -> Iterator[Results]:
    result: Results = {"command": SCRIPT.command(settings(arguments), "--data-dir path/to/glue")}
    result |= {"environment": common.machine(), "auto": common.PRECISIONS[fast_precision()], "peak_memory_mb": {}}
    folder, rows, long = arguments.data_dir, arguments.rows, arguments.rows_long
    for scene, batch in ((("mrpc", folder, rows, None), BATCH), (("mrpc", folder, long, 512), 8)):
        found = {side: common.peak_memory(epoch, side, batch, *scene) for side in MEASURED}
        result["peak_memory_mb"][f"mrpc, {scene[-1] or 'natural lengths'}"] = found
    for task in ("mrpc", "sst2"):
        short = Scene(task, folder, rows, None)
        result[f"{task}, natural lengths"] = side_by_side(short, arguments.repeats, BATCH, list(SIDES))
        print(task, result[f"{task}, natural lengths"], flush=True)
    stretched = Scene("mrpc", folder, long, 512)
    result["mrpc, 512 tokens"] = side_by_side(stretched, arguments.repeats, 8, MEASURED)
    result["maps of heads x n x n in our step at 512"] = maps_in_a_step(stretched)
    result["milliseconds of a step, sst2"] = where_a_step_goes(short)
    result["real_tokens"] = real_tokens(folder, load_tokenizer(str(pretrained())))
    yield result


def page(results: Results) -> Results:
    names, lines = ("mrpc, natural lengths", "sst2, natural lengths", "mrpc, 512 tokens"), []
    for name in names:
        part = results[name]
        columns = {
            "side": str,
            "examples a second": lambda side, part=part: f"{part['examples_per_second'][side]:.1f}",
            "time, ours = 1": lambda side, part=part: f"{part['ours_against'].get(side, 1.0):.2f}",
        }
        lines += [f"## {name} ({part['mean_tokens']:.1f} tokens on average)", ""]
        lines += tabled(columns, part["examples_per_second"])
    memory = [[name, *(f"{by[side]:.0f}" for side in MEASURED)] for name, by in results["peak_memory_mb"].items()]
    parts = [[part, f"{ms:.1f}"] for part, ms in results["milliseconds of a step, sst2"].items()]
    shares = [[task, *(f"{share:.1%}" for share in by.values())] for task, by in results["real_tokens"].items()]
    return {
        **results,
        "faster": ", ".join(f"{results[name]['ours_against']['textbrewer']:.1f} times ({name})" for name in names),
        "sides": lines,
        "memory": table(["", *MEASURED], memory),
        "maps": results["maps of heads x n x n in our step at 512"],
        "parts": table(["part", "ms"], parts),
        "shares": table(["task", "ours", "random, padded to longest", "padded to 128"], shares),
        "dense": "`dense` has a dense gradient and update of the embedding table. " if "dense" in str(results) else "",
        "machine": common.where(**results["environment"]),
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="speed")
