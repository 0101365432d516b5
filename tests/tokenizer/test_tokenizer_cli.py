"""`gptfast tokenizer` as a user meets it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptfast.cli import cli
from gptfast.data.shard import Shard
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.tokenizer.__main__ import main
from gptfast.tokenizer.published import open_tokenizer


@pytest.fixture
def folder(tmp_path: Path, nursery_text: str) -> Path:
    """A tokenizer's folder."""
    BPETokenizer.train(nursery_text, 300).save(tmp_path / "nursery")
    return tmp_path / "nursery"


def run(*arguments: object) -> int:
    return cli.run(main, [str(argument) for argument in arguments])


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake leaves."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_train_encode_decode(
    corpus_file: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out, shard = tmp_path / "bpe", tmp_path / "shards" / "nursery.bin"
    assert run(
        "train", corpus_file, "--vocab-size", 300, "--out", out,
        "--special-tokens", "<|endoftext|>", "--special-tokens", "<|pad|>",
    ) == 0  # fmt: skip
    text = corpus_file.read_bytes()
    tokenizer = BPETokenizer.load(out)
    assert tokenizer.special_tokens == {"<|endoftext|>": 298, "<|pad|>": 299}
    ids = tokenizer.encode_ordinary(text.decode())
    printed = capfdbinary.readouterr().out.decode()
    assert printed.startswith("300 tokens learned from 0.0 MB in ")
    assert f"{len(text) / len(ids):.2f} bytes per token" in printed

    assert run("encode", "--tokenizer", out, corpus_file, "--out", shard) == 0
    assert f"{shard}: {len(ids) + 1:,} ids of 2 bytes" in capfdbinary.readouterr().out.decode()
    assert Shard.open(shard).tokens(tokenizer).tolist() == [*ids, 298]
    assert run("decode", "--tokenizer", out, "--shard", shard) == 0
    assert capfdbinary.readouterr().out == text + b"<|endoftext|>"


def test_encoding_says_how_much_was_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("The king sees the door.\n" * 100_000)
    assert run("encode", "--tokenizer", folder, text, "--out", tmp_path / "out.bin") == 0
    assert "encoded 2.4 MB in" in capsys.readouterr().out


def test_what_is_left_out_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "The king"}\nbroken\n')
    for arguments in (
        ["train", path, "--out", tmp_path / "new", "--vocab-size", 257],
        ["encode", "--tokenizer", folder, path, "--out", tmp_path / "x.bin"],
    ):
        assert run(*arguments, "--on-error", "skip") == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "left out 1 that could not be read, first: " in line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_one_line_without_end_stays_within_the_memory_limit(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("the king and the fool " * 10_000_000)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gptfast.tokenizer.__main__ import main\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(status.split('VmHWM:')[1].split()[0]) * 1024\n"
        "before = peak()\n"
        "main(['train', sys.argv[1], '--out', sys.argv[2], '--memory-limit', '64MB'])\n"
        "print(peak() - before)\n"
    )
    arguments = [sys.executable, "-c", script, str(path), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 64_000_000


def test_the_json_field_and_bad_lines(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"body": "The king"}\n{"body": \n{"body": "The fool"}\n')
    arguments = ["encode", "--tokenizer", folder, path, "--field", "body", "--out"]
    assert run(*arguments, tmp_path / "x.bin") == 2
    assert not (tmp_path / "x.bin").exists()
    assert run(*arguments, tmp_path / "x.bin", "--on-error", "skip", "--separator", "None") == 0
    tokenizer = BPETokenizer.load(folder)
    ids = Shard.open(tmp_path / "x.bin").tokens(tokenizer)
    assert tokenizer.decode(np.asarray(ids)) == "The kingThe fool"


def test_ids_of_a_text_and_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    tokenizer = BPETokenizer.load(folder)
    text = "The king<|endoftext|> 日本\n"
    ids = " ".join(map(str, tokenizer.encode_ordinary(text)))
    assert run("encode", "--tokenizer", folder, "--text", text) == 0
    give(monkeypatch, text.encode())
    assert run("encode", "--tokenizer", folder / "tokenizer.json") == 0
    assert capfdbinary.readouterr().out.decode() == f"{ids}\n{ids}\n"
    assert run("decode", "--tokenizer", folder, *ids.split()) == 0
    give(monkeypatch, f"[{ids.replace(' ', ', ')}]\n".encode())
    assert run("decode", "--tokenizer", folder) == 0
    # Bytes as they are, though the last ones are only a part of a character.
    assert run("decode", "--tokenizer", folder, 0xE6, 0x97) == 0
    assert capfdbinary.readouterr().out == text.encode() * 2 + b"\xe6\x97"


def test_show(folder: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "The kíng\n", "--tokenizer", folder) == 0
    shown, summary = capsys.readouterr().out.rsplit("\n\n", 1)
    assert shown.replace("|", "") == "The·k\\xc3\\xadng⏎"
    n_tokens = len(BPETokenizer.load(folder).encode_ordinary("The kíng\n"))
    assert summary == f"{n_tokens} tokens, 9 characters, 10 bytes\n"
    assert run("show", "--file", corpus_file, "--tokenizer", folder, "--ids") == 0
    assert "⏎ 10|\n" in capsys.readouterr().out


def test_audit(
    folder: Path, tmp_path: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BPETokenizer.train("abc", 260).save(tmp_path / "other")
    assert run(
        "audit", corpus_file, "--tokenizer", folder, "--against", f"tiny={tmp_path / 'other'}",
        "--learned-from", corpus_file, "--out", tmp_path / "audit",
    ) == 0  # fmt: skip
    assert "\x1b" not in capsys.readouterr().out
    saved = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in saved["compression"]] == [
        "nursery", "tiny", "characters", "words",
    ]  # fmt: skip
    assert saved["n_bytes"] == corpus_file.stat().st_size
    assert (tmp_path / "audit" / "audit.png").stat().st_size > 10_000


def test_audit_without_files_takes_the_built_in_texts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("audit", "--tokenizer", folder) == 0
    assert "text: cyrillic, per word" in capsys.readouterr().out


def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chars, latin1, empty = tmp_path / "chars", tmp_path / "latin1.txt", tmp_path / "empty.txt"
    CharTokenizer.train("abc").save(chars)
    latin1.write_bytes(b"caf\xe9\n")
    empty.write_bytes(b"")
    other = tmp_path / "other"
    BPETokenizer.train("abc", 260).save(other)
    assert run("encode", "--tokenizer", folder, corpus_file, "--out", tmp_path / "x.bin") == 0
    bpe = ["--tokenizer", folder]
    for expected, arguments in [
        ("no files were given", ["train", "--out", tmp_path / "x"]),
        ("a path is empty", ["train", "", "--out", tmp_path / "x"]),
        ("can't be written to", ["train", corpus_file, "--out", corpus_file]),
        ("can't be written to", ["train", corpus_file, "--out", corpus_file / "x"]),
        ("is one of the files to be", ["encode", *bpe, corpus_file, "--out", corpus_file]),
        ("is a folder: expected the name", ["encode", *bpe, corpus_file, "--out", tmp_path]),
        ("expected one file; `gptfast data prepare`", ["encode", *bpe, folder, "--out", "x.bin"]),
        ("nursery.txt was given to encode", ["encode", *bpe, *[corpus_file] * 2, "--out", "x"]),
        ("can't be written to", ["encode", *bpe, corpus_file, "--out", corpus_file / "x.bin"]),
        ("can't be written to", ["audit", *bpe, "--out", corpus_file]),
        ("memory_limit is 0", ["encode", *bpe, corpus_file, "--out", "x", "--memory-limit", "0"]),
        ("memory_limit is 0", ["train", corpus_file, "--out", "x", "--memory-limit", "0"]),
        ("both a text and --file", ["show", "x", *bpe, "--file", corpus_file]),
        ("there is no nowhere.txt", ["train", "nowhere.txt", "--out", tmp_path / "x"]),
        ("there is no text in", ["train", empty, "--out", tmp_path / "x"]),
        ("already holds a tokenizer: give --overwrite", ["train", corpus_file, "--out", folder]),
        ("is 'lots'", ["encode", *bpe, corpus_file, "--out", "x.bin", "--memory-limit", "lots"]),
        ("there is no nowhere", ["show", "x", "--tokenizer", "nowhere"]),
        ("pattern is 'gpt2', but", ["show", "x", *bpe, "--pattern", "gpt2"]),
        ("no file nowhere.txt", ["show", *bpe, "--file", "nowhere.txt"]),
        ("is not UTF-8 text (byte 3)", ["show", *bpe, "--file", latin1]),
        ("expected --out shard.bin", ["encode", *bpe, corpus_file]),
        ("--text was given with --out", ["encode", *bpe, "--out", "x.bin", "--text", "x"]),
        ("nothing was given to encode", ["encode", *bpe, "--out", "x.bin"]),
        ("is a character tok", ["encode", corpus_file, "--tokenizer", chars, "--out", "x"]),
        ("'1x' is not an id", ["decode", *bpe, "1", "1x"]),
        ("id 5000 at position 1", ["decode", *bpe, "1", "5000"]),
        ("both ids and --shard", ["decode", *bpe, "1", "--shard", tmp_path / "x.bin"]),
        ("another tokenizer", ["decode", "--tokenizer", other, "--shard", tmp_path / "x.bin"]),
        ("is a character tokenizer", ["audit", "--tokenizer", chars]),
        ("--against is 'gpt2'", ["audit", *bpe, "--against", "gpt2"]),
        ("named 'nursery'", ["audit", *bpe, "--against", f"nursery={other}"]),
        ("named 'words'", ["audit", *bpe, "--against", f"words={other}"]),
        ("nothing to audit", ["audit", *bpe, empty]),
        ("latin1.txt", ["audit", *bpe, latin1]),
    ]:  # fmt: skip
        assert expected in error(capsys, *arguments)


def test_nothing_on_a_terminal_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for command in ("encode", "decode", "show"):
        assert "give it as an argument" in error(capsys, command, "--tokenizer", folder)


def test_a_rank_file_of_ours_needs_its_pattern(folder: Path, tmp_path: Path) -> None:
    ours = BPETokenizer.load(folder)
    path = tmp_path / "ours.tiktoken"
    ours.to_tiktoken(path)
    with pytest.raises(UserError, match=r"does not have the ranks of .* give its pattern"):
        open_tokenizer(path)
    again = open_tokenizer(path, "gpt2")
    assert again.encode("The king<|endoftext|>", "all") == ours.encode(
        "The king<|endoftext|>", "all"
    )
    with pytest.raises(MissingFileError, match="there is no"):
        open_tokenizer(tmp_path / "nowhere")
    path.write_text("not base64\n")
    with pytest.raises(UserError, match=r"ours\.tiktoken, line 1"):
        open_tokenizer(path, "gpt2")


def test_gpt2s_rank_file_is_known(shared_data: Path) -> None:
    path = shared_data / "gpt2.tiktoken"
    if not path.exists():
        pytest.skip(f"{path.name} is missing")
    gpt2 = open_tokenizer(path)
    # "Hello world" in GPT-2 is known to everybody who ever counted its tokens.
    assert gpt2.encode("Hello world<|endoftext|>", "all") == [15496, 995, 50256]
