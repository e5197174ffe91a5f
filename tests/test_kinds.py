"""Every kind of task is put through the same questions: a new kind is one row here."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config
from torch import Tensor
from torch.nn.functional import logsigmoid

import tutelage
from tutelage.anatomy import Shape, answers_of, head_of
from tutelage.data.batches import Batch, step_batches
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.ptp.settings import PTPLabels
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, LogitsMSE, SoftLabels
from tutelage.students.load import model_class
from tutelage.tasks import KINDS, kind_of
from tutelage.tasks.classification import Classification
from tutelage.tasks.embedding import EmbeddingData
from tutelage.tasks.kind import Kind, TextKind
from tutelage.tasks.load import load_data
from tutelage.tasks.sentence import plain_settings

TEXTS = ["good word1", "bad word2 word3", "good good", "word4 bad bad word5"]


def objects(rows: list[Any]) -> np.ndarray[Any, Any]:
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found


def task(
    kind: str, labels: Any, names: tuple[str, ...], metrics: tuple[str, ...], pairs: list[str] | None = None
) -> Data:
    whole = Examples([f"train/{i}" for i in range(len(TEXTS))], TEXTS, pairs, labels)
    return Data("toy", kind, names, metrics, whole, {"dev": whole})


@dataclass(frozen=True)
class Row:
    """A kind with four labelled texts, the logits of perfect answers, and its losses and mixtures as written in textbooks."""

    data: Data
    constant: dict[str, float]
    """Scores of the best constant answer."""
    settings: dict[str, Any]
    """What the student's configuration must say after it has been saved and loaded by plain transformers."""
    flags: str
    """Which of p(er text), s(ingle label), n(amed), f(ixed outputs), P(robabilities), t(eacher-confidence labels) hold."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.data.kind)


CONTEXTS = ["word1 word2 good", "bad word3 word4", "good word5 good", "word6 word7 word8"]
ANSWERS = [((6, "word2"),), ((4, "word3 word4"),), ((0, "good"),), ()]
NO_CHANCE = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
TAGS = [[1, 0], [0, 0, 1], [1, 2], [0, 0, 0, 0]]
WIDTH = 32
NAMED = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}

ROWS = {
    "classification": Row(
        task("classification", np.array([0, 1, 0, 0]), ("a", "b"), ("accuracy", "f1")),
        {"accuracy": 0.75, "f1": 2 / 5},
        {**NAMED, "problem_type": "single_label_classification"},
        "psnfPt",
    ),
    "regression": Row(
        task("regression", np.array([0.5, -1, 2, 4], dtype=np.float32), (), ("pearson", "spearman")),
        {"pearson": 0.0, "spearman": 0.0},
        {"num_labels": 1, "problem_type": "regression"},
        "pft",
    ),
    "multilabel": Row(
        task(
            "multilabel",
            np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=np.float32),
            ("a", "b"),
            ("micro_f1", "accuracy"),
        ),
        {"micro_f1": 3 * 2 / (3 * 2 + 1 + 1), "accuracy": 0.5},
        {**NAMED, "problem_type": "multi_label_classification"},
        "pnfP",
    ),
    "tokens": Row(
        task("tokens", objects([np.array(row) for row in TAGS]), ("O", "B-PER", "I-PER"), ("f1", "accuracy")),
        {**NO_CHANCE, "accuracy": 7 / 11},
        {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2}},
        "snfP",
    ),
    "spans": Row(
        task("spans", objects(ANSWERS), (), ("f1", "exact_match"), CONTEXTS),
        {"f1": 0.25, "exact_match": 0.25},
        {"num_labels": 2},
        "P",
    ),
    "embedding": Row(
        EmbeddingData(**vars(task("embedding", np.eye(4, WIDTH, dtype=np.float32), (), ("teacher_cosine",)))),
        {"teacher_cosine": 0.5},
        {"sentence": plain_settings()},
        "pf",
    ),
}


def test_every_kind_has_a_row() -> None:
    assert list(ROWS) == list(KINDS)
    assert all(KINDS[name].name == name for name in KINDS)


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    return ROWS[request.param]


def encoded_for(row: Row, tokenizer: Any) -> Encoded:
    return row.kind.encode(row.data.train, tokenizer, 24)


def perfect(row: Row, encoded: Encoded) -> Tensor:
    """Logits that say what the labels say, one row per prediction."""
    labels = row.data.train.labels
    if row.kind.head == "spans":
        table = torch.full((int(encoded.logit_rows.sum()), 2), -5.0)
        starts = np.cumsum(encoded.logit_rows) - encoded.logit_rows
        assert encoded.labels is not None
        for first, (start, end) in zip(starts, encoded.labels, strict=True):
            table[first + start, 0] = table[first + end, 1] = 5.0
        return table
    if row.kind.head == "tokens":
        return 5 * torch.eye(3)[torch.from_numpy(np.concatenate(list(labels)))]
    found = torch.from_numpy(labels)
    if row.kind.head == "vectors":
        return 3 * found
    if labels.ndim == 2:
        return 10 * found - 5
    return 5 * torch.eye(2)[found] if row.kind.single_label else found[:, None]


def batch_of(row: Row, encoded: Encoded) -> Batch:
    (batch,) = step_batches(encoded, np.arange(len(encoded)), 0, 1, 10**6)
    return batch


def random_logits(encoded: Encoded, row: Row, seed: int) -> Tensor:
    outputs = 1 if row.settings.get("num_labels") == 1 else len(row.data.labels) or 2
    outputs = WIDTH if row.kind.head == "vectors" else outputs
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(encoded.logit_rows.sum()), outputs, generator=generator)


def objective(row: Row, *terms: Any) -> Objective:
    shape = Shape("bert", 2, 32, 4, 48, 45)
    return Objective(list(terms), row.kind, shape, shape)


# ---------------------------------------------------------------------------------------------------------------- models


def test_head_encoding_and_configuration(row: Row, tokenizer: Any, tmp_path: Path) -> None:
    """A model of the kind's head gives every prediction, and reloads with plain transformers as what it was."""
    kind, encoded = row.kind, encoded_for(row, tokenizer)
    config = tiny_config("bert", layers=2)
    for name, value in kind.label_settings(row.data).items():
        setattr(config, name, value)
    model = model_class(kind.head).from_config(config).eval()
    assert head_of(model) == kind.head
    batch = batch_of(row, encoded)
    with torch.no_grad():
        logits = answers_of(model, batch.inputs, batch.predicted)
    assert logits.shape == random_logits(encoded, row, 0).shape
    model.save_pretrained(tmp_path)
    again = model_class(kind.head).from_pretrained(tmp_path)
    assert {name: getattr(again.config, name) for name in row.settings} == row.settings
    assert kind.longest(512) == (384 if kind.answers_in_pair else 512) and kind.longest(64) == 64


def test_what_a_kind_allows(row: Row) -> None:
    kind = row.kind
    flags = {
        "p": kind.per_text,
        "s": kind.single_label,
        "n": kind.named,
        "f": kind.fixed_outputs,
        "P": kind.probabilities,
        "t": kind.ptp,
    }
    assert "".join(name for name, holds in flags.items() if holds) == row.flags
    assert (kind.head == "classes") == isinstance(kind, TextKind)
    assert kind.per_text == (kind.head in ("classes", "vectors"))
    assert kind.classifies_texts == (kind.per_text and kind.single_label)
    compile(kind.usage('"folder/of a student"'), "card", "exec")
    assert '"folder/of a student"' in kind.usage('"folder/of a student"')


# ---------------------------------------------------------------------------------------------------------------- labels


def test_a_teachers_outputs_are_matched_by_name(row: Row) -> None:
    kind, data = row.kind, row.data
    config = tiny_config("bert", layers=2)
    for name, value in kind.label_settings(data).items():
        setattr(config, name, value)
    if kind.head == "vectors":  # any encoder will do, and several have no mean
        config.sentence = plain_settings("first")
        matched, _ = kind.match(data, config, "teacher")
        wanted = {**plain_settings("first"), "width": WIDTH, "projection": "pca"}
        assert kind.label_settings(matched) == {"sentence": wanted}
        with pytest.raises(TutelageError, match="lie in different spaces"):
            kind.columns(data, config, "odd", ())
        return
    same, warnings = kind.match(data, config, "teacher")
    assert same is data and not warnings
    assert kind.columns(data, config, "teacher", data.labels) == list(range(config.num_labels))
    config.id2label = {0: "x", 1: "y", 2: "z", 3: "u"}
    if row.settings.get("num_labels") == 2:  # a span is a start and an end whatever they are called
        assert kind.match(data, config, "teacher") == (data, [])
        return
    for refused in (kind.match, lambda *given: kind.columns(*given, data.labels)):
        with pytest.raises(TutelageError, match="the teacher 'odd'"):
            refused(data, config, "odd")
    if not kind.named:
        return
    order = list(reversed(data.labels))
    config.id2label = dict(enumerate(order))
    turned, _ = kind.match(data, config, "teacher")
    assert list(turned.labels) == order
    for old, new in zip(data.train.labels, turned.train.labels, strict=True):
        wanted = old[::-1] if data.train.labels.ndim == 2 else len(order) - 1 - old
        assert np.array_equal(new, wanted)
    config.id2label = {i: f"LABEL_{i}" for i in range(len(order))}
    assert "no names" in kind.match(data, config, "teacher")[1][0]
    assert kind.columns(turned, config, "teacher", data.labels) == list(range(len(order)))[::-1]


@pytest.mark.parametrize(
    ("kind", "problem", "remedy"),
    [
        ("classification", "multi_label_classification", "kind multilabel, or"),
        ("classification", "regression", "classification; use a teacher fine-tuned on a classification task"),
        ("multilabel", "single_label_classification", "multilabel; use a teacher fine-tuned on a multilabel task"),
        ("one-hot", "single_label_classification", "kind classification, or"),
        ("numbers", None, "one output, a regression, and the data are read as classification; read files of your own with kind "
            "regression, or"),
        ("regression", "multi_label_classification", "regression; use a teacher fine-tuned on a regression task"),
    ],
)  # fmt: skip
def test_a_model_of_another_kind_is_refused(kind: str, problem: str | None, remedy: str) -> None:
    """The remedy fits the labels: several classes of a text are not one, and names are no numbers."""
    data = {
        "one-hot": task("multilabel", np.eye(2, dtype=np.float32)[[0, 1, 0, 0]], ("a", "b"), ("micro_f1",)),
        "numbers": task("classification", np.array([0, 1, 0, 0]), ("1", "4.5"), ("accuracy",)),
    }.get(kind) or ROWS[kind].data
    config = tiny_config("bert")
    config.id2label = {0: "LABEL_0"} if kind in ("numbers", "regression") else {0: "a", 1: "b"}
    config.problem_type = problem
    known = kind_of(data.kind)
    for refused in (known.match, lambda *given: known.columns(*given, data.labels)):
        with pytest.raises(TutelageError, match="the teacher 'odd' has") as caught:
            refused(data, config, "odd")
        assert remedy in str(caught.value) and (problem or "output") in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- scores


def test_perfect_and_constant_answers(row: Row, tokenizer: Any) -> None:
    encoded = encoded_for(row, tokenizer)
    scores = row.kind.scores(row.data, perfect(row, encoded), Texts(row.data.train, encoded, None))
    assert set(scores) >= set(row.data.metrics)
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0), abs=1e-6)
    assert row.kind.constant_scores(row.data, row.data.train) == pytest.approx(row.constant)


def test_a_score_on_resampled_examples_is_that_of_a_set_with_them(row: Row, tokenizer: Any) -> None:
    """Predictions of which some are wrong: the score of all examples, and of the first three, the second of them twice."""
    encoded = encoded_for(row, tokenizer)
    logits = perfect(row, encoded) + 2 * torch.randn(perfect(row, encoded).shape)
    texts = Texts(row.data.train, encoded, None)
    count, metric = row.kind.resampled(row.data, logits, texts)
    assert count == 4
    assert metric(np.arange(4)) == pytest.approx(row.kind.scores(row.data, logits, texts)[row.data.metrics[0]])
    rows = np.array([0, 1, 1, 2])
    bounds = np.concatenate([[0], np.cumsum(encoded.logit_rows)])
    units = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in rows])
    some = row.data.train.take(rows)
    read = Texts(some, row.kind.encode(some, tokenizer, 24), None)
    wanted = row.kind.scores(row.data, logits[units], read)[row.data.metrics[0]]
    assert metric(rows) == pytest.approx(wanted)
    agreement = row.kind.agreement(logits, logits)
    assert agreement is None if row.kind.name in ("regression", "spans") else agreement == pytest.approx(1)


def test_right_and_confident(row: Row) -> None:
    """PTP labels ask for both; confident is what is surer than the median of its group."""
    if not row.kind.ptp:
        with pytest.raises(TutelageError, match=f"is of kind {row.kind.name}; leave the stage out"):
            PTPLabels().fitted("toy", row.kind, 2, 4)
        return
    labels = row.data.train.labels
    logits = np.array([[2.0, 0], [0, 1], [0, 3], [1, 0]], dtype=np.float32)
    if row.kind.probabilities:
        right, confidence = row.kind.judged(logits, labels)
        assert right.tolist() == [True, True, False, True]
        assert confidence == pytest.approx([1 / (1 + np.exp(-gap)) for gap in (2, 1, 3, 1)])
    else:
        right, confidence = row.kind.judged(labels[:, None] + np.float32([[0.1], [3], [0.2], [1]]), labels)
        assert right.tolist() == [True, False, True, False]
        assert confidence == pytest.approx(np.abs(np.array([0.6, 2, 2.2, 5]) - 2.1), abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------- losses


def distributions(row: Row, logits: Tensor, encoded: Encoded) -> list[Tensor]:
    """The scores among which each answer is chosen, in float64."""
    if row.kind.fixed_outputs:
        return list(logits.double())
    parts = logits.double().split(encoded.logit_rows.tolist())
    return [part[:, column] for column in (0, 1) for part in parts]


def test_hard_loss_is_the_textbooks(row: Row, tokenizer: Any) -> None:
    encoded = encoded_for(row, tokenizer)
    if not row.kind.learns_labels:
        with pytest.raises(TutelageError, match=f"kind {row.kind.name} has no labels to learn from; use a method with"):
            objective(row, HardLabels())
        assert [term.kind for term in objective(row, HardLabels(), SoftLabels()).plan.terms] == ["soft_labels"]
        return
    batch, logits = batch_of(row, encoded), random_logits(encoded, row, 1)
    rows = distributions(row, logits, encoded)
    if row.kind.name == "regression":
        wanted = [(z[0] - y) ** 2 for z, y in zip(rows, batch.labels.double(), strict=True)]
    elif row.kind.name == "multilabel":
        wanted = [
            -(y * logsigmoid(z) + (1 - y) * logsigmoid(-z)).mean()
            for z, y in zip(rows, batch.labels.double(), strict=True)
        ]
    else:
        labels = batch.labels if batch.labels.ndim == 1 else torch.cat([batch.labels[:, 0], batch.labels[:, 1]])
        wanted = [z.logsumexp(0) - z[y] for z, y in zip(rows, labels, strict=True)]
    found = objective(row, HardLabels())(Signals(logits), Signals(), batch)["hard_labels"]
    assert float(found) == pytest.approx(float(sum(wanted) / len(wanted)), rel=1e-5)


def test_soft_loss_is_the_textbooks(row: Row, tokenizer: Any) -> None:
    encoded, t = encoded_for(row, tokenizer), 3.0
    batch, student, teacher = batch_of(row, encoded), random_logits(encoded, row, 1), random_logits(encoded, row, 2)
    pairs = zip(distributions(row, student, encoded), distributions(row, teacher, encoded), strict=True)
    if row.kind.name == "regression":
        wanted = [(s[0] - z[0]) ** 2 for s, z in pairs]
    elif row.kind.name == "embedding":
        wanted = [1 - (s @ z) / (s @ s).sqrt() / (z @ z).sqrt() for s, z in pairs]
    elif row.kind.name == "multilabel":
        wanted = []
        for s, z in pairs:
            p, q = (z / t).sigmoid(), (s / t).sigmoid()
            wanted.append(t**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean())
    else:
        wanted = []
        for s, z in pairs:
            p, q = (z / t).softmax(0), (s / t).softmax(0)
            wanted.append(t**2 * (p * (p / q).log()).sum())
    found = objective(row, SoftLabels(temperature=t))(Signals(student), Signals(teacher), batch)["soft_labels"]
    assert float(found) == pytest.approx(float(sum(wanted) / len(wanted)), rel=1e-4)


def test_logits_are_compared_where_outputs_are_fixed(row: Row, tokenizer: Any) -> None:
    encoded = encoded_for(row, tokenizer)
    if not row.kind.fixed_outputs:
        for term in (LogitsMSE(), SoftLabels(reduction="mean")):
            with pytest.raises(TutelageError, match="fixed classes, and kind spans has none; use"):
                objective(row, term)
        return
    student, teacher = random_logits(encoded, row, 1), random_logits(encoded, row, 2)
    found = objective(row, LogitsMSE())(Signals(student), Signals(teacher), batch_of(row, encoded))["logits_mse"]
    assert float(found) == pytest.approx(float((student - teacher).square().mean()), rel=1e-5)


def test_a_mixture_has_the_mean_of_the_probabilities(row: Row) -> None:
    if not row.kind.fixed_outputs:
        return  # refused before anything is mixed
    t, logits = (
        2.0,
        torch.randn(3, 5, 1 if row.kind.name == "regression" else 4, generator=torch.Generator().manual_seed(0)),
    )
    shares = torch.tensor([0.2, 0.5, 0.3])[:, None, None]
    found = row.kind.mix(logits, shares, t)
    probability = {"regression": lambda z: z, "embedding": lambda z: z, "multilabel": lambda z: (z / t).sigmoid()}
    of = probability.get(row.kind.name, lambda z: (z / t).softmax(-1))
    torch.testing.assert_close(of(found), (shares * of(logits)).sum(dim=0))


# ------------------------------------------------------------------------------------------------------------- the table


def test_a_column_of_labels_is_of_one_kind() -> None:
    columns: dict[str, list[list[Any]]] = {
        "classification": [["a", "b"], [1, 2], ["1", "2", "x"], [True, False], [1.0, None], []],
        "regression": [[1, 2.5], ["0.5", "1"], [1.5, None]],
        "multilabel": [[["a"], []], [["a", "b"], "c"]],
    }
    for name, examples in columns.items():
        for values in examples:
            fitting = [kind.name for kind in KINDS.values() if isinstance(kind, TextKind) and kind.fits(values)]
            assert fitting == [name], values


def test_a_kind_may_be_defined_outside_the_package(tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=r"^kind 'ordinal' does not exist; use one of classification, regression, "):
        kind_of("ordinal")

    class Ordinal(Classification):
        name = "ordinal"
        metrics = ("accuracy",)

    assert isinstance(kind_of("ordinal"), Ordinal)
    path = tmp_path / "grades.csv"
    path.write_text("text,label\n" + "one,1\ntwo,2\n" * 10)
    data = load_data(DataConfig(train=str(path), kind="ordinal"))
    assert (data.kind, data.labels, data.metrics) == ("ordinal", ("1", "2"), ("accuracy",))
    with pytest.raises(TutelageError, match=r"kind 'ordnal' does not exist; use one of .*, ordinal"):
        load_data(DataConfig(train=str(path), kind="ordnal"))


def test_kinds_that_are_no_tables_read_none(tmp_path: Path) -> None:
    from tutelage.tasks.tables import load_files

    path = tmp_path / "table.csv"
    path.write_text("text,label\na,b\n")
    with pytest.raises(TutelageError, match="kind spans is not read from a table"):
        load_files(DataConfig(train=path, kind="spans"))


# -------------------------------------------------------------------------------------------------------------- the walls

COMPARED = re.compile(
    r"""(==|!=)\s*["'](classification|regression|multilabel|tokens|spans|embedding)["']"""
    r"""|\bin\s*[({\[][^)}\]]*["'](classification|regression|multilabel|tokens|spans|embedding)["']"""
    r"""|dtype\.kind"""
)
"""A name of a kind (or of a head that is called so) in a comparison, or a type of numbers that may stand for a kind."""


def test_kinds_are_compared_as_strings_in_few_places() -> None:
    root = Path(tutelage.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.jinja")])
        if "tasks" not in path.relative_to(root).parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if COMPARED.search(line)
    ]
    assert len(found) <= 15, "\n".join(found)


def test_methods_are_read_without_torch() -> None:
    line = "import sys, tutelage.methods; print(sorted({'torch', 'transformers', 'tutelage.tasks'} & set(sys.modules)))"
    root = str(Path(tutelage.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, check=True, env={"PYTHONPATH": root, "PATH": ""}
    )
    assert done.stdout.strip() == "[]"


def test_recipes_and_runs_know_no_mechanism() -> None:
    """What belongs to one mechanism stays in its folder: neither names nor words of it are elsewhere."""
    package = Path(tutelage.__file__).parent
    files = [*(package / "recipes").rglob("*.py"), *(package / "run").rglob("*.py"), package / "training" / "stages.py"]
    words = re.compile(r"\b(team|compactor|verdict|forgetting)s?\b", re.IGNORECASE)
    assert {str(file): words.findall(file.read_text(encoding="utf-8")) for file in files} == {str(f): [] for f in files}
