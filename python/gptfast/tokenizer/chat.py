"""The chat template of a model folder, as `transformers` keeps it."""

from __future__ import annotations

import json
from pathlib import Path

from gptfast.system.files import write_text_atomically

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
