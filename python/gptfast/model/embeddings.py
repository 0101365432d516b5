"""The input of the first block: the sum of token, n-gram and position embeddings.

To add an embedding, write a module with the same forward and add it to `build_embeddings`.
Legend: B batch, T time, C channels (n_embd), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.documents import tokens_before
from gptfast.model.kv_cache import NewTokens


def build_embeddings(config: ModelConfig) -> dict[str, nn.Module]:
    """Return the embeddings that a GPT sums, in order, keyed by parameter name.

    Each takes (ids_BT, cache, cu_seqlens). ids_BT are int64 ids. cache is their place in a cache,
    or None if they begin the texts. cu_seqlens are document boundaries, as in `ops.attention`:
    a token gets the same embedding in a document among others as in one that is alone. The result
    is (B, T, C), or (T, C) if all rows share it.
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

    def forward(
        self, ids_BT: Tensor, cache: NewTokens | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Return (B, T, C)."""
        return super().forward(ids_BT)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden (..., C), with the table as the output matrix."""
        return F.linear(hidden, self.weight)


class PositionEmbedding(nn.Embedding):
    """Looks up each position in a (block_size, C) table. Without it, attention sees a set."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.block_size, config.n_embd)

    def forward(
        self, ids_BT: Tensor, cache: NewTokens | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Return (T, C), which all rows share, or (B, T, C) for documents or tokens of a cache.

        Positions count from 0 in each document, so that it sees the same as it does alone.
        """
        if cache is not None:
            return super().forward(cache.position_BT)
        if cu_seqlens is not None:
            return super().forward(tokens_before(ids_BT, cu_seqlens))
        return super().forward(torch.arange(ids_BT.size(1), device=ids_BT.device))
