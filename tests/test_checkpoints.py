"""Checkpoints as people bring them: the right model, or one line that names the thing, the value and a remedy."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, VOCABULARY, field_cases_folder, tiny_model, write_csv
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import tutelage
from tutelage.anatomy.checkpoints import looks_like_path, resolve
from tutelage.cli import main
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.errors import TutelageError, last_reason
from tutelage.run.inputs import Inputs
from tutelage.students.bilstm import new_bilstm, word_tokenizer
from tutelage.students.build import build
from tutelage.students.load import head_in, load_config, load_model
from tutelage.students.specs import Checkpoint
from tutelage.tasks.order import better_order
from tutelage.teachers.source import Source


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    """A tiny BERT classifier with its tokenizer, to be spoilt."""
    path = tmp_path / "model"
    tiny_model(layers=2).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def renamed(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Write a checkpoint's weights under other names, or others."""
    weights = change(load_file(path / "model.safetensors"))
    save_file({k: v.clone() for k, v in weights.items()}, path / "model.safetensors", metadata={"format": "pt"})


def configured(path: Path, name: str = "config.json", **fields: Any) -> None:
    place = path / name
    place.write_text(json.dumps({**json.loads(place.read_text()), **fields}))


def refusal(act: Callable[[], object]) -> str:
    """The one line of a refusal."""
    with pytest.raises(TutelageError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text and "weights_only" not in text and "trust_remote_code=True" not in text
    return text


# ---------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.encoder."])
@pytest.mark.parametrize("whole", [True, False])
def test_a_wrappers_prefix_is_taken_off(folder: Path, prefix: str, whole: bool) -> None:
    expected = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in expected.items() if whole or k.startswith("bert.")}
    if not whole:  # a body saved from within another module, with a head of its own
        kept = {k.removeprefix("bert."): v for k, v in kept.items()}
    renamed(folder, lambda weights: {prefix + k: v for k, v in kept.items()})
    model, new = load_model(str(folder))
    found = model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in expected.items() if k.startswith("bert."))
    assert new == ([] if whole else ["classifier.bias", "classifier.weight"])
    if not whole:
        assert "has no classification head" in refusal(lambda: Source(str(folder)).model)


def test_random_weights_are_never_trained_from_in_silence(folder: Path, tmp_path: Path) -> None:
    def spoilt(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {("model.encoder." if "layer.1" in k else "module.") + k: v for k, v in weights.items()}

    renamed(folder, spoilt)
    train, out = write_csv(tmp_path / "train.csv", 40, 1), tmp_path / "run"
    for text in (
        refusal(lambda: tutelage.finetune(folder, out, train=train, quiet=True)),
        refusal(lambda: tutelage.distill(folder, out, train=train, quiet=True)),
        refusal(lambda: tutelage.evaluate(folder, dev=train, quiet=True)),
    ):
        assert ("lack bert.encoder.layer" in text and "'module.'" in text) or "'model.encoder.'" in text
    assert not out.exists()


def test_weights_without_a_place_or_of_other_sizes(folder: Path) -> None:
    configured(folder, num_hidden_layers=1)
    assert "bert.encoder.layer.1" in refusal(lambda: load_model(str(folder)))
    configured(folder, num_hidden_layers=2, hidden_size=16)
    assert "config.json" in refusal(lambda: load_model(str(folder)))
    configured(folder, hidden_size=32, vocab_size=10**9)
    assert "describes" in refusal(lambda: load_model(str(folder)))
    configured(folder, vocab_size=len(VOCABULARY), id2label={"0": "a", "1": "b", "2": "c"})
    assert "correct its id2label" in refusal(lambda: load_model(str(folder)))
    model, new = load_model(str(folder), id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    assert model.config.num_labels == 3 and new == ["classifier.bias", "classifier.weight"]


def test_unmerged_adapters_are_named(folder: Path) -> None:
    renamed(
        folder, lambda w: {f"base_model.model.{k}": v for k, v in w.items()} | {"x.lora_A.weight": torch.ones(2, 2)}
    )
    assert "merge_and_unload" in refusal(lambda: load_model(str(folder)))


def test_a_new_head_is_said_and_fine_tuned(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    tiny_model(layers=2).save_pretrained(tmp_path / "classifier")
    encoder = AutoModel.from_pretrained(tmp_path / "classifier")
    encoder.save_pretrained(tmp_path / "encoder")
    AutoModelForMaskedLM.from_pretrained(tmp_path / "encoder").save_pretrained(tmp_path / "words")
    train = write_csv(tmp_path / "train.csv", 40, 1)
    for name, new in (("encoder", "classifier"), ("words", "bert.pooler.dense")):
        tokenizer.save_pretrained(tmp_path / name)
        assert "has no classification head" in refusal(lambda: Source(str(tmp_path / name)).model)  # noqa: B023
        tutelage.finetune(tmp_path / name, tmp_path / f"run-{name}", train=train, epochs=1)
        said = capsys.readouterr()
        assert re.search(rf"lacks .*'?{re.escape(new)}'?.* new and random", " ".join((said.out + said.err).split()))


# ----------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "settings",
    [
        {"output_attentions": True, "output_hidden_states": True},
        {"return_dict": False, "torchscript": True},
        {"use_return_dict": False, "gradient_checkpointing": True},
        {"problem_type": "regression"},
        {"problem_type": "of its own"},
        {"torch_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"dtype": "no type"},
        {"_attn_implementation": "flash_attention_2", "attn_implementation": "flash_attention_2"},
        {"id2label": ["bad", "good"]},
        {"id2label": {"bad": 0, "good": 1}, "label2id": None},
        {"id2label": {"0": "a", "5": "b"}, "label2id": {"x": 0, "y": 1}},
        {"label2id": {"good": 0, "bad": 1}},
    ],
    ids=lambda settings: "+".join(settings) + str(next(iter(settings.values())))[:12],
)
def test_settings_that_are_not_architecture_are_reset(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = load_model(str(folder))[0].state_dict()
    configured(folder, **settings)
    model, new = load_model(str(folder))
    assert not new and all(torch.equal(v, plain[k]) for k, v in model.state_dict().items())
    assert model(torch.tensor([[2, 5, 3]])).logits.dtype == torch.float32
    config = model.config
    assert config.id2label == {number: name for name, number in config.label2id.items()} and len(config.id2label) == 2
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    for field in ("output_attentions", "output_hidden_states", "torchscript", "gradient_checkpointing"):
        assert not saved.get(field)
    assert saved.get("return_dict", True) and saved["dtype"] == "float32"


def test_the_names_of_classes_that_can_be_read(folder: Path) -> None:
    for given, expected in (
        ({"id2label": ["bad", "good"]}, ["bad", "good"]),
        ({"id2label": {"good": 0, "bad": 1}}, ["good", "bad"]),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"up": 1, "down": 0}}, ["down", "up"]),
        ({"id2label": {"0": "a", "2": "b"}, "label2id": {"x": 0, "y": 1}}, ["x", "y"]),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"b": 0, "a": 1}}, ["a", "b"]),
        ({"id2label": "nonsense", "label2id": None}, ["LABEL_0", "LABEL_1"]),
    ):
        configured(folder, **given)
        config = load_config(str(folder))
        assert [config.id2label[i] for i in range(2)] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[1, 2]", "holds a list"),
        ("null", "instead of settings"),
        ("[" * 100_000, "not JSON"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "no_such_family"}, "no_such_family"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 33}, "multiple of the number of attention heads"),
        ({"hidden_act": "no_such"}, "no_such"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": 0}, "describes no network"),
        ({"pad_token_id": 4000}, "cannot be used"),
        ({"num_labels": 10**12}, "num_labels"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"model_type": "own", "auto_map": {"AutoModel": "own.Model"}}, "auto_map"),
        ({"model_type": ["bert"], "auto_map": {"AutoModel": "own.Model"}}, "auto_map"),
    ],
    ids=lambda given: str(given)[:40] if not isinstance(given, str) or len(given) < 40 else "long",
)
def test_configurations_that_are_refused(folder: Path, content: Any, message: str) -> None:
    if isinstance(content, dict):
        configured(folder, **content)
    else:
        (folder / "config.json").write_text(content)
    assert message in refusal(lambda: load_model(str(folder)))


def test_code_beside_a_known_architecture_is_not_run(folder: Path) -> None:
    """Many repositories keep their own code beside a type that transformers has learnt since."""
    (folder / "own.py").write_text("raise SystemExit('this code ran')")
    plain = load_model(str(folder))[0]
    configured(folder, auto_map={"AutoModelForSequenceClassification": "own.Model", "AutoConfig": "own.Config"})
    model = load_model(str(folder))[0]
    assert type(model) is type(plain) and type(model).__module__.startswith("transformers.")


# --------------------------------------------------------------------------------------------------------- damaged weights


def _model_pickled(path: Path) -> None:
    torch.save(AutoModelForSequenceClassification.from_pretrained(path), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def _nested(path: Path) -> None:
    torch.save({"state_dict": load_file(path / "model.safetensors"), "epoch": 3}, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def _cut_bin(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes((path / "pytorch_model.bin").read_bytes()[:3000])


def _bin(content: bytes) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / "pytorch_model.bin").write_bytes(content)

    return spoil


def _sharded(path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(path)
    (path / "model.safetensors").unlink()
    model.save_pretrained(path, max_shard_size="40KB")
    next(path.glob("model-00002*")).unlink()


def _instead(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"x")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_bin(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 12\n"), "git lfs pull"),
        (_bin(b""), "empty"),
        (_bin(b"<html>not found</html>"), "no whole file"),
        (_model_pickled, "Python objects"),
        (_nested, "lack bert."),
        (_cut_bin, "no whole file"),
        (_sharded, "lacks model-00002"),
        (
            lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:5000]),
            "fetch it again",
        ),
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 300_000), "fetch it again"),
        (lambda p: (p / "model.safetensors").unlink(), "holds no weights"),
        (_instead("tf_model.h5"), "TensorFlow"),
        (_instead("flax_model.msgpack"), "Flax"),
        (_instead("model.onnx"), "ONNX"),
        (_instead("onnx/model.onnx"), "ONNX"),
        (_instead("model-q4.gguf"), "GGUF"),
        (_instead("last.ckpt"), "Lightning"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_weights_that_are_refused(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    assert message in refusal(lambda: load_model(str(folder)))


def test_advice_to_load_unsafely_is_not_passed_on() -> None:
    assert "weights_only" not in last_reason(ValueError("set `weights_only` to False"))
    assert "Python objects" in last_reason(ValueError("pass trust_remote_code=True"))
    assert last_reason(ValueError("Validation error for field 'x':\n    expected int")) == "expected int"
    assert last_reason(KeyError("nope")) == "KeyError 'nope'"


# ------------------------------------------------------------------------------------------------------ folders and names


def test_folders_that_hold_something_else(folder: Path, tmp_path: Path) -> None:
    def made(name: str, **files: str) -> Path:
        for file, content in files.items():
            place = tmp_path / name / file.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        return tmp_path / name

    lora = made("lora", **{"adapter_config.json": json.dumps({"base_model_name_or_path": "some/base"})})
    assert "merge_and_unload" in (text := refusal(lambda: resolve(str(lora)))) and "some/base" in text
    # some write the base's configuration beside the adapter
    shutil.copy(folder / "config.json", lora)
    assert "merge_and_unload" in refusal(lambda: resolve(str(lora)))
    # or its weights too, to which the adapter has to be added
    shutil.copy(folder / "model.safetensors", lora)
    assert "move adapter_config.json away" in refusal(lambda: load_model(str(lora)))

    trainer = tmp_path / "trained"
    for step in (500, 1000, 90):
        shutil.copytree(folder, trainer / f"checkpoint-{step}")
    assert str(trainer / "checkpoint-1000") in refusal(lambda: resolve(str(trainer)))
    state = {"best_model_checkpoint": "/elsewhere/trained/checkpoint-500"}
    (trainer / "checkpoint-1000" / "trainer_state.json").write_text(json.dumps(state))
    assert str(trainer / "checkpoint-500") in refusal(lambda: resolve(str(trainer)))
    load_model(str(trainer / "checkpoint-500"))

    modules = json.dumps(
        [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Pooling"}]
    )
    sentence = made("sentence", **{"modules.json": modules, "0_Transformer__config.json": "{}"})
    assert str(sentence / "0_Transformer") in refusal(lambda: resolve(str(sentence)))
    cache = made("models--a--b", **{"snapshots__abc__config.json": "{}"})
    assert "snapshots" in refusal(lambda: resolve(str(cache)))
    store = made("store", **{"teacher__config.json": "{}", "manifest.json": "{}"})
    assert "teacher_store" in refusal(lambda: resolve(str(store)))
    assert "GGUF" in refusal(lambda: resolve(str(made("gguf", **{"a.gguf": "x"}))))
    assert "'one'" in refusal(lambda: resolve(str(made("many", **{"one__config.json": "{}"}))))
    assert "no checkpoint" in refusal(lambda: resolve(str(made("empty", **{"notes.txt": "x"}))))
    assert "is a file" in refusal(lambda: resolve(str(folder / "model.safetensors")))


def test_what_looks_like_a_path_never_leaves_the_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def hub(*given: Any, **more: Any) -> str:
        asked.append(given)
        raise OSError("there is no network")

    monkeypatch.setattr("tutelage.students.load.cached_file", hub)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("./modle", "../modle", str(tmp_path / "modle"), "modle/", "runs/teacher", "a/b/c", "a\\b", "~/no such folder",
                 "two words", "model.safetensors", "", "x" * 5000, "a\0b"):  # fmt: skip
        text = refusal(lambda: load_config(name))  # noqa: B023
        assert not asked, name
        assert len(text) < 6000
    assert "'model'" in refusal(lambda: load_config("./modle"))
    # A bare name may be a repository: the error names both.
    text = refusal(lambda: load_config("modle"))
    assert asked and "no folder 'modle' here, and the Hub gives no model of this name (there is no network)" in text
    assert text.count("'model'") == 1 and "\n" not in text
    assert not looks_like_path("bert-base-uncased") and not looks_like_path("google/bert_uncased_L-2_H-128_A-2")


# -------------------------------------------------------------------------------------------------------------- tokenizers


def test_tokenizers_that_are_refused(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.txt"):
        (bare / name).unlink(missing_ok=True)
    assert "holds no tokenizer" in refusal(lambda: load_tokenizer(str(bare)))
    pointer = shutil.copytree(folder, tmp_path / "pointer")
    (pointer / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refusal(lambda: load_tokenizer(str(pointer)))
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"model": ')
    assert "tokenizer" in refusal(lambda: load_tokenizer(str(damaged)))
    slow = tmp_path / "slow"
    slow.mkdir()
    shutil.copy(folder / "config.json", slow)
    (slow / "vocab.txt").write_text("good 5\nbad 4\nwo@@ 3\nrd 2\n")
    (slow / "bpe.codes").write_text("g o 4\ngo o 3\ngoo d</w> 2\n")
    (slow / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))
    assert "PhobertTokenizer, has no fast version" in refusal(lambda: load_tokenizer(str(slow)))


@pytest.mark.parametrize("limit", [None, "long", 0, -3, 1e30, 10**30])
def test_the_students_tokenizer_knows_the_students_limit(folder: Path, tmp_path: Path, limit: Any) -> None:
    configured(folder, "tokenizer_config.json", model_max_length=limit)
    fitted_tokenizer(load_tokenizer(str(folder)), load_model(str(folder))[0]).save_pretrained(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved")).model_max_length == 40


def test_a_served_student_cuts_long_texts(folder: Path, tmp_path: Path) -> None:
    configured(folder, "tokenizer_config.json", model_max_length=None)
    train = write_csv(tmp_path / "train.csv", 40, 1)
    tutelage.finetune(folder, tmp_path / "run", train=train, epochs=1, quiet=True)
    assert pipeline("text-classification", model=str(tmp_path / "run"))("good word1 " * 100, truncation=True)


def test_a_student_is_served_at_the_length_it_was_trained_with(folder: Path, tmp_path: Path) -> None:
    configured(folder, "tokenizer_config.json", model_max_length=8)
    train = tmp_path / "train.csv"
    train.write_text(
        "text,label\n"
        + "".join(f"{'word1 ' * 9}{w},{c}\n" for w, c in zip(("good", "bad") * 10, LABELS[::-1] * 10, strict=True))
    )
    said = tutelage.evaluate(folder, dev=train, quiet=True).notes
    assert any(
        "says model_max_length 8; 20 of 20 texts of dev are longer and are read up to 12 tokens" in n for n in said
    )
    tutelage.finetune(folder, tmp_path / "run", train=train, dev=train, epochs=1, max_length=16, quiet=True)
    assert load_tokenizer(str(tmp_path / "run")).model_max_length == 16
    assert "says model_max_length 8" in (tmp_path / "run" / "report.json").read_text()


def test_the_padding_has_an_embedding(folder: Path, tmp_path: Path) -> None:
    added = load_tokenizer(str(folder))
    added.add_special_tokens({"pad_token": "<pad>"})
    added.save_pretrained(folder)
    train = write_csv(tmp_path / "train.csv", 40, 1)
    for act in (
        lambda: tutelage.finetune(folder, tmp_path / "run", train=train, quiet=True),
        lambda: tutelage.evaluate(folder, dev=train, quiet=True),
    ):
        assert "the token '<pad>' for padding the id 45, but the model has 45 embeddings" in refusal(act)


def test_answers_that_are_no_numbers_are_not_scored(folder: Path, tmp_path: Path) -> None:
    renamed(folder, lambda weights: {**weights, "classifier.bias": weights["classifier.bias"] * float("nan")})
    train = write_csv(tmp_path / "dev.csv", 40, 1)
    text = refusal(lambda: tutelage.evaluate(folder, dev=train, quiet=True))
    assert text.startswith(f"the model {str(folder)!r} answers with NaN")


def test_settings_of_the_model_do_not_keep_its_tokenizer_from_loading(folder: Path) -> None:
    model = tiny_model(layers=2, num_labels=1, id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    model.save_pretrained(folder)
    configured(folder, problem_type="single_label_classification")
    with pytest.raises(ValueError, match="requires `num_labels > 1`"):
        AutoTokenizer.from_pretrained(folder)
    assert type(load_tokenizer(str(folder))).__name__ == "BertTokenizer" and load_config(str(folder)).num_labels == 1


def test_a_classifier_of_sentence_transformers_is_a_classifier(folder: Path) -> None:
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    assert head_in(str(folder)) == "classes"
    (folder / "modules.json").write_text(json.dumps([module, {"type": "sentence_transformers.models.Pooling"}]))
    assert head_in(str(folder)) == "vectors"


def test_objects_that_are_models(folder: Path, tokenizer: Any) -> None:
    model = load_model(str(folder))[0]
    with Inputs() as inputs:
        path = inputs.model((model, tokenizer), "model")
        compiled = SimpleNamespace(_orig_mod=model)  # torch.compile takes seconds
        for wrapped in (torch.nn.DataParallel(model), compiled, SimpleNamespace(module=compiled)):
            assert inputs.model((wrapped, tokenizer), "model") == path
        with torch.device("meta"):
            empty = type(model)(model.config)
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

        class Graph:
            config = model.config
            save_pretrained = model.save_pretrained

        for given, said in (
            ((tokenizer, model), r"\(tokenizer, model\) is turned round; give \(model, tokenizer\)"),
            ((model, model), "a BertForSequenceClassification is no tokenizer of transformers"),
            ((Graph(), tokenizer), "a Graph is no PyTorch model of transformers"),
            ((empty, tokenizer), "has no weights"),
            ((quantised, tokenizer), "is quantised; give the model that it was made from"),
        ):
            with pytest.raises(TutelageError, match=said):
                inputs.model(given, "model")


def test_tokens_beyond_the_vocabulary_are_found_before_training(folder: Path, tmp_path: Path, tokenizer: Any) -> None:
    plain = shutil.copytree(folder, tmp_path / "plain")
    added = load_tokenizer(str(folder))
    added.add_tokens(["[E1]"])
    added.save_pretrained(folder)
    train = write_csv(tmp_path / "train.csv", 60, 1)
    odd = tmp_path / "odd.csv"
    odd.write_text(write_csv(tmp_path / "more.csv", 40, 2).read_text() + f"good [E1] word2,{LABELS[1]}\n")
    extra = tmp_path / "extra.csv"
    extra.write_text("text\ngood\n[E1] bad\n")
    for act in (
        lambda: tutelage.finetune(folder, tmp_path / "run", train=odd, quiet=True),
        lambda: tutelage.finetune(folder, tmp_path / "run", train=train, dev=odd, quiet=True),
        lambda: tutelage.evaluate(folder, dev=odd, quiet=True),
        # in the teacher's own encoding alone
        lambda: tutelage.distill(folder, tmp_path / "run", train=train, dev=odd, student=str(plain), quiet=True),
        lambda: tutelage.distill(
            folder, tmp_path / "run", train=train, unlabeled=extra, student=str(plain), quiet=True
        ),
    ):
        assert re.search(r"'\[E1\]' of .* id 45", refusal(act), re.IGNORECASE)
    assert not (tmp_path / "run").exists()


def test_texts_of_unknown_words(folder: Path, tmp_path: Path, capsys: Any) -> None:
    foreign, mixed = tmp_path / "foreign.csv", tmp_path / "mixed.csv"
    rows = [f"{'xyz' * (1 + i % 3)}{i},{LABELS[i % 2]}" for i in range(40)]
    foreign.write_text("\n".join(["text,label", *rows]))
    plain = write_csv(tmp_path / "train.csv", 60, 1)
    mixed.write_text(plain.read_text() + "\n".join(rows[:4]) + "\n")
    text = refusal(lambda: tutelage.finetune(folder, tmp_path / "run", train=foreign, quiet=True))
    assert text.startswith("100% of the tokens of train are unknown") and re.search(
        r"in (\d+) of \1 texts all are", text
    )
    report = tutelage.finetune(folder, tmp_path / "run", train=mixed, dev=foreign, epochs=1, quiet=True).report
    notes = [line for line in report["warnings"] if "unknown" in line]
    assert any(re.search(r"of (train|selection) are .*, and in \d of \d+ texts all are", line) for line in notes)
    assert any(line.startswith("100% of the tokens of dev are unknown") for line in notes)


# ------------------------------------------------------------------------------------------------- the order of the classes


def test_another_order_is_found_where_predictions_tell_it() -> None:
    turned = better_order(np.array([[0, 30, 0], [0, 0, 29], [28, 1, 0]]))
    assert turned is not None and turned.classes == (2, 0, 1) and turned.then > 0.98 and turned.now == 0
    assert better_order(np.array([[28, 2], [3, 27]])) is None
    assert better_order(np.array([[0, 30], [30, 0]])).classes == (1, 0)  # type: ignore[union-attr]
    assert better_order(np.zeros((3, 3), dtype=np.int64)) is None


def test_predictions_that_know_nothing_have_no_order() -> None:
    generator = np.random.default_rng(0)
    for classes, texts in ((2, 30), (3, 60), (11, 110), (40, 200)):
        for _ in range(20):
            counts = np.zeros((classes, classes), dtype=np.int64)
            np.add.at(counts, (generator.integers(classes, size=texts), generator.integers(classes, size=texts)), 1)
            assert better_order(counts) is None
    constant = np.zeros((3, 3), dtype=np.int64)
    constant[:, 1] = [50, 10, 20]
    assert better_order(constant) is None


def test_classes_in_another_order_stop_a_run(teacher_folder: Path, tmp_path: Path, capsys: Any) -> None:
    path = shutil.copytree(teacher_folder / "teacher", tmp_path / "teacher")
    files = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv"}
    renamed(path, lambda w: {k: v.flip(0) if k.startswith("classifier") else v for k, v in w.items()})
    configured(path, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    text = refusal(lambda: tutelage.distill(path, tmp_path / "run", student="layers=1", **files, quiet=True))
    assert "labels positive,negative" in text and not (tmp_path / "run").exists()
    found = tutelage.evaluate(path, dev=files["dev"], quiet=True)
    assert any("positive, negative" in note for note in found.notes)
    # with names that are wrong, the names are to be corrected
    configured(path, id2label={"0": "negative", "1": "positive"}, label2id={"negative": 0, "positive": 1})
    text = refusal(lambda: tutelage.distill(path, tmp_path / "run", student="layers=1", **files, quiet=True))
    assert '{"0": "positive", "1": "negative"}' in text
    configured(path, id2label={"0": "positive", "1": "negative"}, label2id={"positive": 0, "negative": 1})
    assert tutelage.evaluate(path, dev=files["dev"], quiet=True).notes == []
    # a few labelled texts for evaluation are not enough: those of train tell it
    configured(path, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    few = tmp_path / "few.csv"
    few.write_text("".join(files["dev"].read_text().splitlines(keepends=True)[:8]))
    files["dev"] = few
    text = refusal(lambda: tutelage.distill(path, tmp_path / "run", student="layers=1", **files, quiet=True))
    assert "labels positive,negative" in text


# --------------------------------------------------------------------------------------------------- success, and evaluation


def test_a_constant_student_is_no_success(teacher_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["distill", "--teacher", str(teacher_folder / "teacher"), "--train", str(teacher_folder / "train.csv")]
    words += ["--dev", str(teacher_folder / "dev.csv"), "--student", "layers=1,hidden=8,heads=2,intermediate=8"]
    words += ["--set", "stages.distill.lr=1e-9", "--set", "stages.distill.epochs=1", "--out", str(tmp_path / "run")]
    main(words)
    shown = " ".join(capsys.readouterr().out.split())
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["chance"]["accuracy"] >= 0.5
    assert "The student is no better than a constant answer" in shown and "keeps" not in shown
    for place in ("report.html", "student/README.md"):
        text = (tmp_path / "run" / place).read_text()
        assert "no better than a constant answer" in text and "keeps" not in text.split("<h2")[0][:4000]


def test_evaluate_speaks_of_a_model(folder: Path, teacher_folder: Path, tmp_path: Path, capsys: Any) -> None:
    dev = teacher_folder / "dev.csv"
    main(["evaluate", str(folder), "--dev", str(dev), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert any("no better than a constant answer" in note for note in found["notes"])
    assert tutelage.evaluate(teacher_folder / "teacher", dev=dev, quiet=True).notes == []
    assert "teacher" not in json.dumps(found["notes"])
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "encoder")
    load_tokenizer(str(folder)).save_pretrained(tmp_path / "encoder")
    other = tmp_path / "other.csv"
    other.write_text("text,label\ngood,up\nbad,down\nword1,even\n")
    for text in (
        refusal(lambda: tutelage.evaluate(folder, quiet=True)),
        refusal(lambda: tutelage.evaluate(tmp_path / "encoder", dev=dev, quiet=True)),
        refusal(lambda: tutelage.evaluate(folder, dev=other, quiet=True)),
    ):
        assert "teacher" not in text and "learn" not in text


def test_the_kind_of_a_checkpoint_is_that_of_the_task(folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
    """Its own word, problem_type, is compared with how the labels were read, and what the message advises works."""
    dev, hot, scores = teacher_folder / "dev.csv", tmp_path / "hot.jsonl", tmp_path / "scores.csv"
    hot.write_text("".join(f'{{"text": "word{row}", "label": [{row % 2}, {1 - row % 2}]}}\n' for row in range(8)))
    scores.write_text("text,label\n" + "".join(f"word{row},{row % 5}\n" for row in range(8)))
    teacher, out = teacher_folder / "teacher", tmp_path / "out"
    score = lambda model, path, **more: tutelage.evaluate(model, dev=path, quiet=True, **more)  # noqa: E731
    given = {"train": dev, "method": "kd", "student": "layers=1", "quiet": True}
    learn = lambda **more: tutelage.distill(teacher, out, **given | more)  # noqa: E731
    assert "with kind classification" in refusal(lambda: score(teacher, hot))
    assert score(teacher, hot, kind="classification").metric == "accuracy"
    named = refusal(lambda: learn(train=hot, dev=hot, kind="classification"))
    assert "give labels negative,positive" in named
    configured(folder, problem_type="multi_label_classification")
    assert "with kind multilabel" in refusal(lambda: score(folder, dev))
    assert score(folder, dev, kind="multilabel").metric == "micro_f1"
    assert "the model" in refusal(lambda: learn(student=folder))
    assert "with kind multilabel" in refusal(lambda: learn(team=[teacher, folder], method="ensemble"))
    one = {"num_labels": 1, "problem_type": None, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    configured(folder, **one)
    renamed(folder, lambda found: {k: v[:1] if k.startswith("classifier") else v for k, v in found.items()})
    assert "one output, a regression" in (line := refusal(lambda: score(folder, scores)))
    assert "with kind regression" in line and score(folder, scores, kind="regression").metric == "pearson"
    assert not out.exists()


def test_a_student_keeps_what_its_checkpoint_knows_of_classes_in_another_order(folder: Path, tokenizer: Any) -> None:
    ours = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    model = tiny_model(num_labels=3)
    model.save_pretrained(folder)
    inputs = tokenizer(["good word1", "bad word2"], return_tensors="pt")
    for theirs in (["a", "b", "c"], ["c", "a", "b"], ["B", "C", "A"], ["x", "a", "b"]):
        configured(folder, id2label=dict(enumerate(theirs)), label2id={name: i for i, name in enumerate(theirs)})
        built = build(Checkpoint(name=str(folder)), None, ours, 0).eval()
        order = [0, 1, 2] if "x" in theirs else [[name.lower() for name in theirs].index(name) for name in "abc"]
        with torch.no_grad():
            assert torch.equal(built(**inputs).logits, model(**inputs).logits[:, order]), theirs


def test_a_bilstms_classes_are_put_in_order_too(tmp_path: Path) -> None:
    labels = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    model = new_bilstm(word_tokenizer(["a b"], 9, 9), labels, hidden=4, intermediate=4, embedding=4)
    model.save_pretrained(tmp_path)
    configured(tmp_path, id2label={0: "b", 1: "a"}, label2id={"b": 0, "a": 1})
    built = build(Checkpoint(name=str(tmp_path)), None, labels, 0).eval()
    with torch.no_grad():
        logits = model.eval()(torch.tensor([[1, 2]])).logits
        assert torch.equal(built(torch.tensor([[1, 2]])).logits, logits[:, [1, 0]])


def test_paths_are_paths_everywhere(folder: Path, tmp_path: Path) -> None:
    from tutelage.students.specs import Copied, Fresh

    assert (
        Checkpoint(name=folder).name == Copied(source=folder).source == Fresh(layers=1, like=folder).like == str(folder)
    )
    train = write_csv(tmp_path / "train.csv", 40, 1)
    run = tutelage.finetune(folder, tmp_path / "run", train=train, dev=train, epochs=1, quiet=True)
    tutelage.distill(
        run, tmp_path / "b", student=folder, train=train, allow_weak_teacher=True, baseline=False, quiet=True
    )
    assert tutelage.evaluate(tmp_path / "b", dev=train, quiet=True).scores


def test_what_cannot_be_saved_is_found_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> None:
        raise ValueError("Class validation error:\n    this setting cannot be saved")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fails)
    train = write_csv(tmp_path / "train.csv", 40, 1)
    text = refusal(lambda: tutelage.finetune(folder, tmp_path / "run", train=train, quiet=True))
    assert "this setting cannot be saved" in text and not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ field cases

CASES = field_cases_folder()
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder of field cases (TUTELAGE_FIELD_CASES)")


def script(path: Path, *words: object) -> None:
    """Run a case's script in this process."""
    before = sys.argv
    sys.argv = [str(path), *map(str, words)]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = before


@pytest.fixture
def base(tmp_path: Path) -> Callable[..., Path]:
    """The model that a case begins with."""

    def made(labels: int = 2) -> Path:
        script(CASES / "tiny.py", tmp_path / "base", labels)
        return tmp_path / "base"

    return made


def fine_tuned(base: Path, out: Path, case: Path, train: str, dev: str, **more: Any) -> Any:
    settings = {"epochs": 1, "quiet": True, **more}
    return tutelage.finetune(base, out, train=case / train, dev=case / dev, **settings)


@needs_cases
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("10_token_beyond_vocabulary", "'[e1]'"),
        ("11_bin_that_is_no_state_dict", "git lfs pull"),
        ("19_texts_all_unknown", "are unknown to the tokenizer"),
    ],
)
def test_cases_that_are_refused(name: str, message: str, base: Callable[..., Path], tmp_path: Path) -> None:
    model, case = base(), CASES / name
    if (case / "make.py").exists():
        script(case / "make.py", model)
    if (case / "pytorch_model.bin").exists():
        (model / "model.safetensors").unlink()
        shutil.copy(case / "pytorch_model.bin", model)
    dev = "dev.csv" if (case / "dev.csv").exists() else "train.csv"
    assert message in refusal(lambda: fine_tuned(model, tmp_path / "run", case, "train.csv", dev))
    assert not (tmp_path / "run").exists()


@needs_cases
@pytest.mark.parametrize(
    "name",
    ["04_missing_weights_finetune", "06_output_attentions_config", "07_return_dict_false", "17_pipeline_truncation"],
)
def test_cases_that_train(name: str, base: Callable[..., Path], tmp_path: Path) -> None:
    model, case = base(), CASES / name
    started = load_file(model / "model.safetensors")
    if (case / "make.py").exists():
        script(case / "make.py", model)
    assert torch.equal(load_model(str(model))[0].state_dict()["classifier.weight"], started["classifier.weight"])
    fine_tuned(model, tmp_path / "run", case, "train.csv", "dev.csv")
    assert pipeline("text-classification", model=str(tmp_path / "run"))("the film " * 200, truncation=True)


@needs_cases
def test_case_of_a_slow_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES / "08_slow_tokenizer"
    monkeypatch.chdir(case)
    script(case / "make.py", tmp_path / "base")
    text = refusal(lambda: tutelage.finetune(tmp_path / "base", tmp_path / "run", train=case / "train.csv", quiet=True))
    assert "has no fast version" in text


@needs_cases
@pytest.mark.slow
def test_case_of_unnamed_classes_in_another_order(base: Callable[..., Path], tmp_path: Path) -> None:
    case, columns = CASES / "05_unnamed_label_order", {"text": "premise", "text_pair": "hypothesis"}
    fine_tuned(base(3), tmp_path / "nli", case, "train.csv", "dev.csv", epochs=20, lr=3e-3, **columns)
    script(case / "make.py", tmp_path / "nli", 0, 2, 1)
    files: dict[str, Any] = {"train": case / "train.csv", "dev": case / "dev.csv", "quiet": True, **columns}
    text = refusal(lambda: tutelage.distill(tmp_path / "nli", tmp_path / "a", student="layers=1", **files))
    assert re.search(r"pass labels \w+,\w+,\w+", text) and not (tmp_path / "a").exists()
    fine_tuned(base(), tmp_path / "two", case, "sent.csv", "sentdev.csv", epochs=12, lr=3e-3)
    script(case / "make.py", tmp_path / "two")
    files = {"train": case / "flip.csv", "dev": case / "flipdev.csv", "quiet": True}
    text = refusal(lambda: tutelage.distill(tmp_path / "two", tmp_path / "b", student="layers=1", **files))
    assert re.search(r"pass labels \w+,\w+;", text)


@needs_cases
@pytest.mark.slow
def test_case_of_a_student_that_says_one_class(base: Callable[..., Path], tmp_path: Path) -> None:
    case = CASES / "14_student_says_one_class"
    teacher = fine_tuned(base(), tmp_path / "teacher", case, "balanced.csv", "balanced_dev.csv", epochs=12, lr=3e-3)
    size = "layers=1,hidden=16,heads=2,intermediate=32"
    files: dict[str, Any] = {"train": case / "train.csv", "dev": case / "dev.csv", "quiet": True}
    run = tutelage.distill(teacher, tmp_path / "run", student=size, **files)
    scores, chance = run.report["student"]["scores"]["dev"], run.report["chance"]
    assert all(scores[metric] <= value + 0.05 for metric, value in chance.items())
    assert "no better than a constant answer" in run._repr_html_() and "keeps" not in run._repr_html_()
