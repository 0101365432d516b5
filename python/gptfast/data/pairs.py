"""Preference data: two answers to a prompt, of which the first is better.

Legend: B pairs, T time; the axis of length 2 has the chosen answer, then the rejected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.conversations import (
    Conversation,
    errors_at,
    prompt_key,
    prompt_of,
    read_as,
    split_by_prompt,
)
from gptfast.data.documents.json_records import keys_of
from gptfast.data.documents.records import BadRecordError
from gptfast.data.shuffled import ShuffledSource, fingerprint_of
from gptfast.errors import UserError
from gptfast.tokenizer.chat import ChatTemplate


@dataclass(frozen=True)
class Pair:
    """A prompt, and a better and a worse answer to it."""

    messages: tuple[dict[str, str], ...]
    """The prompt: messages with "role" and "content", of which the last is not the assistant's."""
    chosen: str
    rejected: str
    line: int
    """Line of the file, or number of the element of its list, from 1."""

    def conversations(self) -> tuple[Conversation, Conversation]:
        """Return the prompt with the chosen answer, and with the rejected one."""
        chosen, rejected = (
            Conversation((*self.messages, {"role": "assistant", "content": answer}), self.line)
            for answer in (self.chosen, self.rejected)
        )
        return chosen, rejected


@dataclass(frozen=True)
class EncodedPair:
    """The ids of both conversations, and which of them belong to the answer, its end included.

    A conversation ends with its answer, as a sampled one does, whatever its template writes then.
    """

    ids: tuple[list[int], list[int]]
    counted: tuple[list[bool], list[bool]]

    @property
    def length(self) -> int:
        """Return the number of ids of the longer conversation."""
        return max(map(len, self.ids))


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs from JSON lines or a JSON list.

    A record has "chosen" and "rejected", which are texts, and a prompt: "prompt", a text or a list
    of messages, or "instruction" and perhaps "input". Raises MissingFileError, or UserError with
    the line of a record without them, and of one whose answers are the same.
    """
    return read_as(path, lambda record, line: Pair(prompt_of(record), *_answers(record), line))


def _answers(record: dict[str, Any]) -> tuple[str, str]:
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        raise BadRecordError(
            f"expected texts under 'chosen' and 'rejected'; {keys_of(record)}, of which "
            f"{'rejected' if isinstance(chosen, str) else 'chosen'!r} is missing or no text"
        )
    if chosen == rejected:
        raise BadRecordError(
            "'chosen' and 'rejected' are the same: expected two different answers; remove the "
            "record"
        )
    return chosen, rejected


@dataclass(frozen=True)
class PairSets:
    """Encoded pairs to train and to evaluate on."""

    train: list[EncodedPair]
    val: list[EncodedPair]
    n_left_out: int
    """Number of pairs that don't fit into the context."""
    n_shared: int = 0
    """Number of val pairs, the left-out ones too, whose prompt is trained on; 0 after a split."""

    def describe(self, block_size: int) -> str:
        """Return a one-line description."""
        line = f"pairs: {len(self.train):,} to train on, {len(self.val):,} to validate on"
        if self.n_left_out:
            line += f"; {self.n_left_out:,} left out, longer than the context of {block_size} ids"
        if self.n_shared:
            line += f"; {self.n_shared:,} val pairs have a prompt that is trained on, too"
        return line


def open_pairs(
    data: Path,
    val_data: Path | None,
    val_fraction: float,
    seed: int,
    template: ChatTemplate,
    block_size: int,
) -> PairSets:
    """Read and encode pairs. Without val_data, hold out a share of the prompts of `data`.

    Raises MissingFileError or UserError if they can't be read, or if none fits into block_size ids.
    """
    train, val = read_pairs(data), read_pairs(val_data) if val_data else []
    if val_data is None:
        train, val = split_by_prompt(train, key_of, val_fraction, seed)
    sets = PairSets(
        encode_pairs(train, template, block_size), encode_pairs(val, template, block_size), 0
    )
    for fitting, path in ((sets.train, data), (sets.val, val_data or data)):
        if not fitting:
            raise UserError(
                f"{path}: no pair fits into the context of {block_size} ids: expected shorter "
                f"ones, or a model with a longer context"
            )
    n_left_out = len(train) + len(val) - len(sets.train) - len(sets.val)
    trained_on = set(map(key_of, train))
    n_shared = sum(key_of(pair) in trained_on for pair in val)
    return replace(sets, n_left_out=n_left_out, n_shared=n_shared)


def key_of(pair: Pair) -> str:
    """Return what the split goes by: the normalised prompt."""
    return prompt_key(pair.conversations()[0])


def encode_pairs(
    pairs: Sequence[Pair], template: ChatTemplate, block_size: int
) -> list[EncodedPair]:
    """Encode the pairs of which both conversations fit into block_size ids.

    Only the last answer and its end token count. Raises UserError with the line of a pair that has
    no ids, or if the template can't be masked, or marks no token of an answer.
    """
    encoded = []
    for pair in pairs:
        with errors_at(f"line {pair.line} of the pairs"):
            (ids_c, counted_c), (ids_r, counted_r) = (
                template.encode_with_mask(conversation.messages)
                for conversation in pair.conversations()
            )
            if not (any(counted_c) and any(counted_r)):
                raise UserError(
                    "the chat template marks no token of an answer, not even its end: expected "
                    "answers that are not empty"
                )
        last_c, last_r = _last_run(counted_c), _last_run(counted_r)
        new = EncodedPair((ids_c[: len(last_c)], ids_r[: len(last_r)]), (last_c, last_r))
        if new.length <= block_size:
            encoded.append(new)
    return encoded


def _last_run(mask: list[bool]) -> list[bool]:
    """Return the mask up to its last True, with the last run of True alone: the last answer."""
    stop = len(mask) - mask[::-1].index(True)
    start = stop
    while start and mask[start - 1]:
        start -= 1
    return [i >= start for i in range(stop)]


# ---- batches -------------------------------------------------------------------------------------


def pair_batch(pairs: Sequence[EncodedPair], indices: Sequence[int]) -> Batch:
    """Return pairs as a batch whose rows are pairs, so that no micro-batch separates two answers.

    ids_BT and targets_BT are (B, 2, T) here; `as_rows` makes two rows of each pair. Both are filled
    up at the right: ids with 0, which causal attention hides, and targets with IGNORED. The targets
    are the ids that count, one place to the left. extras: "lengths", the number of ids of each
    conversation, (B, 2), and "index", the place of each pair in `pairs`, (B,).
    """
    # In NumPy: PyTorch would start a second set of OpenMP threads in the thread of the loader.
    shape = (len(indices), 2, max(pairs[i].length for i in indices))
    ids_B2T, targets_B2T = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    lengths_B2 = np.zeros(shape[:2], np.int64)
    for row, i in enumerate(indices):
        for side, (ids, counted) in enumerate(zip(pairs[i].ids, pairs[i].counted, strict=True)):
            n = lengths_B2[row, side] = len(ids)
            ids_B2T[row, side, :n] = ids
            targets_B2T[row, side, : n - 1] = np.where(counted[1:], ids[1:], IGNORED)
    extras = {"lengths": torch.from_numpy(lengths_B2), "index": torch.tensor(indices)}
    return Batch(torch.from_numpy(ids_B2T), torch.from_numpy(targets_B2T), extras=extras)


def as_rows(batch: Batch) -> Batch:
    """Return (2B, T) ids and targets for a batch of pairs: row 2i is chosen, row 2i + 1 rejected.

    extras: "lengths", (2B,).
    """
    lengths_R = batch.extras["lengths"].flatten()
    ids_RT, targets_RT = batch.ids_BT.flatten(0, 1), batch.targets_BT.flatten(0, 1)
    return Batch(ids_RT, targets_RT, extras={"lengths": lengths_R})


class PairSource(ShuffledSource):
    """Batches of the pairs to train on: in every epoch each pair once."""

    def __init__(
        self, pairs: PairSets, batch_size: int, seed: int, made_of: Sequence[str | None]
    ) -> None:
        """made_of: what else decides what is learned, for the fingerprint."""
        self.pairs, self.val = pairs.train, pairs.val
        encoded = [[asdict(pair) for pair in part] for part in (self.pairs, self.val)]
        super().__init__(
            len(self.pairs),
            batch_size,
            seed,
            lambda indices, _: pair_batch(self.pairs, indices),
            longest=max(range(len(self.pairs)), key=lambda i: self.pairs[i].length),
            fingerprint=fingerprint_of(*made_of, encoded),
        )
