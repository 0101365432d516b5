"""Learn a BPE vocabulary or extend one: check the arguments, run the Rust trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from gptfast.cli.progress import TrainingProgress, show_training
from gptfast.errors import UserError
from gptfast.tokenizer.checks import (
    check_between,
    check_choice,
    check_kind,
    check_no_path,
    is_path,
    path_error,
)
from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, thread_count, user_error
from gptfast.tokenizer.spelling import byte_level_alphabet, token_if_spelled

if TYPE_CHECKING:
    from gptfast import _rust

Update: TypeAlias = Callable[[str, int, int], None]
_Learned = TypeVar("_Learned")

_LOOKED_AT = 16  # texts at the beginning, which may all be paths
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
    max_token_length: int | None,
    n_threads: int | None,
    memory_limit: int | None,
    progress: bool | TrainingProgress,
) -> tuple[_rust.BPE, list[str]]:
    """Return the trained vocabulary, and a sentence for each thing that was left out.

    `BPETokenizer.train` describes the arguments, and checks the pattern and the special tokens.
    Raises UserError if they can't be used; what `texts` and `progress` raise passes through.
    """
    why = f", for 256 bytes and {len(special_tokens)} special tokens"
    check_between("vocab_size", vocab_size, 256 + len(special_tokens), _LARGEST_VOCABULARY, why)
    check_choice("tie", tie, _ALPHABETS)

    def learn(texts: Iterable[str | bytes], update: Update) -> _rust.BPE:
        return rust_bpe().train(
            texts,
            vocab_size,
            pattern,
            list(special_tokens),
            min_frequency,
            _forbidden(special_tokens),
            bytes(_ALPHABETS[tie]),
            max_token_length,
            thread_count(n_threads),
            memory_limit,
            update,
        )

    return _run(learn, texts, min_frequency, max_token_length, memory_limit, progress)


def further_merges(
    bpe: _rust.BPE,
    texts: str | bytes | Iterable[str | bytes],
    vocab_size: int,
    forbidden: Iterable[str],
    min_frequency: int,
    max_token_length: int | None,
    n_threads: int | None,
    memory_limit: int | None,
    progress: bool | TrainingProgress,
) -> tuple[list[tuple[int, int]], list[str]]:
    """Return merges that follow those of a vocabulary, and a sentence for each thing left out.

    A merge is a pair of ids; the first one makes the id `bpe.n_vocab`. No merge makes a token with
    one of the names in `forbidden`. The rest is as for `train_bpe`.
    """
    why = f", as it has {bpe.n_vocab} ids already"
    check_between("vocab_size", vocab_size, bpe.n_vocab, _LARGEST_VOCABULARY, why)
    names = _forbidden(list(forbidden))

    def learn(texts: Iterable[str | bytes], update: Update) -> list[tuple[int, int]]:
        return bpe.further_merges(
            texts,
            vocab_size - bpe.n_vocab,
            min_frequency,
            names,
            max_token_length,
            thread_count(n_threads),
            memory_limit,
            update,
        )

    return _run(learn, texts, min_frequency, max_token_length, memory_limit, progress)


def _run(
    learn: Callable[[Iterable[str | bytes], Update], _Learned],
    texts: str | bytes | Iterable[str | bytes],
    min_frequency: int,
    max_token_length: int | None,
    memory_limit: int | None,
    progress: bool | TrainingProgress,
) -> tuple[_Learned, list[str]]:
    """Check the arguments that all training has, and call `learn` with texts and a callback."""
    check_between("min_frequency", min_frequency, 1, sys.maxsize)
    if max_token_length is not None:
        check_between("max_token_length", max_token_length, 1, sys.maxsize)
    if memory_limit is not None:
        check_between("memory_limit", memory_limit, _SMALLEST_LIMIT, sys.maxsize)
    if not (isinstance(progress, bool) or callable(progress)):
        raise UserError(f"progress is {progress!r}: expected True, False or a function")
    check_no_path(texts)
    check_kind("texts", texts, Iterable, "texts to learn from")
    if isinstance(texts, Mapping):  # whose keys alone would be learned from
        raise UserError(f"texts is a {type(texts).__name__}: expected a list of texts")
    one_by_one = _no_paths([texts] if isinstance(texts, (str, bytes)) else texts)
    raised: list[BaseException] = []
    left_out: list[str] = []
    try:
        with show_training(progress, left_out) as update:
            learned = learn(_recording(one_by_one, raised), _recording_calls(update, raised))
    except RUST_ERRORS as error:
        failure = raised[0] if raised else user_error(error)
        raise failure from failure.__cause__
    return learned, left_out


def _forbidden(special_tokens: Sequence[str]) -> list[bytes]:
    """Return the tokens that have the name of a special token, as text or in `tokenizer.json`."""
    spelled = map(token_if_spelled, special_tokens)
    return [*(name.encode() for name in special_tokens), *(token for token in spelled if token)]


def _no_paths(texts: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """Yield the texts. Raises UserError if all of the first ones are paths."""
    iterator = iter(texts)
    first: list[str | bytes] = []
    for text in iterator:
        first.append(text)
        if not is_path(text):
            break
        if len(first) == _LOOKED_AT:
            raise path_error(first[0])
    else:
        if first:
            raise path_error(first[0])
    yield from chain(first, iterator)


def _recording(texts: Iterable[str | bytes], raised: list[BaseException]) -> Iterator[str | bytes]:
    """Yield the texts. Record what they raise, to tell the caller's errors from Rust's."""
    try:
        yield from texts
    except Exception as error:
        raised.append(error)
        raise


def _recording_calls(
    update: TrainingProgress, raised: list[BaseException]
) -> Callable[[str, int, int], None]:
    """Return `update`, but record what it raises: Rust keeps only the message."""

    def call(stage: str, done: int, total: int) -> None:
        try:
            update(stage, done, total)
        except BaseException as error:
            raised.append(error)
            raise

    return call
