"""Predict the cost of a run before it starts: parameters, FLOPs, memory, tokens, time."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gptfast.data.dataset import is_prepared
from gptfast.data.loader import EvalWindows, windows
from gptfast.model import GPT, build_model
from gptfast.model.device import resolve_device
from gptfast.model.size import flops_per_token, n_parameters
from gptfast.ops.logit_chunks import tokens_at_a_time
from gptfast.system.memory import keep_freed_memory
from gptfast.tokenizer import load_tokenizer
from gptfast.train.config import TrainConfig
from gptfast.train.evaluate import evaluate
from gptfast.train.freeze import freeze
from gptfast.train.objective import NextToken
from gptfast.train.optim import build_optimizer, optimizer_bytes
from gptfast.train.pretrain import new_model
from gptfast.train.run import set_up
from gptfast.train.step import StepResult, autocast, gradient_scaler, train_step

OPTIMAL_TOKENS_PER_PARAMETER = 20
"""Gives the lowest loss for a given compute ("Chinchilla", Hoffmann et al., 2022, table 3)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that training needs, without those of PyTorch itself."""

    weights: int
    gradients: int
    optimizer: int
    """State of the optimizer. AdamW keeps two numbers per parameter, Muon one."""
    activations: int
    """Activations of a micro-batch for the backward pass, and the logits of a chunk of the loss."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """The cost of a run, computed from its configuration."""

    parameters: int
    forward_flops: int
    """Operations of the forward pass per token. Training takes three times as many."""
    memory: Memory
    tokens: int
    """Number of tokens that the configured steps train on."""
    tokens_per_step: int
    optimal_tokens: int
    """Number of tokens with the lowest loss for their compute. N-gram embeddings and experts that a
    token doesn't use cost no compute, so their parameters don't count."""

    @property
    def training_flops(self) -> int:
        """Operations of the whole run, without evaluations."""
        return 3 * self.forward_flops * self.tokens


@dataclass(frozen=True)
class Probe:
    """Times measured over a few real steps on this machine."""

    step_seconds: float
    """Mean time of a step. The time of a run is a sum, so slow steps count."""
    steps: int
    """Number of measured steps."""
    first_step_seconds: float
    """Time of the first micro-batch, which allocates memory and compiles if configured."""
    eval_seconds: float
    """Time of one evaluation of the val loss."""
    seconds: float
    """Predicted time of the whole run: the first micro-batch, the steps and the evaluations, except
    the last evaluation on the whole split."""


def plan(config: TrainConfig) -> Plan:
    """Compute the plan of a run without running the model. Supports only architecture 'gpt'."""
    tokens_per_step = config.batch_size * config.model.block_size
    model = config.model
    at_work = replace(model, max_ngram=1, n_expert=model.n_expert and model.n_expert_active)
    return Plan(
        n_parameters(model),
        flops_per_token(model),
        memory(config),
        tokens_per_step * config.max_steps,
        tokens_per_step,
        OPTIMAL_TOKENS_PER_PARAMETER * n_parameters(at_work),
    )


def memory(config: TrainConfig) -> Memory:
    """Return the memory of a run.

    Weights, gradients and optimizer state are counted; activations come from a forward pass of fake
    tensors.
    """
    with torch.device("meta"):
        model = build_model(config.model)
    freeze(model, config.freeze)
    return Memory(
        weights=sum(4 * p.numel() for p in model.parameters()),
        gradients=sum(4 * p.numel() for p in model.parameters() if p.requires_grad),
        optimizer=optimizer_bytes(config, model),
        activations=_activations(config) + _loss(config),
    )


def _activations(config: TrainConfig) -> int:
    """Return the bytes that autograd keeps for the forward pass of a micro-batch.

    PyTorch's fake tensors have shapes and storages but no data, so this takes a second or two and
    no memory for a model of any size.
    """
    kept: dict[int, int] = {}
    device = resolve_device(config.device).type
    with FakeTensorMode(), torch.device(device):
        model = GPT(config.model)
        model.activation_checkpointing = config.activation_checkpointing
        parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        ids_BT = torch.zeros(
            config.windows_at_a_time(), config.model.block_size, dtype=torch.long
        )  # fmt: skip

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        with (
            autocast(config.resolved_dtype, torch.device(device)),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            kept_alive = model.hidden(ids_BT)
    del kept_alive
    return sum(kept.values())


def _loss(config: TrainConfig) -> int:
    """Return the bytes that `ops.linear_cross_entropy` needs with PyTorch's operators.

    These are the gradients of both inputs and two copies of a chunk of logits. With autocast, the
    weights and the chunk are also kept in the narrow dtype.
    """
    n_tokens = config.windows_at_a_time() * config.model.block_size
    V, C = config.model.vocab_size, config.model.n_embd
    dtype: torch.dtype = getattr(torch, config.resolved_dtype)
    device = resolve_device(config.device)
    chunk = min(n_tokens, tokens_at_a_time(C, dtype, device, use_triton=False))
    narrow = dtype.itemsize if dtype != torch.float32 else 0
    return n_tokens * C * dtype.itemsize + V * C * (4 + narrow) + V * chunk * (4 + 4 + narrow)


def probe(config: TrainConfig, seconds: float) -> Probe:
    """Train on random tokens for about `seconds`, and evaluate.

    Each measured step has one micro-batch, whose gradients and update are timed separately. The
    time of a whole step is that of all its micro-batches, which take equally long, and one update.
    The first step is not counted, and at least one more step is taken. An evaluation is timed on
    two batches the size of a micro-batch.
    """
    device = resolve_device(config.device)
    keep_freed_memory(device)
    model = set_up(new_model(config, config.model.vocab_size, device), config)
    freeze(model, config.freeze)
    optimizer = build_optimizer(config, model)
    T, n_rows = config.model.block_size, config.windows_at_a_time()
    n_evaluated = min(config.eval_windows, 2 * n_rows)
    n_windows = max(n_rows, n_evaluated)
    tokens = np.random.default_rng(0).integers(config.model.vocab_size, size=n_windows * T + 1)
    separator = 0 if config.mask_documents else None
    batch = windows(tokens.astype(np.uint32), np.arange(n_rows) * T, T, separator)
    scaler = gradient_scaler(config.resolved_dtype, device)
    computed = 0.0  # time at which the gradients of the last step were ready

    def note(_: StepResult) -> None:
        nonlocal computed
        computed = time.perf_counter()

    def step() -> float:
        start = time.perf_counter()
        train_step(
            model, batch, optimizer, NextToken(), scaler,
            lr_factor=0.0, grad_clip=config.grad_clip, dtype=config.resolved_dtype, check=note,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return config.micro_batches() * (computed - start) + time.perf_counter() - computed

    start = time.perf_counter()
    step()
    first_step_seconds = time.perf_counter() - start
    times: list[float] = []  # seconds per whole step
    deadline = time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        times.append(step())
    start = time.perf_counter()
    evaluate(model, EvalWindows(tokens.astype(np.uint32), T, n_rows, n_evaluated, separator))
    eval_seconds = (time.perf_counter() - start) * config.eval_windows / n_evaluated
    eval_seconds *= 1 + len(config.mix_corpora)
    step_seconds = statistics.fmean(times)
    n_evaluations = math.ceil(config.max_steps / config.eval_interval) + 1
    total = first_step_seconds + config.max_steps * step_seconds + n_evaluations * eval_seconds
    return Probe(step_seconds, len(times), first_step_seconds, eval_seconds, total)


def with_vocabulary(config: TrainConfig, n_characters: int) -> TrainConfig:
    """Return the configuration with the vocabulary size that its tokenizer will have.

    A character tokenizer is assumed to have `n_characters` ids. Raises UserError or
    MissingFileError if the tokenizer can't be loaded.
    """
    if is_prepared(Path(config.corpus)):
        n_vocab = load_tokenizer(Path(config.corpus)).n_vocab
    elif config.tokenizer == "bpe":
        n_vocab = config.model.vocab_size
    elif config.tokenizer == "char":
        n_vocab = n_characters
    else:
        n_vocab = load_tokenizer(Path(config.tokenizer)).n_vocab
    return replace(config, model=config.model_config(n_vocab))
