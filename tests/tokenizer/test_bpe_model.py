"""Vocabularies that training does not make, against `tokenizers` and tiktoken's definition.

Merges in any order, ids in any order, several merges that make the same token, tokens that no merge
makes, vocabularies without some bytes, and characters with a fallback to bytes.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, load_tokenizer
from gptfast.tokenizer.bpe_model import BPEModel
from gptfast.tokenizer.spelling import byte_level_alphabet

ALPHABET = byte_level_alphabet()
BYTES = {bytes([byte]): byte for byte in range(256)}
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def tokenizer_json(model: dict[str, Any]) -> dict[str, Any]:
    """Return a file without pre-tokenizer: a text is one pre-token."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    fallback = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    of_characters = model["byte_fallback"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None if of_characters else byte_level,
        "post_processor": None,
        "decoder": fallback if of_characters else byte_level,
        "model": {"type": "BPE", "dropout": None, "continuing_subword_prefix": None}
        | {"end_of_word_suffix": None}
        | model,
    }


@st.composite
def files(draw: st.DrawFn, byte_fallback: bool | None = None) -> dict[str, Any]:
    """Return the `tokenizer.json` of an invented vocabulary of the letters a, b, é and ▁."""
    if byte_fallback is None:
        byte_fallback = draw(st.booleans())
    letters = ["a", "b", "é", "▁"]
    first = letters if byte_fallback else [ALPHABET[byte] for byte in sorted("abé▁".encode())]
    tokens, merges = list(first), []
    for _ in range(draw(st.integers(0, 25))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if len(left + right) <= 12:
            merges.append([left, right])
            tokens.append(left + right)
    if draw(st.booleans()):  # every pair that makes a token, as transformers' converter lists them
        pairs = [[token[:i], token[i:]] for token in tokens for i in range(1, len(token))]
        merges += [pair for pair in pairs if pair[0] in tokens and pair[1] in tokens]
    merges = draw(st.permutations(merges))
    whole = st.lists(st.sampled_from(first), min_size=2, max_size=4).map("".join)
    tokens += draw(st.lists(whole, max_size=2))
    # The others are unknown.
    tokens += draw(st.sampled_from([[], BYTE_TOKENS, BYTE_TOKENS[:200]])) if byte_fallback else []
    if not byte_fallback and draw(st.booleans()):
        tokens += ALPHABET.values()
    unk_token = draw(st.sampled_from([None, "<unk>"]))
    tokens = list(dict.fromkeys([*tokens, *([unk_token] if unk_token else [])]))
    step = draw(st.sampled_from([1, 3]))
    ids = [step * i for i in range(len(tokens))]
    ids = draw(st.sampled_from([ids, ids[::-1], sorted(ids, key=lambda i: i * 7919 % 1009)]))
    model = {
        "unk_token": unk_token,
        "fuse_unk": draw(st.booleans()),
        "ignore_merges": draw(st.booleans()),
        "byte_fallback": byte_fallback,
        "vocab": dict(zip(tokens, ids, strict=True)),
        "merges": merges,
    }
    return tokenizer_json(model)


STRINGS = st.lists(
    st.text("ab", max_size=12)
    | st.text("abé▁", max_size=60)
    | st.sampled_from(["ab" * 40, "▁a" * 30, "x", "日", "🦀", "bx", "\x00", "<unk>", "<0x41>"]),
    max_size=4,
).map("".join)


@given(files(), st.lists(STRINGS, min_size=3, max_size=6))
def test_any_vocabulary_equals_hugging_face(data: dict[str, Any], texts: list[str]) -> None:
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    ours = BPETokenizer.from_json(data)
    saved = ours.to_json()
    again, in_theirs = (
        BPETokenizer.from_json(saved),
        tokenizers.Tokenizer.from_str(json.dumps(saved)),
    )
    assert again.to_json() == saved
    assert again == ours
    assert pickle.loads(pickle.dumps(ours)) == ours
    for text in texts:
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ids
        assert ours.encode_bytes(text.encode()) == ids
        assert again.encode(text) == ids
        assert in_theirs.encode(text).ids == ids


def by_rank(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """Encode a pre-token as tiktoken does."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks.get(parts[i] + parts[i + 1]), i) for i in range(len(parts) - 1)]
        possible = [(rank, i) for rank, i in pairs if rank is not None]
        if not possible:
            return [ranks[part] for part in parts]
        _, i = min(possible)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@st.composite
def ranks_in_any_order(draw: st.DrawFn) -> dict[bytes, int]:
    tokens = draw(st.lists(st.text("ab", min_size=2, max_size=6), max_size=20, unique=True))
    tokens += draw(st.sampled_from([[], ["aa", "bb", "ab"]]))
    tokens = draw(st.permutations(list(dict.fromkeys(tokens))))
    return BYTES | {token.encode(): 256 + i for i, token in enumerate(tokens)}


@given(ranks_in_any_order(), st.lists(st.text("abc", min_size=1, max_size=70), min_size=3))
def test_ranks_in_any_order_equal_tiktoken(ranks: dict[bytes, int], texts: list[str]) -> None:
    ours = BPETokenizer(ranks, "none")
    theirs = tiktoken.Encoding(
        "invented", pat_str=ours.pat_str, mergeable_ranks=ours.mergeable_ranks, special_tokens={}
    )
    saved = ours.to_json()
    in_hugging_face = tokenizers.Tokenizer.from_str(json.dumps(saved))
    assert ours.mergeable_ranks == ranks
    assert BPETokenizer.from_json(saved) == ours
    assert BPETokenizer.from_json(saved).mergeable_ranks == ranks
    for text in texts:
        ids = by_rank(ranks, text.encode())
        assert theirs.encode_ordinary(text) == ids
        assert ours.encode(text) == ids
        assert in_hugging_face.encode(text).ids == ids


def test_a_token_that_no_merge_makes_is_found_as_a_whole() -> None:
    # Neither ab nor bc is a token, so nothing makes abc.
    ours = BPETokenizer(BYTES | {b"abc": 256}, "gpt2")
    assert ours.encode("abc") == [256]
    assert ours.encode("abcd") == [97, 98, 99, 100]
    assert ours.model == BPEModel(ignore_merges=True)
    assert ours.merges == []
    assert not BPETokenizer(BYTES | {b"ab": 256}).model.ignore_merges


def test_merges_that_are_never_applied_are_left_out() -> None:
    # a + b comes first, so b + c never meets an a before it: (a, bc) is never applied.
    ranks = BYTES | {b"ab": 256, b"bc": 257, b"abc": 258}
    merges = [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc"), (b"ab", b"c")]
    ours = BPETokenizer(ranks, merges=merges)
    assert ours.merges == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c")]
    assert ours == BPETokenizer(ranks)
    assert ours.encode("abc") == [258]


def test_other_merges_than_those_of_the_ids() -> None:
    # The merge of the larger id comes first, and of equal merges the last one counts.
    ranks = BYTES | {b"ab": 256, b"bc": 257}
    merges = [(b"a", b"b"), (b"b", b"c"), (b"a", b"b")]
    ours = BPETokenizer(ranks, merges=merges)
    assert ours.encode("abc") == [97, 257]
    assert ours.merges == [(b"b", b"c"), (b"a", b"b")]
    assert ours.ranks == ranks
    assert ours != BPETokenizer(ranks)
    for use in (lambda: ours.mergeable_ranks, lambda: ours.pat_str):
        with pytest.raises(UserError, match="not those that tiktoken derives"):
            use()
    with pytest.raises(UserError, match="not those that tiktoken derives"):
        ours.to_tiktoken("ranks.tiktoken")
    assert ours.encode_with_offsets("abc") == ([97, 257], [(0, 1), (1, 3)])


def fallback(
    model: BPEModel, letters: str = "aé▁", tokens: list[str] = BYTE_TOKENS
) -> BPETokenizer:
    names = [*letters, *tokens, "<unk>", "▁a"]
    ranks = {name.encode(): i for i, name in enumerate(names)}
    merges = [("▁".encode(), b"a")]
    return BPETokenizer(ranks, "none", merges=merges, model=model)


def test_characters_that_fall_back_to_bytes(tmp_path: Path) -> None:
    ours = fallback(BPEModel(byte_fallback=True, unk_token="<unk>"))
    text = "a▁aéß\n🦀"
    ids = ours.encode(text)
    assert ids == [0, 260, 1, 3 + 0xC3, 3 + 0x9F, 3 + 0x0A, *(3 + b for b in "🦀".encode())]
    assert ours.decode(ids) == text
    assert ours.token_bytes(3 + 0x0A) == b"\n"
    assert ours.id_to_token(3 + 0x0A) == "<0x0A>"
    assert ours.id_to_token(0) == "a"
    assert ours.token_to_id("<0x0A>") == 3 + 0x0A
    assert ours.token_to_id("▁a") == 260
    assert ours.encode_with_offsets("aß")[1] == [(0, 1), (1, 2), (1, 2)]
    assert ours.encode_bytes(b"a\xff\xfe") == [0, 3 + 0xFF, 3 + 0xFE]
    ours.save(tmp_path)
    assert load_tokenizer(tmp_path) == ours
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("model", "ids"),
    [
        (BPEModel(byte_fallback=True), [0, 0]),
        (BPEModel(byte_fallback=True, unk_token="<unk>"), [3, 0, 3, 3, 0]),
        (BPEModel(byte_fallback=True, unk_token="<unk>", fuse_unk=True), [3, 0, 3, 0]),
    ],
)
def test_unknown_characters(model: BPEModel, ids: list[int]) -> None:
    ours = fallback(model, tokens=[])
    assert ours.encode("xaxya") == ids
    with pytest.raises(UserError, match="characters that the vocabulary lacks"):
        ours.encode_with_offsets("xaxya")


def test_a_text_of_characters_is_cut_where_no_merge_is() -> None:
    # Long enough for many buffers of pieces, and for words that are too long for the cache.
    ours = fallback(BPEModel(byte_fallback=True))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))
    rng = np.random.default_rng(0)
    text = "".join(rng.choice([*"aé▁ab日\n", "▁" * 300, "▁a" * 90], 20_000).tolist())
    assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"merges": [(b"a", b"b")]}, 'the token "ab", which has no id'),
        ({"merges": [(b"a", b"xy")]}, 'the token "xy", which has no id'),
        ({"merges": [b"ab"]}, "merges has b'ab': expected a pair of bytes"),
        ({"merges": {}}, "merges is a dict: expected a list"),
        ({"model": BPEModel(unk_token="<unk>"), "merges": []}, "'<unk>', which is no token"),
        ({"model": {}}, "model is a dict: expected a BPEModel"),
    ],
)
def test_models_that_are_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        BPETokenizer(BYTES, **arguments)


def test_merges_of_what_stands_for_unknown_text_are_refused() -> None:
    ranks = {b"a": 0, b"<0x41>": 1, b"a<0x41>": 2}
    with pytest.raises(UserError, match="which stands for unknown text: expected no merge of it"):
        BPETokenizer(ranks, merges=[(b"a", b"<0x41>")], model=BPEModel(byte_fallback=True))
