"""Scales of activations in int8: one for all tokens, one for each token of the products that narrow, or of all products.

    python experiments/int8_scales.py --data-dir path/to/glue --clinc path/to/data_full.json --front runs/front

quantises models that ``front.py`` has trained in each way. Scores and agreement with float32 are those of dev. Times are those of
a text of the task's mean length on one thread, all forms of a model in turn. Writes ``results/int8_scales.json`` and
``docs/results/int8_scales.md``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import common
from as_served import model_of
from front import task_data

from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.evaluation.speed import BUSY
from tutelage.run.plan import typical
from tutelage.run.quality import difference
from tutelage.serving import graph
from tutelage.serving.session import OnnxModel
from tutelage.serving.timing import latency
from tutelage.students.load import load_model
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, settings
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

PLACES = f"{common.GLUE} --clinc path/to/data_full.json --front runs/front"
SCRIPT = common.options(__file__, __doc__, "int8_scales", tasks="cola,clinc", precision=None, places=PLACES)
SCRIPT.add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
SCRIPT.add_argument("--front", type=Path, help="folder of the runs of front.py")
SCRIPT.add_argument("--sides", default="teacher,3x384-0,cut1of2-0", help="folders of front.py's models, with commas")

FORMS: dict[str, Callable[[int, int], bool]] = {
    "one for all tokens": lambda inputs, outputs: False,
    "one for each token, products that narrow": graph.narrows,
    "one for each token, all products": lambda inputs, outputs: True,
}


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "runs": []}
    for task in arguments.tasks.split(","):
        for side in arguments.sides.split(","):
            place = arguments.front / f"minilm-{task}" / side
            data = load_data(task_data(arguments, task))
            kind, folder = kind_of(data.kind), str(model_of(place))
            model, _ = load_model(folder, kind.head)
            tokenizer = fitted_tokenizer(load_tokenizer(folder), model.eval())
            data, _ = kind.match(data, model.config, folder)
            dev = next(iter(data.dev.values()))
            encoded = kind.encode(dev, tokenizer, kind.longest(512))
            texts, exact = Texts(dev, encoded, None), OnnxModel(place / "onnx" / "model.onnx")
            with tempfile.TemporaryDirectory() as scratch:
                sides = {"float32": exact}
                for number, (name, narrows) in enumerate(FORMS.items()):
                    with patch.object(graph, "narrows", narrows):
                        sides[name] = graph.quantize(exact.path, Path(scratch) / f"{number}.onnx")
                times, core = latency(sides, typical(encoded, model), batch_sizes=(1, 32), threads=(1,))
                if core < BUSY:
                    print(f"the machine is busy: {core:.0%} of a core")
                full = exact.answers(encoded)
                for name, one in sides.items():
                    answers = one.answers(encoded)
                    apart = difference(kind, data, texts, answers, full)
                    moved = (answers.softmax(-1) - full.softmax(-1)).abs().sum(-1).mean() / 2
                    results["runs"].append(
                        {
                            "task": task,
                            "side": side,
                            "form": name,
                            "metric": data.metrics[0],
                            "score": kind.scores(data, answers, texts)[data.metrics[0]],
                            "difference": [apart.value, apart.low, apart.high],
                            "agreement": kind.agreement(answers, full),
                            "moved": float(moved),
                            "bytes": one.bytes,
                            "ms": {str(time.batch): time.p50_ms for time in times[name]},
                            "core": core,
                        }
                    )
            yield results


def page(results: Results) -> Results:
    lines: list[str] = []
    for task in dict.fromkeys(run["task"] for run in results["runs"]):
        runs = common.of(results["runs"], task=task)
        before = {run["side"]: run["ms"] for run in common.of(runs, form=next(iter(FORMS)))}
        columns = {
            "model": "{side}",
            "scales": "{form}",
            runs[0]["metric"]: "{score:.4f}",
            "minus float32": lambda run: (
                "" if run["form"] == "float32" else "{:+.3f} ({:+.3f} to {:+.3f})".format(*run["difference"])
            ),
            "agreement": "{agreement:.4f}",
            "moved": "{moved:.2%}",
            "ms": lambda run: f"{run['ms']['1']:.2f}",
        }
        for batch in ("1", "32"):
            columns[f"batch {batch}"] = lambda run, batch=batch, before=before: (
                f"{run['ms'][batch] / before[run['side']][batch]:.2f}"
            )
        lines += [f"## {task}", "", *tabled(columns, runs)]
    return {"tasks": lines}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
