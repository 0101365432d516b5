"""The interface of all tokenizers."""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.checks import (
    as_path,
    check_codec_errors,
    check_kind,
    check_names,
    check_texts,
    id_list,
)
from gptfast.tokenizer.formats import add_named, read_tokenizer_json, tokenizer_json_path
from gptfast.tokenizer.roles import (
    Roles,
    names_beside,
    recognized,
    roles_beside,
    tokenizer_config,
    with_names,
)
from gptfast.tokenizer.template import Around

if TYPE_CHECKING:
    from typing_extensions import Self

V = TypeVar("V")
R = TypeVar("R")

IdArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

AllowedSpecial: TypeAlias = Collection[str] | Literal["all"]
"""The names of special tokens that may be found in text, or "all"."""


class Tokenizer(ABC):
    """Text to ids and back.

    An id is an int from 0 to `n_vocab - 1`. Special tokens have their own ids. Text never turns
    into them, except those that `encode` is told to allow.
    """

    @property
    @abstractmethod
    def n_vocab(self) -> int:
        """One more than the largest id."""

    @property
    @abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """The names and ids of the special tokens."""

    @property
    @abstractmethod
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The special tokens, and others that are found in text by their names."""

    _roles: Roles

    @property
    def roles(self) -> Roles:
        """The names of the tokens that end a document, begin a text, pad a batch and so on."""
        return self._roles

    @abstractmethod
    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`. Special tokens in it are encoded as ordinary text.

        Raises UserError if the tokenizer has no ids for the text.
        """

    @abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return (ids, offsets): the ids of `text`, and the range of characters of each id.

        An offset is (start, end) in characters. A token that is part of a character has the offset
        of the whole character.
        """

    @abstractmethod
    def encode_to_numpy(self, text: str) -> IdArray:
        """Return `encode_ordinary(text)` as an array of shape (n,) and this tokenizer's `dtype`."""

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the concatenated bytes of the ids. The bytes of a special token are its name.

        Raises UserError for an unknown id.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: dict[str, Any], roles: Roles | None = None) -> Self:
        """Return the tokenizer whose `to_json()` is `data`. Raises UserError if there is none.

        roles: None to recognize well-known names of special tokens.
        """

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The smaller of uint16 and uint32 that holds every id."""
        return np.dtype(np.uint16) if self.n_vocab <= 2**16 else np.dtype(np.uint32)

    def role_id(self, role: str) -> int | None:
        """Return the id of the token that plays a role, such as "pad"; None if none does."""
        name = self.roles.one_each()[role]
        return next((token.id for token in self.added_tokens if token.name == name), None)

    @cached_property
    def eot_token(self) -> int | None:
        """The id of the token that ends a document (the role eos); None if there is no such token.

        tiktoken's name for it, which stands for "end of text".
        """
        return self.role_id("eos")

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The ids at which sampling stops: the roles eos, end_of_turn and stop."""
        names = {self.roles.eos, self.roles.end_of_turn, *self.roles.stop}
        return frozenset(token.id for token in self.added_tokens if token.name in names)

    def encode(
        self,
        text: str,
        allowed_special: AllowedSpecial = frozenset(),
        *,
        add_special_tokens: bool = False,
    ) -> list[int]:
        """Return the ids of `text`, with the allowed special tokens as single ids.

        Where two of them begin at the same character, the longer one is taken. Special tokens that
        aren't allowed are encoded as ordinary text. Raises UserError for an unknown name.

        add_special_tokens: add what the template of a `tokenizer.json` has before and after a text.
        """
        allowed = self._allowed(allowed_special)
        ids = self.encode_ordinary(text) if allowed == set() else self._encode_with(text, allowed)
        return self._with_template(ids) if add_special_tokens else ids

    _around: Around = ([], [])

    def _with_template(self, ids: list[int]) -> list[int]:
        before, after = self._around
        return [*before, *ids, *after]

    def _allowed(self, allowed_special: AllowedSpecial) -> set[str] | None:
        """Return the names that are allowed; None for all. Raises UserError for an unknown one."""
        if isinstance(allowed_special, str) and allowed_special == "all":
            return None
        # A str that isn't "all" is no collection of names, and the keys of a dict are none.
        is_collection = isinstance(allowed_special, (Set, list, tuple))
        if is_collection and not allowed_special:
            return set()
        known = self.special_tokens
        if not (is_collection and all(isinstance(n, str) and n in known for n in allowed_special)):
            raise UserError(
                f"allowed_special is {allowed_special!r}: expected 'all' or a set of some of "
                f"{sorted(known)}"
            )
        return set(allowed_special)

    @abstractmethod
    def _encode_with(self, text: str, allowed: set[str] | None) -> list[int]:
        """Encode with the allowed special tokens, which exist; None for all of them."""

    def encode_batch(
        self,
        texts: Sequence[str],
        n_threads: int | None = None,
        *,
        allowed_special: AllowedSpecial = frozenset(),
        add_special_tokens: bool = False,
    ) -> list[list[int]]:
        """Return `encode` of each text.

        n_threads: how many may be used; None for one per core. A UserError names the text, such as
        `texts[1]`, that can't be encoded.
        """
        check_texts(texts, n_threads)
        self._allowed(allowed_special)
        encode = partial(
            self.encode, allowed_special=allowed_special, add_special_tokens=add_special_tokens
        )
        return self._each("texts", texts, encode)

    def encode_batch_to_numpy(
        self, texts: Sequence[str], n_threads: int | None = None
    ) -> list[IdArray]:
        """Return `encode_to_numpy` of each text, as `encode_batch` does."""
        check_texts(texts, n_threads)
        return self._each("texts", texts, self.encode_to_numpy)

    @staticmethod
    def _each(name: str, values: Iterable[V], work: Callable[[V], R]) -> list[R]:
        """Return `work` of each value. A UserError names the value, such as `texts[1]`."""
        results: list[R] = []
        try:
            results.extend(map(work, values))
        except UserError as error:
            raise UserError(f"{name}[{len(results)}]: {error}") from None
        except UnicodeDecodeError as error:
            error.reason += f" in {name}[{len(results)}]"
            raise
        return results

    def count(self, text: str) -> int:
        """Return `len(encode_ordinary(text))` without making the list."""
        return len(self.encode_to_numpy(text))

    def decode(
        self,
        ids: Sequence[int] | npt.NDArray[Any],
        errors: str = "replace",
        *,
        skip_special_tokens: bool = False,
    ) -> str:
        """Return the text of `ids`. Their bytes may be invalid UTF-8; `errors` as in bytes.decode.

        skip_special_tokens: leave the special tokens out of the text.

        Raises UserError for an unknown id, and UnicodeDecodeError with `errors="strict"`.
        """
        data = self._decode_ordinary(ids) if skip_special_tokens else self.decode_bytes(ids)
        if errors != "replace":
            check_codec_errors(errors)
        return data.decode("utf-8", errors=errors)

    def _decode_ordinary(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        all_ids, special = id_list(ids), set(self.special_tokens.values())
        data = self.decode_bytes(all_ids)  # checks every id
        ordinary = [token_id for token_id in map(int, all_ids) if token_id not in special]
        return data if len(ordinary) == len(all_ids) else self.decode_bytes(ordinary)

    def decode_batch(
        self,
        batch: Iterable[Sequence[int] | npt.NDArray[Any]],
        errors: str = "replace",
        *,
        skip_special_tokens: bool = False,
    ) -> list[str]:
        """Return `decode` of each sequence of ids. An error names the one, such as `batch[1]`."""
        check_kind("batch", batch, Iterable, "a list of lists of ids")
        check_codec_errors(errors)
        decode = partial(self.decode, errors=errors, skip_special_tokens=skip_special_tokens)
        return self._each("batch", batch, decode)

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder that takes ids one by one and returns text at character boundaries."""
        return StreamDecoder(self)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token. Raises UserError for an unknown id."""
        return self.decode_bytes([token_id])

    @abstractmethod
    def token_to_id(self, token: str | bytes) -> int | None:
        """Return the id of a token; None if there is no such token.

        token: as `tokenizer.json` spells it (`tokenizers` has the same method), or, if it is bytes,
        the bytes that an ordinary token stands for. In a byte-level BPE, `Ġthe` is ` the`.
        """

    @abstractmethod
    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as `tokenizer.json` spells it; None if there is no such id.

        `token_bytes` returns what it stands for.
        """

    def __len__(self) -> int:
        """Return `n_vocab`, the number of rows that a model needs."""
        return self.n_vocab

    def __eq__(self, other: object) -> bool:
        """Return whether both write the same `tokenizer.json`, and so give the same ids."""
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self is other or self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256, in hexadecimal, of what determines the ids of documents.

        That is the `tokenizer.json` that `save` writes; and the name of the token that ends a
        document, if it isn't the one that is recognized in that file alone.
        """
        content = self._serialized()
        if self.roles.eos != recognized(self.special_tokens).eos:
            content += json.dumps({"eos": self.roles.eos})
        return hashlib.sha256(content.encode()).hexdigest()

    def with_added(self, names: Sequence[str], *, special: bool = True) -> Self:
        """Return a tokenizer with further added tokens, whose ids follow the others.

        special: whether they are found only where `encode` allows it, not in any text. A special
        token with a well-known name such as `<|end|>` plays its role, unless another token is eos,
        bos, pad or unk already. Raises UserError for a name that it has.
        """
        check_names("names", names)
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"the new token {name!r} is given twice: expected it once")
        tokens = [AddedToken(name, self.n_vocab + i, special) for i, name in enumerate(names)]
        data = self.to_json()
        vocab, old = data["model"]["vocab"], {token.name for token in self.added_tokens}
        for name in names:
            if name in vocab or name in old:
                raise UserError(f"the tokenizer has a token {name!r} already: choose another name")
        data["added_tokens"] = [*data["added_tokens"], *(token.to_json() for token in tokens)]
        if old <= vocab.keys():  # else no added token needs a place there
            data["model"]["vocab"] = vocab | {token.name: token.id for token in tokens}
        return self.from_json(data, with_names(self.roles, names if special else ()))

    def save(self, folder: str | Path, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `folder`; make it if need be.

        max_length: the most tokens that a model takes, for other programs that read the folder.
        Each file is written atomically. Raises UserError if it can't be written there.
        """
        folder = as_path("folder", folder)
        make_folder(folder)
        config = tokenizer_config(self.roles, max_length)
        write_text_atomically(folder / "tokenizer_config.json", config)
        write_text_atomically(folder / "tokenizer.json", self._serialized())

    @classmethod
    def load(cls, folder_or_file: str | Path) -> Self:
        """Load a `tokenizer.json`, or the one in a folder.

        The roles of its tokens are told by the files beside a file of that name: by
        tokenizer_config.json, special_tokens_map.json, or the ids in generation_config.json and
        config.json. Else, well-known names are recognized. Raises MissingFileError if there is no
        such file, UserError if it is not of this class.
        """
        path = tokenizer_json_path(folder_or_file)
        return cls._from_file(path, read_tokenizer_json(path))

    @classmethod
    def _from_file(cls, path: Path, data: dict[str, Any]) -> Self:
        """Return the tokenizer of the contents of `path`, a file or a folder."""
        is_alone = path.is_file() and path.name != "tokenizer.json"
        folder = path if path.is_dir() else path.parent
        try:
            if is_alone:
                return cls.from_json(data)
            tokenizer = cls.from_json(add_named(data, names_beside(folder).values()))
            tokenizer._roles = roles_beside(folder, tokenizer.added_tokens)
            return tokenizer
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def _serialized(self) -> str:
        return json.dumps(self.to_json(), ensure_ascii=False) + "\n"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_json, (self.to_json(), self.roles)


class StreamDecoder:
    """Turns ids into text as they come. A character is returned with its last byte.

    The results of `feed` and `finish`, joined, are what `decode` returns for all the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Return the characters that this id completes. Raises UserError for an unknown id."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return U+FFFD if the last character is incomplete, else "". Resets the decoder."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
