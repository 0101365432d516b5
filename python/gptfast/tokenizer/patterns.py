"""Split patterns as the `pre_tokenizer` of a `tokenizer.json`.

Oniguruma reads the regular expressions there. The Rust extension translates them, so that they cut
text as the pattern does here.
"""

from __future__ import annotations

import re
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
        case {"type": "ByteLevel", "add_prefix_space": False}:
            # A missing `use_regex` means True in the format.
            return "gpt2" if pre_tokenizer.get("use_regex", True) else "none"
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(regex)}} as split,
                {"type": "ByteLevel", "add_prefix_space": False} as byte_level,
            ],
        }:
            pattern = _from_oniguruma(regex)
            _check_split(split, regex, pattern)
            # GPT-2's pattern leaves its own pre-tokens whole, so it may be applied twice.
            if byte_level.get("use_regex", True) and pattern != "gpt2":
                raise UserError(
                    "pre_tokenizer has a ByteLevel with use_regex after a Split: expected "
                    "use_regex to be false"
                )
            return pattern
        case {"type": "ByteLevel", "add_prefix_space": prefix}:
            raise UserError(
                f"pre_tokenizer is a ByteLevel with add_prefix_space {prefix}: expected False"
            )
        case {"type": "Sequence", "pretokenizers": [*parts]}:
            kinds = [part.get("type") if isinstance(part, dict) else part for part in parts]
            raise UserError(
                f"pre_tokenizer is a Sequence of {', '.join(map(str, kinds))}: expected one Split "
                f"by a regular expression, then ByteLevel without prefix space"
            )
        case _:
            raise UserError(
                f"pre_tokenizer is {shorten(pre_tokenizer)}: expected ByteLevel without prefix "
                f"space, alone or after a Split by a regular expression"
            )


def to_oniguruma(pattern: str) -> str:
    """Return the regular expression that means in Oniguruma what the pattern does."""
    try:
        return rust_bpe().pattern_to_oniguruma(pattern)
    except RUST_ERRORS as error:
        raise user_error(error) from None


def _from_oniguruma(regex: str) -> str:
    try:
        return rust_bpe().pattern_from_oniguruma(regex)
    except RUST_ERRORS as error:
        raise user_error(error) from None


def _check_split(split: dict[str, Any], regex: str, pattern: str) -> None:
    """Raise UserError unless a Split keeps each match, and each text between two, as a pre-token.

    Removed and inverted, it drops what the expression doesn't match. That is the same if the
    expression matches everything.
    """
    behavior, invert = split.get("behavior"), split.get("invert", False)
    if behavior == "Isolated":  # inverted or not: matches and the rest are treated alike
        return
    if behavior != "Removed" or not invert:
        raise UserError(
            f"pre_tokenizer has a Split with behavior {behavior} and invert {invert}: expected "
            f"Isolated"
        )
    if not (pattern in ("gpt2", "cl100k", "o200k") or _matches_everything(regex)):
        raise UserError(
            f"pre_tokenizer has a Split that drops what {shorten(regex)} does not match: expected "
            f"the behavior Isolated, which keeps it"
        )


# Alternatives by which an expression matches any letter, number, white space and other character,
# wherever it begins: they look neither ahead nor behind.
_EVERYTHING = (
    {r"\p{L}+", r" ?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{L}"},
    {r"\p{N}+", r" ?\p{N}+", r"\p{N}{1,3}", r"\p{N}"},
    {r"\s+", r"\s"},
    {f" ?[^\\s\\p{{L}}\\p{{N}}]{rest}" for rest in ("+", "", r"+[\r\n]*", r"+[\r\n/]*")},
)


def _matches_everything(regex: str) -> bool:
    """Return whether an expression is known to leave no character unmatched in any text."""
    alternatives = _top_level_alternatives(regex)
    return all(known & alternatives for known in _EVERYTHING)


def _top_level_alternatives(regex: str) -> set[str]:
    """Split an expression at each | that is in no group, class or escape.

    Return nothing for an expression with nested classes.
    """
    alternatives, depth, in_class = [""], 0, False
    for part in re.findall(r"\\.|.", regex, re.DOTALL):
        if part == "|" and depth == 0 and not in_class:
            alternatives.append("")
            continue
        if part == "[" and in_class:
            return set()  # a class in a class
        alternatives[-1] += part
        in_class = part == "[" or (in_class and part != "]")
        depth += 0 if in_class else (part == "(") - (part == ")")
    return set(alternatives)
