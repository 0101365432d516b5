"""nanoGPT's own CPU recipe and the preset `shakespeare-20s`, one after the other, by the clock.

`python benchmarks/nanogpt_recipe.py --nanogpt PATH --corpus tinyshakespeare.txt`, with PATH a clone
of karpathy/nanoGPT, whose train.py runs in a copy of it with the flags that its README gives for a
MacBook (4 layers, 128 wide, T64, B12, 2,000 steps). Its time counts from its first evaluation to
its last, ours from the data being ready to the first evaluation that is at least as good. Both
split the text 90/10 by characters; nanoGPT estimates the val loss from 20 random batches, we from
1,024 windows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptfast.cli import cli
from gptfast.errors import MissingFileError, RunError
from gptfast.train.history import read_run
from saving import save_results

FLAGS = (
    "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000",
    "--lr_decay_iters=2000", "--dropout=0.0",
)  # fmt: skip
PRESET = "shakespeare-20s"


@dataclass(frozen=True)
class Config:
    """Where nanoGPT is, and the text."""

    nanogpt: Path
    """A clone of karpathy/nanoGPT."""
    corpus: Path
    """tinyshakespeare.txt."""
    json: Path | None = None
    """File for the results."""


def main(argv: Sequence[str]) -> int:
    """Train both, print, save. Returns 0; raises RunError if ours doesn't get as far."""
    config = cli.parse(Config, argv, "benchmarks/nanogpt_recipe.py")
    for path in (config.nanogpt / "train.py", config.corpus):
        if not path.is_file():
            raise MissingFileError(f"no {path}: expected a clone of karpathy/nanoGPT, and a text")
    with tempfile.TemporaryDirectory() as folder:
        their_loss, their_seconds = theirs(config, Path(folder))
        evaluations = ours(config, Path(folder))
    print(f"nanoGPT: val {their_loss:.4f} after {their_seconds:.1f} s")
    good = [(loss, seconds) for loss, seconds in evaluations if loss <= their_loss]
    if not good:
        raise RunError(f"{PRESET} reaches {min(evaluations)[0]:.4f} only, nanoGPT {their_loss:.4f}")
    our_loss, our_seconds = good[0]
    ratio = their_seconds / our_seconds
    print(f"{PRESET}: val {our_loss:.4f} after {our_seconds:.1f} s: {ratio:.1f} x as fast")
    if config.json:
        result = {
            "nanogpt": {"flags": FLAGS, "val_loss": their_loss, "seconds": their_seconds},
            PRESET: {"val_loss": our_loss, "seconds": our_seconds},
        }
        save_results(config.json, result)
    return 0


def theirs(config: Config, folder: Path) -> tuple[float, float]:
    """Return the last val loss of nanoGPT's train.py, and the seconds from its first one to it."""
    clone = folder / "nanoGPT"
    shutil.copytree(config.nanogpt, clone, ignore=shutil.ignore_patterns(".git"))
    data = clone / "data" / "shakespeare_char"
    shutil.copy(config.corpus, data / "input.txt")  # or prepare.py would download it
    python = [sys.executable, "-u"]
    subprocess.run([*python, data / "prepare.py"], check=True, stdout=subprocess.DEVNULL)
    command = [*python, "train.py", "config/train_shakespeare_char.py", *FLAGS]
    with subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, text=True) as process:
        lines = ((line, time.monotonic()) for line in process.stdout or ())
        found = ((re.match(r"step \d+: .*val loss (\S+)", line), when) for line, when in lines)
        losses = [(float(match[1]), when) for match, when in found if match]
    if process.returncode or len(losses) < 2:
        raise RunError(f"nanoGPT's train.py ended with code {process.returncode}")
    return losses[-1][0], losses[-1][1] - losses[0][1]


def ours(config: Config, folder: Path) -> list[tuple[float, float]]:
    """Return the val loss and the seconds of every evaluation of our preset."""
    out = folder / "ours"
    command = [sys.executable, "-m", "gptfast.train", "--preset", PRESET]
    command += ["--corpus", str(config.corpus), "--out", str(out), "--device", "cpu"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [(e["val_loss"], e["seconds"]) for e in read_run(out).evaluations]


if __name__ == "__main__":
    sys.exit(cli.run(main))
