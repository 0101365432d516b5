"""Split patterns as the `pre_tokenizer` of a `tokenizer.json`.

Oniguruma reads the regular expressions there. The Rust extension translates them, so that they cut
text as the pattern does here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.bpe_model import BPEModel
from gptfast.tokenizer.checks import shorten
from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, user_error


def pattern_to_json(pattern: str, *, byte_level: bool = True) -> dict[str, Any] | None:
    """Return the `pre_tokenizer` of a `tokenizer.json` with this split pattern.

    byte_level: whether it spells text in the byte-level alphabet. Raises UserError if no regular
    expression there has the meaning of the pattern.
    """
    if pattern.startswith("{"):
        pre_tokenizer: dict[str, Any] = json.loads(pattern)
        return pre_tokenizer
    alphabet = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": pattern == "gpt2",
    }
    if pattern == "none" or (byte_level and pattern == "gpt2"):
        return alphabet if byte_level else None
    split = {
        "type": "Split",
        "pattern": {"Regex": to_oniguruma(pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, alphabet]} if byte_level else split


def pattern_from_json(pre_tokenizer: Any) -> str:
    """Return the split pattern of a `pre_tokenizer`: a name, a regular expression or its JSON.

    Raises UserError if it has a part that isn't implemented, drops text, or has a regular
    expression that means something that the patterns here can't express.
    """
    if not isinstance(pre_tokenizer, dict):
        raise UserError(
            f"pre_tokenizer is {shorten(pre_tokenizer)}: expected an object, such as a ByteLevel"
        )
    try:
        return rust_bpe().canonical_pattern(json.dumps(pre_tokenizer, ensure_ascii=False))
    except RUST_ERRORS as error:
        raise user_error(error) from None


def has_byte_level(pre_tokenizer: Any) -> bool:
    """Return whether a `pre_tokenizer` spells text in the byte-level alphabet."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*parts]}:
            return any(map(has_byte_level, parts))
        case {"type": "ByteLevel"}:
            return True
        case _:
            return False


def _kinds(pre_tokenizer: dict[str, Any]) -> list[str]:
    """Return the types of the parts of a `pre_tokenizer`, also of Sequences in it, in order."""
    if pre_tokenizer["type"] != "Sequence":
        return [pre_tokenizer["type"]]
    return [kind for part in pre_tokenizer["pretokenizers"] for kind in _kinds(part)]


_NUMERIC = frozenset(b"0123456789\xb2\xb3\xb9\xbc\xbd\xbe")
"""The bytes whose characters in the byte-level alphabet are numeric, such as `1` and `½`."""


def possible_merges(
    pattern: str, merges: Sequence[tuple[bytes, bytes]], model: BPEModel
) -> list[tuple[bytes, bytes]]:
    """Return the merges that a pattern leaves possible: all, except those of Falcon's.

    Falcon's has Digits after ByteLevel, which cuts between the numeric characters of the byte-level
    alphabet and others, even inside a character of the text. No merge across such a place can be
    applied. Without these merges, the cut changes nothing.

    Raises UserError if the pattern cuts there and `model.ignore_merges` is set.
    """
    kinds = _kinds(json.loads(pattern)) if pattern.startswith("{") else []
    if "ByteLevel" not in kinds or "Digits" not in kinds[kinds.index("ByteLevel") :]:
        return list(merges)
    if model.ignore_merges:
        raise UserError("the pre_tokenizer has Digits after ByteLevel, and model has ignore_merges")
    return [(a, b) for a, b in merges if (a[-1] in _NUMERIC) == (b[0] in _NUMERIC)]


def to_oniguruma(pattern: str) -> str:
    """Return the regular expression that means in Oniguruma what the pattern does."""
    try:
        return rust_bpe().pattern_to_oniguruma(pattern)
    except RUST_ERRORS as error:
        raise user_error(error) from None


def is_linear(pattern: str) -> bool:
    """Return whether the pattern surely cuts any text in time in proportion to its length.

    Raises UserError if it is no pattern.
    """
    try:
        return rust_bpe().pattern_is_linear(pattern)
    except RUST_ERRORS as error:
        raise user_error(error) from None


def pat_str(pattern: str) -> str:
    r"""Return the regular expression of a pattern for tiktoken, which keeps only its matches.

    So it also matches the text between two matches, which is a pre-token here. The end of the last
    match, `\G`, makes an empty match no match.
    """
    # Written for a tokenizer.json, it means the same to tiktoken, and has no groups.
    regex = to_oniguruma(pattern)
    if rust_bpe().pattern_matches_everything(pattern):
        return regex
    return rf"(?>{regex})(?!\G)|(?s:.)+?(?=(?:{regex})|\z)"
