from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource
import statistics
import torch
from torch import nn
from gptfast.system.memory import keep_freed_memory

layers = (nn.Sequential(nn.Linear(16, 1024), nn.ReLU(), nn.Linear(1024, 16)) for _ in range(2))
model = nn.Sequential(*layers)
# 48 MiB in the middle of a layer. What is above 32 MiB (DEFAULT_MMAP_THRESHOLD_MAX, mallopt(3)) is
# always mapped by itself, and unmapped when freed; below, it depends on what was freed before.
x = torch.randn(12_288, 16)

def page_faults():
    of_steps = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        model(x).square().mean().backward()
        model.zero_grad()
        of_steps.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return round(statistics.median(of_steps))  # in single steps the heap may still grow

by_default = page_faults()
keep_freed_memory(torch.device('cpu'))
print(by_default, page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        ours.pop(name, None)
    out = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True, env=ours
    ).stdout
    by_default, kept = map(int, out.split())
    assert by_default > 100  # pages of 4 KiB, or 2 MiB where the system gives them unasked
    assert kept < by_default / 4
