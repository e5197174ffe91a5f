"""Teams of teachers: the distribution, how it learns, which ones run, and what is refused."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import LABELS, assert_alike, built_once, examples, tiny_model, write_csv
from pydantic import ValidationError
from scipy.special import softmax
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast

from tutelage import anatomy, api
from tutelage.artifacts import signed
from tutelage.data.batches import Batch, Known, step_batches
from tutelage.data.config import DataConfig
from tutelage.data.examples import Encoded, encode
from tutelage.data.labels import places_of
from tutelage.errors import TutelageError
from tutelage.evaluation.diversity import diversity
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.team.folders import left_out, members_in, short
from tutelage.mechanisms.team.members import _check_order, doubts
from tutelage.mechanisms.team.report import TeamReport
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import Resident, TeamTeacher, mixture
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Weights, by_rank, by_softmax, draw, selected
from tutelage.methods.autoskdbert import autoskdbert, ensemble, skdbert
from tutelage.methods.kd import kd
from tutelage.methods.named import method_recipe
from tutelage.objectives import losses
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, LogitsMSE, SoftLabels
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.run.run import with_teachers
from tutelage.students.specs import Copied
from tutelage.studies.teams import member_of, usual_members
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import KnownLogits, predict
from tutelage.training import loop

# ---------------------------------------------------------------------------------------------------- the distribution


def test_probabilities_sum_to_one_and_know_nothing_of_a_constant() -> None:
    weights = Weights([0.5, 0.3, 0.0, 0.2])
    q = weights.probabilities()
    assert q == pytest.approx([0.5, 0.3, 0, 0.2], abs=1e-12) and abs(q.sum() - 1) < 1e-12 and q[2] == 0
    weights.logs = weights.logs + 100
    assert np.abs(weights.probabilities() - q).max() < 1e-12


def test_the_single_update_is_the_natural_gradient() -> None:
    """Its expectation over draws, at a rate of 1 with the mean reward as baseline: what each earns over it, of n."""
    q, rewards = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.3, -0.2, 0.5, 0.1])
    excess, total = rewards - q @ rewards, np.zeros(4)
    for k, p in enumerate(q):
        weights = Weights(q)
        weights._advantage = lambda *_, k=k: excess[k]  # type: ignore[method-assign]
        before = weights.logs.copy()
        weights.update(k, 0.0, 1.0, shrink=0.0, watch=-1)
        change = weights.logs - before
        total += p * (change - change[next(i for i in range(4) if i != k)])  # without what is common to all
    assert total == pytest.approx(excess / 4, abs=1e-12)


def test_reinforce_is_the_policy_gradient() -> None:
    """Its expectation over draws, against autograd and against finite differences of the expected reward."""
    q, rewards, step = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, -0.5]), 1e-6

    def expected(logs: np.ndarray) -> float:
        p = np.exp(logs) / np.exp(logs).sum()
        return float(p @ rewards)

    slopes = [(expected(np.log(q) + step * e) - expected(np.log(q) - step * e)) / (2 * step) for e in np.eye(3)]
    logs = torch.tensor(np.log(q), requires_grad=True)
    (gradient,) = torch.autograd.grad((logs.softmax(0) * torch.tensor(rewards)).sum(), logs)
    total = np.zeros(3)
    for k, p in enumerate(q):
        weights = Weights(q)
        weights._advantage = lambda *_, k=k: float(rewards[k] - q @ rewards)  # type: ignore[method-assign]
        before = weights.logs.copy()
        weights.reinforce(k, 0.0, 1.0, shrink=0.0, watch=-1)
        total += p * (weights.logs - before)
    assert total == pytest.approx(gradient.numpy(), abs=1e-12)  # which sums to 0, as the changes do
    assert total == pytest.approx(np.array(slopes), abs=1e-8)


def test_only_the_drawn_teachers_weight_moves() -> None:
    weights = Weights([0.4, 0.3, 0.2, 0.1])
    for reward in (1.0, 2.0, 0.5):
        weights.update(0, reward, 0.1, watch=20)
    before = weights.logs.copy()
    weights.update(1, 5.0, 0.1, shrink=0.6, watch=0)
    factor = 1 - 0.1 * 0.6 / 4
    for i, j in ((0, 2), (0, 3), (2, 3)):
        assert weights.logs[i] - weights.logs[j] == pytest.approx(factor * (before[i] - before[j]), abs=1e-12)
    assert weights.logs[1] - weights.logs[0] > factor * (before[1] - before[0])


def test_nothing_moves_while_rewards_are_only_watched() -> None:
    weights = Weights([1, 1, 1])
    for number in range(20):
        weights.update(number % 3, float(number % 3), 1.0)
    assert weights.probabilities() == pytest.approx([1 / 3] * 3, abs=1e-12)
    weights.update(2, 2.0, 1.0)
    assert weights.probabilities()[2] > 0.4


def top_probability(seed: int, naive: bool) -> float:
    """Of a team of six equals after 3,000 updates with rewards of mean 1 and deviation 1."""
    generator = np.random.default_rng(seed)
    weights = Weights([1] * 6)
    for step in range(3000):
        k = int(draw(weights.probabilities(), seed, 0, step)[0])
        (weights.naive if naive else weights.update)(k, float(generator.normal(1, 1)), 0.05)
    return float(weights.probabilities().max())


def test_equals_stay_equals_and_by_the_naive_update_the_first_wins() -> None:
    assert max(top_probability(seed, False) for seed in range(4)) < 0.6
    assert min(top_probability(seed, True) for seed in range(4)) > 0.99


def test_a_better_teacher_wins_back_what_it_has_lost() -> None:
    generator = np.random.default_rng(0)
    weights = Weights([0.02, 0.49, 0.49])
    for step in range(3000):
        k = int(draw(weights.probabilities(), 0, step)[0])
        weights.update(k, float(generator.normal(1.0 if k == 0 else 0.0, 1)), 28 / 3000 * 2)
    assert weights.probabilities().argmax() == 0


def test_the_joint_update_ranks_as_the_rewards_do() -> None:
    weights, generator = Weights([1] * 4), np.random.default_rng(0)
    for _ in range(500):
        weights.update_all(np.array([0.3, 0.1, 0.0, -0.4]) + generator.normal(0, 0.3, 4), 28 / 500)
    assert np.argsort(-weights.probabilities()).tolist() == [0, 1, 2, 3]


def test_the_dropped_hand_their_weight_on() -> None:
    q = np.array([0.50, 0.30, 0.12, 0.08])
    assert selected(q, Learning(keep=0.4)) == pytest.approx([0.5 / 0.92, 0.3 / 0.92, 0.12 / 0.92, 0], abs=1e-12)
    assert selected(q, Learning(keep=0.52)) == pytest.approx([0.5 / 0.8, 0.3 / 0.8, 0, 0], abs=1e-12)
    assert selected(q, Learning(keep=0.52, handed_on="equal")) == pytest.approx([0.6, 0.4, 0, 0], abs=1e-12)
    assert selected(q, Learning(keep=100.0)) == pytest.approx([1, 0, 0, 0])
    assert selected(np.full(3, 1 / 3), Learning(keep=100.0)).tolist() == [1, 0, 0]
    assert selected(q, Learning(keep=0.0)).tolist() == pytest.approx(q.tolist())
    assert selected(q, Learning(keep=None)).tolist() == q.tolist()


def test_a_number_of_teachers_is_kept() -> None:
    q = np.array([0.12, 0.50, 0.08, 0.30])
    assert selected(q, Learning(top_m=2)) == pytest.approx([0, 0.625, 0, 0.375], abs=1e-12)
    assert selected(q, Learning(top_m=2, handed_on="equal")) == pytest.approx([0, 0.6, 0, 0.4], abs=1e-12)
    assert selected(q, Learning(top_m=1)) == pytest.approx([0, 1, 0, 0])
    assert selected(np.full(4, 0.25), Learning(top_m=3)) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    dropped = np.array([0.7, 0.3, 0.0])  # before: it gets nothing of the others' weight
    assert selected(dropped, Learning(top_m=3, handed_on="equal")) == pytest.approx([0.7, 0.3, 0])


def test_ranks() -> None:
    assert by_rank([0.9, 0.5, 0.7]) == pytest.approx([3 / 6, 1 / 6, 2 / 6])
    assert by_rank([0.5, 0.5, 0.7]) == pytest.approx([1.5 / 6, 1.5 / 6, 3 / 6])


def test_softmax_of_scores() -> None:
    parts = [math.exp(10 * score) for score in (0.9, 0.5, 0.7)]
    assert by_softmax([0.9, 0.5, 0.7], 10.0) == pytest.approx([part / sum(parts) for part in parts], rel=1e-12)
    assert by_softmax([900.0, 0.0], 10.0) == pytest.approx([1, 0])


# --------------------------------------------------------------------------------------------------------------- draws


def test_draws_have_the_distribution_and_never_hit_the_dead() -> None:
    q = np.array([0.1, 0.0, 0.6, 0.3, 0.0])
    counts = np.bincount(draw(q, 3, 1, np.arange(20_000)), minlength=5)
    assert counts[1] == counts[4] == 0
    assert chisquare(counts[q > 0], 20_000 * q[q > 0]).pvalue > 1e-3
    other = draw(q, 3, 2, np.arange(20_000))
    assert 0.3 < (draw(q, 3, 1, np.arange(20_000)) == other).mean() < 0.6  # another stage, other draws


def encoded_of(count: int = 64, tokenizer: BertTokenizerFast | None = None, seed: int = 1) -> Encoded:
    assert tokenizer is not None
    return encode(examples(count, seed), tokenizer, 32)


class Counting:
    """A teacher that counts its calls."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.calls, self.steps = logits, 0, []  # type: ignore[var-annotated]

    def signals(self, batch: Batch) -> Signals:
        self.calls += 1
        self.steps.append(batch.step)
        return Signals(logits=self.logits[batch.rows])

    def close(self) -> None:
        pass


def test_only_the_drawn_teacher_is_asked_whatever_the_pieces_and_processes(tokenizer) -> None:
    encoded = encoded_of(tokenizer=tokenizer)
    seen = []
    for rank, world, limit in ((0, 1, 10**6), (0, 1, 40), (0, 2, 10**6), (1, 2, 60)):
        team = [Counting(torch.randn(64, 2)) for _ in range(4)]
        teacher = TeamTeacher(team, Team(), Weights([0.4, 0.0, 0.3, 0.3]), KINDS["classification"], (7, 0))
        for number in range(30):
            rows = np.arange(8) + 8 * (number % 8)
            for batch in step_batches(encoded.take(rows), rows, rank, world, limit, number=number):
                teacher.signals(batch)
        assert team[1].calls == 0
        seen.append([sorted(set(member.steps)) for member in team])
        every = sorted(step for member in team for step in set(member.steps))
        assert every == list(range(30))  # one teacher a step
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_an_example_may_have_a_teacher_of_its_own(tokenizer) -> None:
    encoded = encoded_of(tokenizer=tokenizer)
    tables = [torch.full((64, 2), float(k)) for k in range(3)]
    team = [KnownLogits(table, encoded.logit_rows) for table in tables]
    teacher = TeamTeacher(team, Team(granularity="example"), Weights([0.5, 0.0, 0.5]), KINDS["classification"], (1, 0))
    rows = np.arange(64)
    whole = torch.zeros(64)
    for batch in step_batches(encoded, rows, 0, 1, 10**6, number=4):
        whole[batch.rows] = teacher.signals(batch).logits[:, 0]
    parts = torch.zeros(64)
    for batch in step_batches(encoded, rows, 0, 1, 50, number=4):
        parts[batch.rows] = teacher.signals(batch).logits[:, 0]
    assert whole.equal(parts) and set(whole.tolist()) == {0.0, 2.0}


# ------------------------------------------------------------------------------------------------------------ mixtures


def test_the_mean_of_probabilities_at_the_temperature() -> None:
    logits, shares = torch.randn(3, 5, 4) * 4, torch.tensor([0.5, 0.2, 0.3])[:, None]
    for t in (1.0, 2.0, 7.0):
        wanted = (shares[..., None] * (logits / t).softmax(-1)).sum(0)
        found = (mixture(logits, shares, t, KINDS["classification"], "probabilities") / t).softmax(-1)
        assert torch.allclose(found, wanted, atol=1e-6)
        likely = (mixture(logits, shares, t, KINDS["multilabel"], "probabilities") / t).sigmoid()
        assert torch.allclose(likely, (shares[..., None] * (logits / t).sigmoid()).sum(0), atol=1e-6)
    mean = (shares[..., None] * logits).sum(0)
    assert torch.allclose(mixture(logits, shares, 2.0, KINDS["classification"], "logits"), mean, atol=1e-6)
    assert torch.allclose(mixture(logits, shares, 2.0, KINDS["regression"], "probabilities"), mean, atol=1e-6)


def test_a_team_that_is_averaged_says_the_weighted_mean(tokenizer) -> None:
    encoded = encoded_of(8, tokenizer)
    tables = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0)) * 3
    (batch,) = step_batches(encoded, np.arange(8), 0, 1, 10**6)
    said, shares = tables[:, batch.rows], torch.tensor([0.75, 0.0, 0.25])[:, None, None]
    for average, wanted in (
        ("probabilities", (shares * (said / 3).softmax(-1)).sum(0)),
        ("logits", ((shares * said).sum(0) / 3).softmax(-1)),
    ):
        how, team = (
            Team(combine="average", average=average),
            [KnownLogits(table, encoded.logit_rows) for table in tables],
        )
        teacher = TeamTeacher(team, how, Weights([3, 0, 1]), KINDS["classification"], (0, 0), 3.0)
        assert torch.allclose((teacher.signals(batch).logits / 3).softmax(-1), wanted, atol=1e-6), average


def test_uniform_draws_have_the_gradient_of_the_mean_of_probabilities() -> None:
    teachers, student = torch.randn(5, 16, 3), torch.randn(16, 3, requires_grad=True)

    def gradient(teacher: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(losses.soft_cross_entropy(student, teacher, 2.0), student)
        return found

    drawn = torch.stack([gradient(teacher) for teacher in teachers]).mean(0)
    mean = gradient(mixture(teachers, torch.full((5, 1), 0.2), 2.0, KINDS["classification"], "probabilities"))
    assert (drawn - mean).norm() / mean.norm() < 1e-6


def test_a_teacher_counts_less_where_it_is_wrong(tokenizer) -> None:
    """MT-BERT's sum over teachers, written out."""
    encoded, t = encoded_of(8, tokenizer), 2.0
    tables = torch.randn(3, 8, 2) * 3
    team = [KnownLogits(table, encoded.logit_rows) for table in tables]
    how = Team(combine="discounted")
    teacher = TeamTeacher(team, how, Weights([1, 1, 1]), KINDS["classification"], (0, 0), t)
    (batch,) = step_batches(encoded, np.arange(8), 0, 1, 10**6)
    student = torch.randn(8, 2, requires_grad=True)
    taught = teacher.signals(batch)
    kind, shape = KINDS["classification"], anatomy.shape_of(tiny_model().config)
    objective = Objective([SoftLabels(temperature=t, scale=False)], kind, shape, shape)
    (found,) = torch.autograd.grad(objective(Signals(student), taught, batch)["soft_labels"], student)
    wanted = torch.zeros(())
    for table in tables:
        for row, (x, number) in enumerate(zip(batch.rows.tolist(), batch.labels.tolist(), strict=True)):
            p = (table[x] / t).softmax(0)
            soft = -(p * (student[row] / t).log_softmax(0)).sum()
            wanted = wanted + soft / (1 - table[x].log_softmax(0)[number]) / 8
    (by_hand,) = torch.autograd.grad(wanted, student)
    assert torch.allclose(found, by_hand, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- the rewards


def scene(tokenizer, update: str = "single", dtype: torch.dtype = torch.float32, **more):
    """A weigher, its student, a batch, and its held-out examples."""
    student = tiny_model(spread=1.5).to(dtype)
    encoded, held = encoded_of(32, tokenizer), encoded_of(24, tokenizer, seed=5)
    tables = torch.randn(3, 32, 2, generator=torch.Generator().manual_seed(0))
    team = TeamTeacher(
        [KnownLogits(table, encoded.logit_rows) for table in tables],
        Team(),
        Weights([1, 1, 1]),
        KINDS["classification"],
        (0, 0),
    )
    how = Learning(update=update, examples=24, **more)
    term = SoftLabels(temperature=2.0, weight=0.3)
    said = torch.randn(3, 24, 2, generator=torch.Generator().manual_seed(1))
    answers = [KnownLogits(table, held.logit_rows) for table in said]
    names = ["a", "b", "c"]
    weigher = Weigher(
        how, team, student, term, held, answers, KINDS["classification"], Accelerator(), (0, 0), names, 100
    )
    return weigher, student, encoded, held, said if how.unseen else tables


def explicit(
    student, encoded: Encoded, held: Encoded, teacher: Tensor, only: list[str], temperature: float = 1.0
) -> float:
    """``<g_k, g_v> / ||g_v||`` by two backward passes, the labels' loss at a temperature."""
    student.eval()
    parameters = [p for name, p in student.named_parameters() if name in only]

    def logits_of(what: Encoded) -> tuple[Tensor, Batch]:
        (batch,) = step_batches(what, np.arange(len(what)), 0, 1, 10**6)
        return student(**batch.inputs).logits, batch

    logits, batch = logits_of(held)
    g_v = torch.autograd.grad(F.cross_entropy(logits / temperature, batch.labels), parameters, allow_unused=True)
    logits, batch = logits_of(encoded)
    log_s, p = F.log_softmax(logits / 2, -1), F.softmax(teacher[batch.rows].to(logits) / 2, -1)
    loss = 4 * (p * (p.log() - log_s)).sum() / len(encoded)
    g_k = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = [(a, b) for a, b in zip(g_k, g_v, strict=True) if a is not None and b is not None]
    norm = sum(float(b.double().square().sum()) for _, b in pairs) ** 0.5
    return sum(float((a.double() * b.double()).sum()) for a, b in pairs) / norm


@pytest.mark.parametrize("parameters", ["all", 1, "head"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_rewards_are_the_products_of_gradients(tokenizer, parameters, dtype: torch.dtype, tolerance: float) -> None:
    weigher, student, encoded, held, tables = scene(tokenizer, "all", dtype, parameters=parameters)
    parts = list(step_batches(encoded, np.arange(32), 0, 1, 90))
    held_parts = list(step_batches(held, np.arange(24), 0, 1, 90))
    assert len(parts) > 1 and len(held_parts) > 1
    student.train()
    found = weigher._alignments(held_parts, parts)
    assert student.training  # as it was
    names = list(weigher._compared())
    assert (len(names) < len(dict(student.named_parameters()))) == (parameters != "all")
    wanted = [explicit(student, encoded, held, table, names) for table in tables]
    assert [found[k] for k in range(3)] == pytest.approx(wanted, rel=tolerance, abs=tolerance * max(map(abs, wanted)))


def test_rewards_on_unseen_examples_forgive_too_much_confidence(tokenizer) -> None:
    """Half of the held-out examples of a step are for the labels' gradient, the others for the teachers'; none is for both."""
    how = {"unseen": True, "calibrated": True}
    weigher, student, _, held, said = scene(tokenizer, "all", torch.float64, **how)
    weigher._log_temperature = np.log(1.7)
    mine, others = weigher._held_parts(4)
    rows, judged = (torch.cat([part.rows for part in parts]).numpy() for parts in (mine, others))
    assert sorted([*rows, *judged]) == list(range(24)) and len(rows) == len(judged) == 12
    assert {part.step for part in others} == {4}
    found = weigher._alignments(mine, others)
    names = list(weigher._compared())
    wanted = [explicit(student, held.take(judged), held.take(rows), table[judged], names, 1.7) for table in said]
    assert [found[k] for k in range(3)] == pytest.approx(wanted, rel=1e-6)
    assert weigher._log_temperature != np.log(1.7)


def test_the_temperature_becomes_the_best_one_but_never_sharpens(tokenizer) -> None:
    weigher, student, _, held, _ = scene(tokenizer, calibrated=True, parameters="head")
    (part,) = step_batches(held, np.arange(24), 0, 1, 10**6)
    for scale in (2.0, 0.01):
        with torch.no_grad():
            student.classifier.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(scale)
            student.classifier.bias.zero_()
            logits = student.eval()(**part.inputs).logits
            labels = logits.argmax(dim=1)
            labels[:5] = 1 - labels[:5]  # about as sure as it may be of four in five
        known = replace(part, labels=labels)
        for _ in range(200):
            weigher._alignments([known], [])
        tried = np.exp(np.linspace(0, np.log(10), 400))
        best = min(tried, key=lambda t: float(F.cross_entropy(logits / t, labels)))
        assert weigher.record()["temperature"] == pytest.approx(best, rel=0.01), scale
        assert (best > 1.5) == (scale > 1) and best < 9


def test_a_regression_has_no_confidence(tokenizer) -> None:
    weigher, *_ = scene(tokenizer, calibrated=True)
    others = (weigher._held, [], KINDS["regression"], Accelerator(), (0, 0), ["a", "b", "c"])
    assert not Weigher(weigher.how, weigher.team, weigher._student, LogitsMSE(), *others)._calibrated


def test_rewards_are_how_the_held_out_loss_depends_on_the_distribution(tokenizer) -> None:
    """``dL_v(w - xi sum_i q_i g_i) / dq_i = -xi ||g_v|| r_i``, by finite differences in the distribution."""
    weigher, student, encoded, held, tables = scene(tokenizer, "all", torch.float64)
    (batch,) = step_batches(encoded, np.arange(32), 0, 1, 10**6)
    (other,) = step_batches(held, np.arange(24), 0, 1, 10**6)
    found = weigher._alignments([other], [batch])
    student.eval()
    parameters, xi, h = list(student.parameters()), 1e-4, 1e-2
    start = [p.detach().clone() for p in parameters]
    gradients = []
    for table in tables:
        log_s = F.log_softmax(student(**batch.inputs).logits / 2, -1)
        p = F.softmax(table[batch.rows].double() / 2, -1)
        gradients.append(torch.autograd.grad(4 * (p * (p.log() - log_s)).sum() / 32, parameters, allow_unused=True))
    g_v = torch.autograd.grad(F.cross_entropy(student(**other.inputs).logits, other.labels), parameters)
    norm = float(torch.stack([g.square().sum() for g in g_v]).sum().sqrt())

    @torch.no_grad()
    def loss_after(q: np.ndarray) -> float:
        for number, parameter in enumerate(parameters):
            moves = [share * g[number] for share, g in zip(q, gradients, strict=True)]
            parameter.copy_(start[number] - xi * sum(moves))
        return float(F.cross_entropy(student(**other.inputs).logits, other.labels))

    q = np.full(3, 1 / 3)
    for k in range(3):
        slope = (loss_after(q + h * np.eye(3)[k]) - loss_after(q - h * np.eye(3)[k])) / (2 * h)
        assert slope == pytest.approx(-xi * norm * found[k], rel=0.02, abs=0.02 * xi * norm)


def test_the_single_update_asks_the_drawn_teacher_alone(tokenizer) -> None:
    weigher, _, encoded, held, tables = scene(tokenizer)
    weigher.team.members = [Counting(table) for table in tables]
    parts = list(step_batches(encoded, np.arange(32), 0, 1, 10**6, number=5))
    found = weigher._alignments(list(step_batches(held, np.arange(24), 0, 1, 10**6)), parts)
    assert list(found) == [weigher.team.drawn(5)]
    assert [member.calls for member in weigher.team.members] == [int(k in found) for k in range(3)]


def test_without_a_gradient_nothing_is_learnt(tokenizer) -> None:
    weigher, student, encoded, _, _ = scene(tokenizer, parameters="head", watch=0)
    for parameter in student.classifier.parameters():
        parameter.requires_grad_(False)
    for parameter in student.bert.pooler.parameters():
        parameter.data.zero_()
    student.classifier.requires_grad_(True)
    student.classifier.weight.data.zero_()
    student.classifier.bias.data.copy_(torch.tensor([60.0, -60.0]))  # sure of one class: no gradient where it is right
    weigher._held = replace(weigher._held, labels=np.zeros(24, dtype=np.int64))
    parts = list(step_batches(encoded, np.arange(32), 0, 1, 10**6))
    weigher.before_step(torch.optim.AdamW(student.parameters()), parts, 100)
    assert weigher.skipped == 1 and weigher.team.weights.probabilities() == pytest.approx([1 / 3] * 3)
    for bias in ([0.0, 0.0], [2.0, -1.0]):  # a first reward is the usual one: nothing can be over it
        student.classifier.bias.data.copy_(torch.tensor(bias))
        weigher.before_step(torch.optim.AdamW(student.parameters()), parts, 100)
    assert weigher.skipped == 1 and weigher.team.weights.probabilities() != pytest.approx([1 / 3] * 3)


def test_the_student_learns_as_without_the_weigher_and_a_team_of_one_is_a_teacher(tokenizer) -> None:
    """What is learnt about the team must not touch the student: its weights are the same (to the bit where nothing is learnt,
    but for rounding where it is); and a team of one gives what the teacher gives."""
    encoded = encoded_of(64, tokenizer)
    table = torch.randn(64, 2)
    objective = [SoftLabels(temperature=2.0, weight=0.5), HardLabels(weight=0.5)]
    kind, results = KINDS["classification"], []
    for learning in (None, Learning(examples=8)):
        for team in (False, True):
            if learning is not None and not team:
                continue
            student = tiny_model(seed=3)
            teacher = KnownLogits(table, encoded.logit_rows)
            weigher = None
            if team:
                teacher = TeamTeacher([teacher], Team(learning=learning), Weights([1.0]), kind, (0, 0), 2.0)
            if learning is not None:
                weigher = Weigher(
                    learning,
                    teacher,
                    student,
                    objective[0],
                    encoded_of(16, tokenizer, 4),
                    [],
                    kind,
                    Accelerator(),
                    (0, 0),
                    ["a"],
                )
            stage = Stage(name="s", objective=objective, epochs=5, batch_size=16, lr=1e-3, select="last")
            shape = anatomy.shape_of(student.config)
            lesson = loop.DistillationModule(student, Objective(objective, kind, shape, shape))
            loop.train(
                stage, lesson, teacher, Known(encoded), Accelerator(cpu=True), 0, hooks=[weigher] if weigher else []
            )
            results.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
    alone, team_of_one, learning_too = results
    assert all(tensor.equal(team_of_one[name]) for name, tensor in alone.items())
    # Rows of the embedding table that held-out examples read make their missed steps sooner: rounding.
    assert_alike(learning_too, alone, within=2e-5)


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def team_root(tmp_path_factory, tokenizer) -> Path:
    """Three teachers that know the toy task, one with random and one with wrong labels, made by one call."""
    return built_once(tmp_path_factory, "team", lambda root: make_team(root, tokenizer))


def make_team(root: Path, tokenizer) -> None:
    tiny_model(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1).save_pretrained(root / "random")
    tokenizer.save_pretrained(root / "random")
    write_csv(root / "train.csv", 1500, 1)
    write_csv(root / "dev.csv", 200, 2)
    members = ["seed=0", "seed=1,layers=2", "seed=2,noise=0.5", "seed=3,only=1/2", "seed=4,noise=1.0"]
    found = api.train_team(
        str(root / "random"), str(root / "team"), members=members, epochs=2, lr=3e-3, quiet=True, **texts(root)
    )
    (root / "shown.json").write_text(found.model_dump_json())


def texts(root: Path) -> dict[str, str]:
    return {"train": str(root / "train.csv"), "dev": str(root / "dev.csv")}


@dataclass
class Beginning:
    """A stage's team as its training begins: its distribution, and what it and its members say of some texts."""

    weights: np.ndarray
    said: Tensor
    signals: Signals


def beginnings(monkeypatch) -> dict[str, Beginning]:
    """Fills with the stages of the runs that follow."""
    train, found = loop.train, {}

    def watched(stage, lesson, teacher, feed, *rest, **more):
        (batch,) = step_batches(feed.read(0, np.arange(12)), np.arange(12), 0, 1, 10**6)
        said = torch.stack([member.signals(batch).logits for member in teacher.members])
        found[stage.name] = Beginning(teacher.weights.probabilities(), said, teacher.signals(batch))
        return train(stage, lesson, teacher, feed, *rest, **more)

    monkeypatch.setattr(loop, "train", watched)
    return found


SHORT = ["stages.*.lr=1e-3", "stages.search.max_steps=500", "stages.refine.max_steps=40", "stages.distill.epochs=1"]


def search(root: Path, out: Path, settings: list[str] = [], **more):  # noqa: B006
    recipe = autoskdbert()
    return api.distill(
        None,
        str(out),
        team=str(root / "team"),
        method=recipe,
        student="layers=2,choose=first",
        allow_weak_teacher=True,
        baseline=False,
        settings=[*SHORT, *settings],
        quiet=True,
        **{**texts(root), **more},
    ).report


def test_a_team_is_made_shown_and_repeated(team_root: Path, tmp_path: Path) -> None:
    found = TeamReport.model_validate_json((team_root / "shown.json").read_text())
    scores = [member.scores["held_out"]["accuracy"] for member in found.members]
    assert min(scores[0], scores[1], scores[3]) > 0.9 and 0.3 < scores[2] < 0.7 and scores[4] < 0.1
    assert [member.name for member in found.members][1] == "02-seed1-layers2"
    assert found == api.show_team(str(team_root / "team"), quiet=True)
    folders = members_in([str(team_root / "team")])
    assert found == api.show_team(folders, quiet=True, **texts(team_root))
    assert found.not_kept_apart == []
    # What is said replaces only that of the team's data.
    cut = api.show_team(str(team_root / "team"), max_length=8, quiet=True)
    assert cut.task == found.task and cut.members[0].scores != found.members[0].scores
    copied = shutil.copytree(folders[1], tmp_path / Path(folders[1]).name) / "config.yaml"
    copied.write_text(copied.read_text(encoding="utf-8").replace("leave_out:", "left_in:"), encoding="utf-8")
    shown = api.show_team([folders[0], str(copied.parent)], quiet=True, **texts(team_root))
    assert shown.not_kept_apart == ["02-seed1-layers2"]
    assert len(folders) == 5 and all((Path(f) / "model.safetensors").exists() for f in folders)


def test_a_run_as_data_may_name_the_teams_folder(team_root: Path) -> None:
    config = with_teachers(RunConfig(recipe=skdbert(), teachers=(str(team_root / "team"),)))
    assert config.teachers == members_in([str(team_root / "team")]) and config.teacher == config.teachers[0]
    assert with_teachers(config) == config
    named = config.model_copy(update={"teacher": config.teachers[1]})
    assert with_teachers(named).teacher == config.teachers[1]


@pytest.mark.slow
def test_bad_teachers_are_dropped_and_the_student_is_a_plain_model(
    team_root: Path, tmp_path: Path, monkeypatch
) -> None:
    began = beginnings(monkeypatch)
    report = search(team_root, tmp_path / "run")
    first, second = report["mechanisms"]["team"]["data"]["stages"]
    # Each stage is taught by what the one before has found, the last one too; and the report says so.
    for name, wanted in (("search", [0.2] * 5), ("refine", first["next"]), ("distill", second["next"])):
        assert (
            began[name].weights
            == pytest.approx(wanted, abs=1e-12)
            == report["mechanisms"]["team"]["data"]["starts"][name]
        ), name
    assert np.ptp(second["next"]) > 0.2
    assert {"03-seed2-noise0.5", "05-seed4-noise1.0"}.isdisjoint(first["kept"]) and len(first["kept"]) >= 2
    assert sum(first["next"]) == pytest.approx(1, abs=1e-12) and first["updates"] == sum(first["draws"]) == 500
    assert second["start"] == pytest.approx(first["next"]) and second["kept"] == first["kept"]
    assert [row[0] for row in first["history"]][-1] == 500 and len(first["history"]) == 167  # 500 / 3, and the last
    assert [stage["steps"] for stage in report["stages"]][:2] == [500, 40]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")("good great fine", return_tensors="pt")
    assert (
        model.config.num_hidden_layers == 2 and model.config.id2label[int(model(**inputs).logits.argmax())] == LABELS[1]
    )


@pytest.mark.parametrize(
    ("method", "settings", "wanted"),
    [
        ("skdbert", ["team.weights=teacher_rank"], "ranks"),
        pytest.param(
            "skdbert",
            ["team.weights=student_rank", "team.scores=[0.5,0.9,0.7,0.6,0.8]"],
            np.array([1, 5, 3, 2, 4]) / 15,
            marks=pytest.mark.slow,
        ),
        ("skdbert", ["team.weights=score_softmax", "team.beta=5"], "softmax"),
        pytest.param(
            "skdbert",
            ["team.weights=score_softmax", "team.scores=[0.5,0.9,0.7,0.6,0.8]"],
            softmax(20 * np.array([0.5, 0.9, 0.7, 0.6, 0.8])),
            marks=pytest.mark.slow,
        ),
        pytest.param("skdbert", ["team.weights=[1,0,2,0,1]"], [0.25, 0, 0.5, 0, 0.25], marks=pytest.mark.slow),
        ("ensemble", [], [0.2] * 5),
        pytest.param("mt_bert", [], [0.2] * 5, marks=pytest.mark.slow),
    ],
)
def test_fixed_distributions_and_means_teach_too(
    method: str, settings: list[str], wanted: Any, team_root: Path, tmp_path: Path, monkeypatch
) -> None:
    if isinstance(wanted, str) and wanted == "ranks":
        shown = TeamReport.model_validate_json((team_root / "shown.json").read_text())
        scores = [member.scores["held_out"]["accuracy"] for member in shown.members]
        # Linear steps by place from the worst, 1 to 5, whose sum is 15; equal scores share theirs.
        ranks = [sum((b < a) + (b == a) / 2 for b in scores) + 0.5 for a in scores]
        assert len(set(ranks)) > 3 and ranks[2] == 2 and ranks[4] == 1
        wanted = np.array(ranks) / 15
    began = beginnings(monkeypatch)
    report = api.distill(
        None,
        str(tmp_path / "run"),
        team=str(team_root / "team"),
        method=method,
        student="layers=1,choose=first",
        allow_weak_teacher=True,
        baseline=False,
        settings=["stages.distill.max_steps=5", "stages.*.lr=1e-3", *settings],
        quiet=True,
        **texts(team_root),
    ).report
    assert (
        report["mechanisms"]["team"]["data"]["stages"] == []
        and len(report["mechanisms"]["team"]["data"]["members"]) == 5
    )
    (start,) = began.values()
    if isinstance(wanted, str):  # softmax of the teachers' own scores, on what this run holds out
        wanted = softmax(
            [5 * member["scores"]["held_out"]["accuracy"] for member in report["mechanisms"]["team"]["data"]["members"]]
        )
    assert start.weights == pytest.approx(wanted, abs=1e-12)
    assert report["mechanisms"]["team"]["data"]["starts"] == {"distill": pytest.approx(wanted, abs=1e-12)}
    if method == "ensemble":  # what it says is what all say in the mean, at the temperature of the recipe
        mean = (start.said / 2).softmax(-1).mean(0)
        assert torch.allclose((start.signals.logits / 2).softmax(-1), mean, atol=1e-6)
        assert not torch.allclose(start.signals.logits.softmax(-1), start.said.softmax(-1).mean(0), atol=1e-2)


def test_hidden_states_of_one_shape_are_compared_with_few_teachers_on_the_device(team_root: Path, tokenizer) -> None:
    folders = members_in([str(team_root / "team")])
    encoded, room = encoded_of(16, tokenizer), []  # type: ignore[var-annotated]
    models = [AutoModelForSequenceClassification.from_pretrained(folders[k]) for k in (0, 2, 3)]
    moves: list[tuple[int, str]] = []
    for model in models:
        model.to = lambda place, model=model: moves.append((models.index(model), str(place)))  # type: ignore[method-assign]
    needs = Needs(logits=True, hidden=frozenset([2]))
    members = [Resident(model, needs, None, Accelerator(cpu=True), room, 2) for model in models]
    for member in members:
        member._device = torch.device("meta")  # stands for an accelerator: who is evicted goes the other way
    team = TeamTeacher(members, Team(), Weights([1, 1, 1]), KINDS["classification"], (0, 0))
    on_device: set[int] = set()
    most = 0
    for number in range(30):
        (batch,) = step_batches(encoded, np.arange(16), 0, 1, 10**6, number=number)
        moves.clear()
        signals = team.signals(batch)
        for who, place in moves:
            assert place in ("meta", "cpu")
            (on_device.add if place == "meta" else on_device.discard)(who)
            most = max(most, len(on_device))
        assert team.drawn(number) in on_device
        direct = models[team.drawn(number)](**batch.inputs).logits
        assert torch.allclose(signals.logits, direct, atol=1e-5) and signals.hidden[2].shape[-1] == 32
    assert most == 2  # of three, in no moment more
    team.close()


def test_a_running_team_and_a_known_one_give_the_same_losses(team_root: Path, tokenizer) -> None:
    folders = members_in([str(team_root / "team")])
    encoded, accelerator, room = encoded_of(16, tokenizer), Accelerator(cpu=True), []  # type: ignore[var-annotated]
    models = [AutoModelForSequenceClassification.from_pretrained(folder).eval() for folder in folders[:3]]
    known = [KnownLogits(predict(model, encoded, accelerator), encoded.logit_rows) for model in models]
    running = [Resident(model, Needs(logits=True), None, accelerator, room, 2) for model in models]
    shape = anatomy.shape_of(tiny_model().config)
    objective = Objective([SoftLabels(temperature=2.0), HardLabels()], KINDS["classification"], shape, shape)
    student, losses_of = torch.randn(16, 2), []
    for members in (known, running):
        team = TeamTeacher(members, Team(), Weights([0.2, 0.5, 0.3]), KINDS["classification"], (7, 0))
        found = []
        for number in range(12):
            (batch,) = step_batches(encoded, np.arange(16), 0, 1, 10**6, number=number)
            terms = objective(Signals(student[batch.rows]), team.signals(batch), batch)
            found.append([float(terms[name]) for name in ("soft_labels", "hard_labels")])
        losses_of.append(found)
        assert len({team.drawn(number) for number in range(12)}) == 3
        team.close()
    assert np.array(losses_of[0]) == pytest.approx(np.array(losses_of[1]), abs=1e-5)


def test_a_stage_on_hidden_states_needs_teachers_of_one_shape(team_root: Path, tmp_path: Path) -> None:
    folders = members_in([str(team_root / "team")])
    recipe = method_recipe("distilbert")
    stage = recipe.stages[0].model_copy(update={"mechanisms": [Team()], "epochs": 1, "max_steps": 5})
    recipe = recipe.model_copy(update={"stages": [stage]})
    common = dict(method=recipe, student="layers=2,choose=first", baseline=False, quiet=True, **texts(team_root))
    api.distill(None, str(tmp_path / "same"), team=[folders[0], folders[3]], **common)
    with pytest.raises(TutelageError, match="differs in layers"):
        api.distill(None, str(tmp_path / "other"), team=[folders[0], folders[1]], **common)


@pytest.mark.slow
def test_stored_teachers_say_the_same(team_root: Path, tmp_path: Path, monkeypatch) -> None:
    """A store in a member's place gives the same student, to the bit; so does one that is written on the way."""
    folders = list(members_in([str(team_root / "team")]))[:3]
    few = {**texts(team_root), "train": str(write_csv(tmp_path / "train.csv", 300, 1))}
    stores = []
    for number, folder in enumerate(folders):
        api.write_store(
            folder,
            str(tmp_path / f"store{number}"),
            method="kd",
            student="layers=1,choose=first",
            allow_weak_teacher=True,
            quiet=True,
            **few,
        )
        stores.append(str(tmp_path / f"store{number}"))
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "written"))
    students = []
    ways = (("live", folders, None), ("stored", [folders[0], *stores[1:]], None), ("auto", folders, "auto"))
    for out, team, teacher_store in ways:
        api.distill(
            None,
            str(tmp_path / out),
            team=team,
            method="skdbert",
            student="layers=2,choose=first",
            baseline=False,
            settings=["stages.distill.epochs=1"],
            teacher_store=teacher_store,
            quiet=True,
            **few,
        )
        students.append((tmp_path / out / "student" / "model.safetensors").read_bytes())
    assert students[0] == students[1] == students[2]
    assert len(list((tmp_path / "written").rglob("manifest.json"))) == 3
    # One that is named first is what the report compares with, without its weights; a student of them cannot be made.
    more = dict(team=[stores[0], folders[1]], method="skdbert", baseline=False, quiet=True, **few)
    new = "init=fresh,layers=1,hidden=16,heads=2,intermediate=32"
    report = api.distill(
        None, str(tmp_path / "new"), student=new, settings=["stages.distill.max_steps=3"], **more
    ).report
    assert report["teacher"]["score"] > 0.9 and report["teacher"]["latency_ms"] is None
    with pytest.raises(TutelageError, match="has no weights"):
        api.distill(None, str(tmp_path / "copied"), student="layers=1,choose=first", **more)


def test_teachers_with_other_tokenizers_and_label_orders(team_root: Path, tmp_path: Path, tokenizer) -> None:
    """A member whose vocabulary and classes stand in another order says the same, by name."""
    folder = members_in([str(team_root / "team")])[0]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    order = torch.cat(
        [torch.arange(5), 5 + torch.randperm(len(tokenizer) - 5, generator=torch.Generator().manual_seed(0))]
    )
    words = {word: int((order == i).nonzero()[0]) for word, i in tokenizer.get_vocab().items()}
    table = model.bert.embeddings.word_embeddings.weight
    table.data = table.data[order]
    model.classifier.weight.data = model.classifier.weight.data.flip(0)
    model.classifier.bias.data = model.classifier.bias.data.flip(0)
    model.config.id2label, model.config.label2id = {0: LABELS[1], 1: LABELS[0]}, {LABELS[1]: 0, LABELS[0]: 1}
    model.save_pretrained(tmp_path / "twin")
    BertTokenizerFast(vocab=words, model_max_length=32).save_pretrained(tmp_path / "twin")
    shown = api.show_team([folder, str(tmp_path / "twin")], quiet=True, **texts(team_root))
    assert shown.agreement[0][1] == 1 and shown.members[0].scores == shown.members[1].scores
    model.config.id2label, model.config.label2id = {0: LABELS[0], 1: LABELS[1]}, {LABELS[0]: 0, LABELS[1]: 1}
    shutil.copytree(tmp_path / "twin", tmp_path / "liar")
    model.save_pretrained(tmp_path / "liar")
    train = write_csv(tmp_path / "train.csv", 1500, 1)
    with pytest.raises(TutelageError, match="another order than its id2label says"):
        api.distill(
            None,
            str(tmp_path / "run"),
            team=[folder, str(tmp_path / "liar")],
            method="skdbert",
            quiet=True,
            train=str(train),
        )
    assert not (tmp_path / "run").exists()


def test_classes_are_found_by_their_names() -> None:
    theirs = ("B", "a", "c", "C")
    assert places_of(("a", "B"), theirs) == [1, 0] == places_of(("A", "b"), theirs)
    assert places_of(("c", "C"), theirs) == [2, 3]  # by case alone, where the same words stand there
    assert places_of(("a", "d"), theirs) is None is places_of(("A", "A"), theirs)
    assert places_of(("a", "d"), ("a", "D", "x")) == [0, 1] and places_of(("x", "y"), ("x", "Y", "y", "z")) == [0, 2]
    assert places_of(("Y", "X"), ("y", "Y ", "Y", "x")) is None  # which y is meant?


def test_a_team_is_led_by_whom_the_others_can_follow(team_root: Path, tmp_path: Path) -> None:
    """One that knows a class more may be in a team, but not first."""
    folder = members_in([str(team_root / "team")])[0]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    more = tiny_model(num_labels=3, id2label={0: LABELS[1].upper(), 1: "neutral", 2: LABELS[0]})
    more.bert = model.bert
    with torch.no_grad():
        more.classifier.weight.copy_(
            torch.stack([model.classifier.weight[1], torch.zeros(32), model.classifier.weight[0]])
        )
        more.classifier.bias.copy_(torch.tensor([model.classifier.bias[1], -100.0, model.classifier.bias[0]]))
    more.save_pretrained(tmp_path / "more")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "more")
    common = dict(method="skdbert", student="layers=1,choose=first", baseline=False, quiet=True, **texts(team_root))
    short = ["stages.distill.max_steps=3"]
    report = api.distill(
        None, str(tmp_path / "run"), team=[folder, str(tmp_path / "more")], settings=short, **common
    ).report
    one, other = report["mechanisms"]["team"]["data"]["members"]
    assert one["scores"] == other["scores"]
    with pytest.raises(TutelageError, match="name another first: the first knows 'neutral' beside the data's"):
        api.distill(None, str(tmp_path / "x"), team=[str(tmp_path / "more"), folder], settings=short, **common)


@pytest.mark.parametrize("order", [True, False])
def test_with_many_classes_a_bad_teacher_is_not_taken_for_a_misnumbered_one(order: bool) -> None:
    """Some order of 60 classes fits answers at random; what counts is whether it fits others too."""
    generator, classes = np.random.default_rng(0), 60
    labels = generator.integers(classes, size=600)
    answers = np.roll(np.arange(classes), 1)[labels] if order else generator.integers(classes, size=600)
    held = SimpleNamespace(examples=SimpleNamespace(labels=labels, labelled=labels >= 0))
    data = SimpleNamespace(kind="classification", labels=[f"class {number}" for number in range(classes)])
    task = SimpleNamespace(data=data, held=held, allow_weak_teacher=True)
    setup = SimpleNamespace(task=task, warnings=[])
    _check_order(setup, F.one_hot(torch.from_numpy(answers), classes).float(), "odd")  # type: ignore[arg-type]
    assert len(setup.warnings) == order
    if order:
        assert "on 100 of 100" in setup.warnings[0] and setup.warnings[0].count(" for class") == 3


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_with_two_classes_a_teacher_at_chance_is_not_misnumbered_and_one_that_is_mostly_wrong_is(share: float) -> None:
    warned = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        labels = generator.integers(2, size=250)
        answers = np.where(generator.random(250) < share, labels, 1 - labels)
        held = SimpleNamespace(examples=SimpleNamespace(labels=labels, labelled=labels >= 0))
        data = SimpleNamespace(kind="classification", labels=["no", "yes"])
        task = SimpleNamespace(data=data, held=held, allow_weak_teacher=True)
        setup = SimpleNamespace(task=task, warnings=[])
        _check_order(setup, F.one_hot(torch.from_numpy(answers), 2).float(), "odd")  # type: ignore[arg-type]
        warned += len(setup.warnings)
    assert warned <= 2 if share == 0.5 else warned >= 198


def test_what_cannot_be_is_said_before_anything_is_written(team_root: Path, tmp_path: Path) -> None:
    folders = members_in([str(team_root / "team")])
    out = str(tmp_path / "run")

    def attempt(match: str, **more) -> None:
        with pytest.raises(TutelageError, match=match):
            api.distill(
                **{
                    "teacher": None,
                    "out": out,
                    "team": folders[:2],
                    "method": "skdbert",
                    "quiet": True,
                    **texts(team_root),
                    **more,
                }
            )
        assert not Path(out).exists()

    attempt("learns from one teacher; for several use a method with the mechanism team", method="kd")
    attempt("learns from several teachers; use `tutelage distill", team=(), teacher=folders[0])
    attempt("there is no teacher", team=())
    attempt("3 numbers for a team of 2", settings=["team.weights=[1,2,3]"])
    attempt("twice", team=[folders[0], f"{folders[0]}/"])
    attempt("1 of 2|part 3 of 2", only=(3, 2))
    attempt("student_rank needs scores", settings=["team.weights=student_rank"])
    attempt("scores need weights=student_rank", settings=["team.scores=[1,2]"])
    search = {"method": "autoskdbert", "student": "layers=1,choose=first"}
    attempt(
        "top_m=3 keeps more teachers than the team of 2", settings=["stages.search.team.learning.top_m=3"], **search
    )
    attempt("there is no folder", team=[folders[0], str(tmp_path / "nothing")])
    attempt("no earlier stage learns weights", settings=["team.weights=found"])
    parts = {
        "method": "autoskdbert",
        "student": "init=bilstm",
        "settings": ["stages.search.team.learning.parameters=head"],
    }
    attempt("needs a student with separate layers and head", **parts)
    for name, value in (("leave_out", (1, 5)), ("only", (1, 2)), ("noise", 0.5)):
        with pytest.raises(TutelageError, match=f"data.{name} cannot be set for a team"):
            api.train_team(
                folders[0], out, members=["seed=0", "seed=1"], **{name: value}, quiet=True, **texts(team_root)
            )
    assert not Path(out).exists()


def test_what_makes_a_search_doubtful_is_said(tmp_path: Path) -> None:
    soft, hard = SoftLabels(weight=0.5), HardLabels(weight=0.5)

    def notes(steps: int, members: int, *terms, **how) -> list[str]:
        team = Team(learning=Learning(**how))
        stage = Stage(name="s", objective=list(terms), batch_size=32, select="last", mechanisms=[team])
        scene = SimpleNamespace(shared={"team": SimpleNamespace(names=["a"] * members)})
        return team.plan(scene, SimpleNamespace(stage=stage), steps)  # type: ignore[arg-type]

    # Forward and back over 64, twice forward over the step's 32 (or 64 others), of which a step takes three each.
    assert [len(notes(500, 5, soft, hard)), len(notes(499, 5, soft, hard))] == [1, 2]
    assert "500 updates" in notes(500, 5, soft, hard)[0] and "3.7x slower" in notes(500, 5, soft, hard)[0]
    assert "4.3x slower" in notes(500, 5, soft, hard, unseen=True)[0]
    assert (
        "125 updates" in notes(500, 5, soft, hard, every=4)[0]
        and "1.7x slower" in notes(500, 5, soft, hard, every=4)[0]
    )
    assert "max_steps=2000" in notes(500, 5, soft, hard, every=4)[1]
    assert "no labels in its objective" in notes(500, 5, soft)[1]

    def record(**more) -> dict:
        return {"stage": "search", "score": 0.9, "constant": 0.5, "skipped": 0, "updates": 200, **more}

    cases = ({}, {"score": 0.51}, {"score": 0.52}, {"skipped": 2}, {"skipped": 3})
    said = []
    for more in cases:
        (tmp_path / "mechanisms.json").write_text(signed({"team": [record(**more)]}))
        said.append(doubts(tmp_path))
    assert [len(lines) for lines in said] == [0, 1, 0, 0, 1]
    assert "the learned weights are not meaningful" in said[1][0] and "3 of 200 updates" in said[4][0]


def test_members_are_written_as_words() -> None:
    assert member_of("layers=4,seed=1,lr=1e-4,only=1/2,noise=0.5").only == (1, 2)
    assert len(usual_members(12)) == 5 and all(member_of(text) for text in usual_members(12))
    wrong = (
        ("layers", "has no value"),
        ("depth=3", "a teacher has"),
        ("layers=0", "layers"),
        ("only=5/2", "part 5 of 2"),
    )
    for text, match in wrong:
        with pytest.raises(TutelageError, match=match):
            member_of(text)


def test_a_teacher_that_left_texts_out_is_known_by_relative_paths_too(tmp_path: Path, monkeypatch) -> None:
    train = write_csv(tmp_path / "train.csv", 8, 1)
    config = RunConfig(recipe=kd(), data=DataConfig(train=str(train), leave_out=(1, 5)))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    monkeypatch.chdir(tmp_path)
    assert left_out(tmp_path, DataConfig(train="train.csv"), (1, 5))
    assert not left_out(tmp_path, DataConfig(train="train.csv"), (2, 5))
    assert not left_out(tmp_path, DataConfig(train="other.csv"), (1, 5))


def test_short_names_differ() -> None:
    assert short(("a/x", "b/x")) == ["a/x", "b/x"] and short(("a/x", "b/y")) == ["x", "y"]


def test_diversity_by_hand() -> None:
    logits = np.array([[[1, 0], [1, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1], [3, 0]]], dtype=np.float32)
    found = diversity(logits, np.array([0, 1, 1, 0]), True)
    assert found["agreement"] == [[1, 0.5], [0.5, 1]] and found["disagreement"] == 0.5
    assert found["kappa"][0][1] == 0.0  # half is what chance gives
    assert found["one_right"] == 1.0 and found["all_right"] == 0.5
    outputs = np.array([[[0.0], [1.0], [2.0]], [[0.0], [2.0], [4.0]]], dtype=np.float32)
    assert diversity(outputs, np.zeros(3), False)["agreement"][0][1] == pytest.approx(1)
    outputs[1] = 2.0  # goes along with nothing
    assert diversity(outputs, np.zeros(3), False)["disagreement"] == 1


@pytest.mark.slow
def test_a_chain_of_assistants(team_root: Path, tmp_path: Path) -> None:
    teacher = members_in([str(team_root / "team")])[0]
    results = api.chain(
        teacher,
        str(tmp_path / "chain"),
        through=["layers=3"],
        student="layers=1,choose=first",
        settings=["stages.distill.epochs=1", "stages.distill.lr=1e-3"],
        quiet=True,
        **texts(team_root),
    )
    reports = [result.report for result in results]
    assert [report["student_layers"] for report in reports] == [3, 1] and reports[1]["teacher_layers"] == 3
    assert reports[0]["baseline"] is None and reports[1]["baseline"] is not None
    assert [result.folder for result in results] == [tmp_path / "chain" / "assistants" / "1", tmp_path / "chain"]
    own = from_yaml(tmp_path / "chain" / "config.yaml")
    assert own.teacher == str(tmp_path / "chain" / "assistants" / "1" / "student") and not own.recipe.assistants
    # The report compares the student with the teacher, and the assistant is named.
    alone = api.evaluate(teacher, quiet=True, **texts(team_root)).scores["dev"]["accuracy"]
    last, first = reports[1], reports[0]
    assert last["teacher"]["score"] == pytest.approx(alone) and first["teacher"]["name"] == last["teacher"]["name"]
    over = last["student"]["score"] - alone
    assert last["student"]["over_teacher"]["value"] == pytest.approx(over)
    assert [one["score"] for one in last["assistants"]] == [first["student"]["score"]] and not first["assistants"]
    card = (tmp_path / "chain" / "student" / "README.md").read_text()
    assert f"`{Path(teacher).name}` through a student of 3 layers x" in card
    assert "Teacher assistant 1" in (tmp_path / "chain" / "report.html").read_text()
    with pytest.raises(TutelageError, match="those of through; leave out"):
        api.chain(teacher, tmp_path / "none", through="layers=3", settings=ASSISTANT, quiet=True, **texts(team_root))
    links = (
        (["layers=2"], "layers=3", "layer 3 cannot be taken from a teacher of 2"),
        ([f"init=checkpoint,name={tmp_path / 'chain' / 'student'}"], "layers=2", "layer 2 .* of 1"),
        (["init=pruned,layers=5,heads=1,intermediate=8,rank=none"], "layers=1", "layer 5 .* of 4"),
    )
    for through, student, match in links:
        with pytest.raises(TutelageError, match=match):
            api.chain(teacher, str(tmp_path / "none"), through=through, student=student, quiet=True, **texts(team_root))
    assert not (tmp_path / "none").exists()
    with pytest.raises(TutelageError, match="no assistant"):
        api.chain(teacher, str(tmp_path / "none"), through=[], quiet=True, **texts(team_root))
    with pytest.raises(ValidationError, match="learn from one teacher, and a stage has several"):
        Recipe.model_validate(ensemble().model_dump() | {"assistants": [Copied(layers=3)]})


ASSISTANT = {"recipe.assistants": [{"init": "copied", "layers": 2, "choose": "first"}]}


def test_assistants_are_not_trained_into_the_folder_of_another_run(team_root: Path, tmp_path: Path) -> None:
    teacher, full = members_in([str(team_root / "team")])[0], tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(TutelageError, match="is not empty and holds no run"):
        api.distill(
            teacher, full, method="takd", student="layers=1", settings=ASSISTANT, quiet=True, **texts(team_root)
        )
    assert [path.name for path in full.iterdir()] == ["notes.txt"]


def test_recipes_say_what_stages_cannot_be() -> None:
    soft, hard = SoftLabels(), HardLabels()
    learning = Team(learning=Learning())
    for fields, match in (
        ({"objective": [hard], "mechanisms": [Team()]}, "no term that learns from a teacher"),
        ({"objective": [soft, Hidden()], "mechanisms": [Team(granularity="example")]}, "set granularity=step"),
        ({"objective": [LogitsMSE()], "mechanisms": [Team(combine="discounted")]}, "its objective has none"),
        ({"objective": [soft, LogitsMSE()], "mechanisms": [Team(combine="average")]}, "are mixed differently"),
        ({"objective": [soft, hard], "mechanisms": [learning]}, "select=last"),
        ({"objective": [soft, LogitsMSE()], "mechanisms": [learning], "select": "last"}, "soft_labels"),
    ):
        with pytest.raises(ValidationError, match=match):
            Stage(name="s", **fields)
    with pytest.raises(ValidationError, match="combine=sample"):
        Team(combine="average", learning=Learning())
    assert kd().stages[0].mechanisms == [] and skdbert().stages[0].mechanisms == [Team()]
