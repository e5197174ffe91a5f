"""Parameters, operations and inference time of TinyBERT's and its rivals' shapes (Jiao et al. 2019, table 3), side by side.

    python benchmarks/sizes.py

BERT-base, Distilled BiLSTM (1 layer, 300 units, 400 before the logits), 4 layers x 768 (BERT-PKD, DistilBERT) and 4 layers x
312 (TinyBERT), with random weights: speed does not depend on them. Inputs are 128 texts of 128 tokens; the models take turns.
Writes ``results/sizes.json`` and ``docs/results/sizes.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

import common
import torch

from tutelage.evaluation import speed
from tutelage.students.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, Script

PAPER = {"BERT-base": (109.0, 1.0), "BiLSTM": (10.1, 7.6), "4 x 768": (52.2, 3.0), "4 x 312": (14.5, 9.4)}
"""Millions of parameters and how many times as fast as BERT-base on a K80."""


SCRIPT = Script(__file__, __doc__, "sizes", batch=128, length=128, repeats=5)


def measure(arguments: Arguments) -> Iterator[Results]:
    torch.manual_seed(0)
    # 25,647 words: with them the trained parameters are the 10.1 million of the paper's table, which does not say how many.
    bilstm = BiLSTMForSequenceClassification(BiLSTMConfig(vocab_size=25_647, num_labels=2))
    shapes: dict[str, torch.nn.Module] = {"BERT-base": common.bert(12, 768), "BiLSTM": bilstm}
    shapes |= {"4 x 768": common.bert(4, 768), "4 x 312": common.bert(4, 312, intermediate_size=1200)}
    shapes = {name: model.eval().to(common.device()) for name, model in shapes.items()}
    ids = torch.randint(1000, 25_000, (arguments.batch, arguments.length), device=common.device())
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        times = common.in_turns({name: partial(model, **inputs) for name, model in shapes.items()}, arguments.repeats)
    rows: Results = {}
    for name, model in shapes.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        pooler = sum(p.numel() for n, p in model.named_parameters() if "pooler" in n)
        rows[name] = {
            "parameters": speed.count_parameters(model),
            "trained": trained,
            "without_pooler": trained - pooler,
            "gflop": speed.flops(model, {k: v[:1] for k, v in inputs.items()}) / 1e9,
            "seconds": median(times[name]),
            "speedup": median(base / own for base, own in zip(times["BERT-base"], times[name], strict=True)),
        }
    where = common.machine()
    device = where["device"] if ids.is_cuda else f"CPU, {where['threads']} threads"
    yield {"batch": arguments.batch, "length": arguments.length, "device": device, "models": rows}


def page(results: Results) -> Results:
    rows = []
    for name, row in results["models"].items():
        size, faster = PAPER[name]
        sizes = [f"{row[key] / 1e6:.1f} M" for key in ("trained", "without_pooler")]
        times = [f"{row['gflop']:.2f}", f"{row['seconds']:.2f}", f"{row['speedup']:.1f}"]
        rows.append([name, *sizes, *times, f"{size} M", str(faster)])
    heads = ["model", "parameters", "without pooler", "GFLOP a text", "seconds", "times BERT-base"]
    tiny = results["models"]["4 x 312"]
    rows = table([*heads, "paper: parameters", "paper: times"], rows)
    return {**results, "rows": rows, "millions": tiny["trained"] / 1e6, "faster": tiny["speedup"]}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
