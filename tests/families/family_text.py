"""Strings and texts in which the parts of tokenizers meet: scripts, marks, spaces, names of tokens.

Nothing has code points that Unicode has not assigned: libraries differ in its version.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from functools import cache

from tricky_text import ATOMS

CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'ve", "'Ve", "'m", "'M", "'ll", "'lL", "'d"]
SPACES = list(" \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2009\u2028\u2029\u202f\u205f\u3000▁")
JOINED = ["👩‍🔬", "🏳️‍🌈", "🇩🇪", "👍🏽", "#️⃣", "‍", "\u200c", "️"]
NORMALIZED = ["ﬁ", "ﷺ", "①", "ｆｕｌｌ", "½", "Å", "Ω", "ḍ̇", "각", "각", "がぎ", "½²", "ſ"]
CODE = ["def f(x):\n    return x", "\t\tif (a != b) {", "//", "/* */\n", "x_1 += 12345;", "0x1F600"]


@cache
def blocks() -> list[list[str]]:
    """The assigned characters, by blocks of 64 code points."""
    found = []
    for first in range(0, 0x20000, 64):
        block = map(chr, range(first, first + 64))
        assigned = [c for c in block if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
        found += [assigned] if assigned else []
    return found


def word(rng: random.Random, names: Sequence[str]) -> str:
    kind = rng.randrange(16)
    if kind < 4:
        # The lower blocks more often: there are the alphabets.
        block = blocks()[min(rng.randrange(len(blocks())) for _ in range(rng.choice([1, 3])))]
        return "".join(rng.choices(block, k=rng.randrange(1, 8)))
    if kind == 4:
        return "".join(rng.choices(SPACES, k=rng.randrange(1, 5)))
    if kind == 5:
        return rng.choice([" ", "\n", "\t", " \n", "a", "=", "1", "字"]) * rng.randrange(1, 20)
    if kind == 6:
        return rng.choice(["don", "I", "THEY", "É", ""]) + rng.choice(CONTRACTIONS)
    if kind == 7:
        return str(rng.randrange(10 ** rng.randrange(1, 12)))
    if kind == 8:
        return rng.choice("aeoAnক한") + "".join(
            chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randrange(1, 4))
        )
    if kind < 11 and names:
        name = rng.choice(names)
        start = rng.randrange(len(name)) if rng.random() < 0.3 else 0
        end = rng.randrange(len(name)) + 1 if rng.random() < 0.3 else len(name)
        return (
            rng.choice(["", "", " ", "\n", "x"]) + name[start:end] + rng.choice(["", "", " ", "y"])
        )
    return rng.choice(rng.choice([ATOMS, JOINED, NORMALIZED, CODE, [" the", " and", " Hello"]]))


def strings(n: int, seed: int, names: Sequence[str] = ()) -> list[str]:
    """Return n strings of up to a dozen words, some of which are names of added tokens."""
    rng = random.Random(seed)
    return [
        "".join(word(rng, names) + rng.choice(["", "", " "]) for _ in range(rng.randrange(12)))
        for _ in range(n)
    ]


def every_script(n_bytes: int, seed: int, names: Sequence[str] = ()) -> str:
    """Return a text of words of all blocks of Unicode, and all else that `strings` has."""
    rng = random.Random(seed)
    words, size = [], 0
    while size < n_bytes:
        block = rng.choice(blocks())
        words.append("".join(rng.choices(block, k=rng.randrange(1, 8))) + rng.choice(["", " "]))
        words.append(word(rng, names))
        size += len(words[-2].encode()) + len(words[-1].encode())
    return "".join(words)
