"""Byte-level BPE in fifty lines: the definition that the Rust code is tested against.

A piece is the UTF-8 of one pre-token. Ids 0 to 255 are bytes; merge i makes the id 256 + i.

It leaves out what vocabularies of other projects have: ids that are not in the order of the merges,
merges that are listed apart from the tokens, characters instead of bytes (byte_fallback), unknown
bytes and characters, whole pre-tokens that are looked up before merging (ignore_merges), added
tokens, normalizers and templates. Tests compare these with `tokenizers` and `rust/src/naive.rs`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

Pair = tuple[int, int]


def train(
    pieces: Iterable[bytes],
    n_merges: int,
    min_frequency: int = 1,
    forbidden: Collection[bytes] = (),
) -> list[Pair]:
    """Merge the most frequent pair repeatedly; of equals, the smallest pair of ids.

    A pair that would make a forbidden token, such as the name of a special token, is never merged.
    """
    words = [tuple(piece) for piece in pieces]
    merges: list[Pair] = []
    for new_id in range(256, 256 + n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        allowed = (p for p in counts if not forbidden or decode(p, merges) not in forbidden)
        best = min(allowed, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_frequency:
            break
        merges.append(best)
        words = [merge(word, best, new_id) for word in words]
    return merges


def merge(word: Sequence[int], pair: Pair, new_id: int) -> tuple[int, ...]:
    """Replace `pair` by `new_id`, from left to right."""
    merged: list[int] = []
    for token in word:
        merged.append(token)
        if tuple(merged[-2:]) == pair:
            merged[-2:] = [new_id]
    return tuple(merged)


def encode(piece: bytes, merges: Sequence[Pair]) -> list[int]:
    """Apply every merge, in the order of learning."""
    word = tuple(piece)
    for new_id, pair in enumerate(merges, start=256):
        word = merge(word, pair, new_id)
    return list(word)


def decode(ids: Iterable[int], merges: Sequence[Pair]) -> bytes:
    """Replace every token by the pair it was merged from, down to bytes."""
    token_bytes = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        token_bytes.append(token_bytes[left] + token_bytes[right])
    return b"".join(token_bytes[token_id] for token_id in ids)
