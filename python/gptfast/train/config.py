"""Everything that decides a training run, and the presets that name good choices."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gptfast.errors import UserError
from gptfast.model.config import ModelConfig
from gptfast.train.distributed import Parallel
from gptfast.train.metrics import LogTo
from gptfast.train.schedule import Schedule, lr_factor

PRESETS = Path(__file__).parent / "presets"
"""One JSON file per preset: the fields in which it differs from TrainConfig's defaults."""


_SMALL = ModelConfig(1024, block_size=128, n_layer=4, n_head=4, n_embd=128)


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training run; the same (config, corpus, machine) gives the same losses."""

    preset: str = "shakespeare-cpu"
    """Where the defaults below come from: a file of train/presets/ without its .json."""
    out: Path = Path("runs/shakespeare")
    """The model folder to write."""
    resume: bool = False
    """Go on with the run in `out` (or begin it, if there is none)."""
    overwrite: bool = False
    """Delete the run in `out` and begin anew; wins over --resume."""

    corpus: str = "shakespeare"
    """'shakespeare', 'tinyshakespeare', the path of a text file, a folder or a glob, or a folder
    that `gptfast data prepare` wrote."""
    also: tuple[str, ...] = ()
    """Further corpora to mix with `corpus`, prepared with the same tokenizer as it."""
    weights: tuple[float, ...] = ()
    """The shares of `corpus` and of each of `also` in the tokens trained on, in any unit; unless
    given, they are as their sizes are."""
    mask_documents: bool = False
    """Whether documents that share a window don't see one another; needs an end-of-text token."""
    val_fraction: float = 0.1
    """Share of the corpus, at its end, that is kept for validation; a prepared folder has its
    own."""
    tokenizer: str = "bpe"
    """'bpe' or 'char' (trained on the corpus), or a folder that holds a tokenizer.json."""

    model: ModelConfig = _SMALL
    """The model. Its vocab_size is that of a BPE tokenizer to be trained, else the tokenizer's."""

    max_steps: int = 2000
    """Optimizer steps to take."""
    batch_size: int = 16
    """Windows of block_size tokens per step."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """'muon' trains the matrices of attention and MLP, AdamW the rest; or 'adamw' trains all."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    beta2: float = 0.95
    """AdamW's decay of the mean square of the gradients, per step."""
    momentum: float = 0.95
    """Muon's momentum."""
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
    grad_clip: float = 1.0
    """The gradient's norm is scaled down to this at most."""
    micro_batch_size: int | None = None
    """So many windows go through the model at a time, in each process, and their gradients add up;
    unless given, all of a process's share of the step at once."""
    recompute_blocks: bool = False
    """Activation checkpointing: a block's insides are computed again for the backward pass."""
    spike: float = 1.5
    """A loss so many nats above the mean of the last 50 steps is undone, as is one that is not
    finite: back to the newest checkpoint, and on without that batch."""
    max_rollbacks: int = 3
    """How often that may happen before the run gives up; --resume counts anew."""
    checkpoint_interval: int | None = None
    """Steps between checkpoints, beside those at each look at val; None for these alone."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept, the newest ones; the best weights are kept in any case."""
    compile: bool = False
    """Compile the model with torch.compile: a minute at first, then faster."""

    eval_interval: int = 250
    """Steps between looks at the val loss; each one saves a checkpoint."""
    eval_windows: int = 64
    """Val windows in such a look, spread evenly; the end of a run takes the whole split."""
    seed: int = 1337
    """Decides the weights, the order of the data and dropout."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""
    parallel: Parallel = "ddp"
    """Under torchrun: 'ddp' copies the model to each process, 'fsdp' shards it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the matrix products, Muon's included; weights and the optimizer's state stay
    float32. With 'float16' the loss is scaled, so that small gradients don't vanish."""
    kernels: Literal["auto", "triton", "torch", "reference"] = "auto"
    """Which implementation of gptfast.ops runs: see `gptfast doctor`."""

    sample_interval: int | None = None
    """Steps between samples of what the model writes, 0 for none. Unless given: at every look at
    val on a terminal, whose panel shows the newest; none in a pipe, whose log they would fill."""
    log_to: tuple[LogTo, ...] = ()
    """Where measurements go beside metrics.jsonl: 'tensorboard', 'trackio' or both."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "micro_batch_size", "eval_interval", "eval_windows",
                     "checkpoint_interval", "keep_checkpoints"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        if self.tokenizer == "bpe" and self.model.vocab_size < 257:
            raise UserError(
                f"vocab_size is {self.model.vocab_size}: a byte-level BPE tokenizer needs an id "
                f"for each of the 256 bytes and one for <|endoftext|>, so at least 257"
            )
        for name in ("learning_rate", "matrix_learning_rate", "grad_clip", "spike"):
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
        for name in ("beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 <= {name} < 1")
        self.micro_batches()  # complains if there are none
        for name in ("recompute_blocks", "mask_documents"):
            if getattr(self, name) and self.model.architecture != "gpt":
                raise UserError(
                    f"{name} needs architecture 'gpt': {self.model.architecture!r} can't do it"
                )
        if self.parallel == "fsdp" and self.model.architecture != "gpt":
            raise UserError(
                f"parallel 'fsdp' needs architecture 'gpt': {self.model.architecture!r} has no "
                f"blocks to shard"
            )
        n_corpora = 1 + len(self.also)
        fit = len(self.weights) == n_corpora and all(0 < w < math.inf for w in self.weights)
        if self.weights and not fit:
            raise UserError(
                f"weights are {' '.join(f'{w:g}' for w in self.weights)}: expected one above 0 for "
                f"--corpus and each of --also, {n_corpora} in all"
            )
        if self.seed >= 2**63:
            raise UserError(f"seed is {self.seed}: expected less than 2^63")

    def windows_at_a_time(self, n_processes: int = 1) -> int:
        """How many go through the model in one of the processes at once."""
        share = self.batch_size // n_processes
        return min(self.micro_batch_size or share, share)

    def micro_batches(self, n_processes: int = 1) -> int:
        """How often each of the processes goes through the model in a step.

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

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model's part, for a tokenizer of `vocab_size` ids."""
        return replace(self.model, vocab_size=vocab_size)

    def lr_factor(self, step: int) -> float:
        """What the peak learning rates are multiplied with at `step`; 0 is the first."""
        return lr_factor(
            step,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            max_steps=self.max_steps,
            decay_fraction=self.decay_fraction,
            final=self.final_learning_rate,
        )

    def to_json(self) -> dict[str, Any]:
        """All fields but those that only say what to do with an older run in `out`.

        They are of JSON's types, so that writing and reading leaves them as they are.
        """
        values = asdict(self)
        del values["resume"], values["overwrite"]
        lists = {name: list(v) for name, v in values.items() if isinstance(v, tuple)}
        return values | lists | {"out": str(self.out)}


def load_preset(name: str) -> TrainConfig:
    """The configuration that a preset names. Raises UserError if there is none."""
    path = PRESETS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.json")))
        raise UserError(f"unknown preset {name!r}: expected one of {known}")
    values = json.loads(path.read_text(encoding="utf-8"))
    values["out"] = Path(values.get("out", f"runs/{name}"))
    values["model"] = replace(TrainConfig.model, **values["model"])
    return TrainConfig(preset=name, **values)
