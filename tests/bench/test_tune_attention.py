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
from interpreter import patch_triton_language_once

patch_triton_language_once()
wrong, right, usual = (16, 16, 4, 1, None), (16, 32, 4, 1, None), t.TABLES["forward"][2, 64, True]
forward = t.kernels.flash_attention_forward
def broken_with_one(*arguments):
    out, lse2 = forward(*arguments)
    return (out * 1.5 if t.kernels.FORWARD_BLOCKS[2, 64, True] == wrong else out), lse2

t.kernels.flash_attention_forward = broken_with_one
tuned = t.Tuned((1, 2, 1, 20, 64), "cpu", torch.float16)
candidates = {name: {64: [wrong, right]} for name in t.TABLES}
t.tune(tuned, Path(sys.argv[1]), candidates, 2, time.monotonic() + 500, timer=lambda call: 1.25)
t.tune(tuned, Path(sys.argv[1]), candidates, 2, time.monotonic() - 1, timer=lambda call: 1.25)
assert t.TABLES["forward"][2, 64, True] == usual
t.kernels.has_copy_engine = lambda device: False  # another row of the tables
assert t.Tuned((1, 2, 1, 40, 80), "cpu", torch.float16).key == (2, 128, False)
"""


def test_every_candidate_has_its_line(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    path = os.pathsep.join(str(ROOT / name) for name in ("python", "benchmarks", "tests"))
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "tuned.jsonl")],
        env={**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "tuned.jsonl").read_text().splitlines()]
    # Two rounds, of which the second leaves out what was wrong.
    others = ["dq", "dq", "dk, dv", "dk, dv"]
    assert [row["kernel"] for row in rows] == ["forward"] * 2 + others + ["forward"] + others
    wrong = rows.pop(0)
    assert wrong["blocks"] == [16, 16, 4, 1, None]
    assert wrong["reason"].startswith("ArithmeticError: differs by 0.5 of the norm")
    assert all(row["milliseconds"] == 1.25 for row in rows)
    assert "forward, (1, 2, 1, 20, 64): the table has" in done.stdout
    assert "fastest (16, 32, 4, 1, None) 1.250 ms" in done.stdout
