"""Split patterns as the `pre_tokenizer` of a `tokenizer.json`.

Oniguruma reads the regular expressions there. The Rust extension translates them, so that they cut
text as the pattern does here.
"""

from __future__ import annotations

from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten


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
        "pattern": {"Regex": _to_oniguruma(pattern)},
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
                {
                    "type": "Split",
                    "pattern": {"Regex": str(regex)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return _from_oniguruma(regex)
        case _:
            raise UserError(
                f"pre_tokenizer is {shorten(pre_tokenizer)}: expected ByteLevel without prefix "
                f"space, alone or after an isolating Split by a regular expression"
            )


def _to_oniguruma(pattern: str) -> str:
    # Imported late: the module imports the tokenizers' interface, which imports this module.
    from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, user_error

    try:
        return rust_bpe().pattern_to_oniguruma(pattern)
    except RUST_ERRORS as error:
        raise user_error(error) from None


def _from_oniguruma(regex: str) -> str:
    from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, user_error

    try:
        return rust_bpe().pattern_from_oniguruma(regex)
    except RUST_ERRORS as error:
        raise user_error(error) from None
