"""The student's model card: the README.md that lies beside its weights and goes to the Hub with them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from tutelage.report import page, team, words
from tutelage.tasks import kind_of

Report = dict[str, Any]

METRIC_IDS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""What the Hub calls metrics that it calls otherwise."""


def card(report: Report, language: str = "en") -> str:
    """The student's README.md: front matter for the Hub, then what it is, how it was made and what it scores."""
    environment = Environment(  # Not HTML: `finalize` escapes for Markdown.
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        finalize=markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(page.FORMATS)
    environment.filters["code"] = _code
    left, dropped = team.final(report)
    lead = team.lead(report)
    return environment.get_template("card.md.jinja").render(
        report=report,
        front_matter=Markup(_front_matter(report, language)),
        name=_name(report),
        usage=Markup(kind_of(report["kind"]).usage(json.dumps(folder_name(report["student"]["name"])))),
        teacher=lead[0] if lead else folder_name((report.get("teacher") or {}).get("name") or "a teacher"),
        entries=words.entries(report),
        who=words.names(report),
        beside=words.beside(report),
        metric=words.words(report["metric"]),
        verdict=words.verdict(report),
        caution=words.caution(report),
        rows=page.comparison(report),
        selection=page.selection(report),
        kept=page.kept(report),
        team=left,
        dropped=dropped,
        warnings=_warnings(report),
        layers=[_layers(entry) for entry in report.get("mapping") or []],
    )


def _name(report: Report) -> str:
    return f"{_line(report['task'])}-{_line(report['method'])}"


def folder_name(name: str) -> str:
    """A relative path as it is; of an absolute one the last part, for a card is published and a home folder is not."""
    return Path(name).name if Path(name).is_absolute() else _line(name)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def markdown(value: Any) -> Any:
    """Text as Markdown that shows this very text, in one line; also within a table."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(_line(value), quote=False))


def _code(value: str) -> Markup:
    """A plain name as a code span; any other as text, for nothing can be escaped within code."""
    text = _line(value)
    return Markup(f"`{text}`" if re.fullmatch(r"[\w./:@+ -]+", text) else markdown(text))


def _warnings(report: Report) -> list[str]:
    """Without the folders of a team."""
    members = (report.get("team") or {}).get("members", [])
    found = []
    for line in report["warnings"]:
        for one in members:
            line = line.replace(repr(one["folder"]), repr(one["name"]))
        found.append(line)
    return found


def _layers(entry: dict[str, Any]) -> dict[str, str]:
    pairs = ", ".join(f"{s} from {t}" for s, t in entry["pairs"])
    return {"stage": entry["stage"], "knowledge": words.words(entry["knowledge"]), "pairs": pairs}


def _front_matter(report: Report, language: str) -> str:
    data = ModelCardData(
        language=language,
        library_name="transformers",
        pipeline_tag=kind_of(report["kind"]).pipeline,
        base_model=_base_model(report),
        tags=["tutelage", *(["knowledge-distillation", _line(report["method"])] if report.get("teacher") else [])],
        metrics=sorted({METRIC_IDS.get(metric, metric) for metric in _metrics(report)}),
        model_name=_name(report),
        eval_results=_results(report),
    )
    return data.to_yaml()


def _base_model(report: Report) -> str | list[str] | None:
    """The teachers whose names may be ones on the Hub: a folder of this machine tells others nothing."""
    if report.get("team"):
        return [one["folder"] for one in report["team"]["members"] if _on_hub(one["folder"])] or None
    name = (report.get("teacher") or {}).get("name") or ""
    return name if _on_hub(name) else None


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII)) and not Path(name).exists()


def _metrics(report: Report) -> list[str]:
    return [metric for scores in report["student"]["scores"].values() for metric in scores]


def _results(report: Report) -> list[EvalResult]:
    task = _line(report["task"])
    return [
        EvalResult(
            task_type=kind_of(report["kind"]).pipeline,
            dataset_type=task,
            dataset_name=task,
            dataset_split=_line(part),
            metric_type=METRIC_IDS.get(metric, metric),
            metric_name=words.words(metric),
            metric_value=round(value, 4),
        )
        for part, scores in report["student"]["scores"].items()
        for metric, value in scores.items()
    ]
