"""Cost of running layers twice: training steps of a model with shared layers, of the unshared one, and of half the layers.

    python benchmarks/sharing.py

BERT-shaped classifiers take whole optimiser steps on random tokens, in turn. Writes ``results/sharing_speed.json`` and
``docs/results/sharing_speed.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F
from common import Results
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage.students.sharing import SharedBertConfig, SharedBertForSequenceClassification, plan_of
from tutelage.studies.pages import table

LIMIT = 1.1
"""Most that a shared step may cost, in steps of the unshared student of the same depth."""
PARSER = common.options(__doc__, "sharing_speed", hidden=384, batch=32, length=64, repeats=15)


def measure(arguments: argparse.Namespace) -> Results:
    width = arguments.hidden
    sizes: dict[str, Any] = {"hidden_size": width, "num_attention_heads": 12, "intermediate_size": 4 * width}

    def bert(layers: int) -> PreTrainedModel:
        return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes))

    rows: list[dict[str, Any]] = []
    for stored in (1, 2, 3):
        plan = plan_of(stored, "shuffled")
        shared = SharedBertForSequenceClassification(SharedBertConfig(plan=plan, **sizes))
        deep = f"{len(plan)} layers"
        models = {f"{stored} stored, run as {len(plan)}": shared, deep: bert(len(plan))}
        models[f"{stored} layer{'s' * (stored > 1)}"] = bert(stored)
        steppers = {name: stepper(model, arguments) for name, model in models.items()}
        sides = {name: step for name, (step, _) in steppers.items()}
        times = common.medians(common.in_turns(sides, arguments.repeats))
        for name, model in models.items():
            state = steppers[name][1].state.values()
            rows.append(
                {
                    "model": name,
                    "ms": times[name] * 1e3,
                    "of_deep": times[name] / times[deep],
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "optimizer_bytes": sum(v.numel() * v.element_size() for s in state for v in s.values()),
                }
            )
            print(rows[-1], flush=True)
    return {"settings": common.settings(arguments), "threads": torch.get_num_threads(), "rows": rows}


def stepper(model: PreTrainedModel, arguments: argparse.Namespace) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """A whole optimiser step of this model on random tokens, and the optimiser."""
    optimizer = common.optimizer_for(model.train())
    ids = torch.randint(1000, 30000, (arguments.batch, arguments.length))
    labels = torch.randint(2, (arguments.batch,))

    def step() -> None:
        F.cross_entropy(model(input_ids=ids).logits, labels).backward()
        common.finish_step(optimizer, model)

    return step, optimizer


def page(results: Results, out: Path) -> str:
    settings = results["settings"]
    rows = [
        [
            row["model"],
            f"{row['ms']:.0f}",
            f"{row['of_deep']:.2f}",
            f"{row['parameters'] / 1000000.0:.1f} M",
            f"{row['optimizer_bytes'] / 2**20:.0f} MiB",
        ]
        for row in results["rows"]
    ]
    most = max(row["of_deep"] for row in results["rows"] if "stored" in row["model"])
    heads = ["model", "ms a step", "in steps of the unshared, as deep", "parameters", "optimiser's memory"]
    return "\n".join(
        [
            *common.opening(
                "What running layers twice costs",
                f"A student that runs its layers twice costs at most {most:.2f} of a step of the unshared student of its depth, "
                "with the parameters and the optimiser's memory of its stored layers.",
            ),
            *table(heads, rows),
            *common.made(
                "python benchmarks/sharing.py",
                f"""Results: `{out}`. Whole optimiser steps of {settings["batch"]} inputs of {settings["length"]} tokens,
                {settings["hidden"]} wide, on {common.where(results["threads"])}; the models in turn, medians of
                {settings["repeats"]}. Wanted: a shared step at most {LIMIT} of the unshared one of equal depth, and the
                optimiser's memory that of the stored layers.""",
            ),
        ]
    )


if __name__ == "__main__":
    common.conduct(PARSER, measure, page, "{}")
