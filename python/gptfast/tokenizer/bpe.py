"""Byte-level BPE, at work in Rust. `bpe_reference.py` is the definition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.tokenizer.base import END_OF_TEXT, IdArray, Tokenizer, id_list
from gptfast.tokenizer.formats import (
    bpe_from_json,
    bpe_to_json,
    merges_to_json,
    read_tiktoken,
    write_tiktoken,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from gptfast import _rust


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
    (tiktoken's convention). `pattern` cuts text into pre-tokens: "gpt2", "none" (all of it is one)
    or a regular expression. `special_tokens` maps names to ids.

    Raises UserError if a byte has no id, an id is given twice, a token can't be merged from two of
    lower rank, or the pattern is no regular expression.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
    ) -> None:
        with _user_errors():
            self._bpe = _rust_bpe()(dict(ranks), pattern, dict(special_tokens or {}))

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        min_frequency: int = 1,
    ) -> Self:
        """Learn a vocabulary: ids 0 to 255 are the bytes, then merges, then the special tokens.

        The most frequent pair is merged first; of equally frequent ones the smallest pair of ids
        (left, then right). `vocab_size` counts everything. Fewer ids are made if at some point no
        pair occurs `min_frequency` times. One str is one text; merges never cross two texts.

        Raises UserError if the arguments ask for something impossible.
        """
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise UserError(
                f"vocab_size is {vocab_size}: expected at least {smallest}, for 256 bytes and "
                f"{len(special_tokens)} special tokens"
            )
        if min_frequency < 1:
            raise UserError(f"min_frequency is {min_frequency}: expected at least 1")
        with _user_errors():
            trained = _rust_bpe().train(
                [texts] if isinstance(texts, str) else texts,
                vocab_size,
                pattern,
                list(special_tokens),
                min_frequency,
            )
        return cls(trained.ranks, pattern, trained.special_tokens)

    @classmethod
    def from_tiktoken(
        cls,
        path: str | Path,
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
    ) -> Self:
        """Load a tiktoken rank file; without `special_tokens`, GPT-2's (`<|endoftext|>`: 50256).

        Raises MissingFileError if there is no such file, UserError if it can't be used.
        """
        if special_tokens is None:
            special_tokens = {END_OF_TEXT: 50256}
        ranks = read_tiktoken(path)
        try:
            return cls(ranks, pattern, special_tokens)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def to_tiktoken(self, path: str | Path) -> None:
        """Write a tiktoken rank file. It has neither the pattern nor the special tokens."""
        write_tiktoken(path, self._bpe.ranks)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of tokens that are merged, first merge first."""
        return self._bpe.merges

    @property
    def pattern(self) -> str:
        """How text is cut into pre-tokens: "gpt2", "none" or a regular expression."""
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
        with _user_errors():
            return self._bpe.pretokenize(text)

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`; special tokens in it are text like any other.

        Raises UserError for a lone surrogate, and if a regular expression gives up on the text.
        """
        with _user_errors():
            return self._bpe.encode_ordinary(text)

    def encode_to_numpy(self, text: str) -> IdArray:
        """Return `encode_ordinary(text)` as an array of shape (n,) and this tokenizer's `dtype`."""
        with _user_errors():
            return self._bpe.encode_to_numpy(text).astype(self.dtype, copy=False)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of bytes that need not be UTF-8; for UTF-8, those of the text.

        Each longest stretch of valid UTF-8 is encoded as a text of its own; each run of invalid
        bytes between them is one pre-token.
        """
        with _user_errors():
            return self._bpe.encode_bytes(data)

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the bytes of each id, end to end; a special token's are its name in UTF-8.

        Raises UserError for an id that stands for no token.
        """
        with _user_errors():
            return self._bpe.decode_bytes(id_list(ids))

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


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn what Rust says about its input into UserError."""
    try:
        yield
    except UnicodeEncodeError as error:
        surrogate = ord(error.object[error.start])
        raise UserError(
            f"the text has the lone surrogate U+{surrogate:04X} at position {error.start}, which "
            f"is no character: expected valid Unicode; replace it, for instance by U+FFFD"
        ) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(str(error)) from None
