import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tutelage.errors import TutelageError
from tutelage.tasks import KINDS
from tutelage.tasks.metrics import no_better, value_of


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


def test_a_coin_toss_is_no_better_than_a_constant_answer() -> None:
    """Its macro F1 is above that of a constant answer, which names one class alone. A model that finds a rare class is better,
    though its accuracy is not."""
    names = ("accuracy", "macro_f1")
    labels = (np.arange(240) % 20 >= 11).astype(np.int64)
    constant = {name: chance(name, labels, "classification") for name in names}
    tossed = score(names, logits_of((np.arange(240) // 20 % 2).tolist(), 2), labels, "classification")
    assert tossed["macro_f1"] > 0.45 and no_better(tossed, constant, 240)
    rare = (np.arange(400) % 20 == 0).astype(np.int64)
    found = np.where(np.arange(400) % 20 < 2, 1, 0)  # every one, and as many others
    scores = score(names, logits_of(found.tolist(), 2), rare, "classification")
    constant = {name: chance(name, rare, "classification") for name in names}
    assert scores["accuracy"] <= constant["accuracy"] and not no_better(scores, constant, 400)


def test_chance():
    labels = np.array([0, 0, 0, 1, 1])
    assert chance("accuracy", labels, "classification") == pytest.approx(3 / 5)
    assert chance("micro_f1", labels, "classification") == pytest.approx(3 / 5)
    assert chance("macro_f1", labels, "classification") == pytest.approx(1 / 2)  # of guesses; a constant has 6/8/2
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


def test_metrics_of_classes_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        classes, count = int(generator.integers(2, 5)), int(generator.integers(1, 12))
        shapes = ((count,), (count, classes))
        for shape in shapes:
            said, true = generator.integers(0, classes if len(shape) == 1 else 2, (2, *shape))
            assert value_of("accuracy", said, true) == pytest.approx(accuracy_score(true, said))
            for name in ("macro", "micro"):
                wanted = f1_score(true, said, average=name, zero_division=0)
                assert value_of(f"{name}_f1", said, true) == pytest.approx(wanted)
        said, true = generator.integers(0, classes, (2, count))
        wanted = 0.0 if np.ptp(said) == 0 or np.ptp(true) == 0 else matthews_corrcoef(true, said)
        assert value_of("mcc", said, true) == pytest.approx(wanted)
        said, true = generator.integers(0, 2, (2, count))
        for positive in (0, 1):
            wanted = f1_score(true, said, pos_label=positive, zero_division=0)
            assert value_of("f1", said, true, positive) == pytest.approx(wanted)
