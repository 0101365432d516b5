"""What BPETokenizer offers beyond encoding one text: batches, arrays, offsets, streams, files.

The oracles are tiktoken and Hugging Face's `tokenizers`, given the same vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, rust
from tricky_text import ATOMS, TEXTS

SAMPLE = (
    "It's the theme of THESE theses, naïve 日本語 🦀🦀 12345 times:\n\n\t'tis  so.\r\n" * 4
    + "".join(f"{first}{second}" for first in ATOMS for second in ATOMS)
)
GPT2_REGEX = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = ["gpt2", "cl100k", "o200k"]

TOKENIZER = BPETokenizer.train(SAMPLE, 340)
TIKTOKEN = tiktoken.Encoding(
    "ours",
    pat_str=GPT2_REGEX,
    mergeable_ranks={TOKENIZER.token_bytes(i): i for i in range(339)},
    special_tokens={"<|endoftext|>": 339},
)


def in_hugging_face(tokenizer: BPETokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, which finds no special tokens in text."""
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_json() | {"added_tokens": []}))


HUGGING_FACE = in_hugging_face(TOKENIZER)


@pytest.mark.parametrize("n_threads", [1, 2, 5, None])
def test_encode_batch(n_threads: int | None) -> None:
    texts = [*ATOMS, "", SAMPLE, "".join(ATOMS), SAMPLE * 20, ""]
    assert TOKENIZER.encode_batch(texts, n_threads) == TIKTOKEN.encode_ordinary_batch(texts)
    assert TOKENIZER.encode_batch(tuple(texts), n_threads) == [
        TOKENIZER.encode_ordinary(text) for text in texts
    ]
    assert TOKENIZER.encode_batch([], n_threads) == []


@pytest.mark.parametrize("n_threads", [1, 3])
def test_encode_batch_to_numpy(n_threads: int) -> None:
    texts = [*ATOMS, "", SAMPLE, "".join(ATOMS)]
    expected = TIKTOKEN.encode_ordinary_batch(texts)
    for batch in (texts, [text.encode() for text in texts]):
        arrays = TOKENIZER.encode_batch_to_numpy(batch, n_threads)
        assert {array.dtype for array in arrays} == {np.dtype(np.uint16)}
        assert [array.tolist() for array in arrays] == expected
    assert TOKENIZER.encode_batch_to_numpy([]) == []
    with pytest.raises(UserError, match="texts is a bytes: expected a list of texts"):
        TOKENIZER.encode_batch_to_numpy(b"ab")


@given(TEXTS, TEXTS)
def test_a_text_is_cut_without_changing_its_ids(text: str, after: str) -> None:
    """Whatever follows."""
    cut = TOKENIZER.safe_cut(text.encode())
    assert 0 <= cut <= len(text.encode())
    parts = [text.encode()[:cut], text.encode()[cut:] + after.encode()]
    ids = [i for part in parts for i in TIKTOKEN.encode_ordinary(part.decode())]
    assert ids == TIKTOKEN.encode_ordinary(text + after)


def test_text_has_places_to_cut() -> None:
    data = b"The king sees the fool"
    assert data[TOKENIZER.safe_cut(data) :] == b" fool"
    assert TOKENIZER.safe_cut(b"x" * 1000) == 0


def test_a_tokenizer_is_described_in_one_line() -> None:
    assert repr(TOKENIZER) == "BPETokenizer(n_vocab=340, pattern='gpt2', n_special=1)"
    long = BPETokenizer({bytes([byte]): byte for byte in range(256)}, GPT2_REGEX + "|\n")
    assert repr(long).startswith("BPETokenizer(n_vocab=256, pattern=")
    assert "\n" not in repr(long)
    assert len(repr(long)) < 150


@pytest.mark.parametrize("n_threads", [0, -1])
def test_too_few_threads(n_threads: int) -> None:
    with pytest.raises(UserError, match=f"n_threads is {n_threads}: expected at least 1"):
        TOKENIZER.encode_batch(["a"], n_threads)
    with pytest.raises(UserError, match=f"n_threads is {n_threads}: expected at least 1"):
        BPETokenizer.train("a", 300, n_threads=n_threads)


@pytest.mark.parametrize("text", ["a\ud83e", None, 1, ["a"]])
def test_one_bad_text_in_a_batch(text: Any) -> None:
    with pytest.raises(UserError):
        TOKENIZER.encode_batch(["fine", text], 2)


@given(TEXTS)
def test_count(text: str) -> None:
    n_ids = len(TIKTOKEN.encode_ordinary(text))
    assert TOKENIZER.count(text) == n_ids
    assert TOKENIZER.count(text.encode()) == n_ids


@given(TEXTS)
def test_encode_to_numpy_of_bytes(text: str) -> None:
    ids = TOKENIZER.encode_to_numpy(text.encode())
    assert ids.dtype == np.uint16
    assert ids.tolist() == TIKTOKEN.encode_ordinary(text)


@given(st.binary(max_size=40))
def test_encode_to_numpy_of_any_bytes(data: bytes) -> None:
    ids = TOKENIZER.encode_to_numpy(data)
    assert b"".join(TIKTOKEN.decode_single_token_bytes(i) for i in ids.tolist()) == data
    assert TOKENIZER.count(data) == len(ids)


@given(TEXTS)
def test_offsets_are_those_of_hugging_face(text: str) -> None:
    theirs = HUGGING_FACE.encode(text)
    assert TOKENIZER.encode_with_offsets(text) == (theirs.ids, theirs.offsets)


def test_offsets_of_a_character_in_several_tokens() -> None:
    single_bytes = BPETokenizer({bytes([byte]): byte for byte in range(256)})
    ids, offsets = single_bytes.encode_with_offsets("a🦀é")
    assert ids == list("a🦀é".encode())
    assert offsets == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3), (2, 3)]
    assert single_bytes.encode_with_offsets("") == ([], [])


@given(st.lists(TEXTS, max_size=5))
def test_decode_batch(texts: list[str]) -> None:
    batch = TIKTOKEN.encode_ordinary_batch(texts, num_threads=1)
    assert TOKENIZER.decode_batch(batch) == texts
    assert TOKENIZER.decode_batch([np.array(ids, dtype=np.uint16) for ids in batch]) == texts


def test_decode_batch_of_half_a_character() -> None:
    half = TIKTOKEN.encode_ordinary("ё")[:1]
    assert TOKENIZER.decode_batch([half, []]) == ["\ufffd", ""]
    assert TOKENIZER.decode_batch([half], errors="ignore") == [""]
    with pytest.raises(UnicodeDecodeError):
        TOKENIZER.decode_batch([half], errors="strict")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int32, np.int64])
def test_decode_arrays(dtype: type[np.generic]) -> None:
    ids = [i for i in TIKTOKEN.encode_ordinary(SAMPLE) if i < 256 or dtype is not np.uint8]
    text = TIKTOKEN.decode(ids)
    array = np.array(ids).astype(dtype)
    assert TOKENIZER.decode(array) == text
    assert TOKENIZER.decode(np.repeat(array, 3)[::3]) == text
    assert TOKENIZER.decode(array[::-1][::-1]) == text
    assert TOKENIZER.decode(array.astype(array.dtype.newbyteorder(">"))) == text
    assert TOKENIZER.decode(array[:0]) == ""
    array.flags.writeable = False
    assert TOKENIZER.decode(array) == text


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        ([65, -1], "-1"),
        ([65, 340], "340"),
        ([65, 2**32 + 65], str(2**32 + 65)),
        ([65, "b"], "b"),
        ((65, None), "None"),
        (np.array([65, 340], dtype=np.uint16), "340"),
        (np.array([65, 2**32 - 1], dtype=np.uint32), str(2**32 - 1)),
        (np.array([65, -1], dtype=np.int64), "-1"),
        (np.array([65, 2**32 + 65], dtype=np.int64), str(2**32 + 65)),
        (np.array([65, -1], dtype=np.int32), "-1"),
        (np.array([65, 2**63], dtype=np.uint64), str(2**63)),
        (np.array([65, 1.5]), "65.0"),
        (np.array([[65, 66]]), r"\[65, 66\]"),
    ],
    ids=repr,
)
def test_unknown_ids_are_named(ids: Any, named: str) -> None:
    with pytest.raises(UserError, match=f"id '?{named}'? at position . "):
        TOKENIZER.decode(ids)
    with pytest.raises(ValueError, match=named):
        TOKENIZER.decode_batch([[65], ids])


def test_unknown_ids_in_a_stream() -> None:
    stream = TOKENIZER.stream_decoder()
    with pytest.raises(UserError, match="id 340 "):
        stream.feed(340)
    assert stream.feed(65) == "A"


@given(TEXTS | st.lists(st.integers(0, 339)))
def test_stream_decoder(text_or_ids: str | list[int]) -> None:
    given = text_or_ids
    ids = TIKTOKEN.encode_ordinary(given) if isinstance(given, str) else given
    stream = TOKENIZER.stream_decoder()
    for _ in range(2):  # finish() begins anew
        pieces = [stream.feed(token_id) for token_id in ids]
        assert "".join(pieces) + stream.finish() == TIKTOKEN.decode(ids)
        # What has come is never less than the characters that are complete, nor half of one.
        if isinstance(given, str):
            assert "".join(pieces) == given
            assert all(piece in given for piece in pieces)


def test_a_stream_gives_a_character_with_its_last_byte() -> None:
    single_bytes = BPETokenizer({bytes([byte]): byte for byte in range(256)})
    stream = single_bytes.stream_decoder()
    assert [stream.feed(byte) for byte in "é🦀".encode()] == ["", "é", "", "", "", "🦀"]
    assert [stream.feed(byte) for byte in "🦀".encode()[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"


@pytest.fixture(scope="module")
def documents(nursery_text: str) -> list[str]:
    """Different enough that it matters which ones are learned from."""
    rng = random.Random(0)
    words = [*nursery_text.split(" "), *ATOMS]
    return ["".join(rng.choices([*words, " "], k=200)) for _ in range(40)]


def learned(tokenizer: BPETokenizer) -> tuple[list[tuple[bytes, bytes]], dict[str, int]]:
    return tokenizer.merges, tokenizer.special_tokens


@pytest.mark.parametrize("pattern", [*PATTERNS, "none"])
def test_threads_order_and_kind_of_text_do_not_matter(documents: list[str], pattern: str) -> None:
    expected = learned(BPETokenizer.train(documents, 450, pattern, n_threads=1))
    shuffled = random.Random(1).sample(documents, len(documents))
    for n_threads in (1, 2, 3, None):
        for texts in (documents, shuffled, (text.encode() for text in documents)):
            again = BPETokenizer.train(texts, 450, pattern, n_threads=n_threads)
            assert learned(again) == expected


def test_lines_are_as_good_as_one_text() -> None:
    # GPT-2's pattern cuts between a full stop and a newline's word, so the chunks add nothing.
    text = "The king sees. The fool hears; 12 crows.\n" * 50 + "naïve 日本語 🦀.\n" * 20
    expected = learned(BPETokenizer.train(text, 320))
    assert learned(BPETokenizer.train(text.splitlines(keepends=True), 320)) == expected


def hugging_face_merges(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def our_merges(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    ours = BPETokenizer.train(texts, vocab_size, special_tokens=[], tie="huggingface")
    return [(left, right) for left, right in ours.to_json()["model"]["merges"]]


@given(st.lists(st.text("abc é.", max_size=30), max_size=5))
def test_ties_as_in_hugging_face(texts: list[str]) -> None:
    assert our_merges(texts, 280) == hugging_face_merges(texts, 280)


def test_merges_of_hugging_face(nursery_text: str, documents: list[str]) -> None:
    for texts in ([nursery_text], documents, [SAMPLE]):
        assert our_merges(texts, 600) == hugging_face_merges(texts, 600)


def test_merges_of_hugging_face_on_a_corpus(shared_data: Path) -> None:
    texts = [(shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")]
    assert our_merges(texts, 4096) == hugging_face_merges(texts, 4096)


def test_from_hf_with_two_files(tmp_path: Path) -> None:
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([SAMPLE], 340, special_tokens=["<|endoftext|>"], show_progress=False)
    theirs.save_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    ours = BPETokenizer.from_hf(tmp_path)
    assert ours.special_tokens == {"<|endoftext|>": 0}
    for text in (SAMPLE, *ATOMS):
        assert ours.encode(text, "all") == theirs.encode(text).ids


def test_from_hf_with_what_later_models_have(tmp_path: Path) -> None:
    original = BPETokenizer.train(SAMPLE, 400, "cl100k")
    data = original.to_json()
    data["model"]["ignore_merges"] = True
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [399], "tokens": ["<|endoftext|>"]}
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("a").ids == [399, *original.encode("a")]
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        ours = BPETokenizer.from_hf(path)
        for text in (SAMPLE, *ATOMS):
            assert ours.encode(text, "all") == theirs.encode(text, add_special_tokens=False).ids


def test_from_hf_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no"):
        BPETokenizer.from_hf(tmp_path)


TRAINED = {pattern: BPETokenizer.train(SAMPLE, 400, pattern) for pattern in PATTERNS}
TRAINED_IN_HUGGING_FACE = {
    pattern: in_hugging_face(tokenizer) for pattern, tokenizer in TRAINED.items()
}


@given(TEXTS, st.sampled_from(PATTERNS))
def test_ids_are_those_of_hugging_face(text: str, pattern: str) -> None:
    assert TRAINED[pattern].encode(text) == TRAINED_IN_HUGGING_FACE[pattern].encode(text).ids


@pytest.mark.parametrize("pattern", PATTERNS)
def test_many_strings_have_the_ids_of_hugging_face(pattern: str) -> None:
    """A thousand; with GPTFAST_EXHAUSTIVE=1 a hundred thousand."""
    rng = random.Random(0)
    n_strings = 100_000 if os.environ.get("GPTFAST_EXHAUSTIVE") == "1" else 1000
    texts = ["".join(rng.choices(ATOMS, k=rng.randrange(16))) for _ in range(n_strings)]
    theirs = TRAINED_IN_HUGGING_FACE[pattern].encode_batch(texts)
    for text, ids, encoding in zip(
        texts, TRAINED[pattern].encode_batch(texts), theirs, strict=True
    ):
        assert ids == encoding.ids, text


def test_an_array_that_is_not_aligned_is_decoded() -> None:
    """As a slice of a file's bytes may be."""
    ids = TOKENIZER.encode_to_numpy("The naïve king")
    shifted = np.frombuffer(b"x" + ids.tobytes(), np.uint8)[1:].view(ids.dtype)
    assert not shifted.flags.aligned
    assert TOKENIZER.decode(shifted) == "The naïve king"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_round_trips(tmp_path: Path, pattern: str) -> None:
    original = TRAINED[pattern]
    original.save(tmp_path)
    original.to_tiktoken(tmp_path / "ranks.tiktoken")
    copies = [
        BPETokenizer.load(tmp_path),
        BPETokenizer.from_hf(tmp_path),
        BPETokenizer.from_tiktoken(tmp_path / "ranks.tiktoken", pattern, {"<|endoftext|>": 399}),
        pickle.loads(pickle.dumps(original)),
    ]
    theirs = TRAINED_IN_HUGGING_FACE[pattern]
    for copy in copies:
        assert (copy.pattern, copy.fingerprint) == (pattern, original.fingerprint)
        for text in (SAMPLE, *ATOMS, "".join(ATOMS)):
            assert copy.encode(text) == theirs.encode(text).ids
            assert copy.encode(f"{text}<|endoftext|>", "all")[-1] == 399


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda t: t.encode_ordinary(5), "text is a int: expected a str"),
        (lambda t: t.encode_batch("ab"), "texts is a str: expected a list of texts"),
        (lambda t: t.encode_batch(5), "texts is a int: expected a list of texts"),
        (lambda t: t.encode_batch(["a"], n_threads="2"), "n_threads is '2': expected a whole"),
        (lambda t: t.encode(5, "all"), "text is a int: expected a str"),
        (lambda t: t.encode("a", 5), "allowed_special is 5: expected 'all' or a set of"),
        (lambda t: t.pretokenize(b"a"), "text is a bytes: expected a str"),
        (lambda t: t.encode_with_offsets(b"a"), "text is a bytes: expected a str"),
        (lambda t: t.decode([97], errors="foo"), "errors is 'foo': expected 'strict', 'replace'"),
        (lambda t: t.decode([97], errors=None), "errors is None: expected a name such as"),
        (lambda t: t.decode(np.array(5)), "the ids are a ndarray: expected a list or array"),
        (lambda t: t.decode("abc"), "the ids are a str"),
        (lambda t: t.decode_batch([[97], [999]]), r"batch\[1\]: id 999 at position 0"),
        (lambda t: t.decode_batch([[97]], errors="foo"), "errors is 'foo'"),
        (lambda t: t.load(5), "folder_or_file is a int: expected a path"),
        (lambda t: t.load(None), "folder_or_file is None: expected a path"),
        (lambda t: t.from_tiktoken(5), "path is a int: expected a path"),
        (lambda t: t.from_hf(None), "path is None: expected a path"),
        (lambda t: t.from_hf("a\0b"), "expected a path without NUL"),
        (lambda t: t.save(5), "folder is a int: expected a path"),
        (lambda t: t.save("/dev/null/x"), "/dev/null/x can't be written to"),
        (lambda t: t.to_tiktoken("."), r"\. is a folder: expected the name of the file"),
        (lambda t: t.to_tiktoken("/dev/null/x"), "/dev/null can't be written to"),
        (lambda _: BPETokenizer({"a": 1}), "ranks has the token 'a': expected bytes"),
        (lambda _: BPETokenizer(None), "ranks is None: expected a dict"),
        (lambda _: BPETokenizer({}, special_tokens=["x"]), "special_tokens is a list: expected a"),
        (lambda _: BPETokenizer({}, special_tokens={5: 5}), "has the name 5: expected a str"),
        (lambda t: t.decode(65), "the ids are a int: expected a list or array of ids"),
        (lambda t: t.decode_batch(65), "batch is a int: expected a list of lists of ids"),
        (lambda t: t.decode_batch([65]), "the ids are a int"),
        (lambda t: t.decode([1.5]), "id 1.5 at position 0"),
    ],
)
def test_arguments_of_the_wrong_type(call: Callable[[Any], object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        call(BPETokenizer.train("ab", 257))


class OwnError(ValueError):
    pass


@pytest.mark.parametrize("error", [OwnError("mine"), TypeError("mine"), OverflowError("mine")])
def test_what_the_texts_raise_comes_through(error: Exception) -> None:
    def texts() -> Iterator[str]:
        yield "a text"
        raise error

    with pytest.raises(type(error), match="mine") as raised:
        BPETokenizer.train(texts(), 300)
    assert raised.value is error
    assert not isinstance(raised.value, UserError)
    with pytest.raises(UserError, match=r"texts\[1\] is a int: expected a str or bytes"):
        BPETokenizer.train((text for text in ["a", 5]), 300)  # type: ignore[misc]


def test_training_takes_arrays_and_bytes_of_text() -> None:
    expected = BPETokenizer.train(["ab ab", "abab"], 258).merges
    assert BPETokenizer.train(np.array(["ab ab", "abab"]), 258).merges == expected
    assert BPETokenizer.train(b"ab ab abab", 258).merges == expected


def test_merges_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\n\xff \xff\n")
    with pytest.raises(UserError, match=r"merges\.txt is not UTF-8 text \(byte 14\)"):
        BPETokenizer.from_hf(tmp_path)


def test_a_long_pre_token_equals_tiktoken(shared_data: Path) -> None:
    """Merged in blocks here; with a vocabulary that has tokens of all lengths."""
    text = (shared_data / "tinyshakespeare.txt").read_text()[:300_000]
    ours = BPETokenizer.from_tiktoken(shared_data / "gpt2.tiktoken", "none", {})
    ranks = {ours.token_bytes(i): i for i in range(ours.n_vocab)}
    theirs = tiktoken.Encoding("x", pat_str=r"(?s).+", mergeable_ranks=ranks, special_tokens={})
    for start in range(3):  # blocks end at other places
        assert ours.encode_ordinary(text[start:]) == theirs.encode_ordinary(text[start:])


def test_without_rust_utf8_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gptfast._rust", None)
    spec = importlib.util.spec_from_file_location("without_rust", rust.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.utf8_error(b"caf\xe9") == 3
    assert module.utf8_error("é".encode()) is None
