"""Chat templates: how a model that was trained on dialogues sees messages.

A template is Jinja, as `transformers` keeps it beside a tokenizer. It runs in a sandbox that can't
change what it is given. Text of a message never becomes a special token, whatever it spells: only
the template itself can begin or end a turn.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from jinja2 import Template

FILE = "chat_template.jinja"


def read_chat_template(folder: str | Path) -> str | None:
    """Return the template of a folder; None if it has none.

    `transformers` writes it to chat_template.jinja or, before version 5, into
    tokenizer_config.json, where it may be a list of named ones: then "default" is taken. Raises
    UserError if a file can't be read.
    """
    folder = Path(folder)
    file, config = folder / FILE, folder / "tokenizer_config.json"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = json.loads(config.read_bytes()).get("chat_template") if config.is_file() else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder} has a chat template that can't be read ({error})") from None
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise UserError(f"{config}: chat_template is no text: expected a Jinja template")
    return found


class ChatTemplate:
    """A template for the messages of one tokenizer. Raises UserError if it is not valid Jinja."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._template = _compiled(source)

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the ids of the messages, and of what begins the assistant's next one.

        messages: dicts with "role" and "content", both texts. Raises UserError if the template
        refuses them, for instance because two users follow each other.
        """
        from jinja2 import TemplateError

        names = sorted(self._tokenizer.special_tokens, key=len, reverse=True)
        special = re.compile(f"({'|'.join(map(re.escape, names))})" if names else "(?!)()")
        # A mark inside each special token that a message spells keeps it from being found below.
        mark = f"\ue000{secrets.token_hex(8)}\ue001"
        marked = [
            {
                key: special.sub(lambda m: m[0][0] + mark + m[0][1:], value)
                if isinstance(value, str) else value
                for key, value in message.items()
            }
            for message in messages
        ]  # fmt: skip
        roles = self._tokenizer.roles
        try:
            text = self._template.render(
                messages=marked,
                add_generation_prompt=True,
                bos_token=roles.bos or "",
                eos_token=roles.eos or "",
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise UserError(f"the chat template refuses the messages: {error}") from None
        ids: list[int] = []
        for i, part in enumerate(special.split(text)):
            is_special = i % 2 == 1
            if is_special:
                ids.append(self._tokenizer.special_tokens[part])
            else:
                ids += self._tokenizer.encode_ordinary(part.replace(mark, ""))
        return ids


def _compiled(source: str) -> Template:
    """Compile a template with the functions that `transformers` offers to one."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    # Jinja's own tojson escapes HTML.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise UserError(f"the chat template is not valid Jinja: {error}") from None
