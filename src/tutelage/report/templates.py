"""Drawing pages and model cards from the templates beside this module."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from tutelage.objectives.terms import title_of
from tutelage.report.charts import drawing
from tutelage.report.numbers import (
    bytes_text,
    count_text,
    device_text,
    flops_text,
    label_list,
    milliseconds,
    percent,
    score_text,
    seconds_text,
)
from tutelage.report.words import one_line, words


def markdown(value: Any) -> Any:
    """Text as Markdown that shows this very text, in one line; also within a table."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(one_line(value), quote=False))


def _code(value: str) -> Markup:
    """A plain name as a code span of Markdown. Any other as text: within code nothing can be escaped."""
    text = one_line(value)
    return Markup(f"`{text}`" if re.fullmatch(r"[\w./:@+ -]+", text) else markdown(text))


PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
PAGES.filters.update(
    {
        "score": score_text,
        "percent": percent,
        "count": count_text,
        "flops": flops_text,
        "bytes": bytes_text,
        "ms": milliseconds,
        "seconds": seconds_text,
        "words": words,
        "term": title_of,
        "label_list": label_list,
        "device": device_text,
        "code": _code,
        "drawing": drawing,
    }
)
CARDS = PAGES.overlay(autoescape=False, finalize=markdown, keep_trailing_newline=True)
"""For Markdown, which has no autoescaping: every value is escaped where it is printed."""


def render(template: str, **values: Any) -> str:
    """The template filled in; one that ends in ``.md.jinja`` is escaped for Markdown, any other for HTML."""
    environment = CARDS if template.endswith(".md.jinja") else PAGES
    return environment.get_template(template).render(**values)
