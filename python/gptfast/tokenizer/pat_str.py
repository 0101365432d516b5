"""A split pattern as tiktoken takes it: one regular expression that matches each pre-token."""

from __future__ import annotations

from gptfast.tokenizer.patterns import to_oniguruma

_NAMES = ("gpt2", "cl100k", "o200k", "none")


def pat_str(pattern: str) -> str:
    r"""Return the regular expression of a pattern, which also matches the text between its matches.

    tiktoken drops that text, which is a pre-token here. A pattern with a name leaves none. The end
    of the last match, `\G`, makes an empty match no match.
    """
    # Written for a tokenizer.json, it means the same to tiktoken, and has no groups.
    regex = to_oniguruma(pattern)
    return regex if pattern in _NAMES else rf"(?>{regex})(?!\G)|(?s:.)+?(?=(?:{regex})|\z)"
