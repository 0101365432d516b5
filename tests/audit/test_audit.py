"""What an audit measures, against counts by hand, the `regex` module and tiktoken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiktoken.load import load_tiktoken_bpe

from gptfast.audit import audit
from gptfast.audit.compression import (
    bytes_per_token,
    count_characters,
    count_tokens,
    count_words,
    of_naive,
    of_tokenizer,
)
from gptfast.audit.fertility import count_words as words_by_script
from gptfast.audit.fertility import measure_fertility, words
from gptfast.audit.probes import KINDS, PROSE, probe
from gptfast.audit.report import print_audit, save
from gptfast.audit.splits import splits, whole_numbers
from gptfast.audit.vocabulary import measure_vocabulary
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from tricky_text import TEXTS

BYTES = {bytes([byte]): byte for byte in range(256)}
ONLY_BYTES = BPETokenizer(BYTES, special_tokens={"<|endoftext|>": 256})
# Ids with a gap, a special token in the middle.
SMALL = BPETokenizer(BYTES | {b"ab": 256, b" ab": 258, b"12": 260}, special_tokens={"<|x|>": 259})
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

UNICODE_SCRIPTS = {name: rf"\p{{Script={name.title()}}}" for name in PROSE} | {
    "kana": r"(?:\p{Script=Hiragana}|\p{Script=Katakana}|ー)"
}


@pytest.mark.parametrize("script", PROSE)
def test_words_are_runs_of_one_script_as_unicode_has_it(script: str) -> None:
    text = "".join(probe(name) for name in PROSE)
    letter = rf"(?=\p{{L}}){UNICODE_SCRIPTS[script]}\p{{M}}*"
    assert words_by_script([text])[script] == Counter(regex.findall(f"(?:{letter})+", text))


def test_words_by_hand() -> None:
    assert list(words("don't 2x naïve_e\u0301a! Ｗｉｄｅ")) == [
        ("latin", "don"),
        ("latin", "t"),
        ("latin", "x"),
        ("latin", "naïve"),
        ("latin", "e\u0301a"),
        ("latin", "Ｗｉｄｅ"),
    ]
    assert list(words("日本語のカナー한글aя")) == [
        ("han", "日本語"),
        ("kana", "のカナー"),
        ("hangul", "한글"),
        ("latin", "a"),
        ("cyrillic", "я"),
    ]
    assert list(words("❤\ufe0f \u0301 12 ½ ²")) == []


def test_fertility_by_hand() -> None:
    counts = words_by_script(["ab abc\nab สวัสดี"])
    assert counts == {"latin": {"ab": 2, "abc": 1}, "thai": {"สวัสดี": 1}}
    # With the space in front: " ab" is one token, " abc" is " ab" and "c".
    latin = measure_fertility(SMALL, "latin", counts["latin"])
    assert (latin.per, latin.n, latin.n_tokens_per) == ("word", 3, 4 / 3)
    # Six code points of three bytes each, and no space in front.
    thai = measure_fertility(SMALL, "thai", counts["thai"])
    assert (thai.per, thai.n, thai.n_tokens_per) == ("character", 6, 3.0)


def test_compression_by_hand() -> None:
    counts = count_tokens(SMALL, ["ab ab ab", "abba"])
    assert counts == {b"ab": 2, b" ab": 2, b"b": 1, b"a": 1}
    of_small = of_tokenizer("small", SMALL, counts)
    assert (of_small.n_vocab, of_small.n_tokens, of_small.unknown) == (261, 6, 0)
    assert of_small.bytes_per_token == 12 / 6
    assert (of_small.longest, of_small.longest_bytes) == ("·ab", 3)
    assert bytes_per_token(SMALL, ["ab ab ab", "abba"]) == 12 / 6


def test_naive_tokenizers_by_hand() -> None:
    learned, text = ["It is. It was."], ["It is not\n\nso."]
    counts = count_words(text)
    assert counts == {b"It": 1, b" is": 1, b" not": 1, b"\n\n": 1, b"so": 1, b".": 1}
    result = of_naive("words", counts, count_words(learned))
    assert result.n_vocab == 5  # It, is, ., It after a space, was
    assert (result.n_tokens, result.bytes_per_token, result.unknown) == (6, 14 / 6, 3 / 6)
    assert (result.longest, result.longest_bytes) == ("·not", 4)
    result = of_naive("characters", count_characters(["naïf"]), count_characters(["fan"]))
    assert (result.n_vocab, result.n_tokens) == (3, 4)
    assert (result.bytes_per_token, result.unknown) == (5 / 4, 1 / 4)


@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_no_text_is_lost_in_a_count(texts: list[str]) -> None:
    n_bytes = sum(len(text.encode()) for text in texts)
    for counts in (count_tokens(SMALL, texts), count_words(texts), count_characters(texts)):
        assert sum(len(piece) * n for piece, n in counts.items()) == n_bytes


def test_vocabulary_by_hand() -> None:
    result = measure_vocabulary(SMALL, count_tokens(SMALL, ["ab ba"]))
    assert result.n_tokens == 256 + 3  # neither the special token nor the missing id 257
    # Used: ab, the space, b, a.
    assert (result.n_never_used, result.n_bytes_never_used) == (255, 253)
    assert [(t.id, t.shown, t.n_bytes, t.n_uses) for t in result.longest[:3]] == [
        (258, "·ab", 3, 0),
        (256, "ab", 2, 1),
        (260, "12", 2, 0),
    ]
    assert [t.id for t in result.never_used] == [258, 260]
    assert result.used_by_length == {1: 3, 2: 1}
    assert result.never_used_by_length == {1: 253, 2: 1, 3: 1}


def test_whole_numbers_by_hand() -> None:
    # Of two digits only 12 is a token; it isn't all of any longer number.
    shares = whole_numbers({"small": SMALL})
    expected = {"0-9": 1.0, "10-99": 1 / 90, "100-999": 0.0, "1000-9999": 0.0}
    assert {name: share["small"] for name, share in shares.items()} == expected


def test_splits_by_hand() -> None:
    result = splits({"small": SMALL})
    assert result["numbers"]["12345"] == {"small": ["·", "12", "3", "4", "5"]}
    assert result["indentation"]["2 tabs"]["small"] == [":", "⏎", "\\t", "\\t", *"return"]
    assert result["rare words"]["petrichor"]["small"] == ["·", *"petrichor"]


def test_every_probe_is_there_and_is_what_it_says() -> None:
    for kind in KINDS:
        assert 8 <= len(probe(kind).splitlines()) <= 40
        assert probe(kind).endswith("\n")
    for script in PROSE:
        assert next(iter(words_by_script([probe(script)]))) == script
    compile(probe("code"), "code", "exec")
    whole, line = probe("json").rstrip().rsplit("\n", 1)
    assert json.loads(whole)
    assert json.loads(line)


def test_a_whole_audit(tmp_path: Path, nursery_text: str) -> None:
    trained = BPETokenizer.train(nursery_text, 400)
    result = audit({"trained": trained, "bytes": ONLY_BYTES}, [nursery_text], ["The king."])
    rows = {row.name: row for row in result.compression}
    assert list(rows) == ["trained", "bytes", "characters", "words"]
    n_bytes = len(nursery_text.encode())
    assert result.n_bytes == rows["bytes"].n_tokens == n_bytes
    assert rows["characters"].n_tokens == len(nursery_text)
    assert rows["trained"].bytes_per_token > 3
    for kind, by_tokenizer in result.bytes_per_token.items():
        assert by_tokenizer["bytes"] == 1
        text = probe(kind)
        assert by_tokenizer["characters"] == len(text.encode()) / len(text)
    assert list(result.fertility) == [*PROSE, "text: latin"]
    assert all(f["bytes"].n_tokens_per >= f["trained"].n_tokens_per
               for f in result.fertility.values())  # fmt: skip

    with (tmp_path / "printed").open("w", encoding="utf-8") as file:
        print_audit(result, Console(file=file, width=120, markup=False))
    printed = (tmp_path / "printed").read_text(encoding="utf-8")
    assert f"{rows['trained'].bytes_per_token:.2f}" in printed
    assert "text: latin, per word" in printed
    assert (
        f"{result.vocabulary.n_never_used:,} of trained's {trained.n_vocab - 1} tokens" in printed
    )
    save(result, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert saved["compression"][0]["n_tokens"] == rows["trained"].n_tokens
    assert saved["splits"]["numbers"]["7"]["bytes"] == ["·", "7"]
    assert (tmp_path / "out" / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_no_text_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to audit"):
        audit({"bytes": ONLY_BYTES}, [""])


def test_gpt2_against_tiktoken(shared_data: Path) -> None:
    path = shared_data / "gpt2.tiktoken"
    if not path.exists():
        pytest.skip(f"{path.name} is missing")
    theirs = tiktoken.Encoding(
        "test",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens={"<|endoftext|>": 50256},
    )
    text = "".join(probe(kind) for kind in KINDS)
    ids = theirs.encode_ordinary(text)
    result = audit({"gpt2": BPETokenizer.from_tiktoken(path)}, [text])
    assert result.compression[0].n_tokens == len(ids)
    assert result.vocabulary.n_never_used == 50256 - len(set(ids))
    for kind in KINDS:
        n_tokens = len(theirs.encode_ordinary(probe(kind)))
        assert result.bytes_per_token[kind]["gpt2"] == len(probe(kind).encode()) / n_tokens
    # A thing everybody knows of GPT-2: its longest token is mojibake, of 128 bytes.
    assert result.vocabulary.longest[0].n_bytes == max(map(len, theirs.token_byte_values())) == 128


def test_bpe_compresses_shakespeare_threefold(shared_data: Path) -> None:
    path = shared_data / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path.name} is missing")
    text = path.read_text(encoding="utf-8")
    tokenizer = BPETokenizer.train(text, 4096)
    ids = tokenizer.encode_to_numpy(text)
    assert tokenizer.decode(ids) == text
    assert len(text.encode()) / len(ids) > 3
    # Also on text that it was not trained on.
    cut = int(0.9 * len(text))
    assert bytes_per_token(BPETokenizer.train(text[:cut], 8192), [text[cut:]]) > 3
