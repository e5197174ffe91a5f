"""Deep Compression: weights that are 0, shared values, and the code that writes them."""

from __future__ import annotations

import heapq
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from tutelage import api
from tutelage.anatomy.checkpoints import PACKED
from tutelage.cli.shown import show
from tutelage.errors import TutelageError
from tutelage.mechanisms.coding.coder import Codebooks, Sparsifier, clustered, matrices_of
from tutelage.mechanisms.coding.settings import SharedValues, Sparsity
from tutelage.report.comparison import tables
from tutelage.run.packed import Packed
from tutelage.students import coded, huffman


def slow_huffman_bits(counts: list[int]) -> int:
    """Bits of a Huffman code: the sum of all counts that are merged."""
    heap, bits = [count for count in counts if count], 0
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        bits += both
        heapq.heappush(heap, both)
    return bits


def sequences() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    sizes = (0, 1, 5, huffman.BLOCK, huffman.BLOCK + 1, 3 * huffman.BLOCK - 7)
    made = [np.minimum(draw.geometric(0.3, size), 255) for size in sizes]
    return [one.astype(np.uint8) for one in (*made, draw.integers(0, 256, 5000), np.full(9000, 7))]


@pytest.mark.parametrize("symbols", sequences(), ids=len)
def test_a_code_is_the_shortest_and_is_read_as_it_was(symbols: np.ndarray) -> None:
    code = huffman.encode(symbols)
    counts = np.bincount(symbols, minlength=256)
    assert np.array_equal(huffman.decode(code), symbols)
    assert int((code.lengths.astype(int) * counts).sum()) == slow_huffman_bits(counts.tolist())
    assert huffman.coded_bytes(counts.astype(np.int64)) == code.bytes


def test_no_word_is_too_long() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.code_lengths(np.array([*fibonacci, *[0] * 216], np.int64))
    assert lengths[:40].max() == huffman.LONGEST and (2.0 ** -lengths[:40].astype(float)).sum() <= 1
    assert not lengths[40:].any()


def few(shape: tuple[int, ...], count: int, zeros: float) -> torch.Tensor:
    draw = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=draw)
    found = values[torch.randint(count, shape, generator=draw)]
    return found.masked_fill(torch.rand(shape, generator=draw) < zeros, 0)


STATE = {
    "half": few((60, 70), 30, 0.5),
    "sparse": few((90, 100), 15, 0.97),
    "no zeros": few((50, 8), 200, 0.0),
    "zeros alone": torch.zeros(300, 90),
    "zeros at the end": torch.cat([few((20, 30), 9, 0.9), torch.zeros(200, 30)]),
    "negative zero": torch.tensor([[0.0, -0.0] * 400]),
    "small": few((3, 4), 5, 0.0),
    "half precision": torch.randn(3, 5).to(torch.bfloat16),
    "dense": torch.randn(40, 50),
    "bias": torch.randn(7),
    "ids": torch.arange(6).view(2, 3),
}


PLAIN = ["negative zero", "small", "half precision", "dense", "bias", "ids"]


def test_packed_weights_are_read_to_the_bit(tmp_path: Path) -> None:
    coded.write(STATE, tmp_path / PACKED)
    found = coded.read(tmp_path / PACKED)
    assert set(found) == set(STATE) and all(torch.equal(found[name], one) for name, one in STATE.items())
    matrices = {name: coded.coded(one) for name, one in STATE.items()}
    assert [name for name, one in matrices.items() if one is None] == PLAIN
    assert matrices["sparse"].gaps is not None and matrices["no zeros"].gaps is None
    plain = sum(STATE[name].nbytes for name in PLAIN)
    assert coded.bytes_of(STATE) == plain + sum(one.bytes for one in matrices.values() if one is not None)
    assert coded.bytes_of({"a": STATE["half"], "b": STATE["half"]}) == matrices["half"].bytes  # one tensor of two names


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    coded.write(STATE, tmp_path / PACKED)
    whole = (tmp_path / PACKED).read_bytes()
    draw = np.random.default_rng(0)
    for place in draw.integers(len(whole), size=60):
        (tmp_path / PACKED).write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << int(draw.integers(8))]) + whole[place + 1 :]
        )
        with pytest.raises(TutelageError, match="cannot be read"):
            coded.read(tmp_path / PACKED)
    (tmp_path / PACKED).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TutelageError, match="cannot be read"):
        coded.read(tmp_path / PACKED)


def test_parts_that_do_not_fit_are_refused() -> None:
    matrix = coded.coded(STATE["sparse"])
    assert matrix is not None
    for change in ({"shape": (1, 3)}, {"shape": (-1, 5)}, {"shape": (2**20, 2**20)}, {"values": matrix.values[:2]}):
        with pytest.raises(ValueError, match=r"tensor|entry"):
            coded.decoded(coded.Matrix(**{**vars(matrix), **change}))
    no_zeros = coded.Matrix((2**12, 2**12), matrix.values, matrix.entries, matrix.gaps)
    with pytest.raises(ValueError, match="more entries than its code"):
        coded.decoded(no_zeros)
    code = matrix.entries
    for change in ({"count": 10**9}, {"lengths": np.ones(256, np.uint8)}, {"starts": code.starts + np.uint64(2**40)}):
        with pytest.raises(ValueError, match=r"sizes|prefix|beyond"):
            huffman.decode(huffman.Coded(**{**vars(code), **change}))


# ------------------------------------------------------------------------------------------------------------ training


def trained(
    hook: Sparsifier | Codebooks, model: nn.Module, steps: int, gradients: list[torch.Tensor] | None = None
) -> None:
    groups = hook.parameter_groups(model, 0.0) or [{"params": list(model.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        for number, parameter in enumerate(model.parameters()):
            given = None if gradients is None or number >= len(gradients) else gradients[number]
            parameter.grad = torch.randn(parameter.shape) if given is None else given.clone()
        hook.before_step(optimizer, [], steps)
        optimizer.step()
        assert not hook.after_step(optimizer, step, steps)


def test_the_smallest_weights_become_zero_and_stay() -> None:
    torch.manual_seed(0)
    model = tiny_model(layers=1)
    least = {id(m): m.detach().abs().flatten().argsort()[:5] for m in matrices_of(model)}
    hook = Sparsifier(Sparsity(share=0.4, until=0.5), model)
    assert [hook.share(step, 100) for step in (50, 100)] == [0.4, 0.4]
    assert hook.share(25, 100) == pytest.approx(0.4 * (1 - 0.5**3))
    with torch.no_grad():  # so small that no step makes them large
        for matrix in matrices_of(model):
            matrix.flatten()[least[id(matrix)]] = 0
    trained(hook, model, 20)
    for matrix in matrices_of(model):
        assert int((matrix == 0).sum()) == pytest.approx(0.4 * matrix.numel(), abs=1)
        assert (matrix.flatten()[least[id(matrix)]] == 0).all()
    assert all((p != 0).any() for p in model.parameters() if p.ndim == 1 and p.requires_grad)
    assert hook.shown()["zeros"] == pytest.approx(0.4, abs=0.01)


def test_a_centroid_moves_by_the_sum_of_its_entries_gradients() -> None:
    model = nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        model.weight[0, :3] = 0
    hook = Codebooks(SharedValues(bits=2), model)  # type: ignore[arg-type]
    before = model.weight.detach().clone()
    assert len(before.unique()) == 4 and (before[0, :3] == 0).all()
    gradient = torch.randn(5, 6)
    trained(hook, model, 1, [gradient])
    expected = before.clone()
    for value in before.unique():
        members = before == value
        expected[members] = value if value == 0 else value - 0.1 * gradient[members].sum()
    torch.testing.assert_close(model.weight.detach(), expected)


def test_centres_are_those_of_a_slow_k_means() -> None:
    values = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    centres = np.linspace(float(values.min()), float(values.max()), 7)
    for _ in range(100):
        groups = np.abs(values[:, None] - centres).argmin(1)
        centres = np.array(
            [values[groups == k].astype(float).mean() for k in range(len(centres)) if (groups == k).any()]
        )
    np.testing.assert_allclose(clustered(values, 7), centres, atol=1e-5)
    assert clustered(values[:3], 7).tolist() == pytest.approx(sorted(values[:3].tolist()))
    assert not len(clustered(values[:0], 7))


def test_a_run_is_packed_and_unpacked(teacher_folder: Path, tmp_path: Path) -> None:
    texts = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv"}
    settings = {"stages.*.epochs": 1, "stages.*.lr": 1e-3, "stages.shared.shared_values.bits": 4}
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", method="deep_compression", settings=settings, quiet=True,
        baseline=False, served=False, **texts,
    )  # fmt: skip
    state = load_file(tmp_path / "run" / "student" / "model.safetensors")
    for name, tensor in state.items():
        if tensor.ndim > 1:
            assert len(tensor.unique()) <= 16 and (tensor == 0).float().mean() >= 0.49, name
    (section,) = (one for one in result.report["sections"] if one["title"] == "Packed size")
    assert [row[0] for row in tables(result.report)[-1].rows] == ["as float32", "packed"]  # as the terminal shows it
    found = api.pack(tmp_path / "run", tmp_path / "small")
    assert found.packed < 0.4 * found.plain and found.coded == sum(map(coded.has_few_values, state.values())) > 20
    said = float(section["table"]["rows"][1]["cells"][0]) * 1e6
    assert 0 <= found.packed - said < 20_000  # the file names its parts
    with pytest.raises(TutelageError, match="tutelage unpack"):
        api.evaluate(str(tmp_path / "small"), quiet=True, train=texts["dev"])
    pair = AutoModelForSequenceClassification.from_pretrained(result.folder / "student"), result.tokenizer
    assert api.pack(pair, tmp_path / "pair").packed == api.pack(result, tmp_path / "result").packed == found.packed
    api.unpack(tmp_path / "small", tmp_path / "plain")
    again = load_file(tmp_path / "plain" / "model.safetensors")
    assert set(again) == set(state) and all(torch.equal(again[name], one) for name, one in state.items())
    scores = api.evaluate(str(tmp_path / "plain"), quiet=True, train=texts["dev"]).scores
    assert next(iter(scores.values())) == next(iter(result.report["student"]["scores"].values()))


@pytest.mark.parametrize(
    ("packed", "matrices", "told"),
    [
        (999, 0, "packing saves nothing: "),  # a byte less is another header's
        (1001, 2, "packing saves nothing: "),
        (950, 2, "packing saves hardly anything: "),
        (300, 2, None),
    ],
)
def test_pack_says_when_it_saves_nothing(
    packed: int, matrices: int, told: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    show("pack", Packed(folder="small", plain=1000, packed=packed, coded=matrices, tensors=9), as_json=False)
    out = capsys.readouterr().out
    assert ("note: packing" in out) is (told is not None)
    assert told is None or (told in out and f"{matrices} of 9 tensors are in one" in out and "deep_compression" in out)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(TutelageError, match=r"holds no model\.safetensors"):
        api.pack(tmp_path / "model", tmp_path / "small")
    with pytest.raises(TutelageError, match="holds no packed weights"):
        api.unpack(tmp_path / "model", tmp_path / "plain")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(TutelageError, match="cannot be read"):
        api.pack(tmp_path / "model", tmp_path / "small")
    save_file({"a": torch.randn(3, 4)}, tmp_path / "model" / PACKED, {"tutelage": json.dumps({"coded": 2})})
    with pytest.raises(TutelageError, match="not one that tutelage pack wrote"):
        api.unpack(tmp_path / "model", tmp_path / "plain")
    values = {"a|values": torch.ones(2), "a|entries|lengths": torch.ones(256, dtype=torch.uint8)}
    values |= {
        "a|entries|starts": torch.zeros(1, dtype=torch.int64),
        "a|entries|stream": torch.zeros(1, dtype=torch.uint8),
    }
    for how in (
        {"shape": [float("inf")]},
        {"shape": [2**20, 2**20], "entries": 4},
        {"shape": "22", "entries": 4},
        {},
        [],
    ):
        about = json.dumps({"coded": 1, "matrices": {"a": how}})
        said = {"tutelage": about, "sha256": coded._checksum(values, about)}
        save_file(values, tmp_path / "model" / PACKED, said)
        with pytest.raises(TutelageError, match="cannot be read"):
            api.unpack(tmp_path / "model", tmp_path / "plain")
    assert not (tmp_path / "small").exists() and not (tmp_path / "plain").exists()
