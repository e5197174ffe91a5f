"""Sentence encoders: their folders, the map into a teacher's space, their scores, and runs from texts to a folder that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import kept_score, sentences, tiny_config
from processes import in_processes
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from tutelage import api, distill, evaluate, finetune
from tutelage.data.batches import padded
from tutelage.data.config import DataConfig
from tutelage.data.examples import Examples, encode
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.report.model import load_report
from tutelage.students.load import load_model
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.tasks.sentence import SPACE, SentenceEncoder, plain_settings, read_settings
from tutelage.teachers.source import Source

TEXTS, LABELS = sentences(60, 0)
SMALL = "hidden=16,layers=2,heads=4,intermediate=24"
QUICK = ["stages.*.lr=3e-3", "stages.*.epochs=2", "stages.*.batch_size=16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A teacher without modules, and texts: lines, pairs with scores, texts with classes."""
    root = tmp_path_factory.mktemp("embedding")
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", layers=2)).save_pretrained(root / "teacher")
    tokenizer.save_pretrained(root / "teacher")
    (root / "train.txt").write_text("\n".join(TEXTS))
    rows = [{"a": a, "b": b, "score": i % 5} for i, (a, b) in enumerate(zip(TEXTS[:24], TEXTS[24:48], strict=True))]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"text": text, "label": "no" if label else "yes"} for text, label in zip(TEXTS, LABELS, strict=True)]
    (root / "classes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def pairs(root: Path) -> dict[str, Any]:
    return {"dev": str(root / "pairs.jsonl"), "text": "a", "text_pair": "b", "label": "score"}


def run(root: Path, out: Path, **more: Any) -> Any:
    given: dict[str, Any] = {
        "teacher": str(root / "teacher"),
        "kind": "embedding",
        "train": str(root / "train.txt"),
        "student": SMALL,
    }
    given["allow_weak_teacher"] = True
    settings = [*QUICK, *more.pop("settings", [])]
    return distill(out=str(out), quiet=True, settings=settings, **{**given, **more})


def by_hand(folder: Path, texts: list[str]) -> Tensor:
    """Unit vectors of a folder by plain transformers: the mean over the tokens of each text alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt"))[0][0].mean(dim=0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def vectors(model: SentenceEncoder, tokenizer: Any, texts: list[str]) -> Tensor:
    encoded = encode(Examples(texts, texts, None, np.zeros(len(texts))), tokenizer, 32)
    with torch.no_grad():
        return model(**padded(encoded, np.arange(len(texts))))


# --------------------------------------------------------------------------------------------------------------- folders


def encoder(**head: Any) -> SentenceEncoder:
    config = tiny_config("bert", layers=2, hidden=16)
    config.sentence = plain_settings() | head
    return SentenceEncoder.from_config(config)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"pooling": "first", "normalize": False},
        {"dense": True, "width": 24, "bias": True, "activation": "Tanh"},
        {"width": 24, "projection": "pca"},
    ],
)
def test_a_folder_says_how_its_vectors_are_made(head: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    model = encoder(**head)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "sentence" not in json.loads((tmp_path / "config.json").read_text())
    again, lacking = load_model(str(tmp_path), "vectors", sentence=model.config.sentence)
    assert not lacking
    assert torch.equal(vectors(again, tokenizer, TEXTS[:5]), vectors(model, tokenizer, TEXTS[:5]))
    source = Source(str(tmp_path), "vectors")
    found = vectors(source.model, source.tokenizer, TEXTS[:5])
    assert source.outputs == found.shape[1]
    source.save_without_weights(tmp_path / "store")  # as in a store, which keeps no modules
    assert Source(str(tmp_path / "store"), "vectors").config.sentence == source.config.sentence
    if head.get("projection") == "pca":  # the map into the teacher's space lies beside the model and is no part of it
        assert (tmp_path / SPACE / "model.safetensors").exists() and found.shape[1] == 16
    else:
        assert torch.equal(found, vectors(model, tokenizer, TEXTS[:5]))


def test_pooling_counts_real_tokens(tokenizer: Any, tmp_path: Path) -> None:
    model = encoder()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = vectors(model, tokenizer, TEXTS[:7])
    torch.testing.assert_close(found, by_hand(tmp_path, TEXTS[:7]), atol=1e-5, rtol=1e-4)


def test_another_dense_is_another_teacher(tokenizer: Any, tmp_path: Path) -> None:
    encoder(dense=True, width=24).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before, path = Source(str(tmp_path), "vectors").fingerprint, tmp_path / "2_Dense" / "model.safetensors"
    weights = {name: 2 * x for name, x in load_file(path).items()}
    save_file(weights, path)
    assert Source(str(tmp_path), "vectors").fingerprint != before


MODULES = ["Transformer", "Pooling", "Normalize"]


@pytest.mark.parametrize(
    ("modules", "pooling", "prompt", "message"),
    [
        (MODULES, {"pooling_mode_max_tokens": True}, None, r"pools by pooling_mode_max_tokens; supported are the mean"),
        (MODULES, {"pooling_mode": ["mean", "cls"]}, None, r"pools by mean, cls"),
        (["Transformer", "Normalize"], {}, None, r"is made of Transformer, Normalize; supported are"),
        (["Transformer", "Pooling", "LSTM"], {"pooling_mode": "mean"}, None, r"is made of Transformer, Pooling, LSTM"),
        (
            MODULES,
            {"pooling_mode": "mean"},
            "query",
            r"puts its prompt 'query' before every text; put it into the texts",
        ),
        (MODULES, {"pooling_mode": "cls"}, None, r"data.pooling=mean contradicts .* which says first; leave out"),
    ],
)
def test_what_is_not_supported_is_refused(
    modules: list[str], pooling: dict[str, Any], prompt: str | None, message: str, tmp_path: Path
) -> None:
    tree = [{"path": "" if not n else f"{n}_{name}", "type": f"x.y.{name}"} for n, name in enumerate(modules)]
    (tmp_path / "modules.json").write_text(json.dumps(tree))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": prompt}))
    with pytest.raises(TutelageError, match=message):
        read_settings(str(tmp_path), AutoConfig.for_model("bert"), "mean")


# ---------------------------------------------------------------------------------------------------------------- spaces


def test_the_space_of_a_student_is_that_of_the_largest_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(80, 24, generator=generator) * torch.linspace(3, 0.1, 24) + 0.5
    model = encoder(width=24, projection="pca")
    assert model.space is not None
    share = model.fit_space(theirs)
    singular, directions = np.linalg.svd(theirs.double().numpy())[1:]
    assert share == pytest.approx((singular[:16] ** 2).sum() / (singular**2).sum())
    found = model.space.weight.double().numpy()
    assert np.abs(found.T @ directions[:16].T) == pytest.approx(np.eye(16), abs=1e-5)
    before = model.space.weight.clone()
    assert model.fit_space(theirs) == share and torch.equal(before, model.space.weight)
    ours = torch.randn(9, 16, generator=generator)
    torch.testing.assert_close(model.space(ours) @ model.space(ours).T, ours @ ours.T, atol=1e-4, rtol=1e-4)


def test_a_students_own_space_is_turned_to_its_teachers() -> None:
    """A student whose vectors are the teacher's but for a turn needs to learn nothing; lengths do not count."""
    generator = torch.Generator().manual_seed(0)
    basis, turn = (torch.linalg.qr(torch.randn(n, 16, generator=generator))[0] for n in (24, 16))
    known = torch.randn(80, 16, generator=generator)
    model = encoder(width=24, projection="pca")
    assert model.space is not None and model.fit_space(known @ basis.T) == pytest.approx(1.0)
    lengths = torch.rand(80, 1, generator=generator) + 0.5
    own = lengths * known @ turn
    model.align_space(model.space(own), known @ basis.T)
    cosines = torch.cosine_similarity(model.space(own), known @ basis.T)
    assert cosines.min() > 1 - 1e-5
    torch.testing.assert_close(model.space.weight.T @ model.space.weight, torch.eye(16), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------------- scores


def test_scores_of_pairs_classes_and_texts(root: Path) -> None:
    kind, generator = kind_of("embedding"), torch.Generator().manual_seed(0)
    data = load_data(DataConfig(train=str(root / "train.txt"), kind="embedding", **pairs(root)))
    part = data.dev["dev"]
    assert list(part.texts[:4]) == [TEXTS[0], TEXTS[24], TEXTS[1], TEXTS[25]]
    gold, logits = np.arange(24) % 5, torch.randn(48, 8, generator=generator)
    cosines = torch.cosine_similarity(logits[::2], logits[1::2]).double().numpy()
    ranks = [np.argsort(np.argsort(cosines)), [np.mean(np.flatnonzero(np.sort(gold) == x)) for x in gold]]
    found = kind.scores(data, 3 * logits, Texts(part, None, None))  # type: ignore[arg-type]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, gold)[0, 1])

    data = load_data(DataConfig(train=str(root / "train.txt"), dev=str(root / "classes.jsonl"), kind="embedding"))
    part, logits = data.dev["dev"], torch.randn(60, 8, generator=generator)
    right, classes = 0, ["no" if label else "yes" for label in LABELS]
    for i in range(60):
        near = sorted((float(torch.cosine_similarity(logits[i], logits[j], dim=0)), j) for j in range(60) if j != i)
        votes = dict.fromkeys(("no", "yes"), 0.0)
        for cosine, j in near[-5:]:
            votes[classes[j]] += cosine + 1
        right += max(votes, key=lambda name: votes[name]) == classes[i]
    assert kind.scores(data, logits, Texts(part, None, None))["knn_accuracy"] == pytest.approx(right / 60)  # type: ignore[arg-type]
    assert kind.constant_scores(data, part)["knn_accuracy"] == max(classes.count("no"), classes.count("yes")) / 60

    data = load_data(DataConfig(train=str(root / "train.txt"), kind="embedding"))
    part = data.dev["dev"]
    assert (len(data.train), len(part)) == (54, 6)
    with pytest.raises(TutelageError, match="texts alone, which only a teacher's vectors can score"):
        kind.scores(data, torch.zeros(6, 8), Texts(part, None, None))  # type: ignore[arg-type]
    theirs = torch.randn(6, 8, generator=generator)
    answered = kind.answered(part, theirs)
    ours = theirs + torch.randn(6, 8, generator=generator)
    found = kind.scores(data, ours, Texts(answered, None, None))  # type: ignore[arg-type]
    assert found["teacher_cosine"] == pytest.approx(float(torch.cosine_similarity(ours, theirs).mean()), rel=1e-5)
    # No constant vector is nearer: not the best of many.
    others = torch.randn(500, 8, generator=generator)
    best = max(float(torch.cosine_similarity(one[None], theirs).mean()) for one in others)
    assert best < kind.constant_scores(data, answered)["teacher_cosine"] < 1


# ------------------------------------------------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def small(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A student of half its teacher's width."""
    return run(root, tmp_path_factory.mktemp("runs") / "small", method="kd", **pairs(root))


def test_a_student_comes_out_at_its_own_width(small: Any, root: Path) -> None:
    report, folder = small.report, small.folder / "student"
    losses = report["stages"][0]["losses"]
    assert list(losses) == ["soft_labels"] and losses["soft_labels"][-1][1] < losses["soft_labels"][0][1]
    assert report["metric"] == "spearman" and report["stages"][0]["best"] is None
    assert report["baseline"]["score"] != report["student"]["score"]
    for who in ("student", "baseline", "teacher"):
        assert kept_score(small.folder, who) == pytest.approx(report[who]["score"])
    found = by_hand(folder, TEXTS[:6])
    assert found.shape == (6, 16)
    torch.testing.assert_close(vectors(small.student, small.tokenizer, TEXTS[:6]), found, atol=1e-5, rtol=1e-4)
    # The scores in the report, which are of vectors in the teacher's space, are those of the saved vectors.
    both = by_hand(folder, TEXTS[:48])
    cosines = (both[:24] * both[24:]).sum(dim=1).numpy()
    scored = evaluate(small, kind="embedding", train=str(root / "train.txt"), quiet=True, **pairs(root))
    assert scored.scores["dev"] == pytest.approx(report["student"]["scores"]["dev"], abs=1e-5)
    assert np.corrcoef(cosines, np.arange(24) % 5)[0, 1] == pytest.approx(scored.scores["dev"]["pearson"], abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "SentenceTransformer(" in card
    assert "loads with plain transformers" in card and "import tutelage" not in card
    assert "the same student, before training" in card
    with pytest.raises(TutelageError, match="needs one label or score per text; this run is on a task of kind"):
        small.predictions()


def test_sentence_transformers_gives_the_same_vectors(small: Any) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = small.folder / "student"
    found = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS[:6], convert_to_tensor=True)
    torch.testing.assert_close(found, by_hand(folder, TEXTS[:6]), atol=1e-5, rtol=1e-4)


def test_a_dense_maps_to_the_teachers_width(root: Path, tmp_path: Path) -> None:
    settings = ["data.projection=dense"]
    result = run(root, tmp_path / "run", method="similarity", settings=settings, allow_weak_teacher=False)
    report = result.report
    assert report["metric"] == "teacher_cosine" and report["teacher"]["score"] == pytest.approx(1.0)
    assert "retention" not in report["student"] and report["student"]["score"] > report["baseline"]["score"]
    assert list(report["stages"][0]["losses"]) == ["soft_labels", "similarity_matrix"]
    assert Source(str(tmp_path / "run" / "student"), "vectors").outputs == 32


def test_an_export_is_compared_with_the_model_and_not_with_its_teacher(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = run(root, tmp_path / "run", method="kd", student="layers=1")
    assert result.report["metric"] == "teacher_cosine" and result.report["student"]["score"] < 0.999
    found = api.export(tmp_path / "run" / "student", tmp_path / "served", quiet=True)
    assert found.metric == "model_cosine" and found.sides[0].scores == {"model_cosine": pytest.approx(1.0)}


def test_a_pruned_encoder(root: Path, tmp_path: Path) -> None:
    """Cut without labels; an ordinary encoder as long as it keeps its heads."""
    result = run(root, tmp_path / "run", method="kd", student="heads=4,target_flops=0.6,examples=16", **pairs(root))
    assert result.report["metric"] == "spearman"
    found = by_hand(tmp_path / "run" / "student", TEXTS[:6])
    torch.testing.assert_close(vectors(result.student, result.tokenizer, TEXTS[:6]), found, atol=1e-5, rtol=1e-4)


def test_hidden_states_vectors_and_stores(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method on layers needs nothing of its own here, and a stored teacher makes the student of a running one."""
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    common = {"method": "tinybert", "baseline": False, "dev": str(root / "classes.jsonl"), "store_dtype": "float32"}
    settings = ["stages.*.epochs=1", "stages.prediction.patience=3"]
    fitted, fit = [], SentenceEncoder.fit_space
    monkeypatch.setattr(SentenceEncoder, "fit_space", lambda self, outputs: fitted.append(self) or fit(self, outputs))
    running = run(root, tmp_path / "running", settings=settings, **common)
    assert len(running.report["stages"]) == 2 and len(fitted) == 1  # the second stage goes on in the space of the first
    assert [line for line in running.report["warnings"] if "prediction: patience=3 has no effect" in line]
    stored = run(root, tmp_path / "stored", settings=settings, teacher_store="auto", **common)
    assert running.report["metric"] == "knn_accuracy" and stored.report["store"]["keeps"].startswith("32 logits")
    ours, theirs = (load_file(one.folder / "student" / "model.safetensors") for one in (running, stored))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_start_and_a_rate_are_tried_without_a_validation_split(root: Path, tmp_path: Path) -> None:
    """The default method; its rate is left open."""
    settings = ["stages.*.lr=auto", "stages.*.max_steps=4"]
    report = run(root, tmp_path / "run", method="compact", student="layers=1", settings=settings, **pairs(root)).report
    assert {one["name"] for one in report["start"]["tried"]} == {"first: 1", "uniform: 2"}
    assert len(report["rates"]["tried"]) == 2 and report["rates"]["texts"] == len(TEXTS)
    assert report["rates"]["tried"][0]["score"] is None


def test_similarities_are_of_whole_steps(root: Path, tmp_path: Path) -> None:
    """However few tokens a piece may have."""
    found = []
    for tokens in (16384, 20):
        settings = [f"stages.*.max_tokens={tokens}", "stages.*.epochs=1"]
        out = tmp_path / str(tokens)
        run(root, out, method="similarity", baseline=False, settings=settings, **pairs(root))
        found.append(load_file(out / "student" / "model.safetensors"))
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())


def test_mistakes_are_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", tmp_path / "words.jsonl"
    words.write_text('{"a": "good", "b": "bad", "score": "yes"}\n')

    def refused(message: str, **more: Any) -> None:
        with pytest.raises(TutelageError, match=message):
            run(root, out, **more)
        assert not out.exists()

    with pytest.raises(TutelageError, match="kind embedding has no labels to learn from; use a method with a teacher"):
        finetune(str(root / "teacher"), out, kind="embedding", train=str(root / "train.txt"), quiet=True)
    for other in ("init=bilstm,hidden=16", "init=shared,stored=1"):
        init = other.partition(",")[0]
        refused(f"a student with {init} cannot be a sentence encoder; use init=copied", student=other)
    refused("line 1 has label 'yes', which is no score", **{**pairs(root), "dev": str(words)})
    answers = {"teacher": None, "teacher_predictions": str(root / "classes.jsonl")}
    like = f"{SMALL},like={root / 'teacher'}"
    refused("one prediction a text, and a task of kind embedding needs other answers", student=like, **answers)
    words.write_text('{"text": "good", "label": "a"}\n')
    with pytest.raises(TutelageError, match=r"check which column is the label$"):
        run(root, out, dev=str(words))
    refused("unlabelled texts cannot be read for a task of kind embedding", unlabeled=str(root / "train.txt"))


def completed(root: Path, out: Path) -> None:
    run(root, out)


def test_processes_divide_a_student(root: Path, tmp_path: Path, monkeypatch) -> None:
    """A sentence encoder is no model of transformers, but has its parts."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    in_processes(2, completed, root, tmp_path / "out")
    assert load_report(tmp_path / "out").stages[-1].steps > 0
