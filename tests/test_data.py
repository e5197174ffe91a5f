import gzip
import json

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import data_folder
from transformers import PreTrainedTokenizerFast

from tutelage.data.config import DataConfig
from tutelage.data.examples import Examples
from tutelage.data.parts import part_of
from tutelage.data.readers.glue import GLUE, load_glue
from tutelage.data.tokenizers import load_tokenizer, tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.methods.finetune import finetune
from tutelage.recipes.config import RunConfig
from tutelage.run.loading import evaluated_notes, load_split
from tutelage.students.specs import Checkpoint
from tutelage.tasks.load import load_data
from tutelage.tasks.tables import load_files, read_unlabeled

REAL = data_folder()


def write(path, content):
    """``content`` as text, bytes, rows of JSON lines, or a data frame, packed if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pd.DataFrame):
        content.to_parquet(path)
        return path
    if isinstance(content, list):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def load(train, dev=None, unlabeled=None, pair=None, seed=None, **options):
    """What a configuration reads; with ``seed`` the table alone, held out by it."""
    config = DataConfig(train=train, dev=dev, unlabeled=unlabeled, text_pair=pair, **options)
    return load_data(config) if seed is None else load_files(config, seed=seed)


def unlabelled(path, text, pair, like):
    return read_unlabeled(path, DataConfig(text=text, text_pair=pair), like)[0]


def table(labels):
    return "text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))


def message(call, *parts):
    """The error of ``call`` is one line and contains ``parts``."""
    with pytest.raises(TutelageError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


# GLUE


@pytest.fixture
def glue(tmp_path):
    """A folder as GLUE comes, with traps."""
    entailment = 'index\tsentence1\tsentence2\tlabel\n0\ta " b\tc\tentailment\n1\td\te" f\tnot_entailment\n'
    for part in ("train", "dev"):
        write(tmp_path / "CoLA" / f"{part}.tsv", 'x\t1\t\tA "lone quote\nx\t0\t*\tline\u2028separator, kept\n')
        write(tmp_path / "RTE" / f"{part}.tsv", entailment)
        write(
            tmp_path / "MRPC" / f"{part}.tsv",
            '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\t"first\tsecond\r\n0\t7\t8\tthird\t"fourth"\r\n',
        )
        write(
            tmp_path / "STS-B" / f"{part}.tsv",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
            "0\tg\tf\ty\to\ts\ts\tone\ttwo\t3.250\n",
        )
        write(
            tmp_path / "QQP" / f"{part}.tsv",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tcut in\ntwo\tq\t1\n1\t1\t2\t\tr\t1\n",
        )
    write(tmp_path / "QNLI" / "train_rebuilt.tsv.gz", entailment.replace("sentence1", "question").replace("ce2", "ce"))
    write(tmp_path / "QNLI" / "dev.tsv", entailment.replace("sentence1", "question").replace("ce2", "ce"))
    mnli = "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tp\th\tneutral\tcontradiction\n"
    for stem in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path / "MNLI" / f"{stem}.tsv", mnli)
    return tmp_path


def test_glue_folder(glue):
    data = load_glue("CoLA", glue)
    assert (data.task, data.kind, data.metrics) == ("cola", "classification", ("mcc",))
    assert data.labels == ("unacceptable", "acceptable")
    assert list(data.train.texts) == ['A "lone quote', "line\u2028separator, kept"]
    assert data.train.pairs is None
    assert data.train.labels.tolist() == [1, 0] and data.train.labels.dtype == np.int64
    assert list(data.train.ids) == ["train/0", "train/1"]
    assert list(data.dev) == ["dev"] and list(data.dev["dev"].ids) == ["dev/0", "dev/1"]
    assert data.sources == {"train": "train.tsv", "dev": "dev.tsv"}


def test_glue_files_themselves(glue):
    assert load_glue("rte", glue / "RTE").train.texts == load_glue("rte", glue).train.texts


def test_glue_pairs_quotes_and_mark(glue):
    data = load_glue("mrpc", glue)
    assert data.metrics[0] == "f1"
    assert list(data.train.texts) == ['"first', "third"]
    assert list(data.train.pairs) == ["second", '"fourth"']
    assert data.train.labels.tolist() == [1, 0]
    data = load_glue("rte", glue)
    assert list(data.train.texts) == ['a " b', "d"] and list(data.train.pairs) == ["c", 'e" f']
    assert data.labels == ("entailment", "not_entailment") and data.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["stsb", "sts-b", "STS-B", "STSB", "sts_b"])
def test_glue_regression_and_spellings(glue, name):
    data = load_glue(name, glue)
    assert (data.task, data.kind, data.labels, data.metrics) == ("stsb", "regression", (), ("spearman", "pearson"))
    assert data.train.labels.tolist() == [3.25] and data.train.labels.dtype == np.float32
    assert (data.train.texts, data.train.pairs) == (["one"], ["two"])


def test_glue_rebuilt(glue):
    data = load_glue("qnli", glue)
    assert data.sources == {"train": "train_rebuilt.tsv.gz", "dev": "dev.tsv"}
    assert data.train.labels.tolist() == [0, 1]
    write(glue / "QNLI" / "train.tsv.gz", "question\tsentence\tlabel\na\tb\tentailment\n")
    data = load_glue("qnli", glue)
    assert data.sources["train"] == "train.tsv.gz" and len(data.train) == 1


def test_glue_two_dev_parts(glue):
    data = load_glue("mnli", glue)
    assert list(data.dev) == ["matched", "mismatched"]
    assert list(data.dev["mismatched"].ids) == ["mismatched/0"]
    assert data.dev["matched"].labels.tolist() == [2]
    assert data.sources["matched"] == "dev_matched.tsv"


def test_qqp_leaves_out_broken_rows(glue):
    data = load_glue("qqp", glue)
    assert (data.train.texts, data.train.pairs) == ([""], ["r"])
    assert data.sources["train"] == "train.tsv without 2 broken rows"


def test_glue_unknown_task(glue):
    message(lambda: load_glue("sst5", glue), "'sst5'", "did you mean sst2?", "mnli")
    message(lambda: load_glue("", glue), "''")


def test_glue_errors(glue):
    cola = glue / "CoLA" / "train.tsv"
    header = "index\tsentence1\tsentence2\tlabel\n"
    message(lambda: load_glue("sst2", glue), "train.tsv", "SST-2", "data_dir")
    write(cola, "x\t1\t\tfine\nx\t1\n")
    message(lambda: load_glue("cola", glue), str(cola), "line 2", "2 columns")
    write(cola, "x\t2\t\tfine\n")
    message(lambda: load_glue("cola", glue), "line 1", "'2'", "acceptable")
    write(cola, b"x\t1\t\tcaf\xe9\n")
    message(lambda: load_glue("cola", glue), str(cola), "UTF-8")
    write(cola, "")
    message(lambda: load_glue("cola", glue), str(cola), "no rows")
    write(glue / "RTE" / "train.tsv", header)
    message(lambda: load_glue("rte", glue), "no rows")
    write(glue / "RTE" / "train.tsv", header.replace("sentence2", "other"))
    message(lambda: load_glue("rte", glue), "line 1", "'sentence2'")
    write(glue / "RTE" / "train.tsv", header + "0\ta\tb\tentailment\n1\ta\tb\n")
    message(lambda: load_glue("rte", glue), "line 3")
    sts = glue / "STS-B" / "dev.tsv"
    write(sts, sts.read_text().replace("3.250", "nan"))
    message(lambda: load_glue("stsb", glue), str(sts), "'nan'", "not a number")
    (glue / "QNLI" / "train_rebuilt.tsv.gz").write_bytes(b"not packed")
    message(lambda: load_glue("qnli", glue), "train_rebuilt.tsv.gz", "cannot be read")


def test_glue_from_hub(monkeypatch):
    def fake(name, config):
        assert (name, config) == ("nyu-mll/glue", "mnli")
        part = datasets.Dataset.from_dict({"premise": ["p"], "hypothesis": ["h"], "label": [1], "idx": [0]})
        return datasets.DatasetDict({"train": part, "validation_matched": part, "validation_mismatched": part})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    data = load_glue("mnli", None)
    assert (data.train.texts, data.train.pairs, data.train.labels.tolist()) == (["p"], ["h"], [1])
    assert list(data.dev) == ["matched", "mismatched"]
    assert "validation_matched" in data.sources["matched"]


def test_glue_hub_out_of_reach(monkeypatch):
    def fail(name, config):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message(lambda: load_glue("rte", None), "rte", "no route", "data_dir")


# name: rows of train and dev as in the data's README
ROWS = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "rte": (2490, 277),
    "wnli": (635, 71),
    "qnli": (104743, 5463),
}


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "glue").is_dir(), reason="the real data is not here")
@pytest.mark.parametrize("name", ROWS)
def test_real_glue(name):
    data = load_glue(name, REAL / "glue")
    assert (len(data.train), len(data.dev["dev"])) == ROWS[name]
    assert data.train.labelled.all()
    assert all(text.strip() for text in data.train.texts)
    if data.kind == "regression":
        assert data.train.labels.min() == 0 and data.train.labels.max() == 5
    else:
        assert set(data.train.labels.tolist()) == set(range(len(GLUE[name].labels)))
    assert ("rebuilt" in data.sources["train"]) == (name == "qnli")


# Files

TRICKY = ['comma, "quoted"', "two\nlines", "Ünïcode \u2028 ✓", "NA", "007", "null"]
LABELS = ["NA", "None", "nan", "007", "NA", "None"]


def tricky_file(path):
    rows = pd.DataFrame({"text": TRICKY, "label": LABELS})
    if ".parquet" in path.suffixes:
        return write(path, rows)
    if ".json" in path.suffixes:
        return write(path, json.dumps(rows.to_dict("records"), indent=1))
    if ".jsonl" in path.suffixes:
        return write(path, rows.to_dict("records"))
    return write(path, "\ufeff" + rows.to_csv(index=False, sep="\t" if ".tsv" in path.suffixes else ","))


@pytest.mark.parametrize(
    "ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz"]
)
def test_tricky_content_survives(tmp_path, ending):
    path = tricky_file(tmp_path / f"a [b]*{ending}")
    data = load(path, path)
    assert list(data.train.texts) == TRICKY
    assert data.labels == ("007", "NA", "None", "nan")
    assert [data.labels[i] for i in data.train.labels] == LABELS
    assert data.train.labels.dtype == np.int64
    assert (data.task, data.kind, data.metrics) == ("a [b]*", "classification", ("accuracy", "macro_f1"))
    assert list(data.dev["dev"].ids) == [f"dev/{i}" for i in range(6)]
    unlabeled, source, _ = read_unlabeled(path, DataConfig(), data)
    assert list(unlabeled.texts) == TRICKY and data.sources == {"train": path.name, "dev": path.name}
    assert source == path.name


def test_pairs_and_index_column(tmp_path):
    path = write(tmp_path / "a.csv", ',text,other,label\n0,a,"b, c",x\n1,d,e,y\n')
    data = load(path, path, pair="other")
    assert (data.train.texts, data.train.pairs) == (["a", "d"], ["b, c", "e"])


def test_temporary_cache_is_removed(tmp_path, monkeypatch, capfd):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = write(tmp_path / "a.csv", table("ab"))
    load(path, path)
    assert not list((tmp_path / "temporary").iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([10, 9, -1], "classification", ("-1", "9", "10")),
        ([1.0, 2.0, 0.0], "classification", ("0", "1", "2")),
        ([1, 2.5, 3], "regression", ()),
        (["b", "a", "b"], "classification", ("a", "b")),
        (["1", "2", "x"], "classification", ("1", "2", "x")),
        ([True, False, True], "classification", ("False", "True")),
        ([["b"], [], ["a", "b"]], "multilabel", ("a", "b")),
        ([[10], [9], []], "multilabel", ("9", "10")),
    ],
)
def test_kind_is_inferred(tmp_path, labels, kind, names):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    path = write(tmp_path / "a.jsonl", rows)
    data = load(path, path)
    assert (data.kind, data.labels) == (kind, names)
    path = write(tmp_path / "a.parquet", pd.DataFrame(rows)) if labels != ["1", "2", "x"] else path
    assert load(path, path).labels == names


def test_kind_from_csv(tmp_path):
    assert load(write(tmp_path / "a.csv", table(["1", "10", "9"] * 9))).labels == ("1", "9", "10")
    data = load(write(tmp_path / "a.csv", table(["1", "1.5", "9"] * 9)))
    assert (data.kind, data.metrics, data.train.labels.dtype) == ("regression", ("pearson", "spearman"), np.float32)


def test_given_kind_wins(tmp_path):
    path = write(tmp_path / "a.csv", table(["1", "2.5", "1"]))
    assert load(path, path, kind="classification").labels == ("1", "2.5")
    path = write(tmp_path / "a.csv", table(["1", "2", "1"]))
    assert load(path, path, kind="regression").train.labels.tolist() == [1, 2, 1]


def test_multilabel_strings(tmp_path):
    path = write(tmp_path / "a.csv", table(["b|a", "", " b "]))
    data = load(path, path, kind="multilabel")
    assert (data.labels, data.metrics) == (("a", "b"), ("micro_f1", "macro_f1"))
    assert data.train.labels.tolist() == [[1, 1], [0, 0], [0, 1]] and data.train.labels.dtype == np.float32
    assert "a.csv: 1 row has no class" in data.notes
    empty = write(tmp_path / "a.jsonl", rows_of("b|a", None, "", "b"))
    data = load(empty, empty, kind="multilabel")
    assert data.train.labels.tolist() == [[1, 1], [0, 0], [0, 0], [0, 1]]
    assert "a.jsonl: 2 rows have no class" in data.notes
    lists = write(tmp_path / "b.csv", "text,label\na,\"['x', 'y']\"\nb,[]\nc,\n")
    message(lambda: load(lists, lists), "line 4 has no label")


def test_multilabel_separator_of_train_holds_for_the_evaluation_file(tmp_path):
    train = write(tmp_path / "a.csv", table(['"food, drink|bar"', "hotel", '"food, drink"']))
    dev = write(tmp_path / "b.csv", table(['"food, drink"', "hotel"]))
    data = load(train, dev, kind="multilabel")
    assert data.labels == ("bar", "food, drink", "hotel")
    assert data.dev["dev"].labels.tolist() == [[0, 1, 0], [0, 0, 1]]
    plain = write(tmp_path / "c.csv", table(["food", "drink"]))  # says nothing of separators
    data = load(plain, write(tmp_path / "d.csv", table(['"food, drink"'])), kind="multilabel")
    assert data.dev["dev"].labels.tolist() == [[1, 1]]


def test_unlabelled_texts_of_the_evaluation_set_are_left_out(tmp_path):
    train, dev = write(tmp_path / "a.csv", "text,label\na,x\nb,y\n"), write(tmp_path / "b.csv", "text,label\nc  d,x\n")
    more = write(tmp_path / "c.txt", "e\nc d\na\n")
    data = load(train, dev, more)
    assert (data.unlabeled.texts, data.unlabeled.ids) == (["e", "a"], ["unlabeled/0", "unlabeled/2"])
    assert "c.txt: left out 1 of 3 texts because they are in the evaluation set" in data.notes
    message(lambda: load(train, dev, write(tmp_path / "d.txt", "c d\n")), "d.txt", "leave it out")
    pairs = write(tmp_path / "e.csv", "text,other,label\na,b,x\nc,d,y\n")
    more = write(tmp_path / "f.csv", "text,other\na,d\nc,d\n")
    assert load(pairs, pairs, more, pair="other").unlabeled.ids == ["unlabeled/0"]


def test_training_texts_of_the_evaluation_set_are_counted(tmp_path):
    train = write(tmp_path / "a.csv", "text,other,label\na,b,x\nc,d,y\ne,f,x\ne,f,x\n")
    dev = write(tmp_path / "b.csv", "text,other,label\na,d,x\nc, d ,y\ne,f,x\ng,h,x\n")
    assert evaluated_notes(load(train, dev, pair="other")) == [
        "2 of the 4 texts of the evaluation set are also in the training set"
    ]
    assert evaluated_notes(load(train, dev)) == ["3 of the 4 texts of the evaluation set are also in the training set"]
    assert not evaluated_notes(load(train, write(tmp_path / "c.csv", "text,label\nz,x\n")))
    warnings = []
    load_split(RunConfig(recipe=finetune(Checkpoint(name="m"))), load(train, dev), None, warnings)
    assert evaluated_notes(load(train, dev))[0] in warnings


def test_given_labels(tmp_path):
    train, dev = write(tmp_path / "a.csv", table("ab")), write(tmp_path / "b.csv", table("c"))
    data = load(train, dev, labels=("c", "b", "a"))
    assert data.labels == ("c", "b", "a")
    assert data.train.labels.tolist() == [2, 1] and data.dev["dev"].labels.tolist() == [0]
    message(lambda: load(train, dev, labels=("a", "c")), str(train), "line 3", "'b'", "labels lacks")


def test_scores_of_a_large_json_file(tmp_path):
    """Beyond 10 MB datasets reads in pieces and would force the later ones into the types of the first."""
    rows = [{"text": "long " * 3000, "label": i} for i in range(1000)] + [{"text": "last", "label": 0.5}]
    path = write(tmp_path / "a.jsonl", rows)
    data = load(path)
    assert data.kind == "regression"
    assert len(data.train) + len(data.dev["dev"]) == 1001


def test_a_few_examples_are_from_everywhere_and_of_each_class():
    """Of any form of labels; the two rows of a pair stay together, and few are all."""

    def part(labels):
        names = [f"train/{row}" for row in range(len(labels))]
        return Examples(names, names, names, labels)

    classes = np.zeros(1001, dtype=np.int64)
    classes[[37, 1000]] = 1, 2
    several = np.eye(3, dtype=np.float32)[classes]
    words = np.empty(1001, dtype=object)
    words[:] = [np.array([0, number]) for number in classes]
    for labels in (classes, several, words):
        found = part(labels).spread(20)
        rows = [int(name.partition("/")[2]) for name in found.ids]
        assert {36, 37, 1000} < set(rows) and 18 <= len(rows) <= 24 and rows == sorted(rows)
        assert all(row ^ 1 in rows for row in rows if row != 1000)
        assert max(np.diff(rows)) < 120 and found.pairs == found.texts == found.ids
        assert part(labels).spread(1001).ids == part(labels).ids
    scores, answers = np.zeros(1001, dtype=np.float32), np.empty(1001, dtype=object)
    answers[:] = [((0, "a"),)] * 1001
    for labels in (scores, answers):
        assert 18 <= len(part(labels).spread(20)) <= 20


def test_hold_out(tmp_path):
    path = write(tmp_path / "a.csv", table(["a"] * 60 + ["b"] * 40 + ["c"]))
    data = load(path, seed=1)
    dev = data.dev["dev"]
    assert data.sources["dev"] == "10% of train, held out"
    assert np.bincount(dev.labels).tolist()[:2] == [6, 4]
    assert 2 in data.train.labels and 2 not in dev.labels
    assert sorted([*data.train.ids, *dev.ids]) == sorted(f"train/{i}" for i in range(101))
    assert load(path, seed=1).dev["dev"].ids == dev.ids != load(path, seed=2).dev["dev"].ids
    # However a model numbers the classes: what one run learns is not what another is scored on.
    for labels in (("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")):
        assert load(path, seed=1, labels=labels).dev["dev"].ids == dev.ids
        ours, whole = load(path, path, labels=labels), load(path, path)
        assert ours.hold_out(0.2, 3).train.ids == whole.hold_out(0.2, 3).train.ids
        assert part_of(ours.train, 5).tolist() == part_of(whole.train, 5).tolist()
    message(lambda: load(write(tmp_path / "a.csv", table("abab"))), "4 rows", "dev")


@pytest.mark.parametrize(("kind", "shape"), [("classification", (2,)), ("regression", (2,)), ("multilabel", (2, 2))])
def test_unlabeled(tmp_path, kind, shape):
    path = write(tmp_path / "a.csv", table(["1", "2"]))
    data = load(path, path, kind=kind)
    extra = unlabelled(write(tmp_path / "u.csv", "text\nsame\nsame\n"), "text", None, data)
    assert (extra.texts, list(extra.ids)) == (["same", "same"], ["unlabeled/0", "unlabeled/1"])
    assert extra.labels.shape == shape and extra.labels.dtype == data.train.labels.dtype
    assert not extra.labelled.any()
    assert len(data.train.join(extra)) == 4


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_unlabeled_lines(tmp_path, ending):
    path = write(tmp_path / "a.csv", table("ab"))
    lines = write(tmp_path / f"u{ending}", '\ufeffone, "two"\r\n\n  \nthree\u2028four\n')
    data = load(path, path, lines)
    assert data.unlabeled.texts == ['one, "two"', "three\u2028four"]
    assert data.sources["unlabeled"] == lines.name


def test_unlabeled_for_glue(glue):
    pairs = write(glue / "u.csv", "a,b\nx,y\n")
    lines = write(glue / "u.txt", "x\n")
    assert unlabelled(pairs, "a", "b", load_glue("rte", glue)).pairs == ["y"]
    message(lambda: unlabelled(pairs, "a", None, load_glue("rte", glue)), str(pairs), "rte", "text_pair")
    message(lambda: unlabelled(lines, "a", "b", load_glue("rte", glue)), str(lines), "rte", "columns")
    message(lambda: unlabelled(pairs, "a", "b", load_glue("cola", glue)), "cola", "leave out text_pair", "'b'")


def rows_of(*labels):
    return [{"text": "t", "label": label} for label in labels]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "txt,label\na,b\n", ["'text'", "'txt', 'label'", "did you mean 'txt'?"]),
        ("a.csv", "x;label\na;b\n", ["'text'", "'x', 'label'", "set text to one"]),
        ("a.parquet", pd.DataFrame({"text": ["a"], "lable": ["b"]}), ["'label'", "did you mean 'lable'?"]),
        ("a.csv", "", ["is empty"]),
        ("a.csv", "text,label\n", ["no rows"]),
        ("a.csv", "\n\n", ["is empty"]),
        ("a.jsonl", "", ["is empty"]),
        ("a.jsonl", "\n\n", ["a.jsonl"]),
        ("a.json", "[]", ["a.json"]),
        ("a.parquet", pd.DataFrame({"text": [], "label": []}), ["no rows"]),
        ("a.csv", table("aaa"), ["'a' only", "two or more"]),
        ("a.jsonl", rows_of([], []), ["no class only", "two or more"]),
        ("a.csv", b"text,label\ncaf\xe9,a\n", ["UTF-8"]),
        ("a.jsonl.gz", b'{"text": "caf\xe9"}', ["UTF-8"]),
        ("a.tsv", table("ab").encode("utf-16-le"), ["UTF-16 without a byte order mark"]),
        ("a.csv", "text,label\na,x\n,y\n", ["line 3", "no text"]),
        ("a.csv", "text,label\na,x\n  ,y\n", ["line 3", "no text"]),
        ("a.jsonl", [*rows_of("x"), {"label": "y"}], ["line 2", "no text"]),
        ("a.jsonl", [{"text": ["a"], "label": "y"}, {"text": "b", "label": "x"}], ["line 1", "no plain text"]),
        ("a.csv", "text,label\na,x\nb,\nc,y\n", ["line 3", "no label"]),
        ("a.csv", "text,label\na,x\nb\nc,y\n", ["line 3", "no label"]),
        ("a.csv", "text,label\na,1.5\nb,\n", ["line 3", "no label"]),
        ("a.jsonl", rows_of("x", None, "y"), ["line 2", "no label"]),
        ("a.jsonl", rows_of(1, None, 2), ["line 2", "no label"]),
        ("a.jsonl", rows_of(1.5, None, 2), ["line 2", "no label"]),
        ("a.jsonl", rows_of(["x"], None, ["y"]), ["line 2", "no label"]),
        ("a.jsonl", rows_of(["x"], ["y", None]), ["line 2", "empty label"]),
        ("a.csv", table(["1.5", "nan"]), ["line 3", "'nan'", "a gap"]),
        ("a.csv", table(["1.5", "inf"]), ["line 3", "'inf'", "not a number"]),
        ("a.txt", "text\n", ["a.txt", ".csv, .tsv"]),
        ("a.xlsx", "text\n", ["a.xlsx", ".csv, .tsv"]),
        ("a.parquet.gz", "text\n", ["a.parquet.gz", ".csv, .tsv"]),
        ("a.csv", "text,label\none, two,x\nb,y\n", ["line 2", "3 fields", "quote"]),
        ("a.csv", "text,label\nb,y\none, two,x\n", ["a.csv", "line 3"]),
        ("a.csv", "text,text,label\na,b,c\n", ["several columns 'text'"]),
        ("a.jsonl", "{broken\n", ["a.jsonl", "correct it"]),
        ("a.parquet", b"no table", ["a.parquet", "not a sound .parquet file", "write it again"]),
    ],
)
def test_errors_of_a_file(tmp_path, name, content, parts):
    path = write(tmp_path / name, content)
    message(lambda: load(path, path), str(path), *parts)


def test_errors_of_paths(tmp_path):
    good = write(tmp_path / "a.csv", table("ab"))
    for ending in ("csv", "txt"):
        missing, folder = tmp_path / f"missing.{ending}", tmp_path / f"folder.{ending}"
        folder.mkdir()
        message(lambda path=missing: load(good, good, path), "no file", str(missing))
        message(lambda path=folder: load(good, good, path), "directory", str(folder))
    message(lambda: load(tmp_path / "missing.csv"), "no file", "missing.csv")
    message(lambda: load(good, tmp_path), "directory", str(tmp_path))
    message(lambda: load(good, good, write(tmp_path / "u.txt", " \n")), "u.txt", "empty")
    message(lambda: load(good, good, write(tmp_path / "u.txt", b"\xff")), "u.txt", "UTF-8")
    (tmp_path / "b.csv.gz").write_bytes(b"not packed")
    message(lambda: load(tmp_path / "b.csv.gz"), "b.csv.gz", "cannot be read")


def test_errors_of_kinds(tmp_path):
    path = write(tmp_path / "a.csv", table(["1", "two"]))
    message(lambda: load(path, path, kind="regression"), "line 3", "'two'", "not a number", "kind classification")
    path = write(tmp_path / "a.jsonl", rows_of(["x"], ["y"]))
    assert load(path, path, kind="classification").labels == ("x", "y")
    message(lambda: load(path, path, kind="regression"), "no row that can be used", "line 1", "['x']", "not a number")
    path = write(tmp_path / "a.jsonl", rows_of(["x"], ["y", "x"]))
    message(lambda: load(path, path, kind="classification"), "line 1", "['x']", "kind multilabel")


def test_errors_of_dev(tmp_path):
    train = write(tmp_path / "train.csv", table("ab"))
    dev = write(tmp_path / "dev.csv", table("ac"))
    message(lambda: load(train, dev), str(dev), "line 3", "'c'", f"{train} lacks", "'a', 'b'")
    message(lambda: load(train, dev, kind="multilabel"), "line 3", "'c'")
    many = write(tmp_path / "train.csv", table(f"class\t{i}" for i in range(500)))
    message(lambda: load(many, dev), "and 480 more", r"class\t0")
    scores = write(tmp_path / "train.csv", table(["0.5", "1"]))
    message(lambda: load(scores, dev), str(dev), "line 2", "'a'", "not a number")


# Tokenizers


def test_a_tokenizer_pads_with_the_end_of_a_text_if_it_has_nothing_else(endoftext, tmp_path):
    endoftext.save_pretrained(tmp_path / "gpt2")
    loaded = load_tokenizer(str(tmp_path / "gpt2"))
    assert endoftext.pad_token is None and loaded.pad_token == loaded.eos_token == "<|endoftext|>"
    assert loaded("word1 good")["input_ids"] == endoftext("word1 good")["input_ids"]
    loaded.save_pretrained(tmp_path / "again")
    again = load_tokenizer(str(tmp_path / "again"))
    assert again.pad_token_id == endoftext.eos_token_id
    assert {tokenizer_fingerprint(one) for one in (endoftext, loaded, again)} == {tokenizer_fingerprint(endoftext)}
    bare = PreTrainedTokenizerFast(tokenizer_object=endoftext.backend_tokenizer, bos_token="<|endoftext|>")
    bare.save_pretrained(tmp_path / "bare")
    message(lambda: load_tokenizer(str(tmp_path / "bare")), "neither a padding token nor an end-of-text token", "bare")
