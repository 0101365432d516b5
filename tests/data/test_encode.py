from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from gptfast.data import encode as module
from gptfast.data.documents import ReadOptions, ReadReport
from gptfast.data.encode import encode_files
from gptfast.data.shard import Shard
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer
from tricky_text import ATOMS

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPECIAL_TOKENS = ("<|endoftext|>", "<|next|>")


@pytest.fixture(scope="module")
def tokenizer(nursery_text: str) -> BPETokenizer:
    return BPETokenizer.train(nursery_text, 600, special_tokens=SPECIAL_TOKENS)


@pytest.fixture(scope="module")
def oracle(tokenizer: BPETokenizer) -> tiktoken.Encoding:
    special = tokenizer.special_tokens
    n_ordinary = tokenizer.n_vocab - len(special)
    return tiktoken.Encoding(
        "test",
        pat_str=GPT2_PATTERN,
        mergeable_ranks={tokenizer.token_bytes(i): i for i in range(n_ordinary)},
        special_tokens=special,
    )


def random_text(rng: random.Random, words: list[str]) -> str:
    some = [rng.choice([rng.choice(ATOMS), rng.choice(words)]) for _ in range(400)]
    return "".join(some).removeprefix("\ufeff")  # reading removes a byte order mark


def random_texts(seed: str, nursery_text: str) -> list[str]:
    rng = random.Random(seed)
    words = [f" {word}" for word in nursery_text.split()]
    return [random_text(rng, words) for _ in range(12)]


def write_files(folder: Path, texts: list[str]) -> None:
    """Documents 0 to 4 in files of their own, the rest in lines of JSON."""
    folder.mkdir()
    for i, text in enumerate(texts[:4]):
        (folder / f"{i}.txt").write_bytes(text.encode())
    (folder / "4.md.gz").write_bytes(gzip.compress(texts[4].encode()))
    lines = [json.dumps({"text": text}) for text in texts[5:]]
    (folder / "5.jsonl").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("block_bytes", [1, 10, 1000, 1 << 20])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("separator", [*SPECIAL_TOKENS, None])
def test_a_shard_is_every_document_and_a_separator(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: BPETokenizer,
    oracle: tiktoken.Encoding,
    nursery_text: str,
    block_bytes: int,
    n_threads: int,
    separator: str | None,
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    texts = random_texts(f"{block_bytes} {n_threads} {separator}", nursery_text)
    write_files(tmp_path / "in", texts)
    report = ReadReport()
    options = ReadOptions(n_threads=n_threads, document_separator="")
    shard = encode_files(
        tokenizer,
        tmp_path / "in",
        tmp_path / "a/b.bin",
        options,
        separator=separator,
        report=report,
    )
    after = [] if separator is None else [oracle.encode_single_token(separator)]
    expected = [i for text in texts for i in oracle.encode_ordinary(text) + after]
    assert Shard.open(tmp_path / "a/b.bin") == shard
    assert shard.tokens(tokenizer).tolist() == expected
    assert shard.count == len(expected)
    assert (report.documents, report.skipped) == (12, 0)
    assert report.bytes_read == sum(p.stat().st_size for p in (tmp_path / "in").iterdir())
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.bin"]


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    (tmp_path / "a.txt").write_text("the king")
    shard = encode_files(tokenizer, tmp_path, tmp_path / "a.bin")
    other = BPETokenizer.train("the king", 258)
    with pytest.raises(UserError, match=r"a\.bin was made by another tokenizer"):
        shard.tokens(other)


def test_what_cannot_be_meant_is_refused(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out.bin"
    text.write_text("the king")
    with pytest.raises(UserError, match=r"separator is 'x': expected one of .*'<\|next\|>'"):
        encode_files(tokenizer, text, out, separator="x")
    with pytest.raises(UserError, match=r"n_threads is 0: expected at least 1"):
        encode_files(tokenizer, text, out, ReadOptions(n_threads=0))
    with pytest.raises(UserError, match=r"is a folder: expected the name of the file"):
        encode_files(tokenizer, text, tmp_path)
    with pytest.raises(UserError, match=r"a\.txt is one of the files to be read"):
        encode_files(tokenizer, text, text)
    with pytest.raises(MissingFileError, match=r"there is no .*b\.txt"):
        encode_files(tokenizer, [text, tmp_path / "b.txt"], out)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert text.read_text() == "the king"


def test_bad_text_leaves_no_file_or_is_counted(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out.bin"
    path.write_bytes(b'{"text": "a king"}\n{"text": "caf\xe9"}\n{"text": "a fool"}\n{"text"')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2 is not UTF-8"):
        encode_files(tokenizer, path, out)
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    report = ReadReport()
    shard = encode_files(tokenizer, path, out, ReadOptions(on_error="skip"), report=report)
    assert report.skipped == 2
    assert re.fullmatch(
        r"left out 2 that could not be read, first: .*a\.jsonl, line 2 is not UTF-8 .*\n",
        capsys.readouterr().err,
    )
    ids = shard.tokens(tokenizer)
    assert tokenizer.decode(ids) == "a king<|endoftext|>a fool<|endoftext|>"


def test_the_memory_limit_says_what_is_enough(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    (tmp_path / "a.txt").write_text("the king and the fool " * 50_000 + "x" * 50_000)
    out = tmp_path / "out.bin"
    with pytest.raises(UserError, match=r"expected at least [\d,]+ for 2 threads") as error:
        encode_files(tokenizer, tmp_path, out, ReadOptions(n_threads=2, memory_limit=1000))
    enough = int(re.findall(r"at least ([\d,]+)", str(error.value))[0].replace(",", ""))
    options = ReadOptions(n_threads=2, memory_limit=enough)
    shard = encode_files(tokenizer, tmp_path, out, options)
    assert tokenizer.decode(shard.tokens(tokenizer)[:-1]) == (tmp_path / "a.txt").read_text()
    with pytest.raises(UserError, match=r"expected at least"):
        encode_files(tokenizer, tmp_path, out, ReadOptions(n_threads=2, memory_limit=enough - 1))
    (tmp_path / "a.txt").write_text("x" * enough)
    with pytest.raises(UserError, match=r"a\.txt, line 1 can't be cut within [\d,]+ bytes"):
        encode_files(tokenizer, tmp_path, out, options)


def test_a_terminal_sees_a_bar(
    tmp_path: Path,
    tokenizer: BPETokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.txt").write_text("the king")
    encode_files(tokenizer, tmp_path, tmp_path / "out.bin")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    encode_files(tokenizer, tmp_path, tmp_path / "out.bin")
    assert "8/8 bytes" in capsys.readouterr().err


def test_no_file_that_is_read_is_overwritten(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    """Neither by its own name, nor by another name of the same file."""
    names = ["notes.bin", "other"]
    for name in names:
        (tmp_path / name).write_text(f"the king's {name}")
    (tmp_path / "linked").hardlink_to(tmp_path / "notes.bin")
    for out in ("notes.bin", "linked"):
        with pytest.raises(UserError, match=rf"{out} is one of the files to be read"):
            encode_files(tokenizer, [tmp_path / name for name in names], tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked", *names]
    for name in names:
        assert (tmp_path / name).read_text() == f"the king's {name}"


@pytest.mark.parametrize("foreign", [b"", b"GPT", b'{"text": "mine"}'])
def test_no_file_of_anyone_else_is_replaced(
    tmp_path: Path, tokenizer: BPETokenizer, foreign: bytes
) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("the king")
    out.mkdir()
    (out / "model.bin").write_bytes(foreign)
    with pytest.raises(UserError, match=r"model\.bin exists and is no token shard, .*: choose an"):
        encode_files(tokenizer, text, out / "model.bin")
    assert (out / "model.bin").read_bytes() == foreign
    # A shard may be.
    encode_files(tokenizer, text, out / "shard.bin")
    text.write_text("the fool")
    shard = encode_files(tokenizer, text, out / "shard.bin")
    assert tokenizer.decode(shard.tokens(tokenizer)) == "the fool<|endoftext|>"


def test_a_place_that_cannot_be_written_to_is_named_at_once(
    tmp_path: Path, tokenizer: BPETokenizer
) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(b"caf\xe9")  # would be refused if it were read
    places = [text / "x", Path("/proc/x"), Path("/proc")]
    for out in places if sys.platform == "linux" else places[:1]:
        with pytest.raises(UserError, match=rf"{out} can't be written to \("):
            encode_files(tokenizer, text, out / "x.bin")


def test_what_killed_runs_left_is_deleted(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("the king")
    out.mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    deleted = f".a.bin.{ended.pid}.0123abcd.tmp"
    kept = [f".a.bin.{os.getpid()}.0123abcd.tmp", f".b.bin.{ended.pid}.0123abcd.tmp"]
    for name in (deleted, *kept):
        (out / name).touch()
    encode_files(tokenizer, text, out / "a.bin")
    assert {path.name for path in out.iterdir()} == {"a.bin", *kept}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((5, "x.bin"), "paths is a int: expected a path or a list"),
        (([5], "x.bin"), "a path is a int: expected a path"),
        (("", "x.bin"), "a path is empty: expected a path"),
        (([], "x.bin"), "no files were given"),
        ((__file__, None), "out is None: expected a path"),
    ],
)
def test_arguments_of_the_wrong_type(
    tokenizer: BPETokenizer, arguments: tuple[Any, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        encode_files(tokenizer, *arguments)
    with pytest.raises(UserError, match="separator is a list: expected a special token, or None"):
        encode_files(tokenizer, __file__, "x", separator=["a"])  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_text(
    tmp_path: Path, tokenizer: BPETokenizer, nursery_text: str
) -> None:
    """150 MB to train on and to encode, a tenth of it words that are new, need about 130 MB.

    Half a byte kept for each byte of text would be too much.
    """
    source = tmp_path / "a.txt"
    common = (nursery_text * 110).encode()
    letters = str.maketrans("0123456789", "ghijklmnop")  # the pattern parts digits from letters
    with source.open("wb") as file:
        for first in range(0, 2**40, 2**15):
            file.write(common)
            new = " ".join(f"{n:x}" for n in range(first, first + 2**15))
            file.write(f" {new.translate(letters)} ".encode())
            if file.tell() > 150_000_000:
                break
    tokenizer.save(tmp_path)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gptfast.tokenizer import BPETokenizer\n"
        "from gptfast.data.documents import ReadOptions\n"
        "from gptfast.data.encode import encode_files\n"
        "from gptfast.data.train_tokenizer import train_tokenizer\n"
        "tokenizer = BPETokenizer.load(sys.argv[1])\n"
        "options = ReadOptions(memory_limit='64MB', n_threads=2)\n"
        "train_tokenizer(sys.argv[2], 1000, options=options)\n"
        "options = ReadOptions(n_threads=2)\n"
        "print(encode_files(tokenizer, sys.argv[2], sys.argv[3], options).count)\n"
        # Not ru_maxrss: on Linux it begins with the parent's.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    out = tmp_path / "a.bin"
    arguments = [sys.executable, "-W", "ignore", "-c", script]
    arguments += map(str, (tmp_path, source, out))
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    size = source.stat().st_size
    source.unlink()
    assert peak * 1024 < 180_000_000
    ids = Shard.open(out).tokens(tokenizer)
    assert len(ids) == count
    lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.n_vocab)])
    chunks = (ids[start : start + 10_000_000] for start in range(0, count - 1, 10_000_000))
    n_bytes = sum(int(lengths[chunk].sum()) for chunk in chunks)
    assert n_bytes == size + len("<|endoftext|>")
    assert tokenizer.decode(ids[:1000]) == nursery_text[: len(tokenizer.decode(ids[:1000]))]
