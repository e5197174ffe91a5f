"""Every family, head and kind of student as an ONNX graph: it gives what PyTorch gives, and the folder serves it without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALL_FAMILIES, VOCABULARY, sentences, tiny_config
from test_gates import hook_of
from test_pruned import SMALL, proof, some_scores
from transformers import AutoModel, BertTokenizerFast, PreTrainedModel

from tutelage import anatomy, serving
from tutelage.anatomy import FAMILIES, auto_class
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.serving.report import CLOSE
from tutelage.students.bilstm import new_bilstm, word_tokenizer
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.specs import Copied, Fresh, Shared, Sliced, Student
from tutelage.students.vocabulary import Vocabulary
from tutelage.tasks.sentence import SentenceEncoder

NAMES = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}
HEADS: dict[str, tuple[anatomy.Head, dict[str, Any]]] = {
    "label": ("classes", {**NAMES, "problem_type": "single_label_classification"}),
    "pairs": ("classes", {**NAMES, "problem_type": "single_label_classification"}),
    "labels": ("classes", {**NAMES, "problem_type": "multi_label_classification"}),
    "number": ("classes", {"num_labels": 1, "problem_type": "regression"}),
    "tokens": ("tokens", NAMES),
    "spans": ("spans", {"num_labels": 2}),
    "vector": ("vectors", {}),
}
STUDENTS: dict[str, Student] = {
    "copied": Copied(layers=2, choose="first"),
    "fresh": Fresh(layers=2, hidden=16, heads=2, intermediate=24),
    "shared": Shared(stored=2),
    "sliced": Sliced(hidden=16),
    "pruned": SMALL,
    "trimmed": Copied(layers=2, choose="last", vocabulary="trimmed"),
}
TEXTS = [*sentences(3, 3)[0], "good", "word1 bad " * 9]
OTHERS = ["word2 fine", "dull", *sentences(3, 5)[0]]


def has(family: str, head: anatomy.Head) -> bool:
    """Whether transformers has this head for the family."""
    return head == "vectors" or type(tiny_config(family)) in auto_class(head)._model_mapping


def random_model(family: str, form: str, **sizes: Any) -> PreTrainedModel:
    """A random model with large weights, so that its answers differ from text to text."""
    head, settings = HEADS[form]
    config = tiny_config(family, **sizes)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = (
        SentenceEncoder(AutoModel.from_config(config)) if head == "vectors" else auto_class(head).from_config(config)
    )
    return spread(model.float())


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """The model with larger weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()  # type: ignore[no-any-return]


def served(folder: Path, lines: list[str]) -> list[dict[str, Any]]:
    """What ``serve.py`` answers in a process that cannot import torch, transformers or this package."""
    blocked = folder / "blocked"
    blocked.mkdir()
    for name in ("torch", "transformers", "tutelage"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    found = subprocess.run(
        [sys.executable, str(folder / "serve.py")], input="\n".join(lines), capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(blocked)}, cwd=blocked,
    )  # fmt: skip
    return [json.loads(line) for line in found.stdout.splitlines()]


def expected(form: str, logits: torch.Tensor, encoding: Any, context: str, names: dict[int, str]) -> dict[str, Any]:
    """The answer to one text that PyTorch's outputs say; ``logits`` without padding."""
    shares = logits.softmax(-1)
    if form in ("label", "pairs"):
        return {"label": names[int(shares.argmax())], "score": float(shares.max())}
    if form == "labels":
        return {"labels": {names[i]: float(logits[i].sigmoid()) for i in range(len(logits)) if logits[i] > 0}}
    if form == "number":
        return {"score": float(logits[0])}
    if form == "vector":
        return {"vector": logits.tolist()}
    if form == "tokens":
        words, tags = context.split(), []
        for number, word in enumerate(words):
            share = shares[encoding.word_ids.index(number)]
            tags.append({"word": word, "label": names[int(share.argmax())], "score": float(share.max())})
        return {"tags": tags}
    inside = [token for token, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    spans = [(i, j) for i in inside for j in inside if i <= j < i + 30]
    i, j = max(spans, key=lambda span: float(logits[span[0], 0] + logits[span[1], 1]))
    start, end = encoding.offsets[i][0], encoding.offsets[j][1]
    found = {"answer": context[start:end], "start": start, "end": end, "score": float(logits[i, 0] + logits[j, 1])}
    return {**found, "no_answer": float(logits[0].sum())}


def alike(ours: Any, theirs: Any) -> None:
    """Equal answers; numbers within rounding to 4 digits and what float32 graphs may differ."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            alike(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            alike(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=2 * CLOSE)
    else:
        assert ours == theirs


def check(model: PreTrainedModel, tokenizer: Any, form: str, folder: Path) -> None:
    """Save, load and export a model; compare a padded batch, then each answer of the folder."""
    head = HEADS[form][0]
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    model = load_model(str(folder / "model"), head)[0].eval()
    tokenizer = fitted_tokenizer(load_tokenizer(str(folder / "model")), model)
    out = folder / "out"
    out.mkdir()
    graph = serving.to_onnx(model, tokenizer, out / "model.onnx")
    tokenizer.save_pretrained(out)
    shutil.copy(Path(str(serving.__file__)).with_name("serve.py"), out)

    pairs = form in ("pairs", "spans")
    texts = [" ".join(text.split()) for text in TEXTS]
    # Of a long question serve.py reads the beginning, where PyTorch here truncates the longest.
    others = [" ".join(text.split()[: 2 if form == "spans" else None]) for text in OTHERS]
    if form == "tokens":
        given: list[Any] = [[[f" {word}" for word in text.split()] for text in texts]]
    else:
        given = [others, texts] if pairs else [texts]
    inputs = tokenizer(
        *given, is_split_into_words=form == "tokens", padding=True, truncation=True, max_length=graph.about.max_length,
        return_tensors="pt",
    )  # fmt: skip
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert min(lengths) < max(lengths)
    with torch.no_grad():
        output = anatomy.output_of(model, {name: inputs[name] for name in graph.inputs})
    if head == "spans":
        exact = torch.stack([output.start_logits, output.end_logits], dim=-1)
    else:
        exact = output if head == "vectors" else output.logits
    ours = torch.from_numpy(graph.logits(inputs))
    if head in ("tokens", "spans"):  # outputs at padding answer nothing
        mask = inputs["attention_mask"].bool()
        assert float((ours - exact)[mask].abs().max()) < CLOSE
        logits = [row[kept] for row, kept in zip(exact, mask, strict=True)]
    else:
        assert float((ours - exact).abs().max()) < CLOSE
        logits = list(exact)
    first = torch.stack([row[0] if head in ("tokens", "spans") else row for row in logits])
    # A model that answers always the same shows nothing.
    assert float((first.max(0).values - first.min(0).values).max()) > 10 * CLOSE
    lines = [f"{other}\t{text}" for other, text in zip(others, texts, strict=True)] if pairs else texts
    names = model.config.id2label
    answers = served(out, lines)
    assert len(answers) == len(lines)
    for row, answer in enumerate(answers):
        alike(answer, expected(form, logits[row], _unpadded(inputs, row), texts[row], names))


class _Row:
    """The part of an encoding that is no padding."""

    def __init__(self, encoding: Any) -> None:
        kept = np.flatnonzero(encoding.attention_mask)
        self.word_ids = [encoding.word_ids[i] for i in kept]
        self.sequence_ids = [encoding.sequence_ids[i] for i in kept]
        self.offsets = [encoding.offsets[i] for i in kept]


def _unpadded(inputs: Any, row: int) -> _Row:
    return _Row(inputs.encodings[row])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "form"),
    [(family, form) for family in ALL_FAMILIES for form in HEADS if has(family, HEADS[form][0])],
)
def test_families_and_heads(family: str, form: str, tokenizer: Any, endoftext: Any, tmp_path: Path) -> None:
    causal = FAMILIES[family].causal
    model = random_model(family, form, layers=2, **({"vocab_size": len(endoftext)} if causal else {}))
    check(model, endoftext if causal else tokenizer, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "form"),
    # Of shared and sliced students there is no sentence encoder.
    [(name, form) for name in STUDENTS for form in HEADS if form != "vector" or name not in ("shared", "sliced")],
)
def test_students_and_heads(student: str, form: str, tokenizer: Any, tmp_path: Path) -> None:
    head, settings = HEADS[form]
    pieces = {piece: number for number, piece in enumerate(VOCABULARY)}
    if student == "trimmed":  # characters spell the words that are left out
        single = sorted(set("".join(VOCABULARY[5:])))
        pieces |= {
            piece: len(pieces) + number for number, piece in enumerate([*single, *(f"##{one}" for one in single)])
        }
        tokenizer = BertTokenizerFast(vocab=pieces, model_max_length=32)
    teacher = random_model("bert", form, vocab_size=len(pieces))
    vocabulary = None
    if student == "trimmed":
        used = np.unique(np.concatenate([tokenizer(text)["input_ids"] for text in TEXTS]))
        vocabulary = Vocabulary.of(tokenizer, teacher.config, used)
        assert len(vocabulary.kept) < len(pieces)
        tokenizer = vocabulary.tokenizer
    model = build(
        STUDENTS[student], teacher, settings, 0, scores=lambda model: some_scores(), head=head, vocabulary=vocabulary
    )
    check(spread(model) if student == "fresh" else model, tokenizer, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", HEADS)
def test_a_student_of_uneven_layers_and_a_narrower_width(form: str, tokenizer: Any, tmp_path: Path) -> None:
    head = HEADS[form][0]
    model = random_model("bert", form)
    hook = hook_of(model)
    hook._meet_target = lambda: None  # type: ignore[method-assign]
    hook.finish(lambda: proof(model, tokenizer(TEXTS[:3], padding=True, return_tensors="pt")))
    assert head == "vectors" or anatomy.hidden_of(model.config) < model.config.hidden_size
    check(model, tokenizer, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["label", "pairs", "labels", "number"])
def test_a_bilstm_of_every_head(form: str, tmp_path: Path) -> None:
    words = word_tokenizer(VOCABULARY[5:], 50, 64)
    settings = HEADS[form][1]
    model = new_bilstm(words, settings, hidden=64, intermediate=64, embedding=32, pairs=form == "pairs")
    check(spread(model), words, form, tmp_path)
