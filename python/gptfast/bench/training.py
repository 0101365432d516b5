"""Training on a GPU: nanoGPT's Shakespeare model to its end, and the speed of GPT-2 124M.

Needs PyTorch and Triton only, like the rest of this room: the text is given as a file, and its
characters are numbered here.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gptfast.bench.nanogpt import NanoGPTLoss, load_nanogpt, twin_of
from gptfast.bench.report import machine
from gptfast.bench.training_report import OURS, THEIRS, Curve, Report, Speed, plot
from gptfast.data.batch import Batch
from gptfast.data.loader import EvalWindows, Loader
from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, ModelConfig
from gptfast.ops import use_backend
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate
from gptfast.train.config import Dtype, load_preset
from gptfast.train.evaluate import evaluate
from gptfast.train.objective import NextToken, Objective
from gptfast.train.optim import Optimizer
from gptfast.train.step import autocast, gradient_scaler, train_step

SAME_LOSS, SAME_LOSS_FLOAT32 = 0.05, 1e-3
"""Nats between the losses of two implementations, some steps after the same start in bfloat16, and
in float32, as in a rehearsal. nanoGPT's GELU is exact, ours is GPT-2's tanh approximation."""
LEARNING_RATE = 6e-4
_TINY: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 32, "block_size": 16}
"""The models of a rehearsal."""


def run(out: Path, data: Path, nanogpt: Path | None, seconds: float, rehearse: bool) -> Report:
    """Train and measure. After `seconds`, begin nothing new: the report lists what was not run.

    Raises MissingFileError if there is no text or no nanoGPT where they should be, UserError if the
    text can't be trained on.
    """
    preset = load_preset("nanogpt-shakespeare").model
    text = _read(data, _TINY["block_size"] if rehearse else preset.block_size)
    if nanogpt is not None and not (nanogpt / "model.py").is_file():
        raise MissingFileError(f"no model.py in {nanogpt}: expected a clone of karpathy/nanoGPT")
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    report = Report(machine())
    if rehearse:
        report.machine["rehearsal"] = (
            "tiny models on the CPU; Triton's kernels in its interpreter, never compiled"
        )
    for name, part in _parts(report, text, nanogpt, rehearse, deadline):
        if time.monotonic() > deadline:
            report.not_run.append(name)
        else:
            print(f"{name} ...", flush=True)
            part()
        report.save(out)
    if report.shakespeare is not None:
        plot(report.shakespeare, out / "train.png")
    return report


def _parts(
    report: Report, text: str, nanogpt: Path | None, rehearse: bool, deadline: float
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield (name, function) for each part, the most important first."""
    cases = [(OURS, k, compiled) for compiled in (True, False) for k in ("auto", "torch", "triton")]
    if nanogpt is not None:
        cases = [(THEIRS, "torch", True), *cases, (THEIRS, "torch", False)]

    def add_speed(case: tuple[str, str, bool]) -> Callable[[], None]:
        def add() -> None:
            right = (s.loss for s in report.speeds if s.loss is not None and not s.reason)
            expected = next(right, None)
            report.speeds.append(measure_speed(*case, nanogpt, rehearse, expected))

        return add

    def add_curve() -> None:
        curve, is_whole = train_shakespeare(text, rehearse, deadline)
        report.shakespeare = curve
        if not is_whole:
            report.not_run.append(f"nanogpt-shakespeare after step {curve.steps[-1]}")

    names = [f"GPT-2 124M, {who}, {k}, {'compiled' if c else 'eager'}" for who, k, c in cases]
    speeds = [(name, add_speed(case)) for name, case in zip(names, cases, strict=True)]
    compiled = sum(compiled for *_, compiled in cases)
    yield from speeds[:compiled]
    yield "nanogpt-shakespeare", add_curve
    yield from speeds[compiled:]


# ---- GPT-2 124M ----------------------------------------------------------------------------------


def measure_speed(
    implementation: str,
    kernels: str,
    compiled: bool,
    nanogpt: Path | None,
    rehearse: bool,
    expected: float | None,
) -> Speed:
    """Tokens/s and peak memory of training steps. Whatever goes wrong becomes the reason.

    expected: the loss that another implementation had after the same steps, if one ran.
    """
    about = (implementation, kernels, compiled)
    try:
        with use_backend(kernels):
            result = Speed(*about, *_time_steps(*about, nanogpt, rehearse))
    except Exception as error:  # one failure is a finding, not the end
        reason = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
        result = Speed(*about, reason=reason)
    if result.loss is not None:
        wrong = _wrong_loss(result.loss, expected, rehearse)
        result = Speed(*about, result.loss, reason=wrong) if wrong else result
    torch.compiler.reset()
    if torch.cuda.is_available():
        gc.collect()  # a compiled model refers to itself
        torch.cuda.empty_cache()
    print(f"  {result}", flush=True)
    return result


def _wrong_loss(loss: float, expected: float | None, rehearse: bool) -> str | None:
    tolerance = SAME_LOSS_FLOAT32 if rehearse else SAME_LOSS
    is_right = math.isfinite(loss) if expected is None else abs(loss - expected) <= tolerance
    if is_right:
        return None
    wanted = "a number" if expected is None else f"that of the first that ran, {expected:.4f}"
    return f"the loss after {_steps_first(rehearse)} steps is {loss:.4f}, expected {wanted}"


def _steps_first(rehearse: bool) -> int:
    """How many steps come before those that are timed: for compiling, and for their losses."""
    return 2 if rehearse else 5


def _time_steps(
    implementation: str, kernels: str, compiled: bool, nanogpt: Path | None, rehearse: bool
) -> tuple[float, float | None, int | None]:
    """Return the last warm-up loss, tokens/s, and peak memory in bytes."""
    device = "cpu" if rehearse else "cuda"
    config = load_preset("gpt2-124m").model_config(50304)  # nanoGPT's vocabulary, a multiple of 64
    n_windows = 16
    if rehearse:
        config, n_windows = replace(config, vocab_size=64, **_TINY), 1
    config = replace(config, dropout=0.0, bias=False)
    torch.manual_seed(1337)
    model, objective = _build(implementation, config, nanogpt)
    model.to(device)
    optimizer = Optimizer(model, LEARNING_RATE, None, weight_decay=0.1)
    if compiled and not (rehearse and kernels == "triton"):  # the interpreter can't be compiled
        # "aot_eager" traces as "inductor" does, and needs no C++ compiler and no seconds.
        model.compile(backend="aot_eager" if rehearse else "inductor")
    generator = torch.Generator().manual_seed(1337)
    shape = (n_windows, config.block_size + 1)
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    dtype = _dtype(rehearse)
    scaler = gradient_scaler(dtype, torch.device(device))

    def step() -> tuple[float, float]:
        """Return the seconds it took, and its loss."""
        start = time.perf_counter()
        result = train_step(model, batch, optimizer, objective, scaler, dtype=dtype)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, result.loss

    for _ in range(_steps_first(rehearse)):
        _, loss = step()
    if rehearse:
        return loss, None, None
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(step()[0] for _ in range(20))
    return loss, ids[:, 1:].numel() / seconds, torch.cuda.max_memory_allocated()


def _build(
    implementation: str, config: ModelConfig, nanogpt: Path | None
) -> tuple[nn.Module, Objective]:
    """Return a model and its objective; of the same weights for a seed."""
    ours = GPT(config)
    if implementation == OURS or nanogpt is None:
        return ours, NextToken()
    return twin_of(ours, load_nanogpt(nanogpt)), NanoGPTLoss()


def _dtype(rehearse: bool) -> Dtype:
    return "float32" if rehearse else "bfloat16"


# ---- nanogpt-shakespeare -------------------------------------------------------------------------


def _read(data: Path, block_size: int) -> str:
    if not data.is_file():
        raise MissingFileError(f"no text at {data}: expected a file such as tinyshakespeare.txt")
    try:
        text = data.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{data} is not UTF-8 ({error}): expected a text") from error
    least = 10 * (block_size + 1)
    if len(text) < least:
        raise UserError(
            f"{data} has {len(text):,} characters: expected at least {least:,}, as a tenth of them "
            f"is validated on"
        )
    return text


def train_shakespeare(text: str, rehearse: bool, deadline: float) -> tuple[Curve, bool]:
    """Train the preset on a text's characters, nanoGPT's own split, and let it write.

    The second value is whether it came to its end before time.monotonic() was at the deadline.
    """
    device = "cpu" if rehearse else "cuda"
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    ids = np.array([number[character] for character in text], dtype=np.uint16)
    train, val = np.split(ids, [int(len(ids) * 0.9)])
    config = load_preset("nanogpt-shakespeare")
    if rehearse:
        model_config = replace(config.model, **_TINY)
        config = replace(config, model=model_config, max_steps=4, eval_interval=2, batch_size=8)
    torch.manual_seed(config.seed)
    model = GPT(config.model_config(len(characters))).to(device)
    optimizer = Optimizer(
        model, config.learning_rate, None, config.weight_decay, beta2=config.beta2
    )
    if not rehearse:
        model.compile()
    loader = Loader([train], config.model.block_size, config.batch_size, config.seed)
    dtype = _dtype(rehearse)
    scaler = gradient_scaler(dtype, torch.device(device))
    n_val = 4 if rehearse else None
    val_windows = EvalWindows(val, config.model.block_size, config.batch_size, n_val)
    curve = Curve(parameters=model.n_parameters())
    training_seconds = 0.0
    step, is_last = 0, False
    while not is_last:
        is_last = step == config.max_steps or time.monotonic() > deadline
        if step % config.eval_interval == 0 or is_last:
            with autocast(dtype, torch.device(device)):
                val_loss = evaluate(model, val_windows)
            curve.steps.append(step)
            curve.val_losses.append(val_loss)
            curve.seconds.append(training_seconds)
            print(f"  step {step}: val loss {val_loss:.4f}", flush=True)
        if not is_last:
            start = time.perf_counter()
            train_step(
                model, loader.next_batch(), optimizer, NextToken(), scaler,
                lr_factor=config.lr_factor(step), grad_clip=config.grad_clip, dtype=dtype,
            )  # fmt: skip
            if device == "cuda":
                torch.cuda.synchronize()
            training_seconds += time.perf_counter() - start
            step += 1
            if step == 1:
                curve.first_step_seconds = training_seconds
    if step > 1 and not rehearse:
        tokens = (step - 1) * config.batch_size * config.model.block_size
        curve.tokens_per_second = tokens / (training_seconds - curve.first_step_seconds)
    length = 40 if rehearse else 500
    written = generate(
        model.eval(), [number.get("\n", 0)], length,
        sampling=SamplingConfig(temperature=1.0), seed=1337,
    )  # fmt: skip
    curve.sample = "".join(characters[i] for i in written)
    return curve, step == config.max_steps
