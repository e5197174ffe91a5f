"""Simulated teams with known good and bad teachers: does the learned distribution identify them, and does a student gain?

    python experiments/planted_teams.py

Texts have 16 tokens of two classes; the label is the class of the majority. Teachers are tables of logits with a share of
wrong labels: *mixed* is three good and three bad ones, *hostile* two good and four bad, *equals* six alike. The student is a
BERT of 2 layers x 32 with random weights. A distribution is learned by search, selection and a second phase, as in the
published outline (``single``), and by a search as ``autoskdbert`` does it (``corrected``). New students are then trained on
soft labels alone by it, by uniform draws, by the mean of all, and by the good ones. A stopped experiment continues where it
was. Writes ``results/planted_teams.json`` and ``docs/results/planted_teams.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from accelerate import Accelerator
from common import Results
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Known
from tutelage.data.examples import Encoded
from tutelage.mechanisms.mechanism import of_kind
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Weights
from tutelage.methods.autoskdbert import autoskdbert
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Stage
from tutelage.studies.pages import paragraph, shown, table
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import KnownLogits, predict
from tutelage.training import loop

TRAIN, HELD, TEST, LENGTH, WORDS = 1600, 400, 2000, 16, 100
TEAMS: dict[str, list[float | None]] = {
    "mixed": [0.03, 0.08, 0.15, 0.5, None, 0.9],
    "hostile": [0.03, 0.08, 0.5, 0.5, 0.9, 0.9],
    "equals": [0.05] * 6,
}
"""The share of wrong labels in each teacher's table; None is a teacher without an opinion (all logits 0)."""
GOOD = 0.15
TEMPERATURE, BATCH, RATE, FINAL = 2.0, 32, 2e-3, 620
LEARNING = of_kind(autoskdbert().stages[0].mechanisms, Team).learning
SEARCHES: dict[str, dict[str, Any]] = {
    "single": {},
    "reinforce": {"update": "reinforce"},
    "all": {"update": "all"},
    "corrected": {name: getattr(LEARNING, name) for name in ("unseen", "calibrated", "settled")},
    "naive": {"update": "naive"},
    "soft labels only": {},
    "few updates": {},
}
"""Ways to learn the distribution; the last three are controls and expected to fail."""


PARSER = common.options(__doc__, "planted_teams", seeds=5, precision=None)
PARSER.add_argument("--updates", type=int, default=900, help="updates of the distribution in each phase")
PARSER.add_argument("--teams", default=",".join(TEAMS), help="teams, separated by commas")


def measure(arguments: argparse.Namespace) -> Iterator[Results]:
    results: Results = {"updates": arguments.updates, "teams": TEAMS, "runs": []}
    which, parts = common.part(arguments)
    for number, (seed, team) in enumerate((s, t) for s in range(arguments.seeds) for t in arguments.teams.split(",")):
        path = Path(arguments.work) / f"{team}-{seed}-{arguments.updates}.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if before is None and number % parts != which:
            continue
        run = one(team, seed, arguments.updates, before)
        if run != before:
            common.write(path, json.dumps(run, indent=1))
        results["runs"].append(run)
        yield results


# ------------------------------------------------------------------------------------------------------------ one seed


def texts(count: int, generator: np.random.Generator) -> Encoded:
    """Texts after [CLS], of words of both classes at random; where they are as many, the last word changes sides."""
    classes = generator.integers(2, size=(count, LENGTH))
    tied = classes.sum(axis=1) == LENGTH // 2
    classes[tied, -1] = 1 - classes[tied, -1]
    labels = (classes.sum(axis=1) > LENGTH // 2).astype(np.int64)
    words = 2 + classes * WORDS + generator.integers(WORDS, size=classes.shape)
    tokens = np.concatenate([np.ones((count, 1), dtype=np.int64), words], axis=1).astype(np.int32)
    offsets = np.arange(count + 1, dtype=np.int64) * (LENGTH + 1)
    return Encoded(tokens.ravel(), None, offsets, np.zeros(count, dtype=np.bool_), 0, labels=labels)


def tables(team: str, labels: np.ndarray, generator: np.random.Generator) -> list[torch.Tensor]:
    """Each teacher's logits: confident in the label, or in the other one."""
    found = []
    for wrong in TEAMS[team]:
        claimed = labels ^ (generator.random(len(labels)) < (wrong or 0.0))
        logits = np.where(claimed[:, None] == np.arange(2), 2.0, -2.0) + generator.normal(0, 0.3, (len(labels), 2))
        found.append(torch.from_numpy(logits if wrong is not None else np.zeros_like(logits)).float())
    return found


def student(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForSequenceClassification(
        BertConfig(vocab_size=2 + 2 * WORDS, max_position_embeddings=LENGTH + 1, num_labels=2, **sizes)
    )


def one(team: str, seed: int, updates: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """All searches and students of one team and seed; what ``before`` has is not run again."""
    generator = np.random.default_rng([seed, 0x71A])
    encoded, test = texts(TRAIN + HELD, generator), texts(TEST, generator)
    assert encoded.labels is not None and test.labels is not None
    taught = tables(team, encoded.labels, generator)
    held = encoded.take(np.arange(TRAIN, TRAIN + HELD))
    accelerator = Accelerator(cpu=True)

    def train(
        weights: np.ndarray, steps: int, how: Team, labels: float, stage_number: int, search: bool
    ) -> tuple[float, dict[str, Any] | None]:
        """A new student: its accuracy on test, and what was learnt about the team."""
        model = student(seed)
        teacher = TeamTeacher(
            [KnownLogits(table, encoded.logit_rows) for table in taught],
            how,
            Weights(weights),
            KINDS["classification"],
            (seed, stage_number),
            TEMPERATURE,
        )
        objective: list[AnyTerm] = [SoftLabels(temperature=TEMPERATURE, weight=1 - labels), HardLabels(weight=labels)]
        weigher = None
        if how.learning is not None:
            names = [str(number) for number in range(len(taught))]
            weigher = Weigher(
                how.learning,
                teacher,
                model,
                objective[0],
                held,
                [KnownLogits(table[TRAIN:], held.logit_rows) for table in taught],
                KINDS["classification"],
                accelerator,
                (seed, stage_number),
                names,
            )
        stage = Stage(
            name=f"stage{stage_number}",
            objective=objective,
            epochs=steps,
            max_steps=steps,
            lr=RATE,
            batch_size=BATCH,
            select="last",
        )
        shape = anatomy.shape_of(model.config)
        lesson = loop.DistillationModule(
            model, Objective(stage.objective, KINDS[KINDS["classification"]], shape, shape)
        )
        rows = np.arange(TRAIN if search else TRAIN + HELD)
        loop.train(
            stage, lesson, teacher, Known(encoded, rows), accelerator, seed, hooks=[] if weigher is None else [weigher]
        )
        right = predict(model, test, accelerator).argmax(dim=1).numpy() == test.labels
        return float(right.mean()), None if weigher is None else weigher.record()

    uniform = np.full(len(taught), 1 / len(taught))
    good = np.array([wrong is not None and wrong <= GOOD for wrong in TEAMS[team]])
    result: dict[str, Any] = {"team": team, "seed": seed, "search": {}, "accuracy": {}}
    known = before or result
    for name, choice in SEARCHES.items():
        if name in known["search"]:
            result["search"][name] = known["search"][name]
            continue
        if team == "equals" and name not in ("single", "corrected", "naive"):
            continue
        labels, steps = (0.0 if name == "soft labels only" else 0.5), (120 if name == "few updates" else updates)
        how = Team(learning=Learning(**choice))
        accuracy, record = train(uniform, steps, how, labels, 0, True)
        assert record is not None
        result["search"][name] = {
            "q": record["probabilities"],
            "next": record["next"],
            "kept": [int(k) for k in record["kept"]],
            "student": accuracy,
        }
        if name == "single" and team != "equals":
            after = np.array(record["next"])
            how = Team(learning=Learning(**choice, keep=None))
            _, record = train(after, updates, how, labels, 1, True)
            assert record is not None
            result["search"][name]["refined"] = record["probabilities"]
    if team == "equals":
        return result
    found = result["search"]
    finals = {
        "uniform draws": (uniform, Team()),
        "mean of all": (uniform, Team(combine="average")),
        "good ones, uniform draws": (good / good.sum(), Team()),
        "learnt, after selection": (np.array(found["single"]["next"]), Team()),
        "learnt, refined": (np.array(found["single"]["refined"]), Team()),
        "learnt jointly, after selection": (np.array(found["all"]["next"]), Team()),
        "learnt by policy gradient, after selection": (np.array(found["reinforce"]["next"]), Team()),
        "learnt as corrected, after selection": (np.array(found["corrected"]["next"]), Team()),
        "what soft labels alone have left": (np.array(found["soft labels only"]["next"]), Team()),
    }
    for name, (weights, how) in finals.items():
        done = known["accuracy"].get(name)
        result["accuracy"][name] = train(weights, FINAL, how, 0.0, 2, False)[0] if done is None else done
    return result


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: Results, out: str) -> str:
    lines, takeaways = [], []
    for team, teachers in results["teams"].items():
        runs = common.of(results["runs"], team=team)
        if not runs:
            continue
        good = [number for number, wrong in enumerate(teachers) if wrong is not None and wrong <= GOOD]
        bad = [number for number in range(len(teachers)) if number not in good]
        titles = ["no opinion" if wrong is None else f"{wrong:.2f} wrong" for wrong in teachers]
        cells = []
        for name in runs[0]["search"]:
            found = [run["search"][name] for run in runs]
            means = [f"{np.mean([one['q'][k] for one in found]):.3f}" for k in range(len(teachers))]
            kept = f"{sum(counts(runs, name, bad))} of {len(bad) * len(runs)}" if bad else "-"
            every = len(good) * len(runs)
            cells.append([name, *means, kept, f"{every - sum(counts(runs, name, good))} of {every}"])
        lines += [f"## {team}, {len(runs)} seeds", ""]
        lines += table(["learned by", *titles, "bad ones kept", "good ones dropped"], cells)
        accuracies = {name: [run["accuracy"][name] for run in runs] for name in runs[0]["accuracy"]}
        if accuracies:
            base = accuracies["uniform draws"]
            cells = [
                [name, shown(v), "-" if name == "uniform draws" else shown([*np.subtract(v, base)], "+")]
                for name, v in accuracies.items()
            ]
            lines += table(["student trained by", "accuracy", "against uniform draws"], cells)
            takeaways.append(
                f"of {team}, {sum(counts(runs, 'single', bad))} of {len(bad) * len(runs)} bad teachers are kept and the "
                f"student reaches {shown(accuracies['learnt, refined'])} instead of {shown(base)} by uniform draws"
            )
        lines += paragraph(judged_team(team, runs, good, bad))
    return "\n".join(
        [
            *common.opening(
                "Simulated teams with known good and bad teachers",
                f"The learned distribution identifies the bad teachers: {'; '.join(takeaways)}.",
            ),
            *lines,
            *["## How it was made", "", f"    {common.command(PARSER, {'updates': results['updates']}, '')}", ""],
            *paragraph(
                f"""Results: `{out}`. Texts of {LENGTH} words of two classes of {WORDS} (with fewer, uniform draws from the
                mixed team are at the ceiling); the label is the class of the majority. {TRAIN:,} texts train the student,
                {HELD} the weights of the teachers, {TEST:,} are the evaluation set. Teachers are tables of logits with a share
                of wrong labels. The student (BERT, 2 layers x 32, random weights) takes {results["updates"]} updates in each
                phase of the search, with half of its loss from the labels, and then {FINAL} steps on soft labels alone.
                Probabilities are after the first phase; a teacher is dropped below half of a uniform team's ({0.5 / 6:.3f}).
                `corrected` is `single` with what the method adds to the published outline: teachers are judged on held-out
                examples, rewards use calibrated predictions, log-weights are averaged over the phase's second half. Means over
                seeds with half of the 95 % t-interval; differences are paired by seed."""
            ),
        ]
    )


def counts(runs: common.Runs, name: str, teachers: list[int]) -> list[int]:
    """How many of these teachers each run keeps."""
    return [sum(k in run["search"][name]["kept"] for k in teachers) for run in runs]


def judged_team(team: str, runs: common.Runs, good: list[int], bad: list[int]) -> str:
    """What was expected of a team, and whether it held."""

    def gain(over: str, name: str = "learnt, refined") -> float:
        return 100 * float(np.mean([run["accuracy"][name] - run["accuracy"][over] for run in runs]))

    tops, ours, naive = ([max(run["search"][name]["q"]) for run in runs] for name in ("single", "corrected", "naive"))
    if team == "equals":
        return (
            f"Six alike keep similar probabilities: the largest is {max(tops):.2f} at most (a uniform team's is 0.17), as "
            f"corrected {max(ours):.2f}. By the naive update it is {min(naive):.2f} at least."
        )
    best = [k for k in good if (TEAMS[team][k] or 0) <= 0.08]
    cases, lows = len(best) * len(runs), [run["search"]["single"]["q"] for run in runs]
    lowest = all(max(q[k] for k in bad) < min(q[k] for k in good) for q in lows)
    return (
        f"Teachers that are wrong on at most 8 % are kept in {sum(counts(runs, 'single', best))} of {cases} cases, bad ones in "
        f"{sum(counts(runs, 'single', bad))} of {len(bad) * len(runs)}. Bad teachers have the lowest probabilities in "
        f"{'every seed' if lowest else 'not every seed'}. Students of the learned distribution are "
        f"{gain('uniform draws'):+.1f} points from those of uniform draws, {gain('mean of all'):+.1f} from the mean of all and "
        f"{gain('good ones, uniform draws'):+.1f} from the good ones alone. Controls: by the naive update the largest "
        f"probability is {min(naive):.2f} at least (by `single` {max(tops):.2f} at most); soft labels alone keep "
        f"{sum(counts(runs, 'soft labels only', bad))} bad ones, few updates {sum(counts(runs, 'few updates', bad))}. As "
        f"corrected, those wrong on at most 8 % are kept in {sum(counts(runs, 'corrected', best))} of {cases} cases, bad ones "
        f"in {sum(counts(runs, 'corrected', bad))} of {len(bad) * len(runs)}, and the student is "
        f"{gain('good ones, uniform draws', 'learnt as corrected, after selection'):+.1f} points from the good ones alone."
    )


if __name__ == "__main__":
    common.conduct(PARSER, measure, page)
