import time

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2Model

from tutelage.anatomy import Shape
from tutelage.evaluation import speed


def config(layers, hidden, intermediate, heads, vocabulary=30522):
    return BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        vocab_size=vocabulary,
    )


def inputs(batch, length):
    ids = torch.ones(batch, length, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 128, 512, 2), 4_385_920),
        ((4, 312, 1200, 12), 14_350_248),
        ((12, 768, 3072, 12), 109_482_240),
    ],
)
def test_parameters(shape, expected):
    with torch.device("meta"):
        assert speed.count_parameters(BertModel(config(*shape))) == expected


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert speed.count_parameters(model) == 9 + 3 + 3


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_those_of_the_formula(batch):
    layers, hidden, intermediate, length, classes = 2, 64, 96, 20, 3
    model = BertForSequenceClassification(config(layers, hidden, intermediate, 4, vocabulary=50))
    model.classifier = nn.Linear(hidden, classes)
    products = length * (4 * hidden**2 + 2 * hidden * intermediate) + 2 * length**2 * hidden
    multiply_adds = layers * products + hidden**2 + hidden * classes
    model.train()
    assert speed.flops(model, inputs(batch, length)) == 2 * batch * multiply_adds
    assert all(module.training for module in model.modules())


def test_flops_of_a_gpt2_count_its_transposed_layers():
    shape = Shape("gpt2", layers=2, hidden=64, heads=4, intermediate=256, vocabulary=50)
    model = GPT2Model(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=50))
    assert speed.flops(model, inputs(3, 20)) == 3 * speed.encoder_flops(shape, 20)


def test_equal_architectures_are_counted_once_and_others_anew(monkeypatch):
    counted, count = [], speed._count
    monkeypatch.setattr(speed, "_count", lambda model, inputs: counted.append(model) or count(model, inputs))
    monkeypatch.setattr(speed, "_COUNTED", {})
    first, twin, wider, shared = (BertForSequenceClassification(config(2, 64, 96, 4, vocabulary=50)) for _ in range(4))
    twin.config._name_or_path = "elsewhere"
    wider.classifier = nn.Linear(64, 9)
    shared.config.chunk_size_feed_forward = 2  # the same weights, but the code may do otherwise
    found = [speed.flops(model, inputs(1, 20)) for model in (first, twin, wider, shared)]
    assert counted == [first, wider, shared]
    assert found[0] == found[1] == found[3] and found[2] - found[0] == 2 * 64 * 7
    assert speed.flops(first, inputs(1, 21)) > found[0] == speed.flops(first, inputs(1, 20))


@pytest.mark.parametrize(("shape", "gigaflops"), [((12, 768, 3072, 12), 22.35), ((4, 312, 1200, 12), 1.25)])
def test_flops_as_published(shape, gigaflops):
    with torch.device("meta"):
        model = BertForSequenceClassification(config(*shape))
        ids = inputs(1, 128)["input_ids"]  # without a mask, whose values a model looks at: there are none on meta
        assert speed.flops(model, {"input_ids": ids}) / 1e9 == pytest.approx(gigaflops, rel=0.01)


class Recorder(nn.Module):
    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls
        self.frozen = nn.Dropout().eval()

    def forward(self, x):
        self.calls.append((self.name, len(x), self.training, torch.is_inference_mode_enabled()))
        return x


def test_latencies_take_turns_and_restore_modes():
    calls = []
    models = {"teacher": Recorder("teacher", calls), "student": Recorder("student", calls).eval()}
    make = {name: lambda size: {"x": torch.zeros(size, 2)} for name in models}
    result, core = speed.latencies(models, make, batch_sizes=(1, 4), repeats=3)

    assert {name: list(times) for name, times in result.items()} == {name: ["1", "4"] for name in models}
    assert all(one.median > 0 and one.spread >= 0 for times in result.values() for one in times.values())
    assert 0 < core <= 1
    for size, part in ((1, calls[: len(calls) // 2]), (4, calls[len(calls) // 2 :])):
        warm_up = ["teacher"] * speed.WARM_UP + ["student"] * speed.WARM_UP
        assert part == [(name, size, False, True) for name in [*warm_up, *["teacher", "student"] * 3]]
    assert models["teacher"].training
    assert not models["teacher"].frozen.training
    assert not models["student"].training


def test_latencies_are_medians_in_milliseconds(monkeypatch):
    clock = iter([0, 0, 9, 0, 0.001, 0, 0.002, 9])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    make = {"model": lambda size: {"input": torch.zeros(size, 2)}}
    found, _ = speed.latencies({"model": nn.Identity()}, make, (1,), repeats=3)
    assert found["model"]["1"].median == pytest.approx(2)
    assert found["model"]["1"].spread == pytest.approx((9000 + 2) / 2 - (2 + 1) / 2)


def test_a_thread_without_a_core_is_noted(monkeypatch):
    monkeypatch.setattr(speed, "BUSY", 0.9)
    _, core = speed.in_turn({"": lambda: time.sleep(0.005)}, least=2, most=2)  # it waits, as if others had the core
    assert core < 0.5 and f"had {core:.0%} of a core" in speed.busy_note(core)
    assert speed.busy_note(0.95) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_latency_on_a_gpu_waits_for_the_result():
    model = nn.Linear(4096, 4096, device="cuda")
    make = {"model": lambda size: {"input": torch.zeros(size, 4096, device="cuda")}}
    times = speed.latencies({"model": model}, make, (1, 65536), repeats=5)[0]["model"]
    assert times["65536"].median > 5 * times["1"].median
