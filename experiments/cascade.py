"""Does a cascade keep its promise on real texts, and does it save more than a frozen encoder with a linear classifier does?

    python experiments/cascade.py --data-dir path/to/glue --clinc path/to/data_full.json --models path/to/models --front runs/front

takes the MiniLM teachers and students that ``front.py`` has trained, in the forms that serve: the student in int8. All texts of
the pool are new to all models: CLINC150's val and test, SST-2's dev and training texts that ``front.py`` leaves out. The pool is
split at random into two halves, many times: the threshold is chosen on one, and the agreement above it counted on the other.
Writes ``results/cascade.json`` and ``docs/results/cascade.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from as_served import model_of
from front import ROWS, task_data
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import ShuffleSplit
from transformers import AutoModel

from tutelage.data.config import DataConfig
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.evaluation.calibration import probabilities
from tutelage.evaluation.cascade import choose
from tutelage.serving.session import OnnxModel
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, before, settings, write_rows
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

STUDENTS = "cut1of2-0,3x384-0"
POOL = {"sst2": 6500}
"""Texts of the training file that belong to the pool, from those that are not trained on."""

PLACES = f"{common.GLUE} --clinc path/to/data_full.json --models path/to/models --front runs/front"
SCRIPT = common.options(__file__, __doc__, "cascade", tasks="clinc,sst2", seeds=100, precision=None, places=PLACES)
SCRIPT.add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
SCRIPT.add_argument("--models", type=Path, help="folder with the pretrained encoders")
SCRIPT.add_argument("--front", type=Path, help="folder of the runs of front.py")
SCRIPT.add_argument("--students", default=STUDENTS, help="folders of front.py's students, separated by commas")
SCRIPT.add_argument("--agreement", type=float, default=0.98)


def pool_of(arguments: Arguments, task: str) -> tuple[DataConfig, DataConfig]:
    """The training texts of a task, and the pool as an evaluation set."""
    train, pool = task_data(arguments, task), arguments.work / f"{task}-pool.csv"
    if not pool.exists():
        if task == "clinc":
            data = before(arguments.clinc)
            rows = [*data["val"], *data["test"]]
        else:
            every = load_data(train.model_copy(update={"max_train": None}))
            order = np.random.default_rng(0).permutation(len(every.train))  # the one that max_train cuts
            left = every.train.take(order[ROWS[task] : ROWS[task] + POOL[task]])
            parts = [next(iter(every.dev.values())), left]
            rows = [(t, every.labels[n]) for part in parts for t, n in zip(part.texts, part.labels, strict=True)]
        write_rows(pool, rows)
    return train, DataConfig(train=str(pool), dev=str(pool))


def answers(place: Path, graph: str, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """A served model's probabilities for the evaluation set, and the labels; classes in the order of the data."""
    data = load_data(config)
    kind, dev = kind_of(data.kind), next(iter(data.dev.values()))
    session = OnnxModel(place / "onnx" / graph)
    tokenizer = load_tokenizer(str(model_of(place)))
    logits = session.answers(kind.encode(dev, tokenizer, kind.longest(512)))
    return probabilities(np.asarray(logits), 1.0), np.asarray(dev.labels)


def vectors(encoder: str, texts: list[str]) -> np.ndarray:
    """Mean of the last hidden states of a frozen encoder, ``(n, width)``, of unit length."""
    model = AutoModel.from_pretrained(encoder).eval()
    tokenizer = fitted_tokenizer(load_tokenizer(encoder), model)
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    with torch.inference_mode():
        for rows in np.array_split(order, -(-len(texts) // 64)):
            batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            found[rows] = torch.nn.functional.normalize(mean).numpy()
    return found


def linear(encoder: str, train: DataConfig, pool: DataConfig) -> np.ndarray:
    """The probabilities of logistic regression on a frozen encoder's vectors; its strength by a tenth of them."""
    learnt, new = load_data(train), load_data(pool)
    tenth = ShuffleSplit(n_splits=1, test_size=0.1, random_state=0)
    classifier = LogisticRegressionCV(Cs=[1.0, 10.0, 100.0], cv=tenth, tol=1e-3, scoring="accuracy")
    labels = np.asarray(learnt.labels)[np.asarray(learnt.train.labels)]
    classifier.fit(vectors(encoder, list(learnt.train.texts)), labels)
    found = classifier.predict_proba(vectors(encoder, list(next(iter(new.dev.values())).texts)))
    names = [str(name) for name in classifier.classes_]
    return found[:, [names.index(str(label)) for label in new.labels]]


def splits(shares: np.ndarray, taught: np.ndarray, arguments: Arguments) -> dict[str, Any]:
    """Thresholds chosen on random halves of the pool, and the agreement above them on the other halves."""
    sure, agrees = shares.max(1).astype(np.float64), shares.argmax(1) == taught
    broken, coverage, agreement, none = 0, [], [], 0
    for seed in range(arguments.seeds):
        order = np.random.default_rng(seed).permutation(len(sure))
        chosen_on, counted_on = np.array_split(order, 2)
        threshold = choose(sure[chosen_on], agrees[chosen_on], arguments.agreement).threshold
        answered = counted_on[sure[counted_on] > threshold] if threshold is not None else counted_on[:0]
        coverage.append(len(answered) / len(counted_on))
        if not len(answered):
            none += 1
            continue
        agreement.append(float(agrees[answered].mean()))
        broken += agreement[-1] < arguments.agreement
    return {
        "broken": broken,
        "no threshold": none,
        "coverage": [float(value) for value in np.percentile(coverage, (50, 5, 95))],
        "agreement": float(np.mean(agreement)) if agreement else None,
        "agreement of all": float(agrees.mean()),
    }


def measure(arguments: Arguments) -> Iterator[Results]:
    results: Results = {"settings": settings(arguments), "runs": []}
    for task in arguments.tasks.split(","):
        train, pool = pool_of(arguments, task)
        place = arguments.front / f"minilm-{task}"
        taught, labels = answers(place / "teacher", "model.onnx", pool)
        teacher = taught.argmax(1)
        found = {name: answers(place / name, "model.int8.onnx", pool)[0] for name in arguments.students.split(",")}
        found["frozen encoder, linear classifier"] = linear(str(arguments.models / "all-MiniLM-L6-v2"), train, pool)
        for name, shares in found.items():
            right = [float((given == labels).mean()) for given in (shares.argmax(1), teacher)]
            about = {"task": task, "side": name, "texts": len(labels), "accuracy": right[0], "teacher": right[1]}
            results["runs"].append({**about, **splits(shares, teacher, arguments)})
            yield results


COLUMNS = {
    "student": "{side}",
    "accuracy": "{accuracy:.3f}",
    "agreement": "{agreement of all:.3f}",
    "answered": "{coverage[0]:.1%} ({coverage[1]:.1%} to {coverage[2]:.1%})",
    "agreement there": lambda run: "-" if run["agreement"] is None else f"{run['agreement']:.4f}",
    "broken": "{broken}",
    "no threshold": "{no threshold}",
}


def page(results: Results) -> Results:
    lines: list[str] = []
    for task in dict.fromkeys(run["task"] for run in results["runs"]):
        runs = common.of(results["runs"], task=task)
        said = f"{runs[0]['texts']:,} texts; the teacher's accuracy on them is {runs[0]['teacher']:.3f}."
        lines += [f"## {task}", "", said, "", *tabled(COLUMNS, runs)]
    return {"tasks": lines}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
