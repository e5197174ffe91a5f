"""The papers of the methods: in a few words, and as BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Paper(BaseModel):
    """Where a method comes from. With an arXiv number, title and authors, the card of a model cites it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    text: str
    """The paper in a few words: ``Sun et al., EMNLP 2019``."""
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    """Its number on arXiv, which has the year: ``1908.09355``."""
    title: str = ""
    """Its title on arXiv, as BibTeX takes it: names that keep their capitals in braces."""
    authors: str = ""
    """``Surname, First name and Surname, First name``."""

    def __str__(self) -> str:
        return self.text if self.arxiv is None else f"{self.text}, arXiv:{self.arxiv}"


def bibtex(papers: Iterable[Paper]) -> str:
    """BibTeX entries of the papers whose number, title and authors are known."""
    return "\n\n".join(_entry(paper) for paper in papers if paper.arxiv and paper.title and paper.authors)


def _entry(paper: Paper) -> str:
    assert paper.arxiv is not None
    first, year = paper.authors.partition(",")[0].lower(), f"20{paper.arxiv[:2]}"
    return "\n".join(
        [
            f"@misc{{{first}{year},",
            f"  title = {{{paper.title}}},",
            f"  author = {{{paper.authors}}},",
            f"  year = {{{year}}},",
            f"  eprint = {{{paper.arxiv}}},",
            "  archivePrefix = {arXiv},",
            "}",
        ]
    )
