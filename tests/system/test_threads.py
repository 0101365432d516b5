from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from gptfast.system import threads
from gptfast.system.threads import CpuTime, busy_seconds, can_share, limit_spinning, share_cores

STAT = """cpu  170 20 30 4000 500 6 7 9 0 0
cpu0 50 10 15 2000 250 3 3 4 0 0
cpu1 50 10 15 2000 250 3 4 5 0 0
cpu10 70 0 0 0 0 0 0 0 0 0
intr 12345 0 0
"""


def test_busy_is_what_is_neither_idle_nor_waiting_for_the_disk() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    assert busy_seconds(STAT, {0}) == (50 + 10 + 15 + 3 + 3) / tick
    assert busy_seconds(STAT, {1, 10}) == (50 + 10 + 15 + 3 + 4 + 70) / tick


def test_the_time_of_others_is_all_but_ours() -> None:
    before, after = (object.__new__(CpuTime) for _ in range(2))
    before.wall, before.all, before.own = 10.0, 100.0, 5.0
    after.wall, after.all, after.own = 12.0, 103.5, 6.5
    assert after.cores_of_others_since(before) == (3.5 - 1.5) / 2


def test_the_users_own_policy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")]:
        with monkeypatch.context() as patch:
            patch.delenv("GOMP_SPINCOUNT", raising=False)
            patch.delenv("OMP_WAIT_POLICY", raising=False)
            patch.setenv(name, value)
            limit_spinning()
            assert os.environ[name] == value
            assert os.environ.get("GOMP_SPINCOUNT") == (value if name.startswith("G") else None)


def test_importing_gptfast_sets_the_spin_count() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP", "OMP_WAIT"))}
    code = "import gptfast, os; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert int(done.stdout) > 0


MAPS = Path("/proc/self/maps")
needs_libgomp = pytest.mark.skipif(
    not MAPS.is_file() or "libgomp" not in MAPS.read_text(), reason="needs libgomp, on Linux"
)


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@needs_libgomp
def test_a_team_is_there_while_others_are_busy_and_results_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "can_share", lambda: True)
    monkeypatch.setattr(threads, "_INTERVAL", 0.01)
    busy = [0.0]
    monkeypatch.setattr(CpuTime, "cores_of_others_since", lambda *_: busy[0])
    x = torch.randn(300, 300)
    expected = (x @ x).sum()

    def wait_until(team: bool) -> None:
        deadline = time.monotonic() + 60
        while ("openmp-team" in names()) != team:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert torch.equal((x @ x).sum(), expected)

    with share_cores():
        assert "openmp-team" not in names()
        busy[0] = 0.9
        wait_until(team=True)
        busy[0] = 0.2  # between the two limits: as it is
        time.sleep(0.1)
        assert "openmp-team" in names()
        busy[0] = 0.0
        wait_until(team=False)
        busy[0] = 0.9
        wait_until(team=True)
    assert not {"openmp-team", "share-cores"} & set(names())


TEAM = """
import os
os.environ["OMP_NUM_THREADS"] = "2"
import torch
from pathlib import Path
from gptfast.system.threads import _Team

def n_threads():
    return len(list(Path("/proc/self/task").iterdir()))

torch.ones(1 << 17).add_(1)  # this thread's team
before = n_threads()
team = _Team()
import time
deadline = time.monotonic() + 60
while n_threads() < before + 2 and time.monotonic() < deadline:
    time.sleep(0.01)
print(n_threads() - before)
team.end()
while n_threads() > before and time.monotonic() < deadline:
    time.sleep(0.01)
print(n_threads() - before)
"""


@needs_libgomp
def test_a_team_is_a_thread_of_ours_and_one_of_openmp() -> None:
    done = subprocess.run([sys.executable, "-c", TEAM], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "0"], done.stderr


def test_fewer_threads_than_cores_need_no_sharing() -> None:
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert not can_share()
    finally:
        torch.set_num_threads(n)
