"""Latency as served: a teacher of BERT-base's shape and its students in PyTorch, ONNX and int8.

    python benchmarks/served.py

BERT-shaped classifiers with random weights read one text on one thread, all models and forms in turn. Writes
``results/served.json`` and ``docs/results/served_speed.md``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor

from tutelage.data.tokenizers import load_tokenizer
from tutelage.evaluation.speed import BUSY, count_parameters, cpu_name, flops
from tutelage.serving import latency, quantize, to_onnx
from tutelage.students.pruned import prune
from tutelage.students.specs import Pruned
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, Script, settings

TEACHER = "12 x 768"
SHAPES: dict[str, dict[str, int]] = {
    TEACHER: {"layers": 12, "hidden": 768},
    "6 x 768": {"layers": 6, "hidden": 768},
    "6 x 384": {"layers": 6, "hidden": 384},
    "3 x 384": {"layers": 3, "hidden": 384},
    "4 x 312": {"layers": 4, "hidden": 312, "intermediate_size": 1200},
    "2 x 128": {"layers": 2, "hidden": 128, "heads": 2},
}
CUTS = (0.5, 0.25, 0.1)
"""Operations that are left of the teacher's, cut through all layers."""
FORMS = {"pytorch": "PyTorch", "onnx": "ONNX", "int8": "int8"}
SCRIPT = Script(__file__, __doc__, "served", length=128, seconds=20)


def models() -> dict[str, Any]:
    """The teacher, smaller shapes, and cuts of the teacher."""
    found: dict[str, Any] = {name: common.bert(**sizes).eval() for name, sizes in SHAPES.items()}
    teacher = found[TEACHER]
    scores = [(torch.rand(12), torch.rand(3072)) for _ in range(12)]
    for share in CUTS:
        found[f"{TEACHER}, {share:g} of the operations"] = prune(teacher, Pruned(target_flops=share), scores, {})
    return found


def measure(arguments: Arguments) -> Iterator[Results]:
    tokenizer = load_tokenizer(str(pretrained()))
    sides: dict[str, Any] = {}
    rows: list[Results] = []
    ids = torch.randint(1000, 30000, (1, arguments.length))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, model) in enumerate(models().items()):
            graph = Path(scratch) / f"{number}.onnx"
            forms = {"pytorch": model, "onnx": to_onnx(model, tokenizer, graph)}
            forms["int8"] = quantize(graph, graph.with_suffix(".int8.onnx"))
            sizes = {form: one.bytes for form, one in forms.items() if form != "pytorch"}
            counted = {"parameters": count_parameters(model), "gflop": flops(model, given) / 1e9}
            rows.append({"model": name, **counted, "bytes": sizes})
            sides |= {f"{name}|{form}": one for form, one in forms.items()}

        def inputs(batch: int) -> dict[str, Tensor]:
            return {name: value.repeat(batch, 1) for name, value in given.items()}

        times, core = latency(sides, inputs, batch_sizes=(1,), threads=(1,), seconds=arguments.seconds)
    for row in rows:
        entries = {form: times[f"{row['model']}|{form}"][0] for form in FORMS}
        row["ms"] = {form: entry.p50_ms for form, entry in entries.items()}
        row["spread"] = {form: entry.spread_ms for form, entry in entries.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    peak = common.matmul_peak("cpu", torch.float32)
    torch.set_num_threads(threads)
    rounds = next(iter(times.values()))[0].rounds
    yield {
        "settings": settings(arguments), "rows": rows, "core": core, "peak": peak, "cpu": cpu_name(), "rounds": rounds,
    }  # fmt: skip


def page(results: Results) -> Results:
    known = {row["model"]: row for row in results["rows"]}
    slow, rival = known[TEACHER]["ms"]["pytorch"], known[TEACHER]["ms"]["int8"]
    rows = []
    for name, row in known.items():
        floor = row["gflop"] * 1e12 / results["peak"]
        cells = [f"{row['ms'][form]:.2f} ± {row['spread'][form] / 2:.2f}" for form in FORMS]
        speeds = [f"{slow / row['ms'][form]:.1f}x" for form in FORMS]
        speeds += [f"{rival / row['ms']['int8']:.1f}x", f"{row['ms']['onnx'] / floor:.2f}"]
        sizes = [f"{row['parameters'] / 1e6:.1f} M", f"{row['bytes']['int8'] / 1e6:.1f}"]
        rows.append([name, *sizes, *cells, *speeds])
    heads = ["model", "parameters", "int8 MB", *(f"{form}, ms" for form in FORMS.values())]
    heads += [*(f"{form}, speed" for form in FORMS.values()), "int8 against int8 teacher", "ONNX against the floor"]
    small = known["4 x 312"]["ms"]
    return {
        "rows": table(heads, rows),
        "pytorch": f"{slow / small['pytorch']:.1f}",
        "int8": f"{slow / small['int8']:.1f}",
        "rival": f"{rival / small['int8']:.1f}",
        "peak": f"{results['peak'] / 1e9:.0f}",
        "cpu": results["cpu"],
        "rounds": results["rounds"],
        "busy": "" if results["core"] >= BUSY else f" The machine was busy ({results['core']:.0%} of a core).",
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
