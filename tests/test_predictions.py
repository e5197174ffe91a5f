"""Predictions from a file as the teacher: their forms, matching, corrections, runs and reports."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELS, sentences, write_csv
from test_cli import invoke
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tutelage import api
from tutelage.data.config import DataConfig, Predictions
from tutelage.data.examples import key_of
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.objectives.predictions import LogitsMSE, SoftLabels
from tutelage.objectives.term import Comparison
from tutelage.recipes.settings import parsed
from tutelage.report.model import load_report
from tutelage.run.predicted import PredictedTeacher, plan_lines
from tutelage.tasks import KINDS
from tutelage.tasks.load import load_data
from tutelage.tasks.prediction_columns import LabelNames
from tutelage.tasks.prediction_forms import completed
from tutelage.tasks.predictions import entropy_weights, with_prior

SHORT = {"stages.*.max_steps": 3, "stages.*.batch_size": 8}
TEXTS, NUMBERS = sentences(60, 5)
GOLD = [LABELS[number] for number in NUMBERS]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def predictions(path: Path, answer: Any, count: int = 60) -> Path:
    """A file of predictions: ``answer`` makes the columns of a row from its label's number."""
    return jsonl(path, [{"text": text, **answer(n)} for text, n in zip(TEXTS[:count], NUMBERS[:count], strict=True)])


def read(path: Path, **settings: Any) -> Any:
    """What a file says, without a training file; ``settings`` of :class:`Predictions` or of the data."""
    own = {name: settings.pop(name) for name in list(settings) if name in DataConfig.model_fields}
    return load_data(DataConfig(predictions=Predictions(file=path, **settings), **own))


def said(data: Any) -> np.ndarray:
    """``(n, classes)``: the targets of the training and held-out texts as probabilities, in the order of the file."""
    logits = data.predicted.targets.astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def target(data: Any, text: str) -> np.ndarray:
    row = data.predicted.row_of[data.train.ids[list(data.train.texts).index(text)]]
    return said(data)[row]


# ------------------------------------------------------------------------------------------------------------- forms


def lean(number: int, much: float = 0.8) -> dict[str, float]:
    return {LABELS[number]: much, LABELS[1 - number]: round(1 - much, 6)}


FORMS = {
    "labels": (lambda n: {"label": LABELS[n]}, 1.0, "labels"),
    "labels as models write them": (lambda n: {"answer": f" {LABELS[n].upper()}.\n"}, 1.0, "labels"),
    "a mapping": (lambda n: {"probs": lean(n)}, 0.8, "probabilities of all labels"),
    "a mapping as text": (lambda n: {"probs": json.dumps(lean(n))}, 0.8, "probabilities of all labels"),
    "a mapping as Python writes it": (lambda n: {"probs": str(lean(n))}, 0.8, "probabilities of all labels"),
    "a list in the order of the labels": (
        lambda n: {"probs": [lean(n)[name] for name in LABELS]},
        0.8,
        "probabilities of all labels",
    ),
    "a column for each class": (
        lambda n: {"Negative ": lean(n)["negative"], "Positive ": lean(n)["positive"]},
        0.8,
        "probabilities of all labels",
    ),
    "log-probabilities of words": (
        lambda n: {
            "logprobs": {f" {LABELS[n].title()}": math.log(0.5), LABELS[n]: math.log(0.3), LABELS[1 - n]: math.log(0.2)}
        },
        0.8,
        "log-probabilities of all labels",
    ),
    "log-probabilities as interfaces return them": (
        lambda n: {
            "top_logprobs": [
                {"token": f"\u0120{LABELS[n]}", "logprob": math.log(0.8)},
                {"token": "The", "logprob": math.log(0.1)},
                {"token": LABELS[1 - n], "logprob": -9999.0},
            ]
        },
        1.0,
        "log-probabilities of all labels",
    ),
    "log-probabilities of vLLM": (
        lambda n: {
            "logprobs": {
                "17": {"logprob": math.log(0.8), "rank": 1, "decoded_token": f" {LABELS[n]}"},
                "4": {"logprob": math.log(0.2), "rank": 2, "decoded_token": LABELS[1 - n]},
            }
        },
        0.8,
        "log-probabilities of all labels",
    ),
    "scores of a pipeline": (
        lambda n: {"predictions": [{"label": name, "score": share} for name, share in lean(n).items()]},
        0.8,
        "probabilities of all labels",
    ),
    "the likeliest of a pipeline": (
        lambda n: {"predictions": [{"label": LABELS[n], "score": 0.8}]},
        0.8,
        "probabilities of the likeliest labels",
    ),
    "votes": (lambda n: {"votes": [LABELS[n]] * 4 + [LABELS[1 - n]]}, 0.8, "up to 5 votes a text"),
    "columns of votes": (
        lambda n: {"vote_1": LABELS[n], "vote_2": LABELS[n], "vote_3": LABELS[1 - n], "vote_4": LABELS[n]},
        0.75,
        "up to 4 votes a text",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    answer, share, words = FORMS[form]
    data = read(predictions(tmp_path / "p.jsonl", answer), labels=LABELS)
    assert data.labels == LABELS and data.predicted.form == words and data.predicted.labelled == 0
    for text, number in zip(data.train.texts, data.train.labels, strict=True):
        assert number == NUMBERS[TEXTS.index(text)]
        assert target(data, text)[number] == pytest.approx(share, abs=2e-4)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "json", "jsonl"])
@pytest.mark.parametrize("columns", ["label", "probs", "classes"])
def test_formats(tmp_path: Path, ending: str, columns: str) -> None:
    rows = []
    for text, n in zip(TEXTS, NUMBERS, strict=True):
        value: Any = {"label": LABELS[n], "probs": lean(n)}.get(columns)
        if ending in ("csv", "tsv") and columns == "probs":
            value = json.dumps(value)
        rows.append({"text": text, **(lean(n) if columns == "classes" else {columns: value})})
    path, frame = tmp_path / f"p.{ending}", pd.DataFrame(rows)
    if ending in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        path.write_text(frame.to_json(orient="records", lines=True))
    data = read(path, labels=LABELS)
    for text, number in zip(data.train.texts, data.train.labels, strict=True):
        assert number == NUMBERS[TEXTS.index(text)]
        assert target(data, text)[number] == pytest.approx(1.0 if columns == "label" else 0.8, abs=1e-4)


def test_labels_that_the_file_says_itself(tmp_path: Path) -> None:
    assert read(predictions(tmp_path / "a.jsonl", lambda n: {"label": ["neg", "Pos"][n]})).labels == ("Pos", "neg")
    assert read(predictions(tmp_path / "b.jsonl", lambda n: {"probs": lean(n)})).labels == LABELS
    votes = predictions(tmp_path / "c.jsonl", lambda n: {"votes": [1 + n, 1 + n, 2 - n]})
    assert read(votes).labels == ("1", "2")


def test_numbers(tmp_path: Path) -> None:
    data = read(predictions(tmp_path / "p.jsonl", lambda n: {"prediction": n + 0.5}))
    assert data.kind == "regression" and data.labels == ()
    assert sorted(set(data.predicted.targets[:, 0].tolist())) == [0.5, 1.5]
    commas = predictions(tmp_path / "c.jsonl", lambda n: {"prediction": f"{n},5"})
    assert sorted(set(read(commas).predicted.targets[:, 0].tolist())) == [0.5, 1.5]
    rows = [{"text": t, "prediction": ["0,5", "1,5", "N/A", "unsure"][i % 4]} for i, t in enumerate(TEXTS)]
    path = jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(TutelageError, match=r"15 answers are no numbers \('unsure' 15\): correct them, or leave"):
        read(path, kind="regression")
    found = read(path, kind="regression", unknown="drop").predicted
    assert found.counts == {"without a prediction": 30, "unknown answers": 15}
    with pytest.raises(TutelageError, match=r"'1,250' may be 1250 or 1.250"):
        read(predictions(tmp_path / "e.jsonl", lambda n: {"prediction": "1,250"}), kind="regression")
    several = read(predictions(tmp_path / "v.jsonl", lambda n: {"votes": [n, n + 1.5]}), kind="regression")
    assert sorted(set(several.predicted.targets[:, 0].tolist())) == [0.75, 1.75]


def test_several_labels_a_text(tmp_path: Path) -> None:
    sets = predictions(tmp_path / "s.jsonl", lambda n: {"label": ["a", "b"] if n else ["a"]})
    data = read(sets, kind="multilabel")
    assert data.labels == ("a", "b") and data.train.labels[:, 0].all()
    assert data.train.labels[:, 1].tolist() == [NUMBERS[TEXTS.index(text)] for text in data.train.texts]
    shares = predictions(tmp_path / "p.jsonl", lambda n: {"probs": {"a": 0.9, "b": 0.25}})
    logits = read(shares, kind="multilabel").predicted.targets[0]
    assert 1 / (1 + np.exp(-logits)) == pytest.approx([0.9, 0.25], abs=1e-6)


def test_a_refusal_is_not_a_text_without_classes(tmp_path: Path) -> None:
    gold = jsonl(
        tmp_path / "t.jsonl", [{"text": t, "label": "a|b" if n else "a"} for t, n in zip(TEXTS, NUMBERS, strict=True)]
    )
    rows = [
        {"text": text, "label": label} for text, label in zip(TEXTS, ["a, b", "b", [], "I cannot"] * 15, strict=True)
    ]
    data = read(jsonl(tmp_path / "p.jsonl", rows), train=gold, dev=gold, kind="multilabel", unknown="drop", gold=0)
    assert np.isnan(data.predicted.answers[3::4]).all() and data.predicted.counts["unknown answers"] == 15
    # The file's own separator counts where that of the training file occurs nowhere.
    assert (data.predicted.answers[:3] > 0).tolist() == [[True, True], [False, True], [False, False]]


def test_several_labels_in_a_cell(tmp_path: Path) -> None:
    """They are separated as in the training file, else where no class has the separator in its name."""
    labels = ["food, drink|bar", "hotel", "food, drink", "bar|hotel"] * 15
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    path = jsonl(tmp_path / "p.jsonl", [row | {"label": "food, drink"} for row in rows])
    given = jsonl(tmp_path / "train.jsonl", rows)
    for train in (given, jsonl(tmp_path / "lists.jsonl", [row | {"label": row["label"].split("|")} for row in rows])):
        data = read(path, train=train, dev=given, kind="multilabel", gold=0)
        assert data.labels == ("bar", "food, drink", "hotel")
        assert (data.predicted.targets > 0).tolist() == [[False, True, False]] * 60
    dev = jsonl(tmp_path / "dev.jsonl", [row | {"label": "food, drink"} for row in rows[:9]])
    data = read(given, dev=dev, kind="multilabel")  # the file of predictions says the classes
    assert data.labels == ("bar", "food, drink", "hotel") and data.dev["dev"].labels.tolist() == [[0, 1, 0]] * 9


def test_spellings_of_labels() -> None:
    labels = LabelNames(["card_arrival", "Card Lost", "1", "US", "us"])
    found = [labels.find(word) for word in ("Card-Arrival", " card lost.", 1.0, "US", "us", "Us", "lost")]
    assert found == [0, 1, 2, 3, 4, None, None]
    assert [labels.find(word) for word in ("1.0", "\u01201.", "+1", "Card\u200b Lost", "-1", -1, ".1")] == [
        2,
        2,
        2,
        1,
    ] + [None] * 3


def test_the_sign_of_a_label_is_part_of_it(tmp_path: Path) -> None:
    """Minus one is another class than one, and no class of 0 and 1: labelling functions abstain so."""
    assert read(predictions(tmp_path / "a.jsonl", lambda n: {"label": [-1, 1][n]})).labels == ("-1", "1")
    for answer in (
        lambda n: {"votes": [n, -1, -1]},
        lambda n: {"votes": [[0, -1], [-1, 1]][n]},
        lambda n: {"vote_1": str(n), "vote_2": "-1"},
    ):
        path = predictions(tmp_path / "v.jsonl", answer)
        with pytest.raises(TutelageError, match=r"answers are no labels \('?-1'?"):
            read(path, labels=("0", "1"))
        data = read(path, labels=("0", "1"), unknown="drop")
        assert data.predicted.counts["unknown answers"] >= 60 and said(data).max(axis=1) == pytest.approx(1, abs=1e-4)
        assert data.train.labels.tolist() == [NUMBERS[TEXTS.index(text)] for text in data.train.texts]


# ------------------------------------------------------------------------------------------------------- missing mass


def test_missing_mass() -> None:
    mass, seen = np.array([0.5, 0.2, 0.0, 0.0]), np.array([True, True, False, False])
    assert completed(mass, seen, "spread") == pytest.approx([0.5, 0.2, 0.15, 0.15])
    assert completed(mass, seen, "drop") == pytest.approx([5 / 7, 2 / 7, 0, 0])
    # Nothing to spread to: the rest was given to other words than labels.
    assert completed(np.array([0.5, 0.3]), np.array([True, True]), "spread") == pytest.approx([0.625, 0.375])
    assert completed(np.zeros(3), np.array([True, False, True]), "drop") == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize(("how", "share"), [("spread", 0.7), ("drop", 1.0)])
def test_top_k(tmp_path: Path, how: str, share: float) -> None:
    path = predictions(tmp_path / "p.jsonl", lambda n: {"logprobs": {LABELS[n]: math.log(0.7), "maybe": math.log(0.2)}})
    data = read(path, labels=LABELS, missing=how)
    assert data.predicted.form == "log-probabilities of the likeliest labels"
    assert data.predicted.options == {"missing mass": f"30.0% on average, {how}"}
    text = data.train.texts[0]
    assert target(data, text)[NUMBERS[TEXTS.index(text)]] == pytest.approx(share, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- oracles


def test_prior_against_a_slow_oracle() -> None:
    generator = np.random.default_rng(3)
    values, prior = generator.dirichlet([0.5] * 4, size=11), np.array([0.1, 0.2, 0.3, 0.4])
    found = with_prior(values, prior)
    for i in range(11):
        raw = [values[i][c] * prior[c] / (sum(values[k][c] for k in range(11)) / 11) for c in range(4)]
        assert found[i] == pytest.approx([one / sum(raw) for one in raw])


def test_prior_of_a_class_that_is_never_predicted_and_of_rows_without_a_prediction() -> None:
    found = with_prior(np.array([[0.5, 0.5, 0.0], [np.nan] * 3, [1.0, 0.0, 0.0]]), np.array([1, 1, 1]) / 3)
    assert (
        found[0] == pytest.approx([0.25, 0.75, 0.0])
        and found[2] == pytest.approx([1, 0, 0])
        and np.isnan(found[1]).all()
    )


def test_entropy_weights_against_a_slow_oracle() -> None:
    values = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
    raw = [1 + sum(p * math.log(p) for p in row if p > 0) / math.log(3) for row in values.tolist()]
    assert entropy_weights(values) == pytest.approx([one / (sum(raw) / 4) for one in raw], abs=1e-6)
    assert entropy_weights(np.full((3, 2), 0.5)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("names", [("neg", "pos"), ("no", "yes"), ("0", "1")])
def test_a_column_for_each_class_without_labels(tmp_path: Path, names: tuple[str, str]) -> None:
    """The remedies of the message work as they are written."""
    path = predictions(tmp_path / "p.jsonl", lambda n: {"row": 7, names[0]: 1 - 0.9 * n, names[1]: 0.9 * n})
    with pytest.raises(TutelageError, match="if each has the probability of a class") as error:
        read(path)
    labels, columns = str(error.value).rpartition("name them: ")[2].split(" or ")
    setting = parsed([columns.removeprefix("settings '").removesuffix("'")])
    for options in ({"labels": labels.removeprefix("labels ")}, {"columns": setting["predictions.columns"]}):
        data = read(path, **options)
        assert (data.kind, data.labels) == ("classification", names)
        assert len(data.train) + len(data.dev["dev"]) == 60
    gold = gold_file(tmp_path / "gold.csv", range(20))
    with pytest.raises(TutelageError) as error:
        read(path, train=gold)
    assert f"labels {','.join(names)}" not in str(error.value) and "predictions.columns=" in str(error.value)
    with pytest.raises(TutelageError, match="no answer is a label"):  # one class's probability is no label
        read(path, train=gold, columns=names[0])


def test_columns_of_classes_are_matched_by_the_words_of_their_names(tmp_path: Path) -> None:
    """In the order of the labels where no names help; the plan says which column is which class."""
    gold = gold_file(tmp_path / "gold.csv", range(60))
    path = predictions(tmp_path / "p.jsonl", lambda n: {f"prob_{name}": lean(n)[name] for name in reversed(LABELS)})
    with pytest.raises(TutelageError, match="in the order of the labels 'negative', 'positive': settings") as error:
        read(path, train=gold)
    setting = parsed([str(error.value).rpartition("settings '")[2].removesuffix("'")])["predictions.columns"]
    for columns in (setting, list(reversed(setting))):
        data = read(path, train=gold, columns=columns)
        assert data.predicted.agreement["train"].scores["accuracy"] == 1
        assert "'prob_negative' (negative)" in data.predicted.columns
    path = predictions(tmp_path / "q.jsonl", lambda n: {f"p{i}": lean(n)[name] for i, name in enumerate(LABELS)})
    data = read(path, train=gold, columns=["p0", "p1"])
    assert data.predicted.columns == "columns 'p0' (negative), 'p1' (positive)"
    assert data.predicted.agreement["train"].scores["accuracy"] == 1
    votes = predictions(tmp_path / "v.jsonl", lambda n: {"model_0": n, "model_1": n})
    assert read(votes, labels=("0", "1"), columns=["model_0", "model_1"]).predicted.form == "up to 2 votes a text"


def test_a_column_of_labels_that_is_not_the_only_one(tmp_path: Path) -> None:
    """People's labels are not taken for the teacher's because of their column's name."""
    rows = [{"text": t, "label": g, "llm": LABELS[i % 2]} for i, (t, g) in enumerate(zip(TEXTS, GOLD, strict=True))]
    path = jsonl(tmp_path / "both.jsonl", rows)
    for options in ({}, {"train": path}):
        with pytest.raises(
            TutelageError, match=r"\('label', 'llm'\); name those that are: settings predictions.columns=llm"
        ):
            read(path, **options)
    data = read(path, train=path, columns="llm")
    assert data.predicted.columns == "column 'llm'" and data.predicted.agreement["train"].scores["accuracy"] < 0.9
    assert "column 'llm': labels" in plan_lines(data)[0]
    other = jsonl(tmp_path / "one.jsonl", [{**row, "llm": "a remark"} for row in rows])
    assert read(other).predicted.columns == "column 'label'"


def test_scores_of_people_are_not_taken_for_the_teachers(tmp_path: Path) -> None:
    """Numbers of the same size that follow the column's; ids and lengths are no answers."""
    scores = [round(n + i / 100, 2) for i, n in enumerate(NUMBERS)]
    rows = [
        {"text": t, "label": s, "llm": round(s + 0.1 * (i % 3), 2), "id": i, "noise": (i * 7 % 60) / 40}
        for i, (t, s) in enumerate(zip(TEXTS, scores, strict=True))
    ]
    path = jsonl(tmp_path / "p.jsonl", rows)
    for options in ({}, {"train": path}):
        with pytest.raises(
            TutelageError, match=r"\('label', 'llm'\); name those that are: settings predictions.columns=llm"
        ):
            read(path, kind="regression", **options)
    for name, gold in (("prediction", "label"), ("label", "human_score"), ("answer", "label")):
        named = [{**row, gold: row["label"], name: row["llm"]} for row in rows]
        for row in named:
            del row["llm"]
        data = read(jsonl(tmp_path / "n.jsonl", named), kind="regression")
        assert data.predicted.columns.startswith(f"column '{name}'")
        assert data.predicted.targets[0, 0] == pytest.approx(rows[0]["llm"])
    alone = jsonl(tmp_path / "a.jsonl", [{name: row[name] for name in row if name != "llm"} for row in rows])
    assert read(alone, kind="regression").predicted.columns == "column 'label' (not 'noise')"


@pytest.mark.parametrize("signs", [(0, 1), ("0", "1"), (False, True), ("no", "yes")])
def test_a_flag_is_no_second_column_of_answers(tmp_path: Path, signs: tuple[Any, Any]) -> None:
    """Any flag holds such classes. Another column stops the run only where it follows the answers as a second opinion does."""
    rows = [
        {"text": t, "label": signs[n], "is_long": signs[i % 2]}
        for i, (t, n) in enumerate(zip(TEXTS, NUMBERS, strict=True))
    ]
    path = jsonl(tmp_path / "flag.jsonl", rows)
    for options in ({}, {"train": path}):
        assert read(path, **options).predicted.columns == "column 'label' (not 'is_long')"
    second = [
        {**row, "llm": signs[n if i % 5 else 1 - n]} for i, (row, n) in enumerate(zip(rows, NUMBERS, strict=True))
    ]
    path = jsonl(tmp_path / "second.jsonl", second)
    with pytest.raises(
        TutelageError, match=r"\('label', 'llm'\); name those that are: settings predictions.columns=llm"
    ):
        read(path)
    for name in ("prediction", "answer"):  # a name that says it, and the labels' own
        told = [{**row, name: row["llm"]} for row in second]
        for row in told:
            del row["llm"]
        found = read(jsonl(tmp_path / "told.jsonl", told), train=path)
        assert found.predicted.columns.startswith(f"column '{name}'")
    mine = [{"text": row["text"], "mine": row["label"], "is_long": row["is_long"]} for row in rows]
    found = read(jsonl(tmp_path / "mine.jsonl", mine), label="mine")
    assert found.predicted.columns == "column 'mine' (not 'is_long')"
    with pytest.raises(TutelageError, match=r"settings predictions.columns=llm"):
        read(jsonl(tmp_path / "gold.jsonl", [{"text": r["text"], "gold": r["label"], "llm": r["llm"]} for r in second]))


def test_rare_classes_are_named(tmp_path: Path) -> None:
    rows = [{"text": t, "label": g} for t, g in zip(TEXTS, GOLD, strict=True)]
    path = jsonl(tmp_path / "p.jsonl", rows)
    assert not read(path).notes
    for row in rows[:9]:
        row["label"] = "I cannot help with that"
    rows[9]["label"] = "nil"
    jsonl(path, rows)
    (note,) = read(path).notes
    assert "('I cannot help with that' 9; 'nil' 1)" in note and "labels" in note
    assert read(path, labels=LABELS, unknown="drop").predicted.counts["unknown answers"] == 10


def test_options_of_a_file(tmp_path: Path) -> None:
    def answer(n: int) -> dict[str, Any]:
        return {"probs": lean(n, 0.9 if n else 0.6)}

    path = predictions(tmp_path / "p.jsonl", answer)
    values = np.array([[lean(n, 0.9 if n else 0.6)[name] for name in LABELS] for n in NUMBERS])
    plain, corrected = read(path), read(path, prior=[0.3, 0.7], weights="entropy")
    row_of = {text: row for row, text in enumerate(plain.train.texts)}
    rows = [TEXTS.index(text) for text in plain.train.texts]
    expected = with_prior(values[rows], np.array([0.3, 0.7]))
    assert said(corrected) == pytest.approx(expected, abs=1e-6) and len(row_of) == len(rows)
    assert corrected.predicted.weights == pytest.approx(entropy_weights(expected), abs=1e-5)
    assert plain.predicted.weights is None and list(corrected.predicted.options) == ["prior", "weights"]
    uniform = said(read(path, prior="uniform"))
    assert uniform == pytest.approx(with_prior(values[rows], np.array([0.5, 0.5])), abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- matching


def gold_file(path: Path, rows: range) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "label"], *([TEXTS[row], GOLD[row]] for row in rows)])
    return path


def test_labelled_rows_beside_predictions(tmp_path: Path) -> None:
    """20 labelled rows of which 15 have predictions, an evaluation set that the file knows, 30 texts of its own."""
    gold, dev = gold_file(tmp_path / "gold.csv", range(20)), gold_file(tmp_path / "dev.csv", range(50, 60))
    rows = [{"text": f"  {TEXTS[row].replace(' ', '  ')}\n", "probs": lean(NUMBERS[row])} for row in range(5, 60)]
    rows += [{"text": TEXTS[30], "probs": lean(NUMBERS[30], 0.6)}, {"text": TEXTS[31], "probs": None}]
    data = read(jsonl(tmp_path / "p.jsonl", rows), train=gold, dev=dev, gold=0.25)
    found = data.predicted
    assert found.labelled == 20 and found.rows == 57 and data.unlabeled is not None
    assert found.counts == {
        "repeated": 1,
        "without a prediction": 1,
        "of the evaluation set": 10,
        "texts without a prediction": 5,
    }
    assert not set(map(key_of, data.unlabeled.texts)) & set(map(key_of, TEXTS[50:60])) and len(data.unlabeled) == 30
    assert {part: one.texts for part, one in found.agreement.items()} == {"train": 15, "dev": 10}
    assert found.agreement["train"].scores["accuracy"] == 1.0
    shares = said(data)
    for row, share in ((0, 1.0), (5, 0.75 * 0.8 + 0.25)):
        assert shares[found.row_of[f"train/{row}"]][NUMBERS[row]] == pytest.approx(share, abs=1e-6)
    averaged = next(
        n for n, text in zip(data.unlabeled.ids, data.unlabeled.texts, strict=True) if key_of(text) == TEXTS[30]
    )
    assert shares[found.row_of[averaged]][NUMBERS[30]] == pytest.approx(0.7, abs=1e-6)
    assert np.isnan(found.answers[found.row_of["train/0"]]).all()


def test_texts_of_the_evaluation_set_are_not_trained_on(tmp_path: Path) -> None:
    path = predictions(tmp_path / "p.jsonl", lambda n: {"label": LABELS[n]})
    data = read(path, dev=gold_file(tmp_path / "dev.csv", range(50, 60)))
    assert list(data.train.texts) == TEXTS[:50] and data.predicted.counts == {"of the evaluation set": 10}
    assert data.predicted.agreement["dev"].texts == 10
    with pytest.raises(TutelageError, match="give predictions for training texts"):
        read(path, dev=gold_file(tmp_path / "all.csv", range(60)))


def test_unlabelled_texts_need_a_prediction(tmp_path: Path) -> None:
    gold = gold_file(tmp_path / "gold.csv", range(20))
    more = jsonl(tmp_path / "more.jsonl", [{"text": text} for text in TEXTS[20:40]])
    path = predictions(tmp_path / "p.jsonl", lambda n: {"label": LABELS[n]}, count=35)
    data = read(path, train=gold, dev=gold_file(tmp_path / "dev.csv", range(50, 60)), unlabeled=more)
    assert data.unlabeled is not None and list(data.unlabeled.texts) == TEXTS[20:35]
    assert data.predicted.counts == {"texts without a prediction": 5}


def test_rows_matched_by_an_id(tmp_path: Path) -> None:
    train = jsonl(
        tmp_path / "t.jsonl",
        [{"text": t, "label": g, "id": f"q{i}"} for i, (t, g) in enumerate(zip(TEXTS, GOLD, strict=True))],
    )
    rows = [{"id": f"q{row}", "label": GOLD[row]} for row in reversed(range(60))] + [{"id": "other", "label": GOLD[0]}]
    data = read(jsonl(tmp_path / "p.jsonl", rows), train=train, id="id")
    assert data.predicted.agreement["train"].scores["accuracy"] == 1.0 and data.predicted.agreement["dev"].texts > 1
    assert data.predicted.counts == {"of the evaluation set": len(data.dev["dev"]), "of no text": 1}


def test_an_id_of_two_texts(tmp_path: Path) -> None:
    def table(name: str, rows: range, ids: list[int]) -> Path:
        return jsonl(
            tmp_path / name, [{"id": i, "text": TEXTS[r], "label": GOLD[r]} for r, i in zip(rows, ids, strict=True)]
        )

    path = jsonl(tmp_path / "p.jsonl", [{"id": i, "label": GOLD[i]} for i in range(40)])
    train = table("train.jsonl", range(40), list(range(40)))
    restarted = table("dev.jsonl", range(40, 60), list(range(20)))
    with pytest.raises(
        TutelageError, match=r"the id '0' is of two texts.*\(train\).*\(dev\); give each text an id of its own"
    ):
        read(path, train=train, dev=restarted, id="id")
    with pytest.raises(TutelageError, match="the id '1' is of two texts"):
        read(path, train=table("twice.jsonl", range(40), [0, 1, 1, *range(3, 40)]), dev=train, id="id")
    same = table("same.jsonl", range(10), list(range(10)))
    assert read(path, train=train, dev=same, id="id").predicted.agreement["dev"].texts == 10


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table"])
def test_json_of_pandas(tmp_path: Path, orient: Any) -> None:
    frame = pd.DataFrame({"text": TEXTS, "probs": [lean(n) for n in NUMBERS], "id": range(60)})
    frame.to_json(tmp_path / "p.json", orient=orient)
    data = read(tmp_path / "p.json")
    assert len(data.train) + len(data.dev["dev"]) == 60 and data.predicted.form == "probabilities of all labels"
    pd.DataFrame({"text": TEXTS, "label": GOLD, "id": range(60)}).to_json(tmp_path / "t.json", orient=orient)
    data = read(tmp_path / "p.json", train=tmp_path / "t.json", id="id", columns="probs")
    assert data.predicted.agreement["train"].scores["accuracy"] == 1.0


def test_pairs(tmp_path: Path) -> None:
    rows = [{"a": TEXTS[0], "b": other, "label": g} for other, g in zip(TEXTS[1:], GOLD[1:], strict=True)]
    data = read(jsonl(tmp_path / "p.jsonl", rows), text="a", text_pair="b")
    assert data.train.pairs is not None and len(data.train) + len(data.dev["dev"]) == 59


# ------------------------------------------------------------------------------------------------------ wrong inputs

WRONG = {
    "labels unknown": (lambda n: {"label": ["n/a", "unsure"][n]}, {"labels": LABELS}, "no answer is a label ('"),
    "some labels unknown": (lambda n: {"label": ["negative", "good"][n]}, {"labels": LABELS}, "are no labels ('good' "),
    "not a distribution": (
        lambda n: {"probs": {"negative": 0.4, "positive": 0.3}},
        {},
        "row 1 has probabilities that sum to 0.7",
    ),
    "percent": (lambda n: {"probs": {"negative": 40, "positive": 60}}, {}, "the probability 40, above 1"),
    "too much": (
        lambda n: {"probs": {"negative": 0.7, "positive": 0.7}},
        {},
        "row 1 has probabilities that sum to 1.4",
    ),
    "negative": (
        lambda n: {"probs": {"negative": -0.2, "positive": 1.2}},
        {},
        "gives 'positive' 1.2 beside 'negative' -0.2",
    ),
    "nan": (lambda n: {"probs": {"negative": float("nan"), "positive": 0.5}}, {}, "gives 'negative' the value nan"),
    "a word for a number": (
        lambda n: {"probs": {"negative": "low", "positive": 0.5}},
        {},
        "the value 'low', which is no probability",
    ),
    "positive logarithms": (
        lambda n: {"logprobs": {"negative": 0.3, "positive": -2.0}},
        {"labels": LABELS},
        "gives 'negative' 0.3 beside 'positive' -2, which is no log-probability",
    ),
    "logarithms without labels": (
        lambda n: {"logprobs": {"negative": -0.3, "positive": -2.0}},
        {},
        "name them with labels a,b,c",
    ),
    "a list without labels": (lambda n: {"probs": [0.5, 0.5]}, {}, "lists of numbers, which do not say the classes"),
    "a list of another length": (
        lambda n: {"probs": [0.5, 0.25, 0.25]},
        {"labels": LABELS},
        "row 1 has 3 numbers for 2 labels",
    ),
    "mixed forms": (lambda n: {"probs": lean(n) if n else "positive"}, {}, "row "),
    "no text": (lambda n: {"text": "", "label": LABELS[n]}, {}, "has no text"),
    "no predictions": (lambda n: {"label": None}, {"labels": LABELS}, "has no predictions in 'label'"),
    "no column": (lambda n: {}, {"labels": LABELS}, "has no column of predictions"),
    "several columns": (
        lambda n: {"prediction": LABELS[n], "probs": lean(n)},
        {},
        "name those that are: settings predictions.columns=probs",
    ),
    "a column by name": (lambda n: {"label": LABELS[n]}, {"columns": "lable"}, "has no column 'lable'"),
    "a prior for labels": (lambda n: {"label": LABELS[n]}, {"prior": "uniform"}, "predictions.prior changes nothing"),
    "weights for labels": (
        lambda n: {"label": LABELS[n]},
        {"weights": "entropy"},
        "predictions.weights changes nothing",
    ),
    "a prior from no labels": (lambda n: {"probs": lean(n)}, {"prior": "data"}, "give some with train"),
    "a prior of another length": (lambda n: {"probs": lean(n)}, {"prior": [0.2, 0.3, 0.5]}, "prior has 3 numbers"),
    "another kind": (lambda n: {"label": LABELS[n]}, {"kind": "tokens"}, "a task of kind tokens needs other answers"),
    "a word for a score": (lambda n: {"label": "high"}, {"kind": "regression"}, "no answer is a number ('high' 60)"),
    "one class": (lambda n: {"label": "same"}, {}, "two or more classes are needed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(tmp_path: Path, case: str) -> None:
    answer, settings, message = WRONG[case]
    path = predictions(tmp_path / "p.jsonl", answer)
    with pytest.raises(TutelageError) as error:
        read(path, **settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_answers_may_be_left_out(tmp_path: Path) -> None:
    path = predictions(tmp_path / "p.jsonl", lambda n: {"votes": [LABELS[n], LABELS[n], "unsure", ""]})
    data = read(path, labels=LABELS, unknown="drop")
    assert data.predicted.counts == {"unknown answers": 60} and said(data).max(axis=1) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("count", [25, 10])
def test_texts_without_predictions(tmp_path: Path, count: int) -> None:
    gold = gold_file(tmp_path / "gold.csv", range(60))
    path = predictions(tmp_path / "p.jsonl", lambda n: {"label": LABELS[n]}, count=count)
    with pytest.raises(TutelageError, match=r"has no prediction for \d+ of 54 training texts"):
        read(path, train=gold)


@pytest.mark.parametrize("line", ["null", "[1]", "{", '{"text": "a", "label"', "3"])
def test_lines_that_are_no_objects(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"text": "a", "label": "x"}}\n{line}\n')
    with pytest.raises(TutelageError, match="line 2 is"):
        read(path)


# -------------------------------------------------------------------------------------------------------------- runs


def distilled(out: Path, path: Any, teacher_folder: Path, **more: Any) -> Any:
    student = f"layers=1,source={teacher_folder / 'random'}"
    given = {"student": student, "settings": SHORT, "quiet": True, **more}
    return api.distill(None, out, teacher_predictions=path, **given)


def test_a_run_without_labels(tmp_path: Path, teacher_folder: Path) -> None:
    path = predictions(tmp_path / "p.jsonl", lambda n: {"probs": lean(n)})
    result = distilled(tmp_path / "run", path, teacher_folder, dev=write_csv(tmp_path / "dev.csv", 30, 9))
    report = load_report(result.folder)
    assert report.teacher is None and report.baseline is not None and report.predictions is not None
    assert report.predictions.labelled == 0 and report.predictions.baseline == "likeliest labels"
    assert (result.folder / "student" / "model.safetensors").exists()
    # Of the labels, which are the file's own, the student sees none; its twin sees all.
    losses = {stage.name: stage.losses for stage in report.stages}
    assert all(value == 0 for _, value in losses["distill"]["hard_labels"])
    assert all(value > 0 for _, value in losses["labels"]["hard_labels"])
    page = (result.folder / "report.html").read_text()
    assert "Predictions as the teacher" in page and "likeliest labels" in page
    card = (result.folder / "student" / "README.md").read_text()
    assert "Distilled from the predictions in `p.jsonl`" in card
    assert set(result.predictions()) >= {"text", "label", "student"}


def test_a_run_beside_labels(tmp_path: Path, teacher_folder: Path, capsys: Any) -> None:
    gold, dev = gold_file(tmp_path / "gold.csv", range(20)), write_csv(tmp_path / "dev.csv", 30, 9)
    wrong = "<b>good</b> fine great"
    rows = [{"text": t, "probs": lean(n)} for t, n in zip(TEXTS, NUMBERS, strict=True)] + [
        {"text": wrong, "probs": lean(0, 0.51)}
    ]
    path = jsonl(tmp_path / "p.jsonl", rows)
    more = {
        "settings": {
            "stages.*.epochs": 12,
            "stages.*.lr": 3e-3,
            "stages.*.batch_size": 8,
            "predictions.weights": "entropy",
        }
    }
    result = distilled(tmp_path / "run", path, teacher_folder, train=gold, dev=dev, baseline=False, quiet=False, **more)
    shown = capsys.readouterr()
    assert "teacher  61 predictions in" in shown.out + shown.err and "(from the file)" in shown.out + shown.err
    entry = result.report["predictions"]
    assert entry["agreement"]["train"] == {
        "texts": 20,
        "scores": {"accuracy": 1.0, "macro_f1": 1.0},
        "constant": entry["agreement"]["train"]["constant"],
    }
    assert "weights" in entry["options"] and result.report["data"]["unlabeled"] == 41
    assert entry["suspects_found"] == len(entry["suspects"])
    for one in entry["suspects"]:
        assert one["predicted"] != one["student"] and one["probability"] >= 0.9


def test_suspects_are_found_and_escaped(tmp_path: Path, teacher_folder: Path) -> None:
    """A student that has learnt the task finds the texts whose prediction is wrong."""
    texts, numbers = sentences(200, 21)
    wrong = [number if row % 20 else 1 - number for row, number in enumerate(numbers)]
    rows = [
        {"text": t if row % 20 else f"{t} <script>", "label": LABELS[n]}
        for row, (t, n) in enumerate(zip(texts, wrong, strict=True))
    ]
    sure = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    sure.classifier.weight.data *= 3
    result = api.distill(
        None,
        tmp_path / "run",
        teacher_predictions=jsonl(tmp_path / "p.jsonl", rows),
        student=(sure, AutoTokenizer.from_pretrained(teacher_folder / "teacher")),
        settings={"stages.*.max_steps": 1, "stages.*.lr": 1e-6},
        baseline=False,
        quiet=True,
    )
    entry = result.report["predictions"]
    inputs = result.tokenizer(texts := [row["text"] for row in rows], return_tensors="pt", padding=True)
    sure, ours = result.student(**inputs).logits.softmax(dim=1).max(dim=1)
    labels = [result.student.config.id2label[number] for number in ours.tolist()]
    pairs = zip(texts, sure.tolist(), labels, rows, strict=True)
    expected = {text for text, share, label, row in pairs if share >= 0.9 and label != row["label"]}
    trained = load_data(result.config.data).hold_out(0.1, 0).train.texts
    assert {one["text"] for one in entry["suspects"]} == expected & set(trained)
    assert entry["suspects_found"] == len(entry["suspects"]) >= 5
    page = (result.folder / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script>" not in page


@pytest.mark.parametrize("method", ["kd", "logits_mse", "bilstm"])
def test_methods_on_predictions(tmp_path: Path, teacher_folder: Path, method: str) -> None:
    path = predictions(tmp_path / "p.jsonl", lambda n: {"probs": lean(n)})
    student = {"student": None} if method == "bilstm" else {}
    result = distilled(tmp_path / "run", path, teacher_folder, method=method, baseline=False, **student)
    assert result.report["method"] == method and result.report["predictions"]["rows"] == 60
    losses = [value for stage in result.report["stages"] for _, value in stage["losses"][next(iter(stage["losses"]))]]
    assert losses and all(value > 0 for value in losses)


def test_entropy_weights_reach_the_losses(tmp_path: Path) -> None:
    """Both losses on predictions of three texts, against loops over texts and classes."""
    data = read(predictions(tmp_path / "p.jsonl", lambda n: {"probs": lean(n, 0.95 if n else 0.6)}), weights="entropy")
    count = len(data.train)
    texts = SimpleNamespace(examples=data.train, student=SimpleNamespace(logit_rows=np.ones(count, dtype=np.int64)))
    teacher = PredictedTeacher(data.predicted, {"train": texts}, torch.device("cpu"))
    batch = SimpleNamespace(rows=torch.tensor([4, 0, 7]), totals=SimpleNamespace(answers=3.0))
    signals = teacher.teacher_for(SimpleNamespace(), "train", Needs(logits=True)).signals(batch)
    student = torch.tensor([[0.3, -0.1], [1.5, 0.2], [-0.4, 0.9]])
    seen = Comparison(Signals(logits=student), signals, batch, KINDS["classification"], [], [], torch.nn.ModuleDict())
    kl = mse = 0.0
    for place, row in enumerate(batch.rows.tolist()):
        at = data.predicted.row_of[data.train.ids[row]]
        weight, z = data.predicted.weights[at].item(), data.predicted.targets[at].tolist()
        p, q = ([math.exp(v) / sum(map(math.exp, logits)) for v in logits] for logits in (z, student[place].tolist()))
        kl += weight * sum(p[c] * math.log(p[c] / q[c]) for c in (0, 1)) / 3
        mse += weight * sum((z[c] - student[place][c].item()) ** 2 for c in (0, 1)) / 2 / 3
    assert SoftLabels().value(seen).item() == pytest.approx(kl, rel=1e-5)
    assert LogitsMSE().value(seen).item() == pytest.approx(mse, rel=1e-5)


def test_resume(tmp_path: Path, teacher_folder: Path) -> None:
    from safetensors.torch import load_file

    from tutelage.training import loop

    path = predictions(tmp_path / "p.jsonl", lambda n: {"probs": lean(n)})
    whole = distilled(tmp_path / "whole", path, teacher_folder, baseline=False)
    before, stopped = loop.CHECKPOINT_SECONDS, loop.batches.step_batches
    calls = 0

    def stop(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return stopped(*given, **more)

    loop.CHECKPOINT_SECONDS, loop.batches.step_batches = 0, stop
    try:
        with pytest.raises(KeyboardInterrupt):
            distilled(tmp_path / "parts", path, teacher_folder, baseline=False)
    finally:
        loop.CHECKPOINT_SECONDS, loop.batches.step_batches = before, stopped
    distilled(tmp_path / "parts", path, teacher_folder, baseline=False, resume=True)
    ours, theirs = (
        load_file(folder / "student" / "model.safetensors") for folder in (whole.folder, tmp_path / "parts")
    )
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


@pytest.mark.parametrize("form", ["rows", "frame", "dataset", "columns"])
def test_objects(tmp_path: Path, teacher_folder: Path, form: str) -> None:
    rows = [{"text": t, "probs": lean(n)} for t, n in zip(TEXTS, NUMBERS, strict=True)]
    columns = {name: [row[name] for row in rows] for name in ("text", "probs")}
    given = {
        "rows": rows,
        "frame": pd.DataFrame(rows),
        "dataset": datasets.Dataset.from_list(rows),
        "columns": columns,
    }[form]
    result = distilled(tmp_path / "run", given, teacher_folder, baseline=False)
    assert result.report["predictions"]["form"] == "probabilities of all labels"


@pytest.mark.parametrize("settings", [["predictions.id=uid"], {"data.predictions.id": "uid"}])
def test_objects_matched_by_an_id(tmp_path: Path, monkeypatch: Any, settings: Any) -> None:
    seen = configuration(monkeypatch)
    frame = pd.DataFrame({"text": TEXTS, "label": GOLD, "uid": [f"u{i}" for i in range(60)], "other": [object()] * 60})
    given = pd.DataFrame({"uid": frame.uid[::-1], "answer": frame.label[::-1]})
    api.distill(
        None,
        tmp_path / "run",
        teacher_predictions=given,
        train=frame[:40],
        dev=frame[40:],
        unlabeled=frame[:9],
        settings=settings,
    )
    data = seen[0]
    assert data.predicted.agreement["train"].texts == 40 and data.predicted.agreement["dev"].scores["accuracy"] == 1.0
    with pytest.raises(TutelageError, match="no column 'uid' for id"):
        api.distill(None, tmp_path / "b", teacher_predictions=given, train=frame[["text", "label"]], settings=settings)


def test_texts_and_labels_take_the_names_of_the_columns(tmp_path: Path, monkeypatch: Any) -> None:
    seen = configuration(monkeypatch)
    frame = pd.DataFrame({"sentence": TEXTS, "intent": GOLD})
    names = {"text": "sentence", "label": "intent"}
    for number, more in enumerate(({**names}, {"data": DataConfig(**names)})):
        api.distill(None, tmp_path / str(number), teacher_predictions=(TEXTS, GOLD), train=frame, **more)
        assert seen[-1].predicted.agreement["train"].scores["accuracy"] == 1.0


def configuration(monkeypatch: Any) -> list[Any]:
    """The data of each run that is asked for, in place of the run."""
    seen: list[Any] = []
    monkeypatch.setattr("tutelage.api.runs.carried_out", lambda config, *_: seen.append(load_data(config.data)))
    return seen


def test_regression_and_several_labels_run(tmp_path: Path, teacher_folder: Path) -> None:
    for kind, answer in (
        ("regression", lambda n: {"prediction": n + 0.25}),
        ("multilabel", lambda n: {"probs": {"a": 0.9, "b": 0.2 + 0.6 * n}}),
    ):
        path = predictions(tmp_path / f"{kind}.jsonl", answer)
        result = distilled(tmp_path / kind, path, teacher_folder, kind=kind, baseline=kind == "multilabel")
        assert result.report["kind"] == kind and result.report["predictions"]["suspects_found"] is None


REFUSED = {
    "no student": ({"student": None}, "have no layers to copy; give student"),
    "sizes alone": ({"student": "layers=1,hidden=32"}, "like=bert-base-uncased"),
    "hidden states": ({"method": "pkd", "student": "layers=1,source=SOURCE"}, "compares the layers of a teacher"),
    "labels alone": ({"method": "finetune"}, "learns from labels alone"),
    "a teacher too": ({"teacher": "SOURCE"}, "stands for the teacher; leave out teacher"),
    "a store too": ({"teacher_store": "auto"}, "stands for the teacher; leave out teacher_store"),
    "a team too": ({"team": ["a", "b"], "method": "skdbert"}, "stands for the teacher|needs a teacher that runs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(tmp_path: Path, teacher_folder: Path, case: str) -> None:
    options, message = REFUSED[case]
    source = str(teacher_folder / "random")
    path = predictions(tmp_path / "p.jsonl", lambda n: {"probs": lean(n)})
    given = {"student": f"layers=1,source={source}", **options}
    given = {
        name: value.replace("SOURCE", source) if isinstance(value, str) else value for name, value in given.items()
    }
    with pytest.raises(TutelageError, match=message):
        api.distill(given.pop("teacher", None), tmp_path / "run", teacher_predictions=path, quiet=True, **given)
    assert not (tmp_path / "run").exists()


def test_predictions_in_the_wrong_order_are_refused(tmp_path: Path, teacher_folder: Path) -> None:
    gold = gold_file(tmp_path / "gold.csv", range(40))
    path = predictions(tmp_path / "p.jsonl", lambda n: {"probs": [lean(1 - n)[name] for name in LABELS]})
    more = {"train": gold, "baseline": False}
    with pytest.raises(
        TutelageError, match=r"no better than a constant answer .*; check the names and the order of the labels"
    ):
        distilled(tmp_path / "run", path, teacher_folder, **more)
    result = distilled(tmp_path / "run", path, teacher_folder, allow_weak_teacher=True, **more)
    assert any("no better than a constant answer" in line for line in result.report["warnings"])


def test_command_line(tmp_path: Path, teacher_folder: Path) -> None:
    path = predictions(tmp_path / "p.jsonl", lambda n: {"probs": lean(n)})
    words = ["distill", "--teacher-predictions", str(path), "--prior", "0.4,0.6", "--labels", "negative,positive"]
    words += [
        "--student",
        f"layers=1,source={teacher_folder / 'random'}",
        "--no-baseline",
        "--out",
        str(tmp_path / "run"),
    ]
    words += ["--set", "stages.*.max_steps=2", "--set", "predictions.missing=drop", "--json"]
    code, out, _ = invoke(*words)
    assert code == 0 and json.loads(out)["predictions"]["options"] == {"prior": "given"}
    words[words.index("0.4,0.6")] = "even"
    assert "give uniform, data, or a number for each label" in invoke(*words)[2]
    assert "prior:\n    - 0.4" in (tmp_path / "run" / "config.yaml").read_text()


def test_text_without_labels_names_both_remedies(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS])
    for options in ({"train": path}, {"unlabeled": path}):
        with pytest.raises(TutelageError, match=r"unlabeled.*teacher_predictions"):
            load_data(DataConfig(**options))
