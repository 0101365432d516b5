"""Split patterns as the `pre_tokenizer` of a `tokenizer.json`."""

from __future__ import annotations

from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten

# tiktoken's patterns in Oniguruma, the regular expressions of Hugging Face, where $ also matches
# before a newline. Files of other projects may contain an older form of cl100k's pattern, which
# splits white space at the end of a text differently; it stays a regular expression.
_REGEX_OF_PATTERN = {
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": "|".join(
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ]
    ),
}
_PATTERN_OF_REGEX = {regex: pattern for pattern, regex in _REGEX_OF_PATTERN.items()}


def pattern_to_json(pattern: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` of a byte-level `tokenizer.json` with this split pattern."""
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
        "pattern": {"Regex": _REGEX_OF_PATTERN.get(pattern, pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def pattern_from_json(pre_tokenizer: Any) -> str:
    """Return the split pattern of a `pre_tokenizer`. Raises UserError if it does anything else."""
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
            return _PATTERN_OF_REGEX.get(regex, regex)
        case _:
            raise UserError(
                f"pre_tokenizer is {shorten(pre_tokenizer)}: expected ByteLevel without prefix "
                f"space, alone or after an isolating Split by a regular expression"
            )
