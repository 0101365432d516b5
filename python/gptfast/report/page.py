"""Put the sections of a report into one HTML file that loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gptfast.report.markup import Section, terms, text
from gptfast.web import page


def build(
    title: str,
    lead: str,
    headline: Mapping[str, str],
    sections: Sequence[Section],
    framed: str | None = None,
) -> str:
    """Return a page.

    headline: the few numbers at the top. framed: a page that runs in a frame of this one; the
    policy of this page must allow its script and its style, too.
    """
    style = f"\n{page.read('style.css')}{page.read('report.css')}"
    script = f"\n{page.inline('report.js')}\n"
    hashes = {"script_hash": [page.script_hash(script)], "style_hash": [page.script_hash(style)]}
    if framed is not None:
        hashes["script_hash"] += page.policy_hashes(framed, "script")
        hashes["style_hash"] += page.policy_hashes(framed, "style")
    return page.fill(
        page.read("report.html"),
        {name: " ".join(f"'{one}'" for one in found) for name, found in hashes.items()}
        | {
            "title": text(title),
            "lead": text(lead),
            "headline": terms(headline),
            "style": style,
            "script": script,
            "contents": "".join(
                f'<li><a href="#{section.id}">{text(section.title)}</a></li>'
                for section in sections
            ),
            "sections": "\n".join(
                f'<section id="{section.id}" aria-labelledby="{section.id}-title">'
                f'<h2 id="{section.id}-title">{text(section.title)}</h2>{section.html}</section>'
                for section in sections
            ),
        },
    )
