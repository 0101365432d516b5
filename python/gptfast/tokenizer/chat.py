"""The chat template of a model folder, as `transformers` keeps it: how a model sees messages.

A template is Jinja. It runs in a sandbox that can't change what it is given. Text of a message
never becomes a special token, whatever it spells: only the template can begin or end a turn.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptfast.errors import UserError
from gptfast.system.files import write_text_atomically
from gptfast.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from jinja2 import Template

_FILE = "chat_template.jinja"


def read_chat_template(folder: Path) -> str | None:
    """Return the Jinja template that makes a text of a dialogue; None for a model without one.

    It is in chat_template.jinja, or in tokenizer_config.json, where there may be several by name,
    of which the one named "default" is returned.
    """
    if (folder / _FILE).is_file():
        return (folder / _FILE).read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    content = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    match content.get("chat_template"):
        case str(template):
            return template
        case [*templates]:
            found = [t["template"] for t in templates if _is_default(t)]
            return str(found[0]) if found else None
        case _:
            return None


def _is_default(template: object) -> bool:
    match template:
        case {"name": "default", "template": str()}:
            return True
        case _:
            return False


def write_chat_template(folder: Path, template: str) -> None:
    """Write the template into a model folder. Raises OSError."""
    write_text_atomically(folder / _FILE, template)


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
