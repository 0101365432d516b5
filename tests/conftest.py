"""Fixtures for all tests: nothing is written outside a temporary folder."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from browser import chromium as chromium
from browser import open_page as open_page

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Corpora that can't be part of the repository; tests that need one are skipped without it.
SHARED = Path(__file__).parents[2] / "shared" / "data"


# One of several processes that share the tests (`-n auto`). With a thread per core each, they would
# wait for one another. Read when torch is first imported, and by the programs that tests start.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--alone", action="store_true", help="only tests that -n leaves out")


# Files and folders whose tests have the marker `integration`.
INTEGRATION = {
    "bench",
    "report",
    "test_compare.py",
    "test_distributed.py",
    "test_interpreted.py",
    "test_kill.py",
    "test_ladder.py",
    "test_mixture.py",
    "test_plan.py",
    "test_readme.py",
    "test_runs.py",
    "test_train.py",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `alone` out of parallel runs; `--alone` runs only those."""
    for item in items:
        if INTEGRATION.intersection(item.path.relative_to(config.rootpath).parts):
            item.add_marker(pytest.mark.integration)
    if IS_WORKER or config.getoption("--alone"):
        items[:] = [item for item in items if bool(item.get_closest_marker("alone")) != IS_WORKER]


# A background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GPTFAST_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Whichever tests ran before in this process, random weights and data are the same."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


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
