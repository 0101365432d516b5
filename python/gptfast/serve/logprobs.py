"""Log-probabilities in the two shapes of OpenAI: that of completions, and that of chats."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gptfast.sample.sampling import TokenLogprob
from gptfast.tokenizer import Tokenizer

LOWEST = -9999.0
"""What stands for minus infinity, which JSON lacks; OpenAI's number."""


@dataclass(frozen=True)
class Placed:
    """A token, and where the text of its first character begins."""

    token_id: int
    offset: int
    logprob: TokenLogprob | None
    """None for the first token of a prompt, which nothing predicts."""


class Placer:
    """Finds the offsets of a continuation's tokens, and holds back those whose text is held back.

    The engine holds back text that may be the beginning of a stop string, and bytes of an
    incomplete character. The tokens of the stop string itself are never released.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = tokenizer.stream_decoder()
        self._held: deque[Placed] = deque()
        self._n_decoded = 0
        self._n_shown = 0

    def add(self, logprobs: Iterable[TokenLogprob], text: str) -> list[Placed]:
        """Return the tokens that begin in the text so far, `text` included."""
        self._n_shown += len(text)
        for logprob in logprobs:
            self._held.append(Placed(logprob.token, self._n_decoded, logprob))
            self._n_decoded += len(self._decoder.feed(logprob.token))
        released = []
        while self._held and self._held[0].offset < self._n_shown:
            released.append(self._held.popleft())
        return released


def place_prompt(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]
) -> list[Placed]:
    """Return all tokens of a prompt with their offsets."""
    decoder, offset, placed = tokenizer.stream_decoder(), 0, []
    for token_id, logprob in zip(ids, logprobs, strict=True):
        placed.append(Placed(token_id, offset, logprob))
        offset += len(decoder.feed(token_id))
    return placed


def of_completion(tokenizer: Tokenizer, placed: Sequence[Placed], begin: int) -> dict[str, Any]:
    """Return the `logprobs` of a completion. begin: what to add to the offsets."""
    return {
        "tokens": [spelled(tokenizer.token_bytes(p.token_id)) for p in placed],
        "token_logprobs": [
            None if p.logprob is None else _finite(p.logprob.logprob) for p in placed
        ],
        "top_logprobs": [None if p.logprob is None else _top(tokenizer, p.logprob) for p in placed],
        "text_offset": [begin + p.offset for p in placed],
        "token_ids": [p.token_id for p in placed],
    }


def of_chat(tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
    """Return the `logprobs` of a message."""
    content = [
        _of_token(tokenizer, p.logprob.token, p.logprob.logprob)
        | {"top_logprobs": [_of_token(tokenizer, *pair) for pair in p.logprob.top]}
        for p in placed
        if p.logprob is not None
    ]
    return {"content": content, "refusal": None}


def spelled(token: bytes) -> str:
    r"""Return a token's text or, if it is not whole characters, its bytes: `bytes:\xe2\x82`."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _top(tokenizer: Tokenizer, logprob: TokenLogprob) -> dict[str, float]:
    """Return the likeliest tokens and the one that was drawn. Equal spellings keep the likelier."""
    found: dict[str, float] = {}
    for token_id, value in [*logprob.top, (logprob.token, logprob.logprob)]:
        found.setdefault(spelled(tokenizer.token_bytes(token_id)), _finite(value))
    return found


def _of_token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    text = data.decode("utf-8", errors="replace")
    return {"token": text, "logprob": _finite(logprob), "bytes": list(data)}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
