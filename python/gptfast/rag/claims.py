"""Find what a written sentence claims and its sources don't say: numbers and names.

The check reads words, not meanings. It finds an invented number or name, and no wrong relation
between words that the sources do have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from gptfast.rag.search import STOP_WORDS

_WORD = re.compile(r"[^\W_]+(?:[-'’.,:/][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")
_BEFORE_SENTENCE = re.compile(r"(?:^|[.!?:;…。！？\n])[\W_]*$")
_MEASURE = re.compile(r"^(\d[\d.,]*)([^\W\d_]+)$")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_POSSESSIVE = re.compile(r"['’]s$")

_SPELLED = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBERS = {name: str(value) for value, name in enumerate(_SPELLED)}
NUMBERS |= {name: str(10 * (i + 2)) for i, name in enumerate(_TENS)}
NUMBERS |= {"hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000"}
del NUMBERS["one"]  # which is a pronoun more often than a number
"""Numbers in words, with their digits."""


_OTHERS = """
according after again all also although because before both each every few further her his however
just many may more most neither none nor now off once one only other out over please same since
then therefore through thus under unless until up very while yes yet
"""
BEGINNINGS = STOP_WORDS | frozenset(_OTHERS.split())
"""Words that begin a sentence without being a name."""


def unsupported(sentence: str, sources: Sequence[str]) -> list[tuple[int, int]]:
    """Return the spans of the numbers and names of `sentence` that no source has.

    A number is a word with a digit, or one of `NUMBERS`; 1,998 and 1998 are the same. A name is a
    word with a capital letter. The first word of a sentence counts as one, too, unless it is among
    `BEGINNINGS`. Words are compared without case, accents kept. A word of several parts, such
    as USB-C or 5kg, is in a source if all its parts are.

    The spans are half-open, in characters of `sentence`, from left to right.
    """
    known = {
        _normal(part)
        for source in sources
        for _, _, word in _words(source)
        for part in (word, *_parts(word))
    }
    return [
        (begin, end)
        for begin, end, word in _words(sentence)
        if _is_claim(word, _BEFORE_SENTENCE.search(sentence[:begin]) is not None)
        and _normal(word) not in known
        and not all(_normal(part) in known for part in _parts(word))
    ]


def _words(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the words of a text with their spans, without a possessive 's."""
    for match in _WORD.finditer(text):
        word = _POSSESSIVE.sub("", match[0])
        yield match.start(), match.start() + len(word), word


def _parts(word: str) -> list[str]:
    """Return the parts of a word. A decimal number, a time or a date has only one: itself."""
    if not _has_digit(word):
        return _PART.findall(word)
    pieces = re.split("[-'’]", word)
    return [part for piece in pieces for part in _MEASURE.sub(r"\1 \2", piece).split()]


def _is_claim(word: str, is_first: bool) -> bool:
    if _has_digit(word) or any(part.casefold() in NUMBERS for part in _PART.findall(word)):
        return True
    if not any(c.isupper() or c.istitle() for c in word) or word == "I":
        return False
    return not is_first or word.casefold() not in BEGINNINGS


def _has_digit(word: str) -> bool:
    return any(c.isnumeric() for c in word)


def _normal(word: str) -> str:
    """Return a word as it is compared."""
    word = unicodedata.normalize("NFKC", word).casefold()
    if _GROUPED.fullmatch(word):
        word = word.replace(",", "")
    return NUMBERS.get(word, word)
