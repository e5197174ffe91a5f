"""The functions behind the commands: their signatures, objects in place of paths, results, plug-ins."""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import LABELS, sentences, tiny_model, write_csv
from processes import KILLED, command, in_process
from test_cli import invoke
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tutelage
from tutelage import api, cli
from tutelage.api.common import recipe_for, several, teachers_of
from tutelage.cli.options import about, data_options
from tutelage.data.config import BY_SETTING, DataConfig, DataOptions
from tutelage.errors import TutelageError
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.methods import METHODS
from tutelage.methods.minimum_knowledge import ROSITA6
from tutelage.objectives.kinds import kinds_of, ours
from tutelage.objectives.term import Term
from tutelage.recipes.config import as_options, from_yaml, to_yaml
from tutelage.recipes.settings import parsed
from tutelage.run.folder import longest_of_run
from tutelage.run.inputs import Inputs, _plain
from tutelage.run.result import Result
from tutelage.students.load import load_config
from tutelage.students.specs import Checkpoint, Copied, Fresh, Inherited, Pruned, Shared, Student, StudentSpec, parse
from tutelage.tasks import kind_of_model
from tutelage.tasks.load import load_data

SHORT = {"stages.*.max_steps": 3, "stages.*.batch_size": 8}
FUNCTIONS = [getattr(api, derived.function) for derived in cli.COMMANDS.values()]


def table(count: int, seed: int) -> dict[str, list[str]]:
    texts, labels = sentences(count, seed)
    return {"text": texts, "label": [LABELS[label] for label in labels]}


def files(root: Path) -> dict[str, str]:
    return {"train": str(root / "train.csv"), "dev": str(root / "dev.csv")}


def distilled(root: Path, out: Path, **more: Any) -> Result:
    given = {"student": "layers=2", "settings": SHORT, "baseline": False, "quiet": True, **more}
    if not {"data", "train"} & set(given):
        given |= files(root)
    return api.distill(given.pop("teacher", root / "teacher"), out, **given)


# ------------------------------------------------------------------------------------------------------- signatures


def test_data_options_are_the_fields_of_the_data() -> None:
    assert list(DataOptions.__annotations__) == list(DataConfig.model_fields)
    assert set(BY_SETTING) < set(DataConfig.model_fields)


def test_a_notebook_sees_every_option_of_data_with_its_default() -> None:
    seen = inspect.signature(tutelage.distill).parameters
    for name, field in DataConfig.model_fields.items():
        assert seen[name].default == field.default
    assert "options" not in seen and seen["method"].default == "compact" and seen["data"].default is None
    assert "max_length: 'int | None' = None" in str(inspect.signature(tutelage.evaluate))


@pytest.mark.slow  # mypy reads the whole package
def test_a_type_checker_sees_a_misspelt_option(tmp_path: Path) -> None:
    from mypy import api as mypy

    path = tmp_path / "user.py"
    lines = ["distill('t', 'o', task='sst2', max_legnth=64)", "distill('t', 'o', max_length=64)"]
    path.write_text("\n".join(["from tutelage import distill", *lines, ""]))
    options = ["--follow-imports=silent", "--ignore-missing-imports", f"--cache-dir={tmp_path}", str(path)]
    said = mypy.run(options)[0]
    assert 'Unexpected keyword argument "max_legnth" for "distill"' in said and "user.py:3" not in said


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_is_documented(function: Any) -> None:
    said = about(function)
    takes_data = hasattr(function, "data_options")
    named = [
        name for name in inspect.signature(function).parameters if not takes_data or name not in DataConfig.model_fields
    ]
    of_data = {
        name for name in said.arguments if takes_data and name in DataConfig.model_fields
    }  # where it means something else
    assert [name for name in said.arguments if name not in of_data] == [*named, *(["options"] if takes_data else [])]
    assert of_data <= data_options(function).keys()
    assert said.summary.endswith(".") and said.example.startswith("tutelage ")
    assert all(words.endswith(".") and "  " not in words for words in said.arguments.values())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_result_has_a_public_type(function: Any) -> None:
    name = re.sub(r"list\[(\w+)\]", r"\1", inspect.signature(function).return_annotation)
    assert inspect.isclass(getattr(tutelage, name))
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "python.md").read_text(encoding="utf-8")
    assert f"`{name}`" in guide and re.search(rf"`(tutelage\.api\.)?{function.__name__}`", guide)


def test_results_in_json_have_the_keys_of_their_types(teacher_folder: Path) -> None:
    """Scripts read them; what a kind of task lacks is absent."""
    code, out, error = invoke(
        "evaluate",
        teacher_folder / "teacher",
        "--dev",
        teacher_folder / "dev.csv",
        "--kind",
        "classification",
        "--json",
    )
    assert code == 0, error
    assert [*json.loads(out)] == ["model", "task", "metric", "scores", "notes"]
    team = {"task": "t", "metric": "f1", "part": "dev", "members": [], "not_kept_apart": []}
    assert tutelage.TeamReport(**team).model_dump(mode="json") == team
    row = json.loads(invoke("methods", "--json")[1])[0]
    assert [*row] == ["method", "title", "paper", "init", "stages"]
    assert [*row["stages"][0]] == [
        "stage",
        "data",
        "embeddings",
        "attention",
        "hidden",
        "predictions",
        "labels",
        "mechanisms",
    ]


def test_names_are_public_and_cheap() -> None:
    assert dir(tutelage) == sorted(set(dir(tutelage))) == sorted(tutelage.__all__)
    assert {"pretrain", "augment", "build_corpus", "ablate", "Pooled", "PTP", "Result"} <= set(dir(tutelage))
    heavy = "{'torch', 'transformers', 'pydantic'}"
    code = f"import sys, tutelage; from tutelage import distill, finetune; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    code = "import sys; from tutelage import cli; cli.main(['methods']); print({'torch', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout[-6:]
        == "set()\n"
    )
    for name in dir(tutelage):
        assert getattr(tutelage, name) is not None
    for base, key in ((Term, "kind"), (Mechanism, "kind"), (StudentSpec, "init")):
        parts = [part for part in kinds_of(base, key).values() if ours(part)]
        assert all(getattr(tutelage, part.__name__) is part for part in parts)
    assert {"Kind", "TextKind", "Hook", "Assistant", "Masking", "Augmentation", "Rules"} <= set(dir(tutelage))


def test_no_two_classes_have_one_name() -> None:
    """A class name stands for one thing in the whole package, so that a reader who has met it knows it."""
    root, found = Path(tutelage.__file__).parent, defaultdict(list)
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(root)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_python_m_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "tutelage", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tutelage {tutelage.__version__}\n"


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tutelage.__version__


# --------------------------------------------------------------------------------------------------------- students


@pytest.mark.parametrize(
    ("method", "text", "expected"),
    [
        ("pkd", "layers=2", Copied(layers=2, choose="first")),
        ("pkd", "layers=2,choose=last", Copied(layers=2, choose="last")),
        ("pkd", "layers=2,hidden=16", Fresh(layers=2, hidden=16)),
        ("distilbert_general", "layers=3", Copied(layers=3, choose="spread", family="distilbert")),
        ("distilbert_general", "layers=3,family=electra", Fresh(layers=3, family="electra")),
        ("wid", "hidden=192", Inherited(hidden=192)),
        ("wid", "hidden=192,strategy=head", Inherited(hidden=192, strategy="head")),
        ("wid", "layers=2,hidden=16", Fresh(layers=2, hidden=16)),
        ("pea_kd", "stored=2", Shared(stored=2, order="shuffled")),
        ("pea_kd", "layers=2", Copied(layers=2)),
        ("minimum_knowledge", "layers=3", ROSITA6.model_copy(update={"layers": 3})),
        ("kd", "target_parameters=0.5", Pruned(target_parameters=0.5)),
        ("minimum_knowledge", "init=copied,layers=3", Copied(layers=3)),
        ("minimum_knowledge", "layers=3,hidden=16", Fresh(layers=3, hidden=16)),
        ("tinybert", "layers=2", Fresh(layers=2, hidden=312, intermediate=1200, heads=12)),
    ],
)
def test_a_student_keeps_what_is_not_named(method: str, text: str, expected: Student) -> None:
    assert parse(text, METHODS[method]().student) == expected


def test_a_folder_is_a_checkpoint_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is one even if the folder is not there: loading it says so."""
    (tmp_path / "layers=3").mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in ("layers=3", str(tmp_path / "layers=3"), "/none/layers=3"):
        assert parse(folder) == Checkpoint(name=folder)
    assert parse("layers=2") == Copied(layers=2)


# --------------------------------------------------------------------------------------------------- objects, results


def test_objects_give_the_student_that_files_give(teacher_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    pair = (model, AutoTokenizer.from_pretrained(teacher_folder / "teacher"))
    train, dev = table(60, 1), table(40, 2)
    for name, rows in (("train", train), ("dev", dev)):
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    ours = distilled(teacher_folder, tmp_path / "objects", teacher=pair, train=pd.DataFrame(train), dev=dev)
    theirs = distilled(teacher_folder, tmp_path / "files", **files(tmp_path))
    weights = [(result.folder / "student" / "model.safetensors").read_bytes() for result in (ours, theirs)]
    assert weights[0] == weights[1]
    # The configuration names what was written, and repeats the run.
    assert str(ours.config.teacher).startswith(str(tmp_path / "objects" / "inputs" / "teacher-"))
    again = api.run(ours.folder / "config.yaml", settings={"out": str(tmp_path / "again")}, quiet=True)
    assert (again.folder / "student" / "model.safetensors").read_bytes() == weights[0]
    # Resumed with equal objects it is finished; with others it is another run, and nothing is written.
    reloaded = (AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher"), pair[1])
    same = {"teacher": reloaded, "train": datasets.Dataset.from_dict(train), "dev": pd.DataFrame(dev), "resume": True}
    assert distilled(teacher_folder, tmp_path / "objects", **same).report == ours.report
    before = sorted((tmp_path / "objects").rglob("*"))
    with torch.no_grad():
        model.classifier.bias += 1
    for changed in ({"teacher": pair}, {"train": table(61, 1)}):
        with pytest.raises(TutelageError, match=r"holds a run with another (teacher|train); give another out"):
            distilled(teacher_folder, tmp_path / "objects", **same | changed)
    assert sorted((tmp_path / "objects").rglob("*")) == before


def test_a_result_shows_itself_and_its_predictions(teacher_folder: Path, tmp_path: Path) -> None:
    result = distilled(teacher_folder, tmp_path / "run")
    found = result.predictions()
    assert list(found) == ["text", "label", *(f"{who}{more}" for who in ("student", "teacher")
        for more in ("", *(f": {label}" for label in LABELS)))]  # fmt: skip
    assert (found["student"] == found["label"]).mean() == pytest.approx(result.report["student"]["score"])
    assert (found["teacher"] == found["label"]).mean() == pytest.approx(result.report["teacher"]["score"])
    assert (found["student"] == found["teacher"]).mean() == pytest.approx(result.report["student"]["agreement"])
    assert np.allclose(found[[f"student: {label}" for label in LABELS]].sum(axis=1), 1)
    assert len(result.disagreements()) == (found["student"] != found["teacher"]).sum()
    shown = result._repr_html_()
    assert "student" in shown and f"{result.report['student']['score']:.4f}" in shown and "<table>" in shown
    assert result.student.config.num_hidden_layers == 2 and result.tokenizer("word1")["input_ids"]
    # A result stands for its folder.
    assert api.evaluate(result, quiet=True, **files(teacher_folder)).scores == result.report["student"]["scores"]
    with pytest.raises(TutelageError, match="standard checkpoint already"):
        result.export(tmp_path / "plain", format="checkpoint")


def test_predictions_are_those_of_all_classes_of_a_teacher(teacher_folder: Path, tmp_path: Path) -> None:
    """One that the data lack is a column, and an answer, as in the report."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder / "teacher")
    with torch.no_grad():
        weight, bias = (torch.cat([x[1:] * 2, x]) for x in (model.classifier.weight, model.classifier.bias))
        # The new class is above "positive" where that is above its upper quartile.
        texts = tokenizer(table(100, 2)["text"], padding=True, return_tensors="pt")
        bias[0] -= model(**texts).logits[:, 1].quantile(0.75)
    model.classifier.weight, model.classifier.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    model.config.id2label = dict(enumerate(("unclear", *LABELS)))
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    model.num_labels = 3
    given = {"teacher": (model, tokenizer), "method": "kd", "allow_weak_teacher": True}
    result = distilled(teacher_folder, tmp_path / "run", **given)
    found, report = result.predictions(), result.report
    assert list(found)[7:] == [f"teacher: {label}" for label in (*LABELS, "unclear")]
    assert "unclear" in set(found["teacher"])
    for who in ("student", "teacher"):
        assert (found[who] == found["label"]).mean() == pytest.approx(report[who]["score"])
        assert np.allclose(found[[f"{who}: {label}" for label in (*LABELS, "unclear")]].sum(axis=1), 1)
    assert 1 - len(result.disagreements()) / len(found) == pytest.approx(report["student"]["agreement"])


def test_a_fine_tuned_result_is_a_teacher(teacher_folder: Path, tmp_path: Path) -> None:
    data = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict(
                {"text": table(60, 1)["text"], "label": sentences(60, 1)[1]},
                features=datasets.Features(
                    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))}
                ),
            ),
            "validation": datasets.Dataset.from_dict(table(40, 2)),
        }
    )
    given = {"data": data, "settings": SHORT, "served": False, "quiet": True}
    made = api.finetune(teacher_folder / "random", tmp_path / "teacher", **given)
    assert made.report["served"] is None
    assert made.report["labels"] == list(LABELS) and made.report["data"]["evaluation"] == 40
    assert "teacher" not in made.predictions()
    texts, labels = table(60, 1).values()
    given = {"train": (texts, labels), "dev": data["validation"], "unlabeled": texts[:10], "allow_weak_teacher": True}
    result = distilled(teacher_folder, tmp_path / "run", teacher=made, **given)
    assert result.report["data"]["unlabeled"] == 10
    assert result.config.teacher == str(made.folder)


def test_sentences_and_questions_in_memory(tmp_path: Path) -> None:
    """As data sets of the Hub have them: names of classes stand with the column, answers are within a row."""
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "I-PER"]))
    words, numbers = [["Ada", "Lovelace", "writes"]] * 20, [[1, 2, 0]] * 20
    columns = {"id": list(map(str, range(20))), "tokens": words, "ner_tags": numbers}
    sentences = datasets.Dataset.from_dict(columns).cast_column("ner_tags", tags)
    answers = {"text": ["London"], "answer_start": [12]}
    row = {"context": "Ada lived in London."[:12] + "London.", "question": "Where did Ada live?", "answers": answers}
    questions = pd.DataFrame([{"id": str(number), **row} for number in range(20)])
    for kind, table in (("tokens", sentences), ("spans", questions)):
        with Inputs(tmp_path / kind) as inputs:
            read = load_data(DataConfig.model_validate(inputs.data(None, {"train": table, "dev": table, "kind": kind})))
        assert read.kind == kind and len(read.train) == len(read.dev["dev"]) == 20
        if kind == "tokens":
            assert read.labels == ("O", "B-PER", "I-PER") and read.train.texts[0] == "Ada Lovelace writes"
        else:
            assert read.train.texts[0] == "Where did Ada live?" and read.train.labels[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": {"text": ["a"], "labels": ["x"]}}, "train has no column 'label'; its columns are 'text', 'labels'"),
        ({"train": {"text": ["a", "b"], "label": ["x"]}}, "different lengths"),
        ({"train": ["a", "b"]}, "train has no column 'label'"),
        ({"train": ["a"], "kind": "tokens"}, "has no column 'label' for label: its columns are 'text'"),
        (
            {"data": {"other": ["a"]}},
            "data has no split 'train', nor one to evaluate on (dev, validation, valid, val, eval, test); it has 'other'",
        ),
        ({"data": {"test": table(4, 1)}}, "there are no training texts; give task NAME or train FILE"),
        (
            {"train": {"text": ["a"], "label": [object()]}},
            "train has a column 'label' that cannot be written as JSON (Object of type object",
        ),
        ({"teacher": 3}, "teacher=int is not a model"),
        ({"student": 3}, "student=int is not a model; give a folder, a hub id or (model, tokenizer)"),
        ({"student": {"layers": 1}}, "student=dict is no student; write it as 'layers=3', or as Copied(layers=3)"),
        (
            {"mixed_precision": "fp8", "train": "x.csv"},
            "mixed_precision: Input should be 'no', 'bf16', 'fp16' or 'auto'",
        ),
        ({"max_train": 0, "train": "x.csv"}, "max_train: Input should be greater than or equal to 1"),
        (
            {"store_dtype": "int4", "train": "x.csv"},
            "store_dtype: Input should be 'float32', 'float16', 'bfloat16' or 'int8'",
        ),
        ({"kind": "ranking", "train": "x.csv"}, "kind 'ranking' does not exist"),
        ({"holdout": 2, "train": "x.csv"}, "data.holdout: Input should be less than 1"),
    ],
)
def test_objects_that_cannot_be_used(given: dict[str, Any], message: str, teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError) as caught:
        distilled(teacher_folder, tmp_path / "out", **given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_paths_begin_at_home(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home folder wherever a path may stand: also in settings, and for objects written beside a run."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "teacher").symlink_to(teacher_folder / "teacher")
    (home / "my.py").write_text(PLUGIN.replace("jensen_shannon", "js_at_home"))
    for name in ("train", "dev"):
        (home / f"{name}.csv").symlink_to(teacher_folder / f"{name}.csv")
    assert api.evaluate("~/teacher", dev="~/dev.csv", quiet=True).scores["dev"]
    data = {"train": "~/train.csv", "dev": "~/dev.csv", "quiet": True}
    store = api.write_store("~/teacher", "~/store", method="kd", **data)
    assert store == api.inspect_store("~/store") == api.verify_store("~/store", teacher="~/teacher")
    settings = {**SHORT, "data.dev": "~/dev.csv", "out": "~/run"}
    given = {"teacher": "~/teacher", "plugins": ["~/my.py"], "method": "softer", "settings": settings}
    result = distilled(teacher_folder, Path("elsewhere"), train="~/train.csv", teacher_store="~/store", **given)
    assert result.folder == home / "run" and result.config.data.train == str(home / "train.csv")
    assert parse("~/student") == parse(str(home / "student")) and parse("layers=1,source=~/s").source == str(home / "s")
    with Inputs("~/objects") as inputs:
        assert inputs.data(None, {"train": table(40, 1)})["train"].startswith(str(home / "objects"))
    for act in (
        lambda: api.run("~/none.yaml"),
        lambda: api.compare("~/none.yaml", out="~/compared"),
        lambda: api.show_team(["~/none", "~/teacher"], **data),
        lambda: api.distill(None, "~/none", teacher_predictions="~/none.csv", student="layers=1,source=~/teacher"),
        lambda: api.recipe("pea_kd", plugins=["~/none.py"]),
        lambda: api.gate("~/none", min_retention=0.5),
    ):
        with pytest.raises(TutelageError, match=re.escape(str(home / "none"))):
            act()
    assert not list(here.iterdir())


def test_models_and_recipes_stand_for_paths_and_names(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = teacher_folder / "teacher"
    pair = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for method in (METHODS["kd"], METHODS["kd"]()):
        assert api.recipe(method, teacher=folder, task="mrpc") == api.recipe("kd", teacher=folder, task="mrpc")
    with pytest.raises(TutelageError, match="method=str is no method"):
        api.recipe(lambda: "kd")
    written = api.recipe("kd", teacher=pair, out=tmp_path / "run").teacher
    assert Path(written).parent == tmp_path / "run" / "inputs" and (Path(written) / "config.json").exists()
    with pytest.raises(TutelageError, match="give out too"):
        api.recipe("kd", teacher=pair)
    store = tmp_path / "store"
    data = {**files(teacher_folder), "student": "init=copied,layers=2", "quiet": True}
    made = api.write_store(pair, store, method="minimum_knowledge", **data)
    assert api.verify_store(store, teacher=pair) == made
    with pytest.raises(TutelageError, match="another teacher"):
        api.verify_store(store, teacher=teacher_folder / "random")
    cut = [
        api.compact_store(store, tmp_path / f"cut{len(str(one))}", method="minimum_knowledge", student=one, quiet=True)
        for one in (folder, pair)
    ]
    assert cut[0].bytes == cut[1].bytes
    asked: dict[str, Any] = {}
    monkeypatch.setattr("tutelage.studies.ablation.ablate", lambda out, **given: asked.update(given))
    spec = Fresh(layers=1, hidden=16, heads=2, intermediate=16)
    api.ablate(
        "tinybert", tmp_path / "rows", teacher=pair, general_teacher=pair, corpus="corpus", student=spec, task="mrpc"
    )
    assert asked["student"] == spec and Path(asked["teacher"]).parent == tmp_path / "rows" / "inputs"
    assert "general_teacher-" in asked["general_teacher"]


def test_objects_of_a_call_without_output_are_not_kept() -> None:
    with Inputs() as inputs:
        tree = inputs.data(None, {"dev": table(3, 1)})
        path = Path(tree["dev"])
        assert len(path.read_text().splitlines()) == 3
    assert not path.exists()


def test_only_the_columns_that_are_used_are_converted() -> None:
    """Whatever else a table has; an array of numbers is converted at once, and gaps anywhere are None."""

    class Unread:
        def __iter__(self) -> Any:
            raise AssertionError

    rows = [{"text": text, "label": label, 3: Unread()} for text, label in zip(*table(3, 1).values(), strict=True)]
    frame = pd.DataFrame(rows)
    with Inputs() as inputs:
        paths = {
            inputs.data(None, {"dev": dev})["dev"]
            for dev in (
                table(3, 1),
                {**table(3, 1), "vector": Unread()},
                frame,
                rows,
                (row for row in rows),
                np.array(rows),
            )
        }
        assert len(paths) == 1
        with pytest.raises(TutelageError, match="has no column 'intent'; its columns are 'text', 'label', '3'"):
            inputs.data(None, {"dev": frame, "label": "intent"})
        with pytest.raises(TutelageError, match="in place of a list"):
            inputs.data(None, {"dev": {**table(3, 1), "label": np.array(3)}})
    vectors = [np.ones(2), np.array([np.nan, 1]), np.array([None, np.float32(2)], dtype=object), np.array([True])]
    assert _plain(vectors, "dev") == [[1.0, 1.0], [None, 1.0], [None, 2.0], [True]]
    assert _plain(np.array([[1.0, np.nan]]), "dev") == [[1.0, None]]


def test_a_split_to_evaluate_on_is_enough_to_evaluate(teacher_folder: Path) -> None:
    teacher, dev = teacher_folder / "teacher", table(40, 2)
    scores = api.evaluate(teacher, dev=dev, quiet=True).scores
    for data in ({"test": dev}, datasets.DatasetDict(validation=datasets.Dataset.from_dict(dev))):
        assert api.evaluate(teacher, data=data, quiet=True).scores == scores


def test_one_needs_no_list_and_none_is_the_default(teacher_folder: Path, tmp_path: Path) -> None:
    path, teacher, out = tmp_path / "my.py", teacher_folder / "teacher", tmp_path / "out"
    path.write_text(PLUGIN.replace("jensen_shannon", "js_alone").replace("softer", "alone"))
    for plugins in (str(path), path):
        assert "alone" in {row.method for row in api.methods(plugins=plugins)}
    with Inputs() as inputs:
        assert recipe_for(None, None, inputs).method == "compact"
        assert teachers_of(inputs, teacher, None, None, False)["teachers"] == ()
    assert parsed("stages.*.epochs=2") == {"stages.*.epochs": 2} and parsed(None) == {}
    data = {**files(teacher_folder), "quiet": True}
    for message, act in (
        ("no method 'nope'", lambda: api.compare(teacher=teacher, out=out, methods="kd,nope", **data)),
        ("'layers=0'", lambda: api.compare(teacher=teacher, out=out, methods="kd", students="layers=0", **data)),
        ("'layers=0'", lambda: api.chain(teacher, out, through="layers=0", **data)),
        ("at least two teachers; got 1;", lambda: api.train_team(teacher, out, members="layers=0", **data)),
        ("'none.txt'", lambda: api.build_corpus("none.txt", out, tokenizer=teacher, quiet=True)),
        ("'nope'", lambda: api.finetune(teacher, out, settings="nope", **data)),
    ):
        with pytest.raises(TutelageError, match=message):
            act()
    given = {**files(teacher_folder), "student": "init=copied,layers=2"}
    plans = [api.plan_store(teacher, method=name, **given) for name in (None, "minimum_knowledge")]
    assert plans[0] == plans[1]


# --------------------------------------------------------------------------------------------------------- settings


def test_values_are_not_text(teacher_folder: Path, tmp_path: Path) -> None:
    """By YAML 1.1 3e-5 is text."""
    given = ("--train", teacher_folder / "train.csv", "--model", teacher_folder / "random", "--epochs", "2")
    code, _, error = invoke("finetune", *given, "--lr", "3e-5", "--set", "max_steps=2", "--set", "weight_decay=1e-3", "--json",
        "--set", "mixed_precision=no", "--out", tmp_path / "a")  # fmt: skip
    assert code == 0, error
    config = from_yaml(tmp_path / "a" / "config.yaml")
    stage = config.recipe.stages[0]
    assert (stage.lr, stage.epochs, stage.weight_decay, config.mixed_precision) == (3e-5, 2, 1e-3, "no")
    code, out, _ = invoke("recipe", "kd")
    text = out.replace("lr: 5.0e-05", "lr: 4e-5").replace("\nout: null", "\nout: '3e-5'")
    (tmp_path / "my.yaml").write_text(text)
    assert from_yaml(tmp_path / "my.yaml").recipe.stages[0].lr == 4e-5
    assert from_yaml(tmp_path / "my.yaml").out == "3e-5"


def test_epochs_of_distill_are_those_of_each_stage(teacher_folder: Path, tmp_path: Path) -> None:
    """auto too, as in finetune; what --set says of a stage overrides them."""
    for name, make in METHODS.items():
        recipe = make()
        for epochs in (7, *(["auto"] if not any(stage.on_corpus for stage in recipe.stages) else [])):
            changed = recipe.for_epochs(epochs)
            whole = [*changed.stages, *(stage for one in changed.assistants for stage in one.stages or ())]
            assert {stage.epochs for stage in whole} == {epochs}, name
            back = [
                stage.model_copy(update={"epochs": old.epochs})
                for stage, old in zip(changed.stages, recipe.stages, strict=True)
            ]
            assert back == recipe.stages
    with pytest.raises(TutelageError, match="is on a corpus, where epochs and lr are numbers"), as_options():
        METHODS["tinybert"]().for_epochs("auto")
    given = ("--teacher", teacher_folder / "teacher", "--train", teacher_folder / "train.csv", "--method", "pea_kd")
    given = (*given, "--dev", teacher_folder / "dev.csv", "--no-baseline", "--set", "stages.*.max_steps=1", "--json")
    for epochs, more, expected in (("2", ("--set", "stages.ptp.epochs=1"), [1, 2]), ("auto", (), ["auto", "auto"])):
        out = tmp_path / epochs
        code, _, error = invoke("distill", *given, "--epochs", epochs, *more, "--out", out)
        assert code == 0, error
        assert [stage.epochs for stage in from_yaml(out / "config.yaml").recipe.stages] == expected


# --------------------------------------------------------------------------------------------------------- plug-ins

BLOCKS = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```python\n")[1:]
IMPORTS, FORMULA, TERM = (
    next(dedent(block.split("```")[0]) for block in BLOCKS if name in block)
    for name in ("from tutelage.fields", "def jensen_shannon", "class JensenShannon")
)
METHOD = """
from tutelage import Copied, HardLabels, Recipe, Stage


def softer(temperature: float = 2.0) -> Recipe:
    objective = [JensenShannon(temperature=temperature), HardLabels(weight=0.5)]
    stage = Stage(name="distill", objective=objective, epochs=3, lr=1e-3)
    return Recipe(method="softer", title="JSD", paper="none", student=Copied(choose="first"), stages=[stage])
"""
# As the page says: the formula and the term in one file.
PLUGIN = (
    IMPORTS + FORMULA + TERM.replace("from tutelage.objectives import losses\n", "").replace("losses.", "") + METHOD
)


@pytest.mark.slow
def test_a_plug_in_through_the_command_line(teacher_folder: Path, tmp_path: Path) -> None:
    """A user's own term and method: trained, killed and resumed, repeated from the configuration; without the file refused."""
    path = tmp_path / "my_losses.py"
    path.write_text(PLUGIN)
    code, out, _ = invoke("methods", "--plugin", path, "--json")
    assert code == 0 and "softer" in {row["method"] for row in json.loads(out)}
    common = ["--teacher", teacher_folder / "teacher", "--train", teacher_folder / "train.csv", "--student", "layers=2"]
    common += ["--dev", teacher_folder / "dev.csv", "--set", "stages.*.max_steps=6", "--no-baseline", "--json"]
    words = ["distill", *common, "--method", "softer", "--plugin", path, "--set", "jensen_shannon.temperature=3"]
    code, out, error = invoke(*words, "--out", tmp_path / "a")
    assert code == 0, error
    losses = [value for _, value in json.loads(out)["stages"][0]["losses"]["jensen_shannon"]]
    assert all(0 < value < 1 for value in losses)
    assert from_yaml(tmp_path / "a" / "config.yaml").recipe.student == Copied(layers=2, choose="first")
    code, again, error = invoke(*words, "--out", tmp_path / "a", "--resume")
    assert code == 0 and json.loads(again) == json.loads(out), error

    repeat = ["run", str(tmp_path / "a" / "config.yaml"), "--set", f"out={tmp_path / 'b'}", "--json"]
    code, error = in_process(command, repeat)
    assert code == 2 and "there is no term 'jensen_shannon'" in error and "--plugin FILE" in error
    assert len(error.strip().splitlines()) == 1 and not (tmp_path / "b").exists()
    repeat += ["--plugin", str(path)]
    assert in_process(command, repeat, 1) == KILLED
    code, error = in_process(command, [*repeat, "--resume"])
    assert code == 0, error
    weights = [(tmp_path / name / "student" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


STUDENT = '''
from typing import Annotated, Literal

from pydantic import Field

from tutelage import Copied, StudentSpec


class Bottom(StudentSpec):
    """The bottom layers of the teacher."""

    inherits = True

    init: Literal["bottom"] = "bottom"
    depth: Annotated[int, Field(ge=1)] = 1

    def network(self, teacher, labels, head):
        from tutelage.students.copied import copy_layers

        return copy_layers(teacher, Copied(layers=self.depth, choose="first"), labels)
'''


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import tutelage\nclass Lost(tutelage.Term):\n    pass\n", "Lost has no name; give it kind"),
        (
            "def mine() -> 'Recipe':\n    return None\n",
            r"annotations of mine in .* cannot be read .*import what they name",
        ),
    ],
)
def test_a_part_that_cannot_be_named_is_said(code: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "lost.py").write_text(code)
    with pytest.raises(TutelageError, match=words):
        api.methods(plugins=tmp_path / "lost.py")


def test_objects_that_are_no_paths_and_parts_of_objects(teacher_folder: Path, tmp_path: Path) -> None:
    kd, teacher = METHODS["kd"](), str(teacher_folder / "teacher")
    for call, words in (
        (lambda: api.inspect_corpus({"path": "corpus"}), "an object of type dict is given where a path is needed"),
        (lambda: api.run({"teacher": teacher}), "an object of type dict is given where a path is needed"),
        (
            lambda: api.distill(teacher, tmp_path / "out", method=kd, ablation="no_kd"),
            "change the recipe, which is an object",
        ),
    ):
        with pytest.raises(TutelageError, match=words):
            call()
    pair = tiny_model(), AutoTokenizer.from_pretrained(teacher)
    assert several(pair) == [pair] and several([pair, "kd"]) == [pair, "kd"] and several(("a", "b")) == ["a", "b"]


def test_a_plug_ins_student(teacher_folder: Path, tmp_path: Path) -> None:
    """It is trained like the student of the package that is the same, and repeated from the configuration."""
    path = tmp_path / "my_student.py"
    path.write_text(STUDENT)
    common = [
        "distill",
        "--teacher",
        teacher_folder / "teacher",
        "--train",
        teacher_folder / "train.csv",
        "--plugin",
        path,
    ]
    common += ["--dev", teacher_folder / "dev.csv", "--set", "stages.*.max_steps=3", "--no-baseline", "--json"]
    for name, student in (("own", "init=bottom,depth=2"), ("copied", "layers=2,choose=first")):
        code, _, error = invoke(*common, "--student", student, "--out", tmp_path / name)
        assert code == 0, error
    assert from_yaml(tmp_path / "own" / "config.yaml").recipe.student.model_dump() == {
        "init": "bottom",
        "depth": 2,
        "vocabulary": "full",
    }
    weights = [(tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("own", "copied")]
    assert weights[0] == weights[1]
    code, _, error = invoke(*common, "--student", "init=bottom,depth=0", "--out", tmp_path / "never")
    assert code == 2 and "depth: Input should be greater than or equal to 1" in error
    code, error = in_process(command, ["run", str(tmp_path / "own" / "config.yaml"), "--json"])
    assert code == 2 and "there is no student 'bottom'" in error and "--plugin FILE" in error


GUIDE = (Path(__file__).parents[1] / "docs" / "guides" / "plugins.md").read_text(encoding="utf-8")
KIND = GUIDE.split("```python\n")[1].split("```")[0]


def test_a_plug_ins_kind_of_task(teacher_folder: Path, tmp_path: Path) -> None:
    """Trained, distilled, evaluated, exported, gated and served; each command knows it of the file alone."""
    path = tmp_path / "my_kind.py"
    path.write_text(KIND)
    for name in ("train", "dev"):
        table = pd.read_csv(teacher_folder / f"{name}.csv")
        table["label"] = table["label"].map(dict(zip(sorted(set(table["label"])), "13", strict=True)))
        table.loc[::7, "label"] = "2"
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    data = ["--train", tmp_path / "train.csv", "--dev", tmp_path / "dev.csv", "--kind", "levels"]
    short = ["--set", "stages.*.max_steps=3", "--plugin", path]
    start = ["finetune", "--model", teacher_folder / "random", *data, "--out", tmp_path / "teacher"]
    code, _, error = invoke(*start)
    assert code == 2 and "--kind 'levels' does not exist" in error and "--plugin FILE" in error
    code, _, error = invoke(*start, *short, "--lr", "1e-3")
    assert code == 0, error
    words = [
        "distill",
        "--teacher",
        tmp_path / "teacher",
        *data,
        *short,
        "--method",
        "kd",
        "--student",
        "init=copied,layers=1",
    ]
    code, out, error = invoke(*words, "--allow-weak-teacher", "--out", tmp_path / "run", "--json")
    assert code == 0, error
    report = json.loads(out)
    assert (report["kind"], report["metric"]) == ("levels", "nearness") and set(
        report["baseline"]["scores"]["dev"]
    ) == {"nearness"}
    student = tmp_path / "run" / "student"
    code, out, error = invoke("evaluate", student, *data[2:], "--plugin", path, "--json")
    assert code == 0 and json.loads(out)["scores"] == report["student"]["scores"], error
    code, out, error = invoke("export", student, "--out", tmp_path / "served", "--no-int8", "--plugin", path, "--json")
    assert code == 0 and json.loads(out)["kind"] == "levels", error
    shutil.copytree(student, tmp_path / "alone")  # the folder of its run told the kind
    assert kind_of_model("classes", load_config(str(tmp_path / "alone"))).name == "levels"
    assert kind_of_model("classes", load_config(str(teacher_folder / "teacher"))).name == "classification"
    assert api.gate(tmp_path / "run", min_agreement=0, plugins=path).passed
    page = api.serve(student, plugins=[path])
    page.close()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_commands_that_meet_parts_of_plug_ins_read_them(function: Any) -> None:
    without = {"demo", "pack", "unpack", "build_corpus", "inspect_corpus", "inspect_store", "verify_store"}
    assert ("plugins" in inspect.signature(function).parameters) == (function.__name__ not in without)
    said = about(function).arguments.get("plugins", "")
    assert said in ("", "Python file with kinds of task, terms, mechanisms, students or methods of your own.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KIND.replace('"levels"', '"tokens"'), "the kind 'tokens' already exists; give Levels another name"),
        (
            KIND.replace("classification import Classification", "kind import Kind").replace(
                "(Classification", "(Kind"
            ),
            "the kind 'levels' lacks constant_scores, per_example, scores; define them",
        ),
        (STUDENT.replace('"bottom"', '"copied"'), "the init 'copied' already exists"),
        ("import nothing_of_this_name", "cannot be run (ModuleNotFoundError"),
        ("def f(:", "cannot be run (SyntaxError"),
        (PLUGIN.replace('"jensen_shannon"', '"soft_labels"'), "the kind 'soft_labels' already exists"),
        (PLUGIN.replace("softer(", "kd("), "the plug-in's method 'kd' already exists"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_plug_ins_that_cannot_be_used(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    if text is not None:
        path.write_text(text)
    code, _, error = invoke("recipe", "kd", "--plugin", path)
    assert code == 2 and message in error and "\n" not in error.strip()


def test_terms_and_methods_as_objects(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    names: dict[str, Any] = vars(notebook)
    exec(compile(PLUGIN.replace("jensen_shannon", "js_here"), "notebook", "exec", dont_inherit=True), names)
    result = distilled(teacher_folder, tmp_path / "a", method=names["softer"])
    assert "js_here" in result.report["stages"][0]["losses"]
    write_csv(tmp_path / "train.csv", 40, 1)
    recipe = names["softer"](temperature=4)
    result = distilled(teacher_folder, tmp_path / "b", method=recipe, train=tmp_path / "train.csv")
    assert result.config.recipe.stages[0].objective == recipe.stages[0].objective


def test_a_model_is_read_as_long_as_its_run_read(teacher_folder: Path, tmp_path: Path) -> None:
    """Also where the texts are given anew."""
    place = tmp_path / "run"
    shutil.copytree(teacher_folder / "teacher", place)
    assert longest_of_run(str(place)) is None and longest_of_run("a/hub-id") is None
    config = from_yaml(place / "config.yaml")
    limited = config.model_copy(update={"data": config.data.model_copy(update={"max_length": 8})})
    (place / "config.yaml").write_text(to_yaml(limited))
    assert longest_of_run(str(place)) == 8
    dev = {"dev": teacher_folder / "dev.csv", "quiet": True}
    short, named = api.evaluate(place, **dev), api.evaluate(teacher_folder / "teacher", max_length=8, **dev)
    assert short.scores == named.scores != api.evaluate(place, max_length=40, **dev).scores
    assert f"{short.notes[0].split()[0]} texts of dev are longer than 8 tokens and are cut" == short.notes[0]


def test_what_has_no_effect_on_a_check_is_refused(teacher_folder: Path, tmp_path: Path) -> None:
    teacher, dev = teacher_folder / "teacher", teacher_folder / "dev.csv"
    beyond, training = r"^max_length 512 is beyond the model's 40 positions; use 40$", "is an option of training"
    for more, message in (({"max_length": 512}, beyond), ({"max_train": 3}, training), ({"holdout": 0.5}, training),
        ({"unlabeled": ["good"]}, training)):  # fmt: skip
        for act in (
            lambda **given: api.evaluate(teacher, **given),
            lambda **given: api.export(teacher, tmp_path / "out", **given),
            lambda **given: api.cascade(teacher, teacher, tmp_path / "out", **given),
        ):
            with pytest.raises(TutelageError, match=message):
                act(dev=dev, quiet=True, **more)
    # Of the settings of a run only those of the evaluation set count.
    data = DataConfig(train=dev, dev=dev, max_train=3, holdout=0.5)
    assert api.evaluate(teacher, data=data, max_train=None, quiet=True).scores
    assert not (tmp_path / "out").exists()


def test_one_value_needs_no_list() -> None:
    from tutelage.api.common import several
    from tutelage.students.specs import Copied

    student = Copied(layers=2)
    assert several(student) == [student] and several("a=1") == ["a=1"] and several(None) == []
    assert several([student, "x"]) == [student, "x"]


def test_the_reference_is_of_these_docstrings() -> None:
    """docs/api.md; after a change: ``python docs/reference.py``."""
    docs = Path(__file__).parents[1] / "docs"
    made = runpy.run_path(str(docs / "reference.py"))
    assert made["page"]() == (docs / "api.md").read_text(encoding="utf-8")


def test_a_student_that_no_path_can_be_is_refused_in_a_line() -> None:
    with pytest.raises(TutelageError, match=r"^student '~C\\x00a': name: .*null byte"):
        parse("~C\0a")
