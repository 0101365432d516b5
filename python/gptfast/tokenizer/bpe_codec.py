"""Text to ids and back with the Rust extension: what `BPETokenizer` does with text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.tokenizer.base import AllowedSpecial, IdArray, StreamDecoder, Tokenizer
from gptfast.tokenizer.bpe_model import BPEModel
from gptfast.tokenizer.checks import check_codec_errors, check_kind, check_texts, id_list, kind_of
from gptfast.tokenizer.decoders import new_decoder
from gptfast.tokenizer.rust import RUST_ERRORS, ids_for_rust, thread_count, user_error
from gptfast.tokenizer.spelling import spelling_of, token_if_spelled

if TYPE_CHECKING:
    from gptfast._rust import BPE


class BPECodec(Tokenizer):
    """Encodes and decodes with the merges of a vocabulary. `BPETokenizer` sets the fields."""

    _bpe: BPE
    _model: BPEModel
    _decoder: dict[str, Any] | None = None

    @property
    def model(self) -> BPEModel:
        """How a pre-token is encoded, apart from its merges.

        `ignore_merges` is False where it changes no ids, because merges make every token.
        """
        return self._model

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of tokens that can be merged, in the order of the merges.

        There is at most one for each token. A listed merge that is not among them is never
        applied: BPE makes its two tokens nowhere side by side.
        """
        return self._bpe.merges

    @property
    def merges_ascend(self) -> bool:
        """Whether a merge makes only later merges possible, as in the order of training."""
        return self._bpe.merges_ascend

    @property
    def ranks(self) -> dict[bytes, int]:
        """The ordinary tokens and their ids.

        With `model.byte_fallback`, the tokens that stand for bytes are spelled `<0x00>` to
        `<0xFF>`.
        """
        return self._bpe.ranks

    @property
    def pattern(self) -> str:
        """How text is split: a name such as "gpt2" or "llama3", "none" or a regular expression."""
        return self._bpe.pattern

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return self._bpe.n_vocab

    @property
    def special_tokens(self) -> dict[str, int]:
        """The names and ids of the special tokens."""
        return self._bpe.special_tokens

    def pretokenize(self, text: str) -> list[str]:
        """Split `text` into the pre-tokens that BPE works on. Concatenated, they are `text`.

        With a normalizer, or a pattern that adds spaces, they are what those make of it.
        """
        check_kind("text", text, str, "a str")
        try:
            return self._bpe.pretokenize(text)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`. Special tokens in it are encoded as ordinary text.

        Raises UserError for bytes (`encode_bytes` takes them), for a lone surrogate, and if a
        regular expression gives up on the text.
        """
        if not isinstance(text, str):
            raise UserError(f"text is {kind_of(text)}: expected a str; encode_bytes takes bytes")
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
        """Return the ids of any bytes; for valid UTF-8, those of the text.

        Each longest stretch of valid UTF-8 is encoded as a separate text. Each run of invalid bytes
        is one pre-token.
        """
        try:
            return self._bpe.encode_ordinary(data)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_batch(
        self,
        texts: Sequence[str],
        n_threads: int | None = None,
        *,
        allowed_special: AllowedSpecial = frozenset(),
        add_special_tokens: bool = False,
    ) -> list[list[int]]:
        """Return `encode` of each text, on several threads; None is one per core.

        A UserError names the text, such as `texts[1]`, that can't be encoded.
        """
        check_texts(texts, n_threads)
        allowed = self._allowed(allowed_special)
        if bytes in map(type, texts):
            i = next(i for i, text in enumerate(texts) if isinstance(text, bytes))
            raise UserError(
                f"texts[{i}] is bytes: expected a str; encode_batch_to_numpy takes bytes"
            )
        try:
            if allowed == set():
                batch = self._bpe.encode_batch(texts, thread_count(n_threads))
            else:
                batch = self._bpe.encode_batch_special(texts, allowed, thread_count(n_threads))
        except RUST_ERRORS as error:
            raise user_error(error) from None
        return [self._with_template(ids) for ids in batch] if add_special_tokens else batch

    def encode_batch_to_numpy(
        self, texts: Sequence[str | bytes], n_threads: int | None = None
    ) -> list[IdArray]:
        """Return `encode_to_numpy` of each text; None is one thread per core."""
        check_texts(texts, n_threads)
        try:
            return list(self._bpe.encode_blocks(texts, thread_count(n_threads)))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_documents(
        self,
        documents: Sequence[tuple[bytes, npt.NDArray[np.int64], npt.NDArray[np.int64]]],
        separator: int | None,
        n_threads: int | None = None,
    ) -> list[tuple[IdArray, npt.NDArray[np.int64]]]:
        """Return the ids of many texts at a time, and the position in them where each text ends.

        documents: (data, starts, ends): texts, each a range of the same bytes. separator: the id
        that follows each text. One thread works on one of the documents at a time.
        """
        try:
            return self._bpe.encode_documents(documents, separator, thread_count(n_threads))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def safe_cut(self, data: bytes) -> int:
        """Return the last position inside `data` where any text that contains it may be cut.

        The ids of the two parts, one after the other, are those of the whole text. Returns 0 if
        there is no such position.
        """
        return self._bpe.safe_cut(data)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return (ids, offsets): the ids of `text`, and the range of characters of each id.

        An offset is (start, end) in characters. A token that is part of a character has the offset
        of the whole character. What a normalizer changes has the place of what it was; what it
        adds, that of the character beside it, as in `tokenizers`. Raises UserError if the text has
        characters that the vocabulary lacks.
        """
        check_kind("text", text, str, "a str")
        ids = self.encode_to_numpy(text)
        data = np.frombuffer(text.encode(), dtype=np.uint8)
        character_of_byte = np.cumsum((data & 0xC0) != 0x80) - 1
        if self._bpe.keeps_text:
            tokens = data.tobytes()
            starts = np.arange(len(data), dtype=np.uint64)
            ends = starts + np.uint64(1)
        else:
            tokens, starts, ends = self._bpe.align(text)
        if self.decode_bytes(ids) != tokens:
            raise UserError(
                "the tokens of this text are not spelled like the text, so they have no offsets "
                "in it: expected a text without characters that the vocabulary lacks"
            )
        last = np.cumsum(self._bpe.token_lengths()[ids], dtype=np.int64) - 1
        first = np.concatenate([[0], last[:-1] + 1])[: len(ids)]
        start_of = character_of_byte[starts[first]]
        end_of = character_of_byte[ends[last] - np.uint64(1)] + 1
        return ids.tolist(), list(zip(start_of.tolist(), end_of.tolist(), strict=True))

    def count(self, text: str | bytes) -> int:
        """Return `len(encode_ordinary(text))` without making the list."""
        try:
            return self._bpe.count(text)
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def release_memory(self) -> None:
        """Free the memory that encoding keeps: the ids of recent pre-tokens.

        Later calls fill it again. It takes at most 40 MB for each core, however many threads
        encode.
        """
        self._bpe.release_memory()

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the concatenated bytes of the ids. The bytes of an added token are its name.

        But a byte-level tokenizer decodes a name as it decodes spellings, if all characters of it
        stand for bytes: `ÿ` is the byte 0xFF, as in `tokenizers`.

        Raises UserError for an unknown id.
        """
        try:
            return self._bpe.decode_bytes(ids if type(ids) is list else ids_for_rust(ids))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def decode(
        self,
        ids: Sequence[int] | npt.NDArray[Any],
        errors: str = "replace",
        *,
        skip_special_tokens: bool = False,
    ) -> str:
        """Return the text of `ids`. Their bytes may be invalid UTF-8; `errors` as in bytes.decode.

        skip_special_tokens: leave the special tokens out of the text. A tokenizer with a decoder of
        its own takes no other `errors`.

        Raises UserError for an unknown id, and UnicodeDecodeError with `errors="strict"`.
        """
        if self._decoder is None:
            return super().decode(ids, errors, skip_special_tokens=skip_special_tokens)
        check_codec_errors(errors)
        if errors != "replace":
            raise UserError(f"errors is {errors!r}: this tokenizer's decoder expects 'replace'")
        special = set(self.special_tokens.values()) if skip_special_tokens else set()
        stream = self.stream_decoder()
        parts = [stream.feed(token_id) for token_id in id_list(ids) if token_id not in special]
        return "".join(parts) + stream.finish()

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder that takes ids one by one and returns text at character boundaries."""
        if self._decoder is None:
            return super().stream_decoder()
        return SpelledStreamDecoder(self, self._decoder)

    def token_to_id(self, token: str | bytes) -> int | None:
        """Return the id of a token; None if there is no such token.

        token: as `tokenizer.json` spells it (`tokenizers` has the same method), or, if it is bytes,
        the bytes that an ordinary token stands for: "Ġthe" and b" the" are the same token.
        """
        check_kind("token", token, (str, bytes), "a str or bytes")
        if isinstance(token, bytes):
            return self._bpe.id_of(token)
        spelled = token_if_spelled(token, self.model)
        ordinary = None if spelled is None else self._bpe.id_of(spelled)
        added = {token.name: token.id for token in self.added_tokens}
        return added.get(token) if ordinary is None else ordinary

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as `tokenizer.json` spells it; None if there is no such id.

        `token_bytes` returns what it stands for.
        """
        check_kind("token_id", token_id, (int, np.integer), "an int")
        for added in self.added_tokens:
            if added.id == token_id:
                return added.name
        try:
            token = self.token_bytes(token_id)
        except UserError:
            return None
        if self.model.byte_fallback and self._bpe.id_of(token) != token_id:
            return f"<0x{token[0]:02X}>"
        return spelling_of(token, self.model)


class SpelledStreamDecoder(StreamDecoder):
    """A stream decoder that works on the spellings of tokens, as a `decoder` does."""

    def __init__(self, tokenizer: Tokenizer, decoder: dict[str, Any]) -> None:
        super().__init__(tokenizer)
        self._json, self._decoder = decoder, new_decoder(decoder)

    def feed(self, token_id: int) -> str:
        """Return the text that this id completes. Raises UserError for an unknown id."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            self._tokenizer.token_bytes(token_id)  # raises UserError
        return self._decoder.feed(str(token))

    def finish(self) -> str:
        """Return the rest of the text. Resets the decoder."""
        rest, self._decoder = self._decoder.finish(), new_decoder(self._json)
        return rest
