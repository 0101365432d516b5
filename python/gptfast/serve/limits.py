"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from gptfast.serve.errors import ApiError

MOST_TEXTS = 128
"""The most texts of one request, as many as OpenAI's `n` may be."""
MOST_LOGPROBS = 2**18
"""The most log-probabilities in one answer. These take about 7 MB."""


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """How a request may arrive."""

    body_bytes: int = 2**20
    body_seconds: float = 30.0
    """How long a client may take to send a body."""


@dataclass(frozen=True)
class Limits(BodyLimits):
    """The bounds of a server of a model."""

    block_size: int
    """The model's context in tokens."""
    n_slots: int
    """Texts that are written at once."""
    max_waiting: int
    """Texts that may wait for a slot."""

    @property
    def n_places(self) -> int:
        """The most texts of all requests that are written or wait."""
        return self.n_slots + self.max_waiting

    @property
    def most_continuations(self) -> int:
        """The most texts that one request may ask for."""
        return min(MOST_TEXTS, self.n_places)


def room_for(n_prompt: int, block_size: int) -> int:
    """Return the most tokens that can follow a prompt. The last needs no place in the context."""
    return block_size - n_prompt + 1


def check_length(n_prompt: int, max_tokens: int, block_size: int, param: str) -> None:
    """Raise ApiError (400) if a prompt, or it and what is to follow it, exceed the context."""
    room = room_for(n_prompt, block_size)
    has = "have" if param.endswith("s") else "has"
    message = f"the context has {block_size} tokens, but the {param} {has} {n_prompt}"
    if n_prompt > block_size:
        message += ": send a shorter text"
    elif max_tokens > room:
        message += f" and max_tokens is {max_tokens}: send at most {room}, or a shorter text"
    else:
        return
    raise ApiError(400, message, param=param, code="context_length_exceeded")


def check_logprobs(n_tokens: int, top: int) -> None:
    """Raise ApiError (400) if an answer may hold too many log-probabilities.

    n_tokens: at most how many tokens get some. top: how many each gets beside its own.
    """
    asked = n_tokens * (1 + top)
    if asked > MOST_LOGPROBS:
        message = (
            f"the answer may have {asked} log-probabilities: expected at most {MOST_LOGPROBS}; "
            f"ask for fewer texts, tokens or logprobs at once"
        )
        raise ApiError(400, message, param="logprobs")
