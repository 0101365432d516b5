"""The chat template of a model folder, as `transformers` keeps it: how a model sees messages.

A template is Jinja. It runs in a sandbox that can't change what it is given. Text of a message
never becomes a special token, whatever it spells: only the template can begin or end a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gptfast.errors import UserError
from gptfast.system.files import write_text_atomically
from gptfast.tokenizer.base import Tokenizer

CHAT_TEMPLATE_FILE = "chat_template.jinja"
_FIRST_SURROGATE, _N_SURROGATES = 0xD800, 2048
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = ("role", "type")  # fields of a message that its sender chooses from a list
_NOT_ASCII = re.compile("[^\x00-\x7f\ud800-\udfff]")


def read_chat_template(folder: Path) -> str | None:
    """Return the Jinja template that makes a text of a dialogue; None for a model without one.

    It is in chat_template.jinja, or in tokenizer_config.json, where there may be several by name,
    of which the one named "default" is returned. Raises UserError for a file that can't be read as
    UTF-8 or JSON.
    """
    file, config = folder / CHAT_TEMPLATE_FILE, folder / "tokenizer_config.json"
    if file.is_file():
        return _read(file)
    try:
        content = json.loads(_read(config)) if config.is_file() else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{config} is not JSON: {error}") from None
    match content:
        case {"chat_template": str(template)}:
            return template
        case {"chat_template": [*templates]}:
            found = [t["template"] for t in templates if _is_default(t)]
            return str(found[0]) if found else None
        case _:
            return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None


def _is_default(template: object) -> bool:
    match template:
        case {"name": "default", "template": str()}:
            return True
        case _:
            return False


def write_chat_template(folder: Path, template: str) -> None:
    """Write the template into a model folder. Raises OSError."""
    write_text_atomically(folder / CHAT_TEMPLATE_FILE, template)


class ChatTemplate:
    """A template for the messages of one tokenizer.

    Raises UserError for one that is not valid Jinja, or fails on a first message: for instance
    because it calls what is not there.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._template = _compiled(source)
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, names))})" if names else "(?!)()")
        self._guard = _Guard(names)
        try:
            self._render([{"role": "user", "content": "a"}])
        except _Refusal:  # which other messages may not get
            pass
        except Exception as error:
            raise UserError(f"the chat template fails: {error}") from None

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the ids of the messages, and of what begins the assistant's next one.

        messages: dicts with "role" and "content", both texts. Raises UserError if the template
        refuses them, for instance because two users follow each other.
        """
        hidden = [self._guard.hide(message) for message in messages]
        try:
            text = self._render(hidden)
        except Exception as error:  # whatever the template's code may raise
            raise UserError(f"the chat template refuses the messages: {error}") from None
        ids: list[int] = []
        for i, part in enumerate(self._special.split(text)):
            is_special = i % 2 == 1
            if is_special:
                ids.append(self._tokenizer.special_tokens[part])
            else:
                ids += self._tokenizer.encode_ordinary(self._guard.show(part))
        return ids

    def _render(self, messages: list[dict[str, Any]]) -> str:
        roles = self._tokenizer.roles.one_each()
        tokens = {f"{role}_token": roles[role] for role in ("bos", "eos", "unk", "pad")}
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **{name: token for name, token in tokens.items() if token is not None},
        )


class _Guard:
    """Hides the special tokens that a message spells from the search for those of the template.

    Their characters, each by itself, are replaced by a stand-in, so that the length stays, and so
    do all changes that a template makes to a text as a whole. The stand-ins are lone surrogates,
    which no text has. Case is ignored, because a template may change it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        characters = sorted({c for name in names for c in name + name.lower() + name.upper()})
        if len(characters) > _N_SURROGATES:
            raise UserError(f"special tokens with {len(characters):,} different characters")
        stand_ins = [chr(_FIRST_SURROGATE + i) for i in range(len(characters))]
        self._to = str.maketrans(dict(zip(characters, stand_ins, strict=True)))
        self._back = str.maketrans(dict(zip(stand_ins, characters, strict=True)))
        # Ahead, so that those that overlap are found, too; at each place the longest.
        spelled = "|".join(map(re.escape, names))
        self._spelled = re.compile(f"(?=({spelled}))" if names else "(?!)()", re.IGNORECASE)
        # What may become a special token together with the text before or after the message.
        lower = [name.lower() for name in names]
        self._names = "\n".join(lower)
        self._beginnings = {name[:k] for name in lower for k in range(1, len(name))}
        self._ends = {name[k:] for name in lower for k in range(1, len(name))}
        self._longest = max(map(len, names), default=0)

    def hide(self, value: Any) -> Any:
        """Return a value of a message in which no text spells a special token."""
        match value:
            case str(text):
                return self._hide(text)
            case [*values]:
                return [self.hide(one) for one in values]
            case {**items}:
                return {k: v if k in _KINDS else self.hide(v) for k, v in items.items()}
            case _:
                return value

    def _hide(self, text: str) -> str:
        if _SURROGATE.search(text):
            raise UserError("a message has a lone surrogate: expected Unicode text")
        spans = [match.span(1) for match in self._spelled.finditer(text)]
        begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
        for first, last in ((0, len(text)), (begin, end)):  # templates strip messages
            for k in range(1, min(self._longest, last - first + 1)):
                if text[first : first + k].lower() in self._ends:
                    spans.append((first, first + k))
                if text[last - k : last].lower() in self._beginnings:
                    spans.append((last - k, last))
            if last - first < self._longest and text[first:last].lower() in self._names:
                spans.append((first, last))
        parts, done = [], 0
        for start, stop in sorted(spans):
            if stop > done:
                start = max(start, done)
                parts += [text[done:start], text[start:stop].translate(self._to)]
                done = stop
        return "".join([*parts, text[done:]])

    def show(self, text: str) -> str:
        """Return a text with the characters that were hidden."""
        return text.translate(self._back)


class _Refusal(TemplateError):
    """A template has called `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant writes, for training: here, it does nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """Return what is between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _compiled(source: str) -> Template:
    """Compile a template with the functions that `transformers` offers to one."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise UserError(f"the chat template is not valid Jinja: {error}") from None


def _raise_exception(message: str) -> None:
    raise _Refusal(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON. Jinja's own filter escapes HTML."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    # Surrogates stand for other characters here.
    return _NOT_ASCII.sub(lambda m: json.dumps(m[0])[1:-1], text) if ensure_ascii else text
