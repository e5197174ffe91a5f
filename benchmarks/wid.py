"""Cost of compactors: a training step of a wrapped model against plain steps of its teacher and of its student.

    python benchmarks/wid.py

A masked-word model of BERT-base's widths (some of its layers: all cost the same) takes whole optimiser steps on random
tokens. Each side has a process of its own, whose peak memory is measured, and another with glibc's default allocator: it returns
the memory of large tensors to the system and gets it anew, zeroed page by page, which can cost half of a plain step.
Writes ``results/wid_speed.json`` and ``docs/results/wid_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import common
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from tutelage import Inherited, anatomy
from tutelage.evaluation.speed import encoder_flops
from tutelage.mechanisms.pruning.pruner import Pruner
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.students.compactors import compaction
from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, Script, settings

LENGTH, MASKED = 128, 0.15
LIMITS = {"whole": 1.5, "cut": 1.6}
"""At 16,384 tokens: a wrapped step in steps of the teacher before the cut, of the student after it."""
WARM = 3
"""Steps before time is taken."""
ALLOCATORS = {"keeps": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**12)}, "default": {}}
"""Environment of glibc's allocator: freed memory stays with the process, or its defaults."""


def network(what: str, layers: int) -> tuple[PreTrainedModel, Any]:
    """The model and its hook; ``what`` is teacher, whole-WIDTH, student-WIDTH or cut-WIDTH."""
    kind, _, width = what.partition("-")
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(num_hidden_layers=layers)).train()
    if kind == "teacher":
        return model, None
    wrapped = compaction.wrap(model, Inherited(hidden=int(width)))
    forgetter = Pruner(PruningSchedule(), model)
    forgetter.mask(8 if kind == "whole" else 16)
    if kind == "whole":
        return model, forgetter
    for group in wrapped:
        for member in group.members:
            member.matrix.data[group.gone] = 0
    (wrapped.cut if kind == "cut" else wrapped.merge)(model)
    return model, None


def one(what: str, tokens: int, layers: int, repeats: int, bf16: bool) -> dict[str, float]:
    """Median seconds of a step in this process, and its peak memory."""
    model, hook = network(what, layers)
    optimizer = common.optimizer_for(model, groups=None if hook is None else hook.parameter_groups(model, 0.01))
    ids = torch.randint(1000, 30000, (tokens // LENGTH, LENGTH))
    masked = torch.randperm(tokens)[: int(MASKED * tokens)]
    labels = ids.flatten()[masked]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(anatomy.answers_of(model, {"input_ids": ids}, masked).float(), labels)
        loss.backward()
        if hook is not None:
            hook.before_step(optimizer, [], 10**6)
        common.finish_step(optimizer, model)
        if hook is not None:
            hook.after_step(optimizer, 10**5 + 1, 10**6)

    for _ in range(WARM - 1):
        step()
    return {
        "seconds": common.medians(common.in_turns({what: step}, repeats))[what],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


SCRIPT = Script(__file__, __doc__, "wid_speed", layers=2, repeats=4)
SCRIPT.add_argument("--tokens", default="4096,16384", help="tokens of a step, separated by commas")
SCRIPT.add_argument("--widths", default="384,192", help="widths of the students, separated by commas")
SCRIPT.add_argument("--fp32", action="store_true", help="without bf16 autocast")
SCRIPT.add_argument("--one", nargs=2, metavar=("WHAT", "TOKENS"), help=argparse.SUPPRESS)


def measure(arguments: Arguments) -> Iterator[Results]:
    if arguments.one:
        what, tokens = arguments.one
        print(json.dumps(one(what, int(tokens), arguments.layers, arguments.repeats, not arguments.fp32)))
        raise SystemExit
    results: Results = {"settings": settings(arguments), "threads": torch.get_num_threads()}
    kinds = [f"{kind}-{width}" for width in arguments.widths.split(",") for kind in ("whole", "student", "cut")]
    for tokens in arguments.tokens.split(","):
        for name in ["teacher", *kinds]:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name, tokens]
            for allocator, variables in ALLOCATORS.items():
                environment = {**os.environ, **variables}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                results.setdefault(tokens, {}).setdefault(name, {})[allocator] = json.loads(done.stdout)
            print(tokens, name, results[tokens][name], flush=True)
    yield results


def ratio(found: dict[str, Any], name: str, other: str | None, allocator: str = "keeps") -> str:
    """One step in steps of another, if there is one to compare it with."""
    return f"{found[name][allocator]['seconds'] / found[other][allocator]['seconds']:.2f}" if other else "-"


def plain_of(name: str) -> str | None:
    """The plain step that one between or after compactors is compared with."""
    kind, _, width = name.partition("-")
    return {"whole": "teacher", "cut": f"student-{width}"}.get(kind)


def over(results: dict[str, Any]) -> list[str]:
    """Whether the limits are kept at 16,384 tokens, by each way to keep memory."""
    found, lines = results.get("16384", {}), []
    for allocator, title in (("keeps", "memory kept"), ("default", "glibc's defaults")) if found else ():
        steps = {name: ratio(found, name, plain, allocator) for name in found if (plain := plain_of(name))}
        broken = [f"{name} {steps[name]}" for name in steps if float(steps[name]) > LIMITS[name.partition("-")[0]]]
        lines.append(f"* {title}: {'over the limit: ' + ', '.join(broken) if broken else 'all within'}")
    return lines


LABELS = {"teacher": "teacher, 768 wide", "whole": "whole, to {}", "student": "student, {}", "cut": "cut to {}"}
HEADS = ["", "seconds", "in steps of the teacher", "of the student", "GFLOP/s of the plain model", "peak memory"]
HEADS += ["default: seconds", "of the plain step", "peak memory"]


def page(results: Results) -> Results:
    given, lines = results["settings"], []
    for tokens in given["tokens"].split(","):
        found, rows = results[tokens], []
        for name, row in found.items():
            kind, _, width = name.partition("-")
            plain, hidden = plain_of(name), 768 if kind in ("teacher", "whole") else int(width)
            shape = anatomy.Shape("bert", given["layers"], hidden, 12, 4 * hidden, 30522)
            flops = 3 * int(tokens) * (encoder_flops(shape, LENGTH) / LENGTH + MASKED * 2 * hidden * (hidden + 30522))
            seconds, memory = {}, {}
            for allocator, one in row.items():
                seconds[allocator], memory[allocator] = f"{one['seconds']:.2f}", f"{one['peak_gib']:.1f} GiB"
            against = [ratio(found, name, "teacher"), ratio(found, name, plain if kind == "cut" else None)]
            speed = f"{flops / row['keeps']['seconds'] / 1e9:.0f}"
            rows.append([LABELS[kind].format(width), seconds["keeps"], *against, speed, memory["keeps"]])
            rows[-1] += [seconds["default"], ratio(found, name, plain, "default"), memory["default"]]
        lines += [f"## {int(tokens):,} tokens a step", "", *table(HEADS, rows)]
    last = results[max(given["tokens"].split(","), key=int)]
    most = {kind: max(ratio(last, name, plain_of(name)) for name in last if name.startswith(kind)) for kind in LIMITS}
    made = {"machine": common.where(results["threads"]), "precision": "fp32" if given["fp32"] else "bf16 autocast"}
    return {"wrapped": most["whole"], "cut": most["cut"], "steps": lines, "limits": over(results), **made}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
