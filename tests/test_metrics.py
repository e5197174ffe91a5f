import math
import warnings

import numpy as np
import pytest

from tutelage.errors import TutelageError
from tutelage.tasks import KINDS
from tutelage.tasks.metrics import of_rows, value_of


def score(names, logits, labels, kind, positive=1):
    return KINDS[kind].score(names, logits, labels, positive)


def chance(name, labels, kind, positive=1):
    return KINDS[kind].chance(name, labels, positive)


def logits_of(predictions, classes):
    return np.eye(classes, dtype=np.float32)[predictions]


def test_binary_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    logits = logits_of([1, 1, 0, 1, 0, 0, 0, 0], 2)  # tp 2, fn 1, fp 1, tn 4
    result = score(["accuracy", "f1", "macro_f1", "micro_f1", "mcc"], logits, labels, "classification")
    assert result == pytest.approx(
        {
            "accuracy": 6 / 8,
            "f1": 4 / 6,
            "macro_f1": (4 / 6 + 8 / 10) / 2,
            "micro_f1": 6 / 8,
            "mcc": (2 * 4 - 1 * 1) / math.sqrt(3 * 3 * 5 * 5),
        }
    )
    assert list(result) == ["accuracy", "f1", "macro_f1", "micro_f1", "mcc"]
    assert all(type(value) is float for value in result.values())


def test_three_classes():
    labels = np.array([0, 0, 1, 2])
    result = score(["accuracy", "macro_f1"], logits_of([0, 1, 1, 2], 3), labels, "classification")
    assert result == pytest.approx({"accuracy": 3 / 4, "macro_f1": (2 / 3 + 2 / 3 + 1) / 3})


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_correlations(shape):
    labels = np.array([0.0, 1.0, 2.0, 5.0], dtype=np.float32)
    cubed = (labels**3).reshape(shape)
    result = score(["pearson", "spearman"], cubed, labels, "regression")
    assert result["spearman"] == pytest.approx(1)
    assert result["pearson"] == pytest.approx(np.corrcoef([0, 1, 8, 125], [0, 1, 2, 5])[0, 1])
    assert score(["pearson"], -2 * labels.reshape(shape), labels, "regression")["pearson"] == pytest.approx(-1)


def test_multilabel_threshold_is_zero():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32)
    logits = np.array([[2, -1, -1], [0.1, 0.0, -3], [-1, -1, 4]], dtype=np.float32)
    result = score(["accuracy", "micro_f1", "macro_f1"], logits, labels, "multilabel")
    assert result == pytest.approx({"accuracy": 1 / 3, "micro_f1": 2 * 2 / (2 * 2 + 1 + 1), "macro_f1": 1 / 3})


def test_constant_predictions_score_zero_and_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = score(["pearson", "spearman"], np.full((5, 1), 2.5), np.arange(5.0, dtype=np.float32), "regression")
        same = score(["pearson"], np.arange(5.0), np.ones(5, dtype=np.float32), "regression")
        negative = score(["mcc", "f1", "macro_f1"], logits_of([0] * 4, 2), np.array([0, 1, 1, 1]), "classification")
        one_class = score(["accuracy", "mcc", "f1"], logits_of([0] * 4, 2), np.zeros(4, dtype=int), "classification")
        nothing = score(["micro_f1", "macro_f1"], np.full((2, 3), -1.0), np.zeros((2, 3)), "multilabel")
    assert flat == {"pearson": 0.0, "spearman": 0.0}
    assert same == {"pearson": 0.0}
    assert negative == {"mcc": 0.0, "f1": 0.0, "macro_f1": pytest.approx(0.2)}
    assert one_class == {"accuracy": 1.0, "mcc": 0.0, "f1": 0.0}
    assert nothing == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_chance():
    labels = np.array([0, 0, 0, 1, 1])
    assert chance("accuracy", labels, "classification") == pytest.approx(3 / 5)
    assert chance("micro_f1", labels, "classification") == pytest.approx(3 / 5)
    assert chance("macro_f1", labels, "classification") == pytest.approx((6 / 8) / 2)
    assert chance("f1", labels, "classification") == pytest.approx(4 / 7)
    assert chance("mcc", labels, "classification") == 0
    assert chance("pearson", np.array([1.0, 2.0], dtype=np.float32), "regression") == 0
    assert chance("spearman", np.array([1.0, 2.0], dtype=np.float32), "regression") == 0
    many = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=np.float32)
    assert chance("micro_f1", many, "multilabel") == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert chance("accuracy", many, "multilabel") == pytest.approx(2 / 4)
    assert chance("micro_f1", 1 - many[:, :1].repeat(2, axis=1), "multilabel") == 0


def test_wrong_metric():
    with pytest.raises(TutelageError, match=r"metric bleu does not exist for classification: choose from accuracy"):
        score(["bleu"], np.zeros((2, 2)), np.array([0, 1]), "classification")
    with pytest.raises(TutelageError, match=r"accuracy does not exist for regression"):
        chance("accuracy", np.array([0.5, 1]), "regression")
    with pytest.raises(TutelageError, match=r"f1 is for two classes"):
        score(["f1"], np.eye(3), np.array([0, 1, 2]), "classification")
    with pytest.raises(TutelageError, match=r"f1 is for two classes"):
        chance("f1", np.array([0, 1, 2]), "classification")


def test_f1_is_about_the_positive_class_wherever_it_is_numbered():
    labels, logits = np.array([1, 1, 0, 0, 1]), np.array([[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]], dtype=float)
    there = score(["f1"], logits, labels, "classification")["f1"]
    turned = score(["f1"], logits[:, ::-1], 1 - labels, "classification", positive=0)["f1"]
    assert there == turned == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert chance("f1", 1 - labels, "classification", positive=0) == chance("f1", labels, "classification")


ONE_CLASS = ("accuracy", "f1", "macro_f1", "micro_f1", "mcc", "pearson", "spearman")
SEVERAL = ("accuracy", "macro_f1", "micro_f1")


@pytest.mark.parametrize(("name", "several"), [*((n, False) for n in ONE_CLASS), *((n, True) for n in SEVERAL)])
def test_a_metric_of_rows_is_that_of_the_chosen_examples(name, several):
    """Rows that count several times, classes that no chosen row has, constant answers."""
    generator = np.random.default_rng(0)
    classes = 2 if name == "f1" else 4
    shape, high = ((30, classes), 2) if several else ((30,), classes)
    labels = generator.integers(high, size=shape)
    predictions = np.where(generator.random(shape) < 0.6, labels, generator.integers(high, size=shape))
    metric = of_rows(name, predictions, labels)
    chosen = [np.arange(30), *generator.integers(30, size=(20, 30)), generator.integers(3, size=30), np.zeros(30, int)]
    for rows in chosen:
        assert metric(rows) == pytest.approx(value_of(name, predictions[rows], labels[rows]), abs=1e-12)
    if name == "f1":
        rows = chosen[1]
        assert of_rows(name, predictions, labels, 0)(rows) == value_of(name, predictions[rows], labels[rows], 0)
