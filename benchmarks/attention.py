"""Attention forward and back on a CPU in bfloat16: PyTorch's fused kernel as it is, its plain one, and fused in float32.

    python benchmarks/attention.py

The last is what a student without dropout trains with here (``tutelage.knowledge.signals``): queries, keys and values are
converted to float32, the output is bfloat16 again. Float32 throughout is for comparison. Writes ``results/attention.json`` and
``docs/results/attention_speed.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import common
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, Script

SHAPES = ((64, 14, 12, 32), (32, 40, 12, 32), (32, 128, 12, 32), (32, 128, 12, 64), (4, 512, 12, 64))
"""Texts, tokens, heads and the width of a head."""
SIDES: dict[str, tuple[torch.dtype, SDPBackend, bool]] = {
    "bfloat16, fused": (torch.bfloat16, SDPBackend.FLASH_ATTENTION, False),
    "bfloat16, plain": (torch.bfloat16, SDPBackend.MATH, False),
    "bfloat16, fused in float32": (torch.bfloat16, SDPBackend.FLASH_ATTENTION, True),
    "float32, fused": (torch.float32, SDPBackend.FLASH_ATTENTION, False),
}
OURS = "bfloat16, fused in float32"
SCRIPT = Script(__file__, __doc__, "attention", repeats=15)


def measure(arguments: Arguments) -> Iterator[Results]:
    rows = []
    for shape in SHAPES:
        sides = {name: partial(once, shape, *side) for name, side in SIDES.items()}
        times = common.medians(common.in_turns(sides, arguments.repeats))
        rows.append({"shape": list(shape), "ms": {name: seconds * 1e3 for name, seconds in times.items()}})
        print(rows[-1], flush=True)
    yield {"threads": torch.get_num_threads(), "torch": torch.__version__, "repeats": arguments.repeats, "rows": rows}


def once(shape: tuple[int, int, int, int], dtype: torch.dtype, kernel: SDPBackend, widened: bool) -> None:
    """Attention and its gradient; the last 3 tokens of each text are padding."""
    texts, tokens, heads, width = shape
    leaves = [torch.randn(texts, tokens, heads, width, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = (torch.arange(tokens) < tokens - 3).expand(texts, 1, tokens, tokens)
    with sdpa_kernel(kernel):
        read = [leaf.transpose(1, 2).float() if widened else leaf.transpose(1, 2) for leaf in leaves]
        F.scaled_dot_product_attention(*read, attn_mask=mask).to(dtype).sum().backward()


def page(results: Results) -> Results:
    rows = []
    gains = [row["ms"]["bfloat16, fused"] / row["ms"][OURS] for row in results["rows"]]
    for row, gain in zip(results["rows"], gains, strict=True):
        cells = [f"{row['ms'][name]:.1f}" for name in SIDES]
        rows.append(["{} x {}, {} x {}".format(*row["shape"]), *cells, f"{gain:.1f}"])
    heads = ["texts x tokens, heads x width", *SIDES, "times as fast as bfloat16, fused"]
    gain = {"least": min(gains), "most": max(gains), "machine": common.where(results["threads"])}
    return {**results, **gain, "rows": table(heads, rows)}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
