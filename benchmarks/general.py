"""Speed of general distillation: tokens a second and share of the machine's peak, beside plain pretraining.

    python benchmarks/general.py --corpus corpus/

Three ways to train the same student on the same instances of a corpus: TinyBERT's general stage (embeddings, hidden states,
attention scores), DistilBERT's (masked words, soft labels, cosine) and masked language modelling without a teacher. A round
times some optimiser steps of each in turn, through the toolkit's own loop. The share of peak compares the
step's matrix products (student forward and twice that backward, the teacher as far as it is read, the head at the masked
words) with one large product in the same run. Writes ``results/general.json`` and ``docs/results/general_speed.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import common
from accelerate import Accelerator
from transformers import BertConfig, BertForMaskedLM, BertModel

from tutelage import Fresh, Instances, Recipe, RunConfig
from tutelage.data.corpus.reading import Corpus
from tutelage.data.masking import Masking
from tutelage.methods import distilbert_general, pretrain, tinybert
from tutelage.progress import Display
from tutelage.run.corpus import CorpusRun
from tutelage.run.workspace import Bench, new_accelerator
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, Script, settings

MINILM = BertConfig(num_hidden_layers=6, hidden_size=384, intermediate_size=1536)
PAIRS = {
    "4 x 312 of BERT-base": (BertConfig(), Fresh(layers=4, hidden=312, intermediate=1200, heads=12)),
    "4 x 192 of MiniLM": (MINILM, Fresh(layers=4, hidden=192, intermediate=768, heads=12)),
}
"""Teacher (random weights: speed does not depend on them) and student."""


def recipes(student: Fresh, teacher: str, arguments: Arguments) -> dict[str, Recipe]:
    pairs = Instances(packing="segments", length=arguments.length)
    masked = pairs.model_copy(update={"masking": Masking()})
    made = {
        "TinyBERT": (tinybert(), pairs, student),
        "DistilBERT": (distilbert_general(), masked, student),
        "masked words alone": (pretrain(), masked, student.model_copy(update={"like": teacher})),
    }
    found = {}
    for name, (recipe, data, spec) in made.items():
        stage = recipe.part("general").stages[0]
        given = {"data": data, "max_steps": arguments.steps, "batch_size": arguments.batch}
        given |= {"epochs": 1, "max_tokens": 4096}
        if name == "DistilBERT":  # the cosine wants equal widths, which this student has not
            given["objective"] = [term for term in stage.objective if term.kind != "hidden"]
        found[name] = recipe.model_copy(update={"student": spec, "stages": [stage.model_copy(update=given)]})
    return found


SCRIPT = Script(__file__, __doc__, "general", length=128, batch=32, steps=4, rounds=3)
SCRIPT.add_argument("--corpus", help="folder of a corpus")
SCRIPT.add_argument("--work", default="/tmp/general-benchmark", type=Path, help="folder of the random teachers")
SCRIPT.add_argument("--mixed-precision", default="bf16", choices=list(common.DTYPES))


def measure(arguments: Arguments) -> Iterator[Results]:
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
            given = {"teacher": teacher, "corpus": arguments.corpus, "out": "unused", "mixed_precision": precision}
            desk = Bench(new_accelerator(precision), Display(quiet=True))
            scenes[name] = CorpusRun(desk, RunConfig(recipe=recipe, **given)), desk.accelerator
        sides = {name: partial(measured, *scene) for name, scene in scenes.items()}
        rates = common.in_turns(sides, arguments.rounds, common.own)
        for name, (run, _) in scenes.items():
            per_token = run.plans[0].flops / float(run.feeds[0].lengths(0).mean())
            rate, plain = median(rates[name]), rates["masked words alone"]
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
            print(entries[-1])
    where = common.machine()
    device = f"CPU, {where['threads']} threads" if common.device() == "cpu" else where["device"]
    made = {"device": device, "peak_gflop_per_second": peak / 1e9}
    yield {"settings": settings(arguments), **made, "entries": entries}


def measured(run: CorpusRun, accelerator: Accelerator) -> float:
    """Tokens a second of one short training."""
    stage, plan = run.config.recipe.stages[0], run.objectives[0]
    source = None if run.teacher is None else common.live(run.teacher.model, accelerator)
    with common.distilling(stage.objective, run.student, plan.teacher, source, plan.kind) as (module, teacher):
        seconds, _, tokens = common.timed_steps(stage, module, teacher, run.feeds[0], accelerator)
    return tokens / seconds


COLUMNS = {
    "student and teacher": "{pair}",
    "stage": "{stage}",
    "tokens a second": "{tokens_per_second:,.0f}",
    "MFLOP a token": "{mflop_per_token:.1f}",
    "share of peak": "{share_of_peak:.0%}",
    "against plain": "{against_plain:.2f}x",
}


def page(results: Results) -> Results:
    told = "{share_of_peak:.0%} of the machine's peak for a student of {pair}"
    whole = [told.format(**entry) for entry in results["entries"] if entry["stage"] == "TinyBERT"]
    return {**results, "told": " and ".join(whole), "rows": tabled(COLUMNS, results["entries"])}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
