"""Texts in other scripts, and code. They are generated, so that nobody's text is needed."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

KINDS = ("english", "code", "chinese", "hindi", "arabic", "emoji")
N_WORDS = 30_000
_HINDI = (
    [chr(i) for i in range(0x0915, 0x0939)],  # consonants
    ["", *(chr(i) for i in range(0x093E, 0x094D)), "्", "ं"],  # signs of vowels and others
)
_ARABIC = ([chr(i) for i in range(0x0627, 0x064A) if not 0x063A < i < 0x0641], [""])
_HAN = ([chr(i) for i in range(0x4E00, 0x4E00 + 3500)], [""])
_EMOJI = ["😀", "😂", "❤️", "👍🏽", "🎉", "👩‍💻", "👨‍👩‍👧‍👦", "🇮🇳", "🤷🏻‍♀️", "🔥🔥🔥"]
_EMOJI += [chr(i) for i in range(0x1F300, 0x1F5FF)]


def text_of(kind: str, n_bytes: int, english: bytes) -> bytes:
    """Return about `n_bytes` bytes of UTF-8. english: what to take of for "english", "emoji"."""
    random = np.random.default_rng(0)
    match kind:
        case "code":
            text = _standard_library(n_bytes)
        case "chinese":
            text = _sentences(_words(random, _HAN, (1, 2)), random, n_bytes, "", "，", "。")
        case "hindi":
            text = _sentences(_words(random, _HINDI, (1, 4)), random, n_bytes, " ", ", ", "। ")
        case "arabic":
            text = _sentences(_words(random, _ARABIC, (2, 7)), random, n_bytes, " ", "، ", ". ")
        case "emoji":
            words = english[:n_bytes].decode(errors="ignore").split(" ")
            every_third = random.choice(_EMOJI, len(words) // 3 + 1, p=_zipf(len(_EMOJI)))
            text = " ".join(
                f"{word} {every_third[i // 3]}" if i % 3 == 0 else word
                for i, word in enumerate(words)
            )
        case _:
            text = english[:n_bytes].decode(errors="ignore")
    return text.encode()[:n_bytes].decode(errors="ignore").encode()


def _zipf(n: int) -> np.ndarray:
    weights = 1 / np.arange(1, n + 1)
    return np.asarray(weights / weights.sum())


def _words(
    random: np.random.Generator, alphabet: tuple[list[str], list[str]], lengths: tuple[int, int]
) -> list[str]:
    """Return N_WORDS words, whose letters are as uneven as those of a language."""
    letters, signs = alphabet
    ends = np.cumsum(random.integers(lengths[0], lengths[1] + 1, N_WORDS))
    chosen = random.choice(letters, ends[-1], p=_zipf(len(letters)))
    syllables = np.char.add(chosen, random.choice(signs, ends[-1])).tolist()
    return ["".join(syllables[i:j]) for i, j in zip([0, *ends[:-1]], ends, strict=True)]


def _sentences(
    words: list[str], random: np.random.Generator, n_bytes: int, gap: str, comma: str, stop: str
) -> str:
    """Return sentences of words by Zipf's law, as many as `n_bytes` bytes need."""
    chosen = random.choice(words, n_bytes // 3, p=_zipf(len(words)))
    ends = random.choice([gap, comma, stop, stop + "\n"], len(chosen), p=[0.87, 0.07, 0.05, 0.01])
    return "".join(np.char.add(chosen, ends)[: n_bytes // 2])


def _standard_library(n_bytes: int) -> str:
    """Return the beginning of Python's own sources."""
    parts: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        parts.append(path.read_text(encoding="utf-8", errors="ignore"))
        size += len(parts[-1])
        if size > n_bytes:
            break
    return "".join(parts)
