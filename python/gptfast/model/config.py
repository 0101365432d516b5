"""What a model is, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gptfast.errors import UserError

Architecture = Literal["bigram", "average", "head", "multihead", "gpt"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. Raises UserError for shapes that can't exist."""

    vocab_size: int
    """Number of token ids; the width of the logits."""
    architecture: Architecture = "gpt"
    """'gpt' is GPT-2's transformer; the others are the rungs that lead to it (model/rungs.py)."""
    block_size: int = 1024
    """Context length: the most tokens that the model sees at once."""
    n_layer: int = 12
    """Number of transformer blocks (architecture 'gpt' only)."""
    n_head: int = 12
    """Attention heads per block; must divide n_embd."""
    n_embd: int = 768
    """Width C of the residual stream."""
    dropout: float = 0.0
    """Probability of zeroing an embedding, an attention weight or a block's output in training."""

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise UserError(
                f"unknown architecture {self.architecture!r}: "
                f"expected one of {', '.join(get_args(Architecture))}"
            )
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd {self.n_embd} can't be divided into n_head {self.n_head} heads: "
                f"choose n_embd as a multiple of n_head"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout}: expected 0 <= dropout < 1")
