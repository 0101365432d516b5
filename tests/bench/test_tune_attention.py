"""Trying blocks: every result is kept, a wrong candidate ends nothing. Runs in the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys, time, torch
from pathlib import Path
import tune_attention as t

forward = t.kernels.flash_attention_forward
def broken_with_one(*arguments):
    out, lse2 = forward(*arguments)
    return (out * 1.5 if t.kernels.FORWARD_BLOCKS[4, 64] == (16, 16, 4, 1) else out), lse2

t.kernels.flash_attention_forward = broken_with_one
candidates = {name: [(16, 16, 4, 1), (16, 32, 4, 1)] for name in t.TABLES}
q, out = torch.empty(1, 1, 40, 64), Path(sys.argv[1])
t.tune(q, out, candidates, time.monotonic() + 500, timer=lambda call: 1.25)
t.tune(q, out, candidates, time.monotonic() - 1, timer=lambda call: 1.25)
assert t.TABLES["forward"][4, 64] == (64, 32, 8, 2)
"""


def test_every_candidate_has_its_line(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    path = f"{ROOT / 'python'}{os.pathsep}{ROOT / 'benchmarks'}"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "tuned.jsonl")],
        env={**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "tuned.jsonl").read_text().splitlines()]
    assert [row["kernel"] for row in rows] == ["forward"] * 3 + ["dq"] * 3 + ["dk, dv"] * 3
    wrong = rows.pop(1)
    assert wrong["blocks"] == [16, 16, 4, 1]
    assert wrong["reason"].startswith("AssertionError: Tensor-likes are not close")
    assert all(row["milliseconds"] == 1.25 for row in rows)
    assert "out of time before" in done.stdout
