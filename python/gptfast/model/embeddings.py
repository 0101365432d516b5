"""What a token starts as: the sum of an embedding of itself, of its n-grams, of its position.

To add an embedding, write a module with the same forward, and name it in `build_embeddings`.
Legend: B batch, T time, C channels (n_embd).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptfast.model.config import ModelConfig
from gptfast.model.ngrams import NGramEmbedding


def build_embeddings(config: ModelConfig) -> dict[str, nn.Module]:
    """Return the embeddings that a GPT adds up, in order, by the names of their parameters.

    Each takes (ids_BT, start, cu_seqlens): the int64 ids of the text so far, of which the tokens
    from `start` on are new, and borders of documents as `ops.attention` takes them. It returns
    (B, T, C), or (T, C) if it is the same for every row, for the T new tokens.
    """
    embeddings: dict[str, nn.Module] = {"wte": TokenEmbedding(config)}
    if config.max_ngram > 1:
        embeddings["wne"] = NGramEmbedding(config)
    if config.positions == "learned":
        embeddings["wpe"] = PositionEmbedding(config)
    return embeddings


class TokenEmbedding(nn.Embedding):
    """A row of a (vocab_size, C) table for each token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.vocab_size, config.n_embd)

    def forward(self, ids_BT: Tensor, start: int = 0, cu_seqlens: Tensor | None = None) -> Tensor:
        """Return (B, T, C) for the tokens from `start` on."""
        return super().forward(ids_BT[:, start:])


class PositionEmbedding(nn.Embedding):
    """A row of a (block_size, C) table for each position: without it, attention sees a set."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.block_size, config.n_embd)

    def forward(self, ids_BT: Tensor, start: int = 0, cu_seqlens: Tensor | None = None) -> Tensor:
        """Return (T, C) for the positions from `start` on, the same for every row."""
        return super().forward(torch.arange(start, ids_BT.size(1), device=ids_BT.device))
