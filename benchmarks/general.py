"""How fast general distillation is: tokens a second and its share of what its operations need, beside plain pretraining.

    python benchmarks/corpus.py --corpus corpus/

Three ways to train the same student on the same instances of a corpus: TinyBERT's general stage (embeddings, hidden states,
attention scores), DistilBERT's (masked words, soft labels, cosine) and masked language modelling without a teacher. A round
times some optimiser steps of each in turn, through the toolkit's own loop. The floor is the time that the matrix products of a
step would take at the speed of the largest product measured in the same run: student forwards and twice that backwards, the
teacher as far as it is read, the head at the masked words. Writes ``results/general.json`` and ``docs/results/general_speed.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from offline import matmul_peak
from transformers import BertConfig, BertForMaskedLM, BertModel

from tutelage.artifacts import write_text
from tutelage.data.corpus.reading import Corpus
from tutelage.data.masking import Masking
from tutelage.methods.distilbert import distilbert_general
from tutelage.methods.pretrain import pretrain
from tutelage.methods.tinybert import tinybert
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Recipe
from tutelage.run import corpus
from tutelage.run.workspace import new_accelerator
from tutelage.students.specs import Fresh
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--work", default="/tmp/general-benchmark", help="where the random teachers are written")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed-precision", default="bf16", choices=["no", "bf16", "fp16"])
    parser.add_argument("--out", default="results/general.json")
    arguments = parser.parse_args()
    work, corpus = Path(arguments.work), Corpus(arguments.corpus)
    peak = matmul_peak(arguments.mixed_precision)
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
            scenes[name] = corpus.prepare(config, accelerator), accelerator
        rates: dict[str, list[float]] = {name: [] for name in scenes}
        for turn in range(arguments.rounds + 1):
            for name, (setup, accelerator) in scenes.items():
                rate = measured(setup, accelerator)
                if turn:  # the first warms up
                    rates[name].append(rate)
        plain = rates["masked words alone"]
        for name, (setup, _) in scenes.items():
            stage = setup.config.recipe.stages[0]
            per_token = corpus.step_flops(setup, stage) / float(setup.feeds[0].lengths(0).mean())
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
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    result = {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("corpus", "work", "out")},
        "device": device,
        "peak_gflop_per_second": peak / 1e9,
        "entries": entries,
    }
    write_text(Path(arguments.out), json.dumps(result, indent=1) + "\n")
    write_text(Path("docs/results/general_speed.md"), page(result))


def measured(setup: corpus.Setup, accelerator: Any) -> float:
    """Tokens a second of one short training."""
    stage = setup.config.recipe.stages[0]
    objective = corpus.objective_of(setup, stage).to(accelerator.device)
    teacher = None
    if setup.teacher is not None:
        teacher = LiveTeacher(
            setup.teacher.model.to(accelerator.device), objective.plan.teacher_needs, None, accelerator
        )
    lesson = loop.DistillationModule(setup.student, objective)
    marks: list[tuple[float, int]] = []

    class Clocked(corpus.Drawn):
        """The feed, noting when a step is read: the first step's warm-up stays out."""

        def read(self, epoch: int, rows: Any) -> Any:
            marks.append((time.perf_counter(), int(self.lengths(epoch)[rows].sum())))
            return super().read(epoch, rows)

    feed = setup.feeds[0]
    clocked = Clocked.__new__(Clocked)
    clocked.__dict__.update(feed.__dict__)
    loop.train(stage, lesson, teacher, clocked, accelerator, 0)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    ended = time.perf_counter()
    lesson.close()
    if teacher is not None:
        teacher.close()
    return sum(count for _, count in marks[1:]) / (ended - marks[1][0])


def page(result: dict[str, Any]) -> str:
    settings = result["settings"]
    lines = [
        "# Speed of the general stage",
        "",
        f"Made by `python benchmarks/corpus.py --corpus corpus/` on {result['device']}, {settings['mixed_precision']}: steps of",
        f"{settings['batch']} segments of at most {settings['length']} tokens. *Share of peak* is the step's matrix products over",
        f"what the machine does in one large product ({result['peak_gflop_per_second']:,.0f} GFLOP/s here); *against plain* is the",
        "speed against training the same student on masked words without a teacher, in the same round. DistilBERT's cosine, which",
        "wants equal widths, is left out.",
        "",
        "| student and teacher | stage | tokens a second | MFLOP a token | share of peak | against plain |",
        "|---|---|---|---|---|---|",
    ]
    for entry in result["entries"]:
        lines.append(
            f"| {entry['pair']} | {entry['stage']} | {entry['tokens_per_second']:,.0f} | {entry['mflop_per_token']:.1f} | "
            f"{entry['share_of_peak']:.0%} | {entry['against_plain']:.2f}x |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
