"""How fast training is while other programs use the cores, as a share of its speed alone.

`python benchmarks/beside_others.py`. Steps of the preset `shakespeare-cpu` in processes of their
own, alone and beside one and two programs that keep a core busy each: with `share_cores`, as the
commands train, and with PyTorch's own way to wait. The kinds take turns; figures are medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gptfast.cli import cli
from gptfast.errors import RunError
from saving import save_results
from spinning import no_spin_count

SHARED, PLAIN = "shared", "plain"
WORK = """
import sys, time
from contextlib import nullcontext
kind, seconds = sys.argv[1], float(sys.argv[2])
if kind == "shared":
    import gptfast  # sets the spin count, which libgomp reads when PyTorch loads
import torch
from gptfast.data.batch import Batch
from gptfast.model import build_model
from gptfast.system.memory import keep_freed_memory
from gptfast.system.threads import share_cores
from gptfast.train.config import load_preset
from gptfast.train.objective import NextToken
from gptfast.train.optim import Optimizer
from gptfast.train.step import gradient_scaler, train_step

cpu = torch.device("cpu")
keep_freed_memory(cpu)
torch.manual_seed(1337)
config = load_preset("shakespeare-cpu")
model = build_model(config.model)
optimizer = Optimizer(model, 1e-3, 0.02, 0.1)
ids = torch.randint(config.model.vocab_size, (config.batch_size, config.model.block_size + 1))
batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
scaler = gradient_scaler("float32", cpu)

def step():
    return train_step(model, batch, optimizer, NextToken(), scaler).loss

with share_cores() if kind == "shared" else nullcontext():
    first = step()
    deadline = time.perf_counter() + 2  # the others are noticed
    while time.perf_counter() < deadline:
        step()
    start, n = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        last, n = step(), n + 1
    speed = n * batch.ids_BT.numel() / (time.perf_counter() - start)
assert last < first, (first, last)
print(speed)
"""


@dataclass(frozen=True)
class Config:
    """How long to measure."""

    rounds: int = 5
    """Runs of each kind, in turns."""
    seconds: float = 8.0
    """Of each run."""
    json: Path | None = None
    """File for the results."""


@dataclass(frozen=True)
class Speed:
    """Tokens/s of one kind of waiting beside some busy programs."""

    kind: str
    busy: int
    tokens_per_second: float
    of_alone: float
    """As a share of the same kind's speed alone."""
    runs: list[float]


def main(argv: Sequence[str]) -> int:
    """Measure, print, save. Returns 0."""
    config = cli.parse(Config, argv, "benchmarks/beside_others.py")
    runs: dict[tuple[str, int], list[float]] = {}
    for _ in range(config.rounds):
        for busy in (0, 1, 2):
            for kind in (SHARED, PLAIN):
                with programs(busy):
                    runs.setdefault((kind, busy), []).append(tokens_per_second(kind, config))
    medians = {key: statistics.median(values) for key, values in runs.items()}
    speeds = [
        Speed(kind, busy, median, median / medians[kind, 0], runs[kind, busy])
        for (kind, busy), median in medians.items()
    ]
    for s in speeds:
        print(f"{s.kind}, beside {s.busy}: {s.tokens_per_second:,.0f} tokens/s, {s.of_alone:.0%}")
    print(f"alone, shared / plain: {medians[SHARED, 0] / medians[PLAIN, 0]:.3f}")
    if config.json:
        save_results(config.json, {"speeds": [asdict(s) for s in speeds]})
    return 0


def tokens_per_second(kind: str, config: Config) -> float:
    """Train in a separate process, and return its speed. Raises RunError if that fails."""
    command = [sys.executable, "-c", WORK, kind, str(config.seconds)]
    with no_spin_count():  # this process has set one already
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"training failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


@contextmanager
def programs(n: int) -> Iterator[None]:
    """Keep n programs running that do nothing but use a core each."""
    with ExitStack() as stack:
        for _ in range(n):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        time.sleep(0.2 * bool(n))
        yield


if __name__ == "__main__":
    sys.exit(cli.run(main))
