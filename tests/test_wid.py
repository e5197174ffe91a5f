"""Weight inheritance: that nothing is lost in wrapping, cutting and merging, and that pruning obeys its laws."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ALIKE, tiny_model
from test_common import ROWS, config_for, small
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertModel,
    DistilBertForMaskedLM,
    GPT2LMHeadModel,
    MegatronBertForMaskedLM,
    PreTrainedModel,
    RobertaForMaskedLM,
    XLMRobertaXLForMaskedLM,
)

from tutelage import anatomy, api
from tutelage.anatomy.families import FAMILIES
from tutelage.data import batches
from tutelage.errors import TutelageError
from tutelage.evaluation.speed import count_parameters
from tutelage.mechanisms.pruning.pruner import Pruner
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.methods import METHODS
from tutelage.methods.wid import wid, wid11, wid55, wid_reference
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.recipes.settings import with_settings
from tutelage.run.run import run
from tutelage.students.build import build
from tutelage.students.compactors import compaction, wrapped
from tutelage.students.compactors.compaction import Compaction, _weights_of, compaction_of, wrap
from tutelage.students.compactors.wrapped import Compacted, KeptNorm
from tutelage.students.specs import Copied, Inherited, Sliced, parse
from tutelage.teachers.source import Source
from tutelage.training import checkpoint, loop

LANGUAGE = {
    "bert": BertForMaskedLM,
    "roberta": RobertaForMaskedLM,
    "distilbert": DistilBertForMaskedLM,
    "gpt2": GPT2LMHeadModel,
    "xlm-roberta-xl": XLMRobertaXLForMaskedLM,
    "megatron-bert": MegatronBertForMaskedLM,
}


def teacher(family: str, head: str = "classes") -> PreTrainedModel:
    """A model of 4 layers x 32 whose biases and norms are no longer ones and zeros."""
    model = tiny_model(family)
    if head == "masked_lm":
        model = LANGUAGE[family](model.config) if family in LANGUAGE else AutoModelForMaskedLM.from_config(model.config)
    if head == "tokens":
        model = AutoModelForTokenClassification.from_config(model.config)
    if head == "spans":
        model = BertForQuestionAnswering(model.config)
    if head == "none":
        model = BertModel(model.config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.1)
    return model.eval()


def batch(seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@torch.no_grad()
def answers(model: PreTrainedModel, seed: int = 0) -> Tensor:
    """Logits (or the last hidden states) at real tokens."""
    inputs = batch(seed)
    output = model(**inputs)
    if "start_logits" in output:
        found = torch.stack([output.start_logits, output.end_logits], dim=-1)
    elif "logits" in output:
        found = output.logits
    else:
        found, compaction = output.last_hidden_state, compaction_of(model)
        if compaction is not None and not compaction.is_cut:  # the others mean nothing
            found = found[..., compaction.groups["residual"].index]
    return found if found.shape[0] == found.numel() // found.shape[-1] else found[inputs["attention_mask"].bool()]


def shaken(model: PreTrainedModel, spec: Inherited) -> Compaction:
    """Wrapped, with compactors far from the identity, coordinates chosen at random, and nothing left of the others."""
    compaction = wrap(model, spec)
    model.to(next(p for p in model.parameters()).dtype)
    generator = torch.Generator().manual_seed(2)
    for group in compaction:
        for member in group.members:
            noise = torch.randn(member.matrix.shape, generator=generator, dtype=torch.float64) * 0.1
            member.matrix.data += noise.to(member.matrix.dtype)
        units, left = group.units
        group.restrict(units - left, torch.rand(group.size, generator=generator))
        for member in group.members:
            member.matrix.data[group.gone] = 0
    return compaction


HEADS = [
    *((family, "masked_lm") for family in LANGUAGE),
    *((family, "classes") for family in LANGUAGE),
    *((family, "tokens") for family in LANGUAGE),
    ("bert", "spans"),
    ("bert", "none"),
    *(
        pytest.param(family, head, marks=pytest.mark.slow)
        for family in ALIKE
        if FAMILIES[family].rigid is None
        for head in ("masked_lm", "classes")
    ),
]

# ----------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_a_wrapped_model_computes_what_it_did(family: str, head: str) -> None:
    model = teacher(family, head)
    wrapped = copy.deepcopy(model)
    wrap(wrapped, Inherited(hidden=16))
    for one in (model, wrapped):
        one.set_attn_implementation("eager")
    with torch.no_grad():
        before = model(**batch(), output_hidden_states=True, output_attentions=True)
        after = wrapped(**batch(), output_hidden_states=True, output_attentions=True)
    assert float((answers(model) - answers(wrapped)).abs().max()) <= 1e-5
    for ours, theirs in zip(
        after.hidden_states + after.attentions, before.hidden_states + before.attentions, strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", ["dim", "head"])
@pytest.mark.parametrize("alignment", ["mask", "tied"])
@pytest.mark.parametrize(("family", "head"), HEADS)
def test_cut_and_merged_it_computes_the_same(family: str, head: str, alignment: str, strategy: str) -> None:
    for decoder in ("tied", "untied") if head == "masked_lm" else ("tied",):
        model = teacher(family, head).double()
        spec = Inherited(hidden=16, alignment=alignment, strategy=strategy, decoder=decoder)
        compaction = shaken(model, spec)
        model.double()
        wrapped, at_once = answers(model), copy.deepcopy(model)
        compaction.cut(model)
        torch.testing.assert_close(answers(model), wrapped, atol=1e-9, rtol=0)
        compaction.merge(model)
        torch.testing.assert_close(answers(model), wrapped, atol=1e-9, rtol=0)
        direct = compaction_of(at_once)
        assert direct is not None and compaction_of(model) is None
        direct.merge(at_once)
        torch.testing.assert_close(answers(at_once), wrapped, atol=1e-9, rtol=0)
        shape = anatomy.shape_of(model.config)
        assert (shape.layers, shape.hidden, shape.intermediate) == (4, 16, 24)
        assert shape.heads == (4 if strategy == "dim" else 2)
        assert not any(isinstance(module, (Compacted, KeptNorm)) for module in model.modules())


def test_single_precision_merges_to_a_relative_error_of_rounding() -> None:
    model = teacher("bert", "masked_lm")
    compaction = shaken(model, Inherited(hidden=16))
    wrapped = answers(model)
    compaction.merge(model)
    assert float((answers(model) - wrapped).abs().max() / wrapped.abs().max()) <= 1e-4


@pytest.mark.parametrize("family", LANGUAGE)
def test_unscaled_queries_would_be_wrong(family: str) -> None:
    """The authors' merge leaves queries as they are, though heads of half the size divide scores by less."""
    model = teacher(family, "masked_lm").double()
    compaction = shaken(model, Inherited(hidden=16))
    model.double()
    wrapped = answers(model)
    compaction._fold = 1.0
    compaction.merge(model)
    assert float((answers(model) - wrapped).abs().max()) > 1e-2


@pytest.mark.parametrize("family", LANGUAGE)
def test_a_norm_over_all_coordinates_would_be_wrong(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = teacher(family, "masked_lm").double()
    compaction = shaken(model, Inherited(hidden=16))
    model.double()
    whole = lambda self, x: F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(KeptNorm, "forward", whole)
        wrapped = answers(model)
    compaction.merge(model)
    assert float((answers(model) - wrapped).abs().max()) > 1e-2


@pytest.mark.parametrize("strategy", ["dim", "head"])
def test_what_is_kept_has_the_sizes_of_the_student(strategy: str) -> None:
    compaction = shaken(teacher("bert", "masked_lm"), Inherited(hidden=16, strategy=strategy, decoder="untied"))
    kept = compaction.kept()
    assert {len(entry["kept"]) for name, entry in kept.items() if not name.startswith("intermediate")} == {16}
    assert {len(entry["kept"]) for name, entry in kept.items() if name.startswith("intermediate")} == {24}
    assert all(entry["kept"] == sorted(set(entry["kept"])) for entry in kept.values())
    for number in range(1, 5):
        heads = np.bincount(np.array(kept[f"attention_{number}"]["kept"]) // 8, minlength=4)
        assert sorted(heads) == ([4, 4, 4, 4] if strategy == "dim" else [0, 0, 8, 8])


def test_weights_first_or_activations_first() -> None:
    torch.manual_seed(0)
    model = teacher("gpt2", "masked_lm").double()
    shaken(model, Inherited(hidden=16))
    model.double()
    for link in (module for module in model.modules() if isinstance(module, Compacted)):
        weight, bias = link.effective()
        x = torch.randn(7, weight.shape[1], dtype=torch.float64)
        torch.testing.assert_close(F.linear(x, weight, bias), link._step_by_step(x), atol=1e-12, rtol=0)
        # By hand, from the formula C W R and C b.
        parts = []
        for part, (w, b) in enumerate(link.split()):
            out, into = link.sides(part)
            r = torch.eye(w.shape[1], dtype=torch.float64) if into is None else into.matrix.T
            c = torch.eye(len(w), dtype=torch.float64) if out is None else out.matrix
            parts.append((c @ w @ r, 0 if b is None else c @ b))
        torch.testing.assert_close(weight, torch.cat([w for w, _ in parts]), atol=1e-12, rtol=0)
        if bias is not None:
            torch.testing.assert_close(bias, torch.cat([b for _, b in parts]), atol=1e-12, rtol=0)


def test_the_norm_of_kept_coordinates() -> None:
    """By the formula, its gradients by finite differences."""
    torch.manual_seed(0)
    group = wrapped.Group("residual", 7, 3)  # a third is no exact number
    group.keep(torch.tensor([True, False, True, False, False, False, True]))
    plain = nn.LayerNorm(7)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    norm = KeptNorm(plain, group).double()
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    kept = x[..., group.index]
    scale = (kept.var(dim=-1, correction=0, keepdim=True) + norm.eps).sqrt()
    wanted = (x - kept.mean(dim=-1, keepdim=True)) / scale * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), wanted, atol=1e-13, rtol=0)

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(normed, (x, norm.weight, norm.bias))


def halved(family: str, cut: bool) -> compaction.Compaction:
    """Compactors off the identity around a model of words that is to be half as wide, or is by now."""
    model = teacher(family, "masked_lm")
    compaction = shaken(model, Inherited(hidden=16))
    if cut:
        compaction.cut(model)
    return compaction


def assert_gradients_alike(found: Tensor, exact: Tensor, parameters: list[Tensor]) -> None:
    """Those through what was computed in half precision, and through the same without; all are float32."""
    ours = torch.autograd.grad(found.float().square().sum(), parameters)
    for gradient, plain in zip(ours, torch.autograd.grad(exact.square().sum(), parameters), strict=True):
        assert gradient.dtype == torch.float32
        assert float(F.cosine_similarity(gradient.flatten(), plain.flatten(), dim=0)) > 0.999


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_is_composed_in_half_precision(family: str, cut: bool) -> None:
    """Products off the diagonal are of half precision; what the diagonals do, the identity above all, is not."""
    compaction = halved(family, cut)
    coarse = 0.0
    for diagonal in (False, True):
        for link in compaction.links.values():
            if diagonal:
                for side in (side for part in range(link.parts) for side in link.sides(part) if side is not None):
                    index = side.group.index if cut else torch.arange(side.group.size)
                    kept = torch.zeros_like(side.matrix.data).scatter_(1, index[:, None], 1.0)
                    side.matrix.data *= kept
            with torch.no_grad():
                exact, bias = link.effective()
                with torch.autocast("cpu", torch.bfloat16):
                    composed, same = link.effective()
            assert composed.dtype == exact.dtype == torch.float32
            if diagonal:
                torch.testing.assert_close(composed, exact, atol=1e-7, rtol=1e-6)
            else:
                torch.testing.assert_close(composed, exact, atol=0.02 * float(exact.abs().max()), rtol=0)
                coarse = max(coarse, float((composed - exact).abs().max() / exact.abs().max()))
            if bias is not None and same is not None:
                bias = bias.detach()
                torch.testing.assert_close(same.detach(), bias, atol=0.02 * float(bias.abs().max()), rtol=0)
    assert coarse > 1e-4, "nothing was computed in half precision"


def test_gradients_of_what_is_composed_in_half_precision() -> None:
    link = next(iter(halved("bert", cut=False).links.values()))
    x = torch.randn(64, link.weight.shape[1])
    with torch.autocast("cpu", torch.bfloat16):
        found = link(x)
    assert found.dtype == torch.bfloat16
    assert_gradients_alike(found, link(x), [*link.parameters()])


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_step_by_step_in_half_precision(family: str, cut: bool) -> None:
    """As what is composed: off the diagonal of half precision, while a diagonal near 1 is not rounded to 1."""
    compaction = halved(family, cut)
    torch.manual_seed(0)
    for link in compaction.links.values():
        _, into = link.sides(0)
        x = torch.randn(5, next(link.split())[0].shape[1])
        x = x[:, into.group.index] if cut and into is not None else x
        with torch.autocast("cpu", torch.bfloat16):
            found = link._step_by_step(x)
        exact = link._step_by_step(x)
        assert found.dtype == torch.bfloat16 and exact.dtype == torch.float32
        torch.testing.assert_close(found.float(), exact, atol=0.03 * float(exact.detach().abs().max()), rtol=0)
        assert_gradients_alike(found, exact, [*link.parameters()])

        # Nothing but diagonals, by hand: before the matrix so near 1 that half precision would have made a 1 of them; after
        # it anything, for what is near 1 is lost in the results, which are of half precision anyway.
        for side in {side for part in range(link.parts) for side in link.sides(part) if side is not None}:
            index = side.group.index if cut else torch.arange(side.group.size)
            after = any(side is out for out in link.outs)
            values = 1 + (0.5 if after else 0.003) * (torch.rand(len(index), 1) - 0.5)
            assert after or (values.bfloat16() == 1).all()
            side.matrix.data = torch.zeros_like(side.matrix).scatter_(1, index[:, None], values)
        parts = []
        for part, (w, b) in enumerate(link.split()):
            out, before = link.sides(part)
            wide = x if before is None else x @ before.matrix  # one product for each sum: nothing is rounded in between
            y = F.linear(wide.bfloat16(), w.bfloat16(), None if b is None else b.bfloat16())
            y = y if out is None else (y.float() @ out.matrix.T).bfloat16()
            parts.append(y * link.factors[part])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(link._step_by_step(x), torch.cat(parts, dim=-1))


def test_the_gradients_of_a_composed_weight() -> None:
    linear = nn.Linear(4, 3).double()
    group_in, group_out = wrapped.Group("in", 4, 2), wrapped.Group("out", 3, 2)
    out, into = wrapped.Compactor(group_out).double(), wrapped.Compactor(group_in).double()
    link = Compacted(linear, [out], [into])

    def value(w: Tensor, b: Tensor, c: Tensor, q: Tensor, x: Tensor) -> Tensor:
        names = ("weight", "bias", "outs.0.matrix", "ins.0.matrix")
        result: Tensor = torch.func.functional_call(link, dict(zip(names, (w, b, c, q), strict=True)), (x,))
        return result

    tensors = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (3,), (3, 3), (4, 4))]
    for count in (1, 50):  # activations first, weights first
        assert torch.autograd.gradcheck(value, (*tensors, torch.randn(count, 4, dtype=torch.float64)))


@pytest.mark.parametrize("wrong", [0.0, 0.25])
def test_what_a_merge_changed_is_found_and_told(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = teacher("bert")
    shaken(model, Inherited(hidden=16))
    pruner, merge = Pruner(PruningSchedule(), model), Compaction.merge

    def spoilt(self: Compaction, model: PreTrainedModel) -> None:
        merge(self, model)
        model.classifier.bias.data[1] -= wrong

    monkeypatch.setattr(Compaction, "merge", spoilt)
    before = answers(model)
    record = pruner.merge(a_batch())
    assert compaction_of(model) is None
    assert record["difference"] == pytest.approx(wrong, abs=1e-4)
    assert record["difference"] == float((answers(model) - before).abs().max())
    assert record["largest_logit"] == float(before.abs().max())
    note = pruner.doubt(record)
    assert (note is not None and "changed logits by up to 0.25" in note) if wrong else note is None


@pytest.mark.parametrize("penalty", ["prox", "lasso"])
def test_rows_that_had_not_vanished_change_the_answers(penalty) -> None:
    model = teacher("bert")
    wrap(model, Inherited(hidden=16))
    pruner = Pruner(PruningSchedule(penalty=penalty), model)
    record = pruner.merge(a_batch())
    assert record["largest_masked"] == 1 and not record["cut"] and record["difference"] > 0.01
    note = pruner.doubt(record)
    assert note is not None and "pruned rows had norms up to 1 instead of 0" in note
    assert ("use pruning.penalty=prox" in note) == (penalty == "lasso")


def a_batch() -> batches.Batch:
    nothing = torch.zeros(3, dtype=torch.long)
    return batches.Batch(nothing, nothing, batch(), torch.zeros(3, 9), nothing, None, batches.Totals(3, 3, 3, 18, 126))


# ---------------------------------------------------------------------------------------------------- pruning


def scene(spec: Inherited, how: PruningSchedule) -> tuple[PreTrainedModel, Pruner, torch.optim.AdamW]:
    model = teacher("bert")
    torch.manual_seed(3)
    wrap(model, spec)
    pruner = Pruner(how, model)
    pruner.start()
    return model, pruner, torch.optim.AdamW(pruner.parameter_groups(model, 0.01), lr=1e-3)


def loss_of(model: PreTrainedModel, seed: int) -> Tensor:
    logits = model(**batch(seed)).logits
    labels = torch.tensor([0, 1, 0]) if logits.ndim == 2 else batch(seed)["input_ids"]
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def step(model: PreTrainedModel, pruner: Pruner, optimizer: torch.optim.AdamW, number: int, total: int) -> bool:
    """One step as the loop makes it."""
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group.get("factor", 1.0)
    loss_of(model, number).backward()
    pruner.before_step(optimizer, [], 10**6)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return pruner.after_step(optimizer, number, total)


@pytest.mark.parametrize("alignment", ["mask", "tied"])
@pytest.mark.parametrize(("family", "head"), [("bert", "classes"), ("bert", "masked_lm"), ("gpt2", "masked_lm")])
def test_what_learns_how_fast(family: str, head: str, alignment: str) -> None:
    """Compactors at the stage's rate and without decay, all else at its share of it; every parameter once."""
    model = teacher(family, head)
    wrap(model, Inherited(hidden=16, alignment=alignment))
    pruner = Pruner(PruningSchedule(weights_lr=0.25), model)
    groups = pruner.parameter_groups(model, 0.01)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted({id(p) for p in model.parameters()})
    matrices = {id(member.matrix) for group in pruner.compaction for member in group.members}
    for group in groups:
        ours = {id(p) in matrices for p in group["params"]}
        assert len(ours) <= 1
        assert group.get("factor", 1.0) == (1.0 if True in ours else 0.25)
        assert group["weight_decay"] == (0.0 if True in ours or group["params"][0].ndim == 1 else 0.01)


def test_kept_rows_have_the_gradient_of_the_loss_and_masked_rows_none() -> None:
    model, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule())
    compaction = pruner.compaction
    pruner.mask(8)
    loss_of(model, 0).backward()
    raw = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    pruner.before_step(optimizer, [], 10**6)
    matrices = {id(m.matrix): g for g in compaction for m in g.members}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        group = matrices.get(id(parameter))
        if group is None:
            assert torch.equal(parameter.grad, raw[name])
        else:
            assert torch.equal(parameter.grad[group.kept], raw[name][group.kept])
            assert not parameter.grad[~group.kept].any()
            assert raw[name][~group.kept].any()  # or there would be nothing to prune


def test_a_masked_row_of_norm_one_vanishes_in_its_time_and_stays_so() -> None:
    how = PruningSchedule(increments=1, interval=4, intervals_to_zero=2.0)
    model, pruner, optimizer = scene(Inherited(hidden=16), how)
    residual = pruner.compaction.groups["residual"]
    pruner.mask(1)
    member, rows, kept = residual.members[3], residual.gone, residual.index
    member.matrix.data[rows] = F.normalize(member.matrix.data[rows], dim=1)
    norms = []
    for _ in range(10):
        before = member.matrix.data.clone()
        member.matrix.grad = torch.randn_like(member.matrix)
        pruner.before_step(optimizer, [], 10**6)
        optimizer.step()
        moved = member.matrix.data.clone()
        pruner.after_step(optimizer, 1, 10**6)  # an increment is far away
        assert torch.equal(member.matrix.data[kept], moved[kept]) and not torch.equal(before[kept], moved[kept])
        norms.append(float(member.matrix.data[rows].norm(dim=1).max()))
    length = 1 / (2.0 * pruner.times(10**6)[0])
    assert norms[0] == pytest.approx(1 - length, abs=1e-6)
    pruner.compaction.groups["residual"].members[3].matrix.data[rows] = F.normalize(torch.randn(len(rows), 32), dim=1)
    fixed = Pruner(how, model)
    for number in range(1, 10):
        member.matrix.grad = torch.randn_like(member.matrix)
        fixed.before_step(optimizer, [], 10**6)
        optimizer.step()
        fixed.after_step(optimizer, 4 * number + 1, 200)
        largest = float(member.matrix.data[rows].norm(dim=1).max())
        assert (largest == 0.0) == (number >= math.ceil(8)), number


@pytest.mark.parametrize("selection", ["activation", "norm", "taylor", "random"])
@pytest.mark.parametrize("penalty", ["prox", "adam_l2", "lasso"])
def test_masks_only_grow_and_end_at_the_students_sizes(selection: str, penalty: str) -> None:
    how = PruningSchedule(selection=selection, penalty=penalty, increments=4, interval=2)
    model, pruner, optimizer = scene(Inherited(hidden=16), how)
    kept = {group.name: group.kept.clone() for group in pruner.compaction}
    cut_at = None
    for number in range(1, 17):
        if step(model, pruner, optimizer, number, 40):
            cut_at = number
        for group in pruner.compaction:
            assert not (group.kept & ~kept[group.name]).any()
            kept[group.name] = group.kept.clone()
    assert all(group.complete for group in pruner.compaction)
    if penalty == "prox":
        assert cut_at == 14  # four increments, then two intervals and one more for rows longer than 1
        assert {len(m.matrix) for m in pruner.compaction.groups["residual"].members} == {16}
        assert optimizer.state[pruner.compaction.groups["residual"].members[0].matrix]["exp_avg"].shape == (16, 32)
    else:  # these take longer
        assert pruner.compaction.largest_masked() > 0


def test_lasso_pulls_at_all_rows_and_masked_ones_have_nothing_else() -> None:
    """ResRep: 1e-4 of each row's direction, whether it is kept or not; the loss's gradient is of kept rows alone."""
    model, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule(penalty="lasso"))
    pruner.mask(8)
    loss_of(model, 0).backward()
    raw = {id(p): p.grad.clone() for p in model.parameters() if p.grad is not None}
    pruner.before_step(optimizer, [], 10**6)
    seen = 0
    for group in pruner.compaction:
        assert 0 < int(group.kept.sum()) < group.size
        for member in group.members:
            matrix = member.matrix
            if matrix.grad is None:
                continue
            pull = 1e-4 * matrix.detach() / matrix.detach().square().sum(dim=1, keepdim=True).sqrt()
            torch.testing.assert_close(matrix.grad, raw.pop(id(matrix)) * group.kept[:, None] + pull, atol=1e-9, rtol=0)
            seen += 1
    assert seen > 30 and all(torch.equal(p.grad, raw[id(p)]) for p in model.parameters() if id(p) in raw)


def test_rows_shrink_by_lasso_when_they_are_masked() -> None:
    model, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule(penalty="lasso"))
    pruner.mask(16)
    for _ in range(20):
        step(model, pruner, optimizer, 10**3, 10**6)  # an increment is far away
    for group in pruner.compaction:
        for member in group.members:
            norms = member.matrix.detach().norm(dim=1)
            # Adam takes about its rate, 1e-3, off the diagonal at every step.
            torch.testing.assert_close(norms[group.gone], torch.full((len(group.gone),), 0.98), atol=2e-3, rtol=0)
            assert float(norms[group.kept].mean()) > 0.985


@pytest.mark.parametrize("scope", ["all", "master"])
@pytest.mark.parametrize("strategy", ["dim", "head"])
def test_the_smallest_rows_go_first(strategy: str, scope: str) -> None:
    """By the norms of all compactors of a group or of the one that the authors' code looks at, taken by their names."""
    how = PruningSchedule(selection="norm", scope=scope, increments=2)
    model, pruner, _ = scene(Inherited(hidden=16, strategy=strategy), how)
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if name.endswith(".matrix"):
            parameter.data *= 0.5 + torch.rand(len(parameter), 1)
    pruner.mask(1)
    layer = r"bert\.encoder\.layer\."
    inside, sides = r"attention\.self\.(query|key|value)", r"(attention\.output|output)\.dense"
    readers = rf"{layer}\d\.({inside}|intermediate\.dense)\.ins|bert\.pooler\.dense\.ins"
    of_group = {
        "residual": rf"bert\.embeddings\.LayerNorm\.compactor|{readers}|{layer}\d\.{sides}\.outs",
        "attention_2": rf"{layer}1\.({inside}\.outs|attention\.output\.dense\.ins)",
        "intermediate_3": rf"{layer}2\.(intermediate\.dense\.outs|output\.dense\.ins)",
        "pooler": r"bert\.pooler\.dense\.outs|classifier\.ins",
    }
    if scope == "master":
        of_group = {
            "residual": rf"{layer}0\.attention\.self\.value\.ins",
            "attention_2": rf"{layer}1\.attention\.output\.dense\.ins",
            "intermediate_3": rf"{layer}2\.output\.dense\.ins",
            "pooler": r"classifier\.ins",
        }
    counts = (1, 1, 1, 1) if scope == "master" else (26, 4, 2, 2)
    for (name, pattern), count in zip(of_group.items(), counts, strict=True):
        found = [p.detach() for path, p in model.named_parameters() if re.match(rf"({pattern})(\.0)?\.matrix$", path)]
        assert len(found) == count
        norms = torch.cat(found, dim=1).double().square().sum(dim=1).sqrt().numpy()
        if not name.startswith("attention"):
            gone = set(np.argsort(norms)[: len(norms) // 4])  # half of the half that is to go
        elif strategy == "dim":
            gone = {8 * head + int(i) for head in range(4) for i in np.argsort(norms[8 * head :][:8])[:2]}
        else:
            head = int(np.argmin(norms.reshape(4, 8).sum(axis=1)))
            gone = set(range(8 * head, 8 * head + 8))
        assert set(pruner.compaction.groups[name].gone.tolist()) == gone, name


def test_scores_by_gradients_are_sums_of_squares() -> None:
    model, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule(selection="taylor"))
    expected = torch.zeros(32)
    for number in range(3):
        optimizer.zero_grad()
        loss_of(model, number).backward()
        members = pruner.compaction.groups["residual"].members
        expected += sum((m.matrix.data * m.matrix.grad).sum(dim=1) ** 2 for m in members if m.matrix.grad is not None)
        pruner.before_step(optimizer, [], 10**6)
    torch.testing.assert_close(pruner.compaction.groups["residual"].score, expected)


def test_energies_are_mean_squares_of_what_is_read() -> None:
    """Of every matrix that reads a group, over the real tokens of all pieces of a step; an evaluation does not count."""
    model, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule(selection="activation"))
    base, inputs = teacher("bert"), [batch(0), batch(1)]
    expected, inner, pooled = torch.zeros(32), torch.zeros(48), torch.zeros(32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for mode in (True, False):
        model.train(mode)
        for one in inputs:
            model(**one)
        pruner.before_step(optimizer, [], 10**6)
    seen: dict[str, list[Tensor]] = {}
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name, []).append(args[0]))
    for one in inputs:
        base(**one)
    real = [one["attention_mask"].bool() for one in inputs]
    for name, xs in seen.items():
        tokens = torch.cat([x[r] if x.ndim == 3 else x for x, r in zip(xs, real, strict=True)])
        energy = tokens.detach().square().mean(dim=0)
        if "self" in name or "intermediate" in name or name == "bert.pooler.dense":
            expected += energy
        elif name == "bert.encoder.layer.1.output.dense":
            inner += energy
        elif name == "classifier":
            pooled += energy
    groups = pruner.compaction.groups
    for found, wanted in (("residual", expected), ("intermediate_2", inner), ("pooler", pooled)):
        torch.testing.assert_close(groups[found].score, wanted, rtol=1e-4, atol=1e-5)
    pruner.mask(1)
    gone = sorted(expected.argsort()[: len(groups["residual"].gone)].tolist())
    assert groups["residual"].gone.tolist() == gone


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_overflowed_counts_in_no_score(value: float) -> None:
    """Of an fp16 step that the scaler skips."""
    model, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule(selection="taylor"))
    groups = pruner.compaction.groups
    scores = []
    for broken in (False, True, False):
        optimizer.zero_grad()
        loss_of(model, 0).backward()
        if broken:
            groups["residual"].members[2].matrix.grad[3, 4] = value
            for member in groups["attention_1"].members:
                member.matrix.grad.fill_(value)
        pruner.before_step(optimizer, [], 10**6)
        scores.append({name: group.score.clone() for name, group in groups.items()})
    for name in groups:
        counted = 2 if name in ("residual", "attention_1") else 3
        assert scores[0][name].max() > 0, name
        torch.testing.assert_close(scores[2][name], counted * scores[0][name])


def test_the_authors_penalty_has_its_fixed_point() -> None:
    """m <- 0.9 m + 0.1 (lambda - 1) p, then Adam's own m <- 0.9 m + 0.1 p: 9.53 p for lambda = 20."""
    _, pruner, optimizer = scene(Inherited(hidden=16), PruningSchedule(penalty="adam_l2"))
    pruner.mask(16)
    group = pruner.compaction.groups["residual"]
    matrix = group.members[0].matrix
    value = matrix.data.clone()
    for _ in range(200):
        matrix.grad = torch.zeros_like(matrix)
        pruner.before_step(optimizer, [], 10**6)
        optimizer.step()
        matrix.data.copy_(value)  # held, to see the moment alone
    moment = optimizer.state[matrix]["exp_avg"][group.gone]
    torch.testing.assert_close(moment, 1.81 / 0.19 * value[group.gone], rtol=1e-3, atol=1e-5)


def counts(spec: Inherited, how: PruningSchedule, increments: list[int]) -> dict[str, list[int]]:
    """How many coordinates of a BERT-base's groups are masked after so many increments; one layer stands for all."""
    compaction = wrap(BertForMaskedLM(BertConfig(num_hidden_layers=1, vocab_size=10)), spec)
    pruner = Pruner.__new__(Pruner)
    pruner.how, pruner.compaction = how, compaction
    if how.schedule == "reference":
        pruner._as_reference()
    found = {}
    for group in compaction:
        found[group.name] = [pruner._due(group, n) * group.chunks * group.block for n in increments]
    return found


def test_the_schedule_of_the_authors_code() -> None:
    how = PruningSchedule(schedule="reference", interval=500)
    dim = counts(Inherited(hidden=192, decoder="untied"), how, [1, 8, 16])
    assert dim["head"] == [36, 288, 576] and dim["intermediate_1"] == [144, 1152, 2304]
    assert dim["attention_1"] == dim["residual"] == [6 * 12, 48 * 12, 48 * 12]
    head = counts(Inherited(hidden=192, strategy="head", decoder="untied"), how, [1, 2, 17, 18, 30])
    assert head["attention_1"] == head["residual"] == [0, 64, 8 * 64, 9 * 64, 9 * 64]


def test_the_even_schedule_ends_exactly() -> None:
    for spec in (Inherited(hidden=516), Inherited(hidden=192), Inherited(hidden=192, strategy="head")):
        due = counts(spec, PruningSchedule(), list(range(18)))
        for name, values in due.items():
            size, target = (3072, 4 * spec.hidden) if name.startswith("intermediate") else (768, spec.hidden)
            assert values[0] == 0 and values[16] == values[17] == size - target and values == sorted(values)
            assert max(np.diff(values[:17])) <= math.ceil((size - target) / 16 / 12) * 12 or spec.strategy == "head"


@pytest.mark.parametrize(
    ("family", "head", "alignment"),
    [
        ("bert", "masked_lm", "mask"),
        ("gpt2", "masked_lm", "tied"),
        pytest.param("bert", "masked_lm", "tied", marks=pytest.mark.slow),
        pytest.param("gpt2", "masked_lm", "mask", marks=pytest.mark.slow),
        pytest.param("bert", "classes", "mask", marks=pytest.mark.slow),
        pytest.param("bert", "classes", "tied", marks=pytest.mark.slow),
    ],
)
def test_the_cut_changes_neither_loss_nor_the_steps_that_follow(family: str, head: str, alignment: str) -> None:
    models = []
    for cut in (False, True):
        model = teacher(family, head).double()
        torch.manual_seed(3)
        compaction = shaken(model, Inherited(hidden=16, alignment=alignment))
        model.double()
        pruner = Pruner(PruningSchedule(), model)
        optimizer = torch.optim.AdamW(pruner.parameter_groups(model, 0.01), lr=1e-3)
        for number in range(3):  # moments that the cut has to take along
            step(model, pruner, optimizer, 10**3 + number, 10**6)
        if cut:
            compaction.cut(model, optimizer)
        losses = []
        for number in range(10):
            losses.append(loss_of(model, number).item())
            step(model, pruner, optimizer, 10**3 + number, 10**6)
        models.append((losses, answers(model, 77)))
    np.testing.assert_allclose(models[0][0], models[1][0], atol=1e-8, rtol=0)
    torch.testing.assert_close(models[0][1], models[1][1], atol=1e-8, rtol=0)


# ----------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("decoder", ["tied", "untied"])
@pytest.mark.parametrize("family", LANGUAGE)
def test_a_merged_language_model_is_an_ordinary_checkpoint(family: str, decoder: str, tmp_path: Path) -> None:
    model = teacher(family, "masked_lm")
    shaken(model, Inherited(hidden=16, decoder=decoder)).merge(model)
    model.save_pretrained(tmp_path)
    auto = AutoModelForCausalLM if family == "gpt2" else AutoModelForMaskedLM
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(answers(loaded.eval()), answers(model))
    table, output = anatomy.word_embeddings_of(loaded).weight, loaded.get_output_embeddings().weight
    assert (table is output) == (decoder == "tied") == torch.equal(table, output)
    assert anatomy.shape_of(loaded.config).hidden == 16


def test_a_merged_model_is_exported(tmp_path: Path) -> None:
    model = teacher("bert")
    shaken(model, Inherited(hidden=16)).merge(model)
    exported = torch.export.export(model, (), kwargs=batch(), strict=False)
    torch.testing.assert_close(exported.module()(**batch()).logits, model(**batch()).logits)


def test_the_papers_sizes() -> None:
    for recipe, millions in ((wid55(), 54.70), (wid11(), 11.33)):
        with torch.device("meta"):
            student = BertModel(compaction.narrowed(recipe.student, BertConfig()))
        assert count_parameters(student) / 1e6 == pytest.approx(millions, abs=0.01)


def weights_of_the_stream(model: PreTrainedModel) -> Tensor:
    """``(hidden,)``: the norm of the weights that make or read a coordinate of the residual stream, by transformers' names.

    A parameter that is used twice, as table and as output matrix, is named once.
    """
    reads = r"_embeddings|query|key|value|intermediate\.dense|pooler\.dense|transform\.dense|wte|wpe"
    reads += "" if anatomy.head_of(model) == "classes" else "|classifier"  # of texts it reads the pooler
    writes = r"\.output\.dense|transform\.dense"
    squares = torch.zeros(32, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        square = parameter.detach().double().square()
        if re.search(rf"({reads})\.weight$", name):
            squares += square.sum(dim=0)
        if re.search(rf"({writes})\.weight$", name):
            squares += square.sum(dim=1)
        if re.search(r"(c_attn|c_fc)\.weight$", name):  # these are stored as (in, out)
            squares += square.sum(dim=1)
        if re.search(r"c_proj\.weight$", name):
            squares += square.sum(dim=0)
    return squares.sqrt()


def largest(norms: Tensor, count: int) -> list[int]:
    return sorted(norms.argsort(descending=True)[:count].tolist())


@pytest.mark.parametrize(
    ("family", "head"),
    [("bert", "classes"), ("bert", "masked_lm"), ("bert", "none"), ("gpt2", "masked_lm"), ("gpt2", "tokens")],
)
def test_slices_are_chosen_by_all_weights_that_make_or_read_a_coordinate(family: str, head: str) -> None:
    model = teacher(family, head)
    norms = weights_of_the_stream(model)
    compaction = wrap(copy.deepcopy(model), Sliced(hidden=16))
    found = _weights_of(compaction, compaction.groups["residual"])
    torch.testing.assert_close(found, norms)
    table = anatomy.word_embeddings_of(build(Sliced(hidden=16), model, {}, 0)).weight
    assert torch.equal(table, anatomy.word_embeddings_of(model).weight[:, largest(norms, 16)])


def test_slices_are_coordinates_of_the_teacher() -> None:
    model = teacher("bert")
    labels = {"num_labels": 2}
    student = build(Sliced(hidden=16, choose="norm"), model, labels, 0)
    table, whole = anatomy.word_embeddings_of(student).weight, anatomy.word_embeddings_of(model).weight
    columns = [int((whole == table[:, [i]]).all(dim=0).nonzero()[0, 0]) for i in range(16)]
    assert columns == sorted(set(columns)) and len(columns) == 16
    assert columns == largest(weights_of_the_stream(model), 16)
    others = [build(Sliced(hidden=16, choose="random"), model, labels, seed) for seed in (0, 0, 1)]
    tables = [anatomy.word_embeddings_of(other).weight for other in others]
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


@pytest.mark.parametrize("spec", [Inherited(hidden=16), Inherited(hidden=32, intermediate=24)])
def test_a_model_takes_the_form_of_a_saved_state(spec: Inherited) -> None:
    saved = teacher("bert")
    compaction = shaken(saved, spec)
    for change in (lambda: None, lambda: compaction.cut(saved), lambda: compaction.merge(saved)):
        change()
        loaded = teacher("bert")
        wrap(loaded, spec)
        loaded.load_state_dict(saved.state_dict())
        assert torch.equal(answers(loaded), answers(saved))


# ------------------------------------------------------------------------------------------------------------ runs


def test_on_raw_text_for_masked_and_next_words(tmp_path: Path, tokenizer) -> None:
    words = " ".join(f"word{i % 30}" for i in range(4000))
    (tmp_path / "text.txt").write_text("\n".join(words[i : i + 160] for i in range(0, len(words), 160)))
    for family, causal in (("bert", False), ("gpt2", True)):
        teacher(family, "masked_lm").save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        if not (tmp_path / "corpus").exists():
            api.build_corpus([str(tmp_path / "text.txt")], str(tmp_path / "corpus"), tokenizer=str(tmp_path / family))
        recipe = METHODS["wid_causal" if causal else "wid"]().model_copy(update={"student": Inherited(hidden=16)})
        settings = ["stages.general.lr=0.01", "stages.general.batch_size=8", "stages.general.data.length=24"]
        settings += ["stages.general.max_steps=60", "stages.general.pruning.share=0.4"]
        out = tmp_path / f"{family}-run"
        report = api.distill(
            str(tmp_path / family),
            str(out),
            method=recipe,
            stage="general",
            corpus=str(tmp_path / "corpus"),
            settings=settings,
        ).report
        about = report["mechanisms"]["pruning"]["data"]
        assert about["cut"] and about["largest_masked"] == 0 and about["difference"] < 1e-4 * about["largest_logit"]
        held = report["stages"][0]["held_out"]
        assert held["after"]["hard_labels"] < held["before"]["hard_labels"]
        auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
        student = auto.from_pretrained(out / "student")
        assert anatomy.shape_of(student.config).hidden == 16
        assert json.loads((out / "report.json").read_text())["student"]["shape"].startswith("4 layers x 16")
        page = (out / "report.html").read_text()
        assert "16 of 32" in page


@pytest.mark.slow
def test_the_authors_code_on_raw_text(tmp_path: Path, tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(f"word{i % 30}" for i in range(4000))
    (tmp_path / "text.txt").write_text("\n".join(words[i : i + 160] for i in range(0, len(words), 160)))
    teacher("bert", "masked_lm").save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    api.build_corpus([str(tmp_path / "text.txt")], str(tmp_path / "corpus"), tokenizer=str(tmp_path / "teacher"))
    recipe = wid_reference(16)
    (how,) = recipe.stages[0].mechanisms
    assert (how.penalty, how.scope, how.schedule) == ("adam_l2", "master", "reference")
    settings = ["stages.general.lr=0.01", "stages.general.batch_size=8", "stages.general.data.length=24"]
    settings += ["stages.general.max_steps=60", "stages.general.pruning.interval=3"]
    report = api.distill(
        str(tmp_path / "teacher"),
        str(tmp_path / "run"),
        method=recipe,
        stage="general",
        corpus=str(tmp_path / "corpus"),
        settings=settings,
    ).report
    held = report["stages"][0]["held_out"]
    assert held["after"]["hard_labels"] < held["before"]["hard_labels"]
    # An output matrix of its own, behind a group that the tied student does not have.
    student = BertForMaskedLM.from_pretrained(tmp_path / "run" / "student")
    table, output = anatomy.word_embeddings_of(student).weight, student.get_output_embeddings().weight
    assert not student.config.tie_word_embeddings and not torch.equal(table, output)
    kept = {name: entry["kept"] for name, entry in report["mechanisms"]["pruning"]["data"]["kept"].items()}
    assert set(kept) >= {"residual", "head", "attention_1", "intermediate_4"} and len(kept["head"]) == 16
    # The residual stream goes as heads do, as many coordinates of each.
    assert np.bincount(np.array(kept["residual"]) // 8, minlength=4).tolist() == [4, 4, 4, 4]
    # 60 steps are few for their penalty: something was left of the rows, and a note says what that changed.
    about = report["mechanisms"]["pruning"]["data"]
    assert not about["cut"] and 1e-5 < about["largest_masked"] < 1 and about["difference"] > 1e-3
    assert f"removing them changed logits by up to {about['difference']:.2g}" in "".join(capsys.readouterr()).replace(
        "\n", " "
    )


Spied = list[tuple[str, PreTrainedModel]]


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Spied:
    """What the loop was given to train: the name of each stage, and the model as it was at its begin."""
    found: Spied = []
    train = loop.train

    def spy(stage: Stage, module: loop.DistillationModule, *more: Any, **named: Any) -> loop.StageLog:
        if stage.name != "trial":
            found.append((stage.name, copy.deepcopy(module.student)))
        return train(stage, module, *more, **named)

    monkeypatch.setattr(loop, "train", spy)
    return found


@pytest.mark.slow
def test_the_baseline_of_a_task_is_made_of_slices(teacher_folder: Path, tmp_path: Path, spied: Spied) -> None:
    report = run(config_for("wid", teacher_folder, tmp_path / "run"), quiet=True)
    assert report["baseline"]["shape"] == report["student"]["shape"]
    assert report["baseline"]["parameters"] == report["student"]["parameters"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    assert model.config.hidden_size == 16

    # What it is before it learns: every weight is a part of the teacher's, and there are no others.
    assert [name for name, _ in spied] == ["task", "labels"]
    whole = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    theirs, ours = dict(whole.named_parameters()), dict(spied[1][1].named_parameters())
    assert set(ours) == set(theirs)
    stream = largest(weights_of_the_stream(whole), 16)

    def rows(name: str) -> list[int]:
        """Which of the teacher's outputs these are, by their biases."""
        wanted, scale = ours[f"{name}.bias"].data, 2**-0.5 if name.endswith("query") else 1.0  # of heads half as wide
        places = [(theirs[f"{name}.bias"].data * scale - value).abs().argmin() for value in wanted]
        assert len(set(map(int, places))) == len(wanted), name
        return [int(place) for place in places]

    inside: list[int] = []
    for name in theirs:
        path, _, kind = name.rpartition(".")
        if "_embeddings" in name:
            wanted = theirs[name][:, stream]
        elif "LayerNorm" in name:
            wanted = theirs[name][stream]
        elif kind == "bias":
            continue  # with the matrix
        else:
            reads = re.search(r"(query|key|value|intermediate\.dense|pooler\.dense)$", path)
            after = rows(path) if reads else stream if path.endswith("output.dense") else [0, 1]
            before = stream if reads else inside
            scale = 2**-0.5 if path.endswith("query") else 1.0
            torch.testing.assert_close(ours[f"{path}.bias"], theirs[f"{path}.bias"][after] * scale)
            wanted, inside = theirs[name][after][:, before] * scale, after if reads else inside
        torch.testing.assert_close(ours[name], wanted, msg=lambda text, name=name: f"{name}: {text}")


def test_the_teachers_weights_stay_where_their_rate_is_zero(
    teacher_folder: Path, tmp_path: Path, spied: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, ends = Pruner.merge, []

    def seen(self: Pruner, batch: batches.Batch) -> dict[str, Any]:
        ends.append(copy.deepcopy(self.model))
        return merge(self, batch)

    monkeypatch.setattr(Pruner, "merge", seen)
    config = config_for("wid", teacher_folder, tmp_path / "run", baseline=False)
    run(with_settings(config, ["stages.task.pruning.weights_lr=0"]), quiet=True)
    start, end = spied[0][1].compaction, ends[0].compaction
    assert end.is_cut and all(torch.equal(link.weight, start.links[path].weight) for path, link in end.links.items())
    eye, member = torch.eye(32), end.groups["residual"].members[0]
    assert (member.matrix - eye[member.group.index]).abs().max() > 1e-3


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "selection",
    ["activation", pytest.param("taylor", marks=pytest.mark.slow), pytest.param("random", marks=pytest.mark.slow)],
)
def test_a_run_killed_between_increments_resumes_to_the_same_bits(
    selection: str, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks that have begun to grow go on from where they were, by the scores that were collected before."""
    recipe = small("wid", ROWS["wid"])
    how = PruningSchedule(selection=selection, increments=8, interval=2, weights_lr=0.2)
    stage = recipe.stages[0].model_copy(update={"mechanisms": [how], "max_steps": 23, "epochs": 3})
    recipe = recipe.model_copy(update={"stages": [stage]})
    configs = [
        config_for("wid", teacher_folder, tmp_path / name, recipe=recipe, baseline=False) for name in ("whole", "cut")
    ]
    run(configs[0], quiet=True)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    save, states = checkpoint.save, []

    def save_and_die(folder: Path, state: checkpoint.State) -> None:
        save(folder, state)
        states.append(state)
        if len(states) == 7:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(Killed):
            run(configs[1], quiet=True)
    assert states[-1]["log"]["steps"] == 7
    kept = states[-1]["student.safetensors"]["compaction.groups.residual.kept"]
    assert int(kept.sum()) == 26  # three of eight increments
    run(configs[1], resume=True, quiet=True)
    ours, theirs = ((tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert ours == theirs
    inherited = [
        json.loads((tmp_path / name / "mechanisms.json").read_text())["pruning"][0] for name in ("cut", "whole")
    ]
    assert inherited[0] == inherited[1] and inherited[0]["cut"]


def test_a_stage_of_distillation_reads_the_teacher_from_a_store(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wid_kd: the weights are inherited from the teacher, what it predicts is from the store, and it computes nothing."""
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    recipe = small("wid_kd", ROWS["wid_kd"])
    common = {"recipe": recipe, "baseline": False, "store_dtype": "float32"}
    first = run(config_for("wid_kd", teacher_folder, tmp_path / "a", **common, teacher_store="auto"), quiet=True)
    assert first["store"] is not None
    forbidden: list[nn.Module] = []
    load, train = Source.model.fget, loop.train

    def model_of(self: Source) -> PreTrainedModel:
        model: PreTrainedModel = load(self)
        if model not in forbidden:
            forbidden.append(model)
            model.register_forward_pre_hook(refuse)
        return model

    def refuse(module: nn.Module, *_: Any) -> None:
        assert module not in forbidden or trained == ["task", "prediction"], "the teacher was asked"

    def noted(stage: Stage, *more: Any, **named: Any) -> loop.StageLog:
        log = train(stage, *more, **named)
        trained.append(stage.name)
        return log

    monkeypatch.setattr(Source, "model", property(model_of))
    monkeypatch.setattr(loop, "train", noted)
    trained: list[str] = []
    again = run(config_for("wid_kd", teacher_folder, tmp_path / "b", **common, teacher_store="auto"), quiet=True)
    assert trained == ["task", "prediction"] and forbidden and again["store"] == first["store"]
    assert again["student"]["scores"] == first["student"]["scores"]
    files = [(tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    trained = []
    with pytest.raises(AssertionError, match="the teacher was asked"):  # without a store it has to be
        run(config_for("wid_kd", teacher_folder, tmp_path / "c", **common), quiet=True)


# ------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("family", "reason"),
    [("albert", "a width of its own"), ("electra", "a width of its own"), ("modernbert", "in pairs")],
)
def test_families_that_cannot_are_refused_with_the_reason(family: str, reason: str) -> None:
    with pytest.raises(TutelageError, match=reason):
        wrap(tiny_model(family), Inherited(hidden=16))


def test_sizes_that_cannot_be_are_refused() -> None:
    config = tiny_model("bert").config
    for spec, words in (
        (Inherited(hidden=18), "keeps all 4 heads; use a multiple of 4"),
        (Inherited(hidden=20, strategy="head"), "removes whole heads of 8; use a multiple of 8"),
        (Inherited(hidden=64), "the teacher has hidden=32"),
        (Inherited(hidden=16, intermediate=100), "intermediate=100 is too large"),
    ):
        with pytest.raises(TutelageError, match=words):
            compaction.narrowed(spec, config)


def test_heads_that_hardware_does_not_like_are_named() -> None:
    model = tiny_model("bert", hidden=192, heads=12)
    wrap(model, Inherited(hidden=132))
    assert "heads of 11" in str(compaction.advice(model)) and "hidden=96 gives" in str(compaction.advice(model))
    model = tiny_model("bert", hidden=192, heads=12)
    wrap(model, Inherited(hidden=96))
    assert compaction.advice(model) is None
    model = tiny_model("bert")  # heads of 8: there is nothing between them and its own width
    wrap(model, Inherited(hidden=16))
    assert compaction.advice(model) is None


def test_an_untied_teacher_has_no_tied_student() -> None:
    config = copy.deepcopy(tiny_model("bert").config)
    config.tie_word_embeddings = False
    with pytest.raises(TutelageError, match="decoder=untied"):
        wrap(BertForMaskedLM(config), Inherited(hidden=16))


def test_recipes_that_cannot_be_are_refused() -> None:
    stage = wid().stages[1]
    with pytest.raises(ValueError, match="needs the mechanism pruning in its first stage"):
        Recipe(
            method="x",
            title="x",
            paper="x",
            student=Inherited(hidden=16),
            stages=[Stage(name="a", objective=stage.objective)],
        )
    with pytest.raises(ValueError, match="init=inherited"):
        Recipe(method="x", title="x", paper="x", student=Copied(), stages=[stage])
    with pytest.raises(ValueError, match="allows only terms on predictions"):
        Stage(name="a", objective=[SoftLabels(), Hidden()], select="last", mechanisms=[PruningSchedule()])
    with pytest.raises(ValueError, match="select=last"):
        Stage(name="a", objective=[SoftLabels()], mechanisms=[PruningSchedule()])
    with pytest.raises(TutelageError, match="needs a student with compactors"):
        Pruner(PruningSchedule(), tiny_model("bert"))
    with pytest.raises(ValueError, match="without patience"):
        Stage(name="a", objective=[SoftLabels()], select="last", patience=1, mechanisms=[PruningSchedule()])
    _, pruner, _ = scene(Inherited(hidden=16), PruningSchedule())
    with pytest.raises(TutelageError, match="too short"):
        pruner.times(18)
    assert pruner.times(19) == (1, 19)


def test_sizes_on_the_command_line() -> None:
    assert parse("hidden=192", METHODS["wid"]().student) == Inherited(hidden=192)
    assert parse("hidden=192,strategy=head", METHODS["wid"]().student) == Inherited(hidden=192, strategy="head")
    assert parse("hidden=192,strategy=head") == Sliced(hidden=192, strategy="head")
    assert parse("init=inherited,hidden=192,alignment=tied") == Inherited(hidden=192, alignment="tied")
    assert wid_reference().student == Inherited(hidden=192, decoder="untied")
