import gzip
import json
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from conftest import data_folder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizerFast, DistilBertTokenizerFast, GPT2TokenizerFast, RobertaTokenizerFast

from tutelage.data.examples import NO_TARGET, UNLABELLED, Examples
from tutelage.data.readers.squad import load_squad, own_questions, read_squad
from tutelage.errors import TutelageError
from tutelage.tasks.spans import answer_chance, best_answers, encode_spans, squad_scores

REAL = data_folder()

CHARS = "abcdefghijklmnopqrstuvwxyz0123456789.,?()-"
WORDPIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARS, *(f"##{c}" for c in CHARS), "what", "cat", "##fish"]
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()), "Ġc", "at"]


def numbered(tokens):
    return {token: i for i, token in enumerate(tokens)}


@pytest.fixture(scope="module")
def tokenizers():
    """Nearly all tokens are single characters (or bytes, with a token for the space)."""
    return {
        "bert": BertTokenizerFast(vocab=numbered(WORDPIECES)),
        "distilbert": DistilBertTokenizerFast(vocab=numbered(WORDPIECES)),
        "roberta": RobertaTokenizerFast(vocab=numbered(BYTES), merges=[("Ġ", "c"), ("a", "t")]),
    }


def message(call, *parts):
    """The error of ``call`` is one line and contains ``parts``."""
    with pytest.raises(TutelageError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def spans(questions, contexts, labels):
    ids = [f"dev/{i}" for i in range(len(labels))]
    return Examples(ids, questions, contexts, np.fromiter(labels, dtype=object, count=len(labels)))


def answered(*golds):
    """Examples with these answers, for the scores."""
    return spans([""] * len(golds), [""] * len(golds), [tuple((0, text) for text in texts) for texts in golds])


# Files


def question(key, *answers, **more):
    return {
        "id": key,
        "question": f"what {key}?",
        "answers": [{"text": t, "answer_start": s} for t, s in answers],
        **more,
    }


def tree(context, *questions):
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def write(path, content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def test_folder(tmp_path):
    write(tmp_path / "train-v1.1.json", tree("a cat", question("x", ("cat", 2))))
    write(tmp_path / "dev-v1.1.json.gz", tree("a dog, a dog", question("y", ("dog", 9), ("a dog", 0)), question("z")))
    data = load_squad("squad", tmp_path)
    assert (data.task, data.kind, data.labels, data.metrics) == ("squad", "spans", (), ("f1", "exact_match"))
    assert list(data.train.ids) == ["train/x"] and list(data.train.texts) == ["what x?"]
    assert list(data.train.pairs) == ["a cat"]
    assert list(data.dev) == ["dev"] and list(data.dev["dev"].ids) == ["dev/y", "dev/z"]
    assert data.dev["dev"].labels.tolist() == [((9, "dog"), (0, "a dog")), None]
    assert data.dev["dev"].labelled.tolist() == [True, False]
    assert data.sources == {"train": "train-v1.1.json", "dev": "dev-v1.1.json.gz"}
    message(lambda: load_squad("squad2", tmp_path), "train-v2.0.json", str(tmp_path), "data_dir")


def test_version_2(tmp_path):
    for part in ("train", "dev"):
        impossible = question("no", is_impossible=True, plausible_answers=[{"text": "cat", "answer_start": 2}])
        entries = question("yes", ("cat", 2), is_impossible=False), impossible
        write(tmp_path / f"{part}-v2.0.json", tree("a cat", *entries))
    data = load_squad("squad2", tmp_path)
    assert data.task == "squad2"
    assert data.train.labels.tolist() == [((2, "cat"),), ()]
    assert data.train.labelled.all()


def test_questions_without_answers_are_unknown(tmp_path):
    bare = question("x")
    del bare["answers"]
    examples, source, _ = read_squad(write(tmp_path / "a.json", tree("a cat", bare)), "test")
    assert list(examples.ids) == ["test/x"] and source == "a.json"
    assert examples.labels.tolist() == [None]


def test_answers_that_are_elsewhere(tmp_path):
    context = "the cat and the dog, the dog" + " and so on" * 5 + " and the fox"
    entries = [
        question("moved", ("cat", 6)),
        question("beyond the start", ("the cat", -3)),
        question("before", ("the cat", 20)),
        question("twice", ("dog", 14)),
        question("far", ("fox", 4)),
        question("empty", ("", 4), (" ", 3)),
        question("some", ("wolf", 4), ("dog", 16), ("fox", 400)),
    ]
    examples, source, _ = read_squad(write(tmp_path / "a.json", tree(context, *entries)), "train")
    assert examples.labels.tolist() == [
        ((4, "cat"),),
        ((0, "the cat"),),
        ((0, "the cat"),),
        None,
        None,
        None,
        ((16, "dog"),),
    ]
    assert source == "a.json without 6 answers that are not in their contexts"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"\xff", ["UTF-8"]),
        (b'{"data": [\n}', ["line 2", "not JSON"]),
        ([], ["no rows"]),
        ({}, ["no list 'data'", "SQuAD"]),
        ({"data": [{"paragraphs": []}, {"title": "x"}]}, ["article 2", "no list 'paragraphs'"]),
        ({"data": [{"paragraphs": ["text"]}]}, ["article 1, paragraph 1", "no string 'context'"]),
        (tree("c", question("x"), {"id": 5, "question": "q"}), ["paragraph 1, question 2", "no string 'id'"]),
        (tree("c", {"id": "x"}), ["question 1", "no string 'question'"]),
        (tree("c", question("x", ("c", "0"))), ["question 1", "no whole number 'answer_start'"]),
        (tree("c", question("x", (["c"], 0))), ["question 1", "no string 'text'"]),
        (tree("c", {"id": "x", "question": "q", "answers": {"text": "c"}}), ["question 1", "no list 'answers'"]),
        (tree("c", question("x"), question("x")), ["several", "'x'"]),
        (tree("c"), ["no questions"]),
    ],
)
def test_malformed_files(tmp_path, content, parts):
    path = write(tmp_path / "a.json", content)
    message(lambda: read_squad(path, "dev"), str(path), *parts)


def test_files_that_cannot_be_read(tmp_path):
    message(lambda: read_squad(tmp_path / "no.json", "dev"), "no.json", "cannot be read")
    message(lambda: read_squad(tmp_path, "dev"), str(tmp_path), "cannot be read")
    (tmp_path / "b.json.gz").write_bytes(b"not packed")
    message(lambda: read_squad(tmp_path / "b.json.gz", "dev"), "b.json.gz", "cannot be read")


def test_hub(monkeypatch):
    def fake(name):
        assert name == "rajpurkar/squad_v2"
        columns = {
            "id": ["x", "y"],
            "question": ["q", "r"],
            "context": ["a cat", "a dog"],
            "answers": [{"text": ["cat", "fox"], "answer_start": [2, 2]}, {"text": [], "answer_start": []}],
        }
        part = datasets.Dataset.from_dict(columns)
        return datasets.DatasetDict({"train": part, "validation": part})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    data = load_squad("squad2", None)
    assert list(data.train.ids) == ["train/x", "train/y"] and list(data.train.pairs) == ["a cat", "a dog"]
    assert data.dev["dev"].labels.tolist() == [((2, "cat"),), ()]
    assert data.sources["dev"].startswith("rajpurkar/squad_v2 on the Hub: validation without 1 answers")


def test_hub_out_of_reach(monkeypatch):
    def fail(name):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message(lambda: load_squad("squad", None), "rajpurkar/squad", "no route", "data_dir")


# Windows


def test_one_window_by_hand(tokenizers):
    tokenizer = tokenizers["bert"]
    examples = spans(["what a?"], ["My Catfish a12"], [((3, "Catfish"), (11, "a12"))])
    encoded = encode_spans(examples, tokenizer)
    tokens = ["[CLS]", "what", "a", "?", "[SEP]", "m", "##y", "cat", "##fish", "a", "##1", "##2", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(encoded.tokens) == tokens
    assert encoded.types.tolist() == [0] * 5 + [1] * 8
    assert encoded.targets.tolist() == [UNLABELLED] + [NO_TARGET] * 4 + [UNLABELLED] * 7 + [NO_TARGET]
    assert encoded.windows.chars[5:12].tolist() == [[0, 1], [1, 2], [3, 6], [6, 10], [11, 12], [12, 13], [13, 14]]
    assert (encoded.windows.chars[encoded.targets == NO_TARGET] == -1).all() and (encoded.windows.chars[0] == -1).all()
    assert encoded.labels.tolist() == [[3, 4]] and encoded.labels.dtype == np.int64
    assert encoded.offsets.tolist() == [0, 13] and encoded.windows.of.tolist() == [0]
    assert encoded.cut.tolist() == [False]
    assert (encoded.pad_token, encoded.separator) == (0, 3)
    assert (encoded.tokens.dtype, encoded.types.dtype, encoded.targets.dtype) == (np.int32, np.int8, np.int32)
    assert encoded.windows.chars.dtype == np.int32


def test_roberta_has_no_types_and_two_separators(tokenizers):
    encoded = encode_spans(spans(["a"], ["b cat"], [((2, "cat"),)]), tokenizers["roberta"])
    tokens = ["<s>", "a", "</s>", "</s>", "b", "Ġc", "at", "</s>"]
    assert tokenizers["roberta"].convert_ids_to_tokens(encoded.tokens) == tokens
    assert encoded.types is None
    assert (encoded.targets == UNLABELLED).tolist() == [True, False, False, False, True, True, True, False]
    assert encoded.labels.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (((0, "My"),), (1, 2)),
        (((12, "f"),), (6, 6)),
        (((8, "sh e"),), (4, 5)),  # a token that is only partly in the answer
        (((2, " Catfish "),), (3, 4)),
        (((10, " ef "),), (5, 6)),
        ((), (0, 0)),
        (None, (-1, -1)),
    ],
)
def test_labels(tokenizers, answer, label):
    encoded = encode_spans(spans(["what"], ["My Catfish ef "], [answer]), tokenizers["bert"])
    assert tuple(encoded.labels[0]) == label


def test_windows_overlap_and_cover(tokenizers):
    context = "abcdefghij klmnopqrst uvwxyz0123"
    examples = spans(["a", "bc"], [context, "abc"], [((9, "j k"),), ((0, "abc"),)])
    # 13 tokens for the context beside [CLS] a [SEP] [SEP]; each window starts 13 - 5 tokens after the one before it.
    encoded = encode_spans(examples, tokenizers["bert"], max_length=17, stride=5, max_question=4)
    assert encoded.windows.of.tolist() == [0, 0, 0, 0, 1]
    assert encoded.lengths.tolist() == [17, 17, 17, 10, 8]
    seen = [encoded.windows.chars[a:b][encoded.windows.chars[a:b, 0] >= 0, 0] for a, b in pairwise(encoded.offsets)]
    for window, following in pairwise(seen[:4]):
        assert window[-5:].tolist() == following[:5].tolist()
    assert sorted({int(c) for window in seen[:4] for c in window}) == [i for i, c in enumerate(context) if c != " "]
    # "j k" is tokens 9 and 10 of the context: wholly in the windows that start at tokens 0 and 8.
    assert encoded.labels.tolist() == [[10, 11], [2, 3], [0, 0], [0, 0], [1, 3]]


def test_answers_at_the_edges_of_windows(tokenizers):
    context = "abcdefghijklmnopqrst"
    for start in range(18):
        examples = spans(["a"], [context], [((start, context[start : start + 3]),)])
        encoded = encode_spans(examples, tokenizers["bert"], max_length=12, stride=4, max_question=1)
        whole = [at <= start and start + 3 <= at + 8 for at in (0, 4, 8, 12)]
        assert [(a, b) != (0, 0) for a, b in encoded.labels] == whole
        assert [[at + a - 1, at + b - 1] for at, (a, b) in zip((0, 4, 8, 12), encoded.labels, strict=True) if a] == [
            [start, start + 2]
        ] * sum(whole)


def test_long_questions_are_cut(tokenizers):
    examples = spans(["abcde cat", "abc", "abcd"], ["c", "c", "c"], [((0, "c"),)] * 3)
    encoded = encode_spans(examples, tokenizers["bert"], max_length=20, stride=5, max_question=4)
    assert encoded.cut.tolist() == [True, False, False] and encoded.truncated == 1
    assert (
        encoded.tokens[encoded.offsets[0] : encoded.offsets[1]].tolist()[1:5]
        == (encoded.tokens[encoded.offsets[2] : encoded.offsets[3]].tolist()[1:5])
    )
    assert encoded.lengths.tolist() == [8, 7, 8]
    # The bytes of é are two tokens with one place: both go, or the one left would come back as two.
    examples = spans(["abcéd"], ["c"], [((0, "c"),)])
    encoded = encode_spans(examples, tokenizers["roberta"], max_length=20, stride=5, max_question=4)
    assert tokenizers["roberta"].convert_ids_to_tokens(encoded.tokens)[:5] == ["<s>", "a", "b", "c", "</s>"]
    assert encoded.cut.tolist() == [True]


def test_all_rows_of_a_cut_question_are_cut(tokenizers):
    encoded = encode_spans(spans(["abcdef"], ["abcdef " * 5], [()]), tokenizers["bert"], 20, 5, 4)
    assert len(encoded) > 1 and encoded.cut.all()


def test_what_cannot_be_encoded(tokenizers):
    examples = spans(["a"], ["b"], [()])
    message(lambda: encode_spans(examples, tokenizers["bert"], 40, 20, 17), "max_length 40", "20 tokens", "stride=20")
    assert len(encode_spans(examples, tokenizers["bert"], 40, 19, 17)) == 1
    gpt = GPT2TokenizerFast(vocab=numbered(BYTES), merges=[])
    message(lambda: encode_spans(examples, gpt), "[CLS]", "GPT2")


def test_no_examples(tokenizers):
    encoded = encode_spans(spans([], [], []), tokenizers["bert"])
    assert len(encoded) == 0 and encoded.labels.shape == (0, 2) and encoded.windows.chars.shape == (0, 2)


# Answers


def units(encoded):
    """``(row, asked)`` of each unit, where ``asked`` counts within the row."""
    rows = [
        (row, place)
        for row, (start, stop) in enumerate(pairwise(encoded.offsets))
        for place in range(int((encoded.targets[start:stop] != NO_TARGET).sum()))
    ]
    return np.array(rows)


def perfect(encoded):
    """The logits of a model that knows the labels."""
    logits = np.zeros((len(units(encoded)), 2), dtype=np.float32)
    for unit, (row, place) in enumerate(units(encoded)):
        logits[unit] = place == encoded.labels[row]
    return logits


def random_examples(count, seed):
    """Contexts of random words with an answer of a few of them."""
    generator = np.random.default_rng(seed)
    contexts, labels = [], []
    for _ in range(count):
        words = ["".join(generator.choice(list("abcd(."), generator.integers(1, 7))) for _ in range(30)]
        first = int(generator.integers(0, 27))
        answer = " ".join(words[first : first + int(generator.integers(1, 4))])
        contexts.append(" ".join(words))
        labels.append(((len(" ".join(words[:first])) + (first > 0), answer),) if generator.random() < 0.8 else ())
    return spans(["what cat?"] * count, contexts, labels)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_perfect_logits_give_the_answers(tokenizers, family):
    examples = random_examples(40, 5)
    encoded = encode_spans(examples, tokenizers[family], max_length=70, stride=30, max_question=12)
    assert len(encoded) > 80
    texts = best_answers(perfect(encoded), encoded, examples, with_null=True)
    assert texts == [label[0][1] if label else "" for label in examples.labels]
    assert squad_scores(texts, examples) == {"f1": 1.0, "exact_match": 1.0}


def oracle(logits, encoded, examples, longest):
    """Best text and margin of no answer, pair by pair."""
    best = [(-np.inf, "")] * len(examples)
    nulls = [np.inf] * len(examples)
    table = units(encoded)
    for row, example in enumerate(encoded.windows.of):
        mine = np.flatnonzero(table[:, 0] == row)
        chars = encoded.windows.chars[encoded.offsets[row] : encoded.offsets[row + 1]]
        chars = chars[chars[:, 0] >= 0]
        nulls[example] = min(nulls[example], float(logits[mine[0]].astype(np.float64).sum()))
        for i in range(1, len(mine)):
            for j in range(i, min(i + longest, len(mine))):
                score = float(logits[mine[i], 0]) + float(logits[mine[j], 1])
                if score > best[example][0]:
                    best[example] = score, examples.pairs[example][chars[i - 1, 0] : chars[j - 1, 1]].strip()
    return [text for _, text in best], [null - score for null, (score, _) in zip(nulls, best, strict=True)]


@pytest.mark.parametrize("longest", [1, 4, 1000])
def test_best_answers_is_the_best_of_all_pairs(tokenizers, longest):
    examples = random_examples(6, 7)
    encoded = encode_spans(examples, tokenizers["bert"], max_length=60, stride=20, max_question=12)
    logits = np.random.default_rng(3).normal(size=(len(units(encoded)), 2)).astype(np.float32)
    logits[units(encoded)[:, 1] == 0] += np.random.default_rng(4).normal(2.5, 1, size=(len(encoded), 1))
    texts, _ = oracle(logits, encoded, examples, longest)
    assert best_answers(logits, encoded, examples, with_null=False, longest=longest) == texts
    none = set()
    for shift in (-3, 0, 3):  # of the score of no answer
        moved = logits + np.float32(shift) * (units(encoded)[:, 1:] == 0)
        _, margins = oracle(moved, encoded, examples, longest)
        expected = ["" if margin > 0 else text for text, margin in zip(texts, margins, strict=True)]
        assert best_answers(torch.from_numpy(moved), encoded, examples, with_null=True, longest=longest) == expected
        none |= {text == "" for text in expected}
    assert none == {True, False}
    # Where the rows stand does not matter.
    order = np.random.default_rng(5).permutation(len(encoded))
    turned = np.concatenate([logits[units(encoded)[:, 0] == row] for row in order])
    assert best_answers(turned, encoded.take(order), examples, with_null=False, longest=longest) == texts


def test_no_answer_by_hand(tokenizers):
    # Windows "abcdefgh", "efghijkl": two rows of nine units.
    examples = spans(["a"], ["abcdefghijkl"], [()])
    encoded = encode_spans(examples, tokenizers["bert"], max_length=12, stride=4, max_question=1)
    logits = np.zeros((18, 2), dtype=np.float32)
    logits[3, 0], logits[4, 1] = 2, 1  # "cd": 3
    logits[0] = 5, 5  # no answer in the first window: 10
    logits[9] = 2, 1.5  # in the second: 3.5, which counts
    assert best_answers(logits, encoded, examples, with_null=False) == ["cd"]
    assert best_answers(logits, encoded, examples, with_null=True) == [""]
    logits[9, 1] = 1  # as good as "cd", which then wins
    assert best_answers(logits, encoded, examples, with_null=True) == ["cd"]
    logits[4, 1], logits[2] = 0, (0.5, 9)  # an end before the start is none
    assert best_answers(logits, encoded, examples, with_null=False) == ["b"]


def test_a_context_without_tokens(tokenizers):
    examples = spans(["a", "a"], [" ", "bc"], [(), ((0, "b"),)])
    encoded = encode_spans(examples, tokenizers["bert"])
    # Of equally good answers the first and shortest is taken.
    assert best_answers(np.zeros((4, 2)), encoded, examples, with_null=True) == ["", "b"]


# Scores


@pytest.mark.parametrize(
    ("prediction", "answers", "f1", "exact"),
    [
        ("The Cat's!", ["cats"], 1, 1),
        ("  an  apple,\ta pear ", ["apple pear"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article within a word is none
        ("big red cat", ["red cat sat"], 2 / 3, 0),
        ("cat red", ["red cat"], 1, 0),
        ("b b", ["b"], 2 / 3, 0),
        ("U.S.", ["US"], 1, 1),
        ("well-known", ["well known"], 0, 0),
        ("1990–91", ["199091"], 0, 0),  # a dash beyond ASCII is no punctuation
        ("red cat", ["dog", "cat", "red cat fish"], 4 / 5, 0),
        ("red cat", ["the red", "Red Cat", "cat"], 1, 1),
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("cat", [], 0, 0),
        (".", [".", "war"], 0, 0),  # an answer of which nothing remains does not count beside others
        ("war", [".", "war"], 1, 1),
        ("", ["the"], 1, 1),
    ],
)
def test_scores_by_hand(prediction, answers, f1, exact):
    result = squad_scores([prediction], answered(answers))
    assert result == pytest.approx({"f1": f1, "exact_match": exact})
    assert list(result) == ["f1", "exact_match"] and all(type(value) is float for value in result.values())


def test_scores_are_means_over_questions():
    result = squad_scores(["red cat", "", "x", "y"], answered(["cat"], [], [], ["y"]))
    assert result == pytest.approx({"f1": (2 / 3 + 1 + 0 + 1) / 4, "exact_match": 2 / 4})
    with pytest.raises(ValueError, match="zip"):
        squad_scores(["x"], answered(["x"], ["y"]))


def test_chance():
    assert answer_chance(answered(["cat"], ["dog"])) == {"f1": 0.0, "exact_match": 0.0}
    assert answer_chance(answered(["cat"], [], ["dog"], [])) == {"f1": 0.5, "exact_match": 0.5}


# The real data


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "squad").is_dir(), reason="the real data is not here")
def test_real_squad():
    data = load_squad("squad", REAL / "squad")
    assert (len(data.train), len(data.dev["dev"])) == (87599, 10570)
    assert data.train.labelled.all() and data.dev["dev"].labelled.all()
    assert data.sources == {"train": "train-v1.1.json.gz", "dev": "dev-v1.1.json.gz"}
    for context, answers in zip(data.train.pairs, data.train.labels, strict=True):
        assert all(context.startswith(text, start) for start, text in answers)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "squad").is_dir(), reason="the real data is not here")
@pytest.mark.parametrize(("version", "count", "floor"), [("v1.1", 10570, 0.0), ("v2.0", 11873, 5945 / 11873)])
def test_real_answers_come_back(version, count, floor):
    examples, *_ = read_squad(REAL / "squad" / f"dev-{version}.json.gz", "dev")
    assert len(examples) == count
    assert answer_chance(examples) == pytest.approx({"f1": floor, "exact_match": floor})
    few = examples.take(np.arange(0, count, 10))
    tokenizer = BertTokenizerFast(str(REAL / "vocab" / "bert-base-uncased-vocab.txt"))
    encoded = encode_spans(few, tokenizer)
    scores = squad_scores(best_answers(perfect(encoded), encoded, few, with_null=version == "v2.0"), few)
    # Of all, not 1: a few answers end within a token, a few are longer than 30 tokens.
    assert 0.995 < scores["exact_match"] <= scores["f1"] <= 1


def test_a_held_out_context_is_never_read_in_training(tmp_path):
    paragraphs = [
        {
            "context": f"anna lives in town {n}",
            "qas": [
                {"id": f"{n}-{k}", "question": "who?", "answers": [{"text": "anna", "answer_start": 0}]}
                for k in range(3)
            ],
        }
        for n in range(20)
    ]
    (tmp_path / "own.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    data = own_questions(tmp_path / "own.json", None)
    assert len(data.dev["dev"]) == 6 and len(data.train) == 54
    assert not set(data.dev["dev"].pairs) & set(data.train.pairs)
