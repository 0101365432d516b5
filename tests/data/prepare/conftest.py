"""A tokenizer and some files, for the tests of `gptfast data prepare`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
import tiktoken
from by_hand import Source, make_documents
from pyarrow import parquet

from gptfast.data import encode as encode_module
from gptfast.data import parts
from gptfast.data.prepare_shards import prepare_files
from gptfast.tokenizer import BPETokenizer

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
    monkeypatch.setattr(parts, "_PART_BYTES", 1)
    monkeypatch.setattr(encode_module, "BLOCK_BYTES", 64)


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


@pytest.fixture
def prepared(tmp_path: Path, source: Source, tokenizer: BPETokenizer) -> Path:
    prepare_files(tokenizer, source.folder, tmp_path / "prepared", 0.2)
    return tmp_path / "prepared"


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
