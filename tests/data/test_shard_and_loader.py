from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gptfast.data.batch import Batch
from gptfast.data.loader import Loader, Prefetcher, windows
from gptfast.data.shard import Shard, TakeBack, write_shard
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdef")


def test_a_shard_has_the_documented_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_shard(
        path, iter([[np.array([1, 2], np.uint16)], [], [np.array([5], np.uint16)]]), TOKENIZER
    )
    raw = path.read_bytes()
    magic, version, width, count, vocab_size, sha256 = struct.unpack("<8sIIQQ32s", raw[:64])
    assert (magic, version, width, count, vocab_size) == (b"GPTFAST\0", 1, 2, 3, 6)
    assert sha256.hex() == TOKENIZER.fingerprint
    assert raw[64:] == struct.pack("<3H", 1, 2, 5)
    shard = Shard.open(path)
    assert shard == Shard(path, 3, np.dtype("<u2"), 6, TOKENIZER.fingerprint)
    assert shard.tokens(TOKENIZER).tolist() == [1, 2, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("size", [3, 100_000])  # written in this thread, and in another one
def test_ids_may_be_taken_back(tmp_path: Path, size: int) -> None:
    ids = np.arange(size, dtype=np.uint16) % 6
    batches = [[ids, ids], [TakeBack(size + 1)], [TakeBack(0), ids[:2], TakeBack(1)], [ids[:1]]]
    shard = write_shard(tmp_path / "x.bin", batches, TOKENIZER)
    expected = [*ids[: size - 1].tolist(), 0, 0]
    assert shard.tokens(TOKENIZER).tolist() == expected


def test_damaged_and_foreign_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with pytest.raises(MissingFileError, match="no token shard"):
        Shard.open(path).tokens(TOKENIZER)
    write_shard(path, [[np.arange(6, dtype=np.uint16)]], TOKENIZER)
    with pytest.raises(UserError, match="was made by another tokenizer"):
        Shard.open(path).tokens(CharTokenizer.train("uvwxyz"))
    whole = path.read_bytes()
    for damaged, complaint in {
        whole[:-1]: "is cut short",
        whole + b"x": "is longer than its header says",
        whole[:8] + b"\2\0\0\0" + whole[12:]: "version 2, expected 1",
        whole[:12] + b"\4\0\0\0" + whole[16:]: "says 4 bytes for an id",
        bytes(64) + whole[64:]: "is not a gptfast token shard",
        b"hello": "is not a gptfast token shard",
    }.items():
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=complaint):
            Shard.open(path)


class Sized(CharTokenizer):
    """Says that it has as many ids as we like."""

    size = 6

    @property
    def n_vocab(self) -> int:
        return self.size


def test_ids_have_two_bytes_or_four(tmp_path: Path) -> None:
    tokenizer = Sized.train("abcdef")
    tokenizer.size = 65_537
    shard = write_shard(tmp_path / "x.bin", [[np.array([65_536, 1], np.uint32)]], tokenizer)
    assert (shard.vocab_size, shard.dtype) == (65_537, np.dtype("<u4"))
    assert (tmp_path / "x.bin").read_bytes()[64:] == struct.pack("<2I", 65_536, 1)
    assert shard.tokens(tokenizer).tolist() == [65_536, 1]
    tokenizer.size = 65_536
    shard = write_shard(tmp_path / "y.bin", [[np.array([65_535, 1], np.uint32)]], tokenizer)
    assert shard.dtype == np.dtype("<u2")
    assert (tmp_path / "y.bin").read_bytes()[64:] == struct.pack("<2H", 65_535, 1)
    assert shard.tokens(tokenizer).tolist() == [65_535, 1]


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    assert len(write_shard(tmp_path / "x.bin", [], TOKENIZER).tokens(TOKENIZER)) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, UserError])
def test_what_fails_half_way_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "x.bin"
    write_shard(path, [[np.array([1, 2], np.uint16)]], TOKENIZER)

    def batches() -> Iterator[list[NDArray[np.uint16]]]:
        yield [np.arange(100_000, dtype=np.uint16)]
        yield [np.arange(100_000, dtype=np.uint16)]
        raise error("half way")

    with pytest.raises(error, match="half way"):
        write_shard(path, batches(), TOKENIZER)
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    assert Shard.open(path).tokens(TOKENIZER).tolist() == [1, 2]


def test_targets_are_the_inputs_one_token_later() -> None:
    loader = Loader([np.arange(1000, dtype=np.uint16)], block_size=7, batch_size=5, seed=0)
    for _ in range(50):
        batch = loader.next_batch()
        x, y = batch.ids_BT, batch.targets_BT
        assert x.shape == y.shape == (5, 7)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x[:, 1:], x[:, :-1] + 1)


def test_an_epoch_visits_every_window_once() -> None:
    tokens = np.arange(101, dtype=np.uint16)
    loader = Loader([tokens], block_size=10, batch_size=1, seed=3)
    n = len(loader.sources[0].starts)
    assert n >= 9
    starts = [int(loader.next_batch().ids_BT[0, 0]) for _ in range(n)]
    assert loader.sources[0].epoch == 0
    assert len(set(starts)) == n
    assert {s % 10 for s in starts} == {starts[0] % 10}
    assert starts != sorted(starts)
    loader.next_batch()
    assert loader.sources[0].epoch == 1


def test_the_shortest_possible_text_is_one_window() -> None:
    loader = Loader([np.arange(9, dtype=np.uint16)], block_size=8, batch_size=2, seed=0)
    batch = loader.next_batch()
    x, y = batch.ids_BT, batch.targets_BT
    assert x.tolist() == [list(range(8))] * 2
    assert y.tolist() == [list(range(1, 9))] * 2
    with pytest.raises(UserError, match="needs 9"):
        Loader([np.arange(8, dtype=np.uint16)], block_size=8, batch_size=1, seed=0)


def test_the_position_can_be_restored_across_epochs() -> None:
    tokens = np.arange(200, dtype=np.uint16)
    loader = Loader([tokens], block_size=10, batch_size=4, seed=5)
    for _ in range(11):
        loader.next_batch()
    assert loader.sources[0].epoch > 0
    state = loader.state_dict()
    expected = [loader.next_batch().ids_BT for _ in range(20)]
    other = Loader([tokens], block_size=10, batch_size=4, seed=5)
    other.load_state_dict(state)
    assert all(torch.equal(x, other.next_batch().ids_BT) for x in expected)


def test_another_seed_is_another_order() -> None:
    tokens = np.arange(200, dtype=np.uint16)
    batches = [Loader([tokens], 10, 4, seed).next_batch().ids_BT for seed in (0, 0, 1)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def sources_and_weights() -> tuple[list[np.ndarray], list[float]]:
    """Three sources that can be told apart by their ids, and their shares: 0.6, 0.3, 0.1."""
    sources = [
        np.arange(i * 1000, i * 1000 + n, dtype=np.uint16) for i, n in enumerate((90, 400, 60))
    ]
    return sources, [6, 3, 1]


def test_every_source_keeps_to_its_share_all_the_time() -> None:
    sources, weights = sources_and_weights()
    loader = Loader(sources, block_size=10, batch_size=7, seed=2, weights=weights)
    taken = np.zeros(3)
    for _ in range(60):
        batch = loader.next_batch()
        x, y = batch.ids_BT, batch.targets_BT
        assert torch.equal(y, x + 1)
        taken += np.bincount((x[:, 0] // 1000).numpy(), minlength=3)
        assert np.abs(taken - taken.sum() * np.array([0.6, 0.3, 0.1])).max() < 1


def test_every_source_has_its_own_epochs() -> None:
    sources, weights = sources_and_weights()
    loader = Loader(sources, block_size=10, batch_size=5, seed=2, weights=weights)
    seen: list[list[int]] = [[], [], []]
    for _ in range(60):
        for start in loader.next_batch().ids_BT[:, 0].tolist():
            seen[start // 1000].append(start % 1000)
    for i, source in enumerate(sources):
        alone = Loader([source], block_size=10, batch_size=1, seed=2)
        if i == 0:  # the same order as if there were no others
            assert seen[0] == [int(alone.next_batch().ids_BT[0, 0]) for _ in seen[0]]
        n = (len(source) - 1) // 10 - 1  # an epoch has at least so many windows, each once
        assert len(set(seen[i][:n])) == min(n, len(seen[i]))
    assert [s["epoch"] for s in loader.state_dict()] == [22, 2, 5]


def test_the_position_in_a_mixture_can_be_restored() -> None:
    sources, weights = sources_and_weights()
    loader = Loader(sources, block_size=10, batch_size=4, seed=5, weights=weights)
    for _ in range(11):
        loader.next_batch()
    state = loader.state_dict()
    expected = [loader.next_batch().ids_BT for _ in range(20)]
    other = Loader(sources, block_size=10, batch_size=4, seed=5, weights=weights)
    other.load_state_dict(state)
    assert all(torch.equal(x, other.next_batch().ids_BT) for x in expected)


@pytest.fixture
def prefetcher() -> Iterator[Prefetcher]:
    made = Prefetcher(
        Loader([np.arange(200, dtype=np.uint16)], block_size=10, batch_size=4, seed=5)
    )
    yield made
    made.close()


def test_a_prefetcher_gives_the_loaders_batches_and_their_position(prefetcher: Prefetcher) -> None:
    loader = Loader([np.arange(200, dtype=np.uint16)], block_size=10, batch_size=4, seed=5)
    for _ in range(20):
        assert prefetcher.state_dict() == loader.state_dict()
        ours, theirs = prefetcher.next_batch(), loader.next_batch()
        assert torch.equal(ours.ids_BT, theirs.ids_BT)
        assert torch.equal(ours.targets_BT, theirs.targets_BT)


def test_a_prefetcher_forgets_what_is_waiting_when_it_goes_elsewhere(
    prefetcher: Prefetcher,
) -> None:
    start = prefetcher.state_dict()
    first = [prefetcher.next_batch().ids_BT for _ in range(7)]
    prefetcher.load_state_dict(start)
    assert prefetcher.state_dict() == start
    assert all(torch.equal(x, prefetcher.next_batch().ids_BT) for x in first)


def test_the_next_batch_is_made_while_the_last_is_used() -> None:
    made = threading.Semaphore(0)
    others = set(threading.enumerate())

    def loader_threads() -> list[str]:
        new = set(threading.enumerate()) - others
        return [thread.name for thread in new if thread.name.startswith("loader")]

    class Watched(Loader):
        def next_batch(self) -> Batch:
            made.release()
            return super().next_batch()

    prefetcher = Prefetcher(Watched([np.arange(50)], block_size=10, batch_size=2, seed=0))
    prefetcher.next_batch()
    assert made.acquire(timeout=60)
    assert made.acquire(timeout=60)  # nobody has asked for this one yet
    assert not made.acquire(timeout=0.1)
    assert len(loader_threads()) == 1
    prefetcher.close()
    assert not loader_threads()


def test_an_error_in_the_loaders_thread_is_raised_where_the_batch_is_asked_for() -> None:
    class Broken(np.ndarray):
        def __getitem__(self, places: Any) -> Any:
            raise OSError("the disk is gone")

    prefetcher = Prefetcher(Loader([np.arange(50).view(Broken)], 10, 2, seed=0))
    with pytest.raises(OSError, match="the disk is gone"):
        prefetcher.next_batch()
    prefetcher.close()


def test_documents_begin_with_the_separator_by_hand() -> None:
    rows = [[5, 0, 6, 7, 1], [0, 8, 0, 0, 1], [9, 9, 9, 0, 1]]
    tokens = np.array(rows, dtype=np.uint16).flatten()
    batch = windows(tokens, np.array([0, 5, 10]), 4, separator=0)
    assert batch.ids_BT.tolist() == [row[:4] for row in rows]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 1, 4, 6, 7, 8, 11, 12]
    assert windows(tokens, np.array([0, 5, 10]), 4).cu_seqlens is None
