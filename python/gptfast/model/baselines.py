"""The rungs of the ladder below the GPT, each one idea more than the rung before.

bigram      the next token depends on this token alone: a V x V table.
average     a token sees its past as the plain mean of its embeddings: attention, all weights equal.
head        one self-attention head: the weights are computed from what the tokens are.
multihead   several heads, a feed-forward layer after them, and positions.

The next rung, residual connections with pre-norm, is already the GPT (model/transformer.py).
Legend: B batch, T time, C channels (n_embd), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptfast.model.attention import CausalSelfAttention
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.mlp import MLP


class BigramLM(LanguageModel):
    """Row i of the table holds the logits of what follows token i."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        nn.init.zeros_(self.table.weight)  # uniform predictions: the loss starts at ln(V)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        # (B, T) -> (B, T, V): nothing but a look-up; a token sees itself and no other.
        logits_BTV: Tensor = self.table(idx_BT)
        return logits_BTV


class AveragingLM(LanguageModel):
    """Every token so far has the same weight, so the model sees a bag of characters."""

    weights_TT: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)
        lower_TT = torch.tril(torch.ones(config.block_size, config.block_size))
        weights_TT = lower_TT / lower_TT.sum(dim=1, keepdim=True)
        self.register_buffer("weights_TT", weights_TT, persistent=False)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        T = idx_BT.size(1)
        # Row t of the (T, T) matrix has 1 / (t + 1) for the tokens 0..t and 0 for the future, so
        # the product is the mean of the embeddings so far. Attention differs only in the weights.
        mean_BTC = self.weights_TT[:T, :T] @ self.wte(idx_BT)
        logits_BTV: Tensor = self.lm_head(mean_BTC)
        return logits_BTV


class SelfAttentionLM(LanguageModel):
    """The averaging model with learned weights: one head, no positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        # The same (T, T) weighted mean, but each weight now depends on what the two tokens are.
        logits_BTV: Tensor = self.lm_head(self.attn(self.wte(idx_BT)))
        return logits_BTV


class MultiHeadLM(LanguageModel):
    """Several heads attend to different things, an MLP follows, and tokens know their place."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.mlp = MLP(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        # Attention sees a set, not a sequence: each token is told its place by a sum, (B, T, C).
        positions_T = torch.arange(idx_BT.size(1), device=idx_BT.device)
        x_BTC = self.wte(idx_BT) + self.wpe(positions_T)
        # Communicate, then compute. Without residual connections each step replaces x.
        logits_BTV: Tensor = self.lm_head(self.mlp(self.attn(x_BTC)))
        return logits_BTV
