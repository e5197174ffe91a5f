"""Hard-concrete gates against loops, and the student without its closed parts against the one whose gates are closed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import LABELS, tiny_config, tiny_model
from pydantic import ValidationError
from test_pruned import WITHOUT_HEADS, answers, inputs_for, labelled, proof, spread_model
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.mechanisms.gates import concrete
from tutelage.mechanisms.gates.gates import GateHook
from tutelage.mechanisms.gates.settings import Gates
from tutelage.mechanisms.gates.words import notes, section, terminal
from tutelage.methods.cofi import cofi
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Pooled
from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.run.run import run
from tutelage.students.build import build
from tutelage.students.load import load_model, model_class
from tutelage.students.sizes import Costs, Sizes
from tutelage.students.specs import Copied, Gated, parse
from tutelage.students.standard import standard
from tutelage.students.uneven import CONFIGS
from tutelage.tasks.sentence import plain_settings
from tutelage.training.optimizers import clip

LAYERS, HEADS, NEURONS, WIDTH = 4, 4, 48, 32
VALUES = [-5.0, -1.7, -1.5, 0.0, 0.4, 2.0, 6.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_gate(a: float, u: float) -> float:
    s = sigmoid((math.log(u / (1 - u)) + a) / (2 / 3))
    return min(1.0, max(0.0, s * 1.2 - 0.1))


def test_a_sample_is_the_formula_and_open_as_often_as_the_probability_says() -> None:
    a, noise = torch.tensor(VALUES)[:, None], torch.tensor([0.0, 0.01, 0.3, 0.5, 0.8, 0.999])
    found = concrete.sampled(a, noise)
    for row, value in zip(found.tolist(), VALUES, strict=True):
        assert row[1:] == pytest.approx([slow_gate(value, u) for u in noise.tolist()[1:]], abs=1e-5)
    assert found.isfinite().all()  # the logarithm of 0 is avoided
    even = (torch.arange(20_000) + 0.5) / 20_000
    share = (concrete.sampled(a, even) > 0).double().mean(1)
    torch.testing.assert_close(share, concrete.open_probability(a)[:, 0].double(), atol=1e-4, rtol=0)


def test_settled_gates_close_as_many_as_are_expected_the_lowest_first() -> None:
    rows = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)) * 4 - 1
    for row, found in zip(rows.tolist(), concrete.settled(rows).tolist(), strict=True):
        closed = round(sum(1 - sigmoid(a + 2 / 3 * math.log(0.1 / 1.1) * -1) for a in row))
        lowest = sorted(range(len(row)), key=lambda i: row[i])[:closed]
        assert found == pytest.approx(
            [0.0 if i in lowest else sigmoid(0.8 * a / (2 / 3)) for i, a in enumerate(row)], abs=1e-6
        )
        assert 0 < closed < len(row)
    half = concrete.settled(torch.full((1, 8), 9.0), torch.tensor([[0.5]]))
    assert (half == 0).sum() == 4  # a unit is closed with its block, too


def hook_of(model, share: float = 0.5, seed: int = 0, **more) -> GateHook:
    """Gates that are partly open, random but for some blocks: one closed, one without an open head."""
    hook = GateHook(Gates(), Gated(share=share, **more), model, (seed, 0))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, a in hook.gates.items():
            mean = 1.0 if name == "hidden" else -1.6 if a.ndim > 1 else 5.0
            a.copy_(torch.randn(a.shape, generator=generator) * 3 + mean)
        hook.gates["attention"][1] = hook.gates["feed_forward"][1] = -9.0  # no layer 2
        hook.gates["feed_forward"][0] = -9.0
        hook.gates["heads"][2] = -9.0
    return hook


@pytest.mark.parametrize(("of", "hidden"), [("parameters", True), ("flops", True), ("parameters", False)])
def test_the_expected_share_and_the_lagrangian_against_loops(of: str, hidden: bool) -> None:
    """A parameter or operation is there while block, unit and coordinate are open."""
    model = tiny_model()
    hook = hook_of(model, of=of, hidden=hidden)
    whole, costs = Sizes(LAYERS, HEADS, NEURONS), Costs(model, None)

    def cost(sizes: Sizes) -> int:
        return costs.of(f"target_{of}", sizes)

    head = (cost(whole) - cost(Sizes(LAYERS, HEADS - 1, NEURONS))) / LAYERS
    neuron = (cost(whole) - cost(Sizes(LAYERS, HEADS, NEURONS - 1))) / LAYERS
    # Of a head's: what multiplies a coordinate, in four matrices, and the rest, biases or the products of attention.
    at_head, at_neuron = (4 * 8, 2) if of == "parameters" else (128 * 8 * 8, 128 * 4)
    rest_of_head, rest_of_neuron = head - WIDTH * at_head, neuron - WIDTH * at_neuron
    gates = {name: a.tolist() for name, a in hook.gates.items()}

    def opened(a: float) -> float:
        return sigmoid(a - 2 / 3 * math.log(0.1 / 1.1))

    coordinates = [opened(a) for a in gates["hidden"]] if hidden else [1.0] * WIDTH
    left, at_coordinate = 0.0, 0.0
    for layer in range(LAYERS):
        for block, units, each, rest in (
            ("attention", "heads", at_head, rest_of_head),
            ("feed_forward", "neurons", at_neuron, rest_of_neuron),
        ):
            for unit in gates[units][layer]:
                both = opened(gates[block][layer]) * opened(unit)
                left += both * rest + sum(both * p * each for p in coordinates)
                at_coordinate += both * each
    total = LAYERS * (HEADS * head + NEURONS * neuron)
    share = left / total
    assert hook.expected().item() == pytest.approx(share, rel=1e-5)

    with torch.no_grad():
        hook.multipliers.copy_(torch.tensor([0.3, 2.0]))
    hook._step = 5
    target = 1 - 0.5 * 5 / (0.2 * 100)
    assert hook.target(100) == pytest.approx(target)
    hook.before_step(None, [], 100)
    apart = (1 - share) - (1 - target)
    assert hook.multipliers.grad.tolist() == pytest.approx([-apart, -(apart**2)], rel=1e-4)  # a step along it rises
    p = opened(gates["heads"][0][1])
    along = -(0.3 + 2 * 2.0 * apart) / total
    slope = along * p * (1 - p) * opened(gates["attention"][0]) * (rest_of_head + at_head * sum(coordinates))
    assert float(hook.gates["heads"].grad[0, 1]) == pytest.approx(slope, rel=1e-4)
    if hidden:
        slope = along * coordinates[3] * (1 - coordinates[3]) * at_coordinate
        assert float(hook.gates["hidden"].grad[3]) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(("family", "head"), WITHOUT_HEADS)
def test_the_cut_student_computes_what_its_gates_did(family: str, head: anatomy.Head, tmp_path: Path) -> None:
    """A layer is gone, a block is, one has no open head, and some hidden coordinates. The student is saved and loads as it was."""
    model, inputs = spread_model(family, head)
    whole, hook = answers(model, inputs), hook_of(model)
    hook._meet_target = lambda: None  # these gates, whatever they leave
    gated = answers(model, inputs)
    with torch.no_grad():
        kept = hook.values()["hidden"].nonzero()[:, 0].tolist()
    hook.finish(lambda: proof(model, inputs))
    torch.testing.assert_close(answers(model, inputs), gated, atol=1e-5, rtol=1e-5)
    assert (gated - whole).abs().max() > 1e-2  # the gates do something
    plain = model.encoder if head == "vectors" else model
    assert plain.config.model_type == f"uneven_{family}"
    assert [bool(n) for n in plain.config.kept_heads] == [True, False, True]
    assert [bool(n) for n in plain.config.kept_neurons] == [False, True, True]
    assert len(set(plain.config.kept_neurons)) == 3
    shape = anatomy.shape_of(plain.config)
    assert (
        shape.coordinates == tuple(kept) and shape.hidden == len(kept) and shape.hidden % HEADS and shape.hidden < WIDTH
    )
    with torch.no_grad():
        assert anatomy.base_of(model)(**inputs).last_hidden_state.shape[-1] == shape.hidden
    model.save_pretrained(tmp_path)
    again, new = load_model(str(tmp_path), head)
    found = answers(again, inputs)
    if head == "vectors":  # saved at its own width
        found = torch.zeros_like(gated).index_copy_(1, torch.tensor(kept), found)
    assert not new
    torch.testing.assert_close(found, answers(model, inputs), atol=1e-6 if head == "vectors" else 0, rtol=0)


@pytest.mark.parametrize("settings", [{"width": 24, "dense": True}, {"width": WIDTH}])
def test_vectors_of_a_narrower_encoder_stay_in_the_teachers_space(settings: dict) -> None:
    """Its linear map reads fewer coordinates; without one, a map that learns begins with the kept ones in their places."""
    config = tiny_config("bert", sentence=plain_settings() | settings)
    model, inputs = model_class("vectors").from_config(config, dtype=torch.float32).eval(), inputs_for()
    inputs.pop("token_type_ids")
    hook = hook_of(model)
    gated = answers(model, inputs)
    hook._meet_target = lambda: None
    hook.finish(lambda: proof(model, inputs))
    torch.testing.assert_close(answers(model, inputs), gated, atol=1e-5, rtol=1e-5)
    assert model.dense.in_features == anatomy.hidden_of(model.config) < WIDTH
    assert model.dense.out_features == settings["width"] and model.dense.weight.requires_grad


def test_without_gates_at_hidden_coordinates_the_width_stays() -> None:
    model, inputs = spread_model("bert", "classes")
    hook = hook_of(model, hidden=False)
    hook._meet_target = lambda: None
    gated = answers(model, inputs)
    hook.finish(lambda: proof(model, inputs))
    torch.testing.assert_close(answers(model, inputs), gated, atol=1e-5, rtol=1e-5)
    assert "hidden" not in hook.gates and model.config.kept_coordinates is None
    assert anatomy.shape_of(model.config).hidden == WIDTH


def test_closed_coordinates_are_zero_and_count_in_no_norm() -> None:
    """Against a loop over the open ones, at random gates: the sum of the embeddings, a layer's output, gradients."""
    model, inputs = spread_model("bert", "classes")
    hook, seen = hook_of(model), {}
    norm, embedded = model.bert.encoder.layer[0].attention.output.LayerNorm, model.bert.embeddings.LayerNorm
    for name, module in (("first", norm), ("sum", embedded)):
        module.register_forward_hook(lambda m, args, output, name=name: seen.update({name: (args[0], output)}))
    model(**inputs).logits.sum().backward()
    gates = hook.values()["hidden"].detach()
    is_open = gates.nonzero()[:, 0]
    assert 0 < len(is_open) < WIDTH
    for name, module in (("first", norm), ("sum", embedded)):
        read, given = seen[name]
        assert not read[..., gates == 0].any() and not given[..., gates == 0].any()
        for row, output in zip(read.flatten(0, 1).detach().double(), given.flatten(0, 1).detach(), strict=True):
            mean = sum(float(row[k]) for k in is_open) / len(is_open)
            variance = sum((float(row[k]) - mean) ** 2 for k in is_open) / len(is_open)
            for k in is_open[:3]:
                normal = (float(row[k]) - mean) / math.sqrt(variance + module.eps)
                wanted = (normal * module.weight[k].item() + module.bias[k].item()) * float(gates[k])
                assert float(output[k]) == pytest.approx(wanted, abs=1e-4)
    gradient = hook.gates["hidden"].grad
    assert gradient[(gates > 0) & (gates < 1)].abs().min() > 0 and not gradient[gates == 0].any()


def test_a_skipped_block_passes_its_input_on_and_random_gates_follow_from_the_step() -> None:
    model, inputs = tiny_model(), inputs_for()
    hook = hook_of(model)
    seen = model(**inputs, output_hidden_states=True).hidden_states
    assert torch.equal(seen[1], seen[2]) and not torch.equal(seen[0], seen[1])
    random = [model(**inputs).logits for _ in range(2)]
    assert torch.equal(*random)  # one draw a step, whatever the pieces
    other = GateHook(Gates(), Gated(), tiny_model(), (0, 0))
    other.restore({**hook.state(), "step": torch.tensor(0)})
    assert all(torch.equal(a, b) for a, b in zip(hook.values().values(), other.values().values(), strict=True))
    hook.after_step(None, 1, 9)
    assert not torch.equal(model(**inputs).logits, random[0])
    other.restore(hook.state())
    assert all(torch.equal(a, b) for a, b in zip(hook.values().values(), other.values().values(), strict=True))
    with torch.no_grad():
        assert not torch.equal(model(**inputs).logits, random[0])


def test_the_lagrangian_draws_the_student_to_its_share_at_a_rate_of_its_own() -> None:
    model, inputs = tiny_model(), inputs_for()
    records: list[dict] = []
    hook = GateHook(Gates(rate=0.1), Gated(share=0.4), model, (0, 0), records.append)
    groups = hook.parameter_groups(model, 0.01)
    assert {id(p) for p in groups[-1]["params"]} == {id(p) for p in [*hook.gates.values(), hook.multipliers]}
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    stage = Stage(name="gates", objective=[HardLabels()], clip=1e-9)
    for group in optimizer.param_groups:
        group["lr"] = group.get("rate", 1e-4)
    labels = torch.tensor([0, 1, 1])
    for step in range(1, 301):
        if step == 1:  # later steps have the Lagrangian alone
            torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
        hook.before_step(optimizer, [], 300)
        gradients = [a.grad.clone() for a in hook.gates.values()]
        clip(stage, optimizer)
        assert all(torch.equal(a.grad, g) for a, g in zip(hook.gates.values(), gradients, strict=True))
        assert all(p.grad is None or p.grad.abs().max() < 1e-8 for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        hook.after_step(optimizer, step, 300)
    assert hook.shown() == {"share": pytest.approx(0.4, abs=0.02), "target": pytest.approx(0.4)}
    hook.finish(lambda: proof(model, inputs))
    (record,) = records
    assert record["expected"] == hook.shown()["share"] and record["difference"] < 1e-4
    assert record["reached"] == pytest.approx(0.4, abs=0.02)  # a neuron is 0.002, a coordinate 0.013, a head 0.036
    assert record["hidden"] == anatomy.shape_of(model.config).hidden < record["of_hidden"] == WIDTH
    outside = ("LayerNorm", "output.dense.bias")  # norms, and biases that are as wide as hidden states
    parameters = sum(
        p.numel() for name, p in model.bert.encoder.named_parameters() if not any(part in name for part in outside)
    )
    assert record["reached"] == pytest.approx(parameters / (4 * (4 * 8 * 131 + 48 * 65)))
    lines = terminal("prune", record)
    told = f"{record['reached']:.1%} of the parameters of heads and neurons are left (target 40.0%), in 4 of 4 layers"
    assert lines[0] == f"stage prune: {told}"
    assert lines[1].split()[3:] == [str(len(layer["heads"])) for layer in record["layers"]]
    assert [row.cells[0] for row in section(record).table.rows] == [f"{len(x['heads'])} of 4" for x in record["layers"]]
    # A student that misses, or that computes something else, is not passed over in silence.
    larger = ["larger gates.rate" in notes({**record, "expected": share})[0] for share in (0.5, 0.3)]
    assert larger == [True, False]  # a larger rate closes more
    for change in ({"reached": 0.5}, {"expected": 0.3}, {"expected": 0.5}, {"difference": 1.0}):
        assert len(terminal("prune", {**record, **change})) == len(lines) + 1


def test_what_gates_cannot_do_is_refused_in_one_line(teacher_folder: Path, tmp_path: Path) -> None:
    for family, why in (("gpt2", "one matrix"), ("mpnet", "a column for each head"), ("modernbert", "gated")):
        with pytest.raises(
            TutelageError, match=f"heads and neurons of a {family} cannot be removed.*{why}.*use one of"
        ):
            build(Gated(), tiny_model(family), labelled(*LABELS), 0)
    with pytest.raises(TutelageError, match="takes its weights from a teacher; give teacher"):
        build(Gated(), None, labelled(*LABELS), 0)
    for share in (0.0, 1.0, 1.5):
        with pytest.raises(TutelageError, match="share"):
            parse(f"share={share}", cofi().student)
    assert parse("share=0.3,of=flops", cofi().student) == Gated(share=0.3, of="flops")
    assert parse("hidden=false", cofi().student) == Gated(hidden=False)
    prune = cofi().stages[0]
    for change, message in (
        ({"select": "best"}, "set select=last"),
        ({"patience": 2}, "without patience"),
    ):
        with pytest.raises(ValidationError, match=message):
            Stage(**{**dict(prune), **change})
    with pytest.raises(ValidationError, match="needs the mechanism gates in its first stage"):
        Recipe(**{**dict(cofi()), "stages": [cofi().stages[1]]})
    with pytest.raises(ValidationError, match=r"student share=0\.5"):
        Recipe(**{**dict(cofi()), "student": Copied()})
    short = cofi().model_copy(update={"stages": [prune.model_copy(update={"epochs": 2})]})
    data = DataConfig(train=str(teacher_folder / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    config = RunConfig(recipe=short, data=data, teacher=str(teacher_folder / "teacher"), out=str(tmp_path / "run"))
    small = config.model_copy(update={"recipe": short.model_copy(update={"student": Gated(share=0.05)})})
    with pytest.raises(TutelageError, match=r"share=0\.05 is too small.*baseline"):
        run(small, quiet=True)
    with pytest.raises(TutelageError, match=r"has 24 steps, and gates with rate=0\.01 take at least 500") as caught:
        run(config, quiet=True)
    tiny = short.model_copy(update={"student": Gated(share=1e-4)})
    with pytest.raises(TutelageError, match=r"share=0\.0001 is less than one head and one neuron.*use at least 0\.039"):
        run(config.model_copy(update={"recipe": tiny}), quiet=True)
    for term, spec, message in (
        (AttentionScores(), Gated(), "stage 'finetune' compares the attention of a student whose layers lose heads"),
        (Pooled(), Gated(), "stage 'finetune' compares the pooled output.*use student hidden=false"),
        (Pooled(), Gated(hidden=False), "has 24 steps"),
    ):
        stages = [short.stages[0], cofi().stages[1].model_copy(update={"objective": [term]})]
        later = short.model_copy(update={"student": spec, "stages": stages})
        with pytest.raises(TutelageError, match=message):
            run(config.model_copy(update={"recipe": later}), quiet=True)
    rate = float(str(caught.value).rpartition("=")[2])
    assert Gates(rate=rate).steps() <= 24 and not (tmp_path / "run").exists()


def test_layers_of_an_uneven_model_can_be_copied() -> None:
    """Each keeps its own number of heads and neurons: such a model teaches, too."""
    sizes = {"kept_heads": [4, 2, 0, 1], "kept_neurons": [8, 0, 16, 4], "kept_coordinates": [0, 3, 4, 8, 30]}
    plain = {name: value for name, value in tiny_config("bert").to_dict().items() if name != "model_type"}
    config = CONFIGS["bert"](**plain, **sizes)
    teacher = model_class("classes").from_config(config, dtype=torch.float32).eval()
    student = build(Copied(layers=[1, 3]), teacher, labelled(*LABELS), 0)
    assert (student.config.kept_heads, student.config.kept_neurons) == ([4, 0], [8, 16])
    assert anatomy.shape_of(student.config).hidden == 5
    assert answers(student, inputs_for()).isfinite().all()


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_an_uneven_model_with_all_blocks_is_an_ordinary_one_with_zeros(family: str) -> None:
    def of(heads: list[int], neurons: list[int]) -> PreTrainedModel:
        values = tiny_config(family).to_dict() | {"kept_heads": heads, "kept_neurons": neurons}
        values.pop("model_type")
        model = model_class("classes").from_config(CONFIGS[family](**values), dtype=torch.float32).eval()
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) * 0.1
        return model

    inputs = inputs_for()
    if family == "distilbert":
        inputs.pop("token_type_ids")
    model = of([4, 2, 3, 1], [8, 12, 16, 4])
    plain = standard(model)
    assert (plain.config.model_type, anatomy.shape_of(plain.config).intermediate) == (family, 16)
    torch.testing.assert_close(answers(plain, inputs), answers(model, inputs), atol=1e-5, rtol=1e-5)
    model.config.kept_coordinates = [*range(20)]
    with pytest.raises(TutelageError, match="have 20 of 32 coordinates"):
        standard(model)
    with pytest.raises(
        TutelageError, match=f"layer 2 of this uneven_{family} has no feed-forward block, and each layer of"
    ):
        standard(of([4, 2, 0, 1], [8, 0, 16, 4]))
