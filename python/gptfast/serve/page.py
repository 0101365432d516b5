"""The page of a server, in one file: web/serve.html with its scripts and styles."""

from __future__ import annotations

import html
import json
from functools import cache

from gptfast.model import GPT, LanguageModel
from gptfast.tokenizer import Tokenizer
from gptfast.web import page


def build_page(
    name: str, model: LanguageModel, tokenizer: Tokenizer, has_chat_template: bool
) -> str:
    """Return the page for a model. It asks the server that it comes from for everything else."""
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
            "style": _style(),
            "description": page.json_for_html(json.dumps(description)),
            "script": _script(),
        },
    )


def headers() -> dict[str, str]:
    """Return the headers by which a browser runs and loads nothing but what the page is made of."""
    script, style = page.script_hash(_script()), page.script_hash(_style())
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
def _script() -> str:
    return page.inline("serve.js")


@cache
def _style() -> str:
    return page.read("style.css") + page.read("serve.css")
