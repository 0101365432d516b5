"""Logits processors, which see the ids so far and change the logits of the next token.

They are the one hook into sampling. Temperature, top-k, top-p and min-p, which need no ids, follow
them in `sampling.distribution`, for all rows of a batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.sample.config import SamplingConfig


class ProcessorError(UserError):
    """A processor can't go on with a text, or allows no token."""


class EndOfText(Exception):
    """Raised by a processor when the text is complete. It ends with the reason "stop"."""


class LogitsProcessor(Protocol):
    """A function (ids, logits_V) -> logits_V.

    ids: the prompt and what follows it. logits_V: float logits of the next token; -inf forbids one.
    Return new logits; leave those given as they are. Each continuation gets its own `copy.copy` of
    a processor, so one that keeps state may give a `__copy__`.
    """

    def __call__(self, ids: Sequence[int], logits_V: Tensor, /) -> Tensor:
        """Return the logits (V,) from which the next token is drawn."""
        ...


def processors_for(sampling: SamplingConfig, n_prompt: int) -> list[LogitsProcessor]:
    """Return the processors that a configuration asks for, in order."""
    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenalty(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
        processors.append(PresenceFrequencyPenalty(presence, frequency, n_prompt))
    if sampling.logit_bias:
        processors.append(LogitBias(dict(sampling.logit_bias)))
    return processors


class RepetitionPenalty:
    """Makes all tokens so far less likely: divides logits above 0, multiplies those below.

    "CTRL" (Keskar et al., 2019), section 4.1, as in `transformers`, which also multiplies.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, ids: Sequence[int], logits_V: Tensor) -> Tensor:
        """Return the logits (V,) with those of the ids changed."""
        seen = [token for token in set(ids) if token < len(logits_V)]
        index = torch.tensor(seen, device=logits_V.device)
        logits = logits_V[index]
        changed = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return logits_V.index_copy(0, index, changed)


class PresenceFrequencyPenalty:
    """Subtracts `presence` from the logit of each token in the text, and `frequency` per time.

    As OpenAI defines them, the prompt does not count.
    """

    def __init__(self, presence: float, frequency: float, n_prompt: int) -> None:
        self.presence, self.frequency, self.n_prompt = presence, frequency, n_prompt

    def __call__(self, ids: Sequence[int], logits_V: Tensor) -> Tensor:
        """Return the logits (V,) minus the penalties."""
        index = torch.tensor(ids[self.n_prompt :], dtype=torch.long, device=logits_V.device)
        counts_V = torch.zeros_like(logits_V).index_add(0, index, logits_V.new_ones(len(index)))
        return logits_V - counts_V * self.frequency - (counts_V > 0) * self.presence


class LogitBias:
    """Adds a number to the logits of given tokens."""

    def __init__(self, bias: dict[int, float]) -> None:
        self.bias = bias

    def __call__(self, ids: Sequence[int], logits_V: Tensor) -> Tensor:
        """Return the logits (V,) plus the bias. The ids don't matter."""
        index = torch.tensor([*self.bias], device=logits_V.device)
        bias = torch.tensor([*self.bias.values()], device=logits_V.device, dtype=logits_V.dtype)
        return logits_V.index_add(0, index, bias)
