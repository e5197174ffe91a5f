"""What compactors cost: a training step of a wrapped model against plain steps of its teacher and of its student.

    python benchmarks/wid.py

A masked-word model of BERT-base's widths (some of its layers: all cost the same) takes whole optimiser steps on random
tokens: plain, between compactors with half of the coordinates masked, and, for students of 384 and 192, plain and with the
compactors cut. Each has a process of its own, whose peak memory is told, and another as glibc is by default: it gives the
memory of large tensors back to the system and gets it anew, zeroed page by page, which can cost half of a plain step.
Writes ``results/wid_speed.json`` and ``docs/results/wid_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from tutelage import anatomy
from tutelage.artifacts import write_text
from tutelage.evaluation.speed import encoder_flops
from tutelage.mechanisms.hook import parameter_groups
from tutelage.mechanisms.pruning.pruner import Pruner
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.students.compactors import compaction
from tutelage.students.specs import Inherited

LENGTH, ASKED = 128, 0.15
LIMITS = {"whole": 1.5, "cut": 1.6}
"""At 16,384 tokens: a wrapped step in steps of the teacher before the cut, of the student after it."""
WARM = 3
"""Steps before time is taken."""
ALLOCATORS = {"keeps": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**12)}, "default": {}}
"""By what becomes of memory that is free again: the variables that tell glibc."""


def network(what: str, layers: int) -> tuple[PreTrainedModel, Any]:
    """The model, and what is beside its loss; ``what`` is teacher, whole-WIDTH, student-WIDTH or cut-WIDTH."""
    kind, _, width = what.partition("-")
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(num_hidden_layers=layers)).train()
    if kind == "teacher":
        return model, None
    wrapped = compaction.wrap(model, Inherited(hidden=int(width)))
    forgetter = Pruner(PruningSchedule(), model)
    forgetter.mask(8 if kind == "whole" else 16)
    if kind != "whole":
        for group in wrapped:
            for member in group.members:
                member.matrix.data[group.gone] = 0
    if kind == "cut":
        wrapped.cut(model)
    if kind == "student":
        wrapped.merge(model)
    return model, forgetter if kind == "whole" else None


def measure(what: str, tokens: int, layers: int, repeats: int, bf16: bool) -> dict[str, float]:
    model, beside = network(what, layers)
    groups = parameter_groups(model, 0.01) if beside is None else beside.parameter_groups(model, 0.01)
    optimizer = torch.optim.AdamW(groups, lr=1e-5, fused=True)
    ids = torch.randint(1000, 30000, (tokens // LENGTH, LENGTH))
    asked = torch.randperm(tokens)[: int(ASKED * tokens)]
    labels = ids.flatten()[asked]
    seconds = []
    for number in range(WARM + repeats):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(anatomy.answers_of(model, {"input_ids": ids}, asked).float(), labels)
        loss.backward()
        if beside is not None:
            beside.before_step(optimizer, [], 10**6)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if beside is not None:
            beside.after_step(optimizer, 10**5 + 1, 10**6)
        if number >= WARM:
            seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds": statistics.median(seconds),
        "peak_gib": peak,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--tokens", default="4096,16384")
    parser.add_argument("--widths", default="384,192")
    parser.add_argument("--fp32", action="store_true", help="without bf16 autocast")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = (arguments.layers, arguments.repeats, not arguments.fp32)
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), *settings)))
        return
    widths = arguments.widths.split(",")
    names = ["teacher", *(f"{kind}-{width}" for width in widths for kind in ("whole", "student", "cut"))]
    results: dict[str, Any] = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "one"},
        "threads": torch.get_num_threads(),
    }
    for tokens in arguments.tokens.split(","):
        for name in names:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name, tokens]
            for allocator, variables in ALLOCATORS.items():
                environment = {**os.environ, **variables}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                results.setdefault(tokens, {}).setdefault(name, {})[allocator] = json.loads(done.stdout)
            print(tokens, name, results[tokens][name], flush=True)
    write_text(Path("results/wid_speed.json"), json.dumps(results, indent=1) + "\n")
    write_text(Path("docs/results/wid_speed.md"), page(results))


def ratio(found: dict[str, Any], name: str, other: str | None, allocator: str) -> str:
    """One step in steps of another, if there is one to compare it with."""
    return f"{found[name][allocator]['seconds'] / found[other][allocator]['seconds']:.2f}" if other else "-"


def plain_of(name: str) -> str | None:
    """The plain step that one between or after compactors is compared with."""
    kind, _, width = name.partition("-")
    return {"whole": "teacher", "cut": f"student-{width}"}.get(kind)


def over(results: dict[str, Any]) -> list[str]:
    """Whether the limits are kept at 16,384 tokens, by each way to keep memory."""
    found, lines = results.get("16384"), []
    if found is None:
        return []
    for allocator, title in (("keeps", "memory kept"), ("default", "glibc's defaults")):
        steps = {name: ratio(found, name, plain, allocator) for name in found if (plain := plain_of(name))}
        broken = [f"{name} {steps[name]}" for name in steps if float(steps[name]) > LIMITS[name.partition("-")[0]]]
        lines.append(f"{title}: {'over the limit: ' + ', '.join(broken) if broken else 'all within'}")
    return lines


def page(results: dict[str, Any]) -> str:
    settings = results["settings"]
    layers, precision = settings["layers"], "fp32" if settings["fp32"] else "bf16 autocast"
    lines = [
        "# What compactors cost",
        "",
        f"Made by `python benchmarks/wid.py` on {results['threads']} CPU threads, {precision}: a whole optimiser step on masked",
        f"words, {layers} layers of BERT-base's widths, inputs of {LENGTH} tokens. *whole* is a step between compactors with half",
        "of what is to go masked, *cut* one when it is gone. Forward, backward, clipping, AdamW and the forgetting count.",
        "",
        "Memory that is free again stays with the process (`MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000`); the last",
        "three columns are with glibc's defaults.",
        "",
    ]
    for tokens in settings["tokens"].split(","):
        found = results[tokens]
        lines += [
            f"## {int(tokens):,} tokens a step",
            "",
            "| | seconds | in steps of the teacher | of the student | GFLOP/s of the plain model | peak memory "
            "| default: seconds | of the plain step | peak memory |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in found.items():
            kind, _, width = name.partition("-")
            plain = plain_of(name)
            hidden = 768 if kind in ("teacher", "whole") else int(width)
            shape = anatomy.Shape("bert", layers, hidden, 12, 4 * hidden, 30522)
            flops = 3 * int(tokens) * (encoder_flops(shape, LENGTH) / LENGTH + ASKED * 2 * hidden * (hidden + 30522))
            label = {
                "teacher": "teacher, 768 wide",
                "whole": f"whole, to {width}",
                "student": f"student, {width}",
                "cut": f"cut to {width}",
            }
            keeps, default = row["keeps"], row["default"]
            lines.append(
                f"| {label[kind]} | {keeps['seconds']:.2f} | {ratio(found, name, 'teacher', 'keeps')} | "
                f"{ratio(found, name, plain if kind == 'cut' else None, 'keeps')} | {flops / keeps['seconds'] / 1e9:.0f} | "
                f"{keeps['peak_gib']:.1f} GiB | {default['seconds']:.2f} | {ratio(found, name, plain, 'default')} | "
                f"{default['peak_gib']:.1f} GiB |"
            )
        lines.append("")
    lines += [
        f"Wanted at 16,384 tokens: *whole* at most {LIMITS['whole']} steps of the teacher, *cut* at most {LIMITS['cut']} of the",
        "student. A composed weight costs the same whatever the number of tokens, so few tokens make it dear.",
        "",
        *(f"* {line}" for line in over(results)),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
