"""Conversations to learn from: JSON records, their formats, and a split by prompt."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gptfast.cli.units import count
from gptfast.data.documents.json_records import JsonValues, keys_of
from gptfast.data.documents.records import BadRecordError
from gptfast.errors import MissingFileError, UserError

T = TypeVar("T")

ROLES = ("system", "user", "assistant")
LONGEST = 1 << 26
"""Maximum number of characters of a record."""
_LINES_SHOWN = 5
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Conversation:
    """The messages of a dialogue, in order."""

    messages: tuple[dict[str, str], ...]
    """Each has "role", one of ROLES, and "content"."""
    line: int
    """Where it begins in its file, from 1; 0 if it has none."""

    @property
    def prompt(self) -> tuple[dict[str, str], ...]:
        """What precedes the last answer; all messages if there is no answer."""
        for last in reversed(range(len(self.messages))):
            if self.messages[last]["role"] == "assistant":
                return self.messages[:last]
        return self.messages


def read_records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a file, each with the number of the line where it begins.

    The file has one object per line (JSONL), or is a JSON list of objects. Raises MissingFileError,
    or UserError with the line of what can't be read.
    """
    if not path.is_file():
        raise MissingFileError(f"no file at {path}: expected JSON lines, or a JSON list of objects")
    records: list[tuple[int, dict[str, Any]]] = []
    with path.open("rb", buffering=0) as stream:
        values = JsonValues(stream, "strict", LONGEST)
        try:
            for _, line, value in values.read():
                records.append((line, _checked(value, f"{path}, line {line}")))
        except BadRecordError as error:
            raise UserError(f"{path}, line {values.line}: the record {error}") from None
    if not records:
        raise UserError(f"{path} has no records: expected JSON lines, or a JSON list of objects")
    return records


def _checked(value: Any, where: str) -> dict[str, Any]:
    """Return a record. Raise UserError unless it is an object with valid Unicode."""
    if isinstance(value, BadRecordError):
        raise UserError(f"{where}: the record {value}")
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{where}: the record is a JSON {kind}: expected an object")
    if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise UserError(f"{where}: the record has bytes that are not UTF-8, or a lone surrogate")
    return value


def read_conversations(path: Path) -> list[Conversation]:
    """Read the conversations of a file of records, which may have three forms.

    - {"messages": [{"role": ..., "content": ...}, ...]} with the roles in ROLES
    - {"instruction": ..., "input": ..., "output": ...}, where "input" may be missing, null or empty
    - {"prompt": ..., "completion": ...}

    All values are strings. Other keys are ignored. Raises MissingFileError, or UserError with the
    line of a record that has none of these forms.
    """
    return read_as(path, lambda record, line: Conversation(messages_of(record), line))


def read_as(path: Path, make: Callable[[dict[str, Any], int], T]) -> list[T]:
    """Return what `make` makes of each record of a file and its line.

    Raises MissingFileError or UserError as `read_records` does, and UserError with the line for a
    BadRecordError of `make`.
    """
    made, line = [], 0
    try:
        for line, record in read_records(path):
            made.append(make(record, line))
    except BadRecordError as error:
        raise UserError(f"{path}, line {line}: {error}") from None
    return made


@contextmanager
def errors_at(where: str) -> Iterator[None]:
    """Let a UserError begin with the place that it is about, such as 'line 3 of the pairs'."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_answers(path: Path, conversations: Sequence[Conversation]) -> None:
    """Raise UserError, with the line, for a conversation without an answer to learn from."""
    for conversation in conversations:
        if not any(m["role"] == "assistant" and m["content"] for m in conversation.messages):
            raise UserError(
                f"{path}, line {conversation.line}: the conversation has no answer to learn from: "
                f"expected a message of the assistant that is not empty; remove the record"
            )


def messages_of(record: dict[str, Any]) -> tuple[dict[str, str], ...]:
    """Return the messages of a record. Raise BadRecordError if it has none of the three forms."""
    if "messages" in record:
        return _checked_messages(record["messages"], "messages")
    if "instruction" in record and "output" in record:
        instruction = _text(record, "instruction")
        given = "" if record.get("input") is None else _text(record, "input")
        prompt = f"{instruction}\n\n{given}" if given else instruction
        return _turn(prompt, _text(record, "output"))
    if "prompt" in record and "completion" in record:
        return _turn(_text(record, "prompt"), _text(record, "completion"))
    raise BadRecordError(
        f"expected 'messages', or 'instruction' and 'output', or 'prompt' and 'completion'; "
        f"{keys_of(record)}"
    )


def prompt_of(record: dict[str, Any]) -> tuple[dict[str, str], ...]:
    """Return the messages that wait for an answer.

    "prompt" is a text or a list of messages. "instruction" and perhaps "input" are a text, too.
    Raises BadRecordError if there is none, or if its last message is the assistant's.
    """
    if "prompt" not in record and "instruction" not in record:
        raise BadRecordError(f"expected 'prompt' or 'instruction'; {keys_of(record)}")
    if isinstance(record.get("prompt"), list):
        messages = _checked_messages(record["prompt"], "prompt")
    else:  # the forms of a conversation, whose answer comes later
        kinds = ("prompt", "instruction", "input")
        known = {kind: record[kind] for kind in kinds if kind in record}
        messages = messages_of({**known, "completion": "", "output": ""})[:-1]
    if messages[-1]["role"] == "assistant":
        raise BadRecordError(
            "the last message of 'prompt' is the assistant's: expected one that can be answered"
        )
    return messages


def _checked_messages(messages: Any, key: str) -> tuple[dict[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRecordError(f"{key!r} is not a list of at least one message")
    for number, message in enumerate(messages, 1):
        match message:
            case {"role": str(role), "content": str()} if role in ROLES:
                pass
            case {"role": str(role), "content": str()}:
                raise BadRecordError(
                    f"message {number} has the role {role!r}: expected {', '.join(ROLES)}"
                )
            case _:
                raise BadRecordError(
                    f"message {number} lacks a 'role' or a 'content' that is a string"
                )
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def _turn(prompt: str, answer: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise BadRecordError(f"{key!r} is not a string")
    text: str = record[key]
    return text


def left_out(what: str, lines: Sequence[int], limit: str, path: Path | None) -> list[str]:
    """Return a line about records that are too long, if any are, with the first of their lines."""
    if not lines:
        return []
    shown = ", ".join(map(str, lines[:_LINES_SHOWN])) + (", ..." if lines[_LINES_SHOWN:] else "")
    where = "" if path is None else f", at line {shown} of {path}"
    return [f"left out {count(len(lines), what)} longer than {limit}{where}"]


# ---- the split -----------------------------------------------------------------------------------


def prompt_key(conversation: Conversation) -> str:
    """Return what precedes the last answer, normalised: case, width of letters and spaces go."""
    return "\n".join(f"{m['role']}: {normalised(m['content'])}" for m in conversation.prompt)


def normalised(text: str) -> str:
    """Return a text in NFKC and lower case, with single spaces: equal for what reads the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_by_prompt(
    items: Sequence[T], key: Callable[[T], Hashable], val_fraction: float, seed: int
) -> tuple[list[T], list[T]]:
    """Split items into train and val, so that no key is on both sides. Both keep their order.

    About `val_fraction` of the items are val, at least one. Whole groups of equal keys, in an order
    drawn by `seed`, are val as long as they fit. Raises UserError if there is only one key.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(key(item), []).append(i)
    if len(groups) < 2:
        raise UserError(
            f"{count(len(items), 'record')} with {count(len(groups), 'different prompt')} can't be "
            f"split into train and val: give more prompts, or a file of others to validate on"
        )
    members = list(groups.values())
    wanted = val_fraction * len(items)
    val: set[int] = set()
    for group in np.random.default_rng(seed).permutation(len(members)):
        if len(val) + len(members[group]) <= wanted:
            val.update(members[group])
    if not val:
        smallest: list[int] = min(members, key=len)
        val.update(smallest)
    return (
        [item for i, item in enumerate(items) if i not in val],
        [item for i, item in enumerate(items) if i in val],
    )
