"""Prepared shards, against a loop over the documents with tiktoken and Python's own sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from by_hand import (
    Killed,
    Source,
    all_ids,
    exact_overlap,
    ids_by_hand,
    raise_at,
    split_by_hand,
    tree,
)

from gptfast.data import encode as encode_module
from gptfast.data import leakage, parts
from gptfast.data import prepare_shards as module
from gptfast.data.documents import ReadOptions
from gptfast.data.manifest import Manifest, open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer


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
    options = ReadOptions(n_threads=n_threads)
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
        "data.json", "tokenizer.json", "tokenizer_config.json",
        *(f"{s}/{n}" for s in ("train", "val") for n in names),
    }  # fmt: skip


def test_small_files_share_a_shard(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = prepare_files(tokenizer, source.folder, tmp_path / "apart", 0.2)
    monkeypatch.setattr(parts, "_PART_BYTES", 64 << 20)
    together = prepare_files(tokenizer, source.folder, tmp_path / "together", 0.2)
    assert (len(apart.train_shards), len(together.train_shards)) == (4, 1)
    for side in ("train", "val"):
        first, second = (
            getattr(open_prepared(tmp_path / name), side) for name in ("apart", "together")
        )
        assert all_ids(first) == all_ids(second)


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
    options = ReadOptions(on_error="skip")
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

    def prepare_with(out: str, on_error: Any, memory_limit: int, n_threads: int) -> Manifest:
        options = ReadOptions(n_threads=n_threads, memory_limit=memory_limit, on_error=on_error)
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


def test_there_may_be_no_val(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer, oracle: tiktoken.Encoding
) -> None:
    out = tmp_path / "out"
    made = prepare_files(tokenizer, source.folder, out, 0)
    train, val = split_by_hand([text for file in source.documents for text in file], 0)
    data = open_prepared(out)
    assert val == []
    assert all_ids(data.train) == ids_by_hand(train, oracle)
    assert len(data.val) == 0
    assert (made.report.val_documents, made.report.overlap) == (0, 0.0)
    assert prepare_files(tokenizer, source.folder, out, 0) == made
    with pytest.raises(UserError, match="prepared with --val-fraction 0 and has no val part"):
        prepare(str(out), "bpe", 300, 0.1, say=print)
