"""Each loss against a slow reference written out from its formula, in float64 and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tutelage.objectives import losses

B, N, D, H = 3, 7, 10, 2
LENGTHS = [7, 4, 2]
CLASSES = 4


def tensor(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture
def mask() -> Tensor:
    return (torch.arange(N) < torch.tensor(LENGTHS)[:, None]).long()


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exps = [math.exp(x - top) for x in row]
    return [x / sum(exps) for x in exps]


# ------------------------------------------------------------------------------------------------ slow references


def slow_angle(u: Tensor, v: Tensor) -> float:
    return sum(a * b for a, b in zip(u.tolist(), v.tolist(), strict=True)) / math.sqrt(
        sum(a * a for a in u.tolist()) * sum(b * b for b in v.tolist())
    )


def slow_vector_cosine(s: Tensor, t: Tensor) -> float:
    return sum(1 - slow_angle(u, v) for u, v in zip(s, t, strict=True)) / len(s)


def slow_similarity_matrix(s: Tensor, t: Tensor) -> float:
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if i != j]
    return sum((slow_angle(s[i], s[j]) - slow_angle(t[i], t[j])) ** 2 for i, j in pairs) / len(pairs)


def slow_cross_entropy(z: Tensor, y: Tensor) -> float:
    rows = [(row.tolist(), int(label)) for row, label in zip(z, y, strict=True) if label >= 0]
    return sum(-math.log(softmax(row)[label]) for row, label in rows) / len(rows)


def slow_pseudo_label_cross_entropy(s: Tensor, t: Tensor, y: Tensor, weights: list[float]) -> float:
    total = 0.0
    for row, theirs, label, weight in zip(s.tolist(), t.tolist(), y.tolist(), weights, strict=True):
        chosen = label if label >= 0 else max(range(len(theirs)), key=lambda c: theirs[c])
        total -= weight * math.log(softmax(row)[chosen])
    return total / len(s)


def slow_soft_cross_entropy(s: Tensor, t: Tensor, temperature: float) -> float:
    total = 0.0
    for row_s, row_t in zip(s.tolist(), t.tolist(), strict=True):
        p_s = softmax([z / temperature for z in row_s])
        p_t = softmax([z / temperature for z in row_t])
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p_t, p_s, strict=True))
    return temperature**2 * total / len(s)


def slow_hidden_mse(s: Tensor, t: Tensor) -> float:
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for i in range(length):
            total += sum((float(s[b, i, k]) - float(t[b, i, k])) ** 2 for k in range(D))
    return total / (D * sum(LENGTHS))


def slow_cosine(s: Tensor, t: Tensor) -> float:
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for i in range(length):
            x, y = s[b, i].double().numpy(), t[b, i].double().numpy()
            total += 1 - float(x @ y) / (float(np.linalg.norm(x)) * float(np.linalg.norm(y)))
    return total / sum(LENGTHS)


def slow_attention(qs: Tensor, ks: Tensor, qt: Tensor, kt: Tensor, bias: Tensor | None = None) -> float:
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for a in range(H):
            for i in range(length):
                for j in range(length):
                    ours = float(qs[b, a, i].double() @ ks[b, a, j].double()) / math.sqrt(qs.shape[-1])
                    theirs = float(qt[b, a, i].double() @ kt[b, a, j].double()) / math.sqrt(qt.shape[-1])
                    theirs += 0.0 if bias is None else float(bias[b, a, i, j])
                    total += (ours - theirs) ** 2
    return total / (H * sum(length**2 for length in LENGTHS))


def reference_tinybert_attention(qs: Tensor, ks: Tensor, qt: Tensor, kt: Tensor, mask: Tensor) -> float:
    """What TinyBERT's code computes: scores with an additive mask of -10000, those <= -100 set to 0, mean over all."""
    bias = (1 - mask.double().numpy())[:, None, None, :] * -10000.0
    ours = qs.double().numpy() @ ks.double().numpy().transpose(0, 1, 3, 2) / math.sqrt(qs.shape[-1]) + bias
    theirs = qt.double().numpy() @ kt.double().numpy().transpose(0, 1, 3, 2) / math.sqrt(qt.shape[-1]) + bias
    ours, theirs = np.where(ours <= -1e2, 0, ours), np.where(theirs <= -1e2, 0, theirs)
    return float(((ours - theirs) ** 2).mean())


def attention_inputs(seed: int = 0, d_s: int = 5, d_t: int = 6, n: int = N) -> list[Tensor]:
    return [tensor(B, H, n, d, seed=seed + i) for i, d in enumerate((d_s, d_s, d_t, d_t))]


# -------------------------------------------------------------------------------------------------------- formulas


def test_cross_entropy_skips_examples_without_a_label() -> None:
    z, y = tensor(5, CLASSES), torch.tensor([0, 3, -1, 1, -1])
    assert losses.cross_entropy(z, y).item() == pytest.approx(slow_cross_entropy(z, y), rel=1e-6)
    assert losses.cross_entropy(z, torch.full((5,), -1)).item() == 0


def test_squared_error_skips_examples_without_a_label() -> None:
    z, y = tensor(4, 1), torch.tensor([1.0, float("nan"), -2.0, 0.5])
    expected = sum((float(z[i, 0]) - float(y[i])) ** 2 for i in (0, 2, 3)) / 3
    z.requires_grad_()
    loss = losses.squared_error(z, y)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert z.grad is not None and z.grad.isfinite().all() and z.grad[1] == 0


def test_binary_cross_entropy() -> None:
    z, y = tensor(3, 4), (tensor(3, 4, seed=1) > 0).float()
    y[2] = float("nan")
    expected = 0.0
    for i in range(2):
        for c in range(4):
            p = 1 / (1 + math.exp(-float(z[i, c])))
            expected -= math.log(p if y[i, c] else 1 - p) / 4 / 2
    assert losses.binary_cross_entropy(z, y).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 20.0])
def test_soft_cross_entropy(temperature: float) -> None:
    s, t = tensor(6, CLASSES, scale=3), tensor(6, CLASSES, seed=1, scale=3)
    expected = slow_soft_cross_entropy(s, t, temperature)
    assert losses.soft_cross_entropy(s, t, temperature).item() == pytest.approx(expected, rel=1e-5)
    unscaled = losses.soft_cross_entropy(s, t, temperature, scale=False).item()
    assert unscaled == pytest.approx(expected / temperature**2, rel=1e-5)
    over_classes = losses.soft_cross_entropy(s, t, temperature, reduction="mean").item()
    assert over_classes == pytest.approx(expected / CLASSES, rel=1e-5)


def test_vectors_and_their_similarities() -> None:
    s, t = tensor(6, D, scale=3), tensor(6, D, seed=1)
    assert losses.vector_cosine(s, t).item() == pytest.approx(slow_vector_cosine(s, t), rel=1e-5)
    wider = tensor(6, D + 3, seed=2)
    assert losses.similarity_matrix(s, wider).item() == pytest.approx(slow_similarity_matrix(s, wider), rel=1e-5)
    weighted = losses.similarity_matrix(s, wider, weights=torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, 2.0])).item()
    terms = {(i, j): slow_similarity_matrix(s[[i, j]], wider[[i, j]]) for i in range(6) for j in range(i)}
    assert weighted == pytest.approx(sum(x * ((i > 3) + (j > 3)) for (i, j), x in terms.items()) / 15, rel=1e-5)


def test_soft_cross_entropy_gradient_is_temperature_times_the_difference_of_probabilities() -> None:
    s, t, temperature = tensor(6, CLASSES, scale=3).requires_grad_(), tensor(6, CLASSES, seed=1, scale=3), 3.0
    losses.soft_cross_entropy(s, t, temperature).backward()
    expected = temperature / 6 * ((s / temperature).softmax(-1) - (t / temperature).softmax(-1))
    assert s.grad is not None
    torch.testing.assert_close(s.grad, expected.detach(), atol=1e-7, rtol=1e-5)


def test_soft_cross_entropy_at_high_temperature_is_the_mse_of_centred_logits() -> None:
    s, t = tensor(8, CLASSES, scale=3), tensor(8, CLASSES, seed=1, scale=3)
    d = (s - t).double()
    limit = float((d - d.mean(-1, keepdim=True)).square().sum() / (2 * CLASSES * 8))
    assert losses.soft_cross_entropy(s, t, 100.0).item() == pytest.approx(limit, rel=2e-2)


def test_a_constant_added_to_the_logits_changes_the_mse_alone() -> None:
    s, t = tensor(6, CLASSES), tensor(6, CLASSES, seed=1)
    shifted = s + tensor(6, 1, seed=2)
    soft = losses.soft_cross_entropy(s, t, 2.0)
    torch.testing.assert_close(losses.soft_cross_entropy(shifted, t, 2.0), soft, rtol=1e-4, atol=1e-6)
    change = losses.logits_mse(s + 1.0, t) - losses.logits_mse(s, t)
    torch.testing.assert_close(change, (2 * (s - t) + 1).mean(), rtol=1e-4, atol=1e-5)


def test_soft_binary_cross_entropy() -> None:
    s, t, temperature = tensor(3, 4), tensor(3, 4, seed=1), 2.0
    expected = 0.0
    for i in range(3):
        for c in range(4):
            p = 1 / (1 + math.exp(-float(t[i, c]) / temperature))
            q = 1 / (1 + math.exp(-float(s[i, c]) / temperature))
            expected += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected *= temperature**2 / 12
    assert losses.soft_binary_cross_entropy(s, t, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_logits_mse() -> None:
    s, t = tensor(3, 4), tensor(3, 4, seed=1)
    summed = sum((float(s[i, c]) - float(t[i, c])) ** 2 for i in range(3) for c in range(4)) / 3
    assert losses.logits_mse(s, t, reduction="sum").item() == pytest.approx(summed, rel=1e-6)
    assert losses.logits_mse(s, t).item() == pytest.approx(summed / 4, rel=1e-6)


def test_hidden_mse(mask: Tensor) -> None:
    s, t = tensor(B, N, D), tensor(B, N, D, seed=1)
    assert losses.hidden_mse(s, t, mask).item() == pytest.approx(slow_hidden_mse(s, t), rel=1e-6)


def test_hidden_cosine(mask: Tensor) -> None:
    s, t = tensor(B, N, D), tensor(B, N, D, seed=1)
    assert losses.hidden_cosine(s, t, mask).item() == pytest.approx(slow_cosine(s, t), rel=1e-5)


def test_patient_mse_is_twice_one_minus_the_cosine() -> None:
    s, t = tensor(B, D), tensor(B, D, seed=1)
    expected = 0.0
    for x, y in zip(s.double().numpy(), t.double().numpy(), strict=True):
        expected += float(((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2).sum()) / B
    assert losses.patient_mse(s, t).item() == pytest.approx(expected, rel=1e-6)
    cosine = torch.nn.functional.cosine_similarity(s, t).double()
    assert losses.patient_mse(s, t).item() == pytest.approx(float((2 * (1 - cosine)).mean()), rel=1e-5)
    torch.testing.assert_close(losses.patient_mse(s * 3.0, t * 0.2), losses.patient_mse(s, t))
    raw = float((s - t).square().sum() / B)
    assert losses.patient_mse(s, t, normalize=False).item() == pytest.approx(raw, rel=1e-6)


@pytest.mark.parametrize("form", ["direct", "gram"])
@pytest.mark.parametrize("sizes", [(5, 6), (4, 4), (1, 9)])
def test_attention_score_mse(form: str, sizes: tuple[int, int], mask: Tensor) -> None:
    inputs = attention_inputs(d_s=sizes[0], d_t=sizes[1])
    value = losses.attention_score_mse(*inputs, mask, form=form)
    assert value.item() == pytest.approx(slow_attention(*inputs), rel=1e-5)


def test_hidden_mse_relative_to_the_teacher(mask: Tensor) -> None:
    s, t = tensor(B, N, D), tensor(B, N, D, seed=1)
    expected = tokens = 0.0
    for b in range(B):
        real = [i for i in range(N) if mask[b, i]]
        squares = sum((float(s[b, i, d]) - float(t[b, i, d])) ** 2 for i in real for d in range(D))
        own = sum(float(t[b, i, d]) ** 2 for i in real for d in range(D))
        expected, tokens = expected + len(real) * squares / own, tokens + len(real)
    assert losses.hidden_mse(s, t, mask, relative=True).item() == pytest.approx(expected / tokens, rel=1e-5)
    assert losses.hidden_mse(0 * s, t, mask, relative=True).item() == pytest.approx(1.0, rel=1e-6)
    louder = losses.hidden_mse(100 * s, 100 * t, mask, relative=True).item()
    assert louder == pytest.approx(expected / tokens, rel=1e-5)


@pytest.mark.parametrize("form", ["direct", "gram"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_score_mse_relative_to_the_teacher(form: str, causal: bool, mask: Tensor) -> None:
    qs, ks, qt, kt = attention_inputs(d_s=5, d_t=6)
    expected = count = 0.0
    for b in range(B):
        real = [i for i in range(N) if mask[b, i]]
        pairs = [(i, j) for i in real for j in real if j <= i or not causal]
        ours, theirs = (
            [float(q[b, h, i] @ k[b, h, j]) / math.sqrt(q.shape[-1]) for h in range(H) for i, j in pairs]
            for q, k in ((qs, ks), (qt, kt))
        )
        squares = sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True))
        expected, count = expected + len(pairs) * squares / sum(y * y for y in theirs), count + len(pairs)
    value = losses.attention_score_mse(qs, ks, qt, kt, mask, form=form, causal=causal, relative=True)
    assert value.item() == pytest.approx(expected / count, rel=1e-5)


def test_a_relative_loss_keeps_the_direction_of_its_gradient() -> None:
    """Of a single text; of several, texts of every scale count alike."""
    whole = torch.ones(1, N)
    for loss in (
        lambda s, t, relative: losses.hidden_mse(s, t, whole, relative=relative),
        lambda s, t, relative: losses.attention_score_mse(*_heads(s), *_heads(t), whole, relative=relative),
    ):
        directions = []
        for relative in (False, True):
            s, t = tensor(1, N, D).float().requires_grad_(), tensor(1, N, D, seed=1).float()
            loss(s, t, relative).backward()
            directions.append(torch.nn.functional.normalize(s.grad.flatten(), dim=0))
        torch.testing.assert_close(directions[0], directions[1], rtol=1e-4, atol=1e-6)


def test_attention_score_mse_with_relative_positions(mask: Tensor) -> None:
    inputs, bias = attention_inputs(), tensor(B, H, N, N, seed=9)
    value = losses.attention_score_mse(*inputs, mask, teacher_bias=bias, form="gram")
    assert value.item() == pytest.approx(slow_attention(*inputs, bias), rel=1e-5)
    swapped = losses.attention_score_mse(*inputs[2:], *inputs[:2], mask, student_bias=bias)
    assert swapped.item() == pytest.approx(value.item(), rel=1e-6)


def slow_relations(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    heads: int,
    causal: bool,
    scalings: tuple[float | None, float | None] = (None, None),
    biases: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """``1 / (A |x|) sum_a sum_i KL(softmax(A_t B_t^T / sqrt(d_r)) || softmax(A_s B_s^T / sqrt(d_r)))``, row by row."""
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(LENGTHS):
        for a in range(heads):
            scores = []
            for vectors, scaling, bias in zip((student, teacher), scalings, biases, strict=True):
                rows, columns = (x[b].transpose(0, 1).flatten(1)[:length].double() for x in vectors)  # (n, width)
                size = rows.shape[1] // heads
                part = slice(a * size, (a + 1) * size)
                product = rows[:, part] @ columns[:, part].T * (scaling or 1 / math.sqrt(size))
                scores.append(product if bias is None else product + bias[b % len(bias), a, :length, :length])
            for i in range(length):
                log_s, log_t = (x[i, : i + 1 if causal else length].log_softmax(0) for x in scores)
                total = total + (log_t.exp() * (log_t - log_s)).sum()
    return total / (heads * sum(LENGTHS))


def test_hint(mask: Tensor) -> None:
    student, teacher = tensor(B, N, D), tensor(B, N, D, seed=1)
    assert losses.hint(student, teacher, mask).item() == pytest.approx(slow_hidden_mse(student, teacher) / 2, rel=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("relation_heads", [1, 3, 6, None])
def test_relation_kl(relation_heads: int | None, causal: bool, mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, whatever the blocks: rows of a head, some heads of a text, some texts, all at once."""
    own = relation_heads is None
    s = [tensor(B, 2, N, 6, seed=i).double().requires_grad_() for i in (0, 1)]
    t = [tensor(B, 2 if own else 3, N, 8, seed=i).double() for i in (2, 3)]
    bias = tensor(1, 2, N, N, seed=4).double().requires_grad_()
    their_bias = tensor(B, 2, N, N, seed=5).double()
    more = {"student_scaling": 0.3, "student_bias": bias, "teacher_bias": their_bias} if own else {}
    leaves = [*s, *([bias] if own else [])]
    heads, biases = (2, (bias, their_bias)) if own else (relation_heads, (None, None))
    expected = slow_relations(tuple(s), tuple(t), heads, causal, (0.3 if own else None, None), biases)
    gradients = torch.autograd.grad(expected, leaves)
    for size in (1, 20, 120, 300, 2**18):
        monkeypatch.setitem(losses.RELATION_BLOCK, "cpu", size)
        value = losses.relation_kl(tuple(s), tuple(t), mask, relation_heads, causal=causal, **more)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        for found, wanted in zip(torch.autograd.grad(value, leaves), gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of", [1, 2], ids=["self", "pair"])
def test_relations_in_float32(of: int, mask: Tensor) -> None:
    s = [tensor(B, 2, N, 6, seed=i, scale=3.0).requires_grad_() for i in range(of)]
    t = [tensor(B, 2, N, 8, seed=5 + i, scale=3.0) for i in range(of)]
    ours, theirs = (s[0], s[-1]), (t[0], t[-1])
    found, wanted = losses.relation_kl(ours, theirs, mask), slow_relations(ours, theirs, 2, False)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(found, s), torch.autograd.grad(wanted, s), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that an operation gives."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.most = max(self.most, *(x.numel() for x in tree_leaves(found) if isinstance(x, Tensor)), 0)
        return found


def test_relations_make_no_map_of_all_tokens_by_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    n, s = 1024, tensor(1, 2, 1024, 8).requires_grad_()
    most = []
    for size in (losses.RELATION_BLOCK["cpu"], n * n):
        monkeypatch.setitem(losses.RELATION_BLOCK, "cpu", size)
        with Largest() as largest:
            losses.relation_kl((s, s), (s.detach(), s.detach()), torch.ones(1, n, dtype=torch.int64)).backward()
        most.append(largest.most)
    assert most == [n * n // 4, n * n]


@pytest.mark.parametrize("form", ["auto", "gram"])
def test_scores_that_a_causal_model_does_not_look_at_do_not_count(form: str, mask: Tensor) -> None:
    qs, ks, qt, kt = attention_inputs()
    expected, places = 0.0, 0
    for b, length in enumerate(LENGTHS):
        for i in range(length):
            for j in range(i + 1):
                for a in range(H):
                    ours = float(qs[b, a, i].double() @ ks[b, a, j].double()) / math.sqrt(qs.shape[-1])
                    theirs = float(qt[b, a, i].double() @ kt[b, a, j].double()) / math.sqrt(qt.shape[-1])
                    expected += (ours - theirs) ** 2
                places += 1
    value = losses.attention_score_mse(qs, ks, qt, kt, mask, form=form, causal=True)
    assert value.item() == pytest.approx(expected / (H * places), rel=1e-5)
    assert places == sum(n * (n + 1) // 2 for n in LENGTHS)


@pytest.mark.parametrize("form", ["direct", "gram"])
def test_attention_score_mse_as_the_reference_code_pads(form: str, mask: Tensor) -> None:
    inputs = attention_inputs()
    value = losses.attention_score_mse(*inputs, mask, padding="reference", form=form)
    assert value.item() == pytest.approx(reference_tinybert_attention(*inputs, mask), rel=1e-5)
    longer = [torch.cat([x, tensor(B, H, 3, x.shape[-1], seed=9)], dim=2) for x in inputs]
    longer_mask = torch.cat([mask, torch.zeros(B, 3, dtype=torch.long)], dim=1)
    value_longer = losses.attention_score_mse(*longer, longer_mask, padding="reference", form=form)
    assert value_longer.item() == pytest.approx(reference_tinybert_attention(*longer, longer_mask), rel=1e-5)
    assert abs(value_longer.item() - value.item()) > 1e-3


@pytest.mark.parametrize("mismatch", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_both_forms_agree_however_close_the_student_is(mismatch: float) -> None:
    """The map-free form subtracts large numbers; in float32 it would be 4 % off at 1e-3."""
    n, d = 160, 16
    mask = (torch.arange(n) < torch.tensor([n, 140, 60])[:, None]).long()
    qt, kt = tensor(B, H, n, d, scale=2), tensor(B, H, n, d, seed=1, scale=2)
    noise = [tensor(B, H, n, d, seed=seed) * mismatch for seed in (2, 3)]
    gradients, values = [], []
    for form in ("direct", "gram"):
        qs, ks = (qt + noise[0]).requires_grad_(), (kt + noise[1]).requires_grad_()
        value = losses.attention_score_mse(qs, ks, qt, kt, mask, form=form)
        value.backward()
        values.append(value.item())
        gradients.append((qs.grad, ks.grad))
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    for direct, gram in zip(*gradients, strict=True):
        assert direct is not None and gram is not None
        assert (direct - gram).norm() <= 1e-3 * direct.norm()


def test_the_form_is_chosen_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.ones(B, N, dtype=torch.long)
    inputs = attention_inputs()
    direct = losses.attention_score_mse(*inputs, mask)
    monkeypatch.setattr(losses, "DIRECT_UP_TO", N - 1)
    assert direct.item() == losses.attention_score_mse(*inputs, mask, form="direct").item()
    assert (
        losses.attention_score_mse(*inputs, mask).item()
        == losses.attention_score_mse(*inputs, mask, form="gram").item()
    )


# ------------------------------------------------------------------------------------------------ what all must hold

MASKED = {
    "hidden_mse": lambda s, t, m: losses.hidden_mse(s, t, m),
    "hidden_cosine": lambda s, t, m: losses.hidden_cosine(s, t, m),
    "attention direct": lambda s, t, m: losses.attention_score_mse(*_heads(s), *_heads(t), m, form="direct"),
    "attention gram": lambda s, t, m: losses.attention_score_mse(*_heads(s), *_heads(t), m, form="gram"),
    "relations": lambda s, t, m: losses.relation_kl(_heads(s), _heads(t), m),
}


def _heads(x: Tensor) -> tuple[Tensor, Tensor]:
    b, n, d = x.shape
    heads = x.view(b, n, H, d // H).transpose(1, 2)
    return heads, heads.flip(-1) + 1


@pytest.mark.parametrize("name", MASKED)
def test_padding_changes_neither_value_nor_gradient(name: str, mask: Tensor) -> None:
    s, t = tensor(B, N, D).requires_grad_(), tensor(B, N, D, seed=1)
    value = MASKED[name](s, t, mask)
    value.backward()
    garbage = torch.full((B, 5, D), 77.0)
    longer_s = torch.cat([s.detach() + 50 * (1 - mask)[..., None], garbage], dim=1).requires_grad_()
    longer_t = torch.cat([t - 30 * (1 - mask)[..., None], -garbage], dim=1)
    longer = MASKED[name](longer_s, longer_t, torch.cat([mask, torch.zeros(B, 5, dtype=torch.long)], dim=1))
    longer.backward()
    assert longer.item() == pytest.approx(value.item(), rel=1e-6)
    assert s.grad is not None and longer_s.grad is not None
    real = mask[..., None].bool()
    torch.testing.assert_close(longer_s.grad[:, :N] * real, s.grad * real, rtol=1e-5, atol=1e-8)
    assert longer_s.grad[:, N:].abs().max() == 0


@pytest.mark.parametrize("name", MASKED)
def test_zero_when_student_and_teacher_agree(name: str, mask: Tensor) -> None:
    x = tensor(B, N, D).requires_grad_()
    value = MASKED[name](x, x.detach().clone(), mask)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert x.grad is not None and x.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    "loss",
    [
        losses.soft_cross_entropy,
        losses.logits_mse,
        losses.soft_binary_cross_entropy,
        losses.patient_mse,
        losses.vector_cosine,
        losses.similarity_matrix,
    ],
)
def test_zero_when_the_predictions_agree(loss) -> None:
    x = tensor(4, CLASSES).requires_grad_()
    value = loss(x, x.detach().clone())
    value.backward()
    assert abs(value.item()) < 1e-6
    assert x.grad is not None and x.grad.abs().max() < 1e-6


def test_pseudo_labels_stand_where_there_is_no_label() -> None:
    s, t, y = tensor(5, CLASSES), tensor(5, CLASSES, seed=1), torch.tensor([-1, 2, -1, 0, 1])
    none, weights = torch.full_like(y, -1), [0.2, 1.0, 0.0, 0.5, 2.0]
    for labels in (y, none):
        expected = slow_pseudo_label_cross_entropy(s, t, labels, [1.0] * 5)
        assert float(losses.pseudo_label_cross_entropy(s, t, labels)) == pytest.approx(expected, rel=1e-6)
        found = losses.pseudo_label_cross_entropy(s, t, labels, weights=torch.tensor(weights))
        assert float(found) == pytest.approx(slow_pseudo_label_cross_entropy(s, t, labels, weights), rel=1e-6)
    assert float(losses.pseudo_label_cross_entropy(s, t, y)) != pytest.approx(
        float(losses.pseudo_label_cross_entropy(s, t, none))
    )


def test_pieces_of_a_step_add_up(mask: Tensor) -> None:
    """A batch cut in two, each part divided by the whole's totals, gives the whole's loss and gradient."""
    s, t = tensor(B, N, D), tensor(B, N, D, seed=1)
    z, y = tensor(B, CLASSES), torch.tensor([1, -1, 2])
    tokens, pairs = mask.sum(), mask.sum(1).square().sum()
    cases = [
        (lambda r: losses.hidden_mse(s[r], t[r], mask[r], tokens), losses.hidden_mse(s, t, mask)),
        (lambda r: losses.hidden_cosine(s[r], t[r], mask[r], tokens), losses.hidden_cosine(s, t, mask)),
        (
            lambda r: losses.attention_score_mse(*_heads(s[r]), *_heads(t[r]), mask[r], count=pairs),
            losses.attention_score_mse(*_heads(s), *_heads(t), mask),
        ),
        (
            lambda r: losses.relation_kl(_heads(s[r]), _heads(t[r]), mask[r], count=tokens),
            losses.relation_kl(_heads(s), _heads(t), mask),
        ),
        (lambda r: losses.cross_entropy(z[r], y[r], 2.0), losses.cross_entropy(z, y)),
        (
            lambda r: losses.pseudo_label_cross_entropy(z[r], -z[r], y[r], float(B)),
            losses.pseudo_label_cross_entropy(z, -z, y),
        ),
        (lambda r: losses.logits_mse(z[r], z[r] * 2, count=float(B)), losses.logits_mse(z, z * 2)),
        (lambda r: losses.vector_cosine(s[r, 0], t[r, 0], float(B)), losses.vector_cosine(s[:, 0], t[:, 0])),
        (lambda r: losses.patient_mse(s[r, 0], t[r, 0], count=float(B)), losses.patient_mse(s[:, 0], t[:, 0])),
    ]
    for part, whole in cases:
        assert float(part(slice(0, 1)) + part(slice(1, B))) == pytest.approx(float(whole), rel=1e-5)


def test_similarities_of_processes_are_those_of_one() -> None:
    """Of 5 texts in a step, one process reads 3 and another 2: losses and gradients add up. A text alone has no pair."""
    s, t, weights = tensor(5, D), tensor(5, D + 2, seed=1), torch.tensor([1.0, 0.5, 2.0, 0.0, 1.5])
    whole = s.clone().requires_grad_()
    wanted = losses.similarity_matrix(whole, t, 5.0, weights=weights)
    wanted.backward()
    parts = [s[:3].clone().requires_grad_(), s[3:].clone().requires_grad_()]
    values = []
    for part, rows, rest in ((parts[0], slice(0, 3), slice(3, 5)), (parts[1], slice(3, 5), slice(0, 3))):
        others = s[rest], t[rest], weights[rest]
        values.append(losses.similarity_matrix(part, t[rows], 5.0, weights=weights[rows], others=others))
        values[-1].backward()
    assert sum(value.item() for value in values) == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)
    assert float(losses.similarity_matrix(s[:1], t[:1], 5.0)) == 0


def test_half_precision_inputs_are_compared_in_float32(mask: Tensor) -> None:
    s, t = tensor(B, N, D).bfloat16(), tensor(B, N, D, seed=1).bfloat16()
    value = losses.hidden_mse(s, t, mask)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(slow_hidden_mse(s, t), rel=1e-5)
