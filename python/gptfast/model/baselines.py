"""The rungs of the ladder below the GPT. Each rung adds one idea to the rung before.

bigram      The next token depends on the current token alone: a V x V table.
average     A token sees the plain mean of the embeddings so far: attention with equal weights.
head        One self-attention head computes the weights from the tokens.
multihead   Several heads, a feed-forward layer and positions.

The next rung adds residual connections and pre-norm: it is the GPT (model/transformer.py).
Legend: B batch, T time, C channels (n_embd), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptfast.model.attention import SelfAttention
from gptfast.model.base import LanguageModel
from gptfast.model.config import Architecture, ModelConfig
from gptfast.model.mlp import MLP


class BigramLM(LanguageModel):
    """Predicts from the current token alone: row i of a table has the logits after token i."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        nn.init.zeros_(self.table.weight)  # predictions start uniform, the loss at ln(V)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        # (B, T) -> (B, T, V): a plain lookup, in which a token sees only itself.
        logits_BTV: Tensor = self.table(idx_BT)
        return logits_BTV


class AveragingLM(LanguageModel):
    """Gives every token so far the same weight, so the model sees a bag of characters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        x_BTC, T = self.wte(idx_BT), idx_BT.size(1)
        # Row t of the (T, T) matrix is 1 / (t + 1) for tokens 0..t and 0 for the future, so the
        # product is the mean of the embeddings so far. Attention only changes the weights.
        lower_TT = x_BTC.new_ones(T, T).tril()
        weights_TT = lower_TT / lower_TT.sum(dim=1, keepdim=True)
        logits_BTV: Tensor = self.lm_head(weights_TT @ x_BTC)
        return logits_BTV


class SelfAttentionLM(LanguageModel):
    """Replaces the equal weights by one attention head, without positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.attn = SelfAttention(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        # The same (T, T) weighted mean, but each weight now depends on the two tokens.
        logits_BTV: Tensor = self.lm_head(self.attn(self.wte(idx_BT)))
        return logits_BTV


class MultiHeadLM(LanguageModel):
    """Adds more heads, an MLP after them, and learned positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.attn = SelfAttention(config)
        self.mlp = MLP(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        # Attention sees a set, not a sequence: adding an embedding tells each token its position.
        positions_T = torch.arange(idx_BT.size(1), device=idx_BT.device)
        x_BTC = self.wte(idx_BT) + self.wpe(positions_T)
        # Communicate, then compute: (B, T, C) throughout. Without residual connections each step
        # replaces x.
        logits_BTV: Tensor = self.lm_head(self.mlp(self.attn(x_BTC)))
        return logits_BTV


BASELINES: dict[Architecture, type[LanguageModel]] = {
    "bigram": BigramLM,
    "average": AveragingLM,
    "head": SelfAttentionLM,
    "multihead": MultiHeadLM,
}
