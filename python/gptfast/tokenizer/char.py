"""One id per character: the simplest tokenizer, for small corpora."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.base import IdArray, Tokenizer
from gptfast.tokenizer.checks import (
    check_between,
    check_kind,
    check_names,
    check_no_path,
    id_list,
)
from gptfast.tokenizer.formats import field, simplified
from gptfast.tokenizer.roles import Roles, checked, roles_of_trained

if TYPE_CHECKING:
    from typing_extensions import Self

_N_CODE_POINTS = 0x110000


class CharTokenizer(Tokenizer):
    """One id per character, in the order of `chars`, then the special tokens.

    A character is a code point. One that is not in `chars` gets the id of the token with the role
    unk; without such a token, text that has it can't be encoded. `roles` also says which special
    token ends a document, and so on; None recognizes well-known names.
    Raises UserError if an element of `chars` isn't one character, a token is given twice, or a role
    is not a special token's.
    """

    def __init__(
        self,
        chars: Iterable[str],
        special_tokens: Sequence[str] = (),
        roles: Roles | None = None,
    ) -> None:
        check_kind("chars", chars, Iterable, "single characters")
        check_names("special_tokens", special_tokens)
        self._chars = list(chars)
        names = list(special_tokens)
        for char in self._chars:
            if not isinstance(char, str) or len(char) != 1 or _is_surrogate(char):
                raise UserError(f"chars has {char!r}: expected single characters")
        tokens = [*self._chars, *names]
        if len(set(tokens)) != len(tokens) or "" in names:
            raise UserError(
                "a character or special token is given twice, or is empty: expected distinct ones"
            )
        self._special_tokens = {name: len(self._chars) + i for i, name in enumerate(names)}
        self._roles = checked(roles, self.added_tokens)
        self._token_bytes = [token.encode() for token in tokens]
        # By code point; `n_vocab`, which is no id, for characters that aren't in the vocabulary.
        self._id_of = np.full(_N_CODE_POINTS, self.n_vocab, dtype=np.uint32)
        self._id_of[[ord(char) for char in self._chars]] = np.arange(len(self._chars))

    @classmethod
    def train(
        cls,
        text: str,
        special_tokens: Sequence[str] = (),
        roles: Roles | None = None,
        *,
        max_chars: int | None = None,
    ) -> Self:
        """Return a tokenizer of the distinct characters of `text`, in order of code points.

        roles: by default as in `BPETokenizer.train`.
        max_chars: keep this many of them, the most frequent; the token with the role unk stands
        for the others. None for all.

        Raises UserError if characters are left out and no token has the role unk.
        """
        check_no_path(text)
        check_kind("text", text, str, "a str")
        check_names("special_tokens", special_tokens)
        roles = roles or roles_of_trained(special_tokens)
        counts = Counter(text)
        if max_chars is not None:
            check_between("max_chars", max_chars, 1, _N_CODE_POINTS)
            if len(counts) > max_chars and roles.unk is None:
                raise UserError(
                    f"the text has {len(counts):,} characters, more than max_chars {max_chars:,}, "
                    f"and no token has the role unk, to stand for the others: give one in roles"
                )
        most_frequent = sorted(counts, key=lambda char: (-counts[char], char))[:max_chars]
        return cls(sorted(most_frequent), special_tokens, roles)

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return len(self._token_bytes)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The names and ids of the special tokens."""
        return dict(self._special_tokens)

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The special tokens."""
        return tuple(AddedToken(name, i) for name, i in self._special_tokens.items())

    def with_added(self, names: Sequence[str], *, special: bool = True) -> Self:
        """Return a tokenizer with further special tokens, as `Tokenizer.with_added` does."""
        if not special:
            raise UserError("a character tokenizer has only special added tokens: expected special")
        return super().with_added(names)

    def __repr__(self) -> str:
        return f"CharTokenizer(n_vocab={self.n_vocab}, n_special={len(self._special_tokens)})"

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of `text`. Special tokens in it are encoded as ordinary text.

        Raises UserError if a character isn't in the vocabulary, and no token has the role unk.
        """
        ids: list[int] = self.encode_to_numpy(text).tolist()
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return (ids, offsets): the ids of `text`, and the range (start, end) of each character.

        Raises UserError as `encode_ordinary` does.
        """
        return self.encode_ordinary(text), [(i, i + 1) for i in range(len(text))]

    def encode_to_numpy(self, text: str) -> IdArray:
        """Return `encode_ordinary(text)` as an array of shape (n,) and this tokenizer's `dtype`."""
        check_kind("text", text, str, "a str")
        code_points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        ids = self._id_of[code_points]
        is_unknown = ids == self.n_vocab
        if is_unknown.any() and (unk := self.role_id("unk")) is not None:
            is_surrogate = (code_points & 0xFFFFF800) == 0xD800  # which is no character
            ids[is_unknown & ~is_surrogate] = unk
            is_unknown &= is_surrogate
        if is_unknown.any():
            position = int(is_unknown.argmax())
            char = text[position]
            shown = text if len(text) <= position + 20 else text[: position + 20] + "..."
            shown = shown if position <= 20 else "..." + shown[position - 20 :]
            raise UserError(
                f"the character {char!r} (U+{ord(char):04X}) at position {position}, in {shown!r}, "
                f"is not among the {len(self._chars)} characters of the vocabulary: remove it, "
                f"train on text that has it, or use BPE, which can encode any text"
            )
        return ids.astype(self.dtype, copy=False)

    def _encode_with(self, text: str, allowed: set[str] | None) -> list[int]:
        check_kind("text", text, str, "a str")
        names = self._special_tokens.keys() if allowed is None else allowed
        if not names:
            return self.encode_ordinary(text)
        longest_first = sorted(names, key=len, reverse=True)
        any_special = "|".join(re.escape(name) for name in longest_first)
        ids = []
        # re.split alternates between other text and matches of the group.
        for i, part in enumerate(re.split(f"({any_special})", text)):
            is_special = i % 2 == 1
            ids += [self._special_tokens[part]] if is_special else self.encode_ordinary(part)
        return ids

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """Return the concatenated UTF-8 of the ids' characters; of special tokens, their names.

        Raises UserError for an unknown id.
        """
        ids = id_list(ids)
        for position, token_id in enumerate(ids):
            if not (isinstance(token_id, (int, np.integer)) and 0 <= token_id < self.n_vocab):
                raise UserError(
                    f"id {token_id!r} at position {position} stands for no token: expected an id "
                    f"of this vocabulary, from 0 to {self.n_vocab - 1}"
                )
        return b"".join([self._token_bytes[token_id] for token_id in ids])

    def token_to_id(self, token: str | bytes) -> int | None:
        """Return the id of a character or special token; None if there is no such token.

        token: the character or the name; bytes are the UTF-8 of a character.
        """
        check_kind("token", token, (str, bytes), "a str or bytes")
        if isinstance(token, str) and token in self._special_tokens:
            return self._special_tokens[token]
        try:
            char = token.decode() if isinstance(token, bytes) else token
        except UnicodeDecodeError:
            return None
        token_id = int(self._id_of[ord(char)]) if len(char) == 1 else self.n_vocab
        return token_id if token_id < self.n_vocab else None

    def id_to_token(self, token_id: int) -> str | None:
        """Return a character, or the name of a special token; None if there is no such id."""
        check_kind("token_id", token_id, (int, np.integer), "an int")
        known = 0 <= token_id < self.n_vocab
        return self._token_bytes[token_id].decode() if known else None

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""
        chars = {char: i for i, char in enumerate(self._chars)}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [token.to_json() for token in self.added_tokens],
            "normalizer": None,
            # A WordLevel model whose words are single characters. Unlike a dot, [\s\S] matches \n.
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": chars | self._special_tokens,
                # No token is empty: without the role, unknown text is an error, as here.
                "unk_token": self._roles.unk or "",
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], roles: Roles | None = None) -> Self:
        """Return the tokenizer whose `to_json()` is `data`. Raises UserError if there is none.

        roles: None to recognize well-known names of special tokens. The file itself says which one
        has the role unk.
        """
        data = simplified(data)
        names = [AddedToken.from_json(token).name for token in field(data, "added_tokens", list)]
        chars = [token for token in field(data, "model.vocab", dict) if token not in names]
        tokenizer = cls(chars, names, roles)
        tokenizer._take_unk(data)
        if tokenizer.to_json() != data:
            raise UserError("expected the tokenizer.json of a character tokenizer, as it was saved")
        return tokenizer

    @classmethod
    def _from_file(cls, path: Path, data: dict[str, Any]) -> Self:
        tokenizer = super()._from_file(path, data)
        tokenizer._take_unk(data)
        return tokenizer

    def _take_unk(self, data: dict[str, Any]) -> None:
        """Take the role unk from a `tokenizer.json`, where it decides ids, as for `tokenizers`."""
        roles = replace(self._roles, unk=field(data, "model.unk_token", str) or None)
        self._roles = checked(roles, self.added_tokens)


def _is_surrogate(char: str) -> bool:
    return "\ud800" <= char <= "\udfff"
