"""A trimmed vocabulary: on texts that it covers tokenizer and model do what they did, and no word becomes unknown."""

from __future__ import annotations

import csv
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALL_FAMILIES, LABELS, VOCABULARY, assert_alike, sentences, tiny_config, tiny_model
from safetensors.torch import load_file
from test_cli import invoke
from test_common import small
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

from tutelage import anatomy
from tutelage.data.config import DataConfig
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError
from tutelage.methods.kd import kd
from tutelage.methods.pretrain import pretrain
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench
from tutelage.students.specs import BiLSTM, Checkpoint, Copied, Fresh, Inherited, Pruned, Shared, Sliced, StudentSpec
from tutelage.students.vocabulary import Vocabulary, trim

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = ["wordpiece", "bytes", "merges", "unigram"]
ODD = ["naïve café", "日本 ok", "x" * 120, "", "  ", "a\tb\nc", "e=mc^2", "<s> and [CLS]", "\N{GRINNING FACE}"]


def prose(count: int, seed: int) -> list[str]:
    """Sentences of made-up words: few syllables, so that many words share pieces, with figures and punctuation."""
    draw = random.Random(seed)
    syllables = [a + b + c for a in ("b", "k", "st", "m", "tr", "") for b in "aeiou" for c in ("n", "r", "", "ld")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(400)]
    ends = [".", "!", ", é", " 42", "?!"]
    return [" ".join(draw.choices(words, k=draw.randint(2, 9))) + draw.choice(ends) for _ in range(count)]


TRAINING = prose(600, 0)
COVERED = prose(40, 0) + ODD
OTHERS = prose(150, 1) + prose(150, 2)


def _wordpiece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        TRAINING, trainers.WordPieceTrainer(vocab_size=700, special_tokens=names, show_progress=False)
    )
    return BertTokenizerFast(vocab=backend.get_vocab(), model_max_length=64)


def _around(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """As XLM-R's: ``<s> A </s>``, ``<s> A </s></s> B </s>``, and a mask token outside the model's pieces."""
    numbers = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    pair = "<s> $A </s> </s> $B </s>"
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=numbers)
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, unk_token="<unk>", mask_token="<mask>", model_max_length=64
    )


def _bytes() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TRAINING,
        trainers.BpeTrainer(vocab_size=800, special_tokens=SPECIAL[:4], initial_alphabet=alphabet, show_progress=False),
    )
    return _around(backend)


def _merges() -> PreTrainedTokenizerFast:
    """As it is converted from SentencePiece: the bytes of unknown characters, and a merge for every two pieces that make one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL[:4], show_progress=False)
    )
    found = json.loads(backend.to_str())["model"]["vocab"]
    vocabulary = {piece: number for number, piece in enumerate([*found, *(f"<0x{byte:02X}>" for byte in range(256))])}
    splits = [(piece[:i], piece[i:]) for piece in found for i in range(1, len(piece)) if piece not in SPECIAL]
    merges = [(one, other) for one, other in splits if one in found and other in found]
    again = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    again.pre_tokenizer = pre_tokenizers.Metaspace()
    again.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    again.add_special_tokens(SPECIAL[:4])
    return _around(again)


def _unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.train_from_iterator(
        TRAINING,
        trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL[:4], unk_token="<unk>", show_progress=False),
    )
    return _around(backend)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {"wordpiece": _wordpiece(), "bytes": _bytes(), "merges": _merges(), "unigram": _unigram()}


def used(tokenizer: Any, texts: list[str]) -> np.ndarray:
    return np.unique(np.concatenate([tokenizer(text)["input_ids"] for text in texts]))


def unknown(tokenizer: Any, text: str) -> int:
    return tokenizer(text)["input_ids"].count(tokenizer.unk_token_id)


# ------------------------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("kind", KINDS)
def test_covered_texts_are_cut_as_before(kind: str, tokenizers: dict[str, Any]) -> None:
    """Whatever the texts are: each of twenty drawn sets, and the odd ones."""
    whole = tokenizers[kind]
    for seed in range(20):
        texts = random.Random(seed).sample(TRAINING, 3 + 2 * seed) + (ODD if seed % 2 else [])
        trimmed, kept = trim(whole, used(whole, texts))
        assert len(trimmed) == len(kept) == len(set(kept)) < len(whole)
        assert [trimmed.convert_ids_to_tokens(i) for i in range(len(kept))] == whole.convert_ids_to_tokens(
            kept.tolist()
        )
        for text in texts:
            before, after = whole(text, texts[0]), trimmed(text, texts[0])
            assert kept[after["input_ids"]].tolist() == before["input_ids"]
            assert {**after, "input_ids": 0} == {**before, "input_ids": 0}
            assert after.encodings[0].offsets == before.encodings[0].offsets


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_becomes_unknown(kind: str, tokenizers: dict[str, Any]) -> None:
    """A vocabulary of one text still spells every other; what it cannot know was unknown before."""
    whole = tokenizers[kind]
    trimmed, kept = trim(whole, used(whole, ["ban"]))
    assert len(kept) < 0.4 * len(whole)  # 256 bytes are much of so few pieces
    cut = 0
    for text in OTHERS + ODD:
        assert unknown(trimmed, text) == unknown(whole, text)
        assert trimmed.decode(trimmed(text)["input_ids"]) == whole.decode(whole(text)["input_ids"])
        cut += len(trimmed(text)["input_ids"]) > len(whole(text)["input_ids"])
    assert cut > 250


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_stay_and_a_saved_tokenizer_is_the_same(
    kind: str, tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    whole = tokenizers[kind]
    trimmed, kept = trim(whole, used(whole, COVERED))
    trimmed.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir() if "vocab" in file.name or "merges" in file.name] == []
    for one in (trimmed, AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        assert one.special_tokens_map == whole.special_tokens_map
        for name in ("cls", "sep", "pad", "mask", "unk"):
            assert kept[getattr(one, f"{name}_token_id")] == getattr(whole, f"{name}_token_id")
        assert len(one) == len(kept) and one.num_special_tokens_to_add(pair=True) == whole.num_special_tokens_to_add(
            pair=True
        )
        two = one(COVERED[:5], COVERED[5:10], padding=True, truncation=True, max_length=12)
        theirs = whole(COVERED[:5], COVERED[5:10], padding=True, truncation=True, max_length=12)
        assert kept[np.array(two["input_ids"])].tolist() == theirs["input_ids"]
        masked = f"ban {whole.mask_token} ban"
        assert kept[one(masked)["input_ids"]].tolist() == whole(masked)["input_ids"]


def test_the_price_of_an_unknown_character_stays() -> None:
    """Unigram counts it from the lowest score. Without the piece ``zz`` a cut through an unknown ``b`` would win."""
    scores = {"<unk>": 0.0, "x": -15.0, "a": -2.0, "ab": -15.0, "xa": -1.0, "z": -3.0, "zz": -30.0}
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    whole = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    assert whole.tokenize("xab") == ["x", "ab"]
    assert trim(whole, used(whole, ["xab"]))[0].tokenize("xab") == ["x", "ab"]


def test_other_tokenizers_are_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    with pytest.raises(TutelageError, match="this one is a WordLevel; leave it out"):
        trim(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), np.array([1]))


# ----------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_trimmed_model_computes_the_same(family: str, tmp_path: Path) -> None:
    """To the bit, in every family, also after it was saved; padding keeps its meaning, and the model itself is not changed."""
    padding = 1 if anatomy.FAMILIES[family].numbers_after_padding else 0
    model = tiny_model(family, pad_token_id=padding)
    special = [0, 1, 2, 3]
    kept = np.array([*special, *range(5, len(VOCABULARY), 3)])
    smaller = Vocabulary(None, None, kept, len(VOCABULARY)).network(model)
    torch.manual_seed(3)
    ids = torch.randint(2, len(kept), (6, 9))
    mask = (torch.arange(9) < torch.tensor([9, 3, 5, 9, 7, 4])[:, None]).long()
    ids = ids.where(mask.bool(), padding)
    before = anatomy.output_of(model, {"input_ids": torch.from_numpy(kept)[ids], "attention_mask": mask}).logits
    smaller.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for one in (smaller, again):
        assert torch.equal(anatomy.output_of(one, {"input_ids": ids, "attention_mask": mask}).logits, before)
        assert one.config.vocab_size == len(anatomy.word_embeddings_of(one).weight) == len(kept)
    assert model.config.vocab_size == len(anatomy.word_embeddings_of(model).weight) == len(VOCABULARY)
    assert anatomy.word_embeddings_of(smaller).padding_idx == anatomy.word_embeddings_of(model).padding_idx


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_vectors_for_covered_texts(kind: str, tokenizers: dict[str, Any]) -> None:
    """Tokenizer and table together; special ids of the configuration follow, and positions stay."""
    whole = tokenizers[kind]
    family = "bert" if kind == "wordpiece" else "xlm-roberta"
    ends = {"bos_token_id": whole.cls_token_id, "eos_token_id": whole.sep_token_id}
    model = tiny_model(family, vocab_size=len(whole), pad_token_id=whole.pad_token_id, **ends)
    vocabulary = Vocabulary.of(whole, model.config, used(whole, COVERED))
    smaller = vocabulary.network(model)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert vocabulary.kept[getattr(smaller.config, name)] == getattr(model.config, name)
    texts = [text for text in COVERED if len(whole(text)["input_ids"]) < 38]
    for start in range(0, len(texts), 8):
        batches = [
            one(texts[start : start + 8], padding=True, return_tensors="pt") for one in (whole, vocabulary.tokenizer)
        ]
        with torch.no_grad():
            assert torch.equal(model(**batches[0]).logits, smaller(**batches[1]).logits)


def test_a_token_without_an_embedding_is_refused(tokenizers: dict[str, Any]) -> None:
    whole = tokenizers["unigram"]
    model = tiny_model("xlm-roberta", vocab_size=len(whole) - 1, pad_token_id=1)
    with pytest.raises(
        TutelageError, match=r"'<mask>' of the tokenizer has the id \d+, but the model has \d+ embeddings"
    ):
        Vocabulary.of(whole, model.config, used(whole, ["ban"]))


# ------------------------------------------------------------------------------------------------------------- runs

NEW = ["excellent", "terrible", "##ent", "##ible"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def write(path: Path, count: int, seed: int, more: str = "") -> None:
    texts, labels = sentences(count, seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = ([f"{text} {more}".strip(), LABELS[label]] for text, label in zip(texts, labels, strict=True))
        csv.writer(file).writerows([["text", "label"], *rows])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with 500 pieces, texts with 40 of them, and an evaluation set with a word that they lack."""
    root = tmp_path_factory.mktemp("vocabulary")
    letters = [
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        *(f"##{figure}" for figure in range(10)),
        *"0123456789",
    ]
    pieces = [*VOCABULARY, *NEW, *letters, *(f"unused{number}" for number in range(400))]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=32)
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(root / "teacher")
    tokenizer.save_pretrained(root / "teacher")
    write(root / "train.csv", 96, 1)
    write(root / "dev.csv", 40, 2, "excellent")
    return root


def config_for(root: Path, out: Path, student: StudentSpec, method: str = "kd", **more: Any) -> RunConfig:
    recipe = small(method, student, 1)
    stages = [stage.model_copy(update={"max_steps": 4, "lr": 1e-3}) for stage in recipe.stages]
    data = DataConfig(train=str(root / "train.csv"), dev=str(root / "dev.csv"))
    recipe = recipe.model_copy(update={"stages": stages})
    places = {"teacher": str(root / "teacher"), "out": str(out), "allow_weak_teacher": True, "baseline": False}
    return RunConfig(recipe=recipe, data=data, **{**places, **more})


def words(root: Path, out: Path, method: str, student: str) -> list[str]:
    places = {"teacher": root / "teacher", "train": root / "train.csv", "dev": root / "dev.csv", "out": out}
    options = [part for name, value in places.items() for part in (f"--{name}", str(value))]
    short = ["--set", "stages.*.epochs=1", "--set", "stages.*.max_steps=3", "--allow-weak-teacher"]
    short += ["--set", "stages.*.pad_to=24"] if method == "tinybert_reference" else []
    return ["distill", *options, "--method", method, "--student", student, *short]


@pytest.mark.parametrize("method", ["kd", pytest.param("tinybert_reference", marks=pytest.mark.slow)])
def test_distilled_from_the_command_line(method: str, scene: Path, tmp_path: Path) -> None:
    """With labels, predictions, hidden states and attention; the student is a plain checkpoint, its twin has the same pieces."""
    code, out, error = invoke(*words(scene, tmp_path / "a", method, "init=copied,layers=2,vocabulary=trimmed"))
    assert code == 0, error
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    entry = report["vocabulary"]
    assert entry["of"] == 45 + 4 + 72 + 400 and entry["kept"] == 45 + 72
    assert entry["parameters"] == (entry["of"] - entry["kept"]) * 32 and entry["bytes"] == 4 * entry["parameters"]
    assert list(entry["held_out"]) == ["dev"]
    found = entry["held_out"]["dev"]
    assert found["texts"] == 0 and found["unknown"] == found["unknown_before"] == 0 and 0.8 < found["tokens"] < 0.95
    assert any("are no pieces of the trimmed vocabulary" in line and "unlabeled" in line for line in report["warnings"])
    assert report["baseline"]["parameters"] == report["student"]["parameters"]
    folder = tmp_path / "a" / "student"
    assert len(AutoTokenizer.from_pretrained(folder)) == entry["kept"]
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.vocab_size == entry["kept"]
    shown = [(tmp_path / "a" / "report.html").read_text(), (folder / "README.md").read_text(), out + error]
    assert all("117 of 521 pieces are kept" in text for text in shown)
    places = ["--train", scene / "train.csv", "--dev", scene / "dev.csv", "--json"]
    code, out, error = invoke("evaluate", folder, *places)
    assert code == 0 and json.loads(out)["scores"] == report["student"]["scores"], error


@pytest.mark.parametrize(
    "method", [pytest.param("kd", marks=pytest.mark.slow), "pkd", pytest.param("minilmv2", marks=pytest.mark.slow)]
)
def test_training_is_that_of_the_whole_vocabulary(method: str, scene: Path, tmp_path: Path, monkeypatch) -> None:
    """The rows that are left out get no gradient: losses and weights differ by the order of sums alone. A store that one has
    written serves the other."""
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    reports, weights = {}, {}
    for vocabulary in ("trimmed", "full"):
        for store in (None, "auto"):
            student, out = Copied(layers=2, vocabulary=vocabulary), tmp_path / f"{vocabulary}-{store}"
            config = config_for(scene, out, student, method, teacher_store=store, store_dtype="float32")
            reports[vocabulary, store] = run(config, quiet=True)
            weights[vocabulary, store] = load_file(out / "student" / "model.safetensors")
    table = "bert.embeddings.word_embeddings.weight"
    with bench(quiet=True) as desk:
        kept = TaskRun(
            desk, config_for(scene, tmp_path / "b", Copied(layers=2, vocabulary="trimmed"))
        ).factory.vocabulary.kept
    for store in (None, "auto"):
        ours, theirs = weights["trimmed", store], weights["full", store]
        assert_alike(ours, {**theirs, table: theirs[table][torch.from_numpy(kept)]}, within=2e-3)
        first, second = (reports[vocabulary, store]["stages"][0]["losses"] for vocabulary in ("trimmed", "full"))
        for name, values in first.items():
            assert [value for _, value in values] == pytest.approx([value for _, value in second[name]], rel=1e-4)
    assert reports["trimmed", "auto"]["store"] == reports["full", "auto"]["store"] is not None
    assert len(list((tmp_path / "stores").rglob("manifest.json"))) == 1


def test_both_models_read_the_same_pieces(scene: Path, tmp_path: Path) -> None:
    """Student and teacher read the training texts alike: no tokens are paired, and both have the same pieces."""
    with bench(quiet=True) as desk:
        task = TaskRun(desk, config_for(scene, tmp_path / "a", Copied(layers=2, vocabulary="trimmed"), "pkd"))
    texts, kept = task.texts.parts["train"], task.factory.vocabulary.kept
    assert texts.teacher is not None and texts.student.partners is None
    assert np.array_equal(kept[texts.student.tokens], texts.teacher.tokens)
    assert len(task.texts.dev["dev"].student.tokens) > len(task.texts.dev["dev"].teacher.tokens)


STUDENTS = [
    Copied(layers=2, vocabulary="trimmed"),
    Copied(layers=2, family="distilbert", vocabulary="trimmed"),
    Shared(stored=2, vocabulary="trimmed"),
    Pruned(layers=2, heads=2, intermediate=16, rank=None, vocabulary="trimmed"),
    Inherited(hidden=16, vocabulary="trimmed"),
    Sliced(hidden=16, vocabulary="trimmed"),
    Checkpoint(name="teacher", vocabulary="trimmed"),
    Fresh(layers=2, hidden=16, heads=2, intermediate=24, vocabulary="trimmed"),
]
"""Of each kind one."""


@pytest.mark.parametrize("spec", STUDENTS, ids=lambda spec: f"{spec.init}-{getattr(spec, 'family', None)}")
def test_every_kind_of_student(spec: StudentSpec, scene: Path, tmp_path: Path) -> None:
    """It starts as with the whole vocabulary, and its outline has its sizes. What a slice keeps is chosen by the kept rows."""
    if isinstance(spec, Checkpoint):
        spec = spec.model_copy(update={"name": str(scene / "teacher")})
    with bench(quiet=True) as desk:
        tasks = [
            TaskRun(desk, config_for(scene, tmp_path / "a", one, "wid" if spec.init == "inherited" else "kd"))
            for one in (spec, spec.model_copy(update={"vocabulary": "full"}))
        ]
    inputs = [task.tokenizer(task.texts.data.train.texts[:8], padding=True, return_tensors="pt") for task in tasks]
    with torch.no_grad():
        # a DistilBERT made of a BERT has a new head
        bodies = [anatomy.base_of(task.student) for task in tasks]
        ours, theirs = (body(**read).last_hidden_state for body, read in zip(bodies, inputs, strict=True))
    if spec.init not in ("sliced", "fresh"):
        assert torch.equal(ours, theirs)
    factory, made = tasks[0].factory, [tasks[0].student]
    if spec.init != "checkpoint":  # which has no outline
        made += [factory.outline(), factory.make(twin=True)]
    assert len(tasks[0].tokenizer) == 117
    assert all(len(anatomy.word_embeddings_of(model).weight) == 117 for model in made)


def test_factorised_tables(scene: Path, tmp_path: Path) -> None:
    spec = Pruned(layers=2, heads=2, intermediate=16, rank=8, vocabulary="trimmed")
    with bench(quiet=True) as desk:
        task = TaskRun(desk, config_for(scene, tmp_path / "a", spec))
    assert anatomy.word_embeddings_of(task.student).weight.shape == (117, 8)


def test_where_it_is_refused(scene: Path, tmp_path: Path) -> None:
    with bench(quiet=True) as desk, pytest.raises(TutelageError, match="a BiLSTM has a vocabulary of its own"):
        TaskRun(desk, config_for(scene, tmp_path / "a", BiLSTM(vocabulary="trimmed")))
    start = str(scene / "teacher")
    recipe = pretrain(Fresh(layers=1, like=start, vocabulary="trimmed"))
    config = RunConfig(recipe=recipe, corpus="corpus", out=str(tmp_path / "b"))
    with pytest.raises(TutelageError, match="a run on raw text reads the whole vocabulary of its corpus"):
        run(config, quiet=True)


def test_windows_that_a_trimmed_vocabulary_would_move_are_refused(tmp_path: Path) -> None:
    """Contexts of the evaluation set with words that the training contexts lack: they need more pieces, so more windows."""
    letters = "known"
    pieces = [*VOCABULARY[:5], *letters, *(f"##{one}" for one in letters), "known", "unknown", "now"]
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))})
    torch.manual_seed(0)
    config = tiny_config("bert", layers=2, num_labels=2)
    AutoModelForQuestionAnswering.from_config(config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")

    def write(name: str, words: str) -> str:
        rows = [{"context": f"{words} {n * 'known '}" * 6, "qas": [
            {"id": f"{name}{n}", "question": "known ?", "answers": [{"text": "known", "answer_start": len(words) + 1}]}
        ]} for n in range(1, 21)]  # fmt: skip
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"version": "1.1", "data": [{"title": name, "paragraphs": rows}]}))
        return str(path)

    data = DataConfig(train=write("train", "known"), dev=write("dev", "unknown now"), kind="spans")
    recipe = kd().model_copy(update={"student": Copied(layers=1, choose="first", vocabulary="trimmed")})
    config = RunConfig(recipe=recipe, teacher=str(tmp_path / "teacher"), data=data, out=str(tmp_path / "out"))
    with (
        bench(quiet=True) as desk,
        pytest.raises(TutelageError, match="spells them with more pieces") as e,
    ):
        TaskRun(desk, config)
    assert "words of dev" in str(e.value) and "leave out vocabulary=trimmed" in str(e.value)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- real models

REAL = Path(os.environ.get("TUTELAGE_MODELS", "models"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all-mpnet-base-v2", "e5-small-enpt-q4", "e5-small-original-q4"])
def test_real_tokenizers_and_weights(name: str, tmp_path: Path) -> None:
    """WordPiece and XLM-R's Unigram, on English and on texts of many scripts; outputs to the bit, also after saving."""
    if not (REAL / name).exists():
        pytest.skip(f"no {name} in TUTELAGE_MODELS")
    whole = load_tokenizer(str(REAL / name))
    model = AutoModel.from_pretrained(REAL / name, dtype=torch.float32).eval()
    texts = [*prose(50, 3), *ODD[:2], "Ein Überblick über die Lage", "Привет, мир", "यह एक वाक्य है", "これはペンです"]
    vocabulary = Vocabulary.of(whole, model.config, used(whole, texts))
    smaller = vocabulary.network(model)
    smaller.save_pretrained(tmp_path)
    vocabulary.tokenizer.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    for start in range(0, len(texts), 8):
        part = {"padding": True, "return_tensors": "pt"}
        read = whole(texts[start : start + 8], **part)
        with torch.no_grad():
            before = model(**read).last_hidden_state
            for one, tokenizer in ((smaller, vocabulary.tokenizer), again):
                after = tokenizer(texts[start : start + 8], **part)
                assert np.array_equal(vocabulary.kept[after["input_ids"]], read["input_ids"])
                assert torch.equal(one(**after).last_hidden_state, before)
    for text in (*OTHERS, "Ελληνικά και ελληνικά", "한국어 문장입니다", "emoji \N{GRINNING FACE} ok", "ﬁnal naïveté"):
        assert unknown(vocabulary.tokenizer, text) <= unknown(whole, text)
