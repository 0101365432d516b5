"""Rollouts: completions that a model samples from its own distribution, to be trained on.

Temperature 1 and no filters: the distribution that is sampled is the one that is trained.

Legend: B rollouts, T time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptfast.data.batch import IGNORED
from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.model.dropout import eval_mode
from gptfast.model.lora_merge import merged_for_a_while
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate_batch
from gptfast.sample.request import Generation, Request
from gptfast.tokenizer import Tokenizer

N_SLOTS = 64
"""Most completions that grow at once."""
UNBIASED, GREEDY = SamplingConfig(temperature=1.0), SamplingConfig(temperature=0.0)


@dataclass(frozen=True)
class Rollout:
    """A completion of a prompt."""

    prompt_ids: list[int]
    ids: list[int]
    """The ids after the prompt, with the stop token if one ended the completion."""
    logprobs: list[float]
    """The log-probability of each of the ids when it was drawn, in nats."""
    finished: bool
    """Whether a stop token ended it. Otherwise it was cut off."""

    def text(self, tokenizer: Tokenizer) -> str:
        """Return the completion without the stop token. An id of no token is U+FFFD."""
        ids = self.ids[:-1] if self.finished else self.ids
        known = [[id] if id < tokenizer.n_vocab else None for id in ids]
        if None not in known:
            return tokenizer.decode(ids)
        return "".join("\ufffd" if id is None else tokenizer.decode(id) for id in known)


def roll_out(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    n: int,
    max_new_tokens: int,
    seeds: Sequence[int],
    stop_tokens: Collection[int],
    sampling: SamplingConfig = UNBIASED,
) -> list[Rollout]:
    """Return n completions of each prompt, those of a prompt together.

    seeds: one for each prompt, from `seed_of`. They alone decide, with the weights, what is drawn:
    neither other prompts nor the number of processes matter. sampling: other options only to
    evaluate, such as temperature 0. Raises UserError if a prompt and its completion don't fit into
    the context, which would hide the prompt's beginning.
    """
    if not prompts:
        return []
    check_room(model.config.block_size, max(map(len, prompts)), max_new_tokens)
    requests = [
        Request(prompt, max_new_tokens, sampling, seed, stop_tokens, top_logprobs=0)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    n_slots = min(N_SLOTS, n * len(prompts))
    with eval_mode(model), merged_for_a_while(model):
        # Without the tokenizer, all rows of the vocabulary can be drawn, as in training.
        groups = generate_batch(model, None, requests, n=n, n_slots=n_slots)
    return [_rollout(one) for group in groups for one in group]


def _rollout(generation: Generation) -> Rollout:
    known, end = list(generation.logprobs), generation.stop_logprob
    if end is not None:
        known.append(end)
    ids, logprobs = [token.token for token in known], [token.logprob for token in known]
    return Rollout(list(generation.request.prompt), ids, logprobs, end is not None)


def padded_rows(rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and the log-probabilities of the targets at sampling time, (B, T).

    Inputs and targets are int64. A target that is no part of a completion is IGNORED.
    """
    T = max(len(one.prompt_ids) + len(one.ids) for one in rollouts) - 1
    ids_BT = torch.zeros(len(rollouts), T, dtype=torch.int64)
    targets_BT = torch.full_like(ids_BT, IGNORED)
    logprobs_BT = torch.zeros(len(rollouts), T)
    for i, one in enumerate(rollouts):
        read = torch.tensor([*one.prompt_ids, *one.ids[:-1]])
        ids_BT[i, : len(read)] = read
        targets_BT[i, len(one.prompt_ids) - 1 : len(read)] = torch.tensor(one.ids)
        logprobs_BT[i, len(one.prompt_ids) - 1 : len(read)] = torch.tensor(one.logprobs)
    return ids_BT, targets_BT, logprobs_BT


def seed_of(*numbers: int) -> int:
    """Return a seed for `roll_out` of numbers such as the run's seed and a prompt's place in it."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_room(block_size: int, n_prompt: int, max_new_tokens: int) -> None:
    """Raise UserError unless a prompt of n_prompt tokens and its completion fit into the context.

    The last token of a completion is drawn, but never read.
    """
    if n_prompt + max_new_tokens - 1 > block_size:
        room = block_size + 1 - n_prompt
        advice = f", or max_new_tokens of at most {room}" if room > 0 else ""
        raise UserError(
            f"max_new_tokens is {max_new_tokens}, but a prompt has {n_prompt} tokens and the "
            f"model's context {block_size}: give shorter prompts{advice}"
        )
