"""Stop strings: found in the text wherever the borders of tokens and characters lie."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from gptfast.sample.stopping import GrowingText


def grow(tokens: list[bytes], *stop: str) -> tuple[list[str], str | None]:
    """Return what may be shown after each token and at the end, and the stop string found."""
    text = GrowingText(stop)
    shown = []
    for token in tokens:
        text.feed(token)
        shown.append(text.shown)
        if text.stopped_by is not None:
            break
    text.finish()
    return [*shown, text.shown], text.stopped_by


@pytest.mark.parametrize(
    ("tokens", "stop", "shown", "stopped_by"),
    [
        # The beginning "aa" fails on the third letter, and the next beginning is inside of it.
        (["a", "a", "a", "b", "x"], ["aab"], ["", "", "a", "a", "a"], "aab"),
        (["aaab"], ["aab"], ["a", "a"], "aab"),
        (["abab", "abc"], ["ababc"], ["", "ab", "ab"], "ababc"),
        # Across tokens, in the middle of a token, at its ends.
        (["on", "e\n", "\ntwo"], ["\n\n"], ["on", "one", "one", "one"], "\n\n"),
        (["one END two"], ["END"], ["one ", "one "], "END"),
        (["END"], ["END"], ["", ""], "END"),
        # Held back, then shown: it was something else, or the text has ended.
        (["E", "N", "X"], ["END"], ["", "", "ENX", "ENX"], None),
        (["xE", "N"], ["END"], ["x", "x", "xEN"], None),
        (["a", "b"], [], ["a", "ab", "ab"], None),
        # Several: the first to be complete ends the text, and the longer of two.
        (["abc"], ["abc", "b"], ["a", "a"], "b"),
        (["a", "b", "c"], ["abc", "b"], ["", "a", "a"], "b"),
        (["xabc"], ["bc", "abc", "c"], ["x", "x"], "abc"),
        (["xy", "z"], ["yz", "q"], ["x", "x", "x"], "yz"),
        # Once is enough.
        (["a.b", ".c"], ["."], ["a", "a"], "."),
    ],
)
def test_a_stop_string_ends_the_text_before_it(
    tokens: list[str], stop: list[str], shown: list[str], stopped_by: str | None
) -> None:
    assert grow([token.encode() for token in tokens], *stop) == (shown, stopped_by)


def test_a_stop_string_may_end_in_the_middle_of_a_character_of_several_bytes() -> None:
    bytewise = [bytes([byte]) for byte in "né漢x".encode()]
    shown, stopped_by = grow(bytewise, "漢")
    assert (shown[-1], stopped_by) == ("né", "漢")
    assert "é" not in "".join(shown[:2])
    # The token that completes the stop string begins the next character.
    assert grow([b"a\xe6\xbc", b"\xa2\xf0\x9f", b"\x99\x82"], "漢") == (["a", "a", "a"], "漢")
    # Bytes that are no UTF-8 count as one U+FFFD, and can be a stop string, too.
    assert grow([b"a\xf0", b"b"], "�b") == (["a", "a", "a"], "�b")


def cuts(data: bytes, chance: random.Random) -> Iterator[bytes]:
    while data:
        n = chance.randint(1, 4)
        yield data[:n]
        data = data[n:]


def test_the_text_is_the_same_however_it_is_cut_into_tokens() -> None:
    chance = random.Random(0)
    for _ in range(3_000):
        text = "".join(chance.choices("aabé漢", k=chance.randint(1, 12)))
        stop = ["".join(chance.choices("aabé漢", k=chance.randint(1, 3))) for _ in range(3)]
        # The naive way: look at the text after each character.
        ends = (n for n in range(len(text) + 1) if any(text[:n].endswith(one) for one in stop))
        end = next(ends, None)
        expected, by = text, None
        if end is not None:
            by = max((one for one in stop if text[:end].endswith(one)), key=len)
            expected = text[:end].removesuffix(by)
        shown, stopped_by = grow(list(cuts(text.encode(), chance)), *stop)
        assert (shown[-1], stopped_by) == (expected, by)
        for before, after in pairwise(shown):
            assert after.startswith(before)  # what was shown is never taken back
