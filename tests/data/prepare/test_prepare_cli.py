"""`gptfast data` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from by_hand import Source, error, run, split_by_hand

from gptfast.tokenizer import BPETokenizer, CharTokenizer


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


def test_without_val_there_is_nothing_to_train_with(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "bpe")
    arguments = ["prepare", source.folder, "--out", tmp_path / "out", "--val-fraction", 0]
    assert run(*arguments, "--tokenizer", tmp_path / "bpe") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("val: 0 documents, 0 bytes, 0 tokens, ")
    assert lines[-1] == f"saved in {tmp_path / 'out'}, without a val part to train with"


def test_mistakes_are_one_line(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "bpe")
    CharTokenizer.train("abc").save(tmp_path / "char")
    BPETokenizer.train("the king", 260, special_tokens=["<|a|>", "<|b|>"]).save(tmp_path / "fim")
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
        ([file, *out, "--tokenizer", tmp_path / "fim"], "doesn't say which token ends"),
        ([file, *out, *bpe, "--val-fraction", 1], "val_fraction is 1.0: expected a share"),
        ([file, *out, *bpe, "--n-threads", 0], "n_threads is 0"),
        ([file, *out, *bpe, "--memory-limit", "much"], "memory_limit is 'much'"),
        ([file, *out, *bpe, "--memory-limit", "1KB"], "memory_limit is 1,000 bytes: expected at"),
        ([tmp_path / "none.txt", *out, *bpe], "there is no "),
        ([file, *out, *bpe, "--dataset", "x"], "both files and --dataset"),
        ([file, *out, *bpe, "--config", "x"], "--config and --split need --dataset"),
        ([file, *out, *bpe, "--split", "x"], "--config and --split need --dataset"),
        ([file, "--out", tmp_path / "full", *bpe], "full holds files that are not a data set"),
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
