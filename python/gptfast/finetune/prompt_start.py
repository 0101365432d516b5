"""Open what the methods start with that learn from the model's own answers to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptfast.cli.units import count
from gptfast.data.conversations import Conversation, left_out
from gptfast.data.prompts import (
    Prompt,
    encode_prompts,
    read_prompts,
    split_prompts,
    user_message,
)
from gptfast.data.verifiable.tasks import VerifiableTask
from gptfast.errors import UserError
from gptfast.finetune.settings.rollouts import RolloutConfig
from gptfast.finetune.start import Start, open_start
from gptfast.sample.rollouts import seed_of
from gptfast.train.distributed import World
from gptfast.train.evaluate import spread

_EVALUATION = 2**62
"""Stands for the number of a draw in the seeds of evaluations."""


def open_prompt_start(
    config: RolloutConfig, task: VerifiableTask | None, n_unread: int
) -> tuple[Start, list[Prompt], list[Prompt], list[str]]:
    """Return the start, the prompts to train on, those to validate on, and lines about them.

    task: brings the prompts if the settings name no file. n_unread: tokens at the end of an answer
    that nothing reads: 1, or 0 with a reward model. Prompts that leave no room for an answer are
    left out. Raises UserError or MissingFileError if there are none to learn from.
    """
    start = open_start(config)
    if not start.tokenizer.stop_tokens:
        raise UserError(
            f"the tokenizer of {config.model} has no token that ends an answer: start from a model "
            f"that `gptfast finetune sft` made"
        )
    files = [path for path in (config.prompts, config.val_prompts) if path is not None]
    if files:
        found = [_that_fit(config, start, n_unread, read_prompts(path), path) for path in files]
    elif task is not None:
        asked = [[user_message(p.prompt) for p in task.problems(of)] for of in ("train", "val")]
        if not all(asked):
            raise UserError(
                f"the task {task.name!r} brings {len(asked[0])} prompts to train on and "
                f"{len(asked[1])} to validate on: give --prompts FILE"
            )
        found = [_that_fit(config, start, n_unread, prompts, None) for prompts in asked]
    else:
        raise UserError("prompts are missing, and the reward brings none: give --prompts FILE")
    notes = [note for _, about in found for note in about]
    if len(files) == 1:
        train, val = split_prompts(found[0][0], config.val_fraction, config.seed)
    else:
        (train, _), (val, _) = found
    known = {tuple(prompt.ids) for prompt in train}
    if n_both := sum(tuple(prompt.ids) in known for prompt in val):
        notes.append(f"prompts both trained and validated on: {n_both:,}")
    described = f"train on {count(len(train), 'prompt')}, validate on {len(val):,}"
    return start, train, val, [described, *notes]


def _that_fit(
    config: RolloutConfig,
    start: Start,
    n_unread: int,
    prompts: Sequence[Conversation],
    path: Path | None,
) -> tuple[list[Prompt], list[str]]:
    """Return the prompts that leave room for an answer, and a line about the others."""
    encoded = encode_prompts(prompts, start.tokenizer, start.chat_template)
    block_size, longest = start.config.block_size, config.max_new_tokens
    room = max(0, block_size + n_unread - longest)
    too_long = [prompt.line for prompt in encoded if len(prompt.ids) > room]
    if len(too_long) == len(encoded):
        raise UserError(
            f"{path or 'the task'}: none of {count(len(encoded), 'prompt')} has at most {room} "
            f"tokens, which leave room for max_new_tokens {longest} in the context of "
            f"{block_size}: give shorter prompts, or fewer max_new_tokens"
        )
    limit = f"{room} tokens, with {longest} for the answer in the context of {block_size}"
    notes = left_out("prompt", too_long, limit, path)
    return [prompt for prompt in encoded if len(prompt.ids) <= room], notes


def val_share(
    config: RolloutConfig, val: Sequence[Prompt], world: World, *, whole: bool
) -> tuple[list[Prompt], list[int]]:
    """Return the val prompts that this process answers, and the seed of each: always the same."""
    mine = spread(len(val), None if whole else config.eval_windows)[world.rank :: world.size]
    return [val[i] for i in mine], [seed_of(config.seed, _EVALUATION, i) for i in mine]
