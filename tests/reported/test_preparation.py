"""What users of other loaders ran into while preparing data, as a test for each kind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gptfast.cli import cli
from gptfast.data import encode as encode_module
from gptfast.data import hub, parts
from gptfast.data.__main__ import main as data_command
from gptfast.data.documents import ReadOptions, ReadReport
from gptfast.data.encode import encode_files
from gptfast.data.hub import HubDataset
from gptfast.data.manifest import Manifest, open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import UserError
from gptfast.llm import LLM
from gptfast.system import files as system_files
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.tokenizer.__main__ import main as tokenizer_command
from gptfast.train.config import TrainConfig
from gptfast.train.pretrain import prepare_corpora

EOT = "<|endoftext|>"


def make_stories(n: int) -> list[str]:
    rng = random.Random(0)
    heroes = ["a king", "a queen", "Céline", "the moon"]
    return [f"Once there was {rng.choice(heroes)}, number {i}.\n  The end." for i in range(n)]


STORIES = make_stories(3000)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(STORIES, 300)


def documents_in(path: Path, tokenizer: BPETokenizer, **options: Any) -> list[str]:
    """What a shard holds, by its end-of-text ids."""
    shard = encode_files(tokenizer, path, path.with_suffix(".bin"), ReadOptions(**options))
    ids = shard.tokens(tokenizer)
    ends = np.flatnonzero(ids == tokenizer.eot_token)
    assert ends[-1] == len(ids) - 1
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(ids[i:j]) for i, j in zip(starts, ends, strict=True)]


MARKED = {
    "on a line of its own": f"\n{EOT}\n".join(STORIES),
    "before and after everything": f"{EOT}\n" + f"\n{EOT}\n".join(STORIES) + f"\n{EOT}\n",
    "inline": EOT.join(STORIES),
    "with empty lines": f"\n\n{EOT}\n\n\n".join(STORIES) + "\n",
    "on Windows": f"\n{EOT}\n".join(STORIES).replace("\n", "\r\n") + "\r\n",
    "with blanks around it": f"\n {EOT} \n".join(STORIES),
}


# nanoGPT#308, minbpe#44, dolma#176, tokenizers#1345
@pytest.mark.parametrize("layout", MARKED)
def test_a_marker_between_documents_inside_a_file_divides_them(
    tmp_path: Path, tokenizer: BPETokenizer, layout: str
) -> None:
    path = tmp_path / "stories.txt"
    path.write_bytes(MARKED[layout].encode())
    expected = [s.replace("\n", "\r\n") for s in STORIES] if "Windows" in layout else STORIES
    assert documents_in(path, tokenizer) == expected


def test_all_commands_find_the_marker_and_say_so_once(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path, said = tmp_path / "stories.txt", f"split 1 file into 3,000 documents at {EOT}\n"
    path.write_text(MARKED["inline"], encoding="utf-8")
    tokenizer.save(tmp_path / "bpe")
    of_files = ["--tokenizer", str(tmp_path / "bpe"), "--out"]
    encode = ["encode", str(path), *of_files, str(tmp_path / "a.bin")]
    assert cli.run(tokenizer_command, encode) == 0
    assert capsys.readouterr().err == said
    learn = ["train", str(path), "--vocab-size", "300", "--out", str(tmp_path / "t")]
    assert cli.run(tokenizer_command, learn) == 0
    assert capsys.readouterr().err == said
    assert BPETokenizer.load(tmp_path / "t").fingerprint == tokenizer.fingerprint
    out = tmp_path / "out"
    assert cli.run(data_command, ["prepare", str(path), *of_files, str(out)]) == 0
    assert capsys.readouterr().err == said
    data = Manifest.read(out).report
    assert data.train_documents + data.val_documents == 3000
    logged: list[str] = []
    for name in ("bpe", "char", str(tmp_path / "bpe")):
        logged.clear()
        corpus = prepare(str(path), name, 300, 0.1, logged.append)
        assert logged.count(said[:-1]) == 1
        report = corpus.report
        assert report.train_documents + report.val_documents == 3000
        # The mark is one id, with which each document ends, and nowhere spelled.
        assert (corpus.val[:] == corpus.tokenizer.eot_token).sum() == report.val_documents
        assert "|" not in corpus.tokenizer.decode(corpus.val.tolist()).replace(EOT, "")


@pytest.mark.parametrize(
    ("separator", "given"),
    [
        ("\n\n\n", r"\n\n\n"),
        ("\n\n\n", "\n\n\n"),
        ("---", "---"),
        ("</s>", "</s>"),
        ("※", r"\u203b"),
    ],
)
def test_another_text_may_divide_documents(
    tmp_path: Path, tokenizer: BPETokenizer, separator: str, given: str
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(separator.join(STORIES[:50]), encoding="utf-8", newline="")
    assert documents_in(path, tokenizer, document_separator=given) == STORIES[:50]
    corpus = prepare(str(path), "char", 0, 0.5, lambda _: None, document_separator=given)
    assert corpus.report.train_documents + corpus.report.val_documents == 50


def test_without_a_separator_a_file_is_one_document(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(MARKED["inline"], encoding="utf-8")
    assert documents_in(path, tokenizer, document_separator="") == [MARKED["inline"]]
    said = capsys.readouterr().err
    assert said.startswith(f"warning: the documents spell {EOT} 2,999 times in ")
    assert said.count("\n") == 1


def test_a_marker_far_into_a_file_and_across_blocks_is_found(
    tmp_path: Path, tokenizer: BPETokenizer
) -> None:
    long = [" ".join(STORIES[i : i + 1500]) for i in (0, 1500)]  # 80 kB each
    documents = [*long, "x" * 262_100 + " a", *STORIES[:100], long[1]]
    path = tmp_path / "stories.txt"
    for before in range(14):  # so that a marker is at each place of the reader's buffer
        shifted = ["y" * (before + 1), *documents]
        path.write_text(EOT.join(shifted), encoding="utf-8")
        report = ReadReport()
        shard = encode_files(tokenizer, path, tmp_path / "x.bin", report=report, progress=False)
        assert report.split_documents == len(shifted)
        assert (shard.tokens(tokenizer) == tokenizer.eot_token).sum() == len(shifted)
    assert documents_in(path, tokenizer) == shifted


def test_equal_documents_of_a_file_are_duplicates(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(f"\n{EOT}\n".join(STORIES[:100] * 2), encoding="utf-8")
    made = prepare_files(tokenizer, path, tmp_path / "out", 0.2, progress=False)
    n_val = sum(
        hashlib.blake2b(story.encode(), digest_size=16).digest()[:8] < bytes([0x33] * 8)
        for story in STORIES[:100]
    )
    assert (made.report.train_documents, made.report.val_documents) == (100 - n_val, n_val)
    assert made.duplicates == 100


@pytest.mark.parametrize("name", [EOT, "<|im_start|>", "[SEP]"])
def test_a_special_token_that_is_spelled_often_is_said(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = BPETokenizer.train(STORIES[:10], 260, special_tokens=[EOT, "[SEP]"])
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{name} {s}"}) + "\n" for s in STORIES[:20]))
    for run in (
        lambda: encode_files(tokenizer, path, tmp_path / "a.bin"),
        lambda: prepare_files(tokenizer, path, tmp_path / "out", 0.5),
    ):
        run()
        said = capsys.readouterr().err
        assert said.startswith(f"warning: the documents spell {name} 20 times in 0.00 MB, which ")
        assert said.count("\n") == 1
    with pytest.warns(UserWarning, match="the documents spell "):
        train_tokenizer(path, 300, special_tokens=[EOT, "[SEP]"])
    path.write_text(json.dumps({"text": f"{name} is a token. " + STORIES[0] * 10}))
    encode_files(tokenizer, path, tmp_path / "a.bin")
    assert capsys.readouterr().err == ""


# ---- one document that can't be used -------------------------------------------------------------

GIVES_UP = (
    r"(?:(?:\w|x)+)+(?=y)|\s+|\S"  # on a long word; a real one is Llama 3's, on 1 MB of spaces
)


def write_documents(folder: Path) -> tuple[Path, list[str], list[tuple[str, str, int]]]:
    """Two files in which five documents are unusable: what remains, and their places."""
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


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("owner", "name"),
    [(parts, "write_shard"), (parts, "write_text_atomically"), (system_files, "_sync")],
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


# ---- many small files ----------------------------------------------------------------------------


# litgpt#1235: a flush to disk takes about 5 ms, and four of them were each file's 21 ms.
def test_many_small_files_do_not_wait_for_the_disk_each(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, shards = tmp_path / "in", tmp_path / "shards"
    source.mkdir()
    paths = [source / f"{i:03}.txt" for i in range(300)]
    for path, story in zip(paths, STORIES, strict=False):
        path.write_text(story, encoding="utf-8")
    waits, threads = [], []
    start = threading.Thread.start
    monkeypatch.setattr(os, "fsync", waits.append)
    monkeypatch.setattr(threading.Thread, "start", lambda t: (threads.append(t), start(t)))
    for path in paths:
        encode_files(tokenizer, path, shards / f"{path.stem}.bin", ReadOptions(n_threads=2))
    assert (waits, threads) == ([], [])
    encode_files(tokenizer, paths[0], shards / "000.bin")  # which must not be lost, the old one
    assert len(waits) == 2
    for work in (
        lambda: encode_files(tokenizer, source, tmp_path / "one.bin"),
        lambda: prepare_files(tokenizer, source, tmp_path / "out", 0.1),
        lambda: train_tokenizer(source, 300),
        lambda: prepare(str(source), "bpe", 300, 0.1, lambda _: None),
    ):
        waits.clear()
        threads.clear()
        work()
        assert len(waits) <= 16
        assert len(threads) <= 16


# ---- slices of a data set ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:10%]", [*range(20)]),
        ("train[90:110]", [*range(90, 110)]),
        ("train[-5:]+train[3:5]", [*range(195, 200), 3, 4]),
        ("train[:1%]+test", [0, 1, 900, 901]),
        ("train[99%:]", [198, 199]),
    ],
)
def test_slices_of_a_split_are_those_of_datasets(
    tmp_path: Path, tokenizer: BPETokenizer, split: str, expected: list[int]
) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    for name, numbers in (("train", range(200)), ("test", range(900, 902))):
        lines = [json.dumps({"text": f"row {i}"}) for i in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    by_datasets = datasets.load_dataset(str(folder), split=split, cache_dir=str(tmp_path / "c"))
    assert by_datasets["text"] == [f"row {i}" for i in expected]
    made = prepare_files(
        tokenizer, HubDataset(str(folder), None, split), tmp_path / "out", 0, progress=False
    )
    tokens = open_prepared(tmp_path / "out").train
    text = tokenizer.decode(tokens[np.arange(len(tokens))])
    assert text == "".join(f"row {i}{EOT}" for i in expected)
    assert made.report.train_documents == len(expected)


def test_rows_of_a_data_set_that_are_skipped_are_named(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr(hub, "DOCUMENTS_PER_FILE", 7)
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"text": None if i in (3, 17) else f"row {i}"}) for i in range(1, 21)]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines))
    name, out = str(tmp_path / "set"), tmp_path / "out"
    prepare_files(tokenizer, HubDataset(name), out, 0, ReadOptions(on_error="skip"), progress=False)
    entries = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(e["file"], e["split"], e["row"]) for e in entries] == [
        (name, "train", 3),
        (name, "train", 17),
    ]
    assert entries[1]["reason"].startswith(f"{name}, train, row 17 has no string under 'text'")


def test_a_slice_that_is_none_is_refused(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "a"}')
    for split in ("valid[:1%]", "train[:1", "train[:1x]", "train[:500%]"):
        with pytest.raises(UserError, match=r"the data set can't be streamed \("):
            prepare_files(
                tokenizer, HubDataset(str(tmp_path / "set"), None, split), tmp_path / "out", 0
            )


# ---- few documents -------------------------------------------------------------------------------


# LlamaFactory#3119
@pytest.mark.parametrize("n", [2, 3, 5, 40])
@pytest.mark.parametrize("asked", ["too few", "too many"])
def test_of_few_documents_the_fraction_that_works_is_said(
    tmp_path: Path, tokenizer: BPETokenizer, n: int, asked: str
) -> None:
    books = STORIES[10 : 10 + n]
    places = sorted(
        int.from_bytes(hashlib.blake2b(book.encode(), digest_size=16).digest()[:8], "big") / 2**64
        for book in books
    )
    (tmp_path / "in").mkdir()
    for i, book in enumerate(books):
        (tmp_path / "in" / f"{i}.txt").write_text(book, encoding="utf-8")
    wrong = places[0] * 0.99 if asked == "too few" else (1 + places[-1]) / 2
    with pytest.raises(UserError, match=f"of {n} different documents ") as error:
        prepare_files(tokenizer, tmp_path / "in", tmp_path / "out", wrong)
    said = str(error.value)
    fraction = float(said.split("--val-fraction ")[1].split(",")[0])
    # Enough for one document, and for no other that it need not be.
    if asked == "too few":
        assert "the smallest fraction" in said
        assert places[0] < fraction <= places[1]
    else:
        assert "the largest fraction" in said
        assert places[-2] < fraction <= places[-1]
    made = prepare_files(tokenizer, tmp_path / "in", tmp_path / "out", fraction, progress=False)
    n_val = made.report.val_documents
    assert n_val == (1 if asked == "too few" else n - 1)
    assert f"puts {n_val} of {n} in val" in said


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_val_part_that_is_too_short_to_train_with_comes_with_a_fraction_that_is_not(
    tmp_path: Path, n: int
) -> None:
    for i in range(n):
        (tmp_path / f"{i}.txt").write_text("".join(STORIES[i::n][: 40 // n]), encoding="utf-8")
    data = {"corpus": str(tmp_path / "*.txt"), "tokenizer": "char"}
    size = {"block_size": 256, "n_layer": 1, "n_head": 1, "n_embd": 8}
    with pytest.raises(UserError, match=r"the val part of .* or a larger --val-fraction,") as error:
        LLM.train(**data, **size, val_fraction=0.05, verbose=False)
    fraction = float(str(error.value).split("such as ")[1])
    mixture = prepare_corpora(
        TrainConfig(**data, val_fraction=fraction, out=tmp_path / "run"), Console(quiet=True)
    )
    assert len(mixture.parts[0].val) > 256
    assert fraction < 0.5


def test_a_single_document_can_be_divided(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n\n".join(STORIES[:30]), encoding="utf-8")
    with pytest.raises(UserError, match=r"of 1 different documents 0 are .*--document-separator"):
        prepare_files(tokenizer, path, tmp_path / "out", 0.1)
    options = ReadOptions(document_separator=r"\n\n\n")
    made = prepare_files(tokenizer, path, tmp_path / "out", 0.2, options, progress=False)
    assert made.report.train_documents + made.report.val_documents == 30
    # Training splits within a document.
    report = prepare(str(path), "char", 0, 0.1, lambda _: None).report
    assert report.val_bytes == pytest.approx(path.stat().st_size * 0.1, abs=2)
