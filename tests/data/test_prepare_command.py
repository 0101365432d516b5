"""`gptfast data prepare`, against a loop over the documents with tiktoken and Python's own sets."""

from __future__ import annotations

import errno
import gzip
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import tiktoken
from pyarrow import parquet

from gptfast.cli import cli
from gptfast.data import encode as encode_module
from gptfast.data import hub, leakage
from gptfast.data import prepare_shards as module
from gptfast.data.__main__ import main
from gptfast.data.documents import Block
from gptfast.data.encode import EncodeOptions
from gptfast.data.hashes import Hashes
from gptfast.data.hub import HubDataset
from gptfast.data.manifest import Description, open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.shard import write_shard
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.train.__main__ import main as train

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def tokenizer(nursery_text: str) -> BPETokenizer:
    return BPETokenizer.train(nursery_text, 400)


@pytest.fixture(scope="module")
def oracle(tokenizer: BPETokenizer) -> tiktoken.Encoding:
    ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.n_vocab - 1)}
    special = {"<|endoftext|>": tokenizer.n_vocab - 1}
    return tiktoken.Encoding(
        "test", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special
    )


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file becomes shards of its own, and most documents have several blocks."""
    monkeypatch.setattr(module, "_PART_BYTES", 1)
    monkeypatch.setattr(encode_module, "BLOCK_BYTES", 64)


def make_documents(seed: int, nursery_text: str) -> list[str]:
    """200 documents of up to 300 characters, about a third of which occurs again."""
    rng = random.Random(seed)
    documents: list[str] = []
    for _ in range(200):
        if documents and rng.random() < 0.3:
            documents.append(rng.choice(documents))
        else:
            at, size = rng.randrange(len(nursery_text) - 300), rng.randint(1, 300)
            documents.append(f"{rng.random():.3f} {nursery_text[at : at + size]}")
    return documents


@dataclass(frozen=True)
class Source:
    """Files, and the documents in them, in order."""

    folder: Path
    documents: list[list[str]]


@pytest.fixture
def source(tmp_path: Path, nursery_text: str) -> Source:
    folder = tmp_path / "in"
    (folder / "d").mkdir(parents=True)
    documents = make_documents(0, nursery_text)
    (folder / "a.txt").write_text(documents[0], encoding="utf-8", newline="")
    lines = [json.dumps({"text": text}) for text in documents[1:80]]
    (folder / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = pyarrow.table({"text": documents[80:150]})
    parquet.write_table(table, folder / "c.parquet")
    lines = [json.dumps({"text": text}) for text in documents[150:]]
    (folder / "d" / "d.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return Source(folder, [documents[:1], documents[1:80], documents[80:150], documents[150:]])


def is_val(document: str, fraction: float) -> bool:
    digest = hashlib.blake2b(document.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def split_by_hand(documents: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Train and val, without those that have been seen before."""
    seen: set[str] = set()
    sides: tuple[list[str], list[str]] = ([], [])
    for document in documents:
        if document not in seen:
            seen.add(document)
            sides[is_val(document, fraction)].append(document)
    return sides


def ids_by_hand(documents: list[str], oracle: tiktoken.Encoding) -> list[int]:
    return [i for text in documents for i in [*oracle.encode_ordinary(text), oracle.eot_token]]


def exact_overlap(train_texts: list[str], val_texts: list[str]) -> float:
    def windows(text: str) -> list[bytes]:
        data = text.encode()
        return [data[i : i + 50] for i in range(len(data) - 49)]

    seen = {window for text in train_texts for window in windows(text)}
    found = [window in seen for text in val_texts for window in windows(text)]
    return sum(found) / len(found)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def all_ids(tokens: Any) -> list[int]:
    ids: list[int] = tokens[np.arange(len(tokens))].tolist()
    return ids


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_shards_are_what_a_loop_over_the_documents_makes(
    tmp_path: Path,
    source: Source,
    tokenizer: BPETokenizer,
    oracle: tiktoken.Encoding,
    n_threads: int,
    fraction: float,
) -> None:
    out = tmp_path / "out"
    options = EncodeOptions(n_threads=n_threads)
    made = prepare_files(tokenizer, source.folder, out, fraction, options)
    documents = [text for file in source.documents for text in file]
    sides = split_by_hand(documents, fraction)
    data = open_prepared(out)
    for texts, tokens, n_documents, n_bytes, n_tokens in (
        (sides[0], data.train, data.report.train_documents, data.report.train_bytes,
         data.report.train_tokens),
        (sides[1], data.val, data.report.val_documents, data.report.val_bytes,
         data.report.val_tokens),
    ):  # fmt: skip
        expected = ids_by_hand(texts, oracle)
        assert all_ids(tokens) == expected
        assert n_documents == len(texts)
        assert n_bytes == sum(len(text.encode()) for text in texts)
        assert n_tokens == len(expected)
    assert made.duplicates == len(documents) - len(set(documents)) > 20
    assert made.skipped == 0
    assert made.report.overlap == pytest.approx(exact_overlap(*sides), abs=1e-12)
    assert 0 < made.report.overlap < 1
    assert made.compared_train_bytes == data.report.train_bytes
    assert made.compared_val_bytes == data.report.val_bytes
    assert data.tokenizer.fingerprint == tokenizer.fingerprint
    names = [f"{i:05}.bin" for i in range(4)]
    assert set(tree(out)) == {
        "data.json", "tokenizer.json", *(f"{s}/{n}" for s in ("train", "val") for n in names)
    }  # fmt: skip


def test_small_files_share_a_shard(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = prepare_files(tokenizer, source.folder, tmp_path / "apart", 0.2)
    monkeypatch.setattr(module, "_PART_BYTES", 64 << 20)
    together = prepare_files(tokenizer, source.folder, tmp_path / "together", 0.2)
    assert (len(apart.train_shards), len(together.train_shards)) == (4, 1)
    for side in ("train", "val"):
        first, second = (
            getattr(open_prepared(tmp_path / name), side) for name in ("apart", "together")
        )
        assert all_ids(first) == all_ids(second)


class Killed(BaseException):
    pass


def raise_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, n: int, *, after: bool
) -> None:
    """Have the n-th call of a function raise, before it does anything or after it has."""
    function: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def raising(*arguments: Any, **options: Any) -> Any:
        is_nth = next(calls) == n  # also where several threads call at a time
        if is_nth and not after:
            raise Killed
        result = function(*arguments, **options)
        if is_nth:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, raising)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name", "n"),
    [
        (module, "write_text_atomically", 1),
        (Hashes, "save", 1),
        (Hashes, "save", 3),
        (module, "route", 1),
        *((module, "write_shard", n) for n in range(1, 9)),
        (module, "_leakage", 1),
        (BPETokenizer, "save", 1),
        (Description, "write", 1),
        (module.shutil, "rmtree", 1),
    ],
)
def test_a_run_that_was_killed_goes_on_and_makes_the_same(
    tmp_path: Path,
    source: Source,
    tokenizer: BPETokenizer,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    n: int,
    after: bool,
) -> None:
    out, options = tmp_path / "out", EncodeOptions(n_threads=2)
    prepare_files(tokenizer, source.folder, out, 0.2, EncodeOptions(n_threads=1))
    expected = tree(out)
    shutil.rmtree(out)
    with monkeypatch.context() as context:
        raise_at(context, owner, name, n, after=after)
        with pytest.raises(Killed):
            prepare_files(tokenizer, source.folder, out, 0.2, options)
    shards = {path: path.stat().st_ino for path in out.glob("*/*.bin")}
    if name == "write_shard":
        assert len(shards) == n - 1 + after
    hashed = len(list(out.glob("work/*/*.npz")))
    n_hashed = 0
    of = Hashes.of

    def counted(*arguments: Any) -> Hashes:
        nonlocal n_hashed
        n_hashed += 1
        return of(*arguments)

    monkeypatch.setattr(Hashes, "of", counted)
    prepare_files(tokenizer, source.folder, out, 0.2, options)
    assert tree(out) == expected
    if name != "rmtree" and (name, after) != ("write", True):
        assert n_hashed == 4 - hashed
    else:
        assert n_hashed == 0
    # Of a part both shards are kept, or neither.
    whole = len(shards) // 2 * 2
    assert sum(path.stat().st_ino == inode for path, inode in shards.items()) >= whole


# Encodes until it meets STOP, says so, and waits there.
SCRIPT = """
import sys, time
from gptfast.data import prepare_shards as module
from gptfast.tokenizer import BPETokenizer
from gptfast.data.encode import Encoder
module._PART_BYTES = 1
encode_blocks = Encoder._encode_blocks
def stops(self, blocks):
    if any(b"STOP" in block for block in blocks):
        print("ready", flush=True)
        time.sleep(600)
    return encode_blocks(self, blocks)
Encoder._encode_blocks = stops
module.prepare_files(BPETokenizer.load(sys.argv[1]), sys.argv[2], sys.argv[3], 0.5)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_was_stopped_goes_on(
    tmp_path: Path, tokenizer: BPETokenizer, oracle: tiktoken.Encoding, how: signal.Signals
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    documents = [f"the king {i}" for i in range(30)]
    documents[20] = "STOP"
    for i in range(3):
        lines = [json.dumps({"text": text}) for text in documents[10 * i : 10 * i + 10]]
        (source / f"{i}.jsonl").write_text("\n".join(lines))
    tokenizer.save(tmp_path)
    arguments = [sys.executable, "-c", SCRIPT, *map(str, (tmp_path, source, out))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, how)
        assert process.wait(timeout=120) != 0
    assert not (out / "data.json").exists()
    assert len(list(out.glob("train/0*.bin"))) == 2
    prepare_files(tokenizer, source, out, 0.5)
    data = open_prepared(out)
    sides = split_by_hand(documents, 0.5)
    for texts, tokens in zip(sides, (data.train, data.val), strict=True):
        assert all_ids(tokens) == ids_by_hand(texts, oracle)
    assert not list(out.glob("**/.*"))  # what the killed run was writing
    assert not (out / "work").exists()


def test_an_error_in_one_file_ends_the_others(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("the king")

    def blocks(self: encode_module.Encoder, files: Sequence[Path]) -> Iterator[Block]:
        while files[0].name == "b.txt":  # would never end by itself
            yield Block(b"the king", True)
        raise UserError("a is broken")

    monkeypatch.setattr(encode_module.Encoder, "blocks", blocks)
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(UserError, match="a is broken"):
        prepare_files(tokenizer, files, tmp_path / "out", 0.5, EncodeOptions(n_threads=2))


def test_a_finished_folder_is_left_as_it_is(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    first = prepare_files(tokenizer, source.folder, out, 0.2)
    before = {path: path.stat() for path in out.rglob("*") if path.is_file()}
    assert prepare_files(tokenizer, source.folder, out, 0.2) == first
    assert {path: path.stat().st_mtime_ns for path in before} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }
    with pytest.raises(UserError, match=r"out holds shards .* another val_fraction: expected"):
        prepare_files(tokenizer, source.folder, out, 0.3)
    os.utime(source.folder / "a.txt", ns=(1, 1))
    with pytest.raises(UserError, match=r"out holds shards .* another source: expected"):
        prepare_files(tokenizer, source.folder, out, 0.2)


@pytest.mark.parametrize("beside", [[], ["train/00000.bin"], ["work/thesis.doc"]], ids=str)
@pytest.mark.parametrize("plan", ["my plan", "null", "{}", '{"format": 1}', "[" * 10**5])
def test_a_plan_of_someone_else_is_kept(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, plan: str, beside: list[str]
) -> None:
    out = tmp_path / "out"
    for name in ("plan.json", *beside):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(plan)
    before = tree(out)
    with pytest.raises(UserError, match="out holds files that are no data set of gptfast: choose"):
        prepare_files(tokenizer, source.folder, out, 0.2)
    assert tree(out) == before


def test_a_finished_folder_keeps_what_a_user_puts_there(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    prepare_files(tokenizer, source.folder, out, 0.2)
    (out / "work").mkdir()
    for name in ("plan.json", "notes.txt", "work/thesis.doc"):
        (out / name).write_text("mine")
    before = tree(out)
    prepare_files(tokenizer, source.folder, out, 0.2)
    assert tree(out) == before


def kill_in_third_shard(tokenizer: BPETokenizer, source: Source, out: Path) -> None:
    with pytest.MonkeyPatch.context() as context:
        raise_at(context, module, "write_shard", 3, after=False)
        with pytest.raises(Killed):
            prepare_files(tokenizer, source.folder, out, 0.2)


def test_a_run_deletes_only_its_own_from_work(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    kill_in_third_shard(tokenizer, source, out)
    (out / "work" / "thesis.doc").write_text("mine")
    prepare_files(tokenizer, source.folder, out, 0.2)
    assert [path.name for path in (out / "work").rglob("*")] == ["thesis.doc"]
    assert not (out / "plan.json").exists()


def test_two_runs_can_not_write_into_one_folder(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, route = tmp_path / "out", module.route

    def begin_another(*arguments: Any) -> Any:
        with pytest.raises(UserError, match=r"another run is writing into .*out: wait until"):
            prepare_files(tokenizer, source.folder, out, 0.2)
        another.append(True)
        return route(*arguments)

    another: list[bool] = []
    monkeypatch.setattr(module, "route", begin_another)
    prepare_files(tokenizer, source.folder, out, 0.2)
    assert another == [True]
    assert not (out / ".lock").exists()


def test_what_killed_runs_were_writing_is_deleted(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    """Also where, as in a container, this process has the number of the one that was killed."""
    out = tmp_path / "out"
    names = ("plan.json", "tokenizer.json", "data.json", "train/00000.bin", "val/00003.bin")
    left = [
        (out / name).with_name(f".{Path(name).name}.{os.getpid()}.0123abcd.tmp") for name in names
    ]
    out.mkdir()
    left[0].touch()  # of the very first write
    (out / ".lock").touch()
    prepare_files(tokenizer, source.folder, out, 0.2)
    finished = tree(out)
    assert not list(out.glob("**/.*"))
    for path in left:
        path.touch()
    prepare_files(tokenizer, source.folder, out, 0.2)  # finished already
    assert tree(out) == finished


def test_a_begun_folder_is_kept_from_other_arguments(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    # Before there are shards, anything may change: nothing would be lost or mixed up.
    with pytest.raises(UserError, match=r"b\.jsonl, line 1 has no string under 'body'"):
        prepare_files(tokenizer, source.folder, out, 0.2, EncodeOptions(field="body"))
    kill_in_third_shard(tokenizer, source, out)
    kept, other_options = tree(out), EncodeOptions(field="body", errors="replace")
    with pytest.raises(UserError, match="another val_fraction"):
        prepare_files(tokenizer, source.folder, out, 0.3)
    with pytest.raises(UserError, match="another field and another errors"):
        prepare_files(tokenizer, source.folder, out, 0.2, other_options)
    with pytest.raises(UserError, match="another tokenizer"):
        prepare_files(BPETokenizer.train("the king", 260), source.folder, out, 0.2)
    assert tree(out) == kept


def test_a_file_that_changes_while_it_is_read_is_noticed(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source.folder / "b.jsonl"
    lines = path.read_text().splitlines()
    changes = {
        "another text": [*lines[:-1], '{"text": "another"}'],
        "one less": lines[:-1],
        "one more": [*lines, '{"text": "one more"}'],
    }
    route = module.route
    for name, changed in changes.items():
        path.write_text("\n".join(lines))

        def route_and_change(*arguments: Any, changed: list[str] = changed) -> Any:
            path.write_text("\n".join(changed))
            return route(*arguments)

        with monkeypatch.context() as context:
            context.setattr(module, "route", route_and_change)
            with pytest.raises(UserError, match=r"b\.jsonl has changed since it was hashed"):
                prepare_files(tokenizer, source.folder, tmp_path / name, 0.2)
        assert not (tmp_path / name / "data.json").exists()
        assert not (tmp_path / name / "train" / "00001.bin").exists()


def test_what_is_left_out_is_counted(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": f"the fool {i}"}) for i in range(40)]
    lines[3] = "{broken"
    lines[5] = '{"text": null}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"a\.jsonl, line 4 is broken JSON"):
        prepare_files(tokenizer, tmp_path / "a.jsonl", tmp_path / "out", 0.5)
    (tmp_path / "b.txt").touch()  # no document at all
    options = EncodeOptions(on_error="skip")
    made = prepare_files(tokenizer, tmp_path / "[ab].*", tmp_path / "out", 0.5, options)
    assert made.skipped == 2
    assert made.report.train_documents + made.report.val_documents == 38
    assert len(made.train_shards) == len(made.val_shards) == 2
    assert "left out 2 that could not be read, first: " in capsys.readouterr().err


def test_the_memory_limit_decides_on_what_is_left_out_and_threads_do_not(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_module, "BLOCK_BYTES", 1 << 18)
    texts = [f"the fool {i}" for i in range(40)] + ["x" * 100_000, "y" * 278_000]  # not to be cut
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    def prepare_with(out: str, on_error: Any, memory_limit: int, n_threads: int) -> Description:
        options = EncodeOptions(n_threads=n_threads, memory_limit=memory_limit, on_error=on_error)
        return prepare_files(tokenizer, tmp_path / "a.jsonl", tmp_path / out, 0.5, options)

    made = [prepare_with(f"{n}", "skip", 7_000_000, n).skipped for n in (1, 2)]
    assert made == [1, 1]
    assert tree(tmp_path / "1" / "train") == tree(tmp_path / "2" / "train")
    with pytest.raises(UserError, match="made with another memory_limit: expected the same"):
        prepare_with("1", "skip", 20_000_000, 1)
    # Where nothing may be left out, any limit that suffices makes the same.
    with monkeypatch.context() as context:
        raise_at(context, module, "_leakage", 1, after=False)
        with pytest.raises(Killed):
            prepare_with("all", "raise", 20_000_000, 1)
    assert prepare_with("all", "raise", 30_000_000, 2).skipped == 0


def test_the_leakage_of_a_sample_says_how_large_it_was(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leakage, "_CHUNK_TOKENS", 100)
    monkeypatch.setattr(module, "SAMPLE_TOKENS", 1000)
    made = prepare_files(tokenizer, source.folder, tmp_path / "out", 0.5)
    assert made.report.val_tokens > 2000 < made.report.train_tokens
    for n_bytes in (made.compared_train_bytes, made.compared_val_bytes):
        assert 1000 < n_bytes < 4000  # a token has between 1 and 4 bytes here, an end has none


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


def test_the_command_prints_what_it_made(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "bpe")
    arguments = ["prepare", source.folder, "--out", tmp_path / "out", "--val-fraction", 0.2]
    arguments += ["--tokenizer", tmp_path / "bpe", "--n-threads", 2]
    assert run(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    documents = [text for file in source.documents for text in file]
    for line, name, side in zip(
        lines[:2], ("train", "val"), split_by_hand(documents, 0.2), strict=True
    ):
        n_bytes = sum(len(text.encode()) for text in side)
        assert line.startswith(f"{name}: {len(side)} documents, {n_bytes:,} bytes, ")
        assert line.endswith(" tokens, shards: 4")
    n_duplicates = len(documents) - len(set(documents))
    assert lines[2] == f"left out: {n_duplicates} duplicates, 0 that could not be read"
    assert lines[3].startswith("val text found in train (windows of 50 bytes): ")
    assert lines[-1].endswith(f"-m gptfast.train --corpus {tmp_path / 'out'}")
    # The second time it only says so.
    assert run(*arguments) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_mistakes_are_one_line(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "bpe")
    CharTokenizer.train("abc").save(tmp_path / "char")
    BPETokenizer.train("the king", 260, special_tokens=["<|fim|>"]).save(tmp_path / "fim")
    (tmp_path / "one.txt").write_text("a single document")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    out = ["--out", tmp_path / "out"]
    bpe = ["--tokenizer", tmp_path / "bpe"]
    file = source.folder / "b.jsonl"
    for arguments, complaint in [
        ([*out, *bpe], "no files were given"),
        ([file, *out, "--tokenizer", tmp_path / "char"], "char is a character tokenizer"),
        ([file, *out, "--tokenizer", tmp_path / "none"], "there is no "),
        ([file, *out, "--tokenizer", tmp_path / "fim"], "tokenizer has no <|endoftext|>, which"),
        ([file, *out, *bpe, "--val-fraction", 1], "val_fraction is 1.0: expected a share"),
        ([file, *out, *bpe, "--n-threads", 0], "n_threads is 0"),
        ([file, *out, *bpe, "--memory-limit", "much"], "memory_limit is 'much'"),
        ([file, *out, *bpe, "--memory-limit", "1KB"], "memory_limit is 1,000 bytes: expected at"),
        ([tmp_path / "none.txt", *out, *bpe], "there is no "),
        ([file, *out, *bpe, "--dataset", "x"], "both files and --dataset"),
        ([file, *out, *bpe, "--config", "x"], "--config or --split was given without --dataset"),
        ([file, *out, *bpe, "--split", "x"], "--config or --split was given without --dataset"),
        ([file, "--out", tmp_path / "full", *bpe], "full holds files that are no data set"),
        ([file, "--out", file, *bpe], "b.jsonl can't be written to"),
        ([tmp_path / "one.txt", *out, *bpe], "of 1 different documents 0 are in val"),
        ([tmp_path / "empty.txt", *out, *bpe], "there is no text in the files"),
        ([file, *out, *bpe, "--val-fraction", 1e-9], "documents 0 are in val"),
    ]:
        assert complaint in error(capsys, "prepare", *arguments)
    assert (tmp_path / "full" / "thesis.doc").read_text() == "mine"
    # After all of these, the folder is as good as new.
    assert run("prepare", file, *out, *bpe, "--val-fraction", 0.2) == 0


def test_describe_is_a_subcommand(
    corpus_file: Path, nursery_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("describe", corpus_file, "--val-fraction", 0.2) == 0
    lines = capsys.readouterr().out.splitlines()
    cut = int(len(nursery_text) * 0.8)
    assert lines[1].startswith(f"train: 1 documents, {len(nursery_text[:cut].encode()):,} bytes, ")
    assert lines[2].startswith(f"val: 1 documents, {len(nursery_text[cut:].encode()):,} bytes, ")


@pytest.fixture
def prepared(tmp_path: Path, source: Source, tokenizer: BPETokenizer) -> Path:
    prepare_files(tokenizer, source.folder, tmp_path / "prepared", 0.2)
    return tmp_path / "prepared"


TINY = [
    "--block-size", "16", "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--max-steps", "6",
    "--batch-size", "2", "--eval-windows", "2",
]  # fmt: skip


def test_training_opens_a_prepared_folder(
    prepared: Path, tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(train, ["--corpus", str(prepared), "--out", str(out), *TINY]) == 0
    printed = capsys.readouterr().out
    report = Description.read(prepared).report
    assert f"corpus {prepared}: train on {report.train_bytes:,} bytes" in printed
    assert BPETokenizer.load(out).fingerprint == tokenizer.fingerprint
    assert json.loads((out / "config.json").read_text())["vocab_size"] == tokenizer.n_vocab
    record = json.loads((out / "run.json").read_text())
    assert record["data"]["corpus_sha256"] == report.corpus_sha256
    assert record["result"]["steps"] == 6


def test_a_prepared_folder_has_its_own_tokenizer(
    prepared: Path, tmp_path: Path, tokenizer: BPETokenizer
) -> None:
    tokenizer.save(tmp_path / "same")
    BPETokenizer.train("the king", 260).save(tmp_path / "other")
    for name in ("bpe", str(tmp_path / "same")):
        data = prepare(str(prepared), name, 999, 0.1, say=print)
        assert data.tokenizer.fingerprint == tokenizer.fingerprint
    for name in ("char", str(tmp_path / "other")):
        with pytest.raises(UserError, match=f"prepared with another tokenizer than {name}: "):
            prepare(str(prepared), name, 999, 0.1, say=print)


def test_a_damaged_prepared_folder_is_refused(prepared: Path, tokenizer: BPETokenizer) -> None:
    def refuses(complaint: str) -> None:
        advice = rf"{complaint}.*\): delete it and prepare again$"
        with pytest.raises(UserError, match=rf"^{prepared} is damaged \(.*{advice}"):
            prepare(str(prepared), "bpe", 0, 0.1, say=print)

    shard = prepared / "train" / "00001.bin"
    whole = shard.read_bytes()
    ids = np.array([3, tokenizer.n_vocab, 4], dtype=np.uint16)
    write_shard(shard, [[ids]], tokenizer)
    refuses(rf"00001\.bin is damaged: it has the id {tokenizer.n_vocab}, ")
    write_shard(shard, [[ids[:1]]], BPETokenizer.train("the king", 260))
    refuses(r"00001\.bin was made by another tokenizer")
    shard.write_bytes(whole[:-1])
    refuses(r"00001\.bin is cut short")
    shard.unlink()
    refuses(r"no token shard at .*00001\.bin")
    (prepared / "tokenizer.json").unlink()
    refuses(r"no .*tokenizer\.json")
    (prepared / "data.json").write_text('{"report": {}}')
    with pytest.raises(
        UserError, match=r"data\.json is damaged or .*, delete it and prepare again"
    ):
        open_prepared(prepared)
    (prepared / "data.json").unlink()
    with pytest.raises(MissingFileError, match=r"no data\.json in"):
        open_prepared(prepared)


@pytest.mark.parametrize("name", ["train/00001.bin", "val/00003.bin", "tokenizer.json"])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_finished_folder_that_is_damaged_is_not_called_finished(
    source: Source, tokenizer: BPETokenizer, prepared: Path, name: str, is_lost: bool
) -> None:
    if is_lost:
        (prepared / name).unlink()
    else:
        (prepared / name).write_bytes((prepared / name).read_bytes()[:-2])
    complaint = rf"prepared is damaged \(.*{name}.*\): delete it and prepare again"
    with pytest.raises(UserError, match=complaint):
        prepare_files(tokenizer, source.folder, prepared, 0.2)
    shutil.rmtree(prepared)
    prepare_files(tokenizer, source.folder, prepared, 0.2)
    open_prepared(prepared)


def test_a_shard_that_is_damaged_before_the_end_is_named(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    kill_in_third_shard(tokenizer, source, out)
    shard = out / "train" / "00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(
        UserError, match=r"out is damaged .*is cut short.*\): delete it and prepare"
    ):
        prepare_files(tokenizer, source.folder, out, 0.2)
    shard.write_bytes(whole[:-2] + b"\xff\xff")
    with pytest.raises(UserError, match=r"out is damaged .* the id 65,535.*\): delete it and prep"):
        prepare_files(tokenizer, source.folder, out, 0.2)


def test_training_refuses_a_folder_that_is_not_finished(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    kill_in_third_shard(tokenizer, source, out)
    (out / "work" / "00000.jsonl").write_text(json.dumps({"text": "the king " * 999}))
    complaint = "out was not prepared to the end: run the same `gptfast data prepare` command"
    with pytest.raises(UserError, match=complaint):
        prepare(str(out), "bpe", 300, 0.1, say=print)


@pytest.fixture
def hub_folder(tmp_path: Path, nursery_text: str) -> Source:
    """A data set laid out as on the Hub: two files of its split train, one of validation."""
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    documents = make_documents(1, nursery_text)
    for i, texts in enumerate([documents[:120], documents[120:]]):
        table = pyarrow.table({"url": [f"u{i}" for i in range(len(texts))], "content": texts})
        parquet.write_table(table, folder / "data" / f"train-{i:05}-of-00002.parquet")
    table = pyarrow.table({"url": ["u"], "content": ["validation"]})
    parquet.write_table(table, folder / "data" / "validation-00000-of-00001.parquet")
    return Source(folder, [documents])


@pytest.mark.parametrize("per_file", [37, 50, 1000])  # 50: the stream ends with a file
def test_a_data_set_of_the_hub_is_like_files(
    tmp_path: Path,
    hub_folder: Source,
    tokenizer: BPETokenizer,
    oracle: tiktoken.Encoding,
    monkeypatch: pytest.MonkeyPatch,
    per_file: int,
) -> None:
    monkeypatch.setattr(hub, "DOCUMENTS_PER_FILE", per_file)
    out, options = tmp_path / "out", EncodeOptions(column="content")
    made = prepare_files(tokenizer, HubDataset(str(hub_folder.folder)), out, 0.2, options)
    (documents,) = hub_folder.documents
    data = open_prepared(out)
    for texts, tokens in zip(split_by_hand(documents, 0.2), (data.train, data.val), strict=True):
        assert all_ids(tokens) == ids_by_hand(texts, oracle)
    assert len(made.train_shards) == -(-200 // per_file)
    assert not (out / "work").exists()


def test_a_stream_that_was_cut_goes_on(
    tmp_path: Path, hub_folder: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "DOCUMENTS_PER_FILE", 50)
    out, options = tmp_path / "out", EncodeOptions(column="content")
    source = HubDataset(str(hub_folder.folder))
    prepare_files(tokenizer, source, out, 0.2, options)
    expected = tree(out)
    for n in range(1, 5):
        for after in (False, True):
            shutil.rmtree(out)
            with monkeypatch.context() as context:
                raise_at(context, hub, "_write_lines", n, after=after)
                with pytest.raises(Killed):
                    prepare_files(tokenizer, source, out, 0.2, options)
            streamed = list(out.glob("work/*/*.jsonl"))
            assert len(streamed) == n - 1 + after
            inodes = {path: path.stat().st_ino for path in streamed}
            with monkeypatch.context() as context:
                raise_at(context, module, "write_shard", 1, after=False)
                with pytest.raises(Killed):
                    prepare_files(tokenizer, source, out, 0.2, options)
            assert {path: path.stat().st_ino for path in streamed} == inodes
            with monkeypatch.context() as context:  # what has ended is not streamed again
                context.setattr("datasets.DatasetBuilder.as_streaming_dataset", None)
                prepare_files(tokenizer, source, out, 0.2, options)
            assert tree(out) == expected


def test_mistakes_with_the_hub_are_one_line(
    tmp_path: Path,
    hub_folder: Source,
    tokenizer: BPETokenizer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer.save(tmp_path / "bpe")
    common = ["prepare", "--out", tmp_path / "out", "--tokenizer", tmp_path / "bpe"]
    common += ["--val-fraction", 0.2, "--dataset"]
    dataset = [hub_folder.folder, "--column", "content"]
    assert "'fr' not found" in error(capsys, *common, *dataset, "--config", "fr")
    assert "Bad split: dev" in error(capsys, *common, *dataset, "--split", "dev")
    assert "Column name ['text'] not in" in error(capsys, *common, hub_folder.folder)
    (tmp_path / "empty").mkdir()
    assert "empty" in error(capsys, *common, tmp_path / "empty")
    (tmp_path / "bytes").mkdir()
    table = pyarrow.table({"content": [b"abc", b"def"], "day": [date(2020, 1, 2)] * 2})
    parquet.write_table(table, tmp_path / "bytes" / "train.parquet")
    for column in ("content", "day"):
        message = error(capsys, *common, tmp_path / "bytes", "--column", column)
        assert f"no string under {column!r}" in message
        shutil.rmtree(tmp_path / "out")
    assert run(*common, *dataset) == 0
    # Another text in the same place is another data set.
    shutil.copy(
        hub_folder.folder / "data" / "validation-00000-of-00001.parquet",
        hub_folder.folder / "data" / "train-00001-of-00002.parquet",
    )
    assert "made with another source" in error(capsys, *common, *dataset)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "gptfast[hub]"' in error(capsys, *common, *dataset, "--split", "validation")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("set.py", b"import datasets", "set can't be opened (Dataset scripts are no longer "),
        (
            "train.json",
            b'[{"body": "a"}, {"body": "b"}]',
            "the data set has no column 'text': give",
        ),
        ("train.jsonl", b'{"text": "a"}\n{"text": \n', "can't be read (JSON parse error: "),
        ("train.jsonl", b"", "the data set can't be streamed (StopIteration): expected"),
        ("train.jsonl.gz", gzip.compress(b"{}\n")[:-1], "can't be streamed (Compressed file ended"),
        ("train.csv", b"text\na\n1,2,3\n", "the data set can't be read (Error tokenizing data"),
        ("train.txt", b"abc\n\xff\n", "the data set can't be read ('utf-8' codec can't decode"),
        ("train.parquet", b"PAR1" * 5, "the data set can't be streamed (Parquet file size is "),
        ("train.zip", b"PK\x03\x04", "can't be opened (File is not a zip file): expected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_library_can_not_read_is_one_line(
    tmp_path: Path,
    tokenizer: BPETokenizer,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    complaint: str,
) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(content)
    tokenizer.save(tmp_path)
    arguments = ["prepare", "--dataset", tmp_path / "set", "--out", tmp_path / "out"]
    assert complaint in error(capsys, *arguments, "--tokenizer", tmp_path)


def test_a_finished_data_set_of_the_hub_needs_no_hub(
    tmp_path: Path, hub_folder: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", EncodeOptions(column="content")
    source = HubDataset(str(hub_folder.folder))
    made = prepare_files(tokenizer, source, out, 0.2, options)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset_builder", refuse)
    assert prepare_files(tokenizer, source, out, 0.2, options) == made
    with pytest.raises(UserError, match="another val_fraction"):
        prepare_files(tokenizer, source, out, 0.3, options)
    for other, place in ((replace(source, split="validation"), out), (source, tmp_path / "new")):
        with pytest.raises(MissingFileError, match="can't be had \\(no network\\)"):
            prepare_files(tokenizer, other, place, 0.2, options)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_cache_that_can_not_be_written_is_not_taken_for_a_wrong_name(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(OSError, match=rf"{os.strerror(code)}: .*hub") as raised:
        prepare_files(tokenizer, HubDataset("OWNER/NAME"), tmp_path / "out")
    assert not isinstance(raised.value, UserError)
