"""Decoders of a `tokenizer.json` that work on the spellings of tokens, such as SentencePiece's.

A byte-level tokenizer needs none: its tokens are bytes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten

BYTE_FALLBACK = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
"""The simplest decoder of a model with byte_fallback."""


def is_byte_level(decoder: Any) -> bool:
    """Return whether a `decoder` only turns the byte-level alphabet into bytes."""
    match decoder:
        # ByteLevel makes one text of all tokens, so nothing is left to fuse.
        case {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]}:
            return True
        case {"type": "ByteLevel"}:
            return True
        case _:
            return False


class Step(ABC):
    """A step of a decoder, which takes tokens one by one and returns the text that is sure."""

    @abstractmethod
    def feed(self, token: str) -> Iterable[str]:
        """Return what the step makes of the next token."""

    def finish(self) -> Iterable[str]:
        """Return what is left at the end."""
        return ()


class Decoder:
    """The steps of a decoder, for one sequence of tokens."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def feed(self, token: str) -> str:
        """Return the text that the next token completes."""
        return "".join(self._through(0, [token]))

    def finish(self) -> str:
        """Return the rest of the text."""
        text = ""
        for i, step in enumerate(self._steps):
            text += "".join(self._through(i + 1, step.finish()))
        return text

    def _through(self, first: int, tokens: Iterable[str]) -> Iterable[str]:
        for step in self._steps[first:]:
            tokens = [new for token in tokens for new in step.feed(token)]
        return tokens


def new_decoder(decoder: Mapping[str, Any]) -> Decoder:
    """Return a decoder of the `decoder` of a `tokenizer.json`.

    Raises UserError if it has a step that isn't implemented.
    """
    parts = decoder.get("decoders") if decoder.get("type") == "Sequence" else [decoder]
    if not isinstance(parts, list):
        raise UserError(f"decoder is {shorten(decoder)}: expected a list of decoders")
    steps: list[Step] = []
    for part in parts:
        steps.append(_step(part, after_fuse=any(isinstance(step, _Fuse) for step in steps)))
    return Decoder(steps)


def _step(part: Any, *, after_fuse: bool) -> Step:
    match part:
        case {"type": "Fuse"}:
            return _Fuse()
        case {"type": "Strip", "content": str(content), "start": int(start), "stop": 0}:
            return _Strip(content, start, each=not after_fuse)
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old and (
            len(old) == 1 or not after_fuse
        ):
            return _Replace(old, new)
        case {"type": "ByteFallback"} if not after_fuse:
            return _ByteFallback()
        case {"type": "Metaspace", "replacement": str(replacement)} if not after_fuse:
            scheme = part.get("prepend_scheme", "always")
            is_prefixed = scheme != "never" and part.get("add_prefix_space") is not False
            return _Metaspace(replacement, is_prefixed)
        case _:
            raise UserError(
                f"decoder has {shorten(part)}: expected ByteLevel, or Replace (of a String), "
                f"ByteFallback, Metaspace, Strip (at the start) and Fuse"
            )


class _Fuse(Step):
    """The steps after it get one token, in parts."""

    def feed(self, token: str) -> Iterable[str]:
        return [token]


class _Replace(Step):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def feed(self, token: str) -> Iterable[str]:
        return [token.replace(self._old, self._new)]


class _Strip(Step):
    """Removes some of a character at the start of each token, or of the text if it is fused."""

    def __init__(self, content: str, start: int, *, each: bool) -> None:
        self._content, self._start, self._each = content, start, each
        self._left = start

    def feed(self, token: str) -> Iterable[str]:
        if self._each:
            self._left = self._start
        while self._left and token:
            if not token.startswith(self._content):
                self._left = 0
                break
            token, self._left = token[1:], self._left - 1
        return [token]


class _Metaspace(Step):
    """Turns the character that stands for a space into one, or at the first token into nothing."""

    def __init__(self, replacement: str, is_prefixed: bool) -> None:
        self._replacement, self._is_first = replacement, is_prefixed

    def feed(self, token: str) -> Iterable[str]:
        space, self._is_first = "" if self._is_first else " ", False
        return [token.replace(self._replacement, space)]


class _ByteFallback(Step):
    """Turns runs of tokens such as `<0x0A>` into text, or into U+FFFD for each if they are none."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, token: str) -> Iterable[str]:
        if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
            self._data += bytes.fromhex(match[1])
            return []
        return [*self.finish(), token]

    def finish(self) -> Iterable[str]:
        data, self._data = self._data, b""
        if not data:
            return []
        try:
            return [data.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(data)
