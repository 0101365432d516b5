"""The Rust trainer and encoder against `bpe_reference.py`, and both against work by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptfast.tokenizer import BPETokenizer, bpe_reference
from tricky_text import TEXTS

# Few letters, so that pairs repeat, overlap and tie.
REPETITIVE = st.text("ab ", max_size=40) | st.text("aé\n", max_size=30)


def merges_as_bytes(merges: list[tuple[int, int]]) -> list[tuple[bytes, bytes]]:
    return [
        (bpe_reference.decode([left], merges), bpe_reference.decode([right], merges))
        for left, right in merges
    ]


@given(
    st.lists(REPETITIVE | TEXTS, max_size=4),
    st.lists(REPETITIVE | TEXTS, max_size=2),
    st.integers(0, 40),
    st.integers(1, 3),
    st.sampled_from(["gpt2", "none", r"\s*\w"]),
    st.lists(st.sampled_from(["ab", "aba", "b a", "Ġa", "aĠb"]), max_size=2, unique=True),
)
def test_training_and_encoding_equal_the_reference(
    texts: list[str],
    other_texts: list[str],
    n_merges: int,
    min_frequency: int,
    pattern: str,
    special_tokens: list[str],
) -> None:
    texts.append("\n")  # a text alone may be a path, which `train` refuses
    vocab_size = 256 + n_merges + len(special_tokens)
    tokenizer = BPETokenizer.train(texts, vocab_size, pattern, special_tokens, min_frequency)

    def pieces(text: str) -> list[bytes]:
        return [piece.encode() for piece in tokenizer.pretokenize(text)]

    all_pieces = [piece for text in texts for piece in pieces(text)]
    # The names as text, and as tokenizer.json spells tokens.
    forbidden = [name.replace("Ġ", " ").encode() for name in special_tokens]
    forbidden += [name.encode() for name in special_tokens]
    merges = bpe_reference.train(all_pieces, n_merges, min_frequency, forbidden)
    assert tokenizer.merges == merges_as_bytes(merges)
    assert tokenizer.n_vocab == 256 + len(merges) + len(special_tokens)
    for text in texts + other_texts:
        ids = [i for piece in pieces(text) for i in bpe_reference.encode(piece, merges)]
        assert tokenizer.encode_ordinary(text) == ids
        assert bpe_reference.decode(ids, merges) == text.encode()


def test_merges_by_hand() -> None:
    # GPT-2's pattern cuts "abab abc" into "abab" and " abc".
    #   abab, _abc:      a-b 3, b-a 1, _-a 1, b-c 1                merge a-b   = 256
    #   256 256, _256 c: 256-256 1, _-256 1, 256-c 1: a tie. The smallest pair of ids is the one
    #                    that begins with the space, id 32         merge _-256 = 257
    #   256 256, 257 c:  256-256 1, 257-c 1: a tie again           merge 256-256 = 258
    #   258, 257 c:      257-c 1                                   merge 257-c = 259
    # No pair is left, so the vocabulary ends before the 1000 ids asked for.
    tokenizer = BPETokenizer.train("abab abc", 1000)
    assert tokenizer.merges == [(b"a", b"b"), (b" ", b"ab"), (b"ab", b"ab"), (b" ab", b"c")]
    assert tokenizer.n_vocab == 256 + 4 + 1
    assert tokenizer.special_tokens == {"<|endoftext|>": 260}
    assert tokenizer.encode_ordinary("abab abcab") == [258, 259, 256]


def test_overlapping_pairs_count_and_merge_from_the_left_by_hand() -> None:
    # In "aaa" the pair a-a stands twice, so that it wins over x-y (twice, but larger ids) by the
    # tie rule, and merging it from the left leaves aa-a, which then stands once.
    tokenizer = BPETokenizer.train(["aaa", "xy", "xy"], 258, "none", special_tokens=())
    assert tokenizer.merges == [(b"a", b"a"), (b"x", b"y")]
    assert tokenizer.encode_ordinary("aaa") == [256, ord("a")]


def test_min_frequency_ends_training() -> None:
    tokenizer = BPETokenizer.train(["ab"] * 3 + ["cd"] * 2, 300, special_tokens=(), min_frequency=3)
    assert tokenizer.merges == [(b"a", b"b")]


@pytest.mark.parametrize("n_copies", [1, 7])
def test_training_depends_neither_on_order_nor_on_threads(n_copies: int) -> None:
    texts = ["the cat sat", "on the mat", "that the rat ate", "", "at last"] * n_copies
    one_text_each = BPETokenizer.train(texts, 300)
    assert BPETokenizer.train(reversed(texts), 300).merges == one_text_each.merges
    assert BPETokenizer.train((text for text in texts), 300).merges == one_text_each.merges
    # Across "\n" nothing merges unless the pattern lets it: each text is one line here.
    assert BPETokenizer.train(texts, 300).fingerprint == one_text_each.fingerprint
