"""One document that can't be used, as users of other loaders met it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stories import EOT

from gptfast.cli import cli
from gptfast.data import encode as encode_module
from gptfast.data import parts
from gptfast.data.documents import ReadOptions
from gptfast.data.encode import encode_files
from gptfast.data.manifest import open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import UserError
from gptfast.system import files as system_files
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.tokenizer.__main__ import main as tokenizer_command

# On a long word.
GIVES_UP = r"(?:(?:\w|x)+)+(?=y)|\s+|\S"
# On 1 MB of spaces, by a regular expression engine that backtracks.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_documents(folder: Path) -> tuple[Path, list[str], list[tuple[str, str, int]]]:
    """Two files in which seven documents are unusable: what remains, and their places."""
    folder.mkdir()
    good = [f"the king {i}" for i in range(40)]
    lines = [json.dumps({"text": text}) for text in good]
    lines[3:3] = [json.dumps({"text": "x" * 60}), "{broken", '{"text": "\\ud800"}']
    # Too long for a batch: what came before has been written when the end turns out to be bad.
    lines[30:30] = [json.dumps({"text": "a fool " * 2000 + "x" * 60}), '{"texts": "a"}']
    (folder / "a.jsonl").write_text("\n".join(lines))
    stories = ["one", "two\nthree", "caf\xe9", "x" * 60 + " y", "four"]
    (folder / "b.txt").write_bytes(f"\n{EOT}\n".join(stories).encode("latin-1"))
    bad = [
        *(("a.jsonl", "line", number) for number in (4, 5, 6, 31, 32)),
        *(("b.txt", "line", number) for number in (6, 8)),
    ]
    return folder, [*good, "one", "two\nthree", "four"], bad


@pytest.fixture
def pattern_tokenizer() -> BPETokenizer:
    return BPETokenizer({bytes([i]): i for i in range(256)}, GIVES_UP, {EOT: 256})


def logged(path: Path) -> list[tuple[str, str, int]]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        assert entry["file"] in entry["reason"]
    return sorted((Path(entry["file"]).name, "line", entry["line"]) for entry in entries)


# tiktoken#245, tiktoken#15
def test_a_million_spaces_do_not_end_a_preparation(tmp_path: Path) -> None:
    tokenizer = BPETokenizer({bytes([i]): i for i in range(256)}, LLAMA_3, {EOT: 256})
    texts = ["the king", " " * 1_000_000 + "x", *(f"a fool {i}" for i in range(9))]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    options = ReadOptions(on_error="skip")
    made = prepare_files(tokenizer, tmp_path / "a.jsonl", tmp_path / "out", 0.5, options)
    n_documents = made.report.train_documents + made.report.val_documents
    assert (n_documents, made.skipped) == (11, 0)
    n_bytes = made.report.train_bytes + made.report.val_bytes
    assert n_bytes == sum(map(len, texts))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_one_document_does_not_end_a_whole_preparation(
    tmp_path: Path,
    pattern_tokenizer: BPETokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    n_threads: int,
) -> None:
    monkeypatch.setattr(encode_module, "BLOCK_BYTES", 64)
    folder, good, bad = write_documents(tmp_path / "in")
    options = ReadOptions(on_error="skip", n_threads=n_threads)
    made = prepare_files(pattern_tokenizer, folder, tmp_path / "out", 0.3, options)
    assert logged(tmp_path / "out" / "skipped.jsonl") == bad
    assert made.skipped == json.loads((tmp_path / "out" / "data.json").read_text())["skipped"] == 7
    data = open_prepared(tmp_path / "out")
    for tokens, n_documents, n_bytes, is_val in (
        (data.train, data.report.train_documents, data.report.train_bytes, False),
        (data.val, data.report.val_documents, data.report.val_bytes, True),
    ):
        texts = [
            text
            for text in good
            if (hashlib.blake2b(text.encode(), digest_size=16).digest()[0] < 0x4D) == is_val
        ]
        ids = tokens[np.arange(len(tokens))]
        assert pattern_tokenizer.decode(ids) == "".join(text + EOT for text in texts)
        assert (n_documents, n_bytes) == (len(texts), sum(len(t.encode()) for t in texts))
    assert "left out 4 that could not be read, first: " in capsys.readouterr().err

    encode_files(pattern_tokenizer, folder, tmp_path / "all.bin", options)
    assert logged(tmp_path / "all.bin.skipped.jsonl") == bad
    said = capsys.readouterr().err
    assert "left out 7 that could not be read or encoded, first: " in said
    assert f"; all are named in {tmp_path / 'all.bin.skipped.jsonl'}\n" in said
    # The log of an earlier run is not left beside a shard that lacks nothing.
    (tmp_path / "few.txt").write_text("the end")
    encode_files(pattern_tokenizer, tmp_path / "few.txt", tmp_path / "all.bin", options)
    assert not (tmp_path / "all.bin.skipped.jsonl").exists()


@pytest.mark.parametrize("bad", ["x" * 60, "fine so far " * 300 + "x" * 60])
def test_a_document_that_can_not_be_encoded_is_named(
    tmp_path: Path, pattern_tokenizer: BPETokenizer, bad: str
) -> None:
    lines = [json.dumps({"text": f"the king {i}"}) for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, json.dumps({"text": bad}), *lines]))
    (tmp_path / "b.txt").write_text(f"one\ntwo\n{EOT}\nthree\n{bad}\n")
    for name, line in (("a.jsonl", 21), ("b.txt", 4)):
        path = tmp_path / name
        message = rf"{name}, line {line} can't be encoded \(.* gave up .*on_error 'skip'$"
        with pytest.raises(UserError, match=message):
            encode_files(pattern_tokenizer, path, tmp_path / "a.bin")
        assert not (tmp_path / "a.bin").exists()
        with pytest.raises(UserError, match=message):
            prepare_files(pattern_tokenizer, path, tmp_path / f"{name}.out", 0)
        with pytest.raises(UserError, match=rf"{name}, line {line} can't be learned from \("):
            train_tokenizer(path, 300, GIVES_UP)
        with pytest.warns(UserWarning, match=rf"left out 1 .*{name}, line {line} "):
            train_tokenizer(path, 300, GIVES_UP, options=ReadOptions(on_error="skip"))


def test_a_character_that_a_tokenizer_lacks_is_named_with_its_file(tmp_path: Path) -> None:
    CharTokenizer.train("abc \n", [EOT]).save(tmp_path / "char")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a b c " * 100)
    (tmp_path / "in" / "b.txt").write_text(f"aaa\n{EOT}\nb c\nab z\n{EOT}\nabc")
    with pytest.raises(UserError, match=r"b\.txt, line 3: the character 'z' .* at position 7"):
        prepare(str(tmp_path / "in"), str(tmp_path / "char"), 0, 0.3, lambda _: None)


@pytest.mark.parametrize("bad", ["val", "train", "all"])
def test_a_side_of_which_nothing_can_be_encoded_is_refused_with_a_fraction_that_works(
    tmp_path: Path, pattern_tokenizer: BPETokenizer, bad: str
) -> None:
    def place(text: str) -> float:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    good = [text for i in range(40) if (place(text := f"the king {i}") >= 0.2) == (bad == "val")]
    words = ("x" * 60 + f" {i}" for i in range(100))
    broken = next(text for text in words if (place(text) < 0.2) == (bad == "val"))
    texts = [broken] if bad == "all" else [*good, broken]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    out, skip = tmp_path / "out", ReadOptions(on_error="skip")
    if bad == "all":
        with pytest.raises(UserError, match="no document could be encoded"):
            prepare_files(pattern_tokenizer, tmp_path / "a.jsonl", out, 0, skip, progress=False)
        return
    found = f"of {len(good)} different documents {0 if bad == 'val' else len(good)} are in val"
    with pytest.raises(UserError, match=f"{found} .*the (small|larg)est fraction") as error:
        prepare_files(pattern_tokenizer, tmp_path / "a.jsonl", out, 0.2, skip, progress=False)
    fraction = float(str(error.value).split("--val-fraction ")[1].split(",")[0])
    made = prepare_files(pattern_tokenizer, tmp_path / "a.jsonl", out, fraction, skip)
    n_train, n_val = made.report.train_documents, made.report.val_documents
    assert (n_train + n_val, made.skipped) == (len(good), 1)
    assert min(n_train, n_val) >= 1


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_does_not_lose_a_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(f"word{i:07}" for i in range(600_000))
    made = BPETokenizer.train(words, 300, memory_limit=64_000_000, n_threads=1, progress=False)
    assert made.n_vocab == 300
    assert "warning: " in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text('{"text": "a fool"}\nbroken\n{"txt": 1}\n{"text": "a king"}')
    command = ["train", str(tmp_path / "a.jsonl"), "--vocab-size", "260", "--on-error", "skip"]
    assert cli.run(tokenizer_command, [*command, "--out", str(tmp_path / "bpe")]) == 0
    assert BPETokenizer.load(tmp_path / "bpe").n_vocab == 260
    log = tmp_path / "bpe" / "tokenizer.skipped.jsonl"
    assert f"; all are named in {log}\n" in capsys.readouterr().err
    assert logged(log) == [("a.jsonl", "line", 2), ("a.jsonl", "line", 3)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("owner", "name"),
    [(parts, "write_shard"), (system_files, "_sync")],
)
def test_the_log_is_right_after_a_kill(
    tmp_path: Path,
    pattern_tokenizer: BPETokenizer,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
) -> None:
    """Killed at its 1st call, resumed and killed at its 2nd, and so on, it makes the same."""
    monkeypatch.setattr(encode_module, "BLOCK_BYTES", 64)
    monkeypatch.setattr(parts, "_PART_BYTES", 1)  # shards of their own for both files
    folder, _, bad = write_documents(tmp_path / "in")
    options = ReadOptions(on_error="skip", n_threads=1)
    out, function = tmp_path / "out", getattr(owner, name)

    def prepare_it() -> None:
        prepare_files(pattern_tokenizer, folder, out, 0.3, options, progress=False)

    def dying(n: int) -> Callable[..., Any]:
        calls = iter(range(n))

        def call(*arguments: Any, **named: Any) -> Any:
            if next(calls, None) is None:
                raise Killed
            return function(*arguments, **named)

        return call

    whole = out.with_name("whole")
    prepare_it()
    out.rename(whole)
    kills = 0
    while not (out / "data.json").exists():
        with monkeypatch.context() as context:
            context.setattr(owner, name, dying(kills))
            try:
                prepare_it()
            except Killed:
                kills += 1
        assert kills < 60
    prepare_it()
    assert kills > 1
    assert logged(out / "skipped.jsonl") == bad
    for path in whole.rglob("*"):
        if path.is_file() and path.name != "data.json":
            assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    first, second = (json.loads((f / "data.json").read_text()) for f in (whole, out))
    del first["report"]["corpus"], second["report"]["corpus"]
    assert first == second


def test_what_was_done_before_a_broken_document_is_kept_when_it_is_skipped(
    tmp_path: Path, pattern_tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PART_BYTES", 1)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, last in (("a", "fine"), ("b", "x" * 60)):
        texts = [*(f"{name} {i}" for i in range(20)), last]
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"b\.jsonl, line 21 can't be encoded"):
        prepare_files(pattern_tokenizer, folder, out, 0.4, progress=False)
    before = [path.stat().st_ino for path in sorted(out.glob("*/00000.bin"))]
    assert len(before) == 2
    skip = ReadOptions(on_error="skip")
    made = prepare_files(pattern_tokenizer, folder, out, 0.4, skip, progress=False)
    assert [path.stat().st_ino for path in sorted(out.glob("*/00000.bin"))] == before
    assert (made.skipped, made.report.train_documents + made.report.val_documents) == (1, 41)
    # The other way round, what was skipped is missed.
    with pytest.raises(UserError, match="made with another on_error"):
        prepare_files(pattern_tokenizer, folder, out, 0.4, progress=False)
