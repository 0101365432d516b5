"""The `model` of a BPE `tokenizer.json`, apart from its vocabulary and merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.checks import check_kind, shorten


@dataclass(frozen=True)
class BPEModel:
    """How BPE encodes a pre-token, as the fields of the same names in `tokenizer.json` say.

    ignore_merges: a pre-token that is a token is not merged.
    unk_token: the token for bytes and characters that the vocabulary lacks; None leaves them out.
    fuse_unk: a run of such bytes or characters becomes one unk_token, not one for each.
    byte_fallback: merging begins with characters, not with bytes, as in the models that come from
    SentencePiece. A character that the vocabulary lacks becomes its bytes, the tokens `<0x00>` to
    `<0xFF>`.
    """

    ignore_merges: bool = False
    unk_token: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False

    def __post_init__(self) -> None:
        for name in ("ignore_merges", "fuse_unk", "byte_fallback"):
            check_kind(name, getattr(self, name), bool, "True or False")
        check_kind("unk_token", self.unk_token, (str, type(None)), "the name of a token or None")

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `model` in `tokenizer.json`, without its vocabulary and merges."""
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": self.fuse_unk,
            "byte_fallback": self.byte_fallback,
            "ignore_merges": self.ignore_merges,
        }

    @classmethod
    def from_json(cls, model: Mapping[str, Any], *, is_byte_level: bool) -> BPEModel:
        """Return the model that the fields of `model` in `tokenizer.json` describe.

        is_byte_level: whether text is spelled in the byte-level alphabet. Then bytes are never
        characters that the vocabulary lacks, and byte_fallback means nothing.

        Raises UserError for a field that is not implemented.
        """
        wanted: list[tuple[str, tuple[Any, ...]]] = [
            ("type", ("BPE",)),
            ("dropout", (None, 0.0)),
            ("continuing_subword_prefix", (None, "")),
            ("end_of_word_suffix", (None, "")),
        ]
        for name, allowed in wanted:
            if model.get(name) not in allowed:
                raise UserError(
                    f"model.{name} is {shorten(model.get(name))}: expected {allowed[0]!r}"
                )
        flags = {name: model.get(name) for name in ("ignore_merges", "fuse_unk", "byte_fallback")}
        for name, value in flags.items():
            if value not in (None, False, True):
                raise UserError(f"model.{name} is {shorten(value)}: expected true or false")
        unk_token = model.get("unk_token")
        if not isinstance(unk_token, (str, type(None))):
            raise UserError(f"model.unk_token is {shorten(unk_token)}: expected a str or null")
        return cls(
            bool(flags["ignore_merges"]),
            unk_token or None,  # GPT-2's has ""
            bool(flags["fuse_unk"]),
            not is_byte_level,
        )

    def unk_id(self, ranks: Mapping[bytes, int], added: Sequence[AddedToken]) -> int | None:
        """Return the id of unk_token, which may be an added token; None without unk_token.

        Raises UserError if it has no id.
        """
        if self.unk_token is None:
            return None
        ids = [token.id for token in added if token.name == self.unk_token]
        unk_id = ids[0] if ids else ranks.get(self.unk_token.encode())
        if unk_id is None:
            raise UserError(
                f"unk_token is {self.unk_token!r}, which is no token: expected a token that has an "
                f"id, or None"
            )
        return unk_id
