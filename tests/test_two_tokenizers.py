"""Teacher and student with tokenizers of their own: each reads the text its own way, and tokens are compared where both cut
alike."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import BAD, FILL, GOOD, LABELS, VOCABULARY, sentences, tiny_model
from tokenizers import pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    MPNetTokenizerFast,
    RobertaTokenizerFast,
)

from tutelage.data.alignment import align
from tutelage.data.batches import EVALUATION_TOKENS, pieces, step_batches, totals_of
from tutelage.data.config import DataConfig
from tutelage.data.examples import Examples, token_places
from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.term import Comparison
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench
from tutelage.students.specs import Checkpoint

WORDS = [*FILL, *BAD, *GOOD]
MPNET = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS]


@pytest.fixture(scope="module")
def mpnet() -> MPNetTokenizerFast:
    """The words of the tests with other ids, and pairs as ``<s> A </s></s> B </s>``."""
    vocabulary = {word: i for i, word in enumerate(MPNET)}
    return MPNetTokenizerFast(vocab=vocabulary, unk_token="[UNK]", model_max_length=38)


def byte_pairs(merges: int) -> RobertaTokenizerFast:
    """A tokenizer like RoBERTa's: with many merges each word is one token, with few it is several."""
    start = RobertaTokenizerFast(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}, merges=[])
    trainer = trainers.BpeTrainer(
        vocab_size=5 + 256 + merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    start.backend_tokenizer.train_from_iterator([" " + text for text in sentences(400, 0)[0]] + WORDS, trainer)
    start.model_max_length = 38
    return start


def write_pairs(path: Path, count: int, seed: int) -> None:
    texts, labels = sentences(count, seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "other", "label"])
        rows = zip(texts, sentences(count, seed + 1)[0], labels, strict=True)
        writer.writerows([text, other, LABELS[label]] for text, other, label in rows)


def save(folder: Path, family: str, tokenizer, **sizes) -> None:
    tiny_model(family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def scene(mpnet, tokenizer, tmp_path: Path):
    """Folders: an MPNet as teacher, a BERT of its width and a narrower DistilBERT as students, pairs of texts."""
    save(tmp_path / "mpnet", "mpnet", mpnet)
    save(tmp_path / "bert", "bert", tokenizer, layers=2)
    save(tmp_path / "distilbert", "distilbert", tokenizer, layers=2, hidden=16)
    write_pairs(tmp_path / "train.csv", 64, 1)
    write_pairs(tmp_path / "dev.csv", 32, 2)
    return tmp_path


def config_for(root: Path, method: str, teacher: str = "mpnet", student: str = "bert", **more) -> RunConfig:
    recipe = METHODS[method]().part("task")
    changed = {"epochs": 2, "lr": 3e-3, **more.pop("stage", {})}
    stages = [stage.model_copy(update=changed) for stage in recipe.stages]
    recipe = recipe.model_copy(update={"student": Checkpoint(name=str(root / student)), "stages": stages})
    data = DataConfig(train=str(root / "train.csv"), dev=str(root / "dev.csv"), text_pair="other")
    places = {"teacher": str(root / teacher), "out": str(root / f"run-{method}-{teacher}-{student}")}
    settings = {"allow_weak_teacher": True, "baseline": False, **places, **more}
    return RunConfig(recipe=recipe, data=data, **settings)


def places(tokenizer, text: str, pair: str | None, longest: int = 99):
    one = Examples(["a"], [text], None if pair is None else [pair], np.array([0]))
    return token_places(one, tokenizer, longest)


def test_special_tokens_and_words_find_their_partners(tokenizer, mpnet) -> None:
    """``[CLS] A [SEP] B [SEP]`` and ``<s> A </s></s> B </s>``: the second ``</s>`` in the middle has no partner."""
    uncut, pair = np.array([False]), ("good word1", "bad")
    there = align(places(tokenizer, *pair), places(mpnet, *pair), uncut)
    back = align(places(mpnet, *pair), places(tokenizer, *pair), uncut)
    assert there.partners.tolist() == [0, 1, 2, 3, 5, 6] and there.apart == 0
    assert back.partners.tolist() == [0, 1, 2, 3, -1, 4, 5] and back.apart == 0
    alone = align(places(tokenizer, "good bad", None), places(mpnet, "good bad", None), uncut)
    assert alone.partners.tolist() == [0, 1, 2, 3]
    cut = align(places(tokenizer, *pair, longest=6), places(mpnet, *pair, longest=6), np.array([True]))
    assert (
        cut.partners.tolist() == [0, 1, -1, 2, 4, 5] and cut.apart == 0
    )  # what is cut off does not speak against them
    # Byte pairs take the space before a word into it, and cut a long word: its characters have no partner.
    whole, few = byte_pairs(400), byte_pairs(0)
    plain = ("good dull weak", "bad")  # without figures, which byte pairs part from letters
    assert align(places(tokenizer, *plain), places(whole, *plain), uncut).partners.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert align(places(tokenizer, *pair), places(few, *pair), uncut).apart == 1


@pytest.mark.parametrize(
    ("teacher", "student"), [("mpnet", "bert"), ("bert", "distilbert"), ("roberta", "bert"), ("mpnet", "distilbert")]
)
def test_the_teachers_logits_are_those_of_the_teacher_alone(teacher: str, student: str, scene: Path) -> None:
    """To the bit, in equal batches: known before training, and from the teacher that runs beside the student."""
    if teacher == "roberta":
        save(scene / "roberta", "roberta", byte_pairs(40))
    model = AutoModelForSequenceClassification.from_pretrained(scene / teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(scene / teacher)
    with bench(quiet=True) as desk:
        task = TaskRun(desk, config_for(scene, "kd", teacher, student))
        texts = task.texts.parts["train"]
        assert texts.teacher is not None and task.teacher is not None

        def alone(rows) -> torch.Tensor:
            part = texts.examples.take(rows)
            longest = 38 if teacher in ("mpnet", "roberta") else 40
            inputs = tokenizer(part.texts, part.pairs, padding=True, truncation=True, max_length=longest)
            with torch.no_grad():
                return model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits

        known = task.teacher.on_train("train")
        for rows in pieces(np.arange(len(texts.teacher)), texts.teacher.lengths, EVALUATION_TOKENS):
            assert torch.equal(known[rows], alone(rows))
        needs = task.objectives.current[0].teacher_needs
        live = replace_known(task, needs)
        for batch in step_batches(texts.student, np.arange(len(texts.student)), 0, 1, 300):
            assert torch.equal(live.signals(batch).logits, alone(batch.rows.numpy()))
        live.close()


def replace_known(task: TaskRun, needs):
    """The teacher that runs, where the run would have known its logits."""
    from tutelage.teachers.teacher import LiveTeacher

    assert task.teacher is not None
    return LiveTeacher(task.teacher.source.model, needs, task.texts.parts["train"].teacher, Accelerator(cpu=True))


@pytest.mark.parametrize(
    "method",
    [
        "minimum_knowledge",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("tinybert", "pkd", "distilbert", "minilmv2", "ted")),
    ],
)
def test_methods_on_hidden_states_and_attention_learn_across_tokenizers(method: str, scene: Path) -> None:
    stage = {"epochs": 4, "pad_to": None}
    report = run(config_for(scene, method, stage=stage), quiet=True)
    for logged in report["stages"]:
        for term in logged["losses"].keys() - {"soft_labels", "hard_labels"}:
            values = logged["losses"][term]
            assert values[-1][1] < values[0][1], (logged["name"], term)


def test_a_loss_counts_the_tokens_that_both_have(scene: Path) -> None:
    """Against the formula in loops over plain transformers' hidden states; the second ``</s>`` is left out."""
    with bench(quiet=True) as desk:
        task = TaskRun(desk, config_for(scene, "distilbert"))
        texts, plan = task.texts.parts["train"], task.objectives.current[0]
        live = replace_known(task, plan.teacher_needs)
        bert, mpnet = (AutoModelForSequenceClassification.from_pretrained(scene / name) for name in ("bert", "mpnet"))
        (pairs,) = [mapped for term, mapped in zip(plan.terms, plan.pairs, strict=True) if term.kind == "hidden"]
        (batch,) = (
            step_batches(texts.student, np.arange(6), 0, 1, 10**6)
            if len(texts.student) == 6
            else step_batches(texts.student.take(np.arange(6)), np.arange(6), 0, 1, 10**6)
        )
        from tutelage.knowledge.signals import Tap

        tap = Tap(task.student.eval(), plan.student_needs)
        with torch.no_grad():
            ours = tap(batch.inputs)
        value = Hidden(loss="mse").value(
            Comparison(ours, live.signals(batch), batch, task.texts.kind, pairs, [], torch.nn.ModuleDict())
        )
        live.close()
        tap.close()
        total = count = 0.0
        assert texts.teacher is not None
        for row in range(6):
            mine, theirs = texts.student.take(np.array([row])), texts.teacher.take(np.array([row]))
            with torch.no_grad():
                hidden = [
                    model.eval()(input_ids=torch.tensor(one.tokens[None]).long(), **types, output_hidden_states=True)
                    for model, one, types in (
                        (bert, mine, {"token_type_ids": torch.tensor(mine.types[None]).long()}),
                        (mpnet, theirs, {}),
                    )
                ]
            middle = int((mine.tokens == mine.separator).argmax())
            partner = [*range(middle + 1), *range(middle + 2, len(theirs.tokens))]
            assert len(partner) == len(mine.tokens) == len(theirs.tokens) - 1
            count += len(partner)
            for s, t in pairs:
                difference = hidden[0].hidden_states[s][0] - hidden[1].hidden_states[t][0, partner]
                total += float(difference.square().mean(-1).sum())
        assert totals_of(texts.student.take(np.arange(6))).tokens == count
        assert float(value) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("keep", ["alll_allt_1h", "2l_5t_0.3h", pytest.param("1l_allt_0.3h", marks=pytest.mark.slow)])
def test_a_store_says_what_the_running_teacher_says(keep: str, swapped: bool, scene: Path, monkeypatch) -> None:
    """With tokens more or fewer than the student's; the places of kept tokens are the student's."""
    from tutelage.objectives.hidden_knowledge import HiddenKnowledge

    monkeypatch.setenv("TUTELAGE_STORES", str(scene / "stores"))
    teacher, student = ("bert", "mpnet") if swapped else ("mpnet", "bert")
    terms = [HiddenKnowledge(keep=keep), Hidden(layers="final")]
    config = config_for(
        scene, "distilbert", teacher, student, stage={"objective": terms}, teacher_store="auto", store_dtype="float32"
    )
    if swapped:  # the deeper model teaches
        save(scene / "bert", "bert", AutoTokenizer.from_pretrained(scene / "bert"))
        save(scene / "mpnet", "mpnet", AutoTokenizer.from_pretrained(scene / "mpnet"), layers=2)
    with bench(quiet=True) as desk:
        task = TaskRun(desk, config)
        assert task.teacher is not None
        task.teacher.write_store()
        stage, needs = task.config.recipe.stages[0], task.objectives.current[0].teacher_needs
        assert task.teacher.answers(stage, needs) == "store"
        stored, live = task.teacher.teacher_for(stage, "train", needs), replace_known(task, needs)
        texts = task.texts.parts["train"].student
        for batch in step_batches(texts, np.arange(len(texts)), 0, 1, 1):
            theirs, ours = live.signals(batch), stored.signals(batch)
            there = batch.compared.bool()
            for layer in needs.hidden:
                hidden = theirs.hidden[layer][there]
                torch.testing.assert_close(ours.hidden[layer][there], hidden, atol=1e-5, rtol=1e-5)
            assert ours.cuts.keys() == theirs.cuts.keys() and theirs.cuts
            for cut, part in theirs.cuts.items():
                found, kept = ours.cuts[cut], part.mask.bool()
                assert torch.equal(found.mask.bool(), kept)
                torch.testing.assert_close(found.values[kept], part.values[kept], atol=1e-5, rtol=1e-5)
                if part.positions is not None:
                    assert torch.equal(found.positions[kept], part.positions[kept])
                    assert there.gather(1, part.positions)[kept].all()
        live.close()


def test_texts_that_are_cut_differently_are_refused(scene: Path, tokenizer) -> None:
    save(scene / "roberta", "roberta", byte_pairs(10))
    with pytest.raises(
        TutelageError, match=r"term hidden of stage 'distill' .* cut \d+% .* differently \(as in '.*word"
    ):
        run(config_for(scene, "distilbert", "roberta"), quiet=True)
    other = BertTokenizerFast(vocab={word: i for i, word in enumerate(reversed(VOCABULARY))}, model_max_length=32)
    save(scene / "other", "bert", other, layers=2)
    with pytest.raises(TutelageError, match="padding=reference compares padded places"):
        run(config_for(scene, "tinybert_reference", "mpnet", "other", stage={"pad_to": 24}), quiet=True)
    assert not list(scene.glob("run-*"))
    run(config_for(scene, "kd", "roberta"), quiet=True)


def test_words_of_sentences_find_their_partners(tokenizer, mpnet) -> None:
    from tutelage.tasks import KINDS

    one = Examples(["a", "b"], ["good dull weak", "awful great"], None, np.array([None, None]))
    kind = KINDS["tokens"]
    found = align(kind.places(one, tokenizer, 32), kind.places(one, byte_pairs(400), 32), np.zeros(2, dtype=bool))
    assert found.apart == 0 and (found.partners >= 0).all()
    assert (
        align(kind.places(one, tokenizer, 32), kind.places(one, byte_pairs(0), 32), np.zeros(2, dtype=bool)).apart > 0.9
    )
