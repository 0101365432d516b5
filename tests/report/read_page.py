"""Read a report as a browser's parser does, without running it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass
class Content(HTMLParser):
    """What a page holds."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    """The terms of its lists with their values; the first of each name."""
    cells: list[list[str]] = field(default_factory=list)
    """The rows of its tables."""
    charts: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    """Everything that is shown as text."""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside: list[str] = []
        self.term = self.value = self.json = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "dt":
            self.term = self.value = ""
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        self.json = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "dd":
            self.facts.setdefault(self.term, self.value)
        if tag == "script" and self.json.startswith('{"x"'):
            self.charts.append(json.loads(self.json))
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inner = self.inside[-1] if self.inside else ""
        if inner == "script":
            self.json += data
        elif inner != "style":
            self.text += data
        if inner == "dt":
            self.term += data
        if inner == "dd":
            self.value += data
        if inner in ("td", "th"):
            self.cells[-1][-1] += data


def read_page(path: Path) -> Content:
    content = Content()
    content.feed(path.read_text(encoding="utf-8"))
    return content
