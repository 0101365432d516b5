"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from gptfast.serve.errors import ApiError


@dataclass(frozen=True)
class Limits:
    """The bounds of a server."""

    block_size: int
    """The model's context in tokens."""
    n_slots: int
    """Texts that are written at once."""
    max_waiting: int
    """Texts that may wait for a slot."""
    body_bytes: int = 2**20
    body_seconds: float = 30.0
    """How long a client may take to send a body."""

    @property
    def most_continuations(self) -> int:
        """The most texts that one request may ask for."""
        return self.n_slots + self.max_waiting


def room_for(n_prompt: int, block_size: int) -> int:
    """Return the most tokens that can follow a prompt. The last needs no place in the context."""
    return block_size - n_prompt + 1


def check_length(n_prompt: int, max_tokens: int, block_size: int, param: str) -> None:
    """Raise ApiError (400) if a prompt and what is to follow it exceed the context."""
    room = room_for(n_prompt, block_size)
    if max_tokens <= room and n_prompt <= block_size:
        return
    message = (
        f"the context has {block_size} tokens, but the {param} has {n_prompt} and max_tokens is "
        f"{max_tokens}: expected max_tokens of at most {max(room, 0)}, or a shorter {param}"
    )
    raise ApiError(400, message, param=param, code="context_length_exceeded")
