"""What a vocabulary consists of, and how much of it a text uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.show import visible

_N_LISTED = 20


@dataclass(frozen=True)
class Token:
    """A token of the vocabulary, and how often the text uses it."""

    id: int
    shown: str
    n_bytes: int
    n_uses: int


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a vocabulary, without special tokens."""

    n_tokens: int
    n_never_used: int
    n_bytes_never_used: int
    """Unused tokens that are single bytes, which BPE keeps to be able to encode anything."""
    longest: list[Token]
    """Longest first; of equal length, the smaller id first."""
    never_used: list[Token]
    """Those of several bytes with the smallest ids: frequent in training, absent here."""
    used_by_length: dict[int, int]
    """Number of used tokens by length in bytes."""
    never_used_by_length: dict[int, int]


def ordinary_tokens(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Return the bytes of every ordinary token by id. Ids may have gaps."""
    special = set(tokenizer.special_tokens.values())
    tokens = {}
    for token_id in range(tokenizer.n_vocab):
        if token_id not in special:
            try:
                tokens[token_id] = tokenizer.token_bytes(token_id)
            except UserError:
                continue
    return tokens


def measure_vocabulary(tokenizer: Tokenizer, counts: Counter[bytes]) -> Vocabulary:
    """Return the tokens, and which of them the text with these `counts` uses."""
    tokens = ordinary_tokens(tokenizer)
    never_used = [i for i, token in tokens.items() if token not in counts]
    used = tokens.keys() - set(never_used)

    def listed(ids: Iterable[int]) -> list[Token]:
        first = list(ids)[:_N_LISTED]
        return [Token(i, visible(t), len(t), counts[t]) for i in first for t in [tokens[i]]]

    def by_length(ids: Iterable[int]) -> dict[int, int]:
        return dict(sorted(Counter(len(tokens[i]) for i in ids).items()))

    return Vocabulary(
        n_tokens=len(tokens),
        n_never_used=len(never_used),
        n_bytes_never_used=sum(len(tokens[i]) == 1 for i in never_used),
        longest=listed(sorted(tokens, key=lambda i: (-len(tokens[i]), i))),
        never_used=listed(i for i in sorted(never_used) if len(tokens[i]) > 1),
        used_by_length=by_length(used),
        never_used_by_length=by_length(never_used),
    )
