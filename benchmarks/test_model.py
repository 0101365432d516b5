"""Tokens/s of training and of sampling, for small models on whatever device there is.

The backends run side by side: compare ratios within a run, not figures between machines.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gptfast.data.batch import Batch
from gptfast.model import GPT, ModelConfig
from gptfast.ops import use_backend
from gptfast.sample.generate import SamplingConfig, generate
from gptfast.train.objective import NextToken
from gptfast.train.optim import Optimizer
from gptfast.train.step import gradient_scaler, train_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = ModelConfig(vocab_size=1024, block_size=128, n_layer=4, n_head=4, n_embd=128)
BACKENDS = ["torch", "reference"] + (["triton"] if DEVICE == "cuda" else [])


@pytest.mark.parametrize("kernels", BACKENDS)
def test_training_step(benchmark: Any, kernels: str) -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG).to(DEVICE)
    optimizer = Optimizer(model, 1e-3, 0.02, 0.1)
    scaler = gradient_scaler("float32", torch.device(DEVICE))
    ids = torch.randint(CONFIG.vocab_size, (16, CONFIG.block_size + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    losses = []

    def step() -> None:
        with use_backend(kernels):
            losses.append(train_step(model, batch, optimizer, NextToken(), scaler).loss)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info.update(amount=batch.ids_BT.numel(), unit="tokens")
    benchmark.pedantic(step, rounds=15, warmup_rounds=3)
    # A step that computes nothing would be quick: the first loss is a uniform guess, and the one
    # batch is being learned.
    assert losses[0] == pytest.approx(math.log(CONFIG.vocab_size), abs=0.1)
    assert losses[-1] < losses[0] - 0.5


def test_sampling(benchmark: Any) -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG).to(DEVICE).eval()
    greedy = SamplingConfig(temperature=0)

    def sample() -> list[int]:
        return list(generate(model, [1], 100, sampling=greedy, seed=0))

    benchmark.extra_info.update(amount=100, unit="tokens")
    tokens = benchmark.pedantic(sample, rounds=10, warmup_rounds=1)
    expected = model(torch.tensor([[1, *tokens[:-1]]], device=DEVICE)).argmax(-1)[0]
    assert tokens == expected.tolist()
