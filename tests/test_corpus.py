"""Corpora: what goes in comes out, every instance is as its description says, and what is wrong is refused."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import signal
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_model
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizerFast, GPT2TokenizerFast, RobertaTokenizerFast

from tutelage import api
from tutelage.data.corpus import building
from tutelage.data.corpus.building import build, split_sentences
from tutelage.data.corpus.reading import Corpus
from tutelage.data.examples import NO_TARGET, UNLABELLED, Encoded
from tutelage.data.masking import Masker, Masking, next_tokens
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = 40_000
PACKINGS = ("pairs", "segments", "packed")


def words_tokenizer(names: list[str]) -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(SPECIAL + names)})


@pytest.fixture(scope="module")
def counter() -> BertTokenizerFast:
    """A tokenizer with a word for each place: ``w0``, ``w1``, ... are the tokens 5, 6, ..."""
    return words_tokenizer([f"w{i}" for i in range(WORDS)])


def write_documents(path: Path, documents: list[list[int]]) -> Path:
    """Sentences of these lengths, one a line, whose words count through the whole corpus."""
    place, blocks = 0, []
    for sizes in documents:
        lines = []
        for size in sizes:
            lines.append(" ".join(f"w{i}" for i in range(place, place + size)))
            place += size
        blocks.append("\n".join(lines))
    assert place <= WORDS
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def counting(folder: Path, counter, documents: list[list[int]]) -> Corpus:
    folder.mkdir()
    return build([str(write_documents(folder / "a.txt", documents))], folder / "corpus", counter, split="lines")


def test_texts_and_tokenizers_in_memory_make_the_corpus_of_their_file(tmp_path: Path, tokenizer) -> None:
    texts = ["Good word1. Bad word2.\nThe word3.", "", "Word4 is good."]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    tokenizer.save_pretrained(tmp_path / "words")
    wanted = api.build_corpus(tmp_path / "a.txt", tmp_path / "file", tokenizer=tmp_path / "words", quiet=True)
    assert api.inspect_corpus(wanted) == wanted  # it stands for its folder
    table = {"text": [*texts, None], "other": range(4)}
    rows = [{"text": text, "other": 1} for text in texts]
    for number, sources in enumerate((
        [texts], datasets.Dataset.from_dict(table), pd.DataFrame(table), table, [rows], [iter(texts)],
        datasets.Dataset.from_dict(table).to_iterable_dataset(), datasets.IterableDataset.from_generator(lambda: iter(rows)),
    )):  # fmt: skip
        given = tokenizer if number % 2 else (tiny_model(), tokenizer)
        found = api.build_corpus(sources, tmp_path / str(number), tokenizer=given, quiet=True)
        assert found.sources.endswith(" in memory") and found.documents == 2
        same = ("tokens", "sentences", "bytes", "tokenizer_fingerprint")
        assert [getattr(found, name) for name in same] == [getattr(wanted, name) for name in same]
        assert np.array_equal(Corpus(str(tmp_path / str(number))).tokens, Corpus(str(tmp_path / "file")).tokens)
    words, stream = {"words": texts}, datasets.IterableDataset
    for message, sources, known in (
        ("Dataset in memory has no column 'text', only words", datasets.Dataset.from_dict(words), tokenizer),
        ("IterableDataset .* no column 'text', only w", stream.from_generator(lambda: iter([{"w": 1}])), tokenizer),
        ("DataFrame in memory has no column 'text', only words", pd.DataFrame(words), tokenizer),
        ("list in memory: entry 1 is int, not text", [["a", 3]], tokenizer),
        (r"'Word4 is good.' is neither .*, or give texts in memory as sources=\[texts\]", texts[2:], tokenizer),
        ("tokenizer=BertForSequenceClassification is no tokenizer", [texts], tiny_model()),
    ):  # fmt: skip
        with pytest.raises(TutelageError, match=message):
            api.build_corpus(sources, tmp_path / "no", tokenizer=known, quiet=True)
        assert not (tmp_path / "no").exists()


def piece_starts(corpus: Corpus, budget: int) -> set[int]:
    """Where sentences start, and the pieces of those that are longer than the budget."""
    return {place for start, stop in pairwise(corpus.sentences.tolist()) for place in range(start, stop, budget)}


def random_documents(count: int, seed: int, mean: float = 18.0) -> list[list[int]]:
    """Documents of 1 to 30 sentences of about ``mean`` tokens, unevenly long."""
    generator = np.random.default_rng(seed)
    return [
        (2 + generator.gamma(2.0, mean / 2.0, generator.integers(1, 31))).astype(int).tolist() for _ in range(count)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, counter) -> Corpus:
    """About 37,000 tokens, all different: token ``i`` of the corpus is ``i + 5``."""
    found = counting(tmp_path_factory.mktemp("counting") / "c", counter, random_documents(120, 0))
    assert found.manifest.tokens > 30_000
    assert np.array_equal(found.tokens, np.arange(found.manifest.tokens) + 5)
    return found


@pytest.fixture(scope="module")
def bytelevel() -> dict[str, object]:
    """Tokenizers to which a space belongs to the word after it."""
    text = "The cat sat. The dog ran away! It was a good day."
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator([text] * 3, trainer)
    model = json.loads(backend.to_str())["model"]
    parts = {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}
    return {"roberta": RobertaTokenizerFast(**parts), "gpt2": GPT2TokenizerFast(**parts, pad_token="<|endoftext|>")}


def rows_of(encoded: Encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.tokens, encoded.offsets[1:-1])]


def whole(corpus: Corpus, packing, length: int, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    plan = corpus.epoch(packing, length, seed, epoch)
    return rows_of(plan.read(np.arange(len(plan))))


def same(one: Encoded, other: Encoded) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Encoded)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


# ------------------------------------------------------------------------------------------------------ building


TEXT = "word1 good. Word2 word3 bad!\nword4\n\n\n   \nword5 dull word6\nfine. Great\n"
LINES = [["word1 good .", "word2 word3 bad !", "word4"], ["word5 dull word6", "fine .", "great"]]


def test_a_corpus_is_its_text(tokenizer, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n\nword7", encoding="utf-8")
    sources = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    heard: list[int] = []
    corpus = build(sources, tmp_path / "new" / "corpus", tokenizer, advance=heard.append)
    documents = [*LINES, ["word7"]]
    expected = [tokenizer(s, add_special_tokens=False).input_ids for document in documents for s in document]
    assert corpus.tokens.tolist() == [token for sentence in expected for token in sentence]
    assert np.diff(corpus.sentences).tolist() == [len(sentence) for sentence in expected]
    assert np.diff(corpus.documents).tolist() == [3, 3, 1]
    assert corpus.sentences[-1] == len(corpus.tokens) == sum(heard) == corpus.manifest.tokens
    assert (corpus.manifest.sentences, corpus.manifest.documents) == (7, 3)
    assert corpus.sources == ("a.txt", "b.txt") and corpus.tokens.dtype == np.uint16
    assert tokenizer_fingerprint(corpus.tokenizer) == corpus.manifest.tokenizer_fingerprint
    assert corpus.counts.tolist() == np.bincount(corpus.tokens, minlength=len(tokenizer)).tolist()
    assert not (tmp_path / "new" / "corpus.tutelage-partial").exists()
    lines = build(sources, tmp_path / "lines", tokenizer, split="lines")
    assert np.diff(lines.documents).tolist() == [2, 2, 1] and np.array_equal(lines.tokens, corpus.tokens)
    # However the text falls into batches, also where a document's first sentence begins one.
    monkeypatch.setattr(building, "BUFFER", 1)
    tokenizer(["word1", "word1 word2"], padding=True, truncation=True)  # of which nothing stays
    again = build(sources, tmp_path / "again", tokenizer)
    assert again.fingerprint == corpus.fingerprint != lines.fingerprint
    assert again.manifest.sha256 == corpus.manifest.sha256


def test_the_way_text_is_packed_changes_nothing(bytelevel, tmp_path: Path) -> None:
    plain = TEXT.encode()
    variants = {
        "plain.txt": plain,
        "crlf.txt": plain.replace(b"\n", b"\r\n"),
        "cr.txt": plain.replace(b"\n", b"\r"),
        "bom.txt": b"\xef\xbb\xbf" + plain,
        "no-end.txt": plain.rstrip(b"\n"),
        "blank.txt": b"\n \n\t\n" + plain.replace(b"\n\n", b"\n\n\xe3\x80\x80\n\n") + b"\n\n\n",
        "packed.txt.gz": gzip.compress(b"\xef\xbb\xbf" + plain),
        "two.TXT.GZ": gzip.compress(plain[:20]) + gzip.compress(plain[20:]),
    }
    found = set()
    for name, content in variants.items():
        (tmp_path / name).write_bytes(content)
        corpus = build([str(tmp_path / name)], tmp_path / f"{name}.corpus", bytelevel["roberta"])
        found.add(corpus.fingerprint)
        assert corpus.manifest.documents == 2
    assert len(found) == 1


def test_words_without_tokens_make_no_sentence(tokenizer, tmp_path: Path, monkeypatch) -> None:
    """Control characters vanish in the tokenizer; first, last and all sentences of a document may be such."""
    (tmp_path / "a.txt").write_text("\x01\nword1\n\x02\nword2\n\x02\n\n\x03\n\nword3\n\n\x04", encoding="utf-8")
    for buffer in (1, 1000):
        monkeypatch.setattr(building, "BUFFER", buffer)
        corpus = build([str(tmp_path / "a.txt")], tmp_path / f"corpus{buffer}", tokenizer, split="lines")
        assert corpus.sentences.tolist() == [0, 1, 2, 3] and corpus.documents.tolist() == [0, 2, 3]


def test_text_that_looks_special_is_text(tokenizer, bytelevel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word1 [SEP] word2 [MASK]\n\nword3 </s> <|endoftext|> word4", encoding="utf-8")
    sources = [str(tmp_path / "a.txt")]
    for name, one in {"bert": tokenizer, **bytelevel}.items():
        before = one.backend_tokenizer.to_str()
        corpus = build(sources, tmp_path / name, one)
        assert not set(corpus.tokens.tolist()) & (set(one.all_special_ids) - {one.unk_token_id})
        assert one.backend_tokenizer.to_str() == before  # and to its owner the tokenizer is what it was
        parting = one.sep_token or one.eos_token
        assert one.convert_tokens_to_ids(parting) in one(parting, add_special_tokens=False).input_ids


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "a"])} | {"far": 70_000}
    (tmp_path / "a.txt").write_text("a far a", encoding="utf-8")
    corpus = build([str(tmp_path / "a.txt")], tmp_path / "corpus", BertTokenizerFast(vocab=vocabulary))
    assert corpus.tokens.dtype == np.uint32 and corpus.tokens.tolist() == [5, 70_000, 5]
    assert corpus.counts[70_000] == 1 and len(corpus.counts) == 70_001
    vocabulary["far"] = 2**16 - 1
    corpus = build([str(tmp_path / "a.txt")], tmp_path / "small", BertTokenizerFast(vocab=vocabulary))
    assert corpus.tokens.dtype == np.uint16 and corpus.tokens.tolist() == [5, 2**16 - 1, 5]


def test_sentences_keep_the_tokens_of_running_text(bytelevel, tmp_path: Path) -> None:
    texts = ["The cat sat. The dog ran away! It was a good day.", "It was good. The day ran away."]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    for name, tokenizer in bytelevel.items():
        corpus = build([str(tmp_path / "a.txt")], tmp_path / name, tokenizer)
        running = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        assert corpus.tokens.tolist() == running[0] + running[1]
        assert corpus.manifest.sentences == 5


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One two. Three four? Five!", ["One two.", "Three four?", "Five!"]),
        (
            'He said "Go." She went. "Why?" (Because.) 2 ran.',
            ['He said "Go."', "She went.", '"Why?"', "(Because.)", "2 ran."],
        ),
        ("Dr. Who met J. Smith vs. Mrs. Jones of the U.S. Army.", None),
        ("It costs 3.5 dollars e.g. here... and there, at example.com.", None),
        ("The end…  Then more.", ["The end…", "Then more."]),
        ("第一句。第二句！「第三句。」第四句？！完", ["第一句。", "第二句！", "「第三句。」", "第四句？！", "完"]),
        ("  no stop at all ", ["no stop at all"]),
        ("Это так. Но нет.", ["Это так.", "Но нет."]),
        ("", []),
    ],
)
def test_sentences_are_told_apart(paragraph: str, sentences: list[str] | None) -> None:
    assert split_sentences(paragraph) == ([paragraph] if sentences is None else sentences)


def test_a_data_set_is_streamed(tokenizer, tmp_path: Path, monkeypatch) -> None:
    import datasets

    asked = []
    rows = [{"body": "word1 good.\r\n\r\nWord2 word3 bad! Word4"}, {"body": None}, {"body": " \n"}, {"body": "word5"}]

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return datasets.IterableDataset.from_generator(lambda: iter(rows))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = build(["hub:some/set,column=body,config=en"], tmp_path / "corpus", tokenizer)
    assert asked == [(("some/set", "en"), {"split": "train", "streaming": True})]
    assert corpus.documents.tolist() == [0, 3, 4] and corpus.sources == ("hub:some/set,column=body,config=en",)
    for source, words in [
        ("hub:some/set", r"no column 'text', only body; append ,column=NAME"),
        ("hub:some/set,colum=body", "'colum=body' is not one of"),
        ("hub:some/set,split=", "'split=' is not one of"),
    ]:
        with pytest.raises(TutelageError, match=words):
            build([source], tmp_path / "other", tokenizer)
    rows[3]["body"] = [1]
    with pytest.raises(TutelageError, match="is not text"):
        build(["hub:some/set,column=body"], tmp_path / "other", tokenizer)

    def broken():
        yield rows[0]
        raise ConnectionError("the line\nis down")

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **o: broken())
    with pytest.raises(TutelageError, match=r"'some/set' cannot be loaded from the Hub \(the line is down\)"):
        build(["hub:some/set,column=body"], tmp_path / "other", tokenizer)
    monkeypatch.undo()
    with pytest.raises(TutelageError, match="cannot be loaded from the Hub"):
        build(["hub:nobody/nothing"], tmp_path / "other", tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def bad_sources(folder: Path) -> dict[str, tuple[list[str], str]]:
    folder.mkdir()
    contents = {
        "good.txt": b"word1 word2\n" * 5000,
        "latin.txt": b"word1\n" * 9000 + b"caf\xe9\n",
        "utf16.txt": "word1".encode("utf-16"),
        "jis.txt": "word1 良い\n".encode("iso2022_jp"),
        "cut.txt.gz": gzip.compress(os.urandom(9000).hex().encode())[:-4000],
        "plain.txt.gz": b"word1 word2\n",
        "empty.txt": b"",
        "blank.txt": b"\n \n\n",
        "a.csv": b"text\nword1\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)

    def paths(*names: str) -> list[str]:
        return [str(folder / name) for name in names]

    return {
        "missing": (paths("good.txt", "none.txt"), r"the file '.*none.txt' does not exist; check the path"),
        "directory": ([f"{folder}/d.txt"], r"is a folder; name the files in it"),
        "ending": (paths("a.csv"), r"a.csv' is neither a .txt or .txt.gz file"),
        "latin": (paths("good.txt", "latin.txt"), r"latin.txt is not UTF-8; convert it"),
        "utf16": (paths("utf16.txt"), r"utf16.txt is not UTF-8; convert it"),
        "jis": (paths("jis.txt"), r"jis.txt is in ISO-2022-JP, not in UTF-8; convert it"),
        "cut": (paths("good.txt", "cut.txt.gz"), r"cut.txt.gz cannot be read \(.*\); check the file"),
        "no gzip": (paths("plain.txt.gz"), r"plain.txt.gz cannot be read \(.*\); check the file"),
        "empty": (paths("empty.txt", "blank.txt"), r"there is no text in '.*empty.txt', '.*blank.txt'; name"),
        "nothing": ([], "at least one source"),
    }


def test_bad_sources_end_in_one_line_and_leave_nothing(tokenizer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(building, "BUFFER", 1000)  # much has been written when the second file turns out to be bad
    cases = bad_sources(tmp_path / "text")
    (tmp_path / "text" / "d.txt").mkdir()
    for name, (sources, words) in cases.items():
        with pytest.raises(TutelageError, match=words) as error:
            build(sources, tmp_path / "corpus", tokenizer)
        assert "\n" not in str(error.value), name
        assert sorted(path.name for path in tmp_path.iterdir()) == ["text"], name


def test_a_place_that_is_taken_is_refused(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    source, out = str(tmp_path / "a.txt"), tmp_path / "corpus"
    (out / "x").mkdir(parents=True)
    with pytest.raises(TutelageError, match="already exists"):
        build([source], out, tokenizer)
    with pytest.raises(TutelageError, match="already exists"):
        build([source], tmp_path / "a.txt", tokenizer)
    with pytest.raises(TutelageError, match="cannot be written"):
        build([source], tmp_path / "a.txt" / "corpus", tokenizer)
    (out / "x").rmdir()
    assert build([source], out, tokenizer).manifest.documents == 2  # an empty folder is not taken
    slow = BertTokenizerFast(vocab={word: i for i, word in enumerate(SPECIAL)}, pad_token=None)
    with pytest.raises(TutelageError, match="no padding token"):
        build([source], tmp_path / "other", slow)


def test_a_killed_build_leaves_nothing_that_opens(tokenizer, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 50, encoding="utf-8")
    sources = [str(tmp_path / "a.txt")]
    monkeypatch.setattr(building, "BUFFER", 500)
    heard: list[int] = []

    def advance(count: int) -> None:
        heard.append(count)
        if len(heard) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()  # a process of its own, without the seconds that imports take
    if not child:
        try:
            build(sources, tmp_path / "corpus", tokenizer, advance=advance)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "corpus.tutelage-partial" / "tokens.bin").exists() and not (tmp_path / "corpus").exists()
    with pytest.raises(TutelageError, match="not finished"):
        Corpus(tmp_path / "corpus")
    with pytest.raises(TutelageError, match="is not a corpus"):
        Corpus(tmp_path / "corpus.tutelage-partial")
    again = build(sources, tmp_path / "corpus", tokenizer)
    other = build(sources, tmp_path / "other", tokenizer)
    assert again.manifest.sha256 == other.manifest.sha256 and not (tmp_path / "corpus.tutelage-partial").exists()


def test_a_build_that_is_broken_off_leaves_nothing(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")

    def advance(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([str(tmp_path / "a.txt")], tmp_path / "corpus", tokenizer, advance=advance)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["tokens.bin", "sentences.bin", "documents.bin", "manifest.json", "tokenizer"])
def test_a_damaged_corpus_is_refused(name: str, tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    corpus = build([str(tmp_path / "a.txt")], tmp_path / "corpus", tokenizer)
    corpus.verify()
    path = tmp_path / "corpus" / ("tokenizer/tokenizer.json" if name == "tokenizer" else name)
    content = path.read_bytes()
    if name != "manifest.json":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(TutelageError, match=r"is damaged: .* is not as it was written"):
            Corpus(tmp_path / "corpus").verify()
    path.write_bytes(content[:-5])
    with pytest.raises(TutelageError, match="damaged") as error:
        Corpus(tmp_path / "corpus")
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(TutelageError, match=r"damaged|is not a corpus"):
        Corpus(tmp_path / "corpus")
    path.write_text('{"format": 1, "scheme": {}}', encoding="utf-8")  # another kind of folder
    with pytest.raises(TutelageError, match=r"damaged"):
        Corpus(tmp_path / "corpus")


# ------------------------------------------------------------------------------------------------------- epochs


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_epoch_is_a_function_of_its_arguments(packing, corpus: Corpus, monkeypatch) -> None:
    plan = corpus.epoch(packing, 64, 7, 2)
    everything = plan.read(np.arange(len(plan)))
    assert np.array_equal(plan.lengths, everything.lengths) and len(plan) == len(everything) == len(plan.lengths)
    assert plan.lengths.dtype == np.int64 and everything.tokens.dtype == np.int32
    monkeypatch.setattr("tutelage.data.corpus.packing.BLOCK", 37)  # planned in other blocks, by another process
    again = Corpus(corpus.folder).epoch(packing, 64, 7, 2)
    order = np.random.default_rng(0).permutation(len(plan))
    assert same(again.read(order), everything.take(order))
    for row in order[:20]:
        assert same(again.read(np.array([row])), everything.take(np.array([row])))
    for seed, epoch in [(7, 3), (8, 2), (2, 7)]:
        other = whole(corpus, packing, 64, seed, epoch)
        assert other != rows_of(everything) and len(other) == pytest.approx(len(plan), rel=0.1)


def test_pairs_walk_through_every_document(corpus: Corpus) -> None:
    """Token ids are places, so the instances tell what was read: no place twice, none missing without a cut."""
    length, starts = 64, piece_starts(corpus, 61)
    sizes = np.diff(corpus.sentences[corpus.documents])
    document_of = np.repeat(np.arange(corpus.manifest.documents), sizes)
    plan = corpus.epoch("pairs", length, 3, 1)
    encoded = plan.read(np.arange(len(plan)))
    seen = np.zeros(corpus.manifest.tokens, dtype=int)
    reached, followed = 0, 0
    for i, row in enumerate(rows_of(encoded)):
        part = slice(encoded.offsets[i], encoded.offsets[i + 1])
        middle = row.index(3)
        a, b = row[1:middle], row[middle + 1 : -1]
        assert row[0] == 2 and row[-1] == 3 and row.count(3) == 2 and len(row) <= length
        assert encoded.types[part].tolist() == [0] * (middle + 1) + [1] * (len(b) + 1)
        assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b)))
        places_a, places_b = np.array(a) - 5, np.array(b) - 5
        of_a, of_b = set(document_of[places_a]), set(document_of[places_b])
        assert len(of_a) == len(of_b) == 1
        seen[places_a] += 1
        last = places_a[-1]
        if of_a == of_b:  # never a random next: B goes on where A ends
            followed += 1
            seen[places_b] += 1
            last = places_b[-1]
            assert places_b[0] > places_a[-1] and (encoded.cut[i] or places_b[0] == places_a[-1] + 1)
        assert places_a[0] == reached or encoded.cut[i - 1] or encoded.cut[i]
        assert places_a[0] >= reached
        if encoded.cut[i]:
            assert len(row) == length
        else:
            assert {places_a[0], places_b[0]} <= starts
            assert last + 1 in starts or last + 1 == len(seen)
        reached = last + 1
    assert seen.max() == 1 and 0.4 < followed / len(plan) < 0.5
    # What no instance shows lies at the ends of texts that were cut.
    lost = np.flatnonzero(seen == 0)
    assert 0 < len(lost) < 0.3 * len(seen)
    ends = np.concatenate([plan.starts[plan.cut].ravel(), (plan.starts + plan.sizes)[plan.cut].ravel() - 1])
    for first, last in zip(lost[np.diff(lost, prepend=-2) > 1], lost[np.diff(lost, append=-2) != 1], strict=True):
        assert last + 1 in ends or first - 1 in ends


def test_every_sentence_is_in_a_chunk(tmp_path: Path, counter) -> None:
    """Where nothing is ever too long, pairs show every token of the corpus in exactly one A or B that follows."""
    corpus = counting(tmp_path / "c", counter, [[1] * n for n in (1, 2, 3, 40, 200, 7, 1)])
    document_of = np.repeat(np.arange(7), (1, 2, 3, 40, 200, 7, 1))
    for epoch in range(5):
        plan = corpus.epoch("pairs", 23, 0, epoch)
        assert not plan.cut.any()
        seen = np.zeros(len(corpus.tokens), dtype=int)
        for (a, b), (size_a, size_b) in zip(plan.starts, plan.sizes, strict=True):
            seen[a : a + size_a] += 1
            if document_of[a] == document_of[b]:
                assert b == a + size_a
                seen[b : b + size_b] += 1
        assert (seen == 1).all()


def test_budgets_and_places_to_part_are_even(tmp_path: Path, counter) -> None:
    """With sentences of one token, A and a B that follows show the budget and where the chunk was parted."""
    corpus = counting(tmp_path / "c", counter, [[1] * 3000, [1]])
    totals, parts = np.zeros(21), np.zeros(20)
    for epoch in range(60):
        plan = corpus.epoch("pairs", 23, 0, epoch)
        sizes = plan.sizes[plan.starts[:, 1] == plan.starts[:, 0] + plan.sizes[:, 0]][
            :-1
        ]  # the last one may be smaller
        totals += np.bincount(sizes.sum(axis=1), minlength=21)
        parts += np.bincount(sizes[sizes.sum(axis=1) == 20, 0], minlength=20)
    count, shorter = totals.sum(), totals[2:20]
    assert count > 5000 and totals[:2].sum() == parts[0] == 0
    expected = count * 0.1 / 19  # the full budget is one of the 19 that are drawn
    assert ((shorter - expected) ** 2 / expected).sum() < 18 + 4 * math.sqrt(36)
    assert ((parts[1:] - parts.sum() / 19) ** 2 / (parts.sum() / 19)).sum() < 18 + 4 * math.sqrt(36)


def reference_pairs(documents: list[list[list[int]]], budget: int, generator: random.Random):
    """BERT's create_instances_from_document, word by word: yields A, B, whether B is random, and whether they were cut."""
    sizes = [len(document) for document in documents]
    for index, document in enumerate(documents):
        target = generator.randint(2, budget) if generator.random() < 0.1 else budget
        chunk, length, i = [], 0, 0
        while i < len(document):
            chunk.append(document[i])
            length += len(document[i])
            if i == len(document) - 1 or length >= target:
                a_end = generator.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
                a = [token for sentence in chunk[:a_end] for token in sentence]
                b: list[int] = []
                is_random = len(chunk) == 1 or generator.random() < 0.5
                if is_random:
                    other = index
                    while other == index:
                        other = generator.choices(range(len(documents)), sizes)[0]
                    for sentence in documents[other][generator.randrange(sizes[other]) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - a_end
                else:
                    b = [token for sentence in chunk[a_end:] for token in sentence]
                cut = len(a) + len(b) > budget
                while len(a) + len(b) > budget:
                    longer = a if len(a) > len(b) else b
                    if generator.random() < 0.5:
                        del longer[0]
                    else:
                        longer.pop()
                yield a, b, is_random, cut
                chunk, length = [], 0
                target = generator.randint(2, budget) if generator.random() < 0.1 else budget
            i += 1


def test_pairs_are_distributed_as_those_of_the_reference(corpus: Corpus) -> None:
    length = 64
    sentences = np.split(corpus.tokens.astype(int), corpus.sentences[1:-1])
    documents = [[s.tolist() for s in sentences[start:stop]] for start, stop in pairwise(corpus.documents)]
    first_of = set((corpus.sentences[:-1] + 5).tolist())

    def facts(rows: list[tuple[list[int], list[int], bool, bool]]) -> np.ndarray:
        return np.array(
            [[len(a), len(b), len(a) ** 2, is_random, cut, a[0] in first_of, b[0] in first_of, len(a) == len(b)]
             for a, b, is_random, cut in rows],
            dtype=float,
        )  # fmt: skip

    def ours(epoch: int) -> list[tuple[list[int], list[int], bool, bool]]:
        plan = corpus.epoch("pairs", length, 0, epoch)
        document_of = np.searchsorted(corpus.sentences[corpus.documents], plan.starts, side="right")
        is_random = document_of[:, 0] != document_of[:, 1]
        rows = []
        for row, other, cut in zip(rows_of(plan.read(np.arange(len(plan)))), is_random, plan.cut, strict=True):
            middle = row.index(3)
            rows.append((row[1:middle], row[middle + 1 : -1], bool(other), bool(cut)))
        return rows

    generator, epochs = random.Random(0), 6
    theirs = [facts(list(reference_pairs(documents, length - 3, generator))) for _ in range(epochs)]
    mine = [facts(ours(epoch)) for epoch in range(epochs)]
    counts = [[len(rows) for rows in side] for side in (theirs, mine)]
    assert np.mean(counts[0]) == pytest.approx(np.mean(counts[1]), rel=0.015)
    one, other = np.concatenate(theirs), np.concatenate(mine)
    error = np.sqrt(one.var(axis=0) / len(one) + other.var(axis=0) / len(other))
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 3.5 * error).all()


def test_b_is_drawn_in_proportion_to_sentences(tmp_path: Path, counter) -> None:
    sizes = (20, 60, 120)
    corpus = counting(tmp_path / "c", counter, [[5] * size for size in sizes])
    ends = corpus.sentences[corpus.documents]
    drawn = np.zeros((3, 3))
    starts = np.zeros(len(corpus.sentences))
    for epoch in range(150):
        plan = corpus.epoch("pairs", 16, 0, epoch)
        of = np.searchsorted(ends, plan.starts, side="right") - 1
        other = of[:, 0] != of[:, 1]
        np.add.at(drawn, (of[other, 0], of[other, 1]), 1)
        np.add.at(starts, plan.starts[other & (of[:, 1] == 1), 1] // 5, 1)
    for own, counts in enumerate(drawn):
        expected = np.array([0.0 if other == own else size for other, size in enumerate(sizes)])
        expected *= counts.sum() / expected.sum()
        assert counts.sum() > 500 and counts[own] == 0
        assert (np.abs(counts - expected) <= 3.5 * np.sqrt(expected)).all()
    within = starts[20:80]  # the middle document's sentences, all as likely to begin B
    assert within.min() > 0 and ((within - within.mean()) ** 2 / within.mean()).sum() < 60 + 4 * math.sqrt(120)


def test_segments_show_every_token_once(corpus: Corpus) -> None:
    document_ends = set(corpus.sentences[corpus.documents].tolist())
    for length, epoch in [(64, 0), (64, 1), (20, 0)]:
        starts = sorted(piece_starts(corpus, length - 2))
        stops = dict(pairwise([*starts, len(corpus.tokens)]))
        plan = corpus.epoch("segments", length, 0, epoch)
        encoded = plan.read(np.arange(len(plan)))
        rows = rows_of(encoded)
        assert all(row[0] == 2 and row[-1] == 3 and len(row) <= length for row in rows)
        assert not encoded.types.any() and not encoded.cut.any()
        assert [token for row in rows for token in row[1:-1]] == corpus.tokens.tolist()
        full = 0
        for row in rows:
            first, following = row[1] - 5, row[-2] - 4
            assert first in stops and not document_ends & set(range(first + 1, following))
            full += following in document_ends or stops[following] - first > length - 2
        # One in ten has a smaller budget; that need not make it smaller, least of all where it holds one sentence.
        assert 0.9 < full / len(rows) < (0.95 if length == 64 else 1.0)


def test_sentences_longer_than_the_budget_are_cut_in_pieces(tmp_path: Path, counter) -> None:
    corpus = counting(tmp_path / "c", counter, [[3, 250, 2], [100, 101, 1], [99]])
    rows = whole(corpus, "segments", 12)
    assert max(map(len, rows)) == 12
    assert [token for row in rows for token in row[1:-1]] == corpus.tokens.tolist()
    missing = piece_starts(corpus, 10)
    assert len(missing) == 1 + 25 + 1 + 10 + 11 + 1 + 10
    for epoch in range(4):
        plan = corpus.epoch("pairs", 13, 0, epoch)
        assert plan.lengths.max() == 13
        missing -= {start for a in plan.starts[:, 0] for start in missing if start <= a < start + 10}
    assert not missing


def test_packed_pieces_are_the_stream(corpus: Corpus, bytelevel, tmp_path: Path) -> None:
    parted: list[int] = []
    ends = corpus.sentences[corpus.documents].tolist()
    for start, stop in pairwise(ends):
        parted += [*corpus.tokens[start:stop].tolist(), 3]
    places = set()
    for epoch in range(3):
        rows = whole(corpus, "packed", 64, 0, epoch)
        assert len(rows) == len(parted) // 62
        assert all(len(row) == 64 and row[0] == 2 and row[-1] == 3 for row in rows)
        stream = [token for row in rows for token in row[1:-1]]
        start = parted.index(stream[0]) if stream[0] != 3 else parted.index(stream[1]) - 1
        assert stream == (parted + parted)[start : start + len(stream)]
        places.add(start)
    assert len(places) == 3
    (tmp_path / "a.txt").write_text("The cat sat. It ran.\n\nThe dog ran away!\n\nA day.\n", encoding="utf-8")
    causal = build([str(tmp_path / "a.txt")], tmp_path / "gpt2", bytelevel["gpt2"])
    end = causal.tokenizer.eos_token_id
    plan = causal.epoch("packed", 5, 0, 0)
    encoded = plan.read(np.arange(len(plan)))
    assert encoded.types is None and encoded.separator == -1 and (encoded.lengths == 5).all()
    assert set(encoded.tokens.tolist()) <= {*causal.tokens.tolist(), end}
    assert len(plan) == (len(causal.tokens) + 3) // 5 and 2 <= (encoded.tokens == end).sum() <= 3


def test_instances_are_framed_as_the_tokenizer_does(bytelevel, tokenizer, tmp_path: Path) -> None:
    text = "The cat sat. It ran. The dog was good.\n\nThe dog ran away! A day. It was a good cat.\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text(TEXT * 3, encoding="utf-8")
    for name, one, source in [("roberta", bytelevel["roberta"], "a.txt"), ("bert", tokenizer, "b.txt")]:
        corpus = build([str(tmp_path / source)], tmp_path / name, one)
        for packing in ("pairs", "segments"):
            plan = corpus.epoch(packing, 24, 0, 0)
            encoded = plan.read(np.arange(len(plan)))
            assert encoded.pad_token == one.pad_token_id and encoded.separator == one.sep_token_id
            for row, (starts, sizes) in enumerate(zip(plan.starts, plan.sizes, strict=True)):
                parts = [corpus.tokens[s : s + n].tolist() for s, n in zip(starts, sizes, strict=True)]
                texts = [one.convert_ids_to_tokens(part) for part in parts]
                separators = [one.sep_token] * (2 if name == "roberta" else 1)
                framed = [one.cls_token, *texts[0], *(separators if len(texts) > 1 else [one.sep_token])]
                framed += [*texts[1], one.sep_token] if len(texts) > 1 else []
                part = slice(encoded.offsets[row], encoded.offsets[row + 1])
                assert one.convert_ids_to_tokens(encoded.tokens[part].tolist()) == framed
            assert (encoded.types is None) == (name == "roberta")


def test_what_makes_no_epoch_is_refused(tokenizer, bytelevel, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("word1 word2. Word3\nword4", encoding="utf-8")
    (tmp_path / "two.txt").write_text("The cat.\n\nThe dog.", encoding="utf-8")
    one = build([str(tmp_path / "one.txt")], tmp_path / "one", tokenizer)
    with pytest.raises(TutelageError, match="one document, and pairs need two; separate documents by blank lines"):
        one.epoch("pairs", 16, 0, 0)
    with pytest.raises(TutelageError, match="length=3 is too short for segments; use at least 4"):
        one.epoch("segments", 3, 0, 0)
    assert len(one.epoch("segments", 4, 0, 0)) >= 2
    with pytest.raises(TutelageError, match="one instance needs 62"):
        one.epoch("packed", 64, 0, 0)
    causal = build([str(tmp_path / "two.txt")], tmp_path / "gpt2", bytelevel["gpt2"])
    with pytest.raises(TutelageError, match="no token between the texts"):
        causal.epoch("pairs", 16, 0, 0)
    nothing = words_tokenizer(["the", "cat", "dog"])
    nothing.sep_token = nothing.eos_token = None
    two = build([str(tmp_path / "two.txt")], tmp_path / "two", nothing)
    with pytest.raises(TutelageError, match="neither a separator nor an end token"):
        two.epoch("packed", 6, 0, 0)


# ------------------------------------------------------------------------------------------------------ masking


def ragged(rows: list[np.ndarray], specials: bool = True) -> Encoded:
    rows = [np.concatenate([[2], row, [3]]) if specials else row for row in rows]
    return Encoded(
        tokens=np.concatenate(rows).astype(np.int32),
        types=None,
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        cut=np.zeros(len(rows), dtype=bool),
        pad_token=0,
        separator=3,
    )


@pytest.fixture(scope="module")
def few() -> BertTokenizerFast:
    """A vocabulary small enough that random words of every kind turn up."""
    return words_tokenizer([f"w{i}" for i in range(45)])


@pytest.fixture(scope="module")
def step(few) -> Encoded:
    generator = np.random.default_rng(0)
    return ragged([generator.integers(5, len(few), size) for size in generator.integers(1, 90, 64)])


@pytest.mark.parametrize("probability", [0.15, 0.07, 0.3, 1.0, 1e-6, 0.0])
def test_exactly_the_share_of_ordinary_tokens_is_chosen(probability: float, step: Encoded, few) -> None:
    ordinary = int((step.tokens > 4).sum())
    masked = Masker(Masking(probability=probability), few)(step, np.arange(64), 0, 0)
    chosen = masked.targets >= 0
    assert chosen.sum() == math.ceil(Fraction(str(probability)) * ordinary)
    assert np.array_equal(masked.targets[chosen], step.tokens[chosen])
    assert (masked.targets[~chosen] == NO_TARGET).all()
    assert np.array_equal(masked.tokens[~chosen], step.tokens[~chosen]) and (step.tokens[chosen] > 4).all()
    assert masked.tokens.dtype == masked.targets.dtype == np.int32 and step.targets is None


def test_a_count_is_not_one_more_by_rounding(few) -> None:
    """0.07 * 100 is 7.000000000000001 to a computer."""
    masked = Masker(Masking(probability=0.07), few)(ragged([np.full(100, 9)]), np.arange(1), 0, 0)
    assert (masked.targets >= 0).sum() == 7


def test_of_the_chosen_four_fifths_are_masked(few) -> None:
    """On 120,000 targets; a random word is the original one time in 45."""
    step = ragged([np.arange(800) % 45 + 5 for _ in range(1000)])
    masked = Masker(Masking(), few)(step, np.arange(1000), 1, 2)
    chosen = masked.targets >= 0
    n, now, before = int(chosen.sum()), masked.tokens[chosen], step.tokens[chosen]
    assert n == 120_000
    other = (now != 4) & (now != before)
    for share, expected in [
        ((now == 4).mean(), 0.8),
        (other.mean(), 0.1 * 44 / 45),
        ((now == before).mean(), 0.1 + 0.1 / 45),
    ]:
        assert abs(share - expected) < 3 * math.sqrt(expected * (1 - expected) / n)
    words = np.bincount(now[other], minlength=50)
    assert words[:5].sum() == 0 and words[5:].min() > 0.8 * words[5:].mean()
    per_row = np.add.reduceat(chosen, step.offsets[:-1])  # all rows and places alike
    assert per_row.var() == pytest.approx(800 * 0.15 * 0.85, rel=0.2)
    per_place = chosen.reshape(1000, 802)[:, 1:-1].sum(axis=0)
    assert ((per_place - 150) ** 2 / (150 * 0.85)).sum() == pytest.approx(800, abs=4 * math.sqrt(1600))


def test_special_tokens_are_neither_chosen_nor_drawn(step: Encoded, few) -> None:
    few = words_tokenizer([f"w{i}" for i in range(45)])
    few.add_special_tokens({"additional_special_tokens": ["w7"]})
    few.add_tokens(["w8"])
    few.add_tokens(["w9"], special_tokens=True)
    few.eos_token = "w10"
    assert few.convert_tokens_to_ids("w7") == 12
    masked = Masker(Masking(probability=1.0, mask=0.0, random=1.0), few)(step, np.arange(64), 0, 0)
    special = np.isin(step.tokens, [0, 1, 2, 3, 4, 12, 14, 15])
    assert ((masked.targets >= 0) == ~special).all()
    assert np.array_equal(masked.tokens[special], step.tokens[special])
    assert set(masked.tokens[~special].tolist()) == set(range(5, 50)) - {12, 14, 15}


def test_rare_words_are_chosen_more_often(few) -> None:
    """A step of two words, one that the corpus has once and one that it has 1000 times: 1000^0.7 = 126."""
    counts = np.zeros(50, dtype=np.int64)
    counts[5], counts[6] = 1, 1000
    drawn = np.zeros(50)
    # So few targets among so many words that those already drawn do not matter.
    step = ragged([np.repeat([5, 6], [200, 25_200])])
    masker = Masker(Masking(probability=0.0003, smoothing=0.7), few, counts)
    for epoch in range(1000):
        masked = masker(step, np.arange(1), 0, epoch)
        drawn += np.bincount(masked.targets[masked.targets >= 0], minlength=50)
    assert drawn.sum() == 1000 * 8
    assert drawn[5] / drawn[6] * 25_200 / 200 == pytest.approx(1000**0.7, rel=0.15)
    # A word that the corpus lacks counts as one that it has once.
    assert counts[7] == 0
    step = ragged([np.repeat([5, 7], [500, 500])])
    masked = Masker(Masking(probability=0.5, smoothing=0.7), few, counts)(step, np.arange(1), 0, 0)
    assert abs((masked.targets == 7).sum() - 250) < 3 * math.sqrt(250)


def test_masks_depend_on_seed_epoch_row_and_place_alone(step: Encoded, few) -> None:
    masker = Masker(Masking(), few)
    rows = np.arange(64) + 1000
    one = masker(step, rows, 5, 6)
    assert same(masker(step, rows, 5, 6), one)
    order = np.random.default_rng(0).permutation(64)
    assert same(masker(step.take(order), rows[order], 5, 6), one.take(order))
    for other in [(rows, 6, 5), (rows, 5, 7), (rows, 6, 6), (rows + 64, 5, 6)]:
        again = masker(step, *other)
        both = ((one.targets >= 0) & (again.targets >= 0)).sum() / (one.targets >= 0).sum()
        assert both < 0.25  # of which 0.15 by chance


def test_what_is_asked_of_whom(step: Encoded, few) -> None:
    masked = Masker(Masking(predict="all"), few)(step, np.arange(64), 0, 0)
    only = Masker(Masking(), few)(step, np.arange(64), 0, 0)
    chosen = only.targets >= 0
    assert np.array_equal(masked.tokens, only.tokens)
    assert np.array_equal(masked.targets[chosen], only.targets[chosen])
    assert (masked.targets[~chosen] == UNLABELLED).all()
    nothing = Masker(Masking(probability=0, predict="all"), few)(step, np.arange(64), 0, 0)
    assert np.array_equal(nothing.tokens, step.tokens)
    assert (nothing.targets == UNLABELLED).all()


def test_at_least_one_of_every_row(few) -> None:
    rows = [np.arange(size) % 45 + 5 for size in (1, 2, 3, 50, 400)]
    step = ragged([*rows, np.array([3, 4])])  # the last has nothing to choose
    once = Masker(Masking(probability=0, at_least_one=True), few)(step, np.arange(6), 0, 0)
    assert np.add.reduceat(once.targets >= 0, step.offsets[:-1]).tolist() == [1, 1, 1, 1, 1, 0]
    plain = Masker(Masking(), few)(step, np.arange(6), 0, 0).targets >= 0
    more = Masker(Masking(at_least_one=True), few)(step, np.arange(6), 0, 0).targets >= 0
    before, after = (np.add.reduceat(chosen, step.offsets[:-1]) for chosen in (plain, more))
    assert 0 in before[:5] and (plain <= more).all()
    assert after.tolist() == [*np.maximum(before[:5], 1).tolist(), 0]


def test_next_tokens(bytelevel) -> None:
    step = ragged([np.array([7, 8, 9]), np.array([5]), np.array([6, 5])], specials=False)
    asked = next_tokens(step)
    assert asked.targets.tolist() == [8, 9, NO_TARGET, NO_TARGET, 5, NO_TARGET]
    assert asked.targets.dtype == np.int32 and asked.tokens is step.tokens


def test_what_cannot_be_masked_is_refused(few, bytelevel) -> None:
    with pytest.raises(TutelageError, match="no mask token"):
        Masker(Masking(), bytelevel["gpt2"])
    step = ragged([np.array([7, 8, 9])], specials=False)
    same_words = Masker(Masking(mask=0.0, random=0.0, probability=1.0), bytelevel["gpt2"])(step, np.arange(1), 0, 0)
    assert same_words.tokens.tolist() == same_words.targets.tolist() == [7, 8, 9]
    assert Masker(Masking(probability=0), bytelevel["gpt2"])(step, np.arange(1), 0, 0).tokens.tolist() == [7, 8, 9]
    with pytest.raises(TutelageError, match=r"smoothing=0.7 needs token counts"):
        Masker(Masking(smoothing=0.7), few)
    with pytest.raises(ValidationError, match="the sum must be at most 1"):
        Masking(mask=0.8, random=0.3)
    for wrong in ({"probability": 1.5}, {"smoothing": -1}, {"predict": "none"}, {"whole_words": True}):
        with pytest.raises(ValidationError):
            Masking(**wrong)


def test_a_step_of_a_corpus_is_masked(corpus: Corpus) -> None:
    plan = corpus.epoch("pairs", 64, 0, 0)
    rows = np.random.default_rng(0).permutation(len(plan))[:32]
    encoded = plan.read(rows)
    masked = Masker(Masking(smoothing=0.7), corpus.tokenizer, corpus.counts)(encoded, rows, 0, 0)
    ordinary = int((encoded.tokens > 4).sum())
    assert ordinary == encoded.lengths.sum() - 3 * 32
    assert (masked.targets >= 0).sum() == math.ceil(Fraction("0.15") * ordinary)
    assert np.array_equal(masked.types, encoded.types) and np.array_equal(masked.offsets, encoded.offsets)
