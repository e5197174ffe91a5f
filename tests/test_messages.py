"""Messages name what the user gave, in the user's words, and a remedy that the user has."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import sentences, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tutelage import api
from tutelage.cli import main
from tutelage.data.config import DataConfig
from tutelage.data.readers.files import read_table, read_texts
from tutelage.data.readers.squad import read_squad
from tutelage.errors import TutelageError, command_line, option
from tutelage.tasks.load import load_data


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    return capsys.readouterr().err


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.fixture(scope="module")
def pair(teacher_folder: Path) -> tuple[object, object]:
    folder = teacher_folder / "teacher"
    return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def refused(match: str, **given: object) -> str:
    with pytest.raises(TutelageError, match=match) as caught:
        load_data(DataConfig.model_validate(given))
    return str(caught.value)


def test_texts_alone_get_a_remedy_that_the_command_has(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = written(tmp_path / "texts.csv", "sentence\na word\nmore\n")
    line = said(capsys, "evaluate", teacher_folder / "teacher", "--dev", texts, "--text", "sentence")
    assert "scores need labels; add a column of them" in line and "--unlabeled" not in line
    refused("scores need labels", train=write_csv(tmp_path / "t.csv", 20, 1), dev=written(texts, "text\na\n"))
    assert "distill takes texts without labels, too: as unlabeled beside" in refused("add a column", train=texts)


def test_a_reader_without_options_recommends_none(tmp_path: Path) -> None:
    gap = written(tmp_path / "gap.csv", "text,label\na,1\n,0\n")
    with command_line(["attention-report"]), pytest.raises(TutelageError, match=r"line 3 has no text; correct it$"):
        read_texts(gap)
    bare = written(tmp_path / "bare.csv", "12,13\na,1\n")
    with command_line(["attention-report"]), pytest.raises(TutelageError, match=r"set --text to one of them$"):
        read_texts(bare)
    for name, content in (("l.json", '[["a", 1], ["b", 0]]'), ("l.jsonl", '["a", 1]\n["b", 0]\n')):
        lists = written(tmp_path / name, content)
        with command_line(["attention-report"]), pytest.raises(TutelageError, match=r"have no names; write objects$"):
            read_texts(lists)
        with command_line(["distill"]), pytest.raises(TutelageError, match=r"pass --no-header and number them"):
            read_table(lists, ("text",))
    flat = written(tmp_path / "flat.json", '[{"id": "1", "context": "A word.", "ask": "What?"}]')
    with pytest.raises(TutelageError, match=r"no column 'question'.*; rename one of them to 'question'$"):
        read_squad(flat, "dev")


def test_objects_in_memory_are_named_as_they_were_given(pair: tuple[object, object]) -> None:
    texts, labels = sentences(12, 3)
    gaps = pd.DataFrame({"sentence": [texts[0], None, ""], "intent": [str(one) for one in labels[:3]]})
    for dev, match in (
        (gaps, r"^dev: 2 of 3 rows cannot be used: row 2 has no text; row 3 has no text \(rows are counted from 1\); correct them, "
            r"or leave them out with skip_bad_rows=True$"),
        (([], []), "^dev is empty; give rows$"),
        ({"sentence": texts, "intent": ["x"] * 12}, "^dev: the labels have 'x' only"),
    ):  # fmt: skip
        with pytest.raises(TutelageError, match=match):
            api.evaluate(pair, dev=dev, text="sentence", label="intent", quiet=True)
    known = list(pair[0].config.id2label.values())
    named = pd.DataFrame({"text": [*texts, None], "label": [known[one] for one in [*labels, 0]]})
    found = api.evaluate(pair, dev=named, skip_bad_rows=True, quiet=True)
    assert (found.model, found.task) == ("model", "dev")
    assert "dev: left out 1 of 13 rows: row 13 has no text (rows are counted from 1)" in found.notes
    with pytest.raises(
        TutelageError, match=r"^train: labels are truth values and numbers \('0', '1', 'False', 'True'\)"
    ):
        api.evaluate(pair, train=(texts[:6], [1, "1", 1.0, True, 0, False]), dev=named, quiet=True)


def test_truth_values_among_numbers_stop(tmp_path: Path) -> None:
    rows = [1, "1", 1.0, True, 0, False]
    file = written(
        tmp_path / "a.jsonl", "\n".join(json.dumps({"text": f"t{i}", "label": one}) for i, one in enumerate(rows))
    )
    refused("labels are truth values and numbers", train=file)
    for fine in (["true", "no"], [True, False], [0, 1, 2]):
        lines = (json.dumps({"text": f"t{i}", "label": one}) for i, one in enumerate(fine * 12))
        assert load_data(DataConfig(train=str(written(file, "\n".join(lines))))).labels


def test_column_numbers_need_a_file_without_a_header(tmp_path: Path) -> None:
    bare = written(tmp_path / "bare.csv", "pad 0,a\npad 1,b\n")
    with command_line(["evaluate"]):
        refused(
            r"is in the first row and no header, pass --no-header and numbers: --text 0 --label 1$",
            train=bare,
            text="0",
            label="1",
        )
    refused("pass header=False and numbers: text 0 label 1$", train=bare, text="0", label="1")
    assert "no header" not in refused("no column 'pad'", train=bare, text="pad")


def test_an_exported_folder_names_its_model(teacher_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((teacher_folder / "teacher" / name).read_bytes())
    written(tmp_path / "model.onnx", "graph")
    given = {"dev": str(teacher_folder / "dev.csv"), "quiet": True}
    with pytest.raises(TutelageError, match=r"holds an ONNX graph, which cannot be trained"):
        api.evaluate(tmp_path, **given)
    written(tmp_path / "export.json", json.dumps({"model": "/runs/a/student"}))
    with pytest.raises(
        TutelageError, match=r"is an export of the model '/runs/a/student'.*scores .* are in export.json"
    ):
        api.evaluate(tmp_path, **given)


def test_a_proposer_is_called_that(teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=r"the proposer .* has no masked-language-model head"):
        api.augment(teacher_folder / "teacher", tmp_path / "out", train=teacher_folder / "train.csv", quiet=True)


def test_a_cascade_names_no_folder_that_is_gone(
    teacher_folder: Path, pair: tuple[object, object], tmp_path: Path
) -> None:
    given = {"dev": write_csv(tmp_path / "new.csv", 200, 9), "agreement": 0.5, "quiet": True}
    found = api.cascade(teacher_folder / "second", pair, tmp_path / "a", **given)
    kept = json.loads((tmp_path / "a" / "cascade.json").read_text())
    assert found.teacher is kept["teacher"] is None and kept["student"] == str(teacher_folder / "second")
    assert api.cascade(pair, teacher_folder / "second", tmp_path / "b", **given).student is None


# ---------------------------------------------------------------------------------------- options in messages

SOURCE = Path(option.__code__.co_filename).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
COMMAND = re.compile(r"`[^`]*`")

IN_PAGES = "report"
"""Pages and cards are for whoever reads the folder: they speak the language of the command line."""


def literals(file: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module that are no docstrings and no options of a parser, without commands in backticks."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.Call) and getattr(one.func, "attr", "") == "add_argument":
            skipped |= {id(given) for given in one.args}
        elif isinstance(one, ast.JoinedStr) and id(one) not in skipped:
            parts = [part.value if isinstance(part, ast.Constant) else "VALUE" for part in one.values]
            skipped |= set(map(id, one.values))
            yield one.lineno, COMMAND.sub("", "".join(parts))
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in skipped:
            yield one.lineno, COMMAND.sub("", one.value)


def test_messages_name_options_as_the_user_typed_them() -> None:
    """In Python an option is an argument: ``option("name")`` stands in messages, not ``--name``."""
    found = [
        f"{file.relative_to(SOURCE)}:{line}: {text}"
        for file in sorted(SOURCE.rglob("*.py"))
        if file.relative_to(SOURCE).parts[0] not in ("cli", IN_PAGES)
        for line, text in literals(file)
        if FLAG.search(text)
    ]
    assert found == []


def test_an_option_is_an_argument_in_python() -> None:
    assert (option("max_train"), option("resume", True), option("header", False)) == (
        "max_train",
        "resume=True",
        "header=False",
    )
    with command_line(["run"]):
        assert [option("max_train"), option("resume", True), option("header", False), option("settings")] == [
            "--max-train", "--resume", "--no-header", "--set",
        ]  # fmt: skip
