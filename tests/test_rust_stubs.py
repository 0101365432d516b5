"""`_rust.pyi` says what the compiled extension really has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gptfast import _rust


def test_stubs_match_the_extension() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "gptfast._rust"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the oracle is Linux's CPU flags")
def test_amx_is_usable_only_where_it_is_advertised_to_linux() -> None:
    advertised, usable = _rust.amx_state()
    flags = Path("/proc/cpuinfo").read_text().split()
    if "amx_tile" in flags:
        assert advertised
    if usable:
        assert advertised
