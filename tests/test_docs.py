"""The pages of the documentation lead to each other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_link_leads_to_a_page_and_a_heading() -> None:
    lost = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
            place = page.parent / target if target else page
            if re.search(r"://|^mailto:|=", target):  # elsewhere, or a call in code
                continue
            if not place.exists() or (anchor and place.suffix == ".md" and anchor not in headings(place)):
                lost.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert not lost


def test_the_index_lists_every_page() -> None:
    docs = ROOT / "docs"
    listed = (docs / "index.md").read_text(encoding="utf-8")
    assert not [
        page for page in docs.rglob("*.md") if page.name != "index.md" and f"({page.relative_to(docs)}" not in listed
    ]
