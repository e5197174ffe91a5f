"""Calibration against slow references written from the formulas, and intervals of shares against those of metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import binom

from tutelage.evaluation import calibration, intervals
from tutelage.evaluation.calibration import (
    brier,
    calibration_error,
    confidences,
    divergence,
    fitted_temperature,
    probabilities,
    reliability,
)
from tutelage.run.quality import trusted


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(300, 4)`` and labels drawn from their softmax: calibrated at temperature 1."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (300, 4))
    labels = np.array([generator.choice(4, p=row) for row in softmax(logits, axis=1)])
    return logits, labels


def test_measures_are_those_of_the_formulas(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = drawn
    shares, teacher = probabilities(logits, 0.7), probabilities(logits[::-1], 1.3)
    error = squares = kl = 0.0
    for number in range(15):
        inside = [(max(row), int(np.argmax(row)) == y) for row, y in zip(shares, labels, strict=True)]
        inside = [(sure, right) for sure, right in inside if number / 15 < sure <= (number + 1) / 15]
        if inside:
            confidence = sum(sure for sure, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    for row, other, y in zip(shares, teacher, labels, strict=True):
        squares += sum((p - (c == y)) ** 2 for c, p in enumerate(row)) / len(labels)
        kl += sum(q * math.log(q / p) for q, p in zip(other, row, strict=True)) / len(labels)
    bins = reliability(confidences(logits, 0.7), logits.argmax(axis=1) == labels)
    assert calibration_error(bins) == pytest.approx(error)
    assert brier(shares, labels) == pytest.approx(squares)
    assert divergence(teacher, shares) == pytest.approx(kl)
    assert sum(one.count for one in bins) == 300
    assert probabilities(logits[:1], 0.7)[0].tolist() == pytest.approx(
        [math.exp(z / 0.7) / sum(math.exp(w / 0.7) for w in logits[0]) for z in logits[0]]
    )


def test_blocks_of_rows_bound_the_memory_and_change_nothing(
    drawn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = drawn
    ours, theirs = torch.from_numpy(logits), torch.from_numpy(logits[::-1].copy())

    def everything() -> list[float]:
        found = trusted(ours, theirs, labels, 0.7)
        resamples = intervals.resampled(lambda rows: float(labels[rows].mean()), 300).tolist()
        return [found["ece"], found["brier"], found["kl_to_teacher"], fitted_temperature(logits, labels), *resamples]

    whole, most = everything(), 0
    real = calibration.softmax

    def noting(values: np.ndarray, axis: int) -> np.ndarray:
        nonlocal most
        most = max(most, values.size)
        return np.asarray(real(values, axis=axis))

    monkeypatch.setattr(calibration, "softmax", noting)
    monkeypatch.setattr(calibration, "AT_ONCE", 50)
    monkeypatch.setattr(intervals, "AT_ONCE", 700)
    assert everything() == pytest.approx(whole, rel=1e-12) and most <= 50


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    shares, labels = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])
    sure = shares.max(axis=1)
    assert (calibration_error(reliability(sure, sure > 0)), brier(shares, labels)) == (0, 0)
    assert (calibration_error(reliability(sure, sure < 0)), brier(shares, (labels + 1) % 3)) == (1, 2)
    assert divergence(shares, shares) == 0
    assert math.isfinite(divergence(shares, np.roll(shares, 1, axis=1)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_has_the_lowest_cross_entropy(
    drawn: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    logits, labels = drawn
    found = fitted_temperature(temperature * logits, labels)
    grid = np.geomspace(0.05, 20, 2000)
    rows = np.arange(len(labels))
    losses = [-np.log(probabilities(temperature * logits, t)[rows, labels]).mean() for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)
    assert found == pytest.approx(temperature, rel=0.2)  # of which the labels were drawn


def test_rows_that_are_all_right_fit_no_temperature() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fitted_temperature(logits, np.array([0, 1])) is None
    assert fitted_temperature(logits[:0], np.array([], dtype=np.int64)) is None
    all_wrong = fitted_temperature(logits, np.array([1, 0]))
    assert all_wrong is not None and 0.05 <= all_wrong <= 20.001


def test_shares_have_the_interval_of_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 4000)
    generator = np.random.default_rng(1)
    theirs = generator.random(200) < 0.9
    ours = np.where(generator.random(200) < 0.15, ~theirs, theirs)
    quick = intervals.paired_shares(ours, theirs)
    slow = intervals.paired_difference(lambda rows: ours[rows].mean(), lambda rows: theirs[rows].mean(), 200)
    assert quick == pytest.approx(slow, abs=0.006)
    assert quick[0] == pytest.approx(slow[0])
    assert intervals.paired_shares(ours[:1], theirs[:1])[1:] == (None, None)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (19, 20), (20, 20), (196, 200)])
def test_the_least_share_is_exact(successes: int, trials: int) -> None:
    """At the bound, so many successes or more have the probability of the error that is allowed."""
    bound = intervals.least_share(successes, trials, 0.95)
    if successes == 0:
        assert bound == 0
    else:
        assert binom.sf(successes - 1, trials, bound) == pytest.approx(0.05)
    most = intervals.most_share(successes, trials, 0.95)
    assert most == 1 if successes == trials else binom.cdf(successes, trials, most) == pytest.approx(0.05)
