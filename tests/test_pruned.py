"""The pruned student against the full model with the same parts masked, and importance against loops over parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ALIKE, ALL_FAMILIES, LABELS, tiny_config, tiny_model
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy.families import FAMILIES
from tutelage.data.batches import Batch, Totals
from tutelage.errors import TutelageError
from tutelage.evaluation.speed import count_parameters, flops
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Tap
from tutelage.methods.minimum_knowledge import ROSITA6
from tutelage.students.build import build
from tutelage.students.copied import copy_layers
from tutelage.students.importance import importance
from tutelage.students.load import load_model, model_class
from tutelage.students.pruned import CONFIGS, check_prunable, prune
from tutelage.students.reconstruction import removal_order
from tutelage.students.sizes import Costs, Sizes, sizes_of
from tutelage.students.specs import Copied, Fresh, Pruned, Student, parse
from tutelage.students.standard import standard
from tutelage.students.tuning import RIDGE, tune, with_ones
from tutelage.tasks import KINDS

LAYERS, HEADS, SIZE, NEURONS = 4, 4, 8, 48
ROSITA_TINY = {"layers": 2, "intermediate": 16, "rank": 8}
SMALL = Pruned(layers=3, heads=2, intermediate=20, rank=8)


def labelled(*names: str) -> dict:
    numbers = {name: i for i, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": numbers}


def some_scores(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(HEADS, generator=generator), torch.rand(NEURONS, generator=generator)) for _ in range(LAYERS)]


def pruned(spec: Pruned = SMALL, seed: int = 0) -> PreTrainedModel:
    return prune(tiny_model(), spec, some_scores(seed), labelled(*LABELS))


def inputs_for(seed: int = 0, examples: int = 3) -> dict[str, Tensor]:
    ids = torch.randint(5, 45, (examples, 9), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < torch.tensor([9, 6, 3, 5])[:examples, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": (torch.arange(9) > 3).long() * mask}


# ------------------------------------------------------------------------------------------------------- the student


def test_the_student_computes_what_the_masked_teacher_does() -> None:
    """Heads and neurons differ from layer to layer, and a kept weight that is exactly zero is kept all the same."""
    teacher, scores = tiny_model(), some_scores()
    kept = [
        (sorted(range(HEADS), key=lambda i: -heads[i])[:2], sorted(range(NEURONS), key=lambda i: -neurons[i])[:20])
        for heads, neurons in scores
    ]
    assert len({tuple(sorted(heads)) for heads, _ in kept[:3]}) > 1
    with torch.no_grad():
        first = teacher.bert.encoder.layer[0]
        head, neuron = kept[0][0][0], kept[0][1][0]
        first.attention.self.query.weight[head * SIZE] = 0
        first.attention.self.query.bias[head * SIZE] = 0
        first.intermediate.dense.weight[neuron] = 0
        first.intermediate.dense.bias[neuron] = 0

    student = prune(teacher, SMALL.model_copy(update={"rank": None}), scores, labelled(*LABELS))

    masked = copy_layers(teacher, Copied(layers=3, choose="first"), {})
    for layer, (heads, neurons) in zip(masked.bert.encoder.layer, kept, strict=False):
        of_heads, of_neurons = torch.zeros(HEADS, SIZE), torch.zeros(NEURONS)
        of_heads[heads], of_neurons[neurons] = 1, 1
        for part, mask in ((layer.attention.output.dense, of_heads.flatten()), (layer.output.dense, of_neurons)):
            part.register_forward_pre_hook(lambda module, args, mask=mask: (args[0] * mask,))
    inputs = inputs_for()
    with torch.no_grad():
        theirs = masked(**inputs, output_hidden_states=True)
        ours = student(**inputs, output_hidden_states=True)
        whole = copy_layers(teacher, Copied(layers=3, choose="first"), {})(**inputs)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-6, rtol=1e-6)
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-6)
    assert (theirs.logits - whole.logits).abs().max() > 1e-2  # the masks do something


CUT = [name for name in ALL_FAMILIES if FAMILIES[name].neurons_fixed is None]
OTHER_HEADS = [(family, head) for family in ("bert", "roberta") for head in ("tokens", "spans", "vectors")]
WITHOUT_HEADS = [
    *(pytest.param(name, "classes", marks=[pytest.mark.slow] if name in ALIKE else []) for name in CONFIGS),
    *OTHER_HEADS[:3],
]
"""The families of which heads can be removed, and one with other outputs."""


def spread_model(family: str, head: anatomy.Head) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A model all of whose parts matter, norms and biases too, and what it reads."""
    torch.manual_seed(0)
    model = model_class(head).from_config(tiny_config(family), dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    inputs = inputs_for()
    if head == "vectors" or not anatomy.has_token_types(model.config):
        inputs.pop("token_type_ids")
    return model, inputs


def proof(model: PreTrainedModel, inputs: dict[str, Tensor]) -> SimpleNamespace:
    """The batch that hooks get at the end of a stage."""
    return SimpleNamespace(inputs=inputs, predicted=predicted(model, inputs))


def predicted(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor | None:
    several = anatomy.head_of(model) in ("tokens", "spans")
    return inputs["attention_mask"].flatten().nonzero()[:, 0] if several else None


@pytest.mark.parametrize(("family", "head"), [*((name, "classes") for name in CUT), *OTHER_HEADS])
def test_a_cut_model_is_the_masked_one(family: str, head: anatomy.Head, tmp_path: Path) -> None:
    """In every family and with every head; it is an ordinary model unless heads are cut, and loads as it was saved."""
    (teacher, inputs), table, scores = spread_model(family, head), FAMILIES[family], some_scores()
    for count in {HEADS, HEADS if table.heads_fixed else 2}:
        spec = Pruned(layers=3, heads=None if count == HEADS else count, intermediate=20)
        masked = copy_layers(teacher, Copied(layers=3, choose="first"), {})
        for layer, (heads, neurons) in zip(anatomy.layers_of(masked), scores, strict=False):
            for path, values, kept, size in (
                (table.attention_output, heads, count, SIZE),
                (table.ffn_down, neurons, 20, 1),
            ):
                mask = torch.zeros(len(values), size)
                mask[sorted(range(len(values)), key=lambda i: -values[i])[:kept]] = 1
                times(layer.get_submodule(path), mask.flatten())
        student = prune(teacher, spec, scores, {})
        with torch.no_grad():
            ours, theirs, whole = (answers(model, inputs) for model in (student, masked, teacher))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert (theirs - whole).abs().max() > 1e-3  # the masks do something
        plain = student.encoder if head == "vectors" else student
        assert (plain.config.model_type == family) == (count == HEADS)
        student.save_pretrained(tmp_path / str(count))
        again, new = load_model(str(tmp_path / str(count)), head)
        assert not new and torch.equal(answers(again, inputs), answers(student, inputs))


def times(module: nn.Module, mask: Tensor) -> RemovableHandle:
    """Multiply a module's input."""
    return module.register_forward_pre_hook(lambda module, args: (args[0] * mask,))


@torch.no_grad()
def answers(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    return anatomy.answers_of(model, inputs, predicted(model, inputs))


def test_keeping_everything_keeps_the_teacher() -> None:
    teacher = tiny_model()
    student = prune(teacher, Pruned(target_parameters=1.0), some_scores(), {})
    torch.testing.assert_close(student(**inputs_for()).logits, teacher(**inputs_for()).logits, rtol=0, atol=0)


def test_the_table_is_the_best_of_its_rank() -> None:
    words = tiny_model().bert.embeddings.word_embeddings.weight.detach()
    exact = pruned(SMALL.model_copy(update={"rank": None}))
    full, low = pruned(SMALL.model_copy(update={"rank": 32})), pruned()
    torch.testing.assert_close(full(**inputs_for()).logits, exact(**inputs_for()).logits, atol=1e-4, rtol=0)
    with torch.no_grad():
        table = low.bert.embeddings.word_embeddings(torch.arange(45))
    assert low.get_input_embeddings().weight.shape == (45, 8)
    left = torch.linalg.svdvals(words.double())[8:].square().sum().sqrt()  # Eckart and Young
    assert float((table - words).norm()) == pytest.approx(float(left), rel=1e-5)


def test_rosita6_has_14465282_parameters() -> None:
    with torch.device("meta"):
        sizes = {"num_hidden_layers": 6, "kept_heads": 2, "intermediate_size": 768, "embedding_rank": 128}
        student = AutoModelForSequenceClassification.from_config(CONFIGS["bert"](**sizes))
        teacher = AutoModelForSequenceClassification.from_config(BertConfig())
    embeddings = sum(parameter.numel() for parameter in student.bert.embeddings.parameters())
    assert (count_parameters(student), embeddings) == (14_465_282, 4_401_408)
    assert Costs(teacher, 128).parameters(check_prunable(ROSITA6, teacher)) == 14_465_282


PLAIN = [*((name, "classes") for name in CUT if f"pruned_{name}" in FAMILIES), *OTHER_HEADS[:3]]


@pytest.mark.parametrize(("family", "head"), PLAIN)
def test_zeros_and_a_product_make_an_ordinary_model(family: str, head: anatomy.Head, tmp_path: Path) -> None:
    """Which computes the same, and which transformers loads without this package."""
    teacher = model_class(head).from_config(tiny_config(family), dtype=torch.float32).eval()
    for parameter in teacher.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    inputs = inputs_for()
    if head == "vectors" or not anatomy.has_token_types(teacher.config):
        inputs.pop("token_type_ids")
    for heads, rank in ((2, None), (4, 8), (2, 8)):
        student = prune(teacher, SMALL.model_copy(update={"heads": heads, "rank": rank}), some_scores(), {})
        plain = standard(student)
        assert student.config.model_type == f"pruned_{family}" and plain.config.model_type == family
        torch.testing.assert_close(answers(plain, inputs), answers(student, inputs), atol=1e-5, rtol=1e-5)
    plain.save_pretrained(tmp_path)
    assert set(plain.config.to_dict()).isdisjoint({"kept_heads", "embedding_rank"})
    again, new = load_model(str(tmp_path), head)
    assert not new and type(again.encoder if head == "vectors" else again).__module__.startswith("transformers.")
    assert torch.equal(answers(again, inputs), answers(plain, inputs))


@pytest.mark.parametrize("rank", [8, None])
def test_a_saved_student_is_the_same_to_the_bit(rank: int | None, tmp_path: Path) -> None:
    student = pruned(SMALL.model_copy(update={"rank": rank}))
    student.save_pretrained(tmp_path)
    for again in (AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(), load_model(str(tmp_path))[0]):
        assert type(again).__name__ == "PrunedBertForSequenceClassification"
        assert list(again.state_dict()) == list(student.state_dict())
        assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in student.state_dict().items())
        assert torch.equal(again(**inputs_for()).logits, student(**inputs_for()).logits)
        assert again.config.id2label == dict(enumerate(LABELS))
        assert again.get_input_embeddings().padding_idx == 0
    assert load_model(str(tmp_path))[1] == []
    assert anatomy.shape_of(again.config) == anatomy.Shape("pruned_bert", 3, 32, 2, 20, 45)
    other, made_up = load_model(str(tmp_path), **labelled("a", "b", "c"))
    assert other(**inputs_for()).logits.shape == (3, 3) and not [name for name in made_up if "bert" in name]


def test_signals_are_read_as_from_any_family() -> None:
    """Hidden states are the model's own, softmax(Q K^T) is what eager attention returns, padding is not attended to."""
    student, inputs = pruned(), inputs_for()
    with torch.no_grad():
        own = student(**inputs, output_hidden_states=True)
        tap = Tap(student, Needs(logits=True, hidden=frozenset(range(4)), attention=frozenset({1, 2, 3})))
        signals = tap(inputs)
        other = {**inputs, "input_ids": torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 9)}
        torch.testing.assert_close(tap(other).logits, signals.logits, atol=1e-5, rtol=1e-4)
        tap.close()
        student.set_attn_implementation("eager")
        maps = student(**inputs, output_attentions=True).attentions
    torch.testing.assert_close(signals.logits, own.logits, rtol=0, atol=0)
    mask = inputs["attention_mask"].bool()[:, None]
    for layer in range(4):
        torch.testing.assert_close(signals.hidden[layer], own.hidden_states[layer], rtol=0, atol=0)
    for layer in range(1, 4):
        assert signals.queries[layer].shape == (3, 2, 9, SIZE)
        scores = signals.queries[layer] @ signals.keys[layer].mT * signals.scaling
        ours = scores.masked_fill(~mask[:, :, None], float("-inf")).softmax(-1)
        torch.testing.assert_close(ours * mask[..., None], maps[layer - 1] * mask[..., None], atol=2e-6, rtol=1e-4)


def test_layers_of_a_pruned_model_can_be_copied() -> None:
    source = pruned()
    copied = copy_layers(source, Copied(layers=2, choose="first"), {})
    with torch.no_grad():
        ours, theirs = (model(**inputs_for(), output_hidden_states=True).hidden_states for model in (copied, source))
    torch.testing.assert_close(ours[2], theirs[2], rtol=0, atol=0)


# -------------------------------------------------------------------------------------------------------- importance

TINY = {"layers": 2, "hidden": 8, "heads": 2, "intermediate": 6}


def batch_of(inputs: dict[str, Tensor], labels: Tensor) -> Batch:
    nothing = torch.zeros(len(labels), dtype=torch.long)
    return Batch(nothing, nothing, inputs, torch.zeros_like(inputs["input_ids"]), labels, None, Totals(0, 0, 0, 0, 0))


def batches_of(kind: str) -> list[Batch]:
    labels = {
        "classification": torch.tensor([0, 1, 1, 0, 1, -1, 0]),
        "regression": torch.tensor([0.5, -1.0, 2.0, 0.0, float("nan"), 1.5, 3.0]),
        "multilabel": torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1], [1, 0]]).float(),
    }[kind]
    return [batch_of(inputs_for(seed, len(part)), part) for seed, part in enumerate(labels.split([4, 3]))]


def slow_loss(kind: str, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Over the examples whose labels are known."""
    known = labels >= 0 if kind == "classification" else ~labels.isnan().reshape(len(labels), -1).any(1)
    logits, labels = logits[known], labels[known]
    if kind == "classification":
        return F.cross_entropy(logits, labels, reduction=reduction)
    if kind == "regression":
        return F.mse_loss(logits[:, 0], labels.to(logits.dtype), reduction=reduction)
    loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction=reduction)
    return loss / (1 if reduction == "mean" else labels.shape[1])


def slow_importance(model, kind: str) -> list[tuple[list[float], list[float]]]:
    """From the text: accumulate |gradient| of the batch-mean loss per parameter; score = | accumulated |g| * w |."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    model.train()
    for batch in batches_of(kind):
        loss = slow_loss(kind, model(**batch.inputs).logits, batch.labels)
        loss.backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad.abs()
        model.zero_grad()
    model.eval().requires_grad_(False)

    def score(name: str, row: int, column: int) -> float:
        return abs(float(sums[name][row, column]) * float(model.get_parameter(name)[row, column]))

    result = []
    for index in range(2):
        layer = f"bert.encoder.layer.{index}."
        heads, neurons = [0.0, 0.0], [0.0] * 6
        for head in range(2):
            for column in range(head * 4, head * 4 + 4):
                for row in range(8):
                    heads[head] += score(layer + "attention.output.dense.weight", row, column)
        for neuron in range(6):
            for i in range(8):
                neurons[neuron] += score(layer + "intermediate.dense.weight", neuron, i)
                neurons[neuron] += score(layer + "output.dense.weight", i, neuron)
        result.append((heads, neurons))
    return result


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel"])
def test_importance_is_what_loops_over_parameters_give(kind: str) -> None:
    model = tiny_model(**TINY, num_labels=1) if kind == "regression" else tiny_model(**TINY)
    torch.manual_seed(5)
    ours = importance(model, batches_of(kind), KINDS[kind], "taylor")
    torch.manual_seed(5)
    theirs = slow_importance(model, kind)
    assert len(ours) == 2
    for (heads, neurons), (slow_heads, slow_neurons) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(heads, torch.tensor(slow_heads), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(neurons, torch.tensor(slow_neurons), rtol=1e-4, atol=1e-7)
    torch.manual_seed(6)
    assert not torch.equal(
        importance(model, batches_of(kind), KINDS[kind], "taylor")[0][1], ours[0][1]
    )  # dropout is active


def test_first_order_importance_is_the_slope_of_the_loss_of_each_batch() -> None:
    """By central differences in float64: of a head's output; of a neuron's input, and of its output."""
    kind, model = "classification", tiny_model(**TINY).double()
    ours = importance(model, batches_of(kind), KINDS[kind], "first_order")
    table = FAMILIES["bert"]

    def slope(place: nn.Module, size: int, unit: slice, before: bool) -> float:
        """The slope of the loss over a factor, absolute, summed over batches."""
        total = 0.0
        for batch in batches_of(kind):
            losses = []
            for factor in (1 + 1e-4, 1 - 1e-4):
                mask = torch.ones(size).double()
                mask[unit] = factor
                after = place.register_forward_hook(lambda module, args, output, mask=mask: output * mask)
                hook = times(place, mask) if before else after
                if before:
                    after.remove()
                with torch.no_grad():
                    losses.append(float(slow_loss(kind, model(**batch.inputs).logits, batch.labels)))
                hook.remove()
            total += abs(losses[0] - losses[1]) / 2e-4
        return total

    for layer, (heads, neurons) in zip(anatomy.layers_of(model), ours, strict=True):
        output, up, down = (
            layer.get_submodule(path) for path in (table.attention_output, table.ffn_up, table.ffn_down)
        )
        found = [slope(output, 8, slice(4 * head, 4 * head + 4), True) for head in range(2)]
        assert heads.tolist() == pytest.approx(found, rel=1e-4, abs=1e-9)
        for neuron in range(6):
            both = slope(up, 6, slice(neuron, neuron + 1), False) + slope(down, 6, slice(neuron, neuron + 1), True)
            assert float(neurons[neuron]) == pytest.approx(both, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel"])
def test_fisher_importance_is_the_squared_slope_of_each_mask(kind: str) -> None:
    """One example and one mask at a time, by central differences in float64."""
    model = tiny_model(**TINY, num_labels=1) if kind == "regression" else tiny_model(**TINY)
    model.double()
    ours = importance(model, batches_of(kind), KINDS[kind], "fisher")
    table = FAMILIES["bert"]
    for index, layer in enumerate(anatomy.layers_of(model)):
        for place, (path, units) in enumerate(((table.attention_output, 2), (table.ffn_down, 6))):
            for unit in range(units):
                total = 0.0
                for batch in batches_of(kind):
                    for row in range(len(batch.labels)):
                        one = batch_of(
                            {k: v[row : row + 1] for k, v in batch.inputs.items()}, batch.labels[row : row + 1]
                        )
                        losses = []
                        for factor in (1 + 1e-4, 1 - 1e-4):
                            mask = torch.ones(units, 8 // units if place == 0 else 1).double()
                            mask[unit] = factor
                            hook = times(layer.get_submodule(path), mask.flatten())
                            with torch.no_grad():
                                losses.append(float(slow_loss(kind, model(**one.inputs).logits, one.labels, "sum")))
                            hook.remove()
                        total += ((losses[0] - losses[1]) / 2e-4) ** 2
                assert float(ours[index][place][unit]) == pytest.approx(total, rel=1e-4, abs=1e-9)


def test_vectors_are_ranked_without_labels() -> None:
    """By the squares of the Jacobian: their expectation over the random numbers is the sum over outputs."""
    encoder = model_class("vectors").from_config(tiny_config("bert", **TINY), dtype=torch.float32).eval()
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    inputs = {name: value for name, value in inputs_for().items() if name != "token_type_ids"}
    scores = importance(encoder, [batch_of(inputs, torch.zeros(3))] * 200, KINDS["embedding"], "fisher")
    place = anatomy.layers_of(encoder)[1].output.dense

    def vectors(mask: Tensor) -> Tensor:
        hook = times(place, mask)
        try:
            return encoder(**inputs)
        finally:
            hook.remove()

    jacobian = torch.autograd.functional.jacobian(vectors, torch.ones(6))  # (texts, width, 6)
    total = jacobian.square().sum(dim=(0, 1))
    torch.testing.assert_close(scores[1][1].float() / 200, total, rtol=0.3, atol=1e-6)


@pytest.mark.parametrize("units", [6, 3])
def test_the_unit_that_goes_next_costs_least_after_refitting(units: int) -> None:
    """Against a fit of what is left for each candidate, by the same quadratic form."""
    draw = torch.Generator().manual_seed(units)
    h = torch.randn(40, 6, generator=draw, dtype=torch.float64) @ torch.randn(6, 6, generator=draw, dtype=torch.float64)
    products = with_ones(h).T @ with_ones(h)
    weights = torch.randn(7, 4, generator=draw, dtype=torch.float64)
    form = products + RIDGE * products.diagonal().mean() * torch.eye(7, dtype=torch.float64)

    def error(left: list[int]) -> float:
        rows = [unit * (6 // units) + part for unit in left for part in range(6 // units)] + [6]
        refitted = torch.zeros_like(weights)
        refitted[rows] = torch.linalg.solve(form[rows][:, rows], (form @ weights)[rows])
        change = refitted - weights
        return float((change * (form @ change)).sum())

    order, left = [0.0] * units, list(range(units))
    for number in range(units):
        gone = min(left, key=lambda unit: error([other for other in left if other != unit]))
        order[gone] = float(number)
        left.remove(gone)
    assert removal_order(products, weights, units).tolist() == order


def test_of_many_neurons_some_go_at_once() -> None:
    """A 64th of what is left, the cheapest; then everything is computed anew."""
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(300, 200, generator=draw, dtype=torch.float64)
    weights = torch.randn(201, 3, generator=draw, dtype=torch.float64)
    products = with_ones(h).T @ with_ones(h)
    form = products + RIDGE * products.diagonal().mean() * torch.eye(201, dtype=torch.float64)
    order, left = torch.zeros(200), list(range(200))
    while left:
        rows = [*left, 200]
        refitted = torch.linalg.solve(form[rows][:, rows], (form @ weights)[rows])[:-1]
        costs = refitted.square().sum(1) / torch.linalg.inv(form[rows][:, rows]).diagonal()[:-1]
        for place in costs.argsort()[: max(1, len(left) // 64)].tolist():
            order[left[place]] = 200 - len([unit for unit in left if unit is not None])
            left[place] = None
        left = [unit for unit in left if unit is not None]
    assert removal_order(products, weights, 200).tolist() == order.tolist()


def test_what_others_can_replace_is_removed_first() -> None:
    """A neuron that does nothing, and one of two that do the same; the fit then loses nothing."""
    model = tiny_model(**TINY)
    for layer in anatomy.layers_of(model):
        up, down = layer.intermediate.dense, layer.output.dense
        with torch.no_grad():
            up.weight[4], up.bias[4] = up.weight[1], up.bias[1]
            down.weight[:, 2] = 0
    texts = [batch_of(inputs_for(seed, 4), torch.zeros(4)) for seed in range(12)]
    scores = importance(model, texts, KINDS["classification"])
    for _, neurons in scores:
        assert set(neurons.argsort()[:2].tolist()) in ({2, 1}, {2, 4})
    student = prune(model, Pruned(intermediate=4), scores, labelled(*LABELS))
    tune(student, model, [batch.inputs for batch in texts], ridge=1e-12)
    torch.testing.assert_close(student(**inputs_for(9)).logits, model(**inputs_for(9)).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["reconstruction", "fisher", "taylor", "first_order"])
def test_importance_leaves_the_model_as_it_was(how: str) -> None:
    model = tiny_model(**TINY)
    model.bert.embeddings.requires_grad_(False)
    model.bert.pooler.train()

    def state() -> list:
        flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
        return [*flags, *(module.training for module in model.modules())]

    before, weights = state(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = importance(model, batches_of("classification"), KINDS["classification"], how)
    assert not any(tensor.requires_grad for pair in scores for tensor in pair)
    with pytest.raises(IndexError):
        importance(
            model, [batch_of({"input_ids": torch.tensor([[99]])}, torch.tensor([0]))], KINDS["classification"], how
        )
    assert state() == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("how", ["fisher", "taylor", "first_order"])
def test_importance_without_examples_is_refused(how: str) -> None:
    with pytest.raises(
        TutelageError, match=f"importance={how} ranks .* by labelled training examples, and there are none"
    ):
        importance(tiny_model(**TINY), [], KINDS["classification"], how)


# ------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("family", CUT)
@pytest.mark.parametrize(
    "target",
    [
        {"target_parameters": 0.8},
        {"target_parameters": 0.7, "layers": 3},
        {"target_flops": 4e6},
        {"target_flops": 0.3},
        {"target_flops": 0.3, "intermediate": 48},
    ],
)
def test_targets_are_met(family: str, target: dict) -> None:
    """By the network itself, and as closely as 8 neurons allow."""
    teacher, spec = tiny_model(family), Pruned(**target, heads=HEADS)
    name, wanted = next((name, value) for name, value in target.items() if name.startswith("target"))
    sizes, costs = sizes_of(spec, teacher), Costs(teacher, None)
    student = prune(teacher, spec, some_scores(), {})
    assert count_parameters(student) == costs.parameters(sizes)
    assert anatomy.shape_of(student.config).intermediate == sizes.intermediate
    assert student.config.model_type == family and sizes.heads == HEADS
    whole = Sizes(LAYERS, HEADS, NEURONS)
    limit = wanted * costs.of(name, whole) if wanted <= 1 else wanted
    assert costs.of(name, sizes) <= limit
    if "intermediate" in target:
        larger = Sizes(sizes.layers + 1, HEADS, NEURONS)
    elif sizes.intermediate < NEURONS:
        larger = Sizes(sizes.layers, HEADS, sizes.intermediate + 8)
    else:
        larger = Sizes(sizes.layers + 1, HEADS, 8)  # what a target leaves at least
    assert costs.of(name, larger) > limit
    assert sizes.layers == target.get("layers", sizes.layers) and (wanted != 0.3 or sizes.layers < LAYERS)


@pytest.mark.parametrize("family", CUT)
def test_heads_and_neurons_go_in_equal_shares(family: str) -> None:
    """Where heads can be removed; no layer goes as long as there are others."""
    teacher, costs = tiny_model(family), Costs(tiny_model(family), None)
    limit = 0.5 * costs.flops(Sizes(LAYERS, HEADS, NEURONS))
    sizes = sizes_of(Pruned(target_flops=0.5), teacher)
    assert costs.flops(sizes) <= limit
    if FAMILIES[family].heads_fixed is None:
        assert sizes.layers == LAYERS and sizes.heads < HEADS
        assert sizes.intermediate >= sizes.heads * NEURONS / HEADS
        assert costs.flops(Sizes(LAYERS, sizes.heads + 1, (sizes.heads + 1) * NEURONS // HEADS // 8 * 8)) > limit
    else:
        assert sizes.heads == HEADS and sizes.layers < LAYERS


def test_operations_are_those_of_the_matrix_products() -> None:
    """Beside torch's counter, less the pooler and the classifier; whatever the heads."""
    teacher = tiny_model(max_position_embeddings=128)
    inputs = {"input_ids": torch.ones(1, 128, dtype=torch.long), "attention_mask": torch.ones(1, 128, dtype=torch.long)}
    for heads in (2, 4):
        student = prune(teacher, Pruned(layers=3, heads=heads, intermediate=24), some_scores(), {})
        head = 2 * 32 * 32 + 2 * 32 * 2
        assert flops(student, inputs) - head == Costs(teacher, None).flops(Sizes(3, heads, 24))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Pruned(), "nothing says how small a pruned student is to be; give target_parameters=0.5"),
        (Pruned(layers=4), "nothing says how small"),
        (Pruned(target_parameters=0.5, target_flops=0.5), "may contradict each other; leave one out"),
        (
            ROSITA6.model_copy(update={**ROSITA_TINY, "target_flops": 0.5}),
            "layers and intermediate are; set one of them to none",
        ),
        (Pruned(target_parameters=100), "target_parameters=100 cannot be reached: 1 layers .*rank=128"),
        (
            Pruned(target_flops=0.1, layers=4),
            "target_flops=0.1 cannot be reached: 4 layers with 1 heads and 8 neurons",
        ),
    ],
)
def test_sizes_that_do_not_exist(spec: Pruned, message: str) -> None:
    with pytest.raises(TutelageError, match=message) as caught:
        build(spec, tiny_model(), labelled(*LABELS), 0, pytest.fail)  # before the teacher is scored
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ tuning


def slow_sums(model: PreTrainedModel, inputs: dict[str, Tensor], layer: int, path: str, norm: str) -> list[Tensor]:
    """Input and output of a matrix and input of the norm after it, at real tokens."""
    found: list[Tensor] = []
    one = anatomy.layers_of(model)[layer]
    hooks = [
        one.get_submodule(path).register_forward_hook(lambda m, args, out: found.extend([args[0], out])),
        one.get_submodule(norm).register_forward_hook(lambda m, args, out: found.append(args[0])),
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return [x[inputs["attention_mask"].bool()].double() for x in found]


@pytest.mark.parametrize("how", ["masks", "matrices"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_tuning_solves_the_least_squares(family: str, how: str) -> None:
    """The first block against a design matrix of all tokens; no block is worse than before on the texts of the fit."""
    table, teacher, ridge = FAMILIES[family], tiny_model(family), 1e-2
    spec = Pruned(layers=3, heads=None if table.heads_fixed else 2, intermediate=20)
    texts = [{k: v for k, v in inputs_for(seed).items() if k != "token_type_ids"} for seed in range(5)]
    student = prune(teacher, spec, some_scores(), {})
    first = anatomy.layers_of(student)[0]
    path, norm, units = (
        (table.ffn_down, table.ffn_norm, 20) if table.heads_fixed else (table.attention_output, table.attention_norm, 2)
    )
    weight, bias = (first.get_parameter(f"{path}.{name}").detach().double() for name in ("weight", "bias"))
    columns, wanted = [], []
    for one in texts:
        h, y, total = slow_sums(student, one, 0, path, norm)
        wanted.append(slow_sums(teacher, one, 0, path, norm)[2] - (total - y))
        columns.append(h)
    h, y = torch.cat(columns), torch.cat(wanted)
    if how == "masks":
        size = h.shape[1] // units
        design = torch.stack(
            [
                (h[:, j * size : (j + 1) * size] @ weight[:, j * size : (j + 1) * size].T).flatten()
                for j in range(units)
            ],
            1,
        )
        start, aim = torch.ones(units).double(), (y - bias).flatten()
    else:
        design = torch.cat([h, torch.ones(len(h), 1)], dim=1)
        start, aim = torch.cat([weight.T, bias[None]]), y
    strength = ridge * (design.T @ design).diagonal().mean()
    # ridge by more rows: sqrt(strength) (x - start) = 0
    rows = strength.sqrt() * torch.eye(design.shape[1]).double()
    solved = torch.linalg.lstsq(
        torch.cat([design, rows]), torch.cat([aim, rows @ start]).reshape(len(design) + len(rows), -1)
    ).solution
    fits = tune(student, teacher, texts, how, ridge)
    assert len(fits) == 6 and all(fit.after <= fit.before + 1e-9 * fit.size for fit in fits)
    assert sum(fit.after for fit in fits) < 0.98 * sum(fit.before for fit in fits)
    ours, ours_bias = (first.get_parameter(f"{path}.{name}").detach().double() for name in ("weight", "bias"))
    if how == "masks":
        expected, expected_bias = weight * solved[:, 0].repeat_interleave(size), bias
    else:
        expected, expected_bias = solved[:-1].T, solved[-1]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours_bias, expected_bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_copied_layers_come_close_to_those_that_they_stand_for(family: str) -> None:
    """Layers 1 and 3 for 1 and 4: the first stays, the second is fitted to the last; its blocks against a design matrix."""
    table, teacher, ridge = FAMILIES[family], tiny_model(family), 1e-3
    texts = [{k: v for k, v in inputs_for(seed).items() if k != "token_type_ids"} for seed in range(12)]
    student = copy_layers(teacher, Copied(layers=[1, 3]), {})
    first, second = anatomy.layers_of(student)
    untouched = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    for path, norm in ((table.attention_output, table.attention_norm), (table.ffn_down, table.ffn_norm)):
        weight, bias = (second.get_parameter(f"{path}.{name}").detach().double() for name in ("weight", "bias"))
        h, y, total = (
            torch.cat(x) for x in zip(*(slow_sums(student, one, 1, path, norm) for one in texts), strict=True)
        )
        wanted = torch.cat([slow_sums(teacher, one, 3, path, norm)[2] for one in texts])
        design, start = torch.cat([h, torch.ones(len(h), 1)], dim=1), torch.cat([weight.T, bias[None]])
        rows = (ridge * (design.T @ design).diagonal().mean()).sqrt() * torch.eye(design.shape[1]).double()
        aim = torch.cat([wanted - (total - y), rows @ start])
        solved = torch.linalg.lstsq(torch.cat([design, rows]), aim).solution
        if path == table.attention_output:
            tuned = copy.deepcopy(student)
            fits = tune(tuned, teacher, texts, ridge=ridge, of=[1, 4], same=1)
            assert len(fits) == 2 and all(fit.after < 0.9 * fit.before for fit in fits)
        ours = anatomy.layers_of(tuned)[1]
        torch.testing.assert_close(ours.get_parameter(f"{path}.weight").double(), solved[:-1].T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.get_parameter(f"{path}.bias").double(), solved[-1], rtol=1e-3, atol=1e-4)
        with torch.no_grad():  # the next block sees what this one gives
            second.get_parameter(f"{path}.weight").copy_(ours.get_parameter(f"{path}.weight"))
            second.get_parameter(f"{path}.bias").copy_(ours.get_parameter(f"{path}.bias"))
    assert all(
        torch.equal(untouched[name], tensor) for name, tensor in anatomy.layers_of(tuned)[0].state_dict().items()
    )


def test_tuning_of_everything_changes_nothing() -> None:
    teacher = tiny_model()
    student = prune(teacher, Pruned(layers=4, target_parameters=1.0), some_scores(), {})
    fits = tune(student, teacher, [inputs_for(seed) for seed in range(3)], "matrices")
    # The error is a difference of sums of products in float32, whose rounding is that of the CPU.
    assert all(fit.before <= 1e-6 * fit.size for fit in fits)
    torch.testing.assert_close(student(**inputs_for()).logits, teacher(**inputs_for()).logits, rtol=1e-4, atol=1e-4)


def test_tuning_leaves_the_teacher_and_the_modes() -> None:
    teacher = tiny_model()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = prune(teacher, SMALL, some_scores(), {}).train()
    tune(student, teacher, [inputs_for()])
    assert student.training and student.bert.encoder.layer[0].training and not teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for m in (student, teacher) for module in m.modules()
    )


# ------------------------------------------------------------------------------------------------ asked for by words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("init=pruned", Pruned()),
        ("rank=64", Pruned(rank=64)),
        (
            "init=pruned,layers=6,heads=2,intermediate=768,rank=128",
            Pruned(layers=6, heads=2, intermediate=768, rank=128),
        ),
        ("target_parameters=0.5", Pruned(target_parameters=0.5)),
        ("init=pruned,target_flops=2e9,tune=none", Pruned(target_flops=2e9, tune=None)),
        ("layers=2,heads=3,rank=none,examples=500", Pruned(layers=2, heads=3, rank=None, examples=500)),
    ],
)
def test_a_pruned_student_by_words(text: str, expected: Pruned) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["rank=0", "rank=8,hidden=16", "init=pruned,layers=2+4", "heads=none", "target_flops=0"]
)
def test_wrong_words_are_refused(text: str) -> None:
    with pytest.raises(TutelageError, match="student") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_build_scores_the_teacher_and_copies_its_head() -> None:
    teacher, asked = tiny_model(), []

    def scores(model):
        asked.append(model)
        return importance(model, batches_of("classification"), KINDS["classification"])

    one, two = (build(SMALL, teacher, labelled(*LABELS), 3, scores) for _ in range(2))
    assert asked == [teacher, teacher] and not one.training
    assert torch.equal(one(**inputs_for()).logits, two(**inputs_for()).logits)
    assert torch.equal(one.classifier.weight, teacher.classifier.weight)
    assert torch.equal(one.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight)
    third = build(SMALL, teacher, labelled("a", "b", "c"), 3, scores)
    assert third(**inputs_for()).logits.shape == (3, 3) and third.config.id2label[2] == "c"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 5}, "layers=5 is too large: the teacher has layers=4; use that or less"),
        ({"heads": 5}, "heads=5 is too large: the teacher has heads=4"),
        ({"intermediate": 49}, "intermediate=49 is too large: the teacher has intermediate=48"),
        ({"rank": 33}, "rank=33 is too large: the teacher has rank=32"),
    ],
)
def test_more_than_there_is_cannot_be_kept(sizes: dict, message: str) -> None:
    spec = SMALL.model_copy(update=sizes)
    never = pytest.fail  # sizes are checked before the teacher is scored
    with pytest.raises(TutelageError, match=message) as caught:
        build(spec, tiny_model(), labelled(*LABELS), 0, never)
    assert "\n" not in str(caught.value)
    with pytest.raises(TutelageError, match=message):
        prune(tiny_model(), spec, some_scores(), labelled(*LABELS))


def test_what_cannot_be_pruned_or_made_fresh() -> None:
    labels = labelled(*LABELS)

    def refused(student: Student, teacher, message: str, scores=lambda model: some_scores()) -> None:
        with pytest.raises(TutelageError, match=message) as caught:
            build(student, teacher, labels, 0, scores)
        assert "\n" not in str(caught.value)

    refused(
        SMALL, tiny_model("gpt2"), "a gpt2 cannot be pruned: its queries, keys and values are one matrix; use another"
    )
    refused(SMALL, tiny_model("modernbert"), "a modernbert cannot be pruned: its feed-forward is gated")
    refused(SMALL, pruned(), "a pruned_bert cannot be pruned: it is already pruned")
    refused(Pruned(heads=2), tiny_model("mpnet"), "single heads of a mpnet cannot be removed: .*; leave out heads")
    refused(Pruned(rank=8), tiny_model("mpnet"), "the embedding table of a mpnet cannot be factorised; leave out rank")
    refused(SMALL, None, "init=pruned needs a teacher")
    refused(SMALL, tiny_model(), "labelled examples", scores=None)
    refused(Fresh(layers=2, family="pruned_bert"), tiny_model(), "a fresh student cannot be a pruned_bert")
    refused(Fresh(layers=2), pruned(), "a fresh student cannot be a pruned_bert")
    with pytest.raises(TutelageError, match="'gpt'") as caught:
        build(Fresh(layers=2, family="gpt"), tiny_model(), labels, 0)
    assert "pruned_bert" not in str(caught.value)
    small = build(Fresh(layers=2, family="bert"), pruned(), labels, 0)
    assert anatomy.shape_of(small.config).heads == 2 and small(**inputs_for()).logits.shape == (3, 2)
