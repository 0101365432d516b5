"""Fixtures for all tests: nothing is written outside a temporary folder."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Corpora that can't be part of the repository; tests that need one are skipped without it.
SHARED = Path(__file__).parents[2] / "shared" / "data"


# A background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GPTFAST_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def nursery_text() -> str:
    """About 20 kB of text with structure to learn: sentences drawn from a small grammar."""
    rng = random.Random(0)
    nouns = ["king", "fool", "queen", "crow", "river", "moon", "sword", "door"]
    verbs = ["sees", "hears", "follows", "forgets", "loves", "fears"]
    names = ["ALICE", "BOB", "CÉLINE"]
    lines = []
    while sum(map(len, lines)) < 20_000:
        lines.append(f"{rng.choice(names)}:\n")
        lines += [
            f"The {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}.\n"
            for _ in range(rng.randint(1, 3))
        ]
        lines.append("\n")
    return "".join(lines)


@pytest.fixture
def corpus_file(tmp_path: Path, nursery_text: str) -> Path:
    path = tmp_path / "nursery.txt"
    path.write_text(nursery_text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED.parent.name}/{SHARED.name} beside the repository")
    return SHARED
