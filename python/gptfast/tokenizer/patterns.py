"""Split patterns as the `pre_tokenizer` of a `tokenizer.json`.

Oniguruma reads the regular expressions there. The Rust extension translates them, so that they cut
text as the pattern does here.
"""

from __future__ import annotations

from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten
from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, user_error


def pattern_to_json(pattern: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` of a byte-level `tokenizer.json` with this split pattern.

    Raises UserError if no regular expression there has the meaning of the pattern.
    """
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": pattern == "gpt2",
    }
    if pattern in ("gpt2", "none"):
        return byte_level
    split = {
        "type": "Split",
        "pattern": {"Regex": to_oniguruma(pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def pattern_from_json(pre_tokenizer: Any) -> str:
    """Return the split pattern of a `pre_tokenizer`, a name or a regular expression.

    Raises UserError if it does anything else, or if its regular expression means something that the
    patterns here can't express.
    """
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*parts]}:
            pass
        case _:
            parts = [pre_tokenizer]
    for part in parts:
        _check_part(part)
    match [part["type"] for part in parts]:
        case ["ByteLevel"]:
            return "gpt2" if _uses_regex(parts[0]) else "none"
        case ["Split", "ByteLevel"]:
            pattern = _pattern_of_split(parts[0])
            # GPT-2's pattern leaves its own pre-tokens whole, so it may be applied twice.
            if _uses_regex(parts[1]) and pattern != "gpt2":
                raise UserError(
                    "pre_tokenizer has a ByteLevel with use_regex after a Split: expected "
                    "use_regex to be false"
                )
            return pattern
        case kinds:
            raise UserError(
                f"pre_tokenizer is a Sequence of {', '.join(kinds)}: expected one ByteLevel, alone "
                f"or after one Split"
            )


def _check_part(part: Any) -> None:
    """Raise UserError unless this is a Split, or a ByteLevel that adds nothing."""
    match part:
        case {"type": "Split"} | {"type": "ByteLevel", "add_prefix_space": False}:
            return
        case {"type": "ByteLevel"}:
            raise UserError(
                f"pre_tokenizer has a ByteLevel with add_prefix_space "
                f"{part.get('add_prefix_space')}: expected False"
            )
        case _:
            kind = f"has a {part['type']}" if _has_type(part) else f"is {shorten(part)}"
            raise UserError(
                f"pre_tokenizer {kind}: expected ByteLevel without prefix space, alone or after a "
                f"Split"
            )


def _has_type(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str)


def _uses_regex(byte_level: dict[str, Any]) -> bool:
    return bool(byte_level.get("use_regex", True))  # missing, it means True in the format


def to_oniguruma(pattern: str) -> str:
    """Return the regular expression that means in Oniguruma what the pattern does."""
    try:
        return rust_bpe().pattern_to_oniguruma(pattern)
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


def _pattern_of_split(split: dict[str, Any]) -> str:
    """Return the pattern of a Split that makes a pre-token of each match and each text between two.

    Removed and inverted, it drops what the expression doesn't match. That is the same if the
    expression matches everything. Raises UserError for any other.
    """
    match split.get("pattern"):
        case {"Regex": str(regex)}:
            pass
        case {"String": str(text)}:
            regex = "".join(c if c == " " or c.isalnum() else rf"\x{{{ord(c):x}}}" for c in text)
        case other:
            raise UserError(
                f"pre_tokenizer has a Split by {shorten(other)}: expected a Regex or a String"
            )
    try:
        pattern = rust_bpe().pattern_from_oniguruma(regex)
        keeps_all = rust_bpe().pattern_matches_everything(pattern)
    except RUST_ERRORS as error:
        raise user_error(error) from None
    behavior, invert = split.get("behavior"), split.get("invert", False)
    if behavior == "Isolated":  # inverted or not: matches and the rest are treated alike
        return pattern
    if behavior != "Removed" or not invert:
        raise UserError(
            f"pre_tokenizer has a Split with behavior {behavior} and invert {invert}: expected "
            f"Isolated"
        )
    if not keeps_all:
        raise UserError(
            f"pre_tokenizer has a Split that drops what {shorten(regex)} does not match, which may "
            f"be some text: expected the behavior Isolated, which keeps it"
        )
    return pattern
