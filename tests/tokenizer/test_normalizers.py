"""Normalizers change every text as those of `tokenizers` do."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tokenizers

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer

BYTES = {bytes([byte]): byte for byte in range(256)}
CODES = [
    *range(0xD800),
    *range(0xE000, 0x20000),
    *range(0x2F800, 0x2FA20),
    *range(0xE0000, 0xE0200),
]
CHARACTERS = [chr(code) for code in CODES]
# What composes with what follows, is put in order, or stands between.
BESIDE = ["\n", "a", "\u0301", "\u0327", "\u1100", "\u1161", "\u093c", "\u3099", "\u0345"]
FORMS = ["NFC", "NFD", "NFKC", "NFKD"]
SOME = [
    {"type": "Lowercase"},
    {"type": "Nmt"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "StripAccents"},
    {"type": "Prepend", "prepend": "▁é"},
    {"type": "Replace", "pattern": {"String": "  "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": r"\p{M}+|\s"}, "content": "-"},
    {"type": "Replace", "pattern": {"Regex": r"(?<=a)\w"}, "content": ""},
    {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]},
    {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKC"}]},
]
ALL = [{"type": form} for form in FORMS] + SOME


def ours(normalizer: dict[str, Any]) -> BPETokenizer:
    return BPETokenizer(BYTES, "none", normalizer=normalizer)


def theirs(normalizer: dict[str, Any]) -> Any:
    data = ours(normalizer).to_json()
    assert data["normalizer"] == normalizer
    return tokenizers.Tokenizer.from_buffer(ours(normalizer)._serialized().encode()).normalizer


@pytest.mark.parametrize("normalizer", [{"type": form} for form in FORMS], ids=FORMS)
def test_every_character_is_normalized_alike(normalizer: dict[str, Any]) -> None:
    normalize, expected = ours(normalizer).pretokenize, theirs(normalizer).normalize_str
    for beside in BESIDE:
        for text in ("".join(f"{beside}{c}" for c in CHARACTERS), beside.join(CHARACTERS[-3:])):
            assert "".join(normalize(text)) == expected(text)


@pytest.mark.parametrize("normalizer", SOME, ids=str)
def test_every_character_is_changed_alike(normalizer: dict[str, Any]) -> None:
    text = "".join(f"a{c}" for c in CHARACTERS)
    assert "".join(ours(normalizer).pretokenize(text)) == theirs(normalizer).normalize_str(text)


@pytest.mark.parametrize("normalizer", ALL, ids=str)
def test_generated_texts(normalizer: dict[str, Any]) -> None:
    rng = random.Random(0)
    marks = [c for c in CHARACTERS[:0x20000] if tokenizers.normalizers.NFD().normalize_str(c) != c]
    marks += BESIDE + [chr(code) for code in range(0x300, 0x370)]
    atoms = [*marks, *"aA  é日ﬁ한Å", "  ", "़", "क", "<", "𝅗", "\u16121", "\u1ab0", "\u1aeb"]
    normalize, expected = ours(normalizer).pretokenize, theirs(normalizer).normalize_str
    for _ in range(1500):
        text = "".join(rng.choices(atoms, k=rng.randrange(12)))
        assert "".join(normalize(text)) == expected(text), ascii(text)


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "NFKD"}], ids=str)
def test_texts_may_be_cut_where_safe_cut_says(normalizer: dict[str, Any]) -> None:
    tokenizer = BPETokenizer(BYTES, "gpt2", normalizer=normalizer)
    rng = random.Random(0)
    n_cuts = 0
    for _ in range(300):
        words = (rng.choice(["word", "é", "e\u0301", "日本。", "ﬁ", "a", "\n"]) for _ in range(40))
        data = " ".join(words).encode()
        for end in range(30, len(data), 7):
            cut = tokenizer.safe_cut(data[:end])
            n_cuts += cut > 0
            parts = [tokenizer.encode_bytes(part) for part in (data[:cut], data[cut:])]
            assert parts[0] + parts[1] == tokenizer.encode_bytes(data)
    assert n_cuts > 1000


def test_bytes_that_are_no_text_are_not_normalized() -> None:
    tokenizer = ours({"type": "NFC"})
    data = b"e\xcc\x81\xff\xcc\x81"
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == b"\xc3\xa9\xff\xcc\x81"


@pytest.mark.parametrize(
    ("normalizer", "complaint"),
    [
        ({"type": "Precompiled"}, "the normalizer has a Precompiled"),
        ({"type": "Strip"}, "has no strip_left"),
        ({"type": "Sequence"}, "a Sequence without normalizers"),
        ({"type": "Replace", "pattern": {"String": ""}, "content": ""}, "the empty string"),
        ({}, "the normalizer is {}"),
    ],
)
def test_what_is_refused(normalizer: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ours(normalizer)
