"""A split pattern as tiktoken takes it: one regular expression that matches each pre-token."""

from __future__ import annotations

import re

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten

# Named groups, references to groups, conditions on them, \G, and comments (flag x).
_NOT_TWICE = re.compile(r"\\[1-9kgGK]|\(\?(P?<[^=!]|P=|P>|\(|&|[a-z]*x|R|\d)")


def pat_str(pattern: str, regex: str) -> str:
    r"""Return `regex`, what a pattern means, so that it also matches the text between its matches.

    tiktoken drops that text, which is a pre-token here. A pattern with a name leaves none. The end
    of the last match, `\G`, makes an empty match no match.

    Raises UserError if a regular expression can't be written twice in one.
    """
    if pattern != regex:
        return regex
    if _NOT_TWICE.search(regex.replace(r"\\", "")):
        raise UserError(
            f"the pattern {shorten(regex)} has a named group, a reference to a group, \\G, \\K or "
            f"the flag x, so it can't be written for tiktoken: use an expression without"
        )
    return rf"(?>{regex})(?!\G)|(?s:.)+?(?=(?:{regex})|\z)"
