"""Text of documents for a terminal: nothing in it may act on the terminal."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # part of the spelling of many scripts, and of emoji


def shown(text: str) -> str:
    r"""Return a text whose control characters are escaped, such as \x1b, line breaks included.

    Other spaces become plain ones. Characters that change the direction of the text are escaped.
    """
    return "".join(map(_shown, text))


def plain(text: str) -> str:
    """Return a text in one line, with spaces instead of control characters."""
    return " ".join("".join(c if _is_plain(c) else " " for c in text).split())


def _shown(c: str) -> str:
    if _is_plain(c):
        return c
    if c == "\t" or unicodedata.category(c) == "Zs":
        return " "
    return c.encode("unicode_escape").decode("ascii")


def _is_plain(c: str) -> bool:
    return c.isprintable() or c in _JOINERS
