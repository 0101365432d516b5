"""Token boundaries on the terminal."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from hypothesis import given
from rich.console import Console

from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer
from gptfast.tokenizer.show import show, visible
from tricky_text import TEXTS

BYTES = {bytes([byte]): byte for byte in range(256)}
TOKENIZER = BPETokenizer(BYTES | {b"ab": 256, b" c": 257, b"\n\n": 258}, "none")
COLOUR = {"force_terminal": True, "color_system": "256"}


def printed(
    text: str, ids: bool = False, tokenizer: Tokenizer = TOKENIZER, **options: object
) -> str:
    out = io.StringIO()
    console = Console(file=out, markup=False, highlight=False, soft_wrap=True, **options)
    show(tokenizer.encode_ordinary(text), tokenizer, console, ids)
    return out.getvalue()


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b"word", "word"),
        (b"  x", "··x"),
        (b"\r\n", "\\r⏎"),
        (b"\t", "\\t"),
        ("é日🦀".encode(), "é日🦀"),
        (b" \xf0\x9f", "·\\xf0\\x9f"),
        (b"\xa6\x80", "\\xa6\\x80"),
        (b"\x1b[31m", "\\x1b[31m"),
        ("\u202e\u200d\xa0\u2028".encode(), "\\u202e\\u200d\\xa0\\u2028"),
        (b"", ""),
    ],
)
def test_visible(token: bytes, shown: str) -> None:
    assert visible(token) == shown


def test_bars_where_there_are_no_colours() -> None:
    assert printed("abab c|é") == "ab|ab|·c|||\\xc3|\\xa9\n"
    assert printed("ab\nc\n\nab") == "ab|⏎|\nc|⏎\n⏎|\nab\n"
    assert printed("ab\n", ids=True) == "ab 256|⏎ 10\n"
    assert printed("") == "\n"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in printed("ab c", **COLOUR)
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed("ab c", **COLOUR) == "ab|·c\n"


def test_neighbours_have_other_colours() -> None:
    out = printed("abab cab\nxyz", **COLOUR)
    styles = re.findall(r"\x1b\[([\d;]+)m[^\x1b]*\x1b\[0m", out)
    assert len(styles) == 8
    assert all(a != b for a, b in itertools.pairwise(styles))
    assert re.sub(r"\x1b\[[\d;]*m", "", out) == "abab·cab⏎\nxyz\n"


def test_ids_stand_after_their_tokens_in_colour() -> None:
    out = printed("ab c", ids=True, **COLOUR)
    assert re.sub(r"\x1b\[[\d;]*m", "", out) == "ab256·c257\n"


def test_a_character_tokenizer_can_be_shown() -> None:
    assert printed("naïf", tokenizer=CharTokenizer("naïf")) == "n|a|ï|f\n"


@given(TEXTS)
def test_text_never_reaches_the_terminal_as_a_command(text: str) -> None:
    shown = printed(text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    # Without its bars, the text is there: what can be seen as itself, the rest as escapes.
    seen = [c for c in text if c.isascii() and c.isprintable() and c not in " |\\"]
    left = iter(shown)
    assert all(c in left for c in seen)
