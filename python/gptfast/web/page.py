"""Make one HTML file, which loads nothing else, of a template and the files beside this one.

The scripts are ES modules. In one file, they follow one another without their imports and exports,
so the names that they define must differ.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(?P<name>[\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_FIELD = re.compile(r"\{\{(\w+)\}\}")


def read(name: str) -> str:
    """Return a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def inline(script: str) -> str:
    """Return a script with those that it imports before it, each once, as one program."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        source = read(name)
        for match in _IMPORT.finditer(source):
            add(match["name"])
        parts[name] = f"// ==== {name} ====\n\n" + _EXPORT.sub("", _IMPORT.sub("", source)).lstrip()

    add(script)
    return "\n".join(parts.values())


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Return a template with `{{name}}` replaced by the field of that name.

    The fields are inserted as they are: text must be escaped by `html.escape`, JSON by
    `json_for_html`. Raises KeyError for a name that is missing.
    """
    return _FIELD.sub(lambda match: fields[match[1]], template)


def script_hash(text: str) -> str:
    """Return how a Content-Security-Policy names the text of a `<script>` or `<style>`."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def policy_hashes(content: str, what: str) -> list[str]:
    """Return the hashes that a page's own Content-Security-Policy allows.

    what: 'script' or 'style'.
    """
    allowed = re.search(rf"{what}-src ((?:'sha256-[^']+' ?)+)", content)
    return re.findall(r"'(sha256-[^']+)'", allowed[1]) if allowed else []


def json_for_html(text: str) -> str:
    """Return JSON that no HTML parser takes for the end of a script or a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e")
