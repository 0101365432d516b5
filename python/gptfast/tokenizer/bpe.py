"""Byte-level BPE, implemented in Rust. `bpe_reference.py` is the definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError, warn_after_work
from gptfast.tokenizer import formats
from gptfast.tokenizer.added import AddedToken, all_added, special
from gptfast.tokenizer.base import AllowedSpecial, IdArray, Tokenizer
from gptfast.tokenizer.checks import check_kind, check_names, check_texts, kind_of, shorten
from gptfast.tokenizer.hf_folder import read_hf
from gptfast.tokenizer.patterns import pat_str
from gptfast.tokenizer.ranks import read_encoding, write_tiktoken
from gptfast.tokenizer.roles import END_OF_TEXT, Roles, checked, roles_of_trained
from gptfast.tokenizer.rust import RUST_ERRORS, ids_for_rust, rust_bpe, thread_count, user_error
from gptfast.tokenizer.training import train_bpe

if TYPE_CHECKING:
    from typing_extensions import Self

    from gptfast.cli.progress import TrainingProgress


class BPETokenizer(Tokenizer):
    """Byte-level BPE, which can encode any text and any bytes.

    `ranks` maps the bytes of each ordinary token to its id, which is also its rank among the merges
    (tiktoken's convention). `pattern` splits text into pre-tokens: "gpt2", "cl100k", "o200k",
    "none" (the text is one pre-token) or a regular expression. `special_tokens` maps names to ids.
    `added_tokens` are further ones, which any text may contain unless they are special. `roles`
    says which of them ends a document, and so on; None recognizes well-known names.

    Raises UserError if a byte has no id, an id is given twice, a token is not the merge of two
    tokens of lower rank, the pattern is not a regular expression, an added token and an ordinary
    token have the same spelling in `tokenizer.json`, or a role is not an added token's.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
        added_tokens: Sequence[AddedToken] = (),
        roles: Roles | None = None,
    ) -> None:
        special_tokens = {} if special_tokens is None else special_tokens
        check_kind("ranks", ranks, Mapping, "a dict of tokens (bytes) and their ids")
        check_kind("special_tokens", special_tokens, Mapping, "a dict of names and ids")
        check_kind("pattern", pattern, str, "the name of a pattern or a regular expression")
        tokens = all_added(special_tokens, added_tokens)
        ordinary = {token.name: token.id for token in tokens if not token.special}
        try:
            self._bpe = rust_bpe()(dict(ranks), pattern, special(tokens), ordinary)
        except RUST_ERRORS as error:
            raise user_error(error) from None
        formats.check_spelling(tokens, ranks)
        self._added_tokens, self._roles = tokens, checked(roles, tokens)

    @classmethod
    def train(
        cls,
        texts: str | bytes | Iterable[str | bytes],
        vocab_size: int = 32_768,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        min_frequency: int = 1,
        *,
        roles: Roles | None = None,
        tie: Literal["bytes", "huggingface"] = "bytes",
        n_threads: int | None = None,
        memory_limit: int | None = None,
        progress: bool | TrainingProgress = True,
    ) -> Self:
        """Learn a vocabulary: ids 0 to 255 are single bytes, then merges, then the special tokens.

        texts: merges never cross two of them. A str or bytes is one text. Order is irrelevant.
        vocab_size: maximum number of ids, all included. Training stops earlier when no pair occurs
        `min_frequency` times.
        roles: which special token ends a document, and so on. By default `<|endoftext|>` is eos;
        without it, the only one with a well-known name such as `</s>`, or else the only one.
        tie: of equally frequent pairs, the smallest pair of ids (left, then right) is merged first.
        With "bytes", the id of a single byte is its value; with "huggingface", single bytes are in
        the order of GPT-2's alphabet, so that ties are broken as by Hugging Face `tokenizers`.
        n_threads: None for one per core. The number does not change the result.
        memory_limit: bytes to use beyond what the process uses already; None for no limit. Counts
        that exceed it are kept in temporary files. If even the distinct pre-tokens exceed it, the
        rarest are left out, and a warning says how many.
        progress: show it on stderr; or a function that is called with it, from any thread: with
        ("counting", bytes of text, 0), then with ("merging", merges, the most there can be).

        No merge makes a token that is spelled like a special token. Raises UserError for arguments
        that can't be used, before the first text is read, and for a text that can't be used, such
        as `texts[1]`. What `texts` and `progress` raise passes through.
        """
        check_names("special_tokens", special_tokens)
        names = {name: 256 + i for i, name in enumerate(special_tokens)}
        if len(names) < len(special_tokens):
            raise UserError(f"special_tokens is {special_tokens!r}: a name is given twice")
        roles = roles_of_trained(special_tokens) if roles is None else roles
        # What can't be made with single bytes alone is refused before the work.
        cls({bytes([byte]): byte for byte in range(256)}, pattern, names, roles=roles)
        trained, left_out = train_bpe(
            texts, vocab_size, pattern, special_tokens, min_frequency,
            tie, n_threads, memory_limit, progress,
        )  # fmt: skip
        for line in left_out:
            warn_after_work(line, stacklevel=2)
        tokenizer = cls.__new__(cls)
        tokenizer._bpe, tokenizer._roles = trained, roles
        tokenizer._added_tokens = tuple(AddedToken(*t) for t in trained.special_tokens.items())
        return tokenizer

    @classmethod
    def from_tiktoken(
        cls,
        path: str | Path,
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Self:
        """Load a tiktoken rank file, which contains neither the pattern nor the special tokens.

        They default to the published ones if the ranks are exactly those of GPT-2, p50k, cl100k or
        o200k. Other ranks need `pattern`; for them `special_tokens` defaults to that of `train`,
        `<|endoftext|>` with the id after the highest rank.

        Raises MissingFileError if there is no such file, UserError if it can't be used.
        """
        encoding = read_encoding(path, pattern, special_tokens)
        try:
            return cls(*encoding)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_hf(cls, path: str | Path) -> Self:
        """Load another project's tokenizer: a `tokenizer.json`, or a folder.

        The folder holds a `tokenizer.json`, or `vocab.json` and `merges.txt` as for GPT-2; other
        files in it tell the roles of its tokens, as for `load`. A post-processor, which adds
        special tokens around a text, is dropped: `encode` adds none.
        Raises MissingFileError if there is no such file, UserError if the ids would differ.
        """
        data = read_hf(path)
        return cls._from_file(Path(path), data | {"post_processor": None})

    def to_tiktoken(self, path: str | Path) -> None:
        """Write a tiktoken rank file, without the pattern and the special tokens.

        Raises UserError if it can't be written there.
        """
        write_tiktoken(path, self._bpe.ranks)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merged pairs of tokens, in the order of the merges."""
        return self._bpe.merges

    @property
    def pattern(self) -> str:
        """How text is split: "gpt2", "cl100k", "o200k", "none" or a regular expression."""
        return self._bpe.pattern

    @property
    def pat_str(self) -> str:
        """The pattern as the `pat_str` of a `tiktoken.Encoding`, which gives the same ids.

        Raises UserError if an added token isn't special: tiktoken finds only special ones.
        """
        for token in self.added_tokens:
            if not token.special:
                raise UserError(
                    f"the added token {token.name!r} is not special, and tiktoken finds only "
                    f"special tokens in text: expected a tokenizer without such tokens"
                )
        return pat_str(self.pattern)

    @property
    def mergeable_ranks(self) -> dict[bytes, int]:
        """The ordinary tokens and their ids, which are their ranks, as tiktoken takes them."""
        return self._bpe.ranks

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return self._bpe.n_vocab

    @property
    def special_tokens(self) -> dict[str, int]:
        """The names and ids of the special tokens."""
        return self._bpe.special_tokens

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The special tokens, and others that are found in any text by their names."""
        return self._added_tokens

    def __repr__(self) -> str:
        shown, n_special = shorten(self.pattern), len(self.special_tokens)
        return f"BPETokenizer(n_vocab={self.n_vocab}, pattern={shown}, n_special={n_special})"

    def pretokenize(self, text: str) -> list[str]:
        """Split `text` into the pre-tokens that BPE works on. Concatenated, they are `text`."""
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
                return self._bpe.encode_batch(texts, thread_count(n_threads))
            return self._bpe.encode_batch_special(texts, allowed, thread_count(n_threads))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def encode_batch_to_numpy(
        self, texts: Sequence[str | bytes], n_threads: int | None = None
    ) -> list[IdArray]:
        """Return `encode_to_numpy` of each text; None is one thread per core."""
        check_texts(texts, n_threads)
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
        """Return (ids, offsets): the ids of `text`, and the range of characters of each id.

        An offset is (start, end) in characters. A token that is part of a character has the offset
        of the whole character.
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

    def release_memory(self) -> None:
        """Free the memory that encoding keeps: the ids of recent pre-tokens.

        Later calls fill it again. It takes at most 40 MB for each core, however many threads
        encode.
        """
        self._bpe.release_memory()

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the concatenated bytes of the ids. The bytes of a special token are its name.

        Raises UserError for an unknown id.
        """
        try:
            return self._bpe.decode_bytes(ids if type(ids) is list else ids_for_rust(ids))
        except RUST_ERRORS as error:
            raise user_error(error) from None

    def token_to_id(self, token: str | bytes) -> int | None:
        """Return the id of a token; None if there is no such token.

        token: as `tokenizer.json` spells it (`tokenizers` has the same method), or, if it is bytes,
        the bytes that an ordinary token stands for: "Ġthe" and b" the" are the same token.
        """
        check_kind("token", token, (str, bytes), "a str or bytes")
        if isinstance(token, bytes):
            return self._bpe.id_of(token)
        spelled = formats.token_spelled(token)
        ordinary = None if spelled is None else self._bpe.id_of(spelled)
        added = {token.name: token.id for token in self.added_tokens}
        return added.get(token) if ordinary is None else ordinary

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as `tokenizer.json` spells it; None if there is no such id.

        `token_bytes` returns what it stands for.
        """
        check_kind("token_id", token_id, (int, np.integer), "an int")
        try:
            token = self.token_bytes(token_id)
        except UserError:
            return None
        is_added = any(token_id == token.id for token in self.added_tokens)
        return token.decode() if is_added else formats.spelling_of(token)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""
        return formats.bpe_to_json(self._bpe.ranks, self.merges, self.pattern, self.added_tokens)

    @classmethod
    def from_json(cls, data: dict[str, Any], roles: Roles | None = None) -> Self:
        """Return the tokenizer of a byte-level BPE `tokenizer.json`, such as GPT-2's.

        roles: None to recognize well-known names of special tokens. Raises UserError if it
        describes anything else, or if the merges are not in order of id.
        """
        ranks, merges, pattern, added_tokens = formats.bpe_from_json(data)
        tokenizer = cls(ranks, pattern, added_tokens=added_tokens, roles=roles)
        if not formats.same_merges(merges, tokenizer.merges):
            raise UserError(
                "model.merges do not match the ids in model.vocab: expected the n-th merge to make "
                "the n-th smallest id after the single bytes"
            )
        return tokenizer
