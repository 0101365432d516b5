"""A run of `gptfast data prepare` that was killed resumes, and nobody's files are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from by_hand import (
    Killed,
    Source,
    all_ids,
    ids_by_hand,
    kill_in_third_shard,
    raise_at,
    split_by_hand,
    tree,
)

from gptfast.data import encode as encode_module
from gptfast.data import manifest, parts
from gptfast.data import prepare_shards as module
from gptfast.data.documents import Block, ReadOptions
from gptfast.data.hashes import Hashes
from gptfast.data.manifest import Manifest, open_prepared
from gptfast.data.prepare_shards import prepare_files
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name", "n"),
    [
        (manifest, "write_text_atomically", 1),
        (Hashes, "save", 1),
        (Hashes, "save", 3),
        (module, "route", 1),
        *((parts, "write_shard", n) for n in range(1, 9)),
        (module, "_leakage", 1),
        (BPETokenizer, "save", 1),
        (Manifest, "write", 1),
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
    out, options = tmp_path / "out", ReadOptions(n_threads=2)
    prepare_files(tokenizer, source.folder, out, 0.2, ReadOptions(n_threads=1))
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
from gptfast.data import parts
from gptfast.tokenizer import BPETokenizer
parts._PART_BYTES = 1
encode = BPETokenizer.encode_documents
def stops(self, documents, separator, n_threads):
    if any(b"STOP" in data for data, _, _ in documents):
        print("ready", flush=True)
        time.sleep(600)
    return encode(self, documents, separator, n_threads)
BPETokenizer.encode_documents = stops
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
        prepare_files(tokenizer, files, tmp_path / "out", 0.5, ReadOptions(n_threads=2))


def test_of_several_broken_files_the_first_is_named(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("the king")
    b_raises = threading.Event()

    def blocks(self: encode_module.Encoder, files: Sequence[Path]) -> Iterator[Block]:
        name = files[0].stem
        if name == "a":
            assert b_raises.wait(timeout=60)
            time.sleep(0.2)  # that of b is there by now
        b_raises.set()
        raise UserError(f"{name} is broken")
        yield

    monkeypatch.setattr(encode_module.Encoder, "blocks", blocks)
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(UserError, match="a is broken"):
        prepare_files(tokenizer, files, tmp_path / "out", 0.5, ReadOptions(n_threads=2))


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
    with pytest.raises(UserError, match="out holds files that are not a data set of gptfast"):
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
        prepare_files(tokenizer, source.folder, out, 0.2, ReadOptions(field="body"))
    kill_in_third_shard(tokenizer, source, out)
    kept, other_options = tree(out), ReadOptions(field="body", errors="replace")
    with pytest.raises(UserError, match="another val_fraction"):
        prepare_files(tokenizer, source.folder, out, 0.3)
    with pytest.raises(UserError, match="another field and another errors"):
        prepare_files(tokenizer, source.folder, out, 0.2, other_options)
    with pytest.raises(UserError, match="another tokenizer"):
        prepare_files(BPETokenizer.train("the king", 260), source.folder, out, 0.2)
    assert tree(out) == kept
