from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gptfast.data.loader import Loader
from gptfast.data.shard import read_shard, write_shard
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdef")


def test_a_shard_has_the_documented_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_shard(path, [np.array([1, 2], np.uint16), np.array([5], np.uint16)], TOKENIZER)
    raw = path.read_bytes()
    magic, version, width, count, vocab_size, sha256 = struct.unpack("<8sIIQQ32s", raw[:64])
    assert (magic, version, width, count, vocab_size) == (b"GPTFAST\0", 1, 2, 3, 6)
    assert sha256.hex() == TOKENIZER.fingerprint
    assert raw[64:] == struct.pack("<3H", 1, 2, 5)
    assert read_shard(path, TOKENIZER).tolist() == [1, 2, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_damaged_and_foreign_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with pytest.raises(MissingFileError, match="no token shard"):
        read_shard(path, TOKENIZER)
    write_shard(path, [np.arange(6, dtype=np.uint16)], TOKENIZER)
    with pytest.raises(UserError, match="was made by another tokenizer"):
        read_shard(path, CharTokenizer.train("uvwxyz"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="is cut short"):
        read_shard(path, TOKENIZER)
    path.write_bytes(whole[:8] + b"\2\0\0\0" + whole[12:])
    with pytest.raises(UserError, match="version 2, expected 1"):
        read_shard(path, TOKENIZER)
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match="is not a gptfast token shard"):
        read_shard(path, TOKENIZER)


def test_targets_are_the_inputs_one_token_later() -> None:
    loader = Loader(np.arange(1000, dtype=np.uint16), block_size=7, batch_size=5, seed=0)
    for _ in range(50):
        x, y = loader.next_batch()
        assert x.shape == y.shape == (5, 7)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x[:, 1:], x[:, :-1] + 1)


def test_an_epoch_visits_every_window_once() -> None:
    tokens = np.arange(101, dtype=np.uint16)
    loader = Loader(tokens, block_size=10, batch_size=1, seed=3)
    n = len(loader.starts)
    assert n >= 9
    starts = [int(loader.next_batch()[0][0, 0]) for _ in range(n)]
    assert loader.epoch == 0
    assert len(set(starts)) == n
    assert {s % 10 for s in starts} == {starts[0] % 10}
    assert starts != sorted(starts)
    loader.next_batch()
    assert loader.epoch == 1


def test_the_shortest_possible_text_is_one_window() -> None:
    loader = Loader(np.arange(9, dtype=np.uint16), block_size=8, batch_size=2, seed=0)
    x, y = loader.next_batch()
    assert x.tolist() == [list(range(8))] * 2
    assert y.tolist() == [list(range(1, 9))] * 2
    with pytest.raises(UserError, match="needs 9"):
        Loader(np.arange(8, dtype=np.uint16), block_size=8, batch_size=1, seed=0)


def test_the_position_can_be_restored_across_epochs() -> None:
    tokens = np.arange(200, dtype=np.uint16)
    loader = Loader(tokens, block_size=10, batch_size=4, seed=5)
    for _ in range(11):
        loader.next_batch()
    assert loader.epoch > 0
    state = loader.state_dict()
    expected = [loader.next_batch()[0] for _ in range(20)]
    other = Loader(tokens, block_size=10, batch_size=4, seed=5)
    other.load_state_dict(state)
    assert all(torch.equal(x, other.next_batch()[0]) for x in expected)


def test_another_seed_is_another_order() -> None:
    tokens = np.arange(200, dtype=np.uint16)
    batches = [Loader(tokens, 10, 4, seed).next_batch()[0] for seed in (0, 0, 1)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
