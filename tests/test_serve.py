"""The local page, asked over HTTP as a browser asks it."""

from __future__ import annotations

import _thread
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import torch
from conftest import LABELS, sentences, tiny_config, tiny_model
from test_cli import invoke
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tutelage import api, serving
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.run import serving as serving_of_a_run
from tutelage.serving import serve as script
from tutelage.serving.server import LONGEST_BODY, Server
from tutelage.tasks import KINDS
from tutelage.tasks.sentence import SentenceEncoder

TEXTS = sentences(8, 3)[0]
JSON = {"Content-Type": "application/json"}


def save(place: Path, tokenizer: Any, model: Any) -> str:
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def random_model(auto: Any, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    return auto.from_config(tiny_config("bert", layers=1, **more), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> tuple[Path, str, str]:
    """A student, a teacher, and the files of the student, which have a temperature."""
    root = tmp_path_factory.mktemp("served")
    model = tiny_model(layers=1, seed=1)
    student = save(root / "student", tokenizer, model)
    other = tiny_model(layers=1, seed=2)
    with torch.no_grad():  # a half of the texts is positive for the teacher, and all for the student
        logits = other(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        other.classifier.bias[1] += (logits[:, 0] - logits[:, 1]).median()
    teacher = save(root / "teacher", tokenizer, other)
    (root / "files").mkdir()
    serving.to_onnx(model, tokenizer, root / "files" / "model.onnx", temperature=2.0)
    serving.quantize(root / "files" / "model.onnx", root / "files" / "model.int8.onnx")
    tokenizer.save_pretrained(root / "files")
    return root, student, teacher


@pytest.fixture(scope="module")
def page(folders: tuple[Path, str, str]) -> Iterator[Server]:
    _, student, teacher = folders
    with api.serve(student, teacher=teacher) as served:
        yield served


def request(
    page: Server, path: str, body: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(urlsplit(page.address).netloc, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, body, named)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def ask(page: Server, tree: Any) -> Any:
    status, _, content = request(page, "/answer", json.dumps(tree).encode(), Content_Type="application/json")
    found = json.loads(content)
    assert (status == 200) == ("error" not in found)
    return found


def test_both_models_answer_side_by_side(page: Server, folders: tuple[Path, str, str], tokenizer: Any) -> None:
    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in folders[1:]]
    differ = []
    for text in TEXTS:
        found = ask(page, {"text": text})
        for reply, model in zip(found["replies"], models, strict=True):
            with torch.no_grad():
                shares = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
            ranked = sorted(zip(LABELS, shares, strict=True), key=lambda one: -one[1])
            assert [name for name, _ in reply["shares"]] == [name for name, _ in ranked]
            assert [share for _, share in reply["shares"]] == pytest.approx([share for _, share in ranked], abs=1e-5)
            assert reply["said"] == ranked[0][0] and reply["ms"] > 0 and reply["note"] is None
        assert found["differ"] == (found["replies"][0]["said"] != found["replies"][1]["said"])
        differ.append(found["differ"])
    assert set(differ) == {True, False}  # or the test could not tell
    about = json.loads(request(page, "/about")[2])
    assert [one["role"] for one in about["models"]] == ["student", "teacher"] and about["pairs"] == "possible"
    assert about["models"][0]["form"].startswith("PyTorch")
    one, two = (ask(page, {"text": TEXTS[0], "pair": pair})["replies"][0]["shares"] for pair in (TEXTS[1], TEXTS[2]))
    assert one != two
    assert ask(page, {"text": "good " * 5000})["replies"][0]["note"] == "cut at 40 tokens"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="there is no browser")
def test_a_browser_shows_both_answers_and_runs_no_text(
    page: Server, folders: tuple[Path, str, str], tmp_path: Path
) -> None:
    """The page's own script asks for the text of the address, and draws what comes back."""
    text = f"{TEXTS[0]} <script>document.title = 'run'</script>"
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom",
        "--virtual-time-budget=10000", f"{page.address}?text={quote(text)}",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>tutelage serve</title>" in shown and "&lt;script&gt;document.title" in shown
    said = [re.sub("<.*?>", "", found) for found in re.findall(r'<p class="said">.*?</p>', shown)]
    assert said == [side["said"] for side in ask(page, {"text": text})["replies"]] and len(said) == 2


def test_exported_files_answer_as_their_script_does(folders: tuple[Path, str, str]) -> None:
    root, _, _ = folders
    files = root / "files"
    with api.serve(files, teacher=files / "model.onnx") as page:
        about = json.loads(request(page, "/about")[2])
        assert [one["form"] for one in about["models"]] == ["model.int8.onnx, onnxruntime", "model.onnx, onnxruntime"]
        scripts = [script.Model(files / name) for name in ("model.int8.onnx", "model.onnx")]
        for text in TEXTS[:4]:
            for reply, one in zip(ask(page, {"text": text})["replies"], scripts, strict=True):
                said = one.answer(text)
                assert reply["said"] == said["label"]
                assert reply["shares"][0][1] == pytest.approx(said["score"], abs=1e-4)


def test_the_page_is_closed_to_others(page: Server) -> None:
    status, headers, content = request(page, "/?text=a%20text")
    assert status == 200 and b"<textarea" in content and b"<script>" not in content
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    for path in ("/page.js", "/page.css", "/about"):
        status, headers, content = request(page, path)
        assert status == 200 and content and headers["X-Content-Type-Options"] == "nosniff"
        assert b"innerHTML" not in content and "Access-Control-Allow-Origin" not in headers
    assert request(page, "/", method="HEAD")[::2] == (200, b"")

    def refused(
        status: int, words: str, path: str = "/answer", body: bytes | None = b'{"text": "a"}', **more: str
    ) -> None:
        headers = {"Content_Type": "application/json"} | more
        got, _, content = request(page, path, body, **headers)
        line = json.loads(content)["error"]
        assert (got, words in line, "\n" in line) == (status, True, False), line

    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1"):
        refused(403, "not served under the name", Host=host)
        refused(403, "not served under the name", "/", None, Host=host)
    for host in ("localhost:9", "127.0.0.1", "[::1]:80", "192.168.0.7"):
        assert request(page, "/", Host=host)[0] == 200
    for path in ("/../../etc/passwd", "/%2e%2e/page.html", "//etc/passwd", "/page.html", "/answer"):
        refused(404, "the page is at /", path, None)
    refused(404, "texts go to /answer", "/about")
    refused(415, "must be JSON", Content_Type="text/plain")
    refused(415, "must be JSON", Content_Type="application/x-www-form-urlencoded")
    refused(413, f"longer than {LONGEST_BODY:,} bytes", body=json.dumps({"text": "a" * LONGEST_BODY}).encode())
    refused(411, "how long it is", Content_Length="-5")
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"text": "a"} more'):
        refused(400, "not JSON", body=body)
    for tree in ([], "a", None, {"texts": ["a"]}, {"text": "a", "__class__": "b"}):
        refused(400, "the request is not", body=json.dumps(tree).encode())
    for tree in (
        {},
        {"text": None},
        {"text": " \n"},
        {"text": ["a"]},
        {"text": "a", "pair": 7},
        {"text": "a", "pair": ""},
    ):
        refused(400, "is no text", body=json.dumps(tree).encode())
    refused(400, "half a character", body=b'{"text": "\\ud800"}')
    assert request(page, "/answer", b"{}", method="DELETE")[0] == 501
    markup = '<script>alert("1")</script>\u202e\0 \U0001f600'
    assert ask(page, {"text": markup})["replies"][0]["said"] in LABELS


def test_an_answer_that_fails_is_one_line() -> None:
    def answer(text: str, pair: str | None) -> Any:
        raise RuntimeError("out of memory\nwhile computing")

    with Server({}, answer) as page:
        assert ask(page, {"text": "a"}) == {"error": "the model cannot answer this text: out of memory"}
        assert request(page, "/")[0] == 200


def test_every_kind_with_readable_answers(tmp_path: Path, tokenizer: Any) -> None:
    def served(name: str, model: Any) -> Server:
        return api.serve(save(tmp_path / name, tokenizer, model))

    several = tiny_model(layers=1, seed=1, problem_type="multi_label_classification")
    with served("several", several) as page:
        for text in TEXTS[:3]:
            with torch.no_grad():
                shares = several(**tokenizer(text, return_tensors="pt")).logits.sigmoid()[0].tolist()
            (reply,) = ask(page, {"text": text})["replies"]
            assert dict(reply["shares"]) == pytest.approx(dict(zip(LABELS, shares, strict=True)), abs=1e-5)
            chosen = [name for name, share in zip(LABELS, shares, strict=True) if share > 0.5]
            assert reply["said"] == (", ".join(chosen) or "no class")
    number = tiny_model(
        layers=1, problem_type="regression", num_labels=1, id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0}
    )
    with served("number", number) as page:
        with torch.no_grad():
            score = float(number(**tokenizer(TEXTS[0], return_tensors="pt")).logits)
        (reply,) = ask(page, {"text": TEXTS[0]})["replies"]
        assert float(reply["said"]) == pytest.approx(score, abs=1e-3) and not reply["shares"]
    with pytest.raises(TutelageError, match="answers of embedding cannot be shown"):
        served("vectors", SentenceEncoder(tiny_model(layers=1).base_model))
    with pytest.raises(TutelageError, match="give two models of one task"):
        api.serve(tmp_path / "several", teacher=tmp_path / "number")


def test_entities_and_answers_are_marked_in_the_text(tmp_path: Path, tokenizer: Any) -> None:
    names = dict(enumerate(("O", "B-PER", "I-PER", "B-LOC")))
    tags = random_model(AutoModelForTokenClassification, id2label=names, label2id={one: i for i, one in names.items()})
    with torch.no_grad():
        tags.classifier.weight.mul_(100)
    text = "  good   word1 bad  good word2 "
    with api.serve(save(tmp_path / "tags", tokenizer, tags)) as page:
        (reply,) = ask(page, {"text": text})["replies"]
        assert "".join(one["text"] for one in reply["pieces"]) == " ".join(text.split())
        labelled = [one for one in reply["pieces"] if one["label"] is not None]
        assert {one["label"] for one in labelled} <= {"PER", "LOC"} and all(0 < one["share"] <= 1 for one in labelled)
        assert reply["said"] == ("; ".join(f"{one['label']}: {one['text']}" for one in labelled) or "no entity")
        assert "leave out the second text" in ask(page, {"text": "a", "pair": "b"})["error"]
        assert json.loads(request(page, "/about")[2])["pairs"] == "none"
    spans = random_model(AutoModelForQuestionAnswering, num_labels=2)
    context = " ".join(["word1 good", *TEXTS, "bad word2 "])
    with api.serve(save(tmp_path / "spans", tokenizer, spans)) as page:
        assert json.loads(request(page, "/about")[2])["pairs"] == "context"
        (reply,) = ask(page, {"text": "good word1", "pair": context})["replies"]
        said, best, null = best_span(spans, tokenizer, "good word1", context)
        assert reply["said"] == said and said and len(context) > 40 * 5  # several windows
        assert "".join(one["text"] for one in reply["pieces"]) == context
        assert [one["text"] for one in reply["pieces"] if one["label"]] == [said]
        assert reply["note"] == f"score {best:.1f}; that of no answer {null:.1f}"
        assert "needs the text that holds its answer" in ask(page, {"text": "a"})["error"]


def test_a_checkpoint_answers_at_the_temperature_of_its_run(
    folders: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an export of it does: twice the temperature, half of the difference of the logits."""

    def difference() -> float:
        with api.serve(folders[1]) as page:
            (reply,) = ask(page, {"text": TEXTS[0]})["replies"]
        shares = [share for _, share in reply["shares"]]
        return float(np.log(shares[0] / shares[1]))

    before = difference()
    monkeypatch.setattr(serving_of_a_run, "temperature_of_run", lambda model: (2.0, []))
    assert difference() == pytest.approx(before / 2, rel=1e-3)


def test_entities_are_pieces_of_the_text(tokenizer: Any) -> None:
    def pieces(names: list[str], tags: list[str], text: str) -> tuple[str, list[tuple[str, str | None]], list[float]]:
        kind = KINDS["tokens"]
        examples = kind.typed([text, text])
        encoded = kind.encode(examples, tokenizer, 7)  # [CLS], five words, [SEP]
        logits = torch.zeros(2 * len(tags), len(names))
        for row, tag in enumerate(2 * tags):
            logits[row, names.index(tag)] = 2.0
        first, second = kind.replies(logits, Texts(examples, encoded, None), names, temperature=2.0)
        assert first == second
        shares = [one.share for one in first.pieces if one.share is not None]
        return first.said, [(one.text, one.label) for one in first.pieces], shares

    names = ["O", "B-PER", "I-PER", "B-LOC"]
    share = float(np.exp(1) / (np.exp(1) + 3))  # of logits 2 and three times 0, at temperature 2
    said, found, shares = pieces(
        names, ["B-PER", "I-PER", "B-LOC", "O", "I-PER"], " good  bad great word1\tword2 word3 word4"
    )
    assert said == "PER: good bad; LOC: great; PER: word2" and shares == pytest.approx([share] * 3)
    assert found == [
        ("good bad", "PER"), (" ", None), ("great", "LOC"), (" ", None), ("word1", None), (" ", None), ("word2", "PER"),
        (" ", None), ("word3 word4", None),
    ]  # fmt: skip
    said, found, _ = pieces(["NOUN", "VERB"], ["NOUN", "VERB"], "good word1")  # tags that mark no entities
    assert said == "NOUN: good; VERB: word1" and found == [("good", "NOUN"), (" ", None), ("word1", "VERB")]


def best_span(model: Any, tokenizer: Any, question: str, context: str) -> tuple[str, float, float]:
    """The best span of all windows, its score and that of no answer, by trying all."""
    found, null = (-float("inf"), ""), float("inf")
    settings = {"truncation": "only_second", "max_length": 40, "stride": 13, "return_overflowing_tokens": True}
    for window in tokenizer(question, context, **settings).encodings:
        with torch.no_grad():
            output = model(torch.tensor([window.ids]), token_type_ids=torch.tensor([window.type_ids]))
        starts, ends = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        null = min(null, starts[0] + ends[0])
        inside = [place for place, sequence in enumerate(window.sequence_ids) if sequence == 1]
        for first in inside:
            for last in (place for place in inside if first <= place < first + 30):
                text = context[window.offsets[first][0] : window.offsets[last][1]]
                found = max(found, (starts[first] + ends[last], text))
    return found[1], found[0], null


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that a shell starts in the background ignores Ctrl-C: the page would wait for ever."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_command_prints_its_address_and_ends_quietly(
    folders: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    _, student, _ = folders
    waiting: list[Server] = []
    wait = Server.wait

    def interrupted(page: Server) -> None:
        waiting.append(page)
        assert request(page, "/")[0] == 200
        timer = threading.Timer(0.1, _thread.interrupt_main)
        timer.start()
        wait(page)
        timer.join()

    monkeypatch.setattr(Server, "wait", interrupted)
    for more in ([], ["--json"]):
        code, out, error = invoke("serve", student, *more)
        page = waiting.pop()
        assert (code, error) == (0, "")
        assert json.loads(out) == {"address": page.address} if more else out == f"Open {page.address} (Ctrl-C ends)\n"
        with pytest.raises(ConnectionRefusedError):
            request(page, "/")
    code, out, _ = invoke("serve", student, "--host", "0.0.0.0")
    assert code == 0 and "every machine that reaches this address can ask" in out


def test_mistakes_are_one_line(folders: tuple[Path, str, str], tmp_path: Path, tokenizer: Any) -> None:
    root, student, _ = folders

    def refused(words: str, *given: str | Path) -> None:
        code, out, error = invoke("serve", *given)
        assert (code, out) == (2, "") and words in error and error.count("\n") == 1, error

    refused("there is no file", root / "files" / "model.int4.onnx")
    refused("there is no folder", root / "nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused("give another --host or --port", student, "--port", str(taken.getsockname()[1]))
    refused("--port 70000 is no port", student, "--port", "70000")
    refused("cannot be served", student, "--host", "no such host")
    save(tmp_path / "body", tokenizer, tiny_model(layers=1).base_model)
    refused("fine-tune or distil it on one first", tmp_path / "body")
