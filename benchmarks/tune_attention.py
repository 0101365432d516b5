"""Try blocks for the attention kernels on this GPU, and keep what each of them took.

    PYTHONPATH=python python benchmarks/tune_attention.py --out tuned.jsonl

Every candidate is first compiled, in as many processes as there are cores, and its results compared
with those of the tables in kernels/flash_attention.py. Then they are timed, in turns, so that a
clock that changes meets all of them. Each time is appended as a JSON object; printed are for each
kernel and shape the fastest blocks beside those of the table, into which they are copied by hand
after a review.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from triton.testing import do_bench

from gptfast.bench.measure import AGREEMENT, recorded
from gptfast.bench.session import run_parts
from gptfast.bench.verify import in_a_line
from gptfast.kernels import flash_attention as kernels

Blocks = tuple[int, int, int, int, int | None]
"""Rows of the query block, rows of the key block, warps, stages, most registers of a thread."""
Shape = tuple[int, int, int, int, int]
"""B, H, G, T, D."""
TABLES = {
    "forward": kernels.FORWARD_BLOCKS,
    "dq": kernels.DQ_BLOCKS,
    "dk, dv": kernels.DKDV_BLOCKS,
}
CANDIDATES: dict[str, dict[int, list[Blocks]]] = {
    "forward": {
        64: [
            (128, 64, 4, 2, 168), (128, 64, 4, 3, 168), (128, 64, 4, 3, None), (64, 64, 4, 2, None),
            (64, 64, 4, 2, 128), (64, 128, 4, 2, 168), (128, 128, 4, 3, None),
            (128, 64, 8, 3, 128),
        ],
        128: [
            (128, 64, 8, 2, 128), (128, 64, 8, 2, None), (128, 64, 8, 3, None),
            (128, 128, 8, 3, None), (64, 64, 4, 3, None), (64, 64, 4, 3, 168), (64, 64, 4, 2, 168),
            (128, 32, 8, 3, 128), (64, 32, 4, 3, 128), (128, 32, 8, 4, 128),
        ],
        256: [
            (64, 32, 4, 2, None), (64, 32, 8, 2, None), (128, 32, 8, 2, None), (64, 64, 4, 2, None),
            (128, 64, 8, 2, None), (64, 64, 8, 2, None),
        ],
    },
    "dq": {
        64: [
            (64, 64, 4, 2, None), (64, 64, 4, 2, 128), (64, 64, 4, 2, 168), (64, 64, 4, 3, None),
            (64, 64, 4, 3, 128), (128, 64, 8, 3, None), (64, 128, 4, 3, None), (64, 32, 4, 3, None),
            (128, 64, 8, 3, 128), (64, 64, 4, 4, None),
        ],
        128: [
            (128, 64, 8, 3, None), (128, 64, 8, 2, None), (128, 32, 4, 3, None),
            (64, 32, 4, 3, None), (64, 64, 4, 2, 168), (64, 64, 4, 2, None), (128, 32, 8, 3, 128),
            (64, 32, 4, 3, 128),
        ],
        256: [
            (64, 32, 4, 2, None), (64, 64, 8, 2, None), (32, 32, 4, 2, None), (128, 32, 8, 2, None),
            (64, 64, 4, 2, None),
        ],
    },
    "dk, dv": {
        64: [
            (64, 64, 4, 3, None), (64, 64, 4, 2, None), (64, 64, 4, 4, None), (32, 64, 4, 3, None),
            (32, 64, 4, 3, 168), (32, 64, 4, 4, None), (64, 128, 8, 3, None), (32, 128, 8, 3, None),
            (64, 64, 8, 3, None), (32, 64, 4, 5, None),
        ],
        128: [
            (64, 64, 4, 2, None), (64, 128, 8, 3, None), (64, 128, 8, 2, None),
            (32, 64, 4, 3, None), (32, 128, 8, 3, None), (32, 64, 4, 4, None),
            (64, 64, 8, 2, None), (64, 64, 8, 3, None), (32, 128, 8, 4, None),
        ],
        256: [
            (32, 64, 8, 2, None), (32, 32, 4, 2, None), (32, 64, 4, 2, None), (64, 64, 8, 1, None),
            (64, 64, 8, 2, None), (32, 64, 8, 1, None),
        ],
    },
}  # fmt: skip
SHAPES: list[Shape] = [
    (16, 12, 12, 1024, 64), (2, 32, 32, 8192, 64), (8, 32, 32, 2048, 64),
    (2, 16, 16, 8192, 128), (8, 16, 16, 2048, 128),
    (4, 32, 8, 2048, 64), (4, 32, 8, 2048, 128), (4, 8, 8, 2048, 256),
]  # fmt: skip


class Tuned:
    """Causal attention on random tensors of one shape, whose blocks can be changed."""

    def __init__(self, shape: Shape, device: str = "cuda", dtype: torch.dtype = torch.bfloat16):
        self.shape = B, H, G, T, D = shape
        q, k, v, dout = (
            torch.randn(B, heads, T, D, device=device, dtype=dtype) for heads in (H, G, G, H)
        )
        rest = (True, D**-0.5, None, 0.0)
        out, lse2 = kernels.flash_attention_forward(q, k, v, None, None, *rest)
        self.forward = partial(kernels.flash_attention_forward, q, k, v, None, None, *rest)
        self.backward = partial(
            kernels.flash_attention_backward, dout, q, k, v, None, None, out, lse2, *rest
        )
        self.expected = {name: self.call(name)() for name in TABLES}
        self.key = kernels.table_key(q, kernels.by_copy_engine(q, k, v))

    def call(self, name: str) -> Callable[[], tuple[torch.Tensor, ...]]:
        """Return what the blocks of this name are part of: the backward has two kernels."""
        return self.forward if name == "forward" else self.backward

    def with_blocks(
        self, name: str, blocks: Blocks, use: Callable[[Callable[[], object]], float]
    ) -> float:
        """Return `use` of the call with these blocks."""
        table = TABLES[name]
        usual, table[self.key] = table[self.key], blocks
        try:
            return use(self.call(name))
        finally:
            table[self.key] = usual

    def check(self, name: str, call: Callable[[], tuple[torch.Tensor, ...]]) -> float:
        """Return the largest difference from the usual blocks' results, as a share of the norm.

        Raises ArithmeticError if it is more than rounding.
        """
        pairs = zip(call(), self.expected[name], strict=True)
        worst = max(((x - e).float().norm() / e.float().norm()).item() for x, e in pairs)
        if not worst <= AGREEMENT:
            raise ArithmeticError(f"differs by {worst:.3g} of the norm")
        return worst


def trials(
    tuned: Tuned, candidates: dict[str, dict[int, list[Blocks]]]
) -> Iterator[tuple[str, Blocks]]:
    """Every candidate for the head width of these tensors."""
    _, width, _ = tuned.key
    for name, by_width in candidates.items():
        for blocks in by_width[width]:
            yield name, blocks


def compile_part(part: int, n_parts: int) -> None:
    """Run each `n_parts`-th candidate once, for what it leaves in Triton's cache."""
    for i, shape in enumerate(SHAPES):
        small = Tuned((1, *shape[1:3], 256, shape[-1]))
        for j, (name, blocks) in enumerate(trials(small, CANDIDATES)):
            if (i + j) % n_parts == part:
                try:
                    small.with_blocks(name, blocks, lambda call: bool(call()))
                except Exception as error:  # the main process raises it again, and logs it
                    print(f"{name}, {blocks}: {in_a_line(error)}", flush=True)


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU, with a cold second-level cache."""
    call()
    median: float = do_bench(recorded(call), warmup=4, rep=15, quantiles=(0.5, 0.2, 0.8))[0]
    return median


def tune(
    tuned: Tuned,
    out: Path,
    candidates: dict[str, dict[int, list[Blocks]]],
    rounds: int,
    deadline: float,
    timer: Callable[[Callable[[], object]], float] = milliseconds,
) -> None:
    """Time every candidate `rounds` times; begin none after `deadline`, a `time.monotonic()`."""
    times: dict[tuple[str, Blocks], list[float]] = {}
    failed: set[tuple[str, Blocks]] = set()
    for _ in range(rounds):
        for trial in trials(tuned, candidates):
            if trial in failed or time.monotonic() > deadline:
                continue
            name, blocks = trial
            row: dict[str, object] = {"kernel": name, "shape": tuned.shape, "blocks": blocks}
            try:
                row["difference"] = tuned.with_blocks(name, blocks, partial(tuned.check, name))
                row["milliseconds"] = tuned.with_blocks(name, blocks, timer)
                times.setdefault(trial, []).append(row["milliseconds"])
            except Exception as error:  # too much shared memory, as a rule
                row["reason"] = in_a_line(error)
                failed.add(trial)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    for name in candidates:
        medians = {b: statistics.median(t) for (n, b), t in times.items() if n == name}
        best = sorted(medians, key=medians.__getitem__)[:3]
        fastest = ", ".join(f"{blocks} {medians[blocks]:.3f} ms" for blocks in best)
        usual = TABLES[name][tuned.key]
        print(f"{name}, {tuned.shape}: the table has {usual}; fastest {fastest}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--rounds", type=int, default=2, help="default %(default)s")
    parser.add_argument("--time-limit", type=float, default=480.0, help="seconds; %(default)s")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.time_limit
    run_parts(compile_part, os.cpu_count() or 1, arguments.time_limit / 2)
    with torch.cuda.stream(torch.cuda.Stream()):  # on the default one no graph can be recorded
        for shape in SHAPES:
            tune(Tuned(shape), arguments.out, CANDIDATES, arguments.rounds, deadline)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
