"""Learn a BPE vocabulary: check the arguments, run the Rust trainer, show its progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from gptfast.cli.progress import show_training
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.checks import check_between, check_choice, check_kind, check_names
from gptfast.tokenizer.formats import byte_level_alphabet, check_spelling
from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, thread_count, user_error

if TYPE_CHECKING:
    from gptfast import _rust

_SMALLEST_LIMIT = 64_000_000  # bytes that training needs even for the shortest text
_LARGEST_VOCABULARY = 2_097_151  # MAX_ID + 1 in rust/src/vocab/mod.rs

# The single bytes in the order of their ids.
_ALPHABETS: dict[str, list[int]] = {
    "bytes": list(range(256)),
    "huggingface": sorted(byte_level_alphabet(), key=byte_level_alphabet().__getitem__),
}


def train_bpe(
    texts: str | bytes | Iterable[str | bytes],
    vocab_size: int,
    pattern: str,
    special_tokens: Sequence[str],
    min_frequency: int,
    tie: str,
    n_threads: int | None,
    memory_limit: int | None,
    progress: bool,
) -> tuple[_rust.BPE, list[str]]:
    """Return the trained vocabulary, and a sentence for each thing that was left out.

    `BPETokenizer.train` describes the arguments. Raises UserError if they can't be used; exceptions
    raised by `texts` pass through.
    """
    check_names("special_tokens", special_tokens)
    why = f", for 256 bytes and {len(special_tokens)} special tokens"
    check_between("vocab_size", vocab_size, 256 + len(special_tokens), _LARGEST_VOCABULARY, why)
    check_between("min_frequency", min_frequency, 1, sys.maxsize)
    if memory_limit is not None:
        check_between("memory_limit", memory_limit, _SMALLEST_LIMIT, sys.maxsize)
    check_choice("tie", tie, _ALPHABETS)
    check_kind("pattern", pattern, str, "the name of a pattern or a regular expression")
    check_kind("texts", texts, Iterable, "texts to learn from")
    raised: list[Exception] = []
    left_out: list[str] = []
    try:
        with show_training(progress, left_out) as update:
            trained = rust_bpe().train(
                _recording([texts] if isinstance(texts, (str, bytes)) else texts, raised),
                vocab_size,
                pattern,
                list(special_tokens),
                min_frequency,
                bytes(_ALPHABETS[tie]),
                thread_count(n_threads),
                memory_limit,
                update,
            )
    except RUST_ERRORS as error:
        if error in raised:
            raise
        raise user_error(error) from None
    if special_tokens:
        check_spelling(
            [AddedToken(*token) for token in trained.special_tokens.items()], trained.ranks
        )
    return trained, left_out


def _recording(texts: Iterable[str | bytes], raised: list[Exception]) -> Iterator[str | bytes]:
    """Yield the texts. Record what they raise, to tell the caller's errors from Rust's."""
    try:
        yield from texts
    except Exception as error:
        raised.append(error)
        raise
