"""Targets made of several teacher layers: layouts, what mappers hear of the training, each term against a slow reference."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import examples, tiny_model
from scipy.optimize import linprog
from test_losses import softmax, tensor
from test_training import learn, same_weights, tiny_stage
from torch import Tensor

from tutelage.anatomy import Shape, shape_of
from tutelage.data.batches import Batch, Totals, step_batches
from tutelage.data.examples import encode
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Signals
from tutelage.objectives import losses
from tutelage.objectives.mapped import AttendedLayers, ClosestLayers, ConcatenatedLayers, RandomLayers
from tutelage.objectives.mappers import LEAST_COST, DrawnLayers, Flows, Mapper, closest
from tutelage.objectives.mapping import grouped, picture
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import SoftLabels
from tutelage.objectives.term import Term
from tutelage.objectives.transport import Transport, scores_of
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import LiveTeacher, cut_from
from tutelage.training import loop


@pytest.mark.parametrize(
    ("layout", "m", "n", "groups"),
    [
        ("all", 2, 3, [[1, 2, 3], [1, 2, 3]]),
        ("regular", 4, 12, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]),
        ("regular", 4, 6, [[1, 2], [3], [4, 5], [6]]),  # ends at 1.5, 3, 4.5 and 6; halves go up
        ("overlapping", 3, 12, [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [9, 10, 11, 12]]),
        ("skipping", 4, 12, [[1, 2], [4, 5], [7, 8], [10, 11]]),
        ("skipping", 4, 6, [[1], [3], [4], [6]]),
        ("crossed", 4, 12, [[1, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12]]),
        ("crossed", 2, 5, [[1, 3, 5], [2, 4]]),
        ("crossed", 3, 3, [[1], [2], [3]]),
    ],
)
def test_layouts(layout: str, m: int, n: int, groups: list[list[int]]) -> None:
    assert grouped(layout, m, n) == [(s, t) for s, group in enumerate(groups, start=1) for t in group]


def test_a_layout_for_a_deeper_student_is_refused() -> None:
    with pytest.raises(TutelageError, match="the student has 3 layers and the teacher 2; use a student of at most 2"):
        grouped("regular", 3, 2)


def test_the_picture_of_many_to_many() -> None:
    assert picture(grouped("regular", 2, 4), 2, 4).splitlines()[2] == "student      1  1  2  2"
    assert picture(grouped("overlapping", 2, 4), 2, 4).splitlines() == [
        "student  1 from teacher 1, 2, 3",
        "student  2 from teacher 3, 4",
    ]


class Diary(Mapper):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    def begin_epoch(self, generator: np.random.Generator) -> None:
        self.heard.append(int(generator.integers(2**30)))

    def after_step(self) -> None:
        self.heard.append(-1)


class Noted(SoftLabels):
    kind: Literal["noted_for_a_test"] = "noted_for_a_test"

    def modules(self, student: Shape, teacher: Shape | None) -> dict[str, Mapper]:
        return {self.kind: Diary()}


def heard(tokenizer, **more) -> list[int]:
    lesson = learn(tokenizer, tiny_stage(objective=[Noted()], epochs=2, batch_size=48), **more)[2]
    return lesson.objective.projections["noted_for_a_test"].heard


def test_a_mapper_hears_of_epochs_and_steps_and_again_of_the_epoch_when_resumed(tokenizer, monkeypatch) -> None:
    states: list[dict] = []
    monkeypatch.setattr("tutelage.training.loop.CHECKPOINT_SECONDS", 0.0)
    first, *steps, second, _, _ = whole = heard(tokenizer, save=lambda state: states.append(deepcopy(state)))
    assert steps == whole[-2:] == [-1, -1] and first != second and min(first, second) >= 0
    assert (states[2]["epoch"], states[2]["place"]) == (1, 1)
    assert heard(tokenizer, resumed=states[2]) == [second, -1]


# ----------------------------------------------------------------------------------------------------------- terms

B, N, LENGTHS, STUDENT, TEACHER = 3, 5, [5, 3, 2], 3, 6
TERMS = [
    AttendedLayers(),
    AttendedLayers(layers="overlapping"),
    ConcatenatedLayers(layers="crossed"),
    ConcatenatedLayers(layers="overlapping", normalize=False),
    RandomLayers(),
    RandomLayers(concatenated=False, width=6),
    Transport(),
    ClosestLayers(),
]


def shape(layers: int, hidden: int) -> Shape:
    return Shape("bert", layers, hidden, 2, 12, 45)


def signals(layers: int, hidden: int, seed: int) -> Signals:
    """Random hidden states, queries and keys (2 heads) of all layers. What stands at padded places is large."""
    far = (torch.arange(N) >= torch.tensor(LENGTHS)[:, None]) * 100.0

    def some(i: int, *size: int) -> Tensor:
        return tensor(*size, seed=seed + 10 * i) + far.view(B, *[1] * (len(size) - 3), N, 1)

    hidden_states = {i: some(i, B, N, hidden) for i in range(layers + 1)}
    queries, keys = ({i: some(i + k, B, 2, N, hidden // 2) for i in range(1, layers + 1)} for k in (50, 90))
    return Signals(hidden=hidden_states, queries=queries, keys=keys, scaling=(hidden // 2) ** -0.5)


class Scene:
    """A term between random signals of a narrower student and its teacher."""

    def __init__(self, term: Term, width: int = 4) -> None:
        self.student, self.teacher = signals(STUDENT, width, 1), signals(TEACHER, 8, 2)
        self.term, self.objective = (
            term,
            Objective([term], KINDS["classification"], shape(STUDENT, width), shape(TEACHER, 8)),
        )
        mask = (torch.arange(N) < torch.tensor(LENGTHS)[:, None]).long()
        totals = Totals(B, B, B, sum(LENGTHS), sum(n * n for n in LENGTHS))
        keys = torch.arange(B)
        self.batch = Batch(keys, keys, {"attention_mask": mask}, mask.bool() & False, keys, None, totals)
        cut_from(self.teacher, self.objective.plan.teacher_needs, mask, self.batch.separators, keys)

    def value(self) -> Tensor:
        return self.objective(self.student, self.teacher, self.batch)[self.term.kind]

    def module(self, name: str) -> torch.nn.Module:
        return self.objective.projections[name]


def mapped_by(linear: Tensor, vector: Tensor) -> list[float]:
    return [sum(float(w) * float(v) for w, v in zip(row, vector, strict=True)) for row in linear.detach()]


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


@pytest.mark.parametrize(("layers", "width"), [("all", 8), ("all", 4), ("regular", 8), ("overlapping", 4)])
def test_attended_layers_against_the_formula(layers: str, width: int) -> None:
    """sum_j MSE(s_j, sum_i softmax_i(<s_j, t_i>) t_i), mean over texts."""
    scene = Scene(AttendedLayers(layers=layers), width)
    groups = {s: [t for other, t in grouped(layers, STUDENT, TEACHER) if other == s] for s in range(1, STUDENT + 1)}
    total = 0.0
    for b in range(B):
        for s, group in groups.items():
            ours = scene.student.hidden[s][b, 0].double().tolist()
            if width != 8:
                ours = mapped_by(scene.module(f"attended_layers_{s}").weight, scene.student.hidden[s][b, 0])
            theirs = [scene.teacher.hidden[t][b, 0].double().tolist() for t in group]
            weights = softmax([sum(q * k for q, k in zip(ours, key, strict=True)) for key in theirs])
            target = [sum(w * key[k] for w, key in zip(weights, theirs, strict=True)) for k in range(8)]
            total += sum((a - c) ** 2 for a, c in zip(ours, target, strict=True)) / 8
    assert scene.value().item() == pytest.approx(total / B, rel=1e-5)


def test_attended_layers_refuse_models_whose_first_token_sees_nothing() -> None:
    causal = Shape("gpt2", 6, 8, 2, 12, 45)
    with pytest.raises(TutelageError, match=r"attended_layers compares what the first token .* in a gpt2"):
        Objective([AttendedLayers()], KINDS["classification"], shape(STUDENT, 8), causal)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("layers", ["regular", "overlapping", "skipping", "crossed"])
def test_concatenated_layers_against_the_formula(layers: str, normalize: bool) -> None:
    """sum_j |s/|s| - c/|c||^2 with c = W_j [t_i; ...], mean over tokens; or |s - c|^2 / d."""
    scene = Scene(ConcatenatedLayers(layers=layers, normalize=normalize))
    total = 0.0
    for s in range(1, STUDENT + 1):
        group = [t for other, t in grouped(layers, STUDENT, TEACHER) if other == s]
        linear = scene.module(f"concatenated_layers_{s}").weight
        for b, length in enumerate(LENGTHS):
            for i in range(length):
                ours = scene.student.hidden[s][b, i].double().tolist()
                target = mapped_by(linear, torch.cat([scene.teacher.hidden[t][b, i] for t in group]))
                if normalize:
                    ours, target = unit(ours), unit(target)
                squares = sum((a - c) ** 2 for a, c in zip(ours, target, strict=True))
                total += squares if normalize else squares / len(ours)
    assert scene.value().item() == pytest.approx(total / sum(LENGTHS), rel=1e-5)


@pytest.mark.parametrize(("normalize", "share"), [(True, 1.0), (False, 1e-4)])
def test_a_student_and_maps_of_zero_are_no_solution_for_vectors_of_length_one(normalize: bool, share: float) -> None:
    scene = Scene(ConcatenatedLayers(normalize=normalize))
    before = scene.value().item()
    with torch.no_grad():
        for s in range(1, STUDENT + 1):
            scene.module(f"concatenated_layers_{s}").weight.mul_(0.01)
            scene.student.hidden[s].mul_(0.01)
    assert scene.value().item() == pytest.approx(share * before, rel=1e-4)


@pytest.mark.parametrize("student_width", [4, 8])
@pytest.mark.parametrize("width", [None, 6])
@pytest.mark.parametrize("concatenated", [True, False])
def test_random_layers_against_the_formula(concatenated: bool, width: int | None, student_width: int) -> None:
    """|s/|s| - t/|t||^2 of the means over tokens, mean over texts; of the concatenation, or summed over layers."""
    scene = Scene(RandomLayers(concatenated=concatenated, width=width), student_width)
    scene.objective.begin_epoch(np.random.default_rng(5))
    teacher_layers = scene.module("random_layers").layers
    maps = {
        name.rpartition("_")[2]: x.weight for name, x in scene.objective.projections.items() if name != "random_layers"
    }
    assert set(maps) == {(8, None): set(), (4, None): {"student"}}.get((student_width, width), {"student", "teacher"})
    total = 0.0
    for b, length in enumerate(LENGTHS):
        sides = {
            "student": [scene.student.hidden[s][b, :length].double().mean(0) for s in (1, 2)],
            "teacher": [scene.teacher.hidden[t][b, :length].double().mean(0) for t in teacher_layers],
        }
        vectors = {who: [torch.cat(layers)] if concatenated else layers for who, layers in sides.items()}
        for pair in zip(vectors["student"], vectors["teacher"], strict=True):
            s, t = (
                unit(mapped_by(maps[who], one) if who in maps else one.tolist())
                for who, one in zip(("student", "teacher"), pair, strict=True)
            )
            total += sum((x - y) ** 2 for x, y in zip(s, t, strict=True))
    assert scene.value().item() == pytest.approx(total / B, rel=1e-5)


def test_each_epoch_draws_sorted_layers_before_the_last_and_a_pair_of_the_plan() -> None:
    drawn, term = DrawnLayers(2, 5), RandomLayers()
    draws = []
    for epoch in range(60):
        drawn.begin_epoch(np.random.default_rng([7, epoch]))
        draws.append(tuple(drawn.layers))
        drawn.begin_epoch(np.random.default_rng([7, epoch]))
        assert draws[-1] == tuple(drawn.layers)
    assert set(draws) == {(a, b) for a in range(1, 6) for b in range(a + 1, 6)}
    assert {pair for draw in draws for pair in enumerate(draw, 1)} == set(term.pairs(shape(3, 4), shape(6, 8)))


@pytest.mark.parametrize("layers", [1, 7])
def test_random_layers_refuse_a_student_without_intermediate_layers_or_deeper_than_its_teacher(layers: int) -> None:
    with pytest.raises(TutelageError, match=f"the student has {layers} layer.*; use a student of 2 to 6 layers"):
        Objective([RandomLayers()], KINDS["classification"], shape(layers, 8), shape(6, 8))


def test_teacher_layers_choose_from_the_top_down_among_what_is_left() -> None:
    costs = torch.tensor([[1.0, 9, 9], [2, 1, 4], [3, 2, 3], [4, 9, 2], [0, 0, 9]])
    for left, expected in (
        (
            [1, 1, 1, 1, 1],
            [0, 1, 3],
        ),  # the first two would like the last layer best, which is above the choice of the third
        ([1, 1, 1, 0, 1], [0, 1, 2]),
        ([0, 1, 1, 1, 1], [1, 1, 3]),  # below layer 1 nothing is left
        ([0, 0, 0, 0, 1], [4, 4, 4]),
        ([0, 0, 0, 0, 0], [4, 4, 4]),
    ):
        assert closest(costs, torch.tensor(left).bool()).tolist() == expected


def test_closest_layers_against_the_formula() -> None:
    """Each chosen pair's mean square; a student layer that passes on what it reads is not chosen, though it is as close."""
    scene = Scene(ClosestLayers(), 8)
    assert scene.term.teaching(shape(12, 8)) == [3, 6, 9, 12] and scene.term.teaching(shape(6, 8)) == [2, 3, 5, 6]
    linear, teachers = scene.module("closest_layers"), [2, 3, 5, 6]
    assert torch.equal(linear.weight, torch.eye(8)) and not linear.bias.any()
    cut = replace(shape(3, 3), coordinates=(1, 4, 6))
    assert torch.equal(scene.term.modules(cut, shape(6, 8))["closest_layers"].weight, torch.eye(8)[:, [1, 4, 6]])
    with torch.no_grad():
        linear.weight.mul_(1.1)
    scene.student.hidden[2] = scene.student.hidden[1].clone()
    costs = [[0.0] * 4 for _ in range(STUDENT)]
    for s in range(1, STUDENT + 1):
        for place, t in enumerate(teachers):
            for b, length in enumerate(LENGTHS):
                for n in range(length):
                    ours = mapped_by(linear.weight, scene.student.hidden[s][b, n])
                    theirs = scene.teacher.hidden[t][b, n].tolist()
                    costs[s - 1][place] += (
                        sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True)) / 8 / sum(LENGTHS)
                    )
    top = 0 if costs[0][3] < costs[2][3] else 2
    chosen = [0, 0, 0, top]
    assert top == 2
    assert scene.value().item() == pytest.approx(sum(costs[s][place] for place, s in enumerate(chosen)), rel=1e-5)
    silent = Scene(ClosestLayers(normalize="teacher"), 8)
    with torch.no_grad():
        silent.module("closest_layers").weight.zero_()
    assert silent.value().item() == pytest.approx(4.0, rel=1e-6)  # 1 for each teacher layer, whatever its scale
    with pytest.raises(TutelageError, match="names layer 7, but the teacher has layers 1 to 6"):
        Objective([ClosestLayers(layers=[2, 7])], KINDS["classification"], shape(3, 8), shape(6, 8))


def slow_costs(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared differences of hidden states and of attention scores, for all pairs of layers, in loops and float64."""
    student, teacher = scene.student, scene.teacher
    linear = scene.module("transport_shared") if student.hidden[1].shape[-1] != 8 else None
    hidden, attention = np.zeros((STUDENT, TEACHER)), np.zeros((STUDENT, TEACHER))
    for s in range(1, STUDENT + 1):
        for t in range(1, TEACHER + 1):
            for b, length in enumerate(LENGTHS):
                ours, theirs = student.hidden[s][b, :length].double(), teacher.hidden[t][b, :length].double()
                if linear is not None:
                    ours = ours @ linear.weight.detach().double().T + linear.bias.detach().double()
                hidden[s - 1, t - 1] += float((ours - theirs).square().sum()) / 8 / sum(LENGTHS)
                for head in range(2):
                    maps = []
                    for model, layer in ((student, s), (teacher, t)):
                        queries, keys = (x[layer][b, head, :length].double() for x in (model.queries, model.keys))
                        maps.append(queries @ keys.T * model.scaling)
                    attention[s - 1, t - 1] += (
                        float((maps[0] - maps[1]).square().sum()) / 2 / sum(n * n for n in LENGTHS)
                    )
    return hidden, attention


def slow_flow(costs: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The transport of least cost as a linear program."""
    m, n = costs.shape
    rows = [np.kron(np.eye(m)[i], np.ones(n)) for i in range(m)] + [np.kron(np.ones(m), np.eye(n)[j]) for j in range(n)]
    return linprog(costs.ravel(), A_eq=np.array(rows), b_eq=np.concatenate([ours, theirs])).x.reshape(m, n)


@pytest.mark.parametrize("width", [4, 8])
def test_transport_against_the_formula_for_three_steps(width: int) -> None:
    """<f, D> with the f of least cost; w_i proportional to (sum_k c_k) / c_i with c_i = sum_j f_ij D_ij / w_i, averaged."""
    scene = Scene(Transport(), width)
    flows = scene.module("transport")
    ours, theirs = np.full(STUDENT, 1 / STUDENT), np.full(TEACHER, 1 / TEACHER)
    for number in range(3):
        for layer in range(1, STUDENT + 1):  # the student learns something meanwhile
            scene.student.hidden[layer] = scene.student.hidden[layer] * 0.9
        total, new = 0.0, []
        for costs in slow_costs(scene):
            flow = slow_flow(costs, ours, theirs)
            total += float((flow * costs).sum())
            units = (flow * costs).sum(1) / ours, (flow * costs).sum(0) / theirs
            new.append([unit.sum() / unit / (unit.sum() / unit).sum() for unit in units])
        assert scene.value().item() == pytest.approx(total, rel=1e-5)
        assert scene.value().item() == pytest.approx(total, rel=1e-5)  # a forward pass leaves the weights alone
        assert flows.student.numpy() == pytest.approx(ours, rel=1e-5)
        scene.objective.after_step()
        ours, theirs = (np.mean([one[side] for one in new], axis=0) for side in (0, 1))
        assert flows.student.numpy() == pytest.approx(ours, rel=1e-5), number
        assert flows.teacher.numpy() == pytest.approx(theirs, rel=1e-5), number
    assert ours.max() / ours.min() > 1.01


@pytest.mark.parametrize("causal", [False, True])
def test_costs_of_all_pairs_are_the_losses_of_each(causal: bool, monkeypatch) -> None:
    """In blocks as in one, with biases; of layers that are nearly the same up to 1e-5 of their squares."""
    monkeypatch.setattr(losses, "COST_ROWS", 2)
    monkeypatch.setattr(losses, "COST_SCORES", 400)  # two texts
    monkeypatch.setattr(losses, "COST_TOKENS", 3)
    student, teacher = signals(STUDENT, 8, 1), signals(TEACHER, 8, 2)
    student.hidden[2] = teacher.hidden[4] + 1e-4 * student.hidden[2]
    teacher.biases = {i: tensor(1, 2, N, N, seed=i) for i in range(1, TEACHER + 1)}
    mask = (torch.arange(N) < torch.tensor(LENGTHS)[:, None]).long()
    ours = losses.hidden_costs([student.hidden[i] for i in (1, 2, 3)], [teacher.hidden[i] for i in range(1, 7)], mask)
    scores = losses.attention_costs(scores_of(student), scores_of(teacher), mask, causal=causal)
    for s in range(1, STUDENT + 1):
        for t in range(1, TEACHER + 1):
            expected = losses.hidden_mse(student.hidden[s], teacher.hidden[t], mask)
            assert ours[s - 1, t - 1].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
            sides = (student.queries[s], student.keys[s], teacher.queries[t], teacher.keys[t])
            more = {"causal": causal, "teacher_bias": teacher.biases[t]}
            expected = losses.attention_score_mse(*sides, mask, **more)
            assert scores[s - 1, t - 1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_layer_that_costs_nothing_does_not_take_all_weight_and_costs_that_are_no_numbers_move_nothing() -> None:
    flows = Flows(2, 3)
    assert flows.solve([torch.full((2, 3), math.nan)])[0] == pytest.approx(np.full((2, 3), 1 / 6))
    flows.after_step()
    assert flows.student.tolist() == [0.5, 0.5]
    flows.solve([torch.zeros(2, 3)])
    flows.after_step()
    assert flows.student.tolist() == [0.5, 0.5]
    flows.solve([torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])])
    flows.after_step()
    assert flows.student[1].item() == pytest.approx(LEAST_COST / 2, rel=0.01) and flows.student.sum() == 1
    assert flows.teacher.min() > 0


def test_weights_of_layers_are_in_checkpoints(tokenizer, monkeypatch) -> None:
    """A stage that is resumed ends with the same bits; with weights that begin anew it would not."""
    monkeypatch.setattr("tutelage.training.loop.CHECKPOINT_SECONDS", 0.0)
    stage, states = tiny_stage(objective=[Transport()], epochs=1, max_steps=4), []
    whole, _, lesson = learn(tokenizer, stage, wider=True, save=lambda state: states.append(deepcopy(state)))
    resumed, _, other = learn(tokenizer, stage, wider=True, resumed=deepcopy(states[1]))
    assert same_weights(whole, resumed) and same_weights(lesson.objective, other.objective)
    states[1]["projections.safetensors"]["transport.student"].fill_(1 / 2)
    assert not same_weights(whole, learn(tokenizer, stage, wider=True, resumed=states[1])[0])


def test_transport_refuses_other_heads_and_says_what_to_install(monkeypatch) -> None:
    narrow = Shape("bert", 2, 8, 4, 12, 45)
    with pytest.raises(TutelageError, match=r"has 4 heads and the teacher 2; use heads=2, or hidden states alone"):
        Objective([Transport()], KINDS["classification"], narrow, shape(6, 8))
    assert not Objective(
        [Transport(of=("hidden",))], KINDS["classification"], narrow, shape(6, 8)
    ).plan.teacher_needs.attention
    monkeypatch.setattr("tutelage.objectives.transport.find_spec", lambda name: None)
    with pytest.raises(TutelageError, match=r'pip install "tutelage\[transport\]"'):
        Objective([Transport()], KINDS["classification"], shape(2, 8), shape(6, 8))


@pytest.fixture(scope="module")
def models():
    """A student of random weights, narrower than its teacher, both without dropout."""
    return tiny_model(seed=3, layers=2, hidden=16, spread=1.0).eval(), tiny_model()


def step(term: Term, models, tokenizer, **more) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step of eight texts."""
    student, teacher = models
    torch.manual_seed(5)
    objective = Objective([term], KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    lesson = loop.DistillationModule(student, objective)
    source = LiveTeacher(teacher, objective.plan.teacher_needs, None, Accelerator(cpu=True))
    encoded, total = encode(examples(8, 3), tokenizer, 32), 0.0
    most = 10**6 if objective.plan.whole_step else more.pop("max_tokens", 10**6)
    lesson.zero_grad()
    for batch in step_batches(encoded, np.arange(8), 0, 1, **{"max_tokens": most, **more}):
        loss = lesson(batch, source.signals(batch))[term.kind]
        loss.backward()
        total += loss.item()
    lesson.close()
    source.close()
    return total, {name: p.grad.clone() for name, p in lesson.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("term", TERMS, ids=lambda term: f"{term.kind}-{getattr(term, 'layers', '')}")
def test_pieces_and_padding_change_nothing(term: Term, models, tokenizer) -> None:
    loss, gradients = step(term, models, tokenizer)
    assert loss > 0 and max(g.abs().max() for g in gradients.values()) > 1e-4
    for more in ({"max_tokens": 40}, {"pad_to": 30}):
        other, theirs = step(term, models, tokenizer, **more)
        assert other == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(theirs, gradients, rtol=1e-3, atol=1e-6)
