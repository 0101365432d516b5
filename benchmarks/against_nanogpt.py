"""nanoGPT and gptfast on the same machine, in the same run, from the same weights and batches.

`python benchmarks/against_nanogpt.py --nanogpt PATH`, with PATH a clone of karpathy/nanoGPT. First
parity: 100 steps of AdamW whose losses have to agree, or no speed is printed. Then tokens/s of its
10M-parameter Shakespeare model, with dropout and without, step by step in turns, each in a process
of its own as its own training does it, uncompiled: ours in micro-batches, with its allocator
settings. On a CPU nanoGPT's train.py knows float32 only; ours is measured in bfloat16, too. Last,
how fast the model's matrix products are alone, which both have to make.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gptfast.cli import cli
from gptfast.data.loader import windows
from gptfast.data.sources import load_corpus
from gptfast.data.split import split_documents
from gptfast.errors import MissingFileError, RunError, UserError
from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import CharTokenizer
from gptfast.train.config import TrainConfig, load_preset
from gptfast.train.hardware import keep_freed_memory
from gptfast.train.loop import accumulate_gradients, gradient_scaler
from gptfast.train.optim import Optimizer
from saving import save_results

Dtype = Literal["float32", "bfloat16"]
Step = Callable[[Tensor, Tensor], float]
"""Trains on inputs and targets (B, T); returns the loss."""

PARITY_STEPS = 100
PARITY_TOLERANCE = 1e-3
"""Nats. nanoGPT's GELU is exact, ours is GPT-2's tanh approximation."""
BETAS = (0.9, 0.99)
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.1, 1.0
MATRICES = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
"""The linear layers of a block, (in, out)."""
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
    alone = [product(tokens=2048, n_in=i, n_out=o) for i, o in MATRICES]
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


def load_nanogpt(folder: Path) -> ModuleType:
    """nanoGPT's model.py as a module."""
    path = folder / "model.py"
    if not path.is_file():
        raise MissingFileError(f"no model.py in {folder}: expected a clone of karpathy/nanoGPT")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} can't be imported: expected a clone of karpathy/nanoGPT")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def char_tokens(corpus: str) -> tuple[np.ndarray, int]:
    """The first 90% of a text, an id for each character, and the number of distinct ones."""
    documents = load_corpus(corpus).documents
    train, _ = split_documents(documents, 0.1)
    tokenizer = CharTokenizer.train("".join(documents))
    return tokenizer.encode_to_numpy("".join(train)), tokenizer.n_vocab


def twins(nanogpt: ModuleType, config: ModelConfig) -> tuple[nn.Module, GPT]:
    """nanoGPT's model of a configuration, and ours with the same weights."""
    torch.manual_seed(1337)
    theirs: nn.Module = nanogpt.GPT(
        nanogpt.GPTConfig(
            block_size=config.block_size, vocab_size=config.vocab_size, n_layer=config.n_layer,
            n_head=config.n_head, n_embd=config.n_embd, dropout=config.dropout, bias=config.bias,
        )
    )  # fmt: skip
    ours = GPT(config)
    state = {n.removeprefix("transformer."): t for n, t in theirs.state_dict().items()}
    del state["lm_head.weight"]  # tied
    ours.load_state_dict(state)
    return theirs, ours


def their_step(model: Any, config: ModelConfig) -> Step:
    """A step of nanoGPT's training loop, with its own optimizer."""
    optimizer = model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")

    def step(x_BT: Tensor, y_BT: Tensor) -> float:
        _, loss = model(x_BT, y_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step


def our_step(model: GPT, config: TrainConfig) -> Step:
    """A step of ours: what train/loop.py does."""
    optimizer = Optimizer(model, LEARNING_RATE, None, WEIGHT_DECAY, beta2=BETAS[1])
    scaler = gradient_scaler(config, torch.device("cpu"))

    def step(x_BT: Tensor, y_BT: Tensor) -> float:
        loss = accumulate_gradients(model, x_BT, y_BT, config, scaler)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step(1.0)
        return loss.item()

    return step


def parity(nanogpt: ModuleType, tokens: np.ndarray, vocab_size: int) -> float:
    """Train both on the same batches; return the largest difference of their losses.

    Raises RunError if it is above the tolerance.
    """
    model = ModelConfig(vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False)
    config = TrainConfig(tokenizer="char", model=model, batch_size=12)
    theirs, ours = twins(nanogpt, model)
    steps = their_step(theirs, model), our_step(ours, config)
    rng = np.random.default_rng(1337)
    largest = 0.0
    for number in range(PARITY_STEPS):
        x_BT, y_BT = windows(tokens, rng.integers(len(tokens) - 64, size=12), 64)
        loss, our_loss = (step(x_BT, y_BT) for step in steps)
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
    theirs = Side(nanogpt, replace(preset, model=model), is_ours=False)
    ours = [Side(nanogpt, replace(preset, model=model, dtype=d), is_ours=True) for d in DTYPES]
    sides = [theirs, *ours]
    rng = np.random.default_rng(1337)
    for round_ in range(rounds + 1):  # the first one sets up memory
        starts = rng.integers(len(tokens) - model.block_size, size=preset.batch_size)
        batch = windows(tokens, starts, model.block_size)
        for side in (*sides[round_ % 3 :], *sides[: round_ % 3]):  # each is first now and then
            side.step(*batch)
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

    def __init__(self, nanogpt: Path, config: TrainConfig, is_ours: bool) -> None:
        self.loss, self.seconds = math.nan, list[float]()
        """Of the last step, and of each."""
        spawn = multiprocessing.get_context("spawn")
        self.connection, there = spawn.Pipe()
        arguments = there, nanogpt, config, is_ours
        self.process = spawn.Process(target=serve_steps, args=arguments, daemon=True)
        self.process.start()
        there.close()  # so that receiving ends if the process does

    def step(self, x_BT: Tensor, y_BT: Tensor) -> None:
        """Train on a batch. Raises RunError if the process has ended."""
        try:
            self.connection.send((x_BT.numpy(), y_BT.numpy()))
            self.loss, seconds = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RunError(f"a process ended with code {self.process.exitcode}") from None
        self.seconds.append(seconds)

    def close(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()


def serve_steps(connection: Connection, nanogpt: Path, config: TrainConfig, is_ours: bool) -> None:
    """In a process of its own: train on each batch received, send its loss and the seconds.

    Our model, or nanoGPT's with the same weights. None instead of a batch ends it.
    """
    theirs, ours = twins(load_nanogpt(nanogpt), config.model)
    if is_ours:
        keep_freed_memory(torch.device("cpu"))
        step = our_step(ours, config)
    else:
        step = their_step(theirs, config.model)
    while (batch := connection.recv()) is not None:
        x_BT, y_BT = (torch.from_numpy(array) for array in batch)
        start = time.perf_counter()
        loss = step(x_BT, y_BT)
        connection.send((loss, time.perf_counter() - start))


if __name__ == "__main__":
    sys.exit(cli.run(main))
