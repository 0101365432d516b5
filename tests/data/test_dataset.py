from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gptfast.data.dataset import TokenShards, open_tokens
from gptfast.data.loader import Loader
from gptfast.data.shard import Shard, write_shard
from gptfast.errors import UserError
from gptfast.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("".join(map(chr, range(1000, 1500))))


def shards(folder: Path, lengths: list[int]) -> list[Shard]:
    """Shards of these lengths, that count on from one to the next."""
    ends = np.cumsum(lengths)
    return [
        write_shard(folder / f"{i}.bin", [[np.arange(end - n, end, dtype=np.uint16)]], TOKENIZER)
        for i, (n, end) in enumerate(zip(lengths, ends, strict=True))
    ]


@pytest.mark.parametrize("lengths", [[7], [3, 4], [0, 3, 0, 0, 1, 5, 0], [1] * 9])
def test_shards_are_one_array(tmp_path: Path, lengths: list[int]) -> None:
    tokens = TokenShards(shards(tmp_path, lengths), TOKENIZER)
    n = sum(lengths)
    assert len(tokens) == n
    rng = np.random.default_rng(0)
    for shape in [(0,), (n,), (5, 4), (2, 3, 2)]:
        places = rng.integers(n, size=shape)
        ids = tokens[places]
        assert ids.shape == shape
        assert np.array_equal(ids, places)  # the ids count from 0, so each is its own place
    assert tokens[np.arange(n)].tolist() == list(range(n))


def test_there_is_nothing_outside_of_the_shards(tmp_path: Path) -> None:
    tokens = TokenShards(shards(tmp_path, [3, 4]), TOKENIZER)
    for places in ([-1], [7], [[0, 6], [7, 1]]):
        with pytest.raises(IndexError, match="from 0 to 6"):
            tokens[np.array(places)]
    empty = TokenShards([], TOKENIZER)
    assert len(empty) == 0
    with pytest.raises(IndexError):
        empty[np.array([0])]


def test_batches_are_those_of_the_one_array(tmp_path: Path) -> None:
    tokens = TokenShards(shards(tmp_path, [30, 1, 200, 0, 69]), TOKENIZER)
    loader = Loader([tokens], block_size=16, batch_size=4, seed=1)
    other = Loader([np.arange(300, dtype=np.uint16)], block_size=16, batch_size=4, seed=1)
    for _ in range(20):
        ours, theirs = loader.next_batch(), other.next_batch()
        assert ours.ids_BT.dtype == ours.targets_BT.dtype == torch.int64
        assert torch.equal(ours.ids_BT, theirs.ids_BT)
        assert torch.equal(ours.targets_BT, theirs.targets_BT)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    first, second = shards(tmp_path, [3, 4])
    foreign = write_shard(
        tmp_path / "foreign.bin", [[np.zeros(3, np.uint16)]], CharTokenizer.train("abc")
    )
    with pytest.raises(UserError, match=r"foreign\.bin was made by another tokenizer"):
        TokenShards([first, foreign, second], TOKENIZER)


@pytest.mark.parametrize("at", [0, 1 << 20, (1 << 20) + 10])
def test_an_id_that_is_none_of_the_tokenizers_is_refused(tmp_path: Path, at: int) -> None:
    path = tmp_path / "x.bin"
    ids = np.zeros((1 << 20) + 11, dtype=np.uint16)
    ids[at] = 499
    good = write_shard(path, [[ids]], TOKENIZER)
    assert int(open_tokens(good, TOKENIZER)[at]) == 499
    ids[at] = 500
    bad = write_shard(path, [[ids]], TOKENIZER)
    with pytest.raises(UserError, match=r"x\.bin is damaged: it has the id 500, .* below 500"):
        open_tokens(bad, TOKENIZER)
    with pytest.raises(UserError, match="it has the id 500"):
        TokenShards([bad], TOKENIZER)
