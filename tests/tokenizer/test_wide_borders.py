"""Long runs of Chinese are cut where no token crosses: the ids are tiktoken's."""

import random

import pytest
import tiktoken

from gptfast import _rust

SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("seed", range(20))
def test_ids_of_long_runs_equal_tiktokens(seed: int) -> None:
    rng = random.Random(seed)
    letters = [chr(0x4E00 + rng.randrange(200)) for _ in range(12)]
    ranks = {bytes([i]): i for i in range(256)}
    # Some begin or end within a character, and some are made by no merge.
    for _ in range(60):
        token = "".join(rng.choices(letters, k=rng.randint(1, 4))).encode()
        start = rng.choice([0, 0, 0, 1, 2])
        ranks.setdefault(token[start : start + rng.randint(2, 12)], len(ranks))
    ours = _rust.BPE(ranks, "gpt2", {}, [], merges=None)
    theirs = tiktoken.Encoding("x", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
    for _ in range(200):
        text = "".join(rng.choices(letters, k=rng.randint(1, 40)))
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text), text
