"""Dialogues for tests of chat templates, drawn by hypothesis."""

from __future__ import annotations

import re
import string

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

# No database of failures, no replays: 1,000 dialogues take seconds.
FAST = settings(
    max_examples=1000,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
WORDS = (
    "hello",
    " you",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "é",
    "日本",
    "👩‍🚀",
    "'re",
    "3.14",
    "\x00",
    "<|",
)


def dialogues(words: tuple[str, ...]) -> st.SearchStrategy[list[dict[str, str]]]:
    """Several turns, with and without a system message, which end with anyone's.

    A dialogue is drawn as one string, because a draw takes hypothesis much longer than a test:
    a lower-case letter stands for a word, a capital begins a message.
    """
    letters = string.ascii_lowercase[: len(words)]
    word_of = str.maketrans(dict(zip(letters, words, strict=True)))

    def messages(begin: str, coded: str, end: str) -> list[dict[str, str]]:
        texts = [text.translate(word_of) for text in re.split("[A-F]", coded)]
        texts[-1] += end
        roles = begin + "ua" * len(texts)
        role_of = {"s": "system", "u": "user", "a": "assistant"}
        return [{"role": role_of[r], "content": t} for r, t in zip(roles, texts, strict=False)]

    coded = st.text(letters + "ABCDEF", max_size=30)
    end = st.text(max_size=4)  # too short for the name of a special token
    return st.builds(messages, st.sampled_from(["", "s", "a"]), coded, end)
