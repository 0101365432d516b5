"""Fertility: the number of tokens per word, for each script.

As in Rust et al., "How Good is Your Tokenizer?" (ACL 2021). For scripts without spaces between
words, it is the number of tokens per character.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from gptfast.tokenizer.base import Tokenizer

# First words of Unicode character names that differ from the name of the script.
_SCRIPT_NAMES = {
    "CJK": "han",
    "HIRAGANA": "kana",
    "KATAKANA": "kana",
    "KATAKANA-HIRAGANA": "kana",
}
_WITHOUT_SPACES = frozenset({"han", "kana", "thai", "lao", "khmer", "myanmar", "tibetan"})


@dataclass(frozen=True)
class Fertility:
    """The fertility of a tokenizer on one script."""

    per: str
    """'word', or 'character' for a script without spaces."""
    n: int
    """Number of words or characters measured."""
    n_tokens_per: float
    """Tokens per word, or per character."""


@cache
def script_of(char: str) -> str | None:
    """Return a letter's script, such as 'latin' or 'han'; None if it is not a letter.

    Python has no table of scripts, so this is the first word of the character's Unicode name.
    Full-width, superscript and mathematical letters count as their NFKC form.
    """
    if not char.isalpha():
        return None
    plain = unicodedata.normalize("NFKC", char)[0]
    first = unicodedata.name(plain, "UNNAMED").split()[0]
    return _SCRIPT_NAMES.get(first, first.lower())


def words(text: str) -> Iterator[tuple[str, str]]:
    """Yield (script, word). A word is a maximal run of letters of one script and their marks."""
    start, script = 0, None
    for i, char in enumerate(text):
        if script is not None and unicodedata.category(char)[0] == "M":
            continue  # an accent or vowel sign belongs to the preceding letter
        here = script_of(char)
        if here != script:
            if script is not None:
                yield script, text[start:i]
            start, script = i, here
    if script is not None:
        yield script, text[start:]


def count_words(texts: Iterable[str]) -> dict[str, Counter[str]]:
    """Return how often each word occurs, by script; the script with the most words comes first."""
    # Classifying every character is slow, but there are few distinct strings between spaces.
    stretches: Counter[str] = Counter()
    for text in texts:
        for line in text.splitlines():
            stretches.update(line.split())
    by_script: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for stretch, n in stretches.items():
        for script, word in words(stretch):
            by_script[script][word] += n
    return dict(sorted(by_script.items(), key=lambda item: -item[1].total()))


def measure_fertility(tokenizer: Tokenizer, script: str, counts: Counter[str]) -> Fertility:
    """Return the fertility of the counted words, which are of one script.

    Each word is encoded separately, after a space if its script uses spaces: in text, the space is
    usually part of the word's first token.
    """
    has_spaces = script not in _WITHOUT_SPACES
    before = " " if has_spaces else ""
    n_tokens = sum(n * len(tokenizer.encode_ordinary(before + word)) for word, n in counts.items())
    per = "word" if has_spaces else "character"
    n_units = sum(n if has_spaces else n * len(word) for word, n in counts.items())
    return Fertility(per, n_units, n_tokens / n_units)
