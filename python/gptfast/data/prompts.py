"""Prompts for which a model samples its own completions, in reinforcement learning.

Legend: B prompts, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.conversations import (
    Conversation,
    errors_at,
    normalised,
    prompt_of,
    read_as,
    split_by_prompt,
)
from gptfast.data.shuffled import ShuffledSource
from gptfast.errors import UserError
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import ChatTemplate


@dataclass(frozen=True)
class Prompt:
    """A dialogue that waits for an answer, and the ids that the model continues."""

    messages: tuple[dict[str, str], ...]
    ids: list[int]
    line: int
    """Where it begins in its file, from 1; 0 if it has none."""

    @property
    def text(self) -> str:
        """What a reward sees: the content of the last message."""
        return self.messages[-1]["content"]


def read_prompts(path: Path) -> list[Conversation]:
    """Return the dialogue of each prompt of a file of JSON records.

    A record has "prompt", a text of the user or a list of messages, or "instruction" and perhaps
    "input". Other keys are ignored. Raises MissingFileError, or UserError with the line of a record
    without a prompt that can be answered.
    """
    return read_as(path, lambda record, line: Conversation(prompt_of(record), line))


def user_message(text: str, line: int = 0) -> Conversation:
    """Return the dialogue that consists of a text of the user."""
    return Conversation(({"role": "user", "content": text},), line)


def split_prompts(
    prompts: Sequence[Prompt], val_fraction: float, seed: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Split prompts into train and val; those that read the same are on one side."""

    def key(prompt: Prompt) -> tuple[str, ...]:
        return tuple(normalised(message["content"]) for message in prompt.messages)

    return split_by_prompt(prompts, key, val_fraction, seed)


def encode_prompts(
    prompts: Sequence[Conversation], tokenizer: Tokenizer, chat_template: str | None
) -> list[Prompt]:
    """Return the prompts as the model sees them.

    With a chat template, they are what precedes the assistant's answer. A model without one
    continues a single text of the user as it is. Raises UserError for other messages, or with the
    line of text that has no ids.
    """
    template = None if chat_template is None else ChatTemplate(chat_template, tokenizer)
    if template is None and any(len(one.messages) != 1 for one in prompts):
        raise UserError(
            "prompts of several messages need a model with a chat template: teach it one by "
            "`gptfast finetune sft` first"
        )
    if template is None and not all(one.messages[0]["content"] for one in prompts):
        raise UserError("a prompt is empty: without a chat template, the model has nothing to read")
    encoded = []
    for one in prompts:
        with errors_at(f"line {one.line} of the prompts" if one.line else "a prompt"):
            if template is not None:
                ids = template.encode(one.messages)
            else:
                ids = tokenizer.encode_ordinary(one.messages[0]["content"])
        encoded.append(Prompt(one.messages, ids, one.line))
    return encoded


def prompt_source(
    prompts: Sequence[Prompt], batch_size: int, seed: int, fingerprint: str, repeats: int = 1
) -> ShuffledSource:
    """Return a source of batches of prompts, each of which is drawn `repeats` times in a row.

    A batch has the extras "prompt", the index of each, and "draw", how many prompts were drawn
    before it in the run, of which the seeds of rollouts are made: int64 (B,).
    """

    def make(indices: Sequence[int], n_batches: int) -> Batch:
        index_B = torch.tensor(indices)
        rows = [torch.tensor(prompts[i].ids) for i in indices]
        ids_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        draw_B = n_batches * batch_size + torch.arange(len(indices))
        extras = {"prompt": index_B, "draw": draw_B}
        return Batch(ids_BT, torch.full_like(ids_BT, IGNORED), extras=extras)

    longest = max(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    return ShuffledSource(len(prompts), batch_size, seed, make, longest, fingerprint, repeats)
