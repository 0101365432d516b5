"""`tokenizer.json` as Hugging Face's `tokenizers` reads and writes it, and what we refuse."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer
from tricky_text import ATOMS, TEXTS

SAMPLE = "It's the theme of these theses, naïve 日本語 🦀🦀 12345 times:\n\n\t'tis  so.\r\n" * 4
SPECIAL = ["<|endoftext|>", "<|end|>"]
PATTERNS = ["gpt2", "none", r"\p{L}+|\p{N}{1,3}"]
RANK_FILE = Path(__file__).parents[3] / "shared" / "data" / "gpt2.tiktoken"

BPES = {pattern: BPETokenizer.train(SAMPLE, 350, pattern, SPECIAL) for pattern in PATTERNS}
CHARS = CharTokenizer.train(SAMPLE + "".join(ATOMS), SPECIAL)


def in_hugging_face(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_json()))


HF_BPES = {pattern: in_hugging_face(tokenizer) for pattern, tokenizer in BPES.items()}
HF_CHARS = in_hugging_face(CHARS)


def assert_equal(ours: Tokenizer, theirs: tokenizers.Tokenizer, text: str) -> None:
    ids = theirs.encode(text).ids  # Hugging Face always finds special tokens in text
    assert ours.encode(text, allowed_special="all") == ids
    assert ours.decode(ids) == text
    assert theirs.decode(ids, skip_special_tokens=False) == text


@given(TEXTS, st.sampled_from(PATTERNS))
def test_bpe_equals_hugging_face(text: str, pattern: str) -> None:
    assert_equal(BPES[pattern], HF_BPES[pattern], text)


@given(st.lists(st.sampled_from([*ATOMS, *SPECIAL])).map("".join))
def test_char_equals_hugging_face(text: str) -> None:
    assert_equal(CHARS, HF_CHARS, text)


OVERLAPPING = ["<a>", "<a>b", ">b", "b>x", "x<a"]
OVERLAPPING_TOKENIZERS = [
    BPETokenizer.train(SAMPLE, 300, special_tokens=OVERLAPPING),
    CharTokenizer("<>abx", OVERLAPPING),
]


@given(st.lists(st.sampled_from(["<a>", "b", ">", "x", "<", "<a>b"])).map("".join))
def test_special_tokens_that_overlap_are_found_as_in_hugging_face(text: str) -> None:
    for ours in OVERLAPPING_TOKENIZERS:
        assert ours.encode(text, "all") == in_hugging_face(ours).encode(text).ids


@pytest.mark.parametrize("ours", [*BPES.values(), CHARS], ids=[*PATTERNS, "char"])
def test_there_and_back(tmp_path: Path, ours: Tokenizer) -> None:
    ours.save(tmp_path / "ours")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.n_vocab
    assert {name: theirs.token_to_id(name) for name in SPECIAL} == ours.special_tokens
    theirs.save(str(tmp_path / "theirs.json"))
    assert load_tokenizer(tmp_path / "theirs.json").fingerprint == ours.fingerprint


def test_a_file_that_hugging_face_trained(tmp_path: Path) -> None:
    # Its special tokens come first and its bytes in another order than ours: ids are what counts.
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([SAMPLE], 320, special_tokens=SPECIAL, show_progress=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.special_tokens == {"<|endoftext|>": 0, "<|end|>": 1}
    for text in (SAMPLE, *ATOMS):
        assert ours.encode(text, "all") == theirs.encode(text).ids


@pytest.mark.skipif(not RANK_FILE.exists(), reason=f"{RANK_FILE} is missing")
def test_gpt2_in_hugging_face(tmp_path: Path) -> None:
    ours = BPETokenizer.from_tiktoken(RANK_FILE)
    theirs = in_hugging_face(ours)
    for text in (SAMPLE, *ATOMS):
        assert_equal(ours, theirs, text)
    # As GPT-2's tokenizer.json was first published: merges as strings, fewer fields.
    data = ours.to_json()
    data["model"] = {
        "dropout": None,
        "unk_token": "",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "type": "BPE",
        "vocab": data["model"]["vocab"],
        "merges": [" ".join(pair) for pair in data["model"]["merges"]],
    }
    del data["pre_tokenizer"]["use_regex"]
    data["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint


def set_field(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[key]
        data[last] = value

    return change


NEXT_ID = BPES["gpt2"].n_vocab


def add_token(**given: Any) -> Callable[[dict[str, Any]], None]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)

    def change(data: dict[str, Any]) -> None:
        data["added_tokens"].append({"id": NEXT_ID, "content": "<new>", **flags, **given})

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (add_token(id=360), f"'<new>' with the id 360: expected {NEXT_ID}"),
    ],
)
def test_files_that_ask_for_other_ids_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    ours = BPES["gpt2"]
    data = copy.deepcopy(ours.to_json())
    change(data)
    # What we have: the tokens that the file names, wherever they are, with the ids it gives them.
    names = {token["content"]: token["id"] for token in data["added_tokens"]}
    ranks = {ours.token_bytes(i): i for i in range(NEXT_ID - len(SPECIAL))}
    text = "a <new> bx<new>b<new> c x<n"
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data)).encode(text).ids
    assert BPETokenizer(ranks, "gpt2", names).encode(text, "all") != theirs
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    for load in (load_tokenizer, BPETokenizer.load, BPETokenizer.from_hf):
        with pytest.raises(UserError, match=re.escape(complaint)):
            load(tmp_path)


def test_an_added_token_with_two_ids_is_refused(tmp_path: Path) -> None:
    data = copy.deepcopy(BPES["gpt2"].to_json())
    data["added_tokens"][0]["id"] = 400
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    assert theirs.encode("<|endoftext|>").ids == [data["model"]["vocab"]["<|endoftext|>"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"'<\|endoftext\|>' with the id 400: expected 303"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("normalized", [False, True])
def test_added_tokens_get_the_ids_that_hugging_face_gives_them(
    tmp_path: Path, normalized: bool
) -> None:
    data = copy.deepcopy(BPES["gpt2"].to_json())
    for token in data["added_tokens"]:
        token["normalized"] = normalized
    add_token(normalized=normalized, special=False)(data)
    add_token(id=NEXT_ID + 1, content="w>a", normalized=normalized)(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    for text in ("a <new>aw>a", "w>new><new>", SAMPLE + "<|end|><new>"):
        assert ours.encode(text, "all") == theirs.encode(text).ids


def drop_a_byte(data: dict[str, Any]) -> None:
    del data["model"]["vocab"]["a"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_field("model", None), "model.type"),
        (set_field("model.type", "Unigram"), "model.type"),
        (set_field("model.type", ["BPE"]), "model.type"),
        (set_field("model.vocab", []), "model.vocab is"),
        (set_field("model.merges", None), "model.merges is None: expected a list"),
        (set_field("model.merges", [1]), "model.merges has 1: expected a pair of tokens"),
        (set_field("model.dropout", 0.1), "model.dropout is 0.1"),
        (set_field("model.end_of_word_suffix", "</w>"), "end_of_word_suffix"),
        (set_field("model.vocab.日", 5), "stands for no byte"),
        (set_field("model.vocab.a", 1.5), "has the id 1.5: expected an int"),
        (set_field("model.vocab.a", -1), "has the id -1: expected an int"),
        (set_field("model.vocab.a", 2**31), "expected at most"),
        (set_field("model.vocab.a", 2**70), "expected an int from 0"),
        (set_field("model.vocab.a", 98), "the same id 98"),
        (set_field("normalizer", {"type": "Precompiled"}), "normalizer has a Precompiled"),
        (set_field("post_processor", {"type": "TemplateProcessing"}), "post_processor"),
        (set_field("decoder", None), "decoder is None"),
        (set_field("pre_tokenizer", None), "decoder is"),
        (set_field("pre_tokenizer.add_prefix_space", None), "no add_prefix_space"),
        (set_field("added_tokens", [{"content": "<|x|>"}]), "added_tokens has"),
        (set_field("added_tokens", {}), "added_tokens is"),
        (drop_a_byte, "which has no id: expected a token of the vocabulary"),
    ],
)
def test_bpe_files_that_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    data = copy.deepcopy(BPES["gpt2"].to_json())
    change(data)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as error:
        load_tokenizer(path)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        set_field("model.vocab.a", 1000),
        set_field("model.vocab.ab", 1000),
        set_field("model.unk_token", "a"),
        set_field("pre_tokenizer", None),
        set_field("added_tokens", None),
        set_field("model.vocab", None),
    ],
)
def test_char_files_that_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    data = copy.deepcopy(CHARS.to_json())
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="expected"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model": {', "\xff", "[" * 100_000])
def test_files_that_are_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    for load in (load_tokenizer, BPETokenizer.load, CharTokenizer.load):
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            load(tmp_path)


def test_a_special_token_that_the_file_cannot_tell_from_a_token() -> None:
    # "Ġt" is how the file spells the token " t".
    ranks = {bytes([byte]): byte for byte in range(256)} | {b" t": 256}
    with pytest.raises(
        UserError, match="the special token 'Ġt' and the token b' t' have the same spelling"
    ):
        BPETokenizer(ranks, special_tokens={"Ġt": 257})
    with pytest.raises(UserError, match=r"same spelling in tokenizer\.json: choose another name"):
        BPETokenizer.train("at at at", 258, special_tokens=["Ġ"])
    assert BPETokenizer(ranks, special_tokens={"Ġx": 257}).special_tokens == {"Ġx": 257}


def test_loading_the_other_class(tmp_path: Path) -> None:
    CHARS.save(tmp_path)
    with pytest.raises(UserError, match=r"model\.type is 'WordLevel': expected 'BPE'"):
        BPETokenizer.load(tmp_path)
    BPES["gpt2"].save(tmp_path)
    with pytest.raises(UserError, match="expected"):
        CharTokenizer.load(tmp_path)
