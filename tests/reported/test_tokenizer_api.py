"""What users of tiktoken and tokenizers reach for, and training that is not thrown away."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers

from gptfast.cli import cli, progress
from gptfast.data.prepare import prepare
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, bpe_reference
from gptfast.tokenizer.__main__ import main
from tricky_text import ATOMS

BYTES = {bytes([byte]): byte for byte in range(256)}
TEXT = "The king's 1234 Café\n\n  crows—don't!\t" + " ".join(ATOMS)
PLAIN = TEXT.replace("<|endoftext|>", "").replace("\0", "")  # one document, read without a note
SPECIAL = ["<|endoftext|>", "<|end|>", "<|end|>of"]
BPE = BPETokenizer.train([TEXT] * 3, 500, special_tokens=SPECIAL)
CHARS = CharTokenizer.train(TEXT + "<|endofx>", ["<|endoftext|>", "<|end|>"])
TOKENIZERS: list[Tokenizer] = [BPE, CHARS]
LONE = "a\ud83e"


def in_hugging_face(ours: Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    ours.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


# tokenizers#1616, tokenizers#985
@pytest.mark.parametrize(
    ("text", "special_tokens", "pattern"),
    [
        ("x\n<|endoftext|>\n", ["<|endoftext|>"], r"\S+|\s+"),
        ("x\n<|endoftext|>\n", ["<|endoftext|>"], "none"),
        ("<s>a</s>", ["<s>", "</s>"], "none"),
        ("a t b t", ["Ġt"], "gpt2"),  # the spelling of " t" in tokenizer.json
        ("Ġt" * 9, ["Ġt"], "none"),  # its bytes are also those of the name
        ("été é", ["Ã©"], "gpt2"),  # how tokenizer.json spells the bytes of é
        ("abababab", ["ab", "abab", "ba"], "none"),
    ],
)
@pytest.mark.parametrize("tie", ["bytes", "huggingface"])
def test_text_that_spells_a_special_token_loses_no_work(
    text: str, special_tokens: list[str], pattern: str, tie: Any, tmp_path: Path
) -> None:
    ours = BPETokenizer.train([text] * 200, 600, pattern, special_tokens, tie=tie)
    assert ours.decode(ours.encode_ordinary(text)) == text
    theirs = in_hugging_face(ours, tmp_path)
    # Hugging Face always finds special tokens.
    assert ours.encode(text, "all") == theirs.encode(text).ids
    others = "|".join(text)
    assert ours.encode_ordinary(others) == theirs.encode(others).ids


def test_merges_are_the_best_of_the_allowed_ones() -> None:
    # By hand: of "abab", ab is the most frequent pair, and then (ab, ab). Without ab, b-a is the
    # only pair that is not forbidden; then a-ba, and aba-b.
    assert BPETokenizer.train("abab", 260, "none").merges == [(b"a", b"b"), (b"ab", b"ab")]
    forbidden = BPETokenizer.train("abab", 260, "none", ["ab"])
    assert forbidden.merges == [(b"b", b"a"), (b"a", b"ba"), (b"aba", b"b")]
    assert forbidden.special_tokens == {"ab": 259}
    merges = bpe_reference.train([b"abab"], 3, forbidden=[b"ab"])
    assert merges == [(98, 97), (97, 256), (257, 98)]


def unread() -> Iterator[str]:
    raise AssertionError("the texts are read before the arguments are checked")
    yield ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"special_tokens": ["a"]}, "it is empty or an ordinary token already"),
        ({"special_tokens": ["<x>", ""]}, "it is empty or an ordinary token already"),
        ({"special_tokens": ["Ġ"]}, "have the same spelling in tokenizer.json"),
        ({"special_tokens": ["<x>", "<y>", "<x>"]}, "a name is given twice"),
        ({"special_tokens": ["<\ud800>"]}, "with a lone surrogate, which is no character"),
        ({"special_tokens": {"<x>"}}, "special_tokens is a set: expected a list of str"),
        ({"special_tokens": [5]}, "special_tokens has an element that is a int"),
        ({"pattern": "("}, "nor a valid regular expression"),
        ({"pattern": None}, "pattern is None"),
        ({"vocab_size": 256}, "vocab_size is 256: expected at least 257, for 256 bytes and 1"),
        ({"vocab_size": 10**9}, "vocab_size is 1000000000: expected at most"),
        ({"min_frequency": 0}, "min_frequency is 0: expected at least 1"),
        ({"tie": "x"}, "tie is 'x'"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"memory_limit": 5}, "memory_limit is 5"),
        ({"progress": 5}, "progress is 5: expected True, False or a function"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_work(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        BPETokenizer.train(unread(), **arguments)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = cli.run(main, ["train", *map(str, arguments)])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "{tmp}/taken", "--overwrite"], "tokenizer.json is a folder: expected another"),
        (["--out", "{tmp}/corpus.txt"], "can't be written to"),
        (["--out", "{tmp}/corpus.txt/x"], "can't be written to"),
        (["--out", "{tmp}/x", "--pattern", "("], "nor a valid regular expression"),
        (["--out", "{tmp}/x", "--special-tokens", "a"], "an ordinary token already"),
        (["--out", "{tmp}/x", "--vocab-size", "256"], "vocab_size is 256: expected at least 257"),
        (["--out", "{tmp}/x", "--memory-limit", "1KB"], "memory_limit is 1000: expected at"),
    ],
)
def test_the_command_refuses_before_it_learns(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "corpus.txt").write_text(PLAIN)
    (tmp_path / "taken" / "tokenizer.json").mkdir(parents=True)
    monkeypatch.setattr("gptfast.data.train_tokenizer.read_blocks", lambda *_, **__: unread())
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    status, err = run(capsys, tmp_path / "corpus.txt", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert complaint in err


def test_a_tokenizer_that_can_not_be_saved_any_more_is_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus.txt").write_text(PLAIN)
    out, save = tmp_path / "out", BPETokenizer.save

    def full(self: BPETokenizer, folder: Path) -> None:
        if folder == out:
            raise OSError(28, "No space left on device", str(folder / "tokenizer.json"))
        save(self, folder)

    monkeypatch.setattr(BPETokenizer, "save", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, err = run(capsys, tmp_path / "corpus.txt", "--out", out, "--vocab-size", 300)
    assert status == 1
    assert "No space left on device" in err
    (elsewhere,) = tmp_path.glob("gptfast-tokenizer-*")
    assert f"the tokenizer is in {elsewhere} instead" in err
    assert BPETokenizer.load(elsewhere) == BPETokenizer.train(PLAIN, 300)


# tokenizers#733
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (None, "texts[{}]: text is None: expected a str"),
        (5, "texts[{}]: text is a int: expected a str"),
        (["a"], "texts[{}]: text is a list: expected a str"),
        (LONE, "texts[{}]: the character '\\ud83e'"),
    ],
)
def test_one_bad_text_of_many_is_named(tokenizer: Tokenizer, bad: Any, complaint: str) -> None:
    if tokenizer is BPE:
        lone = "texts[{}] has the lone surrogate U+D83E at position 1"
        is_lone = bad is LONE
        complaint = lone if is_lone else complaint.replace(": text", "", 1)
    calls: list[Any] = [
        tokenizer.encode_batch,
        tokenizer.encode_batch_to_numpy,
        lambda texts: tokenizer.encode_batch(texts, 2, allowed_special="all"),
        lambda texts: tokenizer.encode_batch(tuple(texts), allowed_special={"<|end|>"}),
    ]
    for call in calls:
        for position in (0, 1, 40):
            texts: list[Any] = ["The king"] * 50
            texts[position] = bad
            with pytest.raises(UserError) as raised:
                call(texts)
            assert str(raised.value).startswith(complaint.format(position))


def test_a_text_on_which_the_pattern_gives_up_is_named() -> None:
    slow = "(x+x+)+(?!x)y"
    texts = ["fine", "", "also fine", "x" * 60, "fine"]
    tokenizer = BPETokenizer(BYTES, slow)
    for call in (tokenizer.encode_batch, tokenizer.encode_batch_to_numpy):
        with pytest.raises(UserError, match=r"^texts\[3\]: the split pattern .* gave up"):
            call(texts)
    with pytest.raises(UserError, match=r"^texts\[3\]: the split pattern .* gave up"):
        tokenizer.encode_batch(texts, allowed_special="all")
    for memory_limit in (None, 10**8):
        with pytest.raises(UserError, match=r"^texts\[3\]: the split pattern .* gave up"):
            BPETokenizer.train(iter(texts), 300, slow, memory_limit=memory_limit)


def test_keys_are_no_texts() -> None:
    for texts in ({"a text": 1}, {"text": ["a", "b"]}):
        with pytest.raises(UserError, match="texts is a dict: expected a list of texts"):
            BPETokenizer.train(texts, 300)


@pytest.mark.parametrize("bad", [None, 5, LONE, ["a"], Path("a.txt")])
def test_one_bad_text_to_learn_from_is_named(bad: Any) -> None:
    for texts in (["a", "b", bad], (text for text in ["a", "b", bad])):
        with pytest.raises(UserError, match=r"^texts\[2\] (is|has)"):
            BPETokenizer.train(texts, 300)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_bytes_are_no_text(tokenizer: Tokenizer) -> None:
    data: Any = b"<|end|>"
    for encode in (
        tokenizer.encode,
        tokenizer.encode_ordinary,
        lambda data: tokenizer.encode(data, "all"),
        lambda data: tokenizer.encode(data, {"<|end|>"}),
    ):
        with pytest.raises(UserError, match=r"^text is a bytes: expected a str"):
            encode(data)
    for allowed in ((), "all", {"<|end|>"}):
        for texts in (["a", data], ("a", data, b"")):
            with pytest.raises(UserError, match=r"^texts\[1\](:.*)? is (a )?bytes: expected a str"):
                tokenizer.encode_batch(texts, allowed_special=allowed)


def test_bytes_are_encoded_where_they_are_asked_for() -> None:
    ids = BPE.encode_ordinary("The king")
    assert BPE.encode_bytes(b"The king") == BPE.encode_to_numpy(b"The king").tolist() == ids
    assert BPE.encode_batch_to_numpy([b"The king"])[0].tolist() == ids
    assert BPE.count(b"The king") == len(ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_one_bad_list_of_ids_is_named(tokenizer: Tokenizer) -> None:
    for bad, complaint in [
        ([5, 10**6], r"^batch\[2\]: id 1000000 at position 1"),
        (None, r"^batch\[2\]: the ids are a NoneType"),
        (7, r"^batch\[2\]: the ids are a int"),
    ]:
        batch: list[Any] = [[1], [], bad]
        with pytest.raises(UserError, match=complaint):
            tokenizer.decode_batch(batch)
    with pytest.raises(UnicodeDecodeError, match=r"in batch\[1\]"):
        BPE.decode_batch([[97], [0xC3]], errors="strict")


# tokenizers#478
@pytest.mark.parametrize(
    "wrap",
    [
        lambda path: str(path),
        lambda path: path,
        lambda path: [str(path)],
        lambda path: [path, path],
        lambda path: (str(path), str(path.parent)),
        lambda path: (str(path) for _ in range(100)),
        lambda path: np.array([str(path)]),
        lambda path: path.parent.glob("*.txt"),
        lambda path: str(path.parent),
        lambda path: "/nowhere/wiki.train.txt",
        lambda path: ["../data/wiki.jsonl.gz"],
        lambda path: "C:\\data\\wiki.txt",
        lambda path: "wiki.txt",
        lambda path: "data/*.parquet",
        lambda path: ["/nope/a.txt", "/nope/b.txt"],
        lambda path: (f"books/{n}.jsonl" for n in range(100)),
        lambda path: "my corpus.txt",
        lambda path: ["my corpus.txt", "another one.TXT"],
        lambda path: "/path/with space/x.txt",
        lambda path: "/my data/corpus",
        lambda path: "C:\\my data\\corpus\\",
        lambda path: "book.pdf",
        lambda path: "/data/corpus",
        lambda path: "/data/",
        lambda path: "./data",
        lambda path: "../corpus",
        lambda path: "~/x",
        lambda path: "\\\\server\\share",
        lambda path: "hf://datasets/wiki/text",
        lambda path: "/data/*",
        lambda path: "data.tar.gz",
    ],
)
def test_a_path_is_no_text_to_learn_from(wrap: Any, tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("some text")
    with pytest.raises(UserError, match=r"is a path, not a text.*train_tokenizer learns from"):
        BPETokenizer.train(wrap(path), 300)


def test_documents_that_are_addresses_are_learned_from(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"https://example.org/{n}.html"}) for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = prepare(str(tmp_path / "a.jsonl"), "bpe", 270, 0.1, lambda _: None)
    assert data.tokenizer.decode(data.train[:9].tolist()).startswith("https:")


def test_what_only_resembles_a_path_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("some text")
    sentences = ("He said so. See book.pdf.", "/* a comment */ int x;", "// so/", "/s", "// a/b c")
    lists = (["/nope/a.txt", "a text"], ["wiki.txt is a file", "and so on"])
    one = (".", "/", "a/b", "see a/b.txt", "x\n", "either/or.", "1.5", "e.g.", "data/corpus\n")
    for texts in (*one, *sentences, *lists, [str(path), "a text"]):
        assert BPETokenizer.train(texts, 300).n_vocab > 256
    # Names of files are learned from bytes, and what is in them by its own function.
    assert BPETokenizer.train(str(path).encode(), 300).n_vocab > 256
    assert train_tokenizer(str(path), 300) == BPETokenizer.train("some text", 300)
    with pytest.raises(UserError, match="is a path, not a text"):
        CharTokenizer.train(str(path))


# nanochat#291
@pytest.mark.parametrize(
    "pattern",
    [
        "gpt2",
        "cl100k",
        "o200k",
        "none",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
        r"\s*[\r\n]|\s+(?!\S)|\s+",
        r"\S+|\s+",
        # These leave text between their matches, which tiktoken would drop.
        r"\w+",
        r"(\p{Lu}|\p{Ll})+(?!\d)",
        r"(?i)[aeiou]|(?<=n)\s",
        # These have empty matches.
        r"(?=\p{Lu})",
        r"(?<n>a)|b",
        r"(?P<n>[aeiou])+|(?x) \d # digits",
        r"\d*",
        r"|a",
    ],
)
def test_a_tokenizer_moves_to_tiktoken(pattern: str) -> None:
    ours = BPETokenizer.train([TEXT] * 2, 450, pattern, ["<|endoftext|>", "<|end|>"])
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=ours.pat_str,
        mergeable_ranks=ours.mergeable_ranks,
        special_tokens=ours.special_tokens,
    )
    for text in (TEXT, "", "aab 1x22  y", *ATOMS, f"a<|end|>{TEXT}<|endoftext|>"):
        assert theirs.encode_ordinary(text) == ours.encode_ordinary(text)
        assert theirs.encode(text, allowed_special="all") == ours.encode(text, "all")
    assert theirs.n_vocab == ours.n_vocab


SPELLED = ["a<|end|>b", "<|endoftext|>", "", "<|end|>of", "none", "<|end|><|endoftext|>x<|en"] * 9


def test_batches_allow_special_tokens_as_tiktoken_does() -> None:
    # One name, because tiktoken's choice among names that begin alike is not fixed.
    ranks, name = BPE.mergeable_ranks, "<|endoftext|>"
    theirs = tiktoken.Encoding(
        "x", pat_str=BPE.pat_str, mergeable_ranks=ranks, special_tokens={name: len(ranks)}
    )
    expected = theirs.encode_batch(SPELLED, allowed_special={name})
    assert BPE.encode_batch(SPELLED, allowed_special={name}) == expected
    assert BPE.encode_batch(SPELLED, 2, allowed_special=[name]) == expected
    assert BPE.encode_batch(SPELLED) == theirs.encode_ordinary_batch(SPELLED)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_batches_allow_special_tokens_as_hugging_face_finds_them(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = in_hugging_face(tokenizer, tmp_path)
    texts = ["a<|end|>", "<|endoftext|><|end|>e", "", "none", "<|end"]
    expected = [encoding.ids for encoding in theirs.encode_batch(texts)]
    assert tokenizer.encode_batch(texts, allowed_special="all") == expected
    with pytest.raises(UserError, match=r"allowed_special is \{'<x>'\}: expected 'all'"):
        tokenizer.encode_batch(texts, allowed_special={"<x>"})
    with pytest.raises(UserError, match="n_threads is 0: expected at least 1"):
        tokenizer.encode_batch(texts, 0)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_special_tokens_are_left_out_of_text_as_in_hugging_face(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = in_hugging_face(tokenizer, tmp_path)
    ids = tokenizer.encode("<|endoftext|>The king<|end|>'s<|end|><|endoftext|>", "all")
    batch = [ids, ids[:1], [], ids[::-1]]
    for skip in (True, False):
        expected = [theirs.decode(some, skip_special_tokens=skip) for some in batch]
        assert tokenizer.decode_batch(batch, skip_special_tokens=skip) == expected
        for kind in (np.array, tuple):
            assert tokenizer.decode(kind(ids), skip_special_tokens=skip) == expected[0]
    assert tokenizer.decode(ids) == "<|endoftext|>The king<|end|>'s<|end|><|endoftext|>"
    with pytest.raises(UserError, match="id 1000000 at position 3 "):
        tokenizer.decode([ids[0], 5, ids[0], 10**6], skip_special_tokens=True)
    for shaped in ([[65]], [[[65]]], [[[65, 1], [2, 3]]]):
        for skip in (False, True):
            with pytest.raises(UserError) as raised:
                tokenizer.decode(np.array(shaped), skip_special_tokens=skip)
            assert "\n" not in str(raised.value)
            with pytest.raises(UserError, match=r"^batch\[0\]: "):
                tokenizer.decode_batch(np.array([shaped]), skip_special_tokens=skip)
    for values in (["a"], [1.5], [None], [{}], [-1], [2**70]):
        bad: Any = values
        with pytest.raises(UserError):
            tokenizer.decode(bad, skip_special_tokens=True)
    marked = [np.int64(token_id) for token_id in ids]
    assert tokenizer.decode(marked, skip_special_tokens=True) == "The king's"


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_tokens_and_ids_are_hugging_faces(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = in_hugging_face(tokenizer, tmp_path)
    for token_id in range(tokenizer.n_vocab + 2):
        token = theirs.id_to_token(token_id)
        assert tokenizer.id_to_token(token_id) == token
        assert tokenizer.id_to_token(np.int64(token_id)) == token
        if token is not None:
            assert tokenizer.token_to_id(token) == theirs.token_to_id(token) == token_id
    for token in ("", " ", "Ġ", "Ġthe", " king", "king", "<|x|>", "é", "Ã©", "日本"):
        assert tokenizer.token_to_id(token) == theirs.token_to_id(token)
    assert tokenizer.token_to_id(LONE) is None
    assert tokenizer.id_to_token(-1) is None
    assert tokenizer.id_to_token(10**30) is None
    for bad in (None, 5.0, "a"):
        with pytest.raises(UserError, match=r"token_id is .*expected an int"):
            tokenizer.id_to_token(bad)
    with pytest.raises(UserError, match="token is a int: expected a str or bytes"):
        tokenizer.token_to_id(5)


def test_tokens_by_their_bytes_are_tiktokens() -> None:
    ranks = BPE.mergeable_ranks
    theirs = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens={})
    for token in [*ranks, b"", b"\xff\xff", b"no such token"]:
        try:
            expected = theirs.encode_single_token(token)
        except KeyError:
            expected = None
        assert BPE.token_to_id(token) == expected
    assert BPE.token_to_id(b"<|endoftext|>") is None  # only ordinary tokens have bytes
    assert CHARS.token_to_id("é".encode()) == CHARS.token_to_id("é") is not None
    assert CharTokenizer("\ufffd").token_to_id(b"\xff") is None
    assert CHARS.token_to_id(b"ab") is None


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_length_is_the_number_of_rows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = in_hugging_face(tokenizer, tmp_path)
    assert len(tokenizer) == tokenizer.n_vocab == theirs.get_vocab_size()
    # With a hole in the ids, a model needs a row for it all the same.
    assert len(BPETokenizer(BYTES, special_tokens={"<x>": 999})) == 1000


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_tokenizers_are_equal_if_their_ids_are(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    copy = type(tokenizer).load(tmp_path)
    assert copy is not tokenizer
    assert (copy == tokenizer, copy != tokenizer) == (True, False)
    assert {copy, tokenizer} == {tokenizer}
    assert tokenizer not in (None, 5, "x", tokenizer.fingerprint)
    others = [
        BPETokenizer(BYTES),
        BPETokenizer(BYTES, "none"),
        BPETokenizer(BYTES, special_tokens={"<x>": 256}),
        BPETokenizer(BYTES, special_tokens={"<x>": 257}),
        BPETokenizer(BYTES, special_tokens={"<y>": 256}),
        BPETokenizer(BYTES | {b"ab": 256}),
        CharTokenizer("ab"),
        CharTokenizer("ba"),
        CharTokenizer("ab", ["<x>"]),
    ]
    assert len({tokenizer, *others}) == 1 + len(others)


def test_a_tokenizer_shows_what_it_is() -> None:
    assert repr(BPE) == f"BPETokenizer(n_vocab={len(BPE)}, pattern='gpt2', n_special=3)"
    assert repr(CHARS) == f"CharTokenizer(n_vocab={len(CHARS)}, n_special=2)"


def test_progress_is_handed_to_a_function() -> None:
    calls: list[tuple[str, int, int]] = []
    BPETokenizer.train([TEXT] * 20, 500, progress=lambda *call: calls.append(call))
    stages = [stage for stage, _, _ in calls]
    assert stages == sorted(stages)  # counting, then merging
    n_bytes = 20 * len(TEXT.encode())
    assert ("counting", n_bytes, 0) in calls
    assert ("merging", 64, 500 - 256 - 1) in calls


@pytest.mark.parametrize("error", [KeyError("mine"), ValueError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["counting", "merging"])
def test_what_the_progress_function_raises_passes_through(error: BaseException, stage: str) -> None:
    def stop(now: str, done: int, total: int) -> None:
        if now == stage:
            raise error

    with pytest.raises(type(error)) as raised:
        BPETokenizer.train(TEXT, 300, progress=stop)
    assert raised.value is error


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0, 3, 9.9, 10, 15, 20.5, 31])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))  # time's own serves other threads, too
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress.show_bytes("encoding", 9_000_000, True) as move:
        for done in range(1, 6):
            move(done * 1_000_000)
        assert progress.sys.stderr.getvalue() == (
            "encoding: 3 MB of 9 MB\nencoding: 5 MB of 9 MB\n"
        )
        progress.sys.stderr.close()
        move(6_000_000)  # the reader is gone, the work goes on
    for wanted, line in [(True, "merging: 1,000 of 2,000\n"), (False, "")]:
        seconds = iter([0, 11])
        monkeypatch.setattr("sys.stderr", io.StringIO())
        with progress.show_training(wanted, []) as update:
            update("merging", 1000, 2000)
        assert progress.sys.stderr.getvalue() == line
    monkeypatch.setattr("sys.stderr", None)  # as without a console
    seconds = iter([0, 11])
    with progress.show_bytes("encoding", None, True) as move:
        move(1)
