"""Teachers that are trained together under one head: the loss written out, plain checkpoints, resume, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, assert_alike, examples, tiny_model, write_csv
from processes import KILLED, in_process, in_processes, kill_after
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast

from tutelage import anatomy, api
from tutelage.data.batches import step_batches
from tutelage.data.examples import encode
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Signals
from tutelage.mechanisms.team.folders import members_in
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels
from tutelage.report.model import load_report
from tutelage.studies.shared_head import Together, share_head
from tutelage.tasks import KINDS
from tutelage.training import loop

HEADS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
}
"""The pooling and the prediction layer of a family."""


def reordered() -> BertTokenizerFast:
    """A tokenizer with the same words in another order, and with two more."""
    words = [*VOCABULARY[:5], *reversed(VOCABULARY[5:]), "more", "words"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, model_max_length=32)


def test_the_loss_is_the_sum_of_the_teachers_and_the_head_learns_from_all(tokenizer) -> None:
    read = {name: encode(examples(8, 1), one, 32) for name, one in (("a", tokenizer), ("b", reordered()))}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    models = {"a": tiny_model(**quiet), "b": tiny_model("roberta", layers=2, vocab_size=len(reordered()), **quiet)}
    share_head(list(models.values()), ["a", "b"])
    shape = anatomy.shape_of(models["a"].config)
    lesson = Together(models, Objective([HardLabels()], KINDS["classification"], shape, None), read)
    (batch,) = step_batches(read["a"].take(np.array([5, 2, 7])), np.array([5, 2, 7]), 0, 1, 10**6)
    losses = lesson(batch, Signals())
    sum(losses.values()).backward()
    lesson.close()

    wanted, gradients = {}, {"dense.weight": 0.0, "out.bias": 0.0}
    for name, model in models.items():
        one, who = (tokenizer, "bert") if name == "a" else (reordered(), "roberta")
        texts = [examples(8, 1).texts[row] for row in batch.rows.tolist()]
        inputs = one(texts, padding=True, return_tensors="pt")
        if who == "roberta":
            inputs.pop("token_type_ids")
        wanted[name] = F.cross_entropy(model(**inputs).logits, torch.tensor(examples(8, 1).labels[batch.rows]))
        dense, out = (model.get_submodule(path) for path in HEADS[who])
        for key, tensor in (("dense.weight", dense.weight), ("out.bias", out.bias)):
            gradients[key] = gradients[key] + torch.autograd.grad(wanted[name], tensor, retain_graph=True)[0]
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(wanted[name].item(), rel=1e-5)
    assert torch.allclose(models["b"].classifier.dense.weight.grad, gradients["dense.weight"], atol=1e-6)
    assert torch.allclose(models["a"].classifier.bias.grad, gradients["out.bias"], atol=1e-6)
    assert len(list(lesson.parameters())) == sum(len(list(m.parameters())) for m in models.values()) - 4


@pytest.mark.parametrize("family", ["distilbert", "electra"])  # one pools with a ReLU, the other with a GELU
def test_heads_that_compute_otherwise_are_refused(family: str) -> None:
    with pytest.raises(TutelageError, match=rf"'a' \(bert\) and 'b' \({family}\) do not; leave one out"):
        share_head([tiny_model(), tiny_model(family)], ["a", "b"])


def starts(root: Path, tokenizer) -> list[str]:
    """A BERT of four layers and a RoBERTa of two, whose tokenizers differ; and files of texts."""
    tiny_model().save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    tiny_model("roberta", seed=1, layers=2, vocab_size=len(reordered())).save_pretrained(root / "roberta")
    reordered().save_pretrained(root / "roberta")
    write_csv(root / "train.csv", 240, 1)
    write_csv(root / "dev.csv", 40, 2)
    return ["layers=4", "layers=2", f"model={root / 'roberta'}"]


def made(root: Path, out: Path, members: list[str], **more):
    return api.train_team(
        str(root / "bert"),
        str(out),
        members=members,
        **{"shared_head": True, "epochs": 2, "lr": 2e-3, "train": str(root / "train.csv"), **more},
        dev=str(root / "dev.csv"),
        quiet=True,
    )


def test_teachers_with_one_head_are_plain_checkpoints(tokenizer, tmp_path: Path, monkeypatch) -> None:
    members = starts(tmp_path, tokenizer)
    found = made(tmp_path, tmp_path / "team", members, epochs=1)
    assert found.not_kept_apart == [] and len(found.members) == 3
    folders = members_in([str(tmp_path / "team")])
    heads = []
    for folder, who in zip(folders, ("bert", "bert", "roberta"), strict=True):
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and model.config.model_type == who
        assert AutoTokenizer.from_pretrained(folder)("word1 good")["input_ids"]
        heads.append([p for path in HEADS[who] for p in model.get_submodule(path).parameters()])
    assert all(torch.equal(a, b) for head in heads[1:] for a, b in zip(heads[0], head, strict=True))
    assert not torch.equal(
        heads[0][0], AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").bert.pooler.dense.weight
    )
    # It is finished: repeated, it is only shown.
    monkeypatch.setattr(loop, "train", None)
    assert made(tmp_path, tmp_path / "team", members, epochs=1) == found
    with pytest.raises(TutelageError, match="holds another team"):
        made(tmp_path, tmp_path / "team", members, shared_head=False)


def test_what_cannot_be_shared_is_said_before_anything_is_written(tokenizer, tmp_path: Path) -> None:
    members = starts(tmp_path, tokenizer)
    tiny_model(hidden=16).save_pretrained(tmp_path / "narrow")
    tokenizer.save_pretrained(tmp_path / "narrow")
    for wrong, match in (
        (["layers=2", f"model={tmp_path / 'narrow'}"], r"bert' is 32 and that of .*narrow' is 16; leave one out"),
        (["layers=2", "layers=2,seed=1"], "so seed is common to all; leave it out"),
        (["layers=2", "only=1/2"], "so only is common to all"),
    ):
        with pytest.raises(TutelageError, match=match):
            made(tmp_path, tmp_path / "team", wrong)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(TutelageError, match="is not empty and holds no team with a shared head"):
        made(tmp_path, tmp_path / "full", members)
    assert not (tmp_path / "team").exists()


def stopped_at(root: Path, out: Path, members: list[str], checkpoints: int) -> None:
    """Train a team with a checkpoint after each step, and be killed when so many are written; 0: never."""
    loop.CHECKPOINT_SECONDS = 0.0
    if checkpoints:
        kill_after(checkpoints)
    made(root, out, members)


def weights(out: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(Path(folder) / "model.safetensors") for folder in members_in([str(out)])]


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(tokenizer, tmp_path: Path) -> None:
    """In its middle, and when all is learnt and nothing is saved."""
    members = starts(tmp_path, tokenizer)
    in_process(stopped_at, tmp_path, tmp_path / "whole", members, 0)
    steps = load_report(Path(members_in([str(tmp_path / "whole")])[0])).stages[0].steps
    assert steps > 8
    for at in (4, steps - 4 + 1, 0):
        end = in_process(stopped_at, tmp_path, tmp_path / "cut", members, at)
        assert (end == KILLED) == (at > 0)
    for ours, theirs in zip(weights(tmp_path / "whole"), weights(tmp_path / "cut"), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours.keys() == theirs.keys()


@pytest.mark.slow
def test_two_processes_make_the_same_team(tokenizer, tmp_path: Path) -> None:
    members = starts(tmp_path, tokenizer)
    for folder in ("bert", "roberta"):  # processes draw numbers of their own
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        model.save_pretrained(tmp_path / folder)
    for processes in (1, 2):
        in_processes(processes, made, tmp_path, tmp_path / f"team{processes}", members)
    for ours, theirs in zip(weights(tmp_path / "team1"), weights(tmp_path / "team2"), strict=True):
        assert_alike(ours, theirs, within=2e-5)
