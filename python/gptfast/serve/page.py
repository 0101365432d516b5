"""The pages of a server, each in one file: web/serve.html, web/ask.html with scripts and styles."""

from __future__ import annotations

import html
import json
from functools import cache
from typing import Literal, TypeAlias

from gptfast.model import GPT, LanguageModel
from gptfast.tokenizer import Tokenizer
from gptfast.web import page

Kind: TypeAlias = Literal["serve", "ask"]
"""The files of a page in web/: `serve.html`, `serve.js`, `serve.css`."""


def build_page(
    name: str,
    model: LanguageModel,
    tokenizer: Tokenizer,
    has_chat_template: bool,
    has_documents: bool,
) -> str:
    """Return the page for a model. It asks the server that it comes from for everything else.

    has_documents: whether to link to the page of documents.
    """
    description = {
        "name": name,
        "block_size": model.config.block_size,
        "n_layer": model.config.n_layer,
        "n_head": model.config.n_head,
        "has_chat_template": has_chat_template,
        "stop_tokens": sorted(tokenizer.stop_tokens),
        "special": sorted(tokenizer.special_tokens),
    }
    return page.fill(
        page.read("serve.html"),
        {
            "name": html.escape(name),
            "block_size": str(model.config.block_size),
            "heads_hidden": "" if isinstance(model, GPT) else " hidden",
            "documents_hidden": "" if has_documents else " hidden",
            "style": _style("serve"),
            "description": page.json_for_html(json.dumps(description)),
            "script": _script("serve"),
        },
    )


def build_documents_page(name: str, writer: str | None) -> str:
    """Return the page for documents. writer: the model that may add a sentence, if any does."""
    return page.fill(
        page.read("ask.html"),
        {
            "name": html.escape(name),
            "style": _style("ask"),
            "description": page.json_for_html(json.dumps({"writer": writer})),
            "script": _script("ask"),
        },
    )


def headers_of(kind: Kind) -> dict[str, str]:
    """Return the headers by which a browser runs and loads nothing but what the page is made of."""
    script, style = page.script_hash(_script(kind)), page.script_hash(_style(kind))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; "
        f"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


@cache
def _script(kind: Kind) -> str:
    return page.inline(f"{kind}.js")


@cache
def _style(kind: Kind) -> str:
    return (
        page.read("style.css")
        + page.read("serve.css")
        + (page.read("ask.css") if kind == "ask" else "")
    )
