"""Tables as people bring them: what each kind of label, delimiter, quote and shape is read as, or which line says what is wrong."""

import datetime
import decimal
import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import data_folder, field_cases_folder, tiny_model

from tutelage.api import evaluate
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.run.inputs import Inputs
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

FIELD = field_cases_folder()


def read(path, content=None, **options):
    """What is read of a file with this content, for training and evaluation alike."""
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return load_data(DataConfig(**{"train": path, "dev": path, **options}))


def error(path, content=None, **options):
    with pytest.raises(TutelageError) as caught:
        read(path, content, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def column(*labels):
    """A CSV with these labels, quoted."""
    rows = (f'text {i},"{str(label).replace(chr(34), chr(34) * 2)}"\n' for i, label in enumerate(labels))
    return "text,label\n" + "".join(rows)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def labelled(*labels):
    return lines(*({"text": f"t{i}", "label": label} for i, label in enumerate(labels)))


# Labels


@pytest.mark.parametrize(
    ("name", "content", "kind", "classes", "labels", "said"),
    [
        ("hot.jsonl", labelled([1, 0, 0], [1.0, 1.0, 0.0]), "multilabel", "0 1 2", [[1, 0, 0], [1, 1, 0]], "3 zeros and ones"),
        ("bool.jsonl", labelled([True, False], [False, True]), "multilabel", "0 1", [[1, 0], [0, 1]], "2 zeros"),
        ("numbers.jsonl", labelled([0, 2], [1], []), "multilabel", "0 1 2", [[1, 0, 1], [0, 1, 0], [0, 0, 0]], "no class"),
        ("text.csv", column("[0, 1, 0]", "[1, 0, 0]"), "multilabel", "0 1 2", [[0, 1, 0], [1, 0, 0]], "'[0, 1, 0]' are read"),
        ("numpy.csv", column("[0 1 1]", "[1 0 0]"), "multilabel", "0 1 2", [[0, 1, 1], [1, 0, 0]], "zeros and ones"),
        ("repr.csv", column("['a', 'b c']", "[]", "['a']"), "multilabel", "a|b c", [[1, 1], [0, 0], [1, 0]], "as lists"),
        ("json.csv", column('["it\'s", "b"]', '["b"]'), "multilabel", "b|it's", [[1, 1], [1, 0]], "as lists"),
        ("bare.csv", column("[x y, z]", "[z]"), "multilabel", "x y|z", [[1, 1], [0, 1]], "as lists"),
        ("spaces.csv", column("neg ", "pos", " neg", "pos\u00a0"), "classification", "neg pos", [0, 1, 0, 1], "around 3 labels"),
        ("floats.csv", column("1.0", "0", "10.0", "2", "1"), "classification", "0 1 2 10", [1, 0, 3, 2, 1], "written as '1.0'"),
        ("zeros.csv", column("007", "7", "8"), "classification", "007 7 8", [0, 1, 2], ""),
        ("versions.csv", column("1.0", "2.0", "beta"), "classification", "1.0 2.0 beta", [0, 1, 2], ""),
        ("comma.csv", column("0,5", "3,25", "4"), "regression", "", [0.5, 3.25, 4], "decimal commas"),
        ("phrases.csv", column("yes, please", "no", "yes, please"), "classification", "no|yes, please", [1, 0, 1], ""),
        ("words.csv", column("nan", "pos", "nan"), "classification", "nan pos", [0, 1, 0], "'nan' is read as a class (2 rows)"),
        ("bools.csv", column("True", "False"), "classification", "False True", [1, 0], ""),
        ("mixed.jsonl", labelled(1, "1", 0, 0.0), "classification", "0 1", [1, 1, 0, 0], ""),
        ("truth.csv", column("[True, False]", "[False, False]"), "multilabel", "0 1", [[1, 0], [0, 0]], "zeros and ones"),
        ("set.csv", column("{'a', 'b'}", "{'a'}", "set()"), "multilabel", "a b", [[1, 1], [1, 0], [0, 0]], "as lists"),
        ("tuple.csv", column("('a', 'b')", "('a',)", "()"), "multilabel", "a b", [[1, 1], [1, 0], [0, 0]], "as lists"),
        ("names.jsonl", labelled(["3.5", "4"], ["4"]), "multilabel", "3.5 4", [[1, 1], [0, 1]], ""),
        ("braces.csv", column("{a}", "(b)", "{a}"), "classification", "(b) {a}", [1, 0, 1], ""),
        ("small.csv", column("1,250", "0,125", "3"), "regression", "", [1.25, 0.125, 3], "decimal commas"),
        ("large.csv", column("1,250", "1,234,567", "900"), "regression", "", [1250, 1234567, 900], "thousands separators"),
        ("points.csv", column("1,250", "1,234.5"), "regression", "", [1250, 1234.5], "thousands separators"),
    ],
)  # fmt: skip
def test_labels(tmp_path, name, content, kind, classes, labels, said):
    data = read(tmp_path / name, content)
    assert (data.kind, data.labels) == (kind, tuple(classes.split("|" if "|" in classes else None)))
    assert data.train.labels.tolist() == labels
    assert any(said in note for note in data.notes) if said else not data.notes, data.notes


def test_labels_of_a_class_label_column(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    table.to_parquet(tmp_path / "a.parquet")
    assert "row 3 has no label" in error(tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet", skip_bad_rows=True)
    assert (data.labels, data.train.labels.tolist(), data.train.ids) == (
        ("bad", "good"),
        [1, 0],
        ["train/0", "train/1"],
    )


def test_spellings_that_differ_by_case_stop_unless_the_classes_are_named(tmp_path):
    content = column("Pos", "pos", "neg", "pos", "good  one", "good one")
    message = error(tmp_path / "a.csv", content)
    assert "'Pos' (1 row) and 'pos' (2 rows)" in message and "'good  one' (1 row) and 'good one'" in message
    remedy = message.partition("labels (")[2].removesuffix(")")
    data = read(tmp_path / "a.csv", labels=remedy)
    assert len(data.labels) == 3 and np.bincount(data.train.labels).tolist() == [3, 2, 1]
    assert any("'Pos' (1 row) is read as 'pos'" in note for note in data.notes)
    kept = read(tmp_path / "a.csv", column("us", "US"), labels="us,US")
    assert kept.train.labels.tolist() == [0, 1]


def test_invisible_characters_are_no_spelling_of_their_own(tmp_path):
    content = column("pos\u200b", "pos", "pos", "neg", "\ufeffpos")
    message = error(tmp_path / "a.csv", content)
    assert r"'pos\u200b' (1 row)" in message and "labels (neg,pos)" in message
    assert read(tmp_path / "a.csv", labels="neg,pos").train.labels.tolist() == [1, 1, 1, 0, 1]
    assert "line 2 has no label" in error(tmp_path / "a.csv", column("\u200b", "pos", "neg"))


@pytest.mark.parametrize("form", ["{},{},{}", "{};{};{}", "{{{},{},{}}}", "({}, {}, {})"])
def test_zeros_and_ones_of_several_classes_without_brackets(tmp_path, form):
    rows = [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    data = read(tmp_path / "a.csv", column(*(form.format(*row) for row in rows)), kind="multilabel", labels="x,y,z")
    assert data.labels == ("x", "y", "z") and data.train.labels.tolist() == rows


def test_lists_of_databases(tmp_path):
    data = read(tmp_path / "a.csv", column('{a,"b c"}', "{a}", "{}"), kind="multilabel")
    assert data.labels == ("a", "b c") and data.train.labels.tolist() == [[1, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    "content",
    [labelled([0.2, 0.8], [0.9, 0.1]), labelled([0, 1, -1], [1, 0, 0]), labelled([1, 0, 0.5], [0, 1, 0]), labelled([-1], [2])],
)  # fmt: skip
def test_lists_of_numbers_that_no_class_has(tmp_path, content):
    assert (
        "line 1 has label [" in (message := error(tmp_path / "a.jsonl", content)) and "teacher_predictions" in message
    )
    path = tmp_path / "a.csv"
    path.write_text(column(*(json.dumps(json.loads(line)["label"]) for line in content.splitlines())))
    assert "numbers that no class has" in error(path)


def test_commas_that_may_stand_before_decimals_or_thousands(tmp_path):
    for labels in (("1,250", "3,014"), ("900", "1,021")):
        for options in ({}, {"kind": "regression"}):
            message = error(tmp_path / "a.csv", column(*labels), **options)
            assert f"may be {labels[1].replace(',', '')} or {labels[1].replace(',', '.')} (write it" in message
    assert "has no label ('N/A' is a gap" in error(tmp_path / "a.csv", column("0,5", "1,5", "N/A"))


def test_spellings_of_the_evaluation_file_follow_the_training_file(tmp_path):
    (tmp_path / "dev.csv").write_text(column("Pos", "NEG"))
    data = read(tmp_path / "a.csv", column("neg", "pos"), dev=tmp_path / "dev.csv")
    assert data.dev["dev"].labels.tolist() == [1, 0]
    assert "dev.csv: 'Pos' (1 row) is read as 'pos'" in data.notes
    (tmp_path / "dev.csv").write_text(column("1.0", "0.0"))
    assert read(tmp_path / "a.csv", column("0", "1"), dev=tmp_path / "dev.csv").dev["dev"].labels.tolist() == [1, 0]
    (tmp_path / "dev.jsonl").write_text(labelled([1, 0, 0]))
    assert "which is not 2 zeros and ones" in error(
        tmp_path / "b.jsonl", labelled([1, 0], [0, 0]), dev=tmp_path / "dev.jsonl"
    )


def test_cells_with_several_classes_are_refused_until_a_kind_is_named(tmp_path):
    for separator in "|;,":
        content = column(f"a{separator} b", "b", f"c{separator}a", "c")
        message = error(tmp_path / "a.csv", content)
        assert f"2 labels contain {separator!r}" in message and "kind multilabel" in message
        several = read(tmp_path / "a.csv", kind="multilabel")
        assert several.labels == ("a", "b", "c")
        assert several.train.labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]]
        assert len(read(tmp_path / "a.csv", kind="classification").labels) == 4


def test_named_classes(tmp_path):
    path, names = tmp_path / "a.csv", "contradiction,neutral,entailment"
    data = read(path, column(2, 0, 0), labels=names)
    assert data.labels == tuple(names.split(",")) and data.train.labels.tolist() == [2, 0, 0]
    assert "0=contradiction, 1=neutral, 2=entailment" in data.notes[0]
    assert kind_of(data.kind).about(data) == "classification, 3 classes: contradiction 2, neutral 0, entailment 1"
    assert read(path, column(1, 2, 3), labels=names).train.labels.tolist() == [0, 1, 2]
    assert read(path, column("neutral", "Entailment"), labels=names).train.labels.tolist() == [1, 2]
    assert read(path, column(2, 3), labels=names).train.labels.tolist() == [1, 2]
    assert "numbers from 0 to 3, labels names 3 classes" in error(path, column(0, 1, 2, 3), labels=names)
    assert "'maybe', which labels lacks" in error(path, column("neutral", "maybe"), labels=names)
    assert "labels names classes" in error(path, column(0.5, 1), labels=names)
    hot = tmp_path / "a.jsonl"
    assert read(hot, labelled([1, 0, 1], [0, 0, 0]), labels=names).labels == tuple(names.split(","))
    assert "4 zeros and ones, labels names 3; name 4" in error(hot, labelled([1, 0, 1, 0]), labels=names)
    for wrong in ("a", "a,a", "a,,b"):
        with pytest.raises(ValueError, match="two or more names"):
            DataConfig(labels=wrong)


@pytest.mark.parametrize("form", ["{} star", "LABEL_{}", "grade-{}"])
def test_numbers_of_names_that_have_numbers(tmp_path, form):
    """A class without an example does not move the others."""
    (path := tmp_path / "a.csv").write_text(column(1, 2, 3, 4))
    config = DataConfig(train=path, dev=path)
    data = load_data(config, known=[form.format(number) for number in range(1, 6)])
    assert data.train.labels.tolist() == [0, 1, 2, 3] and "1=" + form.format(1) in data.notes[0]
    data = load_data(config, known=[form.format(number) for number in range(5)])
    assert data.train.labels.tolist() == [1, 2, 3, 4]
    path.write_text(column(0, 1, 2, 3))
    assert load_data(config, known=[form.format(n) for n in range(1, 6)]).train.labels.tolist() == [0, 1, 2, 3]


def test_numbers_that_may_count_from_0_or_from_1(tmp_path):
    (path := tmp_path / "a.csv").write_text(column(1, 2, 3, 4))
    names = ("one", "two", "three", "four", "five")
    with pytest.raises(TutelageError, match=r"the model names 5 classes.*may count from 0 or from 1: write the names"):
        load_data(DataConfig(train=path, dev=path), known=names)
    assert "write the names in place of the numbers, or leave out labels" in error(path, labels=names)
    assert read(path).labels == ("1", "2", "3", "4")
    message = error(path, column(-1, 0, 1), labels="neg,neu,pos")
    assert "numbers from -1 to 1" in message and "or leave out labels" in message
    assert read(path).labels == ("-1", "0", "1")
    hot = read(tmp_path / "a.jsonl", labelled([0, 1, 1, 0], [0, 1, 0, 0]), labels="a,b,c,d")
    assert hot.train.labels.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]


def test_named_classes_of_a_task(tmp_path):
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\tnot_entailment\n")
    options = {"task": "rte", "data_dir": tmp_path, "train": None, "dev": None}
    data = load_data(DataConfig(task="rte", data_dir=tmp_path, labels="not_entailment,entailment"))
    assert data.labels == ("not_entailment", "entailment") and data.train.labels.tolist() == [1, 0]
    assert "'rte' has 'entailment', 'not_entailment'" in error(tmp_path, labels="yes,no", **options)


def test_arrays_in_a_frame_are_lists(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": [np.array([1, 0, 1]), np.array([0, 1, 0])]})
    with Inputs() as inputs:
        data = load_data(DataConfig(**inputs.data({"train": frame, "test": frame}, {})))
    assert data.kind == "multilabel" and data.train.labels.tolist() == [[1, 0, 1], [0, 1, 0]]


def from_object(**options):
    """What is read of tables in memory."""
    with Inputs() as inputs:
        return load_data(DataConfig(**inputs.data(None, options)))


def test_class_names_of_lists_in_a_dataset(tmp_path):
    classes = datasets.Sequence(datasets.ClassLabel(names=["alpha", "beta", "gamma"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [[0, 2], [1]]}, features=features)
    table.to_parquet(tmp_path / "a.parquet")
    for data in (from_object(train=table, dev=table), read(tmp_path / "a.parquet")):
        assert data.labels == ("alpha", "beta", "gamma") and data.train.labels.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_gaps_and_numbers_of_pandas_and_numpy():
    texts, labels = ["a", "b", "c", "d"], [1, 0, pd.NA, 1]
    for column in (
        pd.array(labels, dtype="Int64"),
        pd.array(["1", "0", pd.NA, "1"], dtype="string"),
        [1, 0, pd.NaT, 1],
    ):
        data = from_object(
            train=pd.DataFrame({"text": texts, "label": column}), dev=(texts, [1, 0, 0, 1]), skip_bad_rows=True
        )
        assert data.train.ids == ["train/0", "train/1", "train/3"] and data.labels == ("0", "1")
    rows = [{"text": text, "label": label} for text, label in zip(texts, np.array([1, 0, 0, 1]), strict=True)]
    for given in (rows, iter(rows), pd.Series(rows)):
        assert from_object(train=given, dev=rows).train.labels.tolist() == [1, 0, 0, 1]
    data = from_object(
        train=[{"text": t, "label": [np.float32(1), np.int64(0)]} for t in texts], dev=rows, labels="x,y"
    )
    assert data.train.labels.tolist() == [[1, 0]] * 4


@pytest.mark.parametrize("form", [list, np.array, pd.Series, iter, lambda texts: (text for text in texts)])
def test_texts_alone(form):
    data = from_object(train=(["a", "b"], [0, 1]), dev=(["c", "d"], [0, 1]), unlabeled=form(["e", "f"]))
    assert data.unlabeled.texts == ["e", "f"]
    data = from_object(train=form([f"text {i}" for i in range(20)]), kind="embedding")
    assert len(data.train) + len(data.dev["dev"]) == 20


@pytest.mark.parametrize(
    "given",
    [5, {"text": "a", "label": 1}, ("a", [1]), {"text": ["\ud800"], "label": [1]}, {"text": [b"a"], "label": [{1}]}],
)
def test_objects_that_are_no_tables(given):
    with pytest.raises(TutelageError, match=r"^train ") as caught:
        from_object(train=given)
    assert "\n" not in str(caught.value)


def test_columns_of_frames_and_streams():
    texts, labels = ["a", "b", "c", "d"], ["x", "y"] * 2
    frame = pd.DataFrame({"text": texts, "label": labels})
    with pytest.raises(TutelageError, match="train has several columns 'label'; rename all but one"):
        from_object(train=pd.concat([frame, frame[["label"]]], axis=1))
    stream = datasets.Dataset.from_pandas(frame).to_iterable_dataset().map(lambda row: row)  # does not know its columns
    assert from_object(train=stream, dev=stream).train.texts == texts
    for values, kind in (
        ([decimal.Decimal(1), decimal.Decimal(0)], "classification"),
        ([decimal.Decimal("0.5"), decimal.Decimal(1)], "regression"),
        ([datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1)], "classification"),
        ([{"x"}, {"x", "y"}], "multilabel"),
    ):
        given = (texts, values * 2)
        assert from_object(train=given, dev=given).kind == kind
    # Of predictions only what can be one is written.
    frame = frame.assign(raw=b"x", created=pd.Timestamp("2026-01-01"))
    with Inputs() as inputs:
        file = inputs.predictions(frame, None, None, {})["file"]
        assert set(json.loads(Path(file).read_text().splitlines()[0])) == {"text", "label", "created"}
        with pytest.raises(TutelageError, match="predictions has a column 'raw' that cannot be written as JSON"):
            inputs.predictions(
                frame.assign(text=b"x").rename(columns={"raw": "t", "text": "raw"}), None, None, {"text": "raw"}
            )


@pytest.mark.parametrize("name", ["dev", "validation", "valid", "val", "eval", "test"])
def test_names_of_the_split_to_evaluate_on(name):
    table = {"text": ["a", "b"], "label": ["x", "y"]}
    train = datasets.Dataset.from_dict(table)
    with Inputs() as inputs:
        tree = inputs.data(datasets.DatasetDict({"train": train, name: train}), {})
        assert Path(tree["train"]).read_text() == Path(tree["dev"]).read_text()
        with pytest.raises(TutelageError, match=r"splits 'train', 'held', none of which .* dev="):
            inputs.data({"train": table, "held": table}, {})
        assert set(inputs.data({"train": table, "held": table}, {"dev": table})) == {"train", "dev"}
        for given in (train, pd.DataFrame(table)):
            with pytest.raises(
                TutelageError, match=r"^data=[A-Za-z]+ is no dict of splits; give it as train, or as dev$"
            ):
                inputs.data(given, {})
        with pytest.raises(TutelageError, match="train has a table of its own in 'train'; give splits as data"):
            inputs.data(None, {"train": datasets.DatasetDict(train=train)})


# Quotes, delimiters, encodings


def test_lone_quotes_lose_no_line(tmp_path):
    rows = ['"one', 'two "and" three', 'four"', '"five" he said', '"six"', "seven"]
    for name, delimiter in (("a.tsv", "\t"), ("a.csv", ",")):
        content = f"text{delimiter}label\n" + "".join(f"{row}{delimiter}{i % 2}\n" for i, row in enumerate(rows))
        data = read(tmp_path / name, content)
        # A field that is wholly quoted has its quotes taken off where files are quoted by rule.
        assert data.train.texts == (rows if name == "a.tsv" else [*rows[:4], "six", "seven"])
        assert any("quotes that are not around a field" in note for note in data.notes)


def test_quotes_after_backslashes(tmp_path):
    rows = r""""he said \"yes\", ok","a"
"plain","b"
"a \"word\"
and a line","a"
"ends in \","b"
"""
    data = read(tmp_path / "a.csv", f'"text","label"\n{rows}')
    assert data.train.texts == ['he said "yes", ok', "plain", 'a "word"\nand a line', "ends in \\"]
    assert data.labels == ("a", "b") and "2 rows have quotes after backslashes" in data.notes[-1]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_that_were_joined_have_their_header_within(tmp_path, mark):
    one = mark + "text,label\n" + "".join(f"text {i},{i / 4}\n" for i in range(8))
    data = read(tmp_path / "a.csv", one + one)
    assert data.kind == "regression" and data.train.ids[-1] == "train/15"
    assert "a.csv: left out 1 repetition of the header" in data.notes
    for usual, label in (("text,label", "{}"), ("review,gold,id", "{},1")):
        content = f"{usual}\n" + "".join(f"text {i},{label.format('ab'[i % 2])}\n" for i in range(8))
        options = {"header": False, "text": "0", "label": "1"}
        assert "line 1 looks like a header" in error(tmp_path / "b.csv", content, **options)
        assert len(read(tmp_path / "b.csv", content.partition("\n")[2] + "text,a\n", **options).train) == 9


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("b.csv", ";")])
def test_quoted_fields_keep_what_is_in_them(tmp_path, name, separator, end):
    texts = [f"a{separator}b", "two\nlines\n\nand more", 'a "word"', "plain", 'line "one"\nline two', '"']
    frame = pd.DataFrame({"text": texts, "label": ["x", "y"] * 3})
    frame.to_csv(tmp_path / name, index=False, sep=separator, lineterminator=end)
    data = read(tmp_path / name)
    assert data.train.texts == texts and data.train.labels.tolist() == [0, 1] * 3
    assert "2 rows have line breaks in quotes (the longest: lines 3 to 6)" in " ".join(data.notes)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text;label\none, two;a\nthree;b\n", "separated by semicolons"),
        ("a.csv", "text\tlabel\none, two\ta\nthree\tb\n", "separated by tabs"),
        ("a.tsv", 'text,label\n"one, two",a\nthree,b\n', "separated by commas"),
        ("a.csv", "label|text\na|one, two\nb|three\n", "separated by vertical bars"),
        ("a.csv", "sep=;\ntext;label\none, two;a\nthree;b\n", ""),
        ("a.csv", 'text,label,\n"one, two",a,\nthree,b,\n', ""),
        ("a.csv", 'text,label\n"one, two",a,\nthree,b,,\n', "2 rows end in superfluous delimiters"),
        ("a.csv", ' text , label\n "one, two" , a\nthree,b\n,\n\n', "spaces around"),
        ("a.csv", 'text,label\r"one, two",a\rthree,b\r', ""),
        ("a.csv.gz", 'text,label,text 2,x,x\n"one, two",a\nthree,b,,2,3\n', ""),
        ("a.csv", "\ufefftext,label\n\"one, two\",a\nthree,b".encode("utf-16"), "read as UTF-16"),
    ],
)  # fmt: skip
def test_delimiters(tmp_path, name, content, said):
    data = read(tmp_path / name, content)
    assert [text.strip() for text in data.train.texts] == ["one, two", "three"]
    assert data.labels == ("a", "b")
    assert any(said in note for note in data.notes) if said else not data.notes, data.notes


def test_files_without_header(tmp_path):
    rows = '"a, b",x\nc,y\n'
    data = read(tmp_path / "a.csv", rows, header=False, text="0", label="1")
    assert data.train.texts == ["a, b", "c"] and data.labels == ("x", "y")
    assert "text 0 label 1" in error(tmp_path / "a.csv", header=False)
    assert "pass header=False and numbers: text 0 label 1" in error(
        tmp_path / "a.csv", "one two three four five,1\na,0\n"
    )
    data = read(tmp_path / "a.json", json.dumps([["a", "x"], ["b", "y"]]), header=False, text="0", label="1")
    assert data.train.texts == ["a", "b"] and data.labels == ("x", "y")
    assert "header=False and number them" in error(tmp_path / "a.json")
    assert "leave out header=False" in error(tmp_path / "b.jsonl", labelled("a", "b"), header=False)


@pytest.mark.parametrize("orient", ["columns", "records", "index", "split", "table", "list", "lines", "one line"])
def test_shapes_of_json(tmp_path, orient):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "list": [[1], [2], [3]]})
    if orient == "list":
        content = json.dumps(frame.to_dict("list"), indent=1)
    elif orient == "lines":
        content = frame.to_json(orient="records", lines=True)
    elif orient == "one line":
        content = "[" + ",".join(labelled("x", "y", "x").split("\n")[:3]).replace("t0", "a") + "]"
        content = content.replace("t1", "b").replace("t2", "c")
    else:
        content = frame[["text", "label"]].to_json(orient=orient)
    for name in ("a.json", "a.jsonl"):
        data = read(tmp_path / name, content)
        assert data.train.texts == ["a", "b", "c"] and data.train.labels.tolist() == [0, 1, 0]


def test_columns_of_json_go_together_by_row(tmp_path):
    content = json.dumps({"0": {"text": "a", "label": ["x", "y"]}, "1": {"text": "b", "label": ["y"]}})  # pandas: index
    assert read(tmp_path / "b.json", content).train.labels.tolist() == [[1, 1], [0, 1]]
    content = json.dumps({"text": {"0": "a", "1": "b"}, "label": {"1": "y", "0": "x"}})
    data = read(tmp_path / "a.json", content)
    assert [(text, data.labels[label]) for text, label in zip(data.train.texts, data.train.labels, strict=True)] == [
        ("a", "x"),
        ("b", "y"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.json", '{"train": [["a", "x"]], "val": [["b", "y"]]}', ["keys 'train', 'val'", "a file of its own", "header=False"]),
        ("a.json", '{"train": {"text": ["a"], "label": [1]}}', ["keys 'train'", "a file of its own"]),
        ("a.json", '{"text": ["a"], "label": [1, 2]}', ["different lengths ('text' 1, 'label' 2)"]),
        ("a.jsonl", "null\n", ["line 1 is None, not an object"]),
        ("a.jsonl", "[1, 2]\n3\n", ["line 1 is [1, 2], not an object"]),
        ("a.jsonl", "[" * 100_000, ["not JSON (nested too deeply)"]),
        ("a.jsonl", "1" * 5000, ["not JSON", "digits"]),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n{"text": "b", "label": 2}\n', ["line 1 has half a character"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n{oops\n{"text": "b", "label": 2}\n', ["line 2 is not JSON"]),
        ("a.jsonl", labelled({"x": 1}, 1), ["line 1 has label {'x': 1}, which is no name"]),
        ("a.csv", "text\na\nb\n", ["no column 'label'", "scores need labels"]),
        ("a.csv", "text,label\na,b,1\nc,d,0\n", ["each row has 3 fields, the header 2"]),
        ("a.csv", 'text,label\n"a\nb,0\nc,1\n', ["line 2 opens a quote and does not close it"]),
        ("a.csv", "text,label\na,x\nb,y\nc,d,x\n,y\ne,\nf,y\n", ["3 of 6 rows", "line 4 has 3", "line 5 has no text"]),
        ("a.csv", b"PK\x03\x04 and so on", ["Excel", "CSV UTF-8"]),
        ("a.csv", b"PAR1", [".parquet"]),
        ("a.csv", b"\x1f\x8b", [".gz"]),
        ("a.xlsx", b"PK\x03\x04", ["spreadsheet", "CSV UTF-8"]),
        ("a.csv", "text,label\nÄrger,1\nb,0\n".encode("cp1252"), ["line 2: not UTF-8 (byte 0xc4)", "iconv -f CP1252 -t UTF-8"]),
        ("a.csv", "text,label\n很好,是\n很差,否\n".encode("gb18030"), ["iconv -f ENCODING", "GB18030"]),
        ("a.csv", "text,label\n很好,是\n很差,否\n".encode("utf-16-le"), ["iconv -f UTF-16LE"]),
        ("a.csv", "text,label\n良い,1\n悪い,0\n".encode("iso2022_jp"), ["in ISO-2022-JP,", "iconv -f ISO-2022-JP -t UTF-8"]),
        ("a.jsonl", '{"text": "丂", "label": 1}'.encode("iso2022_jp_2"), ["iconv -f ISO-2022-JP-2 "]),
        ("a.csv", "text,label\n良ｲ,1\n".encode("iso2022_jp_ext"), ["iconv -f ISO-2022-JP-3 "]),
        ("a.tsv", "text\tlabel\n좋다\t1\n".encode("iso2022_kr"), ["iconv -f ISO-2022-KR "]),
        ("a.csv", b"BZh91AY", ["packed by bzip2; unpack it"]),
        ("a.csv.xz", b"\xfd7zXZ", ["is packed; unpack it"]),
        ("a.arrow", b"", ["datasets.Dataset.from_file", "give the object"]),
        ("a.csv", "text,label\n", ["no rows below its header"]),
        ("a.csv", column("0.5", "1", "nan", "NA"), ["2 of 4 rows", "'nan' is a gap among numbers"]),
        ("a.csv", column("a", "a"), ["'a' only", "name all classes with labels"]),
        ("a.jsonl", labelled([1, 0, 0], [1, 1], [0, 0, 0]), ["line 2 has label [1, 1], which is not 3 zeros and ones"]),
        ("a.csv", column("[[1]]", "[2]"), ["line 2 has label '[[1]]', a list in a list"]),
    ],
)  # fmt: skip
def test_errors_name_the_thing_and_a_remedy(tmp_path, name, content, parts):
    message = error(tmp_path / name, content)
    for part in (name, *parts):
        assert part in message, message


def test_names_of_what_is_no_file():
    for name in ("https://example.org/a.csv", "hf://datasets/imdb/a.parquet"):
        assert f"'{name}' is an address" in error(name)
    assert "datasets.load_dataset('stanfordnlp/imdb')" in error("stanfordnlp/imdb")


def test_folders(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(tmp_path / "saved")
    assert "save_to_disk" in error(tmp_path / "saved") and "to_parquet" in error(tmp_path / "saved")
    (tmp_path / "dev.csv").write_text("x")
    assert "such as 'dev.csv'" in error(tmp_path)
    assert "cannot be read" in error(Path("a" * 5000 + ".csv"))
    assert "there is no file" in error(Path("a\0.csv"))


# Bad rows


def test_bad_rows_are_left_out_when_asked(tmp_path):
    content = "text,label\na,x\nb,y\nc,d,x\n,y\ne,\nf,x\n"
    data = read(tmp_path / "a.csv", content, skip_bad_rows=True)
    assert data.train.texts == ["a", "b", "f"] and data.train.ids == ["train/0", "train/1", "train/5"]
    assert data.dev["dev"].ids == ["dev/0", "dev/1", "dev/5"]
    assert data.sources["train"] == "a.csv, without 3 bad rows"
    assert "a.csv: left out 3 of 6 rows: line 4 has 3 fields" in " ".join(data.notes)
    (tmp_path / "dev.csv").write_text(column("x", "z", "y"))
    with pytest.raises(
        TutelageError, match=r"dev\.csv: line 3 has label 'z', which .*b\.csv lacks .*skip_bad_rows=True"
    ):
        read(tmp_path / "a.csv", dev=tmp_path / "dev.csv", skip_bad_rows=False, train=write(tmp_path / "b.csv"))
    data = read(tmp_path / "a.csv", dev=tmp_path / "dev.csv", unlabeled=tmp_path / "a.csv", skip_bad_rows=True)
    assert len(data.dev["dev"]) == 2 and len(data.unlabeled) == 5 - 1
    assert data.sources["unlabeled"] == "a.csv, without 2 bad rows"
    assert "no row that can be used" in error(tmp_path / "c.csv", column("", ""), skip_bad_rows=True)


# Other kinds of task


def test_tokens_from_json_lines(tmp_path):
    rows = [{"tokens": ["anna", "lives"], "ner_tags": ["B-PER", "O"]}, {"tokens": ["oslo"], "ner_tags": ["I-LOC"]}]
    data = read(tmp_path / "a.jsonl", lines(*rows), kind="tokens")
    assert data.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER") and data.train.texts == ["anna lives", "oslo"]
    assert [row.tolist() for row in data.train.labels] == [[2, 0], [1]]
    assert kind_of("tokens").about(data) == "tokens, 5 classes: O 1, B-LOC 1, B-PER 1, I-LOC 0, I-PER 0"
    numbers = lines({"tokens": ["anna", "lives"], "ner_tags": [1, 0]})
    assert "labels O,B-" in error(tmp_path / "b.jsonl", numbers, kind="tokens")
    named = read(tmp_path / "b.jsonl", numbers, kind="tokens", labels="O,B-PER,I-PER")
    assert named.labels == ("O", "B-PER", "I-PER") and named.train.labels[0].tolist() == [1, 0]
    pieces = lines({"tokens": ["anna", "lives"], "ner_tags": [1, -100]})
    assert "-100 stands for pieces of words" in error(tmp_path / "b.jsonl", pieces, kind="tokens", labels="O,B-PER")
    assert "list of as many tags" in error(
        tmp_path / "c.jsonl", lines({"tokens": ["a"], "ner_tags": []}), kind="tokens"
    )
    assert "JSON lines" in error(tmp_path / "a.csv", column("O"), kind="tokens")
    bad = lines(rows[0], {"tokens": ["a"], "ner_tags": []}, rows[1])
    data = read(tmp_path / "d.jsonl", bad, kind="tokens", skip_bad_rows=True)
    assert data.train.ids == ["train/0", "train/2"] and data.sources["dev"] == "d.jsonl, without 1 bad row"
    assert data.notes == ("d.jsonl: left out 1 of 3 rows: line 2 has no list of words and list of as many tags",)


def test_spans_from_json_lines(tmp_path):
    row = {"id": 7, "question": "who?", "context": "anna lives", "answers": {"text": ["anna"], "answer_start": [0]}}
    for name, content in (
        ("a.jsonl", lines(row, {**row, "id": 8, "answers": {"text": [], "answer_start": []}})),
        ("a.json", json.dumps([row, {**row, "id": 8, "answers": []}])),
        ("b.json", json.dumps({"data": [row, {**row, "id": 8, "answers": []}]})),
    ):
        data = read(tmp_path / name, content, kind="spans")
        assert list(data.train.labels) == [((0, "anna"),), ()]
        assert kind_of("spans").about(data) == "spans, 1 questions with an answer, 1 without one"
    pd.DataFrame([row, {**row, "id": 8, "answers": {"text": [], "answer_start": []}}]).to_parquet(
        tmp_path / "a.parquet"
    )
    data = read(tmp_path / "a.parquet", None, kind="spans")
    assert list(data.train.labels) == [((0, "anna"),), ()] and data.train.ids == ["train/7", "train/8"]
    bad = lines(row, {**row, "id": 8, "question": ""}, {**row, "id": 9})
    data = read(tmp_path / "d.jsonl", bad, kind="spans", skip_bad_rows=True)
    assert data.train.ids == ["train/7", "train/9"] and data.sources["train"] == "d.jsonl, without 1 bad row"
    assert data.notes == ("d.jsonl: left out 1 of 3 rows: line 2 has no question",)
    assert "no column 'question'" in error(tmp_path / "c.jsonl", labelled("a"), kind="spans")
    assert "line 1: its answers are 'anna'" in error(
        tmp_path / "c.jsonl", lines({**row, "answers": "anna"}), kind="spans"
    )


# Models


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_a_file_with_one_class_is_scored_by_a_model_that_knows_them(tmp_path, model, tokenizer, named):
    if not named:
        unnamed = tiny_model()
        unnamed.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
        model = tmp_path / "unnamed"
        unnamed.save_pretrained(model)
        tokenizer.save_pretrained(model)
    path = tmp_path / "one.csv"
    path.write_text(column(*[1] * 6))
    first = evaluate(model, dev=path, quiet=True).scores["dev"]["accuracy"]
    path.write_text(column(*[0] * 6))
    assert first + evaluate(model, dev=path, quiet=True).scores["dev"]["accuracy"] == pytest.approx(1)
    if named:
        path.write_text(column(*["Positive"] * 6))
        assert evaluate(model, dev=path, quiet=True).scores["dev"]["accuracy"] == first
    path.write_text(column(*["other"] * 6))
    with pytest.raises(TutelageError, match="'other' only"):
        evaluate(model, dev=path, quiet=True)


# What others brought


def write(path):
    path.write_text(column("x", "y"))
    return path


FIELD_CASES = [
    ("01_multihot_jsonl/train.jsonl", {}, "multilabel, 4 classes: 0 57, 1 60, 2 56, 3 59; 1.9 a text"),
    ("03_tsv_lone_quotes/train.tsv", {}, "classification, 2 classes: 0 30, 1 30"),
    ("05_unnamed_label_order/train11.csv", {}, "classification, 11 classes: 0 30, 1 30, 2 30, 3 30, 4 30"),
    ("13_label_spellings/spaces.csv", {}, "classification, 2 classes: neg 60, pos 60"),
    ("13_label_spellings/floats.csv", {}, "classification, 2 classes: 0 60, 1 60"),
    ("13_label_spellings/case.csv", {}, "'Neg' (9 rows) and 'neg' (51 rows); 'Pos' (9 rows) and 'pos' (51 rows); correct them"),
    ("13_label_spellings/case.csv", {"labels": "neg,pos"}, "classification, 2 classes: neg 60, pos 60"),
    ("15_errors_that_mislead/semicolon.csv", {}, "classification, 2 classes: 0 10, 1 10"),
    ("15_errors_that_mislead/tabs.csv", {}, "classification, 2 classes: 0 10, 1 10"),
    ("15_errors_that_mislead/splits.json", {}, "keys 'train', 'test'"),
    ("15_errors_that_mislead/pandas.json", {}, "classification, 2 classes: 0 10, 1 10"),
    ("15_errors_that_mislead/textonly.csv", {}, "scores need labels; add a column of them"),
    ("15_errors_that_mislead/nan.csv", {}, "line 6 has no label ('nan' is a gap among numbers)"),
    ("15_errors_that_mislead/decimal_comma.csv", {}, "regression, scores from 0 to 4.9"),
    ("15_errors_that_mislead/gaps.csv", {}, "7 of 60 rows cannot be used: line 2 has no text; line 11 has no text; line 20"),
    ("15_errors_that_mislead/trailing.csv", {}, "classification, 2 classes: 0 10, 1 10"),
    ("15_errors_that_mislead/ner.jsonl", {"kind": "tokens"}, "tokens, 5 classes: O 40, B-LOC 20, B-PER 20"),
    ("15_errors_that_mislead/flat_squad.jsonl", {"kind": "spans"}, "spans, 10 questions with an answer"),
    ("15_errors_that_mislead/one_class.csv", {}, "'1' only"),
]  # fmt: skip


@pytest.mark.skipif(not FIELD.is_dir(), reason="the field cases are not here")
@pytest.mark.parametrize(("name", "options", "said"), FIELD_CASES)
def test_field_cases(name, options, said):
    try:
        data = read(FIELD / name, **options)
        found = kind_of(data.kind).about(data)
    except TutelageError as refused:
        found = str(refused)
    assert said in found


REAL = [
    ("QNLI/dev.tsv", 5463, {"text": "question", "text_pair": "sentence"}),
    ("MRPC/dev.tsv", 408, {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}),
    ("STS-B/train.tsv", 5749, {"text": "sentence1", "text_pair": "sentence2", "label": "score"}),
    ("RTE/train.tsv", 2490, {"text": "sentence1", "text_pair": "sentence2"}),
    ("CoLA/train.tsv", 8551, {"header": False, "text": "3", "label": "1"}),
]


@pytest.mark.slow
@pytest.mark.skipif(not (data_folder() / "glue").is_dir(), reason="the real data is not here")
@pytest.mark.parametrize(("name", "rows", "options"), REAL)
def test_real_files_lose_no_row(name, rows, options):
    assert len(read(data_folder() / "glue" / name, **options).train) == rows
