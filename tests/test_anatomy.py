"""The table of families against real (tiny) models: paths exist, sizes agree, signals are the model's own."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import ALL_FAMILIES, FINAL_NORM, tiny_config, tiny_model

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.knowledge import signals as signals_module
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Tap

HIDDEN, INTERMEDIATE, LAYERS, HEADS = 32, 48, 4, 4


def inputs_for(model, seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_paths_lead_to_parts_of_the_stated_sizes(family: str) -> None:
    model = tiny_model(family)
    table = anatomy.FAMILIES[family]
    layer = anatomy.layers_of(model)[-1]
    fused, gated = table.query == table.key, family == "modernbert"  # nomic_bert's gate is a matrix of its own

    def shape(path: str) -> tuple[int, ...]:
        weight = layer.get_submodule(path).weight
        return tuple(weight.T.shape if family == "gpt2" else weight.shape)  # its Conv1D is a transposed Linear

    inside = anatomy.shape_of(model.config).attended or HIDDEN
    assert shape(table.query) == (inside * (3 if fused else 1), inside)
    assert shape(table.attention_output) == (inside, inside)
    assert shape(table.ffn_up) == (INTERMEDIATE * (2 if gated else 1), inside)
    assert shape(table.ffn_down) == (inside, INTERMEDIATE)
    for norm in (table.attention_norm, table.ffn_norm):
        assert layer.get_submodule(norm).weight.shape == (inside,)
    assert len(anatomy.layers_of(model)) == (1 if table.shared else LAYERS)
    assert anatomy.word_embeddings_of(model).num_embeddings == model.config.vocab_size
    if table.pooler is not None and table.reads_pooler:  # RoBERTa's classifier is built without its pooler
        assert anatomy.base_of(model).get_submodule(table.pooler) is not None


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_shape(family: str) -> None:
    shape = anatomy.shape_of(tiny_config(family))
    assert (shape.layers, shape.hidden, shape.heads, shape.intermediate) == (LAYERS, HIDDEN, HEADS, INTERMEDIATE)


def test_layers_that_start_with_a_norm_are_not_pruned() -> None:
    """Fitting cut layers to the teacher (``tune``) reads the norm after a block, and fails at one before it."""
    assert [name for name in FINAL_NORM if anatomy.FAMILIES[name].neurons_fixed is None] == []


@pytest.mark.parametrize("family", [name for name in ALL_FAMILIES if anatomy.FAMILIES[name].numbers_after_padding])
def test_a_family_that_numbers_after_padding_has_fewer_positions_than_table_rows(family: str) -> None:
    model = tiny_model(family)
    longest = anatomy.max_length(model.config)
    ids = torch.full((1, longest), 7)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    too_long = torch.full((1, longest + 1), 7)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=too_long, attention_mask=torch.ones_like(too_long))


def test_an_unknown_family_is_refused() -> None:
    from transformers import LlamaConfig, ViTConfig

    with pytest.raises(
        TutelageError, match="'vit' is not supported and transformers has no classification model of it"
    ):
        anatomy.family_of(ViTConfig())
    assert anatomy.family_of(LlamaConfig()) is anatomy.UNREAD


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_hidden_states_are_those_the_model_returns(family: str) -> None:
    model = tiny_model(family)
    inputs = inputs_for(model)
    with torch.no_grad():
        own = model(**inputs, output_hidden_states=True)
        tap = Tap(model, Needs(logits=True, hidden=frozenset(range(LAYERS + 1))))
        signals = tap(inputs)
    tap.close()
    torch.testing.assert_close(signals.logits, own.logits, rtol=0, atol=0)
    last = LAYERS - 1 if family in FINAL_NORM else LAYERS
    for layer in range(last + 1):
        torch.testing.assert_close(signals.hidden[layer], own.hidden_states[layer], rtol=0, atol=0)


READ = [name for name in ALL_FAMILIES if anatomy.FAMILIES[name].attention]
"""Families whose attention can be read."""


@pytest.mark.parametrize("family", READ)
def test_queries_and_keys_are_those_of_the_eager_attention(family: str) -> None:
    """softmax(Q K^T) of the tapped tensors (and what relative positions add) is what eager attention returns; the fused
    kernel's output does not change."""
    model = tiny_model(family)
    inputs = inputs_for(model)
    plain = model(**inputs).logits.detach()
    tap = Tap(model, Needs(logits=True, attention=frozenset(range(1, LAYERS + 1))))
    with torch.no_grad():
        signals = tap(inputs)
    assert signals.logits is not None
    torch.testing.assert_close(signals.logits, plain, rtol=0, atol=0)
    assert sorted(signals.queries) == list(range(1, LAYERS + 1))
    tap.close()
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(before)
    mask = inputs["attention_mask"].bool()
    for layer in range(1, LAYERS + 1):
        scores = signals.queries[layer] @ signals.keys[layer].mT * signals.scaling
        assert (layer in signals.biases) == (anatomy.FAMILIES[family].bias is not None)
        scores = scores + signals.biases.get(layer, torch.zeros(()))
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        assert signals.causal == anatomy.FAMILIES[family].causal
        if signals.causal:
            scores = scores.masked_fill(~torch.ones(9, 9).tril().bool(), float("-inf"))
        if family == "modernbert" and model.config.layer_types[layer - 1] == "sliding_attention":
            distance = (torch.arange(9)[:, None] - torch.arange(9)[None, :]).abs()
            scores = scores.masked_fill(distance > model.config.local_attention // 2, float("-inf"))
        ours = scores.softmax(-1).nan_to_num() * mask[:, None, :, None]
        torch.testing.assert_close(ours, maps[layer - 1] * mask[:, None, :, None], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("family", READ)
def test_padding_is_not_attended_to_while_tapped(family: str) -> None:
    """A new attention name gets no mask unless one is registered for it: then padding would leak in, silently."""
    model = tiny_model(family)
    inputs = inputs_for(model)
    tap = Tap(model, Needs(logits=True, attention=frozenset({1})))
    with torch.no_grad():
        logits = tap(inputs).logits
        other = {**inputs, "input_ids": torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 9)}
        table = anatomy.FAMILIES[family]
        if table.causal or table.numbers_after_padding or table.reads_neighbours:  # garbage must be padding tokens
            other = {**inputs, "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 4))}
            other["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 4))
        same = tap(other).logits
    tap.close()
    torch.testing.assert_close(logits, same, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_teacher_stops_after_the_last_layer_needed(family: str) -> None:
    model = tiny_model(family)
    inputs = inputs_for(model)
    calls = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in anatomy.layers_of(model)]
    read = frozenset({1} if family in READ else ())
    tap = Tap(model, Needs(hidden=frozenset({0, 2}), attention=read))
    with torch.no_grad():
        signals = tap(inputs)
    assert len(calls) == 2
    assert sorted(signals.hidden) == [0, 2] and signals.keys.keys() == read
    tap.close()
    for hook in hooks:
        hook.remove()


def test_gradients_flow_through_tapped_queries() -> None:
    model = tiny_model("bert")
    tap = Tap(model, Needs(attention=frozenset({2})))
    signals = tap(inputs_for(model))
    signals.queries[2].sum().backward()
    assert anatomy.layers_of(model)[1].attention.self.query.weight.grad.abs().max() > 0
    tap.close()


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_word_scores_are_those_of_the_whole_model(family: str) -> None:
    torch.manual_seed(0)
    head = "causal_lm" if anatomy.FAMILIES[family].causal else "masked_lm"
    model = anatomy.auto_class(head).from_config(tiny_config(family)).eval()
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        hidden = anatomy.base_of(model)(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        torch.testing.assert_close(anatomy.word_scores(model, hidden[:, 3]), whole[:, 3])


def test_closing_leaves_the_model_as_it_was(tmp_path) -> None:
    model = tiny_model("bert")
    before = model.config._attn_implementation
    tap = Tap(model, Needs(attention=frozenset({1}), hidden=frozenset({1})))
    tap.close()
    assert model.config._attn_implementation == before
    model.save_pretrained(tmp_path)
    assert "tutelage" not in (tmp_path / "config.json").read_text()


def test_bfloat16_attention_on_a_cpu_goes_back_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those of the model in float32, but for rounding; without gradients nothing is widened."""

    seen = []
    kernel = signals_module.sdpa_attention_forward

    def watched(module, query, *rest, **more):
        seen.append(query.dtype)
        return kernel(module, query, *rest, **more)

    monkeypatch.setattr(signals_module, "sdpa_attention_forward", watched)
    model = tiny_model("bert", spread=1.0).eval()  # no dropout, for which PyTorch has another kernel
    inputs, weight = inputs_for(model), model.bert.encoder.layer[1].attention.self.query.weight
    tap = Tap(model, Needs(logits=True))
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = tap(inputs).logits
        assert logits is not None
        found.append(torch.autograd.grad(logits.float().square().sum(), weight)[0])
    assert seen == [torch.float32] * 2 * LAYERS
    assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()
    seen.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tap(inputs)
    assert seen == [torch.bfloat16] * LAYERS
    tap.close()


def test_attention_with_dropout_builds_no_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of queries at a time: the kernel's values and gradients, and no (heads, length, length) tensor."""
    from torch.nn.functional import scaled_dot_product_attention
    from torch.utils._python_dispatch import TorchDispatchMode

    monkeypatch.setattr(signals_module, "BLOCK", 5)
    n, heads = 12, 2
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, n, 4, generator=generator, requires_grad=True) for _ in range(3))
    mask = (torch.arange(n) < torch.tensor([12, 7, 3])[:, None])[:, None, None, :].expand(3, 1, n, n)
    weights = torch.randn(3, n, heads, 4, generator=generator)
    results = []
    for whole in (True, False):
        if whole:
            output = scaled_dot_product_attention(query, key, value, mask, scale=0.3).transpose(1, 2)
        else:
            output = signals_module._with_dropout(query, key, value, mask, 0.0, 0.3)
        results.append((output, *torch.autograd.grad((output * weights).sum(), (query, key, value))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)

    # Dropout: the backward pass must meet the masks of the forward pass again, or this derivative is wrong.
    def loss(shift: float) -> torch.Tensor:
        torch.manual_seed(3)
        return (signals_module._with_dropout(query, key, value + shift * direction, mask, 0.5, 0.3) * weights).sum()

    direction = torch.randn(value.shape, generator=generator)
    slope = (torch.autograd.grad(loss(0.0), value)[0] * direction).sum()
    assert float(slope) == pytest.approx(float((loss(0.5) - loss(-0.5)).detach()), rel=1e-3)  # linear in the values

    class Largest(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, tuple | list) else [output]:
                if isinstance(tensor, torch.Tensor) and tensor.shape[-2:] == (n, n):
                    self.largest = max(self.largest, tensor.numel())
            return output

    model = tiny_model("bert", attention_probs_dropout_prob=0.1).train()
    tap = Tap(model, Needs(logits=True, attention=frozenset({1, 2})))
    ids = torch.full((2, n), 7)
    with Largest() as seen:
        tap({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits.sum().backward()
    tap.close()
    assert seen.largest < 2 * HEADS * n * n


@pytest.mark.parametrize("masked", ["kept", "added"])
def test_attention_drops_the_share_asked_for(masked: str) -> None:
    """On average it is attention without dropout; entries of one draw are independent of their neighbours."""
    from torch.nn.functional import scaled_dot_product_attention

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 9, 4, generator=generator) for _ in range(3))
    mask = (torch.arange(9) < torch.tensor([9, 4])[:, None])[:, None, None, :].expand(2, 1, 9, 9)
    if masked == "added":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    torch.manual_seed(0)
    drawn = torch.stack([signals_module._with_dropout(query, key, value, mask, 0.3, 0.5) for _ in range(2000)])
    exact = scaled_dot_product_attention(query, key, value, mask, scale=0.5).transpose(1, 2)
    assert ((drawn.mean(0) - exact).abs() < 5 * drawn.std(0) / 2000**0.5 + 1e-6).all()
    kept = torch.stack([signals_module._kept(10_001, 0.3, seed) for seed in range(20)]).double()
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.005)
    assert float(kept.std(1).mean()) == pytest.approx(0.21**0.5, abs=0.005)
    correlated = torch.stack([torch.corrcoef(torch.stack((row[:-1], row[1:])))[0, 1] for row in kept])
    assert abs(float(correlated.mean())) < 0.01


@pytest.mark.parametrize("family", [family for family in ALL_FAMILIES if family != "albert"])
def test_a_set_of_layers_is_trained_and_the_rest_is_frozen(family: str) -> None:
    model = tiny_model(family)
    base, layers = anatomy.base_of(model), anatomy.layers_of(model)
    for module in anatomy.frozen_modules(model, anatomy.Layers(layers=[0, 2])):
        module.requires_grad_(False)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    table = anatomy.word_embeddings_of(model).weight
    assert id(table) in trained and {id(p) for p in layers[1].parameters()} <= trained
    for number in (0, 2, 3):
        assert not {id(p) for p in layers[number].parameters()} & trained
    outside = {id(p) for p in model.parameters()} - {id(p) for p in base.parameters()}
    assert not outside & trained
    held = {id(p) for part in anatomy.frozen_modules(model, "without_embeddings") for p in part.parameters()}
    assert id(table) in held and not held & outside
    assert not held & {id(p) for layer in layers for p in layer.parameters()}
    assert anatomy.Layers(layers="lower_half").of(5) == [0, 1, 2, 3]
    with pytest.raises(TutelageError, match="has 1 to 4"):
        anatomy.frozen_modules(model, anatomy.Layers(layers=[5]))


def test_a_signal_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that does not call the attention interface raises nothing of its own: a loss over no layers would be zero."""
    model = tiny_model("bert")
    monkeypatch.setattr(model, "set_attn_implementation", lambda name: None)
    tap = Tap(model, Needs(logits=True, attention=frozenset({2})))
    with pytest.raises(TutelageError, match="this bert gave no queries and keys of layer 2"):
        tap(inputs_for(model))
    tap.close()


@pytest.mark.parametrize("family", [name for name, one in anatomy.FAMILIES.items() if one.attention == "projections"])
def test_closing_leaves_attention_that_is_read_at_its_matrices(family: str) -> None:
    model = tiny_model(family)
    modules = [layer.get_submodule(anatomy.FAMILIES[family].attention_module) for layer in anatomy.layers_of(model)]
    before = [dict(vars(module)) for module in modules]
    tap = Tap(model, Needs(attention=frozenset({1})))
    signals = tap(inputs_for(model))
    signals.queries[1].sum().backward()
    assert anatomy.layers_of(model)[0].get_submodule(anatomy.FAMILIES[family].query).weight.grad.abs().max() > 0
    tap.close()
    for module, was in zip(modules, before, strict=True):
        assert vars(module).keys() == was.keys()
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("family", [name for name, one in anatomy.FAMILIES.items() if one.attention == "projections"])
def test_the_copy_of_a_tap_reads_its_own_model(family: str) -> None:
    model = tiny_model(family)
    tap = Tap(model, Needs(attention=frozenset({1})))
    copied, its_tap = copy.deepcopy((model, tap))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2)
    one, other, again = (each(inputs_for(model)) for each in (tap, its_tap, tap))
    assert torch.equal(one.queries[1], again.queries[1]) and not torch.allclose(one.queries[1], other.queries[1])
    assert set(one.biases) == set(other.biases)


def test_debertas_convolution_is_part_of_the_first_layer() -> None:
    model = tiny_model("deberta-v2", conv_kernel_size=3)
    inputs = inputs_for(model)
    tap = Tap(model, Needs(hidden=frozenset(range(LAYERS + 1))))
    with torch.no_grad():
        own = model(**inputs, output_hidden_states=True).hidden_states
        signals = tap(inputs)
    tap.close()
    for layer in range(LAYERS + 1):
        torch.testing.assert_close(signals.hidden[layer], own[layer], rtol=0, atol=0)


def test_mpnet_numbers_positions_from_two_whatever_pads() -> None:
    """Its code fixes the padding token: in a student with another vocabulary, too."""
    from tutelage.students.copied import copy_layers
    from tutelage.students.fresh import from_sizes
    from tutelage.students.specs import Copied, Fresh

    fresh = from_sizes(Fresh(family="mpnet", layers=2), tiny_config("bert", pad_token_id=0), {})
    for model in (fresh, copy_layers(tiny_model("mpnet"), Copied(layers=2), {})):
        seen = []
        positions = anatomy.base_of(model).embeddings.position_embeddings
        positions.register_forward_hook(lambda module, args, output, seen=seen: seen.append(args[0]))
        model(**inputs_for(model))
        assert seen[0][0].tolist() == list(range(2, 11)) and anatomy.max_length(model.config) == 38


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_only_these_families_embed_a_token_with_its_neighbours(family: str) -> None:
    """Where padding is among them, its vector must be 0, or a text's answer would depend on the batch."""
    model = tiny_model(family)
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    other = torch.tensor([[7, 8, 9, 10, 12]])
    with torch.no_grad():
        before, after = (model(input_ids=x, output_hidden_states=True).hidden_states[0] for x in (ids, other))
    assert torch.equal(before[:, 3], after[:, 3]) != anatomy.FAMILIES[family].reads_neighbours
