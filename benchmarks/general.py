"""Speed of general distillation: tokens a second and share of the machine's peak, beside plain pretraining.

    python benchmarks/general.py --corpus corpus/

Three ways to train the same student on the same instances of a corpus: TinyBERT's general stage (embeddings, hidden states,
attention scores), DistilBERT's (masked words, soft labels, cosine) and masked language modelling without a teacher. A round
times some optimiser steps of each in turn, through the toolkit's own loop. The share of peak compares the
step's matrix products (student forward and twice that backward, the teacher as far as it is read, the head at the masked
words) with one large product in the same run. Writes ``results/general.json`` and ``docs/results/general_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import common
from accelerate import Accelerator
from transformers import BertConfig, BertForMaskedLM, BertModel

from tutelage.data.corpus.reading import Corpus
from tutelage.data.masking import Masking
from tutelage.methods.distilbert import distilbert_general
from tutelage.methods.pretrain import pretrain
from tutelage.methods.tinybert import tinybert
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Recipe
from tutelage.run.corpus import CorpusRun
from tutelage.run.workspace import Bench, new_accelerator
from tutelage.students.specs import Fresh
from tutelage.studies.pages import table
from tutelage.studies.script import Results, Script, settings
from tutelage.training import loop

PAIRS = {
    "4 x 312 of BERT-base": (BertConfig(), Fresh(layers=4, hidden=312, intermediate=1200, heads=12)),
    "4 x 192 of MiniLM": (
        BertConfig(num_hidden_layers=6, hidden_size=384, intermediate_size=1536),
        Fresh(layers=4, hidden=192, intermediate=768, heads=12),
    ),
}
"""Teacher (random weights: speed does not depend on them) and student."""


def recipes(student: Fresh, teacher: str, arguments: argparse.Namespace) -> dict[str, Recipe]:
    masked = Instances(packing="segments", length=arguments.length, masking=Masking())
    pairs = Instances(packing="segments", length=arguments.length)
    made = {
        "TinyBERT": (tinybert(), pairs, student),
        "DistilBERT": (distilbert_general(), masked, student),
        "masked words alone": (pretrain(), masked, student.model_copy(update={"like": teacher})),
    }
    found = {}
    for name, (recipe, data, spec) in made.items():
        stage = recipe.part("general").stages[0]
        given = {
            "data": data,
            "max_steps": arguments.steps,
            "batch_size": arguments.batch,
            "epochs": 1,
            "max_tokens": 4096,
        }
        if name == "DistilBERT":  # the cosine wants equal widths, which this student has not
            given["objective"] = [term for term in stage.objective if term.kind != "hidden"]
        found[name] = recipe.model_copy(update={"student": spec, "stages": [stage.model_copy(update=given)]})
    return found


SCRIPT = Script(__file__, __doc__, "general", length=128, batch=32, steps=4, rounds=3)
SCRIPT.add_argument("--corpus", help="folder of a corpus")
SCRIPT.add_argument("--work", default="/tmp/general-benchmark", type=Path, help="folder of the random teachers")
SCRIPT.add_argument("--mixed-precision", default="bf16", choices=list(common.DTYPES))


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    corpus, precision, entries = Corpus(arguments.corpus), arguments.mixed_precision, []
    peak = common.matmul_peak(common.device(), common.DTYPES[precision])
    for pair, (shape, student) in PAIRS.items():
        folders = {name: arguments.work / pair / name for name in ("body", "words")}
        for name, kind in (("body", BertModel), ("words", BertForMaskedLM)):
            if not folders[name].exists():
                kind(shape).save_pretrained(folders[name])
                corpus.tokenizer.save_pretrained(folders[name])
        scenes = {}
        for name, recipe in recipes(student, str(folders["body"]), arguments).items():
            teacher = {"TinyBERT": str(folders["body"]), "DistilBERT": str(folders["words"])}.get(name)
            config = RunConfig(
                recipe=recipe, teacher=teacher, corpus=arguments.corpus, out="unused", mixed_precision=precision
            )
            accelerator = new_accelerator(precision)
            scenes[name] = CorpusRun(Bench(accelerator, Display(quiet=True)), config), accelerator
        rates: dict[str, list[float]] = {name: [] for name in scenes}
        for turn in range(arguments.rounds + 1):
            for name, (run, accelerator) in scenes.items():
                rate = measured(run, accelerator)
                if turn:  # the first warms up
                    rates[name].append(rate)
        plain = rates["masked words alone"]
        for name, (run, _) in scenes.items():
            per_token = run.plans[0].flops / float(run.feeds[0].lengths(0).mean())
            rate = median(rates[name])
            entries.append(
                {
                    "pair": pair,
                    "stage": name,
                    "tokens_per_second": rate,
                    "mflop_per_token": per_token / 1e6,
                    "share_of_peak": rate * per_token / peak,
                    "against_plain": median([own / other for own, other in zip(rates[name], plain, strict=True)]),
                }
            )
            print(json.dumps(entries[-1]))
    where = common.machine()
    device = f"CPU, {where['threads']} threads" if common.device() == "cpu" else where["device"]
    made = {"device": device, "peak_gflop_per_second": peak / 1e9}
    yield {"settings": settings(arguments), **made, "entries": entries}


def measured(run: CorpusRun, accelerator: Accelerator) -> float:
    """Tokens a second of one short training."""
    stage, plan, feed = run.config.recipe.stages[0], run.objectives[0], run.feeds[0]
    source = None if run.teacher is None else common.live(run.teacher.model, accelerator)
    marks: list[tuple[float, int]] = []

    class Clocked:
        """The feed, noting when a step is read: the first step's warm-up stays out."""

        lengths, rows = feed.lengths, feed.rows

        def read(self, epoch: int, rows: Any) -> Any:
            marks.append((time.perf_counter(), int(feed.lengths(epoch)[rows].sum())))
            return feed.read(epoch, rows)

    with common.distilling(stage.objective, run.student, plan.teacher, source, plan.kind) as (module, teacher):
        loop.train(stage, module, teacher, Clocked(), accelerator, 0)
        common.synchronize()
        ended = time.perf_counter()
    return sum(count for _, count in marks[1:]) / (ended - marks[1][0])


def page(results: Results, out: Path) -> Results:
    rows = []
    for e in results["entries"]:
        rows.append([e["pair"], e["stage"], f"{e['tokens_per_second']:,.0f}", f"{e['mflop_per_token']:.1f}"])
        rows[-1] += [f"{e['share_of_peak']:.0%}", f"{e['against_plain']:.2f}x"]
    told = [
        f"{e['share_of_peak']:.0%} of the machine's peak for a student of {e['pair']}"
        for e in results["entries"]
        if e["stage"] == "TinyBERT"
    ]
    heads = ["student and teacher", "stage", "tokens a second", "MFLOP a token", "share of peak", "against plain"]
    return {**results, "told": " and ".join(told), "rows": table(heads, rows)}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
