"""N-gram embeddings: a table lookup for the last few tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.documents import tokens_before
from gptfast.model.kv_cache import NewTokens
from gptfast.ops.operator import is_transformed

_MULTIPLIER = 0x9E3779B1  # 2^32 / golden ratio, a prime, whose multiples spread evenly


class NGramEmbedding(nn.Module):
    """Sums the table rows of the n-grams that end at a token, for n from 2 to N.

    The table saves the first layers work: they need not learn that "u" follows "q". A hash chooses
    the row, so n-grams may share a row ("Byte Latent Transformer", Pagnoni et al., 2024, section
    3.2.1; "Over-Tokenized Transformer", Huang et al., 2025).

    Legend: B batch, T time, M = B * T tokens, N max_ngram, C channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.max_ngram, self.n_rows = config.max_ngram, config.ngram_rows
        self.dropout = config.ngram_dropout
        self.no_token = config.vocab_size  # stands for positions before the text
        self.weight = nn.Parameter(torch.empty((self.max_ngram - 1) * self.n_rows, config.n_embd))

    def forward(
        self, ids_BT: Tensor, cache: NewTokens | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Return (B, T, C) for ids (B, T).

        cache: the ids' place in a cache, where those before them are. cu_seqlens: document
        boundaries, as in `ops.attention`; no n-gram crosses a boundary.
        """
        rows = self.rows(ids_BT, cache, cu_seqlens)
        if isinstance(self.weight, nn.Module):  # it holds the table in blocks (model/quantized.py)
            sum_MC = self.weight(rows).sum(1)
        elif is_transformed():  # forward mode AD lacks embedding_bag
            sum_MC = F.embedding(rows, self.weight).sum(1)
        else:
            sum_MC = F.embedding_bag(rows, self.weight, mode="sum")
        sum_BTC = sum_MC.view(*ids_BT.shape, -1)
        if self.training and self.dropout:
            # No scaling: a token keeps all of its n-grams or none, and inference keeps all.
            kept_BT1 = torch.rand_like(sum_BTC[..., :1]) >= self.dropout
            sum_BTC = sum_BTC * kept_BT1
        return sum_BTC

    def rows(self, ids_BT: Tensor, cache: NewTokens | None, cu_seqlens: Tensor | None) -> Tensor:
        """Return the rows to sum for each token, int64 (B * T, N - 1)."""
        n_before = self.max_ngram - 1
        if cache is None:
            padded = F.pad(ids_BT, (n_before, 0), value=self.no_token)
            past_BT = tokens_before(ids_BT, cu_seqlens)
        else:
            padded = torch.cat((cache.ids_before(n_before), ids_BT), dim=1)
            past_BT = cache.position_BT
        hash_BT = ids_BT
        rows = []
        for back in range(1, self.max_ngram):
            token_BT = padded[:, n_before - back : -back].where(past_BT >= back, self.no_token)
            hash_BT = hash_BT * _MULTIPLIER + token_BT + 1
            # The high bits of a product depend on all bits of its factors, the low bits on few.
            row_BT = (hash_BT ^ (hash_BT >> 32)) % self.n_rows
            rows.append(row_BT + (back - 1) * self.n_rows)
        return torch.stack(rows, dim=-1).flatten(0, 1)
