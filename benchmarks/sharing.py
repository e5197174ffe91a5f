"""What running layers twice costs: a training step of a shared student beside unshared ones, and the optimiser's memory.

    python benchmarks/sharing.py

Students of MiniLM's width take whole optimiser steps on random tokens, in turn. Writes ``results/sharing_speed.json`` and
``docs/results/sharing_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage.artifacts import write_text
from tutelage.mechanisms.hook import parameter_groups
from tutelage.students.sharing import SharedBertConfig, SharedBertForSequenceClassification, plan_of

LIMIT = 1.1
"""A shared step in steps of the unshared student of the same depth."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    sizes: dict[str, Any] = {
        "hidden_size": arguments.hidden,
        "num_attention_heads": 12,
        "intermediate_size": 4 * arguments.hidden,
    }
    rows: list[dict[str, Any]] = []
    for stored in (1, 2, 3):
        plan = plan_of(stored, "shuffled")
        models: dict[str, PreTrainedModel] = {
            f"{stored} stored, run as {len(plan)}": SharedBertForSequenceClassification(
                SharedBertConfig(plan=plan, **sizes)
            ),
            f"{len(plan)} layers": BertForSequenceClassification(BertConfig(num_hidden_layers=len(plan), **sizes)),
            f"{stored} layer{'s' * (stored > 1)}": BertForSequenceClassification(
                BertConfig(num_hidden_layers=stored, **sizes)
            ),
        }
        steppers = {name: stepper(model, arguments) for name, model in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for number in range(arguments.repeats + 1):
            for name, (step, _) in steppers.items():
                began = time.perf_counter()
                step()
                if number:
                    seconds[name].append(time.perf_counter() - began)
        times = {name: statistics.median(values) for name, values in seconds.items()}
        deep = times[f"{len(plan)} layers"]
        for name, model in models.items():
            state = steppers[name][1].state.values()
            row = {
                "model": name,
                "ms": times[name] * 1e3,
                "of_deep": times[name] / deep,
                "parameters": sum(p.numel() for p in model.parameters()),
                "optimizer_bytes": sum(v.numel() * v.element_size() for s in state for v in s.values()),
            }
            rows.append(row)
            print(rows[-1], flush=True)
    results = {"settings": vars(arguments), "threads": torch.get_num_threads(), "rows": rows}
    write_text(Path("results/sharing_speed.json"), json.dumps(results, indent=1) + "\n")
    write_text(Path("docs/results/sharing_speed.md"), page(results))


def stepper(model: PreTrainedModel, arguments: argparse.Namespace) -> tuple[Callable[[], None], torch.optim.AdamW]:
    """A whole optimiser step of this model on random tokens, and the optimiser."""
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-5, fused=True)
    ids = torch.randint(1000, 30000, (arguments.batch, arguments.length))
    labels = torch.randint(2, (arguments.batch,))

    def step() -> None:
        F.cross_entropy(model(input_ids=ids).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer


def page(results: dict[str, Any]) -> str:
    settings = results["settings"]
    lines = [
        "# What running layers twice costs",
        "",
        f"Made by `python benchmarks/sharing.py` on {results['threads']} CPU threads: whole optimiser steps of",
        f"{settings['batch']} inputs of {settings['length']} tokens, {settings['hidden']} wide, the models in turn, medians of",
        f"{settings['repeats']}. Wanted: a shared step at most {LIMIT} of the unshared one of equal depth, and the optimiser's",
        "memory that of the stored layers.",
        "",
        "| model | ms a step | in steps of the unshared, as deep | parameters | optimiser's memory |",
        "|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        size = f"{row['parameters'] / 1e6:.1f} M | {row['optimizer_bytes'] / 2**20:.0f} MiB"
        lines.append(f"| {row['model']} | {row['ms']:.0f} | {row['of_deep']:.2f} | {size} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
