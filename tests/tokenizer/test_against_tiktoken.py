"""GPT-2's own vocabulary: every id must be tiktoken's."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tricky_text import ATOMS, TEXTS

from gptfast.tokenizer import BPETokenizer

RANK_FILE = Path(__file__).parents[3] / "shared" / "data" / "gpt2.tiktoken"
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

needs_rank_file = pytest.mark.skipif(not RANK_FILE.exists(), reason=f"{RANK_FILE} is missing")


def tiktoken_encoding(
    path: Path, pattern: str, special_tokens: dict[str, int]
) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "test",
        pat_str=pattern,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens=special_tokens,
    )


if RANK_FILE.exists():
    OURS = BPETokenizer.from_tiktoken(RANK_FILE)
    THEIRS = tiktoken_encoding(RANK_FILE, GPT2_PATTERN, {"<|endoftext|>": 50256})


@needs_rank_file
def test_vocabulary() -> None:
    assert OURS.n_vocab == THEIRS.n_vocab == 50257
    assert OURS.eot_token == THEIRS.eot_token
    assert len(OURS.merges) == 50000
    # The first lines of GPT-2's published merges.
    assert OURS.merges[:3] == [(b" ", b"t"), (b" ", b"a"), (b"h", b"e")]
    for token_id in range(50256):
        assert OURS.token_bytes(token_id) == THEIRS.decode_single_token_bytes(token_id)


@needs_rank_file
@given(TEXTS | st.text(st.characters(exclude_categories=("Cs", "Cn"))))
def test_ids_are_equal(text: str) -> None:
    ids = THEIRS.encode_ordinary(text)
    assert OURS.encode_ordinary(text) == ids
    assert OURS.decode(ids) == text
    assert OURS.encode(text, "all") == THEIRS.encode(text, allowed_special="all")


@needs_rank_file
@pytest.mark.parametrize("first", ATOMS)
def test_every_two_atoms_side_by_side(first: str) -> None:
    for second in ATOMS:
        for text in (first + second, first + second + "a", " " + first + second + first):
            assert OURS.encode_ordinary(text) == THEIRS.encode_ordinary(text)


@needs_rank_file
@pytest.mark.parametrize(
    "text",
    [
        "",
        "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
        "x" * 3000,
        "ab" * 1500,
        " " * 1000 + "x" + "\n" * 1000 + "x\t \n",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽ 𓀀 Z̷̢̛a̶l̴g̵o̸",
        "def f(x):\n\treturn  x**2  # it's\n\n\n",
    ],
)
def test_nasty_texts(text: str) -> None:
    assert OURS.encode_ordinary(text) == THEIRS.encode_ordinary(text)


@needs_rank_file
def test_a_corpus() -> None:
    corpus = RANK_FILE.with_name("tinyshakespeare.txt")
    if not corpus.exists():
        pytest.skip(f"{corpus} is missing")
    text = corpus.read_text(encoding="utf-8")
    assert OURS.encode_ordinary(text) == THEIRS.encode_ordinary(text)


def test_a_vocabulary_of_ours_in_tiktoken(tmp_path: Path) -> None:
    # A split pattern that matches all text, because tiktoken drops what is between the matches.
    pattern = r"\s?\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]"
    sample = "the theme of these theses is that they're thin, 1234567 times\n" * 5
    ours = BPETokenizer.train(sample, 300, pattern)
    ours.to_tiktoken(tmp_path / "ranks.tiktoken")
    theirs = tiktoken_encoding(tmp_path / "ranks.tiktoken", pattern, ours.special_tokens)
    for text in (sample, *ATOMS, "thesis 99<|endoftext|>"):
        assert ours.encode(text, "all") == theirs.encode(text, allowed_special="all")
