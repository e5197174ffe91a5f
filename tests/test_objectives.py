"""Mappings, terms and what an objective asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from conftest import examples, tiny_model

from tutelage.anatomy import Shape, shape_of
from tutelage.data.batches import Totals, step_batches
from tutelage.data.examples import encode
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Tap
from tutelage.methods import METHODS
from tutelage.methods.kd import kd
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.filters import TaskFilters
from tutelage.objectives.hidden import Embeddings, FirstToken, Hidden
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.mapping import pairs, picture, spread
from tutelage.objectives.objective import Objective, ObjectivePlan
from tutelage.objectives.predictions import HardLabels, LogitsMSE, SoftLabels
from tutelage.objectives.relations import Relations
from tutelage.objectives.term import Answers, Term
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import LiveTeacher


def shape(layers: int = 4, hidden: int = 32, heads: int = 4) -> Shape:
    return Shape("bert", layers, hidden, heads, 48, 45)


@pytest.mark.parametrize(
    ("mapping", "m", "n", "teachers"),
    [
        ("uniform", 4, 12, [3, 6, 9, 12]),
        ("uniform", 6, 12, [2, 4, 6, 8, 10, 12]),
        ("uniform", 3, 12, [4, 8, 12]),
        ("uniform", 5, 12, [2, 5, 7, 10, 12]),  # 2.4 4.8 7.2 9.6 12
        ("uniform", 4, 6, [2, 3, 5, 6]),  # 1.5 and 4.5 go up, where Python's round would go to 2 and 4
        ("top", 4, 12, [9, 10, 11, 12]),
        ("top", 5, 12, [8, 9, 10, 11, 12]),
        ("bottom", 4, 12, [1, 2, 3, 4]),
        ("bottom", 6, 12, [1, 2, 3, 4, 5, 6]),
        ("skip", 6, 12, [2, 4, 6, 8, 10]),
        ("skip", 3, 12, [4, 8]),
        ("skip", 4, 12, [3, 6, 9]),
        ("last", 6, 12, [7, 8, 9, 10, 11]),
        ("last", 3, 12, [10, 11]),
        ("last", 4, 12, [9, 10, 11]),
        ("origin", 4, 6, [2, 3, 5, 6]),  # of a student that is not copied
    ],
)
def test_mappings(mapping: str, m: int, n: int, teachers: list[int]) -> None:
    assert pairs(mapping, m, n) == list(enumerate(teachers, start=1))


def test_a_mapping_by_hand_may_leave_layers_out() -> None:
    assert pairs([0, 3, 4], 3, 4) == [(2, 3), (3, 4)]
    assert pairs("final", 3, 12) == [(3, 12)]


@pytest.mark.parametrize(
    ("mapping", "m", "n", "message"),
    [
        ([1, 2], 3, 4, "names 2 teacher layers but the student has 3"),
        ([1, 2, 5], 3, 4, "asks for teacher layer 5"),
        ("uniform", 6, 4, "student has 6 layers and the teacher 4"),
    ],
)
def test_impossible_mappings(mapping, m: int, n: int, message: str) -> None:
    with pytest.raises(TutelageError, match=message):
        pairs(mapping, m, n)


def test_distilberts_choice_of_layers() -> None:
    assert spread(6, 12) == [1, 3, 5, 8, 10, 12]  # 0, 2, 4, 7, 9, 11 counted from 0
    assert spread(4, 12) == [1, 5, 8, 12]
    assert spread(3, 12) == [1, 7, 12]
    assert spread(1, 12) == [1]


def test_the_picture_of_a_mapping() -> None:
    assert picture([(1, 2), (2, 4)], 2, 4).splitlines() == [
        "teacher   0  1  2  3  4",
        "                |     |",
        "student         1     2",
    ]


def test_needs_of_tinybert() -> None:
    objective = Objective([Embeddings(), Hidden(), AttentionScores()], KINDS["classification"], shape(2), shape(4))
    assert objective.plan.student_needs == Needs(hidden=frozenset({0, 1, 2}), attention=frozenset({1, 2}))
    assert objective.plan.teacher_needs == Needs(hidden=frozenset({0, 2, 4}), attention=frozenset({2, 4}))
    assert not objective.projections


@pytest.mark.parametrize(("project", "names"), [("auto", ["0", "1", "2"]), ("shared", ["shared"])])
def test_projections_where_widths_differ(project: str, names: list[str]) -> None:
    terms = [Embeddings(project=project), Hidden(project=project), AttentionScores()]
    objective = Objective(terms, KINDS["classification"], shape(2, hidden=16), shape(4))
    assert sorted(objective.projections) == names
    assert all(p.weight.shape == (32, 16) for p in objective.projections.values())


@pytest.mark.parametrize(
    ("terms", "student", "message"),
    [
        ([AttentionScores()], shape(2, heads=2), "student has 2 heads and the teacher 4"),
        (
            [Relations(relation_heads="own")],
            shape(2, hidden=24, heads=2),
            "the student has 2 heads and the teacher 4; use heads=4, or relation_heads=8$",
        ),
        (
            [Relations(relation_heads=3)],
            shape(2, hidden=24),
            "cannot divide the widths 24 and 32; use relation_heads=8$",
        ),
        ([FirstToken(project="none")], shape(2, hidden=16), "project=none cannot compare"),
        ([FirstToken()], shape(1), "a student of 1 layer\\(s\\) has no other"),
        ([Hidden(project="none")], shape(2, hidden=16), "project=none cannot compare"),
        ([HardLabels(weight=0)], shape(2), "no term with a weight above 0"),
        ([FirstToken()], replace(shape(4), family="gpt2"), "in a gpt2 it sees no other token"),
    ],
)
def test_objectives_that_cannot_be(terms, student: Shape, message: str) -> None:
    with pytest.raises(TutelageError, match=message):
        Objective(terms, KINDS["classification"], student, shape(4))


def test_the_first_token_of_a_causal_model_ranks_nothing() -> None:
    teacher = replace(shape(4), family="gpt2")
    with pytest.raises(TutelageError, match="use tokens_by=left or random"):
        Objective([HiddenKnowledge()], KINDS["classification"], shape(2), teacher)
    Objective([HiddenKnowledge(tokens_by="left")], KINDS["classification"], shape(2), teacher)


class Softmax(Term):
    column = "predictions"
    on_logits = True

    kind: Literal["softmax_of_a_test"] = "softmax_of_a_test"

    def refusal(self, kind: Answers) -> str | None:
        return None if kind.single_label else f"compares softmax distributions, not a {kind.name}; use soft_labels"


@pytest.mark.parametrize(
    ("term", "kind", "message"),
    [
        (Softmax(), "regression", "^the term softmax_of_a_test compares softmax distributions, not a regression; use"),
        (SoftLabels(reduction="mean"), "spans", "^the term soft_labels averages over fixed classes"),
        (LogitsMSE(), "spans", "^the term logits_mse compares the scores of fixed classes"),
        (
            TaskFilters(),
            "embedding",
            "^the term task_filters learns filters from labels, and kind embedding has none; use",
        ),
    ],
)
def test_a_term_refuses_the_kinds_for_which_it_is_wrong(term: Term, kind: str, message: str) -> None:
    with pytest.raises(TutelageError, match=message):
        ObjectivePlan([term], KINDS[kind], shape(2), shape(4))
    assert ObjectivePlan([term], KINDS["classification"], shape(2), shape(4)).terms == [term]


def test_a_soft_term_needs_a_teacher() -> None:
    with pytest.raises(TutelageError, match="soft_labels needs a teacher"):
        Objective([SoftLabels()], KINDS["classification"], shape(2), None)


def test_the_edges_of_alpha_ask_for_nothing_they_do_not_use() -> None:
    only_soft = Objective(list(kd(alpha=1.0).stages[0].objective), KINDS["classification"], shape(2), shape(4))
    assert [term.kind for term in only_soft.plan.terms] == ["soft_labels"]
    only_hard = Objective(list(kd(alpha=0.0).stages[0].objective), KINDS["classification"], shape(2), shape(4))
    assert [term.kind for term in only_hard.plan.terms] == ["hard_labels"]
    assert not only_hard.plan.teacher_needs


def value_of(term, student, teacher, batch) -> torch.Tensor:
    objective = Objective([term], KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    ours = Tap(student, objective.plan.student_needs)
    theirs = LiveTeacher(teacher, objective.plan.teacher_needs, None, Accelerator(cpu=True))
    loss = objective(ours(batch.inputs), theirs.signals(batch), batch)[term.kind]
    ours.close()
    theirs.close()
    return loss


@pytest.fixture
def batch(tokenizer):
    data = examples(8, 3)
    encoded = encode(data, tokenizer, 32)
    return next(iter(step_batches(encoded.take(torch.arange(8).numpy()), torch.arange(8).numpy(), 0, 1, 10**6)))


def test_every_term_is_zero_for_a_student_that_is_its_teacher(batch) -> None:
    teacher, student = tiny_model(), tiny_model()
    for term in (
        Embeddings(),
        Hidden(),
        Hidden(loss="cosine"),
        AttentionScores(),
        Relations(),
        Relations(of=("queries-keys", "values"), relation_heads="own"),
        FirstToken(),
        HiddenKnowledge(top=4),
        LogitsMSE(),
        SoftLabels(),
    ):
        student.zero_grad()
        loss = value_of(term, student, teacher, batch)
        loss.backward()
        assert abs(loss.item()) < 1e-6, term.kind
        assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in student.parameters()), term.kind


@pytest.mark.parametrize(
    ("family", "how"),
    [(name, {}) for name in ("bert", "mpnet", "megatron-bert", "deberta-v2", "gpt2")]
    + [(name, {"is_decoder": True}) for name in ("bert", "megatron-bert")],
)
def test_relations_of_queries_to_keys_compare_the_models_attention(family: str, how: dict[str, Any], batch) -> None:
    """The attention that the models themselves give: with padding, scaling, relative positions, and no later tokens."""
    teacher, student = (
        tiny_model(family, spread=10.0, **how),
        tiny_model(family, seed=1, spread=10.0, layers=2, hidden=16, **how),
    )
    found = value_of(Relations(of=("queries-keys",), relation_heads="own"), student, teacher, batch)
    maps = []
    for model in (teacher, student):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            maps.append(model(**batch.inputs, output_attentions=True).attentions[-1].double())
    theirs, ours = maps
    rows = torch.where(theirs > 0, theirs * (theirs / ours).log(), 0.0).sum(-1)
    wanted = (rows * batch.mask[:, None]).sum() / (4 * batch.mask.sum())
    assert not batch.mask.all() and wanted > 0.05
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_pkds_two_scales_mean_the_same(batch) -> None:
    """The authors' code averages over the hidden size: beta there is beta times that size here."""
    teacher, student = tiny_model(), tiny_model(seed=1)
    ours = value_of(FirstToken(weight=0.5), student, teacher, batch)
    theirs = value_of(FirstToken(weight=0.5 * 32, reduction="mean"), student, teacher, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    reference = METHODS["pkd_reference"]().stages[0].objective[2]
    assert reference.reduction == "mean"
    assert METHODS["pkd"]().stages[0].objective[2].weight * 768 == pytest.approx(reference.weight)


def test_patience_with_a_teacher_of_another_width(batch) -> None:
    """The formula, from a loop over texts: a student's vector is taken to the teacher's width, then both are normalised."""
    teacher, student = tiny_model(), tiny_model(seed=1, layers=2, hidden=16)
    objective = Objective([FirstToken()], KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    assert {name: tuple(linear.weight.shape) for name, linear in objective.projections.items()} == {
        "first_token_1": (32, 16)
    }
    ours, theirs = (Tap(model, Needs(hidden=frozenset([1, 2])))(batch.inputs) for model in (student, teacher))
    taught = LiveTeacher(teacher, objective.plan.teacher_needs, None, Accelerator(cpu=True))
    found = objective(ours, taught.signals(batch), batch)["first_token"]
    weight, wanted = objective.projections["first_token_1"].weight.double(), 0.0
    for text in range(len(batch.rows)):
        mapped, target = weight @ ours.hidden[1][text, 0].double(), theirs.hidden[2][text, 0].double()
        wanted += 2 - 2 * (mapped @ target / (mapped.norm() * target.norm())).item()
    assert found.item() == pytest.approx(wanted / len(batch.rows), rel=1e-5)
    found.backward()
    assert weight.shape == (32, 16) and objective.projections["first_token_1"].weight.grad.abs().max() > 0


def test_patience_touches_the_first_token_of_inner_layers_only(batch) -> None:
    teacher, student = tiny_model(), tiny_model(seed=1)
    objective = Objective([FirstToken()], KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    tap = Tap(student, Needs(hidden=frozenset(range(5))))
    signals = tap(batch.inputs)
    for hidden in signals.hidden.values():
        hidden.retain_grad()
    taught = LiveTeacher(teacher, objective.plan.teacher_needs, None, Accelerator(cpu=True))
    objective(signals, taught.signals(batch), batch)["first_token"].backward()
    assert signals.hidden[4].grad is None or signals.hidden[4].grad.abs().max() == 0
    last_pair = signals.hidden[3].grad
    assert last_pair[:, 0].abs().max() > 0 and last_pair[:, 1:].abs().max() == 0


def test_soft_labels_of_a_regression_are_the_teachers_outputs(batch) -> None:
    from tutelage.knowledge.signals import Signals

    objective = Objective([SoftLabels(temperature=7)], KINDS["regression"], shape(2), shape(4))
    ours, theirs = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    pair = replace(batch, rows=batch.rows[:2], labels=batch.labels[:2], totals=Totals(2, 2, 2, 9, 9))
    loss = objective(Signals(logits=ours), Signals(logits=theirs), pair)["soft_labels"]
    assert loss.item() == pytest.approx((1 + 4) / 2)
