"""How like two models' attention is: against the maps that the models themselves give, and what must come out exactly."""

from __future__ import annotations

import copy
import json
from itertools import permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELS, sentences, tiny_config, tiny_model, write_csv
from test_cli import invoke
from transformers import BertTokenizerFast

from tutelage import anatomy, api
from tutelage.errors import TutelageError
from tutelage.report.attention import AttentionReport, page
from tutelage.students import pruned
from tutelage.students.specs import Pruned
from tutelage.studies import attention
from tutelage.studies.attention import attention_report

TEXTS = sentences(23, 5)[0]


def maps(model: Any, tokenizer: Any, text: str) -> list[np.ndarray]:
    """The model's own attention probabilities for one text, ``(heads, n, n)`` by layer."""
    eager = copy.deepcopy(anatomy.base_of(model))
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        return [a[0].double().numpy() for a in eager(input_ids=ids, output_attentions=True).attentions]


def oracle(teacher: Any, student: Any, tokenizer: Any, pairs: list[tuple[int, int]]) -> list[tuple[np.ndarray, ...]]:
    """By pair of layers, the means over queries of KL and cosine of all pairs of heads, and of the teacher and uniform rows."""
    rows: list[list[Any]] = [[] for _ in pairs]
    for text in TEXTS[:6]:
        theirs, ours = maps(teacher, tokenizer, text), maps(student, tokenizer, text)
        for place, (s, t) in enumerate(pairs):
            p, q = theirs[t - 1], ours[s - 1]
            for i in range(p.shape[1]):
                seen = (p[:, i] > 0).all(axis=0) & (q[:, i] > 0).all(axis=0)
                uniform = seen / seen.sum()

                def kl(a: np.ndarray, b: np.ndarray, seen: np.ndarray = seen) -> float:
                    return float(sum(x * np.log(x / y) for x, y in zip(a[seen], b[seen], strict=True)))

                def cosine(a: np.ndarray, b: np.ndarray) -> float:
                    return float(a @ b / np.sqrt((a @ a) * (b @ b)))

                rows[place].append(
                    [[[f(x[i], y[i]) for y in q] for x in p] for f in (kl, cosine)]
                    + [[f(x[i], uniform) for x in p] for f in (kl, cosine)]
                )
    return [tuple(np.mean([row[k] for row in part], axis=0) for k in range(4)) for part in rows]


@pytest.mark.parametrize(
    ("family", "teacher", "student"),
    [
        ("bert", {}, {}),
        ("bert", {}, {"layers": 2, "heads": 2}),
        ("bert", {"heads": 2}, {"layers": 2, "heads": 4}),
        ("bert", {"is_decoder": True}, {"is_decoder": True, "layers": 2}),
        ("gpt2", {}, {"layers": 2}),
        ("distilbert", {}, {"layers": 2}),
        ("electra", {}, {}),
        ("albert", {}, {}),
        ("modernbert", {}, {}),
    ],
)
def test_it_is_what_the_models_own_maps_say(
    family: str, teacher: Any, student: Any, tokenizer: BertTokenizerFast
) -> None:
    models = tiny_model(family, spread=10.0, **teacher), tiny_model(family, seed=1, spread=10.0, **student)
    found = attention_report(*models, tokenizer, TEXTS[:6])
    assert found.causal == (family == "gpt2" or "is_decoder" in teacher)
    pairs = [(layer.student, layer.teacher) for layer in found.layers]
    assert pairs == ([(1, 2), (2, 4)] if "layers" in student else [(i, i) for i in range(1, 5)])
    assert found.mapping == ("uniform" if "layers" in student else "layer by layer")
    for layer, (kl, cosine, uniform_kl, uniform_cosine) in zip(
        found.layers, oracle(*models, tokenizer, pairs), strict=True
    ):
        heads = kl.shape
        assert (layer.teacher_heads, layer.student_heads) == heads and len(layer.matches) == min(heads)
        if heads[0] == heads[1]:
            assert layer.heads is not None
            assert [head.kl for head in layer.heads] == pytest.approx(np.diag(kl), rel=1e-4, abs=1e-6)
            assert [head.cosine for head in layer.heads] == pytest.approx(np.diag(cosine), rel=1e-5)
        else:
            assert layer.heads is None and found.same_head is None
        for match in layer.matches:
            place = match.teacher_head - 1, match.student_head - 1
            assert (match.kl, match.cosine) == pytest.approx((kl[place], cosine[place]), rel=1e-4)
        wide = cosine if heads[0] <= heads[1] else cosine.T
        best = max(
            sum(wide[h, g] for h, g in enumerate(chosen)) for chosen in permutations(range(max(heads)), min(heads))
        )
        assert sum(match.cosine for match in layer.matches) == pytest.approx(best, rel=1e-5)
        assert layer.uniform.kl == pytest.approx(uniform_kl.mean(), rel=1e-4)
        assert layer.uniform.cosine == pytest.approx(uniform_cosine.mean(), rel=1e-5)
    assert found.best_match.kl == pytest.approx(np.mean([m.kl for layer in found.layers for m in layer.matches]))
    assert found.uniform.cosine == pytest.approx(np.mean([layer.uniform.cosine for layer in found.layers]))
    assert found.queries == sum(len(tokenizer(text)["input_ids"]) for text in TEXTS[:6])


def test_a_model_is_like_itself(tokenizer: BertTokenizerFast) -> None:
    model = tiny_model(spread=12.0).train()
    found = attention_report(model, model, tokenizer, TEXTS)
    assert model.training and model.config._attn_implementation == "sdpa"
    assert found.same_head is not None
    for means in (found.same_head, found.best_match):
        assert means.kl == pytest.approx(0, abs=1e-12) and means.cosine == pytest.approx(1, abs=1e-12)
    assert all(layer.kept == 4 for layer in found.layers)
    assert found.uniform.kl > 0.1 and found.uniform.cosine < 0.95


def test_permuted_heads_are_found(tokenizer: BertTokenizerFast) -> None:
    teacher, order = tiny_model(spread=12.0), [2, 0, 3, 1]
    student = copy.deepcopy(teacher)
    columns = torch.cat([torch.arange(8) + 8 * head for head in order])
    for layer in anatomy.layers_of(student):
        for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
            part.weight.data, part.bias.data = part.weight[columns], part.bias[columns]
        output = layer.attention.output.dense
        output.weight.data = output.weight[:, columns]
    found = attention_report(teacher, student, tokenizer, TEXTS)
    assert found.same_head is not None and found.same_head.cosine < 0.9 and found.same_head.kl > 0.1
    assert found.best_match.cosine == pytest.approx(1, abs=1e-6) and found.best_match.kl == pytest.approx(0, abs=1e-5)
    for layer in found.layers:
        # Student head g is the teacher's head order[g].
        assert {m.student_head - 1: m.teacher_head - 1 for m in layer.matches} == dict(enumerate(order))
        assert layer.kept == 0


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_and_batches_change_nothing(family: str, tokenizer: BertTokenizerFast) -> None:
    models = tiny_model(family), tiny_model(family, seed=1)
    one, all_ = (attention_report(*models, tokenizer, TEXTS, max_tokens=size) for size in (1, 10**6))
    assert _numbers(one) == pytest.approx(_numbers(all_), rel=1e-4, abs=1e-6)


def _numbers(report: AttentionReport) -> list[float]:
    return [
        number
        for layer in report.layers
        for likeness in (*(layer.heads or []), *layer.matches, layer.uniform)
        for number in (likeness.kl, likeness.cosine)
    ]


def test_texts_are_drawn_and_cut_and_said(tokenizer: BertTokenizerFast) -> None:
    model = tiny_model()
    found = attention_report(model, model, tokenizer, TEXTS, max_texts=9, max_length=8)
    assert (found.texts, found.available, found.max_length) == (9, 23, 8) and 0 < found.cut <= 9
    assert found == attention_report(model, model, tokenizer, TEXTS, max_texts=9, max_length=8)
    assert attention_report(model, model, tokenizer, TEXTS).max_length == 40  # the positions, being fewer than 128


def test_layers_that_look_at_different_tokens() -> None:
    far = tiny_config("modernbert", layers=4)
    near = tiny_config("modernbert", layers=4, local_attention=4)
    kinds = ["full_attention"] * 2 + ["sliding_attention"] * 2
    far.layer_types = near.layer_types = kinds
    assert attention.check_comparable(far, far) == [(i, i) for i in range(1, 5)]
    with pytest.raises(
        TutelageError, match="teacher layer 3 attends 4 tokens to each side, its pair, student layer 3, 2"
    ):
        attention.check_comparable(far, near)
    with pytest.raises(TutelageError, match="scale_attn_by_inverse_layer_idx"):
        attention.check_comparable(tiny_config("gpt2", scale_attn_by_inverse_layer_idx=True), tiny_config("gpt2"))
    with pytest.raises(TutelageError, match="the student is a bilstm, whose attention cannot be read"):
        attention.check_comparable(tiny_config("bert"), type("Config", (), {"model_type": "bilstm"})())


def test_the_page_is_whole_and_escaped(tokenizer: BertTokenizerFast) -> None:
    found = attention_report(tiny_model(), tiny_model(seed=1, layers=2, heads=2), tokenizer, TEXTS)
    other = attention_report(tiny_model(), tiny_model(seed=1), tokenizer, TEXTS)
    for report in (found, other):
        text = page(report.model_copy(update={"student": "<script>alert(1)</script>"}))
        assert "<script" not in text and "href" not in text and "http" not in text
        tree = ElementTree.fromstring(text[text.index("<body>") : text.index("</html>")].replace("<br>", ""))
        cells = [cell for cell in tree.iter("g") if cell.find("rect") is not None]
        pairs = sum(len(layer.matches) + len(layer.heads or []) for layer in report.layers)
        assert len(cells) == pairs and all("cosine" in str(cell.findtext("title")) for cell in cells)
        assert len(tree.findall(".//figure")) == (1 if report.same_head is None else 2)


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tokenizer: BertTokenizerFast) -> Path:
    """Models as users have them: with a head, without, of our own family, with another tokenizer, causal, deeper."""
    root = tmp_path_factory.mktemp("attention")
    teacher = tiny_model()
    cut = Pruned(layers=2, heads=2, intermediate=24, rank=8)
    scores = [(torch.rand(4), torch.rand(48)) for _ in range(4)]
    made = {
        "teacher": teacher,
        "student": tiny_model(seed=1, layers=2).base_model,
        "pruned": pruned.prune(teacher, cut, scores, {"num_labels": len(LABELS)}),
        "causal": tiny_model(is_decoder=True),
        "deeper": tiny_model(layers=5),
        "other": tiny_model(seed=1),
        "weightless": tiny_model(seed=1),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    (root / "weightless" / "model.safetensors").unlink()
    words = {word: i for i, word in enumerate(reversed(list(tokenizer.get_vocab())))}
    BertTokenizerFast(vocab=words).save_pretrained(root / "other")
    (root / "texts.txt").write_text("\n\n".join(TEXTS))
    write_csv(root / "texts.csv", 12, 3)
    (root / "empty.txt").write_text("")
    (root / "texts.doc").write_text("word1")
    return root


def test_the_command(scene: Path, tmp_path: Path) -> None:
    words = ("attention-report", scene / "teacher", scene / "student", scene / "texts.txt")
    code, out, error = invoke(*words, "--json", "--out", tmp_path / "page.html", "--max-texts", "7")
    assert code == 0, error
    found = AttentionReport.model_validate(json.loads(out))
    assert (found.texts, found.available) == (7, 23) and [layer.teacher for layer in found.layers] == [2, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert page(found) == (tmp_path / "page.html").read_text()
    code, out, _ = invoke(*words)
    assert code == 0 and "2 from 4" in out and "same head" in out and "paired uniformly" in out
    code, out, error = invoke("attention-report", scene / "teacher", scene / "pruned", scene / "texts.csv", "--json")
    assert code == 0, error
    found = AttentionReport.model_validate(json.loads(out))
    assert found.available == 12 and found.same_head is None and found.layers[0].student_heads == 2


def test_texts_in_memory(scene: Path) -> None:
    models = scene / "teacher", scene / "student"
    wanted = api.attention_report(*models, scene / "texts.csv", quiet=True)
    frame = pd.read_csv(scene / "texts.csv")
    for texts in (frame, list(frame["text"]), frame["text"], datasets.Dataset.from_pandas(frame)):
        assert api.attention_report(*models, texts, quiet=True) == wanted
    assert api.attention_report(*models, frame.rename(columns={"text": "said"}), text="said", quiet=True) == wanted
    with pytest.raises(TutelageError, match="texts has no column 'said'; its columns are 'text', 'label'"):
        api.attention_report(*models, frame, text="said", quiet=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": "causal"}, "the student is causal and the teacher is not"),
        ({"teacher": "causal"}, "the teacher is causal and the student is not"),
        ({"student": "other"}, "have different tokenizers"),
        ({"student": "deeper"}, "the student has 5 layers and the teacher only 4"),
        ({"student": "nowhere"}, "there is no folder"),
        ({"student": "weightless"}, "holds no weights"),
        ({"texts": "nowhere.txt"}, "there is no file"),
        ({"texts": "empty.txt"}, "is empty"),
        ({"texts": "texts.doc"}, "does not end in .txt, .csv"),
        ({"texts": "texts.csv", "--text": "sentence"}, "has no column 'sentence'"),
        ({"--max-length": "41"}, "--max-length 41 is not between"),
        ({"--max-length": "2"}, "--max-length 2 is not between"),
        ({"--max-texts": "0"}, "--max-texts 0"),
        ({"--out": "page.pdf"}, "does not end in .html"),
        ({"--out": "nowhere/page.html"}, "cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(changed: dict[str, str], message: str, scene: Path, tmp_path: Path) -> None:
    given = {"teacher": "teacher", "student": "student", "texts": "texts.txt", "--out": "page.html", **changed}
    places = [scene / given.pop(name) for name in ("teacher", "student", "texts")]
    given["--out"] = str(tmp_path / given["--out"])
    code, out, error = invoke("attention-report", *places, *(part for pair in given.items() for part in pair))
    assert code == 2 and message in error and "\n" not in error.strip() and not out
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    words = (scene / "teacher", scene / "student", scene / "texts.txt", "--out", tmp_path / "page.html")
    code, _, error = invoke("attention-report", *words)
    assert code == 2 and "No space left on device" in error
    assert (tmp_path / "page.html").read_text() == "old"
