"""What BPETokenizer promises by itself: round trips, special tokens, errors, speed's order."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from timing import assert_takes_at_most
from tricky_text import TEXTS

SAMPLE = "The quick brown fox, it's said, didn't jump over 12 lazy dogs.\n\n日本語 🦀🦀 naïve\n" * 3
BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(SAMPLE, 300, special_tokens=["<|endoftext|>", "<|end|>"])


PATTERNS = ["gpt2", "none", r"\w+|\s+"]
TRAINED = {pattern: BPETokenizer.train(SAMPLE, 330, pattern) for pattern in PATTERNS}


@given(TEXTS | st.text(), st.sampled_from(PATTERNS))
def test_round_trip(text: str, pattern: str) -> None:
    tokenizer = TRAINED[pattern]
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.pretokenize(text)) == text
    assert tokenizer.encode_bytes(text.encode()) == ids
    assert tokenizer.encode_to_numpy(text).tolist() == ids
    assert tokenizer.encode(text) == ids


@given(st.binary(max_size=60))
def test_bytes_round_trip(data: bytes) -> None:
    tokenizer = TRAINED["gpt2"]
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_all_bytes_round_trip(tokenizer: BPETokenizer) -> None:
    data = bytes(range(256))
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]


def test_invalid_utf8_stands_apart() -> None:
    # 0xff begins no character and 0xe2 0x82 is half of one: together one pre-token, so that a
    # vocabulary with their merge uses it, while the letters beside them stay out of it.
    ranks = BYTES | {b"\xff\xe2": 256, b"a\xff": 257, b"\x82b": 258}
    tokenizer = BPETokenizer(ranks, "none")
    assert tokenizer.encode_bytes(b"a\xff\xe2\x82b") == [ord("a"), 256, 0x82, ord("b")]


@given(TEXTS)
def test_gpt2_pattern_equals_the_regex_module(text: str) -> None:
    # The module's own \s also has U+001C to U+001F, which Unicode does not call white space.
    space = r"\p{White_Space}"
    pattern = (
        rf"'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?[^{space}\p{{L}}\p{{N}}]+"
        rf"|{space}+(?![^{space}])|{space}+"
    )
    assert TRAINED["gpt2"].pretokenize(text) == regex.findall(pattern, text)


def test_text_between_the_matches_of_a_pattern_is_kept() -> None:
    digits = BPETokenizer(BYTES, r"\d+")
    assert digits.pretokenize("ab12cd") == ["ab", "12", "cd"]


def test_special_tokens_come_from_text_only_when_allowed(tokenizer: BPETokenizer) -> None:
    eot, end = tokenizer.special_tokens["<|endoftext|>"], tokenizer.special_tokens["<|end|>"]
    assert (eot, end) == (tokenizer.n_vocab - 2, tokenizer.n_vocab - 1)
    assert tokenizer.eot_token == eot
    text = "x<|endoftext|><|end|>y"
    assert max(tokenizer.encode(text)) < eot
    assert max(tokenizer.encode_ordinary(text)) < eot
    assert tokenizer.encode(text, allowed_special="all") == [ord("x"), eot, end, ord("y")]
    only_end = tokenizer.encode(text, allowed_special={"<|end|>"})
    assert [i for i in only_end if i >= eot] == [end]
    for ids in (tokenizer.encode(text), only_end, tokenizer.encode(text, "all")):
        assert tokenizer.decode(ids) == text


def test_the_longest_special_token_counts() -> None:
    tokenizer = BPETokenizer(BYTES, special_tokens={"<a>": 256, "<a><b>": 257})
    assert tokenizer.encode("<a><b><a>", "all") == [257, 256]
    assert tokenizer.encode("<a><b><a>", {"<a>"}) == [256, *b"<b>", 256]
    # The leftmost one counts before the longest.
    overlapping = BPETokenizer(BYTES, special_tokens={"<a": 256, "a<b><c>": 257})
    assert overlapping.encode("<a<b><c>", "all") == [256, *b"<b><c>"]


def test_many_special_tokens_cost_no_more_than_one() -> None:
    names = [f"<{i}>" for i in range(5000)]
    special_tokens = {name: 256 + i for i, name in enumerate(names)}
    tokenizer = BPETokenizer(BYTES, special_tokens=special_tokens)
    assert tokenizer.encode("x<3>y<4999><5000>", "all") == [*b"x", 259, *b"y", 5255, *b"<5000>"]
    text = "<" * 1_000_000
    start = time.process_time()
    assert tokenizer.encode(text, "all") == list(text.encode())
    assert tokenizer.encode(text, set(names[1:])) == list(text.encode())
    # About 0.1 s; an alternation of 5,000 names takes 14 s.
    assert time.process_time() - start < 2


@pytest.mark.parametrize("allowed", [{"<|nope|>"}, "<|endoftext|>", 5, None, [["a"]], {1}])
def test_unknown_special_tokens_are_refused(tokenizer: BPETokenizer, allowed: Any) -> None:
    with pytest.raises(UserError, match="expected 'all' or a set of some of"):
        tokenizer.encode("x", allowed_special=allowed)


def test_no_end_of_text() -> None:
    assert BPETokenizer(BYTES).eot_token is None


@pytest.mark.parametrize(("largest_id", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_dtype_holds_the_largest_id(largest_id: int, dtype: type[np.generic]) -> None:
    tokenizer = BPETokenizer(BYTES, special_tokens={"<|endoftext|>": largest_id})
    assert tokenizer.n_vocab == largest_id + 1
    assert tokenizer.dtype == dtype
    assert tokenizer.encode_to_numpy("é").dtype == dtype
    assert tokenizer.encode_to_numpy("").dtype == dtype


def test_decode_takes_arrays_and_replaces_half_characters(tokenizer: BPETokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_to_numpy("naïve")) == "naïve"
    half = BPETokenizer(BYTES).encode_ordinary("é")[:1]
    assert BPETokenizer(BYTES).decode(half) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        BPETokenizer(BYTES).decode(half, errors="strict")


@pytest.mark.parametrize("bad_id", [-1, 300, 2**70, 1.5, None])
def test_ids_out_of_range(tokenizer: BPETokenizer, bad_id: int) -> None:
    with pytest.raises(UserError, match=f"id {bad_id} at position 1 .* from 0 to 299"):
        tokenizer.decode([65, bad_id])
    with pytest.raises(UserError, match=f"id {bad_id} at position 0"):
        tokenizer.token_bytes(bad_id)


def test_an_id_that_was_left_out_is_out_of_range() -> None:
    tokenizer = BPETokenizer(BYTES, special_tokens={"<|endoftext|>": 300})
    with pytest.raises(UserError, match="id 299 at position 0 stands for no token"):
        tokenizer.decode([299])


def test_lone_surrogates_are_refused(tokenizer: BPETokenizer) -> None:
    with pytest.raises(UserError, match=r"U\+D83E at position 1"):
        tokenizer.encode_ordinary("a\ud83e")
    with pytest.raises(UserError, match=r"U\+D83E at position 1"):
        BPETokenizer.train(["a\ud83e"], 300)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"vocab_size": 256}, "vocab_size is 256: expected at least 257"),
        ({"vocab_size": -1}, "vocab_size is -1: expected at least 257"),
        ({"vocab_size": "300"}, "vocab_size is '300': expected a whole number"),
        ({"vocab_size": 300, "min_frequency": 0}, "min_frequency is 0"),
        ({"vocab_size": 300, "min_frequency": None}, "min_frequency is None"),
        ({"vocab_size": 300, "memory_limit": 1_000_000}, "memory_limit is 1000000: expected at"),
        ({"vocab_size": 300, "pattern": "("}, "nor a valid regular expression"),
        ({"vocab_size": 300, "special_tokens": ["a"]}, "an ordinary token already"),
        ({"vocab_size": 300, "special_tokens": ["<x>", "<x>"]}, "given twice"),
        ({"vocab_size": 300, "texts": [1]}, "int"),
        ({"vocab_size": 300, "texts": 5}, "texts is a int"),
        (
            {"vocab_size": 300, "special_tokens": "<x>"},
            "special_tokens is a str: expected a list",
        ),
        ({"vocab_size": 300, "special_tokens": {"<x>", "<y>"}}, "special_tokens is a set"),
        ({"vocab_size": 300, "special_tokens": None}, "special_tokens is None: expected a list"),
        ({"vocab_size": 300, "special_tokens": 5}, "special_tokens is a int: expected a list"),
        ({"vocab_size": 300, "special_tokens": ["<x>", 5]}, "an element that is a int"),
        ({"vocab_size": 300, "tie": ["x"]}, "expected 'bytes' or 'huggingface'"),
        ({"vocab_size": 300, "pattern": None}, "pattern is None: expected the name of a pattern"),
        ({"vocab_size": 2**70}, "expected at most 2,097,151"),
        ({"vocab_size": 300, "min_frequency": 2**70}, "min_frequency is 1180591620717411303424"),
        ({"vocab_size": 300, "memory_limit": 2**70}, "memory_limit is 1180591620717411303424"),
        ({"vocab_size": 300, "memory_limit": 0}, "memory_limit is 0: expected at least 64,000,000"),
        ({"vocab_size": 300, "memory_limit": "600MB"}, "memory_limit is '600MB': expected a whole"),
        ({"vocab_size": 300, "n_threads": "2"}, "n_threads is '2'"),
        ({"vocab_size": 300, "n_threads": 2**62}, "expected at most 1,024"),
        ({"vocab_size": 3_000_000}, "vocab_size is 3000000: expected at most 2,097,151"),
    ],
)
def test_training_mistakes(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        BPETokenizer.train(**{"texts": "text", **arguments})  # type: ignore[arg-type]


def test_smallest_vocabulary() -> None:
    assert BPETokenizer.train("aaaa", 257).merges == []
    assert BPETokenizer.train([], 300).n_vocab == 257


@pytest.mark.parametrize(
    ("ranks", "complaint"),
    [
        ({token: i for token, i in BYTES.items() if i != 7}, "the byte 0x07 has no id"),
        (BYTES | {b"ab": 97}, "have the same id 97"),
        (BYTES | {b"ab": -1}, "has the id -1: expected an int from 0"),
        (BYTES | {b"ab": 2**21 - 1}, "has the id 2097151: expected at most 2097150"),
        (BYTES | {b"": 256}, "empty token"),
    ],
)
def test_ranks_that_are_no_bpe(ranks: dict[bytes, int], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        BPETokenizer(ranks)


def test_a_pattern_that_backtracks_without_end_is_an_error() -> None:
    tokenizer = BPETokenizer(BYTES, r"(x+x+)+(?!x)y")
    with pytest.raises(UserError, match="gave up on the text after byte 0"):
        tokenizer.encode_ordinary("x" * 60)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_save_load_and_pickle(tmp_path: Path, pattern: str) -> None:
    tokenizer = TRAINED[pattern]
    tokenizer.save(tmp_path / "model")
    written = {path.name for path in (tmp_path / "model").iterdir()}
    assert written == {"tokenizer.json", "tokenizer_config.json"}
    copies: list[Tokenizer] = [
        load_tokenizer(tmp_path / "model"),
        BPETokenizer.load(tmp_path / "model" / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    for copy in copies:
        assert isinstance(copy, BPETokenizer)
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.pattern == pattern
        assert copy.merges == tokenizer.merges
        assert copy.special_tokens == tokenizer.special_tokens
        assert copy.encode(SAMPLE + "<|endoftext|>", "all") == tokenizer.encode(
            SAMPLE + "<|endoftext|>", "all"
        )


def test_fingerprints_tell_tokenizers_apart() -> None:
    assert len({tokenizer.fingerprint for tokenizer in TRAINED.values()}) == len(PATTERNS)


def test_a_rank_file_of_ours_gets_the_next_id_for_its_end_of_text(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train(SAMPLE, 300)
    tokenizer.to_tiktoken(tmp_path / "ranks")
    copy = BPETokenizer.from_tiktoken(tmp_path / "ranks", "gpt2")
    assert copy.special_tokens == {"<|endoftext|>": tokenizer.n_vocab - 1}
    assert copy.fingerprint == tokenizer.fingerprint


def test_tiktoken_rank_file_round_trip(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    path = tmp_path / "ranks.tiktoken"
    tokenizer.to_tiktoken(path)
    # "YWI=" is "ab" in base64, "AA==" the byte 0.
    assert path.read_text().splitlines()[0] == "AA== 0"
    copy = BPETokenizer.from_tiktoken(path, "gpt2", tokenizer.special_tokens)
    assert copy.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("line", ["YWI=", "YWI= 256 1", "Y*I= 256", "YWI= x", "AA== 256"])
def test_bad_rank_file(tmp_path: Path, tokenizer: BPETokenizer, line: str) -> None:
    path = tmp_path / "ranks.tiktoken"
    BPETokenizer(BYTES).to_tiktoken(path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match="line 257 is"):
        BPETokenizer.from_tiktoken(path)


def test_missing_files(tmp_path: Path) -> None:
    for load in (load_tokenizer, BPETokenizer.load, BPETokenizer.from_tiktoken):
        with pytest.raises(MissingFileError, match="there is no"):
            load(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("unit", ["a", " ", "ab", "\n "])
def test_long_pre_tokens_take_about_linear_time(unit: str) -> None:
    tokenizer = BPETokenizer.train(unit * 2000, 300)
    short, long = (unit * (n // len(unit)) for n in (125_000, 1_000_000))
    # Eight times the text: an O(n^2) encoder would take 64 times as long.
    assert_takes_at_most(
        24, partial(tokenizer.encode_ordinary, short), partial(tokenizer.encode_ordinary, long)
    )


class Stopped(Exception):
    pass


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_signals_interrupt_training() -> None:
    # Random letters without a pattern keep the trainer busy for seconds.
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=3_000_000))

    def stop(*_: object) -> None:
        raise Stopped

    def train() -> None:
        timer.start()
        BPETokenizer.train(text, 1_000_000, "none")

    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(Stopped):
            train()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_importing_needs_no_torch() -> None:
    program = "import sys, gptfast.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
