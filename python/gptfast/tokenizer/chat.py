"""The chat template of a model folder, as `transformers` keeps it: how a model sees messages.

A template is Jinja. It runs in a sandbox that can't change what it is given. Text of a message
never becomes a special token, whatever it spells: only the template can begin or end a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template

from gptfast.errors import UserError
from gptfast.system.files import write_text_atomically
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.chat_jinja import BEGIN, END, Refusal, compiled

CHAT_TEMPLATE_FILE = "chat_template.jinja"
_FIRST_SURROGATE, _N_SURROGATES = 0xD800, 2046  # the last two are BEGIN and END
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = ("role", "type")  # fields of a message that its sender chooses from a list
NO_MASK = (
    "the chat template has no {% generation %} tags, so it doesn't say what the assistant writes: "
    "enclose the content of its messages and the token that ends them by {% generation %} and "
    "{% endgeneration %} in chat_template.jinja"
)
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


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
    """Write the template into a model folder, which has a tokenizer already. Raises OSError.

    `transformers` reads chat_template.jinja; older programs read tokenizer_config.json.
    """
    write_text_atomically(folder / CHAT_TEMPLATE_FILE, template)
    config = folder / "tokenizer_config.json"
    content = json.loads(_read(config)) | {"chat_template": template}
    write_text_atomically(config, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


class ChatTemplate:
    """A template for the messages of one tokenizer.

    Raises UserError for one that is not valid Jinja, or fails on a first message: for instance
    because it calls what is not there.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self._template = compiled(source)
        self._marked = compiled(source, marked=True) if _GENERATION.search(source) else None
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, names))})" if names else "(?!)()")
        self._guard = _Guard(names)
        try:
            self._render(self._template, [{"role": "user", "content": "a"}], True)
        except Refusal:  # which other messages may not get
            pass
        except Exception as error:
            raise UserError(f"the chat template fails: {error}") from None

    @property
    def has_mask(self) -> bool:
        """Whether the template says what the assistant writes, by `{% generation %}`."""
        return self._marked is not None

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the ids of the messages, and of what begins the assistant's next one.

        messages: dicts with "role" and "content", both texts. Raises UserError if the template
        refuses them, for instance because two users follow each other.
        """
        text = self._text(self._template, messages, add_generation_prompt=True)
        return self._encode(text, bytes(len(text)))[0]

    def encode_with_mask(
        self, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of a finished dialogue, and whether the assistant writes each of them.

        The mask is what `apply_chat_template(..., return_assistant_tokens_mask=True)` of
        `transformers` returns: True for each token of a text within `{% generation %}`, even for
        one that shares a token with the text around it. Raises UserError as `encode` does, and for
        a template that can't be masked.
        """
        if self._marked is None:
            raise UserError(NO_MASK)
        marked = self._text(self._marked, messages, add_generation_prompt=False)
        parts, inside, depth = [], b"", 0
        for part in re.split(f"([{BEGIN}{END}])", marked):
            if part in (BEGIN, END):
                depth += 1 if part == BEGIN else -1
            else:
                parts.append(part)
                inside += bytes([depth > 0]) * len(part)
        text = "".join(parts)
        if depth != 0 or text != self._text(self._template, messages, add_generation_prompt=False):
            raise UserError(
                "the chat template changes the text that its {% generation %} tags enclose, so the "
                "answers can't be found in it: put the tags around the output itself"
            )
        return self._encode(text, inside)

    def pieces(self, messages: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the text of a finished dialogue, cut at the template's special tokens.

        Every second piece is the name of a special token; the others are text, or empty. Raises
        UserError as `encode` does.
        """
        text = self._text(self._template, messages, add_generation_prompt=False)
        return [self._guard.show(piece) for piece in self._special.split(text)]

    def _text(
        self, template: Template, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool
    ) -> str:
        """Return the text of messages, in which what they spell of special tokens is hidden."""
        hidden = [self._guard.hide(message) for message in messages]
        try:
            return self._render(template, hidden, add_generation_prompt)
        except Exception as error:  # whatever the template's code may raise
            raise UserError(f"the chat template refuses the messages: {error}") from None

    def _encode(self, text: str, inside: bytes) -> tuple[list[int], list[bool]]:
        """Return the ids of a text, and which of them have a character that is inside.

        inside: 1 for a character that is, else 0.
        """
        ids: list[int] = []
        mask: list[bool] = []
        begin = 0
        for i, part in enumerate(self._special.split(text)):
            here = inside[begin : begin + len(part)]
            begin += len(part)
            is_special = i % 2 == 1
            if is_special:
                new = [self.tokenizer.special_tokens[part]]
            elif 0 < here.count(1) < len(here):
                new, offsets = self.tokenizer.encode_with_offsets(self._guard.show(part))
                mask += [1 in here[first:last] for first, last in offsets]
            else:
                new = self.tokenizer.encode_ordinary(self._guard.show(part))
            ids += new
            mask += [1 in here] * (len(ids) - len(mask))
        return ids, mask

    def _render(
        self, template: Template, messages: list[dict[str, Any]], add_generation_prompt: bool
    ) -> str:
        roles = self.tokenizer.roles.one_each()
        tokens = {f"{role}_token": roles[role] for role in ("bos", "eos", "unk", "pad")}
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
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
