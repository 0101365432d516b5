"""Write text that an encoding lacks."""

from __future__ import annotations


def escaped(text: str, encoding: str = "utf-8") -> str:
    r"""Return the text with the characters that the encoding lacks as escapes, such as \xe9.

    UTF-8 lacks the surrogates by which Python names files whose names are not UTF-8.
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)
