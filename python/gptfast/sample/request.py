"""What an engine is asked for, and what it has written of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from operator import index
from typing import Literal

import torch
from torch import Tensor

from gptfast.errors import UserError, check_at_least, shown
from gptfast.model.kv_cache import SavedRow
from gptfast.sample.config import SamplingConfig, check_seed
from gptfast.sample.processors import LogitsProcessor, processors_for
from gptfast.sample.sampling import TokenLogprob
from gptfast.sample.stopping import GrowingText

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how."""

    prompt: Sequence[int]
    """Token ids, at least one. The model sees the last block_size of them."""
    max_new_tokens: int
    """Most tokens to write; 0 only reads the prompt."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 1337
    stop_tokens: Collection[int] = ()
    """Each ends the text, and is not part of it."""
    stop: Sequence[str] = ()
    """Each ends the text before it. It may lie in the middle of a token, or across several."""
    processors: Sequence[LogitsProcessor] = ()
    """Applied in order, after the penalties and the bias, before the temperature."""
    top_logprobs: int | None = None
    """None: no log-probabilities; 0: that of each token; n: and those of the n likeliest."""
    prompt_logprobs: bool = False
    """Also those of the prompt's tokens, with top_logprobs beside each."""


def checked_prompt(request: Request, n_vocab: int) -> list[int]:
    """Return the ids of the prompt. Raise UserError if the request is impossible.

    n_vocab: number of ids that there are.
    """
    _check_types(request)
    try:
        prompt = [index(token) for token in request.prompt]
    except TypeError as error:
        raise UserError(
            f"the prompt is a {type(request.prompt).__name__} ({error}): expected token ids, for "
            f"instance from tokenizer.encode_ordinary(text)"
        ) from error
    if not prompt:
        raise UserError("the prompt is empty: expected at least one token to continue")
    for token in (min(prompt), max(prompt), *dict(request.sampling.logit_bias)):
        if not 0 <= token < n_vocab:
            raise UserError(f"a token id is {token}; expected 0 to {n_vocab - 1}")
    check_at_least("max_new_tokens", request.max_new_tokens, 0)
    check_seed(request.seed)
    if request.top_logprobs is not None:
        check_at_least("top_logprobs", request.top_logprobs, 0)
    if "" in request.stop:
        raise UserError("a stop string is empty: expected at least one character")
    return prompt


def _check_types(request: Request) -> None:
    """Raise UserError unless the fields that hold several things hold the right ones."""
    if not isinstance(request.sampling, SamplingConfig):
        raise UserError(
            f"sampling is a {type(request.sampling).__name__}: expected a SamplingConfig"
        )
    wanted: tuple[tuple[str, Callable[[object], bool], str], ...] = (
        ("stop", lambda one: isinstance(one, str), "several texts, such as ('the',)"),
        ("stop_tokens", lambda one: isinstance(one, Integral), "token ids, such as (0,)"),
        ("processors", callable, "several functions, such as (function,)"),
    )
    for name, is_right, expected in wanted:
        given = getattr(request, name)
        is_collection = isinstance(given, Collection) and not isinstance(given, str)
        if not is_collection or not all(map(is_right, given)):
            raise UserError(f"{name} is {shown(given)}: expected {expected}")


class Generation:
    """A text that follows a request's prompt, as far as it is written."""

    def __init__(self, request: Request, seed: int, prefix: Prefix) -> None:
        self.request = request
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        """One for each id, if the request asks for them."""
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        """One for each token of the prompt; None for the first, and for those out of sight."""
        self.finish_reason: FinishReason | None = None
        """None while the text is written."""
        self.stopped_by: str | int | None = None
        """The stop string or the stop token that ended the text."""
        self.stop_logprob: TokenLogprob | None = None
        """The stop token's log-probability, if one ended the text and the request asks for them."""
        self.error: UserError | None = None
        # What follows is the engine's.
        self._row: int | None = None  # in the cache, while it runs
        self._is_complete = False  # as a processor says
        self._context = list(prefix.prompt)
        self._text = GrowingText(request.stop)
        self._generator = torch.Generator().manual_seed(seed)
        self._processors = [
            *processors_for(request.sampling, len(prefix.prompt)),
            *map(copy.copy, request.processors),
        ]
        self._prefix: Prefix | None = prefix  # until it runs

    @property
    def text(self) -> str:
        """The text that may be shown: whole characters, and no beginning of a stop string."""
        return self._text.shown

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the tokens, in nats, that of the stop token included.

        The best of several continuations is the one with the largest. A text without any token has
        -inf. Raises UserError if the request asks for no log-probabilities.
        """
        if self.request.top_logprobs is None:
            raise UserError("there are no log-probabilities: ask for them with top_logprobs=0")
        end = [] if self.stop_logprob is None else [self.stop_logprob]
        values = [token.logprob for token in [*self.logprobs, *end]]
        return sum(values) / len(values) if values else -math.inf


@dataclass
class Prefix:
    """A prompt that n continuations share: what the first of them computed of it."""

    prompt: list[int]
    n: int
    logits_V: Tensor | None = None
    logprobs: list[TokenLogprob | None] | None = None
    row: SavedRow | None = None
    """The cache after the prompt; None while it is not computed, and if n is 1."""
