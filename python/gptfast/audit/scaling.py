"""Train one model in several sizes with the same code, tokens and seeds, and measure each.

Each run is `gptfast train` in a separate process, so that its peak memory can be measured. A
finished run is not repeated.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.audit import repetition
from gptfast.audit.config import SETTINGS, RepetitionPlan
from gptfast.audit.corpus import read_corpus
from gptfast.audit.power_law import PowerLaw, Prediction, fit_power_law, predict
from gptfast.audit.scaling_options import HEAD_WIDTH, ScalingConfig
from gptfast.errors import RunError, UserError
from gptfast.model.config import ModelConfig
from gptfast.model.folder import load_model
from gptfast.model.size import flops_per_token
from gptfast.system.files import make_folder
from gptfast.train.config import TrainConfig
from gptfast.train.plan import plan
from gptfast.train.record import read_record

BATCH_SIZE = 16
"""Windows per step, in every size."""
TARGET_COMPUTE = 4.0
"""Compute of the model whose loss is predicted, over that of the largest one that was fitted."""
SAMPLES = RepetitionPlan(samples=8, sets=2, prompt_tokens=16, sample_tokens=64)
_REFERENCE_WIDTH = 128
"""The width that the learning rates were chosen for: `shakespeare-cpu`'s."""


@dataclass(frozen=True)
class Writing:
    """What a model writes at temperature 0.8, as `audit/repetition.py` measures it."""

    val_seq_rep_4: float
    seq_rep_4: float
    """Share of 4-grams of tokens that repeat another: in the val text, and in samples."""
    val_known_words: float
    known_words: float
    """Share of words that the train part has: of the val text's, and of the samples'."""
    sample: str


@dataclass(frozen=True)
class Run:
    """What one model reached, and what it cost."""

    size: int
    """Width in channels."""
    seed: int
    parameters: int
    matrix_parameters: int
    """Parameters of the matrices and of the output: those that cost compute for each token."""
    tokens: int
    epochs: float
    """Passes over the train part. Beyond 1, data repeats, and the loss falls more slowly."""
    compute: float
    """FLOPs of training."""
    val_loss: float
    """Nats per token over the whole val part."""
    bits_per_byte: float
    tokens_per_second: float
    memory: int
    """Peak resident bytes of the process, less those of one that trains a model of 16 channels."""
    planned_memory: int
    """Bytes that `gptfast plan` predicts."""
    writing: Writing


@dataclass(frozen=True)
class Law:
    """A fitted scaling law, and the run that puts it to the test."""

    law: PowerLaw
    prediction: Prediction
    target: Run
    """Trained once, with the first seed, after the prediction."""

    @property
    def is_inside(self) -> bool:
        """Whether the loss that was reached lies within the predicted interval."""
        return self.prediction.low <= self.target.val_loss <= self.prediction.high

    @property
    def error(self) -> float:
        """The predicted loss over the reached one, less 1."""
        return self.prediction.loss / self.target.val_loss - 1


@dataclass(frozen=True)
class Scaling:
    """The runs of an audit, the smallest first, and the law if one was fitted."""

    runs: list[Run]
    law: Law | None

    def to_json(self) -> dict[str, Any]:
        """Return all numbers."""
        content = asdict(self)
        if self.law is not None:
            content["law"] |= {"is_inside": self.law.is_inside, "error": self.law.error}
        return content


def measure(config: ScalingConfig, say: Callable[[str], None]) -> Scaling:
    """Train all sizes and seeds, and with config.fit the target.

    say: receives a line for each run. Raises RunError if a run fails, and UserError for losses that
    no law fits.
    """
    make_folder(config.out)
    own_memory = _memory_of_the_process(config, say)
    sizes = sorted(config.sizes)
    runs = [_run(config, size, seed, own_memory, say) for size in sizes for seed in config.seeds]
    if not config.fit:
        return Scaling(runs, None)
    compute = np.array([next(r.compute for r in runs if r.size == size) for size in sizes])
    losses = np.array([[r.val_loss for r in runs if r.size == size] for size in sizes])
    law = fit_power_law(compute, losses.mean(1))
    size = target_size(config)
    target = training(config, size, config.seeds[0])
    flops = 3.0 * flops_per_token(target.model) * _tokens(target)
    prediction = predict(compute, losses, flops, target_seeds=1)
    say(
        f"predicted for size {size} at {flops / compute[-1]:.1f} times the compute: "
        f"{prediction.loss:.4f} nats ({prediction.low:.4f} to {prediction.high:.4f})"
    )
    target_run = _run(config, size, config.seeds[0], own_memory, say)
    return Scaling(runs, Law(law, prediction, target_run))


def target_size(config: ScalingConfig) -> int:
    """Return the width whose compute is nearest to 4 times that of the largest size."""

    def compute(size: int) -> float:
        run = training(config, size, 0)
        return flops_per_token(run.model) * _tokens(run)

    largest = max(config.sizes)
    wider = range(largest + HEAD_WIDTH, 4 * largest + 1, HEAD_WIDTH)
    return min(wider, key=lambda size: abs(compute(size) / compute(largest) - TARGET_COMPUTE))


def training(config: ScalingConfig, size: int, seed: int) -> TrainConfig:
    """Return the settings of a run.

    AdamW's learning rate falls with the width to the power 0.75; Muon's updates have a norm that
    does not depend on the width, so its rate stays.
    """
    model = ModelConfig(
        vocab_size=config.vocab_size, block_size=config.block_size, n_layer=config.n_layer,
        n_head=size // HEAD_WIDTH, n_embd=size,
    )  # fmt: skip
    tokens = config.tokens_per_parameter * matrix_parameters(model) if config.fit else config.tokens
    steps = max(round(tokens / (BATCH_SIZE * config.block_size)), 1)
    return TrainConfig(
        corpus=config.corpus, tokenizer="bpe", model=model, max_steps=steps, batch_size=BATCH_SIZE,
        learning_rate=6e-3 * (_REFERENCE_WIDTH / size) ** 0.75, matrix_learning_rate=0.03,
        warmup_steps=min(100, steps // 5), eval_interval=max(steps // 10, 1), seed=seed,
        dtype=config.dtype, out=config.out / f"size-{size}-seed-{seed}",
    )  # fmt: skip


def matrix_parameters(model: ModelConfig) -> int:
    """Return the number of parameters of the matrices and of the output (V C)."""
    attention = 2 * model.n_layer * model.n_embd * model.block_size  # products of q k^T and with v
    return flops_per_token(model) // 2 - attention


def _tokens(config: TrainConfig) -> int:
    return config.max_steps * config.batch_size * config.model.block_size


def _run(
    config: ScalingConfig, size: int, seed: int, own_memory: int, say: Callable[[str], None]
) -> Run:
    """Train one model, unless it is there, and measure it."""
    run = training(config, size, seed)
    _train(run, say)
    record = read_record(run.out)
    result = record["result"]
    planned = plan(run)
    say(f"size {size}, seed {seed}: {result['val_loss']:.4f} nats per token")
    return Run(
        size, seed, planned.parameters, matrix_parameters(run.model), planned.tokens,
        planned.tokens / record["data"]["train_tokens"], float(planned.training_flops),
        result["val_loss"], result["measured"]["val_bits_per_byte"], result["tokens_per_second"],
        max(_peak_memory(run.out) - own_memory, 0), planned.memory.total,
        _writing(run.out),
    )  # fmt: skip


def _writing(folder: Path) -> Writing:
    """Let a model continue stretches of its val part, and measure what it writes."""
    model, tokenizer = load_model(folder)
    val, train = read_corpus(folder, tokenizer, None, lambda message: None)
    settings = {"T 0.8": SETTINGS["T 0.8"]}
    text, samples = repetition.measure(model, tokenizer, val, train, SAMPLES, settings).rows
    return Writing(
        text.measures["seq_rep_4"], samples.measures["seq_rep_4"],
        text.measures["known_words"], samples.measures["known_words"], samples.example,
    )  # fmt: skip


def _train(run: TrainConfig, say: Callable[[str], None]) -> None:
    """Run `gptfast train` in a process, unless its folder is finished.

    Raises UserError for a run of another length in the folder, which `--resume` would prolong.
    """
    if (run.out / "run.json").is_file():
        steps = read_record(run.out)["config"].get("max_steps")
        if steps != run.max_steps:
            raise UserError(
                f"{run.out} has a run of {steps} steps: expected {run.max_steps}; choose another "
                f"--out, or remove it"
            )
    words = [str(word) for word in (
        "--corpus", run.corpus, "--tokenizer", "bpe", "--vocab-size", run.model.vocab_size,
        "--block-size", run.model.block_size, "--n-layer", run.model.n_layer,
        "--n-head", run.model.n_head, "--n-embd", run.model.n_embd, "--max-steps", run.max_steps,
        "--batch-size", run.batch_size, "--learning-rate", f"{run.learning_rate:.6g}",
        "--matrix-learning-rate", run.matrix_learning_rate, "--warmup-steps", run.warmup_steps,
        "--eval-interval", run.eval_interval, "--sample-interval", 0, "--seed", run.seed,
        "--dtype", run.dtype,
        "--out", run.out, "--resume",
    )]  # fmt: skip
    say(f"$ gptfast train {shlex.join(words)}")
    command = [sys.executable, "-m", "gptfast.train", *words]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        error = UserError if done.returncode == 2 else RunError
        raise error(f"training {run.out} ended with exit code {done.returncode}: see above")


def _peak_memory(folder: Path) -> int:
    """Return the largest peak that a run's metrics.jsonl has, in bytes."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return max(int(json.loads(line).get("peak_memory", 0)) for line in lines)


def _memory_of_the_process(config: ScalingConfig, say: Callable[[str], None]) -> int:
    """Return the peak resident bytes of training a model that needs next to nothing itself."""
    run = training(config, HEAD_WIDTH, 0)
    tiny = replace(run.model, n_layer=1)
    out = config.out / "process"
    run = replace(
        run, model=tiny, batch_size=1, max_steps=10, warmup_steps=0, eval_interval=10, out=out
    )  # fmt: skip
    _train(run, say)
    return _peak_memory(run.out)
