"""What a command shows of its result: JSON, or a table."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tutelage.report.comparison import tables

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tutelage.mechanisms.team.report import TeamReport
    from tutelage.recipes.config import RunConfig
    from tutelage.recipes.overview import MethodRow
    from tutelage.report.attention import AttentionReport
    from tutelage.report.cascade import CascadeReport
    from tutelage.report.compared import CompareReport
    from tutelage.report.results import Evaluation
    from tutelage.report.search import Search
    from tutelage.report.shrink import Shrink
    from tutelage.report.teachers import StoreEntry
    from tutelage.run.gate import Gate
    from tutelage.run.packed import Packed
    from tutelage.run.push import Push
    from tutelage.run.result import Result
    from tutelage.serving.report import ExportReport
    from tutelage.serving.server import Server
    from tutelage.studies.ablation import Ablation


WIDEST = 10_000
"""Characters of a line of a file, at most."""
CARD_LINES = 30
"""Lines of a model card that are shown before it is uploaded."""
HARDLY = 0.9
"""Packed weights that are larger than this share of the plain ones were not worth packing."""


def show(command: str, result: Any, as_json: bool) -> None:
    """Print what the function of a command has returned; of several processes the first prints."""
    if "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(_tree(result), indent=1, allow_nan=False), flush=True)
    else:
        table: Callable[[Any], None] = SHOWN.get(command, _fields)
        table(result)
    if hasattr(result, "wait"):
        result.wait()


def _tree(result: Any) -> Any:
    if isinstance(result, list):
        return [_tree(one) for one in result]
    if hasattr(result, "report"):
        return result.report
    if hasattr(result, "chosen"):
        best = result.chosen
        more = {} if result.under is None else {"best_under": None if best is None else best.model_dump(mode="json")}
        return {**result.model_dump(mode="json", exclude={"under"}), **more}
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    if hasattr(result, "address"):
        return {"address": result.address}
    return result.model_dump(mode="json") if hasattr(result, "model_dump") else result


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _show(table: Table) -> None:
    """Print a table, whole: a narrow terminal folds its cells, a file has no edge.

    Its names come from data: what looks like markup in them is text.
    """
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    for column in table.columns:
        column.overflow = "fold"
    console.print(table)


def _fields(found: BaseModel) -> None:
    """Names and values, one a line."""
    table = Table(show_header=False, box=None)
    for name, value in found.model_dump(mode="json").items():
        table.add_row(name.replace("_", " "), _field(value))
    _show(table)


def _field(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _result(result: Result) -> None:
    """The comparison, and where to read on."""
    for found in tables(result.report):
        table = Table(*found.columns, title=found.title)
        for row in found.rows:
            table.add_row(*row)
        _show(table)
        for note in found.notes:
            _say(note)
    student = f"Student: {result.folder}/student; report" if result.report.get("general") else "Report"
    _say(f"{student}: {result.folder}/report.html")


def _scores(found: Evaluation) -> None:
    table = Table("part", "metric", "score")
    for part, scores in found.scores.items():
        for metric, value in scores.items():
            table.add_row(part, metric, f"{value:.4f}")
    _show(table)


def _chain(results: list[Result]) -> None:
    reports = [result.report for result in results]
    table = Table("", reports[0]["metric"], "parameters")
    entries = [("teacher", reports[0]["teacher"])]
    entries += [(f"assistant {number}", report["student"]) for number, report in enumerate(reports[:-1], start=1)]
    for name, entry in [*entries, ("student", reports[-1]["student"])]:
        table.add_row(name, f"{entry['score']:.4f}", f"{entry['parameters'] / 1e6:.1f} M")
    _show(table)
    _say(f"Student: {reports[-1]['student']['name']}")


def _team(found: TeamReport) -> None:
    """The scores of the teachers, and the agreement of each two."""
    metric, part, members = found.metric, found.part, found.members
    alike = found.agreement or [[] for _ in members]  # for tokens and spans there is none
    heads = [f"= {number}" for number in range(1, len(alike[0]) + 1)]
    table = Table("", "teacher", "M parameters", f"{metric}, {part}", f"{metric}, held-out train", *heads)
    for row, one in enumerate(members):
        scores = [f"{one.scores[place][metric]:.4f}" for place in (part, "held_out")]
        agreement = [f"{value:.2f}" for value in alike[row]]
        table.add_row(str(row + 1), one.name, f"{one.parameters / 1e6:.1f}", *scores, *agreement)
    _show(table)
    lines = [] if found.disagreement is None else [f"mean disagreement {found.disagreement:.3f}"]
    if found.ensemble is not None:
        lines.append(f"the mean of all: {found.ensemble:.4f} accuracy")
        lines.append(f"at least one is right on {found.one_right:.4f}, all on {found.all_right:.4f}")
    if lines:
        _say(f"On {part}: {'; '.join(lines)}")


def _search(found: Search) -> None:
    from tutelage.report.words import constant_note

    table = Table(
        "kept",
        "bytes per example",
        f"{found.metric}, validation",
        "by seed",
        "evaluation set",
        title="The best for their size",
    )
    for trial in found.front:
        by_seed = " ".join(f"{score:.4f}" for score in trial.scores.values())
        size = f"{trial.bytes_per_example:,.0f}"
        table.add_row(trial.name, size, f"{trial.score:.4f}", by_seed, f"{trial.dev_score:.4f}")
    _show(table)
    if note := constant_note(found.kind, (score for trial in found.front for score in trial.scores.values())):
        _say(f"note: {note}")
    best = found.chosen
    if best is not None:
        early = "" if best.rung == len(found.rungs) else ", of shorter training"
        _say(
            f"Best of at most {found.under:,.0f} bytes per example: {best.name}, {best.bytes_per_example:,.0f} bytes, "
            f"{found.metric} {best.score:.4f}{early}; --method minimum_knowledge --set hidden.keep={best.keep} "
            f"--set hidden.top={best.top}"
        )
    elif found.under is not None:
        least = found.trials[0]  # the smallest is first
        _say(
            f"No configuration that was tried has at most {found.under:,.0f} bytes per example: the smallest, {least.name}, has "
            f"{math.ceil(least.bytes_per_example):,}. Allow that (--under), or try more (--trials)."
        )


def _export(found: ExportReport) -> None:
    """What was written, beside the model itself."""
    model, *files = found.sides
    name = found.model if found.part is None else f"{found.model}, {found.part}"
    table = Table(title=f"{name}: {found.type}, {found.kind}; {found.texts:,} texts ({found.source})")
    table.add_column("", overflow="fold")
    for side in found.sides:
        table.add_column(side.file if side is not model else "PyTorch", justify="right")

    def row(name: str, cells: Iterable[str]) -> None:
        table.add_row(name, *cells)

    row("MB", (f"{side.bytes / 1e6:.1f}" for side in found.sides))
    if found.metric is not None:
        row(found.metric, (f"{(side.scores or {})[str(found.metric)]:.4f}" for side in found.sides))
        changes = [side.change for side in files if side.change is not None]
        row("change in points", ["", *(f"{100 * one.value:+.2f}" for one in changes)])
        intervals = (" to ".join(f"{100 * end:+.2f}" for end in one.ends or ()) for one in changes)
        row("  95 % interval", ["", *intervals])
    row("largest difference", ["", *(f"{side.largest_difference:.2g}" for side in files)])
    if any(side.agreement is not None for side in files):
        row("agreement", ["", *(f"{side.agreement:.4f}" for side in files)])
    for place, one in enumerate(model.latency):
        threads = "1 thread" if one.threads == 1 else f"{one.threads} threads"
        times = (side.latency[place] for side in found.sides)
        row(f"ms, batch {one.batch}, {threads}", (f"{time.p50_ms:.2f} ({time.p95_ms:.2f})" for time in times))
    _show(table)
    where = f"texts of {model.latency[0].tokens} tokens on {found.environment['cpu']}"
    _say(f"Times are medians (95th percentiles) for {where}; the models take turns.")
    for note in found.notes:
        _say(f"note: {note}")
    for flag in found.flags:
        _say(f"WARNING: {flag}")
    served = "" if found.opset is None else f"; {_served(found.out, found)} answers"
    _say(f"Written to {found.out}; the comparison is in export.json{served}")


def _served(folder: str, export: ExportReport) -> str:
    """The command that serves an exported folder, as a shell takes it."""
    return export.command(shlex.quote(f"{folder}/serve.py"))


def _shrink(found: Shrink) -> None:
    """What was considered, and the answer."""
    table = Table(title=f"Students in int8; one text of {found.tokens} tokens on one thread")
    for column in ("", "ms", "MB", "M parameters", "trial loss", "exceeds"):
        table.add_column(column, justify="left" if column in ("", "exceeds") else "right", overflow="fold")
    for form in found.forms:
        table.add_row(f"teacher, {form.form}", f"{form.ms:.2f}", f"{form.bytes / 1e6:.1f}", "", "", "")
    for shape in found.shapes:
        loss = "" if shape.loss is None else f"{shape.loss:.4f}"
        sizes = f"{shape.bytes / 1e6:.1f}", f"{shape.parameters / 1e6:.1f}"
        table.add_row(shape.name, f"{shape.ms:.2f}", *sizes, loss, "; ".join(shape.exceeds))
    _show(table)
    for note in found.notes:
        _say(f"note: {note}")
    _say(found.verdict)
    if found.folder is not None:
        from tutelage.serving.report import REPORT, load_export

        export = load_export(Path(found.folder) / REPORT)
        _say(f"Written to {found.folder}; {_served(found.folder, export)} answers")


def _gate(found: Gate) -> None:
    for one in found.conditions:
        _say(one.line)


def _cascade(found: CascadeReport) -> None:
    """When the student answers, and what other thresholds would give."""
    rows = next(iter(found.classes.values()), found.rule)
    assert rows is not None
    if found.rule is not None:
        table = Table("answered", "threshold", "agreement", "95 % bound", title="By threshold, for looking at")
        for point in found.curve[4::5]:
            shares = (f"{share:.4f}" for share in (point.agreement, point.bound))
            table.add_row(f"{point.coverage:.1%}", f"{point.threshold:.6g}", *shares)
    else:
        table = Table("class", "texts", "answered", "threshold", "agreement", "bound", title="By predicted class")
        for name, rule in found.classes.items():
            shown = ("-" if one is None else f"{one:.6g}" for one in (rule.threshold, rule.agreement, rule.bound))
            table.add_row(name, f"{rule.rows:,}", f"{rule.answered:,}", *shown)
    _show(table)
    where = f"on {sum(one.rows for one in found.classes.values()) or rows.rows:,} texts ({found.source})"
    if found.coverage == 0:
        _say(f"No threshold keeps the promise {where}: the teacher answers all. Promise less, or give more texts.")
    else:
        above = (
            "" if found.rule is None else f", where the probability of its class is above {found.rule.threshold:.6g}"
        )
        _say(f"The student answers {found.coverage:.1%}{above}; {where} that share of the teacher's calls is saved.")
        each = " of each class" if found.rule is None else ""
        _say(
            f"Promise: at least {found.agreement:.1%} of its answers{each} are the teacher's, with confidence "
            f"{found.confidence:.0%}."
        )
    _say("Accuracy: " + ", ".join(f"{who} {value:.4f}" for who, value in found.accuracy.items()))
    if found.suspects_found:
        _say(f"On {found.suspects_found:,} texts the student is sure, and the teacher or the label disagrees.")
    if found.file is not None:
        _say(f"cascade.json beside {found.file} makes serve.py and tutelage serve follow this, and no other file.")
    for note in found.notes:
        _say(f"note: {note}")


def _push(found: Push) -> None:
    table = Table("file", "bytes", title=f"{'Uploaded to' if found.uploaded else 'Would be uploaded to'} {found.repo}")
    for name, size in found.files.items():
        table.add_row(name, f"{size:,}")
    _show(table)
    head = found.card.splitlines()[:CARD_LINES]
    _say(
        "\n".join(["README.md:", *(f"    {line}" for line in head), *(["    ..."] if len(head) == CARD_LINES else [])])
    )
    if found.left_out:
        _say(f"Left out: {', '.join(found.left_out)}")
    for note in found.notes:
        _say(f"note: {note}")
    if not found.uploaded:
        _say("Nothing was uploaded; --yes does it")


def _packed(found: Packed) -> None:
    share = found.packed / max(found.plain, 1)
    _say(f"{found.folder}: {found.plain / 1e6:.1f} MB plain, {found.packed / 1e6:.1f} MB packed ({share:.1%})")
    if not found.coded or share > HARDLY:
        saved = "hardly anything" if found.coded and share < 1 else "nothing"
        _say(
            f"note: packing saves {saved}: a code is for large matrices of at most 256 different values, and {found.coded} of "
            f"{found.tensors} tensors are in one; train the student with --method deep_compression"
        )


def _serve(page: Server) -> None:
    _say(f"Open {page.address} (Ctrl-C ends)")
    if page.open_to_others:
        _say("note: every machine that reaches this address can ask the models")


def _attention(found: AttentionReport) -> None:
    from tutelage.report.attention import explanation, verdict

    columns = ["best_match", "uniform"] if found.same_head is None else ["same_head", "best_match", "uniform"]
    table = Table("\nlayer", title="Cosine similarity, and KL in nats: means over heads")
    for column in columns:
        table.add_column(f"{column.replace('_', ' ')}\ncosine", justify="right")
        table.add_column("\nKL", justify="right")
    for name, means in [*((layer.name, layer) for layer in found.layers), ("mean", found)]:
        if name == "mean":
            table.add_section()
        parts = [getattr(means, column) for column in columns]
        table.add_row(name, *(f"{number:.3f}" for part in parts for number in (part.cosine, part.kl)))
    console = Console(markup=False)
    console.print(table)
    for line in (verdict(found), *explanation(found)):
        console.print(line, highlight=False)


def _ablation(found: Ablation) -> None:
    from tutelage.report import compared_tables as words
    from tutelage.studies.ablation import TABLES

    (task,) = found.tasks
    for title, names in TABLES.items():
        heads = ("against full", "over seeds", "p, examples", "p, seeds", "shown")
        table = Table("", f"{task.metric} on {task.name}", *heads, title=title, box=SIMPLE_HEAD)
        for name in names:
            if name in found.rows:
                row, gap = found.rows[name], found.against_full(name)
                cells = [""] * len(heads) if gap is None else words.contrast_cells(gap)
                table.add_row(name, words.with_margin(row.mean, row.half), *cells)
        if table.row_count:
            _show(table)
    _read_on(found)


def _compared(found: CompareReport) -> None:
    """Scores and comparisons of each task, and where to read on."""
    from tutelage.report import compared_tables as words
    from tutelage.report.numbers import rounded
    from tutelage.report.words import with_interval

    for task in found.tasks:
        arms = [arm for arm in found.arms if arm.task == task.name]
        contrasts = [one for one in found.contrasts if one.task == task.name]
        teacher = "" if task.teacher_score is None else f"; teacher {rounded(task.teacher_score, 3)}"
        if arms:
            _say(f"\n{task.name}: {task.metric} on {task.part}, {task.examples:,} examples{teacher}")
        for student in dict.fromkeys(arm.student for arm in arms):
            ours = sorted((arm for arm in arms if arm.student == student), key=lambda arm: -arm.mean)
            sizes = ", ".join(dict.fromkeys(f"{arm.parameters / 1e6:.1f} M parameters" for arm in ours))
            table = Table(
                "", task.metric, "to teacher", "steps", title=f"{student or words.OWN}: {sizes}", box=SIMPLE_HEAD
            )
            for arm in ours:
                score, gap = (
                    words.with_margin(arm.mean, arm.half),
                    "" if arm.to_teacher is None else with_interval(arm.to_teacher),
                )
                table.add_row(arm.name, score, gap, f"{arm.steps:,}")
            _show(table)
            table = Table("", "difference", "seeds", "p, examples", "p, seeds", "shown", box=SIMPLE_HEAD)
            for one in contrasts:
                if one.student == student:
                    table.add_row(f"{one.arm} - {one.other}", *words.contrast_cells(one))
            if table.row_count:
                _show(table)
    for line in (words.summary(found), *words.best_lines(found), *words.served_lines(found)):
        _say(line)
    _read_on(found)


def _read_on(found: CompareReport) -> None:
    """What to bear in mind of a comparison, what failed, and where it is written."""
    for note in found.notes:
        _say(f"note: {note}")
    for cell in found.failed:
        student = f" with {cell.student}" if cell.student else ""
        _say(f"FAILED: {cell.method}{student} on {cell.task}, seed {cell.seed}: {cell.error}")
    _say(f"Page: {found.out}/compare.html; also compare.json, arms.csv, contrasts.csv, served.csv and compare.tex")


def _methods(rows: list[MethodRow]) -> None:
    table = Table(title="What each method takes from the teacher, and how", padding=(0, 0, 0, 1))
    for column in ("method", "start", "stage", "on", "learns"):
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "on"))
    for row in rows:
        lines = [
            (s.stage, s.data, "; ".join(f"{part}: {words}" for part, words in s.learns().items())) for s in row.stages
        ]
        for index, cells in enumerate(_series(lines)):
            table.add_row(*((row.method, row.init) if index == 0 else ("", "")), *cells)
    _show(table)


def _series(rows: Iterable[tuple[str, ...]]) -> Iterator[list[str]]:
    """The rows; where numbers count up from one to the next and all else is the same, such as in stages for each layer, one:
    ``layer_1 to 24``."""
    series: list[tuple[str, ...]] = []
    for row in [*rows, ()]:
        if series and not (row and _next(series[-1], row)):
            yield [_from_to(*cells) for cells in zip(series[0], series[-1], strict=True)]
            series = []
        series.append(row)


def _next(before: tuple[str, ...], row: tuple[str, ...]) -> bool:
    """Whether a row is the one before with numbers that are one more, or the same."""
    if [re.sub(r"\d+", "#", cell) for cell in before] != [re.sub(r"\d+", "#", cell) for cell in row]:
        return False
    pairs = zip(re.findall(r"\d+", " ".join(before)), re.findall(r"\d+", " ".join(row)), strict=True)
    return {int(after) - int(first) for first, after in pairs} in ({1}, {0, 1})


def _from_to(first: str, last: str) -> str:
    ends = iter(re.findall(r"\d+", last))
    return re.sub(r"\d+", lambda one: one[0] if (end := next(ends)) == one[0] else f"{one[0]} to {end}", first)


def _yaml(config: RunConfig) -> None:
    from tutelage.recipes.config import to_yaml

    print(to_yaml(config), end="")


def _whole(found: StoreEntry) -> None:
    _say(f"{found.path} is whole")


SHOWN: dict[str, Callable[[Any], None]] = {
    "finetune": _result,
    "pretrain": _result,
    "distill": _result,
    "run": _result,
    "demo": _result,
    "evaluate": _scores,
    "export": _export,
    "shrink": _shrink,
    "gate": _gate,
    "cascade": _cascade,
    "serve": _serve,
    "push": _push,
    "pack": _packed,
    "unpack": _packed,
    "chain": _chain,
    "train_team": _team,
    "show_team": _team,
    "search_knowledge": _search,
    "attention_report": _attention,
    "ablate": _ablation,
    "compare": _compared,
    "methods": _methods,
    "recipe": _yaml,
    "verify_store": _whole,
}
"""By the name of the command's function; others show names and values."""
