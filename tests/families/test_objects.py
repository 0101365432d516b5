"""`as_tiktoken` and `as_hf` give the same ids, or name the part that the library lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from family_text import every_script, strings

from gptfast.errors import UserError
from gptfast.tokenizer import AddedToken, BPETokenizer, CharTokenizer, as_hf, as_tiktoken
from tricky_text import ATOMS

NAMES = ["<|endoftext|>", "<|im_end|>"]
TEXTS = [*strings(200, 7, NAMES), every_script(10_000, 8, NAMES)]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "none", r"\p{L}+|\d{1,2}"])
def test_the_ids_are_the_same(pattern: str) -> None:
    ours = BPETokenizer.train(ATOMS * 2, 400, pattern, NAMES, progress=False)
    tiktokens, hf = as_tiktoken(ours), as_hf(ours)
    hf.encode_special_tokens = True
    for text in TEXTS:
        ids = ours.encode_ordinary(text)
        assert tiktokens.encode_ordinary(text) == ids == hf.encode(text).ids
        assert tiktokens.decode(ids) == hf.decode(ids) == text
    hf.encode_special_tokens = False
    for text in TEXTS:
        ids = ours.encode(text, "all")
        assert tiktokens.encode(text, allowed_special="all") == ids == hf.encode(text).ids


def test_characters_are_words_of_tokenizers() -> None:
    ours = CharTokenizer("abc ", ["<unk>"])
    assert as_hf(ours).encode("ab cab").ids == ours.encode("ab cab")


def test_what_tiktoken_has_not_is_named() -> None:
    ours = BPETokenizer.train(ATOMS, 300, special_tokens=[], progress=False)
    marked = BPETokenizer(
        ours.mergeable_ranks, added_tokens=[AddedToken("<think>", 300, special=False)]
    )
    with pytest.raises(UserError, match="the added token '<think>' is not special"):
        as_tiktoken(marked)
    with pytest.raises(UserError, match="expected a BPETokenizer"):
        as_tiktoken(CharTokenizer("abc"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "library"), [(as_tiktoken, "tiktoken"), (as_hf, "tokenizers")])
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], Any], library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    ours = BPETokenizer({bytes([byte]): byte for byte in range(256)})
    with pytest.raises(UserError, match=f"pip install {library}"):
        make(ours)
