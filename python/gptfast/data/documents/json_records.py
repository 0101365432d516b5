"""Documents in JSON: the values of a file, of any layout, read one by one."""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from gptfast.data.documents.records import BadRecordError, Record
from gptfast.data.documents.unpack import DamagedFileError

_CHUNK_BYTES = 1 << 18
_DECODER = json.JSONDecoder()
_FLOAT_DECODER = json.JSONDecoder(parse_int=float)
TOO_DEEP = "can't be read as JSON (it is nested too deeply)"
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}"]', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_KEYS = 8
_LONGEST_CUT = 16  # characters of an escape, a number or a word that the end of a chunk can cut


def find_field(value: Any, field: str) -> Any:
    """Return what an object has under a key, or under a path such as `meta.text` or `turns.0.text`.

    A key that is spelled like the path goes first. Returns None if there is nothing.
    """
    if not isinstance(value, dict):
        return None
    if field in value:
        return value[field]
    for key in field.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def keys_of(value: dict[str, Any]) -> str:
    """Return a list of an object's first keys, for messages."""
    if not value:
        return "it has no keys"
    keys = [repr(key) for key in itertools.islice(value, _MAX_KEYS)]
    return f"its keys are {', '.join(keys)}{', ...' if len(value) > _MAX_KEYS else ''}"


def decoded(text: str, at: int) -> tuple[Any, int]:
    """Return the value that begins at an index, and where it ends. Raises as json does."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than int() takes
        return _FLOAT_DECODER.raw_decode(text, at)


def text_of(value: Any, field: str, errors: Literal["strict", "replace"]) -> bytes:
    """Return the text under the field as UTF-8."""
    text = find_field(value, field)
    if not isinstance(text, str):
        raise BadRecordError(_no_text(value, text, field))
    if errors == "replace":
        text = _SURROGATE.sub("\ufffd", text)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        is_byte = 0xDC80 <= code <= 0xDCFF  # which the decoder of JsonValues made of it
        what = "is not UTF-8 text, or " if is_byte else ""
        raise BadRecordError(
            f"{what}has the lone surrogate U+{code:04X}: expected characters"
        ) from None


def _no_text(value: Any, found: Any, field: str) -> str:
    """Say what there is instead of a text."""
    expected = f"has no string under {field!r}"
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    if not isinstance(value, dict):
        kind = kinds.get(type(value), "a number or a truth value")
        return f"{expected}: expected an object with one, it is {kind}"
    if found is not None or field in value:
        expected += f" but {kinds.get(type(found), 'a number or a truth value')}"
    conversation = next((k for k in ("messages", "conversations", "conversation") if k in value), 0)
    if conversation:
        advice = (
            f"{conversation!r} looks like a conversation, which is not training text by itself: "
            f"write its turns as one string, and give its key as --field"
        )
    elif lists := [
        key for key, v in value.items() if v and isinstance(v, list) and type(v[0]) is dict
    ]:
        advice = f"expected an object for each document, such as `jq -c '.{lists[0]}[]'` makes"
    else:
        advice = "expected an object with one; --field names another key, or a.b for b inside a"
    return f"{expected}: {keys_of(value)}; {advice}"


def json_values(
    stream: io.RawIOBase, field: str, errors: Literal["strict", "replace"], longest: int
) -> Iterator[Record]:
    """Yield the number and the text of each element of an array, or of each of several values.

    Only the value that is being read is in memory. longest: the maximum number of its characters.
    """
    values = JsonValues(stream, errors, longest)
    number = 0
    try:
        for number, line, value in values.read():
            try:
                if isinstance(value, BadRecordError):
                    raise value
                text: bytes | BadRecordError = text_of(value, field, errors)
            except BadRecordError as error:
                text = BadRecordError(f"(line {line}) {error}")
            yield number, text
    except BadRecordError as error:
        line = values.line
        yield number + 1, BadRecordError(f"(line {line}) {error}, so what follows can't be read")
    except DamagedFileError as error:
        yield values.line, error


class JsonValues:
    """Reads the values of a JSON array, or values one after another, from a stream."""

    def __init__(self, stream: io.RawIOBase, errors: str, longest: int) -> None:
        self.line = 1
        self._stream = stream
        # Bytes that are not UTF-8 become surrogates, so that they are an error of their value only.
        how = "surrogateescape" if errors == "strict" else errors
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(how)
        self._longest = longest
        self._text, self._at, self._ended = "", 0, False

    def read(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the number, the line and the value of each, from 1."""
        is_array = self._next_character() == "["
        if is_array:
            self._move(self._at + 1)
        for number in itertools.count(1):
            character = self._next_character()
            if is_array and character == "]":
                self._move(self._at + 1)
                if self._next_character():
                    raise BadRecordError("has more after the end of its array")
                return
            if not character:
                if is_array:
                    raise BadRecordError("ends inside its array: it is truncated")
                return
            if is_array and number > 1:
                if character != ",":
                    raise BadRecordError(f"is broken JSON (expected , or ] before {character!r})")
                self._move(self._at + 1)
                self._next_character()
            line = self.line
            try:
                value = self._value()
            except BadRecordError as error:
                if is_array or not self._skip_to_object():
                    raise
                value = error
            yield number, line, value

    def _skip_to_object(self) -> bool:
        """Go on to the next line that begins with {; return whether there is one."""
        while (at := self._text.find("\n{", self._at)) < 0:
            if self._ended:
                return False
            self._move(max(self._at, len(self._text) - 1))
            self._fill()
        self._move(at + 1)
        return True

    def _value(self) -> Any:
        """Return the next value, or a BadRecordError for one that is left out."""
        while True:
            try:
                value, end = decoded(self._text, self._at)
                if end < len(self._text) or self._ended:  # else it may be half a number
                    self._move(end)
                    return value
            except json.JSONDecodeError as error:
                is_string = error.msg.startswith("Unterminated string")
                if self._ended and (is_string or error.pos >= len(self._text)):
                    raise BadRecordError("ends inside a value: it is truncated") from None
                if self._ended or not (is_string or error.pos > len(self._text) - _LONGEST_CUT):
                    raise BadRecordError(f"is broken JSON ({error.msg})") from None
            except RecursionError:
                if end := _end_of_nested(self._text, self._at):
                    self._move(end)
                    return BadRecordError(TOO_DEEP)
                if self._ended:
                    raise BadRecordError("ends inside a value: it is truncated") from None
            if len(self._text) - self._at > self._longest:
                raise BadRecordError(f"has a value of more than {self._longest:,} characters")
            self._fill()

    def _next_character(self) -> str:
        """Skip spaces; return the character that follows, or '' at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._move(match.end() if match else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._fill()

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _fill(self) -> None:
        """Read as much again as is unread, so that long values cost no more than a few copies."""
        unread = self._text[self._at :]
        parts, n_characters = [unread], 0
        while n_characters < max(_CHUNK_BYTES, len(unread)) and not self._ended:
            data = self._stream.read(_CHUNK_BYTES) or b""
            self._ended = not data
            parts.append(self._decoder.decode(data, final=self._ended))
            n_characters += len(parts[-1])
        self._text, self._at = "".join(parts), 0


def _end_of_nested(text: str, at: int) -> int:
    """Return where the array or the object that begins at an index ends; 0 if it is cut off."""
    depth = 0
    for token in _BRACKETS.finditer(text, at):
        if token[0] == '"':
            return 0
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth == 0:
            return token.end()
    return 0
