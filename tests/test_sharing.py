"""Shared layers and PTP labels: Pea-KD's laws (section by section: plans, exchange, gradients, files, labels)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, tiny_config, tiny_model, write_csv
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
)

from tutelage import anatomy, api
from tutelage.data import examples
from tutelage.data.config import DataConfig
from tutelage.data.examples import Examples
from tutelage.data.parts import part_of
from tutelage.errors import TutelageError
from tutelage.evaluation.speed import count_parameters
from tutelage.knowledge import out_of_fold
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Tap
from tutelage.mechanisms.ptp.settings import PTPLabels, ptp_labels
from tutelage.methods.named import method_recipe
from tutelage.methods.pea_kd import pea_kd
from tutelage.objectives.mapping import pairs
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import PTP, HardLabels
from tutelage.recipes.recipe import Stage
from tutelage.recipes.settings import run_config
from tutelage.students import sharing
from tutelage.students.build import build
from tutelage.students.copied import copy_layers
from tutelage.students.sharing import expanded, plan_of
from tutelage.students.specs import Copied, Shared, parse
from tutelage.tasks import KINDS
from tutelage.tasks.load import load_data

FAMILIES = sorted(sharing.CONFIGS)
ORDERS = ("shuffled", "paired", "mirror", "adjacent")


def source(family: str = "bert", layers: int = 2):
    """A plain model with biases and norms of its own."""
    model = copy_layers(tiny_model(family), Copied(layers=layers, choose="first"), {})
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.1)
    return model.eval()


def student(family: str = "bert", order: str | list[str] = "shuffled", layers: int = 2):
    return sharing.shared(source(family, layers), Shared(stored=layers, order=order))


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


# -------------------------------------------------------------------------------------------------------------- plans


def test_plans() -> None:
    assert plan_of(1, "shuffled") == ["1", "1s"]
    assert plan_of(3, "shuffled") == ["1", "2", "3", "1s", "2s", "3s"]
    assert plan_of(6, "shuffled") == ["1", "2", "3", "4", "5", "6", "4s", "5s", "6s"]
    assert plan_of(3, "paired") == ["1", "2", "3", "1", "2", "3"]
    assert plan_of(3, "mirror") == ["1", "2", "3", "3s", "2s", "1s"]
    assert plan_of(2, "adjacent") == ["1", "1", "2", "2"]
    assert plan_of(2, ["1", "2", "1s"]) == ["1", "2", "1s"]
    for plan, words in (
        (["1", "3"], "stored layers are 1 to 2"),
        (["1", "1s"], "omits layer 2"),
        (["1s", "1", "2"], "the first runs must be the stored layers in order"),
        (["2", "1"], "the first runs must be the stored layers in order"),
    ):
        with pytest.raises(TutelageError, match=words):
            plan_of(2, plan)


def test_every_parameter_counts_once_at_bert_bases_sizes() -> None:
    for stored, millions in ((1, 31.5), (2, 38.6), (3, 45.7), (6, 67.0)):
        with torch.device("meta"):
            plain = BertModel(BertConfig(num_hidden_layers=stored))
            config = sharing.SharedBertConfig(plan=plan_of(stored, "shuffled"))
            shared = sharing.SharedBertForSequenceClassification(config)
        assert count_parameters(anatomy.base_of(shared)) == count_parameters(plain)
        assert count_parameters(plain) / 1e6 == pytest.approx(millions, abs=0.05)
        assert anatomy.shape_of(shared.config).layers == (9 if stored == 6 else 2 * stored)
        assert f"({stored} stored)" in str(anatomy.shape_of(shared.config))


def test_matching_depths_are_those_of_the_reference_tables() -> None:
    """Counted from 0 there: teacher outputs 5; 2, 5, 8; 1, 3, 5, 7, 9; and for 9 of 12 layers 3, 7 with 2, 5."""
    assert pairs("gcd", 2, 12) == [(1, 6)]
    assert pairs("gcd", 4, 12) == [(1, 3), (2, 6), (3, 9)]
    assert pairs("gcd", 6, 12) == [(i, 2 * i) for i in range(1, 6)]
    assert pairs("gcd", 9, 12) == [(3, 4), (6, 8)]
    assert pairs("gcd", 3, 12) == [(1, 4), (2, 8)]
    assert pairs("gcd", 1, 12) == [] and pairs("gcd", 5, 12) == []


# ----------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_with_copied_and_exchanged_weights(family: str, order: str, tmp_path: Path) -> None:
    shared = student(family, order)
    plain = expanded(shared)
    assert count_parameters(shared) == count_parameters(source(family)) < count_parameters(plain)
    for model in (shared, plain):
        model.set_attn_implementation("eager")
    with torch.no_grad():
        ours = shared(**batch(), output_hidden_states=True, output_attentions=True)
        theirs = plain(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(ours.hidden_states) == 5 and len(ours.attentions) == 4
    for one, other in zip(
        (ours.logits, *ours.hidden_states, *ours.attentions),
        (theirs.logits, *theirs.hidden_states, *theirs.attentions),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    plain.save_pretrained(tmp_path / "plain")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    assert type(loaded).__module__.startswith("transformers.")
    loaded.set_attn_implementation("eager")
    assert torch.equal(loaded(**batch()).logits, plain(**batch()).logits)


def test_scores_of_an_exchanged_layer_are_the_transpose() -> None:
    shared = student(layers=1).double()
    layer, again = anatomy.layers_of(shared)
    tap = Tap(shared, Needs(attention=frozenset([1, 2])))
    with torch.no_grad():
        x = torch.randn(2, 5, 32, dtype=torch.float64)
        found = []
        for one in (layer, again):
            attention = one.attention.self
            q, k = (m(x).view(2, 5, 4, 8).transpose(1, 2) for m in (attention.query, attention.key))
            found.append(q @ k.mT)
    tap.close()
    torch.testing.assert_close(found[1], found[0].mT, atol=1e-12, rtol=0)
    assert (
        again.attention.self.query is layer.attention.self.key
        and again.attention.self.key is layer.attention.self.query
    )
    assert again.attention.self.value is layer.attention.self.value and again.output is layer.output


def test_exchange_does_nothing_where_query_and_key_are_one() -> None:
    models = []
    for order in ("shuffled", "paired"):
        shared = student(order=order)
        for layer in anatomy.layers_of(shared)[:2]:
            layer.attention.self.key.load_state_dict(layer.attention.self.query.state_dict())
        models.append(shared(**batch()).logits)
    assert torch.equal(*models)
    once = student(order=["1", "2", "1s", "2s"])
    assert not torch.equal(once(**batch()).logits, student(order="paired")(**batch()).logits)


def test_exchanged_twice_is_not_exchanged() -> None:
    """Queries and keys that change places in the stored layers too: the second run has them as they were."""
    before = student(order=["1", "2", "1s", "2s"])
    after = student(order=["1", "2", "1s", "2s"])
    with torch.no_grad():
        for layer in anatomy.layers_of(after)[:2]:
            ours = layer.attention.self
            for name in ("weight", "bias"):
                query, key = getattr(ours.query, name), getattr(ours.key, name)
                kept = query.clone()
                query.copy_(key)
                key.copy_(kept)
    for one, other in zip(anatomy.layers_of(before)[2:], anatomy.layers_of(after)[:2], strict=True):
        assert torch.equal(one.attention.self.query.weight, other.attention.self.query.weight)
    for one, other in zip(anatomy.layers_of(before)[:2], anatomy.layers_of(after)[2:], strict=True):
        assert torch.equal(one.attention.self.query.weight, other.attention.self.query.weight)
        assert torch.equal(one.attention.self.key.bias, other.attention.self.key.bias)


def test_without_exchange_it_is_an_albert() -> None:
    """One group of two inner layers run twice, with an identity between the embeddings and the layers."""
    shared = student(order="paired").double()
    config = AlbertConfig(
        vocab_size=shared.config.vocab_size, embedding_size=32, hidden_size=32, num_hidden_layers=2, num_hidden_groups=1,
        inner_group_num=2, num_attention_heads=4, intermediate_size=48, hidden_act="gelu", layer_norm_eps=1e-12,
        max_position_embeddings=shared.config.max_position_embeddings, pad_token_id=0,
    )  # fmt: skip
    albert = AlbertForSequenceClassification(config).double().eval()
    albert.albert.embeddings.load_state_dict(anatomy.base_of(shared).embeddings.state_dict())
    into = albert.albert.encoder.embedding_hidden_mapping_in
    into.weight.data.copy_(torch.eye(32))
    into.bias.data.zero_()
    theirs, ours = anatomy.FAMILIES["albert"], anatomy.FAMILIES["bert"]
    for number in range(2):
        layer = anatomy.layers_of(shared)[number]
        for part in ("query", "key", "value", "attention_output", "attention_norm", "ffn_up", "ffn_down", "ffn_norm"):
            path = getattr(theirs, part).replace("albert_layers.0", f"albert_layers.{number}")
            group = anatomy.layers_of(albert)[0]
            group.get_submodule(path).load_state_dict(layer.get_submodule(getattr(ours, part)).state_dict())
    with torch.no_grad():
        hidden = albert.albert(**batch()).last_hidden_state
        expected = anatomy.base_of(shared)(**batch()).last_hidden_state
    mask = batch()["attention_mask"].bool()
    torch.testing.assert_close(hidden[mask], expected[mask], atol=1e-6, rtol=0)


def test_gradients_are_the_sums_of_those_of_the_copies() -> None:
    shared = student().double()
    plain = expanded(shared).double()
    for model in (shared, plain):
        torch.nn.functional.cross_entropy(model(**batch()).logits, torch.tensor([0, 1, 0])).backward()
    gradients = dict(plain.named_parameters())
    tied = {alias: name for alias, name in shared._tied_weights_keys.items() if "layer." in alias}
    for name, parameter in shared.named_parameters():
        expected = gradients[name].grad.clone()
        for alias, of in tied.items():
            if of == name:
                expected += gradients[alias].grad
        torch.testing.assert_close(parameter.grad, expected, atol=1e-10, rtol=0)
    keys = [layer.attention.self.key.bias.grad.abs().max() for layer in anatomy.layers_of(shared)[:2]]
    assert min(keys) > 1e-6
    once = source().double()
    torch.nn.functional.cross_entropy(once(**batch()).logits, torch.tensor([0, 1, 0])).backward()
    assert anatomy.layers_of(once)[0].attention.self.key.bias.grad.abs().max() < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_files_hold_every_weight_once(family: str, tmp_path: Path) -> None:
    shared, plain = student(family), source(family)
    shared.save_pretrained(tmp_path / "shared")
    plain.save_pretrained(tmp_path / "plain")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("shared", "plain")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    with safe_open(tmp_path / "shared" / "model.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(plain.state_dict())
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "shared", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(loaded.eval()(**batch()).logits, shared(**batch()).logits)
    assert count_parameters(loaded) == count_parameters(plain)
    query, key = (anatomy.FAMILIES[family].query, anatomy.FAMILIES[family].key)
    layers = anatomy.layers_of(loaded)
    assert layers[2].get_submodule(query).weight is layers[0].get_submodule(key).weight


def test_dropout_and_type_follow_the_model() -> None:
    shared = student().train()
    assert all(module.training for module in shared.modules())
    assert not torch.equal(shared(**batch()).logits, shared(**batch()).logits)
    shared.eval()
    assert not any(module.training for module in shared.modules())
    assert {p.dtype for p in shared.bfloat16().parameters()} == {torch.bfloat16}


def test_a_spec_builds_it() -> None:
    teacher = tiny_model("bert")
    made = build(parse("stored=2,order=paired"), teacher, {"num_labels": 2}, 0)
    assert made.config.plan == ["1", "2", "1", "2"]
    first = anatomy.layers_of(teacher)[0].state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in anatomy.layers_of(made)[0].state_dict().items())
    assert parse("stored=1+3") == Shared(stored=[1, 3])
    with pytest.raises(TutelageError, match="cannot be shared"):
        build(Shared(stored=2), tiny_model("gpt2"), {}, 0)
    with pytest.raises(TutelageError, match="tutelage export"):
        copy_layers(made, Copied(layers=2), {})


# ------------------------------------------------------------------------------------------------------------ PTP labels


def logits_for(confidences: list[float], classes: list[int]) -> np.ndarray:
    """Of two classes, with the wanted largest probability."""
    rows = np.zeros((len(classes), 2), dtype=np.float32)
    rows[np.arange(len(classes)), classes] = [math.log(c / (1 - c)) for c in confidences]
    return rows


def test_all_four_ptp_labels_by_hand() -> None:
    logits = logits_for([0.9, 0.7, 0.95, 0.6, 0.8], [0, 1, 0, 1, 1])
    labels = np.array([0, 1, 1, 0, -1])
    found = ptp_labels(logits, labels, PTPLabels(thresholds=(0.8, 0.75)), KINDS["classification"], 0)
    assert found.tolist() == [0, 1, 2, 3, -1]
    shifted = ptp_labels(logits + 5, labels, PTPLabels(thresholds=(0.8, 0.75)), KINDS["classification"], 0)
    assert (shifted == found).all()


def test_a_confidence_at_the_threshold_is_not_sure() -> None:
    logits = np.array([[0.0, 0.0], [0.0, 0.0]], dtype=np.float32)  # a confidence of one half, exactly
    found = ptp_labels(logits, np.array([0, 1]), PTPLabels(thresholds=(0.5, 0.5)), KINDS["classification"], 0)
    assert found.tolist() == [1, 3]


def test_medians_split_each_group_in_halves() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(1001, 3)).astype(np.float32)
    labels = generator.integers(3, size=1001)
    counts = np.bincount(ptp_labels(logits, labels, PTPLabels(), KINDS["classification"], 0), minlength=4)
    assert abs(counts[0] - counts[1]) <= 1 and abs(counts[2] - counts[3]) <= 1 and counts.sum() == 1001
    order = generator.permutation(1001)
    again = ptp_labels(logits[order], labels[order], PTPLabels(), KINDS["classification"], 0)
    assert (again == ptp_labels(logits, labels, PTPLabels(), KINDS["classification"], 0)[order]).all()


def test_a_teacher_that_is_always_right_leaves_two_ptp_labels() -> None:
    logits = logits_for([0.9, 0.8, 0.7], [0, 1, 0])
    assert ptp_labels(logits, np.array([0, 1, 0]), PTPLabels(), KINDS["classification"], 0).tolist() == [0, 1, 1]
    one_wrong = ptp_labels(logits, np.array([0, 1, 1]), PTPLabels(), KINDS["classification"], 0)
    assert one_wrong.tolist() == [0, 1, 3]  # its own median, so not above it


def test_controls() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    labels = np.random.default_rng(1).integers(-1, 2, size=50)
    real = ptp_labels(logits, labels, PTPLabels(), KINDS["classification"], 0)
    dealt = ptp_labels(logits, labels, PTPLabels(control="shuffled"), KINDS["classification"], 0)
    assert sorted(real) == sorted(dealt) and (real != dealt).any() and ((real < 0) == (dealt < 0)).all()
    assert (ptp_labels(logits, labels, PTPLabels(control="labels"), KINDS["classification"], 0) == labels).all()


def test_ptp_labels_that_cannot_be() -> None:
    dealt, numbers = PTPLabels(control="labels"), PTPLabels(thresholds=(0.9, 0.6))
    assert PTPLabels(thresholds="preset").fitted("mrpc", KINDS["classification"], 2, 4) == PTPLabels(
        thresholds=(0.95, 0.75)
    )
    assert dealt.fitted("clinc", KINDS["classification"], 150, 150) == dealt
    for how, asked, message in (
        (PTPLabels(), ("squad", "spans", 0, 4), "kind spans; leave the stage out"),
        (PTPLabels(), ("conll", "tokens", 9, 4), "kind tokens; leave the stage out"),
        (dealt, ("stsb", "regression", 0, 4), "control=shuffled"),
        (numbers, ("stsb", "regression", 0, 4), "thresholds=median"),
        (dealt, ("clinc", "classification", 150, 4), "set ptp.classes=150"),
        (PTPLabels(), ("mrpc", "classification", 2, 3), "set ptp.classes=4"),
        (
            PTPLabels(thresholds="preset"),
            ("data/train.csv", "classification", 2, 4),
            "no preset thresholds for 'data/train.csv'",
        ),
    ):
        task, kind, labels, classes = asked
        with pytest.raises(TutelageError, match=message):
            how.fitted(task, KINDS[kind], labels, classes)
    with pytest.raises(TutelageError, match="sees no other token in a gpt2"):
        Objective([PTP()], KINDS["classification"], anatomy.shape_of(tiny_config("gpt2")), None)


def test_equal_texts_are_in_one_part() -> None:
    texts = [f"text {number % 40}" for number in range(100)]
    labels = np.array([number % 40 % 2 for number in range(100)])
    examples = Examples([str(number) for number in range(100)], texts, None, labels)
    parts = part_of(examples, 4)
    assert {len({parts[row] for row in range(100) if texts[row] == text}) for text in texts} == {1}
    assert np.bincount(parts[:40])[1:].tolist() == [10] * 4  # the different ones
    assert all(labels[:40][parts[:40] == part].sum() == 5 for part in (1, 2, 3, 4))


def test_ptp_labels_on_a_regression_are_our_extension() -> None:
    logits = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], dtype=np.float32)
    labels = np.array([0.0, 1.1, 2.0, 4.0, 9.0, np.nan], dtype=np.float32)
    found = ptp_labels(logits, labels, PTPLabels(), KINDS["regression"], 0)
    assert found.tolist() == [0, 1, 1, 3, 2, -1]


# ---------------------------------------------------------------------------------------------------------------- runs


def test_the_first_stage_leaves_the_head_alone_and_hands_over_the_rest(
    teacher_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """The second stage goes on with the encoder and pooler of the first, and with the head as it was made: seen by a second
    stage that takes one step too small to move a weight."""
    recipe = pea_kd(2)
    first = recipe.stages[0].model_copy(update={"epochs": 2, "lr": 3e-3})
    still = recipe.stages[1].model_copy(update={"max_steps": 1, "lr": 1e-30, "select": "last"})
    from tutelage.run.run import run

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # two runs are the same to the bit
    learnt = {}
    for name, stages in (("first", [first]), ("both", [first, still])):
        config = run_config(
            recipe.model_copy(update={"stages": stages}),
            {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")},
            teacher=str(teacher_folder / "teacher"),
            out=str(tmp_path / name),
            baseline=False,
        )
        report = run(config, quiet=True)
        learnt[name] = AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "student").state_dict()
    assert [stage["steps"] for stage in report["stages"]][1] == 1
    assert report["stages"][0]["losses"]["ptp"][-1][1] < report["stages"][0]["losses"]["ptp"][0][1]
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    made = build(recipe.student, teacher, {}, 0).state_dict()
    assert torch.equal(learnt["both"]["classifier.weight"], made["classifier.weight"])
    assert not torch.equal(learnt["both"]["bert.pooler.dense.weight"], made["bert.pooler.dense.weight"])
    for name, tensor in learnt["first"].items():
        assert torch.equal(learnt["both"][name], tensor), name
    assert (tmp_path / "both" / "projections.safetensors").exists()


def test_a_source_has_a_head_of_its_own(teacher_folder: Path, tmp_path: Path) -> None:
    """The paper's start: layers of a model that has not seen the task, and a new head of the task's size."""
    tiny_model(labels=5, seed=4).save_pretrained(tmp_path / "pretrained")
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    pretrained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pretrained").state_dict()
    spec = Shared(stored=2, source=str(tmp_path / "pretrained"))
    made = build(spec, teacher, {"num_labels": len(LABELS)}, 0).state_dict()
    assert made["classifier.weight"].shape == (len(LABELS), 32)
    for layer in (0, 1):
        name = f"bert.encoder.layer.{layer}.attention.self.query.weight"
        assert torch.equal(made[name], pretrained[name])


def test_a_depth_that_shares_none_with_the_teacher(teacher_folder: Path, tmp_path: Path) -> None:
    """A single layer ends where no inner layer of the teacher does: said beforehand, and its loss is 0."""
    one = pea_kd(1, ablation=("no_sps",))
    config = run_config(
        one.model_copy(update={"stages": [one.stages[1].model_copy(update={"max_steps": 3})]}),
        {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")},
        teacher=str(teacher_folder / "teacher"),
        out=str(tmp_path / "run"),
        baseline=False,
    )
    from tutelage.run.run import run

    report = run(config, quiet=True)
    assert any("compares no [CLS] vectors" in warning for warning in report["warnings"])
    assert {loss for _, loss in report["stages"][0]["losses"]["first_token"]} == {0.0}


def test_out_of_fold_predictions_that_show_nothing_are_said(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": str(write_csv(tmp_path / "train.csv", 60, 1)), "dev": str(teacher_folder / "dev.csv")}
    tiny_model().save_pretrained(tmp_path / "fresh")
    AutoTokenizer.from_pretrained(teacher_folder / "teacher").save_pretrained(tmp_path / "fresh")
    found = api.crossfit(tmp_path / "fresh", tmp_path / "folds", folds=2, epochs=1, lr=1e-9, **data)
    assert found.accuracy is not None and found.accuracy < 0.6
    assert "the predictions are no better than a constant answer: accuracy" in capsys.readouterr().err


def test_ptp_labels_of_models_that_have_not_seen_the_texts(teacher_folder: Path, tmp_path: Path) -> None:
    data = {"train": str(write_csv(tmp_path / "train.csv", 120, 1)), "dev": str(teacher_folder / "dev.csv")}
    tiny_model().save_pretrained(tmp_path / "fresh")
    AutoTokenizer.from_pretrained(teacher_folder / "teacher").save_pretrained(tmp_path / "fresh")
    made = api.crossfit(
        str(tmp_path / "fresh"), str(tmp_path / "folds"), folds=3, epochs=1, lr=3e-3, quiet=True, **data
    )
    assert made.folds == 3 and made.labels == list(LABELS) and 0 <= made.accuracy <= 1
    manifest = out_of_fold.PredictionsManifest.model_validate_json((tmp_path / "folds" / "crossfit.json").read_text())
    assert made.sha256 == manifest.sha256 != ""
    whole = load_data(DataConfig(**data)).train
    assert manifest.contents == examples.content(whole)
    stored = load_file(tmp_path / "folds" / "logits.safetensors")["logits"].numpy()
    judged: list[int] = []
    for number in (1, 2, 3):
        report = json.loads((tmp_path / "folds" / f"fold-{number}" / "report.json").read_text())
        learnt = load_data(DataConfig(**data, leave_out=(number, 3))).train
        assert report["data"]["train"] + report["data"]["validation"] == len(learnt)
        seen = set(examples.content(learnt))
        rows = [
            row for row, name in enumerate(manifest.contents) if name not in seen
        ]  # no fold has learnt what it judges
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "folds" / f"fold-{number}").eval()
        read = AutoTokenizer.from_pretrained(tmp_path / "folds" / f"fold-{number}")
        with torch.no_grad():
            theirs = model(**read([whole.texts[row] for row in rows], padding=True, return_tensors="pt")).logits
        np.testing.assert_allclose(stored[rows], theirs.numpy(), atol=1e-4)
        judged += rows
    assert sorted(judged) == list(range(len(whole)))
    backwards = whole.take(np.arange(len(whole))[::-1])
    logits = out_of_fold.read(tmp_path / "folds", backwards, LABELS[::-1])
    row_of = {name: row for row, name in enumerate(manifest.contents)}  # of equal texts the last
    rows = [row_of[name] for name in manifest.contents[::-1]]
    np.testing.assert_array_equal(logits, stored[rows][:, ::-1])
    lines = [json.loads(line) for line in (tmp_path / "folds" / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == whole.texts
    shares = torch.from_numpy(stored).softmax(dim=1).numpy()
    np.testing.assert_allclose([[line["prediction"][name] for name in LABELS] for line in lines], shares, atol=1e-6)
    file = tmp_path / "folds" / "predictions.jsonl"
    taught = api.distill(
        None, tmp_path / "taught", method="kd", teacher_predictions=file, quiet=True, baseline=False, allow_weak_teacher=True,
        student=f"layers=1,source={teacher_folder / 'teacher'}", settings=["stages.*.max_steps=3"], **data,
    ).report  # fmt: skip
    assert taught["predictions"]["agreement"]["train"]["scores"]["accuracy"] == pytest.approx(made.accuracy, abs=0.02)
    source = f"stages.ptp.ptp_labels.source={tmp_path / 'folds'}"
    common = {"method": "pea_kd", "student": "stored=1", "quiet": True, "baseline": False, **data}
    report = api.distill(
        str(teacher_folder / "teacher"), str(tmp_path / "run"), settings=[source, "stages.*.epochs=1"], **common
    ).report
    assert [stage["name"] for stage in report["stages"]] == ["ptp", "distill"]
    with pytest.raises(TutelageError, match="tutelage crossfit"):
        api.distill(str(teacher_folder / "teacher"), str(tmp_path / "never"), settings=[source + "x"], **common)
    write_csv(tmp_path / "more.csv", 200, 9)
    other = {**common, "train": str(tmp_path / "more.csv")}
    with pytest.raises(TutelageError, match="lack "):
        api.distill(str(teacher_folder / "teacher"), str(tmp_path / "never"), settings=[source], **other)
    assert not (tmp_path / "never").exists()
    with pytest.raises(TutelageError, match="already finished"):
        api.crossfit(str(tmp_path / "fresh"), str(tmp_path / "folds"), quiet=True, **data)
    # Each fold would cut the data in another way, and learn rows that it then judges.
    with pytest.raises(TutelageError, match=r"leave out data\.only"):
        api.crossfit(str(tmp_path / "fresh"), str(tmp_path / "no"), settings=["data.only=[1, 2]"], quiet=True, **data)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "bert" else pytest.mark.slow) for name in FAMILIES]
)
def test_every_family_learns_ptp_labels(family: str, tokenizer, tmp_path: Path) -> None:
    from tutelage.data.tokenizers import fitted_tokenizer

    teacher = tiny_model(family)
    teacher.save_pretrained(tmp_path / "teacher")
    fitted_tokenizer(tokenizer, teacher).save_pretrained(tmp_path / "teacher")
    write_csv(tmp_path / "train.csv", 64, 1)
    write_csv(tmp_path / "dev.csv", 32, 2)
    report = api.distill(
        str(tmp_path / "teacher"),
        str(tmp_path / "run"),
        method="pea_kd",
        student="stored=1",
        settings=["stages.*.lr=0.003", "stages.*.epochs=1", "baseline=false"],
        allow_weak_teacher=True,
        quiet=True,
        train=str(tmp_path / "train.csv"),
        dev=str(tmp_path / "dev.csv"),
    ).report
    assert "(1 stored)" in report["student"]["shape"]
    made = api.export(str(tmp_path / "run" / "student"), str(tmp_path / "plain"), format="checkpoint", quiet=True)
    assert made.layers == 2 and made.type == family and made.source == "dev of train"
    model, plain_side = made.sides
    assert plain_side.largest_difference == 0 and plain_side.bytes > model.bytes
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    native = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student").eval()
    assert plain.config.model_type == family and plain.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(plain(**batch()).logits, native(**batch()).logits)
    with pytest.raises(TutelageError, match="standard checkpoint already"):
        api.export(str(tmp_path / "plain"), str(tmp_path / "again"), format="checkpoint", quiet=True)
    assert not (tmp_path / "again").exists()


def test_recipes_and_ablations() -> None:
    assert [stage.name for stage in pea_kd().stages] == ["ptp", "distill"]
    weights = {term.kind: term.weight for term in pea_kd(alpha=0.6, beta=0.25).stages[1].objective}
    assert weights == {"hard_labels": 0.4, "soft_labels": 0.6, "first_token": 0.25}
    assert [term.weight for term in pea_kd().stages[1].objective] == [0.3, 0.7, 100 / 768]
    words = ["ptp.classes=150", "stages.ptp.ptp_labels.control=labels", "stages.ptp.ptp_labels.thresholds=preset"]
    ptp = run_config(pea_kd(), {"train": "a.csv", "dev": "b.csv"}, words, out="out", teacher="t").recipe.stages[0]
    assert ptp.mechanisms == [PTPLabels(control="labels", thresholds="preset")] and ptp.objective == [PTP(classes=150)]
    patient = method_recipe("pea_kd", ablation="no_sps,no_ptp")
    assert patient.student == Copied(layers=3, choose="first")
    assert [[term.kind for term in stage.objective] for stage in patient.stages] == [
        ["hard_labels", "soft_labels", "first_token"]
    ]
    assert [stage.name for stage in method_recipe("pea_kd", ablation="no_ptp").stages] == ["distill"]
    assert method_recipe("pea_kd", ablation="no_sps").student == Copied(layers=3, choose="first")
    assert method_recipe("pea_kd", ablation="no_shuffle").student == Shared(order="paired")
    assert [term.kind for term in pea_kd(ablation=("no_pkd",)).stages[1].objective] == ["hard_labels", "soft_labels"]
    assert [term.kind for term in pea_kd(ablation=("no_kd",)).stages[1].objective] == ["hard_labels"]
    with pytest.raises(TutelageError, match="no ablation 'no_gd'; it knows no_sps"):
        method_recipe("pea_kd", ablation="no_gd")
    with pytest.raises(ValueError, match="only the term ptp uses"):
        Stage(name="a", objective=[PTP(), HardLabels()], mechanisms=[PTPLabels()], select="last")
    with pytest.raises(ValueError, match="come from the mechanism ptp_labels"):
        Stage(name="a", objective=[PTP()], select="last")
    with pytest.raises(ValueError, match="select=last"):
        Stage(name="a", objective=[PTP()], mechanisms=[PTPLabels()])


def test_a_plan_gives_depth_that_one_layer_lacks() -> None:
    """Queries of a second run may ask for what the first has gathered: parameters are equal, functions are not."""
    shared, plain = student(layers=1), source(layers=1)
    assert count_parameters(shared) == count_parameters(plain)
    assert not torch.allclose(shared(**batch()).logits, plain(**batch()).logits)
    assert isinstance(anatomy.layers_of(shared), nn.ModuleList) and len(anatomy.layers_of(shared)) == 2
