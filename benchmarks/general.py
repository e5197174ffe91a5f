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
from pathlib import Path
from statistics import median
from typing import Any

import common
from common import Results
from transformers import BertConfig, BertForMaskedLM, BertModel

from tutelage.data.corpus.reading import Corpus
from tutelage.data.masking import Masking
from tutelage.methods.distilbert import distilbert_general
from tutelage.methods.pretrain import pretrain
from tutelage.methods.tinybert import tinybert
from tutelage.objectives.objective import Objective
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Recipe
from tutelage.run.corpus import CorpusRun, Drawn
from tutelage.run.workspace import Bench, new_accelerator
from tutelage.students.specs import Fresh
from tutelage.studies.pages import table
from tutelage.teachers.teacher import LiveTeacher
from tutelage.training import loop

PAIRS = {
    "4 x 312 of BERT-base": (BertConfig(), Fresh(layers=4, hidden=312, intermediate=1200, heads=12)),
    "4 x 192 of MiniLM": (
        BertConfig(num_hidden_layers=6, hidden_size=384, intermediate_size=1536),
        Fresh(layers=4, hidden=192, intermediate=768, heads=12),
    ),
}
"""Teacher (random weights: speed does not depend on them) and student."""


def recipes(student: Fresh, teacher: str, length: int, steps: int, batch: int) -> dict[str, Recipe]:
    masked = Instances(packing="segments", length=length, masking=Masking())
    pairs = Instances(packing="segments", length=length)
    found = {}
    for name, recipe, data in (
        ("TinyBERT", tinybert(), pairs),
        ("DistilBERT", distilbert_general(), masked),
        ("masked words alone", pretrain(), masked),
    ):
        stage = (
            recipe.part("general")
            .stages[0]
            .model_copy(update={"data": data, "max_steps": steps, "batch_size": batch, "epochs": 1, "max_tokens": 4096})
        )
        spec = student.model_copy(update={"like": teacher} if name == "masked words alone" else {})
        if name == "DistilBERT":  # the cosine wants equal widths, which this student has not
            terms = [term for term in stage.objective if term.kind != "hidden"]
            stage = stage.model_copy(update={"objective": terms})
        found[name] = recipe.model_copy(update={"student": spec, "stages": [stage]})
    return found


PARSER = common.options(__doc__, "general", length=128, batch=32, steps=4, rounds=3)
PARSER.add_argument("--corpus", help="folder of a corpus")
PARSER.add_argument("--work", default="/tmp/general-benchmark", help="folder of the random teachers")
PARSER.add_argument("--mixed-precision", default="bf16", choices=list(common.DTYPES))


def measure(arguments: argparse.Namespace) -> Results:
    work, corpus = Path(arguments.work), Corpus(arguments.corpus)
    peak = common.matmul_peak(common.device(), common.DTYPES[arguments.mixed_precision])
    entries = []
    for pair, (shape, student) in PAIRS.items():
        for name, kind in (("body", BertModel), ("words", BertForMaskedLM)):
            if not (work / pair / name).exists():
                kind(shape).save_pretrained(work / pair / name)
                corpus.tokenizer.save_pretrained(work / pair / name)
        scenes = {}
        for name, recipe in recipes(
            student, str(work / pair / "body"), arguments.length, arguments.steps, arguments.batch
        ).items():
            teacher = {"TinyBERT": "body", "DistilBERT": "words"}.get(name)
            config = RunConfig(
                recipe=recipe,
                teacher=None if teacher is None else str(work / pair / teacher),
                corpus=arguments.corpus,
                out="unused",
                mixed_precision=arguments.mixed_precision,
            )
            accelerator = new_accelerator(arguments.mixed_precision)
            scenes[name] = CorpusRun(Bench(accelerator, Display(quiet=True)), config), accelerator
        rates: dict[str, list[float]] = {name: [] for name in scenes}
        for turn in range(arguments.rounds + 1):
            for name, (setup, accelerator) in scenes.items():
                rate = measured(setup, accelerator)
                if turn:  # the first warms up
                    rates[name].append(rate)
        plain = rates["masked words alone"]
        for name, (setup, _) in scenes.items():
            per_token = setup.plans[0].flops / float(setup.feeds[0].lengths(0).mean())
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
    return {
        "settings": common.settings(arguments, "corpus", "work"),
        "device": f"CPU, {where['threads']} threads" if common.device() == "cpu" else where["device"],
        "peak_gflop_per_second": peak / 1e9,
        "entries": entries,
    }


def measured(setup: CorpusRun, accelerator: Any) -> float:
    """Tokens a second of one short training."""
    stage, plan = setup.config.recipe.stages[0], setup.objectives[0]
    objective = Objective(stage.objective, plan.kind, plan.student, plan.teacher).to(accelerator.device)
    teacher = None
    if setup.teacher is not None:
        teacher = LiveTeacher(
            setup.teacher.model.to(accelerator.device), objective.plan.teacher_needs, None, accelerator
        )
    lesson = loop.DistillationModule(setup.student, objective)
    marks: list[tuple[float, int]] = []

    class Clocked(Drawn):
        """The feed, noting when a step is read: the first step's warm-up stays out."""

        def read(self, epoch: int, rows: Any) -> Any:
            marks.append((time.perf_counter(), int(self.lengths(epoch)[rows].sum())))
            return super().read(epoch, rows)

    feed = setup.feeds[0]
    clocked = Clocked.__new__(Clocked)
    clocked.__dict__.update(feed.__dict__)
    loop.train(stage, lesson, teacher, clocked, accelerator, 0)
    common.synchronize()
    ended = time.perf_counter()
    lesson.close()
    if teacher is not None:
        teacher.close()
    return sum(count for _, count in marks[1:]) / (ended - marks[1][0])


def page(result: Results, out: Path) -> str:
    settings, entries = result["settings"], result["entries"]
    rows = [
        [
            entry["pair"],
            entry["stage"],
            f"{entry['tokens_per_second']:,.0f}",
            f"{entry['mflop_per_token']:.1f}",
            f"{entry['share_of_peak']:.0%}",
            f"{entry['against_plain']:.2f}x",
        ]
        for entry in entries
    ]
    told = [
        f"{entry['share_of_peak']:.0%} of the machine's peak for a student of {entry['pair']}"
        for entry in entries
        if entry["stage"] == "TinyBERT"
    ]
    heads = ["student and teacher", "stage", "tokens a second", "MFLOP a token", "share of peak", "against plain"]
    return "\n".join(
        [
            *common.opening("Speed of the general stage", f"TinyBERT's general stage runs at {' and '.join(told)}."),
            *table(heads, rows),
            *common.made(
                "python benchmarks/general.py --corpus corpus/",
                f"""Results: `{out}`. Steps of {settings["batch"]} segments of at most {settings["length"]} tokens on
                {result["device"]}, {settings["mixed_precision"]}. *Share of peak* is the speed of the step's matrix products over
                that of one large product ({result["peak_gflop_per_second"]:,.0f} GFLOP/s here). *Against plain* is the speed
                against training the same student on masked words without a teacher, in the same round. DistilBERT's cosine,
                which needs equal widths, is left out.""",
            ),
        ]
    )


if __name__ == "__main__":
    common.conduct(PARSER, measure, page)
