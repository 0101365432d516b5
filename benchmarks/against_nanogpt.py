"""nanoGPT and gptfast on the same machine, in the same run, from the same weights and batches.

`python benchmarks/against_nanogpt.py --nanogpt PATH`, with PATH a clone of karpathy/nanoGPT. First
parity: 100 steps of AdamW whose losses have to agree, or no speed is printed. Then tokens/s of its
10M-parameter Shakespeare model, with dropout and without, in turns.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gptfast import cli
from gptfast.data.loader import windows
from gptfast.data.sources import load_corpus
from gptfast.data.split import split_documents
from gptfast.errors import MissingFileError, RunError, UserError
from gptfast.fsync import write_text_atomically
from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import CharTokenizer
from gptfast.train.config import TrainConfig, load_preset
from gptfast.train.loop import accumulate_gradients, gradient_scaler
from gptfast.train.optim import Optimizer
from gptfast.train.record import hardware

PARITY_STEPS = 100
PARITY_TOLERANCE = 1e-3
"""Nats. nanoGPT's GELU is exact, ours is GPT-2's tanh approximation."""
BETAS = (0.9, 0.99)
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.1, 1.0


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
    nanogpt: float
    gptfast: float
    ratio: float
    ratios: list[float]
    """Of each round."""


def main(argv: list[str]) -> int:
    """Compare, print, save. Returns 0, or 1 if the losses disagree."""
    config = cli.parse(Config, argv, "benchmarks/against_nanogpt.py")
    nanogpt = load_nanogpt(config.nanogpt)
    tokens, vocab_size = char_tokens(config.corpus)
    difference = parity(nanogpt, tokens, vocab_size)
    print(f"parity: {PARITY_STEPS} steps, largest difference of losses {difference:.1e} nats")
    speeds = [speed(nanogpt, tokens, vocab_size, p, config.rounds) for p in (0.2, 0.0)]
    for s in speeds:
        print(
            f"10M model, dropout {s.dropout}: nanoGPT {s.nanogpt:,.0f} tokens/s, gptfast "
            f"{s.gptfast:,.0f}: {s.ratio:.2f} x ({min(s.ratios):.2f} to {max(s.ratios):.2f})"
        )
    if config.json:
        result = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "hardware": hardware(),
            "torch": torch.__version__,
            "parity": {"steps": PARITY_STEPS, "largest_difference": difference},
            "speed": [asdict(s) for s in speeds],
        }
        write_text_atomically(config.json, json.dumps(result, indent=2) + "\n")
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
    theirs = nanogpt.GPT(
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


def their_step(model: Any, config: ModelConfig) -> Callable[[Tensor, Tensor], float]:
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


def our_step(model: GPT, config: TrainConfig) -> Callable[[Tensor, Tensor], float]:
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
    nanogpt: ModuleType, tokens: np.ndarray, vocab_size: int, dropout: float, rounds: int
) -> Speed:
    """Tokens/s of training nanoGPT's 10M-parameter Shakespeare model, in turns."""
    preset = load_preset("nanogpt-shakespeare")
    config = replace(preset, model=replace(preset.model, vocab_size=vocab_size, dropout=dropout))
    theirs, ours = twins(nanogpt, config.model)
    steps = their_step(theirs, config.model), our_step(ours, config)
    rng = np.random.default_rng(1337)
    T = config.model.block_size
    seconds: list[list[float]] = [[], []]
    for round_ in range(rounds + 1):
        x_BT, y_BT = windows(tokens, rng.integers(len(tokens) - T, size=config.batch_size), T)
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step(x_BT, y_BT)
            if round_ > 0:  # the first one sets up memory
                times.append(time.perf_counter() - start)
    n_tokens = config.batch_size * T
    medians = [n_tokens / statistics.median(times) for times in seconds]
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    return Speed(dropout, *medians, statistics.median(ratios), ratios)


if __name__ == "__main__":
    sys.exit(cli.run(main))
