"""nanoGPT and gptfast on the same machine, in the same run, from the same weights and batches.

`python benchmarks/against_nanogpt.py --nanogpt PATH`, with PATH a clone of karpathy/nanoGPT. First
parity: 100 steps of AdamW whose losses have to agree, or no speed is printed. Then tokens/s of its
10M-parameter Shakespeare model, with dropout and without. The two run in separate processes, which
take turns step by step, without compilation. nanoGPT's process uses PyTorch's defaults. Ours uses
gptfast's thread and memory settings and trains in micro-batches. On a CPU nanoGPT's
train.py supports float32 only; ours is measured in bfloat16, too. Last, how fast the model's matrix
products are alone, which both have to make.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptfast.bench.nanogpt import NanoGPTLoss, load_nanogpt, twin_of
from gptfast.cli import cli
from gptfast.data.batch import Batch
from gptfast.data.loader import windows
from gptfast.data.sources import load_corpus
from gptfast.data.split import split_documents
from gptfast.errors import RunError
from gptfast.model import GPT, ModelConfig
from gptfast.system.memory import keep_freed_memory
from gptfast.tokenizer import CharTokenizer
from gptfast.train.config import Dtype, TrainConfig, load_preset
from gptfast.train.objective import NextToken
from gptfast.train.optim import Optimizer
from gptfast.train.step import gradient_scaler, train_step
from saving import save_results
from spinning import no_spin_count

Step = Callable[[Batch], float]
"""Trains on a batch; returns its loss."""

PARITY_STEPS = 100
PARITY_TOLERANCE = 1e-4
"""Nats: both compute the same function in float32, in another order of operations."""
BETAS = (0.9, 0.99)
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.1, 1.0
MATRICES = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
"""The linear layers of a block, (in, out)."""
PRODUCT_TOKENS = 2048
"""Rows of the matrix products that are timed alone."""
START_METHOD = "spawn"
"""Start method of each side's process: a new interpreter, as a training command has."""
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
"""Of our matrix products."""
SAME_LOSS, SAME_LOSS_BFLOAT16 = 5e-3, 0.05
"""Nats between nanoGPT's losses and ours in float32 and in bfloat16, some steps after the same
start."""


@dataclass(frozen=True)
class Config:
    """Where nanoGPT is, and how long to measure."""

    nanogpt: Path
    """A clone of karpathy/nanoGPT."""
    corpus: str = "tinyshakespeare"
    """The text: 'tinyshakespeare' or a path."""
    rounds: int = 5
    """Steps of each that are timed, in turns."""
    json: Path | None = None
    """File for the results."""


@dataclass(frozen=True)
class Speed:
    """Tokens/s of both, medians over the rounds."""

    dropout: float
    dtype: Dtype
    """Of our matrix products; nanoGPT's are float32."""
    nanogpt: float
    gptfast: float
    ratio: float
    ratios: list[float]
    """Of each round."""


@dataclass(frozen=True)
class Product:
    """How fast the matrix products of one of the model's linear layers are alone, in GFLOP/s."""

    n_in: int
    n_out: int
    forward: float
    inputs: float
    """For the gradient of the layer's inputs."""
    weights: float


def main(argv: list[str]) -> int:
    """Compare, print, save. Returns 0. Raises RunError if the losses disagree."""
    config = cli.parse(Config, argv, "benchmarks/against_nanogpt.py")
    nanogpt = load_nanogpt(config.nanogpt)
    tokens, vocab_size = char_tokens(config.corpus)
    difference = parity(nanogpt, tokens, vocab_size)
    print(f"parity: {PARITY_STEPS} steps, largest difference of losses {difference:.1e} nats")
    speeds = [
        s for p in (0.2, 0.0) for s in speed(config.nanogpt, tokens, vocab_size, p, config.rounds)
    ]
    for s in speeds:
        print(
            f"10M model, dropout {s.dropout}: nanoGPT {s.nanogpt:,.0f} tokens/s, gptfast in "
            f"{s.dtype} {s.gptfast:,.0f}: {s.ratio:.2f} x ({min(s.ratios):.2f} to "
            f"{max(s.ratios):.2f})"
        )
    alone = [product(PRODUCT_TOKENS, n_in, n_out) for n_in, n_out in MATRICES]
    for p in alone:
        print(
            f"matrix products alone, {p.n_in} -> {p.n_out}: {p.forward:.0f} GFLOP/s, for the "
            f"inputs' gradients {p.inputs:.0f}, the weights' {p.weights:.0f}"
        )
    if config.json:
        result = {
            "parity": {"steps": PARITY_STEPS, "largest_difference": difference},
            "speed": [asdict(s) for s in speeds],
            "products_in_float32": [asdict(p) for p in alone],
        }
        save_results(config.json, result)
    return 0


def char_tokens(corpus: str) -> tuple[np.ndarray, int]:
    """The first 90% of a text, an id for each character, and the number of distinct ones."""
    documents = load_corpus(corpus).documents
    train, _ = split_documents(documents, 0.1)
    tokenizer = CharTokenizer.train("".join(documents))
    return tokenizer.encode_to_numpy("".join(train)), tokenizer.n_vocab


def step_of(nanogpt: ModuleType | None, config: TrainConfig) -> Step:
    """Return a training step of nanoGPT's model with its own optimizer, or of ours if None.

    Both start with the same weights.
    """
    torch.manual_seed(1337)
    model, objective = GPT(config.model), NextToken()
    if nanogpt is not None:
        model, objective = twin_of(model, nanogpt), NanoGPTLoss()
    optimizer = Optimizer(model, LEARNING_RATE, None, WEIGHT_DECAY, beta2=BETAS[1])
    if nanogpt is not None:
        theirs = model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")
        optimizer.parts = [(theirs, LEARNING_RATE)]
    scaler = gradient_scaler(config.resolved_dtype, torch.device("cpu"))

    def step(batch: Batch) -> float:
        return train_step(
            model, batch, optimizer, objective, scaler,
            grad_clip=CLIP, micro_batch_size=config.micro_batch_size, dtype=config.resolved_dtype,
        ).loss  # fmt: skip

    return step


def parity(nanogpt: ModuleType, tokens: np.ndarray, vocab_size: int) -> float:
    """Train both on the same batches; return the largest difference of their losses.

    Raises RunError if it is above the tolerance.
    """
    model = ModelConfig(
        vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False,
        activation="gelu_exact",
    )  # fmt: skip
    config = TrainConfig(tokenizer="char", model=model, batch_size=12, dtype="float32")
    their_step, our_step = step_of(nanogpt, config), step_of(None, config)
    rng = np.random.default_rng(1337)
    largest = 0.0
    for number in range(PARITY_STEPS):
        batch = windows(tokens, rng.integers(len(tokens) - 64, size=12), 64)
        loss, our_loss = their_step(batch), our_step(batch)
        largest = max(largest, abs(loss - our_loss))
        if not largest <= PARITY_TOLERANCE:
            raise RunError(
                f"step {number + 1}: nanoGPT's loss is {loss:.5f}, ours {our_loss:.5f}: they "
                f"differ by more than {PARITY_TOLERANCE}, so no speed is measured"
            )
    return largest


def speed(
    nanogpt: Path, tokens: np.ndarray, vocab_size: int, dropout: float, rounds: int
) -> list[Speed]:
    """Tokens/s of training nanoGPT's 10M-parameter Shakespeare model, in turns.

    Raises RunError if without dropout a loss is not nanoGPT's, or if a process ends.
    """
    preset = load_preset("nanogpt-shakespeare")
    model = replace(preset.model, vocab_size=vocab_size, dropout=dropout)
    whole = replace(preset, model=model, dtype="float32", micro_batch_size=None)
    theirs = Side(nanogpt, whole)
    ours = [Side(None, replace(preset, model=model, dtype=dtype)) for dtype in DTYPES]
    sides = [theirs, *ours]
    rng = np.random.default_rng(1337)
    for round_ in range(rounds + 1):  # the first one sets up memory
        starts = rng.integers(len(tokens) - model.block_size, size=preset.batch_size)
        batch = windows(tokens, starts, model.block_size)
        for side in (*sides[round_ % 3 :], *sides[: round_ % 3]):  # each is first now and then
            side.step(batch)
        for side, tolerance in zip(ours, (SAME_LOSS, SAME_LOSS_BFLOAT16), strict=True):
            if dropout == 0 and not abs(side.loss - theirs.loss) <= tolerance:
                raise RunError(
                    f"nanoGPT's loss is {theirs.loss:.5f}, ours {side.loss:.5f}: they differ by "
                    f"more than {tolerance}, so no speed is given"
                )
    for side in sides:
        side.close()
    n_tokens = preset.batch_size * model.block_size
    speeds = []
    for dtype, side in zip(DTYPES, ours, strict=True):
        ratios = [a / b for a, b in zip(theirs.seconds[1:], side.seconds[1:], strict=True)]
        medians = [n_tokens / statistics.median(s.seconds[1:]) for s in (theirs, side)]
        speeds.append(Speed(dropout, dtype, *medians, statistics.median(ratios), ratios))
    return speeds


def product(tokens: int, n_in: int, n_out: int) -> Product:
    """Time a linear layer's three matrix products, one by one."""
    x, weight, dy = torch.randn(tokens, n_in), torch.randn(n_out, n_in), torch.randn(tokens, n_out)
    works = (lambda: x @ weight.T, lambda: dy @ weight, lambda: dy.T @ x)
    flops = 2 * tokens * n_in * n_out
    return Product(n_in, n_out, *(flops / median_seconds(work) / 1e9 for work in works))


def median_seconds(work: Callable[[], Tensor], times: int = 30) -> float:
    """Of `times` calls after a first one."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


class Side:
    """A model that trains in a process of its own: nanoGPT's, or ours with the same weights."""

    def __init__(self, nanogpt: Path | None, config: TrainConfig) -> None:
        """nanogpt: the clone; None for our model."""
        self.loss, self.seconds = math.nan, list[float]()
        """Of the last step, and of each."""
        context: Any = multiprocessing.get_context(START_METHOD)
        self.connection, there = context.Pipe()
        arguments = (there, nanogpt, config)
        self.process = context.Process(target=serve_steps, args=arguments, daemon=True)
        # The process loads PyTorch, and with it OpenMP, before gptfast sets the spin count.
        with no_spin_count() if nanogpt else nullcontext():
            self.process.start()
        there.close()  # so that receiving ends if the process does

    def step(self, batch: Batch) -> None:
        """Train on a batch. Raises RunError if the process has ended."""
        try:
            self.connection.send((batch.ids_BT.numpy(), batch.targets_BT.numpy()))
            self.loss, seconds = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RunError(f"a process ended with code {self.process.exitcode}") from None
        self.seconds.append(seconds)

    def close(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()


def serve_steps(connection: Connection, nanogpt: Path | None, config: TrainConfig) -> None:
    """In a process of its own: train on each batch received, send its loss and the seconds.

    None instead of a batch ends it.
    """
    if nanogpt is None:
        keep_freed_memory(torch.device("cpu"))
    step = step_of(nanogpt and load_nanogpt(nanogpt), config)
    while (arrays := connection.recv()) is not None:
        batch = Batch(*map(torch.from_numpy, arrays))
        start = time.perf_counter()
        loss = step(batch)
        connection.send((loss, time.perf_counter() - start))


if __name__ == "__main__":
    sys.exit(cli.run(main))
