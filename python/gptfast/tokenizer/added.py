"""Added tokens: found in text as whole names, before it is cut into pre-tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.checks import check_kind, shorten

_FLAGS = ("normalized", "lstrip", "rstrip", "single_word")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in text by its name, as Hugging Face's `tokenizers` does.

    special: found only where `encode` allows it; otherwise it is found in any text. normalized: its
    normalized name is found in the normalized text, after the other tokens. lstrip, rstrip: it
    takes the white space before it, after it. single_word: it is not found in or beside a word.
    """

    name: str
    id: int
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def for_rust(self) -> tuple[str, int, bool, bool, bool, bool, bool]:
        """Return the token as the Rust extension takes it."""
        flags = (self.normalized, self.lstrip, self.rstrip, self.single_word)
        return self.name, self.id, self.special, *flags

    def to_json(self) -> dict[str, Any]:
        """Return the token as `tokenizer.json` lists it."""
        return {
            "id": self.id,
            "content": self.name,
            "single_word": self.single_word,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "normalized": self.normalized,
            "special": self.special,
        }

    @classmethod
    def from_json(cls, token: Any) -> AddedToken:
        """Return the token of an entry of `added_tokens`. Raises UserError if there is none."""
        match token:
            case {"content": str(name), "id": int(token_id)}:
                # A token is special unless the file says otherwise.
                special = bool(token.get("special", True))
                flags = {flag: bool(token.get(flag)) for flag in _FLAGS}
                return cls(name, token_id, special, **flags)
            case _:
                raise UserError(f"added_tokens has {shorten(token)}: expected a content and an id")


def special(tokens: Iterable[AddedToken]) -> dict[str, int]:
    """Return the names and ids of the special tokens among these."""
    return {token.name: token.id for token in tokens if token.special}


def all_added(
    special_tokens: Mapping[str, int], added_tokens: Sequence[AddedToken]
) -> tuple[AddedToken, ...]:
    """Return all added tokens of a tokenizer, given its special ones and further ones.

    Raises UserError if `added_tokens` is no list of AddedToken, or a name is given twice.
    """
    check_kind("added_tokens", added_tokens, (list, tuple), "a list of AddedToken")
    for token in added_tokens:
        check_kind("added_tokens has an element that", token, AddedToken, "an AddedToken")
    tokens = (*(AddedToken(*token) for token in special_tokens.items()), *added_tokens)
    names = set()
    for token in tokens:
        if token.name in names:
            raise UserError(f"the added token {token.name!r} is given twice: expected it once")
        names.add(token.name)
    return tokens


def check_ids_alike(added_tokens: Sequence[dict[str, Any]], vocab: dict[str, Any]) -> None:
    """Raise UserError if Hugging Face would give an added token another id."""
    next_id = len(vocab)
    for token in added_tokens:
        name, given = token["content"], token["id"]
        wanted = vocab.get(name, next_id)
        next_id += name not in vocab
        if given != wanted:
            raise UserError(
                f"added_tokens has {name!r} with the id {given}: expected {wanted}, its id in "
                f"model.vocab or the next free one"
            )


def can_overlap(a: str, b: str) -> bool:
    """Return whether one name may begin in text before another that has begun there ends."""
    lengths = range(1, min(len(a), len(b)))
    return a in b or b in a or any(a.endswith(b[:n]) or b.endswith(a[:n]) for n in lengths)
