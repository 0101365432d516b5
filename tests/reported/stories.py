"""Documents for the tests of what was reported about preparing data."""

from __future__ import annotations

import random

EOT = "<|endoftext|>"


def make_stories(n: int) -> list[str]:
    rng = random.Random(0)
    heroes = ["a king", "a queen", "Céline", "the moon"]
    return [f"Once there was {rng.choice(heroes)}, number {i}.\n  The end." for i in range(n)]


STORIES = make_stories(3000)
