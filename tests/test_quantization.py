"""The rounding of int8 during training: it is that of the exported file, and leaves the student as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sentences, tiny_model

from tutelage.errors import TutelageError
from tutelage.mechanisms.quantization.quantizer import (
    INPUT,
    MATRIX,
    Quantizer,
    rounded_block_inputs,
    rounded_blocks,
    rounded_inputs,
    rounded_rows,
)
from tutelage.mechanisms.quantization.settings import Quantization
from tutelage.methods import METHODS
from tutelage.recipes.settings import run_config
from tutelage.serving import four_bits, quantize, to_onnx
from tutelage.students.specs import BiLSTM, Inherited


def slow_rows(weight: list[list[float]]) -> list[list[float]]:
    """Each row in steps of its largest entry over 64."""
    found = []
    for row in weight:
        step = max(abs(value) for value in row) / MATRIX
        found.append([step * round(value / step) for value in row])
    return found


def slow_inputs(text: list[float]) -> list[float]:
    """255 steps between the least and the largest value, or 0; 0 is one of them."""
    low, high = min(*text, 0.0), max(*text, 0.0)
    step = (high - low) / INPUT
    zero = round(-low / step)
    return [(min(max(round(value / step) + zero, 0), INPUT) - zero) * step for value in text]


def test_weights_and_inputs_are_rounded_as_the_formula_says() -> None:
    weight, x = torch.randn(3, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    assert rounded_rows(weight, MATRIX).tolist() == [pytest.approx(row) for row in slow_rows(weight.tolist())]
    assert rounded_inputs(x).tolist() == [pytest.approx(slow_inputs(row)) for row in x.tolist()]
    tokens = torch.randn(2, 4, 5, dtype=torch.float64) * torch.tensor([1.0, 50, 1, 1])[:, None]
    for ours, text in zip(rounded_inputs(tokens, by_token=True).tolist(), tokens.tolist(), strict=True):
        sizes = [max(abs(value) for value in token) for token in text]
        steps = slow_inputs([value / size for token, size in zip(text, sizes, strict=True) for value in token])
        expected = [[value * size for value in steps[5 * n : 5 * n + 5]] for n, size in enumerate(sizes)]
        assert ours == [pytest.approx(token) for token in expected]
    # A text's numbers do not depend on the others, and zero stays zero.
    assert torch.equal(rounded_inputs(x)[:1], rounded_inputs(x[:1]))
    assert torch.equal(rounded_inputs(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_the_gradient_passes_through() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    factor = torch.randn(3, 4)
    (rounded_rows(weight, MATRIX) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


def test_a_rounded_model_answers_as_its_int8_file(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_model(layers=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    to_onnx(model, tokenizer, tmp_path / "model.onnx")
    int8 = quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    inputs = [dict(tokenizer([text], return_tensors="pt")) for text in sentences(20, 3)[0]]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        full = torch.cat([model(**one).logits for one in inputs])
        served = torch.cat([torch.from_numpy(int8.logits(one)) for one in inputs])
        hook = Quantizer(Quantization(), model)
        rounded = torch.cat([model(**one).logits for one in inputs])
        assert list(model.state_dict()) == list(before)
        assert hook.finish(lambda: pytest.fail("no batch is needed"))
        again = torch.cat([model(**one).logits for one in inputs])
    assert torch.equal(again, full) and all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    lost, left = float((served - full).abs().mean()), float((served - rounded).abs().mean())
    assert left < lost / 4, (left, lost)


@pytest.mark.parametrize("bits", [{"table_bits": 4}, {"weight_bits": 4}, {"table_bits": 4, "weight_bits": 4}])
def test_a_model_rounded_to_four_bits_answers_as_its_file(tokenizer: Any, tmp_path: Path, bits: dict[str, int]) -> None:
    """The file that export writes with the same bits, far nearer than the file in int8."""
    model = tiny_model(layers=2, hidden=80).eval()  # two blocks and a half
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    to_onnx(model, tokenizer, tmp_path / "model.onnx")
    plain, made = (
        quantize(tmp_path / "model.onnx", tmp_path / f"{name}.onnx", **how) for name, how in (("8", {}), ("4", bits))
    )
    inputs = [dict(tokenizer([text], return_tensors="pt")) for text in sentences(20, 3)[0]]
    with torch.no_grad():
        Quantizer(Quantization(**bits), model)
        rounded = torch.cat([model(**one).logits for one in inputs])
    served, other = (torch.cat([torch.from_numpy(file.logits(one)) for one in inputs]) for file in (made, plain))
    left, lost = float((served - rounded).abs().mean()), float((served - other).abs().mean())
    assert left < lost / 4 and made.bytes < plain.bytes, (left, lost)


def test_blocks_are_rounded_as_in_files() -> None:
    weight = torch.randn(50, 77, requires_grad=True)
    codes, scales = four_bits.four_bits(weight.detach().numpy())
    found = rounded_blocks(weight)
    assert np.abs(found.detach().numpy() - codes * scales.repeat(32, axis=1)[:, :77]).max() < 1e-6
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones(50, 77))
    x = torch.randn(2, 3, 40)
    step = torch.stack([x[..., :32].abs().amax(-1), x[..., 32:].abs().amax(-1)], -1) / 127
    ours, exact = rounded_block_inputs(x), x.clone()
    for block, part in enumerate((slice(0, 32), slice(32, 40))):
        exact[..., part] = (x[..., part] / step[..., block, None]).round() * step[..., block, None]
    assert torch.allclose(ours, exact, atol=1e-6) and not torch.equal(ours, x)


def test_the_plan_says_which_file_the_student_is_trained_for() -> None:
    assert Quantization().plan(None, None, 1) == ["  computes as the int8 file of tutelage export"]
    late = "  computes as the int8 file of tutelage export from step 4 of 5 on, and whenever it is scored"
    assert Quantization(begin=0.7).plan(None, None, 5) == [late]
    with pytest.raises(TutelageError, match="stage 'distill' has 1 step, and rounds after the first; set quantization"):
        Quantization(begin=0.7).plan(None, SimpleNamespace(stage=SimpleNamespace(name="distill")), 1)
    both = Quantization(table_bits=4, weight_bits=4)
    assert both.plan(None, None, 1) == ["  computes as the int8 file of tutelage export --table-bits 4 --weight-bits 4"]


def test_rounding_begins_after_its_share_of_the_steps_and_holds_where_the_student_is_scored() -> None:
    model = tiny_model(layers=1).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    exact = model(ids).logits.detach()
    hook = Quantizer(Quantization(begin=0.5), model)
    with torch.no_grad():
        scored = model(ids).logits
    assert not torch.equal(scored, exact)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 5):
        assert torch.equal(model(ids).logits.detach(), exact if step < 3 else scored), step
        assert hook.unfinished() == (step < 3)  # patience does not end the stage before a step is rounded
        if step == 3:
            later = Quantizer(Quantization(begin=0.5), tiny_model(layers=1))
            later.restore(hook.state())
            assert later.state() == hook.state()
        hook.after_step(optimizer, step, 4)


def test_weights_alone_can_be_rounded() -> None:
    model = tiny_model(layers=1).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    with torch.no_grad():
        both = Quantizer(Quantization(), model)
        first = model(ids).logits
        both.finish(lambda: pytest.fail("no batch is needed"))
        weights = Quantizer(Quantization(activations=False), model)
        second = model(ids).logits
        weights.finish(lambda: pytest.fail("no batch is needed"))
    assert not torch.equal(first, second)


def test_what_cannot_be_rounded_is_refused() -> None:
    recipe = METHODS["compact_int8"]()
    stages = recipe.stages
    for student, reason in ((BiLSTM(), "inside one operator"), (Inherited(hidden=16), "needs the mechanism pruning")):
        with pytest.raises((TutelageError, ValueError), match=reason):
            run_config(type(recipe)(**{**recipe.model_dump(), "student": student.model_dump(), "stages": stages}), {})


def test_a_family_without_linear_layers_is_refused_before_training() -> None:
    scene, stage = (
        SimpleNamespace(student=tiny_model(family="gpt2")),
        SimpleNamespace(stage=SimpleNamespace(name="int8")),
    )
    with pytest.raises(TutelageError, match="stage 'int8' rounds linear layers, and a gpt2 has others"):
        Quantization().prepare(scene, stage)
    Quantization().prepare(SimpleNamespace(student=tiny_model()), stage)
