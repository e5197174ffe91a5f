"""A student that is reduced while it learns: its scores against loops, what is set to zero against what is cut out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from pydantic import ValidationError
from test_pruned import WITHOUT_HEADS, answers, inputs_for, labelled, proof, spread_model

from tutelage import anatomy
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.mechanisms.reduction.reducer import Reducer
from tutelage.mechanisms.reduction.settings import Reduction
from tutelage.mechanisms.reduction.sizes import Way
from tutelage.mechanisms.reduction.words import section, terminal
from tutelage.methods.rosita import rosita
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.run.assistants import links
from tutelage.run.run import run
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.specs import Copied, Pruned, Reduced, parse

SMALL = Reduced(layers=3, heads=2, intermediate=20, rank=8)


def reducer(model, spec: Reduced = SMALL, how: Reduction | None = None, settle=lambda record: None) -> Reducer:
    return Reducer(Way.of(how or Reduction(), spec, model), model, settle)


def learn(model, hook: Reducer, steps: range, total: int) -> None:
    """Some steps of a training on random labels."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in steps:
        inputs = inputs_for(step)
        if not anatomy.has_token_types(model.config):
            inputs.pop("token_type_ids")
        torch.nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([0, 1, 1])).backward()
        hook.before_step(optimizer, [], total)
        optimizer.step()
        optimizer.zero_grad()
        hook.after_step(optimizer, step, total)


def test_the_sizes_of_the_paper_go_step_by_step() -> None:
    whole = {"layers": 12, "heads": 12, "intermediate": 3072, "rank": 768}
    by_depth = Way(whole, whole | {"layers": 8}, 4)
    assert [by_depth.after(number)["layers"] for number in range(5)] == [12, 11, 10, 9, 8]
    assert str(by_depth) == "layers 12 to 8"
    by_width = Way(whole, {"layers": 12, "heads": 2, "intermediate": 512, "rank": 128}, 10)
    for number in range(11):
        assert by_width.after(number) == {
            "layers": 12,
            "heads": 12 - number,
            "intermediate": 3072 - 256 * number,
            "rank": 768 - 64 * number,
        }
    assert [by_width.due(step, 100) for step in (1, 9, 10, 55, 100)] == [0, 0, 1, 5, 10]
    model = tiny_model()
    counts = {
        (4, None): Way.of(Reduction(reduces="width"), Reduced(heads=1, rank=8), model).count == 3,
        (1, None): Way.of(Reduction(reduces="depth"), Reduced(layers=1, heads=1), model).count == 3,
        (4, 16): Way.of(Reduction(), Reduced(intermediate=16), model).count == 10,
        (4, 7): Way.of(Reduction(increments=7), Reduced(heads=1), model).count == 7,
        (4, 0): Way.of(Reduction(reduces="depth"), Reduced(heads=1), model).count == 0,
    }
    assert all(counts.values()), counts


def test_scores_against_loops_and_the_lowest_of_the_rest_go() -> None:
    model = tiny_model()
    hook = reducer(model, Reduced(heads=2, intermediate=40))
    before = {name: x.clone() for name, x in hook.left.items()}
    torch.nn.functional.cross_entropy(model(**inputs_for()).logits, torch.tensor([0, 1, 1])).backward()
    for number, layer in enumerate(model.bert.encoder.layer):
        matrices = layer.attention.output.dense.weight, layer.intermediate.dense.weight, layer.output.dense.weight
        output, up, down = [(m.detach() * m.grad).abs().double() for m in matrices]
        heads = [sum(output[row, column] for row in range(32) for column in range(8 * h, 8 * h + 8)) for h in range(4)]
        neurons = [sum(up[n, i] + down[i, n] for i in range(32)) for n in range(48)]
        hook.left["heads"][number][int(torch.tensor(heads).argmin())] = False  # gone before
        if not number:
            hook.before_step(None, [], 2)
        assert hook._scores["heads"][number].tolist() == pytest.approx([float(x) for x in heads], rel=1e-4)
        assert hook._scores["intermediate"][number].tolist() == pytest.approx([float(x) for x in neurons], rel=1e-4)
    scores = {name: x.clone() for name, x in hook._scores.items()}
    hook.after_step(None, 2, 2)
    for name, count in (("heads", 2), ("intermediate", 40)):
        kept = [set(row.topk(count).indices.tolist()) for row in scores[name]]
        assert [set(row.nonzero()[:, 0].tolist()) for row in hook.left[name]] == kept
        assert not hook._scores[name].any() and before[name].all()


@pytest.mark.parametrize(("family", "head"), WITHOUT_HEADS)
def test_the_cut_student_computes_what_the_reduced_one_did(family: str, head: anatomy.Head, tmp_path: Path) -> None:
    model, inputs = spread_model(family, head)
    whole, records = answers(model, inputs), []
    hook = reducer(model, settle=records.append)
    for score in hook._scores.values():
        score.copy_(torch.rand(score.shape))
    hook.after_step(None, 1, 1)
    reduced = answers(model, inputs)
    hook.finish(lambda: proof(model, inputs))
    torch.testing.assert_close(answers(model, inputs), reduced, atol=1e-5, rtol=1e-5)
    assert (reduced - whole).abs().max() > 1e-2 and records[0]["difference"] < 1e-4
    plain = model.encoder if head == "vectors" else model
    shape = anatomy.shape_of(plain.config)
    assert (shape.family, shape.layers, shape.heads, shape.intermediate) == (f"pruned_{family}", 3, 2, 20)
    assert anatomy.word_embeddings_of(plain).embedding_dim == plain.config.embedding_rank == 8
    model.save_pretrained(tmp_path)
    again, new = load_model(str(tmp_path), head)
    assert not new and torch.equal(answers(again, inputs), answers(model, inputs))


def test_embeddings_keep_their_best_approximation_and_depth_alone_leaves_an_ordinary_model() -> None:
    model = tiny_model()
    u, s, v = torch.linalg.svd(anatomy.word_embeddings_of(model).weight.detach(), full_matrices=False)
    hook = reducer(model, Reduced(rank=8))
    hook.after_step(None, 1, 1)
    best = (u[:, :8] * s[:8]) @ v[:8]
    torch.testing.assert_close(model.bert.embeddings.word_embeddings(torch.arange(45)), best, atol=1e-5, rtol=1e-4)
    model = tiny_model()
    hook = reducer(model, SMALL, Reduction(reduces="depth"))
    hook.after_step(None, 1, 1)
    seen = model(**inputs_for(), output_hidden_states=True).hidden_states
    assert torch.equal(seen[3], seen[4]) and not torch.equal(seen[2], seen[3])
    hook.finish(lambda: proof(model, inputs_for()))
    assert model.config.model_type == "bert" and str(anatomy.shape_of(model.config)).startswith(
        "3 layers x 32, 4 heads"
    )


def test_what_is_removed_gets_no_gradient_and_a_resumed_hook_goes_on_alike() -> None:
    first, second = tiny_model(), tiny_model()
    hook = reducer(first)
    learn(first, hook, range(1, 5), 8)
    assert hook.shown() == {"layers": 4.0, "heads": 3.0, "intermediate": 34.0, "rank": 20.0}
    second.load_state_dict(first.state_dict())
    other = reducer(second)
    other.restore(hook.state())
    for model, own in ((first, hook), (second, other)):
        learn(model, own, range(5, 9), 8)
        first.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(x, other.left[name]) for name, x in hook.left.items())
    first(**inputs_for()).logits.sum().backward()
    layer, gone = first.bert.encoder.layer[0], ~hook.left["intermediate"][0]
    assert gone.sum() == 28
    assert not layer.output.dense.weight.grad[:, gone].any() and layer.output.dense.weight.grad[:, ~gone].any()
    assert not first.bert.encoder.layer[3].output.dense.weight.grad.any()


def test_the_way_is_told_and_a_student_that_computes_something_else_is_not_passed_over() -> None:
    model, records = tiny_model(), []
    hook = reducer(model, settle=records.append)
    hook.before_step(None, [], 24)
    for step in range(1, 25):
        hook.after_step(None, step, 24)
    hook.finish(lambda: proof(model, inputs_for()))
    (record,) = records
    left = "3 of 4 layers, 2 of 4 heads, 20 of 48 neurons, 8 of 32 ranks of the embeddings are left"
    assert terminal("width", record) == [f"stage width: {left}"] and record["steps"] == [0, 12, 24]
    assert [row.cells for row in section(record).table.rows] == [
        ["4", "4", "48", "32"],
        ["4", "3", "34", "20"],
        ["3", "2", "20", "8"],
    ]
    assert "do not use it" in terminal("width", {**record, "difference": 1.0})[1]


def test_what_cannot_be_reduced_is_refused_in_one_line(teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="takes its weights from a teacher; give teacher"):
        build(SMALL, None, labelled("a", "b"), 0)
    with pytest.raises(TutelageError, match="layers=5 is too large: the teacher has layers=4"):
        build(Reduced(layers=5), tiny_model(), labelled("a", "b"), 0)
    assert parse("layers=4,heads=1", rosita().student) == Reduced(layers=4, heads=1, intermediate=512, rank=128)
    assert SMALL.twin() == Pruned(layers=3, heads=2, intermediate=20, rank=8)
    width = rosita().stages[0]
    for change, message in (
        ({"select": "best"}, "set select=last"),
        ({"patience": 2}, "without patience"),
        ({"train": "head"}, "set train=all"),
    ):
        with pytest.raises(ValidationError, match=message):
            Stage(**{**dict(width), **change})
    with pytest.raises(ValidationError, match="needs the mechanism reduction in its first stage"):
        Recipe(**{**dict(rosita()), "stages": [rosita().stages[1]]})
    with pytest.raises(ValidationError, match="use student init=reduced,layers=8"):
        Recipe(**{**dict(rosita()), "student": Copied()})
    data = DataConfig(train=str(teacher_folder / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    config = RunConfig(recipe=rosita(), data=data, teacher=str(teacher_folder / "teacher"), out=str(tmp_path / "run"))
    with pytest.raises(TutelageError, match="layers=8 is too large: the teacher has layers=4"):
        links(config)
    for reduces, term, message in (
        ("depth", Hidden(), "stage 'later' compares layers of a student that loses some of them in stage 'first'"),
        ("width", AttentionScores(), "stage 'later' compares the attention of a student that loses heads"),
    ):
        stages = [
            Stage(name="first", objective=[SoftLabels()], mechanisms=[Reduction(reduces=reduces)], select="last"),
            Stage(name="later", objective=[term]),
        ]
        recipe = Recipe(method="mine", title="Mine", paper="", student=SMALL, stages=stages)
        with pytest.raises(TutelageError, match=message):
            run(config.model_copy(update={"recipe": recipe}), quiet=True)
    assert not (tmp_path / "run").exists()


def test_rositas_students_and_teachers(teacher_folder: Path, tmp_path: Path) -> None:
    """With a pretrained checkpoint the paper's three students; depth by predictions, width by hidden states, too."""
    recipe = rosita(pretrained="bert-base-uncased", task="CoLA").model_copy(update={"student": SMALL})
    config = RunConfig(
        recipe=recipe,
        data=DataConfig(train="a.csv", dev="b.csv"),
        teacher=str(teacher_folder / "teacher"),
        out=str(tmp_path / "run"),
    )
    recipe = config.recipe.model_copy(update={"assistants": config.recipe.assistants[1:]})
    shallow, narrow = links(config.model_copy(update={"recipe": recipe}))
    assert [[s.epochs for s in one.recipe.stages] for one in (shallow, narrow)] == [[1, 9], [1, 49]]
    assert {s.lr for one in (shallow, narrow) for s in one.recipe.stages} == {1e-5} and narrow.recipe.longest == 64
    assert narrow.teacher == str(tmp_path / "run" / "assistants" / "1" / "student")
    kinds = [[term.kind for term in one.recipe.stages[0].objective] for one in (shallow, narrow)]
    assert kinds == [["soft_labels"], ["soft_labels", "embeddings", "hidden"]]
    first = config.recipe.assistants[0]
    assert first.student == Copied(layers="all", source="bert-base-uncased")
    assert [(s.data, s.epochs, s.lr) for s in first.stages] == [("augmented", 5, 2e-5)]
