"""Pieces of HTML. Whatever is text becomes HTML by `text` alone."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gptfast.system.escape import escaped
from gptfast.train.display import printable


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    id: str
    title: str
    html: str


def text(value: object) -> str:
    """Return text for a page. Control characters, and bytes that are no UTF-8, are replaced."""
    return html.escape(printable(escaped(str(value))))


def paragraph(value: str, kind: str = "") -> str:
    """Return a paragraph of text."""
    return f"<p{_class(kind)}>{text(value)}</p>"


def listed(values: Iterable[str], kind: str = "") -> str:
    """Return a list of texts."""
    rows = "".join(f"<li>{text(value)}</li>" for value in values)
    return f"<ul{_class(kind)}>{rows}</ul>"


def terms(rows: Mapping[str, str]) -> str:
    """Return a list of terms with their values."""
    return "<dl>" + "".join(_term(name, value) for name, value in rows.items()) + "</dl>"


def _term(name: str, value: str) -> str:
    return f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False
) -> str:
    """Return a table. The first cell of a row is its heading.

    words: the cells hold words, not numbers.
    """
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    kind = "words" if words else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table{_class(kind)}><caption>{text(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: str, *, prints: bool = True) -> str:
    """Return content that is shown on request. prints: it is opened for printing."""
    mark = " data-prints" if prints else ""
    return f"<details{mark}><summary>{text(summary)}</summary>{content}</details>"


def written(value: str) -> str:
    """Return what a model wrote, with its lines."""
    return f'<pre class="written">{text(value)}</pre>'


def code(value: str) -> str:
    """Return a command or other text for machines."""
    return f'<pre class="code" tabindex="0">{text(value)}</pre>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
