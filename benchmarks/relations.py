"""The relation loss of MiniLM and MiniLMv2 with its gradient: in blocks, as training computes it, and with whole maps.

    python benchmarks/relations.py

Relations of queries to keys, of a student with heads half as wide as the teacher's.
*Dense* is the formula in PyTorch's own operations: maps of all tokens by all tokens, which autograd keeps for the backward pass.
Writes ``results/relations.json`` and ``docs/results/relations_speed.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.objectives import losses
from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, Script

SHAPES = ((8, 128, 12, 32), (8, 128, 48, 8), (2, 512, 12, 32), (2, 512, 48, 8), (1, 2048, 12, 32))
"""Texts, tokens, heads and the width of a student's head: 12 heads of a model, and 48 relation heads of MiniLMv2."""
SCRIPT = Script(__file__, __doc__, "relations", repeats=5)
Pair = tuple[Tensor, Tensor]


def dense(student: Pair, teacher: Pair, mask: Tensor) -> Tensor:
    """The loss with whole maps."""
    unseen, lowest = mask[:, None, None, :] == 0, torch.finfo(torch.float32).min / 2
    log_s, log_t = (
        (queries @ keys.mT * queries.shape[-1] ** -0.5).masked_fill(unseen, lowest).log_softmax(dim=-1)
        for queries, keys in (student, teacher)
    )
    rows = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim=-1)
    return (rows * mask[:, None]).sum() / (mask.sum() * rows.shape[1])


SIDES: dict[str, Callable[[Pair, Pair, Tensor], Tensor]] = {"dense": dense, "blocks": losses.relation_kl}


def inputs(shape: tuple[int, int, int, int]) -> tuple[Pair, Pair, Tensor]:
    """A student's queries and keys, a teacher's, and a mask whose last 3 tokens are padding."""
    texts, tokens, heads, width = shape
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(texts, heads, tokens, size, generator=generator) for size in (width, width, 2 * width, 2 * width)
    ]
    mask = (torch.arange(tokens) < tokens - 3).long().expand(texts, tokens)
    return (made[0].requires_grad_(), made[1].requires_grad_()), (made[2], made[3]), mask


def once(name: str, given: tuple[Pair, Pair, Tensor]) -> tuple[Tensor, ...]:
    """The gradients of the student's queries and keys, computed with the loss."""
    return torch.autograd.grad(SIDES[name](*given), given[0])


def prepared(name: str, shape: tuple[int, int, int, int]) -> Callable[[], object]:
    """The call whose memory is measured, after a small one that loads what PyTorch loads late."""
    torch.set_num_threads(1)
    once(name, inputs((1, 8, 2, 4)))
    return partial(once, name, inputs(shape))


def measure(arguments: Arguments) -> Iterator[Results]:
    torch.set_num_threads(1)  # CPU seconds of several threads would add up
    rows = []
    for shape in SHAPES:
        given = inputs(shape)
        found = {name: torch.cat([gradient.flatten() for gradient in once(name, given)]) for name in SIDES}
        difference = (found["dense"] - found["blocks"]).abs().max() / found["dense"].abs().max()
        sides = {name: partial(once, name, given) for name in SIDES}
        times = common.medians(common.in_turns(sides, arguments.repeats, common.cpu_seconds_of))
        rows.append(
            {
                "shape": list(shape),
                "ms": {name: seconds * 1e3 for name, seconds in times.items()},
                "peak_mb": {name: common.peak_memory(prepared, name, shape) for name in SIDES},
                "difference": float(difference),
            }
        )
        print(rows[-1], flush=True)
        yield {**common.machine(), "repeats": arguments.repeats, "rows": rows}


def page(results: Results) -> Results:
    rows, gains = [], []
    for row in results["rows"]:
        texts, tokens, heads, width = row["shape"]
        ms, peak = row["ms"], row["peak_mb"]
        gains.append(ms["dense"] / ms["blocks"])
        rows.append(
            [
                f"{texts} x {tokens}, {heads} x {width}",
                *(f"{ms[name]:.0f}" for name in SIDES),
                f"{gains[-1]:.1f}",
                f"{texts * heads * tokens**2 * 4 / 2**20:.0f}",
                *(f"{peak[name]:.0f}" for name in SIDES),
            ]
        )
    heads = ["texts x tokens, heads x width", "dense, ms", "blocks, ms", "times as fast", "one map, MB"]
    longest = results["rows"][-1]
    return {
        "repeats": results["repeats"],
        "torch": results["torch"],
        "machine": common.where(results["threads"]),
        "least": min(gains),
        "most": max(gains),
        "tokens": longest["shape"][1],
        "saved": longest["peak_mb"]["dense"] / longest["peak_mb"]["blocks"],
        "difference": max(row["difference"] for row in results["rows"]),
        "low": min(row["peak_mb"]["blocks"] for row in results["rows"]),
        "high": max(row["peak_mb"]["blocks"] for row in results["rows"]),
        "rows": table([*heads, "dense, peak MB", "blocks, peak MB"], rows),
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
