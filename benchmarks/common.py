"""What the benchmarks share: sides timed in turn, the machine, one optimiser step, and pages written from results."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from tutelage.artifacts import write_text
from tutelage.mechanisms.hook import parameter_groups
from tutelage.studies.pages import paragraph

Results = dict[str, Any]


def options(doc: str | None, out: str, **usual: int) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks; ``usual`` are further numbers with their defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in usual.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--finished", action="store_true", help="write the page from the results, measure nothing")
    parser.add_argument("--out", default=f"results/{out}.json", type=Path, help="file of the results")
    return parser


def conduct(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Results],
    page: Callable[[Results, Path], str],
    name: str = "{}_speed",
    pictures: Callable[[Results], dict[str, str]] = lambda results: {},
) -> None:
    """Measure, or read the results, and write results, page and pictures.

    The page of ``results/STEM.json`` is ``docs/results/NAME.md`` (``name`` with the stem in it); that of any other file lies
    beside it.
    """
    arguments = parser.parse_args()
    out: Path = arguments.out
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.finished:
        results = json.loads(out.read_text(encoding="utf-8"))
    else:
        results = measure(arguments)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(results, indent=1) + "\n")
    folder = Path("docs/results") if out.parent == Path("results") else out.parent
    write_text(folder / f"{name.format(out.stem)}.md", page(results, out))
    for file, picture in pictures(results).items():
        write_text(folder / file, picture)


def settings(arguments: argparse.Namespace, *places: str) -> Results:
    """The options without ``places`` and those that belong to no result."""
    return {name: value for name, value in vars(arguments).items() if name not in ("finished", "out", *places)}


def command(parser: argparse.ArgumentParser, arguments: argparse.Namespace, *places: str) -> str:
    """The command with the options that are not at their defaults; of ``places`` only that they are given."""
    words = [f"python benchmarks/{Path(parser.prog).name}"]
    for name, value in settings(arguments, "work").items():
        if value != parser.get_default(name):
            shown = f"path/to/{name.removesuffix('_dir')}" if name in places else value
            words.append(
                f"--{name.replace('_', '-')} {' '.join(map(str, shown)) if isinstance(shown, list) else shown}"
            )
    return " ".join(words).replace("path/to/data", "path/to/glue")


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(what: Callable[[], Any]) -> float:
    """Seconds that a call takes, the GPU's work included."""
    synchronize()
    began = time.perf_counter()
    what()
    synchronize()
    return time.perf_counter() - began


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side, ``repeats`` times after one round to warm up.

    The sides take turns, so that a machine whose load changes is as slow for all; every other round is in reverse order, so
    that no side always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        turns = list(sides.items())
        for name, side in turns if number % 2 else turns[::-1]:
            taken = seconds_of(side)
            if number:
                seconds[name].append(taken)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median seconds of every side."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def spread(values: list[float], factor: float = 1000.0) -> list[float]:
    """The least and the most, in milliseconds."""
    return [min(values) * factor, max(values) * factor]


def matmul_peak(device: torch.device | str, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the best of several."""
    size = 8192 if torch.device(device).type == "cuda" else 3072
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2.0 * size**3 / min([seconds_of(lambda: a @ b) for _ in range(6)][1:])


DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> Results:
    """The device, its CPU threads, and the versions that matter."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "threads": torch.get_num_threads(), **versions}


def where(threads: int, name: str | None = None) -> str:
    """A machine in words."""
    return f"{threads} CPU thread{'s' * (threads > 1)}" if name in (None, "cpu") else str(name)


def optimizer_for(model: torch.nn.Module, lr: float = 1e-5, groups: Any = None) -> torch.optim.AdamW:
    """The optimiser of training."""
    return torch.optim.AdamW(parameter_groups(model, 0.01) if groups is None else groups, lr=lr, fused=True)


def finish_step(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """Clip the gradients, update, and forget the gradients."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def opening(title: str, takeaway: str) -> list[str]:
    """A page's title, and the sentence that the reader may take away."""
    return [f"# {title}", "", *paragraph(takeaway)]


def made(command: str, text: str) -> list[str]:
    """The command of a page and how to read it."""
    return ["## How it was made", "", f"    {command}", "", *paragraph(text)]
