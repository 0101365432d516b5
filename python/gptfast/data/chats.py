"""Conversations as rows to learn from: read, split, encoded by a chat template, and packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.cli.units import count
from gptfast.data.conversations import (
    Conversation,
    check_answers,
    errors_at,
    left_out,
    prompt_key,
    read_conversations,
    split_by_prompt,
)
from gptfast.data.packing import Example, PackedRows
from gptfast.errors import UserError
from gptfast.tokenizer.chat import ChatTemplate

_Encoded = tuple[Conversation, Example]


@dataclass(frozen=True)
class Chats:
    """Conversations of a file, and the rows that they are packed into."""

    path: Path
    conversations: list[Conversation]
    """Those that fit into the context."""
    rows: PackedRows
    too_long: list[int]
    """The lines of those that don't fit, which are left out."""

    @property
    def record(self) -> dict[str, Any]:
        """The counts, for run.json."""
        return {
            "conversations": len(self.conversations),
            "left_out": len(self.too_long),
            "tokens": self.rows.n_tokens,
            "answer_tokens": self.rows.n_targets,
            "rows": len(self.rows),
            "positions_used": self.rows.share_used,
        }

    def notes(self, purpose: str) -> list[str]:
        """Return a line about the conversations, and one about those that are left out."""
        rows = self.rows
        line = (
            f"{purpose} {count(len(self.conversations), 'conversation')} of {self.path}: "
            f"{rows.n_tokens:,} tokens, {rows.n_targets:,} of them of answers, in "
            f"{count(len(rows), 'row')} of {rows.block_size:,}; {rows.share_used:.1%} of the "
            f"positions are used"
        )
        limit = f"the context of {rows.block_size:,} tokens"
        return [line, *left_out("conversation", self.too_long, limit, self.path)]


def open_chats(
    data: Path,
    val_data: Path | None,
    val_fraction: float,
    seed: int,
    template: ChatTemplate,
    block_size: int,
) -> tuple[Chats, Chats]:
    """Read and pack the conversations to train on and those to validate on.

    val_data: None to hold out `val_fraction` of those of `data` that fit into a row, split by
    prompt. Raises MissingFileError, or UserError for what can't be learned.
    """
    train, too_long = _read(data, template, block_size)
    val_too_long: list[int] = []
    if val_data is None:
        train, val = split_by_prompt(train, lambda one: prompt_key(one[0]), val_fraction, seed)
    else:
        val, val_too_long = _read(val_data, template, block_size)
    fill = template.tokenizer.role_id("pad") or 0

    def pack(path: Path, encoded: Sequence[_Encoded], too_long: list[int]) -> Chats:
        conversations, examples = zip(*encoded, strict=True)
        return Chats(path, list(conversations), PackedRows(examples, block_size, fill), too_long)

    return pack(data, train, too_long), pack(val_data or data, val, val_too_long)


def _read(path: Path, template: ChatTemplate, block_size: int) -> tuple[list[_Encoded], list[int]]:
    """Return the conversations of a file that fit into a row, and the lines of the others.

    Raises MissingFileError, UserError with the line of one that can't be learned, and UserError if
    none fits.
    """
    conversations = read_conversations(path)
    check_answers(path, conversations)
    encoded = [(one, encode(path, one, template)) for one in conversations]
    kept = [(one, example) for one, example in encoded if len(example.ids) <= block_size + 1]
    if not kept:
        raise UserError(
            f"{path}: no conversation fits into the context of {block_size:,} tokens: give shorter "
            f"ones, or a model with a longer context"
        )
    too_long = [one.line for one, example in encoded if len(example.ids) > block_size + 1]
    return kept, too_long


def encode(path: Path, conversation: Conversation, template: ChatTemplate) -> Example:
    """Return the ids of a conversation, and which of them are of answers."""
    with errors_at(f"{path}, line {conversation.line}"):
        ids, mask = template.encode_with_mask(conversation.messages)
        if not any(mask[1:]):
            raise UserError("the chat template marks no token of an answer")
    return Example(np.array(ids, dtype=np.int64), np.array(mask, dtype=np.bool_))


def shared_prompts(train: Chats, val: Chats) -> Iterator[str]:
    """Say how many val prompts are trained on, too; none after a split by prompt."""
    trained_on = set(map(prompt_key, train.conversations))
    n = sum(prompt_key(conversation) in trained_on for conversation in val.conversations)
    if n:
        yield (
            f"note: {n:,} of {count(len(val.conversations), 'prompt')} of {val.path} are in "
            f"{train.path}, too: the val loss shows less of what is learned for new ones"
        )
