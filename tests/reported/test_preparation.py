"""Small files, slices and few documents, as users of other loaders met them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stories import EOT, STORIES

from gptfast.data import hub
from gptfast.data.documents import ReadOptions, find_files
from gptfast.data.encode import encode_files
from gptfast.data.hub import HubDataset
from gptfast.data.manifest import Manifest, open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import MissingFileError, UserError
from gptfast.llm import LLM
from gptfast.tokenizer import BPETokenizer
from gptfast.train.config import TrainConfig
from gptfast.train.pretrain import prepare_corpora


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(STORIES, 300)


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
        assert len(waits) <= 20  # not for each of 300 files
        assert len(threads) <= 16


# ---- output among the sources --------------------------------------------------------------------


def test_output_inside_the_source_folder_is_no_source(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"txt": "c"}\n')
    (tmp_path / "data.json").write_text('{"text": "of a user"}')
    (tmp_path / "deep" / "train").mkdir(parents=True)
    (tmp_path / "deep" / "train" / "texts.json").write_text('{"text": "of a user"}')
    expected = find_files(tmp_path)
    assert [path.name for path in expected] == ["a.jsonl", "data.json", "texts.json"]
    skip = ReadOptions(on_error="skip")
    for paths in (str(tmp_path), f"{tmp_path}/**/*.json*"):
        for _ in "12":  # the second run finds what the first wrote
            encode_files(tokenizer, paths, tmp_path / "lg.bin", skip)
            made = prepare_files(tokenizer, paths, tmp_path / "deep" / "out", 0, skip)
            assert made.report.train_documents == 3  # of which two are equal
        assert [find_files(p) for p in (paths, f"{tmp_path}/deep/out/data.json")] == [
            expected, [tmp_path / "deep" / "out" / "data.json"],
        ]  # fmt: skip
        assert (tmp_path / "lg.bin.skipped.jsonl").is_file()
        said = [line for line in capsys.readouterr().err.splitlines() if "gptfast wrote" in line]
        assert len(said) == 1
        assert "lg.bin.skipped.jsonl" in said[0]
        shutil.rmtree(tmp_path / "deep" / "out")
        (tmp_path / "lg.bin.skipped.jsonl").unlink()
        (tmp_path / "lg.bin").unlink()


def test_a_preparation_that_was_killed_inside_its_source_folder_resumes(
    tmp_path: Path, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}')
    with monkeypatch.context() as context:
        context.setattr(Manifest, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_files(tokenizer, tmp_path, tmp_path / "out", 0)
    assert (tmp_path / "out" / "plan.json").is_file()
    made = prepare_files(tokenizer, tmp_path, tmp_path / "out", 0)
    assert made.report.train_documents == 2
    with pytest.raises(MissingFileError, match=r"what gptfast wrote itself \("):
        prepare_files(tokenizer, tmp_path / "out", tmp_path / "other", 0)


def test_a_run_inside_its_source_folder_resumes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(STORIES[:200]), encoding="utf-8")
    size = {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8, "batch_size": 1}
    run = {"out": tmp_path / "run", "tokenizer": "char", "verbose": False, "dtype": "float32"}
    for steps in (1, 2):
        LLM.train(tmp_path, max_steps=steps, warmup_steps=0, resume=steps == 2, **run, **size)
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
    assert find_files(tmp_path) == [tmp_path / "a.txt"]


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
