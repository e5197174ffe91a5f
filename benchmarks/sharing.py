"""Cost of running layers twice: training steps of a model with shared layers, of the unshared one, and of half the layers.

    python benchmarks/sharing.py

BERT-shaped classifiers take whole optimiser steps on random tokens, in turn. Writes ``results/sharing_speed.json`` and
``docs/results/sharing_speed.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import common
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.students.sharing import SharedBertConfig, SharedBertForSequenceClassification, plan_of
from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, Script, settings

LIMIT = 1.1
"""Most that a shared step may cost, in steps of the unshared student of the same depth."""
SCRIPT = Script(__file__, __doc__, "sharing_speed", hidden=384, batch=32, length=64, repeats=15)


def measure(arguments: Arguments) -> Iterator[Results]:
    width, rows = arguments.hidden, []
    for stored in (1, 2, 3):
        plan, deep = plan_of(stored, "shuffled"), f"{2 * stored} layers"
        shape = {"hidden_size": width, "num_attention_heads": 12, "intermediate_size": 4 * width}
        shared = SharedBertForSequenceClassification(SharedBertConfig(plan=plan, **shape))
        models = {f"{stored} stored, run as {len(plan)}": shared, deep: common.bert(len(plan), width)}
        models[f"{stored} layer{'s' * (stored > 1)}"] = common.bert(stored, width)
        optimizers = {name: common.optimizer_for(model.train()) for name, model in models.items()}
        ids = torch.randint(1000, 30000, (arguments.batch, arguments.length))
        labels = torch.randint(2, (arguments.batch,))
        sides = {name: partial(step, model, optimizers[name], ids, labels) for name, model in models.items()}
        times = common.medians(common.in_turns(sides, arguments.repeats))
        for name, model in models.items():
            state = [v for of in optimizers[name].state.values() for v in of.values()]
            rows.append(
                {
                    "model": name,
                    "ms": times[name] * 1e3,
                    "of_deep": times[name] / times[deep],
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "optimizer_bytes": sum(v.numel() * v.element_size() for v in state),
                }
            )
            print(rows[-1], flush=True)
    yield {"settings": settings(arguments), "threads": torch.get_num_threads(), "rows": rows}


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: Tensor, labels: Tensor) -> None:
    """A whole optimiser step."""
    F.cross_entropy(model(input_ids=ids).logits, labels).backward()
    common.finish_step(optimizer, model)


def page(results: Results) -> Results:
    rows = []
    for row in results["rows"]:
        sizes = [f"{row['parameters'] / 1e6:.1f} M", f"{row['optimizer_bytes'] / 2**20:.0f} MiB"]
        rows.append([row["model"], f"{row['ms']:.0f}", f"{row['of_deep']:.2f}", *sizes])
    heads = ["model", "ms a step", "in steps of the unshared, as deep", "parameters", "optimiser's memory"]
    most = max(row["of_deep"] for row in results["rows"] if "stored" in row["model"])
    return {"most": most, "rows": table(heads, rows), "machine": common.where(results["threads"])}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
