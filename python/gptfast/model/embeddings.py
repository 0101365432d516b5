"""The input of the first block: the sum of token, n-gram and position embeddings.

To add an embedding, write a module with the same forward and add it to `build_embeddings`.
Legend: B batch, T time, C channels (n_embd), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig


def build_embeddings(config: ModelConfig) -> dict[str, nn.Module]:
    """Return the embeddings that a GPT sums, in order, keyed by parameter name.

    Each takes (ids_BT, start, cu_seqlens). ids_BT are the int64 ids of the text so far; the tokens
    from `start` on are new. cu_seqlens are document boundaries, as in `ops.attention`. The result
    is (B, T, C) for the T new tokens, or (T, C) if all rows share it.
    """
    embeddings: dict[str, nn.Module] = {"wte": TokenEmbedding(config)}
    if config.max_ngram > 1:
        from gptfast.model.ngrams import NGramEmbedding

        embeddings["wne"] = NGramEmbedding(config)
    if config.positions == "learned":
        embeddings["wpe"] = PositionEmbedding(config)
    return embeddings


class TokenEmbedding(nn.Embedding):
    """Looks up each token in a (vocab_size, C) table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.vocab_size, config.n_embd)

    def forward(self, ids_BT: Tensor, start: int = 0, cu_seqlens: Tensor | None = None) -> Tensor:
        """Return (B, T, C) for the tokens from `start` on."""
        return super().forward(ids_BT[:, start:])

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden (..., C), with the table as the output matrix."""
        return F.linear(hidden, self.weight)


class PositionEmbedding(nn.Embedding):
    """Looks up each position in a (block_size, C) table. Without it, attention sees a set."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.block_size, config.n_embd)

    def forward(self, ids_BT: Tensor, start: int = 0, cu_seqlens: Tensor | None = None) -> Tensor:
        """Return (T, C) for the positions from `start` on, which all rows share."""
        return super().forward(torch.arange(start, ids_BT.size(1), device=ids_BT.device))
