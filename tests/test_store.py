"""The store: what is read is what a running teacher would have said; what is wrong is refused."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import examples, tiny_model
from processes import KILLED, in_process

from tutelage.anatomy import shape_of
from tutelage.artifacts import sole_writer
from tutelage.data.batches import Known, step_batches
from tutelage.data.examples import encode
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Cut, Neurons, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store import writing
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.knowledge.store.writing import compact
from tutelage.objectives.hidden import FirstToken, Hidden
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.recipe import Stage
from tutelage.tasks import KINDS
from tutelage.teachers.knowledge import describe
from tutelage.teachers.stored import StoredTeacher, write_store
from tutelage.teachers.teacher import LiveTeacher
from tutelage.training import loop

ABOUT = {
    "task": "toy",
    "teacher": "tiny",
    "teacher_fingerprint": "t" * 16,
    "tokenizer_fingerprint": "k" * 16,
    "precision": "no",
    "max_length": 32,
}
COUNT, WIDTH, LONGEST = 120, 32, 32
ENCODINGS = {
    "logits": [SoftLabels()],
    "first token": [FirstToken()],
    "dense": [HiddenKnowledge(keep="2l_6t_1h")],
    "magnitude, a bit each": [HiddenKnowledge(keep="2l_6t_0.3h")],
    "magnitude, listed": [HiddenKnowledge(keep="1l_4t_0.05h")],
    "uniform": [HiddenKnowledge(keep="2l_6t_0.3h", neurons_by="uniform", tokens_by="left")],
    "random": [HiddenKnowledge(keep="2l_6t_0.3h", neurons_by="random", tokens_by="random")],
    "all tokens": [HiddenKnowledge(keep="alll_allt_0.3h"), SoftLabels()],
    "all": [Hidden(), HiddenKnowledge(keep="2l_5t_0.2h"), SoftLabels(temperature=3)],
    "zero_fill": [HiddenKnowledge(keep="2l_6t_0.3h", width_target="zero_fill", score="logit", scored_by="uniform")],
}


@pytest.fixture(autouse=True)
def a_line_for_every_step(monkeypatch) -> None:
    monkeypatch.setattr(loop, "LOG_SECONDS", -1.0)


@pytest.fixture(scope="module")
def scene(tokenizer):
    """Texts (pairs, with two [SEP]), a random teacher."""
    data = examples(COUNT, 1, pairs=True)
    return data, encode(data, tokenizer, LONGEST), tiny_model(seed=5)


def objective_for(terms, teacher, layers: int = 2, hidden: int = 32) -> Objective:
    torch.manual_seed(0)
    student = tiny_model(seed=1, layers=layers, hidden=hidden)
    return Objective(terms, KINDS["classification"], shape_of(student.config), shape_of(teacher.config))


def make(folder: Path, scene, scheme_or_needs, dtype="float32", **more) -> Store:
    data, encoded, model = scene
    scheme = scheme_or_needs
    if isinstance(scheme, Needs):
        scheme = Scheme.covering(scheme | Needs(logits=True), 2, WIDTH, LONGEST, dtype)
    settings = {"max_tokens": 600, **more}
    accelerator = Accelerator(cpu=True)
    evaluation = {"dev": ("f" * 16, torch.randn(3, 2))}
    return write_store(
        folder,
        scheme,
        model,
        data.ids,
        encoded,
        accelerator,
        ABOUT,
        evaluation,
        lambda p: p.mkdir(exist_ok=True),
        **settings,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".bin"}


def students(scene, terms, source, steps: int = 50, max_tokens: int = 1):
    """Train for some steps; returns losses and weights."""
    _, encoded, teacher = scene
    objective = objective_for(terms, teacher)
    student = tiny_model(seed=1, layers=2)
    lesson = loop.DistillationModule(student, objective)
    # One example at a time: the teacher then computes what the store's writer computed, to the bit.
    stage = Stage(
        name="s",
        objective=terms,
        epochs=9,
        max_steps=steps,
        batch_size=8,
        lr=1e-3,
        select="last",
        max_tokens=max_tokens,
    )
    log = loop.train(stage, lesson, source(objective.plan.teacher_needs), Known(encoded), Accelerator(cpu=True), 0)
    lesson.close()
    return log.losses, student.state_dict()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_stored_is_live_to_the_bit(encoding: str, scene, tmp_path: Path) -> None:
    """Single-precision store: the same losses and the same bits of every weight."""
    steps = 18 if encoding == "dense" else 6  # 15 steps are an epoch
    terms = ENCODINGS[encoding]
    data, encoded, teacher = scene
    needs = objective_for(terms, teacher).plan.teacher_needs
    store = make(tmp_path / "store", scene, needs, max_tokens=1)
    rows = store.locate(data.ids, encoded)
    live = students(scene, terms, lambda needs: LiveTeacher(teacher, needs, None, Accelerator(cpu=True)), steps)
    stored = students(scene, terms, lambda needs: StoredTeacher(store, rows, needs), steps)
    assert live[0] == stored[0] and all(len(values) == steps for values in live[0].values())
    for name, weights in live[1].items():
        assert torch.equal(weights, stored[1][name]), name


@pytest.mark.parametrize(
    ("dtype", "loss_within", "weights_within"),
    [("float16", 1e-3, 0.02), ("bfloat16", 2e-3, 0.05), ("int8", 5e-3, 0.08)],
)
def test_narrower_types_come_close(
    dtype: str, loss_within: float, weights_within: float, scene, tmp_path: Path
) -> None:
    """Mean loss of 50 steps; distance of the weights as a share of how far training has moved them."""
    terms = [HiddenKnowledge(keep="2l_6t_0.3h")]
    data, encoded, teacher = scene
    needs = objective_for(terms, teacher).plan.teacher_needs
    store = make(tmp_path / "store", scene, needs, dtype)
    rows = store.locate(data.ids, encoded)
    whole = {"max_tokens": 4096}
    live = students(scene, terms, lambda needs: LiveTeacher(teacher, needs, None, Accelerator(cpu=True)), **whole)
    stored = students(scene, terms, lambda needs: StoredTeacher(store, rows, needs), **whole)
    ours, theirs = (np.mean([loss for _, loss in side[0]["hidden_knowledge"]]) for side in (stored, live))
    assert ours == pytest.approx(theirs, rel=loss_within)
    start = tiny_model(seed=1, layers=2).state_dict()
    moved = torch.cat([(live[1][n] - start[n]).flatten() for n in start]).norm()
    apart = torch.cat([(live[1][n] - stored[1][n]).flatten() for n in start]).norm()
    assert 0 < apart < weights_within * moved


SCHEMES = {
    "logits": Scheme(classes=2, hidden=WIDTH, longest=LONGEST),
    "dense": Scheme(classes=2, hidden=WIDTH, longest=LONGEST, columns=((2, None), (4, None)), tokens=Tokens(count=10)),
    "attention": Scheme(
        classes=0,
        hidden=WIDTH,
        longest=LONGEST,
        columns=((0, 1), (2, 2), (4, 4)),
        tokens=Tokens(count=7, by="attention", separators=False),
        neurons=Neurons(count=9),
    ),
    "listed": Scheme(
        classes=2,
        hidden=WIDTH,
        longest=300,
        columns=((3, None),),
        tokens=Tokens(count=2),
        neurons=Neurons(count=1),
    ),
    "static": Scheme(
        classes=2,
        hidden=WIDTH,
        longest=LONGEST,
        columns=((3, None),),
        tokens=Tokens(count=2),
        neurons=Neurons(count=5, by="random"),
    ),
    "whole": Scheme(
        classes=2,
        hidden=WIDTH,
        longest=LONGEST,
        columns=tuple((layer, None) for layer in range(5)),
        tokens=Tokens(),
        scorers=((1, "logit"), (2, "probability"), (4, "probability")),
    ),
    "whole, few neurons": Scheme(
        classes=2,
        hidden=WIDTH,
        longest=LONGEST,
        columns=((1, None), (4, None)),
        tokens=Tokens(),
        neurons=Neurons(count=9),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", SCHEMES)
def test_size_is_the_formula_to_the_byte(name: str, dtype: str, scene, tmp_path: Path) -> None:
    scheme = SCHEMES[name].model_copy(update={"dtype": dtype})
    store = make(tmp_path / "store", scene, scheme)
    b = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[dtype]
    d, w = len(scheme.columns), scheme.neurons.count or WIDTH
    x = 0 if scheme.neurons.count is None or scheme.neurons.by != "magnitude" else min(WIDTH // 8, 2 * w)
    vector = w * b + x + (2 if dtype == "int8" else 0)
    lengths = scene[1].lengths
    if not d:
        expected = 4 * scheme.classes * COUNT
    elif scheme.tokens.whole:
        expected = sum(
            4 * scheme.classes + 4 * len(scheme.scorers) * n + -(-n // 8) + d * n * vector for n in lengths.tolist()
        )
    else:
        p = 1 if scheme.longest <= 256 else 2
        expected = COUNT * (4 * scheme.classes + p + d * scheme.tokens.count * (vector + p))
    on_disk = sum(path.stat().st_size for path in (tmp_path / "store").glob("shard-*.bin"))
    assert on_disk == expected == store.manifest.bytes == scheme.record_bytes(lengths).sum()
    assert (tmp_path / "store" / "index.bin").stat().st_size == 20 * COUNT


def test_the_sizes_that_the_specification_tells() -> None:
    """BERT-base, 128 tokens, no logits; each has a byte for the count of tokens more than the table's rows without it."""
    common = {"classes": 0, "hidden": 768, "longest": 128}
    five = tuple((layer, None) for layer in range(5))
    ten = Tokens(count=10)

    def size(**more) -> int:
        return int(Scheme(**common, **more).record_bytes(np.array([128]))[0]) - 1

    tenth, one = Neurons(count=77), five[:1]
    assert size(columns=five, tokens=ten) == 76_850
    assert size(columns=one, tokens=ten) == 15_370
    assert size(columns=one, tokens=Tokens(count=1)) == 1_537
    assert size(columns=one, tokens=ten, neurons=tenth) == 2_510
    assert size(columns=one, tokens=ten, neurons=Neurons(count=77, by="uniform")) == 1_550
    assert size(columns=one, tokens=ten, neurons=tenth, dtype="int8") == 1_760
    three = Scheme(classes=3, hidden=768, longest=128, columns=one, tokens=ten, neurons=tenth)
    assert three.record_bytes(np.array([128]))[0] == 2_523


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "keep",
    ["1l_10t_0.1h", "2l_3t_0.3h", "2l_1t_1h", "all_tokens", "random", "left"],
)
def test_a_cut_of_a_larger_store_is_the_store_written_directly(keep: str, dtype: str, scene, tmp_path: Path) -> None:
    _, _, teacher = scene
    common = {"tokens_by": keep} if keep in ("random", "left") else {}
    neurons = {"neurons_by": "uniform"} if keep in ("random", "left") else {}
    amount = {"all_tokens": "2l_allt_0.2h", "random": "2l_4t_0.2h", "left": "2l_4t_0.2h"}.get(keep, keep)
    needs = objective_for([HiddenKnowledge(keep=amount, **common, **neurons)], teacher).plan.teacher_needs
    small = Scheme.covering(needs | Needs(logits=True), 2, WIDTH, LONGEST, dtype)
    direct = make(tmp_path / "direct", scene, small)
    whole = SCHEMES["whole"].model_copy(
        update={"dtype": dtype, "scorers": tuple((layer, "probability") for layer in range(1, 5))}
    )
    compact(make(tmp_path / "whole", scene, whole), tmp_path / "from-whole", small)
    assert files_of(tmp_path / "from-whole") == files_of(tmp_path / "direct")
    if small.tokens.count is None or neurons:
        return
    middle = small.model_copy(
        update={
            "tokens": small.tokens.model_copy(update={"count": 12}),
            "neurons": Neurons(count=20) if small.neurons.count else Neurons(),
        }
    )
    compact(make(tmp_path / "middle", scene, middle), tmp_path / "from-middle", small)
    assert files_of(tmp_path / "from-middle") == files_of(tmp_path / "direct")
    assert direct.manifest.scheme == small


def test_any_batches_of_the_writer_give_the_same_store(scene, tmp_path: Path, monkeypatch) -> None:
    for name in ("attention", "whole"):
        scheme = SCHEMES[name].model_copy(update={"dtype": "float32"})
        one = make(tmp_path / f"{name}-1", scene, scheme, max_tokens=1)
        monkeypatch.setattr(writing, "SHARD_EXAMPLES", 50)  # and other shards
        many = make(tmp_path / f"{name}-2", scene, scheme, max_tokens=900)
        monkeypatch.undo()
        assert len(many.manifest.shards) == 3
        batch = next(iter(step_batches(scene[1].take(np.arange(40, 90)), np.arange(40, 90), 0, 1, 10**6)))
        needs = Needs(cuts=frozenset(Cut(layer, scheme.tokens, scheme.neurons, by) for layer, by in scheme.columns))
        arguments = (needs, batch.mask, batch.separators, batch.keys)
        ours, theirs = one.signals(batch.rows.numpy(), *arguments), many.signals(batch.rows.numpy(), *arguments)
        for cut, part in ours.cuts.items():
            torch.testing.assert_close(part.values, theirs.cuts[cut].values, atol=1e-6, rtol=1e-6)
            assert part.positions is None or torch.equal(part.positions, theirs.cuts[cut].positions)


@pytest.mark.parametrize("name", ["logits", "dense", "whole"])
def test_logits_alone_are_those_of_the_records(name: str, scene, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "SHARD_EXAMPLES", 50)
    store = make(tmp_path / "store", scene, SCHEMES[name])
    order = np.arange(COUNT)[::-1].copy()
    batch = next(iter(step_batches(scene[1].take(order), order, 0, 1, 10**6)))
    rows = batch.rows.numpy()
    known = store.signals(rows, Needs(logits=True), batch.mask, batch.separators, batch.keys).logits
    assert torch.equal(store.logits(rows), known)
    live = LiveTeacher(scene[2], Needs(logits=True), None, Accelerator(cpu=True))
    torch.testing.assert_close(known, live.signals(batch).logits, atol=1e-5, rtol=1e-4)
    live.close()


def write(out: Path, scene, kill_at: int | None) -> None:
    """Write a store; with ``kill_at`` until SIGKILL after that many batches."""
    writing.SHARD_EXAMPLES = 16
    calls = 0

    def advance(count: int) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    make(out, scene, SCHEMES["whole"], advance=advance, max_tokens=100)


def test_a_killed_writer_goes_on_to_the_same_bytes(scene, tmp_path: Path) -> None:
    for name, stops in (("whole", [None]), ("cut", [9, 12, None])):
        for stop in stops:
            assert in_process(write, tmp_path / name, scene, stop) == (KILLED if stop else None)
            assert (tmp_path / name).exists() == (not stop)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "cut")]
    for manifest in manifests:  # dev's logits are drawn at random in this test
        del manifest["evaluation_sha256"], manifest["sha256"]
    assert manifests[0] == manifests[1]


def test_a_writer_killed_at_its_very_end_has_finished(scene, tmp_path: Path) -> None:
    make(tmp_path / "store", scene, SCHEMES["dense"])
    before = files_of(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "store.partial")
    make(tmp_path / "store", scene, SCHEMES["dense"])
    assert files_of(tmp_path / "store") == before and not (tmp_path / "store.partial").exists()
    (tmp_path / "store").rename(tmp_path / "other.partial")
    with pytest.raises(TutelageError, match="was begun for another store"):
        make(tmp_path / "other", scene, SCHEMES["whole"])
    with sole_writer(tmp_path / "third"), pytest.raises(TutelageError, match="another process writes"):
        make(tmp_path / "third", scene, SCHEMES["dense"])
    assert not (tmp_path / "third.partial").exists()


def test_what_does_not_fit_is_refused(scene, tokenizer, tmp_path: Path, monkeypatch) -> None:
    data, encoded, _ = scene
    monkeypatch.setattr(writing, "SHARD_EXAMPLES", 50)
    store = make(tmp_path / "store", scene, SCHEMES["dense"])
    store.verify()
    store.check("t" * 16, "k" * 16, "no")
    store.check(None, "k" * 16, "no")
    for arguments, words in [
        (("x" * 16, "k" * 16, "no"), "another teacher"),
        (("t" * 16, "x" * 16, "no"), "another tokenizer"),
        (("t" * 16, "k" * 16, "bf16"), "mixed_precision=no"),
    ]:
        with pytest.raises(TutelageError, match=words):
            store.check(*arguments)
    texts = list(data.texts)
    texts[7] += " word1"
    edited = replace(data, texts=texts)
    with pytest.raises(TutelageError, match=r"1 of 120 examples .* 'train/7'"):
        store.locate(edited.ids, encode(edited, tokenizer, LONGEST))
    turned = data.take(np.arange(COUNT)[::-1])
    with pytest.raises(TutelageError, match="re-ordered"):
        store.locate(data.ids, encode(turned, tokenizer, LONGEST))
    assert store.locate(turned.ids, encode(turned, tokenizer, LONGEST)).tolist() == list(range(COUNT))[::-1]
    more = examples(COUNT + 1, 1, pairs=True)
    with pytest.raises(TutelageError, match=r"lacks 1 of 121 .* 'train/120'"):
        store.locate(more.ids, encode(more, tokenizer, LONGEST))
    with pytest.raises(TutelageError, match="examples"):
        store.locate(data.ids, encode(data, tokenizer, 8))
    with pytest.raises(TutelageError, match="already exists"):
        make(tmp_path / "store", scene, SCHEMES["dense"])
    with pytest.raises(TutelageError, match="the same id"):
        make(tmp_path / "twice", (replace(data, ids=["a"] * COUNT), encoded, scene[2]), SCHEMES["dense"])


def test_a_store_says_in_words_what_it_holds(scene, tmp_path: Path) -> None:
    one = describe(make(tmp_path / "one", scene, SCHEMES["listed"].model_copy(update={"tokens": Tokens(count=1)})))
    assert (one.precision, one.keeps) == (
        "float32",
        "2 logits; hidden states of layer 3 at 1 token by left, 1 neuron by magnitude, in float16",
    )
    two = describe(make(tmp_path / "two", scene, SCHEMES["dense"])).keeps
    assert "layers 2, 4 at 10 tokens by left, all neurons" in two


@pytest.mark.parametrize("name", ["shard-00001.bin", "index.bin", "evaluation.safetensors", "manifest.json"])
def test_a_flipped_byte_and_a_cut_file_are_refused(name: str, scene, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "SHARD_EXAMPLES", 50)
    make(tmp_path / "store", scene, SCHEMES["dense"])
    path = tmp_path / "store" / name
    content = bytearray(path.read_bytes())
    place = content.index(b'"bytes": ') + 9 if name == "manifest.json" else len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(TutelageError, match=r"checksum of .* differs|damaged"):
        Store(tmp_path / "store").verify()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(TutelageError, match=r"damaged|cannot be read"):
        Store(tmp_path / "store").verify()
    path.unlink()
    with pytest.raises(TutelageError, match=r"damaged|not a teacher store"):
        Store(tmp_path / "store").verify()


def test_what_a_store_lacks_is_said(scene, tmp_path: Path) -> None:
    _, _, teacher = scene
    store = make(tmp_path / "store", scene, SCHEMES["attention"])

    def lacks(*terms) -> str | None:
        return store.scheme.lacks(objective_for(list(terms), teacher, layers=4).plan.teacher_needs)

    good = HiddenKnowledge(keep="1l_5t_0.2h", top=4)
    assert lacks(good) is None
    assert lacks(good, SoftLabels()) == "it has no logits"
    assert "no layer 3" in lacks(HiddenKnowledge(keep="1l_5t_0.2h", top=3))
    assert "7 tokens by attention without [SEP], not 8" in lacks(HiddenKnowledge(keep="1l_8t_0.2h", top=4))
    assert "not 5 tokens by attention" in lacks(good.model_copy(update={"separators": True}))
    assert "9 neurons by magnitude, not 16" in lacks(HiddenKnowledge(keep="1l_5t_0.5h", top=4))
    assert "by uniform" in lacks(good.model_copy(update={"neurons_by": "uniform"}))
    with pytest.raises(TutelageError, match="cannot be reduced to this"):
        compact(store, tmp_path / "x", SCHEMES["dense"])
    with pytest.raises(TutelageError, match="not a teacher store"):
        Store(tmp_path / "nothing")
    os.makedirs(tmp_path / "begun.partial")
    with pytest.raises(TutelageError, match="not finished"):
        Store(tmp_path / "begun")
