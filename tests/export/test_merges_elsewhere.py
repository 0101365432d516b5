"""Merges in another order than that of training, in programs that merge by their own rules."""

from __future__ import annotations

import pytest

from gptfast.errors import UserError
from gptfast.export.html import describe_tokenizer
from gptfast.tokenizer import BPETokenizer, gguf
from gptfast.tokenizer.bpe_model import BPEModel

BYTES = {bytes([byte]): byte for byte in range(256)}
WHOLE = BYTES | {b"abc": 256}  # neither ab nor bc is a token
MERGES = [(b"b", b"c"), (b"a", b"b")]


def without_a_byte() -> BPETokenizer:
    return BPETokenizer({t: i for t, i in BYTES.items() if i}, merges=[])


@pytest.mark.parametrize(
    ("tokenizer", "complaint"),
    [
        (BPETokenizer(WHOLE), "'abc', which is found as a whole: llama.cpp never finds"),
        (BPETokenizer(WHOLE, "llama3", merges=[]), "is not found as a whole: llama.cpp always"),
        (without_a_byte(), "no token for the byte 0x00"),
        (
            BPETokenizer({b"a": 0}, merges=[], model=BPEModel(byte_fallback=True)),
            "merges characters, not bytes",
        ),
    ],
)
def test_llama_cpp_would_merge_otherwise(tokenizer: BPETokenizer, complaint: str) -> None:
    assert complaint in str(gguf.why_not(tokenizer))


@pytest.mark.parametrize(
    "tokenizer",
    [
        BPETokenizer(BYTES | {b"ab": 256, b"bc": 257}, merges=MERGES),
        BPETokenizer(WHOLE, "llama3"),
        BPETokenizer(BYTES | {b"ab": 256, b"bc": 257}, "qwen2", merges=MERGES),
    ],
)
def test_llama_cpp_merges_alike(tokenizer: BPETokenizer) -> None:
    assert gguf.why_not(tokenizer) is None
    assert gguf.from_metadata(gguf.to_metadata(tokenizer)).encode("abcd abc") == tokenizer.encode(
        "abcd abc"
    )


def test_a_page_derives_merges_from_ids() -> None:
    with pytest.raises(UserError, match="not those that tiktoken derives"):
        describe_tokenizer(BPETokenizer(BYTES | {b"ab": 256, b"bc": 257}, merges=MERGES))
    # The token of the larger id comes first, and then makes the merge of the smaller one possible.
    with pytest.raises(UserError, match="not in the order of training"):
        describe_tokenizer(BPETokenizer(BYTES | {b"abc": 256, b"ab": 257}))
    assert describe_tokenizer(BPETokenizer(WHOLE))["tokens"][256] == "abc"
