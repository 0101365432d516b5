"""The character tokenizer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptfast.errors import UserError
from gptfast.tokenizer import CharTokenizer, load_tokenizer

SAMPLE = "first line\n\tsecond 'line' \"é\" e\u0301 日本 🦀\r\n\0"


@given(st.text())
def test_round_trip(text: str) -> None:
    text += "\n"  # or else it may be a path, which `train` refuses
    tokenizer = CharTokenizer.train(text, ["<|endoftext|>"])
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode_to_numpy(text).tolist() == ids
    # The definition: a character's id is its place among the sorted distinct characters.
    assert ids == [sorted(set(text)).index(char) for char in text]
    assert tokenizer.special_tokens == {"<|endoftext|>": len(set(text))}


def test_by_hand() -> None:
    tokenizer = CharTokenizer.train("banana", ["<|endoftext|>"])
    assert tokenizer.encode_ordinary("nab") == [2, 0, 1]
    assert (tokenizer.n_vocab, tokenizer.eot_token) == (4, 3)
    assert tokenizer.encode("a<|endoftext|>b", "all") == [0, 3, 1]
    assert tokenizer.decode([1, 3]) == "b<|endoftext|>"
    assert tokenizer.decode(np.array([1, 0, 2], dtype=np.uint16)) == "ban"
    assert tokenizer.token_bytes(2) == b"n"


def test_given_order_is_kept() -> None:
    assert CharTokenizer("zya").encode_ordinary("ayz") == [2, 1, 0]


def test_a_special_token_that_is_not_allowed_is_text() -> None:
    tokenizer = CharTokenizer.train("<|end|>x", ["<|end|>"])
    assert tokenizer.decode(tokenizer.encode("<|end|>")) == "<|end|>"
    assert tokenizer.special_tokens["<|end|>"] not in tokenizer.encode("<|end|>")


def test_unknown_character_is_named() -> None:
    tokenizer = CharTokenizer("abc")
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 2, in 'abé'") as error:
        tokenizer.encode_ordinary("abé")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"position 500, in '\.\.\.b{20}🦀b{19}\.\.\.'"):
        tokenizer.encode_ordinary("b" * 500 + "🦀" + "b" * 500)
    with pytest.raises(UserError, match=r"U\+D83E"):
        tokenizer.encode_ordinary("\ud83e")


@pytest.mark.parametrize("bad_id", [-1, 4, 2**70])
def test_ids_out_of_range(bad_id: int) -> None:
    with pytest.raises(UserError, match=f"id {bad_id} at position 1 .* from 0 to 3"):
        CharTokenizer("abc", ["<|endoftext|>"]).decode([0, bad_id])


@pytest.mark.parametrize(
    ("chars", "special_tokens"),
    [
        (["ab"], []),
        ([""], []),
        (["\ud800"], []),
        ("aa", []),
        ("ab", ["a"]),
        ("ab", ["<x>", "<x>"]),
        ("ab", [""]),
    ],
)
def test_bad_vocabularies(chars: list[str], special_tokens: list[str]) -> None:
    with pytest.raises(UserError, match="expected"):
        CharTokenizer(chars, special_tokens)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda t: t.encode_ordinary(5), "text is a int: expected a str"),
        (lambda t: t.encode_to_numpy(b""), "text is a bytes: expected a str"),
        (lambda t: t.encode(5, "all"), "text is a int: expected a str"),
        (lambda t: t.encode("a", None), "allowed_special is None: expected 'all'"),
        (lambda t: t.decode([1.5]), r"id 1\.5 at position 0 stands for no token"),
        (lambda t: t.decode([0, "a"]), "id 'a' at position 1 stands for no token"),
        (lambda t: t.decode(np.array(5)), "the ids are a ndarray"),
        (lambda _: CharTokenizer([1]), "chars has 1: expected single characters"),  # type: ignore[list-item]
        (lambda _: CharTokenizer(5), "chars is a int: expected single characters"),  # type: ignore[arg-type]
        (lambda _: CharTokenizer("a", {"<x>"}), "special_tokens is a set: expected a list of str"),  # type: ignore[arg-type]
        (lambda _: CharTokenizer("a", "<x>"), "special_tokens is a str: expected a list of str"),
        (lambda _: CharTokenizer.train(5), "text is a int: expected a str"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_the_wrong_type(call: Callable[[Any], object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        call(CharTokenizer("abc", ["<|endoftext|>"]))


def test_dtype() -> None:
    many = [chr(0x20000 + i) for i in range(2**16)]
    assert CharTokenizer(many[:-1], ["<|endoftext|>"]).encode_to_numpy(many[0]).dtype == np.uint16
    assert CharTokenizer(many, ["<|endoftext|>"]).encode_to_numpy(many[0]).dtype == np.uint32


def test_save_load_and_pickle(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.train(SAMPLE, ["<|endoftext|>", "<|end|>"])
    tokenizer.save(tmp_path)
    for copy in (
        load_tokenizer(tmp_path),
        CharTokenizer.load(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert isinstance(copy, CharTokenizer)
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode(SAMPLE + "<|end|>", "all") == tokenizer.encode(SAMPLE + "<|end|>", "all")


def test_a_tokenizer_is_described_in_one_line() -> None:
    tokenizer = CharTokenizer("ab\n", ["<|endoftext|>"])
    assert repr(tokenizer) == "CharTokenizer(n_vocab=4, n_special=1)"


def test_a_stream_gives_the_characters_one_by_one() -> None:
    tokenizer = CharTokenizer("aé漢")
    stream = tokenizer.stream_decoder()
    assert [stream.feed(token_id) for token_id in (0, 1, 2)] == ["a", "é", "漢"]
    assert stream.finish() == ""
