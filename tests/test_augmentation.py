"""Word candidates and the variants drawn from them: what is replaced, by what, how often, and that it is always the same."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertTokenizerFast, PreTrainedTokenizerFast

from tutelage.data.augmentation.candidates import Candidates
from tutelage.data.augmentation.propose import STOP_WORDS, hashes, propose
from tutelage.data.augmentation.variants import Augmentation, variants
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.examples import Examples
from tutelage.errors import TutelageError

NOUNS, VERBS, PLAIN = map(
    str.split,
    (
        "river garden letter window teacher market winter engine harbour forest castle doctor",
        "opens carries follows paints repairs finds keeps sells crosses reaches",
        "green quiet early broken narrow famous slow bright wooden distant",
    ),
)
PIECES = ["lamp", "##light", "moon", "snow", "##fall", "over", "##s", "sun", "##set"]
SMALL = ["the", "a", "of", "is", "and", "to", "with", "don", "t", "s", "not", *"'\",.-!?", "1874", "7"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = list(dict.fromkeys([*SPECIAL, *SMALL, *NOUNS, *VERBS, *PLAIN, *PIECES]))
LONGEST = 40

TEXTS = [
    "The quiet teacher opens a narrow window .",
    "A famous doctor crosses the river and finds the broken castle !",
    "The engine is slow , the harbour is distant .",
    "Lamplight and snowfall : the garden keeps the early winter .",
    "The market sells a wooden letter , don't it ?",
    'He said\t"the  river"  is 7 km\nlong - the RIVER and the River .',
]


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)}, do_lower_case=True)


def language_model(size: int, **more) -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=LONGEST,
        **more,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> BertForMaskedLM:
    return language_model(len(VOCABULARY) + 3)  # a table of words is often padded


@pytest.fixture(scope="module")
def vectors() -> WordVectors:
    words = [*NOUNS, "lamplight", "moonlight", "sunset", "snowfall", "the", "of", "New York", "3d"]
    return WordVectors(words, np.random.default_rng(0).normal(size=(len(words), 8)), "toy")


@pytest.fixture(scope="module")
def candidates(model, tokenizer, vectors) -> Candidates:
    return propose(TEXTS, model, tokenizer, vectors, proposer="toy", k=6)


def toy(texts, pairs=None, labels=None) -> Examples:
    return Examples(
        [f"train/{i}" for i in range(len(texts))], texts, pairs, np.arange(len(texts)) if labels is None else labels
    )


def message(call, *parts):
    with pytest.raises(TutelageError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def words_of(text):
    """The words and what lies between them, alternately."""
    return re.split(r"([^\W\d_]+)", text)


# ------------------------------------------------------------------------------------------------------------ candidates


def test_candidates_are_content_words_and_never_the_word_itself(candidates) -> None:
    for text in TEXTS:
        table = candidates.of(text)
        wanted = {word for word in words_of(text)[1::2] if word.casefold() not in STOP_WORDS}
        assert set(table) == wanted  # a word that the tokenizer does not know is one piece, too
        for word, found in table.items():
            assert len(found) == len(set(found)) == 6
            for other in found:
                assert other.isalpha() and other.casefold() != word.casefold() and other not in STOP_WORDS


def test_words_of_several_pieces_have_the_nearest_by_word_vectors(model, tokenizer, vectors, candidates) -> None:
    text = TEXTS[3]
    assert (
        candidates.of(text)["Lamplight"]
        == vectors.neighbours(
            ["lamplight"], 6, np.array([w not in ("the", "of", "New York", "3d") for w in vectors.words])
        )[0]
    )
    without = propose([text], model, tokenizer, proposer="toy", k=6)
    assert "Lamplight" not in without.of(text) and without.of(text)["garden"] == candidates.of(text)["garden"]
    assert without.manifest.vectors is None and candidates.manifest.vectors == "toy"


@pytest.mark.parametrize("context", ["masked_only", "masked_plus_original"])
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 60, None])
def test_candidates_are_those_of_one_sentence_at_a_time(model, tokenizer, context, filtered, max_tokens) -> None:
    """Written anew from the paper: one masked text, scores of all words at all places, sorted; equal up to ties."""
    k = 6
    table = propose(
        TEXTS, model, tokenizer, proposer="toy", k=k, context=context, filtered=filtered, max_tokens=max_tokens
    )
    compared = 0
    for text in TEXTS:
        found = table.of(text)
        for match in re.finditer(r"[^\W\d_]+", text):
            word = match.group()
            if word.casefold() in STOP_WORDS or word.lower() not in VOCABULARY or text.count(word) > 1:
                continue
            masked = text[: match.start()] + "[MASK]" + text[match.end() :]
            inputs = tokenizer(*([masked] if context == "masked_only" else [masked, text]), return_tensors="pt")
            place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
            with torch.no_grad():
                scores = model(**inputs).logits[0, place]
            ranked = scores.argsort(descending=True).tolist()
            if filtered:
                usable = [
                    i
                    for i in ranked
                    if i < len(VOCABULARY)
                    and VOCABULARY[i].isalpha()
                    and VOCABULARY[i] not in STOP_WORDS
                    and VOCABULARY[i] != word.lower()
                ]
                best = usable[:k]
            else:
                best = [i for i in ranked[:k] if i < len(VOCABULARY) and not VOCABULARY[i].startswith("##")]
            ours = [VOCABULARY.index(w) for w in found.get(word, [])]
            torch.testing.assert_close(scores[ours], scores[best], rtol=0, atol=1e-4)
            compared += 1
    assert compared > 20


def test_unfiltered_takes_the_ranking_as_it_comes(model, tokenizer) -> None:
    table = propose(TEXTS, model, tokenizer, proposer="toy", k=500, filtered=False)
    found = table.of(TEXTS[0])["teacher"]
    assert set(VOCABULARY) - set(found) == {word for word in VOCABULARY if word.startswith("##")}


def test_filter_goes_further_down_the_ranking(model, tokenizer) -> None:
    table = propose(TEXTS, model, tokenizer, proposer="toy", k=500)
    content = {word for word in VOCABULARY if word.isalpha() and word not in STOP_WORDS}
    assert set(table.of(TEXTS[0])["teacher"]) == content - {"teacher"}


def test_each_place_of_each_text_is_read_once(model, tokenizer) -> None:
    seen: list[tuple[int, ...]] = []

    def note(module, arguments, inputs):
        seen.extend(map(tuple, inputs["input_ids"].tolist()))

    hook = model.bert.register_forward_pre_hook(note, with_kwargs=True)
    heard: list[tuple[int, int]] = []
    propose([*TEXTS, *TEXTS[::-1]], model, tokenizer, proposer="toy", advance=lambda *counts: heard.append(counts))
    hook.remove()
    content = [word.lower() for text in TEXTS for word in words_of(text)[1::2] if word.lower() not in STOP_WORDS]
    places = len(content) - content.count("lamplight") - content.count("snowfall")
    assert len(seen) == len(set(seen)) == places
    assert sum(count for count, _ in heard) == places and {total for _, total in heard} == {places}


def test_the_order_of_the_texts_changes_nothing(model, tokenizer, vectors, candidates) -> None:
    other = propose([*TEXTS[::-1], TEXTS[2]], model, tokenizer, vectors, proposer="toy", k=6)
    assert other.manifest == candidates.manifest


@pytest.mark.parametrize("context", ["masked_only", "masked_plus_original"])
def test_longer_than_the_model(model, tokenizer, vectors, context) -> None:
    text = " ".join(["river", "of"] * 40) + " garden lamplight"
    table = propose([text, "a river"], model, tokenizer, vectors, proposer="toy", context=context)
    row = int(table.locate([text])[0])
    words = [text[slice(*span)] for span in table.spans[slice(*table.offsets[row : row + 2])]]
    # [CLS], 38 pieces, [SEP]: every other is "river"; the last word has word vectors.
    assert words == ["river"] * 19 + ["lamplight"]
    new, _ = variants(toy([text]), table, Augmentation(variants=2, probability=1), 0)
    assert new.texts[0].split()[40:80] == ["river", "of"] * 20
    alone = propose(["a river"], model, tokenizer, vectors, proposer="toy", context=context)
    assert alone.of("a river") == table.of("a river")


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_other_tokenizers(kind) -> None:
    """Words are the same however a tokenizer marks spaces and whatever it leaves together."""
    texts = [
        "the river (Café) , opens the window's green",
        "Quiet river opens the forest2 green river",
        "river of opens",
    ]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*texts * 3, " a a river opens green forest window quiet garden" * 3], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )
    words = WordVectors(["café", "window", "quiet", "castle"], np.eye(4) + 0.1)
    table = propose(texts, language_model(len(fast)), fast, words, proposer="toy", k=3)
    found = [table.of(text) for text in texts]
    glued = {"window"} if kind == "metaspace" else set()  # "window's" is one word there
    assert set(found[0]) == {"river", "Café", "opens", "window", "green"} - glued
    assert set(found[1]) == {"Quiet", "river", "opens", "green"}
    # Without the mark of a space before it a piece may as well be the rest of a word.
    assert set(found[2]) == ({"river", "opens"} if kind == "metaspace" else {"opens"})
    for word, names in [*found[0].items(), *found[1].items()]:
        assert names and all(name.isalpha() and name.casefold() != word.casefold() for name in names)
        assert len(set(names)) == len(names)


def test_every_family_of_models_proposes(tokenizer) -> None:
    from conftest import ALL_FAMILIES, tiny_config

    from tutelage.anatomy import FAMILIES

    for family in ALL_FAMILIES:
        if FAMILIES[family].causal:  # it cannot see what follows a word, and has no head for masked ones
            continue
        config = tiny_config(family, vocab_size=len(VOCABULARY))
        model = AutoModelForMaskedLM.from_config(config).eval()
        assert len(propose(TEXTS[:1], model, tokenizer, proposer=family, k=3).of(TEXTS[0])["teacher"]) == 3, family


def test_table_survives_the_disk(candidates, tmp_path) -> None:
    candidates.save(tmp_path / "table")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "candidates.safetensors",
        "manifest.json",
        "strings.json",
        "table",
    ]
    again = Candidates.load(tmp_path / "table")
    assert again.manifest == candidates.manifest
    assert [again.of(text) for text in TEXTS] == [candidates.of(text) for text in TEXTS]
    manifest = json.loads((tmp_path / "table" / "manifest.json").read_text())
    assert (manifest["k"], manifest["context"], manifest["proposer"]) == (6, "masked_only", "toy")
    assert manifest["texts"] == len(TEXTS) and manifest["words"] == len(candidates.spans)
    message(lambda: candidates.save(tmp_path / "table"), "already exists")
    message(lambda: Candidates.load(tmp_path), "not a table of candidates")


@pytest.mark.parametrize("name", ["candidates.safetensors", "strings.json", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "removed"])
def test_damaged_tables_are_refused(candidates, tmp_path, name, how) -> None:
    candidates.save(tmp_path / "table")
    path = tmp_path / "table" / name
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw[:-9] if how == "cut" else raw)
    if how == "removed":
        path.unlink()
    message(lambda: Candidates.load(tmp_path / "table"), "table")


def test_a_table_that_could_not_be_written_is_not_there(candidates, tmp_path, monkeypatch) -> None:
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tutelage.data.augmentation.candidates.write_text", fail)
    message(lambda: candidates.save(tmp_path / "table"), "cannot be written", "No space")
    assert not (tmp_path / "table").exists()
    monkeypatch.undo()
    candidates.save(tmp_path / "table")  # what was left half written is no hindrance
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_models_and_tokenizers_that_cannot_propose(model, tokenizer) -> None:
    for unfit in (model.bert, model.train()):
        message(lambda m=unfit: propose(TEXTS, m, tokenizer, proposer="toy"), "toy", "ForMaskedLM", "eval mode")
    model.eval()
    maskless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]")
    message(lambda: propose(TEXTS, model, maskless, proposer="toy"), "mask token")


def test_no_texts_and_texts_without_words(model, tokenizer) -> None:
    assert propose([], model, tokenizer, proposer="toy").manifest.texts == 0
    table = propose(["", " the of . ", "7"], model, tokenizer, proposer="toy")
    assert table.manifest.words == 0 and table.of("7") == {}
    symbols = propose(["7 °river 7river river's"], model, tokenizer, proposer="toy")
    assert list(symbols.of("7 °river 7river river's")) == ["river"] and len(symbols.spans) == 1
    assert len(variants(toy(["", "7"]), table, Augmentation(), 0)[0]) == 0


# -------------------------------------------------------------------------------------------------------------- variants


def test_nothing_changes_at_probability_zero(candidates) -> None:
    assert len(variants(toy(TEXTS), candidates, Augmentation(probability=0), 0)[0]) == 0


def test_every_candidate_changes_at_probability_one(candidates) -> None:
    examples = toy(TEXTS)
    new, rows = variants(examples, candidates, Augmentation(probability=1, variants=10), 0)
    assert len(new) == 10 * len(TEXTS) and np.array_equal(new.labels, examples.labels[rows])
    for text, row in zip(new.texts, rows, strict=True):
        table = candidates.of(TEXTS[row])
        for old, word in zip(words_of(TEXTS[row]), words_of(text), strict=True):
            assert (word.casefold() != old.casefold()) == (old in table), (old, word)
            assert old not in table or word.lower() in table[old]


def test_only_words_change_and_take_the_case(candidates) -> None:
    """Quotes, tabs, double spaces, stop words and numbers stay, to the character."""
    text = TEXTS[5]
    new, _ = variants(toy([text]), candidates, Augmentation(), 0)
    assert len(new) == 20
    cases = set()
    for other in new.texts:
        assert words_of(other)[0::2] == words_of(text)[0::2]
        small, large, title = (words_of(other)[i] for i in (7, 17, 23))
        assert small.islower() and large.isupper() and title.istitle()
        cases |= {small, large.lower(), title.lower()}
    assert len(cases) > 4


def test_share_of_replaced_words(model, tokenizer) -> None:
    text = " ".join((NOUNS + VERBS) * 40)
    table = propose([text], model, tokenizer, proposer="toy")
    count = len(table.spans)
    for p in (0.1, 0.4, 0.9):
        new, _ = variants(toy([text]), table, Augmentation(probability=p, variants=400, retries=0), 3)
        old = text.split()
        changed = np.array([[a != b for a, b in zip(old, t.split(), strict=True)] for t in new.texts])[:, :count]
        n = changed.size
        assert abs(changed.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
        # Neighbouring words and neighbouring variants are independent of each other.
        for first, second in [(changed[:, 1:], changed[:, :-1]), (changed[1:], changed[:-1])]:
            assert abs((first & second).mean() - p * p) < 5 * np.sqrt(p * p / first.size)


def test_candidates_are_drawn_evenly(model, tokenizer) -> None:
    text = "river"
    table = propose([text], model, tokenizer, proposer="toy", k=5)
    examples = Examples([f"train/{i}" for i in range(4000)], [text] * 4000, None, np.zeros(4000))
    new, _ = variants(examples, table, Augmentation(probability=1, variants=1), 0)
    _, counts = np.unique(new.texts, return_counts=True)
    assert len(counts) == 5 and ((counts - 800) ** 2 / 800).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_of_a_pair_one_field_changes(candidates) -> None:
    pairs = TEXTS[::-1]
    examples = toy(TEXTS, pairs)
    new, rows = variants(examples, candidates, Augmentation(variants=5), 0)
    assert len(new) == 2 * 5 * len(TEXTS)
    for name, text, pair, row in zip(new.ids, new.texts, new.pairs, rows, strict=True):
        assert (text != TEXTS[row]) + (pair != pairs[row]) == 1
        assert name.startswith(f"train/{row}~") and ("~b" in name) == (pair != pairs[row])
    assert len(set(new.ids)) == len(new.ids)
    for field, count in (("text", 30), ("pair", 30)):
        one, _ = variants(examples, candidates, Augmentation(variants=5, fields=field), 0)
        assert len(one) == count and set(one.ids) == {i for i in new.ids if ("~b" in i) == (field == "pair")}
    message(lambda: variants(toy(TEXTS), candidates, Augmentation(fields="pair"), 0), "fields: pair")
    # The two fields of a pair of equal texts are changed differently.
    new, _ = variants(toy(TEXTS[:1], TEXTS[:1]), candidates, Augmentation(variants=8), 0)
    assert set(new.texts) & set(new.pairs) == {TEXTS[0]}


def test_same_whatever_else_is_there(candidates) -> None:
    augmentation = Augmentation(variants=12)
    examples = toy(TEXTS, TEXTS[::-1])
    whole, _ = variants(examples, candidates, augmentation, 7)
    known = dict(zip(whole.ids, zip(whole.texts, whole.pairs, strict=True), strict=True))
    order = [3, 0, 5]
    part, rows = variants(examples.take(order), candidates, augmentation, 7)
    assert all(known[name] == (t, p) for name, t, p in zip(part.ids, part.texts, part.pairs, strict=True))
    assert np.array_equal(part.labels, np.array(order)[rows])
    few, _ = variants(examples, candidates, Augmentation(variants=4), 7)
    assert few.ids == [name for name in whole.ids if int(re.search(r"\d+$", name).group()) < 4]
    assert all(known[name][0] == text for name, text in zip(few.ids, few.texts, strict=True))
    other, _ = variants(examples, candidates, augmentation, 8)
    assert not set(whole.texts) - set(TEXTS) <= set(other.texts)
    renamed, _ = variants(replace(examples, ids=[f"dev/{i}" for i in range(len(TEXTS))]), candidates, augmentation, 7)
    assert renamed.texts != whole.texts


def test_variants_are_always_these(candidates) -> None:
    """A later version must not draw others: knowledge stored of them would be lost."""
    table = replace(
        candidates,
        texts=hashes(["x y"]),
        offsets=np.array([0, 2]),
        spans=np.array([[0, 1], [2, 3]], dtype=np.int32),
        choices=np.arange(6, dtype=np.int32).reshape(2, 3),
        strings=list("uvwabc"),
    )
    new, _ = variants(toy(["x y"], ["x y"]), table, Augmentation(variants=4), 0)
    assert list(zip(new.ids, new.texts, new.pairs, strict=True)) == [
        ("train/0~0", "v a", "x y"),
        ("train/0~1", "u a", "x y"),
        ("train/0~2", "u y", "x y"),
        ("train/0~3", "x c", "x y"),
        ("train/0~b0", "x y", "v y"),
        ("train/0~b1", "x y", "w c"),
        ("train/0~b2", "x y", "u y"),
        ("train/0~b3", "x y", "u a"),
    ]


def test_duplicates_are_dropped_or_drawn_again(model, tokenizer) -> None:
    text = "the river of the castle"
    table = propose([text], model, tokenizer, proposer="toy", k=3)  # 15 different variants
    counts = {}
    for retries in (0, 2, 1000):
        new, _ = variants(toy([text]), table, Augmentation(variants=15, retries=retries), 0)
        assert len(set(new.texts)) == len(new.texts) and text not in new.texts
        counts[retries] = len(new)
    assert counts[0] < counts[2] < counts[1000] == 15
    # A retry of an early variant does not depend on what comes later.
    many, _ = variants(toy([text]), table, Augmentation(variants=15, retries=2), 0)
    few, _ = variants(toy([text]), table, Augmentation(variants=6, retries=2), 0)
    assert many.texts[: len(few)] == few.texts


def test_labels_of_every_kind(candidates) -> None:
    tags = np.empty(2, dtype=object)
    tags[:] = [np.arange(len(text.split(" "))) for text in TEXTS[:2]]
    new, rows = variants(toy(TEXTS[:2], labels=tags), candidates, Augmentation(), 0)
    assert len(new) == 40
    for text, label, row in zip(new.texts, new.labels, rows, strict=True):
        assert label is tags[row] and len(text.split(" ")) == len(label)
    scores = toy(TEXTS[:2], labels=np.array([[0.5, np.nan], [1, 2]], dtype=np.float32))
    new, rows = variants(scores, candidates, Augmentation(), 0)
    assert new.labels.dtype == np.float32 and np.array_equal(new.labels, scores.labels[rows], equal_nan=True)
    answers = np.empty(1, dtype=object)
    answers[:] = [((4, "quiet"),)]
    asked = Examples(["train/0"], TEXTS[1:2], TEXTS[:1], answers)
    message(lambda: variants(asked, candidates, Augmentation(), 0), "fields: text")
    assert set(variants(asked, candidates, Augmentation(fields="text"), 0)[0].pairs) == {TEXTS[0]}


def test_texts_that_the_table_lacks(candidates) -> None:
    message(lambda: variants(toy(["something new"]), candidates, Augmentation(), 0), "1 of 1", "something new")


# ---------------------------------------------------------------------------------------------------------- word vectors


def lines(words, table):
    return "".join(f"{word} {' '.join(f'{x:.6f}' for x in row)}\n" for word, row in zip(words, table, strict=True))


def test_neighbours_are_those_of_the_formula(monkeypatch) -> None:
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    table = generator.normal(size=(40, 5))
    monkeypatch.setattr("tutelage.data.augmentation.wordvectors._SCORES", 120)  # three words at a time
    found = WordVectors(words, table).neighbours(["w7", "unknown", "W3", *words], 6)
    cosine = table @ table.T / np.outer(*[np.linalg.norm(table, axis=1)] * 2)
    np.fill_diagonal(cosine, -np.inf)
    for row, near in zip([7, None, 3, *range(40)], found, strict=True):
        assert near == ([] if row is None else [words[i] for i in np.argsort(-cosine[row])[:6]])


def test_neighbours_leave_out_the_word_in_any_case_and_what_is_not_allowed() -> None:
    vectors = WordVectors(
        ["Sea", "sea", "SEA", "<unk>", "lake", "pond"], [[1, 0], [1, 0], [1, 0], [0, 0], [1, 1], [0, 1]]
    )
    assert vectors.words == ["Sea", "sea", "SEA", "lake", "pond"]  # a zero vector has no direction
    near = vectors.neighbours(["lake"], 9)[0]
    assert vectors.neighbours(["sea", "<unk>", "Lake", "Láke"], 9) == [["lake", "pond"], [], near, near]
    allowed = np.array([True, True, True, False, True])
    assert vectors.neighbours(["sea"], 9, allowed) == [["pond"]]
    with torch.autocast("cpu", torch.bfloat16):
        assert vectors.neighbours(["sea"], 1) == [["lake"]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("header", ["", "5 3\n"])
def test_text_files(tmp_path, packed, header) -> None:
    words = ["the", "New York", ". . .", "a\x85b", "7"]
    table = np.random.default_rng(0).normal(size=(5, 3))
    path = tmp_path / ("v.txt.gz" if packed else "v.txt")
    raw = (header + lines(words, table)).encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    vectors = WordVectors.read(path)
    assert vectors.words == words and vectors.name == path.name
    np.testing.assert_allclose(vectors.vectors, table / np.linalg.norm(table, axis=1, keepdims=True), atol=1e-5)
    assert WordVectors.read(path, limit=2).words == words[:2]


def test_npz_files(tmp_path) -> None:
    np.savez(tmp_path / "v.npz", words=np.array(["a", "b"]), vectors=np.eye(2, dtype=np.float16))
    assert WordVectors.read(tmp_path / "v.npz").words == ["a", "b"]
    assert WordVectors.read(tmp_path / "v.npz", limit=1).words == ["a"]


def test_bad_vector_files(tmp_path) -> None:
    def wrong(name, content, *parts):
        path = tmp_path / name
        if isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, np.ndarray):
            with path.open("wb") as file:
                np.save(file, content)
        else:
            path.write_bytes(content)
        message(lambda: WordVectors.read(path), name, *parts)

    eye = np.eye(2, dtype=np.float32)
    wrong("object.npz", {"words": np.array(["a", "b"], dtype=object), "vectors": eye}, "array of strings")
    wrong("bytes.npz", {"words": np.array([b"a", b"b"]), "vectors": eye}, "array of strings")
    wrong("lacking.npz", {"words": np.array(["a"])}, "lacks vectors")
    wrong("uneven.npz", {"words": np.array(["a"]), "vectors": eye}, "1 words", "(2, 2)")
    wrong("array.npz", eye, "single array")
    wrong("text.npz", b"the 1 2 3\n", "not an .npz")
    wrong("cut.npz", b"PK\x03\x04 and no more", "cannot be read")
    wrong("nan.txt", b"a 1 nan\nb 1 2\n", "finite")
    wrong("words.txt", b"a 1 2 3\nb 1 2 x\n", "line 2")
    wrong("short.txt", b"a 1 2 3\n" * 200 + b"b 1 2\n", "line 201")
    wrong("prose.txt", b"once\n", "not a file of word vectors")
    wrong("empty.txt", b"", "not a file of word vectors")
    wrong("latin.txt", b"caf\xe9 1 2 3\n", "UTF-8")
    wrong("plain.txt.gz", b"a 1 2 3\n", "cannot be read")
    message(lambda: WordVectors.read(tmp_path / "absent.txt"), "absent.txt", "No such file")
