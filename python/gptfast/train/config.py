"""The settings of a training run, and the presets that name good choices.

The settings are in groups, which `--help` shows. `RunConfig` has the settings of every kind of run;
`TrainConfig` adds the corpora and the model of pre-training.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from gptfast.cli.path import PATH
from gptfast.data.documents.options import TextOptions
from gptfast.errors import UserError
from gptfast.model.config import ModelConfig
from gptfast.train.schedule import Schedule, lr_factor

PRESETS = Path(__file__).parent / "presets"
"""Folder with a JSON file per preset, which has the fields that differ from the defaults."""

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
Parallel: TypeAlias = Literal["ddp", "fsdp"]
LogTo: TypeAlias = Literal["tensorboard", "trackio"]


@dataclass(frozen=True)
class PresetOptions:
    """A preset."""

    preset: str = "shakespeare-cpu"
    """Preset that sets the defaults: the name of a file in train/presets/, without .json. Those
    that begin with vit- train on images, and have their own --help."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the run is stored, and how it is computed."""

    out: Path
    """Model folder to write."""
    resume: bool = False
    """Continue the run in `out`, or start a new run if there is none."""
    overwrite: bool = False
    """Delete the run in `out` and start again. Takes precedence over --resume."""
    seed: int = 1337
    """Seed of the initial weights, the order of the data and dropout."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the matrix products, including Muon's. Weights and optimizer state stay float32.
    'auto' is bfloat16 if the device multiplies it faster than float32. 'float16' scales the loss,
    so that small gradients don't underflow."""
    kernels: Literal["auto", "triton", "torch", "reference"] = "auto"
    """Backend of gptfast.ops, see `gptfast doctor`."""
    compile: bool = False
    """Compile the model with torch.compile: the first step takes a minute, the others less."""
    parallel: Parallel = "ddp"
    """Under torchrun, 'ddp' copies the model to each process and 'fsdp' shards it."""


@dataclass(frozen=True)
class DataOptions(TextOptions):
    """The data to train on."""

    corpus: Annotated[str, PATH] = "shakespeare"
    """'shakespeare', 'tinyshakespeare', a file, a folder or a glob as for `gptfast data prepare`, -
    for standard input, or a folder that `gptfast data prepare` made."""
    mix_corpora: Annotated[tuple[str, ...], PATH] = ()
    """Further corpora to mix with `corpus`, prepared with the same tokenizer."""
    corpus_weights: tuple[float, ...] = ()
    """Weights of `corpus` and of each of `mix_corpora` in the tokens trained on, in any unit. By
    default, each corpus is weighted by its size."""
    mask_documents: bool = False
    """Prevent documents in the same window from seeing each other. Needs an end-of-text token."""
    val_fraction: float = 0.1
    """Share at the end of the corpus to validate on. A prepared folder has its own split."""
    init_from: Path | None = None
    """A model folder to start from: its weights, configuration and tokenizer. Give lower learning
    rates than for training from scratch."""
    tokenizer: Annotated[str, PATH] = "bpe"
    """'bpe' or 'char' (trained on the corpus), or a folder with a tokenizer.json."""
    pad_to: int = 1
    """Round the vocabulary of the model up to a multiple of this, such as 64, which makes products
    with it faster. The tokenizer stays. The further rows stand for no token: none is sampled."""


@dataclass(frozen=True)
class OptimizerOptions:
    """The length of the training and the updates of the weights."""

    max_steps: int = 2000
    """Number of optimizer steps."""
    batch_size: int = 16
    """Windows of block_size tokens per step."""
    micro_batch_size: int | None = None
    """Windows per forward pass in each process; gradients accumulate over the forward passes. By
    default, a process's whole share of the step."""
    activation_checkpointing: bool = False
    """Recompute a block's activations in the backward pass instead of keeping them: less memory for
    a third more work."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """'muon' trains the matrices of attention and MLP with Muon and the rest with AdamW; 'adamw'
    trains all parameters with AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    schedule: Schedule = "linear"
    """Schedule after the warm-up: 'linear' or 'cosine' decay, or 'wsd', which is constant and then
    decays linearly."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.4
    """Share of the steps in which 'wsd' decays, at the end."""
    final_learning_rate: float = 0.0
    """Learning rates at the end, as a share of their peaks."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices and embeddings, but not of gains and biases."""
    beta2: float = 0.95
    """AdamW's decay rate of the mean squared gradients, per step."""
    muon_momentum: float = 0.95
    """Momentum of Muon."""
    grad_clip: float = 1.0
    """Maximum norm of the gradient. A larger gradient is scaled down to it."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of parameters that are not trained, such as 'wte.weight' or 'h.0.*'."""


@dataclass(frozen=True)
class EvaluationOptions:
    """When to evaluate and to save, and what to do after a failed step."""

    eval_interval: int = 250
    """Steps between evaluations. Each evaluation saves a checkpoint."""
    eval_windows: int = 64
    """Val windows per evaluation, spread evenly. The final evaluation uses the whole split."""
    checkpoint_interval: int | None = None
    """Steps between additional checkpoints. By default, only evaluations save checkpoints."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep. The best weights are always kept."""
    max_loss_spike: float = 1.5
    """Maximum loss of a step in nats above the mean of the last 50 steps. If a loss is higher or
    not finite, the run returns to the newest checkpoint and skips the batch."""
    max_rollbacks: int = 3
    """Maximum number of skipped batches before the run gives up. --resume starts a new count."""


@dataclass(frozen=True)
class DisplayOptions:
    """What the run displays and logs."""

    sample_interval: int | None = None
    """Steps between text samples of the model, 0 for none. By default, samples are written at every
    evaluation, and after 10% and half of the steps. metrics.jsonl holds them. A pipe shows them
    only if this is given."""
    log_to: tuple[LogTo, ...] = ()
    """Where to log metrics besides metrics.jsonl: 'tensorboard', 'trackio' or both."""


@dataclass(frozen=True)
class RunConfig(DisplayOptions, EvaluationOptions, OptimizerOptions, RunOptions):
    """The settings of every kind of run. Raises UserError for impossible values."""

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
        self.micro_batches()  # raises if the batch can't be divided evenly

    def windows_at_a_time(self, n_processes: int = 1) -> int:
        """Return the number of windows per forward pass in each process."""
        share = self.batch_size // n_processes
        return min(self.micro_batch_size or share, share)

    def micro_batches(self, n_processes: int = 1) -> int:
        """Return the number of forward passes of each process in a step.

        Raises UserError if the batch can't be divided evenly.
        """
        if self.batch_size % n_processes:
            raise UserError(
                f"batch_size {self.batch_size} can't be divided among {n_processes} processes: "
                f"choose a multiple of {n_processes}"
            )
        share, at_a_time = self.batch_size // n_processes, self.windows_at_a_time(n_processes)
        if share % at_a_time:
            raise UserError(
                f"micro_batch_size is {at_a_time}, but each process has {share} windows per step: "
                f"choose a divisor of {share} as micro_batch_size"
            )
        return share // at_a_time

    def lr_factor(self, step: int) -> float:
        """Return the factor of the peak learning rates at `step`, counted from 0."""
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
        """The dtype, after `run` has replaced 'auto' by the dtype that it resolves to."""
        assert self.dtype != "auto"
        return self.dtype

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON types, except `resume` and `overwrite`.

        Writing and reading the result as JSON doesn't change it.
        """
        values = asdict(self)
        del values["resume"], values["overwrite"]
        return {name: _plain(value) for name, value in values.items()}


_SMALL = ModelConfig(1024, block_size=128, n_layer=4, n_head=4, n_embd=128)


@dataclass(frozen=True)
class TrainConfig(RunConfig, DataOptions, PresetOptions):
    """The settings of pre-training. Equal (config, corpus, machine) give equal losses."""

    out: Path = Path("runs/shakespeare")
    model: ModelConfig = _SMALL
    """The model. Its vocab_size sets the size of a new BPE tokenizer. Other tokenizers have their
    own size, which replaces it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        DataOptions.__post_init__(self)
        if self.tokenizer == "bpe" and self.model.vocab_size < 257:
            raise UserError(
                f"vocab_size is {self.model.vocab_size}: a byte-level BPE tokenizer needs at least "
                f"257, an id for each of the 256 bytes and one for <|endoftext|>"
            )
        if self.pad_to < 1:
            raise UserError(f"pad_to is {self.pad_to}: expected at least 1")
        if self.pad_to > 1 and self.init_from is not None:
            raise UserError(
                f"pad_to is {self.pad_to}, but the model in {self.init_from} keeps its rows: leave "
                f"--pad-to out"
            )
        for name in ("activation_checkpointing", "mask_documents"):
            if getattr(self, name) and self.model.architecture != "gpt":
                raise UserError(
                    f"{name} needs architecture 'gpt': {self.model.architecture!r} does not "
                    f"support it"
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
        """Return the model's configuration for a tokenizer of `vocab_size` ids.

        The model may have more rows than the tokenizer has ids: a multiple of pad_to, or with
        init_from, those of the folder's model.
        """
        if self.init_from:
            return self.model
        rows = -(-vocab_size // self.pad_to) * self.pad_to
        return replace(self.model, vocab_size=rows)


GROUPS: dict[str, type] = {
    "preset": PresetOptions,
    "run": RunOptions,
    "data": DataOptions,
    "model": ModelConfig,
    "optimizer": OptimizerOptions,
    "evaluation": EvaluationOptions,
    "display": DisplayOptions,
}
"""The groups of `gptfast train --help`, in the order of a user's needs."""


def load_preset(name: str) -> TrainConfig:
    """Load the configuration of a preset. Raises UserError for an unknown name."""
    known = sorted(file.stem for file in PRESETS.glob("*.json"))
    of_images = sorted(file.stem for file in PRESETS.glob("images/*.json"))
    if name in of_images:
        raise UserError(
            f"the preset {name} is for images, and only `gptfast train` takes it: expected one of "
            f"{', '.join(known)}"
        )
    if name not in known:
        raise UserError(
            f"unknown preset {name!r}: expected one of {', '.join(known)}, or, for `gptfast train` "
            f"on images, {', '.join(of_images)}"
        )
    values = json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    values["out"] = Path(values.get("out", f"runs/{name}"))
    values["model"] = replace(TrainConfig.model, **values["model"])
    return TrainConfig(preset=name, **values)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    return str(value) if isinstance(value, Path) else value
