"""Try blocks for the attention kernels on this GPU, and keep what each of them took.

    PYTHONPATH=python python benchmarks/tune_attention.py --out tuned.jsonl

Each candidate's line, a JSON object, is appended at once. Printed are for each kernel, head width
and shape the fastest blocks beside those of the table in kernels/flash_attention.py, into which
they are copied by hand after a look. Each candidate's output is compared with the table's. Not yet
run on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from triton.testing import do_bench

from gptfast.bench.verify import in_a_line
from gptfast.kernels import flash_attention as kernels

Blocks = tuple[int, int, int, int]
"""Rows of the query block, rows of the key block, warps, stages."""
TABLES = {
    "forward": kernels.FORWARD_BLOCKS,
    "dq": kernels.DQ_BLOCKS,
    "dk, dv": kernels.DKDV_BLOCKS,
}
CANDIDATES: dict[str, list[Blocks]] = {
    "forward": [*itertools.product((64, 128), (64, 128), (4, 8), (2, 3)), (128, 64, 8, 4)],
    "dq": [*itertools.product((64, 128), (32, 64), (4, 8), (2, 3))],
    "dk, dv": [*itertools.product((32, 64), (64, 128), (4, 8), (2, 3))],
}
SHAPES = [(16, 12, 1024, 64), (2, 32, 8192, 64), (2, 16, 8192, 128)]  # B, H, T, D


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call, with a cold second-level cache."""
    median: float = do_bench(call, quantiles=(0.5, 0.2, 0.8))[0]
    return median


def tune(
    q: torch.Tensor,
    out: Path,
    candidates: dict[str, list[Blocks]],
    deadline: float,
    timer: Callable[[Callable[[], object]], float] = milliseconds,
) -> None:
    """Time every candidate, causal, on random tensors like `q` (B, H, T, D), until `deadline`.

    `deadline` is a value of `time.monotonic()`.
    """
    q, k, v, dout = (torch.randn_like(q) for _ in range(4))
    rest = (True, q.shape[-1] ** -0.5, None, None, 0.0)
    o, lse2 = kernels.flash_attention_forward(q, k, v, None, None, *rest)

    def forward() -> tuple[torch.Tensor, ...]:
        return kernels.flash_attention_forward(q, k, v, None, None, *rest)

    def backward() -> tuple[torch.Tensor, ...]:
        return kernels.flash_attention_backward(dout, None, q, k, v, None, None, o, lse2, *rest)

    for name, table in TABLES.items():
        call = forward if name == "forward" else backward
        key = (q.dtype.itemsize, q.shape[-1])
        usual, expected, times = table[key], call(), {}
        for blocks in dict.fromkeys([usual, *candidates[name]]):
            if time.monotonic() > deadline:
                print(f"{name}: out of time before {blocks}", flush=True)
                break
            row = {"kernel": name, "shape": list(q.shape), "blocks": blocks}
            table[key] = blocks
            try:
                for x, e in zip(call(), expected, strict=True):
                    torch.testing.assert_close(x, e, rtol=3e-2, atol=3e-2)
                times[blocks] = timer(call)
                row["milliseconds"] = times[blocks]
            except Exception as error:  # too much shared memory, as a rule
                row["reason"] = in_a_line(error)
            finally:
                table[key] = usual
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
        # The backward's time is that of all its kernels, of which one changes.
        best = sorted(times, key=times.__getitem__)[:3]
        said = ", ".join(f"{blocks} {times[blocks]:.3f} ms" for blocks in best)
        print(f"{name}, {tuple(q.shape)}: the table has {usual}; fastest {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--time-limit", type=float, default=480.0, help="seconds; %(default)s")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.time_limit
    for shape in SHAPES:
        q = torch.empty(shape, device="cuda", dtype=torch.bfloat16)
        tune(q, arguments.out, CANDIDATES, deadline)


if __name__ == "__main__":
    main()
