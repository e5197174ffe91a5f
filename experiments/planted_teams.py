"""Simulated teams with known good and bad teachers: does the learned distribution identify them, and does a student gain?

    python experiments/planted_teams.py

Teachers are tables of logits with a share of wrong labels: *mixed* is three good and three bad ones, *hostile* two good and
four bad, *equals* six alike. A distribution is learned by search, selection and a second phase, as in the published outline
(``single``), and by a search as ``autoskdbert`` does it (``corrected``). New students are then trained on soft labels alone
by it, by uniform draws, by the mean of all, and by the good ones. A stopped experiment continues where it was. Writes
``results/planted_teams.json`` and ``docs/results/planted_teams.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import common
import numpy as np
import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tutelage import HardLabels, SoftLabels, Stage, anatomy
from tutelage.data.batches import Known
from tutelage.data.examples import Encoded
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Weights
from tutelage.methods import autoskdbert
from tutelage.objectives.objective import Objective
from tutelage.studies.pages import shown, table, tabled
from tutelage.studies.script import Arguments, Results, once
from tutelage.studies.study import paired
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import KnownLogits, predict
from tutelage.training import loop

TRAIN, HELD, TEST, LENGTH, WORDS = 1600, 400, 2000, 16, 100
TEAMS = {
    "mixed": [0.03, 0.08, 0.15, 0.5, None, 0.9],
    "hostile": [0.03, 0.08, 0.5, 0.5, 0.9, 0.9],
    "equals": [0.05] * 6,
}
"""The share of wrong labels in each teacher's table; None is a teacher without an opinion (all logits 0)."""
GOOD = 0.15
TEMPERATURE, BATCH, RATE, FINAL = 2.0, 32, 2e-3, 620
LEARNING = autoskdbert().stages[0].mechanisms[0].learning
SEARCHES = {
    "single": {},
    "reinforce": {"update": "reinforce"},
    "all": {"update": "all"},
    "corrected": {name: getattr(LEARNING, name) for name in ("unseen", "calibrated", "settled")},
    "naive": {"update": "naive"},
    "soft labels only": {},
    "few updates": {},
}
"""Ways to learn the distribution; the last three are controls and expected to fail."""


SCRIPT = common.options(__file__, __doc__, "planted_teams", seeds=5, precision=None, places="")
SCRIPT.add_argument("--updates", type=int, default=900, help="updates of the distribution in each phase")


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"updates": arguments.updates, "teams": TEAMS, "runs": []}
    which, parts = common.part(arguments)
    for number, (seed, team) in enumerate(product(range(arguments.seeds), TEAMS)):
        path = arguments.work / f"{team}-{seed}-{arguments.updates}.json"
        if number % parts == which or path.exists():
            results["runs"].append(once(path, partial(one, team, seed, arguments.updates)))
            yield results


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


class Trial:
    """Texts and the teachers' tables of one team and seed."""

    def __init__(self, team: str, seed: int) -> None:
        generator = np.random.default_rng([seed, 0x71A])
        self.seed, self.encoded, self.test = seed, texts(TRAIN + HELD, generator), texts(TEST, generator)
        self.tables = tables(team, self.encoded.labels, generator)

    def train(
        self, weights: np.ndarray, how: Team, steps: int, labels: float = 0.0, number: int = 2
    ) -> tuple[float, Results]:
        """A new student: its accuracy on the evaluation set, and what a stage that learns has learned about the team."""
        model, place, kind = student(self.seed), (self.seed, number), KINDS["classification"]
        known = [KnownLogits(table, self.encoded.logit_rows) for table in self.tables]
        teacher = TeamTeacher(known, how, Weights(weights), kind, place, TEMPERATURE)
        soft = SoftLabels(temperature=TEMPERATURE, weight=1 - labels)
        accelerator, hooks = Accelerator(cpu=True), []
        if how.learning is not None:
            held = self.encoded.take(np.arange(TRAIN, TRAIN + HELD))
            predictions = [KnownLogits(table[TRAIN:], held.logit_rows) for table in self.tables]
            names = [str(member) for member in range(len(known))]
            hooks = [Weigher(how.learning, teacher, model, soft, held, predictions, kind, accelerator, place, names)]
        taken = {"epochs": steps, "max_steps": steps, "lr": RATE, "batch_size": BATCH, "select": "last"}
        stage = Stage(name=f"stage{number}", objective=[soft, HardLabels(weight=labels)], **taken)
        shape = anatomy.shape_of(model.config)
        module = loop.DistillationModule(model, Objective(stage.objective, kind, shape, shape))
        feed = Known(self.encoded, np.arange(TRAIN if hooks else TRAIN + HELD))
        loop.train(stage, module, teacher, feed, accelerator, self.seed, hooks=hooks)
        right = predict(model, self.test, accelerator).argmax(dim=1).numpy() == self.test.labels
        return float(right.mean()), hooks[0].record() if hooks else {}


def one(team: str, seed: int, updates: int) -> Results:
    """All searches and students of one team and seed."""
    trial, members, equals = Trial(team, seed), len(TEAMS[team]), team == "equals"
    uniform = np.full(members, 1 / members)
    names = ("single", "corrected", "naive") if equals else tuple(SEARCHES)
    search = {name: searched(trial, uniform, name, updates, refined=name == "single" and not equals) for name in names}
    if equals:
        return {"team": team, "seed": seed, "search": search, "accuracy": {}}
    good = np.array([wrong is not None and wrong <= GOOD for wrong in TEAMS[team]])
    finals = {
        "uniform draws": uniform,
        "mean of all": uniform,
        "good ones, uniform draws": good / good.sum(),
        "learnt, after selection": search["single"]["next"],
        "learnt, refined": search["single"]["refined"],
        "learnt jointly, after selection": search["all"]["next"],
        "learnt by policy gradient, after selection": search["reinforce"]["next"],
        "learnt as corrected, after selection": search["corrected"]["next"],
        "what soft labels alone have left": search["soft labels only"]["next"],
    }
    how = {"mean of all": Team(combine="average")}
    accuracy = {n: trial.train(np.array(weights), how.get(n, Team()), FINAL)[0] for n, weights in finals.items()}
    return {"team": team, "seed": seed, "search": search, "accuracy": accuracy}


def searched(trial: Trial, uniform: np.ndarray, name: str, updates: int, refined: bool) -> Results:
    """What one way to learn the distribution finds, in a second phase too if it is ``refined``."""
    learning = Learning(**SEARCHES[name])
    labels, steps = 0.0 if name == "soft labels only" else 0.5, 120 if name == "few updates" else updates
    accuracy, record = trial.train(uniform, Team(learning=learning), steps, labels, 0)
    kept = [int(k) for k in record["kept"]]
    found = {"q": record["probabilities"], "next": record["next"], "kept": kept, "student": accuracy}
    if refined:
        how = Team(learning=learning.model_copy(update={"keep": None}))
        found["refined"] = trial.train(np.array(record["next"]), how, updates, labels, 1)[1]["probabilities"]
    return found


def page(results: Results) -> Results:
    lines, takeaways = [], []
    for team, teachers in results["teams"].items():
        if runs := common.of(results["runs"], team=team):
            section, takeaway = about(team, teachers, runs)
            lines, takeaways = lines + section, takeaways + [takeaway] * bool(takeaway)
    return {
        "takeaways": "; ".join(takeaways),
        "tables": lines,
        "command": SCRIPT.command({"updates": results["updates"]}),
        "updates": results["updates"],
        "half": 0.5 / 6,
    }


def about(team: str, teachers: list[float | None], runs: common.Runs) -> tuple[list[str], str]:
    """Searches and students of a team, whether what was expected of it held, and the takeaway."""
    members, found = range(len(teachers)), {n: [run["search"][n] for run in runs] for n in runs[0]["search"]}
    good, best = ([k for k in members if teachers[k] is not None and teachers[k] <= most] for most in (GOOD, 0.08))
    bad = [k for k in members if k not in good]
    goods, bads, bests = (
        {name: sum(k in one["kept"] for one in ones for k in which) for name, ones in found.items()}
        for which in (good, bad, best)
    )
    every, bad_cases, cells = len(good) * len(runs), len(bad) * len(runs), []
    shares = {name: np.array([one["q"] for one in ones]) for name, ones in found.items()}
    for name, q in shares.items():
        cells.append(
            [name, *(f"{mean:.3f}" for mean in q.mean(axis=0)), f"{bads[name]} of {bad_cases}" if bad else "-"]
        )
        cells[-1].append(f"{every - goods[name]} of {every}")
    titles = ["no opinion" if wrong is None else f"{wrong:.2f} wrong" for wrong in teachers]
    largest = {
        "most": {n: q.max() for n, q in shares.items()},
        "least": {n: q.max(axis=1).min() for n, q in shares.items()},
    }
    heads = ["learned by", *titles, "bad ones kept", "good ones dropped"]
    fields = {"team": team, "seeds": len(runs), "searches": table(heads, cells), "students": []}
    if not runs[0]["accuracy"]:
        return SCRIPT.section("team", **fields, expected=SCRIPT.section("equals", **largest)), ""
    scores = {name: {run["seed"]: run["accuracy"][name] for run in runs} for name in runs[0]["accuracy"]}
    columns = {"student trained by": str, **common.score_columns({"accuracy": scores})}
    fields["students"] = tabled({**columns, **common.gain_columns(scores, ["uniform draws"])}, scores)
    ours, uniform = (shown([*scores[name].values()]) for name in ("learnt, refined", "uniform draws"))
    takeaway = (
        f"of {team}, {bads['single']} of {bad_cases} bad teachers are kept and the student reaches {ours} instead of {uniform} "
        "by uniform draws"
    )

    def points(ours: str) -> dict[str, float]:
        """How much higher the mean accuracy is than that of each, in points."""
        return {name: 100 * float(np.mean(paired(scores[ours], theirs))) for name, theirs in scores.items()}

    corrected = points("learnt as corrected, after selection")["good ones, uniform draws"]
    lowest = all(q[bad].max() < q[good].min() for q in shares["single"])
    expected = SCRIPT.section(
        "expected", **largest, best=bests, bad=bads, cases=len(best) * len(runs), bad_cases=bad_cases,
        over=points("learnt, refined"), corrected=corrected, lowest="every" if lowest else "not every",
    )  # fmt: skip
    return SCRIPT.section("team", **fields, expected=expected), takeaway


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
