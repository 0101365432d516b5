"""The guard against masked AMX. The machine that runs the tests may or may not be such a one."""

from __future__ import annotations

import os

import pytest

from gptfast import _rust
from gptfast.system import cpu


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "notice", None)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "x")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")


@pytest.mark.parametrize(
    ("advertised", "usable", "capped"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_only_a_masked_amx_is_capped(
    advertised: bool, usable: bool, capped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rust, "amx_state", lambda: (advertised, usable))
    cpu.avoid_masked_amx()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == ("AVX512_CORE_FP16" if capped else None)
    assert (cpu.notice is not None) == capped


def test_the_users_own_cap_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rust, "amx_state", lambda: (True, False))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    cpu.avoid_masked_amx()
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert cpu.notice is None


def test_what_rust_reads_is_what_linux_reads() -> None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except FileNotFoundError:
        pytest.skip("needs /proc/cpuinfo")
    advertised, usable = _rust.amx_state()
    if "amx_tile" in flags.split():
        assert advertised
    if usable:
        assert advertised
