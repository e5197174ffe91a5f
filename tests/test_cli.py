"""The commands as a user types them, and every mistake: one line, exit code 2, nothing half written."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LABELS, sentences, tiny_model, write_csv
from pydantic import BaseModel
from rich.table import Table

from tutelage import api, cli
from tutelage.cli import shown
from tutelage.cli.options import about
from tutelage.data.config import DataConfig
from tutelage.methods import METHODS
from tutelage.tasks import KINDS


def invoke(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def distill_words(root: Path, out: Path, **more: str | None) -> list[str]:
    options = {
        "teacher": root / "teacher",
        "train": root / "train.csv",
        "dev": root / "dev.csv",
        "method": "kd",
        "student": "layers=2",
        "out": out,
        **more,
    }
    words = [
        part
        for key, value in options.items()
        if value is not None
        for part in (f"--{key.replace('_', '-')}", str(value))
    ]
    return ["distill", *words, "--no-baseline", "--set", "stages.*.epochs=1"]


def test_from_raw_text_to_a_student(teacher_folder: Path, tmp_path: Path, tokenizer) -> None:
    """The commands of docs/guides/raw_text.md and docs/guides/augmentation.md, one after the other."""
    texts = [line.partition(",")[0] for line in (teacher_folder / "train.csv").read_text().splitlines()[1:]]
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(texts[i : i + 4]) for i in range(0, 400, 4)))
    tiny_model().base_model.save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    sizes = "layers=2,hidden=16,heads=4,intermediate=24"
    short = ["--set", "data.length=24", "--set", "stages.*.max_steps=3", "--set", "batch_size=8"]

    def done(*words: str | Path) -> dict:
        code, out, error = invoke(*words, "--json")
        assert code == 0, error
        return json.loads(out)

    corpus, body = tmp_path / "corpus", tmp_path / "body"
    built = done("corpus", "build", tmp_path / "text.txt", "--split", "lines", "--tokenizer", body, "--out", corpus)
    assert built == done("corpus", "inspect", corpus) and built["documents"] == 100
    done("pretrain", "--model", body, "--corpus", corpus, "--out", tmp_path / "words", *short)
    words = ("--stage", "general", "--method", "tinybert", "--teacher", body, "--corpus", corpus, "--student", sizes)
    general = done("distill", *words, "--out", tmp_path / "general", *short)
    assert general["general"] and general["stages"][0]["steps"] == 3
    files = ("--train", teacher_folder / "train.csv")
    done("augment", "--proposer", tmp_path / "words", *files, "--unfiltered", "--out", tmp_path / "candidates")
    report = done(
        *distill_words(teacher_folder, tmp_path / "run", method="tinybert", student=str(tmp_path / "general")),
        "--candidates",
        tmp_path / "candidates",
        "--set",
        "augmentation.variants=2",
    )
    assert report["data"]["augmented"] > 100
    code, out, _ = invoke("distill", *words, "--out", tmp_path / "again", *short)
    assert code == 0 and "attention_scores" in out
    code, out, _ = invoke("methods")
    assert code == 0 and "bilstm" in out


def test_distil_then_evaluate_then_repeat(teacher_folder: Path, tmp_path: Path) -> None:
    code, out, _ = invoke(*distill_words(teacher_folder, tmp_path / "a"), "--json")
    assert code == 0
    report = json.loads(out)
    code, out, _ = invoke(
        "evaluate",
        tmp_path / "a" / "student",
        "--train",
        teacher_folder / "train.csv",
        "--dev",
        teacher_folder / "dev.csv",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["scores"] == report["student"]["scores"]
    # The run's own config repeats it, to the bit.
    code, out, _ = invoke("run", tmp_path / "a" / "config.yaml", "--set", f"out={tmp_path / 'b'}", "--json")
    assert code == 0
    weights = [(tmp_path / name / "student" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_resuming_a_finished_run_shows_its_report(teacher_folder: Path, tmp_path: Path) -> None:
    words = distill_words(teacher_folder, tmp_path / "a")
    assert invoke(*words, "--json")[0] == 0
    kept = sorted(path.name for path in (tmp_path / "a").iterdir())
    for name in ("rate.json", "start.json"):  # as a run leaves them that is killed when its report is written
        (tmp_path / "a" / name).touch()
    code, out, _ = invoke(*words, "--resume", "--json")
    assert code == 0 and json.loads(out)["method"] == "kd"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == kept


def test_recipe_and_run(teacher_folder: Path, tmp_path: Path) -> None:
    code, text, _ = invoke("recipe", "tinybert")
    assert code == 0
    path = tmp_path / "my.yaml"
    path.write_text(text)
    settings = {
        "teacher": teacher_folder / "teacher",
        "data.train": teacher_folder / "train.csv",
        "data.dev": teacher_folder / "dev.csv",
        "out": tmp_path / "run",
        "student.layers": 2,
        "student.hidden": 16,
        "student.heads": 4,
        "stages.prediction.temperature": 2,
        "stages.*.epochs": 1,
        "baseline": "false",
    }
    words = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    code, out, error = invoke("run", path, *words, "--json")
    assert code == 0, error
    assert json.loads(out)["student_layers"] == 2
    assert "temperature: 2" in (tmp_path / "run" / "config.yaml").read_text()


def test_methods() -> None:
    code, out, _ = invoke("methods")
    assert code == 0 and "tinybert" in out and "distilbert" in out
    stages = [" ".join(re.sub("│", " ", line).split()) for line in out.splitlines() if "layer_" in line]
    learns = "attention: KL of relations of queries-keys, layer 1 to 24; hidden: MSE, layer 1 to 24"
    assert stages == [f"mobilebert random layer_1 to 24 corpus {learns}"]
    code, out, _ = invoke("methods", "--json")
    assert {row["method"] for row in json.loads(out)} >= {
        "finetune",
        "kd",
        "logits_mse",
        "similarity",
        "pkd",
        "distilbert",
        "tinybert",
    }


def test_help_shows_what_an_option_takes() -> None:
    """A path, the words beside a number, or a name that the help lists: all of these exist, and none is missing."""
    code, out, _ = invoke("distill", "--help")
    said = " ".join(re.sub(r"[│\s]+", " ", out).split())
    for words in (
        "--teacher <path>",
        "--epochs <int|auto>",
        "--method <name>",
        "--student <str>",
        "--kind <name>",
        "--seed <int>",
    ):
        assert code == 0 and words in said
    method = about(api.distill).arguments["method"].removeprefix("Method: ").partition(";")[0]
    assert set(method.split(", ")) <= set(METHODS)
    fields = {name: re.split(r"\W+", DataConfig.model_fields[name].description or "") for name in ("kind", "metric")}
    assert set(KINDS) <= set(fields["kind"])
    assert {metric for kind in KINDS.values() for metric in getattr(kind, "known_metrics", ())} <= set(fields["metric"])


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_an_example(command: str) -> None:
    code, out, _ = invoke(*command.split(), "--help")
    assert code == 0 and f"Example: tutelage {command}" in " ".join(out.split())


# -------------------------------------------------------------------------------------------------------- mistakes


def mistake(root: Path, tmp_path: Path, name: str) -> list[str]:
    """The command line of a mistake."""
    out = tmp_path / "out"
    head = "text,label\n"
    files = {
        "empty.csv": "",
        "one.csv": head + "word1,positive\nword2,positive\n",
        "odd.csv": head + "word1,positive\nword2,strange\n",
        "other.csv": head + "".join(f"word{i},{c}\n" for i in range(20) for c in ("cat", "dog")),
    }
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    (tmp_path / "latin.csv").write_bytes((head + "caf\xe9,positive\n").encode("latin-1"))
    if name == "no head":
        shutil.copytree(root / "random", tmp_path / "base")
        tiny_model().bert.save_pretrained(tmp_path / "base")
    if name == "weak":
        shutil.copytree(root / "random", tmp_path / "weak")
        constant = tiny_model()
        constant.classifier.weight.data.zero_()
        constant.save_pretrained(tmp_path / "weak")
    if name == "another run":
        out.mkdir()
        (out / "config.yaml").write_text("x")
    if name == "not empty":
        out.mkdir()
        (out / "thesis.txt").write_text("x")
    return {
        "missing file": lambda: distill_words(root, out, train="nowhere.csv"),
        "wrong column": lambda: distill_words(root, out, text="txt"),
        "empty file": lambda: distill_words(root, out, train=tmp_path / "empty.csv"),
        "one class": lambda: distill_words(root, out, train=tmp_path / "one.csv"),
        "label only in dev": lambda: distill_words(root, out, dev=tmp_path / "odd.csv"),
        "encoding": lambda: distill_words(root, out, train=tmp_path / "latin.csv"),
        "no head": lambda: distill_words(root, out, teacher=tmp_path / "base"),
        "other labels": lambda: distill_words(root, out, train=tmp_path / "other.csv", dev=tmp_path / "other.csv"),
        "heads": lambda: distill_words(root, out, method="tinybert", student="layers=2,hidden=16,heads=2"),
        "mapping": lambda: [
            *distill_words(root, out, method="tinybert", student="init=copied,layers=2"),
            "--set",
            "stages.intermediate.hidden.layers=[2,9]",
        ],
        "too deep": lambda: distill_words(root, out, student="layers=9"),
        "indivisible": lambda: distill_words(root, out, student="layers=2,hidden=30,heads=4"),
        "method": lambda: distill_words(root, out, method="tinybrt"),
        "task": lambda: distill_words(root, out, train=None, dev=None, task="sst22", data_dir=tmp_path),
        "another run": lambda: distill_words(root, out),
        "not empty": lambda: distill_words(root, out),
        "weak": lambda: distill_words(root, out, teacher=tmp_path / "weak"),
        "no teacher there": lambda: distill_words(root, out, teacher=tmp_path / "nothing"),
        "too long": lambda: distill_words(root, out, max_length="4000"),
        "both": lambda: distill_words(root, out, task="sst2"),
        "task and dev": lambda: distill_words(root, out, task="sst2", train=None),
        "seed": lambda: distill_words(root, out, seed="-1"),
        "setting": lambda: [*distill_words(root, out), "--set", "student.layers=[1"],
        "no tokenizer": lambda: distill_words(root, out, teacher=_without_tokenizer(root, tmp_path)),
        "out in a file": lambda: distill_words(root, tmp_path / "one.csv" / "out"),
        "padded too far": lambda: [*distill_words(root, out), "--set", "stages.distill.pad_to=64"],
        "epochs": lambda: [
            *("finetune", "--model", str(root / "random"), "--train", str(root / "train.csv")),
            *("--out", str(out), "--epochs", "0"),
        ],
        "epochs of stages": lambda: distill_words(root, out, epochs="0"),
        "nothing": lambda: distill_words(root, out, train=None, dev=None),
        "kind": lambda: distill_words(root, out, kind="ranking"),
    }[name]()


def _without_tokenizer(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "mute"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(root / "teacher" / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing file", "nowhere.csv"),
        ("wrong column", "txt"),
        ("empty file", "empty"),
        ("one class", "class"),
        ("label only in dev", "strange"),
        ("encoding", "UTF-8"),
        ("no head", "no classification head"),
        ("other labels", "knows the labels 'negative', 'positive', the data 'cat', 'dog'"),
        ("heads", "2 heads and the teacher 4"),
        ("mapping", "asks for teacher layer 9"),
        ("too deep", "9 layers cannot be copied: the teacher has 4"),
        ("indivisible", "30 is not divisible by 4 heads"),
        ("method", "did you mean 'tinybert'"),
        ("task", "sst2"),
        ("another run", "--resume"),
        ("not empty", "is not empty"),
        ("weak", "no better than a constant answer"),
        ("no teacher there", "there is no folder"),
        ("too long", "--max-length 4000 is beyond the model's 40 positions"),
        ("both", "exclude each other"),
        ("task and dev", "exclude each other"),
        ("seed", "--seed: Input should be greater than or equal to 0"),
        ("setting", "is no YAML value"),
        ("no tokenizer", "holds no tokenizer"),
        ("out in a file", "cannot be written"),
        ("padded too far", "pad_to=64"),
        ("epochs", "--epochs: Input should be greater than or equal to 1"),
        ("epochs of stages", "--epochs: Input should be greater than or equal to 1"),
        ("nothing", "there are no texts"),
        (
            "kind",
            "--kind 'ranking' does not exist; use one of classification, regression, multilabel, tokens, spans",
        ),
    ],
)
def test_mistakes_end_in_one_line(name: str, message: str, teacher_folder: Path, tmp_path: Path) -> None:
    words = mistake(teacher_folder, tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    code, out, error = invoke(*words)
    assert code == 2
    assert message in error
    assert "\n" not in error.strip()
    assert not out
    assert sorted(tmp_path.rglob("*")) == before  # nothing written


def test_long_texts_are_cut_counted_and_reported(teacher_folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", 60, 1)
    with (tmp_path / "train.csv").open("a") as file:
        file.write(" ".join(["good"] * 100) + ",positive\n")
    code, out, _ = invoke(*distill_words(teacher_folder, tmp_path / "out", train=tmp_path / "train.csv"), "--json")
    assert code == 0
    report = json.loads(out)
    cut = report["data"]["truncated"]["train"] + (0 if report["data"]["truncated"]["train"] else 1)
    assert cut == 1
    assert any("longer than" in warning for warning in report["warnings"])


def test_a_weak_teacher_may_be_allowed(teacher_folder: Path, tmp_path: Path) -> None:
    words = mistake(teacher_folder, tmp_path, "weak")
    code, out, _ = invoke(*words, "--allow-weak-teacher", "--json")
    assert code == 0
    report = json.loads(out)
    assert any("no better than" in warning for warning in report["warnings"])
    typed = shlex.split(report["environment"]["command"])
    assert typed == ["tutelage", *map(str, words), "--allow-weak-teacher", "--json"] and report["environment"]["cpu"]
    assert list(report["origins"]) == ["the data", f"the teacher {report['teacher']['name']!r}"]
    weights = Path(report["teacher"]["name"]) / "model.safetensors"
    assert report["teacher"]["bytes"] == weights.stat().st_size


def test_names_in_tables_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    for name in ("[/x]", "[other]", "[bold]big[/bold]"):
        table.add_row(name)
    shown._show(table)
    out = capsys.readouterr().out
    assert "[/x]" in out and "[other]" in out and "[bold]big[/bold]" in out


def test_a_table_in_a_file_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Eighty columns are a terminal's."""
    long = " ".join(["a member of the team"] * 20)
    table = Table("member")
    table.add_row(long)
    shown._show(table)
    assert long in capsys.readouterr().out


def test_the_tutorials_commands_reach_a_served_file(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/guides/tutorial.md, command by command, on files of its names."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("mine", 200), ("mine_dev", 60)):
        rows = (
            write_csv(tmp_path / f"{name}.csv", count, len(name))
            .read_text()
            .replace("text,label", "sentence,intent", 1)
        )
        (tmp_path / f"{name}.csv").write_text(rows)
    (tmp_path / "more.txt").write_text("\n".join(sentences(40, 3)[0]))
    page = (Path(__file__).parents[1] / "docs" / "guides" / "tutorial.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:tutelage|python served/).*)$", page.replace("\\\n", " "), re.MULTILINE)
    done = []
    for program, *words in map(shlex.split, lines):
        if program == "python":
            (said,) = subprocess.run(
                [sys.executable, *words], capture_output=True, check=True, text=True
            ).stdout.splitlines()
            assert json.loads(said)["label"] in LABELS
            continue
        words = [str(teacher_folder / "random") if word == "$MODEL" else word for word in words]
        code, _, error = invoke(*words)
        assert code == 0 or (code == 1 and words[0] == "gate"), error
        done.append(words[0])
    assert done == ["finetune", "distill", "evaluate", "export", "gate", "gate"]


def test_an_unknown_option_that_is_a_setting_says_how_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["distill", "--teacher", "t", "--out", "o", "--lr", "1e-4"], "--set stages.*.lr=VALUE"),
        (["distill", "--teacher", "t", "--out", "o", "--batch-size", "8"], "--set stages.*.batch_size=VALUE"),
        (["distill", "--teacher", "t", "--out", "o", "--lrr", "8"], None),
        (["evaluate", "m", "--lr", "1e-4"], None),  # takes no settings
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        said = capsys.readouterr().err
        assert end.value.code == 2 and "No such option" in said and (told or "") in said
        assert told is not None or "--set stages" not in said


def test_fields_are_shown_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    class Found(BaseModel):
        filtered: bool = True
        dev: list[str] = ["dev", "more"]
        tokens: int = 12345

    shown.show("store_inspect", Found(), as_json=False)
    assert [line.strip().split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["filtered", "yes"],
        ["dev", "dev, more"],
        ["tokens", "12,345"],
    ]
