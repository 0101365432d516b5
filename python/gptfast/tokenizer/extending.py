"""Learn further merges for a vocabulary: check that it can be extended, then train."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gptfast.errors import UserError
from gptfast.tokenizer.training import further_merges

if TYPE_CHECKING:
    from gptfast.cli.progress import TrainingProgress
    from gptfast.tokenizer.bpe import BPETokenizer


def learn_further(
    tokenizer: BPETokenizer,
    texts: str | bytes | Iterable[str | bytes],
    vocab_size: int,
    min_frequency: int,
    max_token_length: int | None,
    n_threads: int | None,
    memory_limit: int | None,
    progress: bool | TrainingProgress,
) -> tuple[list[tuple[bytes, bytes]], list[str]]:
    """Return the pairs of tokens to merge next, and a sentence for each thing left out.

    `BPETokenizer.extend` describes the arguments. Raises UserError if the vocabulary can't be
    extended, or for arguments that can't be used.
    """
    bpe, ranks = tokenizer._bpe, tokenizer.ranks
    if why := _why_not(tokenizer):
        raise UserError(f"this vocabulary can't be extended: {why}")
    added = tokenizer.added_tokens
    found = [token.name for token in added if not token.special]
    if found and isinstance(texts, Iterable) and not isinstance(texts, (str, bytes)):
        texts = _without(found, texts)
    elif found and isinstance(texts, (str, bytes)):
        texts = list(_without(found, [texts]))
    pairs, left_out = further_merges(
        bpe, texts, vocab_size, (token.name for token in added),
        min_frequency, max_token_length, n_threads, memory_limit, progress,
    )  # fmt: skip
    token_of = {token_id: token for token, token_id in ranks.items()}
    learned = []
    for new_id, (left, right) in enumerate(pairs, start=tokenizer.n_vocab):
        learned.append((token_of[left], token_of[right]))
        token_of[new_id] = token_of[left] + token_of[right]
    return learned, left_out


def _why_not(tokenizer: BPETokenizer) -> str | None:
    """Return why no merges can be added to a vocabulary, or None if they can."""
    ranks = tokenizer.ranks
    if tokenizer.model.byte_fallback:
        return "its merges begin with characters; expected one that begins with bytes"
    if tokenizer._normalizer is not None:
        return "it has a normalizer; expected one without"
    if any(bytes([byte]) not in ranks for byte in range(256)):
        return "it lacks some bytes; expected all 256"
    n_made = 256 + len({left + right for left, right in tokenizer.merges})
    if n_made < len(ranks):
        return f"no merge makes {len(ranks) - n_made} of its tokens (as in Llama 3's); expected 0"
    return None


def _without(names: list[str], texts: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """Yield what is between the added tokens in the texts, as merges never reach across one."""
    longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    in_text, in_bytes = re.compile(longest_first), re.compile(longest_first.encode())
    for text in texts:
        if isinstance(text, bytes):
            yield from in_bytes.split(text)
        else:
            yield from in_text.split(text)
