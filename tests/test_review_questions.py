"""docs/review-questions.md: every citation leads to the line that it quotes.

`python tests/test_review_questions.py` writes the right line numbers into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "review-questions.md"
CITATION = re.compile(r"\[`([^`]+)`\]\(([^)#]+)#L(\d*)\)")


def line_of(quoted: str, file: Path) -> int:
    """The number of the one line that has a text."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [i for i, line in enumerate(lines, start=1) if quoted in line]
    assert len(found) == 1, f"{quoted!r} is on {len(found)} lines of {file}: quote another line"
    return found[0]


def corrected(page: str) -> str:
    """The page with the line numbers of today's code."""
    return CITATION.sub(lambda m: f"[`{m[1]}`]({m[2]}#L{line_of(m[1], PAGE.parent / m[2])})", page)


def test_every_citation_leads_to_the_line_that_it_quotes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for old, new in zip(page.splitlines(), corrected(page).splitlines(), strict=True):
        assert old == new, f"the code has moved: write {new!r}, or run python {__file__}"


def test_there_are_twenty_questions_and_each_answer_cites_code() -> None:
    sections = re.split(r"^## \d+\. ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(sections) == 20
    for section in sections:
        assert section.splitlines()[0].endswith("?"), section.splitlines()[0]
        assert CITATION.search(section), section.splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(corrected(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
