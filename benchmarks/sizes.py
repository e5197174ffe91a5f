"""Parameters, operations and inference time of TinyBERT's and its rivals' shapes (Jiao et al. 2019, table 3), side by side.

    python benchmarks/sizes.py

BERT-base, Distilled BiLSTM (1 layer, 300 units, 400 before the logits), 4 layers x 768 (BERT-PKD, DistilBERT) and 4 layers x
312 (TinyBERT), with random weights: speed does not depend on them. Inputs are 128 texts of 128 tokens; the models take
turns, so that a machine whose load changes is as slow for all. Writes ``results/sizes.json`` and ``docs/results/sizes.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from tutelage.artifacts import write_text
from tutelage.evaluation import speed
from tutelage.students.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification

PAPER = {"BERT-base": (109.0, 1.0), "BiLSTM": (10.1, 7.6), "4 x 768": (52.2, 3.0), "4 x 312": (14.5, 9.4)}
"""Millions of parameters and how many times as fast as BERT-base on a K80."""


def models() -> dict[str, torch.nn.Module]:
    def bert(**sizes: int) -> torch.nn.Module:
        return BertForSequenceClassification(BertConfig(num_labels=2, **sizes))

    # 25,647 words: with them the trained parameters are the 10.1 million of the paper's table, which does not say how many.
    words = BiLSTMConfig(vocab_size=25_647, num_labels=2)
    return {
        "BERT-base": bert(),
        "BiLSTM": BiLSTMForSequenceClassification(words),
        "4 x 768": bert(num_hidden_layers=4),
        "4 x 312": bert(num_hidden_layers=4, hidden_size=312, intermediate_size=1200),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", default="results/sizes.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shapes = {name: model.eval().to(arguments.device) for name, model in models().items()}
    ids = torch.randint(1000, 25_000, (arguments.batch, arguments.length), device=arguments.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    times: dict[str, list[float]] = {name: [] for name in shapes}
    with torch.inference_mode():
        for turn in range(arguments.repeats + 1):
            for name, model in shapes.items():
                began = time.perf_counter()
                model(**inputs)
                if ids.is_cuda:
                    torch.cuda.synchronize()
                if turn:  # the first warms up
                    times[name].append(time.perf_counter() - began)
    rows: dict[str, Any] = {}
    for name, model in shapes.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        pooler = sum(p.numel() for n, p in model.named_parameters() if "pooler" in n)
        ratios = [base / own for base, own in zip(times["BERT-base"], times[name], strict=True)]
        rows[name] = {
            "parameters": speed.count_parameters(model),
            "trained": trained,
            "without_pooler": trained - pooler,
            "gflop": speed.flops(model, {k: v[:1] for k, v in inputs.items()}) / 1e9,
            "seconds": median(times[name]),
            "speedup": median(ratios),
        }
    device = torch.cuda.get_device_name() if ids.is_cuda else f"CPU, {torch.get_num_threads()} threads"
    result = {"batch": arguments.batch, "length": arguments.length, "device": device, "models": rows}
    write_text(Path(arguments.out), json.dumps(result, indent=1) + "\n")
    write_text(Path("docs/results/sizes.md"), page(result))
    print(page(result))


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Sizes and speed",
        "",
        f"Made by `python benchmarks/sizes.py` on {result['device']}: {result['batch']} texts of {result['length']} tokens, fp32,",
        "random weights, median of passes taken in turn. Parameters are those that are trained: the BiLSTM's frozen copy of its",
        "word vectors comes on top. The paper's columns (Jiao et al. 2019, arXiv:1909.10351v1, table 3) are from a K80 and count",
        "4 x 768 without its pooler.",
        "",
        "| model | parameters | without pooler | GFLOP a text | seconds | times BERT-base | paper: parameters | paper: times |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["models"].items():
        size, faster = PAPER[name]
        lines.append(
            f"| {name} | {row['trained'] / 1e6:.1f} M | {row['without_pooler'] / 1e6:.1f} M | {row['gflop']:.2f} | "
            f"{row['seconds']:.2f} | {row['speedup']:.1f} | {size} M | {faster} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
