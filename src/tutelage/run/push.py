"""Upload a student, or an exported folder, to the Hub: known files only, and nothing without ``--yes``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData

from tutelage.anatomy.checkpoints import COMPANIONS, HUB_ID, PACKED, near
from tutelage.errors import TutelageError, last_reason, option
from tutelage.report.cascade import CASCADE
from tutelage.report.templates import render
from tutelage.report.words import CARD_FOLDER, folder_name
from tutelage.serving.report import REPORT, ExportReport, load_export
from tutelage.tasks import kind_of

CARD = "README.md"
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.onnx", "model.onnx.data", "model.int8.onnx", PACKED)
KNOWN = (*WEIGHTS, "model.safetensors.index.json", *COMPANIONS, "serve.py")
"""The files that are uploaded. Whatever else lies in the folder stays: data, logs, checkpoints, keys."""
REPORTS = (REPORT, CASCADE, "report.html", "report.json")
"""With a report. They hold texts of the data and names of this machine's folders."""


@dataclass(frozen=True)
class Push:
    """What is uploaded, or would be."""

    repo: str
    uploaded: bool
    files: dict[str, int]
    """Names in the repository, and bytes."""
    left_out: list[str]
    """What else lies in the folder."""
    card: str
    """The README.md."""
    notes: list[str]
    """What the card lacks."""


def push(
    folder: Path,
    repo: str,
    *,
    language: Sequence[str],
    license: str | None,
    datasets: Sequence[str],
    examples: Sequence[str],
    public: bool,
    with_report: bool,
    yes: bool,
) -> Push:
    """See :func:`tutelage.api.push`."""
    if not HUB_ID.fullmatch(repo) or "/" not in repo:  # without its owner the upload has no address
        raise TutelageError(f"{repo!r} names no repository of the Hub; give OWNER/NAME")
    place = _place(folder)
    found = {str(path.relative_to(place)): path for path in sorted(place.rglob("*")) if path.is_file()}
    wanted = (*KNOWN, *(REPORTS if with_report else ()))
    files = {name: path for name, path in found.items() if any(fnmatch(name, one) for one in wanted)}
    if not any(fnmatch(name, one) for name in files for one in WEIGHTS):
        raise TutelageError(
            f"{str(place)!r} holds no weights ({WEIGHTS[0]} or {WEIGHTS[2]}); name a student or an export"
        )
    if with_report and place.name == "student":  # the reports of its run lie beside it
        files |= {name: place.parent / name for name in REPORTS[1:] if (place.parent / name).is_file()} | files
    card, notes = _card(place, repo, language, license, datasets, examples)
    sizes = {CARD: len(card.encode()), **{name: path.stat().st_size for name, path in files.items()}}
    if yes:
        _upload(repo, {CARD: card.encode(), **{name: str(path) for name, path in files.items()}}, public)
    left = [name for name in found if name not in files and name != CARD]
    return Push(repo, yes, sizes, left, card, notes)


def _place(folder: Path) -> Path:
    """The folder with the weights: that of a student in the folder of a run."""
    place = folder.expanduser()
    if not place.is_dir():
        raise TutelageError(f"there is no folder {str(folder)!r}{near(place)}")
    student = place / "student"
    return student if (student / "config.json").is_file() else place


def _upload(repo: str, files: dict[str, bytes | str], public: bool) -> None:
    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, operations=operations, commit_message="Upload with tutelage")
    except Exception as error:  # of the Hub's client, or of the network
        raise TutelageError(
            f"the Hub did not take {repo!r} ({last_reason(error).rstrip('.')}); log in with hf auth login, and see that you may "
            "write there"
        ) from None


# ------------------------------------------------------------------------------------------------------------------ card


def _card(
    place: Path,
    repo: str,
    language: Sequence[str],
    license: str | None,
    datasets: Sequence[str],
    examples: Sequence[str],
) -> tuple[str, list[str]]:
    """The card in the folder, or a plain one, with what is asked for and with the exported files; and what it lacks. Its lines of
    Python load the repository."""
    for name, values, form in (
        ("language", language, r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code"),
        ("license", [license] if license else [], r"[a-z0-9][a-z0-9.-]*"),
        ("dataset", datasets, HUB_ID.pattern),
    ):
        for value in values:
            if not re.fullmatch(form, value):
                raise TutelageError(
                    f"{option(name)} {value!r} is no identifier of the Hub; such as en, apache-2.0 or OWNER/DATASET"
                )
    report = _export_report(place)
    card = _own(place) or _plain(report)
    data = card.data
    if language:
        data["language"] = list(language) if len(language) > 1 else language[0]
    if license:
        data["license"] = license
    if datasets:
        data["datasets"] = list(datasets)
    if examples:
        second = "context" if data.get("pipeline_tag") == "question-answering" else "text_pair"
        pairs = [one.partition("\t") for one in examples]
        data["widget"] = [{"text": text, **({second: pair} if tab else {})} for text, tab, pair in pairs]
    body = card.text.strip().replace(json.dumps(CARD_FOLDER), json.dumps(repo))
    if report is not None:
        body += "\n\n" + render("export.md.jinja", report=report, source=folder_name(report.source)).strip()
    fields = {"language": "language", "license": "license", "dataset": "datasets"}
    missing = [option(name) for name, field in fields.items() if not data.get(field)]
    notes = [f"the card lacks what {', '.join(missing)} would add"] if missing else []
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n", notes


def _own(place: Path) -> ModelCard | None:
    path = place / CARD
    if not path.is_file():
        return None
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except Exception as error:  # of its YAML
        raise TutelageError(
            f"{str(path)!r} is no model card ({last_reason(error)}); correct it, or remove it"
        ) from None


def _plain(report: ExportReport | None) -> ModelCard:
    """A card for a folder without one, which says what is known."""
    if report is None:
        data, text = ModelCardData(tags=["tutelage"]), "# Model\n\nUploaded with tutelage."
    else:
        kind = kind_of(report.kind)
        data = ModelCardData(pipeline_tag=kind.pipeline, tags=["tutelage", "onnx"])
        text = render("exported.md.jinja", report=report, purpose=kind.pipeline.replace("-", " "))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _export_report(place: Path) -> ExportReport | None:
    path = place / REPORT
    return load_export(path) if path.is_file() else None
