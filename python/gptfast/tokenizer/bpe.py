"""Byte-level BPE, implemented in Rust. `bpe_reference.py` is the definition."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.tokenizer.base import END_OF_TEXT, IdArray, Tokenizer, id_list
from gptfast.tokenizer.checks import check_codec_errors, check_kind
from gptfast.tokenizer.formats import (
    bpe_from_json,
    bpe_to_json,
    check_spelling,
    merges_to_json,
    read_hf,
)
from gptfast.tokenizer.ranks import known_ranks, read_tiktoken, write_tiktoken
from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, user_error
from gptfast.tokenizer.threads import thread_count
from gptfast.tokenizer.training import train_bpe

if TYPE_CHECKING:
    from typing_extensions import Self

_ID_DTYPES = (np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.int64))


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
            self._bpe = rust_bpe()(dict(ranks), pattern, dict(special_tokens))
        except RUST_ERRORS as error:
            raise user_error(error) from None
        check_spelling(special_tokens, ranks.__contains__)

    @classmethod
    def train(
        cls,
        texts: str | bytes | Iterable[str | bytes],
        vocab_size: int = 32_768,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        min_frequency: int = 1,
        *,
        tie: Literal["bytes", "huggingface"] = "bytes",
        n_threads: int | None = None,
        memory_limit: int | None = None,
        progress: bool = True,
    ) -> Self:
        """Learn a vocabulary: ids 0 to 255 are single bytes, then merges, then the special tokens.

        texts: merges never cross two of them. A str or bytes is one text.
        vocab_size: maximum number of ids, all included. Training stops earlier when no pair occurs
        `min_frequency` times.
        tie: which of equally frequent pairs is merged first. It is always the smallest pair of ids
        (left, then right). With "bytes", the id of a single byte is its value; with "huggingface",
        single bytes are in the order of GPT-2's alphabet, which makes the same choices as the
        trainer of Hugging Face `tokenizers`.
        n_threads: None for one per core. Neither threads nor the order of the texts change the
        result.
        memory_limit: bytes that training may use beyond what the process uses already; None for no
        limit. Counts that exceed it are kept in temporary files. If even the distinct pre-tokens
        exceed it, the rarest are left out, and a warning says how many.
        progress: show it if stderr is a terminal.

        Raises UserError for arguments that can't be used. Exceptions raised by `texts` pass
        through.
        """
        trained, left_out = train_bpe(
            texts, vocab_size, pattern, special_tokens, min_frequency,
            tie, n_threads, memory_limit, progress,
        )  # fmt: skip
        for line in left_out:
            warnings.warn(line, stacklevel=2)
        tokenizer = cls.__new__(cls)
        tokenizer._bpe = trained
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

    def __repr__(self) -> str:
        pattern = repr(self.pattern)
        shown = pattern if len(pattern) <= 40 else f"{pattern[:37]}..."
        n_special = len(self.special_tokens)
        return f"BPETokenizer(n_vocab={self.n_vocab}, pattern={shown}, n_special={n_special})"

    def pretokenize(self, text: str) -> list[str]:
        """Cut `text` into the pre-tokens that BPE works on. End to end they are `text`."""
        check_kind("text", text, str, "a str")
        try:
            return self._bpe.pretokenize(text)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`; special tokens in it are text like any other.

        Raises UserError for a lone surrogate, and if a regular expression gives up on the text.
        """
        try:
            return self._bpe.encode_ordinary(text)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def _encode_with(self, text: str, allowed: set[str] | None) -> list[int]:
        check_kind("text", text, str, "a str")
        try:
            return self._bpe.encode(text, allowed)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_to_numpy(self, text: str | bytes) -> IdArray:
        """Return the ids of `text` as an array of shape (n,) and this tokenizer's `dtype`.

        Bytes that are not UTF-8 are encoded as `encode_bytes` does.
        """
        try:
            return self._bpe.encode_to_numpy(text)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of bytes that need not be UTF-8; for UTF-8, those of the text.

        Each longest stretch of valid UTF-8 is encoded as a text of its own; each run of invalid
        bytes between them is one pre-token.
        """
        try:
            return self._bpe.encode_ordinary(data)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_batch(self, texts: Sequence[str], n_threads: int | None = None) -> list[list[int]]:
        """Return `encode_ordinary` of each text; None is one thread per core."""
        _check_list(texts)
        try:
            return self._bpe.encode_batch(texts, thread_count(n_threads))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_batch_to_numpy(
        self, texts: Sequence[str | bytes], n_threads: int | None = None
    ) -> list[IdArray]:
        """Return `encode_to_numpy` of each text; None is one thread per core."""
        _check_list(texts)
        try:
            return list(self._bpe.encode_blocks(texts, thread_count(n_threads)))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def safe_cut(self, data: bytes) -> int:
        """Return the last position inside `data` where any text that contains it may be cut.

        The ids of the two parts, one after the other, are those of the whole text. Returns 0 if
        there is no such position.
        """
        return self._bpe.safe_cut(data)

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
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes of each id, end to end; a special token's are its name in UTF-8.

        Raises UserError for an id that stands for no token.
        """
        try:
            return self._bpe.decode_bytes(ids if type(ids) is list else _ids_for_rust(ids))
        except RUST_ERRORS as error:
            raise user_error(error) from None

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


def _check_list(texts: object) -> None:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise UserError(f"texts is a {type(texts).__name__}: expected a list of texts")


def _ids_for_rust(ids: Sequence[int] | npt.NDArray[Any]) -> list[int] | npt.NDArray[Any]:
    """Return the ids as a list, or as an array that Rust reads directly."""
    if isinstance(ids, np.ndarray) and ids.dtype in _ID_DTYPES and ids.ndim == 1:
        return np.require(ids, requirements=["C", "A"])
    return id_list(ids)
