"""Tasks that are answered token by token, or by a span, through whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BAD, FILL, GOOD, built_once, kept_score, tiny_model
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer

from tutelage import api
from tutelage.data.batches import Known, step_batches
from tutelage.data.config import DataConfig
from tutelage.data.readers.squad import read_squad
from tutelage.errors import TutelageError
from tutelage.mechanisms.team.settings import Team
from tutelage.methods import METHODS
from tutelage.methods.finetune import finetune
from tutelage.objectives import losses
from tutelage.recipes.config import RunConfig
from tutelage.run.measure import evaluate
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Fresh, Pruned
from tutelage.tasks import KINDS
from tutelage.tasks.spans import encode_spans

STUDENT = Fresh(layers=2, hidden=16, heads=4, intermediate=24)


def write_conll(path: Path, count: int, seed: int) -> Path:
    """Good words are persons, bad ones places; two in a row are one entity."""
    generator = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        lines = []
        for _ in range(int(generator.integers(2, 5))):
            lines += [f"{word} O" for word in generator.choice(FILL, int(generator.integers(1, 3)))]
            words, kind = (GOOD, "PER") if generator.random() < 0.5 else (BAD, "LOC")
            for place, word in enumerate(generator.choice(words, int(generator.integers(1, 3)))):
                lines.append(f"{word} {'B' if place == 0 else 'I'}-{kind}")
        sentences.append("\n".join(lines))
    path.write_text("\n\n".join(sentences) + "\n")
    return path


def write_squad(path: Path, count: int, seed: int, empty: bool = False) -> Path:
    """Contexts of words, some longer than a window; the question is a good or bad word, the answer all words like it."""
    generator = np.random.default_rng(seed)
    paragraphs = []
    for number in range(count):
        words = list(generator.choice(FILL, int(generator.integers(4, 30))))
        kind = GOOD if generator.random() < 0.5 else BAD
        answer = " ".join(generator.choice(kind, int(generator.integers(1, 3))))
        place = int(generator.integers(len(words)))
        other = " ".join(generator.choice(BAD if kind is GOOD else GOOD, 1))
        absent = empty and generator.random() < 0.3
        before = words[:place] if absent else [*words[:place], answer]
        context = " ".join([*before, *words[place:], other])
        start = len(" ".join([*words[:place], ""]))
        answers = [] if absent else [{"answer_start": start, "text": answer}]
        asked = {"id": str(number), "question": str(generator.choice(kind)), "answers": answers}
        if empty:
            asked["is_impossible"] = absent
        paragraphs.append({"context": context, "qas": [asked]})
    path.write_text(json.dumps({"version": "own", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tokenizer) -> Path:
    """Files and a fine-tuned teacher for both tasks."""
    return built_once(tmp_path_factory, "answers", lambda root: make_scene(root, tokenizer))


def make_scene(root: Path, tokenizer) -> None:
    tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).base_model.save_pretrained(root / "body")
    tokenizer.save_pretrained(root / "body")
    for part, count, seed in (("train", 300, 1), ("dev", 60, 2)):
        write_conll(root / f"{part}.conll", count, seed)
        write_squad(root / f"{part}.json", count, seed)
    for kind in ("tokens", "spans"):
        recipe = finetune(Checkpoint(name=str(root / "body")), epochs=25, lr=3e-3)
        run(config_for(root, kind, recipe, root / kind, teacher=None), quiet=True)


def config_for(root: Path, kind: str, recipe, out: Path, **more) -> RunConfig:
    ending = {"tokens": "conll", "spans": "json"}[kind]
    data = {"train": str(root / f"train.{ending}"), "dev": str(root / f"dev.{ending}"), "kind": kind}
    if kind == "spans":
        data["stride"] = 8
    return RunConfig(
        **{
            "recipe": recipe,
            "teacher": str(root / kind),
            "data": DataConfig(**data),
            "out": str(out),
            "baseline": False,
            **more,
        }
    )


def small(method: str, epochs: int = 12):
    recipe = METHODS[method]().part("task")
    stages = [stage.model_copy(update={"epochs": epochs, "lr": 3e-3}) for stage in recipe.stages]
    return recipe.model_copy(update={"student": STUDENT, "stages": stages})


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("kd", "spans"),
        ("tinybert", "tokens"),
        pytest.param("kd", "tokens", marks=pytest.mark.slow),
        pytest.param("tinybert", "spans", marks=pytest.mark.slow),
        pytest.param("ted", "tokens", marks=pytest.mark.slow),
        pytest.param("ted", "spans", marks=pytest.mark.slow),
    ],
)
def test_methods_teach_them(kind: str, method: str, scene: Path, tmp_path: Path) -> None:
    report = run(config_for(scene, kind, small(method), tmp_path / "run"), quiet=True)
    assert report["metric"] == "f1" and report["teacher"]["score"] > 0.8
    for stage in report["stages"]:
        for term, values in stage["losses"].items():
            assert values[-1][1] < values[0][1], term
    assert report["student"]["score"] > 0.3 and kept_score(tmp_path / "run") == pytest.approx(
        report["student"]["score"]
    )
    auto = {"tokens": AutoModelForTokenClassification, "spans": AutoModelForQuestionAnswering}[kind]
    student = auto.from_pretrained(tmp_path / "run" / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    assert student(**tokenizer("good word1", return_tensors="pt"))[0].isfinite().all()
    if kind == "tokens":
        assert student.config.id2label == {0: "O", 1: "B-LOC", 2: "I-LOC", 3: "B-PER", 4: "I-PER"} or set(
            student.config.id2label.values()
        ) == {"O", "B-LOC", "I-LOC", "B-PER", "I-PER"}
        assert 0 <= report["student"]["agreement"] <= 1
    scores = evaluate(str(tmp_path / "run"), config_for(scene, kind, small(method), tmp_path).data, quiet=True).scores
    assert scores["dev"] == pytest.approx(report["student"]["scores"]["dev"])
    assert {"tokens": "token-classification", "spans": "question-answering"}[kind] in (
        tmp_path / "run" / "student" / "README.md"
    ).read_text()


@pytest.mark.parametrize("kind", ["tokens", pytest.param("spans", marks=pytest.mark.slow)])
def test_a_pruned_student_of_them(kind: str, scene: Path, tmp_path: Path) -> None:
    """The heads and neurons of the task; a share of the teacher's is left, and it comes out twice the same."""
    recipe = small("kd", 2).model_copy(update={"student": Pruned(layers=3, heads=3, intermediate=32, examples=64)})
    weights = []
    for name in ("one", "two"):
        report = run(config_for(scene, kind, recipe, tmp_path / name), quiet=True)
        weights.append((tmp_path / name / "student" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] and report["student"]["score"] > 0.3


@pytest.mark.parametrize("kind", [pytest.param("tokens", marks=pytest.mark.slow), "spans"])
def test_a_team_of_twins_teaches_as_one_of_them(kind: str, scene: Path, tmp_path: Path) -> None:
    """Which rows of logits are of which text, in how many windows: to the bit."""
    shutil.copytree(scene / kind, tmp_path / "twin")
    weights = []
    for method, team in (("kd", ()), ("skdbert", (str(scene / kind), str(tmp_path / "twin")))):
        run(config_for(scene, kind, small(method, 2), tmp_path / method, teachers=team), quiet=True)
        weights.append((tmp_path / method / "student" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    refused = {"granularity": {"granularity": "example"}}
    if kind == "spans":
        refused |= {"average": {"combine": "average"}, "discounted": {"combine": "discounted"}}
    for match, settings in refused.items():
        recipe = small("skdbert", 1)
        stage = recipe.stages[0].model_copy(update={"mechanisms": [Team(**settings)]})
        recipe = recipe.model_copy(update={"stages": [stage]})
        with pytest.raises(TutelageError, match=match):
            run(config_for(scene, kind, recipe, tmp_path / "none", teachers=team), quiet=True)


def test_known_logits_teach_spans_and_tokens_as_the_live_teacher_does(scene: Path, tokenizer) -> None:
    """The rows of the table that an example has, and their order, are those of the batch."""
    from accelerate import Accelerator

    from tutelage.data.readers.conll import read_conll
    from tutelage.knowledge.needs import Needs
    from tutelage.students.load import load_model
    from tutelage.tasks.tokens import encode_words
    from tutelage.teachers.teacher import KnownLogits, LiveTeacher, predict

    accelerator = Accelerator(cpu=True)
    words = encode_words(read_conll(scene / "train.conll", "train")[0], tokenizer, 32)
    spans = encode_spans(read_squad(scene / "train.json", "train")[0], tokenizer, 32, stride=8, max_question=8)
    assert (spans.logit_rows > 1).all() and spans.windows is not None and len(spans) > spans.windows.of[-1] + 1
    for kind, encoded in (("tokens", words), ("spans", spans)):
        model = load_model(str(scene / kind), kind)[0]
        known = KnownLogits(predict(model, encoded, accelerator), encoded.logit_rows)
        live = LiveTeacher(model, Needs(logits=True), None, accelerator)
        rows = np.array([7, 3, 40, 21])
        for batch in step_batches(Known(encoded).read(0, rows), rows, 0, 1, 60):
            torch.testing.assert_close(known.signals(batch).logits, live.signals(batch).logits, atol=1e-5, rtol=1e-4)
        live.close()


def test_pieces_and_processes_do_not_change_the_loss(scene: Path, tokenizer) -> None:
    """A step in one piece, in many, and over two processes: the parts of the loss add up."""
    from tutelage.anatomy import answers_of, shape_of
    from tutelage.knowledge.signals import Signals
    from tutelage.objectives.objective import Objective
    from tutelage.objectives.predictions import HardLabels, SoftLabels
    from tutelage.students.load import load_model

    spans = encode_spans(read_squad(scene / "train.json", "train")[0], tokenizer, 32, stride=8, max_question=8)
    model = load_model(str(scene / "spans"), "spans")[0]
    shape = shape_of(model.config)
    objective = Objective([HardLabels(), SoftLabels(temperature=2)], KINDS["spans"], shape, shape)
    rows = np.arange(20)

    def loss(pieces: int, world: int) -> torch.Tensor:
        total = torch.zeros(2)
        for rank in range(world):
            for batch in step_batches(spans.take(rows), rows, rank, world, pieces):
                with torch.no_grad():
                    logits = answers_of(model, batch.inputs, batch.predicted)
                noise = torch.sin(logits * 3)  # another function of the same tokens
                values = objective(Signals(logits=logits), Signals(logits=noise), batch)
                total += torch.stack(list(values.values()))
        return total

    whole = loss(10**6, 1)
    torch.testing.assert_close(loss(64, 1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss(64, 2), whole, atol=1e-5, rtol=1e-5)


def test_the_loss_of_spans_is_that_of_its_formula(scene: Path, tokenizer) -> None:
    """Cross-entropy over the tokens asked, of start and end, averaged; by a loop over windows."""
    from tutelage.anatomy import shape_of
    from tutelage.knowledge.signals import Signals
    from tutelage.objectives.objective import Objective
    from tutelage.objectives.predictions import HardLabels

    spans = encode_spans(read_squad(scene / "train.json", "train")[0], tokenizer, 32, stride=8, max_question=8)
    rows = np.arange(12)
    step = spans.take(rows)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(int(step.logit_rows.sum()), 2, generator=generator)
    expected, start = 0.0, 0
    for row in rows:
        own = logits[start : start + step.logit_rows[row]]
        start += step.logit_rows[row]
        for side in (0, 1):
            expected -= float(torch.log_softmax(own[:, side], dim=0)[int(step.labels[row, side])])
    shape = shape_of(tiny_model().config)
    (batch,) = step_batches(step, rows, 0, 1, 10**6)
    order = np.argsort(batch.rows.numpy(), kind="stable")  # a batch is ordered by length
    offsets = np.cumsum(step.logit_rows) - step.logit_rows
    in_batch = torch.cat([logits[offsets[row] : offsets[row] + step.logit_rows[row]] for row in batch.rows.tolist()])
    assert len(order) == 12
    value = Objective([HardLabels()], KINDS["spans"], shape, None)(Signals(logits=in_batch), Signals(), batch)[
        "hard_labels"
    ]
    assert float(value) == pytest.approx(expected / 24, rel=1e-5)


def test_by_text_lets_no_softmax_see_the_padding() -> None:
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows = losses.by_text(logits, torch.tensor([0, 0, 2, 2, 2]), 3, 4)
    assert rows.shape == (2, 3, 4)
    torch.testing.assert_close(rows[1, 2, :3], logits[2:, 1])
    value = losses.soft_cross_entropy(rows.flatten(0, 1), rows.flatten(0, 1).detach() * 0.5)
    value.backward()
    assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_questions_without_answers_and_mistakes(scene: Path, tmp_path: Path) -> None:
    write_squad(tmp_path / "train.json", 80, 3, empty=True)
    write_squad(tmp_path / "dev.json", 40, 4, empty=True)
    write_conll(tmp_path / "train.conll", 20, 3)
    write_conll(tmp_path / "dev.conll", 10, 4)
    recipe = finetune(Checkpoint(name=str(scene / "body")), epochs=1, lr=3e-3)
    config = config_for(tmp_path, "spans", recipe, tmp_path / "run", teacher=None)
    report = run(config, quiet=True)
    assert set(report["student"]["scores"]["dev"]) == {"f1", "exact_match"}

    def refused(message: str, **words) -> None:
        with pytest.raises(TutelageError, match=message) as caught:
            api.distill(str(scene / words["kind"]), str(tmp_path / "never"), **{"quiet": True, **words})
        assert "\n" not in str(caught.value) and not (tmp_path / "never").exists()

    spans = {"train": str(scene / "train.json"), "dev": str(scene / "dev.json"), "kind": "spans", "stride": 8}
    tokens = {"train": str(scene / "train.conll"), "dev": str(scene / "dev.conll"), "kind": "tokens"}
    refused("keeps one prediction per text", **tokens, teacher_store="auto", student="layers=2")
    refused("logits_mse compares the scores of fixed classes", **spans, method="logits_mse", student="layers=2")
    refused("a bilstm student only classifies whole texts", **tokens, student="channels=1")
    (tmp_path / "more.txt").write_text("good\nbad\n")
    refused("unlabelled texts cannot be read", **tokens, student="layers=2", unlabeled=str(tmp_path / "more.txt"))
    with pytest.raises(TutelageError, match="no head for questions"):
        api.distill(str(scene / "body"), str(tmp_path / "never"), student="layers=2", quiet=True, **spans)
