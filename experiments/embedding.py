"""Sentence vectors: a 3-layer student of all-mpnet-base-v2, beside a published encoder of the same size, on STS-B.

    python experiments/embedding.py --data-dir path/to/data --models path/to/models

distils all-mpnet-base-v2 (12 layers x 768) into 3 layers x 384 that start as three layers of all-MiniLM-L6-v2, which short trials
choose. Texts: half sentences of STS-B's, MRPC's and RTE's training sets, half sentences of a corpus of Wikipedia, drawn once; no
label is read. The teacher reads every text once, its vectors lie in a store. Scored on STS-B dev by Spearman's correlation, beside
paraphrase-MiniLM-L3-v2 and all-MiniLM-L6-v2. A stopped experiment continues where it was. Writes ``results/embedding.json`` and
``docs/results/embedding.md``.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np

from tutelage.data.config import DataConfig
from tutelage.knowledge.store import writing
from tutelage.methods import METHODS
from tutelage.recipes.recipe import Recipe
from tutelage.run.measure import evaluate
from tutelage.students.specs import Copied, Fresh, Student
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Arguments, Results, before, settings, write
from tutelage.studies.study import interval

TEACHER, START = "all-mpnet-base-v2", "all-MiniLM-L6-v2"
REFERENCES = ("paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2")
ARMS = ("similarity", "kd", "fresh")
TASKS = {"STS-B": ("sentence1", "sentence2"), "MRPC": ("#1 String", "#2 String"), "RTE": ("sentence1", "sentence2")}
LONGEST = 30
"""Most words of a sentence from the corpus."""

PLACES = "--data-dir path/to/data --models path/to/models"
SCRIPT = common.options(__file__, __doc__, "embedding", seeds=1, precision="no", places=PLACES)
SCRIPT.add_argument("--models", help="folder of the pretrained encoders")
SCRIPT.add_argument("--texts", type=int, default=60_000)
SCRIPT.add_argument("--epochs", type=int, default=8)
SCRIPT.add_argument("--lr", type=float, default=2e-4)
SCRIPT.add_argument("--arms", default=",".join(ARMS), help="arms, separated by commas")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def task_sentences(folder: Path) -> list[str]:
    found = [
        row[column]
        for task, columns in TASKS.items()
        for row in rows_of(folder / "glue" / task / "train.tsv")
        for column in columns
        if row[column] and len(row[column].split()) <= LONGEST
    ]
    return list(dict.fromkeys(found))


def corpus_sentences(folder: Path, count: int) -> list[str]:
    """The first sentence of paragraphs, which stands for itself best."""
    found: list[str] = []
    for path in sorted((folder / "corpus").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            firsts = (re.split(r"(?<=[.!?]) ", line.strip(), maxsplit=1)[0] for line in file)
            found += [one for one in firsts if 5 <= len(one.split()) <= LONGEST]
    found = list(dict.fromkeys(found))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


def data_for(arguments: Arguments) -> DataConfig:
    folder, work = Path(str(arguments.data_dir)), Path(arguments.work)
    train, dev = work / f"texts-{arguments.texts}.txt", work / "stsb-dev.jsonl"
    if not train.exists():
        known = task_sentences(folder)
        half = [known[i] for i in np.random.default_rng(0).permutation(len(known))[: arguments.texts // 2]]
        lines = half + corpus_sentences(folder, arguments.texts - len(half))
        write(train, "\n".join(" ".join(line.split()) for line in lines) + "\n")
    if not dev.exists():
        names = {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
        rows = [{name: row[column] for name, column in names.items()} for row in rows_of(folder / "glue/STS-B/dev.tsv")]
        write(dev, "".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(train=str(train), dev=str(dev), kind="embedding", text_pair="text_pair", max_length=64)


def recipe_for(arm: str, arguments: Arguments) -> Recipe:
    recipe = METHODS["kd" if arm == "kd" else "similarity"]()
    changed = {"epochs": arguments.epochs, "lr": arguments.lr, "batch_size": 64}
    start = str(Path(arguments.models) / START)
    student: Student = Copied(layers=3, source=start)
    if arm == "fresh":
        student = Fresh(layers=3, hidden=384, heads=12, intermediate=1536, like=start)
    return recipe.model_copy(
        update={"student": student, "stages": [stage.model_copy(update=changed) for stage in recipe.stages]}
    )


def measure(arguments: Arguments) -> Iterator[Results]:
    os.environ.setdefault("TUTELAGE_STORES", str((Path(arguments.work) / "stores").absolute()))
    writing.SHARD_EXAMPLES = 1024  # minutes of the teacher on one core: no more is lost when the experiment is stopped
    data, models = data_for(arguments), Path(arguments.models)
    results: Results = {
        "settings": settings(arguments),
        "references": before(arguments.out).get("references", {}),
        "runs": [],
    }
    for name in REFERENCES:
        if name not in results["references"]:
            found = evaluate(str(models / name), data, quiet=True)
            results["references"][name] = next(iter(found.scores.values()))
            yield results

    def more(config: Any, report: dict[str, Any]) -> Results:
        parts = {who: report[who] for who in ("teacher", "baseline") if report[who]}
        return {
            who: {**next(iter(part["scores"].values())), "parameters": part["parameters"]}
            for who, part in parts.items()
        } | {"parameters": report["student"]["parameters"], "texts": report["data"]["train"]}

    for arm in arguments.arms.split(","):
        results["runs"] += common.carry_out(
            arguments, Path(arguments.work) / f"runs-{arguments.texts}", {arm: recipe_for(arm, arguments)}, data,
            range(arguments.seeds), keys=("speedup",), teacher=str(models / TEACHER), teacher_store="auto",
            baseline=True, more=more,
        )  # fmt: skip
        yield results


def page(results: Results) -> Results:
    runs, references = results["runs"], results["references"]
    small = references.get(REFERENCES[0], {}).get("spearman", float("nan"))
    lines, takeaway = [], "No run is finished."
    if runs:
        first = runs[0]
        teacher = first["teacher"]
        best = {
            arm: interval([*common.scores(runs, "spearman", arm=arm).values()]).mean
            for arm in dict.fromkeys(r["arm"] for r in runs)
        }
        arm = max(best, key=lambda name: best[name])
        takeaway = (
            f"Three layers distilled from {TEACHER} on {first['texts']:,} texts without labels reach Spearman {best[arm]:.3f} on "
            f"STS-B dev; {REFERENCES[0]}, of the same size, has {small:.3f}."
        )
        cells = [[f"{TEACHER} (teacher)", f"{teacher['parameters'] / 1e6:.1f} M", f"{teacher['spearman']:.4f}", ""]]
        cells += [[name, "", f"{scores['spearman']:.4f}", ""] for name, scores in references.items()]
        for one in best:
            mine = common.of(runs, arm=one)
            values = [*common.scores(runs, "spearman", arm=one).values()]
            start = [run["baseline"]["spearman"] for run in mine]
            cells.append([one, f"{mine[0]['parameters'] / 1e6:.1f} M", shown(values, digits=4), shown(start, digits=4)])
        lines = table(["model", "parameters", "Spearman", "before training"], cells)
    return {"takeaway": takeaway, "models": lines, "small": REFERENCES[0], "start": START}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
