"""What is uploaded to the Hub, and what never is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_model
from test_cli import invoke

from tutelage import api
from tutelage.errors import TutelageError
from tutelage.report.quality import Difference
from tutelage.report.words import CARD_FOLDER
from tutelage.run import push as pushing
from tutelage.serving.report import REPORT, ExportReport, Side
from tutelage.serving.timing import Latency
from tutelage.tasks import KINDS

CARD = "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n- tutelage\n---\n\n# mine\n\nIt was measured.\n"


class Hub:
    """The Hub as the client sees it; it keeps what it is given."""

    calls: list[tuple[str, Any]]

    def create_repo(self, repo: str, **more: Any) -> None:
        self.calls.append(("repo", (repo, more)))

    def create_commit(self, repo: str, *, operations: list[Any], commit_message: str) -> None:
        given = {one.path_in_repo: one.path_or_fileobj for one in operations}
        self.calls.append(("commit", (repo, given)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    Hub.calls = []
    monkeypatch.setattr(pushing, "HfApi", Hub)
    return Hub.calls


@pytest.fixture
def run(tmp_path: Path, tokenizer: Any) -> Path:
    """A run with its student, and with much that is nobody's business."""
    folder = tmp_path / "run"
    tiny_model(layers=1).save_pretrained(folder / "student")
    tokenizer.save_pretrained(folder / "student")
    (folder / "student" / "README.md").write_text(CARD)
    for name in ("report.html", "report.json", "config.yaml", "student/.env", "student/train.csv", "student/optimizer.pt",
                 "student/checkpoint/model.safetensors", "student/notes.md"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    return folder


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def export_report() -> ExportReport:
    time = Latency(batch=1, threads=1, tokens=9, p50_ms=4.5, p95_ms=9, spread_ms=0.5, rounds=20)
    plain = {"bytes": 2_000_000, "latency": [time]}
    sides = [
        Side(name="pytorch", file="/home/ada/model", exact=False, scores={"accuracy": 0.9}, **plain),
        Side(name="int8", file="model.int8.onnx", exact=False, largest_difference=0.25, scores={"accuracy": 0.89},
             change=Difference(value=-0.01, low=-0.03, high=0.01), **plain),
    ]  # fmt: skip
    return ExportReport(
        tutelage="0.2", model="/home/ada/model", out="/home/ada/out", type="bert", kind="classification",
        labels=["bad", "<b>good"], temperature=2.0, opset=20, layers=1, parameters=1234, texts=60, source="dev of mine",
        metric="accuracy", sides=sides, notes=["the texts in /home/ada are used"], flags=["model.int8.onnx is slower"],
        environment={"cpu": "a CPU"},
    )  # fmt: skip


WANTED = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_nothing_is_uploaded_unless_asked_twice(run: Path, hub: list[Any]) -> None:
    found = api.push(run, "me/small")
    assert not hub and not found.uploaded and set(found.files) == WANTED
    assert {".env", "train.csv", "optimizer.pt", "checkpoint/model.safetensors", "notes.md"} == set(found.left_out)
    assert found.files["model.safetensors"] == (run / "student" / "model.safetensors").stat().st_size
    assert found.notes == ["the card lacks what language, license, dataset would add"]
    code, out, _ = invoke("push", run, "me/small")
    assert (
        code == 0 and not hub and "Nothing was uploaded; --yes does it" in out and "library_name: transformers" in out
    )
    assert "Left out: .env, " in out
    code, out, _ = invoke("push", run, "me/small", "--json")
    assert code == 0 and json.loads(out)["uploaded"] is False


def test_the_lines_of_python_load_the_repository(run: Path, hub: list[Any]) -> None:
    usage = KINDS["classification"].usage(json.dumps(CARD_FOLDER))
    (run / "student" / "README.md").write_text(f"{CARD}\n```python\n{usage}\n```\n")
    assert 'pipeline("text-classification", model="me/small")' in api.push(run, "me/small").card


def test_what_is_uploaded(run: Path, hub: list[Any]) -> None:
    found = api.push(
        run, "me/small", language=["en"], license="apache-2.0", dataset=["nyu-mll/glue"], example=["A text.", "One.\tTwo."],
        yes=True,
    )  # fmt: skip
    (_, repo), (_, commit) = hub
    assert found.uploaded and repo == ("me/small", {"private": True, "exist_ok": True}) and commit[0] == "me/small"
    assert set(commit[1]) == WANTED and not found.notes
    assert not any(b"secret" in Path(path).read_bytes() for path in commit[1].values() if isinstance(path, str))
    card = commit[1]["README.md"].decode()
    assert card == found.card and "It was measured." in card
    assert front_matter(card) == {
        "library_name": "transformers", "pipeline_tag": "text-classification", "tags": ["tutelage"], "language": "en",
        "license": "apache-2.0", "datasets": ["nyu-mll/glue"],
        "widget": [{"text": "A text."}, {"text": "One.", "text_pair": "Two."}],
    }  # fmt: skip
    assert (run / "student" / "README.md").read_text() == CARD  # the user's own stays
    hub.clear()
    found = api.push(run / "student", "me/small", public=True, with_report=True, yes=True)
    assert set(found.files) == WANTED | {"report.html", "report.json"} and hub[0][1][1]["private"] is False


def test_an_export_gets_a_card_with_its_table(tmp_path: Path, tokenizer: Any, hub: list[Any]) -> None:
    tokenizer.save_pretrained(tmp_path)
    for name in ("model.onnx", "model.int8.onnx", "config.json", "serve.py"):
        (tmp_path / name).write_text("{}")
    (tmp_path / REPORT).write_text(export_report().model_dump_json())
    found = api.push(tmp_path, "me/served")
    assert {"model.onnx", "model.int8.onnx", "serve.py", "README.md"} <= set(found.files) and REPORT in found.left_out
    assert "| `model.int8.onnx` | 2.0 | 0.8900 | -1.00 (-3.00 to +1.00) | 0.25 | 4.50 |" in found.card
    assert "| the model in PyTorch | 2.0 | 0.9000 |  |  | 4.50 |" in found.card
    assert "Warning: model.int8.onnx is slower." in found.card and "python serve.py" in found.card
    assert "/home/ada" not in found.card and "<b>" not in found.card
    assert front_matter(found.card) == {"pipeline_tag": "text-classification", "tags": ["tutelage", "onnx"]}
    assert REPORT in api.push(tmp_path, "me/served", with_report=True).files


def test_mistakes_are_one_line(run: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str, folder: Path = run, repo: str = "me/small", **more: Any) -> None:
        with pytest.raises(TutelageError, match=words) as error:
            api.push(folder, repo, **more)
        assert "\n" not in str(error.value) and not hub

    refused("names no repository", repo="me/a/b")
    refused("give OWNER/NAME", repo="small")
    refused("there is no folder", run / "nothing")
    refused("language 'English' is no identifier", language=["English"])
    refused("license 'Apache 2' is no identifier", license="Apache 2")
    refused("dataset 'my data' is no identifier", dataset=["my data"])
    (run / "student" / REPORT).write_text("{}")
    refused("is not a report of tutelage export")
    (run / "student" / REPORT).unlink()
    (run / "student" / "README.md").write_text("---\n[\n---\n")
    refused("is no model card")
    (run / "student" / "README.md").unlink()
    (run / "student" / "model.safetensors").unlink()
    refused("holds no weights")


def test_a_hub_that_refuses_is_one_line(run: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Hub, repo: str, **more: Any) -> None:
        raise OSError("401 Client Error.\nlog in first")

    monkeypatch.setattr(Hub, "create_repo", fail)
    with pytest.raises(TutelageError, match="the Hub did not take 'me/small'") as error:
        api.push(run, "me/small", yes=True)
    assert "401 Client Error" in str(error.value) and "hf auth login" in str(error.value)
