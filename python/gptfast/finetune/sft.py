"""Supervised fine-tuning: learn to answer from examples of conversations.

Only the answers and the tokens that end them are targets. Conversations share rows, and none sees
another (data/packing.py). The loss is that of pre-training, over fewer targets.

Legend: B batch, T time, V vocabulary, N counted targets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch.nn import functional as F

from gptfast.cli.units import count, number
from gptfast.data.batch import IGNORED, Batch
from gptfast.data.conversations import (
    Conversation,
    check_answers,
    prompt_key,
    read_conversations,
    split_by_prompt,
)
from gptfast.data.packing import Example, PackedRows, PackedSource
from gptfast.errors import UserError
from gptfast.finetune.chat_start import open_chat_start
from gptfast.finetune.settings.sft import SFTConfig
from gptfast.finetune.start import Start
from gptfast.model.base import LanguageModel
from gptfast.sample.generate import stream
from gptfast.sample.request import Request
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import ChatTemplate
from gptfast.train.display import WriteSample
from gptfast.train.distributed import World
from gptfast.train.evaluate import sums_over
from gptfast.train.objective import Evaluation, NextToken, Task

LOGITS = 1 << 26
"""Most logits of an evaluation at once: 256 MiB in float32."""
SAMPLE_TOKENS = 150
_LINES_SHOWN = 5


def prepare(config: SFTConfig, console: Console) -> Task:
    """Read the conversations. Raises UserError or MissingFileError if they can't be trained on."""
    start = open_chat_start(config, console)
    assert start.chat_template is not None
    if start.config.architecture != "gpt":
        raise UserError(
            f"the model in {config.model} is a {start.config.architecture!r}: sft needs a GPT, in "
            f"which conversations of a row don't see each other"
        )
    template = ChatTemplate(start.chat_template, start.tokenizer)
    train, val = open_chats(config, template, start)
    source = PackedSource(
        train.rows, config.batch_size, config.seed, fingerprint(start, train.rows, val.rows)
    )
    return Task(
        source=source,
        objective=AnswerTokens(config, val.rows, start.config.vocab_size),
        tokenizer=start.tokenizer,
        new_model=start.new_model(),
        chat_template=start.chat_template,
        record={"start_sha256": start.sha256, "data": {"train": train.record, "val": val.record}},
        notes=[*train.notes("train on"), *val.notes("validate on"), describe_length(config, train)],
        examine=lambda: shared_prompts(train, val),
        write_sample=answer_writer(template, val.conversations, config.seed),
    )


# ---- the data ------------------------------------------------------------------------------------


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
        lines = [
            f"{purpose} {count(len(self.conversations), 'conversation')} of {self.path}: "
            f"{rows.n_tokens:,} tokens, {rows.n_targets:,} of them of answers, in "
            f"{count(len(rows), 'row')} of {rows.block_size:,}; {rows.share_used:.1%} of the "
            f"positions are used"
        ]
        if self.too_long:
            shown = ", ".join(map(str, self.too_long[:_LINES_SHOWN]))
            more = ", ..." if len(self.too_long) > _LINES_SHOWN else ""
            lines.append(
                f"left out {count(len(self.too_long), 'conversation')} longer than the context of "
                f"{rows.block_size:,} tokens, at line {shown}{more} of {self.path}"
            )
        return lines


def open_chats(config: SFTConfig, template: ChatTemplate, start: Start) -> tuple[Chats, Chats]:
    """Read, split and pack the conversations to train on and those to validate on."""
    conversations = read_conversations(config.data)
    check_answers(config.data, conversations)
    block_size = start.config.block_size
    if config.val_data is None:
        train, val = split_by_prompt(conversations, prompt_key, config.val_fraction, config.seed)
        return (
            pack(config.data, train, template, block_size),
            pack(config.data, val, template, block_size),
        )
    val = read_conversations(config.val_data)
    check_answers(config.val_data, val)
    return (
        pack(config.data, conversations, template, block_size),
        pack(config.val_data, val, template, block_size),
    )


def pack(
    path: Path, conversations: Sequence[Conversation], template: ChatTemplate, block_size: int
) -> Chats:
    """Encode conversations of a file and pack them, but for those that don't fit into a row.

    Raises UserError, with the line, for one that the template refuses or has no target in, and if
    none fits.
    """
    kept: list[Conversation] = []
    examples: list[Example] = []
    too_long: list[int] = []
    for conversation in conversations:
        example = encode(path, conversation, template)
        if len(example.ids) > block_size + 1:
            too_long.append(conversation.line)
        else:
            kept.append(conversation)
            examples.append(example)
    if not kept:
        raise UserError(
            f"{path}: all of {count(len(too_long), 'conversation')} are longer than the context of "
            f"{block_size:,} tokens: give shorter ones, or a model with a longer context"
        )
    fill = template.tokenizer.role_id("pad") or 0
    return Chats(path, kept, PackedRows(examples, block_size, fill), too_long)


def encode(path: Path, conversation: Conversation, template: ChatTemplate) -> Example:
    """Return the ids of a conversation, and which of them are of answers."""
    try:
        ids, mask = template.encode_with_mask(conversation.messages)
        if not any(mask[1:]):
            raise UserError("the chat template marks no token of an answer")
    except UserError as error:
        raise UserError(f"{path}, line {conversation.line}: {error}") from None
    return Example(np.array(ids, dtype=np.int64), np.array(mask, dtype=np.bool_))


def fingerprint(start: Start, *parts: PackedRows) -> str:
    """Return a checksum of the data, the tokenizer and the model to start from."""
    made_of = [start.sha256, start.tokenizer.fingerprint, *(rows.sha256 for rows in parts)]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def describe_length(config: SFTConfig, train: Chats) -> str:
    """Return a line about the length of the run, in epochs."""
    epochs = number(config.max_steps * config.batch_size / len(train.rows))
    return (
        f"{count(config.max_steps, 'step')} of {count(config.batch_size, 'row')}: {epochs} epochs"
    )


def shared_prompts(train: Chats, val: Chats) -> Iterator[str]:
    """Say how many val prompts are trained on, too; none after a split by prompt."""
    trained_on = set(map(prompt_key, train.conversations))
    n = sum(prompt_key(conversation) in trained_on for conversation in val.conversations)
    if n:
        yield (
            f"note: {n:,} of {count(len(val.conversations), 'prompt')} of {val.path} are in "
            f"{train.path}, too: the val loss shows less of what is learned for new ones"
        )


# ---- evaluation ----------------------------------------------------------------------------------


class AnswerTokens(NextToken):
    """Next-token prediction, with the loss and the share of right guesses over val answers."""

    def __init__(self, config: SFTConfig, val: PackedRows, vocab_size: int) -> None:
        self.config, self.val = config, val
        self.rows_at_once = max(1, LOGITS // (val.block_size * vocab_size))

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the mean loss in nats per token of the val answers, and how many are guessed."""
        batches = self.val.batches(
            min(self.rows_at_once, self.config.windows_at_a_time(world.size)),
            None if whole else self.config.eval_windows,
        )
        total, right, n = sums_over(model, batches, answer_sums, world)
        loss, accuracy = total / n, right / n
        summary = f"val loss {loss:.4f} nats/answer token, {accuracy:.1%} of them guessed right"
        return Evaluation(loss, {"val_accuracy": accuracy}, summary)


def answer_sums(model: LanguageModel, batch: Batch) -> tuple[float, float, float]:
    """Return over the counted targets: the sum of losses, the right guesses, the number."""
    is_counted_BT = batch.targets_BT != IGNORED
    targets_N = batch.targets_BT[is_counted_BT]
    logits_NV = model(batch.ids_BT, None, batch.cu_seqlens)[is_counted_BT].float()
    loss = F.cross_entropy(logits_NV, targets_N, reduction="sum").item()
    return loss, float((logits_NV.argmax(-1) == targets_N).sum()), float(len(targets_N))


def answer_writer(
    template: ChatTemplate, conversations: Sequence[Conversation], seed: int
) -> WriteSample:
    """Return what shows a held-out prompt and the model's answer, the same prompt each time."""
    messages = conversations[0].messages
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    asked = messages[last - 1]["content"] if last else ""

    def write(model: LanguageModel, tokenizer: Tokenizer) -> str:
        try:
            prompt, stops = template.encode(messages[:last]), tokenizer.stop_tokens
            request = Request(prompt, SAMPLE_TOKENS, seed=seed, stop_tokens=stops)
            answer = "".join(stream(model, tokenizer, request))
        except UserError as error:  # a sample must not end a run
            answer = f"(no sample: {error})"
        return f"> {asked}\n{answer}"

    return write
