"""Byte-level BPE, at work in Rust. `bpe_reference.py` is the definition."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gptfast.cli.progress import show_training
from gptfast.data.documents import Paths, ReadReport, longest_uncut, read_blocks
from gptfast.errors import UserError
from gptfast.tokenizer.base import END_OF_TEXT, IdArray, Tokenizer, id_list
from gptfast.tokenizer.checks import (
    check_between,
    check_choice,
    check_codec_errors,
    check_keywords,
    check_kind,
    check_names,
)
from gptfast.tokenizer.formats import (
    bpe_from_json,
    bpe_to_json,
    byte_level_alphabet,
    check_spelling,
    merges_to_json,
    read_hf,
    read_tiktoken,
    write_tiktoken,
)
from gptfast.tokenizer.ranks import known_ranks
from gptfast.tokenizer.stream import StreamDecoder
from gptfast.tokenizer.threads import thread_count

if TYPE_CHECKING:
    from typing_extensions import Self

    from gptfast import _rust
    from gptfast.data.shard import Shard

_ID_DTYPES = (np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.int64))

_SMALLEST_LIMIT = 64_000_000  # less would not hold what training needs however short the text is
_LARGEST_VOCABULARY = 2_097_151  # MAX_ID + 1 in rust/src/vocab.rs
_READING = ("field", "column", "errors", "on_error")

# The single bytes in the order of their ids.
_ALPHABETS: dict[str, list[int]] = {
    "bytes": list(range(256)),
    "huggingface": sorted(byte_level_alphabet(), key=byte_level_alphabet().__getitem__),
}


def _rust_bpe() -> type[_rust.BPE]:
    """The Rust class. The package also runs from a plain checkout, where it was not built."""
    try:
        from gptfast._rust import BPE
    except ImportError as error:
        raise UserError(
            f"byte-level BPE needs the Rust extension ({error}): build it with `make build` or "
            f"`maturin develop --release`, or use the character tokenizer"
        ) from error
    return BPE


class BPETokenizer(Tokenizer):
    """Byte-level BPE: any text has ids, and any bytes.

    `ranks` maps each ordinary token's bytes to its id, which is also its rank among the merges
    (tiktoken's convention). `pattern` cuts text into pre-tokens: "gpt2", "cl100k",
    "o200k", "none" (all of it is one) or a regular expression. `special_tokens` maps names to ids.

    Raises UserError if a byte has no id, an id is given twice, a token can't be merged from two of
    lower rank, the pattern is no regular expression, or a special token is spelled as an ordinary
    one is in `tokenizer.json`.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
    ) -> None:
        special_tokens = {} if special_tokens is None else special_tokens
        check_kind("ranks", ranks, Mapping, "a dict of tokens (bytes) and their ids")
        check_kind("special_tokens", special_tokens, Mapping, "a dict of names and ids")
        check_kind("pattern", pattern, str, "the name of a pattern or a regular expression")
        try:
            self._bpe = _rust_bpe()(dict(ranks), pattern, dict(special_tokens))
        except _RUST_ERRORS as error:
            raise _user_error(error) from None
        check_spelling(special_tokens, ranks.__contains__)

    @classmethod
    def train(
        cls,
        texts: str | bytes | Iterable[str | bytes] | None = None,
        vocab_size: int = 32_768,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        min_frequency: int = 1,
        *,
        files: Paths | None = None,
        tie: Literal["bytes", "huggingface"] = "bytes",
        n_threads: int | None = None,
        memory_limit: int | None = None,
        progress: bool = True,
        **reading: Any,
    ) -> Self:
        """Learn a vocabulary: ids 0 to 255 are single bytes, then merges, then the special tokens.

        Give either `texts` (a str or bytes is one text) or `files`: paths, folders or globs, as
        `read_blocks` reads them; `reading` is its field, column, errors and on_error. Merges never
        cross two texts. `vocab_size` counts everything; fewer ids are made if at some point no pair
        occurs `min_frequency` times.

        The most frequent pair is merged first; of equally frequent ones the smallest pair of ids
        (left, then right). With `tie="bytes"` the single bytes have their values as ids; with
        "huggingface" they are in the order of GPT-2's alphabet, which makes the same choices as the
        trainer of Hugging Face `tokenizers`. Neither threads nor the order of the texts matter.

        `memory_limit` is in bytes, beside what the process holds anyway. Counts that it has no room
        for are kept in temporary files. If even the distinct pre-tokens are more than training has
        room for, the rarest are left out, and a warning says how many. None is no limit.

        Raises UserError if the arguments ask for something impossible, or a file can't be used.
        What `texts` itself raises comes through.
        """
        check_names("special_tokens", special_tokens)
        smallest = 256 + len(special_tokens)
        why = f", for 256 bytes and {len(special_tokens)} special tokens"
        check_between("vocab_size", vocab_size, smallest, _LARGEST_VOCABULARY, why)
        check_between("min_frequency", min_frequency, 1, sys.maxsize)
        if memory_limit is not None:
            check_between("memory_limit", memory_limit, _SMALLEST_LIMIT, sys.maxsize)
        check_choice("tie", tie, _ALPHABETS)
        check_kind("pattern", pattern, str, "the name of a pattern or a regular expression")
        check_keywords(reading, _READING)
        own_errors: list[Exception] = []
        report, left_out = ReadReport(), list[str]()
        source: Iterator[str | bytes]
        if files is not None and texts is None:
            source = _text_of(files, pattern, memory_limit, report, **reading)
        elif texts is None or files is not None:
            raise UserError("expected either texts or files to learn from, and not both")
        elif reading:
            raise UserError(
                f"{', '.join(reading)} given, which say how files are read: expected files"
            )
        else:
            check_kind("texts", texts, Iterable, "texts to learn from")
            source = _noting(own_errors, [texts] if isinstance(texts, (str, bytes)) else texts)
        try:
            with show_training(progress, left_out) as told:
                trained = _rust_bpe().train(
                    source,
                    vocab_size,
                    pattern,
                    list(special_tokens),
                    min_frequency,
                    bytes(_ALPHABETS[tie]),
                    thread_count(n_threads),
                    memory_limit,
                    told,
                )
        except _RUST_ERRORS as error:
            if error in own_errors:
                raise
            raise _user_error(error) from None
        if special_tokens:
            check_spelling(special_tokens, trained.ranks.__contains__)
        if report.skipped:
            left_out.append(report.left_out())
        for line in left_out:
            warnings.warn(line, stacklevel=2)
        return cls._of(trained)

    @classmethod
    def _of(cls, bpe: _rust.BPE) -> Self:
        tokenizer = cls.__new__(cls)
        tokenizer._bpe = bpe
        return tokenizer

    @classmethod
    def from_tiktoken(
        cls,
        path: str | Path,
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Self:
        """Load a tiktoken rank file, which has neither the pattern nor the special tokens.

        By default they are the published ones if the ranks are exactly those of GPT-2, cl100k or
        o200k. For other ranks the pattern is "gpt2", as in `train`, and `<|endoftext|>` the only
        special token, with the id after the highest rank.

        Raises MissingFileError if there is no such file, UserError if it can't be used.
        """
        ranks = read_tiktoken(path)
        known = known_ranks(ranks)
        if pattern is None:
            pattern = known.pattern if known else "gpt2"
        if special_tokens is None:
            next_id = max(ranks.values(), default=-1) + 1
            special_tokens = known.special_tokens if known else {END_OF_TEXT: next_id}
        try:
            return cls(ranks, pattern, special_tokens)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_hf(cls, path: str | Path) -> Self:
        """Load another project's tokenizer: a `tokenizer.json`, its folder, or two older files.

        Those are `vocab.json` and `merges.txt` in a folder, as for GPT-2. A post-processor, which
        adds special tokens around a text, is left out: `encode` adds none. Raises MissingFileError
        if there is no such file, UserError if the ids would not be the same.
        """
        data = read_hf(path)
        try:
            return cls.from_json(data | {"post_processor": None})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def to_tiktoken(self, path: str | Path) -> None:
        """Write a tiktoken rank file. It has neither the pattern nor the special tokens.

        Raises UserError if it can't be written there.
        """
        write_tiktoken(path, self._bpe.ranks)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of tokens that are merged, first merge first."""
        return self._bpe.merges

    @property
    def pattern(self) -> str:
        """How text is cut: "gpt2", "cl100k", "o200k", "none" or a regular expression."""
        return self._bpe.pattern

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return self._bpe.n_vocab

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens' names and ids."""
        return self._bpe.special_tokens

    def pretokenize(self, text: str) -> list[str]:
        """Cut `text` into the pre-tokens that BPE works on. End to end they are `text`."""
        check_kind("text", text, str, "a str")
        try:
            return self._bpe.pretokenize(text)
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`; special tokens in it are text like any other.

        Raises UserError for a lone surrogate, and if a regular expression gives up on the text.
        """
        try:
            return self._bpe.encode_ordinary(text)
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def _encode_with(self, text: str, allowed: set[str] | None) -> list[int]:
        check_kind("text", text, str, "a str")
        try:
            return self._bpe.encode(text, allowed)
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def encode_to_numpy(self, text: str | bytes) -> IdArray:
        """Return the ids of `text` as an array of shape (n,) and this tokenizer's `dtype`.

        Bytes that are not UTF-8 are encoded as `encode_bytes` does.
        """
        try:
            return self._bpe.encode_to_numpy(text)
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of bytes that need not be UTF-8; for UTF-8, those of the text.

        Each longest stretch of valid UTF-8 is encoded as a text of its own; each run of invalid
        bytes between them is one pre-token.
        """
        try:
            return self._bpe.encode_ordinary(data)
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def encode_batch(self, texts: Sequence[str], n_threads: int | None = None) -> list[list[int]]:
        """Return `encode_ordinary` of each text; None is one thread per core."""
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
            raise UserError(f"texts is a {type(texts).__name__}: expected a list of texts")
        try:
            return self._bpe.encode_batch(texts, thread_count(n_threads))
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def encode_files(
        self,
        paths: Paths,
        out: str | Path,
        separator: str | None = END_OF_TEXT,
        n_threads: int | None = None,
        **options: Any,
    ) -> Shard:
        """Encode all documents of files, folders and globs into the token shard `out`.

        The ids of each document are followed by the separator's. Streams: memory stays bounded.
        `options` are the other fields of `EncodeOptions`. Raises UserError for what can't be read;
        then, and if it is interrupted, `out` is as it was before.
        """
        from gptfast.data.encode import EncodeOptions, encode_files

        check_keywords(options, [field.name for field in fields(EncodeOptions)])
        options = {"separator": separator, "n_threads": n_threads} | options
        return encode_files(self, paths, out, EncodeOptions(**options))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return (ids, offsets): for each id of `text` the characters that it stands for.

        An offset is (start, end) in characters. A token that is a part of a character stands for
        all of it.
        """
        check_kind("text", text, str, "a str")
        ids = self.encode_to_numpy(text)
        data = np.frombuffer(text.encode(), dtype=np.uint8)
        character_of_byte = np.cumsum((data & 0xC0) != 0x80) - 1
        ends = np.cumsum(self._bpe.token_lengths()[ids], dtype=np.int64)
        starts = character_of_byte[np.concatenate([[0], ends[:-1]])[: len(ids)]]
        offsets = zip(starts.tolist(), (character_of_byte[ends - 1] + 1).tolist(), strict=True)
        return ids.tolist(), list(offsets)

    def count(self, text: str | bytes) -> int:
        """Return `len(encode_ordinary(text))` without making the list."""
        try:
            return self._bpe.count(text)
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes of each id, end to end; a special token's are its name in UTF-8.

        Raises UserError for an id that stands for no token.
        """
        try:
            return self._bpe.decode_bytes(ids if type(ids) is list else _ids_for_rust(ids))
        except _RUST_ERRORS as error:
            raise _user_error(error) from None

    def decode_batch(
        self, batch: Iterable[Sequence[int] | npt.NDArray[Any]], errors: str = "replace"
    ) -> list[str]:
        """Return `decode` of each sequence of ids. UserError says which one can't be decoded."""
        check_kind("batch", batch, Iterable, "a list of lists of ids")
        check_codec_errors(errors)
        texts: list[str] = []
        try:
            texts.extend(self.decode_bytes(ids).decode(errors=errors) for ids in batch)
        except UserError as error:
            raise UserError(f"batch[{len(texts)}]: {error}") from None
        return texts

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder that takes ids as they come and gives text as soon as it is whole."""
        return StreamDecoder(self)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tokenizer.json`, as Hugging Face `tokenizers` defines them."""
        return bpe_to_json(self._bpe.ranks, self.merges, self.pattern, self.special_tokens)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Make the tokenizer of a byte-level BPE `tokenizer.json`, GPT-2's for one.

        Raises UserError if it holds something else, or merges in another order than their ids'.
        """
        ranks, merges, pattern, special_tokens = bpe_from_json(data)
        tokenizer = cls(ranks, pattern, special_tokens)
        if merges_to_json(tokenizer.merges) != merges:
            raise UserError(
                "model.merges are not those that the ids of model.vocab imply: expected the n-th "
                "merge to make the n-th smallest id after the single bytes"
            )
        return tokenizer


def _ids_for_rust(ids: Sequence[int] | npt.NDArray[Any]) -> list[int] | npt.NDArray[Any]:
    """The ids as one of what Rust reads: a list, or an array of one of three types."""
    if isinstance(ids, np.ndarray) and ids.dtype in _ID_DTYPES and ids.ndim == 1:
        return np.require(ids, requirements=["C", "A"])
    return id_list(ids)


def _noting(raised: list[Exception], texts: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """The texts. What they raise is noted too: it is the caller's, as nothing of ours is."""
    try:
        yield from texts
    except Exception as error:
        raised.append(error)
        raise


def _text_of(
    files: Paths, pattern: str, memory_limit: int | None, report: ReadReport, **reading: Any
) -> Iterator[bytes]:
    """The text of files in blocks that merges would not cross anyway."""
    try:
        single_bytes = _rust_bpe()({bytes([byte]): byte for byte in range(256)}, pattern, {})
    except _RUST_ERRORS as error:
        raise _user_error(error) from None
    longest = longest_uncut(memory_limit)
    for block in read_blocks(
        files, safe_cut=single_bytes.safe_cut, longest=longest, report=report, **reading
    ):
        yield block.data


# What Rust raises for what it can't use. Every method catches these by itself: a context manager
# would cost as much time as encoding a short text.
_RUST_ERRORS = (ValueError, TypeError, OverflowError)


def _user_error(error: Exception) -> Exception:
    """What Rust says about its input as a UserError."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, UnicodeEncodeError):
        surrogate = ord(error.object[error.start])
        return UserError(
            f"the text has the lone surrogate U+{surrogate:04X} at position {error.start}, which "
            f"is no character: expected valid Unicode; replace it, for instance by U+FFFD"
        )
    return UserError(str(error))
