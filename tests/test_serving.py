"""Exported files against the models that they come from, and the folder that serves without torch."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ALL_FAMILIES, LABELS, VOCABULARY, sentences, tiny_config, tiny_model, write_csv
from onnx import TensorProto, helper, numpy_helper
from test_pruned import pruned
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import tutelage
from tutelage import api, cli, serving
from tutelage.anatomy import FAMILIES, auto_class
from tutelage.cli.shown import show
from tutelage.errors import TutelageError
from tutelage.evaluation import intervals
from tutelage.evaluation.intervals import paired_difference
from tutelage.mechanisms.quantization.settings import Quantization
from tutelage.methods import METHODS
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.report.model import TaskReport, load_report
from tutelage.report.quality import Difference
from tutelage.run import export as exporting
from tutelage.serving import four_bits, graph, serve, session
from tutelage.serving.report import REPORT, ExportReport, Side, flags_of
from tutelage.serving.timing import Latency
from tutelage.students.bilstm import new_bilstm, word_tokenizer
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.specs import Shared, Sliced
from tutelage.tasks.sentence import SentenceEncoder

TEXTS = [*sentences(6, 3)[0], "good", "word1 " * 50]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> tuple[Path, ExportReport]:
    """A model of one layer, its files, and what the command found."""
    root = tmp_path_factory.mktemp("exported")
    model = tiny_model(layers=1)
    with torch.no_grad():
        model.classifier.weight.mul_(3)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    write_csv(root / "dev.csv", 60, 2)
    report = api.export(str(root / "model"), root / "out", dev=str(root / "dev.csv"), temperature=2.0, quiet=True)
    return root, report


def test_an_export_is_measured_against_its_model(exported: tuple[Path, ExportReport]) -> None:
    root, report = exported
    assert ExportReport.model_validate_json((root / "out" / REPORT).read_text()) == report
    assert sorted(path.name for path in (root / "out").iterdir()) == sorted(
        ["config.json", REPORT, "model.int8.onnx", "model.onnx", "serve.py", "tokenizer.json", "tokenizer_config.json"]
    )
    model, onnx, int8 = report.sides
    assert [side.file for side in report.sides] == ["model", "model.onnx", "model.int8.onnx"]
    scores = api.evaluate(str(root / "model"), dev=str(root / "dev.csv"), quiet=True).scores["dev"]
    assert model.scores == scores and onnx.scores == scores
    assert onnx.largest_difference is not None and onnx.largest_difference < 1e-5 and onnx.agreement == 1
    assert onnx.change == Difference(value=0, low=0, high=0)
    assert int8.largest_difference is not None and 0 < int8.largest_difference < 0.2
    assert int8.bytes == (root / "out" / "model.int8.onnx").stat().st_size < onnx.bytes
    assert (onnx.tokens_agree, int8.tokens_agree) == (1, 1)
    threads = sorted({1, torch.get_num_threads()})
    assert [(one.batch, one.threads) for one in int8.latency] == [(batch, n) for n in threads for batch in (1, 32)]
    assert all(0 < one.p50_ms <= one.p95_ms and one.rounds >= 10 for side in report.sides for one in side.latency)
    assert (report.texts, report.kind, report.metric, report.labels) == (60, "classification", "accuracy", list(LABELS))


def test_a_graph_takes_inputs_by_name_and_any_length(exported: tuple[Path, ExportReport], tokenizer: Any) -> None:
    root, _ = exported
    graph, model = serving.OnnxModel(root / "out" / "model.onnx"), load_model(str(root / "model"))[0]
    assert graph.about.labels == LABELS and graph.about.temperature == 2 and graph.about.max_length == 40
    assert serving.OnnxModel(root / "out" / "model.int8.onnx").about.precision == "int8"
    named = [(one.name, one.shape) for one in graph.session.get_inputs()]
    assert sorted(named) == [(n, ["batch", "tokens"]) for n in ("attention_mask", "input_ids", "token_type_ids")]
    for texts in (TEXTS, TEXTS[:1], [TEXTS[-1]]):
        inputs = dict(tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))
        turned = dict(reversed(inputs.items()))
        with torch.no_grad():
            np.testing.assert_allclose(graph.logits(turned), model(**inputs).logits, atol=1e-5)
    content = (root / "out" / "model.onnx").read_bytes()
    assert (
        b"site-packages" not in content and b"stack_trace" not in content
    )  # where the parts come from on this machine
    with pytest.raises(TutelageError, match="needs the input"):
        graph.logits({"input_ids": inputs["input_ids"]})


def test_the_folder_serves_without_torch(exported: tuple[Path, ExportReport], tmp_path: Path) -> None:
    root, _ = exported
    for name in ("torch", "transformers", "tutelage"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    texts = [text.strip() for text in TEXTS]

    def ran(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, str(root / "out" / "serve.py"), *words],
            env=environment, cwd=tmp_path, input=stdin, capture_output=True, check=False,
        )  # fmt: skip

    def served(*words: str, stdin: bytes = b"", code: int = 0) -> list[dict[str, Any]]:
        found = ran(*words, stdin=stdin)
        assert found.returncode == code, found.stderr
        return [json.loads(line) for line in found.stdout.splitlines()]

    answers = served("model.onnx", *texts)
    model, tokenizer = load_model(str(root / "model"))[0], AutoTokenizer.from_pretrained(root / "model")
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        shares = (model(**inputs).logits / 2).softmax(dim=1)  # the temperature of the export
    assert [one["label"] for one in answers] == [LABELS[number] for number in shares.argmax(dim=1)]
    assert [one["score"] for one in answers] == pytest.approx(shares.max(dim=1).values.tolist(), abs=1e-4)
    assert [set(one) for one in served(stdin="\n".join(texts[:3]).encode())] == [{"label", "score"}] * 3
    broken = served(stdin=b"good\ncaf\xe9\nmore\na\tb\tc\n", code=1)  # Latin-1, which ends no service
    assert ["error" in one for one in broken] == [False, True, False, True]
    assert b"Answer texts" in ran("--help").stdout and len(served("--", "--help")) == 1
    wrong = ran("--int8", "a text")
    assert wrong.returncode == 2 and b"unrecognized arguments: --int8" in wrong.stderr


def test_a_pipeline_of_transformers_says_what_serve_says(
    exported: tuple[Path, ExportReport], caplog: pytest.LogCaptureFixture
) -> None:
    root, _ = exported
    texts = [text.strip() for text in TEXTS]
    answer = serve.Model(root / "out" / "model.onnx").answer
    for batch in (1, 4):
        with caplog.at_level("WARNING", "transformers"):
            found = tutelage.pipeline(root / "out" / "model.onnx", batch_size=batch)(texts)
        assert [one["label"] for one in found] == [answer(text)["label"] for text in texts]
        assert [one["score"] for one in found] == pytest.approx([answer(text)["score"] for text in texts], abs=1e-4)
    assert not caplog.records  # transformers knows the model
    assert tutelage.pipeline(root / "out").model.graph.path.name == "model.int8.onnx"
    with pytest.raises(TutelageError, match="holds no exported model; write one with tutelage export"):
        tutelage.pipeline(root / "model")


@pytest.mark.parametrize("head", ["tokens", "spans", "regression", "multilabel"])
def test_every_answer_has_its_pipeline_or_a_line(head: str, tokenizer: Any, tmp_path: Path) -> None:
    config = tiny_config("bert", layers=1)
    config.id2label = {0: "x"} if head == "regression" else {0: "O", 1: "A"}
    if head not in ("tokens", "spans"):
        config.problem_type = "regression" if head == "regression" else "multi_label_classification"
    torch.manual_seed(0)
    model = auto_class(head if head in ("tokens", "spans") else "classes").from_config(config)
    api.export(str(saved(model, tokenizer, tmp_path / "model")), tmp_path / "out", int8=False, quiet=True)
    text = "good word1 bad"
    if head == "spans":
        with pytest.raises(TutelageError, match=r"no pipeline for the answers of .*out' \(spans\); use its serve.py"):
            tutelage.pipeline(tmp_path / "out")
        return
    found = tutelage.pipeline(tmp_path / "out")
    model.eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    if head == "tokens":
        shares = logits.softmax(-1)[1:-1].max(-1)
        assert [one["score"] for one in found(text, ignore_labels=[])] == pytest.approx(
            shares.values.tolist(), abs=1e-4
        )
        assert len(found(["good", text], batch_size=2, ignore_labels=[])[0]) == 1
    elif head == "regression":
        assert found(text)[0]["score"] == pytest.approx(logits.item(), abs=1e-4)
    else:
        by_label = {one["label"]: one["score"] for one in found(text, top_k=None)}
        assert by_label == pytest.approx(dict(zip("OA", logits.sigmoid().tolist(), strict=True)), abs=1e-4)


def test_no_answer_is_that_of_the_window_that_is_least_sure_of_it() -> None:
    """As the evaluation decides it; and a question without a context is an error, not an answer."""
    model = object.__new__(serve.Model)
    model.about = {"answer": "span", "labels": [], "temperature": 1.0}
    windows = [{"answer": "a", "score": 5.0, "no_answer": 6.0}, {"answer": "b", "score": 3.0, "no_answer": 2.0}]
    model.encodings = lambda text, pair: [0, 1]  # type: ignore[method-assign, assignment, return-value]
    model.span = lambda encoding, context: windows[encoding]  # type: ignore[method-assign, assignment, index]
    assert model.answer("who?", "a context") == {"answer": "a", "score": 5.0, "no_answer": 2.0}
    assert "error" in model.answer("who?", " ")


def test_a_file_that_is_not_there_is_one_line(exported: tuple[Path, ExportReport]) -> None:
    folder = exported[0] / "out"
    words = [sys.executable, str(folder / "serve.py"), "nope.onnx", "a"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, f"{folder} holds no nope.onnx\n")


def test_the_printed_command_runs_in_a_shell(
    exported: tuple[Path, ExportReport], capsys: pytest.CaptureFixture[str]
) -> None:
    show("export", exported[1].model_copy(update={"out": "my folder"}), as_json=False)
    command = capsys.readouterr().out.rpartition("; ")[2].removesuffix(" answers\n")
    assert shlex.split(command) == ["python", "my folder/serve.py", "A text."]
    piped = exported[1].model_copy(update={"pairs": True}).command("cat.py").replace("python cat.py", "cat")
    found = subprocess.run(["sh", "-c", piped], capture_output=True, text=True, check=True)
    assert found.stdout == "A question or first text.\tIts context or second text.\n"


def test_a_temperature_is_a_finite_number(exported: tuple[Path, ExportReport], tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="makes no probabilities"):
        api.export(str(exported[0] / "model"), tmp_path / "out", temperature=float("inf"), quiet=True)


def test_a_strict_export_writes_nothing_that_is_flagged(
    exported: tuple[Path, ExportReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, _ = exported
    graphs = {"onnx": serving.OnnxModel(root / "out" / "model.onnx")}
    monkeypatch.setattr(exporting, "_graphs", lambda *given: graphs)
    words = ["export", str(root / "model"), "--dev", str(root / "dev.csv"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(exporting, "flags_of", lambda sides: ["model.onnx is slower than the model"])
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--strict"])
    assert (
        stopped.value.code == 2
        and "nothing was exported, because of --strict: model.onnx is" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
    cli.main(words)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "WARNING: model.onnx is slower than the model" in shown and "accuracy" in shown and (tmp_path / "out").is_dir()
    )


def test_without_texts_those_of_the_run_are_taken(
    exported: tuple[Path, ExportReport], teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = exported
    graphs = {"onnx": serving.OnnxModel(root / "out" / "model.onnx")}
    monkeypatch.setattr(exporting, "_graphs", lambda *given: graphs)
    monkeypatch.chdir(teacher_folder)
    report = api.export("teacher", tmp_path / "run", texts=50, quiet=True)
    monkeypatch.chdir(tmp_path)
    assert report.model == str(teacher_folder / "teacher")
    with pytest.raises(
        TutelageError, match="the run has no teacher to compare the student with; leave out min_retention"
    ):  # so the run's report is found
        api.gate("run", min_retention=0.9)
    assert (report.source, report.texts, report.metric) == ("dev of train", 50, "accuracy")
    # The files are those of another model.
    assert report.flags and "is not the same function as the model" in report.flags[0]
    report = api.export(str(root / "model"), tmp_path / "alone", quiet=True)
    assert (report.source, report.texts, report.metric) == ("built-in sentences", len(exporting.SENTENCES), None)
    assert report.sides[1].scores is None and report.sides[1].change is None


def test_a_student_is_exported_at_the_temperature_of_its_report(
    exported: tuple[Path, ExportReport], teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = exported
    asked: list[float] = []

    def graphs(partial: Path, model: Any, tokenizer: Any, checked: Any, temperature: float, int8: bool) -> Any:
        asked.append(temperature)
        return {"onnx": serving.OnnxModel(root / "out" / "model.onnx")}

    monkeypatch.setattr(exporting, "_graphs", graphs)
    run = tmp_path / "run"
    shutil.copytree(teacher_folder / "teacher", run)
    found = load_report(run)
    assert isinstance(found, TaskReport) and found.calibration is not None
    found.calibration.temperature = 1.25
    (run / "report.json").write_text(found.model_dump_json())
    report = api.export(str(run), tmp_path / "fitted", texts=10, quiet=True)
    assert report.temperature == 1.25 and any("temperature 1.25 of the run's report" in one for one in report.notes)
    assert api.export(str(run), tmp_path / "given", texts=10, temperature=2, quiet=True).temperature == 2
    (run / "report.json").write_text("{")
    with pytest.raises(TutelageError, match="cannot be read"):
        api.export(str(run), tmp_path / "damaged", texts=10, quiet=True)
    assert api.export(str(root / "model"), tmp_path / "alone", quiet=True).temperature == 1
    assert asked == [1.25, 2, 1]


def side(name: str, milliseconds: float, **more: Any) -> Side:
    time = Latency(batch=1, threads=1, tokens=9, p50_ms=milliseconds, p95_ms=9, spread_ms=0.5, rounds=20)
    return Side(**{"name": name, "file": f"{name}.onnx", "bytes": 1, "exact": name == "onnx", "latency": [time]} | more)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([side("onnx", 5, largest_difference=1e-5), side("int8", 3, largest_difference=0.5)], []),
        ([side("onnx", 5, largest_difference=2e-4)], ["not the same function"]),
        ([side("onnx", 11), side("int8", 8)], ["onnx.onnx is slower than the model at batch 1 on 1 thread: 11.00 ms"]),
        ([side("onnx", 5), side("int8", 8)], ["int8.onnx is slower than onnx.onnx"]),
        ([side("onnx", 10.4)], []),  # within the spread
        ([side("int8", 1, change=Difference(value=-0.02, low=-0.03, high=-0.01))], ["scores 2.0 points lower", "-3.0 to -1.0"]),
        ([side("int8", 1, change=Difference(value=-0.02, low=-0.05, high=0.01))], []),
        ([side("int8", 1, change=Difference(value=-1, low=None, high=None))], []),  # of a single text
        ([side("int8", 1, tokens_agree=0.75)], ["25.0% of the texts as other tokens"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(files: list[Side], words: list[str]) -> None:
    found = flags_of([side("pytorch", 10, exact=False), *files])
    assert bool(found) == bool(words) and all(one in " ".join(found) for one in words)


@pytest.mark.parametrize(("width", "bits"), [(40, 4), (64, 4), (33, 8)])
def test_rows_of_four_bits_are_gathered_as_they_were_rounded(width: int, bits: int, tmp_path: Path) -> None:
    """Blocks of 32 numbers; the last of a row may be shorter. With an odd width two numbers do not share a byte: 8 bits."""
    table = np.random.default_rng(0).standard_normal((50, width)).astype(np.float32)
    table[3], table[4, 0] = 0, 30  # a row without a scale, and a number that is far from the others
    ids, found = (helper.make_tensor_value_info(n, t, None) for n, t in (("ids", TensorProto.INT64), ("out", 1)))
    node = helper.make_node("Gather", ["table", "ids"], ["out"])
    model = helper.make_model(
        helper.make_graph([node], "", [ids], [found], [numpy_helper.from_array(table, "table")]),
        opset_imports=[helper.make_opsetid("", graph.OPSET)], ir_version=10,
    )  # fmt: skip
    graph._quantize_tables(model, 4)
    made = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = made.run(None, {"ids": np.array([[4, 3], [49, 0]])})
    assert ("GatherBlockQuantized" in {one.op_type for one in model.graph.node}) == (bits == 4)
    if bits == 4:
        codes, scales = four_bits.four_bits(table)
        assert scales.shape == (50, -(-width // 32)) and codes.min() >= -8 and codes.max() <= 7
        np.testing.assert_array_equal(rows, (codes * scales.repeat(32, axis=1)[:, :width])[[[4, 3], [49, 0]]])
        plain = np.abs(table[:, :32]).max(axis=1, keepdims=True) / 7
        first = np.rint(table[:, :32] / np.maximum(plain, 1e-12)) * plain
        ours = codes[:, :32] * scales[:, :1]
        assert ((ours - table[:, :32]) ** 2).sum() < ((first - table[:, :32]) ** 2).sum()
    step = 30 / 7 if bits == 4 else 30 / 127
    assert np.abs(rows - table[[[4, 3], [49, 0]]]).max() < step and not rows[0, 1].any()


def test_static_activations_have_ranges_of_training_texts(exported: tuple[Path, ExportReport], tmp_path: Path) -> None:
    """An answer does then not depend on the other texts of the batch."""
    root, _ = exported
    write_csv(tmp_path / "train.csv", 50, 5)
    data = {"train": str(tmp_path / "train.csv"), "dev": str(root / "dev.csv")}
    report = api.export(str(root / "model"), tmp_path / "out", activations="static", table_bits=4, quiet=True, **data)
    assert (report.activations, report.table_bits) == ("static", 4)
    int8 = report.sides[2]
    assert int8.largest_difference is not None and 0 < int8.largest_difference < 0.4
    kinds = [node.op_type for node in onnx.load(tmp_path / "out" / "model.int8.onnx").graph.node]
    assert (
        "QLinearMatMul" in kinds and "DynamicQuantizeLinear" not in kinds and kinds.count("GatherBlockQuantized") == 1
    )
    model = serving.OnnxModel(tmp_path / "out" / "model.int8.onnx")
    ids = np.array([[2, 7, 12, 3], [2, 30, 31, 3], [2, 8, 40, 3]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    alone = [model.logits({name: value[row : row + 1] for name, value in inputs.items()})[0] for row in range(3)]
    np.testing.assert_allclose(model.logits(inputs), alone, atol=1e-6)


def test_the_file_is_the_one_that_the_student_was_trained_for(
    exported: tuple[Path, ExportReport], tmp_path: Path
) -> None:
    """Unless other bits are given."""
    root, _ = exported
    recipe = METHODS["compact_int8"]()
    last = recipe.stages[-1].model_copy(update={"mechanisms": [Quantization(weight_bits=4)]})
    config = RunConfig(recipe=recipe.model_copy(update={"stages": [last]}), out="x")
    shutil.copytree(root / "model", tmp_path / "run" / "student")
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    student, data = tmp_path / "run" / "student", {"dev": str(root / "dev.csv"), "quiet": True}
    report = api.export(student, tmp_path / "four", **data)
    assert (report.table_bits, report.weight_bits) == (8, 4)
    kinds = {node.op_type for node in onnx.load(tmp_path / "four" / "model.int8.onnx").graph.node}
    assert "MatMulNBits" in kinds and not kinds & {"MatMulInteger", "Gemm", "GatherBlockQuantized"}
    assert api.export(student, tmp_path / "eight", weight_bits=8, **data).weight_bits == 8
    assert api.export(student, tmp_path / "float", int8=False, **data).weight_bits == 8
    with pytest.raises(TutelageError, match="give weight_bits 8, or leave out activations"):
        api.export(student, tmp_path / "static", activations="static", **data)


def test_an_interval_is_that_of_resampled_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    generator = np.random.default_rng(1)
    theirs = generator.random(400)
    ours = theirs + generator.normal(0.05, 0.2, 400)
    value, low, high = paired_difference(lambda rows: ours[rows].mean(), lambda rows: theirs[rows].mean(), 400)
    difference = ours - theirs
    assert value == pytest.approx(difference.mean())
    half = 1.96 * difference.std() / 20  # of a normal distribution; percentiles of 1,000 resamples scatter
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.2 * half)


def test_mistakes_are_one_line(
    exported: tuple[Path, ExportReport], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = exported
    model = str(root / "model")

    def refused(message: str, given: str = model, **more: Any) -> None:
        with pytest.raises(TutelageError, match=message):
            api.export(given, tmp_path / "out", quiet=True, **more)
        assert not (tmp_path / "out").exists()

    write_csv(tmp_path / "numbers.csv", 20, 1)
    numbers = "text,label\n" + "\n".join(f"good word{i},{i}.5" for i in range(20))
    (tmp_path / "numbers.csv").write_text(numbers)
    refused("temperature 0", temperature=0)
    refused("texts -3 is no number of texts; give 1 or more, or 0 for all", texts=-3)
    refused("a checkpoint has no place for a temperature; leave out temperature", format="checkpoint", temperature=2)
    config = tiny_config("bert", layers=1)
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "number")
    tokenizer.save_pretrained(tmp_path / "number")
    refused("is of kind regression and answers without probabilities", str(tmp_path / "number"), temperature=3)
    refused("is a regression", dev=str(tmp_path / "numbers.csv"))
    refused("standard checkpoint already", format="checkpoint")
    refused("table_bits 5 does not exist; use 8 or 4", table_bits=5)
    refused("weight_bits 2 does not exist; use 8 or 4", weight_bits=2)
    refused("give weight_bits 8, or leave out activations", activations="static", weight_bits=4)
    refused("table_bits 4 is about the int8 file, which is not written", table_bits=4, int8=False)
    refused("activations static is about the int8 file", activations="static", format="checkpoint")
    refused("calibrated on training texts, and there are none; give train or task", activations="static")
    refused("calibrated on training texts, and", activations="static", dev=str(write_csv(tmp_path / "dev.csv", 20, 1)))
    AutoModelForCausalLM.from_config(tiny_config("gpt2", layers=1)).save_pretrained(tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    refused("answers no task", str(tmp_path / "words"))
    AutoModelForMaskedLM.from_config(tiny_config("bert", layers=1)).save_pretrained(tmp_path / "masked")
    tokenizer.save_pretrained(tmp_path / "masked")
    refused("masked_lm answers no task; fine-tune or distil it on one first", str(tmp_path / "masked"))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(TutelageError, match="cannot load"):
        serving.OnnxModel(tmp_path / "bad.onnx")
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **more: 1 / 0)
    refused("cannot export a bert of transformers")

    def full(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch.onnx, "export", full)
    refused(r"cannot be written \(No space left on device\)")  # and not the family's fault
    monkeypatch.setattr(session, "find_spec", lambda name: None)
    refused(r"pip install \"tutelage\[onnx\]\"")


# ---------------------------------------------------------------------------------------- every family, head and student


def checked(folder: Path, out: Path, exact: float = 1e-4, **data: Any) -> ExportReport:
    report = api.export(str(folder), out, quiet=True, **data)
    _, onnx, int8 = report.sides
    assert onnx.largest_difference is not None and onnx.largest_difference < exact
    assert (onnx.tokens_agree, int8.tokens_agree) == (1, 1)
    assert int8.bytes < onnx.bytes
    return report


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family(family: str, tokenizer: Any, endoftext: Any, tmp_path: Path) -> None:
    causal = FAMILIES[family].causal
    model = tiny_model(family, layers=2, **({"vocab_size": len(endoftext)} if causal else {}))
    folder = saved(model, endoftext if causal else tokenizer, tmp_path / "model")
    report = checked(folder, tmp_path / "out", dev=str(write_csv(tmp_path / "dev.csv", 60, 2)))
    assert report.sides[2].agreement is not None and report.sides[2].agreement > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("head", ["tokens", "spans", "vectors", "regression", "multilabel"])
def test_every_head(family: str, head: str, tokenizer: Any, tmp_path: Path) -> None:
    names = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}
    config = tiny_config(family, layers=2)
    settings = {
        "tokens": names,
        "spans": {"num_labels": 2},
        "vectors": {},
        "regression": {"num_labels": 1, "problem_type": "regression"},
        "multilabel": {**names, "problem_type": "multi_label_classification"},
    }[head]
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    if head == "vectors":
        model: Any = SentenceEncoder(AutoModel.from_config(config))
    else:
        model = auto_class(head if head in ("tokens", "spans") else "classes").from_config(config)
    report = checked(saved(model, tokenizer, tmp_path / "model"), tmp_path / "out")
    assert report.kind == {"vectors": "embedding"}.get(head, head)
    served = serve.Model(tmp_path / "out" / "model.onnx")
    answer = served.answer("who is good?", "word1 good word2") if head == "spans" else served.answer("good word1 bad")
    assert (
        set(answer)
        == {
            "tokens": {"tags"},
            "spans": {"answer", "start", "end", "score", "no_answer"},
            "vectors": {"vector"},
            "regression": {"score"},
            "multilabel": {"labels"},
        }[head]
    )
    if head == "tokens":
        assert [tag["word"] for tag in answer["tags"]] == ["good", "word1", "bad"]


@pytest.mark.slow
@pytest.mark.parametrize("student", ["shared", "pruned", "sliced", "bilstm", "bilstm-pairs"])
def test_every_kind_of_student(student: str, tokenizer: Any, tmp_path: Path) -> None:
    teacher, labels = (
        tiny_model(),
        {"id2label": dict(enumerate(LABELS)), "label2id": dict(zip(LABELS, (0, 1), strict=True))},
    )
    if student.startswith("bilstm"):
        words = word_tokenizer(VOCABULARY[5:], 50, 64)
        model: Any = new_bilstm(
            words, labels, hidden=64, intermediate=64, embedding=32, pairs=student == "bilstm-pairs"
        )
        tokenizer = words
    elif student == "pruned":
        model = pruned()
    else:
        model = build(Shared(stored=2) if student == "shared" else Sliced(hidden=16), teacher, labels, 0)
    folder = saved(model, tokenizer, tmp_path / "model")
    report = checked(folder, tmp_path / "out")
    if student.startswith("bilstm"):
        parts = {name: str(write_csv(tmp_path / f"{name}.csv", 20, seed)) for seed, name in enumerate(("train", "dev"))}
        with pytest.raises(TutelageError, match="cannot quantise an LSTM with static activations; take dynamic ones"):
            api.export(str(folder), tmp_path / "never", activations="static", **parts)
    if student == "shared":
        once = sum(p.numel() for p in load_model(str(folder))[0].parameters())
        assert report.sides[1].bytes < 4 * once + 100_000  # shared layers lie in the file once


@pytest.mark.slow
def test_students_of_this_package_load_in_a_fresh_process(tokenizer: Any, tmp_path: Path) -> None:
    """Nothing but what loads checkpoints is imported, as in `tutelage evaluate` and `tutelage export`."""
    words = word_tokenizer(VOCABULARY[5:], 50, 64)
    students = {
        "bilstm": (new_bilstm(words, {}, hidden=64, intermediate=64, embedding=32), words),
        "pruned_bert": (pruned(), tokenizer),
        "shared_bert": (build(Shared(stored=2), tiny_model(), {}, 0), tokenizer),
    }
    for name, (model, own) in students.items():
        saved(model, own, tmp_path / name)
    code = (
        "import sys\nfrom tutelage.students.load import load_model\n"
        "print([load_model(place)[0].config.model_type for place in sys.argv[1:]])"
    )
    places = [str(tmp_path / name) for name in students]
    found = subprocess.run([sys.executable, "-c", code, *places], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == str(list(students))
