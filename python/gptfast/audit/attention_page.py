"""The page of `gptfast audit attention`: all heads on a text, in one HTML file."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

from gptfast.audit.attention import AttentionAudit
from gptfast.audit.attention_report import HEADINGS, induction_sentence, score_cells
from gptfast.web import page


def make_page(result: AttentionAudit, name: str) -> str:
    """Return the page. name: of the model."""
    style = page.read("style.css") + page.read("attention.css")
    script = page.inline("attention.js")
    held = sum(check.passed for check in result.checks)
    lead = (
        f"Where {len(result.heads)} heads look on {len(result.tokens)} tokens. {held} of "
        f"{len(result.checks)} checks passed."
    )
    content = {
        "tokens": result.tokens,
        "texts": result.texts,
        "ids": result.ids,
        "layer": result.layer,
        "head": result.head,
        "masks": result.masks,
        "weights": result.weights,
    }
    return page.fill(
        page.read("attention.html"),
        {
            "name": html.escape(name),
            "lead": lead,
            "style": style,
            "style_hash": page.script_hash(style),
            "script": script,
            "script_hash": page.script_hash(script),
            "scores": _table(HEADINGS, (score_cells(head) for head in result.heads)),
            "induction": html.escape(induction_sentence(result)),
            "checks": "".join(
                f"<li{'' if check.passed else ' class=wrong'}>{'ok' if check.passed else 'WRONG'}: "
                f"{html.escape(f'{check.name}: {check.found}')}</li>"
                for check in result.checks
            ),
            "rules": "".join(
                f"<li>{html.escape(line)}</li>" for line in (*result.rules, *result.sees)
            ),
            "audit": page.json_for_html(json.dumps(content)),
        },
    )


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
