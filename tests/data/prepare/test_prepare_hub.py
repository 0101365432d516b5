"""`gptfast data prepare` from a data set of the Hub."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tiktoken
from by_hand import Killed, Source, all_ids, error, ids_by_hand, raise_at, run, split_by_hand, tree
from pyarrow import parquet

from gptfast.data import hub, parts
from gptfast.data.documents import ReadOptions
from gptfast.data.hub import HubDataset
from gptfast.data.manifest import open_prepared
from gptfast.data.prepare_shards import prepare_files
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer


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
    out, options = tmp_path / "out", ReadOptions(column="content")
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
    out, options = tmp_path / "out", ReadOptions(column="content")
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
                raise_at(context, parts, "write_shard", 1, after=False)
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
    out, options = tmp_path / "out", ReadOptions(column="content")
    source = HubDataset(str(hub_folder.folder))
    made = prepare_files(tokenizer, source, out, 0.2, options)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset_builder", refuse)
    assert prepare_files(tokenizer, source, out, 0.2, options) == made
    with pytest.raises(UserError, match="another val_fraction"):
        prepare_files(tokenizer, source, out, 0.3, options)
    for other, place in ((replace(source, split="validation"), out), (source, tmp_path / "new")):
        with pytest.raises(MissingFileError, match="can't be reached \\(no network\\)"):
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
