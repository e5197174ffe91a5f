"""Task-aware filters (TED): both terms against slow references, what learns in which stage, what the second stage begins with."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sentences, tiny_model, write_csv
from pydantic import ValidationError
from safetensors.torch import load_file
from test_common import config_for, small
from test_losses import tensor
from torch import Tensor

from tutelage.anatomy import Shape, shape_of
from tutelage.data.batches import Batch, Totals
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Signals
from tutelage.methods.finetune import finetune
from tutelage.methods.ted import ted
from tutelage.objectives.filters import FilteredHidden, TaskFilters
from tutelage.objectives.objective import Objective, ObjectivePlan
from tutelage.objectives.predictions import HardLabels
from tutelage.objectives.term import Term
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Copied, Fresh
from tutelage.tasks import KINDS

B, N, LENGTHS, WIDTH, WIDER, CLASSES = 3, 4, [4, 2, 3], 3, 5, 3
PAIRS = [(1, 2), (2, 4)]
SIDES = (("student", [1, 2]), ("teacher", [2, 4]))


def shape(layers: int, hidden: int, outputs: int = CLASSES) -> Shape:
    return Shape("bert", layers, hidden, 1, 12, 45, outputs=outputs)


def objective_of(term: Term, kind: str, outputs: int = CLASSES) -> Objective:
    """Its maps are drawn anew, biases too, so that each number counts."""
    made = Objective([term], KINDS[kind], shape(2, WIDTH, outputs), shape(4, WIDER, outputs))
    with torch.no_grad():
        for number, parameter in enumerate(made.projections.parameters()):
            parameter.copy_(tensor(*parameter.shape, seed=number))
    return made


def signals(layers: int, hidden: int, seed: int) -> Signals:
    """Random hidden states; those at padded places are large."""
    far = (torch.arange(N) >= torch.tensor(LENGTHS)[:, None]) * 100.0
    return Signals(hidden={i: tensor(B, N, hidden, seed=seed + i) + far[..., None] for i in range(1, layers + 1)})


STUDENT, TEACHER = signals(2, WIDTH, 10), signals(4, WIDER, 20)


def batch_of(labels: Tensor, known: float, predicted: Tensor | None = None) -> Batch:
    mask = (torch.arange(N) < torch.tensor(LENGTHS)[:, None]).long()
    totals = Totals(B, float(len(labels)), known, sum(LENGTHS), sum(n * n for n in LENGTHS))
    keys = torch.arange(B)
    return Batch(keys, keys, {"attention_mask": mask}, mask.bool() & False, labels, predicted, totals)


def through(linear: torch.nn.Linear, vector: list[float]) -> list[float]:
    return [
        sum(w * v for w, v in zip(row, vector, strict=True)) + bias
        for row, bias in zip(linear.weight.double().tolist(), linear.bias.double().tolist(), strict=True)
    ]


def slow_task_filters(objective: Objective, places: list[tuple[int, int]], labels: list[Any]) -> float:
    """``1/K sum_k L(head_k(g_k(h_k)), y)`` of the student and of the teacher, at these places, mean over those with a label."""
    total = 0.0
    for who, layers in SIDES:
        hidden = (STUDENT if who == "student" else TEACHER).hidden
        for layer in layers:
            name = f"task_filters_{who}_{layer}"
            losses = []
            for (row, place), label in zip(places, labels, strict=True):
                filtered = through(objective.projections[name], hidden[layer][row, place].double().tolist())
                logits = through(objective.projections[f"{name}_head"], filtered)
                if label is None:
                    continue
                if isinstance(label, float):
                    losses.append((logits[0] - label) ** 2)
                else:
                    losses.append(math.log(sum(math.exp(z) for z in logits)) - logits[label])
            total += sum(losses) / len(losses) / len(layers)
    return total


@pytest.mark.parametrize(
    ("kind", "outputs", "labels", "given"),
    [
        ("classification", CLASSES, torch.tensor([2, -1, 0]), [2, None, 0]),
        ("regression", 1, torch.tensor([0.5, math.nan, -1.5]), [0.5, None, -1.5]),
    ],
)
def test_task_filters_against_the_formula_for_texts(kind: str, outputs: int, labels: Tensor, given: list[Any]) -> None:
    objective = objective_of(TaskFilters(), kind, outputs)
    found = objective(STUDENT, TEACHER, batch_of(labels, known=2))["task_filters"]
    expected = slow_task_filters(objective, [(row, 0) for row in range(B)], given)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_task_filters_against_the_formula_for_tokens() -> None:
    """The head reads each token to predict; one of them has no label."""
    places = [(0, 1), (0, 3), (1, 1), (2, 0), (2, 2)]
    predicted = torch.tensor([row * N + place for row, place in places])
    objective = objective_of(TaskFilters(), "tokens")
    batch = batch_of(torch.tensor([0, 2, -1, 1, 1]), known=4, predicted=predicted)
    found = objective(STUDENT, TEACHER, batch)["task_filters"]
    assert found.item() == pytest.approx(slow_task_filters(objective, places, [0, 2, None, 1, 1]), rel=1e-5)


def test_filtered_hidden_against_the_formula() -> None:
    """``1/K sum_k ||g_k^S(h^S) - g_k^T(h^T)||^2 / d``, mean over real tokens."""
    objective = objective_of(FilteredHidden(), "classification")
    total = 0.0
    for s, t in PAIRS:
        for row, length in enumerate(LENGTHS):
            for place in range(length):
                ours, theirs = (
                    through(objective.projections[f"task_filters_{who}_{n}"], x.hidden[n][row, place].double().tolist())
                    for who, n, x in (("student", s, STUDENT), ("teacher", t, TEACHER))
                )
                total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / WIDER
    found = objective(STUDENT, TEACHER, batch_of(torch.zeros(B).long(), known=B))["filtered_hidden"]
    assert found.item() == pytest.approx(total / sum(LENGTHS) / len(PAIRS), rel=1e-5)


def test_each_stage_trains_what_the_paper_trains_there() -> None:
    """First the filters and heads of both models; then the student and its filters, against a teacher whose filters stay."""
    ours = Signals(hidden={layer: x.clone().requires_grad_() for layer, x in STUDENT.hidden.items()})
    batch = batch_of(torch.tensor([2, 1, 0]), known=B)
    first = objective_of(TaskFilters(), "classification")
    first(ours, TEACHER, batch)["task_filters"].backward()
    assert all(x.grad is None for x in ours.hidden.values())
    assert all(parameter.grad.abs().sum() > 0 for parameter in first.projections.parameters())
    second = objective_of(FilteredHidden(), "classification")
    second(ours, TEACHER, batch)["filtered_hidden"].backward()
    assert all(x.grad.abs().sum() > 0 for x in ours.hidden.values())
    learn = {name.partition(".")[0] for name, p in second.projections.named_parameters() if p.grad is not None}
    assert learn == {"task_filters_student_1", "task_filters_student_2"}


@pytest.mark.parametrize("term", [TaskFilters(layers=[0, 0]), FilteredHidden(layers="gcd")])
def test_terms_without_a_pair_are_refused(term: Term) -> None:
    with pytest.raises(TutelageError, match="pairs no layers of a student of 2 and a teacher of 3; use layers=uniform"):
        ObjectivePlan([term], KINDS["classification"], shape(2, WIDTH), shape(3, WIDER))


def test_one_filter_for_a_teacher_layer_of_several_pairs() -> None:
    plan = Objective([TaskFilters(layers=[4, 4])], KINDS["classification"], shape(2, WIDTH), shape(4, WIDER))
    names = {name for name in plan.projections if not name.endswith("_head")}
    assert names == {"task_filters_student_1", "task_filters_student_2", "task_filters_teacher_4"}


def test_only_terms_that_continue_begin_with_what_is_left_of_their_name_and_shape() -> None:
    left = objective_of(TaskFilters(), "classification").projections.state_dict()
    fresh = Objective([TaskFilters()], KINDS["classification"], shape(2, WIDTH), shape(4, WIDER))
    before = {name: x.clone() for name, x in fresh.projections.state_dict().items()}
    fresh.continue_from(left)
    assert all(torch.equal(x, before[name]) for name, x in fresh.projections.state_dict().items())
    wider = Objective([FilteredHidden()], KINDS["classification"], shape(2, WIDTH + 1), shape(4, WIDER))
    wider.continue_from(left)
    same = {name for name, x in wider.projections.state_dict().items() if x.shape == left[name].shape}
    assert all(torch.equal(wider.projections.state_dict()[name], left[name]) for name in same)
    assert {"task_filters_teacher_2.weight", "task_filters_student_1.bias"} <= same
    assert "task_filters_student_1.weight" not in same
    team = Objective(
        [HardLabels(), FilteredHidden()],
        KINDS["classification"],
        shape(2, WIDTH),
        shape(4, WIDER),
        several={1: shape(4, WIDER)},
    )
    team.continue_from({f"teacher2.{name}": x for name, x in left.items()})
    assert torch.equal(team.projections["teacher2"]["task_filters_student_2"].bias, left["task_filters_student_2.bias"])


def recipe_of(*stages: Stage) -> Recipe:
    return Recipe(method="mine", title="Mine", paper="-", student=Copied(layers=2, choose="first"), stages=list(stages))


def test_terms_that_do_not_fit_their_place_are_refused_when_a_recipe_is_read() -> None:
    filters, distill = Stage(name="filters", objective=[TaskFilters()]), Stage(name="b", objective=[FilteredHidden()])
    recipe_of(filters, distill)
    with pytest.raises(
        ValidationError, match="filtered_hidden needs filters; give the term task_filters to a stage before"
    ):
        recipe_of(distill, filters)
    off = Stage(name="filters", objective=[TaskFilters(weight=0), HardLabels()])
    with pytest.raises(ValidationError, match="filtered_hidden needs filters"):
        recipe_of(off, distill)
    other = Stage(name="filters", objective=[TaskFilters(layers="top")])
    with pytest.raises(
        ValidationError, match="pairs layers by uniform, and the term task_filters before it by top; give"
    ):
        recipe_of(other, distill)
    corpus = Stage(name="filters", data=Instances(), objective=[TaskFilters()], select="last")
    with pytest.raises(
        ValidationError, match="task_filters learns from the labels of a task; leave it out of stages on a"
    ):
        recipe_of(corpus)


def test_a_model_whose_first_token_sees_nothing_is_refused() -> None:
    causal = replace(shape(2, WIDTH), family="gpt2")
    with pytest.raises(TutelageError, match=r"task_filters compares what the first token .* in a gpt2"):
        ObjectivePlan([TaskFilters()], KINDS["classification"], causal, shape(4, WIDER))


def test_a_shape_knows_the_outputs_of_the_head_and_is_equal_without_them() -> None:
    two, five = (shape_of(tiny_model(id2label={i: str(i) for i in range(n)}).config) for n in (2, 5))
    assert (two.outputs, five.outputs) == (2, 5) and two == five


def test_the_filters_of_the_first_stage_begin_the_second_and_leave_the_student_as_it_was(
    teacher_folder: Path, tmp_path: Path
) -> None:
    """Texts without a label are left out of the first stage; the second learns the teacher's predictions of them, too."""
    write_csv(tmp_path / "more.csv", 80, 9, label=False)
    recipe = small("ted", Copied(layers=2, choose="uniform"), 1)
    config = config_for("ted", teacher_folder, tmp_path / "both", recipe=recipe, baseline=False)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"unlabeled": str(tmp_path / "more.csv")})}
    )
    report = run(config, quiet=True)
    labelled, every = (stage["steps"] for stage in report["stages"])
    assert every - labelled == 80 // 32 or every - labelled == 80 // 32 + 1
    kept = load_file(tmp_path / "both" / "projections.safetensors")
    filters, later = (
        {name.partition(".")[2]: x for name, x in kept.items() if name.startswith(stage)}
        for stage in ("filters.", "distill.")
    )
    assert later.keys() == {name for name in filters if "_head." not in name}
    for name, x in later.items():
        assert torch.equal(x, filters[name]) == ("_teacher_" in name), name
        assert (x - filters[name]).abs().max() < 0.1

    alone = recipe.model_copy(update={"stages": recipe.stages[:1]})
    run(config.model_copy(update={"recipe": alone, "out": str(tmp_path / "alone")}), quiet=True)
    student = load_file(tmp_path / "alone" / "student" / "model.safetensors")
    teacher = load_file(teacher_folder / "teacher" / "model.safetensors")
    for name, x in student.items():
        whole = name.replace("layer.1.", "layer.3.").replace("layer.0.", "layer.1.")
        assert torch.equal(x, teacher[whole]), name


def test_numbers_for_pairs_of_texts(tokenizer: Any, tmp_path: Path) -> None:
    """A regression on pairs: the filters learn the score, and so does the student."""
    for name, count, seed in (("train", 200, 1), ("dev", 60, 5)):
        first, second = sentences(count, seed), sentences(count, seed + 1)
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "text_pair", "label"])
            for a, b, x, y in zip(first[0], second[0], first[1], second[1], strict=True):
                writer.writerow([a, b, f"{x + y + 0.5:.1f}"])
    tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    data = DataConfig(
        train=str(tmp_path / "train.csv"), dev=str(tmp_path / "dev.csv"), text_pair="text_pair", kind="regression"
    )
    start = finetune(Checkpoint(name=str(tmp_path / "start")), epochs=8, lr=3e-3)
    run(RunConfig(recipe=start, data=data, out=str(tmp_path / "teacher"), baseline=False), quiet=True)
    recipe = small("ted", Fresh(layers=2, hidden=16, heads=2, intermediate=24), 8)
    places = {"teacher": str(tmp_path / "teacher"), "out": str(tmp_path / "run")}
    report = run(RunConfig(recipe=recipe, data=data, baseline=False, allow_weak_teacher=True, **places), quiet=True)
    for stage in report["stages"]:
        for term, values in stage["losses"].items():
            assert values[-1][1] < values[0][1], (stage["name"], term)
    assert np.isfinite(report["student"]["score"])
    assert load_file(tmp_path / "run" / "projections.safetensors")[
        "filters.task_filters_student_1_head.bias"
    ].shape == (1,)


def test_the_recipe_trains_nothing_of_the_student_in_its_first_stage() -> None:
    first, second = ted().stages
    assert (first.train, first.dropout, first.needs_labels, second.needs_labels) == ("head", False, True, False)
