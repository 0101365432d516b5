"""A split pattern as tiktoken takes it: one regular expression that matches each pre-token."""

from __future__ import annotations

import re

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten

PATTERN_NAMES = frozenset({"gpt2", "cl100k", "o200k", "none"})
"""The patterns that are known by a name; any other is a regular expression."""

# Named groups, references to groups, conditions on them, \G, and comments (flag x).
_NOT_TWICE = re.compile(r"\\[1-9kgGK]|\(\?(P?<[^=!]|P=|P>|\(|&|[a-z]*x|R|\d)")


def with_text_between(regex: str) -> str:
    r"""Return an expression that matches what `regex` matches, and the text between two matches.

    tiktoken drops that text, which is a pre-token here. The end of the last match, `\G`, makes an
    empty match no match.

    Raises UserError if `regex` can't be written twice in one expression.
    """
    if _NOT_TWICE.search(regex.replace(r"\\", "")):
        raise UserError(
            f"the pattern {shorten(regex)} has a named group, a reference to a group, \\G, \\K or "
            f"the flag x, so it can't be written for tiktoken: use an expression without"
        )
    return rf"(?>{regex})(?!\G)|(?s:.)+?(?=(?:{regex})|\z)"
