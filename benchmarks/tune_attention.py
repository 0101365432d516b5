"""Try blocks for the attention kernels on this GPU: `PYTHONPATH=python python tune_attention.py`.

Prints for each kernel, head width and shape the fastest blocks beside those of the table in
kernels/flash_attention.py, from which they are copied by hand after a look. Each candidate's output
is compared with the table's. Not yet run on a GPU.
"""

from __future__ import annotations

import itertools

import torch
from triton.testing import do_bench

from gptfast.kernels import flash_attention as kernels

TABLES = {
    "forward": kernels.FORWARD_BLOCKS,
    "dq": kernels.DQ_BLOCKS,
    "dk, dv": kernels.DKDV_BLOCKS,
}
# (rows of the query block, rows of the key block, warps, stages)
CANDIDATES = {
    "forward": [*itertools.product((64, 128), (64, 128), (4, 8), (2, 3)), (128, 64, 8, 4)],
    "dq": [*itertools.product((64, 128), (32, 64), (4, 8), (2, 3))],
    "dk, dv": [*itertools.product((32, 64), (64, 128), (4, 8), (2, 3))],
}
SHAPES = [(16, 12, 1024, 64), (2, 32, 8192, 64), (2, 16, 8192, 128)]  # B, H, T, D


def tune(B: int, H: int, T: int, D: int) -> None:
    """Time every candidate at one shape, causal, in bfloat16."""
    q, k, v, dout = (torch.randn(B, H, T, D, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    rest = (True, D**-0.5, None, None, 0.0)

    def forward() -> tuple[torch.Tensor, ...]:
        return kernels.flash_attention_forward(q, k, v, None, None, *rest)

    out, lse2 = forward()

    def backward() -> tuple[torch.Tensor, ...]:
        return kernels.flash_attention_backward(
            dout, None, q, k, v, None, None, out, lse2, *rest
        )  # fmt: skip

    for name, table in TABLES.items():
        call = forward if name == "forward" else backward
        usual, expected, times = table[2, D], call(), {}
        for blocks in dict.fromkeys([usual, *CANDIDATES[name]]):
            table[2, D] = blocks
            try:
                results = call()
                times[blocks] = do_bench(call, quantiles=(0.5, 0.2, 0.8))[0]
            except Exception as error:  # too much shared memory, as a rule
                print(f"{name} D{D} {blocks}: {str(error).splitlines()[0]}")
                continue
            for x, e in zip(results, expected, strict=True):
                torch.testing.assert_close(x, e, rtol=3e-2, atol=3e-2)
        table[2, D] = usual
        best = sorted(times, key=times.__getitem__)[:3]
        # The backward's time is that of all its kernels, of which one changes.
        print(
            f"{name}, D{D} B{B} H{H} T{T}: {usual} takes {times[usual]:.3f} ms; fastest "
            + ", ".join(f"{blocks} {times[blocks]:.3f}" for blocks in best),
            flush=True,
        )


if __name__ == "__main__":
    for shape in SHAPES:
        tune(*shape)
