"""Attention forward and back on a CPU in bfloat16: PyTorch's fused kernel as it is, its plain one, and fused in float32.

    python benchmarks/attention.py

The last is what a student without dropout trains with here (``tutelage.knowledge.signals``): queries, keys and values are
widened, the output is bfloat16 again. The sides take turns; float32 throughout stands beside them. Writes
``results/attention.json`` and ``docs/results/attention_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tutelage.artifacts import write_text

SHAPES = ((64, 14, 12, 32), (32, 40, 12, 32), (32, 128, 12, 32), (32, 128, 12, 64), (4, 512, 12, 64))
"""Texts, tokens, heads and the width of a head."""
SIDES: dict[str, tuple[torch.dtype, SDPBackend, bool]] = {
    "bfloat16, fused": (torch.bfloat16, SDPBackend.FLASH_ATTENTION, False),
    "bfloat16, plain": (torch.bfloat16, SDPBackend.MATH, False),
    "bfloat16, fused in float32": (torch.bfloat16, SDPBackend.FLASH_ATTENTION, True),
    "float32, fused": (torch.float32, SDPBackend.FLASH_ATTENTION, False),
}
OURS = "bfloat16, fused in float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", default="results/attention.json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        seconds: dict[str, list[float]] = {name: [] for name in SIDES}
        for number in range(arguments.repeats + 1):
            for name, side in SIDES.items():
                taken = once(shape, *side)
                if number:  # the first warms up
                    seconds[name].append(taken)
        ms = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
        rows.append({"shape": list(shape), "ms": ms})
        print(rows[-1], flush=True)
    results = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": arguments.repeats,
        "rows": rows,
    }
    write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    write_text(Path("docs/results", f"{arguments.out.stem}_speed.md"), page(results, arguments.out))


def once(shape: tuple[int, int, int, int], dtype: torch.dtype, kernel: SDPBackend, widened: bool) -> float:
    """Seconds of attention and its gradient, a few tokens of each text padding."""
    texts, tokens, heads, width = shape
    leaves = [torch.randn(texts, tokens, heads, width, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = (torch.arange(tokens) < tokens - 3).expand(texts, 1, tokens, tokens)
    began = time.perf_counter()
    with sdpa_kernel(kernel):
        read = [leaf.transpose(1, 2).float() if widened else leaf.transpose(1, 2) for leaf in leaves]
        F.scaled_dot_product_attention(*read, attn_mask=mask).to(dtype).sum().backward()
    return time.perf_counter() - began


def page(results: dict[str, Any], out: Path) -> str:
    lines = [
        "# Attention in bfloat16 on a CPU",
        "",
        f"Made by `python benchmarks/attention.py` from `{out}`: attention and its gradient, padding masked, on",
        f"{results['threads']} CPU thread(s), torch {results['torch']}; the sides in turn, medians of {results['repeats']}, ms.",
        "",
        "| texts x tokens, heads x width | " + " | ".join(SIDES) + " | times as fast as bfloat16, fused |",
        "|---" * (len(SIDES) + 2) + "|",
    ]
    for row in results["rows"]:
        texts, tokens, heads, width = row["shape"]
        cells = " | ".join(f"{row['ms'][name]:.1f}" for name in SIDES)
        gain = row["ms"]["bfloat16, fused"] / row["ms"][OURS]
        lines.append(f"| {texts} x {tokens}, {heads} x {width} | {cells} | {gain:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
