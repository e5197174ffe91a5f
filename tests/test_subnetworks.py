"""Sub-networks that share weights against the same networks, cut out; which parts they have; their export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ALL_FAMILIES, tiny_model, write_csv
from pydantic import ValidationError
from test_common import config_for, small
from test_pruned import inputs_for, some_scores
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tutelage import anatomy, api
from tutelage.anatomy.families import FAMILIES
from tutelage.data.batches import Batch, Totals
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals, Tap
from tutelage.mechanisms.own_teacher.keeper import Keeper
from tutelage.mechanisms.own_teacher.settings import OwnTeacher
from tutelage.mechanisms.subnetworks.settings import Subnetworks
from tutelage.mechanisms.subnetworks.trainer import Trainer
from tutelage.methods import METHODS
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Embeddings, Hidden
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.comparison import tables
from tutelage.run.run import run
from tutelage.students.pruned import ordered, prune
from tutelage.students.specs import Copied, Ordered, Pruned
from tutelage.students.subnetworks import Supernet, cut, kept_layers, record, subnetwork, subnetworks
from tutelage.tasks import KINDS
from tutelage.training import loop
from tutelage.training.loop import DistillationModule

FAST = ("bert", "distilbert", "deberta-v2")
CUT = [name for name in ALL_FAMILIES if FAMILIES[name].neurons_fixed is None]


@pytest.mark.parametrize(
    ("depth", "count", "kept"),
    [
        (0.75, 12, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        (0.5, 12, [0, 2, 4, 6, 8, 10]),
        (0.75, 6, [0, 1, 2, 4, 5]),
        (0.5, 3, [0, 2]),
        (0.7, 10, [0, 1, 2, 4, 5, 7, 8]),
        (0.1, 2, [0]),
        (1.0, 4, [0, 1, 2, 3]),
    ],
)
def test_the_layers_of_a_depth(depth: float, count: int, kept: list[int]) -> None:
    assert list(kept_layers(depth, count)) == kept


def test_widths_that_a_small_network_rounds_alike_are_one_and_heads_are_rounded_up() -> None:
    config = tiny_model(layers=2, heads=2, intermediate=10).config
    found = subnetworks(config, [0.25, 0.4, 0.5, 1.0], [0.5, 0.75, 1.0])
    # 0.75 of two layers are both; 2.5 neurons are 3.
    units = [(1, 3), (1, 4), (1, 5), (2, 10)]
    assert [(*one, (0,)) for one in units] + [(*one, (0, 1)) for one in units] == [
        (one.heads, one.neurons, one.layers) for one in found
    ]
    assert found[-1].name == "width 1, depth 1"
    assert subnetwork(tiny_model("deberta-v2").config, 0.25, 1.0).heads == 4


def teacher_of(family: str) -> PreTrainedModel:
    torch.manual_seed(3)
    model = tiny_model(family)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model


def inputs_of(model: PreTrainedModel) -> dict[str, Tensor]:
    inputs = inputs_for()
    if not anatomy.has_token_types(model.config):
        inputs.pop("token_type_ids")
    return inputs


@pytest.mark.parametrize("family", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in CUT])
def test_a_step_is_the_sum_over_networks_that_are_cut_out(family: str) -> None:
    """Loss and gradients of the shared weights, against a loop over models of their own and over layers."""
    teacher, student = teacher_of(family), teacher_of(family)
    for parameter in student.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    inputs, widths, depths = inputs_of(student), (0.25, 0.5, 1.0), (0.5, 0.75, 1.0)
    parts = subnetworks(student.config, widths, depths)
    assert len(parts) == 9 and {len(one.layers) for one in parts} == {2, 3, 4}
    with torch.no_grad():
        tap = Tap(teacher, Needs(logits=True, hidden=frozenset(range(5))))
        theirs = tap(inputs)
        tap.close()

    # The networks on their own: gradients are put back where their weights come from.
    layers, expected, total = f"{layers_path(student)}.", {}, {"soft_labels": 0.0, "embeddings": 0.0, "hidden": 0.0}
    real = inputs["attention_mask"].bool()
    for part in parts:
        network = cut(student, part)
        kept = len(part.layers)
        tap = Tap(network, Needs(logits=True, hidden=frozenset(range(kept + 1))))
        ours = tap(inputs)
        tap.close()
        p = theirs.logits.softmax(-1)
        losses = {"soft_labels": (p * (p.log() - ours.logits.log_softmax(-1))).sum(-1).mean(), "hidden": 0.0}
        for state in range(kept + 1):
            other = int(state / part.depth + 1e-6) if state < kept else 4
            apart = F.mse_loss(ours.hidden[state][real], theirs.hidden[other][real])
            losses["hidden" if state else "embeddings"] = apart + (losses["hidden"] if state else 0.0)
        (losses["soft_labels"] + 0.1 * losses["embeddings"] + 0.1 * losses["hidden"]).backward()
        total = {name: value + float(losses[name].detach()) for name, value in total.items()}
        for name, parameter in network.named_parameters():
            if name.startswith(layers):
                number, _, rest = name.removeprefix(layers).partition(".")
                name = f"{layers}{part.layers[int(number)]}.{rest}"
            name = name.replace("embeddings.table.", "embeddings.")  # of a model with fewer heads
            whole = expected.setdefault(name, torch.zeros_like(student.get_parameter(name)))
            if parameter.grad is not None:
                whole[tuple(slice(size) for size in parameter.shape)] += parameter.grad

    stage_terms = [SoftLabels(), Embeddings(weight=0.1), Hidden(weight=0.1)]
    shape = anatomy.shape_of(student.config)
    module = DistillationModule(student, Objective(stage_terms, KINDS["classification"], shape, shape))
    hook = Trainer(Subnetworks(widths=widths, depths=depths), student)
    mask = inputs["attention_mask"]
    totals = Totals(examples=3, answers=3, known=3, tokens=float(mask.sum()), pairs=0)
    nothing = torch.zeros(3, dtype=torch.long)
    batch = Batch(nothing, nothing, inputs, torch.zeros_like(mask), nothing, None, totals)
    found: dict[str, float] = {}
    for view in hook.views():
        with view:
            losses = module(batch, Signals(logits=theirs.logits, hidden=theirs.hidden))
            sum(losses.values()).backward()
        for name, loss in losses.items():
            found[name] = found.get(name, 0.0) + float(loss.detach()) / (1.0 if name == "soft_labels" else 0.1)
    assert found == pytest.approx(total, rel=1e-5)
    for name, parameter in student.named_parameters():
        if parameter.grad is not None or float(expected[name].abs().max()) > 0:
            torch.testing.assert_close(
                parameter.grad, expected[name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert sum(parameter.grad is not None for parameter in student.parameters()) > 40
    module.close()
    hook.finish(lambda: batch)
    assert not [m for m in student.modules() if "forward" in vars(m)] and len(anatomy.layers_of(student)) == 4
    assert student.config.subnetworks == {"widths": [0.25, 0.5, 1.0], "depths": [0.5, 0.75, 1.0]}


def layers_path(model: PreTrainedModel) -> str:
    return next(name for name, module in model.named_modules() if module is anatomy.layers_of(model))


def test_a_quarter_costs_a_quarter() -> None:
    """The layers' products are as small as those of the network that is cut out."""
    model, inputs = tiny_model(), inputs_for()
    supernet = Supernet(model)
    for one in subnetworks(model.config, (0.25, 0.5, 1.0), (0.5, 1.0)):
        with supernet.only(one):
            shared = speed._count(model, inputs)
        assert shared == speed._count(cut(model, one), inputs)
    supernet.close()


def test_the_first_heads_and_neurons_are_the_best() -> None:
    """The ordered network computes what the teacher does, and its half is the teacher's best half."""
    teacher, scores, inputs = teacher_of("bert"), some_scores(), inputs_for()
    whole = ordered(teacher, scores, {})
    half = cut(whole, subnetwork(whole.config, 0.5, 1.0))
    other = prune(teacher, Pruned(heads=2, intermediate=24), scores, {})
    with torch.no_grad():
        torch.testing.assert_close(whole(**inputs).logits, teacher(**inputs).logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(half(**inputs).logits, other(**inputs).logits, rtol=1e-5, atol=1e-6)
        assert (half(**inputs).logits - teacher(**inputs).logits).abs().max() > 1e-3


def test_a_checkpoint_is_selected_by_the_mean_over_sub_networks() -> None:
    seen: list[int] = []
    student = tiny_model()
    hook = Trainer(Subnetworks(widths=(0.5, 1.0), depths=(0.5, 1.0)), student)

    def score() -> float:
        seen.append(len(anatomy.layers_of(student)))
        return float(len(seen))

    assert loop._mean_score(score, [hook]) == 2.5 and seen == [2, 2, 4, 4]


def test_the_teacher_of_a_resumed_stage_is_the_student_of_its_begin() -> None:
    """Not the student that was trained since, of which hooks are made when a run is resumed."""
    teacher, student = tiny_model(), teacher_of("bert")
    saved = Keeper(teacher, student).state()
    begun = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    assert all(torch.equal(saved[name], tensor) for name, tensor in begun.items())
    saved = {name: tensor.clone() for name, tensor in saved.items()}
    student.classifier.weight.data += 1
    other = tiny_model()
    again = Keeper(other, student)
    assert not torch.equal(other.classifier.weight, begun["classifier.weight"])
    again.restore(saved)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in begun.items())


def stage(**more: Any) -> Stage:
    return Stage(**{"name": "w", "objective": [SoftLabels()], "mechanisms": [Subnetworks()], **more})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subnetworks(widths=(0.5,)), "name each share once, and 1, the whole network"),
        (lambda: stage(objective=[AttentionScores()]), "cannot learn from attention_scores"),
        (lambda: stage(train="head"), "set data=train and train=all"),
        (
            lambda: Recipe(method="m", title="m", paper="m", student=Copied(layers=2), stages=[stage()]),
            "use student init=ordered",
        ),
        (
            lambda: Recipe(**{**METHODS["dynabert"]().model_dump(), "stages": [METHODS["dynabert"]().stages[1]]}),
            "learns from the student of the stage before",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(make: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


def test_an_export_cuts_out_what_was_trained_and_names_what_there_is(tokenizer: Any, tmp_path: Path) -> None:
    student = teacher_of("bert")
    record(student, [0.25, 0.5, 1.0], [0.5, 1.0])
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    write_csv(tmp_path / "dev.csv", 8, 2)
    given: dict[str, Any] = {"dev": str(tmp_path / "dev.csv"), "quiet": True}

    def export(out: str, **more: Any) -> Any:
        return api.export(str(tmp_path / "student"), tmp_path / out, format="checkpoint", **given, **more)

    report = export("cut", width=0.25, depth=0.5)
    assert report.type == "pruned_bert" and report.layers == 2 and report.sides[1].largest_difference == 0
    made = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval()
    wanted = cut(student, subnetwork(student.config, 0.25, 0.5))
    inputs = inputs_for()
    torch.testing.assert_close(made(**inputs).logits, wanted(**inputs).logits, rtol=0, atol=0)
    assert export("shallow", depth=0.5).type == "bert"  # with all heads an ordinary model
    assert not hasattr(made.config, "subnetworks")
    assert api.gate(tmp_path / "cut", max_size="1MB").passed
    with pytest.raises(TutelageError, match=r"is of a sub-network \(width 0.25, depth 0.5\)"):
        api.gate(tmp_path / "cut", min_retention=0.9)
    for more, message in (
        ({"width": 0.75}, "width 0.75 was not trained: .* has the widths 0.25, 0.5, 1; use one of them"),
        ({"depth": 0.25}, "depth 0.25 was not trained: .* has the depths 0.5, 1; use one of them"),
    ):
        with pytest.raises(TutelageError, match=message):
            export("never", **more)
    with pytest.raises(TutelageError, match="has no sub-networks"):
        api.export(str(tmp_path / "cut"), tmp_path / "never", format="checkpoint", width=0.5, **given)
    assert not (tmp_path / "never").exists()


def test_a_former_student_teaches_layers_of_its_own_shape_alone(teacher_folder: Path, tmp_path: Path) -> None:
    stages = [
        Stage(name="first", objective=[SoftLabels()]),
        Stage(name="second", objective=[Hidden()], mechanisms=[OwnTeacher()], select="last"),
    ]
    recipe = Recipe(method="m", title="m", paper="m", student=Copied(layers=2, choose="first"), stages=stages)
    with pytest.raises(TutelageError, match=r"compares hidden with the student's own, .* \(4 layers x 32.* alone"):
        run(config_for("dynabert", teacher_folder, tmp_path / "run", recipe=recipe), quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_report_has_what_each_sub_network_scores_when_it_is_exported(teacher_folder: Path, tmp_path: Path) -> None:
    recipe = small("dynabert", Ordered(), 1)
    few = {"widths": (0.25, 1.0)}
    stages = [
        stage.model_copy(
            update={
                "mechanisms": [
                    one.model_copy(update=few) if isinstance(one, Subnetworks) else one for one in stage.mechanisms
                ]
            }
        )
        for stage in recipe.stages
    ]
    recipe = recipe.model_copy(update={"stages": stages})
    config = config_for("dynabert", teacher_folder, tmp_path / "run", recipe=recipe, baseline=False)
    report = run(config, quiet=True)
    (section,) = report["sections"]
    rows = {row["name"]: row for row in section["table"]["rows"]}
    assert list(rows) == [f"width {width}, depth {depth}" for depth in ("1", "0.75", "0.5") for width in ("1", "0.25")]
    assert rows["width 1, depth 1"]["cells"][1] == f"{report['student']['score']:.4f}"
    assert tables(report)[-1].rows[-1][:2] == ["width 0.25, depth 0.5", "2 layers, 1 heads, 12 neurons"]
    assert "Cut out and measured on dev" in (tmp_path / "run" / "report.html").read_text()
    made = api.export(
        str(tmp_path / "run" / "student"), tmp_path / "cut", format="checkpoint", width=0.25, depth=0.5, quiet=True
    )
    cells = rows["width 0.25, depth 0.5"]["cells"]
    assert made.sides[1].scores is not None and f"{made.sides[1].scores['accuracy']:.4f}" == cells[1]
    assert f"{made.parameters / 1e6:.1f} M" == cells[2]
