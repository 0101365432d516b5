"""What the last few tokens spell, looked up in a table: n-gram embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig

_MULTIPLIER = 0x9E3779B1  # 2^32 / golden ratio, a prime: multiples of it are spread evenly


class NGramEmbedding(nn.Module):
    """A row of a table for each n-gram that ends at a token, n from 2 to N, summed.

    The model looks up what its first layers would otherwise have to compute: that "q" is followed
    by "u". A hash chooses the row, so n-grams may share one ("Byte Latent Transformer",
    Pagnoni et al., 2024, section 3.2.1; "Over-Tokenized Transformer", Huang et al., 2025).

    Legend: B batch, T time, N max_ngram, C channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.max_ngram, self.n_rows = config.max_ngram, config.ngram_rows
        self.dropout = config.ngram_dropout
        self.no_token = config.vocab_size  # where an n-gram begins before its text does
        self.weight = nn.Parameter(torch.empty((self.max_ngram - 1) * self.n_rows, config.n_embd))

    def forward(self, ids_BT: Tensor, start: int = 0, cu_seqlens: Tensor | None = None) -> Tensor:
        """Return (B, T, C) for the T tokens from `start` on; the int64 ids before are their past.

        cu_seqlens: borders of documents, as `ops.attention` takes them. No n-gram crosses one.
        """
        n_new = ids_BT.size(1) - start
        rows = self.rows(ids_BT, n_new, cu_seqlens)
        sum_BTC = F.embedding_bag(rows, self.weight, mode="sum").view(len(ids_BT), n_new, -1)
        if self.training and self.dropout:
            # What stays is not scaled up: it is all of a token's n-grams, as after training.
            kept_BT1 = torch.rand_like(sum_BTC[..., :1]) >= self.dropout
            sum_BTC = sum_BTC * kept_BT1
        return sum_BTC

    def rows(self, ids_BT: Tensor, n_new: int, cu_seqlens: Tensor | None) -> Tensor:
        """Return the rows to sum for each token: int64 (B * n_new, N - 1)."""
        n_before = self.max_ngram - 1
        padded = F.pad(ids_BT, (n_before, 0), value=self.no_token)
        past_BT = _tokens_before(ids_BT, cu_seqlens)[:, -n_new:]
        hash_BT = ids_BT[:, -n_new:]
        rows = []
        for back in range(1, self.max_ngram):
            end = padded.size(1) - back
            token_BT = padded[:, end - n_new : end].where(past_BT >= back, self.no_token)
            hash_BT = hash_BT * _MULTIPLIER + token_BT + 1
            # A product's high bits depend on all bits of its factors, the low ones on few.
            row_BT = (hash_BT ^ (hash_BT >> 32)) % self.n_rows
            rows.append(row_BT + (back - 1) * self.n_rows)
        return torch.stack(rows, dim=-1).flatten(0, 1)


def _tokens_before(ids_BT: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Return how many tokens of its document precede each token in its row: int64, (1 or B, T)."""
    B, T = ids_BT.shape
    column_T = torch.arange(T, device=ids_BT.device)
    if cu_seqlens is None:
        return column_T[None]
    place_BT = torch.arange(B * T, device=ids_BT.device).view(B, T)
    begin_BT = cu_seqlens[torch.searchsorted(cu_seqlens, place_BT, right=True) - 1]
    return (place_BT - begin_BT).minimum(column_T)
