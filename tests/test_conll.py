from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from conftest import data_folder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizerFast, RobertaTokenizerFast

from tutelage.data.examples import NO_TARGET, UNLABELLED, Examples
from tutelage.data.readers.conll import bio, load_conll, read_conll
from tutelage.errors import TutelageError
from tutelage.tasks.tokens import best_tags, encode_words, entities, tag_chance, tag_scores

REAL = data_folder()
NAMES = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
WORDPIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "in", "rome", "ro", "##man", "##s", "new", ".", "john"]
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()), "in", "Ġin"]


@pytest.fixture(scope="module")
def bert():
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(WORDPIECES)})


@pytest.fixture(scope="module")
def roberta():
    vocabulary = {token: i for i, token in enumerate(BYTES)}
    return RobertaTokenizerFast(vocab=vocabulary, merges=[("i", "n"), ("Ġ", "in")])


def message(call, *parts):
    """The error of ``call`` is one line and contains ``parts``."""
    with pytest.raises(TutelageError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def sentences(*rows):
    """Examples of ``(text, labels)``."""
    texts, labels = zip(*rows, strict=True)
    labels = [label if label is None else np.array(label, dtype=np.int64) for label in labels]
    ids = [f"dev/{i}" for i in range(len(texts))]
    return Examples(ids, list(texts), None, np.fromiter(labels, dtype=object, count=len(labels)))


def tagged(*rows):
    """Examples whose words do not matter, with these tags."""
    return sentences(*((" ".join("x" * len(tags)), [NAMES.index(tag) for tag in tags]) for tags in rows))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Files

ENG = (
    "-DOCSTART- -X- O O\n\nJohn NNP I-NP I-PER\nMary NNP I-NP B-PER\nAnn NNP I-NP I-PER\nin IN I-PP O\nRome NNP I-NP I-LOC\n"
    "\n\n-DOCSTART- -X- O O\n\nNew NNP I-NP I-LOC\nYork NNP I-NP I-LOC\nJohn NNP I-NP I-PER\n. . O O\n"
)


@pytest.mark.parametrize("names", [("eng.train", "eng.testa"), ("train.txt", "valid.txt")])
def test_folder(tmp_path, names):
    write(tmp_path / names[0], ENG)
    write(tmp_path / names[1], "Rome NNP I-NP I-LOC\n")
    data = load_conll(tmp_path)
    assert (data.task, data.kind, data.labels) == ("conll2003", "tokens", NAMES)
    assert data.metrics == ("f1", "accuracy")
    assert list(data.train.texts) == ["John Mary Ann in Rome", "New York John ."] and data.train.pairs is None
    assert [[NAMES[k] for k in row] for row in data.train.labels] == [
        ["B-PER", "B-PER", "I-PER", "O", "B-LOC"],
        ["B-LOC", "I-LOC", "B-PER", "O"],
    ]
    assert data.train.labels.dtype == object and data.train.labels[0].dtype == np.int64
    assert list(data.train.ids) == ["train/0", "train/1"]
    assert list(data.dev) == ["dev"] and list(data.dev["dev"].ids) == ["dev/0"]
    assert data.dev["dev"].labels[0].tolist() == [NAMES.index("B-LOC")]
    assert data.sources == {"train": names[0], "dev": names[1]}


def test_sentences_of_the_same_length(tmp_path):
    examples, _ = read_conll(write(tmp_path / "a", "a O\nb O\n\nc O\nd O\n"), "x")
    assert examples.labels.shape == (2,) and examples.labelled.all()
    assert examples.take([1, 0]).labels[0].tolist() == [0, 0]


def test_columns_between_any_spaces(tmp_path):
    content = "\ufeff John \t B-PER \r\nNew\u00a0York\tx\ty\tB-LOC\r\n\u2028 O\r\n \t\r\n. O"
    examples, tags = read_conll(write(tmp_path / "a", content), "test")
    assert list(examples.texts) == ["John New\u00a0York \u2028", "."]
    assert [row.tolist() for row in examples.labels] == [[2, 1, 0], [0]]
    assert tags == NAMES  # I-LOC and I-PER do not occur, but their types do


def test_spaces_in_words_and_comments(tmp_path):
    content = "# id 1\tdomain=en\n1 000\tB-NUM\neuros \tO\n#\tO\n\n# id 2\nnow\tO\n"
    examples, _ = read_conll(write(tmp_path / "a", content), "test")
    assert list(examples.texts) == ["1\u00a0000 euros #", "now"]
    content = "# id 1\nin NN O\n# NN O\n"
    assert list(read_conll(write(tmp_path / "a", content), "test")[0].texts) == ["in #"]


def test_tags_given(tmp_path):
    path = write(tmp_path / "a", "Rome I-LOC\n")
    examples, tags = read_conll(path, "dev", ("B-LOC", "O", "I-LOC"))
    assert examples.labels[0].tolist() == [0] and tags == ("B-LOC", "O", "I-LOC")
    path = write(tmp_path / "a", "\nin O\nin O\n\nin O\nRome B-LOC\nMars I-PLA\n")
    message(lambda: read_conll(path, "dev", NAMES), f"{path}, line 7", "'B-PLA'", "O, B-LOC, B-PER")


def test_errors(tmp_path):
    path = tmp_path / "a"
    for content, parts in (
        ("a O\n\nRome\n", ["line 3", "'Rome'", "no tag"]),
        ("Rome S-LOC\n", ["line 1", "'S-LOC'", "B-..."]),
        ("Rome LOC\n", ["line 1", "'LOC'"]),
        ("Rome I-\n", ["line 1", "'I-'"]),
        ("-DOCSTART- -X- O O\n\n", ["no sentences"]),
        (b"caf\xe9 O\n", ["UTF-8"]),
    ):
        write(path, content)
        message(lambda: read_conll(path, "train"), str(path), *parts)
    message(lambda: read_conll(tmp_path / "no", "train"), "no", "cannot be read")
    message(lambda: load_conll(tmp_path), "eng.train or train.txt", str(tmp_path), "data_dir")


def test_hub(monkeypatch):
    def fake(name, revision):
        assert (name, revision) == ("eriktks/conll2003", "refs/convert/parquet")
        names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
        features = {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
        part = datasets.Dataset.from_dict(
            {"tokens": [["in", "New", "York"], ["John"]], "ner_tags": [[0, 3, 4], [1]]}, datasets.Features(features)
        )
        return datasets.DatasetDict({"train": part, "validation": part, "test": part})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    data = load_conll(None)
    assert data.labels == NAMES and list(data.train.texts) == ["in New York", "John"]
    assert [row.tolist() for row in data.dev["dev"].labels] == [[0, 1, 3], [2]]
    assert data.sources["dev"] == "eriktks/conll2003 on the Hub: validation"


def test_hub_out_of_reach(monkeypatch):
    def fail(name, revision):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message(lambda: load_conll(None), "eriktks/conll2003", "no route", "data_dir")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-LOC I-PER", "B-PER B-LOC B-PER"),
        ("B-PER I-PER B-PER O", "B-PER I-PER B-PER O"),
        ("B-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
        ("", ""),
    ],
)
def test_bio(tags, expected):
    assert bio(tags.split()) == expected.split()
    assert bio(bio(tags.split())) == expected.split()


# Tokens


def rows(encoded, values):
    return [values[start:stop].tolist() for start, stop in pairwise(encoded.offsets)]


def test_first_pieces_are_asked(bert):
    encoded = encode_words(sentences(("John in Romans.", [2, 0, 1]), ("new rome", [3, -1]), ("in", None)), bert, 32)
    assert bert.convert_ids_to_tokens(encoded.tokens[: encoded.offsets[1]]) == [
        *("[CLS]", "john", "in", "ro", "##man", "##s", ".", "[SEP]")
    ]
    n = NO_TARGET
    assert rows(encoded, encoded.targets) == [[n, 2, 0, 1, n, n, n, n], [n, 3, UNLABELLED, n], [n, UNLABELLED, n]]
    assert encoded.types.tolist() == [0] * len(encoded.tokens)
    assert encoded.labels[0].tolist() == [2, 0, 1] and encoded.labels[2] is None
    assert encoded.cut.tolist() == [False] * 3 and encoded.windows is None
    assert (encoded.pad_token, encoded.separator) == (0, 3)
    assert (encoded.tokens.dtype, encoded.types.dtype, encoded.targets.dtype) == (np.int32, np.int8, np.int32)


def test_words_that_do_not_fit_are_o(bert):
    examples = sentences(("in romans in rome", [1, 2, 3, 4]), ("in", [1]))
    n = NO_TARGET
    for length, asked in ((7, [1, 2, n, n, 3]), (6, [1, 2, n, n]), (5, [1, 2, n]), (4, [1, 2]), (3, [1])):
        encoded = encode_words(examples, bert, length)
        assert rows(encoded, encoded.targets) == [[n, *asked, n], [n, 1, n]]
        assert encoded.cut.tolist() == [True, False] and encoded.truncated == 1
        logits = np.eye(5)[encoded.targets[encoded.targets != NO_TARGET]]
        seen = [NAMES[k] for k in asked if k != n]
        assert best_tags(logits, encoded, examples, NAMES) == [seen + ["O"] * (4 - len(seen)), ["B-LOC"]]
    assert not encode_words(examples, bert, 8).cut.any()


@pytest.mark.parametrize("length", [32, 5])
def test_words_of_which_nothing_is_left_keep_their_place(bert, length):
    examples = sentences(("in \u200b rome  in \u200b", [1, 2, 3, 0, 4, 2]))  # the fourth word is empty
    encoded = encode_words(examples, bert, length)
    n = NO_TARGET
    assert encoded.targets.tolist() == [n, *[1, 2, 3, 0, 4, 2][: length - 2], n]
    pieces = ["in", "[UNK]", "rome", "[UNK]", "in", "[UNK]"][: length - 2]
    assert bert.convert_ids_to_tokens(encoded.tokens) == ["[CLS]", *pieces, "[SEP]"]


def test_roberta_sees_the_spaces_between_words(roberta):
    encoded = encode_words(sentences(("in in \u200b .", [0, 1, 2, 3])), roberta, 32)
    tokens = roberta.convert_ids_to_tokens(encoded.tokens)
    assert tokens[:4] == ["<s>", "Ġin", "Ġin", "Ġ"] and tokens[-3:] == ["Ġ", ".", "</s>"]
    assert encoded.targets[encoded.targets != NO_TARGET].tolist() == [0, 1, 2, 3]
    assert encoded.types is None


def test_no_sentences(bert):
    encoded = encode_words(sentences(("in", [0])).take([]), bert, 8)
    assert len(encoded) == 0 and len(encoded.tokens) == 0


def test_best_tags_of_a_tensor(bert):
    examples = sentences(("in rome", [0, 0]), ("romans", [0]))
    encoded = encode_words(examples, bert, 8)
    logits = torch.tensor([[0.0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [-1, -2, -0.5, -1, -1]], requires_grad=True)
    assert best_tags(logits, encoded, examples, NAMES) == [["B-LOC", "I-PER"], ["B-PER"]]


# Scores


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("O I-PER I-PER", [("PER", 1, 2)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
        ("I-LOC I-PER O I-PER", [("LOC", 0, 0), ("PER", 1, 1), ("PER", 3, 3)]),
        ("", []),
    ],
)
def test_entities(tags, found):
    assert entities(tags.split()) == found


def test_scores_by_hand():
    examples = tagged(["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"])
    predictions = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"]]  # right: one of three said, of three there
    assert tag_scores(predictions, examples, NAMES) == pytest.approx(
        {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 4 / 6}
    )
    predictions = [["O", "O", "O", "I-LOC"], ["O", "O"]]
    assert tag_scores(predictions, examples, NAMES) == pytest.approx(
        {"f1": 2 * 1 / (1 + 3), "precision": 1, "recall": 1 / 3, "accuracy": 2 / 6}
    )
    with pytest.raises(ValueError, match="zip"):
        tag_scores([["O"], ["O", "O"]], examples, NAMES)


def test_words_of_unknown_class_are_left_out():
    examples = sentences(("a b c", [2, -1, 4]))
    assert tag_scores([["B-PER", "B-LOC", "I-PER"]], examples, NAMES)["f1"] == 1
    assert tag_scores([["B-PER", "O", "O"]], examples, NAMES) == pytest.approx(
        {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1 / 2}
    )


def test_chance():
    examples = tagged(["B-PER", "O", "O", "O"])
    assert tag_chance(examples, NAMES) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.75}
    assert tag_chance(tagged(["O"]), NAMES)["f1"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_as_seqeval(seed):
    metrics = pytest.importorskip("seqeval.metrics")
    generator = np.random.default_rng(seed)
    chances = [0.3, 0.1, 0.1, 0.25, 0.25]  # many I- without a beginning

    def draw():
        return [[NAMES[k] for k in generator.choice(5, size=n, p=chances)] for n in (1, 2, 5, 12, 40)]

    wanted = [bio(row) if seed % 2 else row for row in draw()]
    noise = draw()
    said = [
        [a if generator.random() < 0.7 else b for a, b in zip(*pair, strict=True)]
        for pair in zip(wanted, noise, strict=True)
    ]
    result = tag_scores(said, tagged(*wanted), NAMES)
    assert 0 < result["f1"] < 1
    assert result == pytest.approx(
        {
            "f1": metrics.f1_score(wanted, said),
            "precision": metrics.precision_score(wanted, said),
            "recall": metrics.recall_score(wanted, said),
            "accuracy": metrics.accuracy_score(wanted, said),
        }
    )


# The real data


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "conll2003").is_dir(), reason="the real data is not here")
def test_real_conll():
    data = load_conll(REAL / "conll2003")
    assert (len(data.train), len(data.dev["dev"])) == (14041, 3250)
    assert data.labels == (*("O", "B-LOC", "B-MISC", "B-ORG", "B-PER"), *("I-LOC", "I-MISC", "I-ORG", "I-PER"))
    found = [entity for row in data.dev["dev"].labels for entity in entities([data.labels[k] for k in row])]
    # As in the paper of the shared task, table 2.
    assert {t: sum(entity[0] == t for entity in found) for t in ("LOC", "MISC", "ORG", "PER")} == {
        "LOC": 1837,
        "MISC": 922,
        "ORG": 1341,
        "PER": 1842,
    }


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "conll2003").is_dir(), reason="the real data is not here")
def test_real_tags_come_back():
    data = load_conll(REAL / "conll2003")
    dev, names = data.dev["dev"], data.labels
    tokenizer = BertTokenizerFast(str(REAL / "vocab" / "bert-base-uncased-vocab.txt"))
    encoded = encode_words(dev, tokenizer, 512)
    assert not encoded.cut.any()
    logits = np.eye(len(names))[encoded.targets[encoded.targets != NO_TARGET]]
    assert set(tag_scores(best_tags(logits, encoded, dev, names), dev, names).values()) == {1.0}
    assert tag_chance(dev, names)["f1"] == 0
