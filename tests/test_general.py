"""Runs on raw text: what they leave behind, that they resume, that their student and projections are inherited."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FILL, GOOD, assert_alike, tiny_config, tiny_model
from processes import KILLED, in_process, in_processes, run_of
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    GPT2LMHeadModel,
)

from tutelage import api
from tutelage.data.config import DataConfig
from tutelage.data.corpus.building import build
from tutelage.data.masking import Masking
from tutelage.errors import TutelageError
from tutelage.methods.distilbert import distilbert_general
from tutelage.methods.kd import kd
from tutelage.methods.minilm import minilm_assistant
from tutelage.methods.mobilebert import mobilebert
from tutelage.methods.named import method_recipe
from tutelage.methods.pretrain import pretrain
from tutelage.methods.tinybert import tinybert
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Assistant, Instances, Recipe, Stage
from tutelage.report.model import load_report
from tutelage.run.run import run
from tutelage.students.copied import copy_layers
from tutelage.students.fresh import from_sizes
from tutelage.students.load import load_model
from tutelage.students.specs import Checkpoint, Copied, Fresh
from tutelage.tasks import KINDS


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tokenizer) -> Path:
    """A corpus of 40 documents, a pretrained teacher with a head for words, and one without."""
    root = tmp_path_factory.mktemp("general")
    generator = np.random.default_rng(0)
    documents = []
    for _ in range(40):
        # Every word is followed by its neighbour most of the time: there is something to learn.
        words, lines = [*FILL, *GOOD], []
        for _ in range(int(generator.integers(2, 6))):
            at = int(generator.integers(len(words)))
            line = []
            for _ in range(int(generator.integers(4, 12))):
                line.append(words[at])
                at = (at + 1) % len(words) if generator.random() < 0.8 else int(generator.integers(len(words)))
            lines.append(" ".join(line))
        documents.append("\n".join(lines))
    (root / "text.txt").write_text("\n\n".join(documents))
    build([str(root / "text.txt")], root / "corpus", tokenizer, split="lines")
    torch.manual_seed(0)
    # Without dropout, of which two processes draw another than one.
    masked = BertForMaskedLM(tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).config)
    for name, model in (("masked", masked), ("bare", masked.bert)):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def small(recipe: Recipe, **stage) -> Recipe:
    """The general part with few steps, a rate for tiny models and instances as short as theirs."""
    recipe = recipe.part("general")
    settings = {"epochs": 4, "lr": 3e-3, "batch_size": 16, **stage}
    stages = []
    for each in recipe.stages:
        assert isinstance(each.data, Instances)
        stages.append(each.model_copy(update={**settings, "data": each.data.model_copy(update={"length": 24})}))
    return recipe.model_copy(update={"stages": stages})


def config_for(root: Path, out: Path, recipe: Recipe, teacher: str | None = "bare", **more) -> RunConfig:
    where = None if teacher is None else str(root / teacher)
    return RunConfig(recipe=recipe, teacher=where, corpus=str(root / "corpus"), out=str(out), **more)


STUDENT = Fresh(layers=2, hidden=16, heads=4, intermediate=24)


def test_tinybert_leaves_a_student_and_its_projections(scene: Path, tmp_path: Path) -> None:
    recipe = small(tinybert().model_copy(update={"student": STUDENT}))
    report = run(config_for(scene, tmp_path / "run", recipe), quiet=True)
    assert load_report(tmp_path / "run").model_dump(mode="json") == report
    stage = report["stages"][0]
    for term, value in stage["held_out"]["after"].items():
        assert value < stage["held_out"]["before"][term], term
        assert stage["losses"][term][-1][1] < stage["losses"][term][0][1], term
    assert set(stage["losses"]) == {"embeddings", "hidden", "attention_scores"}
    student = AutoModel.from_pretrained(tmp_path / "run" / "student")
    assert student.config.num_hidden_layers == 2 and type(student).__name__ == "BertModel"
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "student")("good word1")["input_ids"]
    assert sorted(load_file(tmp_path / "run" / "projections.safetensors")) == [
        "general.0.weight",
        "general.1.weight",
        "general.2.weight",
    ]
    page = (tmp_path / "run" / "report.html").read_text()
    assert ">Held-out text<" in page and "TinyBERT" in page
    assert "<code>bare</code>" in page
    assert (tmp_path / "run" / "student" / "README.md").read_text().startswith("---")
    assert not (tmp_path / "run" / "checkpoint").exists() and not (tmp_path / "run" / "held_out.json").exists()


def minilm_chain(**update: object) -> Recipe:
    """MiniLM through an assistant, for tiny models."""
    sizes = {"hidden": 16, "heads": 4, "intermediate": 24}
    chain = {"student": Fresh(layers=1, **sizes), "assistants": [Assistant(student=Fresh(layers=4, **sizes))], **update}
    return small(minilm_assistant().model_copy(update=chain), epochs=2)


@pytest.mark.slow
def test_minilm_learns_through_an_assistant(scene: Path, tmp_path: Path) -> None:
    """Attention and relations of values, from the teacher to the assistant and from it to the student."""
    report = run(config_for(scene, tmp_path / "run", minilm_chain()), quiet=True)
    before = load_report(tmp_path / "run" / "assistants" / "1").model_dump(mode="json")
    assert report["teacher"]["name"] == before["student"]["name"] and before["teacher"]["name"] == str(scene / "bare")
    for one in (before, report):
        held = one["stages"][0]["held_out"]
        assert held["after"]["relations"] < held["before"]["relations"]
    assert AutoModel.from_pretrained(tmp_path / "run" / "student").config.num_hidden_layers == 1


@pytest.mark.parametrize(("who", "start"), [("student", "^"), ("assistants", "^teacher assistant 1 .*: ")])
def test_heads_that_differ_are_refused_before_an_assistant_learns(
    who: str, start: str, scene: Path, tmp_path: Path
) -> None:
    fewer = Fresh(layers=1, hidden=16, heads=2, intermediate=24)
    recipe = minilm_chain(**{who: [Assistant(student=fewer)] if who == "assistants" else fewer})
    with pytest.raises(
        TutelageError, match=f"{start}relations .* the student has 2 heads and the teacher 4; use heads=4"
    ):
        run(config_for(scene, tmp_path / "run", recipe), quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_pooler_is_taught_when_asked(scene: Path, tmp_path: Path, tokenizer) -> None:
    tiny_model().base_model.save_pretrained(scene / "pooled")
    tokenizer.save_pretrained(scene / "pooled")
    recipe = small(tinybert(pooler=True).model_copy(update={"student": STUDENT}))
    with pytest.raises(TutelageError, match="lack the pooler"):
        run(config_for(scene, tmp_path / "never", recipe), quiet=True)
    assert not (tmp_path / "never").exists()
    before = config_for(
        scene, tmp_path / "without", small(tinybert().model_copy(update={"student": STUDENT})), "pooled"
    )
    after = config_for(scene, tmp_path / "with", recipe, "pooled")
    run(before, quiet=True)
    report = run(after, quiet=True)
    held = report["stages"][0]["held_out"]
    assert held["after"]["pooled"] < held["before"]["pooled"]
    moved = {}
    for name in ("without", "with"):
        weights = load_file(tmp_path / name / "student" / "model.safetensors")
        moved[name] = weights["pooler.dense.weight"]
    assert not torch.equal(moved["with"], moved["without"])


@pytest.mark.parametrize("family", ["roberta", "electra"])
def test_other_families_read_pairs(family: str, scene: Path, tmp_path: Path, tokenizer) -> None:
    """With token types or without, as long as both models are alike."""
    tiny_model(family).base_model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    recipe = small(tinybert().model_copy(update={"student": STUDENT}), epochs=2)
    config = config_for(scene, tmp_path / "run", recipe, None)
    report = run(config.model_copy(update={"teacher": str(tmp_path / "teacher")}), quiet=True)
    held = report["stages"][0]["held_out"]
    assert all(held["after"][term] < held["before"][term] for term in held["after"])
    other = recipe.model_copy(update={"student": STUDENT.model_copy(update={"family": "distilbert"})})
    if family == "electra":
        with pytest.raises(TutelageError, match="only one of teacher and student has token types"):
            run(config_for(scene, tmp_path / "never", other, "bare"), quiet=True)


def test_task_distillation_inherits_student_and_projections(
    scene: Path, teacher_folder: Path, tmp_path: Path, capsys
) -> None:
    from tutelage.objectives.objective import Objective, ObjectivePlan
    from tutelage.run.student import general_projections, inherited_count

    general = small(tinybert(mapping="top").model_copy(update={"student": STUDENT}))
    run(config_for(scene, tmp_path / "general", general), quiet=True)
    spec = Checkpoint(name=str(tmp_path / "general"))
    stage = tinybert(mapping="top").part("task").stages[0]
    from tutelage.anatomy import shape_of

    student, teacher = AutoModel.from_pretrained(tmp_path / "general" / "student"), tiny_model()
    objective = Objective(stage.objective, KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    found = general_projections(spec)
    plan = ObjectivePlan(stage.objective, KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    assert inherited_count(plan, found) == 3 and not general_projections(STUDENT)
    objective.inherit(found)
    theirs = load_file(tmp_path / "general" / "projections.safetensors")
    for name, tensor in objective.projections.state_dict().items():
        assert torch.equal(tensor, theirs[f"general.{name}"])

    report = api.distill(
        str(teacher_folder / "teacher"),
        str(tmp_path / "task"),
        method="tinybert",
        student=str(tmp_path / "general"),
        train=str(teacher_folder / "train.csv"),
        dev=str(teacher_folder / "dev.csv"),
        settings=["stages.*.epochs=1", "stages.*.lr=0.003"],
        baseline=False,
    ).report
    assert any("no candidates were given" in warning for warning in report["warnings"])
    assert "starts from 3 projections" in capsys.readouterr().err

    # A run that lost its projections or its report is not taken for one that never had them; the remedy works.
    for name, message in (
        ("projections.safetensors", "has lost its projections"),
        ("report.json", "has no report.json"),
    ):
        (tmp_path / "general" / name).unlink()
        with pytest.raises(TutelageError, match=f"{message}.*a copy of its student/ alone"):
            general_projections(spec)
    (tmp_path / "general" / "student").rename(tmp_path / "alone")
    assert not general_projections(Checkpoint(name=str(tmp_path / "alone")))


def test_distilbert_learns_words_without_token_types(scene: Path, tmp_path: Path) -> None:
    recipe = distilbert_general(layers=2)
    config = config_for(scene, tmp_path / "run", small(recipe), "masked")
    report = run(config, quiet=True)
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "student")
    assert type(student).__name__ == "DistilBertForMaskedLM"
    held = report["stages"][0]["held_out"]
    assert held["after"]["hard_labels"] < held["before"]["hard_labels"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    assert "token_type_ids" not in tokenizer("good")
    with pytest.raises(
        TutelageError, match=r"no masked-language-model head .*: `tutelage pretrain --head-only --model"
    ):
        run(config_for(scene, tmp_path / "never", small(recipe)), quiet=True)
    assert not (tmp_path / "never").exists()


def test_mobilebert_learns_a_teacher_with_wide_bottlenecks_layer_by_layer(
    scene: Path, tokenizer, tmp_path: Path
) -> None:
    """Teacher and student have one width between layers, and others within them."""
    sizes = {"layers": 2, "intra_bottleneck_size": 48, "num_feedforward_networks": 1}
    torch.manual_seed(0)
    teacher = AutoModelForMaskedLM.from_config(tiny_config("mobilebert", **sizes))
    for parameter in teacher.parameters():
        parameter.data *= 12 if parameter.ndim > 1 else 1  # or attention is even
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    like = tmp_path / "like"
    tiny_config("mobilebert").save_pretrained(like)
    tokenizer.save_pretrained(like)
    student = Fresh(layers=2, hidden=32, heads=4, like=str(like))
    recipe = small(mobilebert(layers=2).model_copy(update={"student": student}), max_steps=20)
    config = config_for(scene, tmp_path / "run", recipe, None).model_copy(update={"teacher": str(tmp_path / "teacher")})
    report = run(config, quiet=True)
    first, second, words = report["stages"]
    for stage, terms in (
        (first, ("hidden", "relations")),
        (second, ("hidden", "relations")),
        (words, ("hard_labels",)),
    ):
        for term in terms:
            assert stage["held_out"]["after"][term] < stage["held_out"]["before"][term], (stage["name"], term)
    made = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "student").config
    assert (made.model_type, made.hidden_size, made.intra_bottleneck_size) == ("mobilebert", 32, 16)


def test_a_full_copy_as_distilbert_computes_what_the_teacher_does(scene: Path) -> None:
    teacher = AutoModelForMaskedLM.from_pretrained(scene / "masked").eval()
    student = copy_layers(teacher, Copied(layers=4, family="distilbert"), {})
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    with torch.no_grad():
        theirs = teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        ours = student(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one[mask.bool()], other[mask.bool()], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logits[mask.bool()], theirs.logits[mask.bool()], atol=1e-4, rtol=1e-4)
    # Without the token type in the positions it would be another function.
    with torch.no_grad():
        folded = teacher.bert.embeddings.token_type_embeddings.weight[0]
        student.distilbert.embeddings.position_embeddings.weight -= folded
        other = student(input_ids=ids, attention_mask=mask).logits
    assert (other - theirs.logits)[mask.bool()].abs().max() > 1e-3
    with pytest.raises(TutelageError, match="copies the layers of a BERT"):
        copy_layers(tiny_model("roberta"), Copied(layers=2, family="distilbert"), {})


@pytest.mark.parametrize("head_only", [True, False])
def test_pretraining_gives_a_body_a_head(head_only: bool, scene: Path, tmp_path: Path) -> None:
    recipe = small(pretrain(Checkpoint(name=str(scene / "bare")), head_only=head_only), epochs=6)
    report = run(config_for(scene, tmp_path / "run", recipe, None), quiet=True)
    held = report["stages"][0]["held_out"]
    assert held["after"]["perplexity"] < held["before"]["perplexity"]
    trained = load_file(tmp_path / "run" / "student" / "model.safetensors")
    body = load_file(scene / "bare" / "model.safetensors")
    same = [torch.equal(trained[f"bert.{name}"], tensor) for name, tensor in body.items() if "pooler" not in name]
    assert all(same) if head_only else not any(same[3:])


def test_pretraining_a_new_network_through_the_api(scene: Path, tmp_path: Path) -> None:
    def learn(student: str, out: str) -> dict:
        settings = ["data.length=24", "batch_size=16", "stages.*.max_steps=4"]
        return api.pretrain(
            str(scene / "bare"),
            str(scene / "corpus"),
            str(tmp_path / out),
            student=student,
            settings=settings,
            quiet=True,
        ).report

    report = learn("layers=1,hidden=16,heads=2", "run")
    assert report["student"]["shape"].startswith("1 layers x 16") and report["stages"][0]["steps"] == 4
    with pytest.raises(TutelageError, match="makes no new network"):
        learn("layers=1", "never")


def test_the_same_words_are_asked_again_in_evaluation_and_others_in_the_next_epoch(scene: Path) -> None:
    from tutelage.data.corpus.reading import Corpus
    from tutelage.run.corpus import DrawnInstances

    corpus = Corpus(scene / "corpus")
    assert corpus.split(10**6) == (corpus, corpus)
    learnt, apart = corpus.split(60)
    assert np.array_equal(np.concatenate([learnt.tokens, apart.tokens]), corpus.tokens)
    assert 60 <= len(apart.tokens) < 60 + 12  # the longest sentence
    assert apart.sentences[0] == 0 and apart.sentences[-1] == len(apart.tokens)
    for part in (learnt, apart):
        assert len(part.documents) >= 3 and part.documents[0] == 0 and part.documents[-1] == len(part.sentences) - 1
        assert (np.diff(part.documents) > 0).all()
        part.epoch("pairs", 16, 0, 0)
    instances = Instances(packing="segments", length=24, masking=Masking())
    feed = DrawnInstances(learnt, instances, "masked_lm", 0, types=True)
    rows = feed.rows(0)[:8]
    once, again = feed.read(0, rows), DrawnInstances(learnt, instances, "masked_lm", 0, types=True).read(0, rows)
    assert np.array_equal(once.tokens, again.tokens) and np.array_equal(once.targets, again.targets)
    later = feed.read(1, rows)
    assert len(later.tokens) != len(once.tokens) or not np.array_equal(once.targets, later.targets)


def test_a_model_of_next_words_does_not_look_ahead(scene: Path, tmp_path: Path) -> None:
    recipe = small(pretrain(Checkpoint(name=str(scene / "bare")), causal=True), epochs=6)
    report = run(config_for(scene, tmp_path / "run", recipe, None), quiet=True)
    held = report["stages"][0]["held_out"]
    assert held["after"]["perplexity"] < held["before"]["perplexity"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student").eval()
    ids = torch.randint(5, 40, (1, 9), generator=torch.Generator().manual_seed(0))
    later = ids.clone()
    later[0, 6:] = 7
    with torch.no_grad():
        one, other = model(input_ids=ids).logits, model(input_ids=later).logits
    torch.testing.assert_close(one[:, :6], other[:, :6])
    assert (one[:, 6:] - other[:, 6:]).abs().max() > 1e-3
    with pytest.raises(TutelageError, match=r"first token, which in a model of next words"):
        load_model(str(tmp_path / "run" / "student"), "classes")
    fresh = Fresh(layers=1, hidden=16, heads=2, family="distilbert", like=str(scene / "bare"))
    with pytest.raises(TutelageError, match="cannot predict the next word"):
        run(config_for(scene, tmp_path / "never", small(pretrain(fresh, causal=True)), None), quiet=True)


@pytest.fixture(scope="module")
def gpt2(scene: Path, endoftext) -> Path:
    """A tiny GPT-2 that has learnt some next words, with its own tokenizer, and a corpus that this tokenizer made."""
    endoftext.save_pretrained(scene / "gpt2")
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), endoftext.eos_token_id)
    sizes = {"vocab_size": len(endoftext), "pad_token_id": None, "n_inner": None, **ends}
    torch.manual_seed(0)
    GPT2LMHeadModel(tiny_config("gpt2", **sizes)).save_pretrained(scene / "gpt2")
    api.build_corpus(
        [str(scene / "text.txt")], str(scene / "bytes"), tokenizer=str(scene / "gpt2"), split="lines", quiet=True
    )
    report = api.pretrain(
        str(scene / "gpt2"),
        str(scene / "bytes"),
        str(scene / "gpt2-taught"),
        causal=True,
        settings=["data.length=24", "batch_size=8", "lr=0.003", "stages.*.epochs=6"],
        quiet=True,
    ).report
    held = report["stages"][0]["held_out"]
    assert held["after"]["perplexity"] < 0.7 * held["before"]["perplexity"]
    return scene / "gpt2-taught"


def test_a_small_gpt2_learns_next_words_from_a_larger_one(gpt2: Path, scene: Path, tmp_path: Path) -> None:
    data = Instances(packing="packed", length=24)
    objective = [SoftLabels(temperature=2.0), HardLabels()]
    stage = Stage(name="distill", data=data, objective=objective, lr=3e-3, batch_size=8, epochs=4, select="last")
    student = Fresh(layers=2, hidden=16, heads=2)
    recipe = Recipe(method="next", title="Next words", paper="none", student=student, stages=[stage])
    config = RunConfig(recipe=recipe, teacher=str(gpt2), corpus=str(scene / "bytes"), out=str(tmp_path / "run"))
    report = run(config, quiet=True)
    held, logged = report["stages"][0]["held_out"], report["stages"][0]["losses"]
    for term in ("soft_labels", "hard_labels"):
        assert held["after"][term] < held["before"][term] and logged[term][-1][1] < logged[term][0][1]
    assert report["student"]["shape"] == "2 layers x 16, 2 heads, intermediate 128"
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "It continues text" in card and "AutoModelForCausalLM" in card

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    end = tokenizer.eos_token_id
    assert type(model) is GPT2LMHeadModel and model.config.use_cache
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (end, end, end)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert "lm_head.weight" not in load_file(tmp_path / "run" / "student" / "model.safetensors")
    ids = torch.randint(5, 40, (1, 9), generator=torch.Generator().manual_seed(0))
    later = ids.clone()
    later[0, 6:] = 7
    with torch.no_grad():
        one, other = model(input_ids=ids).logits, model(input_ids=later).logits
    torch.testing.assert_close(one[:, :6], other[:, :6])
    assert (one[:, 6:] - other[:, 6:]).abs().max() > 1e-3
    prompt = tokenizer(["word1 word2"], return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


def test_a_gpt2_of_any_size_goes_on_learning_and_lends_its_layers(gpt2: Path, scene: Path, tmp_path: Path) -> None:
    settings = ["data.length=24", "batch_size=8", "stages.*.max_steps=4"]
    corpus = str(scene / "bytes")
    report = api.pretrain(
        str(gpt2),
        corpus,
        str(tmp_path / "new"),
        student="layers=1,hidden=16,heads=2",
        causal=True,
        settings=settings,
        quiet=True,
    ).report
    assert report["student"]["shape"] == "1 layers x 16, 2 heads, intermediate 128"
    data = Instances(packing="segments", length=24)
    terms = [Hidden(), AttentionScores(), SoftLabels()]
    stage = Stage(name="distill", data=data, objective=terms, lr=3e-3, batch_size=8, max_steps=20, select="last")
    copied = Recipe(method="copy", title="Copy", paper="none", student=Copied(layers=2), stages=[stage])
    report = run(RunConfig(recipe=copied, teacher=str(gpt2), corpus=corpus, out=str(tmp_path / "copy")), quiet=True)
    held = report["stages"][0]["held_out"]
    assert all(held["after"][term] < held["before"][term] for term in ("hidden", "attention_scores"))
    # Another family with its tokens, and it with another family's.
    for family, like, where in (("bert", str(gpt2), corpus), ("gpt2", str(scene / "bare"), str(scene / "corpus"))):
        fresh = Fresh(layers=1, hidden=16, heads=2, intermediate=24, family=family, like=like)
        recipe = small(pretrain(fresh, causal=True), epochs=1)
        run(RunConfig(recipe=recipe, corpus=where, out=str(tmp_path / family)), quiet=True)
        student = AutoModelForCausalLM.from_pretrained(tmp_path / family / "student")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / family / "student")
        assert student.config.model_type == family
        assert student.config.pad_token_id == tokenizer.pad_token_id
        assert student.config.eos_token_id == (tokenizer.eos_token_id if family == "bert" else None)


def test_what_a_gpt2_cannot_is_refused_in_one_line(gpt2: Path, scene: Path, tmp_path: Path) -> None:
    def refused(message: str, recipe: Recipe, corpus: str = "bytes") -> None:
        config = RunConfig(recipe=recipe, teacher=str(gpt2), corpus=str(scene / corpus), out=str(tmp_path / "never"))
        with pytest.raises(TutelageError, match=message) as caught:
            run(config, quiet=True)
        assert "\n" not in str(caught.value) and not (tmp_path / "never").exists()

    start = Checkpoint(name=str(gpt2))
    refused("is causal and cannot predict masked words", small(pretrain(start)))
    refused("is causal and cannot predict masked words", small(distilbert_general(layers=2)))
    refused("no weights of its own", small(pretrain(start, causal=True, head_only=True)))
    refused("puts no token between the texts", small(tinybert().model_copy(update={"student": STUDENT})))
    refused("another tokenizer", small(pretrain(start, causal=True)), "corpus")
    far = tiny_config("gpt2", pad_token_id=44, eos_token_id=44)
    with pytest.raises(TutelageError, match="numbers its positions from its padding token, here 44"):
        from_sizes(Fresh(layers=1, family="roberta"), far, {})
    masked = small(pretrain(Fresh(layers=1, hidden=16, heads=2, family="bert", like=str(gpt2))))
    refused("has no mask token", masked)


def test_keys_and_values_are_not_kept_while_a_model_learns_or_is_asked(gpt2: Path, monkeypatch) -> None:
    from transformers.models.gpt2 import modeling_gpt2

    from tutelage.knowledge.needs import Needs
    from tutelage.knowledge.signals import Tap

    def kept(*args: object, **kwargs: object) -> None:
        raise AssertionError("keys and values were kept")

    monkeypatch.setattr(modeling_gpt2, "DynamicCache", kept)
    model = AutoModelForCausalLM.from_pretrained(gpt2 / "student").eval()
    inputs = {"input_ids": torch.full((1, 4), 7), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    for needs in (Needs(logits=True), Needs(hidden=frozenset({4}))):
        tap = Tap(model, needs)
        tap(inputs, torch.arange(4))
        tap.close()
    with pytest.raises(AssertionError, match="were kept"):
        model(**inputs)


def test_a_run_folder_is_a_model(scene: Path, tmp_path: Path) -> None:
    """The output of one run on a corpus is the start of another."""
    recipe = small(pretrain(Checkpoint(name=str(scene / "bare"))), epochs=1)
    run(config_for(scene, tmp_path / "first", recipe, None), quiet=True)
    again = small(pretrain(Checkpoint(name=str(tmp_path / "first"))), epochs=1)
    report = run(config_for(scene, tmp_path / "second", again, None), quiet=True)
    first = json.loads((tmp_path / "first" / "report.json").read_text())
    assert report["stages"][0]["held_out"]["before"] == pytest.approx(first["stages"][0]["held_out"]["after"])


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(scene: Path, tmp_path: Path) -> None:
    recipe = small(tinybert().model_copy(update={"student": STUDENT}))
    run(config_for(scene, tmp_path / "whole", recipe), quiet=True)
    (tmp_path / "cut.yaml").write_text(to_yaml(config_for(scene, tmp_path / "cut", recipe)))
    assert in_process(run_of, tmp_path / "cut.yaml", False, 9) == KILLED
    in_process(run_of, tmp_path / "cut.yaml", True)
    for name in ("student/model.safetensors", "projections.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "cut")]
    assert reports[0]["stages"][0]["held_out"] == reports[1]["stages"][0]["held_out"]


def one_after_the_other(paths: list[Path]) -> None:
    for path in paths:
        run_of(path)


def test_two_processes_give_the_single_processes_student_and_go_on_to_a_second_run(scene: Path, tmp_path: Path) -> None:
    recipe = small(distilbert_general(layers=2), epochs=1)
    single = run(config_for(scene, tmp_path / "single", recipe, "masked"), quiet=True)
    paths = []
    for name in ("two", "again"):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(to_yaml(config_for(scene, tmp_path / name, recipe, "masked")))
    in_processes(2, one_after_the_other, paths)
    one = load_file(tmp_path / "single" / "student" / "model.safetensors")
    for name in ("two", "again"):
        other = load_file(tmp_path / name / "student" / "model.safetensors")
        assert_alike(one, other, within=2e-5)  # as test_common has it for tasks
        report = json.loads((tmp_path / name / "report.json").read_text())
        held = [stage["held_out"]["after"]["hard_labels"] for stage in (report["stages"][0], single["stages"][0])]
        assert held[0] == pytest.approx(held[1], rel=1e-3)


def test_mistakes_end_in_one_line(scene: Path, tmp_path: Path, tokenizer) -> None:
    recipe = small(tinybert().model_copy(update={"student": STUDENT}))

    def refused(message: str, config: RunConfig) -> None:
        with pytest.raises(TutelageError, match=message) as caught:
            run(config, quiet=True)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "never").exists()

    config = config_for(scene, tmp_path / "never", recipe)
    refused("give corpus FOLDER", config.model_copy(update={"corpus": None}))
    refused("needs a teacher", config.model_copy(update={"teacher": None}))
    for name in ("train", "candidates", "unlabeled"):
        refused(f"{name}.* is for the texts of a task", config.model_copy(update={"data": DataConfig(**{name: "x"})}))
    refused(r"settings stages\.general\.data\.length", config.model_copy(update={"data": DataConfig(max_length=8)}))
    refused("for the texts of a task", config.model_copy(update={"teacher_store": "auto"}))
    refused("carry out stage general first", config.model_copy(update={"recipe": kd()}))
    other = tokenizer.__class__(vocab={word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "x"])})
    tiny_model().save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    refused("another tokenizer", config.model_copy(update={"teacher": str(tmp_path / "other")}))
    long = recipe.stages[0].model_copy(update={"data": Instances(length=64)})
    refused(
        "beyond the model's 40 positions",
        config.model_copy(update={"recipe": recipe.model_copy(update={"stages": [long]})}),
    )
    with pytest.raises(TutelageError, match="no stage on a corpus"):
        method_recipe("kd").part("general")
    with pytest.raises(ValueError, match="two runs"):
        RunConfig(recipe=tinybert())
