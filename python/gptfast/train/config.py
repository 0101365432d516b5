"""Everything that decides a training run, and the presets that name good choices.

The settings stand in groups, as `--help` shows them. `RunConfig` has those of any run, whatever it
trains; `TrainConfig` adds the corpora and the model of pre-training.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gptfast.errors import UserError
from gptfast.model.config import ModelConfig
from gptfast.train.schedule import Schedule, lr_factor

PRESETS = Path(__file__).parent / "presets"
"""One JSON file per preset: the fields in which it differs from TrainConfig's defaults."""

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
Parallel: TypeAlias = Literal["ddp", "fsdp"]
LogTo: TypeAlias = Literal["tensorboard", "trackio"]


@dataclass(frozen=True)
class RunOptions:
    """Where the run goes, and what it computes on."""

    preset: str = "shakespeare-cpu"
    """Where the defaults come from: a file of train/presets/ without its .json."""
    out: Path = Path("runs/shakespeare")
    """The model folder to write."""
    resume: bool = False
    """Continue the run in `out`, or start it if there is none."""
    overwrite: bool = False
    """Delete the run in `out` and start anew; wins over --resume."""
    init_from: Path | None = None
    """A model folder whose weights, configuration and tokenizer to start from."""
    seed: int = 1337
    """Decides the weights, the order of the data and dropout."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the matrix products, Muon's included; weights and the optimizer's state stay
    float32. 'auto' is bfloat16 where the device multiplies it faster than float32. 'float16' scales
    the loss, so that small gradients don't vanish."""
    kernels: Literal["auto", "triton", "torch", "reference"] = "auto"
    """Which implementation of gptfast.ops runs: see `gptfast doctor`."""
    compile: bool = False
    """Compile the model with torch.compile: the first step takes a minute, the others less."""
    parallel: Parallel = "ddp"
    """Under torchrun: 'ddp' copies the model to each process, 'fsdp' shards it."""


@dataclass(frozen=True)
class DataOptions:
    """What to train on."""

    corpus: str = "shakespeare"
    """'shakespeare', 'tinyshakespeare', the path of a text file, a folder or a glob, or a folder
    that `gptfast data prepare` wrote."""
    mix_corpora: tuple[str, ...] = ()
    """Further corpora to mix with `corpus`, prepared with the same tokenizer."""
    corpus_weights: tuple[float, ...] = ()
    """The share of `corpus` and of each of `mix_corpora` in the tokens trained on, in any unit. By
    default each corpus counts by its size."""
    mask_documents: bool = False
    """Keep documents that share a window from seeing one another; needs an end-of-text token."""
    val_fraction: float = 0.1
    """Share of the corpus, at its end, that is kept for validation; a prepared folder has its
    own."""
    tokenizer: str = "bpe"
    """'bpe' or 'char' (trained on the corpus), or a folder that holds a tokenizer.json."""


@dataclass(frozen=True)
class OptimizerOptions:
    """How long to train, and how the weights change."""

    max_steps: int = 2000
    """Optimizer steps to take."""
    batch_size: int = 16
    """Windows of block_size tokens per step."""
    micro_batch_size: int | None = None
    """How many windows go through the model at a time, in each process; their gradients add up. By
    default all of a process's share of the step."""
    activation_checkpointing: bool = False
    """Compute a block's activations again in the backward pass instead of keeping them: less
    memory, a third more work."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """'muon' trains the matrices of attention and MLP, AdamW the rest; or 'adamw' trains all."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    schedule: Schedule = "linear"
    """After the warm-up: 'linear' or 'cosine' decay, or 'wsd', constant with a linear decay."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.4
    """Share of the steps, at the end, in which 'wsd' decays."""
    final_learning_rate: float = 0.0
    """What the learning rates decay to, as a share of their peaks."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices and embeddings; gains and biases have none."""
    beta2: float = 0.95
    """AdamW's decay of the mean square of the gradients, per step."""
    muon_momentum: float = 0.95
    """Muon's momentum."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""


@dataclass(frozen=True)
class EvaluationOptions:
    """When to evaluate and save, and what happens if a step goes wrong."""

    eval_interval: int = 250
    """Steps between evaluations; each one saves a checkpoint."""
    eval_windows: int = 64
    """Val windows per evaluation, spread evenly; the end of a run takes the whole split."""
    checkpoint_interval: int | None = None
    """Steps between checkpoints, beside those at each evaluation. By default these alone."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep; the best weights are kept in any case."""
    max_loss_spike: float = 1.5
    """A step whose loss is more than this many nats above the mean of the last 50 steps is undone,
    as is one that is not finite: the run goes back to the newest checkpoint and skips the batch."""
    max_rollbacks: int = 3
    """How many batches may be skipped so before the run gives up; --resume starts a new count."""


@dataclass(frozen=True)
class DisplayOptions:
    """What the run shows."""

    sample_interval: int | None = None
    """Steps between samples of what the model writes, 0 for none. By default one at every
    evaluation on a terminal, and none in a pipe."""
    log_to: tuple[LogTo, ...] = ()
    """Where measurements go beside metrics.jsonl: 'tensorboard', 'trackio' or both."""


@dataclass(frozen=True)
class RunConfig(DisplayOptions, EvaluationOptions, OptimizerOptions, RunOptions):
    """What any run needs, whatever it trains. Raises UserError for impossible values."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "micro_batch_size", "eval_interval", "eval_windows",
                     "checkpoint_interval", "keep_checkpoints"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        for name in ("learning_rate", "matrix_learning_rate", "grad_clip", "max_loss_spike"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: expected more than 0")
        for name in ("warmup_steps", "weight_decay", "seed", "max_rollbacks"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 or more")
        if self.sample_interval is not None and self.sample_interval < 0:
            raise UserError(f"sample_interval is {self.sample_interval}: expected 0 or more")
        for name in ("decay_fraction", "final_learning_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected from 0 to 1")
        for name in ("beta2", "muon_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 <= {name} < 1")
        if self.seed >= 2**63:
            raise UserError(f"seed is {self.seed}: expected less than 2^63")
        self.micro_batches()  # raises if the batch can't be divided

    def windows_at_a_time(self, n_processes: int = 1) -> int:
        """Return how many windows go through the model in one of the processes at once."""
        share = self.batch_size // n_processes
        return min(self.micro_batch_size or share, share)

    def micro_batches(self, n_processes: int = 1) -> int:
        """Return how often each of the processes goes through the model in a step.

        Raises UserError for a batch that can't be divided evenly.
        """
        if self.batch_size % n_processes:
            raise UserError(
                f"batch_size {self.batch_size} can't be divided among {n_processes} processes: "
                f"choose a multiple"
            )
        share, at_a_time = self.batch_size // n_processes, self.windows_at_a_time(n_processes)
        if share % at_a_time:
            raise UserError(
                f"a process's {share} windows of a step can't be divided into micro-batches of "
                f"{at_a_time}: choose a divisor of {share} as micro_batch_size"
            )
        return share // at_a_time

    def lr_factor(self, step: int) -> float:
        """Return what the peak learning rates are multiplied with at `step`; 0 is the first."""
        return lr_factor(
            step,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            max_steps=self.max_steps,
            decay_fraction=self.decay_fraction,
            final=self.final_learning_rate,
        )

    @property
    def resolved_dtype(self) -> Dtype:
        """Return the dtype, once `run` has replaced 'auto' by what it stands for here."""
        assert self.dtype != "auto"
        return self.dtype

    def to_json(self) -> dict[str, Any]:
        """Return all fields but those that only say what to do with an older run in `out`.

        They are of JSON's types, so that writing and reading leaves them as they are.
        """
        values = asdict(self)
        del values["resume"], values["overwrite"]
        return {name: _plain(value) for name, value in values.items()}


_SMALL = ModelConfig(1024, block_size=128, n_layer=4, n_head=4, n_embd=128)


@dataclass(frozen=True)
class TrainConfig(RunConfig, DataOptions):
    """Configuration of pre-training; the same (config, corpus, machine) gives the same losses."""

    model: ModelConfig = _SMALL
    """The model. Its vocab_size is that of a BPE tokenizer to be trained, else the tokenizer's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer == "bpe" and self.model.vocab_size < 257:
            raise UserError(
                f"vocab_size is {self.model.vocab_size}: a byte-level BPE tokenizer needs an id "
                f"for each of the 256 bytes and one for <|endoftext|>, so at least 257"
            )
        for name in ("activation_checkpointing", "mask_documents"):
            if getattr(self, name) and self.model.architecture != "gpt":
                raise UserError(
                    f"{name} needs architecture 'gpt': {self.model.architecture!r} can't do it"
                )
        if self.parallel == "fsdp" and self.model.architecture != "gpt":
            raise UserError(
                f"parallel 'fsdp' needs architecture 'gpt': {self.model.architecture!r} has no "
                f"blocks to shard"
            )
        weights, n_corpora = self.corpus_weights, 1 + len(self.mix_corpora)
        fit = len(weights) == n_corpora and all(0 < w < math.inf for w in weights)
        if weights and not fit:
            raise UserError(
                f"corpus_weights are {' '.join(f'{w:g}' for w in weights)}: expected one above 0 "
                f"for --corpus and each of --mix-corpora, {n_corpora} in all"
            )

    def model_config(self, vocab_size: int) -> ModelConfig:
        """Return the model's part, for a tokenizer of `vocab_size` ids.

        With init_from the folder's vocabulary stays: it may have more rows than the tokenizer ids.
        """
        return self.model if self.init_from else replace(self.model, vocab_size=vocab_size)


GROUPS: dict[str, type] = {
    "run": RunOptions,
    "data": DataOptions,
    "model": ModelConfig,
    "optimizer": OptimizerOptions,
    "evaluation": EvaluationOptions,
    "display": DisplayOptions,
}
"""The groups of `gptfast train --help`, in the order in which a person needs them."""


def load_preset(name: str) -> TrainConfig:
    """Load the configuration that a preset names. Raises UserError if there is none."""
    path = PRESETS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.json")))
        raise UserError(f"unknown preset {name!r}: expected one of {known}")
    values = json.loads(path.read_text(encoding="utf-8"))
    values["out"] = Path(values.get("out", f"runs/{name}"))
    values["model"] = replace(TrainConfig.model, **values["model"])
    return TrainConfig(preset=name, **values)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
