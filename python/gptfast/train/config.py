"""Everything that decides a training run, and the presets that name good choices."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from gptfast.errors import UserError
from gptfast.model.config import Architecture, ModelConfig

PRESETS = Path(__file__).parent / "presets"
"""One JSON file per preset: the fields in which it differs from TrainConfig's defaults."""


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
    """'shakespeare', 'tinyshakespeare', or the path of a text file, a folder or a glob."""
    val_fraction: float = 0.1
    """Share of the corpus, at its end, that is kept for validation."""
    tokenizer: str = "bpe"
    """'bpe' or 'char' (trained on the corpus), or a folder that holds a tokenizer.json."""
    vocab_size: int = 1024
    """Number of ids of a trained BPE tokenizer."""

    architecture: Architecture = "gpt"
    """'gpt' is GPT-2's transformer; the others are the rungs that lead to it."""
    block_size: int = 128
    """Context length in tokens."""
    n_layer: int = 4
    """Number of transformer blocks."""
    n_head: int = 4
    """Attention heads per block; must divide n_embd."""
    n_embd: int = 128
    """Width of the residual stream."""
    dropout: float = 0.0
    """Probability of zeroing an embedding, an attention weight or a block's output in training."""

    max_steps: int = 2000
    """Optimizer steps to take."""
    batch_size: int = 16
    """Windows of block_size tokens per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """Peak learning rate of Muon, which trains the matrices of attention and MLP."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices and embeddings; gains and biases have none."""
    grad_clip: float = 1.0
    """The gradient's norm is scaled down to this at most."""

    eval_interval: int = 250
    """Steps between looks at the val loss; each one saves a checkpoint."""
    eval_windows: int = 64
    """Val windows in such a look, spread evenly; the end of a run takes the whole split."""
    seed: int = 1337
    """Decides the weights, the order of the data and dropout."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products; weights and optimizer stay float32."""
    kernels: Literal["auto", "triton", "torch", "reference"] = "auto"
    """Which attention and layer norm run: see `gptfast doctor`."""

    def __post_init__(self) -> None:
        at_least_one = ("max_steps", "batch_size", "eval_interval", "eval_windows", "block_size")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.tokenizer == "bpe" and self.vocab_size < 257:
            raise UserError(
                f"vocab_size is {self.vocab_size}: a byte-level BPE tokenizer needs an id for each "
                f"of the 256 bytes and one for <|endoftext|>, so at least 257"
            )
        for name in ("learning_rate", "matrix_learning_rate", "grad_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: expected more than 0")
        for name in ("warmup_steps", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 or more")
        if self.seed >= 2**63:
            raise UserError(f"seed is {self.seed}: expected less than 2^63")

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model's part, for a tokenizer of `vocab_size` ids. Raises UserError."""
        return ModelConfig(
            vocab_size, self.architecture, self.block_size,
            self.n_layer, self.n_head, self.n_embd, self.dropout,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """All fields but those that only say what to do with an older run in `out`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["resume"], values["overwrite"]
        return values | {"out": str(self.out)}


def load_preset(name: str) -> TrainConfig:
    """The configuration that a preset names. Raises UserError if there is none."""
    path = PRESETS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.json")))
        raise UserError(f"unknown preset {name!r}: expected one of {known}")
    values = json.loads(path.read_text(encoding="utf-8"))
    values["out"] = Path(values.get("out", f"runs/{name}"))
    return replace(TrainConfig(preset=name), **values)
